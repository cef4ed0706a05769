#include "cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "protocol.h"
#include "wire.h"

enum { FILE_BYTES = 65536, REMOVE_TRIES = 2000, NAMES_MAX = 64 };

static const char PREFIX[] = "scheduler-";
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

/* ---- files ---- */

static int read_file(const char *path, char *text, unsigned bytes) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    unsigned held = 0;
    ssize_t got = 0;
    while (held + 1 < bytes && (got = read(fd, text + held, bytes - 1 - held)) > 0) {
        held += (unsigned)got;
    }
    const int error = got < 0 ? -errno : 0;
    close(fd);
    text[held] = '\0';
    return error < 0 ? error : (int)held;
}

static int write_file(const char *path, const char *text, bool plain) {
    const int fd = open(path, O_WRONLY | O_CLOEXEC | (plain ? O_CREAT | O_TRUNC : 0), 0644);
    if (fd < 0) {
        return -errno;
    }
    const int error = write(fd, text, strlen(text)) < 0 ? -errno : 0;
    close(fd);
    return error;
}

int cgroup_path(char *out, const struct cgroup_hierarchy *hierarchy, uint32_t slot, const char *file) {
    const int length = file == NULL ? snprintf(out, CGROUP_PATH_BYTES + 64, "%s/s%04u", hierarchy->instance, slot)
                                    : snprintf(out, CGROUP_PATH_BYTES + 64, "%s/s%04u/%s", hierarchy->instance, slot, file);
    return length < 0 || length >= CGROUP_PATH_BYTES + 64 ? -ENAMETOOLONG : 0;
}

int cgroup_write(struct cgroups *groups, const struct cgroup_hierarchy *hierarchy, uint32_t slot, const char *file,
                 const char *text) {
    char path[CGROUP_PATH_BYTES + 64];
    const int error = cgroup_path(path, hierarchy, slot, file);
    return error < 0 ? error : write_file(path, text, groups->plain);
}

int cgroup_read(const struct cgroup_hierarchy *hierarchy, uint32_t slot, const char *file, char *text, unsigned bytes) {
    char path[CGROUP_PATH_BYTES + 64];
    const int error = cgroup_path(path, hierarchy, slot, file);
    return error < 0 ? error : read_file(path, text, bytes);
}

uint64_t cgroup_read_number(const struct cgroup_hierarchy *hierarchy, uint32_t slot, const char *file) {
    char text[32];
    return hierarchy == NULL || cgroup_read(hierarchy, slot, file, text, sizeof text) < 0 ? 0 : strtoull(text, NULL, 10);
}

uint64_t cgroup_read_key(const struct cgroup_hierarchy *hierarchy, uint32_t slot, const char *file, const char *key) {
    char text[2048];
    if (hierarchy == NULL || cgroup_read(hierarchy, slot, file, text, sizeof text) < 0) {
        return 0;
    }
    const size_t length = strlen(key);
    for (const char *line = text; line != NULL && *line != '\0';) {
        if (strncmp(line, key, length) == 0 && line[length] == ' ') {
            return strtoull(line + length + 1, NULL, 10);
        }
        line = strchr(line, '\n');
        line = line == NULL ? NULL : line + 1;
    }
    return 0;
}

int cgroup_make(const struct cgroup_hierarchy *hierarchy, uint32_t slot) {
    char path[CGROUP_PATH_BYTES + 64];
    const int error = cgroup_path(path, hierarchy, slot, NULL);
    return error < 0 ? error : mkdir(path, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

struct cgroup_hierarchy *cgroup_with(struct cgroups *groups, unsigned controller) {
    for (unsigned i = 0; i < groups->count; i++) {
        if ((groups->hierarchies[i].controllers & controller) != 0) {
            return &groups->hierarchies[i];
        }
    }
    return NULL;
}

/* ---- names of launchers, alive and dead ---- */

/* Field 22 of /proc/<pid>/stat: a pid that was used again has another. 0: no such process, or a dead one not yet reaped. */
static uint64_t start_time(long pid) {
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    if (read_file(path, text, sizeof text) < 0) {
        return 0;
    }
    const char *at = strrchr(text, ')'); /* the name before it may hold anything */
    if (at == NULL || strncmp(at, ") Z", 3) == 0 || strncmp(at, ") X", 3) == 0) {
        return 0;
    }
    for (unsigned field = 2; at != NULL && field < 22; field++) {
        at = strchr(at + 1, ' ');
    }
    return at == NULL ? 0 : strtoull(at + 1, NULL, 10);
}

static uint64_t pid_namespace(void) {
    struct stat status;
    return stat("/proc/self/ns/pid", &status) < 0 ? 0 : (uint64_t)status.st_ino;
}

static void own_name(char *name) {
    snprintf(name, CGROUP_NAME_BYTES, "%s%ld-%llu-%llu", PREFIX, (long)getpid(), (unsigned long long)start_time(getpid()),
             (unsigned long long)pid_namespace());
}

bool cgroup_name_is_dead(const char *name) {
    long pid;
    unsigned long long start, namespace;
    char rest;
    if (strncmp(name, PREFIX, strlen(PREFIX)) != 0 ||
        sscanf(name + strlen(PREFIX), "%ld-%llu-%llu%c", &pid, &start, &namespace, &rest) != 3) {
        return false;
    }
    return namespace == pid_namespace() && start_time(pid) != start;
}

/* ---- removing ---- */

static void kill_listed(const char *directory) {
    char path[CGROUP_PATH_BYTES + 128];
    if ((unsigned)snprintf(path, sizeof path, "%s/cgroup.procs", directory) >= sizeof path) {
        return;
    }
    char *text = malloc(FILE_BYTES);
    if (text == NULL) {
        return;
    }
    if (read_file(path, text, FILE_BYTES) > 0) {
        for (char *at = text; *at != '\0';) {
            char *end;
            const long pid = strtol(at, &end, 10);
            if (end == at) {
                break;
            }
            if (pid > 1) { /* 0: of another pid namespace */
                kill((pid_t)pid, SIGKILL);
            }
            at = *end == '\0' ? end : end + 1;
        }
    }
    free(text);
}

static void nap(void) {
    const struct timespec millisecond = {.tv_nsec = 1000000};
    nanosleep(&millisecond, NULL);
}

/* A plain tree (tests) has files in its directories, which a control group's rmdir need not care about. */
static void remove_files(const char *directory) {
    char path[CGROUP_PATH_BYTES + 400];
    DIR *entries = opendir(directory);
    for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;) {
        if (entry->d_type == DT_REG && (unsigned)snprintf(path, sizeof path, "%s/%s", directory, entry->d_name) < sizeof path) {
            unlink(path);
        }
    }
    if (entries != NULL) {
        closedir(entries);
    }
}

static void remove_group(const char *directory, bool plain) {
    if (plain) {
        remove_files(directory);
    }
    for (unsigned i = 0; i < REMOVE_TRIES; i++) {
        if (rmdir(directory) == 0 || errno != EBUSY) {
            return;
        }
        kill_listed(directory);
        nap();
    }
}

/* The directory of one launcher in one hierarchy, with its slots. */
static void remove_instance(const char *instance, bool plain) {
    char path[CGROUP_PATH_BYTES + 400];
    DIR *entries = opendir(instance);
    for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;) {
        if (entry->d_name[0] == 's' && entry->d_type == DT_DIR &&
            (unsigned)snprintf(path, sizeof path, "%s/%s", instance, entry->d_name) < sizeof path) {
            remove_group(path, plain);
        }
    }
    if (entries != NULL) {
        closedir(entries);
    }
    remove_group(instance, plain);
}

static void sweep(const char *base, bool plain) {
    char names[NAMES_MAX][CGROUP_NAME_BYTES], path[CGROUP_PATH_BYTES + CGROUP_NAME_BYTES];
    unsigned count = 0;
    DIR *entries = opendir(base);
    for (struct dirent *entry; entries != NULL && count < NAMES_MAX && (entry = readdir(entries)) != NULL;) {
        if (strlen(entry->d_name) < CGROUP_NAME_BYTES && cgroup_name_is_dead(entry->d_name)) {
            wire_text(names[count++], CGROUP_NAME_BYTES, entry->d_name);
        }
    }
    if (entries != NULL) {
        closedir(entries);
    }
    for (unsigned i = 0; i < count; i++) {
        if ((unsigned)snprintf(path, sizeof path, "%s/%s", base, names[i]) < sizeof path) {
            remove_instance(path, plain);
        }
    }
}

/* ---- finding ---- */

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
    if (read_file("/proc/self/cgroup", text, sizeof text) < 0) {
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
    sweep(base, groups->plain);
    if (mkdir(hierarchy->instance, 0755) < 0 && errno != EEXIST) {
        return -errno;
    }
    hierarchy->controllers = flags;
    groups->controllers |= flags;
    groups->count++;
    return 0;
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
    }
    groups->driver = &cgroup_v1;
    groups->version = groups->count > 0 ? 1 : 0;
}

/* What version 2 offers in a directory. */
static unsigned offered(const char *directory) {
    char path[CGROUP_PATH_BYTES + 64], text[512];
    unsigned flags = 0;
    if ((unsigned)snprintf(path, sizeof path, "%s/cgroup.controllers", directory) >= sizeof path ||
        read_file(path, text, sizeof text) < 0) {
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
    return text[0] == '\0' ? 0 : write_file(path, text, plain);
}

/* Version 2 lets a group with processes of its own have no controllers below. If all of them are ours, they move into a leaf. */
static int move_supervised(const char *base, const int *supervised, unsigned count) {
    char path[CGROUP_PATH_BYTES + 128], text[4096];
    if ((unsigned)snprintf(path, sizeof path, "%s/cgroup.procs", base) >= sizeof path || read_file(path, text, sizeof text) < 0) {
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
        const int error = write_file(path, number, false);
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
        error = add_hierarchy(groups, base, flags | FLAG_CPU_TIME);
    }
    if (error == 0) {
        error = enable(groups->hierarchies[0].instance, flags, groups->plain);
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
        (void)write_file(path, text, groups->plain); /* a preference, not a promise */
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
    char *mountinfo = malloc(FILE_BYTES * 4);
    if (mountinfo == NULL || read_file("/proc/self/mountinfo", mountinfo, FILE_BYTES * 4) < 0) {
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
    own_name(groups->name);
    find_hierarchies(groups, root, supervised, supervised_count);
    weigh_instance(groups);
}

void cgroups_close(struct cgroups *groups) {
    for (unsigned i = 0; i < groups->count; i++) {
        remove_instance(groups->hierarchies[i].instance, groups->plain);
    }
    groups->count = 0;
}

/* ---- slots ---- */

int cgroup_prepare(struct cgroups *groups, uint32_t slot) {
    return groups->count == 0 ? 0 : groups->driver->prepare(groups, slot);
}

int cgroup_limit(struct cgroups *groups, uint32_t slot, const struct cgroup_limits *limits) {
    return groups->count == 0 ? 0 : groups->driver->limit(groups, slot, limits);
}

static int open_in(const struct cgroup_hierarchy *hierarchy, uint32_t slot, const char *file, int flags) {
    char path[CGROUP_PATH_BYTES + 64];
    if (hierarchy == NULL || cgroup_path(path, hierarchy, slot, file) < 0) {
        return -1;
    }
    return open(path, flags | O_CLOEXEC, 0644);
}

int cgroup_open_entries(struct cgroups *groups, uint32_t slot, int *fds, unsigned max) {
    unsigned count = 0;
    for (unsigned i = 0; i < groups->count && count < max; i++) {
        const int fd = groups->into ? open_in(&groups->hierarchies[i], slot, NULL, O_RDONLY | O_DIRECTORY)
                                    : open_in(&groups->hierarchies[i], slot, groups->driver->procs,
                                              O_WRONLY | (groups->plain ? O_CREAT | O_TRUNC : 0));
        if (fd < 0) {
            const int error = -errno;
            wire_close_all(fds, count);
            return error;
        }
        fds[count++] = fd;
    }
    return (int)count;
}

int cgroup_open_cpu_time(struct cgroups *groups, uint32_t slot) {
    return groups->count == 0 ? -1 : open_in(cgroup_with(groups, FLAG_CPU_TIME), slot, groups->driver->cpu_time, O_RDONLY);
}

int cgroup_open_memory_peak(struct cgroups *groups, uint32_t slot) {
    return groups->count == 0 ? -1 : open_in(cgroup_with(groups, FLAG_MEMORY), slot, groups->driver->memory_peak, O_RDONLY);
}

uint64_t cgroup_cpu_ns(struct cgroups *groups, uint32_t slot) {
    return groups->count == 0 || cgroup_with(groups, FLAG_CPU_TIME) == NULL ? 0 : groups->driver->cpu_ns(groups, slot);
}

uint64_t cgroup_memory_peak(struct cgroups *groups, uint32_t slot) {
    return groups->count == 0 ? 0 : cgroup_read_number(cgroup_with(groups, FLAG_MEMORY), slot, groups->driver->memory_peak);
}

uint64_t cgroup_oom_kills(struct cgroups *groups, uint32_t slot) {
    return groups->count == 0 ? 0 : groups->driver->oom_kills(groups, slot);
}

bool cgroup_empty(struct cgroups *groups, uint32_t slot) {
    char text[64];
    for (unsigned i = 0; i < groups->count && !groups->plain; i++) {
        if (cgroup_read(&groups->hierarchies[i], slot, "cgroup.procs", text, sizeof text) > 0) {
            return false;
        }
    }
    return true;
}

void cgroup_kill(struct cgroups *groups, uint32_t slot) {
    char path[CGROUP_PATH_BYTES + 64];
    const struct cgroup_hierarchy *pids = cgroup_with(groups, FLAG_PIDS);
    if (groups->version == 2 && !groups->plain && cgroup_write(groups, &groups->hierarchies[0], slot, "cgroup.kill", "1") == 0) {
        return;
    }
    if (pids != NULL) { /* no new ones while the list is walked */
        cgroup_write(groups, pids, slot, "pids.max", "0");
    }
    if (groups->count > 0 && cgroup_path(path, &groups->hierarchies[0], slot, NULL) == 0) {
        kill_listed(path);
    }
}
