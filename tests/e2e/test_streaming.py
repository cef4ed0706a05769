"""Answers in pieces, from a function's first write to its caller: the client, AWS's API, a function URL."""

from __future__ import annotations

import http.client
import json

import pytest
import trio

from scheduler.client import open_client
from scheduler.errors import FunctionError
from tests.e2e.serving import CannotServe, Served
from tests.e2e.test_runtimes import NODE, create, needs_node
from tests.lambda_api.client import connect

pytestmark = [needs_node, pytest.mark.slow]

SOURCE = """
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
exports.handler = awslambda.streamifyResponse(async (event, stream, context) => {
  if (event.rawPath) {
    stream = awslambda.HttpResponseStream.from(stream, { statusCode: 201, headers: { 'X-Kind': 'stream' }, cookies: ['a=b'] });
  } else {
    stream.setContentType('text/plain');
  }
  stream.write('first');
  await pause(200);
  if (event.fail) throw new TypeError('half-way');
  stream.write('second');
  stream.end();
});
exports.whole = async (event) => ({ whole: event });
"""


@pytest.fixture(scope="module")
def served(place):
    service = Served(place / "served-streams", http="127.0.0.1:0", http_auth="none")
    try:
        service.start()
    except CannotServe as error:
        if "isolat" in str(error) or "namespace" in str(error):
            pytest.skip(f"this machine cannot isolate: {error}")
        raise
    yield service
    assert service.stop() == 0


@pytest.fixture(scope="module")
def aws(served):
    client = connect(served.http_port)
    create(client, "talk", NODE, "app.handler", {"app.js": SOURCE})
    create(client, "whole", NODE, "app.whole", {"app.js": SOURCE})
    yield client
    client.close()


async def pieces_of(answer):
    found = []
    try:
        async for piece in answer:
            found.append((piece, trio.current_time()))  # noqa: PERF401 - what came before an error counts
    except FunctionError as error:
        return found, error
    return found, None


@pytest.mark.usefixtures("aws")
async def test_the_client_gets_pieces_as_they_come(served):
    async with open_client(served.socket) as client:
        async with client.stream("talk", b"{}", report=True) as answer:
            found, error = await pieces_of(answer)
        assert error is None
        assert answer.content_type == "text/plain"
        assert [piece for piece, _ in found] == [b"first", b"second"]
        assert found[1][1] - found[0][1] > 0.1, "the first was there long before the second was written"
        assert answer.report["billed_ms"] >= 200
        async with client.stream("talk", b'{"fail": true}') as answer:
            found, error = await pieces_of(answer)
        assert b"".join(piece for piece, _ in found) == b"first"
        assert json.loads(error.payload)["errorType"] == "TypeError"
        async with client.stream("whole", b'{"a": 1}') as answer:
            found, error = await pieces_of(answer)
        assert answer.content_type is None
        assert json.loads(b"".join(piece for piece, _ in found)) == {"whole": {"a": 1}}
        # Who does not ask for pieces gets the whole.
        assert (await client.invoke("talk")).payload == b"firstsecond"


def test_aws_response_stream(aws):
    answer = aws.invoke_with_response_stream(FunctionName="talk", Payload=b"{}", LogType="Tail")
    events = list(answer["EventStream"])
    assert [event["PayloadChunk"]["Payload"] for event in events[:-1]] == [b"first", b"second"]
    assert "LogResult" in events[-1]["InvokeComplete"]
    assert "ErrorCode" not in events[-1]["InvokeComplete"]
    events = list(aws.invoke_with_response_stream(FunctionName="talk", Payload=b'{"fail": true}')["EventStream"])
    assert events[0]["PayloadChunk"]["Payload"] == b"first"
    assert events[-1]["InvokeComplete"]["ErrorCode"] == "TypeError"
    assert "half-way" in events[-1]["InvokeComplete"]["ErrorDetails"]


def test_a_function_url_that_streams(served, aws):
    made = aws.create_function_url_config(FunctionName="talk", AuthType="NONE", InvokeMode="RESPONSE_STREAM")
    for action in ("lambda:InvokeFunctionUrl", "lambda:InvokeFunction"):
        more = {"FunctionUrlAuthType": "NONE"} if action.endswith("Url") else {"InvokedViaFunctionUrl": True}
        aws.add_permission(FunctionName="talk", StatementId=action[7:], Action=action, Principal="*", **more)
    host = made["FunctionUrl"].split("/")[2]
    connection = http.client.HTTPConnection("127.0.0.1", served.http_port, timeout=10)
    for _ in range(2):  # the connection goes on
        connection.request("GET", "/path", headers={"Host": host})
        answer = connection.getresponse()
        assert answer.status == 201
        assert answer.getheader("X-Kind") == "stream"
        assert answer.getheader("Set-Cookie") == "a=b"
        assert answer.getheader("Transfer-Encoding") == "chunked"
        assert answer.read1(64) == b"first"
        assert answer.read() == b"second"
    connection.close()
