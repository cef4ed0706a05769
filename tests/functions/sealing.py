"""A keyring for tests of the registry, whose store is read by none but them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from scheduler.functions.sealed import Seals
from scheduler.keyring import Keyring


def _seals() -> Seals:
    with tempfile.TemporaryDirectory() as directory:
        return Seals(Keyring.open(Path(directory) / "keyring.json"))


SEALS = _seals()
