"""One table of functions over all three ways to run Python: our channel, our client of the Runtime API, and AWS's own client.

What a caller gets must not depend on which of them it was. Where AWS's client differs by intent, the row says so.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.api import Api, program
from tests.runtime.driver import LOG, REQUEST_ID, Sandbox, call_frame

RUNTIME = Path(__file__).resolve().parents[2] / "scheduler" / "runtime"
OWN = [sys.executable, "-I", "-S", "-B", str(RUNTIME / "api_main.py")]
AWS = [sys.executable, "-B", "-m", "awslambdaric"]
ID = str(REQUEST_ID)

CODE = """
import json, os, sys, decimal
class Own(Exception):
    pass
def inner():
    raise Own("from inner")
def echo(event, context): return event
def nothing(event, context): pass
def name(event, context): return "hello " + event["name"]
def raises(event, context): raise ValueError("wrong")
def deeper(event, context): inner()
def chained(event, context):
    try:
        inner()
    except Own as error:
        raise LookupError("after") from error
def no_message(event, context): raise KeyError()
def a_set(event, context): return {1}
def a_circle(event, context):
    a = []
    a.append(a)
    return a
def number(event, context): return decimal.Decimal("1.50")
def text(event, context): return "ü€𝄞"
def large(event, context): return "x" * 6_291_556
def who(event, context):
    assert 0 < context.get_remaining_time_in_millis() <= 60_000
    return [context.aws_request_id, context.function_name, context.function_version, context.memory_limit_in_mb,
            context.invoked_function_arn, context.log_group_name, context.log_stream_name]
def client(event, context): return [context.client_context.custom, context.client_context.client.app_title]
def world(event, context):
    return [os.getcwd() == os.environ["LAMBDA_TASK_ROOT"], os.environ["MINE"], sys.path[0] == os.getcwd()]
def trace(event, context): return os.environ.get("_X_AMZN_TRACE_ID")
def printing(event, context): print("to stdout"); print("to stderr", file=sys.stderr); return 1
def dispatch(event, context): return globals()[event["row"]](event.get("event", {}), context)
"""
ENVIRONMENT = {"MINE": "my own"}
IDENTITY = {  # as the environment of api.program() and its calls have it
    "function_name": "hello",
    "function_version": "$LATEST",
    "memory_mb": 256,
    "timeout_ms": 60_000,
    "log_group_name": "/aws/lambda/hello",
    "log_stream_name": "stream",
    "invoked_function_arn": "arn:aws:lambda:local:000000000000:function:hello",
}
CLIENT = json.dumps({"custom": {"a": 1}, "client": {"app_title": "t"}})

Answer = tuple[bool, Any]  # failed, and the answer's JSON


class Channel:
    def __init__(self, directory: Path, handler: str) -> None:
        self._sandbox = Sandbox(directory, CODE)
        self._directory, self._handler, self._seq = directory, handler, 0

    def __enter__(self) -> Channel:
        self._sandbox.__enter__()
        variables = {**ENVIRONMENT, "LAMBDA_TASK_ROOT": str(self._directory)}
        self._sandbox.start(self._handler, environment=variables, **IDENTITY)
        return self

    def __exit__(self, *_: object) -> None:
        self._sandbox.__exit__()

    def ask(self, event: bytes, client: str | None) -> Answer:
        self._seq += 1
        self._sandbox.send(call_frame(self._seq, event, extensions=[(2, client.encode())] if client else []))
        while (frame := self._sandbox.next()).kind == LOG:
            pass
        return bool(frame.flags & 2), json.loads(frame.payload)


class OverApi:
    def __init__(self, words: list[str], directory: Path, handler: str) -> None:
        (directory / "app.py").write_text(CODE)
        arguments = [*words, handler] if words is AWS else words
        self._program = program(arguments, directory, handler, **ENVIRONMENT)

    def __enter__(self) -> OverApi:
        self._function = self._program.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._program.__exit__(None, None, None)

    def ask(self, event: bytes, client: str | None) -> Answer:
        self._function.api.post(event, request_id=ID, **({"Client_Context": client} if client else {}))
        said = self._function.api.answer()
        assert self._function.api.wrong == []
        return said.kind != "response", said.json


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    """Each way with one process for all rows."""
    with ExitStack() as stack:
        made = {"channel": Channel, "api": partial(OverApi, OWN), "awslambdaric": partial(OverApi, AWS)}
        yield {name: stack.enter_context(way(tmp_path_factory.mktemp(name), "app.dispatch")) for name, way in made.items()}


ROWS = (
    "echo", "nothing", "name", "raises", "deeper", "chained", "no_message", "a_set", "a_circle", "number", "text", "who",
    "client", "world", "trace", "printing", "name-without", "broken-event", "no-event",
)  # fmt: skip
EVENTS = {
    "name": b'{"row": "name", "event": {"name": "you"}}',
    "echo": '{"row": "echo", "event": {"a": ["ü", 1.5, null, 10000000000000000000000]}}'.encode(),
    "name-without": b'{"row": "name"}',
    "broken-event": b"{",
    "no-event": b"{}",
}


def simplified(answer: Answer) -> Answer:
    """Files lie elsewhere, and some words are the JSON library's own."""
    failed, value = answer
    if failed:
        trace = [line.partition(", line")[2] for line in value["stackTrace"]]
        message = (
            value["errorMessage"].partition(": ")[0] if value["errorType"].startswith("Runtime.") else value["errorMessage"]
        )
        return failed, {**value, "stackTrace": trace, "errorMessage": message}
    return failed, value


@pytest.mark.parametrize("row", ROWS)
def test_what_a_caller_gets_is_the_same(ways, row: str):
    event = EVENTS.get(row, json.dumps({"row": row}).encode())
    answers = {name: simplified(way.ask(event, CLIENT if row == "client" else None)) for name, way in ways.items()}
    assert answers["api"] == answers["channel"]
    assert answers["awslambdaric"] == answers["api"]


INIT = {
    "missing.handler": "Runtime.ImportModuleError",
    "app.gone": "Runtime.HandlerNotFound",
    "app": "Runtime.MalformedHandlerName",
    "sys.exit": "Runtime.BuiltInModuleConflict",
    "broken.handler": "Runtime.UserCodeSyntaxError",
    "raising.handler": "ZeroDivisionError",
}


@pytest.mark.parametrize("handler", INIT)
def test_what_fails_in_init_is_told_alike(tmp_path: Path, handler: str):
    (tmp_path / "broken.py").write_text("def handler(:\n")
    (tmp_path / "raising.py").write_text("1 / 0\n")
    (tmp_path / "app.py").write_text(CODE)
    told = []
    for words in (OWN, [*AWS, handler]):
        with program(words, tmp_path, handler, **ENVIRONMENT) as function:
            said = function.api.answer()
            assert said.kind == "init"
            assert said.headers["lambda-runtime-function-error-type"] == INIT[handler]
            assert function.wait()[0] == 1
        told.append({**said.json, "stackTrace": None})
    assert told[0] == told[1]
    assert told[0]["errorType"] == INIT[handler]


def test_one_process_answers_many_calls(tmp_path: Path):
    (tmp_path / "app.py").write_text(
        "seen = 0\ndef handler(event, context):\n    global seen\n    seen += 1\n    return seen\n"
    )
    with program(OWN, tmp_path, "app.handler") as function:
        assert [function.ask({}).json for _ in range(20)] == list(range(1, 21))
        assert function.end() == (0, "")


@pytest.mark.parametrize(("chunked", "piece"), [(True, None), (False, 11), (True, 5)])
def test_a_response_comes_in_whatever_pieces(tmp_path: Path, chunked: bool, piece: int | None):
    (tmp_path / "app.py").write_text(CODE)
    with program(OWN, tmp_path, "app.echo", api=Api(chunked=chunked, piece_bytes=piece)) as function:
        for event in ({"a": "b" * 100}, {"c": "ü" * 50}, 1):
            assert function.ask(event).json == event
        assert function.api.wrong == []


def test_an_answer_that_is_too_long(tmp_path: Path):
    (tmp_path / "app.py").write_text(CODE)
    with program(OWN, tmp_path, "app.large") as function:
        said = function.ask({})
        assert (said.kind, said.json["errorType"]) == ("error", "Function.ResponseSizeTooLarge")


def test_a_refused_answer_does_not_stop_the_next_call(tmp_path: Path):
    (tmp_path / "app.py").write_text(CODE)
    with program(OWN, tmp_path, "app.echo", api=Api(refuse=413)) as function:
        assert [function.ask({"a": n}).json for n in (1, 2)] == [{"a": 1}, {"a": 2}]
        assert "refused an answer with 413" in function.end()[1]


@pytest.mark.parametrize(("code", "status"), [("import os\n    os._exit(5)", 5), ("raise SystemExit(6)", 6)])
def test_handlers_that_end_the_process(tmp_path: Path, code: str, status: int):
    (tmp_path / "app.py").write_text(f"def handler(event, context):\n    {code}\n")
    with program(OWN, tmp_path, "app.handler") as function:
        function.api.post({})
        assert function.wait()[0] == status


def test_a_child_that_comes_back_answers_nothing(tmp_path: Path):
    (tmp_path / "app.py").write_text("import os\ndef handler(event, context):\n    return os.fork() == 0 or 'parent'\n")
    with program(OWN, tmp_path, "app.handler") as function:
        for _ in range(5):
            assert function.ask({}).json == "parent"
        assert function.api.wrong == []


def test_the_cognito_identity_and_the_tenant(tmp_path: Path):
    (tmp_path / "app.py").write_text(
        "def handler(e, c): return [c.identity.cognito_identity_id, c.identity.cognito_identity_pool_id, c.tenant_id]\n"
    )
    headers = {"Cognito_Identity": '{"cognitoIdentityId":"i","cognitoIdentityPoolId":"p"}', "Aws_Tenant_Id": "t"}
    for words in (OWN, [*AWS, "app.handler"]):
        with program(words, tmp_path, "app.handler") as function:
            assert function.ask({}, **headers).json == ["i", "p", "t"]
            assert function.ask({}).json == [None, None, None]


def test_started_ahead_it_becomes_what_the_frame_says(tmp_path: Path):
    (tmp_path / "app.py").write_text(
        "import os, time\n"
        "def handler(e, c):\n"
        "    return [os.getcwd(), os.environ.get('OLD'), os.environ['MINE'], time.localtime(0).tm_hour]\n"
    )
    api = Api()
    reading, writing = os.pipe()
    words = [sys.executable, "-I", "-S", "-B", str(RUNTIME / "api_prestart.py")]
    process = subprocess.Popen(words, pass_fds=[reading], env={"_SCHEDULER_PRESTART_FD": str(reading), "OLD": "gone"})
    try:
        os.close(reading)
        variables = {
            "MINE": "a=b",
            "TZ": "Asia/Tokyo",
            "AWS_LAMBDA_RUNTIME_API": api.address,
            "_HANDLER": "app.handler",
            "LAMBDA_TASK_ROOT": str(tmp_path),
        }
        body = b"".join(f"{name}={value}\0".encode() for name, value in variables.items()) + str(tmp_path).encode() + b"\0"
        os.write(writing, struct.pack("<I", len(body)) + body)
        api.post({})
        assert api.answer().json == [str(tmp_path), None, "a=b", 9]
    finally:
        os.close(writing)
        process.kill()
        process.wait()
        api.close()
