"""What isolation costs a warm call: the same runtime and handler in a whole sandbox and as a bare process, called in turn."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from bench import processes
from bench.context import Question
from bench.rows import Row, Spread, at_most, info, unmeasured
from scheduler.sandboxes.launcher import (
    RUNTIME_PACKAGE,
    Isolation,
    LauncherConfig,
    LaunchFailed,
    Specialisation,
    open_launcher,
)
from scheduler.sandboxes.runtimes import default_runtime, find_runtimes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.context import Context
    from scheduler.sandboxes.launcher import Launcher
    from scheduler.sandboxes.runtimes import Runtime

TAX = 1.05
WHAT = "a warm call behind filter and namespaces ÷ the same in a bare process: p50 of the round trip"
ALL = "the same in a whole sandbox, control groups and all"
HEADER = struct.Struct("<IBBHIIQ")
START, CALL, LOG = 1, 2, 17
PAYLOAD = b'{"text": "' + b"x" * 88 + b'"}'
PAGE_BYTES = 32_768


@dataclass(slots=True)
class Place:
    """A runtime that answers calls: our end of its channel, and its worker's pid."""

    channel: socket.socket
    pid: int
    seq: int = 0

    def start(self, task_root: str) -> None:
        values = {
            "function_name": "tax",
            "function_version": "$LATEST",
            "invoked_function_arn": "arn:aws:lambda:local:000000000000:function:tax",
            "handler": "app.handler",
            "memory_mb": 1769,
            "timeout_ms": 60_000,
            "task_root": task_root,
            "environment": {},
            "log_group_name": "/aws/lambda/tax",
            "log_stream_name": "tax",
            "initialization_type": "on-demand",
        }
        body = json.dumps(values).encode()
        self.channel.sendall(HEADER.pack(len(body), START, 0, 0, 0, 0, 0) + body)
        self._heard()

    def call(self) -> int:
        """Nanoseconds from the call's first byte to its answer's last."""
        self.seq += 1
        frame = HEADER.pack(16 + len(PAYLOAD), CALL, 0, 0, self.seq, 0, 0) + bytes(16) + PAYLOAD
        begun = time.perf_counter_ns()
        self.channel.sendall(frame)
        self._heard()
        return time.perf_counter_ns() - begun

    def _heard(self) -> None:
        while True:
            held = b""
            while len(held) < HEADER.size or len(held) < HEADER.size + HEADER.unpack_from(held)[0]:
                more = self.channel.recv(65536)
                if not more:
                    raise RuntimeError("a runtime closed its channel")
                held += more
            if HEADER.unpack_from(held)[1] != LOG:
                return

    def cpu_ns(self) -> int:
        return processes.cpu_ns(self.pid)


@contextmanager
def bare(runtime: Runtime, code: Path) -> Iterator[Place]:
    """The runtime as a plain program of this user: no namespace, no control group, no filter."""
    ours, theirs = socket.socketpair()
    page = os.memfd_create("page")
    os.ftruncate(page, PAGE_BYTES)
    moves: list[tuple[int, ...]] = [(os.POSIX_SPAWN_DUP2, fd, 100 + at) for at, fd in enumerate((theirs.fileno(), page))]
    moves += [
        (os.POSIX_SPAWN_DUP2, 100, 3),
        (os.POSIX_SPAWN_DUP2, 101, 4),
        (os.POSIX_SPAWN_CLOSE, 100),
        (os.POSIX_SPAWN_CLOSE, 101),
    ]
    command = [runtime.executable, "-I", "-S", "-B", str(RUNTIME_PACKAGE / "bootstrap.py")]
    pid = os.posix_spawn(command[0], command, {"PATH": os.defpath, "MALLOC_ARENA_MAX": "1"}, file_actions=moves)
    theirs.close()
    os.close(page)
    try:
        place = Place(ours, pid)
        place.start(str(code))
        yield place
    finally:
        ours.close()
        os.waitpid(pid, 0)


def _worker_of(init: int) -> int:
    return int(Path(f"/proc/{init}/task/{init}/children").read_text().split()[0])


async def _sandbox(launcher: Launcher, runtime: Runtime, code: Path, stack: ExitStack) -> Place:
    shell = await launcher.shell(runtime.name)
    stack.callback(shell.close)
    await launcher.specialise(shell, Specialisation(str(code), 1769, 512))
    channel = stack.enter_context(socket.socket(fileno=os.dup(shell.channel_fd)))
    channel.setblocking(True)
    place = Place(channel, _worker_of(shell.pid))
    place.start(launcher.task_root(str(code)))
    return place


async def _measured(ctx: Context, runtime: Runtime, code: Path) -> dict[str, list[float]] | str:
    """Medians in µs of each block of calls, of all places; or why there is no sandbox."""
    whole = LauncherConfig(slots=2, cpu_per_memory="weight_only")
    walls = replace(whole, cgroup_root=str(code), require_limits=False)  # no control groups are there
    with ExitStack() as stack:
        async with (
            open_launcher(whole, [runtime], report=ctx.say) as first,
            open_launcher(walls, [runtime], report=ctx.say) as second,
        ):
            if first.isolation is Isolation.PROCESS:
                return "no namespaces here"
            return _in_turn(
                {
                    "sandbox": await _sandbox(first, runtime, code, stack),
                    "walls": await _sandbox(second, runtime, code, stack),
                    "bare": stack.enter_context(bare(runtime, code)),
                },
                rounds=ctx.pick(21, 5),
                count=ctx.pick(2000, 300),
            )


def _in_turn(places: dict[str, Place], *, rounds: int, count: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {key: [] for name in places for key in (name, f"{name} cpu")}
    for place in places.values():
        for _ in range(count):
            place.call()
    for number in range(rounds):
        for name in sorted(places, reverse=number % 2 == 0):
            before = places[name].cpu_ns()
            took = sorted(places[name].call() for _ in range(count))
            found[name].append(took[count // 2] / 1000)
            found[f"{name} cpu"].append((places[name].cpu_ns() - before) / count / 1000)
    return found


def run(ctx: Context) -> list[Row]:
    runtime = find_runtimes()[default_runtime()]
    with tempfile.TemporaryDirectory(prefix="bench-isolation-") as directory:
        code = Path(directory)
        code.chmod(0o755)
        shutil.copy(Path(__file__).resolve().parents[1] / "functions" / "echo.py", code / "app.py")
        try:
            found = trio.run(_measured, ctx, runtime, code)
        except LaunchFailed as failure:
            found = str(failure)
    if isinstance(found, str):
        return [unmeasured(WHAT, "×", f"≤ {TAX}", found)]
    figures = found

    def against_bare(name: str) -> Spread:
        pairs = zip(figures[name], figures["bare" + " cpu" * name.endswith(" cpu")], strict=True)
        return Spread.of([inside / outside for inside, outside in pairs])

    def notes(name: str) -> str:
        other = "bare" + " cpu" * name.endswith(" cpu")
        return f"{Spread.of(figures[name]).median:.1f} µs against {Spread.of(figures[other]).median:.1f} µs"

    ctx.say(notes("walls"))
    return [
        at_most(WHAT, against_bare("walls"), "×", TAX, notes=f"{notes('walls')}; blocks of calls in turn", raw=figures),
        info(ALL, against_bare("sandbox"), "×", notes=notes("sandbox")),
        info("worker's CPU of it: filter and namespaces", against_bare("walls cpu"), "×", notes=notes("walls cpu")),
        info("worker's CPU of it: a whole sandbox", against_bare("sandbox cpu"), "×", notes=notes("sandbox cpu")),
    ]


QUESTION = Question(
    name="isolation",
    asks="What do namespaces, control groups and the filter of system calls cost a warm call?",
    how=(
        "One echo handler three times: in a whole sandbox as the launcher makes it; in one without control groups, which has "
        "all namespaces, its own uid and the filter; and as a plain program of the same interpreter and runtime with none of "
        "it. One caller speaks the channel to each, 100 bytes of JSON, one call at a time, in blocks that alternate; the "
        "figure is the median over rounds of the ratio of their medians."
    ),
    traps=(
        "No service in between, so that what is measured is the sandbox and not the luck of wake-ups elsewhere. The quota of "
        "CPU is off (`weight_only`), as a bound is no tax. A round trip is mostly two wake-ups; "
        "control groups make each of them dearer by about a microsecond: the scheduler then climbs a tree. Beside the service, "
        "where a call takes four wake-ups, that is a smaller part."
    ),
    run=run,
)
