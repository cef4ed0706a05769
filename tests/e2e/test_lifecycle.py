"""How a sandbox ends, and what it may still do then: Lambda's SHUTDOWN phase, resets, what becomes of /tmp."""

from __future__ import annotations

import time

import pytest

from tests.e2e.serving import Served, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

GRACE_S = 0.5  # stop_grace_ms

SAYS_GOODBYE = """
import atexit, os, signal, sys
def asked(number, frame):
    print("asked to end by", number)
    sys.stderr.flush()
signal.signal(signal.SIGTERM, asked)
atexit.register(print, "at the exit")
def handler(event, context):
    return os.getpid()
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: time.sleep(60))
def handler(event, context):
    time.sleep(event)
    return 1
"""
PLAIN = "def handler(event, context):\n    return 1\n"


def log(client, name):
    return client.logs(name, limit_bytes=1 << 20).text


@pytest.mark.parametrize("how", ["a new revision", "removal"])
def test_an_idle_sandbox_that_ends_runs_its_handlers_and_they_are_logged(served, raw, how):
    name = "goodbye_" + how.rpartition(" ")[2]
    served.deploy(name, SAYS_GOODBYE)
    assert raw.invoke(name)[0] is None
    with served.client() as client:
        if how == "removal":
            client.remove(name)
            served.deploy(name, PLAIN)  # the journal is its name's
        else:
            served.deploy(name, PLAIN)
        wait_until(lambda: "at the exit" in log(client, name), 5, "its last words are logged")
        text = log(client, name)
        assert text.index("REPORT") < text.index("asked to end by 15\n") < text.index("at the exit\n")
        wait_until(lambda: [s["revision"] for s in served.sandboxes(name) if s["state"] == "dying"] == [], 5, "it is gone")


def test_after_its_time_of_idleness(tmp_path):
    with Served(tmp_path / "state", shells_ahead=1, idle_timeout_s=1) as service:
        service.deploy("idles", SAYS_GOODBYE)
        with service.raw() as raw, service.client() as client:
            assert raw.invoke("idles")[0] is None
            wait_until(lambda: service.sandboxes("idles") == [], 10, "it is reaped")
            wait_until(lambda: "at the exit" in log(client, "idles"), 2, "and said goodbye")


def test_one_that_does_not_end_is_ended_when_the_grace_is_over(served, raw):
    served.deploy("deaf", DEAF)
    assert raw.invoke("deaf", b"0")[0] is None
    (before,) = served.sandboxes("deaf")
    served.deploy("deaf", PLAIN)
    begun = time.monotonic()
    assert raw.invoke("deaf")[1][0] == b"1", "nobody waits for it"
    wait_until(lambda: before["sandbox"] not in {s["sandbox"] for s in served.sandboxes()}, 10, "it is gone")
    assert time.monotonic() - begun > GRACE_S / 2, "it was given its time"


def test_after_a_timeout_nothing_of_it_runs_any_more(served, raw):
    source = SAYS_GOODBYE.replace("return os.getpid()", "import time; time.sleep(event)")
    served.deploy("late", source, timeout_s=1)
    assert raw.invoke("late", b"30")[0]["type"] == "Timeout"
    with served.client() as client:
        wait_until(lambda: served.sandboxes("late") == [], 5, "it is reaped")
        wait_until(lambda: "Task timed out after 1.00 seconds" in log(client, "late"), 5, "it is logged")
        text = log(client, "late")
    assert "asked to end" not in text
    assert "at the exit" not in text


def test_at_the_service_s_end_sandboxes_say_goodbye_too(tmp_path):
    with Served(tmp_path / "state", shells_ahead=1) as service:
        service.deploy("leaves", SAYS_GOODBYE)
        service.deploy("deaf", DEAF)
        with service.raw() as raw:
            assert raw.invoke("leaves")[0] is None
            assert raw.invoke("deaf", b"0")[0] is None
        begun = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - begun < 10, "no longer than the grace and the rest of the end"
    with Served(tmp_path / "state", shells_ahead=1) as service, service.client() as client:
        text = log(client, "leaves")
        assert "asked to end by 15\n" in text
        assert "at the exit\n" in text
