"""Launchers for a service that has dropped root: native/launcher/starter.h, seen from the service.

Law of this file: opened while the service is still root, it says once how launchers are started. From the first start on it can
only ask for another of the same, or for the end of a stuck one; so a service in a stranger's hands cannot make the starter run
anything else as root.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Final

from scheduler.sandboxes.failure import LaunchFailed
from scheduler.sandboxes.spawn import start
from scheduler.sandboxes.wire import descriptors

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Starter"]

ANSWER: Final = struct.Struct("<ii")
PATIENCE_S: Final = 20.0  # it forks and executes; silent for this long it is stuck
FDS: Final = 2


class Starter:
    """One process, root's, that starts launchers for this one."""

    def __init__(self, executable: str, arguments: Iterable[str], runtimes: Iterable[bytes]) -> None:
        """arguments: of each launcher, the program first. runtimes: their REQUEST_RUNTIME. LaunchFailed, OSError: it could not
        be started."""
        self._socket, self._pid, self._pidfd = start([executable, "--starter"])
        self._socket.setblocking(True)
        self._socket.settimeout(PATIENCE_S)
        self._tell(b"A" + b"".join(os.fsencode(argument) + b"\0" for argument in arguments))
        for runtime in runtimes:
            self._tell(b"R" + runtime)

    def _tell(self, message: bytes) -> None:
        try:
            self._socket.send(message, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise LaunchFailed("starter", error.errno or 0, "the process that starts launchers is gone") from error

    def start(self) -> tuple[socket.socket, int, int]:
        """A launcher: our end of its socket, its pid, its pidfd. LaunchFailed: there is none."""
        self._tell(b"S")
        try:
            data, ancillary, _, _ = self._socket.recvmsg(ANSWER.size, socket.CMSG_SPACE(4 * FDS), socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise LaunchFailed("starter", error.errno or 0, "the process that starts launchers does not answer") from error
        fds = descriptors(ancillary)
        pid, number = ANSWER.unpack(data) if len(data) == ANSWER.size else (0, 0)
        if len(fds) != FDS or number:
            for fd in fds:
                os.close(fd)
            raise LaunchFailed("starter", number, "the process that starts launchers could start none, or is gone")
        ours = socket.socket(fileno=fds[0])
        ours.setblocking(False)
        return ours, pid, fds[1]

    def end_inner(self) -> None:
        """SIGKILL to the launcher proper. One that is gone is no error."""
        self._tell(b"I")

    def end_supervisor(self) -> None:
        self._tell(b"K")

    def close(self) -> None:
        """The starter ends with its socket; launchers end with theirs."""
        self._socket.close()
        os.waitpid(self._pid, 0)
        os.close(self._pidfd)
