"""A peer as data, and how one gets into the cache.

Law of this file: nothing is installed into the tree, the virtual environment or the system; nothing runs for longer than its
limit. A half-made installation is never used: it becomes visible by a rename.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

__all__ = ["Absent", "Installed", "Missing", "Peer", "cache", "installed", "run_installer", "running"]

INSTALL_TIMEOUT_S = 180.0
START_TIMEOUT_S = 20.0
DONE = "installed.json"


class Missing(Exception):
    """It cannot be had; the text says why."""


@dataclass(frozen=True, slots=True)
class Installed:
    directory: Path
    versions: Mapping[str, str]

    @property
    def text(self) -> str:
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """`least`: our throughput ÷ its has to be that. `connections`: how many it is asked with, and `why` not 64.

    `install` fills an empty directory and gives versions, or raises Missing. `start` serves at a port; a context that gives the
    path to POST to.
    """

    name: str
    least: float
    connections: int
    why: str = ""
    install: Callable[[Path], Mapping[str, str]]
    start: Callable[[Installed, Path, int], AbstractContextManager[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """One that would belong here and cannot be had."""

    name: str
    least: float
    reason: str


def cache() -> Path:
    """Where peers are kept: XDG's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "invocation-scheduler" / "peers"


def installed(peer: Peer, *, install: bool) -> Installed:
    """From the cache, or, if `install`, into it first. Missing says why it is not there."""
    directory = cache() / peer.name
    if not (directory / DONE).exists():
        if not install:
            raise Missing("not installed; `python -m bench.run --peers` fetches it")
        fresh = directory.with_name(f"{peer.name}.{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            (fresh / DONE).write_text(json.dumps(dict(peer.install(fresh))))
            shutil.rmtree(directory, ignore_errors=True)
            fresh.rename(directory)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return Installed(directory, json.loads((directory / DONE).read_text()))


def run_installer(words: Sequence[str], *, cwd: Path) -> str:
    """What it printed. Missing when there is no such program, it fails, or takes longer than its limit."""
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=INSTALL_TIMEOUT_S)
    except FileNotFoundError:
        raise Missing(f"{words[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Missing(f"{' '.join(words[:3])}: not done within {INSTALL_TIMEOUT_S:g} s") from None
    if done.returncode != 0:
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise Missing(f"{' '.join(words[:3])} ended with {done.returncode}: {''.join(last)[:200]}")
    return done.stdout


@contextmanager
def running(words: Sequence[str], *, cwd: Path, port: int, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """The program, in a process group of its own, once it accepts connections; killed with all that it started. RuntimeError
    when it does not come up."""
    with (cwd / "peer.log").open("wb") as log:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, **(environment or {})},
            process_group=0,
        )
    try:
        until = time.monotonic() + START_TIMEOUT_S
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            if process.poll() is not None or time.monotonic() > until:
                said = (cwd / "peer.log").read_bytes()[-500:].decode("utf-8", "replace")
                raise RuntimeError(f"{Path(words[0]).name} does not answer (exit status {process.returncode}): {said}")
            time.sleep(0.01)
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()
