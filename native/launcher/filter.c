/* An assembler of one purpose: the table of calls.c becomes a program of the kernel's classic BPF.
 *
 * Neighbouring numbers with one answer are a range; a balanced tree of comparisons finds a call's range in at most seven of them.
 * For each number the kernel itself runs the program once when it is installed, and where the answer is "allowed" whatever the
 * arguments are it keeps that in a bitmap and never runs the program for it again. So what costs is a call whose arguments are
 * looked at: the way down the tree, and its own few comparisons.
 *
 * The filter is no second jail: what a privilege is needed for, the sandbox cannot do already. It closes the doors that are open to
 * everybody and lead out of the namespaces, deep into the kernel, or to what the whole machine has once.
 *
 * A refusal is an errno, never a signal: libraries have a second way for most of these, and take it.
 */
#include "filter.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "calls.h"

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE AUDIT_ARCH_AARCH64
#else
#error "the filter must know this processor's AUDIT_ARCH"
#endif
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the low half of an argument comes first");

enum { RANGES_MAX = CALL_NUMBERS + 1, ANSWERS_MAX = 24, REACH = 250 };

/* Numbers from `first` up to the next range's first. */
struct range {
    uint32_t first;
    const struct call *call; /* NULL: no rules, `answer` alone */
    int answer;
};

/* Written from its end to its begin, since jumps lead forward only: where one leads to is there already. A place is an index into
 * steps, which are moved to the front when all is written. The kernel compiles each step, at 0.2 us, for each sandbox: so answers
 * and equal rules are written once for all who can reach them. */
struct program {
    struct sock_filter *steps;
    unsigned at; /* the step written last */
    int error;
    const struct filter *filter;
    struct range ranges[RANGES_MAX];
    unsigned ranges_count;
    struct {
        int answer;
        unsigned place;
    } answers[ANSWERS_MAX];
    unsigned answers_count;
    const struct call *blocks[CALL_NUMBERS]; /* calls whose rules are written */
    unsigned block_places[CALL_NUMBERS];
    unsigned blocks_count;
};

/* ---- steps ---- */

static unsigned add(struct program *program, uint16_t code, uint32_t k, uint8_t yes, uint8_t no) {
    if (program->at == 0) {
        program->error = -E2BIG;
        program->at = FILTER_STEPS_MAX; /* goes on over what is there; nobody will read it */
    }
    program->steps[--program->at] = (struct sock_filter){code, yes, no, k};
    return program->at;
}

static unsigned load(struct program *program, size_t offset) {
    return add(program, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static size_t low_half(unsigned argument) {
    return offsetof(struct seccomp_data, args) + argument * sizeof(uint64_t);
}

/* That place, or a long jump to it, which can be reached from the next steps. */
static unsigned near(struct program *program, unsigned place) {
    return place - program->at <= REACH ? place : add(program, BPF_JMP | BPF_JA, place - program->at, 0, 0);
}

static unsigned compare(struct program *program, uint16_t how, uint32_t value, unsigned yes, unsigned no) {
    yes = near(program, yes);
    no = near(program, no);
    return add(program, BPF_JMP | how | BPF_K, value, (uint8_t)(yes - program->at), (uint8_t)(no - program->at));
}

static unsigned give(struct program *program, int answer) {
    unsigned i = 0;
    while (i < program->answers_count && program->answers[i].answer != answer) {
        i++;
    }
    if (i == ANSWERS_MAX) {
        program->error = -E2BIG;
        return program->at;
    }
    if (i == program->answers_count || program->answers[i].place - program->at > REACH) {
        program->answers_count += i == program->answers_count ? 1 : 0;
        program->answers[i].answer = answer;
        program->answers[i].place =
            add(program, BPF_RET | BPF_K, answer == PASS ? SECCOMP_RET_ALLOW : SECCOMP_RET_ERRNO | (uint32_t)answer, 0, 0);
    }
    return program->answers[i].place;
}

/* ---- one call's rules ---- */

static bool applies(const struct program *program, const struct rule *rule) {
    switch (rule->when) {
    case ALWAYS_WHEN:
        return true;
    case EPHEMERAL:
        return program->filter->ephemeral;
    case DESCRIPTORS_TRAVEL:
        return !program->filter->linger;
    }
    return true;
}

/* Where a rule begins: with its first argument to be loaded, or for who has loaded it. */
struct entry {
    unsigned cold, loaded;
    int argument; /* -1: loads none */
};

static unsigned enter(const struct entry *entry, unsigned argument_loaded) {
    return entry->argument == (int)argument_loaded ? entry->loaded : entry->cold;
}

static struct entry test_step(struct program *program, const struct test *test, unsigned yes, const struct entry *no) {
    struct entry entry = {.argument = (int)test->argument};
    const unsigned otherwise = enter(no, test->argument);
    switch (test->how) {
    case HOW_NONE:
        break;
    case HOW_EQUAL:
        entry.loaded = compare(program, BPF_JEQ, test->value, yes, otherwise);
        break;
    case HOW_ANY_BIT:
        entry.loaded = compare(program, BPF_JSET, test->value, yes, otherwise);
        break;
    case HOW_NULL: /* the high half is not the argument that the next rule may count on */
        compare(program, BPF_JEQ, 0, yes, no->cold);
        load(program, low_half(test->argument) + sizeof(uint32_t));
        entry.loaded = compare(program, BPF_JEQ, 0, program->at, otherwise);
        break;
    }
    entry.cold = load(program, low_half(test->argument));
    if (entry.loaded != program->at + 1) {
        program->error = -EINVAL;
    }
    return entry;
}

static struct entry rule_steps(struct program *program, const struct rule *rule, const struct entry *next) {
    const unsigned answer = give(program, rule->answer);
    struct entry entry = {answer, answer, -1};
    for (unsigned i = TESTS_MAX; i-- > 0;) {
        if (rule->tests[i].how != HOW_NONE) {
            entry = test_step(program, &rule->tests[i], entry.cold, next);
        }
    }
    return entry;
}

static bool same_block(const struct call *a, const struct call *b) {
    return a->rules == b->rules && a->count == b->count && a->otherwise == b->otherwise;
}

static unsigned answer_call(struct program *program, const struct call *call) {
    for (unsigned i = 0; i < program->blocks_count; i++) {
        if (same_block(program->blocks[i], call)) {
            return program->block_places[i];
        }
    }
    const unsigned otherwise = give(program, call->otherwise);
    struct entry entry = {otherwise, otherwise, -1};
    for (unsigned i = call->count; i-- > 0;) {
        if (applies(program, &call->rules[i])) {
            entry = rule_steps(program, &call->rules[i], &entry);
        }
    }
    program->blocks[program->blocks_count] = call;
    program->block_places[program->blocks_count++] = entry.cold;
    return entry.cold;
}

/* ---- the tree ---- */

/* A call whose rules, as this filter has them, do not look at arguments has one answer. True: *answer is it. */
static bool settled(const struct program *program, const struct call *call, int *answer) {
    for (unsigned i = 0; i < call->count; i++) {
        if (applies(program, &call->rules[i])) {
            *answer = call->rules[i].answer;
            return call->rules[i].tests[0].how == HOW_NONE;
        }
    }
    *answer = call->otherwise;
    return true;
}

static void find_ranges(struct program *program) {
    const struct call *by_number[CALL_NUMBERS] = {NULL};
    for (unsigned i = 0; i < calls_count; i++) {
        if (calls[i].number >= CALL_NUMBERS || by_number[calls[i].number] != NULL) {
            program->error = -EINVAL;
            return;
        }
        by_number[calls[i].number] = &calls[i];
    }
    for (uint32_t number = 0; number <= CALL_NUMBERS; number++) { /* the last stands for all that come after */
        struct range range = {.first = number, .answer = CALL_UNKNOWN};
        if (number < CALL_NUMBERS && by_number[number] != NULL && !settled(program, by_number[number], &range.answer)) {
            range.call = by_number[number];
        }
        const struct range *before = program->ranges_count > 0 ? &program->ranges[program->ranges_count - 1] : NULL;
        if (before == NULL || range.call != NULL || before->call != NULL || before->answer != range.answer) {
            program->ranges[program->ranges_count++] = range;
        }
    }
}

/* Ranges [low, high): the place where they are told apart. Recursive, eight deep. */
static unsigned tree(struct program *program, unsigned low, unsigned high) {
    const struct range *range = &program->ranges[low];
    if (high - low == 1) {
        return range->call == NULL ? give(program, range->answer) : answer_call(program, range->call);
    }
    const unsigned middle = low + (high - low) / 2;
    const unsigned upper = tree(program, middle, high), lower = tree(program, low, middle);
    return compare(program, BPF_JGE, program->ranges[middle].first, upper, lower);
}

int filter_assemble(const struct filter *filter, struct sock_filter *steps) {
    struct program program = {.steps = steps, .at = FILTER_STEPS_MAX, .filter = filter};
    find_ranges(&program);
    if (program.error < 0) {
        return program.error;
    }
    unsigned root = tree(&program, 0, program.ranges_count);
    if (root != program.at) {
        root = add(&program, BPF_JMP | BPF_JA, root - program.at, 0, 0);
    }
    root = load(&program, offsetof(struct seccomp_data, nr)); /* x32's numbers have a high bit, and are unknown like all high ones */
    compare(&program, BPF_JEQ, NATIVE, root, give(&program, ENOSYS));
    load(&program, offsetof(struct seccomp_data, arch));
    const unsigned count = FILTER_STEPS_MAX - program.at;
    memmove(steps, &steps[program.at], count * sizeof *steps);
    return program.error < 0 ? program.error : (int)count;
}

int filter_install(const struct filter *filter) {
    struct sock_filter steps[FILTER_STEPS_MAX];
    const int count = filter_assemble(filter, steps);
    if (count < 0) {
        return count;
    }
    const struct sock_fprog order = {.len = (unsigned short)count, .filter = steps};
    /* SPEC_ALLOW: without it older kernels turn speculation of stores off, for a tenth of the speed of everything. */
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &order) < 0 ? -errno : 0;
}
