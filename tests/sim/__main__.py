"""python -m tests.sim: run seeds, hunt for hours, replay a record.

    python -m tests.sim --seed 7                        one run
    python -m tests.sim --seed 0 --count 200            a range, as CI does
    python -m tests.sim --seed 1000000 --minutes 480 --events 20000    a night
    python -m tests.sim --replay found/seed7.json       judge a record again

A failing seed is shrunk and written to build/sim/; the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.sim.replay import Recorder, isolated, judge_record, load, shrink, to_c
from tests.sim.world import Fault, Report, World

FOUND = Path("build/sim")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1, help="so many seeds from --seed on")
    parser.add_argument("--events", type=int, default=1500, help="events a run")
    parser.add_argument("--minutes", type=float, default=0.0, help="go on with further seeds for so long")
    parser.add_argument("--faults", default=None, help="comma list, or 'none'; default: drawn by the seed")
    parser.add_argument("--replay", type=Path, default=None, help="judge a record instead")
    parser.add_argument("--as-c", action="store_true", help="with --replay: print the record as C")
    parser.add_argument("--no-shrink", action="store_true")
    return parser.parse_args(argv)


def faults_of(text: str | None) -> set[Fault] | None:
    if text is None:
        return None
    return set() if text == "none" else {Fault[name.strip().upper()] for name in text.split(",")}


def run_one(seed: int, events: int, faults: set[Fault] | None) -> tuple[Report | None, str | None]:
    def go() -> Report:
        return World(seed, events=events, faults=faults).run()

    return isolated(go)


def smaller(seed: int, events: int, faults: set[Fault] | None) -> int:
    """Fewest events, about, with which this seed still fails."""
    while events > 20:
        fewer = events * 3 // 4
        if run_one(seed, fewer, faults)[1] is None:
            return events
        events = fewer
    return events


def report_failure(seed: int, events: int, faults: set[Fault] | None, verdict: str, *, do_shrink: bool) -> None:
    events = smaller(seed, events, faults)
    FOUND.mkdir(parents=True, exist_ok=True)
    path = FOUND / f"seed{seed}.json"

    def record() -> None:
        with path.open("w") as out:
            World(seed, events=events, faults=faults, recorder=Recorder(out)).run()

    again = isolated(record)[1]
    print(f"seed {seed}: {again or verdict}")
    if do_shrink and path.exists():
        found = load(path)
        small = shrink(found, again or verdict, log=lambda text: print(f"  shrinking: {text}", file=sys.stderr))
        small.write(path)
        print(f"  {small.events()} events: python -m tests.sim --replay {path}")
    names = "" if faults is None else f" --faults {','.join(sorted(f.name for f in faults)) or 'none'}"
    print(f"  make sim SEED={seed} EVENTS={events}    (python -m tests.sim --seed {seed} --events {events}{names})")


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.replay is not None:
        record = load(options.replay)
        if options.as_c:
            print(to_c(record))
            return 0
        value, ended = isolated(lambda: judge_record(record))
        print(value or ended or "nothing to object to")
        return 1 if value or ended else 0
    faults = faults_of(options.faults)
    begun = time.monotonic()
    failed = runs = events = 0
    seed = options.seed
    while runs < options.count or time.monotonic() - begun < options.minutes * 60:
        report, verdict = run_one(seed, options.events, faults)
        if verdict is not None:
            failed += 1
            report_failure(seed, options.events, faults, verdict, do_shrink=not options.no_shrink)
        elif report is not None:
            events += report.events
            if options.count == 1 and not options.minutes:
                print(report)
        runs += 1
        seed += 1
    took = time.monotonic() - begun
    print(f"{runs} seeds, {events} events, {failed} failed, {took:.1f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
