"""Supervision of sandboxes with a launcher that the test plays: every NEED ends in SANDBOX_START or REAPED, each sandbox is
reaped once, descriptors are somebody's at all times."""

from __future__ import annotations

import os
import socket
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from scheduler.messages import Cause as CoreCause
from scheduler.messages import CommandKind, Rest, RuntimeApi, Tier, Why
from scheduler.sandboxes.launcher import Cause, Exited, LaunchFailed, Shell, Specialisation
from scheduler.sandboxes.pool import ShellPool
from scheduler.sandboxes.supervisor import Order, State, Supervisor


class FakeLauncher:
    """What a launcher answers, without processes. The real one has tests of its own, and those end to end."""

    def __init__(self, world):
        self.world = world
        self.send, self.exits = trio.open_memory_channel(100)
        self.dead = trio.Event()
        self.killed = []
        self.loads = []

    async def shell(self, runtime):
        await trio.sleep(0.01 if runtime != self.world.without else 1e9)
        self.world.shells += 1
        fd = os.open("/dev/null", os.O_RDONLY)
        self.world.fds.append(fd)
        return Shell(self.world.shells, runtime, 1, fd, -1, -1, -1, -1, -1)

    def specialise_soon(self, shell, spec, failed, *, image=None, done=None):
        self.world.images.append(image)
        self.world.nursery.start_soon(self._specialise, shell, failed, done)

    async def _specialise(self, shell, failed, done):
        if self.world.specialise_fails:
            self.send.send_nowait(Exited(shell.id, Cause.LAUNCH_FAILED, 0, 0, 0, "mount: EPERM"))
            failed(LaunchFailed("mount", 1))
            return
        self.world.specialising.add(shell.id)
        self.world.specialised += 1
        with trio.move_on_after(self.world.specialise_s) as patience:
            await self.dead.wait()
        self.world.specialising.remove(shell.id)
        if not patience.cancelled_caught:
            failed(LaunchFailed("launcher"))
        elif done is not None:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                self.world.listeners.append(listener.getsockname()[1])
                done((listener.detach(),))

    def loaded(self, shell_id):
        self.loads.append(shell_id)

    def freeze(self, shell_id):
        self.loads.append(("freeze", shell_id))

    def thaw(self, shell_id):
        self.loads.append(("thaw", shell_id))

    def kill(self, shell_id):
        self.killed.append(shell_id)
        self.send.send_nowait(Exited(shell_id, Cause.KILLED, 9, 5_000_000, 1 << 20, None))

    async def wait_dead(self):
        await self.dead.wait()
        return "signal 9"


class World:
    def __init__(self, nursery):
        self.nursery = nursery
        self.shells = 0
        self.fds = []
        self.images = []
        self.listeners = []  # their ports
        self.restores_failed = []
        self.lost = 0
        self.specialise_fails = False
        self.specialise_s = 0.001
        self.specialising = set()
        self.specialised = 0
        self.without = ""  # a runtime of which no shell is ever born
        self.posted = []
        self.reports = []
        self.launchers = []
        self.orders = {1: Order("f", "1", "py", Specialisation("/code", 128, 512), b"{}")}
        self.pool = ShellPool(["py"], ahead=1, most=4, report=self.reports.append)
        self.pool.use(["py"])
        self.supervisor = Supervisor(
            pool=self.pool,
            post=self.post,
            post_nowait=self.post_nowait,
            orders=lambda function, revision, provisioned: self.orders.get(function),
            open_launcher=self.open_launcher,
            restore_failed=lambda *how: self.restores_failed.append(how),
            lost=self.lose,
            report=self.reports.append,
        )

    @asynccontextmanager
    async def open_launcher(self):
        if self.refuse > 0:
            self.refuse -= 1
            raise LaunchFailed("clone", 11)
        launcher = FakeLauncher(self)
        self.launchers.append(launcher)
        yield launcher

    refuse = 0
    ring_full = False  # of commands: post() would have to wait

    def post_nowait(self, command):
        if self.ring_full:
            return False
        self.take(command)
        return True

    async def post(self, *commands):
        self.take(*commands)

    def take(self, *commands):
        for command in commands:
            self.posted.append(command)
            for fd in command.fds:
                if fd >= 0:
                    os.close(fd)  # as the engine does in the end

    def lose(self):
        self.lost += 1

    def started(self):
        return [c.sandbox for c in self.posted if c.kind is CommandKind.SANDBOX_START]

    def reaped(self):
        return [(c.core.sandbox, c.core.cause) for c in self.posted if c.core is not None and hasattr(c.core, "cause")]

    def open_fds(self):
        return sum(1 for fd in self.fds if os.path.exists(f"/proc/self/fd/{fd}"))


@pytest.fixture
async def world(nursery):
    made = World(nursery)
    await nursery.start(made.supervisor.run)
    yield made
    nursery.cancel_scope.cancel()


async def test_a_need_becomes_a_sandbox_and_its_end_is_told(world, autojump_clock):
    world.supervisor.need(7, 1, 1)
    await trio.sleep(1)
    assert world.started() == [7]
    assert world.supervisor.identify(7) == (1, 1)
    world.supervisor.loaded(7)
    assert world.launchers[0].loads == [1], "told once its init is over, so that it has its share of the CPU and no more"
    await world.supervisor.rests(Rest(7, True))
    await world.supervisor.rests(Rest(7, False))
    await world.supervisor.rests(Rest(99, False))  # gone meanwhile
    assert world.launchers[0].loads[1:] == [("freeze", 1), ("thaw", 1)]
    (sandbox,) = world.supervisor.sandboxes()
    assert sandbox.state is State.RUNNING
    world.launchers[0].send.send_nowait(Exited(sandbox.shell.id, Cause.EXIT, 3, 123, 456, None))
    await trio.sleep(1)
    usage, reaped = world.posted[-2].core, world.posted[-1].core
    assert (usage.cpu_ns, usage.memory_peak_bytes) == (123, 456)
    assert (reaped.cause, reaped.status, reaped.cpu_ns) == (CoreCause.EXIT, 3, 123)
    assert world.supervisor.sandboxes() == []
    assert world.supervisor.times.count == 1


async def test_killed_before_it_has_a_process(world, autojump_clock):
    world.pool._shelves["py"].ready.clear()
    world.supervisor.need(7, 1, 1)
    await trio.testing.wait_all_tasks_blocked()
    world.supervisor.killed(7, Why.REMOVED)
    await trio.sleep(1)
    assert world.started() == []
    assert world.reaped() == [(7, CoreCause.LAUNCH_FAILED)]


async def test_killed_in_the_moment_it_is_asked_for(world, autojump_clock):
    """Its task has not run yet, and a shell is there: nothing is taken for it."""
    await trio.sleep(1)
    shelf = world.pool._shelves["py"]
    shell = shelf.ready.popleft()  # so that it cannot start at once
    world.supervisor.need(7, 1, 1)
    world.supervisor.killed(7, Why.REMOVED)
    shelf.deliver(shell)
    await trio.sleep(1)
    assert world.reaped() == [(7, CoreCause.LAUNCH_FAILED)]
    assert (world.started(), world.launchers[0].killed) == ([], [])
    assert world.open_fds() == 1, "the shell still waits for somebody"


async def test_killed_in_the_moment_its_shell_is_handed_over(world, autojump_clock):
    """It waits, and both happen before its task runs again: the shell is its own and ends with it."""
    await trio.sleep(1)
    (shelf,) = world.pool._shelves.values()
    ready = shelf.ready.popleft()
    world.supervisor.need(7, 1, 1)
    await trio.testing.wait_all_tasks_blocked()
    shelf.deliver(ready)
    world.supervisor.killed(7, Why.REMOVED)
    await trio.sleep(1)
    assert world.reaped() == [(7, CoreCause.KILLED)]
    assert (world.started(), world.launchers[0].killed) == ([], [ready.id])
    assert world.supervisor.sandboxes() == []


async def test_killed_while_it_is_specialised(world, autojump_clock):
    world.specialise_s = 10
    world.supervisor.need(7, 1, 1)
    await trio.sleep(0.5)
    world.supervisor.killed(7, Why.INIT_TIMEOUT)
    await trio.sleep(20)
    assert world.reaped() == [(7, CoreCause.KILLED)]
    assert world.supervisor.sandboxes() == []


async def test_start_is_handed_over_at_once_and_waits_in_the_channel(world, autojump_clock):
    """A cold call waits for this: no task runs between the need and the engine's command."""
    await trio.sleep(1)
    world.specialise_s = 10
    world.supervisor.need(7, 1, 1)
    assert world.started() == [7]
    (sandbox,) = world.supervisor.sandboxes()
    assert sandbox.state is State.STARTING
    world.supervisor.loaded(7)
    assert sandbox.state is State.RUNNING, "whoever is ready was specialised; nobody else says so"
    await trio.sleep(20)
    assert sandbox.state is State.RUNNING
    assert (world.supervisor.stats().making, world.reaped()) == (0, [])


class Use:
    """An image, for one sandbox."""

    fd, number = 99, 5


async def restoring(world, handle):
    """A sandbox that is being restored from image 5."""
    order = world.orders[1]
    world.orders[1] = Order(order.function, order.version, order.runtime, order.specialisation, b"{}", Use)
    await trio.sleep(1)
    world.supervisor.need(handle, 1, 1)
    await trio.sleep(1)
    return next(s for s in world.supervisor.sandboxes() if s.handle == handle)


async def test_an_order_with_an_image_is_a_restore(world, autojump_clock):
    await restoring(world, 7)
    assert world.images == [99]
    start = next(c for c in world.posted if c.kind is CommandKind.SANDBOX_START)
    assert start.u32s[0] == Tier.SNAPSHOT
    assert world.supervisor.loaded(7) == 5
    assert world.supervisor.loaded(7) == 0
    world.supervisor.killed(7, Why.REMOVED)
    await trio.sleep(1)
    assert world.restores_failed == []


@pytest.mark.parametrize(
    ("cause", "told"), [(Cause.SIGNAL, "signal 11"), (Cause.OOM, "oom 11"), (Cause.EXIT, "exit 11"), (Cause.KILLED, None)]
)
async def test_who_dies_of_its_restore_is_told_of(world, autojump_clock, cause, told):
    sandbox = await restoring(world, 7)
    world.launchers[0].send.send_nowait(Exited(sandbox.shell.id, cause, 11, 0, 0, None))
    await trio.sleep(1)
    assert len(world.reaped()) == 1
    assert world.restores_failed == ([(1, 1, 5, f"it ended meanwhile: {told}")] if told else [])


async def test_a_restore_that_hangs_or_whose_hooks_fail_is_told_of_once(world, autojump_clock):
    await restoring(world, 7)
    world.supervisor.killed(7, Why.INIT_TIMEOUT)
    sandbox = await restoring(world, 8)
    world.supervisor.init_failed(8)
    world.launchers[0].send.send_nowait(Exited(sandbox.shell.id, Cause.EXIT, 1, 0, 0, None))
    await trio.sleep(1)
    assert [how[3] for how in world.restores_failed] == [
        "it took longer than an init may",
        "what its hooks do after a restore failed",
    ]


async def test_calm_is_when_no_start_is_under_way(world, autojump_clock):
    assert world.supervisor.calm
    world.specialise_s = 10
    world.supervisor.need(7, 1, 1)
    await trio.sleep(5)
    assert not world.supervisor.calm
    world.supervisor.loaded(7)
    assert world.supervisor.calm
    world.supervisor.need(8, 1, 1)
    world.supervisor.loaded(8)
    assert not world.supervisor.calm, "another may follow"
    await trio.sleep(0.1)
    assert world.supervisor.calm


async def test_the_end_of_a_shell_for_another_purpose_is_told(world, autojump_clock):
    await trio.sleep(1)
    shell = await world.pool.take("py")
    wait = world.supervisor.watch(shell.id)
    world.launchers[0].kill(shell.id)
    assert (await wait()).cause is Cause.KILLED
    other = await world.pool.take("py")
    wait = world.supervisor.watch(other.id)
    world.launchers[0].dead.set()
    assert await wait() is None
    assert world.lost == 1
    shell.close(), other.close()


async def test_a_full_ring_loses_no_start(world, autojump_clock):
    await trio.sleep(1)
    world.ring_full = True
    world.supervisor.need(7, 1, 1)
    assert world.started() == []
    await trio.sleep(1)
    assert world.started() == [7]


async def test_a_runtime_without_shells_holds_up_no_other(autojump_clock, nursery):
    world = World(nursery)
    world.pool = ShellPool(["none", "py"], ahead=1, most=4, report=world.reports.append)
    world.pool.use(["py"])
    world.orders[2] = Order("g", "1", "none", Specialisation("/code", 128, 512), b"{}")
    world.supervisor = Supervisor(
        pool=world.pool,
        post=world.post,
        post_nowait=world.post_nowait,
        orders=lambda function, revision, provisioned: world.orders.get(function),
        open_launcher=world.open_launcher,
        restore_failed=lambda *how: None,
        lost=lambda: None,
        report=world.reports.append,
    )
    world.without = "none"
    await nursery.start(world.supervisor.run)
    for handle in range(10):
        world.supervisor.need(handle, 2, 1)
    await trio.sleep(1)
    world.supervisor.need(77, 1, 1)
    await trio.sleep(1)
    assert world.started() == [77]
    world.supervisor.kill_all()
    await trio.sleep(1)
    assert world.supervisor.sandboxes() == []
    nursery.cancel_scope.cancel()


async def test_killed_twice_and_gone_too_is_killed_once(world, autojump_clock):
    world.supervisor.need(7, 1, 1)
    await trio.sleep(0.5)
    world.supervisor.killed(7, Why.TIMEOUT)
    world.supervisor.gone(7)
    world.supervisor.killed(7, Why.NONE)
    await trio.sleep(5)
    assert len(world.launchers[0].killed) == 1
    assert world.reaped() == [(7, CoreCause.KILLED)]


async def test_one_that_was_told_to_stop_has_its_grace_and_is_killed_then(world, autojump_clock):
    for handle in (7, 8):
        world.supervisor.need(handle, 1, 1)
    await trio.sleep(0.5)
    first, second = world.supervisor.sandboxes()
    for handle in (7, 8):
        world.supervisor.killed(handle, Why.IDLE, grace_s=2)
    assert not world.supervisor.alive(1), "it is not counted on any more"
    world.supervisor.gone(7)  # its channel closes as it ends
    await trio.sleep(1)
    assert world.launchers[0].killed == []
    world.launchers[0].send.send_nowait(Exited(first.shell.id, Cause.EXIT, 0, 0, 0, None))
    await trio.sleep(5)
    assert world.launchers[0].killed == [second.shell.id]
    assert world.reaped() == [(7, CoreCause.EXIT), (8, CoreCause.KILLED)]


async def test_the_end_of_all_does_not_wait_for_a_grace(world, autojump_clock):
    world.supervisor.need(7, 1, 1)
    await trio.sleep(0.5)
    world.supervisor.killed(7, Why.IDLE, grace_s=1000)
    world.supervisor.kill_all()
    with trio.fail_after(1):
        await world.supervisor.wait_none()
    assert world.reaped() == [(7, CoreCause.KILLED)]


async def test_a_process_that_goes_by_itself_says_how(world, autojump_clock):
    world.supervisor.need(7, 1, 1)
    await trio.sleep(0.5)
    (sandbox,) = world.supervisor.sandboxes()
    world.supervisor.gone(7)
    await trio.sleep(0.01)
    world.launchers[0].send.send_nowait(Exited(sandbox.shell.id, Cause.SIGNAL, 11, 0, 0, None))
    await trio.sleep(5)
    assert world.launchers[0].killed == []
    assert world.reaped() == [(7, CoreCause.SIGNAL)]


async def test_one_that_only_closed_its_channel_is_ended(world, autojump_clock):
    world.supervisor.need(7, 1, 1)
    await trio.sleep(0.5)
    world.supervisor.gone(7)
    await trio.sleep(5)
    assert world.reaped() == [(7, CoreCause.KILLED)]


async def test_a_failed_specialisation_is_told_once(world, autojump_clock):
    world.specialise_fails = True
    world.supervisor.need(7, 1, 1)
    await trio.sleep(1)
    assert world.reaped() == [(7, CoreCause.LAUNCH_FAILED)]
    assert sum("mount" in text for text in world.reports) == 1
    assert world.supervisor.stats().launch_failures == 1


API_START = b"\0AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001\0REST=1\0"


async def test_one_that_is_called_over_its_api_is_the_engine_s_with_its_listener(world, autojump_clock):
    spec = Specialisation("/code", 128, 512, ports=(9001,))
    world.orders[1] = Order("f", "1", "py", spec, API_START, api=RuntimeApi("arn", "app.handler", "0"))
    world.supervisor.need(7, 1, 1)
    await trio.testing.wait_all_tasks_blocked()
    assert not world.posted, "not before its listener is there"
    await trio.sleep(1)
    (start,) = [command for command in world.posted if command.kind is CommandKind.SANDBOX_START]
    assert len(start.fds) == 7
    assert start.fds[6] >= 0
    assert b"arn\0app.handler\x000\0" in start.blob
    assert f"\0AWS_LAMBDA_RUNTIME_API=127.0.0.1:{world.listeners[0]}\0REST".encode() in start.blob, "it was told the true port"
    world.supervisor.loaded(7)


async def test_killed_before_its_listener_came_it_never_is_the_engine_s(world, autojump_clock):
    world.specialise_s = 0.5
    spec = Specialisation("/code", 128, 512, ports=(9001,))
    world.orders[1] = Order("f", "1", "py", spec, API_START, api=RuntimeApi("arn", "app.handler", "0"))
    world.supervisor.need(7, 1, 1)
    await trio.sleep(0.1)
    world.supervisor.killed(7, Why.NONE)
    await trio.sleep(1)
    assert [command for command in world.posted if command.kind is CommandKind.SANDBOX_START] == []
    assert [handle for handle, _ in world.reaped()] == [7]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", world.listeners[0]))


async def test_nobody_s_function_and_an_unknown_runtime(world, autojump_clock):
    world.supervisor.need(7, 99, 1)
    world.orders[2] = Order("g", "1", "ruby", Specialisation("/code", 128, 512), b"{}")
    world.supervisor.need(8, 2, 1)
    await trio.sleep(1)
    assert sorted(world.reaped()) == [(7, CoreCause.LAUNCH_FAILED), (8, CoreCause.LAUNCH_FAILED)]
    assert any("ruby" in text for text in world.reports)


async def test_a_dead_launcher_takes_all_along_and_another_comes(world, autojump_clock):
    for handle in (7, 8):
        world.supervisor.need(handle, 1, 1)
    await trio.sleep(1)
    world.specialise_s = 100
    world.supervisor.need(9, 1, 1)
    await trio.sleep(1)
    world.refuse = 3
    world.launchers[0].dead.set()
    await trio.sleep(0.01)
    assert sorted(world.reaped()) == [(7, CoreCause.SIGNAL), (8, CoreCause.SIGNAL), (9, CoreCause.SIGNAL)]
    assert not world.supervisor.ready
    world.specialise_s = 0.001
    world.supervisor.need(10, 1, 1)
    await trio.sleep(5)
    assert world.supervisor.ready
    assert 10 in world.started(), "a need waits for the next launcher"
    assert world.supervisor.stats().launcher_restarts == 4
    assert len(world.reaped()) == 3


async def test_every_descriptor_is_closed_at_the_end(autojump_clock):
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        await nursery.start(world.supervisor.run)
        world.specialise_s = 50
        for handle in (7, 8, 9):
            world.supervisor.need(handle, 1, 1)
        await trio.sleep(1)
        assert world.open_fds() > 0
        nursery.cancel_scope.cancel()
    assert world.open_fds() == 0


async def test_the_first_launcher_must_start(autojump_clock):
    with pytest.RaisesGroup(pytest.RaisesExc(LaunchFailed), flatten_subgroups=True, allow_unwrapped=True):
        async with trio.open_nursery() as nursery:
            world = World(nursery)
            world.refuse = 1
            await nursery.start(world.supervisor.run)
