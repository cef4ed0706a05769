"""Records of what a sandbox does, delivered to programs in it: real servers, as extensions are. What is gathered when, and what
is dropped and told, is in native/tests/test_telemetry.c."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.sandboxes.driver import HEADER, IS_ROOT, PATIENCE_S, Launched, launched, own_runtime
from tests.sandboxes.programs import EXTENSION, RUNTIME, TELEMETRY, Program, program, write_program

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups"),
]

PLATFORM, FUNCTION, OF_EXTENSION = 1, 2, 4
HTTP, TCP = 1, 2
SUBSCRIBE = 1

SERVER = """#!{python} -IS
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        print("got", self.path, self.headers["Host"], body.decode(), flush=True)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *arguments):
        pass
server = http.server.HTTPServer(("127.0.0.1", 8080), Handler)
print("listening", flush=True)
server.serve_forever()
"""

LINES = """#!{python} -IS
import socket
server = socket.create_server(("127.0.0.1", 8081))
print("listening", flush=True)
connection, _ = server.accept()
for line in connection.makefile():
    print("line", line, end="", flush=True)
"""


def subscription(
    number: int, types: int, protocol: int, port: int, path: str = "", *, items: int = 1000, timeout_ms: int = 25
) -> bytes:
    head = struct.pack("<BBBBIIIHH", number, types, protocol, 0, items, 262_144, timeout_ms, port, 0)
    return head + b"sandbox.localdomain\0" + path.encode() + b"\0"


def records(*of: tuple[int, Any]) -> bytes:
    texts = [(kind, json.dumps(value).encode()) for kind, value in of]
    return b"".join(struct.pack("<B3xI", kind, len(text)) + text for kind, text in texts)


async def tell(running: Program, body: bytes, flags: int = 0) -> None:
    left = HEADER.pack(len(body), TELEMETRY, flags, 0, 0, 0, 0) + body
    while left:
        await trio.lowlevel.wait_writable(running.shell.channel_fd)
        left = left[os.write(running.shell.channel_fd, left) :]


async def heard(running: Program, text: bytes) -> None:
    with trio.fail_after(PATIENCE_S):
        while text not in running.extensions:
            with trio.move_on_after(0.02):
                await running.frame()


async def subscribed(made: Launched, directory: Path, runtime: str, scripts: dict[str, str]) -> Program:
    write_program(directory, "code/bootstrap", runtime)
    for name, script in scripts.items():
        write_program(directory, f"layers/extensions/{name}", script.replace("{python}", own_runtime().executable))
    extensions = [f"/opt/extensions/{name}" for name in scripts]
    running = await program(made, extensions=extensions, layers_dir=str(directory / "layers") if scripts else None)
    with trio.fail_after(PATIENCE_S):
        while running.extensions.count(b"listening\n") < len(scripts):
            with trio.move_on_after(0.02):
                await running.frame()
    return running


def launching(directory: Path) -> Any:
    return launched(directory, declared=[replace(own_runtime(), name="program", kind="exec")])


async def test_records_come_to_those_that_subscribed_by_http_and_by_lines(tmp_path: Path) -> None:
    async with launching(tmp_path) as made:
        idle = "#!/bin/sh\nexec sleep 1000\n"
        running = await subscribed(made, tmp_path, idle, {"server": SERVER, "lines": LINES})
        await tell(running, subscription(0, PLATFORM | FUNCTION, HTTP, 8080, "/logs?x=1"), SUBSCRIBE)
        await tell(running, subscription(1, OF_EXTENSION | FUNCTION, TCP, 8081), SUBSCRIBE)
        await tell(running, records((PLATFORM, {"n": 1}), (FUNCTION, {"n": 2}), (OF_EXTENSION, {"n": 3})))
        await heard(running, b'got /logs?x=1 sandbox.localdomain:8080 [{"n": 1},{"n": 2}]\n')
        await heard(running, b'line {"n": 2}\n')
        await heard(running, b'line {"n": 3}\n')
        await tell(running, subscription(0, PLATFORM, HTTP, 8080, "/"), SUBSCRIBE)  # in place of the first: it is silent now
        large = "x" * 60_000
        await tell(running, records(*((FUNCTION, {"large": large}) for _ in range(4))))
        await heard(running, b"\nline " + b"\nline ".join([json.dumps({"large": large}).encode()] * 4) + b"\n")
        await running.end()


async def test_what_is_known_at_the_end_is_delivered(tmp_path: Path) -> None:
    runtime = "#!/bin/sh\nwhile ! test -e /tmp/end; do sleep 0.01; done\nexit 7\n"
    stopping = "#!/bin/sh\ntrap 'exit 0' TERM\nwhile :; do sleep 0.01; done\n"
    async with launching(tmp_path) as made:
        running = await subscribed(made, tmp_path, stopping, {"server": SERVER})
        await tell(running, subscription(0, PLATFORM, HTTP, 8080, "/", timeout_ms=30_000), SUBSCRIBE)
        await tell(running, records((PLATFORM, "the last")))
        running.stop(2000)
        await heard(running, b'["the last"]\n')
        await running.end()

        ends = SERVER.replace(
            "        self.end_headers()\n", "        self.end_headers()\n        open('/tmp/end', 'w').close()\n"
        )
        running = await subscribed(made, tmp_path, runtime, {"server": ends})
        await tell(running, subscription(0, PLATFORM, HTTP, 8080, "/", items=1, timeout_ms=30_000), SUBSCRIBE)
        await tell(running, subscription(1, FUNCTION, HTTP, 8080, "/", timeout_ms=30_000), SUBSCRIBE)
        await tell(running, records((FUNCTION, "it waits")) + records((PLATFORM, "at once")))
        assert await running.words() == (RUNTIME, {"status": 7, "signal": 0})
        running.stop(0)
        with pytest.raises(EOFError):
            await running.frame()
        assert (await running.exited()).status == 7
        assert b'["at once"]' in running.extensions
        assert b'["it waits"]' in running.extensions, "the runtime has ended, and the subscriber still lived"


async def test_a_subscriber_that_is_not_there_holds_nothing_up(tmp_path: Path) -> None:
    async with launching(tmp_path) as made:
        running = await subscribed(made, tmp_path, "#!/bin/sh\necho runtime\nexec sleep 1000\n", {"server": SERVER})
        await tell(running, subscription(0, PLATFORM, HTTP, 9999, "/", timeout_ms=25), SUBSCRIBE)
        for _ in range(20):
            await tell(running, records(*((PLATFORM, "x" * 10_000) for _ in range(20))))
        await tell(running, subscription(1, PLATFORM, HTTP, 8080, "/", items=1), SUBSCRIBE)
        await tell(running, records((PLATFORM, "hello")))
        await heard(running, b'["hello"]')
        running.stop(100)
        with trio.fail_after(PATIENCE_S):
            assert (await running.exited()).status == 0


@pytest.mark.parametrize("message", [(b"", SUBSCRIBE), (b"\x01\0\0\0\xff\xff\xff\xff{}", 0)])
async def test_a_message_that_is_none_ends_the_sandbox(tmp_path: Path, message: tuple[bytes, int]) -> None:
    async with launching(tmp_path) as made:
        running = await subscribed(made, tmp_path, "#!/bin/sh\nexec sleep 1000\n", {})
        await tell(running, *message)
        assert (await running.printed()).startswith(b"sandbox: TELEMETRY: ")
        assert (await running.exited()).status == 1


async def test_the_extension_that_crashes_is_told_though_records_wait(tmp_path: Path) -> None:
    async with launching(tmp_path) as made:
        crash = SERVER.replace("        self.send_response(200)\n", "        raise SystemExit(5)\n")
        running = await subscribed(made, tmp_path, "#!/bin/sh\nexec sleep 1000\n", {"crash": crash})
        await tell(running, subscription(0, PLATFORM, HTTP, 8080, "/", items=1), SUBSCRIBE)
        await tell(running, records((PLATFORM, 1), (PLATFORM, 2)))
        kind, words = await running.words()
        assert (kind, words["event"], words["status"]) == (EXTENSION, "exit", 5)
        assert (await running.exited()).status == 1
