"""From a request to its answer: who asks, which operation, are its members right, what does its handler say, in that order.

Law of this file: it knows tables, not what an operation does. Every request gets exactly one answer; whatever a handler raises
becomes Lambda's error here and nowhere else.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import trio

from scheduler.bulk import in_bulk
from scheduler.errors import SchedulerError
from scheduler.lambda_api.aliases import AliasOperations
from scheduler.lambda_api.errors import LambdaError, translate
from scheduler.lambda_api.functions import FunctionOperations
from scheduler.lambda_api.invoke import InvokeOperations
from scheduler.lambda_api.layers import LayerOperations
from scheduler.lambda_api.links import CODE_PATH, Links
from scheduler.lambda_api.operations import OPERATIONS, Operation, Router, Support
from scheduler.lambda_api.policies import PolicyOperations
from scheduler.lambda_api.provisioned import ProvisionedOperations
from scheduler.lambda_api.rooms import ApiCall, Principal
from scheduler.lambda_api.settings import SettingOperations
from scheduler.lambda_api.shapes import read
from scheduler.lambda_api.streamed import BodyStream
from scheduler.lambda_api.url_calls import HOST, UrlCalls
from scheduler.lambda_api.urls import UrlOperations
from scheduler.lambda_api.wire import Answer, Request, gather

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from scheduler.lambda_api.access import Access
    from scheduler.lambda_api.rooms import Rooms
    from scheduler.log import Log
    from scheduler.messages import Right

__all__ = ["Api", "Reply"]

LARGE_BYTES: Final = 256 * 1024  # bodies beyond it are read in a thread, so that others' requests go on


class Reply:
    """What goes over the wire: `body`, or where there is a file all of it, `size` bytes; or a stream, as it comes. Whoever
    sends it closes the file, or the stream."""

    __slots__ = ("body", "file", "headers", "size", "status", "stream")

    def __init__(
        self,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes,
        file: BinaryIO | None = None,
        stream: BodyStream | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.file = file
        self.stream = stream
        self.size = len(body) if file is None else os.fstat(file.fileno()).st_size


class Api:
    def __init__(self, rooms: Rooms, access: Access, log: Log) -> None:
        self._rooms = rooms
        self._access = access
        self._log = log
        self._router = Router()
        self._urls = UrlCalls(rooms, access)
        self._links = Links(rooms)
        layers = LayerOperations(rooms, self._links)
        self._handlers: Mapping[str, Callable[[ApiCall], Awaitable[Answer]]] = {
            **FunctionOperations(rooms, layers, self._links).handlers(),
            **layers.handlers(),
            **InvokeOperations(rooms).handlers(),
            **AliasOperations(rooms).handlers(),
            **SettingOperations(rooms).handlers(),
            **UrlOperations(rooms).handlers(),
            **PolicyOperations(rooms).handlers(),
            **ProvisionedOperations(rooms).handlers(),
        }
        built = {row.name for row in OPERATIONS if row.support in (Support.FULL, Support.PARTIAL)}
        if built != set(self._handlers):
            raise AssertionError(f"operations without handler or handlers without row: {sorted(built ^ set(self._handlers))}")
        self.results: Counter[tuple[str, str]] = Counter()  # (operation, "ok" or the error's name)

    async def answer(self, request: Request, host: str) -> Reply:
        """Never raises but Cancelled."""
        request_id = str(uuid.uuid4())
        name = "unknown"
        try:
            url = HOST.fullmatch(host)
            if url is not None:
                name = "url"
                reached = await self._urls.answer(url[1], request, request_id)
                reply = Reply(reached.status, reached.headers, reached.body, stream=reached.stream)
            elif request.path.startswith(CODE_PATH) and request.method == "GET":
                name = "code"
                reply = await self._package(request)
            else:
                if len(request.body) > LARGE_BYTES:
                    principal, request = await in_bulk(self._access.identify, request)
                else:
                    principal, request = self._access.identify(request)
                operation, in_path = self._router.find(request.method, request.path, request.fields())
                name = operation.name
                reply = self._reply(operation, await self._run(principal, operation, in_path, request, host))
            self.results[name, "ok"] += 1
        except (LambdaError, SchedulerError) as error:
            known = error if isinstance(error, LambdaError) else translate(error)
            self.results[name, known.name] += 1
            reply = Reply(known.kind.status, known.headers(), known.body())
        except Exception as error:  # supervision: a bug in one operation must not end the service
            self._log.error("operation failed", operation=name, request_id=request_id, error=repr(error))
            known = LambdaError("ServiceException", f"{name} failed: see the log, request {request_id}")
            self.results[name, known.name] += 1
            reply = Reply(known.kind.status, known.headers(), known.body())
        if not any(key.lower() == "x-amzn-requestid" for key, _ in reply.headers):
            reply.headers.append(("x-amzn-RequestId", request_id))
        return reply

    async def run(
        self,
        name: str,
        values: Mapping[str, Any],
        *,
        rights: Right,
        tenant: str | None,
        package: Path | None,
        host: str,
    ) -> dict[str, Any]:
        """An operation by its name and members, for who does not come by HTTP. `package` becomes the members' ZipFile."""
        identity = self._rooms.registry.identity
        answered: dict[str, Any] = {"region": identity.region, "account_id": identity.account_id}
        try:
            operation = next((row for row in OPERATIONS if row.name == name), None)
            if operation is None:
                raise LambdaError("UnknownOperationException", f"no operation is called {name[:64]!r}")
            given = dict(values)
            if package is not None:
                zipped = await trio.to_thread.run_sync(package.read_bytes)
                where = {"CreateFunction": "Code", "PublishLayerVersion": "Content"}.get(name)
                if where is None:
                    given["ZipFile"] = zipped
                else:
                    given[where] = {"ZipFile": zipped}
            principal = Principal("the socket's peer", rights, tenant)
            self._check_right(principal, operation)
            assert operation.shape is not None, name
            request = Request("POST", "/", "", {}, given.get("Payload", b""))
            answer = await self._handlers[name](ApiCall(principal, read(operation.shape, given), request, host))
            self.results[name, "ok"] += 1
            return {**answered, "status": answer.status or operation.status, "body": answer.body}
        except (LambdaError, SchedulerError) as error:
            known = error if isinstance(error, LambdaError) else translate(error)
            self.results[name if name in self._handlers else "unknown", known.name] += 1
            return {**answered, "status": known.kind.status, "error": known.name, "message": known.message, "body": None}

    def _check_right(self, principal: Principal, operation: Operation) -> None:
        if operation.support is Support.NOT_YET:
            raise LambdaError("NotImplementedException", f"{operation.name} is not part of this service yet")
        if operation.support is Support.REFUSED:
            raise LambdaError("NotImplementedException", f"{operation.name}: {operation.note}")
        if operation.right & ~principal.rights:
            raise LambdaError(
                "AccessDeniedException",
                f"{principal.name} is not authorized to perform: lambda:{operation.name}: it has no right to "
                f"{(operation.right.name or '?').lower()}",
            )

    async def _run(
        self, principal: Principal, operation: Operation, in_path: Mapping[str, str], request: Request, host: str
    ) -> Answer:
        self._check_right(principal, operation)
        shape = operation.shape
        assert shape is not None, operation.name
        query = request.fields()
        if len(request.body) > LARGE_BYTES and not operation.name.startswith("Invoke"):
            given = await in_bulk(gather, shape, request, in_path, query)
            values = await in_bulk(read, shape, given)
        else:
            values = read(shape, gather(shape, request, in_path, query))
        return await self._handlers[operation.name](ApiCall(principal, values, request, host))

    def _reply(self, operation: Operation, answer: Answer) -> Reply:
        status = answer.status or operation.status
        typed = any(name == "Content-Type" for name, _ in answer.headers)
        headers = [*(() if typed else (("Content-Type", "application/json"),)), *answer.headers]
        if answer.body is None:
            return Reply(status, headers, b"")
        if isinstance(answer.body, BodyStream):
            return Reply(status, headers, b"", stream=answer.body)
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body, ensure_ascii=False).encode()
        return Reply(status, headers, body)

    async def _package(self, request: Request) -> Reply:
        path = self._links.package(request.path.removeprefix(CODE_PATH), request.fields())
        try:
            file = await trio.to_thread.run_sync(path.open, "rb")
        except FileNotFoundError:
            raise LambdaError("ResourceNotFoundException", "the package is no longer here") from None
        return Reply(200, [("Content-Type", "application/zip")], b"", file)
