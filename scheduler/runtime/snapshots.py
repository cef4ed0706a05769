"""Images of an initialised process: what a maker does and answers, and what a restored process makes new of itself.

Law of this file: Python's side of an image only. Memory is written and read back by `_sandbox`, in C; to Python that is a fork
whose child is born later, in another sandbox. A process that was not forked from a runtime process, as in tests, has no images
and says so.

Restored, a process has everything that init made. What must differ from its siblings is drawn anew here (renew), and what a
function knows of better it registers with snapshot_restore_py.
"""

import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from .faults import Fault
from .frames import HEADER, HEADER_BYTES, IMAGE, READY, SNAPSHOT, SNAPSHOT_ASKS, frame
from .obstacles import Obstacle, Standards, descriptors, find_obstacle

if TYPE_CHECKING:
    from .channel import Channel, Inbox

__all__ = ["RESTORE", "TAKE", "Images", "Maker", "after_restore", "before_snapshot", "ready_frame", "renew"]

TAKE, RESTORE = "take", "restore"
TIER_SNAPSHOT, TIER_SHELL = 1, 2
REASON_BYTES_MAX = 200
NOT_FORKED = "this process was not forked from one that all sandboxes of its runtime come from"
BARE = "isolation is by process: each sandbox has a directory for temporary files of its own, whose name would come along"
IMAGE_FD = 6  # SANDBOX_FD_IMAGE of native/launcher/steps.h
HOOKS = "snapshot_restore_py"
RESTORE_HOOKS_MAX_S = 10.0


class Images:
    """What makes images, if anything does. native: `_sandbox`, or None. scratch: directories that start empty. private: their
    names are this sandbox's alone: restored, a process would have its maker's in its memory, and leave its files there."""

    def __init__(self, native: ModuleType | None, scratch: tuple[str, ...], private: bool = False) -> None:
        self.native = native
        self.scratch = scratch
        self.private = private

    def why_not(self) -> str:
        """Why this process is not a restored one."""
        return NOT_FORKED if self.native is None else str(self.native.why_not())


@dataclass(frozen=True, slots=True)
class Birth:
    """What a restored process finds of its own. took_ns: from its birth as a shell's successor to this moment."""

    progress_fd: int
    took_ns: int


class Maker:
    """A process that writes its image after init, in one go with the service."""

    def __init__(self, images: Images, channel: "Channel", inbox: "Inbox") -> None:
        self._images = images
        self._channel = channel
        self._inbox = inbox
        self._standards = Standards.now()

    def make(self, init_ns: int) -> Birth:
        """Returns in restored processes only. The maker answers and ends. Closed: the service needs no image."""
        bytes_taken, reason = 0, None
        try:
            taken = self._take(init_ns)
            if isinstance(taken, Birth):
                return taken
            bytes_taken = taken
        except (Obstacle, ValueError, OSError) as obstacle:
            reason = str(obstacle)
        finally:
            self._channel.restoring = False
        self._answer(init_ns, bytes_taken=bytes_taken, reason=reason)
        os._exit(0)  # without the function's own clean-up: what it would clean up lives on in the image

    def _take(self, init_ns: int) -> int | Birth:
        """Bytes of the image. Obstacle, ValueError, OSError: there is none, and why."""
        if self._images.native is None:
            raise Obstacle(NOT_FORKED)
        if self._images.private:
            raise Obstacle(BARE)
        gc.collect()
        gc.freeze()  # so that the restored's first collection does not write to every page
        find_obstacle(self._standards, self._images.scratch)
        files = descriptors((IMAGE_FD, self._channel.fd))
        wish = (IMAGE_FD, self._channel.fd, os.fsencode(os.getcwd()), _umask(), files)
        self._answer(init_ns, bytes_taken=self._images.native.measure(*wish), flags=SNAPSHOT_ASKS)
        self._await_room()
        self._channel.restoring = True
        taken = self._images.native.take(*wish)
        if isinstance(taken, int):
            return taken
        progress_fd, began_ns, done_ns = taken
        return Birth(progress_fd, done_ns - began_ns)

    def _answer(self, init_ns: int, *, bytes_taken: int = 0, reason: str | None = None, flags: int = 0) -> None:
        body = json.dumps({"bytes": bytes_taken, "reason": reason, "init_ns": init_ns}).encode()
        self._channel.send(HEADER.pack(len(body), SNAPSHOT, flags, 0, 0, 0, 0) + body)

    def _await_room(self) -> None:
        self._inbox.more(0, 0, HEADER_BYTES)
        length, kind, *_ = HEADER.unpack_from(self._inbox.buffer)
        if (length, kind) != (0, IMAGE):
            raise ValueError(f"frame of kind {kind} with {length} bytes to a maker, expected {IMAGE} with none")


def ready_frame(init_ns: int, snapshot: str | None, why_not: str | None) -> bytes:
    """READY as channel.md has it. why_not: what kept this sandbox from being restored, where it was to be."""
    body = init_ns.to_bytes(8, "little")
    if snapshot == RESTORE:
        tier = TIER_SNAPSHOT if why_not is None else TIER_SHELL
        body += bytes([tier]) + (why_not or "").encode()[:REASON_BYTES_MAX]
    return frame(READY, body)


def renew() -> None:
    """Everything in this process that must not be as in its siblings and that the fork hooks, which have run, do not know.

    OpenSSL draws anew by itself, since the pid is another one than its maker's; to make it do so here would cost each sandbox
    600 KB.
    """
    loaded = sys.modules
    if (uuid := loaded.get("uuid")) is not None:
        # The C library's generator has a clock sequence of its own, in its siblings the same. Python's draws one each time.
        vars(uuid).update(_generate_time_safe=None, _node=int.from_bytes(os.urandom(6), "big") | 1 << 40, _last_timestamp=None)
    if (tempfile := loaded.get("tempfile")) is not None:
        vars(tempfile)["_name_sequence"] = None
    if (multiprocessing := loaded.get("multiprocessing.process")) is not None:
        multiprocessing.current_process().authkey = os.urandom(32)
    if (threading := loaded.get("threading")) is not None:
        threading.main_thread()._set_native_id()
    if (numpy := loaded.get("numpy.random")) is not None:
        numpy.seed()


# ---- the function's hooks ----


def before_snapshot() -> None:
    """Last registered, first called. Each at most once, as Lambda's runtime does it. Raises what a hook raises."""
    hooks = _hooks("get_before_snapshot")
    while hooks:
        function, arguments, keywords = hooks.pop()
        function(*arguments, **keywords)


def after_restore() -> None:
    """First registered, first called. Fault: they took longer than Lambda allows. Raises what a hook raises."""
    hooks = _hooks("get_after_restore")
    if not hooks:
        return
    with _limit(RESTORE_HOOKS_MAX_S):
        for function, arguments, keywords in hooks:
            function(*arguments, **keywords)


def _hooks(name: str) -> list[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    getter = getattr(sys.modules.get(HOOKS), name, None)
    return [] if getter is None else getter()


class _TooLate(BaseException):
    """Not an Exception: hooks that retry on any error must not hold it."""


@contextmanager
def _limit(limit_s: float) -> Iterator[None]:
    def late(*_: object) -> NoReturn:
        raise _TooLate

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, limit_s, 0.1)
    try:
        yield
    except _TooLate:
        message = f"the function's after-restore hooks took longer than {limit_s:g} s"
        raise Fault("SnapStartTimeoutException", message) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
