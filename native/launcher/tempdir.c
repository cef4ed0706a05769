#include "tempdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cgroup.h"
#include "wire.h"

enum { PATH_BYTES = 512, NAMES_MAX = 64, NAME_TRIES = 64 };

/* ---- removing what a stranger made ----
 *
 * Somebody may still be at work in there, with another uid than ours, and turn a directory into a link between our look and our
 * step. So nothing is found by a path of more than one name, no link is followed, and depth costs nothing: a directory that holds
 * something is first moved up to the top.
 */

struct removal {
    int top;
    dev_t device;
    unsigned serial; /* of names for what is moved up */
    uint64_t names_left; /* looked at so far, backwards */
    bool progress;
};

static int open_directory(const struct removal *removal, int parent, const char *name) {
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == EACCES && geteuid() != 0) { /* our own user's: no boundary is crossed by opening it up */
        (void)fchmodat(parent, name, 0700, 0);
        fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    }
    struct stat status;
    if (fd >= 0 && removal != NULL && (fstat(fd, &status) < 0 || status.st_dev != removal->device)) {
        wire_close(&fd);
    }
    return fd;
}

static bool remove_name(int parent, const char *name) {
    return unlinkat(parent, name, 0) == 0 || unlinkat(parent, name, AT_REMOVEDIR) == 0;
}

static void move_up(struct removal *removal, int parent, const char *name) {
    char free_name[32];
    for (unsigned i = 0; i < NAME_TRIES; i++) {
        snprintf(free_name, sizeof free_name, ".%u", removal->serial++);
        if (renameat(parent, name, removal->top, free_name) == 0) {
            removal->progress = true;
            return;
        }
        if (errno == EACCES && geteuid() != 0) { /* it cannot be told of its new parent */
            (void)fchmodat(parent, name, 0700, 0);
        }
    }
}

/* Calls `each` with the names in a directory; takes the descriptor. */
static void for_names(int fd, struct removal *removal, void (*each)(struct removal *, int, const char *)) {
    DIR *entries = fd < 0 ? NULL : fdopendir(fd);
    if (entries == NULL) {
        wire_close(&fd);
        return;
    }
    for (struct dirent *entry; removal->names_left > 0 && (entry = readdir(entries)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            removal->names_left--;
            each(removal, fd, entry->d_name);
        }
    }
    closedir(entries);
}

static void remove_or_move_up(struct removal *removal, int parent, const char *name) {
    if (remove_name(parent, name)) {
        removal->progress = true;
    } else {
        move_up(removal, parent, name);
    }
}

static void remove_at_top(struct removal *removal, int parent, const char *name) {
    if (!remove_name(parent, name)) {
        for_names(open_directory(removal, parent, name), removal, remove_or_move_up);
        if (!remove_name(parent, name)) {
            return;
        }
    }
    removal->progress = true;
}

void tempdir_remove_tree(int parent, const char *name, uint64_t names_max) {
    struct stat status;
    struct removal removal = {.top = open_directory(NULL, parent, name), .names_left = names_max, .progress = true};
    if (removal.top < 0 || fstat(removal.top, &status) < 0) {
        wire_close(&removal.top);
        return;
    }
    removal.device = status.st_dev;
    while (removal.progress) {
        removal.progress = false;
        for_names(openat(removal.top, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), &removal, remove_at_top);
    }
    wire_close(&removal.top);
    (void)unlinkat(parent, name, AT_REMOVEDIR);
}

/* What cannot be removed is met again by the next start. */
static void remove_tree(int parent, const char *name) {
    tempdir_remove_tree(parent, name, UINT64_MAX);
}

/* ---- the directories ---- */

static int open_root(const char *root, const char *name) {
    char path[PATH_BYTES];
    const int length = snprintf(path, sizeof path, "%s%s%s", root, name == NULL ? "" : "/", name == NULL ? "" : name);
    if (length < 0 || (size_t)length >= sizeof path) {
        return -ENAMETOOLONG;
    }
    const int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int tempdirs_open(const char *root, const char *name) {
    char dead[NAMES_MAX][CGROUP_NAME_BYTES];
    unsigned count = 0;
    int fd = open_root(root, NULL);
    if (fd < 0) {
        return fd;
    }
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
        remove_tree(fd, dead[i]);
    }
    const int error = mkdirat(fd, name, 0711) < 0 ? -errno : 0;
    wire_close(&fd);
    return error;
}

void tempdirs_close(const char *root, const char *name) {
    int fd = open_root(root, NULL);
    if (fd >= 0) {
        remove_tree(fd, name);
    }
    wire_close(&fd);
}

int tempdir_fresh(const char *root, const char *name, uint32_t slot, uint32_t uid, char *path, size_t bytes) {
    const int length = snprintf(path, bytes, "%s/%s/s%04u", root, name, slot);
    if (length < 0 || (size_t)length >= bytes) {
        return -ENAMETOOLONG;
    }
    int fd = open_root(root, name);
    if (fd < 0) {
        return fd;
    }
    const char *own = strrchr(path, '/') + 1;
    remove_tree(fd, own);
    int error = mkdirat(fd, own, 0700) < 0 ? -errno : 0;
    if (error == 0 && uid != 0 && fchownat(fd, own, uid, uid, AT_SYMLINK_NOFOLLOW) < 0) {
        error = -errno;
    }
    wire_close(&fd);
    return error;
}
