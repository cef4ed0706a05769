"""What of an initialised process is not memory, and so keeps an image of it from being used elsewhere.

Law of this file: it looks, and says what it has found in words that a function's author understands. Memory itself is
looked at by `_sandbox`.
"""

import fcntl
import os
import signal
import stat
import sys
import time
from dataclasses import dataclass

__all__ = ["Obstacle", "Standards", "descriptors", "find_obstacle"]

STANDARD = (0, 1, 2)
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
SHOWN_MAX = 3
THREAD_ENDS_TRIES, THREAD_ENDS_S = 50, 0.002
QUEUES = {"shm": "shared memory", "sem": "semaphores", "msg": "a message queue"}  # of System V, by their file in /proc/sysvipc
TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


class Obstacle(Exception):
    """Why no image can be made, for people."""


@dataclass(frozen=True, slots=True)
class Standards:
    """What init found, and must not have replaced."""

    files: tuple[tuple[int, int], ...]
    filters: str

    @classmethod
    def now(cls) -> "Standards":
        files = tuple((os.fstat(fd).st_dev, os.fstat(fd).st_ino) for fd in STANDARD)
        return cls(files, _status("Seccomp_filters"))


def find_obstacle(before: Standards, scratch: tuple[str, ...]) -> None:
    """Obstacle: the first that was found. scratch: directories that were empty."""
    if threads := _threads():
        raise Obstacle(f"init has left {_count(threads, 'thread')} behind{_names()}")
    _find_processes(scratch)
    if any(signal.getitimer(which)[0] for which in TIMERS) or _text("/proc/self/timers"):
        raise Obstacle("init has left a timer running")
    if _alone():  # else they may be anybody's
        for name, what in QUEUES.items():
            if len(_text(f"/proc/sysvipc/{name}").splitlines()) > 1:
                raise Obstacle(f"init has left {what} of System V behind")
    if Standards.now().files != before.files:
        raise Obstacle("init has replaced descriptor 0, 1 or 2")
    if _status("Seccomp_filters") != before.filters:
        raise Obstacle("init has added a system call filter")
    for directory in scratch:
        left = sorted(os.listdir(directory))
        if left:
            shown = ", ".join(left[:SHOWN_MAX]) + (", …" if len(left) > SHOWN_MAX else "")
            raise Obstacle(f"init has left files in {directory}: {shown}")


def descriptors(given: tuple[int, ...]) -> list[tuple[int, int, int, bytes]]:
    """Files to be opened again in a restored process: number, flags of open(), offset, path. Obstacle: one that cannot be."""
    found = []
    for number in sorted(map(int, os.listdir("/proc/self/fd"))):
        if number in STANDARD or number in given:
            continue
        try:
            path = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # the one that listed them
            continue
        found.append(_reopened(number, path))
    return found


def _reopened(number: int, path: str) -> tuple[int, int, int, bytes]:
    flags = fcntl.fcntl(number, fcntl.F_GETFL)
    if fcntl.fcntl(number, fcntl.F_GETFD) & fcntl.FD_CLOEXEC:
        flags |= os.O_CLOEXEC
    mode = os.fstat(number).st_mode
    if stat.S_ISCHR(mode) and path in DEVICES:
        return number, flags, 0, os.fsencode(path)
    if stat.S_ISSOCK(mode):
        raise Obstacle(f"init has left a socket open (descriptor {number})")
    if stat.S_ISFIFO(mode):
        raise Obstacle(f"init has left a pipe open (descriptor {number})")
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or not path.startswith("/"):
        raise Obstacle(f"init has left descriptor {number} open: {path}")
    if flags & os.O_ACCMODE != os.O_RDONLY or not _stays(path):
        raise Obstacle(f"init has left a file open that is not read-only: {path}")
    offset = os.lseek(number, 0, os.SEEK_CUR) if stat.S_ISREG(mode) else 0
    return number, flags, offset, os.fsencode(path)


def _stays(path: str) -> bool:
    """The file is the same for all sandboxes of the function."""
    try:
        read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False
    trees = (os.environ.get("LAMBDA_TASK_ROOT", "/var/task"), sys.base_prefix, "/opt", "/usr")
    return read_only or any(path.startswith(tree + "/") for tree in trees)


def _find_processes(scratch: tuple[str, ...]) -> None:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        pass
    else:
        raise Obstacle("init has left a child process behind")
    if os.getpid() == int(_status("NSpid").split()[-1]) and os.path.exists("/proc/1/cmdline") and _alone():
        others = {int(name) for name in os.listdir("/proc") if name.isdigit()} - {1, os.getpid()}
        if others:
            raise Obstacle(f"init has left {_count(len(others), 'process')} behind")


def _alone() -> bool:
    """This process has a pid namespace of its own, in which its parent is the first."""
    return os.getppid() == 1 and _text("/proc/1/comm").strip() == "sandbox-init"


def _threads() -> int:
    """Beside this one. A thread that was joined is still there for the kernel a moment longer."""
    for _ in range(THREAD_ENDS_TRIES):
        threads = len(os.listdir("/proc/self/task")) - 1
        if not threads or _names():
            return threads
        time.sleep(THREAD_ENDS_S)
    return threads


def _names() -> str:
    threading = sys.modules.get("threading")
    names = [] if threading is None else [thread.name for thread in threading.enumerate()[1:]]
    return f": {', '.join(names[:SHOWN_MAX])}" if names else ""


def _count(number: int, what: str) -> str:
    plural = "es" if what.endswith("s") else "s"
    return f"a {what}" if number == 1 else f"{number} {what}{plural}"


def _status(name: str) -> str:
    for line in _text("/proc/self/status").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return ""


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
