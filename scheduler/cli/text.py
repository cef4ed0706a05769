"""Numbers as a human reads them: durations, sizes, ages, counts. No input, no output."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["age", "counts", "microseconds", "size"]


def microseconds(value_us: float) -> str:
    """A duration with three digits that matter: 8.25 µs, 41 µs, 1.20 ms, 3.00 s."""
    for limit, unit, factor in ((1e3, "µs", 1.0), (1e6, "ms", 1e3), (float("inf"), "s", 1e6)):
        if value_us < limit * 0.9995 or unit == "s":
            value = value_us / factor
            return f"{value:.2f} {unit}" if value < 10 else f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
    raise AssertionError("the last limit is infinite")


def size(count_bytes: int) -> str:
    """Bytes for a human, exact below 10 KB."""
    if count_bytes < 10_000:
        return f"{count_bytes:,} B"
    return f"{count_bytes / 1024:,.0f} KB" if count_bytes < 10 * 1024 * 1024 else f"{count_bytes / 1024 / 1024:,.1f} MB"


def counts(table: Mapping[str, int]) -> str:
    """`ok 10, timeout 2`: what is not zero."""
    return ", ".join(f"{key} {value:,}" for key, value in table.items() if value) or "none"


def age(moment: str) -> str:
    """An RFC 3339 moment as its distance from now; the text itself where it is none."""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    if then.tzinfo is None:
        return moment
    seconds = int((datetime.now(UTC) - then).total_seconds())
    if seconds < 5:
        return "now"
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return "now"
