"""What the doctor finds out about the machine without a sandbox: the kernel, users, runtimes, swap, control groups.

Law of this file: one function a finding. Where something can be tried it is; files are read for what the operator alone knows.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from scheduler.sandboxes.findings import Finding, Group, Verdict
from scheduler.sandboxes.wire import Limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scheduler.config import Settings
    from scheduler.sandboxes.launcher import Launcher, LauncherConfig
    from scheduler.sandboxes.runtimes import Runtime

__all__ = ["controllers", "kernel", "runtimes_found", "sandbox_users", "service_user", "swap_space"]

SO_PASSRIGHTS: Final = 83


def sandbox_users(config: LauncherConfig) -> Finding:
    """Nobody else may be one of the users that sandboxes run as."""
    name = "users of sandboxes"
    if os.geteuid() != 0:
        detail = f"every sandbox runs as uid {os.geteuid()} and shares that user's quotas with the others"
        fix = "run as root, then each sandbox has a uid of its own"
        return Finding(Group.MACHINE, name, Verdict.WEAKER, detail, fix, "uid")
    low, high = config.uid_base, config.uid_base + config.slots - 1
    taken: list[str] = []
    for file, first, count in (("/etc/passwd", 2, None), ("/etc/subuid", 1, 2)):
        try:
            lines = Path(file).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            fields = line.split(":")
            try:
                begin = int(fields[first])
                end = begin + (int(fields[count]) if count else 1) - 1
            except (IndexError, ValueError):
                continue
            if begin <= high and low <= end:
                taken.append(f"{fields[0]} in {file}")
    if taken:
        fix = "set sandbox_uid_base to a range that nobody has"
        detail = f"{low} to {high} overlap with {', '.join(taken[:3])}"
        return Finding(Group.MACHINE, name, Verdict.CANNOT, detail, fix)
    detail = f"{low} to {high}, which nobody has in /etc/passwd and /etc/subuid"
    return Finding(Group.MACHINE, name, Verdict.OK, detail, "", "uid")


def runtimes_found(found: Mapping[str, Runtime], programs: Iterable[Runtime] = ()) -> Finding:
    """found: those that are forked, of which sandboxes are tried; programs: those that are executed."""
    every = [*found.items(), *((runtime.name, runtime) for runtime in programs)]
    listed = ", ".join(
        f"{name} ({'.'.join(map(str, runtime.version))})" if any(runtime.version) else name for name, runtime in every
    )
    if not found:
        return Finding(Group.MACHINE, "runtimes", Verdict.CANNOT, "none", "install Python 3.11, 3.12 or 3.13")
    return Finding(Group.MACHINE, "runtimes", Verdict.OK, listed)


def kernel() -> Finding:
    """The doors between a sandbox and the service that only a newer kernel shuts."""
    release = platform.release()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            ours.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
        except OSError:
            detail = f"Linux {release}: a sandbox can send the service descriptors, whose closing takes a moment of its loop"
            fix = "Linux 6.16 or newer refuses them; here the filter keeps sockets from lingering instead"
            return Finding(Group.MACHINE, "kernel", Verdict.WEAKER, detail, fix, "system call filter")
    return Finding(Group.MACHINE, "kernel", Verdict.OK, f"Linux {release}: descriptors sent to the service are refused", "", "")


def controllers(launcher: Launcher) -> Finding:
    names = [limit.name.lower().replace("_", " ") for limit in Limit if limit in launcher.limits]
    missing = [limit.name.lower().replace("_", " ") for limit in Limit if limit not in launcher.limits]
    detail = f"version {launcher.cgroup_version}: {', '.join(names)}" if names else "none can be used"
    if missing:
        why = launcher.why_limited or "the kernel or the container offers no such controller"
        detail += f"; not {', '.join(missing)} ({why})"
        fix = "run as root or as a systemd unit with Delegate=yes"
        return Finding(Group.MACHINE, "control groups", Verdict.WEAKER, detail, fix, "")
    return Finding(Group.MACHINE, "control groups", Verdict.OK, detail, "", "")


def swap_space() -> Finding:
    """What is in memory comes to a disk by swap alone."""
    try:
        swaps = Path("/proc/swaps").read_text().splitlines()[1:]
    except OSError:
        swaps = []
    if swaps:
        detail = f"a sandbox's memory, and what its /tmp has there, may come to {swaps[0].split()[0]}"
        return Finding(Group.MACHINE, "swap", Verdict.WEAKER, detail, "encrypt the swap, or swapoff -a")
    return Finding(Group.MACHINE, "swap", Verdict.OK, "there is none: what is in memory comes to no disk")


# In a process of its own, since there is no way back. It becomes the user as the service does, and tries what is root's.
_BECOME: Final = """
import json, os, sys
from scheduler.privileges import become, find_user
user = find_user(sys.argv[1], euid=0, sandbox_uids=range(int(sys.argv[2]), int(sys.argv[3])))
become(user)
could = []
for name, attempt in (
    ("become root", lambda: os.setuid(0)),
    ("read /etc/shadow", lambda: open("/etc/shadow").read()),
    ("send process 1 a signal", lambda: os.kill(1, 0)),
    ("read process 1's memory", lambda: open("/proc/1/mem", "rb").close()),
    ("leave its root", lambda: os.chroot("/")),
):
    try:
        attempt()
        could.append(name)
    except OSError:
        pass
print(json.dumps([user.uid, could]))
"""


async def service_user(settings: Settings, config: LauncherConfig) -> Finding:
    """Who a service that root starts becomes, and whether there is a way back."""
    name = "user of the service"
    if os.geteuid() != 0:
        return Finding(Group.MACHINE, name, Verdict.OK, f"uid {os.geteuid()}, which is not root's", "", "whoever starts it")
    if settings.user is None:
        fix = "give it a user of its own: `user` in its settings, or --user NAME"
        return Finding(Group.MACHINE, name, Verdict.WEAKER, "it would stay root, and so a fault in it is root's", fix)
    uids = (str(config.uid_base), str(config.uid_base + config.slots))
    tried = await trio.run_process(
        [sys.executable, "-c", _BECOME, settings.user, *uids], capture_stdout=True, capture_stderr=True, check=False
    )
    if tried.returncode != 0:
        reason = tried.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return Finding(Group.MACHINE, name, Verdict.CANNOT, reason, "name another user")
    uid, could = json.loads(tried.stdout)
    if could:
        detail = f"as uid {uid} it could {', '.join(could)}"
        return Finding(Group.MACHINE, name, Verdict.CANNOT, detail, "name a user without privileges")
    return Finding(
        Group.MACHINE, name, Verdict.OK, f"as uid {uid} it has no way back to root", "", "setresuid(2), no_new_privs"
    )
