"""What the engine knows of functions: numbering of accounts and handles, names, limits, and how a deployment takes over.

Law of this file: no input or output, no clock. Methods take specifications and return the commands to post, in order. The
tree of accounts is node (0), tenant, function; every version of a function has its own core handle and charges the account
of its function.

Numbers are reused: an account's index once the core has let all its functions go, a handle's index with its generation
raised, so that a late event of a dead function is recognised.

A new deployment of $LATEST in two halves: stage() tells the core to start one sandbox of the new revision beside the serving
ones; put(), called when that one is ready or will not be, moves the traffic. The core drains the old sandboxes, so no call is
lost. What a sandbox of a revision is to run is kept until the core can ask for it no longer.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from scheduler.errors import BadRequest, Throttled
from scheduler.functions.model import Network, RecursiveLoop, State, Tenancy, Tracing
from scheduler.functions.names import LATEST, Identity, is_version
from scheduler.messages import (
    NO_ACCOUNT,
    NODE_ACCOUNT,
    AccountPut,
    AccountRemove,
    Command,
    FunctionPut,
    FunctionRemove,
    FunctionSwitch,
    Look,
    Resource,
    SandboxWant,
    Trait,
    core,
    function_info,
    handle_index,
    make_handle,
    name_put,
    name_remove,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scheduler.config import Settings
    from scheduler.functions.attached import Alias
    from scheduler.functions.model import FunctionConfig, FunctionVersion
    from scheduler.functions.registry import FunctionRegistry

__all__ = [
    "LATEST",
    "AccountInfo",
    "Catalog",
    "CatalogFull",
    "FunctionSpec",
    "spec_of",
]

WHOLE_PART = 0xFFFF_FFFF  # of 2**32
S = 1_000_000_000
MS = 1_000_000
_LOOKS: Final = {
    ("Text", ""): Look.TEXT,
    ("JSON", "DEBUG"): Look.JSON | Look.DEBUG,
    ("JSON", "INFO"): Look.JSON,
    ("JSON", "WARN"): Look.JSON | Look.WARN,
}


def _traits(version: FunctionVersion) -> Trait:
    config, traits = version.config, Trait.NONE
    if config.tracing == Tracing.ACTIVE.value:
        traits |= Trait.TRACED
    if config.network != Network.NONE.value:
        traits |= Trait.CALLS
    if config.recursive_loop == RecursiveLoop.ALLOW.value:
        traits |= Trait.LOOPS
    if version.snap_started:
        traits |= Trait.SNAPSTART
    if config.environment.problem is not None:
        traits |= Trait.LOCKED
    if config.tenancy == Tenancy.PER_TENANT.value:
        traits |= Trait.GUESTS
    return traits


class CatalogFull(Throttled):
    """No number is left for one more function, version or tenant; the message names the setting to raise."""


@dataclass(frozen=True, slots=True)
class FunctionSpec:
    """A function as the registry has it now. published: its versions without $LATEST. aliases: by name; one whose version is
    not among those names nothing. floors: sandboxes to keep initialised, by version."""

    latest: FunctionVersion
    published: tuple[FunctionVersion, ...] = ()
    aliases: Mapping[str, Alias] = field(default_factory=dict, hash=False)
    floors: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def config(self) -> FunctionConfig:
        """Of $LATEST; its tenant, weight and reservation are the whole function's."""
        return self.latest.config

    @property
    def versions(self) -> tuple[FunctionVersion, ...]:
        return (self.latest, *self.published)


def spec_of(registry: FunctionRegistry, name: str) -> FunctionSpec:
    """The function as it is now. NotFound."""
    return FunctionSpec(
        registry.get(name), registry.versions(name), registry.attachments.of(name).aliases, registry.floors(name)
    )


class AccountKind(Enum):
    NODE = "node"
    TENANT = "tenant"
    FUNCTION = "function"


@dataclass(frozen=True, slots=True)
class AccountInfo:
    """name: as callers see it: "node", "tenant:acme", "function:hello"."""

    name: str
    kind: AccountKind


@dataclass(slots=True)
class _Version:
    handle: int
    serving: FunctionVersion
    named: bool = False  # callers find it
    guests: dict[str, int] = field(default_factory=dict)  # handle by tenant id
    launches: dict[int, FunctionVersion] = field(default_factory=dict)  # by revision; what may still be asked for


@dataclass(slots=True)
class _Function:
    spec: FunctionSpec
    account: int
    versions: dict[str, _Version] = field(default_factory=dict)
    aliases: set[str] = field(default_factory=set)  # that the engine knows
    going: set[int] = field(default_factory=set)  # handles removed but not yet let go by the core
    removed: bool = False


@dataclass(slots=True)
class _Tenant:
    account: int
    functions: int = 0


class _Numbers:
    """The smallest free number below `limit`."""

    __slots__ = ("_free", "_limit", "_next")

    def __init__(self, first: int, limit: int) -> None:
        self._free: list[int] = []
        self._next = first
        self._limit = limit

    def left(self) -> int:
        return len(self._free) + self._limit - self._next

    def take(self) -> int:
        if self._free:
            return heapq.heappop(self._free)
        number = self._next
        self._next += 1
        return number

    def give(self, number: int) -> None:
        heapq.heappush(self._free, number)


def accounts_max(settings: Settings) -> int:
    """The node, and at worst one tenant for each function."""
    return min(2 * settings.functions_max + 1, NO_ACCOUNT - 1)


class Catalog:
    """See the file's head. Every method is all or nothing: when it raises, nothing has changed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._identity = Identity(settings.region, settings.account_id)
        self._functions: dict[str, _Function] = {}
        self._going: dict[int, _Function] = {}  # by handle
        self._tenants: dict[str, _Tenant] = {}
        self._tenant_numbers: dict[str, int] = {}
        self._by_handle: dict[int, tuple[_Function, _Version]] = {}
        self._accounts = _Numbers(1, accounts_max(settings))
        self._handles = _Numbers(0, settings.functions_max)
        most = settings.functions_max + settings.isolated_tenants_max
        self._of_functions = settings.functions_max
        self._guest_handles = _Numbers(settings.functions_max, most)  # so that neither takes the other's room
        self._generations: dict[int, int] = {}
        self._account_info: dict[int, AccountInfo] = {NODE_ACCOUNT: AccountInfo("node", AccountKind.NODE)}

    # ---- looking in ----

    def tenant_number(self, name: str) -> int:
        """By which the engine tells tenants apart; for life, since a token may name a tenant before its first function."""
        return self._tenant_numbers.setdefault(name, len(self._tenant_numbers) + 1)

    def account_info(self, index: int) -> AccountInfo | None:
        return self._account_info.get(index)

    def handle(self, function: str, version: str = LATEST) -> int | None:
        known = self._functions.get(function)
        entry = known.versions.get(version) if known else None
        return entry.handle if entry else None

    def launch(self, handle: int, revision: int) -> FunctionVersion | None:
        """What to run for a NEED of the core; None: nobody knows it any more."""
        found = self._by_handle.get(handle)
        return found[1].launches.get(revision) if found else None

    def serving(self, handle: int) -> FunctionVersion | None:
        """The version behind a handle as it serves now, for names in metrics and logs."""
        found = self._by_handle.get(handle)
        return found[1].serving if found else None

    def floors(self, function: str) -> dict[str, int]:
        """Sandboxes that are kept initialised, by version."""
        known = self._functions.get(function)
        return dict(known.spec.floors) if known else {}

    def functions(self) -> Iterator[tuple[str, str, int]]:
        """(function, version, handle) of all that serve."""
        for name, function in self._functions.items():
            for version, entry in function.versions.items():
                yield name, version, entry.handle

    def launches(self) -> Iterator[tuple[int, FunctionVersion]]:
        """(handle, version) of all that a sandbox may be asked for: those that serve and those that are about to."""
        for function in self._functions.values():
            for entry in function.versions.values():
                for version in entry.launches.values():
                    yield entry.handle, version

    def served(self) -> Iterator[FunctionVersion]:
        """All versions that serve."""
        for known in self._functions.values():
            for entry in known.versions.values():
                yield entry.serving

    def scratch_sizes(self) -> set[int]:
        """MB of /tmp that they ask for."""
        configs = (entry.serving.config for known in self._functions.values() for entry in known.versions.values())
        return {config.ephemeral_storage_mb for config in configs}

    # ---- node ----

    def start(self) -> list[Command]:
        """The node's account; first of all."""
        maxima = {
            Resource.CONCURRENCY: self._settings.concurrency_max,
            Resource.MEMORY: self._settings.memory_mb(),
            Resource.QUEUED_CALLS: self._settings.queued_calls_max,
            Resource.QUEUED_BYTES: self._settings.queued_bytes_max,
        }
        return [core(AccountPut(index=NODE_ACCOUNT, parent=NO_ACCOUNT, maxima=maxima), name="node")]

    def reload(self, settings: Settings) -> list[Command]:
        """New limits of the node, the tenants and the functions' queues, for what is there and what will come."""
        self._settings = settings
        commands = self.start()
        commands += [self._tenant_put(name, tenant.account) for name, tenant in self._tenants.items()]
        commands += [self._account_put(known) for known in self._functions.values()]
        return commands

    # ---- functions ----

    def _check_room(self, spec: FunctionSpec, known: _Function | None) -> None:
        name = spec.latest.name
        wanted = {v.version for v in spec.versions} - (set(known.versions) if known else set())
        if len(wanted) > self._handles.left():
            raise CatalogFull(
                f"function {name}: {len(wanted)} more versions do not fit, functions_max is {self._settings.functions_max}"
            )
        accounts = (known is None) + (spec.config.tenant not in self._tenants)
        if accounts > self._accounts.left():
            raise CatalogFull(f"function {name}: {accounts} more accounts do not fit, there are {accounts_max(self._settings)}")

    def put(self, spec: FunctionSpec) -> list[Command]:
        """Creates a function, or brings a known one to `spec` at once, a new revision of $LATEST without staging included.

        CatalogFull: no number is left. BadRequest: a function keeps its tenant.
        """
        name, tenant = spec.latest.name, spec.config.tenant
        known = self._functions.get(name)
        if known is not None and known.spec.config.tenant != tenant:
            raise BadRequest(
                f"tenant: function {name} belongs to tenant {known.spec.config.tenant}; remove it first to give it to {tenant}"
            )
        self._check_room(spec, known)
        commands: list[Command] = []
        if known is None:
            owner = self._tenant(tenant, commands)
            owner.functions += 1
            known = self._functions[name] = _Function(spec, self._accounts.take())
            self._account_info[known.account] = AccountInfo(f"function:{name}", AccountKind.FUNCTION)
        known.spec = spec
        commands.append(self._account_put(known))
        for version in spec.versions:
            self._version_put(known, version, commands)
        self._aliases_put(known, commands)
        for gone in set(known.versions) - {v.version for v in spec.versions}:
            self._version_remove(known, gone, commands)
        return commands

    def stage(self, spec: FunctionSpec) -> list[Command]:
        """First half of a deployment: one sandbox of the new revision of $LATEST, while the old one goes on serving."""
        latest = spec.latest
        known = self._functions[latest.name]
        entry = known.versions[LATEST]
        entry.launches[latest.revision] = latest
        # Memory is charged by the function's figure: until the switch the larger one, so that nobody is charged too little.
        memory_mb = max(entry.serving.config.memory_mb, latest.config.memory_mb)
        return [
            core(self._function_put(known, entry, entry.serving, memory_mb)),
            core(SandboxWant(entry.handle, latest.revision)),
        ]

    def remove(self, name: str) -> list[Command]:
        """Nobody finds it any more; its running calls end. freed() hears of each handle later."""
        known = self._functions.pop(name)
        known.removed = True
        commands: list[Command] = []
        known.spec = FunctionSpec(known.spec.latest)
        self._aliases_put(known, commands)
        for version in list(known.versions):
            self._version_remove(known, version, commands)
        return commands

    def freed(self, handle: int) -> list[Command]:
        """The core has let a function go: its numbers may be used again."""
        known = self._going.pop(handle, None)
        if known is None:
            return []
        known.going.discard(handle)
        self._by_handle.pop(handle, None)
        index = handle_index(handle)
        (self._handles if index < self._of_functions else self._guest_handles).give(index)
        if not known.removed or known.going:
            return []
        commands = [core(AccountRemove(known.account))]
        del self._account_info[known.account]
        self._accounts.give(known.account)
        tenant = self._tenants[known.spec.config.tenant]
        tenant.functions -= 1
        if tenant.functions == 0:
            commands.append(core(AccountRemove(tenant.account)))
            del self._tenants[known.spec.config.tenant]
            del self._account_info[tenant.account]
            self._accounts.give(tenant.account)
        return commands

    # ---- guests: each tenant id of a tenant-isolated version has a function of its own in the engine ----

    def base(self, handle: int) -> int:
        """The handle of the version that it is of."""
        found = self._by_handle.get(handle)
        return found[1].handle if found else handle

    def guests(self) -> list[tuple[str, str, str, int]]:
        """(function, version, tenant id, handle) of all."""
        return [
            (name, version, guest, handle)
            for name, function in self._functions.items()
            for version, entry in function.versions.items()
            for guest, handle in entry.guests.items()
        ]

    def admit(self, function: str, version: str, guest: str) -> list[Command]:
        """Calls of this tenant id find a function of their own; nothing where they do already. CatalogFull."""
        known = self._functions[function]
        entry = known.versions[version]
        if guest in entry.guests:
            return []
        most = self._settings.isolated_tenants_max
        owner = known.spec.config.tenant
        share = most if len(self._tenants) == 1 else most - most // 4  # so that no tenant takes all from the others
        held = sum(
            len(one.guests)
            for other in self._functions.values()
            if other.spec.config.tenant == owner
            for one in other.versions.values()
        )
        if held >= share or not self._guest_handles.left():
            raise CatalogFull(
                f"function {function}: {held} tenant ids of tenant {owner} are served: isolated_tenants_max is {most}",
                retry_after_ms=1_000,
            )
        handle = entry.guests[guest] = self._new_handle(self._guest_handles)
        self._by_handle[handle] = (known, entry)
        commands: list[Command] = []
        self._guest_put(known, entry, guest, handle, commands)
        return [*commands, *self.name_guest(function, version, guest)]

    def name_guest(self, function: str, version: str, guest: str) -> list[Command]:
        handle = self._functions[function].versions[version].guests[guest]
        spellings = self._spellings(function, version)
        return [self._name_put(function, version, text, handle, guest=guest) for text in spellings]

    def unname_guest(self, function: str, version: str, guest: str) -> list[Command]:
        """Its calls come to the control plane first again."""
        return [name_remove(text, guest) for text in self._spellings(function, version)]

    def dismiss(self, function: str, version: str, guest: str) -> list[Command]:
        """It is let go. freed() hears of the handle later."""
        return self._dismiss(self._functions[function], version, guest)

    def _dismiss(self, known: _Function, version: str, guest: str) -> list[Command]:
        handle = known.versions[version].guests.pop(guest)
        known.going.add(handle)
        self._going[handle] = known
        return [*self.unname_guest(known.spec.latest.name, version, guest), core(FunctionRemove(handle))]

    def _guest_put(self, known: _Function, entry: _Version, guest: str, handle: int, commands: list[Command]) -> None:
        spec = entry.serving
        commands.append(core(replace(self._function_put(known, entry, spec, spec.config.memory_mb), handle=handle)))
        commands.append(self._info(known, handle, spec, guest))

    # ---- parts ----

    def _tenant(self, name: str, commands: list[Command]) -> _Tenant:
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = _Tenant(self._accounts.take())
            self._account_info[tenant.account] = AccountInfo(f"tenant:{name}", AccountKind.TENANT)
            commands.append(self._tenant_put(name, tenant.account))
        return tenant

    def _tenant_put(self, name: str, account: int) -> Command:
        limits = self._settings.tenant(name)
        maxima = {
            Resource.CONCURRENCY: limits.concurrency_max,
            Resource.RATE: limits.rate_max,
            Resource.MEMORY: limits.memory_mb_max,
            Resource.QUEUED_CALLS: limits.queued_calls_max,
        }
        # A tenth of a second's worth may come at once: clients send in batches.
        burst = max(1, min(limits.rate_max // 10, 1_000_000))
        put = AccountPut(index=account, parent=NODE_ACCOUNT, weight=limits.weight, maxima=maxima, burst=burst)
        return core(put, name=self._account_info[account].name)

    def _account_put(self, known: _Function) -> Command:
        reserved = known.spec.config.reserved_concurrency
        own = {} if reserved is None else {Resource.CONCURRENCY: reserved}
        # What is provisioned is taken out of what others may use, as a reservation is, but is no limit.
        held = max(reserved or 0, sum(known.spec.floors.values()))
        return core(
            AccountPut(
                index=known.account,
                parent=self._tenants[known.spec.config.tenant].account,
                weight=known.spec.config.weight,
                maxima={**own, Resource.QUEUED_CALLS: self._settings.function_queued_calls_max},
                minima={Resource.CONCURRENCY: held} if held else {},
            ),
            name=self._account_info[known.account].name,
        )

    @staticmethod
    def _function_put(known: _Function, entry: _Version, spec: FunctionVersion, memory_mb: int) -> FunctionPut:
        return FunctionPut(
            handle=entry.handle,
            account=known.account,
            revision=spec.revision,
            memory_mb=memory_mb,
            timeout_ns=spec.config.timeout_s * S,
            queue_timeout_ns=spec.config.queue_timeout_ms * MS,
            weight=known.spec.config.weight,
            provisioned=known.spec.floors.get(spec.version, 0),
        )

    def tell(self, name: str) -> list[Command]:
        """What the engine is to know of a function's versions, anew: keys of their environments came or went."""
        known = self._functions.get(name)
        return [
            self._info(known, handle, entry.serving, guest)
            for entry in (known.versions.values() if known is not None else ())
            for guest, handle in (("", entry.handle), *entry.guests.items())
            if known is not None
        ]

    def _version_put(self, known: _Function, spec: FunctionVersion, commands: list[Command]) -> None:
        entry = known.versions.get(spec.version)
        name = known.spec.latest.name
        fresh = entry is None
        if entry is None:
            entry = _Version(self._new_handle(self._handles), spec)
            known.versions[spec.version] = entry
            self._by_handle[entry.handle] = (known, entry)
        # A NEED of an older revision that is on its way fails to launch, and the core has given that sandbox up already.
        entry.launches = {spec.revision: spec}
        entry.serving = spec
        commands.append(core(self._function_put(known, entry, spec, spec.config.memory_mb)))
        commands.append(self._info(known, entry.handle, spec))
        if not entry.named and spec.state is not State.PENDING:
            entry.named = True
            commands.extend(
                self._name_put(name, spec.version, text, entry.handle) for text in self._spellings(name, spec.version)
            )
        if not fresh:
            commands.append(core(FunctionSwitch(entry.handle, spec.revision)))
        for guest, handle in entry.guests.items():
            self._guest_put(known, entry, guest, handle, commands)
            commands.append(core(FunctionSwitch(handle, spec.revision)))

    def _new_handle(self, numbers: _Numbers) -> int:
        index = numbers.take()
        self._generations[index] = self._generations.get(index, 0) % 0xFFFF_FFFF + 1
        return make_handle(index, self._generations[index])

    def _info(self, known: _Function, handle: int, spec: FunctionVersion, guest: str = "") -> Command:
        traits = _traits(spec)
        return function_info(
            handle,
            name=spec.name,
            version=spec.version,
            tenant=known.spec.config.tenant,
            tenant_number=self.tenant_number(known.spec.config.tenant),
            memory_mb=spec.config.memory_mb,
            timeout_ms=spec.config.timeout_s * 1000,
            look=_LOOKS[spec.config.log_format, spec.config.shown_system_log_level],
            traits=traits & ~Trait.GUESTS if guest else traits,
            runtime=spec.config.runtime,
            guest=guest,
        )

    def _spellings(self, name: str, qualifier: str) -> tuple[str, ...]:
        return self._identity.spellings(name, qualifier)

    def _name_put(
        self, name: str, qualifier: str, text: str, handle: int, other: int = 0, part: int = 0, guest: str = ""
    ) -> Command:
        """As in Lambda, a call that names $LATEST or an alias is told so; a version's sandboxes know their number."""
        told = text.endswith(f":{qualifier}") and not is_version(qualifier)
        return name_put(text, handle, other, part, self._identity.arn(name, qualifier) if told else None, guest)

    def _aliases_put(self, known: _Function, commands: list[Command]) -> None:
        """The names of the aliases, as the specification has them now; before the versions they may have named go."""
        name, versions = known.spec.latest.name, known.versions
        live = {alias: to for alias, to in known.spec.aliases.items() if to.version in versions and versions[to.version].named}
        for gone in known.aliases - set(live):
            commands.extend(name_remove(text) for text in self._identity.spellings(name, gone))
        known.aliases = set(live)
        for alias, to in live.items():
            first = second = versions[to.version].handle
            part = 0
            for version, weight in to.weights.items():
                if version in versions and versions[version].named:
                    second, part = versions[version].handle, round(weight * 2**32)
            if part > WHOLE_PART:  # all of them
                first, part = second, 0
            commands.extend(self._name_put(name, alias, text, first, second, part) for text in self._spellings(name, alias))

    def _version_remove(self, known: _Function, version: str, commands: list[Command]) -> None:
        for guest in list(known.versions[version].guests):
            commands.extend(self._dismiss(known, version, guest))
        entry = known.versions.pop(version)
        commands.extend(name_remove(text) for text in self._identity.spellings(known.spec.latest.name, version))
        commands.append(core(FunctionRemove(entry.handle)))
        known.going.add(entry.handle)
        self._going[entry.handle] = known
