"""What a failing handler's caller and log get."""

from __future__ import annotations

import json

import pytest

from tests.runtime.driver import call_frame

ID = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
CODE = """
import decimal, enum, os, signal, sys, threading

class Bad(Exception):
    def __str__(self):
        raise RuntimeError("no")

class Loud(dict):
    def items(self):
        raise KeyError("items")

def inner():
    raise ValueError("from inner")

def outer():
    try:
        inner()
    except ValueError as error:
        raise LookupError("wrapped") from error

def deep(n):
    return deep(n + 1)

def nested():
    value = []
    for _ in range(100_000):
        value = [value]
    return value

def circle():
    value = []
    value.append(value)
    return value

async def later():
    pass

CASES = {
    "raise": lambda: inner(),
    "chained": lambda: outer(),
    "no message": lambda: (_ for _ in ()).throw(ValueError()),
    "bad str": lambda: (_ for _ in ()).throw(Bad()),
    "surrogate": lambda: (_ for _ in ()).throw(ValueError("\\ud800ü")),
    "recursion": lambda: deep(0),
    "memory": lambda: bytearray(1 << 62),
    "stop iteration": lambda: next(iter([])),
    "group": lambda: (_ for _ in ()).throw(ExceptionGroup("many", [ValueError(1)])),
    "huge message": lambda: (_ for _ in ()).throw(ValueError("x" * 7_000_000)),
    "set": lambda: {1},
    "bytes": lambda: b"x",
    "object": lambda: object(),
    "generator": lambda: (x for x in ()),
    "bad key": lambda: {(1, 2): 3},
    "circle": circle,
    "nested": nested,
    "loud": lambda: Loud(a=1),
    "big int": lambda: 10 ** 5000,
    "decimals": lambda: [decimal.Decimal(t) for t in ("1.10", "NaN", "1E+3")],
    "lone": lambda: "\\ud800ü",
    "nan": lambda: [float("nan"), float("inf"), -float("inf"), 0.1],
    "mixed": lambda: {1: "ü", None: True, 2.5: (1, 2), "d": decimal.Decimal("0.30"), "f": float("-inf"), "l": [], "m": {}},
}

def handler(event, context):
    return CASES[event]()
"""


@pytest.fixture
def box(sandbox):
    return sandbox(CODE).start()


@pytest.mark.parametrize(
    ("case", "error_type", "message"),
    [
        ("raise", "ValueError", "from inner"),
        ("chained", "LookupError", "wrapped"),
        ("no message", "ValueError", ""),
        ("bad str", "Bad", "<exception str() failed>"),
        ("surrogate", "ValueError", "\ud800ü"),
        ("memory", "MemoryError", ""),
        ("stop iteration", "StopIteration", ""),
        ("group", "ExceptionGroup", "many (1 sub-exception)"),
        ("unknown", "KeyError", "'unknown'"),
        ("set", "Runtime.MarshalError", "Unable to marshal response: Object of type set is not JSON serializable"),
        ("bytes", "Runtime.MarshalError", "Unable to marshal response: Object of type bytes is not JSON serializable"),
        ("object", "Runtime.MarshalError", "Unable to marshal response: Object of type object is not JSON serializable"),
        ("generator", "Runtime.MarshalError", "Unable to marshal response: Object of type generator is not JSON serializable"),
        (
            "bad key",
            "Runtime.MarshalError",
            "Unable to marshal response: keys must be str, int, float, bool or None, not tuple",
        ),
        ("circle", "Runtime.MarshalError", "Unable to marshal response: Circular reference detected"),
        ("loud", "Runtime.MarshalError", "Unable to marshal response: 'items'"),
    ],
)
def test_error_objects(box, case, error_type, message):
    answer = box.call(case)
    error = answer.error
    assert list(error) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert (error["errorType"], error["errorMessage"], error["requestId"]) == (error_type, message, ID)
    if error_type.startswith("Runtime."):
        assert error["stackTrace"] == []
    else:
        assert error["stackTrace"][0].endswith("in handler\n    return CASES[event]()\n")
    first_line = box.text().split("\n")[0]
    shown = message.encode("utf-8", "backslashreplace").decode()
    assert first_line == f"[ERROR] {error_type}: {shown}" if message else f"[ERROR] {error_type}"
    assert {log.seq for log in box.logs} == {1}
    # The next call is none the worse for it.
    assert box.call("lone", seq=2).value == "\ud800ü"


@pytest.mark.parametrize("case", ["recursion", "nested", "big int", "huge message"])
def test_extremes(box, case):
    error = box.call(case).error
    expected = {
        "recursion": ("RecursionError", "maximum recursion depth exceeded"),
        "nested": ("Runtime.MarshalError", "Unable to marshal response: maximum recursion depth exceeded"),
        "big int": ("Runtime.MarshalError", "Unable to marshal response: Exceeds the limit"),
        "huge message": ("ValueError", "x" * 65_536),
    }[case]
    assert error["errorType"] == expected[0]
    assert error["errorMessage"].startswith(expected[1])
    if case == "recursion":
        assert any("Previous line repeated" in entry for entry in error["stackTrace"])
    if case == "huge message":
        assert error["errorMessage"] == expected[1]
        assert error["stackTrace"] == []
    assert box.call("lone", seq=2).value == "\ud800ü"


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("decimals", "[1.10, NaN, 1E+3]"),
        ("lone", '"\\ud800\\u00fc"'),
        ("nan", "[NaN, Infinity, -Infinity, 0.1]"),
        ("mixed", '{"1": "ü", "null": true, "2.5": [1, 2], "d": 0.30, "f": -Infinity, "l": [], "m": {}}'),
    ],
)
def test_results_that_need_the_slow_encoder(box, case, text):
    assert box.call(case).payload.decode() == text


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"nope", "Expecting value: line 1 column 1 (char 0)"),
        (b" ", "Expecting value: line 1 column 2 (char 1)"),
        (b"1 2", "Extra data: line 1 column 3 (char 2)"),
        (b'"\xff"', "'utf-8' codec can't decode byte 0xff in position 1: invalid start byte"),
        (b"[" * 100_000, "maximum recursion depth exceeded while decoding a JSON array from a unicode string"),
        (b'"\n"', "Invalid control character at: line 1 column 2 (char 1)"),
    ],
)
def test_events_that_are_no_json(box, payload, message):
    box.send(call_frame(1, payload))
    assert box.next().error == {
        "errorMessage": f"Unable to unmarshal input: {message}",
        "errorType": "Runtime.UnmarshalError",
        "requestId": ID,
        "stackTrace": [],
    }


@pytest.mark.parametrize(("payload", "event"), [(b"", {}), (b' \n{"a" : [1 , 2]}\t ', {"a": [1, 2]}), (b"NaN", None)])
def test_events_out_of_the_ordinary(sandbox, payload, event):
    box = sandbox("def handler(event, context):\n    return None if event != event else event\n").start()
    box.send(call_frame(1, payload))
    assert box.next().value == event


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("sys.exit(3)", 3, ""),
        ("sys.exit()", 0, ""),
        ("exit(4)", 4, ""),
        ("sys.exit('a reason')", 1, "a reason\n"),
        ("os._exit(5)", 5, ""),
        ("raise KeyboardInterrupt", -2, "KeyboardInterrupt\n"),
        ("raise GeneratorExit", 1, "GeneratorExit\n"),
        ("os.abort()", -6, ""),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
    ],
)
def test_handlers_that_end_the_process(sandbox, code, status, says):
    box = sandbox(
        "import os, signal, sys\ndef handler(event, context):\n    if event == 2:\n        print('going')\n        "
        + code
        + "\n"
    ).start()
    box.send(call_frame(1, b"1") + call_frame(2, b"2") + call_frame(3, b"3"))
    assert box.next().value is None  # what was answered before is not lost
    with pytest.raises(EOFError):
        box.next()
    assert box.process.returncode == status
    assert box.text().startswith("going\n")
    assert box.text().endswith(says)
    assert box.logs[0].seq == 2
    assert box.progress() == 2


def test_the_json_log_has_one_object_a_failure(sandbox):
    box = sandbox("def handler(event, context):\n    1 / 0\n")
    box.start(environment={"AWS_LAMBDA_LOG_FORMAT": "JSON", "TZ": ":UTC"})
    assert box.call().error["errorType"] == "ZeroDivisionError"
    line = json.loads(box.text())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "ERROR",
        "errorMessage": "division by zero",
        "errorType": "ZeroDivisionError",
        "requestId": ID,
        "stackTrace": [f'  File "{box.directory}/app.py", line 2, in handler\n    1 / 0\n'],
    }
