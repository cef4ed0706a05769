/* The rows: by purpose, each group with what it is for, each unusual row with its reason. A new row belongs here only with a program
 * that needs it; a call that can be answered without being made (DONE) is better refused that way than by an error.
 *
 * Kept whole for the C library, musl, Python, Node, Go and Java: what their start-up and their thread libraries use is all in here,
 * also where a second way exists.
 */
#include "calls.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <netinet/in.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* Newer than some C libraries' headers. From 424 on the numbers are the same on every processor. */
enum {
    NR_PIDFD_SEND_SIGNAL = 424, NR_IO_URING_SETUP, NR_IO_URING_ENTER, NR_IO_URING_REGISTER, NR_OPEN_TREE, NR_MOVE_MOUNT, NR_FSOPEN,
    NR_FSCONFIG, NR_FSMOUNT, NR_FSPICK, NR_PIDFD_OPEN, NR_CLONE3, NR_CLOSE_RANGE, NR_OPENAT2, NR_PIDFD_GETFD, NR_FACCESSAT2,
    NR_PROCESS_MADVISE, NR_EPOLL_PWAIT2, NR_MOUNT_SETATTR, NR_QUOTACTL_FD, NR_PROCESS_MRELEASE = 448, NR_FUTEX_WAITV,
    NR_FCHMODAT2 = 452, NR_MAP_SHADOW_STACK, NR_FUTEX_WAKE, NR_FUTEX_WAIT, NR_FUTEX_REQUEUE, NR_MSEAL = 462, NR_SETXATTRAT,
    NR_GETXATTRAT, NR_LISTXATTRAT, NR_REMOVEXATTRAT
};

enum {
    NAMESPACES = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET,
    TIME_NAMESPACE = 0x80, /* of unshare; clone has its signal there */
    /* Who reads a file that all sandboxes share. What is written and made in /tmp may be watched. */
    READING = IN_ACCESS | IN_OPEN | IN_CLOSE_NOWRITE,
    NOTIFY = 1026,                      /* F_NOTIFY: the same by an older way */
    SET_LEASE = 1024, GET_LEASE = 1025, /* F_SETLEASE, F_GETLEASE */
    DEVICE_BIT = 0020000,               /* in S_IFCHR and S_IFBLK, in no other type */
    HUGE_MEMFD = 4, HUGE_SHARED = 04000, HUGE_MAPPING = 0x40000, /* MFD_, SHM_, MAP_HUGETLB */
    MERGEABLE = 12,                     /* MADV_MERGEABLE */
    NOT_NEEDED = 4,                     /* POSIX_FADV_DONTNEED */
    ATTACH_FILTER = 26, ATTACH_BPF = 50, ATTACH_REUSEPORT_CBPF = 51, ATTACH_REUSEPORT_EBPF = 52
};

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define EQUAL(argument, value) {HOW_EQUAL, argument, value}
#define ANY_BIT(argument, value) {HOW_ANY_BIT, argument, value}
#define IS_NULL(argument) {HOW_NULL, argument, 0}

/* Local sockets, and those of the sandbox's own network. Of other families some reach the hypervisor or other sandboxes (vsock knows
 * no network namespace), and the first use of a family or protocol makes the kernel load a module. Netlink: routes, which name
 * look-ups need; not audit, crypto, generic and the rest. */
static const struct rule sockets[] = {
    {PASS, {EQUAL(0, AF_UNIX)}, 0},
    {PASS, {EQUAL(0, AF_NETLINK), EQUAL(2, 0)}, 0},
    {EPROTONOSUPPORT, {EQUAL(0, AF_NETLINK)}, 0},
    {PASS, {EQUAL(0, AF_INET), EQUAL(2, 0)}, 0},
    {PASS, {EQUAL(0, AF_INET), EQUAL(2, IPPROTO_TCP)}, 0},
    {PASS, {EQUAL(0, AF_INET), EQUAL(2, IPPROTO_UDP)}, 0},
    {PASS, {EQUAL(0, AF_INET), EQUAL(2, IPPROTO_ICMP)}, 0},
    {EPROTONOSUPPORT, {EQUAL(0, AF_INET)}, 0},
    {PASS, {EQUAL(0, AF_INET6), EQUAL(2, 0)}, 0},
    {PASS, {EQUAL(0, AF_INET6), EQUAL(2, IPPROTO_TCP)}, 0},
    {PASS, {EQUAL(0, AF_INET6), EQUAL(2, IPPROTO_UDP)}, 0},
    {PASS, {EQUAL(0, AF_INET6), EQUAL(2, IPPROTO_ICMPV6)}, 0},
    {EPROTONOSUPPORT, {EQUAL(0, AF_INET6)}, 0},
};

/* Filters of sockets are compiled into memory that the whole machine has once (net.core.bpf_jit_limit): who took it all would keep
 * the next sandbox from getting its filter. And on a kernel where descriptors can be sent to the service (before SO_PASSRIGHTS), one
 * that lingers when it is dropped would hold the service up. */
static const struct rule socket_options[] = {
    {EPERM, {EQUAL(1, SOL_SOCKET), EQUAL(2, ATTACH_FILTER)}, 0},
    {EPERM, {EQUAL(1, SOL_SOCKET), EQUAL(2, ATTACH_BPF)}, 0},
    {EPERM, {EQUAL(1, SOL_SOCKET), EQUAL(2, ATTACH_REUSEPORT_CBPF)}, 0},
    {EPERM, {EQUAL(1, SOL_SOCKET), EQUAL(2, ATTACH_REUSEPORT_EBPF)}, 0},
    {EPERM, {EQUAL(1, SOL_SOCKET), EQUAL(2, SO_LINGER)}, DESCRIPTORS_TRAVEL},
};

/* Terminals, non-blocking, what can be read, and questions about network interfaces. Each other one is a driver's or a file system's
 * own door: keys of encryption, flags, clones of extents, relatives of a namespace. Drivers say ENOTTY to what they do not know. */
static const struct rule device_controls[] = {
    {PASS, {EQUAL(1, 0x5401)}, 0}, /* TCGETS: is it a terminal? asked at every open by Python */
    {PASS, {EQUAL(1, 0x5421)}, 0}, /* FIONBIO */
    {PASS, {EQUAL(1, 0x541b)}, 0}, /* FIONREAD */
    {PASS, {EQUAL(1, 0x5402)}, 0}, {PASS, {EQUAL(1, 0x5403)}, 0}, {PASS, {EQUAL(1, 0x5404)}, 0}, /* TCSETS, -W, -F */
    {PASS, {EQUAL(1, 0x540f)}, 0}, {PASS, {EQUAL(1, 0x5410)}, 0}, /* TIOCGPGRP, TIOCSPGRP: shells */
    {PASS, {EQUAL(1, 0x5411)}, 0}, {PASS, {EQUAL(1, 0x5413)}, 0}, /* TIOCOUTQ, TIOCGWINSZ */
    {PASS, {EQUAL(1, 0x5429)}, 0}, {PASS, {EQUAL(1, 0x802c542a)}, 0}, /* TIOCGSID, TCGETS2 */
    {PASS, {EQUAL(1, 0x5450)}, 0}, {PASS, {EQUAL(1, 0x5451)}, 0}, {PASS, {EQUAL(1, 0x5452)}, 0}, /* FIONCLEX, FIOCLEX, FIOASYNC */
    {PASS, {EQUAL(1, 0x5460)}, 0}, {PASS, {EQUAL(1, 0x8905)}, 0}, /* FIOQSIZE, SIOCATMARK */
    {PASS, {EQUAL(1, 0x8910)}, 0}, {PASS, {EQUAL(1, 0x8912)}, 0}, {PASS, {EQUAL(1, 0x8913)}, 0}, /* SIOCGIF: NAME, CONF, FLAGS, */
    {PASS, {EQUAL(1, 0x8915)}, 0}, {PASS, {EQUAL(1, 0x8917)}, 0}, {PASS, {EQUAL(1, 0x8919)}, 0}, /* ADDR, DSTADDR, BRDADDR, */
    {PASS, {EQUAL(1, 0x891b)}, 0}, {PASS, {EQUAL(1, 0x891d)}, 0}, {PASS, {EQUAL(1, 0x8921)}, 0}, /* NETMASK, METRIC, MTU, */
    {PASS, {EQUAL(1, 0x8927)}, 0}, {PASS, {EQUAL(1, 0x8933)}, 0}, {PASS, {EQUAL(1, 0x8938)}, 0}, /* HWADDR, INDEX, COUNT, */
    {PASS, {EQUAL(1, 0x8942)}, 0}, {PASS, {EQUAL(1, 0x8970)}, 0},                                /* TXQLEN, MAP */
};

/* A process' own affairs. Not: filters of its own (memory of the whole machine, see socket_options), merging its memory with others'
 * (who has the same page as I can be told by writing), machine checks, the scheduler's cookies, counters. */
static const struct rule process_controls[] = {
    {PASS, {EQUAL(0, PR_SET_NAME)}, 0},
    {PASS, {EQUAL(0, 0x53564d41)}, 0}, /* PR_SET_VMA: names of anonymous memory, which the C library and Go give */
    {PASS, {EQUAL(0, PR_GET_NAME)}, 0},
    {PASS, {EQUAL(0, PR_SET_PDEATHSIG)}, 0}, {PASS, {EQUAL(0, PR_GET_PDEATHSIG)}, 0},
    {PASS, {EQUAL(0, PR_GET_DUMPABLE)}, 0}, {PASS, {EQUAL(0, PR_SET_DUMPABLE)}, 0}, /* nobody may trace, and no core is written */
    {PASS, {EQUAL(0, PR_GET_KEEPCAPS)}, 0}, {PASS, {EQUAL(0, PR_GET_TIMING)}, 0}, {PASS, {EQUAL(0, PR_GET_SECCOMP)}, 0},
    {PASS, {EQUAL(0, PR_CAPBSET_READ)}, 0}, {PASS, {EQUAL(0, PR_GET_TSC)}, 0}, {PASS, {EQUAL(0, PR_GET_SECUREBITS)}, 0},
    {PASS, {EQUAL(0, PR_SET_TIMERSLACK)}, 0}, {PASS, {EQUAL(0, PR_GET_TIMERSLACK)}, 0},
    {PASS, {EQUAL(0, PR_SET_CHILD_SUBREAPER)}, 0}, {PASS, {EQUAL(0, PR_GET_CHILD_SUBREAPER)}, 0},
    {PASS, {EQUAL(0, PR_SET_NO_NEW_PRIVS)}, 0}, {PASS, {EQUAL(0, PR_GET_NO_NEW_PRIVS)}, 0},
    {PASS, {EQUAL(0, PR_GET_TID_ADDRESS)}, 0},
    {PASS, {EQUAL(0, PR_SET_THP_DISABLE)}, 0}, {PASS, {EQUAL(0, PR_GET_THP_DISABLE)}, 0},
    {PASS, {EQUAL(0, PR_CAP_AMBIENT)}, 0}, /* has none and can raise none; libraries ask */
    {PASS, {EQUAL(0, 50)}, 0}, {PASS, {EQUAL(0, 51)}, 0}, /* PR_SVE_: vector length */
    {PASS, {EQUAL(0, 52)}, 0}, {PASS, {EQUAL(0, 53)}, 0}, /* PR_GET_, PR_SET_SPECULATION_CTRL: of itself */
    {PASS, {EQUAL(0, 54)}, 0}, {PASS, {EQUAL(0, 55)}, 0}, {PASS, {EQUAL(0, 56)}, 0}, /* pointer keys and tags */
    {PASS, {EQUAL(0, 65)}, 0}, {PASS, {EQUAL(0, 66)}, 0}, /* PR_SET_, PR_GET_MDWE: memory never writable and executable */
    {PASS, {EQUAL(0, 0x41555856)}, 0}, /* PR_GET_AUXV */
};

/* Leases and watches on files tell who else opens them, and files are shared read-only. Locks are the same inode's too, but programs
 * need them and a filter does not see which file: docs/threat-model.md says what remains. */
static const struct rule file_controls[] = {
    {EPERM, {EQUAL(1, NOTIFY)}, 0},
    {EINVAL, {EQUAL(1, SET_LEASE)}, 0},
    {EINVAL, {EQUAL(1, GET_LEASE)}, 0},
};

/* Core dumps are off by a limit of 1 byte, the kernel's word for "none" also where cores are handed to a program of the host, which
 * 0 is not. Who asks for another limit is told yes; there is no core file either way. */
static const struct rule limits_of[] = {
    {PASS, {EQUAL(1, RLIMIT_CORE), IS_NULL(2)}, 0}, /* no new limit: a question */
    {DONE, {EQUAL(1, RLIMIT_CORE)}, 0},
};
static const struct rule own_limits[] = {{DONE, {EQUAL(0, RLIMIT_CORE)}, 0}};

/* Inside a user namespace of its own a process has every capability over what it makes: most of the kernel's doors. */
static const struct rule children[] = {{EPERM, {ANY_BIT(0, NAMESPACES)}, 0}};
static const struct rule separations[] = {{EPERM, {ANY_BIT(0, NAMESPACES | TIME_NAMESPACE)}, 0}};

/* What they would bring to a disk is the host's, and each costs its disk a flush. */
static const struct rule flushes[] = {{DONE, {{HOW_NONE, 0, 0}}, EPHEMERAL}};
static const struct rule map_flushes[] = {{DONE, {ANY_BIT(2, MS_SYNC)}, EPHEMERAL}}; /* else it only looks, as unwinders do */

static const struct rule watches[] = {{EPERM, {ANY_BIT(2, READING)}, 0}};
static const struct rule nodes[] = {{EPERM, {ANY_BIT(1, DEVICE_BIT)}, 0}};
static const struct rule nodes_at[] = {{EPERM, {ANY_BIT(2, DEVICE_BIT)}, 0}};
/* Throws a shared file out of memory, for the next reader to have it read again. It is advice: not taken. */
static const struct rule advices[] = {{DONE, {EQUAL(3, NOT_NEEDED)}, 0}};
/* Reserved huge pages are the machine's, and no account holds them. The kernel has none left, for all a sandbox can tell. */
static const struct rule huge_mappings[] = {{ENOMEM, {ANY_BIT(3, HUGE_MAPPING)}, 0}};
static const struct rule huge_files[] = {{ENOSYS, {ANY_BIT(1, HUGE_MEMFD)}, 0}};
static const struct rule huge_segments[] = {{ENOMEM, {ANY_BIT(2, HUGE_SHARED)}, 0}};
static const struct rule memory_advices[] = {{EINVAL, {EQUAL(2, MERGEABLE)}, 0}}; /* see process_controls */
static const struct rule personalities[] = {
    {PASS, {EQUAL(0, 0)}, 0},
    {PASS, {EQUAL(0, 0xffffffff)}, 0}, /* a question */
};

#define OPEN(name) {SYS_##name, PASS, 0, 0}
#define OPEN_NEW(number) {number, PASS, 0, 0}
#define SHUT(name, error) {SYS_##name, error, 0, 0}
#define SHUT_NEW(number, error) {number, error, 0, 0}
#define ASKED(name, rules, otherwise) {SYS_##name, otherwise, rules, COUNT(rules)}

const struct call calls[] = {
    /* Files. */
    OPEN(read), OPEN(write), OPEN(openat), OPEN(close), OPEN(fstat), OPEN(newfstatat), OPEN(statx), OPEN(lseek), OPEN(pread64),
    OPEN(pwrite64), OPEN(readv), OPEN(writev), OPEN(preadv), OPEN(pwritev), OPEN(preadv2), OPEN(pwritev2), OPEN(dup), OPEN(dup3),
    OPEN(pipe2), OPEN(sendfile), OPEN(splice), OPEN(tee), OPEN(copy_file_range), OPEN(flock), OPEN(truncate), OPEN(ftruncate),
    OPEN(fallocate), OPEN(getdents64), OPEN(getcwd), OPEN(chdir), OPEN(fchdir), OPEN(renameat2), OPEN(mkdirat), OPEN(unlinkat),
    OPEN(linkat), OPEN(symlinkat), OPEN(readlinkat), OPEN(fchmod), OPEN(fchmodat), OPEN(fchown), OPEN(fchownat), OPEN(umask),
    OPEN(faccessat), OPEN(utimensat), OPEN(statfs), OPEN(fstatfs), OPEN(readahead),
    OPEN(getxattr), OPEN(lgetxattr), OPEN(fgetxattr), OPEN(listxattr), OPEN(llistxattr), OPEN(flistxattr),
    OPEN(removexattr), OPEN(lremovexattr), OPEN(fremovexattr), OPEN(inotify_init1), OPEN(inotify_rm_watch),
    OPEN_NEW(NR_CLOSE_RANGE), OPEN_NEW(NR_OPENAT2), OPEN_NEW(NR_FACCESSAT2), OPEN_NEW(NR_FCHMODAT2),
    OPEN_NEW(NR_GETXATTRAT), OPEN_NEW(NR_LISTXATTRAT), OPEN_NEW(NR_REMOVEXATTRAT),
    ASKED(fcntl, file_controls, PASS), ASKED(ioctl, device_controls, ENOTTY), ASKED(fadvise64, advices, PASS),
    ASKED(mknodat, nodes_at, PASS), ASKED(inotify_add_watch, watches, PASS), ASKED(fsync, flushes, PASS),
    ASKED(fdatasync, flushes, PASS), ASKED(sync, flushes, PASS), ASKED(syncfs, flushes, PASS),
    ASKED(sync_file_range, flushes, PASS),

    /* Memory. */
    OPEN(mprotect), OPEN(munmap), OPEN(brk), OPEN(mremap), OPEN(mincore), OPEN(mlock), OPEN(mlock2), OPEN(munlock), OPEN(mlockall),
    OPEN(munlockall), OPEN(membarrier), OPEN(get_mempolicy), OPEN(pkey_mprotect), OPEN(pkey_alloc), OPEN(pkey_free),
    OPEN_NEW(NR_MSEAL), OPEN_NEW(NR_MAP_SHADOW_STACK), ASKED(mmap, huge_mappings, PASS), ASKED(madvise, memory_advices, PASS),
    ASKED(msync, map_flushes, PASS), ASKED(memfd_create, huge_files, PASS),

    /* Signals. They reach the sandbox's own processes: there are no others in its pid namespace. */
    OPEN(rt_sigaction), OPEN(rt_sigprocmask), OPEN(rt_sigreturn), OPEN(rt_sigpending), OPEN(rt_sigtimedwait),
    OPEN(rt_sigqueueinfo), OPEN(rt_tgsigqueueinfo), OPEN(rt_sigsuspend), OPEN(sigaltstack), OPEN(kill), OPEN(tkill), OPEN(tgkill),
    OPEN(signalfd4), OPEN(restart_syscall), OPEN_NEW(NR_PIDFD_SEND_SIGNAL), OPEN_NEW(NR_PIDFD_OPEN),

    /* Processes and threads. */
    OPEN(execve), OPEN(execveat), OPEN(exit), OPEN(exit_group), OPEN(wait4), OPEN(waitid), OPEN(getpid), OPEN(getppid),
    OPEN(gettid), OPEN(getpgid), OPEN(setpgid), OPEN(getsid), OPEN(setsid), OPEN(set_tid_address), OPEN(set_robust_list),
    OPEN(get_robust_list), OPEN(rseq), OPEN(futex), OPEN_NEW(NR_FUTEX_WAITV), OPEN_NEW(NR_FUTEX_WAKE), OPEN_NEW(NR_FUTEX_WAIT),
    OPEN_NEW(NR_FUTEX_REQUEUE), OPEN(getrusage), OPEN(times), OPEN(uname), OPEN(getrandom), OPEN(getcpu),
    OPEN(sysinfo), /* tells what /proc/meminfo and /proc/loadavg do: the C library counts pages with it, Java and Node size heaps */
    ASKED(clone, children, PASS), ASKED(unshare, separations, PASS), ASKED(prctl, process_controls, EINVAL),
    ASKED(prlimit64, limits_of, PASS), ASKED(personality, personalities, EPERM),

    /* Who it is: it has one uid, no capability and can gain none, so most of these fail by themselves or change nothing. */
    OPEN(getuid), OPEN(geteuid), OPEN(getgid), OPEN(getegid), OPEN(getgroups), OPEN(getresuid), OPEN(getresgid), OPEN(setuid),
    OPEN(setgid), OPEN(setreuid), OPEN(setregid), OPEN(setresuid), OPEN(setresgid), OPEN(setfsuid), OPEN(setfsgid),
    OPEN(setgroups), OPEN(capget), OPEN(capset),

    /* Scheduling: lower is allowed, and who asks for more is refused by limits of 0. */
    OPEN(sched_yield), OPEN(sched_getaffinity), OPEN(sched_setaffinity), OPEN(sched_getparam), OPEN(sched_setparam),
    OPEN(sched_getscheduler), OPEN(sched_setscheduler), OPEN(sched_get_priority_max), OPEN(sched_get_priority_min),
    OPEN(sched_rr_get_interval), OPEN(sched_getattr), OPEN(getpriority), OPEN(setpriority), OPEN(ioprio_get),

    /* Time. */
    OPEN(nanosleep), OPEN(clock_nanosleep), OPEN(clock_gettime), OPEN(clock_getres), OPEN(gettimeofday), OPEN(getitimer),
    OPEN(setitimer), OPEN(timer_create), OPEN(timer_settime), OPEN(timer_gettime), OPEN(timer_getoverrun), OPEN(timer_delete),
    OPEN(timerfd_create), OPEN(timerfd_settime), OPEN(timerfd_gettime),

    /* Waiting for many. */
    OPEN(epoll_create1), OPEN(epoll_ctl), OPEN(epoll_pwait), OPEN_NEW(NR_EPOLL_PWAIT2), OPEN(eventfd2), OPEN(pselect6), OPEN(ppoll),

    /* Sockets. */
    OPEN(connect), OPEN(accept), OPEN(accept4), OPEN(sendto), OPEN(recvfrom), OPEN(sendmsg), OPEN(recvmsg), OPEN(sendmmsg),
    OPEN(recvmmsg), OPEN(shutdown), OPEN(bind), OPEN(listen), OPEN(getsockname), OPEN(getpeername), OPEN(getsockopt),
    ASKED(socket, sockets, EAFNOSUPPORT), ASKED(socketpair, sockets, EAFNOSUPPORT), ASKED(setsockopt, socket_options, PASS),

    /* Queues, semaphores and segments of the sandbox's own ipc namespace. */
    OPEN(shmat), OPEN(shmctl), OPEN(shmdt), OPEN(semget), OPEN(semop), OPEN(semctl), OPEN(semtimedop), OPEN(msgget), OPEN(msgsnd),
    OPEN(msgrcv), OPEN(msgctl), OPEN(mq_open), OPEN(mq_unlink), OPEN(mq_timedsend), OPEN(mq_timedreceive), OPEN(mq_notify),
    OPEN(mq_getsetattr), ASKED(shmget, huge_segments, PASS),

    /* A newborn attaches its code and sizes its /tmp with these after the filter is in place. Without the privilege, which it gives
     * away next, the kernel says EPERM before it looks at anything. */
    OPEN_NEW(NR_MOVE_MOUNT), OPEN_NEW(NR_FSPICK), OPEN_NEW(NR_FSCONFIG),

    /* Refused by the error that programs know; what is not named at all gets ENOSYS, which some would not expect here. */
    SHUT_NEW(NR_CLONE3, ENOSYS),           /* its flags lie in memory, where a filter cannot look; the C library takes clone */
    SHUT_NEW(NR_IO_URING_SETUP, ENOSYS), SHUT_NEW(NR_IO_URING_ENTER, ENOSYS), SHUT_NEW(NR_IO_URING_REGISTER, ENOSYS),
    SHUT(io_setup, ENOSYS), SHUT(io_submit, ENOSYS), /* requests under way are counted for the whole machine (fs.aio-max-nr) */
    SHUT(io_getevents, ENOSYS), SHUT(io_destroy, ENOSYS), SHUT(io_cancel, ENOSYS),
    SHUT(seccomp, ENOSYS),                 /* see process_controls */
    SHUT(keyctl, EPERM), SHUT(add_key, EPERM), /* a keyring is its uid's, which the next occupant of the slot has */
    SHUT(request_key, EPERM),              /* makes the kernel start a program of the host */
    SHUT(setns, EPERM), SHUT(bpf, EPERM), SHUT(perf_event_open, EPERM), SHUT(userfaultfd, EPERM),
    SHUT(fanotify_init, EPERM), SHUT(fanotify_mark, EPERM),
    SHUT(syslog, EPERM),                   /* the kernel's log tells of everybody */
    SHUT(ptrace, EPERM), SHUT(process_vm_readv, EPERM), SHUT(process_vm_writev, EPERM), SHUT(kcmp, EPERM),
    SHUT_NEW(NR_PIDFD_GETFD, EPERM), SHUT_NEW(NR_PROCESS_MADVISE, EPERM), SHUT_NEW(NR_PROCESS_MRELEASE, EPERM),
    SHUT(mount, EPERM), SHUT(umount2, EPERM), SHUT(pivot_root, EPERM), SHUT(chroot, EPERM), SHUT_NEW(NR_OPEN_TREE, EPERM),
    SHUT_NEW(NR_FSOPEN, EPERM), SHUT_NEW(NR_FSMOUNT, EPERM), SHUT_NEW(NR_MOUNT_SETATTR, EPERM),
    SHUT(setxattr, EOPNOTSUPP), SHUT(lsetxattr, EOPNOTSUPP), SHUT(fsetxattr, EOPNOTSUPP), /* no file system encrypts attributes: */
    SHUT_NEW(NR_SETXATTRAT, EOPNOTSUPP),   /* they would be on the disk in plain text (scratch.md) */
    SHUT(name_to_handle_at, EOPNOTSUPP), SHUT(open_by_handle_at, EPERM),
    SHUT(swapon, EPERM), SHUT(swapoff, EPERM), SHUT(reboot, EPERM), SHUT(sethostname, EPERM), SHUT(setdomainname, EPERM),
    SHUT(init_module, EPERM), SHUT(finit_module, EPERM), SHUT(delete_module, EPERM), SHUT(kexec_load, EPERM), SHUT(acct, EPERM),
    SHUT(quotactl, EPERM), SHUT_NEW(NR_QUOTACTL_FD, EPERM), SHUT(vhangup, EPERM),
    SHUT(settimeofday, EPERM), SHUT(clock_settime, EPERM),
    SHUT(adjtimex, EPERM), SHUT(clock_adjtime, EPERM), /* only to ask would be allowed, and tells how the host keeps its time */
    SHUT(set_mempolicy, EPERM), SHUT(mbind, EPERM), SHUT(migrate_pages, EPERM), SHUT(move_pages, EPERM), /* the host's nodes */
    SHUT(ioprio_set, EPERM),               /* the disk is shared */
    SHUT(sched_setattr, EPERM),            /* asks for frequencies too, which are the host's */

#if defined(__x86_64__)
    /* Older names of the above, and what only this processor has. */
    OPEN(open), OPEN(creat), OPEN(stat), OPEN(lstat), OPEN(poll), OPEN(access), OPEN(pipe), OPEN(select), OPEN(dup2),
    OPEN(getdents), OPEN(rename), OPEN(renameat), OPEN(mkdir), OPEN(rmdir), OPEN(link), OPEN(unlink), OPEN(symlink), OPEN(readlink),
    OPEN(chmod), OPEN(chown), OPEN(lchown), OPEN(utime), OPEN(utimes), OPEN(futimesat), OPEN(inotify_init), OPEN(fork),
    OPEN(vfork), OPEN(getpgrp), OPEN(pause), OPEN(signalfd), OPEN(alarm), OPEN(time), OPEN(epoll_create), OPEN(epoll_wait),
    OPEN(eventfd), OPEN(arch_prctl), OPEN(getrlimit), ASKED(mknod, nodes, PASS), ASKED(setrlimit, own_limits, PASS),
    OPEN_NEW(335), OPEN_NEW(336), /* uretprobe, uprobe: made by the kernel's own probes when the host traces a library */
    SHUT(modify_ldt, ENOSYS), SHUT(iopl, EPERM), SHUT(ioperm, EPERM), SHUT(kexec_file_load, EPERM),
#elif defined(__aarch64__)
    OPEN(renameat), OPEN(getrlimit), ASKED(setrlimit, own_limits, PASS), SHUT(kexec_file_load, EPERM),
#endif
};

const unsigned calls_count = COUNT(calls);

_Static_assert((S_IFCHR & DEVICE_BIT) && (S_IFBLK & DEVICE_BIT) && !(S_IFREG & DEVICE_BIT) && !(S_IFIFO & DEVICE_BIT) &&
               !(S_IFSOCK & DEVICE_BIT) && !(S_IFDIR & DEVICE_BIT), "one bit tells devices");
_Static_assert(CALL_UNKNOWN == ENOSYS, "calls.h says so without <errno.h>");
