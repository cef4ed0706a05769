/* cgroup.h: one control group per sandbox slot, version 1 and 2 behind one table of functions.
 *
 * Layout, below the group the launcher itself is in (or a configured root):
 *
 *     scheduler-<pid>-<start time>-<pid namespace>/     one launcher; the name tells whether it still lives
 *         s0000, s0001, ...                             one per slot, made ahead, entered at birth, reused, removed at the end
 *
 * Version 1 has that tree once per hierarchy, version 2 once. A machine that splits controllers between both is served by the version
 * that has more of the needed ones; what is missing is reported, never ignored in silence.
 */
#ifndef LAUNCHER_CGROUP_H
#define LAUNCHER_CGROUP_H

#include <stdbool.h>
#include <stdint.h>

enum { CGROUP_PATH_BYTES = 512, CGROUP_HIERARCHIES_MAX = 4, CGROUP_NAME_BYTES = 80 };

struct cgroups;

struct cgroup_limits {
    uint32_t memory_mb;
    uint32_t pids_max;
};

/* CPU as Lambda gives it: in proportion to memory, one vCPU at 1,769 MB. Until its function is loaded a sandbox has one at
 * least: an init that ran at 7 % of a CPU would make cold starts slow.
 *
 * A period is short, so that a sandbox that has used its share up stops for milliseconds, not tenths of a second. The kernel takes
 * no quota below 1 ms, which is what sets the longer period of small functions. As much again may be saved up in times of less
 * work: without that a single busy thread with exactly one CPU lost up to 8 % of it, since the kernel hands time out in slices of 5 ms
 * and what a thread leaves behind on one CPU when it moves to another was lost at the end of the period (measured). */
enum { CGROUP_PERIOD_US = 10000, CGROUP_LONG_PERIOD_US = 20000, CGROUP_QUOTA_US_MIN = 1000, CGROUP_MEMORY_MB_PER_CPU = 1769 };

struct cgroup_quota {
    uint32_t quota_us, period_us;
};

static inline struct cgroup_quota cgroup_share(uint32_t memory_mb) {
    const uint64_t share_us = (uint64_t)memory_mb * CGROUP_PERIOD_US / CGROUP_MEMORY_MB_PER_CPU;
    const uint64_t period_us = share_us < CGROUP_QUOTA_US_MIN ? CGROUP_LONG_PERIOD_US : CGROUP_PERIOD_US;
    const uint64_t quota_us = (uint64_t)memory_mb * period_us / CGROUP_MEMORY_MB_PER_CPU;
    return (struct cgroup_quota){.quota_us = quota_us < CGROUP_QUOTA_US_MIN ? CGROUP_QUOTA_US_MIN : (uint32_t)quota_us,
                                 .period_us = (uint32_t)period_us};
}

/* Of a sandbox whose function is being loaded. */
static inline struct cgroup_quota cgroup_share_at_start(uint32_t memory_mb) {
    struct cgroup_quota quota = cgroup_share(memory_mb);
    quota.quota_us = quota.quota_us < quota.period_us ? quota.period_us : quota.quota_us;
    return quota;
}

struct cgroup_hierarchy {
    char instance[CGROUP_PATH_BYTES]; /* <base>/scheduler-... */
    unsigned controllers;             /* FLAG_* of protocol.h */
};

/* Every function takes a slot whose group exists unless it says otherwise; int results are 0 or -errno. */
struct cgroup_driver {
    const char *procs;                /* the file a process enters by */
    const char *cpu_time, *memory_peak; /* files to hand out, read from offset 0 */
    int (*prepare)(struct cgroups *, uint32_t slot);  /* fresh counters, no memory limit, no quota; makes the group if need be */
    int (*limit)(struct cgroups *, uint32_t slot, const struct cgroup_limits *);
    int (*quota)(struct cgroups *, uint32_t slot, const struct cgroup_quota *);
    uint64_t (*cpu_ns)(struct cgroups *, uint32_t slot);
    uint64_t (*oom_kills)(struct cgroups *, uint32_t slot);
};

struct cgroups {
    const struct cgroup_driver *driver;
    struct cgroup_hierarchy hierarchies[CGROUP_HIERARCHIES_MAX];
    unsigned count;                   /* 0: no groups at all */
    unsigned controllers;             /* union of the hierarchies' */
    unsigned version;                 /* 1, 2 or 0 */
    bool into;                        /* clone may be born inside (version 2, real cgroup file system) */
    bool plain;                       /* the configured root is a tree of plain files, as tests use it */
    char name[CGROUP_NAME_BYTES];
    char why_not[160];                /* when a controller is missing: the reason, for a person */
    struct cgroup_hierarchy freezer;  /* version 1, with FLAG_FREEZE; not among the others: it is entered late */
    int inotify;                      /* cgroup_events.c: version 2, or -1 */
    int *marks;                       /* of each slot: its eventfd (version 1) or watch (version 2), or -1 */
    uint32_t marks_count;             /* 0: nobody hears */
};

/* Finds the hierarchies, removes what dead launchers left, makes this launcher's directory. root: a cgroup v2 directory to use
 * instead of detection, or NULL. supervised: pids that may be moved into a leaf so that version 2 lets controllers be
 * enabled (the service and this process). Never fails: with no usable group `count` is 0 and why_not says why. */
void cgroups_open(struct cgroups *groups, const char *root, const int *supervised, unsigned supervised_count);

/* Kills what is left in this launcher's groups and removes them. Groups that stay busy for 2 s stay. */
void cgroups_close(struct cgroups *groups);

int cgroup_prepare(struct cgroups *groups, uint32_t slot);
/* Memory, processes and the weight of its CPU. */
int cgroup_limit(struct cgroups *groups, uint32_t slot, const struct cgroup_limits *limits);
/* A kernel without quotas, or a group above that allows less, is no error. */
int cgroup_quota(struct cgroups *groups, uint32_t slot, struct cgroup_quota quota);

/* Opens what the newborn needs to enter: one file per hierarchy, or (groups->into) one directory. Count or -errno. */
int cgroup_open_entries(struct cgroups *groups, uint32_t slot, int *fds, unsigned max);

/* Read-only descriptors to hand out; -1 where there is no such figure. */
int cgroup_open_cpu_time(struct cgroups *groups, uint32_t slot);
int cgroup_open_memory_peak(struct cgroups *groups, uint32_t slot);

uint64_t cgroup_cpu_ns(struct cgroups *groups, uint32_t slot);
uint64_t cgroup_memory_peak(struct cgroups *groups, uint32_t slot);
uint64_t cgroup_oom_kills(struct cgroups *groups, uint32_t slot);

/* ---- cgroup_events.c: a group ran out of memory ---- */

/* 0 or -errno; without it nobody hears. */
int cgroup_events_open(struct cgroups *groups, uint32_t slots);
/* Of a slot just prepared; what was before is forgotten. Version 1, the first time: a descriptor that becomes readable, to be
 * waited on with the slot and never closed. Else -1. */
int cgroup_events_watch(struct cgroups *groups, uint32_t slot);
/* Version 1: the slot's descriptor was readable. */
bool cgroup_events_take(struct cgroups *groups, uint32_t slot);
/* Version 2: slots whose memory.events has changed, for whatever reason; at most max. */
unsigned cgroup_events_read(struct cgroups *groups, uint32_t *slots, unsigned max);

/* ---- cgroup_freeze.c ---- */

/* Makes the slot's sandbox one that can be frozen, and opens what freezes it: descriptor or -errno. init: pid of its process 1. */
int cgroup_freezer(struct cgroups *groups, uint32_t slot, int init);
/* 0 or -errno. freezer: of cgroup_freezer(). */
int cgroup_set_frozen(const struct cgroups *groups, int freezer, bool frozen);
/* All of this launcher's that are frozen and could not be killed otherwise. */
void cgroups_thaw(const struct cgroups *groups);

/* No process is in it. */
bool cgroup_empty(struct cgroups *groups, uint32_t slot);
/* SIGKILL to all that is in it: the net under the pid namespace, and the only way where there is none. */
void cgroup_kill(struct cgroups *groups, uint32_t slot);

/* Whether a directory's name is one of a launcher of this pid namespace that lives no more. */
bool cgroup_name_is_dead(const char *name);

/* ---- for the drivers and cgroup_find.c ---- */

/* Bytes read, or -errno. Terminates. */
int cgroup_read_file(const char *path, char *text, unsigned bytes);
/* plain: of a tree of plain files, where a file is made by writing it. */
int cgroup_write_file(const char *path, const char *text, bool plain);
void cgroup_own_name(char *name);
/* Removes below base what launchers left that live no more. */
void cgroup_sweep(const char *base, bool plain);

extern const struct cgroup_driver cgroup_v1, cgroup_v2;

/* The hierarchy that has the controller, or NULL. */
struct cgroup_hierarchy *cgroup_with(struct cgroups *groups, unsigned controller);
int cgroup_path(char *out, const struct cgroup_hierarchy *hierarchy, uint32_t slot, const char *file);
int cgroup_write(struct cgroups *groups, const struct cgroup_hierarchy *hierarchy, uint32_t slot, const char *file,
                 const char *text);
/* Bytes read, or -errno. Terminates. */
int cgroup_read(const struct cgroup_hierarchy *hierarchy, uint32_t slot, const char *file, char *text, unsigned bytes);
uint64_t cgroup_read_number(const struct cgroup_hierarchy *hierarchy, uint32_t slot, const char *file);
/* The number after `key` and a blank in a file of such lines, or 0. */
uint64_t cgroup_read_key(const struct cgroup_hierarchy *hierarchy, uint32_t slot, const char *file, const char *key);
int cgroup_make(const struct cgroup_hierarchy *hierarchy, uint32_t slot);

#endif
