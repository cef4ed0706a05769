"""Operations of Secrets Manager.

Law of this file: from checked members to the secrets and back, in Secrets Manager's words. What a secret is, is
secrets.store's.

A policy of a secret lets functions read it that are named there by their role or their own ARN, or by "*": statements with
effect Allow, action secretsmanager:GetSecretValue (or a beginning that ends in *) and no condition but aws:SourceArn's.
"""

from __future__ import annotations

import base64
import json
import secrets as dice
import string
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from scheduler import limits
from scheduler.lambda_api.shapes import blob, flag, items, mapping, member, number, struct, text, whole
from scheduler.secrets.store import CURRENT, PENDING, PREVIOUS, Refusal, Secret, Value, Version
from scheduler.targets.errors import TargetError
from scheduler.targets.operations import Operation, hidden, refuse
from scheduler.targets.who import Who, granted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scheduler.secrets.store import Secrets

__all__ = ["SecretsManager", "lets"]

SECRET_ID: Final = member("SecretId", text(1, 2048), required=True)
TOKEN: Final = member("ClientRequestToken", text(32, 64))
STRING: Final = member("SecretString", hidden(text(1, limits.SECRET_BYTES_MAX)))
BINARY: Final = member("SecretBinary", hidden(blob(limits.SECRET_BYTES_MAX)))
STAGES: Final = member("VersionStages", items(text(1, 256), 1, 20))
DESCRIPTION: Final = member("Description", text(0, 2048))
KMS_KEY: Final = member("KmsKeyId", text(0, limits.KEY_NAME_CHARS_MAX))
TAGS: Final = member("Tags", items(struct(member("Key", text(1, 128)), member("Value", text(0, 256))), 0, 50))
RECOVERY_DAYS: Final = (7, 30)
POLICY_CHARS_MAX: Final = 20_480
PASSWORD_CHARS: Final = 4096


class SecretsManager:
    """`operations.Service`."""

    prefix = "secretsmanager"
    signed_as = "secretsmanager"
    spelling = "Message"

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    def operations(self) -> Sequence[Operation]:
        return (
            Operation(
                "GetSecretValue",
                struct(SECRET_ID, member("VersionId", text(32, 64)), member("VersionStage", text(1, 256))),
                self.get,
                functions=True,
            ),
            Operation(
                "BatchGetSecretValue",
                struct(member("SecretIdList", items(text(1, 2048), 1, 20), required=True)),
                self._batch,
                functions=True,
            ),
            Operation("DescribeSecret", struct(SECRET_ID), self._describe, functions=True),
            Operation(
                "CreateSecret",
                struct(
                    member("Name", text(1, limits.SECRET_NAME_CHARS_MAX), required=True),
                    TOKEN,
                    DESCRIPTION,
                    KMS_KEY,
                    STRING,
                    BINARY,
                    TAGS,
                ),
                self._create,
            ),
            Operation("PutSecretValue", struct(SECRET_ID, TOKEN, STRING, BINARY, STAGES), self._put),
            Operation("UpdateSecret", struct(SECRET_ID, TOKEN, DESCRIPTION, KMS_KEY, STRING, BINARY), self._update),
            Operation(
                "UpdateSecretVersionStage",
                struct(
                    SECRET_ID,
                    member("VersionStage", text(1, 256), required=True),
                    member("RemoveFromVersionId", text(32, 64)),
                    member("MoveToVersionId", text(32, 64)),
                ),
                self._move,
            ),
            Operation(
                "ListSecrets",
                struct(
                    member("MaxResults", whole(1, 100)),
                    member("NextToken", text(1, 4096)),
                    member("IncludePlannedDeletion", flag()),
                    member(
                        "Filters",
                        items(struct(member("Key", text()), member("Values", items(text(1, 512), 1, 10))), 0, 10),
                    ),
                    member("SortOrder", text(choices=("asc", "desc"))),
                ),
                self._list,
            ),
            Operation(
                "ListSecretVersionIds",
                struct(
                    SECRET_ID,
                    member("MaxResults", whole(1, 100)),
                    member("NextToken", text(1, 4096)),
                    member("IncludeDeprecated", flag()),
                ),
                self._versions,
            ),
            Operation(
                "DeleteSecret",
                struct(
                    SECRET_ID,
                    member("RecoveryWindowInDays", number()),
                    member("ForceDeleteWithoutRecovery", flag()),
                ),
                self._delete,
            ),
            Operation("RestoreSecret", struct(SECRET_ID), self._restore),
            Operation(
                "PutResourcePolicy",
                struct(
                    SECRET_ID,
                    member("ResourcePolicy", text(1, POLICY_CHARS_MAX), required=True),
                    member("BlockPublicPolicy", flag()),
                ),
                self._put_policy,
            ),
            Operation("GetResourcePolicy", struct(SECRET_ID), self._get_policy),
            Operation("DeleteResourcePolicy", struct(SECRET_ID), self._delete_policy),
            Operation("TagResource", struct(SECRET_ID, TAGS), self._tag),
            Operation(
                "UntagResource",
                struct(SECRET_ID, member("TagKeys", items(text(1, 128), 0, 50), required=True)),
                self._untag,
            ),
            Operation(
                "GetRandomPassword",
                struct(
                    member("PasswordLength", whole(1, PASSWORD_CHARS)),
                    member("ExcludeCharacters", text(0, PASSWORD_CHARS)),
                    member("ExcludePunctuation", flag()),
                    member("ExcludeNumbers", flag()),
                    member("ExcludeLowercase", flag()),
                    member("ExcludeUppercase", flag()),
                    member("IncludeSpace", flag()),
                    member("RequireEachIncludedType", flag()),
                ),
                self._password,
            ),
            Operation("RotateSecret", struct(SECRET_ID, member("Rules", mapping(text()))), self._rotate),
        )

    # ---- reading ----

    def check(self, who: Who, name: str, action: str) -> None:
        """A function may know of it. It is not told whether there is one that it may not know of. TargetError."""
        if not who.is_function or granted(who.secrets, (name,)):
            return
        try:
            secret = self._secrets.find(name, who.tenant)
        except Refusal:
            secret = None
        if secret is None or not (granted(who.secrets, self._secrets.names(secret)) or lets(secret.policy, who)):
            raise refuse(who, f"secretsmanager:{action}", name)

    async def get(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        self.check(who, values["SecretId"], "GetSecretValue")
        found = await self._secrets.value(
            values["SecretId"], who.tenant, version_id=values.get("VersionId"), stage=values.get("VersionStage")
        )
        return self._value(*found)

    def _value(self, secret: Secret, version: Version, value: Value) -> dict[str, Any]:
        shown: dict[str, Any] = {"ARN": self._secrets.arn(secret), "Name": secret.name, "VersionId": version.id}
        if value.text is not None:
            shown["SecretString"] = value.text
        else:
            shown["SecretBinary"] = base64.b64encode(value.binary or b"").decode()
        return {**shown, "VersionStages": list(version.stages), "CreatedDate": version.created_s}

    async def _batch(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        found: list[dict[str, Any]] = []
        errors: list[dict[str, str]] = []
        for name in values["SecretIdList"]:
            try:
                found.append(await self.get(who, {"SecretId": name}))
            except (TargetError, Refusal) as error:
                errors.append({"SecretId": name, "ErrorCode": error.name, "Message": error.message})
        return {"SecretValues": found, "Errors": errors}

    async def _describe(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        self.check(who, values["SecretId"], "DescribeSecret")
        return self._shown(self._secrets.find(values["SecretId"], who.tenant, deleted=True), whole=True)

    def _shown(self, secret: Secret, *, whole: bool = False) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "ARN": self._secrets.arn(secret),
            "Name": secret.name,
            "Description": secret.description,
            "CreatedDate": secret.created_s,
            "LastChangedDate": secret.changed_s,
            "RotationEnabled": False,
        }
        shown["VersionIdsToStages" if whole else "SecretVersionsToStages"] = {
            version.id: list(version.stages) for version in secret.versions if version.stages
        }
        more: dict[str, Any] = {
            "KmsKeyId": secret.key or None,
            "DeletedDate": secret.deletion_s,
            "LastRotatedDate": secret.rotated_s,
            "Tags": [{"Key": key, "Value": value} for key, value in secret.tags.items()] or None,
        }
        return shown | {name: value for name, value in more.items() if value is not None}

    async def _list(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        rows = [
            (secret.name, self._shown(secret))
            for secret in self._secrets.all(who.tenant)
            if (secret.deletion_s is None or values.get("IncludePlannedDeletion"))
            and _passes(secret, values.get("Filters", []))
        ]
        return _page("SecretList", rows, values)

    async def _versions(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        secret = self._secrets.find(values["SecretId"], who.tenant, deleted=True)
        rows = [
            (
                f"{version.number:09}",
                {"VersionId": version.id, "VersionStages": list(version.stages), "CreatedDate": version.created_s},
            )
            for version in secret.versions
            if version.stages or values.get("IncludeDeprecated")
        ]
        return _page("Versions", rows, values) | {"ARN": self._secrets.arn(secret), "Name": secret.name}

    # ---- writing ----

    async def _create(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        secret = await self._secrets.create(
            who.tenant,
            values["Name"],
            _value_of(values),
            token=values.get("ClientRequestToken"),
            description=values.get("Description", ""),
            key=values.get("KmsKeyId", ""),
            tags={tag["Key"]: tag.get("Value", "") for tag in values.get("Tags", [])},
        )
        current = secret.at(CURRENT)
        return self._named(secret) | ({"VersionId": current.id} if current is not None else {})

    def _named(self, secret: Secret) -> dict[str, Any]:
        return {"ARN": self._secrets.arn(secret), "Name": secret.name}

    async def _put(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        value = _value_of(values)
        if value is None:
            raise TargetError("InvalidRequestException", "You must provide either SecretString or SecretBinary.")
        secret, version = await self._secrets.put(
            values["SecretId"],
            who.tenant,
            value,
            token=values.get("ClientRequestToken"),
            stages=values.get("VersionStages", (CURRENT,)),
        )
        return self._named(secret) | {"VersionId": version.id, "VersionStages": list(version.stages)}

    async def _update(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        name = values["SecretId"]
        fields = {
            key: values[member] for member, key in (("Description", "description"), ("KmsKeyId", "key")) if member in values
        }
        secret = self._secrets.find(name, who.tenant)
        if fields:
            secret = await self._secrets.describe_as(name, who.tenant, **fields)
        value = _value_of(values)
        if value is None:
            return self._named(secret)
        secret, version = await self._secrets.put(name, who.tenant, value, token=values.get("ClientRequestToken"))
        return self._named(secret) | {"VersionId": version.id}

    async def _move(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        secret = await self._secrets.move_stage(
            values["SecretId"],
            who.tenant,
            values["VersionStage"],
            to=values.get("MoveToVersionId"),
            away_from=values.get("RemoveFromVersionId"),
        )
        return self._named(secret)

    async def _delete(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        forced, days = values.get("ForceDeleteWithoutRecovery", False), values.get("RecoveryWindowInDays")
        if forced and days is not None:
            raise TargetError(
                "InvalidParameterException",
                "You can't use ForceDeleteWithoutRecovery in conjunction with RecoveryWindowInDays.",
            )
        if days is not None and not RECOVERY_DAYS[0] <= days <= RECOVERY_DAYS[1]:
            raise TargetError(
                "InvalidParameterException", "RecoveryWindowInDays value must be between 7 and 30 days (inclusive)."
            )
        wanted = None if forced else int(days or RECOVERY_DAYS[1])
        try:
            secret = await self._secrets.delete(values["SecretId"], who.tenant, days=wanted)
        except Refusal as refusal:
            if forced and refusal.name == "ResourceNotFoundException":  # as it was asked for
                return {"Name": values["SecretId"]}
            raise
        return self._named(secret) | {"DeletionDate": secret.deletion_s}

    async def _restore(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        return self._named(await self._secrets.restore(values["SecretId"], who.tenant))

    async def _put_policy(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        _check_policy(values["ResourcePolicy"])
        secret = await self._secrets.describe_as(values["SecretId"], who.tenant, policy=values["ResourcePolicy"])
        return self._named(secret)

    async def _get_policy(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        secret = self._secrets.find(values["SecretId"], who.tenant)
        return self._named(secret) | ({"ResourcePolicy": secret.policy} if secret.policy else {})

    async def _delete_policy(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        return self._named(await self._secrets.describe_as(values["SecretId"], who.tenant, policy=""))

    async def _tag(self, who: Who, values: Mapping[str, Any]) -> None:
        tags = {tag["Key"]: tag.get("Value", "") for tag in values.get("Tags", [])}
        now = self._secrets.find(values["SecretId"], who.tenant)
        await self._secrets.describe_as(values["SecretId"], who.tenant, tags={**now.tags, **tags})

    async def _untag(self, who: Who, values: Mapping[str, Any]) -> None:
        now = self._secrets.find(values["SecretId"], who.tenant)
        kept = {key: value for key, value in now.tags.items() if key not in values["TagKeys"]}
        await self._secrets.describe_as(values["SecretId"], who.tenant, tags=kept)

    async def _password(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        kinds = [
            chars
            for name, chars in (
                ("ExcludeLowercase", string.ascii_lowercase),
                ("ExcludeUppercase", string.ascii_uppercase),
                ("ExcludeNumbers", string.digits),
                ("ExcludePunctuation", string.punctuation),
            )
            if not values.get(name)
        ] + ([" "] if values.get("IncludeSpace") else [])
        without = set(values.get("ExcludeCharacters", ""))
        kinds = [left for chars in kinds if (left := "".join(c for c in chars if c not in without))]
        length = values.get("PasswordLength", 32)
        each = kinds if values.get("RequireEachIncludedType", True) else []
        if not kinds or length < len(each):
            raise TargetError("InvalidParameterException", "no password can be made of what is left of the characters")
        chosen = [dice.choice(chars) for chars in each]
        chosen += [dice.choice("".join(kinds)) for _ in range(length - len(chosen))]
        dice.SystemRandom().shuffle(chosen)
        return {"RandomPassword": "".join(chosen)}

    async def _rotate(self, who: Who, values: Mapping[str, Any]) -> dict[str, Any]:
        raise TargetError(
            "InvalidRequestException",
            "No Lambda rotation function ARN is associated with this secret: rotation by a function is not part of this "
            f"service; put a new value, at {PENDING} first where it has to be tried, and it is {CURRENT} when you say so. The "
            f"one before stays as {PREVIOUS}",
        )


def _value_of(values: Mapping[str, Any]) -> Value | None:
    if "SecretString" in values and "SecretBinary" in values:
        raise TargetError(
            "InvalidParameterException", "You can't specify both a binary secret value and a string secret value."
        )
    if "SecretString" in values:
        return Value(text=values["SecretString"])
    return Value(binary=values["SecretBinary"]) if "SecretBinary" in values else None


def _passes(secret: Secret, filters: Sequence[Mapping[str, Any]]) -> bool:
    """Beginnings of names, descriptions and tags, as Secrets Manager has it; `all` is any of them."""
    fields = {
        "name": [secret.name],
        "description": [secret.description],
        "tag-key": list(secret.tags),
        "tag-value": list(secret.tags.values()),
    }
    for row in filters:
        key = row.get("Key", "")
        texts = fields.get(key) if key != "all" else [text for group in fields.values() for text in group]
        if texts is None:
            raise TargetError(
                "InvalidParameterException", f"Filters: {key[:64]!r} is not one of name, description, tag-key, tag-value, all"
            )
        if not any(text.startswith(value) for text in texts for value in row.get("Values", [])):
            return False
    return True


def _page(name: str, rows: Sequence[tuple[str, dict[str, Any]]], values: Mapping[str, Any]) -> dict[str, Any]:
    most, after = values.get("MaxResults", 100), values.get("NextToken", "")
    left = [(key, row) for key, row in sorted(rows, key=lambda row: row[0]) if key > after]
    answer: dict[str, Any] = {name: [row for _, row in left[:most]]}
    return {**answer, "NextToken": left[most - 1][0]} if len(left) > most else answer


# ---- policies ----------------------------------------------------------------------------------------------------------


def _statements(policy: str) -> list[Any]:
    raw = json.loads(policy).get("Statement", [])
    return raw if isinstance(raw, list) else [raw]


def _texts(value: Any) -> list[str]:
    return (
        [value]
        if isinstance(value, str)
        else [text for text in value if isinstance(text, str)]
        if isinstance(value, list)
        else []
    )


def _check_policy(policy: str) -> None:
    """TargetError: it says something that would not be held to here."""
    try:
        statements = _statements(policy)
    except (ValueError, AttributeError, RecursionError):
        raise TargetError("MalformedPolicyDocumentException", "This resource policy contains invalid Json") from None
    for row in statements:
        if not isinstance(row, dict) or row.get("Effect") != "Allow" or not _texts(row.get("Action")):
            raise TargetError(
                "MalformedPolicyDocumentException", "each statement must be an Allow with actions; nothing else is held to here"
            )
        if set(row) - {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}:
            raise TargetError("MalformedPolicyDocumentException", "a statement has elements that are not held to here")
        if not _conditions_are_known(row.get("Condition", {})):
            raise TargetError(
                "MalformedPolicyDocumentException", "of conditions, ArnEquals and ArnLike on aws:SourceArn are held to here"
            )


def _conditions_are_known(conditions: Any) -> bool:
    return isinstance(conditions, dict) and all(
        operator in ("ArnEquals", "ArnLike") and isinstance(pairs, dict) and all(k.lower() == "aws:sourcearn" for k in pairs)
        for operator, pairs in conditions.items()
    )


def lets(policy: str, who: Who) -> bool:
    """Whether a secret's policy lets this function read it."""
    if not policy:
        return False
    return any(_lets(row, who) for row in _statements(policy))


def _lets(row: Mapping[str, Any], who: Who) -> bool:
    named = row.get("Principal")
    principals = _texts(named.get("AWS")) if isinstance(named, dict) else _texts(named)
    meant = any(p == "*" or p in (who.role, who.function) for p in principals if p)
    acts = any(fnmatchcase("secretsmanager:GetSecretValue", action) for action in _texts(row.get("Action")))
    holds = all(
        any(fnmatchcase(who.function, wanted) if operator == "ArnLike" else who.function == wanted for wanted in _texts(values))
        for operator, pairs in row.get("Condition", {}).items()
        for values in pairs.values()
    )
    return meant and acts and holds
