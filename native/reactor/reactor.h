/* reactor.h: what the reactor's files share. Not for anybody outside native/reactor.
 *
 * One thread owns all of this (engine.h says which calls belong to it). Each file owns one kind of thing:
 *   reactor.c   the loop: epoll, the core's step and its actions, building and freeing
 *   commands.c  what the service wants done
 *   rings.c     commands in, events out
 *   listen.c    listeners, and who may come in
 *   client.c    client connections: bytes to requests, answers to bytes
 *   channel.c   sandboxes: frames in and out, their beginning and end
 *   sweep.c     what sandboxes have used, as the kernel says, and whether they rest
 *   api.c       sandboxes whose runtime speaks the Runtime API: connections, calls that wait to be asked for
 *   logs.c      what sandboxes write: credit, journal, tails
 *   shelf.c     the memory shared with a sandbox
 *   answer.c    what a caller is told: result, report, error map
 *   tracing.c   trace headers of calls, and what is told of sampled ones
 *   trace.c     what stands in such a header
 *   ticket.c    a call's other half: who asked, the payload, what the report needs
 *   names.c     what callers call functions, and what we call functions and accounts
 *   buffer.c    output queues made of chunks
 *   pack.c      MessagePack written and checked
 *   journal.c   per function logs, written by a thread of their own
 *   render.c    their records as lines
 *   web.c       HTTP: invocations to calls, answers to bytes
 *   weburl.c    the same for requests to function URLs
 *
 * Objects are destroyed only at the end of a turn, so that a slice or pointer taken during it stays good.
 */
#ifndef SCHED_REACTOR_H
#define SCHED_REACTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../core/invariant.h"
#include "buffer.h"
#include "engine.h"
#include "journal.h"
#include "mailbox.h"
#include "pack.h"
#include "rpc.h"
#include "sigv4.h"
#include "shelf.h"
#include "urls.h"

enum {
    BATCH = 1024,               /* core events between two steps */
    ACTIONS = 2048,             /* actions of one step */
    FDS_A_TURN = 256,
    STASH_BYTES_MAX = 32 * 1024, /* a partial frame up to this is kept aside; a larger one gets a buffer of its own */
    RING_ITEMS = 4096,
    INLINE_BYTES = 168,         /* payload and extensions kept inside the ticket */
    LOG_CREDIT_MAX = 4 << 20,   /* bytes of log a sandbox may write at once */
    OUTPUT_READ_MAX = 64 * 1024, /* of an output pipe at once: all that it holds */
    TAIL_BYTES = 4096,          /* of a call's log, as Lambda's LogType Tail */
    GUEST_BYTES_MAX = 256,      /* of a tenant id, as Lambda has them */
    VERSION_BYTES_MAX = 64,     /* of a function's version, which every report and START line holds */
    OUTPUT_QUEUE_MAX = 64 << 20, /* answers one connection may leave unread before it is closed */
    PATIENCE_S = 30,            /* with half a frame, with unread answers over the limit, with no memory for a payload */
    PARTIAL_BYTES_A_S = 4096,   /* and a second more for so many bytes of a frame: slower is no slow link, it is an attack */
    KEPT_SHARE = 16,            /* a sixteenth of all places is kept for each of HTTP and the protocol */
    HELLO_S = 10,               /* a connection without rights has so long to earn some */
    STRANGER_FRAME_BYTES_MAX = 16 * 1024, /* and says so in a frame of this size */
    EVENT_BYTES_MAX = 64 << 20, /* blobs of events that the slow side has not taken: control requests are refused above it */
    /* One turn's reading of all connections together, shared by those that are ready: a flood of tiny requests costs about 0.7 us
     * each, so a turn over many of them must read little from each, or its end is everybody's latency. */
    TURN_SMALL_BYTES = 256 * 1024,
    TURN_LARGE_BYTES = 1024 * 1024,
    SHARE_BYTES_MIN = 4096,
    SHARE_BYTES_MAX = 64 * 1024
};

enum source {
    SOURCE_COMMANDS = 1, SOURCE_UNIX = 2, SOURCE_TCP = 3, SOURCE_CLIENT = 4, SOURCE_CHANNEL = 5, SOURCE_OUTPUT = 6, SOURCE_TIMER = 7,
    SOURCE_HTTP = 8, SOURCE_API_LISTEN = 9, SOURCE_API = 10
};

#define NO_INDEX UINT32_MAX

/* ---- tickets -------------------------------------------------------------------------------------------------------- */

struct ticket {
    uint64_t call;              /* the core's handle once it is known, else 0 */
    uint64_t function;
    uint64_t sandbox;           /* 0: not sent */
    uint64_t read_ns;           /* its bytes were read */
    uint64_t sent_ns;
    uint32_t client;            /* NO_INDEX: the connection is gone */
    uint32_t msgid;
    uint32_t seq;               /* in its sandbox's channel */
    uint32_t next;              /* free list; else the connection's list */
    uint32_t prev;
    uint32_t hash_next;         /* same bucket of (client, msgid) */
    uint32_t ext_bytes;         /* extensions stand before the payload */
    uint32_t payload_bytes;
    uint32_t payload_at;        /* offset in the block */
    struct block *block;        /* NULL: inline_data */
    uint8_t request_id[16];
    uint64_t trace_parent;      /* traced: the caller's segment */
    bool live;
    bool traced;                /* it is a segment of ours, and sampled */
    bool payload_msgpack;
    bool report;
    bool log_tail;
    bool stream;                /* the answer's pieces as they come */
    bool logged_start;          /* its START line is in the journal */
    bool ext_in_block;
    uint8_t inline_data[INLINE_BYTES];
};

/* What stands before the payload: NULL where there is none. */
enum { TICKET_EXT_TRACE = 1, TICKET_EXT_CONTEXT = 2, TICKET_EXT_ARN = 3, TICKET_EXT_GUEST = 4, TICKET_EXTS = 5 };

struct ticket_ext {
    const uint8_t *at;
    uint32_t size;
};

/* ---- clients -------------------------------------------------------------------------------------------------------- */

/* How a connection came, and what is spoken on it. */
enum speech { SPEECH_UNIX, SPEECH_TCP, SPEECH_HTTP };

struct client {
    int fd;                     /* -1: slot is free */
    uint32_t generation;
    uint32_t next;              /* free list */
    uint32_t dirty_next;        /* has output to send this turn */
    uint32_t dead_next;
    uint32_t rights;
    uint32_t tenant;
    uint32_t uid;
    bool tcp;
    bool http;                  /* speaks HTTP; one request at a time, what comes meanwhile waits in the stash */
    bool close_after;           /* HTTP: the client wants it closed after the answer */
    bool url_call;              /* HTTP: the call under way came to a function URL */
    bool resuming;              /* HTTP: what waits in the stash is looked at in the next turn */
    uint32_t resuming_next;
    bool reading;               /* EPOLLIN wanted */
    bool writing;               /* EPOLLOUT wanted */
    bool dirty;
    bool closing;               /* flush, then close */
    bool dead;                  /* close at the end of the turn */
    bool wants_memory;          /* a large frame waits for payload memory, first come first served */
    uint32_t wanting_next;
    uint32_t tickets;           /* list head */
    uint32_t calls;             /* tickets: calls not answered */
    uint32_t methods;           /* control requests not answered */
    uint64_t opened_ns;
    struct rpc_scan scan;
    uint8_t *stash;             /* a partial frame's beginning */
    uint32_t stash_bytes;
    uint32_t stash_capacity;
    struct block *big;          /* or a large frame under way */
    uint32_t big_have;
    uint32_t big_want;          /* wants_memory: capacity it waits for */
    uint64_t partial_since_ns;  /* when the partial frame was begun; 0: none */
    uint64_t stalled_since_ns;  /* when it last took some of the answers that it owes a reading; 0: it owes none */
    struct upload *upload;      /* HTTP: what is known of the large invocation in `big` */
    char peer[64];              /* HTTP: where it comes from, once a function URL's event has told it */
    struct output output;
};

struct api;
struct api_connection;

/* ---- channels ------------------------------------------------------------------------------------------------------- */

struct channel {
    uint64_t sandbox;
    uint64_t function;
    int fd;
    int output_fd;
    int pidfd;
    int cpu_fd;
    int memory_fd;
    const volatile uint64_t *page; /* shared with the sandbox: progress word and shelf */
    uint32_t answered_seq;      /* of its last answer */
    uint32_t sent_seq;          /* of the last call that was sent to it */
    uint32_t shelf_seq;         /* of the last answer that was taken from its shelf, */
    bool shelved;               /* if any was */
    uint32_t tier;
    uint32_t dirty_next;
    uint32_t dead_next;
    uint32_t used_next;         /* answered calls since the kernel was asked for its usage */
    uint32_t probed_next;
    uint32_t resting_next;
    uint64_t rested_ns;         /* since when it has no call */
    bool tells_rest;            /* the slow side wants to hear of it: a function that is frozen between calls */
    bool resting;               /* on the list of those that may have none */
    bool rest_told;
    bool used;
    bool measured;              /* the kernel was asked at its first answer */
    bool probed;                /* the core wants its progress word */
    bool dirty;
    bool writing;
    bool settled;               /* READY or INIT_ERROR came: neither may come again */
    bool able;                  /* it was READY */
    uint64_t begun_ns;          /* when it was told its function */
    bool output_used;           /* something came by its output pipe */
    bool output_looked;         /* and it was looked into since its channel was read */
    uint8_t output_looks;
    bool gone;                  /* the core was told */
    bool closed;                /* by the sandbox: it is not killed from here */
    bool killed;
    bool freed;                 /* destroy at the end of the turn */
    bool hushed;                /* not read until it has log credit again */
    bool reading;
    uint8_t *stash;
    uint32_t stash_bytes;
    uint32_t stash_capacity;
    struct block *big;
    uint32_t big_have;
    struct pack_scan pack;      /* of the answer in `big`, if it is MessagePack */
    struct api *api;            /* its runtime asks for its calls there; NULL: they are sent by the channel */
    uint32_t cookies[CORE_AHEAD_MAX]; /* ticket by seq; NO_INDEX */
    uint64_t log_credit_bytes;  /* output it may still give before it is hushed for a while */
    uint64_t log_credit_ns;
    uint8_t *tail;              /* last TAIL_BYTES of the running call's log */
    uint32_t tail_bytes;        /* all that was written of it, may be more */
    uint32_t tail_seq;
    uint32_t hushed_next;
    struct output output;
};

/* ---- names ---------------------------------------------------------------------------------------------------------- */

struct name {
    uint64_t function;
    uint64_t other;             /* an alias of two versions: where `part` of 2^32 calls go */
    uint32_t part;
    uint32_t hash;
    uint16_t size;
    uint16_t guest_size;        /* behind the text: whose calls these are; 0: anybody's */
    uint16_t arn_size;          /* behind that: what calls by this name are told; 0: the function's own */
    char *text;                 /* NULL: free; DELETED: was used */
};

struct function_info {
    uint64_t handle;            /* 0: unknown */
    char *display;
    char *version;
    char *tenant;
    char *runtime;
    char *guest;                /* empty: it has none */
    uint32_t memory_mb;
    uint32_t timeout_ms;
    uint32_t tenant_number;
    uint8_t look;               /* sched_look: of its log's platform lines */
    uint32_t traits;            /* sched_trait */
    uint32_t hash;              /* of its name, as chains of calls have it */
    uint64_t sampled_s;         /* when a call was last sampled for being the first of its second */
    uint8_t *init_error;        /* JSON of the last failed start, until one goes well */
    uint32_t init_error_bytes;
    struct journal_file *journal;
};

/* What came with a CORE_EV_REPLY of the batch. */
struct reply {
    const uint8_t *at;
    uint32_t bytes;
    struct block *block;        /* holds `at` if it is large; one reference is the reply's */
    bool msgpack;
};

/* What the ring of commands holds. */
struct posted {
    struct sched_command command;
    uint8_t *blob;
    size_t blob_bytes;
};

struct waiting_event {
    struct waiting_event *next;
    struct sched_event event;
};

struct sched {
    struct sched_config config;
    struct core *core;
    int epfd;
    int unix_fd;
    int tcp_fd;
    int http_fd;
    char unix_path[108];
    uint64_t now_ns;
    bool stopped;
    bool stopping;
    struct mailbox commands;
    struct mailbox events;
    struct waiting_event *waiting_head;
    struct waiting_event *waiting_tail;

    struct client *clients;
    uint32_t clients_used;      /* slots from here on were never used */
    uint32_t client_free;
    uint32_t clients_open;
    uint32_t clients_http;      /* of these */
    uint32_t dirty_clients;
    uint32_t resuming_clients;
    uint32_t wanting_head;
    uint32_t wanting_tail;
    uint32_t dead_clients;      /* closed at the turn's end */
    bool accepting;             /* false: paused until accept_again_ns, since accepting would fail */
    uint64_t accept_again_ns;
    uint64_t accept_fault_ns;   /* when it was last complained about */
    struct channel **channels;  /* by the sandbox handle's index */
    uint32_t dirty_channels;
    uint32_t dead_channels;
    uint32_t used_channels;
    uint32_t swept_channels;    /* used ones whose turn it is now, a few each turn */
    uint32_t hushed_channels;
    uint32_t resting_channels;
    uint32_t probed_channels;
    struct api_connection *dirty_api;
    struct api_connection *resuming_api; /* requests wait in their stash that may be looked at now */
    struct api *paused_apis;
    uint32_t apis;              /* sandboxes that have one */
    uint32_t api_shared;        /* connections of sandboxes beyond those that each always has */
    struct api_connection *held_api; /* not read until their callers have read */

    struct ticket *tickets;
    uint32_t tickets_max;
    uint32_t tickets_used;      /* slots from here on were never used */
    uint32_t ticket_free;
    uint32_t *ticket_buckets;
    uint32_t ticket_shift;
    uint64_t ticket_multiplier; /* random and odd: nobody can choose msgids that fall into one bucket */

    struct sigv4_keys keys;     /* who may sign HTTP requests */
    struct urls urls;
    uint8_t *url_room;          /* where an event or an answer is made; good until the next */
    struct name *names;
    uint32_t names_mask;
    uint32_t names_used;        /* deleted ones included */
    struct function_info *functions;
    char **account_names;

    struct core_event batch[BATCH];
    struct reply replies[BATCH];
    uint32_t batched;
    struct core_action actions[ACTIONS];

    uint8_t shelf[SHELF_BYTES_MAX]; /* what was found on one; good until the next step */
    uint8_t *scratch;           /* where bytes are read first; good until the next read */
    uint8_t *output;            /* the same for output pipes, which are read while answers lie in the scratch */
    uint8_t random[4096];
    uint32_t random_left;
    uint64_t payload_bytes;     /* held in blocks */
    uint64_t partial_bytes;     /* beginnings of frames that wait for payload memory */
    uint32_t share_small_bytes; /* what one connection may be read this turn: of frames as they come, */
    uint32_t share_large_bytes; /* and of a large frame or answer */
    uint64_t sweep_ns;          /* last look at usage and journals */
    uint64_t slow_sweep_ns;     /* last look at half frames */
    uint64_t stop_by_ns;
    int timer_fd;
    uint64_t timer_ns;          /* what it is set for; UINT64_MAX: nothing */
    uint64_t commands_done;
    bool told;                  /* events were pushed, the bell not rung yet */
    uint64_t bell_ns;           /* events were pushed that can wait until then; UINT64_MAX: none */
    bool stepping;              /* actions are being done: no event may be given, no step taken */
    _Atomic uint64_t event_bytes; /* blobs given and not freed yet: the slow side takes away from it */
    struct chunk_pool chunks;
    struct journal journal;
    uint64_t journal_lost;      /* records' bytes when it was last told, */
    uint64_t journal_disk_lost; /* of these those that the disk refused */
    uint64_t journal_told_ns;   /* and when that was */
    uint64_t span_s;            /* the second in which spans are counted, */
    uint32_t span_count;        /* and how many it has had */
    uint64_t loop_told_ns;      /* when a chain of calls that had no end was last told */
    struct sched_loop_stats stats;
};

/* reactor.c */
uint64_t clock_ns(void);
/* The batch has room for one more afterwards. */
struct core_event *batch_add(struct sched *sched, enum core_event_kind kind);
void batch_step(struct sched *sched);
bool watch(struct sched *sched, int op, int fd, uint32_t events, enum source source, uint32_t index);
/* Closes a watched descriptor. Taken off epoll first: were there another one of the same file, epoll would go on telling of it. */
void unwatch(struct sched *sched, int fd);

/* commands.c */
/* As many as one turn may have; how many were done. */
uint32_t run_commands(struct sched *sched);

/* rings.c */
void push_waiting(struct sched *sched);
void emit(struct sched *sched, const struct sched_event *event, const uint8_t *blob, size_t blob_bytes);
void emit_unhurried(struct sched *sched, const struct sched_event *event, const uint8_t *blob, size_t blob_bytes);
/* For a blob made in place; emit_blob() gives it away. */
uint8_t *blob_new(struct sched *sched, size_t bytes);
void emit_blob(struct sched *sched, const struct sched_event *event, uint8_t *blob, size_t bytes);
/* It does not take its events as fast as they come: nothing more is to be asked of it. */
bool slow_side_behind(const struct sched *sched);
void fault(struct sched *sched, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* listen.c */
int listen_unix(struct sched *sched, const char *path);
int listen_tcp(struct sched *sched, const char *host, uint16_t *port);
int listen_http(struct sched *sched, const char *host, uint16_t *port);
void listen_stop(struct sched *sched);
void listen_accept(struct sched *sched, int listen_fd, enum speech speech);
/* After a pause. */
void listen_again(struct sched *sched);

/* client.c */
/* The connection's id, 0: no room (the descriptor is closed). Telling the slow side is the caller's. */
uint64_t client_add(struct sched *sched, int fd, enum speech speech, uint32_t uid, uint32_t rights);
/* HTTP: the connection is the slow side's from now on, with all that came of it. */
void client_hand_over(struct sched *sched, struct client *client, const uint8_t *at, uint32_t bytes);
/* The same with an answer that it is to be given first; the call's ticket is still there. */
void client_hand_answer(struct sched *sched, struct client *client, const struct reply *reply, const char *request_id);
/* The checked request's call is on its way, or was refused: false, where it cannot be taken in. */
bool client_invoke(struct sched *sched, struct client *client, const struct rpc_request *request, struct block *owner,
                   uint64_t function, struct rpc_slice arn);
/* HTTP: a request of a known size goes on in a block of its own. false: there is no memory for it now, nothing was done. */
bool client_keep_large(struct sched *sched, struct client *client, const uint8_t *at, uint32_t bytes, uint32_t size);
/* A beginning that waits for more, or for its turn; at most STASH_BYTES_MAX. false: no memory. */
bool client_keep(struct client *client, const uint8_t *at, uint32_t bytes);
void client_drop_partial(struct client *client);
void client_ready(struct sched *sched, uint32_t index, uint32_t events);
struct client *client_find(struct sched *sched, uint64_t connection);
uint64_t client_id(const struct sched *sched, const struct client *client);
void client_dirty(struct sched *sched, struct client *client);
void client_kill(struct sched *sched, struct client *client);
void client_flush_all(struct sched *sched);
void client_wake_wanting(struct sched *sched);
void client_sweep(struct sched *sched);
void client_end_turn(struct sched *sched);
void client_free_all(struct sched *sched);
/* No answer is under way and none unsent. */
bool client_all_quiet(const struct sched *sched);

/* channel.c */
void channel_start(struct sched *sched, const struct sched_command *command, const uint8_t *blob, size_t blob_bytes);
void channel_ready(struct sched *sched, uint32_t index, uint32_t events);
void channel_send_call(struct sched *sched, const struct core_action *send, uint32_t ticket);
void channel_kill(struct sched *sched, const struct core_action *kill);
void channel_freed(struct sched *sched, uint64_t sandbox);
void channel_probe(struct sched *sched, uint64_t sandbox);
/* Answers probes as far as the batch has room. */
void channel_tell_probed(struct sched *sched);
/* Its process tree is gone: hears what it said before. */
void channel_hear_out(struct sched *sched, uint64_t sandbox);
void channel_flush_all(struct sched *sched);
/* The kernel is asked what those used that answered since the last time: a few each turn, since a look costs microseconds. */
void channel_sweep_begin(struct sched *sched);
void channel_sweep(struct sched *sched);
void channel_end_turn(struct sched *sched);
void channel_free_all(struct sched *sched);
struct channel *channel_find(struct sched *sched, uint64_t sandbox);
/* Tells epoll what we want of it now. */
void channel_rewatch(struct sched *sched, struct channel *channel, bool reading, bool writing);
static inline uint32_t channel_index(const struct channel *channel) {
    return (uint32_t)channel->sandbox;
}
/* The live ticket that has this place in the channel, or NULL. */
struct ticket *channel_ticket(struct sched *sched, const struct channel *channel, uint32_t seq);
/* The last call that has begun in it, as far as is known. */
uint32_t channel_progress(const struct channel *channel);

/* tracing.c */
/* The call's trace header, handed on or made: `traced` is `request` with it in place, its bytes are in `trace`. false: the chain has
 * come back to this function too often, and the call is not to run. Only for calls that bring a header or whose function has traits. */
struct trace;
bool tracing_take(struct sched *sched, struct function_info *info, const struct rpc_request *request, struct rpc_request *traced,
                  struct trace *trace);
/* Such a chain, in the service's log, once a minute at most. */
void tracing_tell_loop(struct sched *sched, const struct function_info *info);
/* A traced call is answered. */
void tracing_tell(struct sched *sched, const struct core_action *answer, const struct ticket *ticket);
/* The ticket's header, .at NULL: it has none. */
struct rpc_slice ticket_trace(const struct ticket *ticket);

/* logs.c */
/* Bytes written while call `seq` ran (0: none). */
/* Work done for what it writes is paid for as so many bytes more. */
void logs_charge(struct sched *sched, struct channel *channel, uint64_t cost);
void logs_take(struct sched *sched, struct channel *channel, uint32_t seq, const uint8_t *at, size_t bytes);
/* What C code and child processes wrote to descriptors 1 and 2. false: nothing, or the pipe is at its end. */
bool logs_read_output(struct sched *sched, struct channel *channel);
/* Before an answer: what the call wrote there stands before its END line. */
void logs_before_answer(struct sched *sched, struct channel *channel);
void logs_ready(struct sched *sched, uint32_t index);
/* Of one that was a restore, where the function asked for SnapStart. */
void logs_restored(struct sched *sched, const struct channel *channel, uint64_t init_ns);
/* Of a start that failed, as Lambda words it. error: its type, NULL: it took too long. */
void logs_init_report(struct sched *sched, const struct channel *channel, const char *error);
/* Those that have credit again are read again. */
void logs_unhush(struct sched *sched);
/* A disk that does not take the logs, or not as fast as they come, is told to the slow side: at once, then once a minute. */
void logs_tell_trouble(struct sched *sched);

/* web.c */
/* Bytes of an HTTP connection, from a request's first byte on. */
void web_parse(struct sched *sched, struct client *client, const uint8_t *at, uint32_t bytes);
/* Those whose answer was given and whose next request is there already. */
void web_resume(struct sched *sched);
/* More of a large invocation has come. */
void web_upload(struct sched *sched, struct client *client);
/* 408, or nothing where nothing was begun; then it is closed. */
void web_give_up(struct sched *sched, struct client *client);

/* weburl.c */
/* false: it is the slow side's. */
bool url_take(struct sched *sched, struct client *client, const struct http_request *request);

/* answer.c */
void answer_call(struct sched *sched, const struct core_action *answer, const struct reply *reply);
/* An error without a call: BadRequest, NotFound, Unauthorized, TooLarge, Throttled at the door. */
void answer_error(struct sched *sched, struct client *client, uint32_t msgid, const char *type, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* Throttled by the reactor itself, on the node's account. */
void answer_throttled(struct sched *sched, struct client *client, uint32_t msgid, const char *resource, uint64_t current,
                      uint64_t limit);
void answer_dryrun(struct sched *sched, struct client *client, uint32_t msgid);
void answer_respond(struct sched *sched, struct client *client, uint32_t msgid, bool result, const uint8_t *blob, size_t bytes);

/* ticket.c */
bool ticket_new_all(struct sched *sched);
void ticket_free_all(struct sched *sched);
/* NO_INDEX: no ticket or no memory left. `owner` holds the payload if it is large, else NULL and it is copied. arn: see names_find(). */
uint32_t ticket_new(struct sched *sched, struct client *client, const struct rpc_request *request, struct block *owner,
                    struct rpc_slice arn);
void ticket_free(struct sched *sched, uint32_t index);
uint32_t ticket_find(const struct sched *sched, uint32_t client, uint32_t msgid);
void ticket_orphan(struct sched *sched, uint32_t index);
const uint8_t *ticket_payload(const struct ticket *ticket);
const uint8_t *ticket_ext(const struct ticket *ticket);
void ticket_exts(const struct ticket *ticket, struct ticket_ext out[TICKET_EXTS]);
void request_id_new(struct sched *sched, uint8_t out[16]);

/* names.c */
bool names_new(struct sched *sched);
void names_free(struct sched *sched);
/* text: of a name, and behind a NUL the ARN that its calls are told, if it is not the function's own. part: how many of 2^32 calls go
 * to `other` instead, each by itself, at random. */
bool names_put(struct sched *sched, const char *text, size_t size, uint64_t function, uint64_t other, uint32_t part);
void names_remove(struct sched *sched, const char *text, size_t size);
/* 0: nobody's name. *arn: what the call is to be told, at NULL: the function's own; good until names change. */
uint64_t names_find(struct sched *sched, const uint8_t *text, size_t size, struct rpc_slice *arn);
/* The function of one guest by that name, 0: it is not there, or not yet. */
uint64_t names_find_guest(struct sched *sched, const uint8_t *text, size_t size, struct rpc_slice guest, struct rpc_slice *arn);
struct function_info *info_of(struct sched *sched, uint64_t function);
void info_put(struct sched *sched, uint64_t function, const uint8_t *blob, size_t bytes, const uint32_t u32s[4]);
void info_drop(struct sched *sched, uint64_t function);
void account_name_put(struct sched *sched, uint16_t index, const uint8_t *text, size_t size);
const char *account_name(const struct sched *sched, uint16_t index, char buffer[24]);

#endif
