"""The service's side of the channel, for tests: starts bootstrap.py as a plain program and speaks frames to it.

Blocking and with a time limit on every wait, so that a runtime that hangs fails a test by name.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import textwrap
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

BOOTSTRAP = Path(__file__).parents[2] / "scheduler" / "runtime" / "bootstrap.py"
HEADER = struct.Struct("<IBBHIIQ")
START, CALL, STOP = 1, 2, 3
RESULT, LOG, READY, INIT_ERROR, HANDBACK, SNAPSHOT = 16, 17, 18, 19, 20, 21
WAIT_S = 10.0
REQUEST_ID = uuid.UUID("8476a536-e9f4-11e8-9739-2dfe598c3fcd")

ENVIRONMENT = {
    "AWS_LAMBDA_FUNCTION_NAME": "hello",
    "AWS_REGION": "local",
    "TZ": ":UTC",
    "LANG": "en_US.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LAMBDA_TASK_ROOT": "/var/task",
}


@dataclass(frozen=True, slots=True)
class Frame:
    kind: int
    flags: int
    seq: int
    time_ns: int
    body: bytes

    @property
    def end_ns(self) -> int:
        return int.from_bytes(self.body[:8], "little")

    @property
    def payload(self) -> bytes:
        assert self.kind == RESULT, self
        return self.body[8:]

    @property
    def value(self) -> Any:
        return json.loads(self.payload)

    @property
    def error(self) -> dict[str, Any]:
        assert self.kind in (RESULT, INIT_ERROR), self
        if self.kind == INIT_ERROR:
            return json.loads(self.body)
        assert self.flags == 2, self
        return self.value


def call_frame(
    seq: int,
    payload: bytes,
    *,
    request_id: uuid.UUID = REQUEST_ID,
    flags: int = 0,
    valid_until_ns: int = 0,
    extensions: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    block = b"".join(struct.pack("<BBH", tag, 0, len(value)) + value for tag, value in extensions)
    body = request_id.bytes + block + payload
    return HEADER.pack(len(body), CALL, flags, len(block), seq, 0, valid_until_ns) + body


def start_frame(directory: Path | str, handler: str = "app.handler", **changes: Any) -> bytes:
    values = {
        "function_name": "hello",
        "function_version": "$LATEST",
        "invoked_function_arn": "arn:aws:lambda:local:000000000000:function:hello",
        "handler": handler,
        "memory_mb": 128,
        "timeout_ms": 3000,
        "task_root": str(directory),
        "environment": ENVIRONMENT,
        "log_group_name": "/aws/lambda/hello",
        "log_stream_name": "2026/11/24/[$LATEST]0123456789abcdef0123456789abcdef",
        "initialization_type": "on-demand",
    } | changes
    body = json.dumps(values).encode()
    return HEADER.pack(len(body), START, 0, 0, 0, 0, 0) + body


@dataclass
class Sandbox:
    """One runtime process. `directory` becomes the task root; `code` is written there as app.py."""

    directory: Path
    code: str | None = None
    python: str = sys.executable
    program: str | None = None  # run instead of bootstrap.py
    process: subprocess.Popen[bytes] = field(init=False)
    channel: socket.socket = field(init=False)
    progress_fd: int = field(init=False)
    logs: list[Frame] = field(default_factory=list)
    _in: bytearray = field(default_factory=bytearray)

    def __enter__(self) -> Sandbox:
        if self.code is not None:
            (self.directory / "app.py").write_text(textwrap.dedent(self.code))
        self.channel, theirs = socket.socketpair()
        self.channel.settimeout(WAIT_S)
        self.progress_fd = os.memfd_create("progress")
        os.ftruncate(self.progress_fd, 32_768)
        # A shell lays the descriptors out as the launcher does; exec leaves one process behind.
        a, b = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (theirs.fileno(), self.progress_fd))
        script = f'exec 3<&{a} 4<&{b} {a}<&- {b}<&-; exec "$0" -I -S -B "$@"'
        arguments = [str(BOOTSTRAP)] if self.program is None else ["-c", self.program]
        self.process = subprocess.Popen(
            ["bash", "-c", script, self.python, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(a, b),
            env={},
        )
        theirs.close()
        os.close(a)
        os.close(b)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.channel.close()
        os.close(self.progress_fd)

    # -- speaking

    def send(self, data: bytes) -> None:
        """Send all of it, and take in what comes meanwhile: with both ends writing only, both would wait for ever."""
        rest = memoryview(data)
        while rest:
            readable, writable, _ = select.select([self.channel], [self.channel], [], WAIT_S)
            if readable:
                self._read()
            if writable:
                rest = rest[self.channel.send(rest[:65_536], socket.MSG_DONTWAIT) :]
            if not (readable or writable):
                raise TimeoutError(f"{len(rest)} bytes were not taken within {WAIT_S} s")

    def start(self, handler: str = "app.handler", **changes: Any) -> Sandbox:
        """START and READY; an init error fails the test."""
        self.send(start_frame(self.directory, handler, **changes))
        frame = self.next()
        assert frame.kind == READY, frame
        return self

    def call(self, event: Any = None, *, seq: int = 1, **more: Any) -> Frame:
        """One call with a JSON event, and its answer."""
        self.send(call_frame(seq, json.dumps(event).encode(), **more))
        frame = self.next()
        assert frame.seq == seq
        return frame

    # -- hearing

    def next(self) -> Frame:
        """The next frame that is no LOG; those are gathered in `logs`."""
        while (frame := self.any()).kind == LOG:
            self.logs.append(frame)
        return frame

    def any(self) -> Frame:
        while True:
            if len(self._in) >= HEADER.size:
                length, kind, flags, extra, seq, reserved, time_ns = HEADER.unpack_from(self._in)
                assert (extra, reserved) == (0, 0)
                whole = HEADER.size + length
                if len(self._in) >= whole:
                    body = bytes(self._in[HEADER.size : whole])
                    del self._in[:whole]
                    return Frame(kind, flags, seq, time_ns, body)
            self._read()

    def _read(self) -> None:
        more = self.channel.recv(1 << 20)
        if not more:
            raise EOFError(f"the runtime closed the channel: {self.wait()}")
        self._in += more

    def text(self) -> str:
        """Everything logged so far."""
        return b"".join(frame.body for frame in self.logs).decode()

    def progress(self) -> int:
        return int.from_bytes(os.pread(self.progress_fd, 8, 0), "little")

    def wait(self) -> tuple[int, str]:
        """Exit status, and what came out of descriptors 1 and 2."""
        output, _ = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, output.decode()


def long_ago_ns() -> int:
    return time.monotonic_ns() - 10_000_000_000
