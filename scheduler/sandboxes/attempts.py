"""What the doctor tries inside a sandbox. Each function's source is sent there and run by a stranger's rules, so it stands
alone: its imports are its own, and nothing of this module is in reach.

Law of this file: an attempt does what must not work, and answers [held, what was found]. It cleans up after itself, since the
next one runs in the same sandbox. `given` names come from outside: things of the host that a sandbox must not reach.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "burn",
    "clock",
    "code_read_only",
    "core_dumps",
    "descriptors",
    "eat_memory",
    "host_files",
    "host_network",
    "host_processes",
    "keyring",
    "masked_proc",
    "names",
    "namespaces",
    "neighbour_leaves",
    "neighbour_looks",
    "neighbour_tidies",
    "open_files",
    "outbound",
    "plant",
    "priority",
    "privileges",
    "processes",
    "shared_memory",
    "storage",
    "system_calls",
]

Answer = list[Any]


# ---- what it sees ----


def namespaces() -> dict[str, str]:
    import os

    return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")}


def names() -> dict[str, Any]:
    import os
    import socket

    with open("/proc/self/cgroup") as file:
        groups = sorted({line.rstrip("\n").split(":", 2)[2] for line in file})
    return {"host": socket.gethostname(), "groups": groups, "uid": os.getuid()}


def host_files(file: str) -> Answer:
    import os

    seen = [path for path in (file, "/sys", "/boot", "/etc/shadow", "/proc/1/root/boot") if os.path.lexists(path)]
    return [not seen, "sees " + ", ".join(seen) if seen else "none can be seen"]


def code_read_only() -> Answer:
    done = []
    for path in ("/var/task/new", "/new", "/usr/lib/new", "/etc/passwd", "/var/runtime/new"):
        try:
            with open(path, "a"):
                done.append(path)
        except OSError:
            pass
    return [not done, "can write " + ", ".join(done) if done else "neither code nor runtime can be written"]


def host_processes(pid: int) -> Answer:
    import os

    seen = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    others = [number for number in seen if number not in (1, os.getpid())]
    try:
        os.kill(pid, 0)
        others.append(pid)
    except ProcessLookupError:
        pass
    except OSError:
        others.append(pid)  # refused, but there
    return [not others and os.getppid() == 1, f"sees {len(others)} besides itself and its init"]


def masked_proc() -> Answer:
    import os

    open_to = []
    for path in ("/proc/kcore", "/proc/keys", "/proc/kallsyms", "/proc/kmsg", "/proc/sched_debug", "/proc/timer_list",
                 "/proc/modules", "/proc/interrupts", "/proc/1/environ", "/proc/1/mem"):  # fmt: skip
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if os.read(fd, 64):
                open_to.append("read " + path)
        except OSError:
            pass
        finally:
            os.close(fd)
    for path in (
        "/proc/sysrq-trigger",
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/drop_caches",
        "/proc/self/oom_score_adj",
    ):
        try:
            with open(path, "w") as file:
                file.write("-1000")
            open_to.append("write " + path)
        except OSError:
            pass
    return [not open_to, "can " + ", ".join(open_to) if open_to else "what tells about the host is hidden, nothing can be set"]


def host_network(port: int, abstract: str) -> Answer:
    import socket

    reached = [name for _, name in socket.if_nameindex() if name != "lo"]
    with socket.socket() as one:
        one.settimeout(2)
        if one.connect_ex(("127.0.0.1", port)) == 0:
            reached.append(f"port {port} on the host's loopback")
    with socket.socket(socket.AF_UNIX) as one:
        if one.connect_ex("\0" + abstract) == 0:
            reached.append("an abstract socket of the host")
    return [not reached, "reaches " + ", ".join(reached) if reached else "has loopback only, its own"]


def shared_memory(key: int) -> Answer:
    import ctypes
    import errno

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.shmget(key, 0, 0) >= 0:
        return [False, "sees shared memory of the host"]
    return [True, f"that of the host is not there ({errno.errorcode[ctypes.get_errno()]})"]


def descriptors() -> Answer:
    import os

    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    expected = {"socket:": 1, "pipe:": 1, "/memfd:": 1, "/dev/null": 1}  # channel, output, progress, and no input
    targets = {target for target in found.values() if not target.startswith("/proc/")}
    more = sorted(target for target in targets if not target.startswith(tuple(expected)))
    for kind, count in expected.items():
        more += sorted(target for target in targets if target.startswith(kind))[count:]
    return [not more, "holds " + ", ".join(more) if more else "its channel and its output, and no more"]


# ---- its neighbours ----


def neighbour_leaves(word: str) -> bool:
    import socket
    import sys

    with open(f"/tmp/{word}", "w") as file, open(f"/dev/shm/{word}", "w") as other:
        file.write(word)
        other.write(word)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0" + word)
    listener.listen()
    sys.left = listener  # type: ignore[attr-defined]
    return True


def neighbour_tidies(word: str) -> bool:
    """Where nothing is its own, what it left is somebody else's too."""
    import os

    for directory in ("/tmp", "/dev/shm"):
        os.unlink(f"{directory}/{word}")
    return True


def neighbour_looks(word: str) -> Answer:
    import os
    import socket

    found = [f"{directory}/{word}" for directory in ("/tmp", "/dev/shm") if os.path.exists(f"{directory}/{word}")]
    with socket.socket(socket.AF_UNIX) as one:
        if one.connect_ex("\0" + word) == 0:
            found.append("an abstract socket")
    return [not found, "found " + ", ".join(found) if found else "nothing of another sandbox: files, shared memory, sockets"]


# ---- what it may do ----


def privileges() -> Answer:
    import os
    import socket
    import stat

    with open("/proc/self/status") as file:
        lines = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    could = [key for key in ("CapInh", "CapPrm", "CapEff", "CapAmb") if int(lines[key], 16)]
    tries: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("become root", lambda: os.setuid(0)),
        ("join root's group", lambda: os.setgid(0)),
        ("make a device", lambda: os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))),
        ("name the host", lambda: socket.sethostname("mine")),
        ("send raw packets", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
        ("leave its root", lambda: os.chroot("/tmp")),
    )
    for name, attempt in tries:
        try:
            attempt()
            could.append(name)
        except OSError:
            pass
    if lines["NoNewPrivs"] != "1":
        could.append("gain them by executing a program")
    held = os.getuid() != 0 and not could
    return [held, f"uid {os.getuid()}, " + ("could " + ", ".join(could) if could else "no capabilities, and can gain none")]


def system_calls() -> Answer:
    import ctypes
    import os
    import platform
    import socket

    libc = ctypes.CDLL(None)
    room = ctypes.create_string_buffer(4096)
    by_machine = {
        "x86_64": {
            "bpf": 321,
            "perf_event_open": 298,
            "userfaultfd": 323,
            "kexec_load": 246,
            "init_module": 175,
            "reboot": 169,
        },
        "aarch64": {
            "bpf": 280,
            "perf_event_open": 241,
            "userfaultfd": 282,
            "kexec_load": 104,
            "init_module": 105,
            "reboot": 142,
        },
    }
    numbers = by_machine.get(platform.machine(), {})

    def vsock() -> int:
        try:
            socket.socket(40, socket.SOCK_STREAM).close()
        except OSError:
            return -1
        return 0

    tries: dict[str, Callable[[], int]] = {
        "make user namespaces": lambda: libc.unshare(0x10000000),
        "enter namespaces": lambda: libc.setns(os.open("/proc/self/ns/uts", os.O_RDONLY), 0),
        "reach the hypervisor": vsock,
        "read the kernel's log": lambda: libc.klogctl(3, room, 4096),
        "mount": lambda: libc.mount(b"none", b"/tmp", b"tmpfs", 0, None),
        "trace": lambda: libc.ptrace(16, 1, 0, 0),
        "use io_uring": lambda: libc.syscall(425, 8, room),
        "load programs into the kernel": lambda: libc.syscall(numbers["bpf"], 5, room, 128),
        "watch the processor": lambda: libc.syscall(numbers["perf_event_open"], room, 0, -1, -1, 0),
        "handle page faults": lambda: libc.syscall(numbers["userfaultfd"], 1),
        "load a kernel": lambda: libc.syscall(numbers["kexec_load"], 0, 0, 0, 0),
        "load a module": lambda: libc.syscall(numbers["init_module"], room, 0, b""),
        "restart the machine": lambda: libc.syscall(numbers["reboot"], 0, 0, 0, 0),
    }
    could = []
    for name, attempt in tries.items():
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if attempt() < 0 else 1
            except KeyError:
                code = 0  # a number that is not known for this processor
            finally:
                os._exit(code)
        if os.waitpid(pid, 0)[1]:
            could.append(name)
    return [not could, "could " + ", ".join(could) if could else f"{len(tries)} that lead out were refused"]


def keyring() -> Answer:
    import ctypes
    import platform

    libc = ctypes.CDLL(None)
    numbers = {"x86_64": (248, 250), "aarch64": (217, 219)}.get(platform.machine())
    if numbers is None:
        return [True, "not tried on this processor"]
    add_key, keyctl = numbers
    could = []
    if libc.syscall(add_key, b"user", b"doctor", b"x", 1, -4) >= 0:
        could.append("store a key with its user")
    if libc.syscall(keyctl, 0, -3, 0) >= 0:
        could.append("look into its session's keys")
    return [not could, "could " + ", ".join(could) if could else "no key can be stored, sought or read"]


def clock() -> Answer:
    import time

    try:
        time.clock_settime(time.CLOCK_REALTIME, time.time())
    except OSError:
        return [True, "cannot be set"]
    return [False, "could be set"]


def core_dumps() -> Answer:
    import os
    import signal

    os.makedirs("/tmp/core-dump", exist_ok=True)
    pid = os.fork()
    if pid == 0:
        os.chdir("/tmp/core-dump")
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGQUIT)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    left = os.listdir("/tmp/core-dump")
    for name in left:
        os.unlink(f"/tmp/core-dump/{name}")
    os.rmdir("/tmp/core-dump")
    if os.WCOREDUMP(status) or left:
        return [False, "the memory of a function that crashes is written out"]
    return [True, "a process that crashed left none"]


def priority() -> Answer:
    import os

    could = []
    tries: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("take a higher priority", lambda: os.nice(-5)),
        ("run in real time", lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
    )
    for name, attempt in tries:
        try:
            attempt()
            could.append(name)
        except OSError:
            pass
    return [not could, "could " + ", ".join(could) if could else "cannot be raised"]


# ---- its bounds ----


def processes(allowed: int) -> Answer:
    import os
    import signal

    made = []
    answer: list[Any] = []
    try:
        for _ in range(5 * allowed):
            pid = os.fork()
            if pid == 0:
                signal.pause()
            made.append(pid)
        answer = [False, f"made {len(made)} processes, was allowed {allowed}"]
    except OSError:
        answer = [True, f"stopped at {len(made) + 1} of {allowed} allowed"]
    for pid in made:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return answer


def open_files() -> Answer:
    import os

    opened: list[int] = []
    answer: list[Any] = [False, "4,096 could be opened"]
    try:
        while len(opened) < 4096:
            opened.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        answer = [True, f"stopped after {len(opened)} ({error.strerror})"]
    for fd in opened:
        os.close(fd)
    return answer


def storage(allowed_mb: int) -> Answer:
    import errno
    import os

    answer: list[Any] = []
    try:
        with open("/tmp/big", "wb") as file:
            for _ in range(4 * allowed_mb):
                file.write(bytes(1 << 20))
                file.flush()
        answer = [False, f"more than {allowed_mb} MB could be written"]
    except OSError as error:
        answer = [error.errno == errno.ENOSPC, f"full at {allowed_mb} MB ({error.strerror})"]
    os.unlink("/tmp/big")
    return answer


def plant(word: str) -> int:
    """Number of the loop device below /tmp, which has a file now whose name and content are the word."""
    import os

    with open(f"/tmp/{word}", "w") as file:
        file.write(word * 1000)
    return os.minor(os.stat("/tmp").st_dev)


def eat_memory(allowed_mb: int) -> int:
    held = [bytearray(1 << 20) for _ in range(8 * allowed_mb)]
    return len(held)


def burn(seconds: float) -> float:
    """CPU time that four busy processes get, divided by the time that passed."""
    import os
    import time

    before, begun = os.times(), time.monotonic()
    until = begun + seconds
    for _ in range(3):
        if os.fork() == 0:
            while time.monotonic() < until:
                pass
            os._exit(0)
    while time.monotonic() < until:
        pass
    for _ in range(3):
        os.wait()
    used = sum(os.times()[:4]) - sum(before[:4])
    return used / (time.monotonic() - begun)


# ---- its network ----


def outbound(refused: list[list[Any]], servers: list[str]) -> dict[str, list[str]]:
    """refused: [host, port] that must not be reached. servers: port 53 of one of them must answer, if only with a refusal."""
    import errno
    import socket

    reached: list[str] = []
    answered: list[str] = []
    silent: list[str] = []
    for host, port in refused:
        with socket.socket() as one:
            one.settimeout(2)
            if one.connect_ex((host, port)) in (0, errno.ECONNREFUSED):
                reached.append(f"{host} port {port}")
    for host in servers:
        with socket.socket() as one:
            one.settimeout(2)
            error = one.connect_ex((host, 53))
            (answered if error in (0, errno.ECONNREFUSED) else silent).append(host)
        if answered:
            break
    return {"reached": reached, "answered": answered, "silent": silent}
