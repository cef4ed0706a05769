"""Keys in the running service: what is sealed under them, when that is turned over, and whether a sandbox may have its secrets.

Law of this file: it joins the keys with the rooms whose texts they seal, as the gateway joins those of the API. It decides
nothing about a cipher and nothing about a function.

A rotation makes a newer key and then wraps every data key anew, one after the other, each in one durable step; what the data
keys have sealed is not touched. The service goes on meanwhile, and may end anywhere: any mixture opens, since a source keeps
its older keys, and what is left is done at the next start.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from scheduler.config import DEFAULT_TENANT
from scheduler.errors import BadRequest, NotFound, SchedulerError
from scheduler.functions import sealed
from scheduler.keys.awskms import AwsKms
from scheduler.keys.configured import key_source
from scheduler.keys.embedded import EmbeddedKeys
from scheduler.keys.envelopes import Envelopes
from scheduler.keys.masters import MasterKeys, MasterSource
from scheduler.keys.port import KeyProblem
from scheduler.lambda_api.views import default_role
from scheduler.orders import Entrance
from scheduler.secrets.lookalikes import ADVICE, lookalikes
from scheduler.secrets.store import Secrets
from scheduler.targets.app import Targets
from scheduler.targets.doors import CONNECTIONS_TOTAL_MAX, Doors, Share, Tokens, ports, variables
from scheduler.targets.kms import Kms
from scheduler.targets.secretsmanager import SecretsManager, lets
from scheduler.targets.ssm import Ssm
from scheduler.targets.who import Who

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scheduler.accesskeys import AccessKeys
    from scheduler.config import Settings
    from scheduler.functions.model import FunctionVersion
    from scheduler.functions.names import Identity
    from scheduler.functions.registry import FunctionRegistry
    from scheduler.keyring import Keyring
    from scheduler.keys.port import KeySource
    from scheduler.lambda_api.access import Access
    from scheduler.lambda_api.app import Reply
    from scheduler.lambda_api.wire import Request
    from scheduler.log import Log
    from scheduler.messages import Right
    from scheduler.store import port

__all__ = ["KeyRoom", "Turned"]

MARK: Final = "ks.turned"  # in the store: the source and key that everything is under; a start need not look at it all
PAUSE_S: Final = 0.0  # between two functions: others' tasks have their turn
EXTENSION_LAYER: Final = "AWS-Parameters-and-Secrets-Lambda-Extension"
COLLECT_S: Final = 3600.0
NAMED_REMOTE: Final = "mr"  # first word of what a key of a KMS wraps that a user has named
AGAIN_S: Final = 60.0  # a key server that cannot be reached is asked again


@dataclass(frozen=True, slots=True)
class Turned:
    """What a rotation, or the rest of one, did. failed: functions whose key could not be had; they stay as they were."""

    key: str
    wrapped: int
    resealed: int
    failed: int
    retired: int = 0


class KeyRoom:
    """use() once the registry is there."""

    def __init__(self, settings: Settings, keyring: Keyring, access_keys: AccessKeys, log: Log) -> None:
        self._access_keys = access_keys
        self._log = log
        self._embedded = EmbeddedKeys(keyring)
        self.source = key_source(settings, self._embedded)
        self.envelopes = Envelopes(self.source, others=(self._embedded,), keep_s=settings.key_cache_s)
        self.seals = sealed.Seals(self.envelopes)
        self._turning = trio.Lock()
        self._all = False
        self._tokens = Tokens()
        self._shares: dict[str, Share] = {}  # by tenant
        self._places = trio.CapacityLimiter(CONNECTIONS_TOTAL_MAX)
        self._refused: set[str] = set()

    async def load(self, store: port.Registry, identity: Identity) -> None:
        """Master keys and secrets. Before the registry: environments may be sealed under them."""
        self._identity = identity
        self._store = store
        self.masters = await MasterKeys.load(store, self.envelopes, identity.of_service)
        self.envelopes.add(MasterSource(self.masters), self)
        if isinstance(self.source, AwsKms):
            self.envelopes.add(self.source.with_key(self.source.key_id, NAMED_REMOTE), self)
        self.secrets = await Secrets.load(store, self.envelopes, identity.of_service)
        services = (
            Kms(self.masters, identity.account_id),
            SecretsManager(self.secrets),
            Ssm(self.secrets, identity.of_service),
        )
        self.targets = Targets(services, self._log)

    def use(self, registry: FunctionRegistry, nursery: trio.Nursery, isolated: Callable[[], bool]) -> None:
        """nursery: where sandboxes' doors are. isolated: a sandbox has a network of its own, where nobody else connects."""
        self._registry = registry
        self._nursery = nursery
        self._isolated = isolated
        registry.environment_changed = self._look

    def _look(self, version: FunctionVersion) -> None:
        """Variables that look like credentials are told of, by name."""
        found = lookalikes(version.config.environment)
        if found:
            self._log.warning(
                "environment",
                function=version.name,
                text=f"{'; '.join(map(str, found))}; a secret has a better place: {ADVICE}",
            )

    def source_for(self, key: str, tenant: str | None) -> KeySource:
        """`envelopes.NamedKeys`: one of this service's master keys, or of the KMS that the settings name."""
        try:
            return self.masters.source(key, tenant or DEFAULT_TENANT)
        except KeyProblem:
            if not isinstance(self.source, AwsKms):
                raise
            return self.source.with_key(key, NAMED_REMOTE)

    # ---- clients ----

    async def answer(self, request: Request, access: Access) -> Reply:
        """A request with X-Amz-Target."""

        def identify(request: Request) -> tuple[Who, Request]:
            principal, meant = access.identify(request, self.targets.signed_as(request))
            return Who(principal.name, principal.tenant or DEFAULT_TENANT, principal.rights), meant

        return await self.targets.answer(request, identify)

    async def call(
        self, target: str, operation: str, values: Mapping[str, Any], *, rights: Right, tenant: str
    ) -> dict[str, Any]:
        """The same for who comes by the protocol."""
        return await self.targets.run(Who("connection", tenant, rights), target, operation, values)

    async def collect(self) -> None:
        """Keys and secrets whose time is over, every hour."""
        while True:
            try:
                keys, secrets = await self.masters.collect(), await self.secrets.collect()
                if keys or secrets:
                    self._log.info("keys", destroyed=keys, secrets_removed=secrets)
            except SchedulerError as error:
                self._log.error("keys", text=error.message)
            await trio.sleep(COLLECT_S)

    # ---- what a sandbox needs ----

    async def ready(self, name: str) -> str | None:
        """Asks for the keys of a function whose keys are not at hand. Why a sandbox of it cannot have them, or None."""
        try:
            problem = await self._registry.unlock(name)
        except NotFound:
            return None
        except SchedulerError as error:
            return error.message
        return None if problem is None else f"{problem.code}: {problem.message}"

    def enters(self, version: FunctionVersion) -> bool:
        """Sandboxes of this version come by secrets or keys: some are granted to it, by its configuration or by a secret's
        policy, or it has the layer with which functions ask for them on Lambda."""
        config = version.config
        wanted = bool(
            config.secrets
            or config.keys
            or any(EXTENSION_LAYER in layer.arn for layer in version.layers)
            or (self.secrets.with_policy and self._policy_lets(version))
        )
        if wanted and not self._isolated():
            if config.name not in self._refused:
                self._refused.add(config.name)
                self._log.error("doors", function=config.name, text="without a network of its own it gets no secrets")
            return False
        return wanted

    def _policy_lets(self, version: FunctionVersion) -> bool:
        who = self._who(version)
        return any(lets(secret.policy, who) for secret in self.secrets.policies(version.config.tenant))

    def _who(self, version: FunctionVersion) -> Who:
        config, identity = version.config, self._identity
        role = config.role or default_role(identity)
        session = f"arn:aws:sts::{identity.account_id}:assumed-role/{role.rpartition('/')[2]}/{config.name}"
        return Who(
            session, config.tenant, keys=config.keys, secrets=config.secrets, role=role, function=identity.arn(config.name)
        )

    def entrance(self, version: FunctionVersion) -> Entrance:
        """How they do."""
        token = self._tokens.of(f"{version.name}:{version.version}:{version.revision}")
        given = version.config.environment
        overridable, reserved = variables(token)
        share = self._shares.setdefault(version.config.tenant, Share(self._places))
        doors = Doors(self.targets, self._nursery, self._who(version), given, token, share)
        return Entrance(doors, ports(given), overridable, reserved)

    # ---- turning over ----

    async def finish(self) -> None:
        """What an earlier rotation, or another choice of source, has left to be done. Until it is done, or cancelled."""
        while True:
            try:
                if self.masters.locked:
                    await self.masters.unlock()
                turned = await self.turn(rotate=False)
            except SchedulerError as error:
                self._log.error("keys", text=f"data keys are not wrapped anew: {error.message}")
            else:
                if turned.wrapped or turned.resealed:
                    self._log.info("keys", key=turned.key, wrapped=turned.wrapped, resealed=turned.resealed)
                if not turned.failed and not self.masters.locked:
                    return
                locked = len(self.masters.locked)
                self._log.warning("keys", not_wrapped_anew=turned.failed, master_keys_locked=locked)
            await trio.sleep(AGAIN_S)

    async def turn(self, *, rotate: bool, retire: bool = False) -> Turned:
        """rotate: a newer key first. retire: keys under which nothing is any more are destroyed. KeyProblem, KeyringBroken."""
        if retire and self.source is not self._embedded:
            raise BadRequest(f"retire: keys of {self.source.kind} are destroyed where they are")
        async with self._turning:
            # Which of a KMS' generations a text is under, it alone knows: asked for a rotation, all are wrapped anew.
            self._all = rotate and isinstance(self.source, AwsKms)
            key = await self.source.rotate() if rotate else (await self.source.generations())[-1].id
            mark = f"{self.source.kind} {key}".encode()
            done = await self._store.get(MARK)
            wrapped = failed = 0
            if not rotate and done is not None and done.value == mark:
                return Turned(key, 0, self._access_keys.reseal(), 0)
            await self._registry.quiet()  # what was sealed under an older key before is stored, and so will be seen
            for name in self._registry.names():
                await trio.sleep(PAUSE_S)
                try:
                    wrapped += await self._registry.rewrap(name, self._wrap)
                except KeyProblem as problem:
                    failed += 1
                    self._log.warning("keys", function=name, text=f"{problem.code}: {problem.message}")
            for holder in (self.masters, self.secrets):
                try:
                    wrapped += await holder.rewrap(self._wrap_for)
                except KeyProblem as problem:
                    failed += 1
                    self._log.warning("keys", text=f"{problem.code}: {problem.message}")
            resealed = self._access_keys.reseal()
            if not failed and not self.masters.locked:
                await self._store.put(MARK, mark)
            retired = await self._retire() if retire and not failed else 0
        return Turned(key, wrapped, resealed, failed, retired)

    async def rotate(self, *, retire: bool) -> dict[str, Any]:
        """For `keys rotate`."""
        turned = await self.turn(rotate=True, retire=retire)
        self._log.info("keys rotated", **asdict(turned))
        return asdict(turned)

    async def _wrap(self, name: str, under: str) -> str | None:
        return await self._wrap_for(sealed.context(name), under)

    async def _wrap_for(self, context: Mapping[str, str], under: str) -> str | None:
        if not self.envelopes.own(under) or (self.envelopes.is_current(under) and not self._all):
            return None
        return await self.envelopes.rewrap(under, context)

    async def _wrapped_keys(self) -> tuple[str, ...]:
        """Of everything that is sealed."""
        functions, masters = await self._registry.wrapped_keys(), await self.masters.wrapped_keys()
        return functions + masters + await self.secrets.wrapped_keys()

    async def _retire(self) -> int:
        used = {under.split(".")[1] for under in await self._wrapped_keys() if under.startswith("v1.")}
        used |= {key.sealed.split(".")[1] for key in self._access_keys.all()}
        return self._embedded.retire([g.id for g in await self._embedded.generations() if g.id not in used and not g.current])

    async def view(self) -> dict[str, Any]:
        """For `keys list`: the source, its keys, and how many data keys are under each."""
        count: Counter[str] = Counter()
        for under in await self._wrapped_keys():
            kind, _, rest = under.partition(".")
            count[f"{kind}.{rest.partition('.')[0]}"] += 1
        keys = [
            {"id": g.id, "made": g.made, "current": g.current, "data_keys": count.pop(f"{self.source.kind}.{g.id}", 0)}
            for g in await self.source.generations()
        ]
        mine = sum(n for key, n in count.items() if key.startswith(self.source.kind + "."))
        if mine and len(keys) == 1:  # whose texts do not name it as the source does
            keys[0]["data_keys"] = mine
        others = Counter({key: n for key, n in count.items() if not key.startswith(self.source.kind + ".")})
        return {"source": self.source.kind, "keys": keys, "elsewhere": dict(others)}
