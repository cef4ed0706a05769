"""Limits, pages and figures of the API, to the byte and to the item, by boto3."""

from __future__ import annotations

import base64
import json

import pytest

from tests.e2e.serving import RUNTIME, Served, public_directory
from tests.lambda_api.client import ROLE, connect, package, refusal, run
from tests.lambda_api.packing import zeros
from tests.lambda_api.raw_http import Connection, invoke, request

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SYNC_MAX, EVENT_MAX = 6_291_456, 1_048_576
COUNT = "def handler(event, context):\n    return len(event)\n"
ZIP = package()
CREATE = {"Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler"}
TOO_LARGE = "Request must be smaller than {} bytes for the InvokeFunction operation"
SLOW = "TE: trailers"  # the engine's reader leaves a request with it to the control plane


def text(size: int) -> bytes:
    """JSON of so many bytes."""
    return b'"' + b"x" * (size - 2) + b'"'


@pytest.fixture
def count(aws, function):
    aws.update_function_code(FunctionName=function, ZipFile=package(COUNT))
    return function


def test_payloads_have_their_limit_to_the_byte(aws, count):
    assert json.loads(run(aws, count, Payload=text(SYNC_MAX))["Payload"]) == SYNC_MAX - 2
    name, status, response = refusal(aws.invoke, FunctionName=count, Payload=text(SYNC_MAX + 1))
    assert (name, status, response["Error"]["Message"]) == (
        "RequestTooLargeException", 413, TOO_LARGE.format(SYNC_MAX),
    )  # fmt: skip
    assert run(aws, count, Payload=text(EVENT_MAX), InvocationType="Event")["StatusCode"] == 202
    name, status, response = refusal(aws.invoke, FunctionName=count, Payload=text(EVENT_MAX + 1), InvocationType="Event")
    assert (name, status, response["Error"]["Message"]) == (
        "RequestTooLargeException", 413, TOO_LARGE.format(EVENT_MAX),
    )  # fmt: skip
    dry = refusal(aws.invoke, FunctionName=count, Payload=text(SYNC_MAX + 1), InvocationType="DryRun")
    assert dry[:2] == ("RequestTooLargeException", 413)


@pytest.mark.parametrize("headers", [(), (SLOW,)], ids=["engine", "control plane"])
@pytest.mark.parametrize(("kind", "most", "status"), [("RequestResponse", SYNC_MAX, 200), ("Event", EVENT_MAX, 202)])
def test_both_sides_have_the_same_limit(served, count, headers, kind, most, status):
    with Connection(served.http_port) as connection:
        connection.send(invoke(count, text(most), f"X-Amz-Invocation-Type: {kind}", *headers))
        assert connection.reply().status == status
    with Connection(served.http_port) as connection:
        connection.send(invoke(count, text(most + 1), f"X-Amz-Invocation-Type: {kind}", *headers))
        refused = connection.reply()
    assert (refused.status, refused.headers["x-amzn-errortype"]) == (413, "RequestTooLargeException")
    assert json.loads(refused.body) == {"Type": "User", "message": TOO_LARGE.format(most)}


def test_a_request_of_more_than_a_package_may_have_is_refused_by_its_announcement(served):
    with Connection(served.http_port) as connection:
        connection.send(request("/2015-03-31/functions", b"", ("Content-Length: 70167212",), length=False))
        refused = connection.reply()
    assert (refused.status, refused.headers["x-amzn-errortype"]) == (413, "RequestTooLargeException")


def test_creation_may_publish(aws):
    made = aws.create_function(FunctionName="published", **CREATE, Code={"ZipFile": ZIP}, Publish=True)
    assert (made["Version"], made["FunctionArn"].rpartition(":")[2]) == ("1", "1")
    assert [v["Version"] for v in aws.list_versions_by_function(FunctionName="published")["Versions"]] == ["$LATEST", "1"]
    assert aws.publish_version(FunctionName="published")["Version"] == "1"  # nothing has changed
    aws.delete_function(FunctionName="published")


def test_a_dry_run_changes_nothing(aws, function):
    before = aws.get_function(FunctionName=function)["Configuration"]
    shown = aws.update_function_code(FunctionName=function, ZipFile=package(COUNT), DryRun=True)
    assert shown["CodeSha256"] != before["CodeSha256"]
    assert aws.get_function(FunctionName=function)["Configuration"] == before
    broken = refusal(aws.update_function_code, FunctionName=function, ZipFile=b"no zip", DryRun=True)
    assert broken[:2] == ("InvalidParameterValueException", 400)
    stale = refusal(aws.update_function_code, FunctionName=function, ZipFile=package(), DryRun=True, RevisionId="old")
    assert stale[:2] == ("PreconditionFailedException", 412)


def test_members_of_later_models_are_ignored(served, aws):
    body = {"FunctionName": "later", **CREATE, "Code": {"ZipFile": "", "Novel": 1}, "Novel": {"deep": [1]}}
    body["Code"]["ZipFile"] = base64.b64encode(ZIP).decode()
    with Connection(served.http_port) as connection:
        connection.send(request("/2015-03-31/functions?novel=1", json.dumps(body).encode(), ("X-Amz-Novel: 1",)))
        made = connection.reply()
    assert made.status == 201
    assert "Novel" not in json.loads(made.body)
    aws.delete_function(FunctionName="later")


@pytest.fixture(scope="module")
def account():
    """A service of its own: figures are of everything in it."""
    with (
        public_directory() as directory,
        Served(directory / "state", http="127.0.0.1:0", http_auth="none", code_bytes_max=64 << 20) as served,
    ):
        aws = connect(served.http_port)
        for number in range(3):
            aws.create_function(FunctionName=f"f{number}", **CREATE, Code={"ZipFile": ZIP}, Publish=number == 1)
        yield aws
        aws.close()


def test_figures_of_the_account(account):
    account.put_function_concurrency(FunctionName="f0", ReservedConcurrentExecutions=10)
    shown = account.get_account_settings()
    assert shown["AccountLimit"] == {
        "TotalCodeSize": 64 << 20,
        "CodeSizeUnzipped": 262_144_000,
        "CodeSizeZipped": 52_428_800,
        "ConcurrentExecutions": 1000,
        "UnreservedConcurrentExecutions": 990,
    }
    assert shown["AccountUsage"] == {"TotalCodeSize": len(ZIP), "FunctionCount": 3}
    most = refusal(account.put_function_concurrency, FunctionName="f1", ReservedConcurrentExecutions=891)
    assert most[2]["Error"]["Message"].startswith(
        "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its "
        "minimum value of [100]."
    )
    account.put_function_concurrency(FunctionName="f1", ReservedConcurrentExecutions=890)
    assert account.get_account_settings()["AccountLimit"]["UnreservedConcurrentExecutions"] == 100
    for name in ("f0", "f1"):
        account.delete_function_concurrency(FunctionName=name)
    account.put_provisioned_concurrency_config(FunctionName="f1", Qualifier="1", ProvisionedConcurrentExecutions=2)
    below = refusal(account.put_function_concurrency, FunctionName="f1", ReservedConcurrentExecutions=1)
    assert below[2]["Error"]["Message"] == (
        " ReservedConcurrentExecutions  1 should not be lower than function's total provisioned concurrency [2]."
    )
    account.delete_provisioned_concurrency_config(FunctionName="f1", Qualifier="1")


def test_lists_of_functions(account):
    def names(**given):
        answer = account.list_functions(**given)
        return [(f["FunctionName"], f["Version"]) for f in answer["Functions"]], answer.get("NextMarker")

    assert names() == ([("f0", "$LATEST"), ("f1", "$LATEST"), ("f2", "$LATEST")], None)
    every, marker = names(FunctionVersion="ALL")
    assert every == [("f0", "$LATEST"), ("f1", "$LATEST"), ("f1", "1"), ("f2", "$LATEST")]
    assert marker is None
    (qualified,) = [f for f in account.list_functions(FunctionVersion="ALL")["Functions"] if f["Version"] == "1"]
    assert qualified["FunctionArn"].endswith(":function:f1:1")
    assert names(MasterRegion="ALL", FunctionVersion="ALL")[0] == every
    assert len(names(MasterRegion="local")[0]) == 3
    assert names(MasterRegion="eu-west-1") == ([], None)
    first, marker = names(MaxItems=2)
    assert [name for name, _ in first] == ["f0", "f1"]
    assert names(Marker=marker) == ([("f2", "$LATEST")], None)
    assert names(MaxItems=3)[1] is None  # no empty page behind a full one
    assert refusal(account.list_functions, MaxItems=0)[0] == "ValidationException"
    assert refusal(account.list_functions, MaxItems=10_001)[0] == "ValidationException"
    # A function that goes while somebody turns the pages takes no other with it.
    _, marker = names(MaxItems=1)
    account.delete_function(FunctionName="f0")
    assert [name for name, _ in names(Marker=marker)[0]] == ["f1", "f2"]
    account.create_function(FunctionName="f0", **CREATE, Code={"ZipFile": ZIP})


def test_a_page_has_fifty_at_most(account):
    names = [f"many-{number:02}" for number in range(51)]
    for name in names:
        account.create_alias(FunctionName="f1", Name=name, FunctionVersion="1")
    answer = account.list_aliases(FunctionName="f1", MaxItems=10_000)
    assert len(answer["Aliases"]) == 50
    rest = account.list_aliases(FunctionName="f1", Marker=answer["NextMarker"])
    assert [a["Name"] for a in answer["Aliases"] + rest["Aliases"]] == names
    assert "NextMarker" not in rest
    pages = account.get_paginator("list_aliases").paginate(FunctionName="f1", PaginationConfig={"PageSize": 7})
    assert [a["Name"] for page in pages for a in page["Aliases"]] == names


def test_code_storage_has_an_end(account):
    """Of the whole service: what does not fit is refused with the error that Lambda has for it."""
    large = zeros(40 << 20)
    made = account.publish_layer_version(LayerName="large", Content={"ZipFile": large})
    assert made["Version"] == 1
    other = zeros((40 << 20) + 1)
    for call, given in (
        (account.publish_layer_version, {"LayerName": "large", "Content": {"ZipFile": other}}),
        (account.update_function_code, {"FunctionName": "f2", "ZipFile": other}),
        (account.create_function, {"FunctionName": "f3", **CREATE, "Code": {"ZipFile": other}}),
    ):
        name, status, response = refusal(call, **given)
        assert (name, status) == ("CodeStorageExceededException", 400)
        assert response["Error"]["Message"].startswith("Code storage limit exceeded")


def test_a_layers_policy_has_an_end(account):
    account.publish_layer_version(LayerName="shared", Content={"ZipFile": package("x = 1")})
    given = {"LayerName": "shared", "VersionNumber": 1, "Action": "lambda:GetLayerVersion", "Principal": "*"}

    def fill():
        for number in range(200):
            account.add_layer_version_permission(**given, StatementId=f"n{number}" + "x" * 90)

    with pytest.raises(account.exceptions.PolicyLengthExceededException):
        fill()
