/* mailbox.h: a bounded ring of fixed-size items from one thread to one other, with an eventfd to sleep on.
 *
 * Lamport's ring: the producer alone writes tail, the consumer alone writes head; both are free-running 32-bit counts, each on
 * its own cache line. A release store of tail pairs with the consumer's acquire load (items are written before they are seen);
 * a release store of head pairs with the producer's acquire load (an item is read before its place is used again).
 *
 * Waking: mailbox_push() does not signal. After a batch the producer calls mailbox_ring(), which writes the eventfd only if the
 * consumer has said that it is about to sleep (mailbox_sleep()), so a busy pair makes no system calls.
 */
#ifndef SCHED_MAILBOX_H
#define SCHED_MAILBOX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mailbox {
    _Alignas(64) _Atomic uint32_t tail; /* producer's */
    uint32_t head_seen;                 /* producer's last look at head */
    _Alignas(64) _Atomic uint32_t head; /* consumer's */
    uint32_t tail_seen;
    _Alignas(64) _Atomic bool asleep;   /* the consumer wants the eventfd written */
    uint32_t mask;
    uint32_t item_bytes;
    uint8_t *items;
    int eventfd;                        /* non-blocking, close-on-exec */
};

/* capacity: a power of two, 2 .. 1 << 20. 0 or -errno; on failure nothing is held. */
int mailbox_init(struct mailbox *box, uint32_t capacity, uint32_t item_bytes);
void mailbox_free(struct mailbox *box);

/* Producer. false: full, nothing changed. */
bool mailbox_push(struct mailbox *box, const void *item);
void mailbox_ring(struct mailbox *box);

/* Consumer. false: empty. */
bool mailbox_pop(struct mailbox *box, void *item);
/* About to wait for the eventfd: true when the ring is empty and the wait is safe; false when something came meanwhile (then do
 * not wait). The consumer calls mailbox_wake() after waiting, which clears the eventfd and the wish. */
bool mailbox_sleep(struct mailbox *box);
void mailbox_wake(struct mailbox *box);
/* After a wait that ended for another reason: takes the wish back without a system call. Should somebody have rung meanwhile, the
 * eventfd stays readable and mailbox_wake() is due when it is seen. */
void mailbox_stir(struct mailbox *box);
/* Any thread: an estimate. */
uint32_t mailbox_waiting(const struct mailbox *box);

#endif
