"""The launcher's process as the operating system sees it: started, looked at, reaped.

Law of this file: no message is read or written here, that is launcher.py's; what fails leaves nothing running and nothing open.
"""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scheduler.sandboxes.failure import LaunchFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["close_all", "pid_of", "reap", "start"]

SOCKET_BUFFER_BYTES: Final = 1 << 20


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def start(command: list[str]) -> tuple[socket.socket, int, int]:
    """Our end, its pid, its pidfd. LaunchFailed, OSError: nothing was started, nothing is open."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    ours.setblocking(False)
    try:
        with theirs:
            pid = os.posix_spawnp(
                command[0],
                command,
                {"PATH": os.defpath},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
                ],
            )
    except OSError as error:
        ours.close()
        raise LaunchFailed("execute", error.errno or 0, f"{command[0]}: run make build") from error
    try:
        return ours, pid, os.pidfd_open(pid)
    except OSError:
        ours.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def pid_of(pidfd: int) -> int:
    """As this process' /proc sees it: the launcher lives in a pid namespace of its own and counts otherwise. -1: gone.
    OSError: no descriptor left to look with."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pid":
            return int(value)
    return -1


def reap(pid: int) -> str:
    """Of a child that has ended. How it ended, for a person."""
    try:
        _, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return "it is gone"
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"its supervisor got signal {-code}"
    return f"it got signal {code - 128}" if code > 128 else f"exit status {code}"
