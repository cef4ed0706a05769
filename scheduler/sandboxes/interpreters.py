"""Finds the interpreter of a declared runtime on this machine, and what it needs to see of the file system.

Law of this file: it executes nothing but candidates with their version command, once, and remembers what they said. Python's
own interpreters are asked more closely, in runtimes.py.
"""

from __future__ import annotations

import glob
import os
import pwd
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from scheduler.sandboxes.memory import is_program
from scheduler.sandboxes.runtimes import BASE_PATHS, PROBE_TIMEOUT_S, is_public, outermost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scheduler.sandboxes.declarations import Declaration
    from scheduler.sandboxes.memory import Memory

__all__ = ["Interpreter", "find_interpreter"]

SAID_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Interpreter:
    """executable: without links. paths: what a sandbox has to see."""

    executable: str
    version: tuple[int, int, int]
    paths: tuple[str, ...]


def find_interpreter(declaration: Declaration, memory: Memory, *, prefer_public: bool = False) -> Interpreter | None:
    """The first candidate whose version fits. None: there is none. prefer_public: rather one that every user may read."""
    hidden: Interpreter | None = None
    tried: set[str] = set()
    for candidate in _candidates(declaration):
        real = os.path.realpath(candidate)
        if real in tried or not os.path.isfile(real) or not os.access(real, os.X_OK):
            continue
        tried.add(real)
        found = _fits(declaration, real, memory)
        if found is None:
            continue
        if not prefer_public or is_public(real):
            return found
        hidden = hidden or found
    return hidden


def _candidates(declaration: Declaration) -> Iterator[str]:
    directories = os.environ.get("PATH", os.defpath).split(os.pathsep)
    for pattern in declaration.directories:
        directories += sorted(glob.glob(os.path.expanduser(pattern)), reverse=True)
    for name in declaration.names:
        if name.startswith("/"):
            yield name
        else:
            yield from (os.path.join(directory, name) for directory in directories)


def _fits(declaration: Declaration, real: str, memory: Memory) -> Interpreter | None:
    assert declaration.version_pattern is not None
    said, libraries = _ask(real, declaration.version_command, memory)
    match = declaration.version_pattern.search(said)
    if match is None:
        return None
    numbers = [int(group) if group and group.isdecimal() else 0 for group in match.groups()]
    major, minor, micro = [*numbers, 0, 0][:3]
    return Interpreter(real, (major, minor, micro), _needed(real, libraries))


def _needed(real: str, libraries: tuple[str, ...]) -> tuple[str, ...]:
    """The program, what it is linked with, and the `lib` beside its `bin`; not the directory that these are in, which may be
    somebody's home. What else it wants stands in its file's `paths`."""
    base = [path for path in BASE_PATHS if os.path.lexists(path)]
    own = [real, *libraries]
    directory, name = os.path.split(os.path.dirname(real))
    lib = os.path.join(directory, "lib")
    if name == "bin" and os.path.isdir(lib) and directory not in _homes():
        own.append(lib)
    seen = [os.path.realpath(path) for path in base]
    outside = [path for path in own if not any(os.path.realpath(path).startswith(above + "/") for above in seen)]
    return outermost([*base, *outside])


def _homes() -> set[str]:
    return {account.pw_dir.rstrip("/") for account in pwd.getpwall()}


def _ask(real: str, words: tuple[str, ...], memory: Memory) -> tuple[str, tuple[str, ...]]:
    """What it says of its version, and the libraries that it loads. Empty where it does not run."""
    key = "\0".join((real, *words))
    kept = memory.recall(key)
    if kept is not None and isinstance(kept.get("text"), str) and isinstance(kept.get("libraries"), list):
        return kept["text"], tuple(map(str, kept["libraries"]))
    said = _run([real, *words])
    libraries = tuple(_libraries(real)) if is_program(real) else ()
    if said and is_program(real):
        memory.learn(key, (real, *libraries), {"text": said, "libraries": list(libraries)})
    return said, libraries


def _run(words: list[str], **more: str) -> str:
    try:
        answer = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PROBE_TIMEOUT_S,
            check=False,
            env={"PATH": "/usr/bin:/bin", **more},
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.stdout[:SAID_BYTES_MAX].decode("utf-8", "replace") if answer.returncode == 0 else ""


def _libraries(real: str) -> Iterator[str]:
    """As the dynamic linker finds them."""
    for line in _run([real], LD_TRACE_LOADED_OBJECTS="1").splitlines():
        _, arrow, rest = line.partition(" => ")
        path = rest.rpartition(" (0x")[0] if arrow else line.strip().rpartition(" (0x")[0]
        if path.startswith("/") and os.path.exists(path):
            yield path
