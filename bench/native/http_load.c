/* http_load.c: one HTTP request sent over and over, one at a time on each connection; answers are checked.
 *
 * The request is a file of bytes, sent as they are, so that whoever made it decides about headers and signature, once. A closed loop:
 * what it tells is throughput, and the latency of a client that waits for its answer. With one connection it uses a blocking send and
 * receive, as the relay's client does.
 *
 *   --tcp HOST:PORT  --request FILE  [--expect FILE]   the answer's body, byte for byte
 *   --connections N  --duration-ms N  --warmup-ms N  --count N  --pin CPU
 *   --hold           make one call on each connection, print "held N", and hold them in silence until stdin ends
 *
 * An answer needs a Content-Length. Any status but 200 is counted by its number and is no throughput. A closed or broken connection is
 * the end of the run.
 */
#include "common.h"
#include "histogram.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { REQUEST_BYTES_MAX = 128 << 20, ANSWER_BYTES_MAX = 64 * 1024, CONNECTIONS_MAX = 20000, STATUSES_MAX = 600, EVENTS_MAX = 256 };

struct text {
    char *at;
    size_t bytes;
};

struct connection {
    int fd;
    uint64_t sent_ns;
    size_t used;
    char *in; /* ANSWER_BYTES_MAX and a zero */
};

static struct {
    const char *tcp;
    struct text request, expect;
    uint32_t connections;
    uint64_t duration_ns, warmup_ns, count;
    int pin;
    bool hold;
    /* the record */
    uint64_t record_ns, end_ns;
    uint64_t by_status[STATUSES_MAX], ok, mismatched;
    struct histogram latency;
} load = {.connections = 1, .duration_ns = 2 * NS_PER_S, .warmup_ns = NS_PER_S / 4, .pin = -1};

static struct text contents(const char *option, const char *path)
{
    FILE *in = fopen(path, "rb");
    if (!in)
        die("%s: %s: %s", option, path, strerror(errno));
    struct stat info;
    if (fstat(fileno(in), &info) != 0 || info.st_size < 1 || info.st_size > REQUEST_BYTES_MAX)
        die("%s: %s has %lld bytes, 1 .. %d are possible", option, path, (long long)info.st_size, REQUEST_BYTES_MAX);
    struct text text = {.at = grab((size_t)info.st_size), .bytes = (size_t)info.st_size};
    if (fread(text.at, 1, text.bytes, in) != text.bytes)
        die("%s: %s cannot be read", option, path);
    fclose(in);
    return text;
}

static void options(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *option = argv[i];
        if (strcmp(option, "--hold") == 0) {
            load.hold = true;
            continue;
        }
        if (i + 1 == argc)
            die("%s: unknown, or its value is missing", option);
        const char *value = argv[++i];
        if (strcmp(option, "--tcp") == 0)
            load.tcp = value;
        else if (strcmp(option, "--request") == 0)
            load.request = contents(option, value);
        else if (strcmp(option, "--expect") == 0)
            load.expect = contents(option, value);
        else if (strcmp(option, "--connections") == 0)
            load.connections = (uint32_t)parse_number(option, value, 1, CONNECTIONS_MAX);
        else if (strcmp(option, "--duration-ms") == 0)
            load.duration_ns = parse_number(option, value, 1, 3600000) * NS_PER_MS;
        else if (strcmp(option, "--warmup-ms") == 0)
            load.warmup_ns = parse_number(option, value, 0, 3600000) * NS_PER_MS;
        else if (strcmp(option, "--count") == 0)
            load.count = parse_number(option, value, 1, UINT64_MAX);
        else if (strcmp(option, "--pin") == 0)
            load.pin = (int)parse_number(option, value, 0, 1023);
        else
            die("%s: unknown", option);
    }
    if (!load.tcp || !load.request.at)
        die("--tcp and --request are needed");
}

static void ask(struct connection *c)
{
    c->used = 0;
    c->sent_ns = now_ns();
    size_t at = 0;
    while (at < load.request.bytes) {
        ssize_t sent = send(c->fd, load.request.at + at, load.request.bytes - at, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            die("the server has closed a connection");
        at += (size_t)sent;
    }
}

/* The answer's bytes if it is whole, else 0. */
static size_t whole(struct connection *c, unsigned *status, struct text *body)
{
    c->in[c->used] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end)
        return 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    if (strncmp(c->in, "HTTP/1.1 ", 9) != 0 || !length || length > end)
        die("not an answer of a known length: %.200s", c->in);
    *status = (unsigned)strtoul(c->in + 9, NULL, 10);
    *body = (struct text){end + 4, strtoul(length + 17, NULL, 10)};
    size_t bytes = (size_t)(body->at - c->in) + body->bytes;
    if (bytes > ANSWER_BYTES_MAX || *status >= STATUSES_MAX)
        die("an answer of status %u with %zu bytes, at most %d", *status, bytes, ANSWER_BYTES_MAX);
    return c->used >= bytes ? bytes : 0;
}

/* Receives; true: an answer came, and is in the record if it belongs there. */
static bool hear(struct connection *c, uint64_t *now)
{
    ssize_t got = recv(c->fd, c->in + c->used, ANSWER_BYTES_MAX - c->used, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (got <= 0)
        die("the server has closed a connection");
    c->used += (size_t)got;
    unsigned status;
    struct text body;
    size_t bytes = whole(c, &status, &body);
    *now = now_ns();
    if (bytes == 0)
        return false;
    if (bytes != c->used)
        die("%zu bytes behind an answer", c->used - bytes);
    if (*now < load.record_ns)
        return true;
    load.by_status[status]++;
    if (status == 200 && load.expect.at && (body.bytes != load.expect.bytes || memcmp(body.at, load.expect.at, body.bytes) != 0)) {
        load.mismatched++;
    } else if (status == 200) {
        load.ok++;
        histogram_add(&load.latency, *now - c->sent_ns, 1);
    }
    return true;
}

static bool over(uint64_t now)
{
    return now >= load.end_ns || (load.count > 0 && load.ok >= load.count);
}

static void one(struct connection *c)
{
    for (uint64_t now = 0; !over(now);) {
        ask(c);
        while (!hear(c, &now))
            continue;
    }
}

static void many(struct connection *connections)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    for (uint32_t i = 0; i < load.connections; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &connections[i]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, connections[i].fd, &event);
        ask(&connections[i]);
    }
    for (uint64_t now = now_ns(); !over(now);) {
        struct epoll_event events[EVENTS_MAX];
        int count = epoll_wait(epoll, events, EVENTS_MAX, 100);
        now = count <= 0 ? now_ns() : now;
        for (int i = 0; i < count; i++)
            if (hear(events[i].data.ptr, &now))
                ask(events[i].data.ptr);
    }
}

/* One call on each, so that whatever the server keeps for a client that has spoken is there. */
static void hold(struct connection *connections)
{
    uint64_t now;
    for (uint32_t i = 0; i < load.connections; i++) {
        ask(&connections[i]);
        while (!hear(&connections[i], &now))
            continue;
    }
    printf("held %u\n", load.connections);
    fflush(stdout);
    char byte;
    while (read(STDIN_FILENO, &byte, 1) > 0)
        continue;
    uint32_t cut = 0;
    for (uint32_t i = 0; i < load.connections; i++)
        cut += recv(connections[i].fd, &byte, 1, MSG_DONTWAIT) == 0;
    printf("{\"cut\": %u, \"refused\": %llu}\n", cut, (unsigned long long)(load.connections - load.by_status[200]));
}

static void report(uint64_t now, uint64_t cpu_ns)
{
    double seconds = (double)((now < load.end_ns ? now : load.end_ns) - load.record_ns) / 1e9;
    const struct histogram *h = &load.latency;
    printf("{\"seconds\": %.6f, \"ok\": %llu, \"mismatched\": %llu, \"per_s\": %.3f, \"p50_us\": %.3f, \"p90_us\": %.3f, "
           "\"p99_us\": %.3f, \"p999_us\": %.3f, \"max_us\": %.3f, \"mean_us\": %.3f, \"own_cpu_s\": %.6f, \"statuses\": {",
           seconds, (unsigned long long)load.ok, (unsigned long long)load.mismatched, (double)load.ok / seconds,
           (double)histogram_at(h, 0.5) / 1e3, (double)histogram_at(h, 0.9) / 1e3, (double)histogram_at(h, 0.99) / 1e3,
           (double)histogram_at(h, 0.999) / 1e3, (double)h->max / 1e3, h->count ? h->sum / (double)h->count / 1e3 : 0,
           (double)cpu_ns / 1e9);
    const char *comma = "";
    for (unsigned i = 0; i < STATUSES_MAX; i++)
        if (load.by_status[i]) {
            printf("%s\"%u\": %llu", comma, i, (unsigned long long)load.by_status[i]);
            comma = ", ";
        }
    puts("}}");
}

int main(int argc, char **argv)
{
    options(argc, argv);
    pin_cpu(load.pin);
    struct connection *connections = grab(load.connections * sizeof *connections);
    char *shared = load.hold ? grab(ANSWER_BYTES_MAX + 1) : NULL;
    for (uint32_t i = 0; i < load.connections; i++) {
        connections[i].fd = connect_tcp(load.tcp);
        connections[i].in = shared ? shared : grab(ANSWER_BYTES_MAX + 1);
        if (load.connections > 1 && !load.hold)
            set_nonblocking(connections[i].fd);
    }
    uint64_t user, system, user_before, system_before;
    cpu_used_ns(&user_before, &system_before);
    if (load.hold) {
        hold(connections);
        return 0;
    }
    load.record_ns = now_ns() + load.warmup_ns;
    load.end_ns = load.record_ns + load.duration_ns;
    if (load.connections == 1)
        one(&connections[0]);
    else
        many(connections);
    cpu_used_ns(&user, &system);
    report(now_ns(), user + system - user_before - system_before);
    return 0;
}
