"""From an image of the initialised process to a first answer."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.context import Question
from bench.programs import ROOT
from bench.rows import Row, Spread, at_most, info, unmeasured

if TYPE_CHECKING:
    from pathlib import Path

    from bench.context import Context
    from bench.service import Service

P50_MS, P99_MS = 3.0, 12.0
CLIENT_P50_MS = 5.0
IDLE_S = 1  # the least a setting allows: after so long a sandbox is ended, and the next call is a cold one
PATIENCE = ("idle_timeout_s", "idle_timeout_min_s", "idle_timeout_max_s")
PAUSE_S = 0.06  # the pool makes its next shell meanwhile
PACKAGES = ROOT / "build" / "bench" / "boto3"
BOTO3 = "boto3>=1.34,<2"


@dataclass(slots=True)
class Calls:
    """Of one tier, in milliseconds: what the caller waited, and what of it was the sandbox's start."""

    took: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)

    def p(self, q: float) -> float:
        return sorted(self.took)[min(len(self.took) - 1, int(q * len(self.took)))]


def _packages() -> Path:
    """boto3 with all it needs, fetched once. subprocess.CalledProcessError: it cannot be had."""
    if not (PACKAGES / "boto3").is_dir():
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "--target",
            str(PACKAGES),
            BOTO3,
        ]
        subprocess.run(command, check=True, capture_output=True)
    return PACKAGES


def _wait_gone(service: Service, name: str) -> None:
    until = time.monotonic() + 20
    while sum(service.stats(name).sandboxes.values()):
        if time.monotonic() > until:
            raise RuntimeError(f"{name}: its sandboxes do not end")
        time.sleep(0.02)


def _cold(service: Service, names: list[str], rounds: int) -> dict[str, Calls]:
    """One call after the other, each when no sandbox of its function is left; by the tier that its report tells."""
    tiers: dict[str, Calls] = {}
    for _ in range(rounds):
        for name in names:
            _wait_gone(service, name)
            time.sleep(PAUSE_S)
            begin = time.monotonic()
            done = service.client.invoke(name, b"{}", report=True)
            ms = (time.monotonic() - begin) * 1000
            assert done.report is not None
            calls = tiers.setdefault(done.report.cold or "warm", Calls())
            calls.took.append(ms)
            calls.start.append((done.report.init_us or 0) / 1000)
    return tiers


def _image_mb(service: Service, name: str) -> float:
    """RuntimeError: there is none, and why."""
    image = service.client.get(name).image
    if image is None or image.state != "ready":
        raise RuntimeError(f"{name} has no image: {image}")
    return image.bytes / (1 << 20)


def _said(tiers: dict[str, Calls]) -> str:
    return f"by tier {dict(Counter({tier: len(calls.took) for tier, calls in tiers.items()}))}"


def _both(ctx: Context, names: int, rounds: int, handler: str, **more: Any) -> tuple[dict[str, Calls], Calls, float]:
    """Calls of published functions by tier, those of the same one without images, and an image's size in MB."""
    settings: dict[str, Any] = {"shells_ahead": 4, "images_mb_max": 1024, **dict.fromkeys(PATIENCE, IDLE_S)}
    with ctx.service(**settings) as service:
        published = [f"restored{number}" for number in range(names)]
        for name in published:
            service.deploy(name, handler, publish=True, **more)
        service.deploy("plain", handler, snapshot="off", **more)
        size = _image_mb(service, published[0])
        time.sleep(1.0)
        first = _cold(service, published, 1)
        ctx.say(f"{handler}: image of {size:.1f} MB, first calls {_said(first)}")
        tiers = _cold(service, published, rounds)
        plain = _cold(service, ["plain"], ctx.pick(12, 4))
    for tier, calls in first.items():
        known = tiers.setdefault(tier, Calls())
        known.took += calls.took
        known.start += calls.start
    return tiers, plain["shell"], size


def _trivial(ctx: Context) -> list[Row]:
    tiers, plain, size = _both(ctx, 10, ctx.pick(30, 3), "echo")
    restored = tiers["snapshot"]
    ctx.say(f"restored: p50 {restored.p(0.5):.2f}, p99 {restored.p(0.99):.2f} ms; from a shell {plain.p(0.5):.2f} ms")
    raw = {tier: {"took_ms": calls.took, "start_ms": calls.start} for tier, calls in tiers.items()}
    notes = f"{_said(tiers)}; start {statistics.median(restored.start):.2f} ms of it; image {size:.1f} MB; caller in Python"
    return [
        at_most("restored from an image, trivial handler, request to first reply: p50", Spread.of(restored.took), "ms", P50_MS,
                notes=notes, raw=raw),
        at_most("restored from an image, trivial handler, request to first reply: p99", restored.p(0.99), "ms", P99_MS,
                notes=f"of {len(restored.took)} calls"),
        info("the same from a shell, with its init: p50", Spread.of(plain.took), "ms"),
    ]  # fmt: skip


def _client(ctx: Context) -> list[Row]:
    name = "restored from an image, boto3 imported and a client made: p50"
    try:
        packages = _packages()
    except (subprocess.CalledProcessError, OSError) as error:
        return [unmeasured(name, "ms", f"≤ {CLIENT_P50_MS:g}", f"boto3 could not be fetched: {error}")]
    tiers, plain, size = _both(ctx, 3, ctx.pick(14, 2), "client", memory_mb=512, packages=packages)
    restored = tiers["snapshot"]
    ctx.say(f"boto3: p50 {restored.p(0.5):.2f}, p99 {restored.p(0.99):.2f} ms; from a shell {plain.p(0.5):.0f} ms")
    notes = f"{_said(tiers)}; start {statistics.median(restored.start):.2f} ms of it; image {size:.1f} MB"
    return [
        at_most(name, Spread.of(restored.took), "ms", CLIENT_P50_MS, notes=notes, raw={"took_ms": restored.took}),
        info("the same from a shell, with its init: p50", Spread.of(plain.took), "ms"),
    ]


def run(ctx: Context) -> list[Row]:
    return [*_trivial(ctx), *_client(ctx)]


QUESTION = Question(
    name="snapshot",
    asks="How long does a cold call take when its sandbox is restored from an image of the initialised process?",
    how=(
        "Functions deployed with `publish`, so that their first call is restored already; each is called once in turn, and "
        "again when its sandbox has been idle for a second and is gone. The caller's time from send to answer; the report says "
        "which tier it came from. Full isolation. Once with an echo, once with boto3 imported and an S3 client made at init "
        "(boto3 is fetched into build/bench on first use). Beside them the same function with `snapshot = off`."
    ),
    traps=(
        "The page cache is warm and images lie in memory. Between two calls the machine has at least 60 ms, in which the next "
        "shell is born: under a steady load of cold calls births come into the way (question `fresh`)."
    ),
    run=run,
)
