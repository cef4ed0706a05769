/* urlreply.c: see urlreply.h. json_valid() has judged the answer before anything here reads it, so tokens end where they must; all
 * the same nothing is read outside it. */
#include "urlreply.h"

#include "http.h"
#include "json.h"
#include "writer.h"

enum { HEADERS_MAX = 64, NAME_BYTES_MAX = 256 };

struct text {
    const uint8_t *at; /* NULL: absent */
    size_t size;
};

struct parts {
    struct text status, headers, cookies, body, base64; /* tokens, as they stand in the answer */
};

/* ---- tokens ------------------------------------------------------------------------------------------------------------ */

static bool is_blank(uint8_t c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static void skip_blanks(struct text *rest) {
    while (rest->size > 0 && is_blank(*rest->at)) {
        rest->at++;
        rest->size--;
    }
}

static void skip(struct text *rest, size_t bytes) {
    bytes = bytes < rest->size ? bytes : rest->size;
    rest->at += bytes;
    rest->size -= bytes;
}

/* Bytes of the JSON text that begins here, with its quotes. */
static size_t text_bytes(const uint8_t *at, size_t size) {
    const uint8_t *end = at + 1;
    const uint8_t *const last = at + size;
    while (end < last) {
        end = memchr(end, '"', (size_t)(last - end));
        if (end == NULL) {
            return size;
        }
        size_t slashes = 0;
        while (end[-1 - (ptrdiff_t)slashes] == '\\') { /* ends at the first quote at the latest */
            slashes++;
        }
        end++;
        if (slashes % 2 == 0) {
            return (size_t)(end - at);
        }
    }
    return size;
}

enum { ORDINARY, QUOTE, OPENS, CLOSES, ENDS };
static const uint8_t kinds[256] = {['"'] = QUOTE,  ['{'] = OPENS, ['['] = OPENS, ['}'] = CLOSES, [']'] = CLOSES,
                                   [','] = ENDS,   [':'] = ENDS,  [' '] = ENDS,  ['\t'] = ENDS,  ['\n'] = ENDS,
                                   ['\r'] = ENDS};

/* The value that begins here; it is taken out of `rest`, and the blanks around it. */
static struct text take_value(struct text *rest) {
    skip_blanks(rest);
    const uint8_t *const begin = rest->at;
    size_t depth = 0, i = 0;
    for (bool ended = false; i < rest->size && !ended;) {
        switch (kinds[begin[i]]) {
        case QUOTE:
            i += text_bytes(begin + i, rest->size - i);
            ended = depth == 0;
            break;
        case OPENS:
            depth++;
            i++;
            break;
        case CLOSES:
            ended = depth <= 1;
            i += depth > 0; /* else it is that of what the value stands in */
            depth -= depth > 0;
            break;
        case ENDS:
            ended = depth == 0;
            i += depth > 0;
            break;
        default:
            i++;
            break;
        }
    }
    skip(rest, i);
    skip_blanks(rest);
    return (struct text){begin, i};
}

/* All of it but the blanks around it: it is one value. */
static struct text whole_of(const uint8_t *answer, size_t bytes) {
    struct text rest = {answer, bytes};
    skip_blanks(&rest);
    while (rest.size > 0 && is_blank(rest.at[rest.size - 1])) {
        rest.size--;
    }
    return rest;
}

/* "key": value, of an object's inside. false: there is none left. */
static bool take_member(struct text *rest, struct text *key, struct text *value) {
    skip_blanks(rest);
    if (rest->size == 0 || *rest->at != '"') {
        return false;
    }
    *key = take_value(rest);
    skip(rest, 1); /* the colon */
    *value = take_value(rest);
    if (rest->size > 0 && *rest->at == ',') {
        skip(rest, 1);
    }
    return true;
}

static bool is_word(struct text token, const char *word) {
    return token.size == strlen(word) && memcmp(token.at, word, token.size) == 0;
}

static bool is_kind(struct text token, uint8_t first) {
    return token.size > 0 && *token.at == first;
}

/* What is between the brackets or quotes. */
static struct text inside(struct text token) {
    return token.size < 2 ? (struct text){token.at, 0} : (struct text){token.at + 1, token.size - 2};
}

/* ---- texts ------------------------------------------------------------------------------------------------------------- */

static int hex(uint8_t c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int32_t four_digits(struct text text, size_t at) {
    int32_t value = 0;
    for (size_t i = at; i < at + 4; i++) {
        const int digit = i < text.size ? hex(text.at[i]) : -1;
        if (digit < 0) {
            return -1;
        }
        value = value << 4 | digit;
    }
    return value;
}

static void write_utf8(struct writer *out, uint32_t c) {
    if (c < 0x80) {
        write_byte(out, (uint8_t)c);
    } else if (c < 0x800) {
        write_byte(out, (uint8_t)(0xc0 | c >> 6));
        write_byte(out, (uint8_t)(0x80 | (c & 63)));
    } else if (c < 0x10000) {
        write_byte(out, (uint8_t)(0xe0 | c >> 12));
        write_byte(out, (uint8_t)(0x80 | (c >> 6 & 63)));
        write_byte(out, (uint8_t)(0x80 | (c & 63)));
    } else {
        write_byte(out, (uint8_t)(0xf0 | c >> 18));
        write_byte(out, (uint8_t)(0x80 | (c >> 12 & 63)));
        write_byte(out, (uint8_t)(0x80 | (c >> 6 & 63)));
        write_byte(out, (uint8_t)(0x80 | (c & 63)));
    }
}

/* One escape of `text`, at its backslash; where it ends, or 0: half of a pair of surrogates. */
static size_t unescape(struct writer *out, struct text text, size_t at) {
    static const char known[] = "b\bf\fn\nr\rt\t\"\"\\\\//"; /* pairs: the letter, and what it means */
    const uint8_t letter = at + 1 < text.size ? text.at[at + 1] : 0;
    if (letter != 'u') {
        const char *found = known;
        while (*found != '\0' && (uint8_t)*found != letter) {
            found += 2;
        }
        write_byte(out, (uint8_t)found[*found == '\0' ? 0 : 1]);
        return *found == '\0' ? 0 : at + 2;
    }
    const int32_t first = four_digits(text, at + 2);
    if (first < 0 || (first >= 0xdc00 && first <= 0xdfff)) {
        return 0;
    }
    if (first < 0xd800 || first > 0xdfff) {
        write_utf8(out, (uint32_t)first);
        return at + 6;
    }
    const bool more = at + 7 < text.size && text.at[at + 6] == '\\' && text.at[at + 7] == 'u';
    const int32_t second = more ? four_digits(text, at + 8) : -1;
    if (second < 0xdc00 || second > 0xdfff) {
        return 0;
    }
    write_utf8(out, 0x10000U + ((uint32_t)(first - 0xd800) << 10) + (uint32_t)(second - 0xdc00));
    return at + 12;
}

/* A JSON text's token as what it says, in UTF-8. */
static bool decode(struct writer *out, struct text token) {
    const struct text text = inside(token);
    size_t from = 0, i = 0;
    while (i < text.size) {
        const uint8_t *const next = memchr(text.at + i, '\\', text.size - i);
        if (next == NULL) {
            break;
        }
        i = (size_t)(next - text.at);
        write_bytes(out, text.at + from, i - from);
        from = i = unescape(out, text, i);
        if (i == 0) {
            return false;
        }
    }
    write_bytes(out, text.at + from, text.size - from);
    return !out->full;
}

/* In place; bytes, or -1: it is not exactly base64 with its padding. */
static int64_t unbase64(uint8_t *in, size_t size) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t value[256];
    memset(value, 0xff, sizeof value);
    for (uint8_t i = 0; i < 64; i++) {
        value[(uint8_t)digits[i]] = i;
    }
    if (size % 4 != 0) {
        return -1;
    }
    const bool padded = size > 0 && in[size - 1] == '=';
    const size_t padding = padded ? (in[size - 2] == '=' ? 2 : 1) : 0;
    size_t to = 0;
    for (size_t i = 0; i < size; i += 4) {
        const size_t real = i + 4 < size ? 4 : 4 - padding;
        uint32_t word = 0;
        for (size_t k = 0; k < 4; k++) {
            const uint8_t digit = k < real ? value[in[i + k]] : 0;
            if (digit == 0xff) {
                return -1;
            }
            word = word << 6 | digit;
        }
        for (size_t k = 0; k + 1 < real; k++) {
            in[to++] = (uint8_t)(word >> (16 - 8 * k));
        }
    }
    return (int64_t)to;
}

/* ---- the head ----------------------------------------------------------------------------------------------------------- */

static const char *phrase(unsigned status) {
    static const struct {
        unsigned status;
        const char *text;
    } phrases[] = {
        {200, "OK"}, {201, "Created"}, {202, "Accepted"}, {204, "No Content"}, {206, "Partial Content"},
        {301, "Moved Permanently"}, {302, "Found"}, {303, "See Other"}, {304, "Not Modified"}, {307, "Temporary Redirect"},
        {308, "Permanent Redirect"}, {400, "Bad Request"}, {401, "Unauthorized"}, {403, "Forbidden"}, {404, "Not Found"},
        {405, "Method Not Allowed"}, {408, "Request Timeout"}, {409, "Conflict"}, {410, "Gone"}, {412, "Precondition Failed"},
        {413, "Content Too Large"}, {415, "Unsupported Media Type"}, {422, "Unprocessable Content"}, {429, "Too Many Requests"},
        {500, "Internal Server Error"}, {501, "Not Implemented"}, {502, "Bad Gateway"}, {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
    };
    for (size_t i = 0; i < sizeof phrases / sizeof *phrases; i++) {
        if (phrases[i].status == status) {
            return phrases[i].text;
        }
    }
    return "";
}

static void begin_head(struct writer *out, unsigned status) {
    write_text(out, "HTTP/1.1 ");
    write_number(out, status);
    write_byte(out, ' ');
    write_text(out, phrase(status));
    write_text(out, "\r\n");
}

static void end_head(struct writer *out, unsigned status, const char *request_id, bool close, size_t body_bytes) {
    write_text(out, "x-amzn-RequestId: ");
    write_text(out, request_id);
    if (status != 204 && status != 304) {
        write_text(out, "\r\nContent-Length: ");
        write_number(out, body_bytes);
    }
    write_text(out, close ? "\r\nConnection: close\r\n\r\n" : "\r\n\r\n");
}

/* Three digits, as a number or as a text; 0: something else. */
static unsigned read_status(struct text token) {
    const struct text digits = is_kind(token, '"') ? inside(token) : token;
    if (digits.size != 3 || digits.at[0] < '2' || digits.at[0] > '5') {
        return 0;
    }
    unsigned status = 0;
    for (size_t i = 0; i < 3; i++) {
        if (digits.at[i] < '0' || digits.at[i] > '9') {
            return 0;
        }
        status = status * 10 + (unsigned)(digits.at[i] - '0');
    }
    return status;
}

/* A header's value: printable ASCII and tabs, without the blanks around it. */
static bool write_value(struct writer *out, struct text token) {
    uint8_t *const begin = out->at;
    if (is_kind(token, '"')) {
        if (!decode(out, token)) {
            return false;
        }
    } else if (is_word(token, "true") || is_word(token, "false") || is_word(token, "null")) {
        write_bytes(out, token.at, token.size);
    } else {
        /* A whole number as it stands; others may be written in other ways. */
        const size_t sign = is_kind(token, '-');
        if (token.size - sign > 15 || token.size == sign || (token.at[sign] == '0' && token.size > 1)) {
            return false;
        }
        for (size_t i = sign; i < token.size; i++) {
            if (token.at[i] < '0' || token.at[i] > '9') {
                return false;
            }
        }
        write_bytes(out, token.at, token.size);
    }
    uint8_t *first = begin, *end = out->at;
    for (const uint8_t *c = begin; c < end; c++) {
        if ((*c < ' ' && *c != '\t') || *c >= 0x7f) {
            return false;
        }
    }
    while (first < end && (*first == ' ' || *first == '\t')) {
        first++;
    }
    while (end > first && (end[-1] == ' ' || end[-1] == '\t')) {
        end--;
    }
    memmove(begin, first, (size_t)(end - first));
    out->at = begin + (end - first);
    write_text(out, "\r\n");
    return !out->full;
}

/* Names that belong to the connection are given others, and the request's id is told by us or by the function: not here. */
static bool is_plain_name(struct text name) {
    static const char *const others[] = {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer",
                                         "transfer-encoding", "upgrade", "date", "x-amzn-requestid"};
    if (name.size == 0 || name.size > NAME_BYTES_MAX) {
        return false;
    }
    for (size_t i = 0; i < name.size; i++) {
        if (!http_is_token(name.at[i])) {
            return false;
        }
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (http_is((struct http_slice){name.at, (uint32_t)name.size}, others[i])) {
            return false;
        }
    }
    return true;
}

static bool write_headers(struct writer *out, struct text token, bool *typed) {
    if (token.at == NULL || is_word(token, "null")) {
        return true;
    }
    if (!is_kind(token, '{')) {
        return false;
    }
    struct text rest = inside(token), key, value, names[HEADERS_MAX];
    uint32_t count = 0;
    while (take_member(&rest, &key, &value)) {
        const struct text name = inside(key);
        if (count == HEADERS_MAX || !is_plain_name(name)) {
            return false;
        }
        for (uint32_t i = 0; i < count; i++) {
            if (names[i].size == name.size && memcmp(names[i].at, name.at, name.size) == 0) {
                return false; /* which is meant? */
            }
        }
        names[count++] = name;
        *typed = *typed || http_is((struct http_slice){name.at, (uint32_t)name.size}, "content-type");
        write_bytes(out, name.at, name.size);
        write_text(out, ": ");
        if (!write_value(out, value)) {
            return false;
        }
    }
    return true;
}

static bool write_cookies(struct writer *out, struct text token) {
    if (token.at == NULL || is_word(token, "null")) {
        return true;
    }
    if (!is_kind(token, '[')) {
        return false;
    }
    struct text rest = inside(token);
    skip_blanks(&rest);
    for (uint32_t count = 0; rest.size > 0; count++) {
        const struct text cookie = take_value(&rest);
        if (count == HEADERS_MAX || !is_kind(cookie, '"')) {
            return false;
        }
        write_text(out, "Set-Cookie: ");
        if (!write_value(out, cookie)) {
            return false;
        }
        skip(&rest, 1); /* the comma */
    }
    return true;
}

/* ---- the whole ------------------------------------------------------------------------------------------------------------- */

/* false: not the usual form. */
static bool read_parts(struct text object, struct parts *parts) {
    static const char *const names[] = {"statusCode", "headers", "cookies", "body", "isBase64Encoded"};
    struct text *const places[] = {&parts->status, &parts->headers, &parts->cookies, &parts->body, &parts->base64};
    struct text rest = inside(object), key, value;
    while (take_member(&rest, &key, &value)) {
        const struct text name = inside(key);
        if (memchr(name.at, '\\', name.size) != NULL) {
            return false; /* it may be one of ours in disguise */
        }
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            if (is_word(name, names[i])) {
                *places[i] = value; /* of two the last, as readers of JSON have it */
            }
        }
    }
    return true;
}

static const char JSON_TYPE[] = "Content-Type: application/json\r\n";

/* `head` has all but its end; the body lies elsewhere in the same room. */
static int64_t finish(struct writer *head, unsigned status, const char *request_id, bool close, const uint8_t *body, size_t bytes,
                      const uint8_t *out) {
    end_head(head, status, request_id, close, bytes);
    const bool bare = status == 204 || status == 304;
    if (head->full) {
        return -1;
    }
    if (!bare) {
        memmove(head->at, body, bytes);
        head->at += bytes;
    }
    return (int64_t)(head->at - out);
}

int64_t url_reply(const uint8_t *answer, size_t bytes, const char *request_id, bool close, uint8_t out[URL_REPLY_ROOM]) {
    size_t wrong;
    if (bytes > URL_ANSWER_BYTES_MAX || !json_valid(answer, bytes, &wrong)) {
        return -1;
    }
    const struct text whole = whole_of(answer, bytes);
    struct writer head = {.at = out, .end = out + URL_REPLY_HEAD_MAX};
    uint8_t *const body = out + URL_REPLY_HEAD_MAX; /* what the head leaves of its room is more than the body is moved by */
    struct writer writer = {.at = body, .end = body + URL_ANSWER_BYTES_MAX};
    struct parts parts = {0};
    if (is_kind(whole, '{') && !read_parts(whole, &parts)) {
        return -1;
    }
    if (parts.status.at == NULL) {
        begin_head(&head, 200);
        write_text(&head, JSON_TYPE);
        if (!is_kind(whole, '"')) {
            write_bytes(&writer, answer, bytes);
        } else if (!decode(&writer, whole)) {
            return -1;
        }
        return finish(&head, 200, request_id, close, body, (size_t)(writer.at - body), out);
    }
    const unsigned status = read_status(parts.status);
    bool typed = false;
    begin_head(&head, status);
    if (status == 0 || !write_headers(&head, parts.headers, &typed) || !write_cookies(&head, parts.cookies)) {
        return -1;
    }
    if (!typed) {
        write_text(&head, JSON_TYPE);
    }
    const bool absent = parts.body.at == NULL || is_word(parts.body, "null");
    if (!absent && (!is_kind(parts.body, '"') || !decode(&writer, parts.body))) {
        return -1;
    }
    int64_t size = writer.at - body;
    if (parts.base64.at != NULL && is_word(parts.base64, "true")) {
        size = unbase64(body, (size_t)size);
    }
    return size < 0 ? -1 : finish(&head, status, request_id, close, body, (size_t)size, out);
}

int64_t url_refusal(unsigned status, const char *error, const char *request_id, bool close, uint8_t out[URL_REPLY_ROOM]) {
    static const char failed[] = "Internal Server Error";
    struct writer head = {.at = out, .end = out + URL_REPLY_HEAD_MAX};
    begin_head(&head, status);
    write_text(&head, error == NULL ? "Content-Type: text/plain\r\n" : JSON_TYPE);
    if (error != NULL) {
        write_text(&head, "x-amzn-ErrorType: ");
        write_text(&head, error);
        write_text(&head, "\r\n");
    }
    return finish(&head, status, request_id, close, (const uint8_t *)failed, error == NULL ? sizeof failed - 1 : 0, out);
}
