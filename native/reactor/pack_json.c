/* pack_json.c: see pack_json.h. Numbers as Python writes them, nearly: no digit more than they need. */
#include "pack_json.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/invariant.h"
#include "rpc.h"

struct writer {
    uint8_t *out;
    size_t room;
    size_t used;
};

static void put(struct writer *writer, const void *text, size_t size) {
    if (writer->used < writer->room) {
        memcpy(writer->out + writer->used, text, size < writer->room - writer->used ? size : writer->room - writer->used);
    }
    writer->used += size;
}

static void put_text(struct writer *writer, const char *text) {
    put(writer, text, strlen(text));
}

/* Bytes of the character at the front, 0: it is none (RFC 3629). */
static size_t character(const uint8_t *in, size_t left) {
    const uint8_t first = in[0];
    size_t size = first < 0x80 ? 1 : first >= 0xc2 && first <= 0xdf ? 2 : first >= 0xe0 && first <= 0xef ? 3 : first >= 0xf0 && first <= 0xf4 ? 4 : 0;
    if (size == 0 || size > left) {
        return 0;
    }
    const uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    const uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    for (size_t i = 1; i < size; i++) {
        if (in[i] < (i == 1 ? low : 0x80) || in[i] > (i == 1 ? high : 0xbf)) {
            return 0;
        }
    }
    return size;
}

/* What a JSON text has between its quotes. */
static void put_quoted(struct writer *writer, const uint8_t *in, size_t bytes) {
    while (bytes > 0) {
        size_t run = 0; /* as it is */
        while (run < bytes && in[run] >= 0x20 && in[run] < 0x80 && in[run] != '"' && in[run] != '\\') {
            run++;
        }
        put(writer, in, run);
        in += run;
        bytes -= run;
        if (bytes == 0) {
            return;
        }
        const size_t size = character(in, bytes);
        char escape[8];
        if (size > 1) {
            put(writer, in, size);
        } else if (size == 0) {
            put_text(writer, "\xef\xbf\xbd");
        } else if (*in == '"' || *in == '\\') {
            escape[0] = '\\';
            escape[1] = (char)*in;
            put(writer, escape, 2);
        } else {
            put(writer, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", *in));
        }
        in += size == 0 ? 1 : size;
        bytes -= size == 0 ? 1 : size;
    }
}

static void put_base64(struct writer *writer, const uint8_t *in, size_t bytes) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < bytes; i += 3) {
        const uint32_t b = i + 1 < bytes ? in[i + 1] : 0, c = i + 2 < bytes ? in[i + 2] : 0;
        const uint32_t word = (uint32_t)in[i] << 16 | b << 8 | c;
        const char four[4] = {digits[word >> 18], digits[word >> 12 & 63], i + 1 < bytes ? digits[word >> 6 & 63] : '=',
                              i + 2 < bytes ? digits[word & 63] : '='};
        put(writer, four, sizeof four);
    }
}

/* The shortest of 15, 16 and 17 digits that is the same number. */
static void put_double(struct writer *writer, double value) {
    char text[40];
    if (!isfinite(value)) {
        put_text(writer, "null");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) {
            break;
        }
    }
    put_text(writer, text);
    if (strpbrk(text, ".e") == NULL) {
        put_text(writer, ".0"); /* it was a float, and stays one */
    }
}

static uint64_t be(const uint8_t *at, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++) {
        value = value << 8 | at[i];
    }
    return value;
}

static void put_unsigned(struct writer *writer, uint64_t value) {
    char text[24];
    put(writer, text, (size_t)snprintf(text, sizeof text, "%" PRIu64, value));
}

static void put_signed(struct writer *writer, int64_t value) {
    char text[24];
    put(writer, text, (size_t)snprintf(text, sizeof text, "%" PRId64, value));
}

struct token {
    uint32_t count;          /* of a container's values, two for each pair */
    const uint8_t *at;       /* of bytes */
    uint32_t bytes;
    enum { TOKEN_SCALAR, TOKEN_TEXT, TOKEN_BINARY, TOKEN_OTHER, TOKEN_ARRAY, TOKEN_MAP } kind;
};

static size_t take_bytes(struct token *token, const uint8_t *in, unsigned head, uint32_t bytes, int kind) {
    token->kind = (unsigned)kind;
    token->at = in + head;
    token->bytes = bytes;
    return head + bytes;
}

static size_t take_many(struct token *token, unsigned head, uint32_t count, bool map) {
    token->kind = map ? TOKEN_MAP : TOKEN_ARRAY;
    token->count = count;
    return head;
}

/* The value's own bytes; scalars are written. */
static size_t take(struct writer *writer, const uint8_t *in, struct token *token) {
    static const uint8_t sizes[] = {1, 2, 4, 8};
    const uint8_t c = in[0];
    token->kind = TOKEN_SCALAR;
    if (c < 0x80) {
        put_unsigned(writer, c);
        return 1;
    }
    if (c >= 0xe0) {
        put_signed(writer, (int8_t)c);
        return 1;
    }
    if (c < 0x90) {
        return take_many(token, 1, 2U * (c & 15U), true);
    }
    if (c < 0xa0) {
        return take_many(token, 1, c & 15U, false);
    }
    if (c < 0xc0) {
        return take_bytes(token, in, 1, c & 31U, TOKEN_TEXT);
    }
    switch (c) {
    case 0xc2: case 0xc3:
        put_text(writer, c == 0xc2 ? "false" : "true");
        return 1;
    case 0xc4: case 0xc5: case 0xc6: {
        const unsigned size = sizes[c - 0xc4];
        return take_bytes(token, in, 1 + size, (uint32_t)be(in + 1, size), TOKEN_BINARY);
    }
    case 0xc7: case 0xc8: case 0xc9: {
        const unsigned size = sizes[c - 0xc7];
        return take_bytes(token, in, 2 + size, (uint32_t)be(in + 1, size), TOKEN_OTHER);
    }
    case 0xca: {
        const uint32_t bits = (uint32_t)be(in + 1, 4);
        float value;
        memcpy(&value, &bits, sizeof value);
        put_double(writer, (double)value);
        return 5;
    }
    case 0xcb: {
        const uint64_t bits = be(in + 1, 8);
        double value;
        memcpy(&value, &bits, sizeof value);
        put_double(writer, value);
        return 9;
    }
    case 0xcc: case 0xcd: case 0xce: case 0xcf:
        put_unsigned(writer, be(in + 1, sizes[c - 0xcc]));
        return 1U + sizes[c - 0xcc];
    case 0xd0: case 0xd1: case 0xd2: case 0xd3: {
        const unsigned size = sizes[c - 0xd0];
        const unsigned shift = 64 - 8 * size;
        put_signed(writer, (int64_t)(be(in + 1, size) << shift) >> shift);
        return 1 + size;
    }
    case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8:
        return take_bytes(token, in, 2, 1U << (c - 0xd4), TOKEN_OTHER);
    case 0xd9: case 0xda: case 0xdb: {
        const unsigned size = sizes[c - 0xd9];
        return take_bytes(token, in, 1 + size, (uint32_t)be(in + 1, size), TOKEN_TEXT);
    }
    case 0xdc: case 0xdd: {
        const unsigned size = sizes[c - 0xdc + 1];
        return take_many(token, 1 + size, (uint32_t)be(in + 1, size), false);
    }
    case 0xde: case 0xdf: {
        const unsigned size = sizes[c - 0xde + 1];
        return take_many(token, 1 + size, 2 * (uint32_t)be(in + 1, size), true);
    }
    default:
        put_text(writer, "null"); /* nil; 0xc1 has not passed the check */
        return 1;
    }
}

/* Recursive: whoever wrote it was held to RPC_DEPTH_MAX levels. Bytes of the value. */
static size_t put_value(struct writer *writer, const uint8_t *in, size_t left, bool key, unsigned depth) {
    SCHED_ASSERT(left > 0 && depth <= RPC_DEPTH_MAX + 1);
    const size_t before = writer->used;
    struct token token = {0};
    size_t at = take(writer, in, &token);
    SCHED_ASSERT(at <= left);
    switch (token.kind) {
    case TOKEN_SCALAR:
        break;
    case TOKEN_TEXT: case TOKEN_BINARY:
        put_text(writer, "\"");
        if (token.kind == TOKEN_TEXT) {
            put_quoted(writer, token.at, token.bytes);
        } else {
            put_base64(writer, token.at, token.bytes);
        }
        put_text(writer, "\"");
        return at;
    case TOKEN_OTHER:
        put_text(writer, "null");
        break;
    case TOKEN_ARRAY: case TOKEN_MAP: {
        const bool map = token.kind == TOKEN_MAP;
        put_text(writer, map ? "{" : "[");
        for (uint32_t i = 0; i < token.count; i++) {
            const bool is_key = map && i % 2 == 0;
            if (i > 0) {
                put_text(writer, map && !is_key ? ":" : ",");
            }
            at += put_value(writer, in + at, left - at, is_key, depth + 1);
        }
        put_text(writer, map ? "}" : "]");
        break;
    }
    }
    if (key && (token.kind == TOKEN_ARRAY || token.kind == TOKEN_MAP)) {
        writer->used = before; /* it would need quotes within quotes: nobody's key */
        put_text(writer, "\"\"");
    } else if (key) {
        /* A scalar is short: it is written again, in quotes. */
        writer->used = before;
        put_text(writer, "\"");
        (void)take(writer, in, &token);
        put_text(writer, token.kind == TOKEN_OTHER ? "null\"" : "\"");
    }
    return at;
}

size_t pack_json(const uint8_t *in, size_t bytes, uint8_t *out, size_t room) {
    struct writer writer = {.out = out, .room = room};
    const size_t taken = put_value(&writer, in, bytes, false, 0);
    SCHED_ASSERT(taken == bytes);
    return writer.used;
}

size_t json_quoted(const uint8_t *in, size_t bytes, uint8_t *out, size_t room) {
    struct writer writer = {.out = out, .room = room};
    put_quoted(&writer, in, bytes);
    return writer.used;
}
