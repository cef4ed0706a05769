"""What SAM's policy templates grant of secrets and keys, in this service's words.

Law of this file: pure. There is no IAM here, but a function may use what its configuration grants it, and these templates say
just that. Others are passed over, and whoever reads the file is told.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from scheduler.templates.intrinsics import Deferred

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Grants", "grants_of"]

_ANY_SUFFIX: Final = "-??????"  # how one writes the six letters at the end of a secret's ARN


@dataclass(frozen=True, slots=True)
class Grants:
    """passed_over: policies that mean nothing here."""

    secrets: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()


def _secret(value: str) -> Sequence[str]:
    return (value.removesuffix(_ANY_SUFFIX) + "-*",) if value.endswith(_ANY_SUFFIX) else (value,)


def _parameter(value: str) -> Sequence[str]:
    """Written without its slash, which a parameter's name may or may not begin with."""
    return (value, "/" + value) if not value.startswith("/") else (value,)


# policy template -> (what it grants, its parameter, names for it)
_POLICIES: Final = {
    "AWSSecretsManagerGetSecretValuePolicy": ("secrets", "SecretArn", _secret),
    "SSMParameterReadPolicy": ("secrets", "ParameterName", _parameter),
    "SSMParameterWithSlashPrefixReadPolicy": ("secrets", "ParameterName", _parameter),
    "KMSDecryptPolicy": ("keys", "KeyId", lambda value: (value,)),
    "KMSEncryptPolicy": ("keys", "KeyId", lambda value: (value,)),
}


def grants_of(policies: Any) -> Grants:
    """`policies`: the member Policies of a function, resolved."""
    found: dict[str, list[str]] = {"secrets": [], "keys": []}
    passed_over = []
    for policy in policies if isinstance(policies, list) else [policies]:
        name = next(iter(policy)) if isinstance(policy, dict) and len(policy) == 1 else ""
        row = _POLICIES.get(name)
        value = policy[name].get(row[1]) if row is not None and isinstance(policy[name], dict) else None
        if row is None or not isinstance(value, str):
            deferred = f"{name} of {value.text}" if isinstance(value, Deferred) else name
            passed_over.append(deferred or (policy if isinstance(policy, str) else "a policy of its own"))
            continue
        found[row[0]] += [one for one in row[2](value) if one not in found[row[0]]]
    return Grants(tuple(found["secrets"]), tuple(found["keys"]), tuple(passed_over))
