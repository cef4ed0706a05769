"""A TLS connection that behaves as a plain non-blocking socket, so that both clients can use either without knowing which.

What lives here: contexts, handshakes, and a socket whose `send` and `recv` raise BlockingIOError where there is nothing to do.
It is imported only where TLS is asked for.

Waiting for the socket is enough, though TLS has a buffer of its own: a record holds 16 KiB at most and each is read whole, so
that whatever is left is still in the kernel, which tells of it.
"""

from __future__ import annotations

import contextlib
import ssl
import threading
from typing import TYPE_CHECKING, Final

from scheduler.client.session import CannotConnect

if TYPE_CHECKING:
    import os
    import socket

    from scheduler.client.methods import Address

__all__ = ["HANDSHAKE_S", "TlsFailed", "TlsSocket", "begin", "context_of", "failed", "shake_hands", "trusting"]

HANDSHAKE_S: Final = 10.0
RECORD_BYTES_MAX: Final = 16 * 1024


class TlsFailed(CannotConnect):
    """Made here, never sent: who listens there speaks no TLS, or has no certificate that is trusted. Nothing was sent."""

    default_message = "TLS could not be agreed on"


def context_of(tls: bool | ssl.SSLContext) -> ssl.SSLContext:
    """True: the system's authorities are trusted, and the name is checked."""
    return trusting(None) if tls is True or tls is False else tls


def trusting(ca_file: str | os.PathLike[str] | None) -> ssl.SSLContext:
    """Trusts the authorities in `ca_file` (PEM) and no others; None: the system's. OSError: it cannot be read; an ssl.SSLError:
    it holds none."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class TlsSocket:
    """What the clients use of a socket. May be used from several threads: each operation is one step that never waits."""

    def __init__(self, connection: ssl.SSLSocket) -> None:
        self._ssl = connection
        self._lock = threading.Lock()  # OpenSSL's connections are not for two threads at once

    def fileno(self) -> int:
        return self._ssl.fileno()

    def send(self, data: bytes | memoryview) -> int:
        """How much of `data` was taken. BlockingIOError: none. The next send must begin with what was not taken."""
        view, taken = memoryview(data), 0
        with self._lock:
            while taken < len(view):
                try:
                    taken += self._ssl.send(view[taken : taken + RECORD_BYTES_MAX])
                except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    if not taken:
                        raise BlockingIOError from None
                    break
        return taken

    def recv(self, most: int) -> bytes:
        """What is there, `most` at most; b"" at the end. BlockingIOError: nothing yet."""
        parts: list[bytes] = []
        size = 0
        with self._lock:
            while size + RECORD_BYTES_MAX <= most:
                try:
                    data = self._ssl.recv(RECORD_BYTES_MAX)
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    if not parts:
                        raise BlockingIOError from None
                    break
                except OSError:
                    if not parts:
                        raise
                    break  # it comes again with the next call
                if not data:
                    break
                parts.append(data)
                size += len(data)
        return b"".join(parts)

    def close(self) -> None:
        """Says that this is the end, so far as the kernel takes it at once, and closes."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            self._ssl.unwrap()
        self._ssl.close()

    def detach(self) -> int:
        """The descriptor, with nothing said to the peer."""
        return self._ssl.detach()


def begin(sock: socket.socket, address: Address) -> ssl.SSLSocket:
    """A connected socket, which belongs to the result from then on, before its handshake; it does not block."""
    assert address.tls is not None
    sock.setblocking(False)
    return address.tls.wrap_socket(sock, server_hostname=address.host, do_handshake_on_connect=False)


def shake_hands(sock: socket.socket, address: Address, timeout_s: float | None) -> TlsSocket:
    """The handshake on a connected socket; blocks, for HANDSHAKE_S at most. TlsFailed: the socket is closed."""
    connection = begin(sock, address)
    try:
        connection.settimeout(min(timeout_s or HANDSHAKE_S, HANDSHAKE_S))
        connection.do_handshake()
        connection.setblocking(False)
    except BaseException as error:
        connection.close()
        if isinstance(error, OSError):
            raise failed(address, error) from error
        raise
    return TlsSocket(connection)


def failed(address: Address, error: Exception) -> TlsFailed:
    """What went wrong in the handshake, in words for who typed the address."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
    elif isinstance(error, TimeoutError):
        why = "it did not answer the TLS handshake in time"
    elif isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        why = "what answers there does not speak TLS"
    elif isinstance(error, ssl.SSLError) and error.reason and not isinstance(error, ssl.SSLEOFError):
        why = f"TLS: {error.reason.replace('_', ' ').lower()}"
    else:
        why = "it closed the connection in the TLS handshake"
    return TlsFailed(f"cannot connect to {address}: {why}")
