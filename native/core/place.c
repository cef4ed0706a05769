/* place.c: whose turn it is and where a call may start earliest.
 *
 * Whose turn: start-time fair queueing (Goyal, Vin, Cheng 1996) in two levels, tenants in the node and functions in the tenant.
 * A function pays its expected CPU time over its weight when a call is dispatched; the difference to what the kernel measured is
 * paid when the call is done. Whoever has paid least is next. One that was away starts at the clock of those who were
 * not, so that idling saves nothing up.
 *
 * When the least one cannot go on since a shared account is full, nobody behind it may take what comes free, and nobody
 * behind it may be fed by queueing ahead either: else a busy sandbox would never give its unit back. Only calls within a
 * guarantee pass, since they take nothing from the shared part.
 *
 * Where: an idle sandbox (for microsecond functions only while fewer are busy than there are processors); else ahead in the channel of the busy one with the least backlog, if that backlog ends before
 * a new sandbox could start and within the window; else a new sandbox, if the queue will not have drained by the time
 * it is there; else wait. */
#include "internal.h"

/* Figures of the kernel older than this say nothing of now. */
static const uint64_t CPU_STALE_NS = 1000ULL * 1000 * 1000;

/* A function that could not be served while it had calls keeps its turn, but no more than a second of it (at weight 100): one
 * that was held back by its own limit must not shut out everybody else when the limit goes. */
static const uint64_t LAG_MAX = 1000ULL * 1000 * 1000 * FAIR_SCALE / 100;

enum placed { PLACED, PARK, BLOCKED_TENANT, BLOCKED_NODE, FULL };

uint16_t tenant_of(const struct core *core, uint32_t function) {
    const uint16_t account = core->functions[function].account;
    const uint16_t parent = core->accounts[account].parent;
    return parent == METER_NONE ? account : parent;
}

static void tenant_ready(struct core *core, uint16_t tenant) {
    struct tenant *t = &core->tenants[tenant];
    struct fair_node *node = &core->tenant_nodes[tenant];
    if (node->in_heap || t->blocked || t->ready.count == 0) {
        return;
    }
    node->vtime = max_u64(node->vtime, saturating_sub(core->node_clock, LAG_MAX));
    fair_insert(&core->ready_tenants, core->tenant_nodes, tenant);
}

void waits_remove(struct core *core, uint32_t index) {
    struct function *function = &core->functions[index];
    if (function->waits_at == METER_NONE) {
        return;
    }
    struct tenant *t = &core->tenants[function->waits_at];
    if (function->waits_prev != NONE) {
        core->functions[function->waits_prev].waits_next = function->waits_next;
    } else {
        t->waits_head = function->waits_next;
    }
    if (function->waits_next != NONE) {
        core->functions[function->waits_next].waits_prev = function->waits_prev;
    } else {
        t->waits_tail = function->waits_prev;
    }
    function->waits_at = METER_NONE;
}

static void waits_add(struct core *core, uint32_t index, uint16_t account) {
    struct function *function = &core->functions[index];
    struct tenant *t = &core->tenants[account];
    waits_remove(core, index);
    function->waits_at = account;
    function->waits_next = NONE;
    function->waits_prev = t->waits_tail;
    if (t->waits_tail != NONE) {
        core->functions[t->waits_tail].waits_next = index;
    } else {
        t->waits_head = index;
    }
    t->waits_tail = index;
}

void function_ready(struct core *core, uint32_t index) {
    struct function *function = &core->functions[index];
    struct fair_node *node = &core->function_nodes[index];
    function->parked = false;
    waits_remove(core, index);
    if (function->queued <= function->flush || node->in_heap) {
        return;
    }
    const uint16_t tenant = tenant_of(core, index);
    node->vtime = max_u64(node->vtime, saturating_sub(core->tenants[tenant].clock, LAG_MAX));
    fair_insert(&core->tenants[tenant].ready, core->function_nodes, index);
    tenant_ready(core, tenant);
}

void function_begins(struct core *core, uint32_t index) {
    const uint16_t tenant = tenant_of(core, index);
    struct tenant *t = &core->tenants[tenant];
    struct function *function = &core->functions[index];
    if (function->active) {
        return;
    }
    function->active = true;
    core->function_nodes[index].vtime = max_u64(core->function_nodes[index].vtime, t->clock);
    if (t->active++ == 0) {
        SCHED_ASSERT(!core->tenant_nodes[tenant].in_heap);
        core->tenant_nodes[tenant].vtime = max_u64(core->tenant_nodes[tenant].vtime, core->node_clock);
    }
}

void function_ends_if_done(struct core *core, uint32_t index) {
    struct function *function = &core->functions[index];
    if (function->active && function->queued == 0 && function->in_flight == 0) {
        struct tenant *t = &core->tenants[tenant_of(core, index)];
        SCHED_ASSERT(t->active > 0);
        t->active--;
        function->active = false;
    }
}

/* A unit came back here. One of those that wait for it competes for it by virtual time; should it not be used up,
 * dispatch() goes on to the next. */
static void unit_released(struct core *core, uint16_t account) {
    struct tenant *t = &core->tenants[account];
    if (t->waits_head == NONE) {
        return;
    }
    if (!t->released) {
        t->released = true;
        t->released_next = core->released;
        core->released = account;
    }
    function_ready(core, t->waits_head);
}

/* Nobody in the heaps wants what is free: the next one that waits where a unit came back. False: nobody. */
static bool wake_waiting(struct core *core) {
    while (core->released != METER_NONE) {
        const uint16_t account = core->released;
        struct tenant *t = &core->tenants[account];
        if (t->waits_head != NONE && meter_room(&core->meter, account, CORE_CONCURRENCY, 1)) {
            function_ready(core, t->waits_head);
            return true;
        }
        core->released = t->released_next;
        t->released = false;
    }
    return false;
}

void function_unready(struct core *core, uint32_t index) {
    struct fair_node *node = &core->function_nodes[index];
    if (!node->in_heap) {
        return;
    }
    const uint16_t tenant = tenant_of(core, index);
    fair_remove(&core->tenants[tenant].ready, core->function_nodes, index);
    if (core->tenants[tenant].ready.count == 0 && core->tenant_nodes[tenant].in_heap) {
        fair_remove(&core->ready_tenants, core->tenant_nodes, tenant);
    }
}

/* Functions parked since their own account was full. */
static void wake_account(struct core *core, uint16_t account) {
    for (uint32_t i = core->account_functions[account]; i != NONE; i = core->functions[i].account_next) {
        if (core->functions[i].parked) {
            function_ready(core, i);
        }
    }
}

static void unblock(struct core *core, uint16_t account) {
    if (!core->accounts[account].blocked) {
        return;
    }
    core->accounts[account].blocked = false;
    if (account == 0) {
        core->node_blocked = false;
    }
    if (core->tenants[account].blocked) {
        core->tenants[account].blocked = false;
        tenant_ready(core, account);
    }
    if (core->accounts[account].functions > 0) {
        wake_account(core, account);
    }
}

void concurrency_uncharge(struct core *core, uint32_t index) {
    const uint16_t leaf = core->functions[index].account;
    meter_uncharge(&core->meter, leaf, CORE_CONCURRENCY, 1);
    for (uint16_t i = leaf; i != METER_NONE; i = core->accounts[i].parent) {
        unblock(core, i);
        unit_released(core, i);
    }
}

void unblock_all(struct core *core) {
    for (uint32_t i = 0; i < core->config.accounts_max; i++) {
        if (core->accounts[i].used) {
            unblock(core, (uint16_t)i);
        }
    }
}

/* Functions that were refused a sandbox look again: memory came back, or a sandbox that may be evicted. */
static void wake_wanting(struct core *core) {
    while (core->wanting != NONE) {
        const uint32_t index = core->wanting;
        core->wanting = core->functions[index].wanting_next;
        core->functions[index].wants_memory = false;
        core->floors_due |= core->functions[index].floor > 0;
        function_ready(core, index);
    }
}

void wanting_add(struct core *core, uint32_t index) {
    struct function *function = &core->functions[index];
    if (!function->wants_memory) {
        function->wants_memory = true;
        function->wanting_next = core->wanting;
        core->wanting = index;
    }
}

void wanting_remove(struct core *core, uint32_t index) {
    if (!core->functions[index].wants_memory) {
        return;
    }
    uint32_t *link = &core->wanting;
    while (*link != index) {
        SCHED_ASSERT(*link != NONE);
        link = &core->functions[*link].wanting_next;
    }
    *link = core->functions[index].wanting_next;
    core->functions[index].wants_memory = false;
}

void memory_uncharge(struct core *core, uint32_t index, uint32_t memory_mb) {
    meter_uncharge(&core->meter, core->functions[index].account, CORE_MEMORY, memory_mb);
    wake_wanting(core);
}

static uint64_t scaled(uint64_t ns, uint32_t weight) {
    return ns * FAIR_SCALE / (weight == 0 ? 1 : weight);
}

static void pay(struct core *core, uint32_t index, uint64_t ns) {
    const uint16_t tenant = tenant_of(core, index);
    struct fair_node *fn = &core->function_nodes[index];
    struct fair_node *tn = &core->tenant_nodes[tenant];
    struct tenant *t = &core->tenants[tenant];
    t->clock = max_u64(t->clock, fn->vtime);
    core->node_clock = max_u64(core->node_clock, tn->vtime);
    /* Alone in its heap a node may change its key in place: nothing is ordered against it. */
    const uint64_t function_cost = scaled(ns, core->functions[index].weight);
    if (fn->in_heap && t->ready.count > 1) {
        fair_remove(&t->ready, core->function_nodes, index);
        fn->vtime += function_cost;
        fair_insert(&t->ready, core->function_nodes, index);
    } else {
        fn->vtime += function_cost;
    }
    const uint64_t tenant_cost = scaled(ns, core->accounts[tenant].weight);
    if (tn->in_heap && core->ready_tenants.count > 1) {
        fair_remove(&core->ready_tenants, core->tenant_nodes, tenant);
        tn->vtime += tenant_cost;
        fair_insert(&core->ready_tenants, core->tenant_nodes, tenant);
    } else {
        tn->vtime += tenant_cost;
    }
}

static void settle_node(struct fair_heap *heap, struct fair_node *nodes, uint32_t id, int64_t delta) {
    struct fair_node *node = &nodes[id];
    const bool move = node->in_heap && heap->count > 1;
    if (move) {
        fair_remove(heap, nodes, id);
    }
    if (delta >= 0) {
        node->vtime += (uint64_t)delta;
    } else {
        node->vtime = saturating_sub(node->vtime, (uint64_t)-delta);
    }
    if (move) {
        fair_insert(heap, nodes, id);
    }
}

void settle_vtime(struct core *core, uint32_t index, int64_t delta_ns) {
    if (delta_ns == 0) {
        return;
    }
    const uint16_t tenant = tenant_of(core, index);
    const int64_t weight = core->functions[index].weight == 0 ? 1 : core->functions[index].weight;
    const int64_t tenant_weight = core->accounts[tenant].weight == 0 ? 1 : core->accounts[tenant].weight;
    settle_node(&core->tenants[tenant].ready, core->function_nodes, index, delta_ns * FAIR_SCALE / weight);
    settle_node(&core->ready_tenants, core->tenant_nodes, tenant, delta_ns * FAIR_SCALE / tenant_weight);
}

uint64_t expected_run_ns(const struct function *function) {
    return function->run_known ? function->run_ns : function->run_floor_ns;
}

uint64_t expected_wait_ns(const struct core *core, uint32_t index) {
    (void)core;
    const struct function *function = &core->functions[index];
    const uint32_t live = function->states[CORE_SB_IDLE] + function->states[CORE_SB_BUSY];
    if (live == 0) {
        return 0;
    }
    return (uint64_t)(function->queued + function->in_flight) * expected_run_ns(function) / live;
}

/* The least loaded busy sandbox that may still be fed, or NONE. */
static uint32_t ahead_of(const struct core *core, const struct function *function) {
    if (!function->run_known || function->busy_bits == 0) {
        return NONE;
    }
    const uint32_t backlog = (uint32_t)__builtin_ctzll(function->busy_bits);
    const uint32_t most = function->ahead_max != 0 ? function->ahead_max : core->config.ahead_max;
    if (backlog >= most) {
        return NONE;
    }
    /* A function whose run times vary is judged by its bad calls: mean plus four deviations (RFC 6298). */
    const uint64_t bad = expected_run_ns(function) + 4 * function->run_dev_ns;
    const uint64_t wait = backlog * bad;
    if (wait > core->config.ahead_window_ns || wait > function->start_ns) {
        return NONE;
    }
    return function->busy_heads[backlog];
}

/* Microsecond functions are fed ahead; another process helps them only where a processor is left for it. */
static bool is_small(const struct core *core, const struct function *function) {
    return function->run_known && function->run_ns + 4 * function->run_dev_ns <= core->config.ahead_window_ns / 2;
}

/* Would another sandbox only compete with those there are? They spend their time on processors, and there is none left. A call
 * that may not wait is not held to this: it runs or it is refused. */
static bool only_competes(const struct core *core, const struct function *function, uint32_t working) {
    enum { SOME = CPU_SHARE_ONE / 16, FULL_LOAD = CPU_SHARE_ONE * 4 / 5 };
    const uint32_t cpus = core->config.cpus;
    if (function->queue_timeout_ns == 0 || working < 2 * cpus) {
        return false;
    }
    if (!function->cpu_known) {
        return working >= 4 * cpus; /* the first answers will tell */
    }
    const uint64_t used = (uint64_t)function->cpu_share * working;
    if (used >= (uint64_t)cpus * FULL_LOAD) {
        return true; /* it has the node to itself */
    }
    const bool full = core->now_ns - core->window_from_ns < CPU_STALE_NS && core->cpu_load >= FULL_LOAD;
    return full && (function->cpu_share >= SOME || used >= (uint64_t)cpus * CPU_SHARE_ONE / 2);
}

/* Who holds the function to the sandboxes it has: an account that has no unit of concurrency left. */
static struct refusal full_account(struct core *core, const struct function *function) {
    struct refusal why = {.account = function->account};
    if (!meter_charge(&core->meter, function->account, CORE_CONCURRENCY, 1, &why)) {
        core->accounts[why.account].refused[CORE_CONCURRENCY]--; /* nobody was refused, we only asked */
    } else {
        meter_uncharge(&core->meter, function->account, CORE_CONCURRENCY, 1);
    }
    return why;
}

bool queue_stands(struct core *core, uint32_t index, struct refusal *why) {
    enum { LONG_QUEUE = 8 }; /* calls for each sandbox: shorter ones are the ups and downs of arrivals */
    const struct function *function = &core->functions[index];
    const uint32_t live = function->states[CORE_SB_IDLE] + function->states[CORE_SB_BUSY];
    if (!function->run_known || function->coming > 0 || live == 0 || function->queue_timeout_ns == 0) {
        return false;
    }
    const uint64_t before_it = (uint64_t)function->queued * function->run_ns / live;
    const bool stands = function->queued >= LONG_QUEUE * live && before_it > function->queue_timeout_ns / 2;
    if (!stands && before_it <= function->queue_timeout_ns) {
        return false;
    }
    if (!meter_room(&core->meter, function->account, CORE_CONCURRENCY, 1)) {
        *why = full_account(core, function);
        return true;
    }
    if (only_competes(core, function, live - function->overrun)) {
        *why = (struct refusal){.account = 0, .resource = CORE_CPU, .current = core->cpu_load * 100 / CPU_SHARE_ONE, .max = 100};
        return true;
    }
    return false;
}

/* How many sandboxes of the function fill the processors: one each, unless its memory brings less than a processor. */
static uint32_t filling(const struct core *core, const struct function *function) {
    const uint64_t whole = core->config.memory_mb_per_cpu;
    if (function->memory_mb >= whole) {
        return core->config.cpus;
    }
    return (uint32_t)((core->config.cpus * whole + function->memory_mb - 1) / function->memory_mb);
}

/* How many more sandboxes the waiting calls justify, besides `refused` that could not be had. Never a storm: calls that the living
 * ones will have served before a new one could start ask for none. */
static bool wants_sandbox(const struct core *core, uint32_t index, uint32_t refused) {
    const struct function *function = &core->functions[index];
    const uint32_t waiting = function->queued - function->flush;
    const uint32_t starting = function->coming + refused + function->untold; /* who waits for a cause waits for no other start */
    const uint32_t live = function->states[CORE_SB_IDLE] + function->states[CORE_SB_BUSY];
    if (starting >= waiting || starting >= core->config.starting_max) {
        return false;
    }
    const uint64_t run = expected_run_ns(function);
    if (run == 0) {
        /* Nothing is known yet: as many as could run side by side, and see. */
        return starting + live < 2 * core->config.cpus;
    }
    if (live == 0) {
        return starting < 2 * core->config.cpus ||
               (uint64_t)waiting * run / (starting + 1) > function->start_ns;
    }
    /* One that is stuck in a call that takes unexpectedly long helps nobody who waits. */
    const uint32_t working = live - function->overrun;
    if (is_small(core, function)) {
        /* Twice as many as processors for calls that turn out long; more only for those that are surely not just preempted: on a
         * machine with too much to do, each further process would make all others look late, and so ask for the next. */
        const uint32_t cpus = filling(core, function);
        return starting == 0 && working < cpus && (live < 2 * cpus || live - function->stuck < cpus);
    }
    if (only_competes(core, function, working + starting)) {
        return false;
    }
    return (uint64_t)waiting * run / (live + starting) > function->start_ns / 2 || run > function->start_ns;
}

/* false: it makes no sense to ask for more now. */
static bool ask_for_sandbox(struct core *core, uint32_t index, uint32_t *refused) {
    struct function *function = &core->functions[index];
    /* Room for a unit of concurrency besides those already starting for this function. */
    if (!meter_room(&core->meter, function->account, CORE_CONCURRENCY,
                    (int64_t)function->coming + *refused + 1)) {
        return false;
    }
    struct refusal why;
    if (sandbox_request(core, index, function->revision, false, &why) != NONE) {
        keep_missed(core, &function->keep);
        return true;
    }
    /* For want of memory below the account that refused, or of a place in the node's table: somebody idle makes room. */
    function->last_refusal = why;
    wanting_add(core, index);
    *refused += 1;
    return keep_make_room(core, index, &why, *refused);
}

static uint32_t queue_pop(struct core *core, uint32_t index) {
    const uint32_t call = core->functions[index].queue_head;
    SCHED_ASSERT(call != NONE);
    queue_remove(core, call);
    return call;
}

static enum placed place_head(struct core *core, uint32_t index, bool guaranteed_only) {
    struct function *function = &core->functions[index];
    SCHED_ASSERT(function->queued > function->flush);
    if (function->removing || function->retire_why != CORE_WHY_NONE) {
        return PARK; /* until its old sandboxes are gone from the lists */
    }
    if (!have_room(core)) {
        return FULL;
    }
    const uint32_t idle = function->state_heads[CORE_SB_IDLE];
    if (idle != NONE && is_small(core, function) && function->states[CORE_SB_BUSY] - function->overrun >= filling(core, function)) {
        /* As many work as there are processors: one more would have to wait for one of them, and cost a wake-up each time. */
        const uint32_t busy = ahead_of(core, function);
        if (busy != NONE) {
            sandbox_send(core, busy, queue_pop(core, index));
            return PLACED;
        }
    }
    if (idle != NONE) {
        if (guaranteed_only && !meter_guaranteed(&core->meter, function->account)) {
            return PARK;
        }
        struct refusal why;
        if (!meter_charge(&core->meter, function->account, CORE_CONCURRENCY, 1, &why)) {
            function->last_refusal = why;
            core->accounts[why.account].blocked = true;
            if (why.account == 0) {
                return BLOCKED_NODE;
            }
            return why.account == function->account ? PARK : BLOCKED_TENANT;
        }
        core->sandboxes[idle].charged = 1;
        sandbox_send(core, idle, queue_pop(core, index));
        return PLACED;
    }
    const uint32_t busy = ahead_of(core, function);
    if (busy != NONE) {
        sandbox_send(core, busy, queue_pop(core, index));
        return PLACED;
    }
    uint32_t refused = 0;
    while (have_room(core) && wants_sandbox(core, index, refused) && ask_for_sandbox(core, index, &refused)) {
    }
    if (!meter_room(&core->meter, function->account, CORE_CONCURRENCY, 1)) {
        /* Full, and nobody idle: say which account, so that a refusal can name it, and be woken when it has room. */
        const struct refusal why = full_account(core, function);
        function->last_refusal = why;
        core->accounts[why.account].blocked = true;
        if (why.account != function->account) {
            if (function->states[CORE_SB_BUSY] == 0 && function->coming == 0) {
                /* It needs a new sandbox, hence a shared unit: it holds its turn. */
                return why.account == 0 ? BLOCKED_NODE : BLOCKED_TENANT;
            }
            waits_add(core, index, why.account);
        }
    }
    return PARK;
}

/* Calls within a guarantee pass whoever waits for the shared part. */
static void dispatch_guaranteed(struct core *core) {
    for (uint32_t i = core->guaranteed_head; i != NONE; i = core->functions[i].guaranteed_next) {
        struct function *function = &core->functions[i];
        while (core->function_nodes[i].in_heap && function->queued > function->flush &&
               meter_guaranteed(&core->meter, function->account)) {
            const uint64_t cost = expected_run_ns(function);
            if (place_head(core, i, true) != PLACED) {
                break;
            }
            pay(core, i, cost);
            if (function->queued <= function->flush) {
                function_unready(core, i);
            }
        }
    }
}

void wake_for_idle(struct core *core) {
    if (core->idle_appeared) {
        core->idle_appeared = false;
        if (core->evicting == 0) {
            wake_wanting(core);
        }
    }
}

void dispatch(struct core *core) {
    wake_for_idle(core);
    if (core->guaranteed_head != NONE) {
        dispatch_guaranteed(core);
    }
    while (!core->node_blocked && have_room(core)) {
        if (core->ready_tenants.root == FAIR_NONE) {
            if (!wake_waiting(core)) {
                return;
            }
            continue;
        }
        const uint16_t tenant = (uint16_t)core->ready_tenants.root;
        const uint32_t index = core->tenants[tenant].ready.root;
        SCHED_ASSERT(index != FAIR_NONE);
        struct function *function = &core->functions[index];
        if (function->queued <= function->flush) {
            function_unready(core, index);
            continue;
        }
        const uint64_t cost = expected_run_ns(function);
        switch (place_head(core, index, false)) {
        case PLACED:
            pay(core, index, cost);
            if (function->queued <= function->flush) {
                function_unready(core, index);
            }
            break;
        case PARK:
            function_unready(core, index); /* it may wait at an account */
            function->parked = true;
            break;
        case BLOCKED_TENANT:
            core->tenants[tenant].blocked = true;
            core->accounts[tenant].blocked = true;
            fair_remove(&core->ready_tenants, core->tenant_nodes, tenant);
            break;
        case BLOCKED_NODE:
            core->node_blocked = true;
            core->accounts[0].blocked = true;
            break;
        case FULL:
            return;
        }
    }
}
