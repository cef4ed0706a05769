/* api_http.c: see api_http.h. RFC 9112. */
#include "api_http.h"

#include <string.h>

/* ---- words ------------------------------------------------------------------------------------------------------------ */

static bool is_letter(uint8_t c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

static int hex(uint8_t c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool api_equals(struct http_slice slice, const char *lower) {
    uint32_t i = 0;
    for (; i < slice.size && lower[i] != '\0'; i++) {
        const uint8_t c = slice.at[i];
        if ((c >= 'A' && c <= 'Z' ? c | 0x20 : c) != (uint8_t)lower[i]) {
            return false;
        }
    }
    return i == slice.size && lower[i] == '\0';
}

bool api_error_type(struct http_slice text, const char *family) {
    const uint32_t size = (uint32_t)strlen(family);
    if (text.size < size + 3 || text.size >= API_ERROR_TYPE_BYTES_MAX || memcmp(text.at, family, size) != 0 || text.at[size] != '.' ||
        text.at[size + 1] < 'A' || text.at[size + 1] > 'Z') {
        return false;
    }
    for (uint32_t i = size + 2; i < text.size; i++) {
        if (!is_letter(text.at[i])) {
            return false;
        }
    }
    return true;
}

void api_error_type_copy(struct http_slice text, char out[API_ERROR_TYPE_BYTES_MAX]) {
    static const char *const families[] = {"Runtime", "Function", "Extension"};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        if (api_error_type(text, families[i])) {
            memcpy(out, text.at, text.size);
            out[text.size] = '\0';
            return;
        }
    }
    const bool runtime = text.size >= 8 && memcmp(text.at, "Runtime.", 8) == 0;
    const bool extension = text.size >= 10 && memcmp(text.at, "Extension.", 10) == 0;
    strcpy(out, runtime ? "Runtime.Unknown" : extension ? "Extension.Unknown" : "Function.Unknown");
}

static int base64_digit(uint8_t c) {
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }
    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }
    if (c >= '0' && c <= '9') {
        return c - '0' + 52;
    }
    return c == '+' || c == '-' ? 62 : c == '/' || c == '_' ? 63 : -1;
}

int64_t api_base64(struct http_slice text, uint8_t *out, size_t room) {
    uint32_t size = text.size;
    for (int i = 0; i < 2 && size > 0 && text.at[size - 1] == '='; i++) {
        size--;
    }
    if (size % 4 == 1) {
        return -1;
    }
    uint32_t word = 0;
    size_t used = 0;
    for (uint32_t i = 0; i < size; i++) {
        const int digit = base64_digit(text.at[i]);
        if (digit < 0) {
            return -1;
        }
        word = word << 6 | (uint32_t)digit;
        if (i % 4 != 0) {
            if (used == room) {
                return -1;
            }
            out[used++] = (uint8_t)(word >> (6 - 2 * (i % 4)));
        }
    }
    return (int64_t)used;
}

/* ---- heads ------------------------------------------------------------------------------------------------------------ */

/* The section's length with the empty line at its end; 0: not there yet; -1: it has a line end of its own kind. */
static int64_t section_bytes(const uint8_t *in, size_t bytes, bool may_be_empty) {
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
            return at == in && !may_be_empty ? -1 : end + 1 - in;
        }
        left -= (size_t)(end + 1 - at);
        at = end + 1;
    }
}

struct path {
    const char *path;
    const char *method;
    enum api_route route;
};

static const struct path paths[] = {
    {"/2018-06-01/runtime/invocation/next", "GET", ROUTE_NEXT},
    {"/2018-06-01/runtime/init/error", "POST", ROUTE_INIT_ERROR},
    {"/2018-06-01/runtime/restore/next", "GET", ROUTE_RESTORE_NEXT},
    {"/2018-06-01/runtime/restore/error", "POST", ROUTE_RESTORE_ERROR},
    {"/2018-06-01/ping", "GET", ROUTE_PING},
    {"/2020-01-01/extension/register", "POST", ROUTE_REGISTER},
    {"/2020-01-01/extension/event/next", "GET", ROUTE_EVENT_NEXT},
    {"/2020-01-01/extension/init/error", "POST", ROUTE_EXTENSION_INIT_ERROR},
    {"/2020-01-01/extension/exit/error", "POST", ROUTE_EXTENSION_EXIT_ERROR},
    {"/2022-07-01/telemetry", "PUT", ROUTE_TELEMETRY},
    {"/2020-08-15/logs", "PUT", ROUTE_LOGS},
};

static bool is(struct http_slice slice, const char *text) {
    return slice.size == strlen(text) && memcmp(slice.at, text, slice.size) == 0;
}

/* 8-4-4-4-12 hexadecimal digits. */
static bool read_id(struct http_slice text, uint8_t out[16]) {
    uint32_t used = 0;
    if (text.size != 36) {
        return false;
    }
    for (uint32_t i = 0; i < 36; i++) {
        if (i == 8 || i == 13 || i == 18 || i == 23) {
            if (text.at[i] != '-') {
                return false;
            }
            continue;
        }
        const int digit = hex(text.at[i]);
        if (digit < 0) {
            return false;
        }
        out[used / 2] = (uint8_t)(used % 2 == 0 ? digit << 4 : out[used / 2] | digit);
        used++;
    }
    return true;
}

/* /2018-06-01/runtime/invocation/ID/response, or /error */
static enum api_route route_of_call(struct http_slice path, struct http_slice method, struct api_head *out) {
    static const char prefix[] = "/2018-06-01/runtime/invocation/";
    const uint32_t before = sizeof prefix - 1;
    if (path.size <= before || memcmp(path.at, prefix, before) != 0) {
        return ROUTE_UNKNOWN;
    }
    const struct http_slice rest = {path.at + before, path.size - before};
    const uint8_t *const slash = memchr(rest.at, '/', rest.size);
    if (slash == NULL) {
        return ROUTE_UNKNOWN;
    }
    const struct http_slice id = {rest.at, (uint32_t)(slash - rest.at)};
    const struct http_slice what = {slash + 1, rest.size - id.size - 1};
    const enum api_route route = is(what, "response") ? ROUTE_RESPONSE : is(what, "error") ? ROUTE_ERROR : ROUTE_UNKNOWN;
    if (route == ROUTE_UNKNOWN) {
        return route;
    }
    out->id_good = read_id(id, out->id);
    return is(method, "POST") ? route : ROUTE_METHOD;
}

static enum api_route route_of(struct http_slice path, struct http_slice method, struct api_head *out) {
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        if (is(path, paths[i].path)) {
            return is(method, paths[i].method) ? paths[i].route : ROUTE_METHOD;
        }
    }
    return route_of_call(path, method, out);
}

/* "METHOD TARGET HTTP/1.x" in [at, end). */
static bool read_line(const uint8_t *at, const uint8_t *end, struct api_head *out, bool *old) {
    static const char version[] = " HTTP/1.";
    const size_t tail = sizeof version; /* and a digit */
    const uint8_t *const blank = memchr(at, ' ', (size_t)(end - at));
    if (blank == NULL || blank == at || (size_t)(end - blank) < tail + 1 || memcmp(end - tail, version, tail - 1) != 0 ||
        (end[-1] != '0' && end[-1] != '1')) {
        return false;
    }
    *old = end[-1] == '0';
    const struct http_slice method = {at, (uint32_t)(blank - at)};
    struct http_slice target = {blank + 1, (uint32_t)(end - tail - blank - 1)};
    for (uint32_t i = 0; i < method.size; i++) {
        if (!http_is_token(method.at[i])) {
            return false;
        }
    }
    for (uint32_t i = 0; i < target.size; i++) {
        if (target.at[i] <= ' ' || target.at[i] >= 0x7f) {
            return false;
        }
    }
    const uint8_t *const query = target.size == 0 ? NULL : memchr(target.at, '?', target.size);
    target.size = query == NULL ? target.size : (uint32_t)(query - target.at);
    out->route = route_of(target, method, out);
    return target.size > 0;
}

static bool read_length(struct http_slice value, uint64_t *length) {
    if (value.size == 0 || value.size > 15) {
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

struct wanted {
    const char *name;
    size_t at; /* of its slice in struct api_head */
};

static const struct wanted wanted[] = {
    {"lambda-runtime-function-error-type", offsetof(struct api_head, error_type)},
    {"lambda-extension-function-error-type", offsetof(struct api_head, error_type)},
    {"lambda-runtime-function-response-mode", offsetof(struct api_head, mode)},
    {"content-type", offsetof(struct api_head, content_type)},
    {"lambda-extension-name", offsetof(struct api_head, extension_name)},
    {"lambda-extension-identifier", offsetof(struct api_head, extension_id)},
    {"lambda-extension-accept-feature", offsetof(struct api_head, features)},
};

struct seen {
    bool length, coding, keep;
};

/* false: it contradicts another, or itself. */
static bool heed(const struct http_header *header, struct seen *seen, struct api_head *out) {
    if (api_equals(header->name, "content-length")) {
        const bool first = !seen->length && !seen->coding;
        seen->length = true;
        return first && read_length(header->value, &out->length);
    }
    if (api_equals(header->name, "transfer-encoding")) {
        const bool first = !seen->length && !seen->coding;
        seen->coding = out->chunked = true;
        return first && api_equals(header->value, "chunked");
    }
    if (api_equals(header->name, "connection")) {
        seen->keep = seen->keep || api_equals(header->value, "keep-alive");
        out->close = out->close || api_equals(header->value, "close");
        return true;
    }
    if (api_equals(header->name, "expect")) {
        out->expects = api_equals(header->value, "100-continue");
        return out->expects;
    }
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        if (api_equals(header->name, wanted[i].name)) {
            memcpy((uint8_t *)out + wanted[i].at, &header->value, sizeof header->value);
        }
    }
    return true;
}

enum api_read api_head_read(const uint8_t *in, size_t bytes, struct api_head *out) {
    const int64_t size = section_bytes(in, bytes < API_HEAD_BYTES_MAX ? bytes : API_HEAD_BYTES_MAX, false);
    if (size <= 0) {
        return size < 0 ? API_READ_BROKEN : bytes < API_HEAD_BYTES_MAX ? API_READ_MORE : API_READ_LONG;
    }
    *out = (struct api_head){.bytes = (uint32_t)size};
    const uint8_t *const last = in + size - 2; /* the empty line */
    const uint8_t *end = memchr(in, '\r', (size_t)size);
    bool old = false;
    if (end[1] != '\n' || !read_line(in, end, out, &old)) {
        return API_READ_BROKEN;
    }
    struct seen seen = {0};
    unsigned count = 0;
    for (const uint8_t *at = end + 2; at < last; at = end + 2) {
        struct http_header header;
        end = memchr(at, '\r', (size_t)(last - at));
        if (end == NULL || end[1] != '\n' || count++ == API_HEADERS_MAX || !http_read_header(at, end, &header) ||
            !heed(&header, &seen, out)) {
            return API_READ_BROKEN;
        }
    }
    if (old) {
        out->close = out->close || !seen.keep;
        out->expects = false;
        if (out->chunked) {
            return API_READ_BROKEN;
        }
    }
    return API_READ_WHOLE;
}

/* ---- chunked bodies --------------------------------------------------------------------------------------------------- */

enum chunk_state { CHUNK_SIZE, CHUNK_EXTENSION, CHUNK_SIZE_LF, CHUNK_DATA, CHUNK_DATA_CR, CHUNK_DATA_LF, CHUNK_TRAILER, CHUNK_END };

enum { CHUNK_LINE_BYTES_MAX = 256 };

/* One byte of what stands between the data; false: it cannot stand there. */
static bool between(struct api_chunks *chunks, uint8_t c) {
    switch ((enum chunk_state)chunks->state) {
    case CHUNK_SIZE: {
        const int digit = hex(c);
        if (++chunks->line_bytes > CHUNK_LINE_BYTES_MAX) {
            return false;
        }
        if (digit >= 0 && chunks->digits < 8) {
            chunks->left = chunks->left << 4 | (uint64_t)digit;
            chunks->digits++;
            return true;
        }
        chunks->state = c == '\r' ? CHUNK_SIZE_LF : CHUNK_EXTENSION;
        return chunks->digits > 0 && (c == '\r' || c == ';' || c == ' ' || c == '\t');
    }
    case CHUNK_EXTENSION:
        if (c == '\r') {
            chunks->state = CHUNK_SIZE_LF;
            return true;
        }
        return ++chunks->line_bytes <= CHUNK_LINE_BYTES_MAX && (c >= ' ' || c == '\t') && c != 0x7f;
    case CHUNK_SIZE_LF:
        chunks->state = chunks->left > 0 ? CHUNK_DATA : CHUNK_TRAILER;
        return c == '\n';
    case CHUNK_DATA_CR:
        chunks->state = CHUNK_DATA_LF;
        return c == '\r';
    case CHUNK_DATA_LF:
        chunks->state = CHUNK_SIZE;
        chunks->digits = 0;
        chunks->line_bytes = 0;
        return c == '\n';
    case CHUNK_DATA: case CHUNK_TRAILER: case CHUNK_END:
        break;
    }
    return false;
}

/* Line by line: an empty one ends it. trailer_bytes counts all; line_bytes those of the line. */
static enum api_piece trailer(struct api_chunks *chunks, const uint8_t *in, size_t bytes, size_t *taken, struct http_slice *piece) {
    for (size_t i = 0; i < bytes; i++) {
        const uint8_t c = in[i];
        if (++chunks->trailer_bytes > API_TRAILER_BYTES_MAX || (chunks->digits == '\r') != (c == '\n')) {
            return API_PIECE_BROKEN; /* a CR without its LF, or the other way round */
        }
        if (c == '\n' && chunks->line_bytes == 1) {
            chunks->state = CHUNK_END;
            *taken = i + 1;
            *piece = (struct http_slice){in, (uint32_t)(i + 1)};
            return API_PIECE_TRAILER;
        }
        chunks->line_bytes = c == '\n' ? 0 : chunks->line_bytes + 1;
        chunks->digits = c == '\r' ? '\r' : 0;
    }
    *taken = bytes;
    *piece = (struct http_slice){in, (uint32_t)bytes};
    return bytes == 0 ? API_PIECE_MORE : API_PIECE_TRAILER;
}

enum api_piece api_chunks_read(struct api_chunks *chunks, const uint8_t *in, size_t bytes, size_t *taken, struct http_slice *piece) {
    size_t at = 0;
    *taken = 0;
    while (at < bytes || chunks->state == CHUNK_END) {
        if (chunks->state == CHUNK_END) {
            *taken = at;
            return API_PIECE_END;
        }
        if (chunks->state == CHUNK_DATA) {
            const size_t part = bytes - at < chunks->left ? bytes - at : (size_t)chunks->left;
            *piece = (struct http_slice){in + at, (uint32_t)part};
            *taken = at + part;
            chunks->left -= part;
            chunks->state = chunks->left == 0 ? CHUNK_DATA_CR : CHUNK_DATA;
            return API_PIECE_DATA;
        }
        if (chunks->state == CHUNK_TRAILER) {
            const enum api_piece what = trailer(chunks, in + at, bytes - at, taken, piece);
            *taken += at;
            return what;
        }
        if (!between(chunks, in[at])) {
            return API_PIECE_BROKEN;
        }
        at++;
        if (chunks->state == CHUNK_TRAILER) {
            chunks->digits = 0;
            chunks->line_bytes = 0;
        }
    }
    *taken = at;
    return API_PIECE_MORE;
}

bool api_trailers_read(const uint8_t *in, size_t bytes, struct api_trailers *out) {
    *out = (struct api_trailers){0};
    if (bytes < 2 || section_bytes(in, bytes, true) != (int64_t)bytes) {
        return false;
    }
    const uint8_t *const last = in + bytes - 2;
    const uint8_t *end;
    for (const uint8_t *at = in; at < last; at = end + 2) {
        struct http_header header;
        end = memchr(at, '\r', (size_t)(last - at));
        if (end == NULL || end[1] != '\n' || !http_read_header(at, end, &header)) {
            return false;
        }
        if (api_equals(header.name, "lambda-runtime-function-error-type")) {
            out->error_type = header.value;
        } else if (api_equals(header.name, "lambda-runtime-function-error-body")) {
            out->error_body = header.value;
        }
    }
    return true;
}
