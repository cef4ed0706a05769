/* journal_disk.c: see journal_disk.h. */
#include "journal_disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "journal.h"

enum {
    PATH_BYTES = 512,
    WINDOW_BYTES = 256 * 1024, /* of a file that is checked, at once; a record fits in */
    PARTS_OF_TOTAL = 8,        /* a file is never more than this part of all: what is removed is removed in small pieces */
    LOOK_MS = 60 * 1000
};

static const char SUFFIX[] = ".journal";

static uint64_t clock_of(clockid_t id) {
    struct timespec now;
    clock_gettime(id, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

static void count(struct disk *disk, int64_t bytes) {
    const uint64_t before = atomic_load_explicit(&disk->bytes, memory_order_relaxed);
    const uint64_t after = bytes < 0 && (uint64_t)-bytes > before ? 0 : before + (uint64_t)bytes;
    atomic_store_explicit(&disk->bytes, after, memory_order_relaxed);
}

/* ---- one file ---------------------------------------------------------------------------------------------------------- */

static void forget(struct disk *disk, const char *path) {
    struct stat info;
    if (lstat(path, &info) == 0 && unlink(path) == 0) {
        count(disk, -(int64_t)info.st_size);
    }
}

static void close_file(struct disk_file *file) {
    if (file->fd >= 0) {
        close(file->fd);
    }
    file->fd = -1;
}

/* From the oldest on, so that a crash in between leaves a gap in the numbers and loses nothing. */
static void rotate(struct disk *disk, struct disk_file *file) {
    char from[PATH_BYTES];
    char to[PATH_BYTES];
    close_file(file);
    for (uint32_t i = disk->limits.files_max; i > 0; i--) {
        snprintf(to, sizeof to, "%s.%" PRIu32, file->path, i);
        if (i == 1) {
            snprintf(from, sizeof from, "%s", file->path);
        } else {
            snprintf(from, sizeof from, "%s.%" PRIu32, file->path, i - 1);
        }
        if (i == disk->limits.files_max) {
            forget(disk, to);
        }
        (void)rename(from, to);
    }
    if (disk->limits.files_max == 0) {
        forget(disk, file->path);
    }
}

/* Bytes of whole records from the beginning on, and when the first was written. UINT64_MAX: it could not be found out. */
static uint64_t whole_bytes(int fd, uint64_t *begun_ns) {
    uint8_t *window = malloc(WINDOW_BYTES);
    uint64_t at = window == NULL ? UINT64_MAX : 0;
    *begun_ns = 0;
    for (ssize_t got = 1; window != NULL && got > 0;) {
        got = pread(fd, window, WINDOW_BYTES, (off_t)at);
        if (got < 0) {
            at = UINT64_MAX;
            break;
        }
        size_t used = 0;
        struct journal_record head;
        while (got > 0 && (size_t)got - used >= sizeof head) {
            memcpy(&head, window + used, sizeof head);
            if (head.size < sizeof head || head.size > JOURNAL_LARGE_BYTES) {
                got = 0; /* no record */
                break;
            }
            if (head.size > (size_t)got - used) {
                break; /* the next window may have it whole */
            }
            if (at + used == 0) {
                *begun_ns = head.time_ns;
            }
            used += head.size;
        }
        at += used;
        got = used == 0 ? 0 : got;
    }
    free(window);
    return at;
}

/* A service that was killed while it wrote leaves half a record, which would hide all that is written behind it. It is cut off. What no
 * such write can have left is kept as it is, and the journal goes on in a new file. */
static bool mend(struct disk *disk, struct disk_file *file) {
    const int fd = open(file->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return false;
    }
    const uint64_t whole = whole_bytes(fd, &file->begun_ns);
    close(fd);
    if (whole < file->size && file->size - whole <= JOURNAL_LARGE_BYTES && ftruncate(file->fd, (off_t)whole) == 0) {
        count(disk, (int64_t)whole - (int64_t)file->size);
        file->size = whole;
    } else if (whole < file->size) {
        rotate(disk, file);
    }
    return true;
}

static bool open_file(struct disk *disk, struct disk_file *file) {
    for (int i = 0; file->fd < 0 && i < 2; i++) { /* a second time when it was rotated away */
        file->fd = open(file->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
        if (file->fd < 0) {
            return false;
        }
        struct stat info;
        if (fstat(file->fd, &info) != 0 || !S_ISREG(info.st_mode)) {
            file->size = 0;
            return true;
        }
        file->size = (uint64_t)info.st_size;
        if (file->size == 0) {
            file->begun_ns = 0;
        } else if (!file->checked && !mend(disk, file)) {
            close_file(file);
            return false;
        }
        file->checked = true;
    }
    return file->fd >= 0;
}

static bool append(struct disk *disk, struct disk_file *file, const void *data, size_t bytes) {
    size_t at = 0;
    while (at < bytes) {
        const ssize_t wrote = write(file->fd, (const uint8_t *)data + at, bytes - at);
        if (wrote < 0) {
            const int error = errno;
            if (error == EINTR) {
                continue;
            }
            /* A torn record would hide all that follow it: take it back. */
            if (ftruncate(file->fd, (off_t)file->size) != 0) {
                close_file(file);
                file->checked = false;
            }
            errno = error;
            return false;
        }
        at += (size_t)wrote;
    }
    file->size += bytes;
    count(disk, (int64_t)bytes);
    if (file->begun_ns == 0) {
        file->begun_ns = clock_of(CLOCK_REALTIME_COARSE);
    }
    return true;
}

/* A file that has room for so many bytes more, rotated if it must be. */
static bool open_for(struct disk *disk, struct disk_file *file, size_t bytes) {
    if (!open_file(disk, file)) {
        return false;
    }
    const uint64_t now_ns = clock_of(CLOCK_REALTIME_COARSE);
    const bool old = disk->limits.turn_ns > 0 && file->begun_ns > 0 && file->begun_ns + disk->limits.turn_ns <= now_ns;
    if (file->size > 0 && (old || file->size + bytes > disk->limits.file_bytes_max)) {
        rotate(disk, file);
        file->begun_ns = 0;
        return open_file(disk, file);
    }
    return true;
}

static bool say_lost(struct disk *disk, struct disk_file *file) {
    struct {
        struct journal_record head;
        uint64_t bytes;
    } gap = {.head = {.size = sizeof gap, .kind = JOURNAL_DROPPED, .time_ns = clock_of(CLOCK_REALTIME_COARSE)},
             .bytes = file->lost_bytes};
    if (file->lost_bytes > 0 && !append(disk, file, &gap, sizeof gap)) {
        return false;
    }
    file->lost_bytes = 0;
    return true;
}

static void note_opened(struct disk *disk, struct disk_file *file) {
    struct disk_file *oldest = disk->opened[disk->opened_next];
    if (oldest != NULL && oldest != file) {
        close_file(oldest);
    }
    disk->opened[disk->opened_next] = file;
    disk->opened_next = (disk->opened_next + 1) % DISK_OPEN_MAX;
}

void disk_write(struct disk *disk, struct disk_file *file, const void *data, size_t bytes) {
    const bool was_open = file->fd >= 0;
    if (disk->limits.total_bytes_max > 0 &&
        atomic_load_explicit(&disk->bytes, memory_order_relaxed) + bytes > disk->limits.total_bytes_max) {
        disk_look(disk);
    }
    errno = 0;
    if (!open_for(disk, file, bytes) || !say_lost(disk, file) || !append(disk, file, data, bytes)) {
        atomic_store_explicit(&disk->trouble, errno != 0 ? errno : EIO, memory_order_relaxed);
        file->lost_bytes += bytes;
        atomic_fetch_add_explicit(&disk->lost_bytes, bytes, memory_order_relaxed);
    }
    if (!was_open && file->fd >= 0) {
        note_opened(disk, file);
    }
}

void disk_close(struct disk *disk, struct disk_file *file) {
    for (uint32_t i = 0; i < DISK_OPEN_MAX; i++) {
        disk->opened[i] = disk->opened[i] == file ? NULL : disk->opened[i];
    }
    close_file(file);
}

/* ---- all files --------------------------------------------------------------------------------------------------------- */

struct part {
    char *name;               /* of the file */
    size_t owner_bytes;       /* of it, the function's name */
    uint32_t number;          /* 0: the one that is written */
    uint64_t size;
    uint64_t written_ns;      /* realtime */
};

struct parts {
    struct part *all;
    size_t count;
    size_t capacity;
};

/* NAME.journal or NAME.journal.N, else false. */
static bool is_part(const char *name, struct part *part) {
    const char *suffix = strstr(name, SUFFIX);
    if (suffix == NULL || suffix == name) {
        return false;
    }
    part->owner_bytes = (size_t)(suffix - name);
    const char *rest = suffix + sizeof SUFFIX - 1;
    part->number = 0;
    if (*rest == '\0') {
        return true;
    }
    char *end;
    if (rest[0] != '.' || rest[1] < '1' || rest[1] > '9') {
        return false;
    }
    const unsigned long number = strtoul(rest + 1, &end, 10);
    part->number = (uint32_t)number;
    return *end == '\0' && number <= UINT32_MAX;
}

static bool parts_add(struct parts *parts, const struct part *part) {
    if (parts->count == parts->capacity) {
        const size_t capacity = parts->capacity == 0 ? 64 : 2 * parts->capacity;
        struct part *all = realloc(parts->all, capacity * sizeof *all);
        if (all == NULL) {
            return false;
        }
        parts->all = all;
        parts->capacity = capacity;
    }
    parts->all[parts->count++] = *part;
    return true;
}

/* By function, the oldest first. */
static int by_age(const void *a, const void *b) {
    const struct part *one = a;
    const struct part *other = b;
    const size_t least = one->owner_bytes < other->owner_bytes ? one->owner_bytes : other->owner_bytes;
    const int names = memcmp(one->name, other->name, least);
    if (names != 0 || one->owner_bytes != other->owner_bytes) {
        return names != 0 ? names : one->owner_bytes < other->owner_bytes ? -1 : 1;
    }
    return one->number > other->number ? -1 : one->number < other->number;
}

static void parts_find(struct disk *disk, struct parts *parts) {
    uint64_t bytes = 0;
    DIR *dir = opendir(disk->dir);
    if (dir == NULL) {
        return;
    }
    for (const struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        struct part part;
        struct stat info;
        if (!is_part(entry->d_name, &part) || fstatat(dirfd(dir), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 ||
            !S_ISREG(info.st_mode)) {
            continue;
        }
        part.name = strdup(entry->d_name);
        part.size = (uint64_t)info.st_size;
        part.written_ns = (uint64_t)info.st_mtim.tv_sec * 1000000000ULL + (uint64_t)info.st_mtim.tv_nsec;
        if (part.name == NULL || !parts_add(parts, &part)) {
            free(part.name);
            break; /* no memory: what was found will do */
        }
        bytes += part.size;
    }
    closedir(dir);
    atomic_store_explicit(&disk->bytes, bytes, memory_order_relaxed);
    if (parts->count > 0) {
        qsort(parts->all, parts->count, sizeof *parts->all, by_age);
    }
}

static void parts_free(struct parts *parts) {
    for (size_t i = 0; i < parts->count; i++) {
        free(parts->all[i].name);
    }
    free(parts->all);
}

static void part_remove(struct disk *disk, struct part *part) {
    char path[PATH_BYTES];
    if ((size_t)snprintf(path, sizeof path, "%s/%s", disk->dir, part->name) < sizeof path) {
        for (uint32_t i = 0; part->number == 0 && i < DISK_OPEN_MAX; i++) {
            if (disk->opened[i] != NULL && strcmp(disk->opened[i]->path, path) == 0) {
                close_file(disk->opened[i]); /* or what comes next would be written to a file without a name */
            }
        }
        forget(disk, path);
    }
    part->size = 0;
}

/* First of the parts of the function that holds most, or count: nobody's flood shall cost others their logs. */
static size_t largest_owner(const struct parts *parts) {
    size_t best = parts->count;
    uint64_t most = 0;
    for (size_t first = 0, next; first < parts->count; first = next) {
        uint64_t bytes = 0;
        for (next = first; next < parts->count && parts->all[next].owner_bytes == parts->all[first].owner_bytes &&
                           memcmp(parts->all[next].name, parts->all[first].name, parts->all[first].owner_bytes) == 0; next++) {
            bytes += parts->all[next].size;
        }
        if (bytes > most) {
            most = bytes;
            best = first;
        }
    }
    return best;
}

void disk_look(struct disk *disk) {
    struct parts parts = {0};
    disk->looked_ns = clock_of(CLOCK_MONOTONIC_COARSE);
    parts_find(disk, &parts);
    const uint64_t now_ns = clock_of(CLOCK_REALTIME_COARSE);
    for (size_t i = 0; disk->limits.keep_ns > 0 && i < parts.count; i++) {
        if (parts.all[i].written_ns + disk->limits.keep_ns <= now_ns) {
            part_remove(disk, &parts.all[i]);
        }
    }
    const uint64_t most = disk->limits.total_bytes_max;
    while (most > 0 && atomic_load_explicit(&disk->bytes, memory_order_relaxed) > most - most / PARTS_OF_TOTAL) {
        size_t i = largest_owner(&parts);
        if (i == parts.count) {
            break;
        }
        while (parts.all[i].size == 0) {
            i++; /* removed before; one of them holds what was counted */
        }
        const uint64_t before = atomic_load_explicit(&disk->bytes, memory_order_relaxed);
        part_remove(disk, &parts.all[i]);
        if (atomic_load_explicit(&disk->bytes, memory_order_relaxed) == before) {
            break; /* nothing can be removed here */
        }
    }
    parts_free(&parts);
}

int disk_wait_ms(const struct disk *disk) {
    if (disk->limits.total_bytes_max == 0 && disk->limits.keep_ns == 0) {
        return -1;
    }
    const uint64_t since_ms = (clock_of(CLOCK_MONOTONIC_COARSE) - disk->looked_ns) / 1000000;
    return since_ms >= LOOK_MS ? 0 : (int)(LOOK_MS - since_ms);
}

void disk_begin(struct disk *disk, const char *dir, const struct journal_limits *limits) {
    *disk = (struct disk){.dir = dir, .limits = *limits};
    const uint64_t share = limits->total_bytes_max / PARTS_OF_TOTAL;
    if (share > 0 && disk->limits.file_bytes_max > share) {
        disk->limits.file_bytes_max = share;
    }
}
