"""Keys of the service's own, in one file, and what is sealed under them: secrets that must be read again, not only compared.

Law of this file: a leaf. The only place that holds key material or calls a cipher. AES-256 in GCM (NIST SP 800-38D) with random
nonces of 96 bits; what a sealed text is for (its context) is bound to it and must be said again to open it.

    keyring = Keyring.open(settings.keyring_file)            # made (mode 0600) where there is none
    text = keyring.seal(b"secret", {"for": "access key", "id": "AKIA…"})
    keyring.unseal(text, {"for": "access key", "id": "AKIA…"})     -> b"secret"; Unsealable: another context, or damaged
    keyring.rotate()                                         # a new key for what is sealed from now on; the old ones still open
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from scheduler.errors import SchedulerError
from scheduler.ownfile import one_writer, replace_file

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

__all__ = ["Keyring", "KeyringBroken", "Unsealable"]

FORMAT: Final = 1
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
ID_BYTES: Final = 4
KEYS_MAX: Final = 1000
FILE_BYTES_MAX: Final = 1 << 20


class KeyringBroken(SchedulerError):
    """The keyring file cannot be used; the message says why."""

    type = "Unavailable"


class Unsealable(SchedulerError):
    """A sealed text that does not open: another context, another keyring, or it was changed."""

    type = "BadRequest"


@dataclass(frozen=True, slots=True)
class _Key:
    id: str
    made: str
    cipher: AESGCM


class Keyring:
    """Made by open()."""

    def __init__(self, path: Path, keys: tuple[_Key, ...]) -> None:
        self._path = path
        self._keys = keys

    @classmethod
    def open(cls, path: Path) -> Keyring:
        """The keyring at `path`, made where there is none. KeyringBroken: others may read it, or it is not one."""
        try:
            with one_writer(path):
                if not path.exists():
                    _write(path, [_fresh()])
                return cls(path, _read(path))
        except OSError as error:
            raise KeyringBroken(f"keyring {path}: {error.strerror}") from None

    @property
    def current(self) -> str:
        """The id of the key that seals."""
        return self._keys[-1].id

    def generations(self) -> tuple[tuple[str, str], ...]:
        """(id, when it was made), the one that seals last."""
        return tuple((key.id, key.made) for key in self._keys)

    def seal(self, data: bytes, context: Mapping[str, str]) -> str:
        """A text that only this keyring opens, and only for the same context."""
        key = self._keys[-1]
        nonce = secrets.token_bytes(NONCE_BYTES)
        sealed = key.cipher.encrypt(nonce, data, _bound(context))
        return f"v1.{key.id}.{base64.urlsafe_b64encode(nonce + sealed).decode()}"

    def unseal(self, text: str, context: Mapping[str, str]) -> bytes:
        """Unsealable."""
        parts = text.split(".")
        key = self._of(parts[1]) if len(parts) == 3 else None
        if key is None or parts[0] != "v1":
            raise Unsealable("it was sealed under a key that this keyring does not have")
        try:
            raw = base64.b64decode(parts[2].encode(), b"-_", validate=True)
            return key.cipher.decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], _bound(context))
        except (InvalidTag, ValueError):
            raise Unsealable("it does not open: sealed for something else, or changed since") from None

    def _of(self, key_id: str) -> _Key | None:
        """One that is not known may be new: a command has rotated the keyring while the service ran."""
        found = next((key for key in self._keys if key.id == key_id), None)
        if found is not None:
            return found
        with contextlib.suppress(OSError, KeyringBroken):
            self._keys = _read(self._path)
        return next((key for key in self._keys if key.id == key_id), None)

    def rotate(self) -> str:
        """A new key seals from now on; its id. What was sealed before still opens."""
        try:
            with one_writer(self._path):
                raw = _load(self._path)
                if len(raw) >= KEYS_MAX:
                    raise KeyringBroken(f"keyring {self._path}: has {len(raw)} keys, which is the limit")
                _write(self._path, [*raw, _fresh()])
                self._keys = _read(self._path)
        except OSError as error:
            raise KeyringBroken(f"keyring {self._path}: {error.strerror}") from None
        return self.current

    def retire(self, unused: Collection[str]) -> int:
        """Destroys those keys: what is still sealed under one of them opens no more. How many there were; the one that seals
        stays."""
        try:
            with one_writer(self._path):
                raw = _load(self._path)
                kept = [row for row in raw[:-1] if row["id"] not in unused] + raw[-1:]
                if len(kept) < len(raw):
                    _write(self._path, kept)
                self._keys = _read(self._path)
        except OSError as error:
            raise KeyringBroken(f"keyring {self._path}: {error.strerror}") from None
        return len(raw) - len(kept)


def _bound(context: Mapping[str, str]) -> bytes:
    return json.dumps(dict(context), sort_keys=True, separators=(",", ":")).encode()


def _fresh() -> dict[str, str]:
    key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    return {"id": secrets.token_hex(ID_BYTES), "made": datetime.now(UTC).isoformat(timespec="seconds"), "key": key}


def _load(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        info = os.fstat(file.fileno())
        if info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise KeyringBroken(f"keyring {path}: others than its owner may use it; chmod 600 mends that, then rotate it")
        if info.st_size > FILE_BYTES_MAX:
            raise KeyringBroken(f"keyring {path}: has {info.st_size} bytes, the limit is {FILE_BYTES_MAX}")
        try:
            raw = json.loads(file.read())
            if raw["format"] != FORMAT:
                raise KeyringBroken(f"keyring {path}: is of format {raw['format']}, this version reads {FORMAT}")
            return list(raw["keys"])
        except (ValueError, KeyError, TypeError):
            raise KeyringBroken(f"keyring {path}: is not a keyring; restore a copy") from None


def _read(path: Path) -> tuple[_Key, ...]:
    try:
        keys = tuple(_Key(row["id"], row["made"], AESGCM(base64.b64decode(row["key"]))) for row in _load(path))
    except (ValueError, KeyError, TypeError):
        raise KeyringBroken(f"keyring {path}: a key in it cannot be read; restore a copy") from None
    if not keys:
        raise KeyringBroken(f"keyring {path}: holds no key; restore a copy")
    return keys


def _write(path: Path, keys: list[dict[str, Any]]) -> None:
    replace_file(path, json.dumps({"format": FORMAT, "keys": keys}, indent=1).encode())
