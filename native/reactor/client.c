/* client.c: client connections: bytes to requests, answers to bytes.
 *
 * A connection's life:   open ──► closing (flush what is owed, then close) ──► dead (closed at the turn's end)
 *
 * Bytes are read into the loop's scratch, requests parsed where they lie. What is left of a half frame is kept in the connection's
 * stash; a frame over STASH_BYTES_MAX is read straight into a block of its own, which its ticket then holds, so that a payload of
 * 6 MB is never copied, and never read in one go: the bytes of a turn are shared by all that are ready.
 *
 * Not read from: a connection that leaves more than connection_buffer_bytes_max of answers unread (until it has taken half of
 * them), and one whose large frame finds no payload memory. Those wait in line, each for the whole of its frame: were they given
 * it piecemeal, they could fill the memory with halves and wait for each other for ever. What has come of their frames already
 * is counted apart.
 *
 * Whoever stops in the middle of something is closed: with half a frame (slow links get time for what they bring), with answers
 * it does not read, without a hello. Nobody can be left holding a place or memory by saying nothing more. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pack.h"
#include "reactor.h"
#include "trace.h"

static const uint64_t MS = 1000 * 1000;
static const uint64_t SECOND = 1000ULL * 1000 * 1000;

/* ---- connections ----------------------------------------------------------------------------------------------------- */

uint64_t client_id(const struct sched *sched, const struct client *client) {
    return ((uint64_t)client->generation << 32) | (uint32_t)(client - sched->clients);
}

struct client *client_find(struct sched *sched, uint64_t connection) {
    const uint32_t index = (uint32_t)connection;
    if (index >= sched->clients_used || sched->clients[index].fd < 0 ||
        sched->clients[index].generation != (uint32_t)(connection >> 32)) {
        return NULL;
    }
    return &sched->clients[index];
}

static void refuse_http(int fd) {
    static const char busy[] = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    (void)!send(fd, busy, sizeof busy - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* It never was a client, so all that can be done is to try. */
static void refuse_connection(struct sched *sched, int fd, bool http) {
    static const char text[] = "the service has as many connections as it may (connections_max)";
    uint8_t frame[128];
    uint8_t *at = pack_map(pack_uint(pack_u8(pack_array(frame, 4), 1), 0), 2);
    at = pack_str(pack_str(pack_str(pack_str(at, "type"), "Unavailable"), "message"), text);
    at = pack_nil(at);
    if (http) {
        refuse_http(fd);
    } else {
        (void)!send(fd, frame, (size_t)(at - frame), MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    sched->stats.refused_connections++;
    close(fd);
}

/* Where there are both, neither takes the last places from the other: idle ones of HTTP cost their clients nothing. */
static bool is_full_of(const struct sched *sched, enum speech speech) {
    const uint32_t kept = sched->http_fd < 0 ? 0 : sched->config.connections_max / KEPT_SHARE;
    const uint32_t open = speech == SPEECH_HTTP ? sched->clients_http : sched->clients_open - sched->clients_http;
    return open >= sched->config.connections_max - kept;
}

uint64_t client_add(struct sched *sched, int fd, enum speech speech, uint32_t uid, uint32_t rights) {
    const bool fresh = sched->client_free == NO_INDEX && sched->clients_used < sched->config.connections_max;
    const uint32_t index = fresh ? sched->clients_used : sched->client_free;
    if (index == NO_INDEX || is_full_of(sched, speech) || !watch(sched, EPOLL_CTL_ADD, fd, EPOLLIN, SOURCE_CLIENT, index)) {
        refuse_connection(sched, fd, speech == SPEECH_HTTP);
        return 0;
    }
    struct client *client = &sched->clients[index];
    if (fresh) {
        sched->clients_used++; /* memory is touched only as far as it is needed */
    } else {
        sched->client_free = client->next;
    }
    const uint32_t generation = client->generation == UINT32_MAX ? 1 : client->generation + 1;
    *client = (struct client){.fd = fd, .generation = generation, .next = NO_INDEX, .tcp = speech != SPEECH_UNIX,
                              .http = speech == SPEECH_HTTP, .uid = uid, .rights = rights, .reading = true, .tickets = NO_INDEX, .opened_ns = sched->now_ns};
    sched->clients_open++;
    sched->clients_http += client->http;
    return client_id(sched, client);
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

static void resume(struct sched *sched, struct client *client) {
    if (!client->resuming) {
        client->resuming = true;
        client->resuming_next = sched->resuming_clients;
        sched->resuming_clients = (uint32_t)(client - sched->clients);
    }
}

/* Its place may be another's before the list is gone through. */
static void unlink_resuming(struct sched *sched, struct client *client) {
    uint32_t *link = &sched->resuming_clients;
    while (*link != (uint32_t)(client - sched->clients)) {
        SCHED_ASSERT(*link != NO_INDEX);
        link = &sched->clients[*link].resuming_next;
    }
    *link = client->resuming_next;
    client->resuming = false;
}

static void flush(struct sched *sched, struct client *client) {
    const int64_t sent = output_send(&sched->chunks, &client->output, client->fd, sched->share_large_bytes);
    if (sent < 0 && sent != -EAGAIN) {
        client_kill(sched, client);
        return;
    }
    sched->stats.bytes_out += sent > 0 ? (uint64_t)sent : 0;
    if (client->output.bytes == 0) {
        client->stalled_since_ns = 0;
    } else if (sent > 0 || client->stalled_since_ns == 0) {
        client->stalled_since_ns = sched->now_ns;
    }
    if (client->output.bytes == 0 && client->closing && client->calls == 0 && client->methods == 0) {
        client_kill(sched, client);
        return;
    }
    if (client->output.bytes > OUTPUT_QUEUE_MAX) {
        fault(sched, "connection %" PRIu64 " left %" PRIu64 " bytes of answers unread: closed", client_id(sched, client),
              client->output.bytes);
        client_kill(sched, client);
        return;
    }
    const uint64_t max = sched->config.connection_buffer_bytes_max;
    bool reading = !client->closing && !client->wants_memory;
    if (client->http && client->stash_bytes > 0 && client->partial_since_ns == 0) {
        /* Its next request is here already, and its stash as full as a read could make it: nothing more goes into it. */
        reading = false;
        if (client->calls == 0 && client->output.bytes == 0) {
            resume(sched, client);
        }
    }
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

enum started { STARTED, NO_ROOM, ENDLESS };

static enum started start(struct sched *sched, struct client *client, const struct rpc_request *request, struct block *owner,
                          uint64_t function, struct rpc_slice arn) {
    struct function_info *const info = info_of(sched, function);
    struct rpc_request with_trace;
    struct trace trace;
    bool traced = false;
    if (info != NULL && (request->trace.at != NULL || info->traits != 0)) {
        if (!tracing_take(sched, info, request, &with_trace, &trace)) {
            return ENDLESS;
        }
        traced = (info->traits & SCHED_TRAIT_TRACED) != 0 && trace.sampled;
        request = &with_trace;
    }
    const uint32_t ticket = ticket_new(sched, client, request, owner, arn);
    if (ticket == NO_INDEX) {
        return NO_ROOM;
    }
    sched->tickets[ticket].function = function;
    sched->tickets[ticket].traced = traced;
    if (traced) {
        sched->tickets[ticket].trace_parent = trace.parent;
    }
    struct core_event *event = batch_add(sched, CORE_EV_INVOKE);
    event->u.invoke = (struct core_invoke_event){
        .function = function, .cookie = ticket, .bytes = request->payload.size,
        .deadline_ns = request->deadline_ms == 0 ? 0 : sched->now_ns + request->deadline_ms * MS};
    return STARTED;
}

bool client_invoke(struct sched *sched, struct client *client, const struct rpc_request *request, struct block *owner,
                   uint64_t function, struct rpc_slice arn) {
    return start(sched, client, request, owner, function, arn) == STARTED;
}

static void method(struct sched *sched, struct client *client, const struct rpc_request *request);

static void invoke(struct sched *sched, struct client *client, const struct rpc_request *request, struct block *owner) {
    const uint32_t msgid = request->msgid;
    if ((client->rights & SCHED_RIGHT_INVOKE) == 0) {
        answer_error(sched, client, msgid, "Unauthorized", "this connection may not invoke%s",
                     client->tcp ? ": say hello with a token first" : "");
        return;
    }
    struct rpc_slice arn;
    const uint64_t function = names_find_guest(sched, request->function.at, request->function.size, request->guest, &arn);
    const struct function_info *info = info_of(sched, function);
    if (request->guest.at != NULL ? info == NULL : info != NULL && (info->traits & SCHED_TRAIT_GUESTS) != 0) {
        method(sched, client, request); /* a guest that is not known yet, or none where there has to be one: the slow side's to say */
        return;
    }
    /* Whoever may not invoke it is not told that it exists. */
    const bool theirs = info != NULL && client->tenant != 0 && info->tenant_number != 0 && client->tenant != info->tenant_number;
    if (info == NULL || theirs) {
        answer_error(sched, client, msgid, "NotFound", "Function not found: %.*s", (int)request->function.size,
                     (const char *)request->function.at);
        return;
    }
    if (request->payload.size > sched->config.payload_bytes_max) {
        answer_error(sched, client, msgid, "TooLarge",
                     "Request must be smaller than %u bytes for the InvokeFunction operation; payload has %u",
                     sched->config.payload_bytes_max, request->payload.size);
        return;
    }
    if (request->type == RPC_DRYRUN) {
        answer_dryrun(sched, client, msgid);
        return;
    }
    if (ticket_find(sched, (uint32_t)(client - sched->clients), msgid) != NO_INDEX) {
        /* Two answers of one id could not be told apart, nor could a cancel say which it means. */
        sched->stats.bad_requests++;
        answer_error(sched, client, msgid, "BadRequest", "msgid: %u is that of a call that is not answered yet", msgid);
        return;
    }
    switch (start(sched, client, request, owner, function, arn)) {
    case STARTED:
        break;
    case NO_ROOM:
        answer_throttled(sched, client, msgid, "payload_bytes", sched->payload_bytes, sched->config.payload_total_bytes_max);
        break;
    case ENDLESS:
        sched->stats.recursions++;
        tracing_tell_loop(sched, info);
        answer_error(sched, client, msgid, "RecursiveInvocation", "Lambda has detected that function %s is part of a recursive loop: it was called "
                     "%d times in one chain of calls. Set RecursiveLoop to Allow if that is meant", info->display, TRACE_VISITS_MAX);
        break;
    }
}

static void method(struct sched *sched, struct client *client, const struct rpc_request *request) {
    if (slow_side_behind(sched)) {
        if (!request->notification) {
            answer_throttled(sched, client, request->msgid, "methods", sched->stats.events_waiting + RING_ITEMS, RING_ITEMS);
        }
        return;
    }
    const uint8_t head[2] = {(uint8_t)request->method.size, (uint8_t)(request->method.size >> 8)};
    const size_t bytes = sizeof head + request->method.size + request->params.size;
    uint8_t *blob = blob_new(sched, bytes);
    memcpy(blob, head, sizeof head);
    memcpy(blob + sizeof head, request->method.at, request->method.size);
    memcpy(blob + sizeof head + request->method.size, request->params.at, request->params.size);
    const struct sched_event event = {.kind = SCHED_EV_METHOD, .connection = client_id(sched, client), .msgid = request->msgid,
                                      .flags = request->notification, .rights = client->rights};
    emit_blob(sched, &event, blob, bytes);
    if (!request->notification) {
        client->methods++;
    }
}

static void cancel(struct sched *sched, struct client *client, uint32_t msgid) {
    uint32_t index = ticket_find(sched, (uint32_t)(client - sched->clients), msgid);
    if (index != NO_INDEX && sched->tickets[index].call == 0) {
        batch_step(sched); /* it came with this batch: let the core name it first */
        index = ticket_find(sched, (uint32_t)(client - sched->clients), msgid);
    }
    if (index == NO_INDEX) {
        return; /* answered meanwhile */
    }
    const uint64_t call = sched->tickets[index].call;
    batch_add(sched, CORE_EV_CANCEL)->u.cancel.call = call;
}

/* false: the connection is not to be read from any more. */
static bool take(struct sched *sched, struct client *client, enum rpc_verdict verdict, const struct rpc_request *request,
                 struct block *owner) {
    sched->stats.requests++;
    switch (verdict) {
    case RPC_MORE:
        break;
    case RPC_INVOKE:
        if (request->request_id.at != NULL && (client->rights & SCHED_RIGHT_OWN) == 0) {
            sched->stats.bad_requests++; /* a caller could pass one call off as another in the logs */
            answer_error(sched, client, request->msgid, "BadRequest", "options: unknown key \"request_id\"");
        } else if (request->type == RPC_EVENT) {
            if ((client->rights & SCHED_RIGHT_INVOKE) == 0) {
                answer_error(sched, client, request->msgid, "Unauthorized", "this connection may not invoke");
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
            answer_error(sched, client, request->msgid, "BadRequest", "%s", request->error);
        }
        break;
    case RPC_BROKEN:
        sched->stats.rpc_errors++;
        answer_error(sched, client, request->msgid, request->too_large ? "TooLarge" : "BadRequest", "%s", request->error);
        client->closing = true;
        return false;
    }
    return !client->dead && !client->closing;
}

void client_drop_partial(struct client *client) {
    free(client->stash);
    client->stash = NULL;
    client->stash_bytes = client->stash_capacity = 0;
    block_release(client->big);
    client->big = NULL;
    client->big_have = 0;
    free(client->upload);
    client->upload = NULL;
    client->partial_since_ns = 0;
    client->scan = (struct rpc_scan){0};
}

static bool memory_for(const struct sched *sched, uint32_t bytes) {
    /* With nothing held any frame may come: its limit is below the sum's, but blocks are a little larger than frames. */
    return sched->payload_bytes == 0 || sched->payload_bytes + bytes <= sched->config.payload_total_bytes_max;
}

static void want_memory(struct sched *sched, struct client *client, uint32_t bytes) {
    const uint32_t index = (uint32_t)(client - sched->clients);
    client->wants_memory = true;
    sched->stats.connections_waiting++;
    client->big_want = bytes;
    client->wanting_next = NO_INDEX;
    if (sched->wanting_tail != NO_INDEX) {
        sched->clients[sched->wanting_tail].wanting_next = index;
    } else {
        sched->wanting_head = index;
    }
    sched->wanting_tail = index;
    client_dirty(sched, client); /* flush() stops the reading */
}

static void unlink_wanting(struct sched *sched, struct client *client) {
    uint32_t prev = NO_INDEX;
    uint32_t index = sched->wanting_head;
    while (index != (uint32_t)(client - sched->clients)) {
        SCHED_ASSERT(index != NO_INDEX);
        prev = index;
        index = sched->clients[index].wanting_next;
    }
    if (prev == NO_INDEX) {
        sched->wanting_head = client->wanting_next;
    } else {
        sched->clients[prev].wanting_next = client->wanting_next;
    }
    if (sched->wanting_tail == index) {
        sched->wanting_tail = prev;
    }
    client->wants_memory = false;
    sched->stats.connections_waiting--;
}

/* In the order in which they came: a large frame waits for the memory that small ones behind it could have. */
void client_wake_wanting(struct sched *sched) {
    while (sched->wanting_head != NO_INDEX && memory_for(sched, sched->clients[sched->wanting_head].big_want)) {
        struct client *client = &sched->clients[sched->wanting_head];
        unlink_wanting(sched, client);
        struct block *big = block_new(client->big_want, &sched->payload_bytes);
        if (big == NULL) {
            client_kill(sched, client);
            return;
        }
        memcpy(big->data, client->big->data, client->big_have);
        block_release(client->big);
        client->big = big;
        client->partial_since_ns = sched->now_ns;
        client_dirty(sched, client);
    }
}

bool client_keep(struct client *client, const uint8_t *at, uint32_t bytes) {
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

bool client_keep_large(struct sched *sched, struct client *client, const uint8_t *at, uint32_t bytes, uint32_t size) {
    struct block *const big = sched->wanting_head == NO_INDEX && memory_for(sched, size) ? block_new(size, &sched->payload_bytes) : NULL;
    if (big == NULL) {
        return false;
    }
    SCHED_ASSERT(client->big == NULL && bytes < size);
    memcpy(big->data, at, bytes);
    free(client->stash);
    client->stash = NULL;
    client->stash_bytes = client->stash_capacity = 0;
    client->big = big;
    client->big_have = bytes;
    client->scan.need = size;
    return true;
}

/* A large frame gets a block of its own: for all of it, or, while there is no memory for that, for what is there. */
static bool keep_in_block(struct sched *sched, struct client *client, const uint8_t *at, uint32_t bytes) {
    const uint64_t most = (uint64_t)sched->config.frame_bytes_max + 16;
    SCHED_ASSERT(client->scan.need > bytes && client->scan.need <= most);
    /* A frame of many small values tells of no more than the next: room for half as much again as there is. */
    uint64_t want = bytes + bytes / 2 < most ? bytes + bytes / 2 : most;
    want = client->scan.need > want ? client->scan.need : want;
    const bool now = sched->wanting_head == NO_INDEX && memory_for(sched, (uint32_t)want);
    if (!now && sched->partial_bytes + bytes > sched->config.payload_total_bytes_max) {
        answer_throttled(sched, client, 0, "payload_bytes", sched->payload_bytes + sched->partial_bytes,
                         sched->config.payload_total_bytes_max);
        client->closing = true;
        client_drop_partial(client);
        return true;
    }
    struct block *big = block_new(now ? (uint32_t)want : bytes, now ? &sched->payload_bytes : &sched->partial_bytes);
    if (big == NULL) {
        return false;
    }
    memcpy(big->data, at, bytes);
    free(client->stash);
    client->stash = NULL;
    client->stash_bytes = client->stash_capacity = 0;
    client->big = big;
    client->big_have = bytes;
    if (!now) {
        want_memory(sched, client, (uint32_t)want);
    }
    return true;
}

/* Keeps the beginning of a frame that wants scan.need bytes at least. */
static bool keep(struct sched *sched, struct client *client, const uint8_t *at, uint32_t bytes) {
    if (bytes == 0) {
        if (client->stash != NULL) {
            client_drop_partial(client);
        }
        return true;
    }
    if (client->partial_since_ns == 0) {
        client->partial_since_ns = sched->now_ns;
    }
    if (client->scan.need <= STASH_BYTES_MAX && bytes <= STASH_BYTES_MAX) {
        return client_keep(client, at, bytes);
    }
    return keep_in_block(sched, client, at, bytes);
}

static struct rpc_limits limits_of(const struct sched *sched, const struct client *client) {
    const uint32_t max = sched->config.frame_bytes_max;
    /* Who may do nothing has nothing large to say; nor may it make us hold it. */
    return (struct rpc_limits){.frame_bytes_max = client->rights == 0 && max > STRANGER_FRAME_BYTES_MAX ? STRANGER_FRAME_BYTES_MAX : max};
}

/* All whole frames in [at, at + bytes); the rest is kept. `owner` holds the bytes, if they are in a block. */
static void parse(struct sched *sched, struct client *client, const uint8_t *at, uint32_t bytes, struct block *owner) {
    if (client->http) {
        web_parse(sched, client, at, bytes);
        return;
    }
    const struct rpc_limits limits = limits_of(sched, client);
    struct rpc_request request;
    while (bytes > 0) {
        const enum rpc_verdict verdict = rpc_read(&client->scan, at, bytes, &limits, &request);
        if (verdict == RPC_MORE) {
            break;
        }
        SCHED_ASSERT(request.size <= bytes && (request.size > 0 || verdict == RPC_BROKEN));
        client->partial_since_ns = 0;
        if (!take(sched, client, verdict, &request, owner)) {
            client_drop_partial(client);
            return;
        }
        at += request.size;
        bytes -= (uint32_t)request.size;
    }
    if (!keep(sched, client, at, bytes)) {
        client_kill(sched, client);
    }
}

/* Nothing more will come. Over a Unix socket the other end may still listen (shutdown(SHUT_WR), "nc -N"): it gets its answers, and
 * EPOLLHUP tells when it has really gone. A TCP peer that is gone looks the same as one that only has no more to say, and calls
 * of the first are to be cancelled, so there the end of the stream is the end. */
static void stream_ended(struct sched *sched, struct client *client, uint32_t events) {
    if (client->tcp || (events & (EPOLLHUP | EPOLLERR)) != 0) {
        client_kill(sched, client);
        return;
    }
    client->closing = true;
    client_drop_partial(client);
    client_dirty(sched, client);
}

/* Bytes received, 0: nothing now, or nothing ever again (that is dealt with). */
static uint32_t receive(struct sched *sched, struct client *client, uint8_t *at, uint32_t room, uint32_t events) {
    const ssize_t got = recv(client->fd, at, room, MSG_DONTWAIT);
    if (got > 0) {
        sched->stats.bytes_in += (uint64_t)got;
        return (uint32_t)got;
    }
    if (got == 0) {
        stream_ended(sched, client, events);
    } else if (errno != EAGAIN && errno != EINTR) {
        client_kill(sched, client);
    }
    return 0;
}

static void grow_big(struct sched *sched, struct client *client) {
    /* What it holds tells of more: grow by half, so that a frame of many small values is not moved for each. */
    SCHED_ASSERT(client->scan.need > client->big_have);
    uint64_t capacity = client->scan.need;
    if (capacity <= client->big->capacity) {
        return;
    }
    capacity += capacity / 2;
    const uint64_t max = (uint64_t)sched->config.frame_bytes_max + 16;
    capacity = capacity < max ? capacity : max > client->scan.need ? max : client->scan.need;
    struct block *grown = block_grow(client->big, (uint32_t)capacity);
    if (grown == NULL) {
        client_kill(sched, client);
        return;
    }
    client->big = grown;
}

static void read_big(struct sched *sched, struct client *client, uint32_t events) {
    const struct rpc_limits limits = limits_of(sched, client);
    struct block *big = client->big;
    uint32_t room = big->capacity - client->big_have;
    SCHED_ASSERT(room > 0);
    room = room < sched->share_large_bytes ? room : sched->share_large_bytes;
    const uint32_t got = receive(sched, client, big->data + client->big_have, room, events);
    if (got == 0) {
        return;
    }
    client->big_have += got;
    if (client->http) {
        web_upload(sched, client);
        return;
    }
    if (client->big_have < client->scan.need) {
        return;
    }
    struct rpc_request request;
    const enum rpc_verdict verdict = rpc_read(&client->scan, big->data, client->big_have, &limits, &request);
    if (verdict == RPC_MORE) {
        grow_big(sched, client);
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
        client_drop_partial(client);
    }
    block_release(big);
}

static void read_client(struct sched *sched, struct client *client, uint32_t events) {
    if (client->big != NULL) {
        read_big(sched, client, events);
        return;
    }
    const uint32_t kept = client->stash_bytes;
    SCHED_ASSERT(kept <= STASH_BYTES_MAX);
    /* Where the frame's length is known, all of its rest: in small parts it would be moved for each. */
    const uint32_t rest = client->scan.need > kept ? (uint32_t)client->scan.need - kept : 0;
    const uint32_t room = rest > sched->share_small_bytes && rest <= STASH_BYTES_MAX ? rest : sched->share_small_bytes;
    const uint32_t got = receive(sched, client, sched->scratch + kept, room, events);
    if (got == 0) {
        return;
    }
    if (kept > 0) {
        memcpy(sched->scratch, client->stash, kept);
        client->stash_bytes = 0;
    }
    parse(sched, client, sched->scratch, kept + got, NULL);
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
        read_client(sched, client, events);
    } else if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
        client_kill(sched, client);
    }
}

/* ---- time and the end ------------------------------------------------------------------------------------------------- */

void client_hand_over(struct sched *sched, struct client *client, const uint8_t *at, uint32_t bytes) {
    SCHED_ASSERT(client->http && client->calls == 0 && client->output.bytes == 0);
    /* Another descriptor of the same connection: ours is closed as any. */
    const int fd = slow_side_behind(sched) ? -1 : fcntl(client->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        refuse_http(client->fd);
        client_kill(sched, client);
        return;
    }
    const struct sched_event event = {.kind = SCHED_EV_HTTP, .value = (uint64_t)fd};
    emit(sched, &event, at, bytes);
    sched->stats.http_handed++;
    client_kill(sched, client);
}

void client_hand_answer(struct sched *sched, struct client *client, const struct reply *reply, const char *request_id) {
    enum { ID_BYTES = 36 };
    SCHED_ASSERT(client->http && client->calls == 1 && client->output.bytes == 0);
    const int fd = slow_side_behind(sched) ? -1 : fcntl(client->fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        refuse_http(client->fd);
        client_kill(sched, client);
        return;
    }
    const uint32_t begun = client->stash_bytes; /* of its next request */
    const size_t bytes = ID_BYTES + 1 + sizeof begun + begun + reply->bytes;
    uint8_t *const blob = blob_new(sched, bytes);
    memcpy(blob, request_id, ID_BYTES);
    blob[ID_BYTES] = client->close_after;
    memcpy(blob + ID_BYTES + 1, &begun, sizeof begun);
    if (begun > 0) {
        memcpy(blob + ID_BYTES + 1 + sizeof begun, client->stash, begun);
    }
    memcpy(blob + ID_BYTES + 1 + sizeof begun + begun, reply->at, reply->bytes);
    const struct sched_event event = {.kind = SCHED_EV_HTTP, .flags = 1, .value = (uint64_t)fd};
    emit_blob(sched, &event, blob, bytes);
    sched->stats.http_handed++;
    client_kill(sched, client);
}

static void begin_close(struct sched *sched, struct client *client) {
    client->closing = true;
    if (client->wants_memory) {
        unlink_wanting(sched, client);
    }
    client_drop_partial(client);
}

static void look_at(struct sched *sched, struct client *client) {
    const uint64_t patience = PATIENCE_S * SECOND;
    const uint64_t stalled = client->stalled_since_ns == 0 ? 0 : sched->now_ns - client->stalled_since_ns;
    if (stalled > patience && (client->closing || client->output.bytes > sched->config.connection_buffer_bytes_max)) {
        fault(sched, "connection %" PRIu64 " read nothing for %d s and left %" PRIu64 " bytes of answers: closed",
              client_id(sched, client), PATIENCE_S, client->output.bytes);
        client_kill(sched, client);
        return;
    }
    if (client->closing) {
        return;
    }
    if (client->rights == 0 && client->methods == 0 && sched->now_ns - client->opened_ns > HELLO_S * SECOND) {
        answer_error(sched, client, 0, "Unauthorized", "no hello within %d seconds", HELLO_S);
        begin_close(sched, client);
        return;
    }
    if (client->partial_since_ns == 0) {
        return;
    }
    const uint64_t age = sched->now_ns - client->partial_since_ns;
    if (client->wants_memory) {
        if (age > patience) {
            answer_throttled(sched, client, 0, "payload_bytes", sched->payload_bytes, sched->config.payload_total_bytes_max);
            begin_close(sched, client);
        }
        return;
    }
    if (client->http) {
        if (age > patience + client->big_have * SECOND / PARTIAL_BYTES_A_S) {
            web_give_up(sched, client);
            begin_close(sched, client);
        }
        return;
    }
    const uint64_t have = client->big != NULL ? client->big_have : client->stash_bytes;
    if (client->reading && age > patience + have * SECOND / PARTIAL_BYTES_A_S) {
        answer_error(sched, client, 0, "BadRequest", "half a frame in %d seconds, and one more for each %d bytes of it", PATIENCE_S,
                     PARTIAL_BYTES_A_S);
        begin_close(sched, client);
    }
}

void client_sweep(struct sched *sched) {
    for (uint32_t i = 0; i < sched->clients_used && sched->clients_open > 0; i++) {
        struct client *client = &sched->clients[i];
        if (client->fd >= 0 && !client->dead) {
            look_at(sched, client);
        }
    }
}

static void close_client(struct sched *sched, struct client *client) {
    const struct sched_event event = {.kind = SCHED_EV_CLOSED, .connection = client_id(sched, client)};
    while (client->tickets != NO_INDEX) {
        const uint32_t index = client->tickets;
        const uint64_t call = sched->tickets[index].call;
        ticket_orphan(sched, index);
        if (call != 0) {
            batch_add(sched, CORE_EV_CANCEL)->u.cancel.call = call;
        }
    }
    if (client->wants_memory) {
        unlink_wanting(sched, client);
    }
    if (client->resuming) {
        unlink_resuming(sched, client);
    }
    if (!client->reading) {
        sched->stats.connections_paused--;
    }
    client_drop_partial(client);
    output_drop(&sched->chunks, &client->output);
    unwatch(sched, client->fd);
    client->fd = -1;
    client->next = sched->client_free;
    sched->client_free = (uint32_t)(client - sched->clients);
    sched->clients_open--;
    sched->clients_http -= client->http;
    if (!client->http) { /* of those nobody was told */
        emit(sched, &event, NULL, 0);
    }
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
    for (uint32_t i = 0; i < sched->clients_used; i++) {
        const struct client *client = &sched->clients[i];
        if (client->fd >= 0 && !client->dead && client->output.bytes > 0) {
            return false;
        }
    }
    return true;
}

void client_free_all(struct sched *sched) {
    for (uint32_t i = 0; sched->clients != NULL && i < sched->clients_used; i++) {
        struct client *client = &sched->clients[i];
        if (client->fd >= 0) {
            client_drop_partial(client);
            output_drop(&sched->chunks, &client->output);
            close(client->fd);
        }
    }
    free(sched->clients);
    sched->clients = NULL;
}
