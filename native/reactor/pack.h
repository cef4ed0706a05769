/* pack.h: writes MessagePack into room that the caller has made sure of (each function returns where the next byte goes), and
 * checks what others wrote. */
#ifndef SCHED_PACK_H
#define SCHED_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "rpc.h"

enum pack_verdict { PACK_MORE = 0, PACK_WHOLE = 1, PACK_BROKEN = 2 };

/* Zero it to begin. */
struct pack_scan {
    size_t at;                        /* everything before is well-formed */
    uint32_t depth;
    bool begun;
    uint32_t left[RPC_DEPTH_MAX + 1]; /* values still to come, by depth */
};

/* One whole value of exactly `size` bytes (below 4 GiB), nested at most RPC_DEPTH_MAX deep, with nothing behind it, of which the first
 * `have` bytes are there. MORE: call again with more of them. Cost: O(bytes not looked at before). */
enum pack_verdict pack_scan(struct pack_scan *scan, const uint8_t *in, size_t have, size_t size);
/* All of it at once. */
bool pack_check(const uint8_t *in, size_t size);

/* Most bytes that the head of anything takes. */
enum { PACK_HEAD_MAX = 9 };

static inline uint8_t *pack_u8(uint8_t *at, uint8_t value) {
    *at = value;
    return at + 1;
}

static inline uint8_t *pack_be(uint8_t *at, uint64_t value, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
    }
    return at + bytes;
}

static inline uint8_t *pack_nil(uint8_t *at) {
    return pack_u8(at, 0xc0);
}

static inline uint8_t *pack_array(uint8_t *at, uint32_t count) {
    return count < 16 ? pack_u8(at, (uint8_t)(0x90 | count)) : pack_be(pack_u8(at, 0xdc), count, 2);
}

static inline uint8_t *pack_map(uint8_t *at, uint32_t count) {
    return count < 16 ? pack_u8(at, (uint8_t)(0x80 | count)) : pack_be(pack_u8(at, 0xde), count, 2);
}

static inline uint8_t *pack_uint(uint8_t *at, uint64_t value) {
    if (value < 128) {
        return pack_u8(at, (uint8_t)value);
    }
    if (value <= 0xff) {
        return pack_u8(pack_u8(at, 0xcc), (uint8_t)value);
    }
    if (value <= 0xffff) {
        return pack_be(pack_u8(at, 0xcd), value, 2);
    }
    if (value <= 0xffffffff) {
        return pack_be(pack_u8(at, 0xce), value, 4);
    }
    return pack_be(pack_u8(at, 0xcf), value, 8);
}

static inline uint8_t *pack_double(uint8_t *at, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return pack_be(pack_u8(at, 0xcb), bits, 8);
}

static inline uint8_t *pack_bin_head(uint8_t *at, uint32_t bytes) {
    if (bytes <= 0xff) {
        return pack_u8(pack_u8(at, 0xc4), (uint8_t)bytes);
    }
    if (bytes <= 0xffff) {
        return pack_be(pack_u8(at, 0xc5), bytes, 2);
    }
    return pack_be(pack_u8(at, 0xc6), bytes, 4);
}

static inline uint8_t *pack_str_head(uint8_t *at, uint32_t bytes) {
    if (bytes < 32) {
        return pack_u8(at, (uint8_t)(0xa0 | bytes));
    }
    if (bytes <= 0xff) {
        return pack_u8(pack_u8(at, 0xd9), (uint8_t)bytes);
    }
    return pack_be(pack_u8(at, 0xda), bytes, 2);
}

static inline uint8_t *pack_str(uint8_t *at, const char *text) {
    const size_t size = strlen(text);
    at = pack_str_head(at, (uint32_t)size);
    memcpy(at, text, size);
    return at + size;
}

#endif
