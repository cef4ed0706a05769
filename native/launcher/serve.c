#include "serve.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "protocol.h"
#include "wire.h"

enum { FIXED_FDS = 4 };

/* linux/sched.h and sched.h cannot be had together everywhere; this is the kernel's layout. */
struct clone_arguments {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

/* One sandbox on its way, known to the zygote and to the newborn. */
struct birth {
    struct newborn *newborn;
    void *back[5]; /* of __builtin_setjmp: the worker's way back to who serves */
};

enum { STACK_BYTES = 64 << 10 }; /* of the newborn while it is in the zygote's memory */

/* The kernel forgets the area of a process that shares another's memory, and of its children: the C library believes in it still. */
static void renew_rseq(void) {
#if defined(SYS_rseq) && (defined(__x86_64__) || defined(__aarch64__))
    enum { LEAST_BYTES = 32 };
#if defined(__x86_64__)
    static const uint32_t signature = 0x53053053;
#else
    static const uint32_t signature = 0xd428bc00;
#endif
    extern const ptrdiff_t __rseq_offset __attribute__((weak));
    extern const unsigned __rseq_size __attribute__((weak));
    if (&__rseq_size != NULL && &__rseq_offset != NULL && __rseq_size != 0) {
        char *thread;
#if defined(__x86_64__)
        __asm__("mov %%fs:0, %0" : "=r"(thread));
#else
        thread = __builtin_thread_pointer();
#endif
        const unsigned bytes = __rseq_size > LEAST_BYTES ? __rseq_size : LEAST_BYTES;
        syscall(SYS_rseq, thread + __rseq_offset, bytes, 0, signature);
    }
#endif
}

/* In the newborn. */
_Noreturn static void be_born(struct birth *birth) {
    steps_birth(birth->newborn); /* returns in the worker only, which has a memory of its own */
    if (birth->newborn->order.isolation != ISOLATION_PROCESS) {
        renew_rseq();
    }
    __builtin_longjmp(birth->back, 1);
}

/* clone3 whose child calls be_born(birth), on the stack that the arguments name. The child's pid, or -errno. */
static long clone_into(struct clone_arguments *arguments, struct birth *birth) {
    void (*const enter)(struct birth *) = be_born;
#if defined(__x86_64__)
    long pid;
    register void *function __asm__("r12") = (void *)(uintptr_t)enter;
    register void *argument __asm__("r13") = birth;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "and $-16, %%rsp\n\t"
                     "mov %[argument], %%rdi\n\t"
                     "call *%[function]\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(pid)
                     : "0"((long)SYS_clone3), "D"(arguments), "S"(sizeof *arguments), [function] "r"(function),
                       [argument] "r"(argument)
                     : "rcx", "r11", "cc", "memory");
    return pid;
#elif defined(__aarch64__)
    register long number __asm__("x8") = SYS_clone3;
    register long first __asm__("x0") = (long)arguments;
    register long second __asm__("x1") = sizeof *arguments;
    register void *function __asm__("x19") = (void *)(uintptr_t)enter;
    register void *argument __asm__("x20") = birth;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, #0\n\t"
                     "mov x0, %[argument]\n\t"
                     "blr %[function]\n\t"
                     "brk #0\n"
                     "1:"
                     : "+r"(first)
                     : "r"(number), "r"(second), [function] "r"(function), [argument] "r"(argument)
                     : "cc", "memory");
    return first;
#else
#error "clone3 with a stack is written for x86_64 and aarch64 only"
#endif
}

/* The child's pid, or -errno. With namespaces the child is process 1: it shares our memory, while we sleep, until it has cloned the
 * worker from it and has become a program of its own. Only the worker is a copy of the zygote. */
static pid_t clone_child(const struct spawn_order *order, int *cgroup, int *pidfd, struct birth *birth) {
    _Alignas(16) char stack[STACK_BYTES]; /* of ours, which images know to change */
    int *tid_address = NULL;
    int descriptor = -1;
    struct clone_arguments arguments;
    memset(&arguments, 0, sizeof arguments);
    arguments.flags = steps_clone_flags(order->isolation) | CLONE_PARENT | CLONE_PIDFD;
    arguments.pidfd = (uint64_t)(uintptr_t)&descriptor;
    if (order->isolation == ISOLATION_PROCESS) {
        if (prctl(PR_GET_TID_ADDRESS, &tid_address) < 0) {
            return -errno;
        }
        arguments.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
        arguments.child_tid = (uint64_t)(uintptr_t)tid_address;
    } else {
        arguments.flags |= CLONE_VM | CLONE_VFORK;
        arguments.stack = (uint64_t)(uintptr_t)stack;
        arguments.stack_size = sizeof stack;
    }
    if (cgroup != NULL) {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = (uint64_t)*cgroup;
    }
    const long pid = clone_into(&arguments, birth);
    /* The newborn's change of identity has made our memory untraceable; children inherit that, and one of a normal user's could
     * then not write its own files in /proc. */
    (void)prctl(PR_SET_DUMPABLE, 1);
    *pidfd = descriptor;
    return (pid_t)pid;
}

static void tell(int fd, const struct spawn_order *order, pid_t pid, int pidfd) {
    struct spawn_answer answer = {.shell = order->shell, .pid = pid < 0 ? 0 : pid, .error = pid < 0 ? -pid : 0};
    wire_text(answer.step, sizeof answer.step, pid < 0 ? "clone" : "");
    if (wire_send(fd, &answer, sizeof answer, &pidfd, pid < 0 ? 0 : 1, 0) < 0) {
        _exit(0); /* no launcher, no purpose */
    }
}

static void describe(struct newborn *newborn, const struct spawn_order *order, const int *fds, unsigned count, int init) {
    const bool into = (order->flags & SPAWN_INTO_CGROUP) != 0;
    memset(newborn, 0, sizeof *newborn);
    newborn->order = *order;
    newborn->channel = fds[0];
    newborn->output = fds[1];
    newborn->progress = fds[2];
    newborn->control = fds[3];
    newborn->init = order->isolation == ISOLATION_PROCESS ? -1 : init;
    for (unsigned i = FIXED_FDS; i < count - (into ? 1 : 0); i++) {
        newborn->groups[newborn->groups_count++] = fds[i];
    }
}

/* One order: true in the worker. */
static bool spawn(int fd, const struct spawn_order *order, int *fds, unsigned count, int init, struct newborn *newborn) {
    struct birth birth = {.newborn = newborn};
    int pidfd = -1;
    describe(newborn, order, fds, count, init);
    if (__builtin_setjmp(birth.back) == 0) {
        int *const cgroup = (order->flags & SPAWN_INTO_CGROUP) != 0 ? &fds[count - 1] : NULL;
        const pid_t pid = clone_child(order, cgroup, &pidfd, &birth);
        tell(fd, order, pid, pidfd);
        wire_close(&pidfd);
        return false;
    }
    return true;
}

void serve_ready(int fd) {
    const struct spawn_answer ready = {.pid = getpid()};
    if (wire_send(fd, &ready, sizeof ready, NULL, 0, 0) < 0) {
        _exit(0);
    }
}

void serve_orders(int fd, int init, struct newborn *newborn) {
    for (;;) {
        struct spawn_order order;
        int fds[PROTOCOL_FDS_MAX];
        unsigned count;
        const ssize_t got = wire_receive(fd, &order, sizeof order, fds, PROTOCOL_FDS_MAX, &count, 0);
        if (got == 0 || got == -ECONNRESET) {
            _exit(0);
        }
        if (got != (ssize_t)sizeof order || order.isolation < ISOLATION_ROOT || order.isolation > ISOLATION_PROCESS) {
            _exit(125); /* the launcher is ours: a bad order is a bug */
        }
        const unsigned least = FIXED_FDS + ((order.flags & SPAWN_INTO_CGROUP) != 0 ? 1 : 0);
        if (count < least || count > least + SANDBOX_GROUPS_MAX) {
            _exit(125);
        }
        if (spawn(fd, &order, fds, count, init, newborn)) {
            return;
        }
        wire_close_all(fds, count);
    }
}
