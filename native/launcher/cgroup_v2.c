/* cgroup version 2: one hierarchy. A group is made anew for each sandbox: memory.peak and cpu.stat cannot be reset in older kernels, and
 * one mkdir is cheap. */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "cgroup.h"
#include "protocol.h"

enum { WEIGHT_PER_CPU = 100, WEIGHT_MAX = 10000 };

static int prepare(struct cgroups *groups, uint32_t slot) {
    char path[CGROUP_PATH_BYTES + 64];
    const struct cgroup_hierarchy *hierarchy = &groups->hierarchies[0];
    int error = cgroup_path(path, hierarchy, slot, NULL);
    if (error < 0) {
        return error;
    }
    if (!groups->plain && rmdir(path) < 0 && errno != ENOENT) {
        return -errno;
    }
    return cgroup_make(hierarchy, slot);
}

static int optional(int error) {
    return error == -ENOENT ? 0 : error;
}

static int limit(struct cgroups *groups, uint32_t slot, const struct cgroup_limits *limits) {
    const struct cgroup_hierarchy *hierarchy = &groups->hierarchies[0];
    char text[48];
    int error = 0;
    if ((groups->controllers & FLAG_MEMORY) != 0) {
        snprintf(text, sizeof text, "%llu", (unsigned long long)limits->memory_mb << 20);
        error = cgroup_write(groups, hierarchy, slot, "memory.max", text);
        if (error == 0) {
            error = optional(cgroup_write(groups, hierarchy, slot, "memory.swap.max", "0"));
        }
        if (error == 0) { /* the sandbox dies as a whole */
            error = optional(cgroup_write(groups, hierarchy, slot, "memory.oom.group", "1"));
        }
    }
    if (error == 0 && (groups->controllers & FLAG_PIDS) != 0) {
        snprintf(text, sizeof text, "%u", limits->pids_max);
        error = cgroup_write(groups, hierarchy, slot, "pids.max", text);
    }
    if (error == 0 && (groups->controllers & FLAG_CPU) != 0) {
        const uint64_t share = (uint64_t)limits->memory_mb * WEIGHT_PER_CPU / CGROUP_MEMORY_MB_PER_CPU;
        const unsigned weight = share < 1 ? 1 : share > WEIGHT_MAX ? WEIGHT_MAX : (unsigned)share;
        snprintf(text, sizeof text, "%u", weight);
        error = cgroup_write(groups, hierarchy, slot, "cpu.weight", text);
    }
    return error;
}

/* What may be saved up must never be above the quota, so it is taken away first. */
static int quota(struct cgroups *groups, uint32_t slot, const struct cgroup_quota *quota) {
    const struct cgroup_hierarchy *hierarchy = &groups->hierarchies[0];
    char text[48];
    (void)cgroup_write(groups, hierarchy, slot, "cpu.max.burst", "0"); /* a kernel before 5.14 has no such file */
    snprintf(text, sizeof text, "%u %u", quota->quota_us, quota->period_us);
    const int error = cgroup_write(groups, hierarchy, slot, "cpu.max", text);
    snprintf(text, sizeof text, "%u", quota->quota_us);
    (void)cgroup_write(groups, hierarchy, slot, "cpu.max.burst", text);
    return error;
}

static uint64_t cpu_ns(struct cgroups *groups, uint32_t slot) {
    return 1000 * cgroup_read_key(&groups->hierarchies[0], slot, "cpu.stat", "usage_usec");
}

static uint64_t oom_kills(struct cgroups *groups, uint32_t slot) {
    return cgroup_read_key(&groups->hierarchies[0], slot, "memory.events", "oom_kill");
}

const struct cgroup_driver cgroup_v2 = {
    .procs = "cgroup.procs",
    .cpu_time = "cpu.stat",
    .memory_peak = "memory.peak",
    .prepare = prepare,
    .limit = limit,
    .quota = quota,
    .cpu_ns = cpu_ns,
    .oom_kills = oom_kills,
};
