"""Functions over Lambda's Runtime API: what they reach in our sandboxes, beside what they reach elsewhere."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.context import Question
from bench.peers import Missing, installed, rie
from bench.peers import functions_framework as framework
from bench.rows import Row, Spread, at_least, at_most, info, unmeasured
from bench.service import FUNCTIONS, RUNTIME, free_port
from bench.web import http_load, invoke_path, request, serving, throughput

if TYPE_CHECKING:
    from bench.context import Context
    from bench.peers import Installed, Peer
    from bench.service import Service

CONNECTIONS = (1, 6, 64)
NODE = "nodejs20.x"
FIRST_REPLY_MS = 60.0
PAUSE_S = 0.25  # the pool makes the next shell meanwhile, and Node starts in it
OVER = 5.0


@dataclass(slots=True)
class Rates:
    """Calls a second, turn by turn, by who and with how many connections."""

    ctx: Context
    seconds: float
    found: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    def measure(self, name: str, port: int, path: str, connections: int) -> None:
        done = throughput(port, path, self.ctx.payload(), connections=connections, seconds=self.seconds)
        self.found.setdefault((name, connections), []).append(done.per_s)
        self.ctx.say(f"{name}, {connections} connections: {done.per_s:,.0f}/s, p50 {done.p50_us:.0f} µs")

    def best(self, name: str) -> tuple[int, list[float]]:
        """Connections with the greatest median, and its turns."""
        mine = {connections: rates for (who, connections), rates in self.found.items() if who == name}
        connections = max(mine, key=lambda c: Spread.of(mine[c]).median)
        return connections, mine[connections]


def deploy(service: Service, name: str, file: str, **settings: Any) -> None:
    source = service.directory / "src" / name
    source.mkdir(parents=True, exist_ok=True)
    shutil.copy(FUNCTIONS / file, source / f"app.{file.rpartition('.')[2]}")
    service.client.deploy(source, name=name, **{"handler": "app.handler", "memory_mb": 512, **settings})


def _echoes(port: int, path: str, payload: bytes) -> None:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", payload, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=20) as answer:
        said = answer.read()
    if json.loads(said) != json.loads(payload):
        raise RuntimeError(f"not an echo: {said[:200]!r}")


def _contest(
    ctx: Context, subject: str, ours: str, peer: Peer, here: Installed | str, port: int, *, least: float | None = OVER
) -> list[Row]:
    name = f"{subject}, HTTP invoke at its best concurrency ÷ {peer.name}"
    rates, payload = Rates(ctx, 1), ctx.payload()
    _echoes(port, invoke_path(ours), payload.read_bytes())
    warm = ctx.work / f"warm-{ours}"
    warm.write_bytes(request(port, invoke_path(ours), payload.read_bytes()))
    http_load(port, warm, connections=64, duration_ms=700)
    broken = here if isinstance(here, str) else None
    for _ in range(ctx.pick(4, 1)):
        for connections in CONNECTIONS:
            rates.measure(ours, port, invoke_path(ours), connections)
        if broken is None:
            assert not isinstance(here, str)
            try:
                _measure_peer(rates, peer, here)
            except (RuntimeError, OSError) as error:  # ours are measured all the same
                broken = f"it broke: {error}"[:200]
    best, mine = rates.best(ours)
    rows = [info(f"{subject}, HTTP invoke", Spread.of(mine), "calls/s", notes=f"{best} connections")]
    if broken is not None:
        return [*rows, unmeasured(name, "×", f"≥ {least:g}", broken)] if least is not None else rows
    assert not isinstance(here, str)
    connections, theirs = rates.best(peer.name)
    notes = f"{here.text}: {Spread.of(theirs).median:,.0f}/s with {connections}"
    notes += f", as {peer.why}" if peer.why else " connections"
    over = Spread.of([a / b for a, b in zip(mine, theirs, strict=False)])
    return [*rows, at_least(name, over, "×", least, notes=notes) if least is not None else info(name, over, "×", notes=notes)]


def _measure_peer(rates: Rates, peer: Peer, here: Installed) -> None:
    """A new one for each turn."""
    port, payload = free_port(), rates.ctx.payload()
    work = rates.ctx.work / f"peer-{peer.name}-{port}"
    work.mkdir()
    with peer.start(here, work, port) as path:
        _echoes(port, path, payload.read_bytes())
        warm = work / "request"
        warm.write_bytes(request(port, path, payload.read_bytes()))
        http_load(port, warm, duration_ms=500, warmup_ms=0)
        rates.measure(peer.name, port, path, peer.connections)


def _here(ctx: Context, peer: Peer) -> Installed | str:
    try:
        return installed(peer, install=ctx.install)
    except Missing as missing:
        return str(missing)


def _cold(ctx: Context) -> list[Row]:
    """From a shell in which Node waits to a first answer."""
    took, init = [], []
    with ctx.service(shells_ahead=4) as service:
        for number in range(ctx.pick(40, 8)):
            deploy(service, f"cold{number}", "echo.mjs", runtime=NODE)
        time.sleep(2.0)
        for number in range(ctx.pick(40, 8)):
            begin = time.monotonic()
            done = service.client.invoke(f"cold{number}", b"{}", report=True)
            took.append((time.monotonic() - begin) * 1000)
            assert done.report is not None
            init.append((done.report.init_us or 0) / 1000)
            time.sleep(PAUSE_S)
    name = "Node, fresh sandbox from a pre-warmed shell to the first reply: p50"
    return [at_most(name, Spread.of(took), "ms", FIRST_REPLY_MS, notes=f"init p50 {Spread.of(init).median:.1f} ms of it")]


def run(ctx: Context) -> list[Row]:
    rows: list[Row] = []
    with serving(ctx) as ours:
        client = {"runtime": RUNTIME, "runtime_client": "awslambdaric"}
        here = _here(ctx, rie.PEER)
        if isinstance(here, str):
            name = f"awslambdaric in a sandbox ÷ {rie.PEER.name}"
            rows.append(unmeasured(name, "×", f"≥ {OVER:g}", here))
        else:
            packages = here.directory / "packages"
            source = ours.service.directory / "src" / "aws"
            shutil.copytree(packages, source, ignore=shutil.ignore_patterns("__pycache__", "bin"))
            deploy(ours.service, "aws", "echo.py", **client)
            rows += _contest(ctx, "awslambdaric in a sandbox", "aws", rie.PEER, here, ours.port)
        deploy(ours.service, "node", "echo.mjs", runtime=NODE)
        rows += _contest(ctx, "Node in a sandbox", "node", framework.PEER, _here(ctx, framework.PEER), ours.port)
        rows += _contest(ctx, "our Node bootstrap in a sandbox", "node", rie.NODE_PEER, here, ours.port, least=None)
    return [*rows, *_cold(ctx)]


QUESTION = Question(
    name="runtimes",
    asks="What do AWS's own client and Node reach over the Runtime API, beside what they reach elsewhere?",
    how=(
        "POST /2015-03-31/functions/NAME/invocations with 100 bytes of JSON to an echo, with 1, 6 and 64 connections; the best "
        "counts. awslambdaric runs in our sandbox as it comes from PyPI, and under AWS's emulator, which takes one call at a "
        "time. Node runs our bootstrap; beside it Google's server for functions in JavaScript, one process without isolation, "
        "and, without a target, the same bootstrap under AWS's emulator. Turns next to each other, each with a new peer. Then "
        "functions that were never called, one call each, with a pause in which a shell is born and Node started in it: the "
        "caller's time to the answer."
    ),
    traps=(
        "The generator shares the CPUs. A sandbox runs one call at a time, so our figures are those of several sandboxes; "
        "memory is 512 MB, and the CPU share is by weight, as in all questions."
    ),
    run=run,
)
