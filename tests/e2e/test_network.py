"""A function's network through the whole service: deployed, described, changed, refused where there can be none."""

from __future__ import annotations

import json
import os
import signal
import sys

import pytest

from scheduler.errors import BadRequest
from tests.e2e.serving import ISOLATION, Served, descendants, wait_until
from tests.sandboxes import networks
from tests.sandboxes.driver import text_of
from tests.sandboxes.networks import HOST, NOTHING_LEFT, PORT, PUBLIC

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0 or ISOLATION == "process", reason="needs root: only it can make a network"),
    pytest.mark.skipif(bool(networks.MISSING), reason=f"needs {' and '.join(networks.MISSING)} to make a world"),
]

WHO_AM_I = f"""
import socket
def handler(event, context):
    with socket.socket() as one:
        one.settimeout(5)
        error = one.connect_ex(({PUBLIC!r}, {PORT}))
        return error or one.recv(64).decode()
"""


def test_a_function_with_a_network(tmp_path):
    with networks.world() as world:
        world.tell_peers(world.internet)
        command = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{world.host}", sys.executable, "-m", "scheduler")
        with Served(tmp_path / "state", command=command) as service:
            described = service.deploy("calls", WHO_AM_I)
            assert described.network == "none"
            with service.raw() as raw:
                assert json.loads(raw.invoke("calls")[1][0]) > 0
                assert world.left() == NOTHING_LEFT
                described = service.deploy("calls", WHO_AM_I, network="outbound")
                assert described.network == "outbound"
                assert "functions have a network now" in service.wait_line("sandboxes", 1)["text"]
                assert json.loads(raw.invoke("calls")[1][0]) == HOST
                with service.client() as client:
                    client.update("calls", network="none")
                assert json.loads(raw.invoke("calls")[1][0]) > 0
            with service.client() as client, pytest.raises(BadRequest, match=r"\[none, outbound\]"):
                client.update("calls", network="inbound")
            assert service.stop() == 0
            assert world.left() == NOTHING_LEFT


def answer(raw):
    _, result = raw.invoke("calls")
    return None if result is None else json.loads(result[0])


def test_another_launcher_makes_another_network(tmp_path):
    with networks.world() as world:
        world.tell_peers(world.internet)
        command = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{world.host}", sys.executable, "-m", "scheduler")
        with Served(tmp_path / "state", command=command) as service:
            service.deploy("calls", WHO_AM_I, network="outbound")
            with service.raw() as raw:
                assert json.loads(raw.invoke("calls")[1][0]) == HOST
                before = world.left()[0]
                launcher = [
                    pid for pid in descendants(service.process.pid) if text_of(f"/proc/{pid}/comm") == "scheduler-launc\n"
                ]
                for pid in launcher:
                    os.kill(pid, signal.SIGKILL)
                wait_until(lambda: not before & world.left()[0], 10, "the old device is gone")
                # Calls of the moment in which it died may be told so, or run in a sandbox that outlives its network.
                wait_until(lambda: answer(raw) == HOST, 10, "another launcher runs it")
                assert json.loads(raw.invoke("calls")[1][0]) == HOST
            assert service.stop() == 0
            assert world.left() == NOTHING_LEFT


def test_where_there_can_be_none_the_deployment_is_refused_with_the_reason(tmp_path):
    with networks.world() as world:
        networks.ip(world.host, "route add 198.18.192.0/18 dev wan")
        command = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{world.host}", sys.executable, "-m", "scheduler")
        with Served(tmp_path / "state", command=command) as service:
            with pytest.raises(BadRequest, match=r"network: 'outbound' cannot be had on this machine.*sandbox_network_range"):
                service.deploy("calls", WHO_AM_I, network="outbound")
            with service.client() as client:
                assert list(client.list()) == []
