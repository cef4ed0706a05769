"""What the console shows: /metrics, /healthz, /readyz, and counters as JSON under /debug.

Law of this file: each page is a row; it asks for one snapshot and formats it. Formatting runs in a worker thread, so that a
scrape of a thousand functions does not hold up a deployment, and calls never meet it at all.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import trio
from prometheus_client.exposition import choose_encoder

from scheduler.console.http import Reply, Request
from scheduler.metrics import registry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from scheduler.metrics import Scrape

__all__ = ["Pages"]

RENDERS_AT_ONCE_MAX = 2


class Pages:
    """scrape: takes one snapshot. not_ready: why a call would not run now, or None. debug: name of a page and what it shows."""

    def __init__(
        self,
        *,
        scrape: Callable[[], Awaitable[Scrape]],
        not_ready: Callable[[], str | None],
        debug: Mapping[str, Callable[[], Awaitable[object]]],
    ) -> None:
        self._scrape = scrape
        self._not_ready = not_ready
        self._debug = debug
        self._renders = trio.CapacityLimiter(RENDERS_AT_ONCE_MAX)

    def routes(self) -> dict[str, Callable[[Request], Awaitable[Reply]]]:
        pages: dict[str, Callable[[Request], Awaitable[Reply]]] = {
            "/": self._index,
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
        }
        pages.update((f"/debug/{name}", self._json(source)) for name, source in self._debug.items())
        return pages

    async def _index(self, request: Request) -> Reply:
        return Reply(200, "".join(f"{path}\n" for path in self.routes()).encode())

    async def _metrics(self, request: Request) -> Reply:
        scrape = await self._scrape()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        body = await trio.to_thread.run_sync(lambda: encode(registry(scrape)), limiter=self._renders)
        return Reply(200, body, content_type)

    async def _healthz(self, request: Request) -> Reply:
        """The control plane answers: that is all it says."""
        return Reply(200, b"ok\n")

    async def _readyz(self, request: Request) -> Reply:
        why = self._not_ready()
        return Reply(200, b"ready\n") if why is None else Reply(503, f"{why}\n".encode())

    def _json(self, source: Callable[[], Awaitable[object]]) -> Callable[[Request], Awaitable[Reply]]:
        async def page(request: Request) -> Reply:
            value = await source()
            body = await trio.to_thread.run_sync(lambda: json.dumps(value, indent=1).encode(), limiter=self._renders)
            return Reply(200, body + b"\n", "application/json")

        return page
