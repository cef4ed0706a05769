/* web.c: HTTP connections: requests of the hot path to calls, answers to bytes. The reader is http.c.
 *
 * One request at a time: what a client sends before it has its answer waits, so answers come in order by themselves. A request that
 * is not the hot path's, and one that is to be refused, is handed over: the connection leaves the loop with all that came of it,
 * and the slow side answers and gives it back. So there is one reading of every request, and one wording of every refusal.
 * Handed over is only who is owed nothing any more. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "answer.h"
#include "http.h"
#include "json.h"
#include "jsonpush.h"

enum {
    HEAD_ROOM = 512,
    TRACE_ROOM = 2048,
    SMALL_BODY = 8 * 1024,
    TAIL_TEXT = (TAIL_BYTES + 2) / 3 * 4
};

/* ---- requests --------------------------------------------------------------------------------------------------------- */

static int64_t wall_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec;
}

static bool may_invoke(struct sched *sched, const struct client *client, const struct http_request *request,
                       const struct function_info *info) {
    uint32_t rights = client->rights, tenant = client->tenant;
    if (info == NULL) {
        return false;
    }
    if (sched->config.http_signed != 0) {
        const struct sigv4_key *const key = sigv4_check(&sched->keys, request, wall_s());
        rights = key == NULL ? 0 : key->rights;
        tenant = key == NULL ? 0 : key->tenant;
    }
    return (rights & SCHED_RIGHT_INVOKE) != 0 && (tenant == 0 || info->tenant_number == 0 || tenant == info->tenant_number);
}

/* false: it is the slow side's. `owner` holds the body, which has been judged then; else NULL. */
static bool take(struct sched *sched, struct client *client, const struct http_request *request, struct block *owner) {
    static const uint8_t nothing[] = "{}";
    struct rpc_slice arn;
    const struct rpc_slice guest = {request->guest.at, request->guest.size};
    const uint64_t function = names_find_guest(sched, request->function, request->function_bytes, guest, &arn);
    const struct function_info *const info = info_of(sched, function);
    const bool nobodys = guest.at == NULL && info != NULL && (info->traits & SCHED_TRAIT_GUESTS) != 0;
    size_t wrong;
    if (nobodys || request->body.size > sched->config.payload_bytes_max || !may_invoke(sched, client, request, info) || (info != NULL && (info->traits & SCHED_TRAIT_LOCKED) != 0) ||
        (owner == NULL && request->body.size > 0 && !json_valid(request->body.at, request->body.size, &wrong))) {
        return false;
    }
    struct rpc_request call = {.report = request->log_tail, .log_tail = request->log_tail,
                               .payload = {request->body.at, request->body.size},
                               .trace = {request->trace.at, request->trace.size}, .guest = guest};
    if (call.payload.size == 0) {
        call.payload = (struct rpc_slice){nothing, 2}; /* what Lambda's runtimes see of an empty body */
    }
    if (!client_invoke(sched, client, &call, owner, function, arn)) {
        return false;
    }
    client->close_after = request->close;
    client->url_call = false;
    sched->stats.requests++;
    return true;
}

/* ---- large ones ---------------------------------------------------------------------------------------------------------- */

/* Each byte of a large body is judged when it comes: at the end nothing is left to do that would take long. */
struct upload {
    struct json_push json;
    struct sha256 sha;
    uint32_t judged; /* bytes, the head among them */
};

static void judge_more(struct sched *sched, struct client *client, struct upload *upload) {
    const uint8_t *const at = client->big->data + upload->judged;
    const uint32_t bytes = client->big_have - upload->judged;
    (void)json_push(&upload->json, at, bytes);
    if (sched->config.http_signed != 0) {
        sha256_add(&upload->sha, at, bytes);
    }
    upload->judged = client->big_have;
}

/* Whose head says that it may be run, and for whose body there is memory, goes on here. false: it is the slow side's. */
static bool begin_large(struct sched *sched, struct client *client, const uint8_t *at, uint32_t bytes,
                        const struct http_request *request) {
    struct rpc_slice arn;
    const bool may_be = sched->config.http_signed != 0 ? sigv4_may_be(&sched->keys, request) : (client->rights & SCHED_RIGHT_INVOKE) != 0;
    if (request->url || request->size - request->head_bytes > sched->config.payload_bytes_max || !may_be ||
        info_of(sched, names_find(sched, request->function, request->function_bytes, &arn)) == NULL) {
        return false;
    }
    struct upload *const upload = malloc(sizeof *upload);
    const uint32_t head = request->head_bytes;
    if (upload == NULL || !client_keep_large(sched, client, at, bytes, request->size)) {
        free(upload);
        return false;
    }
    client->upload = upload;
    upload->judged = head;
    json_push_begin(&upload->json);
    sha256_begin(&upload->sha);
    if (client->partial_since_ns == 0) {
        client->partial_since_ns = sched->now_ns;
    }
    judge_more(sched, client, upload);
    client_dirty(sched, client); /* flush() decides whether more is read */
    return true;
}

static bool take_large(struct sched *sched, struct client *client, struct block *big, uint32_t bytes, const struct upload *upload) {
    struct http_request request;
    uint8_t digest[SHA256_BYTES];
    char hex[2 * SHA256_BYTES];
    if (!json_push_whole(&upload->json) || http_read(big->data, bytes, bytes, &request) != HTTP_INVOKE) {
        return false;
    }
    if (sched->config.http_signed != 0) {
        struct sha256 sha = upload->sha;
        sha256_end(&sha, digest);
        sha256_hex(digest, hex);
        request.body_hex = hex;
    }
    return take(sched, client, &request, big);
}

void web_upload(struct sched *sched, struct client *client) {
    struct upload *const upload = client->upload;
    SCHED_ASSERT(upload != NULL && client->big_have <= client->scan.need);
    judge_more(sched, client, upload);
    const bool whole = client->big_have == client->scan.need;
    if (!whole && upload->json.state != JSON_PUSH_BAD) {
        return;
    }
    struct block *const big = client->big;
    const uint32_t bytes = client->big_have;
    client->big = NULL;
    client->upload = NULL;
    client_drop_partial(client);
    if (!whole || !take_large(sched, client, big, bytes, upload)) {
        client_hand_over(sched, client, big->data, bytes);
    }
    free(upload);
    block_release(big);
}

/* ---- bytes --------------------------------------------------------------------------------------------------------------- */

static void wait_for_more(struct sched *sched, struct client *client, const uint8_t *at, uint32_t bytes) {
    if (!client_keep(client, at, bytes)) {
        client_kill(sched, client);
        return;
    }
    client_dirty(sched, client); /* flush() decides whether more is read */
}

void web_parse(struct sched *sched, struct client *client, const uint8_t *at, uint32_t bytes) {
    struct http_request request;
    client->scan.need = 0;
    while (bytes > 0) {
        if (client->calls > 0 || client->output.bytes > 0) {
            client->partial_since_ns = 0;
            wait_for_more(sched, client, at, bytes);
            return;
        }
        const enum http_verdict verdict = http_read(at, bytes, HTTP_HEAD_BYTES_MAX + sched->config.payload_bytes_max, &request);
        if (verdict == HTTP_MORE && request.size > STASH_BYTES_MAX) {
            if (!begin_large(sched, client, at, bytes, &request)) {
                client_hand_over(sched, client, at, bytes);
            }
            return;
        }
        if (verdict == HTTP_MORE) {
            if (client->partial_since_ns == 0) {
                client->partial_since_ns = sched->now_ns;
            }
            client->scan.need = request.size;
            wait_for_more(sched, client, at, bytes);
            return;
        }
        client->partial_since_ns = 0;
        const bool taken = verdict == HTTP_URL ? request.size <= STASH_BYTES_MAX && url_take(sched, client, &request)
                                               : verdict == HTTP_INVOKE && take(sched, client, &request, NULL);
        if (!taken) {
            client_hand_over(sched, client, at, bytes);
            return;
        }
        at += request.size;
        bytes -= request.size;
    }
    if (client->stash != NULL) {
        client_drop_partial(client);
    }
}

void web_resume(struct sched *sched) {
    uint32_t index = sched->resuming_clients;
    sched->resuming_clients = NO_INDEX;
    while (index != NO_INDEX) {
        struct client *client = &sched->clients[index];
        index = client->resuming_next;
        client->resuming = false;
        if (client->fd < 0 || client->dead || client->stash_bytes == 0) {
            continue;
        }
        /* Into the scratch: what is left of it goes back into the stash. */
        const uint32_t bytes = client->stash_bytes;
        memcpy(sched->scratch, client->stash, bytes);
        client->stash_bytes = 0;
        web_parse(sched, client, sched->scratch, bytes);
    }
}

void web_give_up(struct sched *sched, struct client *client) {
    static const char text[] = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    output_add(&sched->chunks, &client->output, text, sizeof text - 1);
    client_dirty(sched, client);
}

/* ---- answers ---------------------------------------------------------------------------------------------------------- */

struct status {
    unsigned code;
    const char *reason;
    const char *error; /* Lambda's name; NULL: the function's own failure, which is an answer */
    const char *key;   /* how its body spells the message */
    const char *fault; /* whose */
};

static const struct status ok = {200, "OK", NULL, NULL, NULL};

static const struct status *status_of(const struct core_action *answer) {
    static const struct status throttled = {429, "Too Many Requests", "TooManyRequestsException", "message", "User"};
    static const struct status gone = {404, "Not Found", "ResourceNotFoundException", "Message", "User"};
    static const struct status unavailable = {503, "Service Unavailable", "ServiceUnavailableException", "Message", "Server"};
    static const struct status broken = {500, "Internal Server Error", "ServiceException", "Message", "Server"};
    switch ((enum core_outcome)answer->outcome) {
    case CORE_OK: case CORE_FUNCTION_ERROR: case CORE_TIMEOUT: case CORE_SANDBOX_DIED: case CORE_INIT_FAILED: case CORE_TOO_LARGE:
        return &ok;
    case CORE_THROTTLED:
        return &throttled;
    case CORE_NOT_FOUND:
        return &gone;
    case CORE_DEADLINE: case CORE_UNAVAILABLE:
        return &unavailable;
    case CORE_CANCELLED: case CORE_INTERNAL: case CORE_OUTCOMES:
        return &broken;
    }
    return &broken;
}

static size_t base64(const char *in, size_t bytes, char *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t at = 0;
    for (size_t i = 0; i < bytes; i += 3) {
        const uint32_t a = (uint8_t)in[i], b = i + 1 < bytes ? (uint8_t)in[i + 1] : 0, c = i + 2 < bytes ? (uint8_t)in[i + 2] : 0;
        const uint32_t word = a << 16 | b << 8 | c;
        out[at++] = digits[word >> 18];
        out[at++] = digits[word >> 12 & 63];
        out[at++] = i + 1 < bytes ? digits[word >> 6 & 63] : '=';
        out[at++] = i + 2 < bytes ? digits[word & 63] : '=';
    }
    return at;
}

/* As a JSON text's inside. `room` holds it: six bytes for each at worst. */
static size_t quoted(const char *in, char *out, size_t room) {
    size_t at = 0;
    for (; *in != '\0' && at + 7 < room; in++) {
        if (*in == '"' || *in == '\\') {
            out[at++] = '\\';
            out[at++] = *in;
        } else if ((uint8_t)*in < 0x20) {
            at += (size_t)snprintf(out + at, 7, "\\u%04x", (unsigned)(uint8_t)*in);
        } else {
            out[at++] = *in;
        }
    }
    out[at] = '\0';
    return at;
}

static const char *throttle_reason(struct sched *sched, const struct core_action *answer) {
    char buffer[24];
    const bool own = strncmp(account_name(sched, answer->account, buffer), "function:", 9) == 0;
    if (answer->resource == CORE_CONCURRENCY) {
        return own ? "ReservedFunctionConcurrentInvocationLimitExceeded" : "ConcurrentInvocationLimitExceeded";
    }
    if (answer->resource == CORE_RATE) {
        return own ? "FunctionInvocationRateLimitExceeded" : "CallerRateLimitExceeded";
    }
    return "ConcurrentInvocationLimitExceeded";
}

/* The body of an error, or of a function's failure that no runtime worded. */
static size_t make_body(struct sched *sched, const struct status *status, const struct core_action *answer, const struct error *error,
                        char *out, size_t room) {
    char text[6 * MESSAGE_MAX + 8];
    quoted(error->message, text, sizeof text);
    int size;
    if (status->error == NULL) {
        size = snprintf(out, room, "{\"errorType\":\"%s\",\"errorMessage\":\"%s\"}",
                        error->payload_type != NULL ? error->payload_type : error->type, text);
    } else if (answer->outcome == CORE_THROTTLED) {
        size = snprintf(out, room, "{\"Reason\":\"%s\",\"Type\":\"User\",\"message\":\"Rate Exceeded.\"}",
                        throttle_reason(sched, answer));
    } else {
        size = snprintf(out, room, "{\"Type\":\"%s\",\"%s\":\"%s\"}", status->fault, status->key, text);
    }
    SCHED_ASSERT(size > 0 && (size_t)size < room);
    return (size_t)size;
}

static char *put(char *at, const char *text) {
    const size_t size = strlen(text);
    memcpy(at, text, size);
    return at + size;
}

static char *put_printable(char *at, const char *text) {
    for (; *text != '\0'; text++) {
        *at++ = *text >= ' ' && *text <= '~' ? *text : '?';
    }
    return at;
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

void web_answer(struct sched *sched, struct client *client, const struct core_action *answer, const struct ticket *ticket,
                const struct function_info *info, const struct reply *reply) {
    if (client->url_call) {
        url_answer(sched, client, answer, ticket, reply);
        return;
    }
    const struct status *const status = status_of(answer);
    char id[37], made[7 * MESSAGE_MAX], tail[TAIL_BYTES];
    struct error error = {0};
    journal_uuid(ticket->request_id, id);
    const uint8_t *body = NULL;
    size_t bytes = 0;
    const bool own = reply != NULL && status->error == NULL;
    if (own && (answer->outcome == CORE_OK || answer->outcome == CORE_FUNCTION_ERROR || answer->outcome == CORE_TOO_LARGE)) {
        body = reply->at;
        bytes = reply->bytes;
    } else if (answer->outcome == CORE_INIT_FAILED && answer->cause == CORE_CAUSE_NONE && info->init_error != NULL) {
        body = info->init_error;
        bytes = info->init_error_bytes;
    } else {
        answer_describe(sched, &error, answer, info, id);
        bytes = make_body(sched, status, answer, &error, made, sizeof made);
        body = (const uint8_t *)made;
    }
    const bool has_tail = ticket->log_tail && answer_ran(answer);
    const struct rpc_slice trace = ticket_trace(ticket);
    const bool small = bytes <= SMALL_BODY;
    char *const begin = (char *)output_room(&sched->chunks, &client->output,
                                            HEAD_ROOM + VERSION_BYTES_MAX + (answer->outcome == CORE_THROTTLED ? (size_t)MESSAGE_MAX : 0) + (trace.at != NULL ? (size_t)TRACE_ROOM : 0) + (has_tail ? (size_t)TAIL_TEXT : 0) + (small ? bytes : 0));
    char *at = put(put_number(put(begin, "HTTP/1.1 "), status->code), " ");
    at = put(put(at, status->reason), "\r\nContent-Type: application/json\r\nx-amzn-RequestId: ");
    at = put(put(at, id), "\r\n");
    if (status->error != NULL) {
        at = put(put(put(at, "x-amzn-ErrorType: "), status->error), "\r\n");
    } else {
        at = put(put(put(at, "X-Amz-Executed-Version: "), info->version), "\r\n");
        if (answer->outcome != CORE_OK) {
            at = put(at, "X-Amz-Function-Error: Unhandled\r\n");
        }
    }
    if (answer->outcome == CORE_THROTTLED) {
        const uint64_t seconds = (answer->retry_after_ns + 500000000ULL) / 1000000000ULL;
        at = put(put_number(put(at, "Retry-After: "), seconds == 0 ? 1 : seconds), "\r\n");
        at = put(put_printable(put(at, "x-scheduler-refused-by: "), error.message), "\r\n");
    }
    if (trace.at != NULL) {
        at = put(at, "X-Amzn-Trace-Id: ");
        memcpy(at, trace.at, trace.size);
        at = put(at + trace.size, "\r\n");
    }
    if (has_tail) {
        const size_t logged = answer_log_tail(sched, answer, ticket, info, tail);
        at = put(at, "X-Amz-Log-Result: ");
        at += base64(tail, logged, at);
        at = put(at, "\r\n");
    }
    if (client->close_after) {
        at = put(at, "Connection: close\r\n");
        client->closing = true;
    }
    at = put(put_number(put(at, "Content-Length: "), bytes), "\r\n\r\n");
    if (small) {
        memcpy(at, body, bytes);
        at += bytes;
    }
    output_commit(&client->output, (size_t)(at - begin));
    if (!small && reply != NULL && reply->block != NULL && body == reply->at) {
        output_refer(&sched->chunks, &client->output, reply->block, body, bytes);
    } else if (!small) {
        output_add(&sched->chunks, &client->output, body, bytes);
    }
}
