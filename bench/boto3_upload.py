"""boto3 creates a function of a large zip and calls it, again and again. Run as a plain program.

    boto3_upload.py PORT ZIP_FILE RUNTIME SECONDS|once        (the key comes by the environment, as AWS has it)
    boto3_upload.py sink ZIP_FILE RUNTIME SECONDS

Prints "ready", waits for a line on stdin, and then one JSON line: seconds of each create-function, and of each until the first
answer. With "sink" the requests go to a process of its own that reads and throws away: what the client alone does to a machine.
"""

import json
import multiprocessing
import secrets
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import boto3
from botocore.config import Config

ROLE = "arn:aws:iam::000000000000:role/any"


class Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        left = int(self.headers["Content-Length"])
        while left > 0:
            left -= len(self.rfile.read(min(left, 1 << 20)))
        self.send_response(201)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


def sink() -> int:
    server = HTTPServer(("127.0.0.1", 0), Sink)
    multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True).start()
    return int(server.server_address[1])


def never_seen(code: bytes) -> bytes:
    """The same archive with a comment of its own: one that is known already would cost nothing."""
    comment = secrets.token_hex(16).encode()
    return code[:-2] + len(comment).to_bytes(2, "little") + comment


def main() -> None:
    port, path, runtime, seconds = sys.argv[1:]
    with open(path, "rb") as file:
        code = file.read()
    sunk = port == "sink"
    endpoint = f"http://127.0.0.1:{sink() if sunk else port}"
    config = Config(retries={"max_attempts": 1}, read_timeout=60)
    client = boto3.client("lambda", endpoint_url=endpoint, region_name="local", config=config)
    print("ready", flush=True)
    sys.stdin.readline()
    created: list[float] = []
    answered: list[float] = []
    until = time.monotonic() + (0 if seconds == "once" else float(seconds))
    while not created or time.monotonic() < until:
        name = f"upload-{time.monotonic_ns()}"
        fresh = never_seen(code)
        begin = time.perf_counter()
        client.create_function(FunctionName=name, Runtime=runtime, Role=ROLE, Handler="app.handler", Code={"ZipFile": fresh})
        created.append(time.perf_counter() - begin)
        if not sunk:
            said = client.invoke(FunctionName=name, Payload=b'{"first": 1}')["Payload"].read()
            if said != b'{"first": 1}':
                raise SystemExit(f"a wrong answer: {said[:200]!r}")
            answered.append(time.perf_counter() - begin)
            client.delete_function(FunctionName=name)
    print(json.dumps({"created_s": created, "answered_s": answered}))


if __name__ == "__main__":
    main()
