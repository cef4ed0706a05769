"""Sandboxes that execute programs hold what the others hold: the whole table of attempts, made by a program that was executed.
Beside it what only they have, the agent: a process with the program's own uid, which holds the channel.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest

from scheduler.sandboxes import launcher as launcher_module
from scheduler.sandboxes.launcher import LauncherConfig
from tests.sandboxes.driver import IS_ROOT, Launched, launched, own_runtime, public_directory, public_runtime
from tests.sandboxes.programs import program
from tests.sandboxes.test_normal_user import configuration, namespaced, reason_to_skip
from tests.security.attempts import ATTEMPTS as EVERYWHERE
from tests.security.attempts import PRELUDE, Attempt
from tests.security.test_attempts import PIDS_MAX, STORAGE_MB, host, prepare
from tests.security.weak import weaken

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scheduler.sandboxes.runtimes import Runtime

root = pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups")
pytestmark = [pytest.mark.slow]

UNTRACEABLE = ("agent not traceable",)

# Of the table for all sandboxes these are of a process beside which no agent lives.
OTHERWISE = {"descriptors left behind", "other processes", "a signal to what is not ours"}

ATTEMPTS: dict[str, Attempt] = {
    "descriptors left behind": Attempt("len(os.listdir('/proc/self/fd')) - 1", "3", ("agent's descriptors",)),
    "other processes": Attempt(
        "sorted({int(n) for n in os.listdir('/proc') if n.isdigit()} - {1, os.getppid(), os.getpid()})",
        r"\[\]",
        ("pid namespace",),
    ),
    "the agent's root": Attempt("opened(f'/proc/{os.getppid()}/root/')", "EACCES", UNTRACEABLE),
    "the agent's descriptors": Attempt("attempt(os.readlink, f'/proc/{os.getppid()}/fd/3')", "EACCES", UNTRACEABLE),
    "the agent's channel": Attempt("opened(f'/proc/{os.getppid()}/fd/2', os.O_WRONLY)", "EACCES", UNTRACEABLE),
    "the agent's memory": Attempt("opened(f'/proc/{os.getppid()}/mem', os.O_RDWR)", "EACCES", UNTRACEABLE),
    "the agent's environment": Attempt("opened(f'/proc/{os.getppid()}/environ')", "EACCES", UNTRACEABLE),
}
GROUPS = sorted({attempt.held_by for attempt in ATTEMPTS.values()})


def here() -> dict[str, Attempt]:
    """Ours first, for others leave something."""
    return {**ATTEMPTS, **{name: attempt for name, attempt in EVERYWHERE.items() if name not in OTHERWISE}}


# Started at the sandbox's birth: does what the frame at descriptor 3 brings.
LOADER = """
import os
with open(3, "rb") as frame:
    parts = frame.read()[4:].split(b"\\0")
os.chdir(parts[-2])
exec(dict(part.split(b"=", 1) for part in parts[:-2])[b"SCRIPT"].decode())
"""


@cache
def executed(runtime: Runtime, *, at_birth: bool = False) -> Runtime:
    """Its interpreter as a program, which is executed when it is known what, or waits from birth on."""
    command = (runtime.executable, "-I", "-S", "-c", LOADER) if at_birth else ()
    return replace(runtime, name="program", kind="exec", prestart=command)


async def answers(made: Launched, attempts: Mapping[str, Attempt], outside: Mapping[str, str]) -> dict[str, str]:
    codes = {}
    for name, attempt in attempts.items():
        codes[name] = attempt.code
        for word, value in outside.items():
            codes[name] = codes[name].replace(word, value)
    script = f"""{PRELUDE}
import json
result = {{}}
for name, code in json.loads({json.dumps(codes)!r}).items():
    try:
        result[name] = str(eval(code))
    except Exception as error:
        result[name] = f"raised {{error!r}}"
print("said " + json.dumps(result), flush=True)
"""
    interpreter = public_runtime() if made.launcher.isolation.name == "USER" else own_runtime()
    assert interpreter is not None
    argv = (interpreter.executable, "-I", "-S", "-c", 'import os; exec(os.environ["SCRIPT"])')
    running = await program(made, argv=argv, environment={"SCRIPT": script}, ephemeral_storage_mb=STORAGE_MB)
    _, _, said = (await running.printed()).partition(b"said ")
    return dict(json.loads(said))


def wrong(said: Mapping[str, str], attempts: Mapping[str, Attempt], *, as_root: bool) -> dict[str, str]:
    found = {}
    for name, answer in said.items():
        expected = attempts[name].expected(as_root=as_root)
        if expected is not None and re.fullmatch(expected, answer) is None:
            found[name] = f"{answer}, not {expected}"
    return found


@root
@pytest.mark.root
@pytest.mark.parametrize("at_birth", [False, True])
async def test_every_attempt_is_refused_to_a_program(at_birth: bool, tmp_path: Path) -> None:
    config = LauncherConfig(slots=4, pids_max=PIDS_MAX)
    async with launched(tmp_path, config, [executed(own_runtime(), at_birth=at_birth)]) as made:
        prepare(made.code_dir)
        with host(tmp_path) as outside:
            said = await answers(made, here(), outside)
    assert said.keys() == here().keys()
    assert wrong(said, here(), as_root=True) == {}


@namespaced
@pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-")
async def test_every_attempt_is_refused_to_a_program_without_root() -> None:
    runtime = public_runtime()
    assert runtime is not None
    with public_directory() as directory:
        async with launched(directory, configuration(slots=4, pids_max=PIDS_MAX), [executed(runtime)]) as made:
            prepare(made.code_dir)
            with host(directory) as outside:
                said = await answers(made, here(), outside)
    assert said.keys() == here().keys()
    assert wrong(said, here(), as_root=False) == {}


@root
@pytest.mark.root
@pytest.mark.parametrize("held_by", [*GROUPS, ("filter",)], ids=lambda names: " + ".join(names))
async def test_canary_each_attempt_of_a_program_works_without_its_protection(
    held_by: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weak = weaken(held_by)
    monkeypatch.setattr(launcher_module, "RUNTIME_PACKAGE", weak.package)
    config = LauncherConfig(slots=4, pids_max=PIDS_MAX, command=(str(weak.launcher),))
    tried = {name: attempt for name, attempt in here().items() if attempt.held_by == held_by}
    if held_by == ("filter",):  # the same program text as elsewhere, where all are tried: one shows that it is off
        tried = {"a user namespace": tried["a user namespace"]}
    async with launched(tmp_path, config, [executed(own_runtime())]) as made:
        prepare(made.code_dir)
        with host(tmp_path) as outside:
            said = await answers(made, tried, outside)
    assert wrong(said, tried, as_root=True).keys() == tried.keys()
