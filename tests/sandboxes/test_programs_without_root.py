"""Programs where the launcher is a normal user's: below a user namespace, and as bare processes."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
import trio

from scheduler.sandboxes.launcher import Cause, Isolation
from tests.sandboxes.driver import PATIENCE_S, below, children, launched, public_directory, until
from tests.sandboxes.programs import program, program_runtime, write_program
from tests.sandboxes.test_normal_user import configuration, namespaced, reason_to_skip

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-")]

CONNECTS = "#!/bin/bash\nexec 5<>/dev/tcp/127.0.0.1/{port} && read -r answer <&5 && echo $answer $(id -u) $(pwd) $TMPDIR\n"


async def _answer(fd: int) -> tuple[str, int]:
    listener = trio.socket.from_stdlib_socket(socket.socket(fileno=fd))
    name: tuple[str, int] = listener.getsockname()
    with trio.fail_after(PATIENCE_S):
        connection, _ = await listener.accept()
    await connection.send(b"answer\n")
    connection.close()
    listener.close()
    return name


@namespaced
async def test_a_program_and_its_listener_below_a_user_namespace() -> None:
    with public_directory() as directory:
        write_program(directory, "code/bootstrap", CONNECTS.format(port=9001))
        write_program(directory, "layers/extensions/one", "#!/bin/sh\necho extension\nexec sleep 1000\n")
        async with launched(directory, configuration(), [program_runtime()]) as made:
            assert made.launcher.isolation is Isolation.USER
            layers = str(directory / "layers")
            running = await program(made, ports=(9001,), layers_dir=layers, extensions=("/opt/extensions/one",))
            assert await _answer(*running.listeners) == ("127.0.0.1", 9001)
            assert await running.printed() == b"answer 1000 /var/task\n"
            exited = await running.exited()
            assert (exited.cause, exited.status) == (Cause.EXIT, 0)


async def test_a_program_as_a_bare_process_has_a_port_of_the_hosts_and_a_directory_of_its_own() -> None:
    runtime = replace(program_runtime(), name="bare")
    warnings: list[str] = []
    with public_directory() as directory:
        async with launched(directory, configuration(isolation="process"), [runtime], warnings=warnings) as made:
            running = await program(made, ports=(9001,), argv=("/bin/sleep", "1000"), cwd=made.code_dir)
            with socket.socket(fileno=running.listeners[0]) as listener:
                address, port = listener.getsockname()
            assert address == "127.0.0.1"
            assert port != 9001, "it is the host's, where another may have it"
            await running.end()

            script = "#!/bin/sh\nsetsid sleep 1000 &\necho $(pwd) $TMPDIR; ls -a $TMPDIR | wc -l\nexit 4\n"
            path = write_program(directory, "code/bootstrap", script)
            running = await program(made, argv=(str(path),), cwd=made.code_dir)
            exited = await running.exited()
            assert (exited.cause, exited.status) == (Cause.EXIT, 4)
            (inner,) = children(made.launcher.pid)
            await until(lambda: len(below(inner)) == 1, "what it has started is gone, the runtime's process alone is there")
            where, temporary, count = (await running.printed()).split()
            assert where.decode() == made.code_dir
            assert temporary.endswith((b"/s0000", b"/s0001"))
            assert count == b"2"
