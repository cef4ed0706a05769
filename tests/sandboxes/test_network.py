"""Functions with a network, in a world of the test's own: whom they reach, whom they do not, as whom they come, and that the
host is as it was when the launcher is gone, however it went.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import struct
from typing import TYPE_CHECKING

import pytest
import trio

from scheduler.sandboxes.launcher import LauncherConfig, LaunchFailed
from scheduler.sandboxes.resolvers import name_servers
from tests.sandboxes import images, networks
from tests.sandboxes.driver import IS_ROOT, PATIENCE_S, children, launched, until
from tests.sandboxes.networks import (
    GATEWAY,
    HOST,
    METADATA,
    NOTHING_LEFT,
    OTHER_PRIVATE,
    PORT,
    PRIVATE,
    PUBLIC,
    World,
    devices,
    inside,
    ip,
    packets_received,
    read,
    start_name_server,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.sandboxes.driver import Running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: only it can make a network"),
    pytest.mark.skipif(bool(networks.MISSING), reason=f"needs {' and '.join(networks.MISSING)} to make a world"),
]

CONNECT = """
import errno, socket
def attempt(host, port):
    with socket.socket() as one:
        one.settimeout(10)
        error = one.connect_ex((host, port))
        return one.recv(64).decode() if error == 0 else errno.errorcode[error]
"""


async def tried(sandbox: Running, *addresses: str, port: int = PORT) -> dict[str, str]:
    """Whom it connected to as whom, or the error's name."""
    answers = await sandbox.run(f"{CONNECT}\nresult = {{host: attempt(host, {port}) for host in {addresses!r}}}")
    assert isinstance(answers, dict)
    return answers


async def address_of(sandbox: Running) -> str:
    """Its own on eth0."""
    code = f"""
        import socket
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.connect(({PUBLIC!r}, 9))
        result = one.getsockname()[0]
    """
    return str(await sandbox.run(code))


@pytest.fixture
def world() -> Iterator[World]:
    with networks.world() as made:
        made.tell_peers(made.internet)
        yield made


# ---- what it reaches ----


async def test_the_internet_is_reached_as_the_host(tmp_path: Path, world: World) -> None:
    heard: list[str] = []
    async with launched(tmp_path, world.config(), warnings=heard) as made:
        sandbox = await made.sandbox(outbound=True)
        assert await tried(sandbox, PUBLIC, GATEWAY) == {PUBLIC: HOST, GATEWAY: HOST}
        seen = await sandbox.run("import socket\nresult = [name for _, name in socket.if_nameindex()]")
        assert seen == ["lo", "eth0"]
    (note,) = heard  # who operates the machine is told what was changed on it
    assert "forwarding switched on for wan, lan" in note
    assert "device and rules sched" in note


async def test_names_are_asked_of_the_configured_server_alone_wherever_it_is(tmp_path: Path, world: World) -> None:
    start_name_server(world, {"example.org": PUBLIC})
    async with launched(tmp_path, world.config(network_servers=(PRIVATE,))) as made:
        sandbox = await made.sandbox(outbound=True)
        code = "import socket\nresult = socket.getaddrinfo('example.org', 80, socket.AF_INET, socket.SOCK_STREAM)[0][4]"
        assert await sandbox.run(code) == [PUBLIC, 80]
        missing = await sandbox.run(
            "import socket\ntry:\n    socket.gethostbyname('missing.org')\nexcept socket.gaierror as error:\n"
            "    result = error.errno == socket.EAI_NONAME"
        )
        assert missing is True
        # That server may be asked for names; it is in a private network for all else.
        assert await tried(sandbox, PRIVATE) == {PRIVATE: "EHOSTUNREACH"}


async def test_without_a_network_names_fail_at_once(tmp_path: Path, world: World) -> None:
    async with launched(tmp_path, world.config(network_servers=(PRIVATE,))) as made:
        sandbox = await made.sandbox()
        code = """
            import socket, time
            begun = time.monotonic()
            try:
                socket.gethostbyname("example.org")
            except socket.gaierror:
                result = time.monotonic() - begun
        """
        assert await sandbox.run(code) < 1.0


async def test_private_networks_are_reached_only_if_allowed(tmp_path: Path, world: World) -> None:
    async with launched(tmp_path, world.config()) as made:
        answers = await tried(await made.sandbox(outbound=True), PRIVATE, OTHER_PRIVATE)
        assert answers == {PRIVATE: "EHOSTUNREACH", OTHER_PRIVATE: "EHOSTUNREACH"}
    async with launched(tmp_path, world.config(network_allowed=("10.5.0.0/16", METADATA))) as made:
        answers = await tried(await made.sandbox(outbound=True), PRIVATE, OTHER_PRIVATE, METADATA)
        # Some can be allowed by nobody.
        assert answers == {PRIVATE: HOST, OTHER_PRIVATE: "EHOSTUNREACH", METADATA: "EHOSTUNREACH"}


# ---- what it does not ----


async def test_nothing_of_the_host_is_reached(tmp_path: Path, world: World) -> None:
    ip(world.host, "address add 203.0.113.77/32 dev lo", "address add 10.77.0.1/24 dev wan")
    world.tell_peers(world.host)

    def from_the_internet() -> int:
        with socket.socket() as one:
            one.settimeout(PATIENCE_S)
            return one.connect_ex((HOST, PORT))

    assert inside(world.internet, from_the_internet) == 0  # it does listen there
    async with launched(tmp_path, world.config(network_allowed=("0.0.0.0/0",))) as made:
        sandbox = await made.sandbox(outbound=True)
        answers = await tried(sandbox, HOST, "203.0.113.77", "10.77.0.1", METADATA, "203.0.113.255", "127.0.0.1")
        loopback = answers.pop("127.0.0.1")
        assert loopback == "ECONNREFUSED"  # its own, where nobody listens
        assert set(answers.values()) == {"EHOSTUNREACH"}
        (uplink,) = (device for device in devices(world.host) if device.startswith("sched"))
        router = str(socket.inet_ntoa(bytes.fromhex(uplink.removeprefix("sched"))))
        assert await tried(sandbox, router) == {router: "EHOSTUNREACH"}


async def test_sandboxes_do_not_reach_each_other(tmp_path: Path, world: World) -> None:
    async with launched(tmp_path, world.config(network_allowed=("0.0.0.0/0",))) as made:
        one, other = await made.sandbox(outbound=True), await made.sandbox(outbound=True)
        theirs = await address_of(other)
        await other.run(
            "import socket\nglobal kept\nkept = socket.create_server(('0.0.0.0', 9000))\nimport sys\nsys.kept = kept"
        )
        assert await tried(one, theirs, port=9000) == {theirs: "EHOSTUNREACH"}
        reached = "import socket\nresult = socket.create_connection((" + repr(theirs) + ", 9000), 5).getpeername()[1]"
        assert await other.run(reached) == 9000  # it does listen


async def test_nobody_reaches_a_sandbox(tmp_path: Path, world: World) -> None:
    ip(world.internet, f"route add 198.18.0.0/16 via {HOST}")
    async with launched(tmp_path, world.config()) as made:
        sandbox = await made.sandbox(outbound=True)
        address = await address_of(sandbox)
        (uplink,) = (device for device in devices(world.host) if device.startswith("sched"))
        router = socket.inet_ntoa(bytes.fromhex(uplink.removeprefix("sched")))
        ip(world.host, f"route add {address}/32 dev {uplink}")

        def attempt() -> list[int]:
            errors = []
            for target in (address, router):
                with socket.socket() as one:
                    one.settimeout(0.1)
                    errors.append(one.connect_ex((target, 9000)))
            return errors

        await sandbox.run("import socket, sys\nsys.kept = socket.create_server(('0.0.0.0', 9000))")
        silence = {errno.EPERM, errno.EAGAIN, errno.EHOSTUNREACH, errno.ENETUNREACH}
        assert set(inside(world.host, attempt)) <= silence
        assert set(inside(world.internet, attempt)) <= silence
        waiting = await sandbox.run("import sys, select\nresult = select.select([sys.kept], [], [], 0)[0] == []")
        assert waiting is True


async def test_a_forged_source_goes_nowhere_even_from_root_in_the_sandbox(tmp_path: Path, world: World) -> None:
    heard = world.listen(world.internet, socket.SOCK_DGRAM, 7000)
    async with launched(tmp_path, world.config()) as made:
        sandbox, other = await made.sandbox(outbound=True), await made.sandbox(outbound=True)
        theirs, own = await address_of(other), await address_of(sandbox)

        def send(source: str, text: bytes) -> None:
            udp = struct.pack(">HHHH", 5000, 7000, 8 + len(text), 0) + text
            source_bytes, target = socket.inet_aton(source), socket.inet_aton(PUBLIC)
            packet = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0) + source_bytes + target + udp
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
                raw.sendto(packet, (PUBLIC, 0))

        namespace = os.open(f"/proc/{sandbox.shell.pid}/ns/net", os.O_RDONLY)
        try:
            for source in (theirs, HOST, "8.8.8.8", own):
                inside(namespace, lambda source=source: send(source, source.encode()))
        finally:
            os.close(namespace)
        text, peer = heard.recvfrom(100)
        assert (text, peer[0]) == (own.encode(), HOST)  # in order: the forged ones would have come first


async def test_a_sandbox_cannot_change_its_link(tmp_path: Path, world: World) -> None:
    async with launched(tmp_path, world.config()) as made:
        sandbox = await made.sandbox(outbound=True)
        code = """
            import errno, fcntl, socket, struct
            index = socket.if_nametoindex("eth0")
            def ask(kind, flags, body):
                with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
                    kernel.sendto(struct.pack("=IHHII", 16 + len(body), kind, flags | 5, 1, 0) + body, (0, 0))
                    return struct.unpack_from("=i", kernel.recv(4096), 16)[0]
            def attribute(kind, data):
                return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)
            address = socket.inet_aton("198.18.9.9")
            attempts = {
                "address": ask(20, 0x400, struct.pack("=BBBBI", 2, 32, 0, 0, index) + attribute(2, address)),
                "hardware address": ask(16, 0, struct.pack("=BxHiII", 0, 1, index, 0, 0) + attribute(1, bytes(6))),
                "down": ask(16, 0, struct.pack("=BxHiII", 0, 1, index, 0, 1)),
                "route": ask(24, 0x400, struct.pack("=BBBBBBBBI", 2, 32, 0, 0, 254, 4, 253, 1, 0)
                             + attribute(1, address) + attribute(4, struct.pack("=I", index))),
                "device": ask(16, 0x600, struct.pack("=BxHiII", 0, 1, 0, 0, 0) + attribute(3, b"mine") +
                              attribute(18, attribute(1, b"dummy"))),
            }
            result = {name: errno.errorcode.get(-error, error) for name, error in attempts.items()}
        """
        assert set((await sandbox.run(code)).values()) == {"EPERM"}


async def test_there_is_no_ipv6(tmp_path: Path, world: World) -> None:
    async with launched(tmp_path, world.config()) as made:
        sandbox = await made.sandbox(outbound=True)
        code = """
            import errno, socket
            with socket.socket(socket.AF_INET6) as one:
                one.settimeout(5)
                result = [errno.errorcode[one.connect_ex(("2001:db8::1", 80))],
                          {line.split()[-1] for line in open("/proc/net/if_inet6")} <= {"lo"}]
        """
        assert await sandbox.run(code) == ["ENETUNREACH", True]


async def test_connections_of_one_sandbox_are_bounded(tmp_path: Path, world: World) -> None:
    async with launched(tmp_path, world.config()) as made:
        sandbox, other = await made.sandbox(outbound=True), await made.sandbox(outbound=True)
        before = packets_received(world.internet, "wan")
        send = f"""
            import socket
            one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            for port in range(20000, 21500):
                try:
                    one.sendto(b"x", ({PUBLIC!r}, port))
                except OSError:
                    pass
        """
        await sandbox.run(send)
        # In order over one pair of devices: when the neighbour is answered, all of those have come or never will.
        assert await tried(other, PUBLIC) == {PUBLIC: HOST}
        assert 1024 <= packets_received(world.internet, "wan") - before < 1024 + 30


async def test_none_is_the_default_and_has_loopback_only(tmp_path: Path, world: World) -> None:
    async with launched(tmp_path, world.config()) as made:
        await made.launcher.network()
        sandbox = await made.sandbox()
        assert await sandbox.run("import socket\nresult = [name for _, name in socket.if_nameindex()]") == ["lo"]
        assert await tried(sandbox, PUBLIC, HOST) == {PUBLIC: "ENETUNREACH", HOST: "ENETUNREACH"}


# ---- what is left ----


async def test_a_restored_sandbox_has_its_own_network(tmp_path: Path, world: World) -> None:
    """Its image is of a process that had none, or another address."""
    async with launched(tmp_path, world.config()) as made:
        image = await images.make(made)
        assert image.reason is None
        try:
            addresses = set()
            for _ in range(2):
                restored = await images.restore(made, image.fd, outbound=True)
                assert restored.why_not is None
                assert await tried(restored.running, PUBLIC, PRIVATE) == {PUBLIC: HOST, PRIVATE: "EHOSTUNREACH"}
                addresses.add(await address_of(restored.running))
                await restored.end()
            assert len(addresses) == 2
        finally:
            image.close()


async def test_nothing_is_made_before_it_is_needed_and_nothing_is_left(tmp_path: Path, world: World) -> None:
    async with launched(tmp_path, world.config()) as made:
        await made.sandbox()
        assert world.left() == NOTHING_LEFT
        await made.sandbox(outbound=True)
        there, tables, forwarding = world.left()
        assert len(there) == 1
        assert (tables, forwarding) == (there, "1")
    assert world.left() == NOTHING_LEFT


async def test_a_host_that_forwards_stays_as_it_is(tmp_path: Path, world: World) -> None:
    write(world.host, "/proc/sys/net/ipv4/ip_forward", "1")
    heard: list[str] = []
    async with launched(tmp_path, world.config(), warnings=heard) as made:
        assert await tried(await made.sandbox(outbound=True), PUBLIC) == {PUBLIC: HOST}
    assert "forwarding" not in heard[0]
    assert read(world.host, "/proc/sys/net/ipv4/conf/wan/forwarding") == "1\n"


async def test_two_launchers_on_one_host(tmp_path: Path, world: World) -> None:
    async with launched(tmp_path / "one", world.config()) as one:
        first = await one.sandbox(outbound=True)
        async with launched(tmp_path / "two", world.config()) as two:
            second = await two.sandbox(outbound=True)
            assert await tried(second, PUBLIC) == {PUBLIC: HOST}
            assert len(world.left()[0]) == 2
        # The forwarding that both rely on is still there.
        assert await tried(first, PUBLIC) == {PUBLIC: HOST}
    assert world.left() == NOTHING_LEFT


async def test_a_range_that_the_host_has_routes_to_is_refused(tmp_path: Path, world: World) -> None:
    ip(world.host, f"route add 198.18.192.0/18 via {GATEWAY}")
    async with launched(tmp_path, world.config()) as made:
        with pytest.raises(LaunchFailed, match="sandbox_network_range"):
            await made.launcher.network()
        with pytest.raises(LaunchFailed, match="sandbox_network_range"):
            await made.sandbox(outbound=True)
        await made.sandbox()  # others do not suffer
    assert world.left() == NOTHING_LEFT
    async with launched(tmp_path, world.config(network_range="100.64.0.0/16")) as made:
        assert await tried(await made.sandbox(outbound=True), PUBLIC) == {PUBLIC: HOST}


@pytest.mark.parametrize("victim", ["launcher", "supervisor", "both"])
async def test_killed_at_any_moment_it_leaves_nothing(tmp_path: Path, world: World, victim: str) -> None:
    dice = random.Random(victim)
    for _ in range(4):
        async with launched(tmp_path, world.config()) as made, trio.open_nursery() as nursery:
            (inner,) = children(made.launcher.pid)
            pids = {"launcher": [inner], "supervisor": [made.launcher.pid], "both": [made.launcher.pid, inner]}[victim]

            async def work() -> None:
                try:
                    while True:
                        await made.sandbox(outbound=True)
                except (LaunchFailed, EOFError, ConnectionError):
                    return

            nursery.start_soon(work)
            await trio.sleep(dice.random() * 0.15)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            with trio.fail_after(PATIENCE_S):
                await made.launcher.wait_dead()
        if victim == "both":  # nobody was there to clean up; whoever comes next does
            async with launched(tmp_path, world.config()):
                pass
        await until(lambda: world.left() == NOTHING_LEFT, f"the host is as it was: {world.left()}")


async def test_sandboxes_that_come_and_go_leave_no_link(tmp_path: Path, world: World) -> None:
    async with launched(tmp_path, world.config()) as made:
        for _ in range(20):
            sandbox = await made.sandbox(outbound=True)
            await sandbox.end()
        kept = await made.sandbox(outbound=True)
        assert (await address_of(kept)) == "198.18.0.36"  # none comes again before all others had their turn

        def links() -> int:
            namespaces = {os.readlink(f"/proc/{made.launcher.pid}/ns/net")}
            (inner,) = children(made.launcher.pid)
            for fd in os.listdir(f"/proc/{inner}/fd"):
                path = f"/proc/{inner}/fd/{fd}"
                target = os.readlink(path)
                if target.startswith("net:") and target not in namespaces:
                    router = os.open(path, os.O_RDONLY)
                    try:
                        return len({name for name in devices(router) if name.startswith("s")})
                    finally:
                        os.close(router)
            raise LookupError("the router")

        await until(lambda: links() == 1, "links of the dead are gone")


# ---- without a launcher ----


def test_name_servers_are_those_that_a_sandbox_can_reach(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("# managed\nnameserver 127.0.0.53\noptions edns0\n")
    real.write_text("nameserver 192.0.2.53\nnameserver fe80::1%eth0\nnameserver  192.0.2.54\nsearch x\nnameserver nonsense\n")
    assert name_servers((stub, real)) == ("192.0.2.53", "192.0.2.54")
    assert name_servers((tmp_path / "missing", stub)) == ()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--network-range", "198.18.0.0/15"),
        ("--network-range", "198.18.0.0/19"),
        ("--network-range", "198.18.0.1/16"),
        ("--network-range", ""),
        ("--network-servers", "1.1.1.1,2.2.2.2,3.3.3.3,4.4.4.4"),
        ("--network-servers", "1.1.1.0/24"),
        ("--network-allowed", "10.0.0.0/33"),
        ("--network-allowed", "10.0.0.0/"),
        ("--network-allowed", "10.0.0.1/8"),
        ("--network-allowed", "fd00::/8"),
    ],
)
async def test_the_launcher_refuses_what_is_no_network(option: str, value: str) -> None:
    done = await trio.run_process([LauncherConfig().command[0], option, value], capture_stderr=True, check=False)
    assert done.returncode == 2
    assert f"{option} must be".encode() in done.stderr
