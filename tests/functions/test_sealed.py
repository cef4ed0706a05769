"""Environments at rest: sealed, bound to their function, and sealed anew where they were not."""

from __future__ import annotations

import base64
import json

import pytest
import trio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from scheduler.errors import Unavailable
from scheduler.functions.model import FunctionConfig
from scheduler.functions.sealed import is_sealed
from scheduler.keyring import Keyring, KeyringBroken, Unsealable
from tests.functions.sealing import SEALS, seals_of


@pytest.fixture
def keyring(tmp_path):
    return Keyring.open(tmp_path / "keyring.json")


def config(environment, name="hello", **more):
    return FunctionConfig(name=name, handler="a.b", runtime="python3.11", environment=environment, **more)


def sealed(environment, name="hello", seals=SEALS):
    return json.loads(json.dumps(trio.run(seals.seal, config(environment, name))))


def opened(stored, name="hello", seals=SEALS):
    return trio.run(seals.open, stored, name)


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_what_is_sealed_opens(environment):
    stored = sealed(environment)
    assert is_sealed(stored)
    assert opened(stored) == environment


def test_a_seal_is_of_one_function_and_one_keyring(tmp_path):
    stored = sealed({"A": "b"})
    with pytest.raises(Unavailable, match="does not open"):
        opened(stored, "other")
    with pytest.raises(Unavailable, match="does not open"):
        opened(stored, "hello", seals_of(Keyring.open(tmp_path / "other.json")))
    for key in ("sealed", "under"):
        damaged = dict(stored)
        damaged[key] = damaged[key][:-6] + ("A" if damaged[key][-6] != "A" else "B") + damaged[key][-5:]
        with pytest.raises(Unavailable):
            opened(damaged)


def test_the_same_is_never_sealed_alike():
    assert sealed({"A": "b"})["sealed"] != sealed({"A": "b"})["sealed"]


def test_what_was_stored_plain_is_read():
    assert opened({"A": "b"}) == {"A": "b"}
    assert not is_sealed({"A": "b"})
    assert opened({}) == {}


def test_what_versions_before_the_seam_have_sealed_opens(keyring):
    """Byte for byte as they wrote it: the nonce of a data key's one seal, the context's JSON, the keyring's text."""
    key, context = bytes(range(32)), {"for": "environment", "LambdaFunctionName": "hello"}
    sealed_then = AESGCM(key).encrypt(bytes(12), b'{"A": "b"}', json.dumps(context, sort_keys=True).encode())
    stored = {"sealed": base64.b64encode(sealed_then).decode(), "under": keyring.seal(key, context)}
    assert opened(stored, seals=seals_of(keyring)) == {"A": "b"}
    with pytest.raises(Unavailable):
        opened(stored, "other", seals_of(keyring))


def test_no_value_shows_in_a_repr():
    made = config({"A": "planted"})
    assert "planted" not in repr(made) + repr(made.environment) + str(made.environment)


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
