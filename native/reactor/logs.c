/* logs.c: what sandboxes write, by LOG frames and by their output pipe, on its way to the journal and to the tails that callers ask for.
 *
 * A sandbox that writes more than its credit allows is not read for a while: it slows itself and nobody else. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "api.h"
#include "reactor.h"

enum {
    LOG_CREDIT_PER_MS = 64 * 1024, /* 64 MB/s, after LOG_CREDIT_MAX at once */
    LOG_FRAME_COST = 256,          /* what an empty one takes of it: its work is that of so many bytes */
    FIRST_LOOKS = 8                /* answers of a new sandbox before which its pipe is looked into in any case */
};

static const uint64_t TROUBLE_NS = 60ULL * 1000 * 1000 * 1000;

static void hush(struct sched *sched, struct channel *channel) {
    if (channel->hushed || channel->gone || channel->killed) {
        return;
    }
    channel->hushed = true;
    channel->hushed_next = sched->hushed_channels;
    sched->hushed_channels = channel_index(channel);
    channel_rewatch(sched, channel, false, channel->writing);
    if (channel->output_fd >= 0) {
        (void)watch(sched, EPOLL_CTL_MOD, channel->output_fd, 0, SOURCE_OUTPUT, channel_index(channel));
    }
}

static void refill(struct sched *sched, struct channel *channel) {
    const uint64_t ms = (sched->now_ns - channel->log_credit_ns) / 1000000;
    if (ms > 0) {
        const uint64_t credit = channel->log_credit_bytes + (ms < 1000 ? ms : 1000) * LOG_CREDIT_PER_MS;
        channel->log_credit_bytes = credit < LOG_CREDIT_MAX ? credit : LOG_CREDIT_MAX;
        channel->log_credit_ns += ms * 1000000; /* what is left of a millisecond counts the next time */
    }
}

void logs_unhush(struct sched *sched) {
    uint32_t *link = &sched->hushed_channels;
    while (*link != NO_INDEX) {
        struct channel *channel = sched->channels[*link];
        refill(sched, channel);
        if (!channel->gone && !channel->killed && channel->log_credit_bytes < LOG_CREDIT_MAX / 4) {
            link = &channel->hushed_next;
            continue;
        }
        *link = channel->hushed_next;
        channel->hushed = false;
        if (!channel->gone && !channel->killed) {
            channel_rewatch(sched, channel, true, channel->writing);
            if (channel->output_fd >= 0) {
                (void)watch(sched, EPOLL_CTL_MOD, channel->output_fd, EPOLLIN, SOURCE_OUTPUT, channel_index(channel));
            }
        }
    }
}

void logs_init_report(struct sched *sched, const struct channel *channel, const char *error) {
    const struct function_info *info = info_of(sched, channel->function);
    if (info == NULL || info->journal == NULL) {
        return;
    }
    char text[512];
    const size_t size = journal_render_init(text, sizeof text, info->look, sched->now_ns - channel->begun_ns,
                                            core_sandbox_again(sched->core, channel->sandbox), error);
    struct journal_record record = {.kind = JOURNAL_TEXT, .look = info->look, .sandbox = channel->sandbox};
    journal_add(&sched->journal, info->journal, &record, text, size, NULL, 0);
}

void logs_restored(struct sched *sched, const struct channel *channel, uint64_t init_ns) {
    const struct function_info *info = info_of(sched, channel->function);
    if (info == NULL || info->journal == NULL || !journal_shows(info->look, JOURNAL_START, CORE_OK)) {
        return;
    }
    char text[512];
    const size_t size = journal_render_restore(text, sizeof text, info->look, info->runtime, init_ns);
    struct journal_record record = {.kind = JOURNAL_TEXT, .look = info->look, .sandbox = channel->sandbox};
    journal_add(&sched->journal, info->journal, &record, text, size, NULL, 0);
}

void logs_tell_trouble(struct sched *sched) {
    const uint64_t lost = journal_lost(&sched->journal);
    if (lost == sched->journal_lost || (sched->journal_told_ns != 0 && sched->now_ns - sched->journal_told_ns < TROUBLE_NS)) {
        return;
    }
    const uint64_t by_disk = atomic_load_explicit(&sched->journal.disk.lost_bytes, memory_order_relaxed);
    const int error = by_disk == sched->journal_disk_lost
                          ? 0 : atomic_load_explicit(&sched->journal.disk.trouble, memory_order_relaxed);
    sched->journal_disk_lost = by_disk;
    fault(sched, "%" PRIu64 " bytes of functions' logs are lost, %" PRIu64 " of them since this was last said: %s",
          lost, lost - sched->journal_lost, error != 0 ? strerror(error) : "the disk does not keep up");
    sched->journal_lost = lost;
    sched->journal_told_ns = sched->now_ns;
}

static void keep_tail(struct channel *channel, uint32_t seq, const uint8_t *at, size_t bytes) {
    if (channel->tail == NULL) {
        channel->tail = malloc(TAIL_BYTES);
        if (channel->tail == NULL) {
            return;
        }
    }
    if (channel->tail_seq != seq) {
        channel->tail_seq = seq;
        channel->tail_bytes = 0;
    }
    const size_t skip = bytes > TAIL_BYTES ? bytes - TAIL_BYTES : 0;
    uint64_t end = channel->tail_bytes + skip;
    for (size_t i = skip; i < bytes; i++) {
        channel->tail[end++ % TAIL_BYTES] = at[i];
    }
    /* Kept below 2^32 with its place in the ring. */
    channel->tail_bytes = end > UINT32_MAX / 2 ? (uint32_t)(end % TAIL_BYTES) + TAIL_BYTES : (uint32_t)end;
}

void logs_charge(struct sched *sched, struct channel *channel, uint64_t cost) {
    channel->log_credit_bytes -= cost < channel->log_credit_bytes ? cost : channel->log_credit_bytes;
    if (channel->log_credit_bytes == 0) {
        hush(sched, channel);
    }
}

void logs_take(struct sched *sched, struct channel *channel, uint32_t seq, const uint8_t *at, size_t bytes) {
    refill(sched, channel);
    logs_charge(sched, channel, bytes + LOG_FRAME_COST);
    const struct function_info *info = info_of(sched, channel->function);
    struct ticket *ticket = channel_ticket(sched, channel, seq);
    struct journal_record record = {.kind = JOURNAL_LOG, .sandbox = channel->sandbox};
    if (ticket != NULL) {
        memcpy(record.request_id, ticket->request_id, 16);
        if (ticket->log_tail) {
            keep_tail(channel, seq, at, bytes);
        }
    }
    if (info == NULL || info->journal == NULL) {
        return;
    }
    record.look = info->look;
    if (ticket != NULL && !ticket->logged_start) {
        struct journal_record start = record;
        start.kind = JOURNAL_START;
        if (journal_shows(info->look, JOURNAL_START, CORE_OK)) {
            const struct journal_rest rest = {.version = info->version, .version_bytes = strlen(info->version), .trace = "",
                                              .guest = info->guest, .guest_bytes = strlen(info->guest)};
            char bytes_of[JOURNAL_REST_MAX];
            journal_add(&sched->journal, info->journal, &start, bytes_of, journal_rest_put(&rest, bytes_of), NULL, 0);
        }
        ticket->logged_start = true;
    }
    while (bytes > 0) {
        const size_t part = bytes < JOURNAL_LOG_BYTES_MAX ? bytes : JOURNAL_LOG_BYTES_MAX;
        journal_add(&sched->journal, info->journal, &record, at, part, NULL, 0);
        at += part;
        bytes -= part;
    }
}

bool logs_read_output(struct sched *sched, struct channel *channel) {
    if (channel->output_fd < 0) {
        return false;
    }
    const ssize_t got = read(channel->output_fd, sched->output, OUTPUT_READ_MAX);
    if (got > 0) {
        channel->output_used = true;
        logs_take(sched, channel, channel_progress(channel), sched->output, (size_t)got);
        api_tell_log(sched, channel, false, sched->output, (size_t)got);
        return true;
    }
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        unwatch(sched, channel->output_fd);
        channel->output_fd = -1;
    }
    return false;
}

/* The pipe may have become readable after epoll was asked, and epoll tells of a channel that was busy before first. A look costs a
 * system call, so it is taken where something may be there: from those that use the pipe, and of the others before their first answers. */
void logs_before_answer(struct sched *sched, struct channel *channel) {
    if (channel->output_looked || (!channel->output_used && channel->output_looks == FIRST_LOOKS)) {
        return;
    }
    channel->output_looked = true;
    if (channel->output_looks < FIRST_LOOKS) {
        channel->output_looks++;
    }
    (void)logs_read_output(sched, channel);
}

void logs_ready(struct sched *sched, uint32_t index) {
    struct channel *channel = sched->channels[index];
    if (channel != NULL && !channel->freed) {
        (void)logs_read_output(sched, channel);
    }
}
