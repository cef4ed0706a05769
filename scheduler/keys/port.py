"""What wraps data keys, whatever it is: the seam between what is sealed and who holds the key to it.

Law of this file: the protocol, its data and its errors; no back-end's notion may show. A source is given and gives data keys of
32 bytes; what a wrapped key is for (its context) must be said again to unwrap it. A wrapped key is a text whose first word
names the kind of source that made it, so a store may hold keys of several at once: that is what makes changing the source, and
turning it over, a matter of time and not of a standstill.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from scheduler.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["DATA_KEY_BYTES", "DataKey", "Generation", "KeyProblem", "KeySource", "Trouble"]

DATA_KEY_BYTES: Final = 32


class Trouble(enum.Enum):
    """Why a key cannot be used. The value is Lambda's name for it."""

    ACCESS_DENIED = "KMSAccessDeniedException"
    DISABLED = "KMSDisabledException"
    INVALID_STATE = "KMSInvalidStateException"
    NOT_FOUND = "KMSNotFoundException"


class KeyProblem(Unavailable):
    """A data key cannot be had. `code`: Lambda's exception for it. `lasting`: trying again in a moment is of no use."""

    def __init__(self, trouble: Trouble, message: str, *, lasting: bool = True) -> None:
        super().__init__(message, reason=trouble.value)
        self.trouble = trouble
        self.lasting = lasting

    @property
    def code(self) -> str:
        return self.trouble.value


@dataclass(frozen=True, slots=True)
class DataKey:
    """`plain` seals one text, and is kept no longer than that takes; `wrapped` is stored beside it."""

    plain: bytes = field(repr=False)
    wrapped: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Generation:
    """One key of a source, to show. made: RFC 3339, or empty where the source does not say."""

    id: str
    made: str
    current: bool


class KeySource(Protocol):
    """`kind` is the first word of what it wraps. All may raise KeyProblem."""

    @property
    def kind(self) -> str: ...

    async def generate(self, context: Mapping[str, str]) -> DataKey: ...

    async def wrap(self, plain: bytes, context: Mapping[str, str]) -> str:
        """A data key that another source made: for who changes from one to another."""
        ...

    async def unwrap(self, wrapped: str, context: Mapping[str, str]) -> bytes: ...

    def unwrap_now(self, wrapped: str, context: Mapping[str, str]) -> bytes | None:
        """As unwrap(), where that needs no waiting; None: it does."""
        ...

    async def rewrap(self, wrapped: str, context: Mapping[str, str]) -> str:
        """The same data key under the newest key of this source."""
        ...

    def is_current(self, wrapped: str) -> bool:
        """Wrapped by this source, under its newest key as far as that can be seen from here."""
        ...

    async def rotate(self) -> str:
        """A newer key, whose name is given, for what is wrapped from now on. A source whose keys are turned over elsewhere
        names the present one."""
        ...

    async def generations(self) -> Sequence[Generation]:
        """Newest last."""
        ...
