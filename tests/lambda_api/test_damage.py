"""Requests damaged at random, each as it is and once more with a header that makes it the control plane's: one answer to both.

What follows on the connection is a request of its own to both, or to neither: that is what smuggling needs to be otherwise.
"""

from __future__ import annotations

import random
import re
import socket

import pytest

from tests.e2e.serving import RUNTIME
from tests.lambda_api.client import ROLE, package
from tests.lambda_api.raw_http import TIMEOUT_S, invoke

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAME = "damage"
SLOW = b"TE: trailers\r\n"
CASES = 400
PIECES = (
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"%", b"%00", b"%2f", b"%3A", b"?Qualifier=1", b"&", b"+", b";", b",", b"/",
    b"//", b"..", b"\x00", b"\xff", b"0", b"1", b"$LATEST", b":$LATEST", b"arn:aws:lambda:local:000000000000:function:", b"{}",
    b"[1]", b'"\\ud800"', b"A" * 300, b"Content-Length: 2\r\n", b"Host: x\r\n", b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"X-Amz-Log-Type: None\r\n", b"X-Amz-Invocation-Type: DryRun\r\n", b"X-Amz-Invocation-Type: RequestResponse\r\n",
    b"X-Amzn-Trace-Id: Root=1\r\n", b"X-Amzn-Trace-Id: \xe9\r\n", b"Authorization: a\r\n", b"Content-Encoding: gzip\r\n",
    b"X-Amz-Client-Context: e30=\r\n", b"Transfer-Encoding: chunked\r\n",
)  # fmt: skip


@pytest.fixture(scope="module")
def marked(aws):
    """The request that follows each: its answer ends the connection."""
    given = {"FunctionName": NAME, "Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler", "Publish": True}
    aws.create_function(**given, Code={"ZipFile": package("def handler(event, context):\n    return event\n")})
    aws.create_alias(FunctionName=NAME, Name="live", FunctionVersion="1")
    yield invoke(NAME, b'"MARK"', "Connection: close")
    aws.delete_function(FunctionName=NAME)


def damaged(chance: random.Random) -> bytes:
    data = bytearray(
        chance.choice(
            (
                invoke(NAME, b"{}"),
                invoke(NAME, b'{"a": 1}', qualifier="1"),
                invoke(NAME + "%3Alive", b"[]"),
                invoke(NAME, b"", qualifier="%24LATEST"),
                invoke("arn%3Aaws%3Alambda%3Alocal%3A000000000000%3Afunction%3A" + NAME, b"1"),
            )
        )
    )
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        at = chance.choice([found.end() for found in re.finditer(rb"\r\n|/| |:", data)] or [0])
        if chance.random() < 0.5:
            at = chance.randrange(len(data) + 1)
        kind = chance.random()
        if kind < 0.6:
            data[at:at] = chance.choice(PIECES)
        elif kind < 0.8:
            del data[at : at + chance.randrange(1, 4)]
        else:
            data[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(data)


def answers(port: int, data: bytes) -> list[object]:
    """All answers until the connection ends, without what differs from call to call or words a refusal."""
    out = b""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        connection.sendall(data)
        try:
            while part := connection.recv(1 << 16):
                out += part
        except ConnectionError:
            pass
    found: list[object] = []
    while out:
        head, _, out = out.partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(b":") for field in fields)}
        size = int(headers.get(b"content-length", b"0"))
        refused = headers.get(b"x-amzn-errortype")
        found.append((line.split(b" ")[1:2], refused, headers.get(b"x-amz-executed-version"), None if refused else out[:size]))
        out = out[size:]
    return found


@pytest.mark.parametrize("seed", range(2))
def test_damage_is_read_alike_by_both_sides(served, marked, seed):
    chance = random.Random(seed)
    for number in range(CASES):
        data = damaged(chance)
        first, end, rest = data.partition(b"\r\n")
        plain, slow = data + marked, first + end + (SLOW if end else b"") + rest + marked
        assert answers(served.http_port, plain) == answers(served.http_port, slow), (number, data)
