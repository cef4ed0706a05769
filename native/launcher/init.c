/* init: process 1 of a sandbox. It reaps orphans and passes on how the worker ended; the sandbox ends with it. steps.h says why there
 * is one, steps.c (be_init) what it is given: no privilege, no descriptor but the control socket, and the worker's pid.
 *
 * An executable of its own, of one page and without a library: the process it replaces shares the memory of a whole
 * interpreter, and a copy of that would cost a millisecond at birth and death of every sandbox.
 */
#include <linux/prctl.h>
#include <sys/syscall.h>

#include "protocol.h"

enum { CONTROL = 5, INTERRUPTED = -4, WITHOUT_SIGNAL = 0x4000 };

void init_main(const long *stack);

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n  xor %ebp, %ebp\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call init_main\n  hlt\n");

static long call(long number, long a, long b, long c, long d) {
    register long fourth __asm__("r10") = d;
    register long fifth __asm__("r8") = 0;
    register long sixth __asm__("r9") = 0;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth), "r"(sixth)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n  mov x29, #0\n  mov x0, sp\n  bl init_main\n  brk #0\n");

static long call(long number, long a, long b, long c, long d) {
    register long which __asm__("x8") = number;
    register long first __asm__("x0") = a;
    register long second __asm__("x1") = b;
    register long third __asm__("x2") = c;
    register long fourth __asm__("x3") = d;
    register long fifth __asm__("x4") = 0;
    register long sixth __asm__("x5") = 0;
    __asm__ volatile("svc #0"
                     : "+r"(first)
                     : "r"(which), "r"(second), "r"(third), "r"(fourth), "r"(fifth), "r"(sixth)
                     : "memory");
    return first;
}
#else
#error "init.c knows how to make a system call on x86_64 and aarch64 only"
#endif

static struct stage_answer message = {.stage = 3};

_Noreturn static void leave(int status) {
    for (;;) {
        call(SYS_exit_group, status, 0, 0, 0);
    }
}

/* As the kernel leaves it: the number of arguments, then pointers to them: the name, the worker's pid. */
void init_main(const long *stack) {
    int status = 0;
    long worker = 0;
    if (stack[0] != 2) {
        leave(125);
    }
    for (const char *digit = (const char *)stack[2]; *digit >= '0' && *digit <= '9'; digit++) {
        worker = 10 * worker + (*digit - '0');
    }
    /* Its identity and its death signal it has already; this is of the memory, which was another's until now. */
    if (call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0) < 0) {
        leave(126);
    }
    call(SYS_prctl, PR_SET_NAME, (long)"sandbox-init", 0, 0); /* images are made only where this is process 1 (obstacles.py) */
    for (;;) {
        const long ended = call(SYS_wait4, -1, (long)&status, 0, 0);
        if (ended == worker) {
            message.error = status;
            call(SYS_sendto, CONTROL, (long)&message, sizeof message, WITHOUT_SIGNAL);
            leave((status & 0x7f) == 0 ? (status >> 8) & 0xff : 128 + (status & 0x7f));
        }
        if (ended < 0 && ended != INTERRUPTED) {
            leave(127);
        }
    }
}
