#include "meter.h"

#include <string.h>

#include "invariant.h"

static int64_t at_least_zero(int64_t value) {
    return value > 0 ? value : 0;
}

/* What of this account's concurrency its own guarantee does not cover and its parent must find room for. */
static int64_t excess(const struct account *account) {
    return at_least_zero(account->unreserved - at_least_zero(account->min[CORE_CONCURRENCY] - account->reserved));
}

static int64_t guarantee(const struct account *account) {
    return account->min[CORE_CONCURRENCY] > account->reserved ? account->min[CORE_CONCURRENCY] : account->reserved;
}

static uint16_t depth_of(const struct meter *meter, uint16_t index) {
    uint16_t depth = 0;
    while (meter->accounts[index].parent != METER_NONE) {
        index = meter->accounts[index].parent;
        depth++;
        SCHED_ASSERT(depth < meter->count);
    }
    return depth;
}

/* Guarantees changed: derive `reserved` and `unreserved` anew, deepest accounts first. Rare, O(accounts * depth). */
static void recompute(struct meter *meter) {
    uint16_t deepest = 0;
    for (uint32_t i = 0; i < meter->count; i++) {
        if (meter->accounts[i].used) {
            struct account *account = &meter->accounts[i];
            account->reserved = 0;
            account->unreserved = account->current[CORE_CONCURRENCY];
            const uint16_t depth = depth_of(meter, (uint16_t)i);
            deepest = depth > deepest ? depth : deepest;
        }
    }
    for (uint32_t depth = deepest; depth > 0; depth--) {
        for (uint32_t i = 0; i < meter->count; i++) {
            const struct account *child = &meter->accounts[i];
            if (!child->used || depth_of(meter, (uint16_t)i) != depth) {
                continue;
            }
            struct account *parent = &meter->accounts[child->parent];
            parent->reserved += guarantee(child);
            parent->unreserved += excess(child) - child->current[CORE_CONCURRENCY];
        }
    }
}

void meter_init(struct meter *meter, struct account *accounts, uint32_t count) {
    SCHED_ASSERT(count > 0 && count < METER_NONE);
    memset(accounts, 0, count * sizeof *accounts);
    meter->accounts = accounts;
    meter->count = count;
    meter->any_rate = false;
}

bool meter_put(struct meter *meter, const struct core_account_event *put) {
    if (put->index >= meter->count || (put->index == 0) != (put->parent == METER_NONE)) {
        return false;
    }
    if (put->parent != METER_NONE &&
        (put->parent >= meter->count || !meter->accounts[put->parent].used || put->parent == put->index)) {
        return false;
    }
    struct account *account = &meter->accounts[put->index];
    if (account->used && account->parent != put->parent) {
        return false; /* an account never moves */
    }
    for (unsigned i = 0; i < CORE_RESOURCES; i++) {
        if (put->max[i] < 0 || put->min[i] < 0 || put->min[i] > CORE_NO_LIMIT) { /* guarantees are added up */
            return false;
        }
    }
    if (!account->used) {
        memset(account, 0, sizeof *account);
        account->used = true;
        account->parent = put->parent;
        if (put->parent != METER_NONE) {
            meter->accounts[put->parent].children++;
        }
    }
    memcpy(account->max, put->max, sizeof account->max);
    memcpy(account->min, put->min, sizeof account->min);
    account->weight = put->weight == 0 ? 100 : put->weight;
    const int64_t rate = put->max[CORE_RATE];
    account->interval_ns = rate >= CORE_NO_LIMIT ? 0 : rate == 0 ? UINT64_MAX : 1000000000ULL / (uint64_t)rate;
    account->burst = put->burst == 0 ? 1 : put->burst;
    meter->any_rate = false;
    for (uint32_t i = 0; i < meter->count; i++) {
        meter->any_rate |= meter->accounts[i].used && meter->accounts[i].interval_ns != 0;
    }
    recompute(meter);
    return true;
}

bool meter_remove(struct meter *meter, uint16_t index) {
    if (index >= meter->count || !meter->accounts[index].used) {
        return false;
    }
    struct account *account = &meter->accounts[index];
    if (account->children != 0 || account->functions != 0) {
        return false;
    }
    for (unsigned i = 0; i < CORE_RESOURCES; i++) {
        if (i != CORE_CPU && i != CORE_RATE && account->current[i] != 0) {
            return false;
        }
    }
    if (account->parent != METER_NONE) {
        meter->accounts[account->parent].children--;
    }
    account->used = false;
    recompute(meter);
    return true;
}

/* Takes `units` back from `from` up to but not including `stop`. */
static void undo(struct meter *meter, uint16_t from, uint16_t stop, enum core_resource resource, int64_t units) {
    int64_t up = units;
    for (uint16_t i = from; i != stop; i = meter->accounts[i].parent) {
        struct account *account = &meter->accounts[i];
        SCHED_ASSERT(account->current[resource] >= units);
        account->current[resource] -= units;
        if (resource == CORE_CONCURRENCY) {
            const int64_t before = excess(account);
            account->unreserved -= up;
            SCHED_ASSERT(account->unreserved >= 0);
            up = before - excess(account);
        }
    }
}

bool meter_charge(struct meter *meter, uint16_t leaf, enum core_resource resource, int64_t units,
                  struct refusal *why) {
    SCHED_ASSERT(units >= 0);
    int64_t up = units;
    for (uint16_t i = leaf; i != METER_NONE; i = meter->accounts[i].parent) {
        struct account *account = &meter->accounts[i];
        SCHED_ASSERT(account->used);
        int64_t limit = account->max[resource];
        bool fits = account->current[resource] + units <= limit;
        if (resource == CORE_CONCURRENCY && up > 0 && account->unreserved + up > limit - account->reserved) {
            fits = false;
            limit -= account->reserved;
        }
        if (!fits) {
            account->refused[resource]++;
            *why = (struct refusal){.account = i, .resource = (uint16_t)resource,
                                    .current = account->current[resource], .max = limit};
            undo(meter, leaf, i, resource, units);
            return false;
        }
        account->current[resource] += units;
        if (resource == CORE_CONCURRENCY) {
            const int64_t before = excess(account);
            account->unreserved += up;
            up = excess(account) - before;
        }
    }
    for (uint16_t i = leaf; i != METER_NONE; i = meter->accounts[i].parent) {
        struct account *account = &meter->accounts[i];
        if (account->current[resource] > account->peak[resource]) {
            account->peak[resource] = account->current[resource];
        }
    }
    return true;
}

void meter_uncharge(struct meter *meter, uint16_t leaf, enum core_resource resource, int64_t units) {
    SCHED_ASSERT(units >= 0);
    undo(meter, leaf, METER_NONE, resource, units);
}

void meter_force(struct meter *meter, uint16_t leaf, enum core_resource resource, int64_t units) {
    SCHED_ASSERT(resource != CORE_CONCURRENCY);
    for (uint16_t i = leaf; i != METER_NONE; i = meter->accounts[i].parent) {
        struct account *account = &meter->accounts[i];
        account->current[resource] += units;
        if (account->current[resource] > account->peak[resource]) {
            account->peak[resource] = account->current[resource];
        }
    }
}

bool meter_room(const struct meter *meter, uint16_t leaf, enum core_resource resource, int64_t units) {
    int64_t up = units;
    for (uint16_t i = leaf; i != METER_NONE; i = meter->accounts[i].parent) {
        const struct account *account = &meter->accounts[i];
        if (account->current[resource] + units > account->max[resource]) {
            return false;
        }
        if (resource == CORE_CONCURRENCY && up > 0) {
            if (account->unreserved + up > account->max[resource] - account->reserved) {
                return false;
            }
            struct account after = *account;
            after.unreserved += up;
            up = excess(&after) - excess(account);
        }
    }
    return true;
}

bool meter_rate(struct meter *meter, uint16_t leaf, uint64_t now_ns, struct refusal *why) {
    if (!meter->any_rate) {
        return true;
    }
    /* Look at all levels first, so that nothing has to be undone. */
    for (uint16_t i = leaf; i != METER_NONE; i = meter->accounts[i].parent) {
        struct account *account = &meter->accounts[i];
        if (account->interval_ns == 0) {
            continue;
        }
        const uint64_t tolerance = account->interval_ns == UINT64_MAX ? 0 : account->interval_ns * (account->burst - 1);
        const bool never = account->interval_ns == UINT64_MAX;
        if (never || account->tat_ns > now_ns + tolerance) {
            account->refused[CORE_RATE]++;
            *why = (struct refusal){.account = i, .resource = CORE_RATE, .current = account->max[CORE_RATE],
                                    .max = account->max[CORE_RATE],
                                    .retry_after_ns = never ? 0 : account->tat_ns - tolerance - now_ns};
            return false;
        }
    }
    for (uint16_t i = leaf; i != METER_NONE; i = meter->accounts[i].parent) {
        struct account *account = &meter->accounts[i];
        if (account->interval_ns != 0) {
            account->tat_ns = (account->tat_ns > now_ns ? account->tat_ns : now_ns) + account->interval_ns;
        }
    }
    return true;
}

void meter_cpu(struct meter *meter, uint16_t leaf, int64_t ns) {
    for (uint16_t i = leaf; i != METER_NONE; i = meter->accounts[i].parent) {
        struct account *account = &meter->accounts[i];
        int64_t sum;
        if (__builtin_add_overflow(account->current[CORE_CPU], ns, &sum)) {
            sum = INT64_MAX; /* current is never below zero, so it can only be too much */
        }
        account->current[CORE_CPU] = at_least_zero(sum);
        if (account->current[CORE_CPU] > account->peak[CORE_CPU]) {
            account->peak[CORE_CPU] = account->current[CORE_CPU];
        }
    }
}

bool meter_guaranteed(const struct meter *meter, uint16_t index) {
    const struct account *account = &meter->accounts[index];
    return account->unreserved + 1 <= account->min[CORE_CONCURRENCY] - account->reserved;
}

const char *meter_check(const struct meter *meter) {
    for (uint32_t i = 0; i < meter->count; i++) {
        const struct account *account = &meter->accounts[i];
        if (!account->used) {
            continue;
        }
        int64_t unreserved = account->current[CORE_CONCURRENCY];
        int64_t reserved = 0;
        int64_t below[CORE_RESOURCES] = {0};
        for (uint32_t j = 0; j < meter->count; j++) {
            const struct account *child = &meter->accounts[j];
            if (child->used && child->parent == i) {
                unreserved += excess(child) - child->current[CORE_CONCURRENCY];
                reserved += guarantee(child);
                for (unsigned r = 0; r < CORE_RATE; r++) { /* rates are not held, CPU may be saturated */
                    below[r] += child->current[r];
                }
            }
        }
        if (unreserved != account->unreserved || reserved != account->reserved) {
            return "meter: guarantees do not add up";
        }
        for (unsigned r = 0; r < CORE_RESOURCES; r++) {
            if (account->current[r] < 0) {
                return "meter: negative charge";
            }
            if (below[r] > account->current[r]) {
                return "meter: children hold more than their parent";
            }
        }
    }
    return NULL;
}
