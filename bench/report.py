"""A run as data: written, read back, compared, and drawn as a table.

Law of this file: no measuring. Results go in as rows, text and JSON come out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bench.rows import Row, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Result", "compared", "figure", "markdown", "plain"]

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run. `answers`: rows by question, in order. `machine`: bench.machine's map and line. Loads are load averages."""

    date: str
    quick: bool
    commit: str
    machine: dict[str, Any]
    machine_line: str
    load_before: tuple[float, ...]
    load_after: tuple[float, ...]
    seconds: float
    answers: dict[str, tuple[Row, ...]]

    @property
    def rows(self) -> list[Row]:
        return [row for rows in self.answers.values() for row in rows]

    @property
    def missed(self) -> list[Row]:
        return [row for row in self.rows if row.verdict in (Verdict.MISSED, Verdict.UNMEASURED)]

    def without_raw(self) -> Result:
        """For the committed summary: the figures and what they stand on, not each run's details."""
        answers = {name: tuple(replace(row, raw={}) for row in rows) for name, rows in self.answers.items()}
        return replace(self, answers=answers)

    def to_json(self) -> str:
        answers = {name: [row.to_map() for row in rows] for name, rows in self.answers.items()}
        fields = ("date", "quick", "commit", "machine", "machine_line", "load_before", "load_after", "seconds")
        head = {"version": VERSION, **{name: getattr(self, name) for name in fields}}
        return json.dumps({**head, "answers": answers}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> Result:
        """ValueError when the file is of another version."""
        raw = json.loads(path.read_text())
        if raw.pop("version", None) != VERSION:
            raise ValueError(f"{path}: not a result of version {VERSION}")
        answers = {name: tuple(Row.from_map(row) for row in rows) for name, rows in raw.pop("answers").items()}
        return cls(**{**raw, "load_before": tuple(raw["load_before"]), "load_after": tuple(raw["load_after"])}, answers=answers)


def figure(value: float | None) -> str:
    """Three significant digits or so, thousands apart."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 4
    return f"{value:,.{digits}f}"


def _value(row: Row) -> str:
    text = f"{figure(row.value)} {row.unit}".strip() if row.value is not None else "–"
    if row.low is not None and row.high is not None:
        text += f" ({figure(row.low)} … {figure(row.high)})"
    return text


def markdown(result: Result) -> str:
    """The README's table: every figure that has a target, with its verdict, then what it was measured on."""
    lines = ["| what | measured | target | verdict |", "|---|---|---|---|"]
    for row in result.rows:
        if row.verdict is Verdict.INFO:
            continue
        note = f"<br><sub>{row.notes}</sub>" if row.notes else ""
        lines.append(f"| {row.name}{note} | {_value(row)} | {row.target} | {row.verdict} |")
    met = sum(row.verdict is Verdict.MET for row in result.rows)
    judged = sum(row.verdict is not Verdict.INFO for row in result.rows)
    before, after = result.load_before[0], result.load_after[0]
    lines += [
        "",
        f"{met} of {judged} met. Measured on {result.date} at commit {result.commit}: {result.machine_line}; load average "
        f"{before:.1f} before and {after:.1f} after. Median of repeated runs, least and greatest in brackets. Trust ratios, "
        "not absolute times: `docs/benchmarks.md` says how each figure is made.",
    ]
    if result.quick:
        lines[-1] = "A quick run, good for a first look only. " + lines[-1]
    return "\n".join(lines) + "\n"


def plain(rows: Sequence[Row], width: int = 150) -> str:
    """For a terminal; notes on a line of their own."""
    lines = []
    for row in rows:
        ratio = f"{row.ratio:.2f} ×" if row.ratio is not None else ""
        lines.append(f"{row.name[:72]:<72} {_value(row):>34}  {row.target:>16}  {ratio:>8}  {row.verdict}")
        if row.notes:
            lines.append(f"    {row.notes}"[:width])
    return "\n".join(lines)


def compared(now: Result, then: Result) -> str:
    """Every figure against another run's: now ÷ then."""
    old = {row.name: row for row in then.rows}
    lines = [f"against {then.date} at {then.commit} (now ÷ then):"]
    for row in now.rows:
        before = old.get(row.name)
        if before is None or not before.value or row.value is None:
            continue
        lines.append(
            f"{row.name[:72]:<72} {figure(before.value):>12} → {figure(row.value):>12} {row.value / before.value:>8.2f} ×"
        )
    return "\n".join(lines)
