"""The trio client over a real socket: pipelining, cancellation, loss of the connection, hostile answers, limits."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from typing import TYPE_CHECKING

import msgpack
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from scheduler import errors
from scheduler.client import CannotConnect, ConnectionLost, open_client
from tests.client.fake_service import DESCRIPTION, REPORT, Refusal, response

if TYPE_CHECKING:
    import socket


def requests_of(sock: socket.socket):
    """Frames from a raw connection, as they come."""
    unpacker = msgpack.Unpacker(max_buffer_size=64 * 1024 * 1024)
    while data := sock.recv(65536):
        unpacker.feed(data)
        yield from unpacker


async def arrived(service):
    """The next request the service has read."""
    return await trio.to_thread.run_sync(service.arrived.get)


async def test_json_text_passes_byte_for_byte_and_comes_back_as_bytes(service):
    async with open_client(service.address) as client:
        for payload in (b'{"a": 1}', '{"a": "ü"}', bytearray(b"[]"), memoryview(b" 1 ")):
            done = await client.invoke("hello", payload)
            assert done.payload == (payload.encode() if isinstance(payload, str) else bytes(payload))
            assert service.requests[-1][3][1] == (payload if isinstance(payload, str) else bytes(payload))
        assert await client.invoke_json("hello", {"x": [1, None]}) == {"x": [1, None]}


async def test_any_other_value_is_the_event_itself(service):
    async with open_client(service.address) as client:
        for event in ({"a": [1, 2.5, None, b"raw"]}, 7, None, [1], {1: 2}):
            assert (await client.invoke("hello", event)).payload == event


async def test_options_are_sent_only_where_given_and_the_report_comes_back(service):
    async with open_client(service.address) as client:
        assert (await client.invoke("hello", b"1")).report is None
        assert service.requests[-1][3] == ["hello", b"1"]
        done = await client.invoke("hello", b"1", deadline_ms=50, log_tail=True, client_context='{"c": 1}', trace="Root=1")
        assert service.requests[-1][3][2] == {
            "deadline_ms": 50,
            "log_tail": True,
            "client_context": b'{"c": 1}',
            "trace": "Root=1",
        }
        assert done.report.cold == "shell"
        assert done.report.log_tail.startswith("START")
        assert done.report.total_us == pytest.approx(12.5 + 9000 + 41.25 + 8)
        assert done.request_id == REPORT["request_id"]


async def test_an_event_gives_its_request_id(service):
    service.methods["invoke"] = lambda params: [None, {"request_id": "r-1"}]
    async with open_client(service.address) as client:
        done = await client.invoke("hello", b"1", type="event", idempotency_key="k")
    assert (done.payload, done.request_id, done.report) == (None, "r-1", None)
    assert service.requests[-1][3][2] == {"type": "event", "idempotency_key": "k"}


@pytest.mark.parametrize("kind", sorted(errors.BY_TYPE))
async def test_every_error_of_the_protocol_is_its_own_type(service, kind):
    def refuse(params):
        raise Refusal(kind, "because", request_id="r", payload=b'{"errorType": "E"}', account="node", resource="rate")

    service.methods["invoke"] = refuse
    async with open_client(service.address) as client:
        with pytest.raises(errors.BY_TYPE[kind]) as caught:
            await client.invoke("hello")
    assert (caught.value.request_id, caught.value.account, caught.value.resource) == ("r", "node", "rate")
    assert caught.value.error_object == {"errorType": "E"}


async def test_answers_may_come_in_any_order(service):
    def backwards(sock):
        held = []
        for frame in requests_of(sock):
            held.append(frame)
            if len(held) == 50:
                for _, msgid, _, params in reversed(held):
                    sock.sendall(response(msgid, [params[1], None]))

    service.serve = backwards
    results = {}
    async with open_client(service.address) as client, trio.open_nursery() as nursery:

        async def one(number):
            results[number] = (await client.invoke("hello", number)).payload

        for number in range(50):
            nursery.start_soon(one, number)
    assert results == {number: number for number in range(50)}


async def test_requests_of_one_turn_leave_in_one_send(service):
    sizes = []

    def count(sock):
        unpacker = msgpack.Unpacker()
        while data := sock.recv(1 << 20):
            unpacker.feed(data)
            frames = list(unpacker)
            sizes.append(len(frames))
            for _, msgid, _, params in frames:
                sock.sendall(response(msgid, [params[1], None]))

    service.serve = count
    async with open_client(service.address) as client, trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(client.invoke, "hello", number)
    assert sum(sizes) == 100
    assert max(sizes) >= 90  # the first goes alone, the others of the turn together


async def test_a_cancelled_call_tells_the_service_and_its_late_answer_is_dropped(service):
    held: list[tuple[socket.socket, int]] = []

    def hold_the_first(sock):
        for frame in requests_of(sock):
            service.note(frame)
            if frame[0] == 0 and frame[3] == ["hello", "slow"]:
                held.append((sock, frame[1]))
            elif frame[0] == 0:
                sock.sendall(response(frame[1], [frame[3][1], None]))

    service.serve = hold_the_first
    async with open_client(service.address) as client:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.invoke, "hello", "slow")
                await arrived(service)
                scope.cancel()
        sock, msgid = held[0]
        assert await arrived(service) == [2, "cancel", [msgid]]
        sock.sendall(response(msgid, ["late", None]))
        assert (await client.invoke("hello", "next")).payload == b"next"
        assert client.statistics() == {"in_flight": 0, "waiting": 0, "late_answers": 1}


async def test_a_call_in_a_cancelled_scope_is_not_sent(service):
    async with open_client(service.address) as client:
        await client.ping()
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.invoke("hello")
        await client.ping()
    assert [frame[2] for frame in service.requests] == ["ping", "ping"]


async def test_calls_above_the_bound_wait_their_turn_in_order(service):
    go = threading.Event()
    order = []

    def gated(params):
        go.wait(10)
        order.append(params[1])
        return [params[1], None]

    service.methods["invoke"] = gated
    async with open_client(service.address, in_flight_max=1) as client, trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(client.invoke, "hello", number)
            await wait_all_tasks_blocked()
        assert client.statistics()["in_flight"] == 1
        assert client.statistics()["waiting"] == 5
        go.set()
    assert order == list(range(6))


async def test_a_cancelled_waiter_gives_its_place_up(service):
    go = threading.Event()
    service.methods["invoke"] = lambda params: [go.wait(10) and params[1], None]
    async with open_client(service.address, in_flight_max=1) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.invoke, "hello", 1)
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.01):
            await client.invoke("hello", 2)
        assert client.statistics()["waiting"] == 0
        go.set()
        assert (await client.invoke("hello", 3)).payload == 3
    assert [frame[3][1] for frame in service.requests] == [1, 3]


async def test_a_lost_connection_fails_every_call_in_flight_with_its_own_exception(service):
    def close_on_the_third(sock):
        for count, frame in enumerate(requests_of(sock)):
            service.note(frame)
            if count == 2:
                return

    service.serve = close_on_the_third
    failures = []
    async with open_client(service.address) as client:
        async with trio.open_nursery() as nursery:

            async def one():
                try:
                    await client.invoke("hello")
                except ConnectionLost as error:
                    failures.append(error)

            for _ in range(3):
                nursery.start_soon(one)
        assert len({id(error) for error in failures}) == 3
        assert "closed the connection" in str(failures[0])
        with pytest.raises(ConnectionLost):
            await client.invoke("hello")
        assert client.broken


async def test_it_reconnects_where_it_was_told_to(service):
    async with open_client(service.address, reconnect_s=5.0) as client:
        await client.ping()
        service.hang_up()
        done = 0
        while not done:
            with contextlib.suppress(ConnectionLost):  # a call that met the loss itself fails: it may have run
                await client.ping()
                done += 1
        assert not client.broken


async def test_a_reconnecting_client_gives_up_after_its_patience(service, tmp_path):
    async with open_client(service.address, reconnect_s=0.05) as client:
        await client.ping()
        await trio.to_thread.run_sync(service.close)
        for _ in range(2):
            with pytest.raises(ConnectionLost):
                await client.ping()


@pytest.mark.parametrize(
    ("bytes_sent", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not a MessagePack-RPC response"),
        (b"\xc1\xc1\xc1", "not MessagePack"),
        (response(999, None), "never sent"),
        (response(0, error={"type": "BadRequest", "message": "frame over the limit"}), "frame over the limit"),
        (b"", "closed the connection"),
        (b"\x94\x01", "closed the connection"),
    ],
)
async def test_a_hostile_answer_fails_the_calls_and_nothing_else(service, bytes_sent, words):
    def hostile(sock):
        next(requests_of(sock))
        sock.sendall(bytes_sent)

    service.serve = hostile
    async with open_client(service.address) as client:
        with pytest.raises(errors.Unavailable, match=words):
            await client.invoke("hello")


async def test_an_answer_of_the_wrong_shape_is_told_and_the_connection_goes_on(service):
    async with open_client(service.address) as client:
        for wrong in (None, [], [1], {"payload": 1}, [1, "no report"], [1, {"queue_us": "soon"}]):
            service.methods["invoke"] = lambda params, wrong=wrong: wrong
            with pytest.raises(errors.BadAnswer):
                await client.invoke("hello")
        service.methods["stats"] = lambda params: {"functions": "none"}
        with pytest.raises(errors.BadAnswer, match="functions of the answer is str, expected list"):
            await client.stats()
        await client.ping()


async def test_a_slow_service_that_drips_bytes(service):
    def drip(sock):
        for frame in requests_of(sock):
            for byte in response(frame[1], [frame[3][1], None]):
                sock.sendall(bytes([byte]))

    service.serve = drip
    async with open_client(service.address) as client:
        assert (await client.invoke("hello", b"x" * 500)).payload == b"x" * 500


async def test_large_payloads_pass_both_ways_while_small_ones_go_on(service):
    async with open_client(service.address) as client, trio.open_nursery() as nursery:
        large = bytes(6 * 1024 * 1024)

        async def big():
            assert (await client.invoke("hello", large)).payload == large

        async def small(number):
            assert (await client.invoke("hello", number)).payload == number

        nursery.start_soon(big)
        for number in range(20):
            nursery.start_soon(small, number)


async def test_a_payload_over_the_limit_is_refused_without_harm_to_the_others(service):
    async with open_client(service.address) as client:
        with pytest.raises(errors.TooLarge):
            await client.invoke("hello", bytes(7 * 1024 * 1024))
        await client.ping()


async def test_nobody_listens(tmp_path):
    with pytest.raises(CannotConnect, match=r"cannot connect to .*/none: No such file"):
        async with open_client(tmp_path / "none"):
            pass
    with pytest.raises(CannotConnect):
        async with open_client(tmp_path / ("x" * 200)):
            pass
    (tmp_path / "file").write_text("not a socket")
    with pytest.raises(CannotConnect, match="Connection refused"):
        async with open_client(tmp_path / "file"):
            pass


async def test_the_body_s_own_exception_comes_out_bare(service):
    async def body():
        async with open_client(service.address) as client:
            await client.ping()
            raise KeyError("mine")

    with pytest.raises(KeyError):
        await body()


async def test_cancelling_the_whole_client_leaves_nothing(service):
    with trio.move_on_after(0.05) as scope:
        async with open_client(service.address) as client:
            await client.ping()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_after_close_calls_fail(service):
    async with open_client(service.address) as client:
        pass
    with pytest.raises(ConnectionLost, match="the client is closed"):
        await client.ping()


async def test_tcp_says_hello_first_with_the_token():
    from tests.client.fake_service import FakeService

    with FakeService(("127.0.0.1", 0)) as fake:
        async with open_client(fake.address[:2], token="secret") as client:
            await client.ping()
        host, port = fake.address[:2]
        async with open_client(f"tcp://{host}:{port}") as client:
            await client.ping()
        assert [frame[2] for frame in fake.requests] == ["hello", "ping", "hello", "ping"]
        assert fake.requests[0][3][0]["token"] == "secret"
        assert "token" not in fake.requests[2][3][0]

        def refuse(params):
            raise Refusal("Unauthorized", "no such token")

        fake.methods["hello"] = refuse
        with pytest.raises(errors.Unauthorized, match="no such token"):
            async with open_client(fake.address[:2], token="wrong"):
                pass


# -- control methods


async def test_deploy_sends_the_code_in_chunks_and_tells_progress(service, tmp_path, monkeypatch):
    monkeypatch.setattr("scheduler.client.methods.UPLOAD_CHUNK_BYTES", 64)
    source = tmp_path / "app.py"
    source.write_text("def handler(event, context):\n    return event\n" + "# filler\n" * 50)
    told = []
    async with open_client(service.address) as client:
        done = await client.deploy(
            source, name="new", handler="app.handler", memory_mb=256, environment={"A": "1"}, publish=True,
            progress=lambda sent, total: told.append((sent, total)),
        )  # fmt: skip
    assert (done.name, done.memory_mb, done.environment, done.versions) == ("new", 256, {"A": "1"}, ("1",))
    sent = bytes(service.code[done.code_sha256])
    assert hashlib.sha256(sent).hexdigest() == done.code_sha256
    assert told[-1] == (len(sent), len(sent))
    assert [now for now, _ in told] == sorted({now for now, _ in told})
    assert len(told) == -(-len(sent) // 64)
    request = service.requests[-1][3][0]
    assert "timeout_s" not in request  # left out: stays as it is


async def test_an_upload_goes_on_where_an_earlier_one_stopped(service):
    data = bytes(range(256)) * 10
    sha256 = hashlib.sha256(data).hexdigest()
    service.code[sha256] = bytearray(data[:1000])
    service.methods["code.put"] = lambda params: service._put(params)
    async with open_client(service.address) as client:
        assert await client.upload(data) == sha256
    assert bytes(service.code[sha256]) == data
    assert await _uploads(service) == [0, 1000]


async def _uploads(service):
    return [frame[3][0]["offset"] for frame in service.requests if frame[2] == "code.put"]


@pytest.mark.parametrize("answer", [None, {}, {"received": -1}, {"received": 10**9}, {"received": "1"}, {"received": 0}])
async def test_an_upload_that_the_service_makes_endless_is_ended(service, answer):
    service.methods["code.put"] = lambda params: answer
    async with open_client(service.address) as client:
        with pytest.raises(errors.BadAnswer):
            await client.upload(b"some code")


async def test_list_goes_over_pages_and_refuses_one_that_never_ends(service):
    pages = {None: (["a", "b"], "m1"), "m1": (["c"], "m2"), "m2": ([], None)}

    def page(params):
        names, marker = pages[params[0].get("marker")]
        return {"functions": [{**DESCRIPTION, "name": name} for name in names], "next_marker": marker}

    service.methods["functions.list"] = page
    async with open_client(service.address) as client:
        assert [function.name async for function in client.list(tenant="t")] == ["a", "b", "c"]
        assert all(frame[3][0]["tenant"] == "t" for frame in service.requests)
        pages["m1"] = (["c"], "m1")
        with pytest.raises(errors.BadAnswer, match="twice"):
            [function async for function in client.list()]


async def test_every_control_method(service):
    async with open_client(service.address) as client:
        assert (await client.hello()).rights == ("invoke", "deploy", "admin")
        function = await client.get("hello")
        assert function.stats.durations["total"].p99_us == 120
        assert function.stats.outcomes == {"ok": 10, "timeout": 2}
        assert (await client.update("hello", memory_mb=512, revision_id="0d0c")).memory_mb == 512
        assert (await client.logs("hello", wait_ms=10)).text.startswith("START")
        stats = await client.stats()
        assert (stats.functions[0].name, stats.uptime_s) == ("hello", 61.5)
        assert (await client.accounts())[0].resources["concurrency"].max == 1000
        await client.remove("hello")
        with pytest.raises(errors.NotFound):
            await client.get("hello")
        assert await client.drain(grace_ms=5) == {"drained": True}
        assert service.requests[-1][3] == [{"grace_ms": 5}]
        with pytest.raises(ValueError, match="'memory' is no configuration key"):
            await client.update("hello", memory=1)


async def test_follow_hands_the_cursor_on(service):
    texts = iter([("one", 3), ("", 3), ("two", 6)])

    def logs(params):
        text, cursor = next(texts)
        return {"text": text, "cursor": cursor}

    service.methods["functions.logs"] = logs
    async with open_client(service.address) as client:
        found = []
        async with contextlib.aclosing(client.follow_logs("hello")) as lines:
            async for text in lines:
                found.append(text)
                if len(found) == 2:
                    break
    assert found == ["one", "two"]
    asked = [frame[3][0] for frame in service.requests]
    assert "cursor" not in asked[0]
    assert "wait_ms" not in asked[0]
    assert [(request["cursor"], request["wait_ms"]) for request in asked[1:]] == [(3, 5000), (3, 5000)]
