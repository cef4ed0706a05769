/* mailbox.c: see mailbox.h for what a mailbox promises. Nothing here knows what an item is.
 *
 * The sleep protocol is Dekker's: the producer publishes and then looks whether the consumer sleeps, the consumer says that it
 * sleeps and then looks whether something was published. All four accesses are sequentially consistent, so at least one of
 * the two sees the other and no wake-up is lost. Fences would be cheaper to write, but ThreadSanitizer does not understand
 * them. */
#include "mailbox.h"

#include "../core/invariant.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { MAILBOX_CAPACITY_MIN = 2, MAILBOX_CAPACITY_MAX = 1 << 20 };

int mailbox_init(struct mailbox *box, uint32_t capacity, uint32_t item_bytes) {
    memset(box, 0, sizeof *box);
    box->eventfd = -1;
    if (capacity < MAILBOX_CAPACITY_MIN || capacity > MAILBOX_CAPACITY_MAX || (capacity & (capacity - 1)) != 0 ||
        item_bytes == 0) {
        return -EINVAL;
    }
    box->items = calloc(capacity, item_bytes);
    if (box->items == NULL) {
        return -ENOMEM;
    }
    box->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (box->eventfd < 0) {
        int error = errno;
        free(box->items);
        box->items = NULL;
        return -error;
    }
    box->mask = capacity - 1;
    box->item_bytes = item_bytes;
    atomic_init(&box->tail, 0);
    atomic_init(&box->head, 0);
    atomic_init(&box->asleep, false);
    return 0;
}

/* Both threads must be through with it. Harmless after a failed or no init of zeroed memory with eventfd -1. */
void mailbox_free(struct mailbox *box) {
    if (box->items == NULL) {
        return;
    }
    free(box->items);
    box->items = NULL;
    (void)close(box->eventfd);
    box->eventfd = -1;
}

static uint8_t *place(struct mailbox *box, uint32_t count) {
    return box->items + (size_t)(count & box->mask) * box->item_bytes;
}

bool mailbox_push(struct mailbox *box, const void *item) {
    uint32_t tail = atomic_load_explicit(&box->tail, memory_order_relaxed); /* ours alone */
    if (tail - box->head_seen > box->mask) {
        /* Pairs with the release store in mailbox_pop(): the item there was read before we overwrite it. */
        box->head_seen = atomic_load_explicit(&box->head, memory_order_acquire);
        SCHED_ASSERT(tail - box->head_seen <= box->mask + 1);
        if (tail - box->head_seen > box->mask) {
            return false;
        }
    }
    memcpy(place(box, tail), item, box->item_bytes);
    /* Pairs with the acquire loads in mailbox_pop() and mailbox_sleep(): the item is there before its count. */
    atomic_store_explicit(&box->tail, tail + 1, memory_order_release);
    return true;
}

void mailbox_ring(struct mailbox *box) {
    /* The same value again, but in the one order of all sequentially consistent accesses; pairs with mailbox_sleep(). */
    atomic_store(&box->tail, atomic_load_explicit(&box->tail, memory_order_relaxed));
    if (!atomic_load(&box->asleep) || !atomic_exchange(&box->asleep, false)) {
        return; /* awake, or somebody rang already */
    }
    uint64_t one = 1;
    ssize_t wrote;
    do {
        wrote = write(box->eventfd, &one, sizeof one);
    } while (wrote < 0 && errno == EINTR);
    /* EAGAIN: the count is at its end, so the descriptor is readable anyway. */
    SCHED_ASSERT(wrote == (ssize_t)sizeof one || errno == EAGAIN);
}

bool mailbox_pop(struct mailbox *box, void *item) {
    uint32_t head = atomic_load_explicit(&box->head, memory_order_relaxed); /* ours alone */
    if (head == box->tail_seen) {
        box->tail_seen = atomic_load_explicit(&box->tail, memory_order_acquire); /* pairs with mailbox_push() */
        SCHED_ASSERT(box->tail_seen - head <= box->mask + 1);
        if (head == box->tail_seen) {
            return false;
        }
    }
    memcpy(item, place(box, head), box->item_bytes);
    atomic_store_explicit(&box->head, head + 1, memory_order_release); /* pairs with mailbox_push() */
    return true;
}

bool mailbox_sleep(struct mailbox *box) {
    atomic_store(&box->asleep, true);
    if (atomic_load(&box->tail) == atomic_load_explicit(&box->head, memory_order_relaxed)) {
        return true;
    }
    atomic_store(&box->asleep, false);
    return false;
}

void mailbox_wake(struct mailbox *box) {
    atomic_store(&box->asleep, false);
    uint64_t count;
    ssize_t got;
    do {
        got = read(box->eventfd, &count, sizeof count);
    } while (got < 0 && errno == EINTR);
    SCHED_ASSERT(got == (ssize_t)sizeof count || errno == EAGAIN); /* EAGAIN: woken by something else */
}

void mailbox_stir(struct mailbox *box) {
    atomic_store(&box->asleep, false);
}

uint32_t mailbox_waiting(const struct mailbox *box) {
    /* Head first, acquired: whoever moved it had seen at least that tail, so the difference is not below zero. */
    uint32_t head = atomic_load_explicit(&box->head, memory_order_acquire);
    uint32_t waiting = atomic_load_explicit(&box->tail, memory_order_relaxed) - head;
    return waiting <= box->mask + 1 ? waiting : box->mask + 1;
}
