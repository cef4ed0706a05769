"""The store of secrets: versions, stages, times, and writes that fail."""

from __future__ import annotations

import pytest

from scheduler import limits
from scheduler.errors import Unavailable
from scheduler.functions.names import Identity
from scheduler.keyring import Keyring
from scheduler.keys.embedded import EmbeddedKeys
from scheduler.keys.envelopes import Envelopes
from scheduler.secrets.store import CURRENT, DAY_S, PREVIOUS, Refusal, Secrets, Value
from tests.functions.test_registry import Memory
from tests.keys.test_masters import Clock


@pytest.fixture
def envelopes(tmp_path):
    return Envelopes(EmbeddedKeys(Keyring.open(tmp_path / "keyring.json")))


@pytest.fixture
def store():
    return Memory()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def secrets(store, envelopes, clock):
    return await Secrets.load(store, envelopes, Identity().of_service, clock)


async def again(store, envelopes, clock):
    return await Secrets.load(store, envelopes, Identity().of_service, clock)


async def test_a_restart_changes_nothing_and_values_are_nowhere_in_the_clear(secrets, store, envelopes, clock):
    await secrets.create("acme", "a/b", Value(text="planted one"), description="what for", tags={"k": "v"})
    await secrets.put("a/b", "acme", Value(binary=b"planted two"))
    assert not any(b"planted" in entry.value for entry in store.entries.values())
    later = await again(store, envelopes, clock)
    assert later.all("acme") == secrets.all("acme")
    assert (await later.value("a/b", "acme", stage=PREVIOUS))[2] == Value(text="planted one")
    assert (await later.value("a/b", "acme"))[2] == Value(binary=b"planted two")
    assert "planted" not in repr(Value(text="planted"))


async def test_a_version_that_was_not_named_before_the_crash_is_swept(secrets, store, envelopes, clock):
    await secrets.create("default", "a", Value(text="one"))
    store.fail = ["", "before"]  # the value is written, the name is not
    with pytest.raises(Unavailable):
        await secrets.put("a", "default", Value(text="two"))
    assert len([key for key in store.entries if key.startswith("sv.")]) == 2
    assert (await secrets.value("a", "default"))[2] == Value(text="one")
    later = await again(store, envelopes, clock)
    assert len([key for key in store.entries if key.startswith("sv.")]) == 1
    assert (await later.value("a", "default"))[2] == Value(text="one")


async def test_a_write_whose_end_is_unknown_is_read_again(secrets, store):
    await secrets.create("default", "a", Value(text="one"))
    store.fail = ["", "after"]
    with pytest.raises(Unavailable):
        await secrets.put("a", "default", Value(text="two"))
    assert (await secrets.value("a", "default"))[2] == Value(text="two")


async def test_what_is_removed_is_gone_when_its_time_is_over(secrets, store, clock):
    await secrets.create("default", "a", Value(text="one"))
    await secrets.delete("a", "default", days=7)
    with pytest.raises(Refusal, match="marked for deletion"):
        await secrets.value("a", "default")
    with pytest.raises(Refusal, match="scheduled for deletion"):
        await secrets.create("default", "a", Value(text="one"))
    assert await secrets.collect() == 0
    clock.now_s += 7 * DAY_S
    assert await secrets.collect() == 1
    assert store.entries == {}
    await secrets.create("default", "a", Value(text="two"))


async def test_one_secrets_value_is_not_anothers(secrets, store):
    """Whoever can write to the store cannot have one function read what is another's."""
    one = await secrets.create("default", "one", Value(text="one"))
    two = await secrets.create("acme", "two", Value(text="two"))
    (mine,) = (key for key in store.entries if key.startswith(f"sv.{one.id}"))
    (theirs,) = (key for key in store.entries if key.startswith(f"sv.{two.id}"))
    await store.put(mine, store.entries[theirs].value)
    with pytest.raises(Refusal) as caught:
        await secrets.value("one", "default")
    assert caught.value.name == "DecryptionFailure"


async def test_versions_without_a_stage_go_first_and_those_with_one_never(secrets, store):
    await secrets.create("default", "a", Value(text="0"))
    for number in range(1, limits.SECRET_VERSIONS_MAX + 5):
        stages = [CURRENT, f"kept{number}"] if number < 4 else [CURRENT]
        secret, _ = await secrets.put("a", "default", Value(text=str(number)), stages=stages)
    assert len(secret.versions) == limits.SECRET_VERSIONS_MAX
    assert len([key for key in store.entries if key.startswith("sv.")]) == limits.SECRET_VERSIONS_MAX
    assert (await secrets.value("a", "default", stage="kept1"))[2] == Value(text="1")
    assert secret.last == limits.SECRET_VERSIONS_MAX + 5

    async def fill():
        for number in range(limits.SECRET_VERSIONS_MAX):
            await secrets.put("a", "default", Value(text="y"), stages=[f"last{number}"])

    with pytest.raises(Refusal, match="versions with stages"):
        await fill()


async def test_there_are_not_too_many(secrets, monkeypatch):
    monkeypatch.setattr(limits, "SECRETS_MAX", 1)
    await secrets.create("default", "a", Value(text="x"))
    with pytest.raises(Refusal, match="1 secrets"):
        await secrets.create("default", "b", Value(text="x"))
