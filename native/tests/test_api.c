/* The Runtime API: a runtime that speaks HTTP to the reactor, turn by turn, over loopback. */
#include "api_peer.h"

static void a_call_goes_round(void) {
    struct rig rig;
    const struct rig_options options = rig_options();
    struct peer *peer = begun(&rig, &options);
    char id[37];
    ask(&rig, peer, NEXT);
    SCHED_ASSERT(rig.events[SCHED_EV_READY] == 1);
    SCHED_ASSERT(heard(peer, "HTTP/1.1 200 OK\r\n") && heard(peer, "\r\nContent-Length: 7\r\n\r\n{\"a\":1}"));
    SCHED_ASSERT(heard(peer, "\r\nLambda-Runtime-Deadline-Ms: 1") && heard(peer, "\r\nContent-Type: application/json\r\n"));
    SCHED_ASSERT(heard(peer, "\r\nLambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:local:000000000000:function:hello\r\n"));
    id_of(peer, id);
    post(&rig, peer, id, "response", "", "\"fine\"");
    SCHED_ASSERT(heard(peer, "HTTP/1.1 202 Accepted\r\n") && heard(peer, "{\"status\":\"OK\"}") && rig_heard(&rig, "\"fine\""));
    /* The next waits, and a call goes to it as it comes. */
    ask(&rig, peer, NEXT);
    SCHED_ASSERT(peer->bytes == 0);
    rig_invoke(&rig, 2, "\"two\"", 5);
    turns(&rig, peer, 3);
    SCHED_ASSERT(heard(peer, "\r\n\r\n\"two\""));
    id_of(peer, id);
    post(&rig, peer, id, "error", "Lambda-Runtime-Function-Error-Type: Function.Bad\r\n", "{\"errorMessage\":\"oh\",\"errorType\":\"Bad\"}");
    SCHED_ASSERT(heard(peer, "202 Accepted") && rig_heard(&rig, "FunctionError") && rig_heard(&rig, "\"oh\""));
    /* A request and the next one in one piece: the answer to the first, then the call. */
    ask(&rig, peer, NEXT);
    rig_invoke(&rig, 3, "3", 1);
    rig_invoke(&rig, 4, "4", 1);
    turns(&rig, peer, 3);
    id_of(peer, id);
    char text[512];
    snprintf(text, sizeof text, "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n3" NEXT, id);
    ask(&rig, peer, text);
    turns(&rig, peer, 3);
    SCHED_ASSERT(strstr(strstr(peer->heard, "202 Accepted"), "\r\n\r\n4") != NULL);
    peer_free(peer);
    rig_free(&rig);
}

static void refusals_have_lambdas_words(void) {
    struct rig rig;
    const struct rig_options options = rig_options();
    struct peer *peer = begun(&rig, &options);
    char id[37], other[] = "00000000-0000-4000-8000-000000000000";
    post(&rig, peer, other, "response", "", "1");
    SCHED_ASSERT(heard(peer, "HTTP/1.1 400 Bad Request\r\n") && heard(peer, "\"errorType\":\"InvalidRequestID\""));
    ask(&rig, peer, NEXT);
    id_of(peer, id);
    ask(&rig, peer, NEXT);
    SCHED_ASSERT(heard(peer, "HTTP/1.1 403 Forbidden\r\n") && heard(peer, "\"errorType\":\"InvalidStateTransition\""));
    post(&rig, peer, other, "error", "", "{}");
    SCHED_ASSERT(heard(peer, "InvalidRequestID"));
    post(&rig, peer, "rubbish", "response", "", "{}");
    SCHED_ASSERT(heard(peer, "InvalidRequestID"));
    post(&rig, peer, id, "response", "Lambda-Runtime-Function-Response-Mode: loud\r\n", "{}");
    SCHED_ASSERT(heard(peer, "400 Bad Request") && heard(peer, "Runtime.InvalidResponseModeHeader"));
    ask(&rig, peer, "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}");
    SCHED_ASSERT(heard(peer, "403 Forbidden"));
    ask(&rig, peer, "GET /2018-06-01/ping HTTP/1.1\r\n\r\n");
    SCHED_ASSERT(heard(peer, "200 OK") && heard(peer, "\r\n\r\npong"));
    ask(&rig, peer, "GET /2018-06-01/nowhere HTTP/1.1\r\n\r\n");
    SCHED_ASSERT(heard(peer, "404 Not Found"));
    ask(&rig, peer, "PUT /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n");
    SCHED_ASSERT(heard(peer, "405 Method Not Allowed"));
    post(&rig, peer, id, "response", "", "\"at last\"");
    SCHED_ASSERT(heard(peer, "202 Accepted") && rig_heard(&rig, "at last"));
    post(&rig, peer, id, "response", "", "\"again\"");
    SCHED_ASSERT(heard(peer, "403 Forbidden") && !rig_heard(&rig, "again"));
    ask(&rig, peer, NEXT);
    struct peer *second = peer_new(&rig.sandboxes[0]);
    turns(&rig, NULL, 2);
    post(&rig, second, id, "response", "", "\"late\"");
    SCHED_ASSERT(heard(second, "400 Bad Request") && heard(second, "InvalidRequestID"));
    ask(&rig, second, NEXT);
    SCHED_ASSERT(heard(second, "403 Forbidden")); /* two at once */
    /* The first gives up: the second may have its place, although nobody has told us yet. */
    close(peer->fd);
    peer->fd = -1;
    ask(&rig, second, NEXT);
    SCHED_ASSERT(second->bytes == 0);
    rig_invoke(&rig, 9, "9", 1);
    turns(&rig, second, 3);
    SCHED_ASSERT(heard(second, "\r\n\r\n9"));
    peer_free(peer);
    peer_free(second);
    rig_free(&rig);
}

static void init_errors(void) {
    static const char *const bodies[] = {"{\"errorMessage\":\"no module\",\"errorType\":\"Runtime.ImportModuleError\"}", "what is this"};
    for (int i = 0; i < 2; i++) {
        struct rig rig;
        const struct rig_options options = rig_options();
        struct peer *peer = begun(&rig, &options);
        char text[512];
        snprintf(text, sizeof text, "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nLambda-Runtime-Function-Error-Type: Runtime.ImportModuleError\r\n"
                 "Content-Length: %zu\r\n\r\n%s", strlen(bodies[i]), bodies[i]);
        ask(&rig, peer, text);
        SCHED_ASSERT(heard(peer, "202 Accepted") && rig.events[SCHED_EV_INIT_FAILED] == 1 && rig.events[SCHED_EV_KILLED] == 1);
        SCHED_ASSERT(rig.sched->stats.sandbox_protocol_errors == 0);
        peer_free(peer);
        rig_free(&rig);
    }
}

static void bodies_in_chunks_and_in_pieces(void) {
    struct rig rig;
    const struct rig_options options = rig_options();
    struct peer *peer = begun(&rig, &options);
    char id[37], text[1024];
    ask(&rig, peer, NEXT);
    id_of(peer, id);
    snprintf(text, sizeof text, "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
             "Expect: 100-continue\r\n\r\n5;x=y\r\n\"chun\r\n4\r\nked\"\r\n0\r\n\r\n" NEXT, id);
    for (size_t i = 0; i < strlen(text); i++) { /* byte by byte */
        rig_write(peer->fd, text + i, 1);
        turns(&rig, peer, 1);
    }
    turns(&rig, peer, 2);
    SCHED_ASSERT(heard(peer, "HTTP/1.1 100 Continue\r\n\r\n") && heard(peer, "202 Accepted") && rig_heard(&rig, "\"chunked\""));
    rig_invoke(&rig, 2, "2", 1);
    turns(&rig, peer, 3);
    id_of(peer, id);
    /* A stream that ends with an error. {"errorType":"E"} in base64. */
    snprintf(text, sizeof text, "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
             "Lambda-Runtime-Function-Response-Mode: streaming\r\nTrailer: Lambda-Runtime-Function-Error-Type\r\n\r\n3\r\nabc\r\n0\r\n"
             "Lambda-Runtime-Function-Error-Type: Function.E\r\nLambda-Runtime-Function-Error-Body: eyJlcnJvclR5cGUiOiJFIn0=\r\n\r\n", id);
    ask(&rig, peer, text);
    SCHED_ASSERT(heard(peer, "202 Accepted") && rig_heard(&rig, "{\"errorType\":\"E\"}") && rig_heard(&rig, "FunctionError"));
    peer_free(peer);
    rig_free(&rig);
}

static void send_all(struct rig *rig, struct peer *peer, const char *bytes, size_t size) {
    for (size_t at = 0; at < size;) {
        const ssize_t sent = send(peer->fd, bytes + at, size - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        at += sent > 0 ? (size_t)sent : 0;
        turns(rig, peer, 1);
    }
    turns(rig, peer, 2);
}

static void large_and_too_large_answers(void) {
    for (int chunked = 0; chunked < 2; chunked++) {
        struct rig rig;
        const struct rig_options options = rig_options();
        struct peer *peer = begun(&rig, &options);
        const size_t most = options.config.answer_bytes_max;
        char id[37], *const text = malloc(3 * most);
        SCHED_ASSERT(text != NULL);
        for (int over = 0; over < 2; over++) {
            ask(&rig, peer, NEXT);
            if (over) {
                rig_invoke(&rig, 2, "2", 1);
                turns(&rig, peer, 3);
            }
            id_of(peer, id);
            const size_t bytes = most + (size_t)over;
            size_t size = (size_t)snprintf(text, 512, "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\n", id);
            size += (size_t)(chunked ? snprintf(text + size, 512, "Transfer-Encoding: chunked\r\n\r\n%zx\r\n", bytes)
                                     : snprintf(text + size, 512, "Content-Length: %zu\r\n\r\n", bytes));
            memset(text + size, 'x', bytes);
            text[size] = text[size + bytes - 1] = '"';
            size += bytes;
            size += chunked ? (size_t)snprintf(text + size, 16, "\r\n0\r\n\r\n") : 0;
            peer->bytes = 0;
            send_all(&rig, peer, text, size);
            if (!over) {
                SCHED_ASSERT(heard(peer, "202 Accepted") && rig.heard_bytes > bytes);
            } else {
                SCHED_ASSERT(heard(peer, "413 Request Entity Too Large") && heard(peer, "RequestEntityTooLarge"));
                SCHED_ASSERT(rig_heard(&rig, "Function.ResponseSizeTooLarge"));
            }
        }
        SCHED_ASSERT(rig.sched->payload_bytes == 0);
        ask(&rig, peer, NEXT); /* it goes on */
        SCHED_ASSERT(peer->bytes == 0);
        free(text);
        peer_free(peer);
        rig_free(&rig);
    }
}

static void a_body_that_breaks_off_is_no_answer(void) {
    struct rig rig;
    const struct rig_options options = rig_options();
    struct peer *peer = begun(&rig, &options);
    char id[37], text[512];
    ask(&rig, peer, NEXT);
    id_of(peer, id);
    struct peer *second = peer_new(&rig.sandboxes[0]);
    snprintf(text, sizeof text, "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf", id);
    ask(&rig, second, text);
    SCHED_ASSERT(shutdown(second->fd, SHUT_WR) == 0);
    turns(&rig, second, 3);
    SCHED_ASSERT(heard(second, "400 Bad Request") && heard(second, "TruncatedHTTPRequest") && second->ended);
    SCHED_ASSERT(!rig_heard(&rig, "half"));
    post(&rig, peer, id, "response", "", "\"whole\"");
    SCHED_ASSERT(heard(peer, "202 Accepted") && rig_heard(&rig, "whole"));
    peer_free(second);
    peer_free(peer);
    rig_free(&rig);
}

static void what_a_dead_runtime_said_counts(void) {
    struct rig rig;
    const struct rig_options options = rig_options();
    struct peer *peer = begun(&rig, &options);
    char id[37], text[512];
    ask(&rig, peer, NEXT);
    id_of(peer, id);
    snprintf(text, sizeof text, "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nContent-Length: 11\r\n\r\n\"last word\"", id);
    rig_write(peer->fd, text, strlen(text));
    close(peer->fd);
    peer->fd = -1;
    struct rig_sandbox *sandbox = &rig.sandboxes[0];
    close(sandbox->fd);
    sandbox->fd = -1;
    rig_reaped(&rig, sandbox->handle, CORE_CAUSE_EXIT, 0);
    turns(&rig, NULL, 3);
    SCHED_ASSERT(rig_heard(&rig, "last word") && rig.events[SCHED_EV_FREED] == 1);
    peer_free(peer);
    rig_free(&rig);
}

static void calls_behind_a_long_one_run_elsewhere(void) {
    struct rig rig;
    struct rig_options options = rig_options();
    struct peer *peer = begun(&rig, &options);
    char id[37];
    ask(&rig, peer, NEXT);
    id_of(peer, id);
    post(&rig, peer, id, "response", "", "1"); /* so fast that calls are queued behind each other */
    ask(&rig, peer, NEXT);
    for (uint32_t i = 2; i < 5; i++) {
        rig_invoke(&rig, i, "\"held\"", 6);
    }
    turns(&rig, peer, 3);
    SCHED_ASSERT(heard(peer, "\"held\""));
    id_of(peer, id);
    /* It takes long: another sandbox is asked for, and gets what was held for this one. */
    struct rig_sandbox *second = NULL;
    for (int i = 0; i < 200 && second == NULL; i++) {
        const struct timespec ms = {.tv_nsec = 1000000};
        nanosleep(&ms, NULL);
        rig_turn(&rig);
        for (int k = 0; k < RIG_SANDBOXES && second == NULL; k++) {
            second = rig.sandboxes[k].handle != 0 && !rig.sandboxes[k].started ? &rig.sandboxes[k] : NULL;
        }
    }
    SCHED_ASSERT(second != NULL);
    rig_start(&rig, second);
    turns(&rig, NULL, 2);
    struct peer *other = peer_new(second);
    for (int i = 0; i < 2; i++) {
        ask(&rig, other, NEXT);
        turns(&rig, other, 2);
        char held[37];
        id_of(other, held);
        SCHED_ASSERT(strcmp(held, id) != 0);
        post(&rig, other, held, "response", "", "\"elsewhere\"");
        SCHED_ASSERT(heard(other, "202 Accepted"));
    }
    /* And it is not given to the first as well. */
    post(&rig, peer, id, "response", "", "\"slow\"");
    SCHED_ASSERT(heard(peer, "202 Accepted") && rig_heard(&rig, "slow"));
    ask(&rig, peer, NEXT);
    SCHED_ASSERT(peer->bytes == 0 && rig.sched->stats.sandbox_protocol_errors == 0);
    SCHED_ASSERT(core_check(rig.sched->core) == NULL);
    peer_free(other);
    peer_free(peer);
    rig_free(&rig);
}

static void a_timeout_ends_it_and_a_late_answer_finds_nobody(void) {
    struct rig rig;
    struct rig_options options = rig_options();
    options.timeout_ms = 20;
    struct peer *peer = begun(&rig, &options);
    char id[37];
    ask(&rig, peer, NEXT);
    id_of(peer, id);
    const struct timespec late = {.tv_nsec = 30 * 1000000};
    nanosleep(&late, NULL);
    turns(&rig, peer, 2);
    SCHED_ASSERT(rig_heard(&rig, "Sandbox.Timedout") && rig.events[SCHED_EV_KILLED] == 1);
    post(&rig, peer, id, "response", "", "\"late\"");
    SCHED_ASSERT(peer->ended && !rig_heard(&rig, "late\""));
    peer_free(peer);
    rig_free(&rig);
}

static void messagepack_events_come_as_json(void) {
    struct rig rig;
    const struct rig_options options = rig_options();
    rig_init_from(&rig, &options);
    rig.api = "";
    /* ["invoke", "hello", {"k": [1, -2, 1.5, nil, true, "\"é", bin "ab"], 7: "x"}] */
    static const uint8_t frame[] = {0x94, 0, 1, 0xa6, 'i', 'n', 'v', 'o', 'k', 'e', 0x92, 0xa5, 'h', 'e', 'l', 'l', 'o',
                                    0x82, 0xa1, 'k', 0x97, 1, 0xfe, 0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0, 0xc0, 0xc3,
                                    0xa3, '"', 0xc3, 0xa9, 0xc4, 2, 'a', 'b', 7, 0xa1, 'x'};
    rig_write(rig.client, frame, sizeof frame);
    struct rig_sandbox *sandbox = rig_started_sandbox(&rig);
    rig_turn(&rig);
    struct peer *peer = peer_new(sandbox);
    ask(&rig, peer, NEXT);
    SCHED_ASSERT(heard(peer, "\r\n\r\n{\"k\":[1,-2,1.5,null,true,\"\\\"\xc3\xa9\",\"YWI=\"],\"7\":\"x\"}"));
    peer_free(peer);
    rig_free(&rig);
}

static void frames_of_the_channel_are_out_of_order(void) {
    static const uint8_t kinds[] = {16, 18, 20};
    for (size_t i = 0; i < sizeof kinds; i++) {
        struct rig rig;
        const struct rig_options options = rig_options();
        struct peer *peer = begun(&rig, &options);
        const uint8_t body[8] = {0};
        rig_frame(&rig.sandboxes[0], kinds[i], 0, 1, 0, body, kinds[i] == 20 ? 0 : sizeof body);
        turns(&rig, peer, 2);
        SCHED_ASSERT(rig.sched->stats.sandbox_protocol_errors == 1);
        peer_free(peer);
        rig_free(&rig);
    }
}

static void a_flood_is_read_slowly_and_connections_are_counted(void) {
    struct rig rig;
    const struct rig_options options = rig_options();
    struct peer *peer = begun(&rig, &options);
    int fds[API_CONNECTIONS_MAX + 1];
    for (int i = 0; i < API_CONNECTIONS_MAX; i++) {
        fds[i] = rig_dial(&rig.sandboxes[0]);
    }
    turns(&rig, peer, 20);
    char byte;
    SCHED_ASSERT(recv(fds[API_CONNECTIONS_MAX - 1], &byte, 1, 0) == 1 && byte == 'H'); /* 503 */
    for (int i = 0; i < API_CONNECTIONS_MAX; i++) {
        close(fds[i]);
    }
    turns(&rig, peer, 3);
    static const char ping[] = "GET /2018-06-01/ping HTTP/1.1\r\n\r\n";
    bool paused = false;
    for (int i = 0; i < 3 * API_BURST && !paused; i++) {
        rig_write(peer->fd, ping, sizeof ping - 1);
        if (i % 64 == 0) {
            turns(&rig, peer, 1);
            peer->bytes = 0;
        }
        paused = rig.sched->paused_apis != NULL;
    }
    SCHED_ASSERT(paused);
    for (int i = 0; i < 1000 && rig.sched->paused_apis != NULL; i++) {
        const struct timespec ms = {.tv_nsec = 1000000};
        nanosleep(&ms, NULL);
        turns(&rig, peer, 1);
        peer->bytes = 0;
    }
    SCHED_ASSERT(rig.sched->paused_apis == NULL);
    struct peer *second = peer_new(&rig.sandboxes[0]);
    turns(&rig, NULL, 2);
    ask(&rig, second, NEXT);
    SCHED_ASSERT(heard(second, "200 OK"));
    peer_free(second);
    peer_free(peer);
    rig_free(&rig);
}

/* Bodies that nobody waits for are not kept beyond a bound, however many connections bring them. */
static void many_bodies_at_once_are_refused(void) {
    struct rig rig;
    const struct rig_options options = rig_options();
    struct peer *first = begun(&rig, &options);
    struct peer *peers[12];
    static char text[API_INIT_ERROR_BYTES_MAX];
    memset(text, 'x', sizeof text - 1);
    unsigned refused = 0;
    for (int i = 0; i < 12; i++) {
        peers[i] = peer_new(&rig.sandboxes[0]);
        turns(&rig, NULL, 2);
        ask(&rig, peers[i], "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nContent-Length: 262144\r\n\r\n");
        send_all(&rig, peers[i], text, 200000);
        SCHED_ASSERT(rig.sched->payload_bytes <= (3 << 19));
    }
    for (int i = 11; i >= 4; i--) { /* those that came last */
        send_all(&rig, peers[i], text, 62144);
        refused += heard(peers[i], "413 Request Entity Too Large");
    }
    SCHED_ASSERT(refused == 7 && rig.events[SCHED_EV_INIT_FAILED] == 1); /* the first that is whole ends it */
    for (int i = 0; i < 12; i++) {
        peer_free(peers[i]);
    }
    peer_free(first);
    rig_free(&rig);
}

static void what_is_no_http_ends_the_connection(void) {
    static const char *const texts[] = {"hello\r\n\r\n", "GET / HTTP/2.0\r\n\r\n", "GET /2018-06-01/ping HTTP/1.1\n\n",
                                        "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                                        "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
                                        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
                                        "GET / HTTP/1.1\r\n folded: 1\r\n\r\n", "GET / HTTP/1.1\r\nExpect: more\r\n\r\n"};
    struct rig rig;
    const struct rig_options options = rig_options();
    struct peer *first = begun(&rig, &options);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct peer *peer = peer_new(&rig.sandboxes[0]);
        turns(&rig, NULL, 2);
        ask(&rig, peer, texts[i]);
        SCHED_ASSERT(heard(peer, "400 Bad Request") && peer->ended);
        peer_free(peer);
    }
    ask(&rig, first, NEXT);
    SCHED_ASSERT(heard(first, "200 OK"));
    peer_free(first);
    rig_free(&rig);
}

/* ---- streams ---------------------------------------------------------------------------------------------------------- */

/* A call whose caller wants pieces, given to the runtime; the head of its answer is sent. */
static struct peer *begin_stream(struct rig *rig, const char *headers) {
    const struct rig_options options = rig_options();
    static const uint8_t frame[] = {0x94, 0, 5, 0xa6, 'i', 'n', 'v', 'o', 'k', 'e', 0x93, 0xa5, 'h', 'e', 'l', 'l', 'o', 0xc4, 1, '5',
                                    0x81, 0xa6, 's', 't', 'r', 'e', 'a', 'm', 0xc3};
    rig_init_from(rig, &options);
    rig->api = "";
    rig_write(rig->client, frame, sizeof frame);
    struct rig_sandbox *sandbox = rig_started_sandbox(rig);
    rig_turn(rig);
    struct peer *peer = peer_new(sandbox);
    char id[37], text[512];
    ask(rig, peer, NEXT);
    id_of(peer, id);
    snprintf(text, sizeof text, "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"
             "Lambda-Runtime-Function-Response-Mode: streaming\r\n%s\r\n", id, headers);
    ask(rig, peer, text);
    return peer;
}

static void an_answer_reaches_its_caller_in_pieces(void) {
    struct rig rig;
    struct peer *peer = begin_stream(&rig, "Content-Type: text/plain\r\n");
    SCHED_ASSERT(rig_heard(&rig, "\x93\x02\xa6stream\x92\x05\xaatext/plain"));
    ask(&rig, peer, "5\r\nfirst\r\n");
    SCHED_ASSERT(rig_heard(&rig, "\x93\x02\xa5" "chunk\x92\x05\xc4\x05" "first") && peer->bytes == 0);
    const size_t before = rig.heard_bytes;
    ask(&rig, peer, "6\r\nsecond\r\n0\r\n\r\n");
    SCHED_ASSERT(rig_heard(&rig, "second") && heard(peer, "202 Accepted"));
    /* And the end: [1, 5, nil, [nil, nil]] */
    SCHED_ASSERT(rig.heard_bytes - before > 7 && memcmp(rig.heard + rig.heard_bytes - 7, "\x94\x01\x05\xc0\x92\xc0\xc0", 7) == 0);
    ask(&rig, peer, NEXT);
    SCHED_ASSERT(peer->bytes == 0);
    peer_free(peer);
    rig_free(&rig);
}

/* What is told of a type is cut, and is a header's value all the same: those have no blanks at their end. */
static void a_long_type_is_cut_before_a_blank(void) {
    char header[512], expected[300] = "\xd9\xf0";
    struct rig rig;
    memset(expected + 2, 't', 240);
    snprintf(header, sizeof header, "Content-Type: %s%16s and more\r\n", expected + 2, "");
    struct peer *peer = begin_stream(&rig, header);
    SCHED_ASSERT(rig_heard(&rig, "\xa6stream\x92\x05\xd9\xf0") && !rig_heard(&rig, "t "));
    peer_free(peer);
    rig_free(&rig);
}

static void a_stream_may_end_with_an_error(void) {
    for (int way = 0; way < 3; way++) {
        struct rig rig;
        struct peer *peer = begin_stream(&rig, "");
        ask(&rig, peer, "5\r\nfirst\r\n");
        if (way == 0) {
            ask(&rig, peer, "0\r\nLambda-Runtime-Function-Error-Type: Function.E\r\n"
                "Lambda-Runtime-Function-Error-Body: eyJlcnJvclR5cGUiOiJFIn0=\r\n\r\n");
            SCHED_ASSERT(heard(peer, "202 Accepted") && rig_heard(&rig, "FunctionError") && rig_heard(&rig, "{\"errorType\":\"E\"}"));
        } else if (way == 1) {
            SCHED_ASSERT(shutdown(peer->fd, SHUT_WR) == 0);
            turns(&rig, peer, 3);
            SCHED_ASSERT(heard(peer, "TruncatedHTTPRequest") && rig_heard(&rig, "FunctionError") && rig_heard(&rig, "Runtime.TruncatedResponse"));
        } else {
            ask(&rig, peer, "what\r\n");
            SCHED_ASSERT(heard(peer, "400 Bad Request") && rig_heard(&rig, "Runtime.TruncatedResponse"));
        }
        SCHED_ASSERT(rig_heard(&rig, "first") && core_check(rig.sched->core) == NULL);
        peer_free(peer);
        rig_free(&rig);
    }
}

static void a_caller_that_does_not_read_stops_the_runtime(void) {
    enum { PIECE = 16384, PIECES = 512 };
    struct rig rig;
    struct peer *peer = begin_stream(&rig, "");
    static char piece[PIECE + 16];
    const size_t size = (size_t)snprintf(piece, sizeof piece, "%x\r\n", PIECE) + PIECE + 2;
    memset(piece + size - PIECE - 2, 'z', PIECE);
    memcpy(piece + size - 2, "\r\n", 2);
    const int client = rig.client;
    rig.client = -1; /* it does not read */
    size_t sent = 0, stuck = 0, heard_z = 0;
    while (sent < size * PIECES && stuck < 20) {
        const ssize_t took = send(peer->fd, piece + sent % size, size - sent % size, MSG_DONTWAIT | MSG_NOSIGNAL);
        stuck = took > 0 ? 0 : stuck + 1;
        sent += took > 0 ? (size_t)took : 0;
        rig_turn(&rig);
        SCHED_ASSERT(rig.sched->clients[0].output.bytes < (512 << 10) && rig.sched->payload_bytes == 0);
    }
    SCHED_ASSERT(stuck == 20 && rig.sched->held_api != NULL); /* the runtime's socket is full */
    for (size_t quiet = 0; quiet < 50;) {
        static char bytes[1 << 16];
        const ssize_t got = recv(client, bytes, sizeof bytes, MSG_DONTWAIT);
        for (ssize_t i = 0; i < got; i++) {
            heard_z += bytes[i] == 'z';
        }
        const size_t rest = size * PIECES - sent;
        const ssize_t took = rest == 0 ? 0 : send(peer->fd, piece + sent % size, size - sent % size, MSG_DONTWAIT | MSG_NOSIGNAL);
        sent += took > 0 ? (size_t)took : 0;
        quiet = got > 0 || took > 0 ? 0 : quiet + 1;
        rig_turn(&rig);
        SCHED_ASSERT(rig.sched->clients[0].output.bytes < (512 << 10));
    }
    SCHED_ASSERT(heard_z == (size_t)PIECE * PIECES);
    rig.client = client;
    ask(&rig, peer, "0\r\n\r\n");
    SCHED_ASSERT(heard(peer, "202 Accepted"));
    peer_free(peer);
    rig_free(&rig);
}

static void a_caller_that_goes_stops_nothing(void) {
    struct rig rig;
    struct peer *peer = begin_stream(&rig, "");
    close(rig.client);
    rig.client = -1;
    turns(&rig, peer, 2);
    ask(&rig, peer, "5\r\nfirst\r\n");
    ask(&rig, peer, "0\r\n\r\n");
    SCHED_ASSERT(heard(peer, "202 Accepted"));
    peer_free(peer);
    rig_free(&rig);
}

int main(void) {
    RUN(a_call_goes_round);
    RUN(refusals_have_lambdas_words);
    RUN(init_errors);
    RUN(bodies_in_chunks_and_in_pieces);
    RUN(large_and_too_large_answers);
    RUN(a_body_that_breaks_off_is_no_answer);
    RUN(what_a_dead_runtime_said_counts);
    RUN(calls_behind_a_long_one_run_elsewhere);
    RUN(a_timeout_ends_it_and_a_late_answer_finds_nobody);
    RUN(messagepack_events_come_as_json);
    RUN(frames_of_the_channel_are_out_of_order);
    RUN(a_flood_is_read_slowly_and_connections_are_counted);
    RUN(many_bodies_at_once_are_refused);
    RUN(what_is_no_http_ends_the_connection);
    RUN(an_answer_reaches_its_caller_in_pieces);
    RUN(a_long_type_is_cut_before_a_blank);
    RUN(a_stream_may_end_with_an_error);
    RUN(a_caller_that_does_not_read_stops_the_runtime);
    RUN(a_caller_that_goes_stops_nothing);
    return 0;
}
