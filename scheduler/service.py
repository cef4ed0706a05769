"""The composition root: the only module that knows every room. Starts the service, keeps it up, ends it in order.

Law of this file: order and supervision, no decisions. Every task lives in one of two nested nurseries: the outer one holds
the engine's reactor, the inner one everything that talks to it, so that at the end the inner one is through, sandboxes and
all, before the reactor stops. A task that fails ends the service: what is broken must not look alive.

Start: state directory locked - launcher (before any thread exists) - store, registry - engine made and filled - sockets
bound - reactor, console. So nobody is told "no such function" by a service that has not finished reading its registry.
"""

from __future__ import annotations

import gc
import os
import secrets
import signal
import socket
import sys
import time
import traceback
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from scheduler.catalog import Catalog, CatalogFull, spec_of
from scheduler.config import ConfigError, reloaded, unknown_variables
from scheduler.console import http
from scheduler.console.pages import Pages
from scheduler.control.access import Connections, TokenFile
from scheduler.control.api import ApiMethods
from scheduler.control.dispatch import Dispatcher
from scheduler.control.keys import KeyMethods
from scheduler.control.methods import Methods
from scheduler.deployments import Deployments
from scheduler.engine import Engine, histogram_bounds
from scheduler.enginesettings import engine_config
from scheduler.errors import NotFound, SchedulerError, Unavailable
from scheduler.figures import events_of, scrape
from scheduler.functions.layers import Layers
from scheduler.functions.model import RuntimeClient, State
from scheduler.functions.names import LATEST, Identity
from scheduler.functions.names import parse as parse_name
from scheduler.functions.packages import open_code_store
from scheduler.functions.registry import FunctionRegistry
from scheduler.functions.uploads import open_uploads
from scheduler.gateway import Gateway
from scheduler.guests import Guests, check_guest
from scheduler.keyroom import KeyRoom
from scheduler.log import Log
from scheduler.messages import (
    Closed,
    Drain,
    Drained,
    Fault,
    Freed,
    FunctionFreed,
    Gone,
    HttpHanded,
    InitFailed,
    Killed,
    MethodCall,
    Need,
    Opened,
    Ready,
    Rest,
    Right,
    SandboxRetire,
    Span,
    Tier,
    connection_adopt,
    connection_close,
    core,
    stop_listening,
)
from scheduler.metrics import Octaves
from scheduler.orders import OrderBook
from scheduler.privileges import become, find_user, give, give_new_directory, leave_no_core, unreachable, within_reach
from scheduler.process import hidden_from_others, raise_descriptor_limit
from scheduler.queueing.caller import Caller
from scheduler.queueing.dispatcher import Dispatcher as EventDispatcher
from scheduler.queueing.dispatcher import read_event, read_invoke
from scheduler.sandboxes.configured import launcher_config
from scheduler.sandboxes.declarations import read_declarations
from scheduler.sandboxes.launcher import EXECUTABLE, RUNTIME_PACKAGE, SLOTS_MAX, LaunchFailed, open_launcher, open_starter
from scheduler.sandboxes.offers import find_offers
from scheduler.sandboxes.pool import ShellPool
from scheduler.sandboxes.supervisor import Supervisor
from scheduler.sandboxes.templates import Templates
from scheduler.sandboxes.wire import Limit
from scheduler.snapshots import Snapshots
from scheduler.spans import Called, Exporter
from scheduler.statelock import lock_state
from scheduler.store.events import SqliteEventQueue
from scheduler.store.registry import SqliteRegistry
from scheduler.store.sqlite import open_store
from scheduler.tls import Certificate, TlsFront
from scheduler.tls import listen as listen_tls
from scheduler.tokens import TokenFileBroken

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scheduler.config import Address, Settings
    from scheduler.control.access import Connection
    from scheduler.functions.model import FunctionConfig, FunctionVersion
    from scheduler.messages import Event
    from scheduler.privileges import User
    from scheduler.sandboxes.ledger import Version as ImageVersion
    from scheduler.sandboxes.starter import Starter
    from scheduler.sandboxes.supervisor import Order
    from scheduler.sandboxes.templates import MakeOrder

__all__ = ["Service", "run_service", "serve"]

MB = 1 << 20
DRAIN_MARGIN_S = 0.5  # beyond the grace: the core's own timers have fired by then
KILL_WAIT_S = 2.0  # after the grace: sandboxes are ended, their callers told
LAG_PERIOD_S = 1.0
TOKENS_PERIOD_S = 1.0
COLLECT_PERIOD_S = 600.0
RUNTIMES_FILE = "runtimes.json"  # in the state directory
OUR_PROGRAMS = (EXECUTABLE, RUNTIME_PACKAGE)  # what of ours the launcher runs as root
EXIT_DONE, EXIT_BROKEN, EXIT_REFUSED = 0, 1, 3


class Service:
    """One service, for one life: run() once."""

    def __init__(self, settings: Settings, log: Log) -> None:
        self.settings = settings
        self.log = log
        self.identity = Identity(settings.region, settings.account_id)
        self.catalog = Catalog(settings)
        self.metrics_port: int | None = None
        self.tcp_port: int | None = None
        self.http_port: int | None = None
        self.start_time_s = time.time()
        self._start_monotonic_s = trio.current_time()
        self._octaves = Octaves(histogram_bounds())
        self.faults = 0
        self.lag_s = 0.0
        self.draining = False
        self._drained = trio.Event()
        self._accepting = False
        self._over = trio.Event()  # the service is to end
        self._engine: Engine | None = None
        self.tls: TlsFront | None = None
        self.exporter = Exporter(settings.otlp_endpoint, log) if settings.otlp_endpoint else None

    # ---- pieces that need others ----

    @property
    def engine(self) -> Engine:
        assert self._engine is not None, "the engine is not made yet"
        return self._engine

    @property
    def isolation(self) -> str:
        launcher = self.supervisor.launcher
        return launcher.isolation.name.lower() if launcher is not None else "none"

    async def post(self, *commands: Any) -> None:
        await self.engine.post(*commands)

    @property
    def accepting(self) -> bool:
        return self._accepting

    def not_ready(self) -> str | None:
        """Why a call would not run now, or None."""
        if self.draining:
            return "draining"
        if not self._accepting:
            return "starting"
        if self.supervisor.launcher is None:
            return "the launcher is being started again"
        lacking = self.pool.lacking()
        return f"no shell of {', '.join(lacking)} can be had yet" if lacking else None

    # ---- life ----

    async def run(self, *, task_status: trio.TaskStatus[Service] = trio.TASK_STATUS_IGNORED) -> None:
        """Until end() or cancelled. started() once a call would run. SchedulerError or OSError: it could not start."""
        async with AsyncExitStack() as stack, trio.open_nursery() as outer:
            async with trio.open_nursery() as inner:
                await self._build(stack, inner)
                await outer.start(self.engine.run)
                if self.tls is not None:
                    await outer.start(self.tls.run)
                await self._open(inner)
                await self._wait_ready()
                self.log.info("ready", after_s=round(trio.current_time() - self._start_monotonic_s, 3))
                task_status.started(self)
                await self._over.wait()
                inner.cancel_scope.cancel()
            outer.cancel_scope.cancel()
        self.log.info("ended")

    async def _open(self, inner: trio.Nursery) -> None:
        settings = self.settings
        await self._start_events(inner)
        inner.start_soon(self._pump)
        inner.start_soon(self.templates.run, self.supervisor)
        inner.start_soon(self._watch_lag)
        inner.start_soon(self._watch_tokens)
        inner.start_soon(self._collect_code)
        inner.start_soon(self._keep_floors)
        inner.start_soon(self.guests.run)
        inner.start_soon(self.keyroom.finish)
        inner.start_soon(self.keyroom.collect)
        if self.exporter is not None:
            inner.start_soon(self.exporter.run)
        if settings.metrics is not None:
            await self._open_console(settings.metrics, inner)
        self.gateway.open(inner, self._caller)
        self._accepting = True
        self.snapshots.restart()
        launcher = self.supervisor.launcher
        if launcher is not None and not launcher.limits:
            why = launcher.why_limited or "there are none to be had"
            self.log.warning("limits", text=f"no control groups ({why}): each process is held by limits of its own alone")
        hidden = hidden_from_others(settings.code_dir) if self.isolation == "process" else None
        if hidden is not None:
            self.log.warning("code", text=f"{hidden}: other users cannot pass; sandboxes will not find their code")
        self.log.info(
            "serving",
            socket=settings.socket,
            tcp_port=self.tcp_port,
            metrics_port=self.metrics_port,
            http_port=self.http_port,
            functions=len(self.registry),
            isolation=self.isolation,
            pid=os.getpid(),
        )

    async def _build(self, stack: AsyncExitStack, inner: trio.Nursery) -> None:
        settings = self.settings
        stack.enter_context(lock_state(settings.state_dir))
        raise_descriptor_limit(settings, self.log)
        tokens = TokenFile(settings.token_file) if settings.token_file is not None else None
        self.gateway = Gateway(self)
        self.keyroom = KeyRoom(settings, self.gateway.keyring, self.gateway.access_keys, self.log)
        self.connections = Connections(tokens)
        # Not in a thread: there is to be none before the launcher is started.
        self.offers = find_offers(
            read_declarations(settings.runtimes_dir),
            memory=settings.state_dir / RUNTIMES_FILE,
            prefer_public=settings.isolation == "process" and os.geteuid() == 0,
        )
        self.shells = self.offers.shells
        user = self._wanted_user()
        self._make_supervisor(self._open_starter(user, stack))
        await inner.start(self.supervisor.run)
        if user is not None:
            self._become(user)
        store = await stack.enter_async_context(open_store(settings.store_path))
        self.event_queue = await SqliteEventQueue.load(
            store, count_max=settings.events_max, bytes_max=settings.events_bytes_max
        )
        await self.keyroom.load(SqliteRegistry(store), self.identity)
        self.registry = await FunctionRegistry.load(
            SqliteRegistry(store),
            settings,
            runtimes=tuple(self.offers.here),
            absent=self.offers.absent,
            seals=self.keyroom.seals,
        )
        self.keyroom.use(self.registry, inner, lambda: self.isolation != "process")
        self.code = await open_code_store(settings.code_dir, bytes_max=settings.code_bytes_max)
        self.layers = await Layers.load(SqliteRegistry(store))
        self.registry.locks_changed = self._locks_changed
        self.order_book = OrderBook(
            self.identity,
            self.offers,
            launch=self._launch,
            task_dir=self.code.task_dir,
            merged_dir=self.code.merged_dir,
            enters=self.keyroom.enters,
            entrance=self.keyroom.entrance,
        )
        self.uploads = await open_uploads(
            settings.upload_dir, count_max=settings.uploads_max, bytes_max=settings.uploads_bytes_max
        )
        launcher = self.supervisor.launcher
        quotas = launcher is not None and Limit.CPU in launcher.limits
        self._engine = stack.enter_context(Engine(engine_config(settings, quotas=quotas)))
        self.deployments = Deployments(
            catalog=self.catalog,
            post=self.engine.post,
            alive=self.supervisor.alive,
            stage_max_s=settings.init_timeout_ms / 1000 + 1,
            wake=lambda version, within_s: self.pool.wake(self.order_book.shell(version), within_s),
            use=self._deployed,
        )
        self.guests = Guests(
            registry=self.registry,
            catalog=self.catalog,
            post=self.engine.post,
            alive=self.supervisor.alive,
            ask=lambda name, payload, options: self._caller.ask(name, payload, options),
        )
        self.snapshots = Snapshots(
            catalog=self.catalog,
            templates=self.templates,
            registry=self.registry,
            deployments=self.deployments,
            nursery=inner,
            has_image=self._has_image,
            init_s=settings.init_timeout_ms / 1000,
        )
        self.registry.no_images = self._no_images
        self.methods = Methods(
            settings=settings,
            engine=self.engine,
            catalog=self.catalog,
            registry=self.registry,
            code=self.code,
            uploads=self.uploads,
            compilers=self.offers.compilers,
            deployments=self.deployments,
            connections=self.connections,
            drain=self.drain_and_end,
            start_time_s=self._start_monotonic_s,
            accept_event=self._accept_event,
            events_of=partial(events_of, self),
            no_network=self._no_network,
            snapshots=self.snapshots,
        )
        self.dispatcher = Dispatcher(
            methods=(
                *self.methods.rows(),
                *ApiMethods(self.gateway.operation, self.uploads, self.registry).rows(),
                *KeyMethods(view=self.keyroom.view, rotate=self.keyroom.rotate, run=self.keyroom.call).rows(),
            ),
            connections=self.connections,
            post=self.engine.post,
            nursery=inner,
            log=self.log,
        )
        self._load()
        self.engine.listen_unix(str(settings.socket))
        if settings.http is not None:
            if settings.http_auth == "none":
                self.log.warning("http", address=settings.http, text="NO AUTHENTICATION: who can connect may deploy and invoke")
            self.engine.preload([*self.gateway.key_commands(), *self.gateway.watch_urls()])
            self.http_port = self.engine.listen_http(settings.http.host, settings.http.port)
        if settings.tcp is not None:
            self.tcp_port = await self._listen_tcp(settings.tcp, stack)

    async def _listen_tcp(self, address: Address, stack: AsyncExitStack) -> int:
        """The port. With TLS the front listens and hands its connections to the engine."""
        settings = self.settings
        if settings.exposed:
            self.log.warning("tcp", address=address, text="NO TLS: tokens, payloads and answers pass the network in the clear")
        if settings.tls_cert_file is None or settings.tls_key_file is None:
            return self.engine.listen_tcp(address.host, address.port)
        certificate = Certificate(settings.tls_cert_file, settings.tls_key_file)
        listeners = await listen_tls(address)
        for listener in listeners:
            stack.callback(listener.socket.close)

        def report(text: str) -> None:
            self.log.warning("tls", text=text)

        self.tls = TlsFront(
            listeners,
            certificate,
            adopt=lambda fd: self.post(connection_adopt(fd, Right.NONE)),
            over=self.engine.wait_stopped,
            connections_max=settings.connections_max,
            report=report,
        )
        return int(listeners[0].socket.getsockname()[1])

    def _wanted_user(self) -> User | None:
        """Who to become. None: nobody else. BadUser: it cannot be."""
        settings = self.settings
        if settings.user is None:
            if os.geteuid() == 0:
                self.log.warning(
                    "root", text="the service stays root, and so a fault in it is root's; give it a user of its own with --user"
                )
            return None
        most = settings.sandbox_uid_base + SLOTS_MAX
        return find_user(settings.user, euid=os.geteuid(), sandbox_uids=range(settings.sandbox_uid_base, most))

    def _open_starter(self, user: User | None, stack: AsyncExitStack) -> Starter | None:
        """Who starts launchers when this process no longer can."""
        if user is None:
            return None
        programs = {sys.executable, *(shell.executable for shell in self.shells.values()), *map(str, OUR_PROGRAMS)} - {""}
        for path in within_reach(programs, user):
            self.log.warning("root", text=f"{path} can be changed by {user.name}, and what is in it runs as root")
        starter = open_starter(launcher_config(self.settings, runtimes=len(self.shells)), self.shells.values())
        stack.callback(starter.close)
        return starter

    def _become(self, user: User) -> None:
        """From here on this process is a normal user. It has one thread yet."""
        settings = self.settings
        give_new_directory(settings.socket.parent, user)
        given = give(settings.state_dir, user, keep=frozenset({RUNTIMES_FILE, settings.scratch_dir.name}))
        become(user)
        unreachable(user, (settings.state_dir, *OUR_PROGRAMS, Path(os.__file__)))
        self.log.info("root given up", user=user.name, uid=user.uid, files_given=given)

    def _make_supervisor(self, starter: Starter | None) -> None:
        settings = self.settings

        def report(text: str) -> None:
            self.log.warning("sandboxes", text=text)

        config = launcher_config(settings, runtimes=len(self.shells))
        self.pool = ShellPool(self.shells, ahead=settings.shells_ahead, most=settings.shells_max, report=report)
        self._keep_warm(set())
        self.templates = Templates(
            pool=self.pool,
            orders=self._make_order,
            bytes_max=settings.images_mb_max * MB,
            init_s=settings.init_timeout_ms / 1000,
            report=report,
        )
        self.supervisor = Supervisor(
            pool=self.pool,
            post=self.post,
            post_nowait=lambda command: self.engine.post_nowait(command),  # the engine is made later
            orders=self._order,
            prepare=self._prepare,
            open_launcher=partial(open_launcher, config, self.shells.values(), report=report, starter=starter),
            restore_failed=lambda function, *rest: self.templates.fell_back(self.catalog.base(function), *rest),
            lost=self.templates.lost,
            report=report,
        )

    async def _no_network(self) -> str | None:
        """Why functions can have no network here. Makes it, if there can be one."""
        launcher = self.supervisor.launcher
        if launcher is None:
            raise Unavailable("the launcher is being started again")
        try:
            await launcher.network()
        except LaunchFailed as error:
            return str(error)
        return None

    def _load(self) -> None:
        """All functions into the engine, before anybody can call one."""
        self.engine.preload(self.catalog.start())
        for version in self.registry.all():
            if version.version != LATEST:
                continue
            try:
                commands = self.catalog.put(spec_of(self.registry, version.name))
            except CatalogFull as error:
                self.log.error("function left out", function=version.name, error=str(error))
                continue
            self.engine.preload(commands)
        self._use_shells()
        self.supervisor.expect(self.catalog.scratch_sizes())

    def _deployed(self) -> None:
        """A function came, changed or went."""
        self._use_shells()
        self.supervisor.expect(self.catalog.scratch_sizes())
        self.templates.keep(
            (handle, version.revision) for handle, version in self.catalog.launches() if self._has_image(version)
        )

    def _use_shells(self) -> None:
        self._keep_warm({self.order_book.shell(version) for version in self.catalog.served()})

    def _keep_warm(self, deployed: set[str]) -> None:
        """Those that functions need are kept warm, and the one that a function without one will get."""
        auto = self.settings.runtime_default == "auto"
        default = next(iter(self.offers.here), None) if auto else self.settings.runtime_default
        offer = self.offers.here.get(default) if default is not None else None
        self.pool.use(deployed | {offer.shell(forked=True).name} if offer is not None else deployed)

    async def _open_console(self, address: Address, nursery: trio.Nursery) -> None:
        listeners = await http.listen(address)
        self.metrics_port = int(listeners[0].socket.getsockname()[1])
        pages = Pages(
            scrape=partial(scrape, self, self._octaves),
            not_ready=self.not_ready,
            debug={
                "stats": self.methods.stats_view,
                "accounts": self.methods.accounts_view,
                "sandboxes": self._debug_sandboxes,
            },
        )

        def report(text: str) -> None:
            self.log.warning("console", text=text)

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            await http.serve(listeners, pages.routes(), report=report, task_status=task_status)

        await nursery.start(run)

    async def _wait_ready(self) -> None:
        while not self.supervisor.ready and not self._over.is_set():
            await self.pool.wait_changed()

    async def reload(self, new: Settings) -> None:
        """Goes on with those settings of `new` that may change; the log says which changed and which wait for the next start.
        ConfigError: they do not go together with those that stay; nothing was changed."""
        settings, found = reloaded(self.settings, new)
        await self.post(*self.catalog.reload(settings))
        self.settings = self.registry.settings = settings
        self.code.bytes_max = settings.code_bytes_max
        self.pool.resize(ahead=settings.shells_ahead, most=settings.shells_max)
        self.templates.resize(settings.images_mb_max * MB)
        self._use_shells()
        for change in found:
            text = "in force now" if change.applies else "takes effect at the next start"
            self.log.info("setting changed", setting=change.name, old=change.old, new=change.new, text=text)
        self.log.info("reloaded", changed=sum(change.applies for change in found), waiting=sum(not c.applies for c in found))

    # ---- ending ----

    def end(self) -> None:
        """Ends the service without waiting for calls."""
        self._over.set()

    async def drain(self, grace_ms: int | None = None) -> bool:
        """Refuses new calls and waits for the running ones, grace_ms at most; then they are ended and told so. True: every
        call ended by itself. Idempotent."""
        grace_s = (self.settings.drain_grace_ms if grace_ms is None else grace_ms) / 1000
        if not self.draining:
            self.draining = True
            self.events.stop()
            if self.tls is not None:
                self.tls.stop_listening()
            self.log.info("draining", grace_s=grace_s)
            deadline = time.monotonic_ns() + int(grace_s * 1e9)
            await self.post(stop_listening(), core(Drain(deadline)))
        with trio.move_on_after(grace_s + DRAIN_MARGIN_S):
            await self._drained.wait()
            return True
        self.log.warning("drain: calls outlived the grace and are ended")
        self.supervisor.kill_all()
        with trio.move_on_after(KILL_WAIT_S):
            await self._drained.wait()
        return False

    async def drain_and_end(self, grace_ms: int | None = None) -> bool:
        """As drain(); the service ends a moment after whoever asked was answered."""
        drained = await self.drain(grace_ms)
        await self.post(*(core(SandboxRetire(sandbox.handle)) for sandbox in self.supervisor.sandboxes()))
        with trio.move_on_after(self.settings.stop_grace_ms / 1000):
            await self.supervisor.wait_none()
        self._over.set()
        return drained

    # ---- tasks ----

    async def _pump(self) -> None:
        """Events of the engine to whom they concern."""
        handlers: dict[type, Callable[[Any], Awaitable[None]]] = {
            Need: self._on_need,
            Killed: self._on_killed,
            Gone: self._on_gone,
            Freed: self._on_freed,
            Ready: self._on_ready,
            Rest: self.supervisor.rests,
            InitFailed: self._on_init_failed,
            MethodCall: self.dispatcher.method,
            Opened: self._on_opened,
            Closed: self._on_closed,
            FunctionFreed: self._on_function_freed,
            Drained: self._on_drained,
            Fault: self._on_fault,
            HttpHanded: self.gateway.connection,
            Span: self._on_span,
        }
        while True:
            batch: list[Event] = await self.engine.wait_events()
            for event in batch:
                await handlers[type(event)](event)

    async def _on_need(self, event: Need) -> None:
        self.deployments.needed(event.function, event.revision)
        self.supervisor.need(event.sandbox, event.function, event.revision, provisioned=event.provisioned)

    async def _on_killed(self, event: Killed) -> None:
        self._settle(event.sandbox)
        self.supervisor.killed(event.sandbox, event.why, grace_s=event.stop_ms / 1000)

    async def _on_gone(self, event: Gone) -> None:
        self._settle(event.sandbox)
        self.supervisor.gone(event.sandbox)

    async def _on_freed(self, event: Freed) -> None:
        self._settle(event.sandbox)

    async def _on_ready(self, event: Ready) -> None:
        image = self.supervisor.loaded(event.sandbox)
        known = self.supervisor.identify(event.sandbox)
        if known is not None:
            if not image:
                self.templates.initialised(self.catalog.base(known[0]), known[1])
            elif event.tier is Tier.SNAPSHOT:
                self.templates.restored(self.catalog.base(known[0]), known[1], image)
            else:
                why = event.reason or "it did not say why"
                self.templates.fell_back(self.catalog.base(known[0]), known[1], image, why)
        self._settle(event.sandbox)

    async def _on_init_failed(self, event: InitFailed) -> None:
        self.supervisor.init_failed(event.sandbox)
        self._settle(event.sandbox)

    def _settle(self, sandbox: int) -> None:
        known = self.supervisor.identify(sandbox)
        if known is not None:
            self.deployments.settled(*known)

    async def _on_opened(self, event: Opened) -> None:
        if event.connection:  # 0: there was no room to adopt it
            self.connections.opened(event.connection, tcp=event.tcp, peer_uid=event.peer_uid)

    async def _on_closed(self, event: Closed) -> None:
        self.connections.closed(event.connection)

    async def _on_function_freed(self, event: FunctionFreed) -> None:
        self.order_book.forget(event.function)
        await self.post(*self.catalog.freed(event.function))

    async def _on_drained(self, event: Drained) -> None:
        self._drained.set()

    async def _on_span(self, event: Span) -> None:
        version = self.catalog.serving(event.function)
        if self.exporter is not None and version is not None:
            arn = self.identity.arn(version.name, version.version)
            self.exporter.offer(event, Called(version.name, version.version, arn, version.config.tenant))

    async def _on_fault(self, event: Fault) -> None:
        self.faults += 1
        self.log.error("fault", text=event.text)

    async def _watch_lag(self) -> None:
        while True:
            due = trio.current_time() + LAG_PERIOD_S
            await trio.sleep_until(due)
            self.lag_s = trio.current_time() - due

    async def _watch_tokens(self) -> None:
        """Whose token is taken out of the file loses the connection too."""
        told = ""
        while True:
            await trio.sleep(TOKENS_PERIOD_S)
            try:
                for connection in self.connections.revoked():
                    self.log.info("token revoked", connection=connection)
                    await self.post(connection_close(connection))
            except TokenFileBroken as error:
                if str(error) != told:
                    self.log.error("tokens", text=f"{error.message}; the tokens read before stay in use")
                told = str(error)
            else:
                told = ""

    async def _keep_floors(self) -> None:
        """Windows of provisioned concurrency open and close at whole minutes."""
        while True:
            await trio.sleep(60 - time.time() % 60)
            for name, attached in self.registry.attachments.all():
                if any(config.windows for config in attached.provisioned.values()) and name in self.registry:
                    async with self.deployments.turn(name):
                        if name in self.registry and self.catalog.floors(name) != self.registry.floors(name):
                            spec = spec_of(self.registry, name)
                            await self.deployments.apply(spec)
                            self.log.info("provisioned", function=name, sandboxes=sum(spec.floors.values()))

    async def _collect_code(self) -> None:
        while True:
            await trio.sleep(COLLECT_PERIOD_S)
            in_use = self.registry.code_in_use() | self.layers.code_in_use()
            removed = await self.code.collect(in_use, grace_s=self.settings.code_grace_s)
            if removed:
                self.log.info("code removed", packages=len(removed))

    # ---- what others ask ----

    def _launch(self, function: int, revision: int) -> FunctionVersion | None:
        """As the catalog's, where a sandbox can be made of it at once: its keys are at hand."""
        version = self.catalog.launch(function, revision)
        return version if version is not None and self.registry.usable_now(version) else None

    async def _locks_changed(self, name: str) -> None:
        await self.post(*self.catalog.tell(name))

    async def _prepare(self, function: int, revision: int) -> str | None:
        """Why no sandbox can be made of it, after its keys were asked for; None: one can."""
        version = self.catalog.launch(function, revision)
        if version is None:
            return "it is no more"
        return await self.keyroom.ready(version.name) or self.order_book.problems.get(function)

    def _order(self, function: int, revision: int, provisioned: bool) -> Order | None:
        launcher = self.supervisor.launcher
        recipe = self.order_book.recipe(function, revision, launcher.task_root) if launcher is not None else None
        if recipe is None:
            return None
        base = self.catalog.base(function)
        image = self.templates.image(base, revision) if self.order_book.suits(base, revision, recipe) else None
        # One that is made ahead of a deployment, or in a worn one's place, is provisioned where its function is.
        provisioned = provisioned and bool(self.catalog.floors(recipe.version.name).get(recipe.version.version))
        return recipe.order(datetime.now(UTC), secrets.token_hex(16), image, provisioned=provisioned)

    def _has_image(self, version: FunctionVersion) -> bool:
        """Only what is forked can have one."""
        return version.has_image and self.order_book.forked(version)

    def _make_order(self, version: ImageVersion) -> MakeOrder | None:
        """What a maker of that version's image runs."""
        launcher = self.supervisor.launcher
        found = self.catalog.launch(version.function, version.revision)
        if launcher is None or found is None or not self._has_image(found):
            return None
        recipe = self.order_book.recipe(version.function, version.revision, launcher.task_root)
        if recipe is None:
            return None
        made = datetime.now(UTC), secrets.token_hex(16)
        return self.order_book.make_order(version.function, version.revision, recipe, *made)

    async def _debug_sandboxes(self) -> list[dict[str, object]]:
        return [
            {
                "sandbox": f"{sandbox.handle:016x}",
                "function": version.display_name if version else None,
                "revision": sandbox.revision,
                "state": sandbox.state.value,
                "shell": sandbox.shell.id if sandbox.shell else None,
                "pid": sandbox.shell.pid if sandbox.shell else None,
                "age_s": round(trio.current_time() - sandbox.need_s, 3),
            }
            for sandbox in self.supervisor.sandboxes()
            for version in [self.catalog.launch(sandbox.function, sandbox.revision)]
        ]

    def _no_images(self, config: FunctionConfig) -> str | None:
        """Why SnapStart cannot be had."""
        offer = self.offers.here.get(config.runtime)
        if offer is None or offer.fork is None or config.runtime_client != RuntimeClient.OWN.value:
            return f"{config.runtime} is not supported for SnapStart enabled functions."
        if self.isolation == "process" or self.settings.images_mb_max == 0:
            return "SnapStart: this service makes no images (isolation is process, or images_mb_max 0)"
        return None

    async def _accept_event(self, connection: Connection, call: MethodCall) -> object:
        """`invoke` where it is not the engine's to say: an event, answered once it is durable, or the call of a tenant id that
        it does not know yet."""
        if self.draining:
            raise Unavailable("the service is shutting down")
        wanted = read_invoke(call.params)
        if wanted.options.get("type") != "event":
            return await self.guests.invoke(wanted.function, wanted.payload, wanted.options, connection.tenant)
        event = read_event(call.params)
        version = self.registry.resolve(event.function)
        event.function = str(parse_name(event.function, self.identity))  # one spelling for all that it may be called by
        if connection.tenant not in (None, version.config.tenant):
            raise NotFound(f"Function not found: {event.function}")
        check_guest(version, event.tenant_id)
        if version.state is State.PENDING:
            raise Unavailable(f"{version.display_name}: {version.state_reason or 'it is Pending'} Try again.")
        return [None, {"request_id": await self.events.accept(event)}]

    def _tenant_of(self, name: str) -> str | None:
        try:
            return self.registry.get(name).config.tenant
        except NotFound:
            return None

    async def _start_events(self, inner: trio.Nursery) -> None:
        """The dispatcher's connection is one of the engine's clients."""
        ours, theirs = socket.socketpair()
        await self.post(connection_adopt(theirs.detach(), Right.ALL | Right.OWN))
        caller = self._caller = Caller(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
        self.events = EventDispatcher(
            queue=self.event_queue, caller=caller, log=self.log, now_s=time.time, tenant_of=self._tenant_of
        )
        inner.start_soon(caller.run)
        inner.start_soon(self.events.run)


# ---- the process --------------------------------------------------------------------------------------------------------


async def run_service(
    settings: Settings, *, log: Log | None = None, task_status: trio.TaskStatus[Service] = trio.TASK_STATUS_IGNORED
) -> None:
    """A service inside a running trio program; started() gives it once a call would run. Cancel it, or call its end() or
    drain_and_end(). SchedulerError or OSError: it could not start."""
    await Service(settings, log or Log()).run(task_status=task_status)


async def _heed_signals(
    service: Service, load: Callable[[], Settings], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async with trio.open_nursery() as nursery:
            seen = 0
            async for number in signals:
                service.log.info("signal", name=signal.Signals(number).name)
                if number == signal.SIGHUP:
                    await _reload(service, load)
                    continue
                seen += 1
                if seen == 1 and service.accepting:
                    nursery.start_soon(service.drain_and_end)
                else:
                    service.end()


async def _reload(service: Service, load: Callable[[], Settings]) -> None:
    if not service.accepting:
        service.log.warning("not reloaded", text="the service is starting or ending")
        return
    try:
        await service.reload(load())
    except ConfigError as error:
        for problem in error.problems:
            service.log.error("not reloaded", text=problem)


async def _serve(settings: Settings, load: Callable[[], Settings], log: Log, ready: Callable[[Service], None]) -> None:
    service = Service(settings, log)
    async with trio.open_nursery() as nursery:
        await nursery.start(_heed_signals, service, load)
        async with trio.open_nursery() as life:
            started = await life.start(service.run)
            # What is there now stays: a collection that looks at all of it takes longer than a cold call.
            gc.collect()
            gc.freeze()
            ready(started)
        nursery.cancel_scope.cancel()


def serve(
    settings: Settings,
    *,
    load: Callable[[], Settings] | None = None,
    ready: Callable[[Service], None] = lambda service: None,
    refused: Callable[[SchedulerError | OSError], None] = lambda error: None,
) -> int:
    """Runs the service until SIGTERM or SIGINT; blocks. Returns the exit code: 0 ended in order, 1 broke, 3 could not start.

    `load` reads the settings anew when SIGHUP comes, and raises ConfigError; None: they stay. `ready` is called once a call
    would run, `refused` with the reason why it could not start: what they show is theirs.
    """
    log = Log()
    leave_no_core()
    for text in unknown_variables(os.environ):
        log.warning("settings", text=text)
    started = False

    def tell(service: Service) -> None:
        nonlocal started
        started = True
        ready(service)

    try:
        trio.run(_serve, settings, load or (lambda: settings), log, tell)
    except BaseException as error:  # the last word of a broken service: whoever watches over it reads it
        cause = _only_cause(error)
        if not started and isinstance(cause, SchedulerError | OSError):
            log.error("cannot serve", error=str(cause))
            refused(cause)
            return EXIT_REFUSED
        log.error("broken", error=repr(cause), traceback="".join(traceback.format_exception(error)))
        return EXIT_BROKEN
    return EXIT_DONE


def _only_cause(error: BaseException) -> BaseException:
    """What broke, out of the groups that nurseries wrap round it; the group where there is more than one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
