"""What calls give: frozen values made of the service's answers.

Each keeps the map it was made of (`raw`), so that a newer service's additional keys are neither lost nor an error. A key
that is missing or has another type is BadAnswer: an answer is never half understood.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from scheduler.errors import BadAnswer

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Account",
    "Distribution",
    "FunctionDescription",
    "FunctionStats",
    "Hello",
    "Image",
    "Invocation",
    "LogChunk",
    "Report",
    "ResourceUse",
    "ServiceStats",
    "accounts_from",
    "invocation_from",
    "page_from",
]

T = TypeVar("T")


def _get(raw: Any, key: str, kind: type[T], default: T | None = None) -> T:
    """`raw[key]` if it is a `kind` (an int counts as a float); the default where the key is absent or nil."""
    if not isinstance(raw, dict):
        raise BadAnswer(f"expected a map, the service answered {type(raw).__name__}")
    value = raw.get(key)
    if value is None and default is not None:
        return default
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind):
        raise BadAnswer(f"{key} of the answer is {type(value).__name__}, expected {kind.__name__}")
    return value


def _optional(raw: Any, key: str, kind: type[T]) -> T | None:
    if isinstance(raw, dict) and raw.get(key) is None:
        return None
    return _get(raw, key, kind)


@dataclass(frozen=True, slots=True)
class Report:
    """Where one call's time went. Units are in the names; microseconds are fractions.

    `queue_us + init_us + run_us + overhead_us` is the call's wall time in the service, from the request's arrival to its
    answer.
    """

    request_id: str
    version: str
    sandbox: str
    queue_us: float
    init_us: float | None  # None: the sandbox was warm
    run_us: float
    overhead_us: float
    billed_ms: int
    memory_peak_mb: float
    cpu_us: float
    cold: str | None  # "snapshot", "shell" or "fresh"; None: warm
    stages: Mapping[str, float]  # finer: wait_us and channel_us of the queue, accept_us and return_us of the overhead
    log_tail: str | None  # the last 4 KB of what the call logged, if asked for
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_map(cls, raw: Any) -> Report:
        tail = raw.get("log_tail") if isinstance(raw, dict) else None
        return cls(
            request_id=_get(raw, "request_id", str, ""),
            version=_get(raw, "version", str, ""),
            sandbox=str(raw.get("sandbox") or ""),
            queue_us=_get(raw, "queue_us", float, 0.0),
            init_us=_optional(raw, "init_us", float),
            run_us=_get(raw, "run_us", float, 0.0),
            overhead_us=_get(raw, "overhead_us", float, 0.0),
            billed_ms=_get(raw, "billed_ms", int, 0),
            memory_peak_mb=_get(raw, "memory_peak_mb", float, 0.0),
            cpu_us=_get(raw, "cpu_us", float, 0.0),
            cold=_optional(raw, "cold", str),
            stages=_get(raw, "stages", dict, {}),
            log_tail=tail.decode("utf-8", "replace") if isinstance(tail, bytes) else _optional(raw, "log_tail", str),
            raw=raw,
        )

    @property
    def total_us(self) -> float:
        return self.queue_us + (self.init_us or 0.0) + self.run_us + self.overhead_us


@dataclass(frozen=True, slots=True)
class Invocation:
    """The outcome of a call that succeeded.

    `payload`: for a JSON request (bytes or str) the answer's JSON text as bytes, untouched; for any other request the
    MessagePack value the handler answered; None for types "event" and "dryrun". `report`: None unless asked for.
    `request_id`: only of an event.
    """

    payload: Any
    report: Report | None = None
    request_id: str | None = None


def invocation_from(result: Any, *, text: bool) -> Invocation:
    """`[payload, report | nil]` to an Invocation; `text`: the request was JSON text, so the answer is given as bytes."""
    if type(result) is not list or len(result) != 2:
        raise BadAnswer(f"invoke answered {type(result).__name__}, expected [payload, report]")
    payload, raw = result
    if text and type(payload) is str:
        payload = payload.encode("utf-8", "surrogateescape")
    if raw is None:
        return Invocation(payload)
    if isinstance(raw, dict) and raw.keys() == {"request_id"}:
        return Invocation(payload, None, _get(raw, "request_id", str))
    report = Report.from_map(raw)
    return Invocation(payload, report, report.request_id or None)


@dataclass(frozen=True, slots=True)
class Distribution:
    """A latency histogram in numbers, each within 2 %."""

    count: int
    mean_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float

    @classmethod
    def from_map(cls, raw: Any) -> Distribution:
        return cls(
            _get(raw, "count", int, 0),
            *(_get(raw, key, float, 0.0) for key in ("mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us")),
        )


_EMPTY = Distribution(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class FunctionStats:
    """Counters of one function version since the service started. Durations: `queue`, `init`, `run`, `overhead`, `total`."""

    name: str
    version: str
    invocations: int
    outcomes: Mapping[str, int]
    throttled: Mapping[str, int]  # by resource
    cold_starts: Mapping[str, int]  # by tier
    queued: int
    in_flight: int
    executing: int
    oldest_ms: float  # age of the call that waits longest
    sandboxes: Mapping[str, int]  # by state
    cpu_seconds: float
    gb_seconds: float
    durations: Mapping[str, Distribution]
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_map(cls, raw: Any) -> FunctionStats:
        names = ("queue", "init", "run", "overhead", "total")
        return cls(
            name=_get(raw, "name", str),
            version=str(raw.get("version") or "$LATEST"),
            invocations=_get(raw, "invocations", int, 0),
            outcomes=_get(raw, "outcomes", dict, {}),
            throttled=_get(raw, "throttled", dict, {}),
            cold_starts=_get(raw, "cold_starts", dict, {}),
            queued=_get(raw, "queued", int, 0),
            in_flight=_get(raw, "in_flight", int, 0),
            executing=_get(raw, "executing", int, 0),
            oldest_ms=_get(raw, "oldest_ms", float, 0.0),
            sandboxes=_get(raw, "sandboxes", dict, {}),
            cpu_seconds=_get(raw, "cpu_seconds", float, 0.0),
            gb_seconds=_get(raw, "gb_seconds", float, 0.0),
            durations={name: Distribution.from_map(raw[name]) if raw.get(name) else _EMPTY for name in names},
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class FunctionDescription:
    """A function version as the registry holds it. `stats`: only where the method gives it (`get`). `image`: None where the
    service is too old to have any."""

    name: str
    arn: str
    tenant: str
    version: str
    versions: tuple[str, ...]
    revision: int
    revision_id: str
    runtime: str
    handler: str
    description: str
    memory_mb: int
    timeout_s: float
    ephemeral_storage_mb: int
    environment: Mapping[str, str]
    reserved_concurrency: int | None
    weight: float
    queue_timeout_ms: int
    network: str
    snapshot: str
    freeze: str
    kms_key_arn: str
    secrets: tuple[str, ...]
    keys: tuple[str, ...]
    runtime_client: str
    log_format: str
    application_log_level: str
    system_log_level: str
    log_group: str
    tracing: str
    recursive_loop: str
    snap_start: str
    tenancy: str
    dead_letter_arn: str
    code_sha256: str
    code_size: int
    last_modified: str
    state: str
    state_reason: str | None
    image: Image | None
    stats: FunctionStats | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_map(cls, raw: Any) -> FunctionDescription:
        return cls(
            name=_get(raw, "name", str),
            arn=_get(raw, "arn", str, ""),
            tenant=_get(raw, "tenant", str, "default"),
            version=_get(raw, "version", str, "$LATEST"),
            versions=tuple(str(item) for item in _get(raw, "versions", list, [])),
            revision=_get(raw, "revision", int, 0),
            revision_id=_get(raw, "revision_id", str, ""),
            runtime=_get(raw, "runtime", str, ""),
            handler=_get(raw, "handler", str, ""),
            description=_get(raw, "description", str, ""),
            memory_mb=_get(raw, "memory_mb", int, 0),
            timeout_s=_get(raw, "timeout_s", float, 0.0),
            ephemeral_storage_mb=_get(raw, "ephemeral_storage_mb", int, 0),
            environment=_get(raw, "environment", dict, {}),
            reserved_concurrency=_optional(raw, "reserved_concurrency", int),
            weight=_get(raw, "weight", float, 1.0),
            queue_timeout_ms=_get(raw, "queue_timeout_ms", int, 0),
            network=_get(raw, "network", str, "none"),
            snapshot=_get(raw, "snapshot", str, ""),
            freeze=_get(raw, "freeze", str, "off"),
            kms_key_arn=_get(raw, "kms_key_arn", str, ""),
            secrets=tuple(map(str, _get(raw, "secrets", list, []))),
            keys=tuple(map(str, _get(raw, "keys", list, []))),
            runtime_client=_get(raw, "runtime_client", str, "own"),
            log_format=_get(raw, "log_format", str, "Text"),
            application_log_level=_get(raw, "application_log_level", str, ""),
            system_log_level=_get(raw, "system_log_level", str, ""),
            log_group=_get(raw, "log_group", str, ""),
            tracing=_get(raw, "tracing", str, "PassThrough"),
            recursive_loop=_get(raw, "recursive_loop", str, "Terminate"),
            snap_start=_get(raw, "snap_start", str, "None"),
            tenancy=_get(raw, "tenancy", str, "NONE"),
            dead_letter_arn=_get(raw, "dead_letter_arn", str, ""),
            code_sha256=_get(raw, "code_sha256", str, ""),
            code_size=_get(raw, "code_size", int, 0),
            last_modified=_get(raw, "last_modified", str, ""),
            state=_get(raw, "state", str, ""),
            state_reason=_optional(raw, "state_reason", str),
            image=Image.from_map(raw["image"]) if raw.get("image") else None,
            stats=FunctionStats.from_map({"name": raw["name"], **raw["stats"]}) if raw.get("stats") else None,
            raw=raw,
        )


def page_from(answer: Any, before: Any) -> tuple[list[FunctionDescription], Any]:
    """The functions of a page, and the marker of the next (None: it was the last)."""
    functions = [FunctionDescription.from_map(item) for item in _get(answer, "functions", list)]
    marker = answer.get("next_marker")
    if marker is not None and marker == before:
        raise BadAnswer(f"functions.list gave the marker {marker!r} twice")
    return functions, marker


@dataclass(frozen=True, slots=True)
class Image:
    """The image of a version's initialised process, which its new sandboxes are restored from. state: "none" (not yet),
    "wanted", "making", "ready", "unsuitable" (`reason` says why, and it stays so), "failed" (it is tried again), "evicted"
    (others needed the room) or "off". tier: how a cold start is made now, "snapshot" or "shell"."""

    state: str
    tier: str
    reason: str | None
    bytes: int
    age_s: float
    restores: int

    @classmethod
    def from_map(cls, raw: Any) -> Image:
        return cls(
            state=_get(raw, "state", str, ""),
            tier=_get(raw, "tier", str, ""),
            reason=_optional(raw, "reason", str),
            bytes=_get(raw, "bytes", int, 0),
            age_s=_get(raw, "age_s", float, 0.0),
            restores=_get(raw, "restores", int, 0),
        )


@dataclass(frozen=True, slots=True)
class LogChunk:
    """`cursor` goes into the next request; `text` is empty when nothing new came within the wait."""

    text: str
    cursor: Any

    @classmethod
    def from_map(cls, raw: Any) -> LogChunk:
        text = raw.get("text") if isinstance(raw, dict) else None
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return cls(text if isinstance(text, str) else _get(raw, "text", str), raw.get("cursor"))


@dataclass(frozen=True, slots=True)
class ResourceUse:
    """One resource of one account; `max` None: no limit of its own."""

    current: int
    max: int | None
    min: int
    peak: int
    refused: int

    @classmethod
    def from_map(cls, raw: Any) -> ResourceUse:
        return cls(
            current=_get(raw, "current", int, 0),
            max=_optional(raw, "max", int),
            min=_get(raw, "min", int, 0),
            peak=_get(raw, "peak", int, 0),
            refused=_get(raw, "refused", int, 0),
        )


@dataclass(frozen=True, slots=True)
class Account:
    """A node of the tree of accounts: node, tenant or function."""

    name: str
    kind: str
    parent: str | None
    weight: float
    resources: Mapping[str, ResourceUse]
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_map(cls, raw: Any) -> Account:
        return cls(
            name=_get(raw, "name", str),
            kind=_get(raw, "kind", str, ""),
            parent=_optional(raw, "parent", str),
            weight=_get(raw, "weight", float, 1.0),
            resources={name: ResourceUse.from_map(item) for name, item in _get(raw, "resources", dict, {}).items()},
            raw=raw,
        )


def accounts_from(answer: Any) -> tuple[Account, ...]:
    return tuple(Account.from_map(item) for item in _get(answer, "accounts", list))


@dataclass(frozen=True, slots=True)
class ServiceStats:
    """One snapshot of the whole service."""

    functions: tuple[FunctionStats, ...]
    totals: Mapping[str, Any]
    loop: Mapping[str, Any]
    sandboxes: Mapping[str, Any]
    uptime_s: float
    version: str
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_map(cls, raw: Any) -> ServiceStats:
        return cls(
            functions=tuple(FunctionStats.from_map(item) for item in _get(raw, "functions", list, [])),
            totals=_get(raw, "totals", dict, {}),
            loop=_get(raw, "loop", dict, {}),
            sandboxes=_get(raw, "sandboxes", dict, {}),
            uptime_s=_get(raw, "uptime_s", float, 0.0),
            version=_get(raw, "version", str, ""),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Hello:
    """Who answered, and what this connection may do."""

    server: str
    version: str
    limits: Mapping[str, int]
    rights: tuple[str, ...]
    tenant: str | None
    raw: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def from_map(cls, raw: Any) -> Hello:
        return cls(
            server=_get(raw, "server", str, ""),
            version=_get(raw, "version", str, ""),
            limits=_get(raw, "limits", dict, {}),
            rights=tuple(str(item) for item in _get(raw, "rights", list, [])),
            tenant=_optional(raw, "tenant", str),
            raw=raw,
        )
