/* starter.h: starts launchers for a service that has dropped root (scheduler-launcher --starter, descriptor 3).
 *
 * The service is root when it starts the starter, says once how launchers are to be started and which runtimes they serve, and then
 * becomes a normal user. From the first start on nothing of that can be changed: all the service can ask for is another launcher,
 * the same as the first, and the end of the one that is stuck. When the service's socket ends, so does the starter.
 *
 * Messages are one byte of kind and what follows it, mirrored in scheduler/sandboxes/starter.py:
 *
 *   A  arguments of the launcher, each with its NUL       R  one REQUEST_RUNTIME, as the launcher takes it
 *   S  start: answered by struct starter_answer with the socket and a pidfd of the launcher's supervisor. The one before is ended
 *   I  end the launcher proper (its supervisor cleans up) K  end its supervisor
 */
#ifndef LAUNCHER_STARTER_H
#define LAUNCHER_STARTER_H

#include <stdint.h>

struct starter_answer {
    int32_t pid;
    int32_t error; /* errno or 0 */
};

/* Until the service's socket ends. The exit code. */
int starter_run(void);

#endif
