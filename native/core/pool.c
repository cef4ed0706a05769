/* pool.c: sandboxes, and what becomes of their calls.
 *
 * States (core.h, enum core_sandbox_state) and what moves them; anything else is a stale event or the sandbox's fault:
 *
 *              READY            SEND           last REPLY      KILL/GONE        REAPED
 *   STARTING   IDLE (or staged) -              -               DYING            FREE, its waiting calls fail
 *   IDLE       -                BUSY           -               DYING            FREE
 *   BUSY       -                BUSY           IDLE            DYING            FREE
 *   DRAINING   -                -              DYING           DYING            FREE
 *   DYING      -                -              -               DYING            FREE
 *
 * A sandbox of a revision that does not serve yet is *staged*: STARTING with ready_ns set, until CORE_EV_FUNCTION_SWITCH.
 *
 * Of the calls in a ring only those up to the progress word's seq may have run. They share the sandbox's fate; those behind go
 * back to the head of the queue, in order. */
#include "internal.h"

/* A first call whose time is up while the progress word is already past it has an answer on the way, unless that answer is stuck
 * behind the call that follows: so long it may take. Within the lateness a timeout may have. */
enum { ANSWER_GRACE_NS = 10 * 1000 * 1000 };

enum { OVERRUN_NS_MIN = 5 * 1000 * 1000, RECALL_SLACK_NS = 1000 * 1000, VALID_SLACK_NS = 10 * 1000 * 1000 };

/* A process that is only waiting for its turn on a processor has had it by then, also on a machine with ten times too much to do. */
enum { STUCK_NS = 100 * 1000 * 1000 };

enum { RUN_NOISE_NS = 20 * 1000 };

uint32_t sandbox_find(struct core *core, uint64_t handle) {
    const uint32_t index = (uint32_t)handle;
    const uint32_t generation = (uint32_t)(handle >> 32);
    if (index < core->config.sandboxes_max && generation != 0 && core->sandboxes[index].state != CORE_SB_FREE &&
        core->sandboxes[index].generation == generation) {
        return index;
    }
    core->totals.stale_events++;
    return NONE;
}

static uint32_t *list_head(struct core *core, const struct sandbox *sandbox) {
    struct function *function = &core->functions[sandbox->function];
    if (sandbox->state == CORE_SB_BUSY) {
        const uint32_t bucket = sandbox->overrun ? CORE_AHEAD_MAX : sandbox->backlog;
        return &function->busy_heads[bucket];
    }
    return &function->state_heads[sandbox->state];
}

static void list_add(struct core *core, uint32_t index) {
    struct sandbox *sandbox = &core->sandboxes[index];
    uint32_t *head = list_head(core, sandbox);
    sandbox->prev = NONE;
    sandbox->next = *head;
    if (*head != NONE) {
        core->sandboxes[*head].prev = index;
    }
    *head = index;
    if (sandbox->state == CORE_SB_BUSY && !sandbox->overrun && sandbox->backlog < CORE_AHEAD_MAX) {
        core->functions[sandbox->function].busy_bits |= 1ULL << sandbox->backlog;
    }
}

static void list_del(struct core *core, uint32_t index) {
    struct sandbox *sandbox = &core->sandboxes[index];
    uint32_t *head = list_head(core, sandbox);
    if (sandbox->prev == NONE) {
        SCHED_ASSERT(*head == index);
        *head = sandbox->next;
    } else {
        core->sandboxes[sandbox->prev].next = sandbox->next;
    }
    if (sandbox->next != NONE) {
        core->sandboxes[sandbox->next].prev = sandbox->prev;
    }
    if (sandbox->state == CORE_SB_BUSY && *head == NONE && !sandbox->overrun && sandbox->backlog < CORE_AHEAD_MAX) {
        core->functions[sandbox->function].busy_bits &= ~(1ULL << sandbox->backlog);
    }
}

static void lru_add(struct core *core, uint32_t index) {
    struct sandbox *sandbox = &core->sandboxes[index];
    sandbox->lru_next = NONE;
    sandbox->lru_prev = core->lru_tail;
    if (core->lru_tail != NONE) {
        core->sandboxes[core->lru_tail].lru_next = index;
    } else {
        core->lru_head = index;
    }
    core->lru_tail = index;
}

static void lru_del(struct core *core, uint32_t index) {
    const struct sandbox *sandbox = &core->sandboxes[index];
    if (sandbox->lru_prev != NONE) {
        core->sandboxes[sandbox->lru_prev].lru_next = sandbox->lru_next;
    } else {
        core->lru_head = sandbox->lru_next;
    }
    if (sandbox->lru_next != NONE) {
        core->sandboxes[sandbox->lru_next].lru_prev = sandbox->lru_prev;
    } else {
        core->lru_tail = sandbox->lru_prev;
    }
}

/* It must be on no list, since its place there depends on this. */
static void overrun_clear(struct core *core, struct sandbox *sandbox) {
    if (sandbox->overrun) {
        struct function *function = &core->functions[sandbox->function];
        SCHED_ASSERT(function->overrun > 0);
        function->overrun--;
        sandbox->overrun = 0;
        function->stuck -= sandbox->stuck;
        sandbox->stuck = 0;
    }
}

void sandbox_set_state(struct core *core, uint32_t index, enum core_sandbox_state state) {
    struct sandbox *sandbox = &core->sandboxes[index];
    struct function *function = &core->functions[sandbox->function];
    SCHED_ASSERT(sandbox->state != CORE_SB_FREE && state != CORE_SB_FREE);
    list_del(core, index);
    if (sandbox->state == CORE_SB_BUSY) {
        sandbox->busy_ns += core->now_ns - sandbox->busy_from_ns;
    }
    overrun_clear(core, sandbox);
    if (sandbox->state == CORE_SB_IDLE) {
        lru_del(core, index);
    }
    if (state == CORE_SB_DRAINING || state == CORE_SB_DYING) {
        function->worn -= sandbox->worn;
        sandbox->worn = 0;
        core->floors_due |= function->floor > 0;
    }
    if (sandbox->state == CORE_SB_STARTING) {
        function->replacing -= sandbox->replaces;
    }
    function->states[sandbox->state]--;
    if (sandbox->state == CORE_SB_STARTING && sandbox->revision == function->revision) {
        function->coming--;
    }
    sandbox->state = (uint8_t)state;
    function->states[state]++;
    if (state == CORE_SB_IDLE) {
        lru_add(core, index);
        sandbox->idle_since_ns = core->now_ns;
        sandbox->clock = core->clock;
        core->idle_appeared = true;
    }
    list_add(core, index);
}

static void release_unit(struct core *core, uint32_t index) {
    struct sandbox *sandbox = &core->sandboxes[index];
    if (sandbox->charged) {
        sandbox->charged = 0;
        concurrency_uncharge(core, sandbox->function);
    }
}

uint32_t sandbox_request(struct core *core, uint32_t fn, uint32_t revision, bool provisioned, struct refusal *why) {
    struct function *function = &core->functions[fn];
    if (core->free_sandbox == NONE) {
        *why = (struct refusal){.account = 0, .resource = CORE_CONCURRENCY,
                                .current = core->totals.sandboxes, .max = core->config.sandboxes_max};
        return NONE;
    }
    if (!meter_charge(&core->meter, function->account, CORE_MEMORY, function->memory_mb, why)) {
        return NONE;
    }
    const uint32_t index = core->free_sandbox;
    struct sandbox *sandbox = &core->sandboxes[index];
    core->free_sandbox = sandbox->next;
    const uint32_t generation = sandbox->generation == UINT32_MAX ? 1 : sandbox->generation + 1;
    *sandbox = (struct sandbox){.generation = generation, .function = fn, .revision = revision,
                                .memory_mb = function->memory_mb, .prev = NONE, .next = NONE, .orphan = NONE,
                                .head_seq = 1, .state = CORE_SB_STARTING, .first = 1,
                                .requested_ns = core->now_ns};
    function->states[CORE_SB_STARTING]++;
    function->coming += revision == function->revision;
    function->sandboxes++;
    core->totals.sandboxes++;
    list_add(core, index);
    wheel_arm(&core->wheel, sandbox_timer(core, index), core->now_ns + start_limit_ns(core, index, provisioned));
    struct core_action *need = act(core, CORE_ACT_NEED);
    need->function = function_handle(core, fn);
    need->sandbox = sandbox_handle(core, index);
    need->revision = revision;
    need->provisioned = provisioned;
    need->again = sandbox->again;
    return index;
}

/* Calls that could be called back: the first may be there no more, for it lingers or was called back itself. */
static bool some_wait_behind(const struct sandbox *sandbox) {
    return sandbox->backlog > 1 && sandbox->recalled - (ring_at(sandbox, sandbox->head_seq) == NONE) + 1 < sandbox->backlog;
}

/* One timer serves whichever comes first: the first call's timeout, its unexpected length, or the moment from which the calls
 * behind it may be called back. */
static void arm_busy(struct core *core, uint32_t index) {
    const struct sandbox *sandbox = &core->sandboxes[index];
    const struct function *function = &core->functions[sandbox->function];
    uint64_t due = saturating_add(sandbox->first_since_ns, min_u64(function->timeout_ns, sandbox->overrun_ns));
    if (some_wait_behind(sandbox)) {
        for (uint32_t seq = sandbox->head_seq + 1; seq != sandbox->head_seq + sandbox->backlog; seq++) {
            if (ring_at(sandbox, seq) != NONE) {
                /* Never sooner than a tick from now: a probe that came too early is repeated. */
                due = min_u64(due, max_u64(core->calls[ring_at(sandbox, seq)].valid_until_ns + RECALL_SLACK_NS,
                                           core->now_ns + RECALL_SLACK_NS));
                break;
            }
        }
    }
    wheel_arm(&core->wheel, sandbox_timer(core, index), due);
}

static void becomes_first(struct core *core, uint32_t index) {
    struct sandbox *sandbox = &core->sandboxes[index];
    const struct function *function = &core->functions[sandbox->function];
    sandbox->first_since_ns = core->now_ns;
    sandbox->overrun_ns = max_u64(OVERRUN_NS_MIN, 4 * (function->run_ns + 2 * function->run_dev_ns));
}

void sandbox_send(struct core *core, uint32_t index, uint32_t c) {
    struct sandbox *sandbox = &core->sandboxes[index];
    struct call *call = &core->calls[c];
    struct function *function = &core->functions[sandbox->function];
    SCHED_ASSERT(sandbox->state == CORE_SB_IDLE || sandbox->state == CORE_SB_BUSY);
    SCHED_ASSERT(sandbox->backlog < CORE_AHEAD_MAX);
    SCHED_ASSERT(sandbox->revision == function->revision && function->retire_why == CORE_WHY_NONE);
    const uint32_t seq = sandbox->head_seq + sandbox->backlog;
    wheel_disarm(&core->wheel, call_timer(c));
    call->state = CALL_SENT;
    call->sandbox = index;
    call->sent_ns = core->now_ns;
    call->expected_ns = expected_run_ns(function);
    call->valid_until_ns = call->deadline_ns;
    call->tier = CORE_TIER_WARM; /* it may have been sent into a new one before and come back */
    call->init_ns = 0;
    if (sandbox->first) {
        call->tier = sandbox->tier;
        call->init_ns = saturating_sub(sandbox->ready_ns, max_u64(call->arrive_ns, sandbox->requested_ns));
    }
    if (sandbox->state == CORE_SB_IDLE) {
        SCHED_ASSERT(sandbox->charged && sandbox->backlog == 0);
        SCHED_ASSERT(!sandbox->overrun);
        sandbox->busy_from_ns = core->now_ns;
        if (!sandbox->first && core->now_ns - sandbox->idle_since_ns >= core->config.idle_grain_ns) {
            keep_gap(core, &function->keep, core->now_ns - sandbox->idle_since_ns);
        }
        keep_used(core, &function->keep);
        /* The list of busy ones goes by backlog, which must be right before the state is. */
        list_del(core, index);
        lru_del(core, index);
        function->states[CORE_SB_IDLE]--;
        function->states[CORE_SB_BUSY]++;
        sandbox->state = CORE_SB_BUSY;
        sandbox->backlog = 1;
        sandbox->ring[seq % CORE_AHEAD_MAX] = c;
        list_add(core, index);
        becomes_first(core, index);
        start_first_call(core, index);
        arm_busy(core, index);
    } else {
        const uint64_t valid = core->now_ns + core->config.ahead_window_ns + VALID_SLACK_NS;
        call->valid_until_ns = call->deadline_ns == 0 ? valid : min_u64(valid, call->deadline_ns);
        list_del(core, index);
        sandbox->backlog++;
        sandbox->ring[seq % CORE_AHEAD_MAX] = c;
        list_add(core, index);
        if (sandbox->backlog == 2) {
            arm_busy(core, index);
        }
    }
    sandbox->first = 0;
    function->in_flight++;
    core->totals.sends++;
    struct core_action *send = act(core, CORE_ACT_SEND);
    if (function->floor > 0) {
        send->provisioned = function->states[CORE_SB_BUSY] <= function->floor;
        function->stats.provisioned_calls += send->provisioned;
        function->stats.spillover_calls += !send->provisioned;
    }
    send->call = call_handle(core, c);
    call->told = 1;
    send->cookie = call->cookie;
    send->sandbox = sandbox_handle(core, index);
    send->function = function_handle(core, call->function);
    send->seq = seq;
    send->valid_until_ns = call->valid_until_ns;
}

/* The call leaves its ring without having run and waits again, first in line. */
static void requeue(struct core *core, uint32_t c) {
    struct call *call = &core->calls[c];
    struct function *function = &core->functions[call->function];
    SCHED_ASSERT(call->state == CALL_SENT);
    SCHED_ASSERT(function->in_flight > 0);
    function->in_flight--;
    settle_vtime(core, call->function, -(int64_t)call->expected_ns);
    call->sandbox = NONE;
    struct core_action *answer;
    if (call->cancelled) {
        call_finish(core, c, CORE_CANCELLED, &answer);
    } else if (call->deadline_ns != 0 && call->deadline_ns <= core->now_ns) {
        call_finish(core, c, CORE_DEADLINE, &answer);
    } else if (function->removing) {
        call_finish(core, c, CORE_NOT_FOUND, &answer);
    } else if (core->drain_over) {
        call_finish(core, c, CORE_UNAVAILABLE, &answer);
    } else {
        queue_return(core, c);
    }
}

/* Empties the ring: calls after `last_started` wait again; the others become the sandbox's orphans. */
static void ring_break(struct core *core, uint32_t index, uint32_t last_started) {
    struct sandbox *sandbox = &core->sandboxes[index];
    const uint32_t end = sandbox->head_seq + sandbox->backlog;
    const bool listed = sandbox->state == CORE_SB_BUSY; /* by backlog, which changes here */
    if (listed) {
        list_del(core, index);
    }
    for (uint32_t seq = end - 1; seq + 1 != sandbox->head_seq; seq--) {
        const uint32_t c = ring_at(sandbox, seq);
        if (c == NONE) {
            continue; /* recalled earlier */
        }
        if ((int32_t)(seq - last_started) > 0) {
            requeue(core, c);
        } else {
            core->functions[sandbox->function].in_flight--;
            core->calls[c].state = CALL_ORPHAN;
            core->calls[c].next = sandbox->orphan;
            sandbox->orphan = c;
        }
    }
    sandbox->head_seq = end;
    sandbox->backlog = 0;
    sandbox->recalled = 0;
    if (listed) {
        list_add(core, index);
    }
}

static void answer_orphans(struct core *core, uint32_t index, enum core_outcome outcome, uint8_t cause, int32_t status) {
    struct sandbox *sandbox = &core->sandboxes[index];
    while (sandbox->orphan != NONE) {
        const uint32_t c = sandbox->orphan;
        struct call *call = &core->calls[c];
        sandbox->orphan = call->next;
        struct core_action *answer;
        const uint64_t started = sandbox->again_ns != 0 ? max_u64(call->arrive_ns, sandbox->again_ns)
                                                        : max_u64(call->sent_ns, min_u64(sandbox->first_since_ns, core->now_ns));
        call_finish(core, c, outcome, &answer);
        answer->sandbox = sandbox_handle(core, index);
        answer->cause = cause;
        answer->status = status;
        answer->start_ns = started;
        answer->end_ns = core->now_ns;
        answer->memory_peak_mb = (uint32_t)((sandbox->memory_peak_bytes + (1U << 20) - 1) >> 20);
    }
}

/* To DYING, whatever it was. The ring must be broken already. */
static void begin_dying(struct core *core, uint32_t index, enum core_why why) {
    struct sandbox *sandbox = &core->sandboxes[index];
    SCHED_ASSERT(sandbox->backlog == 0);
    if (sandbox->state != CORE_SB_DYING) {
        sandbox->died_starting = sandbox->state == CORE_SB_STARTING && sandbox->ready_ns == 0;
        sandbox->why = (uint8_t)why;
        sandbox_set_state(core, index, CORE_SB_DYING);
        struct core_action *kill = act(core, CORE_ACT_KILL);
        kill->sandbox = sandbox_handle(core, index);
        kill->function = function_handle(core, sandbox->function);
        kill->why = (uint32_t)why;
        wheel_arm(&core->wheel, sandbox_timer(core, index), core->now_ns + core->config.reap_timeout_ns);
    }
    release_unit(core, index);
    function_ready(core, sandbox->function);
}

void sandbox_kill(struct core *core, uint32_t index, enum core_why why) {
    struct sandbox *sandbox = &core->sandboxes[index];
    if (sandbox->state == CORE_SB_DYING) {
        return;
    }
    ring_break(core, index, ring_running(sandbox));
    begin_dying(core, index, why);
    answer_orphans(core, index, CORE_SANDBOX_DIED, CORE_CAUSE_KILLED, 9);
}

void sandbox_retire(struct core *core, uint32_t index, enum core_why why) {
    struct sandbox *sandbox = &core->sandboxes[index];
    if (sandbox->state == CORE_SB_BUSY) {
        sandbox->why = (uint8_t)why;
        sandbox_set_state(core, index, CORE_SB_DRAINING);
        function_ready(core, sandbox->function); /* those that wait may need another */
    } else if (sandbox->state == CORE_SB_IDLE || sandbox->state == CORE_SB_STARTING) {
        sandbox_kill(core, index, why);
    }
}

/* ---- what a sandbox says ---------------------------------------------------------------------------------------------- */

static uint64_t clamp_u64(uint64_t value, uint64_t low, uint64_t high) {
    return value < low ? low : value > high ? high : value;
}

/* On a busy machine a call of microseconds that loses its processor for a while seems to take milliseconds. One such call says
 * little of the next, so what a single call can change is bounded: a function that has really become slower is known to be so
 * after a dozen calls, and what waits behind them meanwhile is called back in time. */
static void learn_run(struct function *function, uint64_t run_ns) {
    if (function->run_known) {
        run_ns = min_u64(run_ns, 4 * (function->run_ns + function->run_dev_ns) + RUN_NOISE_NS);
    }
    if (!function->run_known) {
        function->run_known = true;
        function->run_ns = run_ns;
        function->run_dev_ns = run_ns / 2;
    } else {
        const uint64_t deviation = run_ns > function->run_ns ? run_ns - function->run_ns : function->run_ns - run_ns;
        function->run_dev_ns += (deviation >> 3) - (function->run_dev_ns >> 3);
        function->run_ns += (run_ns >> 3) - (function->run_ns >> 3);
    }
    function->run_floor_ns = 0;
}

/* Of its own. Should it have been the first attempt to start, nobody will be told the cause. */
static void die_untold(struct core *core, uint32_t index) {
    struct sandbox *sandbox = &core->sandboxes[index];
    begin_dying(core, index, CORE_WHY_PROTOCOL);
    if (sandbox->died_starting && start_forgiven(core, index)) {
        sandbox->died_starting = 0;
        floor_failed(core, sandbox->function);
    } else if (sandbox->died_starting && sandbox->revision == core->functions[sandbox->function].revision) {
        sandbox->untold = 1;
        core->functions[sandbox->function].untold++;
    }
}

static void broke_protocol(struct core *core, uint32_t index) {
    core->totals.bad_replies++;
    ring_break(core, index, ring_running(&core->sandboxes[index]));
    die_untold(core, index);
    answer_orphans(core, index, CORE_SANDBOX_DIED, CORE_CAUSE_PROTOCOL, 0);
}

/* After an answer: on to the next call, idle, or the end of a drain. */
static void after_reply(struct core *core, uint32_t index) {
    struct sandbox *sandbox = &core->sandboxes[index];
    struct function *function = &core->functions[sandbox->function];
    if (sandbox->backlog > 0) {
        becomes_first(core, index);
        arm_busy(core, index);
        function_ready(core, sandbox->function);
        return;
    }
    if (sandbox->state == CORE_SB_DRAINING) {
        begin_dying(core, index, (enum core_why)sandbox->why);
        return;
    }
    sandbox_set_state(core, index, CORE_SB_IDLE);
    wheel_arm(&core->wheel, sandbox_timer(core, index), idle_due_ns(core, sandbox));
    release_unit(core, index);
    if (function->queued > 0) {
        function_ready(core, sandbox->function);
    }
}

static void ring_pop(struct core *core, uint32_t index) {
    struct sandbox *sandbox = &core->sandboxes[index];
    list_del(core, index);
    sandbox->head_seq++;
    sandbox->backlog--;
    overrun_clear(core, sandbox);
    list_add(core, index);
}

void on_reply(struct core *core, const struct core_reply_event *event) {
    const uint32_t index = sandbox_find(core, event->sandbox);
    if (index == NONE) {
        return;
    }
    struct sandbox *sandbox = &core->sandboxes[index];
    if (sandbox->state == CORE_SB_DYING) {
        core->totals.stale_events++;
        return;
    }
    if ((sandbox->state != CORE_SB_BUSY && sandbox->state != CORE_SB_DRAINING) || sandbox->backlog == 0 ||
        event->seq != sandbox->head_seq || event->status > CORE_REPLY_HANDBACK) {
        broke_protocol(core, index);
        return;
    }
    struct function *function = &core->functions[sandbox->function];
    const uint32_t c = ring_at(sandbox, event->seq);
    if (event->status == CORE_REPLY_HANDBACK) {
        if (c != NONE && core->calls[c].valid_until_ns == 0) {
            broke_protocol(core, index); /* it was never allowed to hand this one back */
            return;
        }
        if (c == NONE) {
            sandbox->recalled--;
        }
        ring_pop(core, index);
        if (c != NONE) {
            requeue(core, c);
            function_ready(core, sandbox->function);
        }
        after_reply(core, index);
        return;
    }
    if (c == NONE) {
        broke_protocol(core, index); /* it ran a call that was called back after its time had passed */
        return;
    }
    struct call *call = &core->calls[c];
    const uint64_t now = core->now_ns;
    const uint64_t start = clamp_u64(event->start_ns, max_u64(call->sent_ns, sandbox->last_end_ns), now);
    const uint64_t end = clamp_u64(event->end_ns, start, now);
    const uint64_t run = end - start;
    sandbox->last_end_ns = end;
    if (event->lingers != 0) {
        sandbox->ring[event->seq % CORE_AHEAD_MAX] = NONE; /* as one that was called back: its place is kept until HANDBACK */
        sandbox->recalled++;
    } else {
        ring_pop(core, index);
    }
    function->in_flight--;
    learn_run(function, run);
    function->stats.mb_ns += (uint64_t)sandbox->memory_mb * run;
    histogram_add(&function->stats.run, run);
    uint64_t cpu = run, charge = run;
    if (sandbox->has_usage && sandbox->usage_ns >= call->sent_ns && sandbox->usage_ns >= end) {
        cpu = min_u64(sandbox->cpu_unclaimed_ns, sandbox->cpu_ns);
        charge = sandbox->unclaimed_settled ? 0 : cpu;
        sandbox->cpu_unclaimed_ns = 0;
    } else {
        /* An estimate until the kernel is asked again: settled in on_usage(). */
        sandbox->cpu_estimated_ns += run;
        function->stats.cpu_ns += run;
        meter_cpu(&core->meter, function->account, (int64_t)run);
    }
    settle_vtime(core, sandbox->function, (int64_t)charge - (int64_t)call->expected_ns);
    enum core_outcome outcome = CORE_OK;
    if (event->status == CORE_REPLY_FUNCTION_ERROR) {
        outcome = CORE_FUNCTION_ERROR;
    } else if (event->status == CORE_REPLY_TOO_LARGE) {
        outcome = CORE_TOO_LARGE;
    }
    const uint64_t arrive = call->arrive_ns;
    const uint64_t init = call->init_ns;
    sandbox->served++;
    if (sandbox->state == CORE_SB_BUSY && !wear_answered(core, index)) {
        sandbox->why = CORE_WHY_RECYCLED;
        sandbox_set_state(core, index, CORE_SB_DRAINING);
    }
    struct core_action *answer;
    call_finish(core, c, outcome, &answer);
    answer->sandbox = sandbox_handle(core, index);
    answer->start_ns = sandbox->again_ns != 0 ? sandbox->again_ns : start;
    sandbox->again_ns = 0;
    answer->end_ns = end;
    answer->cpu_ns = cpu;
    answer->memory_peak_mb = (uint32_t)((sandbox->memory_peak_bytes + (1U << 20) - 1) >> 20);
    histogram_add(&function->stats.queue, saturating_sub(start, arrive + init));
    histogram_add(&function->stats.overhead, now - end);
    histogram_add(&function->stats.total, now - arrive);
    if (event->lingers == 0) {
        after_reply(core, index);
    }
}

void on_ready(struct core *core, const struct core_sandbox_event *event) {
    const uint32_t index = sandbox_find(core, event->handle);
    if (index == NONE) {
        return;
    }
    struct sandbox *sandbox = &core->sandboxes[index];
    if (sandbox->state != CORE_SB_STARTING || sandbox->ready_ns != 0) {
        if (sandbox->state != CORE_SB_DYING) {
            broke_protocol(core, index); /* READY twice */
        }
        return;
    }
    struct function *function = &core->functions[sandbox->function];
    sandbox->ready_ns = core->now_ns;
    sandbox->init_ns = event->init_ns;
    sandbox->tier = event->tier <= CORE_TIER_FRESH ? (uint8_t)event->tier : CORE_TIER_FRESH;
    const uint64_t start = core->now_ns - sandbox->requested_ns;
    function->start_ns += (uint64_t)(((int64_t)start - (int64_t)function->start_ns) / 4);
    function->stats.cold_starts[sandbox->tier]++;
    histogram_add(&function->stats.init, start);
    start_went_well(core, index);
    wear_init(core, index);
    wheel_arm(&core->wheel, sandbox_timer(core, index), core->now_ns + function->keep.window_ns);
    if (sandbox->revision == function->revision && !function->removing) {
        sandbox_set_state(core, index, CORE_SB_IDLE);
        wheel_arm(&core->wheel, sandbox_timer(core, index), idle_due_ns(core, sandbox));
        function_ready(core, sandbox->function);
        wear_replaced(core, index);
        if (function->floor > 0) {
            function->floor_pause_ns = function->floor_retry_ns = 0;
            function->floor_failure = CORE_FLOOR_NONE;
            core->floors_due = true;
        }
    }
}

void on_init_failed(struct core *core, const struct core_sandbox_event *event) {
    const uint32_t index = sandbox_find(core, event->handle);
    if (index == NONE) {
        return;
    }
    struct sandbox *sandbox = &core->sandboxes[index];
    if (sandbox->state != CORE_SB_STARTING || sandbox->ready_ns != 0) {
        if (sandbox->state != CORE_SB_DYING) {
            broke_protocol(core, index);
        }
        return;
    }
    begin_dying(core, index, CORE_WHY_INIT_FAILED);
    sandbox->died_starting = 0; /* said here, once */
    floor_failed(core, sandbox->function);
    if (sandbox->revision == core->functions[sandbox->function].revision) {
        if (!start_forgiven(core, index)) {
            start_failed(core, index, CORE_CAUSE_NONE, 0);
        }
    }
}

void on_progress(struct core *core, const struct core_reply_event *event) {
    const uint32_t index = sandbox_find(core, event->sandbox);
    if (index == NONE) {
        return;
    }
    struct sandbox *sandbox = &core->sandboxes[index];
    sandbox->started_seq = event->seq;
    sandbox->last_word = event->status == CORE_PROGRESS_LAST;
    const uint8_t asked = sandbox->asked_progress;
    sandbox->asked_progress = ASKED_NOTHING;
    if (asked == ASKED_NOTHING || sandbox->backlog == 0 || sandbox->state == CORE_SB_DYING) {
        return;
    }
    const uint32_t running = ring_running(sandbox);
    const uint64_t age = core->now_ns - sandbox->first_since_ns;
    const uint64_t timeout_ns = core->functions[sandbox->function].timeout_ns;
    if (asked == ASKED_TIMEOUT && age < timeout_ns) {
        return; /* its answer came before that of the probe: the next one's time has begun anew */
    }
    if (asked == ASKED_TIMEOUT && running != sandbox->head_seq && age < saturating_add(timeout_ns, ANSWER_GRACE_NS)) {
        wheel_arm(&core->wheel, sandbox_timer(core, index),
                  saturating_add(saturating_add(sandbox->first_since_ns, timeout_ns), ANSWER_GRACE_NS));
        return;
    }
    if (asked == ASKED_TIMEOUT) {
        /* Answers of calls before the running one are lost with the process: they ran, so they are not run again. */
        const uint32_t c = ring_at(sandbox, running);
        ring_break(core, index, running);
        begin_dying(core, index, CORE_WHY_TIMEOUT);
        uint32_t *link = &sandbox->orphan;
        while (c != NONE && *link != NONE && *link != c) {
            link = &core->calls[*link].next;
        }
        if (c != NONE && *link == c) {
            *link = core->calls[c].next;
            answer_orphans(core, index, CORE_SANDBOX_DIED, CORE_CAUSE_KILLED, 9);
            core->calls[c].next = NONE;
            sandbox->orphan = c;
        }
        answer_orphans(core, index, CORE_TIMEOUT, CORE_CAUSE_KILLED, 9);
        return;
    }
    bool any = false;
    for (uint32_t seq = sandbox->head_seq + sandbox->backlog - 1; seq != running; seq--) {
        const uint32_t c = ring_at(sandbox, seq);
        if (c != NONE && core->calls[c].valid_until_ns + RECALL_SLACK_NS <= core->now_ns) {
            sandbox->ring[seq % CORE_AHEAD_MAX] = NONE;
            sandbox->recalled++;
            requeue(core, c);
            any = true;
        }
    }
    if (any) {
        function_ready(core, sandbox->function);
    }
    arm_busy(core, index);
}

void on_gone(struct core *core, const struct core_sandbox_event *event) {
    const uint32_t index = sandbox_find(core, event->handle);
    if (index == NONE) {
        return;
    }
    struct sandbox *sandbox = &core->sandboxes[index];
    if (sandbox->state == CORE_SB_DYING) {
        return;
    }
    /* Where it is not known yet the orphans wait for the cause: CORE_EV_SANDBOX_REAPED or the reap timeout. */
    ring_break(core, index, ring_begun(core, index));
    die_untold(core, index);
    if (event->cause != CORE_CAUSE_NONE) {
        answer_orphans(core, index, CORE_SANDBOX_DIED, (uint8_t)event->cause, event->status);
    }
}

void on_reaped(struct core *core, const struct core_sandbox_event *event) {
    const uint32_t index = sandbox_find(core, event->handle);
    if (index == NONE) {
        return;
    }
    struct sandbox *sandbox = &core->sandboxes[index];
    const uint32_t fn = sandbox->function;
    if (sandbox->state != CORE_SB_DYING) {
        ring_break(core, index, ring_begun(core, index));
        die_untold(core, index);
    }
    sandbox->memory_peak_bytes = max_u64(sandbox->memory_peak_bytes, event->memory_peak_bytes);
    if (event->cpu_ns > sandbox->cpu_ns) {
        on_usage(core, event);
    }
    answer_orphans(core, index, CORE_SANDBOX_DIED, (uint8_t)event->cause, event->status);
    wheel_disarm(&core->wheel, sandbox_timer(core, index));
    struct function *function = &core->functions[fn];
    keep_room_made(core, sandbox);
    start_told(core, index);
    const bool failed_start = sandbox->died_starting && sandbox->revision == function->revision &&
                              sandbox->why != CORE_WHY_REMOVED && sandbox->why != CORE_WHY_REVISION &&
                              sandbox->why != CORE_WHY_RETIRED;
    list_del(core, index);
    function->states[CORE_SB_DYING]--;
    function->sandboxes--;
    core->totals.sandboxes--;
    struct core_action *freed = act(core, CORE_ACT_FREED);
    freed->sandbox = sandbox_handle(core, index);
    freed->function = function_handle(core, fn);
    sandbox->state = CORE_SB_FREE;
    const uint32_t memory_mb = sandbox->memory_mb;
    sandbox->next = core->free_sandbox;
    core->free_sandbox = index;
    memory_uncharge(core, fn, memory_mb);
    if (failed_start) {
        floor_failed(core, fn);
        start_failed(core, index, (uint8_t)event->cause, event->status);
    }
    function_ready(core, fn);
    function_free_if_done(core, fn);
}

void sandbox_timer_fired(struct core *core, uint32_t index) {
    struct sandbox *sandbox = &core->sandboxes[index];
    struct function *function = &core->functions[sandbox->function];
    switch ((enum core_sandbox_state)sandbox->state) {
    case CORE_SB_FREE: case CORE_SB_STATES:
        break;
    case CORE_SB_STARTING:
        sandbox_kill(core, index, sandbox->ready_ns != 0 ? CORE_WHY_IDLE : CORE_WHY_INIT_TIMEOUT);
        if (sandbox->died_starting) {
            sandbox->died_starting = 0;
            floor_failed(core, sandbox->function);
            if (!start_forgiven(core, index)) {
                start_failed(core, index, CORE_CAUSE_KILLED, 9);
            }
        }
        break;
    case CORE_SB_IDLE:
        idle_timer_fired(core, index);
        break;
    case CORE_SB_BUSY: case CORE_SB_DRAINING: {
        const uint64_t age = core->now_ns - sandbox->first_since_ns;
        if (age >= function->timeout_ns) {
            sandbox->asked_progress = ASKED_TIMEOUT;
            if (sandbox->backlog == 1) {
                on_progress(core, &(struct core_reply_event){.sandbox = sandbox_handle(core, index), .seq = sandbox->head_seq});
                break;
            }
            /* Should the answer never come, ask again. */
            wheel_arm(&core->wheel, sandbox_timer(core, index), core->now_ns + RECALL_SLACK_NS);
            act(core, CORE_ACT_PROBE)->sandbox = sandbox_handle(core, index);
            break;
        }
        if (age >= sandbox->overrun_ns) {
            sandbox->overrun_ns = 2 * age;
            function->run_floor_ns = max_u64(function->run_floor_ns, age);
            if (sandbox->state == CORE_SB_BUSY && !sandbox->overrun) {
                list_del(core, index);
                sandbox->overrun = 1;
                function->overrun++;
                list_add(core, index);
            }
            if (age >= STUCK_NS && sandbox->overrun && !sandbox->stuck) {
                sandbox->stuck = 1;
                function->stuck++;
            }
            function_ready(core, sandbox->function);
        }
        if (some_wait_behind(sandbox)) {
            sandbox->asked_progress = ASKED_OVERRUN;
            act(core, CORE_ACT_PROBE)->sandbox = sandbox_handle(core, index);
        }
        arm_busy(core, index);
        break;
    }
    case CORE_SB_DYING:
        /* Nobody told the cause in time. The sandbox stays, and its memory with it, until it is really reaped. */
        answer_orphans(core, index, CORE_SANDBOX_DIED, CORE_CAUSE_NONE, 0);
        if (sandbox->untold) {
            start_told(core, index);
            sandbox->died_starting = 0;
            start_failed(core, index, CORE_CAUSE_NONE, 0);
        }
        break;
    }
}

static const char *sandbox_check(const struct core *core, const struct function *function, uint32_t s, uint32_t *in_flight) {
    const struct sandbox *sandbox = &core->sandboxes[s];
    if ((sandbox->state == CORE_SB_IDLE || sandbox->state == CORE_SB_BUSY) &&
        sandbox->revision != function->revision && function->retire_why == CORE_WHY_NONE) {
        return "pool: a sandbox of another revision takes calls";
    }
    const bool executes = sandbox->state == CORE_SB_BUSY || sandbox->state == CORE_SB_DRAINING;
    if (executes != (sandbox->charged == 1) || executes != (sandbox->backlog > 0)) {
        return "pool: executing, charged and backlog disagree";
    }
    uint32_t recalled = 0;
    for (uint32_t k = 0; k < sandbox->backlog; k++) {
        const uint32_t c = ring_at(sandbox, sandbox->head_seq + k);
        if (c == NONE) {
            recalled++;
        } else if (core->calls[c].state != CALL_SENT || core->calls[c].sandbox != s) {
            return "pool: ring holds a call that is not sent here";
        } else {
            (*in_flight)++;
        }
    }
    return recalled == sandbox->recalled ? NULL : "pool: recalled count";
}

const char *pool_check(const struct core *core) {
    for (uint32_t i = 0; i < core->config.functions_max; i++) {
        const struct function *function = &core->functions[i];
        if (!function->used) {
            continue;
        }
        uint32_t in_flight = 0;
        uint32_t sandboxes = 0;
        uint32_t coming = 0;
        uint32_t overrun = 0;
        uint32_t stuck = 0;
        for (unsigned state = CORE_SB_STARTING; state < CORE_SB_STATES; state++) {
            uint32_t found = 0;
            const uint32_t lists = state == CORE_SB_BUSY ? CORE_AHEAD_MAX + 1 : 1;
            for (uint32_t k = 0; k < lists; k++) {
                const uint32_t head = state == CORE_SB_BUSY ? function->busy_heads[k] : function->state_heads[state];
                const bool bit = state == CORE_SB_BUSY && k < CORE_AHEAD_MAX && ((function->busy_bits >> k) & 1U);
                if (state == CORE_SB_BUSY && k < CORE_AHEAD_MAX && bit != (head != NONE)) {
                    return "pool: backlog bits and lists disagree";
                }
                for (uint32_t s = head; s != NONE; s = core->sandboxes[s].next) {
                    const struct sandbox *sandbox = &core->sandboxes[s];
                    if (sandbox->state != state || sandbox->function != i) {
                        return "pool: sandbox on a list of another state";
                    }
                    overrun += sandbox->overrun;
                    stuck += sandbox->stuck;
                    coming += state == CORE_SB_STARTING && sandbox->revision == function->revision;
                    const char *broken = sandbox_check(core, function, s, &in_flight);
                    if (broken != NULL) {
                        return broken;
                    }
                    if (++found > core->config.sandboxes_max) {
                        return "pool: cycle in a list";
                    }
                }
            }
            if (found != function->states[state]) {
                return "pool: count of a state";
            }
            sandboxes += found;
        }
        if (in_flight != function->in_flight || sandboxes != function->sandboxes || coming != function->coming ||
            overrun != function->overrun || stuck != function->stuck) {
            return "pool: counts of a function";
        }
    }
    return NULL;
}
