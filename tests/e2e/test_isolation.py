"""What every kind of isolation has to do alike: bare processes, and a service that is not root. The rest of the suite runs as
whoever runs it with the isolation this machine has (SCHEDULER_TEST_ISOLATION=process runs all of it with bare processes)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys

import pytest

from scheduler.sandboxes.runtimes import is_public
from tests.e2e.serving import (
    ROOT,
    USER,
    CannotServe,
    Served,
    alive,
    command_of_user,
    delegated_groups,
    descendants,
    public_directory,
    wait_until,
)
from tests.sandboxes.driver import public_runtime

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FUNCTION = """
import os, tempfile, time

def handler(event, context):
    print("got", event)
    match event:
        case {"sleep": seconds}:
            time.sleep(seconds)
        case {"raise": words}:
            raise ValueError(words)
        case {"exit": status}:
            os._exit(status)
        case {"hold": megabytes}:
            len([bytearray(1 << 20) for _ in range(megabytes)])
        case {"write": name}:
            open(tempfile.gettempdir() + "/" + name, "x").close()
    return [event, context.memory_limit_in_mb, os.getuid(), os.getpid()]
"""
AS_ROOT = os.geteuid() == 0


def why_not_as_user() -> str:
    """Why the service cannot be run as another user here, or ""."""
    runtime = public_runtime()
    if runtime is None or runtime.version[:2] != sys.version_info[:2]:
        return "no Python of this version here that every user may read"
    if AS_ROOT and shutil.which("setpriv") is None:
        return "setpriv is missing, so the service cannot be started as another user"
    return "" if is_public(str(ROOT / "scheduler")) else "the project's directory cannot be read by other users"


def start(directory, kind):
    uid = USER if AS_ROOT else os.geteuid()
    with delegated_groups(uid) as procs:
        settings = {"shells_ahead": 1, "isolation": "process" if kind.endswith("process") else "auto"}
        if kind.startswith("user"):
            if kind == "user" and AS_ROOT and len(procs) < 4:
                pytest.skip("control groups of version 1 that could be given to a user are not to be had here")
            os.chown(directory, uid, uid)
            settings["command"] = command_of_user(uid, public_runtime().executable, procs)
        service = Served(directory / "state", **settings)
        try:
            service.start()
        except CannotServe as error:
            if kind == "user" and any(word in str(error) for word in ("namespace", "control group")):
                pytest.skip(f"this machine gives normal users no isolation: {error}")
            raise
        try:
            service.deploy("probe", FUNCTION, timeout_s=1, memory_mb=128)
            yield service
        finally:
            if service.process.poll() is None:
                assert service.stop() == 0


@pytest.fixture(scope="module", params=["process", "user", "user process"])
def probed(request):
    if request.param.startswith("user") and why_not_as_user():
        pytest.skip(why_not_as_user())
    with public_directory() as directory:
        yield from start(directory, request.param)


@pytest.fixture
def raw(probed):
    with probed.raw() as client:
        yield client


def test_it_answers_with_the_function_s_own_words(probed, raw):
    error, (payload, report) = raw.invoke("probe", b'{"a": 1}', report=True)
    assert error is None
    assert payload.startswith(b'[{"a": 1}, "128", ')
    assert report["run_us"] > 0
    error, _ = raw.invoke("probe", b'{"raise": "no"}')
    assert (error["type"], json.loads(error["payload"])["errorType"]) == ("FunctionError", "ValueError")


def test_it_is_not_who_serves(probed, raw):
    """Where there is a choice, a sandbox is a user of its own."""
    uid = int(raw.invoke("probe", b"0")[1][0].rsplit(b",", 2)[1])
    own = os.stat(f"/proc/{probed.process.pid}").st_uid
    assert uid != 0
    if own == 0:
        assert uid >= 300_000


def test_a_timeout_ends_it_and_the_next_call_runs(probed, raw):
    error, _ = raw.invoke("probe", b'{"sleep": 30}')
    assert error["type"] == "Timeout"
    assert raw.invoke("probe", b"1")[0] is None


def test_an_exit_is_told_with_its_status(probed, raw):
    error, _ = raw.invoke("probe", b'{"exit": 7}')
    assert (error["type"], error["reason"]) == ("SandboxDied", "exit")
    assert "7" in error["message"]
    assert raw.invoke("probe", b"1")[0] is None


def test_memory_is_bounded(probed, raw):
    probed.deploy("greedy", FUNCTION, timeout_s=60, memory_mb=128)
    error, _ = raw.invoke("greedy", b'{"hold": 512}')
    assert error["type"] in ("SandboxDied", "FunctionError"), error
    assert error.get("reason") == "oom" or json.loads(error["payload"])["errorType"] == "MemoryError"
    assert raw.invoke("greedy", b"1")[0] is None


def test_output_reaches_the_log(probed, raw):
    _, (_, report) = raw.invoke("probe", b'{"mark": 4711}', report=True)
    wanted = f"RequestId: {report['request_id']}"
    wait_until(lambda: wanted in raw.call("functions.logs", {"name": "probe"})[1]["text"], 5, "the report line is there")
    assert "got {'mark': 4711}" in raw.call("functions.logs", {"name": "probe"})[1]["text"]


def test_a_sandbox_begins_with_empty_hands(probed, raw):
    """What the last one wrote is gone with it."""
    for _ in range(2):
        error, _ = raw.invoke("probe", b'{"write": "mark"}')
        assert error is None, error["payload"]
        raw.invoke("probe", b'{"exit": 0}')


def test_killed_it_leaves_nothing_and_starts_again(probed):
    """The last test here: it ends the service that the others share, and starts another on the same state."""
    with probed.raw() as raw:
        assert raw.invoke("probe", b"1")[0] is None
        family = descendants(probed.process.pid)
        os.kill(probed.process.pid, signal.SIGKILL)
        assert raw.receive() is None
    probed.process.wait()
    probed.process.stderr.close()
    wait_until(lambda: not any(alive(pid) for pid in family), 3, "no process is left")
    probed.start()
    with probed.raw() as raw:
        assert raw.invoke("probe", b"2")[0] is None
