"""What a question is given, and the few things several questions do alike."""

from __future__ import annotations

import os
import statistics
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from bench import programs
from bench.service import Service, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from bench.rows import Row

__all__ = ["NOISE", "Context", "Question", "in_turns", "noise_of", "ratio_of_medians", "warm_up"]

T = TypeVar("T")
NOISE = 1.3  # two separate runs that differ by less are the same


@dataclass(frozen=True, slots=True)
class Question:
    """`asks`: one sentence. `how` and `traps` are what docs/benchmarks.md prints. `run` measures and gives rows."""

    name: str
    asks: str
    how: str
    traps: str
    run: Callable[[Context], list[Row]]


@dataclass(slots=True)
class Context:
    work: Path
    quick: bool
    shown: bool = True
    install: bool = False  # peers may be fetched
    _payloads: dict[int, Path] = field(default_factory=dict)
    _services: int = 0

    @property
    def cpus(self) -> list[int]:
        return sorted(os.sched_getaffinity(0))

    def pick(self, full: Any, quick: Any) -> Any:
        return quick if self.quick else full

    def say(self, text: str) -> None:
        if self.shown:
            print(f"    {text}", file=sys.stderr, flush=True)

    def payload(self, size: int = 100) -> Path:
        if size not in self._payloads:
            self._payloads[size] = programs.payload_file(self.work, size)
        return self._payloads[size]

    def event(self, text: str) -> Path:
        """A file with this JSON text."""
        path = self.work / f"event-{text.encode().hex()[:120]}.json"
        path.write_text(text)
        return path

    @contextmanager
    def service(self, *, cpus: set[int] | None = None, **settings: Any) -> Iterator[Service]:
        self._services += 1
        with serving(self.work / f"service-{self._services}", cpus=cpus, **settings) as service:
            yield service


def warm_up(
    service: Service, name: str, *, payload: Path, seconds: float = 0.7, connections: int = 4, inflight: int = 64
) -> float:
    """Makes the sandboxes and lets the moving averages settle. Gives the calls per second of the second half. RuntimeError when
    an answer is wrong: no figure is taken from a service that answers nonsense."""
    spec = programs.stream(function=name, payload=payload, connections=connections, inflight=inflight)
    half = round(seconds * 500)
    done = programs.load(service.socket, spec, warmup_ms=half, duration_ms=half).only
    if done.mismatched or done.ok == 0:
        raise RuntimeError(f"{name}: {done.ok} answers, {done.mismatched} of them wrong, errors {done.errors}")
    return done.ok_per_s


def ratio_of_medians(ours: Sequence[float], floor: Sequence[float]) -> float:
    return statistics.median(ours) / statistics.median(floor)


def in_turns(turn: int, *sides: T) -> Sequence[T]:
    """What is compared, in the order of this turn: each comes first as often as last, so that a drift is nobody's."""
    return sides if turn % 2 == 0 else sides[::-1]


def noise_of(values: Sequence[float]) -> float:
    """How far above their median such figures come by themselves: greatest ÷ median, and NOISE at least. Something beside them
    changes nothing when the median with it is not further above theirs."""
    return max(NOISE, max(values) / statistics.median(values))
