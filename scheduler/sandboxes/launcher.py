"""Client of scheduler-launcher: asks for shells, turns them into sandboxes, hears of their end.

Law of this file: it moves messages (wire.py) and descriptors and keeps no policy. Descriptors that arrive belong to the Shell
that is handed out; those of a shell nobody waits for any more are closed and the shell is killed.

The launcher is started before the service has a second thread, and dies with the service: its socket ends.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import signal
import socket
import struct
import sys
from collections import deque
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from scheduler.sandboxes.failure import LaunchFailed
from scheduler.sandboxes.runtimes import is_public
from scheduler.sandboxes.spawn import close_all, pid_of, reap, start
from scheduler.sandboxes.starter import Starter
from scheduler.sandboxes.wire import (
    ENFORCED,
    FDS_MAX,
    FLAG_SCRATCH,
    NOTICE_BYTES,
    PORTS_MAX,
    PROTOCOL_VERSION,
    REQUEST_EXEC,
    REQUEST_OUTBOUND,
    REQUEST_QUIET,
    RUNTIMES_MAX,
    SLOTS_MAX,
    Cause,
    Isolation,
    Limit,
    Notice,
    NoticeKind,
    RequestKind,
    descriptors,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from scheduler.sandboxes.runtimes import Runtime

__all__ = [
    "SLOTS_MAX",
    "Cause",
    "Exited",
    "Isolation",
    "LaunchFailed",
    "Launcher",
    "LauncherConfig",
    "Limit",
    "Shell",
    "Specialisation",
    "open_launcher",
    "open_starter",
]

EXECUTABLE: Final = Path(__file__).resolve().parent.parent / "_native" / "scheduler-launcher"
RUNTIME_PACKAGE: Final = Path(__file__).resolve().parent.parent / "runtime"
TASK_ROOT: Final = "/var/task"
SCRATCH_MB_MAX: Final = 0x7FFFFFFF
SCRATCH_AHEAD_MAX: Final = 256
START_TIMEOUT_S: Final = 20.0
STOP_TIMEOUT_S: Final = 10.0
QUIET_S: Final = 5.0  # with something asked for and nothing heard for this long, a launcher is asked whether it lives
QUIETS_MAX: Final = 3  # in a row without an answer, and it is ended


# ---- what others use ----


@dataclass(frozen=True, slots=True)
class Shell:
    """A process that waits for its code. The descriptors are the receiver's to close, or to hand to the engine.

    id: of the launcher; never reused within its life. pid: of the sandbox's first process, as this process sees it; with it
    everything in the sandbox ends. channel_fd, output_fd: non-blocking.
    progress_fd: memfd of 32,768 bytes, sealed. cpu_fd: cpuacct.usage (version 1) or cpu.stat (version 2), or -1.
    memory_fd: memory.max_usage_in_bytes (version 1) or memory.peak (version 2), or -1.
    """

    id: int
    runtime: str
    pid: int
    channel_fd: int
    output_fd: int
    progress_fd: int
    pidfd: int
    cpu_fd: int
    memory_fd: int

    def close(self) -> None:
        """Closes all descriptors. Once, and not if they were handed on."""
        for fd in (self.channel_fd, self.output_fd, self.progress_fd, self.pidfd, self.cpu_fd, self.memory_fd):
            if fd >= 0:
                os.close(fd)


@dataclass(frozen=True, slots=True)
class Specialisation:
    """code_dir becomes /var/task, layers_dir /opt, both read-only; files must be readable for others. The size of /tmp is
    ephemeral_storage_mb; where it is in memory, what is written there counts as the sandbox's memory too. outbound: it may
    reach other machines (Launcher.network). freeze: stopped as a whole while it has no call; carried out by freeze(). ports:
    where the sandbox's own loopback (127.0.0.1) is listened at, at most four; specialising hands the listeners out. Where
    isolation is "process" they are the host's, at ports that are free: getsockname() tells which."""

    code_dir: str
    memory_mb: int
    ephemeral_storage_mb: int
    layers_dir: str | None = None
    outbound: bool = False
    freeze: bool = False
    ports: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.ports) > PORTS_MAX or len(set(self.ports)) != len(self.ports):
            raise ValueError(f"ports are {self.ports}, must be at most {PORTS_MAX}, each another")
        for port in self.ports:
            if not 1 <= port <= 65_535:
                raise ValueError(f"ports has {port}, must be 1 to 65,535")


@dataclass(frozen=True, slots=True)
class Exited:
    """status: exit code, or signal number. cpu_ns, memory_peak_bytes: 0 where this machine does not tell. step: with
    LAUNCH_FAILED, the step that failed and why."""

    id: int
    cause: Cause
    status: int
    cpu_ns: int
    memory_peak_bytes: int
    step: str | None


@dataclass(frozen=True, slots=True)
class LauncherConfig:
    """isolation: "auto" (namespaces, or no start) or "process" (bare processes). slots: sandboxes alive at once; slot n runs as
    uid uid_base + n when started as root. network_range: addresses of sandboxes, IPv4; of no consequence outside but for one of
    its last 256. network_servers: of names, as sandboxes see them. network_allowed: ranges of private addresses that sandboxes
    may reach. pids_max: processes and threads of one sandbox. cgroup_root: a cgroup v2 directory
    to use instead of looking for one. temp_root: with "process", where private directories are made. require_limits: no start
    unless memory, processes and CPU can be limited; None: yes, unless isolation is "process". patience_s: for a birth and for
    specialising, each; what takes longer fails. cpu_per_memory: "proportional" (1,769 MB are one CPU, as a bound) or
    "weight_only". scratch: where /tmp is: "auto" (on disk, encrypted, where that can be had and while there is room; else in
    memory), "encrypted" (or no start), "tmpfs" (in memory). scratch_dir: where that is on disk; None: in memory.
    scratch_mb_max: sizes of all of them together, 0: half of what the disk has free. scratch_ahead: how many are kept ready of
    each size in use. code_root: code and layers must lie below that directory, a path without symbolic links; None:
    anywhere. command: what to execute."""

    isolation: str = "auto"
    slots: int = 1000
    uid_base: int = 300_000
    pids_max: int = 1024
    cgroup_root: str | None = None
    temp_root: str = "/tmp"
    require_limits: bool | None = None
    patience_s: float = 20.0
    cpu_per_memory: str = "proportional"
    network_range: str = "198.18.0.0/16"
    network_servers: tuple[str, ...] = ()
    network_allowed: tuple[str, ...] = ()
    scratch: str = "auto"
    scratch_dir: str | None = None
    scratch_mb_max: int = 0
    scratch_ahead: int = 4
    code_root: str | None = None
    command: tuple[str, ...] = (str(EXECUTABLE),)

    def __post_init__(self) -> None:
        if self.isolation not in ("auto", "process"):
            raise ValueError(f"isolation is {self.isolation!r}, must be auto or process")
        if self.cpu_per_memory not in ("proportional", "weight_only"):
            raise ValueError(f"cpu_per_memory is {self.cpu_per_memory!r}, must be proportional or weight_only")
        if self.scratch not in ("auto", "encrypted", "tmpfs"):
            raise ValueError(f"scratch is {self.scratch!r}, must be auto, encrypted or tmpfs")
        for name, low, high in (
            ("slots", 1, SLOTS_MAX),
            ("uid_base", 1, 2_000_000_000),
            ("pids_max", 8, 1 << 20),
            ("patience_s", 0.1, 600),
            ("scratch_mb_max", 0, SCRATCH_MB_MAX),
            ("scratch_ahead", 0, SCRATCH_AHEAD_MAX),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}, must be {low} to {high}")

    def arguments(self) -> list[str]:
        options = {
            "--isolation": self.isolation,
            "--slots": str(self.slots),
            "--uid-base": str(self.uid_base),
            "--pids-max": str(self.pids_max),
            "--patience-ms": str(round(self.patience_s * 1000)),
            "--cpu-per-memory": self.cpu_per_memory,
            "--temp-root": self.temp_root,
            "--network-range": self.network_range,
            "--network-servers": ",".join(self.network_servers),
            "--network-allowed": ",".join(self.network_allowed),
        }
        if self.cgroup_root is not None:
            options["--cgroup-root"] = self.cgroup_root
        if self.scratch_dir is not None and self.scratch != "tmpfs":
            options["--scratch"] = self.scratch
            options["--scratch-root"] = os.path.abspath(self.scratch_dir)
            options["--scratch-mb-max"] = str(self.scratch_mb_max)
            options["--scratch-ahead"] = str(self.scratch_ahead)
        if self.code_root is not None:
            options["--code-root"] = self.code_root
        return [*self.command, *itertools.chain.from_iterable(options.items())]

    @property
    def limits_required(self) -> bool:
        return self.isolation != "process" if self.require_limits is None else self.require_limits


@dataclass(slots=True, eq=False)
class _Waiting:
    done: trio.Event = field(default_factory=trio.Event)
    abandoned: bool = False
    shell: Shell | None = None
    failure: LaunchFailed | None = None
    failed: Callable[[LaunchFailed], None] | None = None
    specialised: Callable[[tuple[int, ...]], None] | None = None
    ports: int = 0  # listeners that have to come
    listeners: tuple[int, ...] = ()

    def finish(
        self, *, shell: Shell | None = None, failure: LaunchFailed | None = None, listeners: tuple[int, ...] = ()
    ) -> None:
        self.shell, self.failure, self.listeners = shell, failure, listeners
        self.done.set()
        if self.failed is not None and failure is not None:
            self.failed(failure)


class Launcher:
    """Made by open_launcher(). One task may await a given shell() or specialise(); many may at once.

    isolation, limits, cgroup_version, why_limited: what this machine gives. encrypts_scratch: /tmp is on disk, encrypted. pid:
    of the supervising process. runtimes: names.
    """

    isolation: Isolation
    limits: frozenset[Limit]
    cgroup_version: int
    why_limited: str
    encrypts_scratch: bool

    def __init__(
        self, sock: socket.socket, pid: int, pidfd: int, runtimes: Mapping[str, int], report: Callable[[str], None]
    ) -> None:
        self.pid = pid
        self._pidfd = pidfd
        self._starter: Starter | None = None  # who may send it signals, where this process may not
        self._inner_pidfd = -1  # of the launcher proper, below its supervisor
        self._socket = trio.socket.from_stdlib_socket(sock)
        self._raw = sock
        self.runtimes = tuple(runtimes)
        self._runtimes = runtimes
        self._runtime_names = {index: name for name, index in runtimes.items()}
        self._report = report
        self._tokens = itertools.count(1)
        self._shells: dict[int, _Waiting] = {}
        self._specialising: dict[int, _Waiting] = {}
        self._networks: dict[int, _Waiting] = {}
        self._outgoing: deque[_Outgoing] = deque()
        self._outgoing_there = trio.Event()
        self._asked = trio.Event()
        self._asked_last = 0  # count of what was heard when something was last asked for
        self._heard = 0
        self._dead = trio.Event()
        self._why_dead = ""
        self._exits_in, self.exits = trio.open_memory_channel[Exited](math.inf)  # bounded by the number of slots

    # ---- asking ----

    async def shell(self, runtime: str) -> Shell:
        """A new shell. LaunchFailed: it could not be made. ValueError: no such runtime was declared."""
        index = self._index(runtime)
        token = next(self._tokens)
        waiting = self._shells[token] = _Waiting()
        try:
            self._post(encode(RequestKind.SHELL, runtime=index, token=token))
            await waiting.done.wait()
        except trio.Cancelled:
            if waiting.shell is not None:
                self._discard(waiting.shell)
            waiting.abandoned = True  # the answer to come is discarded
            raise
        if waiting.failure is not None:
            raise waiting.failure
        assert waiting.shell is not None
        return waiting.shell

    async def specialise(self, shell: Shell, spec: Specialisation, *, image: int | None = None) -> tuple[int, ...]:
        """Gives a shell its code and limits and takes its privileges. LaunchFailed: it is dead already, Exited follows (unless
        been told before). If cancelled, the shell is killed. ValueError: a path that is none.

        image: descriptor of the image of an initialised process, open for writing if the sandbox shall make it; START's
        "snapshot" tells the sandbox which (docs/internals/channel.md). It stays the caller's, who may close it afterwards.
        Returns the listeners at spec.ports, in their order, non-blocking: the caller's to close.
        """
        request = _specialise(shell, spec)
        waiting = self._specialising[shell.id] = _Waiting(ports=len(spec.ports))
        try:
            self._post(request, image)
            await waiting.done.wait()
        except trio.Cancelled:
            self.kill(shell.id)
            close_all(waiting.listeners)
            raise
        finally:
            self._specialising.pop(shell.id, None)
        if waiting.failure is not None:
            raise waiting.failure
        return waiting.listeners

    def specialise_soon(
        self,
        shell: Shell,
        spec: Specialisation,
        failed: Callable[[LaunchFailed], None],
        *,
        image: int | None = None,
        done: Callable[[tuple[int, ...]], None] | None = None,
    ) -> None:
        """As specialise(), without waiting, for those who hear of success from the sandbox itself: what is written to its
        channel meanwhile is read when it is specialised, or never. `failed` is told of a failure, once, later; loaded() ends
        that. done: is told of success, once, later, and owns the listeners at spec.ports, as specialise() returns them;
        needed where there are ports. LaunchFailed: the launcher is dead, and neither is told."""
        if spec.ports and done is None:
            raise ValueError(f"ports are {spec.ports}, and nobody would have their listeners: done is missing")
        request = _specialise(shell, spec, REQUEST_QUIET if done is None else 0)
        self._post(request, image)
        self._specialising[shell.id] = _Waiting(failed=failed, specialised=done, ports=len(spec.ports))

    async def network(self) -> None:
        """Makes what sandboxes with a network need, unless it is there: devices and rules of this machine, until the launcher
        ends. LaunchFailed: there can be none here, and why."""
        token = next(self._tokens)
        waiting = self._networks[token] = _Waiting()
        self._post(encode(RequestKind.NETWORK, token=token))
        await waiting.done.wait()
        if waiting.failure is not None:
            raise waiting.failure

    def kill(self, shell_id: int) -> None:
        """SIGKILL to the whole sandbox. Exited follows. An id that is dead already, or a dead launcher, is no error."""
        if not self._dead.is_set():
            self._post(encode(RequestKind.KILL, shell=shell_id))

    def freeze(self, shell_id: int) -> None:
        """Stops all that is in the sandbox until thaw() or kill(). Nothing happens where the machine cannot do it. An id that
        is dead already, or a dead launcher, is no error."""
        if not self._dead.is_set():
            self._post(encode(RequestKind.FREEZE, shell=shell_id))

    def thaw(self, shell_id: int) -> None:
        """Lets it go on. One that is not frozen, an id that is dead already, or a dead launcher is no error."""
        if not self._dead.is_set():
            self._post(encode(RequestKind.THAW, shell=shell_id))

    def loaded(self, shell_id: int) -> None:
        """The function's init is over: from now on its sandbox has the CPU that its memory is worth. An id that is dead
        already, or a dead launcher, is no error."""
        waiting = self._specialising.get(shell_id)
        if waiting is not None and waiting.specialised is None:  # else its listeners are still on their way, by another road
            del self._specialising[shell_id]
        if not self._dead.is_set():
            self._post(encode(RequestKind.LOADED, shell=shell_id))

    def expect(self, ephemeral_storage_mb: int) -> None:
        """Sandboxes with a /tmp of that size will come: one is made ready, if there is room. A dead launcher is no error."""
        if self.encrypts_scratch and not self._dead.is_set():
            self._post(encode(RequestKind.EXPECT, ephemeral_storage_mb=ephemeral_storage_mb))

    def rest(self, runtime: str) -> None:
        """Ends the runtime's process, whose sandboxes live on; the next shell() starts it again. Not heeded while shells of it
        are being made. A dead launcher is no error. ValueError: no such runtime was declared."""
        index = self._index(runtime)
        if not self._dead.is_set():
            self._post(encode(RequestKind.REST, runtime=index))

    def _index(self, runtime: str) -> int:
        index = self._runtimes.get(runtime)
        if index is None:
            raise ValueError(f"runtime is {runtime!r}, declared are: {', '.join(self._runtimes)}")
        return index

    async def wait_dead(self) -> str:
        """Returns when the launcher has died, with the reason; every sandbox died with it."""
        await self._dead.wait()
        return self._why_dead

    def task_root(self, code_dir: str) -> str:
        """Where a sandbox sees that directory."""
        return code_dir if self.isolation is Isolation.PROCESS else TASK_ROOT

    # ---- sending ----

    def _post(self, data: bytes, fd: int | None = None) -> None:
        """fd: goes along; stays the caller's."""
        if self._dead.is_set():
            raise LaunchFailed("launcher")
        self._asked_last = self._heard
        self._asked.set()
        if not self._outgoing:
            try:
                self._raw.sendmsg([data], _rights(fd), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                return
            except BlockingIOError:
                pass
            except OSError:
                return  # it dies: the receiving task sees it too and tells those that wait
        self._outgoing.append(_Outgoing(data, None if fd is None else os.dup(fd)))
        self._outgoing_there.set()

    async def _send_outgoing(self) -> None:
        while True:
            await self._outgoing_there.wait()
            while self._outgoing:
                first = self._outgoing[0]
                try:
                    await self._socket.sendmsg([first.data], _rights(first.fd))
                except OSError:
                    return
                self._outgoing.popleft().close()
            self._outgoing_there = trio.Event()

    # ---- hearing ----

    async def _receive(self) -> tuple[Notice, list[int]] | None:
        space = socket.CMSG_SPACE(4 * FDS_MAX)
        try:
            try:
                data, ancillary, _, _ = await self._socket.recvmsg(NOTICE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:  # it ended with a request unread: what it had said is still to be had
                data, ancillary, _, _ = await self._socket.recvmsg(NOTICE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return None
        fds = descriptors(ancillary)
        if len(data) != NOTICE_BYTES:
            for fd in fds:
                os.close(fd)
            return None
        return Notice.decode(data), fds

    async def _listen(self) -> None:
        while (received := await self._receive()) is not None:
            notice, fds = received
            self._heard += 1
            self._handlers[notice.kind](self, notice, fds)
        await self._died()

    async def _watch(self) -> None:
        """A launcher that says nothing is ended: what waits for it fails, and the service can start another."""
        while True:
            await self._asked.wait()
            self._asked = trio.Event()
            quiets = 0
            while self._shells or self._specialising or self._networks or self._heard == self._asked_last:
                heard = self._heard
                await trio.sleep(QUIET_S)
                quiets = quiets + 1 if self._heard == heard else 0
                if quiets == QUIETS_MAX:
                    self._report(f"the launcher has not answered for {QUIET_S * QUIETS_MAX:g} s and is ended")
                    self._end_inner()
                    return
                if quiets and not self._dead.is_set():
                    self._post(encode(RequestKind.PING))

    def _on_shell(self, notice: Notice, fds: list[int]) -> None:
        waiting = self._shells.pop(notice.token)
        with_cpu, with_memory = (bool(notice.flags & limit.value) for limit in (Limit.CPU_TIME, Limit.MEMORY))
        try:
            if len(fds) != 4 + with_cpu + with_memory:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))  # the kernel hands over what there is room for
            pid = pid_of(fds[3])
        except OSError as error:
            self.kill(notice.shell)
            close_all(fds)
            waiting.finish(failure=LaunchFailed("descriptors", error.errno or 0))
            return
        channel, output, progress, pidfd, *more = fds
        cpu = more.pop(0) if with_cpu else -1
        memory = more.pop(0) if with_memory else -1
        name = self._runtime_names[notice.runtime]
        shell = Shell(notice.shell, name, pid, channel, output, progress, pidfd, cpu, memory)
        if waiting.abandoned:
            self._discard(shell)
        else:
            waiting.finish(shell=shell)

    def _discard(self, shell: Shell) -> None:
        self.kill(shell.id)
        shell.close()

    def _on_shell_failed(self, notice: Notice, fds: list[int]) -> None:
        self._shells.pop(notice.token).finish(failure=LaunchFailed(notice.step, notice.error))

    def _on_specialised(self, notice: Notice, fds: list[int]) -> None:
        waiting = self._specialising.pop(notice.shell, None)
        if waiting is None:  # cancelled meanwhile
            close_all(fds)
        elif len(fds) != waiting.ports:  # the kernel hands over what there is room for
            close_all(fds)
            self.kill(notice.shell)
            waiting.finish(failure=LaunchFailed("descriptors", errno.EMFILE))
        elif waiting.specialised is not None:
            waiting.specialised(tuple(fds))
        else:
            waiting.finish(listeners=tuple(fds))

    def _on_specialise_failed(self, notice: Notice, fds: list[int]) -> None:
        if (waiting := self._specialising.pop(notice.shell, None)) is not None:
            waiting.finish(failure=LaunchFailed(notice.step, notice.error))

    def _on_exited(self, notice: Notice, fds: list[int]) -> None:
        cause = Cause(notice.cause)
        step = f"{notice.step}: {os.strerror(notice.error)}" if cause is Cause.LAUNCH_FAILED else None
        exited = Exited(notice.shell, cause, notice.status, notice.cpu_ns, notice.memory_peak_bytes, step)
        # Had it failed, that was told before; but a shell that was dead when it was asked fails after its end was told.
        if (waiting := self._specialising.get(notice.shell)) is not None and waiting.failed is not None:
            del self._specialising[notice.shell]
        self._exits_in.send_nowait(exited)

    def _on_warning(self, notice: Notice, fds: list[int]) -> None:
        self._report(notice.note)

    def _on_network(self, notice: Notice, fds: list[int]) -> None:
        failure = LaunchFailed(notice.step, notice.error) if notice.error else None
        self._networks.pop(notice.token).finish(failure=failure)

    def _on_pong(self, notice: Notice, fds: list[int]) -> None:
        pass

    def _on_late(self, notice: Notice, fds: list[int]) -> None:
        close_all(fds)
        self._report(f"the launcher said {notice.kind.name} out of turn")

    _handlers: Final = {
        NoticeKind.READY: _on_late,
        NoticeKind.REFUSED: _on_late,
        NoticeKind.SHELL: _on_shell,
        NoticeKind.SHELL_FAILED: _on_shell_failed,
        NoticeKind.SPECIALISED: _on_specialised,
        NoticeKind.SPECIALISE_FAILED: _on_specialise_failed,
        NoticeKind.EXITED: _on_exited,
        NoticeKind.WARNING: _on_warning,
        NoticeKind.PONG: _on_pong,
        NoticeKind.NETWORK: _on_network,
    }

    # ---- life ----

    async def _handshake(self, config: LauncherConfig) -> None:
        """Sets what this machine gives. LaunchFailed: it will not do."""
        with trio.move_on_after(START_TIMEOUT_S):
            received = await self._receive()
            if received is None:
                raise LaunchFailed("start", hint=f"the launcher ended at once: {await self._wait_process()}")
            notice, fds = received
            self._inner_pidfd = fds.pop(0) if fds else -1
            if notice.kind is NoticeKind.REFUSED:
                raise LaunchFailed(notice.step, notice.error, notice.note)
            if notice.kind is not NoticeKind.READY or notice.error != PROTOCOL_VERSION:
                raise LaunchFailed("start", hint="launcher and service are of different versions: run make build")
            self.isolation = Isolation(notice.status)
            self.limits = frozenset(limit for limit in Limit if notice.flags & limit.value)
            self.cgroup_version = notice.runtime
            self.why_limited = notice.note
            self.encrypts_scratch = bool(notice.flags & FLAG_SCRATCH)
            missing = [limit.name.lower() for limit in ENFORCED if limit not in self.limits]
            if missing and config.limits_required:
                why = self.why_limited or "the kernel or the container offers no such controller"
                raise LaunchFailed(
                    "limits", hint=f"no control group for: {', '.join(missing)} ({why}); `scheduler doctor` tells what to do"
                )
            return
        raise LaunchFailed("start", errno.ETIMEDOUT, f"no word from the launcher for {START_TIMEOUT_S:g} s")

    async def _wait_process(self) -> str:
        """Reaps the supervising process. How it ended, for a person."""
        await trio.lowlevel.wait_readable(self._pidfd)
        return reap(self.pid)

    def _end_inner(self) -> None:
        """SIGKILL to the launcher proper, with which every sandbox ends; its supervisor cleans up."""
        fd = self._inner_pidfd if self._inner_pidfd >= 0 else self._pidfd
        if self._starter is not None:
            with suppress(LaunchFailed):  # without a starter the launcher has ended with us, or will
                self._starter.end_inner()
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)

    def _end_supervisor(self) -> None:
        if self._starter is not None:
            with suppress(LaunchFailed):
                self._starter.end_supervisor()
            return
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def _died(self) -> None:
        with trio.move_on_after(STOP_TIMEOUT_S) as patience:
            self._why_dead = await self._wait_process()
        if patience.cancelled_caught:
            self._why_dead = "its socket closed"
        self._dead.set()
        for waiting in [*self._shells.values(), *self._specialising.values(), *self._networks.values()]:
            if not waiting.done.is_set():
                waiting.finish(failure=LaunchFailed("launcher", hint=f"the launcher died: {self._why_dead}"))
        self._shells.clear()
        self._specialising.clear()
        self._drop_outgoing()

    def _drop_outgoing(self) -> None:
        while self._outgoing:
            self._outgoing.popleft().close()

    async def _close(self) -> None:
        """Closing the socket makes the launcher end all sandboxes, remove its groups, and exit."""
        self._socket.close()
        self._drop_outgoing()
        with trio.move_on_after(STOP_TIMEOUT_S) as patience:
            await self._wait_process()
        if patience.cancelled_caught:
            self._end_inner()
            with trio.move_on_after(STOP_TIMEOUT_S) as patience:
                await self._wait_process()
        if patience.cancelled_caught:
            self._end_supervisor()
            await self._wait_process()
        close_all(fd for fd in (self._pidfd, self._inner_pidfd) if fd >= 0)
        self._exits_in.close()


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """A request that waits for room in the socket. fd: goes along, its own."""

    data: bytes
    fd: int | None

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)


def _rights(fd: int | None) -> list[tuple[int, int, bytes]]:
    return [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))]


def _specialise(shell: Shell, spec: Specialisation, flags: int = 0) -> bytes:
    return encode(
        RequestKind.SPECIALISE,
        shell=shell.id,
        memory_mb=spec.memory_mb,
        ephemeral_storage_mb=spec.ephemeral_storage_mb,
        flags=flags | (REQUEST_OUTBOUND if spec.outbound else 0),
        ports=spec.ports,
        strings=(spec.code_dir, spec.layers_dir or ""),
    )


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"scheduler: launcher: {text}\n")


def _declarations(runtimes: Iterable[Runtime]) -> Iterable[bytes]:
    for index, runtime in enumerate(runtimes):
        places = [*((path, path) for path in runtime.paths), *runtime.placed]
        mounts = itertools.chain.from_iterable(places)
        yield encode(
            RequestKind.RUNTIME,
            runtime=index,
            flags=REQUEST_EXEC if runtime.kind == "exec" else 0,
            words=len(runtime.prestart),
            strings=(runtime.name, runtime.executable, str(RUNTIME_PACKAGE), *runtime.prestart, *mounts),
        )


def open_starter(config: LauncherConfig, runtimes: Iterable[Runtime]) -> Starter:
    """Who starts launchers of this config for a process that will have dropped root. LaunchFailed: it could not be started."""
    return Starter(config.command[0], config.arguments(), _declarations(runtimes))


@asynccontextmanager
async def open_launcher(
    config: LauncherConfig,
    runtimes: Iterable[Runtime],
    *,
    report: Callable[[str], None] = _to_stderr,
    starter: Starter | None = None,
) -> AsyncIterator[Launcher]:
    """Starts a launcher that knows the runtimes, whose processes start with their first shell; ends it and every sandbox at
    the end of the block.

    report: text that the operator should see. starter: who starts it instead of this process, and has been told of config and
    runtimes already; see open_starter(). LaunchFailed: this machine, or this user, cannot isolate or limit; its hint says
    what to do.
    """
    declared = list(runtimes)
    if not 1 <= len(declared) <= RUNTIMES_MAX:
        raise ValueError(f"runtimes are {len(declared)}, must be 1 to {RUNTIMES_MAX}")
    sock, pid, pidfd = start(config.arguments()) if starter is None else starter.start()
    launcher = Launcher(sock, pid, pidfd, {runtime.name: index for index, runtime in enumerate(declared)}, report)
    launcher._starter = starter
    failure: BaseException | None = None
    try:
        await launcher._handshake(config)
        if launcher.isolation is Isolation.PROCESS:
            hidden = [runtime.name for runtime in declared if not is_public(runtime.executable)]
            if hidden and os.geteuid() == 0:
                report(f"other users cannot read {', '.join(hidden)}: functions will miss modules; use an interpreter in /usr")
            report(
                "isolation is 'process': functions are bare processes, not protected from one another nor the machine from them"
            )
        for request in _declarations(declared) if starter is None else ():
            launcher._post(request)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(launcher._listen)
            nursery.start_soon(launcher._send_outgoing)
            nursery.start_soon(launcher._watch)
            try:
                yield launcher
            except BaseException as error:  # raised again below: the nursery would wrap it in a group
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
    finally:
        with trio.CancelScope(shield=True):
            await launcher._close()
