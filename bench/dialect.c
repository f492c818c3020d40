#define _GNU_SOURCE
#include "dialect.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* -- helpers ----------------------------------------------------------------------- */

static void put16(uint8_t *out, uint16_t value)
{
    out[0] = (uint8_t)(value >> 8);
    out[1] = (uint8_t)value;
}

static void put32(uint8_t *out, uint32_t value)
{
    value = __builtin_bswap32(value);
    memcpy(out, &value, 4);
}

static void put64(uint8_t *out, uint64_t value)
{
    value = __builtin_bswap64(value);
    memcpy(out, &value, 8);
}

static uint16_t get16(const uint8_t *in)
{
    return (uint16_t)(in[0] << 8 | in[1]);
}

static uint32_t get32(const uint8_t *in)
{
    uint32_t value;
    memcpy(&value, in, 4);
    return __builtin_bswap32(value);
}

static uint64_t get64(const uint8_t *in)
{
    uint64_t value;
    memcpy(&value, in, 8);
    return __builtin_bswap64(value);
}

static void bad(struct item *item, const char *why, uint16_t code)
{
    item->kind = ITEM_BAD;
    item->why = why;
    item->code = code;
}

static size_t topic_of(char *out, const struct stream *stream)
{
    return (size_t)snprintf(out, 16, "r%u", stream->number);
}

/* Decimal digits up to "\r\n". Returns the bytes used with the line end, 0 for not
 * complete; *ok tells whether it was a number. */
static size_t line_number(const uint8_t *in, size_t size, uint64_t *value, bool *ok)
{
    uint64_t number = 0;
    size_t at = 0;
    *ok = true;
    while (at < size && in[at] >= '0' && in[at] <= '9' && at < 18)
        number = number * 10 + (uint64_t)(in[at++] - '0');
    if (at + 2 > size && (at == size || in[at] == '\r'))
        return 0;
    *ok = at > 0 && in[at] == '\r' && in[at + 1] == '\n';
    *value = number;
    return at + 2;
}

/* -- tim: protocol.md --------------------------------------------------------------- */

enum {
    TIM_PING = 0x03,
    TIM_CLOSE = 0x04,
    TIM_CREDIT = 0x1b,
    TIM_STREAM = 0x40,
    TIM_GAP = 0x63,
    TIM_ROOM_CLOSED = 0x60,
    TIM_ERROR = 0x80,
    TIM_ROOM = 0x90,
    TIM_SUBSCRIBED = 0x94,
    TIM_PUBLISHED = 0x96,
    TIM_STREAM_HEAD = 36,
    TIM_INIT_BYTES = 64,
};

static size_t tim_control(uint8_t *out, uint8_t type, uint32_t request, const void *fields,
                          size_t size)
{
    put32(out, (uint32_t)(8 + size));
    out[4] = type;
    memset(out + 5, 0, 3);
    put32(out + 8, request);
    if (size)
        memcpy(out + 12, fields, size);
    return 12 + size;
}

static size_t tim_hello(uint8_t *out, const struct stream *stream, bool publisher, unsigned id)
{
    static const uint8_t hello[] = {'T', 'I', 'M', 'T', 1, 1, 0, 0, 0, 0, 0, 5,
                                    'b', 'e', 'n', 'c', 'h'};
    static const uint8_t name_only[] = {0, 0, 5, 'b', 'e', 'n', 'c', 'h', 0, 0, 0, 0, 0, 0};
    (void)id;
    size_t at = tim_control(out, 0x01, 1, hello, sizeof hello);
    at += tim_control(out + at, 0x02, 2, name_only, sizeof name_only);
    uint8_t fields[17] = {0};
    if (publisher) {
        fields[0] = stream->reliable;
        put16(fields + 1, (uint16_t)stream->gather_ms);
        return at + tim_control(out + at, 0x10, 3, fields, 7);
    }
    put64(fields, stream->room);
    fields[8] = 0; /* from = group: what a viewer does */
    put64(fields + 9, stream->subscriber_credit);
    return at + tim_control(out + at, 0x14, 3, fields, 17);
}

size_t tim_publish(uint8_t *out, uint64_t room, uint64_t token)
{
    uint8_t fields[24] = {0};
    put64(fields, room);
    put64(fields + 8, token);
    put64(fields + 16, ~token);
    return tim_control(out, 0x16, 4, fields, sizeof fields);
}

size_t tim_credit(uint8_t *out, uint64_t room, uint32_t source, uint64_t limit)
{
    uint8_t fields[20];
    put64(fields, room);
    put32(fields + 8, source);
    put64(fields + 12, limit);
    return tim_control(out, TIM_CREDIT, 0, fields, sizeof fields);
}

size_t tim_remove_room(uint8_t *out, uint64_t room)
{
    uint8_t fields[8];
    put64(fields, room);
    return tim_control(out, 0x11, 5, fields, sizeof fields);
}

static size_t tim_prefix(uint8_t *out, const struct stream *stream)
{
    memset(out, 0, TIM_STREAM_HEAD);
    put32(out, (uint32_t)(TIM_STREAM_HEAD - 4 + stream->payload_bytes));
    out[4] = TIM_STREAM;
    put64(out + 8, stream->room);
    put32(out + 16, stream->source);
    return TIM_STREAM_HEAD;
}

static void tim_stamp(uint8_t *prefix, uint64_t seq, int64_t timestamp_us, uint8_t flags)
{
    prefix[5] = flags;
    put64(prefix + 20, seq);
    put64(prefix + 28, (uint64_t)timestamp_us);
}

size_t tim_init_frame(uint8_t *out, const struct stream *stream)
{
    struct stream small = *stream;
    small.payload_bytes = TIM_INIT_BYTES;
    size_t at = tim_prefix(out, &small);
    tim_stamp(out, 0, 0, TIM_FLAG_INIT);
    memset(out + at, 'i', small.payload_bytes);
    return at + small.payload_bytes;
}

static void tim_decode_control(const uint8_t *in, size_t size, struct item *item)
{
    const uint8_t *fields = in + 12;
    size_t fields_bytes = size - 12;
    item->kind = ITEM_SKIP;
    switch (in[4]) {
    case TIM_PING:
        item->kind = ITEM_PING;
        return;
    case TIM_CLOSE:
        item->kind = ITEM_CLOSE;
        item->code = fields_bytes >= 2 ? get16(fields) : 0;
        return;
    case TIM_ERROR:
        bad(item, "ERROR from the server", fields_bytes >= 3 ? get16(fields + 1) : 0);
        return;
    case TIM_ROOM_CLOSED:
        bad(item, "ROOM_CLOSED from the server", 0);
        return;
    case TIM_ROOM:
        if (fields_bytes < 8)
            break;
        item->kind = ITEM_ROOM;
        item->room = get64(fields);
        return;
    case TIM_SUBSCRIBED:
        item->kind = ITEM_READY;
        return;
    case TIM_PUBLISHED:
        if (fields_bytes < 29)
            break;
        item->kind = ITEM_READY;
        item->source = get32(fields + 8);
        item->limit = get64(fields + 21);
        return;
    case TIM_CREDIT:
        if (fields_bytes < 20)
            break;
        item->kind = ITEM_CREDIT;
        item->limit = get64(fields + 12);
        return;
    case TIM_GAP:
        if (fields_bytes < 30)
            break;
        item->kind = ITEM_GAP;
        item->first = get64(fields + 13);
        item->last = get64(fields + 21);
        return;
    default:
        return;
    }
    bad(item, "a control frame with fields missing", 0);
}

static void tim_decode(const uint8_t *in, size_t size, bool ready, const struct stream *stream,
                       struct item *item)
{
    (void)ready;
    (void)stream;
    item->kind = ITEM_MORE;
    if (size < 8)
        return;
    size_t length = get32(in);
    if (length < 8 || length > 1 << 20) {
        bad(item, "a length out of bounds", 0);
        return;
    }
    item->bytes = 4 + length;
    if (size < item->bytes)
        return;
    if (in[4] != TIM_STREAM) {
        tim_decode_control(in, item->bytes, item);
        return;
    }
    size_t head = TIM_STREAM_HEAD + 4 * (size_t)in[7];
    if (item->bytes < head) {
        bad(item, "a stream frame shorter than its header", 0);
        return;
    }
    item->flags = in[5];
    item->kind = item->flags & TIM_FLAG_INIT ? ITEM_INIT : ITEM_FRAME;
    item->room = get64(in + 8);
    item->source = get32(in + 16);
    item->first = get64(in + 20);
    item->payload = in + head;
    item->payload_bytes = item->bytes - head;
}

static size_t tim_pong(uint8_t *out, const uint8_t *in, size_t size)
{
    memcpy(out, in, size);
    out[4] = 0x83;
    return size;
}

/* -- nats: text lines, PUB and MSG --------------------------------------------------- */

static size_t nats_hello(uint8_t *out, const struct stream *stream, bool publisher, unsigned id)
{
    char topic[16];
    topic_of(topic, stream);
    (void)id;
    int size = snprintf((char *)out, HELLO_MAX,
                        "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"c\","
                        "\"version\":\"1\",\"protocol\":1}\r\n");
    if (!publisher)
        size += snprintf((char *)out + size, 64, "SUB %s 1\r\n", topic);
    size += snprintf((char *)out + size, 16, "PING\r\n");
    return (size_t)size;
}

static size_t nats_prefix(uint8_t *out, const struct stream *stream)
{
    char topic[16];
    topic_of(topic, stream);
    return (size_t)snprintf((char *)out, PREFIX_MAX, "PUB %s %zu\r\n", topic,
                            stream->payload_bytes);
}

static void nats_decode(const uint8_t *in, size_t size, bool ready, const struct stream *stream,
                        struct item *item)
{
    (void)ready;
    (void)stream;
    item->kind = ITEM_MORE;
    const uint8_t *end = memchr(in, '\n', size);
    if (!end) {
        if (size > 65536)
            bad(item, "a line without an end", 0);
        return;
    }
    size_t line = (size_t)(end - in) + 1;
    if (line > 8 && memcmp(in, "MSG ", 4) == 0) {
        size_t at = line - 2;
        while (at > 4 && in[at - 1] != ' ')
            at--;
        uint64_t count;
        bool ok;
        line_number(in + at, line - at, &count, &ok);
        if (!ok || count > 1 << 20) {
            bad(item, "a MSG line that cannot be read", 0);
            return;
        }
        item->bytes = line + count + 2;
        if (size < item->bytes)
            return;
        item->kind = ITEM_FRAME;
        item->payload = in + line;
        item->payload_bytes = count;
        if (in[item->bytes - 2] != '\r' || in[item->bytes - 1] != '\n')
            bad(item, "a MSG without its line end", 0);
        return;
    }
    item->bytes = line;
    if (memcmp(in, "PING", 4) == 0)
        item->kind = ITEM_PING;
    else if (memcmp(in, "PONG", 4) == 0)
        item->kind = ITEM_READY;
    else if (memcmp(in, "INFO", 4) == 0 || memcmp(in, "+OK", 3) == 0)
        item->kind = ITEM_SKIP;
    else
        bad(item, "-ERR from nats", 0);
}

static size_t nats_pong(uint8_t *out, const uint8_t *in, size_t size)
{
    (void)in;
    (void)size;
    memcpy(out, "PONG\r\n", 6);
    return 6;
}

/* -- redis: RESP2, PUBLISH and SUBSCRIBE ---------------------------------------------- */

static size_t redis_hello(uint8_t *out, const struct stream *stream, bool publisher, unsigned id)
{
    char topic[16];
    size_t topic_bytes = topic_of(topic, stream);
    (void)id;
    if (publisher)
        return (size_t)snprintf((char *)out, HELLO_MAX, "*1\r\n$4\r\nPING\r\n");
    return (size_t)snprintf((char *)out, HELLO_MAX, "*2\r\n$9\r\nSUBSCRIBE\r\n$%zu\r\n%s\r\n",
                            topic_bytes, topic);
}

static size_t redis_prefix(uint8_t *out, const struct stream *stream)
{
    char topic[16];
    size_t topic_bytes = topic_of(topic, stream);
    return (size_t)snprintf((char *)out, PREFIX_MAX,
                            "*3\r\n$7\r\nPUBLISH\r\n$%zu\r\n%s\r\n$%zu\r\n", topic_bytes, topic,
                            stream->payload_bytes);
}

/* One bulk string at *at. Returns false where bytes are missing or item is now bad. */
static bool redis_bulk(const uint8_t *in, size_t size, size_t *at, const uint8_t **bytes,
                       size_t *count, struct item *item)
{
    if (*at >= size)
        return false;
    uint64_t number;
    bool ok;
    size_t used = line_number(in + *at + 1, size - *at - 1, &number, &ok);
    if (in[*at] != '$' || (used && (!ok || number > 1 << 20))) {
        bad(item, "a bulk string that cannot be read", 0);
        return false;
    }
    if (!used || size - *at < 1 + used + number + 2)
        return false;
    *bytes = in + *at + 1 + used;
    *count = number;
    *at += 1 + used + number + 2;
    return true;
}

static void redis_decode(const uint8_t *in, size_t size, bool ready, const struct stream *stream,
                         struct item *item)
{
    (void)ready;
    (void)stream;
    item->kind = ITEM_MORE;
    if (size < 4)
        return;
    uint64_t number;
    bool ok;
    if (in[0] == ':') {
        size_t used = line_number(in + 1, size - 1, &number, &ok);
        if (!used)
            return;
        item->kind = ITEM_ACK;
        item->first = number;
        item->bytes = 1 + used;
        if (!ok)
            bad(item, "an integer that cannot be read", 0);
        return;
    }
    if (in[0] == '+') {
        const uint8_t *end = memchr(in, '\n', size);
        if (!end)
            return;
        item->bytes = (size_t)(end - in) + 1;
        item->kind = ITEM_READY;
        return;
    }
    if (memcmp(in, "*3\r\n", 4) != 0) {
        bad(item, "an error or an unknown reply from redis", 0);
        return;
    }
    const uint8_t *word, *topic, *payload;
    size_t word_bytes, topic_bytes, payload_bytes, at = 4;
    if (!redis_bulk(in, size, &at, &word, &word_bytes, item) ||
        !redis_bulk(in, size, &at, &topic, &topic_bytes, item))
        return;
    if (word_bytes == 9) { /* subscribe: an integer follows */
        size_t used = at < size ? line_number(in + at + 1, size - at - 1, &number, &ok) : 0;
        if (!used)
            return;
        item->kind = ITEM_READY;
        item->bytes = at + 1 + used;
        return;
    }
    if (!redis_bulk(in, size, &at, &payload, &payload_bytes, item))
        return;
    item->kind = ITEM_FRAME;
    item->bytes = at;
    item->payload = payload;
    item->payload_bytes = payload_bytes;
    if (word_bytes != 7 || memcmp(word, "message", 7) != 0)
        bad(item, "a push that is not a message", 0);
}

/* -- mqtt 3.1.1, QoS 0 ----------------------------------------------------------------- */

static size_t mqtt_varint(uint8_t *out, size_t value)
{
    size_t at = 0;
    do {
        out[at] = value & 0x7f;
        value >>= 7;
        if (value)
            out[at] |= 0x80;
        at++;
    } while (value);
    return at;
}

static size_t mqtt_hello(uint8_t *out, const struct stream *stream, bool publisher, unsigned id)
{
    /* CONNECT: protocol level 4, clean session, keep-alive 0 (off). */
    static const uint8_t head[] = {0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0};
    char name[16], topic[16];
    size_t name_bytes = (size_t)snprintf(name, sizeof name, "b%u", id);
    size_t topic_bytes = topic_of(topic, stream);
    size_t at = 0;
    out[at++] = 0x10;
    at += mqtt_varint(out + at, sizeof head + 2 + name_bytes);
    memcpy(out + at, head, sizeof head);
    at += sizeof head;
    put16(out + at, (uint16_t)name_bytes);
    memcpy(out + at + 2, name, name_bytes);
    at += 2 + name_bytes;
    if (publisher) { /* PINGREQ: its answer says that the connection is accepted */
        out[at++] = 0xc0;
        out[at++] = 0;
        return at;
    }
    out[at++] = 0x82;
    at += mqtt_varint(out + at, 2 + 2 + topic_bytes + 1);
    put16(out + at, 1);
    put16(out + at + 2, (uint16_t)topic_bytes);
    memcpy(out + at + 4, topic, topic_bytes);
    at += 4 + topic_bytes;
    out[at++] = 0;
    return at;
}

static size_t mqtt_prefix(uint8_t *out, const struct stream *stream)
{
    char topic[16];
    size_t topic_bytes = topic_of(topic, stream);
    size_t at = 0;
    out[at++] = 0x30;
    at += mqtt_varint(out + at, 2 + topic_bytes + stream->payload_bytes);
    put16(out + at, (uint16_t)topic_bytes);
    memcpy(out + at + 2, topic, topic_bytes);
    return at + 2 + topic_bytes;
}

static void mqtt_decode(const uint8_t *in, size_t size, bool ready, const struct stream *stream,
                        struct item *item)
{
    (void)ready;
    (void)stream;
    item->kind = ITEM_MORE;
    size_t length = 0, at = 1;
    for (unsigned shift = 0;; shift += 7, at++) {
        if (at >= size)
            return;
        length |= (size_t)(in[at] & 0x7f) << shift;
        if (!(in[at] & 0x80))
            break;
        if (shift == 21) {
            bad(item, "a length that cannot be read", 0);
            return;
        }
    }
    at++;
    item->bytes = at + length;
    if (size < item->bytes)
        return;
    switch (in[0] & 0xf0) {
    case 0xd0: /* PINGRESP */
        item->kind = ITEM_READY;
        return;
    case 0x20: /* CONNACK */
        item->kind = ITEM_SKIP;
        if (length != 2 || in[at + 1] != 0)
            bad(item, "CONNACK refused", in[at + 1]);
        return;
    case 0x90:
        item->kind = ITEM_READY;
        if (length != 3 || in[at + 2] != 0)
            bad(item, "SUBACK refused", in[at + 2]);
        return;
    case 0x30: {
        size_t topic_bytes = length >= 2 ? get16(in + at) : 0;
        if (length < 2 + topic_bytes) {
            bad(item, "a PUBLISH that cannot be read", 0);
            return;
        }
        item->kind = ITEM_FRAME;
        item->payload = in + at + 2 + topic_bytes;
        item->payload_bytes = length - 2 - topic_bytes;
        return;
    }
    default:
        bad(item, "an unexpected packet", in[0]);
    }
}

/* -- raw: floor.c ----------------------------------------------------------------------- */

static size_t raw_hello(uint8_t *out, const struct stream *stream, bool publisher, unsigned id)
{
    (void)id;
    out[0] = publisher ? 'P' : 'S';
    put16(out + 1, (uint16_t)stream->number);
    return 3;
}

static size_t raw_prefix(uint8_t *out, const struct stream *stream)
{
    (void)out;
    (void)stream;
    return 0;
}

static void raw_decode(const uint8_t *in, size_t size, bool ready, const struct stream *stream,
                       struct item *item)
{
    item->kind = ITEM_MORE;
    if (!ready) {
        if (size == 0)
            return;
        item->bytes = 1;
        item->kind = ITEM_READY;
        if (in[0] != '+')
            bad(item, "no greeting from the floor", in[0]);
        return;
    }
    if (size < stream->payload_bytes)
        return;
    item->kind = ITEM_FRAME;
    item->bytes = item->payload_bytes = stream->payload_bytes;
    item->payload = in;
}

/* -- relay: programs of bench/relays, which know no rooms ------------------------------- */

/* The publisher's connection is TCP, where a length stands before each payload. A
 * subscriber's WebSocket messages are the payloads as they are. */
static size_t relay_hello(uint8_t *out, const struct stream *stream, bool publisher, unsigned id)
{
    (void)stream;
    (void)id;
    out[0] = publisher ? 'P' : 'S';
    return 1;
}

static size_t relay_prefix(uint8_t *out, const struct stream *stream)
{
    put32(out, (uint32_t)stream->payload_bytes);
    return 4;
}

/* -- TIM's own clients, as subscribers: docs/tim.md -------------------------------------- */

enum { ROOM_DIGITS = 11 };

/* A room's id as text. */
static void room_text(char *out, uint64_t room)
{
    static const char digits[] = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    out[ROOM_DIGITS] = 0;
    for (int at = ROOM_DIGITS - 1; at >= 0; at--) {
        out[at] = digits[room % 58];
        room /= 58;
    }
}

static size_t client_hello(uint8_t *out, const struct stream *stream, bool publisher, unsigned id)
{
    (void)stream;
    (void)publisher;
    return (size_t)snprintf((char *)out, HELLO_MAX, "\x90{\"name\":\"bench%u\"}", id);
}

static size_t client_subscribe(uint8_t *out, const struct stream *stream, int form)
{
    char room[ROOM_DIGITS + 1];
    room_text(room, stream->room);
    return (size_t)snprintf((char *)out, HELLO_MAX,
                            "\x96{\"rtype\":5,\"node\":\"%s\",\"reqInt\":%d}", room, form);
}

static size_t client_subscribe_json(uint8_t *out, const struct stream *stream)
{
    return client_subscribe(out, stream, 0);
}

static size_t client_subscribe_big(uint8_t *out, const struct stream *stream)
{
    return client_subscribe(out, stream, 1);
}

static bool holds(const uint8_t *in, size_t size, const char *text)
{
    return memmem(in, size, text, strlen(text)) != NULL;
}

/* An INIT looks like any other frame here; tim_init_frame() says what is in it. */
static void client_frame(const uint8_t *payload, size_t size, struct item *item)
{
    item->kind = ITEM_FRAME;
    item->payload = payload;
    item->payload_bytes = size;
    if (size == TIM_INIT_BYTES) {
        size_t at = 0;
        while (at < size && payload[at] == 'i')
            at++;
        if (at == size)
            item->kind = ITEM_INIT;
    }
}

static size_t from_base64(uint8_t *out, const uint8_t *in, const uint8_t *end)
{
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    static int8_t values[256];
    if (!values['B'])
        for (int i = 0; i < 64; i++)
            values[(uint8_t)digits[i]] = (int8_t)i;
    size_t at = 0;
    for (; in + 4 <= end; in += 4) {
        uint32_t bits = (uint32_t)values[in[0]] << 18 | (uint32_t)values[in[1]] << 12 |
                        (uint32_t)values[in[2]] << 6 | (uint32_t)values[in[3]];
        out[at++] = (uint8_t)(bits >> 16);
        out[at++] = (uint8_t)(bits >> 8);
        out[at++] = (uint8_t)bits;
    }
    while (at && in[-1] == '=')
        at--, in--;
    return at;
}

static void client_stream_json(const uint8_t *in, size_t size, const char *room,
                               struct item *item)
{
    static uint8_t payload[1 << 20];
    static const char start[] = "\"body\":\"";
    char node[40];
    snprintf(node, sizeof node, "\"VNode\":\"%s\"", room);
    const uint8_t *body = memmem(in, size, start, sizeof start - 1);
    const uint8_t *end = body ? memchr(body + sizeof start - 1, '"', size - (size_t)(body - in) -
                                                                         (sizeof start - 1))
                              : NULL;
    if (!end || size > sizeof payload || !holds(in, size < 100 ? size : 100, node)) {
        bad(item, "a STREAM packet of another room, or without a body", 0);
        return;
    }
    client_frame(payload, from_base64(payload, body + sizeof start - 1, end), item);
}

static void client_decode(const uint8_t *in, size_t size, bool ready, const struct stream *stream,
                          struct item *item)
{
    char room[ROOM_DIGITS + 1];
    room_text(room, stream->room);
    (void)ready;
    item->bytes = size;
    item->kind = ITEM_SKIP;
    switch (in[0]) {
    case 12:
        if (!holds(in, size, "\"ok\":true"))
            bad(item, "an ACK that is not ok", 0);
        else if (holds(in, size, "\"timType\":22"))
            item->kind = ITEM_READY;
        return;
    case 94:
        client_stream_json(in + 1, size - 1, room, item);
        return;
    case 97:
        if (size < 2 + ROOM_DIGITS || memcmp(in + 1, room, ROOM_DIGITS) != 0 ||
            in[1 + ROOM_DIGITS] != 131)
            bad(item, "a frame of another room", 0);
        else
            client_frame(in + 2 + ROOM_DIGITS, size - 2 - ROOM_DIGITS, item);
        return;
    default:
        bad(item, "an unexpected packet", in[0]);
    }
}

/* -- the table --------------------------------------------------------------------------- */

static const struct dialect dialects[] = {
    {"tim", 0, tim_hello, NULL, tim_prefix, tim_stamp, tim_decode, tim_pong},
    {"nats", 2, nats_hello, NULL, nats_prefix, NULL, nats_decode, nats_pong},
    {"redis", 2, redis_hello, NULL, redis_prefix, NULL, redis_decode, NULL},
    {"mqtt", 0, mqtt_hello, NULL, mqtt_prefix, NULL, mqtt_decode, NULL},
    {"raw", 0, raw_hello, NULL, raw_prefix, NULL, raw_decode, NULL},
    {"relay", 0, relay_hello, NULL, relay_prefix, NULL, raw_decode, NULL},
    {"client-json", 0, client_hello, client_subscribe_json, raw_prefix, NULL, client_decode, NULL},
    {"client-big", 0, client_hello, client_subscribe_big, raw_prefix, NULL, client_decode, NULL},
};

const struct dialect *dialect_by_name(const char *name)
{
    for (size_t i = 0; i < sizeof dialects / sizeof *dialects; i++)
        if (strcmp(dialects[i].name, name) == 0)
            return &dialects[i];
    return NULL;
}
