"""Lambda's error object: what a caller gets when a function fails.

Keys are errorMessage, errorType, requestId and stackTrace, in Lambda's order. A stack trace is the list that
traceback.format_list() gives, the frames of this package in front taken off.
"""

import os
import traceback

from .frames import RESPONSE_BYTES_MAX
from .payloads import to_json

__all__ = ["Fault", "error_bytes", "error_object", "from_exception", "text_of", "too_large"]

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
MESSAGE_CHARS_KEPT = 65_536  # of an error that would not fit into an answer


class Fault(Exception):
    """An error the runtime itself raises, with Lambda's own type name ("Runtime.…") and message."""

    def __init__(self, error_type: str, message: str, trace: list[str] | None = None) -> None:
        super().__init__(message)
        self.error_type = error_type
        self.message = message
        self.trace = trace or []


def error_object(error_type: str, message: str, request_id: str, trace: list[str]) -> dict[str, object]:
    return {"errorMessage": message, "errorType": error_type, "requestId": request_id, "stackTrace": trace}


def from_exception(error: BaseException, request_id: str) -> dict[str, object]:
    """The error object of anything raised by a function, or by the runtime for it."""
    if isinstance(error, Fault):
        return error_object(error.error_type, error.message, request_id, error.trace)
    return error_object(type(error).__name__, text_of(error), request_id, _trace(error))


def error_bytes(error: dict[str, object]) -> bytes:
    """As JSON, cut down where it would not fit into an answer."""
    body = to_json(error)
    if len(body) > RESPONSE_BYTES_MAX:
        message = str(error["errorMessage"])[:MESSAGE_CHARS_KEPT]
        body = to_json({**error, "errorMessage": message, "stackTrace": []})
    return body


def too_large() -> bytes:
    message = f"Response payload size exceeded maximum allowed payload size ({RESPONSE_BYTES_MAX} bytes)."
    return to_json({"errorMessage": message, "errorType": "Function.ResponseSizeTooLarge"})


def text_of(error: BaseException) -> str:
    """str() of an exception, whatever its class does."""
    try:
        return str(error)
    except Exception:  # a stranger's __str__ may raise anything; the call must be answered all the same
        return "<exception str() failed>"


def _trace(error: BaseException) -> list[str]:
    try:
        # Plain tuples, so that no carets are drawn under the lines: Lambda has none.
        frames = [(f.filename, f.lineno or 0, f.name, f.line) for f in traceback.extract_tb(error.__traceback__)]
        while frames and frames[0][0].startswith(_OURS):
            del frames[0]
        return traceback.format_list(frames)
    except Exception:  # it reads files and imports as it goes: what a function has broken may break it
        return []
