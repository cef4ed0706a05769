/* internal.h: what the core's files share. Not for anybody outside native/core.
 *
 * Who owns what:
 *   core.c   the door: events in, the call slab, functions
 *   look.c   checks and snapshots
 *   ring.c   which of a sandbox' calls has begun
 *   pool.c   sandboxes: their states, their rings of calls, what becomes of calls when one ends
 *   usage.c  what the kernel says they have used
 *   keep.c   how long an idle one is kept, which one goes when memory is short
 *   start.c  starts that fail, and are tried once more
 *   floor.c  those made without a call: provisioned ones, and those that replace worn ones
 *   place.c  dispatch: whose turn it is, where a call may start earliest, when to ask for another sandbox
 *
 * A call is on exactly one list: free, its function's queue, or a sandbox's ring (or it is the orphan of a dying sandbox).
 */
#ifndef SCHED_CORE_INTERNAL_H
#define SCHED_CORE_INTERNAL_H

#include "core.h"
#include "fair.h"
#include "histogram.h"
#include "invariant.h"
#include "meter.h"
#include "wheel.h"

#define NONE UINT32_MAX

enum call_state { CALL_FREE = 0, CALL_QUEUED = 1, CALL_SENT = 2, CALL_ORPHAN = 3 };

struct call {
    uint64_t cookie;
    uint64_t order;         /* of arrival: a queue is sorted by it, so what comes back finds its old place */
    uint64_t arrive_ns;
    uint64_t deadline_ns;   /* the caller's, 0: none */
    uint64_t sent_ns;
    uint64_t valid_until_ns;
    uint64_t expected_ns;   /* charged to virtual time at dispatch */
    uint64_t init_ns;       /* of its waiting time, spent on its sandbox's start */
    uint32_t generation;
    uint32_t function;
    uint32_t sandbox;
    uint32_t bytes;
    uint32_t prev;
    uint32_t next;
    uint8_t state;
    uint8_t cancelled;
    uint8_t excused;        /* its queue timeout has passed, but a sandbox is starting for it */
    uint8_t tier;
    uint8_t flushing;       /* counted in function.flush */
    uint8_t told;           /* its handle has been given out */
    uint8_t bereft;         /* the sandbox it was first in has ended before it began it */
};

struct sandbox {
    uint32_t generation;
    uint32_t function;
    uint32_t revision;
    uint32_t memory_mb;
    uint32_t prev;          /* in its function's list of this state (IDLE: also LRU order), or free list */
    uint32_t next;
    uint32_t lru_prev;      /* all idle sandboxes of the node, least recently used first */
    uint32_t lru_next;
    uint32_t head_seq;      /* of the oldest unanswered call; the ring holds head_seq .. head_seq + backlog */
    uint32_t backlog;       /* ring entries, recalled ones included */
    uint32_t recalled;      /* ring entries whose call went elsewhere, or was answered and lingers */
    uint32_t ring[CORE_AHEAD_MAX];
    uint32_t started_seq;   /* what its progress was when it was told last */
    uint32_t orphan;        /* calls that wait to be told why it died, chained by call.next */
    uint8_t state;
    uint8_t tier;
    uint8_t why;            /* we killed it because */
    uint8_t first;          /* no call answered yet: the next one is a cold start */
    uint8_t died_starting;
    uint8_t untold;         /* of a start that failed the cause is not known yet, which those who wait are to be told */
    uint8_t again;          /* STARTING: its function's init is tried once more, within the time of a call */
    uint64_t again_ns;      /* BUSY: since when, which its first call's time counts from; 0: not so */
    uint8_t charged;        /* holds a unit of concurrency */
    uint8_t last_word;      /* and no more will be: a call above it was not begun and never will be */
    uint8_t asked_progress; /* a probe is under way: enum asked */
    uint8_t overrun;        /* its first call takes unexpectedly long: fed no more until it answers */
    uint8_t stuck;          /* overrun, for STUCK_NS at least */
    uint8_t has_usage;
    uint8_t worn;           /* IDLE, BUSY: it has served for long enough and is to be replaced */
    uint8_t replaces;       /* STARTING: made in place of a worn one */
    uint64_t requested_ns;
    uint64_t ready_ns;
    uint64_t init_ns;
    uint64_t first_since_ns; /* since when its first call is first */
    uint64_t overrun_ns;    /* look again when the first call is this old */
    uint64_t last_end_ns;
    uint64_t idle_since_ns; /* IDLE */
    uint64_t clock;         /* core.clock when it became idle */
    uint64_t served;        /* calls answered */
    uint64_t worn_calls;    /* worn after so many, */
    uint64_t worn_at_ns;    /* or from then on */
    uint64_t cpu_ns;        /* kernel's total */
    uint64_t cpu_estimated_ns; /* charged from run times since the kernel was last asked */
    uint64_t cpu_unclaimed_ns; /* measured since the last answer */
    uint8_t unclaimed_settled; /* and charged to virtual time with the estimates before it */
    uint64_t usage_ns;      /* when the kernel was last asked */
    uint64_t busy_from_ns;  /* BUSY: since when */
    uint64_t busy_ns;       /* BUSY before that, since the kernel was last asked */
    uint64_t memory_peak_bytes;
    uint64_t end_at_ns;     /* replaced or not, it serves no longer */
    uint64_t evicted_for;   /* DYING: handle of the function that wants its memory, 0: none */
};

/* The gaps between a function's calls: see keep.c. */
enum { KEEP_FINE = 60, KEEP_COARSE = 240, KEEP_BINS = KEEP_FINE + KEEP_COARSE, KEEP_GONE = 8 };

struct keep {
    uint64_t window_ns;     /* an idle sandbox is kept so long */
    uint64_t uses_from_ns;
    uint32_t uses;          /* of idle sandboxes; halved every ten minutes */
    uint32_t samples;
    uint32_t beyond;        /* gaps longer than all bins */
    uint32_t gone;
    uint32_t gone_next;
    uint64_t gone_ns[KEEP_GONE]; /* since when those were idle that were ended for it, the latest before gone_next */
    uint16_t bins[KEEP_BINS];
};

struct function {
    bool used;
    bool removing;
    bool active;            /* has calls, in its queue or in sandboxes */
    bool parked;            /* has calls, but only an event of its own sandboxes or account can help */
    uint16_t waits_at;      /* the shared account it is parked for, on that account's list; METER_NONE: none */
    uint32_t waits_prev;
    uint32_t waits_next;
    bool wants_memory;      /* a sandbox was refused for memory or a place in the table: on the list core.wanting */
    uint32_t wanting_next;
    bool run_known;
    uint32_t generation;
    uint16_t account;
    uint32_t weight;
    uint32_t revision;      /* the one that gets calls */
    uint32_t memory_mb;
    uint32_t ahead_max;
    uint64_t timeout_ns;
    uint64_t queue_timeout_ns;
    uint32_t queue_head;
    uint32_t queue_tail;
    uint32_t queued;
    uint32_t excused;
    uint32_t again;         /* starts that failed and are to be tried once more */
    uint32_t untold;        /* sandboxes that are */
    bool broken;            /* one failed the second time too: until a start goes well each is like that */
    uint32_t coming;        /* STARTING sandboxes of the serving revision */
    uint32_t flush;         /* so many calls from the head are to be answered with flush_outcome */
    uint8_t flush_outcome;
    uint8_t flush_cause;
    int32_t flush_status;
    bool on_flush_list;
    uint32_t flush_next;
    uint8_t retire_why;     /* its sandboxes are to go, over several steps: enum core_why; gets no calls meanwhile */
    bool retire_all;        /* else only those of another revision */
    uint32_t guaranteed_next;
    uint32_t account_next;  /* functions charged to the same account */
    uint64_t run_ns;        /* moving average of run times */
    uint64_t run_dev_ns;    /* mean deviation, as TCP's RTO has it (RFC 6298) */
    uint64_t run_floor_ns;  /* age of a first call that is not answered yet: a lower bound before anything is known */
    uint32_t overrun;       /* BUSY sandboxes whose first call takes unexpectedly long */
    uint32_t stuck;         /* of these: for so long that no lack of processors explains it */
    uint32_t cpu_share;     /* of the time its sandboxes are busy, how much they spend on a CPU: of CPU_SHARE_ONE, moving average */
    bool cpu_known;
    uint32_t floor;         /* sandboxes provisioned */
    uint64_t start_ns;      /* moving average of a sandbox's start */
    struct keep keep;
    uint32_t floor_next;    /* on the list core.floor_head */
    bool floor_listed;
    uint8_t floor_failure;  /* enum core_floor_failure */
    uint16_t floor_account;
    uint64_t floor_retry_ns; /* not before that is another provisioned one started */
    uint64_t floor_pause_ns;
    uint32_t worn;          /* IDLE and BUSY ones that are worn */
    uint32_t replacing;     /* STARTING ones that are made in place of one */
    uint64_t replace_ns;    /* not before that is another asked for */
    uint32_t room;          /* sandboxes of others that were evicted for it and are not reaped yet */
    uint64_t room_mb;       /* what they hold */
    uint32_t state_heads[CORE_SB_STATES]; /* lists of sandboxes: BUSY is by backlog below instead */
    uint32_t busy_heads[CORE_AHEAD_MAX + 1]; /* by backlog, current revision */
    uint64_t busy_bits;
    uint32_t states[CORE_SB_STATES];
    uint32_t in_flight;
    uint32_t sandboxes;
    struct refusal last_refusal;
    struct core_function_stats stats;
};

/* Siblings share the parent's capacity by virtual time; the parent of a function's account is its tenant. */
struct tenant {
    struct fair_heap ready; /* functions with calls that may be placed */
    uint64_t clock;         /* virtual time of the function served last */
    uint32_t active;        /* functions with calls, queued or in sandboxes */
    uint32_t waits_head;    /* functions parked since this account, not their own, was full: first come first served */
    uint32_t waits_tail;
    uint16_t released_next; /* accounts that a unit came back to while somebody waits there */
    bool released;
    bool blocked;           /* its own account refused; out of the node's heap until a unit comes back */
};

struct core {
    struct core_config config;
    struct call *calls;
    uint64_t *fresh;           /* handles of calls that came in this step and were queued, not told yet */
    uint32_t fresh_count;
    struct sandbox *sandboxes;
    struct function *functions;
    struct account *accounts;
    struct timer *timers;      /* calls, then sandboxes, then one for draining */
    struct tenant *tenants;    /* by account index */
    uint32_t *account_functions; /* by account index: head of the list through function.account_next */
    struct fair_node *function_nodes;
    struct fair_node *tenant_nodes;
    struct fair_heap ready_tenants;
    uint64_t node_clock;
    uint64_t arrivals;
    bool node_blocked;
    uint16_t released;
    struct wheel wheel;
    struct meter meter;
    uint32_t free_call;
    uint32_t free_sandbox;
    uint32_t lru_head;
    uint32_t lru_tail;
    uint32_t flush_head;
    uint32_t guaranteed_head;
    uint32_t wanting;          /* functions that wait for memory */
    uint64_t window_from_ns;   /* CPU time of all sandboxes is added up since then */
    uint64_t window_cpu_ns;
    uint32_t cpu_load;         /* of the node, by sandboxes, in the window before: of CPU_SHARE_ONE */
    bool idle_appeared;        /* a sandbox became idle since they last looked for one to evict */
    uint32_t evicting;         /* sandboxes killed for their memory, not yet reaped */
    uint64_t clock;            /* worth of what was evicted last: see keep.c */
    uint32_t floor_head;       /* functions that have, or had, provisioned sandboxes */
    bool floors_due;           /* one of them may have too few */
    bool draining;
    bool drain_over;
    bool drained_told;
    bool more;                 /* the last step ran out of room for actions: work may be left */
    uint64_t now_ns;
    uint32_t event_index;
    struct core_action *actions;
    size_t actions_count;
    size_t actions_max;
    struct core_totals totals;
};

/* Room that one event, one timer or one placement may need at most: an answer or a requeue for each call of a ring, and the
 * actions around it. */
enum { ACTIONS_RESERVE = CORE_AHEAD_MAX + 16 };

static inline bool have_room(const struct core *core) {
    return core->actions_max - core->actions_count >= ACTIONS_RESERVE;
}

static inline uint64_t handle_of(uint32_t index, uint32_t generation) {
    return ((uint64_t)generation << 32) | index;
}

static inline uint64_t saturating_sub(uint64_t a, uint64_t b) {
    return a > b ? a - b : 0;
}

static inline uint64_t saturating_add(uint64_t a, uint64_t b) {
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

static inline uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static inline uint32_t call_timer(uint32_t call) {
    return call;
}

static inline uint32_t sandbox_timer(const struct core *core, uint32_t sandbox) {
    return core->config.calls_max + sandbox;
}

static inline uint32_t function_timer(const struct core *core, uint32_t function) {
    return core->config.calls_max + core->config.sandboxes_max + 1 + function;
}

/* core.c */
struct core_action *act(struct core *core, enum core_action_kind kind);
uint64_t function_handle(const struct core *core, uint32_t function);
uint64_t sandbox_handle(const struct core *core, uint32_t sandbox);
uint64_t call_handle(const struct core *core, uint32_t call);
/* Answers and frees. The call must be on no list. */
void call_finish(struct core *core, uint32_t call, enum core_outcome outcome, struct core_action **answer);
void queue_push_back(struct core *core, uint32_t call);
/* A call that comes back from a sandbox: to its old place, at or near the head. */
void queue_return(struct core *core, uint32_t call);
void queue_remove(struct core *core, uint32_t call);
/* The next `count` calls from the head are answered so, as room for actions allows. */
void function_flush(struct core *core, uint32_t function, uint32_t count, enum core_outcome outcome, uint8_t cause,
                    int32_t status);
void function_free_if_done(struct core *core, uint32_t function);

/* ring.c */
static inline uint32_t ring_at(const struct sandbox *sandbox, uint32_t seq) {
    return sandbox->ring[seq % CORE_AHEAD_MAX];
}
/* Seq of the call that is running now as far as we know: nothing before the oldest unanswered one can be. */
uint32_t ring_running(const struct sandbox *sandbox);
/* Seq of the last call that may have run, of a sandbox that is gone. */
uint32_t ring_begun(struct core *core, uint32_t index);

/* pool.c */
/* provisioned: no call waits for it. NONE: `why`. */
uint32_t sandbox_request(struct core *core, uint32_t function, uint32_t revision, bool provisioned, struct refusal *why);
void sandbox_send(struct core *core, uint32_t sandbox, uint32_t call);
void sandbox_kill(struct core *core, uint32_t sandbox, enum core_why why);
void sandbox_timer_fired(struct core *core, uint32_t sandbox);
void on_reply(struct core *core, const struct core_reply_event *event);
void on_progress(struct core *core, const struct core_reply_event *event);
void on_ready(struct core *core, const struct core_sandbox_event *event);
void on_init_failed(struct core *core, const struct core_sandbox_event *event);
void on_gone(struct core *core, const struct core_sandbox_event *event);
void on_reaped(struct core *core, const struct core_sandbox_event *event);
void sandbox_retire(struct core *core, uint32_t sandbox, enum core_why why);
void sandbox_set_state(struct core *core, uint32_t sandbox, enum core_sandbox_state state);
/* NONE: stale. */
uint32_t sandbox_find(struct core *core, uint64_t handle);
const char *pool_check(const struct core *core);

/* start.c */
/* Of a sandbox that is asked for now: how long its init may take; sets its `again`. */
uint64_t start_limit_ns(struct core *core, uint32_t sandbox, bool provisioned);
void start_went_well(struct core *core, uint32_t sandbox);
/* It will not be ready, and nobody needs to be told: it was the first attempt. */
bool start_forgiven(struct core *core, uint32_t sandbox);
/* It will not be ready: those that waited for it are told, unless it is forgiven. */
void start_failed(struct core *core, uint32_t sandbox, uint8_t cause, int32_t status);
/* Those that wait for the cause of its death: told with the next start_failed(), or never. */
void start_told(struct core *core, uint32_t sandbox);
/* Of the serving code nothing is known any more. */
void start_forget(struct core *core, uint32_t function);
/* The first call of a sandbox has been sent: if its init was a second attempt, the call's time runs since that began. */
void start_first_call(struct core *core, uint32_t sandbox);

/* usage.c */
void on_usage(struct core *core, const struct core_sandbox_event *event);

/* keep.c */
void keep_init(const struct core *core, struct keep *keep);
/* KEEP_BINS: it is longer than what is told apart. */
uint32_t keep_bin(uint64_t gap_ns, uint64_t grain_ns);
/* An idle sandbox was used again after so long. */
void keep_gap(const struct core *core, struct keep *keep, uint64_t gap_ns);
/* One was ended that had been idle since then. */
void keep_gone(struct keep *keep, uint64_t idle_since_ns);
/* A sandbox is started for a call: the one that was ended last would have served it. */
void keep_missed(const struct core *core, struct keep *keep);
/* Ten minutes are over since uses were halved. */
void keep_used_halve(const struct core *core, struct keep *keep);
/* A function was refused `wanted` sandboxes: evicts until as much is on its way. false: no more can be. */
bool keep_make_room(struct core *core, uint32_t function, const struct refusal *why, uint32_t wanted);
/* An evicted one is reaped. */
void keep_room_made(struct core *core, struct sandbox *sandbox);
const char *keep_check(const struct core *core);

/* floor.c */
void floor_set(struct core *core, uint32_t function, uint32_t floor);
void floor_forget(struct core *core, uint32_t function);
/* None of its ready sandboxes may be ended for being idle or for its memory. */
bool floor_holds(const struct function *function);
uint32_t floor_available(const struct function *function);
uint32_t floor_allocated(const struct function *function);
void floor_failed(struct core *core, uint32_t function);
void floors_fill(struct core *core);
void function_timer_fired(struct core *core, uint32_t function);
void wear_init(const struct core *core, uint32_t sandbox);
/* Of one that has served for long enough, after an answer. false: its time is over, it is to go. */
bool wear(struct core *core, uint32_t sandbox);
/* The sandbox is ready: if it was made for a worn one, that one goes. */
void wear_replaced(struct core *core, uint32_t sandbox);
void idle_timer_fired(struct core *core, uint32_t sandbox);
const char *floor_check(const struct core *core);

/* What every call passes is short and here. */
enum { KEEP_USES_MAX = 1 << 16 };
static const uint64_t KEEP_HALVE_NS = 600ULL * 1000 * 1000 * 1000;

static inline void keep_used(const struct core *core, struct keep *keep) {
    if (core->now_ns - keep->uses_from_ns >= KEEP_HALVE_NS) {
        keep_used_halve(core, keep);
    }
    keep->uses += keep->uses < KEEP_USES_MAX;
}

static inline bool wear_answered(struct core *core, uint32_t index) {
    const struct sandbox *sandbox = &core->sandboxes[index];
    return (sandbox->served < sandbox->worn_calls && core->now_ns < sandbox->worn_at_ns) || wear(core, index);
}

static inline uint64_t idle_due_ns(const struct core *core, const struct sandbox *sandbox) {
    const uint64_t window = core->functions[sandbox->function].keep.window_ns;
    const uint64_t age = sandbox->worn ? sandbox->end_at_ns : sandbox->worn_at_ns;
    return min_u64(age, saturating_add(sandbox->idle_since_ns, window));
}

enum { CPU_SHARE_ONE = 1024 };

enum asked { ASKED_NOTHING = 0, ASKED_OVERRUN = 1, ASKED_TIMEOUT = 2 };

/* place.c */
void function_ready(struct core *core, uint32_t function);
void function_unready(struct core *core, uint32_t function);
/* Its first call comes while none is queued or in a sandbox: what it did not use meanwhile is not saved up. */
void function_begins(struct core *core, uint32_t function);
void function_ends_if_done(struct core *core, uint32_t function);
void waits_remove(struct core *core, uint32_t function);
void concurrency_uncharge(struct core *core, uint32_t function);
void memory_uncharge(struct core *core, uint32_t function, uint32_t memory_mb);
/* It is looked at again when memory comes back or a sandbox becomes idle. */
void wanting_add(struct core *core, uint32_t function);
void wanting_remove(struct core *core, uint32_t function);
void settle_vtime(struct core *core, uint32_t function, int64_t delta_ns);
void unblock_all(struct core *core);
/* A sandbox became idle: those that were refused one may find that it can go. */
void wake_for_idle(struct core *core);
void dispatch(struct core *core);
/* Expected wait of a call that joins the queue now; 0: not known. */
uint64_t expected_wait_ns(const struct core *core, uint32_t function);
uint64_t expected_run_ns(const struct function *function);
/* A call that came now could not start in time, or would lengthen a queue that stands (many calls for each sandbox, worth more than
 * half of what a call may wait), and no sandbox can be added: then what holds the function back. With a standing queue everybody
 * served has waited for as long as anybody may, and for that long the service would not be itself after the load has gone
 * (Nichols and Jacobson 2012). */
bool queue_stands(struct core *core, uint32_t index, struct refusal *why);
uint16_t tenant_of(const struct core *core, uint32_t function);

#endif
