"""What sealed environments and doors to secrets cost a cold start."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from bench.context import Question
from bench.rows import Row, Spread, at_most, info
from scheduler.functions.model import FunctionConfig
from scheduler.functions.sealed import Seals
from scheduler.keyring import Keyring
from scheduler.keys.embedded import EmbeddedKeys
from scheduler.keys.envelopes import Envelopes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.context import Context
    from scheduler.keys.port import DataKey, Generation

TARGET_MS = 0.2
MORE_MS = 1.5
PAUSE_S = 0.06
ENVIRONMENT = {f"VARIABLE_{number:02}": "x" * 110 for number in range(32)}  # 4 KB as Lambda counts it


class _Far:
    """The keyring as if it were far away: what it unwraps is kept by who asked, as with a KMS."""

    kind = "kms"

    def __init__(self, keyring: Keyring) -> None:
        self._near = EmbeddedKeys(keyring)

    async def generate(self, context: Mapping[str, str]) -> DataKey:
        made = await self._near.generate(context)
        return type(made)(made.plain, "kms." + made.wrapped.partition(".")[2])

    async def wrap(self, plain: bytes, context: Mapping[str, str]) -> str:
        return "kms." + (await self._near.wrap(plain, context)).partition(".")[2]

    async def unwrap(self, wrapped: str, context: Mapping[str, str]) -> bytes:
        return await self._near.unwrap("v1." + wrapped.partition(".")[2], context)

    def unwrap_now(self, wrapped: str, context: Mapping[str, str]) -> bytes | None:
        return None

    async def rewrap(self, wrapped: str, context: Mapping[str, str]) -> str:
        return wrapped

    def is_current(self, wrapped: str) -> bool:
        return True

    async def rotate(self) -> str:
        return ""

    async def generations(self) -> list[Generation]:
        return []


async def _open_us(seals: Seals, count: int) -> list[float]:
    """Of an environment of 4 KB, from what is stored to the map."""
    config = FunctionConfig(name="hello", handler="a.b", runtime="python3.11", environment=ENVIRONMENT)  # type: ignore[arg-type]
    stored = await seals.seal(config)
    took = []
    for _ in range(count):
        begun = time.perf_counter()
        opened = await seals.open(stored, "hello")
        took.append((time.perf_counter() - begun) * 1e6)
        assert len(opened) == len(ENVIRONMENT)
    return took


def _decrypt(ctx: Context) -> list[Row]:
    count = ctx.pick(5000, 500)
    with tempfile.TemporaryDirectory() as directory:
        keyring = Keyring.open(Path(directory) / "keyring.json")
        near = trio.run(_open_us, Seals(Envelopes(EmbeddedKeys(keyring))), count)
        kept = trio.run(_open_us, Seals(Envelopes(_Far(keyring))), count)
    rows = []
    for name, took in (("wrapped by the keyring file", near), ("kept from a key server", kept)):
        spread = Spread.of([us / 1000 for us in took])
        ctx.say(f"environment of 4 KB, data key {name}: {spread.median * 1000:.1f} us")
        rows.append(at_most(f"environment of 4 KB decrypted, data key {name}: p50", spread, "ms", TARGET_MS))
    return rows


def _cold(ctx: Context) -> list[Row]:
    """Functions with and without a grant in turns, each called once."""
    count = ctx.pick(60, 12)
    took: dict[str, list[float]] = {"without": [], "with": []}
    with ctx.service(shells_ahead=8) as service:
        for number in range(count):
            service.deploy(f"without{number}")
            service.deploy(f"with{number}", secrets=["db/*"])
        time.sleep(1.0)
        for number in range(count):
            for kind, values in took.items():
                begun = time.monotonic()
                done = service.client.invoke(f"{kind}{number}", b"{}", report=True)
                ms = (time.monotonic() - begun) * 1000
                if done.report is not None and done.report.cold == "shell":
                    values.append(ms)
                time.sleep(PAUSE_S)
    plain, granted = Spread.of(took["without"]), Spread.of(took["with"])
    more = granted.median - plain.median
    ctx.say(f"cold start: {plain.median:.2f} ms, {granted.median:.2f} ms with doors")
    return [
        at_most("cold start with a grant of secrets, more than without one: p50", more, "ms", MORE_MS, raw={"took_ms": took}),
        info("cold start without a grant: p50", plain, "ms"),
    ]


def run(ctx: Context) -> list[Row]:
    return [*_decrypt(ctx), *_cold(ctx)]


QUESTION = Question(
    name="secrets",
    asks="What do sealed environments, and doors to secrets, cost a cold start?",
    how=(
        "An environment of 4 KB is opened from what the store holds, with its data key wrapped by the keyring file, and with "
        "one that was had from a key server before. Then functions with and without granted secrets in turns, each called once "
        "from a pre-warmed shell: the caller's time from send to answer."
    ),
    traps=(
        "The function asks for no secret: this is what the two listeners in its network cost. What a key server takes to "
        "answer is its own affair, and comes once in five minutes for a function."
    ),
    run=run,
)
