"""`python -m scheduler.cli.quickstart --state-dir DIR`: from nothing to an answer, then the service in the foreground.

What `make run` calls. It starts `scheduler serve` as a child, waits until `/readyz` says yes, deploys the sample function,
calls it, prints what came and what to try next, and then only waits: the service's log is on the terminal.

The child is in a process group of its own, so that a Ctrl-C or a signal to a whole group reaches it once, from here: a
second signal would mean "at once" to it. It is told by the kernel when this process dies, so nothing is left whatever ends us.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scheduler.errors import SchedulerError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["main"]

READY_TIMEOUT_S: Final = 60.0
POLL_S: Final = 0.02
AGAIN_S: Final = 1.0
METRICS_PORT: Final = 9464
PR_SET_PDEATHSIG: Final = 1
NAME: Final = "hello"
EVENT: Final = '{"name": "you"}'


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 after an orderly end, else that of the service or of the step that failed."""
    parser = argparse.ArgumentParser(prog="quickstart", description="Start the service, deploy the sample function, call it.")
    parser.add_argument("--state-dir", default="state", metavar="DIR", help="where the service keeps everything [state]")
    parser.add_argument("--sample", default=str(_sample()), metavar="SRC", help="the function to deploy")
    parser.add_argument("--isolation", default="auto", choices=("auto", "process"), help="as of scheduler serve [auto]")
    parser.add_argument("--metrics", metavar="HOST:PORT", help="address of the metrics [the usual port, or a free one]")
    given = parser.parse_args(arguments)
    state_dir = Path(given.state_dir)
    socket_path = state_dir / "scheduler.sock"
    if _answers(socket_path):
        _say(f"The service is already running on {state_dir}.")
        _next_steps(socket_path)
        return 0
    metrics = given.metrics or f"127.0.0.1:{_free_port()}"
    command = [sys.executable, "-m", "scheduler", "serve", "--state-dir", str(state_dir), "--socket", str(socket_path)]
    command += ["--metrics", metrics]
    command += ["--isolation", given.isolation] if given.isolation != "auto" else []
    _say(f"Starting the service: scheduler {shlex.join(command[3:])}")
    begun = time.monotonic()
    with Service(command) as service:
        if not service.wait_ready(metrics):
            code = service.wait()
            if code and not service.told_to_end:
                _say(f"The service ended with exit code {code}; its last lines say why.")
                if given.isolation == "auto":
                    _without_isolation()
            return code
        _say(f"Ready after {time.monotonic() - begun:.2f} s.")
        failed = _show_sample(socket_path, given.sample)
        if not service.told_to_end:
            _next_steps(socket_path)
            _say("The service goes on here until Ctrl-C.")
        return service.wait() or failed


class Service:
    """The child, and the signals that are passed on to it."""

    def __init__(self, command: list[str]) -> None:
        self.told_to_end = False
        self._told_at = 0.0
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Service:
        # The handlers first: a signal that comes while the child starts must not leave it behind.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._end)
        libc = ctypes.CDLL(None, use_errno=True)
        self._child = subprocess.Popen(self._command, process_group=0, preexec_fn=_dies_with_us(libc, os.getpid()))
        if self.told_to_end:
            self._child.terminate()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._child is not None
        if self._child.poll() is None:
            self._child.terminate()
            self._child.wait()

    def _end(self, *_: object) -> None:
        """Once in order; whoever asks again later wants it at once, which the service knows from a second signal."""
        now = time.monotonic()
        first = not self.told_to_end
        if first:
            self.told_to_end, self._told_at = True, now
        # `make` passes on a signal that its whole group has had already: those within a second are one wish.
        if (first or now - self._told_at > AGAIN_S) and self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM if first else signal.SIGINT)

    def wait_ready(self, metrics: str) -> bool:
        """True once /readyz answers 200; False where the child ended, or was told to, before."""
        assert self._child is not None
        until = time.monotonic() + READY_TIMEOUT_S
        while self._child.poll() is None and not self.told_to_end:
            if _ready(metrics):
                return True
            if time.monotonic() > until:
                _say(f"The service is not ready after {READY_TIMEOUT_S:.0f} s; it is ended.")
                self._end()
                return False
            time.sleep(POLL_S)
        return False

    def wait(self) -> int:
        """Until the child has ended: its exit code; one that a signal ended counts as 128 and the signal."""
        assert self._child is not None
        code = self._child.wait()
        return code if code >= 0 else 128 - code


def _dies_with_us(libc: ctypes.CDLL, parent: int) -> Callable[[], None]:
    def in_child() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # we died before the kernel was told
            os.kill(os.getpid(), signal.SIGTERM)

    return in_child


def _sample() -> Path:
    """The sample function of the checkout."""
    return Path(__file__).resolve().parents[2] / "examples" / "hello"


def _free_port() -> int:
    """The usual port of the metrics, or any other where that one is taken."""
    for port in (METRICS_PORT, 0):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    return METRICS_PORT


def _answers(path: Path) -> bool:
    from scheduler.client.blocking import BlockingClient

    try:
        with BlockingClient(path, timeout_s=2.0) as client:
            client.ping()
    except (SchedulerError, TimeoutError):
        return False
    return True


def _ready(metrics: str) -> bool:
    connection = http.client.HTTPConnection(metrics, timeout=2.0)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _show_sample(path: Path, sample: str) -> int:
    """Deploys and calls the sample with the very commands a user would type; gives the exit code of the first that fails."""
    from scheduler.cli.app import run

    for line in (["deploy", sample, "--name", NAME, "--handler", "app.handler"], ["invoke", NAME, EVENT, "--report"]):
        _say(f"\n$ scheduler {shlex.join(line)}")
        code = run(["--socket", str(path), *line])
        if code:
            return code
    return 0


def _without_isolation() -> None:
    """What a first-time user can do where functions cannot be isolated; that it was this cannot be seen from here."""
    _say("\nIf it is isolation that this user cannot have here:")
    for line, purpose in (
        ("sudo make run", "as root it has all it needs"),
        (".venv/bin/scheduler doctor", "what is missing, each with its fix"),
        ("make run ISOLATION=process", "without any: run only code you trust"),
    ):
        _say(f"  {line:<27} # {purpose}")


def _next_steps(path: Path) -> None:
    prefix = "" if path == Path("state/scheduler.sock") else f" --socket {shlex.quote(str(path))}"
    command = "scheduler" if _on_path() else ".venv/bin/scheduler"
    _say("\nTry in another terminal:")
    for line, purpose in (
        (f"invoke {NAME} '{EVENT}' --report", "call it again: it is warm now"),
        (f"bench {NAME}", "measure it"),
        ("top", "watch it"),
        (f"logs {NAME} -f", "read what it logs"),
        ("deploy your.py", "deploy a function of your own"),
        ("doctor", "see how well it is isolated here"),
    ):
        place = "" if line == "doctor" else prefix
        _say(f"  {command}{place} {line:<38} # {purpose}")


def _on_path() -> bool:
    import shutil

    return shutil.which("scheduler") is not None


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
