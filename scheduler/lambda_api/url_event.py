"""A request to a function URL as the event that its function gets: payload format 2.0.

Law of this file: pure. The engine makes the same events of the usual requests (native/reactor/urlevent.c), byte for byte; a
test holds the one against the other.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote

from scheduler.lambda_api.errors import LambdaError

if TYPE_CHECKING:
    from scheduler.lambda_api.wire import Request

__all__ = ["make_event"]

_TEXT_TYPE: Final = re.compile(
    r"text/.*|application/(.*\+)?(json|javascript|xml|x-www-form-urlencoded)(;.*)?", re.IGNORECASE | re.DOTALL
)
QUERY_FIELDS_MAX: Final = 1000


def make_event(request: Request, url_id: str, *, signer: tuple[str, str] | None, request_id: str, now_s: float) -> bytes:
    """signer: account and access key of who has signed. LambdaError: it cannot be one."""
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": request.path,
        "rawQueryString": request.query,
    }
    if "cookie" in request.headers:
        event["cookies"] = [part.strip() for part in request.headers["cookie"].split(";") if part.strip()]
    headers = {key: value for key, value in request.headers.items() if key != "cookie"}
    headers.setdefault("x-forwarded-for", request.peer)
    headers.setdefault("x-forwarded-proto", "http")
    event["headers"] = headers
    if request.query:
        joined: dict[str, str] = {}
        for key, value in _pairs(request.query):
            joined[key] = f"{joined[key]},{value}" if key in joined else value
        event["queryStringParameters"] = joined
    event["requestContext"] = _context(request, url_id, signer, request_id, now_s)
    text = _as_text(request)
    if request.body:
        event["body"] = base64.b64encode(request.body).decode() if text is None else text
    event["isBase64Encoded"] = bool(request.body) and text is None
    return json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _context(request: Request, url_id: str, signer: tuple[str, str] | None, request_id: str, now_s: float) -> dict[str, Any]:
    context: dict[str, Any] = {"accountId": "anonymous" if signer is None else signer[0], "apiId": url_id}
    if signer is not None:
        account, key_id = signer
        context["authorizer"] = {
            "iam": {
                "accessKey": key_id,
                "accountId": account,
                "callerId": key_id,
                "cognitoIdentity": None,
                "principalOrgId": None,
                "userArn": f"arn:aws:iam::{account}:user/{key_id}",
                "userId": key_id,
            }
        }
    return {
        **context,
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
