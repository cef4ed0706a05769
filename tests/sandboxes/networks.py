"""A small world for tests of a sandbox's network: a "host" and "the internet" as network namespaces of the test's own, joined
by one pair of devices. The machine that runs the tests is not touched.

    launcher's namespace "host"                               "internet"
    wan 203.0.113.2/24, default via 203.0.113.1   ───────►    wan 203.0.113.1/24
    lan 172.30.0.1/24                                         lo  PUBLIC, PRIVATE, OTHER_PRIVATE, METADATA
        ▲
    lan 172.30.0.2/24, default via 172.30.0.1   "stranger"

The internet knows no way to the addresses of sandboxes, so whoever is answered was translated.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import struct
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduler.sandboxes.launcher import EXECUTABLE, LauncherConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST, GATEWAY = "203.0.113.2", "203.0.113.1"
PUBLIC, PRIVATE, OTHER_PRIVATE, METADATA = "93.184.216.34", "10.5.0.1", "192.168.7.1", "169.254.169.254"
PORT = 8000
CLONE_NEWNET = 0x40000000
NLMSG_ERROR, NLMSG_DONE = 2, 3
NETLINK_NETFILTER, NFT_GET_TABLE = 12, 10 << 8 | 1
RULES_NAME = 1
MISSING = [program for program in ("ip", "nsenter") if shutil.which(program) is None]

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def in_thread(work: Callable[[], Any]) -> Any:
    """The result of work, done by a thread that may change its namespaces, since it ends afterwards."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # raised again where it was asked for
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def new_namespace() -> int:
    """Descriptor; the namespace lives as long as somebody holds it."""

    def make() -> int:
        _checked(_libc.unshare(CLONE_NEWNET))
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return int(in_thread(make))


def inside(namespace: int, work: Callable[[], Any]) -> Any:
    """The result of work done in that network namespace."""

    def run() -> Any:
        _checked(_libc.setns(namespace, CLONE_NEWNET))
        return work()

    return in_thread(run)


def ip(namespace: int, *commands: str) -> str:
    """`ip` with each command; what it said."""

    def run() -> str:
        said = [subprocess.run(["ip", *command.split()], capture_output=True, text=True, check=True) for command in commands]
        return "".join(one.stdout for one in said)

    return str(inside(namespace, run))


def read(namespace: int, path: str) -> str:
    return str(inside(namespace, Path(path).read_text))


def write(namespace: int, path: str, text: str) -> None:
    inside(namespace, lambda: Path(path).write_text(text))


def devices(namespace: int) -> set[str]:
    lines = read(namespace, "/proc/thread-self/net/dev").splitlines()[2:]
    return {line.partition(":")[0].strip() for line in lines}


def packets_received(namespace: int, device: str) -> int:
    for line in read(namespace, "/proc/thread-self/net/dev").splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == device:
            return int(rest.split()[1])
    raise LookupError(device)


def rule_tables(namespace: int) -> set[str]:
    """Names of nf_tables' IPv4 tables, asked of the kernel."""

    def ask() -> set[str]:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
            request = struct.pack("=BBH", socket.AF_INET, 0, 0)
            kernel.sendto(struct.pack("=IHHII", 16 + len(request), NFT_GET_TABLE, 0x301, 1, 0) + request, (0, 0))
            names: set[str] = set()
            while True:
                data = kernel.recv(65536)
                while data:
                    length, kind = struct.unpack_from("=IH", data)
                    if kind in (NLMSG_DONE, NLMSG_ERROR):
                        return names
                    names |= _names(data[20:length])
                    data = data[(length + 3) & ~3 :]

    def _names(attributes: bytes) -> set[str]:
        found = set()
        while len(attributes) >= 4:
            length, kind = struct.unpack_from("=HH", attributes)
            if kind == RULES_NAME:
                found.add(attributes[4:length].rstrip(b"\0").decode())
            attributes = attributes[(length + 3) & ~3 :]
        return found

    return set(inside(namespace, ask))


@dataclass(slots=True, eq=False)
class World:
    host: int
    internet: int
    stranger: int
    listeners: list[socket.socket] = field(default_factory=list)

    def config(self, **changes: Any) -> LauncherConfig:
        """Of a launcher whose host is this world's."""
        command = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{self.host}", str(EXECUTABLE))
        return replace(LauncherConfig(slots=16, command=command), **changes)

    def listen(
        self, namespace: int, kind: int = socket.SOCK_STREAM, port: int = PORT, address: str = "0.0.0.0"
    ) -> socket.socket:
        """On every address of that namespace, or on one."""

        def make() -> socket.socket:
            listener = socket.socket(socket.AF_INET, kind)
            listener.settimeout(10)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            if kind == socket.SOCK_STREAM:
                listener.listen(64)
            return listener

        listener: socket.socket = inside(namespace, make)
        self.listeners.append(listener)
        return listener

    def tell_peers(self, namespace: int) -> None:
        """A server that tells everybody who connects as whom they come."""
        threading.Thread(target=_tell_peers, args=(self.listen(namespace),), daemon=True).start()

    def left(self) -> tuple[set[str], set[str], str]:
        """What a launcher could leave on the host: devices, tables of rules, whether a device of it forwards."""
        forwarding = read(self.host, "/proc/sys/net/ipv4/conf/wan/forwarding").strip()
        return devices(self.host) - {"lo", "wan", "lan"}, rule_tables(self.host), forwarding


NOTHING_LEFT: tuple[set[str], set[str], str] = (set(), set(), "0")


def _tell_peers(listener: socket.socket) -> None:
    while True:
        try:
            connection, peer = listener.accept()
        except TimeoutError:
            continue
        except OSError:
            return  # closed: the test is over
        with connection:
            connection.sendall(peer[0].encode())


def serve_names(server: socket.socket, names: dict[str, str]) -> None:
    """A name server, until its socket is closed: addresses of the names, no others."""
    while True:
        try:
            query, peer = server.recvfrom(2048)
        except TimeoutError:
            continue
        except OSError:
            return
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        question = query[12 : at + 5]
        address = names.get(".".join(labels)) if question[-4:-2] == b"\0\1" else None
        known = ".".join(labels) in names
        header = query[:2] + struct.pack(">HHHHH", 0x8180 if known else 0x8183, 1, 1 if address else 0, 0, 0)
        answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address) if address else b""
        server.sendto(header + question + answer, peer)


@contextmanager
def world() -> Iterator[World]:
    made = World(new_namespace(), new_namespace(), new_namespace())
    try:
        ip(
            made.host,
            "link set lo up",
            f"link add wan type veth peer name wan netns /proc/{os.getpid()}/fd/{made.internet}",
            f"address add {HOST}/24 dev wan",
            "link set wan up",
            f"link add lan type veth peer name lan netns /proc/{os.getpid()}/fd/{made.stranger}",
            "address add 172.30.0.1/24 dev lan",
            "link set lan up",
        )
        ip(made.stranger, "address add 172.30.0.2/24 dev lan", "link set lan up", "route add default via 172.30.0.1")
        ip(
            made.internet,
            "link set lo up",
            f"address add {GATEWAY}/24 dev wan",
            "link set wan up",
            f"route add 172.30.0.0/24 via {HOST}",
            *(f"address add {address}/32 dev lo" for address in (PUBLIC, PRIVATE, OTHER_PRIVATE, METADATA)),
        )
        ip(made.host, f"route add default via {GATEWAY}")
        yield made
    finally:
        for listener in made.listeners:
            listener.close()
        for namespace in (made.host, made.internet, made.stranger):
            os.close(namespace)


def start_name_server(made: World, names: dict[str, str]) -> None:
    """At PRIVATE; an answer has to come from there."""
    server = made.listen(made.internet, socket.SOCK_DGRAM, 53, PRIVATE)
    threading.Thread(target=partial(serve_names, server, names), daemon=True).start()
