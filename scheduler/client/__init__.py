"""The client library: `open_client` for trio programs, `BlockingClient` for all others.

    async with open_client("/run/scheduler/scheduler.sock") as client:
        done = await client.invoke("hello", b'{"name": "you"}', report=True)

    with BlockingClient("/run/scheduler/scheduler.sock") as client:
        print(client.invoke_json("hello", {"name": "you"}))

Errors are those of scheduler.errors, and ConnectionLost and CannotConnect of this package (both `Unavailable`).
Names are imported when first used: a program that blocks does not pay for importing trio.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from scheduler.client.aio import Client, open_client
    from scheduler.client.blocking import BlockingClient
    from scheduler.client.model import (
        Account,
        Distribution,
        FunctionDescription,
        FunctionStats,
        Hello,
        Invocation,
        LogChunk,
        Report,
        ResourceUse,
        ServiceStats,
    )
    from scheduler.client.session import CannotConnect, ConnectionLost
    from scheduler.client.streaming import ResponseStream

__all__ = [
    "Account",
    "BlockingClient",
    "CannotConnect",
    "Client",
    "ConnectionLost",
    "Distribution",
    "FunctionDescription",
    "FunctionStats",
    "Hello",
    "Invocation",
    "LogChunk",
    "Report",
    "ResourceUse",
    "ResponseStream",
    "ServiceStats",
    "open_client",
]

_HOMES: Final = {
    "Client": "aio",
    "open_client": "aio",
    "BlockingClient": "blocking",
    "CannotConnect": "session",
    "ConnectionLost": "session",
    "ResponseStream": "streaming",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'model')}"), name)
