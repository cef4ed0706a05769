"""Function URLs, response streams, and policies that let others in."""

from __future__ import annotations

import json

import pytest

from scheduler.functions.attached import Policy
from scheduler.functions.policies import allows
from tests.e2e.serving import RUNTIME
from tests.lambda_api.client import ROLE, package, refusal
from tests.lambda_api.raw_http import Connection, request

SOURCE = """
import json
def handler(event, context):
    if "rawPath" not in event:
        return event
    asked = (event.get("queryStringParameters") or {}).get("answer")
    if asked == "raise":
        raise ValueError("no")
    if asked:
        return json.loads(event["body"])
    return event
"""


@pytest.fixture(scope="module")
def url(aws):
    """A public URL's host."""
    given = {"FunctionName": "url-echo", "Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler"}
    aws.create_function(**given, Code={"ZipFile": package(SOURCE)})
    made = aws.create_function_url_config(
        FunctionName="url-echo",
        AuthType="NONE",
        Cors={"AllowOrigins": ["https://a.example"], "AllowMethods": ["GET"], "AllowCredentials": True, "MaxAge": 5},
    )
    permit = {"FunctionName": "url-echo", "Principal": "*"}
    aws.add_permission(**permit, StatementId="u", Action="lambda:InvokeFunctionUrl", FunctionUrlAuthType="NONE")
    aws.add_permission(**permit, StatementId="f", Action="lambda:InvokeFunction", InvokedViaFunctionUrl=True)
    yield made["FunctionUrl"].removeprefix("http://").rstrip("/")
    aws.delete_function(FunctionName="url-echo")


def ask(served, host, path="/", body=b"", headers=(), method="POST"):
    with Connection(served.http_port) as connection:
        data = request(path, body, headers, method=method).replace(b"Host: localhost", f"Host: {host}".encode(), 1)
        connection.send(data)
        return connection.reply()


@pytest.mark.e2e
@pytest.mark.slow
def test_the_event_is_payload_version_2(served, url):
    headers = ("Content-Type: text/plain", "Cookie: a=1; b=2", "X-Twice: one", "X-Twice: two", "User-Agent: tests")
    event = json.loads(ask(served, url, "/some%20path/x?a=1&a=2&b=%26", b"t\xc3\xa9xt", headers).body)
    assert (event["version"], event["routeKey"], event["rawPath"]) == ("2.0", "$default", "/some%20path/x")
    assert event["rawQueryString"] == "a=1&a=2&b=%26"
    assert event["queryStringParameters"] == {"a": "1,2", "b": "&"}
    assert event["cookies"] == ["a=1", "b=2"]
    assert (event["headers"]["x-twice"], event["body"], event["isBase64Encoded"]) == ("one,two", "téxt", False)
    http = event["requestContext"]["http"]
    assert (http["method"], http["path"], http["sourceIp"], http["userAgent"]) == ("POST", "/some path/x", "127.0.0.1", "tests")
    assert event["requestContext"]["domainPrefix"] == url.partition(".")[0]
    binary = json.loads(ask(served, url, "/", b"\x00\xff", ("Content-Type: image/png",)).body)
    assert (binary["body"], binary["isBase64Encoded"]) == ("AP8=", True)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        ({"statusCode": 201, "body": "made"}, 201, b"made"),
        ({"statusCode": "404"}, 404, b""),
        ({"statusCode": 200, "body": "AP8=", "isBase64Encoded": True}, 200, b"\x00\xff"),
        ({"no": "status"}, 200, b'{"no": "status"}'),
        ("text", 200, b"text"),
        ({"statusCode": 99}, 502, b"Internal Server Error"),
        ({"statusCode": "x"}, 502, b"Internal Server Error"),
        ({"statusCode": 200, "headers": {"a": "b\r\nc: d"}}, 502, b"Internal Server Error"),
        ({"statusCode": 200, "headers": {"bad name": "b"}}, 502, b"Internal Server Error"),
        ({"statusCode": 200, "headers": ["x"]}, 502, b"Internal Server Error"),
        ({"statusCode": 200, "body": "!", "isBase64Encoded": True}, 502, b"Internal Server Error"),
    ],
)
def test_answers_of_functions(served, url, answer, status, body):
    reply = ask(served, url, "/?answer=1", json.dumps(answer).encode(), ("Content-Type: application/json",))
    assert (reply.status, reply.body) == (status, body)


@pytest.mark.e2e
@pytest.mark.slow
def test_headers_and_cookies_of_an_answer(served, url):
    answer = {"statusCode": 200, "headers": {"Content-Type": "text/html", "Connection": "x", "N": 5}, "cookies": ["a=1"]}
    reply = ask(served, url, "/?answer=1", json.dumps(answer).encode(), ("Content-Type: application/json",))
    assert reply.headers["content-type"] == "text/html"
    assert (reply.headers["set-cookie"], reply.headers["n"], reply.headers["x-amzn-remapped-connection"]) == ("a=1", "5", "x")


@pytest.mark.e2e
@pytest.mark.slow
def test_a_failed_function_is_a_502(served, url):
    reply = ask(served, url, "/?answer=raise")
    assert (reply.status, reply.body) == (502, b"Internal Server Error")


@pytest.mark.e2e
@pytest.mark.slow
def test_other_origins(served, url):
    let_in = ask(served, url, headers=("Origin: https://a.example",))
    assert let_in.headers["access-control-allow-origin"] == "https://a.example"
    assert let_in.headers["access-control-allow-credentials"] == "true"
    assert "access-control-allow-origin" not in ask(served, url, headers=("Origin: https://b.example",)).headers
    preflight = ("Origin: https://a.example", "Access-Control-Request-Method: GET")
    answered = ask(served, url, method="OPTIONS", headers=preflight)
    assert (answered.status, answered.headers["access-control-allow-methods"]) == (200, "GET")
    assert (answered.headers["access-control-max-age"], answered.body) == ("5", b"")


@pytest.mark.e2e
@pytest.mark.slow
def test_a_url_without_permission_lets_nobody_in(served, aws, function):
    host = aws.create_function_url_config(FunctionName=function, AuthType="NONE")["FunctionUrl"].split("/")[2]
    refused = ask(served, host)
    assert (refused.status, refused.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
    assert ask(served, "a" * 32 + ".lambda-url.local.localhost").status == 404


@pytest.mark.e2e
@pytest.mark.slow
def test_a_response_stream(aws, url):
    answer = aws.invoke_with_response_stream(
        FunctionName="url-echo", Payload=b'{"a": "' + b"x" * 100_000 + b'"}', LogType="Tail"
    )
    events = list(answer["EventStream"])
    chunks = [event["PayloadChunk"]["Payload"] for event in events if "PayloadChunk" in event]
    assert len(chunks) == 2
    assert json.loads(b"".join(chunks)) == {"a": "x" * 100_000}
    assert events[-1]["InvokeComplete"]["LogResult"]
    broken = aws.invoke_with_response_stream(
        FunctionName="url-echo", Payload=b'{"rawPath": 1, "queryStringParameters": {"answer": "raise"}}'
    )
    (last,) = list(broken["EventStream"])
    assert last["InvokeComplete"]["ErrorCode"] == "ValueError"
    assert json.loads(last["InvokeComplete"]["ErrorDetails"])["errorMessage"] == "no"
    assert refusal(aws.invoke_with_response_stream, FunctionName="absent")[:2] == ("ResourceNotFoundException", 404)


# ---- policies ----------------------------------------------------------------------------------------------------------------


def policy(**more):
    statement = {"Effect": "Allow", "Principal": {"AWS": "acme"}, "Action": "lambda:InvokeFunction", **more}
    return Policy({"s": statement})


@pytest.mark.parametrize(
    ("given", "principal", "expected"),
    [
        (policy(), "acme", True),
        (policy(), "other", False),
        (policy(), None, False),
        (policy(Principal="*"), None, True),
        (policy(Principal={"AWS": "*"}), "x", True),
        (policy(Principal={"Service": "acme"}), "acme", False),
        (policy(Action="lambda:*"), "acme", True),
        (policy(Action="*"), "acme", True),
        (policy(Action="lambda:GetFunction"), "acme", False),
        (policy(Effect="Deny"), "acme", False),
        (policy(Condition={"StringEquals": {"Some:Key": "v"}}), "acme", True),
        (policy(Condition={"StringEquals": {"some:key": "w"}}), "acme", False),
        (policy(Condition={"StringEquals": {"absent": "v"}}), "acme", False),
        (policy(Condition={"ArnLike": {"some:key": "v*"}}), "acme", True),
        (policy(Condition={"Bool": {"some:flag": "TRUE"}}), "acme", True),
        (policy(Condition={"NumericEquals": {"some:key": "v"}}), "acme", False),
        (policy(Condition={"StringEquals": {"some:key": "v"}, "Bool": {"some:flag": "false"}}), "acme", False),
        (None, "acme", False),
    ],
)
def test_what_policies_allow(given, principal, expected):
    facts = {"some:key": "v", "some:flag": "true"}
    assert allows(given, principal=principal, action="lambda:InvokeFunction", facts=facts) is expected
