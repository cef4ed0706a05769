/* filter.h: system calls that a sandbox does without, since they reach parts of the kernel that no namespace divides. */
#ifndef LAUNCHER_FILTER_H
#define LAUNCHER_FILTER_H

#include <stdbool.h>

/* Installs the filter in this process and those it will start. no_new_privs must be set. linger: sockets may linger, which is safe
 * while no descriptor can be sent to the service. 0 or -errno. */
int filter_install(bool linger);

#endif
