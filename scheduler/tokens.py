"""The token file: its rows, read and written.

Law of this file: a leaf that knows the format and nothing of connections. What a row grants is `control.access`'s to say. The
command edits the file while a service reads it, so a new content takes the old one's place in one step, and two editors take
turns.

    [[tokens]]
    name = "deploy from ci"        # for the log, and for `scheduler token revoke`
    sha256 = "5e88..."             # of the token's text, hex
    tenant = "acme"                # its functions only; left out: all
    rights = ["invoke", "deploy"]

Tokens are random texts of our own making (`new_token`), so one round of SHA-256 keeps them as safe in the file as a slow hash
would; a password would need more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import stat
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from scheduler.errors import SchedulerError
from scheduler.limits import TENANT_NAME_CHARS_MAX
from scheduler.ownfile import one_writer, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import BinaryIO

__all__ = [
    "NAME_CHARS_MAX",
    "RIGHTS",
    "TOKENS_MAX",
    "TokenFileBroken",
    "TokenRow",
    "append",
    "digest",
    "new_token",
    "read_rows",
    "remove",
    "rows_of",
]

RIGHTS: Final = ("invoke", "deploy", "admin")
TOKENS_MAX: Final = 10_000
TOKEN_FILE_BYTES_MAX: Final = 8 * 1024 * 1024
NAME_CHARS_MAX: Final = 64
TOKEN_BYTES: Final = 32  # of randomness
_KEYS: Final = ("name", "sha256", "tenant", "rights")
_HEX: Final = re.compile(r"[0-9a-f]{64}")
_HEADER: Final = re.compile(r"\s*\[")
_TENANT: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{TENANT_NAME_CHARS_MAX}}}")


class TokenFileBroken(SchedulerError):
    """The token file cannot be used; the message says which row and why."""

    type = "BadRequest"


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One token, checked. tenant None: every tenant's functions. rights: some of RIGHTS."""

    name: str
    sha256: str
    rights: tuple[str, ...]
    tenant: str | None = None

    def problem(self) -> str | None:
        """What is wrong with it, or None."""
        if not 1 <= len(self.name) <= NAME_CHARS_MAX or not self.name.isprintable():
            return f"name: {self.name[:80]!r} is not 1 to {NAME_CHARS_MAX} printable characters"
        if not _HEX.fullmatch(self.sha256):
            return "sha256: is not 64 lower-case hex digits"
        wrong = [right for right in self.rights if right not in RIGHTS]
        if wrong or not self.rights:
            return f"rights: {wrong[0]!r} is not one of {', '.join(RIGHTS)}" if wrong else "rights: there are none"
        if self.tenant is not None and not _TENANT.fullmatch(self.tenant):
            return f"tenant: {self.tenant[:80]!r} is no tenant's name: 1 to {TENANT_NAME_CHARS_MAX} of a-z, A-Z, 0-9, - and _"
        if self.tenant is not None and "admin" in self.rights:
            return "rights: a tenant's token cannot have admin, which is over all tenants"
        return None

    def text(self) -> str:
        """Its table in the file."""
        lines = ["[[tokens]]", f"name = {_quoted(self.name)}", f'sha256 = "{self.sha256}"']
        lines += [f"tenant = {_quoted(self.tenant)}"] if self.tenant is not None else []
        return "\n".join([*lines, f"rights = [{', '.join(map(_quoted, self.rights))}]"]) + "\n"


def _quoted(text: str) -> str:
    # JSON's escapes are among those of TOML's basic strings; what is printable needs no others.
    return json.dumps(text, ensure_ascii=False)


def new_token() -> str:
    """A token's text: 43 characters of 256 random bits."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def digest(token: str) -> str:
    """What the file keeps of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


# ---- reading -------------------------------------------------------------------------------------------------------------


def rows_of(path: Path, file: BinaryIO) -> tuple[TokenRow, ...]:
    """The rows of an open token file. TokenFileBroken: others may write to it, it is too large, or a row is wrong."""
    info = os.fstat(file.fileno())
    if info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise TokenFileBroken(f"token file {path}: others than its owner may write to it; chmod go-w mends that")
    if info.st_size > TOKEN_FILE_BYTES_MAX:
        raise TokenFileBroken(f"token file {path}: has {info.st_size} bytes, the limit is {TOKEN_FILE_BYTES_MAX}")
    return _parse(path, file.read())


def _parse(path: Path, data: bytes) -> tuple[TokenRow, ...]:
    try:
        content = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number of thousands of digits
        raise TokenFileBroken(f"token file {path}: is not TOML: {error}") from None
    rows = content.pop("tokens", [])
    if content or not isinstance(rows, list):
        raise TokenFileBroken(f"token file {path}: must hold [[tokens]] and nothing else")
    if len(rows) > TOKENS_MAX:
        raise TokenFileBroken(f"token file {path}: has {len(rows)} tokens, the limit is {TOKENS_MAX}")
    return tuple(_row(path, number, row) for number, row in enumerate(rows, 1))


def _row(path: Path, number: int, row: object) -> TokenRow:
    where = f"token file {path}, token {number}"
    if not isinstance(row, dict):
        raise TokenFileBroken(f"{where}: is no table")
    unknown = sorted(set(row) - set(_KEYS))
    if unknown:
        raise TokenFileBroken(f"{where}: no such key: {', '.join(unknown)}")
    name, sha256, rights, tenant = row.get("name", f"token {number}"), row.get("sha256"), row.get("rights"), row.get("tenant")
    if not isinstance(name, str):
        raise TokenFileBroken(f"{where}: name is not text")
    if not isinstance(sha256, str):
        raise TokenFileBroken(f"{where}: sha256 is not 64 lower-case hex digits")
    if not isinstance(rights, list) or any(not isinstance(right, str) for right in rights):
        raise TokenFileBroken(f"{where}: rights is not a list of {', '.join(RIGHTS)}")
    if tenant is not None and not isinstance(tenant, str):
        raise TokenFileBroken(f"{where}: tenant is not a name")
    made = TokenRow(name, sha256, tuple(dict.fromkeys(rights)), tenant)
    problem = made.problem()
    if problem:
        raise TokenFileBroken(f"{where}: {problem}")
    return made


def read_rows(path: Path) -> tuple[TokenRow, ...]:
    """The rows of the file at `path`. TokenFileBroken: it cannot be read or used."""
    try:
        with path.open("rb") as file:
            return rows_of(path, file)
    except OSError as error:
        raise TokenFileBroken(f"token file {path}: {error.strerror}") from None


# ---- writing -------------------------------------------------------------------------------------------------------------


def append(path: Path, row: TokenRow) -> None:
    """Adds a row; the file is made (mode 0600) where there is none. TokenFileBroken: the row is wrong, its name is taken, or
    the file cannot be written; it is as before then."""
    problem = row.problem()
    if problem:
        raise TokenFileBroken(problem)

    def change(text: str, rows: tuple[TokenRow, ...]) -> str:
        if any(other.name == row.name for other in rows):
            raise TokenFileBroken(f"name: {row.name!r} is taken in {path}; revoke that token, or give another name")
        gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        return text + gap + row.text()

    _edit(path, change, create=True)


def remove(path: Path, name: str) -> TokenRow:
    """Takes the row of this name out and gives it. TokenFileBroken: there is none, or the file cannot be written."""
    removed: list[TokenRow] = []

    def change(text: str, rows: tuple[TokenRow, ...]) -> str:
        at = next((index for index, row in enumerate(rows) if row.name == name), None)
        if at is None:
            raise TokenFileBroken(f"token file {path}: has no token called {name!r}")
        removed.append(rows[at])
        left = rows[:at] + rows[at + 1 :]
        cut = _without(text, at)
        with contextlib.suppress(TokenFileBroken):
            # Rows without a name are called by their number, which the cut may have moved.
            if [row.sha256 for row in _parse(path, cut.encode())] == [row.sha256 for row in left]:
                return cut
        return "\n".join(row.text() for row in left)  # written in another style than ours: comments go, rows stay

    _edit(path, change, create=False)
    return removed[0]


def _without(text: str, at: int) -> str:
    """`text` without its table number `at`. Comments above the table after it belong to that one and stay."""
    lines = text.splitlines(keepends=True)
    headers = [number for number, line in enumerate(lines) if _HEADER.match(line)]
    if at >= len(headers):
        return text
    start, end = headers[at], headers[at + 1] if at + 1 < len(headers) else len(lines)
    while end < len(lines) and end - 1 > start and lines[end - 1].lstrip().startswith("#"):
        end -= 1
    return "".join(lines[:start] + lines[end:])


def _edit(path: Path, change: Callable[[str, tuple[TokenRow, ...]], str], *, create: bool) -> None:
    path = path.absolute()
    try:
        path = path.resolve()
        with one_writer(path):
            try:
                with path.open("rb") as file:
                    rows = rows_of(path, file)
                    file.seek(0)
                    text = file.read().decode()
            except FileNotFoundError:
                if not create:
                    raise
                text, rows = "", ()
            data = change(text, rows).encode()
            _parse(path, data)
            replace_file(path, data)
    except OSError as error:
        raise TokenFileBroken(f"token file {error.filename or path}: {error.strerror}") from None
