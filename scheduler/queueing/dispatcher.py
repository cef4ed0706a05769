"""Asynchronous invocations from acceptance to their end.

Law of this file: accept() answers only once the event is durable; run() takes due events, invokes them through a connection
of its own like any caller, and does what policy.decide() says. Delivery is at least once: an event is removed after its
attempt, so a crash in between repeats it. How often a function has failed goes with the event, so it survives a restart. The
event's id is the request id of every attempt, as in Lambda.

An event's lease is renewed while its function runs, since a function may run longer than a lease.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import msgpack  # type: ignore[import-untyped]  # it ships none
import trio

from scheduler import limits
from scheduler.control.schema import read_params
from scheduler.errors import BadRequest, SchedulerError, TooLarge, Unavailable
from scheduler.queueing.policy import Condition, Dropped, Finished, Outcome, Retry, State, decide, is_expired
from scheduler.store.port import Event, LeaseLost, Put

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scheduler.log import Log
    from scheduler.queueing.caller import Caller
    from scheduler.store.port import EventQueue, Lease

__all__ = ["AcceptedEvent", "Dispatcher", "EventCounts", "EventFigures", "WantedCall", "read_event", "read_invoke"]

AT_ONCE_MAX = 128  # attempts in flight
TAKE_MAX = 32
TAKE_WAIT_S = 5.0
EXTEND_PERIOD_S = limits.EVENT_LEASE_MS / 1000 / 3
STORE_PAUSE_S = 1.0
NAMESPACE = uuid.UUID("5d7c4f0e-9f53-4be2-8a35-2b2a5b1b8a0c")  # of ids made from idempotency keys
JSON, VALUE = "json", "msgpack"
FAILED, NOT_RUN = "failed", "not_run"  # why an event is tried again


class AcceptedEvent:
    """What an `invoke` with type "event" asks for, checked."""

    __slots__ = ("encoding", "function", "key", "payload", "tenant_id", "trace")

    def __init__(
        self,
        function: str,
        payload: bytes,
        encoding: str,
        *,
        trace: str | None,
        key: str | None,
        tenant_id: str | None = None,
    ) -> None:
        self.function = function
        self.payload = payload
        self.encoding = encoding
        self.trace = trace
        self.key = key
        self.tenant_id = tenant_id

    def request_id(self) -> str:
        """The same for the same key of the same function, so that a repeated request is a duplicate."""
        return str(uuid.uuid4() if self.key is None else uuid.uuid5(NAMESPACE, f"{self.function}\0{self.key}"))


@dataclass(frozen=True, slots=True)
class WantedCall:
    """The params of `invoke`, whose shape the reactor has checked. payload: JSON text, or a value."""

    function: str
    payload: object
    options: Mapping[str, Any]


def read_invoke(params: bytes) -> WantedCall:
    """BadRequest: it is none."""
    values = read_params(params)
    if len(values) not in (2, 3) or not isinstance(values[0], str):
        raise BadRequest("params: must be [function, payload, options?]")
    options = values[2] if len(values) == 3 and isinstance(values[2], dict) else {}
    return WantedCall(values[0], values[1], options)


def read_event(params: bytes) -> AcceptedEvent:
    """From the params of `invoke`, whose shape the reactor has checked. BadRequest: the payload is not JSON. TooLarge."""
    wanted = read_invoke(params)
    options = wanted.options
    encoding = JSON
    payload: Any = wanted.payload
    if isinstance(payload, str):
        payload = payload.encode()
    elif not isinstance(payload, bytes):
        payload, encoding = msgpack.packb(payload), VALUE
    if len(payload) > limits.EVENT_BYTES_MAX:
        raise TooLarge(f"payload: has {len(payload)} bytes, the limit of an event is {limits.EVENT_BYTES_MAX}")
    if encoding == JSON:
        try:
            json.loads(payload or b"{}")
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"payload: is not JSON: {error}") from None
    return AcceptedEvent(
        wanted.function,
        payload,
        encoding,
        trace=options.get("trace"),
        key=options.get("idempotency_key"),
        tenant_id=options.get("tenant_id"),
    )


@dataclass(slots=True)
class EventCounts:
    """Of one function since the start. retried: by "failed" and "not_run"; dropped: by condition."""

    accepted: int = 0
    duplicates: int = 0
    delivered: int = 0
    retried: Counter[str] = field(default_factory=Counter)
    dropped: Counter[Condition] = field(default_factory=Counter)

    def add(self, other: EventCounts) -> None:
        self.accepted += other.accepted
        self.duplicates += other.duplicates
        self.delivered += other.delivered
        self.retried += other.retried
        self.dropped += other.dropped


@dataclass(frozen=True, slots=True)
class EventFigures:
    """Of one function: what happened since the start, and what is queued now."""

    counts: EventCounts
    waiting: int = 0
    waiting_bytes: int = 0
    oldest_age_s: float = 0.0


class Dispatcher:
    """queue: durable. now_s: Unix time. An event's `function` is "name" or "name:qualifier".

    tenant_of: whose the function of that name is, None where there is none. What was accepted for one tenant's function is
    not handed to another's that took the name since.
    """

    def __init__(
        self, *, queue: EventQueue, caller: Caller, log: Log, now_s: Callable[[], float], tenant_of: Callable[[str], str | None]
    ) -> None:
        self._queue = queue
        self._caller = caller
        self._log = log
        self._now_s = now_s
        self._tenant_of = tenant_of
        self._running = 0
        self._attempted: dict[int, Lease] = {}  # in flight, by token
        self._free = trio.Event()
        self._stopping = False
        self._counts: dict[str, EventCounts] = {}  # by name of the function
        self._removed = EventCounts()  # of functions that are no more

    async def accept(self, event: AcceptedEvent) -> str:
        """The request id, once the event is durable. QueueFull (Throttled), TooLarge, Unavailable."""
        request_id = event.request_id()
        headers = {"encoding": event.encoding}
        if event.trace is not None:
            headers["trace"] = event.trace
        if event.tenant_id is not None:
            headers["tenant_id"] = event.tenant_id
        tenant = self._tenant_of(_name(event.function))
        if tenant is not None:
            headers["tenant"] = tenant
        created_ms = int(self._now_s() * 1000)
        put = await self._queue.put(
            Event(id=request_id, function=event.function, payload=event.payload, created_ms=created_ms, headers=headers)
        )
        counts = self._counts_of(event.function)
        if put is Put.STORED:
            counts.accepted += 1
        else:
            counts.duplicates += 1
        return request_id

    def figures(self, known: Callable[[str], bool]) -> dict[str, EventFigures]:
        """By name of the function. known: whether it exists; what happened to others' events is summed under "", so that
        counters only ever rise and names do not pile up."""
        now_ms = self._now_s() * 1000
        waiting: dict[str, EventFigures] = {}
        for reference, backlog in self._queue.backlogs().items():
            name = _name(reference) if known(_name(reference)) else ""
            before = waiting.get(name, EventFigures(EventCounts()))
            waiting[name] = EventFigures(
                before.counts,
                before.waiting + backlog.events,
                before.waiting_bytes + backlog.bytes,
                max(before.oldest_age_s, (now_ms - backlog.oldest_created_ms) / 1000),
            )
        for name in [name for name in self._counts if not known(name)]:
            self._removed.add(self._counts.pop(name))
        none = EventFigures(EventCounts())
        counts = {"": self._removed, **self._counts}
        return {
            name: replace(waiting.get(name, none), counts=counts.get(name, EventCounts()))
            for name in counts.keys() | waiting.keys()
        }

    def _counts_of(self, function: str) -> EventCounts:
        return self._counts.setdefault(_name(function), EventCounts())

    def stop(self) -> None:
        """Takes no more events; those in flight go on."""
        self._stopping = True

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as keeping:
            keeping.start_soon(self._keep)
            async with trio.open_nursery() as nursery:
                while not self._stopping:
                    await self._take(nursery)
            keeping.cancel_scope.cancel()

    async def _take(self, nursery: trio.Nursery) -> None:
        while self._running >= AT_ONCE_MAX:
            self._free = trio.Event()
            await self._free.wait()
        try:
            leases = await self._queue.take(min(TAKE_MAX, AT_ONCE_MAX - self._running), TAKE_WAIT_S)
        except Unavailable as error:
            self._log.error("events cannot be read", error=str(error))
            await trio.sleep(STORE_PAUSE_S)
            return
        for lease in leases:
            self._running += 1
            nursery.start_soon(self._attempt, lease)

    async def _attempt(self, lease: Lease) -> None:
        try:
            if is_expired(self._age_s(lease.event)):
                await self._conclude(lease, Dropped(Condition.EVENT_AGE_EXCEEDED), None)
                return
            if self._has_another_owner(lease.event):
                await self._conclude(lease, Dropped(Condition.FUNCTION_GONE), None)
                return
            error = await self._invoke(lease)
            if self._stopping and error is not None and error.type == "Unavailable":
                return  # the service is ending: the event waits for the next one
            outcome = decide(error, _state(lease.event), age_s=self._age_s(lease.event))
            await self._conclude(lease, outcome, error)
        except (LeaseLost, Unavailable) as trouble:
            # Somebody else has it, or the store could not be written: it comes again.
            self._log.warning("event comes again", request_id=lease.event.id, error=str(trouble))
        finally:
            self._running -= 1
            self._free.set()

    async def _invoke(self, lease: Lease) -> SchedulerError | None:
        event = lease.event
        payload = event.payload if event.headers.get("encoding", JSON) == JSON else msgpack.unpackb(event.payload, raw=False)
        options: dict[str, object] = {"request_id": uuid.UUID(event.id).bytes}
        for key in ("trace", "tenant_id"):
            if key in event.headers:
                options[key] = event.headers[key]
        self._attempted[lease.token] = lease
        try:
            return await self._caller.invoke(event.function, payload, options)
        finally:
            del self._attempted[lease.token]

    async def _keep(self) -> None:
        """Renews the leases of all attempts in flight: one task for all, since most attempts are over within a millisecond."""
        while True:
            await trio.sleep(EXTEND_PERIOD_S)
            for lease in list(self._attempted.values()):
                with suppress(LeaseLost):  # the attempt goes on; another may run beside it, as at-least-once allows
                    self._queue.extend(lease)

    async def _conclude(self, lease: Lease, outcome: Outcome, error: SchedulerError | None) -> None:
        event = lease.event
        counts = self._counts_of(event.function)
        match outcome:
            case Finished():
                await self._queue.done(event.id)
                counts.delivered += 1
            case Retry(delay_s, state):
                await self._queue.retry(lease, delay_s, headers={**event.headers, **_headers(state)})
                counts.retried[FAILED if state.failures > _state(event).failures else NOT_RUN] += 1
            case Dropped(condition):
                await self._queue.done(event.id)
                counts.dropped[condition] += 1
                self._log.warning(
                    "event dropped",
                    request_id=event.id,
                    function=event.function,
                    condition=condition.value,
                    failures=_state(event).failures,
                    age_s=round(self._age_s(event), 3),
                    error=None if error is None else str(error),
                )

    def _has_another_owner(self, event: Event) -> bool:
        tenant = self._tenant_of(_name(event.function))  # None: nobody's, which the engine says as it does of any call
        return tenant is not None and event.headers.get("tenant", tenant) != tenant

    def _age_s(self, event: Event) -> float:
        return self._now_s() - event.created_ms / 1000


def _name(function: str) -> str:
    return function.partition(":")[0]


def _state(event: Event) -> State:
    return State(failures=int(event.headers.get("failures", 0)), throttles=int(event.headers.get("throttles", 0)))


def _headers(state: State) -> dict[str, str]:
    return {"failures": str(state.failures), "throttles": str(state.throttles)}
