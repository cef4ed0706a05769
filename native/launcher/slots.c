/* One sandbox from the order to its zygote until its slot is free again. The table of states is in launcher.h; each function here
 * is one of its arrows. Everything a sandbox says is read from the control socket, at whose other end only our own code stands.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "filesystem.h"
#include "invariant.h"
#include "launcher.h"
#include "tempdir.h"
#include "wire.h"

enum {
    CHANNEL_BUFFER_BYTES = 1 << 20,
    PROGRESS_BYTES = 32768,      /* channel.md: the progress word and the shelf */
    SLOT_BITS = 16,
    MEMORY_MB_MAX = 1 << 20,
    ORDER_FDS_MAX = 5,           /* code, layers, image, door of the network, /tmp */
    SCRATCH_MB_MAX = 1 << 20
};
_Static_assert(PROTOCOL_SLOTS_MAX <= 1 << SLOT_BITS, "a shell's id holds its slot");

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

static bool is_pending(enum slot_state state) {
    return state == SLOT_QUEUED || state == SLOT_CLONING || state == SLOT_BIRTH || state == SLOT_SPECIALISING;
}

/* The one place where a slot changes its state, so that the counts are those of the states. */
static void enter(struct launcher *launcher, struct slot *slot, enum slot_state state) {
    launcher->pending += (is_pending(state) ? 1U : 0U) - (is_pending(slot->state) ? 1U : 0U);
    launcher->cloning += (state == SLOT_CLONING ? 1U : 0U) - (slot->state == SLOT_CLONING ? 1U : 0U);
    launcher->emptying += (state == SLOT_EMPTYING ? 1U : 0U) - (slot->state == SLOT_EMPTYING ? 1U : 0U);
    slot->state = state;
    slot->since_ms = launcher_now_ms();
}

static void close_ends(struct slot *slot) {
    wire_close(&slot->freezer);
    wire_close(&slot->control);
    wire_close(&slot->channel);
    wire_close(&slot->output);
    wire_close(&slot->progress);
    wire_close(&slot->pidfd);
}

/* What a sandbox is to become, and the descriptors that go with it: mounts, image, at the end room for the mount of /tmp. */
struct held_order {
    struct specialise_order order;
    int fds[ORDER_FDS_MAX];
    unsigned count;
};

static void drop_held(struct launcher *launcher, struct slot *slot) {
    if (slot->held != NULL) {
        wire_close_all(slot->held->fds, slot->held->count);
        free(slot->held);
        slot->held = NULL;
        launcher->scratch.waiting--;
    }
}

void slot_try_free(struct launcher *launcher, uint32_t index) {
    struct slot *slot = &launcher->slots[index];
    SCHED_ASSERT(slot->state == SLOT_EMPTYING);
    if (slot->volume != NO_VOLUME) {
        return; /* slot_scratch_gone() */
    }
    if (!cgroup_empty(&launcher->groups, index)) {
        cgroup_kill(&launcher->groups, index);
        return;
    }
    enter(launcher, slot, SLOT_FREE);
    slot->next = launcher->free_head;
    launcher->free_head = index;
}

/* From any state to EMPTYING, and to FREE as soon as nothing is left in the group. */
static void release(struct launcher *launcher, uint32_t index) {
    struct slot *slot = &launcher->slots[index];
    SCHED_ASSERT(slot->state != SLOT_FREE && slot->state != SLOT_EMPTYING);
    close_ends(slot);
    drop_held(launcher, slot);
    slot->pid = 0;
    if (slot->address != 0) {
        network_give_back(&launcher->network, slot->address);
        slot->address = 0;
    }
    enter(launcher, slot, SLOT_EMPTYING);
    (void)scratch_release(launcher, index);
    slot_try_free(launcher, index);
}

static void refuse_shell(uint64_t token, int32_t error, const char *step) {
    struct notice notice = {.kind = NOTICE_SHELL_FAILED, .token = token, .error = error};
    wire_text(notice.step, sizeof notice.step, step);
    (void)launcher_tell(&notice, NULL, 0);
}

void slot_abandon(struct launcher *launcher, uint32_t index, int32_t error, const char *step) {
    const uint64_t token = launcher->slots[index].token;
    char kept[PROTOCOL_STEP_BYTES];
    wire_text(kept, sizeof kept, step); /* it may be the slot's own */
    release(launcher, index);
    refuse_shell(token, error, kept);
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
    if (error == 0) {
        (void)wire_refuse_descriptors(channel[0]); /* where it cannot be had, the sandbox's filter knows */
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
                                .ephemeral_storage_mb = launcher->scratch.able ? 0 : launcher->options.shell_scratch_mb};
    SCHED_ASSERT(slot->state == SLOT_QUEUED);
    int child[PROTOCOL_FDS_MAX];
    int error = cgroup_prepare(&launcher->groups, index);
    const int memory = error == 0 ? cgroup_events_watch(&launcher->groups, index) : -1;
    if (memory >= 0) {
        error = launcher_watch(launcher, memory, WATCH_MEMORY, index);
    }
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
    /* Watched before it is ordered: an order that was sent will be answered. */
    error = entries < 0 ? entries : launcher_watch(launcher, slot->control, WATCH_SLOT, index);
    if (error == 0) {
        error = wire_send(zygote->fd, &order, sizeof order, child, 4 + (unsigned)entries, MSG_DONTWAIT);
    }
    wire_close(&child[0]);
    wire_close(&child[1]);
    wire_close(&child[3]); /* child[2], the progress page, is the slot's too */
    wire_close_all(child + 4, entries < 0 ? 0 : (unsigned)entries);
    if (error < 0) {
        close_ends(slot);
        return error;
    }
    enter(launcher, slot, SLOT_CLONING);
    return 0;
}

static void kill_slot(struct slot *slot) {
    slot->killed = true;
    if (slot->frozen) { /* version 1 kills nothing that is frozen; version 2 does, and takes no such word */
        slot->frozen = pwrite(slot->freezer, "THAWED", 6, 0) < 0;
    }
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
    const int error = launcher_tell(&notice, fds, count);
    wire_close(&cpu);
    wire_close(&memory);
    wire_close(&slot->channel);
    wire_close(&slot->output);
    wire_close(&slot->progress);
    if (error < 0) { /* too many descriptors under way; the service hears of it when it is reaped */
        slot->error = -error;
        wire_text(slot->step, sizeof slot->step, "descriptors to the service");
        kill_slot(slot);
        return;
    }
    enter(launcher, slot, SLOT_SHELL);
    slot->told = true;
}

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
    enter(launcher, slot, SLOT_BIRTH);
    slot->pid = pid;
    slot->pidfd = pidfd;
    if (slot->killed) {
        kill_slot(slot);
    }
    for (uint32_t i = 0; i < launcher->orphans_count; i++) {
        if (launcher->orphans[i].pid == pid) {
            const struct orphan orphan = launcher->orphans[i];
            launcher->orphans[i] = launcher->orphans[--launcher->orphans_count];
            slot_reaped(launcher, index, orphan.status, orphan.cpu_ns);
            return;
        }
    }
    if (slot->born) {
        hand_over(launcher, index);
    }
}

/* fds: what came with the answer; stays the caller's. */
static void hear(struct launcher *launcher, uint32_t index, const struct stage_answer *answer, const int *fds, unsigned count) {
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
        enter(launcher, slot, SLOT_LIVE);
        if (!slot->quiet && launcher_tell(&notice, fds, count) < 0) { /* too many descriptors under way */
            slot->error = ETOOMANYREFS;
            wire_text(slot->step, sizeof slot->step, "descriptors to the service");
            kill_slot(slot);
        }
    }
}

/* The sandbox's own first process, or its worker before it is specialised, has spoken; or their ends have closed. */
void slot_readable(struct launcher *launcher, uint32_t index) {
    struct slot *slot = &launcher->slots[index];
    while (slot->control >= 0) {
        struct stage_answer answer;
        int fds[PROTOCOL_PORTS_MAX];
        unsigned count;
        const ssize_t got = wire_receive(slot->control, &answer, sizeof answer, fds, PROTOCOL_PORTS_MAX, &count, MSG_DONTWAIT);
        if (got == -EAGAIN) {
            return;
        }
        if (got != (ssize_t)sizeof answer) {
            wire_close_all(fds, count);
            wire_close(&slot->control); /* dead, or (process isolation) specialised: the reaper tells */
            return;
        }
        answer.step[sizeof answer.step - 1] = '\0';
        hear(launcher, index, &answer, fds, count);
        wire_close_all(fds, count);
    }
}

/* ---- what the service asks ---- */

void slot_ask_shell(struct launcher *launcher, const struct request *request) {
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
    *slot = (struct slot){.generation = generation, .runtime = request->runtime, .next = NO_SLOT,
                          .token = request->token, .pidfd = -1, .control = -1, .channel = -1, .output = -1, .progress = -1,
                          .freezer = -1, .volume = NO_VOLUME};
    enter(launcher, slot, SLOT_QUEUED);
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
    drop_held(launcher, slot);
    enter(launcher, slot, SLOT_LIVE); /* to be reaped; says its step then too */
    (void)launcher_tell(&notice, NULL, 0);
    kill_slot(slot);
}

void slots_overdue(struct launcher *launcher, uint64_t now_ms) {
    for (uint32_t i = 0; i < launcher->options.slots; i++) {
        struct slot *slot = &launcher->slots[i];
        if ((slot->state != SLOT_BIRTH && slot->state != SLOT_SPECIALISING) ||
            now_ms - slot->since_ms <= launcher->options.patience_ms) {
            continue;
        }
        if (slot->state == SLOT_SPECIALISING) {
            fail_specialise(launcher, i, ETIMEDOUT, slot->held != NULL ? "storage for /tmp" : "answer of the newborn");
        } else if (slot->error == 0) {
            slot->error = ETIMEDOUT;
            wire_text(slot->step, sizeof slot->step, "answer of the newborn");
            kill_slot(slot);
        }
    }
}

/* A link for the sandbox that the order will make: descriptor or -errno; *step. */
static int lease_network(struct launcher *launcher, struct slot *slot, struct specialise_order *order, const char **step) {
    struct network_lease lease;
    const int error = launcher_network(launcher, step);
    if (error < 0) {
        return error;
    }
    *step = "address of the network";
    if (!network_take(&launcher->network, &lease)) {
        return -EADDRNOTAVAIL;
    }
    slot->address = order->address = lease.address;
    order->link = lease.link;
    return network_door(&launcher->network);
}

/* The order, and the mount of /tmp behind its other descriptors (-1: it has one). Takes all of them. */
static int send_order(struct slot *slot, struct held_order *held, int mount) {
    held->order.scratch = mount < 0 ? 0 : 1;
    if (mount >= 0) {
        held->fds[held->count++] = mount;
    }
    const int error = wire_send(slot->control, &held->order, sizeof held->order, held->fds, held->count, MSG_DONTWAIT);
    wire_close_all(held->fds, held->count);
    held->count = 0;
    return error;
}

/* In memory, as a mount or -errno; -1 where the shell has it already. */
static int own_tmp(const struct launcher *launcher, const struct slot *slot) {
    return launcher->scratch.able ? fs_detached_scratch(slot->scratch_mb) : -1;
}

/* Gives it its /tmp and sends it; or keeps it until there is one. */
static int send_with_scratch(struct launcher *launcher, uint32_t index, struct held_order *held, const char **step) {
    struct slot *slot = &launcher->slots[index];
    int mount = -1, error = 0;
    *step = "storage for /tmp";
    switch (scratch_take(launcher, index, held->order.ephemeral_storage_mb, &mount, &error)) {
    case SCRATCH_REFUSED:
        return -error;
    case SCRATCH_WAIT:
        slot->held = malloc(sizeof *slot->held);
        if (slot->held == NULL) {
            return -ENOMEM;
        }
        *slot->held = *held;
        held->count = 0;
        launcher->scratch.waiting++;
        return 0;
    case SCRATCH_IN_MEMORY:
        mount = own_tmp(launcher, slot);
        break;
    case SCRATCH_HERE:
        break;
    }
    if (mount < -1) {
        return mount;
    }
    *step = "order";
    return send_order(slot, held, mount);
}

static int add_mounts(const struct launcher *launcher, struct held_order *held, const char *const *paths, const char **step) {
    for (unsigned i = 0; i < 2 && launcher->options.isolation != ISOLATION_PROCESS && paths[i][0] != '\0'; i++) {
        *step = i == 0 ? "code directory" : "layers directory";
        const int mount = fs_detached_code(paths[i], launcher->options.code_root);
        if (mount < 0) {
            return mount;
        }
        held->fds[held->count++] = mount;
        held->order.mounts++;
    }
    return 0;
}

static int send_specialise(struct launcher *launcher, uint32_t index, const struct request *request, const char *const *paths,
                           int image, const char **step) {
    struct held_order held = {.order = {.memory_mb = request->memory_mb,
                                        .ephemeral_storage_mb = request->ephemeral_storage_mb,
                                        .image = image < 0 ? 0 : 1,
                                        .limit_data = (launcher->groups.controllers & FLAG_MEMORY) == 0}};
    const bool outbound = (request->flags & REQUEST_OUTBOUND) != 0 && launcher->options.isolation != ISOLATION_PROCESS;
    struct slot *slot = &launcher->slots[index];
    memcpy(held.order.ports, request->ports, sizeof held.order.ports);
    int error = add_mounts(launcher, &held, paths, step);
    if (error == 0) {
        const struct cgroup_limits limits = {.memory_mb = request->memory_mb, .pids_max = launcher->options.pids_max};
        *step = "control group limits";
        error = cgroup_limit(&launcher->groups, index, &limits);
    }
    if (error == 0 && launcher->options.cpu_quota) {
        *step = "control group quota";
        error = cgroup_quota(&launcher->groups, index, cgroup_share_at_start(request->memory_mb));
    }
    if (error == 0 && image >= 0) {
        *step = "image of an initialised process";
        const int copy = fcntl(image, F_DUPFD_CLOEXEC, 0);
        error = copy < 0 ? -errno : 0;
        held.fds[held.count] = copy;
        held.count += error == 0 ? 1 : 0;
    }
    if (error == 0 && outbound) {
        const int door = lease_network(launcher, slot, &held.order, step);
        error = door < 0 ? door : 0;
        held.fds[held.count] = door;
        held.count += error == 0 ? 1 : 0;
    }
    if (error == 0) {
        error = send_with_scratch(launcher, index, &held, step);
    }
    wire_close_all(held.fds, held.count);
    return error;
}

/* ---- waiting for /tmp ---- */

static bool waits_for(const struct slot *slot, uint32_t size_mb) {
    return slot->held != NULL && (size_mb == 0 || slot->scratch_mb == size_mb);
}

uint32_t slots_waiting_for_scratch(const struct launcher *launcher, uint32_t size_mb) {
    uint32_t count = 0;
    for (uint32_t i = 0; launcher->scratch.waiting > 0 && i < launcher->options.slots; i++) {
        count += waits_for(&launcher->slots[i], size_mb) ? 1 : 0;
    }
    return count;
}

uint32_t slot_waiting_for_scratch(const struct launcher *launcher, uint32_t size_mb) {
    uint32_t first = NO_SLOT;
    for (uint32_t i = 0; launcher->scratch.waiting > 0 && i < launcher->options.slots; i++) {
        const struct slot *slot = &launcher->slots[i];
        if (waits_for(slot, size_mb) && (first == NO_SLOT || slot->since_ms < launcher->slots[first].since_ms)) {
            first = i;
        }
    }
    return first;
}

void slot_scratch_comes(struct launcher *launcher, uint32_t index, enum scratch_verdict verdict, int mount, int32_t error,
                        const char *step) {
    struct slot *slot = &launcher->slots[index];
    SCHED_ASSERT(slot->held != NULL && slot->state == SLOT_SPECIALISING);
    struct held_order held = *slot->held;
    slot->held->count = 0;
    drop_held(launcher, slot);
    if (verdict == SCRATCH_REFUSED) {
        wire_close_all(held.fds, held.count);
        fail_specialise(launcher, index, error, step);
        return;
    }
    mount = verdict == SCRATCH_IN_MEMORY ? own_tmp(launcher, slot) : mount;
    const int failed = mount < -1 ? mount : send_order(slot, &held, mount);
    if (failed < 0) {
        wire_close_all(held.fds, held.count);
        fail_specialise(launcher, index, -failed, "order");
    }
}

void slot_scratch_gone(struct launcher *launcher, uint32_t index) {
    if (launcher->slots[index].state == SLOT_EMPTYING) {
        slot_try_free(launcher, index);
    }
}

void slot_ask_specialise(struct launcher *launcher, const struct request *request, const char *const *strings,
                         unsigned count, int image) {
    const uint32_t index = find(launcher, request->shell);
    if (index == NO_SLOT || launcher->slots[index].state != SLOT_SHELL) {
        struct notice notice = {.kind = NOTICE_SPECIALISE_FAILED, .shell = request->shell, .error = ESRCH};
        wire_text(notice.step, sizeof notice.step, "shell");
        (void)launcher_tell(&notice, NULL, 0);
        return;
    }
    struct slot *slot = &launcher->slots[index];
    const char *step = "request";
    int error = 0;
    if (count != 2 || strings[0][0] != '/' || request->memory_mb < 1 || request->memory_mb > MEMORY_MB_MAX ||
        request->ephemeral_storage_mb < 1 || request->ephemeral_storage_mb > SCRATCH_MB_MAX) {
        error = -EINVAL;
    } else {
        slot->memory_mb = request->memory_mb;
        slot->scratch_mb = request->ephemeral_storage_mb;
        slot->oom_before = cgroup_oom_kills(&launcher->groups, index);
        error = send_specialise(launcher, index, request, strings, image, &step);
    }
    if (error < 0) {
        fail_specialise(launcher, index, -error, step);
        return;
    }
    slot->quiet = (request->flags & REQUEST_QUIET) != 0;
    enter(launcher, slot, SLOT_SPECIALISING);
}

void slot_ask_kill(struct launcher *launcher, uint64_t shell) {
    const uint32_t index = find(launcher, shell);
    if (index != NO_SLOT) {
        kill_slot(&launcher->slots[index]);
    }
}

/* Where it cannot be written the sandbox keeps what it had for its init: it must not lose a call that went well. */
void slot_ask_loaded(struct launcher *launcher, uint64_t shell) {
    const uint32_t index = find(launcher, shell);
    if (index != NO_SLOT && launcher->slots[index].state == SLOT_SPECIALISING) {
        slot_readable(launcher, index); /* restored within a millisecond: its own word may still lie here unread */
    }
    if (index == NO_SLOT || launcher->slots[index].state != SLOT_LIVE || !launcher->options.cpu_quota) {
        return;
    }
    if (cgroup_quota(&launcher->groups, index, cgroup_share(launcher->slots[index].memory_mb)) < 0) {
        launcher_warn("a sandbox could not be given its share of the CPU and has one CPU");
    }
}

/* One that cannot be frozen goes on as it is: nothing depends on it. One that is being killed is never frozen again. */
void slot_ask_freeze(struct launcher *launcher, uint64_t shell, bool freeze) {
    const uint32_t index = find(launcher, shell);
    if (index == NO_SLOT || launcher->slots[index].state != SLOT_LIVE || launcher->slots[index].killed) {
        return;
    }
    struct slot *slot = &launcher->slots[index];
    if (freeze && slot->freezer < 0) {
        const int freezer = cgroup_freezer(&launcher->groups, index, slot->pid);
        if (freezer < 0) {
            return;
        }
        slot->freezer = freezer;
    }
    if (slot->freezer >= 0 && freeze != slot->frozen && cgroup_set_frozen(&launcher->groups, slot->freezer, freeze) == 0) {
        slot->frozen = freeze;
    }
}

/* ---- death ---- */

void slot_out_of_memory(struct launcher *launcher, uint32_t index) {
    struct slot *slot = &launcher->slots[index];
    if (slot->state == SLOT_SPECIALISING || slot->state == SLOT_LIVE) { /* a shell has no limit */
        slot->oom = true;
        kill_slot(slot);
    }
}

void slot_check_memory(struct launcher *launcher, uint32_t index) {
    if (cgroup_oom_kills(&launcher->groups, index) > launcher->slots[index].oom_before) {
        slot_out_of_memory(launcher, index);
    }
}

static enum exit_cause cause_of(struct launcher *launcher, uint32_t index, int status) {
    const struct slot *slot = &launcher->slots[index];
    if (slot->error != 0) {
        return CAUSE_LAUNCH_FAILED;
    }
    if (slot->oom) {
        return CAUSE_OOM;
    }
    if (WIFEXITED(status)) {
        return CAUSE_EXIT;
    }
    if (WTERMSIG(status) == SIGKILL) {
        /* Where nobody hears of it at once: version 1 may have killed a child long ago, and the worker lived on until we ended
         * it; version 2 takes all at once. */
        const bool by_us = slot->killed && !slot->ended && launcher->groups.version != 2;
        if (!by_us && cgroup_oom_kills(&launcher->groups, index) > slot->oom_before) {
            return CAUSE_OOM;
        }
        if (slot->killed) {
            return CAUSE_KILLED;
        }
    }
    return CAUSE_SIGNAL;
}

void slot_reaped(struct launcher *launcher, uint32_t index, int init_status, uint64_t cpu_ns) {
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
        (void)launcher_tell(&failure, NULL, 0);
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
    release(launcher, index); /* before it is told: who hears of it may ask for the slot again */
    (void)launcher_tell(&notice, NULL, 0);
}
