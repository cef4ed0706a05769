"""Asynchronous invocations from acceptance to their end.

Law of this file: accept() answers only once the event is durable; run() takes due events, invokes them through a connection
of its own like any caller, and does what policy.decide() says. Delivery is at least once: an event is removed after its
attempt, so a crash in between repeats it. How often a function failed is kept in memory; after a restart an event may get a
try more.

An event's lease is renewed while its function runs, since a function may run longer than a lease.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgpack  # type: ignore[import-untyped]  # it ships none
import trio

from scheduler import limits
from scheduler.control.schema import read_params
from scheduler.errors import BadRequest, SchedulerError, TooLarge, Unavailable
from scheduler.queueing.policy import Dropped, Finished, Retry, State, decide
from scheduler.store.port import Event, LeaseLost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scheduler.log import Log
    from scheduler.queueing.caller import Caller
    from scheduler.store.port import EventQueue, Lease

__all__ = ["AcceptedEvent", "Dispatcher", "read_event"]

AT_ONCE_MAX = 128  # attempts in flight
TAKE_MAX = 32
TAKE_WAIT_S = 5.0
EXTEND_PERIOD_S = limits.EVENT_LEASE_MS / 1000 / 3
STORE_PAUSE_S = 1.0
NAMESPACE = uuid.UUID("5d7c4f0e-9f53-4be2-8a35-2b2a5b1b8a0c")  # of ids made from idempotency keys
JSON, VALUE = "json", "msgpack"


class AcceptedEvent:
    """What an `invoke` with type "event" asks for, checked."""

    __slots__ = ("encoding", "function", "key", "payload", "trace")

    def __init__(self, function: str, payload: bytes, encoding: str, *, trace: str | None, key: str | None) -> None:
        self.function = function
        self.payload = payload
        self.encoding = encoding
        self.trace = trace
        self.key = key

    def request_id(self) -> str:
        """The same for the same key of the same function, so that a repeated request is a duplicate."""
        return str(uuid.uuid4() if self.key is None else uuid.uuid5(NAMESPACE, f"{self.function}\0{self.key}"))


def read_event(params: bytes) -> AcceptedEvent:
    """From the params of `invoke`, whose shape the reactor has checked. BadRequest: the payload is not JSON. TooLarge."""
    values = read_params(params)
    if len(values) not in (2, 3) or not isinstance(values[0], str):
        raise BadRequest("params: must be [function, payload, options?]")
    options: Mapping[str, Any] = values[2] if len(values) == 3 and isinstance(values[2], dict) else {}
    payload, encoding = values[1], JSON
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
    return AcceptedEvent(values[0], payload, encoding, trace=options.get("trace"), key=options.get("idempotency_key"))


class Dispatcher:
    """queue: durable. now_s: Unix time."""

    def __init__(self, *, queue: EventQueue, caller: Caller, log: Log, now_s: Callable[[], float]) -> None:
        self._queue = queue
        self._caller = caller
        self._log = log
        self._now_s = now_s
        self._states: dict[str, State] = {}
        self._running = 0
        self._free = trio.Event()
        self._stopping = False
        self.accepted = 0
        self.results: Counter[str] = Counter()

    async def accept(self, event: AcceptedEvent) -> str:
        """The request id, once the event is durable. QueueFull (Throttled), TooLarge, Unavailable."""
        request_id = event.request_id()
        headers = {"encoding": event.encoding}
        if event.trace is not None:
            headers["trace"] = event.trace
        created_ms = int(self._now_s() * 1000)
        await self._queue.put(
            Event(id=request_id, function=event.function, payload=event.payload, created_ms=created_ms, headers=headers)
        )
        self.accepted += 1
        return request_id

    def stop(self) -> None:
        """Takes no more events; those in flight go on."""
        self._stopping = True

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            while not self._stopping:
                while self._running >= AT_ONCE_MAX:
                    self._free = trio.Event()
                    await self._free.wait()
                try:
                    leases = await self._queue.take(min(TAKE_MAX, AT_ONCE_MAX - self._running), TAKE_WAIT_S)
                except Unavailable as error:
                    self._log.error("events cannot be read", error=str(error))
                    await trio.sleep(STORE_PAUSE_S)
                    continue
                for lease in leases:
                    self._running += 1
                    nursery.start_soon(self._attempt, lease)

    async def _attempt(self, lease: Lease) -> None:
        try:
            error = await self._invoke(lease)
            if self._stopping and error is not None and error.type == "Unavailable":
                return  # the service is ending: the event waits for the next one
            await self._conclude(lease, error)
        except (LeaseLost, Unavailable) as trouble:
            # Somebody else has it, or the store could not be written: it comes again.
            self._log.warning("event comes again", request_id=lease.event.id, error=str(trouble))
        finally:
            self._running -= 1
            self._free.set()

    async def _invoke(self, lease: Lease) -> SchedulerError | None:
        event = lease.event
        payload = event.payload if event.headers.get("encoding", JSON) == JSON else msgpack.unpackb(event.payload, raw=False)
        options = {"trace": event.headers["trace"]} if "trace" in event.headers else {}
        error: SchedulerError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep, lease)
            error = await self._caller.invoke(event.function, payload, options)
            nursery.cancel_scope.cancel()
        return error

    async def _keep(self, lease: Lease) -> None:
        while True:
            await trio.sleep(EXTEND_PERIOD_S)
            try:
                self._queue.extend(lease)
            except LeaseLost:
                return  # the attempt goes on; another may run beside it, as at-least-once allows

    async def _conclude(self, lease: Lease, error: SchedulerError | None) -> None:
        event = lease.event
        outcome = decide(error, self._states.get(event.id, State()), age_s=self._now_s() - event.created_ms / 1000)
        match outcome:
            case Finished():
                self.results["success"] += 1
                await self._forget(event)
            case Retry(delay_s, state):
                self.results["retry"] += 1
                self._states[event.id] = state
                await self._queue.retry(lease, delay_s)
            case Dropped(condition):
                self.results["dropped"] += 1
                self._log.warning(
                    "event dropped",
                    request_id=event.id,
                    function=event.function,
                    condition=condition.value,
                    deliveries=lease.deliveries,
                    error=str(error),
                )
                await self._forget(event)

    async def _forget(self, event: Event) -> None:
        await self._queue.done(event.id)
        self._states.pop(event.id, None)
