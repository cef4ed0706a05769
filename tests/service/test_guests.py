"""Tenant ids that come, stay and go; the real catalog says what the engine is told."""

from __future__ import annotations

import dataclasses
from array import array

import pytest

from scheduler.catalog import Catalog, CatalogFull
from scheduler.errors import BadRequest
from scheduler.guests import IDLE_SWEEPS, Guests, _both, check_guest
from scheduler.messages import CommandKind, FunctionPut, FunctionRemove, FunctionSwitch, Histogram
from tests.service.test_catalog import cores, settings_with, spec, version


class World:
    def __init__(self, **changes):
        self.catalog = Catalog(settings_with(**changes))
        self.catalog.put(spec(tenancy="PER_TENANT"))
        self.busy = set()
        self.posted = []
        self.guests = Guests(
            registry=None, catalog=self.catalog, post=self.post, alive=lambda handle: handle in self.busy, ask=None
        )

    async def post(self, *commands):
        self.posted += commands

    def handles(self):
        return {guest: handle for _, _, guest, handle in self.catalog.guests()}

    def take(self):
        posted, self.posted = self.posted, []
        return posted


def test_each_has_a_function_of_its_own_in_the_engine_and_a_deployment_reaches_it():
    world = World()
    made = world.catalog.admit("f", "$LATEST", "acme")
    (put,) = cores(made, FunctionPut)
    assert put.handle == world.handles()["acme"] != world.catalog.handle("f")
    assert world.catalog.base(put.handle) == world.catalog.handle("f")
    named = {tuple(c.blob.split(b"\0")) for c in made if c.kind is CommandKind.NAME_PUT}
    assert (b"f", b"", b"acme") in named
    assert all(parts[-1] == b"acme" for parts in named)
    assert world.catalog.admit("f", "$LATEST", "acme") == [], "it is there"
    again = world.catalog.put(spec(revision=2, tenancy="PER_TENANT"))
    assert {switch.handle for switch in cores(again, FunctionSwitch)} == {world.catalog.handle("f"), put.handle}
    gone = {removed.handle for removed in cores(world.catalog.remove("f"), FunctionRemove)}
    assert put.handle in gone
    assert world.catalog.freed(put.handle) == [], "numbers are used again once all of the function's have gone"
    assert world.handles() == {}


def test_there_is_an_end_to_them():
    world = World(isolated_tenants_max=2)
    world.catalog.admit("f", "$LATEST", "one")
    world.catalog.admit("f", "$LATEST", "two")
    with pytest.raises(CatalogFull, match="isolated_tenants_max is 2"):
        world.catalog.admit("f", "$LATEST", "three")
    gone = world.handles()["one"]
    world.catalog.dismiss("f", "$LATEST", "one")
    with pytest.raises(CatalogFull):
        world.catalog.admit("f", "$LATEST", "three")
    world.catalog.freed(gone)  # only now has the core let it go
    world.catalog.admit("f", "$LATEST", "three")


def test_no_owner_takes_all_of_them_from_the_others():
    world = World(isolated_tenants_max=4)
    world.catalog.put(spec("other", tenancy="PER_TENANT", tenant="other"))
    for guest in ("one", "two", "three"):
        world.catalog.admit("f", "$LATEST", guest)
    with pytest.raises(CatalogFull, match="3 tenant ids of tenant default"):
        world.catalog.admit("f", "$LATEST", "four")
    world.catalog.admit("other", "$LATEST", "one")


async def test_who_is_idle_makes_room_for_who_comes():
    world = World(isolated_tenants_max=2)
    latest = spec(tenancy="PER_TENANT").latest
    await world.guests._admit(latest, "one")
    await world.guests._admit(latest, "two")
    handles = world.handles()
    world.busy.add(handles["two"])
    world.take()
    with pytest.raises(CatalogFull):
        await world.guests._admit(latest, "three")
    assert world.take() == [], "each may have been called just now"
    await world.guests.sweep()
    with pytest.raises(CatalogFull) as caught:
        await world.guests._admit(latest, "three")
    assert caught.value.retry_after_ms == 1_000
    assert [removed.handle for removed in cores(world.take(), FunctionRemove)] == [handles["one"]]
    world.catalog.freed(handles["one"])
    await world.guests._admit(latest, "three")
    assert set(world.handles()) == {"two", "three"}


async def test_an_idle_one_loses_its_names_first_and_then_itself():
    world = World()
    world.catalog.admit("f", "$LATEST", "acme")
    handle = world.handles()["acme"]
    world.busy.add(handle)
    for _ in range(2 * IDLE_SWEEPS):
        await world.guests.sweep()
    assert world.take() == [], "it has a sandbox"
    world.busy.clear()
    for _ in range(IDLE_SWEEPS - 1):
        await world.guests.sweep()
    assert world.take() == []
    await world.guests.sweep()
    assert {c.kind for c in world.take()} == {CommandKind.NAME_REMOVE}
    await world.guests.sweep()
    assert [removed.handle for removed in cores(world.take(), FunctionRemove)] == [handle]
    assert world.handles() == {}


async def test_one_that_is_called_while_it_is_about_to_go_stays():
    world = World()
    world.catalog.admit("f", "$LATEST", "acme")
    for _ in range(IDLE_SWEEPS):
        await world.guests.sweep()
    world.take()
    world.busy.add(world.handles()["acme"])  # a call came just before its names went
    await world.guests.sweep()
    assert {c.kind for c in world.take()} == {CommandKind.NAME_PUT}
    await world.guests.sweep()
    assert world.take() == []


@pytest.mark.parametrize(
    ("tenancy", "guest", "good"),
    [("PER_TENANT", "a.b_c:/=+-@ d", True), ("NONE", None, True), ("NONE", "acme", False), ("PER_TENANT", None, False),
     ("PER_TENANT", "", False), ("PER_TENANT", "x" * 257, False), ("PER_TENANT", "a\nb", False), ("PER_TENANT", 7, False)],
)  # fmt: skip
def test_who_is_one(tenancy, guest, good):
    function = version(tenancy=tenancy)
    if good:
        check_guest(function, guest)
        return
    with pytest.raises(BadRequest):
        check_guest(function, guest)


def test_figures_are_summed_or_the_highest():
    one = Histogram(2, 10, memoryview(array("Q", [1, 1, 0])))
    other = Histogram(1, 7, memoryview(array("Q", [0, 0, 1])))
    both = _both("queue", one, other)
    assert (both.count, both.sum_ns, list(both.buckets)) == (3, 17, [1, 1, 1])
    assert _both("outcomes", (1, 2), (3, 4)) == (4, 6)
    assert (_both("cpu_ns", 3, 4), _both("oldest_ns", 3, 4), _both("revision", 3, 4)) == (7, 4, 3)
    assert dataclasses.is_dataclass(one)
