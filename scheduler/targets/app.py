"""From a request with X-Amz-Target to its answer: which operation, may this caller, are its members right, what does it say.

Law of this file: it knows tables, not what an operation does. Each request gets exactly one answer; whatever an operation
raises becomes an error of the service's protocol here and nowhere else. Neither members nor answers are logged: they are
secrets.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from scheduler.errors import SchedulerError
from scheduler.lambda_api.app import Reply
from scheduler.lambda_api.errors import LambdaError
from scheduler.lambda_api.shapes import read
from scheduler.lambda_api.wire import load
from scheduler.targets.errors import TargetError, translated
from scheduler.targets.operations import refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from scheduler.lambda_api.wire import Request
    from scheduler.log import Log
    from scheduler.targets.operations import Operation, Service
    from scheduler.targets.who import Who

__all__ = ["TARGET", "Targets"]

TARGET: Final = "x-amz-target"
CONTENT_TYPE: Final = "application/x-amz-json-1.1"
BODY_BYTES_MAX: Final = 1 << 20


class Targets:
    """services: each with its operations."""

    def __init__(self, services: Sequence[Service], log: Log) -> None:
        self._log = log
        self._services = {service.prefix: service for service in services}
        self._operations = {(s.prefix, row.name): row for s in services for row in s.operations()}
        self.results: Counter[tuple[str, str]] = Counter()  # (service.operation, "ok" or the error's name)

    def signed_as(self, request: Request) -> str:
        """What the signature of a request must be for."""
        service = self._services.get(request.headers.get(TARGET, "").partition(".")[0])
        return service.signed_as if service is not None else "lambda"

    async def answer(self, request: Request, identify: Callable[[Request], tuple[Who, Request]]) -> Reply:
        """identify: who asks, and the request as it was meant; LambdaError where nobody can tell. Never raises but
        Cancelled."""
        request_id = str(uuid.uuid4())
        prefix, _, name = request.headers.get(TARGET, "").partition(".")
        service = self._services.get(prefix)
        status, body = 200, b""
        try:
            if request.method != "POST" or len(request.body) > BODY_BYTES_MAX:
                raise TargetError("SerializationException", f"a POST of at most {BODY_BYTES_MAX} bytes is needed")
            who, request = identify(request)
            said = await self._run(who, prefix, name, load(request.body), request_id)
            body = json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode() if said is not None else b""
        except TargetError as error:
            status, body = error.status, error.body(service.spelling if service is not None else "message")
        except LambdaError as error:
            known = translated(error)
            status, body = known.status, known.body(service.spelling if service is not None else "message")
        return Reply(status, [("Content-Type", CONTENT_TYPE), ("x-amzn-RequestId", request_id)], body)

    async def run(self, who: Who, prefix: str, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """An operation for who does not come by HTTP: {"body"} or {"error", "message"}."""
        try:
            return {"body": await self._run(who, prefix, name, dict(values), str(uuid.uuid4()))}
        except TargetError as error:
            return {"error": error.name, "message": error.message}

    async def _run(self, who: Who, prefix: str, name: str, given: dict[str, Any], request_id: str) -> dict[str, Any] | None:
        """TargetError."""
        operation = self._operations.get((prefix, name))
        label = f"{prefix}.{name}" if operation is not None else "unknown"
        try:
            if operation is None:
                raise TargetError("UnknownOperationException", f"{prefix[:64]}.{name[:64]} is no operation of this service")
            self._check_right(who, operation, prefix)
            said = await operation.handler(who, read(operation.shape, given))
        except TargetError as error:
            self.results[label, error.name] += 1
            raise
        except (LambdaError, SchedulerError) as error:
            known = translated(error)
            self.results[label, known.name] += 1
            raise known from None
        except Exception as error:  # supervision: a bug in one operation must not end the service
            # Its text may quote what is secret.
            self._log.error("operation failed", operation=label, request_id=request_id, error=type(error).__name__)
            self.results[label, "InternalServiceError"] += 1
            raise TargetError("InternalServiceError", f"see the log, request {request_id}", 500) from None
        self.results[label, "ok"] += 1
        return said

    def _check_right(self, who: Who, operation: Operation, prefix: str) -> None:
        action = f"{self._services[prefix].signed_as}:{operation.name}"
        if who.is_function and not operation.functions:
            raise refuse(who, action, "*")
        if not who.is_function and not who.may_deploy:
            raise refuse(who, action, "*")
