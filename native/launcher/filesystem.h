/* filesystem.h: what a sandbox sees as "/". Two parts:
 *
 *   the root of a runtime   built once, in the zygote's own mount namespace, before Python starts in it: a read-only tmpfs with
 *                           read-only binds of what the interpreter needs, six devices and an /etc made here. Nothing of the
 *                           host's tree is reachable afterwards.
 *   a sandbox's own part    a copy of that namespace (CLONE_NEWNS) gets a fresh /proc, /dev/shm and /tmp at birth, its code at
 *                           /var/task when specialised. Code arrives as a detached mount made by the launcher, so a sandbox
 *                           never resolves a path of the host.
 *
 * Needs the mount API of Linux 5.12 (open_tree, mount_setattr). All functions return 0 or -errno; a half-made tree must not be
 * used, so the caller ends the process.
 */
#ifndef LAUNCHER_FILESYSTEM_H
#define LAUNCHER_FILESYSTEM_H

#include <stdbool.h>
#include <stdint.h>

struct fs_bind {
    const char *source; /* absolute; a symbolic link is copied as a link; missing ones are skipped */
    const char *target; /* absolute, inside the new root */
};

struct fs_root {
    const struct fs_bind *binds;
    unsigned binds_count;
    uint32_t uid_base; /* names in /etc/passwd for uid_base .. uid_base + uid_count - 1 */
    uint32_t uid_count;
    const char *resolver; /* text of /etc/resolv.conf; "": names are looked up in /etc/hosts alone */
};

enum { FS_BINDS_MAX = 80 };

/* Mounts of this process' namespace no longer reach its parent's. Slave: those made and taken away there still come here, so that a
 * disk that the host unmounts is not kept busy. Private: nor do they. */
int fs_make_slave(void);
int fs_make_private(void);

/* Builds the root and makes it this process' "/". *failed names the path at fault (may point into root). */
int fs_enter_root(const struct fs_root *root, const char **failed);

/* A detached read-only, nosuid, nodev mount of a directory: descriptor or -errno. root: it must lie below that one, without a
 * symbolic link on the whole way (-EXDEV, -ELOOP); NULL: it may be any. */
int fs_detached_code(const char *directory, const char *root);

int fs_attach(int mount_fd, const char *target);
int fs_fresh_proc(void);
/* read_only_sys: /proc/sys too. Not in a user namespace: its limits are written there later, and file modes protect the rest. */
int fs_mask_proc(bool read_only_sys);
int fs_mount_shm(void);
/* A /tmp in memory: where it belongs, or detached. */
int fs_mount_scratch(uint32_t size_mb);
int fs_detached_scratch(uint32_t size_mb);
int fs_resize_scratch(uint32_t size_mb);
/* A small empty tmpfs for directories to mount on, ours alone. */
int fs_mount_staging(int directory);

#endif
