"""`make run`'s program with the real service: an answer on the terminal, then an orderly end however it is told to."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from scheduler.cli.quickstart import main

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

ROOT = Path(__file__).resolve().parents[2]


class Quickstart:
    """The program, its output line by line, and the service's process id once it has said so."""

    def __init__(self, state_dir: Path, log: Path) -> None:
        # Where namespaces cannot be had the quick start is the same but for the walls.
        env = {**os.environ, **({"SCHEDULER_ISOLATION": "process"} if os.geteuid() else {})}
        # Not the usual port: another run of these tests, or a service of the developer's own, may have it.
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            metrics = f"127.0.0.1:{probe.getsockname()[1]}"
        self._log = log.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scheduler.cli.quickstart", "--state-dir", str(state_dir), "--metrics", metrics],
            stdout=subprocess.PIPE, stderr=self._log, cwd=ROOT, env=env, text=True,
        )  # fmt: skip
        self.lines: list[str] = []

    def read_until(self, words: str) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if words in line:
                return
        raise AssertionError("".join(self.lines) + self.log_text())

    @property
    def service_pid(self) -> int:
        return int(re.search(r"is ready \(pid (\d+)\)", "".join(self.lines))[1])

    def log_text(self) -> str:
        return Path(self._log.name).read_text()

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self._log.close()


@pytest.fixture
def state_dir():
    """Short: a Unix socket's path has 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="qs") as directory:
        yield Path(directory) / "state"


@pytest.fixture
def started(state_dir, tmp_path):
    quickstart = Quickstart(state_dir, tmp_path / "log")
    try:
        quickstart.read_until("goes on here until Ctrl-C")
        yield quickstart
    finally:
        quickstart.close()


def wait_gone(pid: int) -> None:
    """Until the process has ended; it is not our child, so a pidfd says so."""
    import select

    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 20)[0], f"{pid} still runs"
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_shows_an_answer_and_ends_in_order(started, state_dir, number, capsys):
    text = "".join(started.lines)
    assert '{"message": "Hello, you!", "function": "hello"' in text
    assert "created hello (revision 1)" in text
    assert "bench hello" in text
    service = started.service_pid
    assert main(["--state-dir", str(state_dir)]) == 0  # a second one says so and leaves the first alone
    assert "already running" in capsys.readouterr().out
    for _ in range(3):  # as `make` does, which passes on what its whole group got
        started.process.send_signal(number)
    assert started.process.wait(30) == 0
    wait_gone(service)
    assert not (state_dir / "scheduler.sock").exists()
    assert started.log_text().count('"event": "signal"') == 1


def test_nothing_is_left_when_it_is_killed(started):
    service = started.service_pid
    started.process.kill()
    started.process.wait()
    wait_gone(service)


def test_a_service_that_cannot_start_gives_its_exit_code(tmp_path):
    (tmp_path / "state").write_text("a file where a directory should be")
    quickstart = Quickstart(tmp_path / "state", tmp_path / "log")
    try:
        out, _ = quickstart.process.communicate(timeout=30)
        assert quickstart.process.returncode == 3
        assert "exit code 3" in out
        assert "make run ISOLATION=process" in out
    finally:
        quickstart.close()
