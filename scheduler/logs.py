"""Functions' logs as readers see them: the engine's journals, rendered, from a cursor on.

Law of this file: it reads files that the engine writes and rotates meanwhile, and changes nothing. A journal is
NAME.journal, its older parts NAME.journal.1, .2, …; a cursor is the part's inode and an offset in it, so it survives a
rotation. A reader whose part was deleted goes on with the oldest that is left. Everything here blocks and belongs in a
worker thread.
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
_CURSOR = re.compile(r"([0-9]{1,20}):([0-9]{1,20})")


@dataclass(frozen=True, slots=True)
class LogText:
    """text is UTF-8 with what is not replaced; cursor goes on where it ends."""

    text: str
    cursor: str


@dataclass(frozen=True, slots=True)
class _Part:
    path: Path
    inode: int
    size: int


def _parts(directory: Path, name: str) -> list[_Part]:
    """Oldest first."""
    found: list[tuple[int, _Part]] = []
    prefix = f"{name}.journal"
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return []
    for entry in entries:
        rest = entry.name.removeprefix(prefix)
        if not entry.name.startswith(prefix) or not (rest == "" or (rest[0] == "." and rest[1:].isdecimal())):
            continue
        try:
            info = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # rotated under our eyes; its new name may be in the list as well
        found.append((int(rest[1:] or 0), _Part(directory / entry.name, info.st_ino, info.st_size)))
    return [part for _, part in sorted(found, key=lambda item: -item[0])]


def _read(part: _Part, offset: int) -> bytes:
    try:
        with part.path.open("rb") as file:
            if os.fstat(file.fileno()).st_ino != part.inode:
                return b""  # rotated meanwhile: the next look finds it under its new name
            file.seek(offset)
            return file.read(READ_BYTES_MAX)
    except FileNotFoundError:
        return b""


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
        end = end or f"{part.inode}:{offset}"
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


def read_log(directory: Path, name: str, *, cursor: str | None, limit_bytes: int, request_id: str | None) -> LogText:
    """cursor None: the last limit_bytes; else at most about limit_bytes from there on. Blocks on the disk.

    BadRequest: a cursor or request id that is none.
    """
    request: bytes | None = None
    if request_id is not None:
        try:
            request = uuid.UUID(request_id).bytes
        except ValueError:
            raise BadRequest(f"request_id: {request_id[:80]!r} is no UUID") from None
    parts = _parts(directory, name)
    if cursor is None:
        return _tail(parts, limit_bytes, request)
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise BadRequest(f"cursor: {cursor[:80]!r} is none that functions.logs gave")
    inode, offset = int(match[1]), int(match[2])
    index = next((i for i, part in enumerate(parts) if part.inode == inode), None)
    if index is None:
        index, offset = 0, 0
    text: list[str] = []
    size = 0
    for part in parts[index:]:
        inode = part.inode
        while size < limit_bytes and (data := _read(part, offset)):
            whole = data[: _offsets(data)[-1]]
            if request is None:
                rendered, used = _render(whole, limit_bytes - size)
            else:
                rendered, used = _render(_of_request(whole, request), READ_BYTES_MAX)[0], len(whole)
            if used == 0:
                break  # the writer is in the middle of a record
            offset += used
            text.append(rendered)
            size += len(rendered)
        if size >= limit_bytes or part is parts[-1]:
            break
        offset = 0
    return LogText("".join(text), f"{inode}:{offset}")
