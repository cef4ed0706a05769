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

enum { PIDS_BYTES = 65536 };

static int enter(struct cgroups *groups, uint32_t slot, int init) {
    char *text = malloc(PIDS_BYTES), number[24];
    if (text == NULL) {
        return -ENOMEM;
    }
    int error = cgroup_make(&groups->freezer, slot);
    if (error == 0) {
        error = cgroup_read(&groups->hierarchies[0], slot, "cgroup.procs", text, PIDS_BYTES);
    }
    for (char *at = text, *end; error >= 0 && *at != '\0'; at = *end == '\0' ? end : end + 1) {
        const long pid = strtol(at, &end, 10);
        if (end == at) {
            break;
        }
        if (pid > 1 && pid != init) {
            snprintf(number, sizeof number, "%ld", pid);
            error = cgroup_write(groups, &groups->freezer, slot, "cgroup.procs", number);
            error = error == -ESRCH ? 0 : error; /* it has just ended */
        }
    }
    free(text);
    return error < 0 ? error : 0;
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
