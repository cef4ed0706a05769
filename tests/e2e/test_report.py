"""Nothing hidden: the parts of a call's report are its time in the service, as a client with a clock of its own sees it."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.e2e

TRIES = 10
PARTS = ("queue_us", "init_us", "run_us", "overhead_us")


def total(report):
    return sum(report.get(part, 0.0) for part in PARTS)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.one_of(st.integers(0, 2000), st.sampled_from([100_000, 1_000_000, 6_000_000])),
    as_value=st.booleans(),
    tail=st.booleans(),
)
def test_the_parts_sum_to_the_whole(served, raw, size, as_value, tail):
    text = "x" * size
    payload = text if as_value else b'"' + text.encode() + b'"'
    begun = time.monotonic_ns()
    error, result = raw.invoke("echo", payload if not as_value else [payload], report=True, log_tail=tail)
    wall_us = (time.monotonic_ns() - begun) / 1000
    assert error is None
    report = result[1]
    assert total(report) == pytest.approx(report["total_us"], rel=0.01)
    assert total(report) <= wall_us, "the service cannot have had it longer than the caller waited"
    assert all(report.get(part, 0.0) >= 0 for part in PARTS)
    stages = report["stages"]
    assert stages["accept_us"] + stages["return_us"] == pytest.approx(report["overhead_us"], abs=0.01)
    assert stages["wait_us"] + stages["channel_us"] == pytest.approx(report["queue_us"] + report.get("init_us", 0), abs=0.01)


@pytest.mark.slow
def test_the_whole_is_the_callers_wall_time(served, raw):
    """With a handler of 400 ms the client's own part is far below 1 %: warm, cold and queued calls alike. It also holds the
    time for which this process waited for a processor, so a few are made: no report may say more, the closest has to say all.
    """
    source = "import time\ndef handler(event, context):\n    time.sleep(event)\n    return 1\n"
    missing = {}
    for n in range(TRIES):
        for kind, part in parts_missing(served, raw, f"paced-{n}", source):
            assert part >= 0, kind
            missing[kind] = min(part, missing.get(kind, 1.0))
        if max(missing.values()) < 0.01:
            return
    pytest.fail(f"missing of the caller's wall time, {TRIES} times at least: {missing}")


def parts_missing(served, raw, name, source):
    """Of the caller's wall time, which part the report does not speak of."""
    served.deploy(name, source, reserved_concurrency=1, queue_timeout_ms=60_000)
    walls = []
    begun = time.monotonic_ns()
    error, result = raw.invoke(name, b"0.4", report=True)
    walls.append(((time.monotonic_ns() - begun) / 1000, result[1], "cold"))
    assert result[1]["cold"] == "shell"
    first = raw.send("invoke", name, b"0.4", {"report": True})
    begun = time.monotonic_ns()
    second = raw.send("invoke", name, b"0.1", {"report": True})
    raw.wait(first)
    error, result = raw.wait(second)
    walls.append(((time.monotonic_ns() - begun) / 1000, result[1], "queued"))
    assert error is None
    assert result[1]["queue_us"] > 390_000
    with served.client() as client:
        client.remove(name)
    return [(kind, 1 - total(report) / wall_us) for wall_us, report, kind in walls]


def test_errors_have_a_report_too(served, raw):
    served.deploy("fails", "def handler(event, context):\n    raise KeyError('k')\n")
    error, _ = raw.invoke("fails", b"{}", report=True)
    assert total(error["report"]) == pytest.approx(error["report"]["total_us"], rel=0.01)


def test_log_tail_ends_with_the_report_line(served, raw):
    served.deploy("tells", "def handler(event, context):\n    print('z' * event)\n    return 1\n")
    error, result = raw.invoke("tells", b"10", log_tail=True)
    assert error is None
    tail = result[1]["log_tail"].decode()
    assert "zzzzzzzzzz\n" in tail
    assert tail.splitlines()[-1].startswith("REPORT RequestId: ")
    _, result = raw.invoke("tells", b"100000", log_tail=True)
    assert len(result[1]["log_tail"]) <= 4096
