"""Attempts to get out of a sandbox, made from inside by code that knows what it wants. Each must fail in the way the kernel
says no, not by luck: the expected error is part of the test.

One launcher and one sandbox serve all attempts that leave the sandbox alive; those that end or fill it have their own.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from scheduler.sandboxes.launcher import Cause, LauncherConfig
from tests.sandboxes.driver import IS_ROOT, OTHERS, PATIENCE_S, Raised, below, launched, text_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.sandboxes.driver import Launched, Running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups"),
]

HERE = Path(__file__).resolve()


@asynccontextmanager
async def jail(directory: Path) -> AsyncIterator[tuple[Launched, Running]]:
    async with launched(directory, LauncherConfig(slots=8, pids_max=64)) as made:
        yield made, await made.sandbox()


async def test_nothing_can_be_gained_by_exec(tmp_path: Path) -> None:
    async with jail(tmp_path) as (_, sandbox):
        status = await sandbox.run(
            """
            import subprocess
            result = subprocess.run(["/bin/sh", "-c", "cat /proc/self/status; id -u; su -c id </dev/null 2>&1; true"],
                                    capture_output=True, text=True).stdout
            """
        )
        assert "NoNewPrivs:\t1" in status
        assert "CapEff:\t0000000000000000" in status
        assert "CapBnd:\t0000000000000000" in status
        assert "uid=0" not in status


async def test_the_hosts_files_are_not_there(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("host only")
    secret.chmod(0o644)
    async with jail(tmp_path) as (_, sandbox):
        paths = [str(secret), str(HERE), "/etc/shadow", "/sys", "/boot", "/var/log", "/run/systemd", "/root/.ssh"]
        paths += [f"/proc/{pid}/root{HERE}" for pid in (1, 2)]
        assert await sandbox.run(f"import os; result = [p for p in {paths} if os.path.exists(p)]") == []
        listed = await sandbox.run("import os; result = sorted(os.listdir('/root') + os.listdir('/home') + os.listdir('/run'))")
        assert listed in ([], [".pyenv"]), "only what the interpreter needs"
        assert await sandbox.run("import os; result = os.path.realpath('/' + '../' * 40)") == "/"


async def test_the_environment_and_the_command_line_tell_nothing(tmp_path: Path) -> None:
    os.environ["SCHEDULER_TEST_SECRET"] = "of the service"
    try:
        async with jail(tmp_path) as (_, sandbox):
            seen = await sandbox.run(
                """
                import os
                result = [dict(os.environ), open("/proc/self/cmdline").read()]
                try:
                    result.append(open("/proc/self/environ").read())
                except OSError:
                    pass
                """
            )
    finally:
        del os.environ["SCHEDULER_TEST_SECRET"]
    assert "SCHEDULER_TEST_SECRET" not in str(seen)
    assert str(HERE.parents[2]) not in str(seen)


async def test_descriptors_are_those_of_the_channel_and_no_more(tmp_path: Path) -> None:
    async with jail(tmp_path) as (_, sandbox):
        held = await sandbox.run(
            """
            import os
            result = {}
            for name in os.listdir("/proc/self/fd"):
                try:
                    result[name] = os.readlink(f"/proc/self/fd/{name}")
                except FileNotFoundError:
                    pass
            """
        )
        kinds = sorted(target.split(":")[0] for target in held.values())
        # The runtime moves its channel; it stays one socket and one page.
        assert kinds == sorted(["/dev/null", "pipe", "pipe", "socket", "/memfd"])
        assert held["0"] == "/dev/null"
        assert held["1"] == held["2"]


async def test_sees_and_signals_no_other_process(tmp_path: Path) -> None:
    async with jail(tmp_path) as (made, sandbox):
        neighbour = await made.sandbox()
        assert await sandbox.run(OTHERS) == [1]
        for pid in (os.getpid(), neighbour.shell.pid, made.launcher.pid):
            with pytest.raises(Raised, match="No such process"):
                await sandbox.run(f"import os; os.kill({pid}, 9)")
        await sandbox.run("import os; [os.kill(1, number) for number in (9, 15, 2, 19)]")
        assert await neighbour.run("result = 1") == 1
        assert await sandbox.run("result = 2") == 2, "its own init cannot be killed from inside"


async def test_neighbours_have_different_users_and_share_no_place_to_write(tmp_path: Path) -> None:
    async with jail(tmp_path) as (made, sandbox):
        neighbour = await made.sandbox()
        assert await sandbox.run("import os; result = os.getuid()") != await neighbour.run("import os; result = os.getuid()")
        written = await sandbox.run(
            """
            import os
            result = []
            mounts = [line.split()[4] for line in open("/proc/self/mountinfo")]
            for where in {*mounts, *(f"{m}/{n}" for m in ("/", "/dev", "/var", "/etc") for n in os.listdir(m))}:
                try:
                    open(os.path.join(where, "mark"), "w").close()
                    result.append(os.path.realpath(where))
                except OSError:
                    pass
            result = sorted(set(result))
            """
        )
        assert written == ["/dev/shm", "/tmp"]
        assert await neighbour.run("import os; result = os.listdir('/tmp') + os.listdir('/dev/shm')") == []


async def test_no_way_to_the_hosts_network(tmp_path: Path) -> None:
    async with jail(tmp_path) as (_, sandbox):
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
            abstract.bind(f"\0scheduler-test-{os.getpid()}")
            abstract.listen()
            port = listener.getsockname()[1]
            with pytest.raises(Raised, match="refused"):
                await sandbox.run(f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)")
            name = f"\\0scheduler-test-{os.getpid()}"
            with pytest.raises(Raised, match="refused"):
                await sandbox.run(f"import socket; socket.socket(socket.AF_UNIX).connect('{name}')")
        assert await sandbox.run("import socket; result = [name for _, name in socket.if_nameindex()]") == ["lo"]
        loop = "import socket as s; own = s.create_server(('127.0.0.1', 0)); s.create_connection(own.getsockname()); result = 1"
        assert await sandbox.run(loop) == 1, "its own loopback works"


async def test_proc_tells_nothing_of_the_host(tmp_path: Path) -> None:
    """Beside the files of the table of attempts: no name of our groups, no mount of the host's control groups."""
    async with jail(tmp_path) as (_, sandbox):
        assert "scheduler-" not in await sandbox.run("result = open('/proc/self/cgroup').read()")
        assert "/sys/fs/cgroup" not in await sandbox.run("result = open('/proc/self/mountinfo').read()")


async def test_own_limits_cannot_be_seen_as_files_to_change(tmp_path: Path) -> None:
    async with jail(tmp_path) as (_, sandbox):
        assert await sandbox.run("import resource as r; result = r.getrlimit(r.RLIMIT_CORE)") == [1, 1]
        assert await sandbox.run("import resource as r; result = r.getrlimit(r.RLIMIT_NOFILE)") == [1024, 1024]
        with pytest.raises(Raised, match="Too many open files"):
            await sandbox.run("import os; held = [os.open('/dev/null', 0) for _ in range(2000)]")


# ---- bombs ----

FORK_BOMB = """
import os
def burst():
    while True:
        try:
            if os.fork() == 0:
                continue
        except OSError:
            pass
burst()
"""


async def test_fork_bomb_is_bounded_and_ends(tmp_path: Path) -> None:
    async with jail(tmp_path) as (made, sandbox):
        neighbour = await made.sandbox()
        sandbox.send(FORK_BOMB)
        most = 0
        with trio.fail_after(PATIENCE_S):
            while most < 50:  # the bound is 64, of which threads and forks that fail take some
                most = max(most, len(below(sandbox.shell.pid)))
                assert await neighbour.run("result = 1") == 1, "the others never notice"
        assert most < 64
        assert (await sandbox.end()).cause is Cause.KILLED
        (inner,) = below(made.launcher.pid)[:1]
        assert len(below(inner)) == 3, "the zygote, and the neighbour's init and worker"


async def test_thread_bomb_is_bounded(tmp_path: Path) -> None:
    async with jail(tmp_path) as (_, sandbox):
        made = await sandbox.run(
            """
            import threading
            stop, threads = threading.Event(), []
            try:
                for _ in range(200):
                    threads.append(threading.Thread(target=stop.wait))
                    threads[-1].start()
            except RuntimeError:
                threads.pop()
            stop.set()
            for thread in threads:
                thread.join()
            result = len(threads)
            """
        )
        assert 40 <= made < 64


async def test_memory_bomb_in_a_child_is_bounded_too(tmp_path: Path) -> None:
    async with jail(tmp_path) as (made, sandbox):
        neighbour = await made.sandbox()
        code = """
        import os
        if os.fork() == 0:
            held = [bytearray(1 << 20) for _ in range(4096)]
            os._exit(0)
        result = os.wait()[1]
        """
        try:
            assert await sandbox.run(code) == 9, "the child was killed"
        except EOFError:  # the kernel chose, or takes, the whole sandbox
            assert (await sandbox.exited()).cause is Cause.OOM
        assert await neighbour.run("result = 1") == 1


async def test_full_tmp_is_an_error_for_the_function_alone(tmp_path: Path) -> None:
    async with launched(tmp_path, LauncherConfig(slots=4)) as made:
        sandbox = await made.sandbox(ephemeral_storage_mb=16)
        with pytest.raises(Raised, match="No space left on device"):
            await sandbox.run("open('/tmp/big', 'wb').write(bytes(32 << 20))")
        with pytest.raises(Raised, match="No space left on device"):
            await sandbox.run("import os; os.unlink('/tmp/big'); [open(f'/tmp/{n}', 'w').close() for n in range(5000)]")
        assert await (await made.sandbox()).run("open('/tmp/ok', 'w').write('x'); result = 1") == 1


async def test_memory_of_the_service_is_not_mapped(tmp_path: Path) -> None:
    """What a sandbox inherits is the runtime process' memory, which has never held anything of the service."""
    async with jail(tmp_path) as (_, sandbox):
        maps = await sandbox.run("result = open('/proc/self/maps').read()")
        assert "scheduler-launcher" not in maps
        assert "_core" not in maps
        assert sys.executable not in maps
    assert text_of("/proc/self/maps")
