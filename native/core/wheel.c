#include "wheel.h"

#include "invariant.h"

/* Theory: as in tokio's and Varghese & Lauck's hierarchical wheels. A timer due at tick d lies, seen from the wheel's tick t,
 * on the level of the highest 6-bit digit in which d and t differ, in the slot of d's digit there. Then everything on a
 * lower level is due before anything on a higher one, and the first occupied slot of the lowest occupied level is next. */

enum { NOWHERE = 0xffff };

static const uint64_t TICK_MAX = UINT64_MAX >> WHEEL_TICK_BITS;
_Static_assert(6 * WHEEL_LEVELS + WHEEL_TICK_BITS == 64, "the levels cover all of time");

static uint64_t ceil_tick(uint64_t ns) {
    const uint64_t mask = (1ULL << WHEEL_TICK_BITS) - 1;
    return (ns >> WHEEL_TICK_BITS) + ((ns & mask) ? 1 : 0);
}

static void unlink_timer(struct wheel *wheel, uint32_t id) {
    struct timer *timer = &wheel->timers[id];
    SCHED_ASSERT(timer->slot != NOWHERE);
    if (timer->prev == WHEEL_NONE) {
        wheel->heads[timer->slot] = timer->next;
        if (timer->next == WHEEL_NONE) {
            wheel->occupied[timer->slot / WHEEL_SLOTS] &= ~(1ULL << (timer->slot % WHEEL_SLOTS));
        }
    } else {
        wheel->timers[timer->prev].next = timer->next;
    }
    if (timer->next != WHEEL_NONE) {
        wheel->timers[timer->next].prev = timer->prev;
    }
    timer->slot = NOWHERE;
    wheel->armed--;
}

static void place_timer(struct wheel *wheel, uint32_t id) {
    struct timer *timer = &wheel->timers[id];
    SCHED_ASSERT(timer->slot == NOWHERE);
    uint64_t tick = ceil_tick(timer->due_ns);
    if (tick <= wheel->tick) {
        tick = wheel->tick + 1;
    }
    if (tick > TICK_MAX) {
        tick = TICK_MAX;
    }
    const uint64_t differ = tick ^ wheel->tick;
    SCHED_ASSERT(differ != 0); /* the clock is at its very end, 584 years after it began */
    const unsigned level = (unsigned)(63 - __builtin_clzll(differ)) / 6;
    const unsigned digit = (unsigned)(tick >> (6 * level)) & 63U;
    SCHED_ASSERT(level < WHEEL_LEVELS);
    timer->at_tick = tick;
    timer->slot = (uint16_t)(level * WHEEL_SLOTS + digit);
    timer->prev = WHEEL_NONE;
    timer->next = wheel->heads[timer->slot];
    if (timer->next != WHEEL_NONE) {
        wheel->timers[timer->next].prev = id;
    }
    wheel->heads[timer->slot] = id;
    wheel->occupied[level] |= 1ULL << digit;
    wheel->armed++;
}

void wheel_init(struct wheel *wheel, struct timer *timers, uint32_t count, uint64_t now_ns) {
    wheel->timers = timers;
    wheel->count = count;
    wheel->armed = 0;
    wheel->tick = now_ns >> WHEEL_TICK_BITS;
    for (unsigned i = 0; i < WHEEL_LEVELS; i++) {
        wheel->occupied[i] = 0;
    }
    for (unsigned i = 0; i < WHEEL_LEVELS * WHEEL_SLOTS; i++) {
        wheel->heads[i] = WHEEL_NONE;
    }
    for (uint32_t i = 0; i < count; i++) {
        timers[i].due_ns = WHEEL_NEVER;
        timers[i].slot = NOWHERE;
        timers[i].prev = timers[i].next = WHEEL_NONE;
    }
}

void wheel_arm(struct wheel *wheel, uint32_t id, uint64_t due_ns) {
    SCHED_ASSERT(id < wheel->count);
    if (due_ns == WHEEL_NEVER) {
        due_ns--; /* the mark of a disarmed timer */
    }
    struct timer *timer = &wheel->timers[id];
    timer->due_ns = due_ns;
    if (timer->slot != NOWHERE) {
        if (timer->at_tick <= ceil_tick(due_ns)) {
            return; /* lazy: found out when its slot comes up */
        }
        unlink_timer(wheel, id);
    }
    place_timer(wheel, id);
}

void wheel_disarm(struct wheel *wheel, uint32_t id) {
    SCHED_ASSERT(id < wheel->count);
    wheel->timers[id].due_ns = WHEEL_NEVER;
}

/* First occupied slot at or after the wheel's digit on the lowest occupied level; its first tick. */
static bool next_slot(const struct wheel *wheel, unsigned *slot, uint64_t *tick) {
    for (unsigned level = 0; level < WHEEL_LEVELS; level++) {
        if (wheel->occupied[level] == 0) {
            continue;
        }
        const unsigned shift = 6 * level;
        const unsigned digit = (unsigned)(wheel->tick >> shift) & 63U;
        const uint64_t ahead = wheel->occupied[level] >> digit;
        /* Nothing lies behind the wheel's own digit: it would have differed on a higher level. */
        SCHED_ASSERT(ahead != 0);
        const unsigned found = digit + (unsigned)__builtin_ctzll(ahead);
        *slot = level * WHEEL_SLOTS + found;
        *tick = (wheel->tick & ~((64ULL << shift) - 1)) | ((uint64_t)found << shift);
        return true;
    }
    return false;
}

/* Everything in a slot of a higher level goes where it belongs now that the wheel has reached the slot's first tick. All of
 * it at once: what stayed behind would hide behind later timers of lower levels. */
static void cascade(struct wheel *wheel, unsigned slot) {
    while (wheel->heads[slot] != WHEEL_NONE) {
        const uint32_t id = wheel->heads[slot];
        unlink_timer(wheel, id);
        if (wheel->timers[id].due_ns != WHEEL_NEVER) {
            place_timer(wheel, id);
        }
    }
}

uint32_t wheel_advance(struct wheel *wheel, uint64_t now_ns) {
    const uint64_t now = now_ns >> WHEEL_TICK_BITS;
    unsigned slot;
    uint64_t tick;
    while (next_slot(wheel, &slot, &tick) && tick <= now) {
        if (tick > wheel->tick) {
            wheel->tick = tick;
        }
        if (slot >= WHEEL_SLOTS) {
            cascade(wheel, slot);
            continue;
        }
        const uint32_t id = wheel->heads[slot];
        SCHED_ASSERT(id != WHEEL_NONE);
        unlink_timer(wheel, id);
        struct timer *timer = &wheel->timers[id];
        if (timer->due_ns == WHEEL_NEVER) {
            continue;
        }
        if (timer->due_ns <= now_ns) {
            timer->due_ns = WHEEL_NEVER;
            return id;
        }
        place_timer(wheel, id);
    }
    /* Nothing lies between the wheel and now, so every entry keeps its level's meaning: its slot begins after now. */
    if (now > wheel->tick) {
        wheel->tick = now;
    }
    return WHEEL_NONE;
}

uint64_t wheel_next_ns(const struct wheel *wheel) {
    unsigned slot;
    uint64_t tick;
    if (!next_slot(wheel, &slot, &tick)) {
        return WHEEL_NEVER;
    }
    return tick << WHEEL_TICK_BITS;
}

const char *wheel_check(const struct wheel *wheel) {
    uint32_t seen = 0;
    for (unsigned slot = 0; slot < WHEEL_LEVELS * WHEEL_SLOTS; slot++) {
        const bool bit = (wheel->occupied[slot / WHEEL_SLOTS] >> (slot % WHEEL_SLOTS)) & 1U;
        if (bit != (wheel->heads[slot] != WHEEL_NONE)) {
            return "wheel: occupied bit and list disagree";
        }
        uint32_t prev = WHEEL_NONE;
        for (uint32_t id = wheel->heads[slot]; id != WHEEL_NONE; id = wheel->timers[id].next) {
            const struct timer *timer = &wheel->timers[id];
            if (timer->slot != slot || timer->prev != prev) {
                return "wheel: broken list";
            }
            if (timer->due_ns != WHEEL_NEVER && timer->at_tick > ceil_tick(timer->due_ns) &&
                timer->at_tick > wheel->tick + 1) {
                return "wheel: timer lies later than it is due";
            }
            prev = id;
            if (++seen > wheel->count) {
                return "wheel: cycle";
            }
        }
    }
    return seen == wheel->armed ? NULL : "wheel: armed count";
}
