"""The registry: which functions there are, in which versions, with which code.

Law of this file: decides and writes; knows no engine, no sandbox, no socket. Everything is kept in memory (functions and
versions are bounded by the setting functions_max), so reading is a plain call; only what must become durable is async, and
returns once it is.

    registry = await FunctionRegistry.load(store, settings, runtimes=("python3.12", "python3.11"), seals=Seals(keyring))
    deployed = await registry.deploy({"name": "hello", "handler": "app.handler"}, code)   # creates or replaces
    await registry.update("hello", {"memory_mb": 256}, revision_id=deployed.latest.revision_id)
    await registry.publish("hello")                     -> FunctionVersion, a new one only if something changed
    await registry.remove("hello"), await registry.remove("hello", "3")     -> the versions removed
    registry.get("hello", "$LATEST" | "3"), registry.resolve("arn:aws:lambda:…:function:hello:3")
    registry.describe(version), registry.list(), registry.all(), registry.code_in_use()

Mutations run one at a time and cannot be cancelled half-way: a published version is stored before its function names it, so a
crash leaves at most a version nobody names, which a later load sweeps.
"""

from __future__ import annotations

import time
import uuid
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from scheduler import limits
from scheduler.errors import BadRequest, NotFound, Throttled, Unavailable
from scheduler.functions import names, provisioned
from scheduler.functions.attached import Attachments
from scheduler.functions.model import (
    FIELDS,
    FUNCTION_LEVEL,
    CodeRef,
    FunctionConfig,
    FunctionVersion,
    LayerRef,
    SnapStart,
    State,
    Tenancy,
    build,
    describe,
    merged_path,
    timestamp,
)
from scheduler.functions.names import LATEST, Identity
from scheduler.functions.records import (
    FUNCTION_PREFIX,
    VERSION_PREFIX,
    Published,
    Record,
    decode_function,
    decode_published,
    encode_function,
    encode_published,
    function_key,
    holds_plain_text,
    version_key,
    with_wrapped_key,
    wrapped_key,
)
from scheduler.keys.port import KeyProblem
from scheduler.store.port import ABSENT, RevisionConflict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from scheduler.config import Settings
    from scheduler.functions.provisioned import Provisioned
    from scheduler.functions.sealed import Seals
    from scheduler.store import port

__all__ = ["SANDBOX_KEYS", "Conflict", "Deployed", "FunctionRegistry", "Page", "RevisionMismatch"]

SANDBOX_KEYS: Final = (
    "handler", "runtime", "memory_mb", "timeout_s", "ephemeral_storage_mb", "environment", "network", "log_format",
    "application_log_level", "log_group", "kms_key_arn", "secrets", "keys", "runtime_client",
)  # fmt: skip
"""Keys a sandbox is made with: a change of one makes a new revision, so that sandboxes of the old one drain."""

KEY_TEXT: Final = (
    "Lambda was unable to configure access to your environment variables because the KMS key is invalid for CreateGrant. "
    "Please check your KMS key settings. KMS Exception: "
)
ORPHAN_AGE_S: Final = 3600
LOAD_PAGE: Final = 200
KEYS_ASKED_AT_ONCE: Final = 32

T = TypeVar("T")


class Conflict(BadRequest):
    """The name is taken, or somebody else changed the function at the same time."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="conflict")


class RevisionMismatch(BadRequest):
    """The revision id given is not the present one; nothing was changed."""

    def __init__(self, name: str, given: str) -> None:
        super().__init__(
            f"revision_id: {given!r} is not the present one of {name}; get the function and use its revision_id",
            reason="revision",
        )


@dataclass(frozen=True, slots=True)
class Deployed:
    """What a deployment did. `published` is the new or unchanged version if one was asked for."""

    latest: FunctionVersion
    published: FunctionVersion | None
    created: bool


@dataclass(frozen=True, slots=True)
class Page:
    """`next_marker` None: that was the last page."""

    functions: tuple[FunctionVersion, ...]
    next_marker: str | None


@dataclass(slots=True)
class _Function:
    """One function in memory: what is stored, the store's revision of it, and its versions by number."""

    record: Record
    stored: int
    versions: dict[int, Published]


class FunctionRegistry:
    """Made by `load`. `settings` may be replaced by a reload; see the module's head for use."""

    def __init__(
        self,
        store: port.Registry,
        settings: Settings,
        runtimes: Sequence[str],
        seals: Seals,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.identity = Identity(settings.region, settings.account_id)
        self._store = store
        self._runtimes = tuple(runtimes)
        self._absent: Mapping[str, str] = {}
        self._seals = seals
        self._now_s = now_s
        self._functions: dict[str, _Function] = {}
        self._mutating = trio.Lock()
        self._doubtful: set[str] = set()  # names whose last write ended unknown
        self._standing: dict[tuple[str, str], tuple[State, str]] = {}  # versions that are not Active, and why
        self.no_images: Callable[[FunctionConfig], str | None] = lambda config: None  # why a function can have none here
        self.attachments = Attachments(store)
        self.locks_changed: Callable[[str], Awaitable[None]] = _nobody  # environments were locked or unlocked
        self.environment_changed: Callable[[FunctionVersion], None] = lambda version: None  # told once it is stored

    @classmethod
    async def load(
        cls,
        store: port.Registry,
        settings: Settings,
        *,
        runtimes: Sequence[str],
        seals: Seals,
        absent: Mapping[str, str] | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> FunctionRegistry:
        """Read everything. `runtimes`: those offered, best first; `absent`: those that could be, and what to do about it.
        seals: for environments; what was stored before them is
        sealed now. Raises Unavailable where a value cannot be understood."""
        registry = cls(store, settings, runtimes, seals, now_s)
        registry._absent = absent or {}
        versions: dict[str, Published] = {}
        for entry, published in await _decoded(await _entries(store, VERSION_PREFIX), decode_published, seals):
            versions[entry.key] = published
            if holds_plain_text(entry.value):
                await store.put(entry.key, await encode_published(versions[entry.key], seals), expect=entry.revision)
        for entry, record in await _decoded(await _entries(store, FUNCTION_PREFIX), decode_function, seals):
            revision = entry.revision
            if holds_plain_text(entry.value):
                revision = await store.put(entry.key, await encode_function(record, seals), expect=entry.revision)
            registry._admit(entry.key, revision, record, versions)
        await registry._sweep(versions)
        registry.attachments = await Attachments.load(store)
        await registry.attachments.sweep(registry.__contains__)
        return registry

    # ---- reading -----------------------------------------------------------------------------------------------------

    def get(self, name: str, qualifier: str = LATEST) -> FunctionVersion:
        """That version; of an alias the version that most of its calls go to. Raises NotFound."""
        function = self._functions.get(name)
        if function is not None:
            alias = self.attachments.of(name).aliases.get(qualifier)
            if alias is not None:
                return self.get(name, alias.version)
            if qualifier == LATEST:
                return function.record.latest
            if names.is_version(qualifier) and int(qualifier) in function.versions:
                return self._present(function, function.versions[int(qualifier)].version)
        raise NotFound(f"Function not found: {self.identity.arn(name, qualifier)}")

    def resolve(self, text: object, qualifier: str | None = None) -> FunctionVersion:
        """The version that `text` names, in any form Lambda accepts. Raises BadRequest, NotFound."""
        reference = names.parse(text, self.identity, qualifier)
        return self.get(reference.name, reference.effective)

    def versions(self, name: str) -> tuple[FunctionVersion, ...]:
        """The published ones, oldest first. Raises NotFound."""
        self.get(name)
        function = self._functions[name]
        return tuple(self._present(function, function.versions[number].version) for number, _ in function.record.published)

    def describe(self, version: FunctionVersion) -> dict[str, Any]:
        """The description of docs/internals/service.md. Raises NotFound if the function is gone."""
        return describe(version, [v.version for v in self.versions(version.name)], self.identity)

    def list(self, *, tenant: str | None = None, marker: str | None = None, limit: int = limits.LIST_PAGE_MAX) -> Page:
        """`$LATEST` of each function by name, after `marker`, at most `limit` (1 to 10,000; more than 50 gives 50)."""
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= 10_000:
            raise BadRequest(f"limit: {limit!r} is not a whole number of 1 to 10000")
        if marker is not None and (not isinstance(marker, str) or not names.NAME.fullmatch(marker)):
            raise BadRequest(f"marker: {str(marker)[:80]!r} is none that a list gave")
        found = sorted(
            name
            for name, function in self._functions.items()
            if (marker is None or name > marker) and (tenant is None or function.record.latest.config.tenant == tenant)
        )
        page = found[: min(limit, limits.LIST_PAGE_MAX)]
        functions = tuple(self._functions[name].record.latest for name in page)
        return Page(functions, page[-1] if len(found) > len(page) else None)

    def all(self) -> tuple[FunctionVersion, ...]:
        """Every version of every function, `$LATEST` first, by name: what a starting service loads into the engine."""
        return tuple(
            version
            for name in sorted(self._functions)
            for version in (self._functions[name].record.latest, *self.versions(name))
        )

    def code_in_use(self, tenant: str | None = None) -> frozenset[str]:
        """`CodeRef.path` of every version and its layers, of one tenant or of all."""
        mine = [v for v in self.all() if tenant is None or v.config.tenant == tenant]
        layers = {merged_path([layer.code for layer in v.layers]) for v in mine if v.layers}
        return frozenset({v.code.path for v in mine} | {layer.code.path for v in mine for layer in v.layers} | layers)

    def claimed_concurrency(self, tenant: str | None = None) -> int:
        """What functions hold out of the unreserved pool, of one tenant or of all: what is reserved for one, or else what is
        provisioned of it."""
        return sum(
            self._claimed(name, f.record.latest.config)
            for name, f in self._functions.items()
            if tenant in (None, f.record.latest.config.tenant)
        )

    def _claimed(self, name: str, config: FunctionConfig) -> int:
        reserved = config.reserved_concurrency
        return provisioned.total(self.attachments.of(name)) if reserved is None else reserved

    def floors(self, name: str) -> dict[str, int]:
        """Sandboxes to keep initialised now, by version. NotFound."""
        self.get(name)
        versions = [str(number) for number, _ in self._functions[name].record.published]
        return provisioned.floors(self.attachments.of(name), versions, datetime.fromtimestamp(self._now_s(), UTC))

    def __len__(self) -> int:
        return len(self._functions)

    def __contains__(self, name: str) -> bool:
        return name in self._functions

    # ---- writing -----------------------------------------------------------------------------------------------------

    async def create(
        self, fields: Mapping[str, object], code: CodeRef, *, publish: bool = False, layers: tuple[LayerRef, ...] = ()
    ) -> Deployed:
        """A new function. Raises Conflict if the name is taken, InvalidConfig, BadRequest, Throttled."""
        return await self._deploy(fields, code, publish=publish, may_exist=False, layers=layers)

    async def deploy(
        self, fields: Mapping[str, object], code: CodeRef, *, publish: bool = False, revision_id: str | None = None
    ) -> Deployed:
        """Create, or replace code and those keys of the configuration that are given; the others stay as they are.

        A deployment always makes a new revision, the same code included: that is how one restarts a function.
        """
        return await self._deploy(fields, code, publish=publish, revision_id=revision_id)

    async def update(
        self,
        name: str,
        fields: Mapping[str, object],
        *,
        code: CodeRef | None = None,
        publish: bool = False,
        revision_id: str | None = None,
        layers: tuple[LayerRef, ...] | None = None,
    ) -> Deployed:
        """Change configuration, code or layers of `$LATEST`. Raises NotFound, InvalidConfig, RevisionMismatch, BadRequest."""
        async with self._mutation(name):
            function = self._existing(name, revision_id)
            config = build(fields, runtimes=self._runtimes, absent=self._absent, base=function.record.latest.config)
            problem = config.environment.problem
            if problem is not None and config.kms_key_arn != function.record.latest.config.kms_key_arn:
                raise problem  # under another key it could be put only by who can open it
            return await self._replace(name, function, config, code, publish=publish, layers=layers)

    async def publish(
        self,
        name: str,
        *,
        description: str | None = None,
        code_sha256: str | None = None,
        revision_id: str | None = None,
    ) -> FunctionVersion:
        """A version of `$LATEST` as it is: the last one if nothing changed since, else a new one with the next number.

        `code_sha256`: refuse if `$LATEST` has other code. Raises NotFound, RevisionMismatch, BadRequest, Throttled.
        """
        async with self._mutation(name):
            function = self._existing(name, revision_id)
            latest = function.record.latest
            if code_sha256 is not None and code_sha256 != latest.code.sha256:
                raise BadRequest(f"code_sha256: {code_sha256[:80]!r} is not that of $LATEST, {latest.code.sha256}")
            if description is not None:  # same bounds as in a configuration
                build({"description": description}, runtimes=self._runtimes, base=latest.config)
            record, made = self._publication(function.record, function.versions, description)
            if made is not None:
                self._check_room(1)
                await self._write(name, function, record, made)
            return self.get(name, str(record.published[-1][0]))

    async def remove(self, name: str, qualifier: str | None = None) -> tuple[FunctionVersion, ...]:
        """Remove one version, or with no qualifier the function with all versions; returns what was removed, `$LATEST` first.

        Raises NotFound, BadRequest (`$LATEST` alone cannot be removed).
        """
        async with self._mutation(name):
            if qualifier == LATEST:
                raise BadRequest("$LATEST version cannot be deleted without deleting the function.")
            function = self._existing(name, None)
            removed: tuple[FunctionVersion, ...]
            if qualifier is None:
                removed = (function.record.latest, *self.versions(name))
                for version in removed:
                    self.stand(version, State.ACTIVE)
                gone = function.record.published
                await self._forget(name, function)
            else:
                if not names.is_version(qualifier):
                    raise BadRequest(f"qualifier: {qualifier[:80]!r} is no version; an alias is deleted as such")
                removed = (self.get(name, qualifier),)
                self.stand(removed[0], State.ACTIVE)
                self._check_unaliased(name, qualifier)
                gone = tuple(pair for pair in function.record.published if pair[0] == int(qualifier))
                kept = tuple(pair for pair in function.record.published if pair[0] != int(qualifier))
                await self._write(name, function, replace(function.record, published=kept), None)
                async with self.attachments.change(name) as change:
                    change.now = change.now.without_provisioned(qualifier)
            if qualifier is None:
                with suppress(Unavailable):  # a new function of that name, or the next start, takes it away
                    await self.attachments.forget(name)
            for _, record in gone:
                # Nobody names it any more: if this fails it is swept later.
                try:
                    await self._store.delete(version_key(name, record))
                except Unavailable:
                    break
            return removed

    def stand(self, version: FunctionVersion, state: State, reason: str = "") -> None:
        """How a published version stands until it is said again: Pending while its image is made."""
        key = (version.name, version.version)
        if state is State.ACTIVE:
            self._standing.pop(key, None)
        else:
            self._standing[key] = state, reason

    async def provision(self, name: str, qualifier: str, config: Provisioned | None) -> None:
        """Keeps so many sandboxes of a version or alias initialised; None takes that away. NotFound, BadRequest."""
        async with self._mutation(name):
            self.get(name, qualifier)
            async with self.attachments.change(name) as change:
                others = {key: value for key, value in change.now.provisioned.items() if key != qualifier}
                if config is None:
                    if qualifier not in change.now.provisioned:
                        raise NotFound(f"No Provisioned Concurrency Config found for this function: {name}:{qualifier}")
                    change.now = replace(change.now, provisioned=others)
                    return
                provisioned.check_place(change.now, qualifier)
                if self.get(name, qualifier).config.tenancy != Tenancy.NONE.value:
                    raise BadRequest("Provisioned Concurrency is not supported for functions with tenant isolation.")
                if self.get(name, qualifier).snap_started:
                    raise BadRequest("Provisioned Concurrency is not supported for SnapStart enabled functions.")
                self._check_provisioned(name, config.most, provisioned.total(change.now, without=qualifier))
                change.now = replace(change.now, provisioned={**others, qualifier: config})

    def _check_provisioned(self, name: str, wanted: int, others: int) -> None:
        config = self._functions[name].record.latest.config
        reserved = config.reserved_concurrency
        if reserved is not None:
            if others + wanted > reserved:
                raise BadRequest(
                    "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for "
                    f"function: {others + wanted} would be provisioned of {name}, {reserved} are reserved for it",
                    resource="concurrency",
                    account=f"function:{name}",
                )
            return
        before = self._claimed(name, config)
        if others + wanted > before:
            self._check_pool("provisioned", config, others + wanted, before)

    # ---- how -----------------------------------------------------------------------------------------------------------

    def _check_unaliased(self, name: str, version: str) -> None:
        for alias, to in self.attachments.of(name).aliases.items():
            if version == to.version or version in to.weights:
                raise Conflict(
                    f"Version {version} of function {name} is what alias {alias} names; change or delete the alias first"
                )

    async def _deploy(
        self,
        fields: Mapping[str, object],
        code: CodeRef,
        *,
        publish: bool,
        may_exist: bool = True,
        revision_id: str | None = None,
        layers: tuple[LayerRef, ...] = (),
    ) -> Deployed:
        name = str(fields.get("name"))  # what is no text is refused by build() below
        async with self._mutation(name):
            function = self._functions.get(name)
            if function is not None:
                if not may_exist:
                    raise Conflict(f"Function already exist: {name}")
                self._existing(name, revision_id)
                config = build(fields, runtimes=self._runtimes, absent=self._absent, base=function.record.latest.config)
                return await self._replace(name, function, config, code, publish=publish)
            if revision_id is not None:
                raise RevisionMismatch(name, revision_id)
            config = self._build_new(fields)
            self._check_snap_start(config)
            self._check_room(1 + publish)
            await self.attachments.forget(name)  # what a removal could not: it may have been another tenant's
            self._check_reservation(config, None)
            record, made = Record(self._version(config, LATEST, 1, code, layers)), None
            if publish:
                record, made = self._publication(record, {}, None)
            await self._write(name, _Function(record, ABSENT, {}), record, made)
            return Deployed(record.latest, made.version if made else None, created=True)

    def _build_new(self, fields: Mapping[str, object]) -> FunctionConfig:
        defaults: dict[str, object] = {"queue_timeout_ms": self.settings.queue_timeout_ms}
        if self.settings.runtime_default != "auto":
            defaults["runtime"] = self.settings.runtime_default
        return build(fields, runtimes=self._runtimes, absent=self._absent, defaults=defaults)

    async def _replace(
        self,
        name: str,
        function: _Function,
        config: FunctionConfig,
        code: CodeRef | None,
        *,
        publish: bool,
        layers: tuple[LayerRef, ...] | None = None,
    ) -> Deployed:
        old = function.record.latest
        if config.tenant != old.config.tenant:
            raise BadRequest(
                f"tenant: {config.tenant!r} is not {old.config.tenant!r}: a function keeps its tenant, whose accounts are "
                "charged for what runs; remove the function and deploy it anew"
            )
        self._check_snap_start(config)
        self._check_reservation(config, old.config)
        anew = code is not None or any(getattr(config, key) != getattr(old.config, key) for key in SANDBOX_KEYS)
        worn = old.layers if layers is None else layers
        anew = anew or worn != old.layers
        latest = self._version(config, LATEST, old.revision + anew, code or old.code, worn)
        record, made = replace(function.record, latest=latest), None
        if publish:
            record, made = self._publication(record, function.versions, None)
            self._check_room(made is not None)
        await self._write(name, function, record, made)
        published = self.get(name, str(record.published[-1][0])) if publish else None
        return Deployed(latest, published, created=False)

    def _version(
        self, config: FunctionConfig, version: str, revision: int, code: CodeRef, layers: tuple[LayerRef, ...]
    ) -> FunctionVersion:
        return FunctionVersion(
            config=config,
            version=version,
            revision=revision,
            revision_id=str(uuid.uuid4()),
            code=code,
            last_modified=timestamp(self._now_s()),
            layers=layers,
        )

    def _publication(
        self, record: Record, versions: Mapping[int, Published], description: str | None
    ) -> tuple[Record, Published | None]:
        """The record with one version more, and that version; the record as it is and None where nothing changed."""
        latest = record.latest
        if record.published:
            last = versions[record.published[-1][0]]
            same_files = last.version.code == latest.code and last.version.layers == latest.layers
            if same_files and _same(last, latest.config):
                return record, None
        if len(record.published) >= limits.VERSIONS_PER_FUNCTION_MAX:
            raise Throttled(
                f"{latest.name} has {len(record.published)} versions, the limit is {limits.VERSIONS_PER_FUNCTION_MAX}; "
                "remove some",
                account=f"function:{latest.name}",
                resource="versions",
                current=len(record.published),
                limit=limits.VERSIONS_PER_FUNCTION_MAX,
            )
        number = record.last_version + 1
        config = latest.config if description is None else replace(latest.config, description=description)
        made = Published(
            self._version(config, str(number), latest.revision, latest.code, latest.layers), latest.config.description
        )
        pair = (number, made.version.revision_id)
        return replace(record, last_version=number, published=(*record.published, pair)), made

    def _existing(self, name: str, revision_id: str | None) -> _Function:
        latest = self.get(name)
        if revision_id is not None and revision_id != latest.revision_id:
            raise RevisionMismatch(name, str(revision_id)[:80])
        return self._functions[name]

    def _present(self, function: _Function, version: FunctionVersion) -> FunctionVersion:
        """A published version as it stands, with what belongs to the function as a whole as it is now."""
        standing = self._standing.get((version.name, version.version))
        if standing is not None:
            version = replace(version, state=standing[0], state_reason=standing[1])
        now = function.record.latest.config
        if all(getattr(version.config, key) == getattr(now, key) for key in FUNCTION_LEVEL):
            return version
        return replace(version, config=replace(version.config, **{key: getattr(now, key) for key in FUNCTION_LEVEL}))

    def _check_room(self, more: int) -> None:
        held = sum(1 + len(function.versions) for function in self._functions.values())
        if held + more > self.settings.functions_max:
            raise Throttled(
                f"{held} functions and versions are deployed, the limit (functions_max) is {self.settings.functions_max}",
                account="node",
                resource="functions",
                current=held,
                limit=self.settings.functions_max,
            )

    def _check_snap_start(self, config: FunctionConfig) -> None:
        why = self.no_images(config) if config.snap_start == SnapStart.PUBLISHED_VERSIONS.value else None
        if why is not None:
            raise BadRequest(why)

    def _check_reservation(self, config: FunctionConfig, old: FunctionConfig | None) -> None:
        """Lambda's rule: what is reserved comes out of the pool at once, and the pool keeps its minimum."""
        floor = provisioned.total(self.attachments.of(config.name))
        before = self._claimed(config.name, old) if old is not None else 0
        reserved = config.reserved_concurrency
        same = old is not None and old.reserved_concurrency == reserved
        if reserved is not None and reserved < floor and not same:
            raise BadRequest(
                f"reserved_concurrency: {reserved} should not be lower than function's total provisioned concurrency [{floor}]",
                resource="concurrency",
                account=f"function:{config.name}",
            )
        wanted = floor if reserved is None else reserved
        if wanted > before:  # giving back is always allowed, even where a lower setting made the pool too small
            self._check_pool("reserved_concurrency", config, wanted, before)

    def _check_pool(self, key: str, config: FunctionConfig, wanted: int, before: int) -> None:
        """The unreserved pool keeps its minimum when a function that holds `before` of it holds `wanted`."""
        left = self.settings.concurrency_max - (self.claimed_concurrency() - before + wanted)
        if left < self.settings.unreserved_concurrency_min:
            raise BadRequest(
                "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below "
                f"its minimum value of [{self.settings.unreserved_concurrency_min}]. {key}: {wanted} would "
                f"leave {left} of {self.settings.concurrency_max}",
                resource="concurrency",
                account="node",
            )
        tenant = self.settings.tenant(config.tenant)
        held = self.claimed_concurrency(config.tenant) - before + wanted
        if held > tenant.concurrency_max:
            raise BadRequest(
                f"{key}: {wanted} makes {held} for tenant {tenant.name}, whose concurrency_max is {tenant.concurrency_max}",
                resource="concurrency",
                account=f"tenant:{tenant.name}",
            )

    # ---- keys --------------------------------------------------------------------------------------------------------

    def usable_now(self, version: FunctionVersion) -> bool:
        """A sandbox can be made of it at once: the key of its environment is at hand."""
        return self._seals.usable_now(version.config.environment, version.name)

    async def unlock(self, name: str) -> KeyProblem | None:
        """Asks again for the keys of a function's environments: those that are locked, and those whose key has not been asked
        for in a while. The first problem, or None. Raises NotFound."""
        self.get(name)
        function = self._functions[name]
        versions = (function.record.latest, *(published.version for published in function.versions.values()))
        before = [version.config.environment.problem for version in versions]
        for version in versions:
            await self._seals.refresh(version.config.environment, name)
        if [version.config.environment.problem for version in versions] != before:
            await self.locks_changed(name)
        return next((problem for v in versions if (problem := v.config.environment.problem) is not None), None)

    async def rewrap(self, name: str, wrap: Callable[[str, str], Awaitable[str | None]]) -> int:
        """Wraps the data keys of a function and its versions anew; environments stay as they are. wrap: from a function's name
        and a wrapped key to the new one, or None where there is nothing to be done. How many were changed. What raises leaves
        the rest as it was: each is done in one step, and any mixture opens."""
        if name not in self._functions:
            return 0
        async with self._mutation(name):
            function = self._functions.get(name)
            if function is None:
                return 0
            changed = 0
            for key in (*(version_key(name, record) for _, record in function.record.published), function_key(name)):
                entry = await self._store.get(key)
                held = wrapped_key(entry.value) if entry is not None else None
                wrapped = await wrap(*held) if held is not None else None
                if entry is None or wrapped is None:
                    continue
                stored = await self._settle(
                    name, self._store.put(key, with_wrapped_key(entry.value, wrapped), expect=entry.revision)
                )
                if key == function_key(name):
                    function.stored = stored
                changed += 1
            return changed

    async def wrapped_keys(self) -> tuple[str, ...]:
        """Every wrapped data key that the store holds of functions and versions."""
        found = []
        for prefix in (VERSION_PREFIX, FUNCTION_PREFIX):
            for entry in await _entries(self._store, prefix):
                held = wrapped_key(entry.value)
                found += [held[1]] if held is not None else []
        return tuple(found)

    async def quiet(self) -> None:
        """Until the change that is under way, if there is one, is stored."""
        async with self._mutating:
            pass

    def names(self) -> tuple[str, ...]:
        """Of all functions."""
        return tuple(sorted(self._functions))

    # ---- the store -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _mutation(self, name: str) -> AsyncIterator[None]:
        """One at a time, so that what was checked still holds when it is written; shielded, so that its end is known."""
        async with self._mutating:
            with trio.CancelScope(shield=True):
                if name in self._doubtful:
                    await self._reload(name)
                yield

    async def _write(self, name: str, function: _Function, record: Record, made: Published | None) -> None:
        """Store the new version if there is one, then the function that names it; once that is durable, show both."""
        try:
            value = await encode_function(record, self._seals)
            version = await encode_published(made, self._seals) if made is not None else b""
        except KeyProblem as problem:
            if not record.latest.config.kms_key_arn:
                raise
            raise BadRequest(KEY_TEXT + f"{problem.code}: {problem.message}") from None
        if made is not None:
            await self._store.put(version_key(name, made.version.revision_id), version, expect=ABSENT)
        stored = await self._settle(name, self._store.put(function_key(name), value, expect=function.stored))
        versions = {number: function.versions[number] for number, _ in record.published if number in function.versions}
        if made is not None:
            versions[int(made.version.version)] = made
        self._functions[name] = _Function(record, stored, versions)
        if record.latest.config.environment is not function.record.latest.config.environment or function.stored == ABSENT:
            self.environment_changed(record.latest)

    async def _forget(self, name: str, function: _Function) -> None:
        await self._settle(name, self._store.delete(function_key(name), expect=function.stored))
        del self._functions[name]

    async def _settle(self, name: str, write: Awaitable[int]) -> int:
        try:
            return await write
        except RevisionConflict as conflict:
            self._doubtful.add(name)
            raise Conflict(f"{name}: somebody else changed it at the same time; get it and try again") from conflict
        except Unavailable:
            self._doubtful.add(name)
            raise

    async def _reload(self, name: str) -> None:
        """Read one function anew after a write whose end is unknown."""
        entry = await self._store.get(function_key(name))
        if entry is None:
            self._functions.pop(name, None)
        else:
            record = await decode_function(entry.key, entry.value, self._seals)
            versions = {}
            for _, record_id in record.published:
                found = await self._store.get(version_key(name, record_id))
                if found is not None:
                    versions[found.key] = await decode_published(found.key, found.value, self._seals)
            self._admit(entry.key, entry.revision, record, versions)
        self._doubtful.discard(name)

    def _admit(self, at: str, revision: int, record: Record, versions: Mapping[str, Published]) -> None:
        name = record.latest.name
        found: dict[int, Published] = {}
        for number, record_id in record.published:
            key = version_key(name, record_id)
            if key not in versions:
                raise Unavailable(f"{at}: version {number} ({key}) is missing from the store; restore a copy")
            found[number] = versions[key]
        self._functions[name] = _Function(record, revision, found)

    async def _sweep(self, versions: Mapping[str, Published]) -> None:
        """Delete versions that no function names, left by a crash between two writes. Young ones may be about to be named by
        another service of a fleet."""
        named = {
            version_key(name, record_id)
            for name, function in self._functions.items()
            for _, record_id in function.record.published
        }
        before = timestamp(self._now_s() - ORPHAN_AGE_S)
        for key, published in versions.items():
            if key not in named and published.version.last_modified < before:
                await self._store.delete(key)


async def _nobody(name: str) -> None:
    """Is told."""


async def _decoded(
    entries: Sequence[port.Entry], decode: Callable[[str, bytes, Seals], Awaitable[T]], seals: Seals
) -> list[tuple[port.Entry, T]]:
    """Each with what it holds. Where keys have to be asked for far away, for several at once."""
    if not seals.far:
        return [(entry, await decode(entry.key, entry.value, seals)) for entry in entries]
    found: dict[str, T] = {}
    places = trio.CapacityLimiter(KEYS_ASKED_AT_ONCE)

    async def one(entry: port.Entry) -> None:
        async with places:
            found[entry.key] = await decode(entry.key, entry.value, seals)

    async with trio.open_nursery() as nursery:
        for entry in entries:
            nursery.start_soon(one, entry)
    return [(entry, found[entry.key]) for entry in entries]


def _same(published: Published, latest: FunctionConfig) -> bool:
    """Whether a version came from a configuration like this one. A description given to the version alone is no change."""
    source = replace(published.version.config, description=published.source_description)
    return all(getattr(source, f.name) == getattr(latest, f.name) for f in FIELDS if f.name not in FUNCTION_LEVEL)


async def _entries(store: port.Registry, prefix: str) -> Sequence[port.Entry]:
    entries: list[port.Entry] = []
    while page := await store.list(prefix, after=entries[-1].key if entries else "", limit=LOAD_PAGE):
        entries += page
    return entries
