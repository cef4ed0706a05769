/* load.h: the load generator's data. Who does what: load_options.c reads the command line, load.c runs, load_report.c prints.
 *
 * Times. A call's latency runs from the moment it was *meant* to be sent. In a closed loop that is when it is sent; in an open
 * loop it is the schedule's time, however late the generator or a full socket made it: a server that stalls is charged for
 * every call that was due meanwhile (no coordinated omission). A call that was due and never sent, or sent and never
 * answered, is recorded with the time it had waited by the end, and counted as such.
 *
 * Records begin after the warm-up. A call belongs to the record if it was meant to be sent in it; throughput counts the answers
 * that arrive in it.
 */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

#include "common.h"
#include "histogram.h"
#include "wire.h"

enum {
    STREAMS_MAX = 16,
    KINDS_MAX = 64,
    ERRORS_MAX = 20,
    CONNECTIONS_MAX = 20000,
    OUTSTANDING_MAX = 1 << 20, /* of one connection: a slot's number has 20 bits of the msgid, its generation 12 */
    SERIES_MAX = 100000,
    NAME_BYTES = 64,
    OPEN_BATCH = 2048,            /* sends of one stream before answers are looked at again */
    PENDING_BYTES_MAX = 256 * 1024 /* unsent bytes of a connection beyond which an open loop waits */
};

enum mode { MODE_CLOSED, MODE_OPEN, MODE_IDLE };

/* One function with one payload. */
struct kind {
    uint8_t *request; /* whole frame, msgid 0 */
    size_t request_bytes;
    const uint8_t *payload; /* inside request */
    size_t payload_bytes;
    double weight_up_to; /* cumulative, last is 1 */
    struct histogram *latency;
};

struct error_count {
    char type[NAME_BYTES];
    uint64_t count;
    struct histogram *latency;
};

struct interval {
    uint64_t ok;
    uint64_t failed;
    uint64_t p50_ns;
    uint64_t p99_ns;
    uint64_t max_ns;
};

struct stream {
    char name[NAME_BYTES];
    enum mode mode;
    uint32_t connections;
    uint32_t inflight;    /* closed: of each connection */
    uint32_t outstanding; /* open: at most, of each connection */
    double rate;          /* open: calls/s of the whole stream */
    bool poisson;
    bool check_echo;
    bool report;
    uint32_t deadline_ms;
    uint64_t start_ns;    /* after the warm-up; a stream with no start runs during the warm-up too */
    uint64_t stop_ns;     /* UINT64_MAX: to the end */
    struct kind kinds[KINDS_MAX];
    uint32_t kinds_count;

    /* while running */
    uint64_t begin_ns;   /* absolute: first send */
    uint64_t end_ns;     /* absolute: nothing is due from here on */
    uint64_t due_ns;     /* open: of the next call */
    uint64_t due_number; /* open, uniform: how many were due */
    uint32_t next_connection;
    uint32_t first_connection;
    /* the record */
    uint64_t sent;
    uint64_t ok;             /* of the calls meant in the record */
    uint64_t failed;
    uint64_t ok_inside;      /* answers that came inside it */
    uint64_t failed_inside;
    uint64_t mismatched;
    uint64_t unsent;         /* due, never sent */
    uint64_t unanswered;
    uint64_t late;           /* sent more than 1 ms after they were meant to be */
    struct histogram latency; /* of ok calls, and of those never answered */
    struct histogram lateness;
    struct error_count errors[ERRORS_MAX];
    uint32_t errors_count;
    struct interval *series;
    uint32_t series_count;
    struct histogram slice; /* of the present interval */
    struct interval now;
};

struct slot {
    uint64_t meant_ns;
    uint32_t next_free;
    uint16_t kind;
    uint16_t generation; /* 12 bits */
    bool busy;
};

struct connection {
    int fd;
    struct stream *stream;
    uint8_t *in;
    size_t in_size, in_used, in_need;
    uint8_t *out;
    size_t out_size, out_used, out_sent;
    struct slot *slots;
    uint32_t slots_count;
    uint32_t free_slot;
    uint32_t outstanding;
    bool wants_out; /* registered for EPOLLOUT */
};

struct load {
    const char *unix_path;
    const char *tcp;
    const char *token;
    uint64_t warmup_ns;
    uint64_t duration_ns;
    uint64_t count; /* 0: by duration. Else: answers to record, over all closed streams */
    uint64_t drain_ns;
    uint64_t series_ns; /* 0: none */
    int pin;
    bool spin;
    uint64_t seed;
    uint64_t random; /* state of the generator */
    struct stream *streams[STREAMS_MAX];
    uint32_t streams_count;

    struct connection *connections;
    uint32_t connections_count;
    int epoll;
    uint64_t record_ns; /* absolute: the record's beginning */
    uint64_t end_ns;    /* absolute: its end */
    uint64_t answered;  /* recorded answers, for count */
    uint64_t user_ns, system_ns; /* own CPU in the record */
    uint64_t handled;            /* calls answered between the two readings */
    uint32_t cut;                /* connections the server closed */
};

void load_options(struct load *load, int argc, char **argv);
void load_report(const struct load *load);

#endif
