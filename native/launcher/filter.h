/* filter.h: system calls that a sandbox does without, since they reach parts of the kernel that no namespace divides. */
#ifndef LAUNCHER_FILTER_H
#define LAUNCHER_FILTER_H

#include <stdbool.h>

struct filter {
    bool linger;    /* sockets may linger, which is safe while no descriptor can be sent to the service */
    bool in_memory; /* whatever the sandbox can write to is in memory: there is nothing to bring to a disk */
};

/* Installs the filter in this process and those it will start. no_new_privs must be set. 0 or -errno. */
int filter_install(const struct filter *filter);

#endif
