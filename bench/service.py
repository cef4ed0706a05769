"""The service as the bench meets it: a real process in a directory of its own, driven over its socket, read through /proc.

Functions are deployed from bench/functions with a marker file beside the handler, so that a sandbox's processes can be told by
the code they see, whatever the service says about them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import processes
from scheduler.client import BlockingClient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scheduler.client import FunctionStats

__all__ = ["Service", "free_port", "serving"]

FUNCTIONS = Path(__file__).resolve().parent / "functions"
# The bare loop and the relay's worker run in the bench's own Python; sandboxes must run in the same one.
RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _toml(settings: dict[str, Any], tenants: dict[str, dict[str, int]]) -> str:
    lines = [f"{key} = {value!r}" for key, value in settings.items()]
    for name, table in tenants.items():
        lines += [f"[tenants.{name}]", *(f"{key} = {value}" for key, value in table.items())]
    return "\n".join(lines).replace("'", '"') + "\n"


@dataclass(slots=True)
class Service:
    directory: Path
    process: subprocess.Popen[bytes]
    metrics_port: int
    client: BlockingClient
    markers: dict[str, str] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def socket(self) -> Path:
        return self.directory / "s.sock"

    # ---- functions ----

    def deploy(
        self,
        name: str,
        handler: str = "echo",
        *,
        timeout_s: int = 30,
        memory_mb: int = 128,
        packages: Path | None = None,
        **more: Any,
    ) -> None:
        """`handler`: a file of bench/functions. packages: a folder that goes along. More: settings of functions.deploy."""
        source = self.directory / "src" / name
        source.mkdir(parents=True, exist_ok=True)
        if packages is not None:
            shutil.copytree(packages, source, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "bin"))
        marker = f"bench-{name}"
        shutil.copy(FUNCTIONS / f"{handler}.py", source / "app.py")
        (source / marker).write_text(name)
        self.markers[name] = marker
        more.setdefault("runtime", RUNTIME)
        self.client.deploy(source, name=name, handler="app.handler", timeout_s=timeout_s, memory_mb=memory_mb, **more)

    def stats(self, name: str) -> FunctionStats:
        """Of $LATEST. KeyError when the service has no such function."""
        for item in self.client.stats().functions:
            if item.name == name and item.version == "$LATEST":
                return item
        raise KeyError(name)

    def answered(self, name: str) -> int:
        return sum(self.stats(name).outcomes.values())

    # ---- what the kernel says ----

    def cpu_ns(self) -> int:
        return processes.cpu_ns(self.pid)

    def tree_cpu_ns(self) -> int:
        """Of all processes that live now."""
        total = 0
        for pid in [self.pid, *processes.descendants(self.pid)]:
            with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                total += processes.cpu_ns(pid)
        return total

    def sandboxes(self, name: str) -> list[int]:
        """Processes that see the function's code."""
        marker = self.markers[name]
        return [pid for pid in processes.descendants(self.pid) if processes.runs_code(pid, marker)]

    def sandboxes_cpu_ns(self, name: str) -> dict[int, int]:
        return {pid: processes.cpu_ns(pid) for pid in self.sandboxes(name)}

    def rss_kb(self) -> int:
        return processes.memory(self.pid).rss

    def tree_pss_kb(self) -> int:
        total = 0
        for pid in [self.pid, *processes.descendants(self.pid)]:
            try:
                total += processes.memory(pid).pss
            except (FileNotFoundError, ProcessLookupError, KeyError):
                continue  # it has just ended
        return total

    def scrape(self) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            return bytes(answer.read())


def _wait_ready(service: Service) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while True:
        if service.process.poll() is not None:
            raise RuntimeError(f"the service ended with {service.process.returncode}: {_log_tail(service.directory)}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{service.metrics_port}/readyz", timeout=1) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            if time.monotonic() > until:
                raise RuntimeError(
                    f"not ready after {START_TIMEOUT_S:g} s ({error}): {_log_tail(service.directory)}"
                ) from error
        time.sleep(0.02)


def _log_tail(directory: Path) -> str:
    return (directory / "service.log").read_bytes()[-2000:].decode("utf-8", "replace")


@contextmanager
def serving(
    directory: Path, *, cpus: set[int] | None = None, tenants: dict[str, dict[str, int]] | None = None, **settings: Any
) -> Iterator[Service]:
    """A service with its state in `directory` (emptied first), ended with SIGTERM. `cpus`: where it and its children may run.

    RuntimeError with the log's tail when it does not come up.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    settings.setdefault("cpu_per_memory", "weight_only")  # questions/cpu_share.py says why
    config = directory / "config.toml"
    config.write_text(_toml(settings, tenants or {}))
    port = free_port()
    command = [str(Path(sys.executable).parent / "scheduler"), "serve", "--state-dir", str(directory / "state")]
    command += ["--socket", str(directory / "s.sock"), "--metrics", f"127.0.0.1:{port}", "--config", str(config)]
    if cpus is not None:
        command = ["taskset", "-c", ",".join(map(str, sorted(cpus))), *command]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SCHEDULER_")}
    with (directory / "service.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    service = Service(directory, process, port, BlockingClient(directory / "s.sock", timeout_s=60))
    try:
        _wait_ready(service)
        yield service
    finally:
        service.client.close()
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
