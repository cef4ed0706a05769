/* Assertions that stay on in production: a broken invariant ends the process with its place, since running on
 * with a wrong account or a misdelivered reply is worse than a restart. Includes nothing of ours. */
#ifndef SCHED_INVARIANT_H
#define SCHED_INVARIANT_H

#include <stdio.h>
#include <stdlib.h>

#define SCHED_ASSERT(condition)                                                              \
    do {                                                                                     \
        if (__builtin_expect(!(condition), 0)) {                                             \
            fprintf(stderr, "scheduler: %s:%d: assertion failed: %s\n", __FILE__, __LINE__,  \
                    #condition);                                                             \
            abort();                                                                         \
        }                                                                                    \
    } while (0)

#endif
