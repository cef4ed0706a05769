"""A service that root started and that became a normal user: it does all that it did, and root is in the launcher alone."""

from __future__ import annotations

import contextlib
import os
import select
import site
import sys

import pytest

from scheduler.errors import SchedulerError
from scheduler.sandboxes.launcher import EXECUTABLE, LauncherConfig, LaunchFailed, Specialisation, open_launcher, open_starter
from tests.e2e.serving import ROOT, CannotServe, Served, alive, descendants, public_directory, wait_until
from tests.sandboxes.driver import IS_ROOT, own_runtime, public_runtime, write_function

USER = "nobody"


def python() -> str | None:
    """An interpreter like ours that every user may read; or our own."""
    runtime = public_runtime()
    return runtime.executable if runtime is not None and runtime.version[:2] == sys.version_info[:2] else None


def reason_to_skip() -> str:
    if not IS_ROOT:
        return "needs root, to give it up"
    if python() is None:
        return "no Python here that every user may read"
    if any(not parent.stat().st_mode & 0o001 for parent in EXECUTABLE.parents):
        return "this directory cannot be read by other users"
    return ""


pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-"),
]


def service(directory, **settings) -> Served:
    packages = os.pathsep.join([str(ROOT), *site.getsitepackages()])
    command = ("env", f"PYTHONPATH={packages}", str(python()), "-B", "-m", "scheduler")
    return Served(directory / "state", command=command, isolation="auto", user=USER, **settings)


@pytest.fixture
def directory():
    with public_directory() as made:
        yield made


def status_of(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def test_it_is_a_normal_user_and_works(directory):
    with service(directory) as served:
        served.deploy("echo", "def handler(event, context):\n    return event\n")
        with served.raw() as raw:
            assert raw.invoke("echo", b"1")[0] is None
        status = status_of(served.process.pid)
        uid = os.stat(served.socket).st_uid
        assert set(status["Uid"].split()) == {str(uid)} != {"0"}
        assert {status[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
        roots = {"runtimes.json", "scratch", "sources", "echo.py"}  # what root believes; and this test's own
        owners = {path.stat().st_uid for path in served.state_dir.rglob("*") if path.name not in roots}
        assert owners == {uid}
        assert served.stop() == 0


def test_a_launcher_that_dies_is_replaced_and_nothing_outlives_the_service(directory):
    with service(directory) as served:
        served.deploy("echo", "def handler(event, context):\n    return event\n")
        before = descendants(served.process.pid) - {served.process.pid}
        launcher = min(filter(is_supervisor, before))
        os.kill(launcher, 9)
        wait_until(lambda: not alive(launcher), 10, "the launcher is dead")

        def answers() -> bool:
            with served.raw() as raw:
                return raw.invoke("echo", b"1")[0] is None

        wait_until(answers, 20, "another launcher serves")
        everything = descendants(served.process.pid)
        assert any(is_supervisor(pid) for pid in everything - before)
        served.kill()
        wait_until(lambda: not any(map(alive, everything)), 20, "all have ended with the service")


def is_supervisor(pid: int) -> bool:
    """Of a launcher: started with arguments, by the starter."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().split(b"\0")
        return words[0].endswith(b"scheduler-launcher") and b"--service-pid" in words
    return False


def test_a_second_start_finds_all_that_the_first_left(directory):
    for _ in range(2):
        with service(directory) as served:
            with contextlib.suppress(SchedulerError):
                served.deploy("echo", "def handler(event, context):\n    return event\n")
            with served.raw() as raw:
                assert raw.invoke("echo", b"1")[0] is None


@pytest.mark.parametrize(("user", "text"), [("no-such-user", "is not in /etc/passwd"), ("root", "leave `user` out")])
def test_a_user_that_cannot_be_become_is_refused(directory, user, text):
    served = service(directory)
    served.settings["user"] = user
    with pytest.raises(CannotServe, match=text):
        served.start()


def test_root_without_a_user_is_said(directory):
    served = service(directory)
    del served.settings["user"]
    with served:
        assert any(line.get("event") == "root" and "--user" in line["text"] for line in served.drain_log())


async def test_the_starter_starts_what_it_was_told_first_and_nothing_else(directory):
    config = LauncherConfig(slots=2, require_limits=False)
    starter = open_starter(config, [own_runtime()])
    try:
        async with open_launcher(config, [own_runtime()], starter=starter) as launcher:
            shell = await launcher.shell(launcher.runtimes[0])
            shell.close()
        starter._tell(b"A/bin/sh\0")  # what a service in a stranger's hands would ask for
        with pytest.raises(LaunchFailed):
            starter.start()
    finally:
        starter.close()


async def test_there_is_one_launcher_at_a_time(directory):
    """Else a service in a stranger's hands fills the machine with them, and one uid is that of two sandboxes."""
    starter = open_starter(LauncherConfig(slots=2, require_limits=False), [own_runtime()])
    try:
        started = [starter.start() for _ in range(3)]
        ended = [bool(select.select([pidfd], [], [], 0)[0]) for _, _, pidfd in started]
        assert ended == [True, True, False]
        for sock, _, pidfd in started:
            sock.close()
            assert select.select([pidfd], [], [], 20)[0], "it has ended with its socket"
            os.close(pidfd)
    finally:
        starter.close()


async def test_code_comes_from_its_own_place_alone(directory):
    (directory / "root").mkdir()
    code = write_function(directory / "root")
    outside = write_function(directory / "elsewhere")
    links = directory / "root" / "links"
    links.symlink_to(outside)
    config = LauncherConfig(slots=8, require_limits=False, code_root=str(directory / "root"))
    async with open_launcher(config, [own_runtime()]) as launcher:

        async def tried(path: str, layers: str | None = None) -> str:
            shell = await launcher.shell(launcher.runtimes[0])
            try:
                await launcher.specialise(shell, Specialisation(path, 128, 16, layers))
            except LaunchFailed as failure:
                return failure.errno_name or ""
            finally:
                shell.close()
            return "attached"

        assert await tried(code) == "attached"
        assert await tried(outside) == "EXDEV"
        assert await tried(code, outside) == "EXDEV"
        assert await tried(f"{directory}/root/../elsewhere/code") == "EXDEV"
        assert await tried(str(links)) == "ELOOP"
        assert await tried(f"{directory}/rootless") == "EXDEV"
