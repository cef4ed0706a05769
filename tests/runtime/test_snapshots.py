"""Snapshots in a process that was not forked from a runtime process: it says so, and goes on without."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys

import pytest

from scheduler.runtime import snapshots
from scheduler.runtime.faults import Fault
from tests.runtime.driver import BOOTSTRAP, READY, SNAPSHOT, start_frame

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


def test_hooks_that_take_too_long_are_stopped_whatever_they_catch(monkeypatch):
    spec = importlib.util.spec_from_file_location(
        "snapshot_restore_py", BOOTSTRAP.parent / "packages" / "snapshot_restore_py.py"
    )
    assert spec is not None
    assert spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", hooks)
    monkeypatch.setattr(snapshots, "RESTORE_HOOKS_MAX_S", 0.02)
    before = signal.getsignal(signal.SIGALRM)
    tries = []

    def stubborn() -> None:
        while True:
            try:
                tries.append(1)
                signal.pause()
            except Exception:
                pass

    hooks.register_after_restore(stubborn)
    with pytest.raises(Fault, match=r"longer than 0\.02 s") as caught:
        snapshots.after_restore()
    assert caught.value.error_type == "SnapStartTimeoutException"
    assert len(tries) == 1
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
