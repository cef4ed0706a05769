"""Who is at the other end of a connection, and what they may do.

Law of this file: tokens and rights. It reads the token file and nothing else, and answers questions; closing and granting is
the caller's. Tokens are random texts of our own making (`secrets.token_urlsafe(32)`), so one round of SHA-256 keeps them as
safe in the file as a slow hash would; a password would need more. Every row is compared, each in constant time, so that the
time taken tells nothing.

The token file is TOML:

    [[tokens]]
    name = "deploy from ci"        # for the log
    sha256 = "5e88..."             # of the token's text, hex
    tenant = "acme"                # its functions only; left out: all
    rights = ["invoke", "deploy"]
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scheduler.errors import SchedulerError, Unauthorized
from scheduler.messages import Right

if TYPE_CHECKING:
    from pathlib import Path

    import trio

__all__ = ["BAD_TOKENS_MAX", "TOKENS_MAX", "Connection", "Connections", "Grant", "TokenFile", "TokenFileBroken"]

BAD_TOKENS_MAX = 3
TOKENS_MAX = 10_000
TOKEN_FILE_BYTES_MAX = 8 * 1024 * 1024
_HEX = re.compile(r"[0-9a-f]{64}")
_RIGHTS = {"invoke": Right.INVOKE, "deploy": Right.DEPLOY, "admin": Right.ADMIN}


class TokenFileBroken(SchedulerError):
    """The token file cannot be used; the message says which row and why."""

    type = "BadRequest"


@dataclass(frozen=True, slots=True)
class Grant:
    """tenant None: every tenant's functions."""

    name: str
    rights: Right
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class _Token:
    digest: bytes
    grant: Grant


def _row(number: int, row: object) -> _Token:
    where = f"token file, token {number}"
    if not isinstance(row, dict):
        raise TokenFileBroken(f"{where}: is no table")
    unknown = set(row) - {"name", "sha256", "tenant", "rights"}
    if unknown:
        raise TokenFileBroken(f"{where}: no such key: {', '.join(sorted(unknown))}")
    digest, rights, tenant = row.get("sha256"), row.get("rights"), row.get("tenant")
    if not isinstance(digest, str) or not _HEX.fullmatch(digest):
        raise TokenFileBroken(f"{where}: sha256 is not 64 lower-case hex digits")
    if not isinstance(rights, list) or not rights or any(right not in _RIGHTS for right in rights):
        raise TokenFileBroken(f"{where}: rights is not a list of {', '.join(_RIGHTS)}")
    if tenant is not None and (not isinstance(tenant, str) or not tenant):
        raise TokenFileBroken(f"{where}: tenant is not a name")
    granted = Right.NONE
    for right in rights:
        granted |= _RIGHTS[right]
    if tenant is not None and Right.ADMIN in granted:
        raise TokenFileBroken(f"{where}: a tenant's token cannot have the right admin, which is over all tenants")
    return _Token(bytes.fromhex(digest), Grant(str(row.get("name", f"token {number}")), granted, tenant))


class TokenFile:
    """Read anew when it changes, so that a token that was taken out ends with the next hello."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tokens: tuple[_Token, ...] = ()
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
                if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                    raise TokenFileBroken(f"token file {self._path}: others than its owner may write to it")
                if info.st_size > TOKEN_FILE_BYTES_MAX:
                    raise TokenFileBroken(
                        f"token file {self._path}: has {info.st_size} bytes, the limit is {TOKEN_FILE_BYTES_MAX}"
                    )
                content = tomllib.load(file)
        except OSError as error:
            raise TokenFileBroken(f"token file {self._path}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise TokenFileBroken(f"token file {self._path}: is not TOML: {error}") from None
        rows = content.pop("tokens", [])
        if content or not isinstance(rows, list):
            raise TokenFileBroken(f"token file {self._path}: must hold [[tokens]] and nothing else")
        if len(rows) > TOKENS_MAX:
            raise TokenFileBroken(f"token file {self._path}: has {len(rows)} tokens, the limit is {TOKENS_MAX}")
        self._tokens = tuple(_row(number, row) for number, row in enumerate(rows, 1))
        self._seen = seen

    def find(self, token: str) -> Grant | None:
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        found: Grant | None = None
        for row in self._tokens:
            if hmac.compare_digest(row.digest, digest):
                found = row.grant
        return found


@dataclass(slots=True, eq=False)
class Connection:
    """One client, from OPENED to CLOSED. rights are the reactor's to enforce on calls; methods read them from here."""

    id: int
    tcp: bool
    peer_uid: int
    rights: Right
    tenant: str | None = None
    bad_tokens: int = 0
    waits: set[trio.CancelScope] = field(default_factory=set)  # of methods that are pointless once it has closed


class Connections:
    """The table of connections. A Unix peer has got past the allow list, and has all rights. A TCP peer has none before hello;
    without a token file its hello gives what a client needs, but not admin, since any user of the machine may connect."""

    def __init__(self, tokens: TokenFile | None) -> None:
        self._tokens = tokens
        self._by_id: dict[int, Connection] = {}
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
            self._tokens.refresh()
            grant = self._tokens.find(token)
        if grant is None:
            connection.bad_tokens += 1
            self.bad_tokens_total += 1
            raise Unauthorized("token: is not valid" if self._tokens else "token: this service has no token file")
        return self._granted(connection, grant)

    @staticmethod
    def exhausted(connection: Connection) -> bool:
        return connection.bad_tokens >= BAD_TOKENS_MAX

    @staticmethod
    def _granted(connection: Connection, grant: Grant) -> Grant:
        connection.rights = grant.rights
        connection.tenant = grant.tenant
        connection.bad_tokens = 0
        return grant
