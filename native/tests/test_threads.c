/* The engine as it really runs: sched_run() on a thread, the journal's writer on another, the service posting and polling on a third,
 * clients and sandboxes beside them. For ThreadSanitizer (make tsan); under the others it must pass as well.
 *
 * Who may touch what: engine.h. */
#include <poll.h>
#include <pthread.h>
#include <sys/stat.h>

#include "rig.h"

enum { CALLS = 12000, AHEAD = 64, SANDBOXES = RIG_SANDBOXES, STATS_EACH = 20 };

struct sandbox {
    pthread_t thread;
    int fd;
    volatile uint64_t *page;
};

struct world {
    struct sched *sched;
    struct sandbox sandboxes[SANDBOXES];
    unsigned started;
    int client;
    uint64_t answered; /* the client thread's, read after it was joined */
    uint64_t pongs;
};

static bool read_all(int fd, void *to, size_t bytes) {
    for (size_t have = 0; have < bytes;) {
        const ssize_t got = recv(fd, (uint8_t *)to + have, bytes - have, 0);
        if (got <= 0) {
            return false;
        }
        have += (size_t)got;
    }
    return true;
}

static void write_all(int fd, const void *from, size_t bytes) {
    for (size_t have = 0; have < bytes;) {
        const ssize_t sent = send(fd, (const uint8_t *)from + have, bytes - have, MSG_NOSIGNAL);
        SCHED_ASSERT(sent > 0);
        have += (size_t)sent;
    }
}

static void *be_sandbox(void *argument) {
    struct sandbox *sandbox = argument;
    uint8_t body[512];
    struct rig_header head;
    while (read_all(sandbox->fd, &head, sizeof head) && head.length <= sizeof body && read_all(sandbox->fd, body, head.length)) {
        uint64_t now = wall_ns();
        uint8_t out[2 * sizeof head + 64];
        size_t size = 0;
        if (head.kind == 1) {
            const struct rig_header ready = {.length = 8, .kind = 18};
            memcpy(out, &ready, sizeof ready);
            memcpy(out + sizeof ready, &now, 8);
            size = sizeof ready + 8;
        } else if (head.kind == 2) {
            *sandbox->page = head.seq;
            now = wall_ns(); /* after the word, as every sandbox has to: this thread may have waited long for a processor */
            if (head.time_ns != 0 && now > head.time_ns) {
                const struct rig_header back = {.kind = 20, .seq = head.seq};
                write_all(sandbox->fd, &back, sizeof back);
                continue;
            }
            if (head.seq % 7 == 0) {
                const struct rig_header log = {.length = 4, .kind = 17, .seq = head.seq};
                memcpy(out, &log, sizeof log);
                memcpy(out + sizeof log, "log\n", 4);
                size = sizeof log + 4;
            }
            const struct rig_header result = {.length = 8 + 2, .kind = 16, .seq = head.seq, .time_ns = now};
            memcpy(out + size, &result, sizeof result);
            memcpy(out + size + sizeof result, &now, 8);
            memcpy(out + size + sizeof result + 8, "ok", 2);
            size += sizeof result + 10;
        } else {
            break;
        }
        write_all(sandbox->fd, out, size);
    }
    return NULL;
}

/* AHEAD calls at a time, all of which must be answered before the next; a ping between. */
static void *be_client(void *argument) {
    struct world *world = argument;
    for (uint32_t first = 0; first < CALLS; first += AHEAD) {
        for (uint32_t i = 0; i < AHEAD; i++) {
            rig_invoke_from(world->client, first + i, "{\"x\": 1}", 8);
        }
        const struct rig pinger = {.client = world->client};
        rig_method(&pinger, false, CALLS + first, "ping");
        uint8_t heard[AHEAD * 512];
        size_t have = 0;
        for (unsigned answers = 0; answers < AHEAD + 1;) {
            struct pollfd wait = {.fd = world->client, .events = POLLIN};
            SCHED_ASSERT(poll(&wait, 1, 10000) == 1);
            const ssize_t got = recv(world->client, heard + have, sizeof heard - have, 0);
            SCHED_ASSERT(got > 0);
            have += (size_t)got;
            for (size_t bytes = rig_value(heard, have); bytes > 0; bytes = rig_value(heard, have)) {
                SCHED_ASSERT(heard[0] == 0x94 && heard[1] == 1);
                world->pongs += memmem(heard, bytes, "pong", 4) != NULL;
                world->answered += memmem(heard, bytes, "\xc4\x02ok", 4) != NULL;
                memmove(heard, heard + bytes, have - bytes);
                have -= bytes;
                answers++;
            }
        }
        SCHED_ASSERT(have == 0);
    }
    shutdown(world->client, SHUT_RDWR);
    return NULL;
}

static void *be_reactor(void *sched) {
    SCHED_ASSERT(sched_run(sched) == 0);
    return NULL;
}

static void post(struct world *world, const struct sched_command *command, const void *blob, size_t bytes) {
    while (!sched_post(world->sched, command, blob, bytes)) {
        const struct timespec moment = {.tv_nsec = 100000};
        nanosleep(&moment, NULL);
    }
}

static void start(struct world *world, uint64_t handle) {
    SCHED_ASSERT(world->started < SANDBOXES);
    struct sandbox *sandbox = &world->sandboxes[world->started++];
    int pair[2];
    SCHED_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    const int page = memfd_create("page", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    SCHED_ASSERT(page >= 0 && ftruncate(page, SHELF_PAGE_BYTES) == 0 && fcntl(page, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    sandbox->page = mmap(NULL, SHELF_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, page, 0);
    SCHED_ASSERT(sandbox->page != MAP_FAILED);
    sandbox->fd = pair[1];
    SCHED_ASSERT(pthread_create(&sandbox->thread, NULL, be_sandbox, sandbox) == 0);
    struct sched_command command = rig_command(SCHED_CMD_SANDBOX_START);
    command.sandbox = handle;
    command.fds[0] = pair[0];
    command.fds[2] = page;
    command.u32s[0] = CORE_TIER_SHELL;
    post(world, &command, "{}", 2);
}

/* Until the client's connection closes. Asks for counters all the while. */
static unsigned be_service(struct world *world) {
    unsigned snapshots = 0;
    struct sched_command ask = rig_command(SCHED_CMD_STATS);
    ask.u32s[1] = 32;
    post(world, &ask, NULL, 0);
    for (;;) {
        struct sched_event events[32];
        const size_t count = sched_poll(world->sched, events, 32);
        bool closed = false;
        for (size_t i = 0; i < count; i++) {
            struct sched_command respond = rig_command(SCHED_CMD_RESPOND);
            switch (events[i].kind) {
            case SCHED_EV_NEED:
                start(world, events[i].sandbox);
                break;
            case SCHED_EV_METHOD:
                respond.connection = events[i].connection;
                respond.msgid = events[i].msgid;
                respond.flags = 1;
                post(world, &respond, "\xa4pong", 5);
                break;
            case SCHED_EV_STATS:
                snapshots++;
                if (snapshots % STATS_EACH != 0) {
                    post(world, &ask, NULL, 0);
                }
                break;
            case SCHED_EV_OPENED:
                post(world, &ask, NULL, 0);
                break;
            case SCHED_EV_CLOSED:
                closed = true;
                break;
            default:
                break;
            }
            sched_event_free(&events[i]);
        }
        if (closed) {
            return snapshots;
        }
        if (count == 0) {
            struct pollfd wait = {.fd = sched_events_fd(world->sched), .events = POLLIN};
            SCHED_ASSERT(poll(&wait, 1, 10000) == 1); /* no event is missed, and none is told twice */
        }
    }
}

static void everybody_at_once(void) {
    char dir[64];
    snprintf(dir, sizeof dir, "/tmp/test-threads-%d", (int)getpid());
    struct rig_options options = rig_options();
    options.config.core.calls_max = 4096;
    snprintf(options.config.log_dir, sizeof options.config.log_dir, "%s", dir);
    options.queue_timeout_ns = 20000000000ULL;
    struct rig rig;
    rig_init_from(&rig, &options);
    SCHED_ASSERT(fcntl(rig.client, F_SETFL, 0) == 0);
    struct world world = {.sched = rig.sched, .client = rig.client};
    pthread_t reactor;
    pthread_t client;
    SCHED_ASSERT(pthread_create(&reactor, NULL, be_reactor, rig.sched) == 0);
    SCHED_ASSERT(pthread_create(&client, NULL, be_client, &world) == 0);
    const unsigned snapshots = be_service(&world);
    SCHED_ASSERT(pthread_join(client, NULL) == 0);
    const struct sched_command stop = rig_command(SCHED_CMD_STOP);
    post(&world, &stop, NULL, 0);
    SCHED_ASSERT(pthread_join(reactor, NULL) == 0);
    const uint32_t rounds = (CALLS + AHEAD - 1) / AHEAD;
    SCHED_ASSERT(world.answered == rounds * AHEAD && world.pongs == rounds && snapshots > 0);
    rig_free(&rig); /* closes the channels: the sandboxes end */
    for (unsigned i = 0; i < world.started; i++) {
        SCHED_ASSERT(pthread_join(world.sandboxes[i].thread, NULL) == 0);
        close(world.sandboxes[i].fd);
        SCHED_ASSERT(munmap((void *)(uintptr_t)world.sandboxes[i].page, SHELF_PAGE_BYTES) == 0);
    }
    char path[128];
    snprintf(path, sizeof path, "%s/hello.journal", dir);
    struct stat info;
    SCHED_ASSERT(stat(path, &info) == 0 && info.st_size > CALLS * 80);
    SCHED_ASSERT(unlink(path) == 0 && rmdir(dir) == 0);
}

/* The reactor may find both at once: what a client may do was decided before it asked. */
static void a_command_is_carried_out_before_what_was_sent_after_it(void) {
    enum { TIMES = 2000 };
    struct rig rig;
    rig_init(&rig);
    SCHED_ASSERT(fcntl(rig.client, F_SETFL, 0) == 0);
    struct world world = {.sched = rig.sched};
    pthread_t reactor;
    SCHED_ASSERT(pthread_create(&reactor, NULL, be_reactor, rig.sched) == 0);
    struct sched_command grant = rig_command(SCHED_CMD_CONNECTION_GRANT);
    grant.connection = 1ULL << 32;
    for (uint32_t i = 0; i < TIMES; i++) {
        grant.u32s[0] = i % 2 == 0 ? 0 : SCHED_RIGHT_INVOKE;
        post(&world, &grant, NULL, 0);
        uint8_t frame[64];
        uint8_t *at = pack_array(pack_str(pack_uint(pack_u8(pack_array(frame, 4), 0), i), "invoke"), 2);
        at = pack_uint(pack_str(at, "nobody's"), 1);
        rig_write(rig.client, frame, (size_t)(at - frame));
        uint8_t answer[512];
        const ssize_t got = recv(rig.client, answer, sizeof answer, 0);
        const char *const expected = i % 2 == 0 ? "Unauthorized" : "NotFound";
        SCHED_ASSERT(got > 0 && memmem(answer, (size_t)got, expected, strlen(expected)) != NULL);
    }
    const struct sched_command stop = rig_command(SCHED_CMD_STOP);
    post(&world, &stop, NULL, 0);
    SCHED_ASSERT(pthread_join(reactor, NULL) == 0);
    rig_events(&rig);
    rig_free(&rig);
}

int main(void) {
    RUN(a_command_is_carried_out_before_what_was_sent_after_it);
    RUN(everybody_at_once);
    return 0;
}
