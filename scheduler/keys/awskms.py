"""AWS's Key Management Service, or what speaks as it does, as a source of data keys.

Law of this file: JSON 1.1 requests, signed (Signature Version 4, the part that a client of one service needs), and KMS's errors
in the seam's words. The credentials file is read anew where it has changed: it is rotated by who looks after it.

Operations: GenerateDataKey, Encrypt, Decrypt, ReEncrypt. A context of ours becomes the encryption context, so that it stands in
the key server's own log and may be a condition there.
"""

from __future__ import annotations

import base64
import binascii
import configparser
import hashlib
import hmac
import json
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from scheduler.keys.http import Address, CannotAsk, exchange
from scheduler.keys.port import DATA_KEY_BYTES, DataKey, Generation, KeyProblem, Trouble

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

__all__ = ["AwsKms", "Credentials", "check_mode"]

TROUBLES: Final = {
    "NotFoundException": Trouble.NOT_FOUND,
    "DisabledException": Trouble.DISABLED,
    "KMSInvalidStateException": Trouble.INVALID_STATE,
    "KeyUnavailableException": Trouble.INVALID_STATE,
    "InvalidCiphertextException": Trouble.INVALID_STATE,
    "IncorrectKeyException": Trouble.INVALID_STATE,
    "InvalidKeyUsageException": Trouble.INVALID_STATE,
}
PASSING: Final = ("KMSInternalException", "DependencyTimeoutException", "ThrottlingException", "KeyUnavailableException")


class Credentials:
    """A file as AWS's tools have it: `[default]`, aws_access_key_id, aws_secret_access_key, aws_session_token."""

    def __init__(self, path: Path, profile: str = "default") -> None:
        self._path = path
        self._profile = profile
        self._seen: tuple[int, int] | None = None
        self._read: tuple[str, str, str] = ("", "", "")

    def get(self) -> tuple[str, str, str]:
        """(id, secret, session token or nothing). KeyProblem."""
        try:
            info = self._path.stat()
            check_mode(self._path, info)
            if (info.st_ino, info.st_mtime_ns) != self._seen:
                parser = configparser.ConfigParser(interpolation=None)
                parser.read_string(self._path.read_text(encoding="utf-8"))
                section = parser[self._profile]
                self._read = (
                    section["aws_access_key_id"],
                    section["aws_secret_access_key"],
                    section.get("aws_session_token", ""),
                )
                self._seen = (info.st_ino, info.st_mtime_ns)
        except OSError as error:
            raise _refused(f"credentials {self._path}: {error.strerror}") from None
        except (configparser.Error, KeyError, UnicodeDecodeError):  # whose texts would quote the file
            raise _refused(
                f"credentials {self._path}: has no [{self._profile}] with aws_access_key_id and aws_secret_access_key"
            ) from None
        return self._read


def check_mode(path: Path, info: os.stat_result) -> None:
    """KeyProblem: others than its owner may use the file."""
    if info.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise _refused(f"{path}: others than its owner may use it; chmod 600 mends that, then have it changed")


def _refused(message: str) -> KeyProblem:
    return KeyProblem(Trouble.ACCESS_DENIED, message)


class AwsKms:
    """`port.KeySource`. key_id: id, ARN or alias of what wraps. kind: the first word of what it wraps."""

    def __init__(
        self,
        address: Address,
        *,
        key_id: str,
        region: str,
        credentials: Credentials,
        kind: str = "kms",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.kind = kind
        self.key_id = key_id
        self._address = address
        self._region = region
        self._credentials = credentials
        self._now = now

    def with_key(self, key_id: str, kind: str) -> AwsKms:
        """The same server, another key."""
        return AwsKms(
            self._address, key_id=key_id, region=self._region, credentials=self._credentials, kind=kind, now=self._now
        )

    # ---- the seam ----

    async def generate(self, context: Mapping[str, str]) -> DataKey:
        values = {"KeyId": self.key_id, "KeySpec": "AES_256", "EncryptionContext": dict(context)}
        answer = await self._ask("GenerateDataKey", values)
        return DataKey(self._plain(answer), self._wrapped(answer))

    async def wrap(self, plain: bytes, context: Mapping[str, str]) -> str:
        values = {"KeyId": self.key_id, "Plaintext": base64.b64encode(plain).decode(), "EncryptionContext": dict(context)}
        return self._wrapped(await self._ask("Encrypt", values))

    def unwrap_now(self, wrapped: str, context: Mapping[str, str]) -> bytes | None:
        return None

    async def unwrap(self, wrapped: str, context: Mapping[str, str]) -> bytes:
        # No KeyId: the text knows its key, which may be the one that was set before.
        values = {"CiphertextBlob": self._blob(wrapped), "EncryptionContext": dict(context)}
        return self._plain(await self._ask("Decrypt", values))

    async def rewrap(self, wrapped: str, context: Mapping[str, str]) -> str:
        values = {
            "CiphertextBlob": self._blob(wrapped),
            "SourceEncryptionContext": dict(context),
            "DestinationKeyId": self.key_id,
            "DestinationEncryptionContext": dict(context),
        }
        return self._wrapped(await self._ask("ReEncrypt", values))

    def is_current(self, wrapped: str) -> bool:
        """Of this key: which of its generations it is under, the server alone knows."""
        parts = wrapped.split(".")
        return parts[0] == self.kind and len(parts) == 3 and parts[1] == _tag(self.key_id)

    async def rotate(self) -> str:
        return self.key_id

    async def generations(self) -> Sequence[Generation]:
        return [Generation(self.key_id, "", True)]

    # ---- texts ----

    def _wrapped(self, answer: Mapping[str, Any]) -> str:
        blob = answer.get("CiphertextBlob")
        if not isinstance(blob, str) or not blob:
            raise self._odd("an answer without CiphertextBlob")
        return f"{self.kind}.{_tag(self.key_id)}.{blob}"

    def _blob(self, wrapped: str) -> str:
        parts = wrapped.split(".")
        if len(parts) != 3:
            raise KeyProblem(Trouble.INVALID_STATE, "a wrapped key that is not whole")
        return parts[2]

    def _plain(self, answer: Mapping[str, Any]) -> bytes:
        try:
            plain = base64.b64decode(answer["Plaintext"], validate=True)
        except (KeyError, TypeError, binascii.Error):
            raise self._odd("an answer without Plaintext") from None
        if len(plain) != DATA_KEY_BYTES:
            raise self._odd(f"a data key of {len(plain)} bytes, {DATA_KEY_BYTES} were asked for")
        return plain

    def _odd(self, what: str) -> KeyProblem:
        return KeyProblem(Trouble.INVALID_STATE, f"{self._address.authority}: {what}")

    # ---- requests ----

    async def _ask(self, operation: str, values: Mapping[str, Any]) -> dict[str, Any]:
        body = json.dumps(values, separators=(",", ":")).encode()
        headers = self._signed(operation, body)
        try:
            answer = await exchange(self._address, "POST", "/", headers, body)
        except CannotAsk as error:
            raise KeyProblem(Trouble.INVALID_STATE, f"key server {error}", lasting=False) from None
        try:
            said = json.loads(answer.body)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise self._odd(f"status {answer.status} and no JSON")
        if answer.status == 200:
            return said
        name = str(said.get("__type", "")).rpartition("#")[2][:64]
        # The server's sentence stays out: it may quote what was sent.
        raise KeyProblem(
            TROUBLES.get(name, Trouble.ACCESS_DENIED if answer.status < 500 else Trouble.INVALID_STATE),
            f"key server {self._address.authority} refuses {operation} with key {self.key_id}: {name or answer.status}",
            lasting=name not in PASSING and answer.status < 500,
        )

    def _signed(self, operation: str, body: bytes) -> list[tuple[str, str]]:
        """Headers, with the signature over all of them."""
        key_id, secret, token = self._credentials.get()
        now = self._now()
        date, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        said = {
            "content-type": "application/x-amz-json-1.1",
            "host": self._address.authority,
            "x-amz-date": date,
            "x-amz-target": f"TrentService.{operation}",
        } | ({"x-amz-security-token": token} if token else {})
        names = ";".join(sorted(said))
        canonical = "\n".join(
            (
                "POST",
                self._address.prefix + "/",
                "",
                *(f"{name}:{said[name]}" for name in sorted(said)),
                "",
                names,
                hashlib.sha256(body).hexdigest(),
            )
        )
        scope = f"{day}/{self._region}/kms/aws4_request"
        text = "\n".join(("AWS4-HMAC-SHA256", date, scope, hashlib.sha256(canonical.encode()).hexdigest()))
        key = b"AWS4" + secret.encode()
        for part in (day, self._region, "kms", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        authorization = f"AWS4-HMAC-SHA256 Credential={key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
        del said["host"]  # the exchange writes it
        return [*said.items(), ("Authorization", authorization)]


def _tag(key_id: str) -> str:
    """Says whether a wrapped key is of the key that is set now; no secret."""
    return hashlib.sha256(key_id.encode()).hexdigest()[:12]
