/* Journals on a real disk, with a disk that takes nothing, and with one that hangs. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "engine.h"
#include "harness.h"
#include "journal.h"

static char dir[64];

static const char *path_of(const char *name) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void clear(void) {
    DIR *all = opendir(dir);
    SCHED_ASSERT(all != NULL);
    for (const struct dirent *entry = readdir(all); entry != NULL; entry = readdir(all)) {
        (void)unlink(path_of(entry->d_name));
    }
    closedir(all);
}

static void nap(void) {
    const struct timespec ms = {.tv_nsec = 1000000};
    nanosleep(&ms, NULL);
}

static uint8_t *read_whole(const char *name, size_t *bytes) {
    *bytes = 0;
    const int fd = open(path_of(name), O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return NULL;
    }
    struct stat info;
    SCHED_ASSERT(fstat(fd, &info) == 0);
    uint8_t *all = malloc((size_t)info.st_size + 1);
    SCHED_ASSERT(all != NULL && read(fd, all, (size_t)info.st_size) == info.st_size);
    close(fd);
    *bytes = (size_t)info.st_size;
    return all;
}

/* Counts whole records by kind and adds up what DROPPED ones say. */
struct found {
    unsigned kinds[8];
    uint64_t dropped_bytes;
    uint64_t log_bytes;
};

static struct found look_through(const char *name) {
    struct found found = {{0}, 0, 0};
    size_t bytes;
    uint8_t *all = read_whole(name, &bytes);
    for (size_t at = 0; at < bytes;) {
        struct journal_record head;
        SCHED_ASSERT(bytes - at >= sizeof head);
        memcpy(&head, all + at, sizeof head);
        SCHED_ASSERT(head.size >= sizeof head && head.size <= bytes - at && head.kind < 8);
        found.kinds[head.kind]++;
        if (head.kind == JOURNAL_DROPPED) {
            uint64_t dropped;
            memcpy(&dropped, all + at + sizeof head, sizeof dropped);
            found.dropped_bytes += dropped;
        } else if (head.kind == JOURNAL_LOG) {
            found.log_bytes += head.size - sizeof head;
        }
        at += head.size;
    }
    free(all);
    return found;
}

static void add(struct journal *journal, struct journal_file *file, const void *bytes, size_t size) {
    struct journal_record head = {.kind = JOURNAL_LOG};
    journal_add(journal, file, &head, bytes, size, NULL, 0);
}

static void what_is_added_is_on_the_disk(void) {
    struct journal journal;
    static uint8_t large[JOURNAL_LOG_BYTES_MAX];
    SCHED_ASSERT(journal_new(&journal, dir, &(struct journal_limits){.file_bytes_max = 1 << 30, .files_max = 1}) == 0);
    struct journal_file *file = journal_open(&journal, "hello");
    SCHED_ASSERT(file != NULL && journal_open(&journal, "hello") == file);
    uint64_t expected = 0;
    for (size_t i = 0; i < 3000; i++) {
        const size_t bytes = i % 100 == 0 ? sizeof large : i % 200;
        add(&journal, file, large, bytes);
        expected += bytes;
        if (i % 500 == 499) {
            journal_flush(&journal);
        }
    }
    journal_close(&journal, file);
    journal_close(&journal, file);
    journal_free(&journal);
    const struct found found = look_through("hello.journal");
    SCHED_ASSERT(found.kinds[JOURNAL_LOG] == 3000 && found.log_bytes == expected && found.kinds[JOURNAL_DROPPED] == 0);
    clear();
}

/* More functions than there are large buffers, each with a line or two before anything is flushed. */
static void a_thousand_functions_find_a_buffer_each(void) {
    struct journal journal;
    SCHED_ASSERT(journal_new(&journal, dir, &(struct journal_limits){.file_bytes_max = 1 << 20, .files_max = 1}) == 0);
    struct journal_file *files[1000];
    for (int i = 0; i < 1000; i++) {
        char name[16];
        snprintf(name, sizeof name, "f%d", i);
        files[i] = journal_open(&journal, name);
        add(&journal, files[i], "one\n", 4);
    }
    for (int i = 0; i < 1000; i++) {
        add(&journal, files[i], "two\n", 4);
    }
    SCHED_ASSERT(journal_lost(&journal) == 0 && journal.held_bytes <= JOURNAL_HELD_BYTES_MAX);
    journal_flush(&journal);
    SCHED_ASSERT(!journal_busy(&journal));
    journal_free(&journal);
    SCHED_ASSERT(look_through("f0.journal").kinds[JOURNAL_LOG] == 2 && look_through("f999.journal").kinds[JOURNAL_LOG] == 2);
    clear();
}

static void rotation_keeps_whole_records(void) {
    struct journal journal;
    SCHED_ASSERT(journal_new(&journal, dir, &(struct journal_limits){.file_bytes_max = 20000, .files_max = 2}) == 0);
    struct journal_file *file = journal_open(&journal, "turns");
    static uint8_t line[1000];
    for (int i = 0; i < 200; i++) {
        add(&journal, file, line, sizeof line);
        if (i % 5 == 4) {
            journal_flush(&journal);
        }
    }
    journal_free(&journal);
    static const char *const names[] = {"turns.journal", "turns.journal.1", "turns.journal.2"};
    for (size_t i = 0; i < 3; i++) {
        struct stat info;
        SCHED_ASSERT(stat(path_of(names[i]), &info) == 0 && info.st_size > 0 && info.st_size <= 20000);
        SCHED_ASSERT(look_through(names[i]).kinds[JOURNAL_LOG] > 0);
    }
    SCHED_ASSERT(access(path_of("turns.journal.3"), F_OK) != 0);
    clear();
}

static uint64_t bytes_on_disk(void) {
    uint64_t bytes = 0;
    DIR *all = opendir(dir);
    SCHED_ASSERT(all != NULL);
    for (const struct dirent *entry = readdir(all); entry != NULL; entry = readdir(all)) {
        struct stat info;
        SCHED_ASSERT(stat(path_of(entry->d_name), &info) == 0);
        bytes += S_ISREG(info.st_mode) ? (uint64_t)info.st_size : 0;
    }
    closedir(all);
    return bytes;
}

/* Who floods loses his own old lines, nobody else's. What a function that is gone has left counts too. */
static void all_together_are_bounded(void) {
    enum { TOTAL = 1 << 20, QUIET = 20 };
    struct journal journal;
    SCHED_ASSERT(journal_new(&journal, dir, &(struct journal_limits){.file_bytes_max = 1 << 20, .files_max = 100,
                                                                     .total_bytes_max = TOTAL}) == 0);
    static uint8_t line[20000];
    struct journal_file *quiet[QUIET];
    for (int i = 0; i < QUIET; i++) {
        char name[16];
        snprintf(name, sizeof name, "a%d", i); /* in every order before the loud one */
        quiet[i] = journal_open(&journal, name);
        add(&journal, quiet[i], line, 10000);
    }
    struct journal_file *gone = journal_open(&journal, "gone");
    for (int i = 0; i < 20; i++) {
        add(&journal, gone, line, sizeof line);
    }
    journal_close(&journal, gone);
    struct journal_file *loud = journal_open(&journal, "loud");
    for (int i = 0; i < 400; i++) {
        add(&journal, loud, line, sizeof line);
        journal_flush(&journal);
        while (mailbox_waiting(&journal.to_writer) > 8) {
            nap();
        }
    }
    for (int i = 0; i < QUIET; i++) {
        add(&journal, quiet[i], line, 5);
    }
    journal_free(&journal);
    SCHED_ASSERT(journal_lost(&journal) == 0);
    const uint64_t bytes = bytes_on_disk();
    SCHED_ASSERT(bytes <= TOTAL && bytes > TOTAL / 2 && bytes == atomic_load(&journal.disk.bytes));
    for (int i = 0; i < QUIET; i++) {
        char name[32];
        snprintf(name, sizeof name, "a%d.journal", i);
        SCHED_ASSERT(look_through(name).kinds[JOURNAL_LOG] == 2);
    }
    SCHED_ASSERT(look_through("loud.journal").kinds[JOURNAL_LOG] > 0);
    clear();
}

static uint64_t realtime_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

static void set_written(const char *name, time_t ago_s) {
    const struct timespec when[2] = {{.tv_sec = time(NULL) - ago_s}, {.tv_sec = time(NULL) - ago_s}};
    SCHED_ASSERT(utimensat(AT_FDCWD, path_of(name), when, 0) == 0);
}

static void put_file(const char *name, const void *bytes, size_t size) {
    const int fd = open(path_of(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    SCHED_ASSERT(fd >= 0 && write(fd, bytes, size) == (ssize_t)size);
    close(fd);
}

static void age_turns_files_over_and_ends_them(void) {
    const uint64_t day_ns = 86400ULL * 1000000000ULL;
    struct journal_record old = {.size = sizeof old, .kind = JOURNAL_LOG, .time_ns = realtime_ns() - 2 * day_ns};
    struct journal_record fresh = old;
    fresh.time_ns = realtime_ns() - day_ns / 2;
    put_file("begun.journal", &old, sizeof old);
    put_file("fresh.journal", &fresh, sizeof fresh);
    put_file("left.journal", &old, sizeof old);
    put_file("left.journal.3", &old, sizeof old);
    put_file("no-journal.txt", &old, sizeof old);
    set_written("left.journal", 10 * 86400);
    set_written("left.journal.3", 10 * 86400);
    set_written("no-journal.txt", 10 * 86400);
    struct journal journal;
    SCHED_ASSERT(journal_new(&journal, dir, &(struct journal_limits){.file_bytes_max = 1 << 20, .files_max = 3, .turn_ns = day_ns,
                                                                     .keep_ns = 7 * day_ns}) == 0);
    for (int i = 0; i < 2; i++) {
        struct journal_file *file = journal_open(&journal, i == 0 ? "begun" : "fresh");
        add(&journal, file, "new\n", 4);
    }
    journal_free(&journal);
    SCHED_ASSERT(look_through("begun.journal").kinds[JOURNAL_LOG] == 1 && look_through("begun.journal.1").kinds[JOURNAL_LOG] == 1);
    SCHED_ASSERT(look_through("fresh.journal").kinds[JOURNAL_LOG] == 2 && access(path_of("fresh.journal.1"), F_OK) != 0);
    SCHED_ASSERT(access(path_of("left.journal"), F_OK) != 0 && access(path_of("left.journal.3"), F_OK) != 0);
    SCHED_ASSERT(access(path_of("no-journal.txt"), F_OK) == 0);
    clear();
}

/* A torn end is cut off, so that what is written next can be read. What no write of ours can have left is put aside. */
static void what_a_crash_left_hides_nothing(void) {
    struct {
        struct journal_record head;
        char text[4];
    } record = {.head = {.size = sizeof record, .kind = JOURNAL_LOG, .time_ns = 1}};
    for (size_t torn = 0; torn <= sizeof record; torn++) {
        uint8_t bytes[2 * sizeof record];
        memcpy(bytes, &record, sizeof record);
        memcpy(bytes + sizeof record, &record, sizeof record);
        put_file("torn.journal", bytes, sizeof record + torn);
        struct journal journal;
        SCHED_ASSERT(journal_new(&journal, dir, &(struct journal_limits){.file_bytes_max = 1 << 20, .files_max = 1}) == 0);
        add(&journal, journal_open(&journal, "torn"), "new\n", 4);
        journal_free(&journal);
        SCHED_ASSERT(look_through("torn.journal").kinds[JOURNAL_LOG] == (torn == sizeof record ? 3 : 2));
        SCHED_ASSERT(access(path_of("torn.journal.1"), F_OK) != 0);
    }
    static uint8_t rubbish[JOURNAL_LARGE_BYTES + 1];
    memset(rubbish, 0xff, sizeof rubbish);
    put_file("torn.journal", rubbish, sizeof rubbish);
    struct journal journal;
    SCHED_ASSERT(journal_new(&journal, dir, &(struct journal_limits){.file_bytes_max = 1 << 20, .files_max = 1}) == 0);
    add(&journal, journal_open(&journal, "torn"), "new\n", 4);
    journal_free(&journal);
    SCHED_ASSERT(look_through("torn.journal").kinds[JOURNAL_LOG] == 1);
    struct stat info;
    SCHED_ASSERT(stat(path_of("torn.journal.1"), &info) == 0 && info.st_size == sizeof rubbish);
    clear();
}

enum { FILES = 3 };

static void write_until_killed(uint64_t from) {
    struct journal journal;
    SCHED_ASSERT(journal_new(&journal, dir, &(struct journal_limits){.file_bytes_max = 4000, .files_max = FILES,
                                                                     .total_bytes_max = 1 << 20}) == 0);
    struct journal_file *file = journal_open(&journal, "killed");
    for (uint64_t i = from;; i++) {
        add(&journal, file, &i, sizeof i);
        if (i % 16 == 0) {
            journal_flush(&journal); /* a rotation for every few of these */
            if (i % 4096 == 0) {
                nap();
            }
        }
    }
}

/* Numbers in `name`, which rise: none is there twice, none out of place. Returns the last. */
static uint64_t rising(const char *name, uint64_t last) {
    size_t bytes;
    uint8_t *all = read_whole(name, &bytes);
    for (size_t at = 0; at < bytes;) {
        struct journal_record head;
        SCHED_ASSERT(bytes - at >= sizeof head);
        memcpy(&head, all + at, sizeof head);
        SCHED_ASSERT(head.size <= bytes - at && (head.kind == JOURNAL_DROPPED || head.size == sizeof head + 8));
        uint64_t number;
        memcpy(&number, all + at + sizeof head, sizeof number);
        SCHED_ASSERT(head.kind == JOURNAL_DROPPED || number > last);
        last = head.kind == JOURNAL_DROPPED ? last : number;
        at += head.size;
    }
    free(all);
    return last;
}

static void killed_while_it_rotates_it_loses_only_what_was_not_written(void) {
    uint64_t from = 1;
    for (int round = 0; round < 25; round++) {
        const pid_t child = fork();
        SCHED_ASSERT(child >= 0);
        if (child == 0) {
            write_until_killed(from);
        }
        const struct timespec some = {.tv_nsec = 1000000 + round * 777777};
        nanosleep(&some, NULL);
        SCHED_ASSERT(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
        /* The next start mends the file; everything in all of them is whole and in order. */
        from += 1ULL << 32;
        struct journal journal;
        SCHED_ASSERT(journal_new(&journal, dir, &(struct journal_limits){.file_bytes_max = 1 << 30, .files_max = FILES}) == 0);
        add(&journal, journal_open(&journal, "killed"), &from, sizeof from);
        journal_free(&journal);
        uint64_t last = 0;
        for (int i = FILES; i >= 0; i--) {
            char name[32];
            snprintf(name, sizeof name, i == 0 ? "killed.journal" : "killed.journal.%d", i);
            last = rising(name, last);
        }
        SCHED_ASSERT(last == from);
        from++;
    }
    clear();
}

/* A disk that takes nothing: counted at once, and told in the journal where it goes on. */
static void what_the_disk_does_not_take_is_counted_and_told(void) {
    struct journal journal;
    SCHED_ASSERT(journal_new(&journal, dir, &(struct journal_limits){.file_bytes_max = 1 << 20, .files_max = 1}) == 0);
    SCHED_ASSERT(symlink("/nowhere", path_of("hello.journal")) == 0); /* it is never followed */
    struct journal_file *file = journal_open(&journal, "hello");
    add(&journal, file, "lost\n", 5);
    journal_flush(&journal);
    const uint64_t size = sizeof(struct journal_record) + 5;
    for (int i = 0; i < 1000 && journal_lost(&journal) == 0; i++) {
        nap();
    }
    SCHED_ASSERT(journal_lost(&journal) == size && atomic_load(&journal.disk.trouble) == ELOOP);
    SCHED_ASSERT(unlink(path_of("hello.journal")) == 0);
    add(&journal, file, "kept\n", 5);
    journal_free(&journal);
    const struct found found = look_through("hello.journal");
    SCHED_ASSERT(found.kinds[JOURNAL_DROPPED] == 1 && found.dropped_bytes == size && found.kinds[JOURNAL_LOG] == 1);
    clear();
}

/* Opening a pipe that nobody reads waits, as a disk that hangs does. Whoever adds, flushes and closes must not. */
static void a_disk_that_hangs_delays_nobody(void) {
    struct journal journal;
    SCHED_ASSERT(journal_new(&journal, dir, &(struct journal_limits){.file_bytes_max = 1 << 20, .files_max = 1}) == 0);
    SCHED_ASSERT(mkfifo(path_of("stuck.journal"), 0600) == 0);
    struct journal_file *stuck = journal_open(&journal, "stuck");
    add(&journal, stuck, "first\n", 6);
    journal_flush(&journal);
    const uint64_t begin_ns = wall_ns();
    static uint8_t large[JOURNAL_LOG_BYTES_MAX];
    for (int i = 0; i < 6000; i++) {
        char name[16];
        snprintf(name, sizeof name, "g%d", i % 50);
        struct journal_file *file = journal_open(&journal, name);
        add(&journal, file, large, i % 10 == 0 ? sizeof large : 10);
        journal_close(&journal, file);
    }
    SCHED_ASSERT(wall_ns() - begin_ns < 2000000000ULL);
    SCHED_ASSERT(journal.held_bytes <= JOURNAL_HELD_BYTES_MAX && journal_lost(&journal) > 0 && journal_busy(&journal));
    const int reader = open(path_of("stuck.journal"), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    SCHED_ASSERT(reader >= 0);
    journal_free(&journal); /* and all that could be kept is written */
    close(reader);
    SCHED_ASSERT(look_through("g0.journal").kinds[JOURNAL_LOG] > 0);
    clear();
}

static void names_that_are_paths_are_refused(void) {
    static const char *const bad[] = {"", "../x", "a/b", "a.b", "a b", "\xff"};
    struct journal journal;
    SCHED_ASSERT(journal_new(&journal, dir, &(struct journal_limits){.file_bytes_max = 1 << 20, .files_max = 1}) == 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        SCHED_ASSERT(journal_open(&journal, bad[i]) == NULL);
    }
    char longest[160];
    memset(longest, 'n', sizeof longest);
    longest[141] = '\0';
    SCHED_ASSERT(journal_open(&journal, longest) == NULL);
    longest[140] = '\0';
    SCHED_ASSERT(journal_open(&journal, longest) != NULL);
    journal_free(&journal);
    struct journal off;
    SCHED_ASSERT(journal_new(&off, "", &(struct journal_limits){.file_bytes_max = 1, .files_max = 1}) == 0 && journal_open(&off, "hello") == NULL);
    add(&off, NULL, "x", 1);
    journal_flush(&off);
    journal_free(&off);
    clear();
}

int main(void) {
    snprintf(dir, sizeof dir, "/tmp/test-journal-%d", (int)getpid());
    SCHED_ASSERT(mkdir(dir, 0700) == 0);
    RUN(what_is_added_is_on_the_disk);
    RUN(a_thousand_functions_find_a_buffer_each);
    RUN(rotation_keeps_whole_records);
    RUN(all_together_are_bounded);
    RUN(age_turns_files_over_and_ends_them);
    RUN(what_a_crash_left_hides_nothing);
    RUN(killed_while_it_rotates_it_loses_only_what_was_not_written);
    RUN(what_the_disk_does_not_take_is_counted_and_told);
    RUN(a_disk_that_hangs_delays_nobody);
    RUN(names_that_are_paths_are_refused);
    SCHED_ASSERT(rmdir(dir) == 0);
    return 0;
}
