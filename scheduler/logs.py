"""Functions' logs as readers see them: the engine's journals, rendered, from a cursor on.

Law of this file: it reads files that the engine writes, rotates and removes meanwhile, and changes nothing. A journal is
NAME.journal, its older parts NAME.journal.1, .2, …; a cursor is the part's inode, an offset in it, and when its first record
was written, since an inode's number is used again. So it survives a rotation. A reader whose part was deleted goes on with
the oldest that is left. Everything here blocks and belongs in a worker thread.

Parts only ever move up in number, by one at a time, so they are looked for from the newest up, one number after the other: one
that moves meanwhile may be seen twice, never missed.
"""

from __future__ import annotations

import itertools
import os
import re
import struct
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scheduler.engine import render_log
from scheduler.errors import BadRequest

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LogText", "read_log"]

HEAD = struct.Struct("<IBBBBQQ16s")  # struct journal_record
READ_BYTES_MAX = 8 * 1024 * 1024  # of one part at once
LOOKS_MAX = 16  # at parts that are rotated under our eyes
AGREED = 2  # looks in a row that find none beyond
_CURSOR = re.compile(r"([0-9]{1,20}):([0-9]{1,20})(?::([0-9]{1,20}))?")


@dataclass(frozen=True, slots=True)
class LogText:
    """text is UTF-8 with what is not replaced; cursor goes on where it ends."""

    text: str
    cursor: str


class _Moved(Exception):
    """A part was rotated or removed since it was listed."""


@dataclass(frozen=True, slots=True)
class _Part:
    """begun_ns: of its first record, 0: it has none. written_ns: when it was last written to."""

    path: Path
    inode: int
    size: int
    begun_ns: int
    written_ns: int

    def cursor(self, offset: int) -> str:
        return f"{self.inode}:{offset}:{self.begun_ns}"


def _part(path: Path) -> _Part | None:
    try:
        with path.open("rb") as file:
            info = os.fstat(file.fileno())
            head = file.read(HEAD.size)
    except FileNotFoundError:
        return None
    begun_ns = int(HEAD.unpack(head)[5]) if len(head) == HEAD.size else 0
    return _Part(path, info.st_ino, info.st_size, begun_ns, info.st_mtime_ns)


def _top(directory: Path, prefix: str) -> int:
    """The highest number that a part has now, -1: there is none."""
    try:
        rests = [entry.removeprefix(prefix) for entry in os.listdir(directory) if entry.startswith(prefix)]
    except FileNotFoundError:
        return -1
    numbers = [int(rest[1:]) for rest in rests if rest[:1] == "." and rest[1:].isdecimal() and rest[1:].isascii()]
    return max(numbers, default=0 if "" in rests else -1)


def _parts(directory: Path, name: str) -> list[_Part]:
    """Oldest first."""
    prefix = f"{name}.journal"
    found: dict[int, _Part] = {}
    number, top, agreed = 0, _top(directory, prefix), 0
    while agreed < AGREED:
        while number <= top:
            part = _part(directory / (f"{prefix}.{number}" if number else prefix))
            if part is not None:
                found.pop(part.inode, None)  # seen twice: it is as old as where it was seen last
                found[part.inode] = part
            number += 1
        top = _top(directory, prefix)
        agreed = agreed + 1 if top < number else 0  # a name that changes while names are read may be left out
    return list(reversed(found.values()))


def _read(part: _Part, offset: int) -> bytes:
    try:
        with part.path.open("rb") as file:
            if os.fstat(file.fileno()).st_ino != part.inode:
                raise _Moved
            file.seek(offset)
            return file.read(READ_BYTES_MAX)
    except FileNotFoundError:
        raise _Moved from None


def _offsets(data: bytes) -> list[int]:
    """Where each whole record of data begins, and where the last one ends."""
    at = 0
    offsets = [0]
    while at + HEAD.size <= len(data):
        (size,) = struct.unpack_from("<I", data, at)
        if size < HEAD.size or at + size > len(data):
            break
        at += size
        offsets.append(at)
    return offsets


def _of_request(data: bytes, request: bytes) -> bytes:
    """Only the records of one invocation; data holds whole records."""
    if request not in data:
        return b""
    offsets = _offsets(data)
    kept = [data[a:b] for a, b in itertools.pairwise(offsets) if data[a + 24 : a + 40] == request]
    return b"".join(kept)


def _before(data: bytes, since_ns: int) -> int:
    """Bytes of the records that were written before; data holds whole records. They stand in the order of time."""
    at = 0
    while at < len(data):
        size, *_, time_ns, _, _ = HEAD.unpack_from(data, at)
        if time_ns >= since_ns:
            break
        at += size
    return at


def _render(records: bytes, limit: int) -> tuple[str, int]:
    """Text of at most about `limit` bytes, at least one record, and how many bytes of records it took."""
    # A record renders to at most a few times its size, and mostly to less than three times.
    offsets = _offsets(records)
    text = b""
    done = 0
    step = 256
    for first in range(0, len(offsets) - 1, step):
        last = min(first + step, len(offsets) - 1)
        more, used = render_log(records[offsets[first] : offsets[last]])
        text += more
        done = offsets[first] + used
        if len(text) >= limit or used < offsets[last] - offsets[first]:
            break
    return text.decode("utf-8", "replace"), done


def _tail(parts: list[_Part], limit: int, request: bytes | None) -> LogText:
    """The end of the log."""
    text = ""
    end = ""
    for part in reversed(parts):
        offset, chunks = 0, []
        while data := _read(part, offset):
            whole = _offsets(data)
            if whole[-1] == 0:
                break
            chunks.append(data[: whole[-1]])
            offset += whole[-1]
        end = end or part.cursor(offset)
        records = b"".join(chunks)
        if request is not None:
            records = _of_request(records, request)
        else:
            # Rendered text is longer than its records, so the last `limit` bytes of records are enough.
            records = records[next((o for o in _offsets(records) if len(records) - o <= limit), 0) :]
        rendered, _ = _render(records, len(records) * 16)
        text = rendered + text
        if len(text.encode()) >= limit:
            break
    encoded = text.encode()
    if len(encoded) > limit:
        cut = encoded[-limit:]
        text = cut[cut.find(b"\n") + 1 :].decode("utf-8", "replace")
    return LogText(text, end or "0:0")


def _from(parts: list[_Part], cursor: str, limit: int, request: bytes | None, since_ns: int) -> LogText:
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise BadRequest(f"cursor: {cursor[:80]!r} is none that functions.logs gave")
    inode, offset, begun_ns = int(match[1]), int(match[2]), int(match[3] or 0)
    index = next((i for i, p in enumerate(parts) if p.inode == inode and begun_ns in (0, p.begun_ns)), None)
    if index is None:
        index, offset = 0, 0
    text: list[str] = []
    size = 0
    at = cursor
    for part in parts[index:]:
        if part.written_ns < since_ns and part is not parts[-1]:
            at, offset = part.cursor(part.size), 0
            continue
        at = part.cursor(offset)
        try:
            while size < limit and (data := _read(part, offset)):
                whole = data[: _offsets(data)[-1]]
                skipped = _before(whole, since_ns)
                if request is None:
                    rendered, used = _render(whole[skipped:], limit - size)
                    used += skipped
                else:
                    rendered, used = _render(_of_request(whole[skipped:], request), READ_BYTES_MAX)[0], len(whole)
                if used == 0:
                    break  # the writer is in the middle of a record
                offset += used
                at = part.cursor(offset)
                text.append(rendered)
                size += len(rendered)
        except _Moved:
            if not text:
                raise
            break  # the next look finds it under its new name
        if size >= limit:
            break
        offset = 0
    return LogText("".join(text), at)


def read_log(
    directory: Path, name: str, *, cursor: str | None, limit_bytes: int, request_id: str | None, since_ns: int = 0
) -> LogText:
    """cursor None: the last limit_bytes, or from since_ns (Unix time) on; else at most about limit_bytes from there on, without
    what was written before since_ns. Blocks on the disk.

    BadRequest: a cursor or request id that is none.
    """
    request: bytes | None = None
    if request_id is not None:
        try:
            request = uuid.UUID(request_id).bytes
        except ValueError:
            raise BadRequest(f"request_id: {request_id[:80]!r} is no UUID") from None
    for _ in range(LOOKS_MAX):
        parts = _parts(directory, name)
        try:
            if cursor is None and not since_ns:
                return _tail(parts, limit_bytes, request)
            return _from(parts, cursor or "0:0", limit_bytes, request, since_ns)
        except _Moved:
            continue
    return LogText("", cursor or "0:0")  # it rotates faster than we can look: the reader comes again
