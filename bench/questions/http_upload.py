"""A function of fifty megabytes: how soon it answers, and what its arrival does to others."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.context import NOISE, Question, noise_of, ratio_of_medians, warm_up
from bench.programs import ROOT, start_load, stream
from bench.rows import Row, Spread, at_most, unmeasured
from bench.service import FUNCTIONS, RUNTIME
from bench.web import http_load, request, serving

if TYPE_CHECKING:
    from bench.context import Context
    from bench.web import HttpService

ZIP_MB = 50
FIRST_ANSWER_S = 2.0
SMALL_PER_S = 1000
WINDOW_MS = 1000  # an upload is there for most of it
FIRST = f"create-function of a {ZIP_MB} MB zip: to the first answer"
OTHERS = f"a create-function of {ZIP_MB} MB beside them: other calls' p99 ÷ alone"
ROLE = "arn:aws:iam::000000000000:role/any"


def _zip(path: Path) -> Path:
    """A zip of that size, with no comment and twice as much inside: each file half noise and half zeros, as binaries are."""
    noise = random.Random(1)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(FUNCTIONS / "echo.py", "app.py")
        for number in range(ZIP_MB - 1):
            archive.writestr(f"lib/part{number}.bin", noise.randbytes(1_000_000) + bytes(1_000_000))
    return path


def never_seen(code: bytes, number: int) -> bytes:
    """The same archive with a comment of its own: one that the service knows already would cost nothing."""
    comment = f"copy {number}".encode()
    return code[:-2] + len(comment).to_bytes(2, "little") + comment


def _first_answer(ours: HttpService, code: Path) -> dict[str, float]:
    words = [sys.executable, str(ROOT / "bench" / "boto3_upload.py"), str(ours.port), str(code), RUNTIME]
    environment = {**os.environ}
    if ours.key is not None:
        environment |= {"AWS_ACCESS_KEY_ID": ours.key.id, "AWS_SECRET_ACCESS_KEY": ours.key.secret}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"boto3's upload ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _prepared(ours: HttpService, directory: Path, code: bytes, number: int) -> Path:
    """A signed create-function as it goes over the wire, so that sending it costs the client nothing but the kernel's copy."""
    given = {"FunctionName": f"prepared-{number}", "Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler"}
    zipped = base64.b64encode(never_seen(code, number)).decode()
    body = json.dumps({**given, "Code": {"ZipFile": zipped}}).encode()
    path = directory / f"create-{number}"
    path.write_bytes(request(ours.port, "/2015-03-31/functions", body, ours.key))
    return path


def _p99_ms(ctx: Context, ours: HttpService, prepared: Path | None) -> float:
    """Of small calls by the clock, while the prepared function is created; RuntimeError when it is not."""
    small = stream(function="echo", payload=ctx.payload(), mode="open", rate=SMALL_PER_S)
    running = start_load(ours.service.socket, [small], warmup_ms=0, duration_ms=WINDOW_MS)
    try:
        if prepared is not None:
            done = http_load(ours.port, prepared, checked=False, warmup_ms=0, duration_ms=1)
            if done["statuses"] != {"201": 1}:
                raise RuntimeError(f"create-function was answered {done['statuses']}")
        result = running.result().only
    finally:
        running.stop()
    if result.failed or result.mismatched:
        raise RuntimeError(f"wrong answers: {result.errors}")
    return result.latency.p99 / 1000


def run(ctx: Context) -> list[Row]:
    if importlib.util.find_spec("boto3") is None:
        reason = "boto3 is not installed; it is one of the development packages"
        return [unmeasured(FIRST, "s", f"≤ {FIRST_ANSWER_S:g}", reason), unmeasured(OTHERS, "×", f"≤ {NOISE:g}", reason)]
    code = _zip(ctx.work / "large.zip").read_bytes()
    first: list[dict[str, float]] = []
    alone: list[float] = []
    beside: list[float] = []
    # In memory where that can be had: writing hundreds of megabytes to the disk would be in the figures.
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else ctx.work
    with serving(ctx, auth="sigv4") as ours, tempfile.TemporaryDirectory(prefix="bench-upload-", dir=place) as directory:
        ours.service.deploy("echo")
        warm_up(ours.service, "echo", payload=ctx.payload(), connections=1, inflight=2, seconds=0.4)
        for turn in range(ctx.pick(3, 1)):
            copy = Path(directory) / "copy.zip"
            copy.write_bytes(never_seen(code, turn))
            first.append(_first_answer(ours, copy))
            ctx.say(f"created in {first[-1]['created_s']:.2f} s, answered after {first[-1]['answered_s']:.2f} s")
        for turn in range(ctx.pick(5, 2)):
            prepared = _prepared(ours, Path(directory), code, 100 + turn)
            alone.append(_p99_ms(ctx, ours, None))
            beside.append(_p99_ms(ctx, ours, prepared))
            prepared.unlink()
            ctx.say(f"p99 {alone[-1]:.2f} ms, beside an upload {beside[-1]:.2f} ms")
    return [
        at_most(
            FIRST,
            Spread.of([x["answered_s"] for x in first]),
            "s",
            FIRST_ANSWER_S,
            notes=f"boto3's own work in it; create-function takes {Spread.of([x['created_s'] for x in first]).median:.2f} s "
            f"of it; {len(code) / 1e6:.1f} MB with twice as much inside",
            raw={"runs": first},
        ),
        at_most(
            OTHERS,
            ratio_of_medians(beside, alone),
            "×",
            round(noise_of(alone), 2),
            notes=f"{Spread.of(beside).median:.2f} ms against {Spread.of(alone).median:.2f} ms; the target is what the turns "
            "alone differ by, 30 % at least",
            raw={"alone_ms": alone, "beside_ms": beside},
        ),
    ]


QUESTION = Question(
    name="http_upload",
    asks="How soon does a function of 50 MB answer, and do other calls feel its arrival?",
    how=(
        "An unmodified boto3 creates a function with a zip of 50 MB in the request, signed, and invokes it at once; from the "
        "call of create_function to the answer in hand, with what boto3 does itself (67 MB of base64 in JSON, and their "
        "digest). Then 1,000 small calls a second of another function by the clock, over the socket: alone, and while such a "
        "function is created, in turns of a second. Those requests were made and signed beforehand and are sent by a program "
        "in C, so that what others feel is the service's work and not the client's. Each archive is one that the service has "
        "not seen."
    ),
    traps=(
        "Unpacking 100 MB, four digests and the decoding of 67 MB of JSON take the service about 0.7 s of CPU, which on two "
        "CPUs is a good part of what there is. The data goes to the disk at the end; a busy disk is in the time."
    ),
    run=run,
)
