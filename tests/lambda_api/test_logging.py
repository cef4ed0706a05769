"""LoggingConfig: what is shown, what is refused, and what the log then holds."""

from __future__ import annotations

import base64
import json

import pytest

from tests.e2e.serving import RUNTIME, wait_until
from tests.lambda_api.client import ROLE, package, refusal, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TALKS = """
import logging, os
log = logging.getLogger()
def handler(event, context):
    log.debug("quiet")
    log.info("plain")
    log.warning("loud %s", "text", extra={"more": 7})
    if event.get("raise"):
        raise ValueError("no")
    return {name: os.environ.get("AWS_LAMBDA_LOG_" + name) for name in ("FORMAT", "LEVEL", "GROUP_NAME")}
"""


@pytest.fixture
def talks(aws, request):
    made = []

    def make(name, **logging):
        aws.create_function(
            FunctionName=name,
            Runtime=RUNTIME,
            Role=ROLE,
            Handler="app.handler",
            Code={"ZipFile": package(TALKS)},
            **({"LoggingConfig": logging} if logging else {}),
        )
        made.append(name)
        return name

    yield make
    for name in made:
        aws.delete_function(FunctionName=name)


def tail(answer):
    return base64.b64decode(answer["LogResult"]).decode()


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def test_what_is_not_said_is_text_and_what_is_json_has_levels(aws, talks):
    plain, told = talks("log-plain"), talks("log-json", LogFormat="JSON")
    assert aws.get_function_configuration(FunctionName=plain)["LoggingConfig"] == {
        "LogFormat": "Text",
        "LogGroup": "/aws/lambda/log-plain",
    }
    shown = aws.get_function_configuration(FunctionName=told)["LoggingConfig"]
    assert shown == {
        "LogFormat": "JSON",
        "ApplicationLogLevel": "INFO",
        "SystemLogLevel": "INFO",
        "LogGroup": "/aws/lambda/log-json",
    }
    changed = aws.update_function_configuration(FunctionName=told, LoggingConfig={"SystemLogLevel": "WARN"})["LoggingConfig"]
    assert changed == {**shown, "SystemLogLevel": "WARN"}, "what is left out stays"
    back = aws.update_function_configuration(FunctionName=told, LoggingConfig={"LogFormat": "Text"})["LoggingConfig"]
    assert back == {"LogFormat": "Text", "LogGroup": "/aws/lambda/log-json"}, "levels go with JSON"


@pytest.mark.parametrize(
    ("logging", "error", "word"),
    [
        ({"LogFormat": "Text", "SystemLogLevel": "WARN"}, "InvalidParameterValueException", "JSON"),
        ({"ApplicationLogLevel": "DEBUG"}, "InvalidParameterValueException", "JSON"),
        ({"LogFormat": "XML"}, "ValidationException", "[JSON, Text]"),
        ({"LogFormat": "JSON", "SystemLogLevel": "FATAL"}, "ValidationException", "[DEBUG, INFO, WARN]"),
        ({"LogGroup": "no blanks"}, "ValidationException", "pattern"),
        ({"LogGroup": "x" * 513}, "ValidationException", "512"),
    ],
)
def test_what_is_wrong_is_told(aws, function, logging, error, word):
    name, status, response = refusal(aws.update_function_configuration, FunctionName=function, LoggingConfig=logging)
    assert (name, status) == (error, 400)
    assert word in response["Error"]["Message"]


def test_json_lines_of_the_platform_and_of_the_function(aws, talks, served):
    name = talks("log-lines", LogFormat="JSON", LogGroup="/shop/orders")
    answer = run(aws, name, LogType="Tail")
    assert json.loads(answer["Payload"]) == {
        "FORMAT": "JSON",
        "LEVEL": "INFO",
        "GROUP_NAME": "/shop/orders",
    }
    start, plain, loud, report = records(tail(answer))
    request = answer["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"]
    assert start["type"] == "platform.start"
    assert start["record"] == {"requestId": request, "version": "$LATEST"}
    assert (plain["level"], plain["message"], plain["requestId"]) == ("INFO", "plain", request)
    assert (loud["level"], loud["message"], loud["more"]) == ("WARNING", "loud text", 7)
    assert report["type"] == "platform.report"
    assert report["record"]["status"] == "success"
    metrics = report["record"]["metrics"]
    assert metrics["memorySizeMB"] == 128
    assert metrics["billedDurationMs"] >= metrics["durationMs"] > 0
    assert metrics["initDurationMs"] > 0
    assert start["time"].endswith("Z")
    assert start["time"][:2] == "20"

    failed = run(aws, name, Payload=b'{"raise": 1}', LogType="Tail")
    *_, error, done, report = records(tail(failed))
    assert (error["level"], error["errorType"], error["errorMessage"]) == ("ERROR", "ValueError", "no")
    assert any("raise ValueError" in line for line in error["stackTrace"])
    assert (done["type"], done["record"]["status"]) == ("platform.runtimeDone", "error")
    assert report["record"]["status"] == "error"

    with served.client() as client:
        wait_until(lambda: client.logs(name).text.count("platform.report") == 2, 5, "the log has both calls")
        assert len(records(client.logs(name).text)) == 10


def test_levels_leave_out_what_is_below(aws, talks, served):
    name = talks("log-levels", LogFormat="JSON", ApplicationLogLevel="WARN", SystemLogLevel="WARN")
    assert [line["message"] for line in records(tail(run(aws, name, LogType="Tail")))] == ["loud text"]
    *_, error, done, report = records(tail(run(aws, name, Payload=b'{"raise": 1}', LogType="Tail")))
    assert [error["level"], done["type"], report["type"]] == ["ERROR", "platform.runtimeDone", "platform.report"]
    aws.update_function_configuration(
        FunctionName=name, LoggingConfig={"ApplicationLogLevel": "FATAL", "SystemLogLevel": "DEBUG"}
    )
    lines = records(tail(run(aws, name, Payload=b'{"raise": 1}', LogType="Tail")))
    assert [line["type"] for line in lines] == ["platform.start", "platform.runtimeDone", "platform.report"]
    aws.update_function_configuration(FunctionName=name, LoggingConfig={"ApplicationLogLevel": "TRACE"})
    lines = records(tail(run(aws, name, LogType="Tail")))
    assert [line.get("message", line.get("type")) for line in lines] == [
        "platform.start",
        "quiet",
        "plain",
        "loud text",
        "platform.runtimeDone",
        "platform.report",
    ]
    with served.client() as client:
        # The first call's START and REPORT are not even in the file.
        wait_until(lambda: "quiet" in client.logs(name).text, 5, "the log has the last call")
        assert client.logs(name).text.count("platform.start") == 2


def test_a_timeout_and_a_death_in_json(aws, talks):
    name = "log-fates"
    aws.create_function(
        FunctionName=name,
        Runtime=RUNTIME,
        Role=ROLE,
        Handler="app.handler",
        Code={"ZipFile": package()},
        Timeout=1,
        LoggingConfig={"LogFormat": "JSON"},
    )
    *_, done, report = records(tail(run(aws, name, Payload=b'{"sleep": 5}', LogType="Tail")))
    assert (done["record"]["status"], report["record"]["status"]) == ("timeout", "timeout")
    *_, done, report = records(tail(run(aws, name, Payload=b'{"exit": 1}', LogType="Tail")))
    assert (done["record"]["status"], report["record"]["errorType"]) == ("failure", "Runtime.ExitError")
    aws.delete_function(FunctionName=name)


def test_functions_of_a_log_group_are_found_by_it(aws, talks, served):
    from click.testing import CliRunner

    from scheduler.cli.app import cli

    for name in ("group-one", "group-two"):
        run(aws, talks(name, LogGroup="/shop/both"))

    def logs(group):
        return CliRunner().invoke(cli, ["--socket", served.socket, "logs", group])

    wait_until(lambda: logs("/shop/both").stdout.count("REPORT RequestId") == 2, 5, "both logs are printed")
    assert logs("/aws/lambda/group-one").exit_code == 2, "it has another log group"
    assert "no function has the log group" in logs("/aws/lambda/group-one").stderr
