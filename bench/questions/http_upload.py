"""A function of fifty megabytes: how soon it answers, and what its arrival does to others."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import subprocess
import sys
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.context import Question, warm_up
from bench.programs import ROOT, load, start_load, stream
from bench.rows import Row, Spread, at_most, info, unmeasured
from bench.service import FUNCTIONS, RUNTIME
from bench.web import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.context import Context
    from bench.web import HttpService

ZIP_MB = 50
FIRST_ANSWER_S = 2.0
NOISE = 1.3
SMALL_PER_S = 1000
FIRST = f"create-function of a {ZIP_MB} MB zip: to the first answer"
OTHERS = f"create-function of {ZIP_MB} MB zips beside: other calls' p99 ÷ alone"


def _zip(path: Path, megabytes: int) -> Path:
    """A zip of that size and twice as much inside: each file half noise and half zeros, as binaries are somewhere between.
    It has no comment of its own, so that a client can give each copy another."""
    noise = random.Random(1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(FUNCTIONS / "echo.py", "app.py")
        for number in range(megabytes - 1):
            archive.writestr(f"lib/part{number}.bin", noise.randbytes(1_000_000) + bytes(1_000_000))
    return path


@contextmanager
def _uploading(where: str, ours: HttpService, code: Path, seconds: str) -> Iterator[subprocess.Popen[str]]:
    """A client of AWS, ready to begin."""
    words = [sys.executable, str(ROOT / "bench" / "boto3_upload.py"), where, str(code), RUNTIME, seconds]
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any"}
    if ours.key is not None:
        environment |= {"AWS_ACCESS_KEY_ID": ours.key.id, "AWS_SECRET_ACCESS_KEY": ours.key.secret}
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("boto3's uploads did not start")
        yield process
    finally:
        process.kill()
        process.communicate()


def _result(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate("go\n")
    if process.returncode != 0:
        raise RuntimeError(f"boto3's uploads ended with {process.returncode}")
    found: dict[str, Any] = json.loads(out)
    return found


def _beside(ctx: Context, ours: HttpService, code: Path, where: str | None) -> tuple[float, list[float]]:
    """p99 in ms of small calls by the clock, while zips go to `where`; and the seconds each create-function took."""
    seconds = ctx.pick(2.5, 1.5)
    small = stream(function="echo", payload=ctx.payload(), mode="open", rate=SMALL_PER_S)
    if where is None:
        done = load(ours.service.socket, small, warmup_ms=300, duration_ms=round(seconds * 1000)).only
        return done.latency.p99 / 1000, []
    with _uploading(where, ours, code, f"{seconds + 0.5}") as client:
        running = start_load(ours.service.socket, [small], warmup_ms=300, duration_ms=round(seconds * 1000))
        try:
            created = _result(client)["created_s"]
            done = running.result().only
        finally:
            running.stop()
    if done.failed or done.mismatched:
        raise RuntimeError(f"wrong answers: {done.errors}")
    return done.latency.p99 / 1000, created


def run(ctx: Context) -> list[Row]:
    if importlib.util.find_spec("boto3") is None:
        reason = "boto3 is not installed; it is one of the development packages"
        return [unmeasured(FIRST, "s", f"≤ {FIRST_ANSWER_S:g}", reason), unmeasured(OTHERS, "×", f"≤ {NOISE:g}", reason)]
    code = _zip(ctx.work / "large.zip", ZIP_MB)
    first: list[dict[str, Any]] = []
    p99: dict[str, list[float]] = {"alone": [], "to a sink": [], "to the service": []}
    uploads = 0
    with serving(ctx, auth="sigv4") as ours:
        ours.service.deploy("echo")
        warm_up(ours.service, "echo", payload=ctx.payload(), connections=1, inflight=2, seconds=0.4)
        for _ in range(ctx.pick(3, 1)):
            with _uploading(str(ours.port), ours, code, "once") as client:
                first.append(_result(client))
            ctx.say(f"created in {first[-1]['created_s'][0]:.2f} s, answered after {first[-1]['answered_s'][0]:.2f} s")
        for _ in range(ctx.pick(2, 1)):
            for name, where in (("alone", None), ("to a sink", "sink"), ("to the service", str(ours.port))):
                found, created = _beside(ctx, ours, code, where)
                p99[name].append(found)
                uploads = len(created)
                ctx.say(f"{name}: p99 {found:.2f} ms, {len(created)} uploads")
    spread = {name: Spread.of(found) for name, found in p99.items()}
    alone, sink, service = (spread[name].median for name in ("alone", "to a sink", "to the service"))
    return [
        at_most(
            FIRST,
            Spread.of([x["answered_s"][0] for x in first]),
            "s",
            FIRST_ANSWER_S,
            notes=f"boto3's own work in it; create-function takes {Spread.of([x['created_s'][0] for x in first]).median:.2f} s "
            f"of it; {code.stat().st_size / 1e6:.1f} MB with twice as much inside",
            raw={"runs": first},
        ),
        at_most(
            OTHERS,
            service / alone,
            "×",
            NOISE,
            notes=f"{service:.2f} ms against {alone:.2f} ms; beside the same boto3 sending to a sink {sink:.2f} ms, which is "
            f"what the client's CPU time does; {uploads} uploads in a row, {SMALL_PER_S:,} calls/s",
            raw=p99,
        ),
        info("the same ÷ beside boto3 sending to a sink", service / sink, "×", notes="what the service itself does to them"),
    ]


QUESTION = Question(
    name="http_upload",
    asks="How soon does a function of 50 MB answer, and do other calls feel its arrival?",
    how=(
        "An unmodified boto3 creates a function with a zip of 50 MB in the request, signed, and invokes it at once; from the "
        "call of create_function to the answer in hand. Then 1,000 small calls a second of another function by the clock, "
        "over the socket: alone, beside a boto3 that makes such functions one after the other, and beside the same boto3 "
        "sending to a process that reads and throws away."
    ),
    traps=(
        "boto3 turns 50 MB into 67 MB of base64 in JSON and digests it for its signature; that is about half of the time, and"
        " it takes a CPU from the others: hence the third case."
    ),
    run=run,
)
