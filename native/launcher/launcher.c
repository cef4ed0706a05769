#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "filesystem.h"
#include "invariant.h"
#include "tempdir.h"
#include "wire.h"

enum {
    CHANNEL_BUFFER_BYTES = 1 << 20,
    PROGRESS_BYTES = 32768,      /* channel.md: the progress word and the shelf */
    EPOLL_BATCH = 64,
    EMPTYING_POLL_MS = 2,
    SLOT_BITS = 16,
    MEMORY_MB_MAX = 1 << 20,
    SCRATCH_MB_MAX = 1 << 20
};
_Static_assert(PROTOCOL_SLOTS_MAX <= 1 << SLOT_BITS, "a shell's id holds its slot");

/* ---- telling the service ---- */

/* Blocks when the service does not read: it is trusted, and when it dies this fails and the loop sees the end. */
static void tell(const struct notice *notice, const int *fds, unsigned count) {
    (void)wire_send(LAUNCHER_FD_SERVICE, notice, sizeof *notice, fds, count, 0);
}

void launcher_warn(const char *note) {
    struct notice notice = {.kind = NOTICE_WARNING};
    wire_text(notice.note, sizeof notice.note, note);
    tell(&notice, NULL, 0);
}

static uint64_t shell_id(const struct launcher *launcher, uint32_t slot) {
    return (uint64_t)launcher->slots[slot].generation << SLOT_BITS | slot;
}

/* The slot of an id that lives, or NO_SLOT. */
static uint32_t find(const struct launcher *launcher, uint64_t shell) {
    const uint32_t slot = (uint32_t)(shell & ((1U << SLOT_BITS) - 1));
    if (slot >= launcher->options.slots || launcher->slots[slot].state == SLOT_FREE ||
        launcher->slots[slot].state == SLOT_EMPTYING || shell_id(launcher, slot) != shell) {
        return NO_SLOT;
    }
    return slot;
}

int launcher_watch(struct launcher *launcher, int fd, uint32_t what, uint32_t which) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)what << 32 | which};
    return epoll_ctl(launcher->epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/* ---- slots ---- */

static void close_ends(struct slot *slot) {
    wire_close(&slot->control);
    wire_close(&slot->channel);
    wire_close(&slot->output);
    wire_close(&slot->progress);
    wire_close(&slot->pidfd);
}

static void try_free(struct launcher *launcher, uint32_t index) {
    struct slot *slot = &launcher->slots[index];
    SCHED_ASSERT(slot->state == SLOT_EMPTYING);
    if (!cgroup_empty(&launcher->groups, index)) {
        cgroup_kill(&launcher->groups, index);
        return;
    }
    slot->state = SLOT_FREE;
    slot->next = launcher->free_head;
    launcher->free_head = index;
    launcher->emptying--;
}

/* From any state to EMPTYING, and to FREE as soon as nothing is left in the group. */
static void release(struct launcher *launcher, uint32_t index) {
    struct slot *slot = &launcher->slots[index];
    SCHED_ASSERT(slot->state != SLOT_FREE && slot->state != SLOT_EMPTYING);
    if (slot->state == SLOT_CLONING) {
        SCHED_ASSERT(launcher->cloning > 0);
        launcher->cloning--;
    }
    close_ends(slot);
    slot->pid = 0;
    slot->state = SLOT_EMPTYING;
    launcher->emptying++;
    try_free(launcher, index);
}

static void refuse_shell(uint64_t token, int32_t error, const char *step) {
    struct notice notice = {.kind = NOTICE_SHELL_FAILED, .token = token, .error = error};
    wire_text(notice.step, sizeof notice.step, step);
    tell(&notice, NULL, 0);
}

void slot_abandon(struct launcher *launcher, uint32_t index, int32_t error, const char *step) {
    refuse_shell(launcher->slots[index].token, error, step);
    release(launcher, index);
}

static int grow_buffers(int fd) {
    const int bytes = CHANNEL_BUFFER_BYTES;
    /* FORCE goes over the machine's net.core.wmem_max, with the privilege; without, as large as it allows. */
    if ((setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) < 0 &&
         setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes) < 0) ||
        (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) < 0 &&
         setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes) < 0)) {
        return -errno;
    }
    return 0;
}

static int make_progress(void) {
    int fd = memfd_create("progress", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return -errno;
    }
    if (ftruncate(fd, PROGRESS_BYTES) < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        const int error = -errno;
        wire_close(&fd);
        return error;
    }
    return fd;
}

/* Ends for both sides. 0, or -errno with nothing open. child: channel, output, progress, control. */
static int make_ends(struct slot *slot, int *child) {
    int channel[2] = {-1, -1}, output[2] = {-1, -1}, control[2] = {-1, -1};
    int error = 0;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel) < 0 || pipe2(output, O_CLOEXEC) < 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control) < 0 || fcntl(channel[0], F_SETFL, O_NONBLOCK) < 0 ||
        fcntl(output[0], F_SETFL, O_NONBLOCK) < 0) {
        error = -errno;
    }
    if (error == 0) {
        error = grow_buffers(channel[0]);
    }
    if (error == 0) {
        error = grow_buffers(channel[1]);
    }
    const int progress = error == 0 ? make_progress() : -1;
    if (error < 0 || progress < 0) {
        error = error < 0 ? error : progress;
        wire_close_all(channel, 2);
        wire_close_all(output, 2);
        wire_close_all(control, 2);
        return error;
    }
    slot->channel = channel[0];
    slot->output = output[0];
    slot->control = control[0];
    slot->progress = progress;
    child[0] = channel[1];
    child[1] = output[1];
    child[2] = progress;
    child[3] = control[1];
    return 0;
}

int slot_send_order(struct launcher *launcher, uint32_t index) {
    struct slot *slot = &launcher->slots[index];
    const struct zygote *zygote = &launcher->zygotes[slot->runtime];
    struct spawn_order order = {.shell = shell_id(launcher, index),
                                .slot = index,
                                .uid = launcher->options.change_uid ? launcher->options.uid_base + index : 0,
                                .isolation = launcher->options.isolation,
                                .flags = launcher->groups.into ? SPAWN_INTO_CGROUP : 0,
                                .pids_max = launcher->options.pids_max,
                                .ephemeral_storage_mb = launcher->options.shell_scratch_mb};
    SCHED_ASSERT(slot->state == SLOT_QUEUED);
    int child[PROTOCOL_FDS_MAX];
    int error = cgroup_prepare(&launcher->groups, index);
    if (error == 0 && launcher->options.isolation == ISOLATION_PROCESS) {
        error = tempdir_fresh(launcher->options.temp_root, launcher->groups.name, index, order.uid, order.temp_dir,
                              sizeof order.temp_dir);
    }
    if (error == 0) {
        error = make_ends(slot, child);
    }
    if (error < 0) {
        return error;
    }
    const int entries = cgroup_open_entries(&launcher->groups, index, child + 4, PROTOCOL_FDS_MAX - 4);
    error = entries < 0 ? entries : wire_send(zygote->fd, &order, sizeof order, child, 4 + (unsigned)entries, MSG_DONTWAIT);
    wire_close(&child[0]);
    wire_close(&child[1]);
    wire_close(&child[3]); /* child[2], the progress page, is the slot's too */
    wire_close_all(child + 4, entries < 0 ? 0 : (unsigned)entries);
    if (error == 0) {
        error = launcher_watch(launcher, slot->control, WATCH_SLOT, index);
    }
    if (error < 0) {
        close_ends(slot);
        return error;
    }
    slot->state = SLOT_CLONING;
    launcher->cloning++;
    return 0;
}

static void kill_slot(struct slot *slot) {
    slot->killed = true;
    if (slot->pidfd >= 0) {
        syscall(SYS_pidfd_send_signal, slot->pidfd, SIGKILL, NULL, 0);
    }
}

static void hand_over(struct launcher *launcher, uint32_t index) {
    struct slot *slot = &launcher->slots[index];
    struct notice notice = {.kind = NOTICE_SHELL, .token = slot->token, .shell = shell_id(launcher, index)};
    notice.runtime = slot->runtime;
    int fds[6] = {slot->channel, slot->output, slot->progress, slot->pidfd, -1, -1};
    unsigned count = 4;
    int cpu = cgroup_open_cpu_time(&launcher->groups, index);
    int memory = cgroup_open_memory_peak(&launcher->groups, index);
    if (cpu >= 0) {
        notice.flags |= FLAG_CPU_TIME;
        fds[count++] = cpu;
    }
    if (memory >= 0) {
        notice.flags |= FLAG_MEMORY;
        fds[count++] = memory;
    }
    slot->state = SLOT_SHELL;
    slot->told = true;
    tell(&notice, fds, count);
    wire_close(&cpu);
    wire_close(&memory);
    wire_close(&slot->channel);
    wire_close(&slot->output);
    wire_close(&slot->progress);
}

static void reaped(struct launcher *launcher, uint32_t index, int status, uint64_t cpu_ns);

void slot_cloned(struct launcher *launcher, uint64_t shell, pid_t pid, int pidfd, int32_t error, const char *step) {
    const uint32_t index = find(launcher, shell);
    if (index == NO_SLOT || launcher->slots[index].state != SLOT_CLONING) {
        wire_close(&pidfd);
        return;
    }
    struct slot *slot = &launcher->slots[index];
    if (error != 0 || pidfd < 0) {
        slot_abandon(launcher, index, error != 0 ? error : EPROTO, step);
        return;
    }
    launcher->cloning--;
    slot->state = SLOT_BIRTH;
    slot->pid = pid;
    slot->pidfd = pidfd;
    if (slot->killed) {
        kill_slot(slot);
    }
    for (uint32_t i = 0; i < launcher->orphans_count; i++) {
        if (launcher->orphans[i].pid == pid) {
            const struct orphan orphan = launcher->orphans[i];
            launcher->orphans[i] = launcher->orphans[--launcher->orphans_count];
            reaped(launcher, index, orphan.status, orphan.cpu_ns);
            return;
        }
    }
    if (slot->born) {
        hand_over(launcher, index);
    }
}

static void hear(struct launcher *launcher, uint32_t index, const struct stage_answer *answer) {
    struct slot *slot = &launcher->slots[index];
    if (answer->stage == 3) {
        slot->ended = true;
        slot->worker_status = answer->error;
    } else if (answer->error != 0) { /* it ends now; told when reaped */
        slot->error = answer->error;
        wire_text(slot->step, sizeof slot->step, answer->step);
    } else if (slot->state == SLOT_CLONING && answer->stage == 1) {
        slot->born = true; /* faster than its zygote's answer */
    } else if (slot->state == SLOT_BIRTH && answer->stage == 1) {
        hand_over(launcher, index);
    } else if (slot->state == SLOT_SPECIALISING && answer->stage == 2) {
        const struct notice notice = {.kind = NOTICE_SPECIALISED, .shell = shell_id(launcher, index)};
        slot->state = SLOT_LIVE;
        tell(&notice, NULL, 0);
    }
}

/* The sandbox's own first process, or its worker before it is specialised, has spoken; or their ends have closed. */
static void slot_readable(struct launcher *launcher, uint32_t index) {
    struct slot *slot = &launcher->slots[index];
    while (slot->control >= 0) {
        struct stage_answer answer;
        const ssize_t got = wire_receive(slot->control, &answer, sizeof answer, NULL, 0, NULL, MSG_DONTWAIT);
        if (got == -EAGAIN) {
            return;
        }
        if (got != (ssize_t)sizeof answer) {
            wire_close(&slot->control); /* dead, or (process isolation) specialised: the reaper tells */
            return;
        }
        answer.step[sizeof answer.step - 1] = '\0';
        hear(launcher, index, &answer);
    }
}

/* ---- what the service asks ---- */

static void ask_shell(struct launcher *launcher, const struct request *request) {
    if (request->runtime >= PROTOCOL_RUNTIMES_MAX) {
        refuse_shell(request->token, EINVAL, "runtime");
        return;
    }
    const uint32_t index = launcher->free_head;
    if (index == NO_SLOT) {
        refuse_shell(request->token, EAGAIN, "slots");
        return;
    }
    struct slot *slot = &launcher->slots[index];
    launcher->free_head = slot->next;
    const uint32_t generation = slot->generation + 1;
    *slot = (struct slot){.state = SLOT_QUEUED, .generation = generation, .runtime = request->runtime, .next = NO_SLOT,
                          .token = request->token, .pidfd = -1, .control = -1, .channel = -1, .output = -1, .progress = -1};
    const int error = zygote_enqueue(launcher, index);
    if (error < 0) {
        slot_abandon(launcher, index, -error, "runtime process");
    }
}

static void fail_specialise(struct launcher *launcher, uint32_t index, int error, const char *step) {
    struct slot *slot = &launcher->slots[index];
    struct notice notice = {.kind = NOTICE_SPECIALISE_FAILED, .shell = shell_id(launcher, index), .error = error};
    wire_text(notice.step, sizeof notice.step, step);
    slot->error = error;
    wire_text(slot->step, sizeof slot->step, step);
    slot->state = SLOT_LIVE; /* to be reaped; says its step then too */
    tell(&notice, NULL, 0);
    kill_slot(slot);
}

static int send_specialise(struct launcher *launcher, uint32_t index, const struct request *request, const char *const *paths,
                           const char **step) {
    struct slot *slot = &launcher->slots[index];
    struct specialise_order order = {.memory_mb = request->memory_mb,
                                     .ephemeral_storage_mb = request->ephemeral_storage_mb,
                                     .limit_data = (launcher->groups.controllers & FLAG_MEMORY) == 0};
    int mounts[2] = {-1, -1};
    int error = 0;
    for (unsigned i = 0; i < 2 && launcher->options.isolation != ISOLATION_PROCESS && paths[i][0] != '\0'; i++) {
        *step = i == 0 ? "code directory" : "layers directory";
        mounts[i] = fs_detached_code(paths[i]);
        if (mounts[i] < 0) {
            error = mounts[i];
            break;
        }
        order.mounts++;
    }
    if (error == 0) {
        const struct cgroup_limits limits = {.memory_mb = request->memory_mb, .pids_max = launcher->options.pids_max};
        *step = "control group limits";
        error = cgroup_limit(&launcher->groups, index, &limits);
    }
    if (error == 0) {
        *step = "order";
        error = wire_send(slot->control, &order, sizeof order, mounts, order.mounts, MSG_DONTWAIT);
    }
    wire_close_all(mounts, 2);
    return error;
}

static void ask_specialise(struct launcher *launcher, const struct request *request, const char *const *strings,
                           unsigned count) {
    const uint32_t index = find(launcher, request->shell);
    if (index == NO_SLOT || launcher->slots[index].state != SLOT_SHELL) {
        struct notice notice = {.kind = NOTICE_SPECIALISE_FAILED, .shell = request->shell, .error = ESRCH};
        wire_text(notice.step, sizeof notice.step, "shell");
        tell(&notice, NULL, 0);
        return;
    }
    struct slot *slot = &launcher->slots[index];
    const char *step = "request";
    int error = 0;
    if (count != 2 || strings[0][0] != '/' || request->memory_mb < 1 || request->memory_mb > MEMORY_MB_MAX ||
        request->ephemeral_storage_mb < 1 || request->ephemeral_storage_mb > SCRATCH_MB_MAX) {
        error = -EINVAL;
    } else {
        slot->oom_before = cgroup_oom_kills(&launcher->groups, index);
        error = send_specialise(launcher, index, request, strings, &step);
    }
    if (error < 0) {
        fail_specialise(launcher, index, -error, step);
        return;
    }
    slot->state = SLOT_SPECIALISING;
}

static void handle(struct launcher *launcher, const struct request *request, const char *text) {
    const char *strings[PROTOCOL_STRINGS_MAX];
    const int count = wire_strings(text, request->text_bytes, strings, PROTOCOL_STRINGS_MAX);
    if (count < 0 || (unsigned)count != request->strings) {
        launcher_warn("a request with broken strings was ignored");
        return;
    }
    switch ((enum request_kind)request->kind) {
    case REQUEST_RUNTIME: {
        const int error = zygote_declare(launcher, request->runtime, text, request->text_bytes, request->strings);
        if (error < 0) {
            launcher_warn("a runtime could not be declared");
        }
        break;
    }
    case REQUEST_SHELL:
        ask_shell(launcher, request);
        break;
    case REQUEST_SPECIALISE:
        ask_specialise(launcher, request, strings, (unsigned)count);
        break;
    case REQUEST_KILL: {
        const uint32_t index = find(launcher, request->shell);
        if (index != NO_SLOT) {
            kill_slot(&launcher->slots[index]);
        }
        break;
    }
    }
}

/* false at the service's end. One message a turn: the loop stays fair to the reaper. */
static bool service_readable(struct launcher *launcher) {
    struct {
        struct request request;
        char text[PROTOCOL_TEXT_BYTES_MAX];
    } message;
    const ssize_t got = wire_receive(LAUNCHER_FD_SERVICE, &message, sizeof message, NULL, 0, NULL, MSG_DONTWAIT);
    if (got == -EAGAIN) {
        return true;
    }
    if (got <= 0 && got != -EMSGSIZE) {
        return false;
    }
    if (got < (ssize_t)sizeof message.request ||
        (size_t)got != sizeof message.request + (size_t)message.request.text_bytes) {
        launcher_warn("a request of a wrong length was ignored");
        return true;
    }
    handle(launcher, &message.request, message.text);
    return true;
}

/* ---- death ---- */

static enum exit_cause cause_of(struct launcher *launcher, uint32_t index, int status) {
    const struct slot *slot = &launcher->slots[index];
    if (slot->error != 0) {
        return CAUSE_LAUNCH_FAILED;
    }
    if (WIFEXITED(status)) {
        return CAUSE_EXIT;
    }
    if (WTERMSIG(status) == SIGKILL) {
        if (cgroup_oom_kills(&launcher->groups, index) > slot->oom_before) {
            return CAUSE_OOM;
        }
        if (slot->killed) {
            return CAUSE_KILLED;
        }
    }
    return CAUSE_SIGNAL;
}

static void reaped(struct launcher *launcher, uint32_t index, int init_status, uint64_t cpu_ns) {
    struct slot *slot = &launcher->slots[index];
    slot_readable(launcher, index); /* last words: the step that failed, or how the worker ended */
    const int status = slot->ended ? slot->worker_status : init_status;
    if (!slot->told) {
        slot_abandon(launcher, index, slot->error != 0 ? slot->error : ECHILD, slot->error != 0 ? slot->step : "birth");
        return;
    }
    struct notice notice = {.kind = NOTICE_EXITED, .shell = shell_id(launcher, index)};
    if (slot->state == SLOT_SPECIALISING) {
        struct notice failure = {.kind = NOTICE_SPECIALISE_FAILED, .shell = notice.shell};
        if (slot->error == 0) {
            slot->error = ECHILD;
            wire_text(slot->step, sizeof slot->step, slot->killed ? "killed meanwhile" : "died meanwhile");
        }
        failure.error = slot->error;
        wire_text(failure.step, sizeof failure.step, slot->step);
        tell(&failure, NULL, 0);
    }
    const uint64_t group_ns = cgroup_cpu_ns(&launcher->groups, index);
    notice.cause = cause_of(launcher, index, status);
    notice.status = WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status);
    /* A killed init has not waited for its worker, so its own figure would be too small: 0 says unknown. */
    const bool complete = slot->ended || launcher->options.isolation == ISOLATION_PROCESS;
    notice.cpu_ns = group_ns > 0 ? group_ns : complete ? cpu_ns : 0;
    notice.memory_peak_bytes = cgroup_memory_peak(&launcher->groups, index);
    if (notice.cause == CAUSE_LAUNCH_FAILED) {
        notice.error = slot->error;
        wire_text(notice.step, sizeof notice.step, slot->step);
    }
    tell(&notice, NULL, 0);
    release(launcher, index);
}

static uint64_t nanoseconds(const struct timeval *time) {
    return (uint64_t)time->tv_sec * 1000000000U + (uint64_t)time->tv_usec * 1000U;
}

/* Without a pid namespace, what a dead sandbox started is inherited by this process (a subreaper): none of it may live on. */
static void kill_strays(const struct launcher *launcher) {
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    const ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    text[got < 0 ? 0 : got] = '\0';
    for (char *at = text, *end; *at != '\0'; at = *end == '\0' ? end : end + 1) {
        const long pid = strtol(at, &end, 10);
        bool known = end == at;
        for (uint32_t i = 0; i < launcher->options.slots && !known; i++) {
            known = launcher->slots[i].pid == pid;
        }
        for (uint32_t i = 0; i < PROTOCOL_RUNTIMES_MAX && !known; i++) {
            known = launcher->zygotes[i].pid == pid;
        }
        if (!known && launcher->cloning == 0) {
            kill((pid_t)pid, SIGKILL);
        }
        if (end == at) {
            break;
        }
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
    for (uint32_t i = 0; i < launcher->options.slots; i++) {
        if (launcher->slots[i].pid == pid) {
            reaped(launcher, i, status, cpu_ns);
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
        if (launcher->options.isolation == ISOLATION_PROCESS) {
            kill_strays(launcher);
        }
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

static void turn(struct launcher *launcher) {
    struct epoll_event events[EPOLL_BATCH];
    const int count = epoll_wait(launcher->epoll, events, EPOLL_BATCH, launcher->emptying > 0 ? EMPTYING_POLL_MS : -1);
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
        case WATCH_SLOT:
            slot_readable(launcher, which);
            break;
        }
    }
    for (uint32_t i = 0; launcher->emptying > 0 && i < launcher->options.slots; i++) {
        if (launcher->slots[i].state == SLOT_EMPTYING) {
            try_free(launcher, i);
        }
    }
}

/* Zygotes first, so that nothing new is born; then all that lives. */
static void stop_everything(struct launcher *launcher) {
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
    launcher->cloning = 0;
    while (wait4(-1, NULL, 0, NULL) > 0 || errno == EINTR) {
        if (launcher->options.isolation == ISOLATION_PROCESS) {
            kill_strays(launcher);
        }
    }
}

static void say_ready(const struct launcher *launcher) {
    struct notice notice = {.kind = NOTICE_READY,
                            .flags = launcher->groups.controllers,
                            .status = (int32_t)launcher->options.isolation,
                            .runtime = launcher->groups.version,
                            .error = PROTOCOL_VERSION};
    wire_text(notice.note, sizeof notice.note, launcher->groups.why_not);
    tell(&notice, NULL, 0);
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
        *slot = (struct slot){.next = launcher->free_head, .pidfd = -1, .control = -1, .channel = -1, .output = -1, .progress = -1};
        launcher->free_head = i;
    }
    zygotes_init(launcher);
    if (options->isolation == ISOLATION_PROCESS && prctl(PR_SET_CHILD_SUBREAPER, 1) < 0) {
        return -errno;
    }
    const int error = open_loop(launcher);
    if (error < 0) {
        return error;
    }
    say_ready(launcher);
    while (!launcher->stopping) {
        turn(launcher);
    }
    stop_everything(launcher);
    return 0;
}
