"""boto3 creates a function of a large zip and calls it. Run as a plain program.

    boto3_upload.py PORT ZIP_FILE RUNTIME        (the key comes by the environment, as AWS has it)

Prints one JSON line: the seconds that create_function took, and those until the first answer was in hand.
"""

import json
import sys
import time

import boto3
from botocore.config import Config

ROLE = "arn:aws:iam::000000000000:role/any"


def main() -> None:
    port, path, runtime = sys.argv[1:]
    with open(path, "rb") as file:
        code = file.read()
    config = Config(retries={"max_attempts": 1}, read_timeout=60)
    client = boto3.client("lambda", endpoint_url=f"http://127.0.0.1:{port}", region_name="local", config=config)
    client.list_functions()  # what a client reads and connects before its first request is not the question
    name = f"upload-{time.monotonic_ns()}"
    begin = time.perf_counter()
    client.create_function(FunctionName=name, Runtime=runtime, Role=ROLE, Handler="app.handler", Code={"ZipFile": code})
    created = time.perf_counter() - begin
    said = client.invoke(FunctionName=name, Payload=b'{"first": 1}')["Payload"].read()
    answered = time.perf_counter() - begin
    if said != b'{"first": 1}':
        raise SystemExit(f"a wrong answer: {said[:200]!r}")
    client.delete_function(FunctionName=name)
    print(json.dumps({"created_s": created, "answered_s": answered}))


if __name__ == "__main__":
    main()
