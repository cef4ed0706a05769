/* http.h: HTTP/1.1 requests of the hot path from bytes, without input or output.
 *
 * Strict and small: POST /2015-03-31/functions/NAME/invocations[?Qualifier=Q], and anything to the host of a function URL, with a
 * body of a known length. Whatever is not exactly that, unusual or broken, is handed over with its bytes to the slow side, which
 * has a whole HTTP library and is the only one that says no: so a request can have one reading only.
 *
 * The bytes are a stranger's. Nothing is allocated; what is found are slices into the caller's buffer.
 */
#ifndef SCHED_HTTP_H
#define SCHED_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HTTP_HEAD_BYTES_MAX = 16 * 1024,
    HTTP_HEADERS_MAX = 64,
    HTTP_FUNCTION_BYTES_MAX = 256 + 1 + 128, /* name in any form, colon, qualifier */
    HTTP_URL_ID_BYTES = 32                   /* the first label of a function URL's host */
};

enum http_verdict {
    HTTP_MORE,   /* not whole yet */
    HTTP_INVOKE, /* whole, and all of it is as it should be */
    HTTP_URL,    /* the same, to a function URL; its id are the first HTTP_URL_ID_BYTES of the host */
    HTTP_HAND    /* the slow side's business; nothing else in the result counts */
};

struct http_slice {
    const uint8_t *at; /* NULL: absent */
    uint32_t size;
};

struct http_header {
    struct http_slice name;
    struct http_slice value; /* without the blanks around it */
};

struct http_request {
    uint32_t size;           /* of head and body; MORE: bytes wanted at least, 0 while the head is not whole */
    uint32_t head_bytes;     /* from here on all but the body is known, MORE or not, where it is not 0 */
    bool url;                /* it is one to a function URL */
    struct http_slice method;
    struct http_slice path;  /* as sent, percent-encoded */
    struct http_slice query;
    struct http_slice host;
    struct http_slice body;
    const char *body_hex;    /* the body's SHA-256, if the caller has it already; else NULL */
    struct http_slice trace;
    struct http_slice guest; /* X-Amz-Tenant-Id */
    bool log_tail;
    bool close;              /* the client wants the connection closed after the answer */
    uint32_t function_bytes; /* of an invocation */
    uint8_t function[HTTP_FUNCTION_BYTES_MAX]; /* decoded: NAME or NAME:QUALIFIER */
    uint32_t headers_count;
    struct http_header headers[HTTP_HEADERS_MAX];
};

/* `most`: head and body together; a larger one is the slow side's. */
enum http_verdict http_read(const uint8_t *in, size_t bytes, uint32_t most, struct http_request *out);

/* The value of a header by its lower-case name, or .at == NULL. */
struct http_slice http_header(const struct http_request *request, const char *name);

/* A name in any case of letters. */
bool http_is(struct http_slice slice, const char *lower);

bool http_is_token(uint8_t c);

/* One header line in [at, end), end at its line end; false: it is none. */
bool http_read_header(const uint8_t *at, const uint8_t *end, struct http_header *out);

/* Bytes of `text` (percent-encoded) decoded into out, or -1: broken, or more than `room`. */
int http_decode(const uint8_t *text, size_t bytes, uint8_t *out, size_t room);

#endif
