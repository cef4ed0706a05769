"""The bench's C programs: built on demand, run, their JSON read.

Law of this file: arguments in, typed results out. What a result means is a question's business.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "Histogram",
    "Load",
    "Stream",
    "bare_loop",
    "build",
    "load",
    "null_server",
    "payload_file",
    "relay",
    "start_load",
    "stream",
]

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bench" / "native"
BUILT = ROOT / "build" / "bench"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", "-Werror")
LAUNCHER = "../../native/launcher"
INCLUDES = [f"-I{ROOT / 'native' / room}" for room in ("core", "launcher")]
PROGRAMS = {
    "load": ("load.c", "load_options.c", "load_report.c", "common.c", "histogram.c", "wire.c"),
    "null_server": ("null_server.c", "common.c", "wire.c"),
    "relay": ("relay.c", "common.c", "histogram.c"),
    "echo_worker": ("echo_worker.c", "common.c"),
    "api_worker": ("api_worker.c", "common.c"),
    "api_extension": ("api_extension.c", "common.c"),
    "front": ("front.c", "common.c"),
    "http_load": ("http_load.c", "common.c", "histogram.c"),
    "histogram_probe": ("histogram_probe.c", "histogram.c"),
    "volumes": (
        "volumes.c",
        *(f"{LAUNCHER}/{name}.c" for name in ("scratch_volume", "filesystem", "tempdir", "wire", "cgroup", "cgroup_freeze")),
    ),
}


def build(name: str) -> Path:
    """The program's path; compiled if a source is newer. subprocess.CalledProcessError when it does not compile."""
    target = BUILT / name
    sources = [SOURCES / source for source in PROGRAMS[name]]
    newest = max(path.stat().st_mtime for path in (*SOURCES.glob("*.[ch]"), *sources))
    if not target.exists() or target.stat().st_mtime < newest:
        BUILT.mkdir(parents=True, exist_ok=True)
        fresh = target.with_suffix(f".{os.getpid()}")
        subprocess.run([os.environ.get("CC", "gcc"), *FLAGS, *INCLUDES, "-o", fresh, *sources, "-lm"], check=True)
        fresh.replace(target)
    return target


def payload_file(directory: Path, size: int) -> Path:
    """JSON of exactly `size` bytes, as json.dumps writes it: an echo gives it back byte for byte. size >= 100."""
    fields = {"id": 12345, "name": "Ada", "tags": ["a", "b"], "price": 12.5, "pos": {"x": 1, "y": 2}, "note": ""}
    room = size - len(json.dumps(fields))
    if room < 0:
        raise ValueError(f"a payload of {size} bytes has no room for its fields, {size - room} are needed")
    fields["note"] = "".join(chr(ord("a") + i % 26) for i in range(min(room, 26))) * (room // 26 + 1)
    fields["note"] = str(fields["note"])[:room]
    path = directory / f"payload-{size}.json"
    path.write_text(json.dumps(fields))
    return path


@dataclass(frozen=True, slots=True)
class Histogram:
    """Microseconds."""

    count: int
    mean: float
    min: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of a load run; see bench/native/load.h for what counts as what."""

    name: str
    seconds: float
    offered_per_s: float
    sent: int
    ok: int
    failed: int
    mismatched: int
    unsent: int
    unanswered: int
    late: int
    ok_per_s: float
    failed_per_s: float
    latency: Histogram
    lateness: Histogram
    errors: dict[str, int]
    error_latency: dict[str, Histogram]
    series: list[dict[str, float]]
    kinds: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Load:
    streams: dict[str, Stream]
    own_us_per_call: float
    own_cpu_s: float
    cut: int
    raw: dict[str, Any]

    @property
    def only(self) -> Stream:
        (stream_,) = self.streams.values()
        return stream_


def _stream(raw: dict[str, Any]) -> Stream:
    names = ("name", "seconds", "offered_per_s", "sent", "ok", "failed", "mismatched", "unsent", "unanswered", "late")
    return Stream(
        **{name: raw[name] for name in names},
        ok_per_s=raw["ok_per_s"],
        failed_per_s=raw["failed_per_s"],
        latency=Histogram(**raw["latency_us"]),
        lateness=Histogram(**raw["lateness_us"]),
        errors={name: error["count"] for name, error in raw["errors"].items()},
        error_latency={name: Histogram(**error["latency_us"]) for name, error in raw["errors"].items()},
        series=raw["series"],
        kinds=raw["kinds"],
    )


def stream(**keys: object) -> str:
    """The text of one --stream: stream(function="echo", inflight=64). A path as payload is handed over as a file."""
    if isinstance(keys.get("payload"), Path):
        keys["payload"] = f"@{keys['payload']}"
    return ",".join(f"{key}={value}" for key, value in keys.items())


@dataclass(slots=True)
class RunningLoad:
    process: subprocess.Popen[str]

    def result(self) -> Load:
        """Waits. RuntimeError with what it said on stderr when it failed."""
        out, err = self.process.communicate()
        if self.process.returncode != 0:
            raise RuntimeError(f"the load generator ended with {self.process.returncode}: {err.strip()}")
        raw = json.loads(out)
        own = raw["own_cpu"]
        streams = {item["name"]: _stream(item) for item in raw["streams"]}
        return Load(streams, own["us_per_call"], own["user_s"] + own["system_s"], raw["connections_cut"], raw)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


def start_load(socket: Path | str, streams: Sequence[str], **options: object) -> RunningLoad:
    """Options by their names on the command line: duration_ms=, warmup_ms=, count=, series_ms=, pin=, spin=True, ..."""
    words: list[str] = [str(build("load")), "--unix", str(socket)]
    for key, value in options.items():
        if value is None or value is False:
            continue
        words.append("--" + key.replace("_", "-"))
        if value is not True:
            words.append(str(value))
    for item in streams:
        words += ["--stream", item]
    return RunningLoad(subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))


def load(socket: Path | str, *streams: str, **options: object) -> Load:
    running = start_load(socket, streams, **options)
    try:
        return running.result()
    finally:
        running.stop()


@contextmanager
def null_server(socket: Path, **options: object) -> Iterator[subprocess.Popen[str]]:
    words = [str(build("null_server")), "--unix", str(socket)]
    for key, value in options.items():
        words.append("--" + key.replace("_", "-"))
        if value is not True:
            words.append(str(value))
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("the null server did not start")
        yield process
    finally:
        process.communicate()  # it ends with its stdin


def _json_of(words: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def relay(
    payload: Path, *, duration_ms: int, pins: tuple[int, int, int] | None = None, python_worker: bool = False
) -> dict[str, Any]:
    """The bare three-process relay; pins: CPUs of client, relay, worker."""
    words = [str(build("relay")), "--payload", str(payload), "--duration-ms", str(duration_ms)]
    for option, cpu in zip(("--pin-client", "--pin-relay", "--pin-worker"), pins or (), strict=False):
        words += [option, str(cpu)]
    if python_worker:
        words += ["--worker", sys.executable, str(ROOT / "bench" / "relay_worker.py")]
    return _json_of(words)


def bare_loop(payload: Path, *, seconds: float, cpu: int | None = None) -> dict[str, Any]:
    words = [sys.executable, str(ROOT / "bench" / "bare_loop.py"), str(payload), str(seconds)]
    return _json_of(words if cpu is None else [*words, str(cpu)])
