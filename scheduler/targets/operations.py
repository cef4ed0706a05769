"""One operation of a JSON 1.1 service: its name, what a request may hold, and who may ask.

Law of this file: data, and the checks that all operations share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from scheduler.targets.errors import TargetError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from scheduler.lambda_api.shapes import Shape
    from scheduler.targets.who import Who

__all__ = ["Operation", "Service", "hidden", "refuse"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row. functions: a function may ask too, for what is granted to it."""

    name: str
    shape: Shape
    handler: Callable[[Who, Mapping[str, Any]], Awaitable[dict[str, Any] | None]]
    functions: bool = False


class Service(Protocol):
    """prefix: of X-Amz-Target. signed_as: the service in a signature's scope. spelling: how it writes an error's message."""

    prefix: str
    signed_as: str
    spelling: str

    def operations(self) -> Sequence[Operation]: ...


def hidden(shape: Shape) -> Shape:
    """Values are secrets, and stand in no message."""
    return replace(shape, hidden=True)


def refuse(who: Who, action: str, resource: str) -> TargetError:
    """AccessDeniedException in AWS's words."""
    return TargetError(
        "AccessDeniedException", f"User: {who.name} is not authorized to perform: {action} on resource: {resource}"
    )
