"""Master keys of the service's own KMS: made, named, turned over, disabled and destroyed here, and never handed out.

Law of this file: what KMS promises of a symmetric key. Each key belongs to one tenant, and stands in the store as one value,
sealed under the service's source of data keys. AES-256 in GCM with random nonces of 96 bits; key and encryption context are
bound into each ciphertext. Ciphertexts say which generation of which key opens them, so a rotation changes what is sealed
from then on, and older texts open.

    masters = await MasterKeys.load(store, envelopes, identity)
    key = await masters.create("acme", "for the billing functions")
    blob = masters.encrypt(key, b"text", {"LambdaFunctionName": "bill"})
    masters.decrypt(blob, {"LambdaFunctionName": "bill"}, tenant="acme")      -> (key, b"text")

As a source of data keys (kind "mk") they wrap the environments of functions that name one of them.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
import uuid
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import trio
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from scheduler import limits
from scheduler.errors import SchedulerError, Unavailable
from scheduler.keys.port import DATA_KEY_BYTES, DataKey, Generation, KeyProblem, Trouble
from scheduler.store.port import ABSENT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from scheduler.keys.envelopes import Envelopes
    from scheduler.store.port import Registry

__all__ = ["ALIAS", "PENDING_DAYS", "PREFIX", "KmsRefusal", "MasterKey", "MasterKeys", "MasterSource", "State"]

PREFIX: Final = "mk."
FORMAT: Final = 1
MAGIC: Final = b"sKM\x01"
HEAD_BYTES: Final = len(MAGIC) + 16 + 2
NONCE_BYTES: Final = 12
PAGE: Final = 200
ALIAS: Final = re.compile(r"alias/[a-zA-Z0-9/_-]{1,250}")
ALIASES_MAX: Final = 50
DAY_S: Final = 86_400
PENDING_DAYS: Final = (7, 30)


class State(Enum):
    """As KMS names them."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"


class KmsRefusal(SchedulerError):
    """KMS's own error, by its name there."""

    type = "BadRequest"

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message, reason=name)
        self.name = name


@dataclass(frozen=True, slots=True)
class MasterKey:
    """`material`: of each generation, oldest first. created_s, deletion_s: Unix time."""

    id: str
    tenant: str
    created_s: float
    material: tuple[bytes, ...] = field(repr=False)
    description: str = ""
    state: State = State.ENABLED
    deletion_s: float | None = None
    aliases: tuple[str, ...] = ()
    ciphers: tuple[AESGCM, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ciphers", tuple(AESGCM(material) for material in self.material))


class MasterKeys:
    """Made by load(). arn: from what stands behind the account, to an ARN."""

    def __init__(
        self, store: Registry, envelopes: Envelopes, arn: Callable[[str], str], now_s: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._envelopes = envelopes
        self._arn = arn
        self._now_s = now_s
        self._held: dict[str, tuple[MasterKey, int]] = {}  # with the store's revision
        self._aliases: dict[tuple[str, str], str] = {}  # (tenant, alias) to id
        self._changing = trio.Lock()
        self.locked: Mapping[str, KeyProblem] = MappingProxyType({})

    @classmethod
    async def load(
        cls,
        store: Registry,
        envelopes: Envelopes,
        arn: Callable[[str], str],
        now_s: Callable[[], float] = time.time,
    ) -> MasterKeys:
        """Reads everything; those that do not open now are `locked`, until unlock(). Unavailable: one cannot be understood."""
        made = cls(store, envelopes, arn, now_s)
        await made.unlock()
        return made

    async def unlock(self) -> None:
        """Reads those that are not known, as a key server may have come back."""
        locked: dict[str, KeyProblem] = {}
        after = ""
        while page := await self._store.list(PREFIX, after=after, limit=PAGE):
            for entry in page:
                key_id = entry.key.removeprefix(PREFIX)
                if key_id not in self._held:
                    try:
                        self._admit(await self._decoded(key_id, entry.value), entry.revision)
                    except KeyProblem as problem:
                        locked[key_id] = problem
            after = page[-1].key
        self.locked = MappingProxyType(locked)

    # ---- looking ----

    def arn(self, key: MasterKey) -> str:
        return self._arn(f"kms:key/{key.id}")

    def alias_arn(self, alias: str) -> str:
        return self._arn(f"kms:{alias}")

    def of(self, tenant: str) -> tuple[MasterKey, ...]:
        return tuple(key for _, (key, _) in sorted(self._held.items()) if key.tenant == tenant)

    def find(self, name: str, tenant: str) -> MasterKey:
        """By id, ARN, alias or an alias' ARN. KmsRefusal: NotFoundException."""
        bare = name
        if name.startswith("arn:"):
            parts = name.split(":", 5)
            bare = parts[5] if len(parts) == 6 and self._arn("kms:" + parts[5]) == name else ""
            bare = bare.removeprefix("key/")
        if bare.startswith("alias/"):
            bare = self._aliases.get((tenant, bare), "")
            if not bare:
                raise KmsRefusal("NotFoundException", f"Alias {name[:256]} is not found.")
        held = self._held.get(bare)
        if held is None or held[0].tenant != tenant:
            if bare in self.locked:
                raise KmsRefusal("KeyUnavailableException", f"{bare}: its own key is not to be had now")
            raise KmsRefusal("NotFoundException", f"Key '{self._arn('kms:key/' + (bare or name)[:256])}' does not exist")
        return self._now(held[0])

    def _now(self, key: MasterKey) -> MasterKey:
        """One whose time is over is gone, though nobody has removed it yet."""
        if key.deletion_s is not None and key.deletion_s <= self._now_s():
            raise KmsRefusal("NotFoundException", f"Key '{self.arn(key)}' does not exist")
        return key

    # ---- using ----

    def encrypt(self, key: MasterKey, plain: bytes, context: Mapping[str, str]) -> bytes:
        """KmsRefusal: it is disabled, or about to be destroyed."""
        self._check_usable(key)
        generation = len(key.ciphers) - 1
        nonce = secrets.token_bytes(NONCE_BYTES)
        head = MAGIC + uuid.UUID(key.id).bytes + generation.to_bytes(2, "big")
        return head + nonce + key.ciphers[generation].encrypt(nonce, plain, head + _bound(context))

    def decrypt(self, blob: bytes, context: Mapping[str, str], *, tenant: str) -> tuple[MasterKey, bytes]:
        """KmsRefusal: InvalidCiphertextException where it is none of this tenant's, was changed, or the context is another."""
        if len(blob) < HEAD_BYTES + NONCE_BYTES or not blob.startswith(MAGIC):
            raise _invalid()
        key_id = str(uuid.UUID(bytes=blob[len(MAGIC) : len(MAGIC) + 16]))
        generation = int.from_bytes(blob[HEAD_BYTES - 2 : HEAD_BYTES], "big")
        try:
            key = self.find(key_id, tenant)
        except KmsRefusal as refusal:
            raise refusal if refusal.name == "KeyUnavailableException" else _invalid() from None
        if generation >= len(key.ciphers):
            raise _invalid()
        self._check_usable(key)
        nonce, sealed = blob[HEAD_BYTES : HEAD_BYTES + NONCE_BYTES], blob[HEAD_BYTES + NONCE_BYTES :]
        try:
            return key, key.ciphers[generation].decrypt(nonce, sealed, blob[:HEAD_BYTES] + _bound(context))
        except InvalidTag:
            raise _invalid() from None

    def _check_usable(self, key: MasterKey) -> None:
        if key.state is State.DISABLED:
            raise KmsRefusal("DisabledException", f"{self.arn(key)} is disabled.")
        if key.state is State.PENDING_DELETION:
            raise KmsRefusal("KMSInvalidStateException", f"{self.arn(key)} is pending deletion.")

    # ---- changing ----

    async def create(self, tenant: str, description: str = "", aliases: tuple[str, ...] = ()) -> MasterKey:
        """KmsRefusal: there are too many, or an alias is taken. KeyProblem: it cannot be sealed."""
        async with self._changing:
            if len(self._held) + len(self.locked) >= limits.MASTER_KEYS_MAX:
                raise KmsRefusal("LimitExceededException", f"there are {limits.MASTER_KEYS_MAX} keys, which is the limit")
            for alias in aliases:
                self._check_alias(tenant, alias)
            material = secrets.token_bytes(DATA_KEY_BYTES)
            key = MasterKey(str(uuid.uuid4()), tenant, self._now_s(), (material,), description, aliases=aliases)
            await self._write(key, ABSENT)
            return key

    async def change(self, name: str, tenant: str, change: Callable[[MasterKey], MasterKey]) -> MasterKey:
        """What `change` makes of the key as it is when its turn has come. KmsRefusal, KeyProblem."""
        async with self._changing:
            key = self.find(name, tenant)
            changed = change(key)
            if changed != key:
                await self._write(changed, self._held[key.id][1])
            return changed

    async def set_enabled(self, name: str, tenant: str, enabled: bool) -> None:
        def change(key: MasterKey) -> MasterKey:
            if key.state is State.PENDING_DELETION:
                raise KmsRefusal("KMSInvalidStateException", f"{self.arn(key)} is pending deletion.")
            return replace(key, state=State.ENABLED if enabled else State.DISABLED)

        await self.change(name, tenant, change)

    async def schedule_deletion(self, name: str, tenant: str, days: int) -> MasterKey:
        """It is unusable at once, and gone for good when the days are over."""

        def change(key: MasterKey) -> MasterKey:
            if key.state is State.PENDING_DELETION:
                raise KmsRefusal("KMSInvalidStateException", f"{self.arn(key)} is pending deletion.")
            return replace(key, state=State.PENDING_DELETION, deletion_s=self._now_s() + days * DAY_S)

        return await self.change(name, tenant, change)

    async def cancel_deletion(self, name: str, tenant: str) -> MasterKey:
        """Disabled afterwards, as in KMS."""

        def change(key: MasterKey) -> MasterKey:
            if key.state is not State.PENDING_DELETION:
                raise KmsRefusal("KMSInvalidStateException", f"{self.arn(key)} is not pending deletion.")
            return replace(key, state=State.DISABLED, deletion_s=None)

        return await self.change(name, tenant, change)

    async def rotate(self, name: str, tenant: str) -> MasterKey:
        """Another generation."""

        def change(key: MasterKey) -> MasterKey:
            self._check_usable(key)
            if len(key.material) >= limits.MASTER_KEY_GENERATIONS_MAX:
                raise KmsRefusal("LimitExceededException", f"{self.arn(key)} has {len(key.material)} generations, the limit")
            return replace(key, material=(*key.material, secrets.token_bytes(DATA_KEY_BYTES)))

        return await self.change(name, tenant, change)

    async def add_alias(self, alias: str, name: str, tenant: str) -> None:
        """KmsRefusal: AlreadyExistsException, InvalidAliasNameException, LimitExceededException."""

        def change(key: MasterKey) -> MasterKey:
            self._check_alias(tenant, alias)
            if len(key.aliases) >= ALIASES_MAX:
                raise KmsRefusal("LimitExceededException", f"{self.arn(key)} has {ALIASES_MAX} aliases, the limit")
            return replace(key, aliases=(*key.aliases, alias))

        await self.change(name, tenant, change)

    async def drop_alias(self, alias: str, tenant: str) -> None:
        def change(key: MasterKey) -> MasterKey:
            return replace(key, aliases=tuple(other for other in key.aliases if other != alias))

        await self.change(alias, tenant, change)

    def _check_alias(self, tenant: str, alias: str) -> None:
        if ALIAS.fullmatch(alias) is None or alias.startswith("alias/aws/"):
            raise KmsRefusal("InvalidAliasNameException", f"{alias[:256]!r} is not alias/NAME, or is alias/aws/…")
        if (tenant, alias) in self._aliases:
            raise KmsRefusal("AlreadyExistsException", f"An alias with the name {self.alias_arn(alias)} already exists")

    async def collect(self) -> int:
        """Destroys the keys whose time is over; how many."""
        gone = 0
        async with self._changing:
            for key, revision in list(self._held.values()):
                if key.deletion_s is not None and key.deletion_s <= self._now_s():
                    with trio.CancelScope(shield=True):
                        await self._store.delete(PREFIX + key.id, expect=revision)
                        self._forget(key)
                    gone += 1
        return gone

    # ---- in the store ----

    async def _write(self, key: MasterKey, revision: int) -> None:
        value = await self._encoded(key)
        with trio.CancelScope(shield=True):  # the store and the memory must not disagree
            try:
                stored = await self._store.put(PREFIX + key.id, value, expect=revision)
            except Unavailable:
                entry = await self._store.get(PREFIX + key.id)
                if entry is not None:
                    self._admit(await self._decoded(key.id, entry.value), entry.revision)
                raise
            self._admit(key, stored)

    def _admit(self, key: MasterKey, revision: int) -> None:
        held = self._held.get(key.id)
        if held is not None:
            self._forget(held[0])
        self._held[key.id] = (key, revision)
        self._aliases.update({(key.tenant, alias): key.id for alias in key.aliases})

    def _forget(self, key: MasterKey) -> None:
        del self._held[key.id]
        for alias in key.aliases:
            self._aliases.pop((key.tenant, alias), None)

    async def _encoded(self, key: MasterKey) -> bytes:
        inner = {
            "tenant": key.tenant,
            "created_s": key.created_s,
            "description": key.description,
            "state": key.state.value,
            "deletion_s": key.deletion_s,
            "aliases": list(key.aliases),
            "material": [base64.b64encode(material).decode() for material in key.material],
        }
        stored = await self._envelopes.seal(json.dumps(inner).encode(), _context(key.id))
        return json.dumps({"format": FORMAT, **stored}).encode()

    async def _decoded(self, key_id: str, value: bytes) -> MasterKey:
        try:
            raw = json.loads(value)
            if raw["format"] != FORMAT:
                raise Unavailable(f"key {key_id}: stored in format {raw['format']}, this version reads {FORMAT}; update")
            inner: dict[str, Any] = json.loads(await self._envelopes.open(raw, _context(key_id)))
            return MasterKey(
                key_id,
                inner["tenant"],
                float(inner["created_s"]),
                tuple(base64.b64decode(material) for material in inner["material"]),
                inner["description"],
                State(inner["state"]),
                inner["deletion_s"],
                tuple(inner["aliases"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Unavailable(
                f"key {key_id}: the stored value cannot be read ({type(error).__name__}); restore a copy"
            ) from None

    # ---- what they are sealed under ----

    async def rewrap(self, wrap: Callable[[Mapping[str, str], str], Awaitable[str | None]]) -> int:
        """Wraps their data keys anew where `wrap` gives another; how many were changed."""
        changed = 0
        async with self._changing:
            for key_id, (key, _) in list(self._held.items()):
                entry = await self._store.get(PREFIX + key_id)
                if entry is None:
                    continue
                raw = json.loads(entry.value)
                wrapped = await wrap(_context(key_id), raw["under"])
                if wrapped is not None:
                    value = json.dumps({**raw, "under": wrapped}).encode()
                    self._held[key_id] = (key, await self._store.put(PREFIX + key_id, value, expect=entry.revision))
                    changed += 1
        return changed

    async def wrapped_keys(self) -> tuple[str, ...]:
        found: list[str] = []
        after = ""
        while page := await self._store.list(PREFIX, after=after, limit=PAGE):
            found += [json.loads(entry.value)["under"] for entry in page]
            after = page[-1].key
        return tuple(found)

    # ---- as a source of data keys ----

    def source(self, key: str, tenant: str) -> MasterSource:
        """KeyProblem: there is no such key."""
        try:
            return MasterSource(self, self.find(key, tenant))
        except KmsRefusal as refusal:
            raise _problem(refusal) from None

    def unwrap_now(self, wrapped: str, context: Mapping[str, str]) -> bytes | None:
        parts = wrapped.split(".")
        try:
            blob = base64.urlsafe_b64decode(parts[-1])
            held = self._held.get(parts[1]) if len(parts) == 3 else None
            if held is None:
                raise KmsRefusal("NotFoundException", "the key that the function names does not exist")
            return self.decrypt(blob, context, tenant=held[0].tenant)[1]
        except KmsRefusal as refusal:
            raise _problem(refusal) from None
        except ValueError:
            raise KeyProblem(Trouble.INVALID_STATE, "a wrapped key that is not whole") from None


class MasterSource:
    """One of them as `port.KeySource`; without a key, what any of them has wrapped is unwrapped."""

    kind = "mk"

    def __init__(self, masters: MasterKeys, key: MasterKey | None = None) -> None:
        self._masters = masters
        self._named = key

    @property
    def _key(self) -> MasterKey:
        if self._named is None:
            raise KeyProblem(Trouble.NOT_FOUND, "no key is named")
        return self._named

    async def generate(self, context: Mapping[str, str]) -> DataKey:
        plain = secrets.token_bytes(DATA_KEY_BYTES)
        return DataKey(plain, await self.wrap(plain, context))

    async def wrap(self, plain: bytes, context: Mapping[str, str]) -> str:
        try:
            blob = self._masters.encrypt(self._key, plain, context)
        except KmsRefusal as refusal:
            raise _problem(refusal) from None
        return f"{self.kind}.{self._key.id}.{base64.urlsafe_b64encode(blob).decode()}"

    def unwrap_now(self, wrapped: str, context: Mapping[str, str]) -> bytes | None:
        return self._masters.unwrap_now(wrapped, context)

    async def unwrap(self, wrapped: str, context: Mapping[str, str]) -> bytes:
        plain = self.unwrap_now(wrapped, context)
        assert plain is not None, "what is in memory needs no waiting"
        return plain

    async def rewrap(self, wrapped: str, context: Mapping[str, str]) -> str:
        return await self.wrap(await self.unwrap(wrapped, context), context)

    def is_current(self, wrapped: str) -> bool:
        return self._named is None or wrapped.split(".")[:2] == [self.kind, self._named.id]

    async def rotate(self) -> str:
        return (await self._masters.rotate(self._key.id, self._key.tenant)).id

    async def generations(self) -> Sequence[Generation]:
        return [Generation(self._named.id, "", True)] if self._named is not None else []


_TROUBLES: Final = {
    "NotFoundException": Trouble.NOT_FOUND,
    "DisabledException": Trouble.DISABLED,
    "KMSInvalidStateException": Trouble.INVALID_STATE,
    "KeyUnavailableException": Trouble.INVALID_STATE,
}


def _problem(refusal: KmsRefusal) -> KeyProblem:
    return KeyProblem(_TROUBLES.get(refusal.name, Trouble.INVALID_STATE), refusal.message)


def _invalid() -> KmsRefusal:
    return KmsRefusal("InvalidCiphertextException", "")


def _bound(context: Mapping[str, str]) -> bytes:
    return json.dumps(dict(context), sort_keys=True, separators=(",", ":")).encode()


def _context(key_id: str) -> dict[str, str]:
    return {"for": "master key", "id": key_id}
