/* wire.c: see wire.h. */
#include "wire.h"

#include <string.h>

struct cursor {
    const uint8_t *in;
    size_t size;
    size_t at;
    size_t need; /* where the message stands on at least, once we ran out */
    bool short_; /* ran out of bytes */
    bool bad;
};

static bool has(struct cursor *c, size_t bytes)
{
    if (c->bad || c->short_)
        return false;
    if (c->size - c->at >= bytes)
        return true;
    c->short_ = true;
    c->need = c->at + bytes;
    return false;
}

static uint64_t take(struct cursor *c, size_t bytes)
{
    if (!has(c, bytes))
        return 0;
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++)
        value = value << 8 | c->in[c->at++];
    return value;
}

static void skip_bytes(struct cursor *c, uint64_t bytes)
{
    if (has(c, (size_t)bytes))
        c->at += (size_t)bytes;
}

/* One head: returns how many values follow inside it, skipping the body of scalars. */
static uint64_t skip_one(struct cursor *c)
{
    static const uint8_t fixed[] = {/* c0 */ 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* ca */ 4, 8, 1, 2, 4, 8, 1, 2, 4, 8,
                                    /* d4 */ 2, 3, 5, 9, 17};
    uint8_t tag = (uint8_t)take(c, 1);
    if (c->short_)
        return 0;
    if (tag < 0x80 || tag >= 0xe0)
        return 0;
    if (tag < 0x90)
        return 2 * (uint64_t)(tag & 15);
    if (tag < 0xa0)
        return tag & 15;
    if (tag < 0xc0) {
        skip_bytes(c, tag & 31);
        return 0;
    }
    switch (tag) {
    case 0xc1:
        c->bad = true;
        return 0;
    case 0xc4: case 0xc5: case 0xc6:
        skip_bytes(c, take(c, (size_t)1 << (tag - 0xc4)));
        return 0;
    case 0xc7: case 0xc8: case 0xc9:
        skip_bytes(c, take(c, (size_t)1 << (tag - 0xc7)) + 1);
        return 0;
    case 0xd9: case 0xda: case 0xdb:
        skip_bytes(c, take(c, (size_t)1 << (tag - 0xd9)));
        return 0;
    case 0xdc:
        return take(c, 2);
    case 0xdd:
        return take(c, 4);
    case 0xde:
        return 2 * take(c, 2);
    case 0xdf:
        return 2 * take(c, 4);
    default:
        skip_bytes(c, fixed[tag - 0xc0]);
        return 0;
    }
}

static void skip_value(struct cursor *c)
{
    uint64_t left = 1;
    while (left > 0 && !c->bad && !c->short_)
        left += skip_one(c) - 1;
}

static uint64_t array_head(struct cursor *c)
{
    uint8_t tag = (uint8_t)take(c, 1);
    if (tag >= 0x90 && tag < 0xa0)
        return tag & 15;
    if (tag == 0xdc)
        return take(c, 2);
    if (!c->short_)
        c->bad = true;
    return 0;
}

static uint64_t map_head(struct cursor *c)
{
    uint8_t tag = (uint8_t)take(c, 1);
    if (tag >= 0x80 && tag < 0x90)
        return tag & 15;
    if (tag == 0xde)
        return take(c, 2);
    if (!c->short_)
        c->bad = true;
    return 0;
}

static uint32_t unsigned_value(struct cursor *c)
{
    uint8_t tag = (uint8_t)take(c, 1);
    if (tag < 0x80)
        return tag;
    if (tag >= 0xcc && tag <= 0xce)
        return (uint32_t)take(c, (size_t)1 << (tag - 0xcc));
    if (!c->short_)
        c->bad = true;
    return 0;
}

/* A str or bin; any other value is stepped over and leaves the slice empty. */
static struct wire_slice text_value(struct cursor *c)
{
    struct wire_slice slice = {NULL, 0};
    if (!has(c, 1))
        return slice;
    uint8_t tag = c->in[c->at];
    uint64_t bytes;
    if (tag >= 0xa0 && tag < 0xc0) {
        c->at++;
        bytes = tag & 31;
    } else if ((tag >= 0xc4 && tag <= 0xc6) || (tag >= 0xd9 && tag <= 0xdb)) {
        c->at++;
        bytes = take(c, (size_t)1 << (tag - (tag <= 0xc6 ? 0xc4 : 0xd9)));
    } else {
        skip_value(c);
        return slice;
    }
    if (!has(c, (size_t)bytes))
        return slice;
    slice.at = c->in + c->at;
    slice.size = (size_t)bytes;
    c->at += (size_t)bytes;
    return slice;
}

static int64_t verdict(const struct cursor *c, size_t *need)
{
    if (c->bad)
        return WIRE_BAD;
    if (c->short_) {
        *need = c->need;
        return WIRE_MORE;
    }
    return (int64_t)c->at;
}

int64_t wire_read_response(const uint8_t *in, size_t size, struct wire_response *out, size_t *need)
{
    struct cursor c = {.in = in, .size = size};
    *out = (struct wire_response){0};
    if (array_head(&c) != 4 && !c.short_)
        c.bad = true;
    if (unsigned_value(&c) != 1 && !c.short_)
        c.bad = true;
    out->msgid = unsigned_value(&c);
    if (has(&c, 1)) {
        if (in[c.at] == 0xc0) {
            c.at++;
        } else {
            out->failed = true;
            uint64_t keys = map_head(&c);
            for (uint64_t i = 0; i < keys && !c.bad && !c.short_; i++) {
                struct wire_slice key = text_value(&c);
                if (key.size == 4 && memcmp(key.at, "type", 4) == 0)
                    out->error_type = text_value(&c);
                else
                    skip_value(&c);
            }
        }
    }
    if (out->failed || !has(&c, 1)) {
        skip_value(&c);
    } else if (in[c.at] >= 0x91 && in[c.at] <= 0x9f) {
        uint64_t values = array_head(&c);
        out->payload = text_value(&c);
        while (--values > 0 && !c.bad && !c.short_)
            skip_value(&c);
    } else {
        skip_value(&c);
    }
    return verdict(&c, need);
}

int64_t wire_read_request(const uint8_t *in, size_t size, struct wire_request *out, size_t *need)
{
    struct cursor c = {.in = in, .size = size};
    *out = (struct wire_request){0};
    if (array_head(&c) != 4 && !c.short_)
        c.bad = true;
    if (unsigned_value(&c) != 0 && !c.short_)
        c.bad = true;
    out->msgid = unsigned_value(&c);
    out->method = text_value(&c);
    uint64_t params = array_head(&c);
    for (uint64_t i = 0; i < params && !c.bad && !c.short_; i++) {
        if (i == 0)
            out->function = text_value(&c);
        else if (i == 1)
            out->payload = text_value(&c);
        else
            skip_value(&c);
    }
    return verdict(&c, need);
}

struct writer {
    uint8_t *out; /* NULL: count only */
    size_t at;
};

static void put(struct writer *w, const void *bytes, size_t size)
{
    if (w->out)
        memcpy(w->out + w->at, bytes, size);
    w->at += size;
}

static void put_number(struct writer *w, uint8_t tag, uint64_t value, size_t bytes)
{
    uint8_t raw[9] = {tag};
    for (size_t i = 0; i < bytes; i++)
        raw[1 + i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    put(w, raw, 1 + bytes);
}

static void put_text(struct writer *w, const char *text)
{
    size_t size = strlen(text);
    if (size < 32)
        put_number(w, (uint8_t)(0xa0 | size), 0, 0);
    else
        put_number(w, 0xd9, size, 1);
    put(w, text, size);
}

static void put_bin_head(struct writer *w, size_t size)
{
    if (size < 256)
        put_number(w, 0xc4, size, 1);
    else if (size < 65536)
        put_number(w, 0xc5, size, 2);
    else
        put_number(w, 0xc6, size, 4);
}

size_t wire_make_invoke(uint8_t *out, const char *function, const uint8_t *payload, size_t payload_bytes,
                        uint32_t deadline_ms, bool report)
{
    struct writer w = {out, 0};
    uint32_t options = (deadline_ms ? 1u : 0u) + (report ? 1u : 0u);
    put(&w, "\x94\x00\xce\0\0\0\0", 7);
    put_text(&w, "invoke");
    put_number(&w, options ? 0x93 : 0x92, 0, 0);
    put_text(&w, function);
    put_bin_head(&w, payload_bytes);
    put(&w, payload, payload_bytes);
    if (options)
        put_number(&w, (uint8_t)(0x80 | options), 0, 0);
    if (deadline_ms) {
        put_text(&w, "deadline_ms");
        put_number(&w, 0xce, deadline_ms, 4);
    }
    if (report) {
        put_text(&w, "report");
        put(&w, "\xc3", 1);
    }
    return w.at;
}

void wire_set_msgid(uint8_t *request, uint32_t msgid)
{
    uint32_t big = __builtin_bswap32(msgid);
    memcpy(request + WIRE_MSGID_AT, &big, 4);
}

size_t wire_make_hello(uint8_t *out, uint32_t msgid, const char *token)
{
    struct writer w = {out, 0};
    put(&w, "\x94\x00\xce\0\0\0\0", 7);
    put_text(&w, "hello");
    put_number(&w, 0x91, 0, 0);
    put_number(&w, token ? 0x82 : 0x81, 0, 0);
    put_text(&w, "client");
    put_text(&w, "bench");
    if (token) {
        put_text(&w, "token");
        put_text(&w, token);
    }
    wire_set_msgid(out, msgid);
    return w.at;
}

size_t wire_make_answer_head(uint8_t *out, uint32_t msgid, size_t payload_bytes)
{
    struct writer w = {out, 0};
    put(&w, "\x94\x01\xce\0\0\0\0\xc0\x92", 9);
    put_bin_head(&w, payload_bytes);
    wire_set_msgid(out, msgid);
    return w.at;
}

size_t wire_make_error(uint8_t *out, uint32_t msgid, const char *type)
{
    struct writer w = {out, 0};
    put(&w, "\x94\x01\xce\0\0\0\0\x82", 8);
    put_text(&w, "type");
    put_text(&w, type);
    put_text(&w, "message");
    put_text(&w, "");
    put(&w, "\xc0", 1);
    wire_set_msgid(out, msgid);
    return w.at;
}
