"""The control methods: one row each, with its right, its shape and its handler.

Law of this file: what a method does, in terms of the rooms that do it. Shapes and answers are those of
docs/internals/service.md. A connection whose token names a tenant sees and changes that tenant's functions only; others'
are not found.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from scheduler import __version__, limits
from scheduler.catalog import FunctionSpec, spec_of
from scheduler.control import views
from scheduler.control.concurrency import Concurrency
from scheduler.control.dispatch import Call, Method
from scheduler.control.schema import Field, Kind
from scheduler.engine import histogram_bounds
from scheduler.errors import BadRequest, NotFound, Unauthorized
from scheduler.functions import names
from scheduler.functions.model import CodeKind, Network
from scheduler.guests import fold
from scheduler.logs import read_log
from scheduler.messages import Right, connection_grant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from scheduler.catalog import Catalog
    from scheduler.config import Settings
    from scheduler.control.access import Connection, Connections
    from scheduler.deployments import Deployments
    from scheduler.engine import Engine
    from scheduler.functions.model import CodeRef, FunctionVersion
    from scheduler.functions.packages import CodeStore
    from scheduler.functions.registry import Deployed, FunctionRegistry
    from scheduler.functions.uploads import Uploads
    from scheduler.messages import FunctionStats, MethodCall, Snapshot
    from scheduler.snapshots import Snapshots

__all__ = ["Methods"]

LOGS_BYTES_DEFAULT = 256 * 1024
LOGS_BYTES_MAX = 4 * 1024 * 1024
LOGS_WAIT_MS_MAX = 20_000
SINCE_MS_MAX = 1 << 43  # the year 2248
LOGS_POLL_S = 0.1  # the engine hands journals to its writer as often
LOG_READERS_MAX = 4
MASKED = "***"

TEXT, WHOLE, BINARY, FLAG, ANY = Kind.TEXT, Kind.WHOLE, Kind.BINARY, Kind.FLAG, Kind.ANY

NAME = Field("name", TEXT, required=True, minimum=1, maximum=limits.FUNCTION_REFERENCE_CHARS_MAX)
# Their values are judged by functions.model, all problems of a configuration at once and in Lambda's words.
CONFIGURATION = tuple(
    Field(name, ANY)
    for name in (
        "handler",
        "runtime",
        "memory_mb",
        "timeout_s",
        "ephemeral_storage_mb",
        "environment",
        "reserved_concurrency",
        "weight",
        "tenant",
        "queue_timeout_ms",
        "snapshot",
        "freeze",
        "runtime_client",
        "kms_key_arn",
        "secrets",
        "keys",
        "description",
        "network",
        "log_format",
        "application_log_level",
        "system_log_level",
        "log_group",
        "tracing",
        "recursive_loop",
        "snap_start",
        "tenancy",
        "dead_letter_arn",
    )
)


class Methods:
    """Holds the rooms; rows() is the table. drain: refuses new calls, ends the running ones, then ends the service. no_network:
    why functions can have none here, or None."""

    def __init__(
        self,
        *,
        settings: Settings,
        engine: Engine,
        catalog: Catalog,
        registry: FunctionRegistry,
        code: CodeStore,
        uploads: Uploads,
        compilers: Mapping[str, str | None],
        deployments: Deployments,
        connections: Connections,
        drain: Callable[[int | None], Awaitable[bool]],
        start_time_s: float,
        accept_event: Callable[[Connection, MethodCall], Awaitable[Any]],
        events_of: Callable[[str], dict[str, Any]],
        no_network: Callable[[], Awaitable[str | None]],
        snapshots: Snapshots,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._catalog = catalog
        self._registry = registry
        self._code = code
        self._uploads = uploads
        self._compilers = compilers
        self._deployments = deployments
        self._connections = connections
        self._drain = drain
        self._start_time_s = start_time_s
        self._accept_event = accept_event
        self._events_of = events_of
        self._no_network = no_network
        self._snapshots = snapshots
        self._log_readers = trio.CapacityLimiter(LOG_READERS_MAX)
        self.concurrency = Concurrency(
            registry=registry, catalog=catalog, deployments=deployments, stats=engine.stats, spec=self._spec
        )

    def rows(self) -> tuple[Method, ...]:
        return (
            Method(
                "hello",
                Right.NONE,
                (
                    Field("token", TEXT, maximum=1024),
                    Field("client", TEXT, maximum=256),
                    Field("version", TEXT, maximum=64),
                ),
                self._hello,
            ),
            Method("ping", Right.NONE, (), self._ping),
            Method("invoke", Right.INVOKE, (), raw=self._accept_event),
            Method(
                "code.put",
                Right.DEPLOY,
                (
                    Field("sha256", TEXT, required=True, minimum=64, maximum=64),
                    Field("size", WHOLE, required=True, maximum=limits.CODE_ZIPPED_BYTES_MAX),
                    Field("offset", WHOLE, required=True, maximum=limits.CODE_ZIPPED_BYTES_MAX),
                    Field("data", BINARY, required=True, maximum=limits.CODE_CHUNK_BYTES_MAX),
                ),
                self._code_put,
            ),
            Method(
                "functions.deploy",
                Right.DEPLOY,
                (
                    NAME,
                    Field("code_sha256", TEXT, required=True, minimum=64, maximum=64),
                    Field("code_kind", TEXT, required=True, choices=tuple(kind.value for kind in CodeKind)),
                    Field("publish", FLAG),
                    *CONFIGURATION,
                ),
                self._deploy,
            ),
            Method(
                "functions.update",
                Right.DEPLOY,
                (NAME, Field("revision_id", TEXT, maximum=128), *CONFIGURATION),
                self._update,
            ),
            Method(
                "functions.list",
                Right.INVOKE,
                (
                    Field("tenant", TEXT, minimum=1, maximum=limits.TENANT_NAME_CHARS_MAX),
                    Field("marker", TEXT, minimum=1, maximum=limits.FUNCTION_NAME_CHARS_MAX),
                    Field("limit", WHOLE, minimum=1, maximum=10_000),
                ),
                self._list,
            ),
            Method("functions.get", Right.INVOKE, (NAME,), self._get),
            Method("functions.remove", Right.DEPLOY, (NAME,), self._remove),
            Method(
                "functions.logs",
                Right.INVOKE,
                (
                    NAME,
                    Field("cursor", TEXT, maximum=64),
                    Field("limit_bytes", WHOLE, minimum=1, maximum=16 * 1024 * 1024),
                    Field("wait_ms", WHOLE, maximum=LOGS_WAIT_MS_MAX),
                    Field("request_id", TEXT, maximum=64),
                    Field("since_ms", WHOLE, minimum=0, maximum=SINCE_MS_MAX),
                ),
                self._logs,
                waits=True,
            ),
            *self.concurrency.rows(),
            Method("stats", Right.INVOKE, (), self._stats),
            Method("accounts", Right.INVOKE, (), self._accounts),
            Method("drain", Right.ADMIN, (Field("grace_ms", WHOLE, maximum=900_000),), self._drain_method),
        )

    # ---- the connection ----

    async def _hello(self, call: Call) -> dict[str, Any]:
        grant = self._connections.hello(call.connection, call.get("token"))
        number = self._catalog.tenant_number(grant.tenant) if grant.tenant is not None else 0
        await self._engine.post(connection_grant(call.connection.id, grant.rights, number))
        return {
            "server": "scheduler",
            "version": __version__,
            "limits": limits.lambda_limits(),
            "rights": [right.name.lower() for right in Right if right in grant.rights and right.name],
            "tenant": grant.tenant,
        }

    async def _ping(self, call: Call) -> str:
        return "pong"

    # ---- functions ----

    def _find(self, call: Call) -> FunctionVersion:
        """The version that `name` says, if this connection may know of it."""
        reference = names.parse(call.values["name"], self._registry.identity)
        version = self._registry.get(reference.name, reference.effective)
        if call.connection.tenant not in (None, version.config.tenant):  # said as of what is not there at all
            raise NotFound(f"Function not found: {self._registry.identity.arn(reference.name, reference.effective)}")
        return version

    def _fields(self, call: Call, *leave: str) -> dict[str, Any]:
        return {key: value for key, value in call.values.items() if key not in leave}

    def _check_tenant(self, call: Call, name: str, fields: dict[str, Any]) -> None:
        """A token's tenant is its functions' tenant; a function keeps the one it has."""
        own = call.connection.tenant
        if own is not None:
            if fields.setdefault("tenant", own) != own:
                raise Unauthorized(f"tenant: this token is for tenant {own}")
            if name in self._registry and self._registry.get(name).config.tenant != own:
                raise Unauthorized(f"name: {name} belongs to another tenant")
        if name in self._registry:
            present = self._registry.get(name).config.tenant
            if fields.get("tenant", present) != present:
                raise BadRequest(f"tenant: function {name} belongs to tenant {present}; remove it first to give it to another")

    async def _check_network(self, fields: Mapping[str, Any]) -> None:
        """Told when it is deployed: later nobody would look."""
        if fields.get("network") == Network.OUTBOUND.value:
            why = await self._no_network()
            if why is not None:
                raise BadRequest(f"network: 'outbound' cannot be had on this machine: {why}", reason="network")

    def _spec(self, name: str) -> FunctionSpec:
        return spec_of(self._registry, name)

    def _own_name(self, call: Call) -> str:
        """Of a method that takes a function, not a version."""
        reference = names.parse(call.values["name"], self._registry.identity)
        if reference.qualifier not in (None, names.LATEST):
            raise BadRequest(f"name: {call.values['name']!r} names a version, which cannot be changed")
        return reference.name

    async def _code_put(self, call: Call) -> dict[str, Any]:
        values = call.values
        upload = await self._uploads.put(values["sha256"], values["size"], values["offset"], values["data"])
        return {"received": upload.received, "complete": upload.complete}

    async def _deploy(self, call: Call) -> dict[str, Any]:
        name = self._own_name(call)
        fields = self._fields(call, "code_sha256", "code_kind", "publish")
        fields["name"] = name
        async with self._deployments.turn(name):
            self._check_tenant(call, name, fields)
            await self._check_network(fields)
            code = await self._admitted(call, name, fields)
            deployed = await self._registry.deploy(fields, code, publish=call.get("publish", False))
            await self._deployments.apply(self._spec(name))
        await self._uploads.forget(code.sha256)
        if deployed.published is not None:
            await self._snapshots.make((deployed.published, deployed.latest))
        return self._described(deployed)

    async def _admitted(self, call: Call, name: str, fields: dict[str, Any]) -> CodeRef:
        """The uploaded package, unpacked. Code that is here already need not be sent again by those who have it in use: whoever
        knows a hash has not shown that they have the bytes."""
        sha256, kind = call.values["code_sha256"], CodeKind(call.values["code_kind"])
        present = self._registry.get(name).config if name in self._registry else None
        handler = fields.get("handler", present.handler if present else None)
        runtime = fields.get("runtime", present.runtime if present else next(iter(self._compilers), None))
        if not isinstance(handler, str):
            raise BadRequest("handler: is required, MODULE.FUNCTION" if handler is None else "handler: must be text")
        try:
            upload = self._uploads.whole(sha256)
        except NotFound:
            held = self._code.holds(sha256, kind, handler)
            if held is None or held.path not in self._registry.code_in_use(call.connection.tenant):
                raise
            return held
        # Of one that is no runtime the registry says what is wrong with it.
        interpreter = self._compilers.get(runtime) if isinstance(runtime, str) else None
        return await self._code.add(upload, kind, handler=handler, interpreter=interpreter, sha256=sha256)

    async def _update(self, call: Call) -> dict[str, Any]:
        name = self._own_name(call)
        fields = self._fields(call, "name", "revision_id")
        async with self._deployments.turn(name):
            self._find(call)
            self._check_tenant(call, name, fields)
            await self._check_network(fields)
            deployed = await self._registry.update(name, fields, revision_id=call.get("revision_id"))
            await self._deployments.apply(self._spec(name))
        return self._described(deployed)

    def _described(self, deployed: Deployed) -> dict[str, Any]:
        # Asked for by number, a version is told by number: `published` is what the caller made.
        return self._snapshots.describe(deployed.published or deployed.latest)

    async def _list(self, call: Call) -> dict[str, Any]:
        tenant = call.get("tenant", call.connection.tenant)
        if call.connection.tenant not in (None, tenant):
            raise Unauthorized(f"tenant: this token is for tenant {call.connection.tenant}")
        page = self._registry.list(tenant=tenant, marker=call.get("marker"), limit=call.get("limit", limits.LIST_PAGE_MAX))
        return {
            "functions": [self._shown(call, version) for version in page.functions],
            "next_marker": page.next_marker,
        }

    async def _get(self, call: Call) -> dict[str, Any]:
        version = self._find(call)
        handle = self._catalog.handle(version.name, version.version)
        stats = fold(await self._engine.stats(), self._catalog).functions.get(handle) if handle is not None else None
        shown = None if stats is None else self._function_view(stats, version)
        return {**self._shown(call, version), "stats": shown, "events": self._events_of(version.name)}

    def _shown(self, call: Call, version: FunctionVersion) -> dict[str, Any]:
        """Whoever may only invoke is told which variables there are, not what is in them."""
        described = self._snapshots.describe(version)
        if call.connection.rights & Right.DEPLOY:
            return described
        return {**described, "environment": dict.fromkeys(described["environment"], MASKED)}

    async def _remove(self, call: Call) -> dict[str, Any]:
        reference = names.parse(call.values["name"], self._registry.identity)
        async with self._deployments.turn(reference.name):
            self._find(call)
            removed = await self._registry.remove(reference.name, reference.qualifier)
            if reference.name in self._registry:
                await self._deployments.apply(self._spec(reference.name))
            else:
                await self._deployments.remove(reference.name)
        return {"removed": [version.display_name for version in removed]}

    async def _logs(self, call: Call) -> dict[str, Any]:
        name = self._find(call).name
        read = partial(
            read_log,
            self._settings.log_dir,
            name,
            limit_bytes=min(call.get("limit_bytes", LOGS_BYTES_DEFAULT), LOGS_BYTES_MAX),
            request_id=call.get("request_id"),
            since_ns=call.get("since_ms", 0) * 1_000_000,
        )
        cursor = call.get("cursor")
        deadline = trio.current_time() + call.get("wait_ms", 0) / 1000
        while True:
            log = await trio.to_thread.run_sync(partial(read, cursor=cursor), limiter=self._log_readers)
            cursor = log.cursor
            if log.text or trio.current_time() >= deadline:
                return {"text": log.text, "cursor": log.cursor}
            await trio.sleep(LOGS_POLL_S)

    # ---- counters ----

    def _function_view(self, stats: FunctionStats, version: FunctionVersion) -> dict[str, Any]:
        return views.function_view(stats, name=version.name, version=version.version, bounds=histogram_bounds())

    def functions_view(self, snapshot: Snapshot, tenant: str | None = None) -> list[dict[str, Any]]:
        shown = []
        for handle, stats in snapshot.functions.items():
            version = self._catalog.serving(handle)
            if version is not None and tenant in (None, version.config.tenant):
                shown.append(self._function_view(stats, version))
        return sorted(shown, key=lambda view: (view["name"], view["version"]))

    async def stats_view(self, tenant: str | None = None) -> dict[str, Any]:
        snapshot = fold(await self._engine.stats(), self._catalog)
        return {
            "functions": self.functions_view(snapshot, tenant),
            "totals": views.totals_view(snapshot.totals),
            "loop": views.loop_view(snapshot.loop),
            "sandboxes": views.sandboxes_view(snapshot),
            "uptime_s": round(trio.current_time() - self._start_time_s, 3),
            "version": __version__,
        }

    async def _stats(self, call: Call) -> dict[str, Any]:
        return await self.stats_view(call.connection.tenant)

    async def accounts_view(self) -> dict[str, Any]:
        snapshot = await self._engine.stats()
        infos = {index: info for index in snapshot.accounts if (info := self._catalog.account_info(index)) is not None}
        return {
            "accounts": [
                views.account_view(stats, infos[index], infos)
                for index, stats in sorted(snapshot.accounts.items())
                if index in infos
            ]
        }

    async def _accounts(self, call: Call) -> dict[str, Any]:
        shown = await self.accounts_view()
        tenant = call.connection.tenant
        if tenant is None:
            return shown
        own = f"tenant:{tenant}"
        return {"accounts": [a for a in shown["accounts"] if own in (a["name"], a["parent"])]}

    async def _drain_method(self, call: Call) -> dict[str, Any]:
        return {"drained": await self._drain(call.get("grace_ms"))}
