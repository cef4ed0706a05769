"""What resource policies allow.

Law of this file: pure. Statements are those that AddPermission made: effect Allow, one action, one principal, and conditions
of a few kinds. A condition of another kind allows nothing. Tenants are named as principals as accounts are in AWS.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.functions.attached import Policy

__all__ = ["allows"]

_OPERATORS: Final = ("StringEquals", "StringLike", "ArnLike", "ArnEquals", "Bool")


def allows(policy: Policy | None, *, principal: str | None, action: str, facts: Mapping[str, str]) -> bool:
    """Whether some statement lets `principal` (a tenant's name; None: nobody in particular) do `action`. facts: values of
    condition keys, keys in lower case."""
    if policy is None:
        return False
    return any(_allows(statement, principal, action, facts) for statement in policy.statements.values())


def _allows(statement: Mapping[str, Any], principal: str | None, action: str, facts: Mapping[str, str]) -> bool:
    return (
        statement.get("Effect") == "Allow"
        and _is_meant(statement.get("Principal"), principal)
        and fnmatchcase(action, str(statement.get("Action", "")))
        and all(
            operator in _OPERATORS and all(_holds(operator, facts.get(key.lower()), wanted) for key, wanted in pairs.items())
            for operator, pairs in statement.get("Condition", {}).items()
        )
    )


def _is_meant(named: Any, principal: str | None) -> bool:
    if named == "*" or named == {"AWS": "*"}:
        return True
    return principal is not None and isinstance(named, dict) and named.get("AWS") == principal


def _holds(operator: str, value: str | None, wanted: Any) -> bool:
    if value is None:
        return False
    if operator in ("StringLike", "ArnLike"):
        return fnmatchcase(value, str(wanted))
    if operator == "Bool":
        return value.lower() == str(wanted).lower()
    return value == str(wanted)
