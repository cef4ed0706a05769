/* render.c: a journal's records as the lines Lambda writes. Pure: used by whoever reads a journal, and for log tails. */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../core/invariant.h"
#include "engine.h"
#include "journal.h"
#include "trace.h"

void journal_uuid(const uint8_t id[16], char out[37]) {
    static const char digits[] = "0123456789abcdef";
    size_t at = 0;
    for (size_t i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10) {
            out[at++] = '-';
        }
        out[at++] = digits[id[i] >> 4];
        out[at++] = digits[id[i] & 15];
    }
    out[at] = '\0';
}

uint64_t journal_billed_ms(uint64_t run_ns, uint64_t init_ns) {
    return (run_ns + init_ns + 999999) / 1000000;
}

const char *journal_signal(int number) {
    switch (number) {
    case SIGABRT: return "aborted";
    case SIGBUS: return "bus error";
    case SIGFPE: return "floating point exception";
    case SIGHUP: return "hangup";
    case SIGILL: return "illegal instruction";
    case SIGINT: return "interrupt";
    case SIGKILL: return "killed";
    case SIGPIPE: return "broken pipe";
    case SIGQUIT: return "quit";
    case SIGSEGV: return "segmentation fault";
    case SIGSYS: return "bad system call";
    case SIGTERM: return "terminated";
    case SIGTRAP: return "trace/breakpoint trap";
    default: return "unknown signal";
    }
}

static size_t clipped(int size, size_t max) {
    return size < 0 ? 0 : (size_t)size < max ? (size_t)size : max == 0 ? 0 : max - 1;
}

/* ---- JSON ------------------------------------------------------------------------------------------------------------- */

/* What status a platform event tells of a call, and the type of its error; NULL: none. */
struct fate {
    const char *status;
    const char *error;
};

static struct fate fate_of(uint8_t outcome, uint8_t cause) {
    switch ((enum core_outcome)outcome) {
    case CORE_TIMEOUT:
        return (struct fate){"timeout", NULL};
    case CORE_SANDBOX_DIED:
        return (struct fate){"failure", cause == CORE_CAUSE_OOM ? "Runtime.OutOfMemory" : "Runtime.ExitError"};
    case CORE_FUNCTION_ERROR:
        return (struct fate){"error", "Unhandled"};
    case CORE_TOO_LARGE:
        return (struct fate){"error", "Function.ResponseSizeTooLarge"};
    case CORE_OK: case CORE_INIT_FAILED: case CORE_THROTTLED: case CORE_DEADLINE: case CORE_NOT_FOUND: case CORE_UNAVAILABLE:
    case CORE_CANCELLED: case CORE_INTERNAL: case CORE_OUTCOMES:
        break;
    }
    return (struct fate){"success", NULL};
}

/* Levels of Lambda's system log: start and a report of success are INFO, what did not go well is WARN, the rest is DEBUG. */
bool journal_shows(uint8_t look, enum journal_kind kind, uint8_t outcome) {
    if ((look & SCHED_LOOK_WARN) == 0 || (look & SCHED_LOOK_JSON) == 0) {
        return true;
    }
    return kind != JOURNAL_START && ((kind != JOURNAL_END && kind != JOURNAL_CALL) || fate_of(outcome, 0).status[0] != 's');
}

static size_t json_open(char *out, size_t out_bytes, uint64_t time_ns, const char *type) {
    const time_t seconds = (time_t)(time_ns / 1000000000ULL);
    struct tm parts;
    char when[32] = "";
    if (gmtime_r(&seconds, &parts) != NULL) {
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &parts);
    }
    return clipped(snprintf(out, out_bytes, "{\"time\":\"%s.%03uZ\",\"type\":\"platform.%s\",\"record\":{", when,
                            (unsigned)(time_ns / 1000000 % 1000), type), out_bytes);
}

/* A guest's id has no character that JSON would have to escape. */
static size_t json_guest(char *out, size_t out_bytes, const struct journal_rest *rest) {
    return rest->guest_bytes == 0 ? 0 : clipped(snprintf(out, out_bytes, ",\"tenantId\":\"%.*s\"", (int)rest->guest_bytes, rest->guest),
                                                out_bytes);
}

static size_t json_start(char *out, size_t out_bytes, const struct journal_record *head, const struct journal_rest *rest,
                         const char *id) {
    size_t at = json_open(out, out_bytes, head->time_ns, "start");
    at += clipped(snprintf(out + at, out_bytes - at, "\"requestId\":\"%s\",\"version\":\"%.*s\"", id, (int)rest->version_bytes,
                           rest->version), out_bytes - at);
    at += json_guest(out + at, out_bytes - at, rest);
    return at + clipped(snprintf(out + at, out_bytes - at, "}}\n"), out_bytes - at);
}

static size_t json_fate(char *out, size_t out_bytes, const struct fate *fate) {
    if (fate->error == NULL) {
        return clipped(snprintf(out, out_bytes, "\"status\":\"%s\"", fate->status), out_bytes);
    }
    return clipped(snprintf(out, out_bytes, "\"status\":\"%s\",\"errorType\":\"%s\"", fate->status, fate->error), out_bytes);
}

static size_t json_end(char *out, size_t out_bytes, const struct journal_record *head, const struct journal_end *end, const char *id,
                       const struct journal_rest *rest) {
    const struct fate fate = fate_of(head->outcome, head->cause);
    const bool restored = (head->look & SCHED_LOOK_RESTORED) != 0;
    size_t at = 0;
    if ((head->look & SCHED_LOOK_DEBUG) != 0 || fate.status[0] != 's') {
        at += json_open(out, out_bytes, head->time_ns, "runtimeDone");
        at += clipped(snprintf(out + at, out_bytes - at, "\"requestId\":\"%s\",", id), out_bytes - at);
        at += json_fate(out + at, out_bytes - at, &fate);
        at += clipped(snprintf(out + at, out_bytes - at, ",\"metrics\":{\"durationMs\":%.3f}}}\n", (double)end->run_ns / 1e6),
                      out_bytes - at);
    }
    char init[128] = "";
    if (end->init_ns > 0) {
        snprintf(init, sizeof init, ",\"%s\":%.3f", restored ? "restoreDurationMs" : "initDurationMs", (double)end->init_ns / 1e6);
    }
    if (restored) {
        const size_t size = strlen(init);
        snprintf(init + size, sizeof init - size, ",\"billedRestoreDurationMs\":%" PRIu64, journal_billed_ms(0, end->init_ns));
    }
    at += json_open(out + at, out_bytes - at, head->time_ns, "report");
    at += clipped(snprintf(out + at, out_bytes - at,
                           "\"requestId\":\"%s\",\"metrics\":{\"durationMs\":%.3f,\"billedDurationMs\":%" PRIu64 ",\"memorySizeMB\":%" PRIu32
                           ",\"maxMemoryUsedMB\":%" PRIu32 "%s},",
                           id, (double)end->run_ns / 1e6, journal_billed_ms(end->run_ns, restored ? 0 : end->init_ns), end->memory_mb,
                           end->memory_peak_mb, init), out_bytes - at);
    at += json_fate(out + at, out_bytes - at, &fate);
    char root[33], segment[17];
    at += json_guest(out + at, out_bytes - at, rest);
    if (trace_ids(rest->trace, rest->trace_bytes, root, segment)) {
        at += clipped(snprintf(out + at, out_bytes - at, ",\"tracing\":{\"spanId\":\"%s\",\"type\":\"X-Amzn-Trace-Id\",\"value\":\"%.*s\"}",
                               segment, (int)rest->trace_bytes, rest->trace), out_bytes - at);
    }
    return at + clipped(snprintf(out + at, out_bytes - at, "}}\n"), out_bytes - at);
}

static size_t json_dropped(char *out, size_t out_bytes, const struct journal_record *head, uint64_t bytes) {
    const size_t at = json_open(out, out_bytes, head->time_ns, "logsDropped");
    return at + clipped(snprintf(out + at, out_bytes - at, "\"droppedBytes\":%" PRIu64 ",\"reason\":\"the disk could not keep up\"}}\n",
                                 bytes), out_bytes - at);
}

/* ---- both ------------------------------------------------------------------------------------------------------------- */

size_t journal_render_init(char *out, size_t out_bytes, uint8_t look, uint64_t init_ns, bool again, const char *error) {
    const char *const phase = again ? "invoke" : "init";
    if ((look & SCHED_LOOK_JSON) == 0) {
        return clipped(snprintf(out, out_bytes, "INIT_REPORT Init Duration: %.2f ms\tPhase: %s\tStatus: %s%s%s", (double)init_ns / 1e6,
                                phase, error == NULL ? "timeout" : "error", error == NULL ? "" : "\tError Type: ",
                                error == NULL ? "" : error), out_bytes);
    }
    const size_t at = json_open(out, out_bytes, journal_now_ns(), "initReport");
    return at + clipped(snprintf(out + at, out_bytes - at,
                                 "\"phase\":\"%s\",\"status\":\"%s\"%s%s%s,\"metrics\":{"
                                 "\"durationMs\":%.3f}}}", phase, error == NULL ? "timeout" : "error",
                                 error == NULL ? "" : ",\"errorType\":\"", error == NULL ? "" : error, error == NULL ? "" : "\"",
                                 (double)init_ns / 1e6), out_bytes - at);
}

size_t journal_render_restore(char *out, size_t out_bytes, uint8_t look, const char *runtime, uint64_t restore_ns) {
    if ((look & SCHED_LOOK_JSON) == 0) {
        return clipped(snprintf(out, out_bytes, "RESTORE_START Runtime Version: %s\nRESTORE_REPORT Restore Duration: %.2f ms", runtime,
                                (double)restore_ns / 1e6), out_bytes);
    }
    size_t at = json_open(out, out_bytes, journal_now_ns(), "restoreStart");
    at += clipped(snprintf(out + at, out_bytes - at, "\"runtimeVersion\":\"%s\"}}\n", runtime), out_bytes - at);
    at += json_open(out + at, out_bytes - at, journal_now_ns(), "restoreReport");
    return at + clipped(snprintf(out + at, out_bytes - at, "\"status\":\"success\",\"metrics\":{\"durationMs\":%.3f}}}",
                                 (double)restore_ns / 1e6), out_bytes - at);
}

size_t journal_rest_put(const struct journal_rest *rest, char *out) {
    SCHED_ASSERT(rest->version_bytes + rest->trace_bytes + rest->guest_bytes + 2 <= JOURNAL_REST_MAX);
    size_t at = rest->version_bytes;
    memcpy(out, rest->version, at);
    if (rest->trace_bytes + rest->guest_bytes > 0) {
        out[at++] = '\0';
        memcpy(out + at, rest->trace, rest->trace_bytes);
        at += rest->trace_bytes;
    }
    if (rest->guest_bytes > 0) {
        out[at++] = '\0';
        memcpy(out + at, rest->guest, rest->guest_bytes);
        at += rest->guest_bytes;
    }
    return at;
}

static struct journal_rest read_rest(const char *at, size_t bytes) {
    struct journal_rest rest = {.version = at, .version_bytes = strnlen(at, bytes), .trace = "", .guest = ""};
    size_t read = rest.version_bytes + 1;
    if (read < bytes) {
        rest.trace = at + read;
        rest.trace_bytes = strnlen(rest.trace, bytes - read);
        read += rest.trace_bytes + 1;
    }
    if (read < bytes) {
        rest.guest = at + read;
        rest.guest_bytes = strnlen(rest.guest, bytes - read);
    }
    return rest;
}

size_t journal_render_start(char *out, size_t out_bytes, const struct journal_record *head, const struct journal_rest *rest) {
    char id[37];
    journal_uuid(head->request_id, id);
    if (!journal_shows(head->look, JOURNAL_START, 0)) {
        return 0;
    }
    if ((head->look & SCHED_LOOK_JSON) != 0) {
        return json_start(out, out_bytes, head, rest, id);
    }
    return clipped(snprintf(out, out_bytes, "START RequestId: %s Version: %.*s\n", id, (int)rest->version_bytes, rest->version),
                   out_bytes);
}

static size_t render_fate(char *out, size_t out_bytes, const struct journal_record *head, const struct journal_end *end,
                          const char *id) {
    if (head->outcome == CORE_TIMEOUT) {
        const time_t seconds = (time_t)(head->time_ns / 1000000000ULL);
        struct tm parts;
        char when[32] = "";
        if (gmtime_r(&seconds, &parts) != NULL) {
            strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &parts);
        }
        return clipped(snprintf(out, out_bytes, "%s.%03uZ %s Task timed out after %u.%02u seconds\n\n", when,
                                (unsigned)(head->time_ns / 1000000 % 1000), id, end->timeout_ms / 1000,
                                end->timeout_ms % 1000 / 10), out_bytes);
    }
    if (head->outcome != CORE_SANDBOX_DIED) {
        return 0;
    }
    if (head->cause == CORE_CAUSE_EXIT && end->status == 0) {
        return clipped(snprintf(out, out_bytes, "RequestId: %s Error: Runtime exited without providing a reason\n"
                                "Runtime.ExitError\n", id), out_bytes);
    }
    if (head->cause == CORE_CAUSE_EXIT) {
        return clipped(snprintf(out, out_bytes, "RequestId: %s Error: Runtime exited with error: exit status %d\n"
                                "Runtime.ExitError\n", id, end->status), out_bytes);
    }
    return clipped(snprintf(out, out_bytes, "RequestId: %s Error: Runtime exited with error: signal: %s\nRuntime.ExitError\n",
                            id, head->cause == CORE_CAUSE_SIGNAL ? journal_signal(end->status) : "killed"), out_bytes);
}

size_t journal_render_end(char *out, size_t out_bytes, const struct journal_record *head, const struct journal_end *end,
                          const struct journal_rest *rest) {
    char id[37];
    journal_uuid(head->request_id, id);
    if ((head->look & SCHED_LOOK_JSON) != 0) {
        return journal_shows(head->look, JOURNAL_END, head->outcome) ? json_end(out, out_bytes, head, end, id, rest) : 0;
    }
    const bool restored = (head->look & SCHED_LOOK_RESTORED) != 0;
    char init[128] = "";
    if (end->init_ns > 0) {
        snprintf(init, sizeof init, "%s Duration: %.2f ms\t", restored ? "Restore" : "Init", (double)end->init_ns / 1e6);
    }
    if (restored) {
        const size_t size = strlen(init);
        snprintf(init + size, sizeof init - size, "Billed Restore Duration: %" PRIu64 " ms\t", journal_billed_ms(0, end->init_ns));
    }
    const char *status = "";
    switch ((enum core_outcome)head->outcome) {
    case CORE_TIMEOUT:
        status = "Status: timeout\t";
        break;
    case CORE_SANDBOX_DIED:
        status = head->cause == CORE_CAUSE_OOM ? "Status: error\tError Type: Runtime.OutOfMemory\t"
                                               : "Status: error\tError Type: Runtime.ExitError\t";
        break;
    case CORE_OK: case CORE_FUNCTION_ERROR: case CORE_INIT_FAILED: case CORE_THROTTLED: case CORE_DEADLINE: case CORE_NOT_FOUND:
    case CORE_TOO_LARGE: case CORE_UNAVAILABLE: case CORE_CANCELLED: case CORE_INTERNAL: case CORE_OUTCOMES:
        break;
    }
    size_t at = render_fate(out, out_bytes, head, end, id);
    at += clipped(snprintf(out + at, out_bytes - at,
                           "END RequestId: %s\n"
                           "REPORT RequestId: %s\tDuration: %.2f ms\tBilled Duration: %" PRIu64 " ms\tMemory Size: %" PRIu32
                           " MB\tMax Memory Used: %" PRIu32 " MB\t%s%s\n",
                           id, id, (double)end->run_ns / 1e6, journal_billed_ms(end->run_ns, restored ? 0 : end->init_ns), end->memory_mb,
                           end->memory_peak_mb, init, status), out_bytes - at);
    char root[33], segment[17];
    if (trace_ids(rest->trace, rest->trace_bytes, root, segment)) {
        at += clipped(snprintf(out + at, out_bytes - at, "XRAY TraceId: 1-%.8s-%s\tSegmentId: %s\tSampled: true\t\n", root, root + 8,
                               segment), out_bytes - at);
    }
    return at;
}

enum { RENDERED_BYTES_MAX = 4096 }; /* of any record but LOG and TEXT */

int64_t sched_render_record(const uint8_t *in, size_t in_bytes, char *out, size_t out_bytes, size_t *consumed) {
    struct journal_record head;
    *consumed = 0;
    if (in_bytes < sizeof head) {
        return -1;
    }
    memcpy(&head, in, sizeof head);
    if (head.size < sizeof head || head.size > JOURNAL_LARGE_BYTES || head.size > in_bytes) {
        return -1;
    }
    const uint8_t *body = in + sizeof head;
    const size_t body_bytes = head.size - sizeof head;
    if (out_bytes < RENDERED_BYTES_MAX || out_bytes < body_bytes + 2) {
        return -1;
    }
    size_t at = 0;
    struct journal_rest rest;
    switch (head.kind) {
    case JOURNAL_START:
        rest = read_rest((const char *)body, body_bytes);
        at = journal_render_start(out, out_bytes, &head, &rest);
        break;
    case JOURNAL_LOG:
        memcpy(out, body, body_bytes);
        at = body_bytes;
        break;
    case JOURNAL_TEXT:
        memcpy(out, body, body_bytes);
        out[body_bytes] = '\n';
        at = body_bytes + 1;
        break;
    case JOURNAL_END:
    case JOURNAL_CALL: {
        struct journal_end end;
        if (body_bytes < sizeof end) {
            return -1;
        }
        memcpy(&end, body, sizeof end);
        rest = read_rest((const char *)body + sizeof end, body_bytes - sizeof end);
        if (head.kind == JOURNAL_CALL) {
            at = journal_render_start(out, out_bytes, &head, &rest);
        }
        at += journal_render_end(out + at, out_bytes - at, &head, &end, &rest);
        break;
    }
    case JOURNAL_DROPPED: {
        uint64_t bytes = 0;
        if (body_bytes >= sizeof bytes) {
            memcpy(&bytes, body, sizeof bytes);
        }
        if ((head.look & SCHED_LOOK_JSON) != 0) {
            at = json_dropped(out, out_bytes, &head, bytes);
            break;
        }
        at = clipped(snprintf(out, out_bytes, "LOGS DROPPED: %" PRIu64 " bytes, the disk could not keep up\n", bytes), out_bytes);
        break;
    }
    default:
        return -1;
    }
    *consumed = head.size;
    return (int64_t)at;
}
