"""The control plane's side of HTTP without an engine: peers that do not read, places that run out."""

from __future__ import annotations

import contextlib
import socket

import pytest
import trio
import trio.testing

from scheduler.lambda_api.app import Reply
from scheduler.lambda_api.server import Budget, Front, converse

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def ends():
    """(ours as a stream, the peer's)."""
    ours, peer = socket.socketpair()
    with peer:
        yield trio.SocketStream(trio.socket.from_stdlib_socket(ours)), peer
        ours.close()


async def test_who_does_not_read_its_answer_loses_its_place(ends, autojump_clock):
    stream, _ = ends

    async def answer(request, host):
        return Reply(200, [], b"x" * (8 << 20))

    with trio.fail_after(120):
        assert not await converse(stream, answer, Budget(), REQUEST)


async def test_a_file_is_sent_whole_and_closed(ends, tmp_path):
    stream, peer = ends
    data = bytes(range(256)) * 4096 + b"end"
    (tmp_path / "package").write_bytes(data)
    file = (tmp_path / "package").open("rb")

    async def answer(request, host):
        return Reply(200, [], b"", file)

    read = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(converse, stream, answer, Budget(), REQUEST)
        there = trio.SocketStream(trio.socket.from_stdlib_socket(peer))
        while len(read.partition(b"\r\n\r\n")[2]) < len(data):
            read += await there.receive_some(65536)
    head, _, body = read.partition(b"\r\n\r\n")
    assert body == data
    assert f"content-length: {len(data)}".encode() in head.lower()
    assert file.closed


async def test_without_a_place_one_is_told_so(nursery):
    async def answer(request, host):
        raise AssertionError

    async def give_back(fd):
        raise AssertionError

    front = Front(answer, give_back=give_back, nursery=nursery, places=1)
    peers = []
    for _ in range(2):
        ours, peer = socket.socketpair()
        peers.append(peer)
        front.take(ours.detach(), b"")
    with peers[0], peers[1]:
        assert peers[1].recv(4096).startswith(b"HTTP/1.1 503 ")
        assert peers[1].recv(4096) == b""
        nursery.cancel_scope.cancel()


async def test_a_head_that_trickles_has_half_a_minute(ends, autojump_clock):
    stream, peer = ends

    async def answer(request, host):
        raise AssertionError

    async def trickle():
        with contextlib.suppress(BrokenPipeError):
            while True:
                await trio.sleep(5)
                peer.send(b"x")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        began = trio.current_time()
        assert not await converse(stream, answer, Budget(), b"GET / HTTP/1.1\r\nx: ")
        assert trio.current_time() - began == pytest.approx(30, abs=1)
        nursery.cancel_scope.cancel()


def large(size: int) -> tuple[bytes, bytes]:
    """(head, body) of a request that is read beside the HTTP library."""
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size, bytes(range(251)) * (size // 251) + b"." * (
        size % 251
    )


async def test_a_large_body_arrives_whole_and_nothing_of_what_follows_is_lost(ends):
    stream, peer = ends
    head, body = large(9_000_001)
    seen = []

    async def answer(request, host):
        seen.append((request.method, request.body))
        return Reply(200, [], b"ok")

    async with trio.open_nursery() as nursery:
        there = trio.SocketStream(trio.socket.from_stdlib_socket(peer))
        nursery.start_soon(there.send_all, body[70_000:] + REQUEST)
        assert await converse(stream, answer, Budget(), head + body[:70_000])
        assert await converse(stream, answer, Budget())
    assert seen == [("POST", body), ("GET", b"")]


async def test_a_large_body_that_does_not_come_gives_up_its_place_and_its_budget(ends, autojump_clock):
    stream, _ = ends
    head, body = large(9_000_000)
    budget = Budget(9_000_000)

    async def answer(request, host):
        raise AssertionError

    with trio.fail_after(400):
        assert not await converse(stream, answer, budget, head + body[:1000])
    assert budget.take(9_000_000)


async def test_a_large_body_takes_of_the_budget_what_came_and_not_what_was_said(ends):
    stream, peer = ends
    head, body = large(9_000_000)
    budget = Budget(5_000_000)

    async def answer(request, host):
        raise AssertionError

    async with trio.open_nursery() as nursery:
        there = trio.SocketStream(trio.socket.from_stdlib_socket(peer))
        nursery.start_soon(there.send_all, body[1000:])
        assert not await converse(stream, answer, budget, head + body[:1000])
        nursery.cancel_scope.cancel()
    assert b" 503 " in peer.recv(4096, socket.MSG_DONTWAIT)
    assert budget.take(5_000_000)


async def handed(front, count, data=b""):
    """That many connections of ours that the front has taken; `data` is what had come of each."""
    peers = []
    for _ in range(count):
        ours, peer = socket.socketpair()
        ours.setblocking(False)
        front.take(ours.detach(), data)
        peers.append(peer)
    await trio.testing.wait_all_tasks_blocked()
    return peers


async def test_who_stalls_makes_room_for_who_comes_whole(nursery):
    async def answer(request, host):
        return Reply(200, [], b"here")

    async def give_back(fd):
        socket.socket(fileno=fd).close()

    front = Front(answer, give_back=give_back, nursery=nursery, places=8)
    longest = await handed(front, 1, REQUEST[:10])
    stalled = await handed(front, 7, REQUEST[:10])
    comes = await handed(front, 1, REQUEST)
    assert comes[0].recv(4096, socket.MSG_DONTWAIT).endswith(b"here")
    assert longest[0].recv(10, socket.MSG_DONTWAIT) == b"", "it has been closed"
    for other in stalled:
        with pytest.raises(BlockingIOError):
            other.recv(10, socket.MSG_DONTWAIT)
    for peer in (*longest, *stalled, *comes):
        peer.close()


async def test_strangers_have_a_part_of_the_budget_among_them(ends):
    stream, peer = ends
    head, body = large(9_000_000)
    budget = Budget(32_000_000)

    async def answer(request, host):
        raise AssertionError

    async with trio.open_nursery() as nursery:
        there = trio.SocketStream(trio.socket.from_stdlib_socket(peer))
        nursery.start_soon(there.send_all, body[1000:])
        assert not await converse(stream, answer, budget, head + body[:1000], known=lambda request: False)
        nursery.cancel_scope.cancel()
    assert b" 503 " in peer.recv(4096, socket.MSG_DONTWAIT)
    assert budget.take(32_000_000)
