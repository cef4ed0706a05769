/* test_wheel.c: the timer wheel against a plain array of due times: never early, at most two ticks late, none lost, none twice,
 * and wheel_next_ns() never later than the true time. */
#include "harness.h"
#include "wheel.h"

enum { TIMERS = 200 };

static const uint64_t TICK_NS = 1ULL << WHEEL_TICK_BITS;

static struct timer timers[TIMERS];
static struct wheel wheel;

static void advance_none(uint64_t now_ns) {
    SCHED_ASSERT(wheel_advance(&wheel, now_ns) == WHEEL_NONE);
}

static void advance_one(uint64_t now_ns, uint32_t expected) {
    SCHED_ASSERT(wheel_advance(&wheel, now_ns) == expected);
    SCHED_ASSERT(timers[expected].due_ns == WHEEL_NEVER);
}

static void test_one_timer(void) {
    static const uint64_t delays[] = {1, 1000, 65536, 65537, 1000000, 4194304, 268435456, 3000000000, 900000000000, 1ULL << 45, 1ULL << 60};
    static const uint64_t begins[] = {0, 1, 65535, 65536, 123456789, (1ULL << 52) - 1, 1ULL << 60};
    for (size_t b = 0; b < sizeof begins / sizeof begins[0]; b++) {
        for (size_t d = 0; d < sizeof delays / sizeof delays[0]; d++) {
            wheel_init(&wheel, timers, 1, begins[b]);
            SCHED_ASSERT(wheel_next_ns(&wheel) == WHEEL_NEVER);
            const uint64_t due_ns = begins[b] + delays[d];
            wheel_arm(&wheel, 0, due_ns);
            SCHED_ASSERT(wheel_next_ns(&wheel) <= due_ns + 2 * TICK_NS);
            advance_none(due_ns - 1);
            SCHED_ASSERT(wheel_check(&wheel) == NULL);
            advance_one(due_ns + 2 * TICK_NS, 0);
            advance_none(due_ns + 2 * TICK_NS);
            SCHED_ASSERT(wheel.armed == 0 && wheel_next_ns(&wheel) == WHEEL_NEVER);
        }
    }
}

static void test_moving(void) {
    wheel_init(&wheel, timers, 2, 0);
    wheel_arm(&wheel, 0, 10 * TICK_NS);
    wheel_arm(&wheel, 0, 1000 * TICK_NS); /* later: lazy */
    advance_none(900 * TICK_NS);
    wheel_arm(&wheel, 0, 910 * TICK_NS); /* earlier */
    advance_one(910 * TICK_NS, 0);
    wheel_arm(&wheel, 1, 920 * TICK_NS);
    wheel_disarm(&wheel, 1);
    advance_none(2000 * TICK_NS);
    wheel_disarm(&wheel, 1); /* twice does no harm */
    wheel_arm(&wheel, 1, 5); /* the past: at once, in the next tick */
    advance_none(2000 * TICK_NS);
    advance_one(2001 * TICK_NS, 1);
    wheel_arm(&wheel, 0, WHEEL_NEVER);
    SCHED_ASSERT(wheel.timers[0].due_ns == WHEEL_NEVER - 1 && wheel_check(&wheel) == NULL);
    advance_none(1ULL << 62);
}

static void test_against_array(void) {
    uint64_t due[TIMERS]; /* WHEEL_NEVER: not armed */
    uint64_t seed = 3;
    uint64_t now_ns = 0;
    uint64_t fired = 0;
    wheel_init(&wheel, timers, TIMERS, now_ns);
    for (uint32_t i = 0; i < TIMERS; i++) {
        due[i] = WHEEL_NEVER;
    }
    for (int step = 0; step < 20000; step++) {
        const uint32_t id = (uint32_t)random_below(&seed, TIMERS);
        if (random_below(&seed, 8) == 0) {
            wheel_disarm(&wheel, id);
            due[id] = WHEEL_NEVER;
        } else {
            due[id] = now_ns + (random_next(&seed) >> (20 + random_below(&seed, 44)));
            wheel_arm(&wheel, id, due[id]);
        }
        now_ns += random_next(&seed) >> (36 + random_below(&seed, 28));
        for (uint32_t due_now; (due_now = wheel_advance(&wheel, now_ns)) != WHEEL_NONE;) {
            SCHED_ASSERT(due[due_now] <= now_ns); /* not early, not twice */
            due[due_now] = WHEEL_NEVER;
            fired++;
        }
        uint64_t least = WHEEL_NEVER;
        for (uint32_t i = 0; i < TIMERS; i++) {
            SCHED_ASSERT(due[i] == WHEEL_NEVER || due[i] + 2 * TICK_NS > now_ns); /* none forgotten */
            least = due[i] < least ? due[i] : least;
        }
        SCHED_ASSERT(least == WHEEL_NEVER || wheel_next_ns(&wheel) <= least + 2 * TICK_NS);
        SCHED_ASSERT(step % 64 != 0 || wheel_check(&wheel) == NULL);
    }
    SCHED_ASSERT(fired > 1000);
}

static void test_check_sees_damage(void) {
    wheel_init(&wheel, timers, 3, 0);
    wheel_arm(&wheel, 0, TICK_NS);
    wheel_arm(&wheel, 1, TICK_NS);
    SCHED_ASSERT(wheel_check(&wheel) == NULL);
    wheel.armed++;
    SCHED_ASSERT(strcmp(wheel_check(&wheel), "wheel: armed count") == 0);
    wheel.armed--;
    wheel.occupied[0] = 0;
    SCHED_ASSERT(strcmp(wheel_check(&wheel), "wheel: occupied bit and list disagree") == 0);
}

int main(void) {
    RUN(test_one_timer);
    RUN(test_moving);
    RUN(test_against_array);
    RUN(test_check_sees_damage);
    return 0;
}
