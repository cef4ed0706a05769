"""START for programs, as bytes: what is refused and how, and that a mark can stand in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.sandboxes import execstart
from scheduler.sandboxes.execstart import encode_start, extension_variables

HEADER = Path(__file__).resolve().parents[2] / "native" / "launcher" / "execstart.h"
LEAST: dict[str, Any] = {"argv": ("/p",), "cwd": "/", "environment": {}}


def test_the_limits_are_those_of_c() -> None:
    numbers = dict(re.findall(r"EXECSTART_(\w+) = ([0-9a-fx <]+)", HEADER.read_text()))
    ours = {"PROGRAMS_MAX", "ARGUMENTS_MAX", "VARIABLES_MAX", "EXTENSIONS_MAX", "MAGIC", "VERSION", "AFRESH"}
    assert {name: eval(numbers[name]) for name in ours} == {name: getattr(execstart, name) for name in ours}
    assert eval(numbers["BYTES_MAX"]) == execstart.START_BYTES_MAX


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"argv": ()}, r"argv has 0 programs, must be 1 to 4"),
        ({"argv": ("p",)}, r"argv is 'p', must be an absolute path"),
        ({"or_else": ("/a", "/b", "/c", "/d")}, r"argv has 5 programs, must be 1 to 4"),
        ({"argv": ("/p", *["x"] * 65)}, r"argv has 65 arguments, the limit is 64"),
        ({"argv": ("/p", "a\0b")}, r"argv has b'a\\x00b', which holds a NUL byte"),
        ({"cwd": "task"}, r"cwd is 'task', must be an absolute path"),
        ({"wrapper": ""}, r"wrapper is '', must be"),
        ({"extensions": ["/x"] * 11}, r"extensions has 11 programs, must be 0 to 10"),
        ({"environment": {"": "x"}}, r"environment has a variable called '', which is no name"),
        ({"environment": {"A=B": "x"}}, r"environment has a variable called 'A=B', which is no name"),
        ({"environment": {f"V{i}": "" for i in range(1025)}}, r"environment has 1025 variables, the limit is 1024"),
        ({"extensions": ["/x"], "extension_environment": {"A": "\0"}}, r"extension_environment: variable 'A' holds a NUL byte"),
        ({"environment": {"A": "x" * 140_000}}, r"are 1400\d\d bytes, the limit is 131072"),
    ],
)
def test_what_cannot_be_said_names_field_value_and_limit(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        encode_start(**{**LEAST, **changes})


def test_no_value_of_a_variable_is_in_an_error() -> None:
    with pytest.raises(ValueError, match="holds a NUL byte") as caught:
        encode_start(**{**LEAST, "environment": {"TOKEN": "geheim\0"}})
    assert "geheim" not in str(caught.value)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_mark_may_be_replaced_by_what_has_another_length(stream: str) -> None:
    mark = "0123456789abcdef"
    variables = {"A": "b", "AWS_LAMBDA_LOG_STREAM_NAME": mark, "Z": mark}
    start = encode_start(**{**LEAST, "environment": variables})
    wanted = encode_start(**{**LEAST, "environment": {k: v.replace(mark, stream) for k, v in variables.items()}})
    assert start.replace(mark.encode(), stream.encode()) == wanted


def test_extensions_are_not_told_what_is_the_runtimes() -> None:
    shut = ["AWS_EXECUTION_ENV", "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME", "LAMBDA_RUNTIME_DIR"]
    shut += ["LAMBDA_TASK_ROOT", "_HANDLER", "_X", "AWS_XRAY_CONTEXT_MISSING", "AWS_XRAY_DAEMON_ADDRESS"]
    told = {"AWS_LAMBDA_FUNCTION_NAME": "f", "AWS_LAMBDA_RUNTIME_API": "127.0.0.1:9001", "AWS_REGION": "local", "OWN": "x"}
    assert extension_variables({**dict.fromkeys(shut, ""), **told}) == told
    changes = {"environment": {"_HANDLER": "x.y", **told}, "extensions": ["/x"]}
    start = encode_start(**{**LEAST, **changes})
    assert (start.count(b"_HANDLER=x.y\0"), start.count(b"OWN=x\0")) == (1, 2)
