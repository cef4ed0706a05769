"""The dispatcher over the real durable queue and a real socket pair; the engine's side is played by the test, time by trio."""

from __future__ import annotations

import socket
import uuid
from collections import Counter
from contextlib import asynccontextmanager
from types import MappingProxyType

import msgpack
import pytest
import trio
import trio.testing

from scheduler.errors import BadRequest, TooLarge
from scheduler.log import Log
from scheduler.queueing.caller import Caller
from scheduler.queueing.dispatcher import Dispatcher, EventCounts, read_event
from scheduler.queueing.policy import AGE_S_MAX, Condition
from scheduler.store.events import SqliteEventQueue
from scheduler.store.sqlite import open_store


class Lines:
    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


START_S = 1_000_000.0


class Rig:
    """The engine's side of the connection: every call in, and an answer when the test says so."""

    def __init__(self, stream, dispatcher, queue, lines):
        self.stream, self.dispatcher, self.queue, self.lines = stream, dispatcher, queue, lines
        self.unpacker = msgpack.Unpacker(raw=False)
        self.ready = []

    async def called(self):
        with trio.fail_after(5):
            while not self.ready:
                self.unpacker.feed(bytes(await self.stream.receive_some(65536)))
                self.ready.extend(self.unpacker)
        return self.ready.pop(0)

    async def answer(self, call, error=None):
        await self.stream.send_all(msgpack.packb([1, call[1], error, [b"1", None]]))

    def counts(self, function="f"):
        return self.dispatcher.figures(lambda name: True)[function].counts


@asynccontextmanager
async def running(directory, *, later_s=0.0, owners=MappingProxyType({})):
    """A service on the same store as the last one, that many seconds of the world's clock later."""
    ours, theirs = socket.socketpair()
    wall_s = START_S + later_s
    async with open_store(directory / "db") as store, trio.open_nursery() as nursery:
        queue = await SqliteEventQueue.load(store, count_max=100, bytes_max=1 << 20, wall_s=lambda: wall_s)
        lines = Lines()
        caller = Caller(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        start = trio.current_time()
        dispatcher = Dispatcher(
            queue=queue,
            caller=caller,
            log=Log(lines),
            now_s=lambda: wall_s + trio.current_time() - start,
            tenant_of=owners.get,
        )
        nursery.start_soon(caller.run)
        nursery.start_soon(dispatcher.run)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        yield Rig(stream, dispatcher, queue, lines)
        nursery.cancel_scope.cancel()
        await stream.aclose()


@pytest.fixture
async def rig(tmp_path):
    async with running(tmp_path) as made:
        yield made


def params(*values):
    return msgpack.packb(list(values))


async def settled(rig, condition):
    """The store answers from a thread; each look gives it a turn."""
    with trio.fail_after(60):
        while not condition():  # noqa: ASYNC110  # another thread's work cannot be awaited from here
            await trio.sleep(0.002)  # as above


async def test_an_event_is_invoked_and_forgotten(rig):
    request_id = await rig.dispatcher.accept(read_event(params("f", b'{"a":1}', {"type": "event", "trace": "Root=1"})))
    assert len(request_id) == 36
    call = await rig.called()
    assert call[2:] == ["invoke", ["f", b'{"a":1}', {"trace": "Root=1", "request_id": uuid.UUID(request_id).bytes}]]
    assert rig.queue.statistics().events == 1, "durable until the attempt has ended"
    await rig.answer(call)
    await settled(rig, lambda: rig.queue.statistics().events == 0)
    await settled(rig, lambda: rig.counts().delivered == 1)
    assert rig.counts() == EventCounts(accepted=1, delivered=1)


async def test_a_value_stays_a_value(rig):
    await rig.dispatcher.accept(read_event(params("f", {"a": [1, None]}, {"type": "event"})))
    call = await rig.called()
    assert call[3][1] == {"a": [1, None]}


async def test_the_same_key_is_one_event(rig):
    event = params("f", b"1", {"type": "event", "idempotency_key": "k"})
    first = await rig.dispatcher.accept(read_event(event))
    second = await rig.dispatcher.accept(read_event(event))
    other = await rig.dispatcher.accept(read_event(params("g", b"1", {"type": "event", "idempotency_key": "k"})))
    assert first == second != other
    assert rig.queue.statistics().events == 2
    assert (rig.counts().accepted, rig.counts().duplicates, rig.counts("g").accepted) == (1, 1, 1)


FAILS = {"type": "FunctionError", "message": "no"}
FULL = {"type": "Throttled", "message": "full", "account": "node", "resource": "concurrency", "limit": 5, "current": 5}


async def waiting(rig):
    """The one event, once it has been given back; in how many ms it is due."""
    (item,) = rig.queue._items.values()
    await settled(rig, lambda: item.token == 0 and not item.settling)
    return item.due_ms - rig.queue._now_ms()


async def test_failures_are_counted_over_restarts_and_the_third_is_the_last(tmp_path):
    """One attempt for each life of the service: 1 minute, 2 minutes, then dropped; always under the same request id."""
    async with running(tmp_path) as rig:
        request_id = await rig.dispatcher.accept(read_event(params("f", b"1", {"type": "event"})))
        call = await rig.called()
        await rig.answer(call, FAILS)
        await settled(rig, lambda: rig.counts().retried["failed"] == 1)
        assert 50_000 < await waiting(rig) <= 60_000
    ids = [call[3][2]["request_id"]]
    async with running(tmp_path, later_s=61) as rig:
        call = await rig.called()
        ids.append(call[3][2]["request_id"])
        await rig.answer(call, FAILS)
        await settled(rig, lambda: rig.counts().retried["failed"] == 1)
        assert 110_000 < await waiting(rig) <= 120_000
    async with running(tmp_path, later_s=182) as rig:
        call = await rig.called()
        ids.append(call[3][2]["request_id"])
        await rig.answer(call, FAILS)
        await settled(rig, lambda: rig.queue.statistics().events == 0)
        await settled(rig, lambda: rig.counts().dropped == {Condition.RETRIES_EXHAUSTED: 1})
        assert "RetriesExhausted" in rig.lines.text
        assert '"age_s": 182' in rig.lines.text or '"age_s":182' in rig.lines.text
    assert ids == [uuid.UUID(request_id).bytes] * 3


async def test_a_refusal_is_no_failure(tmp_path):
    """Throttled twice with growing patience, then the function fails: still its first failure."""
    async with running(tmp_path) as rig:
        await rig.dispatcher.accept(read_event(params("f", b"1", {"type": "event"})))
        await rig.answer(await rig.called(), FULL)
        assert 0 < await waiting(rig) <= 1000
        await settled(rig, lambda: rig.counts().retried == {"not_run": 1})
    async with running(tmp_path, later_s=2) as rig:
        await rig.answer(await rig.called(), FULL)
        assert 1000 < await waiting(rig) <= 2000
    async with running(tmp_path, later_s=5) as rig:
        await rig.answer(await rig.called(), FAILS)
        assert 50_000 < await waiting(rig) <= 60_000
        await settled(rig, lambda: rig.counts().retried == {"failed": 1})


async def test_what_grew_too_old_while_the_service_was_down_is_dropped_untried(tmp_path):
    async with running(tmp_path) as rig:
        await rig.dispatcher.accept(read_event(params("f", b"1", {"type": "event"})))
        await rig.called()
    async with running(tmp_path, later_s=AGE_S_MAX + 1) as rig:
        assert rig.dispatcher.figures(lambda name: True)["f"].oldest_age_s >= AGE_S_MAX + 1
        await settled(rig, lambda: rig.queue.statistics().events == 0)
        await settled(rig, lambda: rig.counts().dropped == {Condition.EVENT_AGE_EXCEEDED: 1})
        with trio.move_on_after(0.05) as untried:
            await rig.called()
        assert untried.cancelled_caught


async def test_an_event_is_not_handed_to_the_tenant_who_took_the_name_since(tmp_path):
    async with running(tmp_path, owners={"f": "acme", "kept": "acme"}) as rig:
        ids = [await rig.dispatcher.accept(read_event(params(name, b"1", {"type": "event"}))) for name in ("f", "kept")]
        await rig.called()
        await rig.called()  # both are under way as the service ends
    async with running(tmp_path, later_s=120, owners={"f": "globex", "kept": "acme"}) as rig:
        call = await rig.called()
        assert call[3][0] == "kept"
        await rig.answer(call)
        await settled(rig, lambda: rig.queue.statistics().events == 0)
        assert ids[0] in rig.lines.text
        assert "FunctionGone" in rig.lines.text
        assert ids[1] not in rig.lines.text


async def test_figures_of_a_removed_function_are_kept_under_no_name(rig):
    await rig.dispatcher.accept(read_event(params("f:7", b"1", {"type": "event"})))
    await rig.dispatcher.accept(read_event(params("g", b"1", {"type": "event"})))
    known = {"f", "g"}
    figures = rig.dispatcher.figures(lambda name: name in known)
    assert {name: (f.waiting, f.counts.accepted) for name, f in figures.items()} == {"": (0, 0), "f": (1, 1), "g": (1, 1)}
    known.remove("g")
    for _ in range(2):
        figures = rig.dispatcher.figures(lambda name: name in known)
        assert {name: (f.waiting, f.counts.accepted) for name, f in figures.items()} == {"": (1, 1), "f": (1, 1)}


async def test_a_switched_off_function_s_event_is_dropped_and_logged(rig):
    request_id = await rig.dispatcher.accept(read_event(params("f", b"1", {"type": "event"})))
    call = await rig.called()
    off = {"type": "Throttled", "message": "off", "account": "function:f", "resource": "concurrency", "limit": 0, "current": 0}
    await rig.answer(call, off)
    await settled(rig, lambda: rig.queue.statistics().events == 0 and "ZeroReservedConcurrency" in rig.lines.text)
    assert request_id in rig.lines.text


async def test_events_outlive_the_service(tmp_path):
    async with open_store(tmp_path / "db") as store:
        queue = await SqliteEventQueue.load(store, count_max=100, bytes_max=1 << 20)
        ours, theirs = socket.socketpair()
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
            caller = Caller(stream)
            dispatcher = Dispatcher(
                queue=queue, caller=caller, log=Log(Lines()), now_s=lambda: 0.0, tenant_of=lambda name: None
            )
            accepted = await dispatcher.accept(read_event(params("f", b"1", {"type": "event"})))
        theirs.close()
    async with open_store(tmp_path / "db") as store:
        queue = await SqliteEventQueue.load(store, count_max=100, bytes_max=1 << 20)
        (lease,) = await queue.take(1, 1)
        assert (lease.event.id, lease.event.payload) == (accepted, b"1")


def test_what_is_no_event_is_refused():
    with pytest.raises(BadRequest, match="payload"):
        read_event(params("f", b"{not json", {"type": "event"}))
    with pytest.raises(TooLarge, match="1048576"):
        read_event(params("f", b'"' + b"x" * 1_048_576 + b'"', {"type": "event"}))
    assert read_event(params("f", b"", {"type": "event"})).payload == b"", "Lambda takes an empty body for {}"


async def test_leases_are_renewed_for_as_long_as_functions_run(tmp_path, monkeypatch):
    renewed: Counter[str] = Counter()
    extend = SqliteEventQueue.extend

    def counting(queue, lease):
        renewed[lease.event.function] += 1
        extend(queue, lease)

    monkeypatch.setattr(SqliteEventQueue, "extend", counting)
    monkeypatch.setattr("scheduler.queueing.dispatcher.EXTEND_PERIOD_S", 0.005)
    async with running(tmp_path) as rig:
        for name in ("f", "g"):
            await rig.dispatcher.accept(read_event(params(name, b"1", {"type": "event"})))
        calls = [await rig.called() for _ in range(2)]
        await settled(rig, lambda: renewed["f"] >= 2 and renewed["g"] >= 2)
        await rig.answer(calls[0])
        await settled(rig, lambda: rig.queue.statistics().events == 1)
        before, other = dict(renewed), calls[1][3][0]
        await settled(rig, lambda: renewed[other] >= before[other] + 2)
        assert renewed[calls[0][3][0]] == before[calls[0][3][0]], "nobody holds it any more"
        await rig.answer(calls[1])
        await settled(rig, lambda: rig.queue.statistics().events == 0)
