"""The judge: watches what goes into the core and what comes out, and knows what had to come out.

It keeps its own plain picture of calls, sandboxes, functions and accounts, made of events and actions alone, so it can judge
a recorded run as well as a simulated one. Every rule stands in core.h or channel.md; where the core may choose (which
sandbox, whether to queue ahead) the judge only says what is forbidden and what must not be left undone.

Order inside a step: the core handles the events one by one, then timers, then dispatch. Actions carry the index of
the event that caused them, so the judge follows in the same order.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import TYPE_CHECKING

from tests.model import keep as model
from tests.model.accounts import SUMMED, Accounts
from tests.model.core_binding import NO_EVENT, Act, Cause, Ev, Outcome, Reply, Resource, State, Why
from tests.sim.picture import Call, Function, Sandbox, Where
from tests.sim.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.model.core_binding import Action, Core, Event

__all__ = ["Call", "Function", "Judge", "Sandbox", "Settings", "Violation"]

TICK_NS = 1 << 16
WHEEL_SLACK_NS = 2 * TICK_NS  # wheel.h: at most two ticks late
FLOOR_PAUSE_NS = 61 * 10**9  # floor.c: the longest pause between two starts that fail
LAST_WORD = 1  # core.h: CORE_PROGRESS_LAST
RECALL_SLACK_NS = 1_000_000  # channel.md: a call may run elsewhere 1 ms after its valid_until


class Violation(AssertionError):
    """The core broke a rule."""


class Judge:
    """Give it every step through observe(); it raises Violation at the first wrong one."""

    def __init__(self, core: Core, settings: Settings, *, every: int = 1) -> None:
        self.core = core
        self.settings = settings
        self.every = every
        self.steps = 0
        self.now = 0
        self.accounts = Accounts()
        self.functions: dict[int, Function] = {}
        self.sandboxes: dict[int, Sandbox] = {}
        self.calls: dict[int, Call] = {}
        self.by_handle: dict[int, Call] = {}
        self.answered: set[int] = set()
        self.outcomes: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self.order = 0
        self.draining_until: int | None = None
        self.drained = False
        self.kills: dict[Why, int] = dict.fromkeys(Why, 0)
        self.sends = 0
        self.ahead = 0
        self.clock = 0

    # ---- the steps ---------------------------------------------------------------------------------------------------

    def observe(self, now_ns: int, turns: Sequence[tuple[Sequence[Event], Sequence[Action]]]) -> None:
        """All turns of one moment: core_step() with events, then without until it had nothing left to do."""
        self.now = max(self.now, now_ns)
        for events, actions in turns:
            position = 0
            for index, event in enumerate(events):
                end = position
                while end < len(actions) and actions[end].event == index:
                    end += 1
                own = actions[position:end]
                self._apply(event, own)
                for action in own:
                    self._act(action)
                position = end
            for action in actions[position:]:
                self._want(action.event == NO_EVENT, f"actions out of order: {action}")
                self._act(action)
        self._settled()
        self.steps += 1
        if self.steps % self.every == 0:
            self.inspect()

    def _want(self, condition: bool, text: str) -> None:
        if not condition:
            raise Violation(f"at {self.now}: {text}")

    # ---- events ------------------------------------------------------------------------------------------------------

    def _apply(self, event: Event, actions: Sequence[Action]) -> None:
        f = event.fields
        kind = event.kind
        if kind is Ev.INVOKE:
            self._invoke(event, actions)
        elif kind is Ev.REPLY:
            self._reply(event, actions)
        elif kind is Ev.PROGRESS:
            self._progress(event, actions)
        elif kind is Ev.ACCOUNT_PUT:
            self.accounts.put(f["index"], f["parent"], f["weight"], f["max"], f["min"], f["burst"])
        elif kind is Ev.ACCOUNT_REMOVE:
            index = f["index"]
            if (
                index in self.accounts
                and index != 0
                and not self.accounts.children(index)
                and not any(fn.account == index for fn in self.functions.values())
            ):
                self.accounts.remove(index)
        elif kind is Ev.FUNCTION_PUT:
            self._function_put(event)
        elif kind is Ev.FUNCTION_SWITCH:
            self._switch(event)
        elif kind is Ev.FUNCTION_REMOVE:
            function = self.functions.get(f["handle"])
            if function is not None:
                function.removing = True
        elif kind is Ev.CANCEL:
            call = self.by_handle.get(f["call"])
            if call is not None:
                call.cancelled = True
                if call.where is Where.WAITS:
                    self._want(
                        any(a.kind == Act.ANSWER and a.cookie == call.cookie for a in actions),
                        f"a cancelled call still waits: {call}",
                    )
        elif kind is Ev.DRAIN:
            self.draining_until = f["deadline_ns"]
        elif kind in (Ev.READY, Ev.INIT_FAILED, Ev.GONE, Ev.REAPED, Ev.RETIRE):
            sandbox = self.sandboxes.get(f["handle"])
            if sandbox is not None:
                self._sandbox_event(kind, sandbox, actions)

    def _function_put(self, event: Event) -> None:
        f = event.fields
        handle = f["handle"]
        if f["account"] not in self.accounts or f["memory_mb"] == 0 or f["timeout_ns"] == 0 or handle >> 32 == 0:
            return
        taken = [h for h in self.functions if h & 0xFFFFFFFF == handle & 0xFFFFFFFF]
        if taken and (taken[0] != handle or self.functions[handle].account != f["account"]):
            return
        if not taken:
            self.functions[handle] = Function(
                handle,
                f["account"],
                f["revision"],
                f["memory_mb"],
                f["timeout_ns"],
                f["queue_timeout_ns"],
                f["ahead_max"],
                model.Keep(self.settings.patience()),
                self.settings.cold_start_guess_ns,
                f["provisioned"],
            )
            return
        function = self.functions[handle]
        function.memory_mb = f["memory_mb"]
        function.timeout_ns = f["timeout_ns"]
        function.queue_timeout_ns = f["queue_timeout_ns"]
        function.ahead_max = f["ahead_max"]
        function.floor = f["provisioned"]

    def _switch(self, event: Event) -> None:
        function = self.functions.get(event.fields["handle"])
        if function is None or function.removing or event.fields["revision"] == function.revision:
            return
        function.revision = event.fields["revision"]
        function.failures = function.most_failures = 0
        for sandbox in function.sandboxes.values():
            if sandbox.revision == function.revision and sandbox.state is State.STARTING and sandbox.ready_ns:
                self._becomes_idle(function, sandbox)

    def _invoke(self, event: Event, actions: Sequence[Action]) -> None:
        f = event.fields
        call = Call(f["cookie"], f["function"], self.order, self.now, f["deadline_ns"], f["bytes"], waits_since_ns=self.now)
        self.order += 1
        self._want(call.cookie not in self.calls and call.cookie not in self.answered, "the driver used a cookie twice")
        refusal = next((a for a in actions if a.kind == Act.ANSWER and a.cookie == call.cookie and a.call == 0), None)
        expected = self._refusal(call)
        if refusal is None:
            self._want(expected is None, f"{call} had to be refused: {expected}")
            self._enter_queue(call)
            self.calls[call.cookie] = call
            return
        self.answered.add(call.cookie)
        self.outcomes[Outcome(refusal.outcome)] += 1
        self._want(refusal.start_ns == 0 and refusal.sandbox == 0, f"a refused call has run: {refusal}")
        self._want(refusal.arrive_ns == self.now, f"arrival of a refused call: {refusal}")
        free = expected is None or expected[2] in (Resource.QUEUED_CALLS, Resource.QUEUED_BYTES)
        if free and refusal.outcome == Outcome.DEADLINE and call.deadline_ns:
            # The core expects that it cannot start in time. It must have a queue to expect that from.
            self._want(bool(self.functions[call.function].waiting), f"refused for a deadline with nothing before it: {call}")
            return
        if free and refusal.outcome == Outcome.THROTTLED and self._stands(call, refusal):
            return
        self._want(expected is not None, f"{call} refused without need: {refusal}")
        assert expected is not None
        outcome, account, resource = expected
        self._want(refusal.outcome == outcome, f"{call}: {Outcome(refusal.outcome).name}, not {outcome.name}")
        if outcome is Outcome.THROTTLED:
            self._want(
                (refusal.account, refusal.resource) == (account, resource),
                f"{call}: refused by {refusal.account}/{Resource(refusal.resource).name}, not {account}/{resource}",
            )

    def _stands(self, call: Call, refusal: Action) -> bool:
        """The core expects it to wait for more than half of what it may. There must be a queue, and something that keeps the
        function from more sandboxes: an account that is full, or (as the kernel's figures say) the processors."""
        function = self.functions[call.function]
        if not function.waiting or function.queue_timeout_ns == 0:
            return False
        if refusal.resource == Resource.CPU:
            return refusal.account == 0
        full = self.accounts.refuses(function.account, Resource.CONCURRENCY)
        return (refusal.account, refusal.resource) == (full, Resource.CONCURRENCY)

    def _refusal(self, call: Call) -> tuple[Outcome, int, Resource] | None:
        """What a call that arrives now has to be refused with. Predicted deadlines are the core's own affair."""
        function = self.functions.get(call.function)
        if function is None or function.removing:
            return Outcome.NOT_FOUND, 0, Resource.RATE
        if self.draining_until is not None:
            return Outcome.UNAVAILABLE, 0, Resource.RATE
        accounts = self.accounts
        refused = accounts.rate_refuses(function.account, self.now)
        if refused is not None:
            return Outcome.THROTTLED, refused, Resource.RATE
        if accounts[function.account].max[Resource.CONCURRENCY] == 0:
            return Outcome.THROTTLED, function.account, Resource.CONCURRENCY
        if call.deadline_ns and call.deadline_ns <= self.now:
            return Outcome.DEADLINE, 0, Resource.RATE
        if len(self.calls) >= self.settings.calls_max:
            return Outcome.THROTTLED, 0, Resource.QUEUED_CALLS
        for resource, units in ((Resource.QUEUED_CALLS, 1), (Resource.QUEUED_BYTES, call.size)):
            refused = accounts.refuses(function.account, resource, units)
            if refused is not None:
                return Outcome.THROTTLED, refused, resource
        return None

    def _reply(self, event: Event, actions: Sequence[Action]) -> None:
        f = event.fields
        sandbox = self.sandboxes.get(f["sandbox"])
        if sandbox is None or sandbox.state is State.DYING:
            self._want(not actions, f"a stale reply did something: {actions}")
            return
        status = f["status"]
        head = sandbox.ring[0] if sandbox.ring else None
        handback = status == Reply.HANDBACK
        broken = (
            head is None
            or f["seq"] != head[0]
            or status > Reply.HANDBACK
            or (handback and head[1] is not None and head[1].valid_until_ns == 0)
            or (not handback and head[1] is None)
        )
        if broken:
            self._break_ring(sandbox, sandbox.running_seq())
            self._want(self._killed(sandbox, actions) is Why.PROTOCOL, f"a forged reply was let pass: {event}")
            return
        assert head is not None
        sandbox.ring.popleft()
        call = head[1]
        if handback:
            if call is not None:
                self._enter_queue(call)
        else:
            assert call is not None
            sandbox.served += 1
            outcome = {
                Reply.OK: Outcome.OK,
                Reply.FUNCTION_ERROR: Outcome.FUNCTION_ERROR,
                Reply.TOO_LARGE: Outcome.TOO_LARGE,
            }[status]
            answers = [a for a in actions if a.kind == Act.ANSWER]
            self._want(
                len(answers) == 1 and answers[0].cookie == call.cookie and answers[0].outcome == outcome,
                f"the reply to {call} became {answers}",
            )
            self._want(answers[0].sandbox == sandbox.handle and answers[0].start_ns > 0, f"answer: {answers[0]}")
        if sandbox.ring:
            sandbox.first_since_ns = self.now
        elif self._killed(sandbox, actions) is None:
            self._leave(sandbox)
            self._becomes_idle(self.functions[sandbox.function], sandbox)

    def _progress(self, event: Event, actions: Sequence[Action]) -> None:
        sandbox = self.sandboxes.get(event.fields["sandbox"])
        if sandbox is None or sandbox.state is State.DYING:
            return
        sandbox.progress = event.fields["seq"]
        sandbox.last_word = event.fields.get("status") == LAST_WORD
        if self._killed(sandbox, actions) is Why.TIMEOUT:
            self._want(sandbox.probed, "killed for a timeout by a progress word that nobody asked for")
            self._break_ring(sandbox, sandbox.running_seq())
        elif sandbox.probed and sandbox.ring:
            running = sandbox.running_seq()
            entries = list(sandbox.ring)
            for i, (seq, call) in enumerate(entries):
                if seq > running and call is not None and call.valid_until_ns + RECALL_SLACK_NS <= self.now:
                    entries[i] = (seq, None)
                    self._enter_queue(call)
            sandbox.ring = deque(entries)
        sandbox.probed = False

    def _sandbox_event(self, kind: Ev, sandbox: Sandbox, actions: Sequence[Action]) -> None:
        function = self.functions[sandbox.function]
        dying = sandbox.state is State.DYING
        killed = self._killed(sandbox, actions)
        if kind is Ev.REAPED:
            if not dying:
                self._break_ring(sandbox, sandbox.begun_seq())
            self._want(
                any(a.kind == Act.FREED and a.sandbox == sandbox.handle for a in actions),
                f"reaped, not freed: {sandbox}",
            )
            if not sandbox.ready_ns:
                function.failed_start_ns = self.now
            return
        if dying:
            self._want(not actions, f"{kind.name} of a dying sandbox did something: {actions}")
            return
        if kind is Ev.RETIRE:
            sandbox.retiring = True
            self._want((killed is Why.RETIRED) == (not sandbox.ring), f"retired: {sandbox}, killed: {killed}")
        elif kind is Ev.GONE:
            self._break_ring(sandbox, sandbox.begun_seq())
            self._want(killed is not None, f"gone, yet not ended: {sandbox}")
        elif sandbox.state is not State.STARTING or sandbox.ready_ns:
            self._break_ring(sandbox, sandbox.running_seq())
            self._want(killed is Why.PROTOCOL, f"{kind.name} twice was let pass: {sandbox}")
        elif kind is Ev.INIT_FAILED:
            self._want(killed is Why.INIT_FAILED, f"init failed, yet not ended: {sandbox}")
            function.failed_start_ns = self.now
        else:
            sandbox.ready_ns = self.now
            if sandbox.revision == function.revision:
                function.failures = 0
            took = self.now - sandbox.requested_ns - function.start_ns
            function.start_ns += took // 4 if took >= 0 else -(-took // 4)
            if sandbox.revision == function.revision and not function.removing:
                self._becomes_idle(function, sandbox)

    @staticmethod
    def _killed(sandbox: Sandbox, actions: Sequence[Action]) -> Why | None:
        for action in actions:
            if action.kind == Act.KILL and action.sandbox == sandbox.handle:
                return Why(action.why)
        return None

    # ---- moves -------------------------------------------------------------------------------------------------------

    def _becomes_idle(self, function: Function, sandbox: Sandbox) -> None:
        sandbox.state = State.IDLE
        sandbox.idle_since_ns = self.now
        sandbox.clock = self.clock
        sandbox.kept_until_ns = self.now + function.keep.window_ns

    def _worn(self, sandbox: Sandbox) -> bool:
        """It may be replaced: within the last eighth of its age or of its calls."""
        age, calls = self.settings.age_max_ns, self.settings.sandbox_calls_max
        old = age != 0 and self.now >= sandbox.ready_ns + model.within_eighth(age, sandbox.handle)
        return old or (calls != 0 and sandbox.served >= model.within_eighth(calls, sandbox.handle))

    def _enter_queue(self, call: Call) -> None:
        function = self.functions[call.function]
        call.where = Where.WAITS
        call.waits_since_ns = self.now
        insort(function.waiting, (call.order, call))
        self.accounts.add(function.account, Resource.QUEUED_CALLS, 1)
        self.accounts.add(function.account, Resource.QUEUED_BYTES, call.size)

    def _leave_queue(self, call: Call) -> None:
        function = self.functions[call.function]
        function.waiting.remove((call.order, call))
        self.accounts.add(function.account, Resource.QUEUED_CALLS, -1)
        self.accounts.add(function.account, Resource.QUEUED_BYTES, -call.size)

    def _leave(self, sandbox: Sandbox) -> None:
        """It does not execute any more."""
        if sandbox.state in (State.BUSY, State.DRAINING):
            self.accounts.add(self.functions[sandbox.function].account, Resource.CONCURRENCY, -1)

    def _break_ring(self, sandbox: Sandbox, running: int) -> None:
        """Calls behind the running one wait again; it and those before it share the sandbox's fate."""
        for seq, call in sandbox.ring:
            if call is None:
                continue
            if seq > running:
                self._enter_queue(call)
            else:
                call.where = Where.ORPHAN
                sandbox.orphans.append(call)
        sandbox.ring.clear()

    # ---- actions -----------------------------------------------------------------------------------------------------

    def _act(self, action: Action) -> None:
        match action.kind:
            case Act.SEND:
                self._send(action)
            case Act.ANSWER:
                if action.call or action.cookie in self.calls:
                    self._answer(action)
                else:
                    self._want(action.cookie in self.answered, f"an answer to a call that never came: {action}")
            case Act.NEED:
                self._need(action)
            case Act.KILL:
                self._kill(action)
            case Act.QUEUED:
                call = self.calls.get(action.cookie)
                self._want(call is not None and call.where is Where.WAITS, f"said to wait: {action} {call}")
                assert call is not None
                self._want(call.handle == 0 and call.function == action.function, f"said to wait twice: {action} {call}")
                call.handle = action.call
                self.by_handle[action.call] = call
            case Act.PROBE:
                sandbox = self._alive(action)
                self._want(len(sandbox.ring) > 1, f"a probe without reason: {sandbox}")
                sandbox.probed = True
            case Act.FREED:
                sandbox = self.sandboxes.pop(action.sandbox, None)
                self._want(sandbox is not None, f"freed twice or never made: {action}")
                assert sandbox is not None
                self._want(not sandbox.orphans, f"freed with calls that nobody answered: {sandbox.orphans}")
                function = self.functions[sandbox.function]
                del function.sandboxes[sandbox.handle]
                self.accounts.add(function.account, Resource.MEMORY, -sandbox.memory_mb)
            case Act.FUNCTION_FREED:
                function = self.functions.pop(action.function, None)
                self._want(function is not None, f"function freed twice or unknown: {action}")
                assert function is not None
                self._want(function.removing, "a function was freed that nobody removed")
                self._want(not function.sandboxes and not function.waiting, f"freed while in use: {function}")
            case Act.DRAINED:
                self._want(self.draining_until is not None and not self.drained, "drained without need")
                self._want(not self.calls, f"drained with {len(self.calls)} calls left")
                self.drained = True
            case _:
                self._want(False, f"unknown action {action}")

    def _alive(self, action: Action) -> Sandbox:
        sandbox = self.sandboxes.get(action.sandbox)
        self._want(sandbox is not None, f"an action for a stale sandbox: {action}")
        assert sandbox is not None
        self._want(sandbox.state is not State.DYING, f"an action for a dying sandbox: {action}")
        return sandbox

    def _send(self, action: Action) -> None:
        sandbox = self._alive(action)
        call = self.calls.get(action.cookie)
        self._want(call is not None, f"sent although answered: {action}")
        assert call is not None
        function = self.functions[call.function]
        self._want(action.function == call.function == sandbox.function, f"sent into another function: {action}")
        self._want(call.where is Where.WAITS, f"sent twice: {call}")
        self._want(not call.cancelled, f"cancelled, yet sent: {call}")
        self._want(call.handle in (0, action.call), f"a call changed its handle: {call} {action}")
        self._want(function.waiting[0][1] is call, f"not first in its queue: {call}, first: {function.waiting[0][1]}")
        self._want(sandbox.state in (State.IDLE, State.BUSY), f"sent into {sandbox}")
        self._want(sandbox.revision == function.revision and not sandbox.retiring, f"sent into the old: {sandbox}")
        self._want(not function.removing, f"sent while its function goes: {call}")
        most = function.ahead_max or self.settings.ahead_max
        self._want(len(sandbox.ring) < most, f"more than {most} in one channel: {sandbox}")
        self._want(action.seq == sandbox.next_seq, f"seq {action.seq}, not {sandbox.next_seq}")
        calls = self.settings.sandbox_calls_max
        self._want(calls == 0 or sandbox.served < calls, f"sent into one that has served enough: {sandbox}")
        if sandbox.ring:
            self._want(action.valid_until_ns != 0, f"queued ahead for ever: {action}")
            idle = [s for s in function.sandboxes.values() if s.state is State.IDLE and not s.retiring]
            idle = [s for s in idle if s.revision == function.revision]
            busy = sum(s.state is State.BUSY for s in function.sandboxes.values())
            enough = busy >= self.settings.cpus  # one more process could only compete with these
            self._want(not idle or enough, f"queued ahead beside an idle sandbox: {action} {idle}")
            self.ahead += 1
        if call.deadline_ns:
            self._want(call.deadline_ns + WHEEL_SLACK_NS + self.settings.late_ns >= self.now, f"sent past its deadline: {call}")
            self._want(0 < action.valid_until_ns <= call.deadline_ns, f"may start past its deadline: {action}")
        if not sandbox.ring:
            refused = self.accounts.refuses(function.account, Resource.CONCURRENCY)
            self._want(refused is None, f"concurrency beyond account {refused}: {action}")
            self.accounts.add(function.account, Resource.CONCURRENCY, 1)
            if sandbox.next_seq > 1:
                function.keep.gap(self.now - sandbox.idle_since_ns)
            function.keep.used(self.now)
            sandbox.state = State.BUSY
            sandbox.first_since_ns = max(call.arrive_ns, sandbox.requested_ns) if sandbox.again else self.now
            sandbox.again = False
        busy = [s for s in function.ready() if s.state is State.BUSY]
        surely = sum(not self._worn(s) for s in busy)  # a worn one may be on its way out
        within = surely <= function.floor > 0 if action.provisioned else len(busy) > function.floor or not function.floor
        self._want(within, f"{len(busy)} busy of {function.floor}: {action}")
        self._leave_queue(call)
        call.where = Where.SENT
        call.handle, call.sandbox, call.seq = action.call, sandbox.handle, action.seq
        call.valid_until_ns = action.valid_until_ns
        self.by_handle[action.call] = call
        sandbox.ring.append((action.seq, call))
        sandbox.next_seq += 1
        self.sends += 1

    def _need(self, action: Action) -> None:
        function = self.functions.get(action.function)
        self._want(function is not None and not function.removing, f"a sandbox for nobody: {action}")
        assert function is not None
        self._want(action.sandbox not in self.sandboxes, f"a sandbox made twice: {action}")
        self._want(len(self.sandboxes) < self.settings.sandboxes_max, "more sandboxes than the node may have")
        refused = self.accounts.refuses(function.account, Resource.MEMORY, function.memory_mb)
        self._want(refused is None, f"memory beyond account {refused}: {action}")
        init_max_ns = self.settings.init_timeout_ns
        if action.again:
            self._want(function.failures > 0, f"a second attempt, and none has failed: {action}")
            init_max_ns = function.timeout_ns
        elif action.provisioned and function.floor > 0 and action.revision == function.revision:
            init_max_ns = max(self.settings.provisioned_init_timeout_ns, function.timeout_ns)
        again = bool(action.again)
        sandbox = Sandbox(action.sandbox, action.function, action.revision, function.memory_mb, self.now, init_max_ns, again)
        if not action.provisioned:
            self._want(bool(function.waiting), f"a sandbox for a call that does not wait: {action}")
            function.keep.missed(self.now)
        self.sandboxes[action.sandbox] = sandbox
        function.sandboxes[action.sandbox] = sandbox
        self.accounts.add(function.account, Resource.MEMORY, function.memory_mb)

    def _kill(self, action: Action) -> None:
        sandbox = self._alive(action)
        function = self.functions[sandbox.function]
        why = Why(action.why)
        self.kills[why] += 1
        if sandbox.ring:
            self._want(why is Why.TIMEOUT, f"killed while it works: {sandbox} {why.name}")
            self._break_ring(sandbox, sandbox.running_seq())
        old = sandbox.revision != function.revision or function.removing or sandbox.retiring
        starting = sandbox.state is State.STARTING and not sandbox.ready_ns and sandbox.revision == function.revision
        if starting and why in (Why.INIT_FAILED, Why.INIT_TIMEOUT, Why.PROTOCOL):
            function.failures += 1
            function.most_failures = max(function.most_failures, function.failures)
            function.failed_start_ns = self.now
        match why:
            case Why.IDLE:
                since = sandbox.idle_since_ns or sandbox.ready_ns
                self._want(bool(since), f"idle before it was ready: {sandbox}")
                if sandbox.state is State.IDLE:
                    window = function.keep.window_ns
                    self._want(not function.floor_holds(), f"provisioned, but ended: {sandbox}")
                    function.keep.gone(since)
                else:  # staged: nobody looks at its window again
                    window = min(self.settings.idle_timeout_ns, self.settings.idle_min_ns)
                self._want(self.now >= since + window, f"idle too early: {sandbox}, window {window}")
            case Why.INIT_TIMEOUT:
                self._want(sandbox.state is State.STARTING, f"init timeout of {sandbox}")
                due = sandbox.requested_ns + sandbox.init_max_ns
                self._want(self.now >= due, f"init timeout too early: {sandbox}")
                function.failed_start_ns = self.now
                if sandbox.again:
                    function.late_start_ns = self.now
            case Why.TIMEOUT:
                self._want(self.now >= sandbox.first_since_ns + function.timeout_ns, f"timeout too early: {sandbox}")
            case Why.EVICTED:
                self._want(sandbox.state is State.IDLE, f"evicted while not idle: {sandbox}")
                self._evict(function, sandbox)
            case Why.RECYCLED:
                self._want(self._worn(sandbox), f"replaced too early: {sandbox}")
            case Why.REVISION | Why.REMOVED | Why.RETIRED:
                self._want(old, f"{why.name}, but it is current: {sandbox}")
            case _:
                pass
        self._leave(sandbox)
        sandbox.state = State.DYING
        sandbox.why = why
        sandbox.dead_since_ns = self.now

    def _worth(self, sandbox: Sandbox) -> int:
        function = self.functions[sandbox.function]
        return model.worth(
            function.keep,
            self.now,
            clock=sandbox.clock,
            start_ns=function.start_ns,
            memory_mb=sandbox.memory_mb,
            idle=function.count(State.IDLE),
        )

    def _may_hold(self, function: Function) -> bool:
        """As Function.floor_holds(), but those that may be worn are not sure to be counted."""
        return 0 < function.floor >= sum(not self._worn(s) for s in function.ready())

    def _evict(self, loser: Function, victim: Sandbox) -> None:
        """Somebody wants memory below an account under which nothing that may go is worth less."""
        self._want(not loser.floor_holds(), f"provisioned, but evicted: {victim}")
        idle = [s for s in self.sandboxes.values() if s.state is State.IDLE]
        worths = {s.handle: self._worth(s) for s in idle}
        of = {s.handle: self.functions[s.function] for s in idle}
        free = [s for s in idle if not of[s.handle].waiting and not self._may_hold(of[s.handle])]
        justified = any(
            self._under(victim, account.index)
            and all(
                worths[victim.handle] <= worths[other.handle]
                for other in free
                if other.function != wants.handle and self._under(other, account.index)
            )
            for wants in self.functions.values()
            if wants is not loser and (wants.waiting or wants.floor)
            for account in self.accounts.path(wants.account)
        )
        self._want(justified, f"evicted, but others are worth less: {victim} {worths}")
        self.clock = max(self.clock, worths[victim.handle])
        loser.keep.gone(victim.idle_since_ns)

    def _answer(self, action: Action) -> None:
        call = self.calls.pop(action.cookie, None)
        self._want(call is not None, f"answered twice: {action}")
        assert call is not None
        function = self.functions[call.function]
        outcome = Outcome(action.outcome)
        self._want(action.arrive_ns == call.arrive_ns, f"arrival changed: {call} {action}")
        if action.start_ns:
            self._want(call.arrive_ns <= action.start_ns <= action.end_ns <= self.now, f"times out of order: {call} {action}")
            self._want(action.init_ns <= action.start_ns - call.arrive_ns, f"init longer than the wait: {action}")
        self._want(bool(action.cancelled) == call.cancelled, f"cancelled flag: {call} {action}")
        match outcome:
            case Outcome.OK | Outcome.FUNCTION_ERROR | Outcome.TOO_LARGE:
                self._want(call.where is Where.SENT, f"answered, not sent: {call}")
            case Outcome.TIMEOUT if call.where is Where.WAITS:
                self._want(function.late_start_ns == self.now, f"timeout of a call that waits: {call}")
            case Outcome.TIMEOUT | Outcome.SANDBOX_DIED:
                self._want(call.where is Where.ORPHAN, f"{outcome.name} without a dead sandbox: {call}")
                sandbox = self.sandboxes[call.sandbox]
                self._want((outcome is Outcome.TIMEOUT) <= (sandbox.why is Why.TIMEOUT), f"{outcome.name}: {sandbox}")
                self._want(action.sandbox == sandbox.handle, f"died elsewhere: {action}")
                self._want(action.cause <= Cause.PROTOCOL, f"cause: {action}")
                sandbox.orphans.remove(call)
            case _:
                self._want(call.where is Where.WAITS, f"{outcome.name} for a call that was sent: {call}")
                self._judge_waiting(call, function, outcome)
        if call.where is Where.WAITS:
            self._leave_queue(call)
        self.by_handle.pop(call.handle, None)
        self.answered.add(call.cookie)
        self.outcomes[outcome] += 1

    def _judge_waiting(self, call: Call, function: Function, outcome: Outcome) -> None:
        """An outcome that only a call in the queue can have."""
        match outcome:
            case Outcome.THROTTLED:
                self._want(self.now >= call.arrive_ns + function.queue_timeout_ns, f"throttled too early: {call}")
            case Outcome.DEADLINE:
                self._want(0 < call.deadline_ns <= self.now, f"deadline too early: {call}")
            case Outcome.CANCELLED:
                self._want(call.cancelled, f"nobody cancelled {call}")
            case Outcome.NOT_FOUND:
                self._want(function.removing, f"not found, but it is there: {call}")
            case Outcome.UNAVAILABLE:
                self._want(
                    self.draining_until is not None and self.now >= self.draining_until,
                    f"unavailable too early: {call}",
                )
            case Outcome.INIT_FAILED:
                late = self.now - self.settings.reap_timeout_ns
                unreaped = [s for s in function.sandboxes.values() if s.state is State.DYING and not s.ready_ns]
                told = function.failed_start_ns == self.now or any(s.dead_since_ns <= late for s in unreaped)
                self._want(told, f"no start failed for {call}")
                self._want(function.most_failures > 1, f"told of the first attempt that failed: {call}")
            case _:
                self._want(False, f"{outcome.name} for {call}")

    # ---- what must not be left undone ----------------------------------------------------------------------------------

    def _settled(self) -> None:
        slack = WHEEL_SLACK_NS + self.settings.late_ns
        for function in self.functions.values():
            if function.removing:
                self._want(not function.waiting, f"removed with calls waiting: {function.handle}")
            if function.waiting:
                self._waiting_justified(function)
            for sandbox in function.sandboxes.values():
                self._sandbox_in_time(function, sandbox, slack)
            function.held = self._may_hold(function)
            if function.floor and not function.removing and self.draining_until is None:
                self._floor_kept(function)
        if self.draining_until is not None and self.now >= self.draining_until + slack:
            self._want(not any(f.waiting for f in self.functions.values()), "calls wait past the end of the drain")

    def _floor_kept(self, function: Function) -> None:
        """As many as are provisioned are ready or starting, or something stands in the way."""
        of_it = [s for s in function.sandboxes.values() if s.revision == function.revision]
        starting = sum(s.state is State.STARTING for s in of_it)
        live = starting + len(function.ready())
        pausing = function.failed_start_ns >= 0 and self.now < function.failed_start_ns + FLOOR_PAUSE_NS
        self._want(
            live >= function.floor
            or pausing
            or starting >= self.settings.starting_max
            or len(self.sandboxes) >= self.settings.sandboxes_max
            or self.accounts.refuses(function.account, Resource.MEMORY, function.memory_mb) is not None,
            f"{live} of {function.floor} provisioned sandboxes, and nobody makes another: {function.handle}",
        )

    def _sandbox_in_time(self, function: Function, sandbox: Sandbox, slack: int) -> None:
        old = sandbox.revision != function.revision or function.removing or sandbox.retiring
        now = self.now
        match sandbox.state:
            case State.IDLE:
                self._want(not old, f"old and idle, yet alive: {sandbox}")
                sandbox.kept_until_ns = max(sandbox.kept_until_ns, sandbox.idle_since_ns + function.keep.window_ns)
                if self._may_hold(function) or function.held:
                    sandbox.kept_until_ns = max(sandbox.kept_until_ns, now + function.keep.window_ns)
                self._want(now <= sandbox.kept_until_ns + slack, f"idle for too long: {sandbox}")
                age = self.settings.age_max_ns
                self._want(age == 0 or now <= sandbox.ready_ns + age + slack, f"idle and too old: {sandbox}")
            case State.BUSY:
                over = now - sandbox.first_since_ns - function.timeout_ns
                most = max(20_000_000, function.timeout_ns // 100)
                self._want(over <= most + self.settings.late_ns, f"timeout {over} ns late: {sandbox}")
            case State.STARTING if not sandbox.ready_ns:
                due = sandbox.requested_ns + sandbox.init_max_ns
                self._want(now <= due + slack, f"starts for too long: {sandbox}")
            case State.DYING if sandbox.orphans:
                due = sandbox.dead_since_ns + self.settings.reap_timeout_ns
                self._want(now <= due + slack, f"its calls wait for the cause for too long: {sandbox}")
            case _:
                pass

    def _waiting_justified(self, function: Function) -> None:
        """Calls wait: for no longer than they may, and only if nothing could be done for the first of them."""
        slack = WHEEL_SLACK_NS + self.settings.late_ns
        call = function.waiting[0][1]
        for _, each in function.waiting:
            self._want(each.handle != 0, f"waits, and nobody was told its handle: {each}")
            if each.deadline_ns:
                self._want(self.now <= each.deadline_ns + slack, f"waits past its deadline: {each}")
        # While a sandbox starts for it a call may wait for that, for two attempts; so may one that came back from where it had
        # been sent.
        due = max(call.arrive_ns + function.queue_timeout_ns, call.waits_since_ns)
        due += self.settings.init_timeout_ns + function.timeout_ns
        self._want(self.now <= due + slack, f"waits past queue and init timeout: {call}")
        if self.accounts.refuses(function.account, Resource.CONCURRENCY) is not None:
            return
        current = [s for s in function.sandboxes.values() if s.revision == function.revision and not s.retiring]
        idle = [s for s in current if s.state is State.IDLE]
        self._want(not idle, f"waits beside an idle sandbox and with room: {call} {idle}")
        if any(s.state in (State.STARTING, State.BUSY) for s in current):
            return
        late = self.settings.reap_timeout_ns + slack
        if any(s.state is State.DYING and not s.ready_ns and self.now <= s.dead_since_ns + late for s in current):
            return  # its start failed, and the call is to be told why
        # Nobody works for it and nobody starts: then a sandbox must have been asked for, if there is any way to get one.
        if len(self.sandboxes) >= self.settings.sandboxes_max:
            refused: int | None = 0
        else:
            refused = self.accounts.refuses(function.account, Resource.MEMORY, function.memory_mb)
            self._want(refused is not None, f"waits, and nobody makes a sandbox for it: {call}")
        assert refused is not None
        below = [s for s in self.sandboxes.values() if self._under(s, refused)]
        if not any(s.state is State.DYING for s in self.sandboxes.values()):
            idle = [s for s in below if s.state is State.IDLE and not self.functions[s.function].waiting]
            idle = [s for s in idle if not self._may_hold(self.functions[s.function])]
            self._want(not idle, f"waits for memory that idle sandboxes hold: {call} {idle}")

    def _under(self, sandbox: Sandbox, account: int) -> bool:
        return any(a.index == account for a in self.accounts.path(self.functions[sandbox.function].account))

    def inspect(self) -> None:
        """The core's own figures against ours, and its own invariants."""
        broken = self.core.check()
        self._want(broken is None, f"core_check: {broken}")
        for index in self.accounts.indices():
            stats = self.core.account(index)
            self._want(stats is not None, f"account {index} is unknown")
            assert stats is not None
            for resource in SUMMED:
                used = self.accounts.used(index, resource)
                self._want(
                    stats.current[resource] == used,
                    f"account {index}: {resource.name} {stats.current[resource]}, but {used} is in use",
                )
                self._want(stats.peak[resource] >= used, f"account {index}: peak of {resource.name} below current")
        for function in self.functions.values():
            stats = self.core.function(function.handle & 0xFFFFFFFF, self.now)
            self._want(stats is not None and stats.handle == function.handle, f"function {function.handle} is unknown")
            assert stats is not None
            found = (stats.queued, stats.in_flight, stats.executing)
            in_flight = sum(1 for s in function.sandboxes.values() for _, call in s.ring if call is not None)
            expected = (len(function.waiting), in_flight, function.count(State.BUSY, State.DRAINING))
            self._want(found == expected, f"queued, in flight, executing: {found}, not {expected}")
            gaps, learnt = (stats.keep_samples, stats.keep_ns), (function.keep.samples, function.keep.window_ns)
            self._want(gaps == learnt, f"gaps and window: {gaps}, not {learnt}")
        for sandbox in self.sandboxes.values():
            function = self.functions[sandbox.function]
            drains = self.core.sandbox_state(sandbox.handle) is State.DRAINING
            if drains and sandbox.state is State.BUSY and self._worn(sandbox):
                sandbox.retiring = True  # another was made in its place
            old = sandbox.revision != function.revision or function.removing or sandbox.retiring
            state = State.DRAINING if sandbox.state is State.BUSY and old else sandbox.state
            found_state = self.core.sandbox_state(sandbox.handle)
            self._want(found_state is state, f"{sandbox} is {found_state} in the core, not {state}")
        totals = self.core.totals()
        self._want(totals.calls == len(self.calls), f"{totals.calls} calls, not {len(self.calls)}")
        self._want(totals.sandboxes == len(self.sandboxes), f"{totals.sandboxes} sandboxes, not {len(self.sandboxes)}")
