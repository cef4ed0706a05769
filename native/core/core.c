/* core.c: the door of the core, the call slab and functions. See include/core.h for the contract and internal.h for who
 * owns what. */
#include "internal.h"

/* ---- building -------------------------------------------------------------------------------------------------------- */

void core_config_default(struct core_config *config) {
    *config = (struct core_config){
        .calls_max = 65536,
        .functions_max = 1024,
        .sandboxes_max = 4096,
        .accounts_max = 4096,
        .ahead_max = CORE_AHEAD_MAX,
        .starting_max = 64,
        .ahead_window_ns = 2ULL * 1000 * 1000,
        .init_timeout_ns = 10ULL * 1000 * 1000 * 1000,
        .provisioned_init_timeout_ns = 130ULL * 1000 * 1000 * 1000,
        .idle_timeout_ns = 600ULL * 1000 * 1000 * 1000,
        .idle_min_ns = 60ULL * 1000 * 1000 * 1000,
        .idle_max_ns = 3600ULL * 1000 * 1000 * 1000,
        .idle_grain_ns = 1000ULL * 1000 * 1000,
        .age_max_ns = 12ULL * 3600 * 1000 * 1000 * 1000,
        .reap_timeout_ns = 1000ULL * 1000 * 1000,
        .cold_start_guess_ns = 15ULL * 1000 * 1000,
        .cpus = 2,
    };
}

static bool config_ok(const struct core_config *config) {
    return config->calls_max >= 1 && config->calls_max <= (1U << 24) && config->functions_max >= 1 &&
           config->functions_max <= (1U << 16) && config->sandboxes_max >= 1 && config->sandboxes_max <= (1U << 20) &&
           config->accounts_max >= 1 && config->accounts_max < CORE_NO_ACCOUNT && config->ahead_max >= 1 &&
           config->ahead_max <= CORE_AHEAD_MAX && config->starting_max >= 1 && config->cpus >= 1 &&
           config->init_timeout_ns > 0 && config->idle_timeout_ns > 0 && config->reap_timeout_ns > 0 &&
           config->idle_grain_ns > 0 && config->idle_grain_ns <= UINT64_MAX / ((KEEP_COARSE + 2) * KEEP_FINE) &&
           config->idle_min_ns <= config->idle_max_ns;
}

/* calloc whose sizes are added up: memory_bytes is the whole of what the core will ever hold. */
static void *holder(struct core *core, size_t count, size_t size) {
    core->totals.memory_bytes += count * size;
    return calloc(count, size);
}

struct core *core_new(const struct core_config *config) {
    if (!config_ok(config)) {
        return NULL;
    }
    struct core *core = calloc(1, sizeof *core);
    if (core == NULL) {
        return NULL;
    }
    core->config = *config;
    core->totals.memory_bytes = sizeof *core;
    const uint32_t timers = config->calls_max + config->sandboxes_max + 1 + config->functions_max;
    core->calls = holder(core, config->calls_max, sizeof *core->calls);
    core->fresh = holder(core, config->calls_max, sizeof *core->fresh);
    core->sandboxes = holder(core, config->sandboxes_max, sizeof *core->sandboxes);
    core->functions = holder(core, config->functions_max, sizeof *core->functions);
    core->accounts = holder(core, config->accounts_max, sizeof *core->accounts);
    core->timers = holder(core, timers, sizeof *core->timers);
    core->tenants = holder(core, config->accounts_max, sizeof *core->tenants);
    core->account_functions = holder(core, config->accounts_max, sizeof *core->account_functions);
    core->function_nodes = holder(core, config->functions_max, sizeof *core->function_nodes);
    core->tenant_nodes = holder(core, config->accounts_max, sizeof *core->tenant_nodes);
    if (core->calls == NULL || core->fresh == NULL || core->sandboxes == NULL || core->functions == NULL || core->accounts == NULL ||
        core->timers == NULL || core->tenants == NULL || core->account_functions == NULL ||
        core->function_nodes == NULL || core->tenant_nodes == NULL) {
        core_free(core);
        return NULL;
    }
    for (uint32_t i = 0; i < config->calls_max; i++) {
        core->calls[i].next = i + 1 < config->calls_max ? i + 1 : NONE;
        core->calls[i].prev = NONE;
    }
    for (uint32_t i = 0; i < config->sandboxes_max; i++) {
        core->sandboxes[i].next = i + 1 < config->sandboxes_max ? i + 1 : NONE;
    }
    for (uint32_t i = 0; i < config->accounts_max; i++) {
        fair_heap_init(&core->tenants[i].ready);
        core->tenants[i].waits_head = core->tenants[i].waits_tail = NONE;
        core->account_functions[i] = NONE;
    }
    fair_heap_init(&core->ready_tenants);
    core->released = METER_NONE;
    meter_init(&core->meter, core->accounts, config->accounts_max);
    wheel_init(&core->wheel, core->timers, timers, 0);
    core->lru_head = core->lru_tail = core->flush_head = core->guaranteed_head = core->wanting = core->floor_head = NONE;
    const struct core_account_event node = {
        .index = 0, .parent = CORE_NO_ACCOUNT, .weight = 100,
        .max = {CORE_NO_LIMIT, CORE_NO_LIMIT, CORE_NO_LIMIT, INT64_MAX, CORE_NO_LIMIT, INT64_MAX}};
    SCHED_ASSERT(meter_put(&core->meter, &node));
    return core;
}

void core_free(struct core *core) {
    if (core == NULL) {
        return;
    }
    free(core->calls);
    free(core->fresh);
    free(core->sandboxes);
    free(core->functions);
    free(core->accounts);
    free(core->timers);
    free(core->tenants);
    free(core->account_functions);
    free(core->function_nodes);
    free(core->tenant_nodes);
    free(core);
}

/* ---- small things ---------------------------------------------------------------------------------------------------- */

struct core_action *act(struct core *core, enum core_action_kind kind) {
    SCHED_ASSERT(core->actions_count < core->actions_max);
    struct core_action *action = &core->actions[core->actions_count++];
    *action = (struct core_action){.kind = (uint32_t)kind, .event = core->event_index};
    return action;
}

uint64_t function_handle(const struct core *core, uint32_t function) {
    return handle_of(function, core->functions[function].generation);
}

uint64_t sandbox_handle(const struct core *core, uint32_t sandbox) {
    return handle_of(sandbox, core->sandboxes[sandbox].generation);
}

uint64_t call_handle(const struct core *core, uint32_t call) {
    return handle_of(call, core->calls[call].generation);
}

static uint32_t function_find(struct core *core, uint64_t handle) {
    const uint32_t index = (uint32_t)handle;
    if (index < core->config.functions_max && core->functions[index].used &&
        core->functions[index].generation == (uint32_t)(handle >> 32)) {
        return index;
    }
    return NONE;
}

enum { RETURN_WALK_MAX = 4 * CORE_AHEAD_MAX };

/* ---- calls ----------------------------------------------------------------------------------------------------------- */

void call_finish(struct core *core, uint32_t index, enum core_outcome outcome, struct core_action **out) {
    struct call *call = &core->calls[index];
    struct function *function = &core->functions[call->function];
    SCHED_ASSERT(call->state != CALL_FREE);
    wheel_disarm(&core->wheel, call_timer(index));
    struct core_action *answer = act(core, CORE_ACT_ANSWER);
    answer->call = call_handle(core, index);
    answer->cookie = call->cookie;
    answer->function = function_handle(core, call->function);
    answer->outcome = (uint32_t)outcome;
    answer->arrive_ns = call->arrive_ns;
    answer->init_ns = call->init_ns;
    answer->tier = call->tier;
    answer->cancelled = call->cancelled;
    function->stats.outcomes[outcome]++;
    core->totals.answers++;
    core->totals.calls--;
    call->state = CALL_FREE;
    call->next = core->free_call;
    core->free_call = index;
    function_ends_if_done(core, call->function);
    *out = answer;
}

static void queue_timer(struct core *core, uint32_t index) {
    struct call *call = &core->calls[index];
    const struct function *function = &core->functions[call->function];
    uint64_t due = saturating_add(call->arrive_ns, function->queue_timeout_ns);
    if (call->excused) {
        due = saturating_add(core->now_ns + core->config.init_timeout_ns, function->timeout_ns); /* both attempts */
    }
    if (call->deadline_ns != 0) {
        due = min_u64(due, call->deadline_ns);
    }
    wheel_arm(&core->wheel, call_timer(index), due);
}

static void queue_enter(struct core *core, uint32_t index) {
    struct call *call = &core->calls[index];
    struct function *function = &core->functions[call->function];
    call->state = CALL_QUEUED;
    call->sandbox = NONE;
    function->queued++;
    queue_timer(core, index);
}

void queue_push_back(struct core *core, uint32_t index) {
    struct call *call = &core->calls[index];
    struct function *function = &core->functions[call->function];
    call->next = NONE;
    call->prev = function->queue_tail;
    if (function->queue_tail != NONE) {
        core->calls[function->queue_tail].next = index;
    } else {
        function->queue_head = index;
    }
    function->queue_tail = index;
    queue_enter(core, index);
}

/* A call that comes back was admitted once and is not refused again: it may lift the account above its maximum. Only others
 * that came back can be older than it, so its place is near the head; the walk is bounded all the same. */
void queue_return(struct core *core, uint32_t index) {
    struct call *call = &core->calls[index];
    struct function *function = &core->functions[call->function];
    meter_force(&core->meter, function->account, CORE_QUEUED_CALLS, 1);
    meter_force(&core->meter, function->account, CORE_QUEUED_BYTES, call->bytes);
    uint32_t prev = NONE;
    uint32_t next = function->queue_head;
    for (unsigned i = 0; i < RETURN_WALK_MAX && next != NONE && core->calls[next].order < call->order; i++) {
        prev = next;
        next = core->calls[next].next;
    }
    call->prev = prev;
    call->next = next;
    if (prev != NONE) {
        core->calls[prev].next = index;
    } else {
        function->queue_head = index;
    }
    if (next != NONE) {
        core->calls[next].prev = index;
        if (core->calls[next].flushing) {
            call->flushing = 1; /* they are a prefix of the queue */
            function->flush++;
        }
    } else {
        function->queue_tail = index;
    }
    queue_enter(core, index);
}

void queue_remove(struct core *core, uint32_t index) {
    struct call *call = &core->calls[index];
    struct function *function = &core->functions[call->function];
    SCHED_ASSERT(call->state == CALL_QUEUED);
    SCHED_ASSERT(function->queued > 0);
    if (call->prev != NONE) {
        core->calls[call->prev].next = call->next;
    } else {
        function->queue_head = call->next;
    }
    if (call->next != NONE) {
        core->calls[call->next].prev = call->prev;
    } else {
        function->queue_tail = call->prev;
    }
    call->prev = call->next = NONE;
    function->queued--;
    if (call->flushing) {
        call->flushing = 0;
        SCHED_ASSERT(function->flush > 0);
        function->flush--;
    }
    if (call->excused) {
        function->excused--;
        call->excused = 0;
    }
    meter_uncharge(&core->meter, function->account, CORE_QUEUED_CALLS, 1);
    meter_uncharge(&core->meter, function->account, CORE_QUEUED_BYTES, call->bytes);
    if (function->queued == 0) {
        function_unready(core, call->function);
    }
    core->idle_appeared |= function->queued < function->states[CORE_SB_IDLE]; /* nobody waits for that one any more */
}

static void answer_refusal(struct core_action *answer, const struct refusal *why) {
    answer->account = why->account;
    answer->resource = why->resource;
    answer->current = why->current;
    answer->max = why->max;
    answer->retry_after_ns = why->retry_after_ns;
}

/* Expected time until a slot or place comes free: what a caller should wait before it tries again. */
static uint64_t retry_after(const struct core *core, uint32_t index) {
    const struct function *function = &core->functions[index];
    const uint64_t wait = expected_wait_ns(core, index);
    return max_u64(wait != 0 ? wait : max_u64(expected_run_ns(function), function->start_ns), 1000 * 1000);
}

static void refuse(struct core *core, const struct core_invoke_event *invoke, uint32_t function,
                   enum core_outcome outcome, const struct refusal *why) {
    struct core_action *answer = act(core, CORE_ACT_ANSWER);
    answer->cookie = invoke->cookie;
    answer->function = invoke->function;
    answer->outcome = (uint32_t)outcome;
    answer->arrive_ns = core->now_ns;
    if (why != NULL) {
        answer_refusal(answer, why);
    }
    if (function != NONE) {
        core->functions[function].stats.outcomes[outcome]++;
        if (why != NULL) {
            core->functions[function].stats.throttled[why->resource]++;
        }
        if (answer->retry_after_ns == 0) {
            answer->retry_after_ns = retry_after(core, function);
        }
    }
    core->totals.answers++;
}

static void throttle_queued(struct core *core, uint32_t index) {
    const uint32_t fn = core->calls[index].function;
    struct function *function = &core->functions[fn];
    struct refusal why = function->last_refusal;
    if (why.max == 0 && why.resource == 0) {
        const struct account *account = &core->accounts[function->account];
        why = (struct refusal){.account = function->account, .resource = CORE_CONCURRENCY,
                               .current = account->current[CORE_CONCURRENCY], .max = account->max[CORE_CONCURRENCY]};
    }
    why.current = why.resource == CORE_MEMORY || why.resource == CORE_CONCURRENCY
                      ? core->accounts[why.account].current[why.resource] : why.current;
    core->accounts[why.account].refused[why.resource]++;
    function->stats.throttled[why.resource]++;
    queue_remove(core, index);
    struct core_action *answer;
    call_finish(core, index, CORE_THROTTLED, &answer);
    answer_refusal(answer, &why);
    if (answer->retry_after_ns == 0) {
        answer->retry_after_ns = retry_after(core, fn);
    }
}

static void call_timer_fired(struct core *core, uint32_t index) {
    struct call *call = &core->calls[index];
    if (call->state != CALL_QUEUED || call->flushing) { /* or its answer is decided already */
        return;
    }
    struct function *function = &core->functions[call->function];
    if (call->deadline_ns != 0 && call->deadline_ns <= core->now_ns) {
        const uint32_t fn = call->function;
        queue_remove(core, index);
        struct core_action *answer;
        call_finish(core, index, CORE_DEADLINE, &answer);
        answer->retry_after_ns = retry_after(core, fn);
        return;
    }
    /* A sandbox is starting for it, or will as soon as another has made room: that is a cold start, not a wait for capacity. */
    if (!call->excused && function->excused < function->coming + function->room) {
        call->excused = 1;
        function->excused++;
        queue_timer(core, index);
        return;
    }
    throttle_queued(core, index);
}

static bool still_queued(const struct core *core, uint64_t handle) {
    const struct call *call = &core->calls[(uint32_t)handle];
    return call->state == CALL_QUEUED && call->generation == (uint32_t)(handle >> 32);
}

static void fresh_add(struct core *core, uint32_t index) {
    if (core->fresh_count == core->config.calls_max) {
        /* Slots were used more than once in this step: drop those whose call is gone. No more can live than there are slots. */
        uint32_t kept = 0;
        for (uint32_t i = 0; i < core->fresh_count; i++) {
            if (still_queued(core, core->fresh[i])) {
                core->fresh[kept++] = core->fresh[i];
            }
        }
        core->fresh_count = kept;
        SCHED_ASSERT(kept < core->config.calls_max);
    }
    core->fresh[core->fresh_count++] = call_handle(core, index);
}

/* Tells the handles of calls that wait since this step. */
static void tell_queued(struct core *core) {
    while (core->fresh_count > 0 && have_room(core)) {
        const uint64_t handle = core->fresh[--core->fresh_count];
        if (still_queued(core, handle) && !core->calls[(uint32_t)handle].told) {
            struct call *call = &core->calls[(uint32_t)handle];
            struct core_action *queued = act(core, CORE_ACT_QUEUED);
            call->told = 1;
            queued->call = handle;
            queued->cookie = call->cookie;
            queued->function = function_handle(core, call->function);
        }
    }
}

static void on_invoke(struct core *core, const struct core_invoke_event *invoke) {
    core->totals.invokes++;
    const uint32_t fn = function_find(core, invoke->function);
    if (fn == NONE || core->functions[fn].removing) {
        refuse(core, invoke, NONE, CORE_NOT_FOUND, NULL);
        return;
    }
    struct function *function = &core->functions[fn];
    if (core->draining) {
        refuse(core, invoke, fn, CORE_UNAVAILABLE, NULL);
        return;
    }
    struct refusal why;
    if (!meter_rate(&core->meter, function->account, core->now_ns, &why)) {
        refuse(core, invoke, fn, CORE_THROTTLED, &why);
        return;
    }
    const struct account *account = &core->accounts[function->account];
    for (uint16_t i = function->account; i != METER_NONE; i = core->accounts[i].parent) {
        if (core->accounts[i].current[CORE_CPU] >= core->accounts[i].max[CORE_CPU]) {
            core->accounts[i].refused[CORE_CPU]++;
            why = (struct refusal){.account = i, .resource = CORE_CPU, .current = core->accounts[i].current[CORE_CPU],
                                   .max = core->accounts[i].max[CORE_CPU]};
            refuse(core, invoke, fn, CORE_THROTTLED, &why);
            return;
        }
    }
    if (account->max[CORE_CONCURRENCY] == 0) {
        why = (struct refusal){.account = function->account, .resource = CORE_CONCURRENCY};
        core->accounts[function->account].refused[CORE_CONCURRENCY]++;
        refuse(core, invoke, fn, CORE_THROTTLED, &why);
        return;
    }
    if (invoke->deadline_ns != 0 &&
        (invoke->deadline_ns <= core->now_ns ||
         (function->queued > 0 && core->now_ns + expected_wait_ns(core, fn) > invoke->deadline_ns))) {
        refuse(core, invoke, fn, CORE_DEADLINE, NULL);
        return;
    }
    if (queue_stands(core, fn, &why)) {
        core->accounts[why.account].refused[why.resource]++;
        refuse(core, invoke, fn, CORE_THROTTLED, &why);
        return;
    }
    if (core->free_call == NONE) {
        why = (struct refusal){.account = 0, .resource = CORE_QUEUED_CALLS, .current = core->totals.calls,
                               .max = core->config.calls_max};
        core->accounts[0].refused[CORE_QUEUED_CALLS]++;
        refuse(core, invoke, fn, CORE_THROTTLED, &why);
        return;
    }
    if (!meter_charge(&core->meter, function->account, CORE_QUEUED_CALLS, 1, &why)) {
        refuse(core, invoke, fn, CORE_THROTTLED, &why);
        return;
    }
    if (!meter_charge(&core->meter, function->account, CORE_QUEUED_BYTES, invoke->bytes, &why)) {
        meter_uncharge(&core->meter, function->account, CORE_QUEUED_CALLS, 1);
        refuse(core, invoke, fn, CORE_THROTTLED, &why);
        return;
    }
    const uint32_t index = core->free_call;
    struct call *call = &core->calls[index];
    core->free_call = call->next;
    const uint32_t generation = call->generation == UINT32_MAX ? 1 : call->generation + 1;
    *call = (struct call){.cookie = invoke->cookie, .order = core->arrivals++, .arrive_ns = core->now_ns, .deadline_ns = invoke->deadline_ns,
                          .generation = generation, .function = fn, .sandbox = NONE, .bytes = invoke->bytes,
                          .prev = NONE, .next = NONE};
    core->totals.calls++;
    if (core->totals.calls > core->totals.calls_peak) {
        core->totals.calls_peak = core->totals.calls;
    }
    function_begins(core, fn);
    queue_push_back(core, index);
    function_ready(core, fn);
    if (function->queue_timeout_ns == 0) {
        /* As Lambda: it starts now, or a sandbox starts for it now, or it is refused now. */
        dispatch(core);
        if (call->state == CALL_QUEUED && call->generation == generation) {
            call_timer_fired(core, index);
        }
    }
    if (call->state == CALL_QUEUED && call->generation == generation) {
        fresh_add(core, index);
    }
}

static void on_cancel(struct core *core, uint64_t handle) {
    const uint32_t index = (uint32_t)handle;
    if (index >= core->config.calls_max || core->calls[index].state == CALL_FREE ||
        core->calls[index].generation != (uint32_t)(handle >> 32)) {
        core->totals.stale_events++;
        return;
    }
    if (core->calls[index].state == CALL_QUEUED) {
        core->calls[index].cancelled = 1;
        queue_remove(core, index);
        struct core_action *answer;
        call_finish(core, index, CORE_CANCELLED, &answer);
        return;
    }
    core->calls[index].cancelled = 1;
}

/* ---- functions and accounts ------------------------------------------------------------------------------------------ */

/* Functions with work that may not fit into one step's actions. */
static void flush_list_add(struct core *core, uint32_t index) {
    struct function *function = &core->functions[index];
    if (!function->on_flush_list) {
        function->on_flush_list = true;
        function->flush_next = core->flush_head;
        core->flush_head = index;
    }
}

void function_flush(struct core *core, uint32_t index, uint32_t count, enum core_outcome outcome, uint8_t cause,
                    int32_t status) {
    struct function *function = &core->functions[index];
    if (count == 0) {
        return;
    }
    uint32_t c = function->queue_head;
    for (uint32_t marked = 0; c != NONE && marked < count; c = core->calls[c].next) {
        if (!core->calls[c].flushing) {
            core->calls[c].flushing = 1;
            function->flush++;
            marked++;
        }
    }
    function->flush_outcome = (uint8_t)outcome;
    function->flush_cause = cause;
    function->flush_status = status;
    flush_list_add(core, index);
}

static void rebuild_guaranteed(struct core *core) {
    core->guaranteed_head = NONE;
    for (uint32_t i = core->config.functions_max; i-- > 0;) {
        struct function *function = &core->functions[i];
        if (function->used && core->accounts[function->account].min[CORE_CONCURRENCY] > 0) {
            function->guaranteed_next = core->guaranteed_head;
            core->guaranteed_head = i;
        }
    }
}

static void on_account_put(struct core *core, const struct core_account_event *event) {
    if (meter_put(&core->meter, event)) {
        rebuild_guaranteed(core);
        core->node_blocked = false;
        core->floors_due = true;
        unblock_all(core);
        for (uint32_t i = 0; i < core->config.functions_max; i++) {
            if (core->functions[i].used && core->functions[i].queued > 0) {
                function_ready(core, i);
            }
        }
    } else {
        core->totals.stale_events++;
    }
}

static void on_function_put(struct core *core, const struct core_function_event *event) {
    const uint32_t index = (uint32_t)event->handle;
    const uint32_t generation = (uint32_t)(event->handle >> 32);
    if (index >= core->config.functions_max || generation == 0 || event->account >= core->config.accounts_max ||
        !core->accounts[event->account].used || event->memory_mb == 0 || event->timeout_ns == 0 ||
        event->ahead_max > CORE_AHEAD_MAX) {
        core->totals.stale_events++;
        return;
    }
    struct function *function = &core->functions[index];
    if (function->used && (function->generation != generation || function->account != event->account)) {
        core->totals.stale_events++; /* taken by another, or would have to move */
        return;
    }
    if (!function->used) {
        *function = (struct function){.used = true, .generation = generation, .account = event->account,
                                      .revision = event->revision, .queue_head = NONE, .queue_tail = NONE,
                                      .waits_at = METER_NONE,
                                      .start_ns = core->config.cold_start_guess_ns};
        for (unsigned i = 0; i < CORE_SB_STATES; i++) {
            function->state_heads[i] = NONE;
        }
        for (unsigned i = 0; i <= CORE_AHEAD_MAX; i++) {
            function->busy_heads[i] = NONE;
        }
        keep_init(core, &function->keep);
        core->function_nodes[index] = (struct fair_node){.vtime = 0};
        core->accounts[event->account].functions++;
        function->account_next = core->account_functions[event->account];
        core->account_functions[event->account] = index;
        core->totals.functions++;
    }
    function->weight = event->weight == 0 ? 100 : event->weight;
    function->memory_mb = event->memory_mb;
    function->ahead_max = event->ahead_max;
    function->timeout_ns = event->timeout_ns;
    function->queue_timeout_ns = event->queue_timeout_ns;
    floor_set(core, index, event->provisioned);
    rebuild_guaranteed(core);
    function_ready(core, index); /* it may be fed further ahead now */
}

static bool retire_list(struct core *core, const struct function *function, uint32_t head) {
    for (uint32_t s = head; s != NONE;) {
        const uint32_t next = core->sandboxes[s].next;
        if (function->retire_all || core->sandboxes[s].revision != function->revision) {
            if (!have_room(core)) {
                return false;
            }
            sandbox_retire(core, s, (enum core_why)function->retire_why);
        }
        s = next;
    }
    return true;
}

/* Ends or drains what has to go, as far as the actions have room. True when through. */
static bool retire_some(struct core *core, uint32_t index) {
    struct function *function = &core->functions[index];
    for (unsigned i = 0; i <= CORE_AHEAD_MAX; i++) {
        if (!retire_list(core, function, function->busy_heads[i])) {
            return false;
        }
    }
    if (!retire_list(core, function, function->state_heads[CORE_SB_IDLE]) ||
        !retire_list(core, function, function->state_heads[CORE_SB_STARTING])) {
        return false;
    }
    function->retire_why = CORE_WHY_NONE;
    core->floors_due |= function->floor > 0;
    for (uint32_t s = function->state_heads[CORE_SB_STARTING]; s != NONE;) {
        const uint32_t next = core->sandboxes[s].next;
        if (core->sandboxes[s].ready_ns != 0) {
            sandbox_set_state(core, s, CORE_SB_IDLE); /* staged for this revision */
            wheel_arm(&core->wheel, sandbox_timer(core, s), idle_due_ns(core, &core->sandboxes[s]));
        }
        s = next;
    }
    return true;
}

static void retire_begin(struct core *core, uint32_t index, bool all, enum core_why why) {
    core->functions[index].retire_why = (uint8_t)why;
    core->functions[index].retire_all = all;
    flush_list_add(core, index);
}

static void run_flushes(struct core *core) {
    while (core->flush_head != NONE && have_room(core)) {
        const uint32_t index = core->flush_head;
        struct function *function = &core->functions[index];
        while (function->flush > 0 && function->queued > 0 && have_room(core)) {
            const uint32_t c = function->queue_head;
            SCHED_ASSERT(core->calls[c].flushing);
            queue_remove(core, c);
            struct core_action *answer;
            call_finish(core, c, (enum core_outcome)function->flush_outcome, &answer);
            answer->cause = function->flush_cause;
            answer->status = function->flush_status;
        }
        if (function->flush > 0 && function->queued > 0) {
            return;
        }
        if (function->retire_why != CORE_WHY_NONE && !retire_some(core, index)) {
            return;
        }
        function->on_flush_list = false;
        core->flush_head = function->flush_next;
        function_ready(core, index);
        function_free_if_done(core, index);
    }
}

static void on_function_switch(struct core *core, const struct core_function_event *event) {
    const uint32_t index = function_find(core, event->handle);
    if (index == NONE || core->functions[index].removing) {
        core->totals.stale_events++;
        return;
    }
    struct function *function = &core->functions[index];
    if (event->revision == function->revision) {
        return;
    }
    function->revision = event->revision;
    /* What was learnt of the old code says little about the new. */
    function->run_known = false;
    function->run_ns = function->run_dev_ns = function->run_floor_ns = 0;
    function->cpu_known = false;
    start_forget(core, index);
    function->coming = 0;
    for (uint32_t s = function->state_heads[CORE_SB_STARTING]; s != NONE; s = core->sandboxes[s].next) {
        function->coming += core->sandboxes[s].revision == function->revision;
    }
    retire_begin(core, index, false, CORE_WHY_REVISION);
}

void function_free_if_done(struct core *core, uint32_t index) {
    struct function *function = &core->functions[index];
    if (!function->used || !function->removing || function->sandboxes != 0 || function->queued != 0 ||
        function->on_flush_list) {
        return;
    }
    function_unready(core, index);
    waits_remove(core, index);
    act(core, CORE_ACT_FUNCTION_FREED)->function = function_handle(core, index);
    wanting_remove(core, index);
    floor_forget(core, index);
    uint32_t *link = &core->account_functions[function->account];
    while (*link != index) {
        SCHED_ASSERT(*link != NONE);
        link = &core->functions[*link].account_next;
    }
    *link = function->account_next;
    core->accounts[function->account].functions--;
    function->used = false;
    core->totals.functions--;
    rebuild_guaranteed(core);
}

static void on_function_remove(struct core *core, uint64_t handle) {
    const uint32_t index = function_find(core, handle);
    if (index == NONE || core->functions[index].removing) {
        core->totals.stale_events++;
        return;
    }
    struct function *function = &core->functions[index];
    function->removing = true;
    function_unready(core, index);
    function_flush(core, index, function->queued, CORE_NOT_FOUND, CORE_CAUSE_NONE, 0);
    retire_begin(core, index, true, CORE_WHY_REMOVED);
}

static void on_sandbox_want(struct core *core, const struct core_sandbox_event *event) {
    const uint32_t index = function_find(core, event->function);
    struct refusal why;
    if (index == NONE || core->functions[index].removing || core->draining) {
        core->totals.stale_events++;
        return;
    }
    (void)sandbox_request(core, index, event->revision, true, &why);
}

/* ---- draining -------------------------------------------------------------------------------------------------------- */

static uint32_t drain_timer(const struct core *core) {
    return core->config.calls_max + core->config.sandboxes_max;
}

static void drain_now(struct core *core) {
    core->drain_over = true;
    for (uint32_t i = 0; i < core->config.functions_max; i++) {
        struct function *function = &core->functions[i];
        if (function->used && function->queued > 0) {
            function_flush(core, i, function->queued, CORE_UNAVAILABLE, CORE_CAUSE_NONE, 0);
        }
    }
}

/* ---- the step -------------------------------------------------------------------------------------------------------- */

static void handle(struct core *core, const struct core_event *event) {
    core->totals.events++;
    switch ((enum core_event_kind)event->kind) {
    case CORE_EV_TICK:
        break;
    case CORE_EV_ACCOUNT_PUT:
        on_account_put(core, &event->u.account);
        break;
    case CORE_EV_ACCOUNT_REMOVE:
        if (event->u.account.index == 0 || !meter_remove(&core->meter, event->u.account.index)) {
            core->totals.stale_events++;
        }
        break;
    case CORE_EV_FUNCTION_PUT:
        on_function_put(core, &event->u.function);
        break;
    case CORE_EV_FUNCTION_SWITCH:
        on_function_switch(core, &event->u.function);
        break;
    case CORE_EV_FUNCTION_REMOVE:
        on_function_remove(core, event->u.function.handle);
        break;
    case CORE_EV_INVOKE:
        on_invoke(core, &event->u.invoke);
        break;
    case CORE_EV_CANCEL:
        on_cancel(core, event->u.cancel.call);
        break;
    case CORE_EV_REPLY:
        on_reply(core, &event->u.reply);
        break;
    case CORE_EV_SANDBOX_WANT:
        on_sandbox_want(core, &event->u.sandbox);
        break;
    case CORE_EV_SANDBOX_READY:
        on_ready(core, &event->u.sandbox);
        break;
    case CORE_EV_SANDBOX_INIT_FAILED:
        on_init_failed(core, &event->u.sandbox);
        break;
    case CORE_EV_SANDBOX_GONE:
        on_gone(core, &event->u.sandbox);
        break;
    case CORE_EV_SANDBOX_REAPED:
        on_reaped(core, &event->u.sandbox);
        break;
    case CORE_EV_SANDBOX_USAGE:
        on_usage(core, &event->u.sandbox);
        break;
    case CORE_EV_PROGRESS:
        on_progress(core, &event->u.reply);
        break;
    case CORE_EV_DRAIN:
        core->draining = true;
        wheel_arm(&core->wheel, drain_timer(core), event->u.drain.deadline_ns);
        break;
    case CORE_EV_SANDBOX_RETIRE: {
        const uint32_t index = sandbox_find(core, event->u.sandbox.handle);
        if (index != NONE) {
            sandbox_retire(core, index, CORE_WHY_RETIRED);
        }
        break;
    }
    }
}

static void fire_timers(struct core *core) {
    while (have_room(core)) {
        const uint32_t timer = wheel_advance(&core->wheel, core->now_ns);
        if (timer == WHEEL_NONE) {
            return;
        }
        core->totals.timers_fired++;
        if (timer < core->config.calls_max) {
            call_timer_fired(core, timer);
        } else if (timer < drain_timer(core)) {
            sandbox_timer_fired(core, timer - core->config.calls_max);
        } else if (timer > drain_timer(core)) {
            function_timer_fired(core, timer - drain_timer(core) - 1);
        } else {
            drain_now(core);
        }
    }
}

size_t core_step(struct core *core, uint64_t now_ns, const struct core_event *events, size_t n, size_t *consumed,
                 struct core_action *actions, size_t max) {
    SCHED_ASSERT(max >= ACTIONS_RESERVE);
    SCHED_ASSERT(events != NULL || n == 0);
    core->now_ns = max_u64(core->now_ns, now_ns); /* a clock never goes back here */
    core->actions = actions;
    core->actions_count = 0;
    core->actions_max = max;
    core->totals.steps++;
    size_t taken = 0;
    while (taken < n && have_room(core)) {
        core->event_index = (uint32_t)taken;
        handle(core, &events[taken]);
        taken++;
    }
    *consumed = taken;
    core->event_index = CORE_NO_EVENT;
    fire_timers(core);
    run_flushes(core);
    wake_for_idle(core);
    floors_fill(core);
    dispatch(core);
    tell_queued(core);
    if (core->draining && !core->drained_told && core->totals.calls == 0 && have_room(core)) {
        core->drained_told = true;
        (void)act(core, CORE_ACT_DRAINED);
    }
    /* Every loop above ends early only for want of room. */
    core->more = !have_room(core);
    core->actions = NULL;
    return core->actions_count;
}

uint64_t core_next_ns(const struct core *core) {
    return core->more ? core->now_ns : wheel_next_ns(&core->wheel);
}
