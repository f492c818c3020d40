/* Connections and rooms: opening them, publishing, and checking every delivery. */
#ifndef BENCH_TRAFFIC_H
#define BENCH_TRAFFIC_H

#include "dialect.h"
#include "histogram.h"
#include "options.h"

enum role { PUBLISHER, SUBSCRIBER, STALLED, JOINER };

struct conn {
    int fd; /* -1: not open */
    enum role role;
    unsigned id;
    unsigned node; /* which of options.ports it is at */
    struct room *room;
    bool connected, ready, init_seen, joined, parked;
    bool is_websocket, shaken; /* shaken: the server has accepted the handshake */
    uint64_t message_left;     /* WebSocket: bytes of the message that has begun */
    uint64_t next; /* the frame it expects */
    uint8_t *partial;
    size_t partial_bytes, partial_size;
    uint64_t opened_ns;
    uint64_t consumed, granted; /* reliable rooms: bytes of whole frames */
    /* What a stalled one found when it read again. */
    uint64_t frames, gap_frames, bytes;
    uint16_t close_code;
    const char *ended;
};

struct room {
    struct stream stream;
    struct conn *publisher;
    struct conn *subscribers; /* options.subscribers of them, in one array */
    uint8_t prefix[PREFIX_MAX];
    size_t prefix_bytes, frame_bytes;
    uint64_t sent; /* frames put into `out` */
    uint64_t done; /* frames that every subscriber has */
    uint32_t *remaining; /* per frame in flight: subscribers that do not have it yet */
    uint8_t *out;
    size_t out_at, out_bytes, out_size;
    bool blocked; /* the kernel took less than everything: EPOLLOUT is on */
    uint64_t credit, credit_used;
    uint64_t due_ns, due_index; /* paced: when the next frame is due */
};

/* What the measured phase counts. */
struct counters {
    uint64_t deliveries, bytes, lost, joined;
    uint64_t last_ns; /* when the last delivery was read */
    struct histogram latency;      /* subscribers; with joiners: up to their start */
    struct histogram latency_near, latency_far; /* at the publisher's node, and at others */
    struct histogram latency_join; /* subscribers, frames sent from the joiners' start on */
    struct histogram first_frame;  /* joiners: from connect() to the first frame */
    struct histogram late;         /* paced: how late a frame was handed to the kernel */
};

struct traffic {
    struct options options;
    const struct dialect *dialect;
    const struct dialect *subscriber_dialect; /* of all but publishers */
    int epoll;
    struct room *rooms;
    struct conn *stalled, *joiners;
    unsigned opening;    /* connections that are not ready yet */
    unsigned waiting;    /* subscribers that have not seen the INIT yet */
    bool publishing;
    unsigned ring_mask;  /* of room.remaining, a power of two minus one */
    uint64_t stop_at;    /* frames of each room to stop at */
    uint64_t join_ns;    /* when the first joiner starts; 0: never */
    struct counters *counters;
};

uint64_t now_ns(void);
/* Print one JSON line with the reason and end the process. */
void fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Connect publishers, then subscribers, and return once each may do its work. */
void traffic_open(struct traffic *traffic);
/* Wait up to `wait_ns` for sockets, and serve those that are ready. */
void traffic_poll(struct traffic *traffic, uint64_t wait_ns);
/* Send what window, pace and credit allow. */
void traffic_pump(struct traffic *traffic, uint64_t now);
/* Start the schedule of a paced stream anew. */
void traffic_schedule(struct traffic *traffic, uint64_t now);
/* Does every subscriber have every frame sent? */
bool traffic_drained(const struct traffic *traffic);
void traffic_start_conn(struct traffic *traffic, struct conn *conn);
/* Stop reading on the stalled subscribers; read them to their end. */
void traffic_park_stalled(struct traffic *traffic);
void traffic_read_stalled(struct traffic *traffic, unsigned limit_ms);
/* tim: take the rooms away again, so that the server is left as it was found. */
void traffic_remove_rooms(struct traffic *traffic);

#endif
