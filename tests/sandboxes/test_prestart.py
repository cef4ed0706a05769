"""An interpreter that is started when a sandbox is born: unprivileged from the start, told of its function later."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from scheduler.sandboxes import launcher as launcher_module
from scheduler.sandboxes.launcher import Cause, LauncherConfig
from tests.sandboxes.driver import IS_ROOT, Launched, below, gone, launched, public_directory, until
from tests.sandboxes.programs import Program, program, program_runtime, write_program
from tests.sandboxes.test_normal_user import configuration, namespaced, reason_to_skip
from tests.security.weak import weaken

if TYPE_CHECKING:
    from pathlib import Path

root = pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups")
pytestmark = [pytest.mark.slow]

HELD_AT_BIRTH = ("privileges at birth", "descriptors at birth")

# Says what it is at its birth, then waits for its frame, then says what came.
WAITS = """
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/self/status
ls -l /proc/$$/fd
env; pwd; ulimit -c -n -u; echo born
head -c 4 <&3 >/dev/null || exit
tr '\\0' '\\n' <&3; echo told; exec 3<&-; {then}
"""


def waits(then: str = "exec sleep 1000") -> tuple[str, ...]:
    return ("/bin/bash", "-c", WAITS.format(then=then))


async def born(made: Launched) -> Program:
    """A shell that is not specialised, whose interpreter waits."""
    running = Program(made.launcher, await made.shell())
    await running.printed(b"born\n")
    return running


@root
@pytest.mark.root
async def test_it_is_a_strangers_process_before_a_function_is_known(tmp_path: Path) -> None:
    config = LauncherConfig(slots=4, uid_base=1_800_000_000)
    async with launched(tmp_path, config, [program_runtime(waits())]) as made:
        running = await born(made)
        said = running.output.decode()
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert f"{name}:\t0000000000000000\n" in said
    uid = next(n for n in range(1_800_000_000, 1_800_000_004) if f"Uid:\t{n}\t{n}\t{n}\t{n}\n" in said)
    assert f"Gid:\t{uid}\t{uid}\t{uid}\t{uid}\n" in said
    assert "Groups:\t \n" in said
    assert "NoNewPrivs:\t1\n" in said
    assert "Seccomp:\t2\n" in said
    held = dict(re.findall(r" (\d+) -> (.*)$", said, re.M))
    assert held.pop("0") == "/dev/null"
    assert held.keys() == {"1", "2", "3"}
    assert held["1"] == held["2"] != held["3"]
    assert all(target.startswith("pipe:[") for target in held.values())
    names = {line.split("=")[0] for line in said.splitlines() if "=" in line and ":" not in line.split("=")[0]}
    assert names - {"PWD", "SHLVL", "_"} == {"PATH", "LANG", "TZ", "_SCHEDULER_PRESTART_FD"}
    assert "\n/\n" in said
    assert "_SCHEDULER_PRESTART_FD=3\n" in said


@root
@pytest.mark.root
@pytest.mark.parametrize("protection", HELD_AT_BIRTH)
async def test_canary_without_that_it_would_be_seen(protection: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weak = weaken((protection,))
    monkeypatch.setattr(launcher_module, "RUNTIME_PACKAGE", weak.package)
    config = LauncherConfig(slots=4, uid_base=1_800_000_000, command=(str(weak.launcher),))
    async with launched(tmp_path, config, [program_runtime(waits())]) as made:
        running = await born(made)
        said = running.output.decode()
    if protection == "privileges at birth":
        assert "Uid:\t0\t0\t0\t0\n" in said
    else:
        assert "/memfd:progress" in said


@root
@pytest.mark.root
async def test_it_becomes_the_runtime_with_the_functions_environment_and_directory(tmp_path: Path) -> None:
    environment = {"FOO": "b=a r", "LONG": "x" * 100_000, "EMPTY": ""}
    then = "cd /var/task; ls -d . /tmp; kill -SEGV $BASHPID"
    async with launched(tmp_path, declared=[program_runtime(waits(then))]) as made:
        running = await born(made)
        before = bytes(running.output)
        started = await program(made, shell=running.shell, argv=("/no/such/program",), environment=environment)
        printed = (await started.printed()).decode()
        exited = await started.exited()
    assert b"told" not in before
    told = [*(f"{name}={value}" for name, value in environment.items()), "/var/task", "told"]
    assert printed.split("\n") == [*told, ".", "/tmp", ""]
    assert (exited.cause, exited.status) == (Cause.SIGNAL, 11)


@root
@pytest.mark.root
@pytest.mark.parametrize("why", ["afresh", "wrapper", "dead", "has closed its pipe"])
async def test_a_program_is_executed_where_it_cannot_be_used(why: str, tmp_path: Path) -> None:
    write_program(tmp_path, "code/bootstrap", "#!/bin/sh\necho afresh; exec sleep 1000\n")
    write_program(tmp_path, "code/wrapper", '#!/bin/sh\nexec "$@"\n')
    commands = {
        "dead": ("/bin/sh", "-c", "echo born; exit 3"),
        "has closed its pipe": ("/bin/sh", "-c", "exec 3<&-; echo born; exec sleep 1000"),
    }
    async with launched(tmp_path, declared=[program_runtime(commands.get(why, waits()))]) as made:
        running = await born(made)
        _, interpreter, *_ = below(running.shell.pid)  # behind the worker
        await until(lambda: why != "dead" or gone(interpreter), "it is dead")
        wrapper = "/var/task/wrapper" if why == "wrapper" else None
        started = await program(made, shell=running.shell, afresh=why == "afresh", wrapper=wrapper)
        await started.printed(b"afresh\n")
        await until(lambda: len(below(running.shell.pid)) == 2, "agent and runtime are alone: the other has been ended")


@root
@pytest.mark.root
async def test_what_cannot_be_started_at_birth_fails_nothing(tmp_path: Path) -> None:
    write_program(tmp_path, "code/bootstrap", "#!/bin/sh\necho afresh\n")
    async with launched(tmp_path, declared=[program_runtime(("/no/such/interpreter",))]) as made:
        assert await (await program(made)).printed() == b"afresh\n"


@namespaced
@pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-")
async def test_without_root_nothing_is_started_at_birth() -> None:
    with public_directory() as directory:
        write_program(directory, "code/bootstrap", "#!/bin/sh\necho afresh\n")
        async with launched(directory, configuration(), [program_runtime(waits())]) as made:
            assert await (await program(made)).printed() == b"afresh\n"
