"""Sandboxes that execute programs, for tests: shell scripts and C as functions, and the frames of the channel."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import trio

from scheduler.sandboxes.execstart import encode_start
from scheduler.sandboxes.launcher import Exited, Launcher, Shell, Specialisation
from scheduler.sandboxes.runtimes import BASE_PATHS, Runtime
from tests.sandboxes.driver import HEADER, LOG, PATIENCE_S, START, Launched, frame, launched

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = [
    "ENVIRONMENT",
    "EXTENSION",
    "INIT_ERROR",
    "RUNTIME",
    "STOP",
    "TELEMETRY",
    "Program",
    "compiled",
    "launched",
    "program",
    "program_runtime",
    "write_program",
]

STOP, TELEMETRY, INIT_ERROR, EXTENSION, RUNTIME = 3, 5, 19, 22, 23
OF_EXTENSION = 1  # a flag of LOG
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "_HANDLER": "app.handler", "LAMBDA_TASK_ROOT": "/var/task"}


@cache
def program_runtime(prestart: tuple[str, ...] = ()) -> Runtime:
    paths = tuple(path for path in BASE_PATHS if os.path.lexists(path))
    return Runtime("provided.al2023", "", (0, 0, 0), paths, "exec", prestart)


def write_program(directory: Path, name: str, text: str | bytes, mode: int = 0o755) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(mode)
    return path


def compiled(directory: Path, name: str, source: str) -> Path:
    """A program of C, below the directory."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Werror", "-x", "c", "-o", str(path), "-"]
    subprocess.run(command, input=source.encode(), check=True)
    path.chmod(0o755)
    return path


@dataclass(slots=True, eq=False)
class Program:
    """One sandbox that has been told what to execute. output: what came through the pipe so far; extensions: theirs."""

    launcher: Launcher
    shell: Shell
    listeners: tuple[int, ...] = ()
    output: bytearray = field(default_factory=bytearray)
    extensions: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)

    async def frame(self) -> tuple[int, bytes]:
        """The next that is no LOG. EOFError: there is none. May be cancelled: what has come is kept."""
        with trio.fail_after(PATIENCE_S):
            while True:
                if len(self.received) >= HEADER.size:
                    length, kind, flags, *_ = HEADER.unpack_from(self.received)
                    if len(self.received) >= HEADER.size + length:
                        body = bytes(self.received[HEADER.size : HEADER.size + length])
                        del self.received[: HEADER.size + length]
                        if kind != LOG:
                            return kind, body
                        assert flags == OF_EXTENSION
                        self.extensions += body
                        continue
                await trio.lowlevel.wait_readable(self.shell.channel_fd)
                more = os.read(self.shell.channel_fd, 65_536)
                if not more:
                    raise EOFError("the sandbox closed its channel")
                self.received += more

    async def words(self) -> tuple[int, dict[str, Any]]:
        kind, body = await self.frame()
        return kind, json.loads(body)

    async def printed(self, until: bytes = b"") -> bytes:
        """Its output until that has come; without: to its end."""
        with trio.fail_after(PATIENCE_S):
            while not until or until not in self.output:
                await trio.lowlevel.wait_readable(self.shell.output_fd)
                more = os.read(self.shell.output_fd, 65_536)
                if not more:
                    break
                self.output += more
        assert until in self.output, bytes(self.output)
        return bytes(self.output)

    def start(self, start: bytes) -> None:
        os.write(self.shell.channel_fd, frame(START, start))

    def stop(self, budget_ms: int) -> None:
        os.write(self.shell.channel_fd, frame(STOP, struct.pack("<I", budget_ms)))

    async def exited(self) -> Exited:
        with trio.fail_after(PATIENCE_S):
            while True:
                exited = await self.launcher.exits.receive()
                if exited.id == self.shell.id:
                    return exited

    async def end(self) -> Exited:
        self.launcher.kill(self.shell.id)
        return await self.exited()


async def program(
    made: Launched,
    *,
    argv: Sequence[str] = ("/var/task/bootstrap",),
    cwd: str = "/var/task",
    environment: Mapping[str, str] = ENVIRONMENT,
    or_else: Sequence[str] = (),
    extensions: Sequence[str] = (),
    wrapper: str | None = None,
    ports: tuple[int, ...] = (),
    layers_dir: str | None = None,
    memory_mb: int = 128,
    ephemeral_storage_mb: int = 512,
    afresh: bool = False,
    shell: Shell | None = None,
) -> Program:
    """shell: one that was made before, and is waiting."""
    shell = shell or await made.shell()
    spec = Specialisation(made.code_dir, memory_mb, ephemeral_storage_mb, layers_dir, ports=ports)
    with trio.fail_after(PATIENCE_S):
        listeners = await made.launcher.specialise(shell, spec)
    running = Program(made.launcher, shell, listeners)
    running.start(
        encode_start(
            argv=argv,
            cwd=cwd,
            environment=environment,
            or_else=or_else,
            extensions=extensions,
            wrapper=wrapper,
            afresh=afresh,
        )
    )
    return running
