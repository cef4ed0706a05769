/* start.c: starts that fail.
 *
 * As Lambda: an init that fails or takes longer than init_timeout_ns is tried once more, for the call that waits and within that call's
 * timeout, in a fresh sandbox. So a function whose init takes longer than the limit can be used if its timeout allows it, and one that
 * fails by chance is not noticed. Where the second attempt fails too the call is told, and until a start goes well there is but one
 * attempt for a call, the second kind. Provisioned sandboxes have more time, and are tried again by floor.c. */
#include "internal.h"

uint64_t start_limit_ns(struct core *core, uint32_t index, bool provisioned) {
    struct sandbox *sandbox = &core->sandboxes[index];
    struct function *function = &core->functions[sandbox->function];
    if (provisioned || sandbox->revision != function->revision) {
        return provisioned && function->floor > 0 && sandbox->revision == function->revision
                   ? max_u64(core->config.provisioned_init_timeout_ns, function->timeout_ns) : core->config.init_timeout_ns;
    }
    const uint32_t waiting = function->queued - function->flush;
    function->again = function->again < waiting ? function->again : waiting;
    if (!function->broken && function->again == 0) {
        return core->config.init_timeout_ns;
    }
    sandbox->again = 1;
    function->again -= function->again > 0;
    return function->timeout_ns;
}

void start_went_well(struct core *core, uint32_t index) {
    const struct sandbox *sandbox = &core->sandboxes[index];
    struct function *function = &core->functions[sandbox->function];
    if (sandbox->revision == function->revision) {
        function->broken = false;
        function->again = 0;
    }
}

void start_told(struct core *core, uint32_t index) {
    struct sandbox *sandbox = &core->sandboxes[index];
    struct function *function = &core->functions[sandbox->function];
    if (sandbox->untold && sandbox->revision == function->revision && function->untold > 0) {
        function->untold--;
    }
    sandbox->untold = 0;
}

void start_forget(struct core *core, uint32_t index) {
    core->functions[index].broken = false;
    core->functions[index].again = 0;
    core->functions[index].untold = 0;
}

bool start_forgiven(struct core *core, uint32_t index) {
    const struct sandbox *sandbox = &core->sandboxes[index];
    struct function *function = &core->functions[sandbox->function];
    function->broken |= sandbox->again;
    if (sandbox->again || function->broken || sandbox->revision != function->revision) {
        return false;
    }
    if (function->coming + function->again < function->queued - function->flush) {
        function->again++; /* for others one is coming */
    }
    return true;
}

/* Calls that waited for this sandbox: each failed start takes one, the last one takes all. */
void start_failed(struct core *core, uint32_t index, uint8_t cause, int32_t status) {
    const struct sandbox *sandbox = &core->sandboxes[index];
    const uint32_t fn = sandbox->function;
    const struct function *function = &core->functions[fn];
    const uint32_t live = function->states[CORE_SB_IDLE] + function->states[CORE_SB_BUSY];
    const uint32_t waiting = function->queued - function->flush;
    if (sandbox->revision != function->revision || live > 0 || waiting == 0) {
        return;
    }
    const bool late = sandbox->again && sandbox->why == CORE_WHY_INIT_TIMEOUT;
    function_flush(core, fn, function->coming + function->again > 0 ? 1 : waiting, late ? CORE_TIMEOUT : CORE_INIT_FAILED, cause, status);
}

void start_first_call(struct core *core, uint32_t index) {
    struct sandbox *sandbox = &core->sandboxes[index];
    if (!sandbox->again) {
        return;
    }
    struct call *call = &core->calls[sandbox->ring[sandbox->head_seq % CORE_AHEAD_MAX]];
    sandbox->again = 0;
    sandbox->again_ns = max_u64(call->arrive_ns, sandbox->requested_ns);
    call->init_ns = 0; /* it is within the call's own time */
    sandbox->first_since_ns = sandbox->again_ns;
    sandbox->overrun_ns += core->now_ns - sandbox->again_ns;
}

bool core_sandbox_again(const struct core *core, uint64_t handle) {
    const uint32_t index = (uint32_t)handle;
    return index < core->config.sandboxes_max && core->sandboxes[index].generation == (uint32_t)(handle >> 32) &&
           core->sandboxes[index].again != 0;
}
