"""A small Runtime API of the tests' own: a real HTTP/1.1 server that gives calls to whatever program asks for them.

It reads as strictly as the service's own does, and keeps what it was told, so that a test can ask. One call runs at a time.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 30.0
ROOT = "/2018-06-01/runtime/"


@dataclass
class Said:
    """What a program posted. kind: response, error, init. headers in lower case; trailers of a streamed answer."""

    kind: str
    id: str | None
    headers: dict[str, str]
    body: bytes
    trailers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Call:
    event: bytes
    id: str
    headers: dict[str, str]


class Api:
    """address: what the program finds in AWS_LAMBDA_RUNTIME_API. pieces: answers are sent in so many bytes at a time."""

    def __init__(self, *, chunked: bool = False, piece_bytes: int | None = None, refuse: int | None = None) -> None:
        self._chunked = chunked
        self._piece_bytes = piece_bytes
        self._refuse = refuse
        self._calls: queue.Queue[Call] = queue.Queue()
        self._said: queue.Queue[Said] = queue.Queue()
        self._running: str | None = None
        self.wrong: list[str] = []  # what a strict API would not have stood for
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    # ---- for tests ----

    def post(self, event: Any, *, request_id: str | None = None, deadline_s: float = 60, **headers: str) -> str:
        """The next call. headers: of the answer to `next`, beside the usual ones. Gives its id."""
        request_id = request_id or str(uuid.uuid4())
        usual = {
            "Lambda-Runtime-Aws-Request-Id": request_id,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + deadline_s) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:local:000000000000:function:hello",
        }
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        extra = {f"Lambda-Runtime-{name.replace('_', '-')}": value for name, value in headers.items()}
        self._calls.put(Call(body, request_id, {**usual, **extra}))
        return request_id

    def answer(self) -> Said:
        """What was posted next."""
        return self._said.get(timeout=PATIENCE_S)

    def ask(self, event: Any, **headers: str) -> Said:
        request_id = self.post(event, **headers)
        said = self.answer()
        assert said.id in (request_id, None), "answers come for the call that runs"
        return said

    # ---- HTTP ----

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        try:
            while line := reader.readline():
                method, path, version = line.decode("latin-1").split()
                if version != "HTTP/1.1":
                    self.wrong.append(f"version {version}")
                headers = self._headers(reader)
                if "host" not in headers:
                    self.wrong.append("no Host")
                chunks: list[bytes] = []
                trailers: dict[str, str] = {}
                if headers.get("transfer-encoding", "").lower() == "chunked":
                    while size := int(reader.readline().strip(), 16):
                        chunks.append(reader.read(size))
                        assert reader.read(2) == b"\r\n"
                    trailers = self._headers(reader)
                    body = b"".join(chunks)
                else:
                    body = reader.read(int(headers.get("content-length", 0)))
                status, answer_headers, answer = self._answer(method, path, headers, body, trailers, chunks)
                self._send(connection, status, answer_headers, answer)
        except (OSError, ValueError) as error:
            if not isinstance(error, OSError):
                self.wrong.append(f"no HTTP: {error}")
        finally:
            reader.close()

    @staticmethod
    def _headers(reader: Any) -> dict[str, str]:
        found = {}
        while line := reader.readline().strip(b"\r\n"):
            name, _, value = line.decode("latin-1").partition(":")
            found[name.lower()] = value.strip()
        return found

    def _answer(self, method, path, headers, body, trailers, chunks) -> tuple[int, dict[str, str], bytes]:
        what = path.removeprefix(ROOT)
        if (method, what) == ("GET", "invocation/next"):
            if self._running is not None:
                self.wrong.append("next before the answer")
                return 403, {}, b'{"errorType":"InvalidStateTransition"}'
            call = self._calls.get()
            self._running = call.id
            return 200, call.headers, call.event
        if (method, what) == ("POST", "init/error"):
            self._said.put(Said("init", None, headers, body))
            return 202, {}, b'{"status":"OK"}'
        _, request_id, kind = what.split("/")
        if method != "POST" or kind not in ("response", "error") or request_id != self._running:
            self.wrong.append(f"{method} {path}")
            return 400, {}, b'{"errorType":"InvalidRequestID"}'
        self._running = None
        self._said.put(Said(kind, request_id, headers, body, trailers, chunks))
        if self._refuse is not None:
            return self._refuse, {}, b'{"errorType":"RequestEntityTooLarge"}'
        return 202, {}, b'{"status":"OK"}'

    def _send(self, connection: socket.socket, status: int, headers: dict[str, str], body: bytes) -> None:
        lines = [f"HTTP/1.1 {status} Any", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if self._chunked and body:
            half = max(1, len(body) // 2)
            parts = [body[:half], body[half:]] if len(body) > 1 else [body]
            lines.append("Transfer-Encoding: chunked")
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
        else:
            lines.append(f"Content-Length: {len(body)}")
        data = "\r\n".join([*lines, "", ""]).encode() + body
        step = self._piece_bytes or len(data)
        for at in range(0, len(data), step):
            connection.sendall(data[at : at + step])


@dataclass
class Program:
    """A program that asks an Api for calls."""

    api: Api
    process: subprocess.Popen
    printed: IO[str]

    def ask(self, event: Any, **headers: str) -> Said:
        return self.api.ask(event, **headers)

    def end(self) -> tuple[int, str]:
        """Its exit status, and what it printed. The API's side is closed if it does not end by itself."""
        try:
            return self.process.wait(0.001), self.output()
        except subprocess.TimeoutExpired:
            self.api.close()
            return self.process.wait(PATIENCE_S), self.output()

    def output(self) -> str:
        """All that it printed so far."""
        fd = self.printed.fileno()  # its place is the program's own
        return os.pread(fd, os.fstat(fd).st_size, 0).decode()

    def wait(self) -> tuple[int, str]:
        """As end(), of one that ends by itself."""
        return self.process.wait(PATIENCE_S), self.output()


@contextmanager
def program(words: list[str], task: Path, handler: str, *, api: Api | None = None, **environment: str) -> Iterator[Program]:
    """words: what is executed, in the directory `task`, which has the function."""
    api = api or Api()
    variables = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "TZ": ":UTC",
        "AWS_LAMBDA_RUNTIME_API": api.address,
        "_HANDLER": handler,
        "LAMBDA_TASK_ROOT": str(task),
        "AWS_LAMBDA_FUNCTION_NAME": "hello",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/hello",
        "AWS_LAMBDA_LOG_STREAM_NAME": "stream",
        **environment,
    }
    with tempfile.TemporaryFile("w+") as printed:
        process = subprocess.Popen(
            words, cwd=task, env=variables, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT
        )
        try:
            yield Program(api, process, printed)
        finally:
            process.kill()
            process.wait()
            api.close()
