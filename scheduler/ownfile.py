"""Small files of the service's own that programs beside it edit while it runs: tokens, access keys, keys.

Law of this file: one writer at a time, and whoever reads sees the old content or the new, whole. What is in a file, and who may
read it, is said by who keeps it.

    with one_writer(path):
        replace_file(path, changed(path.read_bytes()))
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["one_writer", "replace_file"]


@contextlib.contextmanager
def one_writer(path: Path) -> Iterator[None]:
    """The directory is locked, since the file itself is another one after each edit. OSError."""
    directory = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def replace_file(path: Path, data: bytes) -> None:
    """The new content in the old one's place, in one step, durable, and never readable by others (mode 0600). Root edits for
    the service's user, who goes on owning it. OSError: it is as before."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            _give_to_owner(fd, path)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.replace(beside, path)
        _sync_name(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _give_to_owner(fd: int, path: Path) -> None:
    """Of what is there. PermissionError: it is another user's; a group that cannot be given matters to nobody, as it may do
    nothing with the file."""
    try:
        old = path.stat()
    except FileNotFoundError:
        return
    if old.st_uid != os.geteuid():
        os.fchown(fd, old.st_uid, old.st_gid)
    elif old.st_gid != os.getegid():
        with contextlib.suppress(PermissionError):
            os.fchown(fd, old.st_uid, old.st_gid)


def _sync_name(path: Path) -> None:
    directory = os.open(path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
