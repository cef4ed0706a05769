/* jsonpush.c: see jsonpush.h. A state for each place between two bytes; what is open is one bit for each level. */
#include "jsonpush.h"

#include <string.h>

enum state {
    BAD = JSON_PUSH_BAD,
    VALUE,       /* a value must begin */
    FIRST_VALUE, /* or the array ends */
    KEY,
    FIRST_KEY,   /* or the object ends */
    COLON,
    AFTER,       /* a value has ended */
    TEXT,
    ESCAPE,
    HEX,
    CHARACTER,   /* within one of several bytes */
    WORD,
    MINUS,       /* a digit must come: the first */
    ZERO,        /* no digit may come */
    WHOLE,
    POINT,       /* a digit must come */
    FRACTION,
    EXPONENT,    /* a sign or a digit must come */
    SIGN,        /* a digit must come */
    POWER
};

void json_push_begin(struct json_push *push) {
    *push = (struct json_push){.state = VALUE};
}

static bool top_is_object(const struct json_push *push) {
    const unsigned level = push->depth - 1U;
    return ((unsigned)push->objects[level / 8] >> (level % 8) & 1U) != 0;
}

static enum state open_one(struct json_push *push, bool object) {
    if (push->depth == JSON_DEPTH_MAX) {
        return BAD;
    }
    const uint8_t bit = (uint8_t)(1U << (push->depth % 8));
    uint8_t *const byte = &push->objects[push->depth / 8];
    *byte = (uint8_t)(object ? *byte | bit : *byte & ~bit);
    push->depth++;
    return object ? FIRST_KEY : FIRST_VALUE;
}

static enum state close_one(struct json_push *push, bool object) {
    if (push->depth == 0 || top_is_object(push) != object) {
        return BAD;
    }
    push->depth--;
    return AFTER;
}

static enum state expect_word(struct json_push *push, const char *rest) {
    push->word = rest;
    return WORD;
}

static enum state begin_text(struct json_push *push, bool key) {
    push->key = key;
    return TEXT;
}

static enum state begin_value(struct json_push *push, uint8_t c) {
    switch (c) {
    case '{': return open_one(push, true);
    case '[': return open_one(push, false);
    case '"': return begin_text(push, false);
    case 't': return expect_word(push, "rue");
    case 'f': return expect_word(push, "alse");
    case 'n': return expect_word(push, "ull");
    case '-': return MINUS;
    case '0': return ZERO;
    default: return c >= '1' && c <= '9' ? WHOLE : BAD;
    }
}

/* The first byte of a character of several (RFC 3629): no overlong form, no surrogate, nothing over U+10FFFF. */
static enum state begin_character(struct json_push *push, uint8_t first) {
    push->low = 0x80;
    push->high = 0xbf;
    if (first >= 0xc2 && first <= 0xdf) {
        push->left = 1;
    } else if (first >= 0xe0 && first <= 0xef) {
        push->left = 2;
        push->low = first == 0xe0 ? 0xa0 : 0x80;
        push->high = first == 0xed ? 0x9f : 0xbf;
    } else if (first >= 0xf0 && first <= 0xf4) {
        push->left = 3;
        push->low = first == 0xf0 ? 0x90 : 0x80;
        push->high = first == 0xf4 ? 0x8f : 0xbf;
    } else {
        return BAD;
    }
    return CHARACTER;
}

static enum state in_text(struct json_push *push, uint8_t c) {
    if (c == '"') {
        return push->key ? COLON : AFTER;
    }
    if (c == '\\') {
        return ESCAPE;
    }
    if (c >= 0x80) {
        return begin_character(push, c);
    }
    return c < 0x20 ? BAD : TEXT;
}

static enum state in_escape(struct json_push *push, uint8_t c) {
    push->left = 4;
    return c == 'u' ? HEX : memchr("\"\\/bfnrt", c, 8) != NULL ? TEXT : BAD;
}

static bool is_digit(uint8_t c) {
    return c >= '0' && c <= '9';
}

static enum state after_value(struct json_push *push, uint8_t c) {
    if (push->depth == 0) {
        return BAD; /* blanks only, and they were taken out */
    }
    if (c == ',') {
        return top_is_object(push) ? KEY : VALUE;
    }
    return c == '}' || c == ']' ? close_one(push, c == '}') : BAD;
}

/* Where a number may end, by the byte behind it; AFTER: it has ended, and the byte is not its own. */
static enum state in_number(enum state state, uint8_t c) {
    if (is_digit(c) && state != ZERO) {
        return state;
    }
    if (c == '.' && (state == ZERO || state == WHOLE)) {
        return POINT;
    }
    return (c | 0x20) == 'e' && state != POWER ? EXPONENT : AFTER;
}

static enum state next(struct json_push *push, uint8_t c) {
    switch ((enum state)push->state) {
    case VALUE:
        return begin_value(push, c);
    case FIRST_VALUE:
        return c == ']' ? close_one(push, false) : begin_value(push, c);
    case KEY:
        return c == '"' ? begin_text(push, true) : BAD;
    case FIRST_KEY:
        return c == '}' ? close_one(push, true) : c == '"' ? begin_text(push, true) : BAD;
    case COLON:
        return c == ':' ? VALUE : BAD;
    case AFTER:
        return after_value(push, c);
    case TEXT:
        return in_text(push, c);
    case ESCAPE:
        return in_escape(push, c);
    case HEX:
        push->left--;
        return !is_digit(c) && ((c | 0x20) < 'a' || (c | 0x20) > 'f') ? BAD : push->left == 0 ? TEXT : HEX;
    case CHARACTER:
        if (c < push->low || c > push->high) {
            return BAD;
        }
        push->low = 0x80;
        push->high = 0xbf;
        push->left--;
        return push->left == 0 ? TEXT : CHARACTER;
    case WORD:
        if (c != (uint8_t)*push->word) {
            return BAD;
        }
        push->word++;
        return *push->word == '\0' ? AFTER : WORD;
    case MINUS:
        return c == '0' ? ZERO : is_digit(c) ? WHOLE : BAD;
    case POINT:
        return is_digit(c) ? FRACTION : BAD;
    case EXPONENT:
        return c == '+' || c == '-' ? SIGN : is_digit(c) ? POWER : BAD;
    case SIGN:
        return is_digit(c) ? POWER : BAD;
    case ZERO: case WHOLE: case FRACTION: case POWER:
        return in_number((enum state)push->state, c);
    case BAD:
        return BAD;
    }
    return BAD;
}

static bool between_tokens(uint8_t state) {
    return state >= VALUE && state <= AFTER;
}

static bool ends_number(uint8_t state) {
    return state == ZERO || state == WHOLE || state == FRACTION || state == POWER;
}

bool json_push(struct json_push *push, const uint8_t *in, size_t bytes) {
    for (size_t i = 0; i < bytes && push->state != BAD; i++) {
        const uint8_t c = in[i];
        if (push->state == TEXT && c >= 0x20 && c < 0x80 && c != '"' && c != '\\') {
            continue; /* most of most texts */
        }
        const bool blank = c == ' ' || c == '\n' || c == '\r' || c == '\t';
        if (blank && between_tokens(push->state)) {
            continue;
        }
        const bool number = ends_number(push->state);
        push->state = (uint8_t)next(push, c);
        if (number && push->state == AFTER && !blank) {
            push->state = (uint8_t)next(push, c);
        }
    }
    return push->state != BAD;
}

bool json_push_whole(const struct json_push *push) {
    return push->depth == 0 && (push->state == AFTER || ends_number(push->state));
}
