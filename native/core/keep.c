/* keep.c: how long an idle sandbox is kept, and which one goes first when memory is short.
 *
 * How long: by the gaps between a function's calls (Shahrad et al.: Serverless in the Wild, 2020). A gap is how long a sandbox was
 * idle before it was used again, and, after a start that a longer patience would have spared, how long ago the sandbox that
 * would have served became idle: those ended last are remembered for that (gone_ns). Else a window that is too short would never
 * see the gaps that it cuts off. Gaps below a grain are not counted: every window covers them. A window holds 99 of 100 gaps and
 * a tenth more; with few gaps, or when most lie beyond what is told apart, it is the default.
 *
 * Which one: the one that is worth least, as GreedyDual has it (Cao and Irani 1997; Fuerst and Sharma 2021): what its start costs
 * times how often its function's idle sandboxes are used, over its memory, plus the clock at the time it became idle. The clock is the worth of
 * what was ended last, so whatever lies unused for long is overtaken. Looked for among those idle for longest, for a bound of work. */
#include "internal.h"

enum { SAMPLES_MIN = 8, SAMPLES_MAX = 1024, TAIL_PER_CENT = 99 };
enum { LOOKED_AT = 128, LOOKED_FOR = 1024, SERVED_MIN = 10 };

uint32_t keep_bin(uint64_t gap_ns, uint64_t grain_ns) {
    const uint64_t steps = gap_ns / grain_ns;
    if (steps < KEEP_FINE) {
        return (uint32_t)steps;
    }
    const uint64_t coarse = steps / KEEP_FINE - 1;
    return coarse < KEEP_COARSE ? KEEP_FINE + (uint32_t)coarse : KEEP_BINS;
}

static uint64_t bin_end_ns(uint32_t bin, uint64_t grain_ns) {
    return bin < KEEP_FINE ? (bin + 1) * grain_ns : (bin - KEEP_FINE + 2) * KEEP_FINE * grain_ns;
}

static void forget_half(struct keep *keep) {
    keep->samples = 0;
    for (uint32_t i = 0; i < KEEP_BINS; i++) {
        keep->bins[i] /= 2;
        keep->samples += keep->bins[i];
    }
    keep->beyond /= 2;
}

static uint64_t window_ns(const struct core *core, const struct keep *keep) {
    if (keep->samples < SAMPLES_MIN || keep->beyond > keep->samples) {
        return core->config.idle_timeout_ns;
    }
    const uint32_t enough = (keep->samples * TAIL_PER_CENT + 99) / 100;
    uint32_t bin = 0;
    for (uint32_t sum = keep->bins[0]; sum < enough; sum += keep->bins[bin]) {
        bin++;
    }
    const uint64_t tail = bin_end_ns(bin, core->config.idle_grain_ns);
    return max_u64(core->config.idle_min_ns, min_u64(core->config.idle_max_ns, tail + tail / 10));
}

void keep_init(const struct core *core, struct keep *keep) {
    *keep = (struct keep){.window_ns = core->config.idle_timeout_ns};
}

void keep_gap(const struct core *core, struct keep *keep, uint64_t gap_ns) {
    if (gap_ns < core->config.idle_grain_ns) {
        return;
    }
    const uint32_t bin = keep_bin(gap_ns, core->config.idle_grain_ns);
    if (bin == KEEP_BINS) {
        keep->beyond++;
    } else {
        keep->bins[bin]++;
        keep->samples++;
    }
    if (keep->samples + keep->beyond >= SAMPLES_MAX) {
        forget_half(keep);
    }
    keep->window_ns = window_ns(core, keep);
}

void keep_gone(struct keep *keep, uint64_t idle_since_ns) {
    keep->gone_ns[keep->gone_next] = idle_since_ns;
    keep->gone_next = (keep->gone_next + 1) % KEEP_GONE;
    keep->gone += keep->gone < KEEP_GONE;
}

void keep_missed(const struct core *core, struct keep *keep) {
    if (keep->gone == 0) {
        return;
    }
    keep->gone--;
    keep->gone_next = (keep->gone_next + KEEP_GONE - 1) % KEEP_GONE;
    keep_gap(core, keep, saturating_sub(core->now_ns, keep->gone_ns[keep->gone_next]));
}

/* ---- worth ------------------------------------------------------------------------------------------------------------- */

static uint32_t uses_now(const struct core *core, const struct keep *keep) {
    const uint64_t halvings = (core->now_ns - keep->uses_from_ns) / KEEP_HALVE_NS;
    return halvings < 32 ? keep->uses >> halvings : 0;
}

void keep_used_halve(const struct core *core, struct keep *keep) {
    const uint64_t age = core->now_ns - keep->uses_from_ns;
    keep->uses = uses_now(core, keep);
    keep->uses_from_ns += age / KEEP_HALVE_NS * KEEP_HALVE_NS;
}

/* Of the idle sandbox that its function would miss least. A start of 15 minutes, every use counted, in 128 MB: below 2^50. */
static uint64_t worth(const struct core *core, const struct function *function, const struct sandbox *sandbox) {
    const uint64_t start_us = min_u64(function->start_ns / 1000, 1ULL << 30) + 1;
    const uint64_t spread = (uint64_t)sandbox->memory_mb * max_u64(1, function->states[CORE_SB_IDLE]);
    return saturating_add(sandbox->clock, start_us * 64 * (uses_now(core, &function->keep) + 1) / spread);
}

static bool is_under(const struct core *core, const struct function *function, uint16_t account) {
    for (uint16_t i = function->account; i != METER_NONE; i = core->accounts[i].parent) {
        if (i == account) {
            return true;
        }
    }
    return false;
}

/* The idle sandbox below `account` that is worth least and may go for `index`. One that its function has a call waiting for goes only
 * when it has served long enough that starts cost a tenth of the time at most: two functions that want the same memory shall take
 * turns, not trade a start for each call. */
static uint32_t least_worth(const struct core *core, uint32_t index, uint16_t account) {
    uint32_t best = NONE;
    uint64_t best_worth = 0;
    uint32_t looked = 0;
    for (uint32_t s = core->lru_head; s != NONE; s = core->sandboxes[s].lru_next) {
        if (looked++ >= (best == NONE ? LOOKED_FOR : LOOKED_AT)) {
            break;
        }
        const struct sandbox *sandbox = &core->sandboxes[s];
        const struct function *function = &core->functions[sandbox->function];
        if (sandbox->function == index || floor_holds(function) || !is_under(core, function, account) ||
            (function->queued - function->flush >= function->states[CORE_SB_IDLE] &&
             core->now_ns - sandbox->ready_ns < SERVED_MIN * core->functions[index].start_ns)) {
            continue;
        }
        const uint64_t its = worth(core, function, sandbox);
        if (best == NONE || its < best_worth) {
            best = s;
            best_worth = its;
        }
    }
    return best;
}

static bool evict(struct core *core, uint32_t index, uint16_t account) {
    const uint32_t victim = least_worth(core, index, account);
    if (victim == NONE) {
        return false;
    }
    struct sandbox *sandbox = &core->sandboxes[victim];
    struct function *loser = &core->functions[sandbox->function];
    struct function *function = &core->functions[index];
    core->clock = max_u64(core->clock, worth(core, loser, sandbox));
    loser->stats.evicted++;
    keep_gone(&loser->keep, sandbox->idle_since_ns);
    sandbox->evicted_for = function_handle(core, index);
    function->room++;
    function->room_mb += sandbox->memory_mb;
    core->evicting++;
    sandbox_kill(core, victim, CORE_WHY_EVICTED);
    return true;
}

bool keep_make_room(struct core *core, uint32_t index, const struct refusal *why, uint32_t wanted) {
    const struct function *function = &core->functions[index];
    const bool memory = why->resource == CORE_MEMORY;
    const uint64_t wanted_mb = (uint64_t)wanted * function->memory_mb;
    while (memory ? function->room_mb < wanted_mb : function->room < wanted) {
        if (core->evicting >= core->config.starting_max || !have_room(core) || !evict(core, index, why->account)) {
            return false;
        }
    }
    return true;
}

void keep_room_made(struct core *core, struct sandbox *sandbox) {
    if (sandbox->why != CORE_WHY_EVICTED || sandbox->evicted_for == 0) {
        return;
    }
    struct function *function = &core->functions[(uint32_t)sandbox->evicted_for];
    if (function->used && function->generation == (uint32_t)(sandbox->evicted_for >> 32)) {
        SCHED_ASSERT(function->room > 0 && function->room_mb >= sandbox->memory_mb);
        function->room--;
        function->room_mb -= sandbox->memory_mb;
    }
    SCHED_ASSERT(core->evicting > 0);
    core->evicting--;
    sandbox->evicted_for = 0;
}

const char *keep_check(const struct core *core) {
    uint32_t listed = 0;
    uint32_t idle = 0;
    uint32_t evicting = 0;
    for (uint32_t s = core->lru_head; s != NONE; s = core->sandboxes[s].lru_next) {
        if (core->sandboxes[s].state != CORE_SB_IDLE || ++listed > core->config.sandboxes_max) {
            return "keep: the list of idle sandboxes holds another";
        }
    }
    uint32_t room_of_all = 0;
    for (uint32_t s = 0; s < core->config.sandboxes_max; s++) {
        const struct sandbox *sandbox = &core->sandboxes[s];
        if (sandbox->state == CORE_SB_DYING && sandbox->evicted_for != 0) {
            const struct function *function = &core->functions[(uint32_t)sandbox->evicted_for];
            evicting++;
            room_of_all += function->used && function->generation == (uint32_t)(sandbox->evicted_for >> 32);
        }
    }
    for (uint32_t i = 0; i < core->config.functions_max; i++) {
        const struct function *function = &core->functions[i];
        if (!function->used) {
            continue;
        }
        idle += function->states[CORE_SB_IDLE];
        uint32_t samples = 0;
        for (uint32_t k = 0; k < KEEP_BINS; k++) {
            samples += function->keep.bins[k];
        }
        const uint64_t window = function->keep.window_ns;
        if (samples != function->keep.samples || samples + function->keep.beyond >= SAMPLES_MAX) {
            return "keep: gaps do not add up";
        }
        if (window != core->config.idle_timeout_ns &&
            (window < core->config.idle_min_ns || window > core->config.idle_max_ns)) {
            return "keep: window out of bounds";
        }
        uint32_t room = 0;
        uint64_t room_mb = 0;
        room_of_all -= function->room;
        for (uint32_t s = 0; s < core->config.sandboxes_max && function->room > 0; s++) {
            const struct sandbox *sandbox = &core->sandboxes[s];
            if (sandbox->state == CORE_SB_DYING && sandbox->evicted_for == function_handle(core, i)) {
                room++;
                room_mb += sandbox->memory_mb;
            }
        }
        if (room != function->room || room_mb != function->room_mb) {
            return "keep: room that is being made does not add up";
        }
    }
    if (room_of_all != 0) {
        return "keep: room for nobody";
    }
    return listed != idle ? "keep: idle sandboxes off their list" : evicting != core->evicting ? "keep: evicted count" : NULL;
}
