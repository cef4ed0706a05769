"""HTTP itself: the engine's reader and the control plane's answer alike, and nobody can make them disagree about a request."""

from __future__ import annotations

import base64
import contextlib
import json
import re

import pytest

from tests.e2e.serving import RUNTIME
from tests.lambda_api.client import ROLE, package
from tests.lambda_api.raw_http import Connection, invoke, request

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SOURCE = """
import os
def handler(event, context):
    if not isinstance(event, dict):
        return event
    if event.get("raise"):
        raise ValueError("no \\u00e9")
    if event.get("exit"):
        os._exit(7)
    if event.get("large"):
        return "x" * event["large"]
    if event.get("set"):
        return {1, 2}
    if event.get("say"):
        print(event["say"])
    return event
"""
ECHO = "http-echo"
# A header that means nothing, but that the engine's reader does not take: the request goes the slow way.
SLOW = "TE: trailers"


@pytest.fixture(scope="module", autouse=True)
def echo(aws):
    aws.create_function(
        FunctionName=ECHO,
        Runtime=RUNTIME,
        Role=ROLE,
        Handler="app.handler",
        Code={"ZipFile": package(SOURCE)},
        Publish=True,
    )
    aws.create_function(
        FunctionName="http-broken",
        Runtime=RUNTIME,
        Role=ROLE,
        Handler="app.handler",
        Code={"ZipFile": package("raise RuntimeError('init')")},
    )
    aws.create_function(
        FunctionName="http-closed", Runtime=RUNTIME, Role=ROLE, Handler="app.handler", Code={"ZipFile": package(SOURCE)}
    )
    aws.put_function_concurrency(FunctionName="http-closed", ReservedConcurrentExecutions=0)
    yield
    for name in (ECHO, "http-broken", "http-closed"):
        aws.delete_function(FunctionName=name)


def comparable(reply):
    """Without what differs from call to call."""
    headers = {name: value for name, value in reply.headers.items() if name not in ("x-amzn-requestid", "x-amz-log-result")}
    text = re.sub(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", b"ID", reply.body)
    return reply.status, headers, json.loads(text) if text else text


CASES = {
    "plain": invoke(ECHO, b'{"a": 1}'),
    "empty body": invoke(ECHO, b""),
    "spaces kept": invoke(ECHO, b' {"a":  1.0, "b":"\xc3\xa9"} '),
    "a number": invoke(ECHO, b"12"),
    "version": invoke(ECHO, b"{}", qualifier="1"),
    "version in the name": invoke(ECHO + "%3A1"),
    "latest": invoke(ECHO, b"{}", qualifier="%24LATEST"),
    "arn": invoke("arn%3Aaws%3Alambda%3Alocal%3A000000000000%3Afunction%3A" + ECHO),
    "partial arn": invoke("000000000000:function:" + ECHO),
    "raises": invoke(ECHO, b'{"raise": true}'),
    "exits": invoke(ECHO, b'{"exit": true}'),
    "cannot be encoded": invoke(ECHO, b'{"set": true}'),
    "large answer": invoke(ECHO, b'{"large": 100000}'),
    "too large answer": invoke(ECHO, b'{"large": 6291556}'),
    "init fails": invoke("http-broken"),
    "throttled": invoke("http-closed"),
    "not json": invoke(ECHO, b"{"),
    "not utf-8": invoke(ECHO, b'"\xff"'),
    "nan": invoke(ECHO, b"NaN"),
    "no such function": invoke("absent"),
    "no such version": invoke(ECHO, b"{}", qualifier="99"),
    "dry run": invoke(ECHO, b"{}", "X-Amz-Invocation-Type: DryRun"),
    "unknown type": invoke(ECHO, b"{}", "X-Amz-Invocation-Type: Sometimes"),
    "unknown log type": invoke(ECHO, b"{}", "X-Amz-Log-Type: Head"),
    "close": invoke(ECHO, b"{}", "Connection: close"),
}


@pytest.mark.parametrize("case", CASES)
def test_both_sides_answer_alike(served, case):
    plain = CASES[case]
    slow = plain.replace(b"Host: localhost\r\n", b"Host: localhost\r\n" + SLOW.encode() + b"\r\n", 1)
    assert slow != plain
    with Connection(served.http_port) as first, Connection(served.http_port) as second:
        first.send(plain)
        second.send(slow)
        one, other = first.reply(), second.reply()
        assert one is not None
        assert other is not None
        assert comparable(one) == comparable(other)
        assert re.fullmatch(r"[0-9a-f-]{36}", one.headers["x-amzn-requestid"])


@pytest.mark.parametrize("headers", [(), (SLOW,)], ids=["engine", "control plane"])
def test_the_logs_tail(served, headers):
    with Connection(served.http_port) as connection:
        connection.send(invoke(ECHO, b'{"say": "heard"}', "X-Amz-Log-Type: Tail", *headers))
        reply = connection.reply()
        tail = base64.b64decode(reply.headers["x-amz-log-result"]).decode()
        request_id = reply.headers["x-amzn-requestid"]
        assert re.match(rf"START RequestId: {request_id} Version: \$LATEST\nheard\nEND RequestId: ", tail), tail
        assert "Max Memory Used" in tail


def test_pipelined_requests_are_answered_in_order_whoever_answers(served):
    kinds = [(), (SLOW,), (), (), (SLOW,), (SLOW,), ()]
    requests = [invoke(ECHO, json.dumps({"n": n}).encode(), *headers) for n, headers in enumerate(kinds * 5)]
    with Connection(served.http_port) as connection:
        connection.send(b"".join(requests))
        found = [json.loads(connection.reply().body)["n"] for _ in requests]
    assert found == list(range(len(requests)))


def test_a_request_in_single_bytes(served):
    with Connection(served.http_port) as connection:
        for byte in invoke(ECHO, b'{"slow": 1}'):
            connection.send(bytes([byte]))
        assert json.loads(connection.reply().body) == {"slow": 1}
        connection.send(invoke(ECHO))
        assert connection.reply().status == 200


def test_a_connection_goes_back_and_forth(served):
    with Connection(served.http_port) as connection:
        for _ in range(3):
            for send in (
                invoke(ECHO),
                invoke(ECHO, b"{}", SLOW),
                request("/2015-03-31/functions/", b"", method="GET", length=False),
            ):
                connection.send(send)
                assert connection.reply().status == 200


def test_unusual_framing_is_understood(served):
    head = f"POST /2015-03-31/functions/{ECHO}/invocations HTTP/1.1\r\nHost: x\r\n".encode()
    with Connection(served.http_port) as connection:
        connection.send(head + b'Transfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n4;x=y\r\n: 1}\r\n0\r\n\r\n')
        assert json.loads(connection.reply().body) == {"a": 1}
        connection.send(head + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        connection.send(b"{}")
        assert connection.reply().status == 200
        connection.send(invoke(ECHO))
        assert connection.reply().status == 200


HEAD = f"POST /2015-03-31/functions/{ECHO}/invocations HTTP/1.1\r\nHost: x\r\n".encode()
NEXT = invoke(ECHO, b'{"smuggled": true}')
# What lies behind the head would be a second request to a reader that believes the other length.
SMUGGLING = {
    "both lengths": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, other order": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 300\r\n\r\n{}",
    "list of lengths": HEAD + b"Content-Length: 2, 300\r\n\r\n{}",
    "signed length": HEAD + b"Content-Length: +2\r\n\r\n{}",
    "hexadecimal length": HEAD + b"Content-Length: 0x2\r\n\r\n{}",
    "negative length": HEAD + b"Content-Length: -1\r\n\r\n",
    "blank before the colon": HEAD + b"Content-Length : 2\r\n\r\n{}",
    "unknown coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "tab in a name": HEAD + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    "chunk without end": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}{}\r\n0\r\n\r\n",
    "no host": f"POST /2015-03-31/functions/{ECHO}/invocations HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}".encode(),
    "NUL in a value": HEAD + b"X: a\x00b\r\nContent-Length: 2\r\n\r\n{}",
    "CR in a value": HEAD + b"X: a\rContent-Length: 300\r\nContent-Length: 2\r\n\r\n{}",
    "CR alone behind the first line": HEAD.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\rX") + b"Content-Length: 2\r\n\r\n{}",
    "two hosts": HEAD + b"Host: y\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("case", SMUGGLING)
def test_requests_with_two_readings_are_refused_and_what_follows_is_not_read(served, case):
    with Connection(served.http_port) as connection:
        connection.send(SMUGGLING[case] + NEXT)
        reply = connection.reply()
        if reply is not None:
            assert 400 <= reply.status < 600, reply
            assert connection.ended(), "something behind it was answered"


def test_who_wants_a_proxy_is_told_that_there_is_none(served):
    with Connection(served.http_port) as connection:
        connection.send(b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n" + NEXT)
        assert connection.reply().status == 400
        assert connection.ended()


def test_a_head_has_an_end(served):
    with Connection(served.http_port) as connection:
        connection.send(invoke(ECHO, b"{}", "X-Long: " + "x" * 60_000))
        assert connection.reply().status == 200
    with Connection(served.http_port) as connection:
        too_much = invoke(ECHO, b"{}", "X-Long: " + "x" * 4_000_000)
        with contextlib.suppress(ConnectionError):  # closed before it was all sent
            connection.send(too_much)
        reply = connection.reply()
        assert reply is None or 400 <= reply.status < 500, reply
        assert connection.ended()
