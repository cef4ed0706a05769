#include "cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "protocol.h"
#include "wire.h"

enum { FILE_BYTES = 65536, REMOVE_TRIES = 2000, NAMES_MAX = 64 };

static const char PREFIX[] = "scheduler-";

/* ---- files ---- */

int cgroup_read_file(const char *path, char *text, unsigned bytes) {
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

int cgroup_write_file(const char *path, const char *text, bool plain) {
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
    return error < 0 ? error : cgroup_write_file(path, text, groups->plain);
}

int cgroup_read(const struct cgroup_hierarchy *hierarchy, uint32_t slot, const char *file, char *text, unsigned bytes) {
    char path[CGROUP_PATH_BYTES + 64];
    const int error = cgroup_path(path, hierarchy, slot, file);
    return error < 0 ? error : cgroup_read_file(path, text, bytes);
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
    if (cgroup_read_file(path, text, sizeof text) < 0) {
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

void cgroup_own_name(char *name) {
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
    if (cgroup_read_file(path, text, FILE_BYTES) > 0) {
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
    char state[CGROUP_PATH_BYTES + 420];
    for (unsigned i = 0; i < REMOVE_TRIES; i++) {
        if (rmdir(directory) == 0 || errno != EBUSY) {
            return;
        }
        kill_listed(directory);
        if ((unsigned)snprintf(state, sizeof state, "%s/freezer.state", directory) < sizeof state) {
            (void)cgroup_write_file(state, "THAWED", false); /* of the hierarchy that freezes; nothing dies there before */
        }
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

void cgroup_sweep(const char *base, bool plain) {
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

void cgroups_close(struct cgroups *groups) {
    cgroups_thaw(groups);
    for (unsigned i = 0; i < groups->count; i++) {
        remove_instance(groups->hierarchies[i].instance, groups->plain);
    }
    if (groups->version == 1 && (groups->controllers & FLAG_FREEZE) != 0) {
        remove_instance(groups->freezer.instance, groups->plain);
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

int cgroup_quota(struct cgroups *groups, uint32_t slot, struct cgroup_quota quota) {
    if ((groups->controllers & FLAG_CPU) == 0) {
        return 0;
    }
    const int error = groups->driver->quota(groups, slot, &quota);
    return error == -ENOENT || error == -EINVAL ? 0 : error;
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
    if (groups->version == 2 && !groups->plain) { /* the list leaves out what is dying, and the group cannot be removed yet */
        const int got = cgroup_read(&groups->hierarchies[0], slot, "cgroup.events", text, sizeof text);
        return got == -ENOENT || (got > 0 && strstr(text, "populated 0") != NULL);
    }
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
