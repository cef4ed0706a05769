/* What an encrypted /tmp costs, step by step, in one process and without a sandbox: made, locked under a key, given back and locked
 * anew, dropped. JSON of microseconds on standard output.
 *
 *   volumes DIRECTORY COUNT SIZE_MB      as root; exit status 3: it cannot be had here, and why is on standard error
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "scratch_volume.h"

enum { COUNT_MAX = 1000, CANNOT = 3 };

struct times {
    const char *name;
    double us[COUNT_MAX];
    unsigned count;
};

static double now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static int by_size(const void *a, const void *b) {
    const double left = *(const double *)a, right = *(const double *)b;
    return left < right ? -1 : left > right;
}

static void print(struct times *times, const char *end) {
    qsort(times->us, times->count, sizeof *times->us, by_size);
    printf("\"%s\": {\"count\": %u, \"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f}%s", times->name, times->count,
           times->us[times->count / 2], times->us[times->count * 99 / 100], times->us[times->count - 1], end);
}

static void check(int error, const char *step) {
    if (error < 0) {
        fprintf(stderr, "%s: %s\n", step, strerror(-error));
        exit(CANNOT);
    }
}

int main(int count, char **arguments) {
    static struct times make = {.name = "make"}, lock = {.name = "lock"}, reuse = {.name = "reuse"}, drop = {.name = "drop"};
    static struct volume_place place;
    struct volume volume;
    const char *step = "";
    const int volumes = count == 4 ? atoi(arguments[2]) : 0;
    if (volumes < 1 || volumes > COUNT_MAX / 2) {
        fprintf(stderr, "usage: volumes DIRECTORY COUNT SIZE_MB   COUNT is 1 to %d\n", COUNT_MAX / 2);
        return 2;
    }
    check(volume_place_open(&place, arguments[1], &step), step);
    for (int i = 0; i <= volumes; i++) {
        double begun = now_us();
        check(volume_make(&place, &volume, (uint32_t)i, (uint32_t)atoi(arguments[3]), &step), step);
        const double made = now_us() - begun;
        for (unsigned use = 0; use < 2; use++) {
            begun = now_us();
            const int mount = volume_lock(&volume, &step);
            const double locked = now_us() - begun;
            check(mount, step);
            close(mount);
            begun = now_us();
            if (!volume_reuse(&volume)) {
                fprintf(stderr, "an empty volume could not be used again\n");
                return 1;
            }
            if (i > 0) { /* the first makes the template too */
                lock.us[lock.count++] = locked;
                reuse.us[reuse.count++] = now_us() - begun;
            }
        }
        begun = now_us();
        volume_drop(&place, &volume);
        if (i > 0) {
            make.us[make.count++] = made;
            drop.us[drop.count++] = now_us() - begun;
        }
    }
    printf("{");
    print(&make, ", ");
    print(&lock, ", ");
    print(&reuse, ", ");
    print(&drop, "}\n");
    return 0;
}
