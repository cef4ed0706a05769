/* json.c: a validator for JSON texts. One pass; what is open is one bit for each level. */
#include "json.h"

#include <string.h>

struct reader {
    const uint8_t *in;
    size_t bytes;
    size_t at;
};

static void blanks(struct reader *reader) {
    while (reader->at < reader->bytes) {
        const uint8_t c = reader->in[reader->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') {
            return;
        }
        reader->at++;
    }
}

static bool word(struct reader *reader, const char *text) {
    for (; *text != '\0'; text++, reader->at++) {
        if (reader->at == reader->bytes || reader->in[reader->at] != (uint8_t)*text) {
            return false;
        }
    }
    return true;
}

static bool is_digit(const struct reader *reader) {
    return reader->at < reader->bytes && reader->in[reader->at] >= '0' && reader->in[reader->at] <= '9';
}

static bool digits(struct reader *reader) {
    if (!is_digit(reader)) {
        return false;
    }
    while (is_digit(reader)) {
        reader->at++;
    }
    return true;
}

static bool number(struct reader *reader) {
    if (reader->in[reader->at] == '-') {
        reader->at++;
    }
    if (is_digit(reader) && reader->in[reader->at] == '0') {
        reader->at++;
    } else if (!digits(reader)) {
        return false;
    }
    if (reader->at < reader->bytes && reader->in[reader->at] == '.') {
        reader->at++;
        if (!digits(reader)) {
            return false;
        }
    }
    if (reader->at < reader->bytes && (reader->in[reader->at] | 0x20) == 'e') {
        reader->at++;
        if (reader->at < reader->bytes && (reader->in[reader->at] == '+' || reader->in[reader->at] == '-')) {
            reader->at++;
        }
        return digits(reader);
    }
    return true;
}

/* One character of more than one byte (RFC 3629): no overlong form, no surrogate, nothing over U+10FFFF. */
static bool utf8(struct reader *reader) {
    const uint8_t *const in = reader->in + reader->at;
    const size_t left = reader->bytes - reader->at;
    const uint8_t first = in[0];
    uint8_t low = 0x80, high = 0xbf;
    size_t more;
    if (first >= 0xc2 && first <= 0xdf) {
        more = 1;
    } else if (first >= 0xe0 && first <= 0xef) {
        more = 2;
        low = first == 0xe0 ? 0xa0 : 0x80;
        high = first == 0xed ? 0x9f : 0xbf;
    } else if (first >= 0xf0 && first <= 0xf4) {
        more = 3;
        low = first == 0xf0 ? 0x90 : 0x80;
        high = first == 0xf4 ? 0x8f : 0xbf;
    } else {
        return false;
    }
    for (size_t i = 1; i <= more; i++) {
        if (i >= left || in[i] < low || in[i] > high) {
            return false;
        }
        low = 0x80;
        high = 0xbf;
    }
    reader->at += more + 1;
    return true;
}

static bool escape(struct reader *reader) {
    if (++reader->at == reader->bytes) {
        return false;
    }
    const uint8_t kind = reader->in[reader->at];
    if (kind == 'u') {
        for (int i = 0; i < 4; i++) {
            if (++reader->at == reader->bytes) {
                return false;
            }
            const uint8_t c = reader->in[reader->at];
            if (!((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f'))) {
                return false;
            }
        }
    } else if (memchr("\"\\/bfnrt", kind, 8) == NULL) {
        return false;
    }
    reader->at++;
    return true;
}

static bool text(struct reader *reader) {
    reader->at++;
    while (reader->at < reader->bytes) {
        const uint8_t c = reader->in[reader->at];
        if (c == '"') {
            reader->at++;
            return true;
        }
        if (c == '\\') {
            if (!escape(reader)) {
                return false;
            }
        } else if (c >= 0x80) {
            if (!utf8(reader)) {
                return false;
            }
        } else if (c < 0x20) {
            return false;
        } else {
            reader->at++;
        }
    }
    return false;
}

static bool scalar(struct reader *reader) {
    switch (reader->in[reader->at]) {
    case '"': return text(reader);
    case 't': return word(reader, "true");
    case 'f': return word(reader, "false");
    case 'n': return word(reader, "null");
    case '-': case '0': case '1': case '2': case '3': case '4': case '5': case '6': case '7': case '8': case '9':
        return number(reader);
    default: return false;
    }
}

/* An object's key and its colon; at the key's first byte. */
static bool key(struct reader *reader) {
    if (reader->at == reader->bytes || reader->in[reader->at] != '"' || !text(reader)) {
        return false;
    }
    blanks(reader);
    if (reader->at == reader->bytes || reader->in[reader->at] != ':') {
        return false;
    }
    reader->at++;
    blanks(reader);
    return true;
}

static bool run(struct reader *reader) {
    uint8_t objects[JSON_DEPTH_MAX / 8]; /* by level: is it an object, not an array? */
    unsigned depth = 0;
    blanks(reader);
    for (;;) {
        /* A value begins. */
        if (reader->at == reader->bytes) {
            return false;
        }
        const uint8_t c = reader->in[reader->at];
        if (c == '{' || c == '[') {
            if (depth == JSON_DEPTH_MAX) {
                return false;
            }
            const uint8_t bit = (uint8_t)(1U << (depth % 8));
            objects[depth / 8] = (uint8_t)(depth % 8 == 0 ? 0 : objects[depth / 8] & (bit - 1U));
            objects[depth / 8] |= c == '{' ? bit : 0;
            depth++;
            reader->at++;
            blanks(reader);
            if (reader->at < reader->bytes && reader->in[reader->at] == (c == '{' ? '}' : ']')) {
                reader->at++;
                depth--;
            } else if (c == '{' && !key(reader)) {
                return false;
            } else {
                continue;
            }
        } else if (!scalar(reader)) {
            return false;
        }
        /* A value has ended: what it is in goes on, or ends too. */
        for (;;) {
            blanks(reader);
            if (depth == 0) {
                return reader->at == reader->bytes;
            }
            if (reader->at == reader->bytes) {
                return false;
            }
            const bool object = ((unsigned)objects[(depth - 1) / 8] >> ((depth - 1) % 8) & 1U) != 0;
            const uint8_t next = reader->in[reader->at];
            if (next == ',') {
                reader->at++;
                blanks(reader);
                if (object && !key(reader)) {
                    return false;
                }
                break;
            }
            if (next != (object ? '}' : ']')) {
                return false;
            }
            reader->at++;
            depth--;
        }
    }
}

bool json_valid(const uint8_t *in, size_t bytes, size_t *at) {
    struct reader reader = {.in = in, .bytes = bytes};
    const bool good = run(&reader);
    *at = reader.at;
    return good;
}

bool utf8_valid(const uint8_t *in, size_t bytes) {
    struct reader reader = {.in = in, .bytes = bytes};
    while (reader.at < bytes) {
        if (in[reader.at] < 0x80) {
            reader.at++;
        } else if (!utf8(&reader)) {
            return false;
        }
    }
    return true;
}
