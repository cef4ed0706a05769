"""Runtimes as data: what a file may say, what is told of one that says something else, and what the machine makes of them."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from scheduler.sandboxes.declarations import EXEC, FORK, OURS, OWN, RuntimeFileBroken, fill, read_declarations
from scheduler.sandboxes.offers import find_offers
from scheduler.sandboxes.runtimes import default_runtime

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
name = "shell-1"
title = "the shell"
argv = ["{interpreter}", "{bootstrap}", "{handler}"]
bootstrap = ["{directory}/boot.sh"]
paths = ["/usr/share/doc"]
execution_environment = "AWS_Lambda_shell"
install = "any Linux has one"
streaming = true
[interpreter]
names = ["no-such-shell", "teller"]
version_command = ["--version"]
version_pattern = 'teller (\\d+)\\.(\\d+)'
[environment]
GREETING = "hello"
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for files, and an interpreter of our own making on PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "teller").write_text("#!/bin/sh\necho teller 4.2\n")
    (programs / "teller").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "boot.sh").write_text("")
    return tmp_path / "files"


def test_our_own_files_are_good():
    found = read_declarations()
    assert set(found) == {file.stem for file in OURS.iterdir()}, "each file has the name of what it declares"
    assert {name for name, one in found.items() if one.kind == FORK} == {"python3.11", "python3.12", "python3.13"}
    assert found["nodejs20.x"].streaming
    assert found["nodejs20.x"].prestart
    assert found["provided.al2023"].execution_environment == "", "Lambda sets none for these"


def test_a_file_of_ones_own_is_read_and_found(directory: Path):
    (directory / "shell.toml").write_text(GOOD)
    declared = read_declarations(directory)["shell-1"]
    assert declared.kind == EXEC
    assert declared.clients[OWN].bootstrap == ("{directory}/boot.sh",)
    offer = find_offers({"shell-1": declared}).here["shell-1"]
    assert offer.version == (4, 2, 0)
    assert offer.exec.executable == str(directory.parent / "bin" / "teller")
    place = "/var/runtimes/shell-1/boot.sh"
    assert offer.exec.placed == ((f"{directory}/boot.sh", place),), "what is named is shown, and nothing else of its directory"
    assert "/usr/share/doc" in offer.exec.paths or not os.path.exists("/usr/share/doc")


def test_what_is_not_here_is_told_with_what_to_install(directory: Path):
    (directory / "shell.toml").write_text(GOOD.replace("teller (", "teller 9 ("))
    offers = find_offers(read_declarations(directory))
    assert "shell-1" not in offers.here
    assert "any Linux has one" in offers.absent["shell-1"]


def test_one_of_the_same_name_goes_before_ours(directory: Path):
    (directory / "mine.toml").write_text(GOOD.replace("shell-1", "nodejs20.x"))
    assert read_declarations(directory)["nodejs20.x"].title == "the shell"


WRONG = {
    'name = "a b"': ("name", "'a b'"),
    "name = 5": ("name", "5"),
    'kind = "fork"': ("kind", "'fork' is not 'exec'"),
    "argv = []": ("argv", "1 to 64"),
    'argv = ["{interpretr}"]': ("argv", "{interpretr} is no place"),
    'argv = [""]': ("argv", "1 to 4096"),
    'paths = ["relative"]': ("paths", "begins with /"),
    'paths = ["/a/../b"]': ("paths", "no .."),
    'streaming = "yes"': ("streaming", "true or false"),
    "colour = 1": ("colour", "there is no field"),
    "interpreter.names = []": ("argv", "interpreter.names is empty"),
    'interpreter.names = ["a/b"]': ("interpreter.names", "a/b"),
    'interpreter.version_pattern = "("': ("interpreter.version_pattern", "regular expression"),
    'interpreter.version_pattern = "x"': ("interpreter.version_pattern", "one to three groups"),
    'environment = {"A B" = "c"}': ("environment", "A B"),
    "environment = {A = 5}": ("environment.A", "at most 4096"),
    'prestart = ["{handler}"]': ("prestart", "not known yet"),
    "clients = {other = {}}": ("clients.other.argv", "1 to 64"),
    "clients = 1": ("clients", "at most 64"),
    "= broken": ("", "cannot be read"),
}


@pytest.mark.parametrize("line", WRONG, ids=str)
def test_what_is_wrong_is_told_by_field_value_and_limit(directory: Path, line: str):
    key = line.partition("=")[0].strip()
    rest = [each for each in GOOD.splitlines() if not each.startswith(f"{key.partition('.')[0]} =")]
    text = "\n".join(rest)
    if key.startswith("interpreter."):
        inner = key.partition(".")[2]
        text = "\n".join(each for each in rest if not each.startswith(f"{inner} =")).replace(
            "[interpreter]", "[interpreter]\n" + line.partition(".")[2]
        )
    elif key == "environment":
        text = line + "\n" + text.partition("[environment]")[0]
    else:
        text = line + "\n" + text
    (directory / "wrong.toml").write_text(text)
    field, words = WRONG[line]
    with pytest.raises(RuntimeFileBroken) as caught:
        read_declarations(directory)
    assert str(directory / "wrong.toml") in str(caught.value)
    assert field in str(caught.value)
    assert words in str(caught.value)


def test_two_of_one_name_and_what_others_may_write_are_refused(directory: Path):
    (directory / "a.toml").write_text(GOOD)
    (directory / "b.toml").write_text(GOOD)
    with pytest.raises(RuntimeFileBroken, match=r"b\.toml: name: 'shell-1' is that of"):
        read_declarations(directory)
    (directory / "b.toml").unlink()
    (directory / "a.toml").chmod(0o666)
    with pytest.raises(RuntimeFileBroken, match="nobody else may write"):
        read_declarations(directory)
    (directory / "a.toml").write_text("#" * (64 * 1024) + GOOD)
    (directory / "a.toml").chmod(0o644)
    with pytest.raises(RuntimeFileBroken, match="65536"):
        read_declarations(directory)
    with pytest.raises(RuntimeFileBroken, match="runtimes_dir"):
        read_declarations(directory / "nowhere")


def test_the_offers_of_this_machine():
    offers = find_offers(read_declarations())
    assert next(iter(offers.here)) == default_runtime(), "a function that names none gets the service's own"
    own = offers.here[default_runtime()]
    assert own.fork is not None
    assert own.exec.name == default_runtime() + "/exec"
    assert offers.here["provided.al2"].exec is offers.here["provided.al2023"].exec, "the same shells serve both"
    assert set(offers.here) | set(offers.missing) == set(read_declarations())
    node = shutil.which("node")
    if node is not None and "nodejs20.x" in offers.here:
        shell = offers.here["nodejs20.x"].exec
        assert shell.kind == EXEC
        assert shell.prestart[1] == "/var/runtime/node/prestart.cjs"


def test_the_files_that_interpreters_are_remembered_by(directory: Path, tmp_path: Path):
    """A program that is no script is asked once."""
    shutil.copy(os.path.realpath("/bin/echo"), directory.parent / "bin" / "teller")
    (directory / "shell.toml").write_text(GOOD.replace('["--version"]', '["teller 1.2"]'))
    memory = tmp_path / "memory.json"
    found = find_offers(read_declarations(directory), memory=memory).here["shell-1"]
    assert found.version == (1, 2, 0)
    assert "teller 1.2" in memory.read_text()
    memory.write_text(memory.read_text().replace('"text": "teller 1.2', '"text": "teller 7.8'))
    assert find_offers(read_declarations(directory), memory=memory).here["shell-1"].version == (7, 8, 0)


def test_places():
    assert fill("{a}/x-{b}", {"a": "1", "b": "2"}.__getitem__) == "1/x-2"
