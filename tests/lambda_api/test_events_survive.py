"""Events accepted over HTTP outlive the service: each that was answered 202 runs, whenever the service is killed."""

from __future__ import annotations

import os
import random
import threading

import pytest

from tests.e2e.serving import RUNTIME, Served, public_directory, wait_until
from tests.lambda_api.client import ROLE, connect, package
from tests.lambda_api.raw_http import Connection, invoke

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

EVENTS = 10_000
CONNECTIONS = 32
AHEAD = 10  # requests sent before the first answer is read
PATIENCE_S = 120.0
TYPE = "X-Amz-Invocation-Type: Event"
# One write of one line is whole or not there, and is there once it has returned: before the event can be done.
SOURCE = """
import os
def handler(event, context):
    line = ("%s %d\\n" % (context.aws_request_id, event["n"])).encode()
    out = os.open(event["to"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    assert os.write(out, line) == len(line)
    os.close(out)
"""


class Senders:
    """Sends events 0 to EVENTS on several connections until the service goes; accepted: number to request id."""

    def __init__(self, path: str) -> None:
        self.accepted: dict[int, str] = {}
        self._path = path

    def send(self, port: int, on_accepted=lambda count: None) -> None:
        """Those that were not accepted yet."""
        left = [n for n in range(EVENTS) if n not in self.accepted]
        threads = [
            threading.Thread(target=self._run, args=(port, left[first::CONNECTIONS], on_accepted))
            for first in range(CONNECTIONS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _run(self, port, numbers, on_accepted) -> None:
        try:
            connection = Connection(port)
        except OSError:
            return
        with connection:
            for first in range(0, len(numbers), AHEAD):
                some = numbers[first : first + AHEAD]
                requests = b"".join(invoke("keep", b'{"n":%d,"to":"%s"}' % (n, self._path.encode()), TYPE) for n in some)
                if not _sent(connection, requests):
                    return
                for n in some:
                    reply = _reply(connection)
                    if reply is None:
                        return
                    assert (reply.status, reply.body) == (202, b"")
                    self.accepted[n] = reply.headers["x-amzn-requestid"]
                    on_accepted(len(self.accepted))


def _sent(connection, data) -> bool:
    try:
        connection.send(data)
    except OSError:
        return False
    return True


def _reply(connection):
    """None: the service is gone, in the middle of an answer perhaps."""
    try:
        return connection.reply()
    except (OSError, AssertionError):
        return None


def ran(path) -> dict[int, set[str]]:
    """Number to the request ids under which it ran."""
    found: dict[int, set[str]] = {}
    if path.exists():
        for line in path.read_bytes().splitlines():
            request_id, number = line.split()
            found.setdefault(int(number), set()).add(request_id.decode())
    return found


def test_each_accepted_event_runs_though_the_service_is_killed():
    moment = random.randrange(EVENTS // 5, EVENTS)  # so many are accepted when it is killed
    with public_directory() as directory:
        out = directory / "ran"
        out.touch()
        os.chmod(out, 0o666)
        # Without namespaces a sandbox sees the machine's files, and so can tell us by one that it ran.
        given = {"http": "127.0.0.1:0", "http_auth": "none", "isolation": "process"}
        first = Served(directory / "state", **given).start()
        aws = connect(first.http_port)
        aws.create_function(
            FunctionName="keep", Runtime=RUNTIME, Role=ROLE, Handler="app.handler", Code={"ZipFile": package(SOURCE)}
        )
        aws.close()
        senders, killing = Senders(str(out)), threading.Lock()

        def kill_at(count):
            if count >= moment and killing.acquire(blocking=False):
                first.process.kill()

        senders.send(first.http_port, kill_at)
        first.kill()
        before = dict(senders.accepted)
        assert moment <= len(before), moment
        with Served(directory / "state", **given) as second:
            senders.send(second.http_port)
            assert len(senders.accepted) == EVENTS
            wait_until(lambda: 'events_waiting{function="keep",tenant="default"} 0.0' in second.get("/metrics")[1],
                       PATIENCE_S, "nothing waits")  # fmt: skip
            seen = ran(out)
            missing = {n for n, request_id in senders.accepted.items() if request_id not in seen.get(n, ())}
            assert missing == set(), f"killed after {moment}: {len(missing)} never ran"
            assert len(seen) == EVENTS
