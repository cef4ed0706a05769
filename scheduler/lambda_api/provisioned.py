"""Operations on provisioned concurrency.

Law of this file: Lambda's words round functions.provisioned, whose rules hold. `$LATEST` has none in Lambda; what it was given
through the protocol is not shown here, nor are windows.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from scheduler.errors import NotFound
from scheduler.functions.model import timestamp
from scheduler.functions.names import LATEST
from scheduler.functions.provisioned import Provisioned
from scheduler.lambda_api.errors import LambdaError
from scheduler.lambda_api.paging import page
from scheduler.lambda_api.rooms import refuse
from scheduler.lambda_api.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scheduler.lambda_api.rooms import ApiCall, Rooms

__all__ = ["ProvisionedOperations"]


class ProvisionedOperations:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def handlers(self) -> dict[str, Callable[[ApiCall], Awaitable[Answer]]]:
        return {
            "PutProvisionedConcurrencyConfig": self._put,
            "GetProvisionedConcurrencyConfig": self._get,
            "ListProvisionedConcurrencyConfigs": self._list,
            "DeleteProvisionedConcurrencyConfig": self._delete,
        }

    def _place(self, call: ApiCall) -> tuple[str, str]:
        name, qualifier = self._rooms.place(call)
        if qualifier == LATEST:
            raise refuse("Provisioned Concurrency Configs cannot be applied to unpublished function versions.")
        return name, qualifier

    async def _put(self, call: ApiCall) -> Answer:
        name, qualifier = self._place(call)
        config = Provisioned(call.values["ProvisionedConcurrentExecutions"], modified_s=time.time())
        async with self._rooms.turn(call, name):
            await self._rooms.registry.provision(name, qualifier, config)
            await self._rooms.deployments.apply(self._rooms.spec(name))
        return Answer(await self._one(name, qualifier))

    async def _get(self, call: ApiCall) -> Answer:
        return Answer(await self._one(*self._place(call)))

    async def _delete(self, call: ApiCall) -> Answer:
        name, qualifier = self._place(call)
        async with self._rooms.turn(call, name):
            try:
                await self._rooms.registry.provision(name, qualifier, None)
            except NotFound:
                return Answer()  # as in Lambda
            await self._rooms.deployments.apply(self._rooms.spec(name))
        return Answer()

    async def _list(self, call: ApiCall) -> Answer:
        name = self._rooms.own_name(call)
        found = [held for held in (await self._rooms.concurrency(name))["provisioned"] if held["qualifier"] != LATEST]

        def show(held: dict[str, Any]) -> dict[str, Any]:
            return {"FunctionArn": self._rooms.registry.identity.arn(name, held["qualifier"]), **_shown(held)}

        return Answer(page("ProvisionedConcurrencyConfigs", found, call.get("Marker"), call.get("MaxItems"), show))

    async def _one(self, name: str, qualifier: str) -> dict[str, Any]:
        for held in (await self._rooms.concurrency(name))["provisioned"]:
            if held["qualifier"] == qualifier:
                return _shown(held)
        raise LambdaError(
            "ProvisionedConcurrencyConfigNotFoundException", "No Provisioned Concurrency Config found for this function"
        )


def _shown(held: dict[str, Any]) -> dict[str, Any]:
    made = {
        "RequestedProvisionedConcurrentExecutions": held["requested"],
        "AvailableProvisionedConcurrentExecutions": held["available"],
        "AllocatedProvisionedConcurrentExecutions": held["allocated"],
        "Status": held["status"],
        "LastModified": timestamp(held["modified_s"]).replace("+00:00", "+0000"),
    }
    return {**made, "StatusReason": held["reason"]} if held["reason"] else made
