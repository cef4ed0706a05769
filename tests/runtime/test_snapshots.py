"""Snapshots in a process that was not forked from a runtime process: it says so, and goes on without."""

from __future__ import annotations

import json

import pytest

from tests.runtime.driver import READY, SNAPSHOT, start_frame

HELLO = """
print("init")
def handler(event, context):
    return event
"""


def test_a_maker_without_images_answers_with_the_reason_and_exits(sandbox):
    box = sandbox(HELLO)
    box.send(start_frame(box.directory, snapshot="take"))
    frame = box.next()
    assert (frame.kind, frame.flags) == (SNAPSHOT, 0)
    answer = json.loads(frame.body)
    assert answer["bytes"] == 0
    assert answer["init_ns"] > 0
    assert "not forked" in answer["reason"]
    assert box.text() == "init\n"
    assert box.wait() == (0, "")


def test_a_sandbox_without_images_says_that_it_was_initialised_instead(sandbox):
    box = sandbox(HELLO)
    box.send(start_frame(box.directory, snapshot="restore"))
    frame = box.next()
    assert frame.kind == READY
    assert frame.body[8] == 2
    assert "not forked" in frame.body[9:].decode()
    assert box.call(5).value == 5


@pytest.mark.parametrize("value", ["make", 1, []])
def test_start_with_another_word_for_snapshot_is_refused(sandbox, value):
    box = sandbox(HELLO)
    box.send(start_frame(box.directory, snapshot=value))
    with pytest.raises(EOFError, match="snapshot is"):
        box.next()
