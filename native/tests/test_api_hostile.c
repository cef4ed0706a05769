/* What a sandbox can do with its Runtime API against the service, and what that costs at most: connections, memory, time. */
#include <dirent.h>
#include <sys/resource.h>

#include "api_peer.h"

static struct api *api_of(const struct rig *rig) {
    return rig->sched->channels[0]->api;
}

/* Its end was heard. */
static bool is_over(struct rig *rig, struct peer *peer) {
    turns(rig, peer, 3);
    return peer->ended;
}

static void connections_beyond_its_own_are_shared_with_all(void) {
    struct rig rig;
    const struct rig_options options = rig_options();
    struct peer *own[API_CONNECTIONS_OWN];
    own[0] = begun(&rig, &options);
    rig.sched->api_shared = API_CONNECTIONS_SHARED_MAX - 1; /* others have the rest */
    for (int i = 1; i < API_CONNECTIONS_OWN; i++) {
        own[i] = peer_new(&rig.sandboxes[0]);
    }
    turns(&rig, NULL, 3);
    SCHED_ASSERT(rig.sched->api_shared == API_CONNECTIONS_SHARED_MAX - 1);
    struct peer *shared = peer_new(&rig.sandboxes[0]);
    turns(&rig, NULL, 2);
    SCHED_ASSERT(rig.sched->api_shared == API_CONNECTIONS_SHARED_MAX);
    struct peer *refused = peer_new(&rig.sandboxes[0]);
    SCHED_ASSERT(is_over(&rig, refused) && heard(refused, "503 Service Unavailable"));
    ask(&rig, own[0], NEXT); /* those that are its own go on, */
    SCHED_ASSERT(heard(own[0], "200 OK"));
    peer_free(own[1]);
    turns(&rig, NULL, 2);
    SCHED_ASSERT(rig.sched->api_shared == API_CONNECTIONS_SHARED_MAX - 1); /* and what ends is free again, */
    own[1] = peer_new(&rig.sandboxes[0]);
    turns(&rig, NULL, 2);
    ask(&rig, own[1], "GET /2018-06-01/ping HTTP/1.1\r\n\r\n");
    SCHED_ASSERT(heard(own[1], "pong"));
    rig_close(&rig.sandboxes[0]);
    rig_reaped(&rig, rig.sandboxes[0].handle, CORE_CAUSE_EXIT, 0);
    turns(&rig, NULL, 3);
    SCHED_ASSERT(rig.sched->api_shared == API_CONNECTIONS_SHARED_MAX - 1); /* also with the sandbox */
    for (int i = 0; i < API_CONNECTIONS_OWN; i++) {
        peer_free(own[i]);
    }
    peer_free(shared);
    peer_free(refused);
    rig_free(&rig);
}

static rlim_t highest_descriptor(void) {
    DIR *directory = opendir("/proc/self/fd");
    SCHED_ASSERT(directory != NULL);
    rlim_t highest = 0;
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        const rlim_t fd = (rlim_t)strtoul(entry->d_name, NULL, 10);
        highest = fd > highest && (int)fd != dirfd(directory) ? fd : highest;
    }
    closedir(directory);
    return highest;
}

/* Without descriptors a listener would be told of for ever. */
static void without_descriptors_it_is_not_asked_for_ever(void) {
    struct rig rig;
    struct rlimit before;
    const struct rig_options options = rig_options();
    struct peer *peer = begun(&rig, &options);
    turns(&rig, NULL, 2);
    struct peer *late = peer_new(&rig.sandboxes[0]);
    SCHED_ASSERT(getrlimit(RLIMIT_NOFILE, &before) == 0);
    const struct rlimit none = {.rlim_cur = highest_descriptor() + 1, .rlim_max = before.rlim_max};
    int filled[1024], count = 0; /* holes below it */
    SCHED_ASSERT(setrlimit(RLIMIT_NOFILE, &none) == 0);
    while (count < 1024 && (filled[count] = dup(peer->fd)) >= 0) {
        count++;
    }
    turns(&rig, NULL, 2);
    const bool paused = api_of(&rig)->paused;
    for (int i = 0; i < count; i++) {
        close(filled[i]);
    }
    SCHED_ASSERT(setrlimit(RLIMIT_NOFILE, &before) == 0);
    SCHED_ASSERT(paused);
    for (int i = 0; i < 1000 && api_of(&rig)->paused; i++) {
        const struct timespec ms = {.tv_nsec = 1000000};
        nanosleep(&ms, NULL);
        turns(&rig, NULL, 1);
    }
    turns(&rig, NULL, 2);
    ask(&rig, late, "GET /2018-06-01/ping HTTP/1.1\r\n\r\n");
    SCHED_ASSERT(heard(late, "pong"));
    peer_free(late);
    peer_free(peer);
    rig_free(&rig);
}

static void subscribe_to_all(struct rig *rig, struct peer *peer, const char *types) {
    char id[37], body[1400], path[1000], text[2048];
    ask(rig, peer, "POST /2020-01-01/extension/register HTTP/1.1\r\nLambda-Extension-Name: inner\r\nContent-Length: 13\r\n\r\n{\"events\":[]}");
    const char *const at = strstr(peer->heard, "Lambda-Extension-Identifier: ");
    SCHED_ASSERT(at != NULL);
    snprintf(id, sizeof id, "%.36s", at + 29);
    memset(path, 'p', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    const int size = snprintf(body, sizeof body, "{\"schemaVersion\":\"2022-07-01\",\"types\":[%s],\"destination\":{\"protocol\":\"HTTP\","
                              "\"URI\":\"http://sandbox.localdomain:8080/%s\"}}", types, path);
    snprintf(text, sizeof text, "PUT /2022-07-01/telemetry HTTP/1.1\r\nLambda-Extension-Identifier: %s\r\nContent-Length: %d\r\n\r\n%s", id, size, body);
    ask(rig, peer, text);
    SCHED_ASSERT(heard(peer, "\"OK\""));
    /* As often as it likes, while its agent (which it may stop) reads nothing. */
    for (int i = 0; i < 3000; i++) {
        rig_write(peer->fd, text, strlen(text));
        turns(rig, peer, 1);
        if (peer->bytes > sizeof peer->heard / 2) {
            peer->bytes = 0;
        }
        SCHED_ASSERT(rig->sched->channels[0]->output.bytes < (1 << 20) + (64 << 10));
    }
}

static void an_agent_that_reads_nothing_makes_nothing_grow(void) {
    struct rig rig;
    const struct rig_options options = rig_options();
    struct peer *peer = begun(&rig, &options);
    subscribe_to_all(&rig, peer, "\"platform\"");
    SCHED_ASSERT(heard(peer, "403 Forbidden"));
    peer_free(peer);
    rig_free(&rig);
}

/* A line is a record, which is work: a flood of empty ones is slowed as one of long ones is. */
static void short_lines_cost_as_records(void) {
    struct rig rig;
    const struct rig_options options = rig_options();
    struct peer *peer = begun(&rig, &options);
    subscribe_to_all(&rig, peer, "\"function\"");
    char lines[32768];
    for (size_t i = 0; i < sizeof lines; i++) {
        lines[i] = i % 2 == 0 ? 'x' : '\n';
    }
    bool hushed = false;
    for (int i = 0; i < 16 && !hushed; i++) {
        (void)!write(rig.sandboxes[0].output, lines, sizeof lines);
        turns(&rig, NULL, 2);
        hushed = rig.sched->channels[0]->hushed;
    }
    SCHED_ASSERT(hushed);
    peer_free(peer);
    rig_free(&rig);
}

static void what_nobody_wants_is_paid_for(void) {
    enum { TRICKLE, DISCARD };
    static char zeros[64 << 10];
    for (int way = TRICKLE; way <= DISCARD; way++) {
        struct rig rig;
        const struct rig_options options = rig_options();
        struct peer *peer = begun(&rig, &options);
        char text[256], id[37];
        ask(&rig, peer, NEXT);
        id_of(peer, id);
        struct peer *other = peer_new(&rig.sandboxes[0]);
        turns(&rig, NULL, 2);
        /* The answer itself, byte by byte; or one to a call that is not. */
        snprintf(text, sizeof text, "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\n%s\r\n\r\n",
                 way == TRICKLE ? id : "00000000-0000-4000-8000-000000000000",
                 way == TRICKLE ? "Transfer-Encoding: chunked" : "Content-Length: 60000000");
        ask(&rig, other, text);
        bool paused = false;
        for (int i = 0; i < 3 * API_BURST && !paused; i++) {
            if (way == TRICKLE) {
                rig_write(other->fd, "1\r\n1\r\n", 6);
            } else {
                (void)!send(other->fd, zeros, sizeof zeros, MSG_DONTWAIT | MSG_NOSIGNAL);
            }
            turns(&rig, NULL, 1);
            paused = rig.sched->paused_apis != NULL;
        }
        SCHED_ASSERT(paused);
        peer_free(other);
        peer_free(peer);
        rig_free(&rig);
    }
}

int main(void) {
    RUN(connections_beyond_its_own_are_shared_with_all);
    RUN(without_descriptors_it_is_not_asked_for_ever);
    RUN(an_agent_that_reads_nothing_makes_nothing_grow);
    RUN(short_lines_cost_as_records);
    RUN(what_nobody_wants_is_paid_for);
    return 0;
}
