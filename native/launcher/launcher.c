/* The loop: who has spoken, and whose turn that is. Slots are in slots.c, zygotes in zygotes.c. */
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "children.h"
#include "wire.h"

enum { EPOLL_BATCH = 64, EMPTYING_POLL_MS = 2, OVERDUE_POLLS = 10 };

/* ---- telling the service ---- */

/* Blocks when the service does not read: it is trusted, and when it dies this fails and the loop sees the end. */
int launcher_tell(const struct notice *notice, const int *fds, unsigned count) {
    return wire_send(LAUNCHER_FD_SERVICE, notice, sizeof *notice, fds, count, 0);
}

uint64_t launcher_now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000U + (uint64_t)now.tv_nsec / 1000000U;
}

void launcher_warn(const char *note) {
    struct notice notice = {.kind = NOTICE_WARNING};
    wire_text(notice.note, sizeof notice.note, note);
    (void)launcher_tell(&notice, NULL, 0);
}

/* Bare processes have the host's. */
int launcher_network(struct launcher *launcher, const char **step) {
    switch ((enum isolation)launcher->options.isolation) {
    case ISOLATION_ROOT: {
        const bool there = launcher->network.open;
        const int error = network_open(&launcher->network, step);
        if (!there && error == 0) {
            launcher_warn(launcher->network.note);
        }
        return error;
    }
    case ISOLATION_USER:
        *step = "network: only root can make one";
        return -EPERM;
    case ISOLATION_PROCESS:
        return 0;
    }
    return -EINVAL;
}

int launcher_watch(struct launcher *launcher, int fd, uint32_t what, uint32_t which) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)what << 32 | which};
    return epoll_ctl(launcher->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* image: a descriptor that came with it, or -1; only SPECIALISE makes use of one. */
static void handle(struct launcher *launcher, const struct request *request, const char *text, int image) {
    const char *strings[PROTOCOL_STRINGS_MAX];
    const int count = wire_strings(text, request->text_bytes, strings, PROTOCOL_STRINGS_MAX);
    if (count < 0 || (unsigned)count != request->strings) {
        launcher_warn("a request with broken strings was ignored");
        return;
    }
    switch ((enum request_kind)request->kind) {
    case REQUEST_RUNTIME: {
        const int error = launcher->sealed ? -EPERM : zygote_declare(launcher, request, text);
        if (error < 0) {
            launcher_warn("a runtime could not be declared");
        }
        break;
    }
    case REQUEST_SEAL:
        launcher->sealed = true;
        break;
    case REQUEST_SHELL:
        slot_ask_shell(launcher, request);
        break;
    case REQUEST_SPECIALISE:
        slot_ask_specialise(launcher, request, strings, (unsigned)count, image);
        break;
    case REQUEST_KILL:
        slot_ask_kill(launcher, request->shell);
        break;
    case REQUEST_FREEZE:
    case REQUEST_THAW:
        slot_ask_freeze(launcher, request->shell, request->kind == REQUEST_FREEZE);
        break;
    case REQUEST_LOADED:
        slot_ask_loaded(launcher, request->shell);
        break;
    case REQUEST_REST:
        zygote_rest(launcher, request->runtime);
        break;
    case REQUEST_EXPECT:
        scratch_expect(launcher, request->ephemeral_storage_mb);
        break;
    case REQUEST_NETWORK: {
        struct notice notice = {.kind = NOTICE_NETWORK, .token = request->token};
        const char *step = "";
        notice.error = -launcher_network(launcher, &step);
        wire_text(notice.step, sizeof notice.step, notice.error == 0 ? "" : step);
        (void)launcher_tell(&notice, NULL, 0);
        break;
    }
    case REQUEST_PING: {
        const struct notice pong = {.kind = NOTICE_PONG};
        (void)launcher_tell(&pong, NULL, 0);
        break;
    }
    default: /* from outside: any number may come */
        launcher_warn("a request of an unknown kind was ignored");
        break;
    }
}

/* false at the service's end. One message a turn: the loop stays fair to the reaper. */
static bool service_readable(struct launcher *launcher) {
    struct {
        struct request request;
        char text[PROTOCOL_TEXT_BYTES_MAX];
    } message;
    int image = -1;
    unsigned count;
    const ssize_t got = wire_receive(LAUNCHER_FD_SERVICE, &message, sizeof message, &image, 1, &count, MSG_DONTWAIT);
    if (got == -EAGAIN) {
        return true;
    }
    if (got <= 0 && got != -EMSGSIZE) {
        return false;
    }
    if (got < (ssize_t)sizeof message.request ||
        (size_t)got != sizeof message.request + (size_t)message.request.text_bytes) {
        launcher_warn("a request of a wrong length was ignored");
    } else {
        handle(launcher, &message.request, message.text, count == 1 ? image : -1);
    }
    wire_close_all(&image, count);
    return true;
}

/* ---- death ---- */

static uint64_t nanoseconds(const struct timeval *time) {
    return (uint64_t)time->tv_sec * 1000000000U + (uint64_t)time->tv_usec * 1000U;
}

static bool is_known(const void *context, pid_t pid) {
    const struct launcher *launcher = context;
    for (uint32_t i = 0; i < PROTOCOL_RUNTIMES_MAX; i++) {
        if (launcher->zygotes[i].pid == pid) {
            return true;
        }
    }
    for (uint32_t i = 0; i < launcher->options.slots; i++) {
        if (launcher->slots[i].pid == pid) {
            return true;
        }
    }
    return false;
}

/* Without a pid namespace, what a dead sandbox started is inherited by this process (a subreaper): none of it may live on. While
 * slots are cloning, a child not known yet may be one of theirs, so then it has to wait. */
static void kill_strays(struct launcher *launcher) {
    if (launcher->strays && launcher->cloning == 0) {
        launcher->strays = false;
        children_kill(is_known, launcher);
    }
}

static void bury(struct launcher *launcher, pid_t pid, int status, const struct rusage *usage) {
    const uint64_t cpu_ns = nanoseconds(&usage->ru_utime) + nanoseconds(&usage->ru_stime);
    for (uint32_t i = 0; i < PROTOCOL_RUNTIMES_MAX; i++) {
        if (launcher->zygotes[i].pid == pid) {
            zygote_died(launcher, i);
            return;
        }
    }
    if (scratch_reaped(launcher, pid)) {
        return;
    }
    for (uint32_t i = 0; i < launcher->options.slots; i++) {
        if (launcher->slots[i].pid == pid) {
            slot_reaped(launcher, i, status, cpu_ns);
            return;
        }
    }
    if (launcher->cloning > 0 && launcher->orphans_count < launcher->options.slots) {
        launcher->orphans[launcher->orphans_count++] = (struct orphan){.pid = pid, .status = status, .cpu_ns = cpu_ns};
    }
}

static void reap(struct launcher *launcher) {
    int status;
    struct rusage usage;
    pid_t pid;
    if (launcher->cloning == 0) {
        launcher->orphans_count = 0; /* nobody will claim them */
    }
    while ((pid = wait4(-1, &status, WNOHANG, &usage)) > 0) {
        bury(launcher, pid, status, &usage);
        launcher->strays = launcher->options.isolation == ISOLATION_PROCESS;
    }
}

/* ---- the loop ---- */

static int open_loop(struct launcher *launcher) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    if (sigprocmask(SIG_BLOCK, &signals, NULL) < 0 || (launcher->epoll = epoll_create1(EPOLL_CLOEXEC)) < 0 ||
        (launcher->signals = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK)) < 0) {
        return -errno;
    }
    int error = launcher_watch(launcher, LAUNCHER_FD_SERVICE, WATCH_SERVICE, 0);
    if (error == 0) {
        error = launcher_watch(launcher, launcher->signals, WATCH_SIGNALS, 0);
    }
    return error < 0 ? error : launcher_watch(launcher, launcher->options.supervisor, WATCH_SUPERVISOR, 0);
}

/* Once all that was there to be read has been read: this process itself may have been stopped for a while. */
static void look_for_overdue(struct launcher *launcher) {
    const uint64_t now_ms = launcher_now_ms();
    if (now_ms - launcher->looked_ms >= launcher->options.patience_ms / OVERDUE_POLLS) {
        launcher->looked_ms = now_ms;
        zygotes_overdue(launcher, now_ms);
        slots_overdue(launcher, now_ms);
    }
}

static void turn(struct launcher *launcher) {
    struct epoll_event events[EPOLL_BATCH];
    const int wait_ms = launcher->emptying > 0  ? EMPTYING_POLL_MS
                        : launcher->pending > 0 ? (int)(launcher->options.patience_ms / OVERDUE_POLLS)
                                                : scratch_sleep_ms(launcher);
    const int count = epoll_wait(launcher->epoll, events, EPOLL_BATCH, wait_ms);
    for (int i = 0; i < count; i++) {
        const uint32_t which = (uint32_t)events[i].data.u64;
        switch ((enum watched)(events[i].data.u64 >> 32)) {
        case WATCH_SERVICE:
            launcher->stopping = launcher->stopping || !service_readable(launcher);
            break;
        case WATCH_SUPERVISOR:
            launcher->stopping = true;
            break;
        case WATCH_SIGNALS: {
            struct signalfd_siginfo info;
            while (read(launcher->signals, &info, sizeof info) > 0) {
            }
            reap(launcher);
            break;
        }
        case WATCH_ZYGOTE:
            if (launcher->zygotes[which].fd >= 0) {
                zygote_readable(launcher, which);
            }
            break;
        case WATCH_KEEPER:
            scratch_readable(launcher, which);
            break;
        case WATCH_SLOT:
            slot_readable(launcher, which);
            break;
        case WATCH_MEMORY:
            if (cgroup_events_take(&launcher->groups, which)) {
                slot_out_of_memory(launcher, which);
            }
            break;
        case WATCH_MEMORIES: {
            uint32_t slots[EPOLL_BATCH];
            const unsigned changed = cgroup_events_read(&launcher->groups, slots, EPOLL_BATCH);
            for (unsigned k = 0; k < changed; k++) {
                slot_check_memory(launcher, slots[k]);
            }
            break;
        }
        }
    }
    for (uint32_t i = 0; launcher->emptying > 0 && i < launcher->options.slots; i++) {
        if (launcher->slots[i].state == SLOT_EMPTYING) {
            slot_try_free(launcher, i);
        }
    }
    kill_strays(launcher);
    scratch_tick(launcher);
    if (launcher->pending > 0 && count < EPOLL_BATCH) {
        look_for_overdue(launcher);
    }
}

/* Zygotes first, so that nothing new is born; then all that lives. */
static void stop_everything(struct launcher *launcher) {
    cgroups_thaw(&launcher->groups); /* or they could not end */
    for (uint32_t i = 0; i < PROTOCOL_RUNTIMES_MAX; i++) {
        if (launcher->zygotes[i].pid > 0) {
            kill(launcher->zygotes[i].pid, SIGKILL);
        }
    }
    for (uint32_t i = 0; i < launcher->options.slots; i++) {
        if (launcher->slots[i].pid > 0) {
            kill(launcher->slots[i].pid, SIGKILL);
        }
        wire_close(&launcher->slots[i].control); /* one that was never announced ends by this */
        if (launcher->slots[i].state != SLOT_FREE) {
            cgroup_kill(&launcher->groups, i);
        }
    }
    scratch_close(launcher);
    children_end();
}

static void say_ready(const struct launcher *launcher) {
    struct notice notice = {.kind = NOTICE_READY,
                            .flags = launcher->groups.controllers | (launcher->scratch.able ? FLAG_SCRATCH : 0),
                            .status = (int32_t)launcher->options.isolation,
                            .runtime = launcher->groups.version,
                            .error = PROTOCOL_VERSION};
    wire_text(notice.note, sizeof notice.note, launcher->groups.why_not);
    int self = (int)syscall(SYS_pidfd_open, getpid(), 0); /* so that the service can end it when it is stuck */
    (void)launcher_tell(&notice, &self, self < 0 ? 0 : 1);
    wire_close(&self);
}

static void say_no_scratch(const struct launcher *launcher, enum notice_kind kind) {
    struct notice notice = {.kind = kind, .error = launcher->scratch.error};
    wire_text(notice.step, sizeof notice.step, "encrypted /tmp");
    snprintf(notice.note, sizeof notice.note, "/tmp cannot be on disk, encrypted (%.47s: %s)%s", launcher->scratch.step,
             strerror(launcher->scratch.error), kind == NOTICE_WARNING ? ": it is in memory and counts there" : "");
    (void)launcher_tell(&notice, NULL, 0);
}

int launcher_run(const struct options *options, struct cgroups *groups) {
    struct launcher *launcher = calloc(1, sizeof *launcher);
    if (launcher == NULL) {
        return -ENOMEM;
    }
    launcher->options = *options;
    launcher->groups = *groups;
    launcher->slots = calloc(options->slots, sizeof *launcher->slots);
    launcher->orphans = calloc(options->slots, sizeof *launcher->orphans);
    if (launcher->slots == NULL || launcher->orphans == NULL) {
        return -ENOMEM;
    }
    launcher->free_head = NO_SLOT;
    for (uint32_t i = options->slots; i-- > 0;) {
        struct slot *slot = &launcher->slots[i];
        *slot = (struct slot){.next = launcher->free_head, .pidfd = -1, .control = -1, .channel = -1, .output = -1, .progress = -1,
                              .freezer = -1, .volume = NO_VOLUME};
        launcher->free_head = i;
    }
    network_init(&launcher->network, &launcher->options.network);
    zygotes_init(launcher);
    if (options->isolation == ISOLATION_PROCESS && prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) {
        return -errno;
    }
    int error = open_loop(launcher);
    if (error == 0) {
        error = cgroup_events_open(&launcher->groups, options->slots);
    }
    if (error == 0 && launcher->groups.inotify >= 0) {
        error = launcher_watch(launcher, launcher->groups.inotify, WATCH_MEMORIES, 0);
    }
    if (error < 0) {
        return error;
    }
    const int refused = scratch_open(launcher);
    if (refused < 0) {
        say_no_scratch(launcher, NOTICE_REFUSED);
        stop_everything(launcher);
        return refused;
    }
    say_ready(launcher);
    if (!launcher->scratch.able && launcher->scratch.error != 0) {
        say_no_scratch(launcher, NOTICE_WARNING);
    }
    if (options->slots < options->slots_wanted) {
        char note[PROTOCOL_NOTE_BYTES];
        snprintf(note, sizeof note, "room for %u sandboxes at once, not %u: raise the hard limit of open files (LimitNOFILE, ulimit -Hn)",
                 options->slots, options->slots_wanted);
        launcher_warn(note);
    }
    while (!launcher->stopping) {
        turn(launcher);
    }
    stop_everything(launcher);
    network_close(&launcher->network);
    return 0;
}
