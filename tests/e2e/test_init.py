"""Init as Lambda has it: its limit, one more attempt within the call's own time, and what the log says of it."""

from __future__ import annotations

import json
import re

import pytest

from tests.e2e.serving import CannotServe, Served, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

LIMIT_MS = 400
SLOW = "import time\ntime.sleep({s})\ndef handler(event, context):\n    time.sleep(event)\n    return 'ran'\n"


@pytest.fixture(scope="module")
def limited(place):
    service = Served(place / "init", shells_ahead=2, init_timeout_ms=LIMIT_MS)
    try:
        service.start()
    except CannotServe as error:
        pytest.skip(f"this machine cannot isolate: {error}")
    yield service
    assert service.stop() == 0


def reports(service, name, count):
    """INIT_REPORT lines: (phase, status, error type)."""
    pattern = re.compile(
        r"^INIT_REPORT Init Duration: [0-9.]+ ms\tPhase: (\w+)\tStatus: (\w+)(?:\tError Type: ([\w.]+))?$", re.MULTILINE
    )
    with service.client() as client:
        wait_until(lambda: len(pattern.findall(client.logs(name).text)) >= count, 5, "it is logged")
        return pattern.findall(client.logs(name).text)


def test_an_init_over_the_limit_may_take_the_call_s_own_time(limited):
    limited.deploy("slow_init", SLOW.format(s=1), timeout_s=4, queue_timeout_ms=100)
    with limited.raw() as raw:
        error, (payload, report) = raw.invoke("slow_init", b"0", report=True)
        assert (error, json.loads(payload)) == (None, "ran")
        assert report["run_us"] > 1_000_000, "its init is within its duration"
        assert reports(limited, "slow_init", 1) == [("init", "timeout", "")]
        error, (payload, report) = raw.invoke("slow_init", b"0", report=True)
        assert report["run_us"] < 900_000, "the next call is an ordinary one"


def test_init_and_run_together_have_the_call_s_timeout(limited):
    limited.deploy("both", SLOW.format(s=0.9), timeout_s=2)
    with limited.raw() as raw:
        error, _ = raw.invoke("both", b"1.5")
        assert (error["type"], "Task timed out after 2.00 seconds" in error["message"]) == ("Timeout", True)


def test_an_init_that_never_ends_times_the_call_out(limited):
    limited.deploy("endless", SLOW.format(s=60), timeout_s=1)
    with limited.raw() as raw:
        error, _ = raw.invoke("endless", b"0")
        assert (error["type"], "Task timed out after 1.00 seconds" in error["message"]) == ("Timeout", True)
        assert json.loads(error["payload"])["errorType"] == "Sandbox.Timedout"
        assert reports(limited, "endless", 2) == [("init", "timeout", ""), ("invoke", "timeout", "")]
        error, _ = raw.invoke("endless", b"0")
        assert error["type"] == "Timeout"
        assert reports(limited, "endless", 3)[2] == ("invoke", "timeout", ""), "one attempt a call from now on"


def test_a_failing_init_is_tried_once_more_and_then_told(limited):
    limited.deploy("fails", "import os\nprint('loading')\nraise KeyError('no')\n")
    with limited.raw() as raw, limited.client() as client:
        error, _ = raw.invoke("fails")
        assert error["type"] == "InitFailed"
        assert json.loads(error["payload"])["errorType"] == "KeyError"
        assert reports(limited, "fails", 2) == [("init", "error", "KeyError"), ("invoke", "error", "KeyError")]
        assert client.logs("fails").text.count("loading") == 2
    limited.deploy("leaves", "import os\nos._exit(7)\n")
    with limited.raw() as raw:
        error, _ = raw.invoke("leaves")
        assert (error["type"], "7" in error["message"]) == ("InitFailed", True)
        assert reports(limited, "leaves", 2) == [
            ("init", "error", "Runtime.ExitError"),
            ("invoke", "error", "Runtime.ExitError"),
        ]
