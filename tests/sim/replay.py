"""Recorded runs: written step by step, judged again without the world, shrunk, printed as a C array.

A record is a JSON file of lines: first the core's settings, then one line [now_ns, [events]] for each step. The judge needs no
more than that, so a record is a bug report.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from tests.model.core_binding import Core, Ev, Event
from tests.sim.judge import Judge, Settings, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import TextIO

__all__ = ["Record", "Recorder", "isolated", "judge_record", "kind_of", "load", "shrink", "to_c"]

Step = tuple[int, list[Event]]


class Record:
    """Settings of the core and of the judge, and the steps."""

    def __init__(self, core: dict[str, int], settings: Settings, steps: Sequence[Step]) -> None:
        self.core = core
        self.settings = settings
        self.steps = list(steps)

    def with_steps(self, steps: Sequence[Step]) -> Record:
        return Record(self.core, self.settings, steps)

    def events(self) -> int:
        return sum(len(events) for _, events in self.steps)

    def write(self, path: Path) -> None:
        with path.open("w") as out:
            recorder = Recorder(out)
            recorder.begin(self.core, self.settings)
            for now, events in self.steps:
                recorder.step(now, events)


class Recorder:
    """Writes before the core steps, so that the step in which it aborts is there too."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def begin(self, core: dict[str, int], settings: Settings) -> None:
        self._line({"core": core, "settings": asdict(settings)})

    def step(self, now_ns: int, events: Sequence[Event]) -> None:
        self._line([now_ns, [event.to_json() for event in events]])

    def _line(self, value: Any) -> None:
        self._out.write(json.dumps(value) + "\n")
        self._out.flush()


def load(path: Path) -> Record:
    with path.open() as source:
        head = json.loads(source.readline())
        steps = [(now, [Event.from_json(event) for event in events]) for now, events in map(json.loads, source)]
    return Record(head["core"], Settings(**head["settings"]), steps)


def judge_record(record: Record, *, every: int = 1) -> str | None:
    """What the judge says to it, None: nothing. Between the recorded steps the core is called whenever it wants to be."""
    core = Core(**record.core)
    judge = Judge(core, record.settings, every=every)
    try:
        for now, events in record.steps:
            while (due := core.next_ns()) < now:
                judge.observe(due, list(core.turns(due, [])))
            judge.observe(now, list(core.turns(now, events)))
    except Violation as verdict:
        return str(verdict)
    return None


def isolated(what: Callable[[], Any]) -> tuple[Any, str | None]:
    """Runs it in a child process: (its value, None), or (None, how it ended). The core aborts on a broken invariant."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read)
            try:
                answer = pickle.dumps((what(), None))
            except Violation as verdict:
                answer = pickle.dumps((None, str(verdict)))
            with os.fdopen(write, "wb") as out:
                out.write(answer)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as source:
        answer = source.read()
    _, status = os.waitpid(child, 0)
    if answer and status == 0:
        value, verdict = pickle.loads(answer)
        return value, verdict
    return None, f"the core aborted (status {status}); its words are on stderr"


def kind_of(verdict: str) -> str:
    """The rule that was broken, without times and names: shrinking must not slide into another one."""
    text = re.sub(r"^at \d+: ", "", verdict)
    return re.split(r"[:{(\[]|\d", text)[0][:40]


def shrink(record: Record, verdict: str, *, log: Callable[[str], None] = lambda _: None) -> Record:
    """Leaves out whatever is not needed for the same verdict (delta debugging, Zeller 1999)."""
    kind = kind_of(verdict)
    flat = [(now, event) for now, events in record.steps for event in events]

    def still(items: Sequence[tuple[int, Event]]) -> bool:
        candidate = record.with_steps(_grouped(items, record.steps[-1][0]))
        found = isolated(lambda: judge_record(candidate))
        told = found[0] or found[1]
        return told is not None and kind_of(told) == kind

    if not still(flat):
        return record  # only the simulated world saw it
    size = max(1, len(flat) // 2)
    while True:
        position, removed = 0, False
        while position < len(flat):
            fewer = flat[:position] + flat[position + size :]
            if fewer and still(fewer):
                flat, removed = fewer, True
            else:
                position += size
        log(f"{len(flat)} events")
        if size == 1 and not removed:
            return record.with_steps(_grouped(flat, record.steps[-1][0]))
        size = max(1, size // 2)


def _grouped(items: Sequence[tuple[int, Event]], end_ns: int) -> list[Step]:
    steps: list[Step] = []
    for now, event in items:
        if steps and steps[-1][0] == now:
            steps[-1][1].append(event)
        else:
            steps.append((now, [event]))
    if not steps or steps[-1][0] < end_ns:
        steps.append((end_ns, []))  # time itself may be what breaks the rule
    return steps


_MEMBERS = {
    Ev.ACCOUNT_PUT: "account",
    Ev.ACCOUNT_REMOVE: "account",
    Ev.FUNCTION_PUT: "function",
    Ev.FUNCTION_SWITCH: "function",
    Ev.FUNCTION_REMOVE: "function",
    Ev.INVOKE: "invoke",
    Ev.CANCEL: "cancel",
    Ev.REPLY: "reply",
    Ev.PROGRESS: "reply",
    Ev.DRAIN: "drain",
}


def to_c(record: Record) -> str:
    """The record as C, for a unit test or a debugger."""
    lines = [f"/* core: {json.dumps(record.core)} */"]
    lines.append("static const struct { uint64_t now_ns; struct core_event event; } recorded[] = {")
    for now, events in record.steps:
        for event in events or [Event.of(Ev.TICK)]:
            fields = ", ".join(f".{name} = {_c_value(value)}" for name, value in event.fields.items())
            member = _MEMBERS.get(event.kind, "sandbox")
            union = f", .u.{member} = {{{fields}}}" if fields else ""
            lines.append(f"    {{{now}ULL, {{.kind = {_c_kind(event.kind)}{union}}}}},")
    return "\n".join([*lines, "};", ""])


def _c_kind(kind: Ev) -> str:
    sandbox = {Ev.WANT, Ev.READY, Ev.INIT_FAILED, Ev.GONE, Ev.REAPED, Ev.USAGE, Ev.RETIRE}
    return f"CORE_EV_SANDBOX_{kind.name}" if kind in sandbox else f"CORE_EV_{kind.name}"


def _c_value(value: int | list[int]) -> str:
    if isinstance(value, list):
        return "{" + ", ".join(str(each) for each in value) + "}"
    return f"{value}ULL" if value > 0x7FFFFFFF else str(value)
