"""Limits: each constant has its row, and the figures that programs written for Lambda rely on are these."""

from __future__ import annotations

import pytest

from scheduler import limits


def test_each_constant_has_one_row_and_each_row_its_constant():
    constants = {name for name, value in vars(limits).items() if name.isupper() and isinstance(value, int)} - {"KIB", "MIB"}
    assert sorted(row.name for row in limits.LIMITS) == sorted(constants)
    for row in limits.LIMITS:
        assert row.value == getattr(limits, row.name)
        assert row.source in ("lambda", "ours")
        assert row.why


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PAYLOAD_BYTES_MAX", 6_291_456),
        ("ANSWER_BYTES_MAX", 6_291_556),
        ("EVENT_BYTES_MAX", 1_048_576),
        ("CODE_ZIPPED_BYTES_MAX", 52_428_800),
        ("CODE_UNZIPPED_BYTES_MAX", 262_144_000),
        ("MEMORY_MB_MAX", 10_240),
        ("TIMEOUT_S_MAX", 900),
        ("TIMEOUT_S_DEFAULT", 3),
        ("ENVIRONMENT_BYTES_MAX", 4_096),
        ("FUNCTION_NAME_CHARS_MAX", 64),
        ("HANDLER_CHARS_MAX", 128),
        ("LOG_TAIL_BYTES_MAX", 4_096),
        ("CLIENT_CONTEXT_BYTES_MAX", 3_583),
    ],
)
def test_lambdas_figures(name, value):
    assert getattr(limits, name) == value


def test_hello_tells_limits_by_name():
    told = limits.lambda_limits()
    assert told["payload_bytes_max"] == 6_291_456
    assert len(told) == 11
    assert all(isinstance(value, int) for value in told.values())
