"""Real sandboxes for tests: a launcher, a function that runs whatever Python the test sends, and the few frames of the channel.

The function is one file that executes the event's `code` and answers its variable `result`. What the code raises comes back as
`Raised`, so a test says `with pytest.raises(Raised, match="PermissionError")`.
"""

from __future__ import annotations

import json
import os
import re
import struct
import tempfile
import textwrap
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from scheduler.sandboxes.launcher import Exited, Launcher, LauncherConfig, Shell, Specialisation, open_launcher
from scheduler.sandboxes.runtimes import Runtime, default_runtime, find_runtimes, is_public, probe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

__all__ = [
    "FUNCTION",
    "IS_ROOT",
    "OTHERS",
    "PATIENCE_S",
    "Launched",
    "Raised",
    "Running",
    "below",
    "children",
    "gone",
    "groups_left",
    "launched",
    "ours",
    "own_runtime",
    "public_directory",
    "public_runtime",
    "runtimes",
    "text_of",
    "until",
    "write_function",
]

IS_ROOT = os.geteuid() == 0
HEADER = struct.Struct("<IBBHIIQ")
START, CALL, RESULT, LOG, READY = 1, 2, 16, 17, 18
FUNCTION_ERROR = 2
LAUNCHER_GROUP = re.compile(r"scheduler-(\d+)-(\d+)-\d+")
OURS: set[tuple[str, str]] = set()  # launchers of this run, by process and when it began
PATIENCE_S = 20.0  # far beyond anything measured: a hang, not a slow machine

FUNCTION = """
def handler(event, context):
    names = {}
    exec(event["code"], names)
    return names.get("result")
"""

# Processes that a sandbox sees beside itself.
OTHERS = "import os; result = sorted({int(n) for n in os.listdir('/proc') if n.isdigit()} - {os.getpid()})"


class Raised(Exception):
    """The code raised: type and message of the error object."""


@cache
def runtimes() -> dict[str, Runtime]:
    return find_runtimes()


def own_runtime() -> Runtime:
    return runtimes()[default_runtime()]


@cache
def public_runtime() -> Runtime | None:
    """One whose files any user may read, for sandboxes that see the host's tree; None: this machine has none."""
    candidates = [runtime.executable for runtime in runtimes().values()]
    candidates += [f"/usr/bin/python3.{minor}" for minor in (11, 12, 13)]
    for executable in candidates:
        runtime = probe(executable)
        if runtime is not None and is_public(runtime.executable):
            return runtime
    return None


def write_function(directory: Path, source: str = FUNCTION) -> str:
    code = directory / "code"
    code.mkdir(parents=True, exist_ok=True)
    code.chmod(0o755)
    # At once: another process' sandboxes may be reading it.
    beside = directory / f"app.{os.getpid()}"
    beside.write_text(source)
    beside.chmod(0o644)
    beside.replace(code / "app.py")
    return str(code)


def frame(kind: int, body: bytes, seq: int = 0) -> bytes:
    return HEADER.pack(len(body), kind, 0, 0, seq, 0, 0) + body


@dataclass(slots=True, eq=False)
class Running:
    """One sandbox, specialised and started."""

    launcher: Launcher
    shell: Shell
    seq: int = 0
    log: bytearray = field(default_factory=bytearray)

    async def read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            await trio.lowlevel.wait_readable(self.shell.channel_fd)
            more = os.read(self.shell.channel_fd, count - len(data))
            if not more:
                raise EOFError("the sandbox closed its channel")
            data += more
        return data

    async def frame(self) -> tuple[int, int, bytes]:
        while True:
            length, kind, flags, _, _, _, _ = HEADER.unpack(await self.read(HEADER.size))
            body = await self.read(length)
            if kind != LOG:
                return kind, flags, body
            self.log += body

    async def start(self, *, memory_mb: int, task_root: str) -> None:
        start = {
            "function_name": "probe",
            "function_version": "$LATEST",
            "invoked_function_arn": "arn:aws:lambda:local:000000000000:function:probe",
            "handler": "app.handler",
            "memory_mb": memory_mb,
            "timeout_ms": 60_000,
            "task_root": task_root,
            "environment": {"PATH": "/usr/bin:/bin"},
            "log_group_name": "/aws/lambda/probe",
            "log_stream_name": "stream",
            "initialization_type": "on-demand",
        }
        os.write(self.shell.channel_fd, frame(START, json.dumps(start).encode()))
        kind, _, body = await self.frame()
        assert kind == READY, (kind, body, bytes(self.log))

    def send(self, code: str) -> None:
        self.seq += 1
        payload = json.dumps({"code": textwrap.dedent(code)}).encode()
        os.write(self.shell.channel_fd, frame(CALL, os.urandom(16) + payload, self.seq))

    async def run(self, code: str) -> Any:
        """The value of `result`. Raised: the code raised. EOFError: the sandbox died."""
        self.send(code)
        with trio.fail_after(PATIENCE_S):
            kind, flags, body = await self.frame()
        assert kind == RESULT, kind
        value = json.loads(body[8:])
        if flags & FUNCTION_ERROR:
            raise Raised(f"{value['errorType']}: {value['errorMessage']}")
        return value

    async def exited(self) -> Exited:
        with trio.fail_after(PATIENCE_S):
            while True:
                exited = await self.launcher.exits.receive()
                if exited.id == self.shell.id:
                    return exited

    async def end(self) -> Exited:
        self.launcher.kill(self.shell.id)
        return await self.exited()


@dataclass(slots=True, eq=False)
class Launched:
    """Descriptors of all shells made through this are closed at the end of the test."""

    launcher: Launcher
    code_dir: str
    shells: list[Shell] = field(default_factory=list)

    async def shell(self, runtime: str | None = None) -> Shell:
        with trio.fail_after(PATIENCE_S):
            shell = await self.launcher.shell(runtime or next(iter(self.launcher.runtimes)))
        self.shells.append(shell)
        return shell

    async def sandbox(
        self,
        *,
        runtime: str | None = None,
        memory_mb: int = 128,
        ephemeral_storage_mb: int = 512,
        layers_dir: str | None = None,
        outbound: bool = False,
    ) -> Running:
        shell = await self.shell(runtime)
        with trio.fail_after(PATIENCE_S):
            spec = Specialisation(self.code_dir, memory_mb, ephemeral_storage_mb, layers_dir, outbound)
            await self.launcher.specialise(shell, spec)
            running = Running(self.launcher, shell)
            await running.start(memory_mb=memory_mb, task_root=self.launcher.task_root(self.code_dir))
        return running


@asynccontextmanager
async def launched(
    directory: Path,
    config: LauncherConfig | None = None,
    declared: Iterable[Runtime] | None = None,
    warnings: list[str] | None = None,
) -> AsyncIterator[Launched]:
    """A launcher for this test, and the function's directory."""
    heard = [] if warnings is None else warnings
    settings = config or LauncherConfig(slots=32)
    async with open_launcher(settings, declared or [own_runtime()], report=heard.append) as launcher:
        made = Launched(launcher, write_function(directory))
        ours(launcher.pid)
        try:
            yield made
        finally:
            for shell in made.shells:
                shell.close()


def text_of(path: str | Path) -> str:
    """Of a small file, /proc's too; "" where there is none."""
    try:
        with open(path) as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""


async def until(condition: Callable[[], bool], what: str) -> None:
    with trio.move_on_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - no event tells of another process' end
            await trio.sleep(0.002)
        return
    pytest.fail(f"{what}: not after {PATIENCE_S:g} s")


def gone(pid: int) -> bool:
    status = text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return not status or status[0] in ("Z", "X")


def children(pid: int) -> list[int]:
    return [int(child) for child in text_of(f"/proc/{pid}/task/{pid}/children").split()]


def below(pid: int) -> list[int]:
    """Every process that descends from it."""
    found, seen = [], [pid]
    while seen:
        more = children(seen.pop())
        found += more
        seen += more
    return found


@contextmanager
def public_directory() -> Iterator[Path]:
    """One that any user may enter, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="scheduler-test-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def _began(pid: int | str) -> str:
    """When a process began, as its launcher's group is called; "" of one that lives no more."""
    stat = text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return stat[19] if len(stat) > 19 and stat[0] not in ("Z", "X") else ""


def ours(pid: int) -> None:
    """The launcher `pid` is of this run of tests: groups_left() looks for what it leaves. Others may run beside us."""
    OURS.update((str(process), _began(process)) for process in (pid, *children(pid)))


def groups_left() -> list[str]:
    """Directories of our launchers that live no more, in every control group hierarchy."""
    left = []
    for where, directories, _ in os.walk("/sys/fs/cgroup"):
        for name in directories:
            if (numbers := LAUNCHER_GROUP.fullmatch(name)) is None:
                continue
            pid, start = numbers.groups()
            if (pid, start) in OURS and _began(pid) != start:
                left.append(os.path.join(where, name))
    return left
