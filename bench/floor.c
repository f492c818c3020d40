/* The floor: the least a relay can do.
 *
 * Bytes read from a room's publisher are written to each of its subscribers, without a
 * look at them. What a socket does not take waits in that subscriber's own buffer, so
 * nothing is ever dropped. A connection begins with 'P' or 'S' and a u16 room number,
 * and is answered with '+'. One thread, epoll, loopback only.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 256 * 1024, ROOMS = 1024, EVENTS = 256 };

struct conn {
    int fd;
    int room; /* -1: has not said which */
    bool publisher;
    unsigned place; /* among the room's subscribers */
    uint8_t *pending;
    size_t pending_at, pending_bytes, pending_size;
};

struct room {
    struct conn **subscribers;
    unsigned count, size;
};

static struct room rooms[ROOMS];
static uint8_t incoming[READ_BYTES];
static int epoll;

static void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void watch(int operation, struct conn *conn, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = conn};
    if (epoll_ctl(epoll, operation, conn->fd, &event) != 0)
        die("epoll_ctl");
}

static void keep_pending(struct conn *conn, const uint8_t *bytes, size_t size)
{
    if (conn->pending_bytes + size > conn->pending_size) {
        size_t held = conn->pending_bytes - conn->pending_at;
        memmove(conn->pending, conn->pending + conn->pending_at, held);
        conn->pending_at = 0;
        conn->pending_bytes = held;
        if (held + size > conn->pending_size) {
            conn->pending_size = 2 * (held + size);
            conn->pending = realloc(conn->pending, conn->pending_size);
            if (!conn->pending)
                die("realloc");
        }
    }
    memcpy(conn->pending + conn->pending_bytes, bytes, size);
    conn->pending_bytes += size;
}

static void deliver(struct conn *conn, const uint8_t *bytes, size_t size)
{
    if (conn->pending_bytes) {
        keep_pending(conn, bytes, size);
        return;
    }
    ssize_t sent = send(conn->fd, bytes, size, MSG_NOSIGNAL);
    if (sent == (ssize_t)size)
        return;
    if (sent < 0) {
        if (errno != EAGAIN)
            return; /* epoll tells of it */
        sent = 0;
    }
    keep_pending(conn, bytes + sent, size - (size_t)sent);
    watch(EPOLL_CTL_MOD, conn, EPOLLIN | EPOLLOUT);
}

static void flush(struct conn *conn)
{
    if (conn->pending_at == conn->pending_bytes)
        return;
    ssize_t sent = send(conn->fd, conn->pending + conn->pending_at,
                        conn->pending_bytes - conn->pending_at, MSG_NOSIGNAL);
    if (sent < 0)
        return;
    conn->pending_at += (size_t)sent;
    if (conn->pending_at == conn->pending_bytes) {
        conn->pending_at = conn->pending_bytes = 0;
        watch(EPOLL_CTL_MOD, conn, EPOLLIN);
    }
}

static void accept_all(int listener)
{
    for (;;) {
        int on = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EAGAIN)
                return;
            die("accept");
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct conn *conn = calloc(1, sizeof *conn);
        conn->fd = fd;
        conn->room = -1;
        watch(EPOLL_CTL_ADD, conn, EPOLLIN);
    }
}

static void drop(struct conn *conn)
{
    if (conn->room >= 0 && !conn->publisher) {
        struct room *room = &rooms[conn->room];
        room->subscribers[conn->place] = room->subscribers[--room->count];
        room->subscribers[conn->place]->place = conn->place;
    }
    close(conn->fd);
    free(conn->pending);
    free(conn);
}

/* The first three bytes. The client sends them at once and in one piece. */
static bool greet(struct conn *conn)
{
    uint8_t hello[3];
    if (recv(conn->fd, hello, sizeof hello, 0) != sizeof hello)
        return false;
    conn->room = (hello[1] << 8 | hello[2]) % ROOMS;
    conn->publisher = hello[0] == 'P';
    if (!conn->publisher) {
        struct room *room = &rooms[conn->room];
        if (room->count == room->size) {
            room->size = room->size ? 2 * room->size : 16;
            room->subscribers = realloc(room->subscribers, room->size * sizeof(struct conn *));
            if (!room->subscribers)
                die("realloc");
        }
        conn->place = room->count;
        room->subscribers[room->count++] = conn;
    }
    return send(conn->fd, "+", 1, MSG_NOSIGNAL) == 1;
}

static bool on_readable(struct conn *conn)
{
    if (conn->room < 0)
        return greet(conn);
    ssize_t got = recv(conn->fd, incoming, sizeof incoming, 0);
    if (got <= 0)
        return got < 0 && errno == EAGAIN;
    if (conn->publisher) {
        struct room *room = &rooms[conn->room];
        for (unsigned i = 0; i < room->count; i++)
            deliver(room->subscribers[i], incoming, (size_t)got);
    }
    return true;
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) != 0 ||
        listen(listener, 1024) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) != 0)
        die("listen");
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) != 0)
        die("epoll");
    printf("listening tcp 127.0.0.1:%u\n", ntohs(address.sin_port));
    fflush(stdout);

    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll, events, EVENTS, -1);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < count; i++) {
            struct conn *conn = events[i].data.ptr;
            if (!conn) {
                accept_all(listener);
                continue;
            }
            if (events[i].events & EPOLLOUT)
                flush(conn);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !on_readable(conn))
                drop(conn);
        }
    }
}
