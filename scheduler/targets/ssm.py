"""Operations of SSM's Parameter Store: secrets by their other name.

Law of this file: from checked members to the secrets and back. A parameter is a secret whose name it has; its version is the
number of the secret's version, and its labels are the stages. `/aws/reference/secretsmanager/NAME` means NAME, as in AWS.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any, Final

from scheduler import limits
from scheduler.lambda_api.shapes import flag, items, member, struct, text, whole
from scheduler.secrets.store import Refusal, Secret, Value, Version
from scheduler.targets.errors import TargetError
from scheduler.targets.operations import Operation, hidden, refuse
from scheduler.targets.who import Who, granted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scheduler.secrets.store import Secrets

__all__ = ["REFERENCE", "Ssm"]

REFERENCE: Final = "/aws/reference/secretsmanager/"
NAME: Final = text(1, 2048)
TYPES: Final = ("String", "StringList", "SecureString")
_ERRORS: Final = {
    "ResourceNotFoundException": "ParameterNotFound",
    "InvalidRequestException": "ParameterNotFound",
    "ResourceExistsException": "ParameterAlreadyExists",
    "InvalidParameterException": "ValidationException",
    "LimitExceededException": "ParameterLimitExceeded",
    "DecryptionFailure": "InvalidKeyId",
}


class Ssm:
    """`operations.Service`. arn: from what stands behind the account, to an ARN."""

    prefix = "AmazonSSM"
    signed_as = "ssm"
    spelling = "message"

    def __init__(self, secrets: Secrets, arn: Callable[[str], str]) -> None:
        self._secrets = secrets
        self._arn = arn

    def operations(self) -> Sequence[Operation]:
        decrypt = member("WithDecryption", flag())
        return (
            Operation("GetParameter", struct(member("Name", NAME, required=True), decrypt), self.get, functions=True),
            Operation(
                "GetParameters",
                struct(member("Names", items(NAME, 1, 10), required=True), decrypt),
                self._several,
                functions=True,
            ),
            Operation(
                "GetParametersByPath",
                struct(
                    member("Path", NAME, required=True),
                    member("Recursive", flag()),
                    decrypt,
                    member("MaxResults", whole(1, 10)),
                    member("NextToken", text(1, 4096)),
                ),
                self._by_path,
                functions=True,
            ),
            Operation(
                "PutParameter",
                struct(
                    member("Name", NAME, required=True),
                    member("Value", hidden(text(1, limits.SECRET_BYTES_MAX)), required=True),
                    member("Type", text(choices=TYPES)),
                    member("Description", text(0, 1024)),
                    member("KeyId", text(1, 256)),
                    member("Overwrite", flag()),
                    member("DataType", text(0, 128)),
                    member("Tier", text()),
                ),
                self._put,
            ),
            Operation("DeleteParameter", struct(member("Name", NAME, required=True)), self._delete),
        )

    # ---- reading ----

    def _split(self, who: Who, name: str) -> tuple[str, str]:
        """Name, and what stands behind a colon: a version or a label."""
        prefix = self._arn("ssm:parameter")
        bare = name.removeprefix(prefix) if name.startswith(prefix + "/") else name
        bare, _, selector = bare.partition(":")
        bare = bare.removeprefix(REFERENCE)
        # An ARN has a slash before each name, which may or may not begin with one of its own.
        if name.startswith(prefix) and not self._secrets.has(bare, who.tenant):
            bare = bare.removeprefix("/")
        return bare, selector

    async def get(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        name, selector = self._split(who, values["Name"])
        if who.is_function and not granted(who.secrets, (name, values["Name"])):
            raise refuse(who, "ssm:GetParameter", values["Name"])
        try:
            found = await self._secrets.value(
                name,
                who.tenant,
                number=int(selector) if selector.isascii() and selector.isdigit() else None,
                stage=selector if selector and not selector.isdigit() else None,
            )
        except Refusal as refusal:
            raise _translated(refusal, selector) from None
        return {"Parameter": self._shown(*found, values, selector)}

    def _shown(
        self, secret: Secret, version: Version, value: Value, values: Mapping[str, Any], selector: str = ""
    ) -> dict[str, Any]:
        plain = value.text if value.text is not None else base64.b64encode(value.binary or b"").decode()
        if secret.kind == "SecureString" and not values.get("WithDecryption"):
            # What AWS gives here is ciphertext of its own; this stands in for it, and tells whether the value has changed.
            plain = hashlib.sha256(f"{secret.id}:{version.id}".encode()).hexdigest()
        shown: dict[str, Any] = {
            "ARN": self._arn("ssm:parameter" + ("" if secret.name.startswith("/") else "/") + secret.name),
            "Name": secret.name,
            "Type": secret.kind,
            "Value": plain,
            "Version": version.number,
            "LastModifiedDate": version.created_s,
            "DataType": "text",
        }
        return {**shown, "Selector": f":{selector}"} if selector else shown

    async def _several(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        missing: list[str] = []
        for name in values["Names"]:
            try:
                found.append((await self.get(who, {**values, "Name": name}))["Parameter"])
            except TargetError as error:
                if error.name not in ("ParameterNotFound", "ParameterVersionNotFound"):
                    raise
                missing.append(name)
        return {"Parameters": found, "InvalidParameters": missing}

    async def _by_path(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        path = values["Path"].rstrip("/") + "/"
        if who.is_function and not granted(who.secrets, (path,)):
            raise refuse(who, "ssm:GetParametersByPath", values["Path"])
        after, most = values.get("NextToken", ""), values.get("MaxResults", 10)
        names = [
            secret.name
            for secret in self._secrets.all(who.tenant)
            if secret.name.startswith(path)
            and secret.name > after
            and secret.deletion_s is None
            and (values.get("Recursive") or "/" not in secret.name[len(path) :])
        ]
        found = [(await self.get(who, {**values, "Name": name}))["Parameter"] for name in names[:most]]
        return {"Parameters": found} | ({"NextToken": names[most - 1]} if len(names) > most else {})

    # ---- writing ----

    async def _put(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        name, selector = self._split(who, values["Name"])
        if selector:
            raise TargetError("ValidationException", "a version or label cannot be written to")
        value = Value(text=values["Value"])
        try:
            try:
                self._secrets.find(name, who.tenant)
            except Refusal:
                secret = await self._secrets.create(
                    who.tenant,
                    name,
                    value,
                    kind=values.get("Type", "SecureString"),
                    description=values.get("Description", ""),
                    key=values.get("KeyId", ""),
                )
            else:
                if not values.get("Overwrite"):
                    raise Refusal(
                        "ResourceExistsException",
                        "The parameter already exists. To overwrite this value, set the overwrite option in the request to "
                        "true.",
                    )
                secret, _ = await self._secrets.put(name, who.tenant, value)
        except Refusal as refusal:
            raise _translated(refusal, "") from None
        return {"Version": secret.last, "Tier": "Standard"}

    async def _delete(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        try:
            await self._secrets.delete(self._split(who, values["Name"])[0], who.tenant, days=None)
        except Refusal as refusal:
            raise _translated(refusal, "") from None
        return {}


def _translated(refusal: Refusal, selector: str) -> TargetError:
    name = _ERRORS.get(refusal.name, refusal.name)
    if name == "ParameterNotFound":
        return TargetError("ParameterVersionNotFound" if selector else name, "")
    return TargetError(name, refusal.message)
