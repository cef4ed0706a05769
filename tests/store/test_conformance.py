"""The embedded back-end passes what any back-end must."""

from __future__ import annotations

import time

import pytest
import trio
from trio.testing import MockClock

from scheduler.store.events import SqliteEventQueue
from scheduler.store.registry import SqliteRegistry
from scheduler.store.sqlite import open_store
from tests.store.conformance import EventQueueConformance, RegistryConformance


@pytest.fixture
async def store(tmp_path):
    async with open_store(tmp_path / "store" / "x.db") as opened:
        yield opened


@pytest.fixture
def registry(store):
    return SqliteRegistry(store)


class World:
    """A queue that can be closed and opened again; its wall clock goes on with trio's, as a machine's would."""

    def __init__(self, path) -> None:
        self.path = path
        self.offset_s = time.time() - trio.current_time()
        self.context = None

    async def open(self):
        if self.context is not None:
            await self.context.__aexit__(None, None, None)
        self.context = open_store(self.path)
        store = await self.context.__aenter__()
        return await SqliteEventQueue.load(
            store, count_max=10, bytes_max=10_000, wall_s=lambda: self.offset_s + trio.current_time()
        )


class Elapse(trio.abc.Clock):
    """The clock of tests that ask for it. It stands still but for jumps: an automatic jump would not wait for the writer."""

    def __init__(self) -> None:
        self._mock = MockClock()

    async def __call__(self, seconds: float) -> None:
        self._mock.jump(seconds)
        await trio.lowlevel.checkpoint()

    def start_clock(self) -> None:
        self._mock.start_clock()

    def current_time(self) -> float:
        return self._mock.current_time()

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return self._mock.deadline_to_sleep_time(deadline)


@pytest.fixture
def elapse():
    return Elapse()


@pytest.fixture
async def world(tmp_path):
    made = World(tmp_path / "store" / "x.db")
    yield made
    await made.context.__aexit__(None, None, None)


@pytest.fixture
async def queue(world):
    return await world.open()


@pytest.fixture
def reopened(world):
    return world.open


class TestSqliteRegistry(RegistryConformance):
    pass


class TestSqliteEventQueue(EventQueueConformance):
    pass
