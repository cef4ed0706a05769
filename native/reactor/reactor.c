/* reactor.c: the loop.
 *
 * A turn: wait; read sandboxes; carry out the slow side's commands; read clients; all of which fills the batch of core events; step
 * the core and do what it says; send what is owed, sandboxes first since they have work to do with it; close what died. The work
 * of a turn is bounded in items and bytes per source, so nobody's flood is everybody's delay.
 *
 * The order has two reasons. A command that was posted before a client sent something is carried out before that is read: what
 * the client may do was decided by then. And an answer that lies unread in a sandbox's channel is read before anything that
 * may step the core, for a timer that it should have stopped could fire there. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "api.h"
#include "json.h"
#include "urlreply.h"
#include "reactor.h"

static const uint64_t MS = 1000 * 1000;
static const uint64_t SWEEP_NS = 100 * 1000 * 1000;
static const uint64_t SLOW_SWEEP_NS = 1000 * 1000 * 1000;
static const uint64_t HUSH_NS = 2 * 1000 * 1000;

uint64_t clock_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

bool watch(struct sched *sched, int op, int fd, uint32_t events, enum source source, uint32_t index) {
    struct epoll_event event = {.events = events, .data.u64 = ((uint64_t)source << 32) | index};
    return epoll_ctl(sched->epfd, op, fd, &event) == 0;
}

void unwatch(struct sched *sched, int fd) {
    (void)epoll_ctl(sched->epfd, EPOLL_CTL_DEL, fd, NULL);
    close(fd);
}

/* ---- the core's step -------------------------------------------------------------------------------------------------- */

struct core_event *batch_add(struct sched *sched, enum core_event_kind kind) {
    SCHED_ASSERT(!sched->stepping);
    if (sched->batched == BATCH) {
        batch_step(sched);
    }
    const uint32_t index = sched->batched++;
    struct core_event *event = &sched->batch[index];
    event->kind = (uint32_t)kind;
    event->tag = index;
    memset(&event->u, 0, sizeof event->u);
    if (kind == CORE_EV_REPLY) {
        sched->replies[index] = (struct reply){0};
    }
    return event;
}

static void obey(struct sched *sched, const struct core_action *action, size_t from) {
    switch ((enum core_action_kind)action->kind) {
    case CORE_ACT_SEND:
        channel_send_call(sched, action, (uint32_t)action->cookie);
        break;
    case CORE_ACT_ANSWER: {
        const struct reply *reply = NULL;
        if (action->event != CORE_NO_EVENT && sched->batch[from + action->event].kind == CORE_EV_REPLY &&
            sched->replies[from + action->event].at != NULL) {
            reply = &sched->replies[from + action->event];
        }
        answer_call(sched, action, reply);
        break;
    }
    case CORE_ACT_NEED: {
        const struct sched_event event = {.kind = SCHED_EV_NEED, .function = action->function, .sandbox = action->sandbox,
                                          .revision = action->revision, .flags = action->provisioned};
        emit(sched, &event, NULL, 0);
        break;
    }
    case CORE_ACT_KILL:
        break; /* done before all others */
    case CORE_ACT_FREED:
        channel_freed(sched, action->sandbox);
        break;
    case CORE_ACT_FUNCTION_FREED: {
        const struct sched_event event = {.kind = SCHED_EV_FUNCTION_FREED, .function = action->function};
        info_drop(sched, action->function);
        emit(sched, &event, NULL, 0);
        break;
    }
    case CORE_ACT_PROBE:
        channel_probe(sched, action->sandbox);
        break;
    case CORE_ACT_DRAINED: {
        const struct sched_event event = {.kind = SCHED_EV_DRAINED};
        emit(sched, &event, NULL, 0);
        break;
    }
    case CORE_ACT_QUEUED:
        sched->tickets[(uint32_t)action->cookie].call = action->call;
        break;
    }
}

static void obey_all(struct sched *sched, size_t count, size_t from) {
    sched->stepping = true;
    for (size_t i = 0; i < count; i++) {
        if (sched->actions[i].kind == CORE_ACT_KILL) {
            channel_kill(sched, &sched->actions[i]);
        }
    }
    for (size_t i = 0; i < count; i++) {
        obey(sched, &sched->actions[i], from);
    }
    sched->stepping = false;
}

void batch_step(struct sched *sched) {
    SCHED_ASSERT(!sched->stepping);
    while (sched->batched > 0 || sched->probed_channels != NO_INDEX || core_next_ns(sched->core) <= sched->now_ns) {
        sched->now_ns = clock_ns();
        const size_t n = sched->batched;
        size_t from = 0;
        do {
            size_t consumed = 0;
            const size_t count = core_step(sched->core, sched->now_ns, sched->batch + from, n - from, &consumed, sched->actions,
                                           ACTIONS);
            obey_all(sched, count, from);
            from += consumed;
        } while (from < n || core_next_ns(sched->core) <= sched->now_ns);
        for (size_t i = 0; i < n; i++) {
            if (sched->batch[i].kind == CORE_EV_REPLY) {
                block_release(sched->replies[i].block);
            }
        }
        sched->batched = 0;
        channel_tell_probed(sched); /* what actions asked for goes with the next step, which follows at once */
    }
}

/* ---- the turn --------------------------------------------------------------------------------------------------------- */

static uint64_t min_of(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* When the next look at what no event announces is due. */
static uint64_t sweep_due(const struct sched *sched) {
    if (sched->swept_channels != NO_INDEX || sched->resuming_clients != NO_INDEX || sched->resuming_api != NULL) {
        return sched->now_ns;
    }
    if (sched->waiting_head != NULL || sched->stopping) {
        return sched->now_ns + MS;
    }
    if (sched->hushed_channels != NO_INDEX || sched->paused_apis != NULL) {
        return sched->now_ns + HUSH_NS;
    }
    uint64_t due = min_of(sched->bell_ns, sched->accepting ? UINT64_MAX : sched->accept_again_ns);
    if (journal_busy(&sched->journal) || sched->used_channels != NO_INDEX || sched->resting_channels != NO_INDEX) {
        due = min_of(due, sched->sweep_ns + SWEEP_NS);
    }
    return sched->clients_open > 0 ? min_of(due, sched->slow_sweep_ns + SLOW_SWEEP_NS) : due;
}

static void sweep(struct sched *sched) {
    if (sched->now_ns - sched->sweep_ns >= SWEEP_NS) {
        sched->sweep_ns = sched->now_ns;
        channel_sweep_begin(sched);
        journal_flush(&sched->journal);
        logs_tell_trouble(sched);
    }
    channel_sweep(sched);
    if (!sched->accepting && sched->now_ns >= sched->accept_again_ns) {
        listen_again(sched);
    }
    if (sched->now_ns - sched->slow_sweep_ns >= SLOW_SWEEP_NS) {
        sched->slow_sweep_ns = sched->now_ns;
        client_sweep(sched);
    }
}

/* A time-out given to epoll_wait() is a timer set and taken back for each call, which costs microseconds where the clock's
 * hardware is the hypervisor's. One timer that stays set costs nothing: it is moved only when something is due earlier, and when
 * it goes off too early, which is once for all calls meanwhile. */
static void set_timer(struct sched *sched, uint64_t due) {
    if (due >= sched->timer_ns) {
        return;
    }
    const struct itimerspec when = {.it_value = {.tv_sec = (time_t)(due / 1000000000ULL), .tv_nsec = (long)(due % 1000000000ULL)}};
    SCHED_ASSERT(timerfd_settime(sched->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) == 0);
    sched->timer_ns = due;
}

static void timer_went_off(struct sched *sched) {
    uint64_t times;
    (void)!read(sched->timer_fd, &times, sizeof times);
    sched->timer_ns = UINT64_MAX;
}

static int wait_ms(struct sched *sched, int timeout_ms) {
    const uint64_t due = min_of(core_next_ns(sched->core), sweep_due(sched));
    if (due <= sched->now_ns) {
        return 0;
    }
    set_timer(sched, due);
    return timeout_ms;
}

static int wait_for(struct sched *sched, struct epoll_event *ready, int timeout_ms) {
    int count = 0;
    if (timeout_ms != 0 && sched->config.spin_us > 0) {
        const uint64_t until = clock_ns() + (uint64_t)sched->config.spin_us * 1000;
        do {
            count = epoll_wait(sched->epfd, ready, FDS_A_TURN, 0);
            if (count != 0 || mailbox_waiting(&sched->commands) > 0) {
                sched->stats.spins++;
                return count;
            }
        } while (clock_ns() < until);
    }
    if (timeout_ms == 0 || !mailbox_sleep(&sched->commands)) {
        return epoll_wait(sched->epfd, ready, FDS_A_TURN, 0);
    }
    sched->stats.sleeps++;
    count = epoll_wait(sched->epfd, ready, FDS_A_TURN, timeout_ms);
    mailbox_stir(&sched->commands);
    return count;
}

static void hear_sandbox(struct sched *sched, const struct epoll_event *ready) {
    const uint32_t index = (uint32_t)ready->data.u64;
    switch ((enum source)(ready->data.u64 >> 32)) {
    case SOURCE_COMMANDS:
        mailbox_wake(&sched->commands);
        break;
    case SOURCE_TIMER:
        timer_went_off(sched);
        break;
    case SOURCE_CHANNEL:
        channel_ready(sched, index, ready->events);
        break;
    case SOURCE_OUTPUT:
        logs_ready(sched, index);
        break;
    case SOURCE_API_LISTEN:
        api_accept(sched, index);
        break;
    case SOURCE_API:
        api_ready(sched, index, ready->events);
        break;
    case SOURCE_UNIX: case SOURCE_TCP: case SOURCE_HTTP: case SOURCE_CLIENT:
        break;
    }
}

static void hear_client(struct sched *sched, const struct epoll_event *ready) {
    switch ((enum source)(ready->data.u64 >> 32)) {
    case SOURCE_UNIX:
        listen_accept(sched, sched->unix_fd, SPEECH_UNIX);
        break;
    case SOURCE_TCP:
        listen_accept(sched, sched->tcp_fd, SPEECH_TCP);
        break;
    case SOURCE_HTTP:
        listen_accept(sched, sched->http_fd, SPEECH_HTTP);
        break;
    case SOURCE_CLIENT:
        client_ready(sched, (uint32_t)ready->data.u64, ready->events);
        break;
    case SOURCE_COMMANDS: case SOURCE_TIMER: case SOURCE_CHANNEL: case SOURCE_OUTPUT: case SOURCE_API_LISTEN: case SOURCE_API:
        break;
    }
}

static void flush_all(struct sched *sched) {
    channel_flush_all(sched);
    client_flush_all(sched);
}

static void end_turn(struct sched *sched) {
    channel_end_turn(sched);
    client_wake_wanting(sched);
    flush_all(sched);
    /* Closing connections gives the core events, its actions may owe answers and close more: until nothing is left. */
    while (sched->dead_clients != NO_INDEX) {
        client_end_turn(sched);
        batch_step(sched);
        client_wake_wanting(sched);
        flush_all(sched);
    }
    if (sched->held_api != NULL) {
        api_stream_release(sched);
    }
    push_waiting(sched);
    if (sched->told || sched->bell_ns <= sched->now_ns) {
        sched->told = false;
        sched->bell_ns = UINT64_MAX;
        mailbox_ring(&sched->events);
    }
}

static uint32_t share(uint32_t total, uint32_t sources, uint32_t low, uint32_t high) {
    const uint32_t each = total / sources;
    return each < low ? low : each < high ? each : high;
}

static void share_out(struct sched *sched, uint32_t sources) {
    const uint32_t max = sched->config.turn_bytes_max;
    sched->share_small_bytes = share(TURN_SMALL_BYTES, sources, SHARE_BYTES_MIN, max < SHARE_BYTES_MAX ? max : SHARE_BYTES_MAX);
    sched->share_large_bytes = share(TURN_LARGE_BYTES, sources, SHARE_BYTES_MIN, max);
}

int sched_turn(struct sched *sched, int timeout_ms) {
    if (sched->stopped) {
        return -1;
    }
    struct epoll_event ready[FDS_A_TURN];
    const int count = wait_for(sched, ready, wait_ms(sched, timeout_ms));
    if (count < 0 && errno != EINTR) {
        return -errno;
    }
    const uint64_t begun = sched->now_ns = clock_ns();
    share_out(sched, count > 0 ? (uint32_t)count : 1);
    for (int i = 0; i < count; i++) {
        hear_sandbox(sched, &ready[i]);
    }
    channel_flush_all(sched); /* sandboxes that have become free go on before a flood of requests is read */
    const uint32_t done = run_commands(sched);
    for (int i = 0; i < count; i++) {
        hear_client(sched, &ready[i]);
    }
    web_resume(sched);
    api_resume(sched);
    sweep(sched);
    batch_step(sched);
    flush_all(sched);
    end_turn(sched);
    sched->stats.turns++;
    sched->now_ns = clock_ns();
    if (sched->now_ns - begun > sched->stats.turn_ns_max) {
        sched->stats.turn_ns_max = sched->now_ns - begun;
    }
    if (sched->stopping && (client_all_quiet(sched) || sched->now_ns >= sched->stop_by_ns)) {
        journal_flush(&sched->journal);
        listen_stop(sched);
        sched->stopped = true;
        return -1;
    }
    return (int)done + (count > 0 ? count : 0);
}

int sched_run(struct sched *sched) {
    int status;
    sched->now_ns = clock_ns();
    do {
        status = sched_turn(sched, -1);
    } while (status >= 0);
    return status == -1 ? 0 : status;
}

/* ---- building --------------------------------------------------------------------------------------------------------- */

void sched_config_default(struct sched_config *config) {
    *config = (struct sched_config){
        .connections_max = 12000,
        .frame_bytes_max = (6 << 20) + (64 << 10),
        .payload_bytes_max = 6291456,
        .answer_bytes_max = 6291556,
        .connection_buffer_bytes_max = 1 << 20,
        .turn_bytes_max = 256 << 10,
        .payload_total_bytes_max = 1ULL << 30,
        .log_bytes_max = 64 << 20,
        .log_files_max = 1,
    };
    core_config_default(&config->core);
}

static const char *config_wrong(const struct sched_config *config) {
    if (config->connections_max < 1 || config->connections_max > (1U << 20)) {
        return "connections_max: 1 .. 1048576";
    }
    if (config->frame_bytes_max < 4096 || config->frame_bytes_max > (64U << 20)) {
        return "frame_bytes_max: 4096 .. 67108864";
    }
    if (config->payload_bytes_max < 1 || config->payload_bytes_max > config->frame_bytes_max) {
        return "payload_bytes_max: 1 .. frame_bytes_max";
    }
    if (config->answer_bytes_max < 1 || config->answer_bytes_max > (64U << 20)) {
        return "answer_bytes_max: 1 .. 67108864";
    }
    if (config->turn_bytes_max < 4096 || config->turn_bytes_max > (16U << 20)) {
        return "turn_bytes_max: 4096 .. 16777216";
    }
    if (config->connection_buffer_bytes_max < 4096) {
        return "connection_buffer_bytes_max: 4096 at least";
    }
    if (config->payload_total_bytes_max < config->frame_bytes_max) {
        return "payload_total_bytes_max: frame_bytes_max at least";
    }
    if (config->core.calls_max > (1U << 24)) {
        return "core.calls_max: at most 16777216";
    }
    if (memchr(config->log_dir, '\0', sizeof config->log_dir) == NULL) {
        return "log_dir: not ended";
    }
    return NULL;
}

static const char *build(struct sched *sched) {
    const struct sched_config *config = &sched->config;
    sched->core = core_new(&config->core);
    if (sched->core == NULL) {
        return "core: a bound of its config is broken, or no memory";
    }
    sched->clients = calloc(config->connections_max, sizeof *sched->clients);
    sched->channels = calloc(config->core.sandboxes_max, sizeof *sched->channels);
    sched->scratch = malloc((size_t)STASH_BYTES_MAX + config->turn_bytes_max);
    sched->output = malloc(OUTPUT_READ_MAX);
    sched->url_room = malloc(URL_REPLY_ROOM);
    if (sched->clients == NULL || sched->channels == NULL || sched->scratch == NULL || sched->output == NULL || sched->url_room == NULL ||
        !ticket_new_all(sched) || !names_new(sched)) {
        return "no memory";
    }
    if (mailbox_init(&sched->commands, RING_ITEMS, sizeof(struct posted)) != 0) {
        return "the ring of commands could not be made";
    }
    if (mailbox_init(&sched->events, RING_ITEMS, sizeof(struct sched_event)) != 0) {
        return "the ring of events could not be made";
    }
    (void)mailbox_sleep(&sched->events); /* from the start the other side waits */
    sched->epfd = epoll_create1(EPOLL_CLOEXEC);
    sched->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (sched->epfd < 0 || sched->timer_fd < 0 || !watch(sched, EPOLL_CTL_ADD, sched->timer_fd, EPOLLIN, SOURCE_TIMER, 0) ||
        !watch(sched, EPOLL_CTL_ADD, sched->commands.eventfd, EPOLLIN, SOURCE_COMMANDS, 0)) {
        return "epoll could not be set up";
    }
    const struct journal_limits limits = {.file_bytes_max = config->log_bytes_max, .files_max = config->log_files_max,
                                          .total_bytes_max = config->log_total_bytes_max,
                                          .turn_ns = config->log_turn_s * 1000 * MS, .keep_ns = config->log_keep_s * 1000 * MS};
    if (journal_new(&sched->journal, config->log_dir, &limits) != 0) {
        return "log_dir: could not be made or written to";
    }
    return NULL;
}

struct sched *sched_new(const struct sched_config *config, char *error, size_t error_bytes) {
    const char *wrong = config_wrong(config);
    struct sched *sched = wrong != NULL ? NULL : aligned_alloc(64, (sizeof *sched + 63) / 64 * 64);
    if (sched == NULL) {
        snprintf(error, error_bytes, "%s", wrong != NULL ? wrong : "no memory");
        return NULL;
    }
    memset(sched, 0, sizeof *sched);
    sched->config = *config;
    sched->epfd = sched->unix_fd = sched->tcp_fd = sched->http_fd = sched->timer_fd = -1;
    sched->timer_ns = sched->bell_ns = UINT64_MAX;
    sched->commands.eventfd = sched->events.eventfd = -1;
    sched->client_free = sched->dirty_clients = sched->resuming_clients = sched->wanting_head = sched->wanting_tail = sched->dead_clients = NO_INDEX;
    sched->dirty_channels = sched->dead_channels = sched->used_channels = sched->swept_channels = NO_INDEX;
    sched->hushed_channels = sched->probed_channels = sched->resting_channels = NO_INDEX;
    sched->accepting = true;
    share_out(sched, 1);
    sched->now_ns = sched->sweep_ns = sched->slow_sweep_ns = clock_ns();
    wrong = build(sched);
    if (wrong != NULL) {
        snprintf(error, error_bytes, "%s", wrong);
        sched_free(sched);
        return NULL;
    }
    return sched;
}

void sched_free(struct sched *sched) {
    if (sched == NULL) {
        return;
    }
    listen_stop(sched);
    channel_free_all(sched);
    client_free_all(sched);
    for (uint32_t i = 0; i < sched->batched; i++) {
        if (sched->batch[i].kind == CORE_EV_REPLY) {
            block_release(sched->replies[i].block);
        }
    }
    ticket_free_all(sched);
    names_free(sched);
    sigv4_free(&sched->keys);
    urls_free(&sched->urls);
    journal_free(&sched->journal);
    struct posted posted;
    while (sched->commands.items != NULL && mailbox_pop(&sched->commands, &posted)) {
        for (int i = 0; posted.command.kind == SCHED_CMD_SANDBOX_START && i < SCHED_FDS; i++) {
            if (posted.command.fds[i] >= 0) {
                close(posted.command.fds[i]);
            }
        }
        if (posted.command.kind == SCHED_CMD_CONNECTION_ADOPT) {
            close(posted.command.fds[0]);
        }
        free(posted.blob);
    }
    struct sched_event event;
    while (sched->events.items != NULL && mailbox_pop(&sched->events, &event)) {
        sched_event_free(&event);
    }
    while (sched->waiting_head != NULL) {
        struct waiting_event *first = sched->waiting_head;
        sched->waiting_head = first->next;
        sched_event_free(&first->event);
        free(first);
    }
    if (sched->commands.items != NULL) {
        mailbox_free(&sched->commands);
    }
    if (sched->events.items != NULL) {
        mailbox_free(&sched->events);
    }
    if (sched->timer_fd >= 0) {
        close(sched->timer_fd);
    }
    if (sched->epfd >= 0) {
        close(sched->epfd);
    }
    chunk_pool_free(&sched->chunks);
    core_free(sched->core);
    free(sched->scratch);
    free(sched->output);
    free(sched->url_room);
    free(sched);
}

int sched_listen_unix(struct sched *sched, const char *path) {
    return listen_unix(sched, path);
}

int sched_listen_http(struct sched *sched, const char *host, uint16_t *port) {
    return listen_http(sched, host, port);
}

bool sched_json_valid(const uint8_t *in, size_t bytes, size_t *at) {
    return json_valid(in, bytes, at);
}

int sched_listen_tcp(struct sched *sched, const char *host, uint16_t *port) {
    return listen_tcp(sched, host, port);
}
