"""A process to be killed: writes into a store and says on its standard output what was acknowledged, a line each, at once.

python -m tests.store.crash_child events PATH SEED
python -m tests.store.crash_child functions PATH SEED
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import trio

from scheduler.config import load
from scheduler.functions.model import CodeKind, CodeRef
from scheduler.functions.registry import FunctionRegistry
from scheduler.store.events import SqliteEventQueue
from scheduler.store.port import Event
from scheduler.store.registry import SqliteRegistry
from scheduler.store.sqlite import open_store
from tests.functions.sealing import SEALS

NAMES = ("alpha", "beta", "gamma")
RUNTIMES = ("python3.12",)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def code(number: int) -> CodeRef:
    sha256 = f"{number:064x}"
    return CodeRef(sha256, number + 1, CodeKind.ZIP, sha256)


async def events(path: Path, seed: int) -> None:
    async with open_store(path) as store:
        queue = await SqliteEventQueue.load(store, count_max=100_000, bytes_max=1 << 30)

        async def put(first: int) -> None:
            for number in range(first, 1_000_000, 4):
                await queue.put(Event(id=f"{seed}-{number}", function="f", payload=b"x" * (number % 997), created_ms=0))
                say("put", f"{seed}-{number}")

        async def work() -> None:
            while True:
                for lease in await queue.take(3, 1):
                    if int(lease.event.id.split("-")[1]) % 3 == 0:
                        say("ending", lease.event.id)
                        await queue.done(lease.event.id)
                        say("done", lease.event.id)
                    else:
                        await queue.retry(lease, 3600)
                        say("retry", lease.event.id)

        say("ready")
        async with trio.open_nursery() as nursery:
            for first in range(4):
                nursery.start_soon(put, first)
            nursery.start_soon(work)


async def functions(path: Path, seed: int) -> None:
    """Each name has its own task, so that what is acknowledged of a name is in order. "try" comes before, "ok" after."""
    async with open_store(path) as store:
        registry = await FunctionRegistry.load(SqliteRegistry(store), load(), runtimes=RUNTIMES, seals=SEALS)

        async def change(name: str) -> None:
            chance = random.Random(f"{seed}-{name}")
            for step in range(1_000_000):
                if name not in registry or chance.random() < 0.5:
                    publish = chance.random() < 0.5
                    say("try", name, "deploy", step)
                    fields = {"name": name, "handler": "app.handler", "description": str(step)}
                    deployed = await registry.deploy(fields, code(step), publish=publish)
                    say("ok", name, "deploy", step, deployed.latest.revision_id, deployed.latest.revision)
                elif chance.random() < 0.8:
                    say("try", name, "publish", step)
                    published = await registry.publish(name)
                    say("ok", name, "publish", step, published.version)
                else:
                    say("try", name, "remove", step)
                    await registry.remove(name)
                    say("ok", name, "remove", step)

        say("ready")
        async with trio.open_nursery() as nursery:
            for name in NAMES:
                nursery.start_soon(change, name)


if __name__ == "__main__":
    trio.run({"events": events, "functions": functions}[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3]))
