"""The only module that touches the native engine: typed commands in, batches of typed events out.

Law of this file: everything that is `Any` stays in here. Commands and events are plain data (scheduler/messages.py). Methods
are for trio's thread, but for run(), which holds the reactor's thread until the engine is stopped.

The command ring is bounded. post() keeps the order of its callers, waits for room when the ring is full, and closes a command's
descriptors when it cannot be delivered, so that nobody else has to.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from dataclasses import fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Self

import trio

from scheduler._native._core import ffi, lib
from scheduler.errors import Internal, SchedulerError, Unavailable
from scheduler.messages import NO_LIMIT as _NO_LIMIT
from scheduler.messages import NO_LIMIT_64 as _NO_LIMIT_64
from scheduler.messages import (
    AccountPut,
    AccountRemove,
    AccountStats,
    Closed,
    Command,
    CommandKind,
    CoreEvent,
    Drain,
    Drained,
    EngineConfig,
    Event,
    EventKind,
    Fault,
    Freed,
    FunctionFreed,
    FunctionPut,
    FunctionRemove,
    FunctionStats,
    FunctionSwitch,
    Gone,
    Histogram,
    HttpHanded,
    InitFailed,
    Killed,
    LoopStats,
    MethodCall,
    Need,
    Opened,
    Outcome,
    Ready,
    Resource,
    Rest,
    Right,
    SandboxReaped,
    SandboxRetire,
    SandboxUsage,
    SandboxWant,
    Snapshot,
    Span,
    Tier,
    Totals,
    UrlAnswered,
    Why,
    stop,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CannotListen", "Engine", "EngineError", "EngineStalled", "histogram_bounds", "render_log"]

ABI = 1
if lib.SCHED_ABI != ABI:  # pragma: no cover - a developer's tree that was not rebuilt
    raise ImportError(f"the native engine speaks ABI {lib.SCHED_ABI}, this module {ABI}: run `make build`")

BATCH_MAX = 256  # events taken at once
STATS_FUNCTIONS_MAX = 32  # function slots in one turn of the reactor: 1.3 MB of counters, a fraction of a millisecond
POST_TIMEOUT_S = 5.0  # a reactor that takes no command for so long is stuck
POST_PAUSE_S = 0.001
RENDER_BYTES = 1 << 18
FDS: int = lib.SCHED_FDS


class EngineError(Internal):
    """The engine could not be made or asked."""


class CannotListen(Unavailable):
    """A socket or an address could not be had: taken, not allowed, or not there. It is not our bug."""


class EngineStalled(EngineError):
    """The command ring was full for POST_TIMEOUT_S."""


# ---- commands ---------------------------------------------------------------------------------------------------------------

# Bytes and nanoseconds of CPU pass 2**31 in a working service: "no limit" is a larger number there.
_UNLIMITED = tuple(_NO_LIMIT_64 if r in (Resource.QUEUED_BYTES, Resource.CPU) else _NO_LIMIT for r in Resource)


def _fill_account(u: Any, event: AccountPut) -> None:
    u.account.index = event.index
    u.account.parent = event.parent
    u.account.weight = event.weight
    u.account.burst = event.burst
    for resource in Resource:
        u.account.max[resource] = event.maxima.get(resource, _UNLIMITED[resource])
        u.account.min[resource] = event.minima.get(resource, 0)


def _fill_account_remove(u: Any, event: AccountRemove) -> None:
    u.account.index = event.index


def _fill_function(u: Any, event: FunctionPut) -> None:
    u.function.handle = event.handle
    u.function.account = event.account
    u.function.weight = event.weight
    u.function.revision = event.revision
    u.function.memory_mb = event.memory_mb
    u.function.ahead_max = event.ahead_max
    u.function.provisioned = event.provisioned
    u.function.timeout_ns = event.timeout_ns
    u.function.queue_timeout_ns = event.queue_timeout_ns


def _fill_switch(u: Any, event: FunctionSwitch) -> None:
    u.function.handle = event.handle
    u.function.revision = event.revision


def _fill_function_remove(u: Any, event: FunctionRemove) -> None:
    u.function.handle = event.handle


def _fill_want(u: Any, event: SandboxWant) -> None:
    u.sandbox.function = event.function
    u.sandbox.revision = event.revision


def _fill_reaped(u: Any, event: SandboxReaped) -> None:
    u.sandbox.handle = event.sandbox
    u.sandbox.cause = event.cause
    u.sandbox.status = event.status
    u.sandbox.cpu_ns = event.cpu_ns
    u.sandbox.memory_peak_bytes = event.memory_peak_bytes


def _fill_usage(u: Any, event: SandboxUsage) -> None:
    u.sandbox.handle = event.sandbox
    u.sandbox.cpu_ns = event.cpu_ns
    u.sandbox.memory_peak_bytes = event.memory_peak_bytes


def _fill_retire(u: Any, event: SandboxRetire) -> None:
    u.sandbox.handle = event.sandbox


def _fill_drain(u: Any, event: Drain) -> None:
    u.drain.deadline_ns = event.deadline_ns


_FILL: dict[type, Any] = {
    AccountPut: _fill_account,
    AccountRemove: _fill_account_remove,
    FunctionPut: _fill_function,
    FunctionSwitch: _fill_switch,
    FunctionRemove: _fill_function_remove,
    SandboxWant: _fill_want,
    SandboxReaped: _fill_reaped,
    SandboxUsage: _fill_usage,
    SandboxRetire: _fill_retire,
    Drain: _fill_drain,
}


def _fill(raw: Any, command: Command) -> None:
    ffi.memmove(raw, _ZERO, ffi.sizeof("struct sched_command"))
    raw.kind = command.kind
    raw.flags = command.flags
    raw.function = command.function
    raw.sandbox = command.sandbox
    raw.connection = command.connection
    raw.msgid = command.msgid
    raw.tag = command.tag
    for i, value in enumerate(command.u32s):
        raw.u32s[i] = value
    for i in range(FDS):
        raw.fds[i] = command.fds[i] if i < len(command.fds) else -1
    if command.core is not None:
        event: CoreEvent = command.core
        raw.core.kind = event.kind
        _FILL[type(event)](raw.core.u, event)


_ZERO = bytes(ffi.sizeof("struct sched_command"))


def _close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        if fd >= 0:
            with suppress(OSError):  # whoever passed a dead descriptor has nothing to lose here
                os.close(fd)


def json_problem(data: bytes) -> int | None:
    """None: it is one JSON value (RFC 8259). Else the offset of the byte where it stops being one."""
    at = ffi.new("size_t *")
    return None if lib.sched_json_valid(data, len(data), at) else int(at[0])


# ---- events -----------------------------------------------------------------------------------------------------------------


def _blob(raw: Any) -> bytes:
    return bytes(ffi.buffer(raw.blob, raw.blob_bytes)) if raw.blob_bytes else b""


def _words(text: bytes) -> str:
    """A stranger's, for one line of a log."""
    return "".join(c if c.isprintable() else "?" for c in text.decode("utf-8", "replace"))


def _method(raw: Any) -> MethodCall:
    blob = _blob(raw)
    size = int.from_bytes(blob[:2], "little")
    return MethodCall(
        connection=raw.connection,
        msgid=raw.msgid,
        rights=Right(raw.rights & (Right.ALL | Right.OWN)),
        method=blob[2 : 2 + size].decode("utf-8", "replace"),
        params=blob[2 + size :],
        notification=bool(raw.flags & 1),
    )


_SPAN: Final = struct.Struct("=6Q16s")  # struct sched_span


def _span(raw: Any) -> Span:
    blob = _blob(raw)
    parent, arrived, init, started, ended, answered, request_id = _SPAN.unpack_from(blob)
    return Span(
        function=raw.function,
        outcome=Outcome(raw.flags),
        parent=parent,
        arrived_ns=arrived,
        init_ns=init,
        started_ns=started,
        ended_ns=ended,
        answered_ns=answered,
        request_id=request_id,
        trace=blob[_SPAN.size :].decode("ascii", "replace"),
    )


_URL_HEAD: Final = struct.Struct("=36s?I")  # request id, close, bytes of the next request


def _handed(fd: int, blob: bytes) -> HttpHanded:
    """An HTTP connection that is still owed the answer of a function URL."""
    request_id, close, begun = _URL_HEAD.unpack_from(blob)
    result = _URL_HEAD.size + begun
    return HttpHanded(fd, blob[_URL_HEAD.size : result], UrlAnswered(request_id.decode(), blob[result:], close))


_READ: dict[EventKind, Any] = {
    EventKind.NEED: lambda raw: Need(raw.function, raw.sandbox, raw.revision, bool(raw.flags & 1)),
    EventKind.KILLED: lambda raw: Killed(raw.sandbox, Why(raw.why), raw.value),
    EventKind.GONE: lambda raw: Gone(raw.sandbox),
    EventKind.FREED: lambda raw: Freed(raw.sandbox),
    EventKind.READY: lambda raw: Ready(raw.sandbox, raw.value, Tier(raw.flags), _words(_blob(raw))),
    EventKind.REST: lambda raw: Rest(raw.sandbox, bool(raw.flags & 1)),
    EventKind.INIT_FAILED: lambda raw: InitFailed(raw.sandbox, _blob(raw)),
    EventKind.METHOD: _method,
    EventKind.OPENED: lambda raw: Opened(
        raw.connection, tcp=bool(raw.flags & 1), peer_uid=raw.value, adopted=bool(raw.flags & 2), tag=raw.tag
    ),
    EventKind.CLOSED: lambda raw: Closed(raw.connection),
    EventKind.FUNCTION_FREED: lambda raw: FunctionFreed(raw.function),
    EventKind.DRAINED: lambda raw: Drained(),
    EventKind.FAULT: lambda raw: Fault(_blob(raw).decode("utf-8", "replace")),
    EventKind.SPAN: _span,
    EventKind.HTTP: lambda raw: _handed(raw.value, _blob(raw)) if raw.flags & 1 else HttpHanded(raw.value, _blob(raw)),
}


# ---- counters ---------------------------------------------------------------------------------------------------------------

HISTOGRAMS = ("queue", "init", "run", "overhead", "total")
_FUNCTION_ARRAYS = ("outcomes", "throttled", "cold_starts", "sandboxes")
_FUNCTION_NUMBERS = tuple(f.name for f in fields(FunctionStats) if f.name not in HISTOGRAMS and f.name not in _FUNCTION_ARRAYS)
_TOTALS = tuple(f.name for f in fields(Totals))
_LOOP = tuple(f.name for f in fields(LoopStats))


def _histogram(raw: Any) -> Histogram:
    # A view keeps 8 kB as bytes; 1,024 Python integers would be four times that.
    return Histogram(raw.count, raw.sum_ns, memoryview(bytes(ffi.buffer(raw.buckets))).cast("Q"))


def _function(raw: Any) -> FunctionStats:
    values: dict[str, Any] = {name: getattr(raw, name) for name in _FUNCTION_NUMBERS}
    values.update((name, tuple(getattr(raw, name))) for name in _FUNCTION_ARRAYS)
    values.update((name, _histogram(getattr(raw, name))) for name in HISTOGRAMS)
    return FunctionStats(**values)


def _account(raw: Any) -> AccountStats:
    return AccountStats(
        index=raw.index,
        parent=raw.parent,
        weight=raw.weight,
        current=tuple(raw.current),
        maxima=tuple(raw.max),
        minima=tuple(raw.min),
        peak=tuple(raw.peak),
        refused=tuple(raw.refused),
    )


class _Chunk:
    """One answer to SCHED_CMD_STATS, copied out of its blob."""

    __slots__ = ("accounts", "functions", "loop", "next", "now_ns", "totals")

    def __init__(self, blob: Any, blob_bytes: int) -> None:
        head_bytes = ffi.sizeof("struct sched_stats")
        account_bytes = ffi.sizeof("struct core_account_stats")
        function_bytes = ffi.sizeof("struct core_function_stats")
        head = ffi.cast("struct sched_stats *", blob)
        if blob_bytes != head_bytes + head.accounts * account_bytes + head.functions * function_bytes:
            raise EngineError(f"counters of {blob_bytes} bytes do not hold what their head says")
        accounts = ffi.cast("struct core_account_stats *", blob + head_bytes)
        functions = ffi.cast("struct core_function_stats *", blob + head_bytes + head.accounts * account_bytes)
        self.now_ns: int = head.now_ns
        self.next: int = head.functions_next
        self.totals = Totals(**{name: getattr(head.totals, name) for name in _TOTALS})
        self.loop = LoopStats(**{name: getattr(head.loop, name) for name in _LOOP})
        self.accounts = [_account(accounts[i]) for i in range(head.accounts)]
        self.functions = [_function(functions[i]) for i in range(head.functions)]


@lru_cache(maxsize=1)
def histogram_bounds() -> tuple[tuple[int, int], ...]:
    """(low, high) in ns of each bucket; low is in it, high is not."""
    low = ffi.new("uint64_t *")
    high = ffi.new("uint64_t *")
    bounds = []
    for bucket in range(lib.CORE_HISTOGRAM_BUCKETS):
        lib.core_histogram_bounds(bucket, low, high)
        bounds.append((low[0], high[0]))
    return tuple(bounds)


# ---- configuration ----------------------------------------------------------------------------------------------------------


def _native_config(config: EngineConfig) -> Any:
    raw = ffi.new("struct sched_config *")
    lib.sched_config_default(raw)
    in_core = {name for name, _ in ffi.typeof("struct core_config").fields}
    for item in fields(EngineConfig):
        value = getattr(config, item.name)
        if item.name == "allowed_uids":
            if len(value) > len(raw.allowed_uids):
                raise EngineError(f"allowed_uids holds {len(value)} users, at most {len(raw.allowed_uids)} are possible")
            raw.allowed_uids_count = len(value)
            for i, uid in enumerate(value):
                raw.allowed_uids[i] = uid
        elif item.name == "log_dir":
            encoded = os.fsencode(value)
            if len(encoded) >= len(raw.log_dir):
                raise EngineError(f"log_dir has {len(encoded)} bytes, at most {len(raw.log_dir) - 1} are possible: {value}")
            raw.log_dir = encoded
        elif value is not None:
            setattr(raw.core if item.name in in_core else raw, item.name, value)
    return raw


def _check(result: int, doing: str, error: type[SchedulerError] = EngineError) -> None:
    if result < 0:
        raise error(f"{doing}: {os.strerror(-result)}")


class Engine:
    """Owns one reactor and its core. `with Engine(config) as engine:` frees it; run() must have returned by then.

    EngineError when the configuration is refused or memory is short.
    """

    def __init__(self, config: EngineConfig) -> None:
        error = ffi.new("char[256]")
        self._sched = lib.sched_new(_native_config(config), error, len(error))
        if self._sched == ffi.NULL:
            raise EngineError(f"the engine cannot be made: {ffi.string(error).decode('utf-8', 'replace')}")
        # For life: posting and polling make no garbage.
        self._command = ffi.new("struct sched_command *")
        self._polled = ffi.new("struct sched_event[]", BATCH_MAX)
        self._fd: int = lib.sched_events_fd(self._sched)
        self._order = trio.Lock()
        self._stats_lock = trio.Lock()
        self._stats_tag = 0
        self._stats_waiting: dict[int, tuple[trio.Event, list[_Chunk | EngineError]]] = {}
        self._running = False
        self._finished = trio.Event()
        self._thread = trio.CapacityLimiter(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Frees everything, descriptors included. Idempotent; not while run() runs."""
        if self._running:
            raise EngineError("the engine still runs")
        if self._sched == ffi.NULL:
            return
        while (count := lib.sched_poll(self._sched, self._polled, BATCH_MAX)) > 0:
            for i in range(count):
                if self._polled[i].kind == EventKind.HTTP:
                    os.close(self._polled[i].value)
                lib.sched_event_free(ffi.addressof(self._polled, i))
        lib.sched_free(self._sched)
        self._sched = ffi.NULL

    # ---- listening ----

    def listen_unix(self, path: str) -> None:
        """Before run(). CannotListen: a live service holds the path, or it cannot be bound."""
        _check(lib.sched_listen_unix(self._sched, os.fsencode(path)), f"socket {path}", CannotListen)

    def listen_tcp(self, host: str, port: int) -> int:
        """Before run(). host: a numeric address; port 0 asks for any. Returns the port that was bound. CannotListen."""
        bound = ffi.new("uint16_t *", port)
        _check(lib.sched_listen_tcp(self._sched, host.encode(), bound), f"address {host}:{port}", CannotListen)
        return int(bound[0])

    def listen_http(self, host: str, port: int) -> int:
        """As listen_tcp(), for HTTP."""
        bound = ffi.new("uint16_t *", port)
        _check(lib.sched_listen_http(self._sched, host.encode(), bound), f"address {host}:{port}", CannotListen)
        return int(bound[0])

    def preload(self, commands: Iterable[Command]) -> None:
        """Posts and carries out, before run(): what must be known before the first client is heard."""
        if self._running or self._finished.is_set():
            raise EngineError("preload is for an engine that does not run yet")
        for command in commands:
            while not self._try_post(command):
                _check(lib.sched_turn(self._sched, 0), "the engine's turn")
        _check(lib.sched_turn(self._sched, 0), "the engine's turn")

    # ---- the reactor's thread ----

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the reactor until stop() or until cancelled (it is stopped then). EngineError when the loop breaks."""
        if self._running or self._finished.is_set():
            raise EngineError("the engine runs already or has run")
        self._running = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_when_cancelled)
                task_status.started()
                result = await trio.to_thread.run_sync(
                    lib.sched_run, self._sched, abandon_on_cancel=False, limiter=self._thread
                )
                self._running = False
                nursery.cancel_scope.cancel()
        finally:
            self._running = False
            self._finished.set()
            for event, out in self._stats_waiting.values():
                out.append(EngineError("the engine has stopped"))
                event.set()
        _check(result, "the engine's loop")

    async def _stop_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if self._running:
                with trio.CancelScope(shield=True):
                    await self.stop()

    async def stop(self) -> None:
        """run() returns once the reactor has handled everything posted before."""
        if self._running:
            await self.post(stop())

    async def wait_stopped(self) -> None:
        """Returns once run() is through: the reactor has sent what it had, or gave it up."""
        await self._finished.wait()

    # ---- commands ----

    async def post(self, *commands: Command) -> None:
        """Hands commands over in order; concurrent callers are served in the order they came. A checkpoint only when it must
        wait. Raises EngineStalled after POST_TIMEOUT_S without room; descriptors of what was not delivered are closed then,
        as they are on cancellation."""
        done = 0
        try:
            try:
                self._order.acquire_nowait()
            except trio.WouldBlock:
                await self._order.acquire()
            try:
                for command in commands:
                    if not self._try_post(command):
                        await self._wait_and_post(command)
                    done += 1
            finally:
                self._order.release()
        finally:
            for command in commands[done:]:
                _close_all(command.fds)

    def post_nowait(self, command: Command) -> bool:
        """As post(), if that is possible at once. False: nothing was done, its descriptors are still the caller's."""
        return not self._order.locked() and self._try_post(command)

    def _try_post(self, command: Command) -> bool:
        if self._sched == ffi.NULL:
            raise EngineError("the engine is closed")
        _fill(self._command, command)
        return bool(lib.sched_post(self._sched, self._command, command.blob, len(command.blob)))

    async def _wait_and_post(self, command: Command) -> None:
        with trio.move_on_after(POST_TIMEOUT_S):
            while True:
                await trio.sleep(POST_PAUSE_S)
                if self._try_post(command):
                    return
        raise EngineStalled(f"the engine took no command for {POST_TIMEOUT_S:g} s ({CommandKind(command.kind).name})")

    # ---- events ----

    def poll(self) -> list[Event]:
        """What has happened, at most BATCH_MAX events; empty: nothing, and the descriptor will tell."""
        batch: list[Event] = []
        # Counters are taken out of the batch: only an empty ring may look empty, else its descriptor would never tell.
        while not batch and (count := lib.sched_poll(self._sched, self._polled, BATCH_MAX)) > 0:
            for i in range(count):
                raw = self._polled[i]
                try:
                    kind = EventKind(raw.kind)
                    if kind is EventKind.STATS:
                        self._take_stats(raw)
                    else:
                        batch.append(_READ[kind](raw))
                finally:
                    lib.sched_event_free(ffi.addressof(self._polled, i))
        return batch

    async def wait_events(self) -> list[Event]:
        """The next batch, never empty."""
        await trio.lowlevel.checkpoint()
        while not (batch := self.poll()):
            await trio.lowlevel.wait_readable(self._fd)
        return batch

    # ---- counters ----

    def _take_stats(self, raw: Any) -> None:
        waiting = self._stats_waiting.get(raw.tag)
        if waiting is None:
            return  # its asker was cancelled
        event, out = waiting
        try:
            out.append(_Chunk(raw.blob, raw.blob_bytes))
        except EngineError as error:
            out.append(error)
        event.set()

    async def _stats_chunk(self, first: int) -> _Chunk:
        if self._finished.is_set():
            raise EngineError("the engine has stopped")
        self._stats_tag = (self._stats_tag + 1) & 0xFFFF_FFFF
        tag = self._stats_tag
        event = trio.Event()
        out: list[_Chunk | EngineError] = []
        self._stats_waiting[tag] = (event, out)
        try:
            await self.post(Command(kind=CommandKind.STATS, tag=tag, u32s=(first, STATS_FUNCTIONS_MAX)))
            await event.wait()
        finally:
            del self._stats_waiting[tag]
        (chunk,) = out
        if isinstance(chunk, EngineError):
            raise chunk
        return chunk

    async def stats(self) -> Snapshot:
        """All counters. Somebody must be taking events meanwhile. Cost: one turn of the reactor for each 32 functions."""
        async with self._stats_lock:
            chunk = await self._stats_chunk(0)
            accounts = {item.index: item for item in chunk.accounts}
            functions = {item.handle: item for item in chunk.functions}
            while chunk.next:
                chunk = await self._stats_chunk(chunk.next)
                accounts.update((item.index, item) for item in chunk.accounts)
                functions.update((item.handle, item) for item in chunk.functions)
            return Snapshot(chunk.now_ns, chunk.totals, chunk.loop, accounts, functions)


def render_log(records: bytes) -> tuple[bytes, int]:
    """Journal records to text. Returns the text and how many bytes were used up; the rest is a record cut short or broken."""
    out = ffi.new("char[]", RENDER_BYTES)
    consumed = ffi.new("size_t *")
    source = ffi.from_buffer("uint8_t[]", records)
    parts: list[bytes] = []
    at = 0
    while at < len(records):
        written = lib.sched_render_record(source + at, len(records) - at, out, RENDER_BYTES, consumed)
        if written < 0 or consumed[0] == 0:
            break
        parts.append(bytes(ffi.buffer(out, written)))
        at += consumed[0]
    return b"".join(parts), at
