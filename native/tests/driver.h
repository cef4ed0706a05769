/* driver.h: the core under a test's hand: one event in, its actions to look at, every invariant checked after each step. */
#ifndef SCHED_DRIVER_H
#define SCHED_DRIVER_H

#include "core.h"
#include "harness.h"

enum { DRIVER_ACTIONS = 256, MS = 1000 * 1000 };
#define SECOND (1000ULL * MS)

struct driver {
    struct core *core;
    uint64_t now_ns;
    struct core_action actions[DRIVER_ACTIONS]; /* of the last step */
    size_t count;
};

static inline void drive(struct driver *driver, const struct core_event *events, size_t n) {
    size_t consumed;
    driver->count = core_step(driver->core, driver->now_ns, events, n, &consumed, driver->actions, DRIVER_ACTIONS);
    SCHED_ASSERT(consumed == n);
    const char *broken = core_check(driver->core);
    if (broken != NULL) {
        fprintf(stderr, "core_check: %s\n", broken);
        SCHED_ASSERT(broken == NULL);
    }
}

static inline void wait_ns(struct driver *driver, uint64_t ns) {
    driver->now_ns += ns;
    drive(driver, NULL, 0);
}

static inline size_t count_of(const struct driver *driver, enum core_action_kind kind) {
    size_t count = 0;
    for (size_t i = 0; i < driver->count; i++) {
        count += driver->actions[i].kind == (uint32_t)kind;
    }
    return count;
}

/* The n-th action of a kind in the last step; it must be there. */
static inline const struct core_action *nth(const struct driver *driver, enum core_action_kind kind, size_t n) {
    for (size_t i = 0; i < driver->count; i++) {
        if (driver->actions[i].kind == (uint32_t)kind && n-- == 0) {
            return &driver->actions[i];
        }
    }
    SCHED_ASSERT(!"an action of this kind");
    return NULL;
}

static inline const struct core_action *only(const struct driver *driver, enum core_action_kind kind) {
    SCHED_ASSERT(count_of(driver, kind) == 1);
    return nth(driver, kind, 0);
}

static inline struct core_account_event account_event(uint16_t index, uint16_t parent) {
    struct core_account_event event = {.index = index, .parent = parent, .weight = 100, .burst = 1};
    for (int i = 0; i < CORE_RESOURCES; i++) {
        event.max[i] = CORE_NO_LIMIT;
    }
    event.max[CORE_CPU] = INT64_MAX;
    return event;
}

static inline void put_account(struct driver *driver, struct core_account_event account) {
    drive(driver, &(struct core_event){.kind = CORE_EV_ACCOUNT_PUT, .u.account = account}, 1);
}

static inline struct core_function_event function_event(uint32_t index, uint16_t account) {
    return (struct core_function_event){.handle = 1ULL << 32 | index, .account = account, .weight = 100, .revision = 1,
                                        .memory_mb = 128, .timeout_ns = SECOND, .queue_timeout_ns = SECOND};
}

static inline void put_function(struct driver *driver, struct core_function_event function) {
    drive(driver, &(struct core_event){.kind = CORE_EV_FUNCTION_PUT, .u.function = function}, 1);
}

static inline void invoke(struct driver *driver, uint64_t function, uint64_t cookie) {
    const struct core_invoke_event event = {.function = function, .cookie = cookie, .bytes = 10};
    drive(driver, &(struct core_event){.kind = CORE_EV_INVOKE, .u.invoke = event}, 1);
}

static inline void reply(struct driver *driver, uint64_t sandbox, uint32_t seq, enum core_reply_status status) {
    const struct core_reply_event event = {.sandbox = sandbox, .seq = seq, .status = (uint32_t)status,
                                           .start_ns = driver->now_ns, .end_ns = driver->now_ns};
    drive(driver, &(struct core_event){.kind = CORE_EV_REPLY, .u.reply = event}, 1);
}

static inline void tell_sandbox(struct driver *driver, enum core_event_kind kind, struct core_sandbox_event event) {
    drive(driver, &(struct core_event){.kind = (uint32_t)kind, .u.sandbox = event}, 1);
}

/* A core with an account 1 below the node and a function 0 charged there. */
static inline struct driver driver_new(const struct core_config *config) {
    struct driver driver = {.core = core_new(config), .now_ns = SECOND};
    SCHED_ASSERT(driver.core != NULL);
    put_account(&driver, account_event(1, 0));
    put_function(&driver, function_event(0, 1));
    return driver;
}

static inline struct core_config small_config(void) {
    struct core_config config;
    core_config_default(&config);
    config.calls_max = 64;
    config.functions_max = 4;
    config.sandboxes_max = 16;
    config.accounts_max = 8;
    return config;
}

#endif
