"""Environments at rest: sealed, bound to their function, and sealed anew where they were not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.errors import Unavailable
from scheduler.functions.sealed import Seals, is_sealed
from scheduler.keyring import Keyring, KeyringBroken, Unsealable
from tests.functions.sealing import SEALS


@pytest.fixture
def keyring(tmp_path):
    return Keyring.open(tmp_path / "keyring.json")


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_what_is_sealed_opens(environment):
    stored = json.loads(json.dumps(SEALS.seal(environment, "hello")))
    assert is_sealed(stored)
    assert SEALS.open(stored, "hello") == environment


def test_a_seal_is_of_one_function_and_one_keyring(tmp_path):
    stored = SEALS.seal({"A": "b"}, "hello")
    with pytest.raises(Unavailable, match="does not open"):
        SEALS.open(stored, "other")
    with pytest.raises(Unavailable, match="does not open"):
        Seals(Keyring.open(tmp_path / "other.json")).open(stored, "hello")
    for key in ("sealed", "under"):
        damaged = dict(stored)
        damaged[key] = damaged[key][:-6] + ("A" if damaged[key][-6] != "A" else "B") + damaged[key][-5:]
        with pytest.raises(Unavailable):
            SEALS.open(damaged, "hello")


def test_the_same_is_never_sealed_alike():
    assert SEALS.seal({"A": "b"}, "hello")["sealed"] != SEALS.seal({"A": "b"}, "hello")["sealed"]


def test_what_was_stored_plain_is_read():
    assert SEALS.open({"A": "b"}, "hello") == {"A": "b"}
    assert not is_sealed({"A": "b"})
    assert SEALS.open({}, "hello") == {}


def test_a_rotated_keyring_opens_what_it_sealed_before(keyring, tmp_path):
    old = keyring.seal(b"text", {"a": "b"})
    first = keyring.current
    assert keyring.rotate() != first
    assert keyring.unseal(old, {"a": "b"}) == b"text"
    again = Keyring.open(tmp_path / "keyring.json")
    assert again.unseal(old, {"a": "b"}) == b"text"
    assert again.current == keyring.current
    with pytest.raises(Unsealable):
        keyring.unseal(old, {"a": "c"})
    with pytest.raises(Unsealable):
        keyring.unseal("v1.none.AAAA", {"a": "b"})


def test_a_keyring_that_others_may_read_is_refused(keyring, tmp_path):
    path = tmp_path / "keyring.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(KeyringBroken, match="chmod 600"):
        Keyring.open(path)
    path.chmod(0o600)
    for text in ("", "{}", '{"format": 9, "keys": []}', '{"format": 1, "keys": []}', '{"format": 1, "keys": [{"id": "a"}]}'):
        path.write_text(text)
        with pytest.raises(KeyringBroken):
            Keyring.open(path)
