"""The table of metrics: names as Prometheus wants them, buckets that add up, a manual that is not stale."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from scheduler.engine import histogram_bounds
from scheduler.messages import (
    NO_LIMIT,
    NO_LIMIT_64,
    AccountStats,
    FunctionStats,
    Histogram,
    LoopStats,
    Outcome,
    Resource,
    Snapshot,
    Totals,
)
from scheduler.metrics import (
    METRICS,
    PREFIX,
    AccountLabels,
    FunctionEvents,
    FunctionLabels,
    Kind,
    Octaves,
    Scrape,
    ServiceFigures,
    ShelfFigures,
    manual,
    registry,
)

ROOT = Path(__file__).resolve().parents[2]
BOUNDS = histogram_bounds()
BASE_UNITS = {"seconds", "bytes"}
OTHER_UNITS = re.compile(r"_(ms|us|ns|millis\w*|micros\w*|nanos\w*|minutes|hours|kb|mb|gb|kib|mib|percent|milliseconds)(_|$)")


def bucket_of(value_ns):
    return next(i for i, (low, high) in enumerate(BOUNDS) if low <= value_ns < high)


def histogram(values=()):
    buckets = [0] * len(BOUNDS)
    for value in values:
        buckets[bucket_of(value)] += 1
    raw = b"".join(n.to_bytes(8, "little") for n in buckets)
    return Histogram(len(values), sum(values), memoryview(raw).cast("Q"))


def function(**changes):
    values = {
        "handle": 1 << 32, "account": 2, "revision": 1, "outcomes": (0,) * 12, "throttled": (0,) * 6, "cold_starts": (0,) * 4,
        "cpu_ns": 0, "mb_ns": 0, "oldest_ns": 0, "expected_run_ns": 0, "expected_start_ns": 0, "queued": 0, "in_flight": 0,
        "executing": 0, "sandboxes": (0,) * 6, "provisioned": 0, "provisioned_allocated": 0, "provisioned_available": 0,
        "provisioned_failure": 0, "provisioned_account": 0, "provisioned_calls": 0, "spillover_calls": 0, "evicted": 0,
        "keep_ns": 0, "keep_samples": 0, "queue": histogram(), "init": histogram(), "run": histogram(),
        "overhead": histogram(), "total": histogram(),
    }  # fmt: skip
    return FunctionStats(**{**values, **changes})


def account(index, parent, **changes):
    limits = tuple(NO_LIMIT_64 if r in (Resource.QUEUED_BYTES, Resource.CPU) else NO_LIMIT for r in Resource)
    zero = (0,) * 6
    values = {"weight": 100, "current": zero, "maxima": limits, "minima": zero, "peak": zero, "refused": zero}
    return AccountStats(index=index, parent=parent, **{**values, **changes})


EVENTS = FunctionEvents(
    function="hello", tenant="default", waiting=2, waiting_bytes=40, oldest_age_s=61.5, accepted=9, duplicates=1, delivered=5,
    retried={"failed": 3}, dropped={"retries_exhausted": 1, "function_gone": 2},
)  # fmt: skip


def scrape(functions=None, accounts=None, **service):
    figures = {
        "version": "1.2.3", "isolation": "root", "ready": True, "draining": False, "start_time_s": 1.7e9, "control_lag_s": 0.0,
        "bad_tokens": 0, "faults": 0, "launcher_up": True, "launcher_restarts": 0, "launch_failures": 0,
        "sandbox_start_bounds_s": (0.001, 0.01), "sandbox_start_counts": (1, 3), "sandbox_start_count": 4,
        "sandbox_start_sum_s": 0.5, "events": (EVENTS,), "methods": {("ping", "ok"): 3},
        "shelves": (ShelfFigures(runtime="python3.12", ready=2, target=2, waiting=0, born=9, died=1, failed=0, birth_s=0.004),),
        "tls_handshakes": {"accepted": 7, "failed": 2}, "tls_under_way": 1, "tls_stalled": 3,
    }  # fmt: skip
    loop = LoopStats(**{name: i for i, name in enumerate(LoopStats.__slots__)})
    totals = Totals(**{name: i for i, name in enumerate(Totals.__slots__)})
    accounts = accounts or {0: account(0, 0xFFFF), 2: account(2, 0)}
    return Scrape(
        Snapshot(1, totals, loop, accounts, {f.handle: f for f in functions or [function()]}),
        {1 << 32: FunctionLabels("hello", "$LATEST", "default")},
        {0: AccountLabels("node", "node"), 2: AccountLabels("function:hello", "function")},
        ServiceFigures(**{**figures, **service}),
        Octaves(BOUNDS),
    )


def samples(shown):
    """(name, labels without le) -> value; histograms' buckets by le."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry(shown)).decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


def of_hello(**more):
    return tuple(sorted({"function": "hello", "version": "$LATEST", "tenant": "default", **more}.items()))


# ---- names, as `promtool check metrics` judges them ----------------------------------------------------------------------


@pytest.mark.parametrize("row", METRICS, ids=[row.name for row in METRICS])
def test_names_follow_the_conventions(row):
    name = PREFIX + row.name
    assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
    assert "__" not in name
    assert not OTHER_UNITS.search(name), "base units alone"
    assert not name.endswith(("_total", "_count", "_sum", "_bucket", "_info")), "suffixes are the exposition's"
    assert not re.search(r"_(counter|gauge|histogram|metric)(_|$)", name), "a name does not repeat the type"
    assert row.help
    assert row.help[0].isupper() or row.help[0].isdigit()
    assert not row.help.endswith(".")
    for label in row.labels:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", label)
        assert label not in ("le", "quantile", "job", "instance")
        assert row.kind is Kind.INFO or label != row.name, "a label does not repeat the metric"
    if row.kind is Kind.HISTOGRAM:
        assert name.endswith("_duration_seconds")
    if any(unit in row.help.lower().split() for unit in ("seconds", "bytes")):
        assert any(unit in name for unit in BASE_UNITS)


def test_names_are_unique_and_parse():
    names = [row.exposed for row in METRICS]
    assert len(names) == len(set(names))
    families = {family.name for family in text_string_to_metric_families(generate_latest(registry(scrape())).decode())}
    missing = [row.name for row in METRICS if PREFIX + row.name not in families and PREFIX + row.exposed not in families]
    assert not missing


def test_the_manual_is_the_table():
    assert (ROOT / "docs" / "metrics.md").read_text() == manual(), "run: python -m scheduler.metrics > docs/metrics.md"


def test_the_dashboard_asks_only_for_what_is_exported():
    dashboard = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
    known = {PREFIX + row.exposed for row in METRICS}
    known |= {
        PREFIX + row.name + suffix for row in METRICS if row.kind is Kind.HISTOGRAM for suffix in ("_bucket", "_sum", "_count")
    }
    asked = set()
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            asked |= set(re.findall(r"scheduler_[a-z0-9_]+", target["expr"]))
    assert asked - known == set()
    assert len(asked) >= 20
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


# ---- values --------------------------------------------------------------------------------------------------------------


def test_counts_are_the_snapshot_s():
    outcomes = tuple(range(100, 112))
    shown = samples(
        scrape(
            [
                function(
                    outcomes=outcomes,
                    throttled=(1, 2, 3, 4, 5, 6),
                    cpu_ns=1_500_000_000,
                    mb_ns=1024 * 10**9,
                    oldest_ns=5 * 10**8,
                )
            ]
        )
    )
    for outcome in Outcome:
        assert shown["scheduler_invocations_total", of_hello(outcome=outcome.name.lower())] == outcomes[outcome]
    assert shown["scheduler_timeouts_total", of_hello()] == outcomes[Outcome.TIMEOUT]
    assert shown["scheduler_throttles_total", of_hello(resource="rate")] == 5
    assert shown["scheduler_cpu_seconds_total", of_hello()] == 1.5
    assert shown["scheduler_memory_gigabyte_seconds_total", of_hello()] == 1.0
    assert shown["scheduler_queue_oldest_age_seconds", of_hello()] == 0.5
    assert shown["scheduler_rpc_methods_total", (("method", "ping"), ("result", "ok"))] == 3


def test_events_by_function_and_reason():
    shown = samples(scrape())
    labels = (("function", "hello"), ("tenant", "default"))
    prefix = "scheduler_async_events_"
    for name, value in (
        ("waiting", 2), ("waiting_bytes", 40), ("oldest_age_seconds", 61.5), ("accepted_total", 9), ("duplicates_total", 1),
        ("delivered_total", 5),
    ):  # fmt: skip
        assert shown[prefix + name, labels] == value, name
    for name, reason, value in (("retried", "failed", 3), ("dropped", "retries_exhausted", 1), ("dropped", "function_gone", 2)):
        assert shown[f"{prefix}{name}_total", tuple(sorted((*labels, ("reason", reason))))] == value


def test_no_limit_is_infinite():
    limits = (7, NO_LIMIT, 10, NO_LIMIT_64, NO_LIMIT, NO_LIMIT_64)
    shown = samples(scrape(accounts={0: account(0, 0xFFFF, maxima=limits, current=(3, 128, 1, 2, 0, 5 * 10**9))}))
    node = (("account", "node"), ("kind", "node"))
    assert shown["scheduler_account_concurrency_limit", node] == 7
    assert shown["scheduler_account_memory_bytes_limit", node] == float("inf")
    assert shown["scheduler_account_queued_bytes_limit", node] == float("inf")
    assert shown["scheduler_account_memory_bytes", node] == 128 * 1024 * 1024
    assert shown["scheduler_account_cpu_seconds_total", node] == 5


@given(st.lists(st.integers(0, 2**43), max_size=40))
def test_buckets_are_exact(values):
    """A bucket counts precisely the values at or below its bound: none is interpolated, none is lost."""
    cumulative = Octaves(BOUNDS).cumulative(histogram(values))
    for bound, count in cumulative:
        limit_ns = float("inf") if bound == "+Inf" else round(float(bound) * 1e9)
        assert count == sum(value <= limit_ns for value in values)
    assert cumulative[-1] == ("+Inf", len(values))
    assert sum(float(bound) < 0.001 for bound, _ in cumulative) >= 7, "resolution below a millisecond"


def test_histograms_are_cumulative_and_idle_functions_have_none():
    shown = samples(scrape([function(run=histogram([5_000, 5_000_000, 10**9]))]))
    assert shown["scheduler_run_duration_seconds_count", of_hello()] == 3
    assert shown["scheduler_run_duration_seconds_sum", of_hello()] == pytest.approx(1.005005)
    assert not [key for key in shown if key[0] == "scheduler_queue_duration_seconds_count"]


def test_labels_with_odd_characters_are_escaped():
    shown = scrape()
    shown.functions[1 << 32] = FunctionLabels('a"b\\c\nd', "$LATEST", "t")
    assert any(dict(labels).get("function") == 'a"b\\c\nd' for _, labels in samples(shown))


def test_a_function_on_its_way_out_is_left_out():
    shown = scrape([function(), function(handle=2 << 32)])
    assert {dict(labels).get("function") for name, labels in samples(shown) if name == "scheduler_queued_calls"} == {"hello"}
