/* sweep.c: see sweep.h. The kernel's usage figures are files, and a look at one costs microseconds: a few each turn. */
#include "sweep.h"

#include <string.h>
#include <unistd.h>

enum { SWEEP_A_TURN = 32 /* usage files read in one turn */ };

static const uint64_t REST_NS = 100 * 1000 * 1000; /* told of no earlier, so that a busy function is not frozen for each call */

static uint64_t digits(const char *at) {
    uint64_t value = 0;
    for (; *at >= '0' && *at <= '9'; at++) {
        value = value * 10 + (uint64_t)(*at - '0');
    }
    return value;
}

static bool read_file(int fd, char *out, size_t bytes) {
    const ssize_t got = fd < 0 ? -1 : pread(fd, out, bytes - 1, 0);
    out[got > 0 ? got : 0] = '\0';
    return got > 0;
}

/* cgroup v1: cpuacct.usage, ns alone. v2: cpu.stat, "usage_usec N" in its first line. */
void sweep_usage(struct sched *sched, struct channel *channel) {
    char text[256];
    if (!read_file(channel->cpu_fd, text, sizeof text)) {
        return;
    }
    const char *usec = strstr(text, "usage_usec ");
    struct core_event *event = batch_add(sched, CORE_EV_SANDBOX_USAGE);
    event->u.sandbox.handle = channel->sandbox;
    event->u.sandbox.cpu_ns = usec != NULL ? 1000 * digits(usec + strlen("usage_usec ")) : digits(text);
    if (read_file(channel->memory_fd, text, sizeof text)) {
        event->u.sandbox.memory_peak_bytes = digits(text);
    }
}

void sweep_tell_rest(struct sched *sched, struct channel *channel, bool rests) {
    channel->rest_told = rests;
    const struct sched_event event = {.kind = SCHED_EV_REST, .sandbox = channel->sandbox, .function = channel->function,
                                      .flags = rests ? 1 : 0};
    emit(sched, &event, NULL, 0);
}

void sweep_will_rest(struct sched *sched, struct channel *channel) {
    channel->rested_ns = sched->now_ns;
    if (!channel->resting) {
        channel->resting = true;
        channel->resting_next = sched->resting_channels;
        sched->resting_channels = channel_index(channel);
    }
}

static void sweep_resting(struct sched *sched) {
    uint32_t *link = &sched->resting_channels;
    while (*link != NO_INDEX) {
        struct channel *channel = sched->channels[*link];
        const bool rests = channel->answered_seq == channel->sent_seq;
        if (rests && sched->now_ns - channel->rested_ns < REST_NS) {
            link = &channel->resting_next;
            continue;
        }
        *link = channel->resting_next;
        channel->resting = false;
        if (rests && !channel->gone && !channel->killed && !channel->rest_told) {
            sweep_tell_rest(sched, channel, true);
        }
    }
}

void channel_sweep_begin(struct sched *sched) {
    sweep_resting(sched);
    if (sched->swept_channels == NO_INDEX) {
        sched->swept_channels = sched->used_channels;
        sched->used_channels = NO_INDEX;
    }
}

void channel_sweep(struct sched *sched) {
    for (uint32_t i = 0; i < SWEEP_A_TURN && sched->swept_channels != NO_INDEX; i++) {
        struct channel *channel = sched->channels[sched->swept_channels];
        sched->swept_channels = channel->used_next;
        channel->used = false;
        if (!channel->gone) {
            sweep_usage(sched, channel);
        }
    }
}
