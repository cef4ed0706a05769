"""The service's own log: one JSON object a line, on standard error, for people and machines alike.

Law of this file: formatting and one write. No levels to configure, no rotation, no buffer: whoever runs the service has
tools for that. Functions' output goes elsewhere (the engine's journals). A flood is cut: the same event is written at most
BURST times in PERIOD_S, and how many were left out is said with the next that is written.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, TextIO

from scheduler.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Level", "Log"]

BURST = 100
PERIOD_S = 10.0
EVENTS_MAX = 256  # different events remembered for the limit


class Level(Enum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(slots=True)
class _Window:
    begun_s: float
    written: int = 0
    left_out: int = 0


class Log:
    def __init__(self, out: TextIO | None = None, clock: Callable[[], float] = time.time) -> None:
        self._out = sys.stderr if out is None else out
        self._clock = clock
        self._windows: dict[str, _Window] = {}

    def info(self, event: str, **fields: object) -> None:
        self._write(Level.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._write(Level.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._write(Level.ERROR, event, fields)

    def _write(self, level: Level, event: str, fields: dict[str, object]) -> None:
        now = self._clock()
        window = self._windows.get(event)
        left_out = 0
        if window is None or now - window.begun_s >= PERIOD_S:
            left_out = window.left_out if window else 0
            if len(self._windows) >= EVENTS_MAX:
                self._windows.clear()
            window = self._windows[event] = _Window(now)
        if window.written >= BURST:
            window.left_out += 1
            return
        window.written += 1
        record: dict[str, object] = {
            "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
            "level": level.value,
            "event": event,
        }
        # What strangers wrote may be in here: one line, whatever it holds.
        record.update((key, one_line(value) if isinstance(value, str) else value) for key, value in fields.items())
        if left_out:
            record["left_out"] = left_out
        try:
            self._out.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
            self._out.flush()
        except (OSError, ValueError):
            return  # nobody reads it any more: the service goes on
