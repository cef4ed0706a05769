"""The RPC reader alone under Python: builds native/reactor/rpc.c out of line and wraps its one function.

Declarations are cut from rpc.h itself, so the compiler compares both. As with the core (tests/model/core_binding.py) a build
lives under the digest of its sources, so that a changed reader is rebuilt and an unchanged one is not.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import re
import sys
import sysconfig
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from cffi import FFI

__all__ = ["FRAME_BYTES_MAX", "Kind", "Reader", "Request", "Verdict"]

ROOT = Path(__file__).resolve().parents[2]
REACTOR = ROOT / "native" / "reactor"
INVARIANT = ROOT / "native" / "core" / "invariant.h"
MODULE = "sched_test_rpc"
FRAME_BYTES_MAX = 6 * 1024 * 1024 + 64 * 1024


def _declarations() -> str:
    text = (REACTOR / "rpc.h").read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    # The compiler fills in sizes that are said by constants.
    return re.sub(r"\[RPC_[A-Z_]+( \+ 1)?\]", "[...]", text)


def _build() -> Path:
    digest = hashlib.sha256(sys.version.encode())
    for path in (REACTOR / "rpc.c", REACTOR / "rpc.h", INVARIANT):
        digest.update(path.read_bytes())
    target = ROOT / "build" / "test_rpc" / digest.hexdigest()[:16]
    library = target / f"{MODULE}{sysconfig.get_config_var('EXT_SUFFIX')}"
    target.mkdir(parents=True, exist_ok=True)
    # Several test processes may start at once: one builds, the others wait.
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            builder = FFI()
            builder.cdef(_declarations())
            builder.set_source(
                MODULE,
                '#include "rpc.h"',
                sources=[str(REACTOR / "rpc.c")],
                # For invariant.h; none of that directory's headers shadows one of libc's.
                include_dirs=[str(REACTOR), str(INVARIANT.parent)],
                undef_macros=["NDEBUG"],
                define_macros=[("_GNU_SOURCE", None)],
                extra_compile_args=["-std=c11", "-O2", "-g"],
                py_limited_api=False,
            )
            builder.compile(tmpdir=str(target), target=library.name)
    return library


def _load() -> Any:
    spec = importlib.util.spec_from_file_location(MODULE, _build())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_module = _load()
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
    kind: Kind
    deadline_ms: int
    client_context: bytes | None
    trace: bytes | None
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
            Kind(r.type),
            r.deadline_ms,
            _slice(r.client_context),
            _slice(r.trace),
            _slice(r.idempotency_key),
            _slice(r.request_id),
            r.cancel_msgid,
            ffi.string(r.error).decode("ascii"),
        )
