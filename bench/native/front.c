/* front.c: the floor of HTTP invocation: one thread, a few workers, and nothing a scheduler is for.
 *
 * Takes POST requests with a Content-Length, hands each body to a free worker over a Unix socket of sequenced packets, one at a time
 * each, and answers with what comes back. Requests that find no worker free wait in the order in which they came. There are no limits,
 * no isolation, no accounts and no checks: it reads what a well-behaved client sends, and drops a connection that sends anything else.
 *
 *   --port N (0: any)  --workers N  [--pin CPU]  [--worker PROGRAM ARG...]   last
 * Without --worker, or with --workers 0, it echoes by itself. Prints "ready PORT"; ends when stdin does.
 */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER_BYTES = 16 * 1024, WORKERS_MAX = 64, EVENTS_MAX = 256, WORKER_FD = 3 };

struct peer {
    int fd;
    bool queued, gone; /* in the queue or with a worker; gone meanwhile */
    struct peer *next;
    size_t used, body_at, body_bytes;
    char in[BUFFER_BYTES];
};

struct worker {
    int fd;
    struct peer *peer; /* NULL: free */
};

static struct {
    int epoll, workers_count, pin;
    struct worker workers[WORKERS_MAX];
    struct peer *first, *last;
} front;

static void put_away(struct peer *p)
{
    if (p->queued) {
        p->gone = true;
        return;
    }
    close(p->fd);
    free(p);
}

/* Answers the request at the beginning of the buffer; what lies behind it moves up. */
static void reply(struct peer *p, const void *body, size_t bytes)
{
    char out[BUFFER_BYTES + 128];
    p->queued = false;
    if (p->gone) {
        put_away(p);
        return;
    }
    int head = snprintf(out, 128, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", bytes);
    memcpy(out + head, body, bytes);
    if (send(p->fd, out, (size_t)head + bytes, MSG_NOSIGNAL) != head + (ssize_t)bytes) {
        shutdown(p->fd, SHUT_RDWR); /* its end is an event of its own */
        return;
    }
    p->used -= p->body_at + p->body_bytes;
    memmove(p->in, p->in + p->body_at + p->body_bytes, p->used);
}

static void hand(struct worker *w, struct peer *p)
{
    w->peer = p;
    if (send(w->fd, p->in + p->body_at, p->body_bytes, MSG_NOSIGNAL) != (ssize_t)p->body_bytes)
        die("a worker is gone: %s", strerror(errno));
}

static void take(struct peer *p)
{
    if (front.workers_count == 0) {
        char body[BUFFER_BYTES];
        memcpy(body, p->in + p->body_at, p->body_bytes);
        reply(p, body, p->body_bytes);
        return;
    }
    p->queued = true;
    for (int i = 0; i < front.workers_count; i++)
        if (!front.workers[i].peer) {
            hand(&front.workers[i], p);
            return;
        }
    p->next = NULL;
    *(front.first ? &front.last->next : &front.first) = p;
    front.last = p;
}

/* false: not what this front reads. Sets body_at and body_bytes; *whole: all of it is there. */
static bool parse(struct peer *p, bool *whole)
{
    *whole = false;
    p->in[p->used] = 0;
    char *end = strstr(p->in, "\r\n\r\n");
    if (!end)
        return p->used < BUFFER_BYTES - 1;
    char *length = strcasestr(p->in, "\r\ncontent-length:");
    if (strncmp(p->in, "POST ", 5) != 0 || !length || length > end)
        return false;
    p->body_at = (size_t)(end + 4 - p->in);
    p->body_bytes = strtoul(length + 17, NULL, 10);
    *whole = p->used >= p->body_at + p->body_bytes;
    return p->body_bytes > 0 && p->body_at + p->body_bytes < BUFFER_BYTES;
}

static void from_client(struct peer *p)
{
    ssize_t got = recv(p->fd, p->in + p->used, BUFFER_BYTES - 1 - p->used, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    bool whole;
    p->used += got > 0 ? (size_t)got : 0;
    if (got <= 0 || (!p->queued && !parse(p, &whole))) {
        epoll_ctl(front.epoll, EPOLL_CTL_DEL, p->fd, NULL);
        put_away(p);
    } else if (!p->queued && whole) {
        take(p);
    }
}

static void from_worker(struct worker *w)
{
    char body[BUFFER_BYTES];
    ssize_t got = recv(w->fd, body, sizeof body, 0);
    if (got <= 0)
        die("a worker is gone");
    reply(w->peer, body, (size_t)got);
    w->peer = NULL;
    if (front.first) {
        struct peer *p = front.first;
        front.first = p->next;
        hand(w, p);
    }
}

static void start_worker(struct worker *w, char **program)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        die("socketpair: %s", strerror(errno));
    pid_t pid = fork();
    if (pid < 0)
        die("fork: %s", strerror(errno));
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int fd = pair[1] == WORKER_FD ? dup(pair[1]) : pair[1]; /* dup2 onto itself would keep close-on-exec */
        dup2(fd, WORKER_FD);
        execvp(program[0], program);
        die("%s: %s", program[0], strerror(errno));
    }
    close(pair[1]);
    w->fd = pair[0];
}

static int listen_tcp(uint16_t *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(*port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
        bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1024) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        die("cannot listen at port %u: %s", *port, strerror(errno));
    *port = ntohs(address.sin_port);
    return fd;
}

static void watch(int fd, void *what)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};
    if (epoll_ctl(front.epoll, EPOLL_CTL_ADD, fd, &event) != 0)
        die("cannot watch descriptor %d (stdin must be a pipe): %s", fd, strerror(errno));
}

static void welcome(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC), yes = 1;
    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct peer *p = grab(sizeof *p);
    p->fd = fd;
    watch(fd, p);
}

int main(int argc, char **argv)
{
    static int listener_mark, stdin_mark;
    uint16_t port = 0;
    char **program = NULL;
    front.pin = -1;
    for (int i = 1; i < argc; i++) {
        const char *option = argv[i];
        if (i + 1 == argc)
            die("%s: unknown, or its value is missing", option);
        if (strcmp(option, "--worker") == 0) {
            program = argv + i + 1;
            break;
        }
        const char *value = argv[++i];
        if (strcmp(option, "--port") == 0)
            port = (uint16_t)parse_number(option, value, 0, 65535);
        else if (strcmp(option, "--workers") == 0)
            front.workers_count = (int)parse_number(option, value, 0, WORKERS_MAX);
        else if (strcmp(option, "--pin") == 0)
            front.pin = (int)parse_number(option, value, 0, 1023);
        else
            die("%s: unknown", option);
    }
    if (!program)
        front.workers_count = 0;
    pin_cpu(front.pin);
    front.epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < front.workers_count; i++) {
        start_worker(&front.workers[i], program);
        watch(front.workers[i].fd, &front.workers[i]);
    }
    int listener = listen_tcp(&port);
    watch(listener, &listener_mark);
    watch(STDIN_FILENO, &stdin_mark);
    printf("ready %u\n", port);
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int count = epoll_wait(front.epoll, events, EVENTS_MAX, -1);
        for (int i = 0; i < count; i++) {
            void *what = events[i].data.ptr;
            if (what == &stdin_mark)
                return 0;
            if (what == &listener_mark)
                welcome(listener);
            else if (what >= (void *)front.workers && what < (void *)(front.workers + WORKERS_MAX))
                from_worker(what);
            else
                from_client(what);
        }
    }
}
