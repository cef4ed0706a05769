"""What a function answers to a request of its URL as HTTP: an answer of format 2.0, or whatever else as its body.

Law of this file: pure. The engine makes the same of the usual answers (native/reactor/urlreply.c), byte for byte; a test holds
the one against the other. A function that fails, or answers what cannot be an HTTP answer, is a 502 to its caller, who is not
told more, as in Lambda; its log has the reason.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from scheduler.lambda_api.errors import LambdaError

if TYPE_CHECKING:
    from scheduler.lambda_api.streamed import BodyStream

__all__ = ["UrlReply", "make_head", "make_reply", "refusal", "url_reply"]

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # no header's value may have one
_STATUS: Final = re.compile(r"[0-9]{1,9}")
# What belongs to the connection, not to the answer, is the server's to say.
_HOP: Final = frozenset(
    ("connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "date")
)


@dataclass(frozen=True, slots=True)
class UrlReply:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    stream: BodyStream | None = None  # instead of the body; the receiver's to close


def url_reply(result: bytes) -> UrlReply:
    """Of what a function answered; never raises."""
    try:
        return make_reply(result)
    except LambdaError:
        return refusal(502, None, None)


def make_reply(result: bytes) -> UrlReply:
    """LambdaError: it is no HTTP answer."""
    try:
        value = json.loads(result)
        # A text that is not an HTTP answer is the body as it is.
        text = value.encode() if isinstance(value, str) else result
    except (ValueError, RecursionError):
        raise _broken() from None
    if not isinstance(value, dict) or "statusCode" not in value:
        return UrlReply(200, [("Content-Type", "application/json")], text)
    status, headers = make_head(value)
    given = value.get("body")
    body = "" if given is None else given if isinstance(given, str) else json.dumps(given)
    try:
        data = base64.b64decode(body, validate=True) if value.get("isBase64Encoded") is True else body.encode()
    except ValueError:
        raise _broken() from None
    if not any(key.lower() == "content-type" for key, _ in headers):
        headers.append(("Content-Type", "application/json"))
    return UrlReply(status, headers, data)


def make_head(value: dict[str, Any]) -> tuple[int, list[tuple[str, str]]]:
    """Status and headers out of `statusCode`, `headers`, `cookies`. LambdaError: they are none."""
    status = value.get("statusCode", 200)
    if isinstance(status, str) and _STATUS.fullmatch(status):
        status = int(status)
    if not isinstance(status, int) or isinstance(status, bool) or not 200 <= status <= 599:
        raise _broken()
    return status, _headers(value.get("headers") or {}, value.get("cookies") or [])


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


def refusal(status: int, name: str | None, message: str | None) -> UrlReply:
    headers = [("Content-Type", "application/json")]
    if name is not None and status != 502:
        headers.append(("x-amzn-ErrorType", name))
    if status == 502:
        return UrlReply(502, [("Content-Type", "text/plain")], b"Internal Server Error")
    return UrlReply(status, headers, json.dumps({"Message": message}).encode() if message else b"")
