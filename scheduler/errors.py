"""Every error a caller of the service can get, each with its place on the wire.

Law of this file: a leaf. One class a row of the protocol's error table, one table (`FIELDS`) for what an error map may
hold, and the two translations between them. A room that needs a finer error derives it from one of these, so that it has a
wire type by birth; nothing here knows who raises what.

    raise Throttled(account="tenant:acme", resource="concurrency", current=10, limit=10, retry_after_ms=12)
    error.to_wire()   -> {"type": "Throttled", "message": "...", "account": "tenant:acme", ...}   absent fields are left out
    from_wire(map)    -> an instance; never raises, whatever the map holds
    str(error)        -> one printable line, safe for a terminal
    error.exit_code   -> the command's exit code: 1 the function failed, 3 the service refused or cannot be reached

Class names are the wire types. None shadows a builtin; `trio.Cancelled` is another thing than `errors.Cancelled`, so import
the module and write `errors.Cancelled`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BY_TYPE",
    "FIELDS",
    "BadAnswer",
    "BadRequest",
    "Cancelled",
    "DeadlineExceeded",
    "Field",
    "FunctionError",
    "InitFailed",
    "Internal",
    "NotFound",
    "ProtocolFault",
    "RecursiveInvocation",
    "SandboxDied",
    "SchedulerError",
    "Throttled",
    "Timeout",
    "TooLarge",
    "Unauthorized",
    "Unavailable",
    "from_wire",
]

EXIT_FUNCTION_FAILED: Final = 1
EXIT_REFUSED: Final = 3
LINE_CHARS_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Field:
    """One optional key of the error map. `kinds`: what MessagePack may have made of it; another type is dropped on reading."""

    name: str
    kinds: tuple[type, ...]
    help: str


FIELDS: Final = (
    Field("request_id", (str,), "of the invocation"),
    Field("payload", (bytes, str, dict), "the function's own error object in Lambda's shape: JSON text, or the map itself"),
    Field("account", (str,), "which account of the tree refused: its name"),
    Field("resource", (str,), "which of its resources: concurrency, memory, queued_calls, queued_bytes, rate, cpu"),
    Field("current", (int,), "what the account had of it at that moment"),
    Field("limit", (int,), "the most it may have"),
    Field("retry_after_ms", (int,), "when trying again makes sense; 0: at once"),
    Field("report", (dict,), "the invocation's report"),
    Field("reason", (str,), 'finer cause: SandboxDied "exit" | "signal" | "oom"; a refused write "conflict" | "revision"'),
)


class SchedulerError(Exception):
    """Base of all errors of the service, and what an unknown wire type becomes.

    `message` is a sentence without the type. Fields are None where they do not apply; see `FIELDS` for types and meaning.
    """

    type: str = "Internal"
    exit_code: ClassVar[int] = EXIT_REFUSED
    default_message: ClassVar[str] = "the service failed"

    def __init__(
        self,
        message: str = "",
        *,
        request_id: str | None = None,
        payload: bytes | str | dict[str, Any] | None = None,
        account: str | None = None,
        resource: str | None = None,
        current: int | None = None,
        limit: int | None = None,
        retry_after_ms: int | None = None,
        report: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.payload = payload
        self.account = account
        self.resource = resource
        self.current = current
        self.limit = limit
        self.retry_after_ms = retry_after_ms
        self.report = report
        self.reason = reason
        self.message = message or self.compose()

    def compose(self) -> str:
        """The message where the raiser gave none, made of the fields."""
        return self.default_message

    @property
    def error_object(self) -> dict[str, Any] | None:
        """`payload` as a map, None where it is absent or no JSON object. Lambda's keys: errorMessage, errorType, stackTrace."""
        value: Any = self.payload
        if isinstance(value, bytes | str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):  # the function wrote it: anything may come
                return None
        return value if isinstance(value, dict) else None

    def to_wire(self) -> dict[str, Any]:
        """The error map of the protocol."""
        fields = ((field.name, getattr(self, field.name)) for field in FIELDS)
        return {"type": self.type, "message": self.message, **{name: value for name, value in fields if value is not None}}

    def __str__(self) -> str:
        text = f"{self.type}: {self.message}"
        if self.request_id is not None and self.request_id not in text:
            text += f" (request {self.request_id})"
        return one_line(text)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own pickling calls the class with positional arguments alone and would lose the fields.
        return (from_wire, (self.to_wire(),))


class FunctionError(SchedulerError):
    """The handler raised, or its answer could not be encoded; `payload` has Lambda's error object."""

    type = "FunctionError"
    exit_code = EXIT_FUNCTION_FAILED
    default_message = "the function failed"

    def compose(self) -> str:
        return _described(self)


class Timeout(SchedulerError):
    """The function's own timeout; the sandbox was killed."""

    type = "Timeout"
    exit_code = EXIT_FUNCTION_FAILED
    default_message = "the task timed out"


class SandboxDied(SchedulerError):
    """Exit, signal or out of memory, told apart in `reason`."""

    type = "SandboxDied"
    exit_code = EXIT_FUNCTION_FAILED
    default_message = "the sandbox died"

    def compose(self) -> str:
        return f"{self.default_message}: {self.reason}" if self.reason else self.default_message


class InitFailed(SchedulerError):
    """Import or init failed, or init outran its limit."""

    type = "InitFailed"
    exit_code = EXIT_FUNCTION_FAILED
    default_message = "the function's init failed"

    def compose(self) -> str:
        return _described(self)


class Throttled(SchedulerError):
    """A limit of concurrency, rate or queue; `account` and `resource` name which."""

    type = "Throttled"
    default_message = "a limit was reached"

    def compose(self) -> str:
        parts = [f"account {self.account}"] if self.account is not None else []
        if self.resource is not None:
            parts.append(f"resource {self.resource}")
        if self.current is not None and self.limit is not None:
            parts.append(f"{self.current} of {self.limit} in use")
        text = ", ".join(parts) or self.default_message
        if self.retry_after_ms is not None:
            text += f"; retry after {self.retry_after_ms} ms"
        return text

    def __str__(self) -> str:
        # Whatever sentence the service chose, the line names who refused, what, and when to come back: each thing once, in
        # whatever words the sentence has it.
        line = super().__str__()
        used = f"{self.current} of {self.limit}" if self.current is not None and self.limit is not None else ""
        retry = f"retry after {self.retry_after_ms} ms" if self.retry_after_ms is not None else ""
        missing = [
            text
            for words, text in (
                (self.account, f"account {self.account}"),
                (self.resource, f"resource {self.resource}"),
                (used, f"{used} in use"),
                (retry, retry),
            )
            if words and not _says(line, words)
        ]
        return one_line(f"{line} [{', '.join(missing)}]") if missing else line


class DeadlineExceeded(SchedulerError):
    """The caller's deadline passed before the function could start."""

    type = "DeadlineExceeded"
    default_message = "the caller's deadline passed before the function could start"


class NotFound(SchedulerError):
    """No such function, version or alias."""

    type = "NotFound"
    default_message = "no such function, version or alias"


class TooLarge(SchedulerError):
    """Payload over the limit, or answer over it."""

    type = "TooLarge"
    default_message = "the payload is over the limit"


class RecursiveInvocation(SchedulerError):
    """The call's chain of calls has come back to the function too often, and RecursiveLoop does not allow it."""

    type = "RecursiveInvocation"
    default_message = "the call is part of a recursive loop"


class BadRequest(SchedulerError):
    """Well-formed frame with a wrong method, params, types or values; the message names field, value and limit."""

    type = "BadRequest"
    default_message = "the request is not valid"


class Unauthorized(SchedulerError):
    """Not allowed."""

    type = "Unauthorized"
    default_message = "not allowed"


class Unavailable(SchedulerError):
    """Shutting down, or the store cannot be reached. Trying again later may work."""

    type = "Unavailable"
    default_message = "the service is not available"


class Internal(SchedulerError):
    """Our bug: logged with the request id."""

    type = "Internal"
    default_message = "internal error"


class Cancelled(SchedulerError):
    """The caller cancelled the queued call."""

    type = "Cancelled"
    default_message = "the call was cancelled"


class ProtocolFault(Unavailable):
    """Made by a client, never sent: the peer does not speak the protocol, or says that we do not. The connection is useless."""

    default_message = "the peer does not speak the protocol"


class BadAnswer(ProtocolFault):
    """Made by a client, never sent: one answer has another shape than the protocol says. The connection may go on."""

    default_message = "the answer has an unexpected shape"


BY_TYPE: Final[Mapping[str, type[SchedulerError]]] = MappingProxyType(
    {
        error.type: error
        for error in (
            FunctionError,
            Timeout,
            SandboxDied,
            InitFailed,
            Throttled,
            DeadlineExceeded,
            NotFound,
            TooLarge,
            RecursiveInvocation,
            BadRequest,
            Unauthorized,
            Unavailable,
            Internal,
            Cancelled,
        )
    }
)


def from_wire(error: object) -> SchedulerError:
    """An error map of the wire to an instance.

    Never raises: unknown keys are ignored and fields of a wrong type are dropped, since a newer or broken peer must not turn
    an error into a crash. An unknown type gives a plain `SchedulerError` that keeps the type's name.
    """
    if not isinstance(error, dict):
        return Internal(f"the peer sent an error that is no map: {one_line(repr(error))}")
    wire_type = error.get("type")
    message = error.get("message")
    fields: dict[str, Any] = {}
    for field in FIELDS:
        value = error.get(field.name)
        if isinstance(value, field.kinds) and not isinstance(value, bool):
            fields[field.name] = value
    known = BY_TYPE.get(wire_type) if isinstance(wire_type, str) else None
    made = (known or SchedulerError)(message if isinstance(message, str) else "", **fields)
    if known is None and isinstance(wire_type, str) and wire_type:
        made.type = wire_type
    return made


def _says(line: str, words: str) -> bool:
    """Whether `words` stand in the line as words of their own: "cpu" is not said by "cpus", nor "0 of 1" by "10 of 1"."""
    return re.search(rf"(?<![\w:]){re.escape(words)}(?!\w)", line) is not None


def _described(error: SchedulerError) -> str:
    """Lambda's error object in a phrase, where the error has one."""
    shape = error.error_object or {}
    parts = [str(shape[key]) for key in ("errorType", "errorMessage") if shape.get(key)]
    return ": ".join(parts) or error.default_message


def one_line(text: str) -> str:
    """`text` cut to a printable line: a function's message may hold line ends and terminal controls, and goes to a terminal."""
    if len(text) > LINE_CHARS_MAX:
        text = text[: LINE_CHARS_MAX - 1] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c in "\r\n\t" else c.encode("unicode_escape").decode() for c in text)
