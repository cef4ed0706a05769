"""The HTTP API of AWS's Parameters and Secrets extension, for one sandbox.

Law of this file: its two paths, its header, its cache, its variables. What a secret or parameter is comes from the same
operations that clients of AWS use. The cache is the sandbox's own and lives here, bounded in entries and bytes.

    GET /secretsmanager/get?secretId=…[&versionId=…|&versionStage=…][&refreshNow=true]
    GET /systemsmanager/parameters/get?name=…[&version=…|&label=…][&withDecryption=true][&refreshNow=true]
    X-Aws-Parameters-Secrets-Token: $AWS_SESSION_TOKEN
"""

from __future__ import annotations

import hmac
import json
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import trio

from scheduler.lambda_api.app import Reply
from scheduler.lambda_api.errors import LambdaError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scheduler.lambda_api.wire import Request
    from scheduler.targets.app import Targets
    from scheduler.targets.who import Who

__all__ = ["PORT_VARIABLE", "Extension", "Options"]

HEADER: Final = "x-aws-parameters-secrets-token"
PORT_VARIABLE: Final = "PARAMETERS_SECRETS_EXTENSION_HTTP_PORT"
SECRETS, PARAMETERS = "/secretsmanager/get", "/systemsmanager/parameters/get"
TTL_S_MAX: Final = 300
CACHE_SIZE_MAX: Final = 1000
CACHE_BYTES_MAX: Final = 1 << 20  # of one sandbox; the extension's own lives in the sandbox's memory
READY_S: Final = 1.0  # a call may be here before we know that the init is over


@dataclass(frozen=True, slots=True)
class Options:
    """From the function's variables; what cannot be read is the default, as with the extension."""

    entries_max: int = CACHE_SIZE_MAX
    secrets_s: int = TTL_S_MAX
    parameters_s: int = TTL_S_MAX

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Options:
        def whole(name: str, default: int, maximum: int) -> int:
            text = variables.get(name, "")
            digits = text[1:] if text.startswith("-") else text
            if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
                return default
            return min(maximum, max(0, int(text)))

        enabled = variables.get("PARAMETERS_SECRETS_EXTENSION_CACHE_ENABLED", "true").lower() != "false"
        return cls(
            whole("PARAMETERS_SECRETS_EXTENSION_CACHE_SIZE", CACHE_SIZE_MAX, CACHE_SIZE_MAX) if enabled else 0,
            whole("SECRETS_MANAGER_TTL", TTL_S_MAX, TTL_S_MAX),
            whole("SSM_PARAMETER_STORE_TTL", TTL_S_MAX, TTL_S_MAX),
        )


class Extension:
    """ready: set once the sandbox's init is over. token: what the header must say."""

    def __init__(
        self,
        targets: Targets,
        who: Who,
        options: Options,
        *,
        token: str,
        ready: trio.Event,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._targets = targets
        self._who = who
        self._options = options
        self._token = token
        self._ready = ready
        self._now_s = now_s
        self._cache: OrderedDict[tuple[Any, ...], tuple[bytes, float]] = OrderedDict()
        self._bytes = 0

    async def answer(self, request: Request, host: str) -> Reply:
        """Never raises but Cancelled."""
        given = request.headers.get(HEADER)
        if given is None:
            return _refusal(401, f"missing header {HEADER}")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            return _refusal(403, f"the token in {HEADER} is not AWS_SESSION_TOKEN")
        if request.method != "GET" or request.path not in (SECRETS, PARAMETERS):
            return _refusal(404, f"{request.method[:16]} {request.path[:128]}: no such path")
        with trio.move_on_after(READY_S):
            await self._ready.wait()
        if not self._ready.is_set():
            return _refusal(400, "not ready to serve traffic, please wait")
        try:
            fields = {name: values[-1] for name, values in request.fields().items()}
        except LambdaError as error:
            return _refusal(400, error.message)
        return await (self._secret if request.path == SECRETS else self._parameter)(fields)

    async def _secret(self, fields: Mapping[str, str]) -> Reply:
        if not fields.get("secretId"):
            return _refusal(400, "secretId is missing in the query")
        values = {"SecretId": fields["secretId"]}
        values |= {"VersionId": fields["versionId"]} if "versionId" in fields else {}
        values |= {"VersionStage": fields["versionStage"]} if "versionStage" in fields else {}
        return await self._cached(("secret", *sorted(values.items())), self._options.secrets_s, fields, values)

    async def _parameter(self, fields: Mapping[str, str]) -> Reply:
        if not fields.get("name"):
            return _refusal(400, "name is missing in the query")
        selector = fields.get("version") or fields.get("label")
        name = fields["name"] + (f":{selector}" if selector else "")
        values = {"Name": name, "WithDecryption": fields.get("withDecryption", "").lower() == "true"}
        return await self._cached(("parameter", *sorted(values.items())), self._options.parameters_s, fields, values)

    async def _cached(self, key: tuple[Any, ...], ttl_s: int, fields: Mapping[str, str], values: Mapping[str, Any]) -> Reply:
        kept = self._cache.get(key)
        if kept is not None and kept[1] > self._now_s() and fields.get("refreshNow", "").lower() != "true":
            self._cache.move_to_end(key)
            return _json(200, kept[0])
        target, operation = ("secretsmanager", "GetSecretValue") if key[0] == "secret" else ("AmazonSSM", "GetParameter")
        said = await self._targets.run(self._who, target, operation, values)
        if "error" in said:
            self._drop(key)
            return _refusal(400, said["message"], said["error"])
        shown = _of_secret(said["body"]) if key[0] == "secret" else _of_parameter(said["body"])
        body = json.dumps(shown, separators=(",", ":"), ensure_ascii=False).encode()
        self._keep(key, body, ttl_s)
        return _json(200, body)

    def _keep(self, key: tuple[Any, ...], body: bytes, ttl_s: int) -> None:
        self._drop(key)
        if ttl_s <= 0 or self._options.entries_max <= 0:
            return
        self._cache[key] = (body, self._now_s() + ttl_s)
        self._bytes += len(body)
        while len(self._cache) > self._options.entries_max or self._bytes > CACHE_BYTES_MAX:
            self._bytes -= len(self._cache.popitem(last=False)[1][0])

    def _drop(self, key: tuple[Any, ...]) -> None:
        kept = self._cache.pop(key, None)
        if kept is not None:
            self._bytes -= len(kept[0])


def _moment(seconds: float) -> str:
    """As Go writes it, in which the extension is written."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _of_secret(said: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"SecretBinary": None, "SecretString": None, **said, "CreatedDate": _moment(said["CreatedDate"])}
    return {**dict(sorted(shown.items())), "ResultMetadata": {}}


def _of_parameter(said: Mapping[str, Any]) -> dict[str, Any]:
    found = said["Parameter"]
    shown = {"Selector": None, "SourceResult": None, **found, "LastModifiedDate": _moment(found["LastModifiedDate"])}
    return {"Parameter": dict(sorted(shown.items())), "ResultMetadata": {}}


def _refusal(status: int, message: str, name: str = "") -> Reply:
    return _json(status, json.dumps({"message": message} | ({"__type": name} if name else {})).encode())


def _json(status: int, body: bytes) -> Reply:
    return Reply(status, [("Content-Type", "application/json")], body)
