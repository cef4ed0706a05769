/* wire.h: the little of MessagePack-RPC that a load generator and a null server speak.
 *
 * Not a library: it reads what a well-behaved peer sends and calls everything else bad. Nothing is copied; slices point into
 * the caller's buffer.
 */
#ifndef BENCH_WIRE_H
#define BENCH_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { WIRE_BAD = -1, WIRE_MORE = 0 }; /* else: bytes of the message */

struct wire_slice {
    const uint8_t *at;
    size_t size;
};

struct wire_response {
    uint32_t msgid;
    bool failed;
    struct wire_slice error_type; /* of the error map, if failed */
    struct wire_slice payload;    /* contents of the result's first value if it is a bin or str */
};

struct wire_request {
    uint32_t msgid;
    struct wire_slice method;
    struct wire_slice function;
    struct wire_slice payload;
};

/* *need: at WIRE_MORE, do not ask again with fewer bytes than this. */
int64_t wire_read_response(const uint8_t *in, size_t size, struct wire_response *out, size_t *need);
int64_t wire_read_request(const uint8_t *in, size_t size, struct wire_request *out, size_t *need);

/* An invoke request with msgid 0, which lies big-endian at out + WIRE_MSGID_AT. deadline_ms 0: none. Returns its size;
 * out == NULL: the size alone. */
enum { WIRE_MSGID_AT = 3 };
size_t wire_make_invoke(uint8_t *out, const char *function, const uint8_t *payload, size_t payload_bytes,
                        uint32_t deadline_ms, bool report);
void wire_set_msgid(uint8_t *request, uint32_t msgid);

size_t wire_make_hello(uint8_t *out, uint32_t msgid, const char *token);

/* [1, msgid, nil, [payload, nil]] up to the payload's first byte, at most 16 bytes; the payload and one 0xc0 follow. */
size_t wire_make_answer_head(uint8_t *out, uint32_t msgid, size_t payload_bytes);
/* [1, msgid, {"type": type, "message": ""}, nil] */
size_t wire_make_error(uint8_t *out, uint32_t msgid, const char *type);

#endif
