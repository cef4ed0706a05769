/* test_mailbox.c: the ring by a table of what one thread sees, then two threads that try to lose an item or a wake-up. The
 * second half is what ThreadSanitizer is for. A lost wake-up shows as a sleep that does not end: nobody else would write the
 * eventfd. */
#include "harness.h"
#include "mailbox.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>

enum { STRESS_NS = 250 * 1000 * 1000, SLEEP_MAX_MS = 10 * 1000 };

static bool readable(const struct mailbox *box, int timeout_ms) {
    struct pollfd fd = {.fd = box->eventfd, .events = POLLIN};
    return poll(&fd, 1, timeout_ms) == 1;
}

/* ---- one thread ---- */

static void test_bounds_of_init(void) {
    static const struct {
        uint32_t capacity;
        uint32_t item_bytes;
        int result;
    } rows[] = {{0, 8, -EINVAL}, {1, 8, -EINVAL},  {3, 8, -EINVAL},           {6, 8, -EINVAL},       {(1 << 20) + 1, 8, -EINVAL},
                {1 << 21, 8, -EINVAL}, {2, 0, -EINVAL}, {UINT32_MAX, 8, -EINVAL}, {2, 8, 0},             {1 << 20, 1, 0},
                {64, 4096, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct mailbox box;
        SCHED_ASSERT(mailbox_init(&box, rows[i].capacity, rows[i].item_bytes) == rows[i].result);
        SCHED_ASSERT((box.eventfd >= 0) == (rows[i].result == 0));
        mailbox_free(&box); /* harmless after a failure */
        SCHED_ASSERT(box.eventfd == -1 && box.items == NULL);
    }
}

static void test_no_descriptor_left(void) {
    struct rlimit before, none;
    SCHED_ASSERT(getrlimit(RLIMIT_NOFILE, &before) == 0);
    none = before;
    none.rlim_cur = 0;
    SCHED_ASSERT(setrlimit(RLIMIT_NOFILE, &none) == 0);
    struct mailbox box;
    const int result = mailbox_init(&box, 16, 8);
    SCHED_ASSERT(setrlimit(RLIMIT_NOFILE, &before) == 0);
    SCHED_ASSERT(result == -EMFILE && box.items == NULL && box.eventfd == -1); /* the leak checker knows of the memory */
}

static void start_at(struct mailbox *box, uint32_t count) {
    atomic_store(&box->tail, count);
    atomic_store(&box->head, count);
    box->head_seen = box->tail_seen = count;
}

/* Random pushes and pops against a plain array, with the counts about to run over 32 bits. */
static void test_against_array(void) {
    enum { STEPS = 60000, BYTES_MAX = 40 };
    static const uint32_t sizes[] = {1, 8, 24, BYTES_MAX};
    uint64_t seed = 1;
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        const uint32_t capacity = 2U << k;
        struct mailbox box;
        SCHED_ASSERT(mailbox_init(&box, capacity, sizes[k]) == 0);
        start_at(&box, UINT32_MAX - 100);
        uint8_t model[2U << 3][BYTES_MAX];
        uint32_t pushed = 0, popped = 0, fulls = 0, empties = 0;
        for (int step = 0; step < STEPS; step++) {
            /* Runs of one kind, so that both ends are met. */
            const bool push = ((step / 50) & 1) == 0 ? random_below(&seed, 4) != 0 : random_below(&seed, 4) == 0;
            uint8_t item[BYTES_MAX];
            if (push) {
                for (uint32_t i = 0; i < sizes[k]; i++) {
                    item[i] = (uint8_t)random_next(&seed);
                }
                const bool fits = pushed - popped < capacity;
                SCHED_ASSERT(mailbox_push(&box, item) == fits);
                if (fits) {
                    memcpy(model[pushed++ % capacity], item, sizes[k]);
                } else {
                    fulls++;
                }
            } else {
                memset(item, 0, sizeof item);
                const bool some = pushed != popped;
                SCHED_ASSERT(mailbox_pop(&box, item) == some);
                if (some) {
                    SCHED_ASSERT(memcmp(model[popped++ % capacity], item, sizes[k]) == 0);
                } else {
                    empties++;
                }
            }
            SCHED_ASSERT(mailbox_waiting(&box) == pushed - popped);
        }
        SCHED_ASSERT(fulls > 100 && empties > 100 && pushed > 1000);
        mailbox_free(&box);
    }
}

/* Each line is a sequence: p push, r ring, o pop (must give something), s sleep, w wake; what sleep said as + or -; R: the
 * eventfd is readable now, N: it is not. */
static void test_ringing(void) {
    static const char *const sequences[] = {
        "N",              /* quiet at first */
        "prNoN",          /* nobody sleeps: no system call */
        "s+prRwNo",       /* asleep: rung, and waking clears it */
        "s+ppprRwNooo",   /* once for a batch */
        "s+prprRwNoo",    /* once until it wakes */
        "ps-rNo",         /* something is there: no sleep, no ring */
        "pos+prRw",       /* empty again: a sleep is safe */
        "s+wprNo",        /* woken by something else: no ring */
        "s+prwNo",        /* rung while it woke */
        "s+rRwN",         /* rung for nothing: only spurious */
        "s+wNwN",         /* waking twice does no harm */
        "s+pNrRwNo",      /* a push alone does not ring */
    };
    for (size_t k = 0; k < sizeof sequences / sizeof sequences[0]; k++) {
        struct mailbox box;
        SCHED_ASSERT(mailbox_init(&box, 8, sizeof(uint32_t)) == 0);
        uint32_t next_in = 0, next_out = 0, item;
        for (const char *at = sequences[k]; *at != '\0'; at++) {
            switch (*at) {
            case 'p':
                SCHED_ASSERT(mailbox_push(&box, &next_in));
                next_in++;
                break;
            case 'o':
                SCHED_ASSERT(mailbox_pop(&box, &item) && item == next_out);
                next_out++;
                break;
            case 'r':
                mailbox_ring(&box);
                break;
            case 's':
                SCHED_ASSERT(mailbox_sleep(&box) == (*++at == '+'));
                break;
            case 'w':
                mailbox_wake(&box);
                break;
            default:
                SCHED_ASSERT(readable(&box, 0) == (*at == 'R'));
            }
        }
        mailbox_free(&box);
    }
}

/* ---- two threads ---- */

struct letter {
    uint64_t number;
    uint64_t check; /* made of the number: half-written items do not match */
    uint64_t last;
};

static uint64_t check_of(uint64_t number) {
    return random_next(&(uint64_t){number});
}

static void wait_for(struct mailbox *box) {
    if (mailbox_sleep(box)) {
        SCHED_ASSERT(readable(box, SLEEP_MAX_MS)); /* else a wake-up was lost */
        mailbox_wake(box);
    }
}

static void *produce(void *argument) {
    struct mailbox *box = argument;
    const uint64_t end_ns = wall_ns() + STRESS_NS;
    uint64_t seed = 7;
    uint64_t number = 0;
    bool last = false;
    while (!last) {
        last = wall_ns() >= end_ns;
        for (uint64_t batch = 1 + random_below(&seed, 100); batch > 0; batch--) {
            const struct letter letter = {.number = number, .check = check_of(number), .last = last && batch == 1};
            while (!mailbox_push(box, &letter)) {
                mailbox_ring(box);
                (void)sched_yield();
            }
            number++;
        }
        mailbox_ring(box);
    }
    return (void *)(uintptr_t)number;
}

static void test_stream(void) {
    struct mailbox box;
    SCHED_ASSERT(mailbox_init(&box, 64, sizeof(struct letter)) == 0);
    start_at(&box, UINT32_MAX - 1000);
    pthread_t producer;
    SCHED_ASSERT(pthread_create(&producer, NULL, produce, &box) == 0);
    uint64_t number = 0;
    struct letter letter = {0};
    while (!letter.last) {
        if (!mailbox_pop(&box, &letter)) {
            wait_for(&box);
            continue;
        }
        SCHED_ASSERT(letter.number == number && letter.check == check_of(number));
        SCHED_ASSERT(mailbox_waiting(&box) <= 64);
        number++;
    }
    void *produced;
    SCHED_ASSERT(pthread_join(producer, &produced) == 0);
    SCHED_ASSERT((uintptr_t)produced == number && !mailbox_pop(&box, &letter) && number > 1000);
    mailbox_free(&box);
}

struct pair {
    struct mailbox there;
    struct mailbox back;
};

static void *echo(void *argument) {
    struct pair *pair = argument;
    struct letter letter = {0};
    while (!letter.last) {
        if (!mailbox_pop(&pair->there, &letter)) {
            wait_for(&pair->there);
            continue;
        }
        SCHED_ASSERT(mailbox_push(&pair->back, &letter));
        mailbox_ring(&pair->back);
    }
    return NULL;
}

/* One letter at a time, so that nearly every one meets somebody who is just falling asleep. */
static void test_ping_pong(void) {
    struct pair pair;
    SCHED_ASSERT(mailbox_init(&pair.there, 2, sizeof(struct letter)) == 0);
    SCHED_ASSERT(mailbox_init(&pair.back, 2, sizeof(struct letter)) == 0);
    pthread_t echoer;
    SCHED_ASSERT(pthread_create(&echoer, NULL, echo, &pair) == 0);
    const uint64_t end_ns = wall_ns() + STRESS_NS;
    uint64_t number = 0;
    struct letter letter = {0};
    while (!letter.last) {
        letter = (struct letter){.number = number, .check = check_of(number), .last = wall_ns() >= end_ns};
        SCHED_ASSERT(mailbox_push(&pair.there, &letter));
        mailbox_ring(&pair.there);
        while (!mailbox_pop(&pair.back, &letter)) {
            wait_for(&pair.back);
        }
        SCHED_ASSERT(letter.number == number && letter.check == check_of(number));
        number++;
    }
    SCHED_ASSERT(pthread_join(echoer, NULL) == 0 && number > 100);
    mailbox_free(&pair.there);
    mailbox_free(&pair.back);
}

int main(void) {
    RUN(test_bounds_of_init);
    RUN(test_no_descriptor_left);
    RUN(test_against_array);
    RUN(test_ringing);
    RUN(test_stream);
    RUN(test_ping_pong);
    return 0;
}
