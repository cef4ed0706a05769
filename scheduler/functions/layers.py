"""Layers: packages that functions share, in versions that never change.

Law of this file: which layers there are, and who may use them; their bytes lie in the code store. A function that uses a
version keeps a reference of its own, so deleting the version takes it away from nobody.

    layers = await Layers.load(store)
    made = await layers.publish("common", code, tenant="default", description="…")       -> LayerVersion
    layers.get("common", 3), layers.versions("common"), layers.names(tenant)
    await layers.change("common", 3, tenant, lambda now: …), await layers.delete("common", 3, tenant)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import trio

from scheduler.errors import NotFound, Throttled, Unauthorized, Unavailable
from scheduler.functions.attached import Policy
from scheduler.functions.model import CodeKind, CodeRef
from scheduler.store.port import ABSENT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scheduler.store import port

__all__ = ["LAYERS_OF_ONE_MAX", "LayerVersion", "Layers"]

PREFIX: Final = "ly."
FORMAT: Final = 1
PAGE: Final = 200
LAYERS_OF_ONE_MAX: Final = 5  # of one function, as in Lambda
VERSIONS_MAX: Final = 1000  # of one layer: they are one stored value
NAMES_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class LayerVersion:
    """`created`: RFC 3339 in UTC."""

    name: str
    version: int
    code: CodeRef
    created: str
    description: str = ""
    license: str = ""
    runtimes: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class _Layer:
    """`last`: the highest number ever given."""

    tenant: str
    last: int = 0
    versions: Mapping[int, LayerVersion] = field(default_factory=dict, hash=False)


class Layers:
    """Made by load()."""

    def __init__(self, store: port.Registry) -> None:
        self._store = store
        self._held: dict[str, tuple[_Layer, int]] = {}  # with the store's revision
        self._changing = trio.Lock()

    @classmethod
    async def load(cls, store: port.Registry) -> Layers:
        """Reads everything. Unavailable: a value cannot be understood."""
        made = cls(store)
        after = ""
        while page := await store.list(PREFIX, after=after, limit=PAGE):
            for entry in page:
                name = entry.key.removeprefix(PREFIX)
                made._held[name] = (_decode(name, entry.value), entry.revision)
            after = page[-1].key
        return made

    # ---- reading ----

    def get(self, name: str, version: int, tenant: str | None = None) -> LayerVersion:
        """NotFound: there is none, or none that this tenant may know of. tenant None: all of them."""
        layer = self._of(name, tenant)
        if layer is None or version not in layer.versions:
            raise NotFound(f"Layer version {name}:{version} does not exist.")
        return layer.versions[version]

    def versions(self, name: str, tenant: str | None = None) -> tuple[LayerVersion, ...]:
        """Newest first; of a layer that is not there none."""
        layer = self._of(name, tenant)
        return () if layer is None else tuple(layer.versions[number] for number in sorted(layer.versions, reverse=True))

    def names(self, tenant: str | None = None) -> tuple[str, ...]:
        """Of those that have a version."""
        return tuple(sorted(name for name in self._held if self.versions(name, tenant)))

    def code_in_use(self) -> frozenset[str]:
        """`CodeRef.path` of every version."""
        return frozenset(v.code.path for layer, _ in self._held.values() for v in layer.versions.values())

    def _of(self, name: str, tenant: str | None) -> _Layer | None:
        layer = self._held.get(name, (None, 0))[0]
        return layer if layer is not None and tenant in (None, layer.tenant) else None

    # ---- writing ----

    async def publish(self, name: str, code: CodeRef, *, tenant: str, created: str, **more: Any) -> LayerVersion:
        """A new version. Unauthorized: the name is another tenant's. Throttled: there are too many."""
        async with self._changing:
            layer, revision = self._held.get(name, (_Layer(tenant), ABSENT))
            if layer.tenant != tenant:
                raise Unauthorized(f"layer {name} belongs to another tenant")
            _check_room("layers", len(self._held) - (name in self._held), NAMES_MAX)
            _check_room("layer versions", len(layer.versions), VERSIONS_MAX)
            made = LayerVersion(name, layer.last + 1, code, created, **more)
            await self._write(name, _Layer(tenant, made.version, {**layer.versions, made.version: made}), revision)
            return made

    async def change(
        self, name: str, version: int, tenant: str | None, change: Callable[[LayerVersion], Policy | None]
    ) -> None:
        """A new policy, or none: what `change` makes of the version as it is when its turn has come. NotFound."""
        async with self._changing:
            now = self.get(name, version, tenant)
            changed = replace(now, policy=change(now))
            layer, revision = self._held[name]
            await self._write(name, replace(layer, versions={**layer.versions, version: changed}), revision)

    async def delete(self, name: str, version: int, tenant: str | None = None) -> None:
        """One that is not there, or not this tenant's, is fine, as in Lambda."""
        async with self._changing:
            layer, revision = self._held.get(name, (_Layer(""), ABSENT))
            if version in layer.versions and tenant in (None, layer.tenant):
                kept = {number: held for number, held in layer.versions.items() if number != version}
                # The layer stays, for its numbers are never used again.
                await self._write(name, replace(layer, versions=kept), revision)

    async def _write(self, name: str, layer: _Layer, revision: int) -> None:
        with trio.CancelScope(shield=True):  # the store and the memory must not disagree
            try:
                stored = await self._store.put(PREFIX + name, _encode(layer), expect=revision)
            except Unavailable:
                entry = await self._store.get(PREFIX + name)
                if entry is not None:
                    self._held[name] = (_decode(name, entry.value), entry.revision)
                raise
            self._held[name] = (layer, stored)


def _check_room(what: str, held: int, most: int) -> None:
    if held >= most:
        raise Throttled(
            f"there are {held} {what}, the limit is {most}; delete some",
            account="node",
            resource=what.replace(" ", "_"),
            current=held,
            limit=most,
        )


# ---- in the store --------------------------------------------------------------------------------------------------------


def _encode(layer: _Layer) -> bytes:
    def version(held: LayerVersion) -> dict[str, Any]:
        raw = asdict(replace(held, policy=None))
        raw["code"]["kind"] = held.code.kind.value
        if held.policy is not None:
            statements = {sid: dict(statement) for sid, statement in held.policy.statements.items()}
            raw["policy"] = {"statements": statements, "revision_id": held.policy.revision_id}
        return raw

    raw = {
        "format": FORMAT,
        "tenant": layer.tenant,
        "last": layer.last,
        "versions": [version(held) for held in layer.versions.values()],
    }
    return json.dumps(raw, separators=(",", ":"), ensure_ascii=False).encode()


def _decode(name: str, value: bytes) -> _Layer:
    try:
        raw = json.loads(value)
        if raw["format"] != FORMAT:
            raise Unavailable(
                f"layer {name}: stored in format {raw['format']}, this version reads {FORMAT}; update the service"
            )
        return _Layer(raw["tenant"], raw["last"], MappingProxyType({v["version"]: _version(v) for v in raw["versions"]}))
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable(f"layer {name}: the stored value cannot be read ({type(error).__name__}); restore a copy") from error


def _version(raw: dict[str, Any]) -> LayerVersion:
    code = _code(raw.pop("code"))
    policy = raw.pop("policy")
    return LayerVersion(
        **{**raw, "runtimes": tuple(raw["runtimes"]), "architectures": tuple(raw["architectures"])},
        code=code,
        policy=None if policy is None else Policy(**policy),
    )


def _code(raw: dict[str, Any]) -> CodeRef:
    return CodeRef(raw["sha256"], raw["size"], CodeKind(raw["kind"]), raw["path"])
