"""200 seeds of the simulator, the seeds that once failed, and proof that the judge objects when the core is wrong."""

from __future__ import annotations

import dataclasses
import faulthandler
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.model.core_binding import Act, Core, Ev, Event, Outcome, account_put, function_put, invoke
from tests.sim.__main__ import main, run_one
from tests.sim.judge import Judge, Settings, Violation
from tests.sim.replay import Record, Recorder, isolated, judge_record, kind_of, load, shrink, to_c
from tests.sim.world import Fault, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.model.core_binding import Action

SEEDS = [
    (int(line.split()[0]), int(line.split()[1]))
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
CHUNK = 20


@pytest.mark.parametrize(("seed", "events"), SEEDS)
def test_seeds_that_once_failed(seed: int, events: int) -> None:
    assert run_one(seed, events, None)[1] is None


@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 10_200, CHUNK))
def test_fresh_seeds(first: int) -> None:
    total = dict.fromkeys(Outcome, 0)
    for seed in range(first, first + CHUNK):
        report, verdict = run_one(seed, 1500, None)
        assert verdict is None, f"make sim SEED={seed} EVENTS=1500\n{verdict}"
        assert report is not None
        for name, count in report.outcomes.items():
            total[Outcome[name]] += count
    assert total[Outcome.OK] > 50 * CHUNK // 2, f"the world does too little: {total}"


@pytest.mark.parametrize("fault", [None, *Fault])
def test_each_fault_alone(fault: Fault | None) -> None:
    assert run_one(77, 800, {fault} if fault else set())[1] is None


def test_same_seed_same_run() -> None:
    reports = [World(11, events=600).run() for _ in range(2)]
    assert reports[0] == reports[1]


def test_without_faults_every_call_succeeds_or_is_refused() -> None:
    report = World(5, events=3000, faults=set()).run()
    assert not {"TIMEOUT", "SANDBOX_DIED", "INIT_FAILED", "INTERNAL", "NOT_FOUND"} & set(report.outcomes)


# ---- who watches the judge -----------------------------------------------------------------------------------------------

SETTINGS = Settings(
    calls_max=64,
    sandboxes_max=8,
    ahead_max=4,
    starting_max=4,
    ahead_window_ns=2_000_000,
    init_timeout_ns=500_000_000,
    idle_timeout_ns=2_000_000_000,
    reap_timeout_ns=100_000_000,
)
F = 1 << 32


def tampered(change: Callable[[list[Action]], None], events: list[Event], settings: Settings = SETTINGS) -> None:
    """The judge sees what a wrong core would have done."""
    core = Core(**SETTINGS.of_core())
    judge = Judge(core, settings)
    now = 10**9
    setup = [account_put(1, 0), account_put(2, 1), function_put(F, 2)]
    judge.observe(now, list(core.turns(now, setup)))
    for event in events:
        now += 1000
        turns = list(core.turns(now, [event]))
        for _, actions in turns:
            change(actions)
        judge.observe(now, turns)


def drop(kind: Act) -> Callable[[list[Action]], None]:
    def change(actions: list[Action]) -> None:
        actions[:] = [action for action in actions if action.kind != kind]

    return change


def twice(kind: Act) -> Callable[[list[Action]], None]:
    def change(actions: list[Action]) -> None:
        actions[:] = [copy for a in actions for copy in ([a, dataclasses.replace(a)] if a.kind == kind else [a])]

    return change


def altered(kind: Act, **fields: int) -> Callable[[list[Action]], None]:
    def change(actions: list[Action]) -> None:
        for action in actions:
            if action.kind == kind:
                for name, value in fields.items():
                    setattr(action, name, value)

    return change


SANDBOX = 1 << 32
LIFE = [
    invoke(F, 1),
    Event.of(Ev.READY, handle=SANDBOX, init_ns=5, tier=2),
    Event.of(Ev.REPLY, sandbox=SANDBOX, seq=1, status=0, start_ns=10**9 + 2500, end_ns=10**9 + 2600),
    Event.of(Ev.RETIRE, handle=SANDBOX),
    Event.of(Ev.REAPED, handle=SANDBOX, cause=4, status=9),
    invoke(F + 1, 2),
]


def test_the_judge_passes_the_true_core() -> None:
    tampered(lambda _: None, LIFE)


@pytest.mark.parametrize("kind", [Act.SEND, Act.ANSWER, Act.NEED, Act.KILL, Act.FREED, Act.QUEUED])
def test_the_judge_objects_to_an_action_left_out(kind: Act) -> None:
    with pytest.raises(Violation):
        tampered(drop(kind), LIFE)


@pytest.mark.parametrize("kind", [Act.SEND, Act.ANSWER, Act.NEED, Act.KILL, Act.FREED, Act.QUEUED])
def test_the_judge_objects_to_an_action_done_twice(kind: Act) -> None:
    with pytest.raises(Violation):
        tampered(twice(kind), LIFE)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Act.SEND, {"seq": 2}),
        (Act.SEND, {"sandbox": SANDBOX + 1}),
        (Act.SEND, {"function": F + 1}),
        (Act.ANSWER, {"outcome": int(Outcome.TIMEOUT)}),
        (Act.ANSWER, {"arrive_ns": 1}),
        (Act.ANSWER, {"end_ns": 1}),
        (Act.ANSWER, {"cancelled": 1}),
        (Act.KILL, {"why": 3}),
        (Act.KILL, {"why": 1}),
    ],
)
def test_the_judge_objects_to_an_action_altered(kind: Act, fields: dict[str, int]) -> None:
    with pytest.raises(Violation):
        tampered(altered(kind, **fields), LIFE)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"ahead_max": 1}, "more than"),
        ({"idle_timeout_ns": 1_000_000}, "idle for too long"),
        ({"idle_timeout_ns": 60_000_000_000}, "idle too early"),
        ({"init_timeout_ns": 100_000}, "starts for too long"),
        ({"sandboxes_max": 1}, "more sandboxes"),
        ({"calls_max": 1}, "had to be refused"),
    ],
)
def test_the_judge_objects_when_it_was_told_another_bound(changes: dict[str, int], rule: str) -> None:
    verdicts = []
    for seed in range(2, 12):
        world = World(seed, events=2500, faults={Fault.BURST})
        world.judge.settings = dataclasses.replace(world.settings, **changes)
        # What was learnt it would compare first, and say so of each bound of patience.
        want = world.judge._want
        world.judge._want = lambda holds, text, want=want: want(holds or text.startswith("gaps and window"), text)
        try:
            world.run()
        except Violation as verdict:
            verdicts.append(str(verdict))
    assert any(rule in verdict for verdict in verdicts), verdicts


# ---- records -----------------------------------------------------------------------------------------------------------------


def failing_record(tmp_path: Path) -> Record:
    """A run whose judge believes in one sandbox at most: it fails as soon as there is a second."""
    path = tmp_path / "record.json"
    with path.open("w") as out:
        World(2, events=300, faults=set(), recorder=Recorder(out)).run()
    record = load(path)
    return Record(record.core, dataclasses.replace(record.settings, sandboxes_max=1), record.steps)


def test_a_record_is_judged_as_the_run_was(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    with path.open("w") as out:
        World(3, events=400, recorder=Recorder(out)).run()
    assert judge_record(load(path)) is None
    assert main(["--replay", str(path)]) == 0


def test_a_record_shrinks_to_what_matters(tmp_path: Path) -> None:
    record = failing_record(tmp_path)
    verdict = judge_record(record)
    assert verdict is not None
    small = shrink(record, verdict)
    assert small.events() <= 8, "an account or two, a function or two, and two calls"
    again = judge_record(small)
    assert again is not None
    assert kind_of(again) == kind_of(verdict)
    small.write(tmp_path / "small.json")
    assert main(["--replay", str(tmp_path / "small.json")]) == 1
    assert "CORE_EV_INVOKE" in to_c(small)


def test_an_abort_of_the_core_is_a_verdict() -> None:
    def die() -> None:
        faulthandler.disable()  # its report would look like the suite's own end
        os.abort()

    value, verdict = isolated(die)
    assert value is None
    assert verdict is not None
    assert "aborted" in verdict
