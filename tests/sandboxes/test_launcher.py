"""The launcher's client against the real launcher: shells, sandboxes, their ends, and that nothing is left of them."""

from __future__ import annotations

import errno
import os
import re
import struct
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from scheduler.sandboxes import launcher as module
from scheduler.sandboxes import wire
from scheduler.sandboxes.launcher import (
    Cause,
    Isolation,
    LauncherConfig,
    LaunchFailed,
    Limit,
    Specialisation,
    open_launcher,
)
from tests.sandboxes.driver import (
    IS_ROOT,
    PATIENCE_S,
    below,
    children,
    groups_left,
    launched,
    own_runtime,
    runtimes,
    text_of,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups"),
]


PAGE_BYTES = 32_768  # docs/internals/channel.md


def open_descriptors() -> dict[str, str]:
    return {
        fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")
    }


# ---- the wire ----


def test_messages_are_laid_out_as_in_c() -> None:
    text = subprocess.run([str(module.EXECUTABLE), "--layout"], capture_output=True, text=True, check=True).stdout
    fields = re.findall(r"^field (\w+) (\w+) (\d+) (\d+)$", text, re.M)
    ours = []
    for name, layout in wire.LAYOUT.items():
        offset = 0
        for field, code in layout:
            size = struct.calcsize("<" + code)
            ours.append((name, field, str(offset), str(size)))
            offset += size
        assert f"size {name} {offset}" in text.splitlines()
    assert fields == ours


def test_constants_are_those_of_c() -> None:
    text = subprocess.run([str(module.EXECUTABLE), "--layout"], capture_output=True, text=True, check=True).stdout
    theirs = {name: int(value) for name, value in re.findall(r"^constant (\w+) (\d+)$", text, re.M)}
    ours = {
        f"{prefix}_{member.name}": member.value
        for prefix, kind in (
            ("REQUEST", wire.RequestKind),
            ("NOTICE", wire.NoticeKind),
            ("CAUSE", Cause),
            ("ISOLATION", Isolation),
            ("FLAG", Limit),
        )
        for member in kind
    }
    for name in ("VERSION", "TEXT_BYTES_MAX", "RUNTIMES_MAX", "SLOTS_MAX", "PORTS_MAX"):
        ours[f"PROTOCOL_{name}"] = getattr(wire, "PROTOCOL_VERSION" if name == "VERSION" else name)
    ours["REQUEST_OUTBOUND"] = wire.REQUEST_OUTBOUND
    ours["REQUEST_QUIET"] = wire.REQUEST_QUIET
    ours["REQUEST_EXEC"] = wire.REQUEST_EXEC
    ours["FLAG_SCRATCH"] = wire.FLAG_SCRATCH
    del theirs["PROTOCOL_STRINGS_MAX"]  # Python counts bytes, which bind first
    assert theirs == ours


def _request(**changes: int) -> bytes:
    values = {
        "kind": 0,
        "runtime": 0,
        "token": 0,
        "shell": 0,
        "memory_mb": 0,
        "ephemeral_storage_mb": 0,
        "strings": 0,
        "text_bytes": 0,
        "flags": 0,
        "words": 0,
    }
    return struct.pack("<IIQQIIIIII8x", *{**values, **changes}.values())


BROKEN = {
    "empty text, one string": _request(kind=2, strings=1),
    "short": _request(kind=2)[:55],
    "one byte": b"\x02",
    "longer than it says": _request(kind=2) + b"abc\0",
    "shorter than it says": _request(kind=2, strings=1, text_bytes=100) + b"abc\0",
    "unterminated": _request(kind=3, strings=1, text_bytes=3) + b"abc",
    "too many strings": _request(kind=1, strings=500, text_bytes=500) + bytes(500),
    "unknown kind": _request(kind=77),
    "runtime out of range": _request(kind=1, runtime=32, strings=3, text_bytes=6) + b"a\0b\0c\0",
    "runtime declared twice": _request(kind=1, strings=3, text_bytes=6) + b"a\0b\0c\0",
    "mount without a target": _request(kind=1, runtime=2, strings=4, text_bytes=8) + b"a\0b\0c\0d\0",
    "more words than strings": _request(kind=1, runtime=2, words=2, strings=4, text_bytes=8) + b"a\0b\0c\0d\0",
    "words beyond counting": _request(kind=1, runtime=2, words=0xFFFFFFFE, strings=5, text_bytes=10) + b"a\0b\0c\0d\0e\0",
    "too long": _request(kind=1, strings=1, text_bytes=20_000) + b"a" * 19_999 + b"\0",
}


async def test_broken_requests_are_told_and_change_nothing(tmp_path: Path) -> None:
    warnings: list[str] = []
    async with launched(tmp_path, warnings=warnings) as made:
        sandbox = await made.sandbox()
        for message in BROKEN.values():
            made.launcher._post(message)
        assert await (await made.sandbox()).run("result = 1") == 1
        assert await sandbox.run("result = 2") == 2
    assert len(warnings) == len(BROKEN)


@pytest.mark.parametrize(("memory_mb", "ephemeral_storage_mb"), [(0, 512), (128, 0), (2**31, 512), (128, 2**31)])
async def test_sizes_out_of_range_are_refused(tmp_path: Path, memory_mb: int, ephemeral_storage_mb: int) -> None:
    async with launched(tmp_path) as made:
        shell = await made.shell()
        with pytest.raises(LaunchFailed, match="request") as failure:
            await made.launcher.specialise(shell, Specialisation(made.code_dir, memory_mb, ephemeral_storage_mb))
        assert failure.value.errno_name == "EINVAL"


# ---- life ----


async def test_runs_code_in_every_runtime_of_this_machine(tmp_path: Path) -> None:
    async with launched(tmp_path, declared=runtimes().values()) as made:
        for name, runtime in runtimes().items():
            sandbox = await made.sandbox(runtime=name)
            assert await sandbox.run("import sys; result = list(sys.version_info[:3])") == list(runtime.version)
            assert (await sandbox.end()).cause is Cause.KILLED


AFTER_BIRTH = """
import multiprocessing, os, random, threading, time
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(4) as pool:
    sums = sorted(pool.map(lambda n: (time.sleep(0.001), n)[1], range(8)))
child = multiprocessing.get_context("fork").Process(target=os._exit, args=(7,))
child.start()
child.join()
main = threading.main_thread()
result = {
    "drawn": [random.random(), multiprocessing.current_process().authkey.hex()],
    "sums": sums,
    "child": child.exitcode,
    "main": main is threading.current_thread() and main.ident == threading.get_ident() and threading.active_count() == 1,
}
"""


async def test_python_is_whole_in_a_newborn_although_no_fork_hook_has_run(tmp_path: Path) -> None:
    """Of every runtime: threads, locks and forks work, and nothing that was drawn is a sibling's."""
    declared = list(runtimes().values())
    async with launched(tmp_path, declared=declared) as made:
        for runtime in declared:
            found = [await (await made.sandbox(runtime=runtime.name)).run(AFTER_BIRTH) for _ in range(2)]
            for one in found:
                assert one["sums"] == list(range(8))
                assert one["child"] == 7
                assert one["main"]
            assert all(one != other for one, other in zip(*(one["drawn"] for one in found), strict=True))


async def test_shell_has_what_the_engine_needs(tmp_path: Path) -> None:
    async with launched(tmp_path) as made:
        assert made.launcher.isolation is Isolation.ROOT
        assert made.launcher.limits == frozenset(Limit), made.launcher.why_limited
        sandbox = await made.sandbox()
        shell = sandbox.shell
        assert f"Pid:\t{shell.pid}\n" in text_of(f"/proc/self/fdinfo/{shell.pidfd}")
        assert not os.get_blocking(shell.channel_fd)
        assert not os.get_blocking(shell.output_fd)
        assert os.fstat(shell.progress_fd).st_size == PAGE_BYTES
        with pytest.raises(PermissionError):
            os.ftruncate(shell.progress_fd, 2 * PAGE_BYTES)
        assert int(os.pread(shell.cpu_fd, 64, 0)) > 0
        await sandbox.run("held = bytearray(20 << 20)")
        assert int(os.pread(shell.memory_fd, 64, 0)) > 20 << 20
        for fd in (shell.channel_fd, shell.output_fd, shell.progress_fd, shell.pidfd, shell.cpu_fd, shell.memory_fd):
            assert not os.get_inheritable(fd)


async def test_a_large_frame_fits_the_channel_at_once(tmp_path: Path) -> None:
    async with launched(tmp_path) as made:
        shell = await made.shell()
        assert os.write(shell.channel_fd, bytes(512 << 10)) == 512 << 10


async def test_output_pipe_carries_raw_output_and_may_be_opened_by_name(tmp_path: Path) -> None:
    async with launched(tmp_path) as made:
        sandbox = await made.sandbox()
        await sandbox.run("import os; os.write(os.open('/dev/stdout', os.O_WRONLY), b'raw'); os.system('echo -n child')")
        assert os.read(sandbox.shell.output_fd, 100) == b"rawchild"


async def test_layers_and_size_of_tmp(tmp_path: Path) -> None:
    layers = tmp_path / "layers"
    (layers / "python").mkdir(parents=True)
    (layers / "python" / "shared.py").write_text("value = 7\n")
    async with launched(tmp_path) as made:
        sandbox = await made.sandbox(layers_dir=str(layers), ephemeral_storage_mb=1024, memory_mb=256)
        assert await sandbox.run("import shared; result = shared.value") == 7
        room = "import os; s = os.statvfs('/tmp'); result = s.f_blocks * s.f_frsize >> 20"
        assert await sandbox.run(room) == 1024


# ---- how it ends ----

ENDINGS = {
    "exit": ("import os; os._exit(3)", Cause.EXIT, 3),
    "segfault": ("import ctypes; ctypes.string_at(1)", Cause.SIGNAL, 11),
    "SIGKILL to itself": ("import os; os.kill(os.getpid(), 9)", Cause.SIGNAL, 9),
    "SIGTERM to itself": ("import os; os.kill(os.getpid(), 15)", Cause.SIGNAL, 15),
    "abort": ("import os; os.abort()", Cause.SIGNAL, 6),
    "memory": ("held = [bytearray(1 << 20) for _ in range(4096)]", Cause.OOM, 9),
}


@pytest.mark.parametrize("name", ENDINGS)
async def test_cause_of_death(tmp_path: Path, name: str) -> None:
    code, cause, status = ENDINGS[name]
    async with launched(tmp_path) as made:
        sandbox, other = await made.sandbox(), await made.sandbox()
        sandbox.send(code)
        exited = await sandbox.exited()
        assert (exited.cause, exited.status) == (cause, status)
        assert exited.cpu_ns > 0
        assert exited.memory_peak_bytes > 1 << 20
        assert await other.run("result = 1 + 1") == 2, "the others never notice"


async def test_a_kill_ends_every_process_of_the_sandbox(tmp_path: Path) -> None:
    async with launched(tmp_path) as made:
        sandbox = await made.sandbox()
        await sandbox.run(
            """
            import os, signal
            for _ in range(5):
                if os.fork() == 0:
                    os.setsid()
                    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                        signal.signal(number, signal.SIG_IGN)
                    while True:
                        signal.pause()
            """
        )
        assert len(processes_of(made.launcher)) == 8  # the zygote, the sandbox's init and worker, five of its own
        assert (await sandbox.end()).cause is Cause.KILLED
        assert len(processes_of(made.launcher)) == 1


def processes_of(launcher: module.Launcher) -> list[int]:
    """Below the launcher proper: runtime processes, sandboxes, and what those have started."""
    (inner,) = children(launcher.pid)
    return below(inner)


async def test_a_runtime_s_process_starts_with_its_first_shell_and_rests_when_told(tmp_path: Path) -> None:
    warnings: list[str] = []
    name = own_runtime().name
    async with launched(tmp_path, warnings=warnings) as made:
        assert processes_of(made.launcher) == []
        sandbox = await made.sandbox()
        assert len(processes_of(made.launcher)) == 3  # the zygote, the sandbox's init and worker
        made.launcher.rest(name)
        shells = [made.launcher.shell(name) for _ in range(4)]  # asked for while it ends
        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for shell in shells:
                    nursery.start_soon(collect, shell, made.shells)
        assert await sandbox.run("result = 3") == 3, "its sandboxes live on"
        for shell in made.shells[1:]:
            made.launcher.kill(shell.id)
            await made.launcher.exits.receive()
        made.launcher.rest(name)
        made.launcher.rest(name)
        await until(lambda: len(processes_of(made.launcher)) == 2, "the zygote has ended")
        assert await (await made.sandbox()).run("result = 4") == 4
        with pytest.raises(ValueError, match="runtime is 'cobol'"):
            made.launcher.rest("cobol")
    assert warnings == [], "what was asked for is no fault"


async def collect(shell: Awaitable[module.Shell], into: list[module.Shell]) -> None:
    into.append(await shell)


async def test_kill_of_the_dead_and_the_unknown_is_no_error(tmp_path: Path) -> None:
    async with launched(tmp_path) as made:
        sandbox = await made.sandbox()
        await sandbox.end()
        made.launcher.kill(sandbox.shell.id)
        made.launcher.kill(0)
        made.launcher.kill(2**64 - 1)
        assert await (await made.sandbox()).run("result = 5") == 5


async def test_a_slot_starts_clean_after_the_last_occupant(tmp_path: Path) -> None:
    async with launched(tmp_path, LauncherConfig(slots=1)) as made:
        first = await made.sandbox()
        await first.run(
            """
            open('/tmp/left', 'w').write('x' * 10_000_000)
            open('/dev/shm/left', 'w').close()
            held = bytearray(50 << 20)
            """
        )
        ended = await first.end()
        assert ended.memory_peak_bytes > 50 << 20
        second = await made.sandbox()
        assert await second.run("import os; result = [os.listdir('/tmp'), os.listdir('/dev/shm')]") == [[], []]
        ended = await second.end()
        assert ended.memory_peak_bytes < 30 << 20
        assert ended.cpu_ns < 1_000_000_000
        assert second.shell.id != first.shell.id


# ---- what cannot be ----


async def test_no_slot_left_is_told_and_passes(tmp_path: Path) -> None:
    async with launched(tmp_path, LauncherConfig(slots=2)) as made:
        shells = [await made.shell() for _ in range(2)]
        with pytest.raises(LaunchFailed, match="slots") as failure:
            await made.shell()
        assert failure.value.errno_name == "EAGAIN"
        assert failure.value.hint
        assert len({shell.pid for shell in shells}) == 2


BAD_CODE = {"missing": "nowhere", "a file": "file", "relative": ""}


@pytest.mark.parametrize("kind", BAD_CODE)
async def test_code_that_is_not_there(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    code_dir = str(tmp_path / BAD_CODE[kind]) if kind != "relative" else "code"
    async with launched(tmp_path) as made:
        shell = await made.shell()
        with pytest.raises(LaunchFailed) as failure:
            await made.launcher.specialise(shell, Specialisation(code_dir, 128, 512))
        assert failure.value.step
        exited = await made.launcher.exits.receive()
        assert (exited.id, exited.cause) == (shell.id, Cause.LAUNCH_FAILED)
        assert exited.step is not None
        assert failure.value.step in exited.step
        assert await (await made.sandbox()).run("result = 2") == 2


async def test_specialising_twice_fails_and_the_sandbox_lives(tmp_path: Path) -> None:
    async with launched(tmp_path) as made:
        sandbox = await made.sandbox()
        with pytest.raises(LaunchFailed, match="shell"):
            await made.launcher.specialise(sandbox.shell, Specialisation(made.code_dir, 128, 512))
        assert await sandbox.run("result = 3") == 3


async def test_unknown_runtime_and_unusable_path_are_the_callers_fault(tmp_path: Path) -> None:
    async with launched(tmp_path) as made:
        with pytest.raises(ValueError, match=r"python2\.7"):
            await made.launcher.shell("python2.7")
        shell = await made.shell()
        with pytest.raises(ValueError, match="NUL"):
            await made.launcher.specialise(shell, Specialisation("/a\0b", 128, 512))
        with pytest.raises(ValueError, match="16384"):
            await made.launcher.specialise(shell, Specialisation("/" + "a" * 20_000, 128, 512))


async def test_a_runtime_that_does_not_start_says_why(tmp_path: Path) -> None:
    broken = replace(own_runtime(), executable="/usr/bin/no-such-python")
    warnings: list[str] = []
    async with launched(tmp_path, declared=[broken], warnings=warnings) as made:
        with pytest.raises(LaunchFailed, match="no-such-python") as failure:
            await made.launcher.shell(broken.name)
        assert failure.value.errno_name == errno.errorcode[errno.ENOENT]
    assert any("no-such-python" in text for text in warnings)


@pytest.mark.parametrize(
    ("field", "value"), [("slots", 0), ("slots", 5000), ("uid_base", 0), ("pids_max", 1), ("isolation", "none")]
)
def test_bad_configuration_names_field_and_value(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"{field} is .?{value}"):
        LauncherConfig(**{field: value})  # type: ignore[arg-type]


async def test_limits_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "groups"
    empty.mkdir()
    (empty / "cgroup.controllers").write_text("pids\n")
    with pytest.raises(LaunchFailed, match=r"memory, cpu.*doctor") as failure:
        async with open_launcher(LauncherConfig(cgroup_root=str(empty)), [own_runtime()]):
            pass
    assert failure.value.step == "limits"
    async with open_launcher(LauncherConfig(cgroup_root=str(empty), require_limits=False), [own_runtime()]) as launcher:
        assert launcher.limits == {Limit.PIDS, Limit.CPU_TIME, Limit.FREEZE}


async def test_missing_executable_is_told() -> None:
    with pytest.raises(LaunchFailed, match="make build"):
        async with open_launcher(LauncherConfig(command=("/nowhere/launcher",)), [own_runtime()]):
            pass


async def test_an_error_of_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with open_launcher(LauncherConfig(slots=1), [own_runtime()]):
            raise KeyError("mine")


# ---- cancellation ----


async def test_a_cancelled_shell_is_discarded(tmp_path: Path) -> None:
    async with launched(tmp_path) as made:
        await made.sandbox()  # the runtime is warm
        before = len(open_descriptors())
        with trio.CancelScope() as scope:
            scope.cancel()
            await made.shell()
        with trio.fail_after(PATIENCE_S):
            exited = await made.launcher.exits.receive()
        assert exited.cause is Cause.KILLED
        assert len(open_descriptors()) == before


async def test_a_cancelled_specialise_kills(tmp_path: Path) -> None:
    async with launched(tmp_path) as made:
        shell = await made.shell()
        with trio.CancelScope() as scope:
            scope.cancel()
            await made.launcher.specialise(shell, Specialisation(made.code_dir, 128, 512))
        with trio.fail_after(PATIENCE_S):
            assert (await made.launcher.exits.receive()).id == shell.id


# ---- nothing is left ----


async def test_two_hundred_shells_leave_nothing_behind(tmp_path: Path) -> None:
    here = open_descriptors()
    async with launched(tmp_path, LauncherConfig(slots=64)) as made:
        launcher = made.launcher
        await made.sandbox()
        (inner,) = children(launcher.pid)
        mounts, descriptors = count_mounts(), [count_descriptors(inner)]
        for _ in range(4):
            shells = []

            async def ask(shells: list[module.Shell] = shells) -> None:
                shells.append(await launcher.shell(own_runtime().name))

            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(ask)
            assert len({shell.pid for shell in shells}) == 50
            for shell in shells:
                launcher.kill(shell.id)
                shell.close()
            with trio.fail_after(PATIENCE_S):
                assert {(await launcher.exits.receive()).id for _ in shells} == {shell.id for shell in shells}
            descriptors.append(count_descriptors(inner))
        assert count_mounts() == mounts
        assert len(set(descriptors[1:])) == 1, "a slot keeps one, which tells of its memory, from its first occupant on"
        assert descriptors[1] - descriptors[0] <= 50
        assert len(processes_of(launcher)) == 3  # the zygote, the first sandbox's init and worker
    assert open_descriptors().keys() == here.keys()
    assert groups_left() == []


def count_mounts() -> int:
    return len(text_of("/proc/self/mountinfo").splitlines())


def count_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


class Mounts:
    """Mounts of the host, taken away at the end of a test in whatever state."""

    def __init__(self) -> None:
        self.held: list[str] = []

    def add(self, path: Path, *options: str) -> str:
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", *options, "none", str(path)], check=True)
        self.held.append(str(path))
        return str(path)

    def remove(self) -> None:
        subprocess.run(["umount", self.held.pop()], check=True)


@pytest.fixture
def mounts() -> Iterator[Mounts]:
    made = Mounts()
    yield made
    while made.held:
        made.remove()


async def test_a_disk_that_the_host_unmounts_is_let_go(tmp_path: Path, mounts: Mounts) -> None:
    """And what the host mounts meanwhile is not seen by sandboxes that live."""
    mounts.add(tmp_path / "top", "--make-shared")
    disk = mounts.add(tmp_path / "top" / "disk")
    async with launched(tmp_path / "top") as made:
        sandbox = await made.sandbox()
        (inner,) = children(made.launcher.pid)
        assert disk in text_of(f"/proc/{inner}/mountinfo")
        mounts.remove()
        assert disk not in text_of(f"/proc/{inner}/mountinfo")
        mounts.add(tmp_path / "top" / "code" / "added-late")
        assert "added-late" in text_of(f"/proc/{inner}/mountinfo")
        for pid in below(inner):
            assert "added-late" not in text_of(f"/proc/{pid}/mountinfo")
        assert await sandbox.run("import os; result = os.listdir('/var/task/added-late')") == []


async def test_an_idle_shell_is_small(tmp_path: Path) -> None:
    async with launched(tmp_path) as made:
        shells = [await made.shell() for _ in range(10)]
        total = 0
        for shell in shells:
            for pid in (shell.pid, *below(shell.pid)):
                rollup = text_of(f"/proc/{pid}/smaps_rollup")
                total += int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.M).group(1))  # type: ignore[union-attr]
        assert total / len(shells) < 6 * 1024
