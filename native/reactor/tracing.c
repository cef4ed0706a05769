/* tracing.c: trace headers of calls. A header costs the sandbox two microseconds, so one is made only where it says something: the
 * function's calls are to be traced, or it can call others and may come back to itself. What callers bring is handed on.
 *
 * Sampled is what the caller says, else the first call of each second and one in twenty of the others. */
#include <string.h>
#include <time.h>

#include "reactor.h"
#include "trace.h"

enum { ONE_IN_TWENTY = 13 }; /* of 256 */

static const uint64_t LOOP_TOLD_NS = 60ULL * 1000 * 1000 * 1000;

static uint64_t wall_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

bool tracing_take(struct sched *sched, struct function_info *info, const struct rpc_request *request, struct rpc_request *traced,
                  struct trace *trace) {
    const struct rpc_slice brought = request->trace;
    *traced = *request;
    trace->sampled = false;
    const bool made = (info->traits & (SCHED_TRAIT_TRACED | SCHED_TRAIT_CALLS)) != 0;
    if (!made && (brought.at == NULL || !trace_has_lineage(brought.at, brought.size))) {
        return true; /* as it came, if it came */
    }
    struct trace_ask ask = {.function = info->hash, .active = (info->traits & SCHED_TRAIT_TRACED) != 0};
    uint8_t random[32];
    request_id_new(sched, random);
    request_id_new(sched, random + 16);
    /* Without the fixed bits of a request id: they stand in the bytes 6 and 8 of each. */
    memcpy(ask.random, random, 6);
    memcpy(ask.random + 6, random + 9, 6);
    memcpy(ask.random + 12, random + 16, 6);
    memcpy(ask.random + 18, random + 26, 2);
    ask.now_s = wall_ns() / 1000000000ULL;
    ask.sample = info->sampled_s != ask.now_s || random[30] < ONE_IN_TWENTY;
    trace_make(brought.at, brought.size, &ask, trace);
    if (trace->sampled && ask.sample) {
        info->sampled_s = ask.now_s;
    }
    if (trace->visits > TRACE_VISITS_MAX && (info->traits & SCHED_TRAIT_LOOPS) == 0) {
        return false;
    }
    traced->trace = (struct rpc_slice){(const uint8_t *)trace->text, trace->size};
    return true;
}

void tracing_tell_loop(struct sched *sched, const struct function_info *info) {
    if (sched->loop_told_ns == 0 || sched->now_ns - sched->loop_told_ns >= LOOP_TOLD_NS) {
        sched->loop_told_ns = sched->now_ns;
        fault(sched, "function %s calls itself without end: its chain was ended after %d calls", info->display, TRACE_VISITS_MAX);
    }
}

struct rpc_slice ticket_trace(const struct ticket *ticket) {
    const uint8_t *const ext = ticket_ext(ticket);
    if (ticket->ext_bytes < 4 || ext[0] != TICKET_EXT_TRACE) {
        return (struct rpc_slice){0};
    }
    return (struct rpc_slice){ext + 4, (uint32_t)ext[2] | (uint32_t)ext[3] << 8};
}

void tracing_tell(struct sched *sched, const struct core_action *answer, const struct ticket *ticket) {
    if (sched->config.spans_s_max == 0) {
        return;
    }
    const uint64_t second = sched->now_ns / 1000000000ULL;
    if (sched->span_s != second) {
        sched->span_s = second;
        sched->span_count = 0;
    }
    if (sched->span_count == sched->config.spans_s_max || slow_side_behind(sched)) {
        sched->stats.spans_dropped++;
        return;
    }
    sched->span_count++;
    sched->stats.spans++;
    const uint64_t ahead = wall_ns() - sched->now_ns; /* of the wall clock, before the loop's own */
    const struct rpc_slice trace = ticket_trace(ticket);
    const bool cold = answer->tier != CORE_TIER_WARM;
    struct sched_span span = {.parent = ticket->trace_parent, .arrived_ns = ticket->read_ns + ahead, .init_ns = cold ? answer->init_ns : 0,
                              .started_ns = answer->start_ns == 0 ? 0 : answer->start_ns + ahead,
                              .ended_ns = (answer->end_ns == 0 ? sched->now_ns : answer->end_ns) + ahead,
                              .answered_ns = sched->now_ns + ahead};
    memcpy(span.request_id, ticket->request_id, sizeof span.request_id);
    uint8_t blob[sizeof span + TRACE_TEXT_MAX];
    SCHED_ASSERT(trace.size <= TRACE_TEXT_MAX); /* it is one of ours */
    memcpy(blob, &span, sizeof span);
    memcpy(blob + sizeof span, trace.at, trace.size);
    const struct sched_event event = {.kind = SCHED_EV_SPAN, .function = ticket->function, .flags = answer->outcome};
    emit_unhurried(sched, &event, blob, sizeof span + trace.size);
}
