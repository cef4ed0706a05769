"""What passes between the engine and the service: commands in, events out, and one snapshot of all counters.

Law of this file: plain frozen data and enums, numbered as in native/include/core.h and engine.h (tests/engine/test_mirror.py
compares every number). No foreign interface, no input or output, so that whoever decides (catalog, pool, control) returns
commands and can be tested without an engine.

Times are nanoseconds of CLOCK_MONOTONIC, handles are index (low 32 bits) and generation (high 32 bits, never 0).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "NODE_ACCOUNT",
    "NO_ACCOUNT",
    "NO_LIMIT",
    "NO_LIMIT_64",
    "AccountPut",
    "AccountRemove",
    "AccountStats",
    "Cause",
    "Closed",
    "Command",
    "CommandKind",
    "CoreEvent",
    "CoreEventKind",
    "Drain",
    "Drained",
    "EngineConfig",
    "Event",
    "EventKind",
    "Fault",
    "FloorFailure",
    "Freed",
    "FunctionFreed",
    "FunctionPut",
    "FunctionRemove",
    "FunctionStats",
    "FunctionSwitch",
    "Gone",
    "Histogram",
    "HttpHanded",
    "InitFailed",
    "Killed",
    "Look",
    "LoopStats",
    "MethodCall",
    "Need",
    "Opened",
    "Outcome",
    "Ready",
    "Resource",
    "Rest",
    "Right",
    "SandboxReaped",
    "SandboxRetire",
    "SandboxState",
    "SandboxUsage",
    "SandboxWant",
    "Snapshot",
    "Span",
    "Tier",
    "Totals",
    "Trait",
    "UrlAnswered",
    "UrlFlag",
    "Why",
    "connection_adopt",
    "connection_close",
    "connection_grant",
    "core",
    "function_info",
    "handle_index",
    "http_adopt",
    "key_put",
    "key_remove",
    "make_handle",
    "name_put",
    "name_remove",
    "respond",
    "sandbox_start",
    "stop",
    "stop_listening",
    "url_put",
    "url_remove",
]

NO_LIMIT = 0x7FFF_FFFF
NO_LIMIT_64 = 0x7FFF_FFFF_FFFF_FFFF  # bytes and nanoseconds: two thousand million of them are not "no limit"
NO_ACCOUNT = 0xFFFF
ADOPT_HTTP = 1
START_TELLS_REST = 1
NODE_ACCOUNT = 0


def make_handle(index: int, generation: int) -> int:
    """index below 2**32, generation 1 .. 2**32 - 1."""
    return generation << 32 | index


def handle_index(handle: int) -> int:
    return handle & 0xFFFF_FFFF


class Resource(IntEnum):
    CONCURRENCY = 0
    MEMORY = 1
    QUEUED_CALLS = 2
    QUEUED_BYTES = 3
    RATE = 4
    CPU = 5


class Outcome(IntEnum):
    OK = 0
    FUNCTION_ERROR = 1
    TIMEOUT = 2
    SANDBOX_DIED = 3
    INIT_FAILED = 4
    THROTTLED = 5
    DEADLINE = 6
    NOT_FOUND = 7
    TOO_LARGE = 8
    UNAVAILABLE = 9
    CANCELLED = 10
    INTERNAL = 11


class Tier(IntEnum):
    """How a sandbox was born; WARM is never one's."""

    WARM = 0
    SNAPSHOT = 1
    SHELL = 2
    FRESH = 3


class SandboxState(IntEnum):
    FREE = 0
    STARTING = 1
    IDLE = 2
    BUSY = 3
    DRAINING = 4
    DYING = 5


class Cause(IntEnum):
    NONE = 0
    EXIT = 1
    SIGNAL = 2
    OOM = 3
    KILLED = 4
    LAUNCH_FAILED = 5
    PROTOCOL = 6


class Why(IntEnum):
    """Why the core ended a sandbox."""

    NONE = 0
    TIMEOUT = 1
    INIT_TIMEOUT = 2
    IDLE = 3
    EVICTED = 4
    REVISION = 5
    REMOVED = 6
    PROTOCOL = 7
    INIT_FAILED = 8
    RETIRED = 9
    RECYCLED = 10


class FloorFailure(IntEnum):
    """Why fewer sandboxes are ready than are provisioned."""

    NONE = 0
    INIT = 1
    MEMORY = 2
    SANDBOXES = 3


class Right(IntFlag):
    NONE = 0
    INVOKE = 1
    DEPLOY = 2
    ADMIN = 4
    ALL = 7
    OWN = 8  # the service's own connection's alone


class Trait(IntFlag):
    """What else the engine is to know of a function when it is called; told beside its Look."""

    NONE = 0
    TRACED = 256
    CALLS = 512
    LOOPS = 1024
    SNAPSTART = 2048
    LOCKED = 4096
    GUESTS = 8192


class Look(IntFlag):
    """Of the platform's lines in a function's log: their format, and which of them."""

    TEXT = 0
    JSON = 1
    DEBUG = 2
    WARN = 4
    RESTORED = 8  # in records alone


# ---- commands ---------------------------------------------------------------------------------------------------------------


class CommandKind(IntEnum):
    CORE = 1
    NAME_PUT = 2
    NAME_REMOVE = 3
    FUNCTION_INFO = 4
    SANDBOX_START = 5
    RESPOND = 6
    CONNECTION_GRANT = 7
    CONNECTION_CLOSE = 8
    CONNECTION_ADOPT = 9
    STATS = 10
    STOP_LISTENING = 11
    STOP = 12
    KEY_PUT = 13
    KEY_REMOVE = 14
    URL_PUT = 15
    URL_REMOVE = 16


class CoreEventKind(IntEnum):
    ACCOUNT_PUT = 1
    ACCOUNT_REMOVE = 2
    FUNCTION_PUT = 3
    FUNCTION_SWITCH = 4
    FUNCTION_REMOVE = 5
    SANDBOX_WANT = 9
    SANDBOX_REAPED = 13
    SANDBOX_USAGE = 14
    DRAIN = 16
    SANDBOX_RETIRE = 17


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPut:
    """Create or change an account. max and min by resource; a resource left out has no limit and no guarantee."""

    index: int
    parent: int
    weight: int = 100
    maxima: Mapping[Resource, int] = field(default_factory=dict)
    minima: Mapping[Resource, int] = field(default_factory=dict)
    burst: int = 1

    kind = CoreEventKind.ACCOUNT_PUT


@dataclass(frozen=True, slots=True)
class AccountRemove:
    index: int

    kind = CoreEventKind.ACCOUNT_REMOVE


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionPut:
    handle: int
    account: int
    revision: int
    memory_mb: int
    timeout_ns: int
    queue_timeout_ns: int
    weight: int = 100
    ahead_max: int = 0
    provisioned: int = 0  # sandboxes kept initialised

    kind = CoreEventKind.FUNCTION_PUT


@dataclass(frozen=True, slots=True)
class FunctionSwitch:
    handle: int
    revision: int

    kind = CoreEventKind.FUNCTION_SWITCH


@dataclass(frozen=True, slots=True)
class FunctionRemove:
    handle: int

    kind = CoreEventKind.FUNCTION_REMOVE


@dataclass(frozen=True, slots=True)
class SandboxWant:
    """One more sandbox of this revision although nothing waits for it."""

    function: int
    revision: int

    kind = CoreEventKind.SANDBOX_WANT


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxReaped:
    sandbox: int
    cause: Cause
    status: int = 0
    cpu_ns: int = 0
    memory_peak_bytes: int = 0

    kind = CoreEventKind.SANDBOX_REAPED


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxUsage:
    sandbox: int
    cpu_ns: int
    memory_peak_bytes: int

    kind = CoreEventKind.SANDBOX_USAGE


@dataclass(frozen=True, slots=True)
class SandboxRetire:
    sandbox: int

    kind = CoreEventKind.SANDBOX_RETIRE


@dataclass(frozen=True, slots=True)
class Drain:
    """Refuse new calls; at deadline_ns (CLOCK_MONOTONIC) the queued ones too."""

    deadline_ns: int

    kind = CoreEventKind.DRAIN


CoreEvent = (
    AccountPut
    | AccountRemove
    | FunctionPut
    | FunctionSwitch
    | FunctionRemove
    | SandboxWant
    | SandboxReaped
    | SandboxUsage
    | SandboxRetire
    | Drain
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command to the reactor. fds belong to the engine from Engine.post() on, whatever happens."""

    kind: CommandKind
    flags: int = 0
    function: int = 0
    sandbox: int = 0
    connection: int = 0
    msgid: int = 0
    tag: int = 0
    u32s: tuple[int, ...] = ()
    fds: tuple[int, ...] = ()
    core: CoreEvent | None = None
    blob: bytes = b""


def core(event: CoreEvent, *, name: str = "") -> Command:
    """name: of an account that is put, as callers see it in a refusal; empty: as it was."""
    return Command(kind=CommandKind.CORE, core=event, blob=name.encode())


def name_put(name: str, function: int, other: int = 0, part: int = 0, arn: str | None = None, guest: str = "") -> Command:
    """part: of 2**32 calls by this name, how many go to `other` instead, by chance. arn: what calls by this name are told,
    where it is not the function's own. guest: whose calls alone."""
    blob = f"{name}\0{arn or ''}\0{guest}".rstrip("\0").encode()
    return Command(kind=CommandKind.NAME_PUT, function=function, sandbox=other, u32s=(part,), blob=blob)


def name_remove(name: str, guest: str = "") -> Command:
    return Command(kind=CommandKind.NAME_REMOVE, blob=f"{name}\0\0{guest}".rstrip("\0").encode())


def function_info(
    function: int,
    *,
    name: str,
    version: str,
    tenant: str,
    tenant_number: int,
    memory_mb: int,
    timeout_ms: int,
    look: Look = Look.TEXT,
    traits: Trait = Trait.NONE,
    runtime: str = "",
    guest: str = "",
) -> Command:
    """look: of its log's platform lines."""
    blob = b"\0".join((name.encode(), version.encode(), tenant.encode(), runtime.encode(), guest.encode()))
    numbers = (memory_mb, timeout_ms, tenant_number, int(look) | int(traits))
    return Command(kind=CommandKind.FUNCTION_INFO, function=function, blob=blob, u32s=numbers)


@dataclass(frozen=True, slots=True)
class RuntimeApi:
    """What the Runtime API of a sandbox says of its function. extensions: names of the programs that are started as such."""

    arn: str
    handler: str
    account: str
    extensions: tuple[str, ...] = ()

    def encode(self) -> bytes:
        return b"".join(text.encode() + b"\0" for text in (self.arn, self.handler, self.account, *self.extensions))


def sandbox_start(
    sandbox: int,
    *,
    start: bytes,
    tier: Tier,
    fds: tuple[int, ...],
    tells_rest: bool = False,
    api: RuntimeApi | None = None,
) -> Command:
    """fds: channel, output, progress, pidfd, CPU usage or -1, memory peak or -1, then with `api` the listening socket of the
    Runtime API, by which the sandbox gets its calls then. start: START's body. tells_rest: by Rest."""
    flags = START_TELLS_REST if tells_rest else 0
    head = b"" if api is None else api.encode()
    numbers = (int(tier), len(head))
    return Command(kind=CommandKind.SANDBOX_START, flags=flags, sandbox=sandbox, blob=head + start, u32s=numbers, fds=fds)


def respond(connection: int, msgid: int, body: bytes, *, ok: bool) -> Command:
    """body: MessagePack of the result (ok) or of the error map."""
    return Command(kind=CommandKind.RESPOND, connection=connection, msgid=msgid, blob=body, flags=1 if ok else 0)


def connection_grant(connection: int, rights: Right, tenant_number: int = 0) -> Command:
    """tenant_number 0: the functions of all tenants may be invoked."""
    return Command(kind=CommandKind.CONNECTION_GRANT, connection=connection, u32s=(int(rights), tenant_number))


def connection_close(connection: int) -> Command:
    return Command(kind=CommandKind.CONNECTION_CLOSE, connection=connection)


def connection_adopt(fd: int, rights: Right, *, tenant_number: int = 0, tag: int = 0) -> Command:
    """Answered by Opened with the tag."""
    return Command(kind=CommandKind.CONNECTION_ADOPT, fds=(fd,), u32s=(int(rights), tenant_number), tag=tag)


def http_adopt(fd: int) -> Command:
    """An HTTP connection goes (back) to the engine; nothing of its next request has been read. Nobody is told."""
    return Command(kind=CommandKind.CONNECTION_ADOPT, flags=ADOPT_HTTP, fds=(fd,), u32s=(int(Right.INVOKE), 0))


def key_put(key_id: str, secret: str, rights: Right, *, tenant_number: int = 0) -> Command:
    """An access key that may sign HTTP requests."""
    blob = key_id.encode() + b"\0" + secret.encode()
    return Command(kind=CommandKind.KEY_PUT, u32s=(int(rights), tenant_number), blob=blob)


def key_remove(key_id: str) -> Command:
    return Command(kind=CommandKind.KEY_REMOVE, blob=key_id.encode())


class UrlFlag(IntFlag):
    """SIGNED: its callers sign with a key of the function's tenant; else it is open to anybody. CORS: there are rules for pages
    of other origins."""

    NONE = 0
    SIGNED = 1
    CORS = 2


def url_put(url_id: str, target: str, account_id: str, flags: UrlFlag) -> Command:
    """A function URL that the engine answers by itself. target: the function as it is invoked."""
    return Command(kind=CommandKind.URL_PUT, flags=int(flags), blob="\0".join((url_id, target, account_id)).encode())


def url_remove(url_id: str) -> Command:
    return Command(kind=CommandKind.URL_REMOVE, blob=url_id.encode())


def stop_listening() -> Command:
    return Command(kind=CommandKind.STOP_LISTENING)


def stop() -> Command:
    return Command(kind=CommandKind.STOP)


# ---- events -----------------------------------------------------------------------------------------------------------------


class EventKind(IntEnum):
    NEED = 1
    KILLED = 2
    GONE = 3
    FREED = 4
    READY = 5
    INIT_FAILED = 6
    METHOD = 7
    OPENED = 8
    CLOSED = 9
    STATS = 10
    FUNCTION_FREED = 11
    DRAINED = 12
    FAULT = 13
    HTTP = 14
    REST = 15
    SPAN = 16


@dataclass(frozen=True, slots=True)
class Need:
    """provisioned: no call waits for it."""

    function: int
    sandbox: int
    revision: int
    provisioned: bool = False


@dataclass(frozen=True, slots=True)
class Killed:
    """stop_ms: it was told to stop, and is to be killed after so long; 0: it was sent SIGKILL."""

    sandbox: int
    why: Why
    stop_ms: int = 0


@dataclass(frozen=True, slots=True)
class Gone:
    sandbox: int


@dataclass(frozen=True, slots=True)
class Freed:
    sandbox: int


@dataclass(frozen=True, slots=True)
class Ready:
    """tier: SHELL where it was to be restored from an image and could not; reason: why, in the sandbox's own words."""

    sandbox: int
    init_ns: int
    tier: Tier
    reason: str


@dataclass(frozen=True, slots=True)
class Rest:
    """rests: it has had no call for a while; else it has one again, or is to stop."""

    sandbox: int
    rests: bool


@dataclass(frozen=True, slots=True)
class InitFailed:
    sandbox: int
    error: bytes


@dataclass(frozen=True, slots=True)
class MethodCall:
    connection: int
    msgid: int
    rights: Right
    method: str
    params: bytes
    notification: bool


@dataclass(frozen=True, slots=True)
class Opened:
    connection: int
    tcp: bool
    peer_uid: int
    adopted: bool = False  # answer to connection_adopt; connection 0: there was no room
    tag: int = 0


@dataclass(frozen=True, slots=True)
class Closed:
    connection: int


@dataclass(frozen=True, slots=True)
class FunctionFreed:
    function: int


@dataclass(frozen=True, slots=True)
class Drained:
    pass


@dataclass(frozen=True, slots=True)
class Fault:
    text: str


@dataclass(frozen=True, slots=True)
class UrlAnswered:
    """What a connection is still owed: an answer made of what the function behind a URL answered. close: it ends with it."""

    request_id: str
    result: bytes = field(repr=False)
    close: bool


@dataclass(frozen=True, slots=True)
class HttpHanded:
    """An HTTP connection that is the service's from now on, and the bytes that came of it."""

    fd: int
    data: bytes = field(repr=False)
    owed: UrlAnswered | None = None


@dataclass(frozen=True, slots=True)
class Span:
    """A sampled call that was answered. Times are nanoseconds of the wall clock. parent 0: none; init_ns 0: it waited for none;
    started_ns 0: it never ran. trace: its header, of which Parent is this call's own segment."""

    function: int
    outcome: Outcome
    parent: int
    arrived_ns: int
    init_ns: int
    started_ns: int
    ended_ns: int
    answered_ns: int
    request_id: bytes
    trace: str


Event = (
    Need | Killed | Gone | Freed | Ready | Rest | InitFailed | MethodCall | Opened | Closed | FunctionFreed | Drained | Fault
    | HttpHanded | Span
)  # fmt: skip


# ---- counters ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Histogram:
    """buckets: one count per bucket of the core; bounds by Engine.histogram_bounds(). Never written to."""

    count: int
    sum_ns: int
    buckets: memoryview


@dataclass(frozen=True, slots=True)
class AccountStats:
    index: int
    parent: int
    weight: int
    current: tuple[int, ...]
    maxima: tuple[int, ...]
    minima: tuple[int, ...]
    peak: tuple[int, ...]
    refused: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FunctionStats:
    handle: int
    account: int
    revision: int
    outcomes: tuple[int, ...]
    throttled: tuple[int, ...]
    cold_starts: tuple[int, ...]
    cpu_ns: int
    mb_ns: int
    oldest_ns: int
    expected_run_ns: int
    expected_start_ns: int
    queued: int
    in_flight: int
    executing: int
    sandboxes: tuple[int, ...]
    provisioned: int
    provisioned_allocated: int
    provisioned_available: int
    provisioned_failure: int
    provisioned_account: int
    provisioned_calls: int
    spillover_calls: int
    evicted: int
    keep_ns: int
    keep_samples: int
    queue: Histogram
    init: Histogram
    run: Histogram
    overhead: Histogram
    total: Histogram


@dataclass(frozen=True, slots=True)
class Totals:
    steps: int
    events: int
    invokes: int
    answers: int
    sends: int
    stale_events: int
    bad_replies: int
    timers_fired: int
    calls: int
    calls_peak: int
    sandboxes: int
    functions: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class LoopStats:
    turns: int
    spins: int
    sleeps: int
    turn_ns_max: int
    bytes_in: int
    bytes_out: int
    requests: int
    rpc_errors: int
    bad_requests: int
    refused_requests: int
    refused_connections: int
    http_handed: int
    connections: int
    connections_paused: int
    connections_waiting: int
    commands: int
    events: int
    events_waiting: int
    payload_bytes: int
    sandbox_protocol_errors: int
    log_bytes: int
    log_bytes_dropped: int
    log_disk_bytes: int
    spans: int
    spans_dropped: int
    recursions: int
    cpu_ns: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All counters, put together from chunks taken within a few turns of the reactor."""

    now_ns: int
    totals: Totals
    loop: LoopStats
    accounts: Mapping[int, AccountStats]
    functions: Mapping[int, FunctionStats]


# ---- configuration ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Fields of struct sched_config and core_config by their C names; None keeps the engine's default."""

    calls_max: int | None = None
    functions_max: int | None = None
    sandboxes_max: int | None = None
    accounts_max: int | None = None
    ahead_max: int | None = None
    starting_max: int | None = None
    ahead_window_ns: int | None = None
    init_timeout_ns: int | None = None
    provisioned_init_timeout_ns: int | None = None
    idle_timeout_ns: int | None = None
    idle_min_ns: int | None = None
    idle_max_ns: int | None = None
    idle_grain_ns: int | None = None
    age_max_ns: int | None = None
    reap_timeout_ns: int | None = None
    cold_start_guess_ns: int | None = None
    cpus: int | None = None
    memory_mb_per_cpu: int | None = None
    sandbox_calls_max: int | None = None
    connections_max: int | None = None
    frame_bytes_max: int | None = None
    payload_bytes_max: int | None = None
    answer_bytes_max: int | None = None
    connection_buffer_bytes_max: int | None = None
    turn_bytes_max: int | None = None
    payload_total_bytes_max: int | None = None
    spin_us: int | None = None
    stop_grace_ms: int | None = None
    http_signed: bool | None = None
    log_bytes_max: int | None = None
    log_total_bytes_max: int | None = None
    log_turn_s: int | None = None
    log_keep_s: int | None = None
    spans_s_max: int | None = None
    log_files_max: int | None = None
    log_dir: str = ""
    allowed_uids: tuple[int, ...] = ()
