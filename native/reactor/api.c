/* api.c: the Runtime API: connections of a sandbox, the calls that wait for it, answers. api_http.c reads requests, api_state.c says
 * what is allowed.
 *
 * The other end is a stranger. Each connection has one request at a time; what comes behind it waits in the stash or in the kernel.
 * A body is looked at where it was read if it came whole, else it goes into a block of its own, and only the answer to the running
 * call may be large, so a sandbox can make us hold one. What is refused is read to its end and dropped, since clients write before
 * they listen.
 *
 * Whoever breaks HTTP loses that connection, not the sandbox: it is its own process that then hears nothing. */
#include "api_inside.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    SLOT_BITS = 6,
    LAST_READS_MAX = 512,        /* of what a dead sandbox left in its sockets */
    ACCEPTS_A_TURN = 8,
    SMALL_READ_BYTES = 512       /* of a body at once: a trickle costs */
};

_Static_assert(API_CONNECTIONS_MAX == 1 << SLOT_BITS, "an index is made of both");

static uint32_t index_of(const struct api_connection *connection) {
    return channel_index(connection->api->channel) << SLOT_BITS | connection->slot;
}

/* ---- connections ------------------------------------------------------------------------------------------------------ */

void api_dirty(struct sched *sched, struct api_connection *connection) {
    if (!connection->dirty) {
        connection->dirty = true;
        connection->dirty_next = sched->dirty_api;
        sched->dirty_api = connection;
    }
}

/* One whose `next` waits is still listened to, for that costs nothing until it says something. Of one that is not read, an end is not
 * told either: it would be told without end. */
static void rewatch(struct sched *sched, struct api_connection *connection, bool reading, bool writing) {
    const uint32_t events = (reading ? (uint32_t)EPOLLIN | EPOLLRDHUP : connection->waits ? (uint32_t)EPOLLRDHUP : 0U) |
                            (writing ? (uint32_t)EPOLLOUT : 0U);
    if (connection->watched != events) {
        connection->watched = events;
        (void)watch(sched, EPOLL_CTL_MOD, connection->fd, events, SOURCE_API, index_of(connection));
    }
}

void api_stop_responding(struct sched *sched, struct api_connection *connection) {
    struct api *api = connection->api;
    if (connection->responds) {
        connection->responds = false;
        api->state = api_step(api->state, connection->too_large || connection->streams ? API_BODY_WHOLE : API_BODY_CUT).next;
        if (connection->streams && !connection->too_large) { /* half of it is with the caller: there is no second try */
            api_answer_error(sched, api, CORE_REPLY_FUNCTION_ERROR, "Runtime.TruncatedResponse", "Response truncated");
        }
    }
}

void api_drop_body(struct api_connection *connection) {
    block_release(connection->body);
    connection->api->bodies_bytes -= connection->body_counted;
    connection->body_counted = 0;
    free(connection->trailers);
    connection->body = NULL;
    connection->trailers = NULL;
    connection->body_bytes = connection->trailers_bytes = 0;
    connection->in_body = false;
}

/* Closed at once, freed when it is flushed next. */
void api_hang_up(struct sched *sched, struct api_connection *connection) {
    struct api *api = connection->api;
    if (connection->fd < 0) {
        return;
    }
    api_stop_responding(sched, connection);
    if (api->waiting == connection) {
        api->waiting = NULL;
        if (api->state == API_WAITING) {
            api->state = api_step(api->state, api->channel->settled ? API_HUNG_UP : API_HUNG_UP_EARLY).next;
        }
    } else if (connection->waits) {
        api_extension_hung_up(api, connection);
    }
    connection->waits = false;
    unwatch(sched, connection->fd);
    connection->fd = -1;
    api_drop_body(connection);
    api_dirty(sched, connection);
}

static uint32_t own_connections(const struct api *api) {
    return API_CONNECTIONS_OWN + api->launched_count;
}

static void destroy(struct sched *sched, struct api_connection *connection) {
    struct api *api = connection->api;
    struct api_connection **link = &sched->resuming_api;
    while (*link != NULL) {
        if (*link == connection) {
            *link = connection->resuming_next;
        } else {
            link = &(*link)->resuming_next;
        }
    }
    for (link = &sched->held_api; *link != NULL;) {
        if (*link == connection) {
            *link = connection->held_next;
        } else {
            link = &(*link)->held_next;
        }
    }
    api->connections[connection->slot] = NULL;
    sched->api_shared -= api->connections_count > own_connections(api);
    api->connections_count--;
    api->stash_bytes -= connection->stash_capacity;
    api_drop_body(connection);
    output_drop(&sched->chunks, &connection->output);
    free(connection->stash);
    free(connection);
}

static void resume(struct sched *sched, struct api_connection *connection) {
    if (!connection->resuming) {
        connection->resuming = true;
        connection->resuming_next = sched->resuming_api;
        sched->resuming_api = connection;
    }
}

void api_flush(struct sched *sched, struct api_connection *connection) {
    const int64_t sent = output_send(&sched->chunks, &connection->output, connection->fd, sched->share_large_bytes);
    if (sent < 0 && sent != -EAGAIN && connection->in_body) {
        output_drop(&sched->chunks, &connection->output); /* reading will tell, where the core may be told too */
    } else if ((sent < 0 && sent != -EAGAIN) || (connection->closing && connection->output.bytes == 0 && !connection->in_body)) {
        api_hang_up(sched, connection);
        return;
    }
    api_rewatch(sched, connection);
}

void api_rewatch(struct sched *sched, struct api_connection *connection) {
    const bool room = connection->output.bytes <= API_UNREAD_BYTES_MAX && !connection->closing;
    if (connection->behind && room && !connection->waits) {
        resume(sched, connection);
    }
    rewatch(sched, connection, !connection->api->paused && !connection->held && !connection->behind && (connection->in_body || room),
            connection->output.bytes > 0);
}

void api_flush_all(struct sched *sched) {
    while (sched->dirty_api != NULL) {
        struct api_connection *connection = sched->dirty_api;
        if (connection->fd >= 0 && !connection->api->stopped) {
            api_flush(sched, connection);
        }
        SCHED_ASSERT(sched->dirty_api == connection); /* nothing above makes another dirty */
        sched->dirty_api = connection->dirty_next;
        connection->dirty = false;
        if (connection->fd < 0) {
            destroy(sched, connection);
        }
    }
}

/* ---- credit ----------------------------------------------------------------------------------------------------------- */

/* A request that brings no call on, or a connection, is work that a sandbox can ask for without end. */
void api_spend(struct sched *sched, struct api *api, uint32_t cost) {
    const uint64_t ms = (sched->now_ns - api->credit_ns) / 1000000;
    if (ms > 0) {
        const uint64_t credit = api->credit + (ms < API_BURST ? ms : API_BURST) * API_BURST_PER_MS;
        api->credit = credit < API_BURST ? (uint32_t)credit : API_BURST;
        api->credit_ns += ms * 1000000;
    }
    api->credit -= cost < api->credit ? cost : api->credit;
    if (api->credit > 0 || api->paused || api->stopped) {
        return;
    }
    api->paused = true;
    api->paused_next = sched->paused_apis;
    sched->paused_apis = api;
    (void)watch(sched, EPOLL_CTL_MOD, api->listen_fd, 0, SOURCE_API_LISTEN, channel_index(api->channel));
    for (uint32_t i = 0; i < API_CONNECTIONS_MAX; i++) {
        if (api->connections[i] != NULL && api->connections[i]->fd >= 0) {
            rewatch(sched, api->connections[i], false, (api->connections[i]->watched & EPOLLOUT) != 0);
        }
    }
}

void api_unpause(struct sched *sched) {
    struct api **link = &sched->paused_apis;
    while (*link != NULL) {
        struct api *api = *link;
        if (!api->stopped && (sched->now_ns - api->credit_ns) / 1000000 * API_BURST_PER_MS < API_BURST / 4) {
            link = &api->paused_next;
            continue;
        }
        *link = api->paused_next;
        api->paused = false;
        if (api->stopped) {
            continue;
        }
        (void)watch(sched, EPOLL_CTL_MOD, api->listen_fd, EPOLLIN, SOURCE_API_LISTEN, channel_index(api->channel));
        for (uint32_t i = 0; i < API_CONNECTIONS_MAX; i++) {
            if (api->connections[i] != NULL && api->connections[i]->fd >= 0) {
                api_dirty(sched, api->connections[i]);
            }
        }
    }
}

/* ---- reading ---------------------------------------------------------------------------------------------------------- */

/* What is left of a request waits for the rest. false: no memory, or too much of it. */
static bool keep(struct api_connection *connection, const uint8_t *at, uint32_t bytes) {
    struct api *api = connection->api;
    if (bytes > connection->stash_capacity) {
        const uint32_t capacity = bytes > STASH_BYTES_MAX ? 2 * bytes : bytes;
        if (api->stash_bytes + capacity - connection->stash_capacity > API_HEAD_ROOM_BYTES_MAX + 2ULL * API_HEAD_BYTES_MAX) {
            return false;
        }
        uint8_t *grown = malloc(capacity);
        if (grown == NULL) {
            return false;
        }
        memcpy(grown, at, bytes);
        free(connection->stash);
        api->stash_bytes += capacity - connection->stash_capacity;
        connection->stash = grown;
        connection->stash_capacity = capacity;
    } else if (bytes > 0) {
        memmove(connection->stash, at, bytes);
    }
    connection->stash_bytes = bytes;
    if (bytes == 0 && connection->stash != NULL) {
        free(connection->stash);
        api->stash_bytes -= connection->stash_capacity;
        connection->stash = NULL;
        connection->stash_capacity = 0;
    }
    return true;
}

static void parse(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes, bool in_place) {
    while (connection->fd >= 0 && !connection->api->stopped) {
        if (connection->in_body) {
            const uint32_t used = connection->head.chunked ? api_take_chunks(sched, connection, at, bytes)
                                                           : api_take_known(sched, connection, at, bytes, in_place);
            at += used;
            bytes -= used;
            if (connection->in_body) {
                break;
            }
            continue;
        }
        if (bytes == 0 || connection->waits || connection->closing || connection->output.bytes > API_UNREAD_BYTES_MAX) {
            break;
        }
        const enum api_read verdict = api_head_read(at, bytes, &connection->head);
        if (verdict == API_READ_MORE) {
            break;
        }
        if (verdict != API_READ_WHOLE) {
            api_not_http(sched, connection, verdict == API_READ_LONG);
            break;
        }
        at += connection->head.bytes;
        bytes -= connection->head.bytes;
        api_begin(sched, connection);
    }
    if (connection->closing) {
        bytes = 0;
    }
    connection->behind = bytes > 0 && (connection->waits || connection->output.bytes > API_UNREAD_BYTES_MAX);
    if (connection->behind) {
        api_dirty(sched, connection);
    } else if (bytes > 0) {
        api_spend(sched, connection->api, 1 + bytes / 4096); /* it will be looked at from its beginning again */
    }
    if (connection->fd >= 0 && !keep(connection, at, bytes)) {
        api_hang_up(sched, connection);
    }
}

static void at_end(struct sched *sched, struct api_connection *connection) {
    if (connection->in_body) {
        api_cut(sched, connection); /* whoever closed only his half still hears it */
    } else if (connection->output.bytes == 0 || connection->waits) {
        api_hang_up(sched, connection);
    } else {
        connection->closing = true;
        api_dirty(sched, connection);
    }
}

/* Bytes, 0: none now or none any more. */
static uint32_t receive(struct sched *sched, struct api_connection *connection, uint8_t *at, uint32_t room) {
    const ssize_t got = recv(connection->fd, at, room, MSG_DONTWAIT);
    if (got == 0) {
        at_end(sched, connection);
    } else if (got < 0 && errno != EAGAIN && errno != EINTR) {
        api_hang_up(sched, connection);
    }
    return got > 0 ? (uint32_t)got : 0;
}

/* A large body of known length goes where it is to lie. */
static uint32_t read_body(struct sched *sched, struct api_connection *connection) {
    struct block *body = connection->body;
    const uint32_t room = body->capacity - connection->body_bytes;
    const uint32_t most = room < connection->left ? room : (uint32_t)connection->left;
    const uint32_t got = receive(sched, connection, body->data + connection->body_bytes, most < sched->share_large_bytes ? most : sched->share_large_bytes);
    if (got > 0) {
        connection->body_bytes += got;
        connection->left -= got;
        if (connection->left == 0) {
            api_finish(sched, connection, body->data, connection->body_bytes, body);
        }
    }
    return got;
}

/* One read and what it brought. The core is told before anybody else reads: an answer may lie in the scratch. */
static bool read_connection(struct sched *sched, struct api_connection *connection) {
    uint32_t got;
    if (connection->in_body && connection->body != NULL && !connection->head.chunked && !connection->discard) {
        got = read_body(sched, connection);
        api_spend(sched, connection->api, got > 0 && got < SMALL_READ_BYTES);
    } else {
        const uint32_t kept = connection->stash_bytes;
        const bool large = kept > STASH_BYTES_MAX;
        uint8_t *const at = sched->scratch + (large ? 0 : kept);
        got = receive(sched, connection, at, sched->share_small_bytes);
        if (got > 0 && large) {
            uint8_t *const stash = connection->stash;
            if (connection->stash_capacity - kept < got) {
                uint8_t *const both = malloc((size_t)kept + got);
                if (both == NULL) {
                    api_hang_up(sched, connection);
                    return false;
                }
                memcpy(both, stash, kept);
                memcpy(both + kept, at, got);
                parse(sched, connection, both, kept + got, false);
                free(both);
            } else {
                memcpy(stash + kept, at, got);
                parse(sched, connection, stash, kept + got, false);
            }
        } else if (got > 0) {
            if (kept > 0) {
                memcpy(sched->scratch, connection->stash, kept);
            }
            parse(sched, connection, sched->scratch, kept + got, true);
        }
        if (got > 0 && got < SMALL_READ_BYTES && connection->in_body) {
            api_spend(sched, connection->api, 1);
        }
    }
    batch_step(sched);
    return got > 0;
}

static struct api *find(struct sched *sched, uint32_t channel_at) {
    struct channel *channel = sched->channels[channel_at];
    if (channel == NULL || channel->freed || channel->api == NULL || channel->api->stopped) {
        return NULL;
    }
    return channel->api;
}

void api_ready(struct sched *sched, uint32_t index, uint32_t events) {
    struct api *api = find(sched, index >> SLOT_BITS);
    struct api_connection *connection = api == NULL ? NULL : api->connections[index & (API_CONNECTIONS_MAX - 1)];
    if (connection == NULL || connection->fd < 0) {
        return;
    }
    if ((events & EPOLLOUT) != 0) {
        api_dirty(sched, connection);
    }
    if ((connection->watched & EPOLLIN) == 0 || connection->waits) {
        if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
            api_hang_up(sched, connection); /* half an end is one too, for who waits */
        } else if (connection->waits && (events & EPOLLIN) != 0) {
            rewatch(sched, connection, false, (connection->watched & EPOLLOUT) != 0);
        }
        return;
    }
    if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
        (void)read_connection(sched, connection);
    }
}

void api_resume(struct sched *sched) {
    struct api_connection *next = sched->resuming_api;
    sched->resuming_api = NULL;
    while (next != NULL) {
        struct api_connection *connection = next;
        next = connection->resuming_next;
        connection->resuming = false;
        if (connection->fd < 0 || connection->waits || connection->in_body || connection->api->stopped) {
            continue;
        }
        const uint32_t bytes = connection->stash_bytes;
        connection->behind = false;
        if (bytes <= STASH_BYTES_MAX) {
            memcpy(sched->scratch, connection->stash, bytes);
            parse(sched, connection, sched->scratch, bytes, true);
        } else {
            parse(sched, connection, connection->stash, bytes, false);
        }
        api_dirty(sched, connection);
        batch_step(sched);
    }
}

void api_accept(struct sched *sched, uint32_t index) {
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        struct api *api = find(sched, index);
        if (api == NULL || api->paused) {
            return;
        }
        const int fd = accept4(api->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
                api_spend(sched, api, API_BURST); /* we would be told of it without end */
            }
            return;
        }
        const int yes = 1;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        api_spend(sched, api, 1);
        uint32_t slot = 0;
        while (slot < API_CONNECTIONS_MAX && api->connections[slot] != NULL) {
            slot++;
        }
        const bool shared = api->connections_count >= own_connections(api);
        const bool room = slot < API_CONNECTIONS_MAX && (!shared || sched->api_shared < API_CONNECTIONS_SHARED_MAX);
        struct api_connection *connection = room ? calloc(1, sizeof *connection) : NULL;
        if (connection == NULL) {
            static const char text[] = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
            (void)!send(fd, text, sizeof text - 1, MSG_DONTWAIT | MSG_NOSIGNAL);
            close(fd);
            continue;
        }
        connection->api = api;
        connection->fd = fd;
        connection->slot = slot;
        connection->watched = (uint32_t)EPOLLIN | EPOLLRDHUP;
        api->connections[slot] = connection;
        api->connections_count++;
        sched->api_shared += shared;
        if (!watch(sched, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP, SOURCE_API, index_of(connection))) {
            api_hang_up(sched, connection);
        }
    }
}

/* ---- beginning and end ------------------------------------------------------------------------------------------------ */

bool api_start(struct sched *sched, struct channel *channel, int listen_fd, const uint8_t *head, size_t head_bytes) {
    struct api *api = calloc(1, sizeof *api);
    char *strings = malloc(head_bytes + 3);
    if (api == NULL || strings == NULL || !watch(sched, EPOLL_CTL_ADD, listen_fd, EPOLLIN, SOURCE_API_LISTEN, channel_index(channel))) {
        free(api);
        free(strings);
        close(listen_fd);
        return false;
    }
    memcpy(strings, head, head_bytes);
    memset(strings + head_bytes, 0, 3); /* what is left out is empty */
    *api = (struct api){.channel = channel, .listen_fd = listen_fd, .state = API_STARTED, .arn = strings, .credit = API_BURST,
                        .credit_ns = sched->now_ns};
    api->handler = strings + strlen(strings) + 1;
    api->account = api->handler + strlen(api->handler) + 1;
    const char *name = api->account + strlen(api->account) + 1;
    for (; name < strings + head_bytes && *name != '\0' && api->launched_count < API_EXTENSIONS_MAX; name += strlen(name) + 1) {
        api->launched[api->launched_count++] = name;
    }
    channel->api = api;
    sched->apis++;
    return true;
}

void api_stop(struct sched *sched, struct channel *channel) {
    struct api *api = channel->api;
    if (api->stopped) {
        return;
    }
    api->stopped = true;
    api_write_report(sched, api, false);
    unwatch(sched, api->listen_fd);
    api->listen_fd = -1;
    for (uint32_t i = 0; i < API_CONNECTIONS_MAX; i++) {
        if (api->connections[i] != NULL && api->connections[i]->fd >= 0) {
            unwatch(sched, api->connections[i]->fd);
            api->connections[i]->fd = -1;
            api_dirty(sched, api->connections[i]);
        }
    }
    api->waiting = NULL;
}

void api_hear_out(struct sched *sched, struct channel *channel) {
    struct api *api = channel->api;
    api->deaf = true;
    api_accept(sched, channel_index(channel)); /* its last word may be on a connection of its own */
    for (uint32_t i = 0, reads = 0; i < API_CONNECTIONS_MAX; i++) {
        for (; reads < LAST_READS_MAX; reads++) {
            struct api_connection *connection = api->connections[i];
            if (api->stopped || connection == NULL || connection->fd < 0 || connection->waits || connection->closing ||
                !read_connection(sched, connection)) {
                break;
            }
        }
    }
}

void api_free(struct sched *sched, struct channel *channel) {
    struct api *api = channel->api;
    api_stop(sched, channel);
    struct api_connection **link = &sched->dirty_api;
    while (*link != NULL) {
        if ((*link)->api == api) {
            *link = (*link)->dirty_next;
        } else {
            link = &(*link)->dirty_next;
        }
    }
    struct api **paused = &sched->paused_apis;
    while (*paused != NULL) {
        if (*paused == api) {
            *paused = api->paused_next;
        } else {
            paused = &(*paused)->paused_next;
        }
    }
    for (uint32_t i = 0; i < API_CONNECTIONS_MAX; i++) {
        if (api->connections[i] != NULL) {
            destroy(sched, api->connections[i]);
        }
    }
    sched->apis--;
    free(api->arn);
    free(api);
    channel->api = NULL;
}
