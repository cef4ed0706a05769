"""Environments at rest: each sealed under a data key of its own, which is sealed under the keyring.

Law of this file: what the store may hold of an environment. The cipher is AES-256 in GCM; that the environment belongs to this
function is bound into both seals, so one function's cannot be passed off as another's.

    seals = Seals(keyring)
    stored = seals.seal({"KEY": "value"}, "hello")
    seals.open(stored, "hello")          -> {"KEY": "value"}
"""

from __future__ import annotations

import base64
import json
import secrets
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from scheduler.errors import Unavailable
from scheduler.keyring import Unsealable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.keyring import Keyring

__all__ = ["Seals", "is_sealed"]

KEY_BYTES: Final = 32
NONCE: Final = bytes(12)  # each data key seals one text in its life


def is_sealed(stored: Any) -> bool:
    """False: it is from before environments were sealed, and to be written anew."""
    return isinstance(stored, dict) and (not stored or set(stored) == {"sealed", "under"})


class Seals:
    """What is sealed here opens with the same keyring only."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def seal(self, environment: Mapping[str, str], name: str) -> dict[str, str]:
        """What is stored. Nothing is stored of nothing."""
        if not environment:
            return {}
        key = secrets.token_bytes(KEY_BYTES)
        text = json.dumps(dict(environment), ensure_ascii=False).encode()
        sealed = AESGCM(key).encrypt(NONCE, text, _context_bytes(name))
        return {"sealed": base64.b64encode(sealed).decode(), "under": self._keyring.seal(key, _context(name))}

    def open(self, stored: Any, name: str) -> dict[str, str]:
        """Unavailable: it does not open. ValueError, TypeError: it is nothing of ours."""
        if not is_sealed(stored):
            return dict(stored)
        if not stored:
            return {}
        try:
            key = self._keyring.unseal(stored["under"], _context(name))
            text = AESGCM(key).decrypt(NONCE, base64.b64decode(stored["sealed"]), _context_bytes(name))
        except (Unsealable, InvalidTag):
            raise Unavailable(
                f"the environment of function {name} does not open with this keyring: restore the one it was sealed with"
            ) from None
        return dict(json.loads(text))


def _context(name: str) -> dict[str, str]:
    return {"for": "environment", "LambdaFunctionName": name}


def _context_bytes(name: str) -> bytes:
    return json.dumps(_context(name), sort_keys=True).encode()
