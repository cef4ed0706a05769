/* test_no_alloc.c: a step of the core, a frame read and a letter passed allocate nothing: the linker puts these counters in the
 * allocator's place (see the Makefile). What allocates by contract must be counted, or the test would prove nothing. */
#include "driver.h"
#include "mailbox.h"
#include "rpc.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void __real_free(void *old);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void __wrap_free(void *old);

static uint64_t allocator_calls;

void *__wrap_malloc(size_t size) {
    allocator_calls++;
    return __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size) {
    allocator_calls++;
    return __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size) {
    allocator_calls++;
    return __real_realloc(old, size);
}

void __wrap_free(void *old) {
    allocator_calls++;
    __real_free(old);
}

/* Traffic of all kinds: cold starts, queueing ahead, refusals, deaths, time-outs, deployments, a drain. */
static void test_core_step(void) {
    struct core_config config = small_config();
    allocator_calls = 0;
    struct driver driver = driver_new(&config);
    SCHED_ASSERT(allocator_calls > 0);
    struct core_account_event account = account_event(1, 0);
    account.max[CORE_CONCURRENCY] = 3;
    account.max[CORE_QUEUED_CALLS] = 40;
    put_account(&driver, account);
    put_function(&driver, function_event(1, 1));
    uint64_t sandboxes[16] = {0};
    uint32_t seqs[16] = {0}; /* of the oldest unanswered call */
    uint32_t unanswered[16] = {0};
    uint64_t seed = 11, kinds[CORE_ACT_QUEUED + 1] = {0}, outcomes[CORE_OUTCOMES] = {0};
    allocator_calls = 0;
    for (int step = 0; step < 20000; step++) {
        driver.now_ns += random_below(&seed, 1000 * 1000);
        const uint64_t dice = random_below(&seed, 1000);
        size_t slot = random_below(&seed, 16);
        for (size_t i = 0; dice >= 505 && dice < 900 && unanswered[slot] == 0 && i < 16; i++) {
            slot = (slot + 1) % 16; /* most answers are to a call */
        }
        const struct core_sandbox_event about = {.handle = sandboxes[slot], .cause = CORE_CAUSE_EXIT};
        if (dice < 500) {
            invoke(&driver, 1ULL << 32 | (dice & 1), (uint64_t)step);
        } else if (dice < 900) {
            reply(&driver, sandboxes[slot], seqs[slot], CORE_REPLY_OK);
        } else if (dice < 990) {
            tell_sandbox(&driver, CORE_EV_SANDBOX_READY, about);
        } else if (dice < 996) {
            tell_sandbox(&driver, CORE_EV_SANDBOX_REAPED, about);
        } else {
            const struct core_function_event revision = {.handle = 1ULL << 32, .revision = (uint32_t)dice};
            drive(&driver, &(struct core_event){.kind = CORE_EV_FUNCTION_SWITCH, .u.function = revision}, 1);
        }
        for (size_t i = 0; i < driver.count; i++) {
            const struct core_action *action = &driver.actions[i];
            kinds[action->kind]++;
            if (action->kind == CORE_ACT_NEED) {
                sandboxes[(uint32_t)action->sandbox] = action->sandbox;
                seqs[(uint32_t)action->sandbox] = 1;
                unanswered[(uint32_t)action->sandbox] = 0;
            } else if (action->kind == CORE_ACT_SEND) {
                unanswered[(uint32_t)action->sandbox]++;
            } else if (action->kind == CORE_ACT_KILL) {
                unanswered[(uint32_t)action->sandbox] = 0;
            } else if (action->kind == CORE_ACT_ANSWER) {
                outcomes[action->outcome]++;
                if (action->outcome == CORE_OK) {
                    seqs[(uint32_t)action->sandbox]++;
                    unanswered[(uint32_t)action->sandbox]--;
                }
            }
        }
    }
    drive(&driver, &(struct core_event){.kind = CORE_EV_DRAIN, .u.drain.deadline_ns = driver.now_ns}, 1);
    wait_ns(&driver, SECOND);
    SCHED_ASSERT(allocator_calls == 0);
    SCHED_ASSERT(kinds[CORE_ACT_SEND] > 500 && kinds[CORE_ACT_NEED] > 50 && kinds[CORE_ACT_KILL] > 50 && kinds[CORE_ACT_FREED] > 20);
    SCHED_ASSERT(outcomes[CORE_OK] > 200 && outcomes[CORE_THROTTLED] > 50 && outcomes[CORE_SANDBOX_DIED] > 5);
    core_free(driver.core);
    SCHED_ASSERT(allocator_calls > 0);
}

static void test_rpc_read(void) {
    static const char bytes[] = "\x94\x00\x05\xa6invoke\x93\xa1x\x93\x01\x02\x90\x81\xa6report\x05";
    const struct rpc_limits limits = {.frame_bytes_max = 1024};
    struct rpc_scan scan = {0};
    struct rpc_request request;
    enum rpc_verdict verdict = RPC_MORE;
    allocator_calls = 0;
    for (size_t given = 0; verdict == RPC_MORE; given++) {
        verdict = rpc_read(&scan, (const uint8_t *)bytes, given, &limits, &request);
    }
    SCHED_ASSERT(verdict == RPC_BAD && allocator_calls == 0);
}

static void test_mailbox(void) {
    struct mailbox box;
    uint64_t item = 5;
    allocator_calls = 0;
    SCHED_ASSERT(mailbox_init(&box, 4, sizeof item) == 0 && allocator_calls == 1);
    SCHED_ASSERT(mailbox_push(&box, &item) && mailbox_pop(&box, &item) && mailbox_sleep(&box));
    mailbox_ring(&box);
    mailbox_wake(&box);
    SCHED_ASSERT(allocator_calls == 1);
    mailbox_free(&box);
}

int main(void) {
    RUN(test_core_step);
    RUN(test_rpc_read);
    RUN(test_mailbox);
    return 0;
}
