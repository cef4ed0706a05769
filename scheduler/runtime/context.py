"""Lambda's context object, cheap to make for each call.

Making one stores three values. Everything a handler can see of it is filled in when it first looks at anything: the attributes
are missing until then, so that Python asks __getattr__, and `vars(context)` asks the property __dict__.
"""

import json
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol

from .faults import Fault

__all__ = ["Client", "ClientContext", "CognitoIdentity", "Identity", "LambdaContext", "client_context"]

_monotonic_ns = time.monotonic_ns  # kept: tests inside a function like to replace time's
_time_ns = time.time_ns


@dataclass(frozen=True, slots=True)
class Identity:
    """What stays the same for all calls of one sandbox."""

    function_name: str
    function_version: str
    invoked_function_arn: str
    memory_mb: int
    timeout_ns: int
    log_group_name: str
    log_stream_name: str


class _Plain:
    """repr() as Lambda writes it: Name([a=1,b=2])."""

    __slots__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}([{','.join(f'{name}={getattr(self, name)}' for name in self.__slots__)}])"

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Any":
        made = cls()
        for name in cls.__slots__:
            setattr(made, name, values.get(name))
        return made


class CognitoIdentity(_Plain):
    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")


class Client(_Plain):
    __slots__ = ("installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name")  # noqa: RUF023


class ClientContext(_Plain):
    __slots__ = ("custom", "env", "client")  # noqa: RUF023  Lambda's order, which repr() shows


def client_context(text: bytes) -> Any:
    """The object of a client context's JSON text. Fault: not JSON, or no JSON object."""
    try:
        values = json.loads(text)
        if values is None:
            return None
        if not isinstance(values, dict):
            raise TypeError(f"it is a {type(values).__name__}, not an object")
        made = ClientContext.of(values)
        if made.client is not None:
            made.client = Client.of(made.client)
        return made
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        message = f"Unable to parse Client Context JSON: {error}"
        raise Fault("Runtime.LambdaContextUnmarshalError", message) from None


class Special(Protocol):
    """What may differ from call to call."""

    arn: str | None
    client: Any
    # Of those that know of them: the caller's Cognito identity (a map), and its tenant.
    # cognito: Any; tenant_id: str | None


def _print_to_stdout(data: bytes) -> None:
    sys.stdout.write(data.decode("utf-8", "replace"))


def _revive(identity: Identity, request_id: bytes, start_ns: int, known: dict[str, Any]) -> "LambdaContext":
    """What copy and pickle make of a context."""
    made = LambdaContext.bound(identity, _print_to_stdout)(request_id, start_ns, None)
    _real_dict.__get__(made).update(known)
    return made


class _Bag:
    """Gives instances a dictionary under a descriptor of its own, which LambdaContext then covers with a property."""

    __slots__ = ("__dict__", "_call")


_real_dict = _Bag.__dict__["__dict__"]


class LambdaContext(_Bag):
    """Attributes: aws_request_id, log_group_name, log_stream_name, function_name, memory_limit_in_mb (str), function_version,
    invoked_function_arn, tenant_id, client_context, identity.
    """

    _identity: Identity  # set once, by a subclass made for the sandbox
    _print: Any

    def __init__(self, request_id: bytes | bytearray, start_ns: int, special: "Special | None") -> None:
        """request_id: 16 bytes. special: where the call brings an ARN or a client context of its own."""
        self._call = (request_id, start_ns, special)

    @classmethod
    def bound(cls, identity: Identity, write: Any) -> "type[LambdaContext]":
        """A class of the same name for one sandbox. write: takes the bytes that log() was given."""
        return type(cls.__name__, (cls,), {"_identity": identity, "_print": staticmethod(write), "__module__": cls.__module__})

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds left before the call is killed; never negative."""
        return max(0, self._call[1] + self._identity.timeout_ns - _monotonic_ns()) // 1_000_000

    def log(self, msg: object) -> None:
        self._print(str(msg).encode("utf-8", "backslashreplace"))

    def __reduce__(self) -> tuple[Any, ...]:
        request_id, start_ns, _ = self._call
        return _revive, (self._identity, bytes(request_id), start_ns, self._fill())

    def _fill(self) -> dict[str, Any]:
        known: dict[str, Any] = _real_dict.__get__(self)
        if "_epoch_deadline_time_in_ms" not in known:
            identity = self._identity
            request_id, start_ns, special = self._call
            digits = request_id.hex()
            left_ns = start_ns + identity.timeout_ns - _monotonic_ns()
            filled = {
                "aws_request_id": f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}",
                "log_group_name": identity.log_group_name,
                "log_stream_name": identity.log_stream_name,
                "function_name": identity.function_name,
                "memory_limit_in_mb": str(identity.memory_mb),
                "function_version": identity.function_version,
                "invoked_function_arn": (special and special.arn) or identity.invoked_function_arn,
                "tenant_id": getattr(special, "tenant_id", None),
                "client_context": special and special.client,
                "identity": CognitoIdentity.of(getattr(special, "cognito", None) or {}),
                "_epoch_deadline_time_in_ms": (_time_ns() + left_ns) // 1_000_000,
            }
            for name, value in filled.items():
                known.setdefault(name, value)  # what a handler has set stays
        return known

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        return self._fill()

    def __getattr__(self, name: str) -> Any:
        if name != "_call":
            known = self._fill()
            if name in known:
                return known[name]
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def __repr__(self) -> str:
        shown = (
            "aws_request_id", "log_group_name", "log_stream_name", "function_name", "memory_limit_in_mb",
            "function_version", "invoked_function_arn", "client_context", "identity", "tenant_id",
        )  # fmt: skip
        return f"{type(self).__name__}([{','.join(f'{name}={getattr(self, name)}' for name in shown)}])"
