"""How a version of a function is run: forked from Python's process, or as a program that speaks the Runtime API.

Law of this file: it decides from what is given and looks at nothing but the names in the function's own layers. Which bytes go
into a sandbox, scheduler/orders.py says.

A Python function is forked unless it asks for another client (`runtime_client`), its layers bring extensions, or it
asks to be started by a program of its own (AWS_LAMBDA_EXEC_WRAPPER): these need processes and the API.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from scheduler.sandboxes.declarations import FORK, OWN, fill
from scheduler.sandboxes.launcher import RUNTIME_PACKAGE, TASK_ROOT
from scheduler.sandboxes.offers import AWS_CLIENT_PLACE, place_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scheduler.functions.model import FunctionVersion
    from scheduler.sandboxes.offers import Offer, Offers

__all__ = ["API_PORT", "EXTENSIONS_MAX", "WRAPPER", "Way", "choose", "plain"]

API_PORT: Final = 9001
WRAPPER: Final = "AWS_LAMBDA_EXEC_WRAPPER"
EXTENSIONS: Final = "extensions"  # of /opt: each executable file there is one
EXTENSIONS_MAX: Final = 10
# Started first or last, a variable like this one cannot be anybody's alone.
SEARCH_PATH: Final = "PYTHONPATH"
_SANDBOX: Final = {"runtime": "/var/runtime", "task": TASK_ROOT, "opt": "/opt"}


@dataclass(frozen=True, slots=True)
class Way:
    """shell: name of the pool of shells. programs: paths, the first that is there is executed; none: it is forked. arguments:
    behind it. environment: variables that the function's own go before, but for SEARCH_PATH, where both count. extensions:
    paths of programs. execution_environment: empty where the variable is not to be set. afresh: one that was started ahead
    cannot take what the function brings."""

    shell: str
    execution_environment: str
    programs: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    extensions: tuple[str, ...] = ()
    wrapper: str | None = None
    afresh: bool = False

    @property
    def forked(self) -> bool:
        return not self.programs


def plain(version: FunctionVersion, offers: Offers) -> tuple[str, bool] | None:
    """Shell, and whether it is forked, where the configuration alone says it. None: its layers have to be looked at."""
    config = version.config
    offer = offers.here.get(config.runtime)
    if offer is None:
        return config.runtime, True
    if offer.fork is None:
        return offer.exec.name, False
    if version.layers or config.runtime_client != OWN or WRAPPER in config.environment:
        return None
    return offer.fork.name, True


def choose(version: FunctionVersion, offers: Offers, *, code_dir: Path, layers_dir: Path | None, task_root: str) -> Way:
    """code_dir, layers_dir: where package and layers lie unpacked. task_root: where a sandbox sees the code. ValueError: its
    layers bring too much."""
    config = version.config
    offer = offers.here.get(config.runtime)
    if offer is None:  # there is none any more: whoever wants a shell of it is told
        return Way(config.runtime, f"AWS_Lambda_{config.runtime}")
    bare = task_root != TASK_ROOT  # without namespaces a sandbox sees files where the host has them
    opt = str(layers_dir) if bare and layers_dir is not None else _SANDBOX["opt"]
    extensions = tuple(f"{opt}/{EXTENSIONS}/{name}" for name in _extensions(layers_dir))
    wrapper = config.environment.get(WRAPPER) or None
    named = config.runtime_client
    if offer.declaration.kind == FORK and named == OWN and not extensions and wrapper is None:
        return Way(offer.shell(forked=True).name, offer.declaration.execution_environment)
    directory = offer.declaration.directory
    places = dict(_SANDBOX) | {
        "interpreter": offer.exec.executable,
        "handler": config.handler,
        "directory": place_of(offer.declaration),
        "packages": AWS_CLIENT_PLACE if offer.packages else "",
    }
    if bare:
        ours = str(RUNTIME_PACKAGE)
        places |= {"runtime": ours, "task": task_root, "opt": opt, "directory": directory, "packages": offer.packages or ""}
    on_host = {
        "task": str(code_dir),
        "opt": str(layers_dir or "/nonexistent"),
        "runtime": str(RUNTIME_PACKAGE),
        "directory": directory,
    }
    return _executed(offer, named, places, on_host, config.environment, extensions, wrapper)


def _executed(
    offer: Offer,
    named: str,
    places: dict[str, str],
    on_host: dict[str, str],
    own: Mapping[str, str],
    extensions: tuple[str, ...],
    wrapper: str | None,
) -> Way:
    declaration = offer.declaration
    program = offer.client(named) or offer.client(OWN)
    assert program is not None, f"{offer.name} has no client"
    candidates = [fill(path, places.__getitem__) for path in program.bootstrap]
    if candidates:
        there = (fill(path, (places | on_host).__getitem__) for path in program.bootstrap)
        places["bootstrap"] = next(
            (seen for seen, path in zip(candidates, there, strict=True) if os.path.exists(path)), candidates[0]
        )
    first, *others = program.argv
    programs = candidates if first == "{bootstrap}" else [fill(first, places.__getitem__)]
    environment = {
        name: fill(value, places.__getitem__).rstrip(":")
        for name, value in {**declaration.environment, **program.environment}.items()
    }
    return Way(
        shell=offer.exec.name,
        execution_environment=declaration.execution_environment,
        programs=tuple(programs),
        arguments=tuple(fill(word, places.__getitem__) for word in others),
        environment=environment,
        extensions=extensions,
        wrapper=wrapper,
        afresh=named != OWN or any(name in own for name in declaration.afresh),
    )


def _extensions(layers_dir: Path | None) -> list[str]:
    if layers_dir is None:
        return []
    try:
        with os.scandir(layers_dir / EXTENSIONS) as entries:
            found = sorted(entry.name for entry in entries if entry.is_file() and os.access(entry.path, os.X_OK))
    except OSError:
        return []
    if len(found) > EXTENSIONS_MAX:
        raise ValueError(f"its layers bring {len(found)} extensions, the limit is {EXTENSIONS_MAX}")
    return found
