"""Answers that go out as they come: what the rest of the room sees of a stream, and what HTTP makes of it.

Law of this file: no socket, no connection. A stream is begun before its status is chosen, so that a call which could not be
made is still a plain error; from then on what goes wrong can only be said at its end, or by not ending.
"""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Any, Final, Protocol

from scheduler.errors import SchedulerError
from scheduler.lambda_api.eventstream import CHUNK_BYTES, message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

__all__ = [
    "FUNCTION_FAILED",
    "HTTP_PRELUDE",
    "BodyStream",
    "PreludeBroken",
    "Streamed",
    "after",
    "begin",
    "error_type",
    "event_stream",
    "http_prelude",
]

# TooLarge from an invocation is the answer that was too large: the request was measured before.
FUNCTION_FAILED: Final = ("FunctionError", "Timeout", "SandboxDied", "InitFailed", "TooLarge")
HTTP_PRELUDE: Final = "application/vnd.awslambda.http-integration-response"
PRELUDE_END: Final = b"\0" * 8
PRELUDE_BYTES_MAX: Final = 64 * 1024
_EVENT: Final = {":message-type": "event"}


class Streamed(Protocol):
    """The answer to one call: scheduler.client.streaming.ResponseStream."""

    content_type: str | None  # None: the function does not stream
    report: Mapping[str, Any] | None
    error: SchedulerError | None

    async def begin(self) -> Streamed: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...


class PreludeBroken(Exception):
    """What a function says of its answer cannot be read."""


class BodyStream:
    """A body whose length nobody knows yet. Whoever gets one closes it."""

    def __init__(self, parts: AsyncGenerator[bytes, None], resources: AsyncExitStack) -> None:
        self.parts = parts
        self._resources = resources

    async def aclose(self) -> None:
        async with self._resources, aclosing(self.parts):
            pass


async def begin(opened: AbstractAsyncContextManager[Streamed]) -> tuple[Streamed, AsyncExitStack]:
    """The stream once its answer has begun, and what closes it. SchedulerError: the call was not made."""
    async with AsyncExitStack() as stack:
        stream = await stack.enter_async_context(opened)
        await stream.begin()
        if stream.error is not None and stream.error.type not in FUNCTION_FAILED:
            raise stream.error
        return stream, stack.pop_all()
    raise AssertionError("nothing suppresses an error here")


async def event_stream(stream: Streamed, complete: Callable[[Streamed], dict[str, str]]) -> AsyncGenerator[bytes, None]:
    """AWS's encoding: a PayloadChunk for each piece, then InvokeComplete, which alone can tell of a failure."""
    chunk = {**_EVENT, ":event-type": "PayloadChunk", ":content-type": "application/octet-stream"}
    failure: dict[str, str] = {}
    try:
        async for piece in stream:
            for at in range(0, len(piece), CHUNK_BYTES):
                yield message(chunk, piece[at : at + CHUNK_BYTES])
    except SchedulerError as error:
        failure = {"ErrorCode": error.type, "ErrorDetails": error.message}
        payload = error.payload
        if isinstance(payload, bytes):
            failure["ErrorDetails"] = payload.decode("utf-8", "replace")
            failure["ErrorCode"] = error_type(payload)
    done = json.dumps({**failure, **complete(stream)}).encode()
    yield message({**_EVENT, ":event-type": "InvokeComplete", ":content-type": "application/json"}, done)


def error_type(body: bytes) -> str:
    """Of Lambda's error object."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return "Unhandled"
    return str(found.get("errorType", "Unhandled")) if isinstance(found, dict) else "Unhandled"


async def http_prelude(stream: Streamed) -> tuple[dict[str, Any], bytes]:
    """The JSON in front of a body, and what has come of the body with it. PreludeBroken."""
    data = b""
    async for piece in stream:
        data += piece
        end = data.find(PRELUDE_END)
        if end >= 0:
            try:
                value = json.loads(data[:end])
            except (ValueError, RecursionError):
                raise PreludeBroken from None
            if not isinstance(value, dict):
                raise PreludeBroken
            return value, data[end + len(PRELUDE_END) :]
        if len(data) > PRELUDE_BYTES_MAX:
            break
    raise PreludeBroken


async def after(first: bytes, stream: Streamed) -> AsyncGenerator[bytes, None]:
    """The rest of a body. It raises the call's error where it breaks off."""
    if first:
        yield first
    async for piece in stream:
        yield piece
