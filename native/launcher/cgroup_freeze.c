/* cgroup_freeze: a sandbox between two calls, stopped as a whole. Only functions that ask for it.
 *
 *   version 1   a hierarchy of its own, entered when a sandbox is frozen for the first time. Its processes cannot even be killed before
 *               they are thawed, so whoever ends one thaws it: the launcher, its supervisor (main.c), the next start (cgroup.c)
 *   version 2   the group's own file; what is frozen can be killed
 *
 * Process 1 of a sandbox is never frozen in version 1: it is the launcher's way to hear of the end.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cgroup.h"
#include "protocol.h"
#include "wire.h"

enum { PIDS_BYTES = 65536, PASSES = 8, PASSES_MAX = 16 };

/* One pid a line in both. */
static bool is_listed(const char *list, const char *number, size_t length) {
    for (const char *at = list; (at = strstr(at, number)) != NULL; at += length) {
        if ((at == list || at[-1] == '\n') && (at[length] == '\n' || at[length] == '\0')) {
            return true;
        }
    }
    return false;
}

/* Moves all that are in the sandbox and not in the freezer's group yet: how many there were, or -errno. */
static int enter_once(struct cgroups *groups, uint32_t slot, int init, char *all, char *inside) {
    char number[24];
    int found = 0;
    int error = cgroup_read(&groups->hierarchies[0], slot, "cgroup.procs", all, PIDS_BYTES);
    error = error < 0 ? error : cgroup_read(&groups->freezer, slot, "cgroup.procs", inside, PIDS_BYTES);
    for (char *at = all, *end; error >= 0 && *at != '\0'; at = *end == '\0' ? end : end + 1) {
        const long pid = strtol(at, &end, 10);
        if (end == at) {
            break;
        }
        const int length = snprintf(number, sizeof number, "%ld", pid);
        if (pid > 1 && pid != init && !is_listed(inside, number, (size_t)length)) {
            found++;
            error = cgroup_write(groups, &groups->freezer, slot, "cgroup.procs", number);
            error = error == -ESRCH ? 0 : error; /* it has just ended */
        }
    }
    return error < 0 ? error : found;
}

/* Who is moved takes its children along; who is not yet may have made one meanwhile, which the next pass finds. Who makes one after
 * the other and ends is faster than the list: for the last passes nobody may make any. */
static int enter(struct cgroups *groups, uint32_t slot, int init) {
    const struct cgroup_hierarchy *pids = cgroup_with(groups, FLAG_PIDS);
    char *text = malloc(2 * PIDS_BYTES), most[32] = "";
    if (text == NULL) {
        return -ENOMEM;
    }
    int left = cgroup_make(&groups->freezer, slot);
    left = left < 0 ? left : 1;
    for (unsigned pass = 0; left > 0 && pass < PASSES_MAX; pass++) {
        if (pass == PASSES && pids != NULL && cgroup_read(pids, slot, "pids.max", most, sizeof most) > 0) {
            (void)cgroup_write(groups, pids, slot, "pids.max", "0");
        }
        left = enter_once(groups, slot, init, text, text + PIDS_BYTES);
    }
    if (most[0] != '\0') {
        (void)cgroup_write(groups, pids, slot, "pids.max", most);
    }
    free(text);
    return left < 0 ? left : 0;
}

int cgroup_freezer(struct cgroups *groups, uint32_t slot, int init) {
    char path[CGROUP_PATH_BYTES + 64];
    if ((groups->controllers & FLAG_FREEZE) == 0) {
        return -ENOSYS;
    }
    int error = groups->version == 1 ? enter(groups, slot, init) : 0;
    if (error == 0) {
        error = groups->version == 1 ? cgroup_path(path, &groups->freezer, slot, "freezer.state")
                                     : cgroup_path(path, &groups->hierarchies[0], slot, "cgroup.freeze");
    }
    if (error < 0) {
        return error;
    }
    const int fd = open(path, O_WRONLY | O_CLOEXEC | (groups->plain ? O_CREAT | O_TRUNC : 0), 0644);
    return fd < 0 ? -errno : fd;
}

int cgroup_set_frozen(const struct cgroups *groups, int freezer, bool frozen) {
    const char *word = groups->version == 1 ? (frozen ? "FROZEN" : "THAWED") : frozen ? "1" : "0";
    return pwrite(freezer, word, strlen(word), 0) < 0 ? -errno : 0;
}

void cgroups_thaw(const struct cgroups *groups) {
    char path[CGROUP_PATH_BYTES + 400];
    if (groups->version != 1 || (groups->controllers & FLAG_FREEZE) == 0) {
        return;
    }
    DIR *entries = opendir(groups->freezer.instance);
    for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;) {
        if (entry->d_name[0] == 's' &&
            (unsigned)snprintf(path, sizeof path, "%s/%s/freezer.state", groups->freezer.instance, entry->d_name) < sizeof path) {
            (void)cgroup_write_file(path, "THAWED", false);
        }
    }
    if (entries != NULL) {
        closedir(entries);
    }
}
