/* children.h: ending what a process has inherited. Without a pid namespace nothing else ends what a sandbox has started. */
#ifndef LAUNCHER_CHILDREN_H
#define LAUNCHER_CHILDREN_H

#include <stdbool.h>
#include <sys/types.h>

/* SIGKILL to each child of this process that is not spared. spared NULL: to all. */
void children_kill(bool (*spared)(const void *context, pid_t pid), const void *context);

/* Kills and reaps until no child is left, inherited ones included (this process is a subreaper). */
void children_end(void);

#endif
