"""The names of functions: every form Lambda accepts, read in one place and written in one place.

Law of this file: text in, `Reference` out, no knowledge of which functions exist.

    name   name:qualifier   000000000000:function:name[:qualifier]   arn:aws:lambda:REGION:ACCOUNT:function:name[:qualifier]

A qualifier is `$LATEST`, a version number or an alias. A reference without one means `$LATEST`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from scheduler import limits
from scheduler.errors import BadRequest, NotFound

__all__ = ["LATEST", "Identity", "Reference", "is_version", "parse"]

LATEST: Final = "$LATEST"

NAME: Final = re.compile(rf"[a-zA-Z0-9_-]{{1,{limits.FUNCTION_NAME_CHARS_MAX}}}")
TENANT: Final = re.compile(rf"[a-zA-Z0-9_-]{{1,{limits.TENANT_NAME_CHARS_MAX}}}")
ALIAS: Final = re.compile(rf"(?![0-9]+$)[a-zA-Z0-9_-]{{1,{limits.ALIAS_CHARS_MAX}}}")
VERSION: Final = re.compile(r"[1-9][0-9]{0,9}")
ACCOUNT: Final = re.compile(r"[0-9]{12}")


@dataclass(frozen=True, slots=True)
class Identity:
    """Region and account of the ARNs this service makes and answers to."""

    region: str = "local"
    account_id: str = "000000000000"

    def arn(self, name: str, qualifier: str | None = None) -> str:
        """As Lambda writes it: qualified only where a qualifier is given."""
        unqualified = f"arn:aws:lambda:{self.region}:{self.account_id}:function:{name}"
        return unqualified if qualifier is None else f"{unqualified}:{qualifier}"

    def of_service(self, text: str) -> str:
        """An ARN of a thing of another service: `kms:key/…`, `secretsmanager:secret:…`."""
        service, _, thing = text.partition(":")
        return f"arn:aws:{service}:{self.region}:{self.account_id}:{thing}"

    def spellings(self, name: str, qualifier: str) -> tuple[str, ...]:
        """Every text by which a client may call this version, for a table that is looked up byte by byte."""
        bare = (name, f"{self.account_id}:function:{name}", self.arn(name))
        qualified = tuple(f"{text}:{qualifier}" for text in bare)
        return bare + qualified if qualifier == LATEST else qualified


@dataclass(frozen=True, slots=True)
class Reference:
    """What a caller named. `qualifier` None: not given."""

    name: str
    qualifier: str | None = None

    @property
    def effective(self) -> str:
        return LATEST if self.qualifier is None else self.qualifier

    def __str__(self) -> str:
        return self.name if self.qualifier is None else f"{self.name}:{self.qualifier}"


def is_version(qualifier: str) -> bool:
    """True of a version number, false of `$LATEST` and aliases."""
    return VERSION.fullmatch(qualifier) is not None


def parse(text: object, identity: Identity, qualifier: str | None = None) -> Reference:
    """Read `text`, one of the forms above; `qualifier` is one given beside it, which must agree.

    Raises BadRequest for what is no name, NotFound for a well-formed ARN of another region or account.
    """
    if not isinstance(text, str):
        raise BadRequest(f"name: expected text, got {type(text).__name__}")
    if not 1 <= len(text) <= limits.FUNCTION_REFERENCE_CHARS_MAX:
        raise BadRequest(f"name: has {len(text)} characters, the limit is 1 to {limits.FUNCTION_REFERENCE_CHARS_MAX}")
    parts = text.split(":")
    region = account = None
    if parts[:3] == ["arn", "aws", "lambda"]:
        if len(parts) not in (7, 8) or parts[5] != "function":
            raise BadRequest(f"name: {text!r} is no ARN of a function")
        region, account, rest = parts[3], parts[4], parts[6:]
    elif len(parts) in (3, 4) and parts[1] == "function":
        account, rest = parts[0], parts[2:]
        if not ACCOUNT.fullmatch(account):
            raise BadRequest(f"name: {account!r} in {text!r} is no account id of twelve digits")
    else:
        rest = parts
    if len(rest) > 2:
        raise BadRequest(f"name: {text!r} has more parts than name and qualifier")
    name = rest[0]
    if not NAME.fullmatch(name):
        raise BadRequest(f"name: {name!r} does not match [a-zA-Z0-9-_]+ with 1 to {limits.FUNCTION_NAME_CHARS_MAX} characters")
    inner = rest[1] if len(rest) == 2 else None
    if inner is not None and qualifier is not None and inner != qualifier:
        raise BadRequest("The derived qualifier from the function name does not match the specified qualifier.")
    chosen = qualifier if inner is None else inner
    if chosen is not None and not (chosen == LATEST or VERSION.fullmatch(chosen) or ALIAS.fullmatch(chosen)):
        raise BadRequest(
            f"qualifier: {chosen!r} is not {LATEST}, a version number, or an alias of 1 to {limits.ALIAS_CHARS_MAX} "
            "characters of [a-zA-Z0-9-_]"
        )
    if (region is not None and region != identity.region) or (account is not None and account != identity.account_id):
        raise NotFound(f"Function not found: {text} (this is region {identity.region}, account {identity.account_id})")
    return Reference(name, chosen)
