"""`kill -9` of anything: no process, mount, group or directory is left, and the next start works.

The "service" here is a real process that opens a launcher with sandboxes and then waits; it is killed as an operator or the
kernel would. What must happen afterwards happens by itself, so each wait is for a state, with a bound that only a hang meets.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from scheduler.sandboxes.launcher import EXECUTABLE, Cause, LauncherConfig, LaunchFailed
from tests.sandboxes.driver import (
    IS_ROOT,
    PATIENCE_S,
    below,
    children,
    gone,
    groups_left,
    launched,
    ours,
    own_runtime,
    public_directory,
    public_runtime,
    text_of,
    until,
    write_function,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups"),
]

ROOT = Path(__file__).resolve().parents[2]

# A sandbox that does what it can to outlive its makers: no death signal, a child in a session of its own, no signal heeded.
STUBBORN = """
import ctypes, os, signal
ctypes.CDLL(None).prctl(1, 0)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    while True:
        signal.pause()
"""

SERVICE = f"""
import sys, trio
from pathlib import Path
from scheduler.sandboxes.launcher import LauncherConfig
from tests.sandboxes.driver import launched, own_runtime, public_runtime

STUBBORN = {STUBBORN!r}

async def main():
    runtime = own_runtime() if sys.argv[2] == "auto" else public_runtime()
    config = LauncherConfig(slots=8, isolation=sys.argv[2])
    async with launched(Path(sys.argv[1]), config, [runtime], warnings=[]) as made:
        for _ in range(2):
            await (await made.sandbox()).run(STUBBORN)
        for _ in range(2):
            await made.shell()
        print(made.launcher.pid, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@dataclass(frozen=True, slots=True)
class Victims:
    service: subprocess.Popen[str]
    supervisor: int
    launcher: int
    everything: tuple[int, ...]

    def all_gone(self) -> bool:
        return all(gone(pid) for pid in (self.supervisor, *self.everything))


@contextmanager
def running_service(directory: Path, isolation: str = "auto") -> Iterator[Victims]:
    service = subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(directory), isolation], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert service.stdout is not None
        line = service.stdout.readline()
        assert line, "the service did not start"
        supervisor = int(line)
        (launcher,) = children(supervisor)
        ours(supervisor)
        yield Victims(service, supervisor, launcher, tuple(below(supervisor)))
    finally:
        service.kill()
        service.wait()
        assert service.stdout is not None
        service.stdout.close()


async def test_kill_of_the_service_leaves_nothing(tmp_path: Path) -> None:
    mounts = text_of("/proc/self/mountinfo")
    with running_service(tmp_path) as victims:
        assert len(victims.everything) >= 1 + 1 + 2 * 4  # launcher, zygote, init and worker of four
        victims.service.kill()
        await until(victims.all_gone, "everything below the service is dead")
        assert groups_left() == []
    assert text_of("/proc/self/mountinfo") == mounts


async def test_kill_of_the_launcher_leaves_nothing(tmp_path: Path) -> None:
    with running_service(tmp_path) as victims:
        os.kill(victims.launcher, signal.SIGKILL)
        await until(victims.all_gone, "everything below the launcher is dead")
        assert groups_left() == []


async def test_kill_of_the_supervisor_leaves_nothing(tmp_path: Path) -> None:
    with running_service(tmp_path) as victims:
        os.kill(victims.supervisor, signal.SIGKILL)
        await until(victims.all_gone, "everything below the supervisor is dead")
        await until(lambda: groups_left() == [], "the launcher removes its groups before it ends")


async def test_the_next_start_cleans_what_a_crash_of_all_left(tmp_path: Path) -> None:
    with running_service(tmp_path) as victims:
        for pid in (victims.supervisor, victims.launcher):  # nobody is left to clean
            os.kill(pid, signal.SIGSTOP)
        for pid in (victims.launcher, victims.supervisor):
            os.kill(pid, signal.SIGKILL)
        victims.service.kill()
        await until(victims.all_gone, "everything is dead")
        assert groups_left() != []
        async with launched(tmp_path, LauncherConfig(slots=4)) as made:
            assert groups_left() == []
            assert await (await made.sandbox()).run("result = 4") == 4


async def test_a_live_neighbour_is_left_alone(tmp_path: Path) -> None:
    async with launched(tmp_path / "a") as first:
        sandbox = await first.sandbox()
        async with launched(tmp_path / "b") as second:
            assert await (await second.sandbox()).run("result = 1") == 1
        assert await sandbox.run("result = 2") == 2


async def test_terminal_signals_do_not_end_it(tmp_path: Path) -> None:
    async with launched(tmp_path) as made:
        sandbox = await made.sandbox()
        (inner,) = children(made.launcher.pid)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            os.kill(made.launcher.pid, number)
            os.kill(inner, number)
        assert await sandbox.run("result = 6") == 6


async def test_client_hears_of_the_launchers_death(tmp_path: Path) -> None:
    async with launched(tmp_path) as made:
        await made.sandbox()
        (inner,) = children(made.launcher.pid)
        os.kill(inner, signal.SIGKILL)
        with trio.fail_after(PATIENCE_S):
            assert "signal 9" in await made.launcher.wait_dead()
        with pytest.raises(LaunchFailed, match="launcher"):
            await made.launcher.shell(own_runtime().name)
        made.launcher.kill(1)


async def test_a_dead_runtime_process_is_started_again(tmp_path: Path) -> None:
    warnings: list[str] = []
    async with launched(tmp_path, warnings=warnings) as made:
        sandbox = await made.sandbox()
        (inner,) = children(made.launcher.pid)
        (zygote,) = [pid for pid in children(inner) if pid != sandbox.shell.pid]
        os.kill(zygote, signal.SIGKILL)
        await until(lambda: bool(warnings), "the launcher warns")
        assert own_runtime().name in warnings[0]
        assert await (await made.sandbox()).run("result = 8") == 8
        assert await sandbox.run("result = 9") == 9, "its sandboxes are not the zygote's children"


async def test_kill_of_a_sandbox_from_outside(tmp_path: Path) -> None:
    async with launched(tmp_path) as made:
        sandbox, other = await made.sandbox(), await made.sandbox()
        (worker,) = children(sandbox.shell.pid)
        os.kill(worker, signal.SIGKILL)
        exited = await sandbox.exited()
        assert (exited.cause, exited.status) == (Cause.SIGNAL, signal.SIGKILL)
        os.kill(other.shell.pid, signal.SIGKILL)
        assert (await other.exited()).cause is Cause.SIGNAL


@pytest.mark.skipif(public_runtime() is None, reason="no Python here that every user may read")
async def test_process_isolation_leaves_nothing_either() -> None:
    """Without a pid namespace it takes the control groups and the launcher's care."""
    with public_directory() as directory, running_service(directory, "process") as victims:
        victims.service.kill()
        await until(victims.all_gone, "everything below the service is dead")
        assert groups_left() == []
        assert [name for name in os.listdir("/tmp") if name.startswith(f"scheduler-{victims.supervisor}-")] == []


@pytest.mark.skipif(public_runtime() is None, reason="no Python here that every user may read")
async def test_bare_processes_without_groups_end_with_their_launcher() -> None:
    """Nothing but the supervisor is left to end what has no death signal and no group."""
    runtime = public_runtime()
    assert runtime is not None
    with public_directory() as directory:
        (directory / "groups").mkdir()
        config = LauncherConfig(slots=4, isolation="process", cgroup_root=str(directory / "groups"))
        async with launched(directory, config, [runtime], warnings=[]) as made:
            await (await made.sandbox()).run(STUBBORN)
            everything = below(made.launcher.pid)
            (inner,) = children(made.launcher.pid)
            os.kill(inner, signal.SIGKILL)
            with trio.fail_after(PATIENCE_S):
                await made.launcher.wait_dead()
            assert [pid for pid in everything if not gone(pid)] == []


@pytest.mark.skipif(public_runtime() is None, reason="no Python here that every user may read")
async def test_what_a_bare_process_left_dies_though_others_are_being_born() -> None:
    runtime = public_runtime()
    assert runtime is not None
    with public_directory() as directory:
        (directory / "groups").mkdir()
        config = LauncherConfig(slots=4, isolation="process", cgroup_root=str(directory / "groups"))
        async with launched(directory, config, [runtime], warnings=[]) as made:
            sandbox = await made.sandbox()
            await sandbox.run(STUBBORN)
            (inner,) = children(made.launcher.pid)
            (zygote,) = [pid for pid in children(inner) if pid != sandbox.shell.pid]
            (stray,) = children(sandbox.shell.pid)
            os.kill(zygote, signal.SIGSTOP)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made.shell)
                await trio.testing.wait_all_tasks_blocked()  # asked for, so the launcher hears of it first
                assert (await sandbox.end()).cause is Cause.KILLED
                os.kill(zygote, signal.SIGCONT)
            await until(lambda: gone(stray), "the process that it left is dead")


def test_without_a_socket_it_says_how_it_is_used() -> None:
    ended = subprocess.run([str(EXECUTABLE)], capture_output=True, text=True, close_fds=True, check=False)
    assert ended.returncode == 2
    assert "descriptor 3" in ended.stderr
    ended = subprocess.run([str(EXECUTABLE), "--slots", "0"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "--slots must be 1 to 4096" in ended.stderr


def test_the_function_of_these_tests_is_readable_by_a_sandbox(tmp_path: Path) -> None:
    assert os.stat(write_function(tmp_path)).st_mode & 0o005 == 0o005
