"""Layers by boto3: versions, policies, and what a function sees at /opt."""

from __future__ import annotations

import io
import json
import urllib.request
import zipfile

import pytest

from tests.e2e.serving import ISOLATION, RUNTIME
from tests.lambda_api.client import ROLE, package, refusal, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ARN = "arn:aws:lambda:local:000000000000:layer:"
LISTING = """
import os, importlib
def handler(event, context):
    if event.get("module"):
        return importlib.import_module(event["module"]).NAME
    found = {}
    for at, _, files in os.walk("/opt"):
        for name in files:
            with open(os.path.join(at, name)) as opened:
                found[os.path.relpath(os.path.join(at, name), "/opt")] = opened.read()
    return found
"""


def archive(**files: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, text in files.items():
            opened.writestr(name.replace("__", "/"), text)
    return made.getvalue()


def publish(aws, name, **files):
    return aws.publish_layer_version(LayerName=name, Content={"ZipFile": archive(**files)}, CompatibleRuntimes=[RUNTIME])


@pytest.fixture
def wearing(aws):
    """Makes a function of these layers."""
    made = []

    def make(name, arns, text=LISTING):
        made.append(name)
        return aws.create_function(
            FunctionName=name,
            Runtime=RUNTIME,
            Role=ROLE,
            Handler="app.handler",
            Code={"ZipFile": package(text)},
            Layers=arns,
        )

    yield make
    for name in made:
        aws.delete_function(FunctionName=name)


def test_versions_of_a_layer(aws):
    first = publish(aws, "versioned", a="1")
    second = publish(aws, "versioned", a="2")
    assert (first["Version"], second["Version"]) == (1, 2)
    assert second["LayerVersionArn"] == ARN + "versioned:2"
    got = aws.get_layer_version_by_arn(Arn=second["LayerVersionArn"])
    with urllib.request.urlopen(got["Content"]["Location"]) as fetched:
        assert fetched.read() == archive(a="2")
    assert [v["Version"] for v in aws.list_layer_versions(LayerName="versioned")["LayerVersions"]] == [2, 1]
    shown = [layer for layer in aws.list_layers(CompatibleRuntime=RUNTIME)["Layers"] if layer["LayerName"] == "versioned"]
    assert shown[0]["LatestMatchingVersion"]["Version"] == 2
    assert aws.list_layers(CompatibleRuntime="nodejs20.x")["Layers"] == []
    aws.delete_layer_version(LayerName="versioned", VersionNumber=2)
    aws.delete_layer_version(LayerName="versioned", VersionNumber=2)
    assert refusal(aws.get_layer_version, LayerName="versioned", VersionNumber=2)[:2] == ("ResourceNotFoundException", 404)
    assert publish(aws, "versioned", a="3")["Version"] == 3, "numbers are never used again"


def test_a_layers_policy(aws):
    publish(aws, "shared", a="1")
    of = {"LayerName": "shared", "VersionNumber": 1}
    assert refusal(aws.get_layer_version_policy, **of)[:2] == ("ResourceNotFoundException", 404)
    added = aws.add_layer_version_permission(**of, StatementId="all", Action="lambda:GetLayerVersion", Principal="*")
    given = {"StatementId": "all", "Action": "lambda:GetLayerVersion", "Principal": "*"}
    assert refusal(aws.add_layer_version_permission, **of, **given)[:2] == ("ResourceConflictException", 409)
    policy = json.loads(aws.get_layer_version_policy(**of)["Policy"])
    assert policy["Statement"] == [json.loads(added["Statement"])]
    stale = refusal(aws.remove_layer_version_permission, **of, StatementId="all", RevisionId="x")
    assert stale[:2] == ("PreconditionFailedException", 412)
    aws.remove_layer_version_permission(**of, StatementId="all", RevisionId=added["RevisionId"])
    assert refusal(aws.get_layer_version_policy, **of)[0] == "ResourceNotFoundException"


@pytest.mark.skipif(ISOLATION == "process", reason="bare processes see no /opt of their own")
def test_later_layers_lie_over_earlier_ones(aws, wearing):
    lower = publish(aws, "lower", both="lower", only__low="low", turned="a file", kept__deep__x="lower")["LayerVersionArn"]
    upper = publish(aws, "upper", both="upper", only__up="up", turned__inner="a directory", kept__y="upper")["LayerVersionArn"]
    wearing("two-layers", [lower, upper])
    seen = json.loads(run(aws, "two-layers")["Payload"])
    assert seen == {
        "both": "upper",
        "only/low": "low",
        "only/up": "up",
        "turned/inner": "a directory",
        "kept/deep/x": "lower",
        "kept/y": "upper",
    }
    aws.update_function_configuration(FunctionName="two-layers", Layers=[upper, lower])
    assert json.loads(run(aws, "two-layers")["Payload"])["both"] == "lower"
    shown = aws.get_function_configuration(FunctionName="two-layers")["Layers"]
    assert [layer["Arn"] for layer in shown] == [upper, lower]
    aws.update_function_configuration(FunctionName="two-layers", Layers=[])
    assert json.loads(run(aws, "two-layers")["Payload"]) == {}


@pytest.mark.skipif(ISOLATION == "process", reason="bare processes see no /opt of their own")
def test_modules_of_a_layer_are_imported_and_outlive_it(aws, wearing):
    arn = publish(aws, "modules", **{"python__shared_module.py": "NAME = 'from the layer'"})["LayerVersionArn"]
    wearing("importing", [arn])
    assert json.loads(run(aws, "importing", json.dumps({"module": "shared_module"}).encode())["Payload"]) == "from the layer"
    aws.publish_version(FunctionName="importing")
    aws.delete_layer_version(LayerName="modules", VersionNumber=1)
    aws.update_function_configuration(FunctionName="importing", Description="a new sandbox")
    assert json.loads(run(aws, "importing", json.dumps({"module": "shared_module"}).encode())["Payload"]) == "from the layer"
    again = refusal(aws.update_function_configuration, FunctionName="importing", Layers=[arn])
    assert again[:2] == ("ResourceNotFoundException", 404)


def test_what_layers_cannot_be(aws, wearing):
    arns = [publish(aws, f"many-{n}", a=str(n))["LayerVersionArn"] for n in range(6)]
    second = publish(aws, "many-0", a="again")["LayerVersionArn"]
    wearing("bare", [])
    for layers, text in (
        (arns, "more than 5 layers"),
        ([arns[0], second], "Two different versions of the same layer"),
        (["no-arn"], "Invalid layer ARN"),
        ([arns[0].replace("local", "eu-west-1")], "region"),
    ):
        name, status, response = refusal(aws.update_function_configuration, FunctionName="bare", Layers=layers)
        assert (name, status) == ("InvalidParameterValueException", 400)
        assert text in response["Error"]["Message"]
    missing = refusal(aws.update_function_configuration, FunctionName="bare", Layers=[ARN + "absent:1"])
    assert missing[:2] == ("ResourceNotFoundException", 404)


def test_a_bomb_is_no_layer(aws):
    bomb = archive(zeros="\0" * (40 * 1024 * 1024))
    name, status, _ = refusal(aws.publish_layer_version, LayerName="bomb", Content={"ZipFile": bomb})
    assert (name, status) == ("InvalidParameterValueException", 400)
    assert aws.list_layer_versions(LayerName="bomb")["LayerVersions"] == []
