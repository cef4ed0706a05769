/* sweep.h: what is found out about sandboxes by looking, not told by them: what they have used, whether they rest. */
#ifndef SCHED_SWEEP_H
#define SCHED_SWEEP_H

#include "reactor.h"

/* Asks the kernel now; the core is told. */
void sweep_usage(struct sched *sched, struct channel *channel);
void sweep_will_rest(struct sched *sched, struct channel *channel);
void sweep_tell_rest(struct sched *sched, struct channel *channel, bool rests);

/* The kernel is asked at the next sweep: a call may run for long before it answers. */
static inline void sweep_note_used(struct sched *sched, struct channel *channel) {
    if (!channel->used && channel->cpu_fd >= 0) {
        channel->used = true;
        channel->used_next = sched->used_channels;
        sched->used_channels = channel_index(channel);
    }
}

/* It may have answered all that was sent to it. Told at a sweep, if that is so still: at most twice a sweep, however many calls
 * there are. */
static inline void sweep_note_rest(struct sched *sched, struct channel *channel) {
    if (channel->tells_rest && channel->answered_seq == channel->sent_seq) {
        sweep_will_rest(sched, channel);
    }
}

/* Called with whatever it is to do next: it may be frozen. */
static inline void sweep_note_work(struct sched *sched, struct channel *channel) {
    if (channel->rest_told) {
        sweep_tell_rest(sched, channel, false);
    }
}

#endif
