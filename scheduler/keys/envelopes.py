"""Envelopes: a text sealed under a data key of its own, and that key wrapped by a source.

Law of this file: the only place that seals and opens with data keys. AES-256 in GCM (NIST SP 800-38D); each data key seals one
text in its life, so the nonce need not be random. What the text is for (its context) is bound into the seal and into the
wrapped key. Data keys that a source far away has unwrapped are kept for a while, so many at most and no longer than
`keep_s`: a key that was taken back there is of no use here after that.

    envelopes = Envelopes(EmbeddedKeys(keyring), others=(MasterKeys…,), keep_s=300)
    stored = await envelopes.seal(b"text", context)               {"sealed": "…", "under": "v1.…"}
    await envelopes.open(stored, context)                         b"text"; KeyProblem
    envelopes.usable_now(stored["under"], context)                True, False, or None: one would have to ask
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from scheduler.keys.port import KeyProblem, KeySource, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["CACHE_MAX", "Envelopes", "NamedKeys", "context_bytes", "is_envelope"]

NONCE: Final = bytes(12)
CACHE_MAX: Final = 1024
AWAY_S: Final = 2.0


class NamedKeys(Protocol):
    """Who knows the source for a key that a user names."""

    def source_for(self, key: str, tenant: str | None) -> KeySource:
        """KeyProblem: there is no such key."""
        ...


def is_envelope(stored: Any) -> bool:
    return isinstance(stored, dict) and set(stored) == {"sealed", "under"}


def context_bytes(context: Mapping[str, str]) -> bytes:
    return json.dumps(dict(context), sort_keys=True).encode()


class Envelopes:
    """`current` wraps what is sealed without naming a key; `others` open what they once wrapped, and wrap what names a key of
    theirs. keep_s, now_s: for the cache."""

    def __init__(
        self,
        current: KeySource,
        *,
        others: Sequence[KeySource] = (),
        named: NamedKeys | None = None,
        keep_s: float = 300.0,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current = current
        self._sources: dict[str, KeySource] = {source.kind: source for source in (*others, current)}
        self._named = named
        self._keep_s = keep_s
        self._now_s = now_s
        self._away: dict[str, tuple[float, KeyProblem]] = {}  # kind of source: not asked before then
        self._kept: OrderedDict[str, tuple[bytes, AESGCM, float]] = OrderedDict()

    def add(self, source: KeySource, named: NamedKeys) -> None:
        """A source whose own keys are sealed by the others, and so is there later than they."""
        self._sources[source.kind] = source
        self._named = named

    # ---- sealing ----

    async def seal(
        self, data: bytes, context: Mapping[str, str], *, key: str = "", tenant: str | None = None
    ) -> dict[str, str]:
        """key: the one that the user has named; empty: the service's own. KeyProblem."""
        made = await self._source_for(key, tenant).generate(context)
        sealed = AESGCM(made.plain).encrypt(NONCE, data, context_bytes(context))
        return {"sealed": base64.b64encode(sealed).decode(), "under": made.wrapped}

    async def open(self, stored: Mapping[str, str], context: Mapping[str, str]) -> bytes:
        """KeyProblem: the key is not to be had, or it does not open for this context."""
        under = stored["under"]
        bound = context_bytes(context)
        cipher = self._keep_of(under, bound)
        if cipher is None:
            source = self._source_of(under)
            plain = source.unwrap_now(under, context)
            cipher = AESGCM(plain) if plain is not None else self._keep(under, bound, await self._ask(source, under, context))
        try:
            return cipher.decrypt(NONCE, base64.b64decode(stored["sealed"]), bound)
        except (InvalidTag, ValueError, binascii.Error):
            raise KeyProblem(Trouble.INVALID_STATE, "it does not open: sealed for something else, or changed since") from None

    async def _ask(self, source: KeySource, under: str, context: Mapping[str, str]) -> bytes:
        """From far away. While nobody is there it is not tried for each of many: a start with a thousand functions would take
        a thousand times what one waits."""
        until_s, problem = self._away.get(source.kind, (0.0, None))
        if problem is not None and self._now_s() < until_s:
            raise problem
        try:
            return await source.unwrap(under, context)
        except KeyProblem as error:
            if not error.lasting:
                self._away[source.kind] = (self._now_s() + AWAY_S, error)
            raise

    def usable_now(self, under: str, context: Mapping[str, str]) -> bool | None:
        """Whether the key may be used at this moment, without asking anybody far away. None: it has to be asked for."""
        if self._keep_of(under, context_bytes(context)) is not None:
            return True
        try:
            return True if self._source_of(under).unwrap_now(under, context) is not None else None
        except KeyProblem:
            return False

    # ---- turning over ----

    def is_current(self, under: str) -> bool:
        """Nothing is to be done to it after a rotation. A key that a user has named is turned over by its own rotation."""
        return self.current.is_current(under)

    def own(self, under: str) -> bool:
        """It was wrapped for the service, not under a key that a user has named."""
        return under.split(".", 1)[0] not in ("mk", "mr")

    async def rewrap(self, under: str, context: Mapping[str, str]) -> str:
        """The same data key under the newest key of the current source. KeyProblem."""
        if under.split(".", 1)[0] == self.current.kind:
            return await self.current.rewrap(under, context)
        return await self.current.wrap(await self._source_of(under).unwrap(under, context), context)

    def check(self, key: str, tenant: str | None) -> None:
        """KeyProblem: there is no such key here."""
        self._source_for(key, tenant)

    # ---- sources, and the data keys that were had from them ----

    def _source_for(self, key: str, tenant: str | None) -> KeySource:
        if not key:
            return self.current
        if self._named is None:
            raise KeyProblem(Trouble.NOT_FOUND, f"key {key[:256]!r}: this service has no keys by name")
        return self._named.source_for(key, tenant)

    def _source_of(self, under: str) -> KeySource:
        source = self._sources.get(under.split(".", 1)[0])
        if source is None:
            raise KeyProblem(
                Trouble.NOT_FOUND, f"it was sealed under a key of {under.split('.', 1)[0][:16]!r}, which is not set up"
            )
        return source

    def _keep_of(self, under: str, bound: bytes) -> AESGCM | None:
        kept = self._kept.get(under)
        if kept is None:
            return None
        if kept[2] <= self._now_s() or kept[0] != bound:
            del self._kept[under]
            return None
        self._kept.move_to_end(under)
        return kept[1]

    def _keep(self, under: str, bound: bytes, plain: bytes) -> AESGCM:
        cipher = AESGCM(plain)
        if self._keep_s > 0:
            self._kept[under] = (bound, cipher, self._now_s() + self._keep_s)
            while len(self._kept) > CACHE_MAX:
                self._kept.popitem(last=False)
        return cipher
