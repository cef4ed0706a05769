/* harness.h: what every C test needs and no more. A test is a function without arguments that asserts; main() RUNs them. A
 * failed assertion ends the program with its place, so there is nothing to count and nothing to forget. */
#ifndef SCHED_HARNESS_H
#define SCHED_HARNESS_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "invariant.h"

static inline uint64_t wall_ns(void) {
    struct timespec now;
    SCHED_ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

#define RUN(test)                                                                                  \
    do {                                                                                           \
        const uint64_t begin_ns = wall_ns();                                                       \
        test();                                                                                    \
        printf("  %-44s %6.1f ms\n", #test, (double)(wall_ns() - begin_ns) / 1e6);                 \
    } while (0)

/* A copy that ends where an unreadable page begins: one byte read too far kills the test, sanitizer or not. */
static inline const uint8_t *guarded(const void *bytes, size_t size) {
    enum { ROOM = 1 << 20 };
    static uint8_t *room;
    if (room == NULL) {
        room = mmap(NULL, ROOM + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        SCHED_ASSERT(room != MAP_FAILED && mprotect(room + ROOM, 4096, PROT_NONE) == 0);
    }
    SCHED_ASSERT(size <= ROOM);
    return size == 0 ? room + ROOM : memcpy(room + ROOM - size, bytes, size);
}

/* splitmix64 (Steele, Lea, Flood 2014): any seed will do. */
static inline uint64_t random_next(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15U);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

static inline uint64_t random_below(uint64_t *state, uint64_t bound) {
    return random_next(state) % bound;
}

#endif
