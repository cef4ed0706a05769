"""Makers and restored sandboxes for tests, as the service does it: a memory file, sealed once its maker is dead."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from scheduler.sandboxes.launcher import Specialisation
from tests.sandboxes.driver import HEADER, PATIENCE_S, Launched, Running, frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["IMAGE", "INIT_ERROR", "SNAPSHOT", "Image", "Made", "make", "restore", "start_body"]

START, IMAGE, READY, INIT_ERROR, SNAPSHOT = 1, 4, 18, 19, 21
ASKS = 1
TIER_SNAPSHOT = 1


def start_body(launched: Launched, snapshot: str | None, *, handler: str = "app.handler", **environment: str) -> bytes:
    start = {
        "function_name": "probe",
        "function_version": "$LATEST",
        "invoked_function_arn": "arn:aws:lambda:local:000000000000:function:probe",
        "handler": handler,
        "memory_mb": 512,
        "timeout_ms": 60_000,
        "task_root": launched.launcher.task_root(launched.code_dir),
        "environment": {"PATH": "/usr/bin:/bin"} | environment,
        "log_group_name": "/aws/lambda/probe",
        "log_stream_name": environment.get("AWS_LAMBDA_LOG_STREAM_NAME", "stream"),
        "initialization_type": "on-demand",
        "snapshot": snapshot,
    }
    return json.dumps(start).encode()


@dataclass(slots=True, eq=False)
class Image:
    """fd: for reading. reason: why there is none."""

    fd: int
    bytes: int
    asked_bytes: int
    reason: str | None
    init_ns: int
    log: str

    def close(self) -> None:
        os.close(self.fd)


@dataclass(slots=True, eq=False)
class Made:
    """A sandbox that was to be restored. why_not: what kept it from that."""

    running: Running
    init_ns: int
    why_not: str | None
    error: dict[str, Any] | None = None
    log: str = field(default="")

    async def run(self, code: str) -> Any:
        return await self.running.run(code)

    async def end(self) -> None:
        await self.running.end()
        self.running.shell.close()


def sealed(fd: int) -> int:
    """A read-only descriptor of the file, which nobody can change any more."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    read_only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.close(fd)
    return read_only


def new_file() -> int:
    return os.memfd_create("image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


async def make(launched: Launched, *, memory_mb: int = 512, runtime: str | None = None, **start: str) -> Image:
    """Runs a maker to its end. An init error raises AssertionError with the error object."""
    shell = await launched.shell(runtime)
    fd = new_file()
    with trio.fail_after(PATIENCE_S):
        await launched.launcher.specialise(shell, Specialisation(launched.code_dir, memory_mb, 512), image=fd)
        running = Running(launched.launcher, shell)
        os.write(shell.channel_fd, frame(START, start_body(launched, "take", **start)))
        asked = 0
        while True:
            kind, flags, body = await running.frame()
            assert kind == SNAPSHOT, (kind, body.decode(), bytes(running.log))
            answer = json.loads(body)
            if not flags & ASKS:
                break
            asked = answer["bytes"]
            os.posix_fallocate(fd, 0, asked)
            os.write(shell.channel_fd, frame(IMAGE, b""))
        exited = await running.exited()
        assert exited.status == 0, exited
    launched.shells.remove(shell)
    shell.close()
    return Image(sealed(fd), answer["bytes"], asked, answer["reason"], answer["init_ns"], running.log.decode())


async def restore(
    launched: Launched,
    image: int | None,
    *,
    memory_mb: int = 512,
    runtime: str | None = None,
    outbound: bool = False,
    **start: str,
) -> Made:
    """A sandbox that was given the image, ready or with its init error."""
    shell = await launched.shell(runtime)
    launched.shells.remove(shell)
    with trio.fail_after(PATIENCE_S):
        spec = Specialisation(launched.code_dir, memory_mb, 512, outbound=outbound)
        await launched.launcher.specialise(shell, spec, image=image)
        running = Running(launched.launcher, shell)
        os.write(shell.channel_fd, frame(START, start_body(launched, "restore", **start)))
        kind, _, body = await running.frame()
    log = running.log.decode()
    if kind == INIT_ERROR:
        return Made(running, 0, None, json.loads(body), log)
    assert kind == READY, (kind, body)
    why_not = None if body[8] == TIER_SNAPSHOT else body[9:].decode()
    return Made(running, int.from_bytes(body[:8], "little"), why_not, None, log)


@asynccontextmanager
async def restored(launched: Launched, image: int | None, **start: Any) -> AsyncIterator[Made]:
    made = await restore(launched, image, **start)
    try:
        yield made
    finally:
        await made.end()


assert HEADER.size == 24
