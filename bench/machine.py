"""What the figures were measured on: read from /proc and /sys, so that a table can be judged by someone who was not there."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Machine", "describe", "load_average"]


@dataclass(frozen=True, slots=True)
class Machine:
    cpu: str
    cpus: int
    cpus_usable: int
    memory_mb: int
    kernel: str
    clocksource: str
    hypervisor: bool
    python: str
    niceness: int
    is_root: bool
    cgroup: str

    def to_map(self) -> dict[str, Any]:
        return asdict(self)

    def line(self) -> str:
        virtual = ", virtual machine" if self.hypervisor else ""
        return (
            f"{self.cpus_usable} of {self.cpus} CPUs ({self.cpu}{virtual}), {self.memory_mb / 1024:.0f} GB, "
            f"Linux {self.kernel}, Python {self.python}, niceness {self.niceness}"
        )


def load_average() -> tuple[float, float, float]:
    return os.getloadavg()


def _first(pattern: str, text: str, default: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1).strip() if found else default


def _cgroup() -> str:
    mounts = Path("/proc/self/mounts").read_text()
    v2, v1 = " cgroup2 " in mounts, " cgroup " in mounts
    return "v1 and v2" if v1 and v2 else "v2" if v2 else "v1" if v1 else "none"


def describe() -> Machine:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    clock = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    return Machine(
        cpu=_first(r"^model name\s*:\s*(.*)$", cpuinfo, platform.machine()),
        cpus=os.cpu_count() or 1,
        cpus_usable=len(os.sched_getaffinity(0)),
        memory_mb=int(_first(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), "0")) // 1024,
        kernel=platform.release(),
        clocksource=clock.read_text().strip() if clock.exists() else "unknown",
        hypervisor=" hypervisor" in _first(r"^flags\s*:(.*)$", cpuinfo, ""),
        python=platform.python_version(),
        niceness=os.getpriority(os.PRIO_PROCESS, 0),
        is_root=os.geteuid() == 0,
        cgroup=_cgroup(),
    )
