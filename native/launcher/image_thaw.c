/* A newborn becomes the process whose image it was given. First everything that may be refused, with a way back: checks, files,
 * directory, limits. Then, on a stack of its own and with raw system calls only, one operation after the other; what fails there
 * ends the process, for there is no memory to go back to. */
#include "image_thaw.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

enum {
    BROKEN_STATUS = 123,
    ABOVE = IMAGE_DESCRIPTOR_MAX + 20, /* where the thaw's own descriptors go */
    CHANNEL_MAX = 1 << 20
};

/* ---- the checks ---- */

size_t image_tables_bytes(const struct image_header *header) {
    return header->ops * sizeof(struct image_op) + header->files * sizeof(struct image_file) +
           header->descriptors * sizeof(struct image_descriptor) + header->signals * sizeof(struct image_signal) +
           header->strings_bytes;
}

static uint64_t mix(uint64_t sum, const void *bytes, size_t count) {
    const uint8_t *const at = bytes;
    size_t i = 0;
    for (; i + 8 <= count; i += 8) {
        uint64_t word;
        memcpy(&word, at + i, 8);
        sum = (sum ^ word) * 0x9fb21c651e98df25;
        sum ^= sum >> 31;
    }
    for (; i < count; i++) {
        sum = (sum ^ at[i]) * 0x9fb21c651e98df25;
    }
    return sum;
}

uint64_t image_checksum(const struct image_header *header, const void *tables, size_t bytes) {
    struct image_header without = *header;
    without.checksum = 0;
    return mix(mix(1, &without, sizeof without), tables, bytes);
}

const char *image_check_header(const struct image_header *header, const uint8_t *zygote, uint64_t file_bytes) {
    if (memcmp(header->magic, IMAGE_MAGIC, sizeof header->magic) != 0) {
        return "it is no image";
    }
    if (header->version != IMAGE_VERSION || header->machine != IMAGE_MACHINE) {
        return "the image is of another version or processor";
    }
    if (memcmp(header->zygote, zygote, IMAGE_ID_BYTES) != 0) {
        return "the image is of another life of the runtime's process";
    }
    if (header->ops > IMAGE_OPS_MAX || header->files > IMAGE_FILES_MAX || header->descriptors > IMAGE_DESCRIPTORS_MAX ||
        header->signals > IMAGE_SIGNALS || header->strings_bytes == 0 || header->strings_bytes > IMAGE_STRINGS_BYTES_MAX) {
        return "the image's tables are too long";
    }
    if (header->bytes > file_bytes || header->bytes < sizeof *header + image_tables_bytes(header)) {
        return "the image is not whole";
    }
    if (header->directory >= header->strings_bytes || header->channel <= IMAGE_DESCRIPTOR_MAX || header->channel > CHANNEL_MAX ||
        (header->stage_at & (IMAGE_PAGE - 1)) != 0 || header->name[IMAGE_NAME_BYTES - 1] != '\0') {
        return "the image's header is damaged";
    }
    return NULL;
}

struct tables {
    const struct image_op *ops;
    const struct image_file *files;
    const struct image_descriptor *descriptors;
    const struct image_signal *signals;
    const char *strings;
};

static struct tables find_tables(const struct image_header *header, const void *at) {
    struct tables tables = {.ops = at};
    tables.files = (const void *)(tables.ops + header->ops);
    tables.descriptors = (const void *)(tables.files + header->files);
    tables.signals = (const void *)(tables.descriptors + header->descriptors);
    tables.strings = (const void *)(tables.signals + header->signals);
    return tables;
}

static bool op_is_sound(const struct image_header *header, const struct image_op *op, uint64_t stage_bytes) {
    const uint64_t page = IMAGE_PAGE - 1, end = op->address + op->bytes;
    const bool of_image = op->kind == IMAGE_PAGES || op->kind == IMAGE_COPY;
    const bool of_file = op->kind == IMAGE_FILE || op->kind == IMAGE_SHARED;
    if (op->kind < IMAGE_UNMAP || op->kind > IMAGE_WIPE || op->bytes == 0 || end < op->address ||
        ((op->address | op->bytes) & page) != 0 || (op->protection & ~(uint32_t)(PROT_READ | PROT_WRITE | PROT_EXEC)) != 0) {
        return false;
    }
    if (op->address < header->stage_at + stage_bytes && header->stage_at < end) {
        return false;
    }
    if (of_image && ((op->at & page) != 0 || op->at > header->bytes || op->bytes > header->bytes - op->at)) {
        return false;
    }
    return !of_file || (op->index < header->files && (op->at & page) == 0);
}

const char *image_check_tables(const struct image_header *header, const void *at, uint64_t stage_bytes) {
    const struct tables tables = find_tables(header, at);
    if (image_checksum(header, at, image_tables_bytes(header)) != header->checksum) {
        return "the image's tables are damaged";
    }
    if (header->stage_at + stage_bytes < header->stage_at || tables.strings[header->strings_bytes - 1] != '\0') {
        return "the image's tables are wrong";
    }
    for (uint32_t i = 0; i < header->ops; i++) {
        if (!op_is_sound(header, &tables.ops[i], stage_bytes)) {
            return "an operation of the image is wrong";
        }
    }
    for (uint32_t i = 0; i < header->files; i++) {
        if (tables.files[i].path >= header->strings_bytes) {
            return "a file of the image is wrong";
        }
    }
    for (uint32_t i = 0; i < header->descriptors; i++) {
        const struct image_descriptor *const one = &tables.descriptors[i];
        if (one->path >= header->strings_bytes || one->number < 3 || one->number > IMAGE_DESCRIPTOR_MAX ||
            (one->flags & (uint32_t)O_ACCMODE) == (uint32_t)O_ACCMODE) {
            return "a descriptor of the image is wrong";
        }
    }
    for (uint32_t i = 0; i < header->signals; i++) {
        if (tables.signals[i].number < 1 || tables.signals[i].number > IMAGE_SIGNALS) {
            return "a signal of the image is wrong";
        }
    }
    return NULL;
}

/* ---- before the point of no return ---- */

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

static bool read_whole(int fd, void *to, size_t bytes, uint64_t at) {
    while (bytes > 0) {
        const ssize_t got = pread(fd, to, bytes, (off_t)at);
        if (got <= 0) {
            return false;
        }
        to = (char *)to + got;
        at += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return true;
}

static int raise_descriptor(int fd) {
    return fcntl(fd, F_DUPFD_CLOEXEC, ABOVE);
}

static const char *open_files(struct stage *stage, const struct tables *tables) {
    for (uint32_t i = 0; i < stage->header.files; i++) {
        struct stat status;
        int low = open(tables->strings + tables->files[i].path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        stage->files[i] = low < 0 ? -1 : raise_descriptor(low);
        wire_close(&low);
        if (stage->files[i] < 0 || fstat(stage->files[i], &status) < 0) {
            return "a file that was mapped cannot be opened";
        }
        if (!S_ISREG(status.st_mode) || status.st_dev != tables->files[i].device || status.st_ino != tables->files[i].inode) {
            return "a file that was mapped is another one now";
        }
    }
    return NULL;
}

static const char *open_descriptors(const struct stage *stage, const struct tables *tables) {
    for (uint32_t i = 0; i < stage->header.descriptors; i++) {
        const struct image_descriptor *const one = &tables->descriptors[i];
        const int harmless = (int)(one->flags & ~(uint32_t)(O_CREAT | O_TRUNC | O_EXCL));
        int fd = open(tables->strings + one->path, harmless | O_CLOEXEC);
        if (fd < 0) {
            return "a file that was open cannot be opened";
        }
        const bool placed = fd == one->number || dup3(fd, one->number, O_CLOEXEC) == one->number;
        if (fd != one->number) {
            wire_close(&fd);
        }
        if (!placed || fcntl(one->number, F_SETFD, (one->flags & O_CLOEXEC) != 0 ? FD_CLOEXEC : 0) < 0 ||
            (one->at != 0 && lseek(one->number, (off_t)one->at, SEEK_SET) < 0)) {
            return "a file that was open cannot be opened as it was";
        }
    }
    return NULL;
}

/* brk() beyond what is there takes nothing away; below it, that is for the other side of the point of no return. */
static const char *grow_heap(const struct stage *stage) {
    const uint64_t now = (uint64_t)syscall(SYS_brk, 0);
    if (stage->header.heap_end > now && (uint64_t)syscall(SYS_brk, stage->header.heap_end) != stage->header.heap_end) {
        return "the heap cannot be made as large as it was";
    }
    return NULL;
}

static const char *set_limits(const struct stage *stage) {
    for (int i = 0; i < IMAGE_RLIMITS; i++) {
        uint64_t now[2];
        if (syscall(SYS_prlimit64, 0, i, NULL, now) < 0) {
            continue; /* a kernel that knows fewer */
        }
        if (memcmp(now, stage->header.rlimits[i], sizeof now) != 0 &&
            syscall(SYS_prlimit64, 0, i, stage->header.rlimits[i], NULL) < 0) {
            return "a resource limit cannot be set as it was";
        }
    }
    return NULL;
}

static const char *prepare(struct stage *stage, const struct tables *tables) {
    const char *why = open_files(stage, tables);
    why = why == NULL ? open_descriptors(stage, tables) : why;
    why = why == NULL ? grow_heap(stage) : why;
    if (why == NULL && chdir(tables->strings + stage->header.directory) < 0) {
        why = "the working directory cannot be entered";
    }
    why = why == NULL ? set_limits(stage) : why;
    if (why == NULL) {
        umask(stage->header.file_mode_mask & 0777);
        (void)prctl(PR_SET_NAME, stage->header.name);
    }
    return why;
}

/* ---- beyond it ---- */

#if defined(__x86_64__)

#define QUIET __attribute__((no_stack_protector, no_sanitize("address", "undefined", "thread"), noinline))

static inline __attribute__((always_inline)) long raw(long number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                                                      uint64_t f) {
    long result;
    register uint64_t r10 __asm__("r10") = d;
    register uint64_t r8 __asm__("r8") = e;
    register uint64_t r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

/* The offsets of struct image_context. */
_Static_assert(offsetof(struct image_context, rsp) == 48 && offsetof(struct image_context, rip) == 56 &&
                   offsetof(struct image_context, mxcsr) == 64 && offsetof(struct image_context, x87) == 68,
               "as the assembly below has them");

__asm__(".text\n"
        ".globl thaw_save\n"
        ".hidden thaw_save\n"
        ".type thaw_save, @function\n"
        "thaw_save:\n"
        "    mov %rbx, 0(%rdi)\n"
        "    mov %rbp, 8(%rdi)\n"
        "    mov %r12, 16(%rdi)\n"
        "    mov %r13, 24(%rdi)\n"
        "    mov %r14, 32(%rdi)\n"
        "    mov %r15, 40(%rdi)\n"
        "    lea 8(%rsp), %rax\n"
        "    mov %rax, 48(%rdi)\n"
        "    mov (%rsp), %rax\n"
        "    mov %rax, 56(%rdi)\n"
        "    stmxcsr 64(%rdi)\n"
        "    fnstcw 68(%rdi)\n"
        "    xor %eax, %eax\n"
        "    ret\n"
        ".size thaw_save, . - thaw_save\n"
        ".globl thaw_resume\n"
        ".hidden thaw_resume\n"
        ".type thaw_resume, @function\n"
        "thaw_resume:\n" /* (context, value): thaw_save() returns once more */
        "    mov 0(%rdi), %rbx\n"
        "    mov 8(%rdi), %rbp\n"
        "    mov 16(%rdi), %r12\n"
        "    mov 24(%rdi), %r13\n"
        "    mov 32(%rdi), %r14\n"
        "    mov 40(%rdi), %r15\n"
        "    mov 48(%rdi), %rsp\n"
        "    ldmxcsr 64(%rdi)\n"
        "    fldcw 68(%rdi)\n"
        "    mov %rsi, %rax\n"
        "    jmp *56(%rdi)\n"
        ".size thaw_resume, . - thaw_resume\n"
        ".globl thaw_move\n"
        ".hidden thaw_move\n"
        ".type thaw_move, @function\n"
        "thaw_move:\n" /* (stage, top of its stack, function) */
        "    mov %rsi, %rsp\n"
        "    xor %ebp, %ebp\n"
        "    call *%rdx\n"
        "    ud2\n"
        ".size thaw_move, . - thaw_move\n");

_Noreturn void thaw_resume(const struct image_context *context, uint64_t value);
_Noreturn void thaw_move(struct stage *stage, uint8_t *top, void (*function)(struct stage *));

bool thaw_supported(void) {
    return true;
}

QUIET static long map(const struct image_op *op, uint64_t flags, int fd) {
    return raw(SYS_mmap, op->address, op->bytes, op->protection, MAP_FIXED | flags, (uint64_t)(int64_t)fd, op->at);
}

QUIET static bool copy(const struct stage *stage, const struct image_op *op) {
    for (uint64_t done = 0; done < op->bytes;) {
        const long got =
            raw(SYS_pread64, (uint64_t)stage->image, op->address + done, op->bytes - done, op->at + done, 0, 0);
        if (got <= 0) {
            return false;
        }
        done += (uint64_t)got;
    }
    return true;
}

QUIET static bool operate(const struct stage *stage, const struct image_op *op) {
    switch ((enum image_op_kind)op->kind) {
    case IMAGE_UNMAP:
        return raw(SYS_munmap, op->address, op->bytes, 0, 0, 0, 0) == 0;
    case IMAGE_ANON:
        return raw(SYS_mmap, op->address, op->bytes, op->protection, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | (op->at & MAP_NORESERVE),
                   UINT64_MAX, 0) == (long)op->address;
    case IMAGE_FILE:
        return map(op, MAP_PRIVATE, stage->files[op->index]) == (long)op->address;
    case IMAGE_SHARED:
        return map(op, MAP_SHARED, stage->files[op->index]) == (long)op->address;
    case IMAGE_PAGES:
        return map(op, MAP_PRIVATE, stage->image) == (long)op->address;
    case IMAGE_COPY:
        return copy(stage, op);
    case IMAGE_PROTECT:
        return raw(SYS_mprotect, op->address, op->bytes, op->protection, 0, 0, 0) == 0;
    case IMAGE_ZERO:
        return raw(SYS_madvise, op->address, op->bytes, MADV_DONTNEED, 0, 0, 0) == 0;
    case IMAGE_WIPE:
        return raw(SYS_madvise, op->address, op->bytes, MADV_WIPEONFORK, 0, 0, 0) == 0;
    }
    return false;
}

/* On the stage's stack. No memory is certain but the stage and this module's text. */
QUIET static void become(struct stage *stage) {
    bool good = true;
    if (stage->header.heap_end != 0) {
        good = raw(SYS_brk, stage->header.heap_end, 0, 0, 0, 0, 0) == (long)stage->header.heap_end;
    }
    for (uint32_t i = 0; i < stage->header.ops && good; i++) {
        good = operate(stage, &stage->ops[i]);
    }
    if (!good) {
        for (;;) {
            raw(SYS_exit_group, BROKEN_STATUS, 0, 0, 0, 0, 0);
        }
    }
    thaw_resume(&stage->header.context, (uint64_t)(uintptr_t)stage);
}

_Noreturn static void leave(struct stage *stage) {
    thaw_move(stage, stage->stack + sizeof stage->stack, become);
}

#else

bool thaw_supported(void) {
    return false;
}

uint64_t thaw_save(struct image_context *context) {
    memset(context, 0, sizeof *context);
    return 0;
}

_Noreturn static void leave(struct stage *stage) {
    (void)stage;
    _exit(BROKEN_STATUS);
}

#endif

void thaw_get_signal(int number, struct kernel_signal *signal) {
    memset(signal, 0, sizeof *signal);
    syscall(SYS_rt_sigaction, number, NULL, signal, sizeof signal->mask);
}

/* ---- the newborn ---- */

/* Descriptors move up, so that the maker's can be put where they were. Undone by numbers: nothing else is open in a newborn. */
struct moved {
    int image, channel, progress;
};

static const char *move_up(const struct moved *from, struct moved *to) {
    *to = (struct moved){raise_descriptor(from->image), raise_descriptor(from->channel), raise_descriptor(from->progress)};
    if (to->image < 0 || to->channel < 0 || to->progress < 0) {
        return "too few descriptors are allowed";
    }
    close(from->image);
    close(from->channel);
    close(from->progress);
    return NULL;
}

static void move_back(const struct moved *from, const struct moved *to) {
    (void)syscall(SYS_close_range, 3, ABOVE - 1, 0);
    if (to->image >= 0 && to->channel >= 0 && to->progress >= 0) {
        (void)dup2(to->channel, from->channel);
        (void)dup2(to->progress, from->progress);
    }
    (void)syscall(SYS_close_range, ABOVE, ~0U, 0);
}

static const char *read_stage(int image, struct stage **out) {
    struct image_header header;
    struct stat status;
    if (!thaw_supported()) {
        return "this processor's kind is not supported";
    }
    if (fstat(image, &status) < 0 || !S_ISREG(status.st_mode) || !read_whole(image, &header, sizeof header, 0)) {
        return "the image cannot be read";
    }
    const char *why = image_check_header(&header, image_zygote_id(), (uint64_t)status.st_size);
    if (why != NULL) {
        return why;
    }
    if (header.maker == (uint32_t)getpid()) {
        return "by chance it has the pid of the image's maker";
    }
    const size_t tables_bytes = image_tables_bytes(&header);
    const uint64_t bytes = (sizeof(struct stage) + tables_bytes + IMAGE_PAGE - 1) & ~(uint64_t)(IMAGE_PAGE - 1);
    struct stage *const stage = mmap((void *)(uintptr_t)header.stage_at, bytes, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (stage == MAP_FAILED || (uint64_t)(uintptr_t)stage != header.stage_at) {
        if (stage != MAP_FAILED) { /* a kernel that does not know NOREPLACE */
            munmap(stage, bytes);
        }
        return "there is no room where the image needs it";
    }
    *out = stage;
    stage->bytes = bytes;
    stage->header = header;
    if (!read_whole(image, stage->tables, tables_bytes, sizeof header)) {
        return "the image cannot be read";
    }
    return image_check_tables(&header, stage->tables, bytes);
}

static const char *thaw(const struct moved *from, struct stage **stage, struct moved *to, uint64_t born_ns) {
    const char *why = read_stage(from->image, stage);
    why = why == NULL ? move_up(from, to) : why;
    if (why != NULL) {
        return why;
    }
    struct stage *const ready = *stage;
    const struct tables tables = find_tables(&ready->header, ready->tables);
    ready->ops = tables.ops;
    ready->signals = tables.signals;
    ready->image = to->image;
    ready->progress = to->progress;
    ready->born_ns = born_ns;
    why = prepare(ready, &tables);
    if (why != NULL) {
        return why;
    }
    if (dup3(to->channel, ready->header.channel, O_CLOEXEC) < 0 && errno != EINVAL) { /* EINVAL: it is there already */
        return "too few descriptors are allowed";
    }
    if (to->channel != ready->header.channel) {
        close(to->channel);
    }
    const uint64_t all = UINT64_MAX;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof all);
    leave(ready);
}

void image_thaw(int image, int channel, int progress, char *reason) {
    const struct moved from = {image, channel, progress};
    struct moved to = {-1, -1, -1};
    struct stage *stage = NULL;
    const char *const why = thaw(&from, &stage, &to, now_ns());
    snprintf(reason, IMAGE_REASON_BYTES, "%s", why);
    if (to.image >= 0) {
        move_back(&from, &to);
    } else {
        close(image);
    }
    if (stage != NULL) {
        munmap(stage, stage->bytes);
    }
}

/* ---- the thawed process ---- */

/* The kernel writes the CPU's number into the thread's block; told anew, it does so at once. The C library has made the signature. */
static void renew_rseq(void) {
#if defined(__x86_64__) && defined(SYS_rseq)
    extern const ptrdiff_t __rseq_offset __attribute__((weak));
    extern const unsigned __rseq_size __attribute__((weak));
    enum { SIGNATURE = 0x53053053, UNREGISTER = 1, LEAST_BYTES = 32 };
    if (&__rseq_size == NULL || &__rseq_offset == NULL || __rseq_size == 0) {
        return;
    }
    uint64_t thread;
    __asm__("mov %%fs:0, %0" : "=r"(thread));
    const uint64_t area = thread + (uint64_t)__rseq_offset;
    const uint64_t bytes = __rseq_size > LEAST_BYTES ? __rseq_size : LEAST_BYTES;
    if (syscall(SYS_rseq, area, bytes, UNREGISTER, SIGNATURE) == 0) {
        syscall(SYS_rseq, area, bytes, 0, SIGNATURE);
    }
#endif
}

void thaw_finish(struct stage *stage, struct image_result *result) {
    const struct image_header *const header = &stage->header;
    int *thread = NULL;
    if (prctl(PR_GET_TID_ADDRESS, &thread) == 0 && thread != NULL) {
        *thread = (int)syscall(SYS_gettid); /* the C library's own copy of it */
    }
    renew_rseq();
    for (uint32_t i = 0; i < header->signals; i++) {
        const struct image_signal *const one = &stage->signals[i];
        const struct kernel_signal signal = {one->handler, one->flags, one->restorer, one->mask};
        syscall(SYS_rt_sigaction, (int)one->number, &signal, NULL, sizeof signal.mask);
    }
    syscall(SYS_sigaltstack, header->alternate, NULL);
    for (uint32_t i = 0; i < header->files; i++) {
        close(stage->files[i]);
    }
    close(stage->image);
    memset(result, 0, sizeof *result);
    result->progress = stage->progress;
    result->born_ns = stage->born_ns;
    result->ops = header->ops;
    result->bytes = header->bytes;
    const uint64_t mask = header->signal_mask;
    munmap(stage, stage->bytes);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, sizeof mask);
    result->thawed_ns = now_ns();
}
