"""The bare handler loop: what a call costs when there is nothing but the handler. Run as a plain program.

    bare_loop.py PAYLOAD_FILE SECONDS [CPU]

Prints one JSON line: microseconds of CPU and of wall time per call of `dumps(handler(loads(payload)))`.
"""

import json
import os
import sys
import time


def handler(event, context):  # noqa: ANN001, ANN201 - a user's handler has no annotations
    return event


def batch(payload: bytes, calls: int) -> None:
    loads, dumps = json.loads, json.dumps
    for _ in range(calls):
        dumps(handler(loads(payload), None))


def main() -> None:
    path, seconds = sys.argv[1], float(sys.argv[2])
    if len(sys.argv) > 3:
        os.sched_setaffinity(0, {int(sys.argv[3])})
    with open(path, "rb") as file:
        payload = file.read()
    calls = max(1, 2_000_000 // max(1000, len(payload)))
    batch(payload, calls)
    done, wall, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        batch(payload, calls)
        done += calls
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"calls": done, "cpu_us": cpu / done * 1e6, "wall_us": wall / done * 1e6}))


if __name__ == "__main__":
    main()
