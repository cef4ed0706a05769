"""START for a sandbox that executes programs: bytes that the agent in it reads without a library.

Law of this file: values to bytes, no system call, no policy. native/launcher/execstart.h is the other side, and
docs/internals/channel.md has the table. Strings end with NUL and have no length in front: who keeps START prepared may put a
mark of its own into them and replace it later by whatever has no NUL in it.
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = [
    "ARGUMENTS_MAX",
    "EXTENSIONS_MAX",
    "PROGRAMS_MAX",
    "START_BYTES_MAX",
    "VARIABLES_MAX",
    "encode_start",
    "extension_variables",
]

MAGIC: Final = 0x45584543
VERSION: Final = 1
START_BYTES_MAX: Final = 131_072
PROGRAMS_MAX: Final = 4
ARGUMENTS_MAX: Final = 64
VARIABLES_MAX: Final = 1024
EXTENSIONS_MAX: Final = 10
AFRESH: Final = 1
_HEADER: Final = struct.Struct("<IHHHHHHHH")

# What the runtime is told and extensions are not.
_RUNTIME_ONLY: Final = frozenset(
    {
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "LAMBDA_RUNTIME_DIR",
        "LAMBDA_TASK_ROOT",
    }
)
_RUNTIME_ONLY_PREFIXES: Final = ("_", "AWS_XRAY_")


def extension_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Those of the runtime's variables that extensions get."""
    return {
        name: value
        for name, value in environment.items()
        if name not in _RUNTIME_ONLY and not name.startswith(_RUNTIME_ONLY_PREFIXES)
    }


def encode_start(
    *,
    argv: Sequence[str],
    cwd: str,
    environment: Mapping[str, str],
    or_else: Sequence[str] = (),
    extensions: Sequence[str] = (),
    extension_environment: Mapping[str, str] | None = None,
    wrapper: str | None = None,
    afresh: bool = False,
) -> bytes:
    """argv: the program, an absolute path, and its arguments. or_else: programs to execute where that is none, in order.
    environment: all of it. extensions: absolute paths of programs. extension_environment: theirs; None: what
    extension_variables() leaves of the runtime's. wrapper: a program that is executed instead, with argv behind it.
    afresh: a program started at the sandbox's birth is not used.

    ValueError names the field, its value and the limit.
    """
    programs = [*argv[:1], *or_else]
    arguments = list(argv[1:])
    if not extensions:
        extension_environment = {}
    of_extensions = extension_variables(environment) if extension_environment is None else extension_environment
    _paths("cwd", [cwd], 1, 1)
    _paths("argv", programs, 1, PROGRAMS_MAX)
    _paths("extensions", extensions, 0, EXTENSIONS_MAX)
    if len(arguments) > ARGUMENTS_MAX:
        raise ValueError(f"argv has {len(arguments)} arguments, the limit is {ARGUMENTS_MAX}")
    if wrapper is not None and not wrapper:
        raise ValueError("wrapper is '', must be a program's path or be left out")
    header = _HEADER.pack(
        MAGIC,
        VERSION,
        AFRESH if afresh else 0,
        int(wrapper is not None),
        len(programs),
        len(arguments),
        len(environment),
        len(extensions),
        len(of_extensions),
    )
    texts = [
        *_texts("cwd", [cwd]),
        *_texts("wrapper", [] if wrapper is None else [wrapper]),
        *_texts("argv", [*programs, *arguments]),
        *_variables("environment", environment),
        *_texts("extensions", extensions),
        *_variables("extension_environment", of_extensions),
    ]
    start = header + b"".join(texts)
    if len(start) > START_BYTES_MAX:
        raise ValueError(f"environment, arguments and paths are {len(start)} bytes, the limit is {START_BYTES_MAX}")
    return start


def _paths(field: str, values: Sequence[str], least: int, most: int) -> None:
    if not least <= len(values) <= most:
        raise ValueError(f"{field} has {len(values)} programs, must be {least} to {most}")
    for value in values:
        if not value.startswith("/"):
            raise ValueError(f"{field} is {value!r}, must be an absolute path")


def _texts(field: str, values: Iterable[str]) -> list[bytes]:
    encoded = [os.fsencode(value) for value in values]
    for text in encoded:
        if b"\0" in text:
            raise ValueError(f"{field} has {text!r}, which holds a NUL byte")
    return [text + b"\0" for text in encoded]


def _variables(field: str, variables: Mapping[str, str]) -> list[bytes]:
    if len(variables) > VARIABLES_MAX:
        raise ValueError(f"{field} has {len(variables)} variables, the limit is {VARIABLES_MAX}")
    for name in variables:
        if not name or "=" in name:
            raise ValueError(f"{field} has a variable called {name!r}, which is no name")
    for name, value in variables.items():
        if "\0" in value or "\0" in name:  # the value is nobody's to read here
            raise ValueError(f"{field}: variable {name!r} holds a NUL byte")
    return _texts(field, (f"{name}={value}" for name, value in variables.items()))
