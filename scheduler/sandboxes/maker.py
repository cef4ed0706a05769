"""One conversation with a maker: a sandbox that runs its function's init, writes its memory into a file, and ends.

Law of this file: it takes a shell of which nobody else knows, and leaves it dead and its descriptors closed, whatever happens.
The maker is a stranger: what it says is checked, what it floods is read slowly, what it keeps silent about has an end. Nothing
that it ever held is trusted afterwards: the image that is handed on is the service's own copy, in pages that the service is
charged for, made when the last process that could write to the original was gone.

The frames are those of docs/internals/channel.md, section Images.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from scheduler.sandboxes.failure import LaunchFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scheduler.sandboxes.doors import Doors
    from scheduler.sandboxes.launcher import Exited, Launcher, Shell, Specialisation

__all__ = ["Aside", "Bounds", "Image", "Made", "Outcome", "make"]

HEADER: Final = struct.Struct("<IBBHIIQ")
START, IMAGE = 1, 4
LOG, INIT_ERROR, SNAPSHOT = 17, 19, 21
ASKS: Final = 1
BYTES_MAX: Final = {LOG: 65_536, INIT_ERROR: 256 * 1024, SNAPSHOT: 4_096}
READ_BYTES: Final = 65_536 + HEADER.size
READ_PAUSE_S: Final = 0.004  # between two reads: a flood is read at 16 MB/s, and is its author's own time
REASON_CHARS_MAX: Final = 300
WRITE_S: Final = 10.0  # from the file's size agreed until it is written: an image of 10 GB at 1 GB/s
DEATH_S: Final = 5.0
STEP_BYTES: Final = 8 << 20  # of files made or copied between two looks at whether it is still wanted
SILENT: Final = "it ended without a word"
SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Aside(Protocol):
    """Runs a function that blocks, and gives what it gives."""

    async def __call__(self, function: Callable[..., Any], /, *arguments: Any) -> Any: ...


class Outcome(Enum):
    MADE = "made"
    CANNOT = "cannot"  # this function cannot have an image; it will not change
    FUNCTION_FAILED = "function failed"  # its own init did
    BROKE = "broke"  # it, the launcher or the machine did not do what was to be done
    NOT_NOW = "not now"  # there was no launcher or no shell


@dataclass(frozen=True, slots=True)
class Image:
    """fd: read-only, of a sealed file; the receiver's to close. init_ns: what the maker says, and no more than it took."""

    fd: int
    bytes: int
    init_ns: int


@dataclass(frozen=True, slots=True)
class Made:
    outcome: Outcome
    reason: str = ""
    image: Image | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """init_s: for specialising and init together. bytes_max: of one image, the least of what the settings and the function's
    own memory allow; `which` names it."""

    init_s: float
    bytes_max: int
    which: str


class _Ends(Exception):
    """The conversation is over, in this way."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        self.made = Made(outcome, reason[:REASON_CHARS_MAX])


def _line(text: object) -> str:
    """A stranger's words as part of one line."""
    return "".join(c if c.isprintable() else " " for c in str(text)[: 4 * REASON_CHARS_MAX]).strip()


# ---- files ------------------------------------------------------------------------------------------------------------------


def _empty_file(name: str) -> int:
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


async def _give_bytes(aside: Aside, fd: int, size: int) -> None:
    """Pages and all, so that they are ours and not the sandbox's. OSError: there is no memory."""
    for at in range(0, size, STEP_BYTES):
        await aside(os.posix_fallocate, fd, at, min(STEP_BYTES, size - at))


async def _copy(aside: Aside, source: int, size: int) -> int:
    """A read-only descriptor of a sealed copy of the first `size` bytes. OSError: no memory, or the source is shorter."""
    target = _empty_file("image")
    try:
        at = 0
        while at < size:
            done = await aside(os.sendfile, target, source, at, min(STEP_BYTES, size - at))
            if done == 0:
                raise OSError(f"it has {at} bytes, and said {size}")
            at += done
        fcntl.fcntl(target, fcntl.F_ADD_SEALS, SEALS)
        return os.open(f"/proc/self/fd/{target}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(target)


# ---- the channel ------------------------------------------------------------------------------------------------------------


class _Channel:
    """Whole frames from a stranger. fd: non-blocking."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._held = bytearray()

    async def send(self, data: bytes) -> None:
        """A frame that the socket's buffer has room for: the maker reads, or gets nothing."""
        await trio.lowlevel.checkpoint()
        try:
            sent = os.write(self._fd, data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise _Ends(Outcome.BROKE, "it closed its channel") from error
        if sent != len(data):
            raise _Ends(Outcome.BROKE, f"its channel takes {sent} of {len(data)} bytes: it does not read")

    async def receive(self) -> tuple[int, int, bytes]:
        """(kind, flags, body)"""
        while True:
            frame = self._take()
            if frame is not None:
                return frame
            await trio.lowlevel.wait_readable(self._fd)
            try:
                data = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                raise _Ends(Outcome.BROKE, SILENT)
            self._held += data
            await trio.sleep(READ_PAUSE_S)

    def _take(self) -> tuple[int, int, bytes] | None:
        if len(self._held) < HEADER.size:
            return None
        length, kind, flags, *_ = HEADER.unpack_from(self._held)
        if length > BYTES_MAX.get(kind, -1):
            raise _Ends(Outcome.BROKE, f"it broke the channel's protocol: a frame of kind {kind} and {length} bytes")
        if len(self._held) < HEADER.size + length:
            return None
        body = bytes(self._held[HEADER.size : HEADER.size + length])
        del self._held[: HEADER.size + length]
        return kind, flags, body


async def _drain(fd: int) -> None:
    """What the process writes to its descriptors 1 and 2 itself: let go, slowly, so that it need not wait for ever."""
    while True:
        await trio.lowlevel.wait_readable(fd)
        with suppress(BlockingIOError):
            if not os.read(fd, READ_BYTES):
                return
        await trio.sleep(READ_PAUSE_S)


@dataclass(frozen=True, slots=True)
class _Word:
    """One SNAPSHOT."""

    asks: bool
    bytes: int
    reason: str | None
    init_ns: int


def _word(flags: int, body: bytes) -> _Word:
    try:
        said: Any = json.loads(body)
        word = _Word(bool(flags & ASKS), said["bytes"], said["reason"], said["init_ns"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _Ends(Outcome.BROKE, "it broke the channel's protocol: SNAPSHOT is not what it has to be") from error
    numbers = all(type(n) is int and 0 <= n < 1 << 62 for n in (word.bytes, word.init_ns))
    if not numbers or not isinstance(word.reason, str | None):
        raise _Ends(Outcome.BROKE, "it broke the channel's protocol: SNAPSHOT's values are of wrong types")
    return word


def _error_text(body: bytes) -> str:
    """Lambda's error object as one line."""
    with suppress(ValueError, RecursionError):
        error = json.loads(body)
        if isinstance(error, dict):
            return _line(f"{error.get('errorType', 'Error')}: {error.get('errorMessage', '')}")
    return "its init failed"


async def _hear(channel: _Channel) -> _Word:
    """The next SNAPSHOT; what it prints meanwhile is let go."""
    while True:
        kind, flags, body = await channel.receive()
        if kind == INIT_ERROR:
            raise _Ends(Outcome.FUNCTION_FAILED, _error_text(body))
        if kind == SNAPSHOT:
            word = _word(flags, body)
            if word.reason is not None:
                raise _Ends(Outcome.CANNOT, _line(word.reason) or "it gave no reason")
            return word


async def _until_asked(
    launcher: Launcher,
    shell: Shell,
    spec: Specialisation,
    channel: _Channel,
    file: int,
    start: bytes,
    listening: Callable[[tuple[int, ...]], None],
) -> _Word:
    """Specialised and initialised: it asks for room."""
    listening(await launcher.specialise(shell, spec, image=file))
    begun_s = trio.current_time()
    await channel.send(HEADER.pack(len(start), START, 0, 0, 0, 0, 0) + start)
    asked = await _hear(channel)
    if not asked.asks or not asked.bytes:
        raise _Ends(Outcome.BROKE, "it broke the channel's protocol: SNAPSHOT without asking for room")
    # What an init took decides whose image stays: who says more than we saw would stay for ever.
    return replace(asked, init_ns=min(asked.init_ns, int((trio.current_time() - begun_s) * 1e9)))


async def _give_room(aside: Aside, file: int, asked: _Word, bounds: Bounds, room: Callable[[int], bool]) -> None:
    if asked.bytes > bounds.bytes_max:
        mb = 1 << 20
        raise _Ends(
            Outcome.CANNOT, f"its image needs {-(-asked.bytes // mb)} MB, {bounds.which} is {bounds.bytes_max // mb} MB"
        )
    if not room(asked.bytes):
        raise _Ends(Outcome.BROKE, "there is no room for its image beside those of who has less")
    if os.fstat(file).st_size:
        raise _Ends(Outcome.BROKE, "it wrote to its image's file before it was told to")
    await _give_bytes(aside, file, asked.bytes)
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


async def _until_written(channel: _Channel, asked: _Word) -> _Word:
    await channel.send(HEADER.pack(0, IMAGE, 0, 0, 0, 0, 0))
    written = await _hear(channel)
    if written.asks or not 0 < written.bytes <= asked.bytes:
        raise _Ends(Outcome.BROKE, f"it asked for {asked.bytes} bytes and says it wrote {written.bytes}")
    return replace(written, init_ns=asked.init_ns)


async def make(
    launcher: Launcher,
    shell: Shell,
    spec: Specialisation,
    start: bytes,
    *,
    bounds: Bounds,
    room: Callable[[int], bool],
    dead: Callable[[], Awaitable[Exited | None]],
    aside: Aside = trio.to_thread.run_sync,
    doors: Doors | None = None,
) -> Made:
    """start: START's body, which says "take". room: asked once for so many bytes of image; False: there are none. dead: returns
    when the launcher has told the shell's end, or None when the launcher itself is dead. aside: runs what would block. doors:
    who answers at spec.ports. If cancelled, the maker is killed."""
    with ExitStack() as stack:
        stack.callback(shell.close)
        stack.callback(launcher.kill, shell.id)
        file = _empty_file("image being made")
        stack.callback(os.close, file)
        word: _Word | None = None
        made = Made(Outcome.BROKE)

        def listening(listeners: tuple[int, ...]) -> None:
            if doors is not None:
                stack.callback(doors.open(listeners).close)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_drain, shell.output_fd)
            try:
                word = await _converse(launcher, shell, spec, file, start, bounds, room, aside, listening)
            except _Ends as ends:
                made = ends.made
            except (LaunchFailed, OSError) as error:
                made = Made(Outcome.BROKE, _line(error)[:REASON_CHARS_MAX])
            nursery.cancel_scope.cancel()
        if word is None and made.reason != SILENT:  # else it most likely ends by itself, and says how
            launcher.kill(shell.id)
        exited = await _death(launcher, shell, dead)
        if word is None:
            return _with_cause(made, exited)
        if exited is None:
            return Made(Outcome.BROKE, "it could not be ended, or the launcher died with it")
        try:
            fd = await _copy(aside, file, word.bytes)
        except OSError as error:
            return Made(Outcome.BROKE, _line(error)[:REASON_CHARS_MAX])
        return Made(Outcome.MADE, image=Image(fd, word.bytes, word.init_ns))


async def _converse(
    launcher: Launcher,
    shell: Shell,
    spec: Specialisation,
    file: int,
    start: bytes,
    bounds: Bounds,
    room: Callable[[int], bool],
    aside: Aside,
    listening: Callable[[tuple[int, ...]], None],
) -> _Word:
    """Until the image is written, as it says; each part within its time."""
    channel = _Channel(shell.channel_fd)
    asked: _Word | None = None
    with trio.move_on_after(bounds.init_s):
        asked = await _until_asked(launcher, shell, spec, channel, file, start, listening)
    if asked is None:
        raise _Ends(Outcome.FUNCTION_FAILED, f"its init took longer than {bounds.init_s:g} s")
    await _give_room(aside, file, asked, bounds, room)
    with trio.move_on_after(WRITE_S):
        return await _until_written(channel, asked)
    raise _Ends(Outcome.BROKE, f"its image was not written within {WRITE_S:g} s")


async def _death(launcher: Launcher, shell: Shell, dead: Callable[[], Awaitable[Exited | None]]) -> Exited | None:
    """It ends by itself or is ended; None: it does not, or the launcher is dead."""
    exited: Exited | None = None
    with trio.move_on_after(DEATH_S) as patience:
        exited = await dead()
    if patience.cancelled_caught:
        launcher.kill(shell.id)
        with trio.move_on_after(DEATH_S):
            exited = await dead()
    return exited


def _with_cause(made: Made, exited: Exited | None) -> Made:
    """How it ended says more than that it ended."""
    if made.outcome is not Outcome.BROKE or exited is None:
        return made
    if exited.cause.name == "OOM":
        return Made(Outcome.CANNOT, f"init and image take more than its memory; {made.reason}"[:REASON_CHARS_MAX])
    if exited.cause.name == "LAUNCH_FAILED":
        return Made(Outcome.BROKE, str(exited.step)[:REASON_CHARS_MAX])
    if made.reason == SILENT:
        how = "signal" if exited.cause.name == "SIGNAL" else "status"
        return Made(Outcome.FUNCTION_FAILED, f"it ended during its init with {how} {exited.status}")
    return made
