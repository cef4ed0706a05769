"""Secrets and keys from inside real sandboxes: the extension's API, AWS's own client, and who may have what."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import botocore
import pytest

from scheduler.client import BlockingClient
from scheduler.errors import InitFailed
from tests.e2e.serving import ISOLATION, RUNTIME, CannotServe, Served, public_directory, wait_until
from tests.lambda_api.client import ROLE, connect

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(ISOLATION == "process", reason="without a network of its own a sandbox gets no secrets"),
]

# What a function does on Lambda with the extension, in plain Python.
READER = """
import json, os, urllib.error, urllib.parse, urllib.request
TOKEN = os.environ.get("AWS_SESSION_TOKEN", "")

def get(path, **query):
    url = f"http://localhost:2773{path}?{urllib.parse.urlencode(query)}"
    request = urllib.request.Request(url, headers={"X-Aws-Parameters-Secrets-Token": TOKEN})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return {"status": error.code, **json.load(error)}
    except OSError as error:
        return {"refused": type(error).__name__}

def handler(event, context):
    if "parameter" in event:
        return get("/systemsmanager/parameters/get", name=event["parameter"], withDecryption="true")
    return get("/secretsmanager/get", secretId=event["secret"])
"""
# The pattern of Lambda's encryption helper, word for word: once, while the code is loaded.
HELPER = """
import base64, os
import boto3

PASSWORD = boto3.client("kms").decrypt(
    CiphertextBlob=base64.b64decode(os.environ["DB_PASSWORD"]),
    EncryptionContext={"LambdaFunctionName": os.environ["AWS_LAMBDA_FUNCTION_NAME"]},
)["Plaintext"].decode()

def handler(event, context):
    import boto3
    secret = boto3.client("secretsmanager").get_secret_value(SecretId="db/password")["SecretString"]
    return {"password": PASSWORD, "secret": secret, "type": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]}
"""
SHELL = """#!/bin/sh
set -eu
api="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime"
while true; do
  curl -sS -D /tmp/head -o /tmp/event "$api/invocation/next"
  id=$(tr -d '\\r' </tmp/head | sed -n 's/^[Ll]ambda-[Rr]untime-[Aa]ws-[Rr]equest-[Ii]d: *//p')
  curl -sS -H "X-Aws-Parameters-Secrets-Token: $AWS_SESSION_TOKEN" \\
    "http://localhost:2773/secretsmanager/get?secretId=db%2Fpassword" >/tmp/answer
  curl -sS -o /dev/null --data-binary @/tmp/answer "$api/invocation/$id/response"
done
"""
OF_THE_ROLE = secrets.token_hex(24)
SERVICES = ("kms", "secretsmanager", "ssm", "sts", "sso", "sso-oidc")


def with_boto3(source: str) -> bytes:
    """A package of the function and AWS's client, as one would upload it; of the client's services those that are needed."""
    site = Path(botocore.__file__).resolve().parents[1]
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("app.py", source)
        for name in ("boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six.py"):
            root = site / name
            for path in [root] if root.is_file() else sorted(root.rglob("*")):
                parts = path.relative_to(site).parts
                data = parts[:2] == ("botocore", "data") and len(parts) > 3
                if (
                    path.is_file()
                    and path.suffix != ".pyc"
                    and not (data and parts[2] not in SERVICES)
                    and "examples" not in parts
                ):
                    archive.write(path, "/".join(parts))
    return made.getvalue()


def command(served, *arguments, stdin=b""):
    done = subprocess.run(
        [sys.executable, "-m", "scheduler", "--socket", served.socket, *arguments],
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def end_sandboxes(served, function):
    for sandbox in served.sandboxes(function):
        os.kill(sandbox["pid"], signal.SIGKILL)
    wait_until(lambda: not served.sandboxes(function), 10, "its sandboxes are gone")


@pytest.fixture(scope="module")
def served():
    with public_directory() as directory:
        service = Served(directory / "state", http="127.0.0.1:0", http_auth="none", shells_ahead=2)
        try:
            service.start()
        except CannotServe as error:
            if "isolat" in str(error) or "namespace" in str(error):
                pytest.skip(f"this machine cannot isolate: {error}")
            raise
        service.planted = secrets.token_hex(24)
        command(service, "secrets", "put", "db/password", stdin=service.planted.encode())
        yield service
        assert service.stop() == 0


def test_a_function_gets_what_is_granted_to_it_and_nothing_else(served):
    command(served, "secrets", "put", "other", stdin=b"not for it")
    served.deploy("reader", READER, secrets=["db/*"], runtime=RUNTIME)
    served.deploy("without", READER, runtime=RUNTIME)
    with BlockingClient(served.socket) as client:
        got = client.invoke_json("reader", {"secret": "db/password"})
        assert (got["SecretString"], got["VersionStages"]) == (served.planted, ["AWSCURRENT"])
        assert client.invoke_json("reader", {"parameter": "db/password"})["Parameter"]["Value"] == served.planted
        refused = client.invoke_json("reader", {"secret": "other"})
        assert (refused["status"], refused["__type"]) == (400, "AccessDeniedException")
        assert client.invoke_json("without", {"secret": "db/password"}) == {"refused": "URLError"}
        client.update("reader", secrets=[])
        assert client.invoke_json("reader", {"secret": "db/password"}) == {"refused": "URLError"}
        client.update("reader", secrets=["db/*"])
        assert client.invoke_json("reader", {"secret": "db/password"})["SecretString"] == served.planted


def test_it_is_not_served_while_code_is_loaded(served):
    early = (
        READER
        + "\nEARLY = get('/secretsmanager/get', secretId='db/password')\ndef handler(event, context):\n    return EARLY\n"
    )
    served.deploy("early", early, secrets=["db/*"], runtime=RUNTIME, snapshot="off")
    with BlockingClient(served.socket) as client:
        assert client.invoke_json("early", {}) == {"status": 400, "message": "not ready to serve traffic, please wait"}


def test_a_secrets_policy_lets_a_role_in(served):
    client = connect(served.http_port)
    manager = connect_to("secretsmanager", served.http_port)
    role = "arn:aws:iam::000000000000:role/reader"
    try:
        for name, of in (("bearer", role), ("stranger", ROLE)):
            client.create_function(
                FunctionName=name, Runtime=RUNTIME, Role=of, Handler="app.handler", Code={"ZipFile": zipped(READER)}
            )
        manager.create_secret(Name="shared", SecretString=OF_THE_ROLE)
        statement = {"Effect": "Allow", "Principal": {"AWS": role}, "Action": "secretsmanager:GetSecretValue", "Resource": "*"}
        with BlockingClient(served.socket) as caller:
            # An image from before the policy knows of no token: it is not used for who has one now.
            assert "refused" in caller.invoke_json("bearer", {"secret": "shared"})
            wait_until(lambda: caller.get("bearer").image.state == "ready", 20, "its image is made")
            manager.put_resource_policy(SecretId="shared", ResourcePolicy=json.dumps({"Statement": [statement]}))
            end_sandboxes(served, "bearer")
            got = caller.invoke_json("bearer", {"secret": "shared"})
            assert got.get("SecretString") == OF_THE_ROLE, got
            assert "refused" in caller.invoke_json("stranger", {"secret": "shared"})
    finally:
        client.close()
        manager.close()


def connect_to(service, port):
    import boto3

    return boto3.client(
        service,
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="local",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )


def zipped(source: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("app.py", source)
    return made.getvalue()


def test_the_encryption_helpers_pattern_with_awss_client_and_from_an_image(served, tmp_path):
    sealed = json.loads(command(served, "env", "encrypt", "--function", "helper", "--json", "DB_PASSWORD", stdin=b"planted"))
    package = tmp_path / "helper.zip"
    package.write_bytes(with_boto3(HELPER))
    given = {"handler": "app.handler", "runtime": RUNTIME, "environment": sealed, "secrets": ["db/password"], "memory_mb": 512}
    with BlockingClient(served.socket) as client:
        client.deploy(package, name="helper", keys=["alias/default"], **given)
        expected = {"password": "planted", "secret": served.planted, "type": "on-demand"}
        assert client.invoke_json("helper", {}) == expected
        wait_until(lambda: client.get("helper").image.state not in ("none", "wanted", "making"), 20, "its image is made")
        assert client.get("helper").image.state == "ready", client.get("helper").image.reason
        before = client.get("helper").image.restores
        client.update("helper", description="the same, once more")
        end_sandboxes(served, "helper")
        assert client.invoke_json("helper", {}) == expected
        assert client.get("helper").image.restores > before
        client.deploy(package, name="copy", keys=["alias/default"], **given)
        with pytest.raises(InitFailed) as caught:
            client.invoke("copy", b"{}")
        assert caught.value.error_object["errorType"] == "InvalidCiphertextException"


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_a_program_that_is_executed_has_the_same_doors(served, tmp_path):
    folder = tmp_path / "sh"
    folder.mkdir()
    (folder / "bootstrap").write_text(SHELL)
    (folder / "bootstrap").chmod(0o755)
    with BlockingClient(served.socket) as client:
        client.deploy(
            folder, name="shell", handler="x", runtime="provided.al2023", secrets=["db/*"], memory_mb=512, timeout_s=10
        )
        assert client.invoke_json("shell", {})["SecretString"] == served.planted


def test_nothing_of_a_sandbox_that_has_ended_is_left(served):
    def descriptors():
        return len(os.listdir(f"/proc/{served.process.pid}/fd"))

    served.deploy("passing", READER, secrets=["db/*"], runtime=RUNTIME, snapshot="off")
    with BlockingClient(served.socket) as client:
        before = None
        for _ in range(12):
            got = client.invoke_json("passing", {"secret": "db/password"})
            assert got.get("SecretString") == served.planted, got
            end_sandboxes(served, "passing")
            before = before or descriptors() + 12  # shells that are being born have some too; a listener each would be 24
        wait_until(lambda: descriptors() <= before, 10, "its listeners are closed")


def test_what_was_asked_for_is_nowhere_in_plain_text(served):
    """Not in the state, the log, the metrics, or on anybody's command line."""
    needles = (served.planted.encode(), OF_THE_ROLE.encode())
    with BlockingClient(served.socket) as client:
        assert client.invoke_json("reader", {"secret": "db/password"})["SecretString"] == served.planted
    files = [path for path in served.state_dir.rglob("*") if path.is_file() and "sources" not in path.parts]
    assert [path for path in files if any(needle in path.read_bytes() for needle in needles)] == []
    log = json.dumps(served.drain_log())
    metrics = served.get("/metrics")[1] + served.get("/debug/sandboxes")[1] + served.get("/debug/stats")[1]
    lines = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines += path.read_bytes()
        except OSError:
            continue
    for needle in needles:
        assert needle.decode() not in log + metrics
        assert needle not in lines
