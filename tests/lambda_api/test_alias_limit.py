"""A function has 1,000 aliases at most. They are put into the store here: to make each by a request would take a minute."""

from __future__ import annotations

import dataclasses

import pytest

from scheduler.catalog import Catalog
from scheduler.config import load
from scheduler.deployments import Deployments
from scheduler.functions.attached import Alias
from scheduler.functions.names import LATEST
from scheduler.lambda_api.aliases import ALIASES_MAX, AliasOperations
from scheduler.lambda_api.errors import LambdaError
from scheduler.lambda_api.rooms import ApiCall, Principal, Rooms
from scheduler.lambda_api.wire import Request
from scheduler.messages import Right
from tests.functions.test_registry import HELLO, Memory, code, open_registry


async def nothing(*arguments):
    """Nobody is at the other end."""


async def test_the_limit_of_aliases():
    registry = await open_registry(Memory())
    await registry.create(HELLO, code(), publish=False)
    async with registry.attachments.change("hello") as change:
        aliases = {f"a{n}": Alias(LATEST) for n in range(ALIASES_MAX - 1)}
        change.now = dataclasses.replace(change.now, aliases=aliases)
    catalog = Catalog(load())
    deployments = Deployments(
        catalog=catalog, post=nothing, alive=lambda handle: False, stage_max_s=1, wake=nothing, use=lambda *runtimes: None
    )
    others = dict.fromkeys(field.name for field in dataclasses.fields(Rooms))  # aliases have nothing to do with them
    rooms = Rooms(**{**others, "settings": load, "registry": registry, "deployments": deployments})
    create = AliasOperations(rooms).handlers()["CreateAlias"]

    def asked(name):
        values = {"FunctionName": "hello", "Name": name, "FunctionVersion": LATEST}
        return ApiCall(Principal("x", Right.ALL), values, Request("POST", "/", "", {}), "localhost")

    assert (await create(asked("last"))).body["Name"] == "last"
    with pytest.raises(LambdaError, match="has 1000 aliases, which is the limit") as refused:
        await create(asked("one-more"))
    assert refused.value.name == "AliasLimitExceededException"
    assert refused.value.kind.status == 400
    assert len(registry.attachments.of("hello").aliases) == ALIASES_MAX
