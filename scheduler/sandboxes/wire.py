"""Messages between the service and scheduler-launcher: the one mirror of native/launcher/protocol.h.

Law of this file: bytes to values and back, no socket, no policy. A test compares LAYOUT and every number with what the
launcher itself says it was compiled with.
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "ENFORCED",
    "FDS_MAX",
    "FLAG_SCRATCH",
    "LAYOUT",
    "NOTICE_BYTES",
    "PORTS_MAX",
    "PROTOCOL_VERSION",
    "REQUEST_EXEC",
    "REQUEST_OUTBOUND",
    "REQUEST_QUIET",
    "RUNTIMES_MAX",
    "SLOTS_MAX",
    "TEXT_BYTES_MAX",
    "Cause",
    "Isolation",
    "Limit",
    "Notice",
    "NoticeKind",
    "RequestKind",
    "descriptors",
    "encode",
]

FDS_MAX: Final = 12
FLAG_SCRATCH: Final = 16  # of READY: /tmp can be on disk, encrypted
PORTS_MAX: Final = 4
PROTOCOL_VERSION: Final = 8
REQUEST_EXEC: Final = 4
REQUEST_OUTBOUND: Final = 1
REQUEST_QUIET: Final = 2
TEXT_BYTES_MAX: Final = 16384
RUNTIMES_MAX: Final = 32
SLOTS_MAX: Final = 4096

# struct -> (field, struct code) in order; no padding.
LAYOUT: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "request": (
        ("kind", "I"),
        ("runtime", "I"),
        ("token", "Q"),
        ("shell", "Q"),
        ("memory_mb", "I"),
        ("ephemeral_storage_mb", "I"),
        ("strings", "I"),
        ("text_bytes", "I"),
        ("flags", "I"),
        ("words", "I"),
        ("ports", "8s"),
    ),
    "notice": (
        ("kind", "I"),
        ("flags", "I"),
        ("token", "Q"),
        ("shell", "Q"),
        ("cpu_ns", "Q"),
        ("memory_peak_bytes", "Q"),
        ("cause", "I"),
        ("status", "i"),
        ("error", "i"),
        ("runtime", "I"),
        ("step", "48s"),
        ("note", "200s"),
    ),
}


def _struct(name: str) -> struct.Struct:
    return struct.Struct("<" + "".join(code for _, code in LAYOUT[name]))


_REQUEST: Final = _struct("request")
_PORTS: Final = struct.Struct(f"<{PORTS_MAX}H")
_NOTICE: Final = _struct("notice")
NOTICE_BYTES: Final = _NOTICE.size


class RequestKind(Enum):
    RUNTIME = 1
    SHELL = 2
    SPECIALISE = 3
    KILL = 4
    REST = 5
    PING = 6
    LOADED = 7
    NETWORK = 8
    SEAL = 9
    EXPECT = 10
    FREEZE = 11
    THAW = 12


class NoticeKind(Enum):
    READY = 1
    REFUSED = 2
    SHELL = 3
    SHELL_FAILED = 4
    SPECIALISED = 5
    SPECIALISE_FAILED = 6
    EXITED = 7
    WARNING = 8
    PONG = 9
    NETWORK = 10


class Cause(Enum):
    """How a sandbox ended. KILLED: by us. OOM: its memory limit."""

    EXIT = 1
    SIGNAL = 2
    OOM = 3
    KILLED = 4
    LAUNCH_FAILED = 5


class Isolation(Enum):
    """ROOT: namespaces, each sandbox a uid of its own. USER: namespaces below a user namespace of a normal user.
    PROCESS: bare processes; no protection from one another beyond what a uid gives."""

    ROOT = 1
    USER = 2
    PROCESS = 3


class Limit(Enum):
    """What the kernel enforces or measures by control groups here."""

    MEMORY = 1
    PIDS = 2
    CPU = 4
    CPU_TIME = 8
    FREEZE = 32


ENFORCED: Final = (Limit.MEMORY, Limit.PIDS, Limit.CPU)


@dataclass(frozen=True, slots=True)
class Notice:
    kind: NoticeKind
    flags: int
    token: int
    shell: int
    cpu_ns: int
    memory_peak_bytes: int
    cause: int
    status: int
    error: int
    runtime: int
    step: str
    note: str

    @classmethod
    def decode(cls, data: bytes) -> Notice:
        kind, *numbers, step, note = _NOTICE.unpack(data)
        texts = (raw.split(b"\0", 1)[0].decode("utf-8", "replace") for raw in (step, note))
        return cls(NoticeKind(kind), *numbers, *texts)


def encode(
    kind: RequestKind,
    *,
    runtime: int = 0,
    token: int = 0,
    shell: int = 0,
    memory_mb: int = 0,
    ephemeral_storage_mb: int = 0,
    flags: int = 0,
    words: int = 0,
    ports: Iterable[int] = (),
    strings: Iterable[str] = (),
) -> bytes:
    parts = [os.fsencode(text) for text in strings]
    for part in parts:
        if b"\0" in part:
            raise ValueError(f"{part!r} holds a NUL byte, which no path has")
    text = b"".join(part + b"\0" for part in parts)
    if len(text) > TEXT_BYTES_MAX:
        raise ValueError(f"paths of one request are {len(text)} bytes, the limit is {TEXT_BYTES_MAX}")
    numbers = (runtime, token, shell, memory_mb, ephemeral_storage_mb, len(parts), len(text), flags, words)
    listeners = (*ports, *[0] * PORTS_MAX)[:PORTS_MAX]
    return _REQUEST.pack(kind.value, *numbers, _PORTS.pack(*listeners)) + text


def descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(data) - len(data) % struct.calcsize("i")
            fds.extend(number for (number,) in struct.iter_unpack("i", data[:whole]))
    return fds
