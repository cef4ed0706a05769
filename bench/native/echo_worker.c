/* echo_worker.c: a sandbox in C: speaks the sandbox's side of docs/internals/channel.md, runs no handler, echoes.
 *
 * With it in the place of Python the service's own ceiling shows. It keeps every rule a real runtime keeps (claim, then look;
 * order; coalescing; the shelf), for a figure from a worker that cuts corners would be nobody's ceiling.
 *
 *   echo_worker [--channel FD] [--progress FD] [--run-us N] [--pin CPU]      descriptors 3 and 4 unless told
 */
#include "common.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { KIND_START = 1, KIND_CALL = 2, KIND_STOP = 3, KIND_RESULT = 16, KIND_READY = 18, KIND_HANDBACK = 20 };
enum { HEADER_BYTES = 24, REQUEST_ID_BYTES = 16, CALL_MSGPACK = 1, RESULT_MSGPACK = 1, BODY_MAX = 16 << 20 };
enum { FLUSH_AFTER_NS = 100000, LONG_CALL_NS = 100000, LONG_MEMORY = 256, LONG_ANSWER_BYTES = 16384 };
enum { PAGE_BYTES = 32768, SHELF_AT = 64, PROGRESS_WORD = 0, GENERATION_WORD = 1, SHELF_BYTES_WORD = 2 };

struct header {
    uint32_t length;
    uint8_t kind;
    uint8_t flags;
    uint16_t extra;
    uint32_t seq;
    uint32_t reserved;
    uint64_t time_ns;
};
_Static_assert(sizeof(struct header) == HEADER_BYTES, "the header has no holes");

struct worker {
    int channel;
    _Atomic uint64_t *words; /* the shared page: words, then the shelf */
    uint64_t run_ns;
    uint8_t *in;
    size_t in_size, in_used, at;
    uint8_t *out;
    size_t out_size, out_used;
    uint64_t first_unsent_ns;
    uint32_t calls_since_long; /* while below LONG_MEMORY every answer is flushed at once */
};

static void room(uint8_t **buffer, size_t *size, size_t wanted)
{
    size_t bytes = *size ? *size : 256 * 1024;
    while (bytes < wanted)
        bytes *= 2;
    if (bytes == *size)
        return;
    *buffer = realloc(*buffer, bytes);
    if (!*buffer)
        die("out of memory: a buffer of %zu bytes", bytes);
    *size = bytes;
}

static void flush(struct worker *w)
{
    if (w->out_used > 0 && !write_all(w->channel, w->out, w->out_used))
        exit(0);
    w->out_used = 0;
    if (atomic_load_explicit(&w->words[SHELF_BYTES_WORD], memory_order_relaxed) == 0)
        return;
    /* Only after its frames were sent; the generation before its places are used again. */
    atomic_store_explicit(&w->words[SHELF_BYTES_WORD], 0, memory_order_release);
    atomic_fetch_add_explicit(&w->words[GENERATION_WORD], 1, memory_order_release);
}

/* What waits also lies where the service can reach it. false: no room, so it must not wait. */
static bool shelve(struct worker *w, const uint8_t *at, size_t bytes)
{
    uint64_t used = atomic_load_explicit(&w->words[SHELF_BYTES_WORD], memory_order_relaxed);
    if (bytes > LONG_ANSWER_BYTES || SHELF_AT + used + bytes > PAGE_BYTES)
        return false;
    memcpy((uint8_t *)w->words + SHELF_AT + used, at, bytes);
    atomic_store_explicit(&w->words[SHELF_BYTES_WORD], used + bytes, memory_order_release);
    return true;
}

static uint8_t *frame(struct worker *w, struct header header, size_t body)
{
    header.length = (uint32_t)body;
    room(&w->out, &w->out_size, w->out_used + HEADER_BYTES + body);
    uint8_t *at = w->out + w->out_used;
    memcpy(at, &header, HEADER_BYTES);
    w->out_used += HEADER_BYTES + body;
    return at + HEADER_BYTES;
}

static bool buffered(const struct worker *w, struct header *header)
{
    if (w->in_used - w->at < HEADER_BYTES)
        return false;
    memcpy(header, w->in + w->at, HEADER_BYTES);
    if (header->length > BODY_MAX)
        die("a frame of %u bytes", header->length);
    return w->in_used - w->at >= HEADER_BYTES + (size_t)header->length;
}

static void next_frame(struct worker *w, struct header *header)
{
    while (!buffered(w, header)) {
        flush(w);
        if (w->at > 0) {
            memmove(w->in, w->in + w->at, w->in_used - w->at);
            w->in_used -= w->at;
            w->at = 0;
        }
        size_t wanted = w->in_used >= HEADER_BYTES ? HEADER_BYTES + (size_t)header->length : 0;
        room(&w->in, &w->in_size, wanted > w->in_used + 1 ? wanted : w->in_used + 1);
        ssize_t got = recv(w->channel, w->in + w->in_used, w->in_size - w->in_used, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            exit(0);
        w->in_used += (size_t)got;
    }
}

static void call(struct worker *w, const struct header *header, const uint8_t *body)
{
    size_t before = (size_t)REQUEST_ID_BYTES + header->extra;
    if (header->length < before)
        die("a CALL of %u bytes", header->length);
    atomic_store_explicit(&w->words[PROGRESS_WORD], header->seq, memory_order_seq_cst); /* the claim; the service reads it late */
    uint64_t start = now_ns(), end = start;
    if (w->out_used == 0)
        w->first_unsent_ns = start;
    if (header->time_ns != 0 && start > header->time_ns) {
        frame(w, (struct header){.kind = KIND_HANDBACK, .seq = header->seq}, 0);
        flush(w); /* it shall not wait for the next call's end */
        return;
    }
    while (w->run_ns && (end = now_ns()) < start + w->run_ns)
        continue;
    size_t payload = header->length - before;
    struct header result = {.kind = KIND_RESULT, .flags = header->flags & CALL_MSGPACK ? RESULT_MSGPACK : 0,
                            .seq = header->seq, .time_ns = start};
    size_t before_result = w->out_used;
    uint8_t *out = frame(w, result, 8 + payload);
    memcpy(out, &end, 8);
    memcpy(out + 8, body + before, payload);
    w->calls_since_long = end - start > LONG_CALL_NS ? 0 : w->calls_since_long + (w->calls_since_long < LONG_MEMORY);
    if (end - w->first_unsent_ns > FLUSH_AFTER_NS || w->calls_since_long < LONG_MEMORY ||
        !shelve(w, w->out + before_result, w->out_used - before_result))
        flush(w);
}

int main(int argc, char **argv)
{
    static struct worker w = {.channel = 3, .calls_since_long = LONG_MEMORY};
    int progress = 4;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--channel") == 0)
            w.channel = (int)parse_number(argv[i], argv[i + 1], 0, 1 << 20);
        else if (strcmp(argv[i], "--progress") == 0)
            progress = (int)parse_number(argv[i], argv[i + 1], 0, 1 << 20);
        else if (strcmp(argv[i], "--run-us") == 0)
            w.run_ns = parse_number(argv[i], argv[i + 1], 0, 10000000) * 1000;
        else if (strcmp(argv[i], "--pin") == 0)
            pin_cpu((int)parse_number(argv[i], argv[i + 1], 0, 1023));
        else
            die("%s: unknown", argv[i]);
    }
    w.words = mmap(NULL, PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, progress, 0);
    if (w.words == MAP_FAILED)
        die("the shared page, descriptor %d: %s", progress, strerror(errno));
    for (;;) {
        struct header header = {0};
        next_frame(&w, &header);
        const uint8_t *body = w.in + w.at + HEADER_BYTES;
        if (header.kind == KIND_CALL) {
            call(&w, &header, body);
        } else if (header.kind == KIND_START) {
            uint64_t init_ns = 1;
            memcpy(frame(&w, (struct header){.kind = KIND_READY}, 8), &init_ns, 8);
            flush(&w);
        } else if (header.kind == KIND_STOP) {
            flush(&w);
            return 0;
        } else {
            die("a frame of kind %u", header.kind);
        }
        w.at += HEADER_BYTES + (size_t)header.length;
    }
}
