"""How fast sandboxes come and go, how many can be held, and what one that runs out of memory does to the others."""

from __future__ import annotations

import json
import os
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import trio

from bench import processes
from bench.context import Question, in_turns, warm_up
from bench.programs import load, stream
from bench.rows import Row, Spread, at_least, at_most, info
from scheduler.errors import SandboxDied
from scheduler.sandboxes.launcher import Launcher, LauncherConfig, Specialisation, open_launcher
from scheduler.sandboxes.runtimes import default_runtime, find_runtimes

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.context import Context
    from bench.service import Service

FRESH_PER_S = 400
AT_ONCE = 8
IDLE = 1000
IDLE_MB = 2.0
STEP = 1.10
PAIRS = 10
HELD_WITHIN_S = 120.0
SETTLED_WITHIN_S = 60.0
QUIET_NS_PER_S = 20_000_000
OOM_MS = 200
NEIGHBOUR = 1.3
HEADER = struct.Struct("<IBBHIIQ")
START, CALL = 1, 2


def _percentile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(q * len(values)))]


# ---- made, one call, destroyed ----


def frame(kind: int, body: bytes, seq: int = 0) -> bytes:
    return HEADER.pack(len(body), kind, 0, 0, seq, 0, 0) + body


async def _heard(fd: int) -> None:
    """One whole frame."""
    held = b""
    while len(held) < HEADER.size or len(held) < HEADER.size + HEADER.unpack_from(held)[0]:
        await trio.lowlevel.wait_readable(fd)
        more = os.read(fd, 65536)
        if not more:
            raise RuntimeError("a sandbox closed its channel")
        held += more


async def _life(launcher: Launcher, code: str, ends: dict[int, trio.Event]) -> None:
    shell = await launcher.shell(launcher.runtimes[0])
    await launcher.specialise(shell, Specialisation(code, 1769, 512))
    start = {
        "function_name": "fresh", "function_version": "$LATEST", "invoked_function_arn": "arn:aws:lambda:l:0:function:fresh",
        "handler": "app.handler", "memory_mb": 1769, "timeout_ms": 3000, "task_root": launcher.task_root(code),
        "environment": {"PATH": "/usr/bin:/bin"}, "log_group_name": "/aws/lambda/fresh", "log_stream_name": "s",
        "initialization_type": "on-demand",
    }  # fmt: skip
    os.write(shell.channel_fd, frame(START, json.dumps(start).encode()))
    await _heard(shell.channel_fd)
    os.write(shell.channel_fd, frame(CALL, bytes(16) + b"{}", 1))
    await _heard(shell.channel_fd)
    ended = ends[shell.id] = trio.Event()
    launcher.kill(shell.id)
    await ended.wait()
    shell.close()


async def _fresh(code: str, seconds: float) -> tuple[float, list[float]]:
    """Lives per second, and how long each took in milliseconds."""
    ends: dict[int, trio.Event] = {}
    took: list[float] = []
    runtime = find_runtimes()[default_runtime()]
    async with open_launcher(LauncherConfig(slots=2 * AT_ONCE), [runtime]) as launcher, trio.open_nursery() as nursery:

        async def exits() -> None:
            async for exited in launcher.exits:
                ends.pop(exited.id).set()

        nursery.start_soon(exits)
        await _life(launcher, code, ends)
        until = trio.current_time() + seconds
        begun = trio.current_time()

        async def maker() -> None:
            while trio.current_time() < until:
                at = trio.current_time()
                await _life(launcher, code, ends)
                took.append((trio.current_time() - at) * 1000)

        async with trio.open_nursery() as makers:
            for _ in range(AT_ONCE):
                makers.start_soon(maker)
        elapsed_s = trio.current_time() - begun
        nursery.cancel_scope.cancel()
    return len(took) / elapsed_s, took


def _births(ctx: Context) -> list[Row]:
    seconds = ctx.pick(30.0, 5.0)
    code = ctx.work / "fresh"
    code.mkdir(exist_ok=True)
    (code / "app.py").write_text("def handler(event, context):\n    return event\n")
    for path in (code, code / "app.py"):
        path.chmod(0o755)
    rate, took = trio.run(_fresh, str(code), seconds)
    ctx.say(f"{rate:.0f} fresh sandboxes/s over {seconds:g} s")
    return [
        at_least(
            f"fresh sandboxes per second, one call each, destroyed after, over {seconds:g} s",
            rate,
            "sandboxes/s",
            FRESH_PER_S,
            notes=f"{len(took):,} lives, {AT_ONCE} at a time, each {_percentile(took, 0.5):.1f} ms from order to end "
            f"(p99 {_percentile(took, 0.99):.1f}); tier shell, straight from the launcher",
        )
    ]


# ---- a thousand at once ----


def _hold(service: Service, count: int) -> int:
    """Provisions so many, which stay however long the births of the last ones take. How many of them are ready."""
    service.client.provision("idle:1", count)
    until = time.monotonic() + HELD_WITHIN_S
    while (ready := service.client.concurrency("idle")["provisioned"][0]["available"]) < count and time.monotonic() < until:
        time.sleep(0.2)
    return int(ready)


def _settle(service: Service) -> None:
    """Until the tree does next to nothing by itself: shells for the next burst are born when this one is over."""
    until = time.monotonic() + SETTLED_WITHIN_S
    while time.monotonic() < until:
        before_ns = service.tree_cpu_ns()
        time.sleep(0.5)
        if service.tree_cpu_ns() - before_ns < QUIET_NS_PER_S / 2:
            return
    raise RuntimeError(f"the service is still at work after {SETTLED_WITHIN_S:g} s without a call")


def _us_per_call(ctx: Context, service: Service) -> float:
    """CPU time of the service for one warm call."""
    spec = stream(function="echo", payload=ctx.payload(), connections=4, inflight=64)
    before_ns = processes.cpu_ns(service.pid)
    run = load(service.socket, spec, warmup_ms=0, duration_ms=ctx.pick(3000, 1000))
    return (processes.cpu_ns(service.pid) - before_ns) / 1000 / run.only.ok


def _pss_kb(service: Service) -> int:
    return service.tree_pss_kb()


def _thousand(ctx: Context) -> list[Row]:
    count = ctx.pick(IDLE, 100)
    limit = count + 300  # provisioning leaves 100 calls to functions without
    room = {"sandboxes_max": limit, "memory_mb_max": limit * 128, "concurrency_max": limit}
    # Two services, one that holds them and one that holds none, measured in turn: the machine's own ups and downs meet both.
    with ctx.service(idle_timeout_s=3600, **room) as full, ctx.service(idle_timeout_s=3600, **room) as empty:
        full.deploy("idle", "work", timeout_s=60, publish=True)
        for service in (full, empty):
            service.deploy("echo")
            warm_up(service, "echo", payload=ctx.payload())
        _settle(full)
        low_kb, low_rss_kb = _pss_kb(full), full.rss_kb()
        begun = time.monotonic()
        held = _hold(full, count)
        held_s = time.monotonic() - begun
        _settle(full)
        high_kb, high_rss_kb = _pss_kb(full), full.rss_kb()
        pairs = []
        for turn in range(PAIRS):  # who comes first finds a colder machine: each does in turn
            order = in_turns(turn, full, empty)
            took = {service.pid: _us_per_call(ctx, service) for service in order}
            pairs.append((took[full.pid], took[empty.pid]))
    each_mb = (high_kb - low_kb) / max(1, held) / 1024
    ratio = Spread.of([with_us / without_us for with_us, without_us in pairs])
    ctx.say(f"{held} held, {each_mb:.2f} MB each, step {ratio.median:.2f} ×")
    return [
        at_least(
            f"idle sandboxes held at once, of {count:,} asked for",
            held,
            "sandboxes",
            count,
            notes=f"whole tree {low_kb / 1024:.0f} MB PSS before, {high_kb / 1024:.0f} after; service "
            f"{low_rss_kb / 1024:.1f} MB RSS before, {high_rss_kb / 1024:.1f} after; "
            f"provisioned, all there after {held_s:.1f} s",
        ),
        at_most(f"memory (PSS) added by an idle sandbox, of {held:,}", each_mb, "MB", IDLE_MB),
        at_most(
            f"CPU of the service for a warm call with {held:,} idle sandboxes ÷ without",
            ratio,
            "×",
            STEP,
            notes=f"{PAIRS} pairs, each with and without: "
            f"{', '.join(f'{with_us:.2f} and {without_us:.2f} µs' for with_us, without_us in pairs)}",
        ),
    ]


# ---- out of memory ----


def _latencies(service: Service, seconds: float) -> list[float]:
    took = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        begun = time.perf_counter()
        service.client.invoke("neighbour", b"{}")
        took.append((time.perf_counter() - begun) * 1e6)
    return took


def _eat(service: Service, name: str) -> tuple[float, str]:
    begun = time.monotonic()
    try:
        service.client.invoke(name, b'{"eat_mb": 400}', timeout_s=60)
    except SandboxDied as error:
        return (time.monotonic() - begun) * 1000, str(error.reason)
    return (time.monotonic() - begun) * 1000, "survived"


def _beside(service: Service, seconds: float, what: Callable[[], None]) -> float:
    """p99 of the neighbour, called one call after the other, while `what` happens four times a second."""
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(_latencies, service, seconds)
        while not watched.done():
            what()
            time.sleep(0.25)
        return _percentile(watched.result(), 0.99)


def _memory(ctx: Context) -> list[Row]:
    rounds, seconds = ctx.pick((5, 2.0), (2, 1.0))
    kills: list[float] = []
    reasons: set[str] = set()
    quiet, filled, killed = [], [], []
    with ctx.service(shells_ahead=4) as service:
        service.deploy("neighbour")
        service.deploy("eater", "work")
        service.deploy("filler", "work", memory_mb=512)
        for name in ("neighbour", "filler"):
            service.client.invoke(name, b"{}")

        def fill() -> None:
            service.client.invoke("filler", b'{"eat_mb": 110}')

        def kill() -> None:
            service.client.invoke("eater", b"{}")  # a warm sandbox: only its death is in the figure
            took_ms, reason = _eat(service, "eater")
            kills.append(took_ms)
            reasons.add(reason)

        for _ in range(rounds):
            quiet.append(_percentile(_latencies(service, seconds), 0.99))
            filled.append(_beside(service, seconds, fill))
            killed.append(_beside(service, seconds, kill))
    alone, beside, dying = (Spread.of(values).median for values in (quiet, filled, killed))
    ctx.say(
        f"{len(kills)} kills, p50 {Spread.of(kills).median:.0f} ms, {sorted(reasons)}; neighbour's p99 {alone:.0f} µs alone, "
        f"{beside:.0f} beside memory being filled, {dying:.0f} with kills"
    )
    return [
        at_most(
            "memory kill: call that goes over 128 MB until its caller has the typed error",
            Spread.of(kills),
            "ms",
            OOM_MS,
            notes=f"{len(kills)} calls, reasons {sorted(reasons)}; filling the 128 MB is in it",
        ),
        at_most(
            "p99 of a neighbour while others run out of memory ÷ while others fill as much and are not killed",
            dying / beside,
            "×",
            NEIGHBOUR,
            notes=f"{dying:.0f} µs against {beside:.0f} µs; alone {alone:.0f} µs",
        ),
        info(
            "p99 of a neighbour while others fill memory and are not killed ÷ p99 alone",
            beside / alone,
            "×",
            notes="the machine's processors and memory, shared; no kill is in it",
        ),
        info("memory kills that were told as such", float(reasons == {"oom"}), "1 = all"),
    ]


# ---- frozen between calls ----


def _frozen(ctx: Context) -> list[Row]:
    took: dict[str, list[float]] = {"on": [], "off": []}
    with ctx.service() as service:
        for freeze in took:
            service.deploy(f"freeze-{freeze}", freeze=freeze)
            service.client.invoke(f"freeze-{freeze}", b"{}")
        for _ in range(ctx.pick(60, 15)):
            time.sleep(0.3)  # told after 100 ms without a call, at the next look, which is 100 ms away at most
            for freeze, values in took.items():
                begun = time.perf_counter()
                service.client.invoke(f"freeze-{freeze}", b"{}")
                values.append((time.perf_counter() - begun) * 1e6)
    on, off = Spread.of(took["on"]), Spread.of(took["off"])
    return [
        info(
            "what `freeze = on` adds to a call after a rest: p50",
            on.median - off.median,
            "µs",
            notes=f"{on.median:.0f} µs against {off.median:.0f} µs; p99 {_percentile(took['on'], 0.99):.0f} and "
            f"{_percentile(took['off'], 0.99):.0f} µs",
        )
    ]


def run(ctx: Context) -> list[Row]:
    return _births(ctx) + _thousand(ctx) + _memory(ctx) + _frozen(ctx)


QUESTION = Question(
    name="sandboxes",
    asks="How fast do sandboxes come and go, how many can be held, and does one that runs out of memory hurt the others?",
    how=(
        "Births: the launcher alone, eight lives at a time, each with full isolation: shell, code and limits, init, one call, "
        "killed, its end awaited. A thousand: as many provisioned sandboxes of a published function; then memory of the whole "
        "tree, and the service's CPU time for warm calls of another function, in turn with a second service that holds none. "
        "Memory: a handler takes 400 MB in a function of 128 MB, four times a second, while another function is called one "
        "call after the other; in turn with one of 512 MB that takes 110 MB as often. "
        "Frozen: calls after rests of 300 ms to a function with `freeze = on` and to one without."
    ),
    traps=(
        "Births need both CPUs: whatever else runs is missing from them. The neighbour shares the CPUs with what fills the "
        "memory, so its p99 rises with that work; what the kill adds is told apart. A thousand sandboxes of 128 MB are more "
        "than the machine has, so `memory_mb_max` is raised: idle they hold what they have touched."
    ),
    run=run,
)
