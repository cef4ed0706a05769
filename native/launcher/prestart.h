/* prestart.h: an interpreter that is started when its sandbox is born, before anybody knows what it will run, so that its own start is on
 * nobody's path. It waits at a pipe for the environment and the directory of its function, and then is as if it had been started with
 * them.
 *
 * It has to be what a function's process is before it executes anything: the worker beside it still has the privileges of stage 2. So
 * it gives them up in the fork, and its descriptors are 0 to 2 and the pipe. What the worker mounts later it sees, for the mounts are
 * those of the whole sandbox. Only where the sandbox's uid is its own from the start (isolation by root): a normal user's sandbox
 * leaves its user namespace in stage 2, and a process that is there already would stay behind.
 */
#ifndef LAUNCHER_PRESTART_H
#define LAUNCHER_PRESTART_H

#include <stdbool.h>
#include <sys/types.h>

#include "steps.h"

enum { PRESTART_FD = 3 }; /* of the interpreter; it is told so by _SCHEDULER_PRESTART_FD */

struct prestart {
    pid_t pid; /* 0: there is none */
    int pipe;  /* write end; -1: none */
};

/* In a worker that has been born and not been specialised. Without a command, where it cannot be, and where it fails there is none: the
 * program is executed when it is known. */
void prestart_begin(const struct newborn *newborn, char *const *command, struct prestart *prestart);

/* Tells it what it is to be; the pipe is closed. False: it does not listen any more. May wait for it to have started. */
bool prestart_tell(struct prestart *prestart, char *const *variables, const char *directory);

/* Ends it. */
void prestart_drop(struct prestart *prestart);

#endif
