#define _GNU_SOURCE
#include "traffic.h"
#include "websocket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_BYTES = 256 * 1024,   /* at most so much per read */
    WRITE_BYTES = 256 * 1024,  /* a publisher's batch, unless one frame is larger */
    FRAME_MAX = 1024 * 1024,
    OPENING_MAX = 64,          /* below every server's listen backlog */
    EVENTS = 128,              /* between two looks at the clock */
    PATTERN_SHIFT = 1023,
};

/* What every payload begins with. The bytes behind it are a slice of `pattern` that
 * depends on the frame's number, so a mixed-up or torn frame does not pass. */
struct head {
    uint64_t index;
    uint64_t sent_ns; /* paced: when it was due, so that waiting counts too */
    uint32_t room;
    uint32_t bytes;
};

static uint8_t incoming[FRAME_MAX + READ_BYTES];
static uint8_t *pattern;

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

void fail(const char *format, ...)
{
    char why[300];
    va_list values;
    va_start(values, format);
    vsnprintf(why, sizeof why, format, values);
    va_end(values);
    printf("{\"error\": \"%s\"}\n", why);
    fflush(stdout);
    exit(1);
}

static const uint8_t *pattern_of(uint64_t index)
{
    return pattern + ((index * 37) & PATTERN_SHIFT);
}

static const char *role_name(const struct conn *conn)
{
    static const char *const names[] = {"publisher", "subscriber", "stalled subscriber",
                                        "joiner"};
    return names[conn->role];
}

static const struct dialect *dialect_of(const struct traffic *traffic, const struct conn *conn)
{
    return conn->role == PUBLISHER ? traffic->dialect : traffic->subscriber_dialect;
}

static void watch(const struct traffic *traffic, int operation, struct conn *conn,
                  uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = conn};
    if (epoll_ctl(traffic->epoll, operation, conn->fd, &event) != 0)
        fail("epoll_ctl: %s", strerror(errno));
}

/* Control bytes: so few that a socket which is read at all takes them at once. */
static void send_small(const struct conn *conn, const uint8_t *bytes, size_t size)
{
    uint8_t message[WS_HEAD_MAX + HELLO_MAX];
    if (conn->shaken) {
        size_t head = ws_head(message, WS_BINARY, size);
        memcpy(message + head, bytes, size);
        bytes = message;
        size += head;
    }
    if (send(conn->fd, bytes, size, MSG_NOSIGNAL) != (ssize_t)size)
        fail("%s %u: cannot send a control message: %s", role_name(conn), conn->id,
             strerror(errno));
}

/* -- connecting ---------------------------------------------------------------------- */

void traffic_start_conn(struct traffic *traffic, struct conn *conn)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)(conn->is_websocket ? traffic->options.web_port
                                                        : traffic->options.ports[conn->node])),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int on = 1;
    conn->opened_ns = now_ns();
    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (conn->fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(conn->fd, (struct sockaddr *)&address, sizeof address) != 0 &&
        errno != EINPROGRESS)
        fail("connect: %s", strerror(errno));
    traffic->opening++;
    watch(traffic, EPOLL_CTL_ADD, conn, EPOLLOUT);
}

static void send_hello(struct traffic *traffic, struct conn *conn)
{
    const struct dialect *dialect = dialect_of(traffic, conn);
    const struct stream *stream = &conn->room->stream;
    uint8_t hello[HELLO_MAX];
    send_small(conn, hello, dialect->hello(hello, stream, conn->role == PUBLISHER, conn->id));
    if (dialect->second)
        send_small(conn, hello, dialect->second(hello, stream));
}

static void on_connected(struct traffic *traffic, struct conn *conn)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        fail("connect: %s", strerror(error));
    conn->connected = true;
    conn->granted = conn->room->stream.subscriber_credit;
    if (conn->is_websocket) {
        uint8_t request[WS_REQUEST_MAX];
        send_small(conn, request,
                   ws_request(request, traffic->options.web_port,
                              !dialect_of(traffic, conn)->second));
    } else {
        send_hello(traffic, conn);
    }
    watch(traffic, EPOLL_CTL_MOD, conn, EPOLLIN);
}

static void on_ready(struct traffic *traffic, struct conn *conn, const struct item *item)
{
    if (conn->ready)
        return;
    conn->ready = true;
    traffic->opening--;
    if (conn->is_websocket) {
        /* Who has answered the server during the handshake delays its ACKs from then on,
         * and their cost moves from our reads into the server's writes. As over TCP: */
        int on = 1;
        setsockopt(conn->fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
    }
    if (conn->role != PUBLISHER)
        return;
    struct room *room = conn->room;
    room->stream.source = item->source;
    room->credit = room->stream.reliable ? item->limit : UINT64_MAX;
    room->prefix_bytes = traffic->dialect->prefix(room->prefix, &room->stream);
    room->frame_bytes =
        room->prefix_bytes + room->stream.payload_bytes + traffic->dialect->suffix_bytes;
    room->out_size = room->frame_bytes > WRITE_BYTES ? room->frame_bytes : WRITE_BYTES;
    room->out = malloc(room->out_size);
}

static void open_all(struct traffic *traffic, struct conn *conns, unsigned count)
{
    unsigned opened = 0;
    while (opened < count || traffic->opening) {
        while (opened < count && traffic->opening < OPENING_MAX)
            traffic_start_conn(traffic, &conns[opened++]);
        traffic_poll(traffic, 100 * 1000000ull);
    }
}

static struct conn *make_conns(unsigned count, enum role role, struct room *room, unsigned *id,
                               bool websocket)
{
    struct conn *conns = calloc(count ? count : 1, sizeof *conns);
    for (unsigned i = 0; i < count; i++)
        conns[i] = (struct conn){.fd = -1, .role = role, .room = room, .id = (*id)++,
                                 .is_websocket = websocket && role != PUBLISHER};
    return conns;
}

static void send_inits(struct traffic *traffic)
{
    const struct options *options = &traffic->options;
    traffic->waiting = options->rooms * options->subscribers + options->stalled;
    for (unsigned i = 0; i < options->rooms; i++) {
        uint8_t frame[INIT_MAX];
        size_t size = tim_init_frame(frame, &traffic->rooms[i].stream);
        send_small(traffic->rooms[i].publisher, frame, size);
        traffic->rooms[i].credit_used = size;
    }
    while (traffic->waiting)
        traffic_poll(traffic, 100 * 1000000ull);
}

void traffic_open(struct traffic *traffic)
{
    const struct options *options = &traffic->options;
    unsigned id = 0, total = options->rooms * options->subscribers;
    bool websocket = options->web_port != 0;
    uint32_t noise = 0x2545f491;
    pattern = malloc(options->payload_bytes + PATTERN_SHIFT + 1);
    for (size_t i = 0; i < options->payload_bytes + PATTERN_SHIFT + 1; i++) {
        noise ^= noise << 13, noise ^= noise >> 17, noise ^= noise << 5;
        pattern[i] = (uint8_t)noise;
    }
    unsigned ring = 1;
    while (ring < options->window)
        ring *= 2;
    traffic->ring_mask = ring - 1;

    traffic->rooms = calloc(options->rooms, sizeof *traffic->rooms);
    struct conn *publishers = make_conns(options->rooms, PUBLISHER, NULL, &id, websocket);
    struct conn *subscribers = make_conns(total, SUBSCRIBER, NULL, &id, websocket);
    for (unsigned i = 0; i < options->rooms; i++) {
        struct room *room = &traffic->rooms[i];
        room->stream = (struct stream){
            .number = i,
            .payload_bytes = options->payload_bytes,
            .reliable = options->reliable,
            .gather_ms = options->gather_ms,
            .subscriber_credit = options->reliable ? 4 << 20 : 0,
        };
        room->publisher = &publishers[i];
        room->subscribers = &subscribers[i * options->subscribers];
        room->remaining = calloc(ring, sizeof *room->remaining);
        publishers[i].room = room;
        for (unsigned k = 0; k < options->subscribers; k++) {
            room->subscribers[k].room = room;
            room->subscribers[k].node = k % options->nodes;
        }
    }
    traffic->stalled = make_conns(options->stalled, STALLED, &traffic->rooms[0], &id, websocket);
    traffic->joiners = make_conns(options->joiners, JOINER, &traffic->rooms[0], &id, websocket);

    open_all(traffic, publishers, options->rooms);
    open_all(traffic, subscribers, total);
    open_all(traffic, traffic->stalled, options->stalled);
    if (traffic->dialect->stamp && (options->window || options->rate > 0))
        send_inits(traffic);
}

/* -- what arrives ----------------------------------------------------------------------- */

static void count_done(struct traffic *traffic, struct room *room, uint64_t index)
{
    /* Each subscriber gets the frames in order, so whoever has `index` has those before. */
    if (--room->remaining[index & traffic->ring_mask] == 0)
        room->done = index + 1;
}

/* Frames up to `index` will not come: lost, but the window must not wait for them. */
static void skip_to(struct traffic *traffic, struct conn *conn, uint64_t index)
{
    if (conn->role == STALLED) {
        conn->gap_frames += index - conn->next;
        conn->next = index;
        return;
    }
    traffic->counters->lost += index - conn->next;
    for (; conn->next < index; conn->next++)
        if (traffic->options.window)
            count_done(traffic, conn->room, conn->next);
}

static void check_first(struct traffic *traffic, struct conn *conn, const struct head *head,
                        uint64_t now)
{
    conn->joined = true;
    if (conn->role != JOINER)
        return;
    conn->next = head->index;
    if (traffic->subscriber_dialect->stamp && head->index % traffic->options.key_every != 0)
        fail("joiner %u: the first frame %lu is not a KEY", conn->id, head->index);
    traffic->counters->joined++;
    histogram_add(&traffic->counters->first_frame, now - conn->opened_ns);
}

static void on_frame(struct traffic *traffic, struct conn *conn, const struct item *item,
                     uint64_t now)
{
    struct room *room = conn->room;
    struct counters *counters = traffic->counters;
    struct head head;
    if (item->payload_bytes != room->stream.payload_bytes)
        fail("%s %u: a payload of %zu bytes", role_name(conn), conn->id, item->payload_bytes);
    memcpy(&head, item->payload, sizeof head);
    if (head.room != room->stream.number || head.bytes != item->payload_bytes ||
        memcmp(item->payload + sizeof head, pattern_of(head.index),
               item->payload_bytes - sizeof head) != 0)
        fail("%s %u: payload of frame %lu differs from what was sent", role_name(conn),
             conn->id, head.index);
    if (!conn->joined)
        check_first(traffic, conn, &head, now);
    if (traffic->subscriber_dialect->stamp) {
        bool key = head.index % traffic->options.key_every == 0;
        if (item->first != head.index + 1 || item->room != room->stream.room ||
            item->source != room->stream.source || item->flags != (key ? TIM_FLAG_KEY : 0))
            fail("%s %u: header of frame %lu differs from what was sent", role_name(conn),
                 conn->id, head.index);
        if (!conn->init_seen)
            fail("%s %u: a frame before the INIT", role_name(conn), conn->id);
    }
    if (head.index != conn->next) {
        if (head.index < conn->next || traffic->subscriber_dialect->stamp)
            fail("%s %u: frame %lu after frame %ld", role_name(conn), conn->id, head.index,
                 (long)conn->next - 1);
        skip_to(traffic, conn, head.index);
    }
    conn->next = head.index + 1;
    if (conn->role == STALLED) {
        conn->frames++;
        return;
    }
    counters->deliveries++;
    counters->bytes += item->payload_bytes;
    counters->last_ns = now;
    if (conn->role == SUBSCRIBER) {
        bool after = traffic->join_ns && head.sent_ns >= traffic->join_ns;
        uint64_t took_ns = now > head.sent_ns ? now - head.sent_ns : 0;
        histogram_add(after ? &counters->latency_join : &counters->latency, took_ns);
        if (traffic->options.nodes > 1)
            histogram_add(conn->node ? &counters->latency_far : &counters->latency_near, took_ns);
    }
    if (traffic->options.window)
        count_done(traffic, room, head.index);
}

static void on_gap(struct traffic *traffic, struct conn *conn, const struct item *item)
{
    uint64_t first = item->first - 1, last = item->last - 1;
    if (item->first == 0 || first != conn->next || last < first)
        fail("%s %u: GAP %lu to %lu where frame %lu was next", role_name(conn), conn->id,
             item->first, item->last, conn->next + 1);
    skip_to(traffic, conn, last + 1);
}

static void on_init(struct traffic *traffic, struct conn *conn)
{
    if (conn->init_seen)
        fail("%s %u: the INIT came twice", role_name(conn), conn->id);
    conn->init_seen = true;
    if (conn->role != JOINER)
        traffic->waiting--;
}

static void on_item(struct traffic *traffic, struct conn *conn, const uint8_t *at,
                    const struct item *item, uint64_t now)
{
    struct room *room = conn->room;
    uint8_t answer[HELLO_MAX];
    switch (item->kind) {
    case ITEM_FRAME:
        on_frame(traffic, conn, item, now);
        break;
    case ITEM_ACK:
        if (item->first != traffic->options.subscribers + traffic->options.stalled)
            fail("redis published to %lu subscribers", item->first);
        break;
    case ITEM_INIT:
        on_init(traffic, conn);
        break;
    case ITEM_GAP:
        on_gap(traffic, conn, item);
        break;
    case ITEM_READY:
        on_ready(traffic, conn, item);
        break;
    case ITEM_ROOM:
        room->stream.room = item->room;
        send_small(conn, answer, tim_publish(answer, item->room, now));
        break;
    case ITEM_CREDIT:
        room->credit = item->limit;
        break;
    case ITEM_PING:
        send_small(conn, answer, dialect_of(traffic, conn)->pong(answer, at, item->bytes));
        break;
    case ITEM_CLOSE:
        conn->close_code = item->code;
        if (conn->role != STALLED)
            fail("%s %u: CLOSE %u", role_name(conn), conn->id, item->code);
        break;
    case ITEM_BAD:
        fail("%s %u: %s (code %u)", role_name(conn), conn->id, item->why, item->code);
    case ITEM_SKIP:
    case ITEM_MORE:
        break;
    }
    if (room->stream.reliable && conn->role != PUBLISHER &&
        (item->kind == ITEM_FRAME || item->kind == ITEM_INIT)) {
        uint64_t window = room->stream.subscriber_credit;
        conn->consumed += item->bytes;
        if (conn->consumed + window >= conn->granted + window / 4) {
            conn->granted = conn->consumed + window;
            send_small(conn, answer,
                       tim_credit(answer, room->stream.room, item->source, conn->granted));
        }
    }
}

static void keep_partial(struct conn *conn, const uint8_t *bytes, size_t size)
{
    if (size > conn->partial_size) {
        conn->partial_size = size < 4096 ? 4096 : size * 2;
        free(conn->partial);
        conn->partial = malloc(conn->partial_size);
    }
    if (size)
        memcpy(conn->partial, bytes, size);
    conn->partial_bytes = size;
}

/* Both take what is whole and return how many bytes that was. */
static size_t take_frames(struct traffic *traffic, struct conn *conn, const uint8_t *bytes,
                          size_t size, uint64_t now)
{
    const struct dialect *dialect = dialect_of(traffic, conn);
    struct item item = {0};
    size_t at = 0;
    while (at < size) {
        dialect->decode(bytes + at, size - at, conn->ready, &conn->room->stream, &item);
        if (item.kind == ITEM_MORE)
            break;
        on_item(traffic, conn, bytes + at, &item, now);
        at += item.bytes;
    }
    return at;
}

/* Frames are taken as they come, also those of a message that is not whole yet. */
static size_t take_messages(struct traffic *traffic, struct conn *conn, const uint8_t *bytes,
                            size_t size, uint64_t now)
{
    size_t at = 0;
    if (!conn->shaken) {
        at = ws_response(bytes, size);
        if (!at)
            return 0;
        if (at > size)
            fail("%s %u: the handshake was refused", role_name(conn), conn->id);
        conn->shaken = true;
        send_hello(traffic, conn);
    }
    while (at < size) {
        if (!conn->message_left) {
            uint8_t opcode;
            size_t head = ws_parse(bytes + at, size - at, &opcode, &conn->message_left);
            if (!head)
                break;
            if (opcode == WS_CLOSE && conn->role == STALLED) {
                conn->message_left = 0;
                return size;
            }
            if (opcode != WS_BINARY || !conn->message_left)
                fail("%s %u: a WebSocket frame of kind %u", role_name(conn), conn->id, opcode);
            at += head;
        }
        size_t here = size - at < conn->message_left ? size - at : conn->message_left;
        if (here < conn->message_left && traffic->subscriber_dialect->second)
            break;
        size_t taken = take_frames(traffic, conn, bytes + at, here, now);
        at += taken;
        conn->message_left -= taken;
        if (taken < here) {
            if (here - taken == conn->message_left)
                fail("%s %u: a message that does not hold whole frames", role_name(conn),
                     conn->id);
            break;
        }
    }
    return at;
}

/* Read once. False at the end of the connection. */
static bool read_conn(struct traffic *traffic, struct conn *conn)
{
    size_t held = conn->partial_bytes;
    if (held)
        memcpy(incoming, conn->partial, held);
    ssize_t got = recv(conn->fd, incoming + held, READ_BYTES, 0);
    if (got <= 0) {
        if (got < 0 && (errno == EAGAIN || errno == EINTR))
            return true;
        conn->ended = got == 0 ? "eof" : "reset";
        return false;
    }
    uint64_t now = now_ns();
    conn->bytes += (uint64_t)got;
    size_t size = held + (size_t)got;
    size_t at = conn->is_websocket ? take_messages(traffic, conn, incoming, size, now)
                                   : take_frames(traffic, conn, incoming, size, now);
    if (size - at > FRAME_MAX)
        fail("%s %u: a frame of more than %d bytes", role_name(conn), conn->id, FRAME_MAX);
    keep_partial(conn, incoming + at, size - at);
    return true;
}

/* -- publishing --------------------------------------------------------------------------- */

void traffic_schedule(struct traffic *traffic, uint64_t now)
{
    if (traffic->options.rate <= 0)
        return;
    double period_ns = 1e9 / traffic->options.rate;
    for (unsigned i = 0; i < traffic->options.rooms; i++) {
        struct room *room = &traffic->rooms[i];
        /* Rooms are spread over a period, as unrelated publishers are. */
        room->due_ns = now + (uint64_t)(period_ns * i / traffic->options.rooms);
        room->due_index = room->sent;
    }
}

static uint64_t due_of(const struct traffic *traffic, const struct room *room)
{
    return room->due_ns +
           (uint64_t)((double)(room->sent - room->due_index) * 1e9 / traffic->options.rate);
}

static bool may_send(const struct traffic *traffic, const struct room *room, uint64_t now)
{
    if (!traffic->publishing || room->sent >= traffic->stop_at ||
        room->credit - room->credit_used < room->frame_bytes)
        return false;
    if (traffic->options.window)
        return room->sent - room->done < traffic->options.window;
    return traffic->options.rate > 0 && due_of(traffic, room) <= now;
}

static void add_frame(struct traffic *traffic, struct room *room, uint64_t now)
{
    uint64_t index = room->sent;
    uint8_t *out = room->out + room->out_bytes;
    struct head head = {
        .index = index,
        .sent_ns = traffic->options.window ? now : due_of(traffic, room),
        .room = room->stream.number,
        .bytes = (uint32_t)room->stream.payload_bytes,
    };
    memcpy(out, room->prefix, room->prefix_bytes);
    if (traffic->dialect->stamp)
        traffic->dialect->stamp(out, index + 1, (int64_t)(head.sent_ns / 1000),
                                index % traffic->options.key_every == 0 ? TIM_FLAG_KEY : 0);
    out += room->prefix_bytes;
    memcpy(out, &head, sizeof head);
    memcpy(out + sizeof head, pattern_of(index), room->stream.payload_bytes - sizeof head);
    memcpy(out + room->stream.payload_bytes, "\r\n", traffic->dialect->suffix_bytes);
    if (traffic->options.window) {
        room->remaining[index & traffic->ring_mask] = traffic->options.subscribers;
    } else {
        histogram_add(&traffic->counters->late, now - head.sent_ns);
    }
    room->out_bytes += room->frame_bytes;
    room->credit_used += room->frame_bytes;
    room->sent++;
}

static void pump_room(struct traffic *traffic, struct room *room, uint64_t now)
{
    for (;;) {
        if (room->out_at == room->out_bytes) {
            room->out_at = room->out_bytes = 0;
            while (room->out_bytes + room->frame_bytes <= room->out_size &&
                   may_send(traffic, room, now))
                add_frame(traffic, room, now);
            if (room->out_bytes == 0)
                return;
        }
        ssize_t sent = send(room->publisher->fd, room->out + room->out_at,
                            room->out_bytes - room->out_at, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            fail("publisher %u: %s", room->publisher->id, strerror(errno));
        room->out_at += sent > 0 ? (size_t)sent : 0;
        bool blocked = room->out_at < room->out_bytes;
        if (blocked != room->blocked) {
            room->blocked = blocked;
            watch(traffic, EPOLL_CTL_MOD, room->publisher, EPOLLIN | (blocked ? EPOLLOUT : 0u));
        }
        if (blocked)
            return;
        now = now_ns();
    }
}

void traffic_pump(struct traffic *traffic, uint64_t now)
{
    for (unsigned i = 0; i < traffic->options.rooms; i++)
        if (!traffic->rooms[i].blocked)
            pump_room(traffic, &traffic->rooms[i], now);
}

/* -- the loop's one turn ------------------------------------------------------------------- */

void traffic_poll(struct traffic *traffic, uint64_t wait_ns)
{
    struct epoll_event events[EVENTS];
    if (traffic->publishing && traffic->options.rate > 0) {
        uint64_t now = now_ns(), first = UINT64_MAX;
        for (unsigned i = 0; i < traffic->options.rooms; i++) {
            uint64_t due = due_of(traffic, &traffic->rooms[i]);
            if (!traffic->rooms[i].blocked && due < first)
                first = due;
        }
        uint64_t until = first > now ? first - now : 0;
        wait_ns = until < wait_ns ? until : wait_ns;
    }
    if (traffic->publishing && traffic->options.spin)
        wait_ns = 0;
    struct timespec wait = {(time_t)(wait_ns / 1000000000ull), (long)(wait_ns % 1000000000ull)};
    int count = epoll_pwait2(traffic->epoll, events, EVENTS, &wait, NULL);
    if (count < 0 && errno != EINTR)
        fail("epoll_pwait2: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        struct conn *conn = events[i].data.ptr;
        if (!conn->connected) {
            on_connected(traffic, conn);
            continue;
        }
        if (events[i].events & EPOLLOUT && conn->role == PUBLISHER && conn->room->blocked)
            pump_room(traffic, conn->room, now_ns());
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !read_conn(traffic, conn))
            fail("%s %u: the server closed the connection (%s)", role_name(conn), conn->id,
                 conn->ended);
    }
}

bool traffic_drained(const struct traffic *traffic)
{
    for (unsigned i = 0; i < traffic->options.rooms; i++) {
        const struct room *room = &traffic->rooms[i];
        if (room->out_at < room->out_bytes)
            return false;
        for (unsigned k = 0; k < traffic->options.subscribers; k++)
            if (room->subscribers[k].next < room->sent)
                return false;
    }
    for (unsigned i = 0; i < traffic->options.joiners; i++) {
        const struct conn *conn = &traffic->joiners[i];
        if (conn->fd >= 0 && (!conn->joined || conn->next < conn->room->sent))
            return false;
    }
    return true;
}

/* -- the stalled ones ---------------------------------------------------------------------- */

void traffic_park_stalled(struct traffic *traffic)
{
    for (unsigned i = 0; i < traffic->options.stalled; i++) {
        struct conn *conn = &traffic->stalled[i];
        if (!conn->parked)
            epoll_ctl(traffic->epoll, EPOLL_CTL_DEL, conn->fd, NULL);
        conn->parked = true;
    }
}

void traffic_read_stalled(struct traffic *traffic, unsigned limit_ms)
{
    uint64_t deadline = now_ns() + limit_ms * 1000000ull;
    for (unsigned i = 0; i < traffic->options.stalled; i++) {
        struct conn *conn = &traffic->stalled[i];
        conn->bytes = conn->frames = 0;
        while (!conn->ended) {
            struct pollfd poll_one = {.fd = conn->fd, .events = POLLIN};
            uint64_t now = now_ns();
            if (now >= deadline ||
                poll(&poll_one, 1, (int)((deadline - now) / 1000000ull) + 1) == 0)
                break;
            read_conn(traffic, conn);
        }
        if (!conn->ended)
            conn->ended = "open";
    }
}

void traffic_remove_rooms(struct traffic *traffic)
{
    if (!traffic->dialect->stamp)
        return;
    for (unsigned i = 0; i < traffic->options.rooms; i++) {
        uint8_t request[64], answer[4096];
        struct conn *conn = traffic->rooms[i].publisher;
        struct pollfd poll_one = {.fd = conn->fd, .events = POLLIN};
        send_small(conn, request, tim_remove_room(request, conn->room->stream.room));
        /* Read until it is quiet, so that closing does not overtake the request. */
        while (poll(&poll_one, 1, 50) == 1 && recv(conn->fd, answer, sizeof answer, 0) > 0)
            continue;
    }
}
