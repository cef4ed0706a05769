"""Sampled calls as spans of OpenTelemetry, told to a collector by OTLP over HTTP, in its JSON form.

Law of this file: what a call's spans say is pure; the exporter holds a bounded queue and posts from it. Calls never wait for a
collector: a span for which there is no room, or which the collector does not take, is dropped and counted.

A call is one span of kind server, from its arrival to its answer, its parent the caller's. In it are the init that it waited
for and the function's own time. Names of attributes are those of OpenTelemetry's conventions for functions (faas.*).

    exporter = Exporter("http://127.0.0.1:4318", log)
    nursery.start_soon(exporter.run)
    exporter.offer(span, Called(name="hello", version="$LATEST", arn="arn:…", tenant="default"))
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
import uuid
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from scheduler import __version__
from scheduler.messages import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.log import Log
    from scheduler.messages import Span

__all__ = ["Called", "Exporter", "ExporterFigures", "encode"]

QUEUE_MAX: Final = 2_048
BATCH_MAX: Final = 512
GATHER_S: Final = 1.0
POST_S: Final = 5.0
PAUSE_S: Final = 5.0  # after a collector did not answer
TOLD_S: Final = 60.0
SERVER, INTERNAL = 2, 1  # SpanKind
FAILED: Final = 2  # StatusCode
_HEADER: Final = re.compile(r"Root=1-([0-9a-f]{8})-([0-9a-f]{24});Parent=([0-9a-f]{16})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Called:
    """The function of a call."""

    name: str
    version: str
    arn: str
    tenant: str


@dataclass(slots=True)
class ExporterFigures:
    exported: int = 0
    dropped: int = 0  # no room, or the collector did not take them


class Exporter:
    """endpoint: base address of a collector; spans go to endpoint/v1/traces."""

    def __init__(self, endpoint: str, log: Log) -> None:
        self.figures = ExporterFigures()
        self._url = endpoint.rstrip("/") + "/v1/traces"
        self._log = log
        self._queue: deque[tuple[Span, Called]] = deque()
        self._offered = trio.Event()
        self._told_s = float("-inf")

    def offer(self, span: Span, called: Called) -> None:
        if len(self._queue) >= QUEUE_MAX:
            self.figures.dropped += 1
            return
        self._queue.append((span, called))
        self._offered.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._offered.wait()
            self._offered = trio.Event()
            with trio.move_on_after(GATHER_S):
                while len(self._queue) < BATCH_MAX:
                    await self._offered.wait()
                    self._offered = trio.Event()
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH_MAX))]
                trouble = await trio.to_thread.run_sync(partial(_post, self._url, encode(batch)), abandon_on_cancel=True)
                if trouble is None:
                    self.figures.exported += len(batch)
                    continue
                self.figures.dropped += len(batch)
                if trio.current_time() - self._told_s >= TOLD_S:
                    self._told_s = trio.current_time()
                    self._log.warning("spans dropped", collector=self._url, spans=len(batch), error=trouble)
                await trio.sleep(PAUSE_S)


def _post(url: str, body: bytes) -> str | None:
    """What went wrong. Blocks."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=POST_S) as answer:
            answer.read()
    except (OSError, ValueError) as error:  # URLError and HTTPError are OSErrors
        return str(error)
    return None


def encode(batch: Sequence[tuple[Span, Called]]) -> bytes:
    """ExportTraceServiceRequest as JSON, one resource for each function."""
    by_function: dict[Called, list[dict[str, Any]]] = {}
    for span, called in batch:
        by_function.setdefault(called, []).extend(_spans(span, called))
    resources = [
        {
            "resource": {
                "attributes": _attributes(
                    {
                        "service.name": called.name,
                        "faas.name": called.name,
                        "faas.version": called.version,
                        "cloud.resource_id": called.arn,
                        "scheduler.tenant": called.tenant,
                    }
                )
            },
            "scopeSpans": [{"scope": {"name": "scheduler", "version": __version__}, "spans": spans}],
        }
        for called, spans in by_function.items()
    ]
    return json.dumps({"resourceSpans": resources}, separators=(",", ":")).encode()


def _spans(span: Span, called: Called) -> list[dict[str, Any]]:
    found = _HEADER.search(span.trace)
    if found is None:
        return []
    trace, own = (found[1] + found[2]).lower(), found[3].lower()
    whole: dict[str, Any] = {
        "traceId": trace,
        "spanId": own,
        "name": called.name,
        "kind": SERVER,
        "startTimeUnixNano": str(span.arrived_ns),
        "endTimeUnixNano": str(span.answered_ns),
        "attributes": _attributes(
            {
                "faas.invocation_id": str(uuid.UUID(bytes=span.request_id)),
                "faas.coldstart": span.init_ns > 0,
                "scheduler.outcome": span.outcome.name.lower(),
            }
        ),
        "status": {} if span.outcome is Outcome.OK else {"code": FAILED, "message": span.outcome.name.lower()},
    }
    if span.parent:
        whole["parentSpanId"] = f"{span.parent:016x}"
    if not span.started_ns:
        return [whole]
    parts = [("Invocation", span.started_ns, span.ended_ns)]
    if span.init_ns:
        parts.append(("Initialization", span.started_ns - span.init_ns, span.started_ns))
    # Ids of parts: the call's own, but for a number in front.
    return [whole] + [
        {
            "traceId": trace,
            "spanId": f"{int(own, 16) ^ (number << 56):016x}",
            "parentSpanId": own,
            "name": name,
            "kind": INTERNAL,
            "startTimeUnixNano": str(begun),
            "endTimeUnixNano": str(ended),
        }
        for number, (name, begun, ended) in enumerate(parts, 1)
    ]


def _attributes(values: dict[str, str | bool]) -> list[dict[str, Any]]:
    return [
        {"key": key, "value": {"boolValue": value} if isinstance(value, bool) else {"stringValue": value}}
        for key, value in values.items()
    ]
