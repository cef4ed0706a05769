/* test_meter.c: the account tree. Refusals leave no trace but their count and name the account and resource; guarantees hold
 * units out of the parent's pool; rates let through what GCRA lets through. */
#include "harness.h"
#include "meter.h"

enum { ACCOUNTS = 8 };

static struct account accounts[ACCOUNTS];
static struct meter meter;

static struct core_account_event account_of(uint16_t index, uint16_t parent) {
    struct core_account_event event = {.index = index, .parent = parent, .weight = 100, .burst = 1};
    for (int i = 0; i < CORE_RESOURCES; i++) {
        event.max[i] = CORE_NO_LIMIT;
    }
    event.max[CORE_CPU] = INT64_MAX;
    return event;
}

static void put(uint16_t index, uint16_t parent, enum core_resource resource, int64_t max, int64_t min) {
    struct core_account_event event = account_of(index, parent);
    event.max[resource] = max;
    event.min[resource] = min;
    SCHED_ASSERT(meter_put(&meter, &event));
    SCHED_ASSERT(meter_check(&meter) == NULL);
}

/* node 0, tenants 1 and 2, functions 3 and 4 of tenant 1, 5 of tenant 2. */
static void tree(void) {
    meter_init(&meter, accounts, ACCOUNTS);
    put(0, METER_NONE, CORE_CONCURRENCY, 10, 0);
    put(1, 0, CORE_CONCURRENCY, CORE_NO_LIMIT, 0);
    put(2, 0, CORE_CONCURRENCY, CORE_NO_LIMIT, 0);
    put(3, 1, CORE_CONCURRENCY, CORE_NO_LIMIT, 0);
    put(4, 1, CORE_CONCURRENCY, CORE_NO_LIMIT, 0);
    put(5, 2, CORE_CONCURRENCY, CORE_NO_LIMIT, 0);
}

static bool charge(uint16_t account, enum core_resource resource, int64_t units, struct refusal *why) {
    const bool room = meter_room(&meter, account, resource, units);
    const bool charged = meter_charge(&meter, account, resource, units, why);
    SCHED_ASSERT(room == charged && meter_check(&meter) == NULL);
    return charged;
}

static int64_t current(uint16_t account, enum core_resource resource) {
    return accounts[account].current[resource];
}

static void test_what_is_no_tree(void) {
    tree();
    static const struct {
        uint16_t index, parent;
        bool taken;
    } rows[] = {{ACCOUNTS, 0, false}, {0, 1, false},          {6, METER_NONE, false}, {6, 6, false}, {6, 7, false},
                {6, ACCOUNTS, false}, {3, 2, false /* moves */}, {3, 1, true},           {6, 5, true},  {0, METER_NONE, true}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct core_account_event event = account_of(rows[i].index, rows[i].parent);
        SCHED_ASSERT(meter_put(&meter, &event) == rows[i].taken);
    }
    struct core_account_event event = account_of(3, 1);
    event.max[CORE_MEMORY] = -1;
    SCHED_ASSERT(!meter_put(&meter, &event));
    event = account_of(3, 1);
    event.min[CORE_CONCURRENCY] = (int64_t)CORE_NO_LIMIT + 1; /* sums of guarantees must not overflow */
    SCHED_ASSERT(!meter_put(&meter, &event) && meter_check(&meter) == NULL);
}

static void test_remove(void) {
    tree();
    struct refusal why;
    SCHED_ASSERT(!meter_remove(&meter, 1) && !meter_remove(&meter, ACCOUNTS) && !meter_remove(&meter, 7));
    SCHED_ASSERT(charge(5, CORE_MEMORY, 1, &why));
    SCHED_ASSERT(!meter_remove(&meter, 5));
    meter_uncharge(&meter, 5, CORE_MEMORY, 1);
    accounts[5].functions = 1;
    SCHED_ASSERT(!meter_remove(&meter, 5));
    accounts[5].functions = 0;
    SCHED_ASSERT(meter_remove(&meter, 5) && meter_remove(&meter, 2) && meter_check(&meter) == NULL);
}

static void test_refusal_leaves_no_trace(void) {
    tree();
    put(1, 0, CORE_QUEUED_BYTES, 1000, 0);
    struct refusal why;
    SCHED_ASSERT(charge(3, CORE_QUEUED_BYTES, 900, &why));
    SCHED_ASSERT(!charge(4, CORE_QUEUED_BYTES, 101, &why));
    SCHED_ASSERT(why.account == 1 && why.resource == CORE_QUEUED_BYTES && why.current == 900 && why.max == 1000);
    SCHED_ASSERT(why.retry_after_ns == 0);
    SCHED_ASSERT(current(4, CORE_QUEUED_BYTES) == 0 && current(1, CORE_QUEUED_BYTES) == 900);
    SCHED_ASSERT(accounts[4].peak[CORE_QUEUED_BYTES] == 0 && accounts[1].refused[CORE_QUEUED_BYTES] == 1);
    SCHED_ASSERT(accounts[0].refused[CORE_QUEUED_BYTES] == 0 && accounts[4].refused[CORE_QUEUED_BYTES] == 0);
    SCHED_ASSERT(charge(4, CORE_QUEUED_BYTES, 100, &why) && charge(5, CORE_QUEUED_BYTES, 5000, &why));
    meter_force(&meter, 4, CORE_QUEUED_BYTES, 50); /* admitted before: over the maximum */
    SCHED_ASSERT(current(1, CORE_QUEUED_BYTES) == 1050 && accounts[1].peak[CORE_QUEUED_BYTES] == 1050);
    meter_uncharge(&meter, 4, CORE_QUEUED_BYTES, 150);
    meter_uncharge(&meter, 3, CORE_QUEUED_BYTES, 900);
    SCHED_ASSERT(current(1, CORE_QUEUED_BYTES) == 0 && current(0, CORE_QUEUED_BYTES) == 5000);
}

static void test_guarantees(void) {
    tree();
    struct refusal why;
    put(3, 1, CORE_CONCURRENCY, 4, 4); /* as Lambda's reserved concurrency: max and min */
    for (int i = 0; i < 6; i++) {
        SCHED_ASSERT(!meter_guaranteed(&meter, 5));
        SCHED_ASSERT(charge(5, CORE_CONCURRENCY, 1, &why));
    }
    SCHED_ASSERT(!charge(5, CORE_CONCURRENCY, 1, &why)); /* four of ten are held back though nobody uses them */
    SCHED_ASSERT(why.account == 0 && why.resource == CORE_CONCURRENCY && why.current == 6 && why.max == 6);
    SCHED_ASSERT(!charge(4, CORE_CONCURRENCY, 1, &why));
    for (int i = 0; i < 4; i++) {
        SCHED_ASSERT(meter_guaranteed(&meter, 3));
        SCHED_ASSERT(charge(3, CORE_CONCURRENCY, 1, &why));
    }
    SCHED_ASSERT(!charge(3, CORE_CONCURRENCY, 1, &why) && why.account == 3 && why.max == 4);
    SCHED_ASSERT(current(0, CORE_CONCURRENCY) == 10);
    put(3, 1, CORE_CONCURRENCY, CORE_NO_LIMIT, 2); /* lowered while in use: two of its four count as shared now */
    SCHED_ASSERT(!charge(5, CORE_CONCURRENCY, 1, &why));
    meter_uncharge(&meter, 3, CORE_CONCURRENCY, 1);
    SCHED_ASSERT(charge(5, CORE_CONCURRENCY, 1, &why));
    meter_uncharge(&meter, 3, CORE_CONCURRENCY, 3);
    meter_uncharge(&meter, 5, CORE_CONCURRENCY, 7);
    SCHED_ASSERT(current(0, CORE_CONCURRENCY) == 0 && meter_check(&meter) == NULL);
    SCHED_ASSERT(accounts[0].peak[CORE_CONCURRENCY] == 10);
}

/* Random charges and returns against plain sums: never above a maximum, always equal to what is out. */
static void test_random_charges(void) {
    tree();
    put(1, 0, CORE_CONCURRENCY, 7, 3);
    put(4, 1, CORE_CONCURRENCY, 5, 2);
    put(5, 2, CORE_CONCURRENCY, 6, 1);
    static const uint16_t leaves[] = {3, 4, 5};
    int64_t out[3] = {0};
    uint64_t seed = 8;
    uint64_t refused = 0;
    for (int step = 0; step < 20000; step++) {
        const size_t i = random_below(&seed, 3);
        struct refusal why;
        if (random_below(&seed, 2) == 0) {
            if (charge(leaves[i], CORE_CONCURRENCY, 1, &why)) {
                out[i]++;
            } else {
                refused++;
                SCHED_ASSERT(why.resource == CORE_CONCURRENCY && why.current <= accounts[why.account].max[CORE_CONCURRENCY]);
            }
        } else if (out[i] > 0) {
            meter_uncharge(&meter, leaves[i], CORE_CONCURRENCY, 1);
            out[i]--;
        }
        SCHED_ASSERT(current(0, CORE_CONCURRENCY) == out[0] + out[1] + out[2] && current(0, CORE_CONCURRENCY) <= 10);
        SCHED_ASSERT(current(1, CORE_CONCURRENCY) == out[0] + out[1] && current(1, CORE_CONCURRENCY) <= 7);
        SCHED_ASSERT(out[1] <= 5 && out[2] <= 6);
        /* What is guaranteed can be had. */
        SCHED_ASSERT(out[1] >= 2 || meter_room(&meter, 4, CORE_CONCURRENCY, 1));
        SCHED_ASSERT(out[2] >= 1 || meter_room(&meter, 5, CORE_CONCURRENCY, 1));
    }
    SCHED_ASSERT(refused > 1000);
}

static void test_rate(void) {
    tree();
    struct core_account_event event = account_of(3, 1);
    event.max[CORE_RATE] = 100; /* one in 10 ms */
    event.burst = 3;
    SCHED_ASSERT(meter_put(&meter, &event));
    struct refusal why;
    const uint64_t begin_ns = 1000000000;
    for (int i = 0; i < 3; i++) {
        SCHED_ASSERT(meter_rate(&meter, 3, begin_ns, &why));
    }
    SCHED_ASSERT(!meter_rate(&meter, 3, begin_ns, &why));
    SCHED_ASSERT(why.account == 3 && why.resource == CORE_RATE && why.max == 100 && why.retry_after_ns == 10000000);
    SCHED_ASSERT(!meter_rate(&meter, 3, begin_ns + why.retry_after_ns - 1, &why) && why.retry_after_ns == 1);
    SCHED_ASSERT(meter_rate(&meter, 3, begin_ns + 10000000, &why));
    SCHED_ASSERT(accounts[3].refused[CORE_RATE] == 2);
    uint64_t passed = 0;
    for (uint64_t now_ns = begin_ns + 1000000000; now_ns < begin_ns + 3000000000; now_ns += 1000000) {
        passed += meter_rate(&meter, 3, now_ns, &why);
    }
    SCHED_ASSERT(passed >= 200 && passed <= 203);
    SCHED_ASSERT(meter_rate(&meter, 5, begin_ns, &why)); /* others are not asked */
    event.max[CORE_RATE] = 0;
    SCHED_ASSERT(meter_put(&meter, &event) && !meter_rate(&meter, 3, UINT64_MAX / 2, &why) && why.retry_after_ns == 0);
}

static void test_cpu(void) {
    tree();
    meter_cpu(&meter, 3, 1000);
    meter_cpu(&meter, 5, 500);
    SCHED_ASSERT(current(0, CORE_CPU) == 1500 && current(1, CORE_CPU) == 1000 && current(2, CORE_CPU) == 500);
    meter_cpu(&meter, 3, -2000); /* an estimate was too high */
    SCHED_ASSERT(current(3, CORE_CPU) == 0 && current(0, CORE_CPU) == 0 && accounts[0].peak[CORE_CPU] == 1500);
    meter_cpu(&meter, 3, INT64_MAX);
    meter_cpu(&meter, 3, INT64_MAX);
    SCHED_ASSERT(current(3, CORE_CPU) == INT64_MAX && meter_check(&meter) == NULL);
}

static void test_check_sees_damage(void) {
    tree();
    struct refusal why;
    SCHED_ASSERT(charge(3, CORE_MEMORY, 5, &why) && charge(3, CORE_CONCURRENCY, 1, &why));
    accounts[1].current[CORE_MEMORY] = 4;
    SCHED_ASSERT(strcmp(meter_check(&meter), "meter: children hold more than their parent") == 0);
    accounts[1].current[CORE_MEMORY] = 5;
    accounts[1].unreserved++;
    SCHED_ASSERT(strcmp(meter_check(&meter), "meter: guarantees do not add up") == 0);
    accounts[1].unreserved--;
    accounts[5].current[CORE_MEMORY] = -1;
    SCHED_ASSERT(strcmp(meter_check(&meter), "meter: negative charge") == 0);
}

int main(void) {
    RUN(test_what_is_no_tree);
    RUN(test_remove);
    RUN(test_refusal_leaves_no_trace);
    RUN(test_guarantees);
    RUN(test_random_charges);
    RUN(test_rate);
    RUN(test_cpu);
    RUN(test_check_sees_damage);
    return 0;
}
