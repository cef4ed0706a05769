/* serve.h: the fork server's loop, the same for every kind of runtime: the launcher orders, a sandbox is cloned. zygote_module.c calls it
 * in an interpreter, shell.c in a small program.
 *
 * It makes no allocation and calls nobody back: the zygote's memory stays what it was, which images rely on (image.h).
 *
 * The zygote never runs a stranger's code and has one thread, so a raw clone is as safe as fork(2) here, given that the C library's
 * cached thread id is set right (fork(2) does it for the worker, CLONE_CHILD_SETTID at the address the kernel knows for a bare
 * process).
 * Children are the launcher's (CLONE_PARENT): it reaps them, and their death signal is tied to its life.
 */
#ifndef LAUNCHER_SERVE_H
#define LAUNCHER_SERVE_H

#include "steps.h"

/* Tells the launcher, on its socket fd, that orders can come. Without a launcher the process ends. */
void serve_ready(int fd);

/* Carries out orders until the launcher's end, which ends the process. Returns in each sandbox's worker: born, not yet specialised,
 * *newborn is what it is. init: the program of process 1. */
void serve_orders(int fd, int init, struct newborn *newborn);

#endif
