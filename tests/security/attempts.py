"""Attempts to get out of a sandbox, as one table: what is tried, how it must end, and which protections hold it.

Law of this file: an attempt is a piece of Python that runs inside and says how it ended: the name of an errno, or what it got.
It is harmless where it works, for the canary runs it in a sandbox whose protections are cut out: there it must not end as it
does here. Where several protections hold an attempt, all of them are cut out together. What is held by the kernel's own list
of privileges has "privileges" among them, and is answered there by what the kernel says next (EINVAL, ENOENT, done).
"""

from __future__ import annotations

import platform
from dataclasses import dataclass

__all__ = ["ATTEMPTS", "PRELUDE", "Attempt"]

# Numbers of system calls that libc has no function for; from 424 on they are the same everywhere.
NUMBERS = {
    "x86_64": {
        "clone": 56, "ptrace": 101, "pivot_root": 155, "swapon": 167, "init_module": 175, "delete_module": 176,
        "settimeofday": 164, "add_key": 248, "request_key": 249, "keyctl": 250, "ioprio_set": 251, "mbind": 237,
        "migrate_pages": 256, "unshare": 272, "move_pages": 279, "perf_event_open": 298, "fanotify_init": 300,
        "open_by_handle_at": 304, "setns": 308, "kcmp": 312, "process_vm_readv": 310, "process_vm_writev": 311,
        "finit_module": 313, "sched_setattr": 314, "seccomp": 317, "bpf": 321, "userfaultfd": 323, "kexec_load": 246,
        "kexec_file_load": 320, "acct": 163, "quotactl": 179, "io_setup": 206, "syslog": 103, "personality": 135, "mount":
        165, "umount2": 166, "memfd_create": 319, "adjtimex": 159, "vhangup": 153, "ioperm": 173, "reboot": 169,
    },
    "aarch64": {
        "clone": 220, "ptrace": 117, "pivot_root": 41, "swapon": 224, "init_module": 105, "delete_module": 106,
        "settimeofday": 170, "add_key": 217, "request_key": 218, "keyctl": 219, "ioprio_set": 30, "mbind": 235,
        "migrate_pages": 238, "unshare": 97, "move_pages": 239, "perf_event_open": 241, "fanotify_init": 262,
        "open_by_handle_at": 265, "setns": 268, "kcmp": 272, "process_vm_readv": 270, "process_vm_writev": 271,
        "finit_module": 273, "sched_setattr": 274, "seccomp": 277, "bpf": 280, "userfaultfd": 282, "kexec_load": 104,
        "kexec_file_load": 294, "acct": 89, "quotactl": 60, "io_setup": 0, "syslog": 116, "personality": 92, "mount": 40,
        "umount2": 39, "memfd_create": 279, "adjtimex": 171, "vhangup": 58, "ioperm": 1023, "reboot": 142,
    },
}.get(platform.machine(), {})  # fmt: skip

PRELUDE = f"""
import ctypes, errno, fcntl, mmap, os, resource, signal, socket, stat, struct
libc = ctypes.CDLL(None, use_errno=True)
numbers = {NUMBERS!r}
room = ctypes.create_string_buffer(65536)

def call(which, *arguments):
    # The errno's name, or "done".
    wide = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    ctypes.set_errno(0)
    answer = libc.syscall(ctypes.c_long(numbers.get(which, which)), *wide)
    return errno.errorcode[ctypes.get_errno()] if answer < 0 else "done"

def attempt(function, *arguments):
    try:
        got = function(*arguments)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    except ValueError as error:
        return f"ValueError: {{error}}"
    if isinstance(got, socket.socket):
        got.close()
    return f"got {{got}}"

def opened(path, flags=os.O_RDONLY):
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        return errno.errorcode[error.errno]
    os.close(fd)
    return "opened"

def held(path):
    # What a file of /proc has to tell.
    try:
        with open(path, "rb") as file:
            return "something" if file.read(64) else "nothing"
    except OSError as error:
        return errno.errorcode[error.errno]

def in_child(function):
    # For what would change this process: "done" if it could be done.
    pid = os.fork()
    if pid == 0:
        try:
            said = function()
        except OSError as error:
            said = errno.errorcode[error.errno]
        codes = sorted(errno.errorcode.values())
        os._exit(codes.index(said) if said in codes else 255)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "done" if code == 255 else sorted(errno.errorcode.values())[code]

def forked(most):
    # How many processes could be there at once.
    made = []
    try:
        for _ in range(most):
            pid = os.fork()
            if pid == 0:
                signal.pause()
            made.append(pid)
    except OSError:
        pass
    for pid in made:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(made)

def filled(megabytes):
    try:
        with open("/tmp/filled", "wb", buffering=0) as file:
            for _ in range(megabytes):
                file.write(bytes(1 << 20))
    except OSError as error:
        return errno.errorcode[error.errno]
    finally:
        os.unlink("/tmp/filled")
    return "done"

def files(count):
    os.mkdir("/tmp/files")
    try:
        for number in range(count):
            os.close(os.open(f"/tmp/files/{{number}}", os.O_CREAT))
    except OSError as error:
        return errno.errorcode[error.errno]
    finally:
        for name in os.listdir("/tmp/files"):
            os.unlink(f"/tmp/files/{{name}}")
        os.rmdir("/tmp/files")
    return "done"
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """`code`: an expression over PRELUDE's names; HOST_FILE is a file of the host that everybody may read, HOST_PORT a port of
    its loopback, HOST_SOCKET and HOST_NAME sockets of it, by path and abstract. `refused`: what its text must match. `as_user`:
    the same without root, where that differs; None: that mode does not promise it."""

    code: str
    refused: str
    held_by: tuple[str, ...]
    as_user: str | None = ""

    def expected(self, *, as_root: bool) -> str | None:
        return self.refused if as_root or self.as_user == "" else self.as_user


FILTER = ("filter",)
BOTH = ("filter", "privileges")
MOUNTS = ("filter", "privileges", "read-only mounts")

ATTEMPTS: dict[str, Attempt] = {
    # First, for others leave some: input, output twice, the channel, the page; and the one that lists them.
    "descriptors left behind": Attempt("len(os.listdir('/proc/self/fd')) - 1", "5", ("descriptors",)),
    # ---- namespaces ----
    "a user namespace": Attempt("in_child(lambda: call('unshare', 0x10000000))", "EPERM", FILTER),
    "a user and a mount namespace": Attempt("in_child(lambda: call('unshare', 0x10020000))", "EPERM", FILTER),
    "a mount namespace": Attempt("in_child(lambda: call('unshare', 0x00020000))", "EPERM", BOTH),
    "a network namespace": Attempt("in_child(lambda: call('unshare', 0x40000000))", "EPERM", BOTH),
    "a time namespace": Attempt("in_child(lambda: call('unshare', 0x80))", "EPERM", BOTH),
    "a child in a user namespace": Attempt("in_child(lambda: call('clone', 0x10000011, 0, 0, 0, 0))", "EPERM", FILTER),
    "clone3, whose flags no filter sees": Attempt("call(435, room, 8)", "ENOSYS", FILTER),
    "entering a namespace": Attempt("call('setns', os.open('/proc/self/ns/uts', os.O_RDONLY), 0)", "EPERM", BOTH),
    "the owner of a namespace": Attempt(
        "attempt(fcntl.ioctl, os.open('/proc/self/ns/uts', os.O_RDONLY), 0xb701)", "ENOTTY", BOTH
    ),
    # ---- mounts and roots ----
    "mounting": Attempt("call('mount', b'none', b'/nowhere', b'tmpfs', 0, 0)", "EPERM", BOTH),
    "taking a mask off": Attempt("call('umount2', b'/nowhere', 2)", "EPERM", BOTH),
    "a new root": Attempt("call('pivot_root', b'/nowhere', b'/nowhere')", "EPERM", BOTH),
    "chroot": Attempt("attempt(os.chroot, '/nowhere')", "EPERM", BOTH),
    "a copy of a mount": Attempt("call(428, -100, b'/nowhere', 1)", "EPERM", BOTH),
    "opening a file system": Attempt("call(430, b'tmpfs', 0)", "EPERM", BOTH),
    "moving a mount": Attempt("call(429, -100, b'/nowhere', -100, b'/nowhere', 0)", "EPERM", ("privileges",)),
    "changing a mount": Attempt("call(442, -100, b'/nowhere', 0, room, 32)", "EPERM", BOTH),
    "files by handle": Attempt("call('open_by_handle_at', -1, room, 0)", "EPERM", BOTH),
    # ---- the host's files ----
    "a file of the host": Attempt("held('/../' * 9 + HOST_FILE)", "ENOENT", ("root",)),
    "the host's passwords": Attempt("opened('/../etc/shadow', os.O_PATH)", "ENOENT", ("root",)),
    "the control socket": Attempt(
        "attempt(lambda: socket.socket(socket.AF_UNIX).connect('/../' * 9 + HOST_SOCKET))", "ENOENT", ("root",)
    ),
    "the host's devices": Attempt("opened('/../sys/kernel', os.O_PATH)", "ENOENT", ("root",)),
    "writing to the code": Attempt("opened('/var/task/app.py', os.O_WRONLY)", "EROFS", ("read-only mounts",)),
    "a file beside the code": Attempt(
        "opened('/var/task/new', os.O_WRONLY | os.O_CREAT)", "EROFS", ("read-only mounts", "privileges")
    ),
    "writing to the interpreter": Attempt("opened(os.__file__, os.O_WRONLY)", "EROFS|EACCES", MOUNTS),
    "writing to the runtime": Attempt("opened('/var/runtime/bootstrap.py', os.O_WRONLY)", "EROFS|EACCES", MOUNTS),
    "writing to /etc": Attempt("opened('/etc/passwd', os.O_WRONLY)", "EROFS|EACCES", MOUNTS),
    "a file in the root": Attempt("opened('/new', os.O_WRONLY | os.O_CREAT)", "EROFS|EACCES", MOUNTS),
    # ---- devices ----
    "a node of a disk": Attempt("attempt(os.mknod, '/tmp/disk', stat.S_IFBLK | 0o666, os.makedev(254, 0))", "EPERM", BOTH),
    "a node of memory": Attempt("attempt(os.mknod, '/tmp/mem', stat.S_IFCHR | 0o666, os.makedev(1, 1))", "EPERM", BOTH),
    "I/O ports": Attempt("call('ioperm', 0, 65536, 1)", "EPERM|ENOSYS", BOTH),
    # ---- /proc ----
    "settings of the kernel": Attempt(
        "opened('/proc/sys/kernel/core_pattern', os.O_WRONLY)", "EROFS|EACCES", ("masked proc", "privileges")
    ),
    "the console's keys": Attempt(
        "opened('/proc/sysrq-trigger', os.O_WRONLY)", "EROFS|EACCES|EPERM|ENOENT", ("masked proc", "privileges")
    ),
    "the kernel's memory": Attempt("held('/proc/kcore')", "nothing|EACCES|EPERM|ENOENT", ("masked proc", "privileges")),
    "the kernel's symbols": Attempt("held('/proc/kallsyms')", "nothing|ENOENT", ("masked proc",)),
    "keys by name": Attempt("held('/proc/key-users')", "nothing|ENOENT", ("masked proc",)),
    "what the machine does: memory": Attempt("held('/proc/vmstat')", "nothing|ENOENT", ("masked proc",)),
    "what the machine does: zones": Attempt("held('/proc/zoneinfo')", "nothing|ENOENT", ("masked proc",)),
    "what the machine does: disks": Attempt("held('/proc/diskstats')", "nothing|ENOENT", ("masked proc",)),
    "what the machine does: interrupts": Attempt("held('/proc/interrupts')", "nothing|ENOENT", ("masked proc",)),
    "what the machine does: files": Attempt("held('/proc/sys/fs/file-nr')", "nothing|ENOENT", ("masked proc",)),
    "what the machine does: processors": Attempt(
        "{int(n) for line in open('/proc/stat') if line.startswith('cpu') for n in line.split()[1:]}",
        r"\{0, 100\}",
        ("masked proc",),
    ),
    "how the machine was started": Attempt("held('/proc/cmdline')", "nothing|ENOENT", ("masked proc",)),
    "init's root": Attempt("opened('/proc/1/root/')", "EACCES", ("not traceable", "privileges")),
    "init's descriptors": Attempt("attempt(os.readlink, '/proc/1/fd/5')", "EACCES", ("not traceable", "privileges")),
    "init's memory": Attempt("opened('/proc/1/mem', os.O_RDWR)", "EACCES", ("not traceable", "privileges")),
    "init's environment": Attempt("opened('/proc/1/environ')", "EACCES", ("not traceable", "privileges")),
    # ---- other processes ----
    "other processes": Attempt("sorted(int(n) for n in os.listdir('/proc') if n.isdigit())[2:]", r"\[\]", ("pid namespace",)),
    "a signal to what is not ours": Attempt(
        "sorted({attempt(os.kill, n, 0) for n in range(3, 4096) if n != os.getpid()})", r"\['ESRCH'\]", ("pid namespace",)
    ),
    "tracing": Attempt("call('ptrace', 16, 99999, 0, 0)", "EPERM", FILTER),
    "memory of others": Attempt("call('process_vm_readv', 99999, room, 1, room, 1, 0)", "EPERM", FILTER),
    "writing memory of others": Attempt("call('process_vm_writev', 99999, room, 1, room, 1, 0)", "EPERM", FILTER),
    "comparing processes": Attempt("call('kcmp', 99999, 99999, 0, 0, 0)", "EPERM", FILTER),
    "descriptors of others": Attempt("call(438, -1, 0, 0)", "EPERM", FILTER),
    # ---- identity ----
    "becoming root": Attempt("in_child(lambda: (os.setuid(0), 'done')[1])", "EPERM", ("privileges",), as_user="EINVAL|EPERM"),
    "root's group": Attempt("in_child(lambda: (os.setgid(0), 'done')[1])", "EPERM", ("privileges",), as_user="EINVAL|EPERM"),
    "more groups": Attempt("in_child(lambda: (os.setgroups([0]), 'done')[1])", "EPERM", ("privileges",)),
    "another uid": Attempt(
        "in_child(lambda: (os.setresuid(1, 1, 1), 'done')[1])", "EPERM", ("privileges",), as_user="EINVAL|EPERM"
    ),
    "a capability": Attempt(
        "[line.split()[1] for line in open('/proc/self/status') if line.startswith('Cap') and int(line.split()[1], 16)]",
        r"\[\]",
        ("privileges",),
    ),
    "new privileges by exec": Attempt(
        "[line.split()[1] for line in open('/proc/self/status') if line.startswith('NoNewPrivs')]", r"\['1'\]", ("privileges",)
    ),
    "a program of root's with the set-uid bit": Attempt(
        "os.popen('/var/task/euid').read() == str(os.getuid())", "True", ("nosuid", "no new privileges")
    ),
    "owning a file for another": Attempt(
        "attempt(os.chown, os.open('/tmp/own', os.O_CREAT) and '/tmp/own', 1, 1)",
        "EPERM",
        ("privileges",),
        as_user="EINVAL|EPERM",
    ),
    # ---- network ----
    "the host's loopback": Attempt(
        "attempt(socket.create_connection, ('127.0.0.1', HOST_PORT), 5)", "ECONNREFUSED", ("host network",)
    ),
    "the host's abstract sockets": Attempt(
        "attempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0' + HOST_NAME))", "ECONNREFUSED", ("host network",)
    ),
    "interfaces of the host": Attempt("[n for _, n in socket.if_nameindex()]", r"\['lo'\]", ("host network",)),
    "raw packets": Attempt("attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)", "EPERM", BOTH),
    "packet sockets": Attempt("attempt(socket.socket, 17, socket.SOCK_RAW, 0)", "EAFNOSUPPORT", BOTH),
    "sockets of the hypervisor": Attempt("attempt(socket.socket, 40, socket.SOCK_STREAM)", "EAFNOSUPPORT", FILTER),
    "crypto sockets": Attempt("attempt(socket.socket, 38, socket.SOCK_SEQPACKET)", "EAFNOSUPPORT", FILTER),
    "a module by family": Attempt("attempt(socket.socket, 21, socket.SOCK_SEQPACKET)", "EAFNOSUPPORT", FILTER),
    "a module by protocol": Attempt("attempt(socket.socket, 2, socket.SOCK_STREAM, 262)", "EPROTONOSUPPORT", FILTER),
    "audit by netlink": Attempt("attempt(socket.socket, 16, socket.SOCK_RAW, 9)", "EPROTONOSUPPORT", FILTER),
    "a filter of sockets": Attempt(
        "attempt(lambda: socket.socket().setsockopt(1, 26, struct.pack('HxxxxxxP', 1, ctypes.addressof(room))))",
        "EPERM",
        BOTH,
    ),
    # ---- the kernel's own doors ----
    "keys": Attempt("call('add_key', b'user', b'mine', b'secret', 6, -4)", "EPERM", FILTER),
    "keyrings": Attempt("call('keyctl', 0, -3, 0)", "EPERM", FILTER),
    "a helper of the host": Attempt("call('request_key', b'user', b'none', 0, -4)", "EPERM", FILTER),
    "programs in the kernel": Attempt("call('bpf', 0, room, 16)", "EPERM", BOTH),
    "counters of the processor": Attempt("call('perf_event_open', room, 0, -1, -1, 0)", "EPERM", BOTH),
    "faults in user space": Attempt("call('userfaultfd', 0xffff)", "EPERM", FILTER),
    "rings": Attempt("call(425, 8, room)", "ENOSYS", FILTER),
    "requests under way": Attempt("call('io_setup', 1, ctypes.byref(ctypes.c_long(0)))", "ENOSYS", FILTER),
    "a filter of its own": Attempt("in_child(lambda: call('seccomp', 1, 0, struct.pack('HxxxxxxP', 0, 0)))", "ENOSYS", FILTER),
    "watching who opens files": Attempt(
        "attempt(lambda: libc.inotify_add_watch(libc.inotify_init(), b'/usr/bin', 0x20) < 0 and 'EPERM')", "got EPERM", FILTER
    ),
    "watching whole file systems": Attempt("call('fanotify_init', 0x200, 0)", "EPERM", FILTER),
    "the same by fcntl": Attempt("attempt(fcntl.fcntl, os.open('/usr/bin', 0), 1026, 1)", "EPERM", FILTER),
    "leases": Attempt("attempt(fcntl.fcntl, os.open('/tmp/lease', os.O_CREAT), 1024, 0)", "EINVAL", FILTER),
    "huge pages": Attempt("call('memfd_create', b'x', 4)", "ENOSYS", FILTER),
    "merging memory": Attempt("attempt(mmap.mmap(-1, 4096).madvise, 12)", "EINVAL", FILTER),
    "another personality": Attempt("in_child(lambda: call('personality', 0x0040000))", "EPERM", FILTER),
    "the kernel's log": Attempt("call('syslog', 10, 0, 0)", "EPERM", BOTH),
    # ---- the machine ----
    "setting the clock": Attempt("call('settimeofday', 0, room)", "EPERM", BOTH),
    "how the clock is kept": Attempt("call('adjtimex', bytes(512))", "EPERM", FILTER),
    "loading a module": Attempt("call('init_module', room, 0, b'')", "EPERM", BOTH),
    "loading a module by file": Attempt("call('finit_module', -1, b'', 0)", "EPERM", BOTH),
    "unloading a module": Attempt("call('delete_module', b'no_such_module', 0)", "EPERM", BOTH),
    "another kernel": Attempt("call('kexec_load', 0, 99, room, 0)", "EPERM", BOTH),
    "restarting the machine": Attempt("call('reboot', 0, 0, 0, 0)", "EPERM", BOTH),
    "swap": Attempt("call('swapon', b'/nowhere', 0)", "EPERM", BOTH),
    "accounting of processes": Attempt("call('acct', b'/nowhere')", "EPERM", BOTH),
    "quotas": Attempt("call('quotactl', 0x7fffffff, b'/nowhere', 0, 0)", "EPERM", FILTER),
    "the host's name": Attempt("attempt(socket.sethostname, 'x' * 65)", "EPERM", BOTH),
    "hanging the terminal up": Attempt("call('vhangup')", "EPERM", BOTH),
    # ---- priorities and limits ----
    "real time": Attempt(
        "attempt(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1))", "EPERM", ("privileges", "control groups")
    ),
    "a better priority": Attempt(
        "in_child(lambda: (os.setpriority(os.PRIO_PROCESS, 0, -1), 'done')[1])", "EACCES", ("privileges",)
    ),
    "deadlines and frequencies": Attempt("call('sched_setattr', 99999, room, 0)", "EPERM", FILTER),
    "priority on the disk": Attempt("call('ioprio_set', 1, 99999, 0)", "EPERM", FILTER),
    "memory of another node": Attempt("call('mbind', 0, 0, 99, 0, 0, 0)", "EPERM", FILTER),
    "moving pages": Attempt("call('move_pages', 99999, 0, 0, 0, 0, 0)", "EPERM", FILTER),
    "being spared when memory is short": Attempt(
        "attempt(lambda: os.write(os.open('/proc/self/oom_score_adj', os.O_WRONLY), b'-1000'))", "EACCES|EPERM", ("privileges",)
    ),
    "more descriptors": Attempt(
        "attempt(resource.setrlimit, resource.RLIMIT_NOFILE, (4096, 4096))",
        "ValueError: not allowed.*|EPERM",
        ("resource limits", "privileges"),
    ),
    "more memory locked": Attempt("resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] <= 65536", "True", ("resource limits",)),
    "a core file": Attempt("resource.getrlimit(resource.RLIMIT_CORE)", r"\(1, 1\)", ("resource limits",)),
    # ---- what is counted ----
    "more processes than allowed": Attempt("forked(100) < 64", "True", ("process limit", "control groups", "privileges")),
    "more bytes in /tmp than allowed": Attempt("filled(40)", "ENOSPC", ("size of /tmp",)),
    "more files in /tmp than allowed": Attempt("files(6000)", "ENOSPC", ("size of /tmp",)),
    "its groups on the host": Attempt(
        "[line for line in open('/proc/self/cgroup') if line.rstrip().rpartition(':')[2] != '/']",
        r"\[\]",
        ("group namespace",),
        as_user=None,
    ),
}
