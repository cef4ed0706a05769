"""What belongs to a function beside its versions: aliases, tags, policies, URLs, settings of asynchronous invocation.

Law of this file: frozen data, how it stands in the store (one value for each function), and the one place that changes it. What
may be in it is its neighbours' to say (aliases.py, policies.py); who may change it is the callers'.

    attachments = await Attachments.load(store)
    attachments.of("hello").aliases["live"]
    async with attachments.change("hello") as change:          # one change of a function at a time
        change.now = replace(change.now, tags={"team": "blue"})   # durable when the block has ended
    await attachments.forget("hello")
    await attachments.sweep(lambda name: name in registry)        # after a crash between a removal's two writes
"""

from __future__ import annotations

import json
import uuid
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import trio

from scheduler.errors import Unavailable
from scheduler.functions.provisioned import Provisioned, Window
from scheduler.store.port import ABSENT, RevisionConflict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from scheduler.store import port

__all__ = ["PREFIX", "Alias", "Attached", "Attachments", "Cors", "EventConfig", "Policy", "Url", "fresh_revision"]

PREFIX: Final = "fa."
FORMAT: Final = 1
PAGE: Final = 200


def fresh_revision() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class Alias:
    """A name for a version. weights: at most one further version, and the part of calls that goes there, 0.0 to 1.0."""

    version: str
    description: str = ""
    weights: Mapping[str, float] = field(default_factory=dict, hash=False)
    revision_id: str = field(default_factory=fresh_revision)


@dataclass(frozen=True, slots=True)
class Policy:
    """Who else may use a function or one of its versions or aliases: IAM statements by id, in the order they came."""

    statements: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    revision_id: str = field(default_factory=fresh_revision)


@dataclass(frozen=True, slots=True)
class Cors:
    """Of a function URL, as Lambda names them; None: not given."""

    allow_credentials: bool = False
    allow_headers: tuple[str, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age_s: int | None = None


@dataclass(frozen=True, slots=True)
class Url:
    """A function URL. created, modified: RFC 3339 in UTC."""

    id: str
    auth_type: str
    created: str
    modified: str
    invoke_mode: str = "BUFFERED"
    cors: Cors | None = None


@dataclass(frozen=True, slots=True)
class EventConfig:
    """How asynchronous invocations are tried; None: the default. modified_s: Unix time."""

    modified_s: float
    retries_max: int | None = None
    age_max_s: int | None = None
    on_success: str | None = None
    on_failure: str | None = None


@dataclass(frozen=True, slots=True)
class Attached:
    """All that is attached to one function. declared: triggers as a deployment file has them, by name, for who connects them.
    Keys of policies, URLs, event settings and provisioned concurrency are qualifiers; `$LATEST` is that of the function
    itself."""

    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    aliases: Mapping[str, Alias] = field(default_factory=dict, hash=False)
    policies: Mapping[str, Policy] = field(default_factory=dict, hash=False)
    urls: Mapping[str, Url] = field(default_factory=dict, hash=False)
    events: Mapping[str, EventConfig] = field(default_factory=dict, hash=False)
    declared: Mapping[str, Any] = field(default_factory=dict, hash=False)
    provisioned: Mapping[str, Provisioned] = field(default_factory=dict, hash=False)

    def without_provisioned(self, qualifier: str) -> Attached:
        """The version or alias is no more."""
        kept = {key: value for key, value in self.provisioned.items() if key != qualifier}
        return replace(self, provisioned=kept) if qualifier in self.provisioned else self


NOTHING: Final = Attached()


@dataclass(slots=True)
class _Turn:
    lock: trio.Lock = field(default_factory=trio.Lock)
    users: int = 0


@dataclass(slots=True)
class Change:
    """`now` at the start is what is attached; what it is at the end is stored."""

    now: Attached


class Attachments:
    """Made by load()."""

    def __init__(self, store: port.Registry) -> None:
        self._store = store
        self._held: dict[str, tuple[Attached, int]] = {}  # with the store's revision
        self._urls: dict[str, tuple[str, str]] = {}  # id of a URL to function and qualifier
        self._watchers: list[Callable[[str], Awaitable[None]]] = []
        self._turns: defaultdict[str, _Turn] = defaultdict(_Turn)

    @classmethod
    async def load(cls, store: port.Registry) -> Attachments:
        """Reads everything. Unavailable: a value cannot be understood."""
        made = cls(store)
        after = ""
        while page := await store.list(PREFIX, after=after, limit=PAGE):
            for entry in page:
                made._hold(entry.key.removeprefix(PREFIX), decode(entry.key, entry.value), entry.revision)
            after = page[-1].key
        return made

    def of(self, name: str) -> Attached:
        """What is attached to a function; of one that has nothing, nothing."""
        return self._held.get(name, (NOTHING, ABSENT))[0]

    def all(self) -> Iterator[tuple[str, Attached]]:
        """(function, attached) of those that have something."""
        return iter([(name, attached) for name, (attached, _) in sorted(self._held.items())])

    def url(self, url_id: str) -> tuple[str, str, Url] | None:
        """(function, qualifier, URL) of an id."""
        place = self._urls.get(url_id)
        return None if place is None else (*place, self.of(place[0]).urls[place[1]])

    def watch(self, told: Callable[[str], Awaitable[None]]) -> None:
        """told: the name of each function whose attachments have changed, before whoever changed them goes on."""
        self._watchers.append(told)

    def _hold(self, name: str, now: Attached | None, revision: int) -> None:
        for url in self.of(name).urls.values():
            self._urls.pop(url.id, None)
        if now is None:
            self._held.pop(name, None)
            return
        self._held[name] = (now, revision)
        for qualifier, url in now.urls.items():
            self._urls[url.id] = (name, qualifier)

    async def _tell(self, name: str) -> None:
        for told in self._watchers:
            await told(name)

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        """One at a time; whoever still waits keeps the lock alive."""
        turn = self._turns[name]
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[name]

    @asynccontextmanager
    async def change(self, name: str) -> AsyncIterator[Change]:
        """One change; nothing is stored where the block raises or changes nothing. Unavailable: whether it was stored is not
        known, and what is told afterwards is what the store has. Whether the function is still there, and the caller's, is to
        be asked in the block: it may have gone while this waited."""
        async with self._turn(name):
            before, revision = self._held.get(name, (NOTHING, ABSENT))
            change = Change(before)
            yield change
            if change.now == before:
                return
            with trio.CancelScope(shield=True):  # the store and the memory must not disagree
                await self._write(name, change.now, revision)

    async def _write(self, name: str, now: Attached, revision: int) -> None:
        try:
            stored = await self._store.put(PREFIX + name, encode(now), expect=revision)
        except (Unavailable, RevisionConflict):
            await self._read_again(name)
            raise
        self._hold(name, now, stored)
        await self._tell(name)

    async def _read_again(self, name: str) -> None:
        entry = await self._store.get(PREFIX + name)
        if entry is None:
            self._hold(name, None, ABSENT)
        else:
            self._hold(name, decode(entry.key, entry.value), entry.revision)
        await self._tell(name)

    async def forget(self, name: str) -> None:
        """The function is gone, and all that was attached with it."""
        async with self._turn(name):
            if name in self._held:
                with trio.CancelScope(shield=True):
                    await self._store.delete(PREFIX + name)
                    self._hold(name, None, ABSENT)
                    await self._tell(name)

    async def sweep(self, exists: Callable[[str], bool]) -> None:
        """Forgets what belongs to functions that are not there: a crash came between a removal's two writes."""
        for name in [name for name in self._held if not exists(name)]:
            await self.forget(name)


# ---- in the store --------------------------------------------------------------------------------------------------------


def encode(attached: Attached) -> bytes:
    raw = {
        "format": FORMAT,
        "tags": dict(attached.tags),
        "aliases": {
            name: {**asdict(replace(alias, weights={})), "weights": dict(alias.weights)}
            for name, alias in attached.aliases.items()
        },
        "policies": {
            key: {"statements": {sid: dict(s) for sid, s in policy.statements.items()}, "revision_id": policy.revision_id}
            for key, policy in attached.policies.items()
        },
        "urls": {key: asdict(url) for key, url in attached.urls.items()},
        "events": {key: asdict(config) for key, config in attached.events.items()},
        "declared": dict(attached.declared),
        "provisioned": {key: asdict(config) for key, config in attached.provisioned.items()},
    }
    return json.dumps(raw, separators=(",", ":"), ensure_ascii=False).encode()


def decode(key: str, value: bytes) -> Attached:
    """Unavailable: it cannot be understood."""
    try:
        raw = json.loads(value)
        if raw["format"] != FORMAT:
            raise Unavailable(f"{key}: stored in format {raw['format']}, this version reads {FORMAT}; update the service")
        return Attached(
            tags=MappingProxyType(raw["tags"]),
            aliases=MappingProxyType({name: Alias(**alias) for name, alias in raw["aliases"].items()}),
            policies=MappingProxyType({name: Policy(**policy) for name, policy in raw["policies"].items()}),
            urls=MappingProxyType({name: _url(url) for name, url in raw["urls"].items()}),
            events=MappingProxyType({name: EventConfig(**config) for name, config in raw["events"].items()}),
            declared=MappingProxyType(raw.get("declared", {})),
            provisioned=MappingProxyType({name: _provisioned(p) for name, p in raw.get("provisioned", {}).items()}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unavailable(f"{key}: the stored value cannot be read ({type(error).__name__}); restore a copy") from error


def _provisioned(raw: dict[str, Any]) -> Provisioned:
    return Provisioned(int(raw["count"]), tuple(Window(**window) for window in raw["windows"]), float(raw["modified_s"]))


def _url(raw: dict[str, Any]) -> Url:
    cors: dict[str, Any] | None = raw.pop("cors")
    if cors is None:
        return Url(**raw, cors=None)
    for name in ("allow_headers", "allow_methods", "allow_origins", "expose_headers"):
        cors[name] = tuple(cors[name])
    return Url(**raw, cors=Cors(**cors))
