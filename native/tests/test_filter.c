/* test_filter.c: the program that filter.c assembles says what calls.c says. An interpreter of the kernel's classic BPF, written from
 * its description and not from the assembler, runs the program for every number there is or may come to be, with the arguments that
 * each rule asks for and those beside them; the expected answer is worked out from the table, rule by rule.
 *
 * Beside it a few lines that do not come from the table: doors that must be shut and calls that must be free whatever happens to it.
 */
#include "harness.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>

#include "calls.h"
#include "filter.h"

enum { NUMBERS_TRIED = 600, STEPS_RUN_MAX = 64, BITMAP_STEPS_MAX = 24 };

#if defined(__x86_64__)
static const uint32_t native = AUDIT_ARCH_X86_64;
#else
static const uint32_t native = AUDIT_ARCH_AARCH64;
#endif

static const struct filter profiles[] = {{true, true}, {true, false}, {false, true}, {false, false}};
enum { PROFILES = sizeof profiles / sizeof *profiles };

static struct sock_filter program[FILTER_STEPS_MAX];
static unsigned program_count;

struct run {
    uint32_t verdict;
    unsigned steps;
    bool looked_at_arguments;
};

/* ---- the interpreter ---- */

static struct run interpret(const struct seccomp_data *data) {
    struct run run = {0, 0, false};
    uint32_t accumulator = 0;
    for (unsigned at = 0;; run.steps++) {
        SCHED_ASSERT(at < program_count);
        const struct sock_filter step = program[at++];
        switch (step.code) {
        case BPF_LD | BPF_W | BPF_ABS:
            SCHED_ASSERT(step.k % 4 == 0 && step.k < sizeof *data);
            memcpy(&accumulator, (const char *)data + step.k, sizeof accumulator);
            run.looked_at_arguments = run.looked_at_arguments || step.k >= offsetof(struct seccomp_data, args);
            break;
        case BPF_JMP | BPF_JA:
            at += step.k;
            break;
        case BPF_JMP | BPF_JEQ | BPF_K:
            at += accumulator == step.k ? step.jt : step.jf;
            break;
        case BPF_JMP | BPF_JGE | BPF_K:
            at += accumulator >= step.k ? step.jt : step.jf;
            break;
        case BPF_JMP | BPF_JSET | BPF_K:
            at += (accumulator & step.k) != 0 ? step.jt : step.jf;
            break;
        case BPF_RET | BPF_K:
            run.verdict = step.k;
            return run;
        default:
            SCHED_ASSERT(!"a step that the assembler has no word for");
        }
    }
}

static struct run ask(uint32_t number, const uint64_t *arguments) {
    struct seccomp_data data = {.nr = (int)number, .arch = native};
    if (arguments != NULL) {
        memcpy(data.args, arguments, sizeof data.args);
    }
    return interpret(&data);
}

static void assemble(const struct filter *filter) {
    const int count = filter_assemble(filter, program);
    SCHED_ASSERT(count > 0 && count <= FILTER_STEPS_MAX);
    program_count = (unsigned)count;
}

/* ---- what the table says ---- */

static bool in_force(const struct rule *rule, const struct filter *filter) {
    return rule->when == ALWAYS_WHEN || (rule->when == EPHEMERAL && filter->ephemeral) ||
           (rule->when == DESCRIPTORS_TRAVEL && !filter->linger);
}

static bool holds(const struct test *test, const uint64_t *arguments) {
    const uint32_t low = (uint32_t)arguments[test->argument];
    return test->how == HOW_NONE || (test->how == HOW_EQUAL && low == test->value) ||
           (test->how == HOW_ANY_BIT && (low & test->value) != 0) || (test->how == HOW_NULL && arguments[test->argument] == 0);
}

static const struct call *row_of(uint32_t number) {
    const struct call *found = NULL;
    for (unsigned i = 0; i < calls_count; i++) {
        if (calls[i].number == number) {
            SCHED_ASSERT(found == NULL);
            found = &calls[i];
        }
    }
    return found;
}

static uint32_t expected(uint32_t number, const uint64_t *arguments, const struct filter *filter) {
    const struct call *call = row_of(number);
    int answer = call == NULL ? ENOSYS : call->otherwise;
    for (unsigned i = 0; call != NULL && i < call->count; i++) {
        const struct rule *rule = &call->rules[i];
        bool all = in_force(rule, filter);
        for (unsigned t = 0; t < TESTS_MAX && all; t++) {
            all = holds(&rule->tests[t], arguments);
        }
        if (all) {
            answer = rule->answer;
            break;
        }
    }
    return answer == PASS ? SECCOMP_RET_ALLOW : SECCOMP_RET_ERRNO | (uint32_t)answer;
}

/* ---- tests ---- */

/* Values of each argument that some rule of the call asks for, those beside them, one bit more, and the same with a high half. */
static void try_rules(const struct call *call, const struct filter *filter) {
    enum { VALUES = 5, ARGUMENTS = 6 };
    for (unsigned i = 0; i < call->count; i++) {
        for (unsigned j = 0; j < call->count; j++) {
            const struct test *first = &call->rules[i].tests[0], *second = &call->rules[j].tests[1];
            for (unsigned v = 0; v < VALUES * VALUES; v++) {
                const uint64_t a = first->value, b = second->value;
                const uint64_t as[VALUES] = {a, a + 1, a - 1, a | 0x100000000, a ^ 0x80};
                const uint64_t bs[VALUES] = {b, b + 1, b | 0x100000000, 0, a & (0 - a)};
                uint64_t arguments[ARGUMENTS] = {0};
                arguments[first->argument] = as[v % VALUES];
                if (second->how != HOW_NONE) {
                    arguments[second->argument] = bs[v / VALUES];
                }
                SCHED_ASSERT(ask(call->number, arguments).verdict == expected(call->number, arguments, filter));
            }
        }
    }
}

static void every_number_has_the_tables_answer(void) {
    static const uint64_t zeroes[6], ones[6] = {~0ULL, ~0ULL, ~0ULL, ~0ULL, ~0ULL, ~0ULL};
    for (unsigned p = 0; p < PROFILES; p++) {
        assemble(&profiles[p]);
        for (uint32_t number = 0; number <= NUMBERS_TRIED; number++) {
            SCHED_ASSERT(ask(number, zeroes).verdict == expected(number, zeroes, &profiles[p]));
            SCHED_ASSERT(ask(number, ones).verdict == expected(number, ones, &profiles[p]));
            const struct call *call = row_of(number);
            if (call != NULL && call->count > 0) {
                try_rules(call, &profiles[p]);
            }
        }
    }
}

static void every_row_is_reached(void) {
    for (unsigned i = 0; i < calls_count; i++) {
        SCHED_ASSERT(calls[i].number < CALL_NUMBERS && row_of(calls[i].number) == &calls[i]);
        for (unsigned r = 0; r < calls[i].count; r++) {
            SCHED_ASSERT(calls[i].rules[r].answer >= PASS && calls[i].rules[r].answer < 4096);
            SCHED_ASSERT(calls[i].rules[r].answer != calls[i].otherwise || calls[i].count > 1);
        }
    }
}

/* What the kernel does once for each number: if the answer is reached without an argument, it is never asked for again. */
static void calls_that_are_always_allowed_never_run_it(void) {
    assemble(&profiles[0]);
    unsigned free_calls = 0;
    for (uint32_t number = 0; number <= NUMBERS_TRIED; number++) {
        const struct call *call = row_of(number);
        const struct run run = ask(number, NULL);
        SCHED_ASSERT(run.steps <= STEPS_RUN_MAX);
        if (call != NULL && call->count == 0 && call->otherwise == PASS) {
            SCHED_ASSERT(!run.looked_at_arguments && run.steps <= BITMAP_STEPS_MAX && run.verdict == SECCOMP_RET_ALLOW);
            free_calls++;
        }
    }
    SCHED_ASSERT(free_calls > 200);
}

static void other_sets_of_calls_do_not_exist(void) {
    assemble(&profiles[0]);
    for (uint32_t number = 0; number <= NUMBERS_TRIED; number++) {
        struct seccomp_data data = {.nr = (int)number, .arch = AUDIT_ARCH_I386};
        SCHED_ASSERT(interpret(&data).verdict == (SECCOMP_RET_ERRNO | ENOSYS));
        SCHED_ASSERT(ask(number | 0x40000000, NULL).verdict == (SECCOMP_RET_ERRNO | ENOSYS)); /* x32 */
    }
    static const uint32_t beyond[] = {CALL_NUMBERS - 1, CALL_NUMBERS, 1024, 0x7fffffff, 0x80000000, 0xffffffff};
    for (unsigned i = 0; i < sizeof beyond / sizeof *beyond; i++) {
        SCHED_ASSERT(ask(beyond[i], NULL).verdict == (SECCOMP_RET_ERRNO | ENOSYS));
    }
}

static void doors_are_shut_and_daily_calls_free_whatever_the_table_says(void) {
    static const uint32_t shut[] = {SYS_keyctl, SYS_add_key, SYS_bpf, SYS_ptrace, SYS_mount, SYS_setns, SYS_userfaultfd, SYS_syslog,
                                    SYS_perf_event_open, SYS_kexec_load, SYS_init_module, SYS_reboot, SYS_open_by_handle_at,
                                    SYS_process_vm_writev, SYS_seccomp, SYS_io_setup, 425, 426, 427, 435, 438};
    static const uint32_t daily[] = {SYS_read, SYS_write, SYS_futex, SYS_mprotect, SYS_munmap, SYS_mremap, SYS_brk, SYS_pread64,
                                     SYS_rt_sigaction, SYS_rt_sigreturn, SYS_sigaltstack, SYS_epoll_pwait, SYS_sendmsg, SYS_recvmsg,
                                     SYS_execve, SYS_exit_group, SYS_wait4, SYS_clock_gettime, SYS_getrandom, SYS_set_tid_address,
                                     SYS_set_robust_list, SYS_restart_syscall, SYS_rseq};
    for (unsigned p = 0; p < PROFILES; p++) {
        assemble(&profiles[p]);
        for (unsigned i = 0; i < sizeof shut / sizeof *shut; i++) {
            const uint32_t verdict = ask(shut[i], NULL).verdict;
            SCHED_ASSERT(verdict == (SECCOMP_RET_ERRNO | EPERM) || verdict == (SECCOMP_RET_ERRNO | ENOSYS));
        }
        for (unsigned i = 0; i < sizeof daily / sizeof *daily; i++) {
            const struct run run = ask(daily[i], NULL);
            SCHED_ASSERT(run.verdict == SECCOMP_RET_ALLOW && !run.looked_at_arguments);
        }
        const uint64_t new_user[6] = {0x10000011}, thread[6] = {0x3d0f00}, vsock[6] = {40, 1}, packet[6] = {17, 3}, tcp[6] = {2, 1, 6};
        SCHED_ASSERT(ask(SYS_clone, new_user).verdict == (SECCOMP_RET_ERRNO | EPERM));
        SCHED_ASSERT(ask(SYS_clone, thread).verdict == SECCOMP_RET_ALLOW);
        SCHED_ASSERT(ask(SYS_socket, vsock).verdict == (SECCOMP_RET_ERRNO | EAFNOSUPPORT));
        SCHED_ASSERT(ask(SYS_socket, packet).verdict == (SECCOMP_RET_ERRNO | EAFNOSUPPORT));
        SCHED_ASSERT(ask(SYS_socket, tcp).verdict == SECCOMP_RET_ALLOW);
    }
}

static void profiles_change_what_they_are_for_and_nothing_else(void) {
    const uint64_t linger[6] = {0, 1, 13};
    const uint32_t refused = SECCOMP_RET_ERRNO | EPERM, done = SECCOMP_RET_ERRNO | 0;
    for (unsigned p = 0; p < PROFILES; p++) {
        assemble(&profiles[p]);
        SCHED_ASSERT(ask(SYS_setsockopt, linger).verdict == (profiles[p].linger ? SECCOMP_RET_ALLOW : refused));
        SCHED_ASSERT(ask(SYS_fsync, NULL).verdict == (profiles[p].ephemeral ? done : SECCOMP_RET_ALLOW));
        SCHED_ASSERT(!ask(SYS_fsync, NULL).looked_at_arguments);
    }
}

int main(void) {
    RUN(every_number_has_the_tables_answer);
    RUN(every_row_is_reached);
    RUN(calls_that_are_always_allowed_never_run_it);
    RUN(other_sets_of_calls_do_not_exist);
    RUN(doors_are_shut_and_daily_calls_free_whatever_the_table_says);
    RUN(profiles_change_what_they_are_for_and_nothing_else);
    return 0;
}
