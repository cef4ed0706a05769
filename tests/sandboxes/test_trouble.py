"""A machine in trouble: processes that are stopped instead of killed, no descriptor left, many sandboxes at once, a launcher
that dies with much under way. Whoever asked gets an answer, and nothing is left.
"""

from __future__ import annotations

import os
import random
import resource
import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import trio

from scheduler.sandboxes import launcher as module
from scheduler.sandboxes import spawn
from scheduler.sandboxes.launcher import Cause, LauncherConfig, LaunchFailed, Specialisation, open_launcher
from tests.sandboxes.driver import (
    IS_ROOT,
    PATIENCE_S,
    Raised,
    below,
    children,
    gone,
    groups_left,
    launched,
    own_runtime,
    text_of,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.sandboxes.driver import Launched

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups"),
]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        if not gone(pid):
            os.kill(pid, signal.SIGCONT)


def inner(made: Launched) -> int:
    (pid,) = children(made.launcher.pid)
    return pid


async def zygote(made: Launched) -> int:
    shell = await made.shell()
    (pid,) = [pid for pid in children(inner(made)) if pid != shell.pid]
    return pid


# ---- stopped ----


async def test_a_stopped_runtime_process_is_replaced(tmp_path: Path) -> None:
    async with launched(tmp_path, LauncherConfig(slots=4, patience_s=1), warnings=[]) as made:
        pid = await zygote(made)
        with stopped(pid), pytest.raises(LaunchFailed, match="answer of the runtime process") as failure:
            await made.shell()
        assert failure.value.errno_name == "ETIMEDOUT"
        assert await (await made.sandbox()).run("result = 1") == 1


async def test_a_stopped_newborn_fails_its_specialising(tmp_path: Path) -> None:
    async with launched(tmp_path, LauncherConfig(slots=4, patience_s=1), warnings=[]) as made:
        shell = await made.shell()
        (worker,) = children(shell.pid)
        with stopped(worker), pytest.raises(LaunchFailed, match="answer of the newborn") as failure:
            await made.launcher.specialise(shell, Specialisation(made.code_dir, 128, 512))
        assert failure.value.errno_name == "ETIMEDOUT"
        exited = await made.launcher.exits.receive()
        assert (exited.id, exited.cause) == (shell.id, Cause.LAUNCH_FAILED)
        assert await (await made.sandbox()).run("result = 1") == 1


async def test_a_launcher_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes late is taken: nobody is ended for having waited on a launcher that could not look."""
    monkeypatch.setattr(module, "QUIET_S", 0.05)
    monkeypatch.setattr(module, "QUIETS_MAX", 1000)
    async with launched(tmp_path, LauncherConfig(slots=4, patience_s=1)) as made:
        sandbox = await made.sandbox()
        shell = await made.shell()
        pings = 0
        post = made.launcher._post

        def counting(data: bytes, fd: int | None = None) -> None:
            nonlocal pings
            pings += data[0] == 6
            post(data, fd)

        monkeypatch.setattr(made.launcher, "_post", counting)
        with stopped(inner(made)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(made.launcher.specialise, shell, Specialisation(made.code_dir, 128, 512))
                while pings < 25:  # noqa: ASYNC110 - the launcher does not tell that it is stopped
                    await trio.sleep(0.01)
                assert await sandbox.run("result = 1") == 1, "sandboxes do not need it"
                os.kill(inner(made), signal.SIGCONT)
        made.launcher.kill(shell.id)
        assert (await made.launcher.exits.receive()).cause is Cause.KILLED


async def test_a_launcher_that_stays_stopped_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(module, "QUIET_S", 0.05)
    async with launched(tmp_path, LauncherConfig(slots=4), warnings=heard) as made:
        await made.sandbox()
        everything = below(made.launcher.pid)
        os.kill(inner(made), signal.SIGSTOP)
        with trio.fail_after(PATIENCE_S), pytest.raises(LaunchFailed, match="launcher"):
            await made.shell()
        assert "signal 9" in await made.launcher.wait_dead()
        assert [pid for pid in everything if not gone(pid)] == []
        assert any("not answered" in text for text in heard)
        assert groups_left() == [], "its supervisor has cleaned up"


async def test_the_end_does_not_wait_for_a_stopped_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_TIMEOUT_S", 0.2)
    with trio.fail_after(PATIENCE_S):
        async with launched(tmp_path, LauncherConfig(slots=4)) as made:
            await made.sandbox()
            everything = below(made.launcher.pid)
            os.kill(inner(made), signal.SIGSTOP)
    assert [pid for pid in everything if not gone(pid)] == []
    assert groups_left() == []


# ---- no descriptor left ----


@contextmanager
def room_for(count: int) -> Iterator[None]:
    """Descriptors that this process may still open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


NEEDED = 7  # six that come with a shell, and one to look at its pid


@pytest.mark.parametrize("room", range(NEEDED + 1))
async def test_a_service_without_descriptors_gets_no_shell_and_lives(tmp_path: Path, room: int) -> None:
    async with launched(tmp_path, LauncherConfig(slots=4)) as made:
        await made.sandbox()
        before = os.listdir("/proc/self/fd")
        with room_for(room):
            if room < NEEDED:
                with pytest.raises(LaunchFailed, match="LimitNOFILE") as failure:
                    await made.launcher.shell(own_runtime().name)
                assert (failure.value.step, failure.value.errno_name) == ("descriptors", "EMFILE")
            else:
                shell = await made.launcher.shell(own_runtime().name)
                made.launcher.kill(shell.id)
                shell.close()
        with trio.fail_after(PATIENCE_S):
            assert (await made.launcher.exits.receive()).cause is Cause.KILLED
        assert len(os.listdir("/proc/self/fd")) == len(before)
        assert await (await made.sandbox()).run("result = 1") == 1


@pytest.mark.parametrize("room", range(3))
async def test_a_start_without_descriptors_leaves_nothing(room: int) -> None:
    before, processes = os.listdir("/proc/self/fd"), children(os.getpid())
    with room_for(room):
        try:
            async with open_launcher(LauncherConfig(slots=1), [own_runtime()]):
                pass
        except OSError:
            assert room < 2
        else:
            assert room == 2, "an end and a pidfd"
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert children(os.getpid()) == processes


async def test_a_sandbox_without_descriptors_says_so(tmp_path: Path) -> None:
    """Its error needs none: neither to be made nor to be sent. Over and over, for what is imported late may need one."""
    async with launched(tmp_path, LauncherConfig(slots=4)) as made:
        sandbox = await made.sandbox()
        for _ in range(3):
            with pytest.raises(Raised, match="Too many open files"):
                await sandbox.run("import os; held = [os.open('/dev/null', 0) for _ in range(2000)]")


# ---- many ----


async def test_three_hundred_sandboxes_at_once(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("too few descriptors for a test of so many sandboxes")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    try:
        async with launched(tmp_path, LauncherConfig(slots=300)) as made:
            await made.shell()

            async def one() -> None:
                shell = await made.shell()
                await made.launcher.specialise(shell, Specialisation(made.code_dir, 128, 512))

            async with trio.open_nursery() as nursery:
                for _ in range(299):
                    nursery.start_soon(one)
            assert len({shell.pid for shell in made.shells}) == 300
            with pytest.raises(LaunchFailed, match="slots"):
                await made.shell()
            for shell in made.shells:
                made.launcher.kill(shell.id)
            with trio.fail_after(PATIENCE_S):
                causes = [(await made.launcher.exits.receive()).cause for _ in made.shells]
            assert set(causes) == {Cause.KILLED}
            assert len(below(inner(made))) == 1, "the runtime process"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert groups_left() == []


async def test_a_launcher_that_dies_while_fifty_are_specialised(tmp_path: Path) -> None:
    async with launched(tmp_path, LauncherConfig(slots=64)) as made:
        shells = [await made.shell() for _ in range(50)]
        everything = below(made.launcher.pid)
        outcomes: list[str] = []

        async def specialise(shell: module.Shell) -> None:
            try:
                await made.launcher.specialise(shell, Specialisation(made.code_dir, 128, 512))
            except LaunchFailed as failure:
                outcomes.append(failure.step)
            else:
                outcomes.append("done")
                if outcomes.count("done") == 5:
                    os.kill(inner_pid, signal.SIGKILL)

        inner_pid = inner(made)
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for shell in shells:
                    nursery.start_soon(specialise, shell)
        assert len(outcomes) == 50
        assert set(outcomes) == {"done", "launcher"}
        assert [pid for pid in everything if not gone(pid)] == []
        assert groups_left() == []


async def test_quick_exits_leave_the_slot_ready_for_the_next(tmp_path: Path) -> None:
    async with launched(tmp_path, LauncherConfig(slots=1)) as made:
        for status in range(30):
            sandbox = await made.sandbox()
            sandbox.send(f"import os; os._exit({status})")
            exited = await sandbox.exited()
            assert (exited.cause, exited.status) == (Cause.EXIT, status)


# ---- what a slot's last occupant leaves ----


def group_of(pid: int, controller: str) -> str:
    for line in text_of(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":")
        if controller in controllers.split(","):
            return f"/sys/fs/cgroup/{controllers}{path}"
    pytest.skip(f"no {controller} controller of version 1 here")


async def test_a_slot_that_was_stopped_from_forking_can_be_used_again(tmp_path: Path) -> None:
    """The launcher stops what is left in a group by allowing it no process at all; the next occupant must not inherit that."""
    async with launched(tmp_path, LauncherConfig(slots=1)) as made:
        sandbox = await made.sandbox()
        group = group_of(sandbox.shell.pid, "pids")
        await sandbox.end()
        await trio.Path(f"{group}/pids.max").write_text("0")
        assert await (await made.sandbox()).run("result = 1") == 1


async def test_all_sandboxes_together_leave_room_for_others(tmp_path: Path) -> None:
    """A fork bomb in each of a few dozen must not take the last pid of the machine."""
    async with launched(tmp_path, LauncherConfig(slots=1)) as made:
        sandbox = await made.sandbox()
        group = group_of(sandbox.shell.pid, "pids")
        bound = int(text_of(f"{os.path.dirname(group)}/pids.max"))
        machine = min(int(text_of(f"/proc/sys/kernel/{name}")) for name in ("pid_max", "threads-max"))
        assert machine // 2 <= bound < machine


def test_a_pidfd_of_a_process_that_is_gone_has_no_pid() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    pidfd = os.pidfd_open(pid)
    os.waitpid(pid, 0)
    assert spawn.pid_of(pidfd) == -1
    os.close(pidfd)


# ---- anything killed at any moment ----

SLOTS = 12
RUNTIME_KILLS = 0.03


@pytest.mark.parametrize("seed", range(3))
async def test_kills_at_random_cost_no_slot_and_no_descriptor(tmp_path: Path, seed: int) -> None:
    """Runtime process, init, worker, at birth, while specialised, at work: each question is answered, then all is as before."""
    chance = random.Random(seed)
    async with launched(tmp_path, LauncherConfig(slots=SLOTS), warnings=[]) as made:
        launcher = made.launcher
        for shell in [await made.shell() for _ in range(SLOTS)]:  # each slot keeps one that tells of its memory
            launcher.kill(shell.id)
        pid = inner(made)
        await until(lambda: len(children(pid)) == 1, "only the runtime process is there")
        for _ in range(SLOTS):
            await launcher.exits.receive()
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        live: set[int] = set()
        outcomes: dict[str, int] = {}

        async def lives() -> None:
            for _ in range(25):
                try:
                    shell = await launcher.shell(own_runtime().name)
                except LaunchFailed as failure:
                    outcomes[failure.step] = outcomes.get(failure.step, 0) + 1
                    await trio.sleep(0.01)
                    continue
                live.add(shell.id)
                try:
                    await launcher.specialise(shell, Specialisation(made.code_dir, 128, 512))
                except LaunchFailed as failure:
                    outcomes[failure.step] = outcomes.get(failure.step, 0) + 1
                if chance.random() < 0.5:
                    launcher.kill(shell.id)
                else:
                    await trio.sleep(chance.random() * 0.01)
                    launcher.kill(shell.id)
                shell.close()

        async def exits() -> None:
            async for exited in launcher.exits:
                live.remove(exited.id)

        async def killer() -> None:
            while True:
                victims = below(pid)
                if chance.random() > RUNTIME_KILLS:  # a runtime process takes its time to start, and has no children
                    victims = [victim for victim in victims if children(victim) or victim not in children(pid)]
                if victims:
                    with suppress(ProcessLookupError):
                        os.kill(chance.choice(victims), signal.SIGKILL)
                await trio.sleep(chance.random() * 0.01)

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(exits)
                nursery.start_soon(killer)
                async with trio.open_nursery() as working:
                    for _ in range(8):
                        working.start_soon(lives)
                await until(lambda: not live, "each shell's end was told")
                nursery.cancel_scope.cancel()
        assert sum(outcomes.values()) < 190, outcomes  # 200 tries; one death of the runtime process fails all that it has begun
        await until(lambda: len(children(pid)) <= 1, "nothing is left but perhaps the runtime process")
        shells = []
        for _ in range(SLOTS):
            while True:
                try:
                    shells.append(await launcher.shell(own_runtime().name))
                except LaunchFailed:  # the last victim may have been the runtime process
                    continue
                break
        for shell in shells:
            launcher.kill(shell.id)
            shell.close()
        await until(lambda: len(children(pid)) == 1, "all shells have ended")
        await until(lambda: len(os.listdir(f"/proc/{pid}/fd")) == descriptors, "no descriptor is left")
    assert groups_left() == []
