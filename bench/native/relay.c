/* relay.c: the floor of latency: three processes, one message, nothing else.
 *
 *     client -> relay -> worker -> relay -> client        Unix stream sockets, blocking reads and writes
 *
 * Any scheduler that runs a handler in a process of its own makes these four hops. The worker echoes (C), or is a program given
 * with --worker, which finds its socket as descriptor 3 (the bare Python loop). One message is on its way at a time.
 *
 *   --bytes N | --payload FILE   --duration-ms N   --warmup-ms N   --pin-client CPU --pin-relay CPU --pin-worker CPU
 *   --worker PROGRAM [ARG...]    last
 */
#include "common.h"
#include "histogram.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BYTES_MAX = 1 << 20, WORKER_FD = 3 };

struct floor_options {
    size_t bytes;
    uint8_t *payload;
    uint64_t duration_ns, warmup_ns;
    int pin_client, pin_relay, pin_worker;
    char **worker; /* NULL: echo in C */
};

static void options(struct floor_options *o, int argc, char **argv)
{
    *o = (struct floor_options){.bytes = 100, .duration_ns = 2 * NS_PER_S, .warmup_ns = NS_PER_S / 4,
                                .pin_client = -1, .pin_relay = -1, .pin_worker = -1};
    const char *file = NULL;
    for (int i = 1; i < argc; i++) {
        const char *option = argv[i];
        if (i + 1 == argc)
            die("%s: unknown, or its value is missing", option);
        if (strcmp(option, "--worker") == 0) {
            o->worker = argv + i + 1;
            break;
        }
        const char *value = argv[++i];
        if (strcmp(option, "--bytes") == 0)
            o->bytes = parse_number(option, value, 1, BYTES_MAX);
        else if (strcmp(option, "--payload") == 0)
            file = value;
        else if (strcmp(option, "--duration-ms") == 0)
            o->duration_ns = parse_number(option, value, 1, 3600000) * NS_PER_MS;
        else if (strcmp(option, "--warmup-ms") == 0)
            o->warmup_ns = parse_number(option, value, 0, 3600000) * NS_PER_MS;
        else if (strcmp(option, "--pin-client") == 0)
            o->pin_client = (int)parse_number(option, value, 0, 1023);
        else if (strcmp(option, "--pin-relay") == 0)
            o->pin_relay = (int)parse_number(option, value, 0, 1023);
        else if (strcmp(option, "--pin-worker") == 0)
            o->pin_worker = (int)parse_number(option, value, 0, 1023);
        else
            die("%s: unknown", option);
    }
    o->payload = grab(BYTES_MAX);
    memset(o->payload, 'x', o->bytes);
    if (!file)
        return;
    FILE *in = fopen(file, "rb");
    if (!in)
        die("--payload: %s: %s", file, strerror(errno));
    o->bytes = fread(o->payload, 1, BYTES_MAX, in);
    fclose(in);
    if (o->bytes == 0)
        die("--payload: %s is empty", file);
}

static _Noreturn void echo(int fd)
{
    static uint8_t buffer[BYTES_MAX];
    for (;;) {
        ssize_t got = read(fd, buffer, sizeof buffer);
        if (got <= 0 || write(fd, buffer, (size_t)got) != got)
            _exit(0);
    }
}

static _Noreturn void relay(int client, int worker, size_t bytes)
{
    static uint8_t buffer[BYTES_MAX];
    while (read_all(client, buffer, bytes) && write_all(worker, buffer, bytes) && read_all(worker, buffer, bytes) &&
           write_all(client, buffer, bytes))
        continue;
    _exit(0);
}

static pid_t born(int pin)
{
    pid_t pid = fork();
    if (pid < 0)
        die("fork: %s", strerror(errno));
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pin_cpu(pin);
    }
    return pid;
}

static double cpu_of_children(void)
{
    struct rusage usage;
    getrusage(RUSAGE_CHILDREN, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

int main(int argc, char **argv)
{
    struct floor_options o;
    options(&o, argc, argv);
    int front[2], back[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, front) != 0 ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, back) != 0)
        die("socketpair: %s", strerror(errno));
    pid_t worker = born(o.pin_worker);
    if (worker == 0) {
        if (!o.worker) {
            close(front[0]);
            close(front[1]);
            close(back[0]);
            echo(back[1]);
        }
        int fd = back[1] == WORKER_FD ? dup(back[1]) : back[1]; /* dup2 onto itself would keep close-on-exec */
        dup2(fd, WORKER_FD);
        execvp(o.worker[0], o.worker);
        die("%s: %s", o.worker[0], strerror(errno));
    }
    pid_t middle = born(o.pin_relay);
    if (middle == 0) {
        close(front[0]);
        close(back[1]);
        relay(front[1], back[0], o.bytes);
    }
    close(front[1]);
    close(back[0]);
    close(back[1]);
    pin_cpu(o.pin_client);

    static struct histogram latency;
    uint8_t *answer = grab(o.bytes);
    uint64_t start = now_ns(), record = start + o.warmup_ns, end = record + o.duration_ns;
    uint64_t now = start;
    while (now < end) {
        if (!write_all(front[0], o.payload, o.bytes) || !read_all(front[0], answer, o.bytes))
            die("the relay or its worker ended");
        uint64_t later = now_ns();
        if (memcmp(answer, o.payload, o.bytes) != 0)
            die("the answer is not the question");
        if (now >= record)
            histogram_add(&latency, later - now, 1);
        now = later;
    }
    close(front[0]);
    waitpid(middle, NULL, 0);
    double relay_us = cpu_of_children();
    waitpid(worker, NULL, 0);
    double seconds = (double)(now - record) / 1e9;
    printf("{\"bytes\": %zu, \"calls\": %llu, \"seconds\": %.6f, \"per_s\": %.3f, \"p50_us\": %.3f, \"p90_us\": %.3f, "
           "\"p99_us\": %.3f, \"p999_us\": %.3f, \"max_us\": %.3f, \"mean_us\": %.3f, \"relay_cpu_s\": %.6f, "
           "\"pins\": [%d, %d, %d]}\n",
           o.bytes, (unsigned long long)latency.count, seconds, (double)latency.count / seconds,
           (double)histogram_at(&latency, 0.5) / 1e3, (double)histogram_at(&latency, 0.9) / 1e3,
           (double)histogram_at(&latency, 0.99) / 1e3, (double)histogram_at(&latency, 0.999) / 1e3, (double)latency.max / 1e3,
           latency.count ? latency.sum / (double)latency.count / 1e3 : 0, relay_us / 1e6, o.pin_client, o.pin_relay,
           o.pin_worker);
    return 0;
}
