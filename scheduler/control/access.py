"""Who is at the other end of a connection, and what they may do.

Law of this file: tokens and rights. It asks the token file (scheduler/tokens.py has its format) and answers questions; closing
and granting is the caller's. Every row is compared, each in constant time, so that the time taken tells nothing.
"""

from __future__ import annotations

import contextlib
import hmac
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scheduler.errors import Unauthorized
from scheduler.messages import Right
from scheduler.tokens import TokenFileBroken, TokenRow, digest, rows_of

if TYPE_CHECKING:
    from pathlib import Path

    import trio

__all__ = ["BAD_TOKENS_MAX", "Connection", "Connections", "Grant", "TokenFile"]

BAD_TOKENS_MAX = 3
_RIGHTS = {"invoke": Right.INVOKE, "deploy": Right.DEPLOY, "admin": Right.ADMIN}


@dataclass(frozen=True, slots=True)
class Grant:
    """tenant None: every tenant's functions."""

    name: str
    rights: Right
    tenant: str | None = None
    sha256: str = ""  # of the token; none was needed where it is empty


def _grant(row: TokenRow) -> Grant:
    granted = Right.NONE
    for right in row.rights:
        granted |= _RIGHTS[right]
    return Grant(row.name, granted, row.tenant, row.sha256)


class TokenFile:
    """Read anew when it changes, so that a token that was taken out ends with the next hello."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._grants: tuple[Grant, ...] = ()
        self.changes = 0
        self._seen: tuple[int, int, int] | None = None
        self.refresh()

    def refresh(self) -> None:
        """TokenFileBroken: it cannot be read, others may write to it, or a row is wrong. What was known before stays."""
        try:
            with self._path.open("rb") as file:
                info = os.fstat(file.fileno())
                seen = (info.st_ino, info.st_mtime_ns, info.st_size)
                if seen == self._seen:
                    return
                rows = rows_of(self._path, file)
        except OSError as error:
            raise TokenFileBroken(f"token file {self._path}: {error.strerror}") from None
        self._grants = tuple(map(_grant, rows))
        self._seen = seen
        self.changes += 1

    def grants(self) -> frozenset[Grant]:
        return frozenset(self._grants)

    def find(self, token: str) -> Grant | None:
        given = digest(token).encode()
        found: Grant | None = None
        for grant in self._grants:
            if hmac.compare_digest(grant.sha256.encode(), given):
                found = grant
        return found


@dataclass(slots=True, eq=False)
class Connection:
    """One client, from OPENED to CLOSED. rights are the reactor's to enforce on calls; methods read them from here."""

    id: int
    tcp: bool
    peer_uid: int
    rights: Right
    tenant: str | None = None
    grant: Grant | None = None  # what its token gave it
    bad_tokens: int = 0
    waits: set[trio.CancelScope] = field(default_factory=set)  # of methods that are pointless once it has closed


class Connections:
    """The table of connections. A Unix peer has got past the allow list, and has all rights. A TCP peer has none before hello;
    without a token file its hello gives what a client needs, but not admin, since any user of the machine may connect."""

    def __init__(self, tokens: TokenFile | None) -> None:
        self._tokens = tokens
        self._by_id: dict[int, Connection] = {}
        self._changes = tokens.changes if tokens is not None else 0  # of the token file, that open connections were held to
        self.bad_tokens_total = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def opened(self, connection: int, *, tcp: bool, peer_uid: int) -> None:
        self._by_id[connection] = Connection(connection, tcp, peer_uid, Right.NONE if tcp else Right.ALL)

    def get(self, connection: int) -> Connection | None:
        return self._by_id.get(connection)

    def closed(self, connection: int) -> None:
        found = self._by_id.pop(connection, None)
        for scope in found.waits if found else ():
            scope.cancel()

    def hello(self, connection: Connection, token: str | None) -> Grant:
        """What this client may do from now on. Unauthorized: no or wrong token; three wrong ones are `exhausted`."""
        if token is None:
            if connection.tcp and self._tokens is not None:
                raise Unauthorized("token: is required on TCP")
            rights = Right.INVOKE | Right.DEPLOY if connection.tcp else Right.ALL
            return self._granted(connection, Grant("local", rights))
        grant = None
        if self._tokens is not None:
            with contextlib.suppress(TokenFileBroken):  # what was known before counts; the watch over the file says so
                self._tokens.refresh()
            grant = self._tokens.find(token)
        if grant is None:
            connection.bad_tokens += 1
            self.bad_tokens_total += 1
            raise Unauthorized("token: is not valid" if self._tokens else "token: this service has no token file")
        return self._granted(connection, grant)

    def revoked(self) -> list[int]:
        """Connections whose token has gone from the file, or was changed in it, since the last time: they are to be closed.
        TokenFileBroken: it cannot be read; what was known before counts."""
        if self._tokens is None:
            return []
        self._tokens.refresh()
        if self._tokens.changes == self._changes:
            return []
        self._changes = self._tokens.changes
        good = self._tokens.grants()
        return [c.id for c in self._by_id.values() if c.grant is not None and c.grant not in good]

    @staticmethod
    def exhausted(connection: Connection) -> bool:
        return connection.bad_tokens >= BAD_TOKENS_MAX

    @staticmethod
    def _granted(connection: Connection, grant: Grant) -> Grant:
        connection.rights = grant.rights
        connection.tenant = grant.tenant
        connection.grant = grant if grant.sha256 else None
        connection.bad_tokens = 0
        return grant
