"""Fields of a function's configuration: what each does as a sandbox sees it, and the refusal of those that do nothing here."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import botocore.session
import pytest

from scheduler.functions.model import FIELDS, RESERVED_ENVIRONMENT
from scheduler.lambda_api import configuration
from scheduler.lambda_api.configured import REFUSED
from tests.e2e.serving import ISOLATION, RUNTIME
from tests.lambda_api.client import ROLE, package, refusal, run

ROOT = Path(__file__).parents[2]
MODEL = botocore.session.get_session().get_service_model("lambda")
OF_FUNCTION = {"Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler", "Code": {"ZipFile": package()}}
FOREIGN = "arm64" if platform.machine() == "x86_64" else "x86_64"

# What makes each more than its default.
TRIED = {
    "PackageType": {"PackageType": "Image"},
    "ImageConfig": {"ImageConfig": {"Command": ["app.handler"]}},
    "ImageUri": {"Code": {"ImageUri": "000000000000.dkr.ecr.local.amazonaws.com/app:1"}},
    "S3ObjectStorageMode": {"Code": {"S3ObjectStorageMode": "REFERENCE"}},
    "SourceKMSKeyArn": {"Code": {"ZipFile": b"x", "SourceKMSKeyArn": "arn:aws:kms:local:000000000000:key/a"}},
    "VpcConfig": {"VpcConfig": {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}},
    "FileSystemConfigs": {
        "FileSystemConfigs": [
            {"Arn": "arn:aws:elasticfilesystem:local:000000000000:access-point/fsap-1", "LocalMountPath": "/mnt/a"}
        ]
    },
    "CodeSigningConfigArn": {
        "CodeSigningConfigArn": "arn:aws:lambda:local:000000000000:code-signing-config:csc-0123456789abcdef0"
    },
    "CapacityProviderConfig": {"CapacityProviderConfig": {"LambdaManagedInstancesCapacityProviderConfig": {}}},
    "DurableConfig": {"DurableConfig": {"RetentionPeriodInDays": 1}},
    "RuntimeConfig": {"RuntimeConfig": {}},
    "AcceleratorConfig": {"AcceleratorConfig": {}},
    "PublishTo": {"PublishTo": "LATEST_PUBLISHED"},
}


def members(shape, before=""):
    """Each leaf of a structure as Outer.Inner; where the refusal is of the outer one, that is enough."""
    for name, inner in shape.members.items():
        whole = before + name
        if inner.type_name == "structure" and not any(row.member == whole for row in configuration.ROWS):
            yield from members(inner, whole + ".")
        else:
            yield whole


def test_each_member_of_the_model_has_a_row():
    rows = {row.member for row in configuration.ROWS}
    wanted = set(members(MODEL.operation_model("CreateFunction").input_shape))
    assert wanted - rows == set()
    assert len(rows) == len(configuration.ROWS), "a member stands twice"


def test_the_page_is_current():
    page = ROOT / "docs" / "configuration.md"
    assert page.read_text() == configuration.render(), (
        "write it anew: python -m scheduler.lambda_api.configuration > docs/configuration.md"
    )


def test_each_key_of_a_deployment_has_a_row():
    keys = [row.key for rows in configuration.TABLES.values() for row in rows if row.key]
    assert set(keys) >= {field.name for field in FIELDS}
    assert len(set(keys)) == len(keys), "a key stands twice"


@pytest.mark.parametrize(
    "row", [row for rows in configuration.TABLES.values() for row in rows], ids=lambda row: row.member or row.key
)
def test_the_test_of_each_row_is_there(row):
    assert row.tests
    for test in row.tests:
        path, name = test.split("::")
        assert re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path} has no {name}"
    if row not in configuration.ROWS:
        return
    top = row.member.rpartition(".")[2] if row.member.startswith("Code.") else row.member.partition(".")[0]
    assert (top in REFUSED and row.refused) or top in {"S3Bucket", "S3Key", "S3ObjectVersion"} or not row.refused


@pytest.mark.parametrize("member", sorted(REFUSED))
def test_each_refusal_is_tried(member):
    assert member in TRIED


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize("member", sorted(TRIED))
def test_what_is_not_honoured_is_refused_by_name(aws, member):
    name, status, response = refusal(aws.create_function, **{**OF_FUNCTION, "FunctionName": "refused", **TRIED[member]})
    assert (name, status) == ("InvalidParameterValueException", 400)
    assert response["Error"]["Message"] == f"{member}: {REFUSED[member][1]}"
    for s3 in ({"S3Bucket": "bucket", "S3Key": "key"}, {"S3Key": "key", "S3ObjectVersion": "1"}):
        assert refusal(aws.create_function, **{**OF_FUNCTION, "FunctionName": "refused", "Code": s3})[:2] == (name, status)


@pytest.mark.e2e
@pytest.mark.slow
def test_another_machines_code_is_refused(aws):
    name, status, response = refusal(aws.create_function, **OF_FUNCTION, FunctionName="foreign", Architectures=[FOREIGN])
    assert (name, status) == ("InvalidParameterValueException", 400)
    own = {"x86_64": "x86_64", "aarch64": "arm64"}[platform.machine()]
    assert response["Error"]["Message"] == f"Architectures: {FOREIGN} cannot run on this machine, which is {own}"
    made = aws.create_function(**OF_FUNCTION, FunctionName="domestic", Architectures=[own])
    assert made["Architectures"] == [own]
    aws.delete_function(FunctionName="domestic")


@pytest.mark.e2e
@pytest.mark.slow
def test_a_runtime_that_is_not_offered_is_refused(aws):
    name, status, response = refusal(aws.create_function, **{**OF_FUNCTION, "FunctionName": "old", "Runtime": "python3.6"})
    assert (name, status) == ("InvalidParameterValueException", 400)
    assert "no longer supported" in response["Error"]["Message"]
    name, status, response = refusal(aws.create_function, **{**OF_FUNCTION, "FunctionName": "old", "Runtime": "cobol"})
    assert (name, status) == ("InvalidParameterValueException", 400)
    assert RUNTIME in response["Error"]["Message"]


@pytest.mark.e2e
@pytest.mark.slow
def test_reserved_variables_are_refused_each_and_4_kb_to_the_byte(aws, function):
    for reserved in sorted(RESERVED_ENVIRONMENT):
        name, status, response = refusal(
            aws.update_function_configuration, FunctionName=function, Environment={"Variables": {reserved: "x"}}
        )
        # A name that begins with _ does not get as far: it is none a variable may have.
        assert (name, status) == (
            "ValidationException" if reserved.startswith("_") else "InvalidParameterValueException",
            400,
        ), reserved
        assert reserved in response["Error"]["Message"]
    room = 4096 - len('{"NAME":""}')
    aws.update_function_configuration(FunctionName=function, Environment={"Variables": {"NAME": "x" * room}})
    assert json.loads(run(aws, function)["Payload"])["name"] == "x" * room
    name, status, response = refusal(
        aws.update_function_configuration, FunctionName=function, Environment={"Variables": {"NAME": "x" * (room + 1)}}
    )
    assert (name, status) == ("InvalidParameterValueException", 400)
    assert "4KB" in response["Error"]["Message"]


INSIDE = """
import os, time
def handler(event, context):
    if "hold" in event:
        held = bytearray(event["hold"] << 20)
        for at in range(0, len(held), 4096):
            held[at] = 1
        return len(held) >> 20
    begun, spent = time.monotonic(), os.times()
    while time.monotonic() < begun + 0.4:
        pass
    now = os.times()
    tmp = os.statvfs("/tmp")
    return {
        "cpu": (now[0] + now[1] - spent[0] - spent[1]) / (time.monotonic() - begun),
        "tmp_mb": tmp.f_blocks * tmp.f_frsize / 2**20,
        "told_mb": [os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"], context.memory_limit_in_mb],
    }
"""


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.skipif(ISOLATION == "process", reason="bare processes share the machine's /tmp")
def test_memory_and_storage_as_a_sandbox_sees_them(aws, served):
    """CPU from above: how much of its share it gets depends on what else runs."""
    if any(line.get("event") == "limits" for line in served.drain_log()):
        pytest.skip("no control groups here")
    made = {**OF_FUNCTION, "FunctionName": "inside", "Code": {"ZipFile": package(INSIDE)}, "Timeout": 30}
    aws.create_function(**made, MemorySize=256, EphemeralStorage={"Size": 600})
    small = json.loads(run(aws, "inside")["Payload"])
    assert small["told_mb"] == ["256", "256"]
    assert small["cpu"] <= 256 / 1769 * 1.1 + 0.1
    assert 550 < small["tmp_mb"] <= 640, "its file system's own needs come on top"
    assert json.loads(run(aws, "inside", Payload=b'{"hold": 128}')["Payload"]) == 128
    assert run(aws, "inside", Payload=b'{"hold": 300}')["FunctionError"] == "Unhandled"
    aws.update_function_configuration(FunctionName="inside", MemorySize=512, EphemeralStorage={"Size": 1024})
    large = json.loads(run(aws, "inside")["Payload"])
    assert large["told_mb"] == ["512", "512"]
    assert small["cpu"] < large["cpu"] <= 512 / 1769 * 1.1 + 0.1
    assert 950 < large["tmp_mb"] <= 1080
    assert json.loads(run(aws, "inside", Payload=b'{"hold": 300}')["Payload"]) == 300
    aws.delete_function(FunctionName="inside")


@pytest.mark.e2e
@pytest.mark.slow
def test_a_dead_letter_queue_is_kept_and_shown(aws, function):
    queue = "arn:aws:sqs:eu-central-1:000000000000:dead"
    changed = aws.update_function_configuration(FunctionName=function, DeadLetterConfig={"TargetArn": queue})
    assert changed["DeadLetterConfig"] == {"TargetArn": queue}
    assert aws.get_function_configuration(FunctionName=function)["DeadLetterConfig"] == {"TargetArn": queue}
    name, status, response = refusal(
        aws.update_function_configuration,
        FunctionName=function,
        DeadLetterConfig={"TargetArn": "arn:aws:s3:::bucket"},
    )
    assert (name, status) == ("ValidationException", 400)
    assert "SQS" in response["Error"]["Message"]
    cleared = aws.update_function_configuration(FunctionName=function, DeadLetterConfig={"TargetArn": ""})
    assert "DeadLetterConfig" not in cleared


@pytest.mark.e2e
@pytest.mark.slow
def test_runtimes_are_updated_with_the_machine(aws, function):
    shown = aws.put_runtime_management_config(FunctionName=function, UpdateRuntimeOn="Auto")
    assert shown["UpdateRuntimeOn"] == "Auto"
    assert shown["FunctionArn"].endswith(f":function:{function}")
    assert aws.get_runtime_management_config(FunctionName=function)["UpdateRuntimeOn"] == "Auto"
    for mode, more in (
        ("FunctionUpdate", {}),
        ("Manual", {"RuntimeVersionArn": "arn:aws:lambda:eu-central-1::runtime:abc"}),
        ("Auto", {"RuntimeVersionArn": "arn:aws:lambda:eu-central-1::runtime:abc"}),
    ):
        name, status, response = refusal(aws.put_runtime_management_config, FunctionName=function, UpdateRuntimeOn=mode, **more)
        assert (name, status) == ("InvalidParameterValueException", 400)
        assert mode in response["Error"]["Message"]
