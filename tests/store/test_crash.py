"""kill -9 at a random moment, for real: what was acknowledged is there afterwards, and nothing is half there."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.config import load
from scheduler.functions.records import VERSION_PREFIX
from scheduler.functions.registry import FunctionRegistry
from scheduler.store.events import SqliteEventQueue
from scheduler.store.registry import SqliteRegistry
from scheduler.store.sqlite import open_store
from tests.functions.sealing import SEALS
from tests.store.crash_child import NAMES, RUNTIMES, code

ROOT = Path(__file__).resolve().parents[2]


def run_and_kill(what: str, path: Path, seed: int, lines: int) -> list[list[str]]:
    """Starts the child, kills it once it has said so many lines, and gives all that it said."""
    command = [sys.executable, "-m", "tests.store.crash_child", what, str(path), str(seed)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        said += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL, b"".join(said)[-2000:]
    # A line that was cut by the kill was not said.
    return [line.decode().split() for line in said if line.endswith(b"\n")]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_acknowledged_events_survive(tmp_path, seed):
    path = tmp_path / "store" / "x.db"
    put, ending, done, retried = set(), set(), set(), set()
    for round_ in range(2):
        lines = random.Random(f"{seed}-{round_}").randrange(20, 800)
        for words in run_and_kill("events", path, seed * 10 + round_, lines):
            {"put": put, "ending": ending, "done": done, "retry": retried, "ready": set()}[words[0]].add(words[-1])
    assert put
    async with open_store(path) as store:
        queue = await SqliteEventQueue.load(store, count_max=100_000, bytes_max=1 << 30)
        kept = {event_id for (event_id,) in await store.read(lambda db: db.execute("SELECT id FROM events").fetchall())}
        assert put - ending <= kept, "an acknowledged event is lost"
        assert not kept & done, "a finished event came back"
        there: set[str] = set()
        while leases := await queue.take(256, 0):
            there |= {lease.event.id for lease in leases}
            assert all(len(lease.event.payload) == int(lease.event.id.split("-")[1]) % 997 for lease in leases)
        assert there <= kept
        assert not there & retried, "a delayed event came early"
        assert len(kept - there) <= len(retried) + 2 * 3, "more is delayed than was: of each round's last take it may be untold"
        assert (await store.read(lambda db: db.execute("PRAGMA integrity_check").fetchone())) == ("ok",)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
async def test_acknowledged_deployments_survive(tmp_path, seed):
    path = tmp_path / "store" / "x.db"
    lines = random.Random(seed).randrange(10, 400)
    said = run_and_kill("functions", path, seed, lines)
    async with open_store(path) as store:
        registry = await FunctionRegistry.load(SqliteRegistry(store), load(), runtimes=RUNTIMES, seals=SEALS)
        for name in NAMES:
            of_name = [words for words in said if words[0] in ("try", "ok") and words[1] == name]
            acknowledged = [words for words in of_name if words[0] == "ok"]
            # The last attempt may have been applied without being told.
            pending = of_name[-1] if of_name and of_name[-1][0] == "try" else None
            deployed = [words for words in acknowledged if words[2] in ("deploy", "remove")]
            if pending is not None and pending[2] == "remove" and name not in registry:
                continue
            if pending is not None and pending[2] == "deploy" and name in registry:
                latest = registry.get(name)
                if latest.config.description == pending[3]:
                    assert latest.code == code(int(pending[3]))
                    continue
            if not deployed or deployed[-1][2] == "remove":
                assert name not in registry
                continue
            latest = registry.get(name)
            _, _, _, step, revision_id, revision = deployed[-1]
            assert (latest.revision_id, str(latest.revision), latest.config.description) == (revision_id, revision, step)
            assert latest.code == code(int(step))
            since_birth = acknowledged[max((i for i, w in enumerate(acknowledged) if w[2] == "remove"), default=-1) + 1 :]
            versions = {version.version for version in registry.versions(name)}
            assert {words[4] for words in since_birth if words[2] == "publish"} <= versions
            numbers = [int(version) for version in sorted(versions, key=int)]
            assert numbers == list(range(1, len(numbers) + 1)), "a number was skipped or given twice"
        # A version that nobody names may be left by the crash: at most one for each name that was being changed.
        stored = await SqliteRegistry(store).list(VERSION_PREFIX)
        named = sum(len(registry.versions(name)) for name in NAMES if name in registry)
        removed = sum(words[2] == "remove" for words in said if words[0] == "try")
        assert named <= len(stored)
        if not removed:
            assert len(stored) <= named + len(NAMES)
