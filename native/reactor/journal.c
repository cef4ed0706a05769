/* journal.c: see journal.h. */
#include "journal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../core/invariant.h"
#include "engine.h"

enum {
    LETTERS = 4096,
    BUFFERS_MAX = JOURNAL_HELD_BYTES_MAX / JOURNAL_SMALL_BYTES,
    RETURNS = 4096 /* places for buffers on their way back: one for each that can be */
};

_Static_assert(BUFFERS_MAX <= RETURNS, "the writer can always give a buffer back");

enum letter_kind { LETTER_WRITE = 1, LETTER_CLOSE = 2, LETTER_END = 3 };

struct letter {
    enum letter_kind kind;
    struct journal_file *file;
    struct journal_buffer *buffer;
};

uint64_t journal_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now); /* a log line's time: a few ms are near enough, and it costs half */
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

/* ---- the writer's thread -------------------------------------------------------------------------------------------- */

static void *writer(void *argument) {
    struct journal *journal = argument;
    disk_look(&journal->disk);
    for (;;) {
        struct letter letter;
        if (!mailbox_pop(&journal->to_writer, &letter)) {
            if (mailbox_sleep(&journal->to_writer)) {
                struct pollfd wait = {.fd = journal->to_writer.eventfd, .events = POLLIN};
                (void)poll(&wait, 1, disk_wait_ms(&journal->disk));
            }
            mailbox_wake(&journal->to_writer);
            if (disk_wait_ms(&journal->disk) == 0) {
                disk_look(&journal->disk);
            }
            continue;
        }
        struct journal_file *file = letter.file;
        switch (letter.kind) {
        case LETTER_WRITE:
            if (disk_wait_ms(&journal->disk) == 0) {
                disk_look(&journal->disk);
            }
            disk_write(&journal->disk, &file->disk, letter.buffer->data, letter.buffer->used);
            SCHED_ASSERT(mailbox_push(&journal->from_writer, &letter.buffer));
            break;
        case LETTER_CLOSE:
            disk_close(&journal->disk, &file->disk);
            free(file->disk.path);
            free(file->name);
            free(file);
            break;
        case LETTER_END:
            return NULL;
        }
    }
}

/* ---- the reactor's side --------------------------------------------------------------------------------------------- */

int journal_new(struct journal *journal, const char *dir, const struct journal_limits *limits) {
    *journal = (struct journal){0};
    if (dir[0] == '\0') {
        return 0;
    }
    snprintf(journal->dir, sizeof journal->dir, "%s", dir);
    disk_begin(&journal->disk, journal->dir, limits);
    if (mkdir(dir, 0750) != 0 && errno != EEXIST) {
        return -errno;
    }
    int status = mailbox_init(&journal->to_writer, LETTERS, sizeof(struct letter));
    if (status != 0) {
        return status;
    }
    status = mailbox_init(&journal->from_writer, RETURNS, sizeof(struct journal_buffer *));
    if (status != 0) {
        mailbox_free(&journal->to_writer);
        return status;
    }
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the service's main thread's business */
    status = -pthread_create(&journal->thread, NULL, writer, journal);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (status != 0) {
        mailbox_free(&journal->to_writer);
        mailbox_free(&journal->from_writer);
        return status;
    }
    journal->on = journal->running = true;
    return 0;
}

static void buffer_free(struct journal *journal, struct journal_buffer *buffer) {
    struct journal_buffer **list = buffer->capacity == JOURNAL_SMALL_BYTES ? &journal->free_small : &journal->free_large;
    buffer->next = *list;
    *list = buffer;
}

static void collect(struct journal *journal) {
    struct journal_buffer *buffer;
    while (mailbox_pop(&journal->from_writer, &buffer)) {
        buffer_free(journal, buffer);
    }
}

static void buffer_end(struct journal *journal, struct journal_buffer **list) {
    struct journal_buffer *buffer = *list;
    *list = buffer->next;
    journal->held_bytes -= buffer->capacity;
    free(buffer);
}

static struct journal_buffer *buffer_take(struct journal *journal, uint32_t capacity) {
    const bool small = capacity == JOURNAL_SMALL_BYTES;
    struct journal_buffer **list = small ? &journal->free_small : &journal->free_large;
    struct journal_buffer **other = small ? &journal->free_large : &journal->free_small;
    if (*list == NULL) {
        collect(journal);
    }
    struct journal_buffer *buffer = *list;
    if (buffer != NULL) {
        *list = buffer->next;
    } else {
        while (journal->held_bytes + capacity > JOURNAL_HELD_BYTES_MAX && *other != NULL) {
            buffer_end(journal, other);
        }
        if (journal->held_bytes + capacity > JOURNAL_HELD_BYTES_MAX) {
            return NULL;
        }
        buffer = malloc(sizeof *buffer + capacity);
        if (buffer == NULL) {
            return NULL;
        }
        buffer->capacity = capacity;
        journal->held_bytes += capacity;
    }
    buffer->used = 0;
    buffer->next = NULL;
    return buffer;
}

/* false: the writer's box is full, nothing changed. */
static bool submit(struct journal *journal, struct journal_file *file) {
    const struct letter letter = {.kind = LETTER_WRITE, .file = file, .buffer = file->buffer};
    if (!mailbox_push(&journal->to_writer, &letter)) {
        return false;
    }
    file->buffer = NULL;
    return true;
}

/* Last letters of files that nobody holds any more. */
static void tell_closed(struct journal *journal) {
    const struct letter end = {.kind = LETTER_CLOSE};
    while (journal->closing != NULL) {
        struct journal_file *file = journal->closing;
        if (file->buffer != NULL && file->buffer->used == 0) {
            buffer_free(journal, file->buffer);
            file->buffer = NULL;
        }
        if (file->buffer != NULL && !submit(journal, file)) {
            return;
        }
        struct journal_file *const next = file->next; /* the writer frees it once it has the letter */
        struct letter letter = end;
        letter.file = file;
        if (!mailbox_push(&journal->to_writer, &letter)) {
            return;
        }
        journal->closing = next;
    }
}

void journal_flush(struct journal *journal) {
    if (!journal->on) {
        return;
    }
    struct journal_file **link = &journal->filled;
    while (*link != NULL) {
        struct journal_file *file = *link;
        if (file->buffer != NULL && file->buffer->used > 0) {
            file->busy = file->busy && file->buffer->used > JOURNAL_SMALL_BYTES;
            if (!submit(journal, file)) {
                break; /* the box is full for all of them: the next time */
            }
        }
        *link = file->filled_next;
        file->filled = false;
    }
    tell_closed(journal);
    mailbox_ring(&journal->to_writer);
    collect(journal);
}

bool journal_busy(const struct journal *journal) {
    return journal->filled != NULL || journal->closing != NULL;
}

uint64_t journal_lost(const struct journal *journal) {
    return journal->dropped_bytes + atomic_load_explicit(&journal->disk.lost_bytes, memory_order_relaxed);
}

static bool name_ok(const char *name) {
    size_t i = 0;
    for (; name[i] != '\0'; i++) {
        const char c = name[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_') || i >= 140) {
            return false;
        }
    }
    return i > 0;
}

struct journal_file *journal_open(struct journal *journal, const char *name) {
    if (!journal->on || !name_ok(name)) {
        return NULL;
    }
    for (struct journal_file *file = journal->files; file != NULL; file = file->next) {
        if (strcmp(file->name, name) == 0) {
            file->holders++;
            return file;
        }
    }
    struct journal_file *file = calloc(1, sizeof *file);
    char path[512];
    const int size = snprintf(path, sizeof path, "%s/%s.journal", journal->dir, name);
    if (file == NULL || size < 0 || (size_t)size >= sizeof path) {
        free(file);
        return NULL;
    }
    file->disk.path = strdup(path);
    file->name = strdup(name);
    if (file->disk.path == NULL || file->name == NULL) {
        free(file->disk.path);
        free(file->name);
        free(file);
        return NULL;
    }
    file->disk.fd = -1;
    file->holders = 1;
    file->next = journal->files;
    journal->files = file;
    return file;
}

void journal_close(struct journal *journal, struct journal_file *file) {
    if (file == NULL) {
        return;
    }
    SCHED_ASSERT(file->holders > 0);
    if (--file->holders > 0) {
        return;
    }
    struct journal_file **link = &journal->files;
    while (*link != file) {
        SCHED_ASSERT(*link != NULL);
        link = &(*link)->next;
    }
    *link = file->next;
    for (link = &journal->filled; file->filled && *link != NULL; link = &(*link)->filled_next) {
        if (*link == file) {
            *link = file->filled_next;
            file->filled = false;
            break;
        }
    }
    /* A disk that hangs must not hang the reactor: it is told when its box has room. */
    file->next = journal->closing;
    journal->closing = file;
    journal_flush(journal);
}

void journal_free(struct journal *journal) {
    if (!journal->running) {
        return;
    }
    while (journal->files != NULL) {
        journal->files->holders = 1;
        journal_close(journal, journal->files);
    }
    const struct letter letter = {.kind = LETTER_END};
    while (journal->closing != NULL || !mailbox_push(&journal->to_writer, &letter)) {
        journal_flush(journal);
        const struct timespec while_it_writes = {.tv_nsec = 1000000};
        nanosleep(&while_it_writes, NULL);
    }
    mailbox_ring(&journal->to_writer);
    pthread_join(journal->thread, NULL);
    journal->running = journal->on = false;
    collect(journal);
    while (journal->free_small != NULL) {
        buffer_end(journal, &journal->free_small);
    }
    while (journal->free_large != NULL) {
        buffer_end(journal, &journal->free_large);
    }
    SCHED_ASSERT(journal->held_bytes == 0);
    mailbox_free(&journal->to_writer);
    mailbox_free(&journal->from_writer);
}

static bool put(struct journal *journal, struct journal_file *file, struct journal_record *head, const void *first,
                size_t first_bytes, const void *second, size_t second_bytes) {
    const size_t size = sizeof *head + first_bytes + second_bytes;
    if (size > JOURNAL_LARGE_BYTES) {
        return false;
    }
    if (file->buffer != NULL && file->buffer->capacity - file->buffer->used < size) {
        if (!submit(journal, file)) {
            return false;
        }
        file->busy = true;
        mailbox_ring(&journal->to_writer);
    }
    if (file->buffer == NULL) {
        const bool large = file->busy || size > JOURNAL_SMALL_BYTES;
        file->buffer = buffer_take(journal, large ? JOURNAL_LARGE_BYTES : JOURNAL_SMALL_BYTES);
        if (file->buffer == NULL && size <= JOURNAL_SMALL_BYTES) {
            file->buffer = buffer_take(journal, JOURNAL_SMALL_BYTES);
        }
        if (file->buffer == NULL) {
            return false;
        }
    }
    if (!file->filled) {
        file->filled = true;
        file->filled_next = journal->filled;
        journal->filled = file;
    }
    head->size = (uint32_t)size;
    uint8_t *at = file->buffer->data + file->buffer->used;
    memcpy(at, head, sizeof *head);
    at += sizeof *head;
    if (first_bytes > 0) {
        memcpy(at, first, first_bytes);
    }
    if (second_bytes > 0) {
        memcpy(at + first_bytes, second, second_bytes);
    }
    file->buffer->used += (uint32_t)size;
    journal->bytes += size;
    return true;
}

void journal_add(struct journal *journal, struct journal_file *file, struct journal_record *head, const void *first,
                 size_t first_bytes, const void *second, size_t second_bytes) {
    if (file == NULL) {
        return;
    }
    head->time_ns = journal_now_ns();
    if (file->dropped_bytes > 0) {
        struct journal_record gap = {.kind = JOURNAL_DROPPED, .look = head->look, .time_ns = head->time_ns};
        if (put(journal, file, &gap, &file->dropped_bytes, sizeof file->dropped_bytes, NULL, 0)) {
            file->dropped_bytes = 0;
        }
    }
    if (file->dropped_bytes > 0 || !put(journal, file, head, first, first_bytes, second, second_bytes)) {
        const uint64_t lost = sizeof *head + first_bytes + second_bytes;
        file->dropped_bytes += lost;
        journal->dropped_bytes += lost;
    }
}
