/* Output queues against a plain array, through a socket that takes little; blocks against their counter. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "buffer.h"
#include "harness.h"

enum { MODEL = 1 << 20 };

struct model {
    uint8_t bytes[MODEL]; /* all that was ever queued */
    size_t queued;
    size_t received;
};

static uint8_t next_byte(uint64_t *seed) {
    return (uint8_t)random_next(seed);
}

static void receive(struct model *model, int fd, size_t at_most) {
    uint8_t bytes[4096];
    while (at_most > 0) {
        const ssize_t got = recv(fd, bytes, at_most < sizeof bytes ? at_most : sizeof bytes, MSG_DONTWAIT);
        if (got <= 0) {
            return;
        }
        SCHED_ASSERT(model->received + (size_t)got <= model->queued);
        SCHED_ASSERT(memcmp(model->bytes + model->received, bytes, (size_t)got) == 0);
        model->received += (size_t)got;
        at_most -= (size_t)got;
    }
}

static void what_goes_in_comes_out_in_order(void) {
    static struct model model;
    uint64_t seed = 11;
    uint64_t counter = 0;
    struct chunk_pool pool = {0};
    struct output output = {0};
    int pair[2];
    SCHED_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
    const int small = 4096;
    SCHED_ASSERT(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small) == 0);
    model.queued = model.received = 0;
    while (model.queued < MODEL - 40000) {
        const size_t bytes = random_below(&seed, random_below(&seed, 8) == 0 ? 40000 : 200);
        uint8_t *const begin = model.bytes + model.queued;
        for (size_t i = 0; i < bytes; i++) {
            begin[i] = next_byte(&seed);
        }
        switch (random_below(&seed, 3)) {
        case 0:
            output_add(&pool, &output, begin, bytes);
            break;
        case 1: {
            const size_t part = bytes < CHUNK_BYTES ? bytes : CHUNK_BYTES;
            memcpy(output_room(&pool, &output, part), begin, part);
            output_commit(&output, part);
            output_add(&pool, &output, begin + part, bytes - part);
            break;
        }
        default: {
            struct block *block = block_new((uint32_t)bytes + 1, &counter);
            SCHED_ASSERT(block != NULL);
            memcpy(block->data + 1, begin, bytes);
            output_refer(&pool, &output, block, block->data + 1, bytes);
            block_release(block); /* the queue holds it */
            break;
        }
        }
        model.queued += bytes;
        if (random_below(&seed, 3) == 0) {
            const uint64_t max = random_below(&seed, 30000) + 1;
            const uint64_t before = output.bytes;
            const int64_t sent = output_send(&pool, &output, pair[0], max);
            SCHED_ASSERT(sent == -EAGAIN || (sent >= 0 && (uint64_t)sent <= max && output.bytes == before - (uint64_t)sent));
        }
        if (random_below(&seed, 4) == 0) {
            receive(&model, pair[1], random_below(&seed, 40000));
        }
    }
    while (output.bytes > 0) {
        SCHED_ASSERT(output_send(&pool, &output, pair[0], UINT64_MAX) != 0);
        receive(&model, pair[1], SIZE_MAX);
    }
    receive(&model, pair[1], SIZE_MAX);
    SCHED_ASSERT(model.received == model.queued && output.head == NULL && counter == 0);
    SCHED_ASSERT(pool.count <= CHUNK_POOL_MAX);
    chunk_pool_free(&pool);
    close(pair[0]);
    close(pair[1]);
}

static void a_dropped_queue_lets_go(void) {
    uint64_t counter = 0;
    struct chunk_pool pool = {0};
    struct output output = {0};
    struct block *block = block_new(1000, &counter);
    SCHED_ASSERT(block != NULL && counter == 1000);
    output_add(&pool, &output, "abc", 3);
    output_refer(&pool, &output, block, block->data, 1000);
    output_add(&pool, &output, "def", 3);
    block_release(block);
    SCHED_ASSERT(counter == 1000 && output.bytes == 1006);
    output_drop(&pool, &output);
    SCHED_ASSERT(counter == 0 && output.bytes == 0 && output.head == NULL);
    chunk_pool_free(&pool);
}

static void blocks_count_what_they_hold(void) {
    uint64_t counter = 0;
    struct block *block = block_new(10, &counter);
    memcpy(block->data, "0123456789", 10);
    block = block_grow(block, 100000);
    SCHED_ASSERT(block != NULL && counter == 100000 && memcmp(block->data, "0123456789", 10) == 0);
    SCHED_ASSERT(block_grow(block, 50) == block && counter == 100000);
    block_hold(block);
    block_release(block);
    SCHED_ASSERT(counter == 100000);
    block_release(block);
    SCHED_ASSERT(counter == 0);
    block_release(NULL);
}

static void a_closed_peer_is_an_error_and_no_signal(void) {
    struct chunk_pool pool = {0};
    struct output output = {0};
    int pair[2];
    SCHED_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) == 0);
    close(pair[1]);
    output_add(&pool, &output, "abc", 3);
    SCHED_ASSERT(output_send(&pool, &output, pair[0], 100) == -EPIPE && output.bytes == 3);
    output_drop(&pool, &output);
    chunk_pool_free(&pool);
    close(pair[0]);
}

int main(void) {
    RUN(what_goes_in_comes_out_in_order);
    RUN(a_dropped_queue_lets_go);
    RUN(blocks_count_what_they_hold);
    RUN(a_closed_peer_is_an_error_and_no_signal);
    return 0;
}
