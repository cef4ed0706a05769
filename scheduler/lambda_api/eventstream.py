"""AWS's event-stream encoding: what InvokeWithResponseStream answers with.

Law of this file: pure. Source: "Event stream encoding", Amazon Transcribe developer guide, and Smithy's specification of it:
lengths, checksum of these, headers, payload, checksum of all.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["CHUNK_BYTES", "message", "stream"]

CHUNK_BYTES: Final = 64 * 1024
_TEXT: Final = 7  # the type of a header's value


def message(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One message."""
    fields = b"".join(
        bytes((len(name),)) + name.encode() + struct.pack(">BH", _TEXT, len(value.encode())) + value.encode()
        for name, value in headers.items()
    )
    prelude = struct.pack(">II", 16 + len(fields) + len(payload), len(fields))
    body = prelude + struct.pack(">I", zlib.crc32(prelude)) + fields + payload
    return body + struct.pack(">I", zlib.crc32(body))


def stream(payload: bytes, complete: bytes) -> Iterator[bytes]:
    """The payload in chunks, then InvokeComplete with its JSON."""
    for at in range(0, len(payload), CHUNK_BYTES):
        headers = {":message-type": "event", ":event-type": "PayloadChunk", ":content-type": "application/octet-stream"}
        yield message(headers, payload[at : at + CHUNK_BYTES])
    headers = {":message-type": "event", ":event-type": "InvokeComplete", ":content-type": "application/json"}
    yield message(headers, complete)
