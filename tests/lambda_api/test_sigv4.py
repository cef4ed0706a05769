"""Signatures made by botocore's own signer, whole and altered, against the control plane's judge."""

from __future__ import annotations

import hashlib
import hmac
import time

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.accesskeys import AccessKey
from scheduler.lambda_api.errors import LambdaError
from scheduler.lambda_api.sigv4 import check
from scheduler.lambda_api.wire import Request

KEY = AccessKey("AKIATEST", "test", ("invoke",), None, "", "", "secret/with+marks")
PATH = "/2015-03-31/functions/arn%3Aaws%3Alambda%3Alocal%3A000000000000%3Afunction%3Aecho/invocations"


def signed(body: bytes = b"{}", *, url: str = f"http://localhost:9000{PATH}?Qualifier=%24LATEST", **headers: str):
    """A prepared request of botocore's."""
    request = botocore.awsrequest.AWSRequest("POST", url, headers=headers, data=body)
    credentials = botocore.credentials.Credentials(KEY.id, KEY.secret)
    botocore.auth.SigV4Auth(credentials, "lambda", "eu-west-1").add_auth(request)
    return request.prepare()


def as_request(prepared, body: bytes | None = None, **changed: str) -> Request:
    path, _, query = prepared.url.removeprefix("http://localhost:9000").partition("?")
    headers = {name.lower(): value.decode() if isinstance(value, bytes) else value for name, value in prepared.headers.items()}
    headers.setdefault("host", "localhost:9000")
    headers.update({name.replace("_", "-"): value for name, value in changed.items()})
    return Request("POST", path, query, headers, prepared.body if body is None else body)


def find(key_id):
    return KEY if key_id == KEY.id else None


def refused(request, now_s=None):
    with pytest.raises(LambdaError) as caught:
        check(request, find, time.time() if now_s is None else now_s)
    return caught.value.name


def test_what_botocore_signs_is_believed():
    key, meant = check(as_request(signed(b'{"a": 1}')), find, time.time())
    assert key is KEY
    assert meant.body == b'{"a": 1}'


@given(st.data())
def test_any_change_is_seen(data):
    """One byte of anything that is signed: path, query, a signed header, the body, the signature itself."""
    prepared = signed(b'{"some": "body"}', **{"X-Amz-Log-Type": "Tail"})
    request = as_request(prepared)
    what = data.draw(st.sampled_from(["path", "query", "body", "host", "x-amz-date", "x-amz-log-type", "authorization"]))
    text = {"path": request.path, "query": request.query, "body": request.body.decode()}.get(what) or request.headers[what]
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.sampled_from("aZ09/%=&x").filter(lambda c: c != text[at]))
    changed = text[:at] + new + text[at + 1 :]
    headers = dict(request.headers)
    if what not in ("path", "query", "body"):
        headers[what] = changed
    altered = Request(
        "POST",
        changed if what == "path" else request.path,
        changed if what == "query" else request.query,
        headers,
        changed.encode() if what == "body" else request.body,
    )
    assert refused(altered) in (
        "InvalidSignatureException",
        "IncompleteSignatureException",
        "UnrecognizedClientException",
    )


def test_time_is_bounded_both_ways():
    request = as_request(signed())
    now = time.time()
    check(request, find, now + 290)
    check(request, find, now - 290)
    assert refused(request, now + 310) == "InvalidSignatureException"
    assert refused(request, now - 310) == "InvalidSignatureException"


def test_what_must_be_signed_is():
    request = as_request(signed())
    assert refused(
        Request("POST", request.path, request.query, {**request.headers, "x-amz-invocation-type": "Event"}, b"{}")
    ) == ("InvalidSignatureException")
    bare = {name: value for name, value in request.headers.items() if name != "authorization"}
    assert refused(Request("POST", request.path, request.query, bare, b"{}")) == "MissingAuthenticationTokenException"


def test_an_unsigned_body():
    prepared = signed(b"anything", **{"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"})
    _, meant = check(as_request(prepared, b"something else"), find, time.time())
    assert meant.body == b"something else"


def test_a_presigned_request():
    request = botocore.awsrequest.AWSRequest("POST", f"http://localhost:9000{PATH}", data=b"")
    credentials = botocore.credentials.Credentials(KEY.id, KEY.secret)
    botocore.auth.SigV4QueryAuth(credentials, "lambda", "eu-west-1", expires=60).add_auth(request)
    prepared = request.prepare()
    given = as_request(prepared, b"")
    _, meant = check(given, find, time.time())
    assert meant.query == ""
    assert refused(given, time.time() + 61) == "InvalidSignatureException"
    assert refused(Request("POST", given.path, given.query + "&x=y", given.headers, b"")) == "InvalidSignatureException"


def chunks(parts, date, scope, seed, key=KEY.secret):
    """A body in signed chunks, as S3's clients make it."""

    def mac(k, text):
        return hmac.digest(k, text.encode(), hashlib.sha256)

    signing = b"AWS4" + key.encode()
    for part in scope.split("/"):
        signing = mac(signing, part)
    out, before = b"", seed
    for part in (*parts, b""):
        text = "\n".join(
            (
                "AWS4-HMAC-SHA256-PAYLOAD",
                date,
                scope,
                before,
                hashlib.sha256(b"").hexdigest(),
                hashlib.sha256(part).hexdigest(),
            )
        )
        before = mac(signing, text).hex()
        out += f"{len(part):x};chunk-signature={before}\r\n".encode() + part + b"\r\n"
    return out


def test_a_body_in_signed_chunks():
    whole = b'{"text": "' + b"x" * 100 + b'"}'
    prepared = signed(
        b"", **{"X-Amz-Content-SHA256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "X-Amz-Decoded-Content-Length": str(len(whole))}
    )
    authorization = as_request(prepared).headers["authorization"]
    seed = authorization.rpartition("Signature=")[2]
    date = as_request(prepared).headers["x-amz-date"]
    body = chunks([whole[:60], whole[60:]], date, f"{date[:8]}/eu-west-1/lambda/aws4_request", seed)
    _, meant = check(as_request(prepared, body), find, time.time())
    assert meant.body == whole
    for at in range(0, len(body), 7):
        damaged = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        assert refused(as_request(prepared, damaged)) in ("InvalidSignatureException", "IncompleteSignatureException")
    assert refused(as_request(prepared, body[:-5])) == "IncompleteSignatureException"
