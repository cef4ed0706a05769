/* api.h: the Runtime API of one sandbox, as the rest of the reactor sees it. docs/internals/runtime-api.md.
 *
 * A sandbox has it or not; one that has gets no call and gives no answer by its channel. What the core has sent it lies here until
 * its runtime asks, so "has it begun?" is our own knowledge and needs no word of the sandbox.
 */
#ifndef SCHED_API_H
#define SCHED_API_H

#include "api_http.h"
#include "api_state.h"
#include "reactor.h"

enum {
    API_CONNECTIONS_MAX = 64,               /* a power of two: a connection's index is the sandbox's and this */
    API_CONNECTIONS_OWN = 3,                /* and one for each external extension: these it always has. Further ones are */
    API_CONNECTIONS_SHARED_MAX = 512,       /* of all sandboxes together: each is a descriptor of the service */
    API_HEAD_ROOM_BYTES_MAX = 2 << 20,      /* beginnings of requests, of all connections of a sandbox together */
    API_INIT_ERROR_BYTES_MAX = 256 << 10,
    API_STREAM_BYTES_MAX = 200 << 20,       /* of an answer that is streamed to its caller: Lambda's */
    API_BODIES_BYTES_MAX = 1 << 20,         /* of requests other than the answer to the running call, all connections together */
    API_DISCARD_BYTES_MAX = 64 << 20,       /* of a body that nobody wants; then the connection is closed */
    API_DISCARD_BYTES_A_CREDIT = 8 << 10,   /* what reading them costs: 64 MB/s */
    API_UNREAD_BYTES_MAX = 64 << 10,        /* answers it leaves unread before it is no longer read */
    API_BURST = 4096,                       /* requests that bring no call on: so many at once, */
    API_BURST_PER_MS = 8                    /* and so many more each millisecond; then nothing of the sandbox is read for a while */
};

enum { TELEMETRY_PLATFORM = 1, TELEMETRY_FUNCTION = 2, TELEMETRY_EXTENSION = 4 };

enum {
    API_EXTENSIONS_MAX = 10,                /* external and internal ones together */
    API_EXTENSION_NAME_BYTES_MAX = 128,
    API_EXTENSION_BODY_BYTES_MAX = 64 << 10,
    API_EXTENSION_FRAME_BYTES_MAX = 4096,   /* what the agent says of one that has ended */
    API_STOP_INTERNAL_MS = 500,             /* Lambda's: what extensions have at the end, where all are internal, */
    API_STOP_EXTERNAL_MS = 2000             /* or any is external */
};

struct api_extension {
    char name[API_EXTENSION_NAME_BYTES_MAX + 1];
    uint8_t id[16];
    enum api_extension_state state;
    struct api_connection *waiting;         /* whose `event/next` waits */
    bool external;
    bool invoke;                            /* events that it wants */
    bool shutdown;
    bool shutdown_told;
    bool logs_api;                          /* it subscribed by the old API */
    uint8_t types;                          /* of records that it wants; 0: not subscribed */
};

struct api_connection {
    struct api *api;
    struct api_connection *dirty_next;
    struct api_connection *resuming_next;
    struct api_connection *held_next;
    uint32_t watched;                       /* what epoll is asked for */
    int fd;                                 /* -1: closed, to be freed at the end of the turn */
    uint32_t slot;
    bool dirty;
    bool resuming;
    bool behind;                            /* whole requests may lie in the stash, which wait for their turn */
    bool closing;                           /* flush, then close */
    bool waits;                             /* a `next` of it is to be answered yet */
    /* the request whose body is under way */
    bool in_body;
    bool discard;                           /* refused, or too large: the rest is read and dropped */
    bool responds;                          /* it is the answer to the running call */
    bool streams;                           /* and its pieces reach the caller as they come */
    bool held;                              /* the caller has much to read yet */
    bool close_after;
    bool too_large;
    struct api_head head;                   /* its slices are gone */
    char error_type[API_ERROR_TYPE_BYTES_MAX];
    char name[API_EXTENSION_NAME_BYTES_MAX + 1]; /* of the extension that registers */
    bool wants_account;
    struct api_extension *extension;        /* whose request it is */
    struct api_chunks chunks;
    uint64_t left;                          /* of a body of known length */
    uint64_t discarded;
    struct block *body;
    uint32_t body_bytes;
    uint32_t sent_bytes;                    /* streams: so many have gone on */
    uint32_t body_max;
    uint32_t body_counted;                  /* of it in bodies_bytes */
    uint8_t *trailers;
    uint32_t trailers_bytes;
    uint32_t refused;                       /* status, 0: not */
    char refused_type[64];
    char refused_message[160];
    /* bytes of the next request, not whole */
    uint8_t *stash;
    uint32_t stash_bytes;
    uint32_t stash_capacity;
    struct output output;
};

struct api {
    struct channel *channel;
    int listen_fd;
    bool stopped;                           /* the sandbox is gone or being killed */
    bool paused;                            /* its credit is used up: not read for a while */
    struct api *paused_next;
    enum api_state state;
    struct api_connection *waiting;         /* whose `next` waits */
    struct api_connection *connections[API_CONNECTIONS_MAX];
    uint32_t connections_count;
    uint8_t types;                          /* of records that any extension wants */
    bool reported;                          /* a report had the init already */
    char status[16];                        /* of the call given last */
    uint64_t asked_ns;                      /* when the runtime first asked for a call */
    uint64_t ready_ns;
    uint64_t response_ns;                   /* when its answer began to come */
    uint64_t produced_bytes;                /* of an answer that is streamed */
    char error_type[API_ERROR_TYPE_BYTES_MAX]; /* of an answer that is an error */
    uint64_t dropped_records;               /* that the agent was too slow for */
    uint64_t dropped_bytes;
    bool report_kept;                       /* of the call given last, which lingers */
    struct journal_record report_head;
    struct journal_end report_end;
    size_t report_rest_bytes;
    char report_rest[JOURNAL_REST_MAX];
    bool lingers;                           /* the call given last is answered, extensions are not done with it */
    bool ending;                            /* it was told to stop, and is given time for it */
    bool deaf;                              /* nobody is there any more to be given a call */
    bool runtime_told;                      /* the core knows that the runtime has ended */
    uint32_t runtime_cause;                 /* how it did: core_cause; and its exit status or signal */
    int32_t runtime_status;
    const char *shutdown_reason;
    uint64_t shutdown_by_ms;                /* wall clock */
    struct api_extension extensions[API_EXTENSIONS_MAX];
    uint32_t extensions_count;
    const char *launched[API_EXTENSIONS_MAX]; /* programs that are started as extensions */
    uint32_t launched_count;
    uint32_t given_seq;                     /* the last call that the runtime was given, or that was handed back */
    uint64_t given_ns;
    bool id_known;                          /* of the call that was given last, until the next is asked for */
    uint8_t id[16];
    uint64_t valid_until_ns[CORE_AHEAD_MAX]; /* of calls held, by seq */
    uint64_t stash_bytes;                   /* of all connections */
    uint64_t bodies_bytes;                  /* of all connections, the answer's apart */
    uint32_t credit;
    uint64_t credit_ns;
    char *arn;                              /* NUL-separated strings of SANDBOX_START: see engine.h */
    const char *handler;
    const char *account;
};

/* From SANDBOX_START; false: no memory, the descriptor is closed. head: NUL-separated, as engine.h has it. */
bool api_start(struct sched *sched, struct channel *channel, int listen_fd, const uint8_t *head, size_t head_bytes);
/* The core sent it a call. While actions are obeyed. */
void api_send_call(struct sched *sched, struct channel *channel, const struct core_action *send);
void api_accept(struct sched *sched, uint32_t index);
void api_ready(struct sched *sched, uint32_t index, uint32_t events);
/* The processes are gone: hears what they said before. Steps the core. */
void api_hear_out(struct sched *sched, struct channel *channel);
/* Nothing is heard or said any more; what was allocated stays until api_free(). */
void api_stop(struct sched *sched, struct channel *channel);
void api_free(struct sched *sched, struct channel *channel);
/* The core wants it ended: extensions are told, where there is time for it. ms that they have; 0: it is to be killed. */
uint32_t api_shutdown(struct sched *sched, struct channel *channel, enum core_why why);
/* The agent says that an extension has ended. false: in words that are none. */
bool api_extension_ended(struct sched *sched, struct channel *channel, const uint8_t *body, uint32_t bytes);
/* The call is answered, and what its log says of its end waits: its extensions' time is part of it. false: it waits for nothing. */
bool api_keep_report(struct sched *sched, const struct ticket *ticket, const struct journal_record *head, const struct journal_end *end,
                     const struct journal_rest *rest);
/* What the function (or an extension) wrote, for those that have subscribed. */
void api_tell_log(struct sched *sched, struct channel *channel, bool extension, const uint8_t *at, size_t bytes);
/* The agent says that the runtime has ended, while extensions live. false: in words that are none. What comes of it is done by
 * api_runtime_over(), where bytes may be read. Steps the core. */
bool api_runtime_ended(struct channel *channel, const uint8_t *body, uint32_t bytes);
void api_runtime_over(struct sched *sched, struct channel *channel);
void api_flush_all(struct sched *sched);
/* Those whose callers have read what they were told are read again. */
void api_stream_release(struct sched *sched);
/* Those whose next request is here already and may be looked at now. */
void api_resume(struct sched *sched);
/* Those that have credit again are read again. */
void api_unpause(struct sched *sched);

/* channel.c */
/* An answer to the call `seq`, wherever it came from. */
void channel_answer(struct sched *sched, struct channel *channel, const struct core_reply_event *answer, const uint8_t *at,
                    uint32_t bytes, struct block *owner, bool msgpack);
void channel_hand_back(struct sched *sched, struct channel *channel, uint32_t seq);
/* A TELEMETRY frame to the agent, its body in two parts. */
void channel_telemetry(struct sched *sched, struct channel *channel, bool subscription, const void *head, size_t head_bytes,
                       const void *text, size_t bytes);
/* It cannot go on: the core is told, and has it ended. cause: CORE_CAUSE_NONE where its end will tell; else whoever waits for its call is
 * answered now. */
void channel_give_up(struct sched *sched, struct channel *channel, uint32_t cause, int32_t status);
void channel_send_stop(struct sched *sched, struct channel *channel, uint32_t budget_ms);
void channel_is_ready(struct sched *sched, struct channel *channel, const uint8_t *body, uint32_t bytes);
void channel_init_error(struct sched *sched, struct channel *channel, const uint8_t *body, uint32_t bytes);

#endif
