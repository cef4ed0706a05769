"""Long work in threads that stand back: whatever wakes meanwhile runs first.

Law of this file: how a thread stands back, nothing of what it does. A call passes through three processes that each sleep and
wake; where a processor is busy with a big package, each of them would wait until the kernel takes it away, 3 ms on most
machines. A thread with a long slice (sched_setattr(2), Linux 6.12 and later) gives way at once to whoever has a shorter one,
and still has its full share: it neither starves nor keeps the interpreter's lock from the others for long, as an idle priority
would.

    digest = await in_bulk(hashlib.sha256, data)
"""

from __future__ import annotations

import ctypes
import platform
import struct
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_bulk", "stand_back"]

T = TypeVar("T")
SLICE_NS: Final = 100_000_000  # the longest that the kernel takes
_NORMAL: Final = 0
_BATCH: Final = 3  # a thread that wakes takes nobody's processor away
_SYSCALLS: Final = {"x86_64": 314, "aarch64": 274}
_ATTRIBUTES: Final = struct.Struct("=IIQiIQQQ")  # struct sched_attr, as of its first version


def stand_back(back: bool) -> bool:
    """The calling thread has a long slice from here on, or its usual one again. False: this kernel does not know how."""
    number = _SYSCALLS.get(platform.machine())
    if number is None:
        return False
    policy, slice_ns = (_BATCH, SLICE_NS) if back else (_NORMAL, 0)
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, 0, 0, 0, slice_ns, 0, 0)
    return int(ctypes.CDLL(None).syscall(number, 0, attributes, 0)) == 0


async def in_bulk(fn: Callable[..., T], *arguments: object) -> T:
    """What the function gives, or raises. It runs in a thread that stands back."""
    return await trio.to_thread.run_sync(partial(_behind, fn, arguments))


def _behind(fn: Callable[..., T], arguments: tuple[object, ...]) -> T:
    stand_back(True)
    try:
        return fn(*arguments)
    finally:
        stand_back(False)  # the thread will be somebody else's
