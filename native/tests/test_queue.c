/* test_queue.c: a function's queue through the core's door: order, bounds and what a refusal says, waiting times, cancelling,
 * and that the limit of an account is never passed. */
#include "driver.h"

#define FUNCTION (1ULL << 32)

/* No sandbox can be had: what comes waits. */
static struct driver waiting_room(int64_t calls_max, int64_t bytes_max, uint64_t queue_timeout_ns) {
    const struct core_config config = small_config();
    struct driver driver = driver_new(&config);
    struct core_account_event account = account_event(1, 0);
    account.max[CORE_MEMORY] = 0;
    account.max[CORE_QUEUED_CALLS] = calls_max;
    account.max[CORE_QUEUED_BYTES] = bytes_max;
    put_account(&driver, account);
    struct core_function_event function = function_event(0, 1);
    function.queue_timeout_ns = queue_timeout_ns;
    put_function(&driver, function);
    return driver;
}

static void refused(const struct driver *driver, enum core_resource resource, int64_t current, int64_t max) {
    const struct core_action *answer = only(driver, CORE_ACT_ANSWER);
    SCHED_ASSERT(driver->count == 1 && answer->call == 0 && answer->outcome == CORE_THROTTLED);
    SCHED_ASSERT(answer->account == 1 && answer->resource == (uint16_t)resource);
    SCHED_ASSERT(answer->current == current && answer->max == max && answer->retry_after_ns > 0);
}

static void test_bounds(void) {
    struct driver driver = waiting_room(3, 25, SECOND);
    invoke(&driver, FUNCTION, 1);
    SCHED_ASSERT(only(&driver, CORE_ACT_QUEUED)->cookie == 1);
    invoke(&driver, FUNCTION, 2);
    invoke(&driver, FUNCTION, 3); /* ten bytes each */
    refused(&driver, CORE_QUEUED_BYTES, 20, 25);
    const struct core_invoke_event empty = {.function = FUNCTION, .cookie = 4};
    drive(&driver, &(struct core_event){.kind = CORE_EV_INVOKE, .u.invoke = empty}, 1);
    SCHED_ASSERT(count_of(&driver, CORE_ACT_QUEUED) == 1);
    drive(&driver, &(struct core_event){.kind = CORE_EV_INVOKE, .u.invoke = empty}, 1);
    refused(&driver, CORE_QUEUED_CALLS, 3, 3);
    struct core_account_stats stats;
    SCHED_ASSERT(core_account_stats(driver.core, 1, &stats));
    SCHED_ASSERT(stats.current[CORE_QUEUED_CALLS] == 3 && stats.current[CORE_QUEUED_BYTES] == 20);
    SCHED_ASSERT(stats.refused[CORE_QUEUED_CALLS] == 1 && stats.refused[CORE_QUEUED_BYTES] == 1);
    core_free(driver.core);
}

static void test_slab_is_a_bound(void) {
    struct driver driver = waiting_room(CORE_NO_LIMIT, CORE_NO_LIMIT, SECOND);
    for (uint64_t cookie = 1; cookie <= 64; cookie++) {
        invoke(&driver, FUNCTION, cookie);
        SCHED_ASSERT(count_of(&driver, CORE_ACT_QUEUED) == 1);
    }
    invoke(&driver, FUNCTION, 65);
    const struct core_action *answer = only(&driver, CORE_ACT_ANSWER);
    SCHED_ASSERT(answer->outcome == CORE_THROTTLED && answer->account == 0 && answer->resource == CORE_QUEUED_CALLS);
    SCHED_ASSERT(answer->current == 64 && answer->max == 64);
    core_free(driver.core);
}

static void test_no_such_function(void) {
    static const uint64_t handles[] = {0, 1, 1ULL << 32 | 1, 2ULL << 32, UINT64_MAX, UINT32_MAX, 1ULL << 32 | UINT32_MAX};
    struct driver driver = waiting_room(CORE_NO_LIMIT, CORE_NO_LIMIT, SECOND);
    for (size_t i = 0; i < sizeof handles / sizeof handles[0]; i++) {
        invoke(&driver, handles[i], 9);
        SCHED_ASSERT(only(&driver, CORE_ACT_ANSWER)->outcome == CORE_NOT_FOUND && driver.actions[0].cookie == 9);
    }
    core_free(driver.core);
}

static void test_waiting_ends(void) {
    static const struct {
        uint64_t queue_timeout_ns;
        uint64_t deadline_ns; /* from its arrival, 0: none */
        uint64_t ends_ns;
        enum core_outcome outcome;
    } rows[] = {
        {SECOND, 0, SECOND, CORE_THROTTLED},
        {SECOND, 300ULL * MS, 300ULL * MS, CORE_DEADLINE},
        {SECOND, 2 * SECOND, SECOND, CORE_THROTTLED},
        {5ULL * MS, 0, 5ULL * MS, CORE_THROTTLED},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct driver driver = waiting_room(CORE_NO_LIMIT, CORE_NO_LIMIT, rows[i].queue_timeout_ns);
        const struct core_invoke_event event = {
            .function = FUNCTION, .cookie = 1, .deadline_ns = rows[i].deadline_ns == 0 ? 0 : driver.now_ns + rows[i].deadline_ns};
        drive(&driver, &(struct core_event){.kind = CORE_EV_INVOKE, .u.invoke = event}, 1);
        SCHED_ASSERT(core_next_ns(driver.core) <= driver.now_ns + rows[i].ends_ns + 140000);
        wait_ns(&driver, rows[i].ends_ns - 1);
        SCHED_ASSERT(driver.count == 0);
        wait_ns(&driver, 140000); /* two ticks and a little */
        SCHED_ASSERT(only(&driver, CORE_ACT_ANSWER)->outcome == (uint32_t)rows[i].outcome);
        SCHED_ASSERT(rows[i].outcome != CORE_THROTTLED || driver.actions[0].resource == CORE_MEMORY);
        core_free(driver.core);
    }
    /* Zero is Lambda's way: refused in the same step. */
    struct driver driver = waiting_room(CORE_NO_LIMIT, CORE_NO_LIMIT, 0);
    invoke(&driver, FUNCTION, 1);
    SCHED_ASSERT(only(&driver, CORE_ACT_ANSWER)->outcome == CORE_THROTTLED && count_of(&driver, CORE_ACT_QUEUED) == 0);
    /* A deadline that has passed. */
    const struct core_invoke_event late = {.function = FUNCTION, .cookie = 2, .deadline_ns = driver.now_ns};
    drive(&driver, &(struct core_event){.kind = CORE_EV_INVOKE, .u.invoke = late}, 1);
    SCHED_ASSERT(only(&driver, CORE_ACT_ANSWER)->outcome == CORE_DEADLINE);
    core_free(driver.core);
}

static void test_cancel(void) {
    struct driver driver = waiting_room(CORE_NO_LIMIT, CORE_NO_LIMIT, SECOND);
    uint64_t calls[3];
    for (uint64_t i = 0; i < 3; i++) {
        invoke(&driver, FUNCTION, i);
        calls[i] = only(&driver, CORE_ACT_QUEUED)->call;
    }
    struct core_event cancel = {.kind = CORE_EV_CANCEL, .u.cancel.call = calls[1]};
    drive(&driver, &cancel, 1);
    SCHED_ASSERT(only(&driver, CORE_ACT_ANSWER)->outcome == CORE_CANCELLED && driver.actions[0].cookie == 1);
    drive(&driver, &cancel, 1);
    SCHED_ASSERT(driver.count == 0); /* its handle is stale */
    cancel.u.cancel.call = UINT64_MAX;
    drive(&driver, &cancel, 1);
    SCHED_ASSERT(driver.count == 0);
    core_free(driver.core);
}

/* First come, first served, and what was sent is cancelled by hiding its answer. */
static void test_order_and_serving(void) {
    const struct core_config config = small_config();
    struct driver driver = driver_new(&config);
    struct core_function_event function = function_event(0, 1);
    function.ahead_max = 1;
    put_function(&driver, function);
    struct core_account_event account = account_event(1, 0);
    account.max[CORE_CONCURRENCY] = 1;
    put_account(&driver, account);
    for (uint64_t cookie = 1; cookie <= 5; cookie++) {
        invoke(&driver, FUNCTION, cookie);
        SCHED_ASSERT(count_of(&driver, CORE_ACT_QUEUED) == 1 && count_of(&driver, CORE_ACT_NEED) == (cookie == 1 ? 1 : 0));
    }
    struct core_totals totals;
    core_totals(driver.core, &totals);
    SCHED_ASSERT(totals.sandboxes == 1); /* one may run at a time, so one is made */
    const uint64_t sandbox = 1ULL << 32;
    tell_sandbox(&driver, CORE_EV_SANDBOX_READY, (struct core_sandbox_event){.handle = sandbox, .tier = CORE_TIER_SHELL});
    for (uint32_t seq = 1; seq <= 5; seq++) {
        const struct core_action *send = only(&driver, CORE_ACT_SEND);
        SCHED_ASSERT(send->cookie == seq && send->seq == seq && send->sandbox == sandbox);
        const uint64_t call = send->call;
        if (seq == 2) {
            drive(&driver, &(struct core_event){.kind = CORE_EV_CANCEL, .u.cancel.call = call}, 1);
            SCHED_ASSERT(driver.count == 0);
        }
        driver.now_ns += MS;
        reply(&driver, sandbox, seq, seq == 3 ? CORE_REPLY_FUNCTION_ERROR : CORE_REPLY_OK);
        const struct core_action *answer = only(&driver, CORE_ACT_ANSWER);
        SCHED_ASSERT(answer->cookie == seq && answer->outcome == (seq == 3 ? CORE_FUNCTION_ERROR : CORE_OK));
        SCHED_ASSERT(answer->cancelled == (seq == 2 ? 1 : 0) && answer->tier == (seq == 1 ? CORE_TIER_SHELL : CORE_TIER_WARM));
        SCHED_ASSERT(answer->arrive_ns <= answer->start_ns && answer->start_ns <= answer->end_ns && answer->end_ns <= driver.now_ns);
    }
    SCHED_ASSERT(count_of(&driver, CORE_ACT_SEND) == 0);
    struct core_account_stats stats;
    SCHED_ASSERT(core_account_stats(driver.core, 1, &stats));
    SCHED_ASSERT(stats.peak[CORE_CONCURRENCY] == 1 && stats.current[CORE_CONCURRENCY] == 0 && stats.peak[CORE_QUEUED_CALLS] == 5);
    core_free(driver.core);
}

/* The step that has no room for all its actions says so and goes on when called again. */
static void test_few_actions_at_a_time(void) {
    struct driver driver = waiting_room(CORE_NO_LIMIT, CORE_NO_LIMIT, SECOND);
    for (uint64_t cookie = 1; cookie <= 64; cookie++) {
        invoke(&driver, FUNCTION, cookie);
    }
    enum { ROOM = 64 + CORE_AHEAD_MAX };
    struct core_action actions[ROOM];
    const struct core_event remove = {.kind = CORE_EV_FUNCTION_REMOVE, .u.function.handle = FUNCTION};
    size_t consumed, answers = 0, steps = 0, freed = 0;
    const struct core_event *events = &remove;
    size_t n = 1;
    do {
        const size_t count = core_step(driver.core, driver.now_ns, events, n, &consumed, actions, ROOM);
        SCHED_ASSERT(count <= ROOM && core_check(driver.core) == NULL && consumed == n);
        for (size_t i = 0; i < count; i++) {
            SCHED_ASSERT(actions[i].kind == CORE_ACT_FUNCTION_FREED || actions[i].outcome == CORE_NOT_FOUND);
            answers += actions[i].kind == CORE_ACT_ANSWER;
            freed += actions[i].kind == CORE_ACT_FUNCTION_FREED;
        }
        n = 0;
        steps++;
    } while (core_next_ns(driver.core) <= driver.now_ns);
    SCHED_ASSERT(answers == 64 && freed == 1 && steps >= 2);
    core_free(driver.core);
}

/* More events than there is room for: the step takes those it can and says how many. */
static void test_more_events_than_room(void) {
    enum { EVENTS = 300, ROOM = 64 + CORE_AHEAD_MAX };
    struct driver driver = waiting_room(CORE_NO_LIMIT, CORE_NO_LIMIT, SECOND);
    struct core_event events[EVENTS];
    for (uint64_t i = 0; i < EVENTS; i++) {
        events[i] = (struct core_event){.kind = CORE_EV_INVOKE, .u.invoke = {.function = 0, .cookie = i}};
    }
    struct core_action actions[ROOM];
    size_t taken = 0, answers = 0, steps = 0;
    while (taken < EVENTS) {
        size_t consumed;
        const size_t count = core_step(driver.core, driver.now_ns, events + taken, EVENTS - taken, &consumed, actions, ROOM);
        SCHED_ASSERT(consumed > 0 && count == consumed && count <= ROOM);
        SCHED_ASSERT(taken + consumed == EVENTS || core_next_ns(driver.core) <= driver.now_ns);
        for (size_t i = 0; i < count; i++) {
            SCHED_ASSERT(actions[i].cookie == answers++ && actions[i].event == i);
        }
        taken += consumed;
        steps++;
    }
    SCHED_ASSERT(answers == EVENTS && steps > 3);
    core_free(driver.core);
}

static void test_config_bounds(void) {
    struct core_config config;
    core_config_default(&config);
    struct core *core = core_new(&config);
    SCHED_ASSERT(core != NULL);
    struct core_totals totals;
    core_totals(core, &totals);
    SCHED_ASSERT(totals.memory_bytes > 0 && core_check(core) == NULL);
    core_free(core);
    core_free(NULL);
    uint32_t *const fields[] = {&config.calls_max, &config.functions_max, &config.sandboxes_max, &config.accounts_max,
                                &config.ahead_max, &config.starting_max, &config.cpus};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        core_config_default(&config);
        *fields[i] = 0;
        SCHED_ASSERT(core_new(&config) == NULL);
    }
    core_config_default(&config);
    config.ahead_max = CORE_AHEAD_MAX + 1;
    SCHED_ASSERT(core_new(&config) == NULL);
}

int main(void) {
    RUN(test_bounds);
    RUN(test_slab_is_a_bound);
    RUN(test_no_such_function);
    RUN(test_waiting_ends);
    RUN(test_cancel);
    RUN(test_order_and_serving);
    RUN(test_few_actions_at_a_time);
    RUN(test_more_events_than_room);
    RUN(test_config_bounds);
    return 0;
}
