#include "tempdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cgroup.h"
#include "wire.h"

enum { PATH_BYTES = 512, DEPTH_FDS = 16, NAMES_MAX = 64 };

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *where) {
    (void)status;
    (void)type;
    (void)where;
    (void)remove(path); /* what cannot be removed is met again by the next start */
    return 0;
}

/* Does not follow links. Nobody else works in there any more. */
static void remove_tree(const char *path) {
    (void)nftw(path, remove_entry, DEPTH_FDS, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static int join(char *path, size_t bytes, const char *root, const char *name) {
    const int length = snprintf(path, bytes, "%s/%s", root, name);
    return length < 0 || (size_t)length >= bytes ? -ENAMETOOLONG : 0;
}

int tempdirs_open(const char *root, const char *name) {
    char path[PATH_BYTES], dead[NAMES_MAX][CGROUP_NAME_BYTES];
    unsigned count = 0;
    DIR *entries = opendir(root);
    for (struct dirent *entry; entries != NULL && count < NAMES_MAX && (entry = readdir(entries)) != NULL;) {
        struct stat status;
        if (strlen(entry->d_name) < CGROUP_NAME_BYTES && cgroup_name_is_dead(entry->d_name) &&
            fstatat(dirfd(entries), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(status.st_mode) &&
            status.st_uid == geteuid()) {
            wire_text(dead[count++], CGROUP_NAME_BYTES, entry->d_name);
        }
    }
    if (entries != NULL) {
        closedir(entries);
    }
    for (unsigned i = 0; i < count; i++) {
        if (join(path, sizeof path, root, dead[i]) == 0) {
            remove_tree(path);
        }
    }
    const int error = join(path, sizeof path, root, name);
    return error < 0 ? error : mkdir(path, 0711) < 0 ? -errno : 0;
}

void tempdirs_close(const char *root, const char *name) {
    char path[PATH_BYTES];
    if (join(path, sizeof path, root, name) == 0) {
        remove_tree(path);
    }
}

int tempdir_fresh(const char *root, const char *name, uint32_t slot, uint32_t uid, char *path, size_t bytes) {
    const int length = snprintf(path, bytes, "%s/%s/s%04u", root, name, slot);
    if (length < 0 || (size_t)length >= bytes) {
        return -ENAMETOOLONG;
    }
    remove_tree(path);
    if (mkdir(path, 0700) < 0) {
        return -errno;
    }
    return uid != 0 && chown(path, uid, uid) < 0 ? -errno : 0;
}
