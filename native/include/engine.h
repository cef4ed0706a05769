/* engine.h: the public face of the reactor, for scheduler/engine.py alone.
 *
 * The reactor is one epoll loop that owns client connections, sandbox channels and the core. Python talks to it through
 * two bounded rings: commands in (sched_post) and events out (sched_poll), each with an eventfd.
 *
 * Threads: sched_turn() and sched_run() belong to one thread, the reactor's. sched_post(), sched_poll(),
 * sched_event_free() belong to one other thread, trio's. sched_new(), sched_listen_*() and sched_free() only while neither
 * runs. sched_render_*() are pure.
 */
#ifndef SCHED_ENGINE_H
#define SCHED_ENGINE_H

#include "core.h"

/* cffi:begin */

enum { SCHED_ABI = 1, SCHED_FDS = 7 };

/* OWN is the service's own connection's alone: it may name its calls (option request_id), so that an event that is tried again
 * keeps its name. Nobody earns it. */
enum sched_right { SCHED_RIGHT_INVOKE = 1, SCHED_RIGHT_DEPLOY = 2, SCHED_RIGHT_ADMIN = 4, SCHED_RIGHT_ALL = 7, SCHED_RIGHT_OWN = 8 };

struct sched_config {
    struct core_config core;
    uint32_t connections_max;         /* clients at once; more are closed at accept. With an HTTP listener a sixteenth is kept for HTTP,
                                         and as much for the others */
    uint32_t frame_bytes_max;         /* one request; 6 MiB + 64 KiB */
    uint32_t payload_bytes_max;       /* sync invoke: 6,291,456 */
    uint32_t answer_bytes_max;        /* 6,291,556 */
    uint32_t connection_buffer_bytes_max; /* unread answers of one connection before it is no longer read: 1 MiB */
    uint32_t turn_bytes_max;          /* read from one connection in one turn: 256 KiB */
    uint64_t payload_total_bytes_max; /* of all payloads held: large frames that would pass it wait unread, in the order they
                                         came; others are refused */
    uint32_t spin_us;                 /* busy-poll this long before sleeping; 0: never */
    uint32_t stop_grace_ms;           /* a sandbox that nobody waits for is told to end, and given so long; 0: SIGKILL at once */
    uint32_t http_signed;             /* 1: HTTP requests are run only where an access key has signed them */
    uint32_t log_bytes_max;           /* of one function's journal before it rotates */
    uint32_t log_files_max;           /* rotated journals kept */
    uint64_t log_total_bytes_max;     /* of all journals of all functions; 0: no bound */
    uint32_t log_turn_s;              /* a journal whose first record is older rotates; 0: never */
    uint32_t log_keep_s;              /* one last written to longer ago is removed; 0: never */
    char log_dir[256];                /* empty: no journal */
    uint32_t spans_s_max;             /* sampled calls that are told (EV_SPAN) in one second; 0: none */
    uint32_t allowed_uids_count;      /* Unix peers; root and the service's own uid always */
    uint32_t allowed_uids[16];
};

enum sched_command_kind {
    SCHED_CMD_CORE = 1,               /* hand `core` to core_step: ACCOUNT_*, FUNCTION_*, SANDBOX_WANT, _REAPED, _USAGE, _RETIRE,
                                         DRAIN. What a reaped sandbox had still written is heard first.
                                         ACCOUNT_PUT: blob is the account's name as callers see it in a refusal
                                         ("node", "tenant:blue", "function:hello"); empty: as it was */
    SCHED_CMD_NAME_PUT = 2,           /* blob: name as a client writes it ("hello", "hello:7"); function. u32s[0] of 2^32 calls go
                                         to the function in `sandbox` instead, by chance: an alias of two versions. Behind a NUL:
                                         the ARN that calls by this name are told, where it is not the function's own; behind
                                         another NUL: the guest whose calls by this name these are (SCHED_TRAIT_GUESTS) */
    SCHED_CMD_NAME_REMOVE = 3,        /* blob: as NAME_PUT; the ARN does not matter */
    SCHED_CMD_FUNCTION_INFO = 4,      /* function; blob: NUL-separated: display name, version, tenant, runtime, guest;
                                         u32s: memory_mb, timeout_ms, tenant's number (0: anybody's), how its log's
                                         platform lines look (sched_look) or'ed with sched_trait.
                                         Functions of one display name share a journal, log_dir/<display name>.journal */
    SCHED_CMD_SANDBOX_START = 5,      /* sandbox (from the NEED event), fds[0] channel, fds[1] output pipe, fds[2] progress memfd,
                                         fds[3] pidfd, fds[4] cpu usage file or -1, fds[5] memory peak file or -1;
                                         fds[6] a listening socket that is the sandbox's Runtime API (runtime-api.md), or -1: its
                                         calls go by the channel;
                                         blob: START's body, before it u32s[1] bytes for the Runtime API: NUL-ended strings, ARN of
                                         the function, handler, account's number, then the names of the programs that are started
                                         as extensions; u32s[0] tier. Callers know the sandbox as "%016x" of its handle.
                                         flags SCHED_START_TELLS_REST: EV_REST tells when it has no call for a while, and
                                         when it has one again.
                                         The reactor owns the descriptors from here on, whatever happens */
    SCHED_CMD_RESPOND = 6,            /* connection, msgid; blob: error object (MessagePack), flag 1: result instead */
    SCHED_CMD_CONNECTION_GRANT = 7,   /* connection; u32s[0] rights: what hello earned; u32s[1] tenant's number: only its
                                         functions may be invoked, 0: all */
    SCHED_CMD_CONNECTION_CLOSE = 8,
    SCHED_CMD_CONNECTION_ADOPT = 9,   /* fds[0]: a connected stream (TLS relay), u32s as GRANT; answered by EV_OPENED with tag.
                                         flags SCHED_ADOPT_HTTP: speaks HTTP, nothing of it is read ahead; nobody is told */
    SCHED_CMD_STATS = 10,             /* u32s[0] first function, u32s[1] count <= 32; answered by EV_STATS */
    SCHED_CMD_STOP_LISTENING = 11,
    SCHED_CMD_STOP = 12,              /* sched_run returns once this is handled */
    SCHED_CMD_KEY_PUT = 13,           /* an access key that may sign HTTP requests; blob: id, NUL, secret; u32s as GRANT */
    SCHED_CMD_KEY_REMOVE = 14,        /* blob: its id */
    SCHED_CMD_URL_PUT = 15,           /* a function URL that is answered here; blob: id, NUL, the function as names know it, NUL,
                                         the account's number. flags: enum sched_url_flag */
    SCHED_CMD_URL_REMOVE = 16         /* blob: its id */
};

/* SIGNED: whose caller must have signed, with a key of the function's tenant; else it is open to all. CORS: pages of other origins
 * may ask, which is the slow side's business. */
enum sched_url_flag { SCHED_URL_SIGNED = 1, SCHED_URL_CORS = 2 };

enum sched_adopt_flag { SCHED_ADOPT_HTTP = 1 };
enum sched_start_flag { SCHED_START_TELLS_REST = 1 };

/* How the platform's own lines of a function's log are written, and which of them: LogFormat and SystemLogLevel. */
enum sched_look {
    SCHED_LOOK_TEXT = 0,              /* Lambda's text, of which nothing is left out */
    SCHED_LOOK_JSON = 1,              /* one JSON object a line */
    SCHED_LOOK_DEBUG = 2,             /* of these, platform.runtimeDone as well */
    SCHED_LOOK_WARN = 4,              /* of these, only what did not go well */
    SCHED_LOOK_RESTORED = 8           /* of one record: its init was a restore */
};

/* What else is to be known of a function when it is called; beside its look. */
enum sched_trait {
    SCHED_TRAIT_TRACED = 256,         /* TracingConfig Active: its calls are segments, some of them sampled */
    SCHED_TRAIT_CALLS = 512,          /* it can reach other machines, and so call functions: each call gets a trace header */
    SCHED_TRAIT_LOOPS = 1024,         /* RecursiveLoop Allow */
    SCHED_TRAIT_SNAPSTART = 2048,     /* it asked for SnapStart: its log tells of restores */
    SCHED_TRAIT_LOCKED = 4096,        /* the key of its environment cannot be had: HTTP invocations are the slow side's, which says so */
    SCHED_TRAIT_GUESTS = 8192         /* TenancyConfig PER_TENANT: only calls that name one of its guests run, each guest's by a
                                         function of its own */
};

struct sched_command {
    uint32_t kind;
    uint32_t flags;
    uint64_t function;
    uint64_t sandbox;
    uint64_t connection;
    uint32_t msgid;
    uint32_t tag;                     /* comes back in the answer event */
    uint32_t u32s[4];
    int32_t fds[7];                   /* SCHED_FDS */
    struct core_event core;
};

enum sched_event_kind {
    SCHED_EV_NEED = 1,                /* function, sandbox, revision: make one; flags 1: no call waits for it; blob empty */
    SCHED_EV_KILLED = 2,              /* sandbox was sent SIGKILL; why. value not 0: it was told to stop instead, and is to be
                                         killed in so many ms */
    SCHED_EV_GONE = 3,                /* its channel closed or broke; reap it and post CORE_EV_SANDBOX_REAPED */
    SCHED_EV_FREED = 4,               /* core is through with it */
    SCHED_EV_READY = 5,               /* sandbox initialised; value: init_ns; flags: core_tier, which is SHELL where it could not be
                                         restored from its image; blob: then why, in the sandbox's words */
    SCHED_EV_INIT_FAILED = 6,         /* blob: error object */
    SCHED_EV_METHOD = 7,              /* connection, msgid, rights; blob: u16 method length, method, params array (MessagePack).
                                         msgid of a notification: flags = 1 */
    SCHED_EV_OPENED = 8,              /* connection; flags 1: TCP, 2: adopted (connection 0: no room); value: peer uid; tag */
    SCHED_EV_CLOSED = 9,
    SCHED_EV_STATS = 10,              /* tag; blob: struct sched_stats */
    SCHED_EV_FUNCTION_FREED = 11,
    SCHED_EV_DRAINED = 12,
    SCHED_EV_FAULT = 13,              /* blob: text for the log: something the operator should know */
    SCHED_EV_HTTP = 14,               /* an HTTP connection that is the slow side's from now on; value: its descriptor, the
                                         receiver's to close or to give back (CONNECTION_ADOPT); blob: what came of it.
                                         flags 1: it is owed an answer first, which is to be made of what its function URL's function
                                         answered; blob: the request's id as text (36 bytes), 1: close after it, u32 size of
                                         what came of the next request, that, the function's answer */
    SCHED_EV_REST = 15,               /* sandbox; flags 1: it has had no call for 100 ms; 0: it has one, or is to stop */
    SCHED_EV_SPAN = 16                /* function, flags: core_outcome; a sampled call is answered. blob: struct sched_span, then its
                                         trace header */
};

struct sched_event {
    uint32_t kind;
    uint32_t flags;
    uint64_t function;
    uint64_t sandbox;
    uint64_t connection;
    uint64_t value;
    uint32_t msgid;
    uint32_t tag;
    uint32_t revision;
    uint32_t why;
    uint32_t rights;
    uint32_t blob_bytes;
    uint8_t *blob;                    /* freed by sched_event_free */
};

struct sched_loop_stats {
    uint64_t turns;
    uint64_t spins;                   /* turns that found work by spinning */
    uint64_t sleeps;
    uint64_t turn_ns_max;             /* longest turn since the last snapshot */
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t requests;                /* rpc requests of all kinds */
    uint64_t rpc_errors;              /* broken framing: connection closed */
    uint64_t bad_requests;            /* answered BadRequest */
    uint64_t refused_requests;        /* answered Throttled by the reactor itself: no payload memory, or the service is behind */
    uint64_t refused_connections;
    uint64_t http_handed;             /* HTTP connections handed over */
    uint64_t connections;             /* open now */
    uint64_t connections_paused;      /* not read now: they do not read, are being closed, or wait for memory */
    uint64_t connections_waiting;     /* of these: their large frame waits for payload memory */
    uint64_t commands;
    uint64_t events;
    uint64_t events_waiting;          /* overflow list: event ring was full */
    uint64_t payload_bytes;           /* held now */
    uint64_t sandbox_protocol_errors;
    uint64_t log_bytes;
    uint64_t log_bytes_dropped;
    uint64_t log_disk_bytes;          /* of all journals now */
    uint64_t spans;                   /* sampled calls told */
    uint64_t spans_dropped;           /* sampled, but more than a second may have */
    uint64_t recursions;              /* calls refused, since their chain had come back too often */
    uint64_t cpu_ns;                  /* of the reactor's thread */
};

/* Times are of the wall clock. */
struct sched_span {
    uint64_t parent;                  /* the caller's segment, 0: none */
    uint64_t arrived_ns;
    uint64_t init_ns;                 /* how long it took, where the call waited for it; else 0 */
    uint64_t started_ns;              /* of the function; 0: it never was */
    uint64_t ended_ns;
    uint64_t answered_ns;
    uint8_t request_id[16];
};

/* Head of the blob of SCHED_EV_STATS; behind it `accounts` struct core_account_stats, then `functions` struct core_function_stats. */
struct sched_stats {
    uint64_t now_ns;
    struct core_totals totals;
    struct sched_loop_stats loop;
    uint32_t accounts;
    uint32_t functions;
    uint32_t functions_next;          /* first index of the next chunk, 0: no more */
    uint32_t pad;
};

struct sched;

struct sched *sched_new(const struct sched_config *config, char *error, size_t error_bytes);
void sched_free(struct sched *sched);
void sched_config_default(struct sched_config *config);

/* 0 or -errno. The Unix socket gets mode 0660; a stale file of a dead service is replaced, a live one is -EADDRINUSE. */
int sched_listen_unix(struct sched *sched, const char *path);
/* host: numeric. *port is the bound port afterwards (0 asks for any). */
int sched_listen_tcp(struct sched *sched, const char *host, uint16_t *port);
/* HTTP/1.1: the hot path of Lambda's API. */
int sched_listen_http(struct sched *sched, const char *host, uint16_t *port);
/* Whether the bytes are one JSON value (RFC 8259, at most 512 deep); *at: where they stop being one. */
bool sched_json_valid(const uint8_t *in, size_t bytes, size_t *at);

/* One turn: wait at most timeout_ms for something, handle it. Returns >= 0: things handled, -1: stopped, else -errno. */
int sched_turn(struct sched *sched, int timeout_ms);
/* Turns until SCHED_CMD_STOP. 0 or -errno. */
int sched_run(struct sched *sched);

/* false: ring full, nothing changed (fds still the caller's). blob is copied. */
bool sched_post(struct sched *sched, const struct sched_command *command, const uint8_t *blob, size_t blob_bytes);
size_t sched_poll(struct sched *sched, struct sched_event *out, size_t max);
/* Every polled event, before sched_free(): a service that keeps too many gets no more control requests. */
void sched_event_free(struct sched_event *event);
/* eventfd that becomes readable when events wait; trio waits on it, sched_poll() clears it. */
int sched_events_fd(const struct sched *sched);

/* One journal record to text (START/END/REPORT and output lines as Lambda words them); see native/reactor/journal.h.
 * Returns bytes written to out, or -1: the record is cut or broken; *consumed: bytes of it taken from in. */
int64_t sched_render_record(const uint8_t *in, size_t in_bytes, char *out, size_t out_bytes, size_t *consumed);

/* cffi:end */

#endif
