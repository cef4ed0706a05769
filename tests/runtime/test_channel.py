"""The channel's two ends by themselves: races played step by step, and a reader that takes little at a time."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from scheduler.runtime.channel import SMALL_BYTES, Channel, Closed, Inbox
from scheduler.runtime.frames import FRAME_BYTES_MAX, HEADER, LOG, RESULT, extensions, frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    with ours, theirs:
        yield Channel(ours.fileno(), memoryview(bytearray(64)).cast("Q")), theirs


def frames(data: bytes) -> list[tuple[int, int, bytes]]:
    found = []
    while data:
        length, kind, _, _, seq, _, _ = HEADER.unpack_from(data)
        found.append((kind, seq, data[HEADER.size : HEADER.size + length]))
        data = data[HEADER.size + length :]
    return found


class Meddled(list[bytes]):
    """Answers at which the loop works just while a printing thread looks at them: `before` or `after` it has."""

    def __init__(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        super().__init__()
        self.before, self.after = before, after

    def __getitem__(self, index):
        self.before()
        found = super().__getitem__(index)
        self.after()
        return found


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("next_seq", [0, 8])
def test_a_log_while_the_loop_answers(ends, when, next_seq):
    """The loop answers 7, and perhaps starts 8, in the middle of another thread's print."""
    channel, theirs = ends
    channel.seq = 7
    done = []

    def answer() -> None:
        if not done:
            done.append(True)
            channel.seq = 0
            channel.answers.append(frame(RESULT, b"seven", seq=7))
            channel.seq = next_seq

    def nothing() -> None:
        pass

    channel.answers = Meddled(answer, nothing) if when == "before" else Meddled(nothing, answer)
    channel.print(b"line\n")
    channel.flush()
    seen = frames(theirs.recv(1000))
    assert (LOG, 0, b"line\n") in seen
    assert (RESULT, 7, b"seven") in seen
    assert len(seen) == 2


def test_a_log_in_the_midst_of_a_call_follows_the_answers_before_it(ends):
    channel, theirs = ends
    channel.answers += [frame(RESULT, b"1", seq=1), frame(RESULT, b"2", seq=2)]
    channel.seq = 3
    channel.print(b"no line yet")
    assert channel.output == [b"no line yet"]
    channel.print(b", now\n")
    assert frames(theirs.recv(1000)) == [(RESULT, 1, b"1"), (RESULT, 2, b"2"), (LOG, 3, b"no line yet, now\n")]
    assert channel.output == channel.answers == []


def test_many_threads_print_whole_lines(ends):
    channel, theirs = ends
    lines = 300

    def chatter(name: str) -> None:
        for n in range(lines):
            channel.print(f"{name}{n}\n".encode())

    threads = [threading.Thread(target=chatter, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    expected = sum(len(f"a{n}\n") for n in range(lines)) * 3
    data = b""
    while sum(len(body) for _, _, body in whole(data)) < expected:
        data += theirs.recv(37)  # little at a time, so that writes are cut
    for thread in threads:
        thread.join()
    text = b"".join(body for _, _, body in frames(data)).decode().split()
    for name in "abc":
        assert [line for line in text if line[0] == name] == [f"{name}{n}" for n in range(lines)]


def whole(data: bytes) -> list[tuple[int, int, bytes]]:
    """The frames that have come completely."""
    at = 0
    while len(data) - at >= HEADER.size:
        (length, *_) = HEADER.unpack_from(data, at)
        if len(data) - at < HEADER.size + length:
            break
        at += HEADER.size + length
    return frames(data[:at])


def test_prints_to_nobody(ends):
    channel, theirs = ends
    theirs.close()
    with pytest.raises(Closed):
        channel.print(b"line\n")


def test_partial_lines_are_sent_before_they_grow(ends):
    channel, theirs = ends
    for _ in range(64):
        channel.print(b"x" * 1024)
    assert channel.output == []
    assert [len(body) for _, _, body in frames(theirs.recv(1 << 20))] == [65_536]


# -- reading


def test_the_inbox_grows_for_one_frame_only():
    read, write = os.pipe()
    inbox = Inbox(read)
    big = SMALL_BYTES * 3
    os.write(write, b"ab" * 30_000)
    end = inbox.more(0, 0, 10)
    assert end == 60_000
    writer = threading.Thread(target=os.write, args=(write, b"c" * (big - 59_998)))
    writer.start()
    end = inbox.more(2, end, big)
    writer.join()
    assert (end, len(inbox.view)) == (big, big)
    assert bytes(inbox.view[:4]) == b"abab"
    assert bytes(inbox.view[59_998:]) == b"c" * (big - 59_998)
    os.write(write, b"next")
    assert inbox.more(big, big, 4) == 4
    assert len(inbox.view) == SMALL_BYTES
    assert bytes(inbox.view[:4]) == b"next"
    os.close(write)
    with pytest.raises(Closed):
        inbox.more(0, 4, 5)
    with pytest.raises(ValueError, match=f"frame of {FRAME_BYTES_MAX + 1} bytes, at most {FRAME_BYTES_MAX} are allowed"):
        inbox.more(0, 4, FRAME_BYTES_MAX + 1)
    os.close(read)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b"\x01\x00\x02\x00a", "extension 1: 2 bytes, but only 1 are left"),
        (b"\x01\x00\x01\x00a\x02", "extension block: 1 stray bytes at its end"),
    ],
)
def test_broken_extension_blocks(block, message):
    with pytest.raises(ValueError, match=message):
        extensions(block)
    assert extensions(b"\x01\x00\x01\x00a\x09\x00\x00\x00") == {1: b"a", 9: b""}
