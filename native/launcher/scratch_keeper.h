/* scratch_keeper.h: a process that makes, re-keys and drops volumes, since all of that waits for disks and for the kernel, and the
 * launcher must not. A few of them work beside each other; each has its volumes, its mount namespace and one thread.
 *
 *   launcher -> keeper   struct keeper_order
 *   keeper -> launcher   struct keeper_answer, one descriptor with READY: a detached mount, the directory a sandbox gets as /tmp
 *
 * Both are our code. A keeper ends when its socket does, and drops all it has; if it is killed the kernel does that.
 */
#ifndef LAUNCHER_SCRATCH_KEEPER_H
#define LAUNCHER_SCRATCH_KEEPER_H

#include <stdint.h>

#include "protocol.h"

enum { KEEPER_VOLUMES_MAX = 4096 };

enum keeper_order_kind {
    KEEPER_MAKE = 1,  /* volume (free), size_mb; answered by READY or GONE */
    KEEPER_END = 2,   /* its sandbox has ended; answered by EMPTIED and then READY or GONE, or by GONE alone */
    KEEPER_DROP = 3   /* answered by GONE */
};

struct keeper_order {
    uint32_t kind;
    uint32_t volume;
    uint32_t size_mb;
};

enum keeper_answer_kind {
    KEEPER_READY = 1,   /* a descriptor: empty, under a key of its own */
    KEEPER_EMPTIED = 2, /* nothing of the occupant is left, in memory neither */
    KEEPER_GONE = 3     /* the volume is no more; error and step: that was not asked for */
};

struct keeper_answer {
    uint32_t kind;
    uint32_t volume;
    int32_t error;
    char step[PROTOCOL_STEP_BYTES];
};

_Static_assert(sizeof(struct keeper_order) == 12 && sizeof(struct keeper_answer) == 60, "no padding");

/* The keeper's life, in a process of its own. directory: where volumes are made. */
_Noreturn void keeper_run(int fd, const char *directory);

#endif
