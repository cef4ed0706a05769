#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "invariant.h"
#include "launcher.h"
#include "scratch_keeper.h"
#include "wire.h"

enum {
    PROBE_SIZE_MB = 512, /* what most functions have, so that the first volume is of use */
    PROBE_MS = 10000,
    CLOSE_MS = 3000,
    NAP_US = 1000,
    WARN_EVERY_MS = 10000,
    LOOK_MS = 500,
    EXPECT_MB_MAX = 1 << 20,
    SURPLUS_MS = 1000,
    UNUSED_MS = 300000,
    VOLUMES_SPARE = 128,
    SOCKET_BYTES = 4 << 20, /* room for an order about each volume */
    KEEPER_FD = 3,
    KEEPER_REAPED = -1,
    LOSSES_MAX = 2 * SCRATCH_KEEPERS /* keepers in a row that died before they had made anything: more would die too */
};

static struct scratch_volume *volume_at(struct launcher *launcher, uint32_t number) {
    SCHED_ASSERT(number < launcher->scratch.volumes_count);
    return &launcher->scratch.volumes[number];
}

/* ---- keepers ---- */

_Noreturn static void become_keeper(const struct launcher *launcher, int fd) {
    sigset_t none;
    sigemptyset(&none);
    if (dup2(fd, KEEPER_FD) < 0 || syscall(SYS_close_range, KEEPER_FD + 1, ~0U, 0) < 0 ||
        sigprocmask(SIG_SETMASK, &none, NULL) < 0) {
        _exit(126);
    }
    keeper_run(KEEPER_FD, launcher->options.scratch.root);
}

static int start_keeper(struct launcher *launcher, uint32_t which) {
    struct scratch_keeper *keeper = &launcher->scratch.keepers[which];
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return -errno;
    }
    const pid_t pid = fork();
    const int error = -errno;
    if (pid == 0) {
        become_keeper(launcher, pair[1]);
    }
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return error;
    }
    const int bytes = SOCKET_BYTES;
    (void)setsockopt(pair[0], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes);
    *keeper = (struct scratch_keeper){.pid = pid, .fd = pair[0]};
    return launcher_watch(launcher, keeper->fd, WATCH_KEEPER, which);
}

static int order(struct launcher *launcher, uint32_t number, enum keeper_order_kind kind) {
    struct scratch_volume *volume = volume_at(launcher, number);
    struct scratch_keeper *keeper = &launcher->scratch.keepers[volume->keeper];
    const struct keeper_order message = {.kind = kind, .volume = number, .size_mb = volume->size_mb};
    const int error = keeper->fd < 0 ? -EPIPE : wire_send(keeper->fd, &message, sizeof message, NULL, 0, MSG_DONTWAIT);
    if (error == 0) {
        keeper->orders++;
    } else if (keeper->pid > 0) { /* it has ended, or does not read any more; either way it is no use, and its end will be told */
        kill(keeper->pid, SIGKILL);
    }
    return error;
}

/* The one with the least to do. -EBUSY: all are ending; each of them will be told to have ended. */
static int choose_keeper(struct launcher *launcher, uint32_t *chosen) {
    struct scratch *scratch = &launcher->scratch;
    uint32_t best = SCRATCH_KEEPERS;
    for (uint32_t turn = 0; turn < SCRATCH_KEEPERS; turn++) {
        const uint32_t i = (scratch->next_keeper + turn) % SCRATCH_KEEPERS;
        const bool ending = scratch->keepers[i].pid != 0 && scratch->keepers[i].fd < 0;
        if (!ending && (best == SCRATCH_KEEPERS || scratch->keepers[i].orders < scratch->keepers[best].orders)) {
            best = i;
        }
    }
    *chosen = best;
    scratch->next_keeper = best + 1;
    return best == SCRATCH_KEEPERS ? -EBUSY : scratch->keepers[best].pid == 0 ? start_keeper(launcher, best) : 0;
}

/* ---- volumes ---- */

static void set_free(struct launcher *launcher, struct scratch_volume *volume) {
    SCHED_ASSERT(volume->state != VOLUME_FREE && launcher->scratch.mb_used >= volume->size_mb);
    launcher->scratch.mb_used -= volume->size_mb;
    wire_close(&volume->mount);
    *volume = (struct scratch_volume){.state = VOLUME_FREE, .slot = NO_SLOT, .mount = -1};
}

struct census {
    uint32_t making, ready, used;
    uint32_t first_free, first_ready; /* NO_VOLUME: none */
};

/* One look at all: a few hundred words, and only when a sandbox begins or ends. */
static struct census count(const struct launcher *launcher, uint32_t size_mb) {
    const struct scratch *scratch = &launcher->scratch;
    struct census census = {.first_free = NO_VOLUME, .first_ready = NO_VOLUME};
    for (uint32_t i = scratch->volumes_count; i-- > 0;) {
        const struct scratch_volume *volume = &scratch->volumes[i];
        if (volume->state == VOLUME_FREE) {
            census.first_free = i;
        } else if (volume->size_mb == size_mb) {
            census.making += volume->state == VOLUME_MAKING ? 1 : 0;
            census.used += volume->state == VOLUME_USED ? 1 : 0;
            if (volume->state == VOLUME_READY) {
                census.ready++;
                census.first_ready = i;
            }
        }
    }
    return census;
}

/* 0, or -errno; -EBUSY: no keeper took it, and one that is ending will be told to have ended. */
static int make_volume(struct launcher *launcher, uint32_t size_mb, uint32_t number) {
    struct scratch *scratch = &launcher->scratch;
    uint32_t keeper;
    int error = number == NO_VOLUME ? -ENOSPC : choose_keeper(launcher, &keeper);
    if (error < 0) {
        return error;
    }
    struct scratch_volume *volume = volume_at(launcher, number);
    *volume = (struct scratch_volume){.state = VOLUME_MAKING, .size_mb = size_mb, .keeper = keeper, .slot = NO_SLOT, .mount = -1};
    scratch->mb_used += size_mb;
    if (order(launcher, number, KEEPER_MAKE) < 0) {
        set_free(launcher, volume);
        return -EBUSY;
    }
    return 0;
}

static bool has_room(const struct launcher *launcher, uint32_t size_mb) {
    return launcher->scratch.mb_used + size_mb <= launcher->scratch.mb_max;
}

static void drop_volume(struct launcher *launcher, uint32_t number) {
    struct scratch_volume *volume = volume_at(launcher, number);
    wire_close(&volume->mount);
    volume->state = VOLUME_DROPPING;
    (void)order(launcher, number, KEEPER_DROP); /* if its keeper has gone, so has it, and that will be told */
}

/* Those that nobody uses make room for one that somebody waits for. Whether it will do once they are gone, and those that have just
 * been given back. */
static bool make_room(struct launcher *launcher, uint32_t size_mb) {
    struct scratch *scratch = &launcher->scratch;
    uint64_t coming_mb = 0;
    for (uint32_t i = 0; i < scratch->volumes_count; i++) {
        const enum volume_state state = scratch->volumes[i].state;
        coming_mb += state == VOLUME_DROPPING || state == VOLUME_ENDING ? scratch->volumes[i].size_mb : 0;
    }
    for (uint32_t i = 0; i < scratch->volumes_count && scratch->mb_used + size_mb > scratch->mb_max + coming_mb; i++) {
        if (scratch->volumes[i].state == VOLUME_READY && scratch->volumes[i].size_mb != size_mb) {
            coming_mb += scratch->volumes[i].size_mb;
            drop_volume(launcher, i);
        }
    }
    return scratch->mb_used + size_mb <= scratch->mb_max + coming_mb;
}

/* As many as are to be ready, besides those that somebody waits for. */
static void top_up(struct launcher *launcher, uint32_t size_mb) {
    const uint32_t waiting = slots_waiting_for_scratch(launcher, size_mb);
    for (struct census census = count(launcher, size_mb);
         census.ready + census.making < launcher->options.scratch.ahead + waiting && has_room(launcher, size_mb);
         census = count(launcher, size_mb)) {
        if (make_volume(launcher, size_mb, census.first_free) < 0) {
            return;
        }
    }
}

/* Not once a sandbox: a machine in trouble has many. */
static void warn_seldom(struct launcher *launcher, const char *note) {
    const uint64_t now_ms = launcher_now_ms();
    if (launcher->scratch.warned_ms == 0 || now_ms - launcher->scratch.warned_ms >= WARN_EVERY_MS) {
        launcher->scratch.warned_ms = now_ms;
        launcher_warn(note);
    }
}

static void say_no_room(struct launcher *launcher) {
    char note[PROTOCOL_NOTE_BYTES];
    snprintf(note, sizeof note, "no room for another /tmp on disk (%llu of %llu MB given out): %s; raise scratch_mb_max",
             (unsigned long long)launcher->scratch.mb_used, (unsigned long long)launcher->scratch.mb_max,
             launcher->options.scratch.mode == SCRATCH_AUTO ? "it is in memory and counts there" : "no sandbox");
    warn_seldom(launcher, note);
}

static enum scratch_verdict without(const struct launcher *launcher, int reason, int *error) {
    *error = reason;
    return launcher->options.scratch.mode == SCRATCH_ENCRYPTED ? SCRATCH_REFUSED : SCRATCH_IN_MEMORY;
}

/* None is ready, and so many want one: WAIT, once it is on its way; or a way to do without. */
static enum scratch_verdict ask_for(struct launcher *launcher, uint32_t size_mb, uint32_t wanted, int *error) {
    const struct census census = count(launcher, size_mb);
    if (census.making >= wanted) {
        return SCRATCH_WAIT;
    }
    if (has_room(launcher, size_mb)) {
        const int failure = make_volume(launcher, size_mb, census.first_free);
        const bool again = failure == -EBUSY && launcher->scratch.losses <= LOSSES_MAX; /* scratch_reaped() */
        return failure < 0 && !again ? without(launcher, -failure, error) : SCRATCH_WAIT;
    }
    if (make_room(launcher, size_mb)) {
        return SCRATCH_WAIT;
    }
    say_no_room(launcher);
    return without(launcher, ENOSPC, error);
}

enum scratch_verdict scratch_take(struct launcher *launcher, uint32_t slot, uint32_t size_mb, int *mount, int *error) {
    struct scratch *scratch = &launcher->scratch;
    if (!scratch->able) {
        return without(launcher, scratch->error, error);
    }
    const struct census census = count(launcher, size_mb);
    if (census.first_ready != NO_VOLUME) {
        struct scratch_volume *volume = volume_at(launcher, census.first_ready);
        volume->state = VOLUME_USED;
        volume->slot = slot;
        launcher->slots[slot].volume = census.first_ready;
        *mount = volume->mount;
        volume->mount = -1;
        top_up(launcher, size_mb);
        return SCRATCH_HERE;
    }
    return ask_for(launcher, size_mb, slots_waiting_for_scratch(launcher, size_mb) + 1, error);
}

/* After something has changed: whoever has waited longest gets what there is now, or is told that there will be nothing. */
static void serve_waiting(struct launcher *launcher) {
    for (uint32_t slot; (slot = slot_waiting_for_scratch(launcher, 0)) != NO_SLOT;) {
        const uint32_t size_mb = launcher->slots[slot].scratch_mb;
        int error = 0;
        const enum scratch_verdict verdict = ask_for(launcher, size_mb, slots_waiting_for_scratch(launcher, size_mb), &error);
        if (verdict == SCRATCH_WAIT) {
            return;
        }
        slot_scratch_comes(launcher, slot, verdict, -1, error, "storage for /tmp");
    }
}

void scratch_expect(struct launcher *launcher, uint32_t size_mb) {
    if (!launcher->scratch.able || size_mb < 1 || size_mb > EXPECT_MB_MAX) {
        return;
    }
    const struct census census = count(launcher, size_mb);
    if (census.ready + census.making + census.used == 0 && has_room(launcher, size_mb)) {
        (void)make_volume(launcher, size_mb, census.first_free);
    }
}

bool scratch_release(struct launcher *launcher, uint32_t slot) {
    const uint32_t number = launcher->slots[slot].volume;
    if (number == NO_VOLUME) {
        return true;
    }
    struct scratch_volume *volume = volume_at(launcher, number);
    SCHED_ASSERT(volume->state == VOLUME_USED && volume->slot == slot);
    const struct census census = count(launcher, volume->size_mb);
    /* Kept for the next as long as there are not more of them than a wave of new sandboxes would use. */
    const bool keep = census.ready + census.making < launcher->options.scratch.ahead + census.used;
    volume->state = VOLUME_ENDING;
    launcher->scratch.restless = true;
    if (order(launcher, number, keep ? KEEPER_END : KEEPER_DROP) < 0) { /* the keeper has gone, and with it the volume */
        launcher->slots[slot].volume = NO_VOLUME;
        set_free(launcher, volume);
        return true;
    }
    return false;
}

/* ---- what keepers say ---- */

/* Its last occupant's slot may be used again. */
static void let_slot_go(struct launcher *launcher, struct scratch_volume *volume) {
    const uint32_t slot = volume->slot;
    if (volume->state == VOLUME_ENDING && slot != NO_SLOT) {
        volume->slot = NO_SLOT;
        launcher->slots[slot].volume = NO_VOLUME;
        slot_scratch_gone(launcher, slot);
    }
}

/* Whoever has waited longest for that size is told. */
static void gone(struct launcher *launcher, uint32_t number, int32_t error, const char *step) {
    struct scratch_volume *volume = volume_at(launcher, number);
    const uint32_t size_mb = volume->size_mb;
    const bool wanted = volume->state == VOLUME_MAKING;
    let_slot_go(launcher, volume);
    set_free(launcher, volume);
    if (error != 0) {
        char note[PROTOCOL_NOTE_BYTES];
        snprintf(note, sizeof note, "a /tmp of %u MB could not be made: %.*s: %s", size_mb, PROTOCOL_STEP_BYTES, step, strerror(error));
        warn_seldom(launcher, note);
    }
    const uint32_t slot = error != 0 && wanted ? slot_waiting_for_scratch(launcher, size_mb) : NO_SLOT;
    if (slot != NO_SLOT) { /* the next attempt would hardly end better: each costs one of those that wait */
        int reason = 0;
        const enum scratch_verdict verdict = without(launcher, error, &reason);
        slot_scratch_comes(launcher, slot, verdict, -1, reason, step);
    }
    serve_waiting(launcher);
}

static void ready(struct launcher *launcher, uint32_t number, int mount) {
    struct scratch_volume *volume = volume_at(launcher, number);
    SCHED_ASSERT(volume->state == VOLUME_MAKING);
    launcher->scratch.losses = 0;
    const uint32_t slot = slot_waiting_for_scratch(launcher, volume->size_mb);
    if (slot == NO_SLOT) {
        volume->state = VOLUME_READY;
        volume->mount = mount;
        volume->since_ms = launcher_now_ms();
        launcher->scratch.restless = true;
        serve_waiting(launcher); /* another size: its room may be needed */
        return;
    }
    volume->state = VOLUME_USED;
    volume->slot = slot;
    launcher->slots[slot].volume = number;
    slot_scratch_comes(launcher, slot, SCRATCH_HERE, mount, 0, "");
    top_up(launcher, volume->size_mb);
}

static void hear(struct launcher *launcher, uint32_t which, const struct keeper_answer *answer, int mount) {
    struct scratch_keeper *keeper = &launcher->scratch.keepers[which];
    if (answer->kind == KEEPER_EMPTIED) { /* the end of the order is still to come */
        struct scratch_volume *volume = volume_at(launcher, answer->volume);
        let_slot_go(launcher, volume);
        volume->state = VOLUME_MAKING;
        return;
    }
    SCHED_ASSERT(keeper->orders > 0);
    keeper->orders--;
    if (answer->kind == KEEPER_READY && mount >= 0) {
        ready(launcher, answer->volume, mount);
    } else {
        wire_close(&mount);
        gone(launcher, answer->volume, answer->error, answer->step);
    }
}

/* Its volumes go with it. Those that sandboxes still use live as long as these do. Who waited for one gets another keeper's, unless
 * keepers die one after the other and nothing comes of it. */
static void lost(struct launcher *launcher, uint32_t which) {
    struct scratch *scratch = &launcher->scratch;
    wire_close(&scratch->keepers[which].fd);
    scratch->keepers[which].orders = 0;
    scratch->losses += scratch->losses <= LOSSES_MAX ? 1 : 0;
    const int32_t error = scratch->losses > LOSSES_MAX ? ECHILD : 0;
    for (uint32_t i = 0; i < scratch->volumes_count; i++) {
        const struct scratch_volume *volume = &scratch->volumes[i];
        if (volume->state != VOLUME_FREE && volume->state != VOLUME_USED && volume->keeper == which) {
            gone(launcher, i, volume->state == VOLUME_MAKING ? error : 0, "its keeper");
        }
    }
}

/* true: there may be more. */
static bool receive(struct launcher *launcher, uint32_t which, int flags) {
    struct scratch_keeper *keeper = &launcher->scratch.keepers[which];
    struct keeper_answer answer;
    int mount = -1;
    unsigned fds;
    const ssize_t got = wire_receive(keeper->fd, &answer, sizeof answer, &mount, 1, &fds, flags);
    if (got == -EAGAIN) {
        return false;
    }
    if (got != (ssize_t)sizeof answer) {
        if (keeper->pid > 0) {
            kill(keeper->pid, SIGKILL);
        }
        lost(launcher, which);
        return false;
    }
    answer.step[sizeof answer.step - 1] = '\0';
    hear(launcher, which, &answer, fds == 1 ? mount : -1);
    return true;
}

void scratch_readable(struct launcher *launcher, uint32_t which) {
    while (launcher->scratch.keepers[which].fd >= 0 && receive(launcher, which, MSG_DONTWAIT)) {
    }
}

bool scratch_reaped(struct launcher *launcher, pid_t pid) {
    for (uint32_t i = 0; i < SCRATCH_KEEPERS; i++) {
        struct scratch_keeper *keeper = &launcher->scratch.keepers[i];
        if (keeper->pid == pid) {
            keeper->pid = KEEPER_REAPED; /* not started again before all that was its is gone */
            if (keeper->fd >= 0) {
                scratch_readable(launcher, i); /* its last words, and then its end */
            }
            keeper->pid = 0;
            /* What sandboxes still use of it ends with them, and is nobody's to empty. */
            for (uint32_t v = 0; v < launcher->scratch.volumes_count; v++) {
                struct scratch_volume *volume = &launcher->scratch.volumes[v];
                volume->keeper = volume->state == VOLUME_USED && volume->keeper == i ? SCRATCH_KEEPERS : volume->keeper;
            }
            serve_waiting(launcher); /* it can be started again */
            return true;
        }
    }
    return false;
}

/* ---- what is ready and not needed ---- */

int scratch_sleep_ms(const struct launcher *launcher) {
    return launcher->scratch.restless ? LOOK_MS : -1;
}

/* More than are kept of a size in use; any of a size that has not been for long. The size that most functions have is always in use. */
static bool is_surplus(const struct launcher *launcher, const struct scratch_volume *volume, uint64_t now_ms, bool *later) {
    const struct census census = count(launcher, volume->size_mb);
    const bool more = census.ready > launcher->options.scratch.ahead + census.used;
    const bool other = volume->size_mb != PROBE_SIZE_MB && census.used == 0;
    const uint64_t age_ms = now_ms - volume->since_ms;
    *later = *later || more || other;
    return (more && age_ms >= SURPLUS_MS) || (other && age_ms >= UNUSED_MS);
}

void scratch_tick(struct launcher *launcher) {
    struct scratch *scratch = &launcher->scratch;
    const uint64_t now_ms = launcher_now_ms();
    if (!scratch->restless || now_ms - scratch->looked_ms < LOOK_MS) {
        return;
    }
    scratch->looked_ms = now_ms;
    scratch->restless = false;
    for (uint32_t i = 0; i < scratch->volumes_count; i++) {
        if (scratch->volumes[i].state == VOLUME_READY &&
            is_surplus(launcher, &scratch->volumes[i], now_ms, &scratch->restless)) {
            drop_volume(launcher, i);
        }
    }
}

/* ---- start and end ---- */

static uint64_t half_of_the_disk_mb(const char *root) {
    struct statvfs status;
    return statvfs(root, &status) < 0 ? 0 : (uint64_t)status.f_bavail * status.f_frsize / 2 >> 20;
}

/* Where it lies may be another user's by now (the service has dropped root): what is not our own directory is not touched. */
static int make_directory(const char *root) {
    struct stat status;
    if (mkdir(root, 0700) < 0 && errno != EEXIST) {
        return -errno;
    }
    int fd = open(root, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    const int error = fstat(fd, &status) < 0 ? -errno
                      : status.st_uid != geteuid() ? -EPERM
                      : fchmod(fd, 0700) < 0       ? -errno
                                                   : 0;
    wire_close(&fd);
    return error;
}

/* The first volume, made while everybody waits. */
static void probe(struct launcher *launcher) {
    struct scratch *scratch = &launcher->scratch;
    const int error = make_volume(launcher, PROBE_SIZE_MB, 0);
    if (error < 0) {
        scratch->error = -error;
        wire_text(scratch->step, sizeof scratch->step, "keeper");
        return;
    }
    struct scratch_keeper *keeper = &scratch->keepers[volume_at(launcher, 0)->keeper];
    struct pollfd poll_for = {.fd = keeper->fd, .events = POLLIN};
    struct keeper_answer answer = {.error = ETIMEDOUT};
    wire_text(answer.step, sizeof answer.step, "first volume");
    int mount = -1;
    unsigned fds = 0;
    if (poll(&poll_for, 1, PROBE_MS) == 1 &&
        wire_receive(keeper->fd, &answer, sizeof answer, &mount, 1, &fds, MSG_DONTWAIT) != (ssize_t)sizeof answer) {
        answer.error = ECHILD;
    }
    if (fds == 1) {
        keeper->orders--;
        scratch->able = true;
        ready(launcher, 0, mount);
        return;
    }
    /* Whatever it says later is about a volume that is not counted on any more. */
    kill(keeper->pid, SIGKILL);
    wire_close(&keeper->fd);
    keeper->orders = 0;
    scratch->error = answer.error;
    answer.step[sizeof answer.step - 1] = '\0';
    wire_text(scratch->step, sizeof scratch->step, answer.step);
    set_free(launcher, volume_at(launcher, 0));
}

static void give_up(struct launcher *launcher, int error, const char *step) {
    launcher->scratch.error = error;
    wire_text(launcher->scratch.step, sizeof launcher->scratch.step, step);
}

int scratch_open(struct launcher *launcher) {
    const struct scratch_options *options = &launcher->options.scratch;
    struct scratch *scratch = &launcher->scratch;
    for (uint32_t i = 0; i <= SCRATCH_KEEPERS; i++) {
        scratch->keepers[i].fd = -1;
    }
    if (options->mode == SCRATCH_TMPFS) {
        return 0;
    }
    const uint32_t wanted = launcher->options.slots + VOLUMES_SPARE;
    scratch->volumes_count = wanted < KEEPER_VOLUMES_MAX ? wanted : KEEPER_VOLUMES_MAX;
    scratch->volumes = calloc(scratch->volumes_count, sizeof *scratch->volumes);
    if (scratch->volumes == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < scratch->volumes_count; i++) {
        scratch->volumes[i] = (struct scratch_volume){.slot = NO_SLOT, .mount = -1};
    }
    const int error = options->root == NULL ? -ENOENT : make_directory(options->root);
    if (launcher->options.isolation == ISOLATION_PROCESS && options->mode == SCRATCH_AUTO) {
        return 0; /* bare processes share /tmp, which their own warning says */
    }
    if (launcher->options.isolation != ISOLATION_ROOT) {
        give_up(launcher, EPERM, "not root");
    } else if (error < 0) {
        give_up(launcher, -error, "directory of volumes");
    } else {
        scratch->mb_max = options->mb_max > 0 ? options->mb_max : half_of_the_disk_mb(options->root);
        if (scratch->mb_max < PROBE_SIZE_MB) {
            give_up(launcher, ENOSPC, "room for one volume");
        } else {
            probe(launcher);
        }
    }
    for (uint32_t i = 0; i < SCRATCH_KEEPERS && scratch->able; i++) {
        if (scratch->keepers[i].pid == 0) {
            (void)start_keeper(launcher, i); /* if not now, then when it is needed */
        }
    }
    if (scratch->able) {
        top_up(launcher, PROBE_SIZE_MB);
    }
    return !scratch->able && options->mode == SCRATCH_ENCRYPTED ? -scratch->error : 0;
}

void scratch_close(struct launcher *launcher) {
    struct scratch *scratch = &launcher->scratch;
    for (uint32_t i = 0; i < scratch->volumes_count; i++) {
        wire_close(&scratch->volumes[i].mount);
    }
    for (uint32_t i = 0; i < SCRATCH_KEEPERS; i++) {
        wire_close(&scratch->keepers[i].fd);
    }
    for (uint32_t i = 0; i < SCRATCH_KEEPERS; i++) {
        const uint64_t until_ms = launcher_now_ms() + CLOSE_MS;
        while (scratch->keepers[i].pid > 0 && waitpid(scratch->keepers[i].pid, NULL, WNOHANG) == 0) {
            if (launcher_now_ms() >= until_ms) {
                kill(scratch->keepers[i].pid, SIGKILL);
                break;
            }
            usleep(NAP_US);
        }
        scratch->keepers[i].pid = 0;
    }
}
