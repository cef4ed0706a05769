"""What the runtime costs a call above the bare loop `dumps(handler(loads(p)))`: python -m tests.runtime.tax

Both run the same handler on the same 100 bytes of JSON, in processes of their own, taking turns; CPU time (user and system) by
the kernel's figures. The driver keeps a window of calls in the channel, so that the runtime always finds some queued.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from tests.runtime.driver import HEADER, RESULT, Sandbox, call_frame

PAYLOAD = b'{"id": 12345, "name": "an event of one hundred bytes", "ok": true, "list": [1, 2, 3], "ratio": 1.25}'
CODE = "def handler(event, context):\n    return event\n"
BARE = """
import sys, time
from json import dumps, loads
sys.path.insert(0, sys.argv[1])
from app import handler
p = sys.argv[2].encode()
def loop(n):
    began = time.process_time_ns()
    for _ in range(n):
        dumps(handler(loads(p), None))
    return (time.process_time_ns() - began) / n
for line in sys.stdin:
    print(loop(int(line)), flush=True)
"""


class Bare:
    def __init__(self, directory: Path, python: str) -> None:
        command = [python, "-I", "-S", "-B", "-c", BARE, str(directory), PAYLOAD.decode()]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ns_per_call(self, calls: int) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{calls}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


class Worker:
    def __init__(self, directory: Path, python: str, window: int) -> None:
        self.sandbox = Sandbox(directory, python=python).__enter__().start()
        self.frame = call_frame(1, PAYLOAD, request_id=uuid.uuid4())
        answer = self.sandbox.call(json.loads(PAYLOAD))
        assert answer.value == json.loads(PAYLOAD)
        self.answer_bytes = HEADER.size + 8 + len(answer.payload)
        self.window = window

    def cpu_ns(self) -> int:
        return int(Path(f"/proc/{self.sandbox.process.pid}/schedstat").read_text().split()[0])

    def ns_per_call(self, calls: int) -> float:
        channel, frames = self.sandbox.channel, self.frame * self.window
        began = self.cpu_ns()
        channel.sendall(frames)
        sent, pending = self.window, 0
        answered = 0
        buffer = bytearray(1 << 20)
        while answered < calls:
            pending += channel.recv_into(buffer)
            whole, pending = divmod(pending, self.answer_bytes)
            answered += whole
            more = min(whole, max(0, calls - sent))
            if more:
                channel.sendall(memoryview(frames)[: more * len(self.frame)])
                sent += more
        assert buffer[4] == RESULT or pending
        return (self.cpu_ns() - began) / answered

    def close(self) -> None:
        self.sandbox.__exit__()


def measure(python: str, *, calls: int, rounds: int, window: int) -> dict[str, float]:
    """Medians in µs of CPU a call."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "app.py").write_text(CODE)
        bare, worker = Bare(directory, python), Worker(directory, python, window)
        try:
            bare.ns_per_call(calls), worker.ns_per_call(calls)
            pairs = [(bare.ns_per_call(calls), worker.ns_per_call(calls)) for _ in range(rounds)]
        finally:
            bare.close()
            worker.close()
    bare_us, worker_us = (statistics.median(column) / 1000 for column in zip(*pairs, strict=True))
    tax_us = statistics.median(b - a for a, b in pairs) / 1000
    return {"bare_us": bare_us, "worker_us": worker_us, "tax_us": tax_us}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="interpreter of both")
    parser.add_argument("--calls", type=int, default=20_000, help="a round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--window", type=int, default=32, help="calls in the channel")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.python, calls=options.calls, rounds=options.rounds, window=options.window)
    if options.json:
        print(json.dumps(result))
    else:
        print(f"{options.python}, load {os.getloadavg()[0]:.1f}, {options.window} in the channel, {len(PAYLOAD)} bytes")
        print("  ".join(f"{name[:-3]} {value:.2f} us" for name, value in result.items()))


if __name__ == "__main__":
    main()
