"""An Invoke over HTTP, as any client of AWS sends it: against the least that could answer it, peers, and our own protocol."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.context import Question, in_turns, ratio_of_medians, warm_up
from bench.peers import ABSENT, PEERS, Missing, installed
from bench.programs import load, stream
from bench.rows import Row, Spread, at_least, at_most, info, unmeasured
from bench.service import free_port
from bench.web import front, generator, http_load, invoke_path, request, serving, throughput

if TYPE_CHECKING:
    from bench.context import Context
    from bench.peers import Installed, Peer
    from bench.web import Throughput

CONNECTIONS = 64
OVER_FRONT = 1.2
OVER_SOCKET = 1.5
WORKERS = 2
WHAT = f"HTTP invoke, {CONNECTIONS} connections"


def _same_json(port: int, path: str, payload: bytes) -> None:
    """RuntimeError when it does not echo. Peers may write the JSON in their own way."""
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", payload, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        said = answer.read()
    if json.loads(said) != json.loads(payload):
        raise RuntimeError(f"not an echo: {said[:200]!r}")


@dataclass(slots=True)
class Contest:
    """Measurements of one run, in turns."""

    ctx: Context
    seconds: float
    found: dict[str, list[Throughput]] = field(default_factory=dict)

    def measure(self, name: str, port: int, path: str, connections: int) -> None:
        done = throughput(port, path, self.ctx.payload(), connections=connections, seconds=self.seconds)
        self.found.setdefault(name, []).append(done)
        self.ctx.say(f"{name}: {done.per_s:,.0f}/s, p50 {done.p50_us:.0f} µs, p99 {done.p99_us:.0f} µs")

    def measure_peer(self, peer: Peer, here: Installed) -> None:
        """A new one for each turn: what one turn leaves behind is not the next one's."""
        payload, port = self.ctx.payload(), free_port()
        work = self.ctx.work / f"peer-{peer.name}-{port}"
        work.mkdir()
        with peer.start(here, work, port) as path:
            _same_json(port, path, payload.read_bytes())
            warm = work / "request"
            warm.write_bytes(request(port, path, payload.read_bytes()))
            http_load(port, warm, duration_ms=500, warmup_ms=0)
            self.measure(peer.name, port, path, peer.connections)

    def rates(self, name: str) -> list[float]:
        return [done.per_s for done in self.found[name]]

    def over(self, name: str) -> Spread:
        """Ours ÷ its, turn by turn."""
        return Spread.of([ours / theirs for ours, theirs in zip(self.rates("ours"), self.rates(name), strict=True)])


def _contest(ctx: Context) -> list[Row]:
    peers: dict[Peer, Installed | str] = {}
    for peer in PEERS:
        try:
            peers[peer] = installed(peer, install=ctx.install)
        except Missing as missing:
            peers[peer] = str(missing)
    contest = Contest(ctx, 1)
    payload = ctx.payload()
    broken: dict[str, str] = {}
    with front(workers=WORKERS) as floor, serving(ctx) as ours:
        ours.service.deploy("echo")
        http_load(ours.port, ours.request(ctx.work, "echo", payload), expect=payload, connections=CONNECTIONS, duration_ms=700)
        _same_json(floor, "/", payload.read_bytes())
        for turn in range(ctx.pick(6, 2)):
            for name, port, path in in_turns(turn, ("front", floor, "/"), ("ours", ours.port, invoke_path("echo"))):
                contest.measure(name, port, path, CONNECTIONS)
            for peer, here in peers.items():
                if isinstance(here, str) or peer.name in broken:
                    continue
                try:
                    contest.measure_peer(peer, here)
                except (
                    RuntimeError,
                    OSError,
                ) as error:  # a peer that breaks is a row that says so; ours are measured all the same
                    broken[peer.name] = f"it broke: {error}"[:200]
    mine, theirs = Spread.of(contest.rates("ours")), Spread.of(contest.rates("front"))
    p50, p99 = (Spread.of([getattr(x, key) for x in contest.found["ours"]]).median for key in ("p50_us", "p99_us"))
    rows = [
        at_least(
            f"{WHAT}: ÷ bare C front with {WORKERS} Python workers",
            contest.over("front"),
            "×",
            OVER_FRONT,
            notes=f"{mine.median:,.0f}/s against {theirs.median:,.0f}/s; {generator()} on the same CPUs, nothing pinned",
            raw={name: [vars_of(x) for x in found] for name, found in contest.found.items()},
        ),
        info(WHAT, mine, "calls/s", notes=f"p50 {p50:,.0f} µs, p99 {p99:,.0f} µs"),
    ]
    rows += [_peer_row(contest, peer, here, broken.get(peer.name)) for peer, here in peers.items()]
    rows += [unmeasured(f"{WHAT}: ÷ {peer.name}", "×", f"≥ {peer.least}", peer.reason) for peer in ABSENT]
    return rows


def vars_of(done: Throughput) -> dict[str, float]:
    return {"per_s": done.per_s, "p50_us": done.p50_us, "p99_us": done.p99_us}


def _peer_row(contest: Contest, peer: Peer, here: Installed | str, broken: str | None) -> Row:
    name = f"{WHAT}: ÷ {peer.name}"
    if isinstance(here, str) or broken:
        return unmeasured(name, "×", f"≥ {peer.least}", broken or str(here))
    theirs = Spread.of(contest.rates(peer.name)).median
    # One that breaks in a later turn has fewer of them than we have.
    notes = f"{here.text}: {theirs:,.0f}/s"
    if peer.connections != CONNECTIONS:
        notes += f" with {peer.connections} connection, as {peer.why}"
    return at_least(name, contest.over(peer.name), "×", peer.least, notes=notes)


def _one_client(ctx: Context, place: str, client: int, server: int) -> Row:
    payload, duration = ctx.payload(), ctx.pick(600, 300)
    over_http, over_socket = [], []
    with serving(ctx, cpus={server}) as ours:
        service = ours.service
        service.deploy("echo")
        warm_up(service, "echo", payload=payload, connections=1, inflight=1, seconds=0.6)
        what = ours.request(ctx.work, "echo", payload)
        for _ in range(ctx.pick(4, 2)):
            over_socket.append(
                load(service.socket, stream(function="echo", payload=payload), duration_ms=duration, pin=client).only
            )
            over_http.append(http_load(ours.port, what, expect=payload, duration_ms=duration, pin=client))
    mine, base = [x["p50_us"] for x in over_http], [x.latency.p50 for x in over_socket]
    return at_most(
        f"HTTP invoke, one client, {place}: p50 ÷ the socket protocol's",
        ratio_of_medians(mine, base),
        "×",
        OVER_SOCKET,
        notes=f"{Spread.of(mine).median:.1f} µs over TCP against {Spread.of(base).median:.1f} µs over a Unix socket; "
        f"p99 {Spread.of([x['p99_us'] for x in over_http]).median:.1f} µs against "
        f"{Spread.of([x.latency.p99 for x in over_socket]).median:.1f} µs",
        raw={"http_us": mine, "socket_us": base},
    )


def run(ctx: Context) -> list[Row]:
    first, last = ctx.cpus[0], ctx.cpus[-1]
    return [
        *_contest(ctx),
        _one_client(ctx, "one CPU", first, first),
        _one_client(ctx, "client apart", first, last),
    ]


QUESTION = Question(
    name="http",
    asks="What does an Invoke over HTTP cost against a bare front, against peers, and against our own protocol?",
    how=(
        "POST /2015-03-31/functions/echo/invocations with 100 bytes of JSON, keep-alive, nobody has to sign. 64 connections, "
        "wrk in one thread (where it is not installed, `bench/native/http_load.c`, which does the same); the figure is the "
        "ratio of throughputs of turns next to each other. The bare front (`bench/native/front.c`) is one thread that reads "
        "HTTP in the loosest way and hands each body to one of two bare Python workers, one at a time, without limits, "
        "isolation or accounts: a floor, not a product. Peers stand in `bench/peers`: with `--peers` they are fetched from "
        "PyPI and npm into the user's cache, afterwards they are measured in every run; each turn starts them anew. Then one "
        "connection, one call at a time: over HTTP, and over the Unix socket, in turns, the processes pinned as in the "
        "question `latency`."
    ),
    traps=(
        "The generator shares the CPUs and costs about as much as the service; so it flatters whoever is slow. Peers do "
        "different amounts: the emulator of AWS's runtime interface takes one call at a time and ends at a second one, so it "
        "has one connection; workerd runs JavaScript in its own process. Bare fronts and workerd isolate nobody."
    ),
    run=run,
)
