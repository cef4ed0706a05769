"""Recursion: a chain of calls, as AWS's SDKs make it by sending on the trace header that a function was told."""

from __future__ import annotations

import json

import pytest

from tests.e2e.serving import RUNTIME, Served, public_directory, wait_until
from tests.lambda_api.client import ROLE, package, refusal
from tests.lambda_api.raw_http import Connection, invoke

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TOLD = "import os\ndef handler(event, context):\n    return os.environ.get('_X_AMZN_TRACE_ID')\n"
SIDES = pytest.mark.parametrize("side", [(), ("TE: trailers",)], ids=["engine", "control plane"])


@pytest.fixture(scope="module")
def loop(aws):
    for name in ("loop-one", "loop-two"):
        aws.create_function(
            FunctionName=name,
            Runtime=RUNTIME,
            Role=ROLE,
            Handler="app.handler",
            Code={"ZipFile": package(TOLD)},
            TracingConfig={"Mode": "Active"},
        )
    yield "loop-one"
    for name in ("loop-one", "loop-two"):
        aws.delete_function(FunctionName=name)


def chain(served, names, side=(), most=40):
    """Calls of each in turn, each with what the one before was told; the refusal, and how many ran before it."""
    header = None
    with Connection(served.http_port) as connection:
        for ran in range(most):
            brought = () if header is None else (f"X-Amzn-Trace-Id: {header}",)
            connection.send(invoke(names[ran % len(names)], b"{}", *brought, *side))
            reply = connection.reply()
            if reply.status != 200:
                return reply, ran
            header = json.loads(reply.body)
    return None, most


@SIDES
@pytest.mark.parametrize("names", [("loop-one",), ("loop-one", "loop-two")], ids=["itself", "each other"])
def test_a_function_that_calls_itself_is_ended(aws, served, loop, names, side):
    before = served.metric("scheduler_recursive_invocations_dropped_total")
    reply, ran = chain(served, names, side)
    assert ran == 16 * len(names)
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (400, "RecursiveInvocationException")
    assert "recursive loop" in json.loads(reply.body)["Message"]
    assert served.metric("scheduler_recursive_invocations_dropped_total") == before + 1


def test_a_loop_that_is_allowed_goes_on(aws, served, loop):
    assert aws.get_function_recursion_config(FunctionName=loop)["RecursiveLoop"] == "Terminate"
    assert aws.put_function_recursion_config(FunctionName=loop, RecursiveLoop="Allow")["RecursiveLoop"] == "Allow"
    assert aws.get_function_recursion_config(FunctionName=loop)["RecursiveLoop"] == "Allow"
    assert chain(served, (loop,))[0] is None
    aws.put_function_recursion_config(FunctionName=loop, RecursiveLoop="Terminate")
    assert chain(served, (loop,))[1] == 16
    assert refusal(aws.put_function_recursion_config, FunctionName=loop, RecursiveLoop="Maybe")[:2] == (
        "ValidationException",
        400,
    )


def test_an_event_of_an_endless_chain_is_dropped(served, loop):
    header = None
    with Connection(served.http_port) as connection:
        for _ in range(16):
            connection.send(invoke(loop, b"{}", *(() if header is None else (f"X-Amzn-Trace-Id: {header}",))))
            header = json.loads(connection.reply().body)
        connection.send(invoke(loop, b"{}", f"X-Amzn-Trace-Id: {header}", "X-Amz-Invocation-Type: Event"))
        assert connection.reply().status == 202
    with served.client() as client:
        dropped = {"recursive_invocation": 1}
        wait_until(lambda: client.get(loop).raw["events"]["dropped"] == dropped, 5, "it is dropped, with its reason")


ITSELF = """
import json, os, urllib.error, urllib.request
def handler(event, context):
    url = f"http://127.0.0.1:{event['port']}/2015-03-31/functions/{context.function_name}/invocations"
    body = json.dumps({**event, "depth": event["depth"] + 1}).encode()
    request = urllib.request.Request(url, body, {"X-Amzn-Trace-Id": os.environ["_X_AMZN_TRACE_ID"]})
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return [event["depth"], error.code, error.headers["x-amzn-ErrorType"]]
"""


def test_a_function_that_really_calls_itself():
    """Without namespaces it reaches the service; it sends the header on as AWS's SDKs do."""
    with (
        public_directory() as directory,
        Served(directory / "state", isolation="process", http="127.0.0.1:0", http_auth="none", shells_ahead=4) as service,
    ):
        service.deploy("itself", ITSELF, tracing="Active", timeout_s=60)
        with service.client() as client:
            answer = client.invoke("itself", {"port": service.http_port, "depth": 0}).payload
        assert answer == [15, 400, "RecursiveInvocationException"], "the sixteenth call may not make a seventeenth"
