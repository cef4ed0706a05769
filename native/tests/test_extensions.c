/* Extensions of a sandbox, and what they are told: registering, phases, failures, the end, telemetry. */
#include <sys/ioctl.h>

#include "api_peer.h"
#include "json.h"

/* ---- extensions ------------------------------------------------------------------------------------------------------- */

static void enroll(struct rig *rig, struct peer *peer, const char *name, const char *events, char id[37]) {
    static const char header[] = "Lambda-Extension-Identifier: ";
    char text[1024];
    snprintf(text, sizeof text, "POST /2020-01-01/extension/register HTTP/1.1\r\nLambda-Extension-Name: %s\r\n"
             "Lambda-Extension-Accept-Feature: accountId\r\nContent-Length: %zu\r\n\r\n{\"events\":[%s]}", name, strlen(events) + 13, events);
    ask(rig, peer, text);
    const char *const at = strstr(peer->heard, header);
    if (at != NULL) {
        memcpy(id, at + sizeof header - 1, 36);
        id[36] = '\0';
    }
}

static void event_next(struct rig *rig, struct peer *peer, const char *id) {
    char text[512];
    snprintf(text, sizeof text, "GET /2020-01-01/extension/event/next HTTP/1.1\r\nLambda-Extension-Identifier: %s\r\n\r\n", id);
    ask(rig, peer, text);
}

static void extension_error(struct rig *rig, struct peer *peer, const char *id, const char *what) {
    char text[512];
    snprintf(text, sizeof text, "POST /2020-01-01/extension/%s/error HTTP/1.1\r\nLambda-Extension-Identifier: %s\r\n"
             "Lambda-Extension-Function-Error-Type: Extension.Broken\r\nContent-Length: 0\r\n\r\n", what, id);
    ask(rig, peer, text);
}

struct scene {
    struct rig rig;
    struct peer *runtime;
    struct peer *extension;
    char id[37];       /* of the extension */
};

/* One external extension that wants to know of everything, and a runtime: both wait, and the first call was given. */
static void begin_scene(struct scene *scene, const struct rig_options *options) {
    rig_init_from(&scene->rig, options);
    scene->rig.api = "probe,";
    rig_invoke(&scene->rig, 1, "1", 1);
    struct rig_sandbox *sandbox = rig_started_sandbox(&scene->rig);
    rig_turn(&scene->rig);
    scene->runtime = peer_new(sandbox);
    scene->extension = peer_new(sandbox);
    turns(&scene->rig, NULL, 2);
    enroll(&scene->rig, scene->extension, "probe", "\"INVOKE\",\"SHUTDOWN\"", scene->id);
    SCHED_ASSERT(heard(scene->extension, "200 OK"));
    SCHED_ASSERT(heard(scene->extension, "{\"functionName\":\"hello\",\"functionVersion\":\"$LATEST\",\"handler\":\"app.handler\",\"accountId\":\"000000000000\"}"));
    ask(&scene->rig, scene->runtime, NEXT);
    SCHED_ASSERT(scene->rig.events[SCHED_EV_READY] == 0 && scene->runtime->bytes == 0);
    event_next(&scene->rig, scene->extension, scene->id);
    turns(&scene->rig, scene->runtime, 2);
    SCHED_ASSERT(scene->rig.events[SCHED_EV_READY] == 1 && heard(scene->runtime, "\r\n\r\n1"));
}

static void end_scene(struct scene *scene) {
    SCHED_ASSERT(core_check(scene->rig.sched->core) == NULL && scene->rig.sched->stats.sandbox_protocol_errors == 0);
    peer_free(scene->runtime);
    peer_free(scene->extension);
    rig_free(&scene->rig);
}

static void an_extension_hears_of_calls_and_is_waited_for(void) {
    struct scene scene;
    struct rig_options options = rig_options();
    options.concurrency = 1;
    begin_scene(&scene, &options);
    char call[37], text[128];
    id_of(scene.runtime, call);
    snprintf(text, sizeof text, "\"requestId\":\"%s\"", call);
    SCHED_ASSERT(heard(scene.extension, "{\"eventType\":\"INVOKE\",\"deadlineMs\":1") && heard(scene.extension, text));
    SCHED_ASSERT(heard(scene.extension, "\"invokedFunctionArn\":\"arn:aws:lambda:local:000000000000:function:hello\"}"));
    SCHED_ASSERT(heard(scene.extension, "Lambda-Extension-Event-Identifier: "));
    /* The caller hears the answer at once; the next call waits for the extension. */
    post(&scene.rig, scene.runtime, call, "response", "", "\"quick\"");
    SCHED_ASSERT(rig_heard(&scene.rig, "quick"));
    ask(&scene.rig, scene.runtime, NEXT);
    rig_invoke(&scene.rig, 2, "2", 1);
    turns(&scene.rig, scene.runtime, 3);
    SCHED_ASSERT(scene.runtime->bytes == 0);
    event_next(&scene.rig, scene.extension, scene.id);
    turns(&scene.rig, scene.runtime, 3);
    SCHED_ASSERT(heard(scene.runtime, "\r\n\r\n2") && heard(scene.extension, "INVOKE"));
    /* Done before the answer: nothing is waited for. */
    event_next(&scene.rig, scene.extension, scene.id);
    id_of(scene.runtime, call);
    post(&scene.rig, scene.runtime, call, "response", "", "\"second\"");
    uint32_t state;
    uint64_t function;
    SCHED_ASSERT(rig_heard(&scene.rig, "second") &&
                 core_sandbox_state(scene.rig.sched->core, scene.rig.sandboxes[0].handle, &state, &function) && state == CORE_SB_IDLE);
    end_scene(&scene);
}

static void a_timeout_covers_extensions(void) {
    struct scene scene;
    struct rig_options options = rig_options();
    options.timeout_ms = 30;
    options.config.stop_grace_ms = 1000;
    begin_scene(&scene, &options);
    char call[37];
    id_of(scene.runtime, call);
    post(&scene.rig, scene.runtime, call, "response", "", "\"in time\"");
    const struct timespec late = {.tv_nsec = 40 * 1000000};
    nanosleep(&late, NULL);
    turns(&scene.rig, NULL, 3);
    SCHED_ASSERT(rig_heard(&scene.rig, "in time") && !rig_heard(&scene.rig, "Timedout"));
    SCHED_ASSERT(scene.rig.events[SCHED_EV_KILLED] == 1 && scene.rig.stop_ms == API_STOP_EXTERNAL_MS + 200);
    event_next(&scene.rig, scene.extension, scene.id); /* it hears why, as soon as it asks */
    SCHED_ASSERT(heard(scene.extension, "{\"eventType\":\"SHUTDOWN\",\"shutdownReason\":\"timeout\",\"deadlineMs\":1"));
    end_scene(&scene);
}

/* The duration of the call's END record, ns; 0: there is none. More than one is one too many. */
static uint64_t logged_run_ns(const char *directory, uint8_t *outcome) {
    static uint8_t bytes[1 << 16];
    char path[300];
    uint64_t run_ns = 0;
    snprintf(path, sizeof path, "%s/hello.journal", directory);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    SCHED_ASSERT(fd >= 0);
    const ssize_t got = read(fd, bytes, sizeof bytes);
    close(fd);
    for (ssize_t at = 0; at + (ssize_t)sizeof(struct journal_record) <= got;) {
        struct journal_record record;
        memcpy(&record, bytes + at, sizeof record);
        if (record.kind == JOURNAL_END || record.kind == JOURNAL_CALL) {
            struct journal_end end;
            SCHED_ASSERT(run_ns == 0);
            memcpy(&end, bytes + at + sizeof record, sizeof end);
            run_ns = end.run_ns;
            *outcome = record.outcome;
        }
        at += record.size;
    }
    return run_ns;
}

static void the_report_counts_extensions_too(void) {
    for (int timeout = 0; timeout < 2; timeout++) {
        struct scene scene;
        struct rig_options options = rig_options();
        options.timeout_ms = timeout ? 30 : 3000;
        options.config.stop_grace_ms = 1000;
        snprintf(options.config.log_dir, sizeof options.config.log_dir, "/tmp/test-extensions-%d", (int)getpid());
        begin_scene(&scene, &options);
        char call[37], path[300];
        id_of(scene.runtime, call);
        post(&scene.rig, scene.runtime, call, "response", "", "1");
        const struct timespec work = {.tv_nsec = 40 * 1000000};
        nanosleep(&work, NULL);
        turns(&scene.rig, NULL, 2);
        if (!timeout) {
            event_next(&scene.rig, scene.extension, scene.id);
        }
        end_scene(&scene); /* what was logged is on the disk after that */
        uint8_t outcome = 0;
        const uint64_t run_ns = logged_run_ns(options.config.log_dir, &outcome);
        SCHED_ASSERT(timeout ? run_ns == 30 * 1000000ULL && outcome == CORE_TIMEOUT : run_ns >= 40 * 1000000ULL && outcome == CORE_OK);
        snprintf(path, sizeof path, "%s/hello.journal", options.config.log_dir);
        SCHED_ASSERT(unlink(path) == 0 && rmdir(options.config.log_dir) == 0);
    }
}

static void the_end_is_told_with_time_for_it(void) {
    struct scene scene;
    struct rig_options options = rig_options();
    options.config.stop_grace_ms = 1000;
    begin_scene(&scene, &options);
    char call[37];
    id_of(scene.runtime, call);
    post(&scene.rig, scene.runtime, call, "response", "", "1");
    event_next(&scene.rig, scene.extension, scene.id);
    ask(&scene.rig, scene.runtime, NEXT);
    scene.extension->bytes = 0;
    struct core_event event = {.kind = CORE_EV_FUNCTION_SWITCH};
    event.u.function = (struct core_function_event){.handle = RIG_FUNCTION, .revision = 2};
    rig_core(&scene.rig, &event, NULL);
    turns(&scene.rig, scene.extension, 3);
    SCHED_ASSERT(heard(scene.extension, "\"shutdownReason\":\"spindown\"") && scene.rig.stop_ms == API_STOP_EXTERNAL_MS + 200);
    uint8_t body[64];
    SCHED_ASSERT(rig_take_frame(&scene.rig.sandboxes[0], body, sizeof body).kind == 1);
    const struct rig_header stop = rig_take_frame(&scene.rig.sandboxes[0], body, sizeof body);
    const uint32_t budget_ms = API_STOP_EXTERNAL_MS;
    SCHED_ASSERT(stop.kind == 3 && stop.length == 4 && memcmp(body, &budget_ms, 4) == 0);
    /* It exits, which is no crash now, and the agent with it. */
    rig_close(&scene.rig.sandboxes[0]);
    rig_reaped(&scene.rig, scene.rig.sandboxes[0].handle, CORE_CAUSE_EXIT, 0);
    turns(&scene.rig, NULL, 3);
    SCHED_ASSERT(scene.rig.events[SCHED_EV_FREED] == 1);
    end_scene(&scene);
}

static void the_runtimes_end_is_answered_at_once_and_extensions_have_time(void) {
    enum { CRASHES, CRASHES_BY_SIGNAL, HAS_ANSWERED, FORGED };
    static const char *const frames[] = {"{\"status\":7,\"signal\":0}", "{\"status\":0,\"signal\":11}", "{\"status\":1,\"signal\":0}", "{\"status\":256}"};
    static const char *const told[] = {"exit status 7", "signal: segmentation fault", "\"in time\"", "broke the channel"};
    for (int way = CRASHES; way <= FORGED; way++) {
        struct scene scene;
        struct rig_options options = rig_options();
        options.config.stop_grace_ms = 1000;
        begin_scene(&scene, &options);
        struct rig_sandbox *sandbox = &scene.rig.sandboxes[0];
        char call[37], text[512];
        id_of(scene.runtime, call);
        if (way == HAS_ANSWERED) { /* and asks for more, which nobody is there to get */
            snprintf(text, sizeof text, "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nContent-Length: 9\r\n\r\n\"in time\"" NEXT, call);
            rig_write(scene.runtime->fd, text, strlen(text));
        }
        rig_frame(sandbox, 23, 0, 0, 0, frames[way], strlen(frames[way]));
        turns(&scene.rig, NULL, 3);
        SCHED_ASSERT(rig_heard(&scene.rig, told[way]) && scene.rig.events[SCHED_EV_KILLED] == 1);
        if (way == FORGED) {
            SCHED_ASSERT(scene.rig.stop_ms == 0 && scene.rig.sched->stats.sandbox_protocol_errors == 1);
            scene.rig.sched->stats.sandbox_protocol_errors = 0;
            end_scene(&scene);
            continue;
        }
        event_next(&scene.rig, scene.extension, scene.id);
        SCHED_ASSERT(heard(scene.extension, "{\"eventType\":\"SHUTDOWN\",\"shutdownReason\":\"failure\",\"deadlineMs\":1"));
        SCHED_ASSERT(scene.rig.stop_ms == API_STOP_EXTERNAL_MS + 200);
        uint8_t body[64];
        const uint32_t budget_ms = API_STOP_EXTERNAL_MS;
        SCHED_ASSERT(rig_take_frame(sandbox, body, sizeof body).kind == 1);
        SCHED_ASSERT(rig_take_frame(sandbox, body, sizeof body).kind == 3 && memcmp(body, &budget_ms, 4) == 0);
        /* The next call does not wait for its end. */
        const uint32_t needs = scene.rig.events[SCHED_EV_NEED];
        rig_invoke(&scene.rig, 2, "2", 1);
        turns(&scene.rig, NULL, 2);
        SCHED_ASSERT(scene.rig.events[SCHED_EV_NEED] == needs + 1);
        rig_close(sandbox);
        rig_reaped(&scene.rig, sandbox->handle, CORE_CAUSE_EXIT, 7);
        turns(&scene.rig, NULL, 3);
        SCHED_ASSERT(scene.rig.events[SCHED_EV_FREED] == 1);
        end_scene(&scene);
    }
}

/* Whoever was never ready has no extensions that wait for anything: the agent is to end as the runtime did. */
static void a_runtime_that_ends_early_ends_its_sandbox(void) {
    struct rig rig;
    const struct rig_options options = rig_options();
    rig_init_from(&rig, &options);
    rig.api = "probe,";
    rig_invoke(&rig, 1, "1", 1);
    struct rig_sandbox *sandbox = rig_started_sandbox(&rig);
    rig_frame(sandbox, 23, 0, 0, 0, "{\"status\":7,\"signal\":0}", 23);
    turns(&rig, NULL, 2);
    uint8_t body[64];
    const uint32_t at_once = 0;
    SCHED_ASSERT(rig_take_frame(sandbox, body, sizeof body).kind == 1);
    SCHED_ASSERT(rig_take_frame(sandbox, body, sizeof body).kind == 3 && memcmp(body, &at_once, 4) == 0);
    SCHED_ASSERT(rig.events[SCHED_EV_KILLED] == 0);
    rig_free(&rig);
}

static void extensions_are_refused_as_lambda_does(void) {
    struct rig rig;
    const struct rig_options options = rig_options();
    struct peer *peer = begun(&rig, &options); /* none is launched: all are internal */
    char id[37] = "", other[37];
    event_next(&rig, peer, "");
    SCHED_ASSERT(heard(peer, "403 Forbidden") && heard(peer, "Extension.InvalidExtensionIdentifier"));
    ask(&rig, peer, "GET /2020-01-01/extension/event/next HTTP/1.1\r\n\r\n");
    SCHED_ASSERT(heard(peer, "Extension.MissingHeader"));
    event_next(&rig, peer, "00000000-0000-4000-8000-000000000000");
    SCHED_ASSERT(heard(peer, "Extension.UnknownExtensionIdentifier"));
    enroll(&rig, peer, "inner", "\"SHUTDOWN\"", id);
    SCHED_ASSERT(heard(peer, "403 Forbidden") && heard(peer, "Extension.InvalidEventType"));
    enroll(&rig, peer, "inner", "\"LUNCH\"", id);
    SCHED_ASSERT(heard(peer, "Extension.InvalidEventType"));
    enroll(&rig, peer, "inner", "\"", id);
    SCHED_ASSERT(heard(peer, "400 Bad Request") && heard(peer, "InvalidRequestFormat"));
    enroll(&rig, peer, "no/name", "", id);
    SCHED_ASSERT(heard(peer, "Extension.InvalidExtensionName"));
    enroll(&rig, peer, "inner", "\"INVOKE\"", id);
    SCHED_ASSERT(heard(peer, "200 OK"));
    enroll(&rig, peer, "inner", "\"INVOKE\"", other);
    SCHED_ASSERT(heard(peer, "Extension.AlreadyRegistered"));
    for (int i = 1; i < API_EXTENSIONS_MAX; i++) {
        char name[16];
        snprintf(name, sizeof name, "n%d", i);
        enroll(&rig, peer, name, "", other);
        SCHED_ASSERT(heard(peer, "200 OK"));
    }
    enroll(&rig, peer, "eleventh", "", other);
    SCHED_ASSERT(heard(peer, "Extension.TooManyExtensions"));
    struct peer *second = peer_new(&rig.sandboxes[0]);
    turns(&rig, NULL, 2);
    event_next(&rig, peer, id);
    event_next(&rig, second, id);
    SCHED_ASSERT(heard(second, "403 Forbidden") && heard(second, "Extension.InvalidExtensionState"));
    extension_error(&rig, second, id, "init");
    SCHED_ASSERT(heard(second, "Extension.InvalidExtensionState"));
    peer_free(second);
    peer_free(peer);
    rig_free(&rig);
    struct scene scene;
    begin_scene(&scene, &options);
    enroll(&scene.rig, scene.runtime, "late", "", other);
    SCHED_ASSERT(heard(scene.runtime, "Extension.RegistrationClosed"));
    end_scene(&scene);
}

static void an_extension_that_fails_takes_the_sandbox_with_it(void) {
    static const char *const frames[] = {"{\"name\":\"probe\",\"event\":\"exit\",\"status\":7,\"signal\":0,\"reason\":\"\"}",
                                         "{\"name\":\"probe\",\"event\":\"crash\",\"status\":0,\"signal\":11,\"reason\":\"\"}"};
    static const char *const texts[] = {"Error: exit status 7", "Error: signal: segmentation fault", "Error: Extension.Broken"};
    for (int way = 0; way < 3; way++) {
        struct scene scene;
        const struct rig_options options = rig_options();
        begin_scene(&scene, &options);
        char call[37], text[160];
        id_of(scene.runtime, call);
        if (way < 2) {
            rig_frame(&scene.rig.sandboxes[0], 22, 0, 0, 0, frames[way], strlen(frames[way]));
        } else {
            extension_error(&scene.rig, scene.extension, scene.id, "exit");
            SCHED_ASSERT(heard(scene.extension, "202 Accepted"));
        }
        turns(&scene.rig, NULL, 3);
        snprintf(text, sizeof text, "{\"errorType\":\"%s\",\"errorMessage\":\"RequestId: %s %s", way < 2 ? "Extension.Crash" : "Extension.ExitError",
                 call, texts[way]);
        SCHED_ASSERT(rig_heard(&scene.rig, text));
        SCHED_ASSERT((scene.rig.events[SCHED_EV_KILLED] == 1) == (way == 2));
        if (way < 2) { /* the agent ends right after it; what the runtime says now is nobody's */
            post(&scene.rig, scene.runtime, call, "response", "", "\"too late\"");
            SCHED_ASSERT(heard(scene.runtime, "InvalidRequestID") && !rig_heard(&scene.rig, "too late"));
            rig_close(&scene.rig.sandboxes[0]);
            turns(&scene.rig, NULL, 2);
        }
        rig_reaped(&scene.rig, scene.rig.sandboxes[0].handle, CORE_CAUSE_EXIT, 1);
        turns(&scene.rig, NULL, 2);
        SCHED_ASSERT(scene.rig.events[SCHED_EV_FREED] == 1);
        end_scene(&scene);
    }
}

static void an_extension_that_fails_early_is_an_init_error(void) {
    for (int way = 0; way < 2; way++) {
        struct rig rig;
        const struct rig_options options = rig_options();
        rig_init_from(&rig, &options);
        rig.api = "probe,";
        rig_invoke(&rig, 1, "1", 1);
        struct rig_sandbox *sandbox = rig_started_sandbox(&rig);
        rig_turn(&rig);
        struct peer *peer = peer_new(sandbox);
        turns(&rig, NULL, 2);
        char id[37];
        if (way == 0) {
            enroll(&rig, peer, "probe", "", id);
            extension_error(&rig, peer, id, "init");
            SCHED_ASSERT(heard(peer, "202 Accepted"));
        } else {
            static const char frame[] = "{\"name\":\"probe\",\"event\":\"launch\",\"status\":0,\"signal\":0,\"reason\":\"exec format \\\"error\\\"\"}";
            rig_frame(sandbox, 22, 0, 0, 0, frame, sizeof frame - 1);
        }
        turns(&rig, NULL, 3);
        SCHED_ASSERT(rig.events[SCHED_EV_INIT_FAILED] == 1 && rig.sched->functions[0].init_error != NULL);
        SCHED_ASSERT(memmem(rig.sched->functions[0].init_error, rig.sched->functions[0].init_error_bytes,
                            way == 0 ? "Extension.InitError" : "Extension.LaunchError", 19) != NULL);
        SCHED_ASSERT(rig.sched->stats.sandbox_protocol_errors == 0);
        peer_free(peer);
        rig_free(&rig);
    }
}

/* ---- telemetry -------------------------------------------------------------------------------------------------------- */

#define DESTINATION "\"destination\":{\"protocol\":\"HTTP\",\"URI\":\"http://sandbox.localdomain:8080/logs\"}"

static void subscribe(struct rig *rig, struct peer *peer, const char *id, const char *path, const char *body) {
    char text[1024];
    snprintf(text, sizeof text, "PUT %s HTTP/1.1\r\nLambda-Extension-Identifier: %s\r\nContent-Length: %zu\r\n\r\n%s", path, id, strlen(body), body);
    ask(rig, peer, text);
}

/* What the agent was told since the last time: the texts of records, one behind another; a subscription's bytes in *subscription. */
static void agent_hears(const struct rig_sandbox *sandbox, char *records, size_t room, uint8_t *subscription) {
    static uint8_t body[1 << 18];
    struct rig_header head;
    records[0] = '\0';
    while (recv(sandbox->fd, &head, sizeof head, MSG_PEEK | MSG_DONTWAIT) == (ssize_t)sizeof head) {
        int there;
        SCHED_ASSERT(ioctl(sandbox->fd, FIONREAD, &there) == 0);
        if ((size_t)there < sizeof head + head.length) {
            return; /* half of it */
        }
        head = rig_take_frame(sandbox, body, sizeof body);
        if (head.kind == 5 && head.flags == 1 && subscription != NULL) {
            memcpy(subscription, body, head.length < 64 ? head.length : 64);
        } else if (head.kind == 5 && head.flags == 0) {
            uint32_t bytes;
            memcpy(&bytes, body + 4, 4);
            SCHED_ASSERT(bytes == head.length - 8 && (body[0] == 1 || body[0] == 2 || body[0] == 4));
            const size_t at = strlen(records);
            SCHED_ASSERT(at + bytes + 2 < room);
            memcpy(records + at, body + 8, bytes);
            memcpy(records + at + bytes, "\n", 2);
            size_t wrong;
            SCHED_ASSERT(json_valid(body + 8, bytes, &wrong));
        }
    }
}

static void a_subscriber_is_told_what_goes_on(void) {
    static char records[1 << 16];
    uint8_t subscription[64] = {0};
    struct rig rig;
    struct rig_options options = rig_options();
    options.config.stop_grace_ms = 100;
    rig_init_from(&rig, &options);
    rig.api = "probe,";
    rig_invoke(&rig, 1, "1", 1);
    struct rig_sandbox *sandbox = rig_started_sandbox(&rig);
    rig_turn(&rig);
    struct peer *runtime = peer_new(sandbox), *probe = peer_new(sandbox);
    turns(&rig, NULL, 2);
    char id[37], call[37];
    enroll(&rig, probe, "probe", "\"INVOKE\",\"SHUTDOWN\"", id);
    subscribe(&rig, probe, id, "/2022-07-01/telemetry", "{\"schemaVersion\":\"2022-12-13\",\"types\":[\"platform\",\"function\",\"extension\"],"
              "\"buffering\":{\"maxItems\":1000,\"maxBytes\":262144,\"timeoutMs\":100}," DESTINATION "}");
    SCHED_ASSERT(heard(probe, "200 OK") && heard(probe, "\"OK\""));
    agent_hears(sandbox, records, sizeof records, subscription);
    static const uint8_t expected[] = {0, 7, 1, 0, 0xe8, 3, 0, 0, 0, 0, 4, 0, 100, 0, 0, 0, 0x90, 0x1f, 0, 0};
    SCHED_ASSERT(memcmp(subscription, expected, sizeof expected) == 0 && records[0] == '\0');
    SCHED_ASSERT(memcmp(subscription + 20, "sandbox.localdomain\0/logs", 26) == 0);
    ask(&rig, runtime, NEXT);
    event_next(&rig, probe, id);
    turns(&rig, runtime, 2);
    agent_hears(sandbox, records, sizeof records, NULL);
    static const char *const init[] = {"\"type\":\"platform.initStart\",\"record\":{\"initializationType\":\"on-demand\",\"phase\":\"init\"",
                                       "\"type\":\"platform.telemetrySubscription\",\"record\":{\"name\":\"probe\",\"state\":\"Subscribed\","
                                       "\"types\":[\"platform\",\"function\",\"extension\"]}",
                                       "\"type\":\"platform.initRuntimeDone\"", "\"type\":\"platform.extension\",\"record\":{\"name\":\"probe\","
                                       "\"state\":\"Ready\",\"events\":[\"INVOKE\",\"SHUTDOWN\"]}", "\"type\":\"platform.initReport\"",
                                       "\"type\":\"platform.start\",\"record\":{\"requestId\":\""};
    const char *at = records;
    for (size_t i = 0; i < sizeof init / sizeof *init; i++) {
        at = strstr(at, init[i]);
        SCHED_ASSERT(at != NULL); /* all of them, in this order */
    }
    /* What is written, line by line, whatever bytes; and by extensions. */
    static const char output[] = "one\ntwo \"quoted\"\xff\n";
    SCHED_ASSERT(write(sandbox->output, output, sizeof output - 1) == (ssize_t)sizeof output - 1);
    rig_frame(sandbox, 17, 1, 0, 0, "of the probe\n", 13);
    turns(&rig, NULL, 2);
    agent_hears(sandbox, records, sizeof records, NULL);
    SCHED_ASSERT(strstr(records, "\"type\":\"function\",\"record\":\"one\"}") != NULL);
    SCHED_ASSERT(strstr(records, "\"type\":\"function\",\"record\":\"two \\\"quoted\\\"\xef\xbf\xbd\"}") != NULL);
    SCHED_ASSERT(strstr(records, "\"type\":\"extension\",\"record\":\"of the probe\"}") != NULL);
    id_of(runtime, call);
    post(&rig, runtime, call, "error", "Lambda-Runtime-Function-Error-Type: Function.Sad\r\n", "{}");
    agent_hears(sandbox, records, sizeof records, NULL);
    SCHED_ASSERT(strstr(records, "\"status\":\"error\",\"errorType\":\"Function.Sad\",\"metrics\":{\"durationMs\":") != NULL);
    SCHED_ASSERT(strstr(records, "platform.report") == NULL); /* it has not ended: the extension works on it */
    event_next(&rig, probe, id);
    agent_hears(sandbox, records, sizeof records, NULL);
    SCHED_ASSERT(strstr(records, "\"type\":\"platform.report\"") != NULL && strstr(records, "\"memorySizeMB\":128") != NULL && strstr(records, "initDurationMs") != NULL);
    subscribe(&rig, probe, id, "/2022-07-01/telemetry", "{}");
    peer_free(probe);
    peer_free(runtime);
    rig_free(&rig);
}

static void subscriptions_are_checked(void) {
    static const struct { const char *path, *body, *says; } rows[] = {
        {"/2022-07-01/telemetry", "[]", "no object"},
        {"/2022-07-01/telemetry", "{", "no JSON"},
        {"/2022-07-01/telemetry", "{\"types\":[\"platform\"]," DESTINATION "}", "schemaVersion"},
        {"/2022-07-01/telemetry", "{\"schemaVersion\":\"1999-01-01\",\"types\":[\"platform\"]," DESTINATION "}", "schemaVersion"},
        {"/2022-07-01/telemetry", "{\"schemaVersion\":\"2022-07-01\",\"types\":[]," DESTINATION "}", "types: at least one"},
        {"/2022-07-01/telemetry", "{\"schemaVersion\":\"2022-07-01\",\"types\":[\"x\"]," DESTINATION "}", "types: platform"},
        {"/2022-07-01/telemetry", "{\"schemaVersion\":\"2022-07-01\",\"types\":[\"platform\"],\"buffering\":{\"maxItems\":999}," DESTINATION "}", "buffering.maxItems"},
        {"/2022-07-01/telemetry", "{\"schemaVersion\":\"2022-07-01\",\"types\":[\"platform\"],\"buffering\":{\"maxBytes\":1048577}," DESTINATION "}", "buffering.maxBytes"},
        {"/2022-07-01/telemetry", "{\"schemaVersion\":\"2022-07-01\",\"types\":[\"platform\"],\"buffering\":{\"timeoutMs\":24}," DESTINATION "}", "buffering.timeoutMs"},
        {"/2022-07-01/telemetry", "{\"schemaVersion\":\"2022-07-01\",\"types\":[\"platform\"]}", "destination.protocol"},
        {"/2022-07-01/telemetry", "{\"schemaVersion\":\"2022-07-01\",\"types\":[\"platform\"],\"destination\":{\"protocol\":\"HTTP\",\"URI\":\"http://evil:80/\"}}", "destination.URI"},
        {"/2022-07-01/telemetry", "{\"schemaVersion\":\"2022-07-01\",\"types\":[\"platform\"],\"destination\":{\"protocol\":\"HTTP\",\"URI\":\"http://sandbox.localdomain:9001\"}}", "9001"},
        {"/2022-07-01/telemetry", "{\"schemaVersion\":\"2022-07-01\",\"types\":[\"platform\"],\"destination\":{\"protocol\":\"HTTP\",\"URI\":\"http://sandbox.localdomain:80 \\u000d\"}}", "destination.URI"},
        {"/2022-07-01/telemetry", "{\"schemaVersion\":\"2022-07-01\",\"types\":[\"platform\"],\"destination\":{\"protocol\":\"TCP\",\"port\":0}}", "destination.port"},
        {"/2020-08-15/logs", "{\"schemaVersion\":\"2022-07-01\",\"types\":[\"platform\"]," DESTINATION "}", "2020-08-15"},
        {"/2020-08-15/logs", "{\"types\":[\"function\"],\"destination\":{\"protocol\":\"TCP\",\"port\":7000}}", NULL},
        {"/2022-07-01/telemetry", "{\"schemaVersion\":\"2022-07-01\",\"types\":[\"platform\"]," DESTINATION "}", "AlreadySubscribed"},
    };
    struct rig rig;
    const struct rig_options options = rig_options();
    struct peer *peer = begun(&rig, &options);
    char id[37] = "";
    enroll(&rig, peer, "inner", "", id);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        subscribe(&rig, peer, id, rows[i].path, rows[i].body);
        SCHED_ASSERT(heard(peer, rows[i].says == NULL ? "200 OK" : "HTTP/1.1 40") && (rows[i].says == NULL || heard(peer, rows[i].says)));
    }
    peer_free(peer);
    rig_free(&rig);
    struct scene scene;
    begin_scene(&scene, &options);
    subscribe(&scene.rig, scene.runtime, scene.id, "/2022-07-01/telemetry", "{}");
    SCHED_ASSERT(heard(scene.runtime, "403 Forbidden") && heard(scene.runtime, "SubscriptionClosed"));
    end_scene(&scene);
}

static void records_that_nobody_takes_are_counted(void) {
    static char records[4 << 20];
    struct rig rig;
    const struct rig_options options = rig_options();
    struct peer *peer = begun(&rig, &options);
    struct rig_sandbox *sandbox = &rig.sandboxes[0];
    char id[37] = "";
    enroll(&rig, peer, "inner", "", id);
    subscribe(&rig, peer, id, "/2022-07-01/telemetry", "{\"schemaVersion\":\"2022-07-01\",\"types\":[\"platform\",\"function\"]," DESTINATION "}");
    SCHED_ASSERT(heard(peer, "200 OK"));
    static char line[8192];
    memset(line, 'l', sizeof line);
    line[sizeof line - 1] = '\n';
    for (int i = 0; i < 400; i++) {
        (void)!write(sandbox->output, line, sizeof line);
        turns(&rig, NULL, 2);
        SCHED_ASSERT(rig.sched->channels[0]->output.bytes < (2 << 20));
    }
    SCHED_ASSERT(rig.sched->channels[0]->api->dropped_records > 0);
    bool told = false;
    for (int i = 0; i < 60 && !told; i++) {
        agent_hears(sandbox, records, sizeof records, NULL);
        (void)!write(sandbox->output, "x\n", 2);
        turns(&rig, NULL, 3);
        told = strstr(records, "platform.logsDropped") != NULL && strstr(records, "\"droppedRecords\":") != NULL;
    }
    SCHED_ASSERT(told && rig.sched->channels[0]->api->dropped_records == 0);
    peer_free(peer);
    rig_free(&rig);
}

/* One that hangs holds the init up, and its limit ends that. */
static void an_extension_that_never_asks_is_an_init_that_takes_too_long(void) {
    struct rig rig;
    struct rig_options options = rig_options();
    options.config.core.init_timeout_ns = 30 * 1000000ULL;
    options.timeout_ms = 60; /* the second attempt has the call's own time */
    rig_init_from(&rig, &options);
    rig.api = "probe,";
    rig_invoke(&rig, 1, "1", 1);
    for (uint32_t attempt = 0; attempt < 2; attempt++) {
        struct rig_sandbox *sandbox = rig_started_sandbox(&rig);
        rig_turn(&rig);
        struct peer *runtime = peer_new(sandbox), *probe = peer_new(sandbox);
        turns(&rig, NULL, 2);
        char id[37] = "";
        enroll(&rig, probe, "probe", "\"INVOKE\"", id);
        SCHED_ASSERT(heard(probe, "200 OK"));
        ask(&rig, runtime, NEXT);
        const uint64_t handle = sandbox->handle;
        const struct timespec some = {.tv_nsec = 5 * 1000000};
        for (int i = 0; i < 100 && rig.events[SCHED_EV_KILLED] == attempt; i++) {
            nanosleep(&some, NULL);
            turns(&rig, NULL, 1);
        }
        SCHED_ASSERT(rig.events[SCHED_EV_KILLED] == attempt + 1 && rig.events[SCHED_EV_READY] == 0);
        rig_reaped(&rig, handle, CORE_CAUSE_KILLED, 9);
        turns(&rig, NULL, 2);
        peer_free(probe);
        peer_free(runtime);
    }
    SCHED_ASSERT(rig_heard(&rig, "InitFailed") || rig_heard(&rig, "Timeout"));
    rig_free(&rig);
}

int main(void) {
    RUN(an_extension_that_never_asks_is_an_init_that_takes_too_long);
    RUN(an_extension_hears_of_calls_and_is_waited_for);
    RUN(a_timeout_covers_extensions);
    RUN(the_report_counts_extensions_too);
    RUN(the_end_is_told_with_time_for_it);
    RUN(the_runtimes_end_is_answered_at_once_and_extensions_have_time);
    RUN(a_runtime_that_ends_early_ends_its_sandbox);
    RUN(extensions_are_refused_as_lambda_does);
    RUN(an_extension_that_fails_takes_the_sandbox_with_it);
    RUN(an_extension_that_fails_early_is_an_init_error);
    RUN(a_subscriber_is_told_what_goes_on);
    RUN(subscriptions_are_checked);
    RUN(records_that_nobody_takes_are_counted);
    return 0;
}
