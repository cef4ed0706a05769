"""The doctor: that it finds all in order where it is, and that each attempt has the other end where nothing protects."""

from __future__ import annotations

import inspect
import json
import os
import pwd
import subprocess
import sys

import pytest

from scheduler.config import load
from scheduler.sandboxes import attempts
from scheduler.sandboxes.doctor import Finding, Group, Verdict, diagnose, diagnose_service, is_safe
from scheduler.sandboxes.launcher import LauncherConfig
from scheduler.sandboxes.machine import service_user
from tests.sandboxes import networks
from tests.sandboxes.driver import IS_ROOT, public_runtime
from tests.sandboxes.networks import NOTHING_LEFT, PRIVATE, PUBLIC
from tests.sandboxes.test_normal_user import configuration, namespaced, reason_to_skip

pytestmark = pytest.mark.slow
public = pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-")
root = pytest.mark.skipif(not IS_ROOT, reason="as root everything can be had")


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    assert len({finding.name for finding in findings}) == len(findings)
    return {finding.name: finding for finding in findings}


@root
async def test_all_is_in_order_here() -> None:
    findings = await diagnose()
    wanting = [finding for finding in findings if not finding.ok and finding.name != "swap"]
    assert [finding for finding in wanting if finding.group is not Group.FEATURES] == []
    assert is_safe(findings)
    expected = {
        "runtimes", "kernel", "users of sandboxes", "control groups", "isolation", "namespaces", "host files", "host network",
        "code is read-only", "other processes", "other sandboxes", "shared memory", "/proc", "descriptors", "privileges",
        "system calls", "keyring", "clock", "priority", "core dumps", "uid of its own", "process limit", "open files",
        "size of /tmp", "encrypted /tmp", "memory limit", "memory peak", "CPU limit", "CPU time", "network outbound",
        "snapshots",
    }  # fmt: skip
    assert expected <= by_name(findings).keys()
    order = list(Group)
    assert [order.index(finding.group) for finding in findings] == sorted(order.index(finding.group) for finding in findings)


@public
async def test_where_nothing_isolates_each_attempt_gets_through() -> None:
    """Bare processes are the canary: an attempt that finds them in order would find everything in order."""
    runtime = public_runtime()
    assert runtime is not None
    before = set(os.listdir("/tmp")) | set(os.listdir("/dev/shm"))
    findings = await diagnose(configuration(isolation="process"), [runtime])
    after = set(os.listdir("/tmp")) | set(os.listdir("/dev/shm"))
    assert not [name for name in after - before if name.startswith(("left-", "scheduler-doctor"))], "what it made is gone"
    found = by_name(findings)
    for name in (
        "isolation",
        "namespaces",
        "host files",
        "other processes",
        "host network",
        "shared memory",
        "other sandboxes",
    ):
        assert found[name].verdict is Verdict.CANNOT, found[name]
        assert found[name].fix, found[name]
        assert found[name].enforced_by == "", "nothing does it"
    assert found["size of /tmp"].verdict is Verdict.CANNOT
    assert found["memory limit"].verdict is Verdict.WEAKER
    assert "Delegate" in found["memory limit"].fix
    assert found["network outbound"].verdict is Verdict.WEAKER
    for name in ("system calls", "privileges", "keyring"):
        assert found[name].ok, found[name]
    assert not is_safe(findings)


@public
@namespaced
async def test_a_normal_user_is_told_what_is_weaker_and_what_cannot_be_had() -> None:
    runtime = public_runtime()
    assert runtime is not None
    found = by_name(await diagnose(configuration(), [runtime]))
    assert found["isolation"].verdict is Verdict.WEAKER
    assert found["uid of its own"].verdict is Verdict.WEAKER
    for name in ("namespaces", "host files", "host network", "other sandboxes", "privileges", "/proc"):
        assert found[name].ok, found[name]
    outbound = found["network outbound"]
    assert outbound.verdict is Verdict.CANNOT
    assert "as root" in outbound.fix


async def test_a_launcher_that_cannot_start_is_a_finding() -> None:
    runtime = public_runtime()
    if runtime is None:
        pytest.skip("no Python here that every user may read")
    found = by_name(await diagnose(LauncherConfig(command=("/nowhere",)), [runtime]))
    assert found["isolation"].verdict is Verdict.CANNOT
    assert "make build" in found["isolation"].fix


async def test_no_runtime_is_a_finding() -> None:
    findings = await diagnose(LauncherConfig(), [])
    assert by_name(findings)["runtimes"].verdict is Verdict.CANNOT
    assert not is_safe(findings)


def test_only_protections_that_cannot_be_had_make_it_unsafe() -> None:
    def finding(group: Group, verdict: Verdict) -> Finding:
        return Finding(group, "x", verdict, "")

    assert is_safe([finding(Group.SIGHT, Verdict.OK), finding(Group.BOUNDS, Verdict.WEAKER)])
    assert is_safe([finding(Group.FEATURES, Verdict.CANNOT)])
    assert not is_safe([finding(Group.RIGHTS, Verdict.CANNOT)])


@root
@pytest.mark.skipif(bool(networks.MISSING), reason=f"needs {' and '.join(networks.MISSING)} to make a world")
async def test_a_network_is_tried_from_inside_and_nothing_is_left() -> None:
    with networks.world() as world:
        # Addresses of this machine are nobody's in that world, and somebody there has to say so.
        networks.write(world.internet, "/proc/sys/net/ipv4/ip_forward", "1")
        answering = by_name(await diagnose(world.config(network_servers=(PRIVATE,))))["network outbound"]
        assert answering.verdict is Verdict.OK
        assert f"{PRIVATE} was reached" in answering.detail
        networks.ip(world.host, f"route add unreachable {PUBLIC}/32")
        silent = by_name(await diagnose(world.config(network_servers=(PUBLIC,))))["network outbound"]
        assert silent.verdict is Verdict.WEAKER
        assert "firewall" in silent.fix
        assert world.left() == NOTHING_LEFT


# ---- attempts where nothing holds them ----


def bare(name: str, setup: str = "", **given: object) -> list[object]:
    """What the attempt answers in a process that nothing confines."""
    source = "from __future__ import annotations\n" + inspect.getsource(getattr(attempts, name))
    program = f"{source}\n{setup}\nimport json\nprint(json.dumps({name}(**{given!r})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert isinstance(answer, list)
    return answer


def test_a_descriptor_too_many_is_found() -> None:
    held, detail = bare("descriptors", "import os; kept = os.open('/etc/hostname', os.O_RDONLY)")
    assert held is False
    assert "/etc/hostname" in str(detail)
    held, detail = bare("descriptors", "import socket; kept = socket.socketpair()")
    assert held is False


def test_missing_bounds_are_found() -> None:
    raised = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))"
    if os.geteuid() == 0:
        assert bare("open_files", raised)[0] is False
        assert bare("priority")[0] is False


@root
@pytest.mark.skipif(bool(networks.MISSING), reason="needs the tools of util-linux")
def test_privileges_are_found() -> None:
    """In namespaces of its own, so that it is not this machine's name and /tmp that change."""
    program = f"""
import subprocess
subprocess.run(["mount", "-t", "tmpfs", "none", "/tmp"], check=True)
{inspect.getsource(attempts.privileges).replace(" -> Answer", "")}
print(privileges())
"""
    command = ["unshare", "--mount", "--uts", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for what in ("CapEff", "become root", "leave its root", "make a device", "name the host", "send raw packets"):
        assert what in done.stdout


# ---- the service's own user ----


@root
async def test_a_service_that_stays_root_is_told_and_one_with_a_user_is_tried() -> None:
    config = LauncherConfig()
    found = await service_user(load({}), config)
    assert found.verdict is Verdict.WEAKER
    assert "--user" in found.fix
    found = await service_user(load({"user": "nobody"}), config)
    assert found.verdict is Verdict.OK, found
    assert str(pwd.getpwnam("nobody").pw_uid) in found.detail
    found = await service_user(load({"user": "no-such-user"}), config)
    assert found.verdict is Verdict.CANNOT
    assert "no-such-user" in found.detail


@root
async def test_it_examines_a_service_with_a_user_of_its_own() -> None:
    """Its launcher takes code from the service's directory alone, which the doctor's function does not lie in."""
    found = by_name(await diagnose_service(load({"user": "nobody"})))
    assert found["host files"].ok
    assert found["user of the service"].ok
