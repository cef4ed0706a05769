"""The dispatcher over the real durable queue and a real socket pair; the engine's side is played by the test, time by trio."""

from __future__ import annotations

import socket

import msgpack
import pytest
import trio
import trio.testing

from scheduler.errors import BadRequest, TooLarge
from scheduler.log import Log
from scheduler.queueing.caller import Caller
from scheduler.queueing.dispatcher import Dispatcher, read_event
from scheduler.store.events import SqliteEventQueue
from scheduler.store.sqlite import open_store


class Lines:
    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


class Rig:
    """The engine's side of the connection: every call in, and an answer when the test says so."""

    def __init__(self, stream, dispatcher, queue, lines):
        self.stream, self.dispatcher, self.queue, self.lines = stream, dispatcher, queue, lines
        self.unpacker = msgpack.Unpacker(raw=False)
        self.ready = []

    async def called(self):
        with trio.fail_after(3600):
            while not self.ready:
                self.unpacker.feed(bytes(await self.stream.receive_some(65536)))
                self.ready.extend(self.unpacker)
        return self.ready.pop(0)

    async def answer(self, call, error=None):
        await self.stream.send_all(msgpack.packb([1, call[1], error, [b"1", None]]))


@pytest.fixture
async def rig(tmp_path, nursery):
    ours, theirs = socket.socketpair()
    async with open_store(tmp_path / "db") as store:
        queue = await SqliteEventQueue.load(store, count_max=100, bytes_max=1 << 20, wall_s=lambda: 1_000_000.0)
        lines = Lines()
        caller = Caller(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        start = trio.current_time()
        dispatcher = Dispatcher(
            queue=queue, caller=caller, log=Log(lines), now_s=lambda: 1_000_000.0 + trio.current_time() - start
        )
        nursery.start_soon(caller.run)
        nursery.start_soon(dispatcher.run)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        yield Rig(stream, dispatcher, queue, lines)
        nursery.cancel_scope.cancel()
        await stream.aclose()


def params(*values):
    return msgpack.packb(list(values))


async def settled(rig, condition):
    """The store answers from a thread; each look gives it a turn."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110  # another thread's work cannot be awaited from here
            await trio.sleep(0.002)  # as above


async def test_an_event_is_invoked_and_forgotten(rig):
    request_id = await rig.dispatcher.accept(read_event(params("f", b'{"a":1}', {"type": "event", "trace": "Root=1"})))
    assert len(request_id) == 36
    call = await rig.called()
    assert call[2:] == ["invoke", ["f", b'{"a":1}', {"trace": "Root=1"}]]
    assert rig.queue.statistics().events == 1, "durable until the attempt has ended"
    await rig.answer(call)
    await settled(rig, lambda: rig.queue.statistics().events == 0)
    assert rig.dispatcher.results == {"success": 1}


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


async def test_a_failed_event_waits_its_minute_and_is_dropped_in_the_end(rig):
    """The delays are read from the queue: due times are what decides, and waiting three minutes proves no more."""
    await rig.dispatcher.accept(read_event(params("f", b"1", {"type": "event"})))
    call = await rig.called()
    await rig.answer(call, {"type": "FunctionError", "message": "no"})
    await settled(rig, lambda: rig.dispatcher.results["retry"] == 1)
    (item,) = rig.queue._items.values()
    await settled(rig, lambda: item.token == 0 and not item.settling)
    assert 59_000 <= item.due_ms - rig.queue._now_ms() <= 60_000
    assert rig.dispatcher._states[item.id].failures == 1


async def test_a_switched_off_function_s_event_is_dropped_and_logged(rig):
    request_id = await rig.dispatcher.accept(read_event(params("f", b"1", {"type": "event"})))
    call = await rig.called()
    off = {"type": "Throttled", "message": "off", "account": "function:f", "resource": "concurrency", "limit": 0, "current": 0}
    await rig.answer(call, off)
    await settled(rig, lambda: rig.queue.statistics().events == 0)
    assert "ZeroReservedConcurrency" in rig.lines.text
    assert request_id in rig.lines.text


async def test_events_outlive_the_service(tmp_path):
    async with open_store(tmp_path / "db") as store:
        queue = await SqliteEventQueue.load(store, count_max=100, bytes_max=1 << 20)
        ours, theirs = socket.socketpair()
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
            dispatcher = Dispatcher(queue=queue, caller=Caller(stream), log=Log(Lines()), now_s=lambda: 0.0)
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
