"""What a sandbox that executes programs costs until its program runs, beside one that is a fork of Python."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from bench.context import Question
from bench.questions.sandboxes import frame
from bench.rows import Row, Spread, at_most, info
from scheduler.sandboxes.execstart import encode_start
from scheduler.sandboxes.launcher import Launcher, LauncherConfig, Shell, Specialisation, open_launcher
from scheduler.sandboxes.runtimes import default_runtime, find_runtimes

if TYPE_CHECKING:
    from bench.context import Context

SHELLS: Final = 50
START: Final = 1
PSS_SHARE: Final = 0.5
FIRST_BYTE_MS: Final = 10.0
PROGRAM: Final = "#!/bin/sh\necho fine\n"


def _worker(shell: Shell) -> int:
    """Process 2 of the sandbox; its parent is the same small program for every kind."""
    return int(Path(f"/proc/{shell.pid}/task/{shell.pid}/children").read_text().split()[0])


def _pss_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/{pid}/smaps_rollup tells no Pss")


async def _ended(launcher: Launcher, shells: list[Shell]) -> None:
    left = {shell.id for shell in shells}
    for shell in shells:
        launcher.kill(shell.id)
        shell.close()
    while left:
        left.discard((await launcher.exits.receive()).id)


async def _shells(launcher: Launcher, name: str) -> tuple[list[float], float]:
    """Births in ms, one after the other, and the median Pss in KB while all of them wait."""
    shells, births = [], []
    for _ in range(SHELLS):
        begun = time.perf_counter()
        shells.append(await launcher.shell(name))
        births.append((time.perf_counter() - begun) * 1000)
    pss_kb = statistics.median(_pss_kb(_worker(shell)) for shell in shells)
    await _ended(launcher, shells)
    return births, pss_kb


async def _first_byte(launcher: Launcher, code: str, name: str) -> float:
    """Ms from the order to a shell that waits until its program has written."""
    shell = await launcher.shell(name)
    start = encode_start(argv=("/var/task/bootstrap",), cwd="/var/task", environment={"PATH": "/usr/bin:/bin"})
    begun = time.perf_counter()
    await launcher.specialise(shell, Specialisation(code, 1769, 512, ports=(9001,)))
    os.write(shell.channel_fd, frame(START, start))
    await trio.lowlevel.wait_readable(shell.output_fd)
    took_ms = (time.perf_counter() - begun) * 1000
    if os.read(shell.output_fd, 64) != b"fine\n":
        raise RuntimeError("the program wrote something else")
    await _ended(launcher, [shell])
    return took_ms


async def _measure(code: str, rounds: int, lives: int) -> tuple[dict[str, list[float]], dict[str, list[float]], list[float]]:
    python = find_runtimes()[default_runtime()]
    program = replace(python, name="program", kind="exec")
    births: dict[str, list[float]] = {program.name: [], python.name: []}
    pss_kb: dict[str, list[float]] = {program.name: [], python.name: []}
    async with open_launcher(LauncherConfig(slots=SHELLS + 4), [python, program]) as launcher:
        for name in births:
            await _ended(launcher, [await launcher.shell(name)])
        for _ in range(rounds):
            for name in births:
                took, held_kb = await _shells(launcher, name)
                births[name] += took
                pss_kb[name].append(held_kb)
        first = [await _first_byte(launcher, code, program.name) for _ in range(lives)]
    return births, pss_kb, first


def run(ctx: Context) -> list[Row]:
    code = ctx.work / "program"
    code.mkdir(exist_ok=True)
    (code / "bootstrap").write_text(PROGRAM)
    for path in (code, code / "bootstrap"):
        path.chmod(0o755)
    births, pss_kb, first = trio.run(_measure, str(code), ctx.pick(6, 2), ctx.pick(100, 20))
    of_program, of_python = births.values()
    small, large = (statistics.median(values) for values in pss_kb.values())
    born_ms, python_ms = statistics.median(of_program), statistics.median(of_python)
    ctx.say(f"born in {born_ms:.2f} ms, Python's in {python_ms:.2f}; {small:.0f} and {large:.0f} KB")
    return [
        info(
            "birth of a shell that executes programs: p50",
            born_ms,
            "ms",
            notes=f"Python's {python_ms:.2f} ms; one after the other, {SHELLS} of each in turn",
        ),
        at_most(
            "memory (PSS) of its worker while it waits ÷ of a Python shell's",
            small / large,
            "×",
            PSS_SHARE,
            notes=f"{small:.0f} KB against {large:.0f} KB, {SHELLS} at once",
        ),
        at_most(
            "from the order to a waiting shell until a shell script in it has written: p50",
            Spread.of(first),
            "ms",
            FIRST_BYTE_MS,
            notes="code, limits, /tmp, a listener in its network, START, fork, execve of /bin/sh",
        ),
    ]


QUESTION = Question(
    name="programs",
    asks="What does a sandbox cost that executes a program instead of being a fork of Python?",
    how=(
        "The launcher alone. Shells of both kinds are made in turn, 50 one after the other, and their workers' memory is read "
        "while they wait. Then shells that wait are told to run a shell script: the time until its first byte is in the pipe."
    ),
    traps=(
        "A birth is mostly namespaces, mounts and groups, the same for both kinds. PSS shares what forks have in common among "
        "those that live, so it depends on their number."
    ),
    run=run,
)
