"""Who answers at listeners in a sandbox that are not the engine's.

Law of this file: protocols. What is said there is no business of this room.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Door", "Doors"]


class Door(Protocol):
    """Of one sandbox."""

    def ready(self) -> None:
        """Its init is over."""
        ...

    def close(self) -> None:
        """It is no more."""
        ...


class Doors(Protocol):
    """Of all sandboxes of a version."""

    def open(self, listeners: Sequence[int]) -> Door:
        """Takes the descriptors, in the order of the ports that were asked for."""
        ...
