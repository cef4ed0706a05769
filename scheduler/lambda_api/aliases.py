"""Operations on aliases.

Law of this file: what an alias may be is decided here, as Lambda decides it: at most one further version, no weights on
`$LATEST`, and versions that exist. Which version a call gets is the engine's to throw dice for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scheduler.functions.attached import Alias, fresh_revision
from scheduler.functions.names import LATEST
from scheduler.lambda_api.errors import REVISION_TEXT, LambdaError
from scheduler.lambda_api.paging import page
from scheduler.lambda_api.rooms import refuse
from scheduler.lambda_api.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from scheduler.lambda_api.rooms import ApiCall, Rooms

__all__ = ["ALIASES_MAX", "AliasOperations"]

ALIASES_MAX = 1000  # of one function: their list is part of one stored value


class AliasOperations:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def handlers(self) -> dict[str, Callable[[ApiCall], Awaitable[Answer]]]:
        return {
            "CreateAlias": self._create,
            "GetAlias": self._get,
            "ListAliases": self._list,
            "UpdateAlias": self._update,
            "DeleteAlias": self._delete,
        }

    async def _create(self, call: ApiCall) -> Answer:
        rooms, name, alias = self._rooms, self._rooms.own_name(call), call.values["Name"]
        async with rooms.turn(call, name):
            made = Alias(call.values["FunctionVersion"], call.get("Description", ""), _weights(call) or {})
            self._check(name, made)
            async with rooms.attached(call, name) as change:
                if alias in change.now.aliases:
                    arn = rooms.registry.identity.arn(name, alias)
                    raise LambdaError("ResourceConflictException", f"Alias already exists: {arn}")
                if len(change.now.aliases) >= ALIASES_MAX:
                    raise LambdaError("AliasLimitExceededException", f"{name} has {ALIASES_MAX} aliases, which is the limit")
                change.now = replace(change.now, aliases={**change.now.aliases, alias: made})
            await rooms.deployments.apply(rooms.spec(name))
        return Answer(self._shown(name, alias, made))

    async def _update(self, call: ApiCall) -> Answer:
        rooms, name, alias = self._rooms, self._rooms.own_name(call), call.values["Name"]
        async with rooms.turn(call, name):
            async with rooms.attached(call, name) as change:
                old = self._existing(name, alias, change.now.aliases)
                if call.get("RevisionId", old.revision_id) != old.revision_id:
                    raise LambdaError("PreconditionFailedException", REVISION_TEXT)
                weights = _weights(call)
                made = Alias(
                    call.get("FunctionVersion", old.version),
                    call.get("Description", old.description),
                    old.weights if weights is None else weights,
                    fresh_revision(),
                )
                self._check(name, made)
                change.now = replace(change.now, aliases={**change.now.aliases, alias: made})
            await rooms.deployments.apply(rooms.spec(name))
        return Answer(self._shown(name, alias, made))

    async def _delete(self, call: ApiCall) -> Answer:
        """One that is not there is fine, as in Lambda. What was configured for the alias goes with it."""
        rooms, name, alias = self._rooms, self._rooms.own_name(call), call.values["Name"]
        async with rooms.turn(call, name):
            async with rooms.attached(call, name) as change:
                now = change.now
                change.now = replace(
                    now,
                    aliases=_without(now.aliases, alias),
                    policies=_without(now.policies, alias),
                    urls=_without(now.urls, alias),
                    events=_without(now.events, alias),
                    provisioned=_without(now.provisioned, alias),
                )
            await rooms.deployments.apply(rooms.spec(name))
        return Answer()

    async def _get(self, call: ApiCall) -> Answer:
        name, alias = self._rooms.own_name(call), call.values["Name"]
        found = self._existing(name, alias, self._rooms.registry.attachments.of(name).aliases)
        return Answer(self._shown(name, alias, found))

    async def _list(self, call: ApiCall) -> Answer:
        name = self._rooms.own_name(call)
        wanted = call.get("FunctionVersion")
        aliases = sorted(self._rooms.registry.attachments.of(name).aliases.items())
        found = [(alias, to) for alias, to in aliases if wanted is None or wanted == to.version or wanted in to.weights]
        return Answer(
            page("Aliases", found, call.get("Marker"), call.get("MaxItems"), lambda pair: self._shown(name, pair[0], pair[1]))
        )

    # ---- how ----

    def _existing(self, name: str, alias: str, aliases: Mapping[str, Alias]) -> Alias:
        if alias not in aliases:
            arn = self._rooms.registry.identity.arn(name, alias)
            raise LambdaError("ResourceNotFoundException", f"Cannot find alias arn: {arn}")
        return aliases[alias]

    def _check(self, name: str, alias: Alias) -> None:
        """LambdaError, NotFound: what the alias says cannot be."""
        for version in (alias.version, *alias.weights):
            self._rooms.registry.get(name, version)
        if not alias.weights:
            return
        if len(alias.weights) > 1:
            raise refuse("Number of items in AdditionalVersionWeights cannot be greater than 1")
        if alias.version == LATEST:
            raise refuse("$LATEST is not supported for an alias pointing to more than 1 version")
        if alias.version in alias.weights:
            raise refuse(
                f"Invalid function version {alias.version}. Function version {alias.version} is already included in routing "
                "configuration."
            )

    def _shown(self, name: str, alias: str, to: Alias) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "AliasArn": self._rooms.registry.identity.arn(name, alias),
            "Name": alias,
            "FunctionVersion": to.version,
            "Description": to.description,
            "RevisionId": to.revision_id,
        }
        if to.weights:
            shown["RoutingConfig"] = {"AdditionalVersionWeights": dict(to.weights)}
        return shown


def _weights(call: ApiCall) -> dict[str, float] | None:
    """None: not said."""
    routing = call.get("RoutingConfig")
    return None if routing is None else {k: float(v) for k, v in routing.get("AdditionalVersionWeights", {}).items()}


def _without(of: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in of.items() if name != key}
