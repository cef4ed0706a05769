"""Errors of the JSON 1.1 services, and the one place where others become one of these.

Law of this file: names are those of the services' models. A body is {"__type": NAME, "message": …}; statuses are 400, and 500
for what is this service's fault.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scheduler.keys.masters import KmsRefusal
from scheduler.keys.port import KeyProblem
from scheduler.lambda_api.errors import LambdaError
from scheduler.secrets.store import Refusal

if TYPE_CHECKING:
    from scheduler.errors import SchedulerError

__all__ = ["TargetError", "translated"]


class TargetError(Exception):
    """An error as a client of AWS reads it."""

    def __init__(self, name: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.name = name
        self.message = message
        self.status = status

    def body(self, spelling: str = "message") -> bytes:
        shown: dict[str, Any] = {"__type": self.name}
        if self.message:
            shown[spelling] = self.message
        return json.dumps(shown, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def translated(error: LambdaError | SchedulerError) -> TargetError:
    """What came from a room, or from reading the request."""
    if isinstance(error, KmsRefusal | Refusal):
        return TargetError(error.name, error.message)
    if isinstance(error, KeyProblem):
        return TargetError("KMSInternalException", f"{error.code}: {error.message}", 500)
    if isinstance(error, LambdaError):
        # Whoever is not let in gets 400 from these services, not 403.
        return TargetError(error.name, error.message, error.kind.status if error.kind.status >= 500 else 400)
    return TargetError("InternalServiceError", error.message, 500)
