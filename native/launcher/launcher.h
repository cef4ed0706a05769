/* launcher.h: the launcher proper, one thread, one epoll loop. It owns the slots (one sandbox each), the zygotes (one per
 * runtime) and the groups. It starts nothing by itself: the service asks, it answers; it reaps, it tells.
 *
 * A slot's life, and who moves it on:
 *
 *   FREE --shell asked--> QUEUED --zygote has room--> CLONING --zygote answers--> BIRTH --stage 1 done--> SHELL
 *   SHELL --specialise asked--> SPECIALISING --stage 2 done--> LIVE
 *   any of them --reaped--> EMPTYING --its groups hold no process--> FREE
 */
#ifndef LAUNCHER_LAUNCHER_H
#define LAUNCHER_LAUNCHER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "cgroup.h"
#include "network.h"
#include "protocol.h"
#include "scratch.h"

enum { ZYGOTE_ORDERS_MAX = 8, LAUNCHER_FD_SERVICE = 3 };

struct options {
    const char *code_root;          /* code and layers lie below it; NULL: anywhere */
    uint32_t slots, slots_wanted;   /* 1 .. PROTOCOL_SLOTS_MAX; fewer than wanted where descriptors are short */
    uint32_t uid_base;              /* slot n runs as uid_base + n */
    uint32_t pids_max;              /* processes and threads of one sandbox */
    uint32_t shell_scratch_mb;      /* /tmp of a shell; specialising resizes it if asked for another size */
    uint32_t patience_ms;           /* for a birth, for specialising, for a zygote's answer */
    uint32_t isolation;             /* resolved, not what was asked for */
    bool cpu_quota;                 /* CPU in proportion to memory is a bound, not only a weight */
    bool change_uid;                /* started as root: slots have uids of their own */
    struct scratch_options scratch;
    const char *temp_root;          /* process isolation: where private directories are made */
    struct network_options network;
    int supervisor;                 /* read end of a pipe that ends when the supervising process dies */
};

enum slot_state { SLOT_FREE, SLOT_QUEUED, SLOT_CLONING, SLOT_BIRTH, SLOT_SHELL, SLOT_SPECIALISING, SLOT_LIVE, SLOT_EMPTYING };

struct slot {
    enum slot_state state;
    uint64_t since_ms;              /* it is in this state */
    uint32_t generation;
    uint32_t runtime;
    uint32_t next;                  /* in the free list or the queue of a zygote */
    uint64_t token;
    pid_t pid;
    int pidfd;
    int control;                    /* our end; speaks of birth, specialising, and how the worker ended */
    int channel, output, progress;  /* the service's ends, until handed over */
    bool ended;                     /* init has said how the worker ended */
    int worker_status;
    bool killed;                    /* by us */
    bool oom;                       /* it ran out of memory, so it has to end as a whole */
    bool born;                      /* has done stage 1 before its zygote answered */
    bool quiet;                     /* nobody waits for SPECIALISED */
    bool told;                      /* the service has the shell: it must hear EXITED */
    int32_t error;                  /* of the step that failed */
    char step[PROTOCOL_STEP_BYTES];
    uint64_t oom_before;
    uint32_t memory_mb;             /* of its function */
    int freezer;                    /* what freezes and thaws it, from the first time on; else -1 */
    bool frozen;
    uint32_t address;               /* of its network; 0: none */
    uint32_t volume;                /* its /tmp; NO_VOLUME: in memory */
    uint32_t scratch_mb;            /* size of its /tmp */
    struct held_order *held;        /* what it is to become, once it has its /tmp; NULL: it does not wait */
};

struct zygote {
    char *text;                     /* strings of the runtime, owned; NULL: not declared */
    const char *strings[PROTOCOL_STRINGS_MAX];
    unsigned count;
    unsigned words;                 /* of the strings, from STRING_WORDS on: a command that shells start at birth */
    bool exec;                      /* shells are those of shell.c */
    pid_t pid;                      /* 0: not running */
    int fd;
    unsigned orders;                /* sent and not answered */
    uint32_t queue_head, queue_tail; /* slots that wait for room */
    bool ready;
    uint64_t since_ms;              /* it was started, or given work, or has answered */
    bool resting;                   /* it was told to end, for nobody needs it now */
    int32_t error;                  /* why it could not start */
    char step[PROTOCOL_STEP_BYTES];
};

struct orphan {
    pid_t pid;
    int status;
    uint64_t cpu_ns;
};

struct launcher {
    struct options options;
    struct cgroups groups;
    struct network network;
    struct slot *slots;
    uint32_t free_head;
    uint32_t cloning;               /* slots in CLONING: while there are any, an unknown dead child may be one of theirs */
    uint32_t emptying;
    uint32_t pending;               /* slots that wait for their zygote or for their newborn */
    uint64_t looked_ms;             /* last look for what is overdue */
    bool strays;                    /* process isolation: something has died, and what it had started may be ours now */
    struct zygote zygotes[PROTOCOL_RUNTIMES_MAX];
    struct orphan *orphans;         /* reaped before their zygote named them */
    uint32_t orphans_count;
    struct scratch scratch;
    int epoll, signals;
    bool stopping;
    bool sealed;                    /* runtimes are declared no more */
};

enum { NO_SLOT = UINT32_MAX };

/* Runs until the service's socket or the supervisor ends; then every sandbox and zygote is dead and reaped. The groups are
 * the caller's to close. Returns 0, or -errno when it could not start. */
int launcher_run(const struct options *options, struct cgroups *groups);

/* ---- zygotes.c ---- */

void zygotes_init(struct launcher *launcher);
/* Remembers a runtime; its zygote starts with the first shell. 0 or -errno. */
int zygote_declare(struct launcher *launcher, const struct request *request, const char *text);
/* Puts a slot into the queue of its runtime; starts the zygote if it does not run. 0 or -errno. */
int zygote_enqueue(struct launcher *launcher, uint32_t slot);
/* Ends the zygote, unless shells are under way; sandboxes that it made live on. */
void zygote_rest(struct launcher *launcher, uint32_t runtime);
/* Something can be read from the zygote, or it has gone. */
void zygote_readable(struct launcher *launcher, uint32_t runtime);
/* Its process was reaped. */
void zygote_died(struct launcher *launcher, uint32_t runtime);
/* Ends those that have been silent for too long with work to do. */
void zygotes_overdue(struct launcher *launcher, uint64_t now_ms);

/* ---- slots.c ---- */

/* What the service asks; the answers go to the service. image: for the sandbox, or -1; stays the caller's. */
void slot_ask_shell(struct launcher *launcher, const struct request *request);
void slot_ask_specialise(struct launcher *launcher, const struct request *request, const char *const *strings, unsigned count,
                         int image);
void slot_ask_kill(struct launcher *launcher, uint64_t shell);
void slot_ask_loaded(struct launcher *launcher, uint64_t shell);
void slot_ask_freeze(struct launcher *launcher, uint64_t shell, bool freeze);

/* Sends the order of a queued slot: 0, or -errno and the slot is as before. */
int slot_send_order(struct launcher *launcher, uint32_t slot);
/* The zygote has cloned it (or not: error, step). pidfd becomes the slot's. */
void slot_cloned(struct launcher *launcher, uint64_t shell, pid_t pid, int pidfd, int32_t error, const char *step);
/* It was queued or cloning and will never be. */
void slot_abandon(struct launcher *launcher, uint32_t slot, int32_t error, const char *step);
/* Something can be read from its control socket. */
void slot_readable(struct launcher *launcher, uint32_t slot);
/* Its process was reaped: tells the service, and gives the slot back. status: of wait4; cpu_ns: of the process and those it reaped. */
void slot_reaped(struct launcher *launcher, uint32_t slot, int status, uint64_t cpu_ns);
/* Its group has run out of memory. */
void slot_out_of_memory(struct launcher *launcher, uint32_t slot);
/* Its group's count of those killed for memory may have risen. */
void slot_check_memory(struct launcher *launcher, uint32_t slot);
/* From EMPTYING to FREE if nothing is left in its group, else kills what is left. */
void slot_try_free(struct launcher *launcher, uint32_t slot);
/* Ends newborns that have been silent for too long. */
void slots_overdue(struct launcher *launcher, uint64_t now_ms);

/* Slots that wait for a /tmp of that size, and the one that has waited longest (size 0: any), or NO_SLOT. */
uint32_t slots_waiting_for_scratch(const struct launcher *launcher, uint32_t size_mb);
uint32_t slot_waiting_for_scratch(const struct launcher *launcher, uint32_t size_mb);
/* What a waiting slot waited for. Takes the mount. */
void slot_scratch_comes(struct launcher *launcher, uint32_t slot, enum scratch_verdict verdict, int mount, int32_t error,
                        const char *step);
/* Nothing of its last occupant's files is left. */
void slot_scratch_gone(struct launcher *launcher, uint32_t slot);

/* ---- launcher.c ---- */

/* Makes the network unless it is there. 0, or -errno with *step. */
int launcher_network(struct launcher *launcher, const char **step);
/* 0 or -errno; only who sends descriptors has to care. */
int launcher_tell(const struct notice *notice, const int *fds, unsigned count);
uint64_t launcher_now_ms(void);
/* epoll data: what and which. */
int launcher_watch(struct launcher *launcher, int fd, uint32_t what, uint32_t which);
void launcher_warn(const char *note);

enum watched { WATCH_SERVICE, WATCH_SUPERVISOR, WATCH_SIGNALS, WATCH_ZYGOTE, WATCH_SLOT, WATCH_MEMORY, WATCH_MEMORIES,
               WATCH_KEEPER };

#endif
