"""From START to a process that looks like Lambda's to the function in it.

START is one JSON object (docs/internals/channel.md). Its environment is complete: what the process had before is gone.
"""

import builtins
import json
import os
import site
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .context import Identity
from .output import open_stream

if TYPE_CHECKING:
    from .channel import Channel

__all__ = ["Start", "enter", "find_modules", "parse_start", "reenter"]

# Behind everything else on the path, so that a function may bring its own.
PACKAGES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "packages")


@dataclass(frozen=True, slots=True)
class Start:
    identity: Identity
    handler: str
    task_root: str
    environment: dict[str, str]
    snapshot: str | None  # "take", "restore"; None: neither


_FIELDS: dict[str, type] = {
    "function_name": str,
    "function_version": str,
    "invoked_function_arn": str,
    "handler": str,
    "memory_mb": int,
    "timeout_ms": int,
    "task_root": str,
    "environment": dict,
    "log_group_name": str,
    "log_stream_name": str,
}


def parse_start(body: bytes) -> Start:
    """ValueError names the field that is missing or of the wrong type. Unknown fields are ignored: the service may be newer."""
    values: dict[str, Any] = json.loads(body)
    for name, kind in _FIELDS.items():
        if not isinstance(values.get(name), kind):
            raise ValueError(f"START: {name} is {values.get(name)!r}, must be {kind.__name__}")
    return Start(
        identity=Identity(
            function_name=values["function_name"],
            function_version=values["function_version"],
            invoked_function_arn=values["invoked_function_arn"],
            memory_mb=values["memory_mb"],
            timeout_ns=values["timeout_ms"] * 1_000_000,
            log_group_name=values["log_group_name"],
            log_stream_name=values["log_stream_name"],
        ),
        handler=values["handler"],
        task_root=values["task_root"],
        environment=values["environment"],
        snapshot=_snapshot(values.get("snapshot")),
    )


def _snapshot(value: Any) -> str | None:
    if value is not None and value not in ("take", "restore"):
        raise ValueError(f"START: snapshot is {value!r}, must be take or restore, or be left out")
    return value  # type: ignore[no-any-return]


def enter(start: Start, channel: "Channel") -> None:
    """Put the process into the state a function finds itself in: environment, clock, streams, import path, directory."""
    os.environ.clear()
    os.environ.update(start.environment)
    time.tzset()
    if "random" in sys.modules:  # forked from a process that others were forked from too
        sys.modules["random"].seed()
    sys.stdout = sys.__stdout__ = open_stream(channel, 1)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = open_stream(channel, 2)  # type: ignore[misc]
    find_modules(start.task_root, start.environment.get("PYTHONPATH", ""))
    os.chdir(start.task_root)


def find_modules(task_root: str, python_path: str) -> None:
    """Import path, arguments and built-ins as a function expects them."""
    sys.argv = [os.path.join(os.path.dirname(__file__), "bootstrap.py")]
    sys.path[:0] = _paths(task_root, python_path)
    sys.path.append(PACKAGES)
    if not hasattr(builtins, "exit"):  # -S leaves these out, and functions use them
        site.setquit()


def reenter(made_for: Start, start: Start) -> None:
    """The same in a process restored from an image: what differs is put in place, what init itself has set stays."""
    before, after = made_for.environment, start.environment
    for name in before.keys() | after.keys():
        if name not in after:
            os.environ.pop(name, None)
        elif before.get(name) != after[name]:
            os.environ[name] = after[name]
    if before.get("TZ") != after.get("TZ"):
        time.tzset()


def _paths(task_root: str, python_path: str) -> list[str]:
    own = [path for path in python_path.split(os.pathsep) if path]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [task_root, *own, "/opt/python", f"/opt/python/lib/{version}/site-packages"]
