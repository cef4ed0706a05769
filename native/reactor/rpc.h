/* rpc.h: MessagePack-RPC requests from bytes, without input or output.
 *
 * The bytes are a stranger's. The reader never allocates, never recurses, looks at no byte twice but for a frame's head, and
 * copies nothing: what it finds are slices into the caller's buffer. Given any bytes it says one of the verdicts below.
 *
 * A frame is read by calling rpc_read() with the bytes from the frame's first on, again with more of them as they come (the
 * buffer may have moved: the scan holds offsets alone). After any other verdict than RPC_MORE the scan starts anew.
 */
#ifndef SCHED_RPC_H
#define SCHED_RPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RPC_DEPTH_MAX = 32, RPC_ERROR_BYTES = 192 };

enum rpc_verdict {
    RPC_MORE = 0,     /* the frame is not whole yet: scan.need bytes are wanted at least */
    RPC_INVOKE = 1,   /* request of method "invoke", checked throughout */
    RPC_METHOD = 2,   /* request or notification of another method: method, params */
    RPC_CANCEL = 3,   /* notification cancel [msgid] */
    RPC_BAD = 4,      /* well-formed frame with wrong method, params or types: error says which field, value and limit.
                         A notification that is bad has notification set: nobody is answered. A method that is no str, no UTF-8
                         or longer than 64 bytes is bad, and so are invoke as a notification and cancel as a request */
    RPC_BROKEN = 5    /* not MessagePack-RPC (bad tag, wrong length, msgid no uint32, a response), too deep or too large:
                         error; the connection is to be closed. too_large tells a frame over the limit from rubbish.
                         Found at the first byte that shows it, the same wherever the stream is cut */
};

enum rpc_type { RPC_SYNC = 0, RPC_EVENT = 1, RPC_DRYRUN = 2 };

struct rpc_slice {
    const uint8_t *at; /* NULL: absent */
    uint32_t size;
};

struct rpc_limits {
    uint32_t frame_bytes_max;
};

/* Zero it for the first frame; rpc_read() zeroes it after each verdict but RPC_MORE. Only need is the caller's business. */
struct rpc_scan {
    uint64_t need;               /* from the frame's first byte; more than what was given, at most frame_bytes_max. No verdict
                                    can fall before, so a caller may wait for as much; but an attacker may announce it and
                                    send nothing */
    uint64_t at;                 /* everything before is well-formed */
    uint64_t last_param;         /* where the last element of params begins */
    uint32_t depth;
    uint32_t pending;            /* values still to come, of all depths */
    uint32_t left[RPC_DEPTH_MAX + 1]; /* values still to come, by depth */
    bool begun;
};

struct rpc_request {
    uint64_t size;               /* bytes of the frame; BROKEN: 0 */
    uint32_t msgid;              /* 0 for a notification, and for BROKEN unless it was read already */
    bool notification;
    bool too_large;
    /* METHOD, BAD where known; INVOKE too (an event goes on to the slow side as it came) */
    struct rpc_slice method;     /* 1 .. 64 bytes of UTF-8, no NUL at its end */
    struct rpc_slice params;     /* the whole array, MessagePack */
    /* INVOKE */
    struct rpc_slice function;   /* 1 .. 256 bytes of UTF-8 */
    struct rpc_slice payload;    /* contents of a bin or str, or a whole MessagePack value */
    bool payload_msgpack;
    bool report;                 /* log_tail implies it */
    bool log_tail;
    bool stream;                 /* only with type "sync" */
    uint8_t type;                /* enum rpc_type */
    uint64_t deadline_ms;        /* 0: none given; else 1 .. 86,400,000 */
    struct rpc_slice client_context; /* <= 3,583 bytes */
    struct rpc_slice trace;      /* <= 1,024 bytes, printable ASCII */
    struct rpc_slice guest;      /* options.tenant_id: 1 .. 256 bytes of UTF-8 */
    struct rpc_slice idempotency_key; /* 1 .. 128 bytes of UTF-8; only with type "event" */
    struct rpc_slice request_id; /* 16 bytes; who may give one is the caller's to say */
    /* CANCEL */
    uint32_t cancel_msgid;
    char error[RPC_ERROR_BYTES]; /* BAD, BROKEN: a sentence, NUL-terminated, always valid UTF-8 (hostile bytes are escaped) */
};

/* Cost: O(bytes not looked at before). */
enum rpc_verdict rpc_read(struct rpc_scan *scan, const uint8_t *in, size_t size, const struct rpc_limits *limits,
                          struct rpc_request *out);

#endif
