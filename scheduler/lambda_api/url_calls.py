"""Requests to function URLs: who may ask, the call, what other origins are told.

Law of this file: what a URL's configuration says is done here, cross-origin rules included. Events and answers are made by
url_event.py and url_reply.py. The engine answers the usual requests to most URLs by itself; which, is said at engine_urls().
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Final

from scheduler import limits
from scheduler.errors import SchedulerError
from scheduler.functions.names import LATEST
from scheduler.functions.policies import allows
from scheduler.lambda_api.errors import LambdaError
from scheduler.lambda_api.streamed import HTTP_PRELUDE, BodyStream, PreludeBroken, after, begin, http_prelude
from scheduler.lambda_api.url_event import make_event
from scheduler.lambda_api.url_reply import UrlReply, make_head, make_reply, refusal
from scheduler.messages import Right, UrlFlag, url_put

if TYPE_CHECKING:
    from scheduler.functions.attached import Attached, Cors, Policy, Url
    from scheduler.lambda_api.access import Access
    from scheduler.lambda_api.rooms import Principal, Rooms
    from scheduler.lambda_api.wire import Request
    from scheduler.messages import Command

__all__ = ["HOST", "UrlCalls", "engine_urls"]

HOST: Final = re.compile(r"([a-z2-7]{32})\.lambda-url\.[a-z0-9-]+\.[a-z0-9.-]+(:[0-9]{1,5})?", re.IGNORECASE)
FORBIDDEN: Final = "Forbidden. For troubleshooting Function URL authorization issues, see: docs/lambda-api.md"


class UrlCalls:
    def __init__(self, rooms: Rooms, access: Access) -> None:
        self._rooms = rooms
        self._access = access

    async def answer(self, url_id: str, request: Request, request_id: str) -> UrlReply:
        """Never raises SchedulerError or LambdaError."""
        found = self._rooms.registry.attachments.url(url_id.lower())
        if found is None or found[0] not in self._rooms.registry:
            return refusal(404, "ResourceNotFoundException", None)
        name, qualifier, url = found
        origin = request.headers.get("origin")
        extra = _cors(url.cors, origin) if url.cors is not None and origin is not None else []
        if url.cors is not None and request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            return UrlReply(200, [*extra, *_preflight(url.cors)] if extra else [], b"")
        try:
            principal, request = self._admit(name, qualifier, url, request)
            reply = await self._call(name, qualifier, url, principal, request, request_id)
        except LambdaError as error:
            reply = refusal(error.kind.status, error.name, error.message if error.name == "AccessDeniedException" else None)
        except SchedulerError as error:
            throttled = error.type == "Throttled"
            reply = refusal(429 if throttled else 502, "TooManyRequestsException" if throttled else None, None)
        if extra:
            named = {key.lower() for key, _ in extra}
            kept = [(key, value) for key, value in reply.headers if key.lower() not in named]
            reply = UrlReply(reply.status, [*kept, *extra], reply.body, reply.stream)
        return reply

    def _admit(self, name: str, qualifier: str, url: Url, request: Request) -> tuple[Principal | None, Request]:
        """LambdaError: the caller may not be here."""
        config = self._rooms.registry.get(name).config
        policy = self._rooms.registry.attachments.of(name).policies.get(qualifier)
        principal: Principal | None = None
        if url.auth_type == "AWS_IAM":
            try:
                principal, request = self._access.identify(request)
            except LambdaError:
                raise LambdaError("AccessDeniedException", FORBIDDEN) from None
            if principal.tenant in (None, config.tenant) and Right.INVOKE in principal.rights:
                return principal, request
        if not lets_in(policy, url.auth_type, principal.tenant if principal is not None else None):
            raise LambdaError("AccessDeniedException", FORBIDDEN)
        return principal, request

    async def _call(
        self, name: str, qualifier: str, url: Url, principal: Principal | None, request: Request, request_id: str
    ) -> UrlReply:
        signer = None
        if principal is not None:
            signer = (self._rooms.registry.identity.account_id, principal.name.rpartition(" ")[2])
        event = make_event(request, url.id, signer=signer, request_id=request_id, now_s=time.time())
        if len(event) > limits.PAYLOAD_BYTES_MAX:
            raise LambdaError("RequestTooLargeException", "the request is larger than an event may be")
        options: dict[str, object] = {}
        trace = request.trace()
        if trace is not None:
            options["trace"] = trace
        if url.invoke_mode == "RESPONSE_STREAM":
            return await self._streamed(target_of(name, qualifier), event, options)
        error, result = await self._rooms.invoker.sync(target_of(name, qualifier), event, options)
        if error is not None:
            raise error
        return make_reply(result[0])

    async def _streamed(self, target: str, event: bytes, options: dict[str, object]) -> UrlReply:
        """A function that does not stream is answered for as it would be without; one that fails half-way leaves its answer
        without an end."""
        stream, resources = await begin(self._rooms.invoker.stream(target, event, options))
        async with resources:
            if stream.error is not None:
                raise stream.error
            if stream.content_type is None:
                return make_reply(b"".join([piece async for piece in stream]))
            status, headers, first = 200, [("Content-Type", stream.content_type or "application/octet-stream")], b""
            if stream.content_type == HTTP_PRELUDE:
                try:
                    value, first = await http_prelude(stream)
                except PreludeBroken:
                    return refusal(502, None, None)
                status, headers = make_head(value)
                if not any(key.lower() == "content-type" for key, _ in headers):
                    headers.append(("Content-Type", "application/octet-stream"))
            return UrlReply(status, headers, b"", BodyStream(after(first, stream), resources.pop_all()))


def lets_in(policy: Policy | None, auth_type: str, tenant: str | None) -> bool:
    """Whether a policy opens a URL to a tenant; None: to anybody. It takes two permissions, as in Lambda since October 2025."""
    facts = {"lambda:functionurlauthtype": auth_type, "lambda:invokedviafunctionurl": "true"}
    return all(
        allows(policy, principal=tenant, action=action, facts=facts)
        for action in ("lambda:InvokeFunctionUrl", "lambda:InvokeFunction")
    )


def target_of(name: str, qualifier: str) -> str:
    """The function behind a URL, as it is invoked."""
    return name if qualifier == LATEST else f"{name}:{qualifier}"


def engine_urls(name: str, attached: Attached, account_id: str) -> dict[str, Command]:
    """The URLs of a function that the engine answers by itself, by id: those that are open to anybody, and those whose callers
    sign with a key of the function's tenant. It hands everybody else over, and whoever comes from another origin where there
    are rules for it."""
    found: dict[str, Command] = {}
    for qualifier, url in attached.urls.items():
        flags = UrlFlag.NONE if url.cors is None else UrlFlag.CORS
        if url.auth_type == "AWS_IAM":
            flags |= UrlFlag.SIGNED
        elif not lets_in(attached.policies.get(qualifier), url.auth_type, None):
            continue
        if url.invoke_mode == "BUFFERED":
            found[url.id] = url_put(url.id, target_of(name, qualifier), account_id, flags)
    return found


# ---- other origins ---------------------------------------------------------------------------------------------------------


def _cors(cors: Cors, origin: str) -> list[tuple[str, str]]:
    """What an answer says to a page of that origin; nothing where it is not let in."""
    any_origin = "*" in cors.allow_origins
    if not any_origin and origin not in cors.allow_origins:
        return []
    shown = origin if cors.allow_credentials or not any_origin else "*"
    found = [("Access-Control-Allow-Origin", shown)]
    if shown != "*":
        found.append(("Vary", "Origin"))
    if cors.allow_credentials:
        found.append(("Access-Control-Allow-Credentials", "true"))
    if cors.expose_headers:
        found.append(("Access-Control-Expose-Headers", ",".join(cors.expose_headers)))
    return found


def _preflight(cors: Cors) -> list[tuple[str, str]]:
    found = []
    for key, values in (
        ("Access-Control-Allow-Methods", cors.allow_methods),
        ("Access-Control-Allow-Headers", cors.allow_headers),
    ):
        if values:
            found.append((key, ",".join(values)))
    if cors.max_age_s is not None:
        found.append(("Access-Control-Max-Age", str(cors.max_age_s)))
    return found
