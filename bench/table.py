"""python -m bench.table [--check] FILE...

Writes the table of bench/summary.json between the markers of each FILE, and what the questions say of themselves between
theirs. --check: change nothing, exit 1 when a file is out of step.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench import report
from bench.questions import QUESTIONS
from bench.run import SUMMARY

__all__ = ["filled"]

MARKS = {
    "table": ("<!-- bench:begin -->", "<!-- bench:end -->"),
    "questions": ("<!-- questions:begin -->", "<!-- questions:end -->"),
}


def _questions() -> str:
    return "\n".join(f"### {q.name}\n\n*{q.asks}*\n\n{q.how}\n\nTraps: {q.traps}\n" for q in QUESTIONS.values())


def _between(text: str, marks: tuple[str, str], inside: str) -> str:
    begin, end = marks
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"needs {begin} and {end}, once each and in that order")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{inside}{end}{rest.split(end)[1]}"


def filled(text: str, summary: Path = SUMMARY) -> str:
    """The text with whatever belongs between its markers. ValueError when it has none, or broken ones."""
    made = text
    if MARKS["table"][0] in text:
        made = _between(made, MARKS["table"], report.markdown(report.Result.read(summary)))
    if MARKS["questions"][0] in text:
        made = _between(made, MARKS["questions"], _questions())
    if not any(begin in text for begin, _ in MARKS.values()):
        raise ValueError(f"has no marker: {MARKS['table'][0]}")
    return made


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.table")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    stale = []
    for path in given.files:
        text = path.read_text()
        try:
            made = filled(text)
        except ValueError as error:
            parser.error(f"{path}: {error}")
        if made != text:
            stale.append(path)
            if not given.check:
                path.write_text(made)
    for path in stale:
        print(f"{path}: {'out of step with bench/summary.json' if given.check else 'written'}")
    return 1 if stale and given.check else 0


if __name__ == "__main__":
    sys.exit(main())
