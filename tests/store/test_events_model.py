"""The event queue against a dict: whatever is done in whatever order, a restart included, it is where the dict says."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from scheduler import limits
from scheduler.store.events import SqliteEventQueue
from scheduler.store.port import Event, Lease, LeaseLost, Put, QueueFull
from scheduler.store.sqlite import open_store

COUNT_MAX = 5
IDS = st.sampled_from("abcdefg")
STEPS = st.one_of(
    st.tuples(st.just("put"), IDS),
    st.tuples(st.just("put"), IDS),
    st.tuples(st.just("take"), st.integers(1, 4)),
    st.tuples(st.just("done"), IDS),
    st.tuples(st.just("retry"), IDS, st.sampled_from([0, 5, 60, 300])),
    st.tuples(st.just("extend"), IDS),
    st.tuples(st.just("elapse"), st.sampled_from([1, 10, 31, 121])),
    st.tuples(st.just("restart")),
)


class Model:
    """id -> [due, lease ends (0: none), deliveries]; times in ms. An event may be taken when due and not leased."""

    def __init__(self) -> None:
        self.events: dict[str, list[int]] = {}
        self.seen: dict[str, int] = {}

    def put(self, event_id: str, now: int) -> Put | None:
        if event_id in self.events or self.seen.get(event_id, 0) > now:
            return Put.DUPLICATE
        if len(self.events) >= COUNT_MAX:
            return None
        self.events[event_id] = [now, 0, 0]
        self.seen[event_id] = now + limits.EVENT_DEDUPE_MS
        return Put.STORED

    def takable(self, now: int) -> set[str]:
        return {event_id for event_id, (due, until, _) in self.events.items() if due <= now and until <= now}


async def follow(path, steps, clock: MockClock) -> None:
    model = Model()
    held: dict[str, Lease] = {}

    async def run() -> None:
        offset_s = 1_000.0 - trio.current_time()
        pending = list(steps)
        while pending:
            async with open_store(path) as store:
                queue = await SqliteEventQueue.load(
                    store, count_max=COUNT_MAX, bytes_max=1 << 20, wall_s=lambda: offset_s + trio.current_time()
                )
                for event in model.events.values():
                    event[1] = 0
                held.clear()
                while pending:
                    step = pending.pop(0)
                    if step == ("restart",):
                        break
                    await one(queue, step, int((trio.current_time() + offset_s) * 1000))
                    assert queue.statistics().events == len(model.events)
                    assert queue.statistics().bytes == len(model.events) * 4

    async def one(queue: SqliteEventQueue, step, now: int) -> None:
        match step:
            case ("put", event_id):
                try:
                    result = await queue.put(Event(id=event_id, function="f", payload=b"xy", created_ms=0))
                except QueueFull:
                    result = None
                assert result is model.put(event_id, now)
            case ("take", count):
                takable = model.takable(now)
                leases = await queue.take(count, 0)
                taken = {lease.event.id for lease in leases}
                assert taken <= takable
                assert len(leases) == len(taken) == min(count, len(takable))
                for lease in leases:
                    event = model.events[lease.event.id]
                    event[1] = now + limits.EVENT_LEASE_MS
                    event[2] = lease.deliveries
                    held[lease.event.id] = lease
            case ("done", event_id):
                await queue.done(event_id)
                model.events.pop(event_id, None)
            case ("retry" | "extend", event_id, *delay):
                if event_id not in held:
                    return
                event = model.events.get(event_id)
                live = event is not None and event[1] > now and event[2] == held[event_id].deliveries
                lost = False
                try:
                    if delay:
                        await queue.retry(held[event_id], delay[0])
                    else:
                        queue.extend(held[event_id])
                except LeaseLost:
                    lost = True
                assert lost is not live
                if live and delay:
                    event[:2] = now + delay[0] * 1000, 0
                elif live:
                    event[1] = now + limits.EVENT_LEASE_MS
            case ("elapse", seconds):
                clock.jump(seconds)

    await run()


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_agrees_with_the_model(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("model") / "store" / "x.db"
    clock = MockClock()
    trio.run(follow, path, steps, clock, clock=clock)
