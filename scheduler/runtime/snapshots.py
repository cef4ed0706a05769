"""Images of an initialised process: what a maker answers, and what a sandbox that was to be restored tells of itself.

Law of this file: Python's side of an image only. Memory is written and read back by `_sandbox`, in C. A sandbox that was not
forked from a runtime process, as in tests, has no images and says so.
"""

import json
from typing import TYPE_CHECKING

from .frames import READY, SNAPSHOT, frame

if TYPE_CHECKING:
    from .channel import Channel

__all__ = ["RESTORE", "TAKE", "answer_maker", "ready_frame"]

TAKE, RESTORE = "take", "restore"
TIER_SNAPSHOT, TIER_SHELL = 1, 2
REASON_BYTES_MAX = 200
NOT_FORKED = "this process was not forked from one that all sandboxes of its runtime come from"


def answer_maker(channel: "Channel", *, bytes_taken: int, reason: str | None, init_ns: int) -> None:
    """The one answer of a process that was to write its image."""
    channel.send(frame(SNAPSHOT, json.dumps({"bytes": bytes_taken, "reason": reason, "init_ns": init_ns}).encode()))


def ready_frame(init_ns: int, snapshot: str | None, why_not: str | None) -> bytes:
    """READY as channel.md has it. why_not: what kept this sandbox from being restored, where it was to be."""
    body = init_ns.to_bytes(8, "little")
    if snapshot == RESTORE:
        tier = TIER_SNAPSHOT if why_not is None else TIER_SHELL
        body += bytes([tier]) + (why_not or "").encode()[:REASON_BYTES_MAX]
    return frame(READY, body)
