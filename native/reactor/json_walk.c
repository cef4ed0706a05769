/* json_walk.c: see json_walk.h. */
#include "json_walk.h"

#include <stdio.h>
#include <string.h>

static bool blank(uint8_t c) {
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static const uint8_t *past_blanks(const uint8_t *at, const uint8_t *end) {
    while (at < end && blank(*at)) {
        at++;
    }
    return at;
}

static const uint8_t *past_text(const uint8_t *at, const uint8_t *end) {
    for (at++; at < end && *at != '"'; at++) {
        at += *at == '\\' && end - at > 1;
    }
    return at < end ? at + 1 : end;
}

static const uint8_t *past_value(const uint8_t *at, const uint8_t *end) {
    size_t depth = 0;
    while (at < end) {
        if (*at == '"') {
            at = past_text(at, end);
        } else if (*at == '{' || *at == '[') {
            depth++;
            at++;
            continue;
        } else if (*at == '}' || *at == ']') {
            at++;
            depth -= depth > 0;
        } else if (*at == ',' || *at == ':' || blank(*at)) {
            at++;
            continue;
        } else {
            while (at < end && memchr("{}[],:\" \n\r\t", *at, 11) == NULL) {
                at++;
            }
        }
        if (depth == 0) {
            return at;
        }
    }
    return end;
}

static struct json_value value_at(const uint8_t *at, const uint8_t *end) {
    at = past_blanks(at, end);
    if (at == end || *at == '}' || *at == ']') {
        return (struct json_value){0};
    }
    return (struct json_value){at, (size_t)(past_value(at, end) - at)};
}

struct json_value json_root(const uint8_t *in, size_t bytes) {
    return value_at(in, in + bytes);
}

struct json_value json_next(struct json_value container, struct json_value before) {
    if (!json_is(container, '{') && !json_is(container, '[')) {
        return (struct json_value){0};
    }
    const uint8_t *const end = container.at + container.size - (container.size > 1);
    if (before.at == NULL) {
        return value_at(container.at + 1, end);
    }
    const uint8_t *at = past_blanks(before.at + before.size, end);
    return at < end && (*at == ',' || *at == ':') ? value_at(at + 1, end) : (struct json_value){0};
}

struct json_value json_member(struct json_value object, const char *key) {
    struct json_value found = {0};
    char text[64];
    if (!json_is(object, '{')) {
        return found;
    }
    for (struct json_value name = json_next(object, found); name.at != NULL;) {
        const struct json_value value = json_next(object, name);
        if (json_text(name, text, sizeof text) >= 0 && strcmp(text, key) == 0) {
            found = value;
        }
        if (value.at == NULL) {
            break;
        }
        name = json_next(object, value);
    }
    return found;
}

bool json_is(struct json_value value, char kind) {
    if (value.at == NULL || value.size == 0) {
        return false;
    }
    return kind == '0' ? *value.at == '-' || (*value.at >= '0' && *value.at <= '9') : *value.at == (uint8_t)kind;
}

static int hex4(const uint8_t *at) {
    int value = 0;
    for (int i = 0; i < 4; i++) {
        const uint8_t c = at[i] <= '9' ? at[i] : at[i] | 0x20;
        value = value << 4 | (c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return value & 0xffff;
}

static char *put_utf8(char *out, uint32_t code) {
    if (code < 0x80) {
        *out++ = (char)code;
    } else if (code < 0x800) {
        *out++ = (char)(0xc0 | code >> 6);
        *out++ = (char)(0x80 | (code & 63));
    } else if (code < 0x10000) {
        *out++ = (char)(0xe0 | code >> 12);
        *out++ = (char)(0x80 | (code >> 6 & 63));
        *out++ = (char)(0x80 | (code & 63));
    } else {
        *out++ = (char)(0xf0 | code >> 18);
        *out++ = (char)(0x80 | (code >> 12 & 63));
        *out++ = (char)(0x80 | (code >> 6 & 63));
        *out++ = (char)(0x80 | (code & 63));
    }
    return out;
}

int json_text(struct json_value value, char *out, size_t room) {
    char *const begin = out;
    if (!json_is(value, '"') || value.size < 2) {
        return -1;
    }
    const uint8_t *const end = value.at + value.size - 1;
    for (const uint8_t *at = value.at + 1; at < end; at++) {
        uint32_t code = *at;
        if ((size_t)(out - begin) + 5 > room) {
            return -1;
        }
        if (code != '\\') {
            *out++ = (char)code;
            continue;
        }
        if (++at >= end) {
            return -1;
        }
        static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
        const char *const found = memchr(from, *at, 5);
        if (*at != 'u') {
            *out++ = found != NULL ? to[found - from] : (char)*at;
            continue;
        }
        if (end - at < 5) {
            return -1;
        }
        code = (uint32_t)hex4(at + 1);
        at += 4;
        if (code >= 0xd800 && code < 0xdc00 && end - at >= 7 && at[1] == '\\' && at[2] == 'u') {
            code = 0x10000 + ((code & 0x3ff) << 10) + ((uint32_t)hex4(at + 3) & 0x3ff);
            at += 6;
        }
        if (code == 0) {
            return -1;
        }
        out = put_utf8(out, code);
    }
    *out = '\0';
    return (int)(out - begin);
}

bool json_count(struct json_value value, uint64_t most, uint64_t *out) {
    if (value.at == NULL || value.size == 0 || value.size > 18) {
        return false;
    }
    *out = 0;
    for (size_t i = 0; i < value.size; i++) {
        if (value.at[i] < '0' || value.at[i] > '9') {
            return false;
        }
        *out = *out * 10 + (uint64_t)(value.at[i] - '0');
    }
    return *out <= most;
}

size_t json_quote(const char *in, char *out, size_t room) {
    size_t used = 0;
    for (; *in != '\0' && used + 7 < room; in++) {
        const uint8_t c = (uint8_t)*in;
        if (c == '"' || c == '\\') {
            out[used++] = '\\';
            out[used++] = *in;
        } else if (c < 0x20) {
            used += (size_t)snprintf(out + used, 7, "\\u%04x", (unsigned)c);
        } else {
            out[used++] = c < 0x7f ? *in : '?';
        }
    }
    out[used] = '\0';
    return used;
}
