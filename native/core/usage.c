/* usage.c: what the kernel says a sandbox has used, settled with what was estimated meanwhile.
 *
 * Its figures are the only ones trusted here; what a sandbox says of itself is never among them. */
#include "internal.h"

enum { CPU_BUSY_NS_MIN = 200 * 1000 };
static const uint64_t CPU_WINDOW_NS = 100 * 1000 * 1000;

/* Two years of CPU time, which no sandbox lives to use: what is more is nonsense, and would overflow virtual time. */
#define CPU_NS_MAX (1ULL << 56)

/* What the kernel's figure says of the function and of the node: is it processors that its calls wait for? */
static void learn_cpu(struct core *core, struct sandbox *sandbox, uint64_t used_ns) {
    struct function *function = &core->functions[sandbox->function];
    uint64_t busy = sandbox->busy_ns;
    sandbox->busy_ns = 0;
    if (sandbox->state == CORE_SB_BUSY) {
        busy += core->now_ns - sandbox->busy_from_ns;
        sandbox->busy_from_ns = core->now_ns;
    }
    if (!sandbox->has_usage) {
        return; /* its start is in the figure */
    }
    if (busy >= CPU_BUSY_NS_MIN) {
        const uint64_t share = used_ns >= busy ? CPU_SHARE_ONE : used_ns * CPU_SHARE_ONE / busy;
        function->cpu_share = function->cpu_known ? (uint32_t)((3 * (uint64_t)function->cpu_share + share) / 4) : (uint32_t)share;
        function->cpu_known = true;
    }
    const uint64_t elapsed = core->now_ns - core->window_from_ns;
    core->window_cpu_ns += used_ns;
    if (elapsed >= CPU_WINDOW_NS) {
        const uint64_t most = elapsed * core->config.cpus;
        core->cpu_load = core->window_cpu_ns >= most ? CPU_SHARE_ONE : (uint32_t)(core->window_cpu_ns * CPU_SHARE_ONE / most);
        core->window_from_ns = core->now_ns;
        core->window_cpu_ns = 0;
    }
}

void on_usage(struct core *core, const struct core_sandbox_event *event) {
    const uint32_t index = sandbox_find(core, event->handle);
    if (index == NONE) {
        return;
    }
    struct sandbox *sandbox = &core->sandboxes[index];
    struct function *function = &core->functions[sandbox->function];
    const uint64_t cpu_ns = min_u64(event->cpu_ns, CPU_NS_MAX);
    const uint64_t delta = saturating_sub(cpu_ns, sandbox->cpu_ns);
    const int64_t correction = (int64_t)delta - (int64_t)sandbox->cpu_estimated_ns;
    learn_cpu(core, sandbox, delta);
    if (sandbox->has_usage) {
        meter_cpu(&core->meter, function->account, correction);
        function->stats.cpu_ns = correction < 0 ? saturating_sub(function->stats.cpu_ns, (uint64_t)-correction)
                                                : function->stats.cpu_ns + (uint64_t)correction;
        if (sandbox->cpu_estimated_ns > 0) {
            settle_vtime(core, sandbox->function, correction);
        }
        sandbox->cpu_unclaimed_ns = correction > 0 ? (uint64_t)correction : 0;
        sandbox->unclaimed_settled = sandbox->cpu_estimated_ns > 0;
    } else {
        /* The first figure holds what starting cost; it is counted, but it is no call's. */
        meter_cpu(&core->meter, function->account, (int64_t)delta);
        function->stats.cpu_ns += delta;
    }
    sandbox->has_usage = 1;
    sandbox->cpu_estimated_ns = 0;
    sandbox->cpu_ns = max_u64(sandbox->cpu_ns, cpu_ns);
    sandbox->usage_ns = core->now_ns;
    sandbox->memory_peak_bytes = max_u64(sandbox->memory_peak_bytes, event->memory_peak_bytes);
}
