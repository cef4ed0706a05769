/* telemetry.h: what the service tells of a sandbox's doings (platform events, lines of the function and of extensions), delivered to the
 * subscribers in it: programs that listen at 127.0.0.1. Lambda's Telemetry API, the side that pushes.
 *
 * A subscription has two buffers of its own size: one gathers records until there are max_items, or max_bytes, or the oldest has waited
 * for timeout_ms; the other is under way. While both are full records are dropped, and their number is told by a platform.logsDropped
 * in front of the next that is kept. So memory is bounded by what was subscribed, and no subscriber makes anybody wait.
 *
 * A delivery that is refused, broken off or too slow is tried again, and dropped in the end: a subscriber may get a record twice.
 * Non-blocking; whoever owns it polls for it.
 */
#ifndef LAUNCHER_TELEMETRY_H
#define LAUNCHER_TELEMETRY_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum telemetry_type { TELEMETRY_PLATFORM = 1, TELEMETRY_FUNCTION = 2, TELEMETRY_EXTENSION = 4 };
enum telemetry_protocol { TELEMETRY_HTTP = 1, TELEMETRY_TCP = 2 };

enum {
    TELEMETRY_SUBSCRIBERS_MAX = 10,
    TELEMETRY_ITEMS_MAX = 10000,
    TELEMETRY_BYTES_MAX = 1 << 20,
    TELEMETRY_TIMEOUT_MS_MAX = 30000,
    TELEMETRY_HOST_BYTES = 128,
    TELEMETRY_PATH_BYTES = 1024,
    TELEMETRY_ATTEMPTS = 5,        /* of one delivery */
    TELEMETRY_PATIENCE_MS = 5000,  /* for one attempt */
    TELEMETRY_PAUSE_MS = 100       /* before the second attempt; then twice as long each time */
};

struct telemetry_subscription { /* as it comes, little-endian; then host and path, NUL-terminated (TCP: no path, "") */
    uint8_t subscriber;        /* below TELEMETRY_SUBSCRIBERS_MAX; one that is there already is replaced */
    uint8_t types;
    uint8_t protocol;
    uint8_t unused;
    uint32_t max_items;
    uint32_t max_bytes;
    uint32_t timeout_ms;
    uint16_t port;
    uint16_t unused_too;
};

struct telemetry_record { /* then `bytes` of JSON; the next record follows at once */
    uint8_t type;
    uint8_t unused[3];
    uint32_t bytes;
};

_Static_assert(sizeof(struct telemetry_subscription) == 20 && sizeof(struct telemetry_record) == 8, "no padding");

struct telemetry_buffer {
    char *text;
    size_t bytes;
    uint32_t items;
};

enum telemetry_state { TELEMETRY_IDLE, TELEMETRY_PAUSING, TELEMETRY_CONNECTING, TELEMETRY_SENDING, TELEMETRY_ANSWER };

struct telemetry_subscriber {
    bool there;
    struct telemetry_subscription what;
    char host[TELEMETRY_HOST_BYTES], path[TELEMETRY_PATH_BYTES];
    struct telemetry_buffer gathered, sent; /* room for max_bytes each, and a little */
    uint64_t oldest_ms;                     /* when the first of `gathered` came */
    uint64_t dropped_records, dropped_bytes;
    enum telemetry_state state;
    int fd;
    unsigned attempts;
    bool unreachable; /* the last delivery was given up: what was dropped is told with the next record, not by itself */
    uint64_t deadline_ms;
    char head[TELEMETRY_PATH_BYTES + TELEMETRY_HOST_BYTES + 256], answer[32];
    size_t head_bytes, at, answer_bytes;
};

struct telemetry {
    struct telemetry_subscriber subscribers[TELEMETRY_SUBSCRIBERS_MAX];
    bool draining;
};

/* NULL, or what is wrong with the message; then nothing has changed. */
const char *telemetry_subscribe(struct telemetry *telemetry, const void *bytes, size_t count);
/* Records for whom they concern. NULL, or what is wrong; those before it are taken. */
const char *telemetry_take(struct telemetry *telemetry, const void *bytes, size_t count, uint64_t now_ms);

/* Sockets to poll, at most TELEMETRY_SUBSCRIBERS_MAX: how many. */
unsigned telemetry_watch(const struct telemetry *telemetry, struct pollfd *watched);
/* When there is something to do though no socket is ready; UINT64_MAX: never. */
uint64_t telemetry_due_ms(const struct telemetry *telemetry);
/* Goes on with whatever can go on. */
void telemetry_turn(struct telemetry *telemetry, uint64_t now_ms);

/* From now on nothing is gathered for longer than a delivery takes. */
void telemetry_drain(struct telemetry *telemetry);
/* Something is still to be delivered. */
bool telemetry_pending(const struct telemetry *telemetry);

#endif
