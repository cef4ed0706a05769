"""AWS's own client in a loop, and what its signatures cost us."""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from bench.context import Question
from bench.programs import ROOT
from bench.rows import Row, Spread, at_most, info, unmeasured
from bench.web import front, http_load, serving

if TYPE_CHECKING:
    from pathlib import Path

    from bench.context import Context
    from bench.web import HttpService, Key

SHARE_PERCENT = 5.0
SIGNATURE_US = 15.0
CONNECTIONS = 64
SHARE = "boto3's invoke loop: our share of its time"
SIGNATURE = "a signature's check on the hot path"
PROGRAM = ROOT / "build" / "bench" / "bench_sigv4"


# ---- boto3 --------------------------------------------------------------------------------------------------------------


def _loop(port: int, key: Key, payload: Path, *, seconds: float, cpu: int) -> dict[str, Any]:
    words = [sys.executable, str(ROOT / "bench" / "boto3_loop.py"), str(port), "echo", str(payload), str(seconds), str(cpu)]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": key.id, "AWS_SECRET_ACCESS_KEY": key.secret}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"boto3's loop ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


PARTS = ("invocation", "queue", "run", "overhead")


def _served(ours: HttpService) -> dict[str, float]:
    """Of the calls of "echo" so far: seconds of each part, summed, and how many they were."""
    found = dict.fromkeys((*PARTS, "count"), 0.0)
    for line in ours.service.scrape().decode().splitlines():
        if 'function="echo"' not in line:
            continue
        value = float(line.rsplit(" ", 1)[1])
        for part in PARTS:
            if line.startswith(f"scheduler_{part}_duration_seconds_sum{{"):
                found[part] += value
        if line.startswith("scheduler_invocation_duration_seconds_count{"):
            found["count"] += value
    return found


def _each_us(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    calls = after["count"] - before["count"]
    return {part: (after[part] - before[part]) / calls * 1e6 for part in PARTS}


def _boto3(ctx: Context) -> list[Row]:
    if importlib.util.find_spec("boto3") is None:
        return [unmeasured(SHARE, "%", f"≤ {SHARE_PERCENT:g}", "boto3 is not installed; it is one of the development packages")]
    payload, first, last = ctx.payload(), ctx.cpus[0], ctx.cpus[-1]
    shares, loops, bare = [], [], []
    served: list[dict[str, float]] = []
    with front(pin=last) as echo, serving(ctx, auth="sigv4", cpus={last}) as ours:
        assert ours.key is not None
        ours.service.deploy("echo")
        _loop(ours.port, ours.key, payload, seconds=0.2, cpu=first)
        for _ in range(ctx.pick(3, 2)):
            before = _served(ours)
            loops.append(_loop(ours.port, ours.key, payload, seconds=ctx.pick(1.0, 0.5), cpu=first))
            served.append(_each_us(before, _served(ours)))
            shares.append(served[-1]["invocation"] / loops[-1]["mean_us"] * 100)
            bare.append(_loop(echo, ours.key, payload, seconds=ctx.pick(1.0, 0.5), cpu=first))
            ctx.say(
                f"a call {loops[-1]['mean_us']:.0f} µs, of it ours {served[-1]['invocation']:.1f} µs; "
                f"bare {bare[-1]['mean_us']:.0f} µs"
            )
        before = _served(ours)
        http_load(ours.port, ours.request(ctx.work, "echo", payload), duration_ms=ctx.pick(600, 300), pin=first)
        at_once = _each_us(before, _served(ours))["invocation"]
    ours_us = {part: statistics.median(x[part] for x in served) for part in PARTS}
    mean = Spread.of([x["mean_us"] for x in loops]).median
    mine = Spread.of([x["p50_us"] for x in loops]).median
    least = Spread.of([x["p50_us"] for x in bare]).median
    added = Spread.of([(x["p50_us"] - y["p50_us"]) / x["p50_us"] * 100 for x, y in zip(loops, bare, strict=True)])
    return [
        at_most(
            SHARE,
            Spread.of(shares),
            "%",
            SHARE_PERCENT,
            notes=f"{ours_us['invocation']:.1f} µs from arrival to answer (queue {ours_us['queue']:.1f}, handler "
            f"{ours_us['run']:.1f}, overhead {ours_us['overhead']:.1f}) of {mean:.0f} µs a call, signed and verified; "
            f"{at_once:.1f} µs when calls follow each other at once",
            raw={"loops": loops, "served_us": served, "bare": bare},
        ),
        info(
            "boto3's invoke loop: longer than against a bare echo in C",
            added,
            "%",
            notes=f"p50 {mine:.0f} µs against {least:.0f} µs; client on a CPU of its own",
        ),
    ]


# ---- signatures ---------------------------------------------------------------------------------------------------------


def _cpu_per_call(ours: HttpService, what: Path, payload: Path, milliseconds: int) -> float:
    """Microseconds of the service's CPU time, with whatever its threads do beside the calls."""
    before = ours.service.cpu_ns()
    done = http_load(ours.port, what, expect=payload, connections=CONNECTIONS, warmup_ms=0, duration_ms=milliseconds)
    return (ours.service.cpu_ns() - before) / 1000 / int(done["ok"])


def _signature(ctx: Context) -> list[Row]:
    if importlib.util.find_spec("botocore") is None:
        reason = "botocore, which signs, is not installed; it is one of the development packages"
        return [unmeasured(SIGNATURE, "µs CPU", f"≤ {SIGNATURE_US:g}", reason)]
    payload, duration = ctx.payload(), ctx.pick(800, 400)
    costs: dict[str, list[float]] = {"none": [], "sigv4": []}
    with ExitStack() as stack:
        services = {auth: stack.enter_context(serving(ctx, auth=auth)) for auth in costs}
        requests = {}
        for auth, ours in services.items():
            ours.service.deploy("echo")
            requests[auth] = ours.request(ctx.work, "echo", payload)
            _cpu_per_call(ours, requests[auth], payload, duration // 2)
        for _ in range(ctx.pick(4, 3)):
            for auth, ours in services.items():
                costs[auth].append(_cpu_per_call(ours, requests[auth], payload, duration))
            ctx.say(f"CPU of a call: {costs['none'][-1]:.2f} µs, signed {costs['sigv4'][-1]:.2f} µs")
    alone = _alone()
    plain, signed = (statistics.median(costs[auth]) for auth in ("none", "sigv4"))
    return [
        at_most(
            SIGNATURE,
            Spread.of([b - a for a, b in zip(costs["none"], costs["sigv4"], strict=True)]),
            "µs CPU",
            SIGNATURE_US,
            notes=f"service's CPU of a call: unsigned {plain:.2f} µs, signed {signed:.2f} µs, {CONNECTIONS} connections; "
            f"the check by itself {alone['check_ns'] / 1000:.2f} µs",
            raw={**costs, **alone},
        ),
        info("reading a signed request's HTTP", alone["read_ns"] / 1000, "µs CPU", notes="native/tests/bench_sigv4.c"),
    ]


def _alone() -> dict[str, float]:
    words = ["make", "-s", "--no-print-directory", "-C", str(ROOT), str(PROGRAM.relative_to(ROOT))]
    made = subprocess.run(words, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise RuntimeError(f"bench_sigv4 does not build: {made.stderr.strip()}")
    done = subprocess.run([PROGRAM, "--json"], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run(ctx: Context) -> list[Row]:
    return [*_boto3(ctx), *_signature(ctx)]


QUESTION = Question(
    name="http_clients",
    asks="What is our share of an unmodified boto3's time, and what does the check of a signature cost?",
    how=(
        "boto3 invokes in a loop and reads the answer, with an access key, its process on one CPU, service and sandboxes on "
        "another. Our share is the time from a request's arrival in the service to its answer, as "
        "`scheduler_invocation_duration_seconds` has it (engine, sandbox and the way there and back), over the loop's time a "
        "call. Beside it, how much longer the loop takes than against an echo in C that checks nothing. For the signature: "
        "one request, signed once by botocore and sent again and again over 64 connections to a service that verifies it each"
        " time, and the same unsigned to one that asks for none; the service's CPU time (the kernel's count) over the calls, "
        "in turns."
    ),
    traps=(
        "Arrival is when the loop has the bytes in hand: the kernel's way from client to service is in neither share. The"
        " second figure has it twice, as an echo is a server too. boto3 lets half a millisecond pass between two calls: "
        "by then the service's CPU sleeps and its caches are cold, so a call takes longer than when calls follow each "
        "other at once. The same signature may come again within its five minutes, as at AWS."
    ),
    run=run,
)
