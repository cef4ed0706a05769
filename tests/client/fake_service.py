"""A small service that speaks the protocol over a real Unix socket (or TCP), with answers the test chooses.

Every connection has a thread. By default each request is answered by the function of its method in `methods`; a test that wants
to be hostile replaces `serve` and then holds the raw socket. `requests` keeps everything that came, in order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import queue
import socket
import threading
from typing import TYPE_CHECKING, Any

import msgpack

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

DESCRIPTION = {
    "name": "hello",
    "arn": "arn:aws:lambda:local:000000000000:function:hello",
    "tenant": "default",
    "version": "$LATEST",
    "versions": ["1"],
    "revision": 3,
    "revision_id": "0d0c",
    "runtime": "python3.11",
    "handler": "app.handler",
    "description": "",
    "memory_mb": 128,
    "timeout_s": 3,
    "ephemeral_storage_mb": 512,
    "environment": {"GREETING": "hello"},
    "reserved_concurrency": None,
    "weight": 100,
    "queue_timeout_ms": 1000,
    "code_sha256": "ab" * 32,
    "code_size": 214,
    "last_modified": "2026-11-24T18:00:00.000+0000",
    "state": "Active",
    "state_reason": None,
}
LATENCY = {"count": 10, "mean_us": 50.0, "p50_us": 40, "p90_us": 90, "p99_us": 120, "p999_us": 125, "max_us": 130}
STATS = {
    "name": "hello",
    "version": "$LATEST",
    "invocations": 12,
    "outcomes": {"ok": 10, "timeout": 2},
    "throttled": {"concurrency": 3},
    "cold_starts": {"snapshot": 0, "shell": 2, "fresh": 0},
    "queued": 1,
    "in_flight": 2,
    "executing": 1,
    "oldest_ms": 4,
    "sandboxes": {"starting": 0, "idle": 1, "busy": 1, "draining": 0, "dying": 0},
    "cpu_seconds": 0.5,
    "gb_seconds": 0.125,
    "queue": LATENCY,
    "init": LATENCY,
    "run": LATENCY,
    "overhead": LATENCY,
    "total": LATENCY,
}
REPORT = {
    "request_id": "8f507cfc-1111-4222-8333-000000000001",
    "version": "$LATEST",
    "sandbox": "0000000100000003",
    "queue_us": 12.5,
    "init_us": 9000,
    "run_us": 41.25,
    "overhead_us": 8.0,
    "billed_ms": 10,
    "memory_peak_mb": 23,
    "cpu_us": 39,
    "cold": "shell",
}
ACCOUNT = {
    "name": "node",
    "kind": "node",
    "parent": None,
    "weight": 100,
    "resources": {"concurrency": {"current": 1, "max": 1000, "min": 0, "peak": 7, "refused": 3}},
}


class Refusal(Exception):
    """Raised by a method: the error map to answer."""

    def __init__(self, kind: str, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.map = {"type": kind, "message": message, **fields}


def response(msgid: int, result: Any = None, error: Any = None) -> bytes:
    return msgpack.packb([1, msgid, error, result])


def invoke(params: list[Any]) -> list[Any]:
    """Echo; a report where one is asked for."""
    name, payload, *rest = params
    options = rest[0] if rest else {}
    if not name.startswith("hello"):
        raise Refusal("NotFound", f"no function {name!r}")
    report = REPORT if options.get("report") or options.get("log_tail") else None
    if report and options.get("log_tail"):
        report = {**report, "log_tail": "START\nhello from the log\nEND\n"}
    return [payload, report]


class FakeService:
    """`with FakeService(path) as service:`; `service.methods["invoke"] = ...` changes an answer."""

    def __init__(self, where: Path | tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.requests: list[list[Any]] = []
        self.arrived: queue.Queue[list[Any]] = queue.Queue()
        self.functions: dict[str, dict[str, Any]] = {"hello": dict(DESCRIPTION)}
        self.code: dict[str, bytearray] = {}
        self.serve: Callable[[socket.socket], None] = self.answer_all
        self.connections: list[socket.socket] = []
        self.methods: dict[str, Callable[[list[Any]], Any]] = {
            "invoke": invoke,
            "hello": lambda params: {
                "server": "fake",
                "version": "0.1.0",
                "limits": {"payload_bytes_max": 6291456},
                "rights": ["invoke", "deploy", "admin"],
                "tenant": "default",
            },
            "ping": lambda params: "pong",
            "code.put": self._put,
            "functions.deploy": self._deploy,
            "functions.update": self._update,
            "functions.list": lambda params: {"functions": list(self.functions.values()), "next_marker": None},
            "functions.get": lambda params: {**self._find(params), "stats": STATS},
            "functions.remove": self._remove,
            "functions.logs": lambda params: {"text": "START RequestId: 1\nhello\nEND RequestId: 1\n", "cursor": 7},
            "stats": lambda params: {
                "functions": [STATS],
                "totals": {"invocations": 12},
                "loop": {"connections": 1},
                "sandboxes": {"idle": 1, "busy": 1},
                "uptime_s": 61.5,
                "version": "0.1.0",
            },
            "accounts": lambda params: {"accounts": [ACCOUNT]},
            "drain": lambda params: {"drained": True},
        }
        self._threads: list[threading.Thread] = []
        if isinstance(where, tuple):
            self._listener = socket.create_server(where)
            self.address: Any = self._listener.getsockname()
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(where))
            self._listener.listen(64)
            self.address = str(where)

    def _find(self, params: list[Any]) -> dict[str, Any]:
        name = params[0]["name"].split(":")[0]
        if name not in self.functions:
            raise Refusal("NotFound", f"no function {name!r}")
        return self.functions[name]

    def _put(self, params: list[Any]) -> dict[str, Any]:
        request = params[0]
        held = self.code.setdefault(request["sha256"], bytearray())
        if request["offset"] == len(held):
            held += request["data"]
        complete = len(held) == request["size"]
        if complete and hashlib.sha256(held).hexdigest() != request["sha256"]:
            raise Refusal("BadRequest", "sha256 of the code is another")
        return {"received": len(held), "complete": complete}

    def _deploy(self, params: list[Any]) -> dict[str, Any]:
        given = dict(params[0])
        publish = given.pop("publish", False)
        if given["code_sha256"] not in self.code:
            raise Refusal("BadRequest", "code_sha256 names no code")
        kind = given.pop("code_kind")
        assert kind in ("zip", "file")
        before = self.functions.get(given["name"], {**DESCRIPTION, "revision": 0, "versions": []})
        made = {**before, **given, "revision": before["revision"] + 1, "code_size": len(self.code[given["code_sha256"]])}
        if publish:
            made["versions"] = [*made["versions"], str(len(made["versions"]) + 1)]
        self.functions[given["name"]] = made
        return made

    def _update(self, params: list[Any]) -> dict[str, Any]:
        self._find(params).update(params[0])
        return self._find(params)

    def _remove(self, params: list[Any]) -> dict[str, Any]:
        self._find(params)
        del self.functions[params[0]["name"]]
        return {"removed": True}

    def answer_all(self, sock: socket.socket) -> None:
        unpacker = msgpack.Unpacker(max_buffer_size=64 * 1024 * 1024, strict_map_key=False)
        while data := sock.recv(65536):
            unpacker.feed(data)
            for frame in unpacker:
                self.note(frame)
                if frame[0] == 0:
                    sock.sendall(self.answer(frame))

    def note(self, frame: list[Any]) -> None:
        self.requests.append(frame)
        self.arrived.put(frame)

    def answer(self, frame: list[Any]) -> bytes:
        _, msgid, method, params = frame
        if method not in self.methods:
            return response(msgid, error={"type": "BadRequest", "message": f"no method {method!r}"})
        try:
            return response(msgid, self.methods[method](params))
        except Refusal as refusal:
            return response(msgid, error=refusal.map)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(sock)
            thread = threading.Thread(target=self._connection, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _connection(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client goes away, or the test's end closes us
            if self.tls is not None:
                sock = self.tls.wrap_socket(sock, server_side=True)
                self.connections.append(sock)
        with sock, contextlib.suppress(OSError):
            self.serve(sock)

    def hang_up(self) -> None:
        """Cuts every connection that is open."""
        for sock in self.connections:
            with contextlib.suppress(OSError):
                # An SSLSocket's own shutdown forgets its TLS, and its thread would go on reading what is encrypted.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)
        self.connections.clear()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join(5)
        self.hang_up()
        for thread in self._threads:
            thread.join(5)

    def __enter__(self) -> FakeService:
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value))
