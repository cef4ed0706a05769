/* shell: the fork server for runtimes that are programs of their own. The launcher executes it as it does an interpreter with zygote.py,
 * inside the read-only root that its sandboxes will see, its socket as descriptor 3; its arguments are the command of prestart.h. It
 * runs no stranger's code; each worker that comes out of serve_orders() becomes an agent.
 *
 * Small on purpose, and linked statically where that can be had: a shell is a copy of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent.h"
#include "prestart.h"
#include "protocol.h"
#include "serve.h"
#include "steps.h"
#include "wire.h"

enum { LAUNCHER_FD = 3 };

/* Beside this program lies that of process 1. */
static int open_init(const char *self) {
    char path[512];
    const char *const name = strrchr(self, '/');
    const int directory = name == NULL ? 0 : (int)(name - self) + 1;
    if ((unsigned)snprintf(path, sizeof path, "%.*s_init", directory, self) >= sizeof path) {
        return -ENAMETOOLONG;
    }
    const int fd = open(path, O_PATH | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int main(int count, char **arguments) {
    static struct newborn newborn;
    struct prestart prestart;
    const int init = count < 1 ? -EINVAL : open_init(arguments[0]);
    if (init < 0) {
        struct spawn_answer answer = {.error = -init};
        wire_text(answer.step, sizeof answer.step, "program of process 1");
        (void)wire_send(LAUNCHER_FD, &answer, sizeof answer, NULL, 0, 0);
        return 126;
    }
    steps_prepare();
    serve_ready(LAUNCHER_FD);
    serve_orders(LAUNCHER_FD, init, &newborn);
    prestart_begin(&newborn, arguments + 1, &prestart);
    steps_specialise(&newborn);
    wire_close(&newborn.image); /* of no use here */
    if (newborn.special.limit_data != 0) {
        prestart_drop(&prestart); /* it has a limit less than what is executed afresh */
    }
    agent_run(newborn.order.temp_dir, &prestart);
}
