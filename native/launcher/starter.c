#include "starter.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "launcher.h"
#include "wire.h"

enum { ARGUMENTS_MAX = 40, MESSAGE_BYTES_MAX = 1 + (int)sizeof(struct request) + PROTOCOL_TEXT_BYTES_MAX, BUFFER_BYTES = 1 << 20,
       CLEAN_MS = 5000, CLEAN_STEP_MS = 20 };

static char SERVICE_PID[] = "--service-pid";

struct runtime_request {
    char *bytes;
    size_t count;
};

struct starter {
    char *arguments; /* all of them, each with its NUL; owned */
    char *vector[ARGUMENTS_MAX + 1];
    char service[16];
    struct runtime_request runtimes[PROTOCOL_RUNTIMES_MAX];
    unsigned runtimes_count;
    bool sealed;     /* a launcher has been started: nothing of the above changes any more */
    pid_t pid;       /* of the last launcher's supervisor */
    int pidfd;       /* of it, or -1 */
};

static char *copied(const char *bytes, size_t count) {
    char *copy = malloc(count);
    return copy == NULL ? NULL : memcpy(copy, bytes, count);
}

/* The first is the program. */
static int take_arguments(struct starter *starter, const char *text, size_t bytes) {
    unsigned count = 0;
    if (starter->sealed || starter->arguments != NULL || bytes == 0 || text[bytes - 1] != '\0') {
        return -EPERM;
    }
    starter->arguments = copied(text, bytes);
    if (starter->arguments == NULL) {
        return -ENOMEM;
    }
    for (size_t at = 0; at < bytes; at += strlen(starter->arguments + at) + 1) {
        if (count == ARGUMENTS_MAX) {
            return -E2BIG;
        }
        starter->vector[count++] = starter->arguments + at;
    }
    if (count + 2 > ARGUMENTS_MAX) {
        return -E2BIG;
    }
    snprintf(starter->service, sizeof starter->service, "%d", (int)getppid());
    starter->vector[count++] = SERVICE_PID;
    starter->vector[count++] = starter->service;
    starter->vector[count] = NULL;
    return 0;
}

static int take_runtime(struct starter *starter, const char *bytes, size_t count) {
    struct request request;
    if (starter->sealed || starter->runtimes_count == PROTOCOL_RUNTIMES_MAX || count < sizeof request) {
        return -EPERM;
    }
    memcpy(&request, bytes, sizeof request);
    if (request.kind != REQUEST_RUNTIME || count != sizeof request + (size_t)request.text_bytes) {
        return -EINVAL;
    }
    struct runtime_request *kept = &starter->runtimes[starter->runtimes_count];
    kept->bytes = copied(bytes, count);
    kept->count = count;
    starter->runtimes_count += kept->bytes == NULL ? 0 : 1;
    return kept->bytes == NULL ? -ENOMEM : 0;
}

_Noreturn static void become_launcher(struct starter *starter, int fd) {
    if (dup2(fd, LAUNCHER_FD_SERVICE) == LAUNCHER_FD_SERVICE && syscall(SYS_close_range, LAUNCHER_FD_SERVICE + 1, ~0U, 0) == 0) {
        execv(starter->vector[0], starter->vector);
    }
    _exit(127);
}

/* What is written here lies in the socket until the launcher reads it. */
static int tell_runtimes(const struct starter *starter, int fd) {
    const struct request seal = {.kind = REQUEST_SEAL};
    for (unsigned i = 0; i < starter->runtimes_count; i++) {
        if (send(fd, starter->runtimes[i].bytes, starter->runtimes[i].count, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
            return -errno;
        }
    }
    return send(fd, &seal, sizeof seal, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

static bool has_ended(const struct starter *starter, int patience_ms) {
    struct pollfd end = {.fd = starter->pidfd, .events = POLLIN};
    return starter->pidfd < 0 || poll(&end, 1, patience_ms) > 0;
}

/* The supervisor has one child. A number that is read here cannot have become another's: its parent has not reaped it while it lives
 * itself, and if it does not, there is nobody left to end. */
static void end_inner(const struct starter *starter) {
    char path[64], text[32];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)starter->pid, (int)starter->pid);
    const int fd = starter->pidfd < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (got > 0 && syscall(SYS_pidfd_send_signal, starter->pidfd, 0, NULL, 0) == 0) {
        text[got] = '\0';
        const long inner = strtol(text, NULL, 10);
        if (inner > 1) {
            kill((pid_t)inner, SIGKILL);
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void end_supervisor(const struct starter *starter) {
    if (starter->pidfd >= 0) {
        (void)syscall(SYS_pidfd_send_signal, starter->pidfd, SIGKILL, NULL, 0);
    }
}

/* One launcher at a time: two would give one uid to two sandboxes, and a service in a stranger's hands could fill the machine with
 * them. Its supervisor is given the time to clean up. */
static bool replace(const struct starter *starter) {
    for (int waited_ms = 0; !has_ended(starter, waited_ms == 0 ? 0 : CLEAN_STEP_MS); waited_ms += CLEAN_STEP_MS) {
        if (waited_ms >= CLEAN_MS) {
            end_supervisor(starter);
            break;
        }
        end_inner(starter); /* again and again: it may just be starting it */
    }
    return has_ended(starter, CLEAN_MS);
}

static int start(struct starter *starter, int *pair) {
    const int room = BUFFER_BYTES;
    if (starter->arguments == NULL) {
        return -EINVAL;
    }
    if (!replace(starter)) {
        return -EBUSY;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return -errno;
    }
    for (unsigned i = 0; i < 2; i++) {
        (void)setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    }
    const int error = tell_runtimes(starter, pair[0]);
    if (error < 0) {
        return error;
    }
    wire_close(&starter->pidfd);
    const pid_t pid = fork();
    if (pid == 0) {
        become_launcher(starter, pair[1]);
    }
    starter->pid = pid;
    starter->pidfd = pid < 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);
    return starter->pidfd < 0 ? -errno : 0;
}

static void answer_start(struct starter *starter) {
    int pair[2] = {-1, -1};
    starter->sealed = true;
    const int error = start(starter, pair);
    const struct starter_answer answer = {.pid = starter->pid, .error = -error};
    const int sent[] = {pair[0], starter->pidfd};
    (void)wire_send(LAUNCHER_FD_SERVICE, &answer, sizeof answer, sent, error < 0 ? 0 : 2, 0);
    wire_close_all(pair, 2);
}

static int heed(struct starter *starter, const char *message, size_t bytes) {
    switch (message[0]) {
    case 'A':
        return take_arguments(starter, message + 1, bytes - 1);
    case 'R':
        return take_runtime(starter, message + 1, bytes - 1);
    case 'S':
        answer_start(starter);
        return 0;
    case 'I':
        end_inner(starter);
        return 0;
    case 'K':
        end_supervisor(starter);
        return 0;
    default:
        return -EINVAL;
    }
}

int starter_run(void) {
    static struct starter starter = {.pidfd = -1};
    static char message[MESSAGE_BYTES_MAX];
    struct sigaction reap_for_me = {.sa_handler = SIG_IGN};
    sigaction(SIGCHLD, &reap_for_me, NULL); /* a launcher sets its own again */
    for (;;) {
        unsigned count;
        const ssize_t got = wire_receive(LAUNCHER_FD_SERVICE, message, sizeof message, NULL, 0, &count, 0);
        if (got == -EMSGSIZE || got == -EINTR) {
            continue;
        }
        if (got <= 0) {
            return 0;
        }
        const int error = heed(&starter, message, (size_t)got);
        if (error < 0) { /* our own service does not ask for this: whoever does gets nothing more */
            return 1;
        }
    }
}
