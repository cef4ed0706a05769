"""Two sandboxes of different functions reach each other by no channel. For each channel one of them leaves something, the other
looks for it; the canary sees it found where the wall between them is taken away.

Timing aside, and locks of shared read-only files aside: docs/threat-model.md says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from scheduler.sandboxes import launcher as launcher_module
from scheduler.sandboxes.launcher import LauncherConfig
from tests.sandboxes.driver import IS_ROOT, launched, public_directory, public_runtime
from tests.sandboxes.test_normal_user import configuration, namespaced, reason_to_skip
from tests.security.attempts import PRELUDE
from tests.security.weak import weaken

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sandboxes.driver import Launched

root = pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups")
pytestmark = [pytest.mark.slow]


@dataclass(frozen=True, slots=True)
class Channel:
    """`leave`: statements that the first sandbox runs; what they bind in `kept` lives on. `look`: an expression that the second
    one evaluates, with what the first answered in SAID. `nothing`: what it says where there is no way."""

    leave: str
    look: str
    nothing: str
    held_by: tuple[str, ...]
    as_user: str | None = ""


CHANNELS = {
    "abstract sockets": Channel(
        "s = socket.socket(socket.AF_UNIX); s.bind('\\0mine'); s.listen(); keep(s)",
        "attempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0mine'))",
        "ECONNREFUSED",
        ("network namespace",),
    ),
    "ports of the loopback": Channel(
        "s = socket.create_server(('127.0.0.1', 0)); keep(s); result = s.getsockname()[1]",
        "attempt(socket.create_connection, ('127.0.0.1', SAID), 5)",
        "ECONNREFUSED",
        ("network namespace",),
    ),
    "files in /tmp": Channel("open('/tmp/mine', 'w').write('x')", "os.listdir('/tmp')", "[]", ("mount namespace",)),
    "files in /dev/shm": Channel("open('/dev/shm/mine', 'w').write('x')", "os.listdir('/dev/shm')", "[]", ("mount namespace",)),
    "sockets in /tmp": Channel(
        "s = socket.socket(socket.AF_UNIX); s.bind('/tmp/socket'); s.listen(); keep(s); os.chmod('/tmp/socket', 0o777)",
        "attempt(lambda: socket.socket(socket.AF_UNIX).connect('/tmp/socket'))",
        "ENOENT",
        ("mount namespace",),
    ),
    "locks of files in /tmp": Channel(
        "f = open('/tmp/lock', 'w'); os.chmod('/tmp/lock', 0o666); fcntl.flock(f, fcntl.LOCK_EX); keep(f)",
        "attempt(lambda: fcntl.flock(open('/tmp/lock', 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB))",
        "got None",
        ("mount namespace",),
    ),
    "shared memory of System V": Channel(
        "assert libc.shmget(0x5eed, 4096, 0o1666) >= 0", "libc.shmget(0x5eed, 4096, 0)", "-1", ("ipc namespace",)
    ),
    "semaphores of System V": Channel(
        "assert libc.semget(0x5eed, 1, 0o1666) >= 0", "libc.semget(0x5eed, 1, 0)", "-1", ("ipc namespace",)
    ),
    "queues of System V": Channel(
        "assert libc.msgget(0x5eed, 0o1666) >= 0", "libc.msgget(0x5eed, 0)", "-1", ("ipc namespace",)
    ),
    "queues of POSIX": Channel(
        "q = libc.mq_open(b'/mine', os.O_CREAT | os.O_RDWR, 0o666, (ctypes.c_long * 8)(0, 1, 64)); assert q >= 0",
        "libc.mq_open(b'/mine', os.O_RDONLY)",
        "-1",
        ("ipc namespace",),
    ),
    "processes and signals": Channel(
        "result = os.getpid()",
        "[n for n in range(3, 4096) if n != os.getpid() and attempt(os.kill, n, 0) != 'ESRCH']",
        "[]",
        ("pid namespace",),
    ),
    "what /proc tells of processes": Channel(
        "result = os.getpid()",
        "[n for n in os.listdir('/proc') if n.isdigit() and int(n) not in (1, os.getpid())]",
        "[]",
        ("pid namespace",),
    ),
    "keys": Channel(
        "result = call('add_key', b'user', b'mine', b'secret', 6, -3)",
        "call('keyctl', 10, -3, b'user', b'mine', 0)",
        "EPERM",
        ("filter", "session keyring"),
    ),
    "the uid": Channel("result = os.getuid()", "os.getuid() == SAID", "False", ("uid",), as_user=None),
    "quotas of the uid": Channel(
        "result = os.fstat(os.open('/tmp/q', os.O_CREAT)).st_uid",
        "os.stat('/tmp').st_uid == SAID",
        "False",
        ("uid",),
        as_user=None,
    ),
}

KEEP = """
import builtins
def keep(thing):
    builtins.kept = [*getattr(builtins, "kept", []), thing]
result = None
"""


async def said(made: Launched, names: list[str]) -> dict[str, str]:
    """What the second of two sandboxes finds of the first."""
    first, second = await made.sandbox(), await made.sandbox()
    found = {}
    for name in names:
        answer = await first.run(f"{PRELUDE}{KEEP}\n{CHANNELS[name].leave}")
        found[name] = await second.run(f"{PRELUDE}\nSAID = {answer!r}\nresult = str({CHANNELS[name].look})")
    return found


@root
@pytest.mark.root
async def test_no_channel_between_functions(tmp_path: Path) -> None:
    async with launched(tmp_path, LauncherConfig(slots=4)) as made:
        found = await said(made, list(CHANNELS))
    assert found == {name: channel.nothing for name, channel in CHANNELS.items()}


@namespaced
@pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-")
async def test_no_channel_between_functions_without_root() -> None:
    runtime = public_runtime()
    assert runtime is not None
    promised = {name: channel.nothing for name, channel in CHANNELS.items() if channel.as_user is not None}
    with public_directory() as directory:
        async with launched(directory, configuration(slots=4), [runtime]) as made:
            found = await said(made, list(promised))
    assert found == promised


@root
@pytest.mark.root
@pytest.mark.parametrize("held_by", sorted({channel.held_by for channel in CHANNELS.values()}), ids=" + ".join)
async def test_canary_each_channel_is_there_without_its_wall(
    held_by: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weak = weaken(held_by)
    names = [name for name, channel in CHANNELS.items() if channel.held_by == held_by]
    monkeypatch.setattr(launcher_module, "RUNTIME_PACKAGE", weak.package)
    async with launched(tmp_path, LauncherConfig(slots=4, command=(str(weak.launcher),))) as made:
        found = await said(made, names)
    assert [name for name in names if found[name] == CHANNELS[name].nothing] == []
