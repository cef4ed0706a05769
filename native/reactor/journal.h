/* journal.h: one log file per function, in binary records, turned into Lambda's lines only when somebody reads them.
 *
 * Writing a line for each of 100,000 calls a second as text would cost more than scheduling them; a record costs one copy. The
 * reactor fills buffers; a thread of the journal's own writes them to disk, so that a slow disk never delays a call. When it
 * cannot keep up, or the disk takes no more, records are dropped and counted, and the journal says so where they are missing.
 *
 * A record, little-endian as the machine (journals do not travel):
 *   u32 size of the whole record, u8 kind, u8 outcome (core_outcome), u8 cause (core_cause), u8 look (sched_look),
 *   u64 time_ns (realtime), u64 sandbox, u8[16] request id, and by kind:
 *     START: version    LOG: bytes    END, CALL: struct journal_end, version, and as far as there
 *     are any, each behind a NUL, the trace header and the guest; START too, with an empty trace    TEXT: a line, without its end    DROPPED: u64 bytes
 * CALL is START and END of a call that wrote nothing.
 */
#ifndef SCHED_JOURNAL_H
#define SCHED_JOURNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine.h"
#include "journal_disk.h"
#include "mailbox.h"

enum journal_kind {
    JOURNAL_START = 1,
    JOURNAL_LOG = 2,
    JOURNAL_END = 3,
    JOURNAL_CALL = 4,
    JOURNAL_TEXT = 5,
    JOURNAL_DROPPED = 6
};

/* A buffer is large where a function's last one was filled or a record asks for it, else small: a thousand functions that log a line
 * now and then must all find one. */
enum {
    JOURNAL_LARGE_BYTES = 96 * 1024, /* of a buffer, and so of a record */
    JOURNAL_SMALL_BYTES = 8 * 1024,
    JOURNAL_HELD_BYTES_MAX = 24 << 20, /* all buffers */
    JOURNAL_LOG_BYTES_MAX = 65536
};

struct journal_record {
    uint32_t size;
    uint8_t kind;
    uint8_t outcome;
    uint8_t cause;
    uint8_t look;
    uint64_t time_ns;
    uint64_t sandbox;
    uint8_t request_id[16];
};

struct journal_end {
    uint64_t run_ns;
    uint64_t init_ns;
    uint32_t memory_mb;
    uint32_t memory_peak_mb;
    uint32_t timeout_ms;
    int32_t status;
};

struct journal_buffer {
    struct journal_buffer *next; /* free list */
    uint32_t capacity;           /* one of the two */
    uint32_t used;
    uint8_t data[];
};

struct journal_file {
    char *name;
    uint32_t holders;            /* reactor's side */
    struct journal_buffer *buffer;
    uint64_t dropped_bytes;      /* since the last record that went in */
    struct journal_file *next;   /* all files; or all that are closed but not told to the writer */
    struct journal_file *filled_next;
    bool filled;
    bool busy;                   /* filled its last buffer before it was flushed */
    struct disk_file disk;       /* the writer's side */
};

struct journal {
    bool on;
    bool running;
    char dir[256];
    struct disk disk;            /* the writer's side */
    struct mailbox to_writer;
    struct mailbox from_writer;
    pthread_t thread;
    struct journal_file *files;
    struct journal_file *filled; /* files whose buffer holds something */
    struct journal_file *closing;
    struct journal_buffer *free_small;
    struct journal_buffer *free_large;
    uint64_t held_bytes;         /* all buffers that there are */
    uint64_t bytes;
    uint64_t dropped_bytes;      /* for want of a buffer */
};

/* dir empty: no journal is kept and the calls below do nothing. 0 or -errno. */
int journal_new(struct journal *journal, const char *dir, const struct journal_limits *limits);
/* Writes what is left, ends the thread. */
void journal_free(struct journal *journal);
/* The file of this function; NULL when there is no journal. name: as checked by the registry; anything else is refused (NULL). */
struct journal_file *journal_open(struct journal *journal, const char *name);
void journal_close(struct journal *journal, struct journal_file *file);
/* Two pieces behind the head, either may be empty. head->size is filled in. */
void journal_add(struct journal *journal, struct journal_file *file, struct journal_record *head, const void *first,
                 size_t first_bytes, const void *second, size_t second_bytes);
/* Hands filled buffers to the writer, even part-filled ones. What it has no room for waits for the next time. */
void journal_flush(struct journal *journal);
/* There is something to flush. */
bool journal_busy(const struct journal *journal);
/* Records dropped or lost so far. */
uint64_t journal_lost(const struct journal *journal);

/* What a look leaves out is not written either. outcome: a call's; JOURNAL_START has none. */
bool journal_shows(uint8_t look, enum journal_kind kind, uint8_t outcome);
/* "REPORT RequestId: …" and its kin, as Lambda words them; bytes written, at most out_bytes (cut). Used for log tails too. */
struct journal_rest;
size_t journal_render_start(char *out, size_t out_bytes, const struct journal_record *head, const struct journal_rest *rest);
/* What stands behind a record's head and end: version, trace header and guest, with NULs between them. Empty: there is none. */
struct journal_rest {
    const char *version;
    size_t version_bytes;
    const char *trace;
    size_t trace_bytes;
    const char *guest;
    size_t guest_bytes;
};
enum { JOURNAL_REST_MAX = 64 + 1 + 1024 + 1 + 256 };
/* Bytes written to out, which has JOURNAL_REST_MAX. */
size_t journal_rest_put(const struct journal_rest *rest, char *out);
size_t journal_render_end(char *out, size_t out_bytes, const struct journal_record *head, const struct journal_end *end,
                          const struct journal_rest *rest);
/* As records have it: realtime, of the coarse clock. */
uint64_t journal_now_ns(void);
/* 36 characters and a NUL. */
void journal_uuid(const uint8_t id[16], char out[37]);
/* Of a start that failed: a line without its end. error: its type, NULL: it took too long. again: it was the second try, in a call. */
size_t journal_render_init(char *out, size_t out_bytes, uint8_t look, uint64_t init_ns, bool again, const char *error);
/* Of a restore: two lines, the last without its end. */
size_t journal_render_restore(char *out, size_t out_bytes, uint8_t look, const char *runtime, uint64_t restore_ns);
/* As Lambda's messages have it: "killed", "segmentation fault". */
const char *journal_signal(int number);
/* Restoring is billed apart from running. */
uint64_t journal_billed_ms(uint64_t run_ns, uint64_t init_ns);

#endif
