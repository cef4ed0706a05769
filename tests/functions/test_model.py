"""Configuration: Lambda's bounds and words, all problems at once, secrets nowhere."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler import limits
from scheduler.functions import model
from scheduler.functions.model import CodeKind, CodeRef, FunctionVersion, InvalidConfig, build, describe
from scheduler.functions.names import LATEST, Identity

RUNTIMES = ("python3.12", "python3.11")
LEAST = {"name": "hello", "handler": "app.handler"}


def refused(given_fields, **more) -> dict[str, str]:
    with pytest.raises(InvalidConfig) as caught:
        build(given_fields, runtimes=RUNTIMES, **more)
    assert str(caught.value).isprintable()
    return {problem.field: str(problem) for problem in caught.value.problems}


def test_defaults_are_lambdas():
    config = build(LEAST, runtimes=RUNTIMES)
    assert (config.memory_mb, config.timeout_s, config.ephemeral_storage_mb, config.runtime) == (128, 3, 512, "python3.12")
    assert (config.tenant, config.weight, config.reserved_concurrency, dict(config.environment)) == ("default", 100, None, {})


@pytest.mark.parametrize(
    ("field", "low", "high"),
    [
        ("memory_mb", 128, 10_240),
        ("timeout_s", 1, 900),
        ("ephemeral_storage_mb", 512, 10_240),
        ("weight", 1, 10_000),
        ("queue_timeout_ms", 0, 900_000),
    ],
)
def test_bounds(field, low, high):
    for value in (low, high):
        assert getattr(build({**LEAST, field: value}, runtimes=RUNTIMES), field) == value
    template = f"Value '{{}}' at '{field}' failed to satisfy constraint: Member must have value {{}} than or equal to {{}}"
    assert refused({**LEAST, field: low - 1})[field] == template.format(low - 1, "greater", low)
    assert refused({**LEAST, field: high + 1})[field] == template.format(high + 1, "less", high)
    for value in ("128", 1.0, True, None, [low]):
        assert "Member must be a whole number" in refused({**LEAST, field: value})[field]


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("name", "a" * 65, "Member must have length less than or equal to 64"),
        ("name", "", "Member must have length greater than or equal to 1"),
        ("name", "a b", "Member must satisfy regular expression pattern: [a-zA-Z0-9-_]+"),
        ("name", 3, "Member must be text"),
        ("handler", "h" * 129, "Member must have length less than or equal to 128"),
        ("handler", "app handler", r"Member must satisfy regular expression pattern: [^\s]+"),
        ("handler", None, "Member must be text"),
        ("runtime", "python2.7", "Member must satisfy enum value set: [python3.12, python3.11]"),
        ("description", "d" * 257, "Member must have length less than or equal to 256"),
        ("description", "a\0b", "Member must be valid Unicode without NUL"),
        ("description", "\ud800", "Member must be valid Unicode without NUL"),
        ("tenant", "a.b", "Member must satisfy regular expression pattern"),
        ("reserved_concurrency", -1, "Member must have value greater than or equal to 0"),
        ("memory", 128, "no such key; known are name, handler, runtime"),
    ],
)
def test_refused(field, value, sentence):
    assert sentence in refused({**LEAST, field: value})[field]


def test_all_problems_at_once():
    found = refused({"name": "a b", "memory_mb": 1, "timeout_s": 0, "environment": {"A": "1"}, "extra": 1})
    assert set(found) == {"name", "memory_mb", "timeout_s", "environment", "extra", "handler"}
    with pytest.raises(
        InvalidConfig, match=r"^BadRequest: 2 validation errors detected: Value '1' at 'memory_mb' .*; Value '0' at 'timeout_s'"
    ):
        build({**LEAST, "memory_mb": 1, "timeout_s": 0}, runtimes=RUNTIMES)


@pytest.mark.parametrize("key", sorted(model.RESERVED_ENVIRONMENT))
def test_reserved_names_are_refused(key):
    sentence = refused({**LEAST, "environment": {key: "s3cret", "OK": "x"}})["environment"]
    assert sentence.endswith(f"Reserved keys used in this request: {key}")


@pytest.mark.parametrize(
    "environment",
    [
        {"A": "x"},
        {"1A": "x"},
        {"A-B": "x"},
        {"": "x"},
        {"ÄB": "x"},
        {"AB\n": "x"},
        {"AB": 1},
        {1: "x"},
        {"AB": "a\0"},
        {"AB": "\udc80"},
        [],
        "x",
    ],
)
def test_environment_grammar(environment):
    assert "environment" in refused({**LEAST, "environment": environment})


def test_environment_is_measured_on_its_json_text():
    room = limits.ENVIRONMENT_BYTES_MAX - len('{"KEY":""}')
    for text in ("x" * room, "é" * (room // 2), '"' * (room // 2)):
        config = build({**LEAST, "environment": {"KEY": text}}, runtimes=RUNTIMES)
        assert model.environment_bytes(config.environment) == 4096
        sentence = refused({**LEAST, "environment": {"KEY": text + "x"}})["environment"]
        assert "exceeded the 4KB limit. Measured: 4097 bytes" in sentence


def test_values_of_variables_are_told_nowhere():
    secret = "hunter2" * 700
    assert "hunter2" not in str(refused({**LEAST, "environment": {"KEY": secret}}))
    config = build({**LEAST, "environment": {"KEY": "hunter2"}}, runtimes=RUNTIMES)
    assert "hunter2" not in repr(config)


def test_a_change_keeps_the_rest_and_replaces_the_environment_whole():
    base = build(
        {**LEAST, "environment": {"AA": "1", "BB": "2"}, "memory_mb": 256, "reserved_concurrency": 5}, runtimes=RUNTIMES
    )
    changed = build({"timeout_s": 9, "environment": {"CC": "3"}}, runtimes=RUNTIMES, base=base)
    assert changed == dataclasses.replace(base, timeout_s=9, environment={"CC": "3"})
    assert build({"reserved_concurrency": None}, runtimes=RUNTIMES, base=base).reserved_concurrency is None
    assert build({}, runtimes=RUNTIMES, base=base) == base


def test_a_function_keeps_its_name():
    base = build(LEAST, runtimes=RUNTIMES)
    assert "Member must be hello" in refused({"name": "other"}, base=base)["name"]


def test_a_runtime_that_went_away_does_not_block_other_changes():
    base = build({**LEAST, "runtime": "python3.11"}, runtimes=RUNTIMES)
    assert build({"memory_mb": 512}, runtimes=("python3.13",), base=base).runtime == "python3.11"


def test_no_runtime_at_all():
    with pytest.raises(InvalidConfig, match="'runtime' failed to satisfy constraint: Member must not be null"):
        build(LEAST, runtimes=())


def test_a_config_does_not_change_through_the_map_it_was_made_of():
    environment = {"AA": "1"}
    config = build({**LEAST, "environment": environment}, runtimes=RUNTIMES)
    environment["AA"] = "2"
    assert config.environment["AA"] == "1"
    with pytest.raises(TypeError):
        config.environment["AA"] = "3"  # type: ignore[index]
    assert hash(config) == hash(dataclasses.replace(config))


def test_description_has_the_keys_of_the_manual():
    config = build({**LEAST, "environment": {"AA": "1"}}, runtimes=RUNTIMES)
    code = CodeRef("ab" * 32, 10, CodeKind.ZIP, "ab" * 32)
    version = FunctionVersion(
        config=config, version=LATEST, revision=3, revision_id="r", code=code, last_modified=model.timestamp(0)
    )
    told = describe(version, ["1", "2"], Identity())
    assert told["arn"] == "arn:aws:lambda:local:000000000000:function:hello"
    assert told["last_modified"] == "1970-01-01T00:00:00.000+00:00"
    assert (told["code_sha256"], told["code_size"], told["state"], told["versions"]) == ("ab" * 32, 10, "Active", ["1", "2"])
    assert set(told) == {
        "name",
        "arn",
        "tenant",
        "version",
        "versions",
        "revision",
        "revision_id",
        "runtime",
        "handler",
        "description",
        "memory_mb",
        "timeout_s",
        "ephemeral_storage_mb",
        "environment",
        "reserved_concurrency",
        "weight",
        "queue_timeout_ms",
        "network",
        "snapshot",
        "freeze",
        "runtime_client",
        "log_format",
        "application_log_level",
        "system_log_level",
        "log_group",
        "kms_key_arn",
        "secrets",
        "keys",
        "environment_error",
        "tracing",
        "recursive_loop",
        "snap_start",
        "tenancy",
        "dead_letter_arn",
        "code_sha256",
        "code_size",
        "last_modified",
        "state",
        "state_reason",
    }
    json.dumps(told)
    seventh = dataclasses.replace(version, version="7")
    assert describe(seventh, [], Identity())["arn"].endswith(":hello:7")
    assert (version.display_name, seventh.display_name) == ("hello", "hello:7")


values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=300)
    | st.dictionaries(st.text(max_size=9), st.text(max_size=9))
)
fields = st.dictionaries(st.sampled_from([f.name for f in model.FIELDS]) | st.text(max_size=8), values, max_size=8)


@settings(max_examples=60, deadline=None)
@given(fields)
def test_anything_gives_a_config_within_bounds_or_a_list_of_problems(given_fields):
    try:
        config = build(given_fields, runtimes=RUNTIMES)
    except InvalidConfig as error:
        problems = error.problems
    else:
        assert 128 <= config.memory_mb <= 10_240
        assert model.environment_bytes(config.environment) <= 4096
        assert build({}, runtimes=RUNTIMES, base=config) == config
        return
    assert problems
