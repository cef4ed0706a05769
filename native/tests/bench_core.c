/* bench_core.c: how fast the core is, alone, on virtual time: a world of 1,000 functions and 10,000 sandboxes that keep the
 * channel's rules, calls that come at random whether or not others are done, run times of 20 us to 5 ms. The world is made
 * cheap, but its time is counted too: the figure is a lower bound of the core's own.
 *
 *   bench_core [--json] [--steps N] [--batch N]    speed; N events a step (1: the dearest way)
 *
 * The second part counts what executes by itself and holds it against the concurrency limits of functions, tenants and node
 * after every step, with sandboxes that die and are retired: the overshoot must be 0, and the program fails if it is not. */
#include <stdlib.h>

#include "driver.h"

enum { FUNCTIONS_MAX = 1024, SANDBOXES_MAX = 16384, TENANT_FUNCTIONS = 20, BATCH_MAX = 64, ACTIONS_MAX = 4096 };
enum { BUCKET_NS = 1024, BUCKETS = 1 << 16, RUN_NS_MIN = 20 * 1000, RUN_NS_MAX = 5 * 1000 * 1000, GAPS = 4096 };
enum { NONE = -1 };

/* What comes to pass, one for each function (its next call) and each sandbox (ready, or done with its first call). */
struct node {
    uint64_t due_ns;
    int32_t next;
    int32_t prev;
    bool waits;
};

struct simulated {
    uint64_t handle;
    uint64_t valid_until_ns[CORE_AHEAD_MAX]; /* by seq */
    uint64_t start_ns;                       /* of the first call */
    uint32_t first_seq;
    uint32_t calls;
    uint32_t function;
    bool ready;
    bool lives;
    bool dead_told;
};

struct world {
    struct core *core;
    uint32_t functions;
    uint64_t now_ns;
    uint64_t seed;
    struct node nodes[FUNCTIONS_MAX + SANDBOXES_MAX];
    int32_t buckets[BUCKETS];
    uint64_t cursor;                    /* bucket number, not wrapped */
    struct simulated sandboxes[SANDBOXES_MAX];
    uint64_t run_ns[FUNCTIONS_MAX];     /* mean */
    uint64_t gap_ns[FUNCTIONS_MAX];     /* mean, between calls */
    uint32_t gaps[GAPS];                /* of an exponential distribution, in 1/65536 of the mean */
    struct core_event events[BATCH_MAX];
    size_t filled;
    struct core_action actions[ACTIONS_MAX];
    uint64_t steps, events_given, answers, sends, ok;
    bool faults;
    /* Executing by the world's own count, and what the accounts allow. */
    int64_t executing[FUNCTIONS_MAX], tenant_executing[FUNCTIONS_MAX], node_executing;
    int64_t most[FUNCTIONS_MAX], tenant_most[FUNCTIONS_MAX], node_most;
    int64_t overshoot;
};

/* ---- what is due when: a ring of buckets ---- */

static void schedule(struct world *world, int32_t id, uint64_t due_ns) {
    struct node *node = &world->nodes[id];
    SCHED_ASSERT(!node->waits);
    uint64_t bucket = due_ns / BUCKET_NS;
    bucket = bucket < world->cursor ? world->cursor : bucket;
    int32_t *head = &world->buckets[bucket % BUCKETS];
    *node = (struct node){.due_ns = due_ns, .next = *head, .prev = NONE, .waits = true};
    if (*head != NONE) {
        world->nodes[*head].prev = id;
    }
    *head = id;
}

static void unschedule(struct world *world, int32_t id) {
    struct node *node = &world->nodes[id];
    if (!node->waits) {
        return;
    }
    node->waits = false;
    if (node->next != NONE) {
        world->nodes[node->next].prev = node->prev;
    }
    if (node->prev != NONE) {
        world->nodes[node->prev].next = node->next;
        return;
    }
    uint64_t bucket = node->due_ns / BUCKET_NS;
    int32_t *head = &world->buckets[bucket % BUCKETS];
    if (*head != id) { /* it was late and lies in the bucket of that time */
        head = &world->buckets[world->cursor % BUCKETS];
    }
    SCHED_ASSERT(*head == id);
    *head = node->next;
}

/* The next that is due; time goes on to it. */
static int32_t next_due(struct world *world) {
    for (;;) {
        const uint64_t end_ns = (world->cursor + 1) * BUCKET_NS;
        for (int32_t id = world->buckets[world->cursor % BUCKETS]; id != NONE; id = world->nodes[id].next) {
            if (world->nodes[id].due_ns < end_ns) { /* else of a later round */
                const uint64_t due_ns = world->nodes[id].due_ns;
                world->now_ns = due_ns > world->now_ns ? due_ns : world->now_ns;
                unschedule(world, id);
                return id;
            }
        }
        world->cursor++;
    }
}

/* ---- the world ---- */

static uint64_t some_run_ns(struct world *world, uint32_t function) {
    const uint64_t mean = world->run_ns[function];
    const uint64_t run = mean / 2 + random_below(&world->seed, mean);
    return run < RUN_NS_MIN ? RUN_NS_MIN : run > RUN_NS_MAX ? RUN_NS_MAX : run;
}

static void next_call(struct world *world, uint32_t function) {
    const uint64_t gap = world->gap_ns[function] * world->gaps[random_below(&world->seed, GAPS)] >> 16;
    schedule(world, (int32_t)function, world->now_ns + gap + 1);
}

static void count(struct world *world, uint32_t function, int64_t by) {
    const uint32_t tenant = function / TENANT_FUNCTIONS;
    world->executing[function] += by;
    world->tenant_executing[tenant] += by;
    world->node_executing += by;
}

static int64_t above(int64_t value, int64_t limit, int64_t before) {
    return value - limit > before ? value - limit : before;
}

static void start_first(struct world *world, uint32_t index) {
    struct simulated *sandbox = &world->sandboxes[index];
    sandbox->start_ns = world->now_ns;
    const uint64_t valid_until_ns = sandbox->valid_until_ns[sandbox->first_seq % CORE_AHEAD_MAX];
    const bool late = valid_until_ns != 0 && valid_until_ns < world->now_ns;
    schedule(world, FUNCTIONS_MAX + (int32_t)index, late ? world->now_ns : world->now_ns + some_run_ns(world, sandbox->function));
}

static struct core_event *fill(struct world *world, uint32_t kind) {
    SCHED_ASSERT(world->filled < BATCH_MAX);
    struct core_event *event = &world->events[world->filled++];
    event->kind = kind;
    return event;
}

static void take(struct world *world, const struct core_action *action);

static void step(struct world *world) {
    const struct core_event *events = world->events;
    size_t n = world->filled;
    world->filled = 0;
    do {
        size_t consumed;
        const size_t given = core_step(world->core, world->now_ns, events, n, &consumed, world->actions, ACTIONS_MAX);
        world->steps++;
        world->events_given += consumed;
        events += consumed;
        n -= consumed;
        for (size_t i = 0; i < given; i++) {
            take(world, &world->actions[i]);
        }
    } while (n > 0);
}

static void end_sandbox(struct world *world, uint32_t index) {
    struct simulated *sandbox = &world->sandboxes[index];
    if (!sandbox->lives) {
        return;
    }
    unschedule(world, FUNCTIONS_MAX + (int32_t)index);
    if (sandbox->calls > 0) {
        count(world, sandbox->function, -1);
    }
    sandbox->calls = 0;
    sandbox->lives = false;
    schedule(world, FUNCTIONS_MAX + (int32_t)index, world->now_ns + MS); /* reaped then */
}

static void take(struct world *world, const struct core_action *action) {
    const uint32_t index = (uint32_t)action->sandbox;
    struct simulated *sandbox = &world->sandboxes[index];
    switch ((enum core_action_kind)action->kind) {
    case CORE_ACT_SEND:
        world->sends++;
        sandbox->valid_until_ns[action->seq % CORE_AHEAD_MAX] = action->valid_until_ns;
        if (sandbox->calls++ == 0) {
            const uint32_t function = sandbox->function;
            sandbox->first_seq = action->seq;
            count(world, function, 1);
            world->overshoot = above(world->executing[function], world->most[function], world->overshoot);
            world->overshoot = above(world->tenant_executing[function / TENANT_FUNCTIONS],
                                     world->tenant_most[function / TENANT_FUNCTIONS], world->overshoot);
            world->overshoot = above(world->node_executing, world->node_most, world->overshoot);
            start_first(world, index);
        }
        break;
    case CORE_ACT_ANSWER:
        world->answers++;
        world->ok += action->outcome == CORE_OK;
        break;
    case CORE_ACT_NEED:
        *sandbox = (struct simulated){.handle = action->sandbox, .function = (uint32_t)action->function, .lives = true};
        schedule(world, FUNCTIONS_MAX + (int32_t)index, world->now_ns + 10ULL * MS);
        break;
    case CORE_ACT_KILL:
        end_sandbox(world, index);
        break;
    case CORE_ACT_PROBE:
        if (sandbox->lives && world->filled < BATCH_MAX) {
            fill(world, CORE_EV_PROGRESS)->u.reply = (struct core_reply_event){.sandbox = action->sandbox, .seq = sandbox->first_seq};
        }
        break;
    case CORE_ACT_QUEUED:
    case CORE_ACT_FREED:
    case CORE_ACT_FUNCTION_FREED:
    case CORE_ACT_DRAINED:
        break;
    }
}

static void happen(struct world *world, int32_t id) {
    if (id < FUNCTIONS_MAX) {
        fill(world, CORE_EV_INVOKE)->u.invoke =
            (struct core_invoke_event){.function = 1ULL << 32 | (uint32_t)id, .cookie = (uint64_t)id, .bytes = 100};
        next_call(world, (uint32_t)id);
        return;
    }
    const uint32_t index = (uint32_t)(id - FUNCTIONS_MAX);
    struct simulated *sandbox = &world->sandboxes[index];
    if (!sandbox->lives) {
        fill(world, CORE_EV_SANDBOX_REAPED)->u.sandbox = (struct core_sandbox_event){.handle = sandbox->handle, .cause = CORE_CAUSE_EXIT};
    } else if (!sandbox->ready) {
        sandbox->ready = true;
        fill(world, CORE_EV_SANDBOX_READY)->u.sandbox = (struct core_sandbox_event){.handle = sandbox->handle, .tier = CORE_TIER_SHELL};
    } else if (world->faults && random_below(&world->seed, 2000) == 0) {
        const uint32_t kind = random_below(&world->seed, 2) == 0 ? CORE_EV_SANDBOX_GONE : CORE_EV_SANDBOX_RETIRE;
        fill(world, kind)->u.sandbox = (struct core_sandbox_event){.handle = sandbox->handle};
        if (kind == CORE_EV_SANDBOX_GONE) {
            end_sandbox(world, index);
        } else {
            schedule(world, id, world->now_ns); /* its call goes on */
        }
    } else {
        const uint64_t valid_until_ns = sandbox->valid_until_ns[sandbox->first_seq % CORE_AHEAD_MAX];
        const bool late = valid_until_ns != 0 && valid_until_ns < sandbox->start_ns;
        fill(world, CORE_EV_REPLY)->u.reply = (struct core_reply_event){
            .sandbox = sandbox->handle, .seq = sandbox->first_seq++, .start_ns = sandbox->start_ns, .end_ns = world->now_ns,
            .status = late ? CORE_REPLY_HANDBACK : CORE_REPLY_OK};
        if (--sandbox->calls > 0) {
            start_first(world, index);
        } else {
            count(world, sandbox->function, -1);
        }
    }
}

static void run(struct world *world, uint64_t steps, size_t batch) {
    const uint64_t end = world->steps + steps;
    while (world->steps < end) {
        while (world->filled < batch) {
            happen(world, next_due(world));
        }
        step(world);
    }
}

/* ---- making it ---- */

static void fill_gaps(struct world *world) {
    /* -ln(u) in the middle of GAPS equal slices, by summing 1/k: no libm for one table. */
    double sum = 0;
    for (int k = GAPS; k > 0; k--) {
        sum += 1.0 / k;
        world->gaps[k - 1] = (uint32_t)(sum * 65536);
    }
}

static void world_event(struct world *world, struct core_event event) {
    *fill(world, event.kind) = event;
    step(world);
}

/* each: sandboxes of a function; load: of what they could do, in percent; functions, tenants and node may execute so many. */
static struct world *world_new(uint32_t functions, uint32_t each, uint32_t load, int64_t most, int64_t tenant_most,
                               int64_t node_most) {
    struct world *world = calloc(1, sizeof *world);
    SCHED_ASSERT(world != NULL);
    const uint32_t tenants = (functions + TENANT_FUNCTIONS - 1) / TENANT_FUNCTIONS;
    struct core_config config;
    core_config_default(&config);
    config.functions_max = functions;
    config.sandboxes_max = functions * each + 64;
    config.accounts_max = 1 + tenants + functions;
    config.cpus = each;
    SCHED_ASSERT(config.sandboxes_max <= SANDBOXES_MAX && functions <= FUNCTIONS_MAX);
    world->core = core_new(&config);
    SCHED_ASSERT(world->core != NULL);
    world->functions = functions;
    world->seed = 42;
    for (int i = 0; i < BUCKETS; i++) {
        world->buckets[i] = NONE;
    }
    fill_gaps(world);
    world->node_most = node_most;
    struct core_account_event account = account_event(0, CORE_NO_ACCOUNT);
    account.max[CORE_CONCURRENCY] = node_most;
    world_event(world, (struct core_event){.kind = CORE_EV_ACCOUNT_PUT, .u.account = account});
    for (uint32_t t = 0; t < tenants; t++) {
        account = account_event((uint16_t)(1 + t), 0);
        account.max[CORE_CONCURRENCY] = world->tenant_most[t] = tenant_most;
        account.weight = 50 + 10 * (t % 10);
        world_event(world, (struct core_event){.kind = CORE_EV_ACCOUNT_PUT, .u.account = account});
    }
    for (uint32_t f = 0; f < functions; f++) {
        const uint16_t index = (uint16_t)(1 + tenants + f);
        account = account_event(index, (uint16_t)(1 + f / TENANT_FUNCTIONS));
        account.max[CORE_CONCURRENCY] = world->most[f] = most == CORE_NO_LIMIT ? most : 1 + (int64_t)random_below(&world->seed, (uint64_t)most);
        world_event(world, (struct core_event){.kind = CORE_EV_ACCOUNT_PUT, .u.account = account});
        const struct core_function_event function = function_event(f, index);
        world_event(world, (struct core_event){.kind = CORE_EV_FUNCTION_PUT, .u.function = function});
        /* Means spread evenly over the octaves between the bounds; 40 us .. 3.3 ms, so that each call stays within them. */
        uint64_t mean = 40 * 1000;
        for (uint64_t octaves = random_below(&world->seed, 128); octaves >= 20; octaves -= 20) {
            mean *= 2;
        }
        world->run_ns[f] = mean + random_below(&world->seed, mean / 3);
        world->gap_ns[f] = world->run_ns[f] * 100 / load / each;
        for (uint32_t s = 0; s < each; s++) {
            const struct core_sandbox_event want = {.function = 1ULL << 32 | f, .revision = 1};
            world_event(world, (struct core_event){.kind = CORE_EV_SANDBOX_WANT, .u.sandbox = want});
        }
    }
    while (world->now_ns < 20ULL * MS) { /* all are ready */
        if (world->now_ns < 10ULL * MS) {
            world->now_ns = 10ULL * MS;
            world->cursor = world->now_ns / BUCKET_NS;
        }
        struct core_totals totals;
        core_totals(world->core, &totals);
        for (uint32_t s = 0; s < totals.sandboxes; s++) {
            unschedule(world, FUNCTIONS_MAX + (int32_t)s);
            happen(world, FUNCTIONS_MAX + (int32_t)s);
            step(world);
        }
        world->now_ns = 20ULL * MS;
    }
    for (uint32_t f = 0; f < functions; f++) {
        next_call(world, f);
    }
    return world;
}

static void world_free(struct world *world) {
    const char *broken = core_check(world->core);
    SCHED_ASSERT(broken == NULL);
    core_free(world->core);
    free(world);
}

struct figures {
    double steps_per_s, events_per_s, calls_per_s;
    uint64_t virtual_ns, wall_ns, calls, sandboxes, memory_bytes;
};

static struct figures speed(uint64_t steps, size_t batch) {
    struct world *world = world_new(1000, 10, 70, CORE_NO_LIMIT, CORE_NO_LIMIT, CORE_NO_LIMIT);
    run(world, steps / 10, batch); /* caches and averages warm up */
    const uint64_t begin_steps = world->steps, begin_events = world->events_given, begin_ok = world->ok;
    const uint64_t begin_virtual_ns = world->now_ns, begin_ns = wall_ns();
    run(world, steps, batch);
    const uint64_t took_ns = wall_ns() - begin_ns;
    struct core_totals totals;
    core_totals(world->core, &totals);
    const double seconds = (double)took_ns / 1e9;
    const struct figures figures = {
        .steps_per_s = (double)(world->steps - begin_steps) / seconds,
        .events_per_s = (double)(world->events_given - begin_events) / seconds,
        .calls_per_s = (double)(world->ok - begin_ok) / seconds,
        .virtual_ns = world->now_ns - begin_virtual_ns, .wall_ns = took_ns, .calls = world->ok - begin_ok,
        .sandboxes = totals.sandboxes, .memory_bytes = totals.memory_bytes,
    };
    SCHED_ASSERT(figures.calls > steps / 10 && totals.bad_replies == 0);
    world_free(world);
    return figures;
}

enum { BUSY_FUNCTIONS = 8, IDLE_SANDBOXES = 1000, IDLE_ROUNDS = 20 };

static double ns_a_step(struct world *world, uint64_t steps) {
    const uint64_t begin_steps = world->steps, begin_ns = wall_ns();
    run(world, steps, 1);
    return (double)(wall_ns() - begin_ns) / (double)(world->steps - begin_steps);
}

/* What a step costs beside a thousand sandboxes that only wait, over what it costs without them: the best of many pairs, since
 * the machine is not ours alone. */
static double idle_cost(uint64_t steps) {
    struct world *worlds[2];
    for (unsigned i = 0; i < 2; i++) {
        worlds[i] = world_new(BUSY_FUNCTIONS + i * IDLE_SANDBOXES / 10, 10, 70, CORE_NO_LIMIT, CORE_NO_LIMIT, CORE_NO_LIMIT);
        for (uint32_t f = BUSY_FUNCTIONS; f < worlds[i]->functions; f++) {
            unschedule(worlds[i], (int32_t)f);
        }
        run(worlds[i], steps / 10, 1);
    }
    double best[2] = {1e9, 1e9};
    for (unsigned round = 0; round < IDLE_ROUNDS; round++) {
        for (unsigned k = 0; k < 2; k++) {
            const unsigned i = (round + k) % 2; /* whoever comes second finds the clock up */
            const double took = ns_a_step(worlds[i], steps / IDLE_ROUNDS);
            best[i] = took < best[i] ? took : best[i];
        }
    }
    struct core_totals totals;
    core_totals(worlds[1]->core, &totals);
    SCHED_ASSERT(totals.sandboxes >= IDLE_SANDBOXES);
    world_free(worlds[0]);
    world_free(worlds[1]);
    return best[1] / best[0];
}

/* What one more sandbox costs the core, its timer included: by two cores that differ in nothing else. */
static uint64_t sandbox_bytes(void) {
    uint64_t bytes[2];
    for (unsigned i = 0; i < 2; i++) {
        struct core_config config;
        core_config_default(&config);
        config.sandboxes_max = 1 + i;
        struct core *core = core_new(&config);
        SCHED_ASSERT(core != NULL);
        struct core_totals totals;
        core_totals(core, &totals);
        bytes[i] = totals.memory_bytes;
        core_free(core);
    }
    return bytes[1] - bytes[0];
}

struct limits {
    uint64_t steps, refused, deaths;
    int64_t overshoot, node_peak;
};

/* More comes than may execute, at every level. */
static struct limits limited(uint64_t steps) {
    struct world *world = world_new(200, 8, 150, 6, 60, 400);
    world->faults = true;
    struct limits limits = {0};
    const uint64_t end = world->steps + steps;
    while (world->steps < end) {
        run(world, 1, 1 + random_below(&world->seed, 8));
    }
    struct core_account_stats node;
    SCHED_ASSERT(core_account_stats(world->core, 0, &node));
    struct core_totals totals;
    core_totals(world->core, &totals);
    SCHED_ASSERT(totals.bad_replies == 0);
    limits.steps = steps;
    limits.refused = world->answers - world->ok;
    limits.overshoot = world->overshoot;
    limits.node_peak = node.peak[CORE_CONCURRENCY];
    world_free(world);
    return limits;
}

static uint64_t number(const char *text, uint64_t low, uint64_t high) {
    char *end;
    const uint64_t value = strtoull(text == NULL ? "" : text, &end, 10);
    if (text == NULL || *text == '\0' || *end != '\0' || value < low || value > high) {
        fprintf(stderr, "usage: bench_core [--json] [--steps N] [--batch 1..32]\n");
        exit(2);
    }
    return value;
}

int main(int argc, char **argv) {
    bool json = false;
    uint64_t steps = 2000000, batch = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0) {
            json = true;
        } else if (strcmp(argv[i], "--steps") == 0) {
            steps = number(argv[++i], 1000, 1000000000);
        } else if (strcmp(argv[i], "--batch") == 0) {
            batch = number(argv[++i], 1, 32);
        } else {
            (void)number(NULL, 0, 0);
        }
    }
    const struct figures one = speed(steps, batch == 0 ? 1 : batch);
    const struct figures many = batch == 0 ? speed(steps / 8, 16) : one;
    const struct limits limits = limited(steps / 2 < 1000000 ? steps / 2 : 1000000);
    const double idle = idle_cost(steps / 4);
    if (json) {
        printf("{\"idle_step_ratio\": %.4f, \"idle_sandboxes\": %d, \"sandbox_bytes\": %llu, \"steps_per_s\": %.0f, \"events_per_s\": %.0f, \"calls_per_s\": %.0f, \"batch16_steps_per_s\": %.0f, "
               "\"batch16_events_per_s\": %.0f, \"batch16_calls_per_s\": %.0f, \"functions\": 1000, \"sandboxes\": %llu, "
               "\"memory_bytes\": %llu, \"limit_steps\": %llu, \"limit_refused\": %llu, \"limit_overshoot\": %lld}\n",
               idle, IDLE_SANDBOXES, (unsigned long long)sandbox_bytes(), one.steps_per_s, one.events_per_s, one.calls_per_s, many.steps_per_s, many.events_per_s, many.calls_per_s,
               (unsigned long long)one.sandboxes, (unsigned long long)one.memory_bytes, (unsigned long long)limits.steps,
               (unsigned long long)limits.refused, (long long)limits.overshoot);
    } else {
        printf("1,000 functions, %llu sandboxes, %.1f MB, run times 20 us .. 5 ms\n", (unsigned long long)one.sandboxes,
               (double)one.memory_bytes / 1e6);
        printf("  one event a step   %10.0f steps/s  %10.0f calls/s   (%.2f s of virtual time in %.2f s)\n", one.steps_per_s,
               one.calls_per_s, (double)one.virtual_ns / 1e9, (double)one.wall_ns / 1e9);
        printf("  16 events a step   %10.0f events/s %10.0f calls/s\n", many.events_per_s, many.calls_per_s);
        printf("a step beside %d idle sandboxes: %.3f of one without; %llu bytes for each of them\n", IDLE_SANDBOXES, idle,
               (unsigned long long)sandbox_bytes());
        printf("concurrency limits, %llu steps: overshoot %lld, %llu refused, node's peak %lld of 400\n",
               (unsigned long long)limits.steps, (long long)limits.overshoot, (unsigned long long)limits.refused,
               (long long)limits.node_peak);
    }
    return limits.overshoot == 0 ? 0 : 1;
}
