/* cgroup version 1: one hierarchy per controller (or a few together). Groups are reused, since making one in each hierarchy costs
 * more than resetting its counters. */
#include <errno.h>
#include <stdio.h>

#include "cgroup.h"
#include "protocol.h"

enum {
    SHARES_PER_CPU = 1024,
    SOCKETS_MB_MIN = 16,
    SOCKETS_SHARE = 8, /* of the memory */
    RESIDUE_BYTES = 4 << 20
};

static int write_number(struct cgroups *groups, const struct cgroup_hierarchy *hierarchy, uint32_t slot, const char *file,
                        uint64_t number) {
    char text[24];
    snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    return cgroup_write(groups, hierarchy, slot, file, text);
}

static int write_both(struct cgroups *groups, const struct cgroup_hierarchy *memory, uint32_t slot, const char *text) {
    /* memory.memsw must never be below memory, so the order depends on the direction; try both. */
    const int swap_first = cgroup_write(groups, memory, slot, "memory.memsw.limit_in_bytes", text);
    const int error = cgroup_write(groups, memory, slot, "memory.limit_in_bytes", text);
    if (error < 0 || swap_first == 0 || swap_first == -ENOENT || swap_first == -EACCES) {
        return error; /* no swap accounting in this kernel */
    }
    return cgroup_write(groups, memory, slot, "memory.memsw.limit_in_bytes", text);
}

static int prepare(struct cgroups *groups, uint32_t slot) {
    for (unsigned i = 0; i < groups->count; i++) {
        const int error = cgroup_make(&groups->hierarchies[i], slot);
        if (error < 0) {
            return error;
        }
    }
    const struct cgroup_hierarchy *memory = cgroup_with(groups, FLAG_MEMORY);
    if (memory != NULL) {
        int error = write_both(groups, memory, slot, "-1");
        if (error < 0) {
            return error;
        }
        /* Page cache of the last occupant would count as the next one's peak. */
        if (cgroup_read_number(memory, slot, "memory.usage_in_bytes") > RESIDUE_BYTES) {
            error = cgroup_write(groups, memory, slot, "memory.force_empty", "0");
            if (error < 0 && error != -EBUSY) {
                return error;
            }
        }
        error = cgroup_write(groups, memory, slot, "memory.max_usage_in_bytes", "0");
        if (error < 0) {
            return error;
        }
    }
    const struct cgroup_hierarchy *pids = cgroup_with(groups, FLAG_PIDS);
    if (pids != NULL) { /* 0 where the last occupant had to be stopped from forking */
        const int error = cgroup_write(groups, pids, slot, "pids.max", "max");
        if (error < 0) {
            return error;
        }
    }
    const struct cgroup_hierarchy *cpu = cgroup_with(groups, FLAG_CPU);
    if (cpu != NULL) { /* a shell must not be born at the pace of the last occupant */
        const int error = cgroup_write(groups, cpu, slot, "cpu.cfs_quota_us", "-1");
        if (error < 0 && error != -ENOENT) {
            return error;
        }
    }
    const struct cgroup_hierarchy *time = cgroup_with(groups, FLAG_CPU_TIME);
    return time == NULL ? 0 : cgroup_write(groups, time, slot, "cpuacct.usage", "0");
}

static int limit(struct cgroups *groups, uint32_t slot, const struct cgroup_limits *limits) {
    const struct cgroup_hierarchy *memory = cgroup_with(groups, FLAG_MEMORY);
    const struct cgroup_hierarchy *pids = cgroup_with(groups, FLAG_PIDS);
    const struct cgroup_hierarchy *cpu = cgroup_with(groups, FLAG_CPU);
    int error = 0;
    if (memory != NULL) {
        char text[24];
        snprintf(text, sizeof text, "%llu", (unsigned long long)limits->memory_mb << 20);
        error = write_both(groups, memory, slot, text);
        if (error == 0) { /* Else buffers of sockets count for nobody, and one sandbox could take all that the machine has for TCP. */
            const uint32_t share_mb = limits->memory_mb / SOCKETS_SHARE;
            error = write_number(groups, memory, slot, "memory.kmem.tcp.limit_in_bytes",
                                 (uint64_t)(share_mb < SOCKETS_MB_MIN ? SOCKETS_MB_MIN : share_mb) << 20);
            error = error == -ENOENT || error == -EOPNOTSUPP ? 0 : error; /* newer kernels take it away, older ones lack it */
        }
    }
    if (error == 0 && pids != NULL) {
        error = write_number(groups, pids, slot, "pids.max", limits->pids_max);
    }
    if (error == 0 && cpu != NULL) {
        const uint64_t shares = (uint64_t)limits->memory_mb * SHARES_PER_CPU / CGROUP_MEMORY_MB_PER_CPU;
        error = write_number(groups, cpu, slot, "cpu.shares", shares < 2 ? 2 : shares);
    }
    return error;
}

/* What may be saved up must never be above the quota, so it is taken away first. */
static int quota(struct cgroups *groups, uint32_t slot, const struct cgroup_quota *quota) {
    const struct cgroup_hierarchy *cpu = cgroup_with(groups, FLAG_CPU);
    (void)write_number(groups, cpu, slot, "cpu.cfs_burst_us", 0); /* a kernel before 5.14 has no such file */
    int error = write_number(groups, cpu, slot, "cpu.cfs_period_us", quota->period_us);
    if (error == 0) {
        error = write_number(groups, cpu, slot, "cpu.cfs_quota_us", quota->quota_us);
    }
    (void)write_number(groups, cpu, slot, "cpu.cfs_burst_us", quota->quota_us);
    return error;
}

static uint64_t cpu_ns(struct cgroups *groups, uint32_t slot) {
    return cgroup_read_number(cgroup_with(groups, FLAG_CPU_TIME), slot, "cpuacct.usage");
}

static uint64_t oom_kills(struct cgroups *groups, uint32_t slot) {
    return cgroup_read_key(cgroup_with(groups, FLAG_MEMORY), slot, "memory.oom_control", "oom_kill");
}

const struct cgroup_driver cgroup_v1 = {
    .procs = "tasks",
    .cpu_time = "cpuacct.usage",
    .memory_peak = "memory.max_usage_in_bytes",
    .prepare = prepare,
    .limit = limit,
    .quota = quota,
    .cpu_ns = cpu_ns,
    .oom_kills = oom_kills,
};
