"""One MessagePack-RPC connection without its socket: bytes to send out of calls, calls' answers out of bytes received.

What lives here: message ids, the table of calls in flight, encoding, incremental decoding with limits. What must not: sockets,
tasks, threads, time. The trio client and the blocking client are two thin shells round this one machine.

Three rules:

* An id is used once. Ids run from 1 to 2^32 - 1 and wrap; an id that is still in flight is passed over. So an answer to an id
  that was given out but is no longer awaited is a late one (its call was cancelled) and is dropped; an answer to an id that was
  never given out is a fault of the peer.
* An answer that Python cannot hold (a map whose key is a list, text that is no timestamp where one is declared) fails its
  own call. Only bytes that are no MessagePack-RPC at all fail the connection.
* What a peer can make us hold is bounded: one frame of `FRAME_BYTES_MAX`, plus what one receive brought.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgpack  # type: ignore[import-untyped]

from scheduler.errors import BadAnswer, ProtocolFault, SchedulerError, TooLarge, Unavailable, from_wire
from scheduler.limits import PAYLOAD_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FRAME_BYTES_MAX", "RECEIVE_BYTES", "REQUEST_BYTES_MAX", "Answer", "CannotConnect", "ConnectionLost", "Session"]

REQUEST, RESPONSE, NOTIFICATION = 0, 1, 2
MSGID_MAX = 2**32 - 1

# The service closes the connection on a larger frame, and every call in flight with it: so it is refused here.
REQUEST_BYTES_MAX = PAYLOAD_BYTES_MAX + 64 * 1024
# A function's answer is at most 6,291,556 bytes; statistics of a thousand functions are about 2 MiB. Twice the sum leaves room.
FRAME_BYTES_MAX = 16 * 1024 * 1024
# One receive. Larger gains nothing: the kernel's own buffer of a Unix socket holds about 208 KiB.
RECEIVE_BYTES = 256 * 1024

C = TypeVar("C")


class ConnectionLost(Unavailable):
    """Made here, never sent: the connection ended before the answer. The call may have run."""

    default_message = "the connection is lost"


class CannotConnect(ConnectionLost):
    """Made here, never sent: nobody listens, or the socket may not be opened. Nothing ran."""

    default_message = "cannot connect"


@dataclass(slots=True)
class Answer:
    """What came for one call: `error` is a map, or None and then `result` counts. `fault`: the answer could not be decoded."""

    error: Any
    result: Any
    fault: str | None = None

    def unwrap(self, method: str) -> Any:
        """The result; raises the typed error of the error map, or BadAnswer where the peer's answer has another shape."""
        if self.fault is not None:
            raise BadAnswer(f"the answer to {method} cannot be read: {self.fault}")
        if self.error is None:
            return self.result
        raise from_wire(self.error)


class Session(Generic[C]):
    """The state of one connection. `C` is whatever the shell wants to find again when the answer comes (a task, a lock)."""

    def __init__(self) -> None:
        self.pending: dict[int, C] = {}
        self.late_answers = 0  # of calls that were given up before their answer came
        self._packer = msgpack.Packer(use_bin_type=True, autoreset=True)
        self._next = 1
        self._wrapped = False
        self._unpacker = _unpacker()
        # The chunks that hold the frame being read, so that a frame Python cannot hold can be looked at again.
        self._chunks: deque[bytes] = deque()
        self._chunks_start = 0  # stream offset of the first chunk
        self._good = 0  # stream offset behind the last whole frame

    def encode(self, method: str, params: list[Any], call: C) -> tuple[int, bytes]:
        """Registers `call` under a new id; gives the id and the request's bytes. TypeError/ValueError: `params` cannot be
        encoded.
        TooLarge: the service would not read on. Nothing is registered then."""
        msgid = self._next
        while msgid in self.pending:
            msgid = self._after(msgid)
        data: bytes = self._packer.pack((REQUEST, msgid, method, params))
        if len(data) > REQUEST_BYTES_MAX:
            raise TooLarge(
                f"a request of {len(data):,} bytes is over the limit of {REQUEST_BYTES_MAX:,}", limit=REQUEST_BYTES_MAX
            )
        self._next = self._after(msgid)
        self.pending[msgid] = call
        return msgid, data

    def _after(self, msgid: int) -> int:
        if msgid < MSGID_MAX:
            return msgid + 1
        self._wrapped = True
        return 1

    def forget(self, msgid: int) -> bytes:
        """Gives up a call: the notification to send, or b"" if it has been answered already. Its answer will be dropped."""
        if self.pending.pop(msgid, None) is None:
            return b""
        data: bytes = self._packer.pack((NOTIFICATION, "cancel", (msgid,)))
        return data

    def take_all(self) -> list[C]:
        """Empties the table: the connection is gone and the shell fails each call."""
        calls = list(self.pending.values())
        self.pending.clear()
        return calls

    def feed(self, data: bytes) -> Iterator[tuple[C, Answer]]:
        """Answers that `data` completes. ProtocolFault: the peer does not speak the protocol (or says that we do not); the
        connection is of no more use. An iterator that is not run to its end leaves answers unread until the next feed."""
        self._chunks.append(data)
        try:
            self._unpacker.feed(data)
        except msgpack.BufferFull:
            raise ProtocolFault(f"an answer is larger than {FRAME_BYTES_MAX:,} bytes") from None
        while True:
            try:
                frame = self._unpacker.unpack()
            except msgpack.OutOfData:
                break
            except Exception as error:  # not supervision: hostile bytes raise nearly any type here, and each is sorted below
                yield from self._mend(error)
                continue
            self._good = self._unpacker.tell()
            found = self._sort(frame)
            if found is not None:
                yield found
        self._drop_read_chunks()

    def _sort(self, frame: Any) -> tuple[C, Answer] | None:
        if type(frame) is not list or len(frame) != 4 or frame[0] != RESPONSE or type(frame[1]) is not int:
            raise ProtocolFault(f"not a MessagePack-RPC response: {_shown(frame)}")
        return self._match(frame[1], Answer(frame[2], frame[3]))

    def _match(self, msgid: int, answer: Answer) -> tuple[C, Answer] | None:
        call = self.pending.pop(msgid, None)
        if call is not None:
            return call, answer
        if msgid == 0:  # the peer found our bytes broken and will close
            message = answer.error.get("message") if isinstance(answer.error, dict) else None
            raise ProtocolFault(f"the service refused the connection: {message or _shown(answer.error)}")
        if not (0 < msgid <= MSGID_MAX and (self._wrapped or msgid < self._next)):
            raise ProtocolFault(f"an answer to request {msgid}, which was never sent")
        self.late_answers += 1
        return None

    def _mend(self, error: Exception) -> Iterator[tuple[C, Answer]]:
        """The unpacker raised in the middle of a frame and is of no more use. If the frame is well-formed, fail its call
        alone and go on behind it with a new unpacker."""
        self._drop_read_chunks()
        rest = memoryview(b"".join(self._chunks))[self._good - self._chunks_start :]
        scout = _unpacker()
        scout.feed(rest)
        try:
            scout.skip()
            size = scout.tell()
            msgid = _frame_id(rest[:size])
        except Exception:  # the same: any type; here it means that the bytes are no MessagePack
            raise ProtocolFault(f"the answer is not MessagePack: {type(error).__name__}: {error}") from error
        if msgid is None:
            raise ProtocolFault("not a MessagePack-RPC response") from error
        left = bytes(rest[size:])
        self._unpacker = _unpacker()
        self._unpacker.feed(left)
        self._chunks = deque([left])
        self._chunks_start = self._good = 0
        found = self._match(msgid, Answer(None, None, f"{type(error).__name__}: {error}"))
        if found is not None:
            yield found

    def _drop_read_chunks(self) -> None:
        chunks = self._chunks
        while chunks and self._chunks_start + len(chunks[0]) <= self._good:
            self._chunks_start += len(chunks.popleft())


def _frame_id(frame: memoryview) -> int | None:
    """The id of a well-formed response whose last two values need not be readable."""
    reader = _unpacker()
    reader.feed(frame)
    if reader.read_array_header() != 4 or reader.unpack() != RESPONSE:
        return None
    msgid = reader.unpack()
    return msgid if type(msgid) is int else None


def _unpacker() -> msgpack.Unpacker:
    # surrogateescape: a handler may answer text that is no UTF-8, and that must not end the connection of everybody else.
    # strict_map_key off: a MessagePack value may have integers as keys.
    return msgpack.Unpacker(
        max_buffer_size=FRAME_BYTES_MAX + RECEIVE_BYTES, unicode_errors="surrogateescape", strict_map_key=False
    )


def again(reason: SchedulerError | None) -> SchedulerError:
    """A fresh exception of the same words for each caller: one object raised in many places would mix their tracebacks."""
    return ConnectionLost() if reason is None else type(reason)(reason.message)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
