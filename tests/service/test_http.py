"""The console's HTTP: what a scraper may do, and what a stranger gets."""

from __future__ import annotations

import h11
import pytest
import trio

from scheduler.config import Address
from scheduler.console import http
from scheduler.errors import Unavailable


async def page(request):
    return http.Reply(200, f"{request.path}?{request.query}".encode())


async def broken(request):
    raise Unavailable("not now")


@pytest.fixture
async def server(nursery):
    listeners = await http.listen(Address("127.0.0.1", 0))
    reports = []
    await nursery.start(
        lambda task_status: http.serve(
            listeners, {"/page": page, "/broken": broken}, report=reports.append, task_status=task_status
        )
    )

    async def connect():
        return await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])

    yield connect
    nursery.cancel_scope.cancel()


async def ask(stream, raw):
    """(status, headers, body) of the next answer."""
    connection = h11.Connection(h11.CLIENT)
    method = "HEAD" if raw.startswith(b"HEAD") else "GET"
    connection.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    await stream.send_all(raw)
    status, headers, body = 0, {}, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(4096)))
        elif isinstance(event, h11.Response):
            status, headers = event.status_code, {k.decode(): v.decode() for k, v in event.headers}
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        else:
            return status, headers, body


GET = b"GET /page?a=1 HTTP/1.1\r\nhost: x\r\n\r\n"


async def test_a_connection_is_kept_for_many_pages(server):
    async with await server() as stream:
        for _ in range(3):
            status, headers, body = await ask(stream, GET)
            assert (status, body) == (200, b"/page?a=1")
            assert headers["content-length"] == "9"


async def test_head_has_no_body(server):
    async with await server() as stream:
        status, headers, body = await ask(stream, GET.replace(b"GET", b"HEAD"))
        assert (status, headers["content-length"], body) == (200, "9", b"")
        assert (await ask(stream, GET))[0] == 200


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET /none HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (b"PUT /page HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        (b"GET /broken HTTP/1.1\r\nhost: x\r\n\r\n", 503),
        (b"GET /page HTTP/1.1\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /page HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 20_000 + b"\r\n\r\n", 431),
        (b"POST /page HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc", 413),
    ],
)
async def test_what_is_not_served(server, raw, status):
    async with await server() as stream:
        assert (await ask(stream, raw))[0] == status
    async with await server() as stream:
        assert (await ask(stream, GET))[0] == 200, "others are served"


async def test_too_many_connections_are_closed_at_once(server):
    held = []
    for _ in range(http.CONNECTIONS_MAX):
        stream = await server()
        assert (await ask(stream, GET))[0] == 200
        held.append(stream)
    async with await server() as one_more:
        assert await one_more.receive_some(1) == b""
    await held.pop().aclose()
    for stream in held:
        await stream.aclose()


async def test_a_peer_that_says_nothing_is_let_go(server, monkeypatch):
    monkeypatch.setattr(http, "IDLE_S", 0.05)
    async with await server() as stream:
        with trio.fail_after(2):
            assert await stream.receive_some(1) == b""
