/* answer.c: what a caller is told. PROTOCOL: result = [payload, report | nil], or an error map; times in the report are
 * microseconds with three decimals, so that its parts add up to the whole exactly. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "answer.h"
#include "api.h"
#include "pack.h"
#include "reactor.h"
#include "trace.h"

enum {
    SMALL_PAYLOAD = 8 * 1024,
    FRAME_HEAD = 16,
    REPORT_MAX = 2048 + TAIL_BYTES   /* every key with its value, the trace header, and the log's tail */
};

static void used(struct output *output, const uint8_t *from, const uint8_t *to) {
    output_commit(output, (size_t)(to - from));
}

static uint8_t *frame_head(uint8_t *at, uint32_t msgid) {
    return pack_uint(pack_u8(pack_array(at, 4), 1), msgid);
}

static uint8_t *pack_bytes(uint8_t *at, const void *data, size_t size) {
    at = pack_bin_head(at, (uint32_t)size);
    memcpy(at, data, size);
    return at + size;
}

static uint8_t *pack_us(uint8_t *at, const char *key, uint64_t ns) {
    return pack_double(pack_str(at, key), (double)ns / 1000.0);
}

static uint8_t *pack_uuid(uint8_t *at, const uint8_t id[16]) {
    char text[37];
    journal_uuid(id, text);
    return pack_str(at, text);
}

/* ---- the journal's part ---------------------------------------------------------------------------------------------- */

bool answer_ran(const struct core_action *answer) {
    switch ((enum core_outcome)answer->outcome) {
    case CORE_OK: case CORE_FUNCTION_ERROR: case CORE_TIMEOUT: case CORE_SANDBOX_DIED: case CORE_TOO_LARGE:
        return answer->sandbox != 0;
    case CORE_INIT_FAILED: case CORE_THROTTLED: case CORE_DEADLINE: case CORE_NOT_FOUND: case CORE_UNAVAILABLE:
    case CORE_CANCELLED: case CORE_INTERNAL: case CORE_OUTCOMES:
        return false;
    }
    return false;
}

static uint64_t run_ns(const struct core_action *answer, const struct function_info *info, uint64_t now_ns) {
    if (answer->outcome == CORE_TIMEOUT) {
        return (uint64_t)info->timeout_ms * 1000000ULL;
    }
    return answer->start_ns == 0 ? 0 : (answer->end_ns != 0 ? answer->end_ns : now_ns) - answer->start_ns;
}

static bool restored(const struct core_action *answer, const struct function_info *info) {
    return answer->tier == CORE_TIER_SNAPSHOT && (info->traits & SCHED_TRAIT_SNAPSTART) != 0;
}

static struct journal_record record_of(const struct core_action *answer, const struct ticket *ticket, struct journal_end *end,
                                       const struct function_info *info, uint64_t now_ns) {
    struct journal_record record = {.kind = ticket->logged_start ? JOURNAL_END : JOURNAL_CALL,
                                    .outcome = (uint8_t)answer->outcome, .cause = (uint8_t)answer->cause,
                                    .look = info->look | (restored(answer, info) ? SCHED_LOOK_RESTORED : 0), .sandbox = answer->sandbox};
    memcpy(record.request_id, ticket->request_id, 16);
    *end = (struct journal_end){.run_ns = run_ns(answer, info, now_ns), .init_ns = answer->tier != CORE_TIER_WARM ? answer->init_ns : 0,
                                .memory_mb = info->memory_mb, .memory_peak_mb = answer->memory_peak_mb,
                                .timeout_ms = info->timeout_ms, .status = answer->status};
    return record;
}

static struct journal_rest rest_of(const struct function_info *info, const struct ticket *ticket) {
    const struct rpc_slice trace = ticket->traced ? ticket_trace(ticket) : (struct rpc_slice){0};
    SCHED_ASSERT(trace.size <= TRACE_TEXT_MAX);
    return (struct journal_rest){.version = info->version, .version_bytes = strlen(info->version),
                                 .trace = trace.at == NULL ? "" : (const char *)trace.at, .trace_bytes = trace.size,
                                 .guest = info->guest, .guest_bytes = strlen(info->guest)};
}

/* ---- report ----------------------------------------------------------------------------------------------------------- */

size_t answer_log_tail(struct sched *sched, const struct core_action *answer, const struct ticket *ticket,
                       const struct function_info *info, char out[TAIL_BYTES]) {
    char last[2048];
    struct journal_end end;
    struct journal_record record = record_of(answer, ticket, &end, info, sched->now_ns);
    record.time_ns = journal_now_ns();
    const struct journal_rest rest = rest_of(info, ticket);
    const size_t last_bytes = journal_render_end(last, sizeof last, &record, &end, &rest);
    char first[512];
    const size_t first_bytes = journal_render_start(first, sizeof first, &record, &rest);
    const struct channel *channel = channel_find(sched, answer->sandbox);
    size_t logged = channel != NULL && channel->tail != NULL && channel->tail_seq == ticket->seq ? channel->tail_bytes : 0;
    SCHED_ASSERT(last_bytes <= TAIL_BYTES);
    const size_t room = TAIL_BYTES - last_bytes;
    size_t at = 0;
    if (first_bytes + logged <= room) {
        memcpy(out, first, first_bytes);
        at = first_bytes;
    }
    /* The tail is a ring: the last TAIL_BYTES of what was logged. */
    const size_t kept = logged < TAIL_BYTES ? logged : TAIL_BYTES;
    const size_t take = kept < room - at ? kept : room - at;
    for (size_t i = 0; i < take; i++) {
        out[at + i] = (char)channel->tail[(logged - take + i) % TAIL_BYTES];
    }
    at += take;
    memcpy(out + at, last, last_bytes);
    return at + last_bytes;
}

static uint8_t *pack_report(struct sched *sched, uint8_t *at, const struct core_action *answer, const struct ticket *ticket,
                            const struct function_info *info) {
    static const char *const tiers[] = {NULL, "snapshot", "shell", "fresh"};
    const uint64_t now = sched->now_ns;
    const bool cold = answer->tier != CORE_TIER_WARM && answer->tier <= CORE_TIER_FRESH;
    const bool started = answer->start_ns != 0;
    const uint64_t start = started ? answer->start_ns : now;
    const uint64_t end = answer->end_ns != 0 ? answer->end_ns : now;
    const uint64_t init = answer->init_ns < start - answer->arrive_ns ? answer->init_ns : start - answer->arrive_ns;
    const uint64_t accept = answer->arrive_ns > ticket->read_ns ? answer->arrive_ns - ticket->read_ns : 0;
    const uint64_t sent = ticket->sent_ns >= answer->arrive_ns && ticket->sent_ns <= start ? ticket->sent_ns : start;
    char sandbox[24];
    snprintf(sandbox, sizeof sandbox, "%016" PRIx64, answer->sandbox);
    const bool has_tail = ticket->log_tail && answer_ran(answer);
    const struct rpc_slice trace = ticket_trace(ticket);
    at = pack_map(at, 11 + (cold ? 2U : 1U) + (has_tail ? 1U : 0U) + (trace.at != NULL ? 1U : 0U));
    at = pack_uuid(pack_str(at, "request_id"), ticket->request_id);
    at = pack_str(pack_str(at, "version"), info->version);
    at = answer->sandbox != 0 ? pack_str(pack_str(at, "sandbox"), sandbox) : pack_nil(pack_str(at, "sandbox"));
    at = pack_us(at, "queue_us", start - answer->arrive_ns - init);
    if (cold) {
        at = pack_us(at, "init_us", init);
    }
    at = pack_us(at, "run_us", end - start);
    at = pack_us(at, "overhead_us", accept + (now - end));
    at = pack_us(at, "total_us", now - (answer->arrive_ns - accept));
    /* Where queue and overhead went: read to accepted, waiting to be sent, sent to started, ended to answered. */
    at = pack_map(pack_str(at, "stages"), 4);
    at = pack_us(at, "accept_us", accept);
    at = pack_us(at, "wait_us", sent - answer->arrive_ns);
    at = pack_us(at, "channel_us", start - sent);
    at = pack_us(at, "return_us", now - end);
    at = pack_uint(pack_str(at, "billed_ms"), started ? journal_billed_ms(run_ns(answer, info, now), cold && !restored(answer, info) ? init : 0) : 0);
    at = pack_uint(pack_str(at, "memory_peak_mb"), answer->memory_peak_mb);
    at = pack_us(at, "cpu_us", answer->cpu_ns);
    at = pack_str(at, "cold");
    at = cold ? pack_str(at, tiers[answer->tier]) : pack_nil(at);
    if (trace.at != NULL) {
        at = pack_str(at, "trace");
        at = pack_str_head(at, trace.size);
        memcpy(at, trace.at, trace.size);
        at += trace.size;
    }
    if (has_tail) {
        char tail[TAIL_BYTES];
        const size_t bytes = answer_log_tail(sched, answer, ticket, info, tail);
        at = pack_bytes(pack_str(at, "log_tail"), tail, bytes);
    }
    return at;
}

/* ---- errors ----------------------------------------------------------------------------------------------------------- */

const char *answer_resource_name(uint16_t resource) {
    static const char *const names[CORE_RESOURCES] = {"concurrency", "memory", "queued_calls", "queued_bytes", "rate", "cpu"};
    return resource < CORE_RESOURCES ? names[resource] : "unknown";
}

static void say(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(struct error *error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
}

static void died(struct error *error, const struct core_action *answer, const char *id) {
    error->type = "SandboxDied";
    error->payload_type = answer->cause == CORE_CAUSE_OOM ? "Runtime.OutOfMemory" : "Runtime.ExitError";
    switch ((enum core_cause)answer->cause) {
    case CORE_CAUSE_EXIT:
        error->reason = "exit";
        if (answer->status == 0) {
            say(error, "RequestId: %s Error: Runtime exited without providing a reason", id);
        } else {
            say(error, "RequestId: %s Error: Runtime exited with error: exit status %" PRId32, id, answer->status);
        }
        break;
    case CORE_CAUSE_SIGNAL:
        error->reason = "signal";
        say(error, "RequestId: %s Error: Runtime exited with error: signal: %s", id, journal_signal(answer->status));
        break;
    case CORE_CAUSE_OOM:
        error->reason = "oom";
        say(error, "RequestId: %s Error: Runtime exited with error: signal: killed (out of memory)", id);
        break;
    case CORE_CAUSE_PROTOCOL:
        error->reason = "protocol";
        say(error, "RequestId: %s Error: Runtime broke the channel's protocol and was ended", id);
        break;
    case CORE_CAUSE_NONE: case CORE_CAUSE_KILLED: case CORE_CAUSE_LAUNCH_FAILED:
        error->reason = "signal";
        say(error, "RequestId: %s Error: Runtime exited with error: signal: killed", id);
        break;
    }
}

static void init_failed(struct error *error, const struct core_action *answer, const struct function_info *info) {
    error->type = "InitFailed";
    if (answer->cause == CORE_CAUSE_LAUNCH_FAILED) {
        say(error, "no sandbox could be made for the function; the service's log has the failing step");
    } else if (answer->cause == CORE_CAUSE_EXIT) {
        say(error, "the function's code exited with status %" PRId32 " while it was loaded", answer->status);
    } else if (answer->cause == CORE_CAUSE_OOM) {
        say(error, "the function ran out of memory while it was loaded");
    } else if (answer->cause == CORE_CAUSE_SIGNAL) {
        say(error, "the function's code was ended by a signal while it was loaded: %s", journal_signal(answer->status));
    } else if (answer->cause == CORE_CAUSE_KILLED) {
        say(error, "loading the function's code took longer than the init limit");
    } else {
        say(error, "the function's code could not be loaded%s", info->init_error != NULL ? "; payload has the error" : "");
    }
}

void answer_describe(struct sched *sched, struct error *error, const struct core_action *answer, const struct function_info *info,
                     const char *id) {
    char buffer[24];
    switch ((enum core_outcome)answer->outcome) {
    case CORE_OK: case CORE_OUTCOMES: case CORE_INTERNAL:
        error->type = "Internal";
        say(error, "the service broke its own rules for this call");
        break;
    case CORE_FUNCTION_ERROR:
        error->type = "FunctionError";
        say(error, "the function raised an error; payload has it");
        break;
    case CORE_TOO_LARGE:
        error->type = "TooLarge";
        say(error, "Response payload size exceeded maximum allowed payload size (%u bytes).", sched->config.answer_bytes_max);
        break;
    case CORE_TIMEOUT:
        error->type = "Timeout";
        error->payload_type = "Sandbox.Timedout";
        say(error, "RequestId: %s Error: Task timed out after %u.%02u seconds", id, info->timeout_ms / 1000,
            info->timeout_ms % 1000 / 10);
        break;
    case CORE_SANDBOX_DIED:
        died(error, answer, id);
        break;
    case CORE_INIT_FAILED:
        init_failed(error, answer, info);
        break;
    case CORE_THROTTLED:
        error->type = "Throttled";
        error->account = error->retry = true;
        say(error, "%s: %s at its limit, %" PRId64 " of %" PRId64 "; retry after %" PRIu64 " ms",
            account_name(sched, answer->account, buffer), answer_resource_name(answer->resource), answer->current, answer->max,
            (answer->retry_after_ns + 999999) / 1000000);
        break;
    case CORE_DEADLINE:
        error->type = "DeadlineExceeded";
        error->retry = true;
        say(error, "the caller's deadline passed before the function could start");
        break;
    case CORE_NOT_FOUND:
        error->type = "NotFound";
        say(error, "Function not found: it was removed while the call waited");
        break;
    case CORE_UNAVAILABLE:
        error->type = "Unavailable";
        say(error, "the service is shutting down");
        break;
    case CORE_CANCELLED:
        error->type = "Cancelled";
        say(error, "the caller cancelled the call before it ran");
        break;
    }
}

/* Lambda's error object for what no runtime could word. The message holds nothing that JSON would have to escape. */
static uint8_t *pack_made_payload(uint8_t *at, const struct error *error) {
    char json[MESSAGE_MAX + 96];
    const int size = snprintf(json, sizeof json, "{\"errorType\":\"%s\",\"errorMessage\":\"%s\"}", error->payload_type, error->message);
    SCHED_ASSERT(size > 0 && (size_t)size < sizeof json);
    return pack_bytes(at, json, (size_t)size);
}

static void send_error(struct sched *sched, struct client *client, const struct core_action *answer, const struct ticket *ticket,
                       const struct function_info *info, const struct reply *reply) {
    char id[37];
    journal_uuid(ticket->request_id, id);
    struct error error = {0};
    answer_describe(sched, &error, answer, info, id);
    const bool own = reply != NULL && (answer->outcome == CORE_FUNCTION_ERROR || answer->outcome == CORE_TOO_LARGE);
    const bool init = answer->outcome == CORE_INIT_FAILED && answer->cause == CORE_CAUSE_NONE && info->init_error != NULL;
    const bool payload = own || init || error.payload_type != NULL;
    uint8_t *const begin = output_room(&sched->chunks, &client->output, REPORT_MAX + 2 * MESSAGE_MAX + 1024);
    uint8_t *at = frame_head(begin, ticket->msgid);
    at = pack_map(at, 3U + (payload ? 1U : 0U) + (error.reason != NULL ? 1U : 0U) + (error.account ? 4U : 0U) +
                          (error.retry ? 1U : 0U) + (ticket->report ? 1U : 0U));
    at = pack_str(pack_str(at, "type"), error.type);
    at = pack_str(pack_str(at, "message"), error.message);
    at = pack_str(pack_str(at, "request_id"), id);
    if (error.reason != NULL) {
        at = pack_str(pack_str(at, "reason"), error.reason);
    }
    if (error.account) {
        char buffer[24];
        at = pack_str(pack_str(at, "account"), account_name(sched, answer->account, buffer));
        at = pack_str(pack_str(at, "resource"), answer_resource_name(answer->resource));
        at = pack_uint(pack_str(at, "current"), answer->current < 0 ? 0 : (uint64_t)answer->current);
        at = pack_uint(pack_str(at, "limit"), answer->max < 0 ? 0 : (uint64_t)answer->max);
    }
    if (error.retry) {
        at = pack_uint(pack_str(at, "retry_after_ms"), (answer->retry_after_ns + 999999) / 1000000);
    }
    if (ticket->report) {
        at = pack_report(sched, pack_str(at, "report"), answer, ticket, info);
    }
    if (!payload) {
        at = pack_nil(at);
        used(&client->output, begin, at);
        return;
    }
    at = pack_str(at, "payload");
    if (error.payload_type != NULL) {
        at = pack_nil(pack_made_payload(at, &error));
        used(&client->output, begin, at);
        return;
    }
    const uint8_t *data = own ? reply->at : info->init_error;
    const uint32_t bytes = own ? reply->bytes : info->init_error_bytes;
    at = pack_bin_head(at, bytes);
    used(&client->output, begin, at);
    output_add(&sched->chunks, &client->output, data, bytes);
    const uint8_t nil = 0xc0;
    output_add(&sched->chunks, &client->output, &nil, 1);
}

/* ---- results ---------------------------------------------------------------------------------------------------------- */

static void send_result(struct sched *sched, struct client *client, const struct core_action *answer, const struct ticket *ticket,
                        const struct function_info *info, const struct reply *reply) {
    const size_t tail_max = ticket->report ? REPORT_MAX : 1;
    const bool small = reply->bytes <= SMALL_PAYLOAD;
    uint8_t *begin = output_room(&sched->chunks, &client->output, FRAME_HEAD + PACK_HEAD_MAX + (small ? reply->bytes + tail_max : 0));
    uint8_t *at = pack_array(pack_nil(frame_head(begin, ticket->msgid)), 2);
    if (!reply->msgpack) {
        at = pack_bin_head(at, reply->bytes);
    }
    if (small) {
        memcpy(at, reply->at, reply->bytes);
        at += reply->bytes;
    } else {
        used(&client->output, begin, at);
        if (reply->block != NULL) {
            output_refer(&sched->chunks, &client->output, reply->block, reply->at, reply->bytes);
        } else {
            output_add(&sched->chunks, &client->output, reply->at, reply->bytes);
        }
        at = begin = output_room(&sched->chunks, &client->output, tail_max);
    }
    at = ticket->report ? pack_report(sched, at, answer, ticket, info) : pack_nil(at);
    used(&client->output, begin, at);
}

static void journal_end(struct sched *sched, const struct function_info *info, const struct ticket *ticket, struct journal_record *record,
                        const struct journal_end *end) {
    const struct journal_rest rest = rest_of(info, ticket);
    if (sched->apis > 0 && api_keep_report(sched, ticket, record, end, &rest)) {
        return; /* it is written once its extensions are done: they count */
    }
    if (rest.trace_bytes + rest.guest_bytes == 0) {
        journal_add(&sched->journal, info->journal, record, end, sizeof *end, rest.version, rest.version_bytes);
        return;
    }
    char bytes[JOURNAL_REST_MAX];
    journal_add(&sched->journal, info->journal, record, end, sizeof *end, bytes, journal_rest_put(&rest, bytes));
}

void answer_call(struct sched *sched, const struct core_action *answer, const struct reply *reply) {
    const uint32_t index = (uint32_t)answer->cookie;
    SCHED_ASSERT(index < sched->tickets_used && sched->tickets[index].live);
    struct ticket *ticket = &sched->tickets[index];
    static struct function_info unknown = {.display = "", .version = "", .tenant = "", .runtime = "", .guest = ""};
    struct function_info *info = info_of(sched, answer->function);
    if (info == NULL) {
        info = &unknown;
    }
    if (info->journal != NULL && answer_ran(answer)) {
        struct journal_end end;
        struct journal_record record = record_of(answer, ticket, &end, info, sched->now_ns);
        if (journal_shows(info->look, (enum journal_kind)record.kind, record.outcome)) {
            journal_end(sched, info, ticket, &record, &end);
        }
    }
    if (ticket->traced) {
        tracing_tell(sched, answer, ticket);
    }
    /* A running call that was cancelled is answered to nobody; one that never ran is told so. */
    const bool discarded = answer->cancelled != 0 && answer->outcome != CORE_CANCELLED;
    if (ticket->client != NO_INDEX && discarded) {
        client_dirty(sched, &sched->clients[ticket->client]); /* it may have waited for this to close */
    } else if (ticket->client != NO_INDEX) {
        struct client *client = &sched->clients[ticket->client];
        if (client->http) {
            web_answer(sched, client, answer, ticket, info, reply);
        } else if (answer->outcome == CORE_OK && reply != NULL) {
            send_result(sched, client, answer, ticket, info, reply);
        } else {
            send_error(sched, client, answer, ticket, info, reply);
        }
        client_dirty(sched, client);
    }
    ticket_free(sched, index);
}

void answer_error(struct sched *sched, struct client *client, uint32_t msgid, const char *type, const char *format, ...) {
    char text[MESSAGE_MAX];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    uint8_t *const begin = output_room(&sched->chunks, &client->output, MESSAGE_MAX + 256);
    uint8_t *at = pack_map(frame_head(begin, msgid), 2);
    at = pack_str(pack_str(at, "type"), type);
    at = pack_str(pack_str(at, "message"), text);
    used(&client->output, begin, pack_nil(at));
    client_dirty(sched, client);
}

void answer_throttled(struct sched *sched, struct client *client, uint32_t msgid, const char *resource, uint64_t current,
                      uint64_t limit) {
    enum { RETRY_AFTER_MS = 100 };
    char buffer[24];
    const char *const account = account_name(sched, 0, buffer);
    char text[MESSAGE_MAX];
    snprintf(text, sizeof text, "%s: %s at its limit, %" PRIu64 " of %" PRIu64 "; retry after %d ms", account, resource, current, limit,
             RETRY_AFTER_MS);
    uint8_t *const begin = output_room(&sched->chunks, &client->output, 2 * MESSAGE_MAX + 256);
    uint8_t *at = pack_map(frame_head(begin, msgid), 7);
    at = pack_str(pack_str(at, "type"), "Throttled");
    at = pack_str(pack_str(at, "message"), text);
    at = pack_str(pack_str(at, "account"), account);
    at = pack_str(pack_str(at, "resource"), resource);
    at = pack_uint(pack_str(at, "current"), current);
    at = pack_uint(pack_str(at, "limit"), limit);
    at = pack_uint(pack_str(at, "retry_after_ms"), RETRY_AFTER_MS);
    used(&client->output, begin, pack_nil(at));
    sched->stats.refused_requests++;
    client_dirty(sched, client);
}

void answer_dryrun(struct sched *sched, struct client *client, uint32_t msgid) {
    uint8_t id[16];
    request_id_new(sched, id);
    uint8_t *const begin = output_room(&sched->chunks, &client->output, 128);
    uint8_t *at = pack_nil(pack_array(pack_nil(frame_head(begin, msgid)), 2));
    at = pack_uuid(pack_str(pack_map(at, 1), "request_id"), id);
    used(&client->output, begin, at);
    client_dirty(sched, client);
}

void answer_respond(struct sched *sched, struct client *client, uint32_t msgid, bool result, const uint8_t *blob, size_t bytes) {
    uint8_t *const begin = output_room(&sched->chunks, &client->output, FRAME_HEAD + 1);
    uint8_t *at = frame_head(begin, msgid);
    if (result) {
        at = pack_nil(at);
    }
    used(&client->output, begin, at);
    output_add(&sched->chunks, &client->output, blob, bytes);
    if (!result) {
        const uint8_t nil = 0xc0;
        output_add(&sched->chunks, &client->output, &nil, 1);
    }
    if (client->methods > 0) { /* a service that answers twice must not be able to upset the books of calls */
        client->methods--;
    }
    client_dirty(sched, client);
}
