/* http.c: the reader of http.h. RFC 9112 in its strictest reading. */
#include "http.h"

#include <string.h>

bool http_is_token(uint8_t c) {
    if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z')) {
        return true;
    }
    return c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

bool http_is(struct http_slice slice, const char *lower) {
    const size_t size = strlen(lower);
    if (slice.size != size) {
        return false;
    }
    for (size_t i = 0; i < size; i++) {
        const uint8_t c = slice.at[i];
        if ((c >= 'A' && c <= 'Z' ? c | 0x20 : c) != (uint8_t)lower[i]) {
            return false;
        }
    }
    return true;
}

/* `lower` somewhere in it, in any case of letters. */
static bool holds(struct http_slice slice, const char *lower) {
    const uint32_t size = (uint32_t)strlen(lower);
    for (uint32_t i = 0; i + size <= slice.size; i++) {
        if (http_is((struct http_slice){slice.at + i, size}, lower)) {
            return true;
        }
    }
    return false;
}

struct http_slice http_header(const struct http_request *request, const char *name) {
    for (uint32_t i = 0; i < request->headers_count; i++) {
        if (http_is(request->headers[i].name, name)) {
            return request->headers[i].value;
        }
    }
    return (struct http_slice){0};
}

static int hex(uint8_t c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int http_decode(const uint8_t *text, size_t bytes, uint8_t *out, size_t room) {
    size_t used = 0;
    for (size_t i = 0; i < bytes; i++) {
        uint8_t c = text[i];
        if (c == '%') {
            if (bytes - i < 3 || hex(text[i + 1]) < 0 || hex(text[i + 2]) < 0) {
                return -1;
            }
            c = (uint8_t)(hex(text[i + 1]) << 4 | hex(text[i + 2]));
            i += 2;
        }
        if (used == room) {
            return -1;
        }
        out[used++] = c;
    }
    return (int)used;
}

/* The head's length with the empty line at its end; 0: not there yet; -1: it has a line end of its own kind. */
static int64_t head_bytes(const uint8_t *in, size_t bytes) {
    const uint8_t *at = in;
    size_t left = bytes;
    for (;;) {
        const uint8_t *const end = memchr(at, '\n', left);
        if (end == NULL) {
            return 0;
        }
        if (end == in || end[-1] != '\r') {
            return -1;
        }
        if (end == at + 1) {
            return at == in ? -1 : end + 1 - in;
        }
        left -= (size_t)(end + 1 - at);
        at = end + 1;
    }
}

static bool name_byte(uint8_t c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' || c == '_' || c == ':' || c == '$' ||
           c == '.';
}

static const char PREFIX[] = "/2015-03-31/functions/";
static const char SUFFIX[] = "/invocations";
static const char QUALIFIER[] = "Qualifier=";

/* NAME and the qualifier out of path and query. */
static bool read_function(struct http_request *out) {
    const size_t prefix = sizeof PREFIX - 1, suffix = sizeof SUFFIX - 1;
    const uint32_t path = out->path.size;
    if (path <= prefix + suffix || memcmp(out->path.at, PREFIX, prefix) != 0 ||
        memcmp(out->path.at + path - suffix, SUFFIX, suffix) != 0) {
        return false;
    }
    const uint8_t *const name = out->path.at + prefix;
    const size_t name_size = path - prefix - suffix;
    if (memchr(name, '/', name_size) != NULL) {
        return false;
    }
    int used = http_decode(name, name_size, out->function, 256);
    if (used <= 0) {
        return false;
    }
    if (out->query.at != NULL) {
        const size_t key = sizeof QUALIFIER - 1;
        if (out->query.size <= key || memcmp(out->query.at, QUALIFIER, key) != 0 ||
            memchr(out->query.at, '&', out->query.size) != NULL || memchr(out->query.at, '+', out->query.size) != NULL) {
            return false;
        }
        out->function[used++] = ':';
        const int more = http_decode(out->query.at + key, out->query.size - key, out->function + used, 128);
        if (more <= 0 || memchr(out->function + used, ':', (size_t)more) != NULL) {
            return false;
        }
        /* Two qualifiers may agree or not: rare enough to be looked at slowly. A name in an ARN's form has six colons. */
        unsigned colons = 0;
        for (int i = 0; i < used - 1; i++) {
            colons += out->function[i] == ':';
        }
        if (colons != 0 && colons != 2 && colons != 6) {
            return false;
        }
        used += more;
    }
    for (int i = 0; i < used; i++) {
        if (!name_byte(out->function[i])) {
            return false;
        }
    }
    out->function_bytes = (uint32_t)used;
    return true;
}

/* "METHOD /PATH[?QUERY] HTTP/1.1": the line's length without its end, 0: it is another one. */
static size_t read_line(const uint8_t *in, size_t bytes, struct http_request *out) {
    static const char version[] = " HTTP/1.1";
    const uint8_t *const end = memchr(in, '\r', bytes);
    const size_t size = end == NULL || end[1] != '\n' ? 0 : (size_t)(end - in); /* the head ends with more than a CR */
    const uint8_t *const blank = size == 0 ? NULL : memchr(in, ' ', size);
    const size_t before = blank == NULL ? 0 : (size_t)(blank - in) + 1, after = sizeof version - 1;
    if (before < 2 || size <= before + after || *(blank + 1) != '/' || memcmp(in + size - after, version, after) != 0) {
        return 0;
    }
    out->method = (struct http_slice){in, (uint32_t)before - 1};
    const struct http_slice target = {in + before, (uint32_t)(size - before - after)};
    for (uint32_t i = 0; i < target.size; i++) {
        if (target.at[i] <= ' ' || target.at[i] >= 0x7f) {
            return 0;
        }
    }
    const uint8_t *const question = memchr(target.at, '?', target.size);
    out->path = (struct http_slice){target.at, question == NULL ? target.size : (uint32_t)(question - target.at)};
    if (question != NULL) {
        out->query = (struct http_slice){question + 1, target.size - out->path.size - 1};
    }
    return size;
}

static bool is_method(const struct http_request *request, const char *name) {
    return request->method.size == strlen(name) && memcmp(request->method.at, name, request->method.size) == 0;
}

static bool host_byte(uint8_t c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
}

/* ID.lambda-url.REGION.DOMAIN[:PORT] in small letters, and a method that has nothing to do with the connection or other origins. */
static bool read_url(const struct http_request *request) {
    static const char label[] = ".lambda-url.";
    static const char *const methods[] = {"GET", "POST", "PUT", "DELETE", "PATCH"};
    const struct http_slice host = request->host;
    bool known = false;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        known = known || is_method(request, methods[i]);
    }
    const uint32_t begin = HTTP_URL_ID_BYTES + sizeof label - 1;
    if (!known || host.size <= begin || memcmp(host.at + HTTP_URL_ID_BYTES, label, sizeof label - 1) != 0) {
        return false;
    }
    for (uint32_t i = 0; i < HTTP_URL_ID_BYTES; i++) {
        if ((host.at[i] < 'a' || host.at[i] > 'z') && (host.at[i] < '2' || host.at[i] > '7')) {
            return false;
        }
    }
    uint32_t at = begin, dot = 0;
    for (; at < host.size && host_byte(host.at[at]); at++) {
        dot = dot == 0 && host.at[at] == '.' ? at : dot;
    }
    if (dot <= begin || dot + 1 >= at) {
        return false;
    }
    if (at == host.size) {
        return true;
    }
    const uint32_t digits = host.size - at - 1;
    for (uint32_t i = at + 1; i < host.size; i++) {
        if (host.at[i] < '0' || host.at[i] > '9') {
            return false;
        }
    }
    return host.at[at] == ':' && digits >= 1 && digits <= 5;
}

bool http_read_header(const uint8_t *at, const uint8_t *end, struct http_header *out) {
    const uint8_t *const colon = memchr(at, ':', (size_t)(end - at));
    if (colon == NULL || colon == at) {
        return false;
    }
    for (const uint8_t *c = at; c < colon; c++) {
        if (!http_is_token(*c)) {
            return false;
        }
    }
    const uint8_t *first = colon + 1;
    while (first < end && (*first == ' ' || *first == '\t')) {
        first++;
    }
    while (end > first && (end[-1] == ' ' || end[-1] == '\t')) {
        end--;
    }
    for (const uint8_t *c = first; c < end; c++) {
        if ((*c < ' ' && *c != '\t') || *c == 0x7f) {
            return false;
        }
    }
    out->name = (struct http_slice){at, (uint32_t)(colon - at)};
    out->value = (struct http_slice){first, (uint32_t)(end - first)};
    return true;
}

static bool read_length(struct http_slice value, uint64_t *length) {
    if (value.size == 0 || value.size > 9) {
        return false;
    }
    *length = 0;
    for (uint32_t i = 0; i < value.size; i++) {
        if (value.at[i] < '0' || value.at[i] > '9') {
            return false;
        }
        *length = *length * 10 + (uint64_t)(value.at[i] - '0');
    }
    return true;
}

enum { GUEST_BYTES = 256 };

struct seen {
    bool host, length, connection, kind, log, trace, guest, authorization, date, digest;
    bool url;   /* the host is a function URL's, or looks like it */
    bool other; /* something that no plain invocation says; to a function URL it is a header like any */
    uint64_t body_bytes;
};

static bool once(bool *seen) {
    const bool fresh = !*seen;
    *seen = true;
    return fresh;
}

static bool printable(struct http_slice value) {
    for (uint32_t i = 0; i < value.size; i++) {
        if (value.at[i] < ' ' || value.at[i] >= 0x7f) {
            return false;
        }
    }
    return value.size > 0 && value.size <= 1024;
}

/* Of an invocation alone. false: it is no plain one. */
static bool heed_invoke(const struct http_header *header, struct seen *seen, struct http_request *out) {
    static const char *const unusual[] = {"x-amz-client-context", "x-amz-durable-execution-name"};
    const struct http_slice name = header->name, value = header->value;
    if (http_is(name, "x-amz-invocation-type")) {
        return once(&seen->kind) && value.size == 15 && memcmp(value.at, "RequestResponse", 15) == 0;
    }
    if (http_is(name, "x-amz-log-type")) {
        out->log_tail = value.size == 4 && memcmp(value.at, "Tail", 4) == 0;
        return once(&seen->log) && (out->log_tail || (value.size == 4 && memcmp(value.at, "None", 4) == 0));
    }
    if (http_is(name, "x-amz-tenant-id")) {
        out->guest = value;
        return once(&seen->guest) && value.size <= GUEST_BYTES && printable(value);
    }
    for (size_t i = 0; i < sizeof unusual / sizeof *unusual; i++) {
        if (http_is(name, unusual[i])) {
            return false;
        }
    }
    return true;
}

/* false: this header, or its value, makes the request the slow side's. */
static bool heed(const struct http_header *header, struct seen *seen, struct http_request *out) {
    static const char *const unusual[] = {"transfer-encoding", "expect", "upgrade", "te", "trailer", "proxy-connection", "keep-alive",
                                          "content-encoding", "http2-settings"};
    const struct http_slice name = header->name, value = header->value;
    if (http_is(name, "content-length")) {
        return once(&seen->length) && read_length(value, &seen->body_bytes);
    }
    if (http_is(name, "host")) { /* a function URL has a host of its own, and any path */
        seen->url = holds(value, ".lambda-url.");
        out->host = value;
        return once(&seen->host);
    }
    if (http_is(name, "connection")) {
        out->close = http_is(value, "close");
        return once(&seen->connection) && (out->close || http_is(value, "keep-alive"));
    }
    if (http_is(name, "authorization")) {
        return once(&seen->authorization);
    }
    if (http_is(name, "x-amz-date")) {
        return once(&seen->date);
    }
    if (http_is(name, "x-amz-content-sha256")) {
        return once(&seen->digest);
    }
    if (http_is(name, "x-amzn-trace-id")) {
        out->trace = value;
        return once(&seen->trace) && printable(value);
    }
    for (size_t i = 0; i < sizeof unusual / sizeof *unusual; i++) {
        if (http_is(name, unusual[i])) {
            return false;
        }
    }
    seen->other = !heed_invoke(header, seen, out) || seen->other;
    return true;
}

enum http_verdict http_read(const uint8_t *in, size_t bytes, uint32_t most, struct http_request *out) {
    out->size = out->head_bytes = 0;
    out->body_hex = NULL;
    const int64_t head = head_bytes(in, bytes < HTTP_HEAD_BYTES_MAX ? bytes : HTTP_HEAD_BYTES_MAX);
    if (head == 0 && bytes < HTTP_HEAD_BYTES_MAX) {
        return HTTP_MORE;
    }
    out->method = out->path = out->query = out->host = out->body = out->trace = out->guest = (struct http_slice){0};
    out->log_tail = out->close = false;
    out->headers_count = 0;
    const size_t line = head <= 0 ? 0 : read_line(in, (size_t)head, out);
    if (line == 0) {
        return HTTP_HAND;
    }
    struct seen seen = {0};
    const uint8_t *const last = in + head - 2; /* the empty line */
    for (const uint8_t *at = in + line + 2; at < last;) {
        const uint8_t *const end = memchr(at, '\r', (size_t)(last - at));
        if (end == NULL || end[1] != '\n' || out->headers_count == HTTP_HEADERS_MAX) {
            return HTTP_HAND;
        }
        struct http_header *const header = &out->headers[out->headers_count++];
        if (!http_read_header(at, end, header) || !heed(header, &seen, out)) {
            return HTTP_HAND;
        }
        at = end + 2;
    }
    const bool good = seen.url ? read_url(out) : !seen.other && is_method(out, "POST") && read_function(out);
    if (!seen.host || !good || (uint64_t)head + seen.body_bytes > most) {
        return HTTP_HAND;
    }
    out->size = (uint32_t)((uint64_t)head + seen.body_bytes);
    out->head_bytes = (uint32_t)head;
    out->url = seen.url;
    if (bytes < out->size) {
        return HTTP_MORE;
    }
    out->body = (struct http_slice){in + head, (uint32_t)seen.body_bytes};
    return seen.url ? HTTP_URL : HTTP_INVOKE;
}
