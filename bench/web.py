"""HTTP as the bench speaks it: the service with its HTTP front, requests as bytes, the generators, the floor.

Law of this file: arguments in, typed results out. What a result means is a question's business.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.programs import ROOT, build
from bench.service import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.context import Context
    from bench.service import Service

__all__ = [
    "HttpService",
    "Key",
    "Throughput",
    "front",
    "generator",
    "held",
    "http_load",
    "invoke_path",
    "request",
    "serving",
    "throughput",
]

HOST = "127.0.0.1"
REGION = "local"
KEY_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Key:
    id: str
    secret: str


@dataclass(frozen=True, slots=True)
class HttpService:
    """`key`: None where nobody has to sign."""

    service: Service
    port: int
    key: Key | None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def request(self, directory: Path, function: str, payload: Path) -> Path:
        """A file with the bytes of an invocation, signed if that is asked for here."""
        body = payload.read_bytes()
        path = directory / f"request-{self.port}-{function}-{payload.stem}"
        path.write_bytes(request(self.port, invoke_path(function), body, self.key))
        return path


def invoke_path(function: str) -> str:
    return f"/2015-03-31/functions/{function}/invocations"


def request(port: int, path: str, body: bytes, key: Key | None = None) -> bytes:
    """A POST as it goes over the wire. `key`: signs it as AWS's own client does; good for five minutes."""
    headers = {"Content-Type": "application/json"}
    if key is not None:
        # Only here: the bench does without AWS's client where nothing is signed.
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.credentials import Credentials

        made = AWSRequest("POST", f"http://{HOST}:{port}{path}", data=body, headers=headers)
        SigV4Auth(Credentials(key.id, key.secret), "lambda", REGION).add_auth(made)
        headers = dict(made.headers.items())
    lines = [f"POST {path} HTTP/1.1", f"Host: {HOST}:{port}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


# ---- the service --------------------------------------------------------------------------------------------------------


@contextmanager
def serving(ctx: Context, *, auth: str = "none", cpus: set[int] | None = None, **settings: Any) -> Iterator[HttpService]:
    """A service with its HTTP API on loopback. `auth`: none or sigv4; with sigv4 there is an access key that may do all."""
    port = free_port()
    with ctx.service(cpus=cpus, http=f"{HOST}:{port}", http_auth=auth, region=REGION, **settings) as service:
        yield HttpService(service, port, _key(service, port) if auth == "sigv4" else None)


def _key(service: Service, port: int) -> Key:
    """A new access key, which the service has taken. RuntimeError when it does not."""
    command = [sys.executable, "-m", "scheduler", "key", "create", "--name", "bench", "--json"]
    done = subprocess.run(
        [*command, "--state-dir", str(service.directory / "state")], capture_output=True, text=True, check=True
    )
    made = json.loads(done.stdout)
    key = Key(made["id"], made["secret"])
    until = time.monotonic() + KEY_TIMEOUT_S
    path = service.directory / "probe"
    while time.monotonic() < until:
        path.write_bytes(request(port, invoke_path("nobody"), b"{}", key))
        if "404" in http_load(port, path, count=1, duration_ms=50, warmup_ms=0, checked=False)["statuses"]:
            return key  # it is known: what is not there is the function
        time.sleep(0.05)
    raise RuntimeError(f"the service has not taken a new access key within {KEY_TIMEOUT_S:g} s")


# ---- generators ---------------------------------------------------------------------------------------------------------


def _words(options: dict[str, object]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        if value is not None:
            words += ["--" + name.replace("_", "-"), str(value)]
    return words


def http_load(port: int, what: Path, *, checked: bool = True, **options: object) -> dict[str, Any]:
    """Options as bench/native/http_load.c names them: connections=, duration_ms=, warmup_ms=, count=, pin=, expect=.

    RuntimeError when it ends badly, and, if `checked`, when an answer was wrong or was not 200."""
    words = [str(build("http_load")), "--tcp", f"{HOST}:{port}", "--request", str(what), *_words(options)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the HTTP load generator ended with {done.returncode}: {done.stderr.strip()}")
    result: dict[str, Any] = json.loads(done.stdout)
    if checked and (result["mismatched"] or set(result["statuses"]) != {"200"}):
        raise RuntimeError(f"wrong answers: {result['mismatched']} of another body, statuses {result['statuses']}")
    return result


@contextmanager
def held(port: int, what: Path, connections: int) -> Iterator[dict[str, int]]:
    """Connections that have made one call each and now say nothing. The map has `cut` and `refused` when they have ended."""
    words = [
        str(build("http_load")),
        "--tcp",
        f"{HOST}:{port}",
        "--request",
        str(what),
        "--connections",
        str(connections),
        "--hold",
    ]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    found: dict[str, int] = {}
    try:
        assert process.stdout is not None
        if not process.stdout.readline().startswith("held"):
            raise RuntimeError(f"{connections} connections cannot be held: {process.communicate()[1].strip()}")
        yield found
    finally:
        out, _ = process.communicate()  # it ends with its stdin
        if out:
            found.update(json.loads(out))


@dataclass(frozen=True, slots=True)
class Throughput:
    per_s: float
    p50_us: float
    p99_us: float


def _wrk() -> str | None:
    return shutil.which("wrk")


def generator() -> str:
    """What makes the load, with its version."""
    if (wrk := _wrk()) is None:
        return "bench/native/http_load (wrk is not installed)"
    said = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False)
    found = re.search(r"wrk\s+(?:debian/)?(\S+)", said.stdout + said.stderr)
    return f"wrk {found.group(1)}" if found else "wrk"


def throughput(port: int, path: str, payload: Path, *, connections: int, seconds: float) -> Throughput:
    """By wrk in one thread, else by our own generator, which does the same. RuntimeError when a call failed."""
    if (wrk := _wrk()) is None:
        what = payload.with_suffix(f".{port}.request")
        what.write_bytes(request(port, path, payload.read_bytes()))
        done = http_load(port, what, connections=connections, duration_ms=round(seconds * 1000), warmup_ms=0)
        return Throughput(done["per_s"], done["p50_us"], done["p99_us"])
    words = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(ROOT / "bench" / "wrk.lua")]
    environment = {**os.environ, "BENCH_PAYLOAD": str(payload)}
    said = subprocess.run([*words, f"http://{HOST}:{port}{path}"], capture_output=True, text=True, check=False, env=environment)
    return wrk_result(said.stdout, said.stderr)


def wrk_result(out: str, err: str) -> Throughput:
    """Of what wrk printed with bench/wrk.lua. RuntimeError when it failed, or a call did."""
    line = next((line for line in out.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise RuntimeError(f"wrk said nothing of use: {(err or out).strip()[-300:]}")
    done = json.loads(line.removeprefix("RESULT "))
    if done["failed"] or done["requests"] == 0:
        raise RuntimeError(f"{done['failed']} of {done['requests']} calls failed")
    return Throughput(done["requests"] / done["duration_us"] * 1e6, done["p50_us"], done["p99_us"])


# ---- floors -------------------------------------------------------------------------------------------------------------


@contextmanager
def front(*, workers: int = 0, pin: int | None = None) -> Iterator[int]:
    """The bare front; gives its port. workers=0: it echoes by itself, else that many bare Python workers do."""
    words = [str(build("front")), "--workers", str(workers), *_words({"pin": pin})]
    if workers:
        words += ["--worker", sys.executable, str(ROOT / "bench" / "relay_worker.py")]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready = process.stdout.readline().split()
        if len(ready) != 2 or ready[0] != "ready":
            raise RuntimeError("the bare front did not start")
        yield int(ready[1])
    finally:
        process.communicate()  # it ends with its stdin
