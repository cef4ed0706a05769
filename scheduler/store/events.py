"""The event queue port on the embedded store: durable asynchronous invocations.

Law of this file: `port.EventQueue` over the tables events and seen. What is durable is the event, its due time and the ids of
the last two minutes; leases and the index of what is due live in memory, since one process owns the store: after a restart
nothing is leased and everything is delivered again. The index follows commits (Store.write's callbacks), never hopes.

Time is Unix time as it was when the queue was opened, carried on by trio's clock: a step of the machine's clock moves nothing
that waits, and a test can jump. Due times are kept in that time; across a restart they are as good as the machine's clock.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from scheduler import limits
from scheduler.errors import BadRequest, TooLarge
from scheduler.store.port import Backlog, Event, Lease, LeaseLost, Put, QueueFull

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping

    from scheduler.store.sqlite import Store

__all__ = ["SqliteEventQueue", "Statistics"]

TAKE_MAX: Final = 256
ID_CHARS_MAX: Final = 128
DELAY_S_MAX: Final = 7 * 86_400
SWEEP_EVERY: Final = 256
"""So many puts between two sweeps of ids that are past the two minutes."""


@dataclass(frozen=True, slots=True)
class Statistics:
    events: int
    bytes: int
    leased: int


@dataclass(slots=True)
class _Item:
    """One event in the index. `token` 0: not leased. `settling`: a retry of it is being written, its lease cannot lapse."""

    number: int
    id: str
    function: str
    created_ms: int
    size: int
    due_ms: int
    deliveries: int
    token: int = 0
    until_ms: int = 0
    settling: bool = False


@dataclass(slots=True)
class _Function:
    """One function's events in the index, in the order in which they came."""

    items: dict[str, _Item] = field(default_factory=dict)
    bytes: int = 0


class SqliteEventQueue:
    """`port.EventQueue`, embedded. Made by `load`."""

    def __init__(self, store: Store, *, count_max: int, bytes_max: int, wall_s: float) -> None:
        self._store = store
        self._count_max = count_max
        self._bytes_max = bytes_max
        self._offset_s = wall_s - trio.current_time()
        self._items: dict[str, _Item] = {}
        self._functions: dict[str, _Function] = {}  # those with events
        self._bytes = 0
        self._promised = 0  # puts under way, with their bytes: they have their room already
        self._promised_bytes = 0
        self._waiting: list[tuple[int, int, str]] = []  # heap of (due_ms, number, id); stale ones are skipped when met
        self._leases: deque[tuple[int, int, str]] = deque()  # (until_ms, token, id), in order since all leases are equally long
        self._tokens = itertools.count(1)
        self._puts = 0
        self._wake = trio.Event()

    @classmethod
    async def load(
        cls, store: Store, *, count_max: int, bytes_max: int, wall_s: Callable[[], float] = time.time
    ) -> SqliteEventQueue:
        """Read the index of what is queued. The bounds hold for puts from now on; what is there stays."""
        queue = cls(store, count_max=count_max, bytes_max=bytes_max, wall_s=wall_s())

        def read(db: sqlite3.Connection) -> list[_Item]:
            columns = "number, id, function, created_ms, size, due_ms, deliveries"
            return [_Item(*row) for row in db.execute(f"SELECT {columns} FROM events ORDER BY number")]

        for item in await store.read(read):
            queue._admit(item)
        return queue

    # ---- port.EventQueue -------------------------------------------------------------------------------------------------

    async def put(self, event: Event) -> Put:
        headers = _check(event)
        size = len(event.payload) + len(headers)
        now_ms = self._now_ms()
        if not self._has_room(size):
            if await self._store.read(lambda db: _is_known(db, event.id, now_ms)):
                return Put.DUPLICATE
            raise self._full(size)
        self._promised += 1
        self._promised_bytes += size
        self._puts += 1
        sweep = self._puts % SWEEP_EVERY == 0

        def write(db: sqlite3.Connection) -> _Item | None:
            if sweep:
                db.execute("DELETE FROM seen WHERE until_ms <= ?", (now_ms,))
            if _is_known(db, event.id, now_ms):
                return None
            db.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (event.id, now_ms + limits.EVENT_DEDUPE_MS))
            cursor = db.execute(
                "INSERT INTO events (id, function, created_ms, due_ms, deliveries, size, headers, payload)"
                " VALUES (?, ?, ?, ?, 0, ?, ?, ?)",
                (event.id, event.function, event.created_ms, now_ms, size, headers, event.payload),
            )
            return _Item(int(cursor.lastrowid or 0), event.id, event.function, event.created_ms, size, now_ms, 0)

        def settled() -> None:
            self._promised -= 1
            self._promised_bytes -= size

        stored = await self._store.write(write, committed=self._admit, settled=settled)
        return Put.DUPLICATE if stored is None else Put.STORED

    async def take(self, count: int, wait_s: float) -> list[Lease]:
        if not 1 <= count <= TAKE_MAX:
            raise ValueError(f"count: {count} is not 1 to {TAKE_MAX}")
        deadline_s = trio.current_time() + wait_s
        while True:
            granted = self._grant(count)
            if granted:
                return await self._read(granted)
            if trio.current_time() >= deadline_s:
                await trio.lowlevel.checkpoint()
                return []
            with trio.move_on_at(min(deadline_s, self._next_s())):
                await self._wake.wait()

    def extend(self, lease: Lease) -> None:
        item = self._live(lease)
        item.until_ms = self._now_ms() + limits.EVENT_LEASE_MS
        self._leases.append((item.until_ms, item.token, item.id))

    async def done(self, event_id: str) -> None:
        def write(db: sqlite3.Connection) -> str:
            db.execute("DELETE FROM events WHERE id = ?", (event_id,))
            return event_id

        await self._store.write(write, committed=self._drop)

    async def retry(self, lease: Lease, delay_s: float, *, headers: Mapping[str, str] | None = None) -> None:
        if not 0 <= delay_s <= DELAY_S_MAX:
            raise ValueError(f"delay_s: {delay_s} is not 0 to {DELAY_S_MAX}")
        text = _headers(lease.event.headers if headers is None else headers)
        size = len(lease.event.payload) + len(text)
        item = self._live(lease)
        item.settling = True
        due_ms = self._now_ms() + math.ceil(delay_s * 1000)

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE events SET due_ms = ?, deliveries = ?, headers = ?, size = ? WHERE id = ?",
                (due_ms, item.deliveries, text, size, item.id),
            )

        def committed(_: None) -> None:
            if self._items.get(item.id) is item:
                self._resize(item, size)
                item.due_ms = due_ms
                self._release(item)

        def settled() -> None:
            if item.settling:  # not written: the lease runs on, or has lapsed meanwhile
                item.settling = False
                if self._items.get(item.id) is item and item.until_ms <= self._now_ms():
                    self._release(item)

        await self._store.write(write, committed=committed, settled=settled)

    def backlogs(self) -> dict[str, Backlog]:
        """Cost: O(functions)."""
        return {
            name: Backlog(len(function.items), function.bytes, next(iter(function.items.values())).created_ms)
            for name, function in self._functions.items()
        }

    def statistics(self) -> Statistics:
        """Cost: O(events)."""
        self._lapse(self._now_ms())
        return Statistics(
            events=len(self._items),
            bytes=self._bytes,
            leased=sum(item.token != 0 for item in self._items.values()),
        )

    # ---- the index -------------------------------------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return int((trio.current_time() + self._offset_s) * 1000)

    def _admit(self, item: _Item | None) -> None:
        if item is not None:
            self._items[item.id] = item
            function = self._functions.setdefault(item.function, _Function())
            function.items[item.id] = item
            size, item.size = item.size, 0
            self._resize(item, size)
            self._release(item)

    def _resize(self, item: _Item, size: int) -> None:
        self._bytes += size - item.size
        self._functions[item.function].bytes += size - item.size
        item.size = size

    def _release(self, item: _Item) -> None:
        """Free to be taken once due."""
        item.token = 0
        item.settling = False
        heapq.heappush(self._waiting, (item.due_ms, item.number, item.id))
        self._wake.set()
        self._wake = trio.Event()

    def _drop(self, event_id: str) -> None:
        item = self._items.pop(event_id, None)
        if item is not None:
            self._resize(item, 0)
            function = self._functions[item.function]
            del function.items[item.id]
            if not function.items:
                del self._functions[item.function]

    def _live(self, lease: Lease) -> _Item:
        item = self._items.get(lease.event.id)
        if item is None or item.token != lease.token or item.settling or item.until_ms <= self._now_ms():
            raise LeaseLost(f"the lease on event {lease.event.id} is over")
        return item

    def _lapse(self, now_ms: int) -> None:
        """Leases that ran out: their events are due at once."""
        while self._leases and self._leases[0][0] <= now_ms:
            _, token, event_id = self._leases.popleft()
            item = self._items.get(event_id)
            # Gone, given back, extended (a later entry watches over it), or about to be given back (retry's end sees to it).
            if item is not None and item.token == token and item.until_ms <= now_ms and not item.settling:
                self._release(item)

    def _grant(self, count: int) -> list[_Item]:
        now_ms = self._now_ms()
        self._lapse(now_ms)
        granted: list[_Item] = []
        while self._waiting and self._waiting[0][0] <= now_ms and len(granted) < count:
            due_ms, _, event_id = heapq.heappop(self._waiting)
            item = self._items.get(event_id)
            if item is None or item.token != 0 or item.due_ms != due_ms:
                continue
            item.token = next(self._tokens)
            item.until_ms = now_ms + limits.EVENT_LEASE_MS
            item.deliveries += 1
            self._leases.append((item.until_ms, item.token, item.id))
            granted.append(item)
        return granted

    async def _read(self, granted: list[_Item]) -> list[Lease]:
        """Fetch what was granted; whatever goes wrong, cancellation included, gives it back."""
        tokens = {item.id: (item.token, item.deliveries) for item in granted}

        def read(db: sqlite3.Connection) -> list[Event]:
            rows = db.execute(
                "SELECT id, function, created_ms, headers, payload FROM events"
                f" WHERE number IN ({', '.join('?' * len(granted))}) ORDER BY due_ms, number",
                [item.number for item in granted],
            )
            return [
                Event(id=event_id, function=function, created_ms=created_ms, headers=json.loads(headers), payload=payload)
                for event_id, function, created_ms, headers, payload in rows
            ]

        try:
            events = await self._store.read(read)
        except BaseException:
            for item in granted:
                if self._items.get(item.id) is item and item.token == tokens[item.id][0]:
                    item.deliveries -= 1
                    self._release(item)
            raise
        return [Lease(event, *tokens[event.id]) for event in events]

    def _next_s(self) -> float:
        """When, by trio's clock, the next event is due or the next lease runs out."""
        moments = [entries[0][0] for entries in (self._waiting, self._leases) if entries]
        return min(moments) / 1000 - self._offset_s + 0.001 if moments else math.inf

    def _has_room(self, size: int) -> bool:
        return (
            len(self._items) + self._promised < self._count_max and self._bytes + self._promised_bytes + size <= self._bytes_max
        )

    def _full(self, size: int) -> QueueFull:
        counted = len(self._items) + self._promised >= self._count_max
        return QueueFull(
            account="node",
            resource="queued_events" if counted else "queued_event_bytes",
            current=len(self._items) + self._promised if counted else self._bytes + self._promised_bytes,
            limit=self._count_max if counted else self._bytes_max,
            retry_after_ms=1000,
        )


def _is_known(db: sqlite3.Connection, event_id: str, now_ms: int) -> bool:
    """Queued still, or put within the last two minutes."""
    return (
        db.execute(
            "SELECT 1 FROM events WHERE id = ? UNION ALL SELECT 1 FROM seen WHERE id = ? AND until_ms > ?",
            (event_id, event_id, now_ms),
        ).fetchone()
        is not None
    )


def _check(event: Event) -> str:
    """The headers as they are stored. Raises BadRequest, TooLarge."""
    if not 1 <= len(event.id) <= ID_CHARS_MAX or not event.id.isprintable():
        raise BadRequest(f"id: {event.id[:80]!r} is not 1 to {ID_CHARS_MAX} printable characters")
    if len(event.payload) > limits.EVENT_BYTES_MAX:
        raise TooLarge(f"payload: has {len(event.payload)} bytes, the limit of an event is {limits.EVENT_BYTES_MAX}")
    return _headers(event.headers)


def _headers(headers: Mapping[str, str]) -> str:
    text = json.dumps(dict(headers), separators=(",", ":"))
    if len(text) > limits.EVENT_HEADER_BYTES_MAX:
        raise TooLarge(f"headers: have {len(text)} bytes, the limit is {limits.EVENT_HEADER_BYTES_MAX}")
    return text
