/* api_peer.h: the far end of a Runtime API's connection, for the tests of it: a client that is told to say things, turn by turn. */
#ifndef SCHED_API_PEER_H
#define SCHED_API_PEER_H

#include "rig.h"

#include "api.h"

#define NEXT "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: 127.0.0.1:9001\r\n\r\n"

/* What came, up to now; what comes is waited for in turns. */
struct peer {
    int fd;
    size_t bytes;
    char heard[1 << 20];
    bool ended;
};

static inline struct peer *peer_new(const struct rig_sandbox *sandbox) {
    struct peer *peer = calloc(1, sizeof *peer);
    SCHED_ASSERT(peer != NULL);
    peer->fd = rig_dial(sandbox);
    return peer;
}

static inline void peer_free(struct peer *peer) {
    if (peer->fd >= 0) {
        close(peer->fd);
    }
    free(peer);
}

static inline void listen_to(struct peer *peer) {
    const ssize_t got = recv(peer->fd, peer->heard + peer->bytes, sizeof peer->heard - 1 - peer->bytes, MSG_DONTWAIT);
    peer->ended = peer->ended || got == 0 || (got < 0 && errno != EAGAIN);
    peer->bytes += got > 0 ? (size_t)got : 0;
    peer->heard[peer->bytes] = '\0';
}

static inline void turns(struct rig *rig, struct peer *peer, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        rig_turn(rig);
        if (peer != NULL) {
            listen_to(peer);
        }
    }
}

static inline void ask(struct rig *rig, struct peer *peer, const char *text) {
    peer->bytes = 0;
    peer->heard[0] = '\0';
    rig_write(peer->fd, text, strlen(text));
    turns(rig, peer, 4);
}

static inline bool heard(const struct peer *peer, const char *text) {
    return strstr(peer->heard, text) != NULL;
}

/* POST to the call whose id was heard last. */
static inline void post(struct rig *rig, struct peer *peer, const char *id, const char *what, const char *headers, const char *body) {
    char text[4096];
    snprintf(text, sizeof text, "POST /2018-06-01/runtime/invocation/%s/%s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %zu\r\n\r\n%s", id, what, headers,
             strlen(body), body);
    ask(rig, peer, text);
}

static inline void id_of(const struct peer *peer, char id[37]) {
    static const char name[] = "Lambda-Runtime-Aws-Request-Id: ";
    const char *at = strstr(peer->heard, name);
    SCHED_ASSERT(at != NULL);
    for (const char *later = at; (later = strstr(later + 1, name)) != NULL;) {
        at = later;
    }
    memcpy(id, at + sizeof name - 1, 36);
    id[36] = '\0';
}

/* A call is queued, its sandbox started; the runtime has not asked yet. */
static inline struct peer *begun(struct rig *rig, const struct rig_options *options) {
    rig_init_from(rig, options);
    rig->api = "";
    rig_invoke(rig, 1, "{\"a\":1}", 7);
    struct rig_sandbox *sandbox = rig_started_sandbox(rig);
    rig_turn(rig);
    return peer_new(sandbox);
}

#endif
