/* journal_disk.h: the journal's files, as its writer keeps them: appended to, rotated, bounded, mended after a crash.
 *
 * All of it is the writer's thread's alone, but for the two figures that are atomic. NAME.journal is written, NAME.journal.1, .2, … are
 * older. Nothing is ever compressed or changed in place: who reads has an inode and an offset, and they must stay true. */
#ifndef SCHED_JOURNAL_DISK_H
#define SCHED_JOURNAL_DISK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct journal_limits {
    uint64_t file_bytes_max;  /* of one file before it rotates */
    uint32_t files_max;       /* rotated ones kept for each function */
    uint64_t total_bytes_max; /* of all files of all functions; 0: no bound */
    uint64_t turn_ns;         /* a file whose first record is older rotates; 0: never */
    uint64_t keep_ns;         /* a file last written to longer ago is removed; 0: never */
};

/* One function's, as the writer sees it. */
struct disk_file {
    char *path;               /* without .N */
    int fd;                   /* -1 until it opens it */
    bool checked;             /* it holds whole records alone */
    uint64_t size;
    uint64_t begun_ns;        /* realtime of its first record, 0: empty */
    uint64_t lost_bytes;      /* that the disk did not take, since the last record it did */
};

enum { DISK_OPEN_MAX = 64 };

struct disk {
    const char *dir;
    struct journal_limits limits;
    uint64_t looked_ns;       /* monotonic: when all files were last looked at */
    struct disk_file *opened[DISK_OPEN_MAX]; /* a ring: the oldest is closed when one more is opened */
    uint32_t opened_next;
    _Atomic uint64_t bytes;   /* of all files */
    _Atomic uint64_t lost_bytes;
    _Atomic int trouble;      /* errno of the last write that failed, 0: none has */
};

void disk_begin(struct disk *disk, const char *dir, const struct journal_limits *limits);
/* Whole records. What cannot be written is counted as lost. */
void disk_write(struct disk *disk, struct disk_file *file, const void *data, size_t bytes);
/* No more of it. */
void disk_close(struct disk *disk, struct disk_file *file);
/* ms until disk_look() is due, -1: never. */
int disk_wait_ms(const struct disk *disk);
/* Removes what is too old or too much. */
void disk_look(struct disk *disk);

#endif
