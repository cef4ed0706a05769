"""A keyring for tests of the registry, whose store is read by none but them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from scheduler.functions.sealed import Seals
from scheduler.keyring import Keyring
from scheduler.keys.embedded import EmbeddedKeys
from scheduler.keys.envelopes import Envelopes


def seals_of(keyring: Keyring) -> Seals:
    return Seals(Envelopes(EmbeddedKeys(keyring)))


def _seals() -> Seals:
    with tempfile.TemporaryDirectory() as directory:
        return seals_of(Keyring.open(Path(directory) / "keyring.json"))


SEALS = _seals()
