"""Processes seen from outside: their trees, CPU time and memory, as the kernel counts them.

CPU time is the scheduler's own count in nanoseconds (/proc/PID/task/TID/schedstat), summed over threads; /proc/PID/stat has
ticks of 10 ms. A thread that has ended is missing from it, so what is measured must not end between two readings.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Memory", "cpu_ns", "descendants", "fds", "memory", "runs_code", "threads"]

PROC = Path("/proc")


def cpu_ns(pid: int) -> int:
    """User and system time of all threads. ProcessLookupError when it is gone."""
    total = 0
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError as error:
        raise ProcessLookupError(f"process {pid} is gone") from error
    for task in tasks:
        with suppress(FileNotFoundError, ProcessLookupError):
            total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return total


def threads(pid: int) -> dict[str, int]:
    """CPU nanoseconds by `name-tid`."""
    found = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        with suppress(FileNotFoundError, ProcessLookupError):
            name = Path(f"/proc/{pid}/task/{task}/comm").read_text().strip()
            found[f"{name}-{task}"] = int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    return found


def _parent(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat[stat.rindex(")") + 2 :].split()[1])


def descendants(pid: int) -> list[int]:
    """All processes below `pid`, without it."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                children.setdefault(_parent(int(entry)), []).append(int(entry))
    found: list[int] = []
    todo = [pid]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def runs_code(pid: int, marker: str) -> bool:
    """Whether the process sees a file /var/task/`marker` (in its own root) or has it in its working directory: a sandbox of the
    function that was deployed with that file."""
    with suppress(OSError):
        for place in (f"/proc/{pid}/root/var/task/{marker}", f"/proc/{pid}/cwd/{marker}"):
            if os.path.exists(place):
                return True
    return False


@dataclass(frozen=True, slots=True)
class Memory:
    """Kilobytes."""

    rss: int
    pss: int
    private: int


def memory(pid: int) -> Memory:
    values: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, _, rest = line.partition(":")
        values[key] = int(rest.split()[0])
    return Memory(values["Rss"], values["Pss"], values["Private_Clean"] + values["Private_Dirty"])


def fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))
