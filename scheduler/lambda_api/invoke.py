"""Invoke over HTTP, on the control plane's side.

Law of this file: a request of Invoke to the protocol's `invoke`, and its outcome to Lambda's answer. A function that failed is
an answer of status 200 with a header; a call that never ran is an error. The engine's own HTTP path answers the same requests
the same way; one table of tests runs over both.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import TYPE_CHECKING, Any

from scheduler import limits
from scheduler.functions.names import LATEST
from scheduler.lambda_api.errors import LambdaError
from scheduler.lambda_api.rooms import refuse
from scheduler.lambda_api.streamed import FUNCTION_FAILED, BodyStream, begin, event_stream
from scheduler.lambda_api.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scheduler.errors import SchedulerError
    from scheduler.functions.model import FunctionVersion
    from scheduler.lambda_api.rooms import ApiCall, Rooms
    from scheduler.lambda_api.streamed import Streamed

__all__ = ["InvokeOperations"]


class InvokeOperations:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def handlers(self) -> dict[str, Callable[[ApiCall], Awaitable[Answer]]]:
        return {"Invoke": self._invoke, "InvokeAsync": self._invoke_async, "InvokeWithResponseStream": self._stream}

    async def _invoke(self, call: ApiCall) -> Answer:
        kind = call.get("InvocationType", "RequestResponse")
        version, payload = await self._admitted(call, limits.EVENT_BYTES_MAX if kind == "Event" else limits.PAYLOAD_BYTES_MAX)
        if kind == "DryRun":
            return Answer(None, 204)
        # By the name that the caller used: which version an alias means is thrown for each call.
        name = await self._placed(call)
        if kind == "Event":
            accepted = await self._rooms.invoker.event(name, payload, call.request.trace(), call.get("TenantId"))
            return Answer(None, 202, (("x-amzn-RequestId", accepted),))
        error, result = await self._rooms.invoker.sync(name, payload, _options(call))
        return _answer(error, result, version.version)

    async def _admitted(self, call: ApiCall, limit: int) -> tuple[FunctionVersion, bytes]:
        if "DurableExecutionName" in call.values:
            raise refuse("DurableExecutionName: the function is not configured for it")
        version = self._rooms.find_to_invoke(call)
        self._rooms.check_guest(version, call.get("TenantId"))
        payload = self._checked(call.get("Payload", b""), limit)
        if call.get("InvocationType") != "DryRun" and version.config.environment.problem is not None:
            problem = await self._rooms.registry.unlock(version.name)
            if problem is not None:
                raise problem
        return version, payload

    async def _placed(self, call: ApiCall) -> str:
        """The name that the caller used, or one by which the engine finds the function of this tenant id."""
        name = str(self._rooms.reference(call))
        tenant_id = call.get("TenantId")
        kind = call.get("InvocationType", "RequestResponse")
        return name if tenant_id is None or kind == "Event" else await self._rooms.place_guest(name, tenant_id)

    async def _stream(self, call: ApiCall) -> Answer:
        """Its pieces as the function sends them; one that does not stream answers in one."""
        version, payload = await self._admitted(call, limits.PAYLOAD_BYTES_MAX)
        if call.get("InvocationType") == "DryRun":
            return Answer(None, 204)
        stream, resources = await begin(self._rooms.invoker.stream(await self._placed(call), payload, _options(call)))
        headers = (
            ("Content-Type", "application/vnd.amazon.eventstream"),
            ("X-Amzn-Remapped-Content-Type", stream.content_type or "application/json"),
            ("X-Amz-Executed-Version", version.version or LATEST),
        )
        return Answer(BodyStream(event_stream(stream, _log_result), resources), 200, headers)

    async def _invoke_async(self, call: ApiCall) -> Answer:
        self._rooms.check_guest(self._rooms.find_to_invoke(call), None)
        payload = self._checked(call.get("InvokeArgs", b""), limits.EVENT_BYTES_MAX)
        request_id = await self._rooms.invoker.event(str(self._rooms.reference(call)), payload, None, None)
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


def _options(call: ApiCall) -> dict[str, object]:
    options: dict[str, object] = {"report": True}
    if call.get("LogType") == "Tail":
        options["log_tail"] = True
    trace = call.request.trace()
    if trace:
        options["trace"] = trace
    if "TenantId" in call.values:
        options["tenant_id"] = call.values["TenantId"]
    if "ClientContext" in call.values:
        options["client_context"] = _client_context(call.values["ClientContext"])
    return options


def _log_result(stream: Streamed) -> dict[str, str]:
    tail = (stream.report or {}).get("log_tail")
    return {} if tail is None else {"LogResult": base64.b64encode(tail).decode()}


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
