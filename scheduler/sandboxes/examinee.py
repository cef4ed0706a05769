"""One sandbox that runs what the doctor tries, and just enough of the channel for that.

Law of this file: it carries source text in and values out and judges nothing. The function in the sandbox is two lines; what is
tried is a Python function of attempts.py, whose source is sent.
"""

from __future__ import annotations

import inspect
import json
import os
import struct
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from scheduler.sandboxes.launcher import LaunchFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scheduler.sandboxes.launcher import Exited, Launcher, Shell, Specialisation

__all__ = ["Examinee", "exit_of", "function_directory", "start_body"]

_HANDLER: Final = """
def handler(event, context):
    names = {}
    exec("from __future__ import annotations\\n" + event["source"], names)
    return names[event["name"]](**event["given"])
"""

_HEADER: Final = struct.Struct("<IBBHIIQ")  # docs/internals/channel.md
_START, _CALL, _RESULT, _READY, _INIT_ERROR = 1, 2, 16, 18, 19
_RESTORED = b"\x01"


@contextmanager
def function_directory() -> Iterator[str]:
    """Where the function lies, readable for every user."""
    with tempfile.TemporaryDirectory(prefix="scheduler-doctor-") as directory:
        os.chmod(directory, 0o755)
        path = Path(directory, "app.py")
        path.write_text(_HANDLER)
        path.chmod(0o644)
        yield directory


def start_body(launcher: Launcher, spec: Specialisation, snapshot: str | None) -> bytes:
    """START's. snapshot: "take", "restore" or None."""
    start = {
        "function_name": "doctor",
        "function_version": "$LATEST",
        "invoked_function_arn": "arn:aws:lambda:local:000000000000:function:doctor",
        "handler": "app.handler",
        "memory_mb": spec.memory_mb,
        "timeout_ms": 60_000,
        "task_root": launcher.task_root(spec.code_dir),
        "environment": {},
        "log_group_name": "/aws/lambda/doctor",
        "log_stream_name": "doctor",
        "initialization_type": "on-demand",
    }
    return json.dumps(start if snapshot is None else {**start, "snapshot": snapshot}).encode()


async def exit_of(launcher: Launcher, shell_id: int) -> Exited:
    """How that sandbox ended, once it has; what is told of others meanwhile is let go."""
    while True:
        exited = await launcher.exits.receive()
        if exited.id == shell_id:
            return exited


class Examinee:
    """Made by make(); end() or exited() once."""

    def __init__(self, launcher: Launcher, shell: Shell) -> None:
        self.launcher = launcher
        self.shell = shell
        self.init_ns = 0
        self.not_restored: str | None = None  # with an image: why it was initialised instead
        self._seq = 0

    @classmethod
    async def make(cls, launcher: Launcher, runtime: str, spec: Specialisation, *, image: int | None = None) -> Examinee:
        """Specialised and started, its function loaded, or restored from an image. LaunchFailed, EOFError: it died."""
        shell = await launcher.shell(runtime)
        try:
            await launcher.specialise(shell, spec, image=image)
        except LaunchFailed:
            shell.close()
            raise
        examinee = cls(launcher, shell)
        await examinee._send(_START, start_body(launcher, spec, None if image is None else "restore"))
        ready = await examinee._until(_READY)
        examinee.init_ns = int.from_bytes(ready[:8], "little")
        if image is not None and ready[8:9] != _RESTORED:
            examinee.not_restored = ready[9:].decode("utf-8", "replace") or "it did not say why"
        return examinee

    def loaded(self) -> None:
        """From now on it has the CPU that its memory is worth, which is little: what takes long comes before."""
        self.launcher.loaded(self.shell.id)

    async def run(self, attempt: Callable[..., Any], **given: Any) -> Any:
        """What the function returns inside, or its error object. EOFError: the sandbox died."""
        self._seq += 1
        call = {"source": inspect.getsource(attempt), "name": attempt.__name__, "given": given}
        await self._send(_CALL, os.urandom(16) + json.dumps(call).encode())
        return json.loads((await self._until(_RESULT))[8:])

    async def exited(self) -> Exited:
        """Its end, which is on the way."""
        exited = await exit_of(self.launcher, self.shell.id)
        self.shell.close()
        return exited

    async def end(self) -> Exited:
        self.launcher.kill(self.shell.id)
        return await self.exited()

    async def _send(self, kind: int, body: bytes) -> None:
        data = _HEADER.pack(len(body), kind, 0, 0, self._seq, 0, 0) + body
        while data:
            await trio.lowlevel.wait_writable(self.shell.channel_fd)
            data = data[os.write(self.shell.channel_fd, data) :]

    async def _until(self, wanted: int) -> bytes:
        while True:
            length, kind, *_ = _HEADER.unpack(await self._read(_HEADER.size))
            body = await self._read(length)
            if kind == wanted:
                return body
            if kind == _INIT_ERROR:
                raise EOFError("the function could not be loaded")

    async def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            await trio.lowlevel.wait_readable(self.shell.channel_fd)
            more = os.read(self.shell.channel_fd, count - len(data))
            if not more:
                raise EOFError("the sandbox closed its channel")
            data += more
        return data
