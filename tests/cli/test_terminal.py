"""Commands on a real terminal (a pseudo-terminal of a given width): colour, bars, questions, widths, keys."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import pytest

from tests.client.fake_service import DESCRIPTION

pytestmark = pytest.mark.slow

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """A command on a terminal: what it drew, what it is sent."""

    def __init__(self, *args: str, columns: int = 80, env: dict[str, str] | None = None) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "LINES")}
        self._child = subprocess.Popen(
            [sys.executable, "-m", "scheduler", *args],
            stdin=slave, stdout=slave, stderr=slave, env={**plain, "TERM": "xterm-256color", **(env or {})},
        )  # fmt: skip
        os.close(slave)
        self.drawn = ""

    def send(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def read_until(self, words: str) -> None:
        until = time.monotonic() + 20
        while words not in self.drawn:
            assert time.monotonic() < until, self.drawn
            self.drawn += os.read(self._master, 65536).decode("utf-8", "replace")

    def end(self) -> int:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the other side is closed
                break
            if not data:
                break
            self.drawn += data.decode("utf-8", "replace")
        os.close(self._master)
        return self._child.wait(20)

    def lines(self) -> list[str]:
        """What stands in the end: a carriage return begins a line anew."""
        return [line.rstrip("\r").split("\r")[-1] for line in ESCAPE.sub("", self.drawn).split("\n")]


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    "command", ["list", "top --once -i 0.05", "describe hello", "invoke hello --report", "bench hello -n 1 -d 0.5"]
)
def test_nothing_is_wider_than_the_terminal_but_what_must_be(service, columns, command):
    service.functions["a-rather-long-name-of-a-function-as-one-finds-them-in-real-life"] = {
        **DESCRIPTION, "name": "a-rather-long-name-of-a-function-as-one-finds-them-in-real-life",
        "handler": "package.module.submodule.handler_of_the_thing",
    }  # fmt: skip
    terminal = Terminal("--socket", service.address, *command.split(), columns=columns)
    assert terminal.end() == 0
    if "describe" in command:  # its values are to be copied: whole, whatever the width
        assert any(DESCRIPTION["code_sha256"] in line for line in terminal.lines())
    else:
        assert max(map(len, terminal.lines())) <= columns


def test_colour_on_a_terminal_and_none_where_it_is_not_wanted(service):
    terminal = Terminal("--socket", service.address, "list")
    terminal.end()
    assert "\x1b[1m" in terminal.drawn
    plain = Terminal("--socket", service.address, "list", env={"NO_COLOR": "1", "TERM": "dumb"})
    plain.end()
    assert "\x1b[" not in plain.drawn


@pytest.mark.parametrize(("answer", "code", "left"), [(b"y\n", 0, []), (b"n\n", 2, ["hello"]), (b"\n", 2, ["hello"])])
def test_remove_asks_on_a_terminal(service, answer, code, left):
    terminal = Terminal("--socket", service.address, "remove", "hello")
    terminal.read_until("[y/N]")
    assert "Remove hello and its 1 published version?" in terminal.drawn
    terminal.send(answer)
    assert terminal.end() == code
    assert list(service.functions) == left


def test_remove_does_not_ask_where_yes_is_given(service):
    assert Terminal("--socket", service.address, "remove", "hello", "--yes").end() == 0
    assert service.functions == {}


def test_top_is_live_and_q_ends_it(service):
    terminal = Terminal("--socket", service.address, "top", "-i", "0.1")
    terminal.read_until("FUNCTION")
    assert "\x1b[?1049h" in terminal.drawn  # the other screen, so that the shell's is back afterwards
    terminal.send(b"q")
    assert terminal.end() == 0
    assert "\x1b[?1049l" in terminal.drawn


def test_bench_draws_a_bar_and_clears_it(service):
    terminal = Terminal("--socket", service.address, "bench", "hello", "-n", "2", "-d", "0.8")
    assert terminal.end() == 0
    assert "ok/s" in terminal.drawn
    assert "\x1b[2K" in terminal.drawn


def test_deploy_draws_a_bar_for_the_code(service, tmp_path):
    noise = os.urandom(1_500_000).hex().encode()
    (tmp_path / "app.py").write_bytes(b"def handler(event, context): ...\n# " + noise + b"\n")
    terminal = Terminal("--socket", service.address, "deploy", str(tmp_path / "app.py"))
    assert terminal.end() == 0
    assert "sending app" in terminal.drawn


def test_drain_asks_what_runs_and_no_means_no(service):
    for key, code in ((b"n\n", 2), (b"y\n", 0)):
        terminal = Terminal("--socket", service.address, "drain")
        terminal.read_until("[y/N]")
        assert "1 call running" in terminal.drawn
        assert [frame[2] for frame in service.requests if frame[2] == "drain"] == []
        terminal.send(key)
        assert terminal.end() == code
    assert [frame[3] for frame in service.requests if frame[2] == "drain"] == [[{}]]


def test_a_followed_log_ends_with_its_reader(service):
    """`logs -f | head -1`, and nothing more is ever logged."""
    asked = []

    def logs(params):
        asked.append(params[0])
        return {"text": "one line\n" if len(asked) == 1 else "", "cursor": len(asked)}

    service.methods["functions.logs"] = logs
    read, write = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-m", "scheduler", "--socket", service.address, "logs", "hello", "-f"], stdout=write
    )
    os.close(write)
    assert os.read(read, 100) == b"one line\n"
    os.close(read)
    assert child.wait(20) == 0
