/* The zygote's memory remembered, and the maker's written down. image.h has the whole; image_thaw.c the way back. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image.h"
#include "image_maps.h"
#include "image_thaw.h"
#include "wire.h"

enum {
    AREAS_MAX = 8192,
    TEXT_BYTES = 16 << 20,     /* of smaps: 700 bytes an area */
    PAGES_MAX = 4 << 20,       /* of a zygote: 16 GB */
    GAP_PAGES = 32,            /* unchanged pages between changed ones are cheaper to take along than a mapping of their own */
    SLACK_BYTES = 1 << 20      /* what the maker may grow by between being measured and being written */
};

struct known_page {
    uint64_t address, key;
};

/* What the zygote was when it began to fork. In a mapping of its own, the same in every sandbox and part of no image. */
struct baseline {
    uint64_t bytes;            /* of the mapping */
    uint8_t id[IMAGE_ID_BYTES];
    struct kernel_signal signals[IMAGE_SIGNALS];
    uint64_t heap_end;
    uint32_t areas_count;
    uint64_t pages_count;
    struct area areas[AREAS_MAX]; /* their text is gone */
    struct known_page pages[];
};

static const struct baseline *baseline; /* set once, before the first fork; NULL: no images */

static void *reserve(size_t bytes) {
    void *const room = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return room == MAP_FAILED ? NULL : room;
}

/* So that the kernel does not join it with a neighbour that is somebody else's: nobody has both of these. */
static int stand_alone(void *at, size_t bytes) {
    return madvise(at, bytes, MADV_DONTDUMP) < 0 || (madvise(at, bytes, MADV_NOHUGEPAGE) < 0 && errno != EINVAL) ? -errno : 0;
}

static uint64_t round_up(uint64_t bytes) {
    return (bytes + IMAGE_PAGE - 1) & ~(uint64_t)(IMAGE_PAGE - 1);
}

const uint8_t *image_zygote_id(void) {
    static const uint8_t none[IMAGE_ID_BYTES];
    return baseline == NULL ? none : baseline->id;
}

static bool overlaps(const struct area *area, const void *at, uint64_t bytes) {
    const uint64_t start = (uint64_t)(uintptr_t)at;
    return area->start < start + bytes && start < area->end;
}

/* A file's page of its own has a key that none of its unwritten pages has, whatever it holds. */
static uint64_t key_of(const struct area *area, uint64_t page) {
    const uint64_t key = maps_page_key((const void *)(uintptr_t)page);
    return area->kind == MAPS_FILE && key == 0 ? 3 : key;
}

/* ---- the zygote ---- */

/* Each page of the area that is its own, if it is not empty. 0 or -errno. */
static int remember(struct baseline *base, int pagemap, const struct area *area, uint8_t *own) {
    for (uint64_t at = area->start; at < area->end;) {
        const uint64_t left = (area->end - at) / IMAGE_PAGE;
        const unsigned count = left < MAPS_CHUNK ? (unsigned)left : MAPS_CHUNK;
        const int error = maps_own_pages(pagemap, at, count, own);
        if (error < 0) {
            return error;
        }
        for (unsigned i = 0; i < count; i++, at += IMAGE_PAGE) {
            const uint64_t key = own[i] ? key_of(area, at) : 0;
            if (key == 0) {
                continue;
            }
            if (base->pages_count == PAGES_MAX) {
                return -E2BIG;
            }
            base->pages[base->pages_count++] = (struct known_page){at, key};
        }
    }
    return 0;
}

static int record(struct baseline *base, char *text, uint8_t *own) {
    const int count = maps_read(text, TEXT_BYTES, base->areas, AREAS_MAX);
    if (count < 0) {
        return count;
    }
    base->areas_count = (uint32_t)count;
    for (unsigned i = 0; i < base->areas_count; i++) { /* these two are no memory of the zygote's */
        struct area *const area = &base->areas[i];
        if (overlaps(area, base, base->bytes) || overlaps(area, text, TEXT_BYTES)) {
            area->kind = MAPS_KERNEL;
        }
    }
    const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0) {
        return -errno;
    }
    int error = 0;
    for (unsigned i = 0; i < base->areas_count && error == 0; i++) {
        const struct area *const area = &base->areas[i];
        const bool kept = (area->kind == MAPS_ANON || area->kind == MAPS_FILE) && area->written &&
                          (area->protection & PROT_READ) != 0;
        error = kept ? remember(base, pagemap, area, own) : 0;
    }
    close(pagemap);
    for (unsigned i = 0; i < base->areas_count; i++) {
        base->areas[i].path = base->areas[i].why = NULL; /* the text goes */
    }
    for (int number = 1; number <= IMAGE_SIGNALS; number++) {
        thaw_get_signal(number, &base->signals[number - 1]);
    }
    base->heap_end = (uint64_t)syscall(SYS_brk, 0);
    return error;
}

int image_baseline(void) {
    if (!thaw_supported()) {
        return -ENOSYS;
    }
    const size_t bytes = sizeof(struct baseline) + PAGES_MAX * sizeof(struct known_page);
    struct baseline *const base = reserve(bytes);
    char *const text = reserve(TEXT_BYTES + MAPS_CHUNK);
    int error = base == NULL || text == NULL ? -ENOMEM : 0;
    error = error == 0 ? stand_alone(base, bytes) : error;
    error = error == 0 ? stand_alone(text, TEXT_BYTES + MAPS_CHUNK) : error;
    if (error == 0) {
        base->bytes = bytes;
        error = getrandom(base->id, sizeof base->id, 0) == (ssize_t)sizeof base->id ? 0 : -EIO;
    }
    if (error == 0) {
        error = record(base, text, (uint8_t *)text + TEXT_BYTES);
    }
    if (text != NULL) {
        munmap(text, TEXT_BYTES + MAPS_CHUNK);
    }
    if (error == 0) {
        const uint64_t used = round_up(sizeof *base + base->pages_count * sizeof(struct known_page));
        munmap((char *)base + used, bytes - used);
        base->bytes = used;
        error = mprotect(base, used, PROT_READ) < 0 ? -errno : 0;
    }
    if (error < 0) {
        if (base != NULL) {
            munmap(base, bytes);
        }
        return error;
    }
    baseline = base;
    return 0;
}

/* A fork has the pages of files in no table of its own, and would look up a few at a time. */
void image_warm(const void *code) {
    enum { POPULATE_READ = 22 };
    const uint64_t at = (uint64_t)(uintptr_t)code;
    for (uint32_t i = 0; baseline != NULL && i < baseline->areas_count; i++) {
        const struct area *const area = &baseline->areas[i];
        if (area->kind == MAPS_FILE && area->start <= at && at < area->end) {
            (void)madvise((void *)(uintptr_t)area->start, area->end - area->start, POPULATE_READ); /* Linux 5.14; a help only */
        }
    }
}

/* ---- the maker: what to do to a newborn ---- */

/* In a mapping that is part of no image. */
struct work {
    struct image_header header;
    struct image_result *result;
    int pagemap;
    unsigned areas_count, pages;
    uint64_t data_bytes;               /* of pages */
    uint64_t thread;                   /* address of the thread's block */
    uint64_t next_known;               /* index of the first page of the baseline that was not looked at */
    struct area areas[AREAS_MAX];
    struct image_op ops[IMAGE_OPS_MAX];
    struct image_file files[IMAGE_FILES_MAX];
    struct image_descriptor descriptors[IMAGE_DESCRIPTORS_MAX];
    struct image_signal signals[IMAGE_SIGNALS];
    char strings[IMAGE_STRINGS_BYTES_MAX];
    uint8_t own[MAPS_CHUNK];
    char text[TEXT_BYTES];
};

__attribute__((format(printf, 2, 3))) static bool unsuitable(struct work *work, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(work->result->reason, sizeof work->result->reason, format, arguments);
    va_end(arguments);
    return false;
}

static bool add_op(struct work *work, enum image_op_kind kind, uint64_t start, uint64_t end, uint32_t protection, uint64_t at,
                   uint32_t index) {
    if (work->header.ops == IMAGE_OPS_MAX) {
        return unsuitable(work, "its memory is in too many pieces: more than %d", IMAGE_OPS_MAX);
    }
    work->ops[work->header.ops++] = (struct image_op){
        .kind = kind, .protection = protection, .address = start, .bytes = end - start, .at = at, .index = index};
    return true;
}

static bool add_string(struct work *work, const char *text, uint32_t *at) {
    const size_t bytes = strlen(text) + 1;
    if (bytes > IMAGE_STRINGS_BYTES_MAX - work->header.strings_bytes) {
        return unsuitable(work, "the paths of its files are too long");
    }
    *at = work->header.strings_bytes;
    memcpy(work->strings + *at, text, bytes);
    work->header.strings_bytes += (uint32_t)bytes;
    return true;
}

static bool foreign(struct work *work, const struct area *area) {
    return unsuitable(work, "%s%s%.120s", area->why, area->path[0] != '\0' ? ": " : "", area->path);
}

static bool add_file(struct work *work, const struct area *area, uint32_t *index) {
    struct stat status;
    if (area->why != NULL) {
        return foreign(work, area);
    }
    if (stat(area->path, &status) < 0 || status.st_ino != area->inode) {
        return unsuitable(work, "%s is mapped and can no longer be found", area->path);
    }
    for (*index = 0; *index < work->header.files; ++*index) {
        if (work->files[*index].device == status.st_dev && work->files[*index].inode == status.st_ino) {
            return true;
        }
    }
    if (work->header.files == IMAGE_FILES_MAX) {
        return unsuitable(work, "it has mapped more than %d files", IMAGE_FILES_MAX);
    }
    work->header.files++;
    work->files[*index] = (struct image_file){.device = status.st_dev, .inode = status.st_ino};
    return add_string(work, area->path, &work->files[*index].path);
}

/* A run of pages to be written: mapped from the image, and so shared until written to; the stack, which grows, is copied. */
static bool add_run(struct work *work, const struct area *area, uint64_t start, uint64_t end, bool copied) {
    const uint64_t at = work->data_bytes;
    work->data_bytes += end - start;
    work->pages += (unsigned)((end - start) / IMAGE_PAGE);
    const bool copy = (area->protection & PROT_WRITE) != 0 && copied;
    return add_op(work, copy ? IMAGE_COPY : IMAGE_PAGES, start, end, area->protection, at, 0);
}

struct run {
    uint64_t start, end; /* start == end: none */
};

static bool end_run(struct work *work, const struct area *area, struct run *run, bool copied) {
    const struct run done = *run;
    *run = (struct run){0, 0};
    return done.start == done.end || add_run(work, area, done.start, done.end, copied);
}

static uint64_t known_key(struct work *work, uint64_t page) {
    while (work->next_known < baseline->pages_count && baseline->pages[work->next_known].address < page) {
        work->next_known++;
    }
    return work->next_known < baseline->pages_count && baseline->pages[work->next_known].address == page
               ? baseline->pages[work->next_known].key
               : 0;
}

/* A newborn writes there before it is thawed, so that what the zygote had there is not what is found. */
static bool is_entered(const struct work *work, const struct area *area, uint64_t page) {
    enum { BELOW = 16 << 10, ABOVE = 4 << 10 };
    return (page < area->entered && (area->protection & PROT_WRITE) != 0) || (page + IMAGE_PAGE > work->thread - BELOW && page < work->thread + ABOVE);
}

/* A page that the zygote had written and that is empty again. */
static bool add_zero(struct work *work, uint64_t page) {
    struct image_op *const last = work->header.ops > 0 ? &work->ops[work->header.ops - 1] : NULL;
    if (last != NULL && last->kind == IMAGE_ZERO && last->address + last->bytes == page) {
        last->bytes += IMAGE_PAGE;
        return true;
    }
    return add_op(work, IMAGE_ZERO, page, page + IMAGE_PAGE, 0, 0, 0);
}

/* The pages of [start, end) of the area. common: a newborn has there what the zygote had. */
static bool add_pages(struct work *work, const struct area *area, uint64_t start, uint64_t end, bool common) {
    struct run run = {0, 0};
    const bool empty = area->wiped || area->droppable;
    for (uint64_t at = start; at < end;) {
        const uint64_t left = (end - at) / IMAGE_PAGE;
        const unsigned count = left < MAPS_CHUNK ? (unsigned)left : MAPS_CHUNK;
        if (maps_own_pages(work->pagemap, at, count, work->own) < 0) {
            return unsuitable(work, "/proc/self/pagemap cannot be read");
        }
        for (unsigned i = 0; i < count; i++, at += IMAGE_PAGE) {
            const uint64_t known = common ? known_key(work, at) : 0;
            const bool own = work->own[i] != 0 && !empty;
            if (!own && known == 0) {
                continue;
            }
            const uint64_t key = own ? key_of(area, at) : 0;
            if (key == known && !(own && common && is_entered(work, area, at))) {
                continue;
            }
            if (key == 0 && area->kind == MAPS_ANON) {
                if (known != 0 && !add_zero(work, at)) {
                    return false;
                }
                continue;
            }
            if (run.start != run.end && at - run.end > GAP_PAGES * IMAGE_PAGE && !end_run(work, area, &run, false)) {
                return false;
            }
            run.start = run.start == run.end ? at : run.start;
            run.end = at + IMAGE_PAGE;
        }
    }
    return end_run(work, area, &run, false);
}

/* [start, end) of an area, where the zygote had the area `known` or nothing. */
static bool add_range(struct work *work, const struct area *area, uint64_t start, uint64_t end, const struct area *known) {
    const bool common = known != NULL && known->kind == area->kind && known->shared == area->shared &&
                        known->device == area->device && known->inode == area->inode &&
                        (area->kind == MAPS_ANON || known->offset - known->start == area->offset - area->start);
    uint32_t index = 0;
    if (area->kind == MAPS_ANON && !common) {
        if (!add_op(work, IMAGE_ANON, start, end, area->protection, area->unreserved ? MAP_NORESERVE : 0, 0) ||
            (area->wiped && !add_op(work, IMAGE_WIPE, start, end, 0, 0, 0))) {
            return false;
        }
    } else if (area->kind == MAPS_FILE && !common) {
        const enum image_op_kind kind = area->shared ? IMAGE_SHARED : IMAGE_FILE;
        if (!add_file(work, area, &index) ||
            !add_op(work, kind, start, end, area->protection, area->offset + (start - area->start), index)) {
            return false;
        }
    } else if (known->protection != area->protection &&
               !add_op(work, IMAGE_PROTECT, start, end, area->protection, 0, 0)) {
        return false;
    }
    if (area->shared || (!area->written && !(common && known->written))) {
        return true;
    }
    const bool hidden = (area->protection & PROT_READ) == 0;
    if (hidden && mprotect((void *)(uintptr_t)start, end - start, PROT_READ) < 0) {
        return unsuitable(work, "memory that cannot be read, at %#lx", (unsigned long)start);
    }
    const bool added = add_pages(work, area, start, end, common);
    if (hidden) {
        mprotect((void *)(uintptr_t)start, end - start, (int)area->protection);
    }
    return added;
}

/* From where the stack is used. */
static bool add_stack(struct work *work, const struct area *area) {
    const uint64_t used = work->header.context.rsp & ~(uint64_t)(IMAGE_PAGE - 1);
    struct run run = {0, 0};
    if (used < area->start || used >= area->end) {
        return unsuitable(work, "it runs on another stack");
    }
    for (uint64_t at = used; at < area->end;) {
        const uint64_t left = (area->end - at) / IMAGE_PAGE;
        const unsigned count = left < MAPS_CHUNK ? (unsigned)left : MAPS_CHUNK;
        if (maps_own_pages(work->pagemap, at, count, work->own) < 0) {
            return unsuitable(work, "/proc/self/pagemap cannot be read");
        }
        for (unsigned i = 0; i < count; i++, at += IMAGE_PAGE) {
            if (work->own[i] == 0) {
                continue;
            }
            if (run.start != run.end && at != run.end && !end_run(work, area, &run, true)) {
                return false;
            }
            run.start = run.start == run.end ? at : run.start;
            run.end = at + IMAGE_PAGE;
        }
    }
    return end_run(work, area, &run, true);
}

/* The area of the baseline that holds the address, or the first above it; NULL: none. */
static const struct area *known_at(uint64_t address) {
    for (unsigned i = 0; i < baseline->areas_count; i++) {
        if (address < baseline->areas[i].end) {
            return &baseline->areas[i];
        }
    }
    return NULL;
}

static bool add_area(struct work *work, const struct area *area) {
    switch (area->kind) {
    case MAPS_OTHER:
        return foreign(work, area);
    case MAPS_STACK:
        return add_stack(work, area);
    case MAPS_KERNEL:
        return true;
    case MAPS_ANON:
    case MAPS_FILE:
        break;
    }
    for (uint64_t at = area->start; at < area->end;) {
        const struct area *const known = known_at(at);
        const bool inside = known != NULL && known->start <= at;
        uint64_t end = inside ? known->end : known != NULL ? known->start : area->end;
        end = end < area->end ? end : area->end;
        if (!add_range(work, area, at, end, inside ? known : NULL)) {
            return false;
        }
        at = end;
    }
    return true;
}

/* What the zygote had and the maker has no more. */
static bool add_losses(struct work *work) {
    unsigned next = 0;
    for (unsigned i = 0; i < baseline->areas_count; i++) {
        const struct area *const known = &baseline->areas[i];
        if (known->kind == MAPS_STACK || known->kind == MAPS_KERNEL || overlaps(known, baseline, baseline->bytes)) {
            continue;
        }
        uint64_t at = known->start;
        while (next < work->areas_count && work->areas[next].end <= at) {
            next++;
        }
        for (unsigned k = next; at < known->end; k++) {
            const bool more = k < work->areas_count && work->areas[k].start < known->end;
            const uint64_t end = more ? work->areas[k].start : known->end;
            if (end > at && !add_op(work, IMAGE_UNMAP, at, end, 0, 0, 0)) {
                return false;
            }
            at = more ? work->areas[k].end : known->end;
        }
    }
    return true;
}

/* A place for the thaw's own needs: in the middle of the largest hole that both have. */
static bool find_stage(struct work *work) {
    unsigned a = 0, b = 0;
    uint64_t last = 1 << 16, from = 0, room = 0;
    while (a < work->areas_count || b < baseline->areas_count) {
        const bool ours = b == baseline->areas_count ||
                          (a < work->areas_count && work->areas[a].start < baseline->areas[b].start);
        const struct area *const area = ours ? &work->areas[a++] : &baseline->areas[b++];
        if (area->start > last && area->start - last > room && area->start < 1ULL << 47) {
            from = last;
            room = area->start - last;
        }
        last = area->end > last ? area->end : last;
    }
    work->header.stage_at = (from + room / 2) & ~(uint64_t)(IMAGE_PAGE - 1);
    return room >= 1 << 30 ? true : unsuitable(work, "its address space is full");
}

static bool add_descriptors(struct work *work, const struct image_request *request) {
    if (request->channel <= IMAGE_DESCRIPTOR_MAX) {
        return unsuitable(work, "too few descriptors are allowed");
    }
    if (request->count > IMAGE_DESCRIPTORS_MAX) {
        return unsuitable(work, "%u files are open, at most %d can be opened again", request->count, IMAGE_DESCRIPTORS_MAX);
    }
    for (uint32_t i = 0; i < request->count; i++) {
        work->descriptors[i] = request->descriptors[i];
        if (!add_string(work, request->paths[request->descriptors[i].path], &work->descriptors[i].path)) {
            return false;
        }
    }
    work->header.descriptors = request->count;
    return add_string(work, request->directory, &work->header.directory);
}

static void add_signals(struct work *work) {
    for (int number = 1; number <= IMAGE_SIGNALS; number++) {
        struct kernel_signal now;
        const struct kernel_signal *const known = &baseline->signals[number - 1];
        thaw_get_signal(number, &now);
        if (now.handler != known->handler || now.flags != known->flags || now.mask != known->mask) {
            work->signals[work->header.signals++] = (struct image_signal){
                .number = (uint64_t)number, .handler = now.handler, .flags = now.flags, .restorer = now.restorer, .mask = now.mask};
        }
    }
}

static void add_state(struct work *work, const struct image_request *request) {
    struct image_header *const header = &work->header;
    memcpy(header->magic, IMAGE_MAGIC, sizeof header->magic);
    header->version = IMAGE_VERSION;
    header->machine = IMAGE_MACHINE;
    memcpy(header->zygote, baseline->id, sizeof header->zygote);
    header->maker = (uint32_t)getpid();
    header->channel = request->channel;
    header->file_mode_mask = request->file_mode_mask;
    header->heap_end = (uint64_t)syscall(SYS_brk, 0);
    (void)prctl(PR_GET_NAME, header->name);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, NULL, &header->signal_mask, sizeof header->signal_mask);
    syscall(SYS_sigaltstack, NULL, header->alternate);
    for (int i = 0; i < IMAGE_RLIMITS; i++) {
        syscall(SYS_prlimit64, 0, i, NULL, header->rlimits[i]);
    }
    add_signals(work);
}

/* Everything but the pages themselves. False: unsuitable, and why. */
static bool plan(struct work *work, const struct image_request *request) {
    const int count = maps_read(work->text, sizeof work->text, work->areas, AREAS_MAX);
    if (count < 0) {
        return unsuitable(work, "/proc/self/smaps cannot be read: %s", strerror(-count));
    }
    work->areas_count = (unsigned)count;
    maps_mark_entered(work->areas, work->areas_count, (uint64_t)(uintptr_t)&baseline);
    (void)prctl(PR_SET_DUMPABLE, 1); /* else root owns what /proc shows of it; only its own uid, in its own namespaces, is near */
    work->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    (void)prctl(PR_SET_DUMPABLE, 0);
    if (work->pagemap < 0) {
        return unsuitable(work, "/proc/self/pagemap cannot be opened: %s", strerror(errno));
    }
    int *thread = NULL;
    (void)prctl(PR_GET_TID_ADDRESS, &thread);
    work->thread = (uint64_t)(uintptr_t)thread & ~(uint64_t)63;
    add_state(work, request);
    bool good = add_descriptors(work, request) && find_stage(work) && add_losses(work);
    for (unsigned i = 0; i < work->areas_count && good; i++) {
        const struct area *const area = &work->areas[i];
        const bool ours = overlaps(area, work, sizeof *work) || overlaps(area, baseline, baseline->bytes);
        const uint64_t own_bytes = overlaps(area, work, sizeof *work) ? round_up(sizeof *work) : baseline->bytes;
        if (!ours) {
            good = add_area(work, area);
        } else if (area->end - area->start != own_bytes) {
            good = unsuitable(work, "memory that cannot be told from the tables'");
        }
    }
    wire_close(&work->pagemap);
    return good;
}

/* ---- the maker: writing it ---- */

static bool write_at(struct work *work, int fd, const void *from, uint64_t bytes, uint64_t at) {
    while (bytes > 0) {
        const ssize_t written = pwrite(fd, from, bytes, (off_t)at);
        if (written <= 0) {
            return unsuitable(work, "the image cannot be written: %s", strerror(errno));
        }
        from = (const char *)from + written;
        at += (uint64_t)written;
        bytes -= (uint64_t)written;
    }
    return true;
}

static bool write_pages(struct work *work, int fd) {
    for (uint32_t i = 0; i < work->header.ops; i++) {
        struct image_op *const op = &work->ops[i];
        if (op->kind != IMAGE_PAGES && op->kind != IMAGE_COPY) {
            continue;
        }
        void *const from = (void *)(uintptr_t)op->address;
        const bool hidden = (op->protection & PROT_READ) == 0;
        if (hidden && mprotect(from, op->bytes, PROT_READ) < 0) {
            return unsuitable(work, "memory that cannot be read, at %#lx", (unsigned long)op->address);
        }
        const bool good = write_at(work, fd, from, op->bytes, op->at);
        if (hidden) {
            mprotect(from, op->bytes, (int)op->protection);
        }
        if (!good) {
            return false;
        }
    }
    return true;
}

/* Tables one behind the other, as image_thaw.c finds them. In work->text, which is no longer needed. */
static size_t gather_tables(struct work *work) {
    const struct {
        const void *from;
        size_t bytes;
    } tables[] = {
        {work->ops, work->header.ops * sizeof *work->ops},
        {work->files, work->header.files * sizeof *work->files},
        {work->descriptors, work->header.descriptors * sizeof *work->descriptors},
        {work->signals, work->header.signals * sizeof *work->signals},
        {work->strings, work->header.strings_bytes},
    };
    size_t held = 0;
    for (unsigned i = 0; i < sizeof tables / sizeof *tables; i++) {
        memcpy(work->text + held, tables[i].from, tables[i].bytes);
        held += tables[i].bytes;
    }
    return held;
}

static uint64_t lay_out(struct work *work) {
    const uint64_t data_at = round_up(sizeof work->header + image_tables_bytes(&work->header));
    for (uint32_t i = 0; i < work->header.ops; i++) {
        if (work->ops[i].kind == IMAGE_PAGES || work->ops[i].kind == IMAGE_COPY) {
            work->ops[i].at += data_at;
        }
    }
    work->header.bytes = data_at + work->data_bytes;
    return work->header.bytes;
}

static bool write_image(struct work *work, int fd) {
    lay_out(work);
    const size_t bytes = gather_tables(work);
    work->header.checksum = image_checksum(&work->header, work->text, bytes);
    return write_pages(work, fd) && write_at(work, fd, work->text, bytes, sizeof work->header) &&
           write_at(work, fd, &work->header, sizeof work->header, 0);
}

static struct work *begin(struct image_result *result) {
    memset(result, 0, sizeof *result);
    if (baseline == NULL) {
        snprintf(result->reason, sizeof result->reason, "%s",
                 thaw_supported() ? "the runtime's process could not remember its memory" : "this processor's kind is not supported");
        return NULL;
    }
    struct work *const work = reserve(sizeof *work);
    if (work == NULL || stand_alone(work, sizeof *work) < 0) {
        snprintf(result->reason, sizeof result->reason, "no memory for the tables");
        return NULL;
    }
    work->result = result;
    work->pagemap = -1;
    return work;
}

static enum image_outcome finish(struct work *work, bool good) {
    work->result->bytes = good ? work->header.bytes : 0;
    work->result->ops = work->header.ops;
    work->result->pages = work->pages;
    munmap(work, sizeof *work);
    return good ? IMAGE_TAKEN : IMAGE_UNSUITABLE;
}

enum image_outcome image_measure(const struct image_request *request, struct image_result *result) {
    struct work *const work = begin(result);
    if (work == NULL) {
        return IMAGE_UNSUITABLE;
    }
    (void)thaw_save(&work->header.context);
    const bool good = plan(work, request);
    lay_out(work);
    const enum image_outcome outcome = finish(work, good);
    result->bytes += good ? SLACK_BYTES : 0;
    return outcome;
}

enum image_outcome image_take(const struct image_request *request, struct image_result *result) {
    struct work *const work = begin(result);
    if (work == NULL) {
        return IMAGE_UNSUITABLE;
    }
    struct stage *const stage = (struct stage *)(uintptr_t)thaw_save(&work->header.context);
    if (stage != NULL) { /* in another process, some time later: there is no `work` here */
        thaw_finish(stage, result);
        return IMAGE_RESTORED;
    }
    const bool good = plan(work, request) && write_image(work, request->image);
    return finish(work, good);
}
