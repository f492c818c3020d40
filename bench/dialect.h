/* The eight wire dialects the load generator speaks, free of sockets and clocks.
 *
 * A dialect turns frames into bytes and bytes into items. The same frames, sizes and
 * windows go to every system; only what stands around the payload differs.
 */
#ifndef BENCH_DIALECT_H
#define BENCH_DIALECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PREFIX_MAX = 128, HELLO_MAX = 512, INIT_MAX = 256 };
enum { TIM_FLAG_INIT = 0x01, TIM_FLAG_KEY = 0x02, TIM_FLAG_END = 0x04 };

enum item_kind {
    ITEM_MORE,   /* incomplete: come back with more bytes */
    ITEM_SKIP,   /* understood, and of no interest here */
    ITEM_READY,  /* subscribed, or allowed to publish (tim: source, limit) */
    ITEM_ROOM,   /* tim: the room was registered (room) */
    ITEM_INIT,   /* tim: a frame with the INIT flag */
    ITEM_FRAME,  /* a delivery */
    ITEM_GAP,    /* tim: sequence numbers first..last will not come */
    ITEM_CREDIT, /* tim: the publisher may go up to limit */
    ITEM_ACK,    /* redis: the answer to PUBLISH (first = receivers) */
    ITEM_PING,   /* must be answered by pong() */
    ITEM_CLOSE,  /* tim: the server says goodbye (code) */
    ITEM_BAD,    /* not this protocol, or an error from the server (why, code) */
};

struct item {
    enum item_kind kind;
    size_t bytes; /* what the item takes up */
    const uint8_t *payload;
    size_t payload_bytes;
    uint64_t first, last, limit, room;
    uint32_t source;
    uint16_t code;
    uint8_t flags;
    const char *why;
};

/* What one room's stream looks like on the wire. */
struct stream {
    unsigned number;
    size_t payload_bytes;
    uint64_t room;   /* tim */
    uint32_t source; /* tim */
    bool reliable;   /* tim */
    unsigned gather_ms;
    uint64_t subscriber_credit;
};

struct dialect {
    const char *name;
    size_t suffix_bytes; /* "\r\n" behind the payload, where there is one */
    /* The first bytes of a connection. `id` tells connections apart. */
    size_t (*hello)(uint8_t *out, const struct stream *stream, bool publisher, unsigned id);
    /* And a second message, where one WebSocket message may hold one request; else NULL. What
     * arrives is then one item in a message as well, and is decoded when it is whole. */
    size_t (*second)(uint8_t *out, const struct stream *stream);
    /* What stands before each payload; the same for each frame but for stamp(). */
    size_t (*prefix)(uint8_t *out, const struct stream *stream);
    /* Fill in the frame's number, time and flags; NULL where the prefix is constant. */
    void (*stamp)(uint8_t *prefix, uint64_t seq, int64_t timestamp_us, uint8_t flags);
    void (*decode)(const uint8_t *in, size_t size, bool ready, const struct stream *stream,
                   struct item *item);
    /* Answer a ping whose bytes are at `in`. */
    size_t (*pong)(uint8_t *out, const uint8_t *in, size_t size);
};

const struct dialect *dialect_by_name(const char *name);

/* tim only: the requests the load generator sends after the first bytes. */
size_t tim_publish(uint8_t *out, uint64_t room, uint64_t token);
size_t tim_init_frame(uint8_t *out, const struct stream *stream);
size_t tim_credit(uint8_t *out, uint64_t room, uint32_t source, uint64_t limit);
size_t tim_remove_room(uint8_t *out, uint64_t room);

#endif
