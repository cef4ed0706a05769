"""Interpreters are found once: what they said is kept, for as long as their files are the same."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from scheduler.sandboxes.runtimes import default_runtime, find_runtimes, is_public, probe
from tests.sandboxes.driver import public_runtime

if TYPE_CHECKING:
    from pathlib import Path

OWN = default_runtime()
EXECUTABLE = os.path.realpath(getattr(sys, "_base_executable", sys.executable))


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nothing but the service's own interpreter is there to be found."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    return tmp_path / "runtimes.json"


def lie(memory: Path) -> None:
    """Changes what was kept, so that it shows where an answer comes from."""
    text = memory.read_text()
    for kept in (content := json.loads(text))["said"].values():
        kept["version"][2] = 99
    memory.write_text(json.dumps(content))


def test_what_an_interpreter_said_is_kept(memory: Path) -> None:
    found = find_runtimes(memory=memory)
    assert list(found) == [OWN]
    assert found == find_runtimes() == find_runtimes(memory=memory)
    lie(memory)
    assert find_runtimes(memory=memory)[OWN].version[2] == 99, "it is not asked again"
    assert list(memory.parent.iterdir()) == [memory], "no scraps"


def test_it_is_asked_again_when_a_file_of_it_has_changed(memory: Path) -> None:
    find_runtimes(memory=memory)
    true = json.loads(memory.read_text())
    for path in true["said"][EXECUTABLE]["stamps"]:
        content = json.loads(memory.read_text())
        content["said"][EXECUTABLE]["stamps"][path][3] -= 1
        memory.write_text(json.dumps(content))
        lie(memory)
        assert find_runtimes(memory=memory)[OWN].version == sys.version_info[:3], path
        assert json.loads(memory.read_text()) == true, "and what it says now is kept"
        if path.endswith(".so"):
            return  # one library stands for all
    pytest.fail("no library of the interpreter is watched")


@pytest.mark.parametrize("content", ["", "no json", "[]", '{"format": 99}', '{"format": 1, "said": {"%s": {"stamps": 5}}}'])
def test_a_memory_that_cannot_be_used_is_written_anew(memory: Path, content: str) -> None:
    memory.write_text(content.replace("%s", EXECUTABLE))
    assert find_runtimes(memory=memory)[OWN].version == sys.version_info[:3]
    assert json.loads(memory.read_text())["said"][EXECUTABLE]["version"] == list(sys.version_info[:3])


def test_what_others_may_have_written_is_not_believed(memory: Path) -> None:
    """Root executes what is named there."""
    find_runtimes(memory=memory)
    lie(memory)
    assert find_runtimes(memory=memory)[OWN].version[2] == 99
    memory.chmod(0o664)
    assert find_runtimes(memory=memory)[OWN].version == sys.version_info[:3]
    lie(memory)
    memory.chmod(0o600)
    os.link(memory, memory.parent / "second name")
    assert find_runtimes(memory=memory)[OWN].version == sys.version_info[:3]
    if os.geteuid() == 0:
        lie(memory)
        (memory.parent / "second name").unlink(missing_ok=True)
        os.chown(memory, 7, 7)
        assert find_runtimes(memory=memory)[OWN].version == sys.version_info[:3]


def test_a_memory_that_cannot_be_written_costs_time_only(memory: Path) -> None:
    assert find_runtimes(memory=memory.parent / "missing" / "runtimes.json")[OWN] == find_runtimes()[OWN]


def test_a_script_is_asked_each_time(memory: Path) -> None:
    """What it starts is its own affair, and may change though the script does not."""
    script = memory.parent / "wrapper"
    script.write_text(f'#!/bin/sh\nexec "{EXECUTABLE}" "$@"\n')
    script.chmod(0o755)
    found = find_runtimes({OWN: str(script)}, memory=memory)
    assert found[OWN] == probe(EXECUTABLE)
    assert not memory.exists() or str(script) not in json.loads(memory.read_text())["said"]
    assert find_runtimes({OWN: str(script)}, memory=memory) == found


def test_a_runtime_that_is_not_what_it_is_called_is_refused(memory: Path) -> None:
    with pytest.raises(ValueError, match=f"cobol.*{OWN}"):
        find_runtimes({"cobol": EXECUTABLE}, memory=memory)


def test_of_two_the_one_that_everybody_may_read(memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bare processes a sandbox is another user, and sees the host's tree as that user."""
    public = public_runtime()
    if public is None or public.name != OWN:
        pytest.skip("no Python of this version here that every user may read")
    shut = memory.parent / "shut"
    (shut / "bin").mkdir(parents=True)
    monkeypatch.setenv("PATH", os.path.dirname(public.executable))
    hidden = find_runtimes(prefer_public=False)[OWN].executable
    assert hidden == EXECUTABLE, "the service's own"
    assert is_public(find_runtimes(prefer_public=True, memory=memory)[OWN].executable)
    shut.chmod(0o700)
    assert not is_public(str(shut / "bin" / "python"))
