/* api.c: the Runtime API: connections of a sandbox, the calls that wait for it, answers. api_http.c reads requests, api_state.c says
 * what is allowed.
 *
 * The other end is a stranger. Each connection has one request at a time; what comes behind it waits in the stash or in the kernel.
 * A body is looked at where it was read if it came whole, else it goes into a block of its own, and only the answer to the running
 * call may be large, so a sandbox can make us hold one. What is refused is read to its end and dropped, since clients write before
 * they listen.
 *
 * Whoever breaks HTTP loses that connection, not the sandbox: it is its own process that then hears nothing. */
#include "api.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "json.h"
#include "pack_json.h"

enum {
    SLOT_BITS = 6,
    REFER_BYTES_MIN = 16 * 1024, /* larger payloads are not copied into the output queue */
    LAST_READS_MAX = 512,        /* of what a dead sandbox left in its sockets */
    ACCEPTS_A_TURN = 8,
    SMALL_READ_BYTES = 512       /* of a body at once: a trickle costs */
};

_Static_assert(API_CONNECTIONS_MAX == 1 << SLOT_BITS, "an index is made of both");

static uint32_t index_of(const struct api_connection *connection) {
    return channel_index(connection->api->channel) << SLOT_BITS | connection->slot;
}

/* ---- connections ------------------------------------------------------------------------------------------------------ */

static void dirty(struct sched *sched, struct api_connection *connection) {
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

static void stop_responding(struct api_connection *connection) {
    struct api *api = connection->api;
    if (connection->responds) {
        connection->responds = false;
        api->state = api_step(api->state, connection->too_large ? API_BODY_WHOLE : API_BODY_CUT).next;
    }
}

static void drop_body(struct api_connection *connection) {
    block_release(connection->body);
    free(connection->trailers);
    connection->body = NULL;
    connection->trailers = NULL;
    connection->body_bytes = connection->trailers_bytes = 0;
    connection->in_body = false;
}

/* Closed at once, freed when it is flushed next. */
static void hang_up(struct sched *sched, struct api_connection *connection) {
    struct api *api = connection->api;
    if (connection->fd < 0) {
        return;
    }
    stop_responding(connection);
    if (api->waiting == connection) {
        api->waiting = NULL;
        api->state = api_step(api->state, API_HUNG_UP).next;
    }
    connection->waits = false;
    unwatch(sched, connection->fd);
    connection->fd = -1;
    drop_body(connection);
    dirty(sched, connection);
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
    api->connections[connection->slot] = NULL;
    api->stash_bytes -= connection->stash_capacity;
    drop_body(connection);
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

static void flush(struct sched *sched, struct api_connection *connection) {
    const int64_t sent = output_send(&sched->chunks, &connection->output, connection->fd, sched->share_large_bytes);
    if ((sent < 0 && sent != -EAGAIN) || (connection->closing && connection->output.bytes == 0 && !connection->in_body)) {
        hang_up(sched, connection);
        return;
    }
    const bool room = connection->output.bytes <= API_UNREAD_BYTES_MAX && !connection->closing;
    if (connection->behind && room && !connection->waits) {
        resume(sched, connection);
    }
    rewatch(sched, connection, !connection->api->paused && !connection->behind && (connection->in_body || room), connection->output.bytes > 0);
}

void api_flush_all(struct sched *sched) {
    while (sched->dirty_api != NULL) {
        struct api_connection *connection = sched->dirty_api;
        if (connection->fd >= 0 && !connection->api->stopped) {
            flush(sched, connection);
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
static void spend(struct sched *sched, struct api *api, uint32_t cost) {
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
                dirty(sched, api->connections[i]);
            }
        }
    }
}

/* ---- what is said ----------------------------------------------------------------------------------------------------- */

static void say(struct sched *sched, struct api_connection *connection, unsigned status, const char *reason, const char *type,
                const char *body) {
    char text[1024];
    const int size = snprintf(text, sizeof text, "HTTP/1.1 %u %s\r\nContent-Type: %s\r\n%sContent-Length: %zu\r\n\r\n%s", status, reason, type,
                              connection->close_after ? "Connection: close\r\n" : "", strlen(body), body);
    SCHED_ASSERT(size > 0 && (size_t)size < sizeof text);
    output_add(&sched->chunks, &connection->output, text, (size_t)size);
    connection->closing = connection->closing || connection->close_after;
    dirty(sched, connection);
}

static const char *reason_of(unsigned status) {
    switch (status) {
    case 400: return "Bad Request";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 413: return "Request Entity Too Large";
    case 431: return "Request Header Fields Too Large";
    default: return "Internal Server Error";
    }
}

/* What messages are made of needs no escape in JSON. */
static void say_refusal(struct sched *sched, struct api_connection *connection) {
    char body[512];
    snprintf(body, sizeof body, "{\"errorMessage\":\"%s\",\"errorType\":\"%s\"}", connection->refused_message, connection->refused_type);
    say(sched, connection, connection->refused, reason_of(connection->refused), "application/json", body);
    connection->refused = 0;
    spend(sched, connection->api, 1);
}

static void refuse(struct api_connection *connection, unsigned status, const char *type, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Said once its body is read. */
static void refuse(struct api_connection *connection, unsigned status, const char *type, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(connection->refused_message, sizeof connection->refused_message, format, arguments);
    va_end(arguments);
    snprintf(connection->refused_type, sizeof connection->refused_type, "%s", type);
    connection->refused = status;
    connection->discard = true;
}

static void refuse_step(struct api_connection *connection, const struct api_step *step, enum api_want want) {
    if (step->verdict == API_REFUSE_ID) {
        refuse(connection, 400, "InvalidRequestID", "Invalid request ID");
    } else {
        refuse(connection, 403, "InvalidStateTransition", "State transition from %s to %s failed for runtime. Error: State transition is not allowed",
               api_state_name(step->next), api_want_name(want));
    }
}

static void accepted(struct sched *sched, struct api_connection *connection) {
    static const char text[] = "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"status\":\"OK\"}\n";
    if (connection->close_after) {
        say(sched, connection, 202, "Accepted", "application/json", "{\"status\":\"OK\"}\n");
        return;
    }
    output_add(&sched->chunks, &connection->output, text, sizeof text - 1);
    dirty(sched, connection);
}

/* ---- calls ------------------------------------------------------------------------------------------------------------ */

static uint64_t wall_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* A header's value out of somebody's text: what cannot stand in a header is a blank, and what is not ASCII is as JSON escapes it.
 * Worst: 6 bytes for each. */
static char *put_value(char *at, const uint8_t *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        const uint8_t c = text[i];
        uint32_t code = c;
        size_t more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
        if (c < 0x80) {
            *at++ = c < ' ' || c == 0x7f ? ' ' : (char)c;
            continue;
        }
        code &= 0x7fU >> (more + 1);
        if (c < 0xc0 || more > bytes - i - 1) {
            *at++ = '?';
            continue;
        }
        for (; more > 0; more--) {
            code = code << 6 | (text[++i] & 0x3fU);
        }
        if (code > 0xffff) {
            at += sprintf(at, "\\u%04x\\u%04x", 0xd800U + ((code - 0x10000U) >> 10 & 0x3ffU), 0xdc00U + (code & 0x3ffU));
        } else {
            at += sprintf(at, "\\u%04x", code);
        }
    }
    return at;
}

static char *put(char *at, const char *text) {
    const size_t size = strlen(text);
    memcpy(at, text, size);
    return at + size;
}

static char *put_number(char *at, uint64_t value) {
    char digits[24];
    unsigned count = 0;
    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    while (count > 0) {
        *at++ = digits[--count];
    }
    return at;
}

/* MessagePack becomes JSON. NULL: no memory. */
static struct block *as_json(struct sched *sched, const struct ticket *ticket, uint32_t *bytes) {
    const uint8_t *const payload = ticket_payload(ticket);
    const size_t size = pack_json(payload, ticket->payload_bytes, NULL, 0);
    struct block *block = size > UINT32_MAX ? NULL : block_new((uint32_t)size, &sched->payload_bytes);
    if (block != NULL) {
        (void)pack_json(payload, ticket->payload_bytes, block->data, size);
        *bytes = (uint32_t)size;
    }
    return block;
}

enum { HEAD_FIXED = 512 };

/* The call goes to the runtime whose `next` waits. */
static void give_call(struct sched *sched, struct api *api, const struct ticket *ticket) {
    static const char *const names[] = {NULL, "Lambda-Runtime-Trace-Id: ", "Lambda-Runtime-Client-Context: ", NULL};
    struct api_connection *connection = api->waiting;
    struct output *output = &connection->output;
    const struct function_info *info = info_of(sched, api->channel->function);
    struct ticket_ext ext[TICKET_EXTS];
    ticket_exts(ticket, ext);
    uint32_t bytes = ticket->payload_bytes;
    struct block *json = ticket->payload_msgpack ? as_json(sched, ticket, &bytes) : NULL;
    const uint8_t *payload = ticket_payload(ticket);
    if (ticket->payload_msgpack) {
        payload = json != NULL ? json->data : (const uint8_t *)"null";
        bytes = json != NULL ? bytes : 4;
    } else if (bytes == 0) {
        payload = (const uint8_t *)"{}";
        bytes = 2;
    }
    const size_t arn = ext[TICKET_EXT_ARN].at == NULL ? strlen(api->arn) : ext[TICKET_EXT_ARN].size;
    const size_t most = HEAD_FIXED + 6 * (arn + ext[TICKET_EXT_TRACE].size + ext[TICKET_EXT_CONTEXT].size);
    const bool refer = bytes >= REFER_BYTES_MIN && (json != NULL || ticket->block != NULL);
    const bool together = most + bytes <= CHUNK_BYTES && !refer;
    char *const own = most > CHUNK_BYTES ? malloc(most) : NULL;
    SCHED_ASSERT(most <= CHUNK_BYTES || own != NULL);
    char *const begin = own != NULL ? own : (char *)output_room(&sched->chunks, output, most + (together ? bytes : 0));
    char id[37];
    journal_uuid(ticket->request_id, id);
    char *at = put(begin, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: ");
    at = put(put(at, id), "\r\nLambda-Runtime-Deadline-Ms: ");
    at = put_number(at, wall_ms() + (info == NULL ? 0 : info->timeout_ms));
    at = put(at, "\r\nLambda-Runtime-Invoked-Function-Arn: ");
    at = ext[TICKET_EXT_ARN].at == NULL ? put_value(at, (const uint8_t *)api->arn, arn) : put_value(at, ext[TICKET_EXT_ARN].at, arn);
    for (int i = TICKET_EXT_TRACE; i <= TICKET_EXT_CONTEXT; i++) {
        if (ext[i].at != NULL) {
            at = put_value(put(put(at, "\r\n"), names[i]), ext[i].at, ext[i].size);
        }
    }
    at = put(at, connection->close_after ? "\r\nConnection: close\r\nContent-Length: " : "\r\nContent-Length: ");
    at = put(put_number(at, bytes), "\r\n\r\n");
    if (together) {
        memcpy(at, payload, bytes);
        at += bytes;
    }
    if (own != NULL) {
        output_add(&sched->chunks, output, own, (size_t)(at - own));
        free(own);
    } else {
        output_commit(output, (size_t)(at - begin));
    }
    if (refer) {
        output_refer(&sched->chunks, output, json != NULL ? json : ticket->block, payload, bytes);
    } else if (!together) {
        output_add(&sched->chunks, output, payload, bytes);
    }
    block_release(json);
    connection->closing = connection->closing || connection->close_after;
    connection->waits = false;
    api->waiting = NULL;
    api->state = api_step(api->state, API_GIVEN).next;
    api->given_ns = sched->now_ns;
    api->id_known = true;
    memcpy(api->id, ticket->request_id, sizeof api->id);
    dirty(sched, connection);
}

/* The oldest call that is held goes to the runtime, if it waits for one. Those whose time has passed go back to the core, which may
 * have had them run elsewhere. */
static void give(struct sched *sched, struct api *api) {
    struct channel *channel = api->channel;
    while (api->state == API_WAITING && channel->able && api->given_seq != channel->sent_seq) {
        const uint32_t seq = ++api->given_seq;
        const struct ticket *ticket = channel_ticket(sched, channel, seq);
        const uint64_t valid_until_ns = api->valid_until_ns[seq % CORE_AHEAD_MAX];
        if (ticket != NULL && (sched->stepping || valid_until_ns == 0 || sched->now_ns <= valid_until_ns)) {
            give_call(sched, api, ticket);
        } else {
            channel_hand_back(sched, channel, seq);
        }
    }
}

void api_send_call(struct sched *sched, struct channel *channel, const struct core_action *send) {
    struct api *api = channel->api;
    api->valid_until_ns[send->seq % CORE_AHEAD_MAX] = send->valid_until_ns;
    if (!api->stopped) {
        give(sched, api); /* a runtime that waits has been given all before: this is the one, and its time is now */
    }
}

/* ---- requests --------------------------------------------------------------------------------------------------------- */

/* Is the other end of a connection that waits still there? A client that gave up and asks anew may be heard before we hear that. */
static bool is_there(const struct api_connection *connection) {
    uint8_t byte;
    const ssize_t got = recv(connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

static void on_next(struct sched *sched, struct api_connection *connection) {
    struct api *api = connection->api;
    if (api->waiting != NULL && !is_there(api->waiting)) {
        hang_up(sched, api->waiting);
    }
    const struct api_step step = api_step(api->state, API_WANT_NEXT);
    if (step.verdict != API_ACCEPT) {
        refuse_step(connection, &step, API_WANT_NEXT);
        return;
    }
    api->state = step.next;
    api->id_known = false;
    api->waiting = connection;
    connection->waits = true;
    struct channel *channel = api->channel;
    if (!channel->settled) {
        const uint64_t init_ns = sched->now_ns - channel->begun_ns;
        channel_is_ready(sched, channel, (const uint8_t *)&init_ns, sizeof init_ns);
    }
    give(sched, api);
}

static void on_ping(struct sched *sched, struct api_connection *connection) {
    say(sched, connection, 200, "OK", "text/plain", "pong");
    spend(sched, connection->api, 1);
}

static void on_unknown(struct sched *sched, struct api_connection *connection) {
    (void)sched;
    refuse(connection, 404, "NotFound", "There is no such path");
}

static void on_method(struct sched *sched, struct api_connection *connection) {
    (void)sched;
    refuse(connection, 405, "MethodNotAllowed", "The path is there, the method is not");
}

static void on_restore(struct sched *sched, struct api_connection *connection) {
    (void)sched;
    refuse(connection, 403, "InvalidStateTransition", "This sandbox was not made from an image");
}

/* The beginning of an answer: may it? Its body is read in any case. */
static void begin_answer(struct api_connection *connection) {
    struct api *api = connection->api;
    const bool own = api->id_known && connection->head.id_good && memcmp(api->id, connection->head.id, sizeof api->id) == 0;
    const enum api_want want = own ? API_WANT_RESPOND : API_WANT_RESPOND_OTHER;
    const struct api_slice mode = connection->head.mode;
    const struct api_step step = api_step(api->state, want);
    if (step.verdict != API_ACCEPT) {
        refuse_step(connection, &step, want);
        return;
    }
    if (connection->head.route == ROUTE_RESPONSE && mode.at != NULL && !api_equals(mode, "streaming") && !api_equals(mode, "buffered")) {
        refuse(connection, 400, "Runtime.InvalidResponseModeHeader", "Lambda-Runtime-Function-Response-Mode is streaming, or left out");
        return;
    }
    api->state = step.next;
    connection->responds = true;
}

static void begin_init_error(struct api_connection *connection) {
    const struct api_step step = api_step(connection->api->state, API_WANT_INIT_ERROR);
    if (step.verdict != API_ACCEPT) {
        refuse_step(connection, &step, API_WANT_INIT_ERROR);
    }
}

static void answer(struct sched *sched, struct api *api, uint32_t status, const uint8_t *at, uint32_t bytes, struct block *owner) {
    struct channel *channel = api->channel;
    const struct core_reply_event reply = {.sandbox = channel->sandbox, .start_ns = api->given_ns, .end_ns = clock_ns(),
                                           .seq = api->given_seq, .status = status};
    channel->output_looked = false;
    logs_before_answer(sched, channel);
    channel_answer(sched, channel, &reply, at, bytes, owner, false);
}

/* The runtime's error object, or one of ours where it is none: callers are promised JSON. */
static void answer_error_object(struct sched *sched, struct api *api, const char *type, const uint8_t *at, uint32_t bytes,
                                struct block *owner) {
    size_t wrong;
    if (bytes > 0 && json_valid(at, bytes, &wrong)) {
        answer(sched, api, CORE_REPLY_FUNCTION_ERROR, at, bytes, owner);
        return;
    }
    struct block *made = block_new(API_ERROR_TYPE_BYTES_MAX + 64, &sched->payload_bytes);
    SCHED_ASSERT(made != NULL);
    const int size = snprintf((char *)made->data, made->capacity, "{\"errorType\":\"%s\",\"errorMessage\":\"\"}", type);
    answer(sched, api, CORE_REPLY_FUNCTION_ERROR, made->data, (uint32_t)size, made);
    block_release(made);
}

static void answer_too_large(struct sched *sched, struct api_connection *connection) {
    const uint32_t most = sched->config.answer_bytes_max;
    struct block *made = block_new(256, &sched->payload_bytes);
    SCHED_ASSERT(made != NULL);
    const int size = snprintf((char *)made->data, made->capacity, "{\"errorMessage\":\"Response payload size exceeded maximum allowed payload size "
                              "(%u bytes).\",\"errorType\":\"Function.ResponseSizeTooLarge\"}", most);
    answer(sched, connection->api, CORE_REPLY_TOO_LARGE, made->data, (uint32_t)size, made);
    block_release(made);
}

static void end_streamed_error(struct sched *sched, struct api_connection *connection, const struct api_trailers *trailers) {
    char type[API_ERROR_TYPE_BYTES_MAX];
    api_error_type_copy(trailers->error_type, type);
    struct block *text = block_new(trailers->error_body.size + 1, &sched->payload_bytes);
    SCHED_ASSERT(text != NULL);
    const int64_t size = trailers->error_body.at == NULL ? 0 : api_base64(trailers->error_body, text->data, text->capacity);
    answer_error_object(sched, connection->api, type, text->data, size < 0 ? 0 : (uint32_t)size, text);
    block_release(text);
}

static void end_answer(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes, struct block *owner) {
    struct api *api = connection->api;
    struct api_trailers trailers = {0};
    connection->responds = false;
    api->state = api_step(api->state, API_BODY_WHOLE).next;
    if (connection->too_large) {
        return; /* the caller was told already */
    }
    if (connection->trailers_bytes > 0) {
        (void)api_trailers_read(connection->trailers, connection->trailers_bytes, &trailers);
    }
    if (connection->head.route == ROUTE_ERROR) {
        answer_error_object(sched, api, connection->error_type, at, bytes, owner);
    } else if (trailers.error_type.at != NULL) {
        end_streamed_error(sched, connection, &trailers);
    } else {
        answer(sched, api, CORE_REPLY_OK, at, bytes, owner);
    }
    accepted(sched, connection);
}

static void end_init_error(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes) {
    struct api *api = connection->api;
    struct channel *channel = api->channel;
    /* Another may have been faster while this one's body came. */
    const struct api_step step = api_step(api->state, API_WANT_INIT_ERROR);
    size_t wrong;
    if (step.verdict != API_ACCEPT) {
        refuse_step(connection, &step, API_WANT_INIT_ERROR);
        say_refusal(sched, connection);
        return;
    }
    api->state = step.next;
    accepted(sched, connection);
    flush(sched, connection); /* what follows ends the sandbox */
    if (channel->settled) {
        return;
    }
    if (bytes > 0 && json_valid(at, bytes, &wrong)) {
        channel_init_error(sched, channel, at, bytes);
    } else {
        char text[API_ERROR_TYPE_BYTES_MAX + 64];
        const int size = snprintf(text, sizeof text, "{\"errorType\":\"%s\",\"errorMessage\":\"\"}", connection->error_type);
        channel_init_error(sched, channel, (const uint8_t *)text, (uint32_t)size);
    }
}

struct route {
    void (*begin)(struct api_connection *connection);  /* may refuse; NULL: nothing to ask */
    void (*whole)(struct sched *sched, struct api_connection *connection); /* its body does not matter */
    void (*body)(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes);
    uint32_t body_max;                                 /* 0: any is dropped, UINT32_MAX: an answer's */
};

static const struct route routes[ROUTES] = {
    [ROUTE_UNKNOWN] = {.whole = on_unknown},
    [ROUTE_METHOD] = {.whole = on_method},
    [ROUTE_NEXT] = {.whole = on_next},
    [ROUTE_RESPONSE] = {.begin = begin_answer, .body_max = UINT32_MAX},
    [ROUTE_ERROR] = {.begin = begin_answer, .body_max = UINT32_MAX},
    [ROUTE_INIT_ERROR] = {.begin = begin_init_error, .body = end_init_error, .body_max = API_INIT_ERROR_BYTES_MAX},
    [ROUTE_RESTORE_NEXT] = {.whole = on_restore},
    [ROUTE_RESTORE_ERROR] = {.whole = on_restore},
    [ROUTE_PING] = {.whole = on_ping},
    [ROUTE_REGISTER] = {.whole = on_unknown},
    [ROUTE_EVENT_NEXT] = {.whole = on_unknown},
    [ROUTE_EXTENSION_INIT_ERROR] = {.whole = on_unknown},
    [ROUTE_EXTENSION_EXIT_ERROR] = {.whole = on_unknown},
    [ROUTE_TELEMETRY] = {.whole = on_unknown},
    [ROUTE_LOGS] = {.whole = on_unknown},
};

static void too_large(struct sched *sched, struct api_connection *connection) {
    connection->too_large = true;
    refuse(connection, 413, "RequestEntityTooLarge", "Exceeded maximum allowed payload size (%u bytes).", connection->body_max);
    if (connection->responds) {
        answer_too_large(sched, connection);
    }
    block_release(connection->body);
    connection->body = NULL;
    connection->body_bytes = 0;
}

/* The request is whole. `at`: its body, in `owner` if that is not NULL. */
static void finish(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes, struct block *owner) {
    const struct route *const route = &routes[connection->head.route];
    connection->in_body = false;
    if (connection->responds) {
        end_answer(sched, connection, at, bytes, owner);
    } else if (!connection->refused && route->body != NULL) {
        route->body(sched, connection, at, bytes);
    } else if (!connection->refused) {
        route->whole(sched, connection);
    }
    if (connection->refused != 0) {
        say_refusal(sched, connection);
    }
    drop_body(connection);
}

/* A head is there. True: all that is wanted of it is in [at, at + bytes) and was taken: *used. */
static void begin(struct sched *sched, struct api_connection *connection) {
    const struct route *const route = &routes[connection->head.route];
    connection->discard = route->body_max == 0;
    connection->discarded = 0;
    connection->refused = 0;
    connection->too_large = false;
    connection->close_after = connection->head.close;
    connection->left = connection->head.length;
    connection->chunks = (struct api_chunks){0};
    connection->body_max = route->body_max == UINT32_MAX ? sched->config.answer_bytes_max : route->body_max;
    connection->in_body = true;
    api_error_type_copy(connection->head.error_type, connection->error_type);
    if (route->begin != NULL) {
        route->begin(connection);
    }
    if (!connection->discard && connection->left > connection->body_max) {
        too_large(sched, connection);
    }
    const bool body = connection->head.chunked || connection->head.length > 0;
    if (body && connection->head.expects) {
        if (connection->refused != 0) {
            connection->close_after = true; /* it has not begun to send, and may never */
            connection->left = 0;
            connection->head.chunked = false;
            stop_responding(connection);
        } else {
            static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
            output_add(&sched->chunks, &connection->output, text, sizeof text - 1);
            dirty(sched, connection);
        }
    }
    /* Slices end with the bytes they are of. */
    connection->head.error_type = connection->head.mode = connection->head.content_type = (struct api_slice){0};
}

/* false: the connection is over. */
static bool add(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes) {
    if (!connection->discard && bytes > connection->body_max - connection->body_bytes) {
        too_large(sched, connection);
    }
    if (connection->discard) {
        connection->discarded += bytes;
        if (connection->discarded > API_DISCARD_BYTES_MAX) {
            connection->close_after = true;
            stop_responding(connection);
            say_refusal(sched, connection);
            drop_body(connection);
            return false;
        }
        return true;
    }
    const uint32_t wanted = connection->body_bytes + bytes;
    struct block *body = connection->body;
    if (body == NULL) {
        const uint64_t known = connection->head.chunked ? 4096 : connection->head.length;
        body = block_new(known > wanted ? (uint32_t)known : wanted, &sched->payload_bytes);
    } else if (wanted > body->capacity) {
        const uint64_t twice = 2ULL * body->capacity < connection->body_max ? 2ULL * body->capacity : connection->body_max;
        body = block_grow(body, twice > wanted ? (uint32_t)twice : wanted);
    }
    if (body == NULL) {
        hang_up(sched, connection);
        return false;
    }
    memcpy(body->data + connection->body_bytes, at, bytes);
    connection->body = body;
    connection->body_bytes = wanted;
    return true;
}

static bool add_trailer(struct sched *sched, struct api_connection *connection, struct api_slice piece) {
    uint8_t *grown = realloc(connection->trailers, connection->trailers_bytes + piece.size);
    if (grown == NULL) {
        hang_up(sched, connection);
        return false;
    }
    connection->trailers = grown;
    memcpy(grown + connection->trailers_bytes, piece.at, piece.size);
    connection->trailers_bytes += piece.size;
    return true;
}

static void cut(struct sched *sched, struct api_connection *connection) {
    stop_responding(connection);
    connection->close_after = true;
    if (connection->refused == 0) {
        refuse(connection, 400, "TruncatedHTTPRequest", "HTTP request detected as truncated");
    }
    say_refusal(sched, connection);
    drop_body(connection);
}

static void not_http(struct sched *sched, struct api_connection *connection, bool too_long) {
    connection->close_after = true;
    if (too_long) {
        refuse(connection, 431, "RequestHeaderFieldsTooLarge", "A request's head has at most %d bytes", API_HEAD_BYTES_MAX);
    } else {
        refuse(connection, 400, "BadRequest", "This is not HTTP/1.1");
    }
    say_refusal(sched, connection);
}

/* Of a chunked body: bytes done with. */
static uint32_t take_chunks(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes) {
    uint32_t used = 0;
    for (;;) {
        size_t taken;
        struct api_slice piece;
        const enum api_piece what = api_chunks_read(&connection->chunks, at + used, bytes - used, &taken, &piece);
        used += (uint32_t)taken;
        switch (what) {
        case API_PIECE_MORE:
            return used;
        case API_PIECE_DATA:
            if (!add(sched, connection, piece.at, piece.size)) {
                return bytes;
            }
            break;
        case API_PIECE_TRAILER:
            if (!add_trailer(sched, connection, piece)) {
                return bytes;
            }
            break;
        case API_PIECE_END:
            finish(sched, connection, connection->body == NULL ? at : connection->body->data, connection->body_bytes, connection->body);
            return used;
        case API_PIECE_BROKEN:
            stop_responding(connection);
            drop_body(connection);
            not_http(sched, connection, false);
            return bytes;
        }
    }
}

/* Of a body of known length. in_place: the bytes stay where they are until the next step of the core. */
static uint32_t take_known(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes, bool in_place) {
    const uint32_t part = connection->left < bytes ? (uint32_t)connection->left : bytes;
    if (connection->body == NULL && part == connection->left && (in_place || part == 0) && !connection->discard) {
        connection->left = 0;
        finish(sched, connection, at, part, NULL);
        return part;
    }
    if (part > 0 && !add(sched, connection, at, part)) {
        return bytes;
    }
    connection->left -= part;
    if (connection->left == 0) {
        finish(sched, connection, connection->body == NULL ? at : connection->body->data, connection->body_bytes, connection->body);
    }
    return part;
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
            const uint32_t used = connection->head.chunked ? take_chunks(sched, connection, at, bytes)
                                                           : take_known(sched, connection, at, bytes, in_place);
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
            not_http(sched, connection, verdict == API_READ_LONG);
            break;
        }
        at += connection->head.bytes;
        bytes -= connection->head.bytes;
        begin(sched, connection);
    }
    if (connection->closing) {
        bytes = 0;
    }
    connection->behind = bytes > 0 && (connection->waits || connection->output.bytes > API_UNREAD_BYTES_MAX);
    if (connection->behind) {
        dirty(sched, connection);
    } else if (bytes > 0) {
        spend(sched, connection->api, 1 + bytes / 4096); /* it will be looked at from its beginning again */
    }
    if (connection->fd >= 0 && !keep(connection, at, bytes)) {
        hang_up(sched, connection);
    }
}

static void at_end(struct sched *sched, struct api_connection *connection) {
    if (connection->in_body) {
        cut(sched, connection); /* whoever closed only his half still hears it */
    } else if (connection->output.bytes == 0 || connection->waits) {
        hang_up(sched, connection);
    } else {
        connection->closing = true;
        dirty(sched, connection);
    }
}

/* Bytes, 0: none now or none any more. */
static uint32_t receive(struct sched *sched, struct api_connection *connection, uint8_t *at, uint32_t room) {
    const ssize_t got = recv(connection->fd, at, room, MSG_DONTWAIT);
    if (got == 0) {
        at_end(sched, connection);
    } else if (got < 0 && errno != EAGAIN && errno != EINTR) {
        hang_up(sched, connection);
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
            finish(sched, connection, body->data, connection->body_bytes, body);
        }
    }
    return got;
}

/* One read and what it brought. The core is told before anybody else reads: an answer may lie in the scratch. */
static bool read_connection(struct sched *sched, struct api_connection *connection) {
    uint32_t got;
    if (connection->in_body && connection->body != NULL && !connection->head.chunked && !connection->discard) {
        got = read_body(sched, connection);
        spend(sched, connection->api, got > 0 && got < SMALL_READ_BYTES);
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
                    hang_up(sched, connection);
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
        dirty(sched, connection);
    }
    if ((connection->watched & EPOLLIN) == 0 || connection->waits) {
        if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
            hang_up(sched, connection); /* half an end is one too, for who waits */
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
        dirty(sched, connection);
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
            return;
        }
        const int yes = 1;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        spend(sched, api, 1);
        uint32_t slot = 0;
        while (slot < API_CONNECTIONS_MAX && api->connections[slot] != NULL) {
            slot++;
        }
        struct api_connection *connection = slot == API_CONNECTIONS_MAX ? NULL : calloc(1, sizeof *connection);
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
        if (!watch(sched, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP, SOURCE_API, index_of(connection))) {
            hang_up(sched, connection);
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
    channel->api = api;
    return true;
}

void api_stop(struct sched *sched, struct channel *channel) {
    struct api *api = channel->api;
    if (api->stopped) {
        return;
    }
    api->stopped = true;
    unwatch(sched, api->listen_fd);
    api->listen_fd = -1;
    for (uint32_t i = 0; i < API_CONNECTIONS_MAX; i++) {
        if (api->connections[i] != NULL && api->connections[i]->fd >= 0) {
            unwatch(sched, api->connections[i]->fd);
            api->connections[i]->fd = -1;
            dirty(sched, api->connections[i]);
        }
    }
    api->waiting = NULL;
}

void api_hear_out(struct sched *sched, struct channel *channel) {
    struct api *api = channel->api;
    for (uint32_t i = 0; i < API_CONNECTIONS_MAX; i++) {
        for (int reads = 0; reads < LAST_READS_MAX; reads++) {
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
    free(api->arn);
    free(api);
    channel->api = NULL;
}
