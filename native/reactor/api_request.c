/* api_request.c: requests to the Runtime API: what each wants, whether it may, and what becomes of its body. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "api_inside.h"
#include "json.h"

/* ---- requests --------------------------------------------------------------------------------------------------------- */

bool api_is_there(const struct api_connection *connection) {
    uint8_t byte;
    const ssize_t got = recv(connection->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

static void on_next(struct sched *sched, struct api_connection *connection) {
    struct api *api = connection->api;
    if (api->waiting != NULL && !api_is_there(api->waiting)) {
        api_hang_up(sched, api->waiting);
    }
    const struct api_step step = api_step(api->state, API_WANT_NEXT);
    if (step.verdict != API_ACCEPT) {
        api_refuse_step(connection, &step, API_WANT_NEXT);
        return;
    }
    api->state = step.next;
    api->id_known = false;
    api->waiting = connection;
    connection->waits = true;
    api->asked_ns = api->asked_ns == 0 ? sched->now_ns : api->asked_ns;
    api_settle(sched, api);
    api_give(sched, api);
}

static void on_ping(struct sched *sched, struct api_connection *connection) {
    api_say(sched, connection, 200, "OK", "text/plain", "pong");
    api_spend(sched, connection->api, 1);
}

static void on_unknown(struct sched *sched, struct api_connection *connection) {
    (void)sched;
    api_refuse(connection, 404, "NotFound", "There is no such path");
}

static void on_method(struct sched *sched, struct api_connection *connection) {
    (void)sched;
    api_refuse(connection, 405, "MethodNotAllowed", "The path is there, the method is not");
}

static void on_restore(struct sched *sched, struct api_connection *connection) {
    (void)sched;
    api_refuse(connection, 403, "InvalidStateTransition", "This sandbox was not made from an image");
}

/* The beginning of an answer: may it? Its body is read in any case. */
static void begin_answer(struct sched *sched, struct api_connection *connection) {
    struct api *api = connection->api;
    const bool own = api->id_known && connection->head.id_good && memcmp(api->id, connection->head.id, sizeof api->id) == 0;
    const enum api_want want = own ? API_WANT_RESPOND : API_WANT_RESPOND_OTHER;
    const struct http_slice mode = connection->head.mode;
    const struct api_step step = api_step(api->state, want);
    if (step.verdict != API_ACCEPT) {
        api_refuse_step(connection, &step, want);
        return;
    }
    if (connection->head.route == ROUTE_RESPONSE && mode.at != NULL && !api_equals(mode, "streaming") && !api_equals(mode, "buffered")) {
        api_refuse(connection, 400, "Runtime.InvalidResponseModeHeader", "Lambda-Runtime-Function-Response-Mode is streaming, or left out");
        return;
    }
    api->state = step.next;
    api->response_ns = sched->now_ns;
    connection->responds = true;
    connection->streams = connection->head.route == ROUTE_RESPONSE && mode.at != NULL && api_equals(mode, "streaming") &&
                          api_stream_begin(sched, connection);
    connection->body_max = connection->streams ? API_STREAM_BYTES_MAX : connection->body_max;
}

static void begin_init_error(struct sched *sched, struct api_connection *connection) {
    (void)sched;
    const struct api_step step = api_step(connection->api->state, API_WANT_INIT_ERROR);
    if (step.verdict != API_ACCEPT) {
        api_refuse_step(connection, &step, API_WANT_INIT_ERROR);
    }
}

void api_answer(struct sched *sched, struct api *api, uint32_t status, const uint8_t *at, uint32_t bytes, struct block *owner,
                bool lingers) {
    struct channel *channel = api->channel;
    api->lingers = lingers;
    static const uint8_t nil = 0xc0;
    const bool streamed = at == NULL; /* its pieces are with the caller: what is left is nil */
    const struct core_reply_event reply = {.lingers = lingers, .sandbox = channel->sandbox, .start_ns = api->given_ns, .end_ns = clock_ns(),
                                           .seq = api->given_seq, .status = status};
    channel->output_looked = false;
    logs_before_answer(sched, channel);
    channel_answer(sched, channel, &reply, streamed ? &nil : at, streamed ? 1 : bytes, owner, streamed);
    if (api->types != 0) {
        const bool good = status == CORE_REPLY_OK;
        api_tell_done(sched, api, good ? "success" : "error", good ? NULL : api->error_type, streamed ? api->produced_bytes : bytes);
        if (!lingers) {
            api_tell_report(sched, api);
        }
    }
}

static void answer(struct sched *sched, struct api *api, uint32_t status, const uint8_t *at, uint32_t bytes, struct block *owner) {
    api_answer(sched, api, status, at, bytes, owner, !api_extensions_done(api));
}

void api_answer_error(struct sched *sched, struct api *api, enum core_reply_status status, const char *type, const char *text) {
    snprintf(api->error_type, sizeof api->error_type, "%.127s", type);
    struct block *made = block_new(512, &sched->payload_bytes);
    SCHED_ASSERT(made != NULL);
    const int size = snprintf((char *)made->data, made->capacity, "{\"errorMessage\":\"%.256s\",\"errorType\":\"%.128s\"}", text, type);
    answer(sched, api, status, made->data, (uint32_t)size, made);
    block_release(made);
}

/* The runtime's error object, or one of ours where it is none: callers are promised JSON. */
static void answer_error_object(struct sched *sched, struct api *api, const char *type, const uint8_t *at, uint32_t bytes,
                                struct block *owner) {
    size_t wrong;
    snprintf(api->error_type, sizeof api->error_type, "%.127s", type);
    if (bytes > 0 && json_valid(at, bytes, &wrong)) {
        answer(sched, api, CORE_REPLY_FUNCTION_ERROR, at, bytes, owner);
        return;
    }
    api_answer_error(sched, api, CORE_REPLY_FUNCTION_ERROR, type, "");
}

static void answer_too_large(struct sched *sched, struct api_connection *connection) {
    char text[128];
    snprintf(text, sizeof text, "Response payload size exceeded maximum allowed payload size (%u bytes).", connection->body_max);
    api_answer_error(sched, connection->api, CORE_REPLY_TOO_LARGE, "Function.ResponseSizeTooLarge", text);
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
        answer(sched, api, CORE_REPLY_OK, connection->streams ? NULL : at, bytes, owner);
    }
    api_say_accepted(sched, connection);
}

static void end_init_error(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes) {
    struct api *api = connection->api;
    struct channel *channel = api->channel;
    /* Another may have been faster while this one's body came. */
    const struct api_step step = api_step(api->state, API_WANT_INIT_ERROR);
    size_t wrong;
    if (step.verdict != API_ACCEPT) {
        api_refuse_step(connection, &step, API_WANT_INIT_ERROR);
        api_say_refusal(sched, connection);
        return;
    }
    api->state = step.next;
    api_say_accepted(sched, connection);
    api_flush(sched, connection); /* what follows ends the sandbox */
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
    void (*begin)(struct sched *sched, struct api_connection *connection); /* may refuse; NULL: nothing to ask */
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
    [ROUTE_REGISTER] = {.begin = api_begin_register, .body = api_register, .body_max = API_EXTENSION_BODY_BYTES_MAX},
    [ROUTE_EVENT_NEXT] = {.begin = api_begin_event, .whole = api_event_next},
    [ROUTE_EXTENSION_INIT_ERROR] = {.begin = api_begin_event, .body = api_extension_error, .body_max = API_EXTENSION_BODY_BYTES_MAX},
    [ROUTE_EXTENSION_EXIT_ERROR] = {.begin = api_begin_event, .body = api_extension_error, .body_max = API_EXTENSION_BODY_BYTES_MAX},
    [ROUTE_TELEMETRY] = {.begin = api_begin_event, .body = api_subscribe, .body_max = API_EXTENSION_BODY_BYTES_MAX},
    [ROUTE_LOGS] = {.begin = api_begin_event, .body = api_subscribe, .body_max = API_EXTENSION_BODY_BYTES_MAX},
};

static void too_large(struct sched *sched, struct api_connection *connection) {
    connection->too_large = true;
    api_refuse(connection, 413, "RequestEntityTooLarge", "Exceeded maximum allowed payload size (%u bytes).", connection->body_max);
    if (connection->responds) {
        answer_too_large(sched, connection);
    }
    block_release(connection->body);
    connection->body = NULL;
    connection->body_bytes = 0;
}

/* The request is whole. `at`: its body, in `owner` if that is not NULL. */
void api_finish(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes, struct block *owner) {
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
        api_say_refusal(sched, connection);
    }
    api_drop_body(connection);
}

void api_begin(struct sched *sched, struct api_connection *connection) {
    const struct route *const route = &routes[connection->head.route];
    connection->discard = route->body_max == 0;
    connection->discarded = 0;
    connection->refused = 0;
    connection->too_large = connection->streams = false;
    connection->sent_bytes = 0;
    connection->close_after = connection->head.close;
    connection->left = connection->head.length;
    connection->chunks = (struct api_chunks){0};
    connection->body_max = route->body_max == UINT32_MAX ? sched->config.answer_bytes_max : route->body_max;
    connection->in_body = true;
    api_error_type_copy(connection->head.error_type, connection->error_type);
    if (route->begin != NULL) {
        route->begin(sched, connection);
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
            api_stop_responding(sched, connection);
        } else {
            static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
            output_add(&sched->chunks, &connection->output, text, sizeof text - 1);
            api_dirty(sched, connection);
        }
    }
    /* Slices end with the bytes they are of. */
    connection->head.error_type = connection->head.mode = connection->head.content_type = connection->head.extension_name =
        connection->head.extension_id = connection->head.features = (struct http_slice){0};
}

/* false: the connection is over. */
static bool add(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes) {
    if (connection->streams && !connection->discard && bytes <= connection->body_max - connection->sent_bytes) {
        connection->sent_bytes += bytes;
        api_stream_add(sched, connection, at, bytes);
        return true;
    }
    if (!connection->discard && bytes > connection->body_max - (connection->streams ? connection->sent_bytes : connection->body_bytes)) {
        too_large(sched, connection);
    }
    if (connection->discard) {
        const uint64_t before = connection->discarded;
        connection->discarded += bytes;
        api_spend(sched, connection->api, (uint32_t)(connection->discarded / API_DISCARD_BYTES_A_CREDIT - before / API_DISCARD_BYTES_A_CREDIT));
        if (connection->discarded > API_DISCARD_BYTES_MAX) {
            connection->close_after = true;
            api_stop_responding(sched, connection);
            api_say_refusal(sched, connection);
            api_drop_body(connection);
            return false;
        }
        return true;
    }
    const uint32_t wanted = connection->body_bytes + bytes;
    struct block *body = connection->body;
    if (!connection->responds && connection->api->bodies_bytes > API_BODIES_BYTES_MAX) {
        too_large(sched, connection);
        return true;
    }
    if (body == NULL) {
        const uint64_t known = connection->head.chunked ? 4096 : connection->head.length;
        body = block_new(known > wanted ? (uint32_t)known : wanted, &sched->payload_bytes);
    } else if (wanted > body->capacity) {
        const uint64_t twice = 2ULL * body->capacity < connection->body_max ? 2ULL * body->capacity : connection->body_max;
        body = block_grow(body, twice > wanted ? (uint32_t)twice : wanted);
    }
    if (body == NULL) {
        api_hang_up(sched, connection);
        return false;
    }
    if (!connection->responds) {
        connection->api->bodies_bytes += body->capacity - connection->body_counted;
        connection->body_counted = body->capacity;
    }
    memcpy(body->data + connection->body_bytes, at, bytes);
    connection->body = body;
    connection->body_bytes = wanted;
    return true;
}

static bool add_trailer(struct sched *sched, struct api_connection *connection, struct http_slice piece) {
    if (!connection->responds) {
        return true; /* nobody asks for them */
    }
    uint8_t *grown = realloc(connection->trailers, connection->trailers_bytes + piece.size);
    if (grown == NULL) {
        api_hang_up(sched, connection);
        return false;
    }
    connection->trailers = grown;
    memcpy(grown + connection->trailers_bytes, piece.at, piece.size);
    connection->trailers_bytes += piece.size;
    return true;
}

void api_cut(struct sched *sched, struct api_connection *connection) {
    api_stop_responding(sched, connection);
    connection->close_after = true;
    if (connection->refused == 0) {
        api_refuse(connection, 400, "TruncatedHTTPRequest", "HTTP request detected as truncated");
    }
    api_say_refusal(sched, connection);
    api_drop_body(connection);
}

void api_not_http(struct sched *sched, struct api_connection *connection, bool too_long) {
    connection->close_after = true;
    if (too_long) {
        api_refuse(connection, 431, "RequestHeaderFieldsTooLarge", "A request's head has at most %d bytes", API_HEAD_BYTES_MAX);
    } else {
        api_refuse(connection, 400, "BadRequest", "This is not HTTP/1.1");
    }
    api_say_refusal(sched, connection);
}

/* Of a chunked body: bytes done with. */
uint32_t api_take_chunks(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes) {
    uint32_t used = 0;
    for (;;) {
        size_t taken;
        struct http_slice piece;
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
            api_finish(sched, connection, connection->body == NULL ? at : connection->body->data, connection->body_bytes, connection->body);
            return used;
        case API_PIECE_BROKEN:
            api_stop_responding(sched, connection);
            api_drop_body(connection);
            api_not_http(sched, connection, false);
            return bytes;
        }
    }
}

/* Of a body of known length. in_place: the bytes stay where they are until the next step of the core. */
uint32_t api_take_known(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes, bool in_place) {
    const uint32_t part = connection->left < bytes ? (uint32_t)connection->left : bytes;
    if (connection->body == NULL && part == connection->left && (in_place || part == 0) && !connection->discard && !connection->streams) {
        connection->left = 0;
        api_finish(sched, connection, at, part, NULL);
        return part;
    }
    if (part > 0 && !add(sched, connection, at, part)) {
        return bytes;
    }
    connection->left -= part;
    if (connection->left == 0) {
        api_finish(sched, connection, connection->body == NULL ? at : connection->body->data, connection->body_bytes, connection->body);
    }
    return part;
}

