"""What of a function's description is not shown unasked: the values of its environment.

Law of this file: from a description to one that may be on a screen, in a log of a build, in a ticket. Clients of the protocol
get the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from scheduler.cli.common import note
from scheduler.secrets.lookalikes import ADVICE, lookalikes

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MASK", "masked", "shown", "warn"]

MASK: Final = "********"


def shown(environment: Mapping[str, str], values: bool) -> dict[str, str]:
    """By name; values: themselves, not masks."""
    return {key: value if values else MASK for key, value in sorted(environment.items())}


def masked(raw: Mapping[str, Any], values: bool = False) -> dict[str, Any]:
    """A description as JSON shows it."""
    return {**raw, "environment": shown(raw["environment"], values)} if raw.get("environment") else dict(raw)


def warn(environment: Mapping[str, str] | None, where: str = "") -> None:
    """A line on stderr for each variable that looks like a credential."""
    found = lookalikes(environment or {})
    for one in found:
        note(f"{where + ': ' if where else ''}{one}; a secret has a better place: {ADVICE}")
