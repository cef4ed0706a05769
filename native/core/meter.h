/* meter.h: the account tree, in the manner of Linux's page_counter: charge from the leaf to the root, undo on refusal, and
 * name the account and resource that refused.
 *
 * Guarantees (`min`, concurrency only). An account with min m holds m units out of its parent's pool whether it uses them
 * or not, as Lambda's reserved concurrency does. A charge within a guarantee needs room only in what was set aside; a
 * charge beyond it needs room in the parent's unreserved part: max - sum of the children's guarantees. `unreserved` counts the
 * units in an account that are not covered by a guarantee further down.
 *
 * Rates are GCRA (ITU-T I.371): one theoretical arrival time, no refill task, retry-after for free.
 */
#ifndef SCHED_METER_H
#define SCHED_METER_H

#include <stdbool.h>
#include <stdint.h>

#include "core.h"

#define METER_NONE CORE_NO_ACCOUNT

struct account {
    bool used;
    bool blocked;      /* somebody waits for concurrency here: set by the dispatcher, cleared when a unit comes back */
    uint16_t parent;
    uint16_t children;
    uint16_t functions; /* functions that are charged here directly */
    uint32_t weight;
    int64_t current[CORE_RESOURCES];
    int64_t max[CORE_RESOURCES];
    int64_t min[CORE_RESOURCES];
    int64_t peak[CORE_RESOURCES];
    uint64_t refused[CORE_RESOURCES];
    int64_t unreserved; /* concurrency not covered by guarantees below */
    int64_t reserved;   /* sum of the children's guarantees: max(own min, own reserved) of each */
    uint64_t tat_ns;    /* GCRA: theoretical arrival time */
    uint64_t interval_ns; /* 0: no rate limit */
    uint32_t burst;
};

struct meter {
    struct account *accounts;
    uint32_t count; /* capacity */
    bool any_rate;
};

struct refusal {
    uint16_t account;
    uint16_t resource;
    int64_t current;
    int64_t max;
    uint64_t retry_after_ns; /* rates only, else 0 */
};

void meter_init(struct meter *meter, struct account *accounts, uint32_t count);
/* false: index or parent impossible, or the tree would have a cycle; nothing changed. */
bool meter_put(struct meter *meter, const struct core_account_event *put);
/* false: has children, functions or charges. */
bool meter_remove(struct meter *meter, uint16_t index);

/* All or nothing. `why` is valid only on false. O(depth). */
bool meter_charge(struct meter *meter, uint16_t account, enum core_resource resource, int64_t units,
                  struct refusal *why);
void meter_uncharge(struct meter *meter, uint16_t account, enum core_resource resource, int64_t units);
/* As charge, but never refused: for what was admitted before and comes back. */
void meter_force(struct meter *meter, uint16_t account, enum core_resource resource, int64_t units);
/* As charge, without charging. */
bool meter_room(const struct meter *meter, uint16_t account, enum core_resource resource, int64_t units);
/* One call more at now_ns, at every level with a rate. */
bool meter_rate(struct meter *meter, uint16_t account, uint64_t now_ns, struct refusal *why);
/* Cumulative CPU; units may be negative when an estimate is settled. Never refused here. */
void meter_cpu(struct meter *meter, uint16_t account, int64_t ns);
/* True if the next unit of concurrency would be within the account's own guarantee. */
bool meter_guaranteed(const struct meter *meter, uint16_t account);
const char *meter_check(const struct meter *meter);

#endif
