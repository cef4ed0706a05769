"""Provisioned concurrency in a whole service: sandboxes before calls, spill-over, failures that are told, limits, restarts."""

from __future__ import annotations

import json

import pytest

from scheduler.errors import BadRequest
from tests.e2e.serving import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

KIND = """
import os, time
def handler(event, context):
    time.sleep(event)
    return os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]
"""


def state(served, name: str) -> list[tuple[str, int, int, str]]:
    with served.client() as client:
        shown = client.concurrency(name)
    return [(c["qualifier"], c["requested"], c["available"], c["status"]) for c in shown["provisioned"]]


def test_sandboxes_are_there_before_the_first_call_and_further_calls_spill_over(served, raw) -> None:
    served.deploy("ahead", KIND, queue_timeout_ms=10_000)
    with served.client() as client:
        shown = client.provision("ahead", 2)
        assert (shown["provisioned"][0]["requested"], shown["reserved"]) == (2, None)
    wait_until(lambda: state(served, "ahead") == [("$LATEST", 2, 2, "READY")], 10, "both are ready")
    sent = [raw.send("invoke", "ahead", b"0.3") for _ in range(3)]
    kinds = [json.loads(raw.wait(number)[1][0]) for number in sent]
    assert sorted(kinds) == ["on-demand", "provisioned-concurrency", "provisioned-concurrency"]
    _, text = served.get("/metrics")
    label = '{function="ahead",tenant="default",version="$LATEST"}'
    for name, value in (("requested", 2), ("invocations_total", 2), ("spillover_invocations_total", 1)):
        assert f"scheduler_provisioned_concurrency_{name}{label} {value}.0" in text
    with served.client() as client:
        account = next(a for a in client.accounts() if a.name == "function:ahead")
        assert account.resources["concurrency"].min == 2, "taken out of what others may use"
        client.provision("ahead", None)
        assert client.concurrency("ahead")["provisioned"] == []


def test_a_function_whose_init_fails_says_so_and_recovers_when_it_is_mended(served) -> None:
    served.deploy("broken", "raise RuntimeError('no')\n")
    with served.client() as client:
        client.provision("broken", 1)
        wait_until(lambda: client.concurrency("broken")["provisioned"][0]["status"] == "FAILED", 10, "it is told")
        assert "init fails" in client.concurrency("broken")["provisioned"][0]["reason"]
        served.deploy("broken", KIND)
        wait_until(lambda: state(served, "broken") == [("$LATEST", 1, 1, "READY")], 15, "the mended one is ready")
        client.provision("broken", None)


def test_a_published_version_has_its_own_and_limits_are_told(served) -> None:
    served.deploy("limited", KIND, reserved_concurrency=2, publish=True)
    with served.client() as client:
        client.provision("limited:1", 1)
        wait_until(lambda: state(served, "limited") == [("1", 1, 1, "READY")], 10, "it is ready")
        with pytest.raises(BadRequest, match="should not be greater than the reservedConcurrentExecution"):
            client.provision("limited", 2)
        with pytest.raises(BadRequest, match=r"total provisioned concurrency \[1\]"):
            client.update("limited", reserved_concurrency=0)
        with pytest.raises(BadRequest, match=r"windows\[0\].cron"):
            client.provision("limited:1", 1, windows=[{"cron": "never", "minutes": 5, "count": 1}])
        client.provision("limited:1", None)
