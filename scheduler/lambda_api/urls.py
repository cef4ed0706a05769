"""Operations on function URLs: their configuration. Requests to them are answered elsewhere.

Law of this file: one URL for the function and one for each alias; its id is drawn once and never changes.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from scheduler.functions.attached import Cors, Url
from scheduler.functions.model import Tenancy, timestamp
from scheduler.functions.names import LATEST
from scheduler.lambda_api.errors import LambdaError
from scheduler.lambda_api.paging import page
from scheduler.lambda_api.rooms import refuse
from scheduler.lambda_api.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scheduler.lambda_api.rooms import ApiCall, Rooms

__all__ = ["UrlOperations", "url_of"]

_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_ID_CHARS: Final = 32


def url_of(url_id: str, region: str, host: str) -> str:
    """How a client reaches it: Lambda's own form of the name, under `localhost`, which resolvers send to loopback."""
    port = host.rpartition(":")[2] if ":" in host.rsplit("]", 1)[-1] else ""
    return f"http://{url_id}.lambda-url.{region}.localhost{':' + port if port else ''}/"


class UrlOperations:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def handlers(self) -> dict[str, Callable[[ApiCall], Awaitable[Answer]]]:
        return {
            "CreateFunctionUrlConfig": self._create,
            "GetFunctionUrlConfig": self._get,
            "UpdateFunctionUrlConfig": self._update,
            "ListFunctionUrlConfigs": self._list,
            "DeleteFunctionUrlConfig": self._delete,
        }

    def _place(self, call: ApiCall) -> tuple[str, str]:
        """The function, and `$LATEST` or an alias."""
        name, qualifier = self._rooms.place(call)
        if qualifier != LATEST and qualifier not in self._rooms.registry.attachments.of(name).aliases:
            raise refuse(f"Qualifier: {qualifier[:128]!r} is not an alias; a version has no URL of its own")
        return name, qualifier

    async def _create(self, call: ApiCall) -> Answer:
        name, qualifier = self._place(call)
        if self._rooms.registry.get(name, qualifier).config.tenancy != Tenancy.NONE.value:
            raise refuse("Function URLs are not supported for functions with tenant isolation.")
        now = timestamp(time.time())
        async with self._rooms.attached(call, name, qualifier) as change:
            if qualifier in change.now.urls:
                arn = self._rooms.registry.identity.arn(name, None if qualifier == LATEST else qualifier)
                raise LambdaError(
                    "ResourceConflictException",
                    "Failed to create function url config for [functionArn = "
                    f"{arn}]. Error message:  FunctionUrlConfig exists for this Lambda function",
                )
            made = Url(
                id="".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS)),
                auth_type=call.values["AuthType"],
                created=now,
                modified=now,
                invoke_mode=call.get("InvokeMode", "BUFFERED"),
                cors=_cors(call.get("Cors")),
            )
            change.now = replace(change.now, urls={**change.now.urls, qualifier: made})
        return Answer(self._shown(call, name, qualifier, made))

    async def _update(self, call: ApiCall) -> Answer:
        name, qualifier = self._place(call)
        async with self._rooms.attached(call, name, qualifier) as change:
            old = change.now.urls.get(qualifier)
            if old is None:
                raise _missing()
            made = replace(
                old,
                auth_type=call.get("AuthType", old.auth_type),
                invoke_mode=call.get("InvokeMode", old.invoke_mode),
                cors=_cors(call.get("Cors")) if "Cors" in call.values else old.cors,
                modified=timestamp(time.time()),
            )
            change.now = replace(change.now, urls={**change.now.urls, qualifier: made})
        return Answer(self._shown(call, name, qualifier, made))

    async def _get(self, call: ApiCall) -> Answer:
        name, qualifier = self._place(call)
        found = self._rooms.registry.attachments.of(name).urls.get(qualifier)
        if found is None:
            raise _missing()
        return Answer(self._shown(call, name, qualifier, found))

    async def _list(self, call: ApiCall) -> Answer:
        name = self._rooms.own_name(call)
        found = sorted(self._rooms.registry.attachments.of(name).urls.items())
        return Answer(
            page(
                "FunctionUrlConfigs",
                found,
                call.get("Marker"),
                call.get("MaxItems"),
                lambda pair: self._shown(call, name, pair[0], pair[1]),
            )
        )

    async def _delete(self, call: ApiCall) -> Answer:
        name, qualifier = self._place(call)
        async with self._rooms.attached(call, name, qualifier) as change:
            if qualifier not in change.now.urls:
                raise _missing()
            change.now = replace(change.now, urls={k: v for k, v in change.now.urls.items() if k != qualifier})
        return Answer()

    def _shown(self, call: ApiCall, name: str, qualifier: str, url: Url) -> dict[str, Any]:
        identity = self._rooms.registry.identity
        shown: dict[str, Any] = {
            "FunctionUrl": url_of(url.id, identity.region, call.host),
            "FunctionArn": identity.arn(name, None if qualifier == LATEST else qualifier),
            "AuthType": url.auth_type,
            "CreationTime": url.created.replace("+00:00", "Z"),
            "InvokeMode": url.invoke_mode,
        }
        if call.request.method != "POST":
            shown["LastModifiedTime"] = url.modified.replace("+00:00", "Z")
        if url.cors is not None:
            shown["Cors"] = _cors_shown(url.cors)
        return shown


def _missing() -> LambdaError:
    return LambdaError("ResourceNotFoundException", "The resource you requested does not exist.")


def _cors(given: dict[str, Any] | None) -> Cors | None:
    if not given:
        return None
    return Cors(
        allow_credentials=given.get("AllowCredentials", False),
        allow_headers=tuple(given.get("AllowHeaders", ())),
        allow_methods=tuple(given.get("AllowMethods", ())),
        allow_origins=tuple(given.get("AllowOrigins", ())),
        expose_headers=tuple(given.get("ExposeHeaders", ())),
        max_age_s=given.get("MaxAge"),
    )


def _cors_shown(cors: Cors) -> dict[str, Any]:
    shown: dict[str, Any] = {"AllowCredentials": cors.allow_credentials}
    for key, values in (
        ("AllowHeaders", cors.allow_headers),
        ("AllowMethods", cors.allow_methods),
        ("AllowOrigins", cors.allow_origins),
        ("ExposeHeaders", cors.expose_headers),
    ):
        if values:
            shown[key] = list(values)
    if cors.max_age_s is not None:
        shown["MaxAge"] = cors.max_age_s
    return shown
