"""The blocking client: threads over one connection, who reads, forks, time limits, loss of the connection."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import msgpack
import pytest

from scheduler import errors
from scheduler.client import BlockingClient, CannotConnect, ConnectionLost
from tests.client.fake_service import DESCRIPTION, FakeService, Refusal, response


def test_every_method_gives_what_the_trio_client_gives(service, tmp_path):
    source = tmp_path / "app.py"
    source.write_text("def handler(event, context):\n    return event\n")
    told = []
    with BlockingClient(service.address) as client:
        client.ping()
        assert client.hello().server == "fake"
        assert client.invoke("hello", b"[1]").payload == b"[1]"
        assert client.invoke("hello", {"a": 1}, report=True).report.cold == "shell"
        assert client.invoke_json("hello", {"x": 1}) == {"x": 1}
        done = client.deploy(source, name="new", handler="app.handler", progress=lambda *now: told.append(now))
        assert (done.name, done.code_size) == ("new", source.stat().st_size)
        assert told[-1] == (done.code_size, done.code_size)
        assert [function.name for function in client.list()] == ["hello", "new"]
        assert client.update("new", timeout_s=9).timeout_s == 9
        assert client.get("new").stats is not None
        client.remove("new")
        assert client.logs("hello").cursor == 7
        assert next(client.follow_logs("hello")).startswith("START")
        assert client.stats().uptime_s == 61.5
        assert client.accounts()[0].kind == "node"
        assert client.drain() == {"drained": True}
        with pytest.raises(errors.NotFound):
            client.invoke("nobody")


def test_reserved_concurrency_can_be_taken_away(service):
    with BlockingClient(service.address) as client:
        client.update("hello", reserved_concurrency=5, memory_mb=None)
        assert service.requests[-1][3][0] == {"name": "hello", "reserved_concurrency": 5}
        client.update("hello", reserved_concurrency="none")
        assert service.requests[-1][3][0] == {"name": "hello", "reserved_concurrency": None}


def test_many_threads_share_one_connection(service):
    with BlockingClient(service.address) as client, ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda number: client.invoke_json("hello", number), range(500)))
    assert results == list(range(500))
    assert len(service.connections) == 1


def test_calls_of_threads_are_pipelined(service):
    everybody = threading.Event()
    held = []

    def answer_when_all_have_come(sock):
        unpacker = msgpack.Unpacker()
        while data := sock.recv(65536):
            unpacker.feed(data)
            held.extend(unpacker)
            if len(held) == 8:
                everybody.set()
                for _, msgid, _, params in reversed(held):
                    sock.sendall(response(msgid, [params[1], None]))

    service.serve = answer_when_all_have_come
    with BlockingClient(service.address, timeout_s=10) as client, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: client.invoke("hello", number).payload, range(8)))
    assert everybody.is_set()
    assert results == list(range(8))


def test_the_lead_passes_on_when_the_leader_is_answered_first(service):
    """The thread that reads gets its answer and leaves; the other's answer must still be read."""
    second_sent = threading.Event()

    def first_answered_first(sock):
        unpacker = msgpack.Unpacker()
        ids = []
        while data := sock.recv(65536):
            unpacker.feed(data)
            ids += [frame[1] for frame in unpacker if frame[0] == 0]
            if len(ids) == 2:
                sock.sendall(response(ids[0], ["first", None]))
                second_sent.wait(5)
                sock.sendall(response(ids[1], ["second", None]))

    service.serve = first_answered_first
    results = []
    with BlockingClient(service.address, timeout_s=10) as client:

        def leader():
            results.append(client.invoke("hello", 1).payload)
            second_sent.set()

        first = threading.Thread(target=leader)
        first.start()
        second = threading.Thread(target=lambda: results.append(client.invoke("hello", 2).payload))
        second.start()
        first.join(10)
        second.join(10)
    assert results == ["first", "second"]


def test_a_time_limit_gives_the_call_up_and_the_connection_goes_on(service):
    def slow(params):
        if params[1] == "slow":
            return slow_answer.wait(10) and ["late", None]
        return [params[1], None]

    slow_answer = threading.Event()
    service.methods["invoke"] = slow
    with BlockingClient(service.address) as client:
        with pytest.raises(TimeoutError, match=r"invoke had no answer within 0\.02 s"):
            client.invoke("hello", "slow", timeout_s=0.02)
        slow_answer.set()
        assert client.invoke("hello", "next").payload == b"next"
        assert [2, "cancel", [1]] in service.requests


def test_large_payloads_from_threads_do_not_stop_each_other(service):
    """More than the socket's buffers both ways at once: a sender that does not read would stop both ends."""
    with BlockingClient(service.address, timeout_s=30) as client, ThreadPoolExecutor(4) as pool:
        big = [bytes([number]) * 3_000_000 for number in range(4)]
        assert [done.payload for done in pool.map(lambda payload: client.invoke("hello", payload), big)] == big


def test_the_bound_on_calls_in_flight_holds(service):
    running, most, lock = 0, 0, threading.Lock()

    def counted(sock):
        nonlocal running, most
        unpacker = msgpack.Unpacker()
        while data := sock.recv(65536):
            unpacker.feed(data)
            frames = list(unpacker)
            with lock:
                running += len(frames)
                most = max(most, running)
            for frame in frames:
                with lock:
                    running -= 1
                sock.sendall(response(frame[1], [None, None]))

    service.serve = counted
    with BlockingClient(service.address, in_flight_max=3) as client, ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: client.invoke("hello"), range(100)))
    assert 1 <= most <= 3


def test_a_lost_connection_fails_every_waiting_thread(service):
    together = threading.Barrier(5)

    def hang_up_on_the_fifth(sock):
        unpacker = msgpack.Unpacker()
        seen = 0
        while seen < 5 and (data := sock.recv(65536)):
            unpacker.feed(data)
            seen += len(list(unpacker))

    service.serve = hang_up_on_the_fifth

    def call(client):
        together.wait(5)
        with pytest.raises(ConnectionLost, match=r"closed the connection|broke"):
            client.invoke("hello")
        return True

    with BlockingClient(service.address, timeout_s=10) as client, ThreadPoolExecutor(5) as pool:
        assert all(pool.map(lambda _: call(client), range(5)))
        with pytest.raises(ConnectionLost):
            client.ping()


def test_it_reconnects_where_it_was_told_to(service):
    with BlockingClient(service.address, reconnect=True) as client:
        client.ping()
        service.hang_up()
        with pytest.raises(ConnectionLost):
            client.ping()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: client.ping(), range(8)))
        assert len(service.connections) == 1  # of those since the cut: all threads share one


@pytest.mark.parametrize("rubbish", [b"\xc1", b"GET / HTTP/1.1\r\n", response(77), response(0, error={"message": "no"})])
def test_hostile_answers(service, rubbish):
    def hostile(sock):
        sock.recv(65536)
        sock.sendall(rubbish)

    service.serve = hostile
    with BlockingClient(service.address) as client, pytest.raises(errors.ProtocolFault):
        client.ping()


def test_closing_fails_calls_of_other_threads(service):
    arrived = threading.Event()
    service.methods["invoke"] = lambda params: arrived.set() or threading.Event().wait(0.2) or [None, None]
    client = BlockingClient(service.address)
    failures = []

    def call():
        try:
            client.invoke("hello")
        except ConnectionLost as error:
            failures.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    assert arrived.wait(5)
    client.close()
    thread.join(5)
    assert failures == ["Unavailable: the client is closed"]
    with pytest.raises(ConnectionLost):
        client.ping()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # that is what is tested
def test_a_forked_child_opens_its_own_connection_even_when_a_lock_was_held(service):
    client = BlockingClient(service.address, timeout_s=5)
    client.ping()
    link = client._links[os.getpid()]
    descriptor = link._sock.fileno()
    with link._lock:  # as another thread may hold it at the moment of the fork
        child = os.fork()
        if child == 0:
            code = 1
            try:
                client.ping()
                mine = client._links[os.getpid()]
                code = 0 if mine is not link and len(client._links) == 1 and not link._sock.fileno() >= 0 else 2
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert link._sock.fileno() == descriptor
    client.ping()  # the parent's connection has not suffered
    client.close()
    assert len(service.connections) == 2


def test_nobody_listens_and_later_somebody_does(tmp_path):
    client = BlockingClient(tmp_path / "s")
    with pytest.raises(CannotConnect, match="No such file"):
        client.ping()
    with FakeService(tmp_path / "s"):
        client.ping()
        client.close()


def test_tcp_says_hello_first_with_the_token():
    with FakeService(("127.0.0.1", 0)) as fake:
        with BlockingClient(fake.address[:2], token="secret") as client:
            client.ping()
        assert [frame[2] for frame in fake.requests] == ["hello", "ping"]

        def refuse(params):
            raise Refusal("Unauthorized", "no such token")

        fake.methods["hello"] = refuse
        with pytest.raises(errors.Unauthorized), BlockingClient(fake.address[:2], token="wrong"):
            pass


def test_an_address_that_is_none():
    for wrong in ("", "tcp://nowhere", "tcp://host:0", "tcp://:80", "tcp://h:99999"):
        with pytest.raises(ValueError, match=r"empty|is not tcp://HOST:PORT"):
            BlockingClient(wrong)


def test_no_descriptor_is_left(service):
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with BlockingClient(service.address) as client:
            client.ping()
    service.connections.clear()
    after = {name for name in os.listdir("/proc/self/fd") if _is_ours(name)}
    assert not after - before


def _is_ours(name: str) -> bool:
    """Eventfds: the client's own, and nobody else here has any."""
    try:
        return "eventfd" in os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return False


def test_import_does_not_cost_trio():
    import subprocess
    import sys

    code = "import sys, scheduler.client as c; c.BlockingClient; sys.exit('trio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_list_pages(service):
    def page(params):
        return {"functions": [DESCRIPTION], "next_marker": "m" if "marker" not in params[0] else None}

    service.methods["functions.list"] = page
    with BlockingClient(service.address) as client:
        assert len(list(client.list())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_storm_of_threads_that_give_up_leaves_nobody_waiting(service, seed):
    """Answers in random order and late; callers that lose patience, also while they lead. Nobody may be forgotten."""

    def shuffled(sock):
        chance = random.Random(seed)
        unpacker = msgpack.Unpacker()
        held = []
        sock.settimeout(0.002)
        while True:
            try:
                data = sock.recv(65536)
            except TimeoutError:
                data = None
            if data == b"":
                return
            unpacker.feed(data or b"")
            held += [frame for frame in unpacker if frame[0] == 0]
            chance.shuffle(held)
            count = len(held) if data is None else chance.randint(0, len(held))
            for _, msgid, _, params in held[:count]:
                sock.sendall(response(msgid, [params[1] if params else None, None]))
            del held[:count]

    service.serve = shuffled
    outcomes = {"answered": 0, "given up": 0}

    def caller(number):
        chance = random.Random(f"{seed} {number}")
        for step in range(150):
            try:
                patience_s = chance.choice((0.0, 0.0005, 0.002, 20.0))
                assert client.invoke("hello", [number, step], timeout_s=patience_s).payload == [number, step]
                outcomes["answered"] += 1
            except TimeoutError:
                outcomes["given up"] += 1

    with BlockingClient(service.address, in_flight_max=6) as client, ThreadPoolExecutor(12) as pool:
        for done in [pool.submit(caller, number) for number in range(12)]:
            done.result(60)
        link = client._links[os.getpid()]
        assert not link._session.pending
        assert not link._leader
        assert client.invoke("hello", "still here", timeout_s=20).payload == b"still here"
    assert all(outcomes.values())
