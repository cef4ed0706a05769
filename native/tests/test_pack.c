/* The checker of MessagePack against a plain recursive one, over values made at random and then damaged, cut everywhere. */
#include <stdlib.h>

#include "harness.h"
#include "pack.h"

enum { ROOM = 4096 };

struct text {
    uint8_t bytes[ROOM];
    size_t size;
};

static void put(struct text *text, const void *bytes, size_t size) {
    SCHED_ASSERT(text->size + size <= ROOM);
    memcpy(text->bytes + text->size, bytes, size);
    text->size += size;
}

static void put_be(struct text *text, uint8_t tag, uint64_t value, unsigned bytes) {
    uint8_t out[9] = {tag};
    pack_be(out + 1, value, bytes);
    put(text, out, 1 + bytes);
}

/* Every form there is, small. */
static void make(struct text *text, uint64_t *seed, unsigned depth) {
    static const uint8_t zeros[64];
    static const uint8_t words[] = {0xc0, 0xc2, 0xc3};
    const uint64_t n = random_below(seed, depth < 5 && text->size < ROOM / 4 ? 4 : 1);
    switch (random_below(seed, 16)) {
    case 0: put_be(text, (uint8_t)random_below(seed, 128), 0, 0); break;
    case 1: put_be(text, (uint8_t)(0xe0 + random_below(seed, 32)), 0, 0); break;
    case 2: put_be(text, words[random_below(seed, 3)], 0, 0); break;
    case 3: {
        const unsigned form = (unsigned)random_below(seed, 4);
        put_be(text, (uint8_t)((random_below(seed, 2) ? 0xcc : 0xd0) + form), random_next(seed), 1U << form);
        break;
    }
    case 4: put_be(text, 0xca, random_next(seed), 4); break;
    case 5: put_be(text, 0xcb, random_next(seed), 8); break;
    case 6: put_be(text, (uint8_t)(0xa0 + n), 0, 0); put(text, zeros, n); break;
    case 7: put_be(text, 0xd9, n, 1); put(text, zeros, n); break;
    case 8: put_be(text, 0xc5, n, 2); put(text, zeros, n); break;
    case 9: put_be(text, 0xc6, n, 4); put(text, zeros, n); break;
    case 10: put_be(text, 0xc7, n, 1); put(text, zeros, n + 1); break;
    case 11: {
        const unsigned form = (unsigned)random_below(seed, 5);
        put_be(text, (uint8_t)(0xd4 + form), 0, 0);
        put(text, zeros, 1 + (1U << form));
        break;
    }
    case 12: case 13:
        if (random_below(seed, 2)) {
            put_be(text, (uint8_t)(0x90 + n), 0, 0);
        } else {
            put_be(text, 0xdc, n, 2);
        }
        for (uint64_t i = 0; i < n; i++) {
            make(text, seed, depth + 1);
        }
        break;
    default:
        if (random_below(seed, 2)) {
            put_be(text, (uint8_t)(0x80 + n), 0, 0);
        } else {
            put_be(text, 0xdf, n, 4);
        }
        for (uint64_t i = 0; i < 2 * n; i++) {
            make(text, seed, depth + 1);
        }
        break;
    }
}

static uint64_t be(const uint8_t *at, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++) {
        value = value << 8 | at[i];
    }
    return value;
}

/* The specification as one would first write it down: the end of the value at `at`, 0: there is none. */
static size_t plain(const uint8_t *in, size_t size, size_t at, unsigned depth) {
    static const uint8_t number_bytes[] = {4, 8, 1, 2, 4, 8, 1, 2, 4, 8}; /* 0xca .. 0xd3 */
    if (at >= size) {
        return 0;
    }
    const uint8_t tag = in[at++];
    uint64_t body = 0;
    uint64_t count = 0;
    unsigned head = 0;
    if (tag >= 0xa0 && tag < 0xc0) {
        body = tag & 31;
    } else if (tag >= 0x80 && tag < 0xa0) {
        count = tag < 0x90 ? 2U * (tag & 15) : tag & 15;
    } else if (tag == 0xc1) {
        return 0;
    } else if (tag >= 0xca && tag <= 0xd3) {
        body = number_bytes[tag - 0xca];
    } else if (tag >= 0xd4 && tag <= 0xd8) {
        body = 1 + (1U << (tag - 0xd4));
    } else if (tag >= 0xc4 && tag <= 0xc9) {
        head = 1U << ((tag - 0xc4) % 3);
    } else if (tag >= 0xd9 && tag <= 0xdb) {
        head = 1U << (tag - 0xd9);
    } else if (tag >= 0xdc && tag <= 0xdf) {
        head = tag % 2 == 0 ? 2 : 4;
    }
    if (size - at < head) {
        return 0;
    }
    const uint64_t length = be(in + at, head);
    at += head;
    if (tag >= 0xdc && tag <= 0xdf) {
        count = tag >= 0xde ? 2 * length : length;
    } else {
        body += length + (tag >= 0xc7 && tag <= 0xc9 ? 1 : 0);
    }
    if (size - at < body) {
        return 0;
    }
    at += body;
    if (count > 0 && depth == RPC_DEPTH_MAX) {
        return 0;
    }
    for (uint64_t i = 0; i < count; i++) {
        at = plain(in, size, at, depth + 1);
        if (at == 0) {
            return 0;
        }
    }
    return at;
}

static void the_checker_agrees_with_the_plain_one(void) {
    uint64_t seed = 123;
    unsigned good = 0;
    for (int round = 0; round < 20000; round++) {
        struct text text = {.size = 0};
        make(&text, &seed, 0);
        for (uint64_t damage = random_below(&seed, 3); damage > 0; damage--) {
            text.bytes[random_below(&seed, text.size)] = (uint8_t)random_next(&seed);
        }
        const size_t size = text.size - (random_below(&seed, 8) == 0 ? 1 : 0);
        const bool expected = plain(text.bytes, size, 0, 0) == size && size > 0;
        SCHED_ASSERT(pack_check(guarded(text.bytes, size), size) == expected);
        good += expected;
    }
    SCHED_ASSERT(good > 5000 && good < 18000);
}

/* However it comes, the verdict is the same, and no byte that is not there is looked at. */
static void cuts_change_nothing(void) {
    uint64_t seed = 7;
    for (int round = 0; round < 3000; round++) {
        struct text text = {.size = 0};
        make(&text, &seed, 0);
        if (random_below(&seed, 3) == 0) {
            text.bytes[random_below(&seed, text.size)] = (uint8_t)random_next(&seed);
        }
        struct pack_scan scan = {0};
        enum pack_verdict verdict = PACK_MORE;
        for (size_t have = 0; verdict == PACK_MORE && have <= text.size;) {
            verdict = pack_scan(&scan, guarded(text.bytes, have), have, text.size);
            have += have == text.size ? 1 : random_below(&seed, text.size - have) + 1;
        }
        SCHED_ASSERT(verdict == (pack_check(text.bytes, text.size) ? PACK_WHOLE : PACK_BROKEN));
    }
}

static void depth_and_counts_have_bounds(void) {
    uint8_t nested[RPC_DEPTH_MAX + 2];
    memset(nested, 0x91, sizeof nested);
    nested[RPC_DEPTH_MAX] = 1;
    SCHED_ASSERT(pack_check(nested, RPC_DEPTH_MAX + 1));
    nested[RPC_DEPTH_MAX] = 0x91;
    nested[RPC_DEPTH_MAX + 1] = 1;
    SCHED_ASSERT(!pack_check(nested, RPC_DEPTH_MAX + 2));
    SCHED_ASSERT(!pack_check((const uint8_t *)"\xdf\xff\xff\xff\xff", 5));
    SCHED_ASSERT(!pack_check((const uint8_t *)"\xdb\xff\xff\xff\xff", 5));
    SCHED_ASSERT(!pack_check((const uint8_t *)"", 0));
}

static void what_is_written_is_well_formed(void) {
    static const uint64_t numbers[] = {0, 127, 128, 255, 256, 65535, 65536, UINT32_MAX, 1ULL << 32, UINT64_MAX};
    uint8_t out[512];
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const size_t size = (size_t)(pack_uint(out, numbers[i]) - out);
        SCHED_ASSERT(pack_check(out, size) && be(out + (size > 1), (unsigned)(size - (size > 1))) == numbers[i]);
    }
    for (unsigned length = 0; length < 300; length += 31) {
        char text[301];
        memset(text, 'x', sizeof text);
        text[length] = '\0';
        SCHED_ASSERT(pack_check(out, (size_t)(pack_str(out, text) - out)));
        uint8_t *at = pack_bin_head(out, length);
        SCHED_ASSERT(pack_check(out, (size_t)(at + length - out)));
    }
    SCHED_ASSERT(pack_check(out, (size_t)(pack_double(pack_nil(pack_array(out, 2)), 0.5) - out)));
}

int main(void) {
    RUN(the_checker_agrees_with_the_plain_one);
    RUN(cuts_change_nothing);
    RUN(depth_and_counts_have_bounds);
    RUN(what_is_written_is_well_formed);
    return 0;
}
