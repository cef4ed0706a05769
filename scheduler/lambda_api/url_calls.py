"""Requests to function URLs: from HTTP to the event of payload version 2.0, and from the function's result to HTTP.

Law of this file: what a URL's configuration says is done here, cross-origin rules included. A function that fails, or answers
what cannot be an HTTP answer, is a 502 to its caller, who is not told more, as in Lambda; its log has the reason.
"""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote

from scheduler import limits
from scheduler.errors import SchedulerError
from scheduler.functions.names import LATEST
from scheduler.functions.policies import allows
from scheduler.lambda_api.errors import LambdaError
from scheduler.messages import Right

if TYPE_CHECKING:
    from scheduler.functions.attached import Cors, Url
    from scheduler.lambda_api.access import Access
    from scheduler.lambda_api.rooms import Principal, Rooms
    from scheduler.lambda_api.wire import Request

__all__ = ["HOST", "UrlCalls", "UrlReply"]

HOST: Final = re.compile(r"([a-z2-7]{32})\.lambda-url\.[a-z0-9-]+\.[a-z0-9.-]+(:[0-9]{1,5})?", re.IGNORECASE)
_TEXT_TYPE: Final = re.compile(
    r"text/.*|application/(.*\+)?(json|javascript|xml|x-www-form-urlencoded)(;.*)?", re.IGNORECASE | re.DOTALL
)
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # no header's value may have one
QUERY_FIELDS_MAX: Final = 1000
# What belongs to the connection, not to the answer, is the server's to say.
_HOP: Final = frozenset(
    ("connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "date")
)
FORBIDDEN: Final = "Forbidden. For troubleshooting Function URL authorization issues, see: docs/lambda-api.md"


@dataclass(frozen=True, slots=True)
class UrlReply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class UrlCalls:
    def __init__(self, rooms: Rooms, access: Access) -> None:
        self._rooms = rooms
        self._access = access

    async def answer(self, url_id: str, request: Request, request_id: str) -> UrlReply:
        """Never raises SchedulerError or LambdaError."""
        found = self._find(url_id.lower())
        if found is None:
            return _refusal(404, "ResourceNotFoundException", None)
        name, qualifier, url = found
        origin = request.headers.get("origin")
        extra = _cors(url.cors, origin) if url.cors is not None and origin is not None else []
        if url.cors is not None and request.method == "OPTIONS" and "access-control-request-method" in request.headers:
            return UrlReply(200, [*extra, *_preflight(url.cors)] if extra else [], b"")
        try:
            principal, request = self._admit(name, qualifier, url, request)
            reply = await self._call(name, qualifier, url_id, principal, request, request_id)
        except LambdaError as error:
            reply = _refusal(error.kind.status, error.name, error.message if error.name == "AccessDeniedException" else None)
        except SchedulerError as error:
            throttled = error.type == "Throttled"
            reply = _refusal(429 if throttled else 502, "TooManyRequestsException" if throttled else None, None)
        if extra:
            named = {key.lower() for key, _ in extra}
            kept = [(key, value) for key, value in reply.headers if key.lower() not in named]
            reply = UrlReply(reply.status, [*kept, *extra], reply.body)
        return reply

    def _find(self, url_id: str) -> tuple[str, str, Url] | None:
        for name, attached in self._rooms.registry.attachments.all():
            for qualifier, url in attached.urls.items():
                if url.id == url_id and name in self._rooms.registry:
                    return name, qualifier, url
        return None

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
        facts = {"lambda:functionurlauthtype": url.auth_type, "lambda:invokedviafunctionurl": "true"}
        who = principal.tenant if principal is not None else None
        for action in ("lambda:InvokeFunctionUrl", "lambda:InvokeFunction"):
            if not allows(policy, principal=who, action=action, facts=facts):
                raise LambdaError("AccessDeniedException", FORBIDDEN)
        return principal, request

    async def _call(
        self, name: str, qualifier: str, url_id: str, principal: Principal | None, request: Request, request_id: str
    ) -> UrlReply:
        event = json.dumps(self._event(url_id, principal, request, request_id), ensure_ascii=False).encode("utf-8", "replace")
        if len(event) > limits.PAYLOAD_BYTES_MAX:
            raise LambdaError("RequestTooLargeException", "the request is larger than an event may be")
        options: dict[str, object] = {}
        trace = request.trace()
        if trace is not None:
            options["trace"] = trace
        function = name if qualifier == LATEST else f"{name}:{qualifier}"
        error, result = await self._rooms.invoker.sync(function, event, options)
        if error is not None:
            raise error
        return _reply(result[0])

    def _event(self, url_id: str, principal: Principal | None, request: Request, request_id: str) -> dict[str, Any]:
        now_s = time.time()
        headers = {key: value for key, value in request.headers.items() if key != "cookie"}
        headers.setdefault("x-forwarded-for", request.peer)
        headers.setdefault("x-forwarded-proto", "http")
        context: dict[str, Any] = {
            "accountId": "anonymous" if principal is None else self._rooms.registry.identity.account_id,
            "apiId": url_id,
            "domainName": request.headers.get("host", "").partition(":")[0],
            "domainPrefix": url_id,
            "http": {
                "method": request.method,
                "path": unquote(request.path),
                "protocol": "HTTP/1.1",
                "sourceIp": request.peer,
                "userAgent": request.headers.get("user-agent", ""),
            },
            "requestId": request_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": datetime.fromtimestamp(now_s, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "timeEpoch": int(now_s * 1000),
        }
        if principal is not None:
            key_id = principal.name.rpartition(" ")[2]
            context["authorizer"] = {
                "iam": {
                    "accessKey": key_id,
                    "accountId": self._rooms.registry.identity.account_id,
                    "callerId": key_id,
                    "cognitoIdentity": None,
                    "principalOrgId": None,
                    "userArn": f"arn:aws:iam::{self._rooms.registry.identity.account_id}:user/{key_id}",
                    "userId": key_id,
                }
            }
        event: dict[str, Any] = {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": request.path,
            "rawQueryString": request.query,
            "headers": headers,
            "requestContext": context,
            "isBase64Encoded": False,
        }
        if "cookie" in request.headers:
            event["cookies"] = [part.strip() for part in request.headers["cookie"].split(";") if part.strip()]
        if request.query:
            joined: dict[str, str] = {}
            for key, value in _pairs(request.query):
                joined[key] = f"{joined[key]},{value}" if key in joined else value
            event["queryStringParameters"] = joined
        if request.body:
            text = _as_text(request)
            event["isBase64Encoded"] = text is None
            event["body"] = base64.b64encode(request.body).decode() if text is None else text
        return event


def _pairs(query: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
    except ValueError:
        raise LambdaError("ValidationException", f"query: has more than {QUERY_FIELDS_MAX} fields") from None


def _as_text(request: Request) -> str | None:
    """None: it is to go as base64."""
    if not _TEXT_TYPE.fullmatch(request.headers.get("content-type", "")):
        return None
    try:
        return request.body.decode("utf-8")
    except UnicodeDecodeError:
        return None


# ---- the answer --------------------------------------------------------------------------------------------------------------


def _reply(result: bytes) -> UrlReply:
    """LambdaError: it is no HTTP answer."""
    try:
        value = json.loads(result)
        # A text that is not an HTTP answer is the body as it is.
        text = value.encode() if isinstance(value, str) else result
    except (ValueError, RecursionError):
        raise _broken() from None
    if not isinstance(value, dict) or "statusCode" not in value:
        return UrlReply(200, [("Content-Type", "application/json")], text)
    status = value["statusCode"]
    if isinstance(status, str) and status.isascii() and status.isdigit():
        status = int(status)
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise _broken()
    headers = _headers(value.get("headers") or {}, value.get("cookies") or [])
    given = value.get("body")
    body = "" if given is None else given if isinstance(given, str) else json.dumps(given)
    try:
        data = base64.b64decode(body, validate=True) if value.get("isBase64Encoded") is True else body.encode()
    except ValueError:
        raise _broken() from None
    if not any(key.lower() == "content-type" for key, _ in headers):
        headers.append(("Content-Type", "application/json"))
    return UrlReply(status, headers, data)


def _headers(given: Any, cookies: Any) -> list[tuple[str, str]]:
    if not isinstance(given, dict) or not isinstance(cookies, list):
        raise _broken()
    found: list[tuple[str, str]] = []
    for key, value in given.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        if not _TOKEN.fullmatch(key) or _CONTROL.search(shown):
            raise _broken()
        name = f"x-amzn-remapped-{key.lower()}" if key.lower() in _HOP else key
        found.append((name, shown.strip()))
    for cookie in cookies:
        if not isinstance(cookie, str) or _CONTROL.search(cookie):
            raise _broken()
        found.append(("Set-Cookie", cookie.strip()))
    return found


def _broken() -> LambdaError:
    return LambdaError("ResourceNotReadyException", "the function's answer is no HTTP answer")


def _refusal(status: int, name: str | None, message: str | None) -> UrlReply:
    headers = [("Content-Type", "application/json")]
    if name is not None and status != 502:
        headers.append(("x-amzn-ErrorType", name))
    if status == 502:
        return UrlReply(502, [("Content-Type", "text/plain")], b"Internal Server Error")
    return UrlReply(status, headers, json.dumps({"Message": message}).encode() if message else b"")


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
