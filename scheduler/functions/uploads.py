"""Uploads of code in pieces: resumable, bounded, forgotten at a restart.

Law of this file: one part file for each upload under way, named by the SHA-256 that the whole will have, so that a client
that lost its connection goes on where it was, and two clients with the same bytes help each other. Bytes are hashed as they
come; a whole that is not what was announced is thrown away.

    uploads = await open_uploads(settings.upload_dir, count_max=16, bytes_max=512 MiB)
    state = await uploads.put(sha256, size, offset, data)     -> Upload(received, complete)
    ref = await code_store.add(uploads.whole(sha256), kind, handler=…); await uploads.forget(sha256)
"""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import trio

from scheduler import limits
from scheduler.errors import BadRequest, NotFound, Throttled, TooLarge, Unavailable

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Upload", "Uploads", "open_uploads"]

SHA256: Final = re.compile(r"[0-9a-f]{64}")
IDLE_S: Final = 600
"""An upload that was quiet for so long gives its place to a new one."""


@dataclass(frozen=True, slots=True)
class Upload:
    """`received`: bytes from the start that are here, which is where the next piece must begin."""

    received: int
    complete: bool


@dataclass(slots=True)
class _Session:
    size: int
    path: Path
    touched_s: float
    received: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    lock: trio.Lock = field(default_factory=trio.Lock)

    @property
    def complete(self) -> bool:
        return self.received == self.size


async def open_uploads(root: Path, *, count_max: int, bytes_max: int) -> Uploads:
    """Empties `root`: what was half uploaded before a restart is sent again."""
    await trio.to_thread.run_sync(_empty, root)
    return Uploads(root, count_max=count_max, bytes_max=bytes_max)


class Uploads:
    """Made by `open_uploads`. `bytes_max` bounds the sum of the announced sizes."""

    def __init__(self, root: Path, *, count_max: int, bytes_max: int) -> None:
        self._root = root
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._sessions: dict[str, _Session] = {}

    async def put(self, sha256: str, size: int, offset: int, data: bytes) -> Upload:
        """One piece. A piece that is here already, or overlaps what is, is fine; one that leaves a gap is refused with the
        offset to go on from. An empty piece asks how far the upload is.

        Raises BadRequest (arguments, gap, wrong bytes in the end), TooLarge, Throttled (too many uploads), Unavailable (disk).
        """
        _check(sha256, size, offset, data)
        session = self._sessions.get(sha256) or self._begin(sha256, size)
        if session.size != size:
            raise BadRequest(f"size: {size} is not the {session.size} that was announced for this sha256")
        async with session.lock:
            session.touched_s = trio.current_time()
            fresh = data[max(0, session.received - offset) :]
            if offset > session.received:
                raise BadRequest(f"offset: {offset} leaves a gap; go on from {session.received}")
            if fresh:
                try:
                    with trio.CancelScope(shield=True):  # the file and the count must not disagree
                        await trio.to_thread.run_sync(_write, session.path, session.received, fresh)
                except OSError as error:
                    raise Unavailable(f"the upload cannot be written: {error.strerror}") from error
                session.digest.update(fresh)
                session.received += len(fresh)
            if session.complete and session.digest.hexdigest() != sha256:
                await self.forget(sha256)
                raise BadRequest(f"sha256: the {size} bytes received have {session.digest.hexdigest()}; send them again")
            return Upload(session.received, session.complete)

    def whole(self, sha256: str) -> Path:
        """The file of a complete upload. Raises NotFound."""
        session = self._sessions.get(sha256)
        if session is None or not session.complete:
            raise NotFound(f"code_sha256: no complete upload of {sha256[:80]!r}; send it with code.put")
        session.touched_s = trio.current_time()
        return session.path

    async def forget(self, sha256: str) -> None:
        """Drop an upload, complete or not. One that is not there is fine."""
        session = self._sessions.pop(sha256, None)
        if session is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_remove, session.path)

    def bytes_announced(self) -> int:
        return sum(session.size for session in self._sessions.values())

    def __len__(self) -> int:
        return len(self._sessions)

    def _begin(self, sha256: str, size: int) -> _Session:
        now_s = trio.current_time()
        while len(self._sessions) >= self._count_max or self.bytes_announced() + size > self._bytes_max:
            idle = [name for name, s in self._sessions.items() if now_s - s.touched_s >= IDLE_S and not s.lock.locked()]
            if not idle:
                raise Throttled(
                    f"{len(self._sessions)} uploads of {self.bytes_announced()} bytes are under way, the limits are "
                    f"{self._count_max} and {self._bytes_max}",
                    account="node",
                    resource="uploads",
                    current=len(self._sessions),
                    limit=self._count_max,
                    retry_after_ms=1000,
                )
            _remove(self._sessions.pop(min(idle, key=lambda name: self._sessions[name].touched_s)).path)
        session = _Session(size, self._root / f"{sha256}.part", now_s)
        self._sessions[sha256] = session
        return session


def _check(sha256: object, size: object, offset: object, data: object) -> None:
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise BadRequest(f"sha256: {str(sha256)[:80]!r} is not 64 lower-case hexadecimal digits")
    for name, value in (("size", size), ("offset", offset)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise BadRequest(f"{name}: {str(value)[:80]!r} is not a whole number of at least 0")
    if not isinstance(data, bytes):
        raise BadRequest(f"data: is {type(data).__name__}, not bytes")
    assert isinstance(size, int)  # seen above
    assert isinstance(offset, int)
    if not 1 <= size <= limits.CODE_ZIPPED_BYTES_MAX:
        raise TooLarge(f"size: {size} is not 1 to {limits.CODE_ZIPPED_BYTES_MAX} bytes")
    if len(data) > limits.CODE_CHUNK_BYTES_MAX:
        raise TooLarge(f"data: has {len(data)} bytes, the limit of one piece is {limits.CODE_CHUNK_BYTES_MAX}")
    if offset + len(data) > size:
        raise BadRequest(f"data: ends at {offset + len(data)}, beyond the announced size of {size}")


def _empty(root: Path) -> None:
    if root.exists():
        shutil.rmtree(root)
    root.mkdir(mode=0o700, parents=True)


def _write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b" if offset else "wb") as part:
        part.seek(offset)
        part.write(data)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
