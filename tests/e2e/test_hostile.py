"""Handlers that misbehave. The call gets its typed error, the neighbours never notice, the sandbox is replaced."""

from __future__ import annotations

import array
import contextlib
import socket
import time

import pytest

from tests.e2e.load import Callers
from tests.e2e.serving import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PREFIX = """
import os, stat, struct, subprocess, sys, signal, time
def channel():
    # The runtime hides it; whoever looks finds it.
    return next(fd for fd in range(3, 1024) if is_socket(fd))
def is_socket(fd):
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False
def say(head):
    os.write(channel(), head)
    time.sleep(60)
def bad(event):
{body}
def handler(event, context):
    if event is not None:
        bad(event)
    return "fine"
"""

BODIES = {
    "exits": ("    os._exit(1)", {"SandboxDied"}),
    "closes its channel": ("    os.close(channel())\n    time.sleep(60)", {"SandboxDied"}),
    "writes rubbish into its channel": ("    say(os.urandom(4096))", {"SandboxDied"}),
    "claims a huge frame": ("    say(struct.pack('<IBBHIIQ', 0xffffffff, 16, 0, 0, 1, 0, 0))", {"SandboxDied"}),
    "answers for others": ("    say(struct.pack('<IBBHIIQQ', 9, 16, 0, 0, 99, 0, 0, 0) + b'1')", {"SandboxDied"}),
    "is ready twice": ("    say(struct.pack('<IBBHIIQQ', 8, 18, 0, 0, 0, 0, 0, 0))", {"SandboxDied"}),
    "ignores every signal": (
        "    for n in range(1, 65):\n        try:\n            signal.signal(n, signal.SIG_IGN)\n"
        "        except (OSError, ValueError):\n            pass\n    time.sleep(60)",
        {"Timeout"},
    ),
    "forks a bomb": (
        "    while True:\n        try:\n            os.fork()\n        except OSError:\n            time.sleep(0.01)",
        {"Timeout", "SandboxDied"},
    ),
    "eats memory": ("    x = []\n    while True:\n        x.append(b'x' * (1 << 20))", {"SandboxDied", "FunctionError"}),
    "prints without end": ("    while True:\n        print('x' * 10000)", {"Timeout"}),
    "prints without end from a child": ("    subprocess.run('yes', shell=True)", {"Timeout"}),
    "closes everything": ("    os.closerange(0, 65536)\n    time.sleep(60)", {"SandboxDied"}),
    "stops itself": ("    os.kill(os.getpid(), signal.SIGSTOP)\n    time.sleep(60)", {"Timeout"}),
}

FLOODS = """
import sys
def handler(event, context):
    for _ in range(1024):
        sys.stdout.write("y" * (1 << 20))
    return 1
"""


@pytest.fixture(scope="module")
def neighbour(served):
    served.deploy("neighbour", "def handler(event, context):\n    return event\n", timeout_s=10)
    return "neighbour"


# What a machine with too much to do makes of a call that would have been answered: no verdict, so it is tried again.
BUSY = {"Timeout", "Throttled"}
PATIENCE_S = 60  # a thousand processes end on a fraction of a processor: a hang, not a slow machine


def answers(raw, name) -> bool:
    """A harmless call is answered. What is neither an answer nor a busy machine's doing fails."""
    error, _ = raw.invoke(name, b"null")
    assert error is None or error["type"] in BUSY, error
    return error is None


@pytest.mark.parametrize("what", BODIES)
def test_hostile_handlers(served, raw, neighbour, what):
    body, expected = BODIES[what]
    name = "hostile_" + what.replace(" ", "_")
    timeout_s = 1 if "Timeout" in expected else 60  # what ends by itself may take longer where others compute
    served.deploy(name, PREFIX.format(body=body), timeout_s=timeout_s, memory_mb=128, queue_timeout_ms=30_000)
    wait_until(lambda: answers(raw, name), PATIENCE_S, "it runs")
    before = {s["sandbox"] for s in served.sandboxes(name)}
    with Callers(served.socket, neighbour, b'"still here"', count=1) as callers:
        wait_until(lambda: len(callers.answers) > 5, PATIENCE_S, "the neighbour runs")
        error, _ = raw.invoke(name, b"true")
        assert error is not None
        assert error["type"] in expected, error
        wait_until(lambda: answers(raw, name), PATIENCE_S, "the next call has a sandbox")
    callers.check(least=5)
    assert set(callers.answers) == {b'"still here"'}
    wait_until(lambda: not before & {s["sandbox"] for s in served.sandboxes(name)}, PATIENCE_S, "the old sandbox is reaped")


FORGES = """
import mmap, os, stat, struct, time
def handler(event, context):
    # The page that the service reads: all that a sandbox can say of itself beside its answers.
    links = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in range(3, 1100) if os.path.lexists(f"/proc/self/fd/{fd}")}
    page = next(fd for fd, link in links.items() if "memfd" in link)
    own = mmap.mmap(page, 4096)
    end = time.thread_time() + 0.3
    spent = 0
    while time.thread_time() < end:
        spent += 1
    own[:4096] = bytes([event]) * 4096
    return spent > 0
"""


@pytest.mark.parametrize("byte", [0, 255])
def test_metering_is_the_kernels_whatever_a_sandbox_writes(served, raw, byte):
    """CPU time comes from the sandbox's group, billed time from the service's clock: nothing on its page changes them."""
    name = f"forges_{byte}"
    served.deploy(name, FORGES, timeout_s=30, memory_mb=1769)
    error, result = raw.invoke(name, str(byte).encode())
    error_after, _ = raw.invoke(name, b"1")
    assert error is None or error["type"] == "SandboxDied", error
    assert error_after is None or error_after["type"] == "SandboxDied", error_after
    assert result is None or result[0] == b"true"

    def cpu_s() -> float:
        with served.client() as client:
            return sum(function.cpu_seconds for function in client.stats().functions if function.name == name)

    # Two calls of 0.3 s; what was forged would be nothing, or centuries.
    wait_until(lambda: 0.3 <= cpu_s() < 60, PATIENCE_S, "the kernel's figure is there")


def test_a_gigabyte_of_output_is_bounded_on_disk(served, raw, neighbour):
    """The function is slowed to what the journal takes; its neighbours are not."""
    served.deploy("floods", FLOODS, timeout_s=60)
    flood = raw.send("invoke", "floods", b"{}")
    took_s = []
    with served.raw() as other:
        for _ in range(500):
            begun = time.monotonic()
            assert other.invoke(neighbour, b"1")[0] is None
            took_s.append(time.monotonic() - begun)
    assert sorted(took_s)[450] < 0.05
    error, _ = raw.wait(flood)
    assert error is None, error
    logs = served.state_dir / "logs"
    held = sum(path.stat().st_size for path in logs.glob("floods.journal*"))
    assert 0 < held <= 16 * 5 * (1 << 20) + (1 << 20), "five parts of 16 MiB each"
    with served.client() as client:
        assert len(client.logs("floods", limit_bytes=10_000).text) <= 10_000


def test_slow_readers_are_not_served_faster_than_they_read(served, neighbour):
    """A client that never reads fills its own buffer, not the service."""
    served.deploy("wide", "def handler(event, context):\n    return 'x' * 100_000\n")
    with served.raw() as deaf, served.raw() as other:
        for _ in range(500):
            deaf.send("invoke", "wide")
        for _ in range(50):
            assert other.invoke(neighbour, b"1")[0] is None
        answered = [deaf.receive() for _ in range(500)]
        assert {message[0] for message in answered} == {1}


SO_PASSRIGHTS = 83


def test_a_client_cannot_hold_the_service_up_with_a_descriptor(served):
    """Whoever drops the last reference of a socket that lingers waits for it: that must not be the loop."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as client:
        try:
            client.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS)
        except OSError:
            pytest.skip("this kernel cannot refuse descriptors")
        stuck = socket.create_connection(listener.getsockname())
        stuck.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                stuck.send(bytes(1 << 20))
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, (1).to_bytes(4, "little") + (20).to_bytes(4, "little"))
        client.connect(served.socket)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [stuck.fileno()]).tobytes())]
        begun = time.monotonic()
        try:
            client.sendmsg([b"\x94\x00"], rights)
        except PermissionError:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes(8))
        stuck.close()
        with served.raw() as other:
            assert other.invoke("echo", b"1")[0] is None
        assert time.monotonic() - begun < 5
