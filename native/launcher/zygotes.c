/* One zygote per runtime: starting it in its own root, queueing orders to it, hearing its answers. It is our code, so its death
 * is a fault of the installation or of the machine; it is started again when the next shell is asked for. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "filesystem.h"
#include "invariant.h"
#include "launcher.h"
#include "wire.h"

enum { STRING_NAME, STRING_EXECUTABLE, STRING_PACKAGE, STRING_WORDS, ZYGOTE_FD = 3 };
enum { START_PATIENCE_MS = 60000 }; /* Python's own start, from a cold and slow disk */

static const char PACKAGE_TARGET[] = "/var/runtime";

void zygotes_init(struct launcher *launcher) {
    for (unsigned i = 0; i < PROTOCOL_RUNTIMES_MAX; i++) {
        struct zygote *zygote = &launcher->zygotes[i];
        memset(zygote, 0, sizeof *zygote);
        zygote->fd = -1;
        zygote->queue_head = zygote->queue_tail = NO_SLOT;
    }
}

/* ---- the child, before Python ---- */

static void fail(int error, const char *step, const char *what) {
    struct spawn_answer answer = {.error = -error};
    char text[PROTOCOL_STEP_BYTES * 4];
    snprintf(text, sizeof text, "%s %s", step, what);
    wire_text(answer.step, sizeof answer.step, text);
    (void)wire_send(ZYGOTE_FD, &answer, sizeof answer, NULL, 0, 0);
    _exit(126);
}

static void reset_signals(void) {
    struct sigaction by_default = {.sa_handler = SIG_DFL};
    sigset_t none;
    for (int number = 1; number < NSIG; number++) {
        sigaction(number, &by_default, NULL); /* SIGKILL and SIGSTOP refuse, which is fine */
    }
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static void resolver_text(const struct network_options *network, char *text, size_t bytes) {
    size_t held = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < network->servers_count; i++) {
        const uint32_t address = network->servers[i];
        held += (size_t)snprintf(text + held, bytes - held, "nameserver %u.%u.%u.%u\n", address >> 24, address >> 16 & 255,
                                 address >> 8 & 255, address & 255);
    }
    if (held > 0) {
        snprintf(text + held, bytes - held, "options timeout:2 attempts:2\n");
    }
}

static void enter_root(const struct options *options, const struct zygote *zygote) {
    struct fs_bind binds[FS_BINDS_MAX];
    unsigned count = 0;
    binds[count++] = (struct fs_bind){zygote->strings[STRING_PACKAGE], PACKAGE_TARGET};
    for (unsigned i = STRING_WORDS + zygote->words; i + 1 < zygote->count; i += 2) {
        if (count == FS_BINDS_MAX) {
            fail(-E2BIG, "mounts of the runtime", "");
        }
        binds[count++] = (struct fs_bind){zygote->strings[i], zygote->strings[i + 1]};
    }
    char resolver[(NETWORK_SERVERS_MAX + 1) * 40];
    resolver_text(&options->network, resolver, sizeof resolver);
    const struct fs_root root = {.binds = binds,
                                 .resolver = resolver,
                                 .binds_count = count,
                                 .uid_base = options->isolation == ISOLATION_USER ? 1000 : options->uid_base,
                                 .uid_count = options->isolation == ISOLATION_USER ? 1 : options->slots};
    const char *failed = "";
    int error = unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS) < 0 ? -errno : 0;
    error = error < 0 ? error : fs_make_private();
    if (error < 0) {
        fail(error, "namespaces of the runtime", "");
    }
    error = fs_enter_root(&root, &failed);
    if (error < 0) {
        fail(error, "root:", failed);
    }
}

/* An interpreter that runs zygote.py, or the small program that takes the words of a command. */
static void become_zygote(const struct zygote *zygote, const char *directory) {
    char file[512];
    char *arguments[PROTOCOL_STRINGS_MAX + 8];
    unsigned count = 0;
    if ((unsigned)snprintf(file, sizeof file, "%s/%s", directory, zygote->exec ? "_shell" : "zygote.py") >= sizeof file) {
        fail(-ENAMETOOLONG, "program of the runtime", "");
    }
    if (zygote->exec) {
        arguments[count++] = file;
        for (unsigned i = 0; i < zygote->words; i++) {
            arguments[count++] = (char *)(uintptr_t)zygote->strings[STRING_WORDS + i];
        }
    } else {
        char *const python[] = {(char *)(uintptr_t)zygote->strings[STRING_EXECUTABLE], "-I", "-S", "-B", file};
        memcpy(arguments, python, sizeof python);
        count = sizeof python / sizeof *python;
    }
    arguments[count] = NULL;
    /* glibc: an arena per thread costs address space and pages that a small function never uses */
    char *const environment[] = {"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "TZ=:UTC", "MALLOC_ARENA_MAX=1", NULL};
    execve(arguments[0], arguments, environment);
    fail(-errno, "execute", arguments[0]);
}

static void run_zygote(const struct options *options, const struct zygote *zygote, int fd) {
    if (dup2(fd, ZYGOTE_FD) < 0 || syscall(SYS_close_range, ZYGOTE_FD + 1, ~0U, 0) < 0) {
        _exit(126);
    }
    reset_signals();
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || setsid() < 0) {
        fail(-errno, "session of the runtime", "");
    }
    const bool whole = options->isolation != ISOLATION_PROCESS;
    if (whole) {
        enter_root(options, zygote);
    }
    become_zygote(zygote, whole ? PACKAGE_TARGET : zygote->strings[STRING_PACKAGE]);
}

/* ---- the launcher's side ---- */

static int start(struct launcher *launcher, uint32_t runtime) {
    struct zygote *zygote = &launcher->zygotes[runtime];
    int pair[2];
    SCHED_ASSERT(zygote->pid == 0 && zygote->fd < 0);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return -errno;
    }
    const pid_t pid = fork();
    if (pid < 0) {
        const int error = -errno;
        wire_close_all(pair, 2);
        return error;
    }
    if (pid == 0) {
        run_zygote(&launcher->options, zygote, pair[1]);
    }
    close(pair[1]);
    zygote->pid = pid;
    zygote->fd = pair[0];
    zygote->ready = false;
    zygote->resting = false;
    zygote->orders = 0;
    zygote->error = 0;
    zygote->step[0] = '\0';
    zygote->since_ms = launcher_now_ms();
    const int error = launcher_watch(launcher, zygote->fd, WATCH_ZYGOTE, runtime);
    if (error < 0) { /* the reaper does the rest */
        kill(pid, SIGKILL);
        wire_close(&zygote->fd);
    }
    return error;
}

int zygote_declare(struct launcher *launcher, const struct request *request, const char *text) {
    const unsigned bytes = request->text_bytes;
    if (request->runtime >= PROTOCOL_RUNTIMES_MAX || launcher->zygotes[request->runtime].text != NULL) {
        return -EINVAL;
    }
    struct zygote *zygote = &launcher->zygotes[request->runtime];
    char *copy = malloc(bytes);
    if (copy == NULL) {
        return -ENOMEM;
    }
    memcpy(copy, text, bytes);
    const int count = wire_strings(copy, bytes, zygote->strings, PROTOCOL_STRINGS_MAX);
    if (count < STRING_WORDS || (unsigned)count != request->strings || request->words > (unsigned)count - STRING_WORDS ||
        ((unsigned)count - STRING_WORDS - request->words) % 2 != 0) {
        free(copy);
        return -EINVAL;
    }
    zygote->text = copy;
    zygote->count = (unsigned)count;
    zygote->words = request->words;
    zygote->exec = (request->flags & REQUEST_EXEC) != 0;
    return 0;
}

static void send_orders(struct launcher *launcher, struct zygote *zygote) {
    while (zygote->fd >= 0 && zygote->orders < ZYGOTE_ORDERS_MAX && zygote->queue_head != NO_SLOT) {
        const uint32_t slot = zygote->queue_head;
        const int error = slot_send_order(launcher, slot);
        /* Dead, and its end will be told with its reason; or full, and an answer will come. */
        if (error == -EPIPE || error == -ECONNRESET || (error == -EAGAIN && zygote->orders > 0)) {
            return;
        }
        zygote->queue_head = launcher->slots[slot].next;
        if (zygote->queue_head == NO_SLOT) {
            zygote->queue_tail = NO_SLOT;
        }
        if (error == 0) {
            if (zygote->orders++ == 0) {
                zygote->since_ms = launcher_now_ms();
            }
        } else {
            slot_abandon(launcher, slot, -error, "order to the runtime process");
        }
    }
}

int zygote_enqueue(struct launcher *launcher, uint32_t slot) {
    struct zygote *zygote = &launcher->zygotes[launcher->slots[slot].runtime];
    if (zygote->text == NULL) {
        return -EINVAL;
    }
    if (zygote->pid == 0) {
        const int error = start(launcher, launcher->slots[slot].runtime);
        if (error < 0) {
            return error;
        }
    }
    launcher->slots[slot].next = NO_SLOT;
    if (zygote->queue_tail == NO_SLOT) {
        zygote->queue_head = slot;
    } else {
        launcher->slots[zygote->queue_tail].next = slot;
    }
    zygote->queue_tail = slot;
    send_orders(launcher, zygote);
    return 0;
}

void zygote_rest(struct launcher *launcher, uint32_t runtime) {
    if (runtime >= PROTOCOL_RUNTIMES_MAX) {
        return;
    }
    struct zygote *zygote = &launcher->zygotes[runtime];
    if (zygote->pid == 0 || zygote->orders > 0 || zygote->queue_head != NO_SLOT) {
        return;
    }
    zygote->resting = true;
    kill(zygote->pid, SIGKILL);
    wire_close(&zygote->fd);
}

void zygote_readable(struct launcher *launcher, uint32_t runtime) {
    struct zygote *zygote = &launcher->zygotes[runtime];
    for (;;) {
        struct spawn_answer answer;
        int pidfd = -1;
        unsigned count;
        const ssize_t got = wire_receive(zygote->fd, &answer, sizeof answer, &pidfd, 1, &count, MSG_DONTWAIT);
        if (got == -EAGAIN) {
            break;
        }
        if (got != (ssize_t)sizeof answer) { /* gone: the reaper does the rest */
            if (zygote->pid > 0) {
                kill(zygote->pid, SIGKILL);
            }
            wire_close(&zygote->fd);
            return;
        }
        answer.step[sizeof answer.step - 1] = '\0';
        if (answer.shell == 0) {
            zygote->ready = answer.error == 0;
            zygote->since_ms = launcher_now_ms();
            zygote->error = answer.error;
            wire_text(zygote->step, sizeof zygote->step, answer.step);
            continue;
        }
        SCHED_ASSERT(zygote->orders > 0);
        zygote->orders--;
        zygote->since_ms = launcher_now_ms();
        slot_cloned(launcher, answer.shell, answer.pid, count == 1 ? pidfd : -1, answer.error, answer.step);
    }
    send_orders(launcher, zygote);
}

void zygotes_overdue(struct launcher *launcher, uint64_t now_ms) {
    for (uint32_t i = 0; i < PROTOCOL_RUNTIMES_MAX; i++) {
        struct zygote *zygote = &launcher->zygotes[i];
        const uint64_t patience_ms = zygote->ready ? launcher->options.patience_ms : START_PATIENCE_MS;
        if (zygote->pid > 0 && (zygote->orders > 0 || !zygote->ready) && now_ms - zygote->since_ms > patience_ms) {
            zygote->error = ETIMEDOUT;
            wire_text(zygote->step, sizeof zygote->step, zygote->ready ? "answer of the runtime process"
                                                                       : "start of the runtime process");
            zygote->since_ms = now_ms;
            kill(zygote->pid, SIGKILL);
        }
    }
}

void zygote_died(struct launcher *launcher, uint32_t runtime) {
    struct zygote *zygote = &launcher->zygotes[runtime];
    zygote->pid = 0; /* reaped: the number may be another's */
    if (zygote->fd >= 0) {
        zygote_readable(launcher, runtime); /* its last words */
    }
    wire_close(&zygote->fd);
    zygote->orders = 0;
    if (zygote->resting && !launcher->stopping) {
        zygote->resting = false;
        /* Asked for again while it was ending. */
        if (zygote->queue_head == NO_SLOT || start(launcher, runtime) == 0) {
            send_orders(launcher, zygote);
            return;
        }
    }
    zygote->queue_head = zygote->queue_tail = NO_SLOT;
    const int32_t error = zygote->error != 0 ? zygote->error : ECHILD;
    const char *step = zygote->error != 0 ? zygote->step : "runtime process";
    if (!launcher->stopping) {
        char note[PROTOCOL_NOTE_BYTES];
        snprintf(note, sizeof note, "the process of runtime %.40s ended: %s: %s", zygote->strings[STRING_NAME], step,
                 strerror(error));
        launcher_warn(note);
    }
    for (uint32_t i = 0; i < launcher->options.slots; i++) {
        const struct slot *slot = &launcher->slots[i];
        if (slot->runtime == runtime && (slot->state == SLOT_QUEUED || slot->state == SLOT_CLONING)) {
            slot_abandon(launcher, i, error, step);
        }
    }
}
