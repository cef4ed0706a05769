"""Tables of the embedded store, as numbered migrations.

Law of this file: data alone. A migration that was released is never edited; a change is a new number at the end. Each runs
in its own transaction together with the row that records it, so a crash in between repeats it whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["APPLICATION_ID", "MIGRATIONS", "Migration"]

APPLICATION_ID: Final = 0x53434844
"""In the file's header: "SCHD". Tells our file from any other SQLite database."""


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    statements: tuple[str, ...]


MIGRATIONS: Final = (
    Migration(
        1,
        "keys and values",
        (
            "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
            "INSERT INTO meta VALUES ('revision', 0)",
            "CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL)",
        ),
    ),
    Migration(
        2,
        "events",
        (
            # due_ms is Unix time, since a delay must survive a restart; number keeps first in, first out among equals.
            "CREATE TABLE events (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, function TEXT NOT NULL,"
            " created_ms INTEGER NOT NULL, due_ms INTEGER NOT NULL, deliveries INTEGER NOT NULL, size INTEGER NOT NULL,"
            " headers TEXT NOT NULL, payload BLOB NOT NULL)",
            # Ids of events that are gone already but whose repetition would still be a duplicate.
            "CREATE TABLE seen (id TEXT PRIMARY KEY, until_ms INTEGER NOT NULL) WITHOUT ROWID",
            "CREATE INDEX seen_until ON seen (until_ms)",
        ),
    ),
)
