/* api_http.h: the requests that a sandbox may send to the Runtime API, read from bytes, without input or output.
 *
 * Strict: HTTP/1.1 (or 1.0), CRLF, one way to say how long a body is. What is not one of the routes below is a request all the same
 * and is told so; what is no request ends the connection. The bytes are a stranger's. Nothing is allocated; what is found are slices
 * into the caller's buffer.
 */
#ifndef SCHED_API_HTTP_H
#define SCHED_API_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "http.h"

enum {
    API_HEAD_BYTES_MAX = (1 << 20) + (64 << 10), /* a header with the cause of an error may have 1 MiB */
    API_HEADERS_MAX = 100,
    API_TRAILER_BYTES_MAX = 256 << 10
};

enum api_route {
    ROUTE_UNKNOWN, ROUTE_METHOD, /* no such path; not by this method */
    ROUTE_NEXT, ROUTE_RESPONSE, ROUTE_ERROR, ROUTE_INIT_ERROR, ROUTE_RESTORE_NEXT, ROUTE_RESTORE_ERROR, ROUTE_PING,
    ROUTE_REGISTER, ROUTE_EVENT_NEXT, ROUTE_EXTENSION_INIT_ERROR, ROUTE_EXTENSION_EXIT_ERROR, ROUTE_TELEMETRY, ROUTE_LOGS,
    ROUTES
};

struct api_head {
    uint32_t bytes;                /* of it, with the empty line */
    enum api_route route;
    bool close;                    /* the connection is to be closed after the answer */
    bool expects;                  /* Expect: 100-continue */
    bool chunked;
    bool id_good;                  /* the path's request id has an id's form */
    uint8_t id[16];
    uint64_t length;               /* of the body, if it is not chunked */
    struct http_slice error_type;   /* Lambda-Runtime-Function-Error-Type, or an extension's */
    struct http_slice mode;         /* Lambda-Runtime-Function-Response-Mode */
    struct http_slice content_type;
    struct http_slice extension_name;
    struct http_slice extension_id;
    struct http_slice features;     /* Lambda-Extension-Accept-Feature */
};

enum api_read { API_READ_MORE, API_READ_WHOLE, API_READ_BROKEN, API_READ_LONG };

enum api_read api_head_read(const uint8_t *in, size_t bytes, struct api_head *out);

/* ---- chunked bodies --------------------------------------------------------------------------------------------------- */

/* Zero it to begin. */
struct api_chunks {
    uint8_t state;
    uint8_t digits;
    uint32_t line_bytes;           /* of the size's line, so that none is endless */
    uint32_t trailer_bytes;
    uint64_t left;                 /* of the chunk */
};

enum api_piece {
    API_PIECE_MORE,                /* nothing more to be had of these bytes */
    API_PIECE_DATA,
    API_PIECE_TRAILER,             /* bytes of the trailer section, which api_trailers_read() reads once all are there */
    API_PIECE_END,
    API_PIECE_BROKEN
};

/* The next piece of a chunked body. *taken: how many bytes of `in` are done with; *piece: of those, what DATA and TRAILER are. */
enum api_piece api_chunks_read(struct api_chunks *chunks, const uint8_t *in, size_t bytes, size_t *taken, struct http_slice *piece);

struct api_trailers {
    struct http_slice error_type;   /* Lambda-Runtime-Function-Error-Type */
    struct http_slice error_body;   /* -Body: base64 of the error object */
};

/* The whole section, with the empty line at its end. false: it is none. */
bool api_trailers_read(const uint8_t *in, size_t bytes, struct api_trailers *out);

/* ---- words ------------------------------------------------------------------------------------------------------------ */

enum { API_ERROR_TYPE_BYTES_MAX = 128 };

/* `(Runtime|Function|Extension)\.[A-Z][a-zA-Z]+`, of at most API_ERROR_TYPE_BYTES_MAX - 1 bytes. */
bool api_error_type(struct http_slice text, const char *family);
/* "FAMILY.Unknown" for what does not have that form. */
void api_error_type_copy(struct http_slice text, char out[API_ERROR_TYPE_BYTES_MAX]);
/* Without regard to the case of letters. */
bool api_equals(struct http_slice slice, const char *lower);
/* Decoded bytes, or -1: it is no base64, or longer than `room`. */
int64_t api_base64(struct http_slice text, uint8_t *out, size_t room);

#endif
