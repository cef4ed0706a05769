/* filter.h: the system calls of a sandbox. calls.c says which, this makes the kernel hold to it. */
#ifndef LAUNCHER_FILTER_H
#define LAUNCHER_FILTER_H

#include <linux/filter.h>
#include <stdbool.h>

struct filter {
    bool linger;    /* sockets may linger, which is safe while no descriptor can be sent to the service */
    bool ephemeral; /* nothing that the sandbox can write outlives it: whether it is on a disk is nobody's business */
};

enum { FILTER_STEPS_MAX = 1024 };

/* Assembles calls.c into steps[FILTER_STEPS_MAX]: how many, or -E2BIG, or -EINVAL if calls.c names a call twice. Nothing is
 * installed. */
int filter_assemble(const struct filter *filter, struct sock_filter *steps);

/* Installs the filter in this process and those it will start. no_new_privs must be set. 0 or -errno. */
int filter_install(const struct filter *filter);

#endif
