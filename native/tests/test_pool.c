/* test_pool.c: what a sandbox does in each state on each event, by one table: the state after it, whether and why it is killed,
 * and what its call is answered. Whatever is not to happen in a state is a stale event or the sandbox's fault, and never an
 * abort. */
#include "driver.h"

enum { NO_ANSWER = CORE_OUTCOMES };
#define FUNCTION (1ULL << 32)

enum state { STARTING, STAGED, IDLE, BUSY, DRAINING, DYING, DYING_WITH_CALL };

enum event { READY, INIT_FAILED, GONE, REAPED, ANSWERS, ANSWERS_WRONG, HANDS_BACK, RETIRED, USED_CPU, SWITCHED, REMOVED, TIME };

struct row {
    enum state state;
    enum event event;
    enum core_sandbox_state after; /* CORE_SB_FREE: freed, and said so */
    enum core_why why;             /* of the one kill; NONE: not killed */
    uint32_t outcome;              /* of its call */
    enum core_cause cause;
};

static const struct row rows[] = {
    {STARTING, READY, CORE_SB_IDLE, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {STARTING, INIT_FAILED, CORE_SB_DYING, CORE_WHY_INIT_FAILED, NO_ANSWER, CORE_CAUSE_NONE},
    {STARTING, GONE, CORE_SB_DYING, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE},
    {STARTING, REAPED, CORE_SB_FREE, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE},
    {STARTING, ANSWERS, CORE_SB_DYING, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE},
    {STARTING, RETIRED, CORE_SB_DYING, CORE_WHY_RETIRED, NO_ANSWER, CORE_CAUSE_NONE},
    {STARTING, USED_CPU, CORE_SB_STARTING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {STARTING, SWITCHED, CORE_SB_DYING, CORE_WHY_REVISION, NO_ANSWER, CORE_CAUSE_NONE},
    {STARTING, REMOVED, CORE_SB_DYING, CORE_WHY_REMOVED, NO_ANSWER, CORE_CAUSE_NONE},
    {STARTING, TIME, CORE_SB_DYING, CORE_WHY_INIT_TIMEOUT, NO_ANSWER, CORE_CAUSE_NONE},

    {STAGED, READY, CORE_SB_DYING, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE},
    {STAGED, INIT_FAILED, CORE_SB_DYING, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE},
    {STAGED, GONE, CORE_SB_DYING, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE},
    {STAGED, REAPED, CORE_SB_FREE, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE},
    {STAGED, ANSWERS, CORE_SB_DYING, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE},
    {STAGED, RETIRED, CORE_SB_DYING, CORE_WHY_RETIRED, NO_ANSWER, CORE_CAUSE_NONE},
    {STAGED, SWITCHED, CORE_SB_IDLE, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {STAGED, REMOVED, CORE_SB_DYING, CORE_WHY_REMOVED, NO_ANSWER, CORE_CAUSE_NONE},
    {STAGED, TIME, CORE_SB_DYING, CORE_WHY_IDLE, NO_ANSWER, CORE_CAUSE_NONE},

    {IDLE, READY, CORE_SB_DYING, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE},
    {IDLE, INIT_FAILED, CORE_SB_DYING, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE},
    {IDLE, GONE, CORE_SB_DYING, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE},
    {IDLE, REAPED, CORE_SB_FREE, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE},
    {IDLE, ANSWERS, CORE_SB_DYING, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE},
    {IDLE, HANDS_BACK, CORE_SB_DYING, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE},
    {IDLE, RETIRED, CORE_SB_DYING, CORE_WHY_RETIRED, NO_ANSWER, CORE_CAUSE_NONE},
    {IDLE, USED_CPU, CORE_SB_IDLE, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {IDLE, SWITCHED, CORE_SB_DYING, CORE_WHY_REVISION, NO_ANSWER, CORE_CAUSE_NONE},
    {IDLE, REMOVED, CORE_SB_DYING, CORE_WHY_REMOVED, NO_ANSWER, CORE_CAUSE_NONE},
    {IDLE, TIME, CORE_SB_DYING, CORE_WHY_IDLE, NO_ANSWER, CORE_CAUSE_NONE},

    {BUSY, READY, CORE_SB_DYING, CORE_WHY_PROTOCOL, CORE_SANDBOX_DIED, CORE_CAUSE_PROTOCOL},
    {BUSY, INIT_FAILED, CORE_SB_DYING, CORE_WHY_PROTOCOL, CORE_SANDBOX_DIED, CORE_CAUSE_PROTOCOL},
    {BUSY, GONE, CORE_SB_DYING, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE}, /* it waits for the cause */
    {BUSY, REAPED, CORE_SB_FREE, CORE_WHY_PROTOCOL, CORE_SANDBOX_DIED, CORE_CAUSE_EXIT},
    {BUSY, ANSWERS, CORE_SB_IDLE, CORE_WHY_NONE, CORE_OK, CORE_CAUSE_NONE},
    {BUSY, ANSWERS_WRONG, CORE_SB_DYING, CORE_WHY_PROTOCOL, CORE_SANDBOX_DIED, CORE_CAUSE_PROTOCOL},
    {BUSY, HANDS_BACK, CORE_SB_DYING, CORE_WHY_PROTOCOL, CORE_SANDBOX_DIED, CORE_CAUSE_PROTOCOL}, /* it never might */
    {BUSY, RETIRED, CORE_SB_DRAINING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {BUSY, USED_CPU, CORE_SB_BUSY, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {BUSY, SWITCHED, CORE_SB_DRAINING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {BUSY, REMOVED, CORE_SB_DRAINING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {BUSY, TIME, CORE_SB_DYING, CORE_WHY_TIMEOUT, CORE_TIMEOUT, CORE_CAUSE_KILLED},

    {DRAINING, READY, CORE_SB_DYING, CORE_WHY_PROTOCOL, CORE_SANDBOX_DIED, CORE_CAUSE_PROTOCOL},
    {DRAINING, GONE, CORE_SB_DYING, CORE_WHY_PROTOCOL, NO_ANSWER, CORE_CAUSE_NONE},
    {DRAINING, REAPED, CORE_SB_FREE, CORE_WHY_PROTOCOL, CORE_SANDBOX_DIED, CORE_CAUSE_EXIT},
    {DRAINING, ANSWERS, CORE_SB_DYING, CORE_WHY_RETIRED, CORE_OK, CORE_CAUSE_NONE},
    {DRAINING, ANSWERS_WRONG, CORE_SB_DYING, CORE_WHY_PROTOCOL, CORE_SANDBOX_DIED, CORE_CAUSE_PROTOCOL},
    {DRAINING, RETIRED, CORE_SB_DRAINING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {DRAINING, USED_CPU, CORE_SB_DRAINING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {DRAINING, SWITCHED, CORE_SB_DRAINING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {DRAINING, REMOVED, CORE_SB_DRAINING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {DRAINING, TIME, CORE_SB_DYING, CORE_WHY_TIMEOUT, CORE_TIMEOUT, CORE_CAUSE_KILLED},

    {DYING, READY, CORE_SB_DYING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {DYING, INIT_FAILED, CORE_SB_DYING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {DYING, GONE, CORE_SB_DYING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {DYING, REAPED, CORE_SB_FREE, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {DYING, ANSWERS, CORE_SB_DYING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {DYING, RETIRED, CORE_SB_DYING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {DYING, USED_CPU, CORE_SB_DYING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {DYING, SWITCHED, CORE_SB_DYING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {DYING, REMOVED, CORE_SB_DYING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {DYING, TIME, CORE_SB_DYING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},

    {DYING_WITH_CALL, ANSWERS, CORE_SB_DYING, CORE_WHY_NONE, NO_ANSWER, CORE_CAUSE_NONE},
    {DYING_WITH_CALL, REAPED, CORE_SB_FREE, CORE_WHY_NONE, CORE_SANDBOX_DIED, CORE_CAUSE_EXIT},
    {DYING_WITH_CALL, TIME, CORE_SB_DYING, CORE_WHY_NONE, CORE_SANDBOX_DIED, CORE_CAUSE_NONE}, /* nobody told it */
};

/* A sandbox brought into a state; the state is looked at, so that a row tests what it names. */
static uint64_t reach(struct driver *driver, enum state state) {
    static const enum core_sandbox_state is[] = {CORE_SB_STARTING, CORE_SB_STARTING, CORE_SB_IDLE, CORE_SB_BUSY,
                                                 CORE_SB_DRAINING, CORE_SB_DYING, CORE_SB_DYING};
    tell_sandbox(driver, CORE_EV_SANDBOX_WANT, (struct core_sandbox_event){.function = FUNCTION, .revision = state == STAGED ? 2 : 1});
    const uint64_t sandbox = only(driver, CORE_ACT_NEED)->sandbox;
    const struct core_sandbox_event event = {.handle = sandbox, .init_ns = MS, .tier = CORE_TIER_SHELL};
    driver->now_ns += 5 * MS;
    if (state != STARTING) {
        tell_sandbox(driver, CORE_EV_SANDBOX_READY, event);
    }
    if (state == BUSY || state == DRAINING || state == DYING_WITH_CALL) {
        invoke(driver, FUNCTION, 77);
        SCHED_ASSERT(only(driver, CORE_ACT_SEND)->sandbox == sandbox && nth(driver, CORE_ACT_SEND, 0)->seq == 1);
    }
    if (state == DRAINING || state == DYING) {
        tell_sandbox(driver, CORE_EV_SANDBOX_RETIRE, event);
    } else if (state == DYING_WITH_CALL) {
        tell_sandbox(driver, CORE_EV_SANDBOX_GONE, event);
    }
    uint32_t now;
    uint64_t function;
    SCHED_ASSERT(core_sandbox_state(driver->core, sandbox, &now, &function) && now == (uint32_t)is[state] && function == FUNCTION);
    driver->now_ns += 5 * MS;
    return sandbox;
}

static void happen(struct driver *driver, uint64_t sandbox, enum state state, enum event event) {
    const struct core_sandbox_event about = {.handle = sandbox, .cause = CORE_CAUSE_EXIT, .status = 3, .cpu_ns = 7 * MS};
    const struct core_event of_function = {.u.function = {.handle = FUNCTION, .revision = 2}};
    struct core_event function = of_function;
    switch (event) {
    case READY:
        tell_sandbox(driver, CORE_EV_SANDBOX_READY, about);
        break;
    case INIT_FAILED:
        tell_sandbox(driver, CORE_EV_SANDBOX_INIT_FAILED, about);
        break;
    case GONE: {
        const struct core_sandbox_event gone = {.handle = sandbox};
        tell_sandbox(driver, CORE_EV_SANDBOX_GONE, gone);
        break;
    }
    case REAPED:
        tell_sandbox(driver, CORE_EV_SANDBOX_REAPED, about);
        break;
    case ANSWERS:
        reply(driver, sandbox, 1, CORE_REPLY_OK);
        break;
    case ANSWERS_WRONG:
        reply(driver, sandbox, 2, CORE_REPLY_OK);
        break;
    case HANDS_BACK:
        reply(driver, sandbox, 1, CORE_REPLY_HANDBACK);
        break;
    case RETIRED:
        tell_sandbox(driver, CORE_EV_SANDBOX_RETIRE, about);
        break;
    case USED_CPU:
        tell_sandbox(driver, CORE_EV_SANDBOX_USAGE, about);
        break;
    case SWITCHED:
        function.kind = CORE_EV_FUNCTION_SWITCH;
        drive(driver, &function, 1);
        break;
    case REMOVED:
        function.kind = CORE_EV_FUNCTION_REMOVE;
        drive(driver, &function, 1);
        break;
    case TIME:
        /* The longest of what may run out in that state: idle, start, the function's own timeout. */
        wait_ns(driver, state == STAGED || state == IDLE ? 601 * SECOND : state == STARTING ? 10 * SECOND + 20 * MS : SECOND + 20 * MS);
        break;
    }
}

static void check_row(const struct row *row) {
    const struct core_config config = small_config();
    struct driver driver = driver_new(&config);
    const uint64_t sandbox = reach(&driver, row->state);
    happen(&driver, sandbox, row->state, row->event);
    uint32_t after = CORE_SB_FREE;
    uint64_t function;
    const bool lives = core_sandbox_state(driver.core, sandbox, &after, &function);
    if (after != (uint32_t)row->after || count_of(&driver, CORE_ACT_KILL) != (row->why != CORE_WHY_NONE) ||
        count_of(&driver, CORE_ACT_ANSWER) != (row->outcome != NO_ANSWER)) {
        fprintf(stderr, "row %zu: state %u, %zu kills, %zu answers\n", (size_t)(row - rows), after,
                count_of(&driver, CORE_ACT_KILL), count_of(&driver, CORE_ACT_ANSWER));
        SCHED_ASSERT(!"the row holds");
    }
    SCHED_ASSERT(lives == (row->after != CORE_SB_FREE));
    SCHED_ASSERT(count_of(&driver, CORE_ACT_FREED) == (row->after == CORE_SB_FREE));
    if (row->why != CORE_WHY_NONE) {
        const struct core_action *kill = only(&driver, CORE_ACT_KILL);
        SCHED_ASSERT(kill->sandbox == sandbox && kill->why == (uint32_t)row->why);
    }
    if (row->outcome != NO_ANSWER) {
        const struct core_action *answer = only(&driver, CORE_ACT_ANSWER);
        SCHED_ASSERT(answer->cookie == 77 && answer->sandbox == sandbox);
        SCHED_ASSERT(answer->outcome == row->outcome && answer->cause == (uint16_t)row->cause);
        SCHED_ASSERT(row->cause != CORE_CAUSE_EXIT || answer->status == 3);
    }
    /* A freed sandbox's handle is stale for ever. */
    if (row->after == CORE_SB_FREE) {
        struct core_totals before, later;
        core_totals(driver.core, &before);
        reply(&driver, sandbox, 1, CORE_REPLY_OK);
        core_totals(driver.core, &later);
        SCHED_ASSERT(driver.count == 0 && later.stale_events == before.stale_events + 1);
    }
    core_free(driver.core);
}

static void test_state_table(void) {
    for (const struct row *row = rows; row < rows + sizeof rows / sizeof rows[0]; row++) {
        check_row(row);
    }
}

/* Only what may have run shares its sandbox's fate; the others wait again, in their old order, and run elsewhere. */
static void test_calls_behind_the_first(void) {
    const struct core_config config = small_config();
    struct driver driver = driver_new(&config);
    const uint64_t sandbox = reach(&driver, IDLE);
    invoke(&driver, FUNCTION, 1);
    reply(&driver, sandbox, 1, CORE_REPLY_OK); /* runs are short: the next are fed ahead */
    for (uint64_t cookie = 2; cookie <= 5; cookie++) {
        invoke(&driver, FUNCTION, cookie);
        SCHED_ASSERT(only(&driver, CORE_ACT_SEND)->sandbox == sandbox);
    }
    /* It has begun the second of the four when it dies. */
    const struct core_event events[] = {
        {.kind = CORE_EV_PROGRESS, .u.reply = {.sandbox = sandbox, .seq = 3}},
        {.kind = CORE_EV_SANDBOX_GONE, .u.sandbox = {.handle = sandbox}},
        {.kind = CORE_EV_SANDBOX_REAPED, .u.sandbox = {.handle = sandbox, .cause = CORE_CAUSE_SIGNAL, .status = 11}},
    };
    drive(&driver, events, 3);
    SCHED_ASSERT(count_of(&driver, CORE_ACT_ANSWER) == 2);
    for (size_t i = 0; i < 2; i++) {
        const struct core_action *answer = nth(&driver, CORE_ACT_ANSWER, i);
        SCHED_ASSERT(answer->outcome == CORE_SANDBOX_DIED && answer->cause == CORE_CAUSE_SIGNAL && answer->status == 11);
        SCHED_ASSERT(answer->cookie == 2 || answer->cookie == 3);
    }
    const uint64_t fresh = nth(&driver, CORE_ACT_NEED, 0)->sandbox;
    tell_sandbox(&driver, CORE_EV_SANDBOX_READY, (struct core_sandbox_event){.handle = fresh, .tier = CORE_TIER_SHELL});
    SCHED_ASSERT(count_of(&driver, CORE_ACT_SEND) == 2);
    SCHED_ASSERT(nth(&driver, CORE_ACT_SEND, 0)->cookie == 4 && nth(&driver, CORE_ACT_SEND, 1)->cookie == 5);
    core_free(driver.core);
}

/* A sandbox that ends between two calls has not begun the next: that one is run elsewhere, and shares the second one's fate. */
static void test_a_call_that_was_not_begun(void) {
    const struct core_config config = small_config();
    struct driver driver = driver_new(&config);
    uint64_t sandbox = reach(&driver, IDLE);
    invoke(&driver, FUNCTION, 1);
    for (int end = 0; end < 2; end++) {
        SCHED_ASSERT(only(&driver, CORE_ACT_SEND)->cookie == 1 && nth(&driver, CORE_ACT_SEND, 0)->seq == 1);
        const struct core_event events[] = {
            {.kind = CORE_EV_PROGRESS, .u.reply = {.sandbox = sandbox, .seq = 0, .status = CORE_PROGRESS_LAST}},
            {.kind = CORE_EV_SANDBOX_GONE, .u.sandbox = {.handle = sandbox}},
            {.kind = CORE_EV_SANDBOX_REAPED, .u.sandbox = {.handle = sandbox, .cause = CORE_CAUSE_EXIT, .status = 1}},
        };
        drive(&driver, events, 3);
        if (end == 0) {
            SCHED_ASSERT(count_of(&driver, CORE_ACT_ANSWER) == 0);
            sandbox = only(&driver, CORE_ACT_NEED)->sandbox;
            tell_sandbox(&driver, CORE_EV_SANDBOX_READY, (struct core_sandbox_event){.handle = sandbox, .tier = CORE_TIER_SHELL});
        }
    }
    const struct core_action *answer = only(&driver, CORE_ACT_ANSWER);
    SCHED_ASSERT(answer->cookie == 1 && answer->outcome == CORE_SANDBOX_DIED && answer->status == 1);
    core_free(driver.core);
}

static void linger(struct driver *driver, uint64_t sandbox, uint32_t seq) {
    const struct core_reply_event event = {.sandbox = sandbox, .seq = seq, .start_ns = driver->now_ns, .end_ns = driver->now_ns, .lingers = 1};
    drive(driver, &(struct core_event){.kind = CORE_EV_REPLY, .u.reply = event}, 1);
    SCHED_ASSERT(count_of(driver, CORE_ACT_ANSWER) == 1 && only(driver, CORE_ACT_ANSWER)->outcome == CORE_OK);
}

static uint32_t state_of(const struct driver *driver, uint64_t sandbox) {
    uint32_t state = CORE_SB_FREE;
    uint64_t function;
    (void)core_sandbox_state(driver->core, sandbox, &state, &function);
    return state;
}

/* Its call is answered, and it is busy all the same until it says otherwise, or the call's time is up, or it dies. */
static void test_one_that_lingers_is_busy(void) {
    for (int end = 0; end < 5; end++) {
        const struct core_config config = small_config();
        struct driver driver = driver_new(&config);
        const uint64_t sandbox = reach(&driver, BUSY);
        linger(&driver, sandbox, 1);
        SCHED_ASSERT(state_of(&driver, sandbox) == CORE_SB_BUSY);
        switch (end) {
        case 0:
            reply(&driver, sandbox, 1, CORE_REPLY_HANDBACK);
            SCHED_ASSERT(driver.count == 0 && state_of(&driver, sandbox) == CORE_SB_IDLE);
            invoke(&driver, FUNCTION, 78);
            SCHED_ASSERT(only(&driver, CORE_ACT_SEND)->seq == 2);
            break;
        case 1: /* the call's timeout covers it; its caller has heard all there is */
            wait_ns(&driver, SECOND + 20 * MS);
            SCHED_ASSERT(only(&driver, CORE_ACT_KILL)->why == CORE_WHY_TIMEOUT && count_of(&driver, CORE_ACT_ANSWER) == 0);
            break;
        case 2:
            tell_sandbox(&driver, CORE_EV_SANDBOX_REAPED, (struct core_sandbox_event){.handle = sandbox, .cause = CORE_CAUSE_EXIT});
            SCHED_ASSERT(count_of(&driver, CORE_ACT_ANSWER) == 0 && count_of(&driver, CORE_ACT_FREED) == 1);
            break;
        case 3: /* an answer to what was answered */
            reply(&driver, sandbox, 1, CORE_REPLY_OK);
            SCHED_ASSERT(only(&driver, CORE_ACT_KILL)->why == CORE_WHY_PROTOCOL && count_of(&driver, CORE_ACT_ANSWER) == 0);
            break;
        default:
            tell_sandbox(&driver, CORE_EV_SANDBOX_RETIRE, (struct core_sandbox_event){.handle = sandbox});
            SCHED_ASSERT(state_of(&driver, sandbox) == CORE_SB_DRAINING);
            reply(&driver, sandbox, 1, CORE_REPLY_HANDBACK);
            SCHED_ASSERT(only(&driver, CORE_ACT_KILL)->why == CORE_WHY_RETIRED);
            break;
        }
        SCHED_ASSERT(core_check(driver.core) == NULL);
        core_free(driver.core);
    }
}

/* What was queued behind the one that lingers is called back as from any that takes long. */
static void test_calls_behind_one_that_lingers(void) {
    struct core_config config = small_config();
    config.sandboxes_max = 1;
    struct driver driver = driver_new(&config);
    const uint64_t sandbox = reach(&driver, IDLE);
    invoke(&driver, FUNCTION, 1);
    reply(&driver, sandbox, 1, CORE_REPLY_OK);
    invoke(&driver, FUNCTION, 2);
    invoke(&driver, FUNCTION, 3);
    SCHED_ASSERT(only(&driver, CORE_ACT_SEND)->seq == 3);
    linger(&driver, sandbox, 2);
    wait_ns(&driver, 20 * MS);
    SCHED_ASSERT(count_of(&driver, CORE_ACT_PROBE) >= 1);
    const struct core_event progress = {.kind = CORE_EV_PROGRESS, .u.reply = {.sandbox = sandbox, .seq = 2}};
    drive(&driver, &progress, 1);
    SCHED_ASSERT(core_check(driver.core) == NULL);
    struct core_function_stats stats;
    SCHED_ASSERT(core_function_stats(driver.core, 0, driver.now_ns, &stats) && stats.queued == 1 && stats.in_flight == 0);
    reply(&driver, sandbox, 2, CORE_REPLY_HANDBACK);
    reply(&driver, sandbox, 3, CORE_REPLY_HANDBACK); /* the place of the one that was called back */
    SCHED_ASSERT(core_function_stats(driver.core, 0, driver.now_ns, &stats) && stats.queued == 0 && stats.in_flight == 1);
    reply(&driver, sandbox, 4, CORE_REPLY_OK);
    SCHED_ASSERT(only(&driver, CORE_ACT_ANSWER)->cookie == 3 && state_of(&driver, sandbox) == CORE_SB_IDLE);
    core_free(driver.core);
}

int main(void) {
    RUN(test_one_that_lingers_is_busy);
    RUN(test_calls_behind_one_that_lingers);
    RUN(test_state_table);
    RUN(test_calls_behind_the_first);
    RUN(test_a_call_that_was_not_begun);
    return 0;
}
