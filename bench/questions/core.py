"""The core alone on virtual time: steps per second of a large simulation, and whether a limit is ever overshot."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from bench.context import Question
from bench.programs import ROOT
from bench.rows import Row, at_least, at_most, unmeasured

if TYPE_CHECKING:
    from bench.context import Context

STEPS_PER_S = 1_000_000
IDLE_RATIO = 1.10
PROGRAM = ROOT / "build" / "bench" / "bench_core"
OVERSHOOT = "concurrency limit overshoot in 1e6 random steps"
SIMULATION = "core simulation, 1,000 functions × 10,000 sandboxes"


def run(ctx: Context) -> list[Row]:
    if not (ROOT / "native" / "tests" / "bench_core.c").exists():
        reason = "native/tests/bench_core.c is not there"
        return [unmeasured(OVERSHOOT, "calls", "≤ 0", reason), unmeasured(SIMULATION, "steps/s", "≥ 1,000,000", reason)]
    made = subprocess.run(
        ["make", "-s", "--no-print-directory", "-C", str(ROOT), str(PROGRAM.relative_to(ROOT))],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise RuntimeError(f"bench_core does not build: {made.stderr.strip()}")
    done = subprocess.run([PROGRAM, "--json"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"bench_core ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    found = json.loads(done.stdout[done.stdout.index("{") :])
    ctx.say(str(found))
    return [
        at_most(
            OVERSHOOT,
            found["limit_overshoot"],
            "calls",
            0,
            notes=f"{found['limit_steps']:,} steps, {found['limit_refused']:,} calls refused",
            raw=found,
        ),
        at_least(SIMULATION, found["steps_per_s"], "steps/s", STEPS_PER_S),
        at_most(
            f"a core step beside {found['idle_sandboxes']:,} idle sandboxes",
            found["idle_step_ratio"],
            "×",
            IDLE_RATIO,
            notes=f"against one without them; {found['sandbox_bytes']} bytes of the core for each",
        ),
    ]


QUESTION = Question(
    name="core",
    asks=("Is a concurrency limit ever overshot, and how fast is the core by itself?"),
    how=(
        "A C program feeds the core random events on virtual time and checks every account after each step; no input or output."
    ),
    traps=("A step is one event with all its consequences; nothing but the core runs."),
    run=run,
)
