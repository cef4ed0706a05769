"""The keyring and the access keys sealed under it, while a command changes both beside the service."""

from __future__ import annotations

import os

import pytest

from scheduler.accesskeys import AccessKeys, AccessKeysBroken
from scheduler.keyring import Keyring, KeyringBroken, Unsealable


def test_a_service_that_runs_takes_keys_sealed_under_a_new_key(tmp_path):
    """Else it would hold on to the whole file as it was, with the keys that are revoked since."""
    service = AccessKeys(tmp_path / "keys.json", Keyring.open(tmp_path / "keyring.json"))
    keyring = Keyring.open(tmp_path / "keyring.json")
    command = AccessKeys(tmp_path / "keys.json", keyring)
    old = command.create("old", rights=("invoke",))
    assert service.refresh()
    keyring.rotate()
    new = command.create("new", rights=("invoke",))
    command.revoke("old")
    assert service.refresh()
    assert service.find(new.id).secret == new.secret
    assert service.find(old.id) is None
    assert command.reseal() == 0
    keyring.rotate()
    assert command.reseal() == 1
    assert service.refresh()
    assert service.find(new.id).secret == new.secret


def test_what_is_sealed_opens_for_what_it_was_sealed_for(tmp_path):
    keyring = Keyring.open(tmp_path / "keyring.json")
    text = keyring.seal(b"secret", {"for": "a"})
    assert keyring.unseal(text, {"for": "a"}) == b"secret"
    kept = text[:-8] + ("A" if text[-8] != "A" else "B") + text[-7:]
    for wrong, context in ((text, {"for": "b"}), (kept, {"for": "a"}), ("v1.00000000." + text.split(".")[2], {"for": "a"})):
        with pytest.raises(Unsealable):
            keyring.unseal(wrong, context)
    for wrong in ("", ".", "..", "v1", text[:-20], text + "A" * 4, "v2" + text[2:], text.replace(".", "")):
        with pytest.raises(Unsealable):
            keyring.unseal(wrong, {"for": "a"})


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_files_that_others_may_use_are_refused(tmp_path, mode):
    ring, keys = tmp_path / "keyring.json", tmp_path / "keys.json"
    held = AccessKeys(keys, Keyring.open(ring))
    held.create("a", rights=("invoke",))
    assert (ring.stat().st_mode & 0o777, keys.stat().st_mode & 0o777) == (0o600, 0o600)
    os.utime(keys)
    keys.chmod(mode)
    with pytest.raises(AccessKeysBroken):
        held.refresh()
    assert len(held) == 1, "what was known before stays"
    ring.chmod(mode)
    with pytest.raises(KeyringBroken):
        Keyring.open(ring)


def test_a_row_of_another_key_opens_nothing(tmp_path):
    """Rights and secrets cannot be swapped between rows: the seal is for its key's id."""
    path = tmp_path / "keys.json"
    keys = AccessKeys(path, Keyring.open(tmp_path / "keyring.json"))
    weak, strong = keys.create("weak", rights=("invoke",)), keys.create("strong", rights=("deploy",))
    text = path.read_text()
    path.write_text(text.replace(strong.sealed, weak.sealed))
    with pytest.raises(AccessKeysBroken):
        keys.refresh()
    assert keys.find(strong.id).secret == strong.secret
