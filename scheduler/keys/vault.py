"""HashiCorp Vault's transit engine as a source of data keys.

Law of this file: Vault's requests and errors in the seam's words. The token is read from its file for each request, since
Vault's agent renews it there. With a key that is `derived` our context chooses the key; with one that is not, Vault passes over
it, and the seal around the text alone holds the context.

Paths: datakey/plaintext, encrypt, decrypt, rewrap (and keys, read and rotate) under the engine's mount.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from scheduler.keys.awskms import check_mode
from scheduler.keys.http import Address, CannotAsk, exchange
from scheduler.keys.port import DATA_KEY_BYTES, DataKey, Generation, KeyProblem, Trouble

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["VaultTransit"]

_TEXT: Final = re.compile(r"vault:v([0-9]{1,9}):[A-Za-z0-9+/=]+")
TOKEN_BYTES_MAX: Final = 8192


class VaultTransit:
    """`port.KeySource`. Wrapped keys: vault.N.…, N the version of the key."""

    kind = "vault"

    def __init__(self, address: Address, *, mount: str, key: str, token_file: Path, namespace: str = "") -> None:
        self._address = address
        self._mount = mount.strip("/")
        self._key = key
        self._token_file = token_file
        self._namespace = namespace
        self._newest = 0  # version of the key, the highest that was seen

    # ---- the seam ----

    async def generate(self, context: Mapping[str, str]) -> DataKey:
        data = await self._ask("POST", f"datakey/plaintext/{quote(self._key)}", {"bits": 256, "context": _context(context)})
        return DataKey(self._plain(data), self._wrapped(data))

    async def wrap(self, plain: bytes, context: Mapping[str, str]) -> str:
        values = {"plaintext": base64.b64encode(plain).decode(), "context": _context(context)}
        return self._wrapped(await self._ask("POST", f"encrypt/{quote(self._key)}", values))

    def unwrap_now(self, wrapped: str, context: Mapping[str, str]) -> bytes | None:
        return None

    async def unwrap(self, wrapped: str, context: Mapping[str, str]) -> bytes:
        values = {"ciphertext": _ciphertext(wrapped), "context": _context(context)}
        return self._plain(await self._ask("POST", f"decrypt/{quote(self._key)}", values))

    async def rewrap(self, wrapped: str, context: Mapping[str, str]) -> str:
        values = {"ciphertext": _ciphertext(wrapped), "context": _context(context)}
        return self._wrapped(await self._ask("POST", f"rewrap/{quote(self._key)}", values))

    def is_current(self, wrapped: str) -> bool:
        parts = wrapped.split(".")
        return parts[0] == self.kind and len(parts) == 3 and parts[1].isdigit() and int(parts[1]) >= self._newest

    async def rotate(self) -> str:
        await self._ask("POST", f"keys/{quote(self._key)}/rotate", {})
        return (await self.generations())[-1].id

    async def generations(self) -> Sequence[Generation]:
        data = await self._ask("GET", f"keys/{quote(self._key)}", None)
        newest = int(data.get("latest_version", 0))
        self._newest = max(self._newest, newest)
        versions = sorted(int(version) for version in data.get("keys", {}))
        return [Generation(f"{self._key} v{version}", "", version == newest) for version in versions]

    # ---- texts ----

    def _wrapped(self, data: Mapping[str, Any]) -> str:
        match = _TEXT.fullmatch(str(data.get("ciphertext", "")))
        if match is None:
            raise self._odd("an answer without ciphertext")
        self._newest = max(self._newest, int(match[1]))
        return f"{self.kind}.{match[1]}.{match[0].rpartition(':')[2]}"

    def _plain(self, data: Mapping[str, Any]) -> bytes:
        try:
            plain = base64.b64decode(data["plaintext"], validate=True)
        except (KeyError, TypeError, binascii.Error):
            raise self._odd("an answer without plaintext") from None
        if len(plain) != DATA_KEY_BYTES:
            raise self._odd(f"a data key of {len(plain)} bytes, {DATA_KEY_BYTES} were asked for")
        return plain

    def _odd(self, what: str) -> KeyProblem:
        return KeyProblem(Trouble.INVALID_STATE, f"{self._address.authority}: {what}")

    # ---- requests ----

    async def _ask(self, method: str, path: str, values: Mapping[str, Any] | None) -> dict[str, Any]:
        body = b"" if values is None else json.dumps(values, separators=(",", ":")).encode()
        headers = [("X-Vault-Token", self._token()), ("X-Vault-Request", "true"), ("Content-Type", "application/json")]
        headers += [("X-Vault-Namespace", self._namespace)] if self._namespace else []
        try:
            answer = await exchange(self._address, method, f"/v1/{self._mount}/{path}", headers, body)
        except CannotAsk as error:
            raise KeyProblem(Trouble.INVALID_STATE, f"key server {error}", lasting=False) from None
        if answer.status == 204:
            return {}
        if answer.status == 200:
            try:
                said = json.loads(answer.body)["data"]
            except (ValueError, KeyError, TypeError):
                said = None
            if not isinstance(said, dict):
                raise self._odd("no JSON with data")
            return said
        raise self._problem(answer.status, answer.body, path)

    def _problem(self, status: int, body: bytes, path: str) -> KeyProblem:
        where = f"key server {self._address.authority} refuses {path.partition('/')[0]} with key {self._key}: status {status}"
        if status == 403:
            return KeyProblem(Trouble.ACCESS_DENIED, where)
        if status == 404 or b"key not found" in body:
            return KeyProblem(Trouble.NOT_FOUND, where)
        # 503: it is sealed. 429, 472, 473: a standby. They pass.
        return KeyProblem(Trouble.INVALID_STATE, where, lasting=status == 400)

    def _token(self) -> str:
        try:
            with self._token_file.open(encoding="ascii") as file:
                check_mode(self._token_file, os.fstat(file.fileno()))
                token = file.read(TOKEN_BYTES_MAX + 1).strip()
        except OSError as error:
            raise KeyProblem(Trouble.ACCESS_DENIED, f"vault token {self._token_file}: {error.strerror}") from None
        except UnicodeDecodeError:
            token = ""
        if not token or len(token) > TOKEN_BYTES_MAX or not token.isprintable():
            raise KeyProblem(Trouble.ACCESS_DENIED, f"vault token {self._token_file}: holds no token")
        return token


def _context(context: Mapping[str, str]) -> str:
    return base64.b64encode(json.dumps(dict(context), sort_keys=True, separators=(",", ":")).encode()).decode()


def _ciphertext(wrapped: str) -> str:
    parts = wrapped.split(".")
    if len(parts) != 3 or _TEXT.fullmatch(f"vault:v{parts[1]}:{parts[2]}") is None:
        raise KeyProblem(Trouble.INVALID_STATE, "a wrapped key that is not whole")
    return f"vault:v{parts[1]}:{parts[2]}"
