/* api_extension.c: the Extensions API (2020-01-01): who registers, what they are told, and when all of them are done.
 *
 * An extension is external (a program that the agent starts; its names came with SANDBOX_START) or internal (part of the runtime's
 * process). The sandbox is ready when the runtime and all of them wait, takes a call when the runtime and those that want to know of
 * calls do, and lingers behind an answer until they do again. One that fails takes the sandbox with it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "api_inside.h"
#include "json.h"
#include "json_walk.h"

enum { EVENT_ROOM = 512, TEXT_ROOM = 256 };

static struct api_extension *extension_by_id(struct api *api, const uint8_t id[16]) {
    for (uint32_t i = 0; i < api->extensions_count; i++) {
        if (memcmp(api->extensions[i].id, id, 16) == 0) {
            return &api->extensions[i];
        }
    }
    return NULL;
}

static bool is_launched(const struct api *api, const char *name) {
    for (uint32_t i = 0; i < api->launched_count; i++) {
        if (strcmp(api->launched[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* ---- registering ------------------------------------------------------------------------------------------------------ */

static bool name_byte(uint8_t c) {
    return c > ' ' && c < 0x7f && c != '"' && c != '\\' && c != '/';
}

void api_begin_register(struct sched *sched, struct api_connection *connection) {
    (void)sched;
    const struct http_slice name = connection->head.extension_name, features = connection->head.features;
    bool good = name.at != NULL && name.size > 0 && name.size <= API_EXTENSION_NAME_BYTES_MAX;
    for (uint32_t i = 0; good && i < name.size; i++) {
        good = name_byte(name.at[i]);
    }
    if (!good) {
        api_refuse(connection, 403, "Extension.InvalidExtensionName", "Lambda-Extension-Name has 1 to %d visible characters",
                   API_EXTENSION_NAME_BYTES_MAX);
        return;
    }
    memcpy(connection->name, name.at, name.size);
    connection->name[name.size] = '\0';
    connection->wants_account = features.at != NULL && memmem(features.at, features.size, "accountId", 9) != NULL;
}

/* false: refused. */
static bool read_events(struct api_connection *connection, const uint8_t *at, uint32_t bytes, struct api_extension *out) {
    size_t wrong;
    const struct json_value events = bytes > 0 && json_valid(at, bytes, &wrong) ? json_member(json_root(at, bytes), "events")
                                                                               : (struct json_value){0};
    if (!json_is(events, '[')) {
        api_refuse(connection, 400, "InvalidRequestFormat", "The body is no object with a list of events");
        return false;
    }
    for (struct json_value event = json_next(events, (struct json_value){0}); event.at != NULL; event = json_next(events, event)) {
        char text[16];
        if (json_text(event, text, sizeof text) < 0 || (strcmp(text, "INVOKE") != 0 && strcmp(text, "SHUTDOWN") != 0)) {
            api_refuse(connection, 403, "Extension.InvalidEventType", "There are two events, INVOKE and SHUTDOWN");
            return false;
        }
        out->invoke = out->invoke || *text == 'I';
        out->shutdown = out->shutdown || *text == 'S';
    }
    if (out->shutdown && !out->external) {
        api_refuse(connection, 403, "Extension.InvalidEventType", "SHUTDOWN is not told to internal extensions");
        return false;
    }
    return true;
}

void api_register(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes) {
    struct api *api = connection->api;
    const struct function_info *info = info_of(sched, api->channel->function);
    struct api_extension fresh = {.state = EXTENSION_REGISTERED, .external = is_launched(api, connection->name)};
    for (uint32_t i = 0; i < api->extensions_count; i++) {
        if (strcmp(api->extensions[i].name, connection->name) == 0) {
            api_refuse(connection, 403, "Extension.AlreadyRegistered", "An extension of this name is registered");
            return;
        }
    }
    if (api->channel->settled || api->state == API_FAILED) {
        api_refuse(connection, 403, "Extension.RegistrationClosed", "Extensions register while the sandbox initialises, not after");
        return;
    }
    if (api->extensions_count == API_EXTENSIONS_MAX) {
        api_refuse(connection, 403, "Extension.TooManyExtensions", "There are at most %d extensions", API_EXTENSIONS_MAX);
        return;
    }
    if (!read_events(connection, at, bytes, &fresh)) {
        return;
    }
    memcpy(fresh.name, connection->name, sizeof fresh.name);
    request_id_new(sched, fresh.id);
    api->extensions[api->extensions_count++] = fresh;
    char id[37], account[64] = "", text[2048], name[512], version[128], handler[512];
    journal_uuid(fresh.id, id);
    json_quote(info == NULL ? "" : info->display, name, sizeof name);
    json_quote(info == NULL ? "" : info->version, version, sizeof version);
    json_quote(api->handler, handler, sizeof handler);
    if (connection->wants_account) {
        snprintf(account, sizeof account, ",\"accountId\":\"%.32s\"", api->account);
    }
    const int body = snprintf(text, sizeof text, "{\"functionName\":\"%s\",\"functionVersion\":\"%s\",\"handler\":\"%s\"%s}", name, version,
                              handler, account);
    char head[256];
    const int size = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Extension-Identifier: %s\r\n"
                              "%sContent-Length: %d\r\n\r\n", id, connection->close_after ? "Connection: close\r\n" : "", body);
    output_add(&sched->chunks, &connection->output, head, (size_t)size);
    output_add(&sched->chunks, &connection->output, text, (size_t)body);
    connection->closing = connection->closing || connection->close_after;
    api_dirty(sched, connection);
}

/* ---- events ----------------------------------------------------------------------------------------------------------- */

static int hex(uint8_t c) {
    return c >= '0' && c <= '9' ? c - '0' : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10 : -1;
}

void api_begin_event(struct sched *sched, struct api_connection *connection) {
    (void)sched;
    const struct http_slice text = connection->head.extension_id;
    uint8_t id[16] = {0};
    uint32_t digits = 0;
    for (uint32_t i = 0; i < text.size && digits < 33; i++) {
        const int digit = hex(text.at[i]);
        if (digit >= 0 && digits < 32) {
            id[digits / 2] = (uint8_t)(id[digits / 2] << 4 | digit);
            digits++;
        } else if (text.at[i] != '-' || digits == 32) {
            digits = 33; /* no identifier */
        }
    }
    connection->extension = digits == 32 ? extension_by_id(connection->api, id) : NULL;
    if (text.at == NULL) {
        api_refuse(connection, 403, "Extension.MissingHeader", "Lambda-Extension-Identifier is missing");
    } else if (digits != 32) {
        api_refuse(connection, 403, "Extension.InvalidExtensionIdentifier", "Lambda-Extension-Identifier is no identifier");
    } else if (connection->extension == NULL) {
        api_refuse(connection, 403, "Extension.UnknownExtensionIdentifier", "No extension here has this identifier");
    }
}

static void refuse_state(struct api_connection *connection, const struct api_extension *extension, const char *what) {
    api_refuse(connection, 403, "Extension.InvalidExtensionState", "State transition from %s to %s failed for extension",
               api_extension_state_name(extension->state), what);
}

static void send_event(struct sched *sched, struct api_extension *extension, const char *body, size_t bytes) {
    struct api_connection *connection = extension->waiting;
    uint8_t event_id[16];
    char id[37], head[320];
    request_id_new(sched, event_id);
    journal_uuid(event_id, id);
    const int size = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Extension-Event-Identifier: %s\r\n"
                              "%sContent-Length: %zu\r\n\r\n", id, connection->close_after ? "Connection: close\r\n" : "", bytes);
    output_add(&sched->chunks, &connection->output, head, (size_t)size);
    output_add(&sched->chunks, &connection->output, body, bytes);
    connection->closing = connection->closing || connection->close_after;
    connection->waits = false;
    extension->waiting = NULL;
    extension->state = api_extension_step(extension->state, EXTENSION_GIVEN).next;
    api_dirty(sched, connection);
}

static void tell_shutdown(struct sched *sched, const struct api *api, struct api_extension *extension) {
    char body[EVENT_ROOM];
    if (extension->shutdown && !extension->shutdown_told && extension->waiting != NULL) {
        extension->shutdown_told = true;
        const int size = snprintf(body, sizeof body, "{\"eventType\":\"SHUTDOWN\",\"shutdownReason\":\"%s\",\"deadlineMs\":%" PRIu64 "}",
                                  api->shutdown_reason, api->shutdown_by_ms);
        send_event(sched, extension, body, (size_t)size);
    }
}

bool api_extensions_done(const struct api *api) {
    for (uint32_t i = 0; i < api->extensions_count; i++) {
        if (api->extensions[i].invoke && api->extensions[i].state != EXTENSION_WAITING) {
            return false;
        }
    }
    return true;
}

bool api_keep_report(struct sched *sched, const struct ticket *ticket, const struct journal_record *head, const struct journal_end *end,
                     const struct journal_rest *rest) {
    const struct channel *channel = channel_find(sched, head->sandbox);
    const struct function_info *info = channel == NULL ? NULL : info_of(sched, channel->function);
    struct api *api = channel == NULL ? NULL : channel->api;
    if (api == NULL || info == NULL || api->stopped || !api->lingers || api->given_seq != ticket->seq || api->report_kept) {
        return false;
    }
    api->report_kept = true;
    api->report_head = *head;
    api->report_end = *end;
    api->report_rest_bytes = journal_rest_put(rest, api->report_rest);
    if (head->kind == JOURNAL_CALL) { /* what extensions write meanwhile stands behind its beginning */
        struct journal_record start = *head;
        start.kind = JOURNAL_START;
        api->report_head.kind = JOURNAL_END;
        if (journal_shows(info->look, JOURNAL_START, CORE_OK)) {
            journal_add(&sched->journal, info->journal, &start, api->report_rest, api->report_rest_bytes, NULL, 0);
        }
    }
    return true;
}

void api_write_report(struct sched *sched, struct api *api, bool timeout) {
    const struct function_info *info = info_of(sched, api->channel->function);
    if (!api->report_kept) {
        return;
    }
    api->report_kept = false;
    if (info == NULL || info->journal == NULL) {
        return;
    }
    api->report_end.run_ns = sched->now_ns > api->given_ns ? sched->now_ns - api->given_ns : 0;
    if (timeout) {
        api->report_head.outcome = CORE_TIMEOUT;
        api->report_end.run_ns = (uint64_t)info->timeout_ms * 1000000ULL;
    }
    journal_add(&sched->journal, info->journal, &api->report_head, &api->report_end, sizeof api->report_end, api->report_rest,
                api->report_rest_bytes);
}

void api_event_next(struct sched *sched, struct api_connection *connection) {
    struct api *api = connection->api;
    struct api_extension *extension = connection->extension;
    if (extension->waiting != NULL && !api_is_there(extension->waiting)) {
        api_hang_up(sched, extension->waiting);
    }
    const struct api_extension_step step = api_extension_step(extension->state, EXTENSION_WANT_NEXT);
    if (step.verdict != API_ACCEPT) {
        refuse_state(connection, extension, "Ready");
        return;
    }
    extension->state = step.next;
    extension->waiting = connection;
    connection->waits = true;
    if (api->ending) {
        tell_shutdown(sched, api, extension);
        return;
    }
    api_settle(sched, api);
    if (api->lingers && api_extensions_done(api)) {
        api->lingers = false;
        api_write_report(sched, api, false);
        api_tell_report(sched, api);
        channel_hand_back(sched, api->channel, api->given_seq);
    }
    api_give(sched, api);
}

void api_extension_hung_up(struct api *api, const struct api_connection *connection) {
    for (uint32_t i = 0; i < api->extensions_count; i++) {
        if (api->extensions[i].waiting == connection) {
            api->extensions[i].waiting = NULL;
            api->extensions[i].state = api_extension_step(api->extensions[i].state, EXTENSION_HUNG_UP).next;
        }
    }
}

void api_tell_invoke(struct sched *sched, struct api *api, const struct ticket *ticket, uint64_t deadline_ms) {
    struct ticket_ext ext[TICKET_EXTS];
    char id[37], body[4096];
    ticket_exts(ticket, ext);
    journal_uuid(ticket->request_id, id);
    const struct ticket_ext trace = ext[TICKET_EXT_TRACE];
    char arn[6 * 256 + 1], tracing[6 * 256 + 1], quoted[2 * sizeof tracing];
    const uint8_t *const name = ext[TICKET_EXT_ARN].at != NULL ? ext[TICKET_EXT_ARN].at : (const uint8_t *)api->arn;
    const size_t name_bytes = ext[TICKET_EXT_ARN].at != NULL ? ext[TICKET_EXT_ARN].size : strlen(api->arn);
    *api_put_value(arn, name, name_bytes < 256 ? name_bytes : 256) = '\0';
    *api_put_value(tracing, trace.at, trace.size < 256 ? trace.size : 256) = '\0';
    json_quote(tracing, quoted, sizeof quoted);
    int size = snprintf(body, sizeof body, "{\"eventType\":\"INVOKE\",\"deadlineMs\":%" PRIu64 ",\"requestId\":\"%s\",\"invokedFunctionArn\":\"%s\"",
                        deadline_ms, id, arn);
    if (trace.at != NULL) {
        size += snprintf(body + size, sizeof body - (size_t)size, ",\"tracing\":{\"type\":\"X-Amzn-Trace-Id\",\"value\":\"%.1024s\"}", quoted);
    }
    body[size++] = '}';
    api_tell_start(sched, api, trace.at == NULL ? "" : quoted);
    for (uint32_t i = 0; i < api->extensions_count; i++) {
        if (api->extensions[i].invoke) {
            send_event(sched, &api->extensions[i], body, (size_t)size);
        }
    }
}

/* ---- ready ------------------------------------------------------------------------------------------------------------ */

static void log_extensions(struct sched *sched, const struct api *api) {
    static const char *const events[] = {"", "INVOKE", "SHUTDOWN", "INVOKE, SHUTDOWN"};
    const struct function_info *info = info_of(sched, api->channel->function);
    for (uint32_t i = 0; info != NULL && info->journal != NULL && i < api->extensions_count; i++) {
        const struct api_extension *extension = &api->extensions[i];
        char text[TEXT_ROOM];
        const int size = snprintf(text, sizeof text, "EXTENSION\tName: %s\tState: Ready\tEvents: [%s]", extension->name,
                                  events[(extension->invoke ? 1 : 0) + (extension->shutdown ? 2 : 0)]);
        struct journal_record record = {.kind = JOURNAL_TEXT, .sandbox = api->channel->sandbox};
        journal_add(&sched->journal, info->journal, &record, text, (size_t)size, NULL, 0);
    }
}

void api_settle(struct sched *sched, struct api *api) {
    struct channel *channel = api->channel;
    uint32_t launched = 0;
    if (channel->settled || api->state != API_WAITING) {
        return;
    }
    for (uint32_t i = 0; i < api->extensions_count; i++) {
        launched += api->extensions[i].external;
        if (api->extensions[i].state != EXTENSION_WAITING) {
            return;
        }
    }
    if (launched == api->launched_count) {
        const uint64_t init_ns = sched->now_ns - channel->begun_ns;
        api->ready_ns = sched->now_ns;
        log_extensions(sched, api);
        api_tell_init(sched, api);
        channel_is_ready(sched, channel, (const uint8_t *)&init_ns, sizeof init_ns);
    }
}

/* ---- failures and the end --------------------------------------------------------------------------------------------- */

/* The answer that comes in is nobody's any more. */
static void void_response(struct api *api) {
    for (uint32_t i = 0; i < API_CONNECTIONS_MAX; i++) {
        struct api_connection *connection = api->connections[i];
        if (connection != NULL && connection->responds) {
            connection->responds = false;
            api_refuse(connection, 400, "InvalidRequestID", "Invalid request ID");
        }
    }
}

/* Without it nothing goes on: the call that runs is answered with its error, and the sandbox ended. text: free of what JSON escapes. */
static void fail(struct sched *sched, struct api *api, const char *type, const char *text, bool ends_itself) {
    struct channel *channel = api->channel;
    const bool runs = api->state == API_RUNNING || (api->state == API_RESPONDING && !api->lingers);
    char body[TEXT_ROOM + API_ERROR_TYPE_BYTES_MAX + 128], id[37];
    if (api->state == API_FAILED || api->ending) {
        return;
    }
    if (!channel->settled) {
        const int size = snprintf(body, sizeof body, "{\"errorType\":\"%s\",\"errorMessage\":\"Error: %s\"}", type, text);
        api->state = api_step(api->state, API_FAIL).next;
        channel_init_error(sched, channel, (const uint8_t *)body, (uint32_t)size);
        return;
    }
    void_response(api);
    api->state = api_step(api->state, API_FAIL).next;
    api->id_known = false;
    journal_uuid(api->id, id);
    const struct function_info *info = info_of(sched, channel->function);
    if (info != NULL && info->journal != NULL) {
        struct journal_record record = {.kind = JOURNAL_TEXT, .sandbox = channel->sandbox};
        const int size = snprintf(body, sizeof body, "RequestId: %s Error: %s\n%s", id, text, type);
        journal_add(&sched->journal, info->journal, &record, body, (size_t)size, NULL, 0);
    }
    if (runs && !api->lingers) {
        struct block *made = block_new(sizeof body, &sched->payload_bytes);
        SCHED_ASSERT(made != NULL);
        const int size = snprintf((char *)made->data, made->capacity, "{\"errorType\":\"%s\",\"errorMessage\":\"RequestId: %s Error: %s\"}", type, id, text);
        snprintf(api->error_type, sizeof api->error_type, "%.127s", type);
        api_answer(sched, api, CORE_REPLY_FUNCTION_ERROR, made->data, (uint32_t)size, made, true);
        block_release(made);
    }
    if (!ends_itself) {
        channel_give_up(sched, channel, CORE_CAUSE_NONE, 0);
    }
}

void api_extension_error(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes) {
    (void)at;
    (void)bytes;
    struct api *api = connection->api;
    struct api_extension *extension = connection->extension;
    const bool init = connection->head.route == ROUTE_EXTENSION_INIT_ERROR;
    const struct api_extension_step step = api_extension_step(extension->state, init ? EXTENSION_WANT_INIT_ERROR : EXTENSION_WANT_EXIT_ERROR);
    if (step.verdict != API_ACCEPT) {
        refuse_state(connection, extension, init ? "InitError" : "ExitError");
        return;
    }
    if (extension->waiting != NULL) {
        api_hang_up(sched, extension->waiting);
    }
    extension->state = step.next;
    api_say_accepted(sched, connection);
    api_flush(sched, connection); /* what follows ends the sandbox */
    fail(sched, api, init ? "Extension.InitError" : "Extension.ExitError", connection->error_type, false);
}

bool api_extension_ended(struct sched *sched, struct channel *channel, const uint8_t *body, uint32_t bytes) {
    size_t wrong;
    char event[16], reason[TEXT_ROOM / 2], text[TEXT_ROOM];
    uint64_t status = 0, number = 0;
    if (bytes == 0 || !json_valid(body, bytes, &wrong)) {
        return false;
    }
    const struct json_value root = json_root(body, bytes);
    if (json_text(json_member(root, "event"), event, sizeof event) < 0 ||
        !json_count(json_member(root, "status"), 255, &status) || !json_count(json_member(root, "signal"), 64, &number)) {
        return false;
    }
    if (strcmp(event, "launch") == 0) {
        (void)json_quote(json_text(json_member(root, "reason"), reason, sizeof reason) < 0 ? "" : reason, text, sizeof text);
        fail(sched, channel->api, "Extension.LaunchError", text, true);
        return true;
    }
    if (strcmp(event, "crash") == 0) {
        snprintf(text, sizeof text, "signal: %s", journal_signal((int32_t)number));
    } else if (strcmp(event, "exit") == 0) {
        snprintf(text, sizeof text, "exit status %u", (unsigned)status);
    } else {
        return false;
    }
    fail(sched, channel->api, "Extension.Crash", text, true);
    return true;
}

bool api_runtime_ended(struct channel *channel, const uint8_t *body, uint32_t bytes) {
    struct api *api = channel->api;
    size_t wrong;
    uint64_t status = 0, number = 0;
    if (bytes == 0 || api->runtime_cause != CORE_CAUSE_NONE || !json_valid(body, bytes, &wrong)) {
        return false;
    }
    const struct json_value root = json_root(body, bytes);
    if (!json_count(json_member(root, "status"), 255, &status) || !json_count(json_member(root, "signal"), 64, &number)) {
        return false;
    }
    api->runtime_cause = number > 0 ? CORE_CAUSE_SIGNAL : CORE_CAUSE_EXIT;
    api->runtime_status = (int32_t)(number > 0 ? number : status);
    return true;
}

/* What it said before still counts. One that never was ready ends at once, as it did: its end tells. */
void api_runtime_over(struct sched *sched, struct channel *channel) {
    struct api *api = channel->api;
    api->runtime_told = true;
    api_hear_out(sched, channel);
    if (channel->gone || channel->killed || api->ending) {
        return;
    }
    if (!channel->able) {
        channel_send_stop(sched, channel, 0);
        return;
    }
    (void)logs_read_output(sched, channel); /* its last words, before the call's END */
    channel_give_up(sched, channel, api->runtime_cause, api->runtime_status);
}

uint32_t api_shutdown(struct sched *sched, struct channel *channel, enum core_why why) {
    struct api *api = channel->api;
    bool external = false;
    if (api->extensions_count == 0 || api->state == API_FAILED) {
        return 0;
    }
    switch (why) {
    case CORE_WHY_IDLE: case CORE_WHY_REVISION: case CORE_WHY_REMOVED: case CORE_WHY_RETIRED: case CORE_WHY_RECYCLED:
        api->shutdown_reason = "spindown";
        break;
    case CORE_WHY_TIMEOUT:
        api->shutdown_reason = "timeout";
        break;
    case CORE_WHY_PROTOCOL:
        if (api->runtime_told) {
            api->shutdown_reason = "failure";
            break;
        }
        return 0;
    case CORE_WHY_NONE: case CORE_WHY_INIT_TIMEOUT: case CORE_WHY_EVICTED: case CORE_WHY_INIT_FAILED:
        return 0; /* somebody waits for what it holds, or it is not to be trusted with time */
    }
    for (uint32_t i = 0; i < api->extensions_count; i++) {
        external = external || api->extensions[i].external;
    }
    const uint32_t budget_ms = external ? API_STOP_EXTERNAL_MS : API_STOP_INTERNAL_MS;
    if (api->state == API_RUNNING || (api->state == API_RESPONDING && !api->lingers)) {
        api_tell_done(sched, api, api->runtime_told ? "failure" : "timeout", api->runtime_told ? "Runtime.ExitError" : NULL, 0);
        api_tell_report(sched, api);
    } else if (api->lingers) {
        api_write_report(sched, api, why == CORE_WHY_TIMEOUT);
        api_tell_report(sched, api);
    }
    api->ending = true;
    api->id_known = false; /* of a call whose time is up: its answer comes too late */
    void_response(api);
    api->state = api_step(api->state, API_FAIL).next;
    api->shutdown_by_ms = api_wall_ms() + budget_ms;
    for (uint32_t i = 0; i < api->extensions_count; i++) {
        tell_shutdown(sched, api, &api->extensions[i]);
    }
    return budget_ms;
}
