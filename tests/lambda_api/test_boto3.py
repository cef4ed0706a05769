"""The API as boto3 sees it: an unmodified client against a whole service with real sandboxes."""

from __future__ import annotations

import json
import urllib.request

import pytest

from tests.e2e.serving import RUNTIME
from tests.lambda_api.client import ROLE, package, refusal, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_a_function_from_creation_to_its_end(aws):
    data = package()
    made = aws.create_function(
        FunctionName="whole",
        Runtime=RUNTIME,
        Role=ROLE,
        Handler="app.handler",
        Code={"ZipFile": data},
        Description="first",
        Timeout=5,
        MemorySize=256,
        Environment={"Variables": {"NAME": "value"}},
        EphemeralStorage={"Size": 600},
    )
    assert made["FunctionArn"] == "arn:aws:lambda:local:000000000000:function:whole"
    assert (made["Role"], made["Timeout"], made["MemorySize"], made["State"]) == (ROLE, 5, 256, "Active")
    assert made["EphemeralStorage"] == {"Size": 600}
    aws.get_waiter("function_active_v2").wait(FunctionName="whole")

    answer = run(aws, "whole", Payload=b'{"a": 1}', LogType="Tail")
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert json.loads(answer["Payload"]) == {"event": {"a": 1}, "version": "$LATEST", "name": "value"}
    assert "FunctionError" not in answer

    got = aws.get_function(FunctionName="whole")
    with urllib.request.urlopen(got["Code"]["Location"]) as downloaded:
        assert downloaded.read() == data

    changed = aws.update_function_configuration(FunctionName="whole", Description="second", RevisionId=made["RevisionId"])
    assert changed["Description"] == "second"
    assert changed["RevisionId"] != made["RevisionId"]
    assert refusal(aws.update_function_configuration, FunctionName="whole", Timeout=9, RevisionId=made["RevisionId"])[:2] == (
        "PreconditionFailedException",
        412,
    )
    published = aws.publish_version(FunctionName="whole")
    assert published["Version"] == "1"
    assert [v["Version"] for v in aws.list_versions_by_function(FunctionName="whole")["Versions"]] == ["$LATEST", "1"]
    again = run(aws, "whole", Qualifier="1")
    assert json.loads(again["Payload"])["version"] == again["ExecutedVersion"] == "1"

    aws.delete_function(FunctionName="whole")
    name, status, response = refusal(aws.get_function, FunctionName="whole")
    assert (name, status) == ("ResourceNotFoundException", 404)
    assert "function:whole" in response["Message"]


def test_a_name_can_be_taken_once(aws, function):
    assert refusal(
        aws.create_function, FunctionName=function, Runtime=RUNTIME, Role=ROLE, Handler="a.b", Code={"ZipFile": package()}
    )[:2] == ("ResourceConflictException", 409)


@pytest.mark.parametrize(
    ("event", "error_type"),
    [({"raise": True}, "ValueError"), ({"exit": 3}, "Runtime.ExitError"), ({"sleep": 5}, "Sandbox.Timedout")],
)
def test_a_failed_function_is_an_answer(aws, function, event, error_type):
    if "sleep" in event:
        aws.update_function_configuration(FunctionName=function, Timeout=1)
    answer = run(aws, function, Payload=json.dumps(event).encode())
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert json.loads(answer["Payload"])["errorType"] == error_type


def test_invocation_types(aws, function):
    assert run(aws, function, InvocationType="DryRun")["StatusCode"] == 204
    accepted = run(aws, function, InvocationType="Event", Payload=b'{"a": 1}')
    assert accepted["StatusCode"] == 202
    assert accepted["Payload"] == b""


@pytest.mark.parametrize("payload", [b"{", b'{"a": nan}x', b"\xff"])
def test_what_is_no_json_never_runs(aws, function, payload):
    assert refusal(aws.invoke, FunctionName=function, Payload=payload)[:2] == ("InvalidRequestContentException", 400)


def test_validation_tells_all_that_is_wrong(aws, function):
    name, status, response = refusal(aws.update_function_configuration, FunctionName=function, MemorySize=1, Timeout=1000)
    assert (name, status) == ("ValidationException", 400)
    text = response["Error"]["Message"]
    assert "2 validation errors detected" in text
    assert "Value '1' at 'memorySize' failed to satisfy constraint: Member must have value greater than or equal to 128" in text
    assert "Value '1000' at 'timeout'" in text


def test_lists_come_in_pages(aws):
    names = [f"page-{n}" for n in range(5)]
    for name in names:
        aws.create_function(FunctionName=name, Runtime=RUNTIME, Role=ROLE, Handler="app.handler", Code={"ZipFile": package()})
    pages = list(aws.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2}))
    found = [f["FunctionName"] for page in pages for f in page["Functions"]]
    assert [name for name in found if name.startswith("page-")] == names
    assert all(len(page["Functions"]) <= 2 for page in pages)
    for name in names:
        aws.delete_function(FunctionName=name)


def test_reserved_concurrency(aws, function):
    aws.put_function_concurrency(FunctionName=function, ReservedConcurrentExecutions=0)
    assert aws.get_function_concurrency(FunctionName=function)["ReservedConcurrentExecutions"] == 0
    name, status, response = refusal(aws.invoke, FunctionName=function)
    assert (name, status) == ("TooManyRequestsException", 429)
    assert response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    aws.delete_function_concurrency(FunctionName=function)
    assert "ReservedConcurrentExecutions" not in aws.get_function_concurrency(FunctionName=function)
    assert run(aws, function)["StatusCode"] == 200


def test_what_is_not_built_says_so(aws):
    assert refusal(aws.list_code_signing_configs)[:2] == ("NotImplementedException", 501)
