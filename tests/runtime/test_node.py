"""Node's bootstrap against a real Runtime API: what Lambda's own does with the same functions."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.runtime.api import PATIENCE_S, Api, program

BOOTSTRAP = Path(__file__).resolve().parents[2] / "scheduler" / "runtime" / "node"
NODE = shutil.which("node") or ""
VERSION = subprocess.run([NODE, "--version"], capture_output=True, text=True).stdout if NODE else "v0"
MAJOR = int(VERSION.strip("v\n").partition(".")[0])
pytestmark = pytest.mark.skipif(MAJOR < 20, reason="no Node.js 20 or newer is installed")

COMMON = """
exports.echo = async (event) => event;
exports.nothing = async () => {};
exports.callback = (event, context, callback) => { setTimeout(() => callback(null, { later: true }), 5); };
exports.failing = (event, context, callback) => callback(new RangeError('too far'));
exports.failingText = (event, context, callback) => callback('just text');
exports.done = (event, context) => context.done(null, 1);
exports.succeed = (event, context) => { setImmediate(() => context.succeed({ two: 2 })); };
exports.fail = (event, context) => context.fail(new Error('three'));
exports.returns = () => 5;
exports.throws = () => { throw new TypeError('at once'); };
exports.rejects = async () => { throw new TypeError('later'); };
exports.throwsText = async () => { throw 'text'; };
exports.never = () => new Promise(() => {});
exports.circle = async () => { const a = {}; a.a = a; return a; };
exports.big = async () => 10n;
exports.nested = { deeper: { handler: async () => 'deep' } };
exports.thenable = () => ({ then(resolve) { resolve('then'); } });
let calls = 0;
exports.counts = async () => ++calls;
exports.isText = 'no function';
class Own extends Error { constructor() { super('own'); this.name = 'OwnError'; this.code = 'E1'; } }
exports.own = async () => { throw new Own(); };
// After the callback there is still something to happen: it is waited for, or not.
exports.waits = (event, context, callback) => {
  const began = Date.now();
  context.callbackWaitsForEmptyEventLoop = event.waits;
  const state = { waited: false };
  setTimeout(() => { state.waited = true; }, 60);
  callback(null, state);
};
exports.context = async (event, context) => ({
  ...context, left: context.getRemainingTimeInMillis(), trace: process.env._X_AMZN_TRACE_ID ?? null, cwd: process.cwd(),
  waits: context.callbackWaitsForEmptyEventLoop, kinds: [typeof context.done, typeof context.fail, typeof context.succeed],
});
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    (tmp_path / "app.js").write_text(COMMON)
    return tmp_path


def run(task: Path, handler: str, *, api: Api | None = None, **environment: str):
    return program([NODE, str(BOOTSTRAP / "bootstrap.cjs")], task, handler, api=api, **environment)


TABLE = {
    "echo": ("response", None, {"a": ["ü", 1.5, None]}),
    "nothing": ("response", None, None),
    "callback": ("response", None, {"later": True}),
    "failing": ("error", "RangeError", "too far"),
    "failingText": ("error", "string", "just text"),
    "done": ("response", None, 1),
    "succeed": ("response", None, {"two": 2}),
    "fail": ("error", "Error", "three"),
    "returns": ("response", None, None),
    "throws": ("error", "TypeError", "at once"),
    "rejects": ("error", "TypeError", "later"),
    "throwsText": ("error", "string", "text"),
    "never": ("error", "Runtime.NodeJsExit", None),
    "circle": ("error", "Error", "Unable to stringify response body"),
    "big": ("error", "Error", "Unable to stringify response body"),
    "nested.deeper.handler": ("response", None, "deep"),
    "thenable": ("response", None, "then"),
    "own": ("error", "OwnError", "own"),
}
EVENT = {"a": ["ü", 1.5, None]}


@pytest.mark.parametrize("name", TABLE)
def test_a_handler_and_its_answer(task: Path, name: str):
    kind, error_type, expected = TABLE[name]
    with run(task, f"app.{name}") as function:
        for _ in range(2):  # a failed call is not the process's end
            said = function.ask(EVENT)
            assert (said.kind, said.headers.get("lambda-runtime-function-error-type")) == (kind, error_type)
            if kind == "response":
                assert said.json == expected
            else:
                assert list(said.json) == ["errorType", "errorMessage", "trace"]
                assert said.json["errorType"] == error_type
                assert expected in (None, said.json["errorMessage"])
                if error_type not in ("string", "Error", "Runtime.NodeJsExit"):
                    assert said.json["trace"][0] == f"{error_type}: {expected}"
        status, output = function.end()
    assert status == 0, "the other side went while nothing ran"
    assert ("Invoke Error" in output) == (kind == "error")
    assert function.api.wrong == []


def test_what_is_left_to_happen_is_waited_for_unless_the_handler_says_no(task: Path):
    with run(task, "app.waits") as function:
        assert function.ask({"waits": True}).json == {"waited": True}
        assert function.ask({"waits": False}).json == {"waited": False}


def test_the_context_has_all_that_lambda_gives(task: Path):
    with run(task, "app.context") as function:
        request_id = function.api.post(
            {},
            deadline_s=30,
            Trace_Id="Root=1-2;Parent=3;Sampled=1",
            Client_Context='{"client":{"app_title":"ä"},"custom":{"a":"b"}}',
            Cognito_Identity='{"cognitoIdentityId":"i","cognitoIdentityPoolId":"p"}',
        )
        seen = function.api.answer().json
        assert 25_000 < seen.pop("left") <= 30_000
        assert seen == {
            "callbackWaitsForEmptyEventLoop": True,
            "functionVersion": "$LATEST",
            "functionName": "hello",
            "memoryLimitInMB": "256",
            "logGroupName": "/aws/lambda/hello",
            "logStreamName": "stream",
            "clientContext": {"client": {"app_title": "ä"}, "custom": {"a": "b"}},
            "identity": {"cognitoIdentityId": "i", "cognitoIdentityPoolId": "p"},
            "invokedFunctionArn": "arn:aws:lambda:local:000000000000:function:hello",
            "awsRequestId": request_id,
            "trace": "Root=1-2;Parent=3;Sampled=1",
            "cwd": str(task),
            "waits": True,
            "kinds": ["function"] * 3,
        }
        assert function.ask({}).json["trace"] is None, "the trace of one call is not the next one's"


def test_state_lives_from_call_to_call(task: Path):
    with run(task, "app.counts") as function:
        assert [function.ask({}).json for _ in range(3)] == [1, 2, 3]


LOADING = {
    "dir/mod.handler": ({"dir/mod.js": "exports.handler = async () => 'cjs in a directory';"}, "cjs in a directory"),
    "esm.handler": ({"esm.mjs": "const a = await Promise.resolve(4); export const handler = async () => a;"}, 4),
    "pack.handler": ({"pack.js": "import { b } from './b.js'; export const handler = async () => b;",
                      "b.js": "export const b = 'es package';", "package.json": '{"type":"module"}'}, "es package"),
    "plain.handler": ({"plain.cjs": "exports.handler = async () => require('./x.cjs').x;", "x.cjs": "exports.x = 1;"}, 1),
    "dep.handler": ({"node_modules/dep/index.js": "exports.handler = async () => 'a package';"}, "a package"),
    "inner/pack.handler": ({"inner/pack.js": "export const handler = async () => import.meta.url.slice(-13);",
                            "inner/package.json": '{"type":"module"}'}, "inner/pack.js"),
}  # fmt: skip


@pytest.mark.parametrize("handler", LOADING)
def test_where_a_handler_is_found(task: Path, handler: str):
    files, expected = LOADING[handler]
    for name, text in files.items():
        (task / name).parent.mkdir(parents=True, exist_ok=True)
        (task / name).write_text(text)
    with run(task, handler) as function:
        assert function.ask({}).json == expected


BROKEN = {
    "missing.handler": ("Runtime.ImportModuleError", "Cannot find module 'missing'"),
    "app.gone": ("Runtime.HandlerNotFound", "app.gone is undefined or not exported"),
    "app.isText": ("Runtime.HandlerNotFound", "app.isText is not a function"),
    "app": ("Runtime.MalformedHandlerName", "Bad handler"),
    "../app.handler": ("Runtime.MalformedHandlerName", "is not a valid handler name"),
    "syntax.handler": ("Runtime.UserCodeSyntaxError", "SyntaxError"),
    "needs.handler": ("Runtime.ImportModuleError", "Cannot find module 'not-there'"),
    "esm.handler": ("Runtime.ImportModuleError", "not-there.js"),
    "raises.handler": ("TypeError", "while loading"),
}


@pytest.mark.parametrize("handler", BROKEN)
def test_what_fails_in_init_is_told_and_ends_the_process(task: Path, handler: str):
    (task / "syntax.js").write_text("exports.handler = async () => {{;")
    (task / "needs.js").write_text("require('not-there');")
    (task / "esm.mjs").write_text("import './not-there.js';")
    (task / "raises.js").write_text("throw new TypeError('while loading');")
    error_type, text = BROKEN[handler]
    with run(task, handler) as function:
        said = function.api.answer()
        assert (said.kind, said.json["errorType"]) == ("init", error_type)
        assert text in said.json["errorMessage"]
        assert said.headers["lambda-runtime-function-error-type"] == error_type
        status, output = function.wait()
    assert status == 1
    assert error_type in output, "and the log has it too"


@pytest.mark.parametrize(
    ("body", "error_type", "message", "exit_status"),
    [
        ("Promise.reject(new Error('lost')); await new Promise((r) => setTimeout(r, 9000));",
         "Runtime.UnhandledPromiseRejection", "Error: lost", 128),
        ("setTimeout(() => { throw new RangeError('alone'); }, 1); await new Promise((r) => setTimeout(r, 9000));",
         "RangeError", "alone", 129),
    ],
)  # fmt: skip
def test_what_nobody_catches_ends_the_process_with_an_answer(task: Path, body, error_type, message, exit_status):
    (task / "loose.js").write_text(f"exports.handler = async () => {{ {body} }};")
    with run(task, "loose.handler") as function:
        said = function.ask({})
        assert (said.kind, said.json["errorType"], said.json["errorMessage"]) == ("error", error_type, message)
        assert function.wait()[0] == exit_status


def test_the_console_writes_lambdas_lines(task: Path):
    (task / "log.js").write_text("""
console.log('while loading');
exports.handler = async () => {
  console.log('a', { b: 1 }); console.debug('d'); console.warn('w'); console.error(new Error('e'));
};
""")
    with run(task, "log.handler") as function:
        request_id = function.ask({}).id
        _, output = function.end()
    lines = output.splitlines()
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\t"
    assert re.fullmatch(stamp + "undefined\tINFO\twhile loading", lines[0])
    assert re.fullmatch(stamp + request_id + r"\tINFO\ta \{ b: 1 \}", lines[1])
    assert [line.split("\t")[2] for line in lines if line.count("\t") == 3] == ["INFO", "INFO", "DEBUG", "WARN", "ERROR"]


def test_the_console_in_json_and_by_level(task: Path):
    (task / "log.js").write_text("""
exports.handler = async () => {
  console.info('not seen'); console.warn({ b: 1 });
  console.error('x %d', 5, new TypeError('e')); console.error(new TypeError('f'));
};""")
    with run(task, "log.handler", AWS_LAMBDA_LOG_FORMAT="JSON", AWS_LAMBDA_LOG_LEVEL="WARN") as function:
        request_id = function.ask({}).id
        _, output = function.end()
    first, second, third = map(json.loads, output.splitlines())
    assert {**first, "timestamp": ""} == {"timestamp": "", "level": "WARN", "requestId": request_id, "message": {"b": 1}}
    assert (second["errorType"], second["errorMessage"]) == ("TypeError", "e")
    assert second["message"].startswith("x 5 TypeError: e")
    assert third["message"]["errorType"] == "TypeError"
    assert third["message"]["stackTrace"][0] == "TypeError: f"


STREAMING = """
const { pipeline } = require('node:stream/promises');
const { Readable } = require('node:stream');
exports.plain = awslambda.streamifyResponse(async (event, stream, context) => {
  stream.setContentType('text/plain'); stream.write('one '); stream.write('two'); stream.end();
});
exports.http = awslambda.streamifyResponse(async (event, stream) => {
  stream = awslambda.HttpResponseStream.from(stream, { statusCode: 201, headers: { a: 'b' }, cookies: ['c=d'] });
  stream.write({ x: 1 }); stream.end();
});
exports.piped = awslambda.streamifyResponse(async (event, stream) => {
  const pieces = (function* () { for (let i = 0; i < 64; i++) yield Buffer.alloc(65536, 65 + (i % 26)); })();
  await pipeline(Readable.from(pieces), stream);
});
exports.empty = awslambda.streamifyResponse(async (event, stream) => { stream.end(); });
exports.early = awslambda.streamifyResponse(async () => { throw new TypeError('before'); });
exports.late = awslambda.streamifyResponse(async (event, stream) => {
  stream.write('begun'); await new Promise((r) => setImmediate(r)); throw new RangeError('after');
});
"""


def test_a_streamed_answer(task: Path):
    (task / "st.js").write_text(STREAMING)
    with run(task, "st.plain") as function:
        said = function.ask({})
        assert (said.body, said.headers["content-type"]) == (b"one two", "text/plain")
        assert said.headers["lambda-runtime-function-response-mode"] == "streaming"
        assert len(said.chunks) == 2
        assert function.ask({}).body == b"one two", "and the next call"
    with run(task, "st.http") as function:
        said = function.ask({})
        assert said.headers["content-type"] == "application/vnd.awslambda.http-integration-response"
        prelude, _, body = said.body.partition(b"\0" * 8)
        assert json.loads(prelude) == {"statusCode": 201, "headers": {"a": "b"}, "cookies": ["c=d"]}
        assert body == b'{"x":1}'
    with run(task, "st.piped") as function:
        said = function.ask({})
        assert len(said.body) == 64 * 65536
        assert said.body[65536:65538] == b"BB"
    with run(task, "st.empty") as function:
        assert function.ask({}).body == b""
        assert function.ask({}).body == b""


def test_a_streamed_answer_that_fails(task: Path):
    import base64

    (task / "st.js").write_text(STREAMING)
    with run(task, "st.early") as function:
        said = function.ask({})
        assert (said.kind, said.json["errorType"]) == ("error", "TypeError"), "nothing was sent yet"
    with run(task, "st.late") as function:
        for _ in range(2):
            said = function.ask({})
            assert (said.kind, said.body) == ("response", b"begun")
            assert said.trailers["lambda-runtime-function-error-type"] == "RangeError"
            error = json.loads(base64.b64decode(said.trailers["lambda-runtime-function-error-body"]))
            assert error["errorMessage"] == "after"


@pytest.mark.parametrize(("chunked", "piece"), [(True, None), (False, 7), (True, 3)])
def test_a_response_comes_in_whatever_pieces(task: Path, chunked: bool, piece: int | None):
    with run(task, "app.echo", api=Api(chunked=chunked, piece_bytes=piece)) as function:
        for event in ({"a": "b" * 100}, {"c": "ü" * 50}, 1):
            assert function.ask(event).json == event


def test_six_megabytes_there_and_back(task: Path):
    with run(task, "app.echo") as function:
        event = {"text": "x" * (6 * 1024 * 1024 - 100)}
        assert function.ask(event).json == event


def test_a_refused_answer_does_not_stop_the_next_call(task: Path):
    with run(task, "app.echo", api=Api(refuse=413)) as function:
        assert function.ask({"a": 1}).json == {"a": 1}
        assert function.ask({"a": 2}).json == {"a": 2}
        assert "refused an answer with 413" in function.end()[1]


def test_started_ahead_it_becomes_what_the_frame_says(task: Path):
    """One process waits; what it then is, is as if it had been started so."""
    other = task / "layer" / "node_modules" / "dep"
    other.mkdir(parents=True)
    (other / "index.js").write_text("exports.name = 'from NODE_PATH';")
    (task / "ahead.mjs").write_text(
        "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);\n"
        "export const handler = async () => ({ cwd: process.cwd(), dep: require('dep').name, zone: new Date(0).getHours(),\n"
        "  old: process.env.OLD ?? null, mine: process.env.MINE });\n"
    )
    api = Api()
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [NODE, str(BOOTSTRAP / "prestart.cjs")],
        pass_fds=[reading],
        env={"_SCHEDULER_PRESTART_FD": str(reading), "OLD": "gone", "PATH": "/usr/bin:/bin"},
    )
    try:
        os.close(reading)
        variables = {
            "MINE": "a=b",
            "TZ": "Asia/Tokyo",
            "NODE_PATH": str(task / "layer" / "node_modules"),
            "AWS_LAMBDA_RUNTIME_API": api.address,
            "_HANDLER": "ahead.handler",
            "LAMBDA_TASK_ROOT": str(task),
        }
        body = b"".join(f"{name}={value}\0".encode() for name, value in variables.items()) + str(task).encode() + b"\0"
        os.write(writing, struct.pack("<I", len(body)) + body)
        api.post({})
        assert api.answer().json == {"cwd": str(task), "dep": "from NODE_PATH", "zone": 9, "old": None, "mine": "a=b"}
        files = Path(f"/proc/{process.pid}/fd")
        open_files = [os.readlink(file) for file in files.iterdir()]
        assert sum(name.startswith("socket:") for name in open_files) == 1, "of its rehearsal nothing is left open"
    finally:
        os.close(writing)
        process.kill()
        process.wait(PATIENCE_S)
        api.close()


def test_a_waiting_one_ends_with_who_made_it():
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [NODE, str(BOOTSTRAP / "prestart.cjs")], pass_fds=[reading], env={"_SCHEDULER_PRESTART_FD": str(reading)}
    )
    os.close(reading)
    os.close(writing)
    assert process.wait(PATIENCE_S) == 0
