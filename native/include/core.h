/* core.h: the scheduler's core, a pure function of events and time.
 *
 * Law of this file: no system call, no clock, no allocation after core_new(). Time is the `now_ns` argument
 * (CLOCK_MONOTONIC in the service, anything that never goes back in a test). Everything that happens to the core
 * goes in as a core_event, everything it wants done comes out as a core_action, so a recorded list of events
 * is a bug report, a test and a benchmark.
 *
 * Threads: one owner. Whoever calls core_step() owns the core; nobody else may call anything here meanwhile.
 *
 * Handles are index (low 32 bits) + generation (high 32 bits, never 0); a handle whose generation is not the
 * slot's is stale and is ignored (counted in core_totals.stale_events), never misdelivered.
 *
 * The parts between the cffi marks are read by native/build_cffi.py; keep them plain C declarations.
 */
#ifndef SCHED_CORE_H
#define SCHED_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* cffi:begin */

enum {
    CORE_AHEAD_MAX = 32,      /* calls in one sandbox's channel, the running one included */
    CORE_HISTOGRAM_BUCKETS = 1024, /* log-linear, 32 buckets an octave: see core_histogram_bounds() */
    CORE_NO_LIMIT = 0x7fffffff,
    CORE_NO_ACCOUNT = 0xffff,
    CORE_NO_EVENT = 0x7fffffff
};

/* What an account counts. Units: calls executing, MiB, calls, bytes, calls/s (GCRA), ns of CPU. */
enum core_resource {
    CORE_CONCURRENCY = 0,
    CORE_MEMORY = 1,
    CORE_QUEUED_CALLS = 2,
    CORE_QUEUED_BYTES = 3,
    CORE_RATE = 4,
    CORE_CPU = 5,
    CORE_RESOURCES = 6
};

enum core_event_kind {
    CORE_EV_TICK = 0,             /* nothing but the time */
    CORE_EV_ACCOUNT_PUT = 1,      /* create or change: u.account */
    CORE_EV_ACCOUNT_REMOVE = 2,   /* u.account.index; ignored while it has children or charges */
    CORE_EV_FUNCTION_PUT = 3,     /* create or change limits: u.function. A new revision number in an existing
                                     function makes nothing happen until CORE_EV_FUNCTION_SWITCH */
    CORE_EV_FUNCTION_SWITCH = 4,  /* u.function.handle, .revision (they only rise): sandboxes of other revisions drain */
    CORE_EV_FUNCTION_REMOVE = 5,  /* queued calls answered NOT_FOUND, running ones end, then FUNCTION_FREED */
    CORE_EV_INVOKE = 6,           /* u.invoke */
    CORE_EV_CANCEL = 7,           /* u.cancel.call: queued: CANCELLED; sent: answer discarded when it comes */
    CORE_EV_REPLY = 8,            /* u.reply: from the channel, in the channel's order */
    CORE_EV_SANDBOX_WANT = 9,     /* u.sandbox.function, .revision: make one more although nothing waits */
    CORE_EV_SANDBOX_READY = 10,   /* u.sandbox.handle, .init_ns, .tier: init went well */
    CORE_EV_SANDBOX_INIT_FAILED = 11, /* u.sandbox.handle: the runtime said so (error text stays with the reactor) */
    CORE_EV_SANDBOX_GONE = 12,    /* u.sandbox.handle: channel closed or broke its protocol. .cause, .status, where they are known
                                     already: who waits for its call hears them now, and not when the processes are gone */
    CORE_EV_SANDBOX_REAPED = 13,  /* u.sandbox.handle, .cause, .status: the process tree is gone */
    CORE_EV_SANDBOX_USAGE = 14,   /* u.sandbox.handle, .cpu_ns (total since birth), .memory_peak_bytes */
    CORE_EV_PROGRESS = 15,        /* u.reply.sandbox, .seq: answer to CORE_ACT_PROBE, seq started last. Also given just before
                                     CORE_EV_SANDBOX_GONE, so that no call that may have run is run again; .status is
                                     CORE_PROGRESS_LAST then */
    CORE_EV_DRAIN = 16,           /* refuse new calls; u.drain.deadline_ns: then queued ones are refused too */
    CORE_EV_SANDBOX_RETIRE = 17   /* u.sandbox.handle: drain this one and end it */
};

enum core_reply_status {
    CORE_REPLY_OK = 0,
    CORE_REPLY_FUNCTION_ERROR = 1,
    CORE_REPLY_TOO_LARGE = 2,
    CORE_REPLY_HANDBACK = 3      /* never started (its valid_until had passed): goes back to the queue's head. Or the end of one
                                    that lingered */
};

enum core_progress_status { CORE_PROGRESS_NOW = 0, CORE_PROGRESS_LAST = 1 };

enum core_cause {
    CORE_CAUSE_NONE = 0,
    CORE_CAUSE_EXIT = 1,          /* status: exit code */
    CORE_CAUSE_SIGNAL = 2,        /* status: signal number */
    CORE_CAUSE_OOM = 3,
    CORE_CAUSE_KILLED = 4,        /* we did it, see why in the CORE_ACT_KILL before */
    CORE_CAUSE_LAUNCH_FAILED = 5,
    CORE_CAUSE_PROTOCOL = 6       /* forged or broken frames; we ended it */
};

enum core_tier { CORE_TIER_WARM = 0, CORE_TIER_SNAPSHOT = 1, CORE_TIER_SHELL = 2, CORE_TIER_FRESH = 3 };

enum core_action_kind {
    CORE_ACT_SEND = 1,            /* put the call into the sandbox's channel */
    CORE_ACT_ANSWER = 2,          /* final: exactly one for each accepted or refused CORE_EV_INVOKE */
    CORE_ACT_NEED = 3,            /* make a sandbox: function, revision, sandbox (already charged for) */
    CORE_ACT_KILL = 4,            /* SIGKILL the sandbox before anything else of this step; why */
    CORE_ACT_FREED = 5,           /* sandbox handle is dead now, drop what belongs to it */
    CORE_ACT_FUNCTION_FREED = 6,
    CORE_ACT_PROBE = 7,           /* read the sandbox's progress word, answer with CORE_EV_PROGRESS */
    CORE_ACT_DRAINED = 8,         /* after CORE_EV_DRAIN: no call is left */
    CORE_ACT_QUEUED = 9           /* the call arrived in this step and waits: its handle, for CORE_EV_CANCEL. Once for a call,
                                     never for one that was sent or answered in the step it came in */
};

enum core_outcome {
    CORE_OK = 0,
    CORE_FUNCTION_ERROR = 1,
    CORE_TIMEOUT = 2,
    CORE_SANDBOX_DIED = 3,
    CORE_INIT_FAILED = 4,
    CORE_THROTTLED = 5,
    CORE_DEADLINE = 6,
    CORE_NOT_FOUND = 7,
    CORE_TOO_LARGE = 8,
    CORE_UNAVAILABLE = 9,
    CORE_CANCELLED = 10,
    CORE_INTERNAL = 11,
    CORE_OUTCOMES = 12
};

enum core_why {
    CORE_WHY_NONE = 0,
    CORE_WHY_TIMEOUT = 1,
    CORE_WHY_INIT_TIMEOUT = 2,
    CORE_WHY_IDLE = 3,
    CORE_WHY_EVICTED = 4,         /* its memory is wanted elsewhere */
    CORE_WHY_REVISION = 5,        /* replaced by a new deployment */
    CORE_WHY_REMOVED = 6,
    CORE_WHY_PROTOCOL = 7,
    CORE_WHY_INIT_FAILED = 8,
    CORE_WHY_RETIRED = 9,
    CORE_WHY_RECYCLED = 10        /* it has served for long enough */
};

enum core_sandbox_state {
    CORE_SB_FREE = 0,
    CORE_SB_STARTING = 1,         /* NEED given, READY not yet seen */
    CORE_SB_IDLE = 2,
    CORE_SB_BUSY = 3,
    CORE_SB_DRAINING = 4,         /* busy, gets no new call, then killed */
    CORE_SB_DYING = 5,            /* killed or gone, not yet reaped */
    CORE_SB_STATES = 6
};

/* Why fewer sandboxes are ready than are provisioned. */
enum core_floor_failure {
    CORE_FLOOR_NONE = 0,
    CORE_FLOOR_INIT = 1,          /* their start fails; tried again after a pause */
    CORE_FLOOR_MEMORY = 2,        /* an account has no memory left */
    CORE_FLOOR_SANDBOXES = 3,     /* the node's table is full */
    CORE_FLOOR_FAILURES = 4
};

struct core_config {
    uint32_t calls_max;           /* call slab; more than this in the node at once is refused */
    uint32_t functions_max;
    uint32_t sandboxes_max;
    uint32_t accounts_max;        /* < CORE_NO_ACCOUNT */
    uint32_t ahead_max;           /* 1 .. CORE_AHEAD_MAX */
    uint32_t starting_max;        /* sandboxes of one function starting at once */
    uint64_t ahead_window_ns;     /* expected backlog in one channel is never above this (2 ms) */
    uint64_t init_timeout_ns;     /* 10 s */
    uint64_t provisioned_init_timeout_ns; /* of sandboxes that are provisioned: 130 s, or the function's timeout if that is longer */
    uint64_t idle_timeout_ns;     /* an idle sandbox is ended after this, while its function's gaps are not known */
    uint64_t idle_min_ns;         /* once they are: never sooner, */
    uint64_t idle_max_ns;         /* never later */
    uint64_t idle_grain_ns;       /* gaps below are no gaps; 60 steps of it, then 240 steps of 60 of it, are told apart (1 s) */
    uint64_t age_max_ns;          /* a sandbox is replaced at 7/8 of this age, the oldest at all of it; 0: never */
    uint64_t reap_timeout_ns;     /* how long a dead sandbox's call waits for the cause */
    uint64_t cold_start_guess_ns; /* expected start of a new sandbox before one was measured */
    uint32_t cpus;                /* microsecond functions get no more sandboxes than fill these: more would only compete */
    uint32_t memory_mb_per_cpu;   /* a sandbox of less memory is held to that part of a CPU; 0: to none */
    uint32_t sandbox_calls_max;   /* a sandbox is replaced after about so many calls, never more; 0: never */
    uint32_t pad;
};

struct core_account_event {
    uint16_t index;               /* the caller numbers accounts; 0 is the node */
    uint16_t parent;              /* CORE_NO_ACCOUNT only for the node */
    uint32_t weight;              /* fair share among siblings, 1 .. 10000, default 100 */
    int64_t max[6];               /* by core_resource; CORE_RATE: calls per second; CORE_NO_LIMIT */
    int64_t min[6];               /* guarantee; only CORE_CONCURRENCY is honoured: taken out of what siblings may use */
    uint32_t burst;               /* GCRA: calls that may come at once */
};

struct core_function_event {
    uint64_t handle;              /* the caller's: index < functions_max, generation raised on each reuse */
    uint16_t account;             /* charged, with all its parents */
    uint32_t weight;              /* among the functions of the same tenant (the account's parent) */
    uint32_t revision;
    uint32_t memory_mb;           /* of one sandbox */
    uint32_t ahead_max;           /* 1: never queue ahead; 0: the core's default */
    uint32_t provisioned;         /* sandboxes that are kept initialised whether or not calls come */
    uint64_t timeout_ns;
    uint64_t queue_timeout_ns;    /* 0: a call that cannot start at once is refused */
};

struct core_invoke_event {
    uint64_t function;
    uint64_t cookie;              /* comes back in SEND and ANSWER */
    uint64_t deadline_ns;         /* absolute, 0: none. The call must have STARTED by then */
    uint32_t bytes;
};

struct core_reply_event {
    uint64_t sandbox;
    uint64_t start_ns;            /* the sandbox's own word, CLOCK_MONOTONIC; clipped into what is possible */
    uint64_t end_ns;
    uint32_t seq;                 /* must be the oldest unanswered of this sandbox */
    uint32_t status;              /* core_reply_status; of PROGRESS: core_progress_status */
    uint32_t lingers;             /* 1: the call is answered, but its sandbox is not free yet: extensions have work to do. It is
                                     busy, and the call's timeout runs on, until HANDBACK of the same seq */
    uint32_t pad;
};

struct core_sandbox_event {
    uint64_t handle;
    uint64_t function;
    uint64_t init_ns;
    uint64_t cpu_ns;
    uint64_t memory_peak_bytes;
    uint32_t revision;
    uint32_t tier;
    uint32_t cause;
    int32_t status;
};

struct core_event {
    uint32_t kind;
    uint32_t tag;                 /* the caller's own, not looked at */
    union {
        struct core_account_event account;
        struct core_function_event function;
        struct core_invoke_event invoke;
        struct core_reply_event reply;
        struct core_sandbox_event sandbox;
        struct { uint64_t call; } cancel;
        struct { uint64_t deadline_ns; } drain;
    } u;
};

/* One struct for all actions; which fields mean something is said beside the kind.
 * Times of an answer, all in ns of the core's clock, cut the call's life without gaps:
 *   arrive .. start = queue (of it init_ns waiting for a cold start), start .. end = run, end .. now = reply */
struct core_action {
    uint32_t kind;
    uint32_t event;               /* index in events[] that caused it, CORE_NO_EVENT: time did */
    uint64_t call;                /* SEND ANSWER QUEUED; 0 in an ANSWER that refuses at arrival */
    uint64_t cookie;              /* SEND ANSWER QUEUED */
    uint64_t sandbox;             /* SEND ANSWER(0: never sent) NEED KILL FREED PROBE */
    uint64_t function;            /* SEND ANSWER QUEUED NEED FUNCTION_FREED */
    uint32_t seq;                 /* SEND */
    uint32_t outcome;             /* ANSWER */
    uint32_t why;                 /* KILL */
    uint32_t revision;            /* NEED */
    uint64_t valid_until_ns;      /* SEND: the sandbox must not start it later */
    uint64_t arrive_ns;           /* ANSWER */
    uint64_t start_ns;            /* ANSWER: 0 if it never started */
    uint64_t end_ns;              /* ANSWER */
    uint64_t init_ns;             /* ANSWER: part of the queue time this call waited for its sandbox's start */
    uint64_t cpu_ns;              /* ANSWER: best known CPU of the call */
    uint32_t tier;                /* ANSWER: core_tier of the sandbox if this was its first call */
    uint32_t memory_peak_mb;      /* ANSWER */
    uint16_t account;             /* ANSWER/THROTTLED: which account refused */
    uint16_t resource;            /* ANSWER/THROTTLED: core_resource */
    uint16_t cause;               /* ANSWER/SANDBOX_DIED: core_cause */
    uint16_t provisioned;         /* NEED: nobody waits for it; SEND: within what is provisioned */
    int32_t status;               /* ANSWER/SANDBOX_DIED: exit code or signal */
    uint32_t cancelled;           /* ANSWER: nobody waits for it any more */
    uint32_t again;               /* NEED: its start is a second attempt, within the time of the call that waits */
    int64_t current;              /* ANSWER/THROTTLED */
    int64_t max;                  /* ANSWER/THROTTLED */
    uint64_t retry_after_ns;      /* ANSWER/THROTTLED */
};

struct core_account_stats {
    uint16_t index;
    uint16_t parent;
    uint32_t weight;
    int64_t current[6];           /* CORE_RATE: 0; CORE_CPU: ns used so far */
    int64_t max[6];
    int64_t min[6];
    int64_t peak[6];
    uint64_t refused[6];
};

struct core_histogram {
    uint64_t count;
    uint64_t sum_ns;
    uint64_t buckets[1024];
};

struct core_function_stats {
    uint64_t handle;
    uint16_t account;
    uint16_t pad;
    uint32_t revision;
    uint64_t outcomes[12];        /* by core_outcome */
    uint64_t throttled[6];        /* by core_resource */
    uint64_t cold_starts[4];      /* by core_tier */
    uint64_t cpu_ns;              /* settled from the kernel's figures */
    uint64_t mb_ns;               /* memory_mb x run time: GB-seconds = mb_ns / 1024 / 1e9 */
    uint64_t oldest_ns;           /* age of the queue's head, 0: empty */
    uint64_t expected_run_ns;     /* moving average */
    uint64_t expected_start_ns;
    uint32_t queued;
    uint32_t in_flight;           /* calls in sandboxes, queued ahead included */
    uint32_t executing;           /* sandboxes busy */
    uint32_t sandboxes[6];        /* by core_sandbox_state */
    uint32_t provisioned;         /* asked for */
    uint32_t provisioned_allocated; /* of these: starting or ready */
    uint32_t provisioned_available; /* ready */
    uint32_t provisioned_failure; /* core_floor_failure: why there are fewer */
    uint16_t provisioned_account; /* CORE_FLOOR_MEMORY: the one that is full */
    uint16_t pad2;
    uint64_t provisioned_calls;   /* that ran within what is provisioned */
    uint64_t spillover_calls;     /* that found all of it busy */
    uint64_t evicted;             /* sandboxes ended since others wanted their memory */
    uint64_t keep_ns;             /* an idle sandbox is kept so long now */
    uint64_t keep_samples;        /* gaps between calls that this is learnt from; 0: the default */
    struct core_histogram queue;
    struct core_histogram init;
    struct core_histogram run;
    struct core_histogram overhead;
    struct core_histogram total;
};

struct core_totals {
    uint64_t steps;
    uint64_t events;
    uint64_t invokes;
    uint64_t answers;
    uint64_t sends;
    uint64_t stale_events;
    uint64_t bad_replies;         /* wrong seq, unknown status: the sandbox was ended */
    uint64_t timers_fired;
    uint32_t calls;               /* in the slab now */
    uint32_t calls_peak;
    uint32_t sandboxes;
    uint32_t functions;
    uint64_t memory_bytes;        /* of the core itself, all of it allocated by core_new() */
};

struct core;

/* NULL when a bound of the config is broken or memory is short. */
struct core *core_new(const struct core_config *config);
void core_free(struct core *core);
void core_config_default(struct core_config *config);

/* The only door. Handles events[0..n) in order, fires timers due at now_ns, dispatches, and writes at most `max`
 * actions. Returns how many. It stops some way before `max`, since one event may cause many; if work was left undone
 * core_next_ns() is not later than now_ns then: call again with n = 0 and the same time.
 * *consumed says how many events were taken (less than n only when the actions were full).
 * max must be at least 64 + CORE_AHEAD_MAX. Cost: O(n + actions), no allocation. */
size_t core_step(struct core *core, uint64_t now_ns, const struct core_event *events, size_t n,
                 size_t *consumed, struct core_action *actions, size_t max);

/* When core_step() has to be called again (absolute ns): the next timer, or at once if the last step had no room for all
 * its actions. UINT64_MAX: not before an event. Never later than the true time. */
uint64_t core_next_ns(const struct core *core);

/* Every invariant of every structure; NULL or the name of the first that is broken. O(everything). */
const char *core_check(const struct core *core);

/* Copies, for whoever owns the core. function_stats: false when the slot is empty. */
bool core_account_stats(const struct core *core, uint16_t index, struct core_account_stats *out);
bool core_function_stats(const struct core *core, uint32_t index, uint64_t now_ns, struct core_function_stats *out);
void core_totals(const struct core *core, struct core_totals *out);

/* Lower and upper bound in ns of a histogram bucket: value v lies in [low, high). Error of the middle <= 1.6 %. */
void core_histogram_bounds(uint32_t bucket, uint64_t *low_ns, uint64_t *high_ns);

/* The pieces of Lambda's context the core knows of a live call; false: stale. */
bool core_sandbox_state(const struct core *core, uint64_t sandbox, uint32_t *state, uint64_t *function);

/* Its function's init is tried once more, within the time of the call that waits for it. */
bool core_sandbox_again(const struct core *core, uint64_t sandbox);

/* cffi:end */

#endif
