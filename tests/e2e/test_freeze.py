"""`freeze = on`: between calls nothing of a function runs, and a call is answered all the same."""

from __future__ import annotations

import json
import os
import time
from itertools import pairwise

import pytest

from tests.e2e.serving import ISOLATION

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TICKING = """
import threading, time
ticks = 0
def count():
    global ticks
    while True:
        ticks += 1
        time.sleep(0.001)
threading.Thread(target=count, daemon=True).start()
def handler(event, context):
    return ticks
"""


@pytest.mark.skipif(ISOLATION == "process" or os.geteuid() != 0, reason="needs control groups")
def test_a_function_stands_still_between_calls_and_loses_none(served, raw):
    counted = {}
    for freeze in ("off", "on"):
        served.deploy(f"ticks-{freeze}", TICKING, freeze=freeze)
        ticks = []
        for _ in range(3):
            ticks.append(int(json.loads(raw.invoke(f"ticks-{freeze}")[1][0])))
            time.sleep(0.8)  # told after 100 ms, seen within another 100
        counted[freeze] = min(b - a for a, b in pairwise(ticks))
        assert len(served.sandboxes(f"ticks-{freeze}")) == 1
    assert counted["on"] < counted["off"] * 0.8, counted
