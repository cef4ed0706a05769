"""boto3 as anybody uses it: invoke, read the answer, again. Run as a plain program.

    boto3_loop.py PORT FUNCTION PAYLOAD_FILE SECONDS CPU     (the key comes by the environment, as AWS has it)

Prints one JSON line: calls, and the mean and median of their time in microseconds.
"""

import json
import os
import statistics
import sys
import time

import boto3


def main() -> None:
    port, function, path, seconds, cpu = sys.argv[1:]
    os.sched_setaffinity(0, {int(cpu)})
    client = boto3.client("lambda", endpoint_url=f"http://127.0.0.1:{port}", region_name="local")
    with open(path, "rb") as file:
        payload = file.read()
    took = []

    def call() -> None:
        begin = time.perf_counter_ns()
        answer = client.invoke(FunctionName=function, Payload=payload)["Payload"].read()
        took.append(time.perf_counter_ns() - begin)
        if answer != payload:
            raise SystemExit(f"a wrong answer: {answer[:200]!r}")

    for _ in range(30):
        call()
    took.clear()
    until = time.monotonic() + float(seconds)
    while time.monotonic() < until:
        call()
    mean, median = statistics.fmean(took) / 1000, statistics.median(took) / 1000
    print(json.dumps({"calls": len(took), "mean_us": mean, "p50_us": median}))


if __name__ == "__main__":
    main()
