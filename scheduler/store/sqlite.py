"""The embedded store: one SQLite file, one writer thread, group commit.

Law of this file: the only one that opens the database. It knows connections, transactions, migrations and durability, and
nothing of what is stored (`schema` has the tables, `registry` and `events` their meaning).

Writers submit functions. The writer thread takes all that wait, runs each in its own savepoint inside one transaction, commits
once with a real fsync (WAL, synchronous=FULL), and only then tells the submitters. So an acknowledged write survives kill -9
and power loss, and under load the fsync is shared: 64 waiting writes cost one.

    async with open_store(path) as store:
        await store.write(lambda db: db.execute("INSERT ..."))      # returns after the commit
        rows = await store.read(lambda db: db.execute("SELECT ...").fetchall())

Cancelling a `write` leaves its outcome unknown: it is skipped if the thread has not reached it yet, applied otherwise.
"""

from __future__ import annotations

import fcntl
import os
import queue
import sqlite3
import threading
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import trio

from scheduler.errors import SchedulerError, Unavailable
from scheduler.store.schema import APPLICATION_ID, MIGRATIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

__all__ = ["Statistics", "Store", "StoreDamaged", "StoreError", "open_store"]

T = TypeVar("T")

BATCH_MAX: Final = 256
WRITES_WAITING_MAX: Final = 4096
READERS: Final = 4
BUSY_TIMEOUT_MS: Final = 5_000


class StoreError(SchedulerError):
    """The database cannot be opened or does not belong to this program; the message says what to do."""


class StoreDamaged(StoreError):
    """The integrity check failed."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Since the store was opened. `waiting`: writes not yet committed now."""

    commits: int
    writes: int
    writes_failed: int
    waiting: int
    batch_max: int


class _Write(Generic[T]):
    """One submitted write, from the trio thread to the writer thread and back. Each field has one writer at a time."""

    __slots__ = ("abandoned", "committed", "done", "error", "fn", "ran", "result", "settled")

    def __init__(
        self,
        fn: Callable[[sqlite3.Connection], T],
        committed: Callable[[T], None] | None,
        settled: Callable[[], None] | None,
    ) -> None:
        self.fn = fn
        self.committed = committed
        self.settled = settled
        self.done = trio.Event()
        self.abandoned = False  # set by the trio thread; read once by the writer before it runs fn
        self.ran = False
        self.result: T | None = None
        self.error: BaseException | None = None


class Store:
    """Made by `open_store`. All methods belong to the trio thread."""

    def __init__(self, path: Path, writer: sqlite3.Connection, readers: Sequence[sqlite3.Connection]) -> None:
        self.path = path
        self._writer = writer
        self._readers = list(readers)
        self._reading = trio.CapacityLimiter(len(readers))
        self._writing = trio.CapacityLimiter(WRITES_WAITING_MAX)
        self._queue: queue.SimpleQueue[_Write[Any] | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._closed = False
        self._commits = 0
        self._writes = 0
        self._failed = 0
        self._batch_max = 0
        self._thread.start()

    async def write(
        self,
        fn: Callable[[sqlite3.Connection], T],
        *,
        committed: Callable[[T], None] | None = None,
        settled: Callable[[], None] | None = None,
    ) -> T:
        """Run `fn` in the writer thread inside a transaction; return its result once that is durable.

        What `fn` raises is raised here and undoes `fn` alone. `committed` is called in the trio thread right after the commit,
        in commit order and even if the caller was cancelled meanwhile: the place to keep an index in step. `settled` is called
        after it, however the write ended, skipped included. Neither may raise. Both are called before this returns.
        Raises Unavailable if the disk refuses (nothing of this write is then applied).
        """
        write = _Write(fn, committed, settled)
        submitted = False
        try:
            async with self._writing:
                self._check_open()
                self._queue.put(write)
                submitted = True
                await write.done.wait()
        except BaseException:
            write.abandoned = True
            if not submitted and settled is not None:
                settled()
            raise
        if write.error is not None:
            raise write.error
        return write.result  # type: ignore[return-value]  # set whenever error is not

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` in a thread on a read-only connection. It sees every committed write."""
        async with self._reading:
            self._check_open()
            connection = self._readers.pop()
            try:
                return await trio.to_thread.run_sync(_reading, fn, connection)
            finally:
                self._readers.append(connection)

    def statistics(self) -> Statistics:
        return Statistics(self._commits, self._writes, self._failed, int(self._writing.borrowed_tokens), self._batch_max)

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the store is closed")

    async def aclose(self) -> None:
        """Commit what waits, then close. Later calls raise Unavailable."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        with trio.CancelScope(shield=True):  # the thread ends by itself once its queue is empty
            await trio.to_thread.run_sync(self._thread.join)
            reading = [object() for _ in range(READERS)]
            for reader in reading:  # wait for those still reading
                await self._reading.acquire_on_behalf_of(reader)
        for connection in self._readers:
            connection.close()
        for reader in reading:  # who waited for a turn learns that the store is closed
            self._reading.release_on_behalf_of(reader)
        with suppress(sqlite3.Error):  # only saves the next start some work
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._writer.close()

    # ---- the writer thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        open_ = True
        while open_:
            batch: list[_Write[Any]] = []
            item = self._queue.get()
            while item is not None:
                batch.append(item)
                if len(batch) >= BATCH_MAX:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            open_ = item is not None
            if batch:
                self._commit(batch)
                with suppress(trio.RunFinishedError):  # nobody is left to be told
                    self._token.run_sync_soon(self._deliver, batch)

    def _commit(self, batch: list[_Write[Any]]) -> None:
        """All of the batch in one transaction; each that fails is undone alone."""
        connection = self._writer
        try:
            connection.execute("BEGIN IMMEDIATE")
            for write in batch:
                if not write.abandoned:
                    _apply(connection, write)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            # Disk full, an I/O error, another process' lock: nothing of the batch is applied.
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            for write in batch:
                write.error = Unavailable(f"the store cannot write to {self.path}: {error}")

    def _deliver(self, batch: list[_Write[Any]]) -> None:
        """In the trio thread."""
        self._commits += 1
        self._batch_max = max(self._batch_max, len(batch))
        for write in batch:
            if write.error is not None:
                self._failed += 1
            else:
                self._writes += 1
                if write.committed is not None and write.ran:
                    write.committed(write.result)
            if write.settled is not None:
                write.settled()
            write.done.set()


def _apply(connection: sqlite3.Connection, write: _Write[Any]) -> None:
    connection.execute("SAVEPOINT one")
    try:
        write.result = write.fn(connection)
        write.ran = True
    except sqlite3.OperationalError:
        raise  # the disk's trouble, not this write's: the whole batch fails
    except BaseException as error:  # whatever fn raised belongs to its submitter, and the thread must live on
        connection.execute("ROLLBACK TO one")
        write.error = error
    connection.execute("RELEASE one")


def _reading(fn: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection) -> T:
    try:
        return fn(connection)
    except sqlite3.OperationalError as error:
        raise Unavailable(f"the store cannot be read: {error}") from error


# ---- opening -------------------------------------------------------------------------------------------------------------

CHECK_ALL_BYTES_MAX: Final = 64 * 1024 * 1024
"""A larger file is checked but for its queued events, so that a start takes less than two seconds."""


@asynccontextmanager
async def open_store(path: Path) -> AsyncIterator[Store]:
    """The store at `path`, made if it does not exist (directory 0700, file 0600), migrated and checked.

    Raises StoreError when another process has it open, when it is no database of ours or of a newer program, and StoreDamaged
    when its check fails.
    """
    try:
        lock = await trio.to_thread.run_sync(_lock, path)
    except OSError as error:
        raise StoreError(f"{path} cannot be made: {error.strerror}") from error
    try:
        writer, readers = await trio.to_thread.run_sync(_open, path)
        store = Store(path, writer, readers)
        try:
            yield store
        finally:
            await store.aclose()
    finally:
        os.close(lock)


def _lock(path: Path) -> int:
    """One service a state directory: SQLite would let two take turns, and each would think it alone knows the truth."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(lock, 32, 0).decode(errors="replace").strip()
        os.close(lock)
        raise StoreError(f"{path} is in use by another service (process {owner or 'unknown'}); stop it first") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _open(path: Path) -> tuple[sqlite3.Connection, list[sqlite3.Connection]]:
    _make_file(path)
    opened: list[sqlite3.Connection] = []
    try:
        writer = _connect(path, opened)
        _identify(writer, path)
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("PRAGMA synchronous=FULL")
        writer.execute("PRAGMA secure_delete=ON")  # what was overwritten is nowhere in the file
        _check(writer, path)
        _migrate(writer, path)
        for _ in range(READERS):
            _connect(path, opened).execute("PRAGMA query_only=ON")
    except sqlite3.DatabaseError as error:
        for connection in opened:
            connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise StoreError(f"{path} cannot be opened: {error}") from error
        raise StoreDamaged(f"{path} is damaged or no database ({error}); {_WAY_OUT}") from error
    except StoreError:
        for connection in opened:
            connection.close()
        raise
    return opened[0], opened[1:]


_WAY_OUT: Final = "move it and its -wal and -shm files away and restore a copy, or deploy the functions anew"


def _make_file(path: Path) -> None:
    """SQLite gives its -wal and -shm files the mode of the database, so that one is made with the right mode first."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _connect(path: Path, opened: list[sqlite3.Connection]) -> sqlite3.Connection:
    # Each connection is used by one thread at a time, though not always by the same one.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    opened.append(connection)
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA trusted_schema=OFF")
    return connection


def _identify(connection: sqlite3.Connection, path: Path) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application_id == 0 and tables == 0:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    elif application_id != APPLICATION_ID:
        raise StoreError(f"{path} is a database of another program; choose another state directory")


def _check(connection: sqlite3.Connection, path: Path) -> None:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    whole = os.stat(path).st_size <= CHECK_ALL_BYTES_MAX
    for check in ("",) if whole else tuple(f"('{name}')" for name in sorted(tables & {"kv", "meta", "schema_migrations"})):
        (verdict,) = connection.execute(f"PRAGMA quick_check{check}").fetchone()
        if verdict != "ok":
            raise StoreDamaged(f"{path} is damaged ({verdict}); {_WAY_OUT}")


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations"
        " (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL)"
    )
    (done,) = connection.execute("SELECT coalesce(max(number), 0) FROM schema_migrations").fetchone()
    newest = MIGRATIONS[-1].number
    if done > newest:
        raise StoreError(f"{path} was written by a newer version (schema {done}, this one knows {newest}); update the service")
    for migration in MIGRATIONS[done:]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in migration.statements:
                connection.execute(statement)
            connection.execute(
                "INSERT INTO schema_migrations VALUES (?, ?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))",
                (migration.number, migration.name),
            )
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
