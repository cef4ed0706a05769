"""Who is asking over HTTP.

Law of this file: from a request to a principal. With signatures, the principal is the access key; without, whoever can connect
may do everything, which is said loudly at the start and never beyond loopback.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

from scheduler.lambda_api.rooms import Principal
from scheduler.lambda_api.sigv4 import check, may_verify
from scheduler.messages import Right

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduler.accesskeys import AccessKey
    from scheduler.lambda_api.wire import Request

__all__ = ["Access", "OpenAccess", "SignedAccess", "rights_of"]

_RIGHTS: Final = {"invoke": Right.INVOKE, "deploy": Right.DEPLOY, "admin": Right.ADMIN}


class Access(Protocol):
    """Raises LambdaError where nobody can tell who asks, or they may not be here. The request that is given back is the one to
    answer. service: that a signature must be for."""

    def identify(self, request: Request, service: str = "lambda") -> tuple[Principal, Request]: ...

    def may_be_known(self, request: Request) -> bool:
        """By the head alone: False, where identify() would refuse it whatever its body is."""
        ...


class OpenAccess:
    """http_auth = none."""

    def identify(self, request: Request, service: str = "lambda") -> tuple[Principal, Request]:
        return Principal("anybody", Right.ALL), request

    def may_be_known(self, request: Request) -> bool:
        return True


class SignedAccess:
    """http_auth = sigv4. find: the access key of an id."""

    def __init__(self, find: Callable[[str], AccessKey | None], now_s: Callable[[], float] = time.time) -> None:
        self._find = find
        self._now_s = now_s

    def identify(self, request: Request, service: str = "lambda") -> tuple[Principal, Request]:
        key, meant = check(request, self._find, self._now_s(), service=service)
        return Principal(f"access key {key.id}", rights_of(key), key.tenant), meant

    def may_be_known(self, request: Request) -> bool:
        return may_verify(request, self._find, self._now_s())


def rights_of(key: AccessKey) -> Right:
    """Whoever may deploy may look at what is deployed; invoking is a right of its own, and shows nothing but answers."""
    rights = Right.NONE
    for name in key.rights:
        rights |= _RIGHTS[name]
    return rights
