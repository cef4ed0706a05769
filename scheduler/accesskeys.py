"""Access keys: pairs of id and secret with which clients sign their HTTP requests, as AWS's do.

Law of this file: a leaf over the keyring. Secrets stand in the file sealed, since a signature can only be checked by who has
them. The command edits the file while a service reads it: a new content takes the old one's place in one step.

    keys = AccessKeys(path, keyring)
    made, secret = keys.create("ci", rights=("invoke", "deploy"), tenant=None)
    keys.refresh()        -> whether they have changed;   keys.find("AKIA…")   -> AccessKey with its secret, or None
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import stat
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from scheduler.errors import SchedulerError
from scheduler.keyring import Unsealable
from scheduler.limits import TENANT_NAME_CHARS_MAX
from scheduler.ownfile import one_writer, replace_file
from scheduler.tokens import RIGHTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from scheduler.keyring import Keyring

__all__ = ["KEYS_MAX", "AccessKey", "AccessKeys", "AccessKeysBroken"]

FORMAT: Final = 1
KEYS_MAX: Final = 4096  # as many as the engine holds
NAME_CHARS_MAX: Final = 64
FILE_BYTES_MAX: Final = 8 << 20
_ALPHABET: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_TENANT: Final = re.compile(rf"[A-Za-z0-9_-]{{1,{TENANT_NAME_CHARS_MAX}}}")


class AccessKeysBroken(SchedulerError):
    """The file of access keys cannot be used, or a key cannot be what was asked for; the message says why."""

    type = "BadRequest"


@dataclass(frozen=True, slots=True)
class AccessKey:
    """tenant None: every tenant's functions. rights: some of RIGHTS. `sealed`: the secret as the file has it."""

    id: str
    name: str
    rights: tuple[str, ...]
    tenant: str | None
    made: str
    sealed: str = field(repr=False)
    secret: str = field(default="", repr=False)


class AccessKeys:
    """The file at `path`; there need not be one."""

    def __init__(self, path: Path, keyring: Keyring) -> None:
        self._path = path
        self._keyring = keyring
        self._keys: dict[str, AccessKey] = {}
        self._seen: tuple[int, int, int] | None = None
        self.refresh()

    def __len__(self) -> int:
        return len(self._keys)

    def all(self) -> tuple[AccessKey, ...]:
        return tuple(self._keys.values())

    def find(self, key_id: str) -> AccessKey | None:
        return self._keys.get(key_id)

    def refresh(self) -> bool:
        """Reads the file where it has changed. True: it had. AccessKeysBroken: what was known before stays."""
        try:
            with self._path.open("rb") as file:
                info = os.fstat(file.fileno())
                seen = (info.st_ino, info.st_mtime_ns, info.st_size)
                if seen == self._seen:
                    return False
                rows = _parse(self._path, info, file.read(FILE_BYTES_MAX + 1))
        except FileNotFoundError:
            changed = bool(self._keys)
            self._keys, self._seen = {}, None
            return changed
        except OSError as error:
            raise AccessKeysBroken(f"access keys {self._path}: {error.strerror}") from None
        self._keys = {row.id: self._opened(row) for row in rows}
        self._seen = seen
        return True

    def create(self, name: str, *, rights: Sequence[str], tenant: str | None = None) -> AccessKey:
        """A new key, with its secret. AccessKeysBroken: the name is taken, or something cannot be so."""
        key_id = "AKIA" + "".join(secrets.choice(_ALPHABET) for _ in range(16))
        secret = secrets.token_urlsafe(30)
        row = AccessKey(
            key_id,
            name,
            tuple(dict.fromkeys(rights)),
            tenant,
            datetime.now(UTC).isoformat(timespec="seconds"),
            self._keyring.seal(secret.encode(), _context(key_id)),
            secret,
        )
        problem = _problem(row)
        if problem:
            raise AccessKeysBroken(problem)
        with self._edit() as rows:
            if any(other.name == name for other in rows):
                raise AccessKeysBroken(f"name: {name!r} is taken; revoke that key, or give another name")
            if len(rows) >= KEYS_MAX:
                raise AccessKeysBroken(f"there are {len(rows)} access keys, which is the limit; revoke some")
            rows.append(row)
        return row

    def revoke(self, name: str) -> AccessKey:
        """By name or id. AccessKeysBroken: there is none such."""
        with self._edit() as rows:
            row = next((row for row in rows if name in (row.name, row.id)), None)
            if row is None:
                raise AccessKeysBroken(f"no access key is called {name!r}")
            rows.remove(row)
        return row

    def reseal(self) -> int:
        """Seals every secret under the keyring's current key; how many were under another."""
        count = 0
        if all(row.sealed.split(".")[1:2] == [self._keyring.current] for row in self._keys.values()):
            return 0
        with self._edit() as rows:
            for index, row in enumerate(rows):
                if row.sealed.split(".")[1:2] != [self._keyring.current]:
                    opened = self._opened(row)
                    sealed = self._keyring.seal(opened.secret.encode(), _context(row.id))
                    rows[index] = AccessKey(row.id, row.name, row.rights, row.tenant, row.made, sealed)
                    count += 1
        return count

    def _opened(self, row: AccessKey) -> AccessKey:
        try:
            secret = self._keyring.unseal(row.sealed, _context(row.id)).decode()
        except Unsealable as error:
            raise AccessKeysBroken(f"access key {row.id} ({row.name}): {error.message}") from None
        return AccessKey(row.id, row.name, row.rights, row.tenant, row.made, row.sealed, secret)

    @contextlib.contextmanager
    def _edit(self) -> Iterator[list[AccessKey]]:
        """The rows, to be changed; written where the block ends well. One editor at a time."""
        try:
            with one_writer(self._path):
                rows: list[AccessKey] = []
                with contextlib.suppress(FileNotFoundError), self._path.open("rb") as file:
                    rows = list(_parse(self._path, os.fstat(file.fileno()), file.read(FILE_BYTES_MAX + 1)))
                yield rows
                shown = [{key: value for key, value in asdict(row).items() if key != "secret"} for row in rows]
                replace_file(self._path, json.dumps({"format": FORMAT, "keys": shown}, indent=1).encode())
        except OSError as error:
            raise AccessKeysBroken(f"access keys {self._path}: {error.strerror}") from None
        self.refresh()


def _context(key_id: str) -> dict[str, str]:
    return {"for": "access key", "id": key_id}


def _parse(path: Path, info: os.stat_result, data: bytes) -> tuple[AccessKey, ...]:
    if info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise AccessKeysBroken(f"access keys {path}: others than its owner may use the file; chmod 600 mends that")
    if len(data) > FILE_BYTES_MAX:
        raise AccessKeysBroken(f"access keys {path}: the file has more than {FILE_BYTES_MAX} bytes")
    try:
        raw: dict[str, Any] = json.loads(data)
        if raw["format"] != FORMAT:
            raise AccessKeysBroken(f"access keys {path}: is of format {raw['format']}, this version reads {FORMAT}")
        rows = tuple(
            AccessKey(r["id"], r["name"], tuple(r["rights"]), r["tenant"], r["made"], r["sealed"]) for r in raw["keys"]
        )
    except (ValueError, KeyError, TypeError):
        raise AccessKeysBroken(f"access keys {path}: cannot be read; restore a copy") from None
    for row in rows:
        problem = _problem(row)
        if problem:
            raise AccessKeysBroken(f"access keys {path}: {row.id}: {problem}")
    return rows


def _problem(row: AccessKey) -> str | None:
    if not 1 <= len(row.name) <= NAME_CHARS_MAX or not row.name.isprintable():
        return f"name: {row.name[:80]!r} is not 1 to {NAME_CHARS_MAX} printable characters"
    wrong = [right for right in row.rights if right not in RIGHTS]
    if wrong or not row.rights:
        return f"rights: {wrong[0]!r} is not one of {', '.join(RIGHTS)}" if wrong else "rights: there are none"
    if row.tenant is not None and not _TENANT.fullmatch(row.tenant):
        return f"tenant: {row.tenant[:80]!r} is no tenant's name: 1 to {TENANT_NAME_CHARS_MAX} of a-z, A-Z, 0-9, - and _"
    if row.tenant is not None and "admin" in row.rights:
        return "rights: a tenant's key cannot have admin, which is over all tenants"
    return None
