#include "filesystem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "wire.h"

/* <sys/mount.h> of newer C libraries and <linux/mount.h> define the same names, so the calls are made by number. */
enum { OPENAT2 = 437 }; /* newer than some C libraries' headers */
enum { UMOUNT_DETACH = 2, SHM_MB = 64, SHM_INODES = 1024, ROOT_INODES = 4096, INODES_PER_MB = 256 };

static const uint64_t PRIVATE = 1UL << 18, SLAVE = 1UL << 19; /* MS_ of <sys/mount.h> */
static const uint64_t CODE_ATTRIBUTES = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
static const char IDLE_STAT[] = "/var/lib/proc/stat"; /* in the root of a runtime */
static const char STAGING[] = "/dev"; /* exists on every Linux; covered in the zygote's namespace only */

static int result(long value) {
    return value < 0 ? -errno : (int)value;
}

static int open_clone(const char *path, unsigned flags) {
    return result(syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags));
}

/* Private, too: what the host mounts below later would come without the attributes. */
static int set_attributes(int fd, const char *path, unsigned flags, uint64_t set) {
    struct mount_attr attributes = {.attr_set = set, .propagation = PRIVATE};
    return result(syscall(SYS_mount_setattr, fd, path, flags, &attributes, sizeof attributes));
}

/* A detached clone with attributes; recursive, so that mounts below are covered by the same rule. */
static int detached(const char *path, uint64_t set) {
    int fd = open_clone(path, AT_RECURSIVE);
    if (fd < 0) {
        return fd;
    }
    const int error = set_attributes(fd, "", AT_EMPTY_PATH | AT_RECURSIVE, set);
    if (error < 0) {
        wire_close(&fd);
        return error;
    }
    return fd;
}

struct option {
    const char *name;
    const char *value; /* NULL: a flag, which may be refused */
};

/* What is in memory must not come to a disk by way of swap. Since Linux 6.4, and not in a user namespace; elsewhere only the control
 * groups keep it away. */
static const struct option NO_SWAP = {"noswap", NULL};

static int set_options(int context, const struct option *options, unsigned count) {
    int error = 0;
    for (unsigned i = 0; i < count && error == 0; i++) {
        const bool flag = options[i].value == NULL;
        error = result(syscall(SYS_fsconfig, context, flag ? FSCONFIG_SET_FLAG : FSCONFIG_SET_STRING, options[i].name,
                               options[i].value, 0));
        error = flag ? 0 : error;
    }
    return error;
}

/* A new file system as a detached mount: descriptor or -errno. */
static int new_mount(const char *type, const struct option *options, unsigned count, unsigned attributes) {
    int context = result(syscall(SYS_fsopen, type, FSOPEN_CLOEXEC));
    if (context < 0) {
        return context;
    }
    int error = set_options(context, options, count);
    if (error == 0) {
        error = result(syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
    }
    if (error == 0) {
        error = result(syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, attributes));
    }
    close(context);
    return error;
}

int fs_attach(int mount_fd, const char *target) {
    return result(syscall(SYS_move_mount, mount_fd, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH));
}

/* Takes the descriptor. */
static int attach_and_close(int fd, const char *target) {
    if (fd < 0) {
        return fd;
    }
    const int error = fs_attach(fd, target);
    close(fd);
    return error;
}

static int detached_tmpfs(uint32_t size_mb, uint32_t inodes, const char *mode, unsigned attributes) {
    char size_text[24], inodes_text[24];
    snprintf(size_text, sizeof size_text, "%um", size_mb);
    snprintf(inodes_text, sizeof inodes_text, "%u", inodes);
    const struct option options[] = {{"size", size_text}, {"nr_inodes", inodes_text}, {"mode", mode}, NO_SWAP};
    return new_mount("tmpfs", options, 4, attributes);
}

static int mount_tmpfs(const char *target, uint32_t size_mb, uint32_t inodes, const char *mode, unsigned attributes) {
    return attach_and_close(detached_tmpfs(size_mb, inodes, mode, attributes), target);
}

static int propagate(uint64_t how) {
    struct mount_attr attributes = {.propagation = how};
    return result(syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &attributes, sizeof attributes));
}

int fs_make_slave(void) {
    return propagate(SLAVE);
}

int fs_make_private(void) {
    return propagate(PRIVATE);
}

/* ---- the root of a runtime ---- */

static const char *const directories[] = {"/dev", "/dev/shm", "/etc", "/opt", "/proc", "/tmp", "/var", "/var/task",
                                          "/var/runtime", "/var/empty", "/run", "/home", "/root"};

static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"};

static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
                                       {"/proc/self/fd/0", "/dev/stdin"},
                                       {"/proc/self/fd/1", "/dev/stdout"},
                                       {"/proc/self/fd/2", "/dev/stderr"},
                                       {"/tmp", "/var/tmp"}};

/* Files of the host that programs read and that tell nothing about it. A copy, so that a later change outside is not seen. */
static const char *const copies[] = {"/etc/ld.so.cache", "/etc/localtime", "/etc/services", "/etc/protocols", "/etc/mime.types"};

static const struct {
    const char *path, *text;
} texts[] = {
    {"/etc/hosts", "127.0.0.1 localhost sandbox sandbox.localdomain\n::1 localhost\n"},
    {"/etc/hostname", "sandbox\n"},
    {"/etc/group", "root:x:0:\n"},
    {"/etc/os-release", "NAME=\"sandbox\"\nID=sandbox\n"},
};

/* "/a/b" under the new root at `staging`: "./a/b". The caller has checked that path is absolute and has no "..". */
static int inside(char *out, size_t bytes, const char *path) {
    const int length = snprintf(out, bytes, ".%s", path);
    return length < 0 || (size_t)length >= bytes ? -ENAMETOOLONG : 0;
}

static int make_parents(const char *path) {
    char part[512];
    const int error = inside(part, sizeof part, path);
    if (error < 0) {
        return error;
    }
    for (char *at = part + 2; (at = strchr(at, '/')) != NULL; at++) {
        *at = '\0';
        if (mkdir(part, 0755) < 0 && errno != EEXIST) {
            return -errno;
        }
        *at = '/';
    }
    return 0;
}

static int make_directory(const char *path) {
    char name[512];
    const int error = make_parents(path);
    if (error < 0 || inside(name, sizeof name, path) < 0) {
        return error < 0 ? error : -ENAMETOOLONG;
    }
    return mkdir(name, 0755) < 0 && errno != EEXIST ? -errno : 0;
}

static int write_file(const char *path, const char *text, size_t bytes) {
    char name[512];
    int error = make_parents(path);
    if (error < 0 || inside(name, sizeof name, path) < 0) {
        return error < 0 ? error : -ENAMETOOLONG;
    }
    const int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        return -errno;
    }
    while (bytes > 0 && error == 0) {
        const ssize_t written = write(fd, text, bytes);
        if (written < 0) {
            error = -errno;
        } else {
            text += written;
            bytes -= (size_t)written;
        }
    }
    close(fd);
    return error;
}

/* The whole of a small file, with a NUL behind it; *text is the caller's to free, also after an error. */
static int read_file(int source, char **text, size_t *bytes) {
    enum { BYTES_MAX = 1 << 20 };
    *text = malloc(BYTES_MAX + 1);
    if (*text == NULL) {
        return -ENOMEM;
    }
    size_t held = 0;
    ssize_t got;
    while ((got = read(source, *text + held, BYTES_MAX - held)) > 0) {
        held += (size_t)got;
    }
    (*text)[held] = '\0';
    if (bytes != NULL) {
        *bytes = held;
    }
    return got < 0 ? -errno : 0;
}

static int copy_file(const char *path, int source) {
    char *text = NULL;
    size_t bytes = 0;
    int error = read_file(source, &text, &bytes);
    error = error == 0 ? write_file(path, text, bytes) : error;
    free(text);
    return error;
}

static int write_passwd(const struct fs_root *root) {
    enum { LINE_BYTES = 80 };
    const size_t room = ((size_t)root->uid_count + 2) * LINE_BYTES;
    char *text = malloc(room);
    if (text == NULL) {
        return -ENOMEM;
    }
    size_t held = (size_t)snprintf(text, room, "root:x:0:0::/root:/usr/sbin/nologin\n");
    for (uint32_t i = 0; i < root->uid_count; i++) {
        held += (size_t)snprintf(text + held, room - held, "sandbox%u:x:%u:%u::/tmp:/bin/sh\n", i, root->uid_base + i,
                                 root->uid_base + i);
    }
    const int error = write_file("/etc/passwd", text, held);
    free(text);
    return error;
}

static int write_resolver(const struct fs_root *root) {
    char text[160];
    const bool asks = root->resolver[0] != '\0';
    snprintf(text, sizeof text, "passwd: files\ngroup: files\nhosts: files%s\nservices: files\nprotocols: files\n",
             asks ? " dns" : "");
    const int error = write_file("/etc/nsswitch.conf", text, strlen(text));
    return error < 0 || !asks ? error : write_file("/etc/resolv.conf", root->resolver, strlen(root->resolver));
}

/* The host's processors by name, as libraries count them, with figures that tell nothing and that can be divided by. `text` is the
 * host's /proc/stat, and changed. */
static int write_idle_stat(char *text) {
    enum { LINE_BYTES = 80 };
    const size_t room = 2 * strlen(text) + LINE_BYTES;
    char *idle = malloc(room), *rest = NULL;
    if (idle == NULL) {
        return -ENOMEM;
    }
    size_t held = 0;
    for (char *line = strtok_r(text, "\n", &rest); line != NULL && held < room; line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "cpu", 3) == 0) {
            held += (size_t)snprintf(idle + held, room - held, "%.*s 0 0 0 100 0 0 0 0 0 0\n", (int)strcspn(line, " "), line);
        } else if (strncmp(line, "btime ", 6) == 0) {
            held += (size_t)snprintf(idle + held, room - held, "intr 0\nctxt 0\n%s\nprocesses 0\nprocs_running 1\n", line);
        }
    }
    const int error = held < room ? write_file(IDLE_STAT, idle, held) : -E2BIG;
    free(idle);
    return error;
}

/* What has to be opened before the host's tree is left. */
struct opened {
    int mounts[FS_BINDS_MAX];
    bool is_directory[FS_BINDS_MAX];
    char link[FS_BINDS_MAX][256]; /* not empty: a symbolic link to make instead */
    int devices[sizeof devices / sizeof *devices];
    int copies[sizeof copies / sizeof *copies];
    int proc, stat;
};

static int open_bind(struct opened *opened, unsigned i, const char *source) {
    struct stat status;
    opened->mounts[i] = -1;
    opened->link[i][0] = '\0';
    if (lstat(source, &status) < 0) {
        return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
    }
    if (S_ISLNK(status.st_mode)) {
        const ssize_t length = readlink(source, opened->link[i], sizeof opened->link[i] - 1);
        if (length < 0) {
            return -errno;
        }
        opened->link[i][length] = '\0';
        return 0;
    }
    opened->is_directory[i] = S_ISDIR(status.st_mode);
    opened->mounts[i] = detached(source, CODE_ATTRIBUTES);
    return opened->mounts[i] < 0 ? opened->mounts[i] : 0;
}

static int open_sources(struct opened *opened, const struct fs_root *root, const char **failed) {
    for (unsigned i = 0; i < root->binds_count; i++) {
        *failed = root->binds[i].source;
        const char *target = root->binds[i].target;
        if (target[0] != '/' || strstr(target, "..") != NULL || strlen(target) > 400) {
            return -EINVAL;
        }
        const int error = open_bind(opened, i, root->binds[i].source);
        if (error < 0) {
            return error;
        }
    }
    for (unsigned i = 0; i < sizeof devices / sizeof *devices; i++) {
        *failed = devices[i];
        opened->devices[i] = detached(devices[i], MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
        if (opened->devices[i] < 0) {
            return opened->devices[i];
        }
    }
    for (unsigned i = 0; i < sizeof copies / sizeof *copies; i++) {
        opened->copies[i] = open(copies[i], O_RDONLY | O_CLOEXEC);
    }
    *failed = "/proc/stat";
    opened->stat = open("/proc/stat", O_RDONLY | O_CLOEXEC);
    if (opened->stat < 0) {
        return -errno;
    }
    *failed = "/proc";
    opened->proc = new_mount("proc", NULL, 0, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    return opened->proc < 0 ? opened->proc : 0;
}

static int place_mount(int fd, const char *target, bool is_directory) {
    char name[512];
    int error = is_directory ? make_directory(target) : write_file(target, "", 0);
    if (error == 0) {
        error = inside(name, sizeof name, target);
    }
    return error < 0 ? error : fs_attach(fd, name);
}

static int fill_root(struct opened *opened, const struct fs_root *root, const char **failed) {
    int error = 0;
    char name[512];
    for (unsigned i = 0; i < sizeof directories / sizeof *directories && error == 0; i++) {
        *failed = directories[i];
        error = make_directory(directories[i]);
    }
    for (unsigned i = 0; i < root->binds_count && error == 0; i++) {
        *failed = root->binds[i].target;
        if (opened->link[i][0] != '\0') {
            error = make_parents(root->binds[i].target);
            if (error == 0 && inside(name, sizeof name, root->binds[i].target) == 0 &&
                symlink(opened->link[i], name) < 0 && errno != EEXIST) {
                error = -errno;
            }
        } else if (opened->mounts[i] >= 0) {
            error = place_mount(opened->mounts[i], root->binds[i].target, opened->is_directory[i]);
        }
    }
    for (unsigned i = 0; i < sizeof devices / sizeof *devices && error == 0; i++) {
        *failed = devices[i];
        error = place_mount(opened->devices[i], devices[i], false);
    }
    for (unsigned i = 0; i < sizeof links / sizeof *links && error == 0; i++) {
        *failed = links[i][1];
        if (inside(name, sizeof name, links[i][1]) == 0 && symlink(links[i][0], name) < 0) {
            error = -errno;
        }
    }
    for (unsigned i = 0; i < sizeof texts / sizeof *texts && error == 0; i++) {
        *failed = texts[i].path;
        error = write_file(texts[i].path, texts[i].text, strlen(texts[i].text));
    }
    for (unsigned i = 0; i < sizeof copies / sizeof *copies && error == 0; i++) {
        *failed = copies[i];
        error = opened->copies[i] < 0 ? 0 : copy_file(copies[i], opened->copies[i]);
    }
    if (error == 0) {
        *failed = "/etc/passwd";
        error = write_passwd(root);
    }
    if (error == 0) {
        *failed = "/etc/resolv.conf";
        error = write_resolver(root);
    }
    if (error == 0) {
        *failed = IDLE_STAT;
        char *text = NULL;
        error = read_file(opened->stat, &text, NULL);
        error = error == 0 ? write_idle_stat(text) : error;
        free(text);
    }
    if (error == 0) {
        *failed = "/proc";
        error = fs_attach(opened->proc, "./proc");
    }
    return error;
}

static int become_root(void) {
    if (syscall(SYS_pivot_root, ".", ".") < 0 || syscall(SYS_umount2, ".", UMOUNT_DETACH) < 0 || chdir("/") < 0) {
        return -errno;
    }
    return set_attributes(AT_FDCWD, "/", 0, CODE_ATTRIBUTES);
}

int fs_enter_root(const struct fs_root *root, const char **failed) {
    *failed = "binds";
    if (root->binds_count > FS_BINDS_MAX) {
        return -E2BIG;
    }
    struct opened *opened = calloc(1, sizeof *opened); /* this process executes another program next: never freed */
    if (opened == NULL) {
        return -ENOMEM;
    }
    int error = open_sources(opened, root, failed);
    if (error < 0) {
        return error;
    }
    umask(0022);
    *failed = "/";
    error = mount_tmpfs(STAGING, 8, ROOT_INODES, "0755", MOUNT_ATTR_NOSUID);
    if (error == 0 && chdir(STAGING) < 0) {
        error = -errno;
    }
    if (error == 0) {
        error = fill_root(opened, root, failed);
    }
    if (error == 0) {
        *failed = "/";
        error = become_root();
    }
    return error;
}

/* ---- a sandbox's own part ---- */

/* The directory as a place, found without leaving root. */
static int open_below(const char *root, const char *directory) {
    const size_t length = strlen(root);
    if (strncmp(directory, root, length) != 0 || directory[length] != '/') {
        return -EXDEV;
    }
    struct open_how how = {.flags = O_PATH | O_DIRECTORY | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    const int top = result(syscall(OPENAT2, AT_FDCWD, root, &how, sizeof how));
    if (top < 0) {
        return top;
    }
    how.resolve |= RESOLVE_BENEATH;
    const int fd = result(syscall(OPENAT2, top, directory + length + 1, &how, sizeof how));
    close(top);
    return fd;
}

static int open_code(const char *directory, const char *root) {
    if (root == NULL) {
        return open_clone(directory, 0);
    }
    const int place = open_below(root, directory);
    if (place < 0) {
        return place;
    }
    const int fd = result(syscall(SYS_open_tree, place, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    close(place);
    return fd;
}

int fs_detached_code(const char *directory, const char *root) {
    int fd = open_code(directory, root);
    if (fd < 0) {
        return fd;
    }
    const int error = set_attributes(fd, "", AT_EMPTY_PATH, CODE_ATTRIBUTES);
    if (error < 0) {
        wire_close(&fd);
        return error;
    }
    return fd;
}

/* The kernel lets a user namespace mount /proc only while an unmasked one is visible, so the new one is made first. */
int fs_fresh_proc(void) {
    const int fd = new_mount("proc", NULL, 0, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    if (fd >= 0 && syscall(SYS_umount2, "/proc", UMOUNT_DETACH) < 0) {
        const int error = -errno;
        close(fd);
        return error;
    }
    return attach_and_close(fd, "/proc");
}

enum mask { HIDE_FILE, HIDE_DIRECTORY, READ_ONLY, REPLACE_STAT };

/* What tells about the host or other tenants, or acts on them. Files that only some kernels have are skipped. What sysinfo(2) tells
 * anybody is left (meminfo, loadavg, uptime): language runtimes size themselves with it. */
static const struct {
    const char *path;
    enum mask how;
} masks[] = {
    {"/proc/kcore", HIDE_FILE},          {"/proc/keys", HIDE_FILE},         {"/proc/key-users", HIDE_FILE},
    {"/proc/kallsyms", HIDE_FILE},       {"/proc/kmsg", HIDE_FILE},         {"/proc/kpagecount", HIDE_FILE},
    {"/proc/kpageflags", HIDE_FILE},     {"/proc/kpagecgroup", HIDE_FILE},  {"/proc/latency_stats", HIDE_FILE},
    {"/proc/timer_list", HIDE_FILE},     {"/proc/sched_debug", HIDE_FILE},  {"/proc/schedstat", HIDE_FILE},
    {"/proc/interrupts", HIDE_FILE},     {"/proc/softirqs", HIDE_FILE},     {"/proc/sysrq-trigger", HIDE_FILE},
    {"/proc/slabinfo", HIDE_FILE},       {"/proc/vmallocinfo", HIDE_FILE},  {"/proc/vmstat", HIDE_FILE},
    {"/proc/zoneinfo", HIDE_FILE},       {"/proc/buddyinfo", HIDE_FILE},    {"/proc/pagetypeinfo", HIDE_FILE},
    {"/proc/swaps", HIDE_FILE},          {"/proc/cgroups", HIDE_FILE},      {"/proc/cmdline", HIDE_FILE},
    {"/proc/bootconfig", HIDE_FILE},     {"/proc/modules", HIDE_FILE},      {"/proc/diskstats", HIDE_FILE},
    {"/proc/partitions", HIDE_FILE},     {"/proc/locks", HIDE_FILE},        {"/proc/acpi", HIDE_DIRECTORY},
    {"/proc/asound", HIDE_DIRECTORY},    {"/proc/scsi", HIDE_DIRECTORY},    {"/proc/driver", HIDE_DIRECTORY},
    {"/proc/pressure", HIDE_DIRECTORY},  {"/proc/bus", HIDE_DIRECTORY},     {"/proc/fs", HIDE_DIRECTORY},
    {"/proc/irq", HIDE_DIRECTORY},       {"/proc/sys", READ_ONLY},          {"/proc/sys/fs/file-nr", HIDE_FILE},
    {"/proc/sys/fs/inode-nr", HIDE_FILE}, {"/proc/sys/fs/inode-state", HIDE_FILE}, {"/proc/sys/fs/dentry-state", HIDE_FILE},
    {"/proc/stat", REPLACE_STAT},
};

int fs_mask_proc(bool read_only_sys) {
    for (unsigned i = 0; i < sizeof masks / sizeof *masks; i++) {
        struct stat status;
        if (!read_only_sys && strcmp(masks[i].path, "/proc/sys") == 0) {
            continue;
        }
        if (lstat(masks[i].path, &status) < 0) {
            if (errno == ENOENT) {
                continue;
            }
            return -errno;
        }
        /* /dev/null and the root have been mounted read-only, and their clones are what they are. */
        const int mount = masks[i].how == HIDE_FILE        ? open_clone("/dev/null", 0)
                          : masks[i].how == HIDE_DIRECTORY ? open_clone("/var/empty", 0)
                          : masks[i].how == REPLACE_STAT   ? open_clone(IDLE_STAT, 0)
                                                           : detached(masks[i].path, CODE_ATTRIBUTES | MOUNT_ATTR_NOEXEC);
        const int error = attach_and_close(mount, masks[i].path);
        if (error < 0) {
            return error;
        }
    }
    return 0;
}

int fs_mount_shm(void) {
    return mount_tmpfs("/dev/shm", SHM_MB, SHM_INODES, "1777", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
}

int fs_detached_scratch(uint32_t size_mb) {
    return detached_tmpfs(size_mb, size_mb * INODES_PER_MB, "1777", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
}

int fs_mount_scratch(uint32_t size_mb) {
    return attach_and_close(fs_detached_scratch(size_mb), "/tmp");
}

int fs_mount_staging(int directory) {
    enum { ONTO_DESCRIPTOR = 0x44 /* MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH */ };
    int fd = detached_tmpfs(1, ROOT_INODES, "0700", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
    const int error = fd < 0 ? fd : result(syscall(SYS_move_mount, fd, "", directory, "", ONTO_DESCRIPTOR));
    if (error < 0) {
        wire_close(&fd);
    }
    return error < 0 ? error : fd;
}

int fs_resize_scratch(uint32_t size_mb) {
    char size_text[24], inodes_text[24];
    snprintf(size_text, sizeof size_text, "%um", size_mb);
    snprintf(inodes_text, sizeof inodes_text, "%u", size_mb * INODES_PER_MB);
    const struct option options[] = {{"size", size_text}, {"nr_inodes", inodes_text}, NO_SWAP};
    const int context = result(syscall(SYS_fspick, AT_FDCWD, "/tmp", FSPICK_CLOEXEC));
    if (context < 0) {
        return context;
    }
    int error = set_options(context, options, 3);
    if (error == 0) {
        error = result(syscall(SYS_fsconfig, context, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0));
    }
    close(context);
    return error;
}
