/* buffer.c: see buffer.h. */
#include "buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "../core/invariant.h"

enum { IOVS = 64 };

struct block *block_new(uint32_t capacity, uint64_t *counter) {
    struct block *block = malloc(sizeof *block + capacity);
    if (block == NULL) {
        return NULL;
    }
    block->holders = 1;
    block->capacity = capacity;
    block->counter = counter;
    if (counter != NULL) {
        *counter += capacity;
    }
    return block;
}

struct block *block_grow(struct block *block, uint32_t capacity) {
    SCHED_ASSERT(block->holders == 1);
    if (capacity <= block->capacity) {
        return block;
    }
    struct block *grown = realloc(block, sizeof *block + capacity);
    if (grown == NULL) {
        return NULL;
    }
    if (grown->counter != NULL) {
        *grown->counter += capacity - grown->capacity;
    }
    grown->capacity = capacity;
    return grown;
}

void block_hold(struct block *block) {
    SCHED_ASSERT(block->holders > 0 && block->holders < UINT32_MAX);
    block->holders++;
}

void block_release(struct block *block) {
    if (block == NULL) {
        return;
    }
    SCHED_ASSERT(block->holders > 0);
    if (--block->holders == 0) {
        if (block->counter != NULL) {
            SCHED_ASSERT(*block->counter >= block->capacity);
            *block->counter -= block->capacity;
        }
        free(block);
    }
}

static struct chunk *chunk_new(struct chunk_pool *pool, size_t room) {
    struct chunk *chunk;
    if (room > 0 && pool->free != NULL) {
        chunk = pool->free;
        pool->free = chunk->next;
        pool->count--;
    } else {
        chunk = malloc(sizeof *chunk + room);
        SCHED_ASSERT(chunk != NULL);
    }
    chunk->next = NULL;
    chunk->block = NULL;
    chunk->at = chunk->room;
    chunk->left = 0;
    chunk->used = 0;
    return chunk;
}

static void chunk_free(struct chunk_pool *pool, struct chunk *chunk) {
    if (chunk->block != NULL) {
        block_release(chunk->block);
        free(chunk);
    } else if (pool->count < CHUNK_POOL_MAX) {
        chunk->next = pool->free;
        pool->free = chunk;
        pool->count++;
    } else {
        free(chunk);
    }
}

static void append(struct output *output, struct chunk *chunk) {
    if (output->tail == NULL) {
        output->head = chunk;
    } else {
        output->tail->next = chunk;
    }
    output->tail = chunk;
}

uint8_t *output_room(struct chunk_pool *pool, struct output *output, size_t bytes) {
    SCHED_ASSERT(bytes <= CHUNK_BYTES);
    struct chunk *tail = output->tail;
    if (tail == NULL || tail->block != NULL || CHUNK_BYTES - tail->used < bytes) {
        tail = chunk_new(pool, CHUNK_BYTES);
        append(output, tail);
    }
    return tail->room + tail->used;
}

void output_commit(struct output *output, size_t bytes) {
    struct chunk *tail = output->tail;
    SCHED_ASSERT(tail != NULL && tail->block == NULL && bytes <= CHUNK_BYTES - tail->used);
    tail->used += (uint32_t)bytes;
    tail->left += (uint32_t)bytes;
    output->bytes += bytes;
}

void output_add(struct chunk_pool *pool, struct output *output, const void *data, size_t bytes) {
    const uint8_t *from = data;
    while (bytes > 0) {
        const struct chunk *tail = output->tail;
        const size_t room = tail != NULL && tail->block == NULL ? CHUNK_BYTES - tail->used : 0;
        const size_t part = room == 0 ? (bytes < CHUNK_BYTES ? bytes : CHUNK_BYTES) : bytes < room ? bytes : room;
        memcpy(output_room(pool, output, part), from, part);
        output_commit(output, part);
        from += part;
        bytes -= part;
    }
}

void output_refer(struct chunk_pool *pool, struct output *output, struct block *block, const uint8_t *at, size_t bytes) {
    SCHED_ASSERT(bytes <= UINT32_MAX);
    struct chunk *chunk = chunk_new(pool, 0);
    block_hold(block);
    chunk->block = block;
    chunk->at = at;
    chunk->left = (uint32_t)bytes;
    append(output, chunk);
    output->bytes += bytes;
}

static void consume(struct chunk_pool *pool, struct output *output, uint64_t bytes) {
    SCHED_ASSERT(bytes <= output->bytes);
    output->bytes -= bytes;
    while (output->head != NULL) {
        struct chunk *head = output->head;
        const uint32_t part = bytes < head->left ? (uint32_t)bytes : head->left;
        head->at += part;
        head->left -= part;
        bytes -= part;
        if (head->left > 0) {
            break;
        }
        output->head = head->next;
        if (output->head == NULL) {
            output->tail = NULL;
        }
        chunk_free(pool, head);
    }
    SCHED_ASSERT(bytes == 0);
}

int64_t output_send(struct chunk_pool *pool, struct output *output, int fd, uint64_t max) {
    uint64_t total = 0;
    while (output->bytes > 0 && total < max) {
        struct iovec iov[IOVS];
        size_t count = 0;
        uint64_t asked = 0;
        for (struct chunk *chunk = output->head; chunk != NULL && count < IOVS && asked < max - total; chunk = chunk->next) {
            const uint64_t room = max - total - asked;
            const size_t part = chunk->left < room ? chunk->left : (size_t)room;
            iov[count++] = (struct iovec){.iov_base = (void *)(uintptr_t)chunk->at, .iov_len = part};
            asked += part;
        }
        const struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
        const ssize_t sent = count == 1 ? send(fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL | MSG_DONTWAIT)
                                        : sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) {
            if (errno == EINTR) {
                continue;
            }
            return total > 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? (int64_t)total : -errno;
        }
        consume(pool, output, (uint64_t)sent);
        total += (uint64_t)sent;
        if ((uint64_t)sent < asked) {
            break;
        }
    }
    return (int64_t)total;
}

void output_drop(struct chunk_pool *pool, struct output *output) {
    while (output->head != NULL) {
        struct chunk *head = output->head;
        output->head = head->next;
        chunk_free(pool, head);
    }
    output->tail = NULL;
    output->bytes = 0;
}

void chunk_pool_free(struct chunk_pool *pool) {
    while (pool->free != NULL) {
        struct chunk *chunk = pool->free;
        pool->free = chunk->next;
        free(chunk);
    }
    pool->count = 0;
}
