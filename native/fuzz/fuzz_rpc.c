/* Invariant: any bytes give verdicts, and the same ones however they are cut into pieces; an unfinished frame asks for more
 * than was given; all slices lie inside the frame; limits hold; an error is printable ASCII.
 *
 * The input is a client's stream, bytes of one or more frames. */
#include <stdlib.h>

#include "../tests/harness.h"
#include "rpc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t mixed(uint64_t digest, uint64_t value) {
    return random_next(&(uint64_t){digest ^ value * 0x100000001b3U});
}

/* Where it lies, from the frame's first byte, and what is in it. */
static uint64_t with_slice(uint64_t digest, const uint8_t *frame, uint64_t frame_bytes, struct rpc_slice slice) {
    if (slice.at == NULL) {
        SCHED_ASSERT(slice.size == 0);
        return mixed(digest, 1);
    }
    SCHED_ASSERT(slice.at >= frame && slice.at - frame <= (int64_t)frame_bytes);
    SCHED_ASSERT(slice.size <= frame_bytes - (uint64_t)(slice.at - frame));
    digest = mixed(digest, (uint64_t)(slice.at - frame));
    for (uint32_t i = 0; i < slice.size; i++) {
        digest = mixed(digest, slice.at[i]);
    }
    return mixed(digest, slice.size);
}

static void check_invoke(const struct rpc_request *request) {
    SCHED_ASSERT(!request->notification && request->payload.at != NULL);
    SCHED_ASSERT(request->function.size >= 1 && request->function.size <= 256);
    SCHED_ASSERT(request->deadline_ms <= 86400000 && request->type <= RPC_DRYRUN);
    SCHED_ASSERT(request->report || !request->log_tail);
    SCHED_ASSERT(request->client_context.size <= 3583 && request->trace.size <= 1024 && request->guest.size <= 256);
    SCHED_ASSERT(request->idempotency_key.at == NULL || (request->type == RPC_EVENT && request->idempotency_key.size >= 1));
    SCHED_ASSERT(request->idempotency_key.size <= 128);
    SCHED_ASSERT(!request->payload_msgpack || request->payload.size >= 1);
}

static uint64_t digest_of(enum rpc_verdict verdict, const struct rpc_request *request, const uint8_t *frame, size_t given) {
    const uint64_t bytes = request->size;
    SCHED_ASSERT(verdict == RPC_BROKEN ? bytes == 0 : bytes > 0 && bytes <= given);
    const size_t error_bytes = strnlen(request->error, sizeof request->error);
    SCHED_ASSERT(error_bytes < sizeof request->error);
    SCHED_ASSERT((error_bytes > 0) == (verdict == RPC_BAD || verdict == RPC_BROKEN));
    SCHED_ASSERT(!request->too_large || verdict == RPC_BROKEN);
    uint64_t digest = mixed((uint64_t)verdict, bytes);
    for (size_t i = 0; i < error_bytes; i++) {
        SCHED_ASSERT(request->error[i] >= 0x20 && request->error[i] < 0x7f);
        digest = mixed(digest, (uint64_t)request->error[i]);
    }
    digest = mixed(digest, request->msgid | (uint64_t)request->notification << 32 | (uint64_t)request->too_large << 33);
    digest = with_slice(digest, frame, bytes, request->method);
    digest = with_slice(digest, frame, bytes, request->params);
    digest = with_slice(digest, frame, bytes, request->function);
    digest = with_slice(digest, frame, bytes, request->payload);
    digest = with_slice(digest, frame, bytes, request->client_context);
    digest = with_slice(digest, frame, bytes, request->trace);
    digest = with_slice(digest, frame, bytes, request->guest);
    digest = with_slice(digest, frame, bytes, request->idempotency_key);
    digest = mixed(digest, request->deadline_ms);
    digest = mixed(digest, request->cancel_msgid);
    digest = mixed(digest, (uint64_t)(request->payload_msgpack | request->report << 1 | request->log_tail << 2) << 8 |
                               request->type);
    if (verdict == RPC_INVOKE) {
        check_invoke(request);
    }
    return digest;
}

enum cut { WHOLE, RANDOM, AS_NEEDED };

/* All frames of the stream, each from a buffer of its own that holds what was given and no byte more. */
static uint64_t read_stream(const uint8_t *data, size_t size, const struct rpc_limits *limits, enum cut cut, uint64_t seed) {
    struct rpc_scan scan = {0};
    uint64_t digest = 0;
    size_t begins = 0;
    size_t given = cut == WHOLE ? size : 0;
    for (;;) {
        struct rpc_request request;
        uint8_t *frame = malloc(given == 0 ? 1 : given);
        SCHED_ASSERT(frame != NULL);
        memcpy(frame, data + begins, given);
        const enum rpc_verdict verdict = rpc_read(&scan, given == 0 ? frame + 1 : frame, given, limits, &request);
        if (verdict == RPC_MORE) {
            free(frame);
            SCHED_ASSERT(scan.need > given && scan.need <= limits->frame_bytes_max);
            if (begins + given == size) {
                return mixed(digest, scan.need);
            }
            const size_t left = size - begins - given;
            const size_t wanted = cut == AS_NEEDED ? scan.need - given : 1 + random_below(&seed, 1 + left / 4);
            given += wanted < left ? wanted : left;
            continue;
        }
        SCHED_ASSERT(scan.need == 0 && !scan.begun);
        digest = mixed(digest, digest_of(verdict, &request, frame, given));
        free(frame);
        if (verdict == RPC_BROKEN) {
            return digest;
        }
        begins += request.size;
        given = cut == WHOLE ? size - begins : cut == RANDOM ? given - request.size : 0;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint64_t seed = size;
    for (size_t i = 0; i < size; i++) {
        seed = mixed(seed, data[i]);
    }
    struct rpc_limits limits = {.frame_bytes_max = 6 * 1024 * 1024 + 64 * 1024};
    if (seed % 4 == 0) {
        limits.frame_bytes_max = (uint32_t)(seed / 4 % 300);
    }
    const uint64_t whole = read_stream(data, size, &limits, WHOLE, 0);
    SCHED_ASSERT(read_stream(data, size, &limits, RANDOM, seed) == whole);
    SCHED_ASSERT(read_stream(data, size, &limits, AS_NEEDED, 0) == whole);
    return 0;
}
