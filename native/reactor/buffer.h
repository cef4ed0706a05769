/* buffer.h: output queues. Small things are copied together into chunks, large ones are queued where they lie.
 *
 * A block is counted memory that several may hold (a ticket, an output queue): the last who lets go frees it. A chunk either has
 * room of its own or refers to a block. One thread.
 */
#ifndef SCHED_BUFFER_H
#define SCHED_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CHUNK_BYTES = 16 * 1024, CHUNK_POOL_MAX = 256 };

struct block {
    uint32_t holders;
    uint32_t capacity;
    uint64_t *counter; /* capacity is counted here while the block lives; may be NULL */
    uint8_t data[];
};

/* NULL: no memory. Held once. */
struct block *block_new(uint32_t capacity, uint64_t *counter);
/* Room for more, contents kept; only while held once. On failure NULL and the old one is as it was. */
struct block *block_grow(struct block *block, uint32_t capacity);
void block_hold(struct block *block);
void block_release(struct block *block);

struct chunk {
    struct chunk *next;
    struct block *block;  /* NULL: room */
    const uint8_t *at;    /* what is not sent yet */
    uint32_t left;        /* bytes at `at` */
    uint32_t used;        /* of room */
    uint8_t room[];
};

struct chunk_pool {
    struct chunk *free;
    uint32_t count;
};

struct output {
    struct chunk *head;
    struct chunk *tail;
    uint64_t bytes;
};

/* Copies. Never fails: without memory the process ends, as it must be able to answer. */
void output_add(struct chunk_pool *pool, struct output *output, const void *data, size_t bytes);
/* Room for `bytes` (at most CHUNK_BYTES) in one piece; output_commit() says how many were used. */
uint8_t *output_room(struct chunk_pool *pool, struct output *output, size_t bytes);
void output_commit(struct output *output, size_t bytes);
/* Refers; holds the block. */
void output_refer(struct chunk_pool *pool, struct output *output, struct block *block, const uint8_t *at, size_t bytes);
/* Sends what the socket takes, at most `max` bytes. Bytes sent, or -errno (-EAGAIN: nothing fits now). */
int64_t output_send(struct chunk_pool *pool, struct output *output, int fd, uint64_t max);
void output_drop(struct chunk_pool *pool, struct output *output);
void chunk_pool_free(struct chunk_pool *pool);

#endif
