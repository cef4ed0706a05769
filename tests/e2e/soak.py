"""A mixed load on a whole service, and the books afterwards. tests/e2e/test_soak.py runs it for seconds; by hand for as long as
one likes, with what the service's process used, minute by minute:

    python -m tests.e2e.soak SECONDS [SEED]

Law of this file: every request is entered when it is sent and struck out when it is answered. What may go unanswered is a
running call that its caller cancelled, and what was sent on a connection that its caller closed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack
import trio

from scheduler.client import open_client
from tests.e2e.serving import RUNTIME, Served, alive, descendants

if TYPE_CHECKING:
    from collections.abc import Iterator

ECHO = "MARK = {mark}\ndef handler(event, context):\n    return event\n"
SOURCES = {
    "fast": ECHO.format(mark=0),
    "slow": "import time\ndef handler(event, context):\n    time.sleep(event)\n    return event\n",
    "failing": "def handler(event, context):\n    raise ValueError(event)\n",
    "exiting": "import os\ndef handler(event, context):\n    if event % 7 == 3:\n        os._exit(event)\n    return event\n",
    "printing": "def handler(event, context):\n    print('x' * event)\n    return event\n",
    "broken": "raise RuntimeError('no')\n",
}
SHELLS = 2
VOLUMES = 4  # scratch_ahead

__all__ = ["RUNTIME", "SHELLS", "Soak", "belongings", "deploy", "remove_all", "serve", "what_stayed"]


class Line:
    """One connection. An answer nobody waits for, or a second one, is noted in `wrong`."""

    def __init__(self, stream: trio.SocketStream, wrong: list[str]) -> None:
        self.stream = stream
        self.wrong = wrong
        self.ids = itertools.count(1)
        self.pending: dict[int, trio.Event] = {}
        self.answers: dict[int, tuple[dict | None, object]] = {}
        self.unanswered_ok: set[int] = set()
        self.answered = trio.Event()

    async def read(self) -> None:
        unpacker = msgpack.Unpacker(raw=False, max_buffer_size=64 << 20)
        while data := await self.stream.receive_some(1 << 18):
            unpacker.feed(bytes(data))
            for kind, msgid, error, result in unpacker:
                waiting = self.pending.pop(msgid, None)
                if kind != 1 or waiting is None:
                    self.wrong.append(f"an answer nobody waits for: {msgid} {error}")
                    continue
                self.answers[msgid] = (error, result)
                waiting.set()
                self.answered.set()
                self.answered = trio.Event()

    async def send(self, method: str, *params: object) -> int:
        msgid = next(self.ids)
        self.pending[msgid] = trio.Event()
        await self.stream.send_all(msgpack.packb([0, msgid, method, list(params)]))
        return msgid

    async def cancel(self, msgid: int) -> None:
        self.unanswered_ok.add(msgid)
        await self.stream.send_all(msgpack.packb([2, "cancel", [msgid]]))

    async def wait(self, msgid: int) -> tuple[dict | None, object]:
        waiting = self.pending.get(msgid)
        if waiting is not None:
            await waiting.wait()
        return self.answers.pop(msgid)

    async def call(self, method: str, *params: object) -> tuple[dict | None, object]:
        return await self.wait(await self.send(method, *params))


@dataclass
class Books:
    wrong: list[str] = field(default_factory=list)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # (function, outcome)
    deploys: int = 0
    scrapes: int = 0
    cancels: int = 0
    connections: int = 0
    events: int = 0

    def enter(self, function: str, error: dict | None, allowed: tuple[str, ...]) -> None:
        self.outcomes[function, "ok" if error is None else error["type"]] += 1
        if error is not None and error["type"] not in allowed:
            self.wrong.append(f"{function}: {error}")


class Soak:
    def __init__(self, served: Served, seed: int) -> None:
        self.served = served
        self.chance = random.Random(seed)
        self.books = Books()
        self.over = trio.Event()

    @asynccontextmanager
    async def line(self):
        stream = trio.SocketStream(trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM))
        await stream.socket.connect(self.served.socket)
        self.books.connections += 1
        made = Line(stream, self.books.wrong)
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(made.read)
            yield made
            nursery.cancel_scope.cancel()

    # ---- who does what ----

    async def steady(self, function: str, payloads, in_flight: int, *allowed: str) -> None:
        """in_flight calls at a time until it is over; then every one of them is answered."""
        async with self.line() as line:
            waiting: list[tuple[int, bytes]] = []
            while not self.over.is_set() or waiting:
                while len(waiting) < in_flight and not self.over.is_set():
                    payload = payloads()
                    waiting.append((await line.send("invoke", function, payload), payload))
                msgid, payload = waiting.pop(0)
                error, result = await line.wait(msgid)
                self.books.enter(function, error, allowed)
                if error is None and result[0] != payload:
                    self.books.wrong.append(f"{function}: another call's answer: {result[0][:40]!r} to {payload[:40]!r}")

    async def deployer(self) -> None:
        """New code for `fast` under load, and functions that live for two calls."""
        source = self.served.state_dir / "sources" / "deployed.py"
        async with open_client(self.served.socket) as client, self.line() as line:
            for n in itertools.count():
                if self.over.is_set():
                    return
                source.write_text(ECHO.format(mark=n))
                await client.deploy(source, name="fast", handler="app.handler")
                name = f"brief{n % 5}"
                await client.deploy(source, name=name, handler="app.handler", publish=n % 3 == 0, tenant=f"t{n % 2}-{name}")
                first, second = await line.send("invoke", name, b"1"), await line.send("invoke", name, b"2")
                for msgid in (first, second):
                    error, _ = await line.wait(msgid)
                    self.books.enter("brief", error, ())
                third = await line.send("invoke", name, b"3")
                await client.remove(name)
                error, _ = await line.wait(third)
                self.books.enter("removed", error, ("NotFound", "SandboxDied"))
                self.books.deploys += 2
                await trio.sleep(0.05)  # pace, not synchronisation

    async def canceller(self) -> None:
        """Cancels at every moment of a call's life. A last call behind all of them shows that none is still to come."""
        while not self.over.is_set():
            async with self.line() as line:
                sent = []
                for _ in range(self.chance.randrange(1, 20)):
                    msgid = await line.send("invoke", "slow", b"0.01")
                    sent.append(msgid)
                    if self.chance.random() < 0.6:
                        await trio.sleep(self.chance.random() * 0.01)  # any moment of the call's life
                        await line.cancel(msgid)
                        self.books.cancels += 1
                for msgid in sent:
                    if msgid not in line.unanswered_ok:
                        error, _ = await line.wait(msgid)
                        self.books.enter("slow", error, ())
                    elif msgid in line.answers and (error := line.answers[msgid][0]) is not None:
                        self.books.enter("cancelled", error, ("Cancelled",))

    async def churner(self) -> None:
        """Connections that go away in the middle of everything."""
        while not self.over.is_set():
            stream = trio.SocketStream(trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM))
            async with stream:
                await stream.socket.connect(self.served.socket)
                self.books.connections += 1
                data = b"".join(
                    msgpack.packb([0, n, "invoke", [self.chance.choice(["fast", "slow", "printing"]), b"0"]])
                    for n in range(self.chance.randrange(0, 6))
                )
                await stream.send_all(data[: self.chance.randrange(len(data) + 1)])
                if self.chance.random() < 0.5:
                    await trio.sleep(self.chance.random() * 0.01)  # any moment

    async def scraper(self) -> None:
        while not self.over.is_set():
            for path in ("/metrics", "/debug/stats", "/debug/accounts", "/debug/sandboxes", "/readyz", "/nothing"):
                status, _ = await trio.to_thread.run_sync(self.served.get, path)
                if status != (404 if path == "/nothing" else 200):
                    self.books.wrong.append(f"{path}: {status}")
                self.books.scrapes += 1
            await trio.sleep(0.1)  # pace

    async def eventer(self) -> None:
        async with self.line() as line:
            while not self.over.is_set():
                error, _ = await line.call("invoke", "fast", b'"event"', {"type": "event"})
                self.books.enter("event", error, ())
                self.books.events += error is None
                await trio.sleep(0.005)  # pace

    def large(self) -> bytes:
        return json.dumps("y" * self.chance.choice([10, 40_000, 400_000])).encode()

    def whole(self, low: int, high: int):
        return lambda: str(self.chance.randrange(low, high)).encode()

    # ---- the run ----

    async def run(self, seconds: float, minute=lambda: None) -> None:
        async with trio.open_nursery() as nursery:
            for in_flight in (1, 16, 64):
                nursery.start_soon(self.steady, "fast", self.whole(0, 10**6), in_flight)
            nursery.start_soon(self.steady, "fast", self.large, 2)
            nursery.start_soon(self.steady, "slow", lambda: b"0.02", 4)
            nursery.start_soon(self.steady, "failing", self.whole(0, 9), 4, "FunctionError")
            nursery.start_soon(self.steady, "exiting", self.whole(0, 200), 8, "SandboxDied")
            nursery.start_soon(self.steady, "printing", self.whole(0, 3000), 4)
            nursery.start_soon(self.steady, "broken", self.whole(0, 9), 1, "InitFailed")
            for role in (self.deployer, self.canceller, self.churner, self.churner, self.scraper, self.eventer):
                nursery.start_soon(role)
            end = trio.current_time() + seconds
            while trio.current_time() < end:
                await trio.sleep(min(60.0, end - trio.current_time()))
                minute()
            self.over.set()
            # Whoever is still owed an answer would wait for ever.
            nursery.cancel_scope.deadline = trio.current_time() + 30
        if nursery.cancel_scope.cancelled_caught:
            self.books.wrong.append("30 s after the end a call was still not answered")


# ---- the service's belongings -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Belongings:
    """Of the service's process and of those below it. descriptors: by what they are."""

    descriptors: Counter[str]
    processes: int
    children_descriptors: Counter[str]
    rss_mb: float


def rss_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def targets(pid: int) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError):  # it has ended
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                yield os.readlink(f"/proc/{pid}/fd/{entry}")


def descriptors(pid: int) -> Counter[str]:
    found: Counter[str] = Counter()
    for where in targets(pid):
        numbered = where.startswith(("socket", "pipe", "anon_inode"))
        found[where.split(":")[0] if numbered else os.path.basename(where)] += 1
    return found


def kept(pid: int) -> Counter[str]:
    """Of a process below the service. What tells of a place's memory stays with the place, once it was used; what a volume is
    made of has numbers for names."""
    found: Counter[str] = Counter()
    for where in targets(pid):
        name = where.split(":[")[0] if where.startswith(("socket", "pipe")) else os.path.basename(where)
        if where != "anon_inode:[eventfd]":
            found["of a volume" if name.isdigit() or name.startswith("#") else name] += 1
    return found


def volumes(served: Served) -> int:
    """Of /tmp on disk: loop devices on files of this service. None where that cannot be had."""
    below = f"{served.state_dir.resolve()}/"
    count = 0
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # it is being let go of
            count += path.read_text().startswith(below)
    return count


def belongings(served: Served) -> Belongings:
    family = descendants(served.process.pid) - {served.process.pid}
    return Belongings(
        descriptors(served.process.pid),
        len(family),
        sum((kept(pid) for pid in family), Counter()),
        rss_mb(served.process.pid),
    )


def what_stayed(served: Served) -> str:
    """Of sandboxes that should be gone: what the supervisor, the core, the kernel and the log say."""
    shown = [{**one, "process": "alive" if one["pid"] and alive(one["pid"]) else "none"} for one in served.sandboxes()]
    stats = json.loads(served.get("/debug/stats")[1])
    functions = {one["name"]: one["sandboxes"] for one in stats["functions"]}
    log = [line for line in served.drain_log() if line.get("level") in ("warning", "error")][-10:]
    return f"sandboxes {shown}\ncore: {functions} {stats['totals']}\nlog: {log}"


def serve(directory: Path) -> Served:
    return Served(directory, shells_ahead=SHELLS, shells_max=SHELLS, concurrency_max=1000, queue_timeout_ms=20_000)


def deploy(served: Served) -> None:
    for name, source in SOURCES.items():
        served.deploy(name, source, timeout_s=20, queue_timeout_ms=20_000, memory_mb=128)


def remove_all(served: Served) -> None:
    with served.client() as client:
        for function in list(client.list()):
            client.remove(function.name)


def main() -> None:
    seconds, seed = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory(prefix="scheduler-soak-") as name, serve(Path(name) / "state") as served:
        deploy(served)
        soak = Soak(served, seed)
        begun = time.monotonic()

        def minute() -> None:
            own = belongings(served)
            stats = json.loads(served.get("/debug/stats")[1])
            print(
                f"{time.monotonic() - begun:6.0f} s  rss {own.rss_mb:6.1f} MB  descriptors {sum(own.descriptors.values())}  "
                f"processes {own.processes}  answers {stats['totals']['answers']:,}  calls {stats['totals']['calls']}  "
                f"turn max {stats['loop']['turn_ns_max'] / 1e6:.1f} ms  loop cpu {stats['loop']['cpu_ns'] / 1e9:.1f} s",
                flush=True,
            )

        trio.run(soak.run, seconds, minute)
        books = soak.books
        print("wrong:", books.wrong[:20] or "nothing")
        print("outcomes:", dict(books.outcomes))
        print(f"deploys {books.deploys}, scrapes {books.scrapes}, cancels {books.cancels}, connections {books.connections}")
        remove_all(served)
        print(served.get("/debug/stats")[1])
        print([line for line in served.drain_log() if line.get("level") in ("warning", "error")][-20:])


if __name__ == "__main__":
    main()
