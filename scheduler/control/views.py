"""Counters as the control methods and the console show them.

Law of this file: pure; a snapshot and names in, maps of plain values out. Shapes are those of docs/internals/service.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scheduler.messages import NO_LIMIT, NO_LIMIT_64, Outcome, Resource, SandboxState, Tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scheduler.catalog import AccountInfo
    from scheduler.messages import AccountStats, FunctionStats, Histogram, LoopStats, Snapshot, Totals

__all__ = ["account_view", "function_view", "histogram_view", "loop_view", "quantiles", "sandboxes_view", "totals_view"]

QUANTILES = (("p50_us", 0.50), ("p90_us", 0.90), ("p99_us", 0.99), ("p999_us", 0.999))


def quantiles(histogram: Histogram, bounds: tuple[tuple[int, int], ...], wanted: Iterable[float]) -> list[float]:
    """Values in ns at the given ranks: the middle of the bucket that holds them, within 1.6 %. Zeros: nothing was counted."""
    ranks = [max(1, int(q * histogram.count + 0.5)) for q in wanted]
    if not histogram.count:
        return [0.0] * len(ranks)
    out: list[float] = []
    seen = 0
    for bucket, count in enumerate(histogram.buckets):
        seen += count
        while len(out) < len(ranks) and seen >= ranks[len(out)]:
            low, high = bounds[bucket]
            out.append((low + min(high, 2 * low + 64)) / 2)
        if len(out) == len(ranks):
            break
    return out


def _max_ns(histogram: Histogram, bounds: tuple[tuple[int, int], ...]) -> int:
    """Upper bound of the highest bucket in use."""
    for bucket in range(len(bounds) - 1, -1, -1):
        if histogram.buckets[bucket]:
            low, high = bounds[bucket]
            return min(high, 2 * low + 64)
    return 0


def histogram_view(histogram: Histogram, bounds: tuple[tuple[int, int], ...]) -> dict[str, float]:
    """Times in microseconds."""
    values = quantiles(histogram, bounds, [q for _, q in QUANTILES])
    view: dict[str, float] = {
        "count": histogram.count,
        "mean_us": round(histogram.sum_ns / histogram.count / 1000, 3) if histogram.count else 0.0,
    }
    view.update((name, round(value / 1000, 3)) for (name, _), value in zip(QUANTILES, values, strict=True))
    view["max_us"] = round(_max_ns(histogram, bounds) / 1000, 3)
    return view


def function_view(stats: FunctionStats, *, name: str, version: str, bounds: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "invocations": sum(stats.outcomes),
        "outcomes": {o.name.lower(): stats.outcomes[o] for o in Outcome if stats.outcomes[o]},
        "throttled": {r.name.lower(): stats.throttled[r] for r in Resource if stats.throttled[r]},
        "cold_starts": {t.name.lower(): stats.cold_starts[t] for t in Tier if t is not Tier.WARM},
        "queued": stats.queued,
        "in_flight": stats.in_flight,
        "executing": stats.executing,
        "oldest_ms": round(stats.oldest_ns / 1e6, 3),
        "sandboxes": {s.name.lower(): stats.sandboxes[s] for s in SandboxState if s is not SandboxState.FREE},
        "evicted": stats.evicted,
        "keep_alive_s": round(stats.keep_ns / 1e9, 3),
        "cpu_seconds": stats.cpu_ns / 1e9,
        "gb_seconds": stats.mb_ns / 1024 / 1e9,
        "queue": histogram_view(stats.queue, bounds),
        "init": histogram_view(stats.init, bounds),
        "run": histogram_view(stats.run, bounds),
        "overhead": histogram_view(stats.overhead, bounds),
        "total": histogram_view(stats.total, bounds),
    }


def _limit(value: int) -> int | None:
    return None if value in (NO_LIMIT, NO_LIMIT_64) else value


def account_view(stats: AccountStats, info: AccountInfo, names: Mapping[int, AccountInfo]) -> dict[str, Any]:
    """max None: no limit. Units: calls, MB, calls, bytes, calls per second, ns of CPU."""
    parent = names.get(stats.parent)
    return {
        "name": info.name,
        "kind": info.kind.value,
        "parent": parent.name if parent else None,
        "weight": stats.weight,
        "resources": {
            resource.name.lower(): {
                "current": stats.current[resource],
                "max": _limit(stats.maxima[resource]),
                "min": stats.minima[resource],
                "peak": stats.peak[resource],
                "refused": stats.refused[resource],
            }
            for resource in Resource
        },
    }


def totals_view(totals: Totals) -> dict[str, int]:
    return {name: getattr(totals, name) for name in type(totals).__slots__}


def loop_view(loop: LoopStats) -> dict[str, int]:
    return {name: getattr(loop, name) for name in type(loop).__slots__}


def sandboxes_view(snapshot: Snapshot) -> dict[str, int]:
    """How many in each state, over all functions."""
    return {
        state.name.lower(): sum(f.sandboxes[state] for f in snapshot.functions.values())
        for state in SandboxState
        if state is not SandboxState.FREE
    }
