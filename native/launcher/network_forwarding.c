/* The one thing that a launcher changes for the whole machine: which devices of the host forward. It is written down before it is
 * done, so that it is undone even when everything was killed at once.
 *
 *   /run/scheduler-forwarding/            locked (exclusive) while a file in it is opened, written, or removed
 *   /run/scheduler-forwarding/<namespace> names of switched devices, a line each; locked (shared) by each launcher that
 *                                         relies on them. Who finds it locked by nobody switches back and removes it.
 *
 * <namespace> is the inode of the network namespace, so that containers that share /run do not meet.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "network.h"
#include "wire.h"

enum { TEXT_BYTES = NETWORK_DEVICES_MAX * NETWORK_DEVICE_BYTES + 1 };

static const char DIRECTORY[] = "/run/scheduler-forwarding";

int network_sysctl(const char *path, const char *value) {
    char name[160];
    const int length = snprintf(name, sizeof name, "/proc/sys/net/%s", path);
    if (length < 0 || (size_t)length >= sizeof name) {
        return -ENAMETOOLONG;
    }
    const int fd = open(name, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    const int error = write(fd, value, strlen(value)) < 0 ? -errno : 0;
    close(fd);
    return error;
}

static bool is_on(const char *path) {
    char name[160], digit = '0';
    snprintf(name, sizeof name, "/proc/sys/net/%s", path);
    const int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    const bool on = read(fd, &digit, 1) == 1 && digit != '0';
    close(fd);
    return on;
}

static void forwarding_of(char *path, size_t bytes, const char *device) {
    snprintf(path, bytes, "ipv4/conf/%.15s/forwarding", device);
}

/* The directory, locked: descriptor or -errno. */
static int enter_directory(bool make) {
    if (make && mkdir(DIRECTORY, 0700) < 0 && errno != EEXIST) {
        return -errno;
    }
    int fd = open(DIRECTORY, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    struct stat status;
    int error = fstat(fd, &status) < 0 ? -errno : status.st_uid != geteuid() ? -EPERM : 0;
    while (error == 0 && flock(fd, LOCK_EX) < 0) {
        error = errno == EINTR ? 0 : -errno;
    }
    if (error < 0) {
        wire_close(&fd);
        return error;
    }
    return fd;
}

static int file_name(char *name, size_t bytes) {
    struct stat status;
    if (stat("/proc/self/ns/net", &status) < 0) {
        return -errno;
    }
    snprintf(name, bytes, "%llu", (unsigned long long)status.st_ino);
    return 0;
}

/* The devices that the file names. */
static unsigned read_devices(int fd, char (*devices)[NETWORK_DEVICE_BYTES]) {
    char text[TEXT_BYTES];
    const ssize_t got = pread(fd, text, sizeof text - 1, 0);
    unsigned count = 0;
    text[got < 0 ? 0 : got] = '\0';
    for (char *rest = text, *line; count < NETWORK_DEVICES_MAX && (line = strsep(&rest, "\n")) != NULL;) {
        if (line[0] != '\0' && strlen(line) < NETWORK_DEVICE_BYTES && strchr(line, '/') == NULL) {
            snprintf(devices[count++], NETWORK_DEVICE_BYTES, "%s", line);
        }
    }
    return count;
}

static int write_devices(int fd, const char (*devices)[NETWORK_DEVICE_BYTES], unsigned count) {
    char text[TEXT_BYTES] = "";
    size_t held = 0;
    for (unsigned i = 0; i < count; i++) {
        held += (size_t)snprintf(text + held, sizeof text - held, "%s\n", devices[i]);
    }
    if (pwrite(fd, text, held, 0) != (ssize_t)held || ftruncate(fd, (off_t)held) < 0) {
        return errno != 0 ? -errno : -EIO;
    }
    return 0;
}

/* With the directory locked: if nobody relies on the file, its devices are as they were. A host that forwards by now keeps them. */
static void switch_back(int directory, const char *name, int fd) {
    char devices[NETWORK_DEVICES_MAX][NETWORK_DEVICE_BYTES], path[160];
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        return;
    }
    const unsigned count = is_on("ipv4/ip_forward") ? 0 : read_devices(fd, devices);
    for (unsigned i = 0; i < count; i++) {
        forwarding_of(path, sizeof path, devices[i]);
        (void)network_sysctl(path, "0"); /* the device may be gone */
    }
    (void)unlinkat(directory, name, 0);
}

static int switch_on(int fd, const char (*devices)[NETWORK_DEVICE_BYTES], unsigned count,
                     char (*switched)[NETWORK_DEVICE_BYTES], unsigned *switched_count) {
    char path[160];
    int error = 0;
    unsigned have = read_devices(fd, switched);
    for (unsigned i = 0; i < count && have < NETWORK_DEVICES_MAX && error == 0; i++) {
        forwarding_of(path, sizeof path, devices[i]);
        if (!is_on(path)) {
            snprintf(switched[have++], NETWORK_DEVICE_BYTES, "%s", devices[i]);
            error = write_devices(fd, (const char(*)[NETWORK_DEVICE_BYTES])switched, have); /* first written, then done */
            error = error < 0 ? error : network_sysctl(path, "1");
        }
    }
    *switched_count = have;
    return error;
}

int network_forward(const char (*devices)[NETWORK_DEVICE_BYTES], unsigned count, char (*switched)[NETWORK_DEVICE_BYTES],
                    unsigned *switched_count) {
    char name[32];
    *switched_count = 0;
    int directory = enter_directory(true);
    int error = directory < 0 ? directory : file_name(name, sizeof name);
    int fd = -1;
    if (error == 0) {
        fd = openat(directory, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        error = fd < 0 || flock(fd, LOCK_SH | LOCK_NB) < 0 ? -errno : 0;
    }
    if (error == 0 && !is_on("ipv4/ip_forward")) {
        error = switch_on(fd, devices, count, switched, switched_count);
        if (error < 0) {
            switch_back(directory, name, fd);
        }
    }
    if (error < 0) {
        wire_close(&fd);
    }
    wire_close(&directory);
    return error < 0 ? error : fd;
}

void network_unforward(int *lock) {
    if (*lock >= 0) {
        wire_close(lock);
        network_restore();
    }
}

void network_restore(void) {
    char name[32];
    int directory = enter_directory(false);
    if (directory < 0) {
        return; /* there was never anything to switch */
    }
    int fd = file_name(name, sizeof name) < 0 ? -1 : openat(directory, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0) {
        switch_back(directory, name, fd);
    }
    wire_close(&fd);
    wire_close(&directory);
}
