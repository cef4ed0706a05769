"""Errors as Lambda's clients read them: one row each, and the one place where the service's own errors become one of these.

Law of this file: names, statuses and the spelling of the message's key are Lambda's service model's; nothing here knows an
operation or a connection.

    raise LambdaError("ResourceNotFoundException", "Function not found: arn:aws:lambda:…")
    reply = error.reply(request_id)      -> status, headers, JSON body
    translate(scheduler_error)           -> LambdaError
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from scheduler.functions.model import InvalidConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.errors import SchedulerError

__all__ = ["ERRORS", "PENDING_TEXT", "REVISION_TEXT", "UPDATING_TEXT", "Kind", "LambdaError", "translate"]

USER, SERVER = "User", "Server"


@dataclass(frozen=True, slots=True)
class Kind:
    """One error. `key`: how its body spells the message. `type`: whose fault it is, as the body says."""

    name: str
    status: int
    key: str = "Message"
    type: str = USER


_ROWS: Final = (
    Kind("AccessDeniedException", 403),
    Kind("AliasLimitExceededException", 400, "message"),
    Kind("CodeStorageExceededException", 400, "message"),
    Kind("ExpiredTokenException", 403, "message"),
    Kind("IncompleteSignatureException", 403, "message"),
    Kind("InvalidParameterValueException", 400, "message"),
    Kind("InvalidRequestContentException", 400, "message"),
    Kind("InvalidRuntimeException", 502, type=SERVER),
    Kind("InvalidSignatureException", 403, "message"),
    Kind("InvalidZipFileException", 502, type=SERVER),
    Kind("KMSAccessDeniedException", 502, type=SERVER),
    Kind("KMSDisabledException", 502, type=SERVER),
    Kind("KMSInvalidStateException", 502, type=SERVER),
    Kind("KMSNotFoundException", 502, type=SERVER),
    Kind("MissingAuthenticationTokenException", 403, "message"),
    Kind("PolicyLengthExceededException", 400, "message"),
    Kind("PreconditionFailedException", 412, "message"),
    Kind("ProvisionedConcurrencyConfigNotFoundException", 404, "message"),
    Kind("RecursiveInvocationException", 400),
    Kind("RequestTooLargeException", 413, "message"),
    Kind("ResourceConflictException", 409, "message"),
    Kind("ResourceInUseException", 400),
    Kind("ResourceNotFoundException", 404),
    Kind("ResourceNotReadyException", 502, "message", SERVER),
    Kind("SerializationException", 400),
    Kind("ServiceException", 500, type=SERVER),
    Kind("ServiceUnavailableException", 503, type=SERVER),
    Kind("SnapStartNotReadyException", 409),
    Kind("TooManyRequestsException", 429, "message"),
    Kind("UnknownOperationException", 404, "message"),
    Kind("UnrecognizedClientException", 403, "message"),
    Kind("UnsupportedMediaTypeException", 415, "message"),
    Kind("ValidationException", 400, "message"),
    # Ours: Lambda has no error for what a copy of it does not do. 501 is not tried again by AWS's clients.
    Kind("NotImplementedException", 501, "message"),
)
ERRORS: Final[Mapping[str, Kind]] = MappingProxyType({row.name: row for row in _ROWS})

REVISION_TEXT: Final = (
    "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to retrieve "
    "the latest Revision Id"
)


PENDING_TEXT: Final = "The operation cannot be performed at this time. The function is currently in the following state: "
UPDATING_TEXT: Final = "The operation cannot be performed at this time. An update is in progress for resource: "


class LambdaError(Exception):
    """An error of the API. `fields` stand beside the message in the body; `retry_after_s` becomes a header."""

    def __init__(self, name: str, message: str, *, retry_after_s: float | None = None, **fields: str) -> None:
        super().__init__(message)
        self.kind = ERRORS[name]
        self.message = message
        self.retry_after_s = retry_after_s
        self.fields = fields
        self.refused_by: str | None = None  # which limit, and how full: a header of ours, for who reads it

    @property
    def name(self) -> str:
        return self.kind.name

    def body(self) -> bytes:
        """JSON as Lambda spells it for this error."""
        shown = {**self.fields, "Type": self.kind.type, self.kind.key: self.message}
        return json.dumps(shown, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")

    def headers(self) -> list[tuple[str, str]]:
        found = [("Content-Type", "application/json"), ("x-amzn-ErrorType", self.name)]
        if self.retry_after_s is not None:
            found.append(("Retry-After", str(max(1, round(self.retry_after_s)))))
        if self.refused_by is not None:
            found.append(("x-scheduler-refused-by", "".join(c if " " <= c <= "~" else "?" for c in self.refused_by)))
        return found


# resource of a refusal -> Lambda's Reason, for the account of a function and for those above it
_REASONS: Final = {
    "concurrency": ("ReservedFunctionConcurrentInvocationLimitExceeded", "ConcurrentInvocationLimitExceeded"),
    "rate": ("FunctionInvocationRateLimitExceeded", "CallerRateLimitExceeded"),
}
_OTHER_REASON: Final = "ConcurrentInvocationLimitExceeded"

_BY_TYPE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "BadRequest": "InvalidParameterValueException",
        "NotFound": "ResourceNotFoundException",
        "TooLarge": "RequestTooLargeException",
        "RecursiveInvocation": "RecursiveInvocationException",
        "Unauthorized": "AccessDeniedException",
        "Unavailable": "ServiceUnavailableException",
        "DeadlineExceeded": "ServiceUnavailableException",
        "Cancelled": "ServiceException",
        "Internal": "ServiceException",
    }
)
_BY_REASON: Final[Mapping[str, str]] = MappingProxyType(
    {
        "conflict": "ResourceConflictException",
        "revision": "PreconditionFailedException",
        "validation": "ValidationException",
    }
)


def translate(error: SchedulerError) -> LambdaError:
    """The same error in Lambda's words. Errors of a function (FunctionError, Timeout, …) are answers, not errors, and do not
    come here; one that does is a ServiceException."""
    if error.type == "Throttled":
        return _throttled(error)
    if isinstance(error, InvalidConfig):
        for problem in error.problems:  # those that Lambda tells in a sentence of their own
            if problem.whole:
                return LambdaError("InvalidParameterValueException", str(problem))
            if problem.constraint.startswith("Lambda was unable"):
                return LambdaError("InvalidParameterValueException", problem.constraint)
    if error.type == "Unavailable" and error.reason is not None and error.reason in ERRORS:
        return LambdaError(error.reason, error.message)  # a key that cannot be had says so itself
    name = _BY_REASON.get(error.reason or "") if error.type == "BadRequest" else None
    if name is not None:
        return LambdaError(name, REVISION_TEXT if error.reason == "revision" else error.message)
    return LambdaError(_BY_TYPE.get(error.type, "ServiceException"), error.message)


def _throttled(error: SchedulerError) -> LambdaError:
    if error.resource == "code_bytes":
        return LambdaError("CodeStorageExceededException", f"Code storage limit exceeded: {error.message}")
    own, above = _REASONS.get(error.resource or "", (_OTHER_REASON, _OTHER_REASON))
    reason = own if (error.account or "").startswith("function:") else above
    retry_s = None if error.retry_after_ms is None else error.retry_after_ms / 1000
    # Lambda says no more than "Rate Exceeded."; who refused is what people miss most in it, and stands beside it.
    throttled = LambdaError("TooManyRequestsException", "Rate Exceeded.", retry_after_s=retry_s, Reason=reason)
    throttled.refused_by = error.message
    return throttled
