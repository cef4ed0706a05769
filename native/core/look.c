/* look.c: looking into the core without changing it: its invariants and the figures of accounts, functions and sandboxes. */
#include <string.h>

#include "internal.h"

const char *core_check(const struct core *core) {
    const char *broken = wheel_check(&core->wheel);
    if (broken == NULL) {
        broken = meter_check(&core->meter);
    }
    if (broken == NULL) {
        broken = pool_check(core);
    }
    if (broken == NULL) {
        broken = keep_check(core);
    }
    if (broken == NULL) {
        broken = floor_check(core);
    }
    if (broken == NULL) {
        broken = fair_check(&core->ready_tenants, core->tenant_nodes, core->config.accounts_max);
    }
    if (broken != NULL) {
        return broken;
    }
    uint32_t live = 0;
    for (uint32_t i = 0; i < core->config.calls_max; i++) {
        live += core->calls[i].state != CALL_FREE;
    }
    if (live != core->totals.calls) {
        return "core: call count";
    }
    for (uint32_t i = 0; i < core->config.functions_max; i++) {
        const struct function *function = &core->functions[i];
        if (!function->used) {
            continue;
        }
        uint32_t queued = 0;
        uint32_t excused = 0;
        uint32_t flushing = 0;
        uint32_t prev = NONE;
        for (uint32_t c = function->queue_head; c != NONE; c = core->calls[c].next) {
            if (core->calls[c].state != CALL_QUEUED || core->calls[c].prev != prev || core->calls[c].function != i) {
                return "core: broken queue";
            }
            if (flushing != queued && core->calls[c].flushing) {
                return "core: calls to be flushed are not a prefix of their queue";
            }
            prev = c;
            excused += core->calls[c].excused;
            flushing += core->calls[c].flushing;
            if (++queued > core->config.calls_max) {
                return "core: cycle in a queue";
            }
        }
        if (queued != function->queued || prev != function->queue_tail || excused != function->excused ||
            flushing != function->flush) {
            return "core: queue count";
        }
        const char *heap = fair_check(&core->tenants[tenant_of(core, i)].ready, core->function_nodes,
                                      core->config.functions_max);
        if (heap != NULL) {
            return heap;
        }
    }
    return NULL;
}

bool core_account_stats(const struct core *core, uint16_t index, struct core_account_stats *out) {
    if (index >= core->config.accounts_max || !core->accounts[index].used) {
        return false;
    }
    const struct account *account = &core->accounts[index];
    *out = (struct core_account_stats){.index = index, .parent = account->parent, .weight = account->weight};
    memcpy(out->current, account->current, sizeof out->current);
    memcpy(out->max, account->max, sizeof out->max);
    memcpy(out->min, account->min, sizeof out->min);
    memcpy(out->peak, account->peak, sizeof out->peak);
    memcpy(out->refused, account->refused, sizeof out->refused);
    return true;
}

bool core_function_stats(const struct core *core, uint32_t index, uint64_t now_ns, struct core_function_stats *out) {
    if (index >= core->config.functions_max || !core->functions[index].used) {
        return false;
    }
    const struct function *function = &core->functions[index];
    *out = function->stats;
    out->handle = function_handle(core, index);
    out->account = function->account;
    out->revision = function->revision;
    out->oldest_ns = function->queue_head == NONE
                         ? 0 : saturating_sub(now_ns, core->calls[function->queue_head].arrive_ns);
    out->expected_run_ns = function->run_ns;
    out->expected_start_ns = function->start_ns;
    out->queued = function->queued;
    out->in_flight = function->in_flight;
    out->executing = function->states[CORE_SB_BUSY] + function->states[CORE_SB_DRAINING];
    memcpy(out->sandboxes, function->states, sizeof out->sandboxes);
    out->provisioned = function->floor;
    out->provisioned_allocated = floor_allocated(function);
    out->provisioned_available = floor_available(function);
    out->provisioned_failure = out->provisioned_available < function->floor ? function->floor_failure : CORE_FLOOR_NONE;
    out->provisioned_account = function->floor_account;
    out->keep_ns = function->keep.window_ns;
    out->keep_samples = function->keep.samples;
    return true;
}

void core_totals(const struct core *core, struct core_totals *out) {
    *out = core->totals;
}

bool core_sandbox_state(const struct core *core, uint64_t sandbox, uint32_t *state, uint64_t *function) {
    const uint32_t index = (uint32_t)sandbox;
    if (index >= core->config.sandboxes_max || core->sandboxes[index].state == CORE_SB_FREE ||
        core->sandboxes[index].generation != (uint32_t)(sandbox >> 32)) {
        return false;
    }
    *state = core->sandboxes[index].state;
    *function = function_handle(core, core->sandboxes[index].function);
    return true;
}
