"""sys.stdout and sys.stderr of the handler.

Both are ordinary text streams that hold nothing back: each write goes to the channel at once, which gathers lines. So their
order is that of the writes, whichever stream they went to. In a forked child they write to descriptors 1 and 2.
"""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from .channel import Channel

__all__ = ["open_stream"]


class _Captured(io.BufferedIOBase):
    def __init__(self, channel: "Channel", fd: int) -> None:
        self._channel = channel
        self._fd = fd
        self.raw = self  # some libraries look for it

    def write(self, data: "ReadableBuffer") -> int:
        if self.closed:
            raise ValueError("write to closed file")
        held = bytes(data)
        self._channel.print(held, self._fd)
        return len(held)

    def flush(self) -> None:
        if not self.closed and not self._channel.forked:
            self._channel.write_output()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return False

    @property
    def mode(self) -> str:
        return "wb"

    @property
    def name(self) -> str:
        return "<stdout>" if self._fd == 1 else "<stderr>"


def open_stream(channel: "Channel", fd: int) -> io.TextIOWrapper:
    """fd: 1 or 2, what fileno() tells and where a forked child's output goes."""
    errors = "strict" if fd == 1 else "backslashreplace"
    stream = io.TextIOWrapper(_Captured(channel, fd), encoding="utf-8", errors=errors, newline="\n", write_through=True)
    stream.mode = "w"  # type: ignore[misc]  # the interpreter's own have it
    return stream
