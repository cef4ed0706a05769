"""The table of attempts, run from inside: each is refused as the table says, as root and as a normal user; and in a sandbox
without the protections that hold it, each ends otherwise: the canary, without which a test that cannot fail would look the
same.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scheduler.sandboxes import launcher as launcher_module
from scheduler.sandboxes.launcher import LauncherConfig
from tests.sandboxes.driver import IS_ROOT, launched, public_directory, public_runtime
from tests.sandboxes.test_normal_user import configuration, namespaced, reason_to_skip
from tests.security.attempts import ATTEMPTS, PRELUDE
from tests.security.weak import PROTECTIONS, weaken

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.sandboxes.driver import Running

root = pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is missing")]

STORAGE_MB = 16
PIDS_MAX = 64

GROUPS: dict[tuple[str, ...], list[str]] = defaultdict(list)
for _name, _attempt in ATTEMPTS.items():
    GROUPS[_attempt.held_by].append(_name)


@contextmanager
def host(directory: Path) -> Iterator[dict[str, str]]:
    """What there is to be reached outside, by the words that attempts use for it."""
    secret = directory / "secret"
    secret.write_text("of the host")
    secret.chmod(0o644)
    with (
        ExitStack() as stack,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        name = f"scheduler-test-{os.getpid()}"
        abstract.bind("\0" + name)
        abstract.listen()
        control = stack.enter_context(socket.socket(socket.AF_UNIX))
        control.bind(str(directory / "control"))
        control.listen()
        os.chmod(directory / "control", 0o666)
        for way in (directory, *list(directory.parents)[:-2]):
            os.chmod(way, way.stat().st_mode | 0o001)
        yield {
            "HOST_FILE": repr(str(secret)),
            "HOST_PORT": str(listener.getsockname()[1]),
            "HOST_SOCKET": repr(str(directory / "control")),
            "HOST_NAME": repr(name),
        }


async def answers(sandbox: Running, names: Iterable[str], outside: dict[str, str]) -> dict[str, str]:
    """How each attempt ended."""
    codes = {}
    for name in names:
        code = ATTEMPTS[name].code
        for word, value in outside.items():
            code = code.replace(word, value)
        codes[name] = code
    said = await sandbox.run(
        f"""{PRELUDE}
import json
result = {{}}
for name, code in json.loads({json.dumps(codes)!r}).items():
    try:
        result[name] = str(eval(code))
    except Exception as error:
        result[name] = f"raised {{error!r}}"
"""
    )
    return dict(said)


def prepare(directory: str) -> None:
    """The code may be written to as far as modes say, so that the mount alone must hold; and has a program that would make its
    caller root."""
    program = Path(directory, "euid")
    source = '#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf("%d", (int)geteuid()); return 0; }\n'
    subprocess.run(["gcc", "-x", "c", "-", "-o", str(program)], input=source, text=True, check=True)
    program.chmod(0o4755)
    for path in (directory, f"{directory}/app.py"):
        os.chmod(path, 0o777)


@root
@pytest.mark.root
async def test_every_attempt_is_refused(tmp_path: Path) -> None:
    async with launched(tmp_path, LauncherConfig(slots=4, pids_max=PIDS_MAX)) as made:
        prepare(made.code_dir)
        with host(tmp_path) as outside:
            said = await answers(await made.sandbox(ephemeral_storage_mb=STORAGE_MB), ATTEMPTS, outside)
    assert wrong(said, as_root=True) == {}


def wrong(said: dict[str, str], *, as_root: bool) -> dict[str, str]:
    found = {}
    for name, answer in said.items():
        expected = ATTEMPTS[name].expected(as_root=as_root)
        if expected is not None and re.fullmatch(expected, answer) is None:
            found[name] = f"{answer}, not {expected}"
    return found


@namespaced
@pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-")
async def test_every_attempt_is_refused_without_root() -> None:
    runtime = public_runtime()
    assert runtime is not None
    with public_directory() as directory:
        async with launched(directory, configuration(slots=4, pids_max=PIDS_MAX), [runtime]) as made:
            prepare(made.code_dir)
            with host(directory) as outside:
                said = await answers(await made.sandbox(ephemeral_storage_mb=STORAGE_MB), ATTEMPTS, outside)
    assert wrong(said, as_root=False) == {}


def works_without(names: list[str], said: dict[str, str]) -> list[str]:
    """Attempts that were refused although what should hold them was gone. Not those that this machine refuses to root outside
    of any sandbox too: it lacks the thing itself (a module, a file, a privilege of the container)."""
    refused = [name for name in names if re.fullmatch(ATTEMPTS[name].refused, said[name])]
    return [f"{name}: {said[name]}" for name in refused if not re.fullmatch(ATTEMPTS[name].refused, outside_says(name))]


def outside_says(name: str) -> str:
    script = f"{PRELUDE}\ntry:\n    print({ATTEMPTS[name].code})\nexcept Exception as error:\n    print(repr(error))"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False).stdout.strip()


@root
@pytest.mark.root
@pytest.mark.parametrize("held_by", GROUPS, ids=lambda names: " + ".join(names))
async def test_canary_each_attempt_works_without_its_protection(
    held_by: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weak = weaken(held_by)
    monkeypatch.setattr(launcher_module, "RUNTIME_PACKAGE", weak.package)
    config = LauncherConfig(slots=4, pids_max=PIDS_MAX, command=(str(weak.launcher),))
    async with launched(tmp_path, config) as made:
        prepare(made.code_dir)
        with host(tmp_path) as outside:
            sandbox = await made.sandbox(ephemeral_storage_mb=STORAGE_MB)
            said = {}
            for name in GROUPS[held_by]:  # one by one: what nothing holds any more may end the sandbox, and is named then
                try:
                    said |= await answers(sandbox, [name], outside)
                except EOFError as error:
                    error.add_note(f"it tried: {name}")
                    raise
    refused = works_without(GROUPS[held_by], said)
    assert refused == []


def test_every_protection_has_attempts_that_it_holds() -> None:
    from tests.sandboxes.test_prestart import HELD_AT_BIRTH
    from tests.security.test_neighbours import CHANNELS
    from tests.security.test_network import ATTEMPTS as NETWORK
    from tests.security.test_sandboxed_programs import ATTEMPTS as PROGRAMS

    used = {name for attempt in ATTEMPTS.values() for name in attempt.held_by}
    used |= {name for channel in CHANNELS.values() for name in channel.held_by}
    used |= {name for attempt in NETWORK.values() for name in attempt.held_by}
    used |= {name for attempt in PROGRAMS.values() for name in attempt.held_by} | set(HELD_AT_BIRTH)
    assert used == set(PROTECTIONS)
