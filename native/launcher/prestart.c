#include "prestart.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "wire.h"

enum { EXECUTED_FD = PRESTART_FD + 1 }; /* closes when the command is executed */

/* In the child. */
_Noreturn static void become(const struct newborn *newborn, char *const *command, int pipe_end, int executed) {
    static char *const environment[] = {"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "TZ=:UTC", "_SCHEDULER_PRESTART_FD=3", NULL};
    _Static_assert(PRESTART_FD == 3, "as the environment says");
    struct newborn own = *newborn;
    if (dup2(pipe_end, PRESTART_FD) == PRESTART_FD && dup3(executed, EXECUTED_FD, O_CLOEXEC) == EXECUTED_FD &&
        syscall(SYS_close_range, EXECUTED_FD + 1, ~0U, 0) == 0 && setsid() >= 0) {
        steps_leave_privileges(&own);
        execve(command[0], command, environment);
    }
    (void)write(EXECUTED_FD, "", 1);
    _exit(127);
}

void prestart_begin(const struct newborn *newborn, char *const *command, struct prestart *prestart) {
    int ends[2] = {-1, -1}, executed[2] = {-1, -1};
    char byte;
    *prestart = (struct prestart){.pipe = -1};
    if (command[0] == NULL || newborn->order.isolation != ISOLATION_ROOT || newborn->order.uid == 0 || pipe2(ends, O_CLOEXEC) < 0) {
        return;
    }
    prestart->pipe = ends[1];
    const pid_t pid = pipe2(executed, O_CLOEXEC) < 0 ? -1 : fork();
    if (pid == 0) {
        become(newborn, command, ends[0], executed[1]);
    }
    wire_close(&ends[0]);
    wire_close(&executed[1]);
    prestart->pid = pid > 0 ? pid : 0;
    /* A program that there is not must not be taken for one that starts. */
    if (pid < 0 || read(executed[0], &byte, 1) != 0) {
        prestart_drop(prestart);
    }
    wire_close(&executed[0]);
}

/* The whole, however often it takes. SIGPIPE is blocked in the agent. */
static bool write_whole(int fd, const void *bytes, size_t count) {
    const char *at = bytes;
    while (count > 0) {
        const ssize_t written = write(fd, at, count);
        if (written < 0 && errno != EINTR) {
            return false;
        }
        at += written > 0 ? written : 0;
        count -= written > 0 ? (size_t)written : 0;
    }
    return true;
}

bool prestart_tell(struct prestart *prestart, char *const *variables, const char *directory) {
    uint32_t length = (uint32_t)strlen(directory) + 1;
    for (unsigned i = 0; variables[i] != NULL; i++) {
        length += (uint32_t)strlen(variables[i]) + 1;
    }
    bool good = write_whole(prestart->pipe, &length, sizeof length);
    for (unsigned i = 0; variables[i] != NULL && good; i++) {
        good = write_whole(prestart->pipe, variables[i], strlen(variables[i]) + 1);
    }
    good = good && write_whole(prestart->pipe, directory, strlen(directory) + 1);
    wire_close(&prestart->pipe);
    return good;
}

void prestart_drop(struct prestart *prestart) {
    if (prestart->pid > 0) {
        kill(prestart->pid, SIGKILL); /* it may not have its session yet */
        kill(-prestart->pid, SIGKILL);
        (void)waitpid(prestart->pid, NULL, 0);
    }
    wire_close(&prestart->pipe);
    prestart->pid = 0;
}
