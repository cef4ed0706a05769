"""The Lambda API over the protocol: one control method that runs any of its operations, for who has no HTTP to sign.

Law of this file: from a map to an operation's call and back. Who may do what is the operation's right, held against the
connection's.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from scheduler import limits
from scheduler.control.dispatch import Call, Method
from scheduler.control.schema import Field, Kind
from scheduler.errors import BadRequest, NotFound
from scheduler.functions.names import LATEST
from scheduler.messages import Right

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scheduler.functions.registry import FunctionRegistry
    from scheduler.functions.uploads import Uploads

__all__ = ["ApiMethods", "Operations"]

EVENTS_BYTES_MAX: Final = 64 * 1024


class Operations(Protocol):
    """Runs an operation by name. `package`: the code that was uploaded for it. Gives status, body, and the error's name if it
    is one."""

    async def __call__(
        self, operation: str, values: Mapping[str, Any], *, rights: Right, tenant: str | None, package: Path | None
    ) -> dict[str, Any]: ...


class ApiMethods:
    def __init__(self, operations: Operations, uploads: Uploads, registry: FunctionRegistry) -> None:
        self._operations = operations
        self._registry = registry
        self._uploads = uploads

    def rows(self) -> tuple[Method, ...]:
        fields = (
            Field("operation", Kind.TEXT, required=True, minimum=1, maximum=64),
            Field("input", Kind.ANY),
            Field("code_sha256", Kind.TEXT, minimum=64, maximum=64),
        )
        declared = (
            Field("name", Kind.TEXT, required=True, minimum=1, maximum=limits.FUNCTION_NAME_CHARS_MAX),
            Field("events", Kind.ANY, required=True),
        )
        return (
            Method("lambda.call", Right.INVOKE, fields, self._call),
            Method("functions.declare_events", Right.DEPLOY, declared, self._declare),
        )

    async def _call(self, call: Call) -> dict[str, Any]:
        """`input`: the operation's members by name. `code_sha256`: of code sent with code.put, which becomes its ZipFile."""
        values = call.get("input", {})
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise BadRequest("input: is not a map of members")
        sha256 = call.get("code_sha256")
        package = self._uploads.whole(sha256) if sha256 is not None else None
        connection = call.connection
        answer = await self._operations(
            call.values["operation"], values, rights=connection.rights, tenant=connection.tenant, package=package
        )
        if sha256 is not None and answer.get("error") is None:
            await self._uploads.forget(sha256)
        return answer

    def _check_theirs(self, call: Call, name: str) -> None:
        if call.connection.tenant not in (None, self._registry.get(name).config.tenant):
            raise NotFound(f"Function not found: {self._registry.identity.arn(name, LATEST)}")

    async def _declare(self, call: Call) -> dict[str, Any]:
        """Triggers as a deployment file has them, kept with the function."""
        name, events = call.values["name"], call.values["events"]
        self._check_theirs(call, name)
        if not isinstance(events, dict) or len(json.dumps(events, default=str)) > EVENTS_BYTES_MAX:
            raise BadRequest(f"events: is not a map of at most {EVENTS_BYTES_MAX} bytes of JSON")
        async with self._registry.attachments.change(name) as change:
            self._check_theirs(call, name)  # it may have gone while this waited
            change.now = replace(change.now, declared=json.loads(json.dumps(events, default=str)))
        return {"events": len(events)}
