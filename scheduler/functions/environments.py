"""A function's environment variables as the registry holds them: open, or locked because their key cannot be had.

Law of this file: data. Values are secrets: they stand in no repr and in no message.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scheduler.keys.port import KeyProblem

__all__ = ["Environment"]


class Environment(Mapping[str, str]):
    """A map whose variables never change, though they can be locked away and come back: all who hold a version hold the same
    one. stored: how it stands in the store, once it is there. problem: it is locked, and shows no variable; what is stored is
    kept as it is."""

    __slots__ = ("_plain", "problem", "stored")

    def __init__(
        self, plain: Mapping[str, str], stored: Mapping[str, Any] | None = None, problem: KeyProblem | None = None
    ) -> None:
        self._plain: Mapping[str, str] = MappingProxyType(dict(plain))
        self.stored = stored
        self.problem = problem

    def lock(self, problem: KeyProblem) -> None:
        """Its key is not to be had any more."""
        self._plain, self.problem = MappingProxyType({}), problem

    def unlock(self, plain: Mapping[str, str]) -> None:
        self._plain, self.problem = MappingProxyType(dict(plain)), None

    @property
    def under(self) -> str | None:
        """Its data key, wrapped, where it has one."""
        return self.stored.get("under") if self.stored else None

    def __getitem__(self, key: str) -> str:
        return self._plain[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._plain)

    def __len__(self) -> int:
        return len(self._plain)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if self.problem is not None or (isinstance(other, Environment) and other.problem is not None):
            return False  # nobody can tell
        return isinstance(other, Mapping) and self._plain == dict(other)

    __hash__ = None  # type: ignore[assignment]  # as of any map

    def __repr__(self) -> str:
        return f"Environment({'locked' if self.problem else f'{len(self)} hidden'})"
