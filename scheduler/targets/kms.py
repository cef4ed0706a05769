"""Operations of the Key Management Service on symmetric keys.

Law of this file: from checked members to the master keys and back, in KMS's words. What a key promises is keys.masters'.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from scheduler import limits
from scheduler.keys.masters import ALIAS, PENDING_DAYS, MasterKey, State
from scheduler.lambda_api.shapes import blob, flag, items, mapping, member, struct, text, whole
from scheduler.targets.errors import TargetError
from scheduler.targets.operations import Operation, hidden, refuse
from scheduler.targets.who import Who, granted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scheduler.keys.masters import MasterKeys

__all__ = ["DEFAULT_ALIAS", "Kms"]

DEFAULT_ALIAS: Final = "alias/default"
"""Made for a tenant when it is first used to encrypt."""

CIPHERTEXT_BYTES_MAX: Final = 6144
KEY_ID: Final = text(1, limits.KEY_NAME_CHARS_MAX)
CONTEXT: Final = mapping(text(0, 8192), 64)
PLAINTEXT: Final = hidden(blob(limits.KMS_PLAINTEXT_BYTES_MAX))
CIPHERTEXT: Final = blob(CIPHERTEXT_BYTES_MAX)
ALGORITHM: Final = member("EncryptionAlgorithm", text(choices=("SYMMETRIC_DEFAULT",)))
THE_KEY: Final = member("KeyId", KEY_ID, required=True)
THE_CONTEXT: Final = member("EncryptionContext", CONTEXT)
ONE_KEY: Final = struct(THE_KEY)
ALIAS_NAME: Final = member("AliasName", text(1, 256), required=True)
PAGE: Final = (member("Limit", whole(1, 1000)), member("Marker", text(1, 1024)))
DATA_KEY: Final = struct(
    THE_KEY, THE_CONTEXT, member("KeySpec", text(choices=("AES_256", "AES_128"))), member("NumberOfBytes", whole(1, 1024))
)
_BYTES: Final = {"AES_256": 32, "AES_128": 16}


class Kms:
    """`operations.Service`."""

    prefix = "TrentService"
    signed_as = "kms"
    spelling = "message"

    def __init__(self, masters: MasterKeys, account_id: str) -> None:
        self._masters = masters
        self._account_id = account_id

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "Encrypt",
                struct(THE_KEY, member("Plaintext", PLAINTEXT, required=True), THE_CONTEXT, ALGORITHM),
                self._encrypt,
                functions=True,
            ),
            Operation(
                "Decrypt",
                struct(member("CiphertextBlob", CIPHERTEXT, required=True), THE_CONTEXT, ALGORITHM, member("KeyId", KEY_ID)),
                self._decrypt,
                functions=True,
            ),
            Operation(
                "ReEncrypt",
                struct(
                    member("CiphertextBlob", CIPHERTEXT, required=True),
                    member("SourceEncryptionContext", CONTEXT),
                    member("SourceKeyId", KEY_ID),
                    member("DestinationKeyId", KEY_ID, required=True),
                    member("DestinationEncryptionContext", CONTEXT),
                ),
                self._re_encrypt,
                functions=True,
            ),
            Operation("GenerateDataKey", DATA_KEY, self._generate, functions=True),
            Operation("GenerateDataKeyWithoutPlaintext", DATA_KEY, self._generate_without, functions=True),
            Operation(
                "GenerateRandom", struct(member("NumberOfBytes", whole(1, 1024), required=True)), self._random, functions=True
            ),
            Operation("DescribeKey", ONE_KEY, self._describe, functions=True),
            Operation(
                "CreateKey",
                struct(
                    member("Description", text(0, 8192)),
                    member("KeyUsage", text()),
                    member("KeySpec", text()),
                    member("CustomerMasterKeySpec", text()),
                    member("Origin", text()),
                    member("MultiRegion", flag()),
                    member("Policy", text(1, 131_072)),
                    member("Tags", items(struct(), 0, 50)),
                ),
                self._create,
            ),
            Operation("EnableKey", ONE_KEY, self._enable),
            Operation("DisableKey", ONE_KEY, self._disable),
            Operation(
                "ScheduleKeyDeletion", struct(THE_KEY, member("PendingWindowInDays", whole(*PENDING_DAYS))), self._delete
            ),
            Operation("CancelKeyDeletion", ONE_KEY, self._keep),
            Operation("RotateKeyOnDemand", ONE_KEY, self._rotate),
            Operation(
                "UpdateKeyDescription",
                struct(THE_KEY, member("Description", text(0, 8192), required=True)),
                self._set_description,
            ),
            Operation("CreateAlias", struct(ALIAS_NAME, member("TargetKeyId", KEY_ID, required=True)), self._create_alias),
            Operation("DeleteAlias", struct(ALIAS_NAME), self._delete_alias),
            Operation("ListKeys", struct(*PAGE), self._list),
            Operation("ListAliases", struct(member("KeyId", KEY_ID), *PAGE), self._list_aliases),
        )

    # ---- using ----

    def _find(self, who: Who, name: str, action: str) -> MasterKey:
        """The key, if this caller may use it. A function is not told whether there is one that it may not use."""
        if who.is_function and not granted(who.keys, (name,)) and not self._named(who, name):
            raise refuse(who, f"kms:{action}", name)
        return self._masters.find(name, who.tenant)

    def _named(self, who: Who, name: str) -> bool:
        """It is granted under another of its names."""
        known = next((key for key in self._masters.of(who.tenant) if name in self._names(key)), None)
        return known is not None and granted(who.keys, self._names(known))

    def _names(self, key: MasterKey) -> tuple[str, ...]:
        aliases = [name for alias in key.aliases for name in (alias, self._masters.alias_arn(alias))]
        return (key.id, self._masters.arn(key), *aliases)

    async def _default(self, who: Who, name: str) -> None:
        """The default key is there once somebody uses it."""
        if name == DEFAULT_ALIAS and not who.is_function:
            known = {alias for key in self._masters.of(who.tenant) for alias in key.aliases}
            if DEFAULT_ALIAS not in known:
                await self._masters.create(who.tenant, "made when it was first used", (DEFAULT_ALIAS,))

    async def _encrypt(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        await self._default(who, values["KeyId"])
        key = self._find(who, values["KeyId"], "Encrypt")
        sealed = self._masters.encrypt(key, values["Plaintext"], values.get("EncryptionContext", {}))
        return {"CiphertextBlob": _b64(sealed), "KeyId": self._masters.arn(key), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}

    def _open(
        self, who: Who, sealed: bytes, context: Mapping[str, str], wanted: str | None, action: str
    ) -> tuple[MasterKey, bytes]:
        key, plain = self._masters.decrypt(sealed, context, tenant=who.tenant)
        if who.is_function and not granted(who.keys, self._names(key)):
            raise refuse(who, f"kms:{action}", self._masters.arn(key))
        if wanted is not None and self._masters.find(wanted, who.tenant).id != key.id:
            raise TargetError(
                "IncorrectKeyException",
                "The key ID in the request does not identify a CMK that can perform this operation.",
            )
        return key, plain

    async def _decrypt(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        context = values.get("EncryptionContext", {})
        key, plain = self._open(who, values["CiphertextBlob"], context, values.get("KeyId"), "Decrypt")
        return {"KeyId": self._masters.arn(key), "Plaintext": _b64(plain), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}

    async def _re_encrypt(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        context = values.get("SourceEncryptionContext", {})
        old, plain = self._open(who, values["CiphertextBlob"], context, values.get("SourceKeyId"), "ReEncryptFrom")
        key = self._find(who, values["DestinationKeyId"], "ReEncryptTo")
        return {
            "CiphertextBlob": _b64(self._masters.encrypt(key, plain, values.get("DestinationEncryptionContext", {}))),
            "SourceKeyId": self._masters.arn(old),
            "KeyId": self._masters.arn(key),
            "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
            "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }

    async def _generate(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        if ("KeySpec" in values) == ("NumberOfBytes" in values):
            raise TargetError("ValidationException", "Please specify either number of bytes or key spec.")
        await self._default(who, values["KeyId"])
        key = self._find(who, values["KeyId"], "GenerateDataKey")
        plain = secrets.token_bytes(values.get("NumberOfBytes") or _BYTES[values["KeySpec"]])
        sealed = self._masters.encrypt(key, plain, values.get("EncryptionContext", {}))
        return {"CiphertextBlob": _b64(sealed), "Plaintext": _b64(plain), "KeyId": self._masters.arn(key)}

    async def _generate_without(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        made = await self._generate(who, values)
        return {name: value for name, value in made.items() if name != "Plaintext"}

    async def _random(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"Plaintext": _b64(secrets.token_bytes(values["NumberOfBytes"]))}

    # ---- looking after ----

    def _metadata(self, key: MasterKey) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "AWSAccountId": self._account_id,
            "KeyId": key.id,
            "Arn": self._masters.arn(key),
            "CreationDate": key.created_s,
            "Enabled": key.state is State.ENABLED,
            "Description": key.description,
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeyState": key.state.value,
            "Origin": "AWS_KMS",
            "KeyManager": "CUSTOMER",
            "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
            "KeySpec": "SYMMETRIC_DEFAULT",
            "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
            "MultiRegion": False,
        }
        return shown if key.deletion_s is None else {**shown, "DeletionDate": key.deletion_s}

    async def _describe(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        await self._default(who, values["KeyId"])
        return {"KeyMetadata": self._metadata(self._find(who, values["KeyId"], "DescribeKey"))}

    async def _create(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        wanted = {
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeySpec": "SYMMETRIC_DEFAULT",
            "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
            "Origin": "AWS_KMS",
            "MultiRegion": False,
        }
        for name, only in wanted.items():
            if values.get(name, only) != only:
                raise TargetError(
                    "UnsupportedOperationException", f"{name}: {values[name]!r} is not {only!r}, the only one here"
                )
        for name in ("Policy", "Tags"):
            if values.get(name):
                raise TargetError(
                    "UnsupportedOperationException", f"{name}: a key is its tenant's; what may use it is granted there"
                )
        return {"KeyMetadata": self._metadata(await self._masters.create(who.tenant, values.get("Description", "")))}

    async def _enable(self, who: Who, values: Mapping[str, Any]) -> None:
        await self._masters.set_enabled(values["KeyId"], who.tenant, True)

    async def _disable(self, who: Who, values: Mapping[str, Any]) -> None:
        await self._masters.set_enabled(values["KeyId"], who.tenant, False)

    async def _delete(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        days = values.get("PendingWindowInDays", PENDING_DAYS[1])
        key = await self._masters.schedule_deletion(values["KeyId"], who.tenant, days)
        return {
            "KeyId": self._masters.arn(key),
            "DeletionDate": key.deletion_s,
            "KeyState": key.state.value,
            "PendingWindowInDays": days,
        }

    async def _keep(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"KeyId": self._masters.arn(await self._masters.cancel_deletion(values["KeyId"], who.tenant))}

    async def _rotate(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        return {"KeyId": self._masters.arn(await self._masters.rotate(values["KeyId"], who.tenant))}

    async def _set_description(self, who: Who, values: Mapping[str, Any]) -> None:
        await self._masters.change(values["KeyId"], who.tenant, lambda key: replace(key, description=values["Description"]))

    async def _create_alias(self, who: Who, values: Mapping[str, Any]) -> None:
        await self._masters.add_alias(values["AliasName"], values["TargetKeyId"], who.tenant)

    async def _delete_alias(self, who: Who, values: Mapping[str, Any]) -> None:
        if ALIAS.fullmatch(values["AliasName"]) is None:
            raise TargetError("NotFoundException", f"Alias {values['AliasName']} is not found.")
        await self._masters.drop_alias(values["AliasName"], who.tenant)

    async def _list(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        keys = self._masters.of(who.tenant)
        rows = [(key.id, {"KeyId": key.id, "KeyArn": self._masters.arn(key)}) for key in keys]
        return _page("Keys", rows, values)

    async def _list_aliases(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        wanted = self._masters.find(values["KeyId"], who.tenant).id if "KeyId" in values else None
        rows = [
            (
                alias,
                {
                    "AliasName": alias,
                    "AliasArn": self._masters.alias_arn(alias),
                    "TargetKeyId": key.id,
                    "CreationDate": key.created_s,
                },
            )
            for key in self._masters.of(who.tenant)
            if wanted in (None, key.id)
            for alias in key.aliases
        ]
        return _page("Aliases", sorted(rows, key=lambda row: row[0]), values)


def _page(name: str, rows: Sequence[tuple[str, dict[str, Any]]], values: Mapping[str, Any]) -> dict[str, Any]:
    """Rows after the marker, which is the last row's name."""
    most, after = values.get("Limit", 100), values.get("Marker", "")
    left = [(key, row) for key, row in rows if key > after]
    answer: dict[str, Any] = {name: [row for _, row in left[:most]], "Truncated": len(left) > most}
    return {**answer, "NextMarker": left[most - 1][0]} if len(left) > most else answer


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
