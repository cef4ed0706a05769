"""What is secret lies nowhere in plain text: the whole state directory is searched."""

from __future__ import annotations

import resource
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.client import BlockingClient
from scheduler.errors import InitFailed
from tests.e2e.serving import RUNTIME, CannotServe, Served, public_directory, wait_until
from tests.keys.doubles import TOKEN, VaultDouble, serving

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


def cores(directory):
    return [path for path in directory.iterdir() if path.name.startswith("core")]


def test_a_service_that_crashes_leaves_no_core(tmp_path):
    """A program in the same place does, with its secrets in it."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if not pattern.startswith("core"):
        pytest.skip(f"cores go to {pattern!r} here")
    planted = secrets.token_hex(24)
    in_place = ("/bin/sh", "-c", 'cd "$0" && ulimit -c unlimited && exec "$@"', str(tmp_path))
    code = "import os, signal, sys; os.kill(os.getpid(), signal.SIGQUIT)"
    subprocess.run((*in_place, sys.executable, "-c", code, planted), check=False)
    if not cores(tmp_path):
        pytest.skip("this machine writes no cores")
    assert any(planted.encode() in core.read_bytes() for core in cores(tmp_path))
    for core in cores(tmp_path):
        core.unlink()
    with public_directory() as directory:
        served = Served(directory / "state", command=(*in_place, sys.executable, "-m", "scheduler"))
        try:
            served.start()
        except CannotServe as error:
            if "isolat" in str(error) or "namespace" in str(error):
                pytest.skip(f"this machine cannot isolate: {error}")
            raise
        served.deploy("keeper", SOURCE, environment={"PLANTED": planted}, runtime=RUNTIME)
        with BlockingClient(served.socket) as client:
            assert client.invoke_json("keeper", {}) == planted
        assert resource.prlimit(served.process.pid, resource.RLIMIT_CORE) == (1, 1)
        served.process.send_signal(signal.SIGQUIT)
        assert served.wait() == -signal.SIGQUIT
        assert cores(tmp_path) == []
        assert [path for path in directory.rglob("core*") if path.is_file()] == []


def test_a_key_server_that_is_away_is_told_of_and_waited_for(tmp_path):
    """The service starts without it; what is under its keys says so, and goes on when it is back."""
    planted, vault = secrets.token_hex(24), VaultDouble()
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    with public_directory() as directory, serving(vault) as url:
        told = {"key_source": "vault", "key_server": url, "key_id": "main", "key_credentials_file": token, "key_cache_s": 1}
        served = Served(directory / "state", **told)
        try:
            served.start()
        except CannotServe as error:
            if "isolat" in str(error) or "namespace" in str(error):
                pytest.skip(f"this machine cannot isolate: {error}")
            raise
        served.deploy("keeper", SOURCE, environment={"PLANTED": planted}, runtime=RUNTIME)
        with BlockingClient(served.socket) as client:
            assert client.invoke_json("keeper", {}) == planted
            assert client.call("keys.rotate", [])["wrapped"] == 1
            assert client.invoke_json("keeper", {}) == planted
        served.kill()
        assert places(directory / "state", planted.encode()) == []
        assert not any(planted.encode() in body for _, body in vault.requests), "it is given keys to wrap, not texts"
        vault.sealed = True
        with Served(directory / "state", **told) as again, BlockingClient(again.socket) as client:
            assert client.get("keeper").raw["environment_error"]["ErrorCode"] == "KMSInvalidStateException"
            with pytest.raises(InitFailed):
                client.invoke("keeper", b"{}")
            again.deploy("other", SOURCE.replace("os.environ['PLANTED']", "1"), runtime=RUNTIME)
            assert client.invoke_json("other", {}) == 1
            vault.sealed = False
            wait_until(lambda: _answers(client, planted), 10, "it goes on")
            log = "\n".join(str(line) for line in again.drain_log())
        assert "KMSInvalidStateException" in log
        assert planted not in log
        assert TOKEN not in log


def _answers(client, expected):
    try:
        return client.invoke_json("keeper", {}) == expected
    except InitFailed:
        return False
