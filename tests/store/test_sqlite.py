"""The embedded store: what is acknowledged is durable, what fails is undone alone, and opening says what is wrong."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from scheduler.errors import Unavailable
from scheduler.store import schema, sqlite
from scheduler.store.sqlite import StoreDamaged, StoreError, open_store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store" / "scheduler.db"


def insert(key: str, value: bytes = b"v"):
    return lambda db: db.execute("INSERT INTO kv VALUES (?, ?, 1)", (key, value)).lastrowid


def keys(db: sqlite3.Connection) -> list[str]:
    return [key for (key,) in db.execute("SELECT key FROM kv ORDER BY key")]


class Gate:
    """Holds the writer thread inside a write until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def __call__(self, db: sqlite3.Connection) -> str:
        self.reached.set()
        assert self._open.wait(10)
        return "through"

    def open(self) -> None:
        self._open.set()

    async def wait_reached(self) -> None:
        await trio.to_thread.run_sync(self.reached.wait, 10)


async def test_written_is_read_and_survives_closing(path):
    async with open_store(path) as store:
        assert await store.write(insert("a")) == 1
        assert await store.read(keys) == ["a"]
    async with open_store(path) as store:
        assert await store.read(keys) == ["a"]


async def test_files_are_the_owner_s_alone(path):
    path.parent.mkdir()
    path.touch(mode=0o644)
    before = os.umask(0)
    try:
        async with open_store(path) as store:
            await store.write(insert("a"))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert set(modes.values()) == {0o600}
    assert {"scheduler.db", "scheduler.db-wal", "scheduler.db-shm"} <= set(modes)


async def test_every_commit_is_synced(path):
    async with open_store(path) as store:
        assert await store.write(lambda db: db.execute("PRAGMA synchronous").fetchone()) == (2,)
        assert await store.write(lambda db: db.execute("PRAGMA journal_mode").fetchone()) == ("wal",)


async def test_what_waits_is_committed_together(path):
    async with open_store(path) as store, trio.open_nursery() as nursery:
        gate = Gate()
        nursery.start_soon(store.write, gate)
        await gate.wait_reached()
        for number in range(100):
            nursery.start_soon(store.write, insert(f"k{number:03}"))
        await wait_all_tasks_blocked()
        assert store.statistics().waiting == 101
        gate.open()
    statistics = store.statistics()
    assert (statistics.writes, statistics.commits, statistics.batch_max, statistics.waiting) == (101, 2, 100, 0)


async def test_one_that_fails_is_undone_alone(path):
    def fails(db: sqlite3.Connection) -> None:
        insert("half")(db)
        raise ValueError("mine")

    results: list[object] = []

    async def write(fn) -> None:
        try:
            results.append(await store.write(fn))
        except (ValueError, sqlite3.IntegrityError) as error:
            results.append(type(error))

    async with open_store(path) as store:
        async with trio.open_nursery() as nursery:
            gate = Gate()
            nursery.start_soon(store.write, gate)
            await gate.wait_reached()
            for fn in (insert("a"), fails, insert("a"), insert("b")):
                nursery.start_soon(write, fn)
            await wait_all_tasks_blocked()
            gate.open()
        assert await store.read(keys) == ["a", "b"]
        assert sorted(map(str, results)) == ["1", "2", "<class 'ValueError'>", "<class 'sqlite3.IntegrityError'>"]
        assert store.statistics().writes_failed == 2
        await store.write(insert("c"))  # the thread lives on


async def test_the_disk_s_trouble_undoes_all_and_is_unavailable(path):
    async with open_store(path) as store:
        await store.write(lambda db: db.execute("PRAGMA max_page_count = 20"))
        settled = []
        with pytest.raises(Unavailable, match=r"cannot write to .*: database or disk is full"):
            await store.write(
                insert("big", bytes(1 << 20)), committed=settled.append, settled=lambda: settled.append("settled")
            )
        assert settled == ["settled"]
        await store.write(insert("small"))
        assert await store.read(keys) == ["small"]


@pytest.mark.parametrize("submitted", [True, False])
async def test_a_cancelled_write_that_was_not_reached_is_skipped(path, submitted):
    seen: list[str] = []

    async def write(scope: trio.CancelScope) -> None:
        with scope:
            await store.write(insert("a"), committed=lambda _: seen.append("committed"), settled=lambda: seen.append("settled"))

    async with open_store(path) as store:
        async with trio.open_nursery() as nursery:
            gate = Gate()
            nursery.start_soon(store.write, gate)
            await gate.wait_reached()
            scope = trio.CancelScope()
            nursery.start_soon(write, scope)
            if submitted:
                await wait_all_tasks_blocked()
            scope.cancel()
            await wait_all_tasks_blocked()
            assert scope.cancelled_caught
            gate.open()
        await store.write(lambda db: None)  # a commit later
        assert await store.read(keys) == []
        assert seen == ["settled"]


async def test_a_cancelled_write_that_was_reached_is_applied_and_told(path):
    seen: list[str] = []
    gate = Gate()

    def slow(db: sqlite3.Connection) -> str:
        insert("a")(db)
        return gate(db)

    async with open_store(path) as store:
        async with trio.open_nursery() as nursery:
            with trio.CancelScope() as scope:

                async def cancel() -> None:
                    await gate.wait_reached()
                    scope.cancel()

                nursery.start_soon(cancel)
                await store.write(slow, committed=seen.append, settled=lambda: seen.append("settled"))
            gate.open()
        await store.write(lambda db: None)  # a commit later
        assert await store.read(keys) == ["a"]
        assert seen == ["through", "settled"]


async def test_callbacks_come_before_the_writer_is_told_and_in_order(path):
    order: list[str] = []

    async def write(name: str) -> None:
        await store.write(lambda db: name, committed=order.append)
        order.append(name + " returned")

    async with open_store(path) as store, trio.open_nursery() as nursery:
        gate = Gate()
        nursery.start_soon(store.write, gate)
        await gate.wait_reached()
        for name in "abc":
            nursery.start_soon(write, name)
            await wait_all_tasks_blocked()
        gate.open()
    assert order[:3] == ["a", "b", "c"]
    assert sorted(order[3:]) == ["a returned", "b returned", "c returned"]


async def test_closing_commits_what_waits_and_refuses_the_rest(path):
    async with trio.open_nursery() as nursery:
        async with open_store(path) as store:
            for number in range(10):
                nursery.start_soon(store.write, insert(str(number)))
            await wait_all_tasks_blocked()
        with pytest.raises(Unavailable, match="the store is closed"):
            await store.write(insert("late"))
        with pytest.raises(Unavailable, match="the store is closed"):
            await store.read(keys)
    async with open_store(path) as store:
        assert len(await store.read(keys)) == 10


async def test_reads_do_not_wait_for_a_write_and_cannot_write(path):
    async with open_store(path) as store, trio.open_nursery() as nursery:
        gate = Gate()
        nursery.start_soon(store.write, gate)
        await gate.wait_reached()
        assert await store.read(keys) == []
        gate.open()
        with pytest.raises(Unavailable, match=r"readonly|read-only|query_only"):
            await store.read(insert("a"))


async def test_a_second_service_is_refused(path):
    async with open_store(path):
        with pytest.raises(StoreError, match=rf"in use by another service \(process {os.getpid()}\); stop it first"):
            async with open_store(path):
                pass
    async with open_store(path):
        pass


async def test_migrations_are_recorded_and_resumed(path, monkeypatch):
    monkeypatch.setattr(sqlite, "MIGRATIONS", schema.MIGRATIONS[:1])
    async with open_store(path) as store:
        await store.write(insert("old"))
    monkeypatch.setattr(sqlite, "MIGRATIONS", schema.MIGRATIONS)
    async with open_store(path) as store:
        assert await store.read(keys) == ["old"]
        rows = await store.read(lambda db: db.execute("SELECT number, name FROM schema_migrations ORDER BY number").fetchall())
    assert rows == [(migration.number, migration.name) for migration in schema.MIGRATIONS]
    assert [migration.number for migration in schema.MIGRATIONS] == list(range(1, len(schema.MIGRATIONS) + 1))


async def test_a_migration_that_fails_leaves_the_database_as_it_was(path, monkeypatch):
    broken = schema.Migration(3, "broken", ("CREATE TABLE half (x)", "no such statement"))
    async with open_store(path):
        pass
    monkeypatch.setattr(sqlite, "MIGRATIONS", (*schema.MIGRATIONS, broken))
    with pytest.raises(StoreError, match="cannot be opened"):
        async with open_store(path):
            pass
    monkeypatch.setattr(sqlite, "MIGRATIONS", schema.MIGRATIONS)
    async with open_store(path) as store:
        assert await store.read(lambda db: db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'half'").fetchall()) == []


async def test_a_newer_database_is_refused(path, monkeypatch):
    monkeypatch.setattr(sqlite, "MIGRATIONS", (*schema.MIGRATIONS, schema.Migration(99, "later", ())))
    async with open_store(path):
        pass
    monkeypatch.undo()
    with pytest.raises(StoreError, match=r"written by a newer version \(schema 99, this one knows 2\)"):
        async with open_store(path):
            pass


@pytest.mark.parametrize("content", [b"not a database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_what_is_no_database(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreDamaged, match=r"is damaged or no database .* move it and its -wal and -shm files away"):
        async with open_store(path):
            pass
    assert path.read_bytes() == content


async def test_another_program_s_database(path):
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE theirs (x)")
    other.commit()
    other.close()
    with pytest.raises(StoreError, match="is a database of another program"):
        async with open_store(path):
            pass


async def test_damage_is_found_at_the_start(path):
    async with open_store(path) as store:
        for number in range(200):
            await store.write(insert(f"key-{number:04}", bytes(500)))
    data = bytearray(path.read_bytes())
    for at in range(data.index(b"key-0100") - 2000, data.index(b"key-0100") + 2000):
        data[at] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(StoreDamaged, match="is damaged"):
        async with open_store(path):
            pass


async def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot"):
        async with open_store(tmp_path / "file" / "x.db"):
            pass
