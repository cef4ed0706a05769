"""What a store promises, whatever holds it: the embedded one here, a fleet's engine later.

Law of this file: protocols, their data and their errors; no back-end's notion may show. The promises are the weaker of what
an embedded database and a replicated engine can keep, so callers must not lean on more:

- Any call may raise `Unavailable` for a while and work again later. Whoever repeats a write does it with an id or a revision.
- A write that returned is durable. One that was cancelled or raised `Unavailable` is *unknown*: it may or may not be applied.
- Revisions rise, but skip. A conflict has no side effect.
- A watch may skip values in between, never the last one.
- An event may be delivered again without any failure; the count of deliveries is information, not policy.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol

from scheduler import limits
from scheduler.errors import BadRequest, SchedulerError, Throttled, TooLarge

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractAsyncContextManager

__all__ = [
    "ABSENT",
    "Backlog",
    "Change",
    "ChangeKind",
    "Entry",
    "Event",
    "EventQueue",
    "Lease",
    "LeaseLost",
    "Put",
    "QueueFull",
    "Registry",
    "RevisionConflict",
    "check_key",
    "check_value",
]

ABSENT: Final = 0
"""As `expect`: the key must not exist."""

KEY: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class RevisionConflict(SchedulerError):
    """The key's revision is not the expected one; nothing was changed. `current` is 0 where the key does not exist."""

    type = "BadRequest"

    def __init__(self, key: str, expected: int, current: int) -> None:
        super().__init__(f"{key}: revision is {current}, expected {expected}", reason="conflict", current=current)
        self.key = key
        self.expected = expected


class QueueFull(Throttled):
    """The event queue has no room; nothing was dropped to make some."""


class LeaseLost(SchedulerError):
    """The lease has run out or was given up: another taker may have the event. Refused locally, nothing was changed."""


def check_key(key: str) -> str:
    """`key`, or BadRequest: parts of [A-Za-z0-9_-] joined by dots."""
    if len(key) > limits.STORE_KEY_BYTES_MAX or not KEY.fullmatch(key):
        raise BadRequest(
            f"key: {key[:80]!r} is not 1 to {limits.STORE_KEY_BYTES_MAX} characters of [A-Za-z0-9_-] joined by dots"
        )
    return key


def check_value(value: bytes) -> bytes:
    """`value`, or TooLarge."""
    if len(value) > limits.STORE_VALUE_BYTES_MAX:
        raise TooLarge(f"value: has {len(value)} bytes, the limit is {limits.STORE_VALUE_BYTES_MAX}")
    return value


# ---- registry ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    key: str
    value: bytes
    revision: int


class ChangeKind(enum.Enum):
    PUT = "put"
    DELETE = "delete"
    UP_TO_DATE = "up to date"
    """Once in a watch: all that was there at its start has been told."""


@dataclass(frozen=True, slots=True)
class Change:
    """`value` is empty but for PUT; `key` is empty for UP_TO_DATE."""

    kind: ChangeKind
    key: str
    value: bytes
    revision: int


class Registry(Protocol):
    """A map of keys to values (at most 1 MiB) with a revision for each write."""

    async def get(self, key: str) -> Entry | None: ...

    async def put(self, key: str, value: bytes, *, expect: int | None = None) -> int:
        """The new revision, once durable. `expect`: the key's revision must be this (ABSENT: no such key).

        Raises RevisionConflict, TooLarge, BadRequest (key).
        """
        ...

    async def delete(self, key: str, *, expect: int | None = None) -> int:
        """The tombstone's revision, once durable. Deleting what is not there is fine unless `expect` says otherwise."""
        ...

    async def list(self, prefix: str = "", *, after: str = "", limit: int = 1000) -> list[Entry]:
        """Entries whose key starts with `prefix` and sorts after `after`, by key, at most `limit`."""
        ...

    def watch(self, prefix: str = "") -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """All entries as PUT, then UP_TO_DATE, then changes as they come. A slow reader misses values, never a key's last."""
        ...

    async def wait_for(self, revision: int) -> None:
        """Until a read here shows the write of that revision: read your writes."""
        ...


# ---- events --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An asynchronous invocation. `id` is the request id and what tells duplicates; `headers` go along untouched; `created_ms`
    is Unix time."""

    id: str
    function: str
    payload: bytes = field(repr=False)
    created_ms: int
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "headers", MappingProxyType(dict(self.headers)))


class Put(enum.Enum):
    STORED = "stored"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True)
class Lease:
    """An event in a taker's hands. `deliveries` counts from 1, and is information only."""

    event: Event
    token: int
    deliveries: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """A function's events that are not done, those in a taker's hands included. `oldest_created_ms`: Unix time."""

    events: int
    bytes: int
    oldest_created_ms: int


class EventQueue(Protocol):
    """Durable, roughly first in first out, at least once. Leases last 30 s (limits.EVENT_LEASE_MS)."""

    async def put(self, event: Event) -> Put:
        """Returns only when durable. The same id within two minutes is answered DUPLICATE, also when full.
        Raises QueueFull (account, resource, current, limit) or TooLarge."""
        ...

    async def take(self, count: int, wait_s: float) -> list[Lease]:
        """Up to `count` due events, at most one live lease each; waits up to `wait_s` for the first, then may return none."""
        ...

    def extend(self, lease: Lease) -> None:
        """A fresh 30 s. Raises LeaseLost."""
        ...

    async def done(self, event_id: str) -> None:
        """Removes the event, durably. By event, not by lease: a late done counts, a second one is harmless."""
        ...

    async def retry(self, lease: Lease, delay_s: float, *, headers: Mapping[str, str] | None = None) -> None:
        """Gives the event back; it is due again after `delay_s` >= 0, never more than 1 s early. `headers` take the place of
        the event's, durably, at once with the delay or not at all. Raises LeaseLost, TooLarge."""
        ...

    def backlogs(self) -> Mapping[str, Backlog]:
        """What is queued here, by function; functions without events are left out."""
        ...

    def statistics(self) -> Any: ...
