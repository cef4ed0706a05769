"""python -m bench.run [QUESTION...] [--quick] [--peers] [--json FILE] [--compare FILE] [--summary]

Asks the questions, prints the table with every target's verdict, and writes bench/results/DATE.json. With --summary
(`make bench BENCH_ARGS=--summary`) also bench/summary.json, which README's table is made of, if all questions were asked.
Exit status 0 also when targets are missed: a benchmark tells, it does not judge. 1 when a question could not be answered.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from bench import machine, programs, report
from bench.context import Context
from bench.questions import QUESTIONS
from bench.rows import Row, unmeasured

if TYPE_CHECKING:
    from bench.context import Question

RESULTS = programs.ROOT / "bench" / "results"
SUMMARY = programs.ROOT / "bench" / "summary.json"


def _commit() -> str:
    words = ["git", "-C", str(programs.ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def ask(question: Question, ctx: Context) -> tuple[tuple[Row, ...], bool]:
    """Its rows; a question that breaks becomes a row that says why, so that the others are still asked."""
    try:
        return tuple(question.run(ctx)), True
    except Exception as error:  # a supervisor's: one broken measurement must not cost the other fourteen
        traceback.print_exc()
        return (unmeasured(f"{question.name}: {question.asks}", "", "", f"{type(error).__name__}: {error}"[:300]),), False


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.run", description="Measures the service and prints figures with verdicts.")
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=f"of: {', '.join(QUESTIONS)}; all when none is named")
    parser.add_argument("--quick", action="store_true", help="shorter and fewer runs, for development")
    parser.add_argument("--peers", action="store_true", help="fetch the peers that are not in the cache yet")
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--compare", type=Path, help="an earlier result to print ratios against")
    parser.add_argument("--summary", action="store_true", help="write bench/summary.json, which README's table is made of")
    given = parser.parse_args()
    unknown = [name for name in given.questions if name not in QUESTIONS]
    if unknown:
        parser.error(f"no question is called {', '.join(unknown)}; there are {', '.join(QUESTIONS)}")
    if given.summary and (given.questions or given.quick):
        parser.error("--summary needs a full run: no question named, no --quick")
    return given


def main() -> int:
    given = _arguments()
    then = report.Result.read(given.compare) if given.compare else None
    here = machine.describe()
    before, begin = machine.load_average(), time.monotonic()
    print(f"{here.line()}; load {before[0]:.2f}", file=sys.stderr)
    for name in programs.PROGRAMS:
        programs.build(name)
    answers: dict[str, tuple[Row, ...]] = {}
    whole = True
    chosen = given.questions or list(QUESTIONS)
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        ctx = Context(work=Path(work), quick=given.quick, install=given.peers)
        for number, name in enumerate(chosen, 1):
            question = QUESTIONS[name]
            print(f"[{number}/{len(chosen)}] {name}: {question.asks}", file=sys.stderr, flush=True)
            asked = time.monotonic()
            answers[name], fine = ask(question, ctx)
            whole = whole and fine
            print(report.plain(answers[name]), flush=True)
            print(f"    {time.monotonic() - asked:.1f} s", file=sys.stderr, flush=True)
    result = report.Result(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        quick=given.quick,
        commit=_commit(),
        machine=here.to_map(),
        machine_line=here.line(),
        load_before=before,
        load_after=machine.load_average(),
        seconds=round(time.monotonic() - begin, 1),
        answers=answers,
    )
    RESULTS.mkdir(exist_ok=True)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    path = RESULTS / f"{stamp}{'-quick' if given.quick else ''}.json"
    for target in filter(None, (path, given.json)):
        target.write_text(result.to_json())
    print(f"\n{report.markdown(result)}\n{result.seconds:.0f} s; all of it in {path.relative_to(programs.ROOT)}")
    if then is not None:
        print(report.compared(result, then))
    if given.summary:
        SUMMARY.write_text(result.without_raw().to_json())
        print(f"{SUMMARY.relative_to(programs.ROOT)} is new: python -m bench.table README.md")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
