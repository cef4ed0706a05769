"""What any back-end of the store's ports must pass. A back-end's test module derives these classes and gives the fixtures:

`registry`     an empty port.Registry
`queue`        an empty port.EventQueue that takes 10 events and 10,000 bytes
`reopened`     an async function: everything closed and opened anew, as after a restart; gives the queue
`elapse`       an async function that lets seconds pass
"""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from scheduler import limits
from scheduler.errors import BadRequest, Throttled, TooLarge
from scheduler.store.port import ABSENT, Backlog, ChangeKind, Event, LeaseLost, Put, QueueFull, RevisionConflict


def event(number: int | str, size: int = 10) -> Event:
    return Event(id=f"id-{number}", function="hello", payload=b"p" * size, created_ms=1234, headers={"trace": f"t{number}"})


class RegistryConformance:
    async def test_put_get_delete(self, registry):
        assert await registry.get("a.b") is None
        first = await registry.put("a.b", b"1")
        second = await registry.put("a.b", b"2")
        entry = await registry.get("a.b")
        assert (entry.key, entry.value, entry.revision) == ("a.b", b"2", second)
        third = await registry.delete("a.b")
        assert await registry.get("a.b") is None
        assert 0 < first < second < third
        await registry.delete("a.b")  # what is not there may be deleted

    async def test_compare_and_swap(self, registry):
        with pytest.raises(RevisionConflict) as caught:
            await registry.put("k", b"x", expect=5)
        assert (caught.value.expected, caught.value.current) == (5, 0)
        revision = await registry.put("k", b"1", expect=ABSENT)
        with pytest.raises(RevisionConflict):
            await registry.put("k", b"2", expect=ABSENT)
        with pytest.raises(RevisionConflict):
            await registry.delete("k", expect=revision + 100)
        assert (await registry.get("k")).value == b"1"
        newer = await registry.put("k", b"2", expect=revision)
        await registry.delete("k", expect=newer)
        await registry.put("k", b"3", expect=ABSENT)

    async def test_eight_writers_on_one_key_lose_nothing(self, registry):
        await registry.put("sum", b"0")

        async def add(times: int) -> None:
            for _ in range(times):
                while True:
                    entry = await registry.get("sum")
                    try:
                        await registry.put("sum", str(int(entry.value) + 1).encode(), expect=entry.revision)
                    except RevisionConflict:
                        continue
                    break

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(add, 5)
        assert (await registry.get("sum")).value == b"40"

    async def test_list_by_prefix_and_page(self, registry):
        for key in ("b.2", "a.1", "a.10", "a-1", "a.2", "ab"):
            await registry.put(key, key.encode())
        assert [entry.key for entry in await registry.list("a.")] == ["a.1", "a.10", "a.2"]
        assert [entry.key for entry in await registry.list("a.", limit=2)] == ["a.1", "a.10"]
        assert [entry.key for entry in await registry.list("a.", after="a.10")] == ["a.2"]
        assert len(await registry.list()) == 6
        assert (await registry.list("a.2"))[0].value == b"a.2"

    @pytest.mark.parametrize("key", ["", ".", "a.", ".a", "a..b", "a b", "a/b", "ä", "a\n", "a" * 257])
    async def test_keys_have_an_alphabet(self, registry, key):
        for call in (registry.get(key), registry.put(key, b""), registry.delete(key)):
            with pytest.raises(BadRequest):
                await call

    async def test_values_have_a_size(self, registry):
        largest = bytes(limits.STORE_VALUE_BYTES_MAX)
        await registry.put("k", largest)
        assert (await registry.get("k")).value == largest
        with pytest.raises(TooLarge, match="has 1048577 bytes, the limit is 1048576"):
            await registry.put("k", largest + b"x")

    async def test_watch_tells_what_is_there_then_what_comes(self, registry):
        await registry.put("w.a", b"1")
        await registry.put("x", b"other")
        async with registry.watch("w.") as changes:
            told = [await anext(changes), await anext(changes)]
            assert [(change.kind, change.key, change.value) for change in told] == [
                (ChangeKind.PUT, "w.a", b"1"),
                (ChangeKind.UP_TO_DATE, "", b""),
            ]
            await registry.put("x", b"unseen")
            revision = await registry.put("w.b", b"2")
            change = await anext(changes)
            assert (change.kind, change.key, change.value, change.revision) == (ChangeKind.PUT, "w.b", b"2", revision)
            await registry.delete("w.a")
            change = await anext(changes)
            assert (change.kind, change.key, change.value) == (ChangeKind.DELETE, "w.a", b"")

    async def test_a_slow_watcher_gets_the_last_value_of_each_key(self, registry):
        async with registry.watch() as changes:
            assert (await anext(changes)).kind is ChangeKind.UP_TO_DATE
            for number in range(50):
                await registry.put(f"k{number % 3}", str(number).encode())
            await registry.put("end", b"")
            last: dict[str, bytes] = {}
            count = 0
            async for change in changes:
                last[change.key] = change.value
                count += 1
                if change.key == "end":
                    break
            assert last == {"k0": b"48", "k1": b"49", "k2": b"47", "end": b""}
            assert 4 <= count <= 51

    async def test_a_change_during_the_snapshot_is_not_lost(self, registry):
        for number in range(20):
            await registry.put(f"k{number:02}", b"old")
        seen: dict[str, bytes] = {}

        async def read() -> None:
            async with registry.watch() as changes:
                async for change in changes:
                    seen[change.key] = change.value
                    if change.key == "k19" and change.value == b"new":
                        return

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                for number in range(20):
                    await registry.put(f"k{number:02}", b"new")
        assert all(value == b"new" for key, value in seen.items() if key)

    async def test_read_your_writes(self, registry):
        revision = await registry.put("k", b"1")
        await registry.wait_for(revision)
        assert (await registry.get("k")).revision == revision

    async def test_cancelled_at_any_point_it_still_works(self, registry):
        for seed in range(60):
            chance = random.Random(seed)
            with trio.move_on_after(chance.random() * 0.002):
                async with registry.watch() as changes:
                    await registry.put("k", str(seed).encode())
                    await registry.get("k")
                    async for _ in changes:
                        pass
        await registry.put("k", b"sane")
        assert (await registry.get("k")).value == b"sane"


class EventQueueConformance:
    async def test_put_take_done(self, queue):
        assert await queue.put(event(1)) is Put.STORED
        (lease,) = await queue.take(5, 0)
        assert lease.event == event(1)
        assert lease.event.headers["trace"] == "t1"
        assert lease.deliveries == 1
        assert await queue.take(5, 0) == []
        await queue.done("id-1")
        await queue.done("id-1")
        assert queue.statistics().events == 0

    async def test_roughly_first_in_first_out(self, queue):
        for number in range(6):
            await queue.put(event(number))
        taken = [lease.event.id for lease in await queue.take(4, 0)] + [lease.event.id for lease in await queue.take(4, 0)]
        assert sorted(taken) == [f"id-{number}" for number in range(6)]

    async def test_the_same_id_is_a_duplicate_for_two_minutes_done_or_not(self, queue, elapse):
        assert await queue.put(event(1)) is Put.STORED
        assert await queue.put(event(1)) is Put.DUPLICATE
        await queue.done("id-1")
        assert await queue.put(event(1)) is Put.DUPLICATE
        await elapse(limits.EVENT_DEDUPE_MS / 1000 - 1)
        assert await queue.put(event(1)) is Put.DUPLICATE
        await elapse(2)
        assert await queue.put(event(1)) is Put.STORED

    async def test_full_by_count_and_still_knows_duplicates(self, queue):
        for number in range(10):
            await queue.put(event(number))
        with pytest.raises(QueueFull) as caught:
            await queue.put(event("more"))
        assert isinstance(caught.value, Throttled)
        assert (caught.value.account, caught.value.resource) == ("node", "queued_events")
        assert (caught.value.current, caught.value.limit) == (10, 10)
        assert await queue.put(event(3)) is Put.DUPLICATE
        await queue.done("id-3")
        assert await queue.put(event(3)) is Put.DUPLICATE
        assert await queue.put(event("more")) is Put.STORED

    async def test_full_by_bytes(self, queue):
        await queue.put(event(1, 6000))
        with pytest.raises(QueueFull) as caught:
            await queue.put(event(2, 6000))
        assert (caught.value.resource, caught.value.limit) == ("queued_event_bytes", 10_000)
        assert queue.statistics().events == 1

    async def test_many_puts_at_once_never_overfill(self, queue):
        refused = []

        async def put(number: int) -> None:
            try:
                await queue.put(event(number))
            except QueueFull:
                refused.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(put, number)
        assert (queue.statistics().events, len(refused)) == (10, 20)

    async def test_sizes_and_ids(self, queue):
        with pytest.raises(TooLarge, match="has 1048577 bytes, the limit of an event is 1048576"):
            await queue.put(event(1, limits.EVENT_BYTES_MAX + 1))
        with pytest.raises(TooLarge, match="headers"):
            await queue.put(Event(id="x", function="f", payload=b"", created_ms=0, headers={"h": "x" * 70_000}))
        for bad in ("", "x" * 129, "a\n"):
            with pytest.raises(BadRequest):
                await queue.put(Event(id=bad, function="f", payload=b"", created_ms=0))

    async def test_a_taker_waits_for_the_first(self, queue):
        got = []

        async def take() -> None:
            got.extend(lease.event.id for lease in await queue.take(3, 60))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(take)
                await wait_all_tasks_blocked()
                await queue.put(event(1))
        assert got == ["id-1"]

    async def test_of_two_takers_one_gets_it(self, queue, elapse):
        got = []

        async def take() -> None:
            got.append(len(await queue.take(3, 5)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            await queue.put(event(1))
            await wait_all_tasks_blocked()
            await elapse(6)
        assert sorted(got) == [0, 1]

    async def test_a_taker_gives_up_in_time(self, queue, elapse):
        done = trio.Event()

        async def take() -> None:
            assert await queue.take(1, 5) == []
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            await elapse(4)
            await wait_all_tasks_blocked()
            assert not done.is_set()
            await elapse(2)
            await done.wait()

    async def test_a_taker_wakes_when_a_delay_ends(self, queue, elapse):
        await queue.put(event(1))
        (lease,) = await queue.take(1, 0)
        await queue.retry(lease, 10)
        got = []

        async def take() -> None:
            got.extend(await queue.take(1, 100))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            await elapse(8)
            await wait_all_tasks_blocked()
            assert got == []
            await elapse(3)
        assert [lease.event.id for lease in got] == ["id-1"]

    async def test_given_back_with_other_headers(self, queue, elapse):
        await queue.put(event(1))
        (lease,) = await queue.take(1, 0)
        await queue.retry(lease, 10, headers={"tried": "1"})
        with pytest.raises(LeaseLost):
            await queue.retry(lease, 10, headers={"tried": "2"})
        await elapse(11)
        (lease,) = await queue.take(1, 0)
        assert lease.event.headers == {"tried": "1"}
        assert (lease.event.payload, lease.deliveries) == (event(1).payload, 2)
        with pytest.raises(TooLarge, match="headers"):
            await queue.retry(lease, 10, headers={"h": "x" * 70_000})
        await queue.retry(lease, 10)
        await elapse(11)
        (lease,) = await queue.take(1, 0)
        assert lease.event.headers == {"tried": "1"}, "as they were, where none are given"

    async def test_backlogs_by_function(self, queue, elapse):
        for number, function in enumerate(("f", "g", "f")):
            await queue.put(Event(id=f"id-{number}", function=function, payload=b"abc", created_ms=1000 + number))
        size = queue.statistics().bytes // 3
        assert queue.backlogs() == {"f": Backlog(2, 2 * size, 1000), "g": Backlog(1, size, 1001)}
        (lease,) = await queue.take(1, 0)
        assert lease.event.id == "id-0"
        assert queue.backlogs()["f"].events == 2, "in a taker's hands it is not done"
        await queue.retry(lease, 10, headers={"longer": "header"})
        assert queue.backlogs()["f"].bytes > 2 * size
        assert queue.statistics().bytes == sum(b.bytes for b in queue.backlogs().values())
        await queue.done("id-0")
        await queue.done("id-1")
        assert queue.backlogs() == {"f": Backlog(1, size, 1002)}
        assert queue.statistics().bytes == size

    async def test_a_lease_that_lapses_is_delivered_again(self, queue, elapse):
        await queue.put(event(1))
        (first,) = await queue.take(1, 0)
        await elapse(limits.EVENT_LEASE_MS / 1000 - 1)
        assert await queue.take(1, 0) == []
        await elapse(2)
        (second,) = await queue.take(1, 0)
        assert (second.event, second.deliveries) == (first.event, 2)
        with pytest.raises(LeaseLost):
            queue.extend(first)
        with pytest.raises(LeaseLost):
            await queue.retry(first, 0)
        queue.extend(second)

    async def test_a_lapsed_lease_is_lost_though_nobody_took_the_event(self, queue, elapse):
        await queue.put(event(1))
        (lease,) = await queue.take(1, 0)
        await elapse(limits.EVENT_LEASE_MS / 1000 + 1)
        with pytest.raises(LeaseLost):
            queue.extend(lease)
        with pytest.raises(LeaseLost):
            await queue.retry(lease, 0)

    async def test_a_lease_can_be_extended(self, queue, elapse):
        await queue.put(event(1))
        (lease,) = await queue.take(1, 0)
        for _ in range(5):
            await elapse(20)
            queue.extend(lease)
        await elapse(25)
        assert await queue.take(1, 0) == []
        await elapse(6)
        assert len(await queue.take(1, 0)) == 1

    async def test_a_late_done_counts(self, queue, elapse):
        await queue.put(event(1))
        await queue.take(1, 0)
        await elapse(31)
        await queue.done("id-1")
        assert await queue.take(1, 0) == []

    async def test_retry_waits_and_is_never_early(self, queue, elapse):
        await queue.put(event(1))
        (lease,) = await queue.take(1, 0)
        await queue.retry(lease, 60)
        with pytest.raises(LeaseLost):
            await queue.retry(lease, 0)
        await elapse(58.9)
        assert await queue.take(1, 0) == []
        await elapse(1.2)
        (again,) = await queue.take(1, 0)
        assert again.deliveries == 2

    async def test_retry_at_once(self, queue):
        await queue.put(event(1))
        (lease,) = await queue.take(1, 0)
        await queue.retry(lease, 0)
        (again,) = await queue.take(1, 0)
        assert again.deliveries == 2

    async def test_a_delay_is_not_negative(self, queue):
        await queue.put(event(1))
        (lease,) = await queue.take(1, 0)
        with pytest.raises(ValueError, match="delay_s"):
            await queue.retry(lease, -1)
        queue.extend(lease)  # still held

    async def test_delayed_events_do_not_hold_up_others(self, queue):
        for number in range(9):
            await queue.put(event(number))
        for lease in await queue.take(9, 0):
            await queue.retry(lease, 300)
        await queue.put(event("now"))
        (lease,) = await queue.take(5, 0)
        assert lease.event.id == "id-now"

    async def test_everything_is_there_after_a_restart(self, queue, reopened, elapse):
        for number in range(4):
            await queue.put(event(number))
        leases = await queue.take(3, 0)
        await queue.done(leases[0].event.id)
        await queue.retry(leases[1], 300)
        queue = await reopened()
        again = await queue.take(10, 0)
        assert {lease.event.id for lease in again} == {lease.event.id for lease in leases[2:]} | {"id-3"}
        assert await queue.put(event(0)) is Put.DUPLICATE
        for lease in again:
            await queue.done(lease.event.id)
        await elapse(301)
        (delayed,) = await queue.take(10, 0)
        assert (delayed.event, delayed.deliveries) == (leases[1].event, 2)

    async def test_a_delay_over_a_restart_is_not_early(self, queue, reopened, elapse):
        await queue.put(event(1))
        (lease,) = await queue.take(1, 0)
        await queue.retry(lease, 60)
        await elapse(30)
        queue = await reopened()
        await elapse(28.9)
        assert await queue.take(1, 0) == []
        await elapse(2)
        assert len(await queue.take(1, 0)) == 1

    async def test_cancelled_at_any_point_nothing_is_lost(self, queue, reopened):
        stored = set()
        for seed in range(60):
            chance = random.Random(seed)
            with trio.move_on_after(chance.random() * 0.003):
                if await queue.put(event(f"{seed % 7}")) is Put.STORED:
                    stored.add(f"id-{seed % 7}")
                for lease in await queue.take(3, 1):
                    await queue.retry(lease, 0)
        # A put that was cancelled may have happened; one that returned has, and no lease outlives the restart.
        assert queue.statistics().events >= len(stored) > 0
        queue = await reopened()
        assert stored <= {lease.event.id for lease in await queue.take(10, 0)}
        for event_id in {f"id-{number}" for number in range(7)}:
            await queue.done(event_id)
        assert (queue.statistics().events, queue.statistics().bytes) == (0, 0)
        await queue.put(event("sane"))
        assert [lease.event.id for lease in await queue.take(10, 0)] == ["id-sane"]
