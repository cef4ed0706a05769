"""Deploying, changing and removing functions while they are called: no call is lost, and what was acknowledged is served."""

from __future__ import annotations

import json
import time

import pytest

from scheduler.sandboxes.runtimes import find_runtimes
from tests.e2e.load import Callers
from tests.e2e.serving import ISOLATION, RUNTIME, Served, descendants, wait_until

pytestmark = pytest.mark.e2e

VERSIONED = """
import time
def handler(event, context):
    time.sleep(0.001)
    return {n}
"""


@pytest.mark.slow
def test_a_new_deployment_takes_over_without_losing_a_call(served, raw):
    served.deploy("rolls", VERSIONED.format(n=0))
    with Callers(served.socket, "rolls", count=3, in_flight=4) as callers:
        wait_until(lambda: len(callers.answers) > 50, 10, "calls run")
        for n in range(1, 6):
            served.deploy("rolls", VERSIONED.format(n=n))
            # Acknowledged: a call sent from now on runs the new code.
            assert raw.invoke("rolls")[1][0] == str(n).encode()
            seen = len(callers.answers)
            wait_until(lambda seen=seen: len(callers.answers) > seen + 50, 10, "calls go on")
    callers.check(least=300)
    assert {int(a) for a in callers.answers} == set(range(6))
    wait_until(lambda: {s["revision"] for s in served.sandboxes("rolls")} == {6}, 5, "old sandboxes have drained")


@pytest.mark.slow
def test_a_long_call_of_the_old_code_ends_in_peace(served, raw):
    served.deploy(
        "lingers", "import time\ndef handler(event, context):\n    time.sleep(event)\n    return 'old'\n", timeout_s=10
    )
    assert raw.invoke("lingers", b"0")[0] is None
    running = raw.send("invoke", "lingers", b"0.6")
    wait_until(lambda: served.sandboxes("lingers") != [], 2, "it runs")
    served.deploy("lingers", "def handler(event, context):\n    return 'new'\n")
    assert raw.invoke("lingers", b"0")[1][0] == b'"new"'
    assert raw.wait(running)[1][0] == b'"old"'


@pytest.mark.slow
def test_configuration_changes_under_load(served):
    served.deploy("tuned", VERSIONED.format(n=1))
    with served.client() as client, Callers(served.socket, "tuned", count=2, in_flight=2) as callers:
        wait_until(lambda: len(callers.answers) > 20, 10, "calls run")
        assert client.update("tuned", memory_mb=256).memory_mb == 256
        assert client.update("tuned", weight=500).weight == 500
        assert client.update("tuned", reserved_concurrency=4).reserved_concurrency == 4
        seen = len(callers.answers)
        wait_until(lambda: len(callers.answers) > seen + 50, 10, "calls go on")
    callers.check(least=70)


@pytest.mark.slow
def test_removal_under_load_answers_every_call(served):
    served.deploy("leaves_soon", VERSIONED.format(n=1))
    with served.client() as client:
        with Callers(served.socket, "leaves_soon", count=2, in_flight=4, allowed={"NotFound"}) as callers:
            wait_until(lambda: len(callers.answers) > 50, 10, "calls run")
            client.remove("leaves_soon")
            with served.raw() as raw:
                assert raw.invoke("leaves_soon")[0]["type"] == "NotFound"
        callers.check(least=50)
        wait_until(lambda: served.sandboxes("leaves_soon") == [], 5, "its sandboxes are gone")
        # The name is free again, and its numbers with it.
        served.deploy("leaves_soon", VERSIONED.format(n=2))
        with served.raw() as raw:
            assert raw.invoke("leaves_soon")[1][0] == b"2"


def test_a_broken_deployment_shows_and_the_next_one_heals(served, raw):
    served.deploy("heals", "def handler(event, context):\n    return 1\n")
    assert raw.invoke("heals")[1][0] == b"1"
    served.deploy("heals", "raise RuntimeError('not today')\n")
    error, _ = raw.invoke("heals")
    assert error["type"] == "InitFailed"
    served.deploy("heals", "def handler(event, context):\n    return 2\n")
    assert raw.invoke("heals")[1][0] == b"2"


def test_published_versions_keep_their_code(served, raw):
    served.deploy("keeps", "def handler(event, context):\n    return 1\n", publish=True)
    served.deploy("keeps", "def handler(event, context):\n    return 2\n", publish=True)
    served.deploy("keeps", "def handler(event, context):\n    return 3\n")
    got = {name: raw.invoke(name)[1][0] for name in ("keeps", "keeps:$LATEST", "keeps:1", "keeps:2")}
    assert got == {"keeps": b"3", "keeps:$LATEST": b"3", "keeps:1": b"1", "keeps:2": b"2"}
    with served.client() as client:
        assert client.get("keeps").versions == ("1", "2")
        client.remove("keeps:1")
    assert raw.invoke("keeps:1")[0]["type"] == "NotFound"
    assert raw.invoke("keeps:2")[1][0] == b"2"


def test_a_call_is_told_by_which_name_it_came(served, raw):
    served.deploy("named", "def handler(event, context):\n    return context.invoked_function_arn\n", publish=True)
    arn = "arn:aws:lambda:local:000000000000:function:named"
    for name, told in (
        ("named", arn), ("named:$LATEST", f"{arn}:$LATEST"), ("named:1", f"{arn}:1"), (arn, arn),
        (f"{arn}:$LATEST", f"{arn}:$LATEST"),
        ("000000000000:function:named:$LATEST", f"{arn}:$LATEST"),
    ):  # fmt: skip
        assert json.loads(raw.invoke(name)[1][0]) == told, name
    large = b'"' + b"x" * 200_000 + b'"'
    assert json.loads(raw.invoke("named:$LATEST", large)[1][0]) == f"{arn}:$LATEST"


def test_the_environment_is_lambda_s(served, raw):
    source = """
    import os
    def handler(event, context):
        return {"env": dict(os.environ), "arn": context.invoked_function_arn, "stream": context.log_stream_name}
    """
    served.deploy("environ", source, environment={"MINE": "1", "TZ": "Europe/Berlin"}, memory_mb=192)
    import json

    error, result = raw.invoke("environ")
    assert error is None
    answer = json.loads(result[0])
    env = answer["env"]
    assert {key: env.get(key) for key in ("MINE", "TZ", "AWS_REGION", "AWS_LAMBDA_FUNCTION_NAME", "_HANDLER")} == {
        "MINE": "1",
        "TZ": "Europe/Berlin",
        "AWS_REGION": "local",
        "AWS_LAMBDA_FUNCTION_NAME": "environ",
        "_HANDLER": "app.handler",
    }
    assert env["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "192"
    assert env["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST"
    assert env["AWS_EXECUTION_ENV"].startswith("AWS_Lambda_python3.")
    assert env["AWS_LAMBDA_LOG_STREAM_NAME"] == answer["stream"]
    assert answer["stream"].startswith(time.strftime("%Y/%m/%d/[$LATEST]", time.gmtime()))
    assert answer["arn"] == "arn:aws:lambda:local:000000000000:function:environ"
    assert not [key for key in env if key.startswith("SCHEDULER")]


def test_logs_of_one_call_and_from_a_cursor_on(served, raw):
    served.deploy("talks", "def handler(event, context):\n    print('said', event)\n    return event\n")
    with served.client() as client:
        ids = []
        for n in range(3):
            _, (_, report) = raw.invoke("talks", str(n).encode(), report=True)
            ids.append(report["request_id"])
        chunk = client.logs("talks")
        wait_until(lambda: client.logs("talks").text.count("REPORT ") == 3, 3, "journal written")
        chunk = client.logs("talks")
        assert [line for line in chunk.text.splitlines() if line.startswith("said")] == ["said 0", "said 1", "said 2"]
        one = client.logs("talks", request_id=ids[1]).text
        assert one.startswith(f"START RequestId: {ids[1]} Version: $LATEST\nsaid 1\nEND RequestId: {ids[1]}\nREPORT ")
        assert client.logs("talks", cursor=chunk.cursor).text == ""
        waiting = raw.send("functions.logs", {"name": "talks", "cursor": chunk.cursor, "wait_ms": 5000})
        with served.raw() as other:
            assert other.invoke("talks", b"9")[0] is None
        error, result = raw.wait(waiting)
        assert error is None
        assert "said 9" in result["text"]


def test_code_of_others_is_not_had_by_its_hash(served, raw):
    error, _ = raw.call(
        "functions.deploy", {"name": "thief", "code_sha256": "0" * 64, "code_kind": "zip", "handler": "app.handler"}
    )
    assert error["type"] == "NotFound"


def shells(service, runtime):
    """(wanted, there)"""
    found = {}
    for line in service.get("/metrics")[1].splitlines():
        name, _, value = line.rpartition(" ")
        if name.endswith(f'{{runtime="{runtime}"}}'):
            found[name.partition("{")[0]] = float(value)
    return found["scheduler_shells_target"], found["scheduler_shells_ready"]


@pytest.mark.slow
def test_a_runtime_starts_when_a_function_uses_it_and_is_warm_at_the_next_start(tmp_path):
    other = next((name for name in find_runtimes(prefer_public=ISOLATION == "process") if name != RUNTIME), None)
    if other is None:
        pytest.skip("this machine has one Python that is served")
    with Served(tmp_path / "state", shells_ahead=1) as service:
        before = descendants(service.process.pid)
        assert shells(service, RUNTIME) == (1, 1)
        assert shells(service, other) == (0, 0)
        service.deploy("f", "import sys\ndef handler(event, context):\n    return sys.version_info[:2]\n", runtime=other)
        assert service.get("/readyz")[0] == 200
        assert shells(service, other)[0] >= 1, "it was started before the deployment was acknowledged"
        with service.raw() as raw:
            error, result = raw.invoke("f")
            assert (error, other) == (None, "python" + ".".join(map(str, json.loads(result[0]))))
        assert len(descendants(service.process.pid)) > len(before)
        assert service.stop() == 0
        service.start()
        assert shells(service, other) == (1, 1), "ready means: for every function that is deployed"


@pytest.mark.skipif(ISOLATION == "process", reason="without mounts the directory is looked for by the sandbox itself")
def test_code_that_vanished_from_the_disk_is_told_and_costs_nobody_else(served, raw):
    """START was handed over before the launcher found that out: the call must not wait for its init's time."""
    served.deploy("vanished", "def handler(event, context):\n    return 'never here before'\n")
    for task in served.state_dir.glob("code/**/task"):
        if "never here before" in "".join(path.read_text() for path in task.glob("*.py")):
            task.rename(task.with_name("elsewhere"))
    begun = time.monotonic()
    error, _ = raw.invoke("vanished")
    assert time.monotonic() - begun < 3
    assert error["type"] == "InitFailed"
    assert "no sandbox could be made" in error["message"]
    assert "code directory" in served.wait_line("sandboxes", 1)["text"]
    assert raw.invoke("echo", b"1")[1][0] == b"1"
