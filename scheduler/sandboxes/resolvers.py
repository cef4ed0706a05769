"""Whom functions with a network ask for names, where the operator has not said it.

Law of this file: it reads two files and asks the kernel where an address is; nothing is sent. A sandbox reaches no address of
this machine, so the resolver on it is of no use to it; those that the resolver itself asks are.
"""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["name_servers"]

SERVERS_MAX: Final = 3  # as many as a resolver reads
FILES: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


def name_servers(files: tuple[Path, ...] = FILES) -> tuple[str, ...]:
    """IPv4 addresses, the first file that has some decides; () if none has."""
    for file in files:
        found = tuple(address for address in _listed(file) if _is_elsewhere(address))
        if found:
            return found[:SERVERS_MAX]
    return ()


def _listed(file: Path) -> Iterator[str]:
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        try:
            if word == "nameserver":
                yield str(ipaddress.IPv4Address(rest.strip()))
        except ValueError:
            continue  # IPv6, which sandboxes have not


def _is_elsewhere(address: str) -> bool:
    """Not on this machine: to an address of its own it would send from that same one."""
    if ipaddress.IPv4Address(address).is_loopback:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 53))  # sends nothing
        except OSError:
            return False
        return bool(probe.getsockname()[0] != address)
