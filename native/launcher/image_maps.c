#include "image_maps.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "image.h"

/* ---- /proc/self/smaps ---- */

static const char *hex(const char *at, uint64_t *value) {
    uint64_t sum = 0;
    for (;; at++) {
        const unsigned digit = *at >= '0' && *at <= '9'   ? (unsigned)(*at - '0')
                               : *at >= 'a' && *at <= 'f' ? (unsigned)(*at - 'a') + 10
                                                          : 16;
        if (digit == 16) {
            *value = sum;
            return at;
        }
        sum = sum << 4 | digit;
    }
}

static uint64_t decimal(const char *at) {
    uint64_t sum = 0;
    while (*at == ' ') {
        at++;
    }
    for (; *at >= '0' && *at <= '9'; at++) {
        sum = sum * 10 + (uint64_t)(*at - '0');
    }
    return sum;
}

static bool starts(const char *text, const char *with) {
    return strncmp(text, with, strlen(with)) == 0;
}

static bool ends(const char *text, const char *with) {
    const size_t length = strlen(text), tail = strlen(with);
    return length >= tail && strcmp(text + length - tail, with) == 0;
}

static void other(struct area *area, const char *why) {
    area->kind = MAPS_OTHER;
    area->why = why;
}

/* What it is, by its name: the kernel's words in brackets, else a path or nothing. */
static void classify(struct area *area, bool shared) {
    const char *const path = area->path;
    area->shared = shared;
    if (path[0] == '\0' || strcmp(path, "[heap]") == 0 || starts(path, "[anon:")) {
        area->kind = MAPS_ANON;
    } else if (strcmp(path, "[stack]") == 0) {
        area->kind = MAPS_STACK;
    } else if (path[0] == '[') {
        area->kind = MAPS_KERNEL;
    } else if (ends(path, " (deleted)")) {
        other(area, starts(path, "/dev/zero") || starts(path, "/memfd:") || starts(path, "/SYSV") ? "shared memory"
                                                                                                 : "pages of a file that is gone");
    } else if (starts(path, "/tmp/") || starts(path, "/dev/")) {
        area->kind = MAPS_FILE; /* if the zygote has it too, it is all right */
        area->why = "pages of a file that is not the function's code";
    } else {
        area->kind = MAPS_FILE;
    }
    if (shared && (area->kind != MAPS_FILE || (area->protection & PROT_WRITE) != 0)) {
        other(area, "shared memory");
    }
}

/* "start-end perms offset major:minor inode   path" */
static bool head_line(char *line, struct area *area) {
    uint64_t major = 0, minor = 0;
    memset(area, 0, sizeof *area);
    const char *at = hex(line, &area->start);
    if (*at != '-') {
        return false;
    }
    at = hex(at + 1, &area->end);
    if (at[0] != ' ' || strlen(at) < 7) {
        return false;
    }
    const char *const flags = at + 1;
    area->protection = (flags[0] == 'r' ? PROT_READ : 0U) | (flags[1] == 'w' ? PROT_WRITE : 0U) | (flags[2] == 'x' ? PROT_EXEC : 0U);
    at = hex(flags + 5, &area->offset);
    at = *at == ' ' ? hex(at + 1, &major) : at;
    at = *at == ':' ? hex(at + 1, &minor) : "";
    if (*at != ' ') {
        return false;
    }
    area->inode = decimal(at + 1);
    for (at++; *at >= '0' && *at <= '9'; at++) {
    }
    while (*at == ' ') {
        at++;
    }
    area->device = major << 32 | minor;
    area->path = at;
    classify(area, flags[3] == 's');
    return area->start < area->end;
}

static void flags_line(const char *line, struct area *area) {
    for (const char *at = line + strlen("VmFlags:"); (at = strchr(at, ' ')) != NULL && at[1] != '\0'; at++) {
        const char a = at[1], b = at[2];
        area->wiped = area->wiped || (a == 'w' && b == 'f');
        area->droppable = area->droppable || (a == 'd' && b == 'p');
        area->unreserved = area->unreserved || (a == 'n' && b == 'r');
        if (area->kind == MAPS_KERNEL) {
            continue;
        }
        if (a == 'g' && b == 'd' && area->kind == MAPS_ANON) {
            other(area, "a stack that grows");
        } else if (a == 'h' && b == 't') {
            other(area, "huge pages");
        } else if ((a == 'i' && b == 'o') || (a == 'p' && b == 'f')) {
            other(area, "memory of a device");
        } else if (a == 's' && b == 's') {
            other(area, "a shadow stack");
        } else if (a == 'u' && (b == 'm' || b == 'w')) {
            other(area, "memory watched by userfaultfd");
        }
    }
}

int maps_parse(char *text, size_t bytes, struct area *areas, unsigned max) {
    unsigned count = 0;
    if (bytes == 0 || text[bytes - 1] != '\n') {
        return -EINVAL;
    }
    for (size_t at = 0; at < bytes;) {
        char *const line = text + at;
        char *const end = memchr(line, '\n', bytes - at);
        *end = '\0';
        at += (size_t)(end - line) + 1;
        if (line[0] < 'A' || line[0] > 'Z') {
            if (count == max) {
                return -E2BIG;
            }
            if (!head_line(line, &areas[count]) || (count > 0 && areas[count].start < areas[count - 1].end)) {
                return -EINVAL;
            }
            count++;
        } else if (count == 0) {
            return -EINVAL;
        } else if (starts(line, "Anonymous:") || starts(line, "Swap:")) {
            areas[count - 1].written = areas[count - 1].written || decimal(strchr(line, ':') + 1) > 0;
        } else if (starts(line, "VmFlags:")) {
            flags_line(line, &areas[count - 1]);
        }
    }
    return (int)count;
}

int maps_read(char *room, size_t bytes, struct area *areas, unsigned max) {
    const int fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    size_t held = 0;
    ssize_t got = 1;
    while (got > 0 && held < bytes) {
        got = read(fd, room + held, bytes - held);
        held += got > 0 ? (size_t)got : 0;
    }
    const int error = got < 0 ? -errno : held == bytes ? -ENOBUFS : 0;
    close(fd);
    return error < 0 ? error : maps_parse(room, held, areas, max);
}

/* ---- who writes where ---- */

enum { ENTERED_BYTES = 64 << 10 }; /* more than the C library's data without initial values */

static bool is_entered(const char *path) {
    static const char *const names[] = {"/libc.so", "/libc-2.", "/ld-linux", "/ld-2.", "/ld-musl", "/libpthread"};
    const char *const name = strrchr(path, '/');
    for (unsigned i = 0; name != NULL && i < sizeof names / sizeof *names; i++) {
        if (starts(name, names[i])) {
            return true;
        }
    }
    return false;
}

void maps_mark_entered(struct area *areas, unsigned count, uint64_t own) {
    const struct area *ours = NULL;
    for (unsigned i = 0; i < count; i++) {
        ours = areas[i].start <= own && own < areas[i].end ? &areas[i] : ours;
    }
    for (unsigned i = 0; i < count; i++) {
        struct area *const area = &areas[i];
        const bool same = ours != NULL && ours->kind == MAPS_FILE && ours->device == area->device && ours->inode == area->inode;
        if (area->kind == MAPS_FILE && (same || is_entered(area->path))) {
            area->entered = area->end;
            /* Its data without initial values, which has no file behind it, and may have been joined with what follows. */
            if (i + 1 < count && areas[i + 1].kind == MAPS_ANON && areas[i + 1].start == area->end) {
                areas[i + 1].entered = areas[i + 1].start + ENTERED_BYTES;
            }
        }
    }
}

/* ---- pages ---- */

int maps_own_pages(int fd, uint64_t start, unsigned count, uint8_t *own) {
    enum { AT_ONCE = 512 };
    const uint64_t present = 1ULL << 63, swapped = 1ULL << 62, of_file = 1ULL << 61;
    uint64_t entries[AT_ONCE];
    for (unsigned done = 0; done < count;) {
        const unsigned now = count - done < AT_ONCE ? count - done : AT_ONCE;
        const ssize_t got = pread(fd, entries, now * sizeof *entries, (off_t)((start / IMAGE_PAGE + done) * sizeof *entries));
        if (got != (ssize_t)(now * sizeof *entries)) {
            return got < 0 ? -errno : -EIO;
        }
        for (unsigned i = 0; i < now; i++) {
            own[done + i] = (entries[i] & (present | swapped)) != 0 && (entries[i] & of_file) == 0;
        }
        done += now;
    }
    return 0;
}

/* Not for secrets: who makes two pages alike to it deceives sandboxes of his own function only. Four lanes, since one would wait for
 * its multiplications; 5,000 pages take 2 ms. */
__attribute__((no_sanitize("address", "undefined"))) uint64_t maps_page_key(const void *page) {
    const volatile uint64_t *const words = page;
    uint64_t lane[4] = {0x9e3779b97f4a7c15, 0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9, 0xd6e8feb86659fd93};
    uint64_t any = 0;
    for (unsigned i = 0; i < IMAGE_PAGE / sizeof *words; i += 4) {
        for (unsigned k = 0; k < 4; k++) {
            const uint64_t word = words[i + k];
            any |= word;
            lane[k] = (lane[k] ^ word) * 0x9fb21c651e98df25;
            lane[k] ^= lane[k] >> 29;
        }
    }
    if (any == 0) {
        return 0;
    }
    uint64_t key = 0;
    for (unsigned k = 0; k < 4; k++) {
        key = (key ^ lane[k]) * 0xff51afd7ed558ccd;
        key ^= key >> 32;
    }
    return key | 1;
}
