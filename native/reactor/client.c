/* client.c: listeners and client connections.
 *
 * A connection's life:   open ──► closing (flush what is owed, then close) ──► dead (closed at the turn's end)
 *
 * Bytes are read into the loop's scratch, requests parsed where they lie. What is left of a half frame is kept in the connection's
 * stash; a frame over STASH_BYTES_MAX is read straight into a block of its own, which its ticket then holds, so that a payload of
 * 6 MB is never copied, and never read in one go: at most turn_bytes_max of it a turn.
 *
 * Not read from: a connection that leaves more than connection_buffer_bytes_max of answers unread (until it has taken half of
 * them), and one whose large frame finds no payload memory (until some is free). */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "pack.h"
#include "reactor.h"

enum { BACKLOG = 4096, ACCEPTS_A_TURN = 64 };

static const uint64_t MS = 1000 * 1000;

/* ---- listeners ------------------------------------------------------------------------------------------------------- */

static bool somebody_listens(const struct sockaddr_un *address) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return true;
    }
    const bool alive = connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 || errno == EAGAIN;
    close(fd);
    return alive;
}

int client_listen_unix(struct sched *sched, const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        return -ENAMETOOLONG;
    }
    if (sched->unix_fd >= 0) {
        return -EBUSY;
    }
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    struct stat info;
    if (lstat(path, &info) == 0) {
        if (!S_ISSOCK(info.st_mode)) {
            close(fd);
            return -EEXIST;
        }
        if (somebody_listens(&address)) {
            close(fd);
            return -EADDRINUSE;
        }
        (void)unlink(path);
    }
    /* The mode is right from the first moment: whoever could connect between bind and chmod would be in. */
    const mode_t before = umask(0117);
    const int bound = bind(fd, (const struct sockaddr *)&address, sizeof address);
    const int why = errno;
    umask(before);
    if (bound != 0 || listen(fd, BACKLOG) != 0) {
        close(fd);
        return bound != 0 ? -why : -errno;
    }
    if (!watch(sched, EPOLL_CTL_ADD, fd, EPOLLIN, SOURCE_UNIX, 0)) {
        close(fd);
        return -errno;
    }
    sched->unix_fd = fd;
    snprintf(sched->unix_path, sizeof sched->unix_path, "%s", path);
    return 0;
}

int client_listen_tcp(struct sched *sched, const char *host, uint16_t *port) {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = {0};
    socklen_t size = sizeof address.v4;
    if (inet_pton(AF_INET, host, &address.v4.sin_addr) == 1) {
        address.v4.sin_family = AF_INET;
        address.v4.sin_port = htons(*port);
    } else if (inet_pton(AF_INET6, host, &address.v6.sin6_addr) == 1) {
        address.v6.sin6_family = AF_INET6;
        address.v6.sin6_port = htons(*port);
        size = sizeof address.v6;
    } else {
        return -EINVAL;
    }
    if (sched->tcp_fd >= 0) {
        return -EBUSY;
    }
    const int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    const int yes = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 || bind(fd, &address.any, size) != 0 ||
        listen(fd, BACKLOG) != 0 || getsockname(fd, &address.any, &size) != 0 ||
        !watch(sched, EPOLL_CTL_ADD, fd, EPOLLIN, SOURCE_TCP, 0)) {
        const int why = errno;
        close(fd);
        return -why;
    }
    *port = ntohs(address.any.sa_family == AF_INET ? address.v4.sin_port : address.v6.sin6_port);
    sched->tcp_fd = fd;
    return 0;
}

void client_stop_listening(struct sched *sched) {
    if (sched->unix_fd >= 0) {
        (void)unlink(sched->unix_path);
        close(sched->unix_fd);
        sched->unix_fd = -1;
    }
    if (sched->tcp_fd >= 0) {
        close(sched->tcp_fd);
        sched->tcp_fd = -1;
    }
}

static bool uid_allowed(const struct sched *sched, uint32_t uid) {
    if (uid == 0 || uid == geteuid()) {
        return true;
    }
    for (uint32_t i = 0; i < sched->config.allowed_uids_count && i < 16; i++) {
        if (sched->config.allowed_uids[i] == uid) {
            return true;
        }
    }
    return false;
}

void client_accept(struct sched *sched, int listen_fd, bool tcp) {
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        const int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE) {
                sched->stats.refused_connections++;
            }
            return;
        }
        uint32_t uid = UINT32_MAX;
        uint32_t rights = 0;
        if (tcp) {
            const int yes = 1;
            (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        } else {
            struct ucred peer = {0};
            socklen_t size = sizeof peer;
            if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0) {
                uid = peer.uid;
            }
            rights = uid_allowed(sched, uid) ? SCHED_RIGHT_ALL : 0;
        }
        const uint64_t id = client_add(sched, fd, tcp, uid, rights);
        if (id == 0) {
            continue;
        }
        if (!tcp && rights == 0) {
            struct client *client = client_find(sched, id);
            char message[96];
            snprintf(message, sizeof message, "uid %u may not use this socket; see the setting allowed_uids", uid);
            answer_error(sched, client, 0, "Unauthorized", message, NULL);
            client->closing = true;
        }
    }
}

/* ---- connections ----------------------------------------------------------------------------------------------------- */

uint64_t client_id(const struct sched *sched, const struct client *client) {
    return ((uint64_t)client->generation << 32) | (uint32_t)(client - sched->clients);
}

struct client *client_find(struct sched *sched, uint64_t connection) {
    const uint32_t index = (uint32_t)connection;
    if (index >= sched->config.connections_max || sched->clients[index].fd < 0 ||
        sched->clients[index].generation != (uint32_t)(connection >> 32)) {
        return NULL;
    }
    return &sched->clients[index];
}

uint64_t client_add(struct sched *sched, int fd, bool tcp, uint32_t uid, uint32_t rights) {
    const uint32_t index = sched->client_free;
    if (index == NO_INDEX || !watch(sched, EPOLL_CTL_ADD, fd, EPOLLIN, SOURCE_CLIENT, index)) {
        sched->stats.refused_connections++;
        close(fd);
        return 0;
    }
    struct client *client = &sched->clients[index];
    sched->client_free = client->next;
    const uint32_t generation = client->generation == UINT32_MAX ? 1 : client->generation + 1;
    *client = (struct client){.fd = fd, .generation = generation, .next = NO_INDEX, .tcp = tcp, .uid = uid, .rights = rights,
                              .reading = true, .tickets = NO_INDEX};
    sched->clients_open++;
    const struct sched_event event = {.kind = SCHED_EV_OPENED, .connection = client_id(sched, client), .flags = tcp, .value = uid};
    emit(sched, &event, NULL, 0);
    return event.connection;
}

void client_dirty(struct sched *sched, struct client *client) {
    if (!client->dirty && !client->dead) {
        client->dirty = true;
        client->dirty_next = sched->dirty_clients;
        sched->dirty_clients = (uint32_t)(client - sched->clients);
    }
}

void client_kill(struct sched *sched, struct client *client) {
    if (!client->dead) {
        client->dead = true;
        client->dead_next = sched->dead_clients;
        sched->dead_clients = (uint32_t)(client - sched->clients);
    }
}

static void rewatch(struct sched *sched, struct client *client, bool reading, bool writing) {
    if (client->reading != reading || client->writing != writing) {
        if (client->reading && !reading) {
            sched->stats.connections_paused++;
        } else if (!client->reading && reading) {
            sched->stats.connections_paused--;
        }
        client->reading = reading;
        client->writing = writing;
        (void)watch(sched, EPOLL_CTL_MOD, client->fd, (reading ? EPOLLIN : 0U) | (writing ? EPOLLOUT : 0U), SOURCE_CLIENT,
                    (uint32_t)(client - sched->clients));
    }
}

static void flush(struct sched *sched, struct client *client) {
    const int64_t sent = output_send(&sched->chunks, &client->output, client->fd, sched->config.turn_bytes_max);
    if (sent < 0 && sent != -EAGAIN) {
        client_kill(sched, client);
        return;
    }
    sched->stats.bytes_out += sent > 0 ? (uint64_t)sent : 0;
    if (client->output.bytes == 0 && client->closing && client->in_flight == 0) {
        client_kill(sched, client);
        return;
    }
    if (client->output.bytes > OUTPUT_QUEUE_MAX) {
        fault(sched, "connection %llu left %llu bytes of answers unread: closed", (unsigned long long)client_id(sched, client),
              (unsigned long long)client->output.bytes);
        client_kill(sched, client);
        return;
    }
    const uint64_t max = sched->config.connection_buffer_bytes_max;
    bool reading = !client->closing && !client->wants_memory;
    if (client->output.bytes > max || (!client->reading && client->output.bytes > max / 2)) {
        reading = false;
    }
    rewatch(sched, client, reading, client->output.bytes > 0);
}

void client_flush_all(struct sched *sched) {
    while (sched->dirty_clients != NO_INDEX) {
        struct client *client = &sched->clients[sched->dirty_clients];
        sched->dirty_clients = client->dirty_next;
        client->dirty = false;
        if (!client->dead) {
            flush(sched, client);
        }
    }
}

/* ---- requests -------------------------------------------------------------------------------------------------------- */

static void invoke(struct sched *sched, struct client *client, const struct rpc_request *request, struct block *owner) {
    if ((client->rights & SCHED_RIGHT_INVOKE) == 0) {
        answer_error(sched, client, request->msgid, "Unauthorized",
                     client->tcp ? "this connection may not invoke: say hello with a token first" : "this connection may not invoke",
                     NULL);
        return;
    }
    const uint64_t function = names_find(sched, request->function.at, request->function.size);
    const struct function_info *info = info_of(sched, function);
    if (info == NULL) {
        char message[400];
        snprintf(message, sizeof message, "Function not found: %.*s", (int)request->function.size, (const char *)request->function.at);
        answer_error(sched, client, request->msgid, "NotFound", message, NULL);
        return;
    }
    if (client->tenant != 0 && client->tenant != info->tenant_number) {
        answer_error(sched, client, request->msgid, "Unauthorized", "this token may not invoke functions of another tenant", NULL);
        return;
    }
    if (request->payload.size > sched->config.payload_bytes_max) {
        char message[128];
        snprintf(message, sizeof message, "Request must be smaller than %u bytes for the InvokeFunction operation; payload has %u",
                 sched->config.payload_bytes_max, request->payload.size);
        answer_error(sched, client, request->msgid, "TooLarge", message, NULL);
        return;
    }
    if (request->type == RPC_DRYRUN) {
        answer_dryrun(sched, client, request->msgid);
        return;
    }
    const uint32_t ticket = ticket_new(sched, client, request, owner);
    if (ticket == NO_INDEX) {
        answer_error(sched, client, request->msgid, "Unavailable", "out of memory for one more call", NULL);
        return;
    }
    sched->tickets[ticket].function = function;
    struct core_event *event = batch_add(sched, CORE_EV_INVOKE);
    event->u.invoke = (struct core_invoke_event){
        .function = function, .cookie = ticket, .bytes = request->payload.size,
        .deadline_ns = request->deadline_ms == 0 ? 0 : sched->now_ns + request->deadline_ms * MS};
}

static void method(struct sched *sched, struct client *client, const struct rpc_request *request) {
    uint8_t head[2] = {(uint8_t)request->method.size, (uint8_t)(request->method.size >> 8)};
    const size_t bytes = sizeof head + request->method.size + request->params.size;
    uint8_t *blob = malloc(bytes);
    if (blob == NULL) {
        answer_error(sched, client, request->msgid, "Unavailable", "out of memory", NULL);
        return;
    }
    memcpy(blob, head, sizeof head);
    memcpy(blob + sizeof head, request->method.at, request->method.size);
    memcpy(blob + sizeof head + request->method.size, request->params.at, request->params.size);
    const struct sched_event event = {.kind = SCHED_EV_METHOD, .connection = client_id(sched, client), .msgid = request->msgid,
                                      .flags = request->notification, .rights = client->rights};
    emit(sched, &event, blob, bytes);
    free(blob);
    if (!request->notification) {
        client->in_flight++;
    }
}

static void cancel(struct sched *sched, struct client *client, uint32_t msgid) {
    const uint32_t index = ticket_find(sched, (uint32_t)(client - sched->clients), msgid);
    if (index == NO_INDEX) {
        return; /* answered meanwhile */
    }
    if (sched->tickets[index].call == 0) {
        batch_step(sched); /* it came with this batch: let the core name it first */
        if (ticket_find(sched, (uint32_t)(client - sched->clients), msgid) != index || sched->tickets[index].call == 0) {
            return;
        }
    }
    batch_add(sched, CORE_EV_CANCEL)->u.cancel.call = sched->tickets[index].call;
}

/* false: the connection is not to be read from any more. */
static bool take(struct sched *sched, struct client *client, enum rpc_verdict verdict, const struct rpc_request *request,
                 struct block *owner) {
    sched->stats.requests++;
    switch (verdict) {
    case RPC_MORE:
        break;
    case RPC_INVOKE:
        if (request->type == RPC_EVENT) {
            if ((client->rights & SCHED_RIGHT_INVOKE) == 0) {
                answer_error(sched, client, request->msgid, "Unauthorized", "this connection may not invoke", NULL);
            } else {
                method(sched, client, request);
            }
        } else {
            invoke(sched, client, request, owner);
        }
        break;
    case RPC_METHOD:
        method(sched, client, request);
        break;
    case RPC_CANCEL:
        cancel(sched, client, request->cancel_msgid);
        break;
    case RPC_BAD:
        sched->stats.bad_requests++;
        if (!request->notification) {
            answer_error(sched, client, request->msgid, "BadRequest", request->error, NULL);
        }
        break;
    case RPC_BROKEN:
        sched->stats.rpc_errors++;
        answer_error(sched, client, request->msgid, request->too_large ? "TooLarge" : "BadRequest", request->error, NULL);
        client->closing = true;
        return false;
    }
    return !client->dead && !client->closing;
}

static void drop_partial(struct client *client) {
    free(client->stash);
    client->stash = NULL;
    client->stash_bytes = client->stash_capacity = 0;
    block_release(client->big);
    client->big = NULL;
    client->big_have = 0;
    client->partial_since_ns = 0;
    client->scan = (struct rpc_scan){0};
}

static void want_memory(struct sched *sched, struct client *client) {
    if (!client->wants_memory) {
        client->wants_memory = true;
        client->wanting_next = sched->wanting_clients;
        sched->wanting_clients = (uint32_t)(client - sched->clients);
        client_dirty(sched, client); /* flush() stops the reading */
    }
}

static bool keep_in_stash(struct client *client, const uint8_t *at, uint32_t bytes) {
    if (client->stash_capacity < bytes) {
        uint32_t capacity = client->stash_capacity == 0 ? 512 : client->stash_capacity;
        while (capacity < bytes) {
            capacity *= 2;
        }
        uint8_t *stash = realloc(client->stash, capacity);
        if (stash == NULL) {
            return false;
        }
        client->stash = stash;
        client->stash_capacity = capacity;
    }
    memcpy(client->stash, at, bytes);
    client->stash_bytes = bytes;
    return true;
}

/* Keeps the beginning of a frame that wants scan.need bytes at least. */
static bool keep(struct sched *sched, struct client *client, const uint8_t *at, uint32_t bytes) {
    if (bytes == 0) {
        drop_partial(client);
        return true;
    }
    client->partial_since_ns = sched->now_ns;
    if (client->scan.need <= STASH_BYTES_MAX && bytes <= STASH_BYTES_MAX) {
        return keep_in_stash(client, at, bytes);
    }
    SCHED_ASSERT(client->scan.need <= (uint64_t)sched->config.frame_bytes_max + 16);
    const uint32_t want = (uint32_t)(client->scan.need > bytes ? client->scan.need : bytes);
    client->big = block_new(want, &sched->payload_bytes);
    if (client->big == NULL) {
        return false;
    }
    memcpy(client->big->data, at, bytes);
    client->big_have = bytes;
    free(client->stash);
    client->stash = NULL;
    client->stash_bytes = client->stash_capacity = 0;
    if (sched->payload_bytes > 2 * sched->config.payload_total_bytes_max) {
        answer_error(sched, client, 0, "Throttled", "payloads held by the node are at twice payload_total_bytes_max", NULL);
        client->closing = true;
        drop_partial(client);
    } else if (sched->payload_bytes > sched->config.payload_total_bytes_max) {
        want_memory(sched, client);
    }
    return true;
}

/* All whole frames in [at, at + bytes); the rest is kept. `owner` holds the bytes, if they are in a block. */
static void parse(struct sched *sched, struct client *client, const uint8_t *at, uint32_t bytes, struct block *owner) {
    const struct rpc_limits limits = {.frame_bytes_max = sched->config.frame_bytes_max};
    struct rpc_request request;
    while (bytes > 0) {
        const enum rpc_verdict verdict = rpc_read(&client->scan, at, bytes, &limits, &request);
        if (verdict == RPC_MORE) {
            break;
        }
        SCHED_ASSERT(request.size <= bytes && (request.size > 0 || verdict == RPC_BROKEN));
        if (!take(sched, client, verdict, &request, owner)) {
            drop_partial(client);
            return;
        }
        at += request.size;
        bytes -= (uint32_t)request.size;
    }
    if (!keep(sched, client, at, bytes)) {
        client_kill(sched, client);
    }
}

static void read_big(struct sched *sched, struct client *client) {
    const struct rpc_limits limits = {.frame_bytes_max = sched->config.frame_bytes_max};
    struct block *big = client->big;
    uint32_t room = big->capacity - client->big_have;
    SCHED_ASSERT(room > 0);
    room = room < sched->config.turn_bytes_max ? room : sched->config.turn_bytes_max;
    const ssize_t got = recv(client->fd, big->data + client->big_have, room, MSG_DONTWAIT);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
            client_kill(sched, client);
        }
        return;
    }
    sched->stats.bytes_in += (uint64_t)got;
    client->big_have += (uint32_t)got;
    client->partial_since_ns = sched->now_ns;
    if (client->big_have < client->scan.need) {
        return;
    }
    struct rpc_request request;
    const enum rpc_verdict verdict = rpc_read(&client->scan, big->data, client->big_have, &limits, &request);
    if (verdict == RPC_MORE) {
        /* What it holds tells of more: grow by half, so that a frame of many small values is not moved for each. */
        SCHED_ASSERT(client->scan.need > client->big_have);
        uint64_t capacity = client->scan.need;
        if (capacity > big->capacity) {
            capacity += capacity / 2;
            const uint64_t max = (uint64_t)sched->config.frame_bytes_max + 16;
            capacity = capacity < max ? capacity : max > client->scan.need ? max : client->scan.need;
            struct block *grown = block_grow(big, (uint32_t)capacity);
            if (grown == NULL) {
                client_kill(sched, client);
                return;
            }
            client->big = grown;
        }
        return;
    }
    client->big = NULL;
    const uint32_t have = client->big_have;
    client->big_have = 0;
    client->partial_since_ns = 0;
    if (take(sched, client, verdict, &request, big)) {
        /* A block grown by guess may hold the beginning of the next frame. */
        parse(sched, client, big->data + request.size, have - (uint32_t)request.size, NULL);
    } else {
        drop_partial(client);
    }
    block_release(big);
}

static void read_client(struct sched *sched, struct client *client) {
    if (client->big != NULL) {
        read_big(sched, client);
        return;
    }
    const uint32_t kept = client->stash_bytes;
    SCHED_ASSERT(kept <= STASH_BYTES_MAX);
    const ssize_t got = recv(client->fd, sched->scratch + kept, sched->config.turn_bytes_max, MSG_DONTWAIT);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
            client_kill(sched, client);
        }
        return;
    }
    sched->stats.bytes_in += (uint64_t)got;
    if (kept > 0) {
        memcpy(sched->scratch, client->stash, kept);
        client->stash_bytes = 0;
    }
    parse(sched, client, sched->scratch, kept + (uint32_t)got, NULL);
}

void client_ready(struct sched *sched, uint32_t index, uint32_t events) {
    struct client *client = &sched->clients[index];
    if (client->fd < 0 || client->dead) {
        return;
    }
    if ((events & (EPOLLOUT | EPOLLERR)) != 0) {
        client_dirty(sched, client);
    }
    if ((events & EPOLLIN) != 0 && client->reading) {
        read_client(sched, client);
    } else if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
        client_kill(sched, client);
    }
}

/* ---- memory, time, the end -------------------------------------------------------------------------------------------- */

void client_wake_wanting(struct sched *sched) {
    while (sched->wanting_clients != NO_INDEX && sched->payload_bytes <= sched->config.payload_total_bytes_max) {
        struct client *client = &sched->clients[sched->wanting_clients];
        sched->wanting_clients = client->wanting_next;
        client->wants_memory = false;
        client->partial_since_ns = sched->now_ns;
        client_dirty(sched, client);
    }
}

void client_sweep(struct sched *sched) {
    const uint64_t max = (uint64_t)PARTIAL_FRAME_NS_MAX_S * 1000 * MS;
    for (uint32_t i = 0; i < sched->config.connections_max && sched->clients_open > 0; i++) {
        struct client *client = &sched->clients[i];
        if (client->fd >= 0 && !client->dead && client->partial_since_ns != 0 && sched->now_ns - client->partial_since_ns > max) {
            answer_error(sched, client, 0, "BadRequest", "half a frame, and nothing more for 30 seconds", NULL);
            client->closing = true;
            drop_partial(client);
        }
    }
}

static void unlink_wanting(struct sched *sched, const struct client *client) {
    uint32_t *link = &sched->wanting_clients;
    while (*link != NO_INDEX) {
        if (*link == (uint32_t)(client - sched->clients)) {
            *link = client->wanting_next;
            return;
        }
        link = &sched->clients[*link].wanting_next;
    }
}

static void close_client(struct sched *sched, struct client *client) {
    const struct sched_event event = {.kind = SCHED_EV_CLOSED, .connection = client_id(sched, client)};
    while (client->tickets != NO_INDEX) {
        const uint32_t index = client->tickets;
        ticket_orphan(sched, index);
        if (sched->tickets[index].call != 0) {
            batch_add(sched, CORE_EV_CANCEL)->u.cancel.call = sched->tickets[index].call;
        }
    }
    if (client->wants_memory) {
        unlink_wanting(sched, client);
    }
    if (!client->reading) {
        sched->stats.connections_paused--;
    }
    drop_partial(client);
    output_drop(&sched->chunks, &client->output);
    close(client->fd);
    client->fd = -1;
    client->next = sched->client_free;
    sched->client_free = (uint32_t)(client - sched->clients);
    sched->clients_open--;
    emit(sched, &event, NULL, 0);
}

void client_end_turn(struct sched *sched) {
    if (sched->dead_clients == NO_INDEX) {
        return;
    }
    client_flush_all(sched); /* nobody dead stays on that list */
    /* The batch was stepped: the core has named every call of this turn, so each can be cancelled. */
    while (sched->dead_clients != NO_INDEX) {
        struct client *client = &sched->clients[sched->dead_clients];
        sched->dead_clients = client->dead_next;
        close_client(sched, client);
    }
}

bool client_all_quiet(const struct sched *sched) {
    for (uint32_t i = 0; i < sched->config.connections_max; i++) {
        const struct client *client = &sched->clients[i];
        if (client->fd >= 0 && !client->dead && client->output.bytes > 0) {
            return false;
        }
    }
    return true;
}

void client_free_all(struct sched *sched) {
    for (uint32_t i = 0; sched->clients != NULL && i < sched->config.connections_max; i++) {
        struct client *client = &sched->clients[i];
        if (client->fd >= 0) {
            drop_partial(client);
            output_drop(&sched->chunks, &client->output);
            close(client->fd);
        }
    }
    free(sched->clients);
    sched->clients = NULL;
}
