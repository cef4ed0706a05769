#include "scratch_keeper.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "invariant.h"
#include "scratch_volume.h"
#include "wire.h"

struct keeper {
    int fd;
    int why_not;                 /* errno of the place, which every order is then answered with */
    const char *step;
    struct volume_place place;
    struct volume *volumes;        /* by number; size_mb 0: none */
};

static void answer(const struct keeper *keeper, uint32_t kind, uint32_t volume, int error, const char *step, int fd) {
    struct keeper_answer message = {.kind = kind, .volume = volume, .error = -error};
    wire_text(message.step, sizeof message.step, step);
    if (wire_send(keeper->fd, &message, sizeof message, &fd, fd < 0 ? 0 : 1, 0) < 0) {
        _exit(0); /* no launcher, no purpose */
    }
}

/* Gives it a key and hands it out; or it is no more. */
static void lock_and_hand_out(struct keeper *keeper, uint32_t number) {
    struct volume *volume = &keeper->volumes[number];
    const char *step = "";
    int mount = volume_lock(volume, &step);
    if (mount < 0) {
        volume_drop(&keeper->place, volume);
        answer(keeper, KEEPER_GONE, number, mount, step, -1);
        return;
    }
    answer(keeper, KEEPER_READY, number, 0, "", mount);
    wire_close(&mount);
}

static void make(struct keeper *keeper, uint32_t number, uint32_t size_mb) {
    const char *step = keeper->step;
    SCHED_ASSERT(keeper->volumes[number].size_mb == 0 && size_mb > 0);
    const int error = keeper->why_not < 0 ? keeper->why_not
                                          : volume_make(&keeper->place, &keeper->volumes[number], number, size_mb, &step);
    if (error < 0) {
        answer(keeper, KEEPER_GONE, number, error, step, -1);
        return;
    }
    lock_and_hand_out(keeper, number);
}

static void end(struct keeper *keeper, uint32_t number) {
    struct volume *volume = &keeper->volumes[number];
    if (!volume_reuse(volume)) {
        volume_drop(&keeper->place, volume);
        answer(keeper, KEEPER_GONE, number, 0, "", -1);
        return;
    }
    answer(keeper, KEEPER_EMPTIED, number, 0, "", -1);
    lock_and_hand_out(keeper, number);
}

static void drop(struct keeper *keeper, uint32_t number) {
    volume_drop(&keeper->place, &keeper->volumes[number]);
    answer(keeper, KEEPER_GONE, number, 0, "", -1);
}

static void drop_all(struct keeper *keeper) {
    for (uint32_t i = 0; i < KEEPER_VOLUMES_MAX; i++) {
        if (keeper->volumes[i].size_mb != 0) {
            volume_drop(&keeper->place, &keeper->volumes[i]);
        }
    }
}

_Noreturn void keeper_run(int fd, const char *directory) {
    struct keeper keeper = {.fd = fd, .volumes = calloc(KEEPER_VOLUMES_MAX, sizeof *keeper.volumes)};
    if (keeper.volumes == NULL || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) {
        _exit(126);
    }
    keeper.why_not = volume_place_open(&keeper.place, directory, &keeper.step);
    for (;;) {
        struct keeper_order order;
        const ssize_t got = wire_receive(fd, &order, sizeof order, NULL, 0, NULL, 0);
        if (got != (ssize_t)sizeof order) {
            drop_all(&keeper);
            _exit(0);
        }
        SCHED_ASSERT(order.volume < KEEPER_VOLUMES_MAX);
        switch ((enum keeper_order_kind)order.kind) {
        case KEEPER_MAKE:
            make(&keeper, order.volume, order.size_mb);
            break;
        case KEEPER_END:
            end(&keeper, order.volume);
            break;
        case KEEPER_DROP:
            drop(&keeper, order.volume);
            break;
        }
    }
}
