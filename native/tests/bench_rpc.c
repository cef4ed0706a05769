/* bench_rpc.c: what one frame costs the RPC reader, in ns. Frames lie behind each other as a busy client sends them, so the
 * reader meets each at another place. Best of several rounds: the machine is shared, and interruptions only ever add.
 *
 * bench_rpc [--json] */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "invariant.h"
#include "rpc.h"

enum { STREAM_BYTES = 64 * 1024, ROUNDS = 50, BIG_BYTES = 6 * 1024 * 1024, PIECE_BYTES = 64 * 1024 };

static const struct rpc_limits limits = {.frame_bytes_max = 6 * 1024 * 1024 + 64 * 1024};
static uint8_t stream[STREAM_BYTES];
static uint8_t big[BIG_BYTES + 64];

static double now_ns(void) {
    struct timespec now;
    SCHED_ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static double best(double a, double b) {
    return a < b ? a : b;
}

/* ns a frame, of as many copies as the stream holds. */
static double frames(const uint8_t *frame, size_t size) {
    size_t filled = 0;
    while (filled + size <= sizeof stream) {
        memcpy(stream + filled, frame, size);
        filled += size;
    }
    double least = 1e18;
    for (int round = 0; round < ROUNDS; round++) {
        struct rpc_scan scan = {0};
        struct rpc_request request;
        uint64_t payload = 0;
        size_t count = 0;
        const double begin = now_ns();
        for (size_t at = 0; at < filled; at += request.size) {
            SCHED_ASSERT(rpc_read(&scan, stream + at, filled - at, &limits, &request) == RPC_INVOKE);
            payload += request.payload.size;
            count++;
        }
        least = best(least, (now_ns() - begin) / (double)count);
        SCHED_ASSERT(payload > 0 && count == filled / size);
    }
    return least;
}

/* ns a byte of a frame whose payload is `element` over and over, arriving in pieces. */
static double pieces(const uint8_t *element, size_t element_bytes, uint32_t count) {
    static const uint8_t head[] = "\x94\x00\x01\xa6invoke\x92\xa1x\xdd";
    size_t size = sizeof head - 1;
    memcpy(big, head, size);
    for (int shift = 24; shift >= 0; shift -= 8) {
        big[size++] = (uint8_t)(count >> shift);
    }
    for (uint32_t i = 0; i < count; i++) {
        memcpy(big + size, element, element_bytes);
        size += element_bytes;
    }
    SCHED_ASSERT(size <= sizeof big);
    double least = 1e18;
    for (int round = 0; round < 5; round++) {
        struct rpc_scan scan = {0};
        struct rpc_request request;
        enum rpc_verdict verdict = RPC_MORE;
        const double begin = now_ns();
        for (size_t given = 0; verdict == RPC_MORE;) {
            given = given + PIECE_BYTES < size ? given + PIECE_BYTES : size;
            verdict = rpc_read(&scan, big, given, &limits, &request);
        }
        least = best(least, (now_ns() - begin) / (double)size);
        SCHED_ASSERT(verdict == RPC_INVOKE && request.payload_msgpack && request.size == size);
    }
    return least;
}

int main(int argc, char **argv) {
    const bool json = argc > 1 && strcmp(argv[1], "--json") == 0;
    static const uint8_t bin[] = "\x94\x00\xcd\x12\x34\xa6invoke\x92\xa5hello\xc4\x64"
                                 "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789";
    static const uint8_t with_options[] =
        "\x94\x00\xcd\x12\x34\xa6invoke\x93\xa5hello\xc4\x64"
        "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
        "\x82\xab" "deadline_ms\xcd\x03\xe8\xa6report\xc3";
    static const uint8_t value[] = "\x94\x00\xcd\x12\x34\xa6invoke\x92\xa5hello\x82\xa3key\xa5value\xa4list\x93\x01\x02\x03";
    const double plain = frames(bin, sizeof bin - 1);
    const double options = frames(with_options, sizeof with_options - 1);
    const double event = frames(value, sizeof value - 1);
    const double small = pieces((const uint8_t *)"\x01", 1, 6 * 1024 * 1024);
    const double pairs = pieces((const uint8_t *)"\x92\x01\xa1x", 4, 3 * 512 * 1024);
    if (json) {
        printf("{\"invoke_ns\": %.1f, \"options_ns\": %.1f, \"value_ns\": %.1f, \"small_ns_per_byte\": %.2f, "
               "\"nested_ns_per_byte\": %.2f}\n",
               plain, options, event, small, pairs);
        return 0;
    }
    printf("invoke, 100 bytes of bin            %7.1f ns a frame\n", plain);
    printf("  with deadline_ms and report       %7.1f ns a frame\n", options);
    printf("invoke, payload a small map         %7.1f ns a frame\n", event);
    printf("6 MiB of small ints in pieces       %7.2f ns a byte\n", small);
    printf("6 MiB of small arrays in pieces     %7.2f ns a byte\n", pairs);
    return 0;
}
