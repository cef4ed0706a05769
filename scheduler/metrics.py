"""Metrics: one table, one collector, one snapshot.

Law of this file: it turns a Scrape (the engine's snapshot and what the service knows beside it) into Prometheus families
and holds no counter of its own. Pure, so that a scrape's slow half runs in a worker thread and never in the way of a call.
A row of METRICS is a metric: its name, kind, labels, help and where its values come from; docs/metrics.md is written from
the table (`python -m scheduler.metrics > docs/metrics.md`; a test fails when it is stale).

Histograms: the core counts in 32 buckets an octave. What is exported are sums over whole octaves, so no count is split or
guessed. The core's octaves end before a power of two of nanoseconds, and time is whole nanoseconds: "below 2^k ns" is "at
most 2^k - 1 ns", which is the bound that is exported.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.process_collector import ProcessCollector

from scheduler.messages import NO_LIMIT, NO_LIMIT_64, NODE_ACCOUNT, Outcome, Resource, SandboxState, Snapshot, Tier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from scheduler.messages import AccountStats, FunctionStats, Histogram

__all__ = [
    "METRICS",
    "AccountLabels",
    "FunctionEvents",
    "FunctionLabels",
    "ImageFigures",
    "Octaves",
    "Row",
    "Scrape",
    "manual",
    "registry",
]

PREFIX = "scheduler_"
OCTAVE_FIRST = 12  # 4.1 µs: below lies nothing that one acts on
OCTAVE_LAST = 40  # 1,100 s: above the longest timeout
NS = 1e-9
MIB = 1024 * 1024


class Kind(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class FunctionLabels:
    function: str
    version: str
    tenant: str

    def values(self) -> tuple[str, ...]:
        return (self.function, self.version, self.tenant)


@dataclass(frozen=True, slots=True)
class AccountLabels:
    account: str
    kind: str

    def values(self) -> tuple[str, ...]:
        return (self.account, self.kind)


class Octaves:
    """Which core buckets lie below each exported bound. bounds: (low, high) ns of every core bucket."""

    def __init__(self, bounds: tuple[tuple[int, int], ...]) -> None:
        ends = {high: bucket + 1 for bucket, (_, high) in enumerate(bounds)}
        self.cuts = tuple((ends[1 << k], (1 << k) - 1) for k in range(OCTAVE_FIRST, OCTAVE_LAST + 1))

    def cumulative(self, histogram: Histogram) -> list[tuple[str, float]]:
        out: list[tuple[str, float]] = []
        total = 0
        at = 0
        for end, bound_ns in self.cuts:
            total += sum(histogram.buckets[at:end])
            at = end
            out.append((repr(bound_ns / 1e9), total))
        out.append(("+Inf", total + sum(histogram.buckets[at:])))
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelfFigures:
    """Of one runtime's shells."""

    runtime: str
    ready: int
    target: int
    waiting: int
    born: int
    died: int
    failed: int
    birth_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFigures:
    """Of the images of initialised processes."""

    by_state: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    bytes_max: int = 0
    made: dict[str, int] = field(default_factory=dict)  # by outcome
    restored: int = 0
    fell_back: int = 0
    evicted: int = 0
    make_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionEvents:
    """Asynchronous events of one function; function "": of all that are removed."""

    function: str
    tenant: str
    waiting: int = 0
    waiting_bytes: int = 0
    oldest_age_s: float = 0.0
    accepted: int = 0
    duplicates: int = 0
    delivered: int = 0
    retried: dict[str, int] = field(default_factory=dict)  # by reason
    dropped: dict[str, int] = field(default_factory=dict)  # by reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceFigures:
    """What the service counts outside the engine."""

    version: str
    isolation: str
    ready: bool
    draining: bool
    start_time_s: float
    control_lag_s: float
    bad_tokens: int
    faults: int
    launcher_up: bool
    launcher_restarts: int
    launch_failures: int
    sandbox_start_bounds_s: tuple[float, ...] = ()
    sandbox_start_counts: tuple[int, ...] = ()
    sandbox_start_count: int = 0
    sandbox_start_sum_s: float = 0.0
    events: tuple[FunctionEvents, ...] = ()
    methods: dict[tuple[str, str], int] = field(default_factory=dict)  # (method, result) -> calls
    shelves: tuple[ShelfFigures, ...] = ()
    images: ImageFigures = ImageFigures()
    tls_handshakes: dict[str, int] = field(default_factory=dict)  # by how they ended
    tls_under_way: int = 0
    tls_stalled: int = 0
    spans_exported: int = 0
    spans_dropped: int = 0


@dataclass(frozen=True, slots=True)
class Scrape:
    """Everything one scrape shows. functions: by handle; a handle without labels is being removed and is left out."""

    snapshot: Snapshot
    functions: dict[int, FunctionLabels]
    accounts: dict[int, AccountLabels]
    service: ServiceFigures
    octaves: Octaves


Sample = tuple[tuple[str, ...], Any]


@dataclass(frozen=True, slots=True)
class Row:
    """A row. values gives (label values, number); a histogram's number is (buckets, sum in seconds), an info's a dict."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    values: Callable[[Scrape], Iterable[Sample]]

    @property
    def exposed(self) -> str:
        """The name as a scrape shows it."""
        return self.name + {Kind.COUNTER: "_total", Kind.INFO: "_info"}.get(self.kind, "")


FUNCTION = ("function", "version", "tenant")
ACCOUNT = ("account", "kind")
EVENTS = ("function", "tenant")


# ---- sources of values ------------------------------------------------------------------------------------------------------


def _functions(scrape: Scrape) -> Iterator[tuple[tuple[str, ...], FunctionStats]]:
    for handle, stats in scrape.snapshot.functions.items():
        labels = scrape.functions.get(handle)
        if labels is not None:
            yield labels.values(), stats


def _accounts(scrape: Scrape) -> Iterator[tuple[tuple[str, ...], AccountStats]]:
    for index, stats in scrape.snapshot.accounts.items():
        labels = scrape.accounts.get(index)
        if labels is not None:
            yield labels.values(), stats


def per_function(pick: Callable[[FunctionStats], float]) -> Callable[[Scrape], Iterator[Sample]]:
    return lambda scrape: ((labels, pick(stats)) for labels, stats in _functions(scrape))


def per_function_and(
    names: Iterable[tuple[str, int]], pick: Callable[[FunctionStats], tuple[int, ...]]
) -> Callable[[Scrape], Iterator[Sample]]:
    rows = tuple(names)

    def values(scrape: Scrape) -> Iterator[Sample]:
        for labels, stats in _functions(scrape):
            counts = pick(stats)
            for name, index in rows:
                yield (*labels, name), counts[index]

    return values


def per_floor(pick: Callable[[FunctionStats], float]) -> Callable[[Scrape], Iterator[Sample]]:
    """Of functions that have, or had, provisioned sandboxes."""
    return lambda scrape: (
        (labels, pick(f)) for labels, f in _functions(scrape) if f.provisioned or f.provisioned_calls or f.spillover_calls
    )


def per_account(pick: Callable[[AccountStats], float]) -> Callable[[Scrape], Iterator[Sample]]:
    return lambda scrape: ((labels, pick(stats)) for labels, stats in _accounts(scrape))


def _refusals(scrape: Scrape) -> Iterator[Sample]:
    for labels, stats in _accounts(scrape):
        for resource in Resource:
            yield (*labels, resource.name.lower()), stats.refused[resource]


def duration(pick: Callable[[FunctionStats], Histogram]) -> Callable[[Scrape], Iterator[Sample]]:
    """A histogram of functions that were called: an empty one for each of a thousand idle functions is 29,000 lines."""

    def values(scrape: Scrape) -> Iterator[Sample]:
        for labels, stats in _functions(scrape):
            histogram = pick(stats)
            if histogram.count:
                yield labels, (scrape.octaves.cumulative(histogram), histogram.sum_ns * NS)

    return values


def one(pick: Callable[[Scrape], float]) -> Callable[[Scrape], Iterator[Sample]]:
    return lambda scrape: iter([((), pick(scrape))])


def per_shelf(pick: Callable[[ShelfFigures], float]) -> Callable[[Scrape], Iterator[Sample]]:
    return lambda scrape: (((shelf.runtime,), pick(shelf)) for shelf in scrape.service.shelves)


def per_events(pick: Callable[[FunctionEvents], float]) -> Callable[[Scrape], Iterator[Sample]]:
    return lambda scrape: (((e.function, e.tenant), pick(e)) for e in scrape.service.events)


def per_events_and(pick: Callable[[FunctionEvents], dict[str, int]]) -> Callable[[Scrape], Iterator[Sample]]:
    return lambda scrape: (
        ((e.function, e.tenant, reason), count) for e in scrape.service.events for reason, count in sorted(pick(e).items())
    )


def _limit(value: int) -> float:
    return float("inf") if value in (NO_LIMIT, NO_LIMIT_64) else float(value)


def _start_seconds(scrape: Scrape) -> Iterator[Sample]:
    service = scrape.service
    buckets = [(repr(b), c) for b, c in zip(service.sandbox_start_bounds_s, service.sandbox_start_counts, strict=True)]
    yield (), ([*buckets, ("+Inf", service.sandbox_start_count)], service.sandbox_start_sum_s)


_OUTCOMES = tuple((o.name.lower(), int(o)) for o in Outcome)
_RESOURCES = tuple((r.name.lower(), int(r)) for r in Resource)
_TIERS = tuple((t.name.lower(), int(t)) for t in Tier if t is not Tier.WARM)
_STATES = tuple((s.name.lower(), int(s)) for s in SandboxState if s is not SandboxState.FREE)

C, G, H, INFO = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM, Kind.INFO


def _rows_of_account(name: str, resource: Resource, unit: float, what: str) -> tuple[Row, ...]:
    return (
        Row(f"account_{name}", G, ACCOUNT, f"{what} now", per_account(lambda a: a.current[resource] * unit)),
        Row(
            f"account_{name}_peak",
            G,
            ACCOUNT,
            f"Highest {what.lower()} since the start",
            per_account(lambda a: a.peak[resource] * unit),
        ),
        Row(
            f"account_{name}_limit",
            G,
            ACCOUNT,
            f"Limit of {what.lower()}; +Inf: none",
            per_account(lambda a: _limit(a.maxima[resource]) * unit),
        ),
    )


# fmt: off
METRICS: tuple[Row, ...] = (
    # invocations
    Row("invocations", C, (*FUNCTION, "outcome"), "Invocations answered, by outcome",
            per_function_and(_OUTCOMES, lambda f: f.outcomes)),
    Row("timeouts", C, FUNCTION, "Invocations ended by the function's own timeout",
            per_function(lambda f: f.outcomes[Outcome.TIMEOUT])),
    Row("throttles", C, (*FUNCTION, "resource"), "Invocations refused, by the resource that ran out",
            per_function_and(_RESOURCES, lambda f: f.throttled)),
    Row("queued_calls", G, FUNCTION, "Calls that wait for a sandbox", per_function(lambda f: f.queued)),
    Row("queue_oldest_age_seconds", G, FUNCTION, "Age of the call at the queue's head",
        per_function(lambda f: f.oldest_ns * NS)),
    Row("in_flight_calls", G, FUNCTION, "Calls in sandboxes, those sent ahead included", per_function(lambda f: f.in_flight)),
    Row("executing_calls", G, FUNCTION, "Calls that run: concurrency", per_function(lambda f: f.executing)),
    Row("queue_duration_seconds", H, FUNCTION, "From arrival to start of the handler, without the wait for a cold start",
            duration(lambda f: f.queue)),
    Row("init_duration_seconds", H, FUNCTION, "From the wish for a sandbox until it was ready", duration(lambda f: f.init)),
    Row("run_duration_seconds", H, FUNCTION, "Run of the handler", duration(lambda f: f.run)),
    Row("overhead_duration_seconds", H, FUNCTION, "From the handler's end to the answer", duration(lambda f: f.overhead)),
    Row("invocation_duration_seconds", H, FUNCTION, "From arrival to the answer", duration(lambda f: f.total)),
    Row("cpu_seconds", C, FUNCTION, "CPU time of the function's sandboxes, from the kernel",
            per_function(lambda f: f.cpu_ns * NS)),
    Row("memory_gigabyte_seconds", C, FUNCTION, "Configured memory times run time",
            per_function(lambda f: f.mb_ns / 1024 * NS)),
    # sandboxes
    Row("sandboxes", G, (*FUNCTION, "state"), "Sandboxes by state", per_function_and(_STATES, lambda f: f.sandboxes)),
    Row("evicted_sandboxes", C, FUNCTION, "Idle sandboxes ended since others wanted their memory",
            per_function(lambda f: f.evicted)),
    Row("keep_alive_seconds", G, FUNCTION, "An idle sandbox is kept so long: learnt from gaps between calls, or the default",
            per_function(lambda f: f.keep_ns * NS)),
    Row("keep_alive_gaps", G, FUNCTION, "Gaps between calls that keep_alive_seconds is learnt from; few: it is the default",
            per_function(lambda f: f.keep_samples)),
    Row("provisioned_concurrency_requested", G, FUNCTION, "Sandboxes that are to be kept initialised",
            per_floor(lambda f: f.provisioned)),
    Row("provisioned_concurrency_allocated", G, FUNCTION, "Of these: starting or ready",
            per_floor(lambda f: f.provisioned_allocated)),
    Row("provisioned_concurrency_available", G, FUNCTION, "Of these: ready", per_floor(lambda f: f.provisioned_available)),
    Row("provisioned_concurrency_executing", G, FUNCTION, "Of these: they run a call",
            per_floor(lambda f: min(f.executing, f.provisioned))),
    Row("provisioned_concurrency_invocations", C, FUNCTION, "Calls that ran within what is provisioned",
            per_function(lambda f: f.provisioned_calls)),
    Row("provisioned_concurrency_spillover_invocations", C, FUNCTION, "Calls that found all that is provisioned busy",
            per_function(lambda f: f.spillover_calls)),
    Row("cold_starts", C, (*FUNCTION, "tier"), "Sandboxes that became ready, by how they were born",
            per_function_and(_TIERS, lambda f: f.cold_starts)),
    Row("sandbox_start_duration_seconds", H, (), "From the core's wish for a sandbox until its function was handed over",
            _start_seconds),
    Row("launch_failures", C, (), "Sandboxes that could not be made", one(lambda s: s.service.launch_failures)),
    Row("launcher_up", G, (), "1: the launcher lives", one(lambda s: s.service.launcher_up)),
    Row("launcher_restarts", C, (), "Launchers that died and were replaced", one(lambda s: s.service.launcher_restarts)),
    Row("shells_ready", G, ("runtime",), "Pre-warmed shells that wait", per_shelf(lambda s: s.ready)),
    Row("shells_target", G, ("runtime",), "Pre-warmed shells that are wanted", per_shelf(lambda s: s.target)),
    Row("shells_awaited", G, ("runtime",), "Sandboxes that wait for a shell to be born", per_shelf(lambda s: s.waiting)),
    Row("shells_born", C, ("runtime",), "Shells made", per_shelf(lambda s: s.born)),
    Row("shells_died", C, ("runtime",), "Shells that died while they waited", per_shelf(lambda s: s.died)),
    Row("shells_failed", C, ("runtime",), "Shells that could not be made", per_shelf(lambda s: s.failed)),
    Row("shell_birth_seconds", G, ("runtime",), "Moving average of a shell's birth", per_shelf(lambda s: s.birth_s)),
    # images
    Row("images", G, ("state",), "Images of initialised processes, by state",
            lambda s: (((state,), count) for state, count in s.service.images.by_state.items())),
    Row("image_bytes", G, (), "Bytes of all images, the one in the making included", one(lambda s: s.service.images.bytes)),
    Row("image_bytes_limit", G, (), "Limit of the bytes of all images", one(lambda s: s.service.images.bytes_max)),
    Row("image_makes", C, ("outcome",), "Attempts to make an image: made, cannot, function failed, broke, not now",
            lambda s: (((outcome,), count) for outcome, count in s.service.images.made.items())),
    Row("image_make_seconds", C, (), "Time spent with making images", one(lambda s: s.service.images.make_s)),
    Row("image_evictions", C, (), "Images that made room for others", one(lambda s: s.service.images.evicted)),
    Row("restores", C, ("result",), "Sandboxes that were to be restored from an image: restored, fell_back",
            lambda s: [(("restored",), s.service.images.restored), (("fell_back",), s.service.images.fell_back)]),
    # accounts
    *_rows_of_account("concurrency", Resource.CONCURRENCY, 1, "Calls that run"),
    *_rows_of_account("memory_bytes", Resource.MEMORY, MIB, "Memory of sandboxes"),
    *_rows_of_account("queued_calls", Resource.QUEUED_CALLS, 1, "Calls that wait"),
    *_rows_of_account("queued_bytes", Resource.QUEUED_BYTES, 1, "Bytes of the payloads that wait"),
    Row("account_concurrency_reserved", G, ACCOUNT, "Concurrency guaranteed to the account",
            per_account(lambda a: a.minima[Resource.CONCURRENCY])),
    Row("account_cpu_seconds", C, ACCOUNT, "CPU time charged", per_account(lambda a: a.current[Resource.CPU] * NS)),
    Row("account_refusals", C, (*ACCOUNT, "resource"), "Charges that this account refused, by resource", _refusals),
    # protocol
    Row("rpc_requests", C, (), "Requests of the protocol, all kinds", one(lambda s: s.snapshot.loop.requests)),
    Row("rpc_framing_errors", C, (), "Connections closed for what is not the protocol",
            one(lambda s: s.snapshot.loop.rpc_errors)),
    Row("rpc_bad_requests", C, (), "Requests answered BadRequest", one(lambda s: s.snapshot.loop.bad_requests)),
    Row("rpc_refused_requests", C, (), "Requests refused before any account: no memory for a payload, too many control methods",
            one(lambda s: s.snapshot.loop.refused_requests)),
    Row("rpc_methods", C, ("method", "result"), "Control methods, and operations of KMS, Secrets Manager and SSM, by result",
        lambda s: s.service.methods.items()),
    Row("rpc_bad_tokens", C, (), "Tokens that were refused", one(lambda s: s.service.bad_tokens)),
    Row("tls_handshakes", C, ("result",), "TLS connections, by how the handshake ended; crowded_out: made room for newer ones",
            lambda s: (((result,), n) for result, n in s.service.tls_handshakes.items())),
    Row("tls_handshakes_under_way", G, (), "TLS handshakes that have not ended", one(lambda s: s.service.tls_under_way)),
    Row("tls_stalled", C, (), "TLS connections cut off: they took nothing of what waited for them",
            one(lambda s: s.service.tls_stalled)),
    Row("connections", G, (), "Clients connected", one(lambda s: s.snapshot.loop.connections)),
    Row("connections_paused", G, (), "Clients not read: they do not read, or wait for memory, or are being closed",
            one(lambda s: s.snapshot.loop.connections_paused)),
    Row("connections_waiting", G, (), "Clients whose large request waits for payload memory",
            one(lambda s: s.snapshot.loop.connections_waiting)),
    Row("connections_refused", C, (), "Clients closed at once", one(lambda s: s.snapshot.loop.refused_connections)),
    Row("received_bytes", C, (), "Bytes from clients", one(lambda s: s.snapshot.loop.bytes_in)),
    Row("sent_bytes", C, (), "Bytes to clients", one(lambda s: s.snapshot.loop.bytes_out)),
    Row("payload_bytes", G, (), "Bytes of all payloads held", one(lambda s: s.snapshot.loop.payload_bytes)),
    # asynchronous events
    Row("async_events_waiting", G, EVENTS, "Asynchronous events not done; function empty: of all that are removed",
            per_events(lambda e: e.waiting)),
    Row("async_events_waiting_bytes", G, EVENTS, "Bytes of the asynchronous events not done",
            per_events(lambda e: e.waiting_bytes)),
    Row("async_events_oldest_age_seconds", G, EVENTS, "Age of the oldest asynchronous event not done",
            per_events(lambda e: e.oldest_age_s)),
    Row("async_events_accepted", C, EVENTS, "Asynchronous events made durable", per_events(lambda e: e.accepted)),
    Row("async_events_duplicates", C, EVENTS, "Asynchronous events answered without being queued: their key was known",
            per_events(lambda e: e.duplicates)),
    Row("async_events_delivered", C, EVENTS, "Asynchronous events whose function succeeded", per_events(lambda e: e.delivered)),
    Row("async_events_retried", C, (*EVENTS, "reason"), "Attempts after which an event waits for another: failed, not_run",
            per_events_and(lambda e: e.retried)),
    Row("async_events_dropped", C, (*EVENTS, "reason"),
            "Asynchronous events given up: "
            "retries_exhausted, event_age_exceeded, zero_reserved_concurrency, function_gone, refused",
            per_events_and(lambda e: e.dropped)),
    # loop, rings, core
    Row("reactor_turns", C, (), "Turns of the reactor", one(lambda s: s.snapshot.loop.turns)),
    Row("reactor_spins", C, (), "Turns that found work by polling", one(lambda s: s.snapshot.loop.spins)),
    Row("reactor_sleeps", C, (), "Times the reactor slept", one(lambda s: s.snapshot.loop.sleeps)),
    Row("reactor_turn_seconds_max", G, (), "Longest turn since the last scrape",
        one(lambda s: s.snapshot.loop.turn_ns_max * NS)),
    Row("reactor_cpu_seconds", C, (), "CPU time of the reactor's thread", one(lambda s: s.snapshot.loop.cpu_ns * NS)),
    Row("ring_commands", C, (), "Commands taken from the service", one(lambda s: s.snapshot.loop.commands)),
    Row("ring_events", C, (), "Events given to the service", one(lambda s: s.snapshot.loop.events)),
    Row("ring_events_waiting", G, (), "Events that found the ring full and wait",
        one(lambda s: s.snapshot.loop.events_waiting)),
    Row("sandbox_protocol_errors", C, (), "Sandboxes ended for broken frames",
            one(lambda s: s.snapshot.loop.sandbox_protocol_errors)),
    Row("log_bytes", C, (), "Bytes of functions' output kept", one(lambda s: s.snapshot.loop.log_bytes)),
    Row("log_disk_bytes", G, (), "Bytes of all log files", one(lambda s: s.snapshot.loop.log_disk_bytes)),
    Row("log_dropped_bytes", C, (), "Bytes of functions' output dropped", one(lambda s: s.snapshot.loop.log_bytes_dropped)),
    Row("spans_exported", C, (), "Sampled calls told to the collector", one(lambda s: s.service.spans_exported)),
    Row("spans_dropped", C, (), "Sampled calls not told: too many in a second, no room, or the collector took none",
        one(lambda s: s.snapshot.loop.spans_dropped + s.service.spans_dropped)),
    Row("recursive_invocations_dropped", C, (), "Calls refused since their chain came back to the function too often",
        one(lambda s: s.snapshot.loop.recursions)),
    Row("core_steps", C, (), "Steps of the core", one(lambda s: s.snapshot.totals.steps)),
    Row("core_events", C, (), "Events the core handled", one(lambda s: s.snapshot.totals.events)),
    Row("core_stale_events", C, (), "Events for what is no more", one(lambda s: s.snapshot.totals.stale_events)),
    Row("core_bad_replies", C, (), "Replies out of order", one(lambda s: s.snapshot.totals.bad_replies)),
    Row("core_timers_fired", C, (), "Timers that fired", one(lambda s: s.snapshot.totals.timers_fired)),
    Row("core_calls", G, (), "Calls held, queued and running", one(lambda s: s.snapshot.totals.calls)),
    Row("core_calls_peak", G, (), "Most calls ever held", one(lambda s: s.snapshot.totals.calls_peak)),
    Row("core_memory_bytes", G, (), "Memory of the core, all of it taken at the start",
            one(lambda s: s.snapshot.totals.memory_bytes)),
    # service
    Row("ready", G, (), "1: a call would run", one(lambda s: s.service.ready)),
    Row("draining", G, (), "1: the service is ending", one(lambda s: s.service.draining)),
    Row("start_time_seconds", G, (), "When the service started, Unix time", one(lambda s: s.service.start_time_s)),
    Row("control_lag_seconds", G, (), "How late the control plane's last tick came", one(lambda s: s.service.control_lag_s)),
    Row("faults", C, (), "Things the engine wants the operator to know; see the log", one(lambda s: s.service.faults)),
    Row("build", INFO, (), "Version and isolation",
            lambda s: [((), {"version": s.service.version, "isolation": s.service.isolation})]),
)
# fmt: on


# ---- the collector ----------------------------------------------------------------------------------------------------------


def _family(row: Row, scrape: Scrape) -> Metric:
    name = PREFIX + row.name
    if row.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, row.help, labels=row.labels)
        for labels, (buckets, total) in row.values(scrape):
            histogram.add_metric(labels, buckets=buckets, sum_value=total)
        return histogram
    if row.kind is Kind.INFO:
        info = InfoMetricFamily(name, row.help, labels=row.labels)
        for labels, value in row.values(scrape):
            info.add_metric(labels, value)
        return info
    make = CounterMetricFamily if row.kind is Kind.COUNTER else GaugeMetricFamily
    family = make(name, row.help, labels=row.labels)
    for labels, value in row.values(scrape):
        family.add_metric(labels, float(value))
    return family


class _Collector:
    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape

    def collect(self) -> Iterator[Metric]:
        for row in METRICS:
            yield _family(row, self._scrape)

    def describe(self) -> list[Metric]:
        return []


def registry(scrape: Scrape) -> CollectorRegistry:
    """A registry over one scrape and this process, for prometheus_client's encoders."""
    made = CollectorRegistry(auto_describe=False)
    made.register(_Collector(scrape))
    ProcessCollector(registry=made)
    return made


def manual() -> str:
    """docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "<!-- Written by `python -m scheduler.metrics > docs/metrics.md` from the table in scheduler/metrics.py. -->",
        "",
        "`GET /metrics` on the address of the setting `metrics`. Text format or OpenMetrics, as the scraper asks. Durations",
        "are seconds, all sizes bytes. Counters begin at 0 when the service starts. `process_*` of the service itself come",
        "besides.",
        "",
        f"Buckets of histograms end at 2^k − 1 ns for k = {OCTAVE_FIRST} … {OCTAVE_LAST}: 4.1 µs, 8.2 µs, 16 µs, … 0.52 ms,",
        "1.05 ms, … 1,100 s. They are sums of the engine's own finer buckets, so no count is interpolated. A function that was",
        "never called has no histogram yet.",
        "",
        "| metric | kind | labels | meaning |",
        "|---|---|---|---|",
    ]
    for row in METRICS:
        labels = ", ".join(row.labels) or "–"
        lines.append(f"| `{PREFIX}{row.exposed}` | {row.kind.value} | {labels} | {row.help} |")
    lines += [
        "",
        "## Values of labels",
        "",
        "| label | values |",
        "|---|---|",
        f"| `outcome` | {', '.join(name for name, _ in _OUTCOMES)} |",
        f"| `resource` | {', '.join(name for name, _ in _RESOURCES)} |",
        f"| `state` | {', '.join(name for name, _ in _STATES)} |",
        f"| `tier` | {', '.join(name for name, _ in _TIERS)} |",
        "| `kind` | node, tenant, function |",
        f"| `account` | node (number {NODE_ACCOUNT}), or the tenant's or function's name |",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(manual())
