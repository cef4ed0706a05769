"""Calls over a real channel to a real process: order, framing, time, what each call brings along, and the end."""

from __future__ import annotations

import json
import time
import uuid

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.runtime.conftest import SUPPORTED, interpreters
from tests.runtime.driver import (
    CALL,
    ENVIRONMENT,
    HANDBACK,
    HEADER,
    LOG,
    READY,
    RESULT,
    STOP,
    call_frame,
    long_ago_ns,
    start_frame,
)

ECHO = "def handler(event, context):\n    return event\n"
FAR_NS = 1 << 62
BROKEN_EXTENSION = call_frame(1, b"1", extensions=[(1, b"x")]).replace(b"\x01\x00\x01\x00x", b"\x01\x00\xff\xffx")


@pytest.mark.slow
@pytest.mark.parametrize("version", SUPPORTED)
def test_every_supported_python(sandbox, version):
    python = interpreters().get(version)
    if python is None:
        pytest.skip(f"Python {version} does not run on this machine")
    code = """
        import sys
        def handler(event, context):
            print("version", sys.version_info[:2])
            if event == "fail":
                raise KeyError("k")
            return {"event": event, "repr": repr(context), "path": sys.path[:3]}
    """
    box = sandbox(code, python=python).start()
    value = box.call({"a": [1, None, "ü"]}).value
    assert value["event"] == {"a": [1, None, "ü"]}
    assert value["repr"].startswith(
        "LambdaContext([aws_request_id=8476a536-e9f4-11e8-9739-2dfe598c3fcd,log_group_name=/aws/lambda"
    )
    assert value["path"] == [str(box.directory), "/opt/python", f"/opt/python/lib/python{version}/site-packages"]
    error = box.call("fail", seq=2).error
    assert error["errorType"] == "KeyError"
    assert error["errorMessage"] == "'k'"
    assert error["stackTrace"] == [f'  File "{box.directory}/app.py", line 6, in handler\n    raise KeyError("k")\n']
    assert f"version ({version.replace('.', ', ')})" in box.text()
    packed = msgpack.packb({"k": b"\x00", "n": [1.5, -7]})
    box.send(call_frame(3, packed, flags=1))
    answer = box.next()
    assert answer.flags == 1
    assert msgpack.unpackb(answer.payload)["event"] == {"k": b"\x00", "n": [1.5, -7]}


def test_answers_in_order_with_their_numbers_and_times(sandbox):
    box = sandbox(ECHO).start()
    before = time.monotonic_ns()
    box.send(b"".join(call_frame(seq, json.dumps({"n": seq}).encode(), valid_until_ns=FAR_NS) for seq in range(5, 300)))
    previous_end = before
    for seq in range(5, 300):
        answer = box.any()
        assert (answer.kind, answer.flags, answer.seq) == (RESULT, 0, seq)
        assert answer.value == {"n": seq}
        assert previous_end <= answer.time_ns <= answer.end_ns
        previous_end = answer.end_ns
    assert previous_end <= time.monotonic_ns()
    assert box.progress() == 299


def test_answers_are_gathered(sandbox):
    box = sandbox(ECHO).start()
    calls = 2000
    block = b"".join(call_frame(seq, b'"x"') for seq in range(1, calls + 1))
    size = HEADER.size + 8 + 3
    reads, got = 0, 0
    box.channel.sendall(block[: 64 * (len(block) // calls)])
    # A window of 64 calls stays in the channel, so a runtime that wrote each answer by itself would be seen.
    sent = 64
    while got < calls * size:
        data = box.channel.recv(1 << 20)
        reads += 1
        got += len(data)
        more = min(calls, got // size + 64) - sent
        box.channel.sendall(block[sent * (len(block) // calls) : (sent + more) * (len(block) // calls)])
        sent += more
    assert reads < calls / 2


def test_slow_calls_are_answered_at_once(sandbox):
    """While the second call waits for a file, the first one's answer is out already."""
    box = sandbox(
        """
        import os, time
        def handler(event, context):
            if event == "wait":
                while not os.path.exists("go"):
                    time.sleep(0.001)
            elif event == "slow":
                time.sleep(0.001)
            return event
        """
    ).start()
    assert box.call("slow", seq=0).value == "slow"
    assert box.call("slow", seq=1).value == "slow"
    box.send(call_frame(2, b'"quick"') + call_frame(3, b'"wait"'))
    assert box.next().value == "quick"
    (box.directory / "go").touch()
    assert box.next().value == "wait"


def test_frames_byte_by_byte(sandbox):
    box = sandbox(ECHO)
    data = start_frame(box.directory) + call_frame(1, b'{"k": "v"}') + call_frame(2, b"[]")
    for at in range(len(data)):
        box.send(data[at : at + 1])
    assert box.next().kind == READY
    assert [box.next().value, box.next().value] == [{"k": "v"}, []]


def test_any_split_of_the_stream(sandbox):
    box = sandbox(ECHO).start()
    numbers = iter(range(1, 1 << 30))

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.integers(0, 300_000), st.booleans()), min_size=1, max_size=5), st.data())
    def run(calls, data):
        stream, expected = b"", []
        for size, late in calls:
            seq = next(numbers)
            stream += call_frame(seq, b'"' + b"x" * size + b'"', valid_until_ns=long_ago_ns() if late else 0)
            expected.append((seq, None if late else size))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            box.send(stream[begin:end])
        for seq, size in expected:
            answer = box.next()
            assert answer.seq == seq
            if size is None:
                assert (answer.kind, answer.body, answer.flags) == (HANDBACK, b"", 0)
            else:
                assert len(answer.payload) == size + 2

    run()


def test_calls_right_behind_start(sandbox):
    box = sandbox(ECHO)
    box.send(start_frame(box.directory) + call_frame(1, b"1") + call_frame(2, b"2"))
    assert [box.next().kind for _ in range(3)] == [READY, RESULT, RESULT]


def test_ready_tells_how_long_init_took(sandbox):
    box = sandbox("import time\ntime.sleep(0.02)\n" + ECHO)
    box.send(start_frame(box.directory))
    ready = box.next()
    assert (ready.kind, ready.seq, len(ready.body)) == (READY, 0, 8)
    assert 20_000_000 <= int.from_bytes(ready.body, "little") < 5_000_000_000


@pytest.mark.slow
def test_the_largest_payloads_in_and_out(sandbox):
    box = sandbox(
        """
        def handler(event, context):
            return "y" * event if isinstance(event, int) else len(event)
        """
    ).start()
    box.send(call_frame(1, b'"' + b"x" * 6_291_454 + b'"'))
    assert box.next().value == 6_291_454
    assert len(box.call(6_291_554, seq=2).payload) == 6_291_556
    over = box.call(6_291_555, seq=3)
    assert over.flags == 4
    assert over.value == {
        "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
        "errorType": "Function.ResponseSizeTooLarge",
    }
    assert box.call([], seq=4).value == 0


def test_a_call_whose_time_has_passed_is_handed_back_and_claimed(sandbox):
    box = sandbox("def handler(event, context):\n    print('ran', event)\n    return event\n").start()
    box.send(call_frame(1, b"1", valid_until_ns=long_ago_ns()) + call_frame(2, b"2", valid_until_ns=FAR_NS))
    back = box.any()
    assert (back.kind, back.seq, back.body, back.time_ns) == (HANDBACK, 1, b"", 0)
    assert box.next().value == 2
    assert box.text() == "ran 2\n"
    box.send(call_frame(7, b"1", valid_until_ns=long_ago_ns()))
    assert box.any().kind == HANDBACK
    assert box.progress() == 7


def test_the_progress_word_shows_the_call_that_runs(sandbox):
    box = sandbox(
        """
        import os, time
        def handler(event, context):
            print("in")
            while not os.path.exists("go"):
                time.sleep(0.001)
        """
    ).start()
    assert box.progress() == 0
    box.send(call_frame(4_294_967_295, b"1") + call_frame(1, b"1"))
    assert box.any().kind == LOG
    assert box.progress() == 4_294_967_295
    (box.directory / "go").touch()
    assert box.next().value is None


def test_what_a_call_brings_along(sandbox):
    box = sandbox(
        """
        import os
        def handler(event, context):
            client = context.client_context
            return [
                os.environ.get("_X_AMZN_TRACE_ID"), context.invoked_function_arn, context.aws_request_id,
                client and [client.custom, client.env, client.client and client.client.app_title, repr(client)],
            ]
        """
    ).start()
    own = "arn:aws:lambda:local:000000000000:function:hello"
    request_id = uuid.uuid4()
    assert box.call(request_id=request_id).value == [None, own, str(request_id), None]
    client = {"custom": {"a": 1}, "client": {"app_title": "t"}, "unknown": 1}
    shown = (
        "ClientContext([custom={'a': 1},env=None,client=Client([installation_id=None,app_title=t,app_version_name=None,"
        "app_version_code=None,app_package_name=None])])"
    )
    extensions = [(1, b"Root=1-2-3"), (2, json.dumps(client).encode()), (3, b"arn:x:7")]
    value = box.call(seq=2, extensions=extensions).value
    assert value == ["Root=1-2-3", "arn:x:7", "8476a536-e9f4-11e8-9739-2dfe598c3fcd", [{"a": 1}, None, "t", shown]]
    assert box.call(seq=3).value[:2] == [None, own]
    assert box.call(seq=4, extensions=[(3, b"arn:x:8"), (99, b"later")]).value[:2] == [None, "arn:x:8"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"[1]", "it is a list, not an object"),
        (b'{"client": 3}', "'int' object has no attribute 'get'"),
    ],
)
def test_a_broken_client_context(sandbox, text, message):
    box = sandbox(ECHO).start()
    error = box.call(extensions=[(2, text)]).error
    assert error["errorType"] == "Runtime.LambdaContextUnmarshalError"
    assert error["errorMessage"] == f"Unable to parse Client Context JSON: {message}"


def test_time_runs_from_the_call_s_own_start(sandbox):
    box = sandbox(
        """
        import time
        def handler(event, context):
            first = context.get_remaining_time_in_millis()
            time.sleep(event / 1000)
            return [first, context.get_remaining_time_in_millis()]
        """
    ).start(timeout_ms=100)
    box.send(call_frame(1, b"20") + call_frame(2, b"10") + call_frame(3, b"110"))
    for slept in (20, 10):
        first, then = box.next().value
        assert 90 <= first <= 100  # not less for the second call, although it waited behind the first
        assert then <= 100 - slept
    assert box.next().value[1] == 0


def test_messagepack_calls(sandbox):
    box = sandbox("def handler(event, context):\n    return [event, event[b'k']] if event else {1, 2}\n").start()
    box.send(call_frame(1, msgpack.packb({b"k": [1, 2.5, None, "ü", 1 << 63]}), flags=1))
    answer = box.next()
    assert (answer.kind, answer.flags) == (RESULT, 1)
    items = [1, 2.5, None, "ü", 1 << 63]
    assert msgpack.unpackb(answer.payload, strict_map_key=False) == [{b"k": items}, items]
    box.send(call_frame(2, b"\xc0", flags=1))
    assert box.next().error == {
        "errorMessage": "Unable to marshal response: Object of type set is not MessagePack serializable",
        "errorType": "Runtime.MarshalError",
        "requestId": "8476a536-e9f4-11e8-9739-2dfe598c3fcd",
        "stackTrace": [],
    }
    box.send(call_frame(3, b"\xc1", flags=1))
    error = box.next().error
    assert error["errorType"] == "Runtime.UnmarshalError"
    assert error["errorMessage"] == "Unable to unmarshal input: no MessagePack value (0xc1) at byte 0"
    assert box.call(0, seq=4).error["errorType"] == "Runtime.MarshalError"  # JSON again


def test_the_function_s_world(sandbox):
    box = sandbox(
        """
        import os, sys, time
        def handler(event, context):
            return {
                "environment": dict(os.environ), "cwd": os.getcwd(), "zone": time.tzname[0], "modules": sorted(sys.modules),
                "exit": exit.__class__.__name__, "path": sys.path,
                "isolated": sys.flags.isolated,
            }
        """
    )
    environment = ENVIRONMENT | {"TZ": "Europe/Berlin", "PYTHONPATH": "/one:/two", "ÜBER": "süß"}
    value = box.start(environment=environment).call().value
    assert value["environment"] == environment
    assert value["cwd"] == str(box.directory)
    assert value["zone"] == "CET"
    assert value["exit"] == "Quitter"
    assert value["path"][:4] == [str(box.directory), "/one", "/two", "/opt/python"]
    assert value["isolated"] == 1
    assert not {"scheduler", "bootstrap", "context", "loop"} & set(value["modules"])


def test_stop_ends_in_order(sandbox):
    box = sandbox(
        """
        import atexit, signal, sys, threading
        atexit.register(print, "atexit")
        signal.signal(signal.SIGTERM, lambda *_: print("SIGTERM"))
        threading.Thread(target=threading.Event().wait).start()
        def handler(event, context):
            return event
        """
    ).start()
    box.send(call_frame(1, b"1") + HEADER.pack(0, STOP, 0, 0, 0, 0, 0))
    assert box.next().value == 1
    with pytest.raises(EOFError):
        box.next()
    assert box.text() == "SIGTERM\natexit\n"
    assert {log.seq for log in box.logs} == {0}
    assert box.wait() == (0, "")


@pytest.mark.parametrize("when", ["before START", "idle", "mid-frame"])
def test_a_service_that_goes_away(sandbox, when):
    box = sandbox(ECHO)
    if when != "before START":
        box.start()
    if when == "mid-frame":
        box.send(call_frame(1, b"1")[:-1])
    box.channel.close()
    assert box.wait() == (0, "")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (HEADER.pack(0, RESULT, 0, 0, 1, 0, 0), "frame of kind 16 from the service, expected 2 or 3"),
        (HEADER.pack(0xFFFFFFFF, CALL, 0, 0, 1, 0, 0), "frame of 4294967319 bytes, at most 6357031 are allowed"),
        (
            BROKEN_EXTENSION,
            "extension 1: 65535 bytes, but only 1 are left",
        ),
    ],
)
def test_frames_the_service_never_sends(sandbox, frame, message):
    box = sandbox(ECHO).start()
    box.send(frame)
    with pytest.raises(EOFError, match="closed"):
        box.next()
    assert box.process.returncode == 1
    assert box.text().endswith(f"ValueError: {message}\n")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (call_frame(1, b"1"), "first frame is of kind 2, expected 1"),
        (HEADER.pack(2, 1, 0, 0, 0, 0, 0) + b"{}", "START: function_name is None, must be str"),
    ],
)
def test_a_bad_start(sandbox, frame, message):
    box = sandbox(ECHO)
    box.send(frame)
    status, output = box.wait()
    assert status == 1
    assert output.endswith(f"ValueError: {message}\n")
