/* rig.h: a whole reactor without threads: one function, a client and sandboxes at the ends of socketpairs, driven turn by turn.
 * Used by test_reactor.c and by the fuzz target of the channel. */
#ifndef SCHED_RIG_H
#define SCHED_RIG_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "harness.h"
#include "pack.h"
#include "reactor.h"

enum { RIG_SANDBOXES = 4, RIG_FUNCTION_INDEX = 0 };

#define RIG_FUNCTION (1ULL << 32)

struct rig_sandbox {
    uint64_t handle;       /* 0: none asked for */
    bool started;
    int fd;                /* the stranger's end; -1: closed */
    int output;
    volatile uint64_t *progress; /* and the shelf behind it */
    uint16_t port;         /* of its Runtime API, if the rig has one */
};

struct rig {
    struct sched *sched;
    int client;            /* the client's end */
    struct rig_sandbox sandboxes[RIG_SANDBOXES];
    uint32_t events[32];   /* by kind */
    uint64_t method_connection; /* of the last METHOD */
    const char *api;       /* sandboxes are started with a Runtime API; the extensions' names, each behind a comma */
    uint32_t tier;         /* sandboxes are started with; 0: SHELL */
    uint32_t ready_tier;   /* of the last READY */
    uint64_t stop_ms;      /* of the last KILLED */
    uint8_t *heard;        /* what the client received */
    size_t heard_bytes;
};

static inline struct sched_command rig_command(enum sched_command_kind kind) {
    struct sched_command command = {.kind = (uint32_t)kind};
    for (int i = 0; i < SCHED_FDS; i++) {
        command.fds[i] = -1;
    }
    return command;
}

static inline void rig_core(struct rig *rig, const struct core_event *event, const char *blob) {
    struct sched_command command = rig_command(SCHED_CMD_CORE);
    command.core = *event;
    SCHED_ASSERT(sched_post(rig->sched, &command, (const uint8_t *)blob, blob == NULL ? 0 : strlen(blob)));
}

static inline void rig_account(struct rig *rig, uint16_t index, uint16_t parent, int64_t concurrency, const char *name) {
    struct core_event event = {.kind = CORE_EV_ACCOUNT_PUT};
    event.u.account = (struct core_account_event){
        .index = index, .parent = parent, .weight = 100, .burst = 100,
        .max = {concurrency, CORE_NO_LIMIT, CORE_NO_LIMIT, INT64_MAX / 2, CORE_NO_LIMIT, INT64_MAX / 2}};
    rig_core(rig, &event, name);
}

struct rig_options {
    struct sched_config config;
    int64_t concurrency;
    uint64_t queue_timeout_ns;
    uint32_t timeout_ms;
};

static inline struct rig_options rig_options(void) {
    struct rig_options options = {.concurrency = CORE_NO_LIMIT, .queue_timeout_ns = 1000000000ULL, .timeout_ms = 3000};
    sched_config_default(&options.config);
    options.config.core.calls_max = 64;
    options.config.core.functions_max = 4;
    options.config.core.sandboxes_max = RIG_SANDBOXES;
    options.config.core.accounts_max = 8;
    options.config.core.cpus = 2;
    options.config.connections_max = 8;
    options.config.frame_bytes_max = 256 << 10;
    options.config.payload_bytes_max = 128 << 10;
    options.config.answer_bytes_max = 128 << 10;
    return options;
}

/* A connection's far end; whose near end is a client with all rights. */
static inline int rig_connect(struct rig *rig, uint32_t rights) {
    int pair[2];
    SCHED_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    struct sched_command adopt = rig_command(SCHED_CMD_CONNECTION_ADOPT);
    adopt.fds[0] = pair[0];
    adopt.u32s[0] = rights;
    SCHED_ASSERT(sched_post(rig->sched, &adopt, NULL, 0));
    return pair[1];
}

static inline void rig_init_from(struct rig *rig, const struct rig_options *options) {
    *rig = (struct rig){.client = -1};
    for (int i = 0; i < RIG_SANDBOXES; i++) {
        rig->sandboxes[i].fd = rig->sandboxes[i].output = -1;
    }
    char error[256];
    rig->sched = sched_new(&options->config, error, sizeof error);
    SCHED_ASSERT(rig->sched != NULL);
    rig_account(rig, 1, 0, CORE_NO_LIMIT, "tenant:blue");
    rig_account(rig, 2, 1, options->concurrency, "function:hello");
    struct core_event put = {.kind = CORE_EV_FUNCTION_PUT};
    put.u.function = (struct core_function_event){
        .handle = RIG_FUNCTION, .account = 2, .weight = 100, .revision = 1, .memory_mb = 128,
        .timeout_ns = options->timeout_ms * 1000000ULL, .queue_timeout_ns = options->queue_timeout_ns};
    rig_core(rig, &put, NULL);
    struct sched_command info = rig_command(SCHED_CMD_FUNCTION_INFO);
    info.function = RIG_FUNCTION;
    info.u32s[0] = 128;
    info.u32s[1] = options->timeout_ms;
    static const char names[] = "hello\0$LATEST\0blue";
    SCHED_ASSERT(sched_post(rig->sched, &info, (const uint8_t *)names, sizeof names));
    struct sched_command name = rig_command(SCHED_CMD_NAME_PUT);
    name.function = RIG_FUNCTION;
    SCHED_ASSERT(sched_post(rig->sched, &name, (const uint8_t *)"hello", 5));
    rig->client = rig_connect(rig, SCHED_RIGHT_ALL);
}

static inline void rig_init_with(struct rig *rig, int64_t concurrency, uint64_t queue_timeout_ns) {
    struct rig_options options = rig_options();
    options.concurrency = concurrency;
    options.queue_timeout_ns = queue_timeout_ns;
    rig_init_from(rig, &options);
}

static inline void rig_init(struct rig *rig) {
    const struct rig_options options = rig_options();
    rig_init_from(rig, &options);
}

static inline struct rig_sandbox *rig_of(struct rig *rig, uint64_t handle) {
    return &rig->sandboxes[(uint32_t)handle % RIG_SANDBOXES];
}

static inline void rig_close(struct rig_sandbox *sandbox) {
    if (sandbox->fd >= 0) {
        close(sandbox->fd);
        close(sandbox->output);
        sandbox->fd = sandbox->output = -1;
        SCHED_ASSERT(munmap((void *)(uintptr_t)sandbox->progress, SHELF_PAGE_BYTES) == 0);
    }
}

static inline void rig_reaped(struct rig *rig, uint64_t handle, uint32_t cause, int32_t status) {
    struct core_event event = {.kind = CORE_EV_SANDBOX_REAPED};
    event.u.sandbox = (struct core_sandbox_event){.handle = handle, .cause = cause, .status = status};
    rig_core(rig, &event, NULL);
}

static inline void rig_listen(struct rig *rig) {
    for (;;) {
        uint8_t bytes[16384];
        const ssize_t got = rig->client < 0 ? -1 : recv(rig->client, bytes, sizeof bytes, MSG_DONTWAIT);
        if (got <= 0) {
            return;
        }
        rig->heard = realloc(rig->heard, rig->heard_bytes + (size_t)got);
        SCHED_ASSERT(rig->heard != NULL);
        memcpy(rig->heard + rig->heard_bytes, bytes, (size_t)got);
        rig->heard_bytes += (size_t)got;
    }
}

/* What the service would do about events, but for reaping what was killed: the test says when. */
static inline void rig_events(struct rig *rig) {
    struct sched_event events[16];
    size_t count;
    do {
        count = sched_poll(rig->sched, events, 16);
        for (size_t i = 0; i < count; i++) {
            struct rig_sandbox *sandbox = rig_of(rig, events[i].sandbox);
            if (events[i].kind == SCHED_EV_NEED) {
                sandbox->handle = events[i].sandbox;
                sandbox->started = false;
            } else if (events[i].kind == SCHED_EV_FREED && sandbox->handle == events[i].sandbox) {
                rig_close(sandbox);
                sandbox->handle = 0;
            } else if (events[i].kind == SCHED_EV_METHOD) {
                rig->method_connection = events[i].connection;
            } else if (events[i].kind == SCHED_EV_KILLED) {
                rig->stop_ms = events[i].value;
            } else if (events[i].kind == SCHED_EV_READY) {
                rig->ready_tier = events[i].flags;
            }
            rig->events[events[i].kind]++;
            sched_event_free(&events[i]);
        }
    } while (count == 16);
}

static inline void rig_turn(struct rig *rig) {
    SCHED_ASSERT(sched_turn(rig->sched, 0) >= 0);
    rig_events(rig);
    rig_listen(rig);
}

static inline int rig_listening(uint16_t *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    SCHED_ASSERT(fd >= 0 && bind(fd, (const struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 128) == 0);
    SCHED_ASSERT(getsockname(fd, (struct sockaddr *)&address, &size) == 0);
    *port = ntohs(address.sin_port);
    return fd;
}

/* A connection to a sandbox's Runtime API, from inside. */
static inline int rig_dial(const struct rig_sandbox *sandbox) {
    const struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(sandbox->port)};
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    SCHED_ASSERT(fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) == 0);
    const int yes = 1; /* what is sent is there in the next turn */
    SCHED_ASSERT(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) == 0 && fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    return fd;
}

static inline void rig_start(struct rig *rig, struct rig_sandbox *sandbox) {
    SCHED_ASSERT(sandbox->handle != 0 && !sandbox->started);
    int pair[2];
    int pipes[2];
    SCHED_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    SCHED_ASSERT(pipe2(pipes, O_CLOEXEC | O_NONBLOCK) == 0);
    const int page = memfd_create("progress", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    SCHED_ASSERT(page >= 0 && ftruncate(page, SHELF_PAGE_BYTES) == 0);
    SCHED_ASSERT(fcntl(page, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
    sandbox->progress = mmap(NULL, SHELF_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, page, 0);
    SCHED_ASSERT(sandbox->progress != MAP_FAILED);
    struct sched_command start = rig_command(SCHED_CMD_SANDBOX_START);
    start.sandbox = sandbox->handle;
    start.fds[0] = pair[0];
    start.fds[1] = pipes[0];
    start.fds[2] = page;
    start.u32s[0] = rig->tier != 0 ? rig->tier : CORE_TIER_SHELL;
    uint8_t blob[512];
    size_t before = 0;
    if (rig->api != NULL) {
        static const char strings[] = "arn:aws:lambda:local:000000000000:function:hello\0app.handler\0" "000000000000";
        memcpy(blob, strings, sizeof strings);
        before = sizeof strings;
        for (const char *at = rig->api; *at != '\0'; at++) {
            blob[before++] = (uint8_t)(*at == ',' ? '\0' : *at);
        }
        start.fds[6] = rig_listening(&sandbox->port);
        start.u32s[1] = (uint32_t)before;
    }
    memcpy(blob + before, "{}", 2);
    SCHED_ASSERT(sched_post(rig->sched, &start, blob, before + 2));
    sandbox->fd = pair[1];
    sandbox->output = pipes[1];
    sandbox->started = true;
}

static inline void rig_write(int fd, const void *bytes, size_t size) {
    if (fd >= 0) {
        /* What a full socket does not take is lost: the stranger's bad luck. */
        (void)!send(fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
}

struct rig_header {
    uint32_t length;
    uint8_t kind;
    uint8_t flags;
    uint16_t extra;
    uint32_t seq;
    uint32_t reserved;
    uint64_t time_ns;
};

static inline void rig_frame(const struct rig_sandbox *sandbox, uint8_t kind, uint8_t flags, uint32_t seq, uint64_t time_ns,
                             const void *body, size_t bytes) {
    const struct rig_header head = {.length = (uint32_t)bytes, .kind = kind, .flags = flags, .seq = seq, .time_ns = time_ns};
    rig_write(sandbox->fd, &head, sizeof head);
    rig_write(sandbox->fd, body, bytes);
}

/* A result that waits for others. */
static inline void rig_shelve(const struct rig_sandbox *sandbox, uint32_t seq, const char *payload) {
    const uint32_t bytes = (uint32_t)strlen(payload);
    const struct rig_header head = {.length = 8 + bytes, .kind = 16, .seq = seq, .time_ns = wall_ns()};
    const uint64_t used = sandbox->progress[2];
    uint8_t *at = (uint8_t *)(uintptr_t)sandbox->progress + SHELF_AT + used;
    SCHED_ASSERT(SHELF_AT + used + sizeof head + 8 + bytes <= SHELF_PAGE_BYTES);
    memcpy(at, &head, sizeof head);
    memcpy(at + sizeof head, &head.time_ns, 8);
    memcpy(at + sizeof head + 8, payload, bytes);
    sandbox->progress[2] = used + sizeof head + 8 + bytes;
}

static inline void rig_ready(const struct rig_sandbox *sandbox) {
    const uint64_t init_ns = 1000;
    rig_frame(sandbox, 18, 0, 0, 0, &init_ns, sizeof init_ns);
}

static inline void rig_result(const struct rig_sandbox *sandbox, uint8_t flags, uint32_t seq, const void *payload, size_t bytes) {
    uint8_t body[8 + 4096];
    SCHED_ASSERT(bytes <= 4096);
    const uint64_t now = wall_ns();
    memcpy(body, &now, 8);
    memcpy(body + 8, payload, bytes);
    if (sandbox->progress != NULL && sandbox->fd >= 0) {
        *sandbox->progress = seq;
    }
    rig_frame(sandbox, 16, flags, seq, now, body, 8 + bytes);
}

static inline void rig_invoke_from(int client, uint32_t msgid, const void *payload, uint32_t bytes) {
    uint8_t frame[64 + 4096];
    SCHED_ASSERT(bytes <= 4096);
    uint8_t *at = pack_uint(pack_u8(pack_array(frame, 4), 0), msgid);
    at = pack_array(pack_str(at, "invoke"), 2);
    at = pack_bin_head(pack_str(at, "hello"), bytes);
    memcpy(at, payload, bytes);
    rig_write(client, frame, (size_t)(at + bytes - frame));
}

static inline void rig_invoke(const struct rig *rig, uint32_t msgid, const void *payload, uint32_t bytes) {
    rig_invoke_from(rig->client, msgid, payload, bytes);
}

static inline void rig_cancel(const struct rig *rig, uint8_t msgid) {
    const uint8_t frame[] = {0x93, 2, 0xa6, 'c', 'a', 'n', 'c', 'e', 'l', 0x91, msgid};
    SCHED_ASSERT(msgid < 128);
    rig_write(rig->client, frame, sizeof frame);
}

/* Request or notification of a control method without parameters. */
static inline void rig_method(const struct rig *rig, bool notification, uint32_t msgid, const char *method) {
    uint8_t frame[128];
    uint8_t *at = pack_array(frame, notification ? 3 : 4);
    at = pack_u8(at, notification ? 2 : 0);
    at = notification ? at : pack_uint(at, msgid);
    at = pack_array(pack_str(at, method), 0);
    rig_write(rig->client, frame, (size_t)(at - frame));
}

static inline bool rig_heard(const struct rig *rig, const char *text) {
    return rig->heard != NULL && memmem(rig->heard, rig->heard_bytes, text, strlen(text)) != NULL;
}

/* A sandbox that the core asked for, started. */
static inline struct rig_sandbox *rig_started_sandbox(struct rig *rig) {
    rig_turn(rig); /* connections that were just adopted are heard in the next turn */
    rig_turn(rig);
    struct rig_sandbox *sandbox = NULL;
    for (int i = 0; i < RIG_SANDBOXES && sandbox == NULL; i++) {
        sandbox = rig->sandboxes[i].handle != 0 && !rig->sandboxes[i].started ? &rig->sandboxes[i] : NULL;
    }
    SCHED_ASSERT(sandbox != NULL);
    rig_start(rig, sandbox);
    return sandbox;
}

/* And ready. */
static inline struct rig_sandbox *rig_ready_sandbox(struct rig *rig) {
    struct rig_sandbox *sandbox = rig_started_sandbox(rig);
    rig_ready(sandbox);
    rig_turn(rig);
    rig_turn(rig);
    return sandbox;
}

/* The frame's header that the sandbox finds next; its body too. */
static inline struct rig_header rig_take_frame(const struct rig_sandbox *sandbox, uint8_t *body, size_t room) {
    struct rig_header head = {0};
    SCHED_ASSERT(recv(sandbox->fd, &head, sizeof head, 0) == (ssize_t)sizeof head);
    SCHED_ASSERT(head.length <= room);
    SCHED_ASSERT(head.length == 0 || recv(sandbox->fd, body, head.length, MSG_WAITALL) == (ssize_t)head.length);
    return head;
}

/* Bytes of the MessagePack value at the front, 0: none is whole. pack_check() is the judge: the shortest prefix that is one. */
static inline size_t rig_value(const uint8_t *at, size_t size) {
    for (size_t take = 1; take <= size; take++) {
        if (pack_check(at, take)) {
            return take;
        }
    }
    return 0;
}

static inline void rig_free(struct rig *rig) {
    for (int i = 0; i < RIG_SANDBOXES; i++) {
        rig_close(&rig->sandboxes[i]);
    }
    if (rig->client >= 0) {
        close(rig->client);
    }
    sched_free(rig->sched);
    free(rig->heard);
}

#endif
