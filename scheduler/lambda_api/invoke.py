"""Invoke over HTTP, on the control plane's side.

Law of this file: a request of Invoke to the protocol's `invoke`, and its outcome to Lambda's answer. A function that failed is
an answer of status 200 with a header; a call that never ran is an error. The engine's own HTTP path answers the same requests
the same way; one table of tests runs over both.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from typing import TYPE_CHECKING, Any, Final

from scheduler import limits
from scheduler.functions.names import LATEST
from scheduler.lambda_api.errors import LambdaError
from scheduler.lambda_api.eventstream import stream
from scheduler.lambda_api.rooms import refuse
from scheduler.lambda_api.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scheduler.errors import SchedulerError
    from scheduler.lambda_api.rooms import ApiCall, Rooms

__all__ = ["InvokeOperations"]

# TooLarge from an invocation is the answer that was too large: the request was measured before.
FUNCTION_FAILED: Final = ("FunctionError", "Timeout", "SandboxDied", "InitFailed", "TooLarge")


class InvokeOperations:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def handlers(self) -> dict[str, Callable[[ApiCall], Awaitable[Answer]]]:
        return {"Invoke": self._invoke, "InvokeAsync": self._invoke_async, "InvokeWithResponseStream": self._stream}

    async def _invoke(self, call: ApiCall) -> Answer:
        for refused in ("TenantId", "DurableExecutionName"):
            if refused in call.values:
                raise refuse(f"{refused}: the function is not configured for it")
        version = self._rooms.find_to_invoke(call)
        kind = call.get("InvocationType", "RequestResponse")
        payload = self._checked(
            call.get("Payload", b""), limits.EVENT_BYTES_MAX if kind == "Event" else limits.PAYLOAD_BYTES_MAX
        )
        if kind == "DryRun":
            return Answer(None, 204)
        if version.config.environment.problem is not None:
            problem = await self._rooms.registry.unlock(version.name)
            if problem is not None:
                raise problem
        # By the name that the caller used: which version an alias means is thrown for each call.
        name = str(self._rooms.reference(call))
        trace = call.request.trace()
        if kind == "Event":
            return Answer(None, 202, (("x-amzn-RequestId", await self._rooms.invoker.event(name, payload, trace)),))
        options: dict[str, object] = {"report": True}
        if call.get("LogType") == "Tail":
            options["log_tail"] = True
        if trace:
            options["trace"] = trace
        if "ClientContext" in call.values:
            options["client_context"] = _client_context(call.values["ClientContext"])
        error, result = await self._rooms.invoker.sync(name, payload, options)
        return _answer(error, result, version.version)

    async def _stream(self, call: ApiCall) -> Answer:
        """The whole result as chunks: this service's functions answer at once."""
        answer = await self._invoke(call)
        if answer.status == 204 or not isinstance(answer.body, bytes):
            return answer
        headers = dict(answer.headers)
        complete: dict[str, str] = {}
        if "X-Amz-Log-Result" in headers:
            complete["LogResult"] = headers.pop("X-Amz-Log-Result")
        body = answer.body
        if headers.pop("X-Amz-Function-Error", None) is not None:
            complete |= {"ErrorCode": _error_type(body), "ErrorDetails": body.decode("utf-8", "replace")}
            body = b""
        headers["Content-Type"] = "application/vnd.amazon.eventstream"
        headers["X-Amzn-Remapped-Content-Type"] = "application/json"
        return Answer(b"".join(stream(body, json.dumps(complete).encode())), 200, tuple(headers.items()))

    async def _invoke_async(self, call: ApiCall) -> Answer:
        self._rooms.find_to_invoke(call)
        payload = self._checked(call.get("InvokeArgs", b""), limits.EVENT_BYTES_MAX)
        request_id = await self._rooms.invoker.event(str(self._rooms.reference(call)), payload, None)
        return Answer(None, 202, (("x-amzn-RequestId", request_id),))

    def _checked(self, payload: bytes, limit: int) -> bytes:
        if len(payload) > limit:
            raise LambdaError(
                "RequestTooLargeException", f"Request must be smaller than {limit} bytes for the InvokeFunction operation"
            )
        if not payload:
            return b"{}"
        at = self._rooms.invoker.json_problem(payload)
        if at is not None:
            raise LambdaError(
                "InvalidRequestContentException", f"Could not parse request body into json: not JSON from byte {at} on"
            )
        return payload


def _error_type(body: bytes) -> str:
    with contextlib.suppress(ValueError):
        found = json.loads(body)
        if isinstance(found, dict):
            return str(found.get("errorType", "Unhandled"))
    return "Unhandled"


def _client_context(encoded: str) -> bytes:
    try:
        decoded = base64.b64decode(encoded, validate=True)
        json.loads(decoded)
    except (binascii.Error, ValueError, RecursionError):
        raise LambdaError(
            "InvalidRequestContentException", "Client context must be a valid Base64-encoded JSON object."
        ) from None
    return decoded


def _answer(error: SchedulerError | None, result: Any, version: str) -> Answer:
    headers: list[tuple[str, str]] = []
    report = error.report if error is not None else result[1]
    if error is not None and error.type not in FUNCTION_FAILED:
        raise error
    body = result[0] if error is None else error.payload
    if isinstance(body, str):
        body = body.encode()
    if error is not None:
        headers.append(("X-Amz-Function-Error", "Unhandled"))
        if not isinstance(body, bytes):
            body = json.dumps(body or {"errorType": error.type, "errorMessage": error.message}, separators=(",", ":")).encode()
    report = report or {}
    request_id = report.get("request_id") or (error.request_id if error is not None else None)
    if request_id:
        headers.append(("x-amzn-RequestId", request_id))
    if report.get("log_tail") is not None:
        headers.append(("X-Amz-Log-Result", base64.b64encode(report["log_tail"]).decode()))
    if report.get("trace"):
        headers.append(("X-Amzn-Trace-Id", report["trace"]))
    headers.append(("X-Amz-Executed-Version", report.get("version") or version or LATEST))
    return Answer(body, 200, headers)
