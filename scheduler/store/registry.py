"""The registry port on the embedded store: keys, values, revisions, watches.

Law of this file: `port.Registry` over the table kv. One counter numbers all writes, so a revision also says how much of the
history a reader has seen. Watchers are told in the trio thread right after the commit; what a slow one has not read yet is
kept as the last value of each key, so its memory is bounded by the number of keys.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from scheduler.store.port import Change, ChangeKind, Entry, RevisionConflict, check_key, check_value

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import AsyncIterator

    from scheduler.store.sqlite import Store

__all__ = ["SqliteRegistry"]


class _Watcher:
    """What one watch has still to tell: the last change of each key, in the order of the last changes."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.pending: dict[str, Change] = {}
        self.wake = trio.Event()

    def tell(self, change: Change) -> None:
        self.pending.pop(change.key, None)
        self.pending[change.key] = change
        self.wake.set()


class SqliteRegistry:
    """`port.Registry`, embedded."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._watchers: set[_Watcher] = set()

    async def get(self, key: str) -> Entry | None:
        check_key(key)

        def read(db: sqlite3.Connection) -> Entry | None:
            row = db.execute("SELECT key, value, revision FROM kv WHERE key = ?", (key,)).fetchone()
            return Entry(*row) if row else None

        return await self._store.read(read)

    async def put(self, key: str, value: bytes, *, expect: int | None = None) -> int:
        check_key(key)
        check_value(value)

        def write(db: sqlite3.Connection) -> Change:
            _expect(db, key, expect)
            revision = _next_revision(db)
            db.execute(
                "INSERT INTO kv VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value,"
                " revision = excluded.revision",
                (key, value, revision),
            )
            return Change(ChangeKind.PUT, key, value, revision)

        return (await self._store.write(write, committed=self._tell)).revision

    async def delete(self, key: str, *, expect: int | None = None) -> int:
        check_key(key)

        def write(db: sqlite3.Connection) -> Change:
            _expect(db, key, expect)
            db.execute("DELETE FROM kv WHERE key = ?", (key,))
            return Change(ChangeKind.DELETE, key, b"", _next_revision(db))

        return (await self._store.write(write, committed=self._tell)).revision

    async def list(self, prefix: str = "", *, after: str = "", limit: int = 1000) -> list[Entry]:
        def read(db: sqlite3.Connection) -> list[Entry]:
            rows = db.execute(
                "SELECT key, value, revision FROM kv WHERE key > ? AND key >= ? AND key < ? ORDER BY key LIMIT ?",
                (after, prefix, _beyond(prefix), limit),
            )
            return [Entry(*row) for row in rows]

        return await self._store.read(read)

    @asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[AsyncIterator[Change]]:
        watcher = _Watcher(prefix)
        # Registered before the snapshot is read: a change that comes meanwhile waits in `pending` and is told after it.
        self._watchers.add(watcher)
        changes = self._changes(watcher)
        try:
            yield changes
        finally:
            self._watchers.discard(watcher)
            await changes.aclose()  # type: ignore[attr-defined]  # an async generator

    async def wait_for(self, revision: int) -> None:
        # A write returns after its watchers were told, and reads see every commit: nothing to wait for but a bad argument.
        def read(db: sqlite3.Connection) -> int:
            return int(db.execute("SELECT value FROM meta WHERE name = 'revision'").fetchone()[0])

        newest = await self._store.read(read)
        if revision > newest:
            raise ValueError(f"revision {revision} was never given; the newest is {newest}")

    async def _changes(self, watcher: _Watcher) -> AsyncIterator[Change]:
        def read(db: sqlite3.Connection) -> tuple[int, list[Entry]]:
            db.execute("BEGIN")  # one snapshot for both
            try:
                (revision,) = db.execute("SELECT value FROM meta WHERE name = 'revision'").fetchone()
                rows = db.execute(
                    "SELECT key, value, revision FROM kv WHERE key >= ? AND key < ? ORDER BY key",
                    (watcher.prefix, _beyond(watcher.prefix)),
                )
                return revision, [Entry(*row) for row in rows]
            finally:
                db.execute("COMMIT")

        snapshot_revision, entries = await self._store.read(read)
        for entry in entries:
            yield Change(ChangeKind.PUT, entry.key, entry.value, entry.revision)
        yield Change(ChangeKind.UP_TO_DATE, "", b"", snapshot_revision)
        while True:
            await watcher.wake.wait()
            watcher.wake = trio.Event()
            pending, watcher.pending = watcher.pending, {}
            for change in pending.values():
                if change.revision > snapshot_revision:
                    yield change

    def _tell(self, change: Change) -> None:
        for watcher in self._watchers:
            if change.key.startswith(watcher.prefix):
                watcher.tell(change)


def _next_revision(db: sqlite3.Connection) -> int:
    db.execute("UPDATE meta SET value = value + 1 WHERE name = 'revision'")
    return int(db.execute("SELECT value FROM meta WHERE name = 'revision'").fetchone()[0])


def _expect(db: sqlite3.Connection, key: str, expect: int | None) -> None:
    if expect is None:
        return
    row = db.execute("SELECT revision FROM kv WHERE key = ?", (key,)).fetchone()
    current = int(row[0]) if row else 0
    if current != expect:
        raise RevisionConflict(key, expect, current)


def _beyond(prefix: str) -> str:
    """The least text that sorts after everything that starts with `prefix`; keys are ASCII."""
    return prefix + "\x7f"
