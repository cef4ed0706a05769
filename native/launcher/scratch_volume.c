#include "scratch_volume.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/fscrypt.h>
#include <linux/loop.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "filesystem.h"
#include "invariant.h"
#include "tempdir.h"
#include "wire.h"

enum {
    BLOCK_BYTES = 4096,
    BLOCKS_PER_MB = (1 << 20) / BLOCK_BYTES,
    INODES_PER_MB = 64,       /* as mkfs.ext4 does by itself */
    INODE_BYTES = 256,        /* room for the encryption context beside the inode */
    SLACK_BLOCKS = 64,        /* the directory, extents of the largest file */
    RESERVE_SHARE = 50,       /* ext4 keeps back a 50th, at most RESERVE_BLOCKS_MAX, for its own needs */
    RESERVE_BLOCKS_MAX = 4096,
    REUSE_INODES_MAX = 256,   /* emptied file by file up to here; else making a new one is cheaper */
    REUSE_BLOCKS_MAX = 4096,
    REUSE_NAMES_MAX = 2048,   /* one file may have many, and is met more than once */
    TRIM_DISK_BLOCKS = 2048,  /* a volume that has grown by so much gives its blocks back before the next use */
    MAKER_TRIES = 6,
    LOOP_TRIES = 64,
    SUPERBLOCK = 1024,
    EXT4_MAGIC = 0xEF53,
    UMOUNT_DETACH = 2,
    EXIT_CANNOT_EXECUTE = 127
};

static const char DIRECTORY[] = "tmp";

static int result(long value) {
    return value < 0 ? -errno : (int)value;
}

/* ---- the place ---- */

/* Volumes in memory would be memory that counts for nobody. And whoever owns what it lies in may have put another in its place
 * since the launcher made it: root works in its own alone. */
static int check_directory(int directory) {
    struct statfs status;
    struct stat owner;
    if (fstatfs(directory, &status) < 0 || fstat(directory, &owner) < 0) {
        return -errno;
    }
    return owner.st_uid != geteuid() || (owner.st_mode & 0077) != 0               ? -EPERM
           : status.f_type == TMPFS_MAGIC || status.f_type == RAMFS_MAGIC ? -EMEDIUMTYPE
                                                                          : 0;
}

int volume_place_open(struct volume_place *place, const char *directory, const char **step) {
    memset(place, 0, sizeof *place);
    place->directory = place->staging = -1;
    *step = "/dev/loop-control";
    place->control = result(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
    int error = place->control < 0 ? place->control : 0;
    if (error == 0) {
        *step = "mount namespace";
        error = result(unshare(CLONE_NEWNS));
    }
    error = error < 0 ? error : fs_make_private();
    if (error == 0) { /* found once, by its name; from here on it is the descriptor's */
        *step = "directory of volumes";
        place->directory = result(open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        error = place->directory < 0 ? place->directory : check_directory(place->directory);
    }
    if (error == 0) {
        *step = "staging directory";
        place->staging = fs_mount_staging(place->directory);
        error = place->staging < 0 ? place->staging : 0;
    }
    return error;
}

/* ---- a template: one file system a size, made by mkfs.ext4 ---- */

/* A file without a name, so that nothing is left when this process is killed. */
static int nameless_file(int directory) {
    int fd = openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT)) {
        char name[40];
        snprintf(name, sizeof name, "volume-%ld", (long)getpid());
        (void)unlinkat(directory, name, 0); /* of a process that was killed in the moment between these two */
        fd = openat(directory, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
        const int error = errno;
        (void)unlinkat(directory, name, 0);
        errno = error;
    }
    return fd < 0 ? -errno : fd;
}

static const char *const makers[] = {"/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4", "/usr/bin/mkfs.ext4"};

/* No journal: nothing is ever recovered. No inode tables written: they are holes, which read as zeros. */
_Noreturn static void execute_maker(int file, uint64_t blocks, uint64_t inodes) {
    char path[32], blocks_text[24], inodes_text[24], inode_text[8], block_text[8];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    snprintf(blocks_text, sizeof blocks_text, "%llu", (unsigned long long)blocks);
    snprintf(inodes_text, sizeof inodes_text, "%llu", (unsigned long long)inodes);
    snprintf(inode_text, sizeof inode_text, "%d", INODE_BYTES);
    snprintf(block_text, sizeof block_text, "%d", BLOCK_BYTES);
    const char *const arguments[] = {
        "mkfs.ext4", "-q", "-F", "-b", block_text, "-I", inode_text, "-m", "0", "-N", inodes_text, "-O",
        "none,filetype,extent,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,uninit_bg,encrypt", "-E",
        "lazy_itable_init=1,nodiscard,root_owner=0:0", path, blocks_text, NULL};
    char *const environment[] = {NULL};
    const int null = open("/dev/null", O_RDWR);
    (void)fcntl(file, F_SETFD, 0);
    (void)(dup2(null, 0) + dup2(null, 1) + dup2(null, 2));
    for (unsigned i = 0; i < sizeof makers / sizeof *makers; i++) {
        execve(makers[i], (char *const *)(uintptr_t)arguments, environment);
    }
    _exit(EXIT_CANNOT_EXECUTE);
}

static int run_maker(int file, uint64_t blocks, uint64_t inodes) {
    if (ftruncate(file, 0) < 0 || ftruncate(file, (off_t)(blocks * BLOCK_BYTES)) < 0) {
        return -errno;
    }
    const pid_t pid = fork();
    if (pid < 0) {
        return -errno;
    }
    if (pid == 0) {
        execute_maker(file, blocks, inodes);
    }
    int status;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    return !WIFEXITED(status) ? -ECHILD : WEXITSTATUS(status) == EXIT_CANNOT_EXECUTE ? -ENOENT : WEXITSTATUS(status) != 0 ? -EIO : 0;
}

/* Blocks that a function can fill, of a file system that has just been made. */
static int64_t usable_blocks(int file, uint64_t blocks) {
    uint8_t super[64];
    uint32_t free_blocks;
    uint16_t magic;
    if (pread(file, super, sizeof super, SUPERBLOCK) != (ssize_t)sizeof super) {
        return -EIO;
    }
    memcpy(&free_blocks, super + 12, sizeof free_blocks); /* little-endian, as we are */
    memcpy(&magic, super + 56, sizeof magic);
    const uint64_t share = blocks / RESERVE_SHARE;
    const uint64_t reserve = share < RESERVE_BLOCKS_MAX ? share : RESERVE_BLOCKS_MAX;
    return magic != EXT4_MAGIC || free_blocks > blocks ? -EIO : (int64_t)free_blocks - (int64_t)reserve;
}

/* First too small, to learn what ext4 needs for itself; then as large as it has to be. */
static int make_template(int file, uint32_t size_mb, uint64_t *bytes) {
    const uint64_t wanted = (uint64_t)size_mb * BLOCKS_PER_MB + SLACK_BLOCKS;
    const uint64_t inodes = (uint64_t)size_mb * INODES_PER_MB;
    uint64_t blocks = wanted;
    for (unsigned tries = 0; tries < MAKER_TRIES; tries++) {
        const int error = run_maker(file, blocks, inodes);
        if (error < 0) {
            return error;
        }
        const int64_t usable = usable_blocks(file, blocks);
        if (usable < 0) {
            return (int)usable;
        }
        if ((uint64_t)usable >= wanted) {
            *bytes = blocks * BLOCK_BYTES;
            return 0;
        }
        blocks += wanted - (uint64_t)usable + BLOCKS_PER_MB / 8;
    }
    return -E2BIG;
}

static int find_template(struct volume_place *place, uint32_t size_mb, struct volume_template **found) {
    struct volume_template *oldest = &place->templates[0];
    for (unsigned i = 0; i < VOLUME_TEMPLATES_MAX; i++) {
        struct volume_template *template = &place->templates[i];
        if (template->size_mb == size_mb) {
            template->used_at = ++place->uses;
            *found = template;
            return 0;
        }
        if (template->size_mb == 0 || (oldest->size_mb != 0 && template->used_at < oldest->used_at)) {
            oldest = template;
        }
    }
    int file = nameless_file(place->directory);
    if (file < 0) {
        return file;
    }
    uint64_t bytes = 0;
    const int error = make_template(file, size_mb, &bytes);
    if (error < 0) {
        wire_close(&file);
        return error;
    }
    if (oldest->size_mb != 0) {
        close(oldest->file);
    }
    *oldest = (struct volume_template){.size_mb = size_mb, .file = file, .bytes = bytes, .used_at = ++place->uses};
    *found = oldest;
    return 0;
}

/* The few blocks of a template that are not holes. */
static int copy_template(const struct volume_template *template, int file) {
    char data[1 << 15];
    if (ftruncate(file, (off_t)template->bytes) < 0) {
        return -errno;
    }
    for (off_t at = 0; (at = lseek(template->file, at, SEEK_DATA)) >= 0;) {
        const off_t end = lseek(template->file, at, SEEK_HOLE);
        while (at < end) {
            const size_t left = (size_t)(end - at);
            const ssize_t got = pread(template->file, data, left < sizeof data ? left : sizeof data, at);
            if (got <= 0 || pwrite(file, data, (size_t)got, at) != got) {
                return got == 0 ? -EIO : -errno;
            }
            at += got;
        }
    }
    return errno == ENXIO ? 0 : -errno;
}

/* ---- a volume ---- */

/* A loop device on the file: its descriptor, and its path. Direct: else each page would be in memory twice, the second time for nobody's
 * account; where the disk does not allow it the kernel passes it over. */
static int attach_loop(const struct volume_place *place, int file, char *path, size_t bytes) {
    struct loop_config config;
    memset(&config, 0, sizeof config);
    config.fd = (uint32_t)file;
    config.block_size = BLOCK_BYTES;
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    wire_text((char *)config.info.lo_file_name, sizeof config.info.lo_file_name, "scheduler scratch");
    int error = EBUSY;
    for (unsigned tries = 0; tries < LOOP_TRIES; tries++) {
        const int number = ioctl(place->control, LOOP_CTL_GET_FREE);
        if (number < 0) {
            return -errno;
        }
        snprintf(path, bytes, "/dev/loop%d", number);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
            return fd;
        }
        error = errno;
        wire_close(&fd);
        if (error != EBUSY && error != ENOENT && error != ENXIO) { /* else somebody was given the same, or took it away */
            return -error;
        }
    }
    return -error;
}

/* No barriers: nothing here has to outlive the sandbox, so that nothing it does makes the host's disk flush. */
static int mount_device(const char *device) {
    static const char *const flags[] = {"noinit_itable", "nobarrier", "noauto_da_alloc", "noblock_validity"};
    int context = result(syscall(SYS_fsopen, "ext4", FSOPEN_CLOEXEC));
    if (context < 0) {
        return context;
    }
    int error = result(syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, "source", device, 0));
    for (unsigned i = 0; i < sizeof flags / sizeof *flags && error == 0; i++) {
        error = result(syscall(SYS_fsconfig, context, FSCONFIG_SET_FLAG, flags[i], NULL, 0));
    }
    if (error == 0) {
        error = result(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    }
    if (error == 0) {
        error = result(syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOATIME));
    }
    wire_close(&context);
    return error;
}

static uint64_t disk_blocks(int file) {
    struct stat status;
    return fstat(file, &status) < 0 ? 0 : (uint64_t)status.st_blocks;
}

static void name_of(uint32_t number, char *name, size_t bytes) {
    snprintf(name, bytes, "%u", number);
}

static void unmount(const struct volume_place *place, uint32_t number) {
    char name[16], path[48];
    name_of(number, name, sizeof name);
    snprintf(path, sizeof path, "/proc/self/fd/%d/%s", place->staging, name);
    if (syscall(SYS_umount2, path, 0) < 0) {
        (void)syscall(SYS_umount2, path, UMOUNT_DETACH); /* somebody still looks: it goes with him */
    }
    (void)unlinkat(place->staging, name, AT_REMOVEDIR);
}

static int mount_volume(struct volume_place *place, struct volume *volume, const char **step) {
    char device[32], name[16];
    *step = "loop device";
    int loop = attach_loop(place, volume->file, device, sizeof device);
    if (loop < 0) {
        return loop;
    }
    *step = "mount of ext4";
    volume->root = mount_device(device);
    wire_close(&loop); /* from here on the mount holds it */
    if (volume->root < 0) {
        return volume->root;
    }
    *step = "staging directory";
    name_of(volume->number, name, sizeof name);
    int error = result(mkdirat(place->staging, name, 0700));
    if (error == 0) { /* a mount that is nowhere cannot be cloned before Linux 6.15 */
        error = result(syscall(SYS_move_mount, volume->root, "", place->staging, name, MOVE_MOUNT_F_EMPTY_PATH));
    }
    if (error < 0) {
        wire_close(&volume->root);
        (void)unlinkat(place->staging, name, AT_REMOVEDIR);
        return error;
    }
    struct statfs status;
    if (fstatfs(volume->root, &status) < 0) {
        return -errno;
    }
    volume->inodes = (uint64_t)(status.f_files - status.f_ffree);
    volume->blocks = (uint64_t)(status.f_blocks - status.f_bfree);
    volume->disk_blocks = disk_blocks(volume->file);
    return 0;
}

int volume_make(struct volume_place *place, struct volume *volume, uint32_t number, uint32_t size_mb, const char **step) {
    struct volume_template *template = NULL;
    *volume = (struct volume){.size_mb = size_mb, .number = number, .file = -1, .root = -1};
    *step = "mkfs.ext4 (e2fsprogs)";
    int error = find_template(place, size_mb, &template);
    if (error == 0) {
        *step = "file of the volume";
        volume->file = nameless_file(place->directory);
        error = volume->file < 0 ? volume->file : copy_template(template, volume->file);
    }
    if (error == 0) {
        error = mount_volume(place, volume, step);
    }
    if (error < 0) {
        volume_drop(place, volume);
    }
    return error;
}

static int add_key(int directory, uint8_t *key_id) {
    union {
        struct fscrypt_add_key_arg argument;
        uint8_t room[sizeof(struct fscrypt_add_key_arg) + FSCRYPT_MAX_KEY_SIZE];
    } order;
    memset(&order, 0, sizeof order);
    order.argument.key_spec.type = FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER;
    order.argument.raw_size = FSCRYPT_MAX_KEY_SIZE;
    uint8_t *const key = order.room + offsetof(struct fscrypt_add_key_arg, raw);
    int error = getrandom(key, FSCRYPT_MAX_KEY_SIZE, 0) == FSCRYPT_MAX_KEY_SIZE ? 0 : -EIO;
    if (error == 0) {
        error = result(ioctl(directory, FS_IOC_ADD_ENCRYPTION_KEY, &order));
    }
    explicit_bzero(key, FSCRYPT_MAX_KEY_SIZE);
    memcpy(key_id, order.argument.key_spec.u.identifier, VOLUME_KEY_ID_BYTES);
    return error;
}

static int set_policy(int directory, const uint8_t *key_id) {
    struct fscrypt_policy_v2 policy;
    memset(&policy, 0, sizeof policy);
    policy.version = FSCRYPT_POLICY_V2;
    policy.contents_encryption_mode = FSCRYPT_MODE_AES_256_XTS;
    policy.filenames_encryption_mode = FSCRYPT_MODE_AES_256_CTS;
    policy.flags = FSCRYPT_POLICY_FLAGS_PAD_32;
    memcpy(policy.master_key_identifier, key_id, VOLUME_KEY_ID_BYTES);
    return result(ioctl(directory, FS_IOC_SET_ENCRYPTION_POLICY, &policy));
}

int volume_lock(struct volume *volume, const char **step) {
    *step = "directory of the volume";
    int error = result(mkdirat(volume->root, DIRECTORY, 0700));
    int directory = error < 0 ? error : result(openat(volume->root, DIRECTORY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    error = directory < 0 ? directory : 0;
    if (error == 0) {
        *step = "encryption key";
        error = add_key(directory, volume->key_id);
    }
    if (error == 0) {
        *step = "encryption policy";
        error = set_policy(directory, volume->key_id);
    }
    if (error == 0) { /* root's, like any /tmp: its owner could change its flags */
        *step = "mode of /tmp";
        error = result(fchmod(directory, 01777));
    }
    if (error == 0) {
        *step = "mount of the directory";
        error = result(syscall(SYS_open_tree, volume->root, DIRECTORY, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    }
    wire_close(&directory);
    return error;
}

/* The root directory, for ioctls: the mount's own descriptor has no file behind it. */
static int open_root(const struct volume *volume) {
    return result(openat(volume->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

static bool little_in_it(const struct volume *volume) {
    struct statfs status;
    return fstatfs(volume->root, &status) == 0 &&
           (uint64_t)(status.f_files - status.f_ffree) <= volume->inodes + REUSE_INODES_MAX &&
           (uint64_t)(status.f_blocks - status.f_bfree) <= volume->blocks + REUSE_BLOCKS_MAX;
}

static bool forget_key(const struct volume *volume, int root) {
    struct fscrypt_remove_key_arg order;
    memset(&order, 0, sizeof order);
    order.key_spec.type = FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER;
    memcpy(order.key_spec.u.identifier, volume->key_id, VOLUME_KEY_ID_BYTES);
    return ioctl(root, FS_IOC_REMOVE_ENCRYPTION_KEY_ALL_USERS, &order) == 0 && order.removal_status_flags == 0;
}

bool volume_reuse(struct volume *volume) {
    if (unlinkat(volume->root, DIRECTORY, AT_REMOVEDIR) < 0) {
        if (!little_in_it(volume)) {
            return false;
        }
        tempdir_remove_tree(volume->root, DIRECTORY, REUSE_NAMES_MAX);
    }
    int root = open_root(volume);
    bool clean = root >= 0 && faccessat(volume->root, DIRECTORY, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;
    clean = clean && forget_key(volume, root);
    if (clean && disk_blocks(volume->file) > volume->disk_blocks + TRIM_DISK_BLOCKS) {
        struct fstrim_range all = {.len = UINT64_MAX};
        clean = ioctl(root, FITRIM, &all) == 0;
    }
    wire_close(&root);
    return clean;
}

void volume_drop(struct volume_place *place, struct volume *volume) {
    enum { WITHOUT_FLUSH = 2 };
    wire_close(&volume->file); /* the device has it too, and lets go of it last */
    if (volume->root >= 0) {
        uint32_t how = WITHOUT_FLUSH;
        int root = open_root(volume);
        (void)ioctl(root, _IOR('X', 125, uint32_t), &how); /* EXT4_IOC_SHUTDOWN: what is dirty is not worth its way to the disk */
        wire_close(&root);
        wire_close(&volume->root);
        unmount(place, volume->number);
    }
    volume->size_mb = 0;
}
