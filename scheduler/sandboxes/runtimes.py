"""Which Python interpreters this machine offers as runtimes, and what of the file system each has to see.

Law of this file: it looks and describes; it starts nothing but the interpreters themselves, once, to ask them what they are.
A runtime is data, so a test or a configuration can make its own. What an interpreter said may be kept in a file: it holds for
as long as the interpreter's file, and every file it had mapped, is the same.

Names are Lambda's: `python3.11`, `python3.12`, `python3.13`. The one the service itself runs on is the default, and is always
there; others are found on PATH and among the versions that pyenv keeps.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from scheduler.sandboxes.memory import Memory, is_program

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "BASE_PATHS",
    "SUPPORTED",
    "Runtime",
    "default_runtime",
    "find_runtimes",
    "is_public",
    "outermost",
    "probe",
]

SUPPORTED: Final = ((3, 11), (3, 12), (3, 13))
PROBE_TIMEOUT_S: Final = 20

# What every dynamically linked program on Linux may need, and a shell. Missing ones are skipped, symbolic links are copied as
# links. Nothing below /home, /root, /srv, /var or /usr/local, and of /etc only what is public.
BASE_PATHS: Final = (
    "/bin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/usr/bin",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/libx32",
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
)

# Run by the interpreter in question. Loads what has libraries of its own and reports every file that is mapped then.
_PROBE: Final = """
import json, sys
for name in ("_ssl", "_hashlib", "_sqlite3", "_ctypes", "_lzma", "_bz2", "zlib", "_decimal", "_uuid", "readline", "_curses"):
    try:
        __import__(name)
    except ImportError:
        pass
mapped = set()
for line in open("/proc/self/maps"):
    fields = line.split(None, 5)
    if len(fields) == 6 and fields[5].startswith("/"):
        mapped.add(fields[5].rstrip("\\n"))
executable = getattr(sys, "_base_executable", None) or sys.executable
print(json.dumps({"executable": executable, "prefix": sys.base_prefix, "exec_prefix": sys.base_exec_prefix,
                  "version": list(sys.version_info[:3]), "mapped": sorted(mapped)}))
"""


@dataclass(frozen=True, slots=True)
class Runtime:
    """What shells are made of. name: of their pool; for the plain way to run a function that of its runtime. executable: the
    base interpreter, not a virtual environment's; empty: none is needed. paths: what a sandbox sees of the host, read-only,
    each at its own place. kind: "fork" (Python's process is forked), "exec" (a program is executed). prestart: words of what
    a shell of kind "exec" starts at its birth; empty: nothing. placed: more paths of the host, each with where it is seen."""

    name: str
    executable: str
    version: tuple[int, int, int]
    paths: tuple[str, ...]
    kind: str = "fork"
    prestart: tuple[str, ...] = ()
    placed: tuple[tuple[str, str], ...] = ()


def outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """In order, without those that lie below another."""
    kept: list[str] = []
    for path in sorted(set(paths)):
        if not any(path == above or path.startswith(above.rstrip("/") + "/") for above in kept):
            kept.append(path)
    return tuple(kept)


def _needed(prefix: str, executable: str, mapped: Iterable[str]) -> tuple[str, ...]:
    """Base paths, the interpreter's own tree, and the directories of libraries outside both."""
    wanted = [path for path in BASE_PATHS if os.path.lexists(path)]
    if prefix not in ("/", "/usr", "/usr/local"):
        wanted.append(prefix)
    elif prefix == "/usr/local":
        wanted += ["/usr/local/lib", executable]
    seen = [os.path.realpath(path) for path in wanted]
    for file in mapped:
        real = os.path.realpath(file)
        if not any(real == above or real.startswith(above + "/") for above in seen):
            wanted.append(os.path.dirname(file))
            seen.append(os.path.dirname(real))
    return outermost(wanted)


@dataclass(frozen=True, slots=True)
class _Said:
    """What an interpreter said of itself. mapped: files of its libraries."""

    executable: str
    prefix: str
    version: tuple[int, int, int]
    mapped: tuple[str, ...]

    def runtime(self) -> Runtime | None:
        major, minor, _ = self.version
        if (major, minor) not in SUPPORTED:
            return None
        base = os.path.realpath(self.executable)
        return Runtime(
            name=f"python{major}.{minor}",
            executable=base,
            version=self.version,
            paths=_needed(self.prefix, base, [*self.mapped, base]),
        )


def _ask(executable: str) -> _Said | None:
    """None: it does not run."""
    try:
        answer = subprocess.run(
            [executable, "-I", "-S", "-c", _PROBE],
            capture_output=True,
            timeout=PROBE_TIMEOUT_S,
            check=True,
            env={"PATH": "/usr/bin:/bin"},
        )
        found = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    major, minor, micro = found["version"]
    return _Said(found["executable"], found["prefix"], (major, minor, micro), tuple(found["mapped"]))


def _probe(known: Memory, executable: str) -> Runtime | None:
    """As probe(), asked only if it is not known."""
    real = os.path.realpath(executable)
    said = _said(known.recall(real))
    if said is None:
        said = _ask(executable)
        # A script starts an interpreter of its own choice, today this one, tomorrow another.
        if said is not None and is_program(real):
            value = {name: getattr(said, name) for name in _Said.__slots__}
            known.learn(real, (real, said.executable, *said.mapped), value)
    return said.runtime() if said is not None else None


def _said(kept: Mapping[str, Any] | None) -> _Said | None:
    try:
        if kept is None:
            return None
        major, minor, micro = kept["version"]
        return _Said(str(kept["executable"]), str(kept["prefix"]), (major, minor, micro), tuple(kept["mapped"]))
    except (LookupError, TypeError, ValueError):  # not what we wrote
        return None


def probe(executable: str) -> Runtime | None:
    """Asks an interpreter what it is. None: it does not run, or is of a version that is not served."""
    said = _ask(executable)
    return said.runtime() if said is not None else None


def default_runtime() -> str:
    """The name of the one that the service runs on."""
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def _candidates() -> Iterable[str]:
    yield getattr(sys, "_base_executable", None) or sys.executable
    names = [f"python{major}.{minor}" for major, minor in SUPPORTED]
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        for name in names:
            yield os.path.join(directory, name)
    for major, minor in SUPPORTED:
        with contextlib.suppress(OSError):  # another user's, who shows them to nobody
            found = sorted((_pyenv() / "versions").glob(f"{major}.{minor}.*/bin/python{major}.{minor}"))
            yield from map(str, found)


def is_public(path: str) -> bool:
    """Every user can get there."""
    return all(parent.stat().st_mode & 0o001 for parent in Path(path).parents)


def _pyenv() -> Path:
    return Path(os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv"))


def find_runtimes(
    extra: Mapping[str, str] | None = None, *, memory: Path | Memory | None = None, prefer_public: bool = False
) -> dict[str, Runtime]:
    """By name, the service's own first. extra: name -> executable, which goes before what is found. memory: a file that keeps
    what interpreters said; its directory must exist. prefer_public: of two of a name rather the one that every user may read,
    for sandboxes that see the host's tree and are another user.

    ValueError: an `extra` interpreter is not what its name says.
    """
    known = memory if isinstance(memory, Memory) else Memory(memory)
    runtimes: dict[str, Runtime] = {}
    for name, executable in (extra or {}).items():
        runtime = _probe(known, executable)
        if runtime is None or runtime.name != name:
            raise ValueError(f"runtime {name}: {executable} is {runtime.name if runtime else 'not a Python that is served'}")
        runtimes[name] = runtime
    hidden: dict[str, Runtime] = {}
    tried: set[str] = set()
    shims = str(_pyenv() / "shims")
    for candidate in _candidates():
        real = os.path.realpath(candidate)
        if real in tried or not os.access(real, os.X_OK):
            continue
        if os.path.dirname(candidate) == shims:
            continue  # scripts of pyenv, slow ones, that start what is found among its versions
        tried.add(real)
        if os.path.basename(candidate) in runtimes:
            continue
        runtime = _probe(known, candidate)
        if runtime is not None:
            found = hidden if prefer_public and not is_public(runtime.executable) else runtimes
            found.setdefault(runtime.name, runtime)
    known.keep()
    runtimes = {**hidden, **runtimes}
    own = default_runtime()
    return {name: runtimes[name] for name in sorted(runtimes, key=lambda name: (name != own, name))}
