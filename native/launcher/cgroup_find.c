/* Finding the hierarchies: which version serves here, where this launcher may make groups, which controllers it has there. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "cgroup.h"
#include "protocol.h"
#include "wire.h"

enum { MOUNTINFO_BYTES = 1 << 18 };

static const char SUPERVISOR[] = "scheduler-supervisor";
static const unsigned long CGROUP2_MAGIC = 0x63677270;

static const struct {
    const char *v1, *v2; /* v2 NULL: always there */
    unsigned flag;
} controllers[] = {
    {"memory", "memory", FLAG_MEMORY},
    {"pids", "pids", FLAG_PIDS},
    {"cpu", "cpu", FLAG_CPU},
    {"cpuacct", NULL, FLAG_CPU_TIME},
};

enum { CONTROLLERS = sizeof controllers / sizeof *controllers };

struct mount {
    char root[CGROUP_PATH_BYTES], point[CGROUP_PATH_BYTES], options[256];
    bool version2;
};

/* The next cgroup mount of a mountinfo text; moves *at past it. */
static bool next_mount(const char **at, struct mount *mount) {
    while (*at != NULL && **at != '\0') {
        const char *line = *at;
        const char *end = strchr(line, '\n');
        *at = end == NULL ? NULL : end + 1;
        char type[32];
        const char *dash = strstr(line, " - ");
        if (dash == NULL || (end != NULL && dash > end) ||
            sscanf(line, "%*d %*d %*s %511s %511s", mount->root, mount->point) != 2 ||
            sscanf(dash + 3, "%31s %*s %255s", type, mount->options) != 2) {
            continue;
        }
        mount->version2 = strcmp(type, "cgroup2") == 0;
        if (mount->version2 || strcmp(type, "cgroup") == 0) {
            return true;
        }
    }
    return false;
}

static bool has_word(const char *list, const char *word) {
    const size_t length = strlen(word);
    for (const char *at = list; (at = strstr(at, word)) != NULL; at += length) {
        const char after = at[length];
        if ((at == list || at[-1] == ',' || at[-1] == ' ') && (after == '\0' || after == ',' || after == ' ' || after == '\n')) {
            return true;
        }
    }
    return false;
}

/* This process' path in the hierarchy of a version 1 controller, or (controller NULL) of version 2. */
static void own_path(const char *controller, char *path) {
    char text[4096];
    wire_text(path, CGROUP_PATH_BYTES, "/");
    if (cgroup_read_file("/proc/self/cgroup", text, sizeof text) < 0) {
        return;
    }
    for (char *line = text; line != NULL && *line != '\0';) {
        char *end = strchr(line, '\n');
        if (end != NULL) {
            *end = '\0';
        }
        char *names = strchr(line, ':');
        char *where = names == NULL ? NULL : strchr(names + 1, ':');
        if (where != NULL) {
            *where = '\0';
            if (controller == NULL ? names[1] == '\0' : has_word(names + 1, controller)) {
                wire_text(path, CGROUP_PATH_BYTES, where + 1);
                return;
            }
        }
        line = end == NULL ? NULL : end + 1;
    }
}

/* Where that path lies in the file system; the mount's own point if it cannot be seen from here (a container). */
static void own_directory(const struct mount *mount, const char *controller, char *directory) {
    char path[CGROUP_PATH_BYTES];
    own_path(controller, path);
    const char *below = path;
    const size_t root_length = strcmp(mount->root, "/") == 0 ? 0 : strlen(mount->root);
    if (strncmp(path, mount->root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == '\0')) {
        below = path + root_length;
    }
    const int length = snprintf(directory, CGROUP_PATH_BYTES, "%s%s", mount->point, strcmp(below, "/") == 0 ? "" : below);
    if (length < 0 || length >= CGROUP_PATH_BYTES || access(directory, F_OK) < 0) {
        wire_text(directory, CGROUP_PATH_BYTES, mount->point);
    }
}

/* Adds a hierarchy if this launcher's directory can be made below base. */
static int add_hierarchy(struct cgroups *groups, const char *base, unsigned flags) {
    if (groups->count == CGROUP_HIERARCHIES_MAX) {
        return -ENOSPC;
    }
    struct cgroup_hierarchy *hierarchy = &groups->hierarchies[groups->count];
    const int length = snprintf(hierarchy->instance, CGROUP_PATH_BYTES, "%s/%s", base, groups->name);
    if (length < 0 || length >= CGROUP_PATH_BYTES) {
        return -ENAMETOOLONG;
    }
    cgroup_sweep(base, groups->plain);
    if (mkdir(hierarchy->instance, 0755) < 0 && errno != EEXIST) {
        return -errno;
    }
    hierarchy->controllers = flags;
    groups->controllers |= flags;
    groups->count++;
    return 0;
}

/* The hierarchy that freezes, where there is one: made for those who ask for it, and missed by nobody else. */
static void add_freezer(struct cgroups *groups, const struct mount *mount) {
    char base[CGROUP_PATH_BYTES];
    own_directory(mount, "freezer", base);
    const int length = snprintf(groups->freezer.instance, CGROUP_PATH_BYTES, "%s/%s", base, groups->name);
    if (length < 0 || length >= CGROUP_PATH_BYTES) {
        return;
    }
    cgroup_sweep(base, groups->plain);
    if (mkdir(groups->freezer.instance, 0755) == 0 || errno == EEXIST) {
        groups->controllers |= FLAG_FREEZE;
    }
}

static void explain(struct cgroups *groups, const char *what, const char *where, int error) {
    snprintf(groups->why_not, sizeof groups->why_not, "%s %.80s: %s", what, where, strerror(-error));
}

static void open_v1(struct cgroups *groups, const char *mountinfo) {
    struct mount mount;
    for (const char *at = mountinfo; next_mount(&at, &mount);) {
        unsigned flags = 0;
        const char *first = NULL;
        for (unsigned i = 0; i < CONTROLLERS; i++) {
            if (!mount.version2 && has_word(mount.options, controllers[i].v1) &&
                (groups->controllers & controllers[i].flag) == 0) {
                flags |= controllers[i].flag;
                first = controllers[i].v1;
            }
        }
        if (first != NULL) {
            char base[CGROUP_PATH_BYTES];
            own_directory(&mount, first, base);
            const int error = add_hierarchy(groups, base, flags);
            if (error < 0) {
                explain(groups, "cannot make a group in", base, error);
            }
        }
        if (!mount.version2 && has_word(mount.options, "freezer") && (groups->controllers & FLAG_FREEZE) == 0) {
            add_freezer(groups, &mount);
        }
    }
    if (groups->count == 0 && (groups->controllers & FLAG_FREEZE) != 0) {
        (void)rmdir(groups->freezer.instance);
        groups->controllers = 0;
    }
    groups->driver = &cgroup_v1;
    groups->version = groups->count > 0 ? 1 : 0;
}

/* What version 2 offers in a directory. */
static unsigned offered(const char *directory) {
    char path[CGROUP_PATH_BYTES + 64], text[512];
    unsigned flags = 0;
    if ((unsigned)snprintf(path, sizeof path, "%s/cgroup.controllers", directory) >= sizeof path ||
        cgroup_read_file(path, text, sizeof text) < 0) {
        return 0;
    }
    for (unsigned i = 0; i < CONTROLLERS; i++) {
        if (controllers[i].v2 != NULL && has_word(text, controllers[i].v2)) {
            flags |= controllers[i].flag;
        }
    }
    return flags;
}

/* Hands the offered controllers on to the groups below. */
static int enable(const char *directory, unsigned flags, bool plain) {
    char path[CGROUP_PATH_BYTES + 64], text[128] = "";
    if ((unsigned)snprintf(path, sizeof path, "%s/cgroup.subtree_control", directory) >= sizeof path) {
        return -ENAMETOOLONG;
    }
    for (unsigned i = 0; i < CONTROLLERS; i++) {
        if (controllers[i].v2 != NULL && (flags & controllers[i].flag) != 0) {
            const size_t held = strlen(text);
            snprintf(text + held, sizeof text - held, "%s+%s", held == 0 ? "" : " ", controllers[i].v2);
        }
    }
    return text[0] == '\0' ? 0 : cgroup_write_file(path, text, plain);
}

/* Version 2 lets a group with processes of its own have no controllers below. If all of them are ours, they move into a leaf. */
static int move_supervised(const char *base, const int *supervised, unsigned count) {
    char path[CGROUP_PATH_BYTES + 128], text[4096];
    if ((unsigned)snprintf(path, sizeof path, "%s/cgroup.procs", base) >= sizeof path || cgroup_read_file(path, text, sizeof text) < 0) {
        return -EIO;
    }
    for (char *at = text, *end; *at != '\0'; at = *end == '\0' ? end : end + 1) {
        const long pid = strtol(at, &end, 10);
        bool ours = false;
        for (unsigned i = 0; i < count; i++) {
            ours = ours || supervised[i] == pid;
        }
        if (end == at || !ours) {
            return -EBUSY;
        }
    }
    if ((unsigned)snprintf(path, sizeof path, "%s/%s", base, SUPERVISOR) >= sizeof path ||
        (mkdir(path, 0755) < 0 && errno != EEXIST)) {
        return -errno;
    }
    if ((unsigned)snprintf(path, sizeof path, "%s/%s/cgroup.procs", base, SUPERVISOR) >= sizeof path) {
        return -ENAMETOOLONG;
    }
    for (unsigned i = 0; i < count; i++) {
        char number[16];
        snprintf(number, sizeof number, "%d", supervised[i]);
        const int error = cgroup_write_file(path, number, false);
        if (error < 0) {
            return error;
        }
    }
    return 0;
}

/* 0 if this base serves; else groups is as before. */
static int try_v2(struct cgroups *groups, const char *base, const int *supervised, unsigned supervised_count) {
    const unsigned flags = offered(base);
    int error = enable(base, flags, groups->plain);
    if (error == -EBUSY && supervised_count > 0) {
        error = move_supervised(base, supervised, supervised_count);
        if (error == 0) {
            error = enable(base, flags, groups->plain);
        }
    }
    if (error == 0) {
        error = add_hierarchy(groups, base, flags | FLAG_CPU_TIME | FLAG_FREEZE);
    }
    if (error == 0) {
        error = enable(groups->hierarchies[0].instance, flags, groups->plain);
        if (error < 0) {
            cgroups_close(groups);
            groups->controllers = 0;
        }
    }
    if (error < 0) {
        explain(groups, "cannot make groups in", base, error);
        return error;
    }
    groups->driver = &cgroup_v2;
    groups->version = 2;
    return 0;
}

static bool is_cgroup2(const char *path) {
    struct statfs status;
    return statfs(path, &status) == 0 && (unsigned long)status.f_type == CGROUP2_MAGIC;
}

static void open_v2(struct cgroups *groups, const struct mount *mount, const int *supervised, unsigned supervised_count) {
    char base[CGROUP_PATH_BYTES];
    own_directory(mount, NULL, base);
    const size_t length = strlen(base), tail = strlen(SUPERVISOR);
    if (length > tail && strcmp(base + length - tail, SUPERVISOR) == 0) { /* moved there by an earlier start */
        base[length - tail - 1] = '\0';
    }
    groups->into = true;
    if (try_v2(groups, base, supervised, supervised_count) == 0) {
        return;
    }
    if (snprintf(base, sizeof base, "%.400s/scheduler", mount->point) > 0 && enable(mount->point, offered(mount->point), false) == 0 &&
        (mkdir(base, 0755) == 0 || errno == EEXIST)) {
        try_v2(groups, base, NULL, 0);
    }
}

/* All sandboxes together weigh as much as one busy process on each CPU: beside the service's one reactor thread that is half,
 * not 1 in n + 1. How they share it among themselves is the slots' own weights. */
static void weigh_instance(struct cgroups *groups) {
    const struct cgroup_hierarchy *cpu = cgroup_with(groups, FLAG_CPU);
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    char path[CGROUP_PATH_BYTES + 64], text[24];
    const long unit = groups->version == 2 ? 100 : 1024, most = groups->version == 2 ? 10000 : 262144;
    const long weight = unit * (processors < 1 ? 1 : processors);
    if (cpu != NULL && (unsigned)snprintf(path, sizeof path, "%s/%s", cpu->instance,
                                          groups->version == 2 ? "cpu.weight" : "cpu.shares") < sizeof path) {
        snprintf(text, sizeof text, "%ld", weight < most ? weight : most);
        (void)cgroup_write_file(path, text, groups->plain); /* a preference, not a promise */
    }
}

static uint64_t kernel_number(const char *path) {
    char text[32];
    return cgroup_read_file(path, text, sizeof text) < 0 ? 0 : strtoull(text, NULL, 10);
}

/* A fork bomb in each of a few dozen sandboxes would take every pid of the machine: a quarter stays with the others. */
static void bound_instance(struct cgroups *groups) {
    const struct cgroup_hierarchy *pids = cgroup_with(groups, FLAG_PIDS);
    const uint64_t numbers = kernel_number("/proc/sys/kernel/pid_max"), threads = kernel_number("/proc/sys/kernel/threads-max");
    const uint64_t machine = numbers < threads ? numbers : threads;
    char path[CGROUP_PATH_BYTES + 64], text[24];
    if (pids != NULL && machine > 0 && (unsigned)snprintf(path, sizeof path, "%s/pids.max", pids->instance) < sizeof path) {
        snprintf(text, sizeof text, "%llu", (unsigned long long)(machine - machine / 4));
        (void)cgroup_write_file(path, text, groups->plain); /* each sandbox has its own bound anyway */
    }
}

static void find_hierarchies(struct cgroups *groups, const char *root, const int *supervised,
                             unsigned supervised_count) {
    if (root != NULL) {
        groups->into = is_cgroup2(root);
        groups->plain = !groups->into;
        try_v2(groups, root, NULL, 0);
        return;
    }
    char *mountinfo = malloc(MOUNTINFO_BYTES);
    if (mountinfo == NULL || cgroup_read_file("/proc/self/mountinfo", mountinfo, MOUNTINFO_BYTES) < 0) {
        wire_text(groups->why_not, sizeof groups->why_not, "cannot read /proc/self/mountinfo");
        free(mountinfo);
        return;
    }
    struct mount mount, unified;
    bool v1_memory = false, v2 = false;
    for (const char *at = mountinfo; next_mount(&at, &mount);) {
        v1_memory = v1_memory || (!mount.version2 && has_word(mount.options, "memory"));
        if (mount.version2 && !v2) {
            unified = mount;
            v2 = true;
        }
    }
    if (v1_memory) {
        open_v1(groups, mountinfo);
    } else if (v2) {
        open_v2(groups, &unified, supervised, supervised_count);
    } else {
        wire_text(groups->why_not, sizeof groups->why_not, "no control group file system is mounted");
    }
    free(mountinfo);
}

void cgroups_open(struct cgroups *groups, const char *root, const int *supervised, unsigned supervised_count) {
    memset(groups, 0, sizeof *groups);
    cgroup_own_name(groups->name);
    find_hierarchies(groups, root, supervised, supervised_count);
    weigh_instance(groups);
    bound_instance(groups);
}
