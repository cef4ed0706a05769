"""Sandboxes that are stopped between two calls: nothing runs then, and neither a call nor a kill is lost by it."""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING

import pytest
import trio

from scheduler.sandboxes.launcher import Cause, LauncherConfig, Limit
from tests.sandboxes.driver import IS_ROOT, PATIENCE_S, children, gone, launched, text_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.sandboxes.driver import Launched

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups"),
]

COUNTING = """
import threading, time
state = {"ticks": 0}
def count():
    while True:
        state["ticks"] += 1
        time.sleep(0.001)
threading.Thread(target=count, daemon=True).start()
import builtins
builtins.state = state
"""
TICKS = "import builtins\nresult = builtins.state['ticks']"


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Launched]:
    async with launched(tmp_path, LauncherConfig(slots=4)) as launcher:
        if Limit.FREEZE not in launcher.launcher.limits:
            pytest.skip("this machine cannot freeze")
        yield launcher


def is_frozen(pid: int) -> bool:
    """Of version 1; the worker is in the group that is frozen."""
    for line in text_of(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":")
        if "freezer" in controllers.split(","):
            return text_of(f"/sys/fs/cgroup/freezer{path}/freezer.state").strip() == "FROZEN"
    return False


async def test_nothing_runs_while_it_is_frozen_and_no_call_is_lost(made: Launched) -> None:
    sandbox = await made.sandbox()
    await sandbox.run(COUNTING)
    (worker,) = children(sandbox.shell.pid)
    for _ in range(3):
        made.launcher.freeze(sandbox.shell.id)
        await until(lambda: is_frozen(worker), "it is frozen")
        used = os.pread(sandbox.shell.cpu_fd, 64, 0)
        sandbox.send(TICKS)  # it waits in the channel
        with trio.move_on_after(0.05) as waited:
            await trio.lowlevel.wait_readable(sandbox.shell.channel_fd)
        assert waited.cancelled_caught
        assert os.pread(sandbox.shell.cpu_fd, 64, 0) == used
        made.launcher.thaw(sandbox.shell.id)
        with trio.fail_after(PATIENCE_S):
            kind, _, _ = await sandbox.frame()
        assert kind == 16
        assert not is_frozen(worker)
    before = await sandbox.run(TICKS)
    await trio.sleep(0.02)
    assert await sandbox.run(TICKS) > before, "and thawed it goes on"


async def test_freezing_and_thawing_at_random_loses_no_call(made: Launched) -> None:
    chance = random.Random(3)
    sandbox = await made.sandbox()
    for number in range(60):
        made.launcher.freeze(sandbox.shell.id)
        if chance.random() < 0.5:
            await trio.sleep(chance.random() * 0.002)
        sandbox.send(f"result = {number}")
        made.launcher.thaw(sandbox.shell.id)
        with trio.fail_after(PATIENCE_S):
            _, _, body = await sandbox.frame()
        assert body[8:] == str(number).encode()


@pytest.mark.parametrize("how", ["launcher", "signal"])
async def test_a_frozen_sandbox_can_be_killed(made: Launched, how: str) -> None:
    sandbox = await made.sandbox()
    (worker,) = children(sandbox.shell.pid)
    made.launcher.freeze(sandbox.shell.id)
    await until(lambda: is_frozen(worker), "it is frozen")
    if how == "signal":  # as the engine does at a time-out; the service asks the launcher besides
        signal.pidfd_send_signal(sandbox.shell.pidfd, signal.SIGKILL)
    made.launcher.kill(sandbox.shell.id)
    assert (await sandbox.exited()).cause is Cause.KILLED
    again = [await made.sandbox() for _ in range(4)]  # the slot's next occupant is not frozen
    assert [await one.run("result = 1") for one in again] == [1] * 4


@pytest.mark.parametrize("victim", ["launcher", "supervisor", "end"])
async def test_frozen_sandboxes_end_with_their_launcher(tmp_path: Path, victim: str) -> None:
    workers = []
    async with launched(tmp_path, LauncherConfig(slots=4), warnings=[]) as made:
        if Limit.FREEZE not in made.launcher.limits:
            pytest.skip("this machine cannot freeze")
        for _ in range(2):
            sandbox = await made.sandbox()
            workers += children(sandbox.shell.pid)
            made.launcher.freeze(sandbox.shell.id)
        await until(lambda: all(map(is_frozen, workers)), "both are frozen")
        supervisor = made.launcher.pid
        (inner,) = children(supervisor)
        if victim != "end":
            os.kill(inner if victim == "launcher" else supervisor, signal.SIGKILL)
            with trio.fail_after(PATIENCE_S):
                await made.launcher.wait_dead()
    await until(lambda: all(map(gone, [*workers, inner])), "nothing of it is left")
    left = [where for where, _, _ in os.walk("/sys/fs/cgroup/freezer") if f"scheduler-{supervisor}-" in where]
    assert left == []


HATCHING = """
import os, threading
def hatch():  # one process after the other: each makes the next and ends
    while True:
        if os.fork():
            os._exit(0)
if os.fork() == 0:
    hatch()
"""


async def test_who_forks_on_and_on_is_frozen_too(made: Launched) -> None:
    for _ in range(10):
        sandbox = await made.sandbox()
        (worker,) = children(sandbox.shell.pid)
        await sandbox.run(HATCHING)
        made.launcher.freeze(sandbox.shell.id)
        await until(lambda worker=worker: is_frozen(worker), "it is frozen")
        await until(lambda init=sandbox.shell.pid: all(map(is_frozen, children(init))), "all are, and who has ended is reaped")
        used_ns = int(os.pread(sandbox.shell.cpu_fd, 64, 0))
        await trio.sleep(0.02)
        assert int(os.pread(sandbox.shell.cpu_fd, 64, 0)) - used_ns < 1_000_000, "what process 1 still had to reap, and no more"
        made.launcher.kill(sandbox.shell.id)
        assert (await sandbox.exited()).cause is Cause.KILLED
