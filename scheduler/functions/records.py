"""How functions stand in the store: JSON values, and the one place where an environment is written and read.

Law of this file: pure translation, both ways, of what the registry keeps. A value names its format; one of a newer format is
refused, never half understood.

    fn.NAME           the function: what belongs to it as a whole, its $LATEST, and which versions it has
    fv.NAME.RECORD    one published version, written before the function names it and never changed; RECORD is its revision id
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from scheduler.errors import Unavailable
from scheduler.functions.model import CodeKind, CodeRef, FunctionConfig, FunctionVersion, LayerRef, State
from scheduler.functions.sealed import is_sealed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.functions.sealed import Seals

__all__ = [
    "FUNCTION_PREFIX",
    "VERSION_PREFIX",
    "Published",
    "Record",
    "decode_function",
    "decode_published",
    "encode_function",
    "encode_published",
    "function_key",
    "holds_plain_text",
    "version_key",
    "with_wrapped_key",
    "wrapped_key",
]

FORMAT: Final = 1
FUNCTION_PREFIX: Final = "fn."
VERSION_PREFIX: Final = "fv."


def function_key(name: str) -> str:
    return f"{FUNCTION_PREFIX}{name}"


def version_key(name: str, record: str) -> str:
    return f"{VERSION_PREFIX}{name}.{record}"


@dataclass(frozen=True, slots=True)
class Record:
    """One function as stored. `published`: (number, record) of each version, oldest first. `last_version`: highest number ever
    given, since numbers are never used again."""

    latest: FunctionVersion
    last_version: int = 0
    published: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """One version as stored. `source_description` is that of the `$LATEST` it came from: a version may be given its own, and
    that alone does not make the next publication a change."""

    version: FunctionVersion
    source_description: str


def holds_plain_text(value: bytes) -> bool:
    """An environment in it was stored before they were sealed."""
    return not is_sealed(_of(json.loads(value))["config"]["environment"])


def wrapped_key(value: bytes) -> tuple[str, str] | None:
    """(function, wrapped data key) of a stored function or version; None: its environment has none."""
    config = _of(json.loads(value))["config"]
    environment = config["environment"]
    return (config["name"], environment["under"]) if is_sealed(environment) and environment else None


def with_wrapped_key(value: bytes, wrapped: str) -> bytes:
    """The same with its data key wrapped anew; the seal around the environment stays byte for byte."""
    raw = json.loads(value)
    _of(raw)["config"]["environment"]["under"] = wrapped
    return _dump(raw)


def _of(raw: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = raw.get("latest") or raw["version"]
    return found


async def encode_function(record: Record, seals: Seals) -> bytes:
    return _dump(
        {
            "format": FORMAT,
            "latest": await _version_out(record.latest, seals),
            "last_version": record.last_version,
            "published": [list(pair) for pair in record.published],
        }
    )


async def decode_function(key: str, value: bytes, seals: Seals) -> Record:
    """Raises Unavailable where the value cannot be understood."""
    raw = _load(key, value)
    try:
        published = tuple((int(number), str(record)) for number, record in raw["published"])
        return Record(await _version_in(raw["latest"], seals), int(raw["last_version"]), published)
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(key, error) from error


async def encode_published(published: Published, seals: Seals) -> bytes:
    return _dump(
        {
            "format": FORMAT,
            "version": await _version_out(published.version, seals),
            "source_description": published.source_description,
        }
    )


async def decode_published(key: str, value: bytes, seals: Seals) -> Published:
    """Raises Unavailable where the value cannot be understood."""
    raw = _load(key, value)
    try:
        return Published(await _version_in(raw["version"], seals), str(raw["source_description"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(key, error) from error


def _code_out(code: CodeRef) -> dict[str, Any]:
    return {"sha256": code.sha256, "size": code.size, "kind": code.kind.value, "path": code.path}


def _code_in(raw: Mapping[str, Any]) -> CodeRef:
    return CodeRef(raw["sha256"], raw["size"], CodeKind(raw["kind"]), raw["path"])


async def _version_out(version: FunctionVersion, seals: Seals) -> dict[str, Any]:
    config = version.config
    plain = {field.name: getattr(config, field.name) for field in fields(config) if field.name != "environment"}
    return {
        "config": {**plain, "environment": await seals.seal(config)},
        "version": version.version,
        "revision": version.revision,
        "revision_id": version.revision_id,
        "code": _code_out(version.code),
        "layers": [{"arn": layer.arn, "code": _code_out(layer.code)} for layer in version.layers],
        "last_modified": version.last_modified,
        "state": version.state.value,
        "state_reason": version.state_reason,
    }


async def _version_in(raw: Mapping[str, Any], seals: Seals) -> FunctionVersion:
    config = dict(raw["config"])
    environment = await seals.open(config.pop("environment"), config["name"])
    return FunctionVersion(
        config=FunctionConfig(**config, environment=environment),
        version=raw["version"],
        revision=raw["revision"],
        revision_id=raw["revision_id"],
        code=_code_in(raw["code"]),
        last_modified=raw["last_modified"],
        state=State(raw["state"]),
        state_reason=raw["state_reason"],
        layers=tuple(LayerRef(layer["arn"], _code_in(layer["code"])) for layer in raw.get("layers", ())),
    )


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def _load(key: str, value: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(value)
    except ValueError as error:
        raise _broken(key, error) from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        found = raw.get("format") if isinstance(raw, dict) else "none"
        raise Unavailable(f"{key}: stored in format {found}, this version reads {FORMAT}; update the service")
    return raw


def _broken(key: str, error: Exception) -> Unavailable:
    # The error's text could quote an environment's value: its type must do.
    return Unavailable(f"{key}: the stored value cannot be read ({type(error).__name__}); restore a copy or deploy anew")
