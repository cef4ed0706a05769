"""Who asks, and what they may use: a client with its rights, or a function with what is granted to it.

Law of this file: pure. A client that may deploy may use all keys and secrets of its tenant, since it may deploy a function that
does; one that may only invoke may use none. A function may use what its configuration names, and nothing else; it may change
nothing.

Grants are names, ARNs or beginnings of them that end in *.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scheduler.config import DEFAULT_TENANT
from scheduler.messages import Right

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Who", "granted"]


@dataclass(frozen=True, slots=True)
class Who:
    """name: for messages. tenant: whose keys and secrets. keys, secrets: of a function, what is granted; None: of a client.
    role, function: ARNs of a function's, for the policies of secrets."""

    name: str
    tenant: str = DEFAULT_TENANT
    rights: Right = Right.NONE
    keys: Sequence[str] | None = None
    secrets: Sequence[str] | None = None
    role: str = ""
    function: str = ""

    @property
    def is_function(self) -> bool:
        return self.keys is not None

    @property
    def may_deploy(self) -> bool:
        return bool(self.rights & Right.DEPLOY)


def granted(patterns: Sequence[str] | None, names: Iterable[str]) -> bool:
    """Whether one of the names is among what is granted."""
    if not patterns:
        return False
    return any(
        name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern for name in names for pattern in patterns
    )
