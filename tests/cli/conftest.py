"""A fake service on a real socket, the command in this process (fast) and as a real process (exit codes, terminals)."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from scheduler.cli.app import cli
from tests.client.fake_service import FakeService


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No service of the developer's own is found, and no setting of theirs is read."""
    for name in [name for name in os.environ if name.startswith("SCHEDULER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def service(tmp_path):
    with FakeService(tmp_path / "s") as fake:
        yield fake


@dataclass
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def scheduler(service):
    """`scheduler("list")` in this process, on the fake service."""

    def call(*args: str, stdin: bytes | str | None = None, socket: str | None = service.address) -> Ran:
        result = CliRunner().invoke(cli, [*(["--socket", socket] if socket else []), *args], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def process(service):
    """`process("list")` as a real process with pipes."""

    def call(*args: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "scheduler", *args],
            input=stdin,
            capture_output=True,
            timeout=30,
            check=False,
            env={**os.environ, "SCHEDULER_SOCKET": service.address, **(env or {})},
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    return call
