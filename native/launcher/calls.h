/* calls.h: which system calls a sandbox may make, as data. Nothing is assembled or decided here; filter.c makes a program of it
 * and native/tests/test_filter.c holds the two against each other.
 *
 * A call is answered by the first of its rules whose tests all hold, else by `otherwise`. What no row names is answered ENOSYS, as
 * a kernel that does not know the call would: libraries have a second way for what is newer than they are, and take it.
 */
#ifndef LAUNCHER_CALLS_H
#define LAUNCHER_CALLS_H

#include <stdint.h>

/* An answer: PASS lets the call through, DONE says that it succeeded (0) without doing it, all else is an errno. */
enum { PASS = -1, DONE = 0 };

enum how {
    HOW_NONE, /* holds always: no test */
    HOW_EQUAL,
    HOW_ANY_BIT,
    HOW_NULL  /* all 64 bits; the others look at the low 32, which is what the kernel takes of an int */
};

struct test {
    enum how how;
    unsigned argument; /* 0..5 */
    uint32_t value;
};

/* What a rule depends on besides the call itself; see struct filter. */
enum when { ALWAYS_WHEN, EPHEMERAL, DESCRIPTORS_TRAVEL };

enum { TESTS_MAX = 2, CALL_NUMBERS = 512, CALL_UNKNOWN = 38 /* ENOSYS */ };

struct rule {
    int answer;
    struct test tests[TESTS_MAX]; /* all of them must hold */
    enum when when;
};

struct call {
    uint32_t number; /* below CALL_NUMBERS */
    int otherwise;
    const struct rule *rules;
    unsigned count;
};

extern const struct call calls[];
extern const unsigned calls_count;

#endif
