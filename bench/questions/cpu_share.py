"""How much CPU a function gets for its memory."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from bench.context import Question
from bench.rows import Row, Spread, at_most, info, within

if TYPE_CHECKING:
    from bench.context import Context
    from bench.service import Service

SPIN_S = 2.0
WANTED = {885: 0.5, 1769: 1.0}
TOLERANCE = 0.05
MB_PER_CPU = 1769


def _share(service: Service, name: str) -> float:
    """Of one CPU, while the handler does nothing but spin."""
    spin = json.dumps({"wall_us": round(SPIN_S * 1_000_000)}).encode()
    before_ns = sum(service.sandboxes_cpu_ns(name).values())
    begun = time.monotonic()
    service.client.invoke(name, spin)
    took_s = time.monotonic() - begun
    return (sum(service.sandboxes_cpu_ns(name).values()) - before_ns) / 1e9 / took_s


def _warm_us(service: Service, name: str, count: int) -> list[float]:
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        service.client.invoke(name, b"{}")
        took.append((time.perf_counter() - begun) * 1e6)
    return sorted(took)


def run(ctx: Context) -> list[Row]:
    runs = ctx.pick(3, 1)
    rows: list[Row] = []
    with ctx.service(cpu_per_memory="proportional") as service:
        for memory_mb, wanted in WANTED.items():
            name = f"spin{memory_mb}"
            service.deploy(name, "work", memory_mb=memory_mb)
            service.client.invoke(name, b"{}")
            shares = Spread.of([_share(service, name) for _ in range(runs)])
            ctx.say(f"{memory_mb} MB: {shares.median:.3f} of a CPU")
            rows.append(
                within(
                    f"CPU of a function of {memory_mb:,} MB that spins alone for {SPIN_S:g} s",
                    shares,
                    "CPU",
                    round(wanted * (1 - TOLERANCE), 3),
                    round(wanted * (1 + TOLERANCE), 3),
                )
            )
        service.deploy("small", "work", memory_mb=128)
        service.client.invoke("small", b"{}")
        share = _share(service, "small")
        rows.append(
            info("CPU of a function of 128 MB that spins alone", share, "CPU", notes=f"{128 / MB_PER_CPU:.4f} is its share")
        )
        service.deploy("tiny", "echo", memory_mb=128)
        service.deploy("large", "echo", memory_mb=MB_PER_CPU)
        count = ctx.pick(1000, 200)
        medians: dict[str, list[float]] = {"tiny": [], "large": []}
        for _ in range(ctx.pick(5, 2)):
            for name, values in medians.items():
                took = _warm_us(service, name, count)
                values.append(took[len(took) // 2])
                time.sleep(0.2)
        tiny, large = Spread.of(medians["tiny"]), Spread.of(medians["large"])
        rows.append(
            at_most(
                "a warm call of 128 MB, one after the other, against one of 1,769 MB: p50",
                tiny.median / large.median,
                "×",
                1.15,
                notes=f"{tiny.median:.0f} µs against {large.median:.0f} µs",
            )
        )
    return rows


QUESTION = Question(
    name="cpu_share",
    asks="Does a function get the CPU that its memory is worth, and no more?",
    how=(
        f"A handler that spins for {SPIN_S:g} s, one call at a time, on an otherwise idle machine; the kernel's CPU time of "
        "its processes over the caller's time. 1,769 MB are one CPU."
    ),
    traps=(
        "Whatever else runs takes from the larger function, not from the smaller. This question alone asks with the bound; all "
        "others run with `cpu_per_memory = weight_only`, since they ask what the scheduler can do and not what a sandbox may."
    ),
    run=run,
)
