"""Trace headers: made, handed on, answered, logged and exported. One table of requests over both HTTP sides."""

from __future__ import annotations

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.e2e.serving import RUNTIME, Served, public_directory, wait_until
from tests.lambda_api.client import ROLE, connect, package, run
from tests.lambda_api.raw_http import Connection, invoke

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TOLD = """
import os
def handler(event, context):
    if event.get("raise"):
        raise ValueError("no")
    return os.environ.get("_X_AMZN_TRACE_ID")
"""
ROOT = "Root=1-5759e988-bd862e3fe1be46a994272793"
HEADER = re.compile(r"(Root=1-[0-9a-f]{8}-[0-9a-f]{24});Parent=([0-9a-f]{16});Sampled=([01]);Lineage=1:[0-9a-f]{8}:0")
SIDES = pytest.mark.parametrize("side", [(), ("TE: trailers",)], ids=["engine", "control plane"])


@pytest.fixture(scope="module")
def told(aws):
    """Names of a passive and of an active function."""
    names = {"PassThrough": "trace-passive", "Active": "trace-active"}
    for mode, name in names.items():
        made = aws.create_function(
            FunctionName=name,
            Runtime=RUNTIME,
            Role=ROLE,
            Handler="app.handler",
            Code={"ZipFile": package(TOLD)},
            TracingConfig={"Mode": mode},
        )
        assert made["TracingConfig"] == {"Mode": mode}
    yield names
    for name in names.values():
        aws.delete_function(FunctionName=name)


def ask(served, name, *headers):
    """(what the function was told, what the answer says)."""
    with Connection(served.http_port) as connection:
        connection.send(invoke(name, b"{}", *headers))
        reply = connection.reply()
    assert reply.status == 200
    return json.loads(reply.body), reply.headers.get("x-amzn-trace-id")


@SIDES
def test_an_active_function_makes_a_trace_and_goes_on_with_the_callers(served, told, side):
    function, answered = ask(served, told["Active"], *side)
    assert function == answered
    made = HEADER.fullmatch(function)
    assert made is not None
    again = HEADER.fullmatch(ask(served, told["Active"], *side)[0])
    assert again[1] != made[1]
    assert again[2] != made[2]

    function, answered = ask(served, told["Active"], f"X-Amzn-Trace-Id: {ROOT};Parent=53995c3f42cd8ad8;Sampled=1", *side)
    assert function == answered
    gone_on = HEADER.fullmatch(function)
    assert gone_on[1] == ROOT
    assert gone_on[2] != "53995c3f42cd8ad8", "its own segment is what others are called from"
    assert gone_on[3] == "1"
    not_sampled, _ = ask(served, told["Active"], f"X-Amzn-Trace-Id: {ROOT};Sampled=0", *side)
    assert ";Sampled=0;" in not_sampled


@SIDES
def test_a_passive_function_hands_on_what_callers_bring(served, told, side):
    assert ask(served, told["PassThrough"], *side) == (None, None)
    brought = f"{ROOT};Parent=53995c3f42cd8ad8;Sampled=1"
    assert ask(served, told["PassThrough"], f"X-Amzn-Trace-Id: {brought}", *side) == (brought, brought)


def test_sampled_calls_have_a_line_in_the_log(aws, served, told):
    first = run(aws, told["Active"], LogType="Tail")  # the first of its second, mostly; so it is asked for
    with Connection(served.http_port) as connection:
        connection.send(invoke(told["Active"], b"{}", f"X-Amzn-Trace-Id: {ROOT};Sampled=1", "X-Amz-Log-Type: Tail"))
        reply = connection.reply()
    text = base64.b64decode(reply.headers["x-amz-log-result"]).decode()
    segment = HEADER.fullmatch(json.loads(reply.body))[2]
    assert text.endswith(f"\t\nXRAY TraceId: 1-5759e988-bd862e3fe1be46a994272793\tSegmentId: {segment}\tSampled: true\t\n")
    assert first["StatusCode"] == 200
    with served.client() as client:
        wait_until(lambda: segment in client.logs(told["Active"]).text, 5, "the log has it too")
    aws.update_function_configuration(FunctionName=told["Active"], LoggingConfig={"LogFormat": "JSON"})
    with Connection(served.http_port) as connection:
        connection.send(invoke(told["Active"], b"{}", f"X-Amzn-Trace-Id: {ROOT};Sampled=1", "X-Amz-Log-Type: Tail"))
        reply = connection.reply()
    report = json.loads(base64.b64decode(reply.headers["x-amz-log-result"]).decode().splitlines()[-1])
    header = json.loads(reply.body)
    assert report["record"]["tracing"] == {
        "spanId": HEADER.fullmatch(header)[2],
        "type": "X-Amzn-Trace-Id",
        "value": header,
    }


class Collector(BaseHTTPRequestHandler):
    """Takes OTLP over HTTP."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken.append((self.path, self.headers["Content-Type"], json.loads(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def collector():
    server = HTTPServer(("127.0.0.1", 0), Collector)
    server.taken = []
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_sampled_calls_are_exported_with_their_spans(collector):
    endpoint = f"http://127.0.0.1:{collector.server_address[1]}"
    with (
        public_directory() as directory,
        Served(
            directory / "state",
            http="127.0.0.1:0",
            http_auth="none",
            otlp_endpoint=endpoint,
            otlp_spans_s_max=2,
            shells_ahead=1,
        ) as service,
    ):
        aws = connect(service.http_port)
        aws.create_function(
            FunctionName="seen",
            Runtime=RUNTIME,
            Role=ROLE,
            Handler="app.handler",
            Code={"ZipFile": package(TOLD)},
            TracingConfig={"Mode": "Active"},
        )
        with Connection(service.http_port) as connection:
            for body, decision in ((b"{}", 1), (b'{"raise": 1}', 1), (b"{}", 0)):
                connection.send(invoke("seen", body, f"X-Amzn-Trace-Id: {ROOT};Parent=53995c3f42cd8ad8;Sampled={decision}"))
                assert connection.reply().status == 200
            wait_until(lambda: collector.taken, 5, "the spans come")
            ((path, kind, told),) = collector.taken
            assert (path, kind) == ("/v1/traces", "application/json")
            (resource,) = told["resourceSpans"]
            attributes = {row["key"]: row["value"] for row in resource["resource"]["attributes"]}
            assert attributes["faas.name"] == {"stringValue": "seen"}
            spans = resource["scopeSpans"][0]["spans"]
            assert {span["traceId"] for span in spans} == {"5759e988bd862e3fe1be46a994272793"}
            good, failed = (span for span in spans if span["name"] == "seen")
            assert good["parentSpanId"] == failed["parentSpanId"] == "53995c3f42cd8ad8"
            assert good["status"] == {}
            assert failed["status"] == {"code": 2, "message": "function_error"}
            inside = [span for span in spans if span.get("parentSpanId") == good["spanId"]]
            assert [span["name"] for span in inside] == ["Invocation", "Initialization"], "the first was cold"
            for span in inside:
                assert int(good["startTimeUnixNano"]) <= int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
                assert int(span["endTimeUnixNano"]) <= int(good["endTimeUnixNano"])
            assert len({span["spanId"] for span in spans}) == len(spans)
            # More than a second may have: dropped, counted, and nobody waits.
            for _ in range(40):
                connection.send(invoke("seen", b"{}", f"X-Amzn-Trace-Id: {ROOT};Sampled=1"))
                assert connection.reply().status == 200
            wait_until(lambda: service.metric("scheduler_spans_dropped_total") > 0, 5, "those too many are counted")
            assert service.metric("scheduler_spans_exported_total") >= 2
