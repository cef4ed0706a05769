"""An extension as third parties write them: it registers, subscribes to telemetry, hears of calls and of the end."""

from __future__ import annotations

import pytest

from tests.e2e.serving import CannotServe, Served, wait_until
from tests.e2e.test_runtimes import OWN, answer, create, zipped
from tests.lambda_api.client import connect
from tests.sandboxes.driver import own_runtime

pytestmark = pytest.mark.slow

# What it hears it prints; its output is in the function's log.
EXTENSION = """#!{python} -IS
import http.client, http.server, json, os, sys, threading

class Telemetry(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        for item in json.loads(self.rfile.read(int(self.headers["Content-Length"]))):
            if item["type"] != "extension":
                print("heard", item["type"], json.dumps(item["record"]), flush=True)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass

server = http.server.HTTPServer(("127.0.0.1", 8080), Telemetry)
threading.Thread(target=server.serve_forever, daemon=True).start()
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])

def ask(method, path, body=None, **headers):
    api.request(method, path, None if body is None else json.dumps(body), headers)
    answer = api.getresponse()
    return answer, answer.read()

answer, body = ask("POST", "/2020-01-01/extension/register", {"events": ["INVOKE", "SHUTDOWN"]},
                   **{"Lambda-Extension-Name": os.path.basename(sys.argv[0])})
print("registered", answer.status, body.decode(), flush=True)
me = {"Lambda-Extension-Identifier": answer.getheader("Lambda-Extension-Identifier")}
answer, body = ask("PUT", "/2022-07-01/telemetry", {
    "schemaVersion": "2022-12-13", "types": ["platform", "function"],
    "buffering": {"maxItems": 1000, "maxBytes": 262144, "timeoutMs": 25},
    "destination": {"protocol": "HTTP", "URI": "http://sandbox.localdomain:8080"}}, **me)
print("subscribed", answer.status, body.decode(), flush=True)
while True:
    answer, body = ask("GET", "/2020-01-01/extension/event/next", **me)
    event = json.loads(body)
    print("event", event["eventType"], event.get("shutdownReason", event.get("requestId")), flush=True)
    if event["eventType"] == "SHUTDOWN":
        break
    if os.path.basename(sys.argv[0]) == "brittle":
        os._exit(3)
""".replace("{python}", own_runtime().executable)

SOURCE = """
import time
def handler(event, context):
    print("said by the function")
    time.sleep(event.get("takes_s", 0))
    return event
"""


@pytest.fixture(scope="module")
def served(place):
    service = Served(place / "served-extensions", http="127.0.0.1:0", http_auth="none")
    try:
        service.start()
    except CannotServe as error:
        if "isolat" in str(error) or "namespace" in str(error):
            pytest.skip(f"this machine cannot isolate: {error}")
        raise
    yield service
    assert service.stop() == 0


@pytest.fixture(scope="module")
def aws(served):
    client = connect(served.http_port)
    yield client
    client.close()


def with_extension(aws, name, extension):
    layer = aws.publish_layer_version(
        LayerName=extension, Content={"ZipFile": zipped(**{f"extensions/{extension}": EXTENSION})}
    )
    create(aws, name, OWN, "app.handler", {"app.py": SOURCE}, Layers=[layer["LayerVersionArn"]], MemorySize=1769)


def test_an_extension_from_its_registration_to_the_end(served, aws):
    with_extension(aws, "watched", "watcher")
    assert answer(aws, "watched", {"a": 1}) == (None, {"a": 1})
    assert answer(aws, "watched", {"a": 2}) == (None, {"a": 2})

    def log():
        with served.client() as client:
            return client.logs("watched").text

    for line in (
        'registered 200 {"functionName":"watched","functionVersion":"$LATEST","handler":"app.handler"}',
        'subscribed 200 "OK"',
        "EXTENSION\tName: watcher\tState: Ready\tEvents: [INVOKE, SHUTDOWN]",
        "event INVOKE",
        "heard platform.initStart",
        "heard platform.telemetrySubscription",
        "heard platform.initReport",
        "heard platform.start",
        'heard function "said by the function"',
        "heard platform.runtimeDone",
        "heard platform.report",
    ):
        wait_until(lambda line=line: line in log(), 10, f"the log has: {line}")
    assert log().count("event INVOKE") == 2
    # Another revision: the old one's sandbox ends in order.
    aws.update_function_configuration(FunctionName="watched", Environment={"Variables": {"AN": "other"}})
    wait_until(lambda: "event SHUTDOWN spindown" in log(), 10, "the extension heard of the end")


def test_an_extension_that_dies_is_named_in_the_answer(aws):
    with_extension(aws, "fragile", "brittle")
    error, said = answer(aws, "fragile", {"takes_s": 8})  # its end comes while the function runs, which ends with it
    assert (error, said["errorType"]) == ("Unhandled", "Extension.Crash")
    assert said["errorMessage"].endswith("Error: exit status 3")
