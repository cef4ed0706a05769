/* urlevent.c: see urlevent.h. Texts go from the request into JSON texts as they are, escaped; what is not ASCII where HTTP has no
 * say about it (headers), and what is no UTF-8 where it is percent-encoded, is left to the slow side. */
#include "urlevent.h"

#include <time.h>

#include "json.h"
#include "writer.h"

enum { FIELDS_MAX = 64 };

static void quote_inside(struct writer *out, struct http_slice text) {
    static const char digits[] = "0123456789abcdef";
    uint32_t from = 0;
    if (text.size == 0) {
        return; /* it may be nowhere at all */
    }
    for (uint32_t i = 0; i < text.size; i++) {
        const uint8_t c = text.at[i];
        if (c >= 0x20 && c != '"' && c != '\\') {
            continue;
        }
        write_bytes(out, text.at + from, i - from);
        from = i + 1;
        const char *const known = c == 0 ? NULL : strchr("\"\"\\\\\bb\ff\nn\rr\tt", c); /* pairs: the byte, and its letter */
        if (known != NULL) {
            const char escape[2] = {'\\', known[1]};
            write_bytes(out, escape, sizeof escape);
        } else {
            const char escape[6] = {'\\', 'u', '0', '0', digits[c >> 4], digits[c & 15]};
            write_bytes(out, escape, sizeof escape);
        }
    }
    write_bytes(out, text.at + from, text.size - from);
}

static void quote(struct writer *out, struct http_slice text) {
    write_byte(out, '"');
    quote_inside(out, text);
    write_byte(out, '"');
}

static struct http_slice slice_of(const char *text) {
    return (struct http_slice){(const uint8_t *)text, (uint32_t)strlen(text)};
}

/* ,"key":"value" */
static void member(struct writer *out, const char *key, struct http_slice value) {
    write_text(out, ",\"");
    write_text(out, key);
    write_text(out, "\":");
    quote(out, value);
}

/* ---- headers ----------------------------------------------------------------------------------------------------------- */

static bool same(struct http_slice one, struct http_slice other) {
    if (one.size != other.size) {
        return false;
    }
    for (uint32_t i = 0; i < one.size; i++) {
        const uint8_t a = one.at[i], b = other.at[i];
        if ((a >= 'A' && a <= 'Z' ? a | 0x20 : a) != (b >= 'A' && b <= 'Z' ? b | 0x20 : b)) {
            return false;
        }
    }
    return true;
}

static bool ascii(struct http_slice text) {
    uint8_t any = 0;
    for (uint32_t i = 0; i < text.size; i++) {
        any |= text.at[i];
    }
    return any < 0x80;
}

/* Once only, else two readers could heed different ones. */
static bool must_be_alone(struct http_slice name) {
    static const char amz[] = "x-amz";
    return http_is(name, "authorization") || http_is(name, "content-type") ||
           (name.size >= sizeof amz - 1 && http_is((struct http_slice){name.at, sizeof amz - 1}, amz));
}

/* The values of all headers of this name from the first on, with commas between. false: there may be only one. */
static bool joined(struct writer *out, const struct http_request *request, uint32_t first) {
    const struct http_slice name = request->headers[first].name;
    write_byte(out, '"');
    quote_inside(out, request->headers[first].value);
    for (uint32_t i = first + 1; i < request->headers_count; i++) {
        if (same(request->headers[i].name, name)) {
            if (must_be_alone(name)) {
                return false;
            }
            write_byte(out, ',');
            quote_inside(out, request->headers[i].value);
        }
    }
    write_byte(out, '"');
    return true;
}

static bool is_first(const struct http_request *request, uint32_t index) {
    for (uint32_t i = 0; i < index; i++) {
        if (same(request->headers[i].name, request->headers[index].name)) {
            return false;
        }
    }
    return true;
}

static bool add_headers(struct writer *out, const struct http_request *request, const struct url_context *context) {
    write_text(out, ",\"headers\":{");
    const char *comma = "";
    for (uint32_t i = 0; i < request->headers_count; i++) {
        const struct http_header *const header = &request->headers[i];
        if (!ascii(header->value)) {
            return false;
        }
        if (http_is(header->name, "cookie") || !is_first(request, i)) {
            continue;
        }
        write_text(out, comma);
        write_byte(out, '"');
        for (uint32_t k = 0; k < header->name.size; k++) { /* a name's bytes are such that nothing is to be escaped */
            const uint8_t c = header->name.at[k];
            write_byte(out, c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c);
        }
        write_text(out, "\":");
        if (!joined(out, request, i)) {
            return false;
        }
        comma = ",";
    }
    if (http_header(request, "x-forwarded-for").at == NULL) {
        member(out, "x-forwarded-for", slice_of(context->peer)); /* not the first: there is a host */
    }
    if (http_header(request, "x-forwarded-proto").at == NULL) {
        member(out, "x-forwarded-proto", slice_of("http"));
    }
    write_byte(out, '}');
    return true;
}

static struct http_slice strip(struct http_slice text) {
    while (text.size > 0 && (*text.at == ' ' || *text.at == '\t')) {
        text.at++;
        text.size--;
    }
    while (text.size > 0 && (text.at[text.size - 1] == ' ' || text.at[text.size - 1] == '\t')) {
        text.size--;
    }
    return text;
}

/* Up to `end` (or to the end of `rest`), which is taken out too. */
static struct http_slice cut(struct http_slice *rest, uint8_t end) {
    const uint8_t *const found = memchr(rest->at, end, rest->size);
    const struct http_slice taken = {rest->at, found == NULL ? rest->size : (uint32_t)(found - rest->at)};
    const uint32_t gone = found == NULL ? rest->size : taken.size + 1;
    rest->at += gone;
    rest->size -= gone;
    return taken;
}

static void add_cookies(struct writer *out, const struct http_request *request) {
    if (http_header(request, "cookie").at == NULL) {
        return;
    }
    write_text(out, ",\"cookies\":[");
    const char *comma = "";
    for (uint32_t i = 0; i < request->headers_count; i++) {
        struct http_slice rest = request->headers[i].value;
        while (http_is(request->headers[i].name, "cookie") && rest.size > 0) {
            const struct http_slice cookie = strip(cut(&rest, ';'));
            if (cookie.size > 0) {
                write_text(out, comma);
                quote(out, cookie);
                comma = ",";
            }
        }
    }
    write_byte(out, ']');
}

/* ---- the query --------------------------------------------------------------------------------------------------------- */

struct fields {
    uint32_t count;
    struct http_slice keys[FIELDS_MAX];
    struct http_slice values[FIELDS_MAX];
    uint8_t decoded[HTTP_HEAD_BYTES_MAX];
    uint32_t used;
};

/* As forms have it: a plus is a blank. false: broken, or no UTF-8. */
static bool decode_field(struct fields *fields, struct http_slice text, struct http_slice *out) {
    uint8_t *const at = fields->decoded + fields->used;
    const int size = http_decode(text.at, text.size, at, sizeof fields->decoded - fields->used);
    if (size < 0) {
        return false;
    }
    /* A plus that was percent-encoded is one, so blanks are made of those in the text: each stands where its byte came to. */
    uint32_t to = 0;
    for (uint32_t i = 0; i < text.size; i += text.at[i] == '%' ? 3 : 1, to++) {
        if (text.at[i] == '+') {
            at[to] = ' ';
        }
    }
    *out = (struct http_slice){at, (uint32_t)size};
    fields->used += (uint32_t)size;
    return utf8_valid(at, (size_t)size);
}

static bool read_fields(struct http_slice query, struct fields *fields) {
    fields->count = fields->used = 0;
    while (query.size > 0) {
        struct http_slice value = cut(&query, '&');
        if (value.size == 0) {
            continue;
        }
        if (fields->count == FIELDS_MAX) {
            return false;
        }
        const struct http_slice key = cut(&value, '=');
        if (!decode_field(fields, key, &fields->keys[fields->count]) || !decode_field(fields, value, &fields->values[fields->count])) {
            return false;
        }
        fields->count++;
    }
    return true;
}

static bool equal(struct http_slice one, struct http_slice other) {
    return one.size == other.size && memcmp(one.at, other.at, one.size) == 0;
}

static bool add_query(struct writer *out, struct http_slice query) {
    struct fields fields;
    if (query.size == 0) {
        return true;
    }
    if (!read_fields(query, &fields)) {
        return false;
    }
    write_text(out, ",\"queryStringParameters\":{");
    const char *comma = "";
    for (uint32_t i = 0; i < fields.count; i++) {
        bool known = false;
        for (uint32_t k = 0; k < i && !known; k++) {
            known = equal(fields.keys[k], fields.keys[i]);
        }
        if (known) {
            continue;
        }
        write_text(out, comma);
        comma = ",";
        quote(out, fields.keys[i]);
        write_text(out, ":\"");
        quote_inside(out, fields.values[i]);
        for (uint32_t k = i + 1; k < fields.count; k++) {
            if (equal(fields.keys[k], fields.keys[i])) {
                write_byte(out, ',');
                quote_inside(out, fields.values[k]);
            }
        }
        write_byte(out, '"');
    }
    write_byte(out, '}');
    return true;
}

/* ---- the request's circumstances ---------------------------------------------------------------------------------------- */

static void two(struct writer *out, int value) {
    const char digits[2] = {(char)('0' + value / 10 % 10), (char)('0' + value % 10)};
    write_bytes(out, digits, sizeof digits);
}

/* 24/Nov/2026:21:55:00 +0000 */
static void add_time(struct writer *out, int64_t now_ms) {
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    const time_t now = (time_t)(now_ms / 1000);
    struct tm utc = {0};
    (void)gmtime_r(&now, &utc);
    write_text(out, ",\"time\":\"");
    two(out, utc.tm_mday);
    write_byte(out, '/');
    write_bytes(out, months + 3 * (utc.tm_mon % 12), 3);
    write_byte(out, '/');
    write_number(out, (uint64_t)utc.tm_year + 1900);
    write_byte(out, ':');
    two(out, utc.tm_hour);
    write_byte(out, ':');
    two(out, utc.tm_min);
    write_byte(out, ':');
    two(out, utc.tm_sec);
    write_text(out, " +0000\",\"timeEpoch\":");
    write_number(out, (uint64_t)now_ms);
}

static void add_caller(struct writer *out, const struct url_context *context) {
    const struct http_slice key = slice_of(context->key_id);
    write_text(out, ",\"authorizer\":{\"iam\":{\"accessKey\":");
    quote(out, key);
    member(out, "accountId", slice_of(context->account));
    member(out, "callerId", key);
    write_text(out, ",\"cognitoIdentity\":null,\"principalOrgId\":null,\"userArn\":\"arn:aws:iam::");
    quote_inside(out, slice_of(context->account));
    write_text(out, ":user/");
    quote_inside(out, key);
    write_byte(out, '"');
    member(out, "userId", key);
    write_text(out, "}}");
}

static bool add_context(struct writer *out, const struct http_request *request, const struct url_context *context) {
    uint8_t path[HTTP_HEAD_BYTES_MAX];
    const int path_bytes = http_decode(request->path.at, request->path.size, path, sizeof path);
    if (path_bytes < 0 || !utf8_valid(path, (size_t)path_bytes)) {
        return false;
    }
    struct http_slice host = request->host;
    const struct http_slice id = {host.at, HTTP_URL_ID_BYTES};
    write_text(out, ",\"requestContext\":{\"accountId\":");
    quote(out, slice_of(context->account == NULL ? "anonymous" : context->account));
    member(out, "apiId", id);
    if (context->account != NULL) {
        add_caller(out, context);
    }
    member(out, "domainName", cut(&host, ':'));
    member(out, "domainPrefix", id);
    write_text(out, ",\"http\":{\"method\":");
    quote(out, request->method);
    member(out, "path", (struct http_slice){path, (uint32_t)path_bytes});
    member(out, "protocol", slice_of("HTTP/1.1"));
    member(out, "sourceIp", slice_of(context->peer));
    write_text(out, ",\"userAgent\":");
    uint32_t agent = 0;
    while (agent < request->headers_count && !http_is(request->headers[agent].name, "user-agent")) {
        agent++;
    }
    if (agent == request->headers_count) {
        write_text(out, "\"\"");
    } else if (!joined(out, request, agent)) {
        return false;
    }
    write_byte(out, '}');
    member(out, "requestId", slice_of(context->request_id));
    write_text(out, ",\"routeKey\":\"$default\",\"stage\":\"$default\"");
    add_time(out, context->now_ms);
    write_byte(out, '}');
    return true;
}

/* ---- the body ------------------------------------------------------------------------------------------------------------ */

static bool begins(struct http_slice text, const char *lower) {
    const uint32_t size = (uint32_t)strlen(lower);
    return text.size >= size && http_is((struct http_slice){text.at, size}, lower);
}

/* text/..., or application/[...+]json and its like, whatever parameters follow. */
static bool is_text_type(struct http_slice type) {
    static const char *const kinds[] = {"json", "javascript", "xml", "x-www-form-urlencoded"};
    static const char application[] = "application/";
    if (begins(type, "text/")) {
        return true;
    }
    if (!begins(type, application)) {
        return false;
    }
    const struct http_slice rest = {type.at + sizeof application - 1, type.size - (uint32_t)(sizeof application - 1)};
    for (uint32_t i = 0; i < rest.size; i++) {
        for (size_t k = 0; (i == 0 || rest.at[i - 1] == '+') && k < sizeof kinds / sizeof *kinds; k++) {
            const uint32_t end = i + (uint32_t)strlen(kinds[k]);
            if (begins((struct http_slice){rest.at + i, rest.size - i}, kinds[k]) && (end == rest.size || rest.at[end] == ';')) {
                return true;
            }
        }
    }
    return false;
}

static void add_base64(struct writer *out, struct http_slice in) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (uint32_t i = 0; i < in.size; i += 3) {
        const uint32_t left = in.size - i;
        const uint32_t word = (uint32_t)in.at[i] << 16 | (left > 1 ? (uint32_t)in.at[i + 1] << 8 : 0) | (left > 2 ? in.at[i + 2] : 0U);
        const char four[4] = {digits[word >> 18], digits[word >> 12 & 63], left > 1 ? digits[word >> 6 & 63] : '=',
                              left > 2 ? digits[word & 63] : '='};
        write_bytes(out, four, sizeof four);
    }
}

static void add_body(struct writer *out, const struct http_request *request) {
    const struct http_slice body = request->body;
    const bool plain = is_text_type(http_header(request, "content-type")) && utf8_valid(body.at, body.size);
    if (body.size > 0 && plain) {
        member(out, "body", body);
    } else if (body.size > 0) {
        write_text(out, ",\"body\":\"");
        add_base64(out, body);
        write_byte(out, '"');
    }
    write_text(out, body.size > 0 && !plain ? ",\"isBase64Encoded\":true}" : ",\"isBase64Encoded\":false}");
}

int64_t url_event(const struct http_request *request, const struct url_context *context, uint8_t *out, size_t room) {
    struct writer writer = {.at = out, .end = out + room};
    write_text(&writer, "{\"version\":\"2.0\",\"routeKey\":\"$default\"");
    member(&writer, "rawPath", request->path);
    member(&writer, "rawQueryString", request->query);
    add_cookies(&writer, request);
    if (!add_headers(&writer, request, context) || !add_query(&writer, request->query) || !add_context(&writer, request, context)) {
        return -1;
    }
    add_body(&writer, request);
    return writer.full ? -1 : (int64_t)(writer.at - out);
}
