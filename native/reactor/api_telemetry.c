/* api_telemetry.c: the Telemetry API (2022-07-01) and the Logs API (2020-08-15) before it: extensions subscribe, and are told of what
 * the sandbox and its function do.
 *
 * Checked here, made into records here, gathered and delivered by the agent inside the sandbox, whose words TELEMETRY frames are
 * (channel.md, Programs). An agent that does not read its channel loses records, which are counted and told; nothing waits for it. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "api_inside.h"
#include "json.h"
#include "json_walk.h"
#include "pack_json.h"

enum {
    PROTOCOL_HTTP = 1, PROTOCOL_TCP = 2,
    API_PORT = 9001,               /* that of the Runtime API itself */
    HOST_BYTES_MAX = 128,
    PATH_BYTES_MAX = 1024,
    RECORD_ROOM = 2048,            /* of those that we word */
    LINE_BYTES_MAX = 32 << 10,     /* of a log, in one record: six times as long at worst, and still a frame */
    RECORD_COST = 256,             /* in bytes of log: a line is a record, however short it is */
    UNREAD_BYTES_MAX = 1 << 20     /* records that the agent has not taken; more are lost */
};

/* ---- subscribing ------------------------------------------------------------------------------------------------------ */

struct subscription {
    uint8_t types;
    uint8_t protocol;
    uint32_t max_items;
    uint32_t max_bytes;
    uint32_t timeout_ms;
    uint16_t port;
    char host[HOST_BYTES_MAX + 1];
    char path[PATH_BYTES_MAX + 1];
};

/* NULL: good. Else which field, and what it may be. */
static const char *read_types(struct json_value list, struct subscription *out) {
    if (!json_is(list, '[')) {
        return "types: a list of platform, function, extension";
    }
    for (struct json_value type = json_next(list, (struct json_value){0}); type.at != NULL; type = json_next(list, type)) {
        char text[16];
        if (json_text(type, text, sizeof text) < 0) {
            return "types: platform, function, extension";
        }
        const uint8_t bit = strcmp(text, "platform") == 0    ? TELEMETRY_PLATFORM
                            : strcmp(text, "function") == 0  ? TELEMETRY_FUNCTION
                            : strcmp(text, "extension") == 0 ? TELEMETRY_EXTENSION : 0;
        if (bit == 0) {
            return "types: platform, function, extension";
        }
        out->types |= bit;
    }
    return out->types == 0 ? "types: at least one" : NULL;
}

static bool read_bound(struct json_value buffering, const char *key, uint32_t low, uint32_t high, uint32_t *out) {
    const struct json_value value = json_member(buffering, key);
    uint64_t count = 0;
    if (value.at == NULL) {
        return true;
    }
    if (!json_count(value, high, &count) || count < low) {
        return false;
    }
    *out = (uint32_t)count;
    return true;
}

static const char *read_buffering(struct json_value buffering, struct subscription *out) {
    out->max_items = 10000;
    out->max_bytes = 262144;
    out->timeout_ms = 1000;
    if (buffering.at != NULL && !json_is(buffering, '{')) {
        return "buffering: an object";
    }
    if (!read_bound(buffering, "maxItems", 1000, 10000, &out->max_items)) {
        return "buffering.maxItems: 1000 to 10000";
    }
    if (!read_bound(buffering, "maxBytes", 262144, 1048576, &out->max_bytes)) {
        return "buffering.maxBytes: 262144 to 1048576";
    }
    return read_bound(buffering, "timeoutMs", 25, 30000, &out->timeout_ms) ? NULL : "buffering.timeoutMs: 25 to 30000";
}

/* http://HOST:PORT/PATH */
static const char *read_uri(const char *uri, struct subscription *out) {
    static const char scheme[] = "http://";
    static const char wrong[] = "destination.URI: http://sandbox.localdomain:PORT with a path";
    if (strncmp(uri, scheme, sizeof scheme - 1) != 0) {
        return wrong;
    }
    const char *const host = uri + sizeof scheme - 1;
    const char *const colon = strchr(host, ':');
    if (colon == NULL || (size_t)(colon - host) > HOST_BYTES_MAX) {
        return wrong;
    }
    snprintf(out->host, sizeof out->host, "%.*s", (int)(colon - host), host);
    if (strcmp(out->host, "sandbox.localdomain") != 0 && strcmp(out->host, "sandbox") != 0) {
        return wrong;
    }
    char *end;
    const unsigned long port = colon[1] >= '0' && colon[1] <= '9' ? strtoul(colon + 1, &end, 10) : 0;
    if (port < 1 || port > 65535 || (*end != '\0' && *end != '/')) {
        return wrong;
    }
    if (port == API_PORT) {
        return "destination.URI: port 9001 is the Runtime API's";
    }
    out->port = (uint16_t)port;
    snprintf(out->path, sizeof out->path, "%s", *end == '\0' ? "/" : end);
    for (const char *c = out->path; *c != '\0'; c++) {
        if (*c <= ' ' || *c >= 0x7f) {
            return wrong;
        }
    }
    return NULL;
}

static const char *read_destination(struct json_value destination, struct subscription *out) {
    char protocol[16] = "", text[PATH_BYTES_MAX + HOST_BYTES_MAX];
    uint64_t port = 0;
    if (!json_is(destination, '{') || json_text(json_member(destination, "protocol"), protocol, sizeof protocol) < 0) {
        return "destination.protocol: HTTP or TCP";
    }
    const struct json_value encoding = json_member(destination, "encoding"), method = json_member(destination, "method");
    if (encoding.at != NULL && (json_text(encoding, text, sizeof text) < 0 || strcmp(text, "JSON") != 0)) {
        return "destination.encoding: JSON";
    }
    if (method.at != NULL && (json_text(method, text, sizeof text) < 0 || strcmp(text, "POST") != 0)) {
        return "destination.method: POST";
    }
    if (strcmp(protocol, "HTTP") == 0) {
        out->protocol = PROTOCOL_HTTP;
        return json_text(json_member(destination, "URI"), text, sizeof text) < 0 ? "destination.URI: is missing, or too long" : read_uri(text, out);
    }
    out->protocol = PROTOCOL_TCP;
    if (strcmp(protocol, "TCP") != 0) {
        return "destination.protocol: HTTP or TCP";
    }
    if (!json_count(json_member(destination, "port"), 65535, &port) || port < 1) {
        return "destination.port: 1 to 65535";
    }
    out->port = (uint16_t)port;
    return port == API_PORT ? "destination.port: 9001 is the Runtime API's" : NULL;
}

static const char *read_schema(struct json_value version, bool logs) {
    static const char *const ours[] = {"2022-07-01", "2022-12-13", "2025-01-29"}, *const old[] = {"2020-08-15", "2021-03-18"};
    char text[16];
    if (version.at == NULL) {
        return logs ? NULL : "schemaVersion: is missing";
    }
    if (json_text(version, text, sizeof text) < 0) {
        text[0] = '\0';
    }
    for (size_t i = 0; i < (logs ? 2 : 3); i++) {
        if (strcmp(text, logs ? old[i] : ours[i]) == 0) {
            return NULL;
        }
    }
    return logs ? "schemaVersion: 2020-08-15 or 2021-03-18" : "schemaVersion: 2022-07-01, 2022-12-13 or 2025-01-29";
}

static const char *read_subscription(struct json_value root, bool logs, struct subscription *out) {
    if (!json_is(root, '{')) {
        return "the body is no object";
    }
    const char *wrong = read_schema(json_member(root, "schemaVersion"), logs);
    wrong = wrong != NULL ? wrong : read_types(json_member(root, "types"), out);
    wrong = wrong != NULL ? wrong : read_buffering(json_member(root, "buffering"), out);
    return wrong != NULL ? wrong : read_destination(json_member(root, "destination"), out);
}

/* The frame's body, as channel.md has it. */
static size_t put_subscription(uint8_t *at, uint8_t number, const struct subscription *given) {
    const uint8_t head[4] = {number, given->types, given->protocol, 0};
    const uint16_t port[2] = {given->port, 0};
    memcpy(at, head, 4);
    memcpy(at + 4, &given->max_items, 4);
    memcpy(at + 8, &given->max_bytes, 4);
    memcpy(at + 12, &given->timeout_ms, 4);
    memcpy(at + 16, port, 4);
    const size_t host = strlen(given->host) + 1, path = strlen(given->path) + 1;
    memcpy(at + 20, given->host, host);
    memcpy(at + 20 + host, given->path, path);
    return 20 + host + path;
}

void api_subscribe(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes) {
    struct api *api = connection->api;
    struct api_extension *extension = connection->extension;
    const bool logs = connection->head.route == ROUTE_LOGS;
    struct subscription given = {0};
    size_t end;
    if (api->channel->settled) {
        api_refuse(connection, 403, logs ? "Logs.SubscriptionClosed" : "Telemetry.SubscriptionClosed",
                   "Extensions subscribe while the sandbox initialises, not after");
        return;
    }
    if (extension->types != 0 && extension->logs_api != logs) {
        api_refuse(connection, 403, "Telemetry.AlreadySubscribed", "An extension uses the Telemetry API or the Logs API, not both");
        return;
    }
    const char *wrong = bytes > 0 && json_valid(at, bytes, &end) ? read_subscription(json_root(at, bytes), logs, &given) : "the body is no JSON";
    if (wrong != NULL) {
        api_refuse(connection, 400, "ValidationError", "%s", wrong);
        return;
    }
    if (api->channel->output.bytes > UNREAD_BYTES_MAX) {
        api_refuse(connection, 403, "Telemetry.Busy", "What was subscribed before is not taken yet");
        return;
    }
    api_spend(sched, api, 1);
    if (given.protocol == PROTOCOL_TCP) {
        strcpy(given.host, "sandbox.localdomain");
    }
    extension->types = given.types;
    extension->logs_api = logs;
    api->types |= given.types;
    uint8_t body[20 + HOST_BYTES_MAX + PATH_BYTES_MAX + 2];
    channel_telemetry(sched, api->channel, true, body, put_subscription(body, (uint8_t)(extension - api->extensions), &given), NULL, 0);
    api_say(sched, connection, 200, "OK", "application/json", "\"OK\"");
}

/* ---- records ---------------------------------------------------------------------------------------------------------- */

/* Of a moment of the monotonic clock. */
static void iso_time(const struct sched *sched, uint64_t at_ns, char out[32]) {
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    const uint64_t ns = (uint64_t)wall.tv_sec * 1000000000ULL + (uint64_t)wall.tv_nsec - (sched->now_ns > at_ns ? sched->now_ns - at_ns : 0);
    const time_t seconds = (time_t)(ns / 1000000000ULL);
    struct tm parts;
    char text[24] = "";
    if (gmtime_r(&seconds, &parts) != NULL) {
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
    }
    snprintf(out, 32, "%s.%03uZ", text, (unsigned)(ns / 1000000 % 1000));
}

static void send_record(struct sched *sched, struct api *api, uint8_t type, const void *text, size_t bytes) {
    const uint32_t size = (uint32_t)bytes;
    uint8_t head[8] = {type};
    memcpy(head + 4, &size, 4);
    channel_telemetry(sched, api->channel, false, head, sizeof head, text, bytes);
}

static void tell_dropped(struct sched *sched, struct api *api) {
    char text[RECORD_ROOM], now[32];
    iso_time(sched, sched->now_ns, now);
    const int size = snprintf(text, sizeof text, "{\"time\":\"%s\",\"type\":\"platform.logsDropped\",\"record\":{\"reason\":\"the subscriber does not "
                              "keep up\",\"droppedRecords\":%" PRIu64 ",\"droppedBytes\":%" PRIu64 "}}", now, api->dropped_records, api->dropped_bytes);
    api->dropped_records = api->dropped_bytes = 0;
    send_record(sched, api, TELEMETRY_PLATFORM, text, (size_t)size);
}

static bool has_room(struct sched *sched, struct api *api, size_t bytes) {
    if (api->channel->output.bytes + bytes > UNREAD_BYTES_MAX) {
        api->dropped_records++;
        api->dropped_bytes += bytes;
        return false;
    }
    if (api->dropped_records > 0 && api->channel->output.bytes < UNREAD_BYTES_MAX / 2) {
        tell_dropped(sched, api);
    }
    return true;
}

static void tell(struct sched *sched, struct api *api, uint64_t at_ns, const char *type, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* format: of what stands between the braces of "record". */
static void tell(struct sched *sched, struct api *api, uint64_t at_ns, const char *type, const char *format, ...) {
    char text[RECORD_ROOM], when[32];
    iso_time(sched, at_ns, when);
    int size = snprintf(text, sizeof text, "{\"time\":\"%s\",\"type\":\"platform.%s\",\"record\":{", when, type);
    va_list arguments;
    va_start(arguments, format);
    size += vsnprintf(text + size, sizeof text - (size_t)size, format, arguments);
    va_end(arguments);
    SCHED_ASSERT(size > 0 && (size_t)size + 3 < sizeof text);
    text[size++] = '}';
    text[size++] = '}';
    if (has_room(sched, api, (size_t)size)) {
        send_record(sched, api, TELEMETRY_PLATFORM, text, (size_t)size);
    }
}

static bool wants(const struct api *api, uint8_t type) {
    return (api->types & type) != 0 && !api->stopped;
}

static double ms_of(uint64_t ns) {
    return (double)ns / 1e6;
}

void api_tell_init(struct sched *sched, struct api *api) {
    static const char *const events[] = {"", "\"INVOKE\"", "\"SHUTDOWN\"", "\"INVOKE\",\"SHUTDOWN\""};
    static const char *const types[] = {"",           "\"platform\"",               "\"function\"",               "\"platform\",\"function\"",
                                        "\"extension\"", "\"platform\",\"extension\"", "\"function\",\"extension\"", "\"platform\",\"function\",\"extension\""};
    const struct channel *channel = api->channel;
    const struct function_info *info = info_of(sched, channel->function);
    char name[256] = "", version[128] = "";
    if (!wants(api, TELEMETRY_PLATFORM)) {
        return;
    }
    if (info != NULL) {
        (void)json_quote(info->display, name, sizeof name);
        (void)json_quote(info->version, version, sizeof version);
    }
    const char *const phase = core_sandbox_again(sched->core, channel->sandbox) ? "invoke" : "init";
    tell(sched, api, channel->begun_ns, "initStart", "\"initializationType\":\"on-demand\",\"phase\":\"%s\",\"functionName\":\"%s\","
         "\"functionVersion\":\"%s\",\"instanceMaxMemory\":%u", phase, name, version, info == NULL ? 0 : info->memory_mb);
    for (uint32_t i = 0; i < api->extensions_count; i++) {
        const struct api_extension *extension = &api->extensions[i];
        if (extension->types != 0) {
            tell(sched, api, sched->now_ns, extension->logs_api ? "logsSubscription" : "telemetrySubscription",
                 "\"name\":\"%s\",\"state\":\"Subscribed\",\"types\":[%s]", extension->name, types[extension->types & 7]);
        }
    }
    tell(sched, api, api->asked_ns, "initRuntimeDone", "\"initializationType\":\"on-demand\",\"phase\":\"%s\",\"status\":\"success\"", phase);
    for (uint32_t i = 0; i < api->extensions_count; i++) {
        const struct api_extension *extension = &api->extensions[i];
        tell(sched, api, sched->now_ns, "extension", "\"name\":\"%s\",\"state\":\"Ready\",\"events\":[%s]", extension->name,
             events[(extension->invoke ? 1 : 0) + (extension->shutdown ? 2 : 0)]);
    }
    tell(sched, api, sched->now_ns, "initReport", "\"initializationType\":\"on-demand\",\"phase\":\"%s\",\"status\":\"success\","
         "\"metrics\":{\"durationMs\":%.3f}", phase, ms_of(sched->now_ns - channel->begun_ns));
}

void api_tell_start(struct sched *sched, struct api *api, const char *tracing) {
    const struct function_info *info = info_of(sched, api->channel->function);
    char id[37], version[128] = "";
    if (!wants(api, TELEMETRY_PLATFORM)) {
        return;
    }
    journal_uuid(api->id, id);
    if (info != NULL) {
        (void)json_quote(info->version, version, sizeof version);
    }
    tell(sched, api, sched->now_ns, "start", "\"requestId\":\"%s\",\"version\":\"%s\"%s%.1024s%s", id, version,
         *tracing == '\0' ? "" : ",\"tracing\":{\"spanId\":null,\"type\":\"X-Amzn-Trace-Id\",\"value\":\"", tracing, *tracing == '\0' ? "" : "\"}");
}

void api_tell_done(struct sched *sched, struct api *api, const char *status, const char *error_type, uint64_t produced_bytes) {
    char id[37], when[32];
    if (!wants(api, TELEMETRY_PLATFORM)) {
        return;
    }
    const uint64_t now_ns = sched->now_ns > api->given_ns ? sched->now_ns : api->given_ns;
    const uint64_t response_ns = api->response_ns > api->given_ns && api->response_ns <= now_ns ? api->response_ns : now_ns;
    journal_uuid(api->id, id);
    iso_time(sched, api->given_ns, when);
    snprintf(api->status, sizeof api->status, "%s", status);
    tell(sched, api, now_ns, "runtimeDone", "\"requestId\":\"%s\",\"status\":\"%s\"%s%s%s,\"metrics\":{\"durationMs\":%.3f,\"producedBytes\":%" PRIu64 "},"
         "\"spans\":[{\"name\":\"responseLatency\",\"start\":\"%s\",\"durationMs\":%.3f},{\"name\":\"responseDuration\",\"start\":\"%s\",\"durationMs\":%.3f}]",
         id, status, error_type == NULL ? "" : ",\"errorType\":\"", error_type == NULL ? "" : error_type, error_type == NULL ? "" : "\"",
         ms_of(now_ns - api->given_ns), produced_bytes, when, ms_of(response_ns - api->given_ns), when, ms_of(now_ns - response_ns));
}

void api_tell_report(struct sched *sched, struct api *api) {
    const struct function_info *info = info_of(sched, api->channel->function);
    char id[37], text[64], init[64] = "";
    if (!wants(api, TELEMETRY_PLATFORM)) {
        return;
    }
    const ssize_t got = api->channel->memory_fd < 0 ? 0 : pread(api->channel->memory_fd, text, sizeof text - 1, 0);
    text[got > 0 ? got : 0] = '\0';
    const uint64_t peak_mb = (strtoull(text, NULL, 10) + (1U << 20) - 1) >> 20;
    const uint64_t run_ns = sched->now_ns > api->given_ns ? sched->now_ns - api->given_ns : 0;
    if (!api->reported) { /* the first call: its report has the init too */
        snprintf(init, sizeof init, ",\"initDurationMs\":%.2f", ms_of(api->ready_ns - api->channel->begun_ns));
    }
    api->reported = true;
    journal_uuid(api->id, id);
    tell(sched, api, sched->now_ns, "report", "\"requestId\":\"%s\",\"status\":\"%s\",\"metrics\":{\"durationMs\":%.3f,\"billedDurationMs\":%" PRIu64
         ",\"memorySizeMB\":%u,\"maxMemoryUsedMB\":%" PRIu64 "%s}", id, api->status, ms_of(run_ns), (run_ns + 999999) / 1000000,
         info == NULL ? 0 : info->memory_mb, peak_mb, init);
}

/* ---- logs ------------------------------------------------------------------------------------------------------------- */

static void tell_line(struct sched *sched, struct api *api, bool extension, const char *head, size_t size, const uint8_t *at, size_t bytes) {
    const size_t quoted = json_quoted(at, bytes, NULL, 0);
    const size_t all = size + quoted + 2;
    if (!has_room(sched, api, all)) {
        return;
    }
    uint8_t *const text = malloc(all);
    if (text == NULL) {
        api->dropped_records++;
        api->dropped_bytes += all;
        return;
    }
    memcpy(text, head, size);
    (void)json_quoted(at, bytes, text + size, quoted);
    memcpy(text + size + quoted, "\"}", 2);
    send_record(sched, api, extension ? TELEMETRY_EXTENSION : TELEMETRY_FUNCTION, text, all);
    free(text);
}

void api_tell_log(struct sched *sched, struct channel *channel, bool extension, const uint8_t *at, size_t bytes) {
    struct api *api = channel->api;
    char when[32], head[128];
    uint64_t records = 0;
    if (api == NULL || !wants(api, extension ? TELEMETRY_EXTENSION : TELEMETRY_FUNCTION)) {
        return;
    }
    iso_time(sched, sched->now_ns, when);
    const int size = snprintf(head, sizeof head, "{\"time\":\"%s\",\"type\":\"%s\",\"record\":\"", when, extension ? "extension" : "function");
    while (bytes > 0) {
        const size_t most = bytes < LINE_BYTES_MAX ? bytes : LINE_BYTES_MAX;
        const uint8_t *const end = memchr(at, '\n', most);
        const size_t line = end == NULL ? most : (size_t)(end - at);
        if (line > 0) {
            tell_line(sched, api, extension, head, (size_t)size, at, line);
            records++;
        }
        at += line + (end != NULL);
        bytes -= line + (end != NULL);
    }
    logs_charge(sched, channel, records * RECORD_COST);
}
