"""The Runtime API against a small model: whatever a runtime sends, in whatever order, it hears what Lambda would say, and each
caller hears the one answer of its call.

The engine is the real one, turned by hand; the runtime is a client on loopback that knows no better.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from base64 import b64encode

import msgpack
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler._native._core import lib
from scheduler.engine import Engine
from scheduler.messages import (
    NO_ACCOUNT,
    AccountPut,
    EngineConfig,
    FunctionPut,
    InitFailed,
    Need,
    Ready,
    Resource,
    Right,
    RuntimeApi,
    SandboxWant,
    Tier,
    connection_adopt,
    core,
    function_info,
    make_handle,
    name_put,
    sandbox_start,
)

HELLO = make_handle(0, 1)
ARN = "arn:aws:lambda:local:000000000000:function:hello"
ANSWER_BYTES_MAX = 64 << 10
CONFIG = EngineConfig(
    calls_max=64, functions_max=2, sandboxes_max=2, accounts_max=4, connections_max=4, answer_bytes_max=ANSWER_BYTES_MAX
)
UNKNOWN = "00000000-0000-4000-8000-000000000000"
CONNECTIONS = 2
IDS = st.sampled_from(["own", "own", "own", "old", "unknown", "rubbish"])


class Answer:
    """One HTTP answer."""

    def __init__(self, head, body):
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        self.body = body


class Connection:
    def __init__(self, address):
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.heard = b""

    def answers(self):
        try:
            while data := self.socket.recv(1 << 20):
                self.heard += data
        except BlockingIOError:
            pass
        found = []
        while b"\r\n\r\n" in self.heard:
            head, rest = self.heard.split(b"\r\n\r\n", 1)
            size = int(re.search(rb"(?i)content-length: (\d+)", head).group(1))
            if len(rest) < size:
                break
            found.append(Answer(head, rest[:size]))
            self.heard = rest[size:]
        return found


class Stage:
    """An engine with one function, one sandbox with a Runtime API, and a client."""

    def __init__(self, extensions=()):
        self.engine = Engine(CONFIG)
        ours, self.client = socket.socketpair()
        self.client.setblocking(False)
        function = FunctionPut(
            handle=HELLO, account=1, revision=1, memory_mb=128, timeout_ns=60 * 10**9, queue_timeout_ns=60 * 10**9, ahead_max=1
        )
        self.post(
            core(AccountPut(index=0, parent=NO_ACCOUNT), name="node"),
            core(AccountPut(index=1, parent=0, maxima={Resource.CONCURRENCY: 1}), name="function:hello"),
            core(function),
            function_info(
                HELLO, name="hello", version="$LATEST", tenant="t", tenant_number=0, memory_mb=128, timeout_ms=60_000
            ),
            name_put("hello", HELLO),
            connection_adopt(ours.detach(), Right.ALL),
            core(SandboxWant(HELLO, 1)),
        )
        self.events = []
        self.unpacker = msgpack.Unpacker(raw=False, max_buffer_size=1 << 24)
        self.told = {}
        self.turn()
        (need,) = [event for event in self.events if isinstance(event, Need)]
        listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        listener.setblocking(False)
        self.address = listener.getsockname()
        channel, self.channel = socket.socketpair()
        progress = os.memfd_create("progress", os.MFD_ALLOW_SEALING)
        os.ftruncate(progress, 32_768)
        fcntl.fcntl(progress, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        fds = (channel.detach(), -1, progress, -1, -1, -1, listener.detach())
        api = RuntimeApi(ARN, "app.handler", "000000000000", extensions)
        self.post(sandbox_start(need.sandbox, start=b"start", tier=Tier.SHELL, fds=fds, api=api))
        self.turn()

    def post(self, *commands):
        self.engine.preload(commands)

    def turn(self, count=3):
        for _ in range(count):
            assert lib.sched_turn(self.engine._sched, 0) >= 0
        self.events += self.engine.poll()
        try:
            self.unpacker.feed(self.client.recv(1 << 24))
        except BlockingIOError:
            return
        for _, msgid, error, result in self.unpacker:
            assert msgid not in self.told, "a call was answered twice"
            self.told[msgid] = (error, result)

    def close(self):
        self.client.close()
        self.channel.close()
        self.engine.close()


class RuntimeMachine(RuleBasedStateMachine):
    EXTENSIONS = ()

    @initialize()
    def begin(self):
        self.stage = Stage(self.EXTENSIONS)
        self.connections = [Connection(self.stage.address) for _ in range(CONNECTIONS)]
        self.msgid = 0
        self.queued = []  # calls that wait, oldest first: msgid
        self.state = "started"
        self.waiting = None  # connection whose next waits
        self.current = None  # (msgid, request id)
        self.old = UNKNOWN  # request id of an earlier call
        self.expected = {}  # msgid: what its caller is to hear

    def teardown(self):
        if hasattr(self, "stage"):
            for connection in self.connections:
                connection.socket.close()
            self.stage.close()

    # ---- what the model says ----

    def give(self):
        """The oldest call goes to the `next` that waits."""
        if self.waiting is None or not self.queued or not self.extension_waits():
            return
        connection, self.waiting = self.waiting, None
        msgid = self.queued.pop(0)
        (answer,) = connection.answers()
        assert answer.status == 200
        assert answer.body == b'{"call":%d}' % msgid
        assert answer.headers["lambda-runtime-invoked-function-arn"] == ARN
        assert answer.headers["content-type"] == "application/json"
        assert int(answer.headers["lambda-runtime-deadline-ms"]) > 1_700_000_000_000
        self.current = (msgid, answer.headers["lambda-runtime-aws-request-id"])
        self.state = "running"
        self.extension_hears()

    def extension_waits(self):
        return True

    def extension_hears(self):
        pass

    def say(self, connection, data):
        connection.socket.setblocking(True)
        for at in range(0, len(data), 32768):
            connection.socket.sendall(data[at : at + 32768])
            self.stage.turn(2)
        connection.socket.setblocking(False)
        self.stage.turn()

    def hear(self, connection, status, error=None):
        (answer,) = connection.answers()
        assert answer.status == status
        assert error is None or b'"errorType":"%s"' % error.encode() in answer.body
        return answer

    def free(self, which):
        """A connection that has no next waiting: one request at a time is what a client may expect an answer to."""
        others = [c for c in self.connections if c is not self.waiting]
        return others[which % len(others)]

    def request(self, method, path, body=b"", headers=(), *, chunked=False, trailers=()):
        lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1:9001", *headers]
        if chunked:
            half = len(body) // 2
            parts = [p for p in (body[:half], body[half:]) if p]
            data = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in parts)
            data += b"0\r\n" + b"".join(t.encode() + b"\r\n" for t in trailers) + b"\r\n"
            lines.append("Transfer-Encoding: chunked")
        else:
            data = body
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + data

    # ---- what happens ----

    @rule()
    def invoke(self):
        self.msgid += 1
        self.stage.client.send(msgpack.packb([0, self.msgid, "invoke", ["hello", b'{"call":%d}' % self.msgid]]))
        self.queued.append(self.msgid)
        self.expected[self.msgid] = None
        self.stage.turn()
        self.give()

    @rule(which=st.integers(0, 1))
    def next(self, which):
        connection = self.free(which)
        self.say(connection, self.request("GET", "/2018-06-01/runtime/invocation/next"))
        if self.state in ("started", "answered") and self.waiting is None:
            self.waiting = connection
            self.old = self.current[1] if self.current else self.old
            self.current = None
            self.state = "waiting"
            if self.extension_waits():
                assert sum(isinstance(event, Ready) for event in self.stage.events) == 1
            self.give()
        else:
            self.hear(connection, 403, "InvalidStateTransition")

    def id_to_use(self, whose):
        return {"own": self.current[1] if self.current else self.old, "old": self.old, "unknown": UNKNOWN, "rubbish": "x"}[
            whose
        ]

    def verdict(self, used):
        """(status, error) of a refusal, or None."""
        if self.current is None or used != self.current[1]:
            return 400, "InvalidRequestID"
        return None if self.state == "running" else (403, "InvalidStateTransition")

    @rule(
        which=st.integers(0, 1),
        whose=IDS,
        chunked=st.booleans(),
    )
    def respond(self, which, whose, chunked):
        used = self.id_to_use(whose)
        connection = self.free(which)
        refusal = self.verdict(used)
        path = f"/2018-06-01/runtime/invocation/{used}/response"
        self.say(connection, self.request("POST", path, b'"done"', chunked=chunked))
        if refusal is None:
            self.hear(connection, 202)
            self.state = "answered"
            self.expected[self.current[0]] = ("ok", b'"done"')
        else:
            self.hear(connection, *refusal)

    @rule(which=st.integers(0, 1), whose=st.sampled_from(["own", "own", "old", "unknown"]), good=st.booleans())
    def error(self, which, whose, good):
        used = self.id_to_use(whose)
        connection = self.free(which)
        refusal = self.verdict(used)
        body = b'{"errorMessage":"m","errorType":"T"}' if good else b"no json"
        header = "Lambda-Runtime-Function-Error-Type: Runtime.Thing"
        self.say(connection, self.request("POST", f"/2018-06-01/runtime/invocation/{used}/error", body, [header]))
        if refusal is None:
            self.hear(connection, 202)
            self.state = "answered"
            payload = body if good else b'{"errorMessage":"","errorType":"Runtime.Thing"}'
            self.expected[self.current[0]] = ("FunctionError", payload)
        else:
            self.hear(connection, *refusal)

    @rule(which=st.integers(0, 1), chunked=st.booleans(), over=st.sampled_from([0, 1, 5000]))
    def respond_at_the_limit(self, which, chunked, over):
        used = self.id_to_use("own")
        connection = self.free(which)
        refusal = self.verdict(used)
        body = b'"' + b"x" * (ANSWER_BYTES_MAX + over - 2) + b'"'
        path = f"/2018-06-01/runtime/invocation/{used}/response"
        self.say(connection, self.request("POST", path, body, chunked=chunked))
        if refusal is not None:
            self.hear(connection, *refusal)
            return
        self.state = "answered"
        if over:
            answer = self.hear(connection, 413, "RequestEntityTooLarge")
            assert b"Exceeded maximum allowed payload size (65536 bytes)." in answer.body
            self.expected[self.current[0]] = ("TooLarge", None)
        else:
            self.hear(connection, 202)
            self.expected[self.current[0]] = ("ok", body)

    @rule(which=st.integers(0, 1), mode=st.sampled_from(["streaming", "loud"]))
    def respond_with_trailers(self, which, mode):
        used = self.id_to_use("own")
        connection = self.free(which)
        refusal = self.verdict(used)
        error = b'{"errorType":"Late"}'
        trailers = [
            "Lambda-Runtime-Function-Error-Type: Function.Late",
            f"Lambda-Runtime-Function-Error-Body: {b64encode(error).decode()}",
        ]
        path = f"/2018-06-01/runtime/invocation/{used}/response"
        header = f"Lambda-Runtime-Function-Response-Mode: {mode}"
        self.say(connection, self.request("POST", path, b"half of", [header], chunked=True, trailers=trailers))
        if refusal is not None:
            self.hear(connection, *refusal)
        elif mode == "loud":
            self.hear(connection, 400, "Runtime.InvalidResponseModeHeader")
        else:
            self.hear(connection, 202)
            self.state = "answered"
            self.expected[self.current[0]] = ("FunctionError", error)

    @rule(which=st.integers(0, 1), chunked=st.booleans())
    def respond_and_break_off(self, which, chunked):
        """The end of the body never comes: nobody is answered, and the runtime may try again."""
        connection = self.free(which)
        path = f"/2018-06-01/runtime/invocation/{self.id_to_use('own')}/response"
        refusal = self.verdict(self.id_to_use("own"))
        self.say(connection, self.request("POST", path, b'"broken off"', chunked=chunked)[:-3])
        connection.socket.shutdown(socket.SHUT_WR)
        self.stage.turn()
        self.hear(connection, *(refusal or (400, "TruncatedHTTPRequest")))
        self.replace(connection)

    @rule(which=st.integers(0, 1))
    def ping(self, which):
        connection = self.free(which)
        self.say(connection, self.request("GET", "/2018-06-01/ping"))
        assert self.hear(connection, 200).body == b"pong"

    def replace(self, connection):
        connection.socket.close()
        self.connections[self.connections.index(connection)] = Connection(self.stage.address)
        self.stage.turn()

    @rule(which=st.integers(0, 1))
    def hang_up(self, which):
        connection = self.connections[which]
        if connection is self.waiting:
            self.waiting = None
            ready = any(isinstance(event, Ready) for event in self.stage.events)
            self.state = "answered" if ready else "started"
        self.replace(connection)

    @precondition(lambda self: self.state not in ("started", "waiting") or self.extension_waits())
    @precondition(lambda self: self.state != "started")
    @rule(which=st.integers(0, 1))
    def init_error_out_of_order(self, which):
        connection = self.free(which)
        self.say(connection, self.request("POST", "/2018-06-01/runtime/init/error", b"{}"))
        self.hear(connection, 403, "InvalidStateTransition")

    @invariant()
    def callers_hear_what_was_said_once(self):
        if not hasattr(self, "stage"):
            return
        for msgid, expected in self.expected.items():
            if expected is None:
                assert msgid not in self.stage.told
                continue
            error, result = self.stage.told[msgid]
            kind, payload = expected
            if kind == "ok":
                assert error is None
                assert result[0] == payload
            else:
                assert error["type"] == kind
                assert payload is None or error["payload"] == payload
        assert all(not c.answers() for c in self.connections)


TestRuntimeMachine = RuntimeMachine.TestCase
TestRuntimeMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None, derandomize=True)
TestRuntimeMachine.pytestmark = [pytest.mark.slow]


class ExtensionMachine(RuntimeMachine):
    """The same beside an extension, whose pace is its own: a call is given once both wait, and both hear of it."""

    EXTENSIONS = ("probe",)

    @initialize()
    def begin(self):
        super().begin()
        self.extension = Connection(self.stage.address)
        self.other = Connection(self.stage.address)
        self.extension_state = "registered"
        body = b'{"events":["INVOKE","SHUTDOWN"]}'
        headers = ["Lambda-Extension-Name: probe"]
        self.say(self.extension, self.request("POST", "/2020-01-01/extension/register", body, headers))
        answer = self.hear(self.extension, 200)
        self.identifier = answer.headers["lambda-extension-identifier"]

    def teardown(self):
        if hasattr(self, "extension"):
            self.extension.socket.close()
            self.other.socket.close()
        super().teardown()

    def extension_waits(self):
        return self.extension_state == "waiting"

    def extension_hears(self):
        (answer,) = self.extension.answers()
        event = json.loads(answer.body)
        assert answer.status == 200
        assert (event["eventType"], event["requestId"], event["invokedFunctionArn"]) == ("INVOKE", self.current[1], ARN)
        self.extension_state = "running"

    def event_next(self, connection):
        path = "/2020-01-01/extension/event/next"
        self.say(connection, self.request("GET", path, headers=[f"Lambda-Extension-Identifier: {self.identifier}"]))

    @precondition(lambda self: self.extension_state != "waiting")
    @rule()
    def extension_is_done(self):
        self.event_next(self.extension)
        self.extension_state = "waiting"
        self.give()

    @precondition(lambda self: self.extension_state == "waiting")
    @rule()
    def extension_asks_twice(self):
        self.event_next(self.other)
        self.hear(self.other, 403, "Extension.InvalidExtensionState")

    @rule()
    def extension_is_nobody(self):
        self.say(self.other, self.request("GET", "/2020-01-01/extension/event/next"))
        self.hear(self.other, 403, "Extension.MissingHeader")

    @precondition(lambda self: self.extension_state == "waiting")
    @rule()
    def extension_hangs_up(self):
        self.extension.socket.close()
        self.extension = Connection(self.stage.address)
        self.stage.turn()
        self.extension_state = "running"

    @invariant()
    def it_hears_of_nothing_else(self):
        if hasattr(self, "extension"):
            assert not self.extension.answers()
            assert not self.other.answers()


TestExtensionMachine = ExtensionMachine.TestCase
TestExtensionMachine.settings = TestRuntimeMachine.settings
TestExtensionMachine.pytestmark = [pytest.mark.slow]


@pytest.fixture
def stage():
    stage = Stage()
    yield stage
    stage.close()


def test_an_init_error_is_the_callers(stage):
    stage.client.send(msgpack.packb([0, 1, "invoke", ["hello", b"{}"]]))
    stage.turn()
    connection = Connection(stage.address)
    body = b'{"errorMessage":"no module named x","errorType":"Runtime.ImportModuleError"}'
    head = b"POST /2018-06-01/runtime/init/error HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    connection.socket.send(head + body)
    stage.turn()
    assert [a.status for a in connection.answers()] == [202]
    assert [event.error for event in stage.events if isinstance(event, InitFailed)] == [body]
    connection.socket.close()


def test_start_reaches_the_sandbox_without_what_is_ours(stage):
    stage.turn()
    assert stage.channel.recv(4096)[24:] == b"start"
