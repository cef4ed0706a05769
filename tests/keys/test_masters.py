"""Master keys: what they seal, their times, what is hostile, and writes that fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler import limits
from scheduler.errors import Unavailable
from scheduler.functions.names import Identity
from scheduler.keyring import Keyring
from scheduler.keys.embedded import EmbeddedKeys
from scheduler.keys.envelopes import Envelopes
from scheduler.keys.masters import DAY_S, MAGIC, KmsRefusal, MasterKeys, MasterSource, State
from scheduler.keys.port import KeyProblem
from tests.functions.test_registry import Memory

CONTEXT = {"LambdaFunctionName": "hello"}


class Clock:
    now_s = 1_800_000_000.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def envelopes(tmp_path):
    return Envelopes(EmbeddedKeys(Keyring.open(tmp_path / "keyring.json")))


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store():
    return Memory()


@pytest.fixture
async def masters(store, envelopes, clock):
    return await MasterKeys.load(store, envelopes, Identity().of_service, clock)


async def test_what_is_deleted_is_gone_when_its_time_is_over(masters, store, envelopes, clock):
    key = await masters.create("default", "a", ("alias/a",))
    sealed = masters.encrypt(key, b"text", CONTEXT)
    await masters.schedule_deletion("alias/a", "default", 7)
    assert await masters.collect() == 0
    clock.now_s += 7 * DAY_S
    with pytest.raises(KmsRefusal, match="does not exist"):
        masters.find(key.id, "default")
    assert await masters.collect() == 1
    assert store.entries == {}
    again = await MasterKeys.load(store, envelopes, Identity().of_service, clock)
    with pytest.raises(KmsRefusal) as caught:
        again.decrypt(sealed, CONTEXT, tenant="default")
    assert caught.value.name == "InvalidCiphertextException"
    await again.create("default", "b", ("alias/a",))


async def test_all_of_it_is_there_after_a_restart_and_material_is_nowhere_in_the_clear(masters, store, envelopes, clock):
    key = await masters.create("acme", "what it is for", ("alias/a", "alias/b"))
    first = masters.encrypt(key, b"text", CONTEXT)
    await masters.rotate(key.id, "acme")
    await masters.set_enabled(key.id, "acme", False)
    (entry,) = store.entries.values()
    held = masters.of("acme")[0]
    for material in held.material:
        assert material.hex().encode() not in entry.value
        assert material not in entry.value
    again = (await MasterKeys.load(store, envelopes, Identity().of_service, clock)).of("acme")
    assert again == masters.of("acme")
    assert (again[0].state, again[0].aliases, len(again[0].material)) == (State.DISABLED, ("alias/a", "alias/b"), 2)
    assert "material" not in repr(again[0])
    await masters.set_enabled(key.id, "acme", True)
    assert masters.decrypt(first, CONTEXT, tenant="acme")[1] == b"text"


async def test_a_write_that_fails_changes_nothing_that_is_not_stored(masters, store):
    key = await masters.create("default")
    for how, state in (("before", State.ENABLED), ("after", State.DISABLED)):
        store.fail = [how]
        with pytest.raises(Unavailable):
            await masters.set_enabled(key.id, "default", False)
        assert masters.find(key.id, "default").state is state


async def test_there_are_not_too_many(masters, monkeypatch):
    monkeypatch.setattr(limits, "MASTER_KEYS_MAX", 2)
    monkeypatch.setattr(limits, "MASTER_KEY_GENERATIONS_MAX", 2)
    key = await masters.create("a")
    await masters.create("b")
    with pytest.raises(KmsRefusal, match="2 keys"):
        await masters.create("a")
    await masters.rotate(key.id, "a")
    with pytest.raises(KmsRefusal, match="2 generations"):
        await masters.rotate(key.id, "a")


async def test_a_value_that_cannot_be_understood_stops_the_start(masters, store, envelopes):
    key = await masters.create("default")
    await store.put(f"mk.{key.id}", b"{}")
    with pytest.raises(Unavailable, match="cannot be read"):
        await MasterKeys.load(store, envelopes, Identity().of_service)


async def test_one_keys_value_is_not_anothers(masters, store, envelopes):
    """Whoever can write to the store cannot pass one key off as another."""
    one, other = await masters.create("a"), await masters.create("b")
    await store.put(f"mk.{one.id}", store.entries[f"mk.{other.id}"].value)
    again = await MasterKeys.load(store, envelopes, Identity().of_service)
    assert list(again.locked) == [one.id]
    assert [key.id for key in again.of("b")] == [other.id]


@given(st.binary(max_size=200), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
def test_no_bytes_but_its_own_open(blob, context):
    masters = MasterKeys(Memory(), None, Identity().of_service)
    for hostile in (blob, MAGIC + blob):
        with pytest.raises(KmsRefusal) as caught:
            masters.decrypt(hostile, context, tenant="default")
        assert caught.value.name == "InvalidCiphertextException"


@given(st.text(max_size=80))
def test_no_wrapped_text_breaks_a_source(text):
    masters = MasterSource(MasterKeys(Memory(), None, Identity().of_service))
    for hostile in (text, f"mk.{text}", f"mk.{text}.{text}"):
        with pytest.raises(KeyProblem):
            masters.unwrap_now(hostile, CONTEXT)
