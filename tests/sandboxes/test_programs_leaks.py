"""Programs, extensions and agents that end in every way and at any moment: afterwards all is counted and is what it was."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from scheduler.sandboxes.execstart import encode_start
from scheduler.sandboxes.launcher import LauncherConfig, LaunchFailed, Specialisation
from tests.sandboxes.driver import IS_ROOT, PATIENCE_S, Launched, below, children, launched, until
from tests.sandboxes.programs import ENVIRONMENT, Program, program_runtime, write_program
from tests.sandboxes.test_leaks import UID_BASE, Count, groups_of, own_keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups"),
]

LIVES = 150
AT_ONCE = 6
FAMILY = "#!/bin/sh\nsetsid sleep 1000 &\n(sleep 1000; sleep 1000) &\nhead -c 100000 /dev/zero\nexec sleep 1000\n"


async def at_once(made: Launched, running: Program, chance: random.Random) -> None:
    made.launcher.kill(running.shell.id)


async def after_a_moment(made: Launched, running: Program, chance: random.Random) -> None:
    await trio.sleep(chance.random() * 0.02)
    made.launcher.kill(running.shell.id)


async def stopped(made: Launched, running: Program, chance: random.Random) -> None:
    await trio.sleep(chance.random() * 0.01)
    with suppress(BrokenPipeError):  # it has ended by itself
        running.stop(chance.choice((0, 1, 30)))


async def one_of_its_processes(made: Launched, running: Program, chance: random.Random) -> None:
    """Init, agent, runtime, extension, or what they have started."""
    await trio.sleep(chance.random() * 0.01)
    victim = chance.choice([running.shell.pid, *below(running.shell.pid)])
    with suppress(ProcessLookupError):
        os.kill(victim, chance.choice((signal.SIGKILL, signal.SIGSEGV)))
    made.launcher.kill(running.shell.id)  # it may have been one whose end does not matter


async def channel_closed(made: Launched, running: Program, chance: random.Random) -> None:
    """As the service's own end would: the agent exits."""
    await trio.sleep(chance.random() * 0.01)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, running.shell.channel_fd)  # the number is the shell's to close
    os.close(nothing)


ENDS: tuple[Callable[[Launched, Program, random.Random], Awaitable[None]], ...] = (
    at_once,
    after_a_moment,
    stopped,
    one_of_its_processes,
    channel_closed,
)


async def one_life(made: Launched, ended: dict[int, trio.Event], chance: random.Random) -> None:
    with trio.fail_after(PATIENCE_S):
        shell = await made.launcher.shell("provided.al2023")
        event = ended[shell.id] = trio.Event()
        listeners: tuple[int, ...] = ()
        layers = made.code_dir.removesuffix("code") + "layers"
        spec = Specialisation(made.code_dir, 128, 512, layers, ports=(9001, 2773))
        try:
            if chance.random() < 0.1:  # while it is being specialised
                with trio.move_on_after(chance.random() * 0.002):
                    listeners = await made.launcher.specialise(shell, spec)
                made.launcher.kill(shell.id)
            else:
                listeners = await made.launcher.specialise(shell, spec)
                running = Program(made.launcher, shell, listeners)
                extensions = [f"/opt/extensions/{name}" for name in ("family", chance.choice(("family", "crash", "none")))]
                argv = (f"/var/task/{chance.choice(('family', 'family', 'ends', 'none'))}",)
                running.start(encode_start(argv=argv, cwd="/var/task", environment=ENVIRONMENT, extensions=extensions))
                await chance.choice(ENDS)(made, running, chance)
        except LaunchFailed:
            pass  # killed meanwhile
        await event.wait()
        for fd in listeners:
            os.close(fd)
        shell.close()


async def lives(made: Launched, count: int, chance: random.Random) -> None:
    ended: dict[int, trio.Event] = {}
    left = count

    async def exits() -> None:
        async for exited in made.launcher.exits:
            ended.pop(exited.id).set()

    async def maker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await one_life(made, ended, chance)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(exits)
        async with trio.open_nursery() as makers:
            for _ in range(AT_ONCE):
                makers.start_soon(maker)
        nursery.cancel_scope.cancel()


async def test_programs_that_end_in_every_way_leave_nothing(tmp_path: Path) -> None:
    chance = random.Random(11)
    write_program(tmp_path, "code/family", FAMILY)
    write_program(tmp_path, "code/ends", "#!/bin/sh\nsleep 1000 &\nexit 3\n")
    write_program(tmp_path, "layers/extensions/family", FAMILY)
    write_program(tmp_path, "layers/extensions/crash", "#!/bin/sh\nsleep 0.005\nkill -SEGV $$\n")
    config = LauncherConfig(slots=AT_ONCE, uid_base=UID_BASE)
    async with launched(tmp_path, config, [program_runtime()], warnings=[]) as made:
        await lives(made, 3 * AT_ONCE, chance)  # each slot has its groups, and what it keeps for good
        (inner,) = children(made.launcher.pid)
        await until(lambda: len(children(inner)) == 1, "only the runtime's process is there")
        count = Count(made)
        await lives(made, LIVES, chance)
        await count.settled()
    assert groups_of(made.launcher.pid) == []
    assert own_keys() == []
