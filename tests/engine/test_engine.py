"""The engine as Python sees it: a real reactor on its thread, real sockets, no sandbox."""

from __future__ import annotations

import os
import select
import socket
import struct
from contextlib import ExitStack, asynccontextmanager
from itertools import pairwise

import msgpack
import pytest
import trio

from scheduler.engine import CannotListen, Engine, EngineError, histogram_bounds, render_log
from scheduler.messages import (
    NO_ACCOUNT,
    NO_LIMIT,
    NO_LIMIT_64,
    AccountPut,
    Cause,
    Closed,
    Command,
    CommandKind,
    Drain,
    Drained,
    EngineConfig,
    Fault,
    FunctionFreed,
    FunctionPut,
    FunctionRemove,
    Killed,
    MethodCall,
    Need,
    Opened,
    Resource,
    Right,
    SandboxReaped,
    SandboxWant,
    Tier,
    connection_adopt,
    connection_close,
    connection_grant,
    core,
    function_info,
    make_handle,
    name_put,
    respond,
    sandbox_start,
    stop_listening,
)

SMALL = EngineConfig(
    calls_max=256, functions_max=128, sandboxes_max=64, accounts_max=128, connections_max=64, payload_total_bytes_max=64 << 20
)
HELLO = make_handle(3, 1)


@asynccontextmanager
async def running(path, config=SMALL, commands=()):
    """An engine on its thread with a Unix socket at `path`; nobody takes its events but the test."""
    with Engine(config) as engine:
        engine.preload(commands)
        engine.listen_unix(str(path))
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield engine
            nursery.cancel_scope.cancel()


def one_function(queue_timeout_ns=0, **limits):
    account = AccountPut(index=1, parent=0, maxima=limits)
    function = FunctionPut(
        handle=HELLO, account=1, revision=1, memory_mb=128, timeout_ns=10**9, queue_timeout_ns=queue_timeout_ns
    )
    return [
        core(AccountPut(index=0, parent=NO_ACCOUNT), name="node"),
        core(account, name="function:hello"),
        core(function),
        function_info(HELLO, name="hello", version="$LATEST", tenant="t", tenant_number=1, memory_mb=128, timeout_ms=1000),
        name_put("hello", HELLO),
    ]


async def connect(path):
    return await trio.open_unix_socket(str(path))


async def request(stream, method, *params, msgid=1):
    await stream.send_all(msgpack.packb([0, msgid, method, list(params)]))


async def answer(stream):
    unpacker = msgpack.Unpacker(raw=False)
    while True:
        data = await stream.receive_some(65536)
        assert data, "the engine closed the connection"
        unpacker.feed(bytes(data))
        for message in unpacker:
            return message


async def test_http_and_the_protocol_keep_places_for_each_other(tmp_path):
    """Of 64 connections each leaves four to the other."""
    with Engine(SMALL) as engine, ExitStack() as opened:
        port = engine.listen_http("127.0.0.1", 0)
        engine.listen_unix(str(tmp_path / "s"))
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            idle = [opened.enter_context(socket.create_connection(("127.0.0.1", port), 5)) for _ in range(60)]
            with socket.create_connection(("127.0.0.1", port), 5) as one_more:
                assert b" 503 " in await trio.to_thread.run_sync(one_more.recv, 100)
            for client in [await connect(tmp_path / "s") for _ in range(4)]:
                await request(client, "invoke", "nobody", b"")
                assert (await answer(client))[2]["type"] == "NotFound"
                await client.aclose()
            assert all(not select.select([client], [], [], 0)[0] for client in idle)
            nursery.cancel_scope.cancel()


class Events:
    """Events in order; a test names the kind it waits for and gets those before it for free."""

    def __init__(self, engine):
        self.engine = engine
        self.seen = []
        self.waiting = []

    async def next(self, kind):
        with trio.fail_after(60):
            while True:
                while self.waiting:
                    event = self.waiting.pop(0)
                    self.seen.append(event)
                    if isinstance(event, kind):
                        return event
                self.waiting = await self.engine.wait_events()


async def test_a_method_goes_to_the_service_and_its_answer_back(tmp_path):
    path = tmp_path / "s"
    async with running(path) as engine, await connect(path) as stream:
        events = Events(engine)
        opened = await events.next(Opened)
        assert (opened.tcp, opened.peer_uid) == (False, os.getuid())
        await request(stream, "functions.get", {"name": "hello"}, msgid=77)
        call = await events.next(MethodCall)
        assert (call.connection, call.msgid, call.method, call.notification) == (opened.connection, 77, "functions.get", False)
        assert call.rights == Right.ALL
        assert msgpack.unpackb(call.params) == [{"name": "hello"}]
        await engine.post(respond(call.connection, call.msgid, msgpack.packb({"n": 1}), ok=True))
        assert await answer(stream) == [1, 77, None, {"n": 1}]
        await engine.post(respond(call.connection, 78, msgpack.packb({"type": "NotFound"}), ok=False))
        assert await answer(stream) == [1, 78, {"type": "NotFound"}, None]
        await engine.post(connection_close(call.connection))
        assert (await events.next(Closed)).connection == opened.connection
        assert await stream.receive_some(1) == b""


async def test_an_adopted_connection_has_the_rights_it_was_given(tmp_path):
    path = tmp_path / "s"
    ours, theirs = socket.socketpair()
    async with running(path, commands=one_function()) as engine:
        events = Events(engine)
        await engine.post(connection_adopt(theirs.detach(), Right.NONE, tag=42))
        opened = await events.next(Opened)
        assert (opened.adopted, opened.tcp, opened.tag) == (True, True, 42)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        await request(stream, "invoke", "hello", b"{}")
        assert (await answer(stream))[2]["type"] == "Unauthorized"
        await engine.post(connection_grant(opened.connection, Right.INVOKE, 2))
        await request(stream, "invoke", "hello", b"{}")
        assert (await answer(stream))[2]["type"] == "NotFound", "another tenant's function"
        await engine.post(connection_grant(opened.connection, Right.INVOKE, 1))
        await request(stream, "invoke", "hello", b"{}")
        await events.next(Need)
        await stream.aclose()


async def test_a_need_that_cannot_be_met_is_told_to_the_caller(tmp_path):
    path = tmp_path / "s"
    async with running(path, commands=one_function(queue_timeout_ns=10**9)) as engine, await connect(path) as stream:
        events = Events(engine)
        await request(stream, "invoke", "hello", b"{}")
        need = await events.next(Need)
        assert (need.function, need.revision) == (HELLO, 1)
        await engine.post(core(SandboxReaped(sandbox=need.sandbox, cause=Cause.LAUNCH_FAILED)))
        again = await events.next(Need)  # which is tried once more
        await engine.post(core(SandboxReaped(sandbox=again.sandbox, cause=Cause.LAUNCH_FAILED)))
        error = (await answer(stream))[2]
        assert error["type"] == "InitFailed"


async def test_a_refusal_names_account_and_resource(tmp_path):
    path = tmp_path / "s"
    commands = one_function()
    limits = {Resource.CONCURRENCY: 0}
    commands[1] = core(AccountPut(index=1, parent=0, maxima=limits), name="function:hello")
    async with running(path, commands=commands), await connect(path) as stream:
        await request(stream, "invoke", "hello", b"{}")
        error = (await answer(stream))[2]
        assert (error["type"], error["account"], error["resource"]) == ("Throttled", "function:hello", "concurrency")
        assert error["limit"] == 0


async def test_counters_come_in_chunks_and_add_up(tmp_path):
    path = tmp_path / "s"
    commands = [core(AccountPut(index=0, parent=NO_ACCOUNT))]
    handles = [make_handle(i, 5) for i in range(100)]
    for handle in handles:
        commands.append(
            core(FunctionPut(handle=handle, account=0, revision=1, memory_mb=128, timeout_ns=10**9, queue_timeout_ns=0))
        )
        commands.append(
            function_info(handle, name=f"f{handle & 0xFF}", version="1", tenant="t", tenant_number=1, memory_mb=1, timeout_ms=1)
        )
    async with running(path, commands=commands) as engine, trio.open_nursery() as nursery:

        async def pump():
            while True:
                await engine.wait_events()

        nursery.start_soon(pump)
        with trio.fail_after(60):
            one = await engine.stats()
            both = []
            async with trio.open_nursery() as askers:
                for _ in range(2):
                    askers.start_soon(lambda: _into(both, engine.stats))
        nursery.cancel_scope.cancel()
    assert set(one.functions) == set(handles) == set(both[0].functions)
    assert one.totals.functions == 100
    assert set(one.accounts) == {0}
    assert one.accounts[0].maxima[Resource.CONCURRENCY] == NO_LIMIT
    assert one.accounts[0].maxima[Resource.QUEUED_BYTES] == NO_LIMIT_64
    assert one.loop.commands >= 201
    assert all(sum(f.run.buckets) == f.run.count == 0 for f in one.functions.values())


async def _into(out, fn):
    out.append(await fn())


async def test_a_full_ring_keeps_the_order_and_loses_nothing(tmp_path):
    """More commands than the ring holds, posted while nobody takes any; the last one posted is the last one done."""
    path = tmp_path / "s"
    with Engine(SMALL) as engine:
        engine.preload(one_function())
        engine.listen_unix(str(path))

        async def flood():
            for i in range(9000):
                await engine.post(name_put("f", make_handle(i % 100 + 4, 1)))
            await engine.post(name_put("f", HELLO))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as reactor:
                await reactor.start(engine.run)
                events = Events(engine)
                async with await connect(path) as stream:
                    with trio.fail_after(60):
                        while True:
                            await request(stream, "invoke", "f", b"{}", {"type": "dryrun"})
                            reply = await answer(stream)
                            if reply[2] is None:
                                break
                            assert reply[2]["type"] == "NotFound"
                            await trio.sleep(0.005)
                    await request(stream, "invoke", "f", b"{}")
                    assert (await events.next(Need)).function == HELLO
                reactor.cancel_scope.cancel()


async def test_descriptors_are_closed_whatever_happens(tmp_path):
    def pipe_end():
        read, write = os.pipe()
        return read, write

    def closed(read):
        # The other end is gone: end of file, at once.
        ready = os.read(read, 1) == b""
        os.close(read)
        return ready

    path = tmp_path / "s"
    ends = [pipe_end() for _ in range(4)]
    async with running(path) as engine:
        events = Events(engine)
        # 1: handed over, but for a sandbox that nobody wants: the engine closes it.
        fds = (ends[0][1], -1, -1, -1, -1, -1)
        await engine.post(sandbox_start(make_handle(1, 1), start=b"{}", tier=Tier.SHELL, fds=fds))
        await events.next(Killed)
        # 2: its poster is cancelled while it waits its turn.
        async with engine._order, trio.open_nursery() as nursery:
            nursery.start_soon(engine.post, connection_adopt(ends[1][1], Right.ALL))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        # 3: posted, and the engine is stopped before it looks.
        await engine.stop()
        await engine.post(connection_adopt(ends[2][1], Right.ALL))
    # 4: posted to a closed engine.
    with pytest.raises(EngineError, match="closed"):
        await engine.post(connection_adopt(ends[3][1], Right.ALL))
    assert [closed(read) for read, _ in ends] == [True] * 4


async def test_drain_is_told_once_nothing_runs(tmp_path):
    path = tmp_path / "s"
    async with running(path, commands=one_function()) as engine, await connect(path) as stream:
        events = Events(engine)
        await events.next(Opened)
        await engine.post(stop_listening(), core(Drain(0)))
        await events.next(Drained)
        await request(stream, "invoke", "hello", b"{}")
        assert (await answer(stream))[2]["type"] == "Unavailable"
        with pytest.raises(OSError, match=r"refused|No such file"):
            await connect(path)


async def test_a_removed_function_is_let_go(tmp_path):
    path = tmp_path / "s"
    async with running(path, commands=one_function()) as engine:
        events = Events(engine)
        await engine.post(core(SandboxWant(HELLO, 1)))
        need = await events.next(Need)
        await engine.post(core(FunctionRemove(HELLO)))
        assert (await events.next(Killed)).sandbox == need.sandbox
        await engine.post(core(SandboxReaped(sandbox=need.sandbox, cause=Cause.KILLED)))
        assert (await events.next(FunctionFreed)).function == HELLO


def test_a_socket_in_use_is_refused_and_a_dead_one_replaced(tmp_path):
    path = str(tmp_path / "s")
    with Engine(SMALL) as first, Engine(SMALL) as second:
        first.listen_unix(path)
        with pytest.raises(CannotListen, match="in use") as refused:
            second.listen_unix(path)
        assert refused.value.type == "Unavailable"
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "d"))
    dead.close()
    with Engine(SMALL) as engine:
        engine.listen_unix(str(tmp_path / "d"))


def test_bad_configuration_says_what_is_wrong():
    with pytest.raises(EngineError, match="connections_max"):
        Engine(EngineConfig(connections_max=0))
    with pytest.raises(EngineError, match="at most 16"):
        Engine(EngineConfig(allowed_uids=tuple(range(17))))
    with pytest.raises(EngineError, match="log_dir"):
        Engine(EngineConfig(log_dir="x" * 300))


def test_histogram_bounds_leave_no_gap():
    bounds = histogram_bounds()
    assert bounds[0][0] == 0
    assert all(low == before_high for (_, before_high), (low, _) in pairwise(bounds))


def test_records_become_text_and_a_cut_one_is_left():
    head = struct.pack("<IBBBBQQ16s", 40 + 5, 2, 0, 0, 0, 0, 0, bytes(16))
    record = head + b"hello"
    text, used = render_log(record + record + record[:20])
    assert (text, used) == (b"hellohello", 2 * len(record))
    assert render_log(b"") == (b"", 0)
    assert render_log(b"\xff" * 100) == (b"", 0)


async def test_faults_are_told(tmp_path):
    async with running(tmp_path / "s") as engine:
        events = Events(engine)
        # Invocations are the reactor's own to give.
        bad = Command(kind=CommandKind.CORE, core=_Invoke())
        import scheduler.engine as module

        module._FILL[_Invoke] = lambda u, event: None
        try:
            await engine.post(bad)
        finally:
            del module._FILL[_Invoke]
        assert "reactor's own" in (await events.next(Fault)).text


class _Invoke:
    kind = 6
