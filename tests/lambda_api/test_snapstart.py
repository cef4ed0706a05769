"""SnapStart: versions that have their image made before they are Active, and what does not go with it."""

from __future__ import annotations

import base64
import json
import re

import pytest

from tests.e2e.serving import ISOLATION, RUNTIME, Served, wait_until
from tests.lambda_api.client import ROLE, package, refusal, run
from tests.lambda_api.raw_http import Connection, invoke

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(ISOLATION == "process", reason="bare processes have no images"),
]

# Its init takes as long as its description says: only then can it be seen to be pending.
SLOW = """
import os, time
begun = time.monotonic()
while time.monotonic() < begun + 0.5:
    pass
INIT = os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]
def handler(event, context):
    return [INIT, os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]]
"""
BROKEN = "raise ValueError('not today')\n"
ON = {"SnapStart": {"ApplyOn": "PublishedVersions"}}


@pytest.fixture
def make(aws):
    made = []

    def create(name, source, **more):
        made.append(name)
        return aws.create_function(
            FunctionName=name, Runtime=RUNTIME, Role=ROLE, Handler="app.handler", Code={"ZipFile": package(source)}, **more
        )

    yield create
    for name in made:
        aws.delete_function(FunctionName=name)


def state(aws, name, version):
    shown = aws.get_function_configuration(FunctionName=name, Qualifier=version)
    return shown["State"], shown["SnapStart"]["OptimizationStatus"]


def test_a_version_is_pending_until_its_image_is_made(aws, served: Served, make):
    made = make("snap", SLOW, **ON)
    assert made["SnapStart"] == {"ApplyOn": "PublishedVersions", "OptimizationStatus": "Off"}
    assert made["State"] == "Active", "$LATEST has nothing of it"
    assert json.loads(run(aws, "snap")["Payload"]) == ["on-demand", "on-demand"]

    version = aws.publish_version(FunctionName="snap")
    assert (version["Version"], version["State"], version["StateReasonCode"]) == ("1", "Pending", "Creating")
    aws.create_alias(FunctionName="snap", Name="live", FunctionVersion="1")
    for qualifier in ("1", "live"):
        for side in ((), ("TE: trailers",), ("X-Amz-Invocation-Type: Event",)):
            with Connection(served.http_port) as connection:
                connection.send(invoke(f"snap:{qualifier}", b"{}", *side))
                reply = connection.reply()
            assert (reply.status, reply.headers["x-amzn-errortype"]) == (409, "ResourceConflictException")
            assert json.loads(reply.body)["message"].endswith("currently in the following state: Pending")
    wait_until(lambda: state(aws, "snap", "1") == ("Active", "On"), 10, "its image is made")

    first = run(aws, "snap", Qualifier="live", LogType="Tail")
    assert json.loads(first["Payload"]) == ["snap-start", "snap-start"]
    report = base64.b64decode(first["LogResult"]).decode().splitlines()[-1]
    assert re.search(r"\tRestore Duration: [0-9.]+ ms\tBilled Restore Duration: [0-9]+ ms\t$", report)
    assert "Init Duration" not in report
    lines = rf"^RESTORE_START Runtime Version: {re.escape(RUNTIME)}\nRESTORE_REPORT Restore Duration: [0-9.]+ ms$"
    with served.client() as client:
        wait_until(lambda: re.search(lines, client.logs("snap").text, re.MULTILINE), 5, "the log tells of the restore")
    again = aws.publish_version(FunctionName="snap")
    assert (again["Version"], again["State"]) == ("1", "Active"), "nothing changed: it is the same"


def test_a_version_published_with_its_function_is_pending_too(aws, make):
    made = make("snap-at-once", SLOW, Publish=True, LoggingConfig={"LogFormat": "JSON"}, **ON)
    assert (made["Version"], made["State"]) == ("1", "Pending")
    wait_until(lambda: state(aws, "snap-at-once", "1") == ("Active", "On"), 10, "its image is made")
    report = json.loads(
        base64.b64decode(run(aws, "snap-at-once", Qualifier="1", LogType="Tail")["LogResult"]).decode().splitlines()[-1]
    )
    assert report["record"]["metrics"]["restoreDurationMs"] > 0
    published = aws.update_function_code(FunctionName="snap-at-once", ZipFile=package(SLOW + "#"), Publish=True)
    assert (published["Version"], published["State"]) == ("2", "Pending")
    aws.delete_function(FunctionName="snap-at-once", Qualifier="2")
    assert state(aws, "snap-at-once", "1")[0] == "Active", "a version that is removed while it is pending harms no other"


def test_a_version_whose_init_fails_is_failed(aws, make):
    make("snap-broken", BROKEN, Publish=True, **ON)
    wait_until(lambda: state(aws, "snap-broken", "1")[0] == "Failed", 10, "it is found out")
    shown = aws.get_function_configuration(FunctionName="snap-broken", Qualifier="1")
    assert "not today" in shown["StateReason"]
    assert shown["StateReasonCode"] == "FunctionError"
    assert run(aws, "snap-broken", Qualifier="1")["FunctionError"] == "Unhandled", "calls say why, each anew"


def test_what_does_not_go_with_snapstart(aws, make):
    made = make("snap-rules", SLOW, Publish=True, **ON)
    assert made["SnapStart"]["ApplyOn"] == "PublishedVersions"
    wait_until(lambda: state(aws, "snap-rules", "1")[0] == "Active", 10, "its image is made")
    bad = [
        (aws.update_function_configuration, {"EphemeralStorage": {"Size": 513}}, "512 MB"),
        (
            aws.put_provisioned_concurrency_config,
            {"Qualifier": "1", "ProvisionedConcurrentExecutions": 1},
            "not supported for SnapStart",
        ),
    ]
    for call, members, word in bad:
        name, status, response = refusal(call, FunctionName="snap-rules", **members)
        assert (name, status) == ("InvalidParameterValueException", 400)
        assert word in response["Error"]["Message"]
    assert refusal(aws.update_function_configuration, FunctionName="snap-rules", SnapStart={"ApplyOn": "All"})[:2] == (
        "ValidationException",
        400,
    )
    runtime = "provided.al2023"  # which needs nothing of the machine
    name, status, response = refusal(aws.update_function_configuration, FunctionName="snap-rules", Runtime=runtime)
    assert (name, status) == ("InvalidParameterValueException", 400)
    assert response["Error"]["Message"] == f"{runtime} is not supported for SnapStart enabled functions."
