"""Extensions as processes: what they are given, what is heard of them, and how the sandbox ends with them."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest
import trio

from scheduler.sandboxes.launcher import Cause
from tests.sandboxes.driver import IS_ROOT, PATIENCE_S, Launched, below, gone, until
from tests.sandboxes.programs import ENVIRONMENT, EXTENSION, RUNTIME, Program, launched, program, program_runtime, write_program

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups"),
]

IDLE = "#!/bin/sh\necho runtime\nexec sleep 1000\n"
POLITE = "#!/bin/sh\ntrap 'echo {name} saw the end; exit 0' TERM\necho {name}\nwhile :; do sleep 0.01; done\n"


async def with_extensions(
    made: Launched, directory: Path, runtime: str, extensions: dict[str, str], mode: int = 0o755
) -> Program:
    write_program(directory, "code/bootstrap", runtime)
    for name, script in extensions.items():
        write_program(directory, f"layers/extensions/{name}", script, mode)
    paths = [f"/opt/extensions/{name}" for name in extensions]
    return await program(made, extensions=paths, layers_dir=str(directory / "layers"))


async def heard(running: Program, text: bytes) -> None:
    """Reads frames until extensions have written that."""
    with trio.fail_after(PATIENCE_S):
        while text not in running.extensions:
            with trio.move_on_after(0.01):
                await running.frame()


async def test_extensions_start_first_with_fewer_variables_and_their_output_is_told_apart(tmp_path: Path) -> None:
    extension = '#!/bin/sh\ntouch /tmp/$(basename $0)\necho "$0 $# $(pwd) $(env -0 | cut -zd= -f1 | tr "\\0" " ")"\n'
    extension += 'ls /proc/self/fd | tr "\\n" " "\necho error >&2\nexec sleep 1000\n'
    runtime = "#!/bin/sh\nwhile ! test -e /tmp/one; do :; done\necho runtime\nexec sleep 1000\n"
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        running = await with_extensions(made, tmp_path, runtime, {"one": extension})
        await running.printed(b"runtime\n")
        await heard(running, b"error\n")
        assert running.output == b"runtime\n"
        first, descriptors = running.extensions.decode().removesuffix("error\n").split("\n")
        path, count, directory, *names = first.split()
        assert (path, count, directory) == ("/opt/extensions/one", "0", "/")
        assert set(names) - {"PWD", "OLDPWD", "SHLVL", "_"} == {"PATH"} == {n for n in ENVIRONMENT if n == "PATH"}
        assert descriptors.split() == ["0", "1", "2", "3"]
        await running.end()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo last; exit 0", {"event": "exit", "status": 0, "signal": 0, "reason": ""}),
        ("echo last; exit 3", {"event": "exit", "status": 3, "signal": 0, "reason": ""}),
        ("echo last; kill -SEGV $$", {"event": "crash", "status": 0, "signal": 11, "reason": ""}),
    ],
)
async def test_an_extension_that_ends_is_told_and_ends_the_sandbox(
    tmp_path: Path, script: str, told: dict[str, object]
) -> None:
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        running = await with_extensions(made, tmp_path, IDLE, {"first": POLITE, 'b"ad': f"#!/bin/sh\n{script}\n"})
        assert await running.words() == (EXTENSION, {"name": 'b"ad', **told})
        with pytest.raises(EOFError):
            await running.frame()
        assert b"last\n" in running.extensions
        exited = await running.exited()
    assert (exited.cause, exited.status) == (Cause.EXIT, 1)


async def test_an_extension_that_cannot_be_started_is_told_and_the_runtime_is_not(tmp_path: Path) -> None:
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        running = await with_extensions(made, tmp_path, IDLE, {"shut": IDLE}, mode=0o644)
        told = {"name": "shut", "event": "launch", "status": 0, "signal": 0, "reason": "permission denied"}
        assert await running.words() == (EXTENSION, told)
        assert (await running.exited()).status == 1
        assert await running.printed() == b""


async def test_the_runtimes_end_ends_extensions_and_their_last_output_is_told(tmp_path: Path) -> None:
    chatty = "#!/bin/sh\nhead -c 300000 /dev/zero | tr '\\0' x\necho over\ntouch /tmp/written\nexec sleep 1000\n"
    runtime = "#!/bin/sh\nwhile ! test -e /tmp/written; do sleep 0.01; done\nexit 9\n"
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        running = await with_extensions(made, tmp_path, runtime, {"chatty": chatty})
        assert await running.words() == (RUNTIME, {"status": 9, "signal": 0})
        running.stop(0)
        with pytest.raises(EOFError):
            await running.frame()
        assert running.extensions == b"x" * 300_000 + b"over\n"
        exited = await running.exited()
    assert (exited.cause, exited.status) == (Cause.EXIT, 9)


@pytest.mark.parametrize(
    ("end", "told", "cause", "status"),
    [("exit 3", {"status": 3, "signal": 0}, Cause.EXIT, 3), ("kill -SEGV $$", {"status": 0, "signal": 11}, Cause.SIGNAL, 11)],
)
async def test_the_runtimes_end_is_told_at_once_and_extensions_have_the_time_that_they_are_given(
    tmp_path: Path, end: str, told: dict[str, int], cause: Cause, status: int
) -> None:
    # What it leaves behind is ended at once.
    runtime = f'#!/bin/sh\nsleep 2000 &\nwhile test "$(cat /proc/$!/comm)" != sleep; do :; done\n{end}\n'
    leaves = "#!/bin/sh\nwhile ! test -e /tmp/leave; do sleep 0.01; done\necho left\n"
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        running = await with_extensions(made, tmp_path, runtime, {"leaves": leaves, "deaf": IDLE})
        assert await running.words() == (RUNTIME, told)
        await until(lambda: b"sleep\x002000\0" not in _commands(running), "its child is ended")
        running.stop(400)
        began = trio.current_time()
        exited = await running.exited()
        assert trio.current_time() - began >= 0.4
        assert (exited.cause, exited.status) == (cause, status)


async def test_an_agent_that_nobody_answers_ends_all_the_same(tmp_path: Path) -> None:
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        running = await with_extensions(made, tmp_path, "#!/bin/sh\nexit 3\n", {"deaf": IDLE})
        assert await running.words() == (RUNTIME, {"status": 3, "signal": 0})
        began = trio.current_time()
        assert (await running.exited()).status == 3
        assert 0.9 < trio.current_time() - began < 4
        # With the last extension it ends at once, and one killed by force leaves as ever.
        running = await with_extensions(made, tmp_path, "#!/bin/sh\nexit 4\n", {"ends": "#!/bin/sh\nsleep 0.2\n"})
        assert await running.words() == (RUNTIME, {"status": 4, "signal": 0})
        began = trio.current_time()
        assert (await running.exited()).status == 4
        assert trio.current_time() - began < 2
        running = await with_extensions(made, tmp_path, "#!/bin/sh\nkill -KILL $$\n", {"deaf": IDLE})
        with pytest.raises(EOFError):
            await running.frame()
        exited = await running.exited()
        assert (exited.cause, exited.status) == (Cause.SIGNAL, 9)


async def test_output_that_nobody_takes_makes_its_writer_wait_and_nothing_grows(tmp_path: Path) -> None:
    endless = "#!/bin/sh\nexec tr '\\0' x </dev/zero\n"
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        running = await with_extensions(made, tmp_path, IDLE, {"endless": endless, "polite": POLITE})
        await running.printed(b"runtime\n")
        await until(lambda: b"tr\0\\0\0x\0" in _commands(running), "it writes")
        (writer,) = [pid for pid in below(running.shell.pid) if _name(pid) == "tr"]
        await until(lambda: _waits_for_a_pipe(writer), "the writer waits")
        agent = _parent(writer)
        assert _resident_kb(agent) < 2048
        before = _cpu_ticks(agent)
        await trio.sleep(0.2)
        assert _cpu_ticks(agent) - before <= 5, "it waits, and does not ask again and again"
        began = trio.current_time()
        running.stop(300)  # and STOP is heeded all the same
        assert (await running.exited()).status == 0
        assert trio.current_time() - began < 5


async def test_stop_gives_the_runtime_its_share_and_the_extensions_the_rest(tmp_path: Path) -> None:
    deaf = "#!/bin/sh\ntrap '' TERM\necho {name}\nwhile :; do sleep 0.01; done\n"
    quick = "#!/bin/sh\ntrap 'echo bye; exit 0' TERM\necho runtime\nwhile :; do sleep 0.01; done\n"
    leaves = "#!/bin/sh\necho leaves\nwhile ! test -e /tmp/leave; do sleep 0.01; done\necho left\n"
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        # Both hear of it in time: nobody waits longer than they take. The runtime's end is not told as a failure.
        runtime = quick.replace("echo bye", "echo bye; touch /tmp/leave")
        running = await with_extensions(made, tmp_path, runtime, {"leaves": leaves})
        await running.printed(b"runtime\n")
        await heard(running, b"leaves\n")
        began = trio.current_time()
        running.stop(15_000)
        exited = await running.exited()
        assert (exited.cause, exited.status) == (Cause.EXIT, 0)
        assert trio.current_time() - began < 4.5
        with pytest.raises(EOFError):
            await running.frame()
        assert running.extensions == b"leaves\nleft\n"

        # A deaf runtime is killed after 30 %, deaf extensions when the time is over.
        running = await with_extensions(made, tmp_path, deaf.format(name="runtime"), {"deaf": deaf.format(name="deaf")})
        await running.printed(b"runtime\n")
        await heard(running, b"deaf\n")
        started = below(running.shell.pid)
        runtime_pid = next(pid for pid in started if b"/var/task/bootstrap" in _command(pid))
        extension_pid = next(pid for pid in started if b"/opt/extensions/deaf" in _command(pid))
        began = trio.current_time()
        running.stop(1000)
        await until(lambda: gone(runtime_pid), "the runtime is killed")
        assert 0.3 <= trio.current_time() - began < 0.9
        assert not gone(extension_pid)
        exited = await running.exited()
        assert trio.current_time() - began >= 1
        assert (exited.cause, exited.status) == (Cause.EXIT, 0)


def _name(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as file:
        return file.read().rstrip()


def _command(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()


def _commands(running: Program) -> list[bytes]:
    found = []
    for pid in below(running.shell.pid):
        with contextlib.suppress(OSError):  # it has just ended
            found.append(_command(pid))
    return found


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def _waits_for_a_pipe(pid: int) -> bool:
    with open(f"/proc/{pid}/syscall") as file:
        return file.read().split()[0] == "1"  # write


def _cpu_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))


def _resident_kb(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
