"""The loop on a clock of the test's own: in which order it claims and looks, and when it sends what has gathered."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from scheduler.runtime import loop
from scheduler.runtime.channel import Channel, Inbox
from scheduler.runtime.context import Identity, LambdaContext
from scheduler.runtime.frames import (
    HANDBACK,
    PAGE_BYTES,
    PROGRESS_WORD,
    RESULT,
    SHELF_AT,
    SHELF_BYTES_WORD,
    SHELF_GENERATION_WORD,
)
from tests.runtime.driver import HEADER, STOP, call_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

IDENTITY = Identity("f", "1", "arn", 128, 3_000_000_000, "g", "s")


class Clock:
    """Stands still but for what calls add to it. `trace` has what happened, in order."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000
        self.trace: list[Any] = []
        self.words = {SHELF_GENERATION_WORD: 0, SHELF_BYTES_WORD: 0}
        self.shelf = bytearray(PAGE_BYTES - SHELF_AT)

    def __call__(self) -> int:
        self.trace.append("look")
        return self.now_ns

    # As the words of the shared page.

    def __setitem__(self, index: int, value: int) -> None:
        if index == PROGRESS_WORD:
            self.trace.append(("claim", value))
        else:
            self.words[index] = value

    def __getitem__(self, index: int) -> int:
        return self.words[index]

    def on_shelf(self) -> list[int]:
        """Seqs of the answers there."""
        found, at = [], 0
        while at < self.words[SHELF_BYTES_WORD]:
            length, _, _, _, seq, _, _ = HEADER.unpack_from(self.shelf, at)
            found.append(seq)
            at += HEADER.size + length
        assert at == self.words[SHELF_BYTES_WORD]
        return found


class Watched(Channel):
    """Notes the seqs of the answers of each flush that has some."""

    __slots__ = ("flushes",)

    def __init__(self, fd: int, clock: Clock) -> None:
        super().__init__(fd, clock)  # type: ignore[arg-type]
        self.flushes: list[list[int]] = []

    def flush(self) -> None:
        if self.answers:
            self.flushes.append([HEADER.unpack_from(answer)[4] for answer in self.answers])
        super().flush()


def run(monkeypatch: pytest.MonkeyPatch, clock: Clock, calls: Sequence[bytes], handler: Callable[[Any, Any], Any]) -> Watched:
    monkeypatch.setattr(loop, "_monotonic_ns", clock)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"".join(calls) + HEADER.pack(0, STOP, 0, 0, 0, 0, 0))
        channel = Watched(ours.fileno(), clock)
        context_type = LambdaContext.bound(IDENTITY, channel.print)
        loop.serve(channel, Inbox(ours.fileno()), 0, memoryview(clock.shelf), handler, context_type, loop.Current())
        return channel


def numbered(count: int) -> list[bytes]:
    return [call_frame(seq, b"%d" % seq) for seq in range(1, count + 1)]


def test_claim_then_look_then_run(monkeypatch):
    clock = Clock()
    calls = [
        call_frame(1, b"1", valid_until_ns=clock.now_ns),  # not past it yet
        call_frame(2, b"2", valid_until_ns=clock.now_ns - 1),
        call_frame(3, b"3"),
    ]
    channel = run(monkeypatch, clock, calls, lambda event, _: clock.trace.append(("run", event)))
    assert clock.trace == [
        ("claim", 1), "look", ("run", 1), "look",
        ("claim", 2), "look",
        ("claim", 3), "look", ("run", 3), "look",
    ]  # fmt: skip
    assert channel.flushes == [[1, 2], [3]]  # what is handed back does not wait for the next call's end


def test_quick_calls_gather_until_the_first_answer_is_100_us_old(monkeypatch):
    clock = Clock()

    def handler(event: int, _: object) -> None:
        clock.now_ns += 30_000

    channel = run(monkeypatch, clock, numbered(12), handler)
    # Answer 1 is ready at 30 µs; the one at 150 µs is the first that finds it more than 100 µs old.
    assert channel.flushes == [[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12]]


@pytest.mark.parametrize(
    ("slow", "slow_ns", "flushes"),
    [
        pytest.param({3}, 100_001, [[1, 2, 3], list(range(4, 270))], id="one alone"),
        pytest.param({3, 68}, 100_001, [[1, 2, 3], list(range(4, 69)), list(range(69, 270))], id="two far apart"),
        pytest.param(
            {3, 6}, 100_001, [[1, 2, 3], [4, 5, 6], *([s] for s in range(7, 262)), list(range(262, 270))], id="two near"
        ),
        pytest.param({3}, 10_000_001, [[1, 2, 3], *([s] for s in range(4, 259)), list(range(259, 270))], id="one long"),
    ],
)
def test_where_calls_are_slow_answers_go_out_one_by_one(monkeypatch, slow, slow_ns, flushes):
    clock = Clock()

    def handler(event: int, _: object) -> None:
        clock.now_ns += slow_ns if event in slow else 0

    assert run(monkeypatch, clock, numbered(269), handler).flushes == flushes


def test_a_long_answer_goes_out_at_once(monkeypatch):
    channel = run(monkeypatch, Clock(), numbered(4), lambda event, _: "x" * 20_000 if event in (1, 3) else event)
    assert channel.flushes == [[1], [2, 3], [4]]


def test_answers_that_wait_lie_on_the_shelf_while_the_next_call_runs(monkeypatch):
    clock = Clock()
    seen = []

    def handler(event: int, _: object) -> None:
        seen.append((event, clock.on_shelf(), clock.words[SHELF_GENERATION_WORD]))
        clock.now_ns += 30_000

    run(monkeypatch, clock, numbered(7), handler)
    assert seen == [(1, [], 0), (2, [1], 0), (3, [1, 2], 0), (4, [1, 2, 3], 0), (5, [1, 2, 3, 4], 0), (6, [], 1), (7, [6], 1)]
    assert clock.on_shelf() == []


def test_a_full_shelf_sends_what_gathered(monkeypatch):
    clock = Clock()
    channel = run(monkeypatch, clock, numbered(6), lambda event, _: "x" * 12_000)
    assert channel.flushes == [[1, 2, 3], [4, 5, 6]]


def test_a_print_takes_the_answers_along_and_empties_the_shelf(monkeypatch):
    clock = Clock()
    seen = []

    def handler(event: int, context: Any) -> None:
        if event == 3:
            context.log("here\n")
        seen.append(clock.on_shelf())

    run(monkeypatch, clock, numbered(4), handler)
    assert seen == [[], [1], [], [3]]


def test_frames_of_all_kinds(monkeypatch):
    """What is written for a result and for a handback, byte by byte."""
    clock = Clock()
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(loop, "_monotonic_ns", clock)
    with ours, theirs:
        stop = HEADER.pack(0, STOP, 0, 0, 0, 0, 0)
        theirs.sendall(call_frame(5, b'"x"') + call_frame(6, b"1", valid_until_ns=1) + stop)
        channel = Channel(ours.fileno(), clock)  # type: ignore[arg-type]
        context_type = LambdaContext.bound(IDENTITY, channel.print)
        shelf = memoryview(clock.shelf)
        loop.serve(channel, Inbox(ours.fileno()), 0, shelf, lambda e, c: e, context_type, loop.Current())
        now = clock.now_ns
        assert theirs.recv(1000) == (
            HEADER.pack(11, RESULT, 0, 0, 5, 0, now)
            + now.to_bytes(8, "little")
            + b'"x"'
            + HEADER.pack(0, HANDBACK, 0, 0, 6, 0, 0)
        )
