/* rings.c: between the reactor's thread and the service's: commands in, events out, each by a bounded ring.
 *
 * An event is never lost: what the ring has no room for waits in a list. So that the list stays short, nothing that a stranger can
 * cause at will is asked of a service that is behind (slow_side_behind()); what is left is bounded by sandboxes and connections. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "reactor.h"

enum { BLOB_BYTES_MAX = 64 << 20 };

static const uint64_t UNHURRIED_NS = 2 * 1000 * 1000; /* about what a cold call takes from READY to its answer */

/* ---- events to the slow side ------------------------------------------------------------------------------------------ */

void push_waiting(struct sched *sched) {
    while (sched->waiting_head != NULL && mailbox_push(&sched->events, &sched->waiting_head->event)) {
        struct waiting_event *first = sched->waiting_head;
        sched->waiting_head = first->next;
        if (sched->waiting_head == NULL) {
            sched->waiting_tail = NULL;
        }
        sched->stats.events_waiting--;
        sched->told = true;
        free(first);
    }
}

/* A blob carries the counter it is in before its bytes, so that sched_event_free() needs nothing but the event. */
struct blob {
    _Atomic uint64_t *counter;
    uint64_t bytes;
    uint8_t data[];
};

static struct blob *blob_of(uint8_t *data) {
    return (struct blob *)(void *)(data - offsetof(struct blob, data));
}

uint8_t *blob_new(struct sched *sched, size_t bytes) {
    struct blob *blob = malloc(sizeof *blob + bytes);
    SCHED_ASSERT(blob != NULL && bytes <= UINT32_MAX); /* as in emit_blob(): better to end than to lose it */
    blob->counter = &sched->event_bytes;
    blob->bytes = bytes;
    atomic_fetch_add_explicit(blob->counter, bytes, memory_order_relaxed);
    return blob->data;
}

void emit_blob(struct sched *sched, const struct sched_event *event, uint8_t *blob, size_t bytes) {
    struct sched_event copy = *event;
    copy.blob = blob;
    copy.blob_bytes = (uint32_t)bytes;
    sched->stats.events++;
    if (sched->waiting_head == NULL && mailbox_push(&sched->events, &copy)) {
        sched->told = true;
        return;
    }
    struct waiting_event *waiting = malloc(sizeof *waiting);
    SCHED_ASSERT(waiting != NULL); /* an event lost is a sandbox lost: better to end than to go on so */
    *waiting = (struct waiting_event){.event = copy};
    if (sched->waiting_tail != NULL) {
        sched->waiting_tail->next = waiting;
    } else {
        sched->waiting_head = waiting;
    }
    sched->waiting_tail = waiting;
    sched->stats.events_waiting++;
}

void emit(struct sched *sched, const struct sched_event *event, const uint8_t *blob, size_t blob_bytes) {
    uint8_t *copy = NULL;
    if (blob_bytes > 0) {
        copy = blob_new(sched, blob_bytes);
        memcpy(copy, blob, blob_bytes);
    }
    emit_blob(sched, event, copy, blob_bytes);
}

/* As emit(), for what a call is not to be held up by: the service would be woken beside the sandbox that is about to run it. The
 * bell is rung with the next event, or when a moment has passed. */
void emit_unhurried(struct sched *sched, const struct sched_event *event, const uint8_t *blob, size_t blob_bytes) {
    const bool told = sched->told;
    emit(sched, event, blob, blob_bytes);
    sched->told = told;
    if (sched->bell_ns == UINT64_MAX) {
        sched->bell_ns = sched->now_ns + UNHURRIED_NS;
    }
}

bool slow_side_behind(const struct sched *sched) {
    return sched->waiting_head != NULL || atomic_load_explicit(&sched->event_bytes, memory_order_relaxed) > EVENT_BYTES_MAX;
}

void fault(struct sched *sched, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    const int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    const struct sched_event event = {.kind = SCHED_EV_FAULT};
    emit(sched, &event, (const uint8_t *)text, size < 0 ? 0 : (size_t)size < sizeof text ? (size_t)size : sizeof text - 1);
}

/* ---- from the other thread -------------------------------------------------------------------------------------------- */

bool sched_post(struct sched *sched, const struct sched_command *command, const uint8_t *blob, size_t blob_bytes) {
    SCHED_ASSERT(blob_bytes <= BLOB_BYTES_MAX);
    struct posted posted = {.command = *command};
    if (blob_bytes > 0) {
        posted.blob = malloc(blob_bytes);
        if (posted.blob == NULL) {
            return false;
        }
        memcpy(posted.blob, blob, blob_bytes);
        posted.blob_bytes = blob_bytes;
    }
    if (!mailbox_push(&sched->commands, &posted)) {
        free(posted.blob);
        return false;
    }
    mailbox_ring(&sched->commands);
    return true;
}

size_t sched_poll(struct sched *sched, struct sched_event *out, size_t max) {
    mailbox_wake(&sched->events);
    size_t count = 0;
    do {
        while (count < max && mailbox_pop(&sched->events, &out[count])) {
            count++;
        }
    } while (count < max && !mailbox_sleep(&sched->events));
    if (count == max) {
        /* There may be more: the descriptor stays readable until a poll finds less than it asked for. */
        const uint64_t one = 1;
        SCHED_ASSERT(write(sched->events.eventfd, &one, sizeof one) == (ssize_t)sizeof one || errno == EAGAIN);
    }
    return count;
}

void sched_event_free(struct sched_event *event) {
    if (event->blob != NULL) {
        struct blob *blob = blob_of(event->blob);
        atomic_fetch_sub_explicit(blob->counter, blob->bytes, memory_order_relaxed);
        free(blob);
    }
    event->blob = NULL;
    event->blob_bytes = 0;
}

int sched_events_fd(const struct sched *sched) {
    return sched->events.eventfd;
}
