"""Why a sandbox, or the launcher itself, could not be made, and what a person can do about it.

Law of this file: names and words only; nothing is started or asked here.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from scheduler.errors import SchedulerError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LaunchFailed"]

# What a person can do about a step that failed.
_HINTS: Final[Mapping[str, str]] = {
    "fresh /proc": "inside a container /proc must not be masked (docker: --security-opt systempaths=unconfined)",
    "clone": "the machine is out of processes or memory, or forbids namespaces (sysctl user.max_*_namespaces)",
    "code directory": "the code's directory must exist and be a directory",
    "slots": "all slots are taken; raise the number of sandboxes that the launcher may run",
    "code at /var/task": "the code's directory must be a directory",
    "network: only root can make one": "run the service as root, or deploy the function with network none",
    "network range: this machine has routes to it": "set sandbox_network_range to a network that this machine does not know",
    "forwarding of the host": "/proc/sys and /run must be writable for root (docker: --privileged)",
    "rules of the network: nf_tables": "the kernel needs nf_tables (CONFIG_NF_TABLES, module nf_tables)",
    "rules of the network": "the kernel needs nf_tables with ct, masquerade, reject and connlimit (CONFIG_NFT_...)",
    "rules of the host": "the kernel needs nf_tables with ct, fib, masquerade and reject (CONFIG_NFT_...)",
    "device of the network": "the kernel needs pairs of virtual devices (CONFIG_VETH, module veth)",
    "launcher": "the service starts another launcher by itself",
    "descriptors": "the service has as many open files as it may: raise LimitNOFILE (ulimit -n)",
    "answer of the newborn": "the machine is overloaded, or a process was stopped",
    "answer of the runtime process": "the machine is overloaded, or a process was stopped",
}


class LaunchFailed(SchedulerError):
    """A sandbox, or the launcher itself, could not be made. step: of the launcher's list; errno_name: "EPERM", or "";
    hint: what to do, or ""."""

    default_message = "a sandbox could not be made"

    def __init__(self, step: str, error: int = 0, hint: str = "") -> None:
        self.step = step
        self.errno_name = errno.errorcode.get(error, "") if error else ""
        self.hint = hint or _HINTS.get(step, "")
        reason = f": {os.strerror(error)}" if error else ""
        super().__init__(f"step {step!r} failed{reason}" + (f" ({self.hint})" if self.hint else ""))
