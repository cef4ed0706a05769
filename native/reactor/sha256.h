/* sha256.h: SHA-256 (FIPS 180-4) and HMAC (RFC 2104) over it. Nothing is allocated.
 *
 * What goes in is public (requests) or a key: the code takes no branch and no index that depends on it. */
#ifndef SCHED_SHA256_H
#define SCHED_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { SHA256_BYTES = 32, SHA256_BLOCK_BYTES = 64 };

struct sha256 {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[SHA256_BLOCK_BYTES];
};

void sha256_begin(struct sha256 *sha);
void sha256_add(struct sha256 *sha, const void *data, size_t bytes);
void sha256_end(struct sha256 *sha, uint8_t out[SHA256_BYTES]);

/* One block by the portable code, whatever the processor can do: for the test that holds the one against the other. */
void sha256_block_plainly(uint32_t state[8], const uint8_t block[SHA256_BLOCK_BYTES]);

struct hmac {
    struct sha256 inner;
    struct sha256 outer;
};

/* A key of any length. The struct may be copied before anything is added, and used again. */
void hmac_begin(struct hmac *hmac, const void *key, size_t bytes);
void hmac_add(struct hmac *hmac, const void *data, size_t bytes);
void hmac_end(struct hmac *hmac, uint8_t out[SHA256_BYTES]);

/* Lower-case hexadecimal, 64 bytes, no NUL. */
void sha256_hex(const uint8_t digest[SHA256_BYTES], char out[2 * SHA256_BYTES]);

#endif
