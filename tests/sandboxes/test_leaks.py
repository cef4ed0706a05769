"""Many sandboxes, and many violent ends: afterwards all is counted and is what it was at the start.

`make leaks` makes 10,000 sandboxes; here it is fewer, since each is the same. A network device of the host may be another
program's, so only those that came and stay count.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from scheduler.sandboxes.launcher import Cause, LauncherConfig, LaunchFailed
from tests.sandboxes.driver import (
    IS_ROOT,
    PATIENCE_S,
    Launched,
    Running,
    children,
    gone,
    launched,
    own_runtime,
    text_of,
    until,
    write_function,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups"),
]

ROOT = Path(__file__).resolve().parents[2]
SANDBOXES = int(os.environ.get("SCHEDULER_TEST_SANDBOXES", "2000"))
AT_ONCE = 6
KILLS = 100
UID_BASE = 1_900_000_000  # nobody else's: keys and processes of these are ours
TRIVIAL = "def handler(event, context):\n    return 1\n"


def descriptors(pid: int | str) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def mounts(pid: int | str) -> int:
    return len(text_of(f"/proc/{pid}/mountinfo").splitlines())


def groups_of(launcher: int) -> list[str]:
    """Directories of a launcher and its slots, in all hierarchies; its supervisor's pid is in their name."""
    return [where for where, _, _ in os.walk("/sys/fs/cgroup") if f"scheduler-{launcher}-" in where]


def loop_devices(directory: Path) -> list[str]:
    """Files of the test that are a device still."""
    files = [text_of(f"/sys/block/{name}/loop/backing_file") for name in os.listdir("/sys/block") if name.startswith("loop")]
    return [file for file in files if file.startswith(str(directory))]


def own_keys() -> list[str]:
    return [line for line in text_of("/proc/keys").splitlines() if 0 <= int(line.split()[5]) - UID_BASE < 4096]


@dataclass(slots=True)
class Count:
    """What a launcher and its processes have; the host's own things as sets."""

    made: Launched
    inner: int = 0
    zygote: int = 0
    numbers: dict[str, int] = field(default_factory=dict)
    devices: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        (self.inner,) = children(self.made.launcher.pid)
        (self.zygote,) = children(self.inner)
        self.numbers = self.now()
        self.devices = set(os.listdir("/sys/class/net"))

    def now(self) -> dict[str, int]:
        return {
            "processes": len(children(self.inner)),
            "own descriptors": descriptors("self"),
            "descriptors of the launcher": descriptors(self.inner),
            "descriptors of its supervisor": descriptors(self.made.launcher.pid),
            "descriptors of the runtime": descriptors(self.zygote),
            "own mounts": mounts("self"),
            "mounts of the launcher": mounts(self.inner),
            "mounts of the runtime": mounts(self.zygote),
            "groups": len(groups_of(self.made.launcher.pid)),
            "keys": len(own_keys()),
            "loop devices": len(loop_devices(Path(self.made.code_dir).parent)),
        }

    async def settled(self) -> None:
        """Fails with what differs from the start. Sockets and namespaces end a moment after their processes."""
        with trio.move_on_after(PATIENCE_S):
            while self.now() != self.numbers:  # noqa: ASYNC110 - no event tells of the kernel's tidying up
                await trio.sleep(0.01)
        assert self.now() == self.numbers
        await until(lambda: set(os.listdir("/sys/class/net")) <= self.devices, "network devices are those of the start")


async def one_life(made: Launched, ends: dict[int, trio.Event]) -> None:
    sandbox: Running = await made.sandbox()
    sandbox.send("")
    await sandbox.frame()
    ended = ends[sandbox.shell.id] = trio.Event()
    made.launcher.kill(sandbox.shell.id)
    await ended.wait()
    made.shells.remove(sandbox.shell)
    sandbox.shell.close()


async def lives(made: Launched, count: int, *, at_once: int = AT_ONCE) -> None:
    """Each is made, answers one call, and is killed; its end is awaited."""
    ends: dict[int, trio.Event] = {}
    left = count

    async def exits() -> None:
        async for exited in made.launcher.exits:
            assert exited.cause is Cause.KILLED, exited
            ends.pop(exited.id).set()

    async def maker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await one_life(made, ends)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(exits)
        async with trio.open_nursery() as makers:
            for _ in range(at_once):
                makers.start_soon(maker)
        nursery.cancel_scope.cancel()


async def test_sandboxes_made_and_destroyed_leave_nothing(tmp_path: Path) -> None:
    config = LauncherConfig(slots=AT_ONCE, uid_base=UID_BASE)
    async with launched(tmp_path, config, warnings=[]) as made:
        write_function(tmp_path, TRIVIAL)
        await lives(made, 3 * AT_ONCE)  # each slot has its groups, and what it keeps for good
        (inner,) = children(made.launcher.pid)
        await until(lambda: len(children(inner)) == 1, "only the runtime's process is there")
        count = Count(made)
        await lives(made, SANDBOXES)
        await count.settled()
    assert groups_of(made.launcher.pid) == []
    assert own_keys() == []


# ---- killed at random moments ----

MAKER = """
import sys, trio
from pathlib import Path
from scheduler.sandboxes.launcher import LauncherConfig
from tests.sandboxes.driver import launched

async def main():
    config = LauncherConfig(slots=8, uid_base=int(sys.argv[2]))
    async with launched(Path(sys.argv[1]), config, warnings=[]) as made:
        print(made.launcher.pid, flush=True)
        async with trio.open_nursery() as nursery:
            async def live():
                while True:
                    sandbox = await made.sandbox()
                    made.shells.remove(sandbox.shell)
                    sandbox.send("result = 1")
                    await sandbox.frame()
                    made.launcher.kill(sandbox.shell.id)
                    sandbox.shell.close()
            async def exits():
                async for _ in made.launcher.exits:
                    pass
            nursery.start_soon(exits)
            for _ in range(3):
                nursery.start_soon(live)

trio.run(main)
"""


def ours() -> list[int]:
    """Processes with one of the uids of this test's sandboxes."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            uid = next(
                (line.split()[1] for line in text_of(f"/proc/{name}/status").splitlines() if line.startswith("Uid:")), "-1"
            )
            if 0 <= int(uid) - UID_BASE < 4096 and not gone(int(name)):
                found.append(int(name))
    return found


def maker(directory: Path) -> subprocess.Popen[str]:
    """A process that makes sandboxes without end."""
    command = [sys.executable, "-c", MAKER, str(directory), str(UID_BASE)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


async def killed_service(directory: Path, pause_s: float, victim: Callable[[int, int], int]) -> int:
    """A maker, killed after the pause, or its launcher. The supervisor's pid."""
    service = maker(directory)
    try:
        assert service.stdout is not None
        supervisor = int(await trio.to_thread.run_sync(service.stdout.readline))
        (inner,) = children(supervisor)
        await trio.sleep(pause_s)
        os.kill(victim(service.pid, inner), signal.SIGKILL)
        await until(lambda: gone(supervisor) and gone(inner), "launcher and supervisor have ended")
        return supervisor
    finally:
        service.kill()
        service.wait()
        assert service.stdout is not None
        service.stdout.close()


async def killed_launchers(directory: Path, count: int, chance: random.Random) -> list[int]:
    """In this process: its launcher is killed at some moment of its first births, again and again. Their supervisors' pids."""
    pids: list[int] = []

    async def one() -> None:
        async with launched(directory, LauncherConfig(slots=8, uid_base=UID_BASE), warnings=[]) as made:
            pids.append(made.launcher.pid)
            (inner,) = children(made.launcher.pid)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lives, made, 1000)
                await trio.sleep(chance.random() * 0.6)
                os.kill(inner, signal.SIGKILL)
                await made.launcher.wait_dead()

    for _ in range(count):
        with pytest.raises(BaseExceptionGroup) as caught:
            await one()
        _, failed = caught.value.split((LaunchFailed, trio.Cancelled, EOFError, OSError))
        assert failed is None, failed
    return pids


async def test_kills_of_service_and_launcher_at_random_leave_nothing(tmp_path: Path) -> None:
    chance = random.Random(7)
    write_function(tmp_path)
    assert own_runtime()
    before = (descriptors("self"), mounts("self"), set(os.listdir("/sys/class/net")))
    services = KILLS // 4
    turns = trio.Semaphore(2)
    pids: list[int] = []

    async def turn() -> None:
        async with turns:
            of_service = chance.random() < 0.5
            pause_s = chance.random() * 0.8
            pids.append(await killed_service(tmp_path, pause_s, lambda service, inner: service if of_service else inner))

    async with trio.open_nursery() as nursery:
        for _ in range(services):
            nursery.start_soon(turn)
    pids += await killed_launchers(tmp_path, KILLS - services, chance)
    assert len(pids) == KILLS
    await until(lambda: ours() == [], "no process of a sandbox is left")
    assert own_keys() == []
    await until(lambda: not any(map(groups_of, pids)), "no group is left")
    assert (descriptors("self"), mounts("self")) == before[:2]
    await until(lambda: set(os.listdir("/sys/class/net")) <= before[2], "network devices are those of the start")
    assert loop_devices(tmp_path) == []
