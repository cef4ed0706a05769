/* ring.c: which of the calls in a sandbox' ring has begun. */
#include "internal.h"

uint32_t ring_running(const struct sandbox *sandbox) {
    if (sandbox->backlog == 0) {
        return sandbox->head_seq - 1;
    }
    const uint32_t offset = sandbox->started_seq - sandbox->head_seq;
    return offset < sandbox->backlog ? sandbox->started_seq : sandbox->head_seq;
}

/* A sandbox may end between two calls, with the next one in its channel: its last word then tells that it has not begun it. That call
 * is run elsewhere, but once only, since a function whose sandboxes all end like this would have them made without end. */
uint32_t ring_begun(struct core *core, uint32_t index) {
    const struct sandbox *sandbox = &core->sandboxes[index];
    if (sandbox->backlog == 0 || !sandbox->last_word || sandbox->started_seq + 1 != sandbox->head_seq) {
        return ring_running(sandbox);
    }
    const uint32_t c = ring_at(sandbox, sandbox->head_seq);
    if (c == NONE || core->calls[c].bereft) {
        return sandbox->head_seq;
    }
    core->calls[c].bereft = 1;
    return sandbox->started_seq;
}
