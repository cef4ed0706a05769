"""Parameters of every method, made once for both clients: what a caller may say, checked here, and how it is written on the
wire.

What must not live here: sockets, tasks, threads.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from scheduler import __version__
from scheduler.client.session import CannotConnect
from scheduler.errors import BadAnswer, SchedulerError
from scheduler.limits import LIST_PAGE_MAX

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

__all__ = [
    "CONFIGURATION_KEYS",
    "UPLOAD_CHUNK_BYTES",
    "Address",
    "address_of",
    "cannot_connect",
    "configuration",
    "deploy_request",
    "hello_request",
    "invoke_params",
    "is_text",
    "logs_request",
    "map_from",
    "next_chunk",
    "provision_request",
    "take_received",
    "without_none",
]

UPLOAD_CHUNK_BYTES: Final = (
    1024 * 1024
)  # the service takes up to 4 MiB; one keeps the progress fluent and others' calls unhindered
LIST_PAGE: Final = LIST_PAGE_MAX
LOGS_WAIT_MS: Final = 5_000  # one long poll of `follow`
LOGS_LIMIT_BYTES: Final = 256 * 1024

CONFIGURATION_KEYS: Final = (
    "handler",
    "runtime",
    "memory_mb",
    "timeout_s",
    "ephemeral_storage_mb",
    "environment",
    "reserved_concurrency",
    "weight",
    "tenant",
    "queue_timeout_ms",
    "snapshot",
    "freeze",
    "runtime_client",
    "kms_key_arn",
    "secrets",
    "keys",
    "description",
    "network",
    "log_format",
    "application_log_level",
    "system_log_level",
    "log_group",
    "tracing",
    "recursive_loop",
    "snap_start",
    "tenancy",
    "dead_letter_arn",
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where the service is: the path of its Unix socket, or host and port, where `tls` encrypts if there is one."""

    path: str = ""
    host: str = ""
    port: int = 0
    tls: ssl.SSLContext | None = None

    @property
    def needs_hello(self) -> bool:
        """A Unix socket's peer is known by the kernel."""
        return not self.path

    def __str__(self) -> str:
        if self.path:
            return os.path.abspath(self.path)  # whoever reads it may be elsewhere
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'tcp'}://{host}:{self.port}"


def address_of(target: str | os.PathLike[str] | tuple[str, int], tls: bool | ssl.SSLContext = False) -> Address:
    """A path of a Unix socket, `(host, port)`, `"tcp://host:port"` or `"tls://host:port"`, with TLS where the target or `tls`
    says so. ValueError: none of them, or TLS on a Unix socket."""
    if isinstance(target, tuple):
        host, port = target
        return _tcp(host, int(port), tls)
    text = os.fspath(target)
    scheme, _, rest = text.rpartition("://")
    if scheme not in ("tcp", "tls"):
        if not text:
            raise ValueError("the socket's path is empty")
        if tls:
            raise ValueError(f"TLS goes with tcp://HOST:PORT or tls://HOST:PORT, not with the Unix socket {text!r}")
        return Address(path=text)
    host, colon, port_text = rest.rpartition(":")
    if not colon or not host or not (port_text.isascii() and port_text.isdigit()) or not 0 < int(port_text) < 65536:
        raise ValueError(f"{text!r} is not {scheme}://HOST:PORT")
    return _tcp(host.removeprefix("[").removesuffix("]"), int(port_text), tls or scheme == "tls")


def _tcp(host: str, port: int, tls: bool | ssl.SSLContext) -> Address:
    if tls is False:
        return Address(host=host, port=port)
    from scheduler.client.tls import context_of  # half of a program's start, where it is not needed

    return Address(host=host, port=port, tls=context_of(tls))


def is_text(payload: Any) -> bool:
    """Whether the payload is the event's JSON text, passed byte for byte; anything else is the event itself."""
    return isinstance(payload, (bytes, str, bytearray, memoryview))


def invoke_params(name: str, payload: Any, options: Mapping[str, Any]) -> list[Any]:
    """`[name, payload]` or `[name, payload, options]` with the options that were given."""
    given = {key: value for key, value in options.items() if value is not None and value is not False}
    context = given.get("client_context")
    if isinstance(context, str):
        given["client_context"] = context.encode()
    if given.get("type") == "sync":
        del given["type"]
    return [name, payload, given] if given else [name, payload]


def configuration(given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that were given (not None). ValueError names a key that no function has."""
    for key in given:
        if key not in CONFIGURATION_KEYS:
            raise ValueError(f"{key!r} is no configuration key; there are {', '.join(CONFIGURATION_KEYS)}")
    made = {key: dict(value) if key == "environment" else value for key, value in given.items() if value is not None}
    if made.get("reserved_concurrency") == "none":
        made["reserved_concurrency"] = None
    return made


def without_none(**given: Any) -> dict[str, Any]:
    return {key: value for key, value in given.items() if value is not None}


def hello_request(token: str | None) -> dict[str, Any]:
    return without_none(client="scheduler-python", version=__version__, token=token)


def deploy_request(name: str, sha256: str, kind: str, publish: bool, settings: Mapping[str, Any]) -> dict[str, Any]:
    request = {"name": name, "code_sha256": sha256, "code_kind": kind, **settings}
    return {**request, "publish": True} if publish else request


def logs_request(
    name: str, cursor: Any, limit_bytes: int, wait_ms: int | None, request_id: str | None, since_ms: int | None
) -> dict[str, Any]:
    return without_none(
        name=name, cursor=cursor, limit_bytes=limit_bytes, wait_ms=wait_ms, request_id=request_id, since_ms=since_ms
    )


def provision_request(name: str, count: int | None, windows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    request: dict[str, Any] = {"name": name}
    if count is not None:
        request["provisioned"] = count
    return {**request, "windows": [dict(window) for window in windows]} if windows else request


def map_from(answer: Any) -> dict[str, Any]:
    """BadAnswer: it is no map."""
    if not isinstance(answer, dict):
        raise BadAnswer(f"the answer is {type(answer).__name__}, not a map")
    return answer


def next_chunk(data: bytes, sha256: str, offset: int) -> dict[str, Any]:
    """The request of `code.put` that sends what stands at `offset`."""
    return {"sha256": sha256, "size": len(data), "offset": offset, "data": data[offset : offset + UPLOAD_CHUNK_BYTES]}


def take_received(answer: Any, offset: int, size: int) -> tuple[int, bool]:
    """The next offset, and whether the service has the whole. BadAnswer: it would have us send for ever."""
    received = answer.get("received") if isinstance(answer, dict) else None
    if type(received) is not int or not 0 <= received <= size:
        raise BadAnswer(f"code.put answered received = {received!r} of {size:,} bytes")
    complete = answer.get("complete") is True
    if not complete and received <= offset:
        raise BadAnswer(f"code.put stands still at {received:,} of {size:,} bytes")
    return received, complete


def cannot_connect(address: Address, error: Exception) -> SchedulerError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return CannotConnect(f"cannot connect to {address}: {why}")
