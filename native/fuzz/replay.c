/* replay.c: main() for a fuzz target where there is no libFuzzer (gcc).
 *
 *   fuzz_x FILE...                      each file once
 *   fuzz_x -seed N [-runs M] FILE...    then M mutations of them, the same ones for the same seed and files
 *
 * Every input ends at an unreadable page. The input that kills the target is left in <program>.crash; give it as FILE to see it
 * again. With clang link -fsanitize=fuzzer instead of this file. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

#include "../tests/harness.h"

enum { INPUT_BYTES_MAX = 4096, FILES_MAX = 256, RUNS_DEFAULT = 20000, CHANGES_MAX = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
/* Of the sanitizers' runtime, if there is one. */
__attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)(void));

struct input {
    size_t size;
    uint8_t *bytes;
};

static struct input files[FILES_MAX];
static size_t files_count;
static const char *program;
static struct input current; /* being run: what a crash is about */
static uint64_t run;

/* While dying: a write or two more cannot do harm. */
static void save_crash(void) {
    char path[4096];
    (void)snprintf(path, sizeof path, "%s.crash", program);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    const bool saved = fd >= 0 && write(fd, current.bytes, current.size) == (ssize_t)current.size;
    fprintf(stderr, "run %" PRIu64 ", %zu bytes, %s %s\n", run, current.size, saved ? "kept in" : "NOT kept in", path);
}

static void on_signal(int number) {
    save_crash();
    (void)signal(number, SIG_DFL);
    (void)raise(number);
}

static void run_one(const uint8_t *bytes, size_t size) {
    current = (struct input){size, (uint8_t *)(uintptr_t)guarded(bytes, size)};
    (void)LLVMFuzzerTestOneInput(current.bytes, size);
    run++;
}

static void read_file(const char *path) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(2);
    }
    static uint8_t bytes[1 << 20];
    const ssize_t size = read(fd, bytes, sizeof bytes);
    (void)close(fd);
    if (size < 0 || files_count == FILES_MAX) {
        fprintf(stderr, "%s: %s\n", path, size < 0 ? strerror(errno) : "more than 256 files");
        exit(2);
    }
    struct input *file = &files[files_count++];
    file->size = (size_t)size;
    file->bytes = malloc((size_t)size + 1);
    SCHED_ASSERT(file->bytes != NULL);
    memcpy(file->bytes, bytes, (size_t)size);
    run_one(file->bytes, file->size);
}

/* A piece of `from` in place of `to`'s bytes at, of `gone` bytes; what does not fit is cut off. */
static size_t replace(uint8_t *to, size_t size, size_t at, size_t gone, const uint8_t *from, size_t bytes) {
    uint8_t rest[INPUT_BYTES_MAX];
    const size_t rest_bytes = size - at - gone;
    memcpy(rest, to + at + gone, rest_bytes);
    bytes = bytes < INPUT_BYTES_MAX - at ? bytes : INPUT_BYTES_MAX - at;
    memmove(to + at, from, bytes);
    const size_t kept = rest_bytes < INPUT_BYTES_MAX - at - bytes ? rest_bytes : INPUT_BYTES_MAX - at - bytes;
    memcpy(to + at + bytes, rest, kept);
    return at + bytes + kept;
}

static size_t change(uint8_t *bytes, size_t size, uint64_t *seed) {
    static const uint8_t telling[] = {0x00, 0x01, 0x7f, 0x80, 0xff, 0xc0, 0xc1, 0x20, 0x90, 0xdd};
    const size_t at = random_below(seed, size + 1);
    const size_t length = random_below(seed, 1 + (size - at < 16 ? size - at : 16));
    uint8_t fresh[16];
    switch (random_below(seed, 8)) {
    case 0: /* one bit */
        if (at < size) {
            bytes[at] ^= (uint8_t)(1U << random_below(seed, 8));
        }
        return size;
    case 1:
        if (at < size) {
            bytes[at] = telling[random_below(seed, sizeof telling)];
        }
        return size;
    case 2:
        if (at < size) {
            bytes[at] = (uint8_t)random_next(seed);
        }
        return size;
    case 3: /* gone */
        return replace(bytes, size, at, length, fresh, 0);
    case 4: /* new */
        for (size_t i = 0; i < sizeof fresh; i++) {
            fresh[i] = (uint8_t)random_next(seed);
        }
        return replace(bytes, size, at, 0, fresh, 1 + random_below(seed, sizeof fresh));
    case 5: /* twice */
        memcpy(fresh, bytes + at, length);
        return replace(bytes, size, at, 0, fresh, length);
    case 6: /* cut short */
        return at;
    default: { /* a piece of another file */
        if (files_count == 0) {
            return size;
        }
        const struct input *other = &files[random_below(seed, files_count)];
        const size_t from = random_below(seed, other->size + 1);
        return replace(bytes, size, at, length, other->bytes + from, random_below(seed, other->size - from + 1));
    }
    }
}

static void mutate(uint64_t seed) {
    uint8_t bytes[INPUT_BYTES_MAX];
    size_t size = 0;
    if (files_count == 0 || random_below(&seed, 8) == 0) {
        size = random_below(&seed, 512);
        for (size_t i = 0; i < size; i++) {
            bytes[i] = (uint8_t)random_next(&seed);
        }
    } else {
        const struct input *file = &files[random_below(&seed, files_count)];
        size = file->size < INPUT_BYTES_MAX ? file->size : INPUT_BYTES_MAX;
        memcpy(bytes, file->bytes, size);
    }
    for (uint64_t changes = 1 + random_below(&seed, CHANGES_MAX); changes > 0; changes--) {
        size = change(bytes, size, &seed);
    }
    run_one(bytes, size);
}

static uint64_t number(const char *text) {
    char *end;
    errno = 0;
    const unsigned long long value = text == NULL ? 0 : strtoull(text, &end, 10);
    if (text == NULL || errno != 0 || *end != '\0' || end == text) {
        fprintf(stderr, "usage: %s [-seed N [-runs M]] [FILE...]\n", program);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv) {
    program = argv[0];
    if (__sanitizer_set_death_callback != NULL) {
        __sanitizer_set_death_callback(save_crash);
    } else {
        (void)signal(SIGSEGV, on_signal);
    }
    (void)signal(SIGABRT, on_signal); /* SCHED_ASSERT */
    uint64_t seed = 0, runs = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-seed") == 0) {
            seed = number(argv[++i]);
            runs = runs == 0 ? RUNS_DEFAULT : runs;
        } else if (strcmp(argv[i], "-runs") == 0) {
            runs = number(argv[++i]);
        } else {
            read_file(argv[i]);
        }
    }
    const uint64_t begin_ns = wall_ns();
    for (uint64_t i = 0; i < runs; i++) {
        mutate(random_next(&(uint64_t){seed + i}));
    }
    printf("  %zu files, %" PRIu64 " mutations of seed %" PRIu64 ", %.2f s\n", files_count, runs, seed,
           (double)(wall_ns() - begin_ns) / 1e9);
    for (size_t i = 0; i < files_count; i++) {
        free(files[i].bytes);
    }
    return 0;
}
