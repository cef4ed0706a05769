"""One measured figure, and its verdict against a target.

A row without a target is information. A row that could not be measured says why; it is never left out and never guessed.
"""

from __future__ import annotations

import enum
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Row", "Spread", "Verdict", "at_least", "at_most", "info", "unmeasured", "within"]


class Verdict(enum.StrEnum):
    MET = "met"
    MISSED = "missed"
    INFO = "-"
    UNMEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Spread:
    """Median of repeated runs with the least and the greatest."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """ValueError when there are none."""
        if not values:
            raise ValueError("a spread of no values")
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`value` in `unit`; `ratio` against what `notes` names as the floor; `raw`: whatever the figure was made of."""

    name: str
    value: float | None
    unit: str
    target: str = ""
    verdict: Verdict = Verdict.INFO
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    notes: str = ""
    raw: dict[str, Any] = field(default_factory=dict)

    def to_map(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_map(cls, raw: dict[str, Any]) -> Row:
        return cls(**{**raw, "verdict": Verdict(raw["verdict"])})


def _row(name: str, value: float | Spread, unit: str, target: str, met: bool | None, more: dict[str, Any]) -> Row:
    verdict = Verdict.INFO if met is None else Verdict.MET if met else Verdict.MISSED
    if isinstance(value, Spread):
        more = {"low": value.low, "high": value.high, **more}
        value = value.median
    return Row(name=name, value=value, unit=unit, target=target, verdict=verdict, **more)


def _figure(value: float | Spread) -> float:
    return value.median if isinstance(value, Spread) else value


def _text(limit: float) -> str:
    return f"{limit:,.10g}"


def at_most(name: str, value: float | Spread, unit: str, limit: float, **more: Any) -> Row:
    return _row(name, value, unit, f"≤ {_text(limit)}", _figure(value) <= limit, more)


def at_least(name: str, value: float | Spread, unit: str, limit: float, **more: Any) -> Row:
    return _row(name, value, unit, f"≥ {_text(limit)}", _figure(value) >= limit, more)


def within(name: str, value: float | Spread, unit: str, low: float, high: float, **more: Any) -> Row:
    return _row(name, value, unit, f"{_text(low)} … {_text(high)}", low <= _figure(value) <= high, more)


def info(name: str, value: float | Spread, unit: str, **more: Any) -> Row:
    return _row(name, value, unit, "", None, more)


def unmeasured(name: str, unit: str, target: str, reason: str) -> Row:
    return Row(name=name, value=None, unit=unit, target=target, verdict=Verdict.UNMEASURED, notes=reason)
