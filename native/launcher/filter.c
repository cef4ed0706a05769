/* The filter is no second jail: what a privilege is needed for, the sandbox cannot do already. It closes the doors that are open
 * to everybody and lead out of the namespaces or deep into the kernel: namespaces made inside (with every capability in them),
 * keyrings (of a uid, which the next occupant of the slot has too), sockets that know no network namespace, rings and probes that
 * no small function needs. All else is allowed, and costs a look into the kernel's bitmap, not a run of the filter.
 *
 * A refusal is an errno, never a signal: libraries have a second way for most of these, and take it.
 */
#include "filter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE AUDIT_ARCH_AARCH64
#else
#error "the filter must know this processor's AUDIT_ARCH"
#endif
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the low half of an argument comes first");

/* Newer than some C libraries' headers; the numbers are the same on every processor. */
enum { IO_URING_SETUP = 425, IO_URING_ENTER = 426, IO_URING_REGISTER = 427, CLONE_3 = 435 };

enum {
    NAMESPACES = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET,
    TIME_NAMESPACE = 0x80, /* of unshare; clone has its signal there */
    X32 = 0x40000000,
    /* Who reads a file that all sandboxes share. What is written and made in /tmp may be watched. */
    READING = IN_ACCESS | IN_OPEN | IN_CLOSE_NOWRITE,
    NOTIFY = 1026 /* F_NOTIFY: the same by an older way */
};

/* Refused whatever the arguments. */
static const struct {
    uint32_t number;
    int error;
} refused[] = {
    {CLONE_3, ENOSYS},             /* its flags lie in memory, where a filter cannot look; the C library takes clone */
    {IO_URING_SETUP, ENOSYS},
    {IO_URING_ENTER, ENOSYS},
    {IO_URING_REGISTER, ENOSYS},
    {SYS_keyctl, EPERM},
    {SYS_add_key, EPERM},
    {SYS_request_key, EPERM},      /* makes the kernel start a program of the host */
    {SYS_setns, EPERM},
    {SYS_bpf, EPERM},
    {SYS_perf_event_open, EPERM},
    {SYS_userfaultfd, EPERM},
    {SYS_fanotify_init, EPERM},
    {SYS_syslog, EPERM},           /* the kernel's log tells of everybody */
#if defined(__x86_64__)
    {SYS_modify_ldt, ENOSYS},
#endif
};

/* Done without doing anything: what they would bring to a disk is the host's, and each costs its disk a flush. */
static const uint32_t flushes[] = {SYS_fsync, SYS_fdatasync, SYS_sync, SYS_syncfs, SYS_sync_file_range};

enum { REFUSED = sizeof refused / sizeof *refused, FLUSHES = sizeof flushes / sizeof *flushes, PROGRAM_MAX = 160 };

struct program {
    struct sock_filter steps[PROGRAM_MAX];
    unsigned short count;
    bool full;
};

static void add(struct program *program, struct sock_filter step) {
    if (program->count == PROGRAM_MAX) {
        program->full = true;
        return;
    }
    program->steps[program->count++] = step;
}

static void load(struct program *program, size_t offset) {
    add(program, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}

static void load_argument(struct program *program, unsigned index) {
    load(program, offsetof(struct seccomp_data, args) + index * sizeof(uint64_t));
}

static void answer(struct program *program, uint32_t verdict) {
    add(program, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, verdict));
}

/* The following `count` steps only if the value loaded is k; else they are stepped over. */
static void if_equal(struct program *program, uint32_t k, unsigned count) {
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, k, 0, (uint8_t)count));
}

static void unless_equal(struct program *program, uint32_t k, unsigned count) {
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, k, (uint8_t)count, 0));
}

static void if_any_bit(struct program *program, uint32_t bits, unsigned count) {
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, 0, (uint8_t)count));
}

static uint32_t refuse(int error) {
    return SECCOMP_RET_ERRNO | (uint32_t)error;
}

/* One system call whose argument `index` must have none of the bits. */
static void refuse_bits(struct program *program, uint32_t number, unsigned index, uint32_t bits) {
    if_equal(program, number, 4);
    load_argument(program, index);
    if_any_bit(program, bits, 1);
    answer(program, refuse(EPERM));
    answer(program, SECCOMP_RET_ALLOW);
}

/* Local sockets, and those of the sandbox's own network: of others some reach the hypervisor or other sandboxes (AF_VSOCK), and
 * the first use of a family or protocol makes the kernel load a module. */
static void sockets(struct program *program, uint32_t number) {
    static const uint32_t protocols[] = {0, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6};
    enum { PROTOCOLS = sizeof protocols / sizeof *protocols };
    if_equal(program, number, 14 + PROTOCOLS);
    load_argument(program, 0);
    if_equal(program, AF_UNIX, 1);
    answer(program, SECCOMP_RET_ALLOW);
    if_equal(program, AF_NETLINK, 4);
    load_argument(program, 2); /* routes, which name look-ups need; not audit, crypto, generic and the rest */
    if_equal(program, 0, 1);
    answer(program, SECCOMP_RET_ALLOW);
    answer(program, refuse(EPROTONOSUPPORT));
    unless_equal(program, AF_INET, 2);
    unless_equal(program, AF_INET6, 1);
    answer(program, refuse(EAFNOSUPPORT));
    load_argument(program, 2);
    for (unsigned i = 0; i < PROTOCOLS; i++) {
        unless_equal(program, protocols[i], PROTOCOLS - i);
    }
    answer(program, refuse(EPROTONOSUPPORT));
    answer(program, SECCOMP_RET_ALLOW);
}

/* Core dumps are off by a limit of 1 byte, the kernel's word for "none" also where cores are handed to a program of the host, which
 * 0 is not. Who asks for another limit is told yes; there is no core file either way. */
static void core_limit(struct program *program) {
    if_equal(program, SYS_prlimit64, 9);
    load_argument(program, 1);
    if_equal(program, RLIMIT_CORE, 6);
    load_argument(program, 2); /* the new limit's address: none, then it is a question */
    if_equal(program, 0, 3);
    load(program, offsetof(struct seccomp_data, args) + 2 * sizeof(uint64_t) + sizeof(uint32_t));
    if_equal(program, 0, 1);
    answer(program, SECCOMP_RET_ALLOW);
    answer(program, refuse(0));
    answer(program, SECCOMP_RET_ALLOW);
    if_equal(program, SYS_setrlimit, 4);
    load_argument(program, 0);
    if_equal(program, RLIMIT_CORE, 1);
    answer(program, refuse(0));
    answer(program, SECCOMP_RET_ALLOW);
}

/* On a kernel where descriptors can be sent to the service (before SO_PASSRIGHTS), one that lingers when it is dropped would hold
 * the service up. */
static void no_lingering(struct program *program) {
    if_equal(program, SYS_setsockopt, 6);
    load_argument(program, 1);
    if_equal(program, SOL_SOCKET, 3);
    load_argument(program, 2);
    if_equal(program, SO_LINGER, 1);
    answer(program, refuse(EPERM));
    answer(program, SECCOMP_RET_ALLOW);
}

static void no_flushes(struct program *program) {
    for (unsigned i = 0; i < FLUSHES; i++) {
        if_equal(program, flushes[i], 1);
        answer(program, refuse(0));
    }
    if_equal(program, SYS_msync, 4); /* without MS_SYNC it only looks, as unwinders do */
    load_argument(program, 2);
    if_any_bit(program, MS_SYNC, 1);
    answer(program, refuse(0));
    answer(program, SECCOMP_RET_ALLOW);
}

static void no_old_notification(struct program *program) {
    if_equal(program, SYS_fcntl, 4);
    load_argument(program, 1);
    if_equal(program, NOTIFY, 1);
    answer(program, refuse(EPERM));
    answer(program, SECCOMP_RET_ALLOW);
}

/* First those whose arguments are looked at, which run the filter each time. */
static void fill(struct program *program, const struct filter *filter) {
    load(program, offsetof(struct seccomp_data, arch));
    unless_equal(program, NATIVE, 1);
    answer(program, refuse(ENOSYS));
    load(program, offsetof(struct seccomp_data, nr));
    if_any_bit(program, X32, 1);
    answer(program, refuse(ENOSYS));
    no_old_notification(program);
    if (!filter->linger) {
        no_lingering(program);
    }
    if (filter->in_memory) {
        no_flushes(program);
    }
    refuse_bits(program, SYS_clone, 0, NAMESPACES);
    sockets(program, SYS_socket);
    sockets(program, SYS_socketpair);
    core_limit(program);
    refuse_bits(program, SYS_inotify_add_watch, 2, READING);
    refuse_bits(program, SYS_unshare, 0, NAMESPACES | TIME_NAMESPACE);
    for (unsigned i = 0; i < REFUSED; i++) {
        if_equal(program, refused[i].number, 1);
        answer(program, refuse(refused[i].error));
    }
    answer(program, SECCOMP_RET_ALLOW);
}

int filter_install(const struct filter *filter) {
    struct program program = {.count = 0};
    fill(&program, filter);
    if (program.full) {
        return -E2BIG;
    }
    const struct sock_fprog order = {.len = program.count, .filter = program.steps};
    /* SPEC_ALLOW: without it older kernels turn speculation of stores off, for a tenth of the speed of everything. */
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &order) < 0 ? -errno : 0;
}
