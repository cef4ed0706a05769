/* The reactor against clients, sandboxes and a service that do what they should not: nobody else may notice, nothing may grow without
 * bound, no call may run twice. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/un.h>

#include "rig.h"

static unsigned answers(const struct rig *rig) {
    unsigned count = 0;
    for (size_t at = 0; at < rig->heard_bytes; count++) {
        const size_t bytes = rig_value(rig->heard + at, rig->heard_bytes - at);
        SCHED_ASSERT(bytes > 0);
        at += bytes;
    }
    return count;
}

static struct core_totals totals(const struct rig *rig) {
    struct core_totals out;
    core_totals(rig->sched->core, &out);
    return out;
}

/* ---- the service ------------------------------------------------------------------------------------------------------ */

static void probes_need_no_room(void) {
    struct rig rig;
    rig_init(&rig);
    rig_invoke(&rig, 1, "1", 1);
    const struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
    rig.sched->stepping = true; /* as while actions are obeyed: a step of a machine that stood still may probe everybody */
    for (int i = 0; i < 2 * ACTIONS; i++) {
        channel_probe(rig.sched, sandbox->handle);
    }
    rig.sched->stepping = false;
    rig_turn(&rig);
    rig_result(sandbox, 0, 1, "fine", 4);
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "fine"));
    rig_free(&rig);
}

static void a_service_that_answers_twice_upsets_no_call(void) {
    struct rig rig;
    rig_init(&rig);
    rig_invoke(&rig, 1, "1", 1);
    const struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
    rig_method(&rig, false, 2, "ping");
    rig_turn(&rig);
    struct sched_command respond = rig_command(SCHED_CMD_RESPOND);
    respond.connection = rig.method_connection;
    respond.msgid = 2;
    respond.flags = 1;
    for (int i = 0; i < 3; i++) {
        SCHED_ASSERT(sched_post(rig.sched, &respond, (const uint8_t *)"\xa4pong", 5));
    }
    rig_turn(&rig);
    rig_result(sandbox, 0, 1, "fine", 4);
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "fine"));
    rig_free(&rig);
}

static void the_service_gives_no_events_of_the_reactors_own(void) {
    static const enum core_event_kind kinds[] = {CORE_EV_INVOKE, CORE_EV_REPLY, CORE_EV_CANCEL, CORE_EV_SANDBOX_READY,
                                                 CORE_EV_SANDBOX_INIT_FAILED, CORE_EV_SANDBOX_GONE, CORE_EV_PROGRESS};
    struct rig rig;
    rig_init(&rig);
    rig_invoke(&rig, 1, "1", 1);
    rig_turn(&rig);
    rig_turn(&rig);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct core_event event = {.kind = kinds[i]};
        for (int k = 0; k < RIG_SANDBOXES; k++) {
            if (rig.sandboxes[k].handle != 0) {
                event.u.sandbox.handle = rig.sandboxes[k].handle; /* READY without a channel: where would its calls go? */
            }
        }
        rig_core(&rig, &event, NULL);
    }
    rig_turn(&rig);
    rig_turn(&rig);
    SCHED_ASSERT(rig.events[SCHED_EV_FAULT] == sizeof kinds / sizeof *kinds);
    rig_free(&rig);
}

static void a_sandbox_is_started_once(void) {
    struct rig rig;
    rig_init(&rig);
    rig_invoke(&rig, 1, "1", 1);
    rig_turn(&rig);
    rig_turn(&rig);
    struct rig_sandbox *sandbox = NULL;
    for (int i = 0; i < RIG_SANDBOXES && sandbox == NULL; i++) {
        sandbox = rig.sandboxes[i].handle != 0 ? &rig.sandboxes[i] : NULL;
    }
    SCHED_ASSERT(sandbox != NULL);
    rig_start(&rig, sandbox);
    const struct rig_sandbox first = *sandbox;
    sandbox->started = false;
    rig_start(&rig, sandbox);
    struct rig_sandbox second = *sandbox;
    *sandbox = first;
    rig_turn(&rig);
    uint8_t byte;
    SCHED_ASSERT(rig.events[SCHED_EV_FAULT] == 1 && recv(second.fd, &byte, 1, 0) == 0);
    rig_close(&second);
    rig_ready(sandbox);
    rig_turn(&rig);
    rig_result(sandbox, 0, 1, "fine", 4);
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "fine"));
    rig_free(&rig);
}

static void adopting_opens_once(void) {
    struct rig rig;
    rig_init(&rig);
    rig_turn(&rig);
    SCHED_ASSERT(rig.events[SCHED_EV_OPENED] == 1);
    close(rig.client);
    rig.client = -1;
    rig_turn(&rig);
    SCHED_ASSERT(rig.events[SCHED_EV_CLOSED] == 1);
    rig_free(&rig);
}

/* ---- sandboxes -------------------------------------------------------------------------------------------------------- */

/* Several calls in the channel of a sandbox that is ready and has answered one before. */
static struct rig_sandbox *queue_ahead(struct rig *rig, uint32_t calls) {
    rig_init_with(rig, 1, 5000000000ULL);
    rig_invoke(rig, 1, "1", 1);
    struct rig_sandbox *sandbox = rig_ready_sandbox(rig);
    rig_result(sandbox, 0, 1, "one", 3);
    rig_turn(rig);
    for (uint32_t i = 0; i < calls; i++) {
        rig_invoke(rig, 2 + i, "x", 1);
    }
    rig_turn(rig);
    SCHED_ASSERT(totals(rig).sends == 1 + calls);
    return sandbox;
}

/* The launcher's word on a death may overtake what the dead one wrote. */
static void answered_calls_are_not_run_again_when_the_death_is_known_first(void) {
    struct rig rig;
    struct rig_sandbox *sandbox = queue_ahead(&rig, 4);
    for (uint32_t seq = 2; seq < 5; seq++) {
        rig_result(sandbox, 0, seq, "answered", 8);
    }
    *sandbox->progress = 5;
    close(sandbox->fd);
    sandbox->fd = -1;
    rig_reaped(&rig, sandbox->handle, CORE_CAUSE_SIGNAL, 11); /* handled before the channel is read */
    rig_turn(&rig);
    SCHED_ASSERT(totals(&rig).calls == 0 && answers(&rig) == 5);
    SCHED_ASSERT(rig_heard(&rig, "answered") && rig_heard(&rig, "segmentation fault"));
    SCHED_ASSERT(rig.events[SCHED_EV_FREED] == 1);
    rig_free(&rig);
}

/* ---- the shelf -------------------------------------------------------------------------------------------------------- */

static void nap_ms(long ms) {
    const struct timespec time = {.tv_nsec = ms * 1000000};
    nanosleep(&time, NULL);
}

static void answers_behind_a_long_call_are_taken_from_the_shelf(void) {
    struct rig rig;
    struct rig_sandbox *sandbox = queue_ahead(&rig, 4);
    rig_shelve(sandbox, 2, "shelf-two");
    rig_shelve(sandbox, 3, "shelf-three");
    *sandbox->progress = 4; /* which now takes long */
    for (int i = 0; i < 40 && !rig_heard(&rig, "shelf-three"); i++) {
        nap_ms(1);
        rig_turn(&rig);
    }
    SCHED_ASSERT(rig_heard(&rig, "shelf-two") && rig_heard(&rig, "shelf-three") && answers(&rig) == 3);
    /* Then it sends what it had gathered: two of them are known. */
    sandbox->progress[2] = 0;
    sandbox->progress[1]++;
    rig_result(sandbox, 0, 2, "shelf-two", 9);
    rig_result(sandbox, 0, 3, "shelf-three", 11);
    rig_result(sandbox, 0, 4, "four", 4);
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "four") && answers(&rig) == 4 && rig.events[SCHED_EV_FAULT] == 0);
    rig_free(&rig);
}

static void answers_of_a_dead_sandbox_are_taken_from_the_shelf(void) {
    struct rig rig;
    struct rig_sandbox *sandbox = queue_ahead(&rig, 4);
    rig_result(sandbox, 0, 2, "sent-two", 8); /* and it dies before it takes it off the shelf */
    rig_shelve(sandbox, 2, "sent-two");
    rig_shelve(sandbox, 3, "shelf-three");
    rig_shelve(sandbox, 4, "shelf-four");
    *sandbox->progress = 5;
    close(sandbox->fd);
    sandbox->fd = -1;
    rig_turn(&rig);
    rig_reaped(&rig, sandbox->handle, CORE_CAUSE_SIGNAL, 11);
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "sent-two") && rig_heard(&rig, "shelf-four") && rig_heard(&rig, "segmentation fault"));
    SCHED_ASSERT(answers(&rig) == 5 && totals(&rig).calls == 0 && rig.events[SCHED_EV_FAULT] == 0);
    rig_free(&rig);
}

static void a_shelf_of_rubbish_helps_nobody(void) {
    struct rig rig;
    struct rig_sandbox *sandbox = queue_ahead(&rig, 3);
    uint64_t seed = 5;
    for (int round = 0; round < 12; round++) {
        for (size_t i = 1; i < SHELF_PAGE_BYTES / 8; i++) {
            sandbox->progress[i] = random_next(&seed);
        }
        sandbox->progress[2] = round % 3 == 0 ? UINT64_MAX : random_below(&seed, SHELF_PAGE_BYTES);
        *sandbox->progress = 2;
        nap_ms(6);
        rig_turn(&rig);
    }
    sandbox->progress[2] = 0;
    for (uint32_t seq = 2; seq < 5; seq++) {
        rig_result(sandbox, 0, seq, "honest", 6);
    }
    rig_turn(&rig);
    SCHED_ASSERT(answers(&rig) >= 2 && rig_heard(&rig, "honest"));
    rig_free(&rig);
}

static void an_answer_that_waits_unread_is_no_timeout(void) {
    struct rig_options options = rig_options();
    options.timeout_ms = 20;
    struct rig rig;
    rig_init_from(&rig, &options);
    rig_invoke(&rig, 1, "1", 1);
    const struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
    rig_result(sandbox, 0, 1, "in time", 7);
    nap_ms(30); /* the reactor is held up */
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "in time") && !rig_heard(&rig, "Timeout"));
    rig_free(&rig);
}

static void a_sandbox_is_ready_once(void) {
    for (int error = 0; error < 2; error++) {
        struct rig rig;
        rig_init(&rig);
        rig_invoke(&rig, 1, "1", 1);
        struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
        for (int i = 0; i < 100; i++) {
            if (error) {
                rig_frame(sandbox, 19, 0, 0, 0, "{}", 2);
            } else {
                rig_ready(sandbox);
            }
        }
        rig_turn(&rig);
        SCHED_ASSERT(rig.events[SCHED_EV_READY] == 1 && rig.events[SCHED_EV_INIT_FAILED] == 0);
        SCHED_ASSERT(rig.events[SCHED_EV_FAULT] == 1);
        rig_free(&rig);
    }
}

/* How a sandbox was born is the service's knowledge; only that it could not be restored is the sandbox's to tell, in few words. */
static void a_sandbox_tells_only_that_it_was_not_restored(void) {
    static const struct {
        uint32_t tier;      /* what START was sent with */
        uint32_t bytes;     /* of READY */
        uint8_t said;
        uint32_t known;     /* 0: the channel was broken */
    } rows[] = {
        {CORE_TIER_SHELL, 8, 0, CORE_TIER_SHELL},        {CORE_TIER_SHELL, 9, CORE_TIER_SNAPSHOT, CORE_TIER_SHELL},
        {CORE_TIER_SNAPSHOT, 8, 0, CORE_TIER_SNAPSHOT},  {CORE_TIER_SNAPSHOT, 9, CORE_TIER_SNAPSHOT, CORE_TIER_SNAPSHOT},
        {CORE_TIER_SNAPSHOT, 9, CORE_TIER_FRESH, CORE_TIER_SNAPSHOT}, {CORE_TIER_SNAPSHOT, 9, 255, CORE_TIER_SNAPSHOT},
        {CORE_TIER_SNAPSHOT, 9, CORE_TIER_SHELL, CORE_TIER_SHELL}, {CORE_TIER_SNAPSHOT, 209, CORE_TIER_SHELL, CORE_TIER_SHELL},
        {CORE_TIER_SNAPSHOT, 210, CORE_TIER_SHELL, 0},   {CORE_TIER_SHELL, 7, 0, 0},
    };
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct rig rig;
        rig_init(&rig);
        rig.tier = rows[i].tier;
        rig_invoke(&rig, 1, "1", 1);
        struct rig_sandbox *sandbox = rig_started_sandbox(&rig);
        uint8_t body[256];
        memset(body, 'x', sizeof body);
        memset(body, 0, 8);
        body[8] = rows[i].said;
        rig_frame(sandbox, 18, 0, 0, 0, body, rows[i].bytes);
        rig_turn(&rig);
        rig_turn(&rig);
        SCHED_ASSERT(rig.events[SCHED_EV_READY] == (rows[i].known != 0));
        SCHED_ASSERT(rows[i].known == 0 || rig.ready_tier == rows[i].known);
        rig_free(&rig);
    }
}

/* Looked at as it comes, so that 6 MB of small values hold nobody up; the verdict is the same. */
static void a_large_messagepack_answer_is_one_value_or_none(void) {
    enum { VALUES = 60000 };
    for (int broken = 0; broken < 3; broken++) {
        struct rig rig;
        rig_init(&rig);
        rig_invoke(&rig, 1, "1", 1);
        const struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
        static uint8_t frame[24 + 8 + 3 + VALUES];
        const struct rig_header head = {.length = 8 + 3 + VALUES, .kind = 16, .flags = 1, .seq = 1, .time_ns = wall_ns()};
        memcpy(frame, &head, sizeof head);
        memcpy(frame + 24, &head.time_ns, 8);
        memset(frame + 32, 7, sizeof frame - 32);
        (void)pack_array(frame + 32, VALUES - (broken == 2 ? 1 : 0)); /* 2: something lies behind the value */
        frame[35 + VALUES / 2] = broken == 1 ? 0xc1 : 7;
        for (size_t sent = 0; sent < sizeof frame && sandbox->fd >= 0;) {
            const size_t part = sizeof frame - sent < 7000 ? sizeof frame - sent : 7000;
            rig_write(sandbox->fd, frame + sent, part);
            sent += part;
            rig_turn(&rig);
        }
        rig_turn(&rig);
        SCHED_ASSERT(rig.events[SCHED_EV_FAULT] == (broken > 0));
        SCHED_ASSERT(broken > 0 ? rig_heard(&rig, "SandboxDied") : memmem(rig.heard, rig.heard_bytes, frame + 32, 3 + VALUES) != NULL);
        SCHED_ASSERT(rig.sched->payload_bytes == 0);
        rig_free(&rig);
    }
}

static void empty_log_frames_are_not_free(void) {
    struct rig rig;
    rig_init(&rig);
    rig_invoke(&rig, 1, "1", 1);
    const struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
    struct rig_header frames[512] = {{0}};
    for (size_t i = 0; i < 512; i++) {
        frames[i].kind = 17;
    }
    const struct channel *channel = channel_find(rig.sched, sandbox->handle);
    unsigned turns = 0;
    for (; turns < 1000 && !channel->hushed; turns++) {
        rig_write(sandbox->fd, frames, sizeof frames);
        rig_turn(&rig);
    }
    SCHED_ASSERT(channel->hushed);
    rig_free(&rig);
}

static void an_old_init_error_is_forgotten(void) {
    struct rig rig;
    rig_init(&rig);
    rig_invoke(&rig, 1, "1", 1);
    for (int attempt = 0; attempt < 2; attempt++) {
        SCHED_ASSERT(!rig_heard(&rig, "InitFailed"));
        struct rig_sandbox *sandbox = rig_started_sandbox(&rig);
        rig_frame(sandbox, 19, 0, 0, 0, "{\"errorType\":\"Old\"}", 19);
        rig_turn(&rig);
        rig_turn(&rig);
        rig_reaped(&rig, sandbox->handle, CORE_CAUSE_EXIT, 1);
        rig_turn(&rig);
    }
    SCHED_ASSERT(rig_heard(&rig, "InitFailed") && rig_heard(&rig, "Old"));
    SCHED_ASSERT(rig.sched->functions[RIG_FUNCTION_INDEX].init_error != NULL);
    rig_invoke(&rig, 2, "1", 1);
    rig_ready_sandbox(&rig);
    SCHED_ASSERT(rig.sched->functions[RIG_FUNCTION_INDEX].init_error == NULL);
    rig_free(&rig);
}

/* ---- clients ---------------------------------------------------------------------------------------------------------- */

static void an_id_in_flight_is_not_given_twice(void) {
    struct rig rig;
    rig_init(&rig);
    rig_invoke(&rig, 9, "1", 1);
    const struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
    rig_invoke(&rig, 9, "2", 1);
    rig_turn(&rig);
    SCHED_ASSERT(totals(&rig).invokes == 1 && rig_heard(&rig, "BadRequest") && rig_heard(&rig, "msgid: 9"));
    rig_result(sandbox, 0, 1, "first", 5);
    rig_turn(&rig);
    rig_invoke(&rig, 9, "3", 1); /* answered: it may be used again */
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "first") && totals(&rig).invokes == 2);
    rig_free(&rig);
}

static void a_cancelled_running_call_is_answered_to_nobody(void) {
    struct rig rig;
    rig_init(&rig);
    rig_invoke(&rig, 5, "1", 1);
    const struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
    rig_cancel(&rig, 5);
    rig_turn(&rig);
    rig_result(sandbox, 0, 1, "nobody's", 8);
    rig_turn(&rig);
    SCHED_ASSERT(rig.heard_bytes == 0 && totals(&rig).calls == 0);
    rig_invoke(&rig, 5, "2", 1); /* and its id is free */
    rig_turn(&rig);
    rig_result(sandbox, 0, 2, "mine", 4);
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "mine") && answers(&rig) == 1);
    rig_free(&rig);
}

static void control_requests_are_bounded_while_nobody_takes_them(void) {
    struct rig rig;
    rig_init(&rig);
    rig_turn(&rig);
    for (uint32_t i = 0; i < 3 * RING_ITEMS; i++) {
        rig_method(&rig, i % 2 == 0, i, "ping");
        if (i % 64 == 63) {
            SCHED_ASSERT(sched_turn(rig.sched, 0) >= 0); /* nobody polls */
            rig_listen(&rig);
        }
    }
    SCHED_ASSERT(rig.sched->stats.events_waiting <= 64);
    SCHED_ASSERT(rig_heard(&rig, "Throttled"));
    rig_events(&rig);
    rig_turn(&rig);
    rig_turn(&rig);
    SCHED_ASSERT(!slow_side_behind(rig.sched) && rig.sched->event_bytes == 0);
    const uint32_t before = rig.events[SCHED_EV_METHOD];
    rig_method(&rig, false, 1, "ping");
    rig_turn(&rig);
    SCHED_ASSERT(rig.events[SCHED_EV_METHOD] == before + 1);
    rig_free(&rig);
}

/* A Unix socket that listens, and connections to it that nobody accepts yet. */
static int connect_unix(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    SCHED_ASSERT(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0);
    return fd;
}

static void no_descriptors_is_no_busy_loop(void) {
    struct rig rig;
    rig_init(&rig);
    char path[64];
    snprintf(path, sizeof path, "/tmp/test-hostile-%d.sock", (int)getpid());
    SCHED_ASSERT(sched_listen_unix(rig.sched, path) == 0);
    rig_turn(&rig);
    const int fd = connect_unix(path);
    struct rlimit before;
    SCHED_ASSERT(getrlimit(RLIMIT_NOFILE, &before) == 0);
    const struct rlimit none = {.rlim_cur = 3, .rlim_max = before.rlim_max};
    SCHED_ASSERT(setrlimit(RLIMIT_NOFILE, &none) == 0);
    rig_turn(&rig);
    for (int i = 0; i < 5; i++) {
        SCHED_ASSERT(sched_turn(rig.sched, 1) == 0); /* nothing to do: it sleeps */
    }
    SCHED_ASSERT(setrlimit(RLIMIT_NOFILE, &before) == 0);
    SCHED_ASSERT(rig.sched->clients_open == 1 && !rig.sched->accepting);
    for (int i = 0; i < 100 && rig.sched->clients_open == 1; i++) {
        SCHED_ASSERT(sched_turn(rig.sched, 10) >= 0);
    }
    SCHED_ASSERT(rig.sched->clients_open == 2);
    rig_events(&rig);
    SCHED_ASSERT(rig.events[SCHED_EV_FAULT] == 1);
    close(fd);
    rig_free(&rig);
}

static void one_connection_too_many_is_told_why(void) {
    struct rig_options options = rig_options();
    options.config.connections_max = 1;
    struct rig rig;
    rig_init_from(&rig, &options);
    rig_turn(&rig);
    const int first = rig.client;
    rig.client = rig_connect(&rig, SCHED_RIGHT_ALL);
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "Unavailable") && rig_heard(&rig, "connections_max") && answers(&rig) == 1);
    close(first);
    rig_free(&rig);
}

static void half_closed_unix_clients_get_their_answers(void) {
    struct rig rig;
    rig_init(&rig);
    rig_turn(&rig);
    close(rig.client);
    int pair[2];
    SCHED_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    SCHED_ASSERT(client_add(rig.sched, pair[0], SPEECH_UNIX, 0, SCHED_RIGHT_ALL) != 0);
    rig.client = pair[1];
    rig_invoke(&rig, 1, "1", 1);
    SCHED_ASSERT(shutdown(pair[1], SHUT_WR) == 0);
    const struct rig_sandbox *sandbox = rig_ready_sandbox(&rig);
    rig_result(sandbox, 0, 1, "late", 4);
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "late"));
    uint8_t byte;
    SCHED_ASSERT(recv(pair[1], &byte, 1, 0) == 0 && rig.sched->clients_open == 0);
    /* And one that has really gone is not waited for. */
    SCHED_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    SCHED_ASSERT(client_add(rig.sched, pair[0], SPEECH_UNIX, 0, SCHED_RIGHT_ALL) != 0);
    rig_invoke_from(pair[1], 1, "1", 1);
    SCHED_ASSERT(shutdown(pair[1], SHUT_WR) == 0);
    rig_turn(&rig);
    rig_turn(&rig);
    SCHED_ASSERT(rig.sched->clients_open == 1);
    close(pair[1]);
    rig_turn(&rig);
    SCHED_ASSERT(rig.sched->clients_open == 0);
    rig_free(&rig);
}

/* ---- memory of payloads ----------------------------------------------------------------------------------------------- */

enum { LARGE = 100 << 10, SENDERS = 6 };

static uint8_t *large_frame(uint32_t msgid, size_t *bytes) {
    uint8_t *frame = calloc(1, 64 + LARGE);
    SCHED_ASSERT(frame != NULL);
    uint8_t *at = pack_uint(pack_u8(pack_array(frame, 4), 0), msgid);
    at = pack_bin_head(pack_str(pack_array(pack_str(at, "invoke"), 2), "hello"), LARGE);
    *bytes = (size_t)(at + LARGE - frame);
    return frame;
}

/* More large frames at once than there is memory for, which come in pieces side by side: each is read, one after the other. */
static void frames_that_wait_for_memory_do_not_wait_for_each_other(void) {
    struct rig_options options = rig_options();
    options.config.payload_total_bytes_max = 256 << 10; /* two of them */
    options.concurrency = 0; /* refused at once: their memory comes back at once */
    struct rig rig;
    rig_init_from(&rig, &options);
    rig_turn(&rig);
    int fds[SENDERS];
    size_t sent[SENDERS] = {0};
    uint8_t *frames[SENDERS];
    size_t bytes = 0;
    for (uint32_t i = 0; i < SENDERS; i++) {
        fds[i] = rig_connect(&rig, SCHED_RIGHT_ALL);
        frames[i] = large_frame(i, &bytes);
    }
    rig_turn(&rig);
    size_t answered = 0;
    uint64_t waiting = 0;
    for (unsigned round = 0; round < 400 && answered < SENDERS; round++) {
        for (uint32_t i = 0; i < SENDERS; i++) {
            /* First the beginning of each, then the rest. */
            const size_t goal = round < 40 ? 40000 : bytes;
            const size_t part = goal - sent[i] < 8000 ? goal - sent[i] : 8000;
            const ssize_t took = part == 0 ? 0 : send(fds[i], frames[i] + sent[i], part, MSG_DONTWAIT | MSG_NOSIGNAL);
            sent[i] += took > 0 ? (size_t)took : 0;
            uint8_t answer[512];
            const ssize_t got = recv(fds[i], answer, sizeof answer, MSG_DONTWAIT);
            if (got > 0) {
                SCHED_ASSERT(memmem(answer, (size_t)got, "function:hello", 14) != NULL); /* the core's refusal, not the reader's */
                answered++;
            }
        }
        rig_turn(&rig);
        SCHED_ASSERT(rig.sched->payload_bytes <= options.config.payload_total_bytes_max);
        waiting = waiting > rig.sched->stats.connections_waiting ? waiting : rig.sched->stats.connections_waiting;
    }
    SCHED_ASSERT(waiting == SENDERS - 2 && rig.sched->stats.connections_waiting == 0);
    SCHED_ASSERT(answered == SENDERS && rig.sched->payload_bytes == 0 && rig.sched->partial_bytes == 0);
    for (uint32_t i = 0; i < SENDERS; i++) {
        close(fds[i]);
        free(frames[i]);
    }
    rig_free(&rig);
}

static void small_payloads_count_too(void) {
    struct rig_options options = rig_options();
    options.config.payload_total_bytes_max = 256 << 10;
    options.config.core.calls_max = 512;
    struct rig rig;
    rig_init_from(&rig, &options);
    rig_turn(&rig);
    static const uint8_t payload[4000];
    for (uint32_t i = 0; i < 100; i++) {
        rig_invoke(&rig, i, payload, sizeof payload);
        rig_turn(&rig);
        SCHED_ASSERT(rig.sched->payload_bytes <= options.config.payload_total_bytes_max);
    }
    SCHED_ASSERT(rig_heard(&rig, "Throttled") && rig_heard(&rig, "payload_bytes") && rig_heard(&rig, "retry_after_ms"));
    SCHED_ASSERT(rig.sched->stats.refused_requests > 0 && answers(&rig) == rig.sched->stats.refused_requests);
    rig_free(&rig);
}

/* ---- who stops in the middle ------------------------------------------------------------------------------------------ */

static void sweep_after(struct rig *rig, uint64_t seconds) {
    for (uint32_t i = 0; i < rig->sched->clients_used; i++) {
        struct client *client = &rig->sched->clients[i];
        client->opened_ns -= seconds * 1000000000ULL;
        client->partial_since_ns -= client->partial_since_ns == 0 ? 0 : seconds * 1000000000ULL;
        client->stalled_since_ns -= client->stalled_since_ns == 0 ? 0 : seconds * 1000000000ULL;
    }
    rig->sched->slow_sweep_ns = 0;
    rig_turn(rig);
    rig_turn(rig);
}

static void half_a_frame_has_its_time(void) {
    struct rig rig;
    rig_init(&rig);
    rig_turn(&rig);
    rig_write(rig.client, "\x94\x00\x01\xa6invo", 8);
    rig_turn(&rig);
    sweep_after(&rig, PATIENCE_S - 1);
    rig_write(rig.client, "k", 1); /* a byte now and then buys nothing */
    rig_turn(&rig);
    SCHED_ASSERT(rig.heard_bytes == 0);
    sweep_after(&rig, 2);
    SCHED_ASSERT(rig_heard(&rig, "half a frame") && rig.sched->clients_open == 0);
    rig_free(&rig);
}

static void a_stranger_says_hello_or_goes(void) {
    struct rig rig;
    rig_init(&rig);
    rig_turn(&rig);
    close(rig.client);
    rig.client = rig_connect(&rig, 0);
    rig_turn(&rig);
    sweep_after(&rig, HELLO_S - 1);
    SCHED_ASSERT(rig.sched->clients_open == 1);
    sweep_after(&rig, 2);
    SCHED_ASSERT(rig_heard(&rig, "no hello") && rig.sched->clients_open == 0);
    rig_free(&rig);
}

static void a_stranger_has_nothing_large_to_say(void) {
    struct rig rig;
    rig_init(&rig);
    rig_turn(&rig);
    close(rig.client);
    rig.client = rig_connect(&rig, 0);
    rig_turn(&rig);
    rig_write(rig.client, "\x94\x00\x01\xa5hello\x91\xc6\x00\x01\x00\x00", 16);
    rig_turn(&rig);
    SCHED_ASSERT(rig_heard(&rig, "TooLarge") && rig.sched->payload_bytes == 0);
    rig_free(&rig);
}

static void answers_nobody_reads_are_not_kept_for_ever(void) {
    struct rig_options options = rig_options();
    options.config.connection_buffer_bytes_max = 4096;
    options.concurrency = 0;
    struct rig rig;
    rig_init_from(&rig, &options);
    for (uint32_t i = 0; i < 20000; i++) {
        rig_invoke(&rig, i, "x", 1);
        if (i % 32 == 31) {
            SCHED_ASSERT(sched_turn(rig.sched, 0) >= 0);
            rig_events(&rig);
        }
    }
    SCHED_ASSERT(rig.sched->clients[0].output.bytes > 4096 && !rig.sched->clients[0].reading);
    const int client = rig.client;
    rig.client = -1; /* nobody reads */
    sweep_after(&rig, PATIENCE_S - 1);
    SCHED_ASSERT(rig.sched->clients_open == 1);
    sweep_after(&rig, 2);
    SCHED_ASSERT(rig.sched->clients_open == 0 && rig.events[SCHED_EV_FAULT] == 1);
    close(client);
    rig_free(&rig);
}

/* One of many floods gets a small part of a turn. */
static void the_more_are_ready_the_less_is_read_of_each(void) {
    struct rig_options options = rig_options();
    options.config.connections_max = 300;
    struct rig rig;
    rig_init_from(&rig, &options);
    rig_turn(&rig);
    static uint8_t flood[64 << 10];
    memset(flood, 0, sizeof flood);
    int fds[256];
    for (size_t i = 0; i < 256; i++) {
        fds[i] = rig_connect(&rig, SCHED_RIGHT_ALL);
    }
    rig_turn(&rig);
    rig_turn(&rig);
    for (size_t i = 0; i < sizeof flood / 11; i++) {
        memcpy(flood + 11 * i, "\x93\x02\xa6" "cancel\x91\x05", 11);
    }
    for (size_t i = 0; i < 256; i++) {
        rig_write(fds[i], flood, sizeof flood / 11 * 11);
    }
    const uint64_t before = rig.sched->stats.bytes_in;
    rig_turn(&rig);
    SCHED_ASSERT(rig.sched->stats.bytes_in - before <= 256 * SHARE_BYTES_MIN);
    for (size_t i = 0; i < 256; i++) {
        close(fds[i]);
    }
    rig_free(&rig);
}

int main(void) {
    RUN(probes_need_no_room);
    RUN(a_service_that_answers_twice_upsets_no_call);
    RUN(the_service_gives_no_events_of_the_reactors_own);
    RUN(a_sandbox_is_started_once);
    RUN(adopting_opens_once);
    RUN(answered_calls_are_not_run_again_when_the_death_is_known_first);
    RUN(answers_behind_a_long_call_are_taken_from_the_shelf);
    RUN(answers_of_a_dead_sandbox_are_taken_from_the_shelf);
    RUN(a_shelf_of_rubbish_helps_nobody);
    RUN(an_answer_that_waits_unread_is_no_timeout);
    RUN(a_sandbox_is_ready_once);
    RUN(a_sandbox_tells_only_that_it_was_not_restored);
    RUN(a_large_messagepack_answer_is_one_value_or_none);
    RUN(empty_log_frames_are_not_free);
    RUN(an_old_init_error_is_forgotten);
    RUN(an_id_in_flight_is_not_given_twice);
    RUN(a_cancelled_running_call_is_answered_to_nobody);
    RUN(control_requests_are_bounded_while_nobody_takes_them);
    RUN(no_descriptors_is_no_busy_loop);
    RUN(one_connection_too_many_is_told_why);
    RUN(half_closed_unix_clients_get_their_answers);
    RUN(frames_that_wait_for_memory_do_not_wait_for_each_other);
    RUN(small_payloads_count_too);
    RUN(half_a_frame_has_its_time);
    RUN(a_stranger_says_hello_or_goes);
    RUN(a_stranger_has_nothing_large_to_say);
    RUN(answers_nobody_reads_are_not_kept_for_ever);
    RUN(the_more_are_ready_the_less_is_read_of_each);
    return 0;
}
