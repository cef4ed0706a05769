"""SIGHUP: what the table of settings marks changes in the running service, the rest waits, rubbish changes nothing."""

from __future__ import annotations

import json
import signal

import pytest

from tests.e2e.serving import Served

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BEFORE = """
concurrency_max = 200
shells_ahead = 1
[tenants.acme]
weight = 100
"""
AFTER = """
concurrency_max = 300
memory_mb_max = 4096
queued_calls_max = 500
queued_bytes_max = 2000000
function_queued_calls_max = 70
shells_ahead = 3
queue_timeout_ms = 77
unreserved_concurrency_min = 150
calls_max = 70000
[tenants.acme]
weight = 300
concurrency_max = 9
rate_max = 50
"""


def hang_up(service, event):
    service.process.send_signal(signal.SIGHUP)
    return service.wait_line(event, 5)


def resources(service):
    return {
        account["name"]: {name: values["max"] for name, values in account["resources"].items()}
        for account in json.loads(service.get("/debug/accounts")[1])["accounts"]
    }


def test_what_may_change_changes_and_calls_go_on(tmp_path):
    settings = tmp_path / "scheduler.toml"
    settings.write_text(BEFORE)
    with Served(tmp_path / "state", config=settings) as service:
        service.deploy("f", "import time\ndef handler(event, context):\n    time.sleep(event)\n    return 1\n", tenant="acme")
        with service.raw() as raw:
            assert raw.invoke("f", b"0")[0] is None
            running = raw.send("invoke", "f", b"0.5")
            settings.write_text(AFTER)
            told = hang_up(service, "reloaded")
            assert (told["changed"], told["waiting"]) == (9, 1)
            changed = {line["setting"]: line["text"] for line in service.drain_log() if line["event"] == "setting changed"}
            assert changed.pop("calls_max") == "takes effect at the next start"
            assert set(changed.values()) == {"in force now"}
            shown = resources(service)
            assert (shown["node"]["concurrency"], shown["node"]["memory"]) == (300, 4096)
            assert (shown["node"]["queued_calls"], shown["node"]["queued_bytes"]) == (500, 2_000_000)
            assert (shown["tenant:acme"]["concurrency"], shown["tenant:acme"]["rate"]) == (9, 50)
            assert shown["function:f"]["queued_calls"] == 70
            assert 'scheduler_shells_target{runtime="' in service.get("/metrics")[1]
            assert service.deploy("g", "def handler(event, context):\n    return 1\n").queue_timeout_ms == 77
            error, _ = raw.call("functions.update", {"name": "f", "reserved_concurrency": 10})
            assert "tenant acme" in error["message"] or error["account"] == "tenant:acme", error
            assert raw.wait(running)[0] is None, "what ran goes on"

            settings.write_text(AFTER.replace("max = 300", "max = 'many'"))
            told = hang_up(service, "not reloaded")
            assert "'many' is not a whole number" in told["text"]
            settings.write_text("unreserved_concurrency_min = 100\nconcurrency_max = 99\n")
            assert "is more than concurrency_max" in hang_up(service, "not reloaded")["text"]
            settings.unlink()
            assert "cannot be read" in hang_up(service, "not reloaded")["text"]
            assert resources(service) == {**shown, "tenant:default": resources(service)["tenant:default"],
                                          "function:g": resources(service)["function:g"]}  # fmt: skip
            assert raw.invoke("f", b"0")[0] is None


def test_without_a_file_there_is_nothing_to_change(tmp_path):
    with Served(tmp_path / "state", shells_ahead=1) as service:
        told = hang_up(service, "reloaded")
        assert (told["changed"], told["waiting"]) == (0, 0)
        assert service.get("/readyz")[0] == 200
