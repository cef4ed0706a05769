"""A template, a folder with settings and a watched folder, from the command line against a whole service."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.serving import CannotServe, Served, public_directory

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "examples" / "sam"


@pytest.fixture(scope="module")
def served():
    with public_directory() as directory:
        service = Served(directory / "state")
        try:
            service.start()
        except CannotServe as error:
            if "isolat" in str(error) or "namespace" in str(error):
                pytest.skip(f"this machine cannot isolate: {error}")
            raise
        yield service
        assert service.stop() == 0


def scheduler(served, *arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "scheduler", "--socket", served.socket, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


def test_a_template_is_deployed_again_only_where_it_changed(served, tmp_path):
    shutil.copytree(EXAMPLE, tmp_path / "sam")
    path = tmp_path / "sam" / "template.yaml"
    text = path.read_text().replace("python3.11", f"python{sys.version_info.major}.{sys.version_info.minor}")
    path.write_text(text)

    def deploy():
        found = json.loads(scheduler(served, "deploy", path, "--json").stdout)["done"]
        return {(row["kind"], row["name"]): row["what"] for row in found}

    first = deploy()
    assert set(first.values()) == {"created"}
    assert set(deploy().values()) == {"unchanged"}
    answer = json.loads(scheduler(served, "invoke", "greeting-dev:live", '{"name": "you"}').stdout)
    assert answer["greeting"] == "hello, you"
    words = tmp_path / "sam" / "words" / "python" / "words.py"
    words.write_text(words.read_text().replace("hello", "good day"))
    changed = deploy()
    touched = (("layer", "words-dev"), ("function", "greeting-dev"), ("alias", "greeting-dev:live"))
    assert {changed[key] for key in touched} == {"updated"}
    again = json.loads(scheduler(served, "invoke", "greeting-dev:live", '{"name": "you"}').stdout)
    assert (again["greeting"], again["version"]) == ("good day, you", "2")
    path.write_text(text.replace("MemorySize: 256", "MemorySize: 512"))
    assert deploy()["function", "greeting-dev"] == "updated"
    assert json.loads(scheduler(served, "describe", "greeting-dev", "--show-env", "--json").stdout)["memory_mb"] == 512


def test_what_is_wrong_in_a_template_is_told(served, tmp_path):
    path = tmp_path / "template.yaml"
    path.write_text((EXAMPLE / "template.yaml").read_text())
    told = scheduler(served, "deploy", path, code=2)
    assert "nothing at" in told.stderr
    assert "Traceback" not in told.stderr
    mixed = scheduler(served, "deploy", EXAMPLE / "template.yaml", "--memory", "512", code=2)
    assert "--parameter alone goes with it" in mixed.stderr


def test_a_first_function_from_init_to_invoke(served, tmp_path):
    folder = tmp_path / "first"
    scheduler(served, "init", folder)
    assert "there already" in scheduler(served, "init", folder, code=2).stderr
    scheduler(served, "deploy", folder)
    described = json.loads(scheduler(served, "describe", "first", "--json", "--show-env").stdout)
    assert (described["memory_mb"], described["timeout_s"], described["environment"]) == (256, 10, {"STAGE": "dev"})
    scheduler(served, "deploy", folder, "--memory", "300", "--handler", "app.handler", "--env", "STAGE=prod")
    assert json.loads(scheduler(served, "describe", "first", "--json").stdout)["memory_mb"] == 300
    changed = json.loads(scheduler(served, "describe", "first", "--json", "--show-env").stdout)
    assert changed["environment"] == {"STAGE": "prod"}
    assert json.loads(scheduler(served, "invoke", "first", '{"name": "you"}').stdout)["message"] == "hello, you"


def test_a_watched_folder_is_deployed_at_each_change(served, tmp_path):
    folder = tmp_path / "watched"
    folder.mkdir()
    (folder / "app.py").write_text("def handler(e, c):\n    print('one')\n    return 1\n")
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "scheduler", "--socket", served.socket, "dev", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    os.set_blocking(process.stdout.fileno(), False)
    heard = b""

    def hear(what: bytes) -> None:
        nonlocal heard
        deadline = time.monotonic() + 20
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while what not in heard:
                assert selector.select(max(0.0, deadline - time.monotonic())), (what, heard)
                heard += process.stdout.read() or b""

    try:
        hear(b"watching")
        assert scheduler(served, "invoke", "watched").stdout.strip() == "1"
        hear(b"one\n")
        (folder / "app.py").write_text("def handler(e, c:\n")
        hear(b"not deployed")
        (folder / "app.py").write_text("def handler(e, c):\n    print('two')\n    return 2\n")
        hear(b"revision 2")
        assert scheduler(served, "invoke", "watched").stdout.strip() == "2"
        hear(b"two\n")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        process.stdout.close()


def test_a_templates_policies_grant_and_its_credentials_are_told_of(served, tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "app.py").write_text("def handler(event, context):\n    return 1\n")
    path = tmp_path / "template.yaml"
    path.write_text(f"""
Transform: AWS::Serverless-2016-10-31
Resources:
  Granted:
    Type: AWS::Serverless::Function
    Properties:
      CodeUri: src
      Handler: app.handler
      Runtime: python{sys.version_info.major}.{sys.version_info.minor}
      Environment: {{Variables: {{DB_PASSWORD: planted-value}}}}
      Policies:
        - SSMParameterReadPolicy: {{ParameterName: app/url}}
""")
    first = scheduler(served, "deploy", path)
    assert "grants" in first.stdout
    assert "Granted: DB_PASSWORD looks like a credential" in first.stderr
    assert "planted-value" not in first.stdout + first.stderr
    described = json.loads(scheduler(served, "describe", "Granted", "--show-env", "--json").stdout)
    assert described["secrets"] == ["app/url", "/app/url"]
    assert "grants" not in scheduler(served, "deploy", path).stdout
    told = [line for line in served.drain_log() if line.get("event") == "environment"]
    assert "DB_PASSWORD looks like" in told[0]["text"]
    assert "planted-value" not in json.dumps(told)


FIELDS = {
    "LoggingConfig": {"LogFormat": "JSON", "ApplicationLogLevel": "WARN", "SystemLogLevel": "DEBUG", "LogGroup": "/shop/all"},
    "TracingConfig": {"Mode": "Active"},
    "DeadLetterConfig": {"TargetArn": "arn:aws:sqs:eu-central-1:000000000000:dead"},
    "RecursiveLoop": "Allow",
    "RuntimeManagementConfig": {"UpdateRuntimeOn": "Auto"},
    "TenancyConfig": {"TenantIsolationMode": "PER_TENANT"},
}
SHOWN = {
    "log_format": "JSON",
    "application_log_level": "WARN",
    "system_log_level": "DEBUG",
    "log_group": "/shop/all",
    "tracing": "Active",
    "dead_letter_arn": "arn:aws:sqs:eu-central-1:000000000000:dead",
    "recursive_loop": "Allow",
    "tenancy": "PER_TENANT",
}


def test_a_template_and_a_folder_say_every_field(served, tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "app.py").write_text("def handler(event, context):\n    return context.tenant_id\n")
    runtime = f"python{sys.version_info.major}.{sys.version_info.minor}"
    path = tmp_path / "template.json"

    def deploy(code=0, **changed):
        properties = {
            "FunctionName": "fields",
            "Code": "src",
            "Handler": "app.handler",
            "Runtime": runtime,
            **FIELDS,
            **changed,
        }
        path.write_text(json.dumps({"Resources": {"F": {"Type": "AWS::Lambda::Function", "Properties": properties}}}))
        return scheduler(served, "deploy", path, "--json", code=code)

    def shown(name):
        with served.client() as client:
            return client.get(name).raw

    assert json.loads(deploy().stdout)["done"][0]["what"] == "created"
    assert {key: shown("fields")[key] for key in SHOWN} == SHOWN
    assert json.loads(deploy().stdout)["done"][0]["what"] == "unchanged"
    with served.client() as client:
        assert client.invoke("fields", {}, tenant_id="acme").payload == "acme"
    manual = deploy(3, RuntimeManagementConfig={"UpdateRuntimeOn": "FunctionUpdate"})
    assert "FunctionUpdate is not supported" in manual.stderr
    changed = json.loads(deploy(LoggingConfig={"LogFormat": "Text"}, RecursiveLoop="Terminate").stdout)["done"][0]
    assert changed["what"] == "updated"
    assert (shown("fields")["log_format"], shown("fields")["recursive_loop"]) == ("Text", "Terminate")

    lines = [f'{key} = "{value}"' for key, value in SHOWN.items()]
    (tmp_path / "src" / "function.toml").write_text("\n".join(['name = "folder"', 'handler = "app.handler"', *lines]))
    scheduler(served, "deploy", tmp_path / "src")
    assert {key: shown("folder")[key] for key in SHOWN} == SHOWN
