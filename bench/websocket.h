/* WebSocket as a client sees it: RFC 6455, for servers that do not fragment. */
#ifndef BENCH_WEBSOCKET_H
#define BENCH_WEBSOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WS_HEAD_MAX = 14, WS_REQUEST_MAX = 512 };
enum { WS_BINARY = 0x82, WS_CLOSE = 0x88 }; /* with the bit for "final" */

/* The opening request, for our own protocol at /ws or for that of TIM's clients at /tim. */
size_t ws_request(uint8_t *out, unsigned port, bool own);
/* The bytes of the response that accepts it; 0 for not complete; more than `size` for refused. */
size_t ws_response(const uint8_t *in, size_t size);
/* What stands before a message to the server. Its mask is 0, so that the bytes stay as
 * they are; a browser's would be random, which is for proxies between. */
size_t ws_head(uint8_t *out, uint8_t opcode, size_t size);
/* The header of a message from the server, 0 for not complete. */
size_t ws_parse(const uint8_t *in, size_t size, uint8_t *opcode, uint64_t *length);

#endif
