#include "sha256.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t turned(uint32_t x, unsigned by) {
    return x >> by | x << (32 - by);
}

static void take_block_plainly(uint32_t state[8], const uint8_t *block) {
    uint32_t w[64];
    for (unsigned i = 0; i < 16; i++) {
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    }
    for (unsigned i = 16; i < 64; i++) {
        const uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (turned(a, 7) ^ turned(a, 18) ^ a >> 3) + w[i - 7] + (turned(b, 17) ^ turned(b, 19) ^ b >> 10);
    }
    uint32_t s[8];
    memcpy(s, state, sizeof s);
    for (unsigned i = 0; i < 64; i++) {
        const uint32_t choice = (s[4] & s[5]) ^ (~s[4] & s[6]), most = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
        const uint32_t t1 = s[7] + (turned(s[4], 6) ^ turned(s[4], 11) ^ turned(s[4], 25)) + choice + K[i] + w[i];
        const uint32_t t2 = (turned(s[0], 2) ^ turned(s[0], 13) ^ turned(s[0], 22)) + most;
        s[7] = s[6];
        s[6] = s[5];
        s[5] = s[4];
        s[4] = s[3] + t1;
        s[3] = s[2];
        s[2] = s[1];
        s[1] = s[0];
        s[0] = t1 + t2;
    }
    for (unsigned i = 0; i < 8; i++) {
        state[i] += s[i];
    }
}

#if defined(__x86_64__)
/* The same with the processor's own instructions for it: a fifth of the time, which is most of a signature's check. Its registers hold
 * the state as pairs of rounds want it: a, b, e, f and c, d, g, h. */
__attribute__((target("sha,sse4.1,ssse3"))) static void take_block_at_once(uint32_t state[8], const uint8_t *block) {
    const __m128i big_endian = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    const __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)state), 0xb1);
    const __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(const void *)(state + 4)), 0x1b);
    const __m128i first = _mm_alignr_epi8(cdab, hgfe, 8), second = _mm_blend_epi16(hgfe, cdab, 0xf0);
    __m128i abef = first, cdgh = second, w[4];
    for (unsigned i = 0; i < 4; i++) {
        w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(block + 16 * i)), big_endian);
    }
    for (unsigned i = 0; i < 16; i++) {
        const __m128i now = w[i % 4], next = w[(i + 1) % 4], after = w[(i + 2) % 4], last = w[(i + 3) % 4];
        const __m128i sum = _mm_add_epi32(now, _mm_loadu_si128((const __m128i *)(const void *)(K + 4 * i)));
        cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
        abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
        const __m128i partly = _mm_add_epi32(_mm_sha256msg1_epu32(now, next), _mm_alignr_epi8(last, after, 4));
        w[i % 4] = _mm_sha256msg2_epu32(partly, last);
    }
    const __m128i feba = _mm_shuffle_epi32(_mm_add_epi32(abef, first), 0x1b);
    const __m128i dchg = _mm_shuffle_epi32(_mm_add_epi32(cdgh, second), 0xb1);
    _mm_storeu_si128((__m128i *)(void *)state, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(void *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

static bool at_once(void) {
    static _Atomic int known; /* 0: not asked yet; 1: no; 2: yes. Whoever asks at the same time finds the same */
    int found = atomic_load_explicit(&known, memory_order_relaxed);
    if (found == 0) {
        unsigned a = 0, b = 0, c = 0, d = 0;
        const bool has = __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b >> 29 & 1U) != 0;
        found = has && __get_cpuid(1, &a, &b, &c, &d) != 0 && (c >> 19 & 1U) != 0 ? 2 : 1;
        atomic_store_explicit(&known, found, memory_order_relaxed);
    }
    return found == 2;
}
#endif

static void take_block(uint32_t state[8], const uint8_t *block) {
#if defined(__x86_64__)
    if (at_once()) {
        take_block_at_once(state, block);
        return;
    }
#endif
    take_block_plainly(state, block);
}

void sha256_block_plainly(uint32_t state[8], const uint8_t block[SHA256_BLOCK_BYTES]) {
    take_block_plainly(state, block);
}

void sha256_begin(struct sha256 *sha) {
    static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(sha->state, first, sizeof first);
    sha->bytes = 0;
}

void sha256_add(struct sha256 *sha, const void *data, size_t bytes) {
    const uint8_t *at = data;
    if (bytes == 0) {
        return; /* data may be NULL */
    }
    const size_t held = sha->bytes % SHA256_BLOCK_BYTES;
    sha->bytes += bytes;
    if (held > 0) {
        const size_t room = SHA256_BLOCK_BYTES - held;
        const size_t part = bytes < room ? bytes : room;
        if (part > 0) {
            memcpy(sha->block + held, at, part);
        }
        if (part < room) {
            return;
        }
        take_block(sha->state, sha->block);
        at += part;
        bytes -= part;
    }
    for (; bytes >= SHA256_BLOCK_BYTES; at += SHA256_BLOCK_BYTES, bytes -= SHA256_BLOCK_BYTES) {
        take_block(sha->state, at);
    }
    if (bytes > 0) {
        memcpy(sha->block, at, bytes);
    }
}

void sha256_end(struct sha256 *sha, uint8_t out[SHA256_BYTES]) {
    const uint64_t bits = sha->bytes * 8;
    uint8_t tail[SHA256_BLOCK_BYTES + 8] = {0x80};
    const size_t held = sha->bytes % SHA256_BLOCK_BYTES;
    const size_t fill = (held < 56 ? 56 : 120) - held;
    for (unsigned i = 0; i < 8; i++) {
        tail[fill + i] = (uint8_t)(bits >> (56 - 8 * i));
    }
    sha256_add(sha, tail, fill + 8);
    for (unsigned i = 0; i < SHA256_BYTES; i++) {
        out[i] = (uint8_t)(sha->state[i / 4] >> (24 - 8 * (i % 4)));
    }
}

void hmac_begin(struct hmac *hmac, const void *key, size_t bytes) {
    uint8_t block[SHA256_BLOCK_BYTES] = {0};
    if (bytes > sizeof block) {
        sha256_begin(&hmac->inner);
        sha256_add(&hmac->inner, key, bytes);
        sha256_end(&hmac->inner, block);
    } else if (bytes > 0) {
        memcpy(block, key, bytes);
    }
    for (unsigned i = 0; i < sizeof block; i++) {
        block[i] ^= 0x36;
    }
    sha256_begin(&hmac->inner);
    sha256_add(&hmac->inner, block, sizeof block);
    for (unsigned i = 0; i < sizeof block; i++) {
        block[i] ^= 0x36 ^ 0x5c;
    }
    sha256_begin(&hmac->outer);
    sha256_add(&hmac->outer, block, sizeof block);
}

void hmac_add(struct hmac *hmac, const void *data, size_t bytes) {
    sha256_add(&hmac->inner, data, bytes);
}

void hmac_end(struct hmac *hmac, uint8_t out[SHA256_BYTES]) {
    sha256_end(&hmac->inner, out);
    sha256_add(&hmac->outer, out, SHA256_BYTES);
    sha256_end(&hmac->outer, out);
}

void sha256_hex(const uint8_t digest[SHA256_BYTES], char out[2 * SHA256_BYTES]) {
    static const char digits[] = "0123456789abcdef";
    for (unsigned i = 0; i < SHA256_BYTES; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
}
