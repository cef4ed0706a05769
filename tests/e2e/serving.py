"""A whole service as a process of its own, for tests: starting, asking, ending, killing."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import site
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from pathlib import Path

from scheduler.client import BlockingClient
from tests.e2e.raw import RawClient

LOADED = 6  # times as long as on a quiet machine: what is waited for comes or fails by itself, so patience costs nothing
START_S = 15.0
ISOLATION = os.environ.get("SCHEDULER_TEST_ISOLATION", "auto")
ROOT = Path(__file__).resolve().parents[2]
USER = 64_322  # a uid that nobody has


class CannotServe(Exception):
    """The service refused to start; its last words are the message."""


class Served:
    """command: of the process, before `serve`; by default this Python's."""

    def __init__(
        self,
        state_dir: Path,
        *,
        socket: Path | None = None,
        tcp: bool = False,
        command: tuple[str, ...] = (sys.executable, "-m", "scheduler"),
        **settings: object,
    ) -> None:
        self.state_dir = Path(state_dir)
        self.socket = str(socket or self.state_dir / "s")
        self.settings = {"isolation": ISOLATION, **settings}
        self.tcp = tcp
        self.command = command
        self.lines: list[dict] = []
        self.process: subprocess.Popen | None = None
        self.metrics_port = 0
        self.tcp_port = 0
        self.http_port = 0
        self._rest = b""

    # ---- life ----

    def start(self) -> Served:
        arguments = ["--state-dir", str(self.state_dir), "--socket", self.socket, "--metrics", "127.0.0.1:0"]
        if self.tcp:
            arguments += ["--tcp", "127.0.0.1:0"]
        for name, value in self.settings.items():
            arguments += ["--" + name.replace("_", "-"), str(value)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SCHEDULER_")}
        self.process = subprocess.Popen(
            [*self.command, "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
        )
        os.set_blocking(self.process.stderr.fileno(), False)
        try:
            serving = self.wait_line("serving", START_S)
            self.wait_line("ready", START_S)
        except CannotServe:
            self.kill()
            raise
        self.metrics_port, self.tcp_port = serving["metrics_port"], serving["tcp_port"]
        self.http_port = serving["http_port"]
        return self

    def wait_line(self, event: str, timeout_s: float) -> dict:
        """The next line of the log with this event. timeout_s: on a quiet machine."""
        deadline = time.monotonic() + timeout_s * LOADED
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stderr, selectors.EVENT_READ)
            while True:
                for line in self._take():
                    self.lines.append(line)
                    if line.get("event") == event:
                        return line
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise CannotServe(f"no {event!r} within {timeout_s} s: {self.lines[-3:]}")
                data = self.process.stderr.read(65536)
                if data == b"":
                    raise CannotServe(f"exit {self.process.wait()}: {self.lines[-3:]} {self._rest!r}")
                self._rest += data or b""

    def _take(self):
        while b"\n" in self._rest:
            line, self._rest = self._rest.split(b"\n", 1)
            try:
                yield json.loads(line)
            except ValueError:
                yield {"event": "text", "text": line.decode("utf-8", "replace")}

    def drain_log(self) -> list[dict]:
        """Everything logged so far."""
        with contextlib.suppress(BlockingIOError):
            while data := self.process.stderr.read(65536):
                self._rest += data
        self.lines.extend(self._take())
        return self.lines

    def stop(self, timeout_s: float = 15.0) -> int:
        """SIGTERM; the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 15.0) -> int:
        try:
            code = self.process.wait(timeout_s * LOADED)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        self.drain_log()
        self.process.stderr.close()
        return code

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def __enter__(self) -> Served:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
        elif self.process is not None:
            self.process.stderr.close()

    # ---- asking ----

    def client(self) -> BlockingClient:
        return BlockingClient(self.socket)

    def raw(self) -> RawClient:
        return RawClient(self.socket)

    def metric(self, name: str) -> float:
        """The only sample of a metric."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith(f"{name} ")]
        assert len(lines) == 1, f"{name}: {len(lines)} samples"
        return float(lines[0].split()[1])

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}{path}", timeout=10 * LOADED) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def sandboxes(self, function: str | None = None) -> list[dict]:
        found = json.loads(self.get("/debug/sandboxes")[1])
        return [s for s in found if function in (None, s["function"])]

    def deploy(self, name: str, source: str, **settings: object):
        """A function of one module, app.py with handler()."""
        folder = self.state_dir / "sources"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.py"
        path.write_text(textwrap.dedent(source))
        with self.client() as client:
            return client.deploy(path, name=name, **{"handler": "app.handler", "runtime": RUNTIME, **settings})


RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"


@contextlib.contextmanager
def public_directory():
    """One that any user may enter, which pytest's are not: where isolation is "process", sandboxes walk to their code."""
    with tempfile.TemporaryDirectory(prefix="scheduler-test-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def _delegate(uid: int) -> list[Path]:
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update({name: path.lstrip("/") for name in controllers.split(",") if name})
    made = []
    for controller in ("memory", "pids", "cpu", "cpuacct"):
        mount = Path("/sys/fs/cgroup") / controller
        base = mount / own.get(controller, "")
        group = (base if base.is_dir() else mount) / f"scheduler-test-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            for path in (group, group / "cgroup.procs", group / "tasks"):
                os.chown(path, uid, uid)
            made.append(group)
    return made


@contextlib.contextmanager
def delegated_groups(uid: int):
    """A control group of each version 1 controller that the user may divide further, as a service manager would give it: the
    files that take a process in. Fewer than four: this machine, or who runs the tests, cannot make them."""
    made = _delegate(uid)
    try:
        yield [str(group / "cgroup.procs") for group in made]
    finally:
        for group in made:
            group.rmdir()  # nothing may be left in it


def command_of_user(uid: int, python: str, procs: list[str]) -> tuple[str, ...]:
    """The service as another user, whose Python is not this one's environment but may use its packages."""
    enter = "".join(f"echo $$ > {path} && " for path in procs)
    packages = os.pathsep.join([str(ROOT), *site.getsitepackages()])
    become = f"setpriv --reuid={uid} --regid={uid} --clear-groups" if os.geteuid() == 0 else ""
    script = f'{enter}exec env HOME=/nonexistent PYTHONPATH={packages} {become} {python} -B -m scheduler "$@"'
    return ("sh", "-c", script, "sh")


def descendants(pid: int) -> set[int]:
    """Every process below pid, itself included."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, todo = set(), [pid]
    while todo:
        now = todo.pop()
        found.add(now)
        todo.extend(children.get(now, []))
    return found


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition, timeout_s: float, what: str) -> None:
    """Polls a condition of another process, which cannot tell us. timeout_s: on a quiet machine."""
    deadline = time.monotonic() + timeout_s * LOADED
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.005)  # the other process cannot wake us
