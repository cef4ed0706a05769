"""Invocations whose bodies are large: the engine runs them too, and judges each byte when it comes; what it will not run, the
control plane answers as ever."""

from __future__ import annotations

import json

import pytest

from tests.e2e.serving import wait_until
from tests.lambda_api.client import package
from tests.lambda_api.raw_http import Connection, invoke
from tests.lambda_api.test_access import guarded, signed_request
from tests.lambda_api.test_http import SLOW, comparable
from tests.lambda_api.test_url_engine import handed

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
__all__ = ["guarded"]

SYNC_MAX = 6_291_456


@pytest.fixture
def echo(aws, function):
    aws.update_function_code(FunctionName=function, ZipFile=package("def handler(event, context):\n    return event\n"))
    return function


def text(size: int, last: bytes = b'"') -> bytes:
    return b'"' + b"x" * (size - 2) + last


@pytest.mark.parametrize("size", [33_000, 100_000, 1_000_000, SYNC_MAX])
def test_the_engine_runs_them(served, echo, size):
    payload = text(size) if size == SYNC_MAX else json.dumps({"x": "y" * size, "z": [1.5, None, "e"]}).encode()
    before = handed(served)
    with Connection(served.http_port) as connection:
        connection.send(invoke(echo, payload))
        assert connection.reply().body == payload
        connection.send(invoke(echo, b"1"))
        assert connection.reply().body == b"1"
    assert handed(served) == before


def test_in_pieces_with_another_behind_it(served, echo):
    data = invoke(echo, text(200_000)) + invoke(echo, b"2")
    before = handed(served)
    with Connection(served.http_port) as connection:
        for at in range(0, len(data), 7777):
            connection.send(data[at : at + 7777])
        assert connection.reply().body == text(200_000)
        assert connection.reply().body == b"2"
    assert handed(served) == before


CASES = {
    "too large": text(SYNC_MAX + 1),
    "no JSON at its end": text(100_000, b"x"),
    "no JSON at its beginning": b"x" + text(100_000),
    "no JSON far inside": text(500_000) + b",",
    "no UTF-8": b'"' + b"x" * 100_000 + b'\xff"',
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["echo", "absent"])
def test_both_sides_answer_alike(served, echo, case, name):
    plain = invoke(echo if name == "echo" else name, CASES[case])
    slow = plain.replace(b"Host: localhost\r\n", b"Host: localhost\r\n" + SLOW.encode() + b"\r\n", 1)
    with Connection(served.http_port) as first, Connection(served.http_port) as second:
        first.send(plain)
        second.send(slow)
        one, other = first.reply(), second.reply()
    assert one is not None
    assert comparable(one) == comparable(other)
    assert one.status >= 400


def test_signed_ones(guarded):
    key = guarded.made["invoker"]
    data = signed_request(key, text(300_000))
    before = json.loads(guarded.get("/debug/stats")[1])["loop"]["http_handed"]
    with Connection(guarded.http_port) as connection:
        connection.send(data)
        assert connection.reply().body == text(300_000)
    assert json.loads(guarded.get("/debug/stats")[1])["loop"]["http_handed"] == before
    for damaged in (data[:-5] + b"y" + data[-4:], data.replace(b"Signature=", b"Signature=0", 1)[:-1] + b'"'):
        with Connection(guarded.http_port) as connection:
            connection.send(damaged)
            assert connection.reply().status == 403
    stranger = data.replace(key.id.encode(), b"AKIA" + b"A" * (len(key.id) - 4), 1)
    with Connection(guarded.http_port) as connection:
        connection.send(stranger)
        assert connection.reply().status == 403


def test_half_of_one_leaves_nothing(served, echo):
    def held() -> int:
        return json.loads(served.get("/debug/stats")[1])["loop"]["payload_bytes"]

    with Connection(served.http_port) as connection:
        connection.send(invoke(echo, text(2_000_000))[:1_000_000])
        wait_until(lambda: held() >= 2_000_000, 5, "the block is there")
    wait_until(lambda: held() == 0, 5, "the block is gone")
