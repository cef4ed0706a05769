"""Function URLs in the running service: the engine answers the usual requests by itself, as the control plane would, and
knows at once what has changed."""

from __future__ import annotations

import json
import re

import pytest

from tests.e2e.serving import RUNTIME
from tests.lambda_api.client import ROLE, package
from tests.lambda_api.raw_http import Connection
from tests.lambda_api.url_sides import plane_event

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SOURCE = """
import json, os
def handler(event, context):
    asked = event.get("queryStringParameters", {}).get("do") if "rawPath" in event else None
    if asked == "raise":
        raise ValueError("no")
    if asked == "exit":
        os._exit(1)
    if asked == "large":
        return {"statusCode": 200, "body": "x" * 100_000}
    if asked == "set":
        return {1, 2}
    if asked == "answer":
        return json.loads(event["body"])
    return {"statusCode": 200, "body": json.dumps(event), "headers": {"X-Version": context.function_version}}
"""
# A header that means nothing, but that the engine's reader does not take: the request goes the slow way.
SLOW = b"TE: trailers\r\n"
NAME = "url-engine"


def open_to_all(aws, name, **more):
    host = aws.create_function_url_config(FunctionName=name, AuthType="NONE", **more)["FunctionUrl"].split("/")[2]
    permit = {"FunctionName": name, "Principal": "*", **({"Qualifier": more["Qualifier"]} if "Qualifier" in more else {})}
    aws.add_permission(**permit, StatementId="u", Action="lambda:InvokeFunctionUrl", FunctionUrlAuthType="NONE")
    aws.add_permission(**permit, StatementId="f", Action="lambda:InvokeFunction", InvokedViaFunctionUrl=True)
    return host


@pytest.fixture(scope="module")
def host(aws):
    given = {"FunctionName": NAME, "Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler"}
    aws.create_function(**given, Code={"ZipFile": package(SOURCE)}, Publish=True)
    yield open_to_all(aws, NAME)
    aws.delete_function(FunctionName=NAME)


def request(host, target="/", *headers, body=b"", method="POST"):
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def raw(connection):
    """The next answer's bytes, ids and times put aside; None: the connection has ended."""
    reply = connection.reply()
    if reply is None:
        return None
    text = re.sub(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", b"ID", reply.body)
    text = re.sub(rb'\\"te\\": \\"trailers\\", |"te": "trailers", ', b"", text)
    text = re.sub(rb'"time": "[^"]*", "timeEpoch": [0-9]+', b"TIME", text)
    headers = [(name, value) for name, value in reply.headers.items() if name not in ("x-amzn-requestid", "content-length")]
    return reply.status, headers, text


def handed(served):
    return json.loads(served.get("/debug/stats")[1])["loop"]["http_handed"]


ANSWER = ("Content-Type: application/json",)
BY_THE_ENGINE = {
    "get": ("/a%20b?x=1&x=2", ("Cookie: a=1; b=2", "Accept: */*"), b"", "GET"),
    "post": ("/", ANSWER, b'{"a": "\xc3\xa9"}', "POST"),
    "binary": ("/", ("Content-Type: image/png",), b"\x00\xff", "PUT"),
    "empty": ("/", (), b"", "DELETE"),
    "raises": ("/?do=raise", (), b"", "GET"),
    "exits": ("/?do=exit", (), b"", "GET"),
    "cannot be encoded": ("/?do=set", (), b"", "GET"),
    "status": ("/?do=answer", ANSWER, b'{"statusCode": 404, "body": "no", "cookies": ["a=1"], "headers": {"A": "b"}}', "POST"),
    "text": ("/?do=answer", ANSWER, b'"plain"', "POST"),
    "anything": ("/?do=answer", ANSWER, b'[1, {"a": null}]', "POST"),
    "close": ("/", ("Connection: close",), b"", "GET"),
}
BY_THE_CONTROL_PLANE = {
    "large": ("/?do=large", (), b"", "GET"),
    "no status": ("/?do=answer", ANSWER, b'{"statusCode": 9}', "POST"),
    "an object as body": ("/?do=answer", ANSWER, b'{"statusCode": 200, "body": {"a": 1.50}}', "POST"),
    "splitting": ("/?do=answer", ANSWER, b'{"statusCode": 200, "headers": {"a": "b\\r\\nc: d"}}', "POST"),
    "not ascii": ("/?do=answer", ANSWER, '{"statusCode": 200, "headers": {"a": "é"}}'.encode(), "POST"),
    "closes": ("/?do=large", ("Connection: close",), b"", "GET"),
}


@pytest.mark.parametrize("case", [*BY_THE_ENGINE, *BY_THE_CONTROL_PLANE])
def test_both_sides_answer_alike(served, host, case):
    target, headers, body, method = {**BY_THE_ENGINE, **BY_THE_CONTROL_PLANE}[case]
    fast = request(host, target, *headers, body=body, method=method)
    slow = fast.replace(b"\r\n", b"\r\n" + SLOW, 1)
    before = handed(served)
    with Connection(served.http_port) as first, Connection(served.http_port) as second:
        first.send(fast)
        one = raw(first)
        assert handed(served) - before == (case in BY_THE_CONTROL_PLANE), "who has answered"
        second.send(slow)
        other = raw(second)
        assert one is not None
        assert one == other
        if "Connection: close" in headers:
            assert first.ended()
        else:  # the connection goes on
            first.send(request(host, "/again", method="GET"))
            assert first.reply().status == 200


def test_the_event_is_the_one_that_the_control_plane_makes(served, host):
    with Connection(served.http_port) as connection:
        asked = request(host, "/a%20b?x=1", "User-Agent: t", "Content-Type: text/plain", body=b"t")
        connection.send(asked)
        found = json.loads(connection.reply().body)
    expected = json.loads(plane_event(asked))
    for event in (found, expected):
        context = event["requestContext"]
        assert abs(context.pop("timeEpoch") - 1.8e12) < 1e11
        del context["requestId"], context["time"], context["http"]["sourceIp"], event["headers"]["x-forwarded-for"]
    assert found == expected


def test_requests_in_a_row_whoever_answers(served, host):
    targets = ["/?do=large", "/", "/", "/?do=large", "/?do=large", "/"] * 3
    with Connection(served.http_port) as connection:
        connection.send(b"".join(request(host, target, method="GET") for target in targets))
        sizes = [len(connection.reply().body) for _ in targets]
    assert [size == 100_000 for size in sizes] == ["large" in target for target in targets]


def test_permission_is_taken_away_at_once(served, aws, host):
    with Connection(served.http_port) as connection:
        for _ in range(3):
            connection.send(request(host, method="GET"))
            assert connection.reply().status == 200
            aws.remove_permission(FunctionName=NAME, StatementId="f")
            connection.send(request(host, method="GET"))
            assert connection.reply().status == 403
            permit = {"FunctionName": NAME, "Principal": "*", "StatementId": "f", "Action": "lambda:InvokeFunction"}
            aws.add_permission(**permit, InvokedViaFunctionUrl=True)


def test_a_url_of_an_alias_follows_it_and_goes_with_it(served, aws, host):
    aws.create_alias(FunctionName=NAME, Name="live", FunctionVersion="1")
    alias = open_to_all(aws, NAME, Qualifier="live")
    with Connection(served.http_port) as connection:

        def version():
            connection.send(request(alias, method="GET"))
            reply = connection.reply()
            return reply.headers.get("x-version") if reply.status == 200 else reply.status

        before = handed(served)
        assert version() == "1"
        aws.update_alias(FunctionName=NAME, Name="live", FunctionVersion="$LATEST")
        assert version() == "$LATEST"
        assert handed(served) == before + 1  # the change, and no call
        aws.update_function_url_config(FunctionName=NAME, Qualifier="live", AuthType="AWS_IAM")
        assert version() == "$LATEST"  # where nobody has to sign, everybody is somebody
        aws.update_function_url_config(FunctionName=NAME, Qualifier="live", AuthType="NONE", InvokeMode="RESPONSE_STREAM")
        assert version() == "$LATEST"
        aws.delete_function_url_config(FunctionName=NAME, Qualifier="live")
        assert version() == 404
        aws.delete_alias(FunctionName=NAME, Name="live")
        assert version() == 404


def test_other_origins_where_there_are_rules(served, aws, host):
    aws.update_function_url_config(FunctionName=NAME, AuthType="NONE", Cors={"AllowOrigins": ["https://a.example"]})
    with Connection(served.http_port) as connection:
        connection.send(request(host, "/", "Origin: https://a.example", method="GET"))
        assert connection.reply().headers["access-control-allow-origin"] == "https://a.example"
        before = handed(served)
        connection.send(request(host, method="GET"))
        assert connection.reply().status == 200
        assert handed(served) == before
    aws.update_function_url_config(FunctionName=NAME, AuthType="NONE", Cors={})


def test_a_closed_function_is_a_429(served, aws, host):
    aws.put_function_concurrency(FunctionName=NAME, ReservedConcurrentExecutions=0)
    fast = request(host, method="GET")
    with Connection(served.http_port) as first, Connection(served.http_port) as second:
        first.send(fast)
        second.send(fast.replace(b"\r\n", b"\r\n" + SLOW, 1))
        one, other = raw(first), raw(second)
    aws.delete_function_concurrency(FunctionName=NAME)
    assert one == other
    assert one[0] == 429


def test_a_deleted_function_has_no_url(served, aws):
    given = {"FunctionName": "url-gone", "Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler"}
    aws.create_function(**given, Code={"ZipFile": package(SOURCE)})
    gone = open_to_all(aws, "url-gone")
    with Connection(served.http_port) as connection:
        connection.send(request(gone, method="GET"))
        assert connection.reply().status == 200
        aws.delete_function(FunctionName="url-gone")
        connection.send(request(gone, method="GET"))
        assert connection.reply().status == 404
