"""One HTTP request and its answer, to a key server: h11 on trio, TLS where the address says so.

Law of this file: bytes and time limits; it knows no key server. A connection for each request: data keys are kept by who asks
for them, so there is no path here that is hot. Nothing that is sent or comes back is logged or put into an error's text.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import h11
import trio

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Address", "Answer", "CannotAsk", "exchange"]

TIMEOUT_S: Final = 3.0
ANSWER_BYTES_MAX: Final = 1 << 20


class CannotAsk(Exception):
    """No answer: it cannot be reached, or it is no HTTP. The text says which, and where."""


@dataclass(frozen=True, slots=True)
class Address:
    """Made by parse()."""

    host: str
    port: int
    prefix: str
    tls: ssl.SSLContext | None

    @classmethod
    def parse(cls, url: str, ca_file: Path | None = None) -> Address:
        """http:// or https://, host, and a path to put before those that are asked for. ValueError: it is none; OSError: the
        file of authorities cannot be read."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ValueError(f"{url!r} is not http://HOST[:PORT] or https://HOST[:PORT]")
        context = ssl.create_default_context(cafile=ca_file) if parts.scheme == "https" else None
        return cls(parts.hostname, parts.port or (443 if context else 80), parts.path.rstrip("/"), context)

    @property
    def authority(self) -> str:
        """As the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = field(repr=False)


async def exchange(
    address: Address, method: str, path: str, headers: Sequence[tuple[str, str]], body: bytes, *, timeout_s: float = TIMEOUT_S
) -> Answer:
    """path: with its slash; the address's prefix goes before it. CannotAsk."""
    try:
        with trio.fail_after(timeout_s):
            return await _exchange(address, method, path, headers, body)
    except trio.TooSlowError:
        raise CannotAsk(f"{address.authority}: no answer within {timeout_s:g} s") from None
    except ssl.SSLError as error:
        raise CannotAsk(f"{address.authority}: TLS: {error.reason or 'failed'}") from None
    except trio.BrokenResourceError as error:  # trio's wrapping of what TLS found
        cause = error.__cause__
        told = getattr(cause, "verify_message", None) or getattr(cause, "reason", None) or "the connection broke"
        raise CannotAsk(f"{address.authority}: {told}") from None
    except OSError as error:
        raise CannotAsk(f"{address.authority}: {error.strerror or 'cannot be reached'}") from None
    except h11.ProtocolError:
        raise CannotAsk(f"{address.authority}: does not speak HTTP/1.1") from None


async def _exchange(address: Address, method: str, path: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
    stream: trio.abc.Stream = await trio.open_tcp_stream(address.host, address.port)
    try:
        if address.tls is not None:
            stream = trio.SSLStream(stream, address.tls, server_hostname=address.host, https_compatible=True)
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=64 * 1024)
        head = [("Host", address.authority), *headers, ("Content-Length", str(len(body))), ("Connection", "close")]
        request = h11.Request(method=method, target=address.prefix + path, headers=head)
        data = (http.send(request) or b"") + (http.send(h11.Data(data=body)) or b"") + (http.send(h11.EndOfMessage()) or b"")
        await stream.send_all(data)
        status, parts, held = 0, [], 0
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(65536)))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                held += len(event.data)
                if held > ANSWER_BYTES_MAX:
                    raise CannotAsk(f"{address.authority}: answers with more than {ANSWER_BYTES_MAX} bytes")
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return Answer(status, b"".join(parts))
            elif isinstance(event, h11.ConnectionClosed):
                raise CannotAsk(f"{address.authority}: closed the connection without an answer")
    finally:
        await trio.aclose_forcefully(stream)
