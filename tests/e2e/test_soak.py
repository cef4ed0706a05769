"""A mixed load for some seconds; afterwards the books balance and the service owns what it owned before. Longer by hand:
python -m tests.e2e.soak SECONDS."""

from __future__ import annotations

import json

import pytest
import trio

from tests.e2e import soak
from tests.e2e.serving import CannotServe, descendants, wait_until
from tests.sandboxes.driver import groups_left, ours

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

WARM_S = 3.0
SOAK_S = 8.0
RSS_GROWTH_MB_MAX = 8.0
SERVICE_OWN_CONNECTIONS = 1


@pytest.fixture
def served(tmp_path):
    service = soak.serve(tmp_path / "state")
    try:
        service.start()
    except CannotServe as error:
        if "isolat" in str(error) or "namespace" in str(error):
            pytest.skip(f"this machine cannot isolate: {error}")
        raise
    yield service
    if service.process.poll() is None:
        assert service.stop() == 0


def stats(served):
    return json.loads(served.get("/debug/stats")[1])


def metric(served, line):
    """Of a metric without labels, or with exactly these."""
    return next(float(x.rpartition(" ")[2]) for x in served.get("/metrics")[1].splitlines() if x.rpartition(" ")[0] == line)


def settle(served):
    """Until nothing runs and all shells that are wanted wait."""
    try:
        wait_until(lambda: served.sandboxes() == [], 20, "every sandbox is reaped")
    except AssertionError as error:
        error.add_note(soak.what_stayed(served))
        raise
    runtime = f'{{runtime="{soak.RUNTIME}"}}'
    wait_until(lambda: metric(served, f"scheduler_shells_ready{runtime}") == soak.SHELLS, 10, "the shells are there")
    wait_until(lambda: soak.volumes(served) in (0, soak.VOLUMES), 10, "as many /tmp are ready as will be kept")
    wait_until(lambda: stats(served)["loop"]["connections"] == SERVICE_OWN_CONNECTIONS, 5, "every connection is gone")


def test_books_balance_and_nothing_is_left(served):
    """First a short load to make what is made once (threads, buffers, journals), then the load that may leave nothing."""
    soak.deploy(served)
    first = soak.Soak(served, seed=1)
    trio.run(first.run, WARM_S)
    soak.remove_all(served)
    settle(served)
    before = soak.belongings(served)

    soak.deploy(served)
    load = soak.Soak(served, seed=2)
    trio.run(load.run, SOAK_S)
    books = load.books
    assert first.books.wrong + books.wrong == []
    for function, outcome in (
        ("fast", "ok"), ("slow", "ok"), ("failing", "FunctionError"), ("exiting", "SandboxDied"), ("exiting", "ok"),
        ("printing", "ok"), ("broken", "InitFailed"), ("brief", "ok"), ("event", "ok"),
    ):  # fmt: skip
        assert books.outcomes[function, outcome] > 0, (function, outcome)
    assert min(books.deploys, books.cancels, books.connections, books.scrapes) > 0

    # Each event is delivered once; those of `failing` there are none.
    labels = '{function="fast",tenant="default"}'
    wait_until(lambda: metric(served, f"scheduler_async_events_waiting{labels}") == 0, 10, "every event is through")
    assert metric(served, f"scheduler_async_events_delivered_total{labels}") == books.events
    assert metric(served, f"scheduler_async_events_accepted_total{labels}") == books.events

    soak.remove_all(served)
    settle(served)
    shown = stats(served)
    totals, loop = shown["totals"], shown["loop"]
    assert totals["invokes"] == totals["answers"], "every call was answered once"
    assert (totals["calls"], totals["sandboxes"], totals["functions"], totals["bad_replies"]) == (0, 0, 0, 0)
    assert (loop["payload_bytes"], loop["events_waiting"], loop["connections_paused"]) == (0, 0, 0)
    assert (loop["sandbox_protocol_errors"], loop["rpc_errors"]) == (0, 0)
    (node,) = json.loads(served.get("/debug/accounts")[1])["accounts"]
    assert node["name"] == "node", "accounts of removed functions and tenants are gone"
    charged = {name: values["current"] for name, values in node["resources"].items() if name not in ("cpu", "rate")}
    assert set(charged.values()) == {0}, charged

    after = soak.belongings(served)
    assert after.descriptors == before.descriptors
    assert after.processes == before.processes
    assert after.children_descriptors == before.children_descriptors
    assert after.rss_mb - before.rss_mb < RSS_GROWTH_MB_MAX
    assert [line for line in served.drain_log() if line.get("level") == "error"] == []
    for pid in descendants(served.process.pid):
        ours(pid)
    assert served.stop() == 0
    assert groups_left() == []
