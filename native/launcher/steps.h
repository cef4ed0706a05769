/* steps.h: what a newborn process does to itself before a stranger's code may run in it: two ordered lists, one line a step.
 *
 * Runs in the child of the zygote, between clone and Python. Stage 1 at birth makes a shell; stage 2 turns it into one function's
 * sandbox and gives every privilege away. The first step that fails ends the process: a half-made sandbox never runs.
 *
 * To add a step (seccomp, encrypted scratch, keyrings): write `static int name(struct newborn *)` in steps.c and put its line into the list
 * at the place where the privileges it needs are still there.
 */
#ifndef LAUNCHER_STEPS_H
#define LAUNCHER_STEPS_H

#include "protocol.h"

enum { /* descriptors of a sandbox; docs/internals/channel.md */
    SANDBOX_FD_CHANNEL = 3,
    SANDBOX_FD_PROGRESS = 4,
    SANDBOX_FD_CONTROL = 5, /* until specialised */
    SANDBOX_GROUPS_MAX = 6
};

struct newborn {
    struct spawn_order order;
    int channel, output, progress, control; /* as received; stage 1 moves them to their places */
    int groups[SANDBOX_GROUPS_MAX];         /* cgroup files to write "0" to */
    unsigned groups_count;
    struct specialise_order special;
    int mounts[2];                          /* code, layers; -1: none */
};

/* clone flags that this isolation asks for (namespaces only). */
uint64_t steps_clone_flags(uint32_t isolation);

/* Stage 1, then waits for the order on the control socket, then stage 2. Returns when the process is a specialised sandbox
 * with descriptors 0..4; in every other case the process ends. */
void steps_become_sandbox(struct newborn *newborn);

#endif
