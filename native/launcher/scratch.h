/* scratch.h: which sandbox gets which volume as its /tmp. The launcher's side: stock, budget, who waits. What blocks is a keeper's
 * (scratch_keeper.c); what a volume is, scratch_volume.h says.
 *
 *   FREE --asked for--> MAKING --keeper: ready--> READY --a sandbox is specialised--> USED
 *   USED --it has ended--> ENDING --keeper: emptied--> MAKING (a new key) or --gone--> FREE
 *   READY --too many, or its room is needed--> DROPPING --gone--> FREE
 *
 * A slot is not free before its volume is emptied: what is left of its files in memory would count for the next occupant.
 */
#ifndef LAUNCHER_SCRATCH_H
#define LAUNCHER_SCRATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "protocol.h"

struct launcher;

enum scratch_mode {
    SCRATCH_TMPFS,     /* in memory, always */
    SCRATCH_AUTO,      /* encrypted on disk where that can be had and while there is room, else in memory */
    SCRATCH_ENCRYPTED  /* or no sandbox */
};

enum { SCRATCH_KEEPERS = 4, NO_VOLUME = UINT32_MAX };

struct scratch_options {
    uint32_t mode;
    const char *root;      /* directory of volumes; NULL: none, so in memory */
    uint32_t mb_max;       /* sizes of all volumes together; 0: half of what is free at the start */
    uint32_t ahead;        /* volumes kept ready of a size that is in use */
};

enum volume_state { VOLUME_FREE, VOLUME_MAKING, VOLUME_READY, VOLUME_USED, VOLUME_ENDING, VOLUME_DROPPING };

struct scratch_volume {
    enum volume_state state;
    uint32_t size_mb;
    uint32_t keeper;
    uint32_t slot;         /* USED, ENDING: whose it is */
    int mount;             /* READY */
    uint64_t since_ms;     /* READY */
};

struct scratch_keeper {
    pid_t pid;             /* 0: not running; KEEPER_REAPED: its last words are being heard */
    int fd;
    unsigned orders;       /* sent and not answered */
};

struct scratch {
    bool able;             /* a volume could be made here */
    int32_t error;         /* why not */
    char step[PROTOCOL_STEP_BYTES];
    struct scratch_keeper keepers[SCRATCH_KEEPERS + 1]; /* the last never runs: volumes of one that has died are its */
    struct scratch_volume *volumes;
    uint32_t volumes_count;
    uint64_t mb_max, mb_used;  /* of all that are not FREE */
    uint64_t warned_ms;        /* last time something was said */
    uint32_t waiting;          /* slots that wait for a volume */
    uint32_t losses;           /* keepers that died since a volume was last made */
    uint32_t next_keeper;      /* of those with equally little to do */
    bool restless;             /* there may be more ready than will be kept */
    uint64_t looked_ms;        /* last look for those */
};

/* Makes the first volume, to know that it can be done. 0, or -errno where mode is ENCRYPTED and it cannot; see step. */
int scratch_open(struct launcher *launcher);
/* Lets all keepers drop what they have, for a few seconds. Every sandbox is dead. */
void scratch_close(struct launcher *launcher);

/* A function of that size was deployed: one is made, if there is none and there is room. */
void scratch_expect(struct launcher *launcher, uint32_t size_mb);

enum scratch_verdict { SCRATCH_HERE, SCRATCH_IN_MEMORY, SCRATCH_WAIT, SCRATCH_REFUSED };

/* A volume for the slot: HERE: *mount is its mount, the caller's. WAIT: slot_scratch_comes() will be called. IN_MEMORY: it has none.
 * REFUSED: *error (a positive errno). */
enum scratch_verdict scratch_take(struct launcher *launcher, uint32_t slot, uint32_t size_mb, int *mount, int *error);

/* The slot's sandbox has ended. true: its slot's files are gone; false: slot_scratch_gone() will be called. */
bool scratch_release(struct launcher *launcher, uint32_t slot);

/* How long the loop may sleep; -1: until something happens. Then: drops what nobody will need. */
int scratch_sleep_ms(const struct launcher *launcher);
void scratch_tick(struct launcher *launcher);

/* A keeper has spoken, or ended. */
void scratch_readable(struct launcher *launcher, uint32_t keeper);
/* A process was reaped: whether it was a keeper. */
bool scratch_reaped(struct launcher *launcher, pid_t pid);

#endif
