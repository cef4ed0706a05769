/* load.c: the load generator's loop. One thread, one epoll; batches as large as what is due, one send and one receive a batch.
 *
 * The theory of its times is in load.h. Two rules keep it honest: an open loop's schedule is a function of its start and its
 * number alone, never of an answer; and nothing that was due is forgotten, whatever the server does.
 */
#include "load.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { IN_BYTES = 64 * 1024, EVENTS_MAX = 256, GENERATION_MASK = 0xfff };
#define NO_SLOT UINT32_MAX

static bool recording(const struct load *load, uint64_t meant_ns)
{
    return meant_ns >= load->record_ns;
}

/* ---- connections ---- */

static void grow(uint8_t **buffer, size_t *size, size_t wanted)
{
    size_t bytes = *size ? *size : IN_BYTES;
    while (bytes < wanted)
        bytes *= 2;
    if (bytes == *size)
        return;
    uint8_t *moved = realloc(*buffer, bytes);
    if (!moved)
        die("out of memory: a buffer of %zu bytes", bytes);
    *buffer = moved;
    *size = bytes;
}

static void say_hello(struct load *load, int fd)
{
    uint8_t frame[512];
    size_t size = wire_make_hello(frame, 0xffffffff, load->token), used = 0, need = 1;
    if (!write_all(fd, frame, size))
        die("hello: the server closed the connection");
    for (;;) {
        if (used == sizeof frame || !read_all(fd, frame + used, 1))
            die("hello: the server closed the connection or answered at length");
        used++;
        struct wire_response response;
        int64_t verdict = used >= need ? wire_read_response(frame, used, &response, &need) : WIRE_MORE;
        if (verdict == WIRE_BAD || (verdict > 0 && response.failed))
            die("hello: refused");
        if (verdict > 0)
            return;
    }
}

static void open_connection(struct load *load, struct connection *c, struct stream *s)
{
    c->stream = s;
    c->fd = load->unix_path ? connect_unix(load->unix_path) : connect_tcp(load->tcp);
    if (load->tcp)
        say_hello(load, c->fd);
    if (s->mode != MODE_IDLE) {
        int bytes = 1 << 20;
        setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
        c->slots_count = s->mode == MODE_CLOSED ? s->inflight : s->outstanding;
        c->slots = grab(c->slots_count * sizeof *c->slots);
        for (uint32_t i = 0; i < c->slots_count; i++)
            c->slots[i].next_free = i + 1 == c->slots_count ? NO_SLOT : i + 1;
        grow(&c->in, &c->in_size, IN_BYTES);
        grow(&c->out, &c->out_size, IN_BYTES);
    }
    c->in_need = 1;
    set_nonblocking(c->fd);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(load->epoll, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die("epoll_ctl: %s", strerror(errno));
}

static void watch_out(struct load *load, struct connection *c, bool wanted)
{
    if (c->wants_out == wanted)
        return;
    c->wants_out = wanted;
    struct epoll_event event = {.events = wanted ? EPOLLIN | EPOLLOUT : EPOLLIN, .data.ptr = c};
    epoll_ctl(load->epoll, EPOLL_CTL_MOD, c->fd, &event);
}

/* ---- the record ---- */

static void close_interval(struct stream *s)
{
    if (s->series_count == SERIES_MAX)
        return;
    s->now.p50_ns = histogram_at(&s->slice, 0.5);
    s->now.p99_ns = histogram_at(&s->slice, 0.99);
    s->now.max_ns = s->slice.max;
    s->series[s->series_count++] = s->now;
    s->now = (struct interval){0};
    if (s->slice.count)
        histogram_clear(&s->slice);
}

static void series_up_to(const struct load *load, struct stream *s, uint64_t now)
{
    if (load->series_ns == 0 || now < load->record_ns)
        return;
    while (s->series_count < (now - load->record_ns) / load->series_ns && s->series_count < SERIES_MAX)
        close_interval(s);
}

static struct error_count *error_of(struct stream *s, struct wire_slice type)
{
    if (type.size == 0)
        type = (struct wire_slice){(const uint8_t *)"untyped", 7};
    if (type.size >= NAME_BYTES)
        type.size = NAME_BYTES - 1;
    for (uint32_t i = 0; i < s->errors_count; i++)
        if (strlen(s->errors[i].type) == type.size && memcmp(s->errors[i].type, type.at, type.size) == 0)
            return &s->errors[i];
    if (s->errors_count == ERRORS_MAX)
        return &s->errors[ERRORS_MAX - 1];
    struct error_count *fresh = &s->errors[s->errors_count++];
    memcpy(fresh->type, type.at, type.size);
    fresh->latency = grab(sizeof *fresh->latency);
    return fresh;
}

static void record_failure(struct load *load, struct stream *s, struct wire_slice type, uint64_t meant, uint64_t now)
{
    if (now >= load->record_ns && now < s->end_ns)
        s->failed_inside++;
    if (load->series_ns && now >= load->record_ns) {
        series_up_to(load, s, now);
        s->now.failed++;
    }
    if (!recording(load, meant))
        return;
    struct error_count *error = error_of(s, type);
    error->count++;
    histogram_add(error->latency, now - meant, 1);
    s->failed++;
}

static void record_success(struct load *load, struct stream *s, struct kind *kind, uint64_t meant, uint64_t now)
{
    uint64_t latency = now > meant ? now - meant : 0;
    if (now >= load->record_ns && now < s->end_ns)
        s->ok_inside++;
    if (load->series_ns && now >= load->record_ns) {
        series_up_to(load, s, now);
        s->now.ok++;
        histogram_add(&s->slice, latency, 1);
    }
    if (!recording(load, meant))
        return;
    s->ok++;
    histogram_add(&s->latency, latency, 1);
    if (s->kinds_count > 1)
        histogram_add(kind->latency, latency, 1);
}

/* ---- sending ---- */

static uint16_t pick_kind(struct load *load, const struct stream *s)
{
    if (s->kinds_count == 1)
        return 0;
    double r = random_unit(&load->random);
    uint16_t i = 0;
    while (i + 1u < s->kinds_count && r > s->kinds[i].weight_up_to)
        i++;
    return i;
}

/* The caller has seen that a slot is free. */
static void put_call(struct load *load, struct connection *c, uint64_t meant, uint64_t now)
{
    struct stream *s = c->stream;
    uint16_t number = pick_kind(load, s);
    const struct kind *kind = &s->kinds[number];
    uint32_t index = c->free_slot;
    struct slot *slot = &c->slots[index];
    c->free_slot = slot->next_free;
    slot->meant_ns = meant;
    slot->kind = number;
    slot->generation = (slot->generation + 1) & GENERATION_MASK;
    slot->busy = true;
    c->outstanding++;
    if (c->out_sent >= PENDING_BYTES_MAX) { /* never wholly flushed: the sent part must not pile up */
        memmove(c->out, c->out + c->out_sent, c->out_used - c->out_sent);
        c->out_used -= c->out_sent;
        c->out_sent = 0;
    }
    if (c->out_used + kind->request_bytes > c->out_size)
        grow(&c->out, &c->out_size, c->out_used + kind->request_bytes);
    uint8_t *frame = c->out + c->out_used;
    memcpy(frame, kind->request, kind->request_bytes);
    wire_set_msgid(frame, (uint32_t)slot->generation << 20 | index);
    c->out_used += kind->request_bytes;
    if (!recording(load, meant))
        return;
    s->sent++;
    if (s->mode == MODE_OPEN) {
        histogram_add(&s->lateness, now - meant, 1);
        s->late += now - meant > NS_PER_MS;
    }
}

static void cut(struct load *load, struct connection *c, uint64_t now)
{
    static const struct wire_slice reason = {(const uint8_t *)"ConnectionClosed", 16};
    epoll_ctl(load->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    c->fd = -1;
    load->cut++;
    for (uint32_t i = 0; i < c->slots_count; i++)
        if (c->slots[i].busy) {
            c->slots[i].busy = false;
            record_failure(load, c->stream, reason, c->slots[i].meant_ns, now);
        }
    c->outstanding = 0;
}

static void flush(struct load *load, struct connection *c)
{
    while (c->fd >= 0 && c->out_sent < c->out_used) {
        ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_used - c->out_sent, MSG_NOSIGNAL);
        if (sent >= 0) {
            c->out_sent += (size_t)sent;
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            watch_out(load, c, true);
            return;
        } else if (errno != EINTR) {
            cut(load, c, now_ns());
            return;
        }
    }
    c->out_used = c->out_sent = 0;
    if (c->wants_out && c->fd >= 0)
        watch_out(load, c, false);
}

static bool has_room(const struct connection *c)
{
    return c->fd >= 0 && c->outstanding < c->slots_count && c->out_used - c->out_sent < PENDING_BYTES_MAX;
}

static void refill(struct load *load, struct connection *c, uint64_t now)
{
    const struct stream *s = c->stream;
    if (s->mode != MODE_CLOSED || c->fd < 0)
        return;
    if (now >= s->begin_ns && now < s->end_ns)
        while (c->outstanding < c->slots_count)
            put_call(load, c, now, now);
    flush(load, c);
}

static void next_due(struct load *load, struct stream *s)
{
    s->due_number++;
    if (s->poisson)
        s->due_ns += (uint64_t)(-log(random_unit(&load->random)) * 1e9 / s->rate);
    else
        s->due_ns = s->begin_ns + (uint64_t)((double)s->due_number * 1e9 / s->rate);
}

/* Sends what is due. false: no connection has room, so its next due time is no reason to wake up. */
static bool send_due(struct load *load, struct stream *s, uint64_t now)
{
    struct connection *base = load->connections + s->first_connection;
    uint32_t batch = 0, tried = 0;
    bool room = true;
    while (s->due_ns <= now && s->due_ns < s->end_ns && batch < OPEN_BATCH) {
        struct connection *c = base + s->next_connection;
        s->next_connection = s->next_connection + 1 == s->connections ? 0 : s->next_connection + 1;
        if (!has_room(c)) {
            if (++tried == s->connections) {
                room = false;
                break;
            }
            continue;
        }
        tried = 0;
        put_call(load, c, s->due_ns, now);
        batch++;
        next_due(load, s);
    }
    if (batch > 0)
        for (uint32_t i = 0; i < s->connections; i++)
            if (base[i].out_used > 0 && !base[i].wants_out)
                flush(load, &base[i]);
    return room;
}

/* ---- receiving ---- */

static void take_answer(struct load *load, struct connection *c, const struct wire_response *response, uint64_t now)
{
    struct stream *s = c->stream;
    uint32_t index = response->msgid & (OUTSTANDING_MAX - 1);
    if (index >= c->slots_count || !c->slots[index].busy || c->slots[index].generation != response->msgid >> 20)
        die("an answer to msgid %u, which is not outstanding: answered twice, or never asked", response->msgid);
    struct slot *slot = &c->slots[index];
    struct kind *kind = &s->kinds[slot->kind];
    slot->busy = false;
    slot->next_free = c->free_slot;
    c->free_slot = index;
    c->outstanding--;
    load->handled++;
    if (response->failed) {
        record_failure(load, s, response->error_type, slot->meant_ns, now);
    } else {
        if (s->check_echo && (response->payload.size != kind->payload_bytes ||
                              memcmp(response->payload.at, kind->payload, kind->payload_bytes) != 0))
            s->mismatched++;
        record_success(load, s, kind, slot->meant_ns, now);
    }
    if (now >= load->record_ns && ++load->answered == load->count && load->count) {
        load->end_ns = now;
        for (uint32_t i = 0; i < load->streams_count; i++)
            load->streams[i]->end_ns = now;
    }
}

/* One receive and all whole messages in it. flags: of recv. false: nothing came. */
static bool receive(struct load *load, struct connection *c, int flags, uint64_t *now)
{
    if (c->in_used == c->in_size || c->in_need > c->in_size)
        grow(&c->in, &c->in_size, c->in_need > c->in_size ? c->in_need : c->in_size * 2);
    ssize_t got = recv(c->fd, c->in + c->in_used, c->in_size - c->in_used, flags);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return false;
    *now = now_ns();
    if (got <= 0) {
        cut(load, c, *now);
        return true;
    }
    c->in_used += (size_t)got;
    size_t at = 0;
    while (c->in_used - at >= c->in_need) {
        struct wire_response response;
        size_t need = 0;
        int64_t verdict = wire_read_response(c->in + at, c->in_used - at, &response, &need);
        if (verdict == WIRE_BAD)
            die("the server sent something that is not a MessagePack-RPC response");
        if (verdict == WIRE_MORE) {
            c->in_need = need;
            break;
        }
        c->in_need = 1;
        take_answer(load, c, &response, *now);
        at += (size_t)verdict;
    }
    if (at > 0 && at < c->in_used)
        memmove(c->in, c->in + at, c->in_used - at);
    c->in_used -= at;
    return true;
}

static void idle_readable(struct load *load, struct connection *c)
{
    uint8_t byte;
    ssize_t got = recv(c->fd, &byte, 1, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
        cut(load, c, now_ns());
}

/* ---- the two loops ---- */

static void read_own_cpu(struct load *load, bool begin)
{
    uint64_t user, system;
    cpu_used_ns(&user, &system);
    load->user_ns = begin ? user : user - load->user_ns;
    load->system_ns = begin ? system : system - load->system_ns;
    if (begin)
        load->handled = 0;
}

static void wait_for(struct load *load, uint64_t until_ns, uint64_t now, uint64_t *later)
{
    struct epoll_event events[EVENTS_MAX];
    struct timespec timeout = {0, 0};
    if (until_ns > now && !load->spin) {
        timeout.tv_sec = (time_t)((until_ns - now) / NS_PER_S);
        timeout.tv_nsec = (long)((until_ns - now) % NS_PER_S);
    }
    int count = epoll_pwait2(load->epoll, events, EVENTS_MAX, &timeout, NULL);
    if (count < 0 && errno != EINTR)
        die("epoll_pwait2: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        struct connection *c = events[i].data.ptr;
        if (c->fd >= 0 && events[i].events & EPOLLOUT)
            flush(load, c);
        if (c->fd < 0 || !(events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
            continue;
        if (c->stream->mode == MODE_IDLE)
            idle_readable(load, c);
        else if (receive(load, c, 0, later))
            refill(load, c, *later);
    }
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void run_polled(struct load *load)
{
    bool begun[STREAMS_MAX] = {false}, recorded = false;
    for (uint64_t now = now_ns(); now < load->end_ns; now = now_ns()) {
        uint64_t wake = load->end_ns;
        if (!recorded && now >= load->record_ns) {
            recorded = true;
            read_own_cpu(load, true);
        }
        if (!recorded)
            wake = earlier(wake, load->record_ns);
        for (uint32_t i = 0; i < load->streams_count; i++) {
            struct stream *s = load->streams[i];
            if (s->mode == MODE_IDLE)
                continue;
            if (now < s->begin_ns) {
                wake = earlier(wake, s->begin_ns);
                continue;
            }
            if (s->mode == MODE_CLOSED && !begun[i])
                for (uint32_t j = 0; j < s->connections; j++)
                    refill(load, &load->connections[s->first_connection + j], now);
            begun[i] = true;
            if (s->mode == MODE_OPEN && send_due(load, s, now) && s->due_ns < s->end_ns)
                wake = earlier(wake, s->due_ns);
        }
        wait_for(load, wake, now, &now);
    }
    read_own_cpu(load, false);
}

/* One connection in a closed loop needs no epoll: the fewest system calls there can be, so that a comparison with a bare relay
 * compares servers. */
static bool is_direct(const struct load *load)
{
    const struct stream *s = load->streams[0];
    if (load->connections_count != 1 || s->mode != MODE_CLOSED || s->begin_ns > load->record_ns || s->stop_ns != UINT64_MAX)
        return false;
    size_t largest = 0;
    for (uint32_t i = 0; i < s->kinds_count; i++)
        largest = s->kinds[i].request_bytes > largest ? s->kinds[i].request_bytes : largest;
    return s->inflight * largest <= 64 * 1024; /* fits the socket's buffer: a blocking send cannot meet a blocked server */
}

static void run_direct(struct load *load)
{
    struct connection *c = load->connections;
    struct timeval patience = {0, 100000}; /* a server that died without closing must not hold us for ever */
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    set_blocking(c->fd);
    uint64_t now = now_ns();
    bool recorded = false;
    while (now < load->end_ns && c->fd >= 0) {
        if (!recorded && now >= load->record_ns) {
            recorded = true;
            read_own_cpu(load, true);
        }
        refill(load, c, now);
        if (c->fd < 0 || receive(load, c, load->spin ? MSG_DONTWAIT : 0, &now))
            continue;
        now = now_ns();
    }
    read_own_cpu(load, false);
    if (c->fd >= 0)
        set_nonblocking(c->fd);
}

static uint32_t outstanding(const struct load *load)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < load->connections_count; i++)
        sum += load->connections[i].outstanding;
    return sum;
}

/* What is still on its way is waited for; what was due and never left, or never came back, is recorded with the time it has
 * waited, which is less than the truth and more than nothing. */
static void drain(struct load *load)
{
    uint64_t now = now_ns(), until = now + load->drain_ns;
    bool spin = load->spin;
    load->spin = false;
    while (outstanding(load) > 0 && now < until) {
        wait_for(load, earlier(until, now + 50 * NS_PER_MS), now, &now);
        now = now_ns();
    }
    load->spin = spin;
    for (uint32_t i = 0; i < load->streams_count; i++) {
        struct stream *s = load->streams[i];
        for (uint32_t j = 0; j < s->connections; j++) {
            struct connection *c = &load->connections[s->first_connection + j];
            for (uint32_t k = 0; k < c->slots_count; k++)
                if (c->slots[k].busy && recording(load, c->slots[k].meant_ns)) {
                    s->unanswered++;
                    histogram_add(&s->latency, now - c->slots[k].meant_ns, 1);
                }
        }
        for (; s->mode == MODE_OPEN && s->due_ns < s->end_ns && s->due_ns < now; next_due(load, s))
            if (recording(load, s->due_ns)) {
                s->unsent++;
                histogram_add(&s->latency, now - s->due_ns, 1);
            }
        series_up_to(load, s, load->end_ns + (load->series_ns ? load->series_ns - 1 : 0));
    }
}

static void schedule(struct load *load)
{
    uint64_t now = now_ns();
    load->record_ns = now + load->warmup_ns;
    load->end_ns = load->record_ns + load->duration_ns;
    for (uint32_t i = 0; i < load->streams_count; i++) {
        struct stream *s = load->streams[i];
        s->begin_ns = s->start_ns ? load->record_ns + s->start_ns : now;
        s->end_ns = s->stop_ns == UINT64_MAX ? load->end_ns : earlier(load->end_ns, load->record_ns + s->stop_ns);
        s->due_ns = s->begin_ns;
        if (s->poisson)
            next_due(load, s);
        if (load->series_ns)
            s->series = grab(SERIES_MAX * sizeof *s->series);
    }
}

int main(int argc, char **argv)
{
    static struct load load;
    load_options(&load, argc, argv);
    pin_cpu(load.pin);
    tight_timers();
    load.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (load.epoll < 0)
        die("epoll_create1: %s", strerror(errno));
    load.connections = grab(load.connections_count * sizeof *load.connections);
    uint32_t next = 0;
    for (uint32_t i = 0; i < load.streams_count; i++) {
        load.streams[i]->first_connection = next;
        for (uint32_t j = 0; j < load.streams[i]->connections; j++)
            open_connection(&load, &load.connections[next++], load.streams[i]);
    }
    load.random = load.seed;
    schedule(&load);
    if (is_direct(&load))
        run_direct(&load);
    else
        run_polled(&load);
    drain(&load);
    load_report(&load);
    return 0;
}
