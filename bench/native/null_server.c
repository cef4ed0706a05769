/* null_server.c: the least that can answer MessagePack-RPC: echoes every payload, schedules nothing.
 *
 * Two uses: the load generator's own ceiling (how much of a figure is the client), and its proof (a server that stalls on
 * purpose, drops answers or refuses, so that the test knows what the record must say).
 *
 *   --unix PATH  [--pin CPU] [--spin]
 *   --stall-every-ms N --stall-ms M    stop for M ms, N ms after the first request, then N ms after each stop's end
 *   --drop-every N                     leave each N-th request unanswered
 *   --garble-every N                   change one byte of each N-th answer's payload
 *   --serve-us N                       work that long on each call, one after another
 * A function whose name begins with "refuse" is answered Throttled. Prints "ready" once it listens; ends when stdin does.
 */
#include "common.h"
#include "wire.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { IN_BYTES = 256 * 1024, EVENTS_MAX = 256 };

struct peer {
    int fd;
    uint8_t *in;
    size_t in_size, in_used, in_need;
    uint8_t *out;
    size_t out_size, out_used, out_sent;
};

struct server {
    const char *path;
    int pin;
    bool spin;
    uint64_t stall_every_ns, stall_ns, next_stall_ns;
    uint64_t drop_every, garble_every, serve_ns;
    uint64_t requests;
    int epoll;
};

static void make_room(uint8_t **buffer, size_t *size, size_t wanted)
{
    size_t bytes = *size ? *size : IN_BYTES;
    while (bytes < wanted)
        bytes *= 2;
    if (bytes == *size)
        return;
    *buffer = realloc(*buffer, bytes);
    if (!*buffer)
        die("out of memory: a buffer of %zu bytes", bytes);
    *size = bytes;
}

static void drop_peer(struct peer *p)
{
    close(p->fd);
    free(p->in);
    free(p->out);
    free(p);
}

static void answer(struct server *server, struct peer *p, const struct wire_request *request)
{
    server->requests++;
    if (server->drop_every && server->requests % server->drop_every == 0)
        return;
    if (server->serve_ns)
        for (uint64_t end = now_ns() + server->serve_ns; now_ns() < end;)
            continue;
    make_room(&p->out, &p->out_size, p->out_used + request->payload.size + 64);
    if (request->function.size >= 6 && memcmp(request->function.at, "refuse", 6) == 0) {
        p->out_used += wire_make_error(p->out + p->out_used, request->msgid, "Throttled");
        return;
    }
    p->out_used += wire_make_answer_head(p->out + p->out_used, request->msgid, request->payload.size);
    memcpy(p->out + p->out_used, request->payload.at, request->payload.size);
    if (server->garble_every && request->payload.size && server->requests % server->garble_every == 0)
        p->out[p->out_used] ^= 1;
    p->out_used += request->payload.size;
    p->out[p->out_used++] = 0xc0;
}

/* false: the peer is gone. */
static bool send_out(struct server *server, struct peer *p)
{
    while (p->out_sent < p->out_used) {
        ssize_t sent = send(p->fd, p->out + p->out_sent, p->out_used - p->out_sent, MSG_NOSIGNAL);
        if (sent >= 0) {
            p->out_sent += (size_t)sent;
        } else if (errno == EAGAIN) {
            struct epoll_event event = {.events = EPOLLOUT, .data.ptr = p}; /* nothing is read until it is gone */
            epoll_ctl(server->epoll, EPOLL_CTL_MOD, p->fd, &event);
            return true;
        } else if (errno != EINTR) {
            return false;
        }
    }
    if (p->out_used > 0) {
        p->out_used = p->out_sent = 0;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = p};
        epoll_ctl(server->epoll, EPOLL_CTL_MOD, p->fd, &event);
    }
    return true;
}

static void maybe_stall(struct server *server)
{
    if (server->stall_every_ns == 0)
        return;
    uint64_t now = now_ns();
    if (server->next_stall_ns == 0)
        server->next_stall_ns = now + server->stall_every_ns;
    if (now < server->next_stall_ns)
        return;
    struct timespec pause = {(time_t)(server->stall_ns / NS_PER_S), (long)(server->stall_ns % NS_PER_S)};
    nanosleep(&pause, NULL);
    server->next_stall_ns = now_ns() + server->stall_every_ns;
}

static bool serve(struct server *server, struct peer *p, uint32_t events)
{
    if (events & EPOLLOUT)
        return send_out(server, p);
    make_room(&p->in, &p->in_size, p->in_used + IN_BYTES / 2);
    ssize_t got = recv(p->fd, p->in + p->in_used, p->in_size - p->in_used, 0);
    if (got <= 0)
        return got < 0 && (errno == EAGAIN || errno == EINTR);
    maybe_stall(server);
    p->in_used += (size_t)got;
    size_t at = 0;
    while (p->in_used - at >= p->in_need) {
        struct wire_request request;
        int64_t verdict = wire_read_request(p->in + at, p->in_used - at, &request, &p->in_need);
        if (verdict == WIRE_BAD)
            return false;
        if (verdict == WIRE_MORE)
            break;
        p->in_need = 1;
        answer(server, p, &request);
        at += (size_t)verdict;
    }
    memmove(p->in, p->in + at, p->in_used - at);
    p->in_used -= at;
    return send_out(server, p);
}

static void options(struct server *server, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *option = argv[i];
        if (strcmp(option, "--spin") == 0) {
            server->spin = true;
            continue;
        }
        if (i + 1 == argc)
            die("%s: unknown, or its value is missing", option);
        const char *value = argv[++i];
        if (strcmp(option, "--unix") == 0)
            server->path = value;
        else if (strcmp(option, "--pin") == 0)
            server->pin = (int)parse_number(option, value, 0, 1023);
        else if (strcmp(option, "--stall-every-ms") == 0)
            server->stall_every_ns = parse_number(option, value, 1, 3600000) * NS_PER_MS;
        else if (strcmp(option, "--stall-ms") == 0)
            server->stall_ns = parse_number(option, value, 1, 3600000) * NS_PER_MS;
        else if (strcmp(option, "--drop-every") == 0)
            server->drop_every = parse_number(option, value, 1, UINT64_MAX);
        else if (strcmp(option, "--garble-every") == 0)
            server->garble_every = parse_number(option, value, 1, UINT64_MAX);
        else if (strcmp(option, "--serve-us") == 0)
            server->serve_ns = parse_number(option, value, 1, 1000000) * 1000;
        else
            die("%s: unknown", option);
    }
    if (!server->path)
        die("--unix is missing");
}

int main(int argc, char **argv)
{
    static struct server server = {.pin = -1};
    static int listener_mark, stdin_mark;
    options(&server, argc, argv);
    pin_cpu(server.pin);
    server.epoll = epoll_create1(EPOLL_CLOEXEC);
    int listener = listen_unix(server.path, 1024);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &listener_mark};
    epoll_ctl(server.epoll, EPOLL_CTL_ADD, listener, &event);
    event.data.ptr = &stdin_mark;
    if (epoll_ctl(server.epoll, EPOLL_CTL_ADD, STDIN_FILENO, &event) != 0)
        die("stdin must be a pipe: %s", strerror(errno));
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int count = epoll_wait(server.epoll, events, EVENTS_MAX, server.spin ? 0 : -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == &stdin_mark) {
                unlink(server.path);
                return 0;
            }
            if (events[i].data.ptr == &listener_mark) {
                struct peer *p = grab(sizeof *p);
                p->fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (p->fd < 0) {
                    free(p);
                    continue;
                }
                p->in_need = 1;
                event = (struct epoll_event){.events = EPOLLIN, .data.ptr = p};
                epoll_ctl(server.epoll, EPOLL_CTL_ADD, p->fd, &event);
                continue;
            }
            if (!serve(&server, events[i].data.ptr, events[i].events))
                drop_peer(events[i].data.ptr);
        }
    }
}
