/* Trace headers: made, handed on, counted; and anything at all as one. */
#include "harness.h"
#include "trace.h"

#define ROOT "Root=1-5759e988-bd862e3fe1be46a994272793"

static struct trace_ask ask(const char *function, bool active, bool sample) {
    struct trace_ask made = {.now_s = 0x5759e988, .function = trace_hash(function), .active = active, .sample = sample};
    for (size_t i = 0; i < TRACE_RANDOM; i++) {
        made.random[i] = (uint8_t)i;
    }
    return made;
}

static struct trace make(const char *in, const char *function, bool active, bool sample) {
    const struct trace_ask asked = ask(function, active, sample);
    struct trace out;
    trace_make(guarded(in, strlen(in)), strlen(in), &asked, &out);
    out.text[out.size] = '\0';
    return out;
}

static void is(struct trace made, const char *text) {
    if (strcmp(made.text, text) != 0) {
        printf("%s\n%s\n", made.text, text);
    }
    SCHED_ASSERT(strcmp(made.text, text) == 0);
}

static void one_is_made_where_there_is_none(void) {
    char wanted[256];
    const struct trace made = make("", "hello", false, true);
    snprintf(wanted, sizeof wanted, "Root=1-5759e988-000102030405060708090a0b;Parent=0c0d0e0f10111213;Sampled=0;Lineage=1:%08x:0",
             trace_hash("hello"));
    is(made, wanted);
    SCHED_ASSERT(made.visits == 1 && made.parent == 0 && !made.sampled);
    SCHED_ASSERT(make("", "hello", true, true).sampled && !make("", "hello", true, false).sampled);
}

static void what_came_is_handed_on(void) {
    char wanted[256];
    snprintf(wanted, sizeof wanted, ROOT ";Parent=53995c3f42cd8ad8;Sampled=1;Lineage=1:%08x:0", trace_hash("hello"));
    is(make("Self=1-a; " ROOT ";Parent=53995c3f42cd8ad8;Sampled=1", "hello", false, false), wanted);
    const struct trace active = make(ROOT ";Parent=53995c3f42cd8ad8;Sampled=1", "hello", true, false);
    snprintf(wanted, sizeof wanted, ROOT ";Parent=0c0d0e0f10111213;Sampled=1;Lineage=1:%08x:0", trace_hash("hello"));
    is(active, wanted);
    SCHED_ASSERT(active.parent == 0x53995c3f42cd8ad8 && active.sampled);
    SCHED_ASSERT(!make(ROOT ";Sampled=0", "hello", true, true).sampled);
    is(make("00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01", "hello", true, false), wanted);
    char root[33], parent[17];
    SCHED_ASSERT(trace_ids(active.text, active.size, root, parent));
    SCHED_ASSERT(strcmp(root, "5759e988bd862e3fe1be46a994272793") == 0 && strcmp(parent, "0c0d0e0f10111213") == 0);
}

static void a_loop_is_counted(void) {
    struct trace made = make("", "one", false, false);
    for (unsigned round = 1; round <= 40; round++) {
        SCHED_ASSERT(made.visits == round && trace_has_lineage((const uint8_t *)made.text, made.size));
        const struct trace between = make(made.text, "two", false, false);
        SCHED_ASSERT(between.visits == round);
        made = make(between.text, "one", false, false);
    }
    SCHED_ASSERT(!trace_has_lineage((const uint8_t *)ROOT, strlen(ROOT)));
}

static void a_long_chain_forgets_its_oldest(void) {
    struct trace made = make("", "first", false, false);
    for (unsigned i = 0; i < 3 * TRACE_ENTRIES_MAX; i++) {
        char name[32];
        snprintf(name, sizeof name, "function-%u", i);
        made = make(made.text, name, false, false);
        SCHED_ASSERT(made.visits == 1 && made.size < TRACE_TEXT_MAX);
        const struct trace again = make(made.text, name, false, false);
        SCHED_ASSERT(again.visits == 2);
    }
    SCHED_ASSERT(make(made.text, "first", false, false).visits == 1);
}

static void anything_is_no_trouble(void) {
    static const char *const pieces[] = {ROOT, "Root=", ";", "Parent=53995c3f42cd8ad8", "Parent=", "Sampled=1", "Sampled=x", "Lineage=",
                                         "Lineage=1:a87bd80c:0", "|", "1:a87bd80c:99", ":", "1:a87bd80c:", "00-", " ", "=", "\xff"};
    uint64_t seed = 7;
    for (unsigned round = 0; round < 20000; round++) {
        char in[256] = "";
        for (uint64_t count = random_below(&seed, 8); count > 0; count--) {
            strncat(in, pieces[random_below(&seed, sizeof pieces / sizeof *pieces)], sizeof in - strlen(in) - 1);
        }
        const struct trace made = make(in, "hello", (random_next(&seed) & 1) != 0, false);
        char root[33], parent[17];
        SCHED_ASSERT(made.visits >= 1 && made.visits <= 101);
        SCHED_ASSERT(trace_ids(made.text, made.size, root, parent));
        (void)trace_has_lineage(guarded(in, strlen(in)), strlen(in));
    }
}

int main(void) {
    RUN(one_is_made_where_there_is_none);
    RUN(what_came_is_handed_on);
    RUN(a_loop_is_counted);
    RUN(a_long_chain_forgets_its_oldest);
    RUN(anything_is_no_trouble);
    return 0;
}
