"""Provisioned concurrency: what may be asked for, what holds when, how it is counted, and that it survives."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from scheduler.errors import BadRequest, NotFound
from scheduler.functions.attached import Alias, Attached, decode, encode
from scheduler.functions.provisioned import Provisioned, Window, check_place, floors, read, total
from tests.functions.test_registry import HELLO, code, memory, open_registry, registry  # noqa: F401 - fixtures

WORKDAYS = {"cron": "0 8 * * mon-fri", "minutes": 600, "count": 5, "zone": "Europe/Berlin"}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("count", "windows", "problem"),
    [
        (-1, [], "provisioned: -1 is no whole number of 0 to 10000"),
        (10_001, [], "provisioned: 10001 is no whole number"),
        (True, [], "provisioned: True is no whole number"),
        ("3", [], "provisioned: '3' is no whole number"),
        (0, [], "provisions nothing"),
        (1, "x", "windows: must be an array of at most 16"),
        (1, [WORKDAYS] * 17, "windows: must be an array of at most 16"),
        (1, [{"cron": "0 8 * * *"}], r"windows\[0\]: must be a map of cron, minutes, count"),
        (1, [{**WORKDAYS, "more": 1}], r"windows\[0\]: must be a map"),
        (1, [{**WORKDAYS, "minutes": 0}], r"windows\[0\].minutes: 0 is no whole number of 1 to 10080"),
        (1, [WORKDAYS, {**WORKDAYS, "count": None}], r"windows\[1\].count: None is no whole number"),
        (1, [{**WORKDAYS, "cron": "61 8 * * *"}], r"windows\[0\].cron: '61 8 \* \* \*'"),
        (1, [{**WORKDAYS, "cron": "* * * * * *"}], "has no five fields"),
        (1, [{**WORKDAYS, "cron": "@daily"}], "has no five fields"),
        (1, [{**WORKDAYS, "cron": 5}], "must be text"),
        (1, [{**WORKDAYS, "zone": "Mars/Base"}], r"windows\[0\].zone: 'Mars/Base' is no time zone"),
        (1, [{**WORKDAYS, "zone": "../../etc/passwd"}], "is no time zone"),
        (1, [{**WORKDAYS, "zone": 7}], "is no time zone"),
    ],
)
def test_what_is_wrong_is_named(count: object, windows: object, problem: str) -> None:
    with pytest.raises(BadRequest, match=problem):
        read(count, windows, 0.0)


@pytest.mark.parametrize(
    ("now", "count"),
    [
        ("2026-11-24T06:59:59", 1),  # Tuesday, 07:59:59 in Berlin
        ("2026-11-24T07:00:00", 5),
        ("2026-11-24T16:59:59", 5),
        ("2026-11-24T17:00:00", 1),
        ("2026-11-28T09:00:00", 1),  # Saturday
        ("2026-07-01T06:00:00", 5),  # in summer eight comes an hour earlier
        ("2026-07-01T05:59:00", 1),
    ],
)
def test_a_window_opens_and_closes_in_its_own_zone(now: str, count: int) -> None:
    assert read(1, [WORKDAYS], 0.0).now(at(now)) == count


def test_of_several_open_windows_the_greatest_count_holds_and_one_may_be_lower_than_the_rest() -> None:
    night = Window("0 22 * * *", 480, 0)
    rush = Window("0 7 * * *", 60, 9)
    early = Window("30 6 * * *", 60, 4)
    config = Provisioned(2, (night, rush, early))
    hours = {"12:00": 2, "23:00": 0, "05:59": 0, "06:29": 2, "06:45": 4, "07:10": 9, "07:45": 9, "08:00": 2}
    assert {hour: config.now(at(f"2026-03-04T{hour}:00")) for hour in hours} == hours
    assert config.most == 9


def test_an_alias_shares_its_count_between_its_versions() -> None:
    attached = Attached(
        aliases={"live": Alias("2", weights={"3": 0.25})},
        provisioned={"live": Provisioned(5), "1": Provisioned(2), "$LATEST": Provisioned(1), "9": Provisioned(4)},
    )
    made = floors(attached, ["1", "2", "3"], at("2026-01-01T00:00:00"))
    assert made == {"2": 4, "3": 2, "1": 2, "$LATEST": 1}, "shares are rounded up; a version that is gone has none"
    assert total(attached) == 12
    assert total(attached, without="live") == 7


def test_an_alias_and_its_version_cannot_both_have_it() -> None:
    attached = Attached(aliases={"live": Alias("2")}, provisioned={"2": Provisioned(1)})
    with pytest.raises(BadRequest, match="Alias can't be used for Provisioned Concurrency configuration on an already"):
        check_place(attached, "live")
    check_place(attached, "2")
    check_place(attached, "3")


def test_it_is_kept_as_it_was_given() -> None:
    attached = Attached(provisioned={"$LATEST": read(1, [WORKDAYS], 12.5), "2": Provisioned(3)})
    assert decode("fa.x", encode(attached)) == attached


# ---- limits ------------------------------------------------------------------------------------------------------------------


async def test_it_comes_out_of_the_unreserved_pool_which_keeps_its_minimum(registry) -> None:  # noqa: F811
    await registry.deploy({**HELLO, "name": "a", "reserved_concurrency": 500}, code())
    await registry.deploy({**HELLO, "name": "b"}, code(), publish=True)
    await registry.provision("b", "$LATEST", Provisioned(300))
    assert registry.claimed_concurrency() == 800
    await registry.provision("b", "1", Provisioned(100))
    with pytest.raises(BadRequest, match="provisioned: 401 would leave 99 of 1000"):
        await registry.provision("b", "1", Provisioned(101))
    with pytest.raises(BadRequest, match="would leave 99 of 1000"):
        await registry.provision("b", "1", read(1, [{**WORKDAYS, "count": 101}], 0.0))
    with pytest.raises(BadRequest, match="reserved_concurrency: 501 would leave 99"):
        await registry.update("a", {"reserved_concurrency": 501})
    assert registry.floors("b") == {"$LATEST": 300, "1": 100}


async def test_it_is_within_what_is_reserved(registry) -> None:  # noqa: F811
    await registry.deploy({**HELLO, "reserved_concurrency": 4}, code(), publish=True)
    await registry.provision("hello", "$LATEST", Provisioned(3))
    with pytest.raises(BadRequest, match="should not be greater than the reservedConcurrentExecution for function: 5 would be"):
        await registry.provision("hello", "1", Provisioned(2))
    await registry.provision("hello", "1", Provisioned(1))
    with pytest.raises(BadRequest, match=r"should not be lower than function's total provisioned concurrency \[4\]"):
        await registry.update("hello", {"reserved_concurrency": 3})
    assert registry.claimed_concurrency() == 4
    await registry.update("hello", {"reserved_concurrency": None})
    assert registry.claimed_concurrency() == 4, "now out of the pool"


async def test_it_goes_with_its_version_and_its_function(registry) -> None:  # noqa: F811
    await registry.deploy(HELLO, code(), publish=True)
    await registry.provision("hello", "1", Provisioned(3))
    await registry.remove("hello", "1")
    assert registry.attachments.of("hello").provisioned == {}
    with pytest.raises(NotFound):
        await registry.provision("hello", "1", Provisioned(3))
    with pytest.raises(NotFound, match="No Provisioned Concurrency Config found"):
        await registry.provision("hello", "$LATEST", None)
    await registry.provision("hello", "$LATEST", Provisioned(3))
    await registry.provision("hello", "$LATEST", None)
    assert registry.floors("hello") == {}
