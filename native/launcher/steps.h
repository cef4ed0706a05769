/* steps.h: what a newborn process does to itself before a stranger's code may run in it: two ordered lists, one line a step.
 *
 * Runs in the child of the zygote, between clone and Python. Stage 1 at birth makes a shell; stage 2 turns it into one function's
 * sandbox and gives every privilege away. The first step that fails ends the process: a half-made sandbox never runs.
 *
 * With a pid namespace a sandbox is two processes. The one that was cloned does stage 1 and becomes `init` (init.c), process 1: it runs no
 * stranger's code, reaps orphans, and passes on how the worker ended. The worker, process 2, does stage 2 and becomes Python. A
 * function in process 1 would be a surprise: the kernel ignores signals that process 1 sends itself, so abort() and
 * kill(getpid(), SIGKILL) would not do what they say, and every orphan would stay a zombie.
 *
 * To add a step (encrypted scratch, say): write `static int name(struct newborn *)` in steps.c and put its line into the list
 * at the place where the privileges it needs are still there.
 */
#ifndef LAUNCHER_STEPS_H
#define LAUNCHER_STEPS_H

#include "protocol.h"

enum { /* descriptors of a sandbox; docs/internals/channel.md */
    SANDBOX_FD_CHANNEL = 3,
    SANDBOX_FD_PROGRESS = 4,
    SANDBOX_FD_CONTROL = 5, /* until specialised */
    SANDBOX_FD_IMAGE = 6,   /* from then on, if one was given: image of an initialised process, to be made or to be used */
    SANDBOX_GROUPS_MAX = 6
};

struct newborn {
    struct spawn_order order;
    int channel, output, progress, control; /* as received; stage 1 moves them to their places */
    int groups[SANDBOX_GROUPS_MAX];         /* cgroup files to write "0" to */
    unsigned groups_count;
    int init;                               /* the program of process 1 (init.c); -1 where there is none */
    struct specialise_order special;
    int mounts[2];                          /* code, layers; -1: none */
    int image;                              /* -1: none */
    int door;                               /* of its network, until it is attached; -1: none */
    int scratch;                            /* mount for /tmp; -1: none */
    int listeners[PROTOCOL_PORTS_MAX];      /* made in stage 2, gone with its answer */
    unsigned listeners_count;
};

/* clone flags that this isolation asks for (namespaces only). */
uint64_t steps_clone_flags(uint32_t isolation);

/* In the zygote, once: what its children would have to do each for itself. */
void steps_prepare(void);

/* Stage 1. Returns in the worker; the process it was called in goes on as init, or (process isolation) is the worker itself. With
 * namespaces it may be called in the zygote's memory: until it becomes init nothing is changed that counts for a memory and not
 * for a process. */
void steps_birth(struct newborn *newborn);

/* Waits for the order on the control socket, then stage 2. Returns when the process is a specialised sandbox with descriptors
 * 0..4, and SANDBOX_FD_IMAGE where an image was given; in every other case the process ends. */
void steps_specialise(struct newborn *newborn);

/* In a child that was born and is not to be specialised: privileges and identity as a specialised worker's. Whoever cannot give one up
 * ends. */
void steps_leave_privileges(struct newborn *newborn);

#endif
