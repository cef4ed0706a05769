"""What a scrape shows, gathered from every part of the service: one snapshot of the engine, names, and what is counted outside.

Law of this file: it reads, and changes nothing but that the dispatcher of events sums up those of removed functions.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from scheduler import __version__
from scheduler.guests import fold
from scheduler.metrics import AccountLabels, FunctionEvents, FunctionLabels, ImageFigures, Scrape, ServiceFigures, ShelfFigures

if TYPE_CHECKING:
    from scheduler.metrics import Octaves
    from scheduler.service import Service

__all__ = ["events_of", "scrape"]


async def scrape(service: Service, octaves: Octaves) -> Scrape:
    snapshot = fold(await service.engine.stats(), service.catalog)
    functions: dict[int, FunctionLabels] = {}
    for handle in snapshot.functions:
        version = service.catalog.serving(handle)
        if version is not None:
            functions[handle] = FunctionLabels(version.name, version.version, version.config.tenant)
    accounts: dict[int, AccountLabels] = {}
    for index in snapshot.accounts:
        info = service.catalog.account_info(index)
        if info is not None:
            accounts[index] = AccountLabels(info.name, info.kind.value)
    return Scrape(snapshot, functions, accounts, _outside(service), octaves)


def events_of(service: Service, name: str) -> dict[str, object]:
    """A function's asynchronous events, as functions.get shows them."""
    events = next((e for e in _events(service) if e.function == name), FunctionEvents(function=name, tenant=""))
    return {key: value for key, value in asdict(events).items() if key not in ("function", "tenant")}


def _events(service: Service) -> tuple[FunctionEvents, ...]:
    registry = service.registry
    return tuple(
        FunctionEvents(
            function=name,
            tenant=registry.get(name).config.tenant if name else "",
            waiting=figures.waiting,
            waiting_bytes=figures.waiting_bytes,
            oldest_age_s=round(figures.oldest_age_s, 3),
            accepted=figures.counts.accepted,
            duplicates=figures.counts.duplicates,
            delivered=figures.counts.delivered,
            retried=dict(figures.counts.retried),
            dropped={condition.name.lower(): n for condition, n in figures.counts.dropped.items()},
        )
        for name, figures in sorted(service.events.figures(lambda name: name in registry).items())
    )


def _outside(service: Service) -> ServiceFigures:
    """What is counted outside the engine."""
    sandboxes = service.supervisor.stats()
    times = service.supervisor.times
    return ServiceFigures(
        version=__version__,
        isolation=service.isolation,
        ready=service.not_ready() is None,
        draining=service.draining,
        start_time_s=service.start_time_s,
        control_lag_s=service.lag_s,
        bad_tokens=service.connections.bad_tokens_total,
        faults=service.faults,
        launcher_up=sandboxes.launcher_up,
        launcher_restarts=sandboxes.launcher_restarts,
        launch_failures=sandboxes.launch_failures,
        sandbox_start_bounds_s=times.bounds_s,
        sandbox_start_counts=tuple(times.counts),
        sandbox_start_count=times.count,
        sandbox_start_sum_s=times.sum_s,
        events=_events(service),
        methods={**service.dispatcher.results, **service.keyroom.targets.results},
        shelves=tuple(
            ShelfFigures(
                runtime=shelf.runtime, ready=shelf.ready, target=shelf.target, waiting=shelf.waiting, born=shelf.born,
                died=shelf.died, failed=shelf.failed, birth_s=shelf.birth_s,
            )
            for shelf in service.pool.stats()
        ),
        images=ImageFigures(**asdict(service.templates.stats())),
        spans_exported=service.exporter.figures.exported if service.exporter is not None else 0,
        spans_dropped=service.exporter.figures.dropped if service.exporter is not None else 0,
        **_tls(service),
    )  # fmt: skip


def _tls(service: Service) -> dict[str, Any]:
    front = service.tls
    if front is None:
        return {}
    counted = front.figures
    return {
        "tls_handshakes": {
            "accepted": counted.accepted, "failed": counted.failed, "timed_out": counted.timed_out,
            "crowded_out": counted.crowded_out, "refused": counted.refused,
        },
        "tls_under_way": front.handshakes,
        "tls_stalled": counted.stalled,
    }  # fmt: skip
