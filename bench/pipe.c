/* The floor of the row F1: a plain relay between two sockets.
 *
 * What one connection sends is written to the other, up to 256 KiB at a time, by
 * blocking calls and without a look at it. A connection begins with 'P', it sends, or
 * 'S', it receives; with one of each it begins, and it ends when 'P' does.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_BYTES = 256 * 1024 };

static uint8_t incoming[READ_BYTES];

static void die(const char *what)
{
    fprintf(stderr, "pipe: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void send_all(int fd, const uint8_t *bytes, size_t size)
{
    while (size) {
        ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);
        if (sent < 0)
            die("send");
        bytes += sent;
        size -= (size_t)sent;
    }
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) != 0 ||
        listen(listener, 16) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &length) != 0)
        die("listen");
    printf("listening tcp 127.0.0.1:%u\n", ntohs(address.sin_port));
    fflush(stdout);

    int from = -1, to = -1;
    while (from < 0 || to < 0) {
        int on = 1, fd = accept(listener, NULL, NULL);
        char which;
        if (fd < 0)
            die("accept");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (recv(fd, &which, 1, 0) != 1)
            close(fd);
        else
            *(which == 'P' ? &from : &to) = fd;
    }
    ssize_t got;
    while ((got = recv(from, incoming, sizeof incoming, 0)) > 0)
        send_all(to, incoming, (size_t)got);
    if (got < 0)
        die("recv");
    /* Its CPU time is read while it lives. */
    shutdown(to, SHUT_WR);
    pause();
}
