"""Errors: the protocol's table, there and back, and lines that are safe to print."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler import errors

FAILED = {"FunctionError", "Timeout", "SandboxDied", "InitFailed"}
TYPES = FAILED | {
    "Throttled",
    "DeadlineExceeded",
    "NotFound",
    "TooLarge",
    "RecursiveInvocation",
    "BadRequest",
    "Unauthorized",
    "Unavailable",
    "Internal",
    "Cancelled",
}
FULL = {
    "request_id": "8f507cfc",
    "payload": b'{"errorType":"ValueError","errorMessage":"no"}',
    "account": "tenant:acme",
    "resource": "concurrency",
    "current": 10,
    "limit": 10,
    "retry_after_ms": 0,
    "report": {"run_us": 3},
    "reason": "oom",
}


def test_every_row_of_the_protocol_has_its_class():
    assert set(errors.BY_TYPE) == TYPES
    assert all(cls.__name__ == name and cls.type == name for name, cls in errors.BY_TYPE.items())


@pytest.mark.parametrize("name", sorted(TYPES))
def test_there_and_back(name):
    error = errors.BY_TYPE[name]("why", **FULL)
    back = errors.from_wire(error.to_wire())
    assert type(back) is type(error)
    assert back.to_wire() == error.to_wire() == {"type": name, "message": "why", **FULL}
    assert pickle.loads(pickle.dumps(error)).to_wire() == error.to_wire()


@pytest.mark.parametrize("name", sorted(TYPES))
def test_absent_fields_are_left_out_and_every_error_says_something(name):
    wire = errors.BY_TYPE[name]().to_wire()
    assert set(wire) == {"type", "message"}
    assert wire["message"]


@pytest.mark.parametrize("name", sorted(TYPES))
def test_exit_codes(name):
    assert errors.BY_TYPE[name].exit_code == (1 if name in FAILED else 3)


def test_fields_of_a_subclass_travel_as_the_base_type():
    class Finer(errors.BadRequest):
        pass

    assert Finer("x").to_wire()["type"] == "BadRequest"
    assert type(errors.from_wire(Finer("x").to_wire())) is errors.BadRequest


def test_an_unknown_type_keeps_its_name():
    error = errors.from_wire({"type": "Novel", "message": "m"})
    assert type(error) is errors.SchedulerError
    assert (error.type, str(error), error.exit_code) == ("Novel", "Novel: m", 3)
    assert errors.SchedulerError.type == "Internal", "the class must not have changed with the instance"


def test_a_throttle_names_who_what_and_when():
    named = {"account": "tenant:acme", "resource": "rate", "current": 7, "limit": 5, "retry_after_ms": 12}
    for error in (errors.Throttled(**named), errors.Throttled("too much", **named)):
        line = str(error)
        for part in ("Throttled: ", "tenant:acme", "rate", "7 of 5", "12 ms"):
            assert part in line
        assert line.count("tenant:acme") == 1


def test_a_throttle_says_each_thing_once():
    sentence = "function:hello: concurrency at its limit, 0 of 0; retry after 12 ms"
    told = errors.Throttled(sentence, account="function:hello", resource="concurrency", current=0, limit=0, retry_after_ms=12)
    assert str(told) == f"Throttled: {sentence}"
    other = errors.Throttled("10 of 10 cpus", account="node", resource="cpu", current=0, limit=1, retry_after_ms=2)
    assert str(other) == "Throttled: 10 of 10 cpus [account node, resource cpu, 0 of 1 in use, retry after 2 ms]"


def test_a_function_error_is_told_by_lambdas_object():
    assert str(errors.FunctionError(payload=FULL["payload"])) == "FunctionError: ValueError: no"
    assert str(errors.InitFailed(payload={"errorMessage": "x"})) == "InitFailed: x"
    assert errors.FunctionError(payload=b"[1]").error_object is None
    assert errors.FunctionError(payload=b"\xff").error_object is None
    assert errors.FunctionError(payload=b"[" * 100_000).error_object is None


def test_a_line_is_one_printable_line():
    line = str(errors.FunctionError("a\nb\x1b[31m\u202e\u2028\x00" + "x" * 5000, request_id="r"))
    assert line.isprintable()
    assert len(line) < 1100
    assert "\n" not in line


wire_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(["type", "message", *(field.name for field in errors.FIELDS)]) | st.text(max_size=5)


@settings(max_examples=60, deadline=None)
@given(wire_values | st.dictionaries(keys, wire_values, max_size=11))
def test_from_wire_takes_anything(value):
    error = errors.from_wire(value)
    assert isinstance(error, errors.SchedulerError)
    assert str(error).isprintable()
    for field in errors.FIELDS:
        held = getattr(error, field.name)
        assert held is None or isinstance(held, field.kinds)
