"""The keeper of images on virtual time, with makers that the test plays: when they are made, for whom, and when they go."""

from __future__ import annotations

import json
import os
import socket
import struct

import pytest
import trio

from scheduler.errors import Unavailable
from scheduler.sandboxes.launcher import Cause, Exited, LaunchFailed, Shell, Specialisation
from scheduler.sandboxes.ledger import FAILS_MAX, State
from scheduler.sandboxes.templates import MakeOrder, Templates

HEADER = struct.Struct("<IBBHIIQ")
MB = 1 << 20


def snapshot(size, *, asks=False, reason=None):
    body = json.dumps({"bytes": size, "reason": reason, "init_ns": 5_000_000}).encode()
    return HEADER.pack(len(body), 21, int(asks), 0, 0, 0, 0) + body


async def aside(function, *arguments):
    """At once: a thread would take real time, and the clock would not wait for it."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


class World:
    """Pool, launcher and supervisor as far as a keeper needs them. makers: what was begun, by name. init_s, size, reason: of
    the next makers."""

    def __init__(self, nursery, bytes_max=20 * MB):
        self.nursery = nursery
        self.calm = True
        self.launcher = self
        self.ids = 0
        self.makers = []
        self.init_s = 0.1
        self.order_init_s = 0.0
        self.size = MB
        self.reason = None
        self.no_shell = False
        self.ends = {}
        self.reports = []
        self.off = set()
        self.templates = Templates(
            pool=self, orders=self.order, bytes_max=bytes_max, init_s=10.0, report=self.reports.append, aside=aside
        )

    def order(self, version):
        if version.function in self.off or self.launcher is None:
            return None
        spec = Specialisation("/code", 128, 512)
        return MakeOrder(
            f"f{version.function}",
            f"t{version.function % 2}",
            "py",
            128,
            spec,
            b"%d" % version.function,
            init_s=self.order_init_s,
        )

    async def take(self, runtime):
        await trio.lowlevel.checkpoint()
        if self.no_shell:
            raise Unavailable("runtime py is not available here")
        self.ids += 1
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        output, write = os.pipe2(os.O_NONBLOCK)
        os.close(write)
        self.ends[self.ids] = (trio.Event(), trio.socket.from_stdlib_socket(theirs), trio.CancelScope())
        return Shell(self.ids, runtime, 1, ours.detach(), output, -1, -1, -1, -1)

    async def specialise(self, shell, spec, *, image=None):
        await trio.lowlevel.checkpoint()
        self.nursery.start_soon(self._maker, shell.id, os.dup(image))

    async def _maker(self, shell_id, image):
        ended, channel, scope = self.ends[shell_id]
        with channel, scope:
            name = "f" + (await channel.recv(4096))[HEADER.size :].decode()
            self.makers.append(name)
            size, reason = self.size, self.reason
            await trio.sleep(self.init_s)
            await channel.send(snapshot(0 if reason else size, asks=not reason, reason=reason))
            if not reason:
                await channel.recv(4096)
                os.pwrite(image, name.encode(), 0)
                await channel.send(snapshot(size))
        os.close(image)
        ended.set()

    def kill(self, shell_id):
        self.ends[shell_id][2].cancel()

    def watch(self, shell_id):
        async def wait():
            await self.ends[shell_id][0].wait()
            return Exited(shell_id, Cause.EXIT, 0, 0, 0, None)

        return wait

    def state(self, function=1, revision=1):
        status = self.templates.status(function, revision)
        return status.state if status else None

    def content(self, function=1, revision=1):
        use = self.templates.image(function, revision)
        return use and os.pread(use.fd, 10, 0).rstrip(b"\0").decode()


@pytest.fixture
async def world(nursery):
    made = World(nursery)
    nursery.start_soon(made.templates.run, made)
    await trio.lowlevel.checkpoint()
    yield made
    nursery.cancel_scope.cancel()
    for _, channel, _ in made.ends.values():
        channel.close()


async def test_the_first_init_brings_an_image(world, autojump_clock):
    assert world.templates.image(1, 1) is None
    world.templates.initialised(1, 1)
    assert world.state() is State.WANTED
    await trio.sleep(1)
    assert (world.state(), world.content()) == (State.READY, "f1")
    world.templates.initialised(1, 1)
    await trio.sleep(1)
    assert world.makers == ["f1"], "once"
    world.templates.restored(1, 1, world.templates.image(1, 1).number)
    assert world.templates.status(1, 1).restores == 1
    stats = world.templates.stats()
    assert (stats.by_state["ready"], stats.bytes, stats.made["made"], stats.restored) == (1, MB, 1, 1)


async def test_an_order_may_allow_a_longer_init(world, autojump_clock):
    world.init_s = 50
    world.templates.initialised(1, 1)
    await trio.sleep(100)
    assert world.state() is State.FAILED, "10 s are the keeper's own bound"
    world.order_init_s = 130.0
    assert (await world.templates.make_now(1, 1, 150)).state is State.READY


async def test_one_after_the_other_and_only_when_it_is_calm(world, autojump_clock):
    world.calm = False
    world.init_s = 0.5
    for function in (1, 2, 3):
        world.templates.initialised(function, 1)
    await trio.sleep(1)
    assert world.makers == []
    world.calm = True
    await trio.sleep(0.3)
    assert len(world.makers) == 1
    await trio.sleep(3)
    assert sorted(world.makers) == ["f1", "f2", "f3"]


async def test_a_service_that_is_never_calm_gets_them_too(world, autojump_clock):
    world.calm = False
    world.templates.initialised(1, 1)
    await trio.sleep(5)
    assert world.state() is State.READY


async def test_a_deployment_waits_and_waits_for_nothing_else(world, autojump_clock):
    world.calm = False
    world.templates.initialised(1, 1)
    await trio.sleep(0.01)
    begun = trio.current_time()
    status = await world.templates.make_now(2, 1, 30)
    assert (status.state, world.makers) == (State.READY, ["f2"])
    assert trio.current_time() - begun < 0.5


async def test_a_deployment_is_told_that_init_failed_or_is_too_slow(world, autojump_clock):
    world.init_s = 100
    status = await world.templates.make_now(1, 1, 30)
    assert (status.state, status.function_failed) == (State.FAILED, True)
    assert "longer than 10 s" in status.reason
    world.init_s = 5
    status = await world.templates.make_now(2, 1, 1)
    assert status.state is State.MAKING, "patience is over before it is"
    await trio.sleep(10)
    assert world.state(2) is State.READY


async def test_what_cannot_be_is_said_and_not_tried_again(world, autojump_clock):
    world.reason = "it has 3 threads"
    world.templates.initialised(1, 1)
    await trio.sleep(1)
    status = world.templates.status(1, 1)
    assert (status.state, status.reason) == (State.UNSUITABLE, "it has 3 threads")
    assert any("3 threads" in text for text in world.reports)
    world.templates.initialised(1, 1)
    await trio.sleep(1000)
    assert world.makers == ["f1"]


async def test_off_means_off(world, autojump_clock):
    world.off.add(1)
    world.templates.initialised(1, 1)
    assert await world.templates.make_now(1, 1, 30) is None
    await trio.sleep(10)
    assert (world.makers, world.state()) == ([], None)


async def test_a_new_revision_drops_the_old_image_even_one_in_the_making(world, autojump_clock):
    world.templates.initialised(1, 1)
    await trio.sleep(1)
    use = world.templates.image(1, 1)
    world.init_s = 5
    world.templates.initialised(2, 1)
    await trio.sleep(1)
    world.templates.keep([(1, 2)])
    assert (world.state(1), world.templates.image(1, 1)) == (None, None)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(use.fd)
    await trio.sleep(10)
    assert (world.state(2), world.templates.stats().bytes) == (None, 0)


async def test_images_of_a_dead_runtime_go_and_are_made_again(world, autojump_clock):
    world.templates.initialised(1, 1)
    await trio.sleep(1)
    world.templates.lost("other")
    assert world.state() is State.READY
    world.templates.lost()
    assert (world.state(), world.templates.image(1, 1)) == (State.WANTED, None)
    await trio.sleep(1)
    assert (world.state(), world.makers) == (State.READY, ["f1", "f1"])


async def test_without_a_launcher_or_a_shell_it_is_tried_again_by_itself(world, autojump_clock):
    world.templates.initialised(1, 1)
    world.launcher = None
    await trio.sleep(2)
    assert world.state() is State.WANTED
    assert "launcher is being started" in world.templates.status(1, 1).reason
    world.launcher, world.no_shell = world, True
    await trio.sleep(10)
    assert "not available" in world.templates.status(1, 1).reason
    world.no_shell = False
    await trio.sleep(30)
    assert (world.state(), world.makers) == (State.READY, ["f1"])


async def test_restores_that_fail_end_in_the_shell_tier_with_a_reason(world, autojump_clock):
    world.templates.initialised(1, 1)
    for n in range(FAILS_MAX):
        await trio.sleep(5)
        number = world.templates.image(1, 1).number
        for _ in range(4):  # as many as were under way
            world.templates.fell_back(1, 1, number, "the kernel refused")
        assert world.templates.image(1, 1) is None
        assert world.makers == ["f1"] * (n + 1)
    await trio.sleep(1000)
    assert world.state() is State.UNSUITABLE
    assert "the kernel refused" in world.templates.status(1, 1).reason


async def test_memory_is_bounded(world, autojump_clock):
    world.size = 8 * MB
    for function in (1, 2, 3):
        await world.templates.make_now(function, 1, 30)
    states = sorted(world.state(function).value for function in (1, 2, 3))
    assert states == ["evicted", "ready", "ready"]
    assert world.state(3) is State.READY
    stats = world.templates.stats()
    assert (stats.bytes, stats.evicted) == (16 * MB, 1)
    assert len(world.templates._fds) == 2
    world.size = 21 * MB
    status = await world.templates.make_now(4, 1, 30)
    assert status.state is State.UNSUITABLE
    assert "images_mb_max" in status.reason
    assert world.templates.stats().bytes == 16 * MB


async def test_none_are_made_where_there_is_to_be_no_room(nursery, autojump_clock):
    world = World(nursery, bytes_max=0)
    nursery.start_soon(world.templates.run, world)
    world.templates.initialised(1, 1)
    assert await world.templates.make_now(1, 1, 30) is None
    await trio.sleep(10)
    assert (world.makers, world.state()) == ([], None)
    nursery.cancel_scope.cancel()


async def test_at_the_end_everything_is_closed(autojump_clock):
    before = len(os.listdir("/proc/self/fd"))
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        nursery.start_soon(world.templates.run, world)
        await world.templates.make_now(1, 1, 30)
        await trio.sleep(1)
        assert len(os.listdir("/proc/self/fd")) == before + 1
        nursery.cancel_scope.cancel()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_launcher_that_dies_in_the_middle(world, autojump_clock):
    async def fails(shell, spec, *, image=None):
        world.ends[shell.id][1].close()
        world.ends[shell.id][0].set()
        raise LaunchFailed("launcher")

    world.specialise = fails
    world.templates.initialised(1, 1)
    await trio.sleep(1)
    assert world.state() is State.FAILED
    assert "launcher" in world.templates.status(1, 1).reason
