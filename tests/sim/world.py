"""The simulated world round the real core: clients, sandboxes, faults, virtual time from a heap, one seed.

No clock, no threads, no trio: the same seed gives the same run on every machine. Each run first draws its *swarm*: which
faults exist in it at all. A run where everything goes wrong at once finds less than many runs where a few things do.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from tests.model.core_binding import (
    Act,
    Cause,
    Core,
    Ev,
    Event,
    Outcome,
    Reply,
    Resource,
    State,
    Tier,
    account_put,
    function_put,
    invoke,
)
from tests.sim.judge import LAST_WORD, Judge, Settings, Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.model.core_binding import Action
    from tests.sim.replay import Recorder

__all__ = ["Fault", "Report", "World"]

US = 1_000
MS = 1_000_000
S = 1_000_000_000


class Fault(Enum):
    """What may go wrong. A run has a random subset."""

    CRASH = "a sandbox dies while it runs a call"
    HANG = "a handler never returns"
    OUTLIER = "a call takes a hundred times as long"
    INIT_FAILS = "a sandbox's start fails"
    INIT_HANGS = "a sandbox never gets ready"
    LAUNCH_FAILS = "a sandbox cannot be made"
    FORGED = "a reply with a wrong seq or status"
    DUPLICATE = "a reply comes twice"
    LATE = "replies of killed sandboxes still arrive"
    SLOW_REAP = "the cause of a death comes late"
    REAP_FIRST = "a sandbox is reaped before its channel is seen closed"
    CANCEL = "callers give up"
    DEADLINE = "callers have little time"
    BURST = "many calls at one moment"
    ACCOUNTS = "limits change"
    DEPLOY = "functions change revision"
    REMOVE = "functions go and come"
    RETIRE = "sandboxes are retired, others wanted"
    STALE = "events with handles that never were or are no more"
    LATE_STEPS = "the reactor comes late"
    TIGHT = "memory, sandboxes, calls and queues are scarce"
    SMALL_BATCH = "few actions fit into a step"
    DRAIN = "the service stops under load"
    FLOOR = "sandboxes are provisioned, more and fewer"


LATER = {Fault.FLOOR}  # drawn from a stream of their own, so that older seeds stay what they were


@dataclass(slots=True)
class Profile:
    """How one simulated function behaves; times in ns."""

    index: int
    account: int
    tenant: int
    generation: int
    revision: int
    memory_mb: int
    timeout_ns: int
    queue_timeout_ns: int
    ahead_max: int
    mean_ns: int
    shape: str
    rate: float  # calls a second, open loop; 0: closed loop
    clients: int  # calls kept in flight, closed loop
    provisioned: int = 0
    alive: bool = True

    @property
    def handle(self) -> int:
        return self.generation << 32 | self.index

    def put(self) -> Event:
        return function_put(
            self.handle,
            self.account,
            revision=self.revision,
            memory_mb=self.memory_mb,
            timeout_ns=self.timeout_ns,
            queue_timeout_ns=self.queue_timeout_ns,
            ahead_max=self.ahead_max,
            provisioned=self.provisioned,
        )


@dataclass(slots=True, eq=False)
class FakeSandbox:
    """Behaves as channel.md says, until a fault."""

    handle: int
    profile: Profile
    inbox: deque[tuple[int, int, int]] = field(default_factory=deque)  # seq, cookie, valid_until
    progress: int = 0
    running: int = 0  # cookie
    unsent: list[Event] = field(default_factory=list)
    unsent_since_ns: int = 0
    slow_seen: int = 0  # calls left for which replies are flushed at once
    delivered_ns: int = 0  # the channel keeps its order
    alive: bool = True
    closed: bool = False  # GONE given
    liar: bool = False
    cpu_ns: int = 0
    again_ns: int = 0  # a second attempt to start: its first call's time runs since then


@dataclass(slots=True)
class Report:
    seed: int
    faults: list[str]
    events: int
    steps: int
    virtual_s: float
    outcomes: dict[str, int]
    sends: int
    ahead: int


class World:
    """One run; a recorder gets every step's time and events: enough to judge it again without the world."""

    def __init__(
        self, seed: int, *, events: int = 1500, faults: set[Fault] | None = None, recorder: Recorder | None = None
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.more = random.Random(f"{seed} pool")
        drawn = {fault for fault in Fault if fault not in LATER and self.rng.random() < 0.3}
        drawn |= {fault for fault in LATER if self.more.random() < 0.3}
        self.faults = drawn if faults is None else faults
        self.events_left = events
        self.events = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._pushed = 0
        self._inbox: list[Event] = []
        self._step_at = -1
        self.cookies = 0
        self.started: dict[int, int] = {}
        self.excused: set[int] = set()  # cookies that were in a lying sandbox
        self.handles: dict[int, int] = {}  # cookie -> call handle, while alive
        self.closed_loop: dict[int, Profile] = {}  # cookie -> whose client calls again once it is answered
        self.sandboxes: dict[int, FakeSandbox] = {}
        self.dead: list[int] = []
        self.calm = False
        self.recorder = recorder
        self._draw()
        if recorder is not None:
            recorder.begin(self.core_settings, self.settings)

    # ---- drawing a run -------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        rng = self.rng
        self.now = rng.choice([1, 7 * S, 2**52 - rng.randrange(S), 2**52 + 5, 3 * 2**52 - 70_000, 2**60])
        tight = Fault.TIGHT in self.faults
        self.settings = Settings(
            calls_max=rng.choice([4, 16, 40]) if tight else 400,
            sandboxes_max=rng.choice([1, 2, 5]) if tight else 48,
            ahead_max=rng.choice([1, 2, 8, 32]),
            starting_max=rng.choice([1, 4, 64]),
            ahead_window_ns=rng.choice([100 * US, 2 * MS, 10 * MS]),
            init_timeout_ns=500 * MS,
            idle_timeout_ns=rng.choice([30 * MS, 300 * MS, 2 * S]),
            reap_timeout_ns=100 * MS,
            late_ns=5 * MS if Fault.LATE_STEPS in self.faults else 0,
        )
        self.core_settings = {
            "actions_max": 96 if Fault.SMALL_BATCH in self.faults else 600,
            "functions_max": 16,
            "accounts_max": 32,
        }
        self.settings = replace(self.settings, cold_start_guess_ns=rng.choice([1 * MS, 15 * MS]))
        self.settings = replace(self.settings, cpus=rng.choice([1, 2, 8]), **self._patience())
        self.core_settings |= self.settings.of_core()
        self.core = Core(**self.core_settings)
        self.judge = Judge(self.core, self.settings, every=7)
        self.profiles: list[Profile] = []
        self.account_events: list[Event] = [account_put(0, 0xFFFF, limits=self._limits(tight, node=True))]
        account = 1
        for _ in range(rng.randint(1, 3)):
            tenant = account
            account += 1
            self.account_events.append(
                account_put(tenant, 0, weight=rng.choice([1, 100, 300, 10000]), limits=self._limits(tight))
            )
            for _ in range(rng.randint(1, 4)):
                self.account_events.append(
                    account_put(
                        account,
                        tenant,
                        limits=self._limits(tight),
                        guarantee=rng.choice([0, 0, 1, 3]),
                        burst=rng.choice([1, 20]),
                    )
                )
                self.profiles.append(self._profile(len(self.profiles), account, tenant))
                account += 1
        self._inbox += self.account_events
        self._inbox += [profile.put() for profile in self.profiles]

    def _patience(self) -> dict[str, int]:
        """How sandboxes are kept and worn, in a world that lasts seconds."""
        more = self.more
        least = more.choice([5 * MS, 40 * MS])
        return {
            "idle_min_ns": least,
            "idle_max_ns": least + more.choice([10 * MS, 900 * MS]),
            "idle_grain_ns": more.choice([1 * MS, 20 * MS, S]),
            "age_max_ns": more.choice([0, 0, 80 * MS, S]),
            "sandbox_calls_max": more.choice([0, 0, 1, 40]),
        }

    def _limits(self, tight: bool, *, node: bool = False) -> dict[Resource, int]:
        rng = self.rng
        limits = {}
        if node or rng.random() < 0.6:
            limits[Resource.CONCURRENCY] = rng.choice([8, 12, 20]) if node else rng.choice([1, 2, 3, 8])
            if not node and rng.random() < 0.05:
                limits[Resource.CONCURRENCY] = 0
        if tight or rng.random() < 0.2:
            limits[Resource.MEMORY] = rng.choice([200, 256, 600]) if tight else 4096
            limits[Resource.QUEUED_CALLS] = rng.choice([1, 5, 30, 100])
            limits[Resource.QUEUED_BYTES] = rng.choice([900, 5000, 50_000])
        if not node and rng.random() < 0.1:
            limits[Resource.RATE] = rng.choice([0, 100, 1000])
        return limits

    def _profile(self, index: int, account: int, tenant: int) -> Profile:
        rng = self.rng
        mean = rng.choice([5 * US, 30 * US, 300 * US, 5 * MS, 60 * MS])
        closed = rng.random() < 0.5
        return Profile(
            index=index,
            account=account,
            tenant=tenant,
            generation=rng.randint(1, 5),
            revision=1,
            memory_mb=rng.choice([64, 128, 200]),
            timeout_ns=rng.choice([20 * MS, 200 * MS, 3 * S]) + mean,
            queue_timeout_ns=rng.choice([0, 5 * MS, 200 * MS, 1 * S]),
            ahead_max=rng.choice([0, 0, 1, 4]),
            mean_ns=mean,
            shape=rng.choice(["constant", "exponential", "bimodal"]),
            rate=0.0 if closed else min(rng.choice([0.2, 0.8, 3.0]) * S / mean, rng.choice([300.0, 5000.0, 20_000.0])),
            clients=rng.choice([1, 3, 20, 70]) if closed else 0,
            provisioned=self.more.choice([0, 0, 1, 4]) if Fault.FLOOR in self.faults else 0,
        )

    # ---- the heap ------------------------------------------------------------------------------------------------------

    def at(self, when_ns: int, what: Callable[..., None], *args: Any) -> None:
        self._pushed += 1
        heapq.heappush(self._heap, (max(when_ns, self.now), self._pushed, what, args))

    def give(self, event: Event) -> None:
        """The reactor read this; it steps the core at once, or a little later with more of the kind."""
        self._inbox.append(event)
        self.events_left -= 1
        if self._step_at < 0:
            self._step_at = self.now + (self.rng.choice([0, 0, 0, 20 * US, 200 * US]))

    def _chance(self, fault: Fault, probability: float) -> bool:
        return not self.calm and fault in self.faults and self.rng.random() < probability

    def run(self) -> Report:
        begun = self.now
        self._step()
        for profile in self.profiles:
            for _ in range(max(1, profile.clients)):
                self.at(self.now + self.rng.randrange(10 * MS), self._arrive, profile)
        self.at(self.now + 3 * MS, self._meddle)
        if Fault.DRAIN in self.faults:
            self.at(self.now + self.rng.randrange(5 * MS, 100 * MS), self._drain)
        while self.events_left > 0 and not self.judge.drained:
            self._advance()
        self._wind_up()
        judged = self.judge
        return Report(
            self.seed,
            sorted(fault.name for fault in self.faults),
            self.events,
            judged.steps,
            (self.now - begun) / S,
            {outcome.name: n for outcome, n in judged.outcomes.items() if n},
            judged.sends,
            judged.ahead,
        )

    def _advance(self) -> None:
        """To the next moment at which anything happens."""
        due = self.core.next_ns()
        if self.settings.late_ns and not self.calm and due < 2**64 - 1:
            due += self.rng.choice([0, 0, self.rng.randrange(self.settings.late_ns)])
        moments = [due]
        if self._heap:
            moments.append(self._heap[0][0])
        if self._step_at >= 0:
            moments.append(self._step_at)
        moment = min(moments)
        if moment >= 2**64 - 1:
            raise Violation(f"at {self.now}: nothing will ever happen, {len(self.judge.calls)} calls left")
        self.now = max(self.now, moment)
        while self._heap and self._heap[0][0] <= self.now:
            _, _, what, args = heapq.heappop(self._heap)
            what(*args)
        if self.now >= due or 0 <= self._step_at <= self.now:
            self._step()

    def _step(self) -> None:
        events, self._inbox, self._step_at = self._inbox, [], -1
        if self.recorder is not None:
            self.recorder.step(self.now, events)
        self.events += len(events)
        turns = list(self.core.turns(self.now, events))
        self.judge.observe(self.now, turns)
        for _, actions in turns:
            for action in actions:
                self._obey(action)

    # ---- what the core wants ---------------------------------------------------------------------------------------------

    def _obey(self, action: Action) -> None:
        match action.kind:
            case Act.NEED:
                profile = next(p for p in self.profiles if p.handle == action.function)
                sandbox = FakeSandbox(action.sandbox, profile, again_ns=self.now if action.again else 0)
                self.sandboxes[action.sandbox] = sandbox
                self._launch(sandbox)
            case Act.QUEUED:
                self.handles[action.cookie] = action.call
            case Act.SEND:
                self.handles[action.cookie] = action.call
                sandbox = self.sandboxes[action.sandbox]
                self._on_channel(sandbox, self._receive, sandbox, action.seq, action.cookie, action.valid_until_ns)
            case Act.KILL:
                sandbox = self.sandboxes[action.sandbox]
                self._end(sandbox, Cause.KILLED, 9)
            case Act.PROBE:
                self.at(self.now + self.rng.choice([0, 30 * US]), self._tell_progress, self.sandboxes[action.sandbox])
            case Act.FREED:
                del self.sandboxes[action.sandbox]
                self.dead.append(action.sandbox)
                del self.dead[:-20]
            case Act.ANSWER:
                self.handles.pop(action.cookie, None)
                again = self.closed_loop.pop(action.cookie, None)
                if again is not None and not self.calm:
                    refused = action.outcome not in (Outcome.OK, Outcome.FUNCTION_ERROR, Outcome.TOO_LARGE)
                    self.at(self.now + (self.rng.randrange(1, 8) * MS if refused else 3 * US), self._arrive, again)
                self._judge_truth(action)
            case Act.FUNCTION_FREED:
                for profile in self.profiles:
                    if profile.handle == action.function:
                        profile.alive = False
            case _:
                pass

    def _judge_truth(self, action: Action) -> None:
        """What only the sandboxes know."""
        if action.outcome != Outcome.TIMEOUT or action.cookie in self.excused or not action.sandbox:
            return
        sandbox = self.sandboxes[action.sandbox]
        begun = self.started.get(action.cookie)
        if begun is None:
            if not sandbox.closed and sandbox.running:
                raise Violation(f"at {self.now}: timeout of a call that never started: {action}")
            return
        if self.now - begun + MS < sandbox.profile.timeout_ns and sandbox.running == action.cookie:
            raise Violation(f"at {self.now}: timed out {self.now - begun} ns after its start: {action}")

    def _launch(self, sandbox: FakeSandbox) -> None:
        rng = self.rng
        took = rng.choice([500 * US, 4 * MS, 20 * MS])
        if self._chance(Fault.LAUNCH_FAILS, 0.2):
            sandbox.alive = False
            self.at(self.now + took, self._give_sandbox, Ev.REAPED, sandbox, Cause.LAUNCH_FAILED, 0)
        elif self._chance(Fault.INIT_FAILS, 0.3):
            self.at(self.now + took, self._init_fails, sandbox)
        elif not self._chance(Fault.INIT_HANGS, 0.2):
            self.at(self.now + took, self._ready, sandbox, took)

    def _ready(self, sandbox: FakeSandbox, took: int) -> None:
        if sandbox.alive:
            self.give(Event.of(Ev.READY, handle=sandbox.handle, init_ns=took, tier=self.rng.choice([Tier.SHELL, Tier.FRESH])))

    def _init_fails(self, sandbox: FakeSandbox) -> None:
        if not sandbox.alive:
            return
        if self.rng.random() < 0.5:
            self.give(Event.of(Ev.INIT_FAILED, handle=sandbox.handle))
        self._end(sandbox, Cause.EXIT, 1)

    def _end(self, sandbox: FakeSandbox, cause: Cause, status: int) -> None:
        """The process is gone; channel and parent hear of it in either order."""
        if not sandbox.alive:
            return
        sandbox.alive = False
        slow = self._chance(Fault.SLOW_REAP, 0.5)
        reaped = self.now + self.rng.choice([100 * US, 2 * MS]) + (150 * MS if slow else 0)
        if not self._chance(Fault.REAP_FIRST, 0.5):
            self.at(min(reaped, self.now + self.rng.choice([10 * US, 500 * US])), self._gone, sandbox)
        self.at(reaped, self._give_sandbox, Ev.REAPED, sandbox, cause, status)

    def _gone(self, sandbox: FakeSandbox) -> None:
        sandbox.closed = True
        self.give(Event.of(Ev.PROGRESS, sandbox=sandbox.handle, seq=sandbox.progress, status=LAST_WORD))
        self.give(Event.of(Ev.GONE, handle=sandbox.handle))

    def _give_sandbox(self, kind: Ev, sandbox: FakeSandbox, cause: Cause, status: int) -> None:
        if not sandbox.closed:
            sandbox.closed = True
            self.give(Event.of(Ev.PROGRESS, sandbox=sandbox.handle, seq=sandbox.progress, status=LAST_WORD))
        self.give(Event.of(kind, handle=sandbox.handle, cause=int(cause), status=status, cpu_ns=sandbox.cpu_ns))

    def _tell_progress(self, sandbox: FakeSandbox) -> None:
        if not sandbox.closed:
            self.give(Event.of(Ev.PROGRESS, sandbox=sandbox.handle, seq=sandbox.progress))

    # ---- inside a sandbox --------------------------------------------------------------------------------------------------

    def _on_channel(self, sandbox: FakeSandbox, what: Callable[..., None], *args: Any) -> None:
        sandbox.delivered_ns = max(sandbox.delivered_ns, self.now + self.rng.choice([1 * US, 5 * US, 40 * US]))
        self.at(sandbox.delivered_ns, what, *args)

    def _receive(self, sandbox: FakeSandbox, seq: int, cookie: int, valid_until_ns: int) -> None:
        if not sandbox.alive:
            return
        sandbox.inbox.append((seq, cookie, valid_until_ns))
        if not sandbox.running:
            self._next(sandbox)

    def _next(self, sandbox: FakeSandbox) -> None:
        """Claim, then look: see channel.md."""
        while sandbox.alive and not sandbox.running and sandbox.inbox:
            seq, cookie, valid_until_ns = sandbox.inbox.popleft()
            sandbox.progress = seq
            if valid_until_ns and self.now > valid_until_ns:
                self._reply(sandbox, seq, self.now, Reply.HANDBACK)
                continue
            if sandbox.liar:
                self.excused.add(cookie)
            if cookie in self.started and cookie not in self.excused:
                raise Violation(f"at {self.now}: call {cookie} ran twice")
            self.started[cookie] = sandbox.again_ns or self.now
            sandbox.again_ns = 0
            sandbox.running = cookie
            took = self._duration(sandbox.profile)
            if self._chance(Fault.CRASH, 0.02):
                self.at(self.now + self.rng.randrange(took + 1), self._crash, sandbox)
            elif not self._chance(Fault.HANG, 0.01):
                self.at(self.now + took, self._done, sandbox, seq, self.now)
        if not sandbox.running:
            self._flush(sandbox)

    def _duration(self, profile: Profile) -> int:
        rng = self.rng
        mean = profile.mean_ns
        if self._chance(Fault.OUTLIER, 0.02):
            return 100 * mean
        match profile.shape:
            case "constant":
                return mean
            case "exponential":
                return int(rng.expovariate(1 / mean)) + 500
            case _:
                return mean // 5 if rng.random() < 0.9 else mean * 8

    def _crash(self, sandbox: FakeSandbox) -> None:
        cause, status = self.rng.choice([(Cause.EXIT, 1), (Cause.SIGNAL, 11), (Cause.OOM, 9)])
        self._end(sandbox, cause, status)

    def _done(self, sandbox: FakeSandbox, seq: int, begun: int) -> None:
        if not sandbox.alive:
            return
        sandbox.running = 0
        took = self.now - begun
        sandbox.cpu_ns += took
        status = self.rng.choice([Reply.OK, Reply.OK, Reply.OK, Reply.FUNCTION_ERROR, Reply.TOO_LARGE])
        if took > 100 * US:
            sandbox.slow_seen = 256
        sandbox.slow_seen = max(0, sandbox.slow_seen - 1)
        self._reply(sandbox, seq, begun, status)
        self._next(sandbox)

    def _reply(self, sandbox: FakeSandbox, seq: int, begun: int, status: Reply) -> None:
        value = int(status)
        copies = 1
        if self._chance(Fault.FORGED, 0.01):
            self._lies(sandbox)
            seq, value = self.rng.choice([(seq + 1, value), (0, value), (seq, 7), (seq, int(Reply.HANDBACK))])
        elif self._chance(Fault.DUPLICATE, 0.01):
            self._lies(sandbox)
            copies = 2
        event = Event.of(Ev.REPLY, sandbox=sandbox.handle, start_ns=begun, end_ns=self.now, seq=seq & 0xFFFFFFFF, status=value)
        if not sandbox.unsent:
            sandbox.unsent_since_ns = self.now
        sandbox.unsent += [event] * copies
        if sandbox.slow_seen or not sandbox.inbox or self.now - sandbox.unsent_since_ns >= 100 * US:
            self._flush(sandbox)

    def _lies(self, sandbox: FakeSandbox) -> None:
        """Nobody can say of a lying sandbox what ran in it: its calls may run again."""
        sandbox.liar = True
        known = self.judge.sandboxes.get(sandbox.handle)
        if known is not None:
            self.excused |= {call.cookie for _, call in known.ring if call is not None}
        self.excused |= {cookie for _, cookie, _ in sandbox.inbox}
        if sandbox.running:
            self.excused.add(sandbox.running)

    def _flush(self, sandbox: FakeSandbox) -> None:
        if sandbox.unsent:
            events, sandbox.unsent = sandbox.unsent, []
            self._on_channel(sandbox, self._deliver, sandbox, events)

    def _deliver(self, sandbox: FakeSandbox, events: list[Event]) -> None:
        if sandbox.alive or Fault.LATE in self.faults:
            for event in events:
                self.give(event)
        elif not sandbox.closed:
            # Written before it died: read before the channel's end is seen.
            for event in events:
                self.give(event)

    # ---- clients and operators ----------------------------------------------------------------------------------------------

    def _arrive(self, profile: Profile) -> None:
        if self.calm:
            return
        rng = self.rng
        for _ in range(rng.randint(10, 80) if self._chance(Fault.BURST, 0.02) else 1):
            self.cookies += 1
            deadline = 0
            if Fault.DEADLINE in self.faults and rng.random() < 0.4:
                deadline = max(1, self.now + rng.choice([-5, 0, 50 * US, 2 * MS, 80 * MS]))
            self.give(invoke(profile.handle, self.cookies, deadline_ns=deadline, size=rng.choice([0, 100, 900])))
            if self._chance(Fault.CANCEL, 0.2):
                self.at(self.now + rng.choice([0, 10 * US, 5 * MS]), self._cancel, self.cookies)
            if profile.clients:
                self.closed_loop[self.cookies] = profile
                return
        self.at(self.now + int(rng.expovariate(profile.rate) * S) + 1, self._arrive, profile)

    def _cancel(self, cookie: int) -> None:
        if cookie in self.handles:
            self.give(Event.of(Ev.CANCEL, call=self.handles[cookie]))

    def _drain(self) -> None:
        self.give(Event.of(Ev.DRAIN, deadline_ns=self.now + self.rng.choice([0, 30 * MS])))

    def _meddle(self) -> None:
        """An operator who does not wait."""
        if self.calm:
            return
        rng = self.rng
        profile = rng.choice(self.profiles)
        sandbox = rng.choice(list(self.sandboxes.values())) if self.sandboxes else None
        if self._chance(Fault.ACCOUNTS, 0.5):
            put = rng.choice(self.account_events[1:])
            maxima = list(put.fields["max"])
            maxima[Resource.CONCURRENCY] = rng.choice([0, 1, 2, 5, 0x7FFFFFFF])
            changed = Event(Ev.ACCOUNT_PUT, {**put.fields, "max": maxima})
            self.account_events[self.account_events.index(put)] = changed
            self.give(changed)
        if profile.alive and self._chance(Fault.DEPLOY, 0.5):
            profile.revision += 1
            self.give(profile.put())
            for _ in range(rng.randint(0, 2)):
                self.give(Event.of(Ev.WANT, function=profile.handle, revision=profile.revision))
            self.at(self.now + rng.choice([0, 10 * MS]), self._switch, profile, profile.revision)
        if Fault.FLOOR in self.faults and profile.alive and self.more.random() < 0.3:
            profile.provisioned = self.more.choice([0, 1, 2, 5])
            self.give(profile.put())
        if self._chance(Fault.REMOVE, 0.4):
            if profile.alive:
                self.give(Event.of(Ev.FUNCTION_REMOVE, handle=profile.handle))
            else:
                profile.generation += 1
                profile.revision = 1
                profile.alive = True
                self.give(profile.put())
        if self._chance(Fault.RETIRE, 0.5):
            self.give(Event.of(Ev.WANT, function=profile.handle, revision=profile.revision))
            if sandbox is not None:
                self.give(Event.of(Ev.RETIRE, handle=sandbox.handle))
        if sandbox is not None and rng.random() < 0.3:
            self.give(Event.of(Ev.USAGE, handle=sandbox.handle, cpu_ns=sandbox.cpu_ns, memory_peak_bytes=5 << 20))
        if self._chance(Fault.STALE, 0.7):
            self._stale()
        self.at(self.now + rng.randrange(1 * MS, 20 * MS), self._meddle)

    def _switch(self, profile: Profile, revision: int) -> None:
        self.give(Event.of(Ev.FUNCTION_SWITCH, handle=profile.handle, revision=revision))

    def _stale(self) -> None:
        rng = self.rng
        handle = rng.choice([*self.dead, 0, 1, (1 << 64) - 1, 77 << 32 | 3])
        if handle in self.sandboxes:
            return
        self.give(
            rng.choice(
                [
                    Event.of(Ev.REPLY, sandbox=handle, seq=1, status=0),
                    Event.of(Ev.PROGRESS, sandbox=handle, seq=1),
                    Event.of(Ev.READY, handle=handle),
                    Event.of(Ev.REAPED, handle=handle),
                    Event.of(Ev.CANCEL, call=handle | 9 << 40),
                    Event.of(Ev.FUNCTION_SWITCH, handle=handle | 9 << 40, revision=3),
                ]
            )
        )

    # ---- the end -------------------------------------------------------------------------------------------------------------

    def _until(self, what: str, done: Callable[[], bool], bound_ns: int) -> None:
        limit = self.now + bound_ns
        while not done():
            if self.now > limit:
                raise Violation(f"at {self.now}: {what} not reached within {bound_ns / S} s")
            self._advance()

    def _wind_up(self) -> None:
        """Faults stop; everything must come to rest within a bound, and every account to zero."""
        self.calm = True
        longest = max(profile.timeout_ns + profile.queue_timeout_ns for profile in self.profiles)
        outlier = 100 * max(profile.mean_ns for profile in self.profiles)
        bound = 2 * (longest + self.settings.init_timeout_ns) + min(outlier, longest) + 2 * S
        self._until("an empty core", lambda: not self.judge.calls and not self._inbox, bound)
        if self.judge.draining_until is None:
            self.give(Event.of(Ev.DRAIN, deadline_ns=self.now))
        self._until("DRAINED", lambda: self.judge.drained, S)
        for profile in self.profiles:
            self.give(Event.of(Ev.FUNCTION_REMOVE, handle=profile.handle))
        self._until("an end of all functions", lambda: not self.judge.functions and not self._inbox, bound)
        for event in reversed(self.account_events[1:]):
            self.give(Event.of(Ev.ACCOUNT_REMOVE, index=event.fields["index"]))
        self._step()
        self.judge.inspect()
        if self.judge.accounts.indices() != [0]:
            raise Violation(f"accounts left: {self.judge.accounts.indices()}")
        if self.core.account(1) is not None:
            raise Violation("account 1 is still there")
        totals = self.core.totals()
        if totals.calls or totals.sandboxes or totals.functions:
            raise Violation(f"left: {totals.calls} calls, {totals.sandboxes} sandboxes, {totals.functions} functions")
        if totals.answers != totals.invokes:
            raise Violation(f"{totals.invokes} invokes, {totals.answers} answers")
        if any(sandbox.state is not State.DYING for sandbox in self.judge.sandboxes.values()):
            raise Violation("a sandbox outlived its function")
