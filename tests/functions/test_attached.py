"""What is attached to functions, when several change it at once and the store fails in the middle."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from scheduler.config import load
from scheduler.errors import Unavailable
from scheduler.functions.attached import Attachments, Policy
from scheduler.functions.layers import Layers
from scheduler.functions.registry import FunctionRegistry
from tests.functions.test_registry import HELLO, RUNTIMES, SEALS, Memory, code


async def add_tag(attachments, key):
    async with attachments.change("hello") as change:
        change.now = replace(change.now, tags={**change.now.tags, key: ""})


async def test_changes_meet_round_a_removal_and_none_is_lost():
    """Whoever waits while the function is forgotten, and whoever comes after, still take turns."""
    attachments = await Attachments.load(Memory())
    await add_tag(attachments, "before")
    async with trio.open_nursery() as nursery:
        for step in range(20):
            nursery.start_soon(add_tag, attachments, f"a{step}")
            if step in (0, 3):
                nursery.start_soon(attachments.forget, "hello")
            await trio.lowlevel.checkpoint()
    assert {f"a{step}" for step in range(10, 20)} <= set(attachments.of("hello").tags)
    assert not attachments._turns, "turns are left behind"


async def test_a_new_function_has_nothing_of_one_whose_removal_was_not_finished():
    """Its policies and URLs would let others in; it may be another tenant's by now."""
    store = Memory()
    registry = await FunctionRegistry.load(store, load(), runtimes=RUNTIMES, seals=SEALS)
    await registry.create(HELLO, code())
    async with registry.attachments.change("hello") as change:
        change.now = replace(change.now, policies={"$LATEST": Policy({"s": {"Effect": "Allow"}})})
    store.fail = ["", "before"]  # the function goes, what is attached to it does not
    await registry.remove("hello")
    assert "hello" not in registry
    await registry.create(HELLO, code(2))
    assert not registry.attachments.of("hello").policies
    again = await FunctionRegistry.load(store, load(), runtimes=RUNTIMES, seals=SEALS)
    assert not again.attachments.of("hello").policies


async def test_a_new_function_is_not_made_while_what_was_attached_cannot_go():
    store = Memory()
    registry = await FunctionRegistry.load(store, load(), runtimes=RUNTIMES, seals=SEALS)
    await registry.create(HELLO, code())
    await add_tag(registry.attachments, "old")
    store.fail = ["", "before", "before"]
    await registry.remove("hello")
    with pytest.raises(Unavailable):
        await registry.create(HELLO, code())
    assert "hello" not in registry


async def test_statements_that_are_added_to_a_layer_at_once_are_all_there():
    layers = await Layers.load(Memory())
    made = await layers.publish("common", code(), tenant="a", created="")

    def adder(key):
        return lambda now: Policy({**(now.policy.statements if now.policy else {}), key: {"Sid": key}})

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(layers.change, "common", made.version, "a", adder(f"s{number}"))
    assert len(layers.get("common", made.version).policy.statements) == 5
