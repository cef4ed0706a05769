"""One service for each state directory: a locked file that says who has it.

Law of this file: the lock is the kernel's (flock), so it goes with the process, however that ends; the pid in the file is
only for the message.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from scheduler.errors import SchedulerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["StateLocked", "lock_state"]


class StateLocked(SchedulerError):
    """Another service has this state directory."""

    type = "Unavailable"
    exit_code: ClassVar[int] = 3


@contextmanager
def lock_state(state_dir: Path) -> Iterator[None]:
    """Holds the directory's lock; makes it if it is not there, mode 0711: sandboxes pass through it to their code.

    StateLocked names the holder; OSError as it comes.
    """
    state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    path = state_dir / "service.lock"
    # The directory may be another user's, and this process root: nothing outside it is written through a link.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.fstat(fd).st_nlink != 1:
            raise OSError(errno.EMLINK, "has a second name, which may be another file's", str(path))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise StateLocked(f"state directory {state_dir} is in use by the service with pid {holder}") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)
