"""A request to a function URL: what it costs above an Invoke over HTTP with the same event."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any

from bench.context import Question, in_turns, ratio_of_medians, warm_up
from bench.rows import Row, Spread, at_least, at_most
from bench.web import HttpService, http_load, request, serving

if TYPE_CHECKING:
    from pathlib import Path

    from bench.context import Context

CONNECTIONS = 64
OF_INVOKE = 0.77
OVER_INVOKE = 1.3
FUNCTION = "echo"
WHAT = "function URL against Invoke of the same event"


def _api(ours: HttpService, path: str, values: dict[str, Any]) -> dict[str, Any]:
    asked = urllib.request.Request(ours.url + path, json.dumps(values).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        given: dict[str, Any] = json.loads(answer.read())
        return given


def opened(ours: HttpService) -> str:
    """The host of a URL that anybody may use."""
    made = _api(ours, f"/2021-10-31/functions/{FUNCTION}/url", {"AuthType": "NONE"})
    policy = f"/2015-03-31/functions/{FUNCTION}/policy"
    for statement, permit in (
        ("url", {"Action": "lambda:InvokeFunctionUrl", "FunctionUrlAuthType": "NONE"}),
        ("call", {"Action": "lambda:InvokeFunction", "InvokedViaFunctionUrl": True}),
    ):
        _api(ours, policy, {"Principal": "*", "StatementId": statement, **permit})
    return str(made["FunctionUrl"]).split("/")[2]


def _two(ctx: Context, ours: HttpService) -> tuple[Path, Path]:
    """(a request to the URL, an Invoke whose payload is the event that comes of it)."""
    path = ctx.work / f"url-{ours.port}"
    data = request(ours.port, "/orders/7?full=1", ctx.payload().read_bytes())
    path.write_bytes(data.replace(f"Host: 127.0.0.1:{ours.port}".encode(), f"Host: {opened(ours)}".encode(), 1))
    with urllib.request.urlopen(_as_urllib(ours, path), timeout=10) as answer:
        event = answer.read()
    if json.loads(event)["rawPath"] != "/orders/7":
        raise RuntimeError(f"not the event of the request: {event[:200]!r}")
    payload = ctx.work / f"event-{ours.port}.json"
    payload.write_bytes(event)
    return path, ours.request(ctx.work, FUNCTION, payload)


def _as_urllib(ours: HttpService, path: Path) -> urllib.request.Request:
    head, _, body = path.read_bytes().partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    headers = dict(field.split(": ", 1) for field in fields)
    return urllib.request.Request(ours.url + line.split(" ")[1], body, headers)


def _many(ctx: Context) -> Row:
    with serving(ctx) as ours:
        ours.service.deploy(FUNCTION)
        url, invoke = _two(ctx, ours)
        found: dict[str, list[dict[str, Any]]] = {"url": [], "invoke": []}
        http_load(ours.port, invoke, connections=CONNECTIONS, duration_ms=700)
        for turn in range(ctx.pick(6, 2)):
            for name, what in in_turns(turn, ("url", url), ("invoke", invoke)):
                found[name].append(http_load(ours.port, what, connections=CONNECTIONS, duration_ms=1000))
    rates = {name: [done["per_s"] for done in turns] for name, turns in found.items()}
    return at_least(
        f"{WHAT}, {CONNECTIONS} connections: throughput ÷",
        Spread.of([mine / theirs for mine, theirs in zip(rates["url"], rates["invoke"], strict=True)]),
        "×",
        OF_INVOKE,
        notes=f"{Spread.of(rates['url']).median:,.0f}/s against {Spread.of(rates['invoke']).median:,.0f}/s; an event of "
        f"{(ctx.work / f'event-{ours.port}.json').stat().st_size:,} bytes, which the handler reads and writes",
        raw=rates,
    )


def _one(ctx: Context, place: str, client: int, server: int) -> Row:
    times: dict[str, list[float]] = {"url": [], "invoke": []}
    with serving(ctx, cpus={server}) as ours:
        ours.service.deploy(FUNCTION)
        warm_up(ours.service, FUNCTION, payload=ctx.payload(), connections=1, inflight=1, seconds=0.6)
        url, invoke = _two(ctx, ours)
        for _ in range(ctx.pick(4, 2)):
            for name, what in (("url", url), ("invoke", invoke)):
                done = http_load(ours.port, what, duration_ms=ctx.pick(600, 300), pin=client)
                times[name].append(done["p50_us"])
    return at_most(
        f"{WHAT}, one client, {place}: p50 ÷",
        ratio_of_medians(times["url"], times["invoke"]),
        "×",
        OVER_INVOKE,
        notes=f"{Spread.of(times['url']).median:.1f} µs against {Spread.of(times['invoke']).median:.1f} µs",
        raw=times,
    )


def run(ctx: Context) -> list[Row]:
    return [_many(ctx), _one(ctx, "one CPU", ctx.cpus[0], ctx.cpus[0]), _one(ctx, "client apart", ctx.cpus[0], ctx.cpus[-1])]


QUESTION = Question(
    name="http_url",
    asks="What does a function URL cost above an Invoke over HTTP?",
    how=(
        "A POST of 100 bytes of JSON with a path and a query to a function URL that is open to all, against "
        "`POST …/invocations` whose payload is the very event that the URL's request becomes: so the handler (an echo) reads "
        "and writes the same on both sides, and what differs is the event that is made and the answer that is read. "
        "`bench/native/http_load.c`, keep-alive; 64 connections in turns next to each other, then one connection, pinned as "
        "in the question `latency`. The targets, within 1.3 × of Invoke, are what the making and the reading may cost."
    ),
    traps=(
        "Answers hold ids, so only their status is looked at here; what they say is the tests' business. An Invoke of 100 "
        "bytes is faster than either, since its handler has a tenth of the JSON to read."
    ),
    run=run,
)
