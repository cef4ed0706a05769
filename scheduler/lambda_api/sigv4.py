"""Signature Version 4, checked: every form that AWS's clients use towards Lambda, and what is wrong in AWS's words.

Law of this file: pure, but for the clock, which is an argument. The engine checks the usual form by itself
(native/reactor/sigv4.c) and hands everything else over; tests run both over the same vectors. Source: "Signature Version 4
signing process" (AWS General Reference), "Signature calculations for chunked upload" (Amazon S3 API reference).

Forms: an Authorization header; the same in the query (presigned); a body that is unsigned (UNSIGNED-PAYLOAD), or comes in
signed chunks (STREAMING-AWS4-HMAC-SHA256-PAYLOAD).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote

from scheduler.lambda_api.errors import LambdaError

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduler.accesskeys import AccessKey
    from scheduler.lambda_api.wire import Request

__all__ = ["SKEW_S", "check", "may_verify"]

ALGORITHM: Final = "AWS4-HMAC-SHA256"
SKEW_S: Final = 300
EXPIRES_S_MAX: Final = 604_800
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
CHUNKED: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
EMPTY: Final = hashlib.sha256(b"").hexdigest()
CHUNKS_MAX: Final = 4096
_CHUNK: Final = re.compile(rb"([0-9a-fA-F]{1,8});chunk-signature=([0-9a-f]{64})\r\n")


@dataclass(frozen=True, slots=True)
class _Claim:
    """What a request says of its signature. expires_s: of a presigned one."""

    key_id: str
    day: str
    region: str
    service: str
    names: tuple[str, ...]
    signature: str
    date: str
    expires_s: int | None = None

    @property
    def scope(self) -> str:
        return f"{self.day}/{self.region}/{self.service}/aws4_request"


def check(
    request: Request, find: Callable[[str], AccessKey | None], now_s: float, *, service: str = "lambda"
) -> tuple[AccessKey, Request]:
    """The key that signed it, and the request as its client meant it: without the signature's part of the query, and with the
    body that was in signed chunks whole. service: that it must be signed for. LambdaError: it was not signed, or not like
    this."""
    claim = _claim(request)
    _check_time(claim, now_s)
    key = find(claim.key_id)
    if key is None:
        raise LambdaError("UnrecognizedClientException", "The security token included in the request is invalid.")
    if claim.service != service:
        raise _incomplete(f"Credential should be scoped to correct service: '{service}'.")
    _check_names(request, claim)
    signing = _signing_key(key.secret, claim)
    digest = hashlib.sha256(request.body).hexdigest()
    told = request.headers.get("x-amz-content-sha256", digest)
    if told not in (UNSIGNED, CHUNKED, digest):
        raise LambdaError(
            "InvalidSignatureException", "The provided 'x-amz-content-sha256' header does not match what was computed."
        )
    made = _signature(signing, request, claim, told)
    if not hmac.compare_digest(made.encode(), claim.signature.encode("utf-8", "replace")):
        raise LambdaError(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
            "and signing method. Consult the service documentation for details.",
        )
    meant = request
    if told == CHUNKED:
        meant = replace(meant, body=_unchunk(request, signing, claim))
    if claim.expires_s is not None:
        kept = [part for part in request.query.split("&") if not part.lower().startswith("x-amz-")]
        meant = replace(meant, query="&".join(kept))
    return key, meant


def may_verify(request: Request, find: Callable[[str], AccessKey | None], now_s: float) -> bool:
    """What can be said before the body is there: it names a key that exists, and a time that is now."""
    try:
        claim = _claim(request)
        _check_time(claim, now_s)
    except LambdaError:
        return False
    return find(claim.key_id) is not None


# ---- what it says ----------------------------------------------------------------------------------------------------------


def _claim(request: Request) -> _Claim:
    header = request.headers.get("authorization")
    if header is None:
        return _presigned(request)
    algorithm, _, rest = header.partition(" ")
    if algorithm != ALGORITHM:
        raise _incomplete(f"Unsupported AWS 'algorithm': '{algorithm[:64]}' in Authorization")
    fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    for name in ("Credential", "Signature", "SignedHeaders"):
        if not fields.get(name):
            raise _incomplete(f"Authorization header requires '{name}' parameter.")
    date = request.headers.get("x-amz-date")
    if date is None:
        raise _incomplete("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    return _make(fields["Credential"], fields["SignedHeaders"], fields["Signature"], date)


def _presigned(request: Request) -> _Claim:
    found = request.fields()
    twice = next((key for key, values in found.items() if key.lower().startswith("x-amz-") and len(values) > 1), None)
    if twice is not None:
        raise _incomplete(f"{twice[:64]}: stands twice in the query")
    fields = {key: values[0] for key, values in found.items()}
    if "X-Amz-Signature" not in fields:
        raise LambdaError("MissingAuthenticationTokenException", "Missing Authentication Token")
    if fields.get("X-Amz-Algorithm") != ALGORITHM:
        raise _incomplete(f"X-Amz-Algorithm: {fields.get('X-Amz-Algorithm', '')[:64]!r} is not {ALGORITHM}")
    expires = fields.get("X-Amz-Expires", "")
    if not (expires.isascii() and expires.isdigit()) or not 1 <= int(expires) <= EXPIRES_S_MAX:
        raise _incomplete(f"X-Amz-Expires: {expires[:32]!r} is not 1 to {EXPIRES_S_MAX}")
    made = _make(
        fields.get("X-Amz-Credential", ""),
        fields.get("X-Amz-SignedHeaders", ""),
        fields["X-Amz-Signature"],
        fields.get("X-Amz-Date", ""),
    )
    return replace(made, expires_s=int(expires))


def _make(credential: str, names: str, signature: str, date: str) -> _Claim:
    parts = credential.split("/")
    if len(parts) != 5 or parts[4] != "aws4_request":
        raise _incomplete(f"Credential must be KEY/DATE/REGION/SERVICE/aws4_request, is {credential[:128]!r}")
    return _Claim(parts[0], parts[1], parts[2], parts[3], tuple(names.split(";")), signature, date)


def _check_time(claim: _Claim, now_s: float) -> None:
    try:
        signed = datetime.strptime(claim.date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise _incomplete(f"X-Amz-Date: {claim.date[:32]!r} is not YYYYMMDD'T'HHMMSS'Z'") from None
    if not claim.date.startswith(claim.day) or len(claim.day) != 8:
        raise LambdaError(
            "InvalidSignatureException",
            f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP: '{claim.day[:32]}'",
        )
    age_s = now_s - signed.timestamp()
    now = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    if age_s > (SKEW_S if claim.expires_s is None else claim.expires_s):
        limit = f"{now} - {SKEW_S // 60} min." if claim.expires_s is None else f"{now} - {claim.expires_s} s"
        raise LambdaError("InvalidSignatureException", f"Signature expired: {claim.date} is now earlier than {limit}")
    if age_s < -SKEW_S:
        raise LambdaError(
            "InvalidSignatureException",
            f"Signature not yet current: {claim.date} is still later than {now} + {SKEW_S // 60} min.",
        )


def _check_names(request: Request, claim: _Claim) -> None:
    names = claim.names
    if list(names) != sorted(set(names)) or "host" not in names:
        raise _incomplete("SignedHeaders: must be sorted, without doubles, and with 'host' among them")
    for name in request.headers:
        if name.startswith("x-amz-") and name not in names:
            raise LambdaError("InvalidSignatureException", f"'{name}' must be a 'SignedHeader' in the AWS Authorization.")
    for name in names:
        if name not in request.headers:
            raise LambdaError("InvalidSignatureException", f"'{name[:64]}' is signed, but is not in the request")


def _incomplete(text: str) -> LambdaError:
    return LambdaError("IncompleteSignatureException", text)


# ---- the signature -----------------------------------------------------------------------------------------------------------


def _mac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), hashlib.sha256)


def _signing_key(secret: str, claim: _Claim) -> bytes:
    return _mac(_mac(_mac(_mac(b"AWS4" + secret.encode(), claim.day), claim.region), claim.service), "aws4_request")


def _signature(signing: bytes, request: Request, claim: _Claim, body_hash: str) -> str:
    canonical = "\n".join(
        (
            request.method,
            quote(_normal(request.path), safe="/~"),
            _query(request.query),
            *(f"{name}:{_squeezed(request.headers[name])}" for name in claim.names),
            "",
            ";".join(claim.names),
            body_hash,
        )
    )
    # Headers were read as Latin-1, so this gives the bytes that were sent, which are those that were signed.
    digest = hashlib.sha256(canonical.encode("latin-1", "replace")).hexdigest()
    return _mac(signing, "\n".join((ALGORITHM, claim.date, claim.scope, digest))).hex()


def _normal(path: str) -> str:
    """Without empty, `.` and `..` segments, as clients sign it; a slash at its end stays."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == "..":
            kept = kept[:-1]
        elif part not in ("", "."):
            kept.append(part)
    return "/" + "/".join(kept) + ("/" if kept and path.endswith("/") else "")


def _query(query: str) -> str:
    pairs = [part.partition("=")[::2] for part in query.split("&") if part]
    return "&".join(
        f"{key}={value}"
        for key, value in sorted((_encoded(key), _encoded(value)) for key, value in pairs)
        if key != "X-Amz-Signature"
    )


def _encoded(text: str) -> str:
    """As RFC 3986 has it, however the client wrote it."""
    return quote(unquote(text), safe="-_.~")


def _squeezed(value: str) -> str:
    return re.sub(" +", " ", value.strip(" \t"))


# ---- chunks ------------------------------------------------------------------------------------------------------------


def _unchunk(request: Request, signing: bytes, claim: _Claim) -> bytes:
    """The body out of its signed chunks; each chunk's signature covers the one before."""
    data, at = request.body, 0
    parts: list[bytes] = []
    before = claim.signature
    for _ in range(CHUNKS_MAX):
        head = _CHUNK.match(data, at)
        if head is None:
            break
        size = int(head[1], 16)
        part = data[head.end() : head.end() + size]
        text = "\n".join(("AWS4-HMAC-SHA256-PAYLOAD", claim.date, claim.scope, before, EMPTY, hashlib.sha256(part).hexdigest()))
        made = _mac(signing, text).hex()
        if len(part) != size or not hmac.compare_digest(made, head[2].decode()):
            raise LambdaError("InvalidSignatureException", "a chunk of the body does not have the signature that it says")
        before = made
        at = head.end() + size
        if data[at : at + 2] != b"\r\n":
            break
        at += 2
        if size == 0:
            whole = b"".join(parts)
            if at != len(data) or request.headers.get("x-amz-decoded-content-length", str(len(whole))) != str(len(whole)):
                break
            return whole
        parts.append(part)
    raise LambdaError("IncompleteSignatureException", "the body is not in signed chunks as x-amz-content-sha256 says")
