"""Attempts of a function with a network, in a world of the test's own, each with its canary: where the rule or switch that
holds it is cut out of the launcher, the same attempt gets through.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from scheduler.sandboxes import launcher as launcher_module
from tests.sandboxes import networks
from tests.sandboxes.driver import IS_ROOT, launched
from tests.sandboxes.networks import GATEWAY, HOST, METADATA, PORT, PRIVATE, PUBLIC, World, devices, inside, ip
from tests.security.weak import weaken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.sandboxes.driver import Launched, Running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: only it can make a network"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is missing"),
    pytest.mark.skipif(bool(networks.MISSING), reason=f"needs {' and '.join(networks.MISSING)} to make a world"),
]

LISTENS = "import socket, sys\nsys.kept = socket.create_server(('0.0.0.0', 9000))"
SENT = b"from a stranger"


@dataclass(frozen=True, slots=True)
class Scene:
    """What an attempt has: the world, a launcher in it, two sandboxes with a network, and who listens for datagrams outside."""

    world: World
    made: Launched
    one: Running
    other: Running
    heard: socket.socket

    async def connects(self, host: str, port: int = PORT) -> bool:
        code = f"""
            import socket
            with socket.socket() as one:
                one.settimeout(5)
                result = one.connect_ex(({host!r}, {port})) == 0
        """
        return bool(await self.one.run(code))

    async def address(self, sandbox: Running) -> str:
        code = f"import socket\none = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\none.connect(({PUBLIC!r}, 9))\n"
        return str(await sandbox.run(code + "result = one.getsockname()[0]"))

    def hears(self) -> list[bytes]:
        """What came before a datagram that is certain to come."""
        inside(self.world.internet, lambda: _datagram(GATEWAY, b"the last"))
        came = []
        while (text := self.heard.recv(100)) != b"the last":
            came.append(text)
        return came


def _datagram(host: str, text: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.sendto(text, (host, 7000))


def _forged(source: str) -> None:
    """From root in the sandbox's own namespace: the function itself may make no such socket."""
    udp = struct.pack(">HHHH", 5000, 7000, 8 + len(SENT), 0) + SENT
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(head + socket.inet_aton(source) + socket.inet_aton(PUBLIC) + udp, (PUBLIC, 0))


# ---- the attempts: true if it got through ----


async def reach_the_host(scene: Scene) -> bool:
    scene.world.tell_peers(scene.world.host)
    return await scene.connects(HOST)


async def reach_a_private_network(scene: Scene) -> bool:
    return await scene.connects(PRIVATE)


async def reach_metadata(scene: Scene) -> bool:
    return await scene.connects(METADATA)


async def reach_a_neighbour(scene: Scene) -> bool:
    await scene.other.run(LISTENS)
    return await scene.connects(await scene.address(scene.other), 9000)


async def be_reached_from_the_host(scene: Scene) -> bool:
    await scene.one.run(LISTENS)
    address = await scene.address(scene.one)
    (uplink,) = (device for device in devices(scene.world.host) if device.startswith("sched"))
    # With an address of its own, so that a way back is known.
    ip(scene.world.host, f"route add {address}/32 dev {uplink} src {HOST}")

    def attempt() -> bool:
        with socket.socket() as one:
            one.settimeout(0.3)
            return one.connect_ex((address, 9000)) == 0

    return bool(inside(scene.world.host, attempt))


async def forge_a_source(scene: Scene) -> bool:
    neighbour = await scene.address(scene.other)
    namespace = os.open(f"/proc/{scene.one.shell.pid}/ns/net", os.O_RDONLY)
    try:
        inside(namespace, lambda: _forged(neighbour))
    finally:
        os.close(namespace)
    return SENT in scene.hears()


async def use_the_host_as_a_router(scene: Scene) -> bool:
    """A stranger beside the host sends through it what is for somebody else: sandboxes need it to forward, others do not."""
    code = "import socket\nsocket.create_connection((" + repr(PUBLIC) + f", {PORT}), 5).close()"
    await scene.one.run(code)  # it forwards
    inside(scene.world.stranger, lambda: _datagram(PUBLIC, SENT))
    return SENT in scene.hears()


async def open_connections_without_end(scene: Scene) -> bool:
    before = networks.packets_received(scene.world.internet, "wan")
    code = f"""
        import socket
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for port in range(20000, 21200):
            try:
                one.sendto(b"x", ({PUBLIC!r}, port))
            except OSError:
                pass
    """
    await scene.one.run(code)
    await scene.other.run(f"import socket\nsocket.create_connection(({PUBLIC!r}, {PORT}), 5).close()")
    return networks.packets_received(scene.world.internet, "wan") - before > 1024 + 100


@dataclass(frozen=True, slots=True)
class Attempt:
    run: Callable[[Scene], Awaitable[bool]]
    held_by: tuple[str, ...]


ATTEMPTS = {
    "reach the host": Attempt(reach_the_host, ("rules of the host",)),
    "reach a private network": Attempt(reach_a_private_network, ("private networks",)),
    "reach metadata": Attempt(reach_metadata, ("networks of nobody",)),
    "reach a neighbour": Attempt(reach_a_neighbour, ("between sandboxes",)),
    "be reached from the host": Attempt(be_reached_from_the_host, ("rules of the host", "nothing begins towards sandboxes")),
    "forge a source": Attempt(forge_a_source, ("reverse path",)),
    "use the host as a router": Attempt(use_the_host_as_a_router, ("no router for others",)),
    "open connections without end": Attempt(open_connections_without_end, ("connections of one sandbox",)),
}


async def attempted(name: str, directory: Path, **changes: Any) -> bool:
    with networks.world() as world:
        world.tell_peers(world.internet)
        heard = world.listen(world.internet, socket.SOCK_DGRAM, 7000)
        async with launched(directory, world.config(**changes)) as made:
            scene = Scene(world, made, await made.sandbox(outbound=True), await made.sandbox(outbound=True), heard)
            return await ATTEMPTS[name].run(scene)


@pytest.mark.parametrize("name", ATTEMPTS)
async def test_it_is_refused(name: str, tmp_path: Path) -> None:
    assert await attempted(name, tmp_path) is False


@pytest.mark.parametrize("name", ATTEMPTS)
async def test_canary_it_works_without_its_protection(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weak = weaken(ATTEMPTS[name].held_by)
    monkeypatch.setattr(launcher_module, "RUNTIME_PACKAGE", weak.package)
    monkeypatch.setattr(networks, "EXECUTABLE", weak.launcher)
    assert await attempted(name, tmp_path) is True
