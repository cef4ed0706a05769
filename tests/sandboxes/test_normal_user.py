"""Without root: namespaces below a user namespace, or bare processes where the operator says so. The launcher runs as a user
who is nobody else; the test itself runs as root to be able to become one, or as whoever runs it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace

import pytest
import trio

from scheduler.sandboxes.launcher import EXECUTABLE, Cause, Isolation, LauncherConfig, LaunchFailed, Limit, open_launcher
from tests.sandboxes.driver import (
    IS_ROOT,
    OTHERS,
    PATIENCE_S,
    Raised,
    below,
    children,
    gone,
    launched,
    public_directory,
    public_runtime,
)

USER = 64_321  # a uid that nobody has


def reason_to_skip() -> str:
    if public_runtime() is None:
        return "no Python here that every user may read"
    if IS_ROOT and shutil.which("setpriv") is None:
        return "setpriv is missing, so the launcher cannot be started as another user"
    if any(not parent.stat().st_mode & 0o001 for parent in EXECUTABLE.parents):
        return "the launcher's directory cannot be read by other users"
    return ""


def as_user(*, forbid_namespaces: bool = False) -> tuple[str, ...]:
    """The launcher's command as that user; with forbid_namespaces below a user namespace in which no other may be made."""
    command: tuple[str, ...] = (str(EXECUTABLE),)
    if forbid_namespaces:
        script = 'echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
        command = ("unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", script, "sh", *command)
    if IS_ROOT:
        command = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *command)
    return command


def runs(command: tuple[str, ...]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def namespaces_refused() -> bool:
    """This machine lets normal users have no user namespaces."""
    command = ("unshare", "--user", "--map-root-user", "true")
    if IS_ROOT:
        command = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", *command)
    return not runs(command)


pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-")]
namespaced = pytest.mark.skipif(namespaces_refused(), reason="this machine refuses user namespaces to normal users")


def gone_directory(path: str) -> bool:
    return not os.path.exists(path)


def configuration(**changes: object) -> LauncherConfig:
    return LauncherConfig(**{"slots": 8, "require_limits": False, "command": as_user(), **changes})  # type: ignore[arg-type]


@namespaced
async def test_same_jail_without_root() -> None:
    runtime = public_runtime()
    assert runtime is not None
    with public_directory() as directory:
        async with launched(directory, configuration(), [runtime]) as made:
            assert made.launcher.isolation is Isolation.USER
            sandbox, neighbour = await made.sandbox(), await made.sandbox()
            status = await sandbox.run("result = open('/proc/self/status').read()")
            for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                assert f"{name}:\t0000000000000000" in status
            assert "NoNewPrivs:\t1" in status
            assert "Seccomp:\t2" in status
            assert await sandbox.run("import os; result = [os.getuid(), os.getppid(), os.getgroups()]") == [1000, 1, []]
            assert await sandbox.run(OTHERS) == [1]
            assert await sandbox.run(f"import os; result = os.path.exists({str(EXECUTABLE)!r})") is False
            await sandbox.run("open('/tmp/mark', 'w').close()")
            assert await neighbour.run("import os; result = os.listdir('/tmp')") == []
            for code, refusal in (
                ("open('/var/task/new', 'w')", "Read-only file system"),
                ("import os; os.setuid(0)", "Invalid argument|not permitted"),
                ("import os; os.readlink('/proc/1/fd/5')", "Permission denied"),
                ("import os; os.listdir('/proc/1/root/')", "Permission denied"),
                ("open('/proc/1/mem', 'rb+').read(1)", "Permission denied"),
                ("import socket; socket.create_connection(('192.0.2.1', 80), 5)", "unreachable"),
            ):
                with pytest.raises(Raised, match=refusal):
                    await sandbox.run(code)
            code = (
                "import ctypes, os; l = ctypes.CDLL(None, use_errno=True); result = [l.unshare(0x10000000), ctypes.get_errno()]"
            )
            answer, number = await sandbox.run(code)
            assert answer == -1, f"a further user namespace would give privileges inside it: {os.strerror(number)}"
            assert (await sandbox.end()).cause is Cause.KILLED
            neighbour.send("import os; os.abort()")
            assert (await neighbour.exited()).cause is Cause.SIGNAL


@namespaced
async def test_processes_are_bounded_without_control_groups() -> None:
    runtime = public_runtime()
    assert runtime is not None
    with public_directory() as directory:
        async with launched(directory, configuration(pids_max=40), [runtime]) as made:
            sandbox, neighbour = await made.sandbox(), await made.sandbox()
            bomb = """
            import os, signal
            made = 0
            try:
                while made < 200:
                    if os.fork() == 0:
                        signal.pause()
                    made += 1
            except OSError:
                pass
            result = made
            """
            assert await sandbox.run(bomb) < 40
            assert await neighbour.run("import os; result = os.system('true')") == 0, "each counts for itself"


@namespaced
async def test_what_a_user_has_once_is_not_taken_by_one_sandbox() -> None:
    """Instances of inotify are 128 a user."""
    runtime = public_runtime()
    assert runtime is not None
    take = """
    import ctypes, os
    libc = ctypes.CDLL(None)
    held = []
    while len(held) < 200 and (fd := libc.inotify_init()) >= 0:
        held.append(fd)
    result = len(held)
    """
    with public_directory() as directory:
        async with launched(directory, configuration(), [runtime]) as made:
            sandbox, neighbour = await made.sandbox(), await made.sandbox()
            assert await sandbox.run(take) == 16
            assert await neighbour.run(take) == 16


@namespaced
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is missing")
async def test_few_descriptors_mean_few_slots_and_that_is_said() -> None:
    runtime = public_runtime()
    assert runtime is not None
    warnings: list[str] = []
    command = ("prlimit", "--nofile=262:262", *as_user())
    with public_directory() as directory:
        config = configuration(slots=50, command=command)
        async with launched(directory, config, [runtime], warnings=warnings) as made:
            for _ in range(2):
                await made.shell()
            with pytest.raises(LaunchFailed, match="slots"):
                await made.shell()
            assert any("room for 2 sandboxes at once, not 50" in text for text in warnings)


@namespaced
async def test_memory_is_bounded_without_control_groups() -> None:
    runtime = public_runtime()
    assert runtime is not None
    with public_directory() as directory:
        async with launched(directory, configuration(), [runtime]) as made:
            sandbox = await made.sandbox(memory_mb=64)
            with pytest.raises(Raised, match="MemoryError"):
                await sandbox.run("held = [bytearray(1 << 20) for _ in range(1024)]")


@namespaced
async def test_limits_are_required_by_default() -> None:
    runtime = public_runtime()
    assert runtime is not None
    launched_with = configuration(require_limits=None)
    async with open_launcher(replace(launched_with, require_limits=False), [runtime]) as launcher:
        missing = {Limit.MEMORY, Limit.PIDS, Limit.CPU} - launcher.limits
    if not missing:
        pytest.skip("this user has been given control groups of its own")
    with pytest.raises(LaunchFailed, match="memory") as failure:
        async with open_launcher(launched_with, [runtime]):
            pass
    assert failure.value.step == "limits"


@namespaced
async def test_death_of_the_launcher_is_the_end_of_all() -> None:
    runtime = public_runtime()
    assert runtime is not None
    with public_directory() as directory:
        async with launched(directory, configuration(), [runtime]) as made:
            await made.sandbox()
            everything = below(made.launcher.pid)
            (inner,) = children(made.launcher.pid)
            os.kill(inner, 9)
            with trio.fail_after(PATIENCE_S):
                await made.launcher.wait_dead()
            assert [pid for pid in everything if not gone(pid)] == []


async def test_refused_user_namespaces_mean_no_start() -> None:
    runtime = public_runtime()
    assert runtime is not None
    command = as_user(forbid_namespaces=not namespaces_refused())
    if not runs((*command[:-1], "true")):
        pytest.skip("cannot make a place here in which user namespaces are refused")
    with pytest.raises(LaunchFailed, match=r"isolation=process") as failure:
        async with open_launcher(configuration(command=command), [runtime]):
            pass
    assert failure.value.step == "user namespace"
    assert failure.value.errno_name in ("EPERM", "ENOSPC", "EACCES")


async def test_process_isolation_works_and_is_said_loudly() -> None:
    runtime = public_runtime()
    assert runtime is not None
    warnings: list[str] = []
    with public_directory() as directory:
        async with launched(directory, configuration(isolation="process"), [runtime], warnings=warnings) as made:
            assert made.launcher.isolation is Isolation.PROCESS
            assert any("not protected" in text for text in warnings)
            sandbox = await made.sandbox()
            private = await sandbox.run("import os, tempfile; result = [tempfile.gettempdir(), os.getcwd()]")
            assert private[0].endswith("/s0000")
            assert os.stat(private[0]).st_mode & 0o777 == 0o700
            status = await sandbox.run("result = open('/proc/self/status').read()")
            assert "NoNewPrivs:\t1" in status
            assert "Seccomp:\t2" in status
            assert "CapEff:\t0000000000000000" in status
            code = "import resource as r; result = [r.getrlimit(key)[1] for key in (r.RLIMIT_CORE, r.RLIMIT_NOFILE)]"
            assert await sandbox.run(code) == [1, 1024]
            await sandbox.run(
                """
                import os, signal, tempfile
                open(tempfile.gettempdir() + "/left", "w").close()
                if os.fork() == 0:
                    os.setsid()
                    signal.pause()
                """
            )
            (inner,) = children(made.launcher.pid)
            assert len(below(inner)) == 3  # zygote, sandbox, its child
            assert (await sandbox.end()).cause is Cause.KILLED
            with trio.fail_after(PATIENCE_S):
                while len(below(inner)) > 1:  # noqa: ASYNC110 - no event tells of another process' end
                    await trio.sleep(0.002)
            again = await made.sandbox()
            assert await again.run("import os, tempfile; result = os.listdir(tempfile.gettempdir())") == []
        assert gone_directory(private[0])


LITTER = """
import os, tempfile
top = tempfile.gettempdir()
os.chdir(top)
os.symlink("TARGET", "link")
os.mkdir("shut")
os.mkdir("shut/inner")
open("shut/inner/file", "w").close()
os.chmod("shut/inner", 0)
os.chmod("shut", 0)
for name in (".0", ".1"):
    os.mkdir(name)
    open(name + "/file", "w").close()
for _ in range(300):
    os.mkdir("deep" * 10)
    os.chdir("deep" * 10)
os.symlink("TARGET", "link")
os.chdir("/")
"""


@pytest.mark.parametrize("as_root", [pytest.param(True, marks=pytest.mark.skipif(not IS_ROOT, reason="needs root")), False])
async def test_a_slot_is_emptied_whatever_its_occupant_left(as_root: bool) -> None:
    """Deeper than a path can be long, shut to its owner, links to what is not the sandbox's."""
    runtime = public_runtime()
    assert runtime is not None
    with public_directory() as directory:
        kept = directory / "kept"
        kept.mkdir(mode=0o777)
        kept.chmod(0o777)
        (kept / "file").write_text("")
        config = configuration(isolation="process", slots=1)
        if as_root:
            config = replace(config, command=LauncherConfig().command)
        async with launched(directory, config, [runtime], warnings=[]) as made:
            sandbox = await made.sandbox()
            private = await sandbox.run(LITTER.replace("TARGET", str(kept)) + "result = top")
            await sandbox.end()
            again = await made.sandbox()
            assert await again.run("import os, tempfile; result = os.listdir(tempfile.gettempdir())") == []
            await again.run(LITTER.replace("TARGET", str(kept)))
        assert gone_directory(os.path.dirname(private)), "the end removes it too"
        assert os.listdir(kept) == ["file"]
