"""The channel's bytes: numbers and layouts of docs/internals/channel.md, nothing else.

No input or output and no decisions here; `loop` reads frames, `channel` writes them.
"""

from struct import Struct

__all__ = [
    "CALL",
    "CALL_HEAD",
    "CALL_HEAD_BYTES",
    "CALL_MSGPACK",
    "EXTENSION",
    "EXTENSION_CLIENT_CONTEXT",
    "EXTENSION_FUNCTION_ARN",
    "EXTENSION_TENANT_ID",
    "EXTENSION_TRACE",
    "FRAME_BYTES_MAX",
    "HANDBACK",
    "HEADER",
    "HEADER_BYTES",
    "IMAGE",
    "INIT_ERROR",
    "LOG",
    "LOG_BYTES_MAX",
    "PAGE_BYTES",
    "PROGRESS_WORD",
    "READY",
    "REQUEST_ID_BYTES",
    "RESPONSE_BYTES_MAX",
    "RESULT",
    "RESULT_FUNCTION_ERROR",
    "RESULT_HEAD",
    "RESULT_MSGPACK",
    "RESULT_TOO_LARGE",
    "SHELF_AT",
    "SHELF_BYTES_WORD",
    "SHELF_GENERATION_WORD",
    "SNAPSHOT",
    "SNAPSHOT_ASKS",
    "START",
    "STOP",
    "extensions",
    "frame",
]

HEADER = Struct("<IBBHIIQ")  # length, kind, flags, extra, seq, reserved, time_ns
HEADER_BYTES = 24
CALL_HEAD = Struct("<IBBHIIQ16s")  # a header and the request id that opens a CALL's body
CALL_HEAD_BYTES = 40
RESULT_HEAD = Struct("<IBBHIIQQ")  # a header and the end_ns that opens a RESULT's body

START, CALL, STOP, IMAGE = 1, 2, 3, 4
RESULT, LOG, READY, INIT_ERROR, HANDBACK, SNAPSHOT = 16, 17, 18, 19, 20, 21

CALL_MSGPACK = 1
RESULT_MSGPACK, RESULT_FUNCTION_ERROR, RESULT_TOO_LARGE = 1, 2, 4
SNAPSHOT_ASKS = 1

EXTENSION = Struct("<BBH")  # tag, 0, length
EXTENSION_TRACE, EXTENSION_CLIENT_CONTEXT, EXTENSION_FUNCTION_ARN, EXTENSION_TENANT_ID = 1, 2, 3, 4

REQUEST_ID_BYTES = CALL_HEAD_BYTES - HEADER_BYTES
REQUEST_BYTES_MAX = 6_291_456
RESPONSE_BYTES_MAX = 6_291_556
LOG_BYTES_MAX = 65_536
PAGE_BYTES = 32_768  # shared with the service: words, then the shelf
PROGRESS_WORD, SHELF_GENERATION_WORD, SHELF_BYTES_WORD = 0, 1, 2  # u64 each
SHELF_AT = 64
FRAME_BYTES_MAX = HEADER_BYTES + REQUEST_ID_BYTES + 65_535 + REQUEST_BYTES_MAX


def frame(kind: int, body: bytes = b"", *, seq: int = 0) -> bytes:
    """One whole frame without flags and time."""
    return HEADER.pack(len(body), kind, 0, 0, seq, 0, 0) + body


def extensions(block: bytes) -> dict[int, bytes]:
    """Tag to bytes of a CALL's extension block. ValueError when a length points past its end."""
    found = {}
    at = 0
    while at < len(block):
        if len(block) - at < EXTENSION.size:
            raise ValueError(f"extension block: {len(block) - at} stray bytes at its end")
        tag, _, length = EXTENSION.unpack_from(block, at)
        at += EXTENSION.size
        if length > len(block) - at:
            raise ValueError(f"extension {tag}: {length} bytes, but only {len(block) - at} are left")
        found[tag] = block[at : at + length]
        at += length
    return found
