"""Secrets with their versions and stages, as Secrets Manager has them, in the service's own store.

Law of this file: what a secret is and how it changes. Values are sealed, each version under a data key of its own that is bound
to tenant, name and version; they are read from the store when they are asked for and held nowhere. What is known of a secret
beside its values (name, stages, dates) stands beside them in the clear, and in memory.

    secrets = await Secrets.load(store, envelopes, arn)
    secret = await secrets.create("acme", "db/password", Value(text="…"))
    await secrets.put(secret.name, "acme", Value(text="…"))       the one before becomes AWSPREVIOUS
    await secrets.value("db/password", "acme", stage="AWSCURRENT")    -> (secret, version, value)

In the store: sm.ID what is known of one, sv.ID.VERSION a value. A value is written before it is named and removed after it no
longer is, so a crash leaves at most a value that nobody names, which the next load removes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets as dice
import string
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import trio

from scheduler import limits
from scheduler.errors import SchedulerError, Unavailable
from scheduler.keys.port import KeyProblem
from scheduler.store.port import ABSENT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from scheduler.keys.envelopes import Envelopes
    from scheduler.store.port import Registry

__all__ = ["CURRENT", "NAME", "PENDING", "PREVIOUS", "Refusal", "Secret", "Secrets", "Value", "Version"]

CURRENT, PREVIOUS, PENDING = "AWSCURRENT", "AWSPREVIOUS", "AWSPENDING"
NAME: Final = re.compile(rf"[a-zA-Z0-9/_+=.@-]{{1,{limits.SECRET_NAME_CHARS_MAX}}}")
STAGES_MAX: Final = 20
DAY_S: Final = 86_400
META: Final = "sm."
VALUE: Final = "sv."
FORMAT: Final = 1
PAGE: Final = 200
_LETTERS: Final = string.ascii_letters + string.digits


class Refusal(SchedulerError):
    """Secrets Manager's own error, by its name there."""

    type = "BadRequest"

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message, reason=name)
        self.name = name


@dataclass(frozen=True, slots=True)
class Value:
    """One of the two."""

    text: str | None = field(default=None, repr=False)
    binary: bytes | None = field(default=None, repr=False)

    @property
    def size(self) -> int:
        return len(self.text.encode() if self.text is not None else self.binary or b"")


@dataclass(frozen=True, slots=True)
class Version:
    """number: counted from 1, as the Parameter Store does. created_s: Unix time."""

    id: str
    number: int
    created_s: float
    stages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Secret:
    """suffix: the six letters at its ARN's end. key: that wraps its data keys; empty: the service's own. kind: of a parameter,
    as the Parameter Store names it. deletion_s: it is deleted, and gone for good then. policy: JSON, or empty."""

    id: str
    tenant: str
    name: str
    suffix: str
    created_s: float
    changed_s: float
    description: str = ""
    key: str = ""
    kind: str = "SecureString"
    last: int = 0
    deletion_s: float | None = None
    rotated_s: float | None = None
    policy: str = ""
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    versions: tuple[Version, ...] = ()

    def at(self, stage: str) -> Version | None:
        return next((version for version in self.versions if stage in version.stages), None)

    def of(self, version_id: str) -> Version | None:
        return next((version for version in self.versions if version.id == version_id), None)


class Secrets:
    """Made by load(). arn: from what stands behind the account, to an ARN."""

    def __init__(
        self, store: Registry, envelopes: Envelopes, arn: Callable[[str], str], now_s: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._envelopes = envelopes
        self._arn = arn
        self._now_s = now_s
        self._held: dict[str, tuple[Secret, int]] = {}  # by id, with the store's revision
        self._names: dict[tuple[str, str], str] = {}  # (tenant, name) to id
        self._changing = trio.Lock()
        self.with_policy: frozenset[str] = frozenset()  # ids

    @classmethod
    async def load(
        cls, store: Registry, envelopes: Envelopes, arn: Callable[[str], str], now_s: Callable[[], float] = time.time
    ) -> Secrets:
        """Reads what is known of all. Unavailable: one cannot be understood."""
        made = cls(store, envelopes, arn, now_s)
        after = ""
        while page := await store.list(META, after=after, limit=PAGE):
            for entry in page:
                made._admit(_decode(entry.key.removeprefix(META), entry.value), entry.revision)
            after = page[-1].key
        await made._sweep()
        return made

    # ---- looking ----

    def arn(self, secret: Secret) -> str:
        return self._arn(f"secretsmanager:secret:{secret.name}-{secret.suffix}")

    def names(self, secret: Secret) -> tuple[str, ...]:
        """All that it may be granted by."""
        return (secret.name, self.arn(secret))

    def all(self, tenant: str) -> tuple[Secret, ...]:
        """By name, those that are deleted included."""
        return tuple(self._held[self._names[key]][0] for key in sorted(self._names) if key[0] == tenant)

    def has(self, name: str, tenant: str) -> bool:
        """By its name alone."""
        return (tenant, name) in self._names

    def find(self, name: str, tenant: str, *, deleted: bool = False) -> Secret:
        """By name, ARN, or ARN without its last six letters. deleted: one that is deleted too. Refusal."""
        bare = name
        start = self._arn("secretsmanager:secret:")
        if name.startswith(start):
            bare = name[len(start) :]
            if (tenant, bare) not in self._names and len(bare) > 7 and bare[-7] == "-":
                bare = bare[:-7]
        secret_id = self._names.get((tenant, bare))
        if secret_id is not None:
            secret = self._held[secret_id][0]
            if name == bare or self.arn(secret) == name or name == start + secret.name:
                if secret.deletion_s is not None and not deleted:
                    raise Refusal(
                        "InvalidRequestException",
                        "You can't perform this operation on the secret because it was marked for deletion.",
                    )
                return secret
        raise Refusal("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")

    async def value(
        self, name: str, tenant: str, *, version_id: str | None = None, stage: str | None = None, number: int | None = None
    ) -> tuple[Secret, Version, Value]:
        """By default the one at AWSCURRENT. Refusal: there is none such."""
        for _ in range(2):  # it may be changed while it is read
            secret = self.find(name, tenant)
            version = self._version(secret, version_id, stage, number)
            entry = await self._store.get(_value_key(secret.id, version.id))
            if entry is not None:
                break
        else:
            raise Refusal("ResourceNotFoundException", "Secrets Manager can't find the specified secret value.")
        try:
            opened = json.loads(await self._envelopes.open(json.loads(entry.value), _context(secret, version.id)))
        except KeyProblem as problem:
            raise Refusal(
                "DecryptionFailure",
                f"Secrets Manager can't decrypt the protected secret text using the provided KMS key. {problem.code}",
            ) from None
        binary = opened.get("binary")
        return secret, version, Value(opened.get("text"), None if binary is None else base64.b64decode(binary))

    def _version(self, secret: Secret, version_id: str | None, stage: str | None, number: int | None) -> Version:
        found = None
        if number is not None:
            found = next((version for version in secret.versions if version.number == number), None)
        elif version_id is not None:
            found = secret.of(version_id)
            if found is not None and stage is not None and stage not in found.stages:
                raise Refusal(
                    "InvalidRequestException",
                    "You provided a VersionStage that is not associated to the provided VersionId.",
                )
        else:
            found = secret.at(stage or CURRENT)
        if found is None:
            what = f"VersionId: {version_id}" if version_id else f"staging label: {stage or CURRENT}"
            raise Refusal(
                "ResourceNotFoundException", f"Secrets Manager can't find the specified secret value for {what[:256]}"
            )
        return found

    # ---- changing ----

    async def create(self, tenant: str, name: str, value: Value | None, *, token: str | None = None, **more: Any) -> Secret:
        """A new one; `more`: further fields. Refusal: the name is taken or none, there are too many. KeyProblem."""
        if NAME.fullmatch(name) is None:
            raise Refusal(
                "InvalidParameterException",
                f"Invalid name {name[:128]!r}: 1 to {limits.SECRET_NAME_CHARS_MAX} of a-z, A-Z, 0-9 and /_+=.@-",
            )
        async with self._changing:
            held = self._names.get((tenant, name))
            if held is not None:
                known = self._held[held][0]
                if token is not None and known.of(token) is not None and known.deletion_s is None:
                    return known  # the same request again
                raise Refusal(
                    "ResourceExistsException" if known.deletion_s is None else "InvalidRequestException",
                    f"The operation failed because the secret {name} already exists."
                    if known.deletion_s is None
                    else "You can't create this secret because a secret with this name is already scheduled for deletion.",
                )
            if len(self._held) >= limits.SECRETS_MAX:
                raise Refusal("LimitExceededException", f"there are {limits.SECRETS_MAX} secrets, which is the limit")
            now_s = self._now_s()
            suffix = "".join(dice.choice(_LETTERS) for _ in range(6))
            secret = Secret(str(uuid.uuid4()), tenant, name, suffix, now_s, now_s, **more)
            if value is not None:
                secret = await self._with_value(secret, value, token or str(uuid.uuid4()), (CURRENT,))
            await self._write(secret, ABSENT)
            return secret

    async def put(
        self, name: str, tenant: str, value: Value, *, token: str | None = None, stages: Sequence[str] = (CURRENT,)
    ) -> tuple[Secret, Version]:
        """A new version. Its stages are taken from the versions that had them; who loses AWSCURRENT becomes AWSPREVIOUS.
        token: its id; the same request again changes nothing. Refusal, KeyProblem."""
        async with self._changing:
            secret = self.find(name, tenant)
            version_id = token or str(uuid.uuid4())
            known = secret.of(version_id)
            if known is not None:
                if (await self.value(name, tenant, version_id=version_id))[2] != value:
                    raise Refusal(
                        "ResourceExistsException",
                        "You can't modify an existing version, you can only create a new version.",
                    )
                return secret, known
            changed = await self._with_value(secret, value, version_id, tuple(stages))
            await self._write(changed, self._held[secret.id][1])
            await self._remove_values(secret.id, {v.id for v in secret.versions} - {v.id for v in changed.versions})
            made = changed.of(version_id)
            assert made is not None, "it was just made"
            return changed, made

    async def _with_value(self, secret: Secret, value: Value, version_id: str, stages: tuple[str, ...]) -> Secret:
        """The secret with one more version, whose value is stored already."""
        if value.size > limits.SECRET_BYTES_MAX or value.size == 0:
            raise Refusal(
                "InvalidParameterException",
                f"the value has {value.size} bytes, 1 to {limits.SECRET_BYTES_MAX} are possible",
            )
        inner = {"text": value.text, "binary": None if value.binary is None else base64.b64encode(value.binary).decode()}
        text = json.dumps(inner, ensure_ascii=False).encode()
        try:
            sealed = await self._envelopes.seal(text, _context(secret, version_id), key=secret.key, tenant=secret.tenant)
        except KeyProblem as problem:
            raise Refusal(
                "EncryptionFailure",
                "Secrets Manager can't encrypt the protected secret text using the provided KMS key. "
                f"{problem.code}: {problem.message}",
            ) from None
        await self._store.put(_value_key(secret.id, version_id), json.dumps(sealed).encode())
        now_s = self._now_s()
        version = Version(version_id, secret.last + 1, now_s)
        grown = replace(secret, versions=(*secret.versions, version), last=version.number, changed_s=now_s)
        if secret.versions:
            grown = replace(grown, rotated_s=now_s)
        for stage in stages:
            grown = _moved(grown, stage, version_id)
        return _trimmed(grown, keep=version_id)

    async def move_stage(self, name: str, tenant: str, stage: str, *, to: str | None, away_from: str | None) -> Secret:
        """Refusal."""

        def change(secret: Secret) -> Secret:
            holder = secret.at(stage)
            for wanted in (to, away_from):
                if wanted is not None and secret.of(wanted) is None:
                    raise Refusal("ResourceNotFoundException", "Secrets Manager can't find the specified secret version.")
            if away_from is not None and (holder is None or holder.id != away_from):
                raise Refusal(
                    "InvalidParameterException", f"The staging label {stage} isn't attached to version {away_from[:64]}"
                )
            if away_from is None and holder is not None and to != holder.id and to is not None:
                raise Refusal(
                    "InvalidParameterException",
                    f"The parameter RemoveFromVersionId can't be empty. Staging label {stage} is currently attached to "
                    f"version {holder.id}, so you must explicitly reference that version in RemoveFromVersionId.",
                )
            if to is None and stage == CURRENT:
                raise Refusal(
                    "InvalidParameterException", f"You can only move staging label {CURRENT} to a different secret version"
                )
            return _moved(secret, stage, to)

        return await self._change(name, tenant, change)

    async def describe_as(self, name: str, tenant: str, **fields: Any) -> Secret:
        """Other fields. Refusal."""
        return await self._change(name, tenant, lambda secret: replace(secret, **fields))

    async def delete(self, name: str, tenant: str, *, days: int | None) -> Secret:
        """days: it can be restored that long. None: it is gone at once. Refusal."""
        async with self._changing:
            secret = self.find(name, tenant, deleted=True)
            gone = replace(secret, deletion_s=self._now_s() + (days or 0) * DAY_S)
            if days is not None:
                await self._write(gone, self._held[secret.id][1])
            else:
                await self._drop(secret)
            return gone

    async def restore(self, name: str, tenant: str) -> Secret:
        """Refusal."""
        return await self._change(name, tenant, lambda secret: replace(secret, deletion_s=None), deleted=True)

    async def collect(self) -> int:
        """Removes those whose time is over; how many."""
        count = 0
        async with self._changing:
            for secret, _ in list(self._held.values()):
                if secret.deletion_s is not None and secret.deletion_s <= self._now_s():
                    await self._drop(secret)
                    count += 1
        return count

    async def _change(self, name: str, tenant: str, change: Callable[[Secret], Secret], *, deleted: bool = False) -> Secret:
        async with self._changing:
            secret = self.find(name, tenant, deleted=deleted)
            changed = change(secret)
            if changed != secret:
                changed = replace(changed, changed_s=self._now_s())
                await self._write(changed, self._held[secret.id][1])
            return changed

    # ---- in the store ----

    async def _write(self, secret: Secret, revision: int) -> None:
        with trio.CancelScope(shield=True):  # the store and the memory must not disagree
            try:
                stored = await self._store.put(META + secret.id, _encode(secret), expect=revision)
            except Unavailable:
                entry = await self._store.get(META + secret.id)
                if entry is not None:
                    self._admit(_decode(secret.id, entry.value), entry.revision)
                raise
            self._admit(secret, stored)

    def _admit(self, secret: Secret, revision: int) -> None:
        self._held[secret.id] = (secret, revision)
        self._names[secret.tenant, secret.name] = secret.id
        self.with_policy = self.with_policy - {secret.id} | ({secret.id} if secret.policy else set())

    async def _drop(self, secret: Secret) -> None:
        with trio.CancelScope(shield=True):
            await self._store.delete(META + secret.id)
            del self._held[secret.id]
            self._names.pop((secret.tenant, secret.name), None)
            self.with_policy -= {secret.id}
            await self._remove_values(secret.id, {version.id for version in secret.versions})

    async def _remove_values(self, secret_id: str, versions: set[str]) -> None:
        for version_id in versions:
            await self._store.delete(_value_key(secret_id, version_id))

    async def _sweep(self) -> None:
        """Values that nobody names, left by a crash between two writes."""
        named = {_value_key(s.id, version.id) for s, _ in self._held.values() for version in s.versions}
        after = ""
        while page := await self._store.list(VALUE, after=after, limit=PAGE):
            for entry in page:
                if entry.key not in named:
                    await self._store.delete(entry.key)
            after = page[-1].key

    def policies(self, tenant: str) -> list[Secret]:
        """Those of a tenant that have one."""
        return [held[0] for secret_id in self.with_policy if (held := self._held[secret_id])[0].tenant == tenant]

    # ---- what they are sealed under ----

    async def rewrap(self, wrap: Callable[[Mapping[str, str], str], Awaitable[str | None]]) -> int:
        """Wraps their data keys anew where `wrap` gives another; how many were changed."""
        changed = 0
        async with self._changing:  # what was sealed under an older key before is stored then, and held
            ids = list(self._held)
        for secret_id in ids:
            async with self._changing:
                held = self._held.get(secret_id)
                for version in held[0].versions if held is not None else ():
                    assert held is not None
                    key = _value_key(secret_id, version.id)
                    entry = await self._store.get(key)
                    if entry is None:
                        continue
                    raw = json.loads(entry.value)
                    wrapped = await wrap(_context(held[0], version.id), raw["under"])
                    if wrapped is not None:
                        await self._store.put(key, json.dumps({**raw, "under": wrapped}).encode(), expect=entry.revision)
                        changed += 1
        return changed

    async def wrapped_keys(self) -> tuple[str, ...]:
        found: list[str] = []
        after = ""
        while page := await self._store.list(VALUE, after=after, limit=PAGE):
            found += [json.loads(entry.value)["under"] for entry in page]
            after = page[-1].key
        return tuple(found)


def _moved(secret: Secret, stage: str, to: str | None) -> Secret:
    """`stage` at that version alone. Who loses AWSCURRENT to another becomes AWSPREVIOUS."""
    holder = secret.at(stage)
    if holder is not None and holder.id == to:
        return secret
    versions = []
    for version in secret.versions:
        stages = tuple(other for other in version.stages if other != stage)
        if version.id == to:
            stages = (*stages, stage)
        versions.append(replace(version, stages=stages))
    moved = replace(secret, versions=tuple(versions))
    new = moved.of(to) if to is not None else None
    if new is not None and len(new.stages) > STAGES_MAX:
        raise Refusal("LimitExceededException", f"a version has {STAGES_MAX} stages at most")
    if stage == CURRENT and holder is not None and to is not None:
        return _moved(moved, PREVIOUS, holder.id)
    return moved


def _trimmed(secret: Secret, keep: str) -> Secret:
    """Without the oldest versions beyond the limit, of those that bear no stage."""
    versions = list(secret.versions)
    for version in secret.versions:
        if len(versions) <= limits.SECRET_VERSIONS_MAX:
            break
        if not version.stages and version.id != keep:
            versions.remove(version)
    if len(versions) > limits.SECRET_VERSIONS_MAX:
        raise Refusal("LimitExceededException", f"it has {limits.SECRET_VERSIONS_MAX} versions with stages, which is the limit")
    return replace(secret, versions=tuple(versions))


def _value_key(secret_id: str, version_id: str) -> str:
    return f"{VALUE}{secret_id}.{hashlib.sha256(version_id.encode()).hexdigest()[:32]}"


def _context(secret: Secret, version_id: str) -> dict[str, str]:
    return {"for": "secret", "tenant": secret.tenant, "name": secret.name, "id": secret.id, "version": version_id}


def _encode(secret: Secret) -> bytes:
    raw = asdict(replace(secret, tags={}))
    raw["tags"] = dict(secret.tags)
    return json.dumps({"format": FORMAT, **raw}, ensure_ascii=False).encode()


def _decode(secret_id: str, value: bytes) -> Secret:
    try:
        raw = json.loads(value)
        if raw.pop("format") != FORMAT:
            raise Unavailable(f"secret {secret_id}: stored in a format that this version does not read; update the service")
        versions = tuple(
            Version(v["id"], int(v["number"]), float(v["created_s"]), tuple(v["stages"])) for v in raw.pop("versions")
        )
        return Secret(**{**raw, "tags": MappingProxyType(raw["tags"])}, versions=versions)
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable(
            f"secret {secret_id}: the stored value cannot be read ({type(error).__name__}); restore a copy"
        ) from None
