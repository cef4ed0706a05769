"""What an encrypted /tmp costs a cold start, and what it costs those who make it ready."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from bench.context import Question
from bench.programs import build
from bench.rows import Row, Spread, at_most, info, unmeasured
from scheduler.sandboxes.launcher import LauncherConfig, Specialisation, open_launcher
from scheduler.sandboxes.runtimes import default_runtime, find_runtimes

if TYPE_CHECKING:
    from bench.context import Context

SIZE_MB = 512
MEMORY_MB = 128
TARGET_MS = 1.5
CANNOT = 3  # exit status of the program: this machine or user cannot
LOCK = "encrypted /tmp: key, policy and mount, where a volume is"
PATH = "encrypted /tmp ready ahead: what specialising a sandbox takes more than with one in memory"


def _steps(ctx: Context, directory: str) -> dict[str, Any] | str:
    """Microseconds of each step; text: why not."""
    place = Path(directory) / "volumes"
    place.mkdir(mode=0o700)  # as a keeper wants it: root's alone
    command = [str(build("volumes")), str(place), str(ctx.pick(100, 10)), str(SIZE_MB)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == CANNOT:
        return done.stderr.strip()
    if done.returncode != 0:
        raise RuntimeError(f"volumes ended with {done.returncode}: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def _specialise_ms(scratch: str, directory: str, count: int) -> list[float]:
    """Of `count` sandboxes one after the other, each ended before the next."""
    runtime = find_runtimes()[default_runtime()]
    config = LauncherConfig(slots=16, scratch=scratch, scratch_dir=f"{directory}/scratch")
    spec = Specialisation(directory, MEMORY_MB, SIZE_MB)
    took = []
    async with open_launcher(config, [runtime], report=lambda text: None) as launcher:
        for _ in range(count):
            shell = await launcher.shell(runtime.name)
            begun = time.perf_counter()
            await launcher.specialise(shell, spec)
            took.append((time.perf_counter() - begun) * 1000)
            launcher.kill(shell.id)
            await launcher.exits.receive()
            shell.close()
    return sorted(took[count // 10 :])


def run(ctx: Context) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="scheduler-bench-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        if os.geteuid() != 0:
            return [unmeasured(name, "ms", f"≤ {TARGET_MS:g}", "only root may make file systems") for name in (LOCK, PATH)]
        steps = _steps(ctx, directory)
        if isinstance(steps, str):
            return [unmeasured(name, "ms", f"≤ {TARGET_MS:g}", steps) for name in (LOCK, PATH)]
        medians: dict[str, list[float]] = {"tmpfs": [], "encrypted": []}
        for _ in range(ctx.pick(5, 1)):
            for scratch, values in medians.items():
                took = trio.run(_specialise_ms, scratch, directory, ctx.pick(200, 30))
                values.append(took[len(took) // 2])
    memory, disk = Spread.of(medians["tmpfs"]), Spread.of(medians["encrypted"])
    more = Spread.of([theirs - ours for ours, theirs in zip(medians["tmpfs"], medians["encrypted"], strict=True)])
    ctx.say(f"specialising: {memory.median:.2f} ms with tmpfs, {disk.median:.2f} ms encrypted; {steps}")
    lock = steps["lock"]
    return [
        at_most(f"{LOCK}: p50", lock["p50"] / 1000, "ms", TARGET_MS, notes=f"p99 {lock['p99'] / 1000:.2f} ms", raw=steps),
        at_most(f"{PATH}: p50", more, "ms", TARGET_MS, notes=f"{disk.median:.2f} ms against {memory.median:.2f} ms"),
        info("encrypted /tmp: given back empty, key taken out: p50", steps["reuse"]["p50"] / 1000, "ms"),
        info("encrypted /tmp: a new volume, off everybody's path: p50", steps["make"]["p50"] / 1000, "ms"),
        info("encrypted /tmp: a volume dropped, off everybody's path: p50", steps["drop"]["p50"] / 1000, "ms"),
    ]


QUESTION = Question(
    name="scratch",
    asks="What does a /tmp on disk cost, encrypted under a key of its own?",
    how=(
        "A C program makes volumes of 512 MB with the launcher's own code, locks, gives back and drops them. Beside it a "
        "launcher specialises sandboxes one after the other, with /tmp in memory and with /tmp on disk, in turns."
    ),
    traps=(
        "Waiting for disks is most of making and dropping, and both are done ahead or afterwards. A wave of new sandboxes that "
        "is larger than what is ready (`scratch_ahead`) waits for it."
    ),
    run=run,
)
