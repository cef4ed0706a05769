"""Root is given up: who the service becomes, what is made that user's before, and what of root's must not be within its reach.

Law of this file: a leaf. It changes this process' identity and the owner of files, and nothing else; when, is the service's to
say: after the launcher was started, before anything of a client is read.
"""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import resource
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from scheduler.errors import SchedulerError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "BadUser",
    "User",
    "become",
    "find_user",
    "give",
    "give_new_directory",
    "leave_no_core",
    "unreachable",
    "within_reach",
]

PR_SET_DUMPABLE: Final = 4
PR_SET_NO_NEW_PRIVS: Final = 38


class BadUser(SchedulerError):
    """`user` is none that the service can become."""

    type = "BadRequest"
    exit_code: ClassVar[int] = 2


@dataclass(frozen=True, slots=True)
class User:
    """groups: all that the user is in, the primary one included."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]


def find_user(name: str, *, euid: int, sandbox_uids: range) -> User | None:
    """The user by name or number. None: this process is that user already. BadUser: there is none, it is root, a sandbox runs
    as it, or this process may not become it."""
    try:
        entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise BadUser(f"user {name!r} is not in /etc/passwd; next: useradd --system {name}, or another --user") from None
    if entry.pw_uid == 0:
        raise BadUser(f"user {name!r} is root; leave `user` out to stay root")
    if entry.pw_uid in sandbox_uids:
        raise BadUser(
            f"user {name!r} has uid {entry.pw_uid}, which sandboxes run as: {sandbox_uids.start} to {sandbox_uids[-1]}"
        )
    if entry.pw_uid == euid:
        return None
    if euid != 0:
        raise BadUser(f"user {name!r} can only be become by root, and this is uid {euid}; start as root, or as {name}")
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid, tuple(sorted(os.getgrouplist(entry.pw_name, entry.pw_gid))))


def give(directory: Path, user: User, *, keep: frozenset[str] = frozenset()) -> int:
    """Makes what is root's in the directory, and itself, the user's: how many entries. Not what is named in `keep`, which
    root reads and believes. A file with two names is left: the other may be elsewhere. Links are not followed."""
    given = 0
    for _, directories, files, at in os.fwalk(directory):
        directories[:] = [name for name in directories if name not in keep]
        given += _give(at, user)
        for name in (*directories, *files):
            given += 0 if name in keep else _give_entry(name, at, user)
    return given


def give_new_directory(directory: Path, user: User) -> None:
    """Makes it the user's if it has to be made."""
    if not directory.exists():
        directory.mkdir(mode=0o755, parents=True)
        os.chown(directory, user.uid, user.gid, follow_symlinks=False)


def _give(fd: int, user: User) -> int:
    if os.fstat(fd).st_uid != 0:
        return 0
    os.fchown(fd, user.uid, user.gid)
    return 1


def _give_entry(name: str, at: int, user: User) -> int:
    found = os.stat(name, dir_fd=at, follow_symlinks=False)
    alone = found.st_nlink == 1 or stat.S_ISDIR(found.st_mode)
    if found.st_uid != 0 or not alone:
        return 0
    os.chown(name, user.uid, user.gid, dir_fd=at, follow_symlinks=False)
    return 1


def within_reach(paths: Iterable[str], user: User) -> list[str]:
    """Those of the files, or of the directories on the way to them, that the user can change: programs that run as root must
    not be among them."""
    found: list[str] = []
    for path in paths:
        for part in (Path(path), *Path(path).parents):
            try:
                status = part.stat()
            except OSError:
                continue
            sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX and part != Path(path)
            mine = status.st_uid == user.uid
            others = status.st_mode & stat.S_IWOTH or (status.st_gid in user.groups and status.st_mode & stat.S_IWGRP)
            if mine or (others and not sticky):
                found.append(str(part))
    return list(dict.fromkeys(found))


def unreachable(user: User, paths: Iterable[Path]) -> None:
    """BadUser: this process, which is that user by now, cannot get to one of the paths."""
    for path in paths:
        for part in (*reversed(path.parents), path):
            needed = os.R_OK if part == path and not part.is_dir() else os.X_OK
            if not os.access(part, needed):
                raise BadUser(
                    f"user {user.name!r} cannot pass {part}, on the way to {path}; next: another place, or chmod o+x {part}"
                )


def leave_no_core() -> None:
    """From here on this process leaves no core, and no other process of its user may look into its memory: environments and
    keys are in it in plain text. A limit of one byte holds for what it starts too, and stops a core that the kernel would hand
    to a program, which none of zero does. Whoever gives up a uid has to say it again."""
    limit = 1 if resource.getrlimit(resource.RLIMIT_CORE)[1] != 0 else 0
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))
    _prctl(PR_SET_DUMPABLE, 0)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def become(user: User) -> None:
    """For all threads, for good: no saved uid, no capability, none to be gained by executing something."""
    os.setgroups(user.groups)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_DUMPABLE, 0)
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise OSError(errno.EPERM, "root was not given up")
