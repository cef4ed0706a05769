"""What is secret lies nowhere in plain text: the whole state directory is searched."""

from __future__ import annotations

import secrets

import pytest

from scheduler.client import BlockingClient
from tests.e2e.serving import RUNTIME, CannotServe, Served, public_directory

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SOURCE = "import os\ndef handler(event, context):\n    return os.environ['PLANTED']\n"


def places(state_dir, needle: bytes):
    """Files that hold it; sparse volumes of sandboxes are not among them."""
    files = [path for path in state_dir.rglob("*") if path.is_file() and "sources" not in path.parts]
    return [path for path in files if needle in path.read_bytes()]


def test_an_environment_is_nowhere_in_the_state():
    first, second = secrets.token_hex(24), secrets.token_hex(24)
    with public_directory() as directory:
        state = directory / "state"
        try:
            served = Served(state).start()
        except CannotServe as error:
            if "isolat" in str(error) or "namespace" in str(error):
                pytest.skip(f"this machine cannot isolate: {error}")
            raise
        served.deploy("keeper", SOURCE, environment={"PLANTED": first}, runtime=RUNTIME)
        with BlockingClient(served.socket) as client:
            assert client.invoke_json("keeper", {}) == first
            client.update("keeper", environment={"PLANTED": second})
            assert client.invoke_json("keeper", {}) == second
        assert places(state, first.encode()) == []
        assert places(state, second.encode()) == []
        served.kill()
        assert places(state, second.encode()) == []
        with Served(state) as again, BlockingClient(again.socket) as client:
            assert client.invoke_json("keeper", {}) == second
            assert client.get("keeper").environment == {"PLANTED": second}
            log = "\n".join(str(line) for line in again.drain_log())
        assert second not in log
        assert places(state, second.encode()) == []


def test_a_lost_keyring_is_told_and_nothing_is_served_without_it():
    with public_directory() as directory:
        state = directory / "state"
        try:
            served = Served(state).start()
        except CannotServe as error:
            if "isolat" in str(error) or "namespace" in str(error):
                pytest.skip(f"this machine cannot isolate: {error}")
            raise
        served.deploy("keeper", SOURCE, environment={"PLANTED": "x"}, runtime=RUNTIME)
        assert served.stop() == 0
        kept = (state / "keyring.json").read_bytes()
        (state / "keyring.json").unlink()
        with pytest.raises(CannotServe, match="keyring"):
            Served(state).start()
        (state / "keyring.json").write_bytes(kept)
        (state / "keyring.json").chmod(0o600)
        with Served(state) as again, BlockingClient(again.socket) as client:
            assert client.invoke_json("keeper", {}) == "x"
