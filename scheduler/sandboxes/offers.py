"""What this machine offers to functions: each declared runtime whose interpreter is here, and the shells that it needs.

Law of this file: it puts together what declarations.py says and what runtimes.py and interpreters.py find; it starts nothing
that waits. A runtime that is declared but not here is told with what to install.

    offers = find_offers(read_declarations())
    offers.here["nodejs20.x"].exec          -> the Runtime that its shells are made of
    offers.shells                           -> all that the launcher has to know of
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scheduler.sandboxes.declarations import EXEC, FORK, fill
from scheduler.sandboxes.interpreters import find_interpreter
from scheduler.sandboxes.memory import Memory
from scheduler.sandboxes.runtimes import BASE_PATHS, Runtime, default_runtime, find_runtimes, outermost

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scheduler.sandboxes.declarations import Declaration, Program

__all__ = ["AWS_CLIENT", "AWS_CLIENT_PLACE", "Offer", "Offers", "find_offers", "place_of"]

EXEC_POOL: Final = "/exec"  # behind the name of a runtime of kind "fork": shells for its clients of the Runtime API
RUNTIME_ROOT: Final = "/var/runtime"
PLACES_ROOT: Final = "/var/runtimes"
AWS_CLIENT: Final = "awslambdaric"
AWS_CLIENT_PLACE: Final = f"{PLACES_ROOT}/{AWS_CLIENT}"  # where a sandbox sees it
# What the package of AWS's client consists of, as PyPI installs it.
AWS_CLIENT_PARTS: Final = ("awslambdaric", "runtime_client*.so", "simplejson", "snapshot_restore_py*")


@dataclass(frozen=True, slots=True)
class Offer:
    """A runtime that functions may name. fork: shells that are forked, None where it is of kind "exec". exec: shells that
    execute a program. packages: where AWS's client of this interpreter lies, if the service's environment has it."""

    declaration: Declaration
    fork: Runtime | None
    exec: Runtime
    packages: str | None = None

    @property
    def name(self) -> str:
        return self.declaration.name

    @property
    def version(self) -> tuple[int, int, int]:
        return self.exec.version

    @property
    def clients(self) -> list[str]:
        """Names of the clients of the Runtime API that a function may choose from."""
        return list(self.declaration.clients)

    def shell(self, *, forked: bool) -> Runtime:
        """What its shells are made of: for the runtime's own fast way, or to execute a program."""
        return self.fork if forked and self.fork is not None else self.exec

    def client(self, name: str) -> Program | None:
        """How it is run over the Runtime API."""
        return self.declaration.clients.get(name)


@dataclass(frozen=True, slots=True)
class Offers:
    """here: what functions may name, the service's own Python first. missing: declared, but the interpreter is not here."""

    here: Mapping[str, Offer]
    missing: Mapping[str, Declaration] = field(default_factory=dict)

    @property
    def shells(self) -> dict[str, Runtime]:
        """By name of their pool."""
        every = [shell for offer in self.here.values() for shell in (offer.fork, offer.exec) if shell is not None]
        return {shell.name: shell for shell in every}

    @property
    def compilers(self) -> dict[str, str | None]:
        """By runtime: the Python that compiles a package ahead; None: it is no Python."""
        return {name: offer.fork.executable if offer.fork is not None else None for name, offer in self.here.items()}

    @property
    def absent(self) -> dict[str, str]:
        """By runtime that is not here: a sentence for whoever wants it."""
        return {name: _absent(declaration) for name, declaration in self.missing.items()}


def find_offers(declarations: Mapping[str, Declaration], *, memory: Path | None = None, prefer_public: bool = False) -> Offers:
    """memory: a file that keeps what interpreters said. prefer_public: see find_runtimes()."""
    known = Memory(memory)
    pythons = find_runtimes(memory=known, prefer_public=prefer_public)
    here: dict[str, Offer] = {}
    missing: dict[str, Declaration] = {}
    for name, declaration in declarations.items():
        python = pythons.get(name)
        if declaration.kind == FORK and python is not None:
            here[name] = _python(declaration, python)
        elif declaration.kind == EXEC and not declaration.names:
            shell = Runtime(
                name, "", (0, 0, 0), _with(declaration, _base()), EXEC, _prestart(declaration, ""), _placed(declaration)
            )
            here[name] = Offer(declaration, None, shell)
        elif declaration.kind == EXEC and (found := find_interpreter(declaration, known, prefer_public=prefer_public)):
            prestart = _prestart(declaration, found.executable)
            shell = Runtime(
                name, found.executable, found.version, _with(declaration, found.paths), EXEC, prestart, _placed(declaration)
            )
            here[name] = Offer(declaration, None, shell)
        else:
            missing[name] = declaration
    known.keep()
    here = _shared(here)
    own = default_runtime()
    rank = {FORK: 0, EXEC: 1}
    order = sorted(here, key=lambda name: (name != own, rank[here[name].declaration.kind], name))
    return Offers({name: here[name] for name in order}, missing)


def _absent(declaration: Declaration) -> str:
    how = f"; to install it: {declaration.install}" if declaration.install else ""
    return (
        f"{declaration.name} is known here, but {declaration.title or declaration.name} is not installed on this machine{how}"
    )


def _shared(offers: dict[str, Offer]) -> dict[str, Offer]:
    """Runtimes whose shells are the same share them."""
    first: dict[Runtime, Runtime] = {}
    return {
        name: replace(offer, exec=first.setdefault(replace(offer.exec, name="", version=(0, 0, 0)), offer.exec))
        for name, offer in offers.items()
    }


def _base() -> tuple[str, ...]:
    return outermost(path for path in BASE_PATHS if os.path.lexists(path))


def _with(declaration: Declaration, paths: Iterable[str]) -> tuple[str, ...]:
    """Together with what the file names."""
    wanted = [path for path in declaration.paths if path.startswith("/") and os.path.lexists(path)]
    return outermost([*paths, *wanted])


def place_of(declaration: Declaration) -> str:
    """Where a sandbox sees what stands beside the runtime's file: not at its own place, which may be one that sandboxes have
    for themselves, like /tmp."""
    return f"{PLACES_ROOT}/{declaration.name}"


def _placed(declaration: Declaration) -> tuple[tuple[str, str], ...]:
    files = ((f"{declaration.directory}/{name}", f"{place_of(declaration)}/{name}") for name in declaration.beside)
    return tuple((path, place) for path, place in files if os.path.lexists(path))


def _prestart(declaration: Declaration, executable: str) -> tuple[str, ...]:
    places = {"interpreter": executable, "runtime": RUNTIME_ROOT, "directory": place_of(declaration)}
    return tuple(fill(word, places.__getitem__) for word in declaration.prestart)


def _python(declaration: Declaration, python: Runtime) -> Offer:
    packages, parts = _aws_client() if python.name == default_runtime() else (None, [])
    shell = Runtime(
        name=python.name + EXEC_POOL,
        executable=python.executable,
        version=python.version,
        paths=_with(declaration, python.paths),
        kind=EXEC,
        prestart=_prestart(declaration, python.executable),
        placed=tuple((part, f"{AWS_CLIENT_PLACE}/{os.path.basename(part)}") for part in parts),
    )
    return Offer(declaration, python, shell, packages)


def _aws_client() -> tuple[str | None, list[str]]:
    """Where the environment of this process has it, and its parts: nothing else of that environment is shown to sandboxes."""
    try:
        spec = find_spec(AWS_CLIENT)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or sys.base_prefix == "":
        return None, []
    directory = Path(spec.origin).resolve().parent.parent
    return str(directory), [str(path) for pattern in AWS_CLIENT_PARTS for path in sorted(directory.glob(pattern))]
