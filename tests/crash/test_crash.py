"""kill -9 of each part, at rest and at work: nothing is left, nothing acknowledged is lost, calls go on."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.load import Callers
from tests.e2e.serving import CannotServe, Served, alive, descendants, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ECHO = "def handler(event, context):\n    return event\n"
SLEEP = "import time\ndef handler(event, context):\n    time.sleep(event)\n    return 'slept'\n"


@pytest.fixture
def served(tmp_path):
    service = Served(tmp_path / "state", shells_ahead=2)
    try:
        service.start()
    except CannotServe as error:
        if "isolat" in str(error) or "namespace" in str(error):
            pytest.skip(f"this machine cannot isolate: {error}")
        raise
    yield service
    if service.process.poll() is None:
        assert service.stop() == 0


def launchers(served) -> list[int]:
    return [
        pid for pid in descendants(served.process.pid) if pid != served.process.pid and "scheduler-launcher" in cmdline(pid)
    ]


def cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text().splitlines()


def cgroups_of(pids: set[int]) -> set[str]:
    """Directories of the groups that these processes are in, whatever the version."""
    found = set()
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            _, controllers, path = line.split(":", 2)
            root = Path("/sys/fs/cgroup") / controllers if controllers else Path("/sys/fs/cgroup")
            if path != "/":
                found.add(str(root) + path)
    return found


def own_cgroups() -> set[str]:
    return cgroups_of({os.getpid()})


def test_a_killed_sandbox_is_reported_reaped_and_replaced(served):
    served.deploy("sleep", SLEEP, timeout_s=20)
    with served.raw() as raw:
        assert raw.invoke("sleep", b"0")[0] is None
        (sandbox,) = served.sandboxes("sleep")
        running = raw.send("invoke", "sleep", b"10")
        wait_until(lambda: '"executing": 1' in served.get("/debug/stats")[1], 5, "it runs")
        begun = time.monotonic()
        os.kill(sandbox["pid"], signal.SIGKILL)
        error, _ = raw.wait(running)
        assert (error["type"], error["reason"]) == ("SandboxDied", "signal")
        assert time.monotonic() - begun < 1
        assert raw.invoke("sleep", b"0")[0] is None
        assert sandbox["sandbox"] not in {s["sandbox"] for s in served.sandboxes("sleep")}


def test_sandboxes_killed_at_random_cost_their_own_call_at_most(served):
    served.deploy("echo", ECHO)
    with Callers(served.socket, "echo", b"1", count=2, in_flight=8, allowed={"SandboxDied"}) as callers:
        wait_until(lambda: len(callers.answers) > 100, 10, "calls run")
        for _ in range(10):
            for sandbox in served.sandboxes("echo"):
                if sandbox["state"] == "running" and alive(sandbox["pid"]):  # one that loads is a start that failed
                    os.kill(sandbox["pid"], signal.SIGKILL)
            seen = len(callers.answers)
            wait_until(lambda seen=seen: len(callers.answers) > seen + 50, 10, "calls go on")
    callers.check(least=500)
    text = served.get("/metrics")[1]
    died = next(line for line in text.splitlines() if 'outcome="sandbox_died"' in line and 'function="echo"' in line)
    assert float(died.rpartition(" ")[2]) <= 40, "only the call that ran may fail: those behind it run elsewhere"


def test_a_killed_launcher_is_replaced_and_the_service_goes_on(served):
    served.deploy("echo", ECHO)
    served.deploy("sleep", SLEEP, timeout_s=20)
    with served.raw() as raw:
        assert raw.invoke("echo", b"1")[0] is None
        running = raw.send("invoke", "sleep", b"10")
        wait_until(lambda: any(s["state"] == "running" for s in served.sandboxes("sleep")), 5, "it runs")
        before = descendants(served.process.pid) - {served.process.pid}
        victims = launchers(served)
        assert victims
        begun = time.monotonic()
        for pid in victims:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        error, _ = raw.wait(running)
        assert error["type"] == "SandboxDied"
        wait_until(lambda: not any(alive(pid) for pid in before), 3, "everything of the old launcher is gone")
        error, _ = raw.invoke("echo", b"1", deadline_ms=5000)
        while error is not None and time.monotonic() - begun < 5:
            error, _ = raw.invoke("echo", b"1")
        assert error is None, error
        assert time.monotonic() - begun < 3
        assert "scheduler_launcher_restarts_total 1.0" in served.get("/metrics")[1]
        served.wait_line("sandboxes", 1)


def test_a_killed_service_leaves_nothing_and_starts_again_within_two_seconds(served):
    served.deploy("echo", ECHO)
    served.deploy("sleep", SLEEP, timeout_s=20)
    mounted = mounts()
    took_s = []
    groups = set()
    while not took_s or (min(took_s) >= 2.0 and len(took_s) < 3):  # the bound is the service's, not of a machine at its limit
        with served.raw() as raw:
            assert raw.invoke("echo", b"1")[0] is None
            raw.send("invoke", "sleep", b"15")
            wait_until(lambda: any(s["state"] == "running" for s in served.sandboxes("sleep")), 5, "it runs")
            family = descendants(served.process.pid)
            assert len(family) > 4
            groups |= cgroups_of(family) - own_cgroups()
            served.kill()
            assert raw.receive() is None
        wait_until(lambda family=family: not any(alive(pid) for pid in family), 3, "no process is left")
        assert mounts() == mounted
        begun = time.monotonic()
        served.start()
        with served.raw() as raw:
            error, result = raw.invoke("echo", b"2")
            assert (error, result[0]) == (None, b"2")
        took_s.append(time.monotonic() - begun)
    assert min(took_s) < 2.0
    assert served.stop() == 0
    assert not os.path.exists(served.socket)
    assert not any(Path(group).exists() for group in groups), "a start cleans what a crash left, an end what it made"


def test_a_second_service_on_the_same_state_is_refused(served, tmp_path):
    second = Served(tmp_path / "state", socket=tmp_path / "other")
    with pytest.raises(CannotServe, match=rf"in use by the service with pid {served.process.pid}"):
        second.start()


def test_acknowledged_deployments_survive_a_kill_at_any_moment(served):
    """Deployments one after the other; the service is killed in the middle of it. What was acknowledged is there."""
    acknowledged = []

    def deploy():
        for n in range(200):
            try:
                served.deploy(f"f{n}", f"def handler(event, context):\n    return {n}\n")
            except Exception:  # the service was killed: whatever the client calls that
                return
            acknowledged.append(n)

    thread = threading.Thread(target=deploy)
    thread.start()
    wait_until(lambda: len(acknowledged) >= 15, 20, "some are deployed")
    served.kill()
    thread.join(10)
    count = len(acknowledged)
    assert 15 <= count < 200
    served.start()
    with served.client() as client, served.raw() as raw:
        names = {function.name for function in client.list()}
        assert {f"f{n}" for n in range(count)} <= names
        for n in (0, count // 2, count - 1):
            assert raw.invoke(f"f{n}")[1][0] == str(n).encode()


def test_sigterm_waits_for_what_runs_and_a_second_one_does_not(tmp_path):
    with Served(tmp_path / "state", shells_ahead=1, drain_grace_ms=20_000) as service:
        service.deploy("sleep", SLEEP, timeout_s=30)
        with service.raw() as raw:
            assert raw.invoke("sleep", b"0")[0] is None
            running = raw.send("invoke", "sleep", b"0.5")
            wait_until(lambda: '"executing": 1' in service.get("/debug/stats")[1], 5, "it runs")
            service.process.send_signal(signal.SIGTERM)
            assert raw.wait(running)[1][0] == b'"slept"'
            assert service.wait() == 0
        service.start()
        with service.raw() as raw:
            raw.send("invoke", "sleep", b"25")
            wait_until(lambda: '"executing": 1' in service.get("/debug/stats")[1], 5, "it runs")
            family = descendants(service.process.pid)
            service.process.send_signal(signal.SIGTERM)
            service.wait_line("draining", 5)
            begun = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            service.wait()
            assert time.monotonic() - begun < 5
        wait_until(lambda: not any(alive(pid) for pid in family), 3, "no process is left")


def test_a_call_that_outlives_the_grace_is_told(tmp_path):
    with Served(tmp_path / "state", shells_ahead=1, drain_grace_ms=300) as service:
        service.deploy("sleep", SLEEP, timeout_s=30)
        with service.raw() as raw:
            assert raw.invoke("sleep", b"0")[0] is None
            running = raw.send("invoke", "sleep", b"25")
            wait_until(lambda: '"executing": 1' in service.get("/debug/stats")[1], 5, "it runs")
            begun = time.monotonic()
            service.process.send_signal(signal.SIGTERM)
            error, _ = raw.wait(running)
            assert error["type"] in ("SandboxDied", "Unavailable")
            assert service.wait() == 0
            assert time.monotonic() - begun < 4
