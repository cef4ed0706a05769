/* Invariant: any events keep core_check() content after every step, no call is answered twice, nothing is sent to a sandbox
 * that was freed, and once drained and reaped every call has been answered and nothing is held.
 *
 * The input is read as a program: each byte chooses an event, how far time goes on, which handle (a real one, a stale one,
 * rubbish) and which values (sane ones and nonsense). Where it ends, zeroes follow. */
#include <stdlib.h>

#include "../tests/harness.h"
#include "core.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CALLS = 24, FUNCTIONS = 4, SANDBOXES = 8, ACCOUNTS = 6, EVENTS = 4, ACTIONS_MIN = 64 + CORE_AHEAD_MAX, ACTIONS = 256 };
enum { STEPS_MAX = 1024, SANDBOXES_SEEN = 4096, STEPS_TO_SETTLE = 2000 };

struct seen_sandbox {
    uint64_t handle;
    uint32_t next_reply; /* seq of the oldest unanswered call */
    uint32_t last_sent;
    bool freed;
};

struct world {
    const uint8_t *at;
    const uint8_t *end;
    struct core *core;
    uint64_t now_ns;
    size_t actions_max;
    uint64_t cookies;    /* so many invokes were made; a cookie is 1 + its number */
    uint64_t answered;
    uint8_t answers[STEPS_MAX * EVENTS + 1];
    uint64_t calls[64];  /* handles that were told, the last ones */
    uint32_t calls_count;
    struct seen_sandbox sandboxes[SANDBOXES_SEEN];
    uint32_t sandboxes_count;
    bool drained;
};

static uint8_t next(struct world *world) {
    return world->at < world->end ? *world->at++ : 0;
}

static uint64_t number(struct world *world) {
    const uint64_t now = world->now_ns;
    const uint64_t numbers[] = {0, 1, 2, 100, 128, 1000, 100000, 1000000, 20000000, 1000000000, 900000000000,
                                INT64_MAX, 1ULL << 63, UINT64_MAX, UINT32_MAX, now, now + 1000000, now + 1000000000,
                                now - (now > 1000000 ? 1000000 : now), now + 1};
    return numbers[next(world) % (sizeof numbers / sizeof numbers[0])];
}

static int64_t limit(struct world *world) {
    static const int64_t limits[] = {CORE_NO_LIMIT, CORE_NO_LIMIT, 0, 1, 2, 3, 10, 200, 1000, -1, INT64_MAX, INT64_MIN};
    return limits[next(world) % (sizeof limits / sizeof limits[0])];
}

static uint64_t rubbish(struct world *world, uint8_t choice) {
    const uint64_t handles[] = {0, 1ULL << 32, UINT64_MAX, (uint64_t)UINT32_MAX << 32, UINT32_MAX, (1ULL << 32) | 1000000};
    (void)world;
    return handles[choice % (sizeof handles / sizeof handles[0])];
}

static uint64_t function_of(struct world *world) {
    const uint8_t choice = next(world);
    return choice < 240 ? (uint64_t)(1 + choice / 32 % 2) << 32 | (choice % 16 < 12 ? choice % 3 : choice % 6) : rubbish(world, choice);
}

static struct seen_sandbox *sandbox_of(struct world *world) {
    static struct seen_sandbox none;
    const uint8_t choice = next(world);
    if (choice >= 240 || world->sandboxes_count == 0) {
        none = (struct seen_sandbox){.handle = rubbish(world, choice)};
        return &none;
    }
    /* Mostly of the latest, sometimes of all there ever were. */
    const uint32_t back = choice < 200 ? choice % SANDBOXES : choice;
    return &world->sandboxes[world->sandboxes_count - 1 - back % world->sandboxes_count];
}

static void account_event(struct world *world, struct core_event *event) {
    static const uint16_t parents[] = {0, 0, 1, 2, 5, 7, CORE_NO_ACCOUNT};
    event->u.account.index = next(world) % (ACCOUNTS + 1);
    event->u.account.parent = event->u.account.index == 0 ? CORE_NO_ACCOUNT : parents[next(world) % 7];
    event->u.account.weight = (uint32_t)number(world);
    for (int i = 0; i < CORE_RESOURCES; i++) {
        event->u.account.max[i] = limit(world);
    }
    /* Not always: zeroes are read from the end on. */
    for (int i = 0; i < CORE_RESOURCES; i++) {
        event->u.account.min[i] = next(world) % 3 == 1 ? limit(world) : 0;
    }
    event->u.account.burst = (uint32_t)number(world);
}

static void function_event(struct world *world, struct core_event *event) {
    const uint8_t choice = next(world);
    event->u.function.account = choice % (ACCOUNTS + 2);
    event->u.function.revision = choice / 64;
    event->u.function.memory_mb = choice % 5 == 4 ? (uint32_t)number(world) : 100;
    event->u.function.ahead_max = next(world) % 40;
    event->u.function.weight = (uint32_t)number(world);
    event->u.function.timeout_ns = number(world);
    event->u.function.queue_timeout_ns = number(world);
}

static void reply_event(struct world *world, struct core_event *event) {
    struct seen_sandbox *sandbox = sandbox_of(world);
    const uint8_t choice = next(world);
    event->u.reply.sandbox = sandbox->handle;
    event->u.reply.seq = choice < 240 ? sandbox->next_reply : (uint32_t)number(world);
    event->u.reply.status = choice < 200 ? CORE_REPLY_OK : choice % 6;
    event->u.reply.lingers = choice % 16 == 3;
    event->u.reply.start_ns = world->now_ns - (choice % 16 == 0 ? number(world) : 100000);
    event->u.reply.end_ns = choice % 16 == 0 ? number(world) : world->now_ns;
    if (event->kind == CORE_EV_REPLY && event->u.reply.seq == sandbox->next_reply) {
        sandbox->next_reply++;
    }
}

static void sandbox_event(struct world *world, struct core_event *event) {
    event->u.sandbox.handle = sandbox_of(world)->handle;
    event->u.sandbox.function = function_of(world);
    event->u.sandbox.revision = next(world) % 4;
    event->u.sandbox.tier = next(world) % 5;
    event->u.sandbox.cause = next(world) % 8;
    event->u.sandbox.status = (int32_t)next(world);
    event->u.sandbox.init_ns = number(world);
    event->u.sandbox.cpu_ns = number(world);
    event->u.sandbox.memory_peak_bytes = number(world);
}

static void make_event(struct world *world, struct core_event *event) {
    /* What a busy service sees most comes up most. */
    static const uint8_t kinds[] = {CORE_EV_INVOKE, CORE_EV_INVOKE, CORE_EV_INVOKE, CORE_EV_REPLY, CORE_EV_REPLY, CORE_EV_REPLY,
                                    CORE_EV_SANDBOX_READY, CORE_EV_SANDBOX_READY, CORE_EV_PROGRESS, CORE_EV_SANDBOX_REAPED};
    const uint8_t choice = next(world);
    *event = (struct core_event){.kind = choice < 200 ? choice % 20 : kinds[choice % sizeof kinds]};
    switch (event->kind) {
    case CORE_EV_ACCOUNT_PUT:
    case CORE_EV_ACCOUNT_REMOVE:
        account_event(world, event);
        break;
    case CORE_EV_FUNCTION_PUT:
    case CORE_EV_FUNCTION_SWITCH:
    case CORE_EV_FUNCTION_REMOVE:
        event->u.function.handle = function_of(world);
        if (event->kind != CORE_EV_FUNCTION_REMOVE) {
            function_event(world, event);
        }
        break;
    case CORE_EV_INVOKE:
        event->u.invoke.function = function_of(world);
        event->u.invoke.cookie = ++world->cookies;
        event->u.invoke.deadline_ns = next(world) % 4 == 3 ? number(world) : 0;
        event->u.invoke.bytes = next(world) % 8 == 7 ? (uint32_t)number(world) : 100;
        break;
    case CORE_EV_CANCEL: {
        const uint8_t which = next(world);
        event->u.cancel.call = which < 240 && world->calls_count > 0 ? world->calls[which % world->calls_count] : rubbish(world, which);
        break;
    }
    case CORE_EV_REPLY:
    case CORE_EV_PROGRESS:
        reply_event(world, event);
        break;
    case CORE_EV_DRAIN:
        event->kind = next(world) == 1 ? CORE_EV_DRAIN : CORE_EV_TICK; /* after it little can happen */
        event->u.drain.deadline_ns = number(world);
        break;
    default:
        sandbox_event(world, event);
    }
}

static struct seen_sandbox *find(struct world *world, uint64_t handle) {
    for (uint32_t i = world->sandboxes_count; i-- > 0;) {
        if (world->sandboxes[i].handle == handle) {
            return &world->sandboxes[i];
        }
    }
    return NULL;
}

static void take(struct world *world, const struct core_action *action) {
    struct seen_sandbox *sandbox = action->sandbox == 0 ? NULL : find(world, action->sandbox);
    switch (action->kind) {
    case CORE_ACT_SEND:
        SCHED_ASSERT(sandbox != NULL && !sandbox->freed);
        SCHED_ASSERT(action->seq == sandbox->last_sent + 1);
        SCHED_ASSERT(action->cookie >= 1 && action->cookie <= world->cookies && world->answers[action->cookie] == 0);
        sandbox->last_sent = action->seq;
        world->calls[world->calls_count++ % 64] = action->call;
        world->calls_count = world->calls_count < 64 ? world->calls_count : 64;
        break;
    case CORE_ACT_QUEUED:
        SCHED_ASSERT(world->answers[action->cookie] == 0);
        world->calls[world->calls_count % 64] = action->call;
        world->calls_count = world->calls_count < 64 ? world->calls_count + 1 : 64;
        break;
    case CORE_ACT_ANSWER:
        SCHED_ASSERT(action->cookie >= 1 && action->cookie <= world->cookies);
        SCHED_ASSERT(world->answers[action->cookie]++ == 0); /* exactly one */
        SCHED_ASSERT(action->outcome < CORE_OUTCOMES);
        SCHED_ASSERT(action->arrive_ns <= world->now_ns && action->end_ns <= world->now_ns);
        SCHED_ASSERT(action->start_ns == 0 || (action->arrive_ns <= action->start_ns && action->start_ns <= action->end_ns));
        world->answered++;
        break;
    case CORE_ACT_NEED:
        SCHED_ASSERT(sandbox == NULL && world->sandboxes_count < SANDBOXES_SEEN);
        world->sandboxes[world->sandboxes_count++] = (struct seen_sandbox){.handle = action->sandbox, .next_reply = 1};
        break;
    case CORE_ACT_KILL:
    case CORE_ACT_PROBE:
        SCHED_ASSERT(sandbox != NULL && !sandbox->freed);
        break;
    case CORE_ACT_FREED:
        SCHED_ASSERT(sandbox != NULL && !sandbox->freed);
        sandbox->freed = true;
        break;
    case CORE_ACT_DRAINED:
        world->drained = true;
        break;
    default:
        SCHED_ASSERT(action->kind == CORE_ACT_FUNCTION_FREED);
    }
}

static void step(struct world *world, const struct core_event *events, size_t n) {
    struct core_action actions[ACTIONS];
    uint32_t again = 0;
    do {
        size_t consumed;
        const size_t count = core_step(world->core, world->now_ns, events, n, &consumed, actions, world->actions_max);
        SCHED_ASSERT(count <= world->actions_max && consumed <= n);
        for (size_t i = 0; i < count; i++) {
            take(world, &actions[i]);
        }
        const char *broken = core_check(world->core);
        if (broken != NULL) {
            fprintf(stderr, "core_check: %s\n", broken);
            SCHED_ASSERT(broken == NULL);
        }
        events += consumed;
        n -= consumed;
        SCHED_ASSERT(again++ < STEPS_TO_SETTLE); /* it must get on */
    } while (n > 0 || core_next_ns(world->core) <= world->now_ns);
}

/* Whatever went on before: a drain and the end of all sandboxes leave nothing behind. */
static void finish(struct world *world) {
    const struct core_event drain = {.kind = CORE_EV_DRAIN, .u.drain.deadline_ns = world->now_ns};
    step(world, &drain, 1);
    for (uint32_t i = 0; i < world->sandboxes_count; i++) {
        struct core_event events[2] = {{.kind = CORE_EV_SANDBOX_GONE}, {.kind = CORE_EV_SANDBOX_REAPED}};
        events[0].u.sandbox.handle = events[1].u.sandbox.handle = world->sandboxes[i].handle;
        step(world, events, 2);
        SCHED_ASSERT(world->sandboxes[i].freed);
    }
    world->now_ns += 1000000; /* a timer may be two ticks late */
    step(world, NULL, 0);
    struct core_totals totals;
    core_totals(world->core, &totals);
    SCHED_ASSERT(world->answered == world->cookies && totals.answers == totals.invokes && totals.invokes == world->cookies);
    SCHED_ASSERT(totals.calls == 0 && totals.sandboxes == 0 && world->drained);
    struct core_account_stats node;
    SCHED_ASSERT(core_account_stats(world->core, 0, &node));
    SCHED_ASSERT(node.current[CORE_CONCURRENCY] == 0 && node.current[CORE_MEMORY] == 0);
    SCHED_ASSERT(node.current[CORE_QUEUED_CALLS] == 0 && node.current[CORE_QUEUED_BYTES] == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const uint64_t advances[] = {0, 0, 1, 1000, 20000, 65536, 1000000, 10000000, 100000000, 1000000000, 10000000000,
                                        900000000000, 1ULL << 45};
    struct world *world = calloc(1, sizeof *world);
    SCHED_ASSERT(world != NULL);
    world->at = data;
    world->end = data + size;
    struct core_config config;
    core_config_default(&config);
    config.calls_max = CALLS;
    config.functions_max = FUNCTIONS;
    config.sandboxes_max = SANDBOXES;
    config.accounts_max = ACCOUNTS;
    const uint8_t choice = next(world);
    config.ahead_max = 1 + choice % CORE_AHEAD_MAX;
    config.starting_max = 1 + choice / 64;
    world->actions_max = choice % 2 == 0 ? ACTIONS_MIN : ACTIONS;
    world->now_ns = choice % 3 * 1000000;
    world->core = core_new(&config);
    SCHED_ASSERT(world->core != NULL);
    for (int i = 0; i < STEPS_MAX && world->at < world->end; i++) {
        struct core_event events[EVENTS];
        const uint8_t shape = next(world);
        const size_t n = 1 + shape % EVENTS;
        world->now_ns += advances[shape / EVENTS % (sizeof advances / sizeof advances[0])];
        for (size_t k = 0; k < n; k++) {
            make_event(world, &events[k]);
        }
        step(world, events, n);
    }
    finish(world);
    core_free(world->core);
    free(world);
    return 0;
}
