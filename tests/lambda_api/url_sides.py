"""The engine's reading of function URLs alone under Python: native/reactor/{urlevent,urlreply}.c, built as
tests/native_build.py says; and the control plane's, in the same words."""

from __future__ import annotations

import h11

from scheduler.lambda_api.errors import LambdaError
from scheduler.lambda_api.server import request_of, wire_of
from scheduler.lambda_api.url_event import make_event
from scheduler.messages import UrlAnswered
from tests.native_build import NATIVE, built

__all__ = ["NOW_S", "PEER", "REQUEST_ID", "URL_ID", "engine_event", "engine_reply", "plane_event", "plane_reply"]

REACTOR = NATIVE / "reactor"
_module = built(
    "sched_test_url",
    header=NATIVE / "tests" / "url_pure.h",
    declarations="""
        enum { PURE_ROOM = ... };
        int64_t pure_event(const uint8_t *in, size_t bytes, const char *account, const char *key_id, const char *peer,
                           const char *request_id, int64_t now_ms, uint8_t *out);
        int64_t pure_reply(const uint8_t *answer, size_t bytes, const char *request_id, bool close, uint8_t *out);
    """,
    sources=[REACTOR / name for name in ("http.c", "json.c", "urlevent.c", "urlreply.c")],
    headers=[
        NATIVE / "tests" / "url_pure.h",
        *(REACTOR / f"{n}.h" for n in ("http", "json", "urlevent", "urlreply", "writer")),
    ],
)
ffi, lib = _module.ffi, _module.lib
URL_ID = "abcdefghijklmnopqrstuvwxyz234567"
REQUEST_ID = "01234567-89ab-4cde-8f01-23456789abcd"
PEER = "192.0.2.7"
NOW_S = 1_795_557_300.125
_room = ffi.new("uint8_t[]", lib.PURE_ROOM)


def _text(text: str | None) -> object:
    return ffi.NULL if text is None else ffi.new("char[]", text.encode())


def engine_event(data: bytes, signer: tuple[str, str] | None = None) -> bytes | None:
    """None: it hands the request over."""
    kept = [_text(text) for text in (*(signer or (None, None)), PEER, REQUEST_ID)]
    size = lib.pure_event(data, len(data), *kept, int(NOW_S * 1000), _room)
    return None if size < 0 else bytes(ffi.buffer(_room, size))


def engine_reply(answer: bytes, *, close: bool = False) -> bytes | None:
    """None: it hands the answer over."""
    size = lib.pure_reply(answer, len(answer), _text(REQUEST_ID), close, _room)
    return None if size < 0 else bytes(ffi.buffer(_room, size))


def plane_event(data: bytes, signer: tuple[str, str] | None = None) -> bytes | None:
    """None: it refuses the request."""
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    http.receive_data(data)
    try:
        head = http.next_event()
        if not isinstance(head, h11.Request):
            return None
        body = b""
        while isinstance(event := http.next_event(), h11.Data):
            body += event.data
        if not isinstance(event, h11.EndOfMessage) or http.trailing_data[0]:
            return None
        request, host = request_of(head, body, PEER)
        return make_event(request, host[:32], signer=signer, request_id=REQUEST_ID, now_s=NOW_S)
    except (h11.RemoteProtocolError, LambdaError):
        return None


def plane_reply(answer: bytes, *, close: bool = False) -> bytes:
    return wire_of(UrlAnswered(REQUEST_ID, answer, close))
