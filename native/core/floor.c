/* floor.c: sandboxes that are made although no call waits for one: those that are provisioned, and those that replace worn ones.
 *
 * Provisioned is a number, not a property of a sandbox: of all that serve a function's revision the first so many are. While
 * there are fewer, more are started; while there are no more, none is ended for being idle or for its memory. A call that runs
 * while no more than so many work is within it, any other has spilled over. A start that fails is tried again after a pause that
 * doubles; one that finds no memory is tried again when some comes back.
 *
 * A sandbox is worn once it has served so many calls or is so old, each at a place of its own in the last eighth, so that not all
 * go at once. It serves on until another is ready that was made for it; at the very end of its time it goes without. */
#include "internal.h"

static const uint64_t PAUSE_FIRST_NS = 1000ULL * 1000 * 1000;
static const uint64_t PAUSE_MAX_NS = 60ULL * 1000 * 1000 * 1000;
static const uint64_t REPLACE_AGAIN_NS = 1000ULL * 1000 * 1000;
enum { RECENT_GRAINS = 10 };

/* Ready, of the serving revision, and not about to be replaced. */
static uint32_t floor_ready(const struct function *function) {
    return function->states[CORE_SB_IDLE] + function->states[CORE_SB_BUSY] - function->worn;
}

bool floor_holds(const struct function *function) {
    return function->floor > 0 && floor_ready(function) <= function->floor;
}

uint32_t floor_available(const struct function *function) {
    return floor_ready(function) < function->floor ? floor_ready(function) : function->floor;
}

uint32_t floor_allocated(const struct function *function) {
    const uint32_t all = floor_ready(function) + function->coming;
    return all < function->floor ? all : function->floor;
}

void floor_set(struct core *core, uint32_t index, uint32_t floor) {
    struct function *function = &core->functions[index];
    if (function->floor != floor) {
        core->idle_appeared |= floor < function->floor; /* one that was held may go now */
        function->floor = floor;
        function->floor_pause_ns = function->floor_retry_ns = 0;
        function->floor_failure = CORE_FLOOR_NONE;
        if (floor > 0 && !function->floor_listed) {
            function->floor_listed = true;
            function->floor_next = core->floor_head;
            core->floor_head = index;
        }
    }
    core->floors_due |= floor > 0; /* with another memory more may fit */
}

void floor_forget(struct core *core, uint32_t index) {
    struct function *function = &core->functions[index];
    wheel_disarm(&core->wheel, function_timer(core, index));
    if (!function->floor_listed) {
        return;
    }
    uint32_t *link = &core->floor_head;
    while (*link != index) {
        SCHED_ASSERT(*link != NONE);
        link = &core->functions[*link].floor_next;
    }
    *link = function->floor_next;
    function->floor_listed = false;
}

void floor_failed(struct core *core, uint32_t index) {
    struct function *function = &core->functions[index];
    if (function->floor == 0) {
        return;
    }
    function->floor_failure = CORE_FLOOR_INIT;
    function->floor_pause_ns = function->floor_pause_ns == 0 ? PAUSE_FIRST_NS : min_u64(2 * function->floor_pause_ns, PAUSE_MAX_NS);
    function->floor_retry_ns = core->now_ns + function->floor_pause_ns;
    wheel_arm(&core->wheel, function_timer(core, index), function->floor_retry_ns);
}

static void fill(struct core *core, uint32_t index) {
    struct function *function = &core->functions[index];
    uint32_t refused = 0;
    while (have_room(core) && floor_ready(function) + function->coming + refused < function->floor &&
           function->coming + refused < core->config.starting_max) {
        struct refusal why;
        const uint32_t made = sandbox_request(core, index, function->revision, true, &why);
        if (made != NONE) {
            if (function->worn > function->replacing) {
                core->sandboxes[made].replaces = 1;
                function->replacing++;
            }
            continue;
        }
        function->floor_failure = why.resource == CORE_MEMORY ? CORE_FLOOR_MEMORY : CORE_FLOOR_SANDBOXES;
        function->floor_account = why.account;
        wanting_add(core, index);
        if (!keep_make_room(core, index, &why, ++refused)) {
            break;
        }
    }
}

void floors_fill(struct core *core) {
    if (!core->floors_due || core->draining) {
        return;
    }
    for (uint32_t i = core->floor_head; i != NONE; i = core->functions[i].floor_next) {
        struct function *function = &core->functions[i];
        if (!have_room(core)) {
            return; /* still due: the rest in the next step */
        }
        if (function->floor > 0 && !function->removing && function->retire_why == CORE_WHY_NONE &&
            core->now_ns >= function->floor_retry_ns) {
            fill(core, i);
        }
    }
    core->floors_due = !have_room(core);
}

void function_timer_fired(struct core *core, uint32_t index) {
    (void)index;
    core->floors_due = true;
}

/* ---- worn sandboxes ---------------------------------------------------------------------------------------------------- */

/* Where in the last eighth of its time a sandbox is worn: from its number, so that a run can be repeated. */
static uint64_t within_eighth(uint64_t most, uint64_t handle) {
    uint64_t mixed = handle * 0x9e3779b97f4a7c15ULL;
    mixed ^= mixed >> 32;
    return most - most / 8 + mixed % (most / 8 + 1);
}

void wear_init(const struct core *core, uint32_t index) {
    struct sandbox *sandbox = &core->sandboxes[index];
    const uint64_t handle = sandbox_handle(core, index);
    const uint64_t age = core->config.age_max_ns;
    const uint32_t calls = core->config.sandbox_calls_max;
    sandbox->worn_at_ns = age == 0 ? UINT64_MAX : saturating_add(core->now_ns, within_eighth(age, handle));
    sandbox->end_at_ns = age == 0 ? UINT64_MAX : saturating_add(core->now_ns, age);
    sandbox->worn_calls = calls == 0 ? UINT64_MAX : max_u64(1, within_eighth(calls, handle));
}

bool wear(struct core *core, uint32_t index) {
    struct sandbox *sandbox = &core->sandboxes[index];
    struct function *function = &core->functions[sandbox->function];
    if (core->now_ns >= sandbox->end_at_ns ||
        (core->config.sandbox_calls_max != 0 && sandbox->served >= core->config.sandbox_calls_max)) {
        return false;
    }
    if (!sandbox->worn) {
        sandbox->worn = 1;
        function->worn++;
        core->floors_due |= function->floor > 0;
    }
    if (function->replacing < function->worn && function->coming == 0 && core->now_ns >= function->replace_ns &&
        !function->removing && function->retire_why == CORE_WHY_NONE && !core->draining) {
        struct refusal why;
        const uint32_t made = sandbox_request(core, sandbox->function, function->revision, true, &why);
        function->replace_ns = core->now_ns + REPLACE_AGAIN_NS;
        if (made != NONE) {
            core->sandboxes[made].replaces = 1;
            function->replacing++;
        }
    }
    return true;
}

void wear_replaced(struct core *core, uint32_t index) {
    struct sandbox *sandbox = &core->sandboxes[index];
    const struct function *function = &core->functions[sandbox->function];
    if (!sandbox->replaces) {
        return;
    }
    sandbox->replaces = 0;
    for (uint32_t s = function->state_heads[CORE_SB_IDLE]; s != NONE; s = core->sandboxes[s].next) {
        if (core->sandboxes[s].worn) {
            sandbox_retire(core, s, CORE_WHY_RECYCLED);
            return;
        }
    }
    for (uint32_t k = 0; k <= CORE_AHEAD_MAX; k++) {
        for (uint32_t s = function->busy_heads[k]; s != NONE; s = core->sandboxes[s].next) {
            if (core->sandboxes[s].worn) {
                sandbox_retire(core, s, CORE_WHY_RECYCLED);
                return;
            }
        }
    }
}

/* ---- the end of an idle one -------------------------------------------------------------------------------------------- */

void idle_timer_fired(struct core *core, uint32_t index) {
    struct sandbox *sandbox = &core->sandboxes[index];
    struct function *function = &core->functions[sandbox->function];
    if (core->now_ns >= sandbox->worn_at_ns) {
        /* Where nobody would miss it no other is made in its place. */
        const bool missed = core->now_ns - sandbox->idle_since_ns < RECENT_GRAINS * core->config.idle_grain_ns || floor_holds(function) || sandbox->worn;
        if (!missed || !wear(core, index)) {
            sandbox_kill(core, index, CORE_WHY_RECYCLED);
            return;
        }
    }
    uint64_t due = idle_due_ns(core, sandbox);
    if (due <= core->now_ns) {
        if (!floor_holds(function)) {
            keep_gone(&function->keep, sandbox->idle_since_ns);
            sandbox_kill(core, index, CORE_WHY_IDLE);
            return;
        }
        const uint64_t age = sandbox->worn ? sandbox->end_at_ns : sandbox->worn_at_ns;
        due = min_u64(age, core->now_ns + function->keep.window_ns);
    }
    wheel_arm(&core->wheel, sandbox_timer(core, index), due);
}

const char *floor_check(const struct core *core) {
    uint32_t listed = 0;
    uint32_t floors = 0;
    uint32_t all_worn = 0;
    uint32_t all_replacing = 0;
    for (uint32_t s = 0; s < core->config.sandboxes_max; s++) {
        const struct sandbox *sandbox = &core->sandboxes[s];
        if (sandbox->state == CORE_SB_FREE) {
            continue;
        }
        all_worn += sandbox->worn;
        all_replacing += sandbox->replaces && sandbox->state == CORE_SB_STARTING;
        if (sandbox->worn && sandbox->state != CORE_SB_IDLE && sandbox->state != CORE_SB_BUSY) {
            return "floor: one that ends is worn";
        }
    }
    for (uint32_t i = core->floor_head; i != NONE; i = core->functions[i].floor_next) {
        if (!core->functions[i].floor_listed || ++listed > core->config.functions_max) {
            return "floor: list of those with provisioned sandboxes";
        }
    }
    for (uint32_t i = 0; i < core->config.functions_max; i++) {
        const struct function *function = &core->functions[i];
        if (!function->used) {
            continue;
        }
        floors += function->floor_listed;
        uint32_t worn = 0;
        uint32_t replacing = 0;
        all_worn -= function->worn;
        all_replacing -= function->replacing;
        for (uint32_t s = 0; s < core->config.sandboxes_max && function->worn + function->replacing > 0; s++) {
            const struct sandbox *sandbox = &core->sandboxes[s];
            if (sandbox->function == i && sandbox->state != CORE_SB_FREE) {
                worn += sandbox->worn;
                replacing += sandbox->replaces && sandbox->state == CORE_SB_STARTING;
            }
        }
        if (worn != function->worn || replacing != function->replacing || (function->floor > 0 && !function->floor_listed)) {
            return "floor: counts of a function";
        }
    }
    if (all_worn != 0 || all_replacing != 0) {
        return "floor: worn ones of nobody";
    }
    return listed == floors ? NULL : "floor: a function off the list";
}
