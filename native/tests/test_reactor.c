/* The reactor turn by turn: what a client and a sandbox see of each other, and what becomes of either's bad manners. */
#include <poll.h>

#include "rig.h"

static void invoke_is_answered(void) {
    struct rig rig;
    rig_init(&rig);
    rig_turn(&rig);
    rig_invoke(&rig, 7, "{\"a\":1}", 7);
    struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
    uint8_t body[256];
    SCHED_ASSERT(rig_take_frame(sandbox, body, sizeof body).kind == 1);
    const struct rig_header call = rig_take_frame(sandbox, body, sizeof body);
    SCHED_ASSERT(call.kind == 2 && call.flags == 0 && call.length == 16 + 7 && memcmp(body + 16, "{\"a\":1}", 7) == 0);
    rig_result(sandbox, 0, call.seq, "{\"b\":2}", 7);
    rig_turn(&rig);
    static const uint8_t expected[] = "\x94\x01\x07\xc0\x92\xc4\x07{\"b\":2}\xc0";
    SCHED_ASSERT(rig.heard_bytes == sizeof expected - 1 && memcmp(rig.heard, expected, sizeof expected - 1) == 0);
    rig_free(&rig);
}

static void large_payloads_pass_in_pieces(void) {
    enum { SIZE = 100 << 10 };
    struct rig rig;
    rig_init(&rig);
    uint8_t *frame = malloc(64 + SIZE);
    SCHED_ASSERT(frame != NULL);
    uint8_t *at = pack_uint(pack_u8(pack_array(frame, 4), 0), 70000);
    at = pack_bin_head(pack_str(pack_array(pack_str(at, "invoke"), 2), "hello"), SIZE);
    for (int i = 0; i < SIZE; i++) {
        at[i] = (uint8_t)(i * 7);
    }
    const size_t bytes = (size_t)(at + SIZE - frame);
    for (size_t sent = 0; sent < bytes;) {
        const size_t part = bytes - sent < 40000 ? bytes - sent : 40000;
        const ssize_t took = send(rig.client, frame + sent, part, MSG_DONTWAIT);
        SCHED_ASSERT(took > 0 || errno == EAGAIN);
        sent += took > 0 ? (size_t)took : 0;
        rig_turn(&rig);
    }
    struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
    uint8_t *body = malloc(16 + SIZE);
    SCHED_ASSERT(body != NULL);
    SCHED_ASSERT(rig_take_frame(sandbox, body, 64).kind == 1);
    struct rig_header call;
    SCHED_ASSERT(recv(sandbox->fd, &call, sizeof call, 0) == (ssize_t)sizeof call && call.length == 16 + SIZE);
    for (size_t got = 0; got < call.length;) {
        const ssize_t part = recv(sandbox->fd, body + got, call.length - got, MSG_DONTWAIT);
        SCHED_ASSERT(part > 0 || errno == EAGAIN);
        got += part > 0 ? (size_t)part : 0;
        rig_turn(&rig);
    }
    SCHED_ASSERT(memcmp(body + 16, at, SIZE) == 0);
    /* And back, as the sandbox's socket takes it. */
    const struct rig_header head = {.length = 8 + SIZE, .kind = 16, .seq = call.seq, .time_ns = wall_ns()};
    uint8_t *answer = malloc(sizeof head + 8 + SIZE);
    SCHED_ASSERT(answer != NULL);
    memcpy(answer, &head, sizeof head);
    memcpy(answer + sizeof head, &head.time_ns, 8);
    memcpy(answer + sizeof head + 8, at, SIZE);
    *sandbox->progress = call.seq;
    for (size_t sent = 0; sent < sizeof head + 8 + SIZE;) {
        const ssize_t took = send(sandbox->fd, answer + sent, sizeof head + 8 + SIZE - sent, MSG_DONTWAIT);
        SCHED_ASSERT(took > 0 || errno == EAGAIN);
        sent += took > 0 ? (size_t)took : 0;
        rig_turn(&rig);
    }
    for (int i = 0; i < 20; i++) {
        rig_turn(&rig);
    }
    SCHED_ASSERT(rig.heard_bytes == 1 + 1 + 5 + 1 + 1 + 5 + SIZE + 1);
    SCHED_ASSERT(memcmp(rig.heard + 14, at, SIZE) == 0);
    SCHED_ASSERT(rig.sched->payload_bytes == 0);
    free(frame);
    free(body);
    free(answer);
    rig_free(&rig);
}

static void a_forged_answer_ends_its_author_alone(void) {
    struct rig rig;
    rig_init(&rig);
    rig_invoke(&rig, 1, "1", 1);
    struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
    const uint64_t handle = sandbox->handle;
    rig_result(sandbox, 0, 4711, "stolen", 6); /* not its call */
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "SandboxDied") && rig_heard(&rig, "protocol") && !rig_heard(&rig, "stolen"));
    rig_reaped(&rig, handle, CORE_CAUSE_KILLED, 9);
    rig_turn(&rig);
    SCHED_ASSERT(rig.events[SCHED_EV_FREED] == 1);
    /* The function goes on. */
    rig_invoke(&rig, 2, "2", 1);
    struct rig_sandbox *next = rig_ready_sandbox(&rig);
    rig_result(next, 0, 1, "fine", 4);
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "fine"));
    rig_free(&rig);
}

static void half_a_value_cannot_be_smuggled_into_the_stream(void) {
    static const char *const bad[] = {"\xdd\xff\xff\xff\xff", "\xc1", "\x92\x01", "\x01\x02", ""};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct rig rig;
        rig_init(&rig);
        rig_invoke(&rig, 1, "1", 1);
        struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
        rig_result(sandbox, 1, 1, bad[i], strlen(bad[i]));
        rig_turn(&rig);
        SCHED_ASSERT(rig.events[SCHED_EV_FAULT] == 1 && rig.sched->stats.sandbox_protocol_errors == 1);
        SCHED_ASSERT(rig_heard(&rig, "SandboxDied"));
        SCHED_ASSERT(rig_value(rig.heard, rig.heard_bytes) == rig.heard_bytes);
        rig_free(&rig);
    }
}

static void broken_frames_end_the_sandbox(void) {
    const struct rig_header bad[] = {
        {.kind = 99}, {.kind = 1}, {.kind = 16, .length = 7}, {.kind = 16, .length = 0xffffffff}, {.kind = 17, .length = 65537},
        {.kind = 18, .length = 7}, {.kind = 18, .length = 1 << 16}, {.kind = 20, .length = 1}, {.kind = 19, .length = 1 << 20},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct rig rig;
        rig_init(&rig);
        rig_invoke(&rig, 1, "1", 1);
        struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
        rig_write(sandbox->fd, &bad[i], sizeof bad[i]);
        rig_turn(&rig);
        SCHED_ASSERT(rig.events[SCHED_EV_FAULT] == 1);
        SCHED_ASSERT(rig_heard(&rig, "SandboxDied"));
        rig_free(&rig);
    }
}

static void calls_behind_the_one_that_died_run_elsewhere(void) {
    struct rig rig;
    rig_init_with(&rig, 1, 5000000000ULL);
    rig_invoke(&rig, 1, "1", 1);
    struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
    const uint64_t handle = sandbox->handle;
    rig_result(sandbox, 0, 1, "one", 3);
    rig_turn(&rig);
    for (uint32_t i = 2; i < 6; i++) {
        rig_invoke(&rig, i, "x", 1);
    }
    rig_turn(&rig);
    *sandbox->progress = 2; /* its second call has begun: that one is lost, no other */
    close(sandbox->fd);
    sandbox->fd = -1;
    rig_turn(&rig);
    rig_reaped(&rig, handle, CORE_CAUSE_SIGNAL, 11);
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "segmentation fault"));
    struct rig_sandbox *next = rig_ready_sandbox(&rig);
    for (uint32_t seq = 1; seq < 4; seq++) {
        rig_result(next, 0, seq, "late", 4);
        rig_turn(&rig);
    }
    size_t at = 0;
    int answers = 0;
    while (at < rig.heard_bytes) {
        const size_t bytes = rig_value(rig.heard + at, rig.heard_bytes - at);
        SCHED_ASSERT(bytes > 0);
        at += bytes;
        answers++;
    }
    SCHED_ASSERT(answers == 5);
    close(sandbox->output);
    sandbox->output = -1;
    rig_free(&rig);
}

static void refusals_name_account_and_resource(void) {
    struct rig rig;
    rig_init_with(&rig, 0, 0);
    rig_invoke(&rig, 1, "1", 1);
    rig_turn(&rig);
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "Throttled") && rig_heard(&rig, "function:hello") && rig_heard(&rig, "concurrency"));
    rig_free(&rig);
}

static void a_broken_client_gets_one_error_and_is_closed(void) {
    struct rig rig;
    rig_init(&rig);
    rig_turn(&rig);
    rig_write(rig.client, "\xc1junk", 5);
    rig_turn(&rig);
    rig_turn(&rig);
    SCHED_ASSERT(rig_value(rig.heard, rig.heard_bytes) == rig.heard_bytes && rig.heard[2] == 0);
    uint8_t byte;
    SCHED_ASSERT(recv(rig.client, &byte, 1, 0) == 0);
    SCHED_ASSERT(rig.sched->clients_open == 0 && rig.sched->stats.rpc_errors == 1);
    rig_free(&rig);
}

static void a_closed_connection_cancels_what_waits(void) {
    struct rig rig;
    rig_init(&rig);
    rig_turn(&rig);
    for (uint32_t i = 0; i < 10; i++) {
        rig_invoke(&rig, i, "x", 1);
    }
    rig_turn(&rig);
    struct core_totals totals;
    core_totals(rig.sched->core, &totals);
    SCHED_ASSERT(totals.calls == 10);
    close(rig.client);
    rig.client = -1;
    rig_turn(&rig);
    core_totals(rig.sched->core, &totals);
    SCHED_ASSERT(totals.calls == 0 && totals.answers == 10);
    rig_free(&rig);
}

static void cancel_takes_a_waiting_call_back(void) {
    struct rig rig;
    rig_init(&rig);
    rig_turn(&rig);
    rig_invoke(&rig, 5, "x", 1);
    rig_write(rig.client, "\x93\x02\xa6" "cancel\x91\x05", 11); /* in the same batch as its call */
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "Cancelled"));
    rig_write(rig.client, "\x93\x02\xa6" "cancel\x91\x05", 11); /* and once more, for nothing */
    rig_turn(&rig);
    SCHED_ASSERT(rig_value(rig.heard, rig.heard_bytes) == rig.heard_bytes);
    rig_free(&rig);
}

static void names_come_and_go(void) {
    struct rig rig;
    rig_init(&rig);
    rig_turn(&rig);
    struct rpc_slice arn;
    for (uint32_t round = 0; round < 3; round++) {
        char name[16];
        for (uint32_t i = 0; i < 3000; i++) {
            SCHED_ASSERT(names_put(rig.sched, name, (size_t)snprintf(name, sizeof name, "n%u", i), i + 1, 0, 0));
        }
        for (uint32_t i = 0; i < 3000; i++) {
            SCHED_ASSERT(names_find(rig.sched, (uint8_t *)name, (size_t)snprintf(name, sizeof name, "n%u", i), &arn) == i + 1);
            names_remove(rig.sched, name, strlen(name));
            SCHED_ASSERT(names_find(rig.sched, (uint8_t *)name, strlen(name), &arn) == 0);
        }
    }
    SCHED_ASSERT(names_find(rig.sched, (const uint8_t *)"hello", 5, &arn) == RIG_FUNCTION && arn.at == NULL);
    rig_free(&rig);
}

/* A quarter of 2^32: over 40,000 draws the part is within five standard deviations (0.011). Nothing and one are exact. */
static void a_name_of_two_functions(void) {
    enum { DRAWS = 40000 };
    struct rig rig;
    rig_init(&rig);
    rig_turn(&rig);
    SCHED_ASSERT(names_put(rig.sched, "live", 4, 7, 9, 1U << 30));
    uint32_t others = 0;
    struct rpc_slice arn;
    for (uint32_t i = 0; i < DRAWS; i++) {
        const uint64_t found = names_find(rig.sched, (const uint8_t *)"live", 4, &arn);
        SCHED_ASSERT(found == 7 || found == 9);
        others += found == 9;
    }
    SCHED_ASSERT(others > DRAWS / 4 - DRAWS / 90 && others < DRAWS / 4 + DRAWS / 90);
    SCHED_ASSERT(names_put(rig.sched, "live", 4, 7, 9, 0));
    for (uint32_t i = 0; i < 1000; i++) {
        SCHED_ASSERT(names_find(rig.sched, (const uint8_t *)"live", 4, &arn) == 7);
    }
    rig_free(&rig);
}

/* A call by a name that has an ARN of its own is told that; one by any other name is told nothing. */
static void calls_are_told_by_which_name(void) {
    static const char with[] = "live\0arn:live";
    static const char again[] = "live\0arn:live:2";
    struct rig rig;
    rig_init(&rig);
    struct sched_command put = rig_command(SCHED_CMD_NAME_PUT);
    put.function = RIG_FUNCTION;
    SCHED_ASSERT(sched_post(rig.sched, &put, (const uint8_t *)with, sizeof with - 1));
    SCHED_ASSERT(sched_post(rig.sched, &put, (const uint8_t *)again, sizeof again - 1));
    rig_turn(&rig);
    struct rig_sandbox *sandbox = NULL;
    for (uint32_t seq = 1; seq <= 2; seq++) {
        uint8_t frame[64];
        uint8_t *at = pack_uint(pack_u8(pack_array(frame, 4), 0), seq);
        at = pack_array(pack_str(at, "invoke"), 2);
        at = pack_bin_head(pack_str(at, seq == 1 ? "live" : "hello"), 1);
        *at++ = '1';
        rig_write(rig.client, frame, (size_t)(at - frame));
        if (sandbox == NULL) {
            sandbox = rig_ready_sandbox(&rig);
        }
        rig_turn(&rig);
        uint8_t body[256];
        struct rig_header head = rig_take_frame(sandbox, body, sizeof body);
        while (head.kind != 2) {
            head = rig_take_frame(sandbox, body, sizeof body);
        }
        static const uint8_t extension[] = {3, 0, 10, 0, 'a', 'r', 'n', ':', 'l', 'i', 'v', 'e', ':', '2'};
        SCHED_ASSERT(head.extra == (seq == 1 ? sizeof extension : 0) && head.length == 16U + head.extra + 1);
        SCHED_ASSERT(memcmp(body + 16, extension, head.extra) == 0 && body[16 + head.extra] == '1');
        rig_result(sandbox, 0, head.seq, "1", 1);
        rig_turn(&rig);
    }
    rig_free(&rig);
}

static void invoke_named(int client, const char *type) {
    static const uint8_t id[16] = "0123456789abcdef";
    uint8_t frame[128];
    uint8_t *at = pack_uint(pack_u8(pack_array(frame, 4), 0), 7);
    at = pack_bin_head(pack_str(pack_array(pack_str(at, "invoke"), 3), "hello"), 1);
    *at++ = '1';
    at = pack_str(pack_str(pack_map(at, 2), "type"), type);
    at = pack_bin_head(pack_str(at, "request_id"), sizeof id);
    memcpy(at, id, sizeof id);
    rig_write(client, frame, (size_t)(at + sizeof id - frame));
}

/* Only the service's own connection names its calls. */
static void only_the_service_names_a_call(void) {
    struct rig rig;
    rig_init(&rig);
    static const char *const types[] = {"sync", "event", "dryrun"};
    for (unsigned i = 0; i < sizeof types / sizeof *types; i++) {
        invoke_named(rig.client, types[i]);
        rig_turn(&rig);
        rig_turn(&rig);
        SCHED_ASSERT(rig_heard(&rig, "unknown key \"request_id\"") && rig.sched->stats.bad_requests == i + 1);
    }
    SCHED_ASSERT(rig.events[SCHED_EV_NEED] == 0 && rig.events[SCHED_EV_METHOD] == 0);
    close(rig.client);
    rig.client = rig_connect(&rig, SCHED_RIGHT_ALL | SCHED_RIGHT_OWN);
    rig_turn(&rig);
    invoke_named(rig.client, "sync");
    rig_turn(&rig);
    struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
    uint8_t body[256];
    struct rig_header head = {0};
    while (head.kind != 2) { /* behind START */
        head = rig_take_frame(sandbox, body, sizeof body);
    }
    SCHED_ASSERT(head.length >= 16 && memcmp(body, "0123456789abcdef", 16) == 0);
    rig_result(sandbox, 0, head.seq, "1", 1);
    rig_turn(&rig);
    SCHED_ASSERT(rig.sched->stats.bad_requests == 3);
    rig_free(&rig);
}

/* A function is removed: what its sandbox hears, and what the service is told. */
static void removal(uint32_t grace_ms, bool ready) {
    struct rig rig;
    struct rig_options options = rig_options();
    options.config.stop_grace_ms = grace_ms;
    rig_init_from(&rig, &options);
    rig_invoke(&rig, 1, "1", 1);
    struct rig_sandbox *sandbox = rig_started_sandbox(&rig);
    uint8_t body[64];
    rig_turn(&rig);
    SCHED_ASSERT(rig_take_frame(sandbox, body, sizeof body).kind == 1);
    if (ready) {
        rig_ready(sandbox);
        rig_turn(&rig);
        rig_turn(&rig);
        SCHED_ASSERT(rig_take_frame(sandbox, body, sizeof body).kind == 2);
        rig_result(sandbox, 0, 1, "1", 1);
        rig_turn(&rig);
    }
    struct core_event remove = {.kind = CORE_EV_FUNCTION_REMOVE};
    remove.u.function.handle = RIG_FUNCTION;
    rig_core(&rig, &remove, NULL);
    rig_turn(&rig);
    SCHED_ASSERT(rig.events[SCHED_EV_KILLED] == 1);
    const bool told = ready && grace_ms > 0;
    SCHED_ASSERT(rig.stop_ms == (told ? grace_ms : 0));
    if (told) {
        SCHED_ASSERT(rig_take_frame(sandbox, body, sizeof body).kind == 3);
        rig_frame(sandbox, 17, 0, 0, 0, "bye\n", 4); /* still heard */
        rig_turn(&rig);
        SCHED_ASSERT(rig.sched->stats.sandbox_protocol_errors == 0);
    } else {
        SCHED_ASSERT(recv(sandbox->fd, body, sizeof body, MSG_DONTWAIT) == -1 && errno == EAGAIN);
    }
    rig_reaped(&rig, sandbox->handle, CORE_CAUSE_EXIT, 0);
    rig_turn(&rig);
    SCHED_ASSERT(rig.events[SCHED_EV_FREED] == 1 && rig.events[SCHED_EV_FUNCTION_FREED] == 1);
    rig_free(&rig);
}

static void an_idle_sandbox_is_told_to_stop_and_any_other_killed(void) {
    removal(500, true);
    removal(500, false);
    removal(0, true);
}

/* Of both calls: what C code wrote to descriptor 1 stands between START and END, also where epoll tells of the channel first. */
static void what_c_code_printed_stands_before_its_end_line(void) {
    struct rig rig;
    struct rig_options options = rig_options();
    char path[320];
    snprintf(options.config.log_dir, sizeof options.config.log_dir, "/tmp/test-reactor-%d", (int)getpid());
    rig_init_from(&rig, &options);
    rig_invoke(&rig, 1, "1", 1);
    struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
    for (uint32_t seq = 1; seq <= 2; seq++) {
        *sandbox->progress = seq;
        SCHED_ASSERT(write(sandbox->output, "from C\n", 7) == 7);
        rig_result(sandbox, 0, seq, "1", 1);
        rig_turn(&rig);
        if (seq == 1) {
            rig_invoke(&rig, 2, "2", 1);
            rig_turn(&rig);
        }
    }
    snprintf(path, sizeof path, "%s/hello.journal", options.config.log_dir);
    rig_free(&rig);
    uint8_t bytes[4096];
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t got = read(fd, bytes, sizeof bytes);
    close(fd);
    static const uint8_t expected[] = {JOURNAL_START, JOURNAL_LOG, JOURNAL_END, JOURNAL_START, JOURNAL_LOG, JOURNAL_END};
    size_t at = 0;
    for (size_t i = 0; i < sizeof expected; i++) {
        struct journal_record head;
        SCHED_ASSERT((size_t)got >= at + sizeof head);
        memcpy(&head, bytes + at, sizeof head);
        SCHED_ASSERT(head.kind == expected[i]);
        at += head.size;
    }
    SCHED_ASSERT((size_t)got == at && unlink(path) == 0 && rmdir(options.config.log_dir) == 0);
}

static void journal_lines_are_lambdas(void) {
    char out[8192];
    uint8_t record[256];
    const struct journal_end end = {.run_ns = 3010000, .init_ns = 110100000, .memory_mb = 128, .memory_peak_mb = 36};
    struct journal_record head = {.kind = JOURNAL_CALL};
    memset(head.request_id, 0xab, 16);
    head.size = (uint32_t)(sizeof head + sizeof end + 7);
    memcpy(record, &head, sizeof head);
    memcpy(record + sizeof head, &end, sizeof end);
    memcpy(record + sizeof head + sizeof end, "$LATEST", 7);
    size_t used = 0;
    const int64_t bytes = sched_render_record(record, head.size, out, sizeof out, &used);
    SCHED_ASSERT(bytes > 0 && used == head.size);
    out[bytes] = '\0';
    SCHED_ASSERT(strcmp(out, "START RequestId: abababab-abab-abab-abab-abababababab Version: $LATEST\n"
                             "END RequestId: abababab-abab-abab-abab-abababababab\n"
                             "REPORT RequestId: abababab-abab-abab-abab-abababababab\tDuration: 3.01 ms\tBilled Duration: 114 ms\t"
                             "Memory Size: 128 MB\tMax Memory Used: 36 MB\tInit Duration: 110.10 ms\t\n") == 0);
    for (size_t cut = 0; cut < head.size; cut++) {
        SCHED_ASSERT(sched_render_record(guarded(record, cut), cut, out, sizeof out, &used) == -1 && used == 0);
    }
}

/* The call that waited for READY is on its way before the service is woken to hear of it; which it is, a moment later. */
static void the_service_is_not_woken_beside_a_cold_call(void) {
    struct rig rig;
    rig_init(&rig);
    rig_turn(&rig);
    rig_invoke(&rig, 7, "1", 1);
    struct rig_sandbox *sandbox = rig_started_sandbox(&rig);
    rig_turn(&rig);
    rig_ready(sandbox);
    SCHED_ASSERT(sched_turn(rig.sched, 0) >= 0);
    struct pollfd bell = {.fd = sched_events_fd(rig.sched), .events = POLLIN};
    uint8_t body[256];
    SCHED_ASSERT(rig_take_frame(sandbox, body, sizeof body).kind == 1 && rig_take_frame(sandbox, body, sizeof body).kind == 2);
    SCHED_ASSERT(poll(&bell, 1, 0) == 0);
    for (int i = 0; i < 20 && poll(&bell, 1, 0) == 0; i++) {
        SCHED_ASSERT(sched_turn(rig.sched, 1000) >= 0); /* its own timer ends the wait */
    }
    SCHED_ASSERT(poll(&bell, 1, 0) == 1);
    rig_events(&rig);
    SCHED_ASSERT(rig.events[SCHED_EV_READY] == 1);
    rig_free(&rig);
}

int main(void) {
    RUN(invoke_is_answered);
    RUN(large_payloads_pass_in_pieces);
    RUN(a_forged_answer_ends_its_author_alone);
    RUN(half_a_value_cannot_be_smuggled_into_the_stream);
    RUN(broken_frames_end_the_sandbox);
    RUN(calls_behind_the_one_that_died_run_elsewhere);
    RUN(refusals_name_account_and_resource);
    RUN(a_broken_client_gets_one_error_and_is_closed);
    RUN(a_closed_connection_cancels_what_waits);
    RUN(cancel_takes_a_waiting_call_back);
    RUN(names_come_and_go);
    RUN(a_name_of_two_functions);
    RUN(calls_are_told_by_which_name);
    RUN(only_the_service_names_a_call);
    RUN(an_idle_sandbox_is_told_to_stop_and_any_other_killed);
    RUN(what_c_code_printed_stands_before_its_end_line);
    RUN(journal_lines_are_lambdas);
    RUN(the_service_is_not_woken_beside_a_cold_call);
    return 0;
}
