/* pack.c: is this one whole MessagePack value? A sandbox's answer is put into its caller's stream as it is, so it must not be
 * able to end early or late there: that would let a function answer for others.
 *
 * 6 MB of small values take 5 to 14 ms to look at, so a large answer is looked at as it comes. */
#include "pack.h"

#include "rpc.h"

static uint64_t read_be(const uint8_t *at, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++) {
        value = (value << 8) | at[i];
    }
    return value;
}

/* How a value begins: bytes of head and data, and values within. */
struct shape {
    unsigned length_bytes; /* of a length that follows the tag */
    uint64_t fixed;        /* data bytes besides */
    unsigned children;     /* 0: length counts bytes, 1: values, 2: pairs */
};

static bool shape_of(uint8_t tag, struct shape *shape) {
    *shape = (struct shape){0};
    if (tag <= 0x7f || tag >= 0xe0 || tag == 0xc0 || tag == 0xc2 || tag == 0xc3) {
        return true;
    }
    if (tag >= 0xa0 && tag <= 0xbf) {
        shape->fixed = tag & 0x1f;
        return true;
    }
    switch (tag) {
    case 0xc4: case 0xd9: shape->length_bytes = 1; return true;
    case 0xc5: case 0xda: shape->length_bytes = 2; return true;
    case 0xc6: case 0xdb: shape->length_bytes = 4; return true;
    case 0xc7: shape->length_bytes = 1; shape->fixed = 1; return true;
    case 0xc8: shape->length_bytes = 2; shape->fixed = 1; return true;
    case 0xc9: shape->length_bytes = 4; shape->fixed = 1; return true;
    case 0xca: case 0xce: case 0xd2: shape->fixed = 4; return true;
    case 0xcb: case 0xcf: case 0xd3: shape->fixed = 8; return true;
    case 0xcc: case 0xd0: shape->fixed = 1; return true;
    case 0xcd: case 0xd1: shape->fixed = 2; return true;
    case 0xd4: shape->fixed = 2; return true;
    case 0xd5: shape->fixed = 3; return true;
    case 0xd6: shape->fixed = 5; return true;
    case 0xd7: shape->fixed = 9; return true;
    case 0xd8: shape->fixed = 17; return true;
    case 0xdc: shape->length_bytes = 2; shape->children = 1; return true;
    case 0xdd: shape->length_bytes = 4; shape->children = 1; return true;
    case 0xde: shape->length_bytes = 2; shape->children = 2; return true;
    case 0xdf: shape->length_bytes = 4; shape->children = 2; return true;
    default: return false;
    }
}

/* Values of one byte that hold nothing, which large arrays of small numbers are made of. */
static bool is_single(uint8_t byte) {
    return byte < 0x80 || byte >= 0xe0 || byte == 0xc0 || byte == 0xc2 || byte == 0xc3;
}

enum pack_verdict pack_scan(struct pack_scan *scan, const uint8_t *in, size_t have, size_t size) {
    if (!scan->begun) {
        *scan = (struct pack_scan){.begun = true, .left = {1}};
    }
    for (;;) {
        while (scan->left[scan->depth] == 0) {
            if (scan->depth == 0) {
                return scan->at == size ? PACK_WHOLE : PACK_BROKEN;
            }
            scan->depth--;
        }
        if (scan->at >= have) {
            return scan->at >= size ? PACK_BROKEN : PACK_MORE;
        }
        uint32_t *left = &scan->left[scan->depth];
        const size_t run = have - scan->at < *left ? have - scan->at : *left;
        uint32_t singles = 0;
        while (singles < run && is_single(in[scan->at + singles])) {
            singles++;
        }
        scan->at += singles;
        *left -= singles;
        if (singles > 0) {
            continue;
        }
        const uint8_t tag = in[scan->at];
        uint64_t within = 0;
        uint64_t bytes = 1;
        if ((tag & 0xf0) == 0x90) {
            within = tag & 0x0f;
        } else if ((tag & 0xf0) == 0x80) {
            within = 2U * (tag & 0x0f);
        } else {
            struct shape shape;
            if (!shape_of(tag, &shape) || size - scan->at - 1 < shape.length_bytes) {
                return PACK_BROKEN;
            }
            if (have - scan->at - 1 < shape.length_bytes) {
                return PACK_MORE;
            }
            const uint64_t length = read_be(in + scan->at + 1, shape.length_bytes);
            bytes += shape.length_bytes + shape.fixed + (shape.children == 0 ? length : 0);
            within = shape.children * length;
        }
        if (size - scan->at < bytes) {
            return PACK_BROKEN;
        }
        scan->at += bytes; /* of a string perhaps past what is there */
        --*left;
        if (within > 0) {
            if (scan->depth == RPC_DEPTH_MAX || within > size - scan->at) {
                return PACK_BROKEN; /* each value within takes a byte at least */
            }
            scan->left[++scan->depth] = (uint32_t)within;
        }
    }
}

bool pack_check(const uint8_t *in, size_t size) {
    struct pack_scan scan = {0};
    return pack_scan(&scan, in, size, size) == PACK_WHOLE;
}
