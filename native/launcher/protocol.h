/* protocol.h: every byte that crosses a socket of the launcher. scheduler/sandboxes/launcher.py mirrors the first part in one table
 * and a test compares both. Nothing else is decided here.
 *
 *   service  <-> launcher   SOCK_SEQPACKET, descriptor 3 of the launcher. The service is trusted; lengths and ranges are checked.
 *   launcher <-> zygote     SOCK_SEQPACKET, descriptor 3 of the zygote. Our code on both sides.
 *   launcher <-> newborn    SOCK_SEQPACKET, descriptor 5 of a sandbox until it is specialised, and of its first process
 *                           for life. Our code on both sides; the worker closes it before a stranger's code runs.
 *
 * One message is one struct, then (requests only) `text_bytes` bytes of NUL-terminated strings. Integers are little-endian, no
 * struct has padding. Descriptors travel by SCM_RIGHTS with the message that names them.
 */
#ifndef LAUNCHER_PROTOCOL_H
#define LAUNCHER_PROTOCOL_H

#include <stdint.h>

enum {
    PROTOCOL_VERSION = 8,
    PROTOCOL_TEXT_BYTES_MAX = 16384, /* of one request: a runtime's list of mounts is the longest */
    PROTOCOL_STRINGS_MAX = 160,
    PROTOCOL_STEP_BYTES = 48,        /* a step's name, NUL-terminated */
    PROTOCOL_NOTE_BYTES = 200,       /* what a person reads, NUL-terminated */
    PROTOCOL_RUNTIMES_MAX = 32,
    PROTOCOL_PORTS_MAX = 4,          /* listeners in one sandbox */
    PROTOCOL_SLOTS_MAX = 4096,       /* sandboxes alive at once */
    PROTOCOL_FDS_MAX = 12            /* of one message */
};

/* ---- service <-> launcher ---- */

enum request_kind {
    REQUEST_RUNTIME = 1,    /* runtime, flags, words; strings: name, executable, runtime package directory, then `words` of a command
                               that shells start at birth, then (source, target) of each mount */
    REQUEST_SHELL = 2,      /* runtime, token */
    REQUEST_SPECIALISE = 3, /* shell, memory_mb, ephemeral_storage_mb, flags; strings: code_dir, layers_dir (may be empty);
                               ports;
                               descriptor, if any: the image of an initialised process, for the sandbox */
    REQUEST_KILL = 4,       /* shell */
    REQUEST_REST = 5,       /* runtime: end its process; the next shell starts another. Not heeded while shells are under way */
    REQUEST_PING = 6,       /* answered by PONG at once: whoever does not answer is stuck */
    REQUEST_LOADED = 7,     /* shell: its function's init is over, from now on it has the CPU that its memory is worth */
    REQUEST_NETWORK = 8,    /* token: make ready for sandboxes with a network, if that was not done; answered by NETWORK */
    /* From here on no runtime is declared: who asks afterwards has dropped root (starter.h), and a runtime is a program run as root. */
    REQUEST_SEAL = 9,
    REQUEST_EXPECT = 10,    /* ephemeral_storage_mb: sandboxes with a /tmp of that size will come, so that one is made ready */
    REQUEST_FREEZE = 11,    /* shell: stop all that is in it; a call may come at any moment, so THAW follows then */
    REQUEST_THAW = 12       /* shell */
};

enum request_flag {
    REQUEST_OUTBOUND = 1,   /* SPECIALISE: the sandbox gets a network */
    REQUEST_QUIET = 2,      /* SPECIALISE: only a failure is answered: whoever asks hears of success from the sandbox itself */
    REQUEST_EXEC = 4        /* RUNTIME: its sandboxes execute a program (shell.c), not Python */
};

struct request {
    uint32_t kind;
    uint32_t runtime;              /* index chosen by the service, below PROTOCOL_RUNTIMES_MAX */
    uint64_t token;                /* comes back in the answer */
    uint64_t shell;
    uint32_t memory_mb;
    uint32_t ephemeral_storage_mb;
    uint32_t strings;
    uint32_t text_bytes;
    uint32_t flags;
    uint32_t words;
    uint16_t ports[PROTOCOL_PORTS_MAX]; /* of the sandbox's loopback, to listen at, in order; 0: no more */
};

enum notice_kind {
    NOTICE_READY = 1,             /* the launcher can work; flags: what it can limit; status: isolation; runtime: cgroup version;
                                     descriptor: a pidfd of the launcher, where the kernel has them */
    NOTICE_REFUSED = 2,           /* it cannot: step, error, note. It exits afterwards */
    NOTICE_SHELL = 3,             /* token, shell; descriptors: channel, output, progress, pidfd, then as flags say cpu, memory */
    NOTICE_SHELL_FAILED = 4,      /* token, step, error */
    NOTICE_SPECIALISED = 5,       /* shell; descriptors: the listeners */
    NOTICE_SPECIALISE_FAILED = 6, /* shell, step, error; EXITED follows */
    NOTICE_EXITED = 7,            /* shell, cause, status, cpu_ns, memory_peak_bytes; step and error with CAUSE_LAUNCH_FAILED */
    NOTICE_WARNING = 8,           /* note: something the operator should know */
    NOTICE_PONG = 9,
    NOTICE_NETWORK = 10           /* token; step and error if there can be none */
};

enum exit_cause { CAUSE_EXIT = 1, CAUSE_SIGNAL = 2, CAUSE_OOM = 3, CAUSE_KILLED = 4, CAUSE_LAUNCH_FAILED = 5 };

enum isolation { ISOLATION_ROOT = 1, ISOLATION_USER = 2, ISOLATION_PROCESS = 3 };

enum notice_flag {
    FLAG_MEMORY = 1,      /* READY: limits memory.  SHELL: a memory descriptor is there */
    FLAG_PIDS = 2,        /* READY: limits processes */
    FLAG_CPU = 4,         /* READY: limits CPU */
    FLAG_CPU_TIME = 8,    /* READY: reads CPU time. SHELL: a cpu descriptor is there */
    FLAG_SCRATCH = 16,    /* READY: /tmp can be on disk, encrypted */
    FLAG_FREEZE = 32      /* READY: a sandbox can be frozen */
};

struct notice {
    uint32_t kind;
    uint32_t flags;
    uint64_t token;
    uint64_t shell;
    uint64_t cpu_ns;
    uint64_t memory_peak_bytes;
    uint32_t cause;
    int32_t status;
    int32_t error;                 /* errno or 0 */
    uint32_t runtime;
    char step[PROTOCOL_STEP_BYTES];
    char note[PROTOCOL_NOTE_BYTES];
};

/* ---- launcher <-> zygote ---- */

enum spawn_flag { SPAWN_INTO_CGROUP = 1 /* the last descriptor is a cgroup v2 directory */ };

struct spawn_order {               /* descriptors: channel, output, progress, control, then one per cgroup to enter */
    uint64_t shell;
    uint32_t slot;
    uint32_t uid;                  /* also the gid; 0 keeps the launcher's */
    uint32_t isolation;
    uint32_t flags;
    uint32_t pids_max;
    uint32_t ephemeral_storage_mb; /* of the empty /tmp until specialised; 0: none until then */
    char temp_dir[104];            /* process isolation only: its private directory; else empty */
};

struct spawn_answer {              /* descriptor: pidfd, unless error. shell 0: the zygote's first word, error or readiness */
    uint64_t shell;
    int32_t pid;
    int32_t error;
    char step[PROTOCOL_STEP_BYTES];
};

/* ---- launcher <-> newborn ---- */

struct specialise_order {          /* descriptors: mount of the code, mount of the layers (if mounts == 2), image (if image == 1),
                                      a socket in the router (if address != 0; network.h), mount for /tmp (if scratch == 1) */
    uint32_t memory_mb;
    uint32_t ephemeral_storage_mb;
    uint32_t mounts;
    uint32_t image;
    uint32_t scratch;              /* 0: the shell has its /tmp, which gets ephemeral_storage_mb */
    uint32_t limit_data;           /* 1: no memory group here, bound RLIMIT_DATA instead */
    uint32_t address;              /* of its network, host order; 0: none */
    uint32_t link;                 /* number of its link in the router */
    uint16_t ports[PROTOCOL_PORTS_MAX];
};

struct stage_answer {              /* descriptors of stage 2: the listeners */
    uint32_t stage;                /* 1 born, 2 specialised, 3 the worker has ended: error is its wait status */
    int32_t error;
    char step[PROTOCOL_STEP_BYTES];
};

_Static_assert(sizeof(struct request) == 56 && sizeof(struct notice) == 304, "mirrored in Python");
_Static_assert(sizeof(struct spawn_order) == 136 && sizeof(struct spawn_answer) == 64, "no padding");
_Static_assert(sizeof(struct specialise_order) == 40 && sizeof(struct stage_answer) == 56, "no padding");

#endif
