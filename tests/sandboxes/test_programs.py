"""Sandboxes that execute a program: what it is given, how it ends, what it cannot be, and its listeners."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import pytest
import trio

from scheduler.sandboxes.launcher import Cause, LaunchFailed, Limit, Specialisation
from tests.sandboxes.driver import IS_ROOT, PATIENCE_S, below, children, gone, until
from tests.sandboxes.programs import (
    ENVIRONMENT,
    INIT_ERROR,
    Program,
    launched,
    program,
    program_runtime,
    write_program,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups"),
]


async def test_a_program_gets_its_environment_its_arguments_its_directory_and_no_descriptor(tmp_path: Path) -> None:
    script = """#!/bin/sh
echo "$0|$1|$2|$FOO|$(pwd)|$#"
env -0 | cut -zd= -f1 | tr '\\0' '\\n'
ls /proc/self/fd | tr '\\n' ' '
exit 7
"""
    write_program(tmp_path, "code/bootstrap", script)
    environment = {**ENVIRONMENT, "FOO": "b=a r\nä"}
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        running = await program(made, argv=("/var/task/bootstrap", "one", ""), environment=environment)
        printed = (await running.printed()).decode()
        exited = await running.exited()
    first, _, rest = printed.partition("\nä|")
    assert first == "/var/task/bootstrap|one||b=a r"
    directory, *names, descriptors = rest.rstrip().split("\n")
    assert directory == "/var/task|2"
    assert set(names) - {"PWD", "SHLVL", "OLDPWD", "_"} == set(environment)
    assert descriptors.split() == ["0", "1", "2", "3"]  # the last is the directory that ls reads
    assert (exited.cause, exited.status) == (Cause.EXIT, 7)


@pytest.mark.parametrize(
    ("script", "cause", "status"),
    [
        ("exit 0", Cause.EXIT, 0),
        ("exit 127", Cause.EXIT, 127),
        ("kill -SEGV $$", Cause.SIGNAL, 11),
        ("kill -9 $$", Cause.SIGNAL, 9),
    ],
)
async def test_the_sandbox_ends_as_its_program_ends(tmp_path: Path, script: str, cause: Cause, status: int) -> None:
    write_program(tmp_path, "code/bootstrap", f"#!/bin/sh\nsleep 1000 &\n{script}\n")
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        exited = await (await program(made)).exited()
    assert (exited.cause, exited.status) == (cause, status)


async def test_what_cannot_be_executed_is_an_init_error_in_lambdas_words(tmp_path: Path) -> None:
    write_program(tmp_path, "code/shut", "#!/bin/sh\n", mode=0o644)
    write_program(tmp_path, "code/noise", b"\x00\x01\x02")
    write_program(tmp_path, "code/elsewhere", "#!/no/such/shell\n")
    cases = {
        ("/var/task/none", ("/opt/none",)): "Couldn't find valid bootstrap(s): [/var/task/none /opt/none]",
        ("/var/task", ()): "Couldn't find valid bootstrap(s): [/var/task]",
        ("/var/task/shut", ()): "fork/exec /var/task/shut: permission denied",
        ("/var/task/noise", ()): "fork/exec /var/task/noise: exec format error",
        ("/var/task/elsewhere", ()): "fork/exec /var/task/elsewhere: no such file or directory",
    }
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        for (first, others), message in cases.items():
            running = await program(made, argv=(first,), or_else=others)
            assert await running.words() == (INIT_ERROR, {"errorType": "Runtime.InvalidEntrypoint", "errorMessage": message})
            exited = await running.exited()
            assert (exited.cause, exited.status) == (Cause.EXIT, 1)
        running = await program(made, cwd='/no"where')
        kind, error = await running.words()
        assert (kind, error["errorType"]) == (INIT_ERROR, "Runtime.InvalidWorkingDir")
        assert error["errorMessage"] == 'chdir /no"where: no such file or directory'


async def test_the_second_program_is_executed_where_the_first_is_none(tmp_path: Path) -> None:
    write_program(tmp_path, "layers/bootstrap", "#!/bin/sh\necho from the layer\n")
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        running = await program(made, or_else=("/opt/bootstrap",), layers_dir=str(tmp_path / "layers"))
        assert await running.printed() == b"from the layer\n"


async def test_a_wrapper_is_executed_with_the_program_behind_it(tmp_path: Path) -> None:
    write_program(tmp_path, "code/bootstrap", '#!/bin/sh\necho "program $1 $WRAPPED"\n')
    write_program(tmp_path, "code/wrapper", '#!/bin/sh\necho "wrapper $*"\nWRAPPED=yes exec "$@"\n')
    write_program(tmp_path, "code/shut", "", mode=0o644)
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        running = await program(made, argv=("/var/task/bootstrap", "x"), wrapper="/var/task/wrapper")
        assert await running.printed() == b"wrapper /var/task/bootstrap x\nprogram x yes\n"
        for name, words, status in (("none", b"does not exist", 127), ("shut", b"is not an executable", 126)):
            running = await program(made, wrapper=f"/var/task/{name}")
            assert await running.printed() == b"/var/task/%s: %s\n" % (name.encode(), words)
            assert (await running.exited()).status == status


async def test_stop_ends_it_in_order_or_at_once_or_when_its_time_is_over(tmp_path: Path) -> None:
    script = "#!/bin/sh\ntrap '{}' TERM\necho ready\nwhile :; do sleep 0.01; done\n"
    write_program(tmp_path, "code/polite", script.format("echo bye; exit 3"))
    write_program(tmp_path, "code/deaf", script.format(""))
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        for name, budget_ms, expected in (
            ("polite", 10_000, b"ready\nbye\n"),
            ("deaf", 0, b"ready\n"),
            ("deaf", 200, b"ready\n"),
        ):
            running = await program(made, argv=(f"/var/task/{name}",))
            await running.printed(b"ready\n")
            began = trio.current_time()
            running.stop(budget_ms)
            exited = await running.exited()
            took_ms = 1000 * (trio.current_time() - began)
            assert (exited.cause, exited.status) == (Cause.EXIT, 0)
            assert took_ms >= budget_ms or name == "polite"
            printed = await running.printed()
            assert printed.replace(b"Terminated\n", b"") == expected  # of the shell, about sleep


async def test_listeners_are_the_sandboxs_own(tmp_path: Path) -> None:
    write_program(
        tmp_path,
        "code/bootstrap",
        "#!/bin/bash\nexec 5<>/dev/tcp/sandbox.localdomain/9001 && echo hello >&5 && read -r answer <&5 && echo $answer\n"
        "exec 6<>/dev/tcp/127.0.0.1/2773 && cat <&6\n",
    )
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        one = await program(made, ports=(9001, 2773))
        another = await program(made, ports=(9001,), argv=("/bin/sleep", "1000"))
        assert (len(one.listeners), len(another.listeners)) == (2, 1)
        names = []
        for fd in one.listeners:
            listener = trio.socket.from_stdlib_socket(socket.socket(fileno=fd))
            assert (os.get_inheritable(fd), os.get_blocking(fd)) == (False, False)
            names.append(listener.getsockname())
            with trio.fail_after(PATIENCE_S):
                connection, peer = await listener.accept()
                assert peer[0] == "127.0.0.1"
                if len(names) == 1:
                    assert await connection.recv(100) == b"hello\n"
                await connection.send(b"answer %d\n" % len(names))
                connection.close()
            listener.close()
        assert names == [("127.0.0.1", 9001), ("127.0.0.1", 2773)]
        assert await one.printed() == b"answer 1\nanswer 2\n"
        lonely = socket.socket(fileno=another.listeners[0])
        with lonely, pytest.raises(BlockingIOError):
            lonely.accept()


async def test_listeners_come_to_who_does_not_wait(tmp_path: Path) -> None:
    write_program(tmp_path, "code/bootstrap", "#!/bin/sh\n")
    failed: list[LaunchFailed] = []
    came, told = trio.open_memory_channel[tuple[int, ...]](1)
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        shell = await made.shell()
        spec = Specialisation(made.code_dir, 128, 512, ports=(80,))
        made.launcher.specialise_soon(shell, spec, failed.append, done=came.send_nowait)
        made.launcher.loaded(shell.id)  # that its init is over comes by another road, and may be here first
        with trio.fail_after(PATIENCE_S):
            (fd,) = await told.receive()
        with socket.socket(fileno=fd) as listener:
            assert listener.getsockname() == ("127.0.0.1", 80)
        with pytest.raises(ValueError, match=r"ports are \(80,\), and nobody would have"):
            made.launcher.specialise_soon(shell, spec, failed.append)
    assert failed == []


@pytest.mark.parametrize("ports", [(0,), (65_536,), (1, 2, 3, 4, 5), (80, 80)])
def test_ports_that_are_none_are_refused(ports: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ports"):
        Specialisation("/x", 128, 512, ports=ports)


@pytest.mark.parametrize("message", [b"", b"{}", b"CEXE" + bytes(16), bytes(200_000)])
async def test_a_start_that_is_none_ends_the_sandbox(tmp_path: Path, message: bytes) -> None:
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        shell = await made.shell()
        await made.launcher.specialise(shell, Specialisation(made.code_dir, 128, 512))
        running = Program(made.launcher, shell)
        running.start(message)
        assert (await running.printed()).startswith(b"sandbox: START: ")
        assert (await running.exited()).status == 1


@pytest.mark.parametrize(("name", "number"), [("KILL", 9), ("TERM", 15), ("SEGV", 11)])
async def test_a_program_that_ends_its_agent_ends_its_sandbox_and_no_other(tmp_path: Path, name: str, number: int) -> None:
    write_program(tmp_path, "code/bootstrap", f"#!/bin/sh\nsetsid sleep 1000 &\nkill -{name} $PPID\nsleep 1000\n")
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        neighbour = await program(made, argv=("/bin/sh", "-c", "sleep 1000 & wait"))
        running = await program(made)
        exited = await running.exited()
        assert (exited.cause, exited.status) == (Cause.SIGNAL, number)
        await until(lambda: gone(running.shell.pid), "with its first process all of it ends")
        assert len(below(neighbour.shell.pid)) >= 2


async def test_a_program_that_stops_its_agent_can_be_ended(tmp_path: Path) -> None:
    write_program(tmp_path, "code/bootstrap", "#!/bin/sh\nkill -STOP $PPID\necho stopped\nexec sleep 1000\n")
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        running = await program(made)
        await running.printed(b"stopped\n")
        assert (await running.end()).cause is Cause.KILLED


async def test_memory_is_that_of_the_sandbox_as_a_whole(tmp_path: Path) -> None:
    """A child of an extension takes it; the runtime and the agent go with it, told as what it is."""
    write_program(tmp_path, "code/bootstrap", "#!/bin/sh\nexec sleep 1000\n")
    write_program(tmp_path, "layers/extensions/eater", "#!/bin/sh\ntail /dev/zero &\nwait\nexec sleep 1000\n")
    async with launched(tmp_path, declared=[program_runtime()]) as made:
        if Limit.MEMORY not in made.launcher.limits:
            pytest.skip("no control group for memory here")
        running = await program(made, extensions=("/opt/extensions/eater",), layers_dir=str(tmp_path / "layers"))
        exited = await running.exited()
    assert exited.cause is Cause.OOM
    assert exited.memory_peak_bytes > 100 << 20


async def test_a_fork_server_that_dies_is_replaced(tmp_path: Path) -> None:
    write_program(tmp_path, "code/bootstrap", "#!/bin/sh\necho fine\nexec sleep 1000\n")
    warnings: list[str] = []
    async with launched(tmp_path, declared=[program_runtime()], warnings=warnings) as made:
        survivor = await program(made)
        await survivor.printed(b"fine\n")
        (inner,) = children(made.launcher.pid)
        zygote = next(pid for pid in children(inner) if pid != survivor.shell.pid)
        os.kill(zygote, signal.SIGKILL)
        await until(lambda: bool(warnings), "it is told")
        assert await (await program(made)).printed(b"fine\n") == b"fine\n"
        assert not gone(survivor.shell.pid)
    assert "the process of runtime provided.al2023 ended" in warnings[0]
