"""The root logger's handler as Lambda's runtime installs it, in its two formats, and the log line of a failed call."""

import json
import logging
import os
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from .payloads import to_json

__all__ = ["failure_line", "set_up_logging"]

_TEXT = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
_TEXT_TIME = "%Y-%m-%dT%H:%M:%S"
_JSON_TIME = "%Y-%m-%dT%H:%M:%SZ"
_NO_BREAK_SPACE = "\u00a0"  # Lambda indents a traceback's lines with it

_OWN_FIELDS = frozenset(logging.LogRecord("", 0, "", 0, "", None, None).__dict__) | {
    "message", "asctime", "aws_request_id", "tenant_id", "taskName",
}  # fmt: skip


class LambdaLoggerHandler(logging.Handler):
    """Writes to the channel itself, so that a handler that replaces sys.stdout keeps its log."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # a stranger's arguments may fail to format: logging's own way to say so
            self.handleError(record)
        else:
            self._write(text.encode("utf-8", "backslashreplace"))


class LambdaLoggerFilter(logging.Filter):
    """Gives each record the ids of the call that runs. request_id, tenant_id: ask for them."""

    def __init__(self, request_id: Callable[[], str], tenant_id: Callable[[], "str | None"]) -> None:
        super().__init__()
        self._request_id = request_id
        self._tenant_id = tenant_id

    def filter(self, record: logging.LogRecord) -> bool:
        record.aws_request_id = self._request_id()
        record.tenant_id = self._tenant_id()
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line; what `extra=` brought goes beside Lambda's own keys."""

    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, tz=timezone.utc).strftime(_JSON_TIME),  # noqa: UP017
            "level": record.levelname,
            "message": record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[0] is not None:
            values["stackTrace"] = traceback.format_tb(record.exc_info[2])
            values["errorType"] = record.exc_info[0].__name__
            values["errorMessage"] = str(record.exc_info[1])
            values["location"] = f"{record.pathname}:{record.funcName}:{record.lineno}"
        values["requestId"] = getattr(record, "aws_request_id", "")
        tenant_id = getattr(record, "tenant_id", None)
        if tenant_id is not None:
            values["tenantId"] = tenant_id
        for name, value in record.__dict__.items():
            if name not in _OWN_FIELDS and name not in values:
                values[name] = value
        return json.dumps(values, ensure_ascii=False, default=str) + "\n"


def set_up_logging(
    write: Callable[[bytes], None], request_id: Callable[[], str], tenant_id: "Callable[[], str | None]" = lambda: None
) -> None:
    """Install the handler on the root logger, after AWS_LAMBDA_LOG_FORMAT (JSON or text) and AWS_LAMBDA_LOG_LEVEL."""
    logging.Formatter.converter = time.gmtime
    handler = LambdaLoggerHandler(write)
    handler.setFormatter(JsonFormatter() if _json_wanted() else logging.Formatter(_TEXT, _TEXT_TIME))
    handler.addFilter(LambdaLoggerFilter(request_id, tenant_id))
    root = logging.getLogger()
    root.addHandler(handler)
    level = _level()
    if level in logging.getLevelNamesMapping():
        root.setLevel(level)


def failure_line(error: dict[str, Any]) -> bytes:
    """What the log shows of a failed call: Lambda's lines, or one JSON object, unless the level leaves it out."""
    if _json_wanted():
        if _level() == "CRITICAL":
            return b""
        return to_json({"timestamp": time.strftime(_JSON_TIME, time.gmtime()), "level": "ERROR", **error}) + b"\n"
    lines = [f"[ERROR] {error['errorType']}" + (f": {error['errorMessage']}" if error["errorMessage"] else "")]
    lines.append("Traceback (most recent call last):")
    for entry in error["stackTrace"]:
        for line in entry.splitlines():
            text = line.lstrip(" ")
            lines.append(_NO_BREAK_SPACE * (len(line) - len(text)) + text)
    return ("\n".join(lines) + "\n").encode("utf-8", "backslashreplace")


def _level() -> str:
    """As Python's logging calls it."""
    level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
    return {"TRACE": "DEBUG", "FATAL": "CRITICAL"}.get(level, level)


def _json_wanted() -> bool:
    return os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"
