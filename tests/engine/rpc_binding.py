"""The RPC reader alone under Python: builds native/reactor/rpc.c out of line and wraps its one function.

Built as tests/native_build.py says.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from tests.native_build import NATIVE, built

__all__ = ["FRAME_BYTES_MAX", "Kind", "Reader", "Request", "Verdict"]

REACTOR = NATIVE / "reactor"
FRAME_BYTES_MAX = 6 * 1024 * 1024 + 64 * 1024


def _declarations() -> str:
    text = (REACTOR / "rpc.h").read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    # The compiler fills in sizes that are said by constants.
    return re.sub(r"\[RPC_[A-Z_]+( \+ 1)?\]", "[...]", text)


# Of the core's directory only invariant.h is read; none of its headers shadows one of libc's.
_module = built(
    "sched_test_rpc",
    header=REACTOR / "rpc.h",
    declarations=_declarations(),
    sources=[REACTOR / "rpc.c"],
    headers=[REACTOR / "rpc.h", NATIVE / "core" / "invariant.h"],
)
ffi = _module.ffi
lib = _module.lib


class Verdict(IntEnum):
    MORE = lib.RPC_MORE
    INVOKE = lib.RPC_INVOKE
    METHOD = lib.RPC_METHOD
    CANCEL = lib.RPC_CANCEL
    BAD = lib.RPC_BAD
    BROKEN = lib.RPC_BROKEN


class Kind(IntEnum):
    SYNC = lib.RPC_SYNC
    EVENT = lib.RPC_EVENT
    DRYRUN = lib.RPC_DRYRUN


@dataclass(frozen=True, slots=True)
class Request:
    """struct rpc_request with bytes for slices, None for absent ones."""

    verdict: Verdict
    size: int
    msgid: int
    notification: bool
    too_large: bool
    method: bytes | None
    params: bytes | None
    function: bytes | None
    payload: bytes | None
    payload_msgpack: bool
    report: bool
    log_tail: bool
    stream: bool
    kind: Kind
    deadline_ms: int
    client_context: bytes | None
    trace: bytes | None
    guest: bytes | None
    idempotency_key: bytes | None
    request_id: bytes | None
    cancel_msgid: int
    error: str


def _slice(value: Any) -> bytes | None:
    return None if value.at == ffi.NULL else bytes(ffi.buffer(value.at, value.size))


class Reader:
    """One stream's frame: give() it ever longer beginnings of the frame's bytes until it says something else than MORE."""

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._scan = ffi.new("struct rpc_scan *")
        self._limits = ffi.new("struct rpc_limits *", {"frame_bytes_max": frame_bytes_max})
        self._request = ffi.new("struct rpc_request *")

    @property
    def need(self) -> int:
        return int(self._scan.need)

    def give(self, data: bytes) -> Request:
        r = self._request
        verdict = Verdict(lib.rpc_read(self._scan, ffi.from_buffer(data), len(data), self._limits, r))
        return Request(
            verdict,
            r.size,
            r.msgid,
            bool(r.notification),
            bool(r.too_large),
            _slice(r.method),
            _slice(r.params),
            _slice(r.function),
            _slice(r.payload),
            bool(r.payload_msgpack),
            bool(r.report),
            bool(r.log_tail),
            bool(r.stream),
            Kind(r.type),
            r.deadline_ms,
            _slice(r.client_context),
            _slice(r.trace),
            _slice(r.guest),
            _slice(r.idempotency_key),
            _slice(r.request_id),
            r.cancel_msgid,
            ffi.string(r.error).decode("ascii"),
        )
