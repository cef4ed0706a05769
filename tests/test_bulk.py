"""Threads that stand back."""

from __future__ import annotations

import os
import threading

import pytest
import trio

from scheduler.bulk import in_bulk, stand_back


def policy() -> tuple[int, int]:
    return threading.get_native_id(), os.sched_getscheduler(0)


async def test_a_thread_stands_back_for_as_long_as_it_works():
    if not await trio.to_thread.run_sync(lambda: stand_back(True) and stand_back(False)):
        pytest.skip("this kernel has no sched_setattr for such threads")
    worker, during = await in_bulk(policy)
    assert during == os.SCHED_BATCH
    again, after = await trio.to_thread.run_sync(policy)  # trio gives the same thread once more
    assert (again, after) == (worker, os.SCHED_OTHER)
    assert policy()[1] == os.SCHED_OTHER


async def test_what_it_raises_comes_through_and_leaves_the_thread_as_it_was():
    def fails():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await in_bulk(fails)
    assert (await trio.to_thread.run_sync(policy))[1] == os.SCHED_OTHER
