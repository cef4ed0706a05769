/* SHA-256: known answers, and the processor's own instructions against the portable code. */
#include "harness.h"
#include "sha256.h"

static void digest_of(const void *data, size_t bytes, char hex[65]) {
    struct sha256 sha;
    uint8_t digest[SHA256_BYTES];
    sha256_begin(&sha);
    sha256_add(&sha, data, bytes);
    sha256_end(&sha, digest);
    sha256_hex(digest, hex);
    hex[64] = '\0';
}

static void known_answers(void) {
    char hex[65];
    digest_of("abc", 3, hex); /* FIPS 180-2, appendix B */
    SCHED_ASSERT(strcmp(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad") == 0);
    digest_of("", 0, hex);
    SCHED_ASSERT(strcmp(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855") == 0);
    digest_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, hex);
    SCHED_ASSERT(strcmp(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1") == 0);
}

static void both_ways_agree(void) {
    uint64_t seed = 7;
    uint8_t data[5 * SHA256_BLOCK_BYTES];
    for (int round = 0; round < 2000; round++) {
        for (size_t i = 0; i < sizeof data; i++) {
            data[i] = (uint8_t)random_below(&seed, 256);
        }
        struct sha256 sha;
        sha256_begin(&sha);
        uint32_t plainly[8];
        memcpy(plainly, sha.state, sizeof plainly);
        const size_t blocks = 1 + random_below(&seed, 5);
        sha256_add(&sha, data, blocks * SHA256_BLOCK_BYTES);
        for (size_t i = 0; i < blocks; i++) {
            sha256_block_plainly(plainly, data + i * SHA256_BLOCK_BYTES);
        }
        SCHED_ASSERT(memcmp(plainly, sha.state, sizeof plainly) == 0);
    }
}

int main(void) {
    RUN(known_answers);
    RUN(both_ways_agree);
    return 0;
}
