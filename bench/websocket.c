#define _GNU_SOURCE
#include "websocket.h"

#include <stdio.h>
#include <string.h>

enum { MASKED = 0x80, LENGTH_16 = 126, LENGTH_64 = 127 };

size_t ws_request(uint8_t *out, unsigned port, bool own)
{
    return (size_t)snprintf((char *)out, WS_REQUEST_MAX,
                            "GET /%s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nUpgrade: websocket\r\n"
                            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                            "%s\r\n",
                            own ? "ws" : "tim", port,
                            own ? "Sec-WebSocket-Protocol: tim.1\r\n" : "");
}

size_t ws_response(const uint8_t *in, size_t size)
{
    static const char accepted[] = "HTTP/1.1 101 ";
    const uint8_t *end = memmem(in, size, "\r\n\r\n", 4);
    if (!end)
        return 0;
    if (memcmp(in, accepted, sizeof accepted - 1) != 0)
        return size + 1;
    return (size_t)(end - in) + 4;
}

size_t ws_head(uint8_t *out, uint8_t opcode, size_t size)
{
    size_t at = 2;
    out[0] = opcode;
    if (size < LENGTH_16) {
        out[1] = (uint8_t)(MASKED | size);
    } else {
        out[1] = MASKED | LENGTH_16;
        out[at++] = (uint8_t)(size >> 8);
        out[at++] = (uint8_t)size;
    }
    memset(out + at, 0, 4);
    return at + 4;
}

size_t ws_parse(const uint8_t *in, size_t size, uint8_t *opcode, uint64_t *length)
{
    if (size < 2)
        return 0;
    size_t more = in[1] == LENGTH_16 ? 2 : in[1] == LENGTH_64 ? 8 : 0;
    if (size < 2 + more)
        return 0;
    *opcode = in[0];
    *length = more ? 0 : in[1];
    for (size_t i = 0; i < more; i++)
        *length = *length << 8 | in[2 + i];
    return 2 + more;
}
