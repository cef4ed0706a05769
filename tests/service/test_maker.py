"""The conversation with a maker, which the test plays over a real socket and a real file: one that does what it should, and all
that a hostile one could do. Whatever it does, nothing stays open, and it is dead at the end."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
from contextlib import suppress

import pytest
import trio

from scheduler.sandboxes.launcher import Cause, Exited, LaunchFailed, Shell, Specialisation
from scheduler.sandboxes.maker import Bounds, Outcome, make

HEADER = struct.Struct("<IBBHIIQ")
START, IMAGE, LOG, INIT_ERROR, SNAPSHOT = 1, 4, 17, 19, 21
MB = 1 << 20
SPEC = Specialisation("/code", 128, 512)
BODY = b'{"snapshot":"take"}'


def frame(kind, body=b"", flags=0):
    return HEADER.pack(len(body), kind, flags, 0, 0, 0, 0) + body


def word(size, *, asks=False, reason=None, init_ns=5_000_000):
    body = json.dumps({"bytes": size, "reason": reason, "init_ns": init_ns}).encode()
    return frame(SNAPSHOT, body, flags=1 if asks else 0)


class World:
    """A launcher and one maker. play: what the maker does, once specialised: gets its socket and its image's descriptor."""

    def __init__(self, play, *, ends=True):
        self.play = play
        self.ends = ends
        self.nursery = None
        self.kills = 0  # asked for
        self.killed = 0  # that met one alive
        self.room = []
        self.room_there = True
        self.cause = Exited(7, Cause.EXIT, 0, 0, 0, None)
        self.ended = trio.Event()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.theirs = trio.socket.from_stdlib_socket(theirs)
        self.output_read, self.output_write = os.pipe2(os.O_NONBLOCK)
        self.shell = Shell(7, "py", 1, ours.detach(), self.output_read, -1, -1, -1, -1)
        self.scope = trio.CancelScope()
        self.specialise_fails = False

    async def specialise(self, shell, spec, *, image=None):
        assert (shell.id, spec) == (7, SPEC)
        await trio.lowlevel.checkpoint()
        if self.specialise_fails:
            self.end()
            raise LaunchFailed("mount", 1)
        self.nursery.start_soon(self._run, os.dup(image))

    async def _run(self, image):
        try:
            with self.scope:
                with suppress(OSError):  # the service hangs up
                    await self.play(self, image)
                if not self.ends:
                    await trio.sleep_forever()
        finally:
            os.close(image)
            self.end()

    def end(self):
        self.theirs.close()
        self.ended.set()

    def kill(self, shell_id):
        assert shell_id == 7
        self.kills += 1
        if not self.ended.is_set():
            self.killed += 1
            self.cause = Exited(7, Cause.KILLED, 9, 0, 0, None)
            self.scope.cancel()

    def give_room(self, size):
        self.room.append(size)
        return self.room_there

    async def dead(self):
        await self.ended.wait()
        return self.cause

    async def read(self):
        """One frame of the service."""
        head = b""
        while len(head) < HEADER.size:
            got = await self.theirs.recv(HEADER.size - len(head))
            if not got:
                raise OSError("closed")
            head += got
        length, kind, *_ = HEADER.unpack(head)
        body = b""
        while len(body) < length:
            body += await self.theirs.recv(length - len(body))
        return kind, body

    async def run(self, *, bytes_max=16 * MB, init_s=10.0):
        before = len(os.listdir("/proc/self/fd"))
        try:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                made = await make(
                    self,
                    self.shell,
                    SPEC,
                    BODY,
                    bounds=Bounds(init_s, bytes_max, "its memory"),
                    room=self.give_room,
                    dead=self.dead,
                )
                with trio.fail_after(1):
                    await self.ended.wait()
        finally:
            os.close(self.output_write)
        self.left_open = len(os.listdir("/proc/self/fd")) - (before - 4)  # both ends of the channel and of the output
        return made


async def honest(world, image, *, size=3 * MB + 17, ask=4 * MB):
    assert await world.read() == (START, BODY)
    await world.theirs.send(frame(LOG, b"hello\n") + word(ask, asks=True))
    assert (await world.read())[0] == IMAGE
    assert os.fstat(image).st_size == ask
    assert os.fstat(image).st_blocks * 512 >= ask, "the pages are there, so they are the service's"
    os.pwrite(image, b"\x05" * size, 0)
    await world.theirs.send(word(size))


async def test_an_init_took_no_longer_than_was_waited_for_it():
    """Whose init took long keeps its image the longest, so this is worth a lie."""

    async def lies(world, image):
        await world.read()
        await world.theirs.send(word(MB, asks=True, init_ns=1 << 61))
        await world.read()
        os.pwrite(image, b"x" * MB, 0)
        await world.theirs.send(word(MB, init_ns=1 << 61))

    begun_s = trio.current_time()
    made = await World(lies).run()
    os.close(made.image.fd)
    assert 0 < made.image.init_ns <= (trio.current_time() - begun_s) * 1e9


async def test_an_image_is_the_services_own_sealed_copy():
    world = World(honest)
    made = await world.run()
    assert (made.outcome, made.image.bytes) == (Outcome.MADE, 3 * MB + 17)
    assert 0 < made.image.init_ns <= 5_000_000
    assert (world.room, world.killed, world.left_open) == ([4 * MB], 0, 1)
    fd = made.image.fd
    try:
        assert os.fstat(fd).st_size == 3 * MB + 17
        assert os.pread(fd, MB, 2 * MB) == b"\x05" * MB
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        for seal in (fcntl.F_SEAL_WRITE, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL):
            assert seals & seal
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(fd, b"x")
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)  # as root it can be opened, but not written to
        with pytest.raises(PermissionError):
            os.write(again, b"x")
        os.close(again)
    finally:
        os.close(fd)


async def test_what_is_written_after_the_end_is_in_no_image():
    """A process that kept the file writes to it when the service has taken its copy."""
    kept = []

    async def keeps(world, image):
        kept.append(os.dup(image))
        await honest(world, image, size=MB, ask=MB)

    world = World(keeps)
    made = await world.run()
    os.pwrite(kept[0], b"evil", 0)
    try:
        assert os.pread(made.image.fd, 4, 0) == b"\x05" * 4
    finally:
        os.close(made.image.fd)
        os.close(kept[0])


@pytest.mark.parametrize(
    ("answer", "outcome", "reason"),
    [
        (word(0, reason="it has 2 threads"), Outcome.CANNOT, "it has 2 threads"),
        (word(0, reason=""), Outcome.CANNOT, "no reason"),
        (word(0, reason="line\nbreak\x1b[31m" + "x" * 3000), Outcome.CANNOT, "line break [31m"),
        (frame(INIT_ERROR, b'{"errorType": "KeyError", "errorMessage": "\'DB\'"}'), Outcome.FUNCTION_FAILED, "KeyError: 'DB'"),
        (frame(INIT_ERROR, b"[" * 100_000), Outcome.FUNCTION_FAILED, "its init failed"),
        (word(17 * MB, asks=True), Outcome.CANNOT, "its image needs 17 MB, its memory is 16 MB"),
        (word(1 << 61, asks=True), Outcome.CANNOT, "MB"),
        (word(MB), Outcome.BROKE, "without asking for room"),
        (word(0, asks=True), Outcome.BROKE, "without asking for room"),
        (word(-1, asks=True), Outcome.BROKE, "wrong types"),
        (word(True, asks=True), Outcome.BROKE, "wrong types"),
        (word(1.5, asks=True), Outcome.BROKE, "wrong types"),
        (word(1 << 70, asks=True), Outcome.BROKE, "wrong types"),
        (word(MB, asks=True, reason=["x"]), Outcome.BROKE, "wrong types"),
        (frame(SNAPSHOT, b"[1]", 1), Outcome.BROKE, "not what it has to be"),
        (frame(SNAPSHOT, b"{" * 4096, 1), Outcome.BROKE, "not what it has to be"),
        (frame(SNAPSHOT, b"x" * 5000, 1), Outcome.BROKE, "kind 21 and 5000 bytes"),
        (frame(18, bytes(8)), Outcome.BROKE, "kind 18"),
        (HEADER.pack(0xFFFFFFFF, LOG, 0, 0, 0, 0, 0), Outcome.BROKE, "kind 17"),
        (b"\xff" * 24, Outcome.BROKE, "kind 255"),
    ],
)
async def test_what_it_may_say_first(answer, outcome, reason):
    async def says(world, image):
        await world.read()
        await world.theirs.send(answer)

    world = World(says, ends=False)
    made = await world.run()
    assert made.outcome is outcome
    assert reason in made.reason
    assert made.reason.isprintable()
    assert len(made.reason) <= 300
    assert (world.killed, world.left_open) == (1, 0)


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        (lambda image: word(5 * MB), "asked for 4194304 bytes and says it wrote 5242880"),
        (lambda image: word(0), "says it wrote 0"),
        (lambda image: word(MB, asks=True), "says it wrote"),
        (lambda image: word(0, reason="a timer is armed"), "a timer is armed"),
    ],
)
async def test_what_it_may_say_of_the_written(lie, reason):
    async def lies(world, image):
        await world.read()
        await world.theirs.send(word(4 * MB, asks=True))
        await world.read()
        await world.theirs.send(lie(image))

    world = World(lies)
    made = await world.run()
    assert reason in made.reason
    assert made.image is None
    assert world.left_open == 0


@pytest.mark.parametrize(
    "trick",
    [
        lambda image: os.write(image, b"x" * 100),
        lambda image: fcntl.fcntl(image, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL),
        lambda image: fcntl.fcntl(image, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW),
        lambda image: os.ftruncate(image, 1 << 40),
    ],
)
async def test_a_file_it_played_tricks_on_becomes_no_image(trick):
    async def plays(world, image):
        await world.read()
        trick(image)
        await world.theirs.send(word(MB, asks=True))
        await world.read()
        await world.theirs.send(word(MB))

    world = World(plays)
    made = await world.run()
    assert (made.outcome, made.image) == (Outcome.BROKE, None)
    assert world.left_open == 0


async def test_there_is_no_room():
    world = World(honest)
    world.room_there = False
    made = await world.run()
    assert (made.outcome, made.reason) == (
        Outcome.BROKE,
        "there is no room for its image beside those of who has less",
    )
    assert world.left_open == 0


@pytest.mark.parametrize(
    ("cause", "outcome", "reason"),
    [
        (Exited(7, Cause.SIGNAL, 11, 0, 0, None), Outcome.FUNCTION_FAILED, "signal 11"),
        (Exited(7, Cause.EXIT, 3, 0, 0, None), Outcome.FUNCTION_FAILED, "status 3"),
        (Exited(7, Cause.OOM, 9, 0, 0, None), Outcome.CANNOT, "more than its memory"),
    ],
)
async def test_how_it_ended_is_told(cause, outcome, reason):
    async def dies(world, image):
        await world.read()
        world.cause = cause

    world = World(dies)
    made = await world.run()
    assert made.outcome is outcome
    assert reason in made.reason
    assert (world.killed, world.left_open) == (0, 0)


async def test_a_launch_that_failed_says_which_step():
    world = World(honest)
    world.specialise_fails = True
    world.cause = Exited(7, Cause.LAUNCH_FAILED, 0, 0, 0, "mount: EPERM")
    made = await world.run()
    assert (made.outcome, made.reason) == (Outcome.BROKE, "mount: EPERM")


async def test_silence_has_its_time(autojump_clock):
    async def hangs(world, image):
        await world.read()

    world = World(hangs, ends=False)
    begun = trio.current_time()
    made = await world.run(init_s=10.0)
    assert (made.outcome, made.reason) == (Outcome.FUNCTION_FAILED, "its init took longer than 10 s")
    assert trio.current_time() - begun < 11
    assert (world.killed, world.left_open) == (1, 0)


async def test_a_flood_of_output_and_frames_is_read_slowly_and_costs_its_author_the_init_time():
    sent = [0]

    async def floods(world, image):
        await world.read()
        os.set_blocking(world.output_write, False)
        flood = frame(LOG, b"x" * 65_000)
        while True:
            left = memoryview(flood)
            while left:
                left = left[await world.theirs.send(left) :]
            sent[0] += len(flood)

    world = World(floods, ends=False)
    begun = trio.current_time()
    made = await world.run(init_s=0.3)
    assert made.outcome is Outcome.FUNCTION_FAILED
    assert trio.current_time() - begun < 2
    assert sent[0] < 20 * MB, "read at the pace of one who has better to do"
    assert world.left_open == 0


async def test_one_that_never_reads_gets_nothing():
    async def deaf(world, image):
        await world.theirs.send(word(MB, asks=True))
        await trio.sleep_forever()

    world = World(deaf, ends=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scheduler.sandboxes.maker.WRITE_S", 0.2)
        made = await world.run(init_s=5)
    assert made.outcome is Outcome.BROKE
    assert "not written within" in made.reason
    assert (world.killed, world.left_open) == (1, 0)


async def test_cancelled_it_leaves_nothing_behind():
    began = trio.Event()

    async def hangs(world, image):
        await world.read()
        began.set()

    world = World(hangs, ends=False)
    before = len(os.listdir("/proc/self/fd"))
    async with trio.open_nursery() as nursery:

        async def stop():
            await began.wait()
            scope.cancel()

        nursery.start_soon(stop)
        with trio.CancelScope() as scope:
            await world.run()
    assert world.kills == 1
    assert len(os.listdir("/proc/self/fd")) == before - 4
