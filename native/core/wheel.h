/* wheel.h: a hierarchical timer wheel over numbered timers.
 *
 * Eight levels of 64 slots, one tick is 2^16 ns (65.5 µs), so all of 64-bit time is covered and there is no horizon: with six
 * levels a machine that is up for 52 days crosses one. A timer never fires early and at most two ticks late, plus how
 * late wheel_advance() is called. All memory is the caller's.
 *
 * Re-arming is lazy: moving a timer later only writes its due time; it is put where it belongs when its old slot comes up.
 * Warm calls re-arm a sandbox's timer twice each, and this makes that a store. wheel_next_ns() may therefore be early, never late.
 */
#ifndef SCHED_WHEEL_H
#define SCHED_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

enum { WHEEL_LEVELS = 8, WHEEL_SLOTS = 64, WHEEL_TICK_BITS = 16 };
#define WHEEL_NONE UINT32_MAX
#define WHEEL_NEVER UINT64_MAX

struct timer {
    uint64_t due_ns;   /* WHEEL_NEVER: disarmed, may still lie in a slot */
    uint64_t at_tick;  /* where it lies */
    uint32_t prev;
    uint32_t next;
    uint16_t slot;     /* level * 64 + slot, or 0xffff: lies nowhere */
    uint16_t pad[3];
};

struct wheel {
    struct timer *timers;
    uint32_t count;
    uint32_t armed; /* lying in slots */
    uint64_t tick;  /* all ticks up to this one are done */
    uint64_t occupied[WHEEL_LEVELS];
    uint32_t heads[WHEEL_LEVELS * WHEEL_SLOTS];
};

void wheel_init(struct wheel *wheel, struct timer *timers, uint32_t count, uint64_t now_ns);
/* O(1). due_ns in the past fires at the next advance beyond the present tick. WHEEL_NEVER is taken as the last time there is. */
void wheel_arm(struct wheel *wheel, uint32_t timer, uint64_t due_ns);
/* O(1). */
void wheel_disarm(struct wheel *wheel, uint32_t timer);
/* The next timer due at now_ns, disarmed, or WHEEL_NONE. Amortised O(levels). Call until WHEEL_NONE. */
uint32_t wheel_advance(struct wheel *wheel, uint64_t now_ns);
/* Earliest time something may be due, WHEEL_NEVER if nothing is armed. O(levels). */
uint64_t wheel_next_ns(const struct wheel *wheel);
/* NULL or the broken invariant. */
const char *wheel_check(const struct wheel *wheel);

#endif
