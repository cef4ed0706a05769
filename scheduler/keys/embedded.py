"""The keyring file as a source of data keys: what a service has that is given no other.

Law of this file: an adapter. Key material and the cipher are the keyring's.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from scheduler.keyring import Unsealable
from scheduler.keys.port import DATA_KEY_BYTES, DataKey, Generation, KeyProblem, Trouble

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scheduler.keyring import Keyring

__all__ = ["EmbeddedKeys"]


class EmbeddedKeys:
    """`port.KeySource`. Wrapped keys are the keyring's own sealed texts: v1.ID.…"""

    kind = "v1"

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    async def generate(self, context: Mapping[str, str]) -> DataKey:
        plain = secrets.token_bytes(DATA_KEY_BYTES)
        return DataKey(plain, self._keyring.seal(plain, context))

    async def wrap(self, plain: bytes, context: Mapping[str, str]) -> str:
        return self._keyring.seal(plain, context)

    def unwrap_now(self, wrapped: str, context: Mapping[str, str]) -> bytes | None:
        try:
            return self._keyring.unseal(wrapped, context)
        except Unsealable as error:
            raise KeyProblem(
                Trouble.NOT_FOUND, f"{error.message}; it does not open with this keyring: restore the one it was sealed with"
            ) from None

    async def unwrap(self, wrapped: str, context: Mapping[str, str]) -> bytes:
        plain = self.unwrap_now(wrapped, context)
        assert plain is not None, "a file needs no waiting"
        return plain

    async def rewrap(self, wrapped: str, context: Mapping[str, str]) -> str:
        return self._keyring.seal(await self.unwrap(wrapped, context), context)

    def is_current(self, wrapped: str) -> bool:
        return wrapped.split(".")[:2] == [self.kind, self._keyring.current]

    async def rotate(self) -> str:
        return self._keyring.rotate()

    async def generations(self) -> Sequence[Generation]:
        return [Generation(key_id, made, key_id == self._keyring.current) for key_id, made in self._keyring.generations()]

    def retire(self, unused: Sequence[str]) -> int:
        """Destroys those keys; how many there were. The newest stays."""
        return self._keyring.retire(unused)
