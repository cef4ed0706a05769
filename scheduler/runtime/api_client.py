"""The Runtime API's bytes, over one connection that is kept.

An answer and the question for the next call go out in one piece: requests on a connection are answered in their order, so
that saves a write and a wake-up for each call. The reader takes what a server of HTTP/1.1 may send here: a length, or chunks.
"""

import socket
from dataclasses import dataclass

from .frames import RESPONSE_BYTES_MAX

__all__ = ["ApiBroken", "ApiCall", "ApiClient", "Gone"]

ROOT = "/2018-06-01/runtime/"
HEAD_BYTES_MAX = 256 * 1024
BODY_BYTES_MAX = 64 * 1024 * 1024
PIECE_BYTES = 64 * 1024
ERROR_TYPE_CHARS_MAX = 256


class Gone(Exception):
    """The other side has closed the connection."""


class ApiBroken(Exception):
    """The other side speaks no HTTP, or refuses to give a call."""


@dataclass(slots=True)
class ApiCall:
    """deadline_ms: since 1970. Texts are None where the API did not send them."""

    id: str
    arn: str | None
    deadline_ms: int
    trace: str | None
    client_context: bytes | None
    cognito: str | None
    tenant: str | None
    body: bytes


class ApiClient:
    """address: "host:port". OSError: nobody is there."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._host = address
        self._have = bytearray()
        self._next = f"GET {ROOT}invocation/next HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()

    def next(self) -> ApiCall:
        """Waits for a call. Gone, ApiBroken."""
        self._socket.sendall(self._next)
        return self._call()

    def respond(self, request_id: str, body: bytes) -> str | None:
        """Answers, and asks for the next call, which call() gives. Why the answer was refused, if it was."""
        return self._post(f"invocation/{request_id}/response", "Content-Type: application/json\r\n", body, self._next)

    def fail(self, request_id: str, error_type: str, body: bytes) -> str | None:
        """The same with an error."""
        return self._post(f"invocation/{request_id}/error", _error_headers(error_type), body, self._next)

    def fail_init(self, error_type: str, body: bytes) -> None:
        """The last word of a process whose init failed."""
        self._post("init/error", _error_headers(error_type), body, b"")

    def call(self) -> ApiCall:
        """What was asked for with an answer."""
        return self._call()

    def _post(self, what: str, headers: str, body: bytes, behind: bytes) -> str | None:
        head = f"POST {ROOT}{what} HTTP/1.1\r\nHost: {self._host}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode("latin-1") + body + behind)
        status, _, answer = self._response()
        return f"{status} {answer[:500].decode('utf-8', 'replace')}" if status >= 300 else None

    def _call(self) -> ApiCall:
        status, headers, body = self._response()
        if status != 200:
            raise ApiBroken(f"asked for the next call, the API answered {status}: {body[:500].decode('utf-8', 'replace')}")
        raw = headers.get
        context = raw("lambda-runtime-client-context")
        return ApiCall(
            id=headers["lambda-runtime-aws-request-id"],
            arn=raw("lambda-runtime-invoked-function-arn"),
            deadline_ms=int(raw("lambda-runtime-deadline-ms", "0")),
            trace=raw("lambda-runtime-trace-id"),
            client_context=context.encode("latin-1") if context else None,
            cognito=raw("lambda-runtime-cognito-identity"),
            tenant=raw("lambda-runtime-aws-tenant-id"),
            body=body,
        )

    # ---- one response ----

    def _more(self) -> None:
        piece = self._socket.recv(PIECE_BYTES)
        if not piece:
            raise Gone
        self._have += piece

    def _take(self, count: int) -> bytes:
        have = self._have
        if len(have) < count:
            # A large body is read to its place at once.
            at = len(have)
            have += bytes(count - at)
            with memoryview(have) as view:
                while at < count:
                    got = self._socket.recv_into(view[at:count])
                    if not got:
                        raise Gone
                    at += got
        taken = bytes(have[:count])
        del have[:count]
        return taken

    def _line(self, end: bytes, most: int) -> bytes:
        """All up to `end`, which is taken too."""
        looked = 0
        while (at := self._have.find(end, looked)) < 0:
            if len(self._have) > most:
                raise ApiBroken(f"a part of a response's head is longer than {most} bytes")
            looked = max(0, len(self._have) - len(end) + 1)
            self._more()
        line = bytes(self._have[:at])
        del self._have[: at + len(end)]
        return line

    def _response(self) -> tuple[int, dict[str, str], bytes]:
        while True:
            first, *lines = self._line(b"\r\n\r\n", HEAD_BYTES_MAX).decode("latin-1").split("\r\n")
            if not first.startswith("HTTP/1.") or not first[9:12].isdecimal():
                raise ApiBroken(f"this is no HTTP: {first[:80]!r}")
            status = int(first[9:12])
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            if headers.get("transfer-encoding", "").lower() == "chunked":
                body = self._chunks()
            else:
                length = headers.get("content-length", "0")
                if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
                    raise ApiBroken(f"a response's length is {length[:80]!r}, must be 0 to {BODY_BYTES_MAX}")
                body = self._take(int(length)) if status >= 200 else b""
            if status >= 200:
                return status, headers, body

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        while True:
            size = int(self._line(b"\r\n", HEAD_BYTES_MAX).partition(b";")[0], 16)
            if not 0 <= size <= BODY_BYTES_MAX:
                raise ApiBroken(f"a chunk of a response has {size} bytes, the limit is {BODY_BYTES_MAX}")
            if size == 0:
                while self._line(b"\r\n", HEAD_BYTES_MAX):
                    pass  # trailers
                return b"".join(parts)
            parts.append(self._take(size))
            self._take(2)


def _error_headers(error_type: str) -> str:
    shown = "".join(c if "!" <= c <= "~" else "?" for c in error_type[:ERROR_TYPE_CHARS_MAX])
    return f"Content-Type: application/json\r\nLambda-Runtime-Function-Error-Type: {shown}\r\n"


assert RESPONSE_BYTES_MAX < BODY_BYTES_MAX
