"""The AWS CLI, unmodified, as people have it in their scripts. It takes a second to start, so here are few calls of it; what
each operation does is tested by boto3."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.serving import RUNTIME
from tests.lambda_api.client import ROLE, package

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

AWS = Path(sys.executable).parent / "aws"
SCRIPT = f"""
set -eu
aws() {{ {AWS} --endpoint-url "$ENDPOINT" "$@"; }}
aws lambda create-function --function-name cli --runtime {RUNTIME} --role {ROLE} --handler app.handler \\
    --zip-file fileb://app.zip --environment 'Variables={{NAME=one}}' --tags team=blue --query State
aws lambda invoke --function-name cli --payload '{{"a": 1}}' --log-type Tail answer.json --query StatusCode
aws lambda update-function-configuration --function-name cli --timeout 9 --query '[Timeout, LastUpdateStatus]'
aws lambda update-function-code --function-name cli --zip-file fileb://app.zip --publish --query Version
aws lambda create-alias --function-name cli --name live --function-version 1 --query AliasArn
aws lambda publish-layer-version --layer-name cli-layer --zip-file fileb://layer.zip --query LayerVersionArn
aws lambda create-function-url-config --function-name cli --auth-type NONE --query AuthType
aws lambda add-permission --function-name cli --statement-id one --action lambda:InvokeFunction --principal 123456789012 \\
    --query Statement
aws lambda list-versions-by-function --function-name cli --max-items 1 --query '[Versions[].Version, NextToken != null]'
aws lambda delete-function --function-name cli
"""


@pytest.fixture
def shell(served, tmp_path):
    (tmp_path / "app.zip").write_bytes(package())
    (tmp_path / "layer.zip").write_bytes(package("x = 1", "python/x.py"))
    keep = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment = {
        **keep,
        "ENDPOINT": f"http://127.0.0.1:{served.http_port}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "local",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }

    def run(script):
        return subprocess.run(
            ["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    return run


def test_a_script_from_creation_to_the_end(aws, shell, tmp_path):
    done = shell(SCRIPT)
    assert (done.returncode, done.stderr) == (0, "")
    decoder, text, answers = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        answer, end = decoder.raw_decode(text)
        answers.append(answer)
        text = text[end:].lstrip()
    statement = json.loads(answers.pop(7))
    assert answers == [
        "Active",
        200,
        [9, "Successful"],
        "1",
        "arn:aws:lambda:local:000000000000:function:cli:live",
        "arn:aws:lambda:local:000000000000:layer:cli-layer:1",
        "NONE",
        [["$LATEST"], True],
        {"StatusCode": 204},
    ]
    assert statement["Principal"] == {"AWS": "arn:aws:iam::123456789012:root"}
    assert json.loads((tmp_path / "answer.json").read_text()) == {"event": {"a": 1}, "version": "$LATEST", "name": "one"}
    assert "cli" not in [f["FunctionName"] for f in aws.list_functions()["Functions"]]
    aws.delete_layer_version(LayerName="cli-layer", VersionNumber=1)


def test_a_refusal_ends_a_script(shell):
    done = shell(f'{AWS} --endpoint-url "$ENDPOINT" lambda get-function --function-name absent')
    assert done.returncode in (254, 255)
    assert "(ResourceNotFoundException)" in done.stderr
    assert "Function not found: arn:aws:lambda:local:000000000000:function:absent" in done.stderr


FIELDS = f"""
set -u
aws() {{ {AWS} --endpoint-url "$ENDPOINT" "$@"; }}
aws lambda create-function --function-name fields --runtime {RUNTIME} --role {ROLE} --handler app.handler \\
    --zip-file fileb://app.zip --logging-config LogFormat=JSON,SystemLogLevel=WARN,LogGroup=/shop/cli \\
    --tracing-config Mode=Active --snap-start ApplyOn=PublishedVersions --ephemeral-storage Size=512 \\
    --dead-letter-config TargetArn=arn:aws:sqs:eu-central-1:000000000000:dead \\
    --query '[State, LoggingConfig, TracingConfig.Mode, SnapStart.ApplyOn, DeadLetterConfig.TargetArn]'
aws lambda put-function-recursion-config --function-name fields --recursive-loop Allow --query RecursiveLoop
aws lambda put-runtime-management-config --function-name fields --update-runtime-on Auto --query UpdateRuntimeOn
aws lambda invoke --function-name fields answer.json --query ExecutedVersion
aws lambda invoke --function-name fields --tenant-id acme answer.json
aws lambda update-function-configuration --function-name fields --ephemeral-storage Size=1024
aws lambda delete-function --function-name fields
"""


def test_fields_of_a_functions_configuration(aws, shell):
    done = shell(FIELDS)
    assert done.returncode == 0
    decoder, text, answers = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        answer, end = decoder.raw_decode(text)
        answers.append(answer)
        text = text[end:].lstrip()
    assert answers.pop(0) == [
        "Active",
        {"LogFormat": "JSON", "ApplicationLogLevel": "INFO", "SystemLogLevel": "WARN", "LogGroup": "/shop/cli"},
        "Active",
        "PublishedVersions",
        "arn:aws:sqs:eu-central-1:000000000000:dead",
    ]
    assert answers == ["Allow", "Auto", "$LATEST", {"StatusCode": 204}]
    refusals = [line for line in done.stderr.splitlines() if "An error occurred" in line]
    assert len(refusals) == 2, done.stderr
    assert "isn't enabled for tenant isolation" in refusals[0]
    assert "512 MB" in refusals[1]
