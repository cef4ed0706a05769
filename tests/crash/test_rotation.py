"""kill -9 of a service that turns its keys over while it is called: no environment is lost, the next start does the rest."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time

import pytest

from scheduler.client import BlockingClient
from scheduler.errors import SchedulerError
from scheduler.functions.records import wrapped_key
from tests.e2e.load import Callers
from tests.e2e.serving import RUNTIME, CannotServe, Served, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SOURCE = "import os\ndef handler(event, context):\n    return os.environ['VALUE']\n"
FUNCTIONS = 24
ROUNDS = 4


def wrapping(state_dir) -> list[str]:
    """The key that wraps each environment's data key, as the store has it now."""
    with contextlib.closing(sqlite3.connect(state_dir / "store" / "scheduler.db", timeout=10)) as store:
        rows = store.execute("SELECT value FROM kv WHERE key >= 'fn.' AND key < 'fo'").fetchall()
    return [held[1].split(".")[1] for (value,) in rows if (held := wrapped_key(value)) is not None]


def rotate(socket):
    # The service is killed under it: whatever comes of that.
    with contextlib.suppress(SchedulerError, TimeoutError, OSError), BlockingClient(socket) as client:
        client.call("keys.rotate", [], timeout_s=30)


def test_a_rotation_under_load_with_kill_9_in_between(tmp_path):
    served = Served(tmp_path / "state")
    try:
        served.start()
    except CannotServe as error:
        if "isolat" in str(error) or "namespace" in str(error):
            pytest.skip(f"this machine cannot isolate: {error}")
        raise
    names = [f"f{number}" for number in range(FUNCTIONS)]
    for name in names:
        served.deploy(name, SOURCE, environment={"VALUE": f"of {name}"}, runtime=RUNTIME)
    caught = 0
    for _ in range(ROUNDS):
        before = set(wrapping(served.state_dir))
        with Callers(served.socket, names[0], count=1) as callers:
            wait_until(lambda callers=callers: len(callers.answers) > 5, 10, "calls run")
            thread = threading.Thread(target=rotate, args=(served.socket,))
            thread.start()
            deadline = time.monotonic() + 20
            while set(wrapping(served.state_dir)) == before and time.monotonic() < deadline:
                pass
            served.process.kill()
            callers._stop.set()
        thread.join()
        served.kill()
        caught += len(set(wrapping(served.state_dir))) > 1
        served = Served(tmp_path / "state").start()
        with served.client() as client:
            for name in names:
                assert client.get(name).environment == {"VALUE": f"of {name}"}
            assert client.invoke_json(names[0], {}) == "of f0"
            wait_until(
                lambda served=served, client=client: (
                    set(wrapping(served.state_dir))
                    == {key["id"] for key in client.call("keys.list", [])["keys"] if key["current"]}
                ),
                10,
                "the rest is done",
            )
    assert caught, "no kill came in between: this proves nothing"
    with served.client() as client, Callers(served.socket, names[1], count=2) as callers:
        assert client.call("keys.rotate", [{"retire": True}])["retired"] == ROUNDS + 1
        assert client.get(names[2]).environment == {"VALUE": "of f2"}
    callers.check()
    assert served.stop() == 0
