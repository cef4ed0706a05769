"""The sandbox's end of the channel: what is read, and what may be written when.

Two kinds of writers share one stream of bytes: the loop, whose answers are gathered and sent together, and anybody who
prints (handler, its threads, its signal handlers, threads left over from earlier calls). The rules:

- Only the holder of the lock writes, and it first takes the answers that are waiting. So a LOG never overtakes an answer.
- The loop sets `seq` to 0 *before* it adds an answer, and to the next call's number after. A LOG carries the seq that was
  the same before and after the waiting answers were looked at, else 0. So no LOG carries the seq of a call already answered.
- A signal handler that prints while its own thread holds the lock only leaves its bytes: the loop that holds it sends them.
- A signal handler may raise (a time limit of the function's own making) between any two steps of a print. No byte may then be
  lost, sent twice or torn. What is being sent is therefore one object, replaced and accounted for in steps without a point
  where CPython looks for signals or another thread: it does so after calls and on jumps back, not between stores, and not
  inside list.extend(), which adds the number of bytes written to the account before anything else can happen.
- Writing blocks. A flood of prints is slowed down to what the service reads, and memory stays where it is.
- After a fork the child has no channel: its prints go to descriptor 1 or 2, and it can never answer.

Answers that wait also lie on the *shelf*, a part of the page shared with the service, which takes them from there when the
call behind them is long, or the last. The loop puts them there; whoever has sent all that waited empties it.
"""

import os
from threading import RLock

from .frames import (
    FRAME_BYTES_MAX,
    HEADER,
    LOG,
    LOG_BYTES_MAX,
    REQUEST_ID_BYTES,
    SHELF_BYTES_WORD,
    SHELF_GENERATION_WORD,
)

__all__ = ["Channel", "Closed", "Inbox"]

SMALL_BYTES = 64 * 1024  # of the inbox while no large frame is in it; memory of every sandbox

_write = os.write  # kept: a handler may replace what os offers
_readv = os.readv


class Closed(Exception):
    """The service's end is gone."""


class Channel:
    """Writing end. Every method may be called from any thread and from signal handlers.

    answers: whole frames the loop has not sent yet. seq: of the call that runs now, 0 when none does.
    restoring: the fork to come is no fork, but a restored process, whose channel this is.
    output: what was printed and not sent yet: less than 64 KiB and no whole line, unless a thread is just sending it.
    words: the shared page's head, by frames.PROGRESS_WORD and its neighbours.
    """

    __slots__ = ("_lock", "_output_bytes", "_sending", "answers", "fd", "forked", "output", "restoring", "seq", "words")

    def __init__(self, fd: int, words: "memoryview[int]") -> None:
        self.fd = fd
        self.words = words
        self.seq = 0
        self.forked = False
        self.restoring = False
        self.answers: list[bytes] = []
        self.output: list[bytes] = []
        self._output_bytes = 0
        self._sending: tuple[bytes, list[int]] = (b"", [])  # what is on its way, and the lengths of what got through
        self._lock = RLock()

    def send(self, frame: bytes) -> None:
        """Send one frame now, after everything that waits."""
        self.write_output()
        self.answers.append(frame)
        self.flush()

    def flush(self) -> None:
        """Send the answers that wait."""
        if self.answers and not self._lock._is_owned():  # type: ignore[attr-defined]
            with self._lock:
                count = len(self.answers)
                data = self._unsent() + b"".join(self.answers[:count])
                self._sending = (data, [])
                del self.answers[:count]
                self._write()
                self._clear_shelf()

    def print(self, data: bytes, fd: int = 1) -> None:
        """Take what was printed; send it when a line is whole or 64 KiB have gathered. fd: where it goes in a forked child."""
        if self.forked:
            rest = memoryview(data)
            while rest:
                rest = rest[_write(fd, rest) :]
            return
        self.output.append(data)
        self._output_bytes += len(data)
        if b"\n" in data or self._output_bytes >= LOG_BYTES_MAX:
            self.write_output()

    def write_output(self) -> None:
        """Send what was printed, whole lines or not, as LOG frames."""
        if not self.output or self._lock._is_owned():  # type: ignore[attr-defined]
            return
        with self._lock:
            while self.output:
                self._output_bytes = 0
                printed = len(self.output)
                text = b"".join(self.output[:printed])
                before = self.seq
                count = len(self.answers)
                data = self._unsent() + b"".join(self.answers[:count])
                seq = before if self.seq == before else 0
                data += b"".join(_log_frames(text, seq))
                self._sending = (data, [])
                del self.answers[:count]
                del self.output[:printed]
                self._write()
                self._clear_shelf()

    def disown(self) -> None:
        """In the child of a fork: from here on there is no channel."""
        if self.restoring:
            return
        if not self.forked:
            self.forked = True
            os.close(self.fd)
            self.fd = -1
        self._lock = RLock()  # another thread of the parent may have held it
        self._sending = (b"", [])
        self.answers.clear()
        self.output.clear()

    def _clear_shelf(self) -> None:
        """Only after its frames were sent: one that is sent twice is told by its seq, one that is lost by nothing."""
        if not self.answers and not self.forked:
            self.words[SHELF_BYTES_WORD] = 0
            self.words[SHELF_GENERATION_WORD] += 1  # before its places are used again: who has read meanwhile reads anew

    def _unsent(self) -> bytes:
        data, lengths = self._sending
        return data[sum(lengths) :]

    def _write(self) -> None:
        data, lengths = self._sending
        view = memoryview(data)
        at = 0
        try:
            while at < len(data) and not self.forked:
                lengths.extend(map(_write, (self.fd,), (view[at:],)))
                at = sum(lengths)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed from None


def _log_frames(text: bytes, seq: int) -> list[bytes]:
    parts = [text[at : at + LOG_BYTES_MAX] for at in range(0, len(text), LOG_BYTES_MAX)]
    return [HEADER.pack(len(part), LOG, 0, 0, seq, 0, 0) + part for part in parts]


class Inbox:
    """Reading end: a window [at, end) of `buffer` that the loop walks through. One thread only.

    The buffer is small and reused, but for the time a frame larger than it is inside.
    """

    __slots__ = ("_fd", "buffer", "view")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._resize(SMALL_BYTES)

    def more(self, at: int, end: int, need: int) -> int:
        """Move [at, end) to the front and wait until at least `need` bytes are there. Returns the new end.

        need: at most FRAME_BYTES_MAX, else ValueError. Closed: the service closed its end.
        """
        if need > FRAME_BYTES_MAX:
            raise ValueError(f"frame of {need} bytes, at most {FRAME_BYTES_MAX} are allowed")
        left = end - at
        if need > len(self.view):
            rest = self.buffer[at:end]
            self._resize(need)
            self.buffer[:left] = rest
        elif left == 0 and len(self.view) > SMALL_BYTES:
            self._resize(SMALL_BYTES)
        elif at and left:
            self.buffer[:left] = self.buffer[at:end]
        while left < need:
            got = self._read(left)
            if not got:
                raise Closed
            left += got
        return left

    def drop(self, at: int, end: int) -> int:
        """Forget what is before `at`, move the rest to the front. Returns the new end."""
        self.buffer[: end - at] = self.buffer[at:end]
        return end - at

    def _read(self, at: int) -> int:
        try:
            return _readv(self._fd, [self.view[at:]])
        except ConnectionResetError:
            return 0

    def _resize(self, size: int) -> None:
        # Some more than asked for: the loop reads a CALL's whole head at once, also where a shorter frame stands at the end.
        self.buffer = bytearray(size + REQUEST_ID_BYTES)
        self.view = memoryview(self.buffer)[:size]
