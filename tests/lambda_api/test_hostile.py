"""Peers and functions that mean harm, over HTTP: the service lives on, and each request gets the answer it should."""

from __future__ import annotations

import json
import threading

import pytest

from tests.e2e.serving import RUNTIME, wait_until
from tests.lambda_api.client import ROLE, package
from tests.lambda_api.raw_http import Connection, invoke, request

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAME = "hostile"
SOURCE = """
def handler(event, context):
    return event if "rawPath" not in event else RAW if event["rawPath"] == "/deep" else __import__("json").loads(event["body"])
RAW = []
for _ in range(5000):
    RAW = [RAW]
"""


@pytest.fixture(scope="module")
def url(aws):
    """The host of a public function URL."""
    given = {"FunctionName": NAME, "Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler"}
    aws.create_function(**given, Code={"ZipFile": package(SOURCE)})
    made = aws.create_function_url_config(FunctionName=NAME, AuthType="NONE")
    permit = {"FunctionName": NAME, "Principal": "*"}
    aws.add_permission(**permit, StatementId="u", Action="lambda:InvokeFunctionUrl", FunctionUrlAuthType="NONE")
    aws.add_permission(**permit, StatementId="f", Action="lambda:InvokeFunction", InvokedViaFunctionUrl=True)
    yield made["FunctionUrl"].removeprefix("http://").rstrip("/")
    aws.delete_function(FunctionName=NAME)


@pytest.mark.parametrize("sizes", [(8,), (30_000,), (30_000, 8)], ids=["small", "large", "both"])
def test_a_flood_of_pipelined_requests_is_answered_whole(served, url, sizes):
    """More than a connection may keep aside, sent before the first answer is read."""
    bodies = [json.dumps("x" * size).encode() for size in sizes] * 60
    with Connection(served.http_port) as connection:
        sender = threading.Thread(target=connection.send, args=(b"".join(invoke(NAME, body) for body in bodies),))
        sender.start()
        # Strings have no rawPath: the function fails, which is an answer.
        found = [connection.reply().status for _ in bodies]
        sender.join()
    assert found == [200] * len(bodies)


def at(served, host, path="/", body=b"{}", method="POST"):
    with Connection(served.http_port) as connection:
        data = request(path, body, ("Content-Type: application/json",), method=method)
        connection.send(data.replace(b"Host: localhost", f"Host: {host}".encode(), 1))
        reply = connection.reply()
        assert reply is not None, "no answer"
        connection.send(invoke(NAME))  # and the connection is as good as before
        if reply.headers.get("connection") != "close":
            assert connection.reply().status == 200
        return reply


def test_a_function_urls_host_is_one_in_any_letters(served, url):
    """The engine's reader must not take for an invocation what the host makes a request to a URL."""
    path = f"/2015-03-31/functions/{NAME}/invocations"
    answer = {"statusCode": 201, "body": "by its URL"}
    for host in (url, url.upper(), url.replace("lambda-url", "Lambda-Url")):
        reply = at(served, host, path, json.dumps(answer).encode())
        assert (reply.status, reply.body) == (201, b"by its URL"), host


BROKEN = {
    "control character": {"statusCode": 200, "headers": {"x-a": "a\u0001b"}},
    "delete": {"statusCode": 200, "headers": {"x-a": "a\u007fb"}},
    "line end": {"statusCode": 200, "headers": {"x-a": "a\r\nSet-Cookie: b"}},
    "line end in a name": {"statusCode": 200, "headers": {"x-a\r\nb": "a"}},
    "line end in a cookie": {"statusCode": 200, "cookies": ["a=b\r\nx: y"]},
    "control character in a cookie": {"statusCode": 200, "cookies": ["a=\u0002"]},
    "half a pair": {"statusCode": 200, "body": "\ud800"},
    "only half a pair": "\ud800",
    "no status": {"statusCode": 99},
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_http_answer_is_a_502(served, url, case):
    reply = at(served, url, body=json.dumps(BROKEN[case]).encode())
    assert (reply.status, reply.body) == (502, b"Internal Server Error")
    assert "set-cookie" not in reply.headers


def test_a_result_nested_too_deep_is_a_502(served, url):
    assert at(served, url, "/deep").status == 502


@pytest.mark.parametrize("status", [204, 304])
def test_answers_that_have_no_body_end_there(served, url, status):
    reply = at(served, url, body=json.dumps({"statusCode": status, "body": "not to be sent"}).encode())
    assert (reply.status, reply.body) == (status, b"")


def test_a_cookie_may_have_blanks_round_it(served, url):
    assert at(served, url, body=json.dumps({"statusCode": 200, "cookies": [" a=b "]}).encode()).headers["set-cookie"] == "a=b"


def test_a_query_has_an_end(served, url):
    assert at(served, url, "/?" + "&".join(f"k{n}=1" for n in range(1001))).status == 400


BODIES = {
    "half a pair": b'{"Description": "\\ud800"}',
    "half a pair in a map": b'{"Environment": {"Variables": {"A": "\\udfff"}}}',
    "half a pair as a key": b'{"Environment": {"Variables": {"\\udfff": "a"}}}',
    "nested deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "many digits": b'{"Timeout": ' + b"9" * 5000 + b"}",
    "a large number": b'{"Timeout": ' + b"9" * 400 + b"}",
    "not a number": b'{"Timeout": NaN}',
    "endless": b'{"Timeout": 1e999}',
}


@pytest.mark.parametrize("case", BODIES)
def test_json_that_means_nothing_is_the_clients_mistake(served, url, case):
    with Connection(served.http_port) as connection:
        connection.send(request(f"/2015-03-31/functions/{NAME}/configuration", BODIES[case], method="PUT"))
        reply = connection.reply()
    assert reply.status == 400, reply


@pytest.mark.parametrize("weight", [b"9" * 400, b"NaN", b"-0.1", b"1e999"])
def test_weights_are_numbers(served, url, weight):
    body = b'{"Name": "a", "FunctionVersion": "$LATEST", "RoutingConfig": {"AdditionalVersionWeights": {"1": ' + weight + b"}}}"
    with Connection(served.http_port) as connection:
        connection.send(request(f"/2015-03-31/functions/{NAME}/aliases", body))
        assert connection.reply().status == 400


def test_a_whole_number_may_be_written_with_a_point(served, url, aws):
    with Connection(served.http_port) as connection:
        connection.send(request(f"/2015-03-31/functions/{NAME}/configuration", b'{"Timeout": 7.0}', method="PUT"))
        assert connection.reply().status == 200
    assert aws.get_function_configuration(FunctionName=NAME)["Timeout"] == 7


def test_a_member_stands_in_the_query_once(served, url):
    """Signatures do not tell the order of the same key's values: what they mean must not depend on it."""
    with Connection(served.http_port) as connection:
        path = f"/2015-03-31/functions/{NAME}?Qualifier=%24LATEST&Qualifier=1"
        connection.send(request(path, b"", method="GET", length=False))
        assert connection.reply().status == 400


@pytest.mark.parametrize("trace", ["\xe9", "x" * 1025, "a\tb"], ids=["not ASCII", "long", "tab"])
def test_an_event_that_is_accepted_runs_whatever_its_trace_header_says(served, url, aws, trace):
    """Else it would be refused when its turn comes, and be lost without a word."""

    def delivered():
        rows = [
            row for row in served.get("/metrics")[1].splitlines() if row.startswith("scheduler_async_events_delivered_total{")
        ]
        return sum(float(row.rpartition(" ")[2]) for row in rows if f'"{NAME}"' in row)

    before = delivered()
    with Connection(served.http_port) as connection:
        connection.send(
            invoke(NAME, b'{"rawPath": "/", "body": "{}"}', "X-Amz-Invocation-Type: Event", f"X-Amzn-Trace-Id: {trace}")
        )
        assert connection.reply().status == 202
        connection.send(invoke(NAME, b'{"rawPath": "/", "body": "{}"}', f"X-Amzn-Trace-Id: {trace}"))
        assert connection.reply().status == 200
    wait_until(lambda: delivered() == before + 1, 10, "the event has run")
