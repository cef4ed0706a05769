"""Every sandbox of the core has its process here: from NEED to REAPED, whatever happens in between.

Law of this file: it owns the launcher's life and the table of sandboxes. The core decides that a sandbox is wanted and when
it dies; this file makes it so and reports. It promises the core two things: each NEED is answered by SANDBOX_START or by
REAPED, and each sandbox that was started is REAPED exactly once, also when the launcher itself dies.

The path of a cold call is from need() to the engine's START: when a shell is there, all of it is done in need(), without a
task switch. START is handed over as soon as specialising was asked for; it waits in the shell's channel, which nobody reads
before the launcher's work is done. Where that fails the process is dead and Exited tells.

States of a sandbox, and what each message does to it:

              handed over   READY     launch failed   KILLED, GONE        launcher: exited
    WAITING   -             -         REAPED, gone    cancelled: REAPED   -                  no shell yet; if one is on its
                                                                                             way by then: kill, DYING
    MAKING    STARTING      -         DYING           kill, DYING         REAPED, gone       shell taken; with ports: and asked
                                                                                             to be specialised
    STARTING  -             RUNNING   DYING           kill, DYING         REAPED, gone       specialised, then loaded
    RUNNING   -             -         -               kill, DYING         REAPED, gone
    DYING     -             -         -               nothing             REAPED, gone

KILLED with a grace: the sandbox was told to stop; it is DYING at once, and killed when the grace is over.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import trio

from scheduler.errors import Unavailable
from scheduler.messages import Cause, SandboxReaped, SandboxUsage, Tier, Why, core, sandbox_start
from scheduler.sandboxes.launcher import LaunchFailed
from scheduler.sandboxes.spawn import close_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from scheduler.messages import Command, Rest, RuntimeApi
    from scheduler.sandboxes.doors import Door, Doors
    from scheduler.sandboxes.launcher import Exited, Launcher, Shell, Specialisation
    from scheduler.sandboxes.pool import ShellPool
    from scheduler.sandboxes.templates import ImageUse

__all__ = ["API_ADDRESS", "Order", "Sandbox", "SandboxTimes", "State", "Supervisor"]

GONE_GRACE_S = 0.05  # a process that closed its channel because it ends says how; after this it is ended
RESTART_FIRST_S = 0.05
RESTART_MAX_S = 5.0
RESTART_CALM_S = 30.0  # a launcher that lived this long starts again with the shortest back-off
CALM_AFTER_S = 0.05
SIGKILL = 9
API_ADDRESS = "127.0.0.1:9001"  # AWS_LAMBDA_RUNTIME_API


@dataclass(frozen=True, slots=True)
class Order:
    """What a sandbox is to become. start: START's body on the channel; it holds the function's secrets. image: what it is to be
    restored from, which START then says too; it stays its keeper's, so an order is carried out at once or made anew. api: its
    calls come over the Runtime API, whose listener is that of the specialisation's first port. doors: who answers at the
    others."""

    function: str
    version: str
    runtime: str
    specialisation: Specialisation
    start: bytes = field(repr=False)
    image: ImageUse | None = None
    api: RuntimeApi | None = None
    doors: Doors | None = None


class Orders(Protocol):
    """Who knows what a sandbox of a revision runs. provisioned: no call waits for it. None: nobody wants it any more."""

    def __call__(self, function: int, revision: int, provisioned: bool) -> Order | None: ...


class State(Enum):
    WAITING = "waiting"
    MAKING = "making"
    STARTING = "starting"
    RUNNING = "running"
    DYING = "dying"


@dataclass(slots=True, eq=False)
class Sandbox:
    handle: int
    function: int
    revision: int
    need_s: float
    state: State = State.WAITING
    shell: Shell | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    fds_ours: bool = False  # the shell's descriptors have not been handed to the engine
    stopping: bool = False  # DYING, but not killed yet
    image: int = 0  # number of the image it is being restored from; 0: of none, or it is ready
    provisioned: bool = False  # no call waits for it
    asked: bool = False  # to be specialised
    door: Door | None = None


@dataclass(slots=True, eq=False)
class _Watched:
    ended: trio.Event = field(default_factory=trio.Event)
    exited: Exited | None = None

    async def wait(self) -> Exited | None:
        await self.ended.wait()
        return self.exited


@dataclass(slots=True)
class SandboxTimes:
    """From NEED to SANDBOX_START, for the metrics: cumulative counts below each bound, in seconds."""

    bounds_s: tuple[float, ...] = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    counts: list[int] = field(default_factory=list)
    count: int = 0
    sum_s: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * len(self.bounds_s)

    def add(self, seconds: float) -> None:
        self.count += 1
        self.sum_s += seconds
        for i, bound in enumerate(self.bounds_s):
            if seconds <= bound:
                self.counts[i] += 1


@dataclass(frozen=True, slots=True)
class SupervisorStats:
    sandboxes: int
    making: int
    launcher_restarts: int
    launcher_up: bool
    launch_failures: int


class Supervisor:
    """post: hands commands to the engine; post_nowait: one, if the engine takes it at once. orders: see Orders; prepare: asked
    where there is no order, for what one may be lacking: why there can be none, or None. open_launcher: makes a launcher, again
    after one died. restore_failed: told of each sandbox that did not live through its restore (function, revision, image, how
    it ended). lost: told when a launcher has died, and with it all processes that sandboxes are forked from. report: text for
    the log."""

    def __init__(
        self,
        *,
        pool: ShellPool,
        post: Callable[..., Awaitable[None]],
        post_nowait: Callable[[Command], bool],
        orders: Orders,
        prepare: Callable[[int, int], Awaitable[str | None]] | None = None,
        open_launcher: Callable[[], AbstractAsyncContextManager[Launcher]],
        restore_failed: Callable[[int, int, int, str], None],
        lost: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        self._pool = pool
        self._post = post
        self._post_nowait = post_nowait
        self._orders = orders
        self._prepare = prepare
        self._open_launcher = open_launcher
        self._restore_failed = restore_failed
        self._lost = lost
        self._report = report
        self._watched: dict[int, _Watched] = {}  # shells that are no sandboxes of the core
        self._sandboxes: dict[int, Sandbox] = {}
        self._reaped = trio.Event()  # one more is gone
        self._by_shell: dict[int, Sandbox] = {}
        self._launcher: Launcher | None = None
        self._nursery: trio.Nursery | None = None
        self._restarts = 0
        self._last_need_s = -CALM_AFTER_S
        self._launch_failures = 0
        self._expected: set[int] = set()
        self.times = SandboxTimes()

    # ---- looking in ----

    @property
    def ready(self) -> bool:
        return self._launcher is not None and self._pool.ready

    @property
    def launcher(self) -> Launcher | None:
        return self._launcher

    @property
    def count(self) -> int:
        return len(self._sandboxes)

    def expect(self, sizes_mb: set[int]) -> None:
        """Of /tmp, all that functions ask for: of each that is new one is made ready, and again by each launcher."""
        if self._launcher is not None:
            for size_mb in sorted(sizes_mb - self._expected):
                self._launcher.expect(size_mb)
        self._expected = sizes_mb

    def alive(self, function: int) -> bool:
        """The function has sandboxes, or will have."""
        return any(s.function == function and s.state is not State.DYING for s in self._sandboxes.values())

    def sandboxes(self) -> list[Sandbox]:
        """All that are not reaped yet; to look at."""
        return list(self._sandboxes.values())

    def watch(self, shell_id: int) -> Callable[[], Awaitable[Exited | None]]:
        """Of a shell that was taken from the pool for another purpose: what waits for its end. None: the launcher died, and so
        did the shell."""
        watched = self._watched[shell_id] = _Watched()
        return watched.wait

    @property
    def calm(self) -> bool:
        """No start is under way, and none was asked for just now."""
        if trio.current_time() - self._last_need_s < CALM_AFTER_S:
            return False
        return all(s.state in (State.RUNNING, State.DYING) for s in self._sandboxes.values())

    def identify(self, handle: int) -> tuple[int, int] | None:
        """(function, revision) of a sandbox that is not reaped yet."""
        sandbox = self._sandboxes.get(handle)
        return (sandbox.function, sandbox.revision) if sandbox else None

    def stats(self) -> SupervisorStats:
        return SupervisorStats(
            sandboxes=len(self._sandboxes),
            making=sum(s.state in (State.WAITING, State.MAKING) for s in self._sandboxes.values()),
            launcher_restarts=self._restarts,
            launcher_up=self._launcher is not None,
            launch_failures=self._launch_failures,
        )

    # ---- the launcher's lives ----

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps a launcher alive until cancelled. The first one must start: its LaunchFailed or OSError is the caller's."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self._lives(task_status)
        finally:
            for sandbox in self._sandboxes.values():
                if sandbox.shell is not None and sandbox.fds_ours:
                    sandbox.shell.close()
                    sandbox.fds_ours = False

    async def _lives(self, task_status: trio.TaskStatus[None]) -> None:
        backoff_s = RESTART_FIRST_S
        first = True
        while True:
            begun = trio.current_time()
            try:
                async with self._open_launcher() as launcher:
                    self._launcher = launcher
                    for size_mb in sorted(self._expected):
                        launcher.expect(size_mb)
                    if first:
                        task_status.started()
                        first = False
                    try:
                        why = await self._serve(launcher)
                    finally:
                        self._launcher = None
            except (LaunchFailed, OSError) as error:
                if first:
                    raise
                why = str(error)
            finally:
                self._launcher = None
                self._pool.lost()
                self._lost()
            await self._all_lost()
            if trio.current_time() - begun >= RESTART_CALM_S:
                backoff_s = RESTART_FIRST_S
            self._restarts += 1
            self._report(f"the launcher died ({why}); its sandboxes with it; starting another in {backoff_s:g} s")
            await trio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, RESTART_MAX_S)

    async def _serve(self, launcher: Launcher) -> str:
        why = ""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pool.refill, launcher)
            nursery.start_soon(self._take_exits, launcher)
            why = await launcher.wait_dead()
            nursery.cancel_scope.cancel()
        # What it managed to say before it died is truer than what we would guess.
        while True:
            try:
                await self._exited(launcher.exits.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel, trio.ClosedResourceError):
                return why

    async def _take_exits(self, launcher: Launcher) -> None:
        async for exited in launcher.exits:
            await self._exited(exited)

    async def _all_lost(self) -> None:
        """The launcher is dead, and with it all that it had started. Those still waiting for a shell go on waiting."""
        while self._watched:
            self._watched.popitem()[1].ended.set()
        for sandbox in list(self._sandboxes.values()):
            if sandbox.shell is not None:
                sandbox.scope.cancel()
                await self._reap(sandbox, SandboxReaped(sandbox=sandbox.handle, cause=Cause.SIGNAL, status=SIGKILL))

    # ---- what the core says ----

    def need(self, handle: int, function: int, revision: int, *, provisioned: bool = False) -> None:
        """The core wants a sandbox. provisioned: no call waits for it."""
        assert self._nursery is not None, "need() before run()"
        self._last_need_s = trio.current_time()
        sandbox = Sandbox(handle, function, revision, self._last_need_s, provisioned=provisioned)
        self._sandboxes[handle] = sandbox
        if not self._start_now(sandbox):
            self._nursery.start_soon(self._make, sandbox)

    def loaded(self, handle: int) -> int:
        """The function's init went well, or its restore. The number of the image it was to be restored from; 0: of none."""
        sandbox = self._sandboxes.get(handle)
        if sandbox is None or sandbox.state is not State.STARTING:
            return 0
        sandbox.state = State.RUNNING
        if sandbox.door is not None:
            sandbox.door.ready()
        if self._launcher is not None and sandbox.shell is not None:
            self._launcher.loaded(sandbox.shell.id)
        image, sandbox.image = sandbox.image, 0
        return image

    def init_failed(self, handle: int) -> None:
        """It was loaded and has said why that failed."""
        sandbox = self._sandboxes.get(handle)
        if sandbox is not None:
            self._not_restored(sandbox, "what its hooks do after a restore failed")

    def _not_restored(self, sandbox: Sandbox, how: str) -> None:
        image, sandbox.image = sandbox.image, 0
        if image:
            self._restore_failed(sandbox.function, sandbox.revision, image, how)

    async def rests(self, event: Rest) -> None:
        """It has had no call for a while, or it has one again, which waits in its channel until it is thawed."""
        sandbox = self._sandboxes.get(event.sandbox)
        if sandbox is None or sandbox.shell is None or self._launcher is None:
            return
        if not event.rests:
            self._launcher.thaw(sandbox.shell.id)
        elif sandbox.state is State.RUNNING:
            self._launcher.freeze(sandbox.shell.id)

    def killed(self, handle: int, why: Why, *, grace_s: float = 0.0) -> None:
        """The core has given the sandbox up; the reactor has sent SIGKILL if it had a process. grace_s: or has told it to
        stop, and it may take so long."""
        sandbox = self._sandboxes.get(handle)
        if sandbox is None or (sandbox.state is State.DYING and not (sandbox.stopping and grace_s == 0)):
            return
        if sandbox.shell is None:
            sandbox.scope.cancel()  # _make() reports it
        elif grace_s > 0 and self._nursery is not None:
            sandbox.state = State.DYING
            sandbox.stopping = True
            self._nursery.start_soon(self._kill_after_stop, sandbox, grace_s)
        else:
            if why is Why.INIT_TIMEOUT:
                self._not_restored(sandbox, "it took longer than an init may")
            self._kill(sandbox)

    def gone(self, handle: int) -> None:
        """Its channel closed. A process that ends by itself is given a moment to say how."""
        sandbox = self._sandboxes.get(handle)
        if sandbox is not None and sandbox.state is not State.DYING and self._nursery is not None:
            self._nursery.start_soon(self._kill_after_grace, sandbox)

    async def _kill_after_grace(self, sandbox: Sandbox) -> None:
        await trio.sleep(GONE_GRACE_S)
        if self._sandboxes.get(sandbox.handle) is sandbox and sandbox.state is not State.DYING:
            self._kill(sandbox)

    async def _kill_after_stop(self, sandbox: Sandbox, grace_s: float) -> None:
        await trio.sleep(grace_s)
        if self._sandboxes.get(sandbox.handle) is sandbox and sandbox.stopping:
            self._kill(sandbox)

    def _kill(self, sandbox: Sandbox) -> None:
        sandbox.state = State.DYING
        sandbox.stopping = False
        if self._launcher is not None and sandbox.shell is not None:
            self._launcher.kill(sandbox.shell.id)

    def kill_all(self) -> None:
        """Ends every sandbox, whatever it does."""
        for handle in list(self._sandboxes):
            self.killed(handle, Why.NONE)

    async def wait_none(self) -> None:
        """Until every sandbox is reaped."""
        while self._sandboxes:
            await self._reaped.wait()

    # ---- a sandbox's making ----

    def _start_now(self, sandbox: Sandbox) -> bool:
        """False: something has to be waited for, or is wrong; nothing was done."""
        launcher = self._launcher
        order = self._orders(sandbox.function, sandbox.revision, sandbox.provisioned)
        if launcher is None or order is None:
            return False
        shell = self._pool.take_nowait(order.runtime)
        if shell is None:
            return False
        self._adopt(sandbox, shell)
        self._hand_over(launcher, sandbox, shell, order)
        return True

    async def _make(self, sandbox: Sandbox) -> None:
        with sandbox.scope:
            if not sandbox.scope.cancel_called:  # taking a shell that is there needs no waiting, and would not notice
                await self._start(sandbox)
        if sandbox.state is State.WAITING:
            # Cancelled, unknown, or no such runtime: there never was a process.
            await self._reap(sandbox, SandboxReaped(sandbox=sandbox.handle, cause=Cause.LAUNCH_FAILED))
        elif sandbox.state is State.MAKING and not sandbox.asked and self._sandboxes.get(sandbox.handle) is sandbox:
            self._kill(sandbox)  # given up in the very moment in which its shell came: nobody else knows of the process

    async def _start(self, sandbox: Sandbox) -> None:
        order = self._orders(sandbox.function, sandbox.revision, sandbox.provisioned)
        if order is None and self._prepare is not None:
            why = await self._prepare(sandbox.function, sandbox.revision)
            if why is not None:
                self._launch_failures += 1
                self._report(f"a sandbox cannot start: {why}")
                return
            order = self._orders(sandbox.function, sandbox.revision, sandbox.provisioned)
        if order is None:
            return
        try:
            shell = await self._pool.take(order.runtime)
        except Unavailable as error:
            self._launch_failures += 1
            self._report(f"function {order.function}:{order.version} cannot start: {error}")
            return
        if self._launcher is None:
            shell.close()  # it died with its launcher while it was handed over
            return
        self._adopt(sandbox, shell)
        if sandbox.scope.cancel_called:
            return  # given up while its shell came: _make() ends it
        # Anew: it was waited for, and an image may have come or gone.
        order = self._orders(sandbox.function, sandbox.revision, sandbox.provisioned)
        if order is None:
            self._kill(sandbox)  # the function went
        else:
            self._hand_over(self._launcher, sandbox, shell, order)

    def _adopt(self, sandbox: Sandbox, shell: Shell) -> None:
        sandbox.shell = shell
        sandbox.fds_ours = True
        sandbox.state = State.MAKING
        self._by_shell[shell.id] = sandbox

    def _hand_over(self, launcher: Launcher, sandbox: Sandbox, shell: Shell, order: Order) -> None:
        """The shell to the launcher and the engine."""

        def failed(failure: LaunchFailed) -> None:
            # Its process is dead already and its end is on the way.
            if sandbox.state in (State.MAKING, State.STARTING):
                sandbox.state = State.DYING
                self._launch_failures += 1
                self._report(f"function {order.function}:{order.version} cannot start: {failure}")

        def listening(listeners: tuple[int, ...]) -> None:
            # Only with its listener is it the engine's: its calls come from there.
            if order.api is None:
                self._open_door(sandbox, order, listeners)
            elif sandbox.state is State.MAKING and self._sandboxes.get(sandbox.handle) is sandbox:
                self._to_engine(sandbox, shell, order, listeners)
            else:
                close_all(listeners)

        sandbox.asked = True
        try:
            image = order.image.fd if order.image is not None else None
            done = listening if order.specialisation.ports else None
            launcher.specialise_soon(shell, order.specialisation, failed, image=image, done=done)
        except LaunchFailed:
            return  # the launcher has just died: all that it had started is reaped
        sandbox.image = order.image.number if order.image is not None else 0
        if order.api is None:
            self._to_engine(sandbox, shell, order, ())

    def _to_engine(self, sandbox: Sandbox, shell: Shell, order: Order, listeners: tuple[int, ...]) -> None:
        self.times.add(trio.current_time() - sandbox.need_s)
        fds: tuple[int, ...] = (
            shell.channel_fd,
            shell.output_fd,
            shell.progress_fd,
            shell.pidfd,
            shell.cpu_fd,
            shell.memory_fd,
        )
        data = order.start
        if order.api is not None:
            api, *listeners_left = listeners
            fds, listeners = (*fds, api), tuple(listeners_left)
            data = _at_port(data, api)
        start = sandbox_start(
            sandbox.handle,
            start=data,
            tier=Tier.SNAPSHOT if sandbox.image else Tier.SHELL,
            fds=fds,
            tells_rest=order.specialisation.freeze,
            api=order.api,
        )
        if order.api is not None:
            self._open_door(sandbox, order, listeners)
        sandbox.fds_ours = False
        sandbox.state = State.STARTING
        if not self._post_nowait(start):
            assert self._nursery is not None
            self._nursery.start_soon(self._post, start)

    def _open_door(self, sandbox: Sandbox, order: Order, listeners: tuple[int, ...]) -> None:
        """Its own way to what the service keeps for it, until it is reaped."""
        if order.doors is None or not listeners or self._sandboxes.get(sandbox.handle) is not sandbox:
            close_all(listeners)
            return
        sandbox.door = order.doors.open(listeners)
        if sandbox.state is State.RUNNING:
            sandbox.door.ready()

    # ---- a sandbox's end ----

    async def _exited(self, exited: Exited) -> None:
        if self._pool.exited(exited.id):
            return
        sandbox = self._by_shell.get(exited.id)
        if sandbox is None:
            watched = self._watched.pop(exited.id, None)
            if watched is not None:  # else a surplus shell that we ended
                watched.exited = exited
                watched.ended.set()
            return
        sandbox.scope.cancel()
        if exited.cause.name in ("EXIT", "SIGNAL", "OOM"):
            self._not_restored(sandbox, f"it ended meanwhile: {exited.cause.name.lower()} {exited.status}")
        if exited.cause.name == "LAUNCH_FAILED" and sandbox.state is not State.DYING:  # we ended it, or said so already
            self._report(f"sandbox {exited.id}: {exited.step}")
        await self._reap(
            sandbox,
            SandboxReaped(
                sandbox=sandbox.handle,
                cause=Cause[exited.cause.name],
                status=exited.status,
                cpu_ns=exited.cpu_ns,
                memory_peak_bytes=exited.memory_peak_bytes,
            ),
        )

    async def _reap(self, sandbox: Sandbox, reaped: SandboxReaped) -> None:
        if self._sandboxes.pop(sandbox.handle, None) is None:
            return
        if sandbox.door is not None:
            sandbox.door.close()
        if sandbox.shell is not None:
            del self._by_shell[sandbox.shell.id]
            if sandbox.fds_ours:
                sandbox.shell.close()
        usage = SandboxUsage(sandbox=sandbox.handle, cpu_ns=reaped.cpu_ns, memory_peak_bytes=reaped.memory_peak_bytes)
        # A usage of nothing would be taken for the kernel's word.
        known = [core(usage)] if reaped.cpu_ns else []
        commands: list[Command] = [*known, core(reaped)]
        self._reaped.set()
        self._reaped = trio.Event()
        with trio.CancelScope(shield=True):
            await self._post(*commands)


def _at_port(start: bytes, listener: int) -> bytes:
    """Without namespaces a listener gets whatever port is free."""
    with socket.socket(fileno=os.dup(listener)) as sock:
        port = sock.getsockname()[1]
    return start.replace(f"={API_ADDRESS}\0".encode(), f"={API_ADDRESS.rpartition(':')[0]}:{port}\0".encode())
