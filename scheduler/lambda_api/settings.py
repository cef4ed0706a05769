"""Operations on what is said about a function beside its configuration: tags, and how its events are tried.

Law of this file: kept in functions.attached. Settings of events are obeyed by the rooms that try them.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from scheduler.functions import names
from scheduler.functions.attached import EventConfig
from scheduler.lambda_api.errors import LambdaError
from scheduler.lambda_api.paging import page
from scheduler.lambda_api.rooms import refuse
from scheduler.lambda_api.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from scheduler.lambda_api.rooms import ApiCall, Rooms

__all__ = ["TAGS_MAX", "SettingOperations", "check_tags"]

TAGS_MAX: Final = 50
# Letters, blanks and digits of any script, and a few marks.
_TAG: Final = re.compile(r"[\w\s.:/=+\-@]*")
_ARN: Final = re.compile(r"arn:aws[a-zA-Z-]*:[a-z0-9-]+:.*")


def check_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """`tags`, or LambdaError."""
    for key, value in tags.items():
        if not 1 <= len(key) <= 128 or not _TAG.fullmatch(key) or key.lower().startswith("aws:"):
            raise refuse(f"Tags: the key {key[:128]!r} is not 1 to 128 letters, digits, blanks and _.:/=+-@, or is aws:…")
        if len(value) > 256 or not _TAG.fullmatch(value):
            raise refuse(f"Tags: the value of {key[:128]!r} is not at most 256 letters, digits, blanks and _.:/=+-@")
    if len(tags) > TAGS_MAX:
        raise refuse(f"Tags: there would be {len(tags)}, the limit is {TAGS_MAX}")
    return dict(tags)


class SettingOperations:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def handlers(self) -> dict[str, Callable[[ApiCall], Awaitable[Answer]]]:
        return {
            "TagResource": self._tag,
            "UntagResource": self._untag,
            "ListTags": self._list_tags,
            "PutFunctionEventInvokeConfig": self._put_events,
            "UpdateFunctionEventInvokeConfig": self._update_events,
            "GetFunctionEventInvokeConfig": self._get_events,
            "ListFunctionEventInvokeConfigs": self._list_events,
            "DeleteFunctionEventInvokeConfig": self._delete_events,
        }

    # ---- tags ----

    def _tagged(self, call: ApiCall) -> str:
        """The name of the function whose ARN Resource is."""
        resource = call.values["Resource"]
        if not resource.startswith("arn:"):
            raise refuse(f"Resource: {resource[:128]!r} is not the ARN of a function")
        reference = names.parse(resource, self._rooms.registry.identity)
        if reference.qualifier is not None:
            raise refuse("Tags on function aliases and versions are not supported. Please specify a function ARN.")
        return self._rooms.visible(call, reference.name).name

    async def _tag(self, call: ApiCall) -> Answer:
        name = self._tagged(call)
        async with self._rooms.attached(call, name) as change:
            change.now = replace(change.now, tags=check_tags({**change.now.tags, **call.values["Tags"]}))
        return Answer()

    async def _untag(self, call: ApiCall) -> Answer:
        name, gone = self._tagged(call), set(call.values["TagKeys"])
        async with self._rooms.attached(call, name) as change:
            change.now = replace(change.now, tags={k: v for k, v in change.now.tags.items() if k not in gone})
        return Answer()

    async def _list_tags(self, call: ApiCall) -> Answer:
        return Answer({"Tags": dict(self._rooms.registry.attachments.of(self._tagged(call)).tags)})

    # ---- asynchronous invocation ----

    async def _put_events(self, call: ApiCall) -> Answer:
        return await self._set_events(call, merge=False)

    async def _update_events(self, call: ApiCall) -> Answer:
        return await self._set_events(call, merge=True)

    async def _set_events(self, call: ApiCall, *, merge: bool) -> Answer:
        name, qualifier = self._rooms.place(call)
        given = {
            "retries_max": call.get("MaximumRetryAttempts"),
            "age_max_s": call.get("MaximumEventAgeInSeconds"),
            "on_success": _destination(call, "OnSuccess"),
            "on_failure": _destination(call, "OnFailure"),
        }
        said = {key: value for key, value in given.items() if value is not None}
        if not said:
            raise refuse("You must specify at least one of error handling or destination setting.")
        async with self._rooms.attached(call, name, qualifier) as change:
            old = change.now.events.get(qualifier)
            if merge and old is None:
                raise self._no_events(name, qualifier)
            base = old if merge and old is not None else EventConfig(0.0)
            made = replace(base, modified_s=time.time(), **said)
            change.now = replace(change.now, events={**change.now.events, qualifier: made})
        return Answer(self._shown(name, qualifier, made))

    async def _get_events(self, call: ApiCall) -> Answer:
        name, qualifier = self._rooms.place(call)
        found = self._rooms.registry.attachments.of(name).events.get(qualifier)
        if found is None:
            raise self._no_events(name, qualifier)
        return Answer(self._shown(name, qualifier, found))

    async def _list_events(self, call: ApiCall) -> Answer:
        name = self._rooms.own_name(call)
        found = sorted(self._rooms.registry.attachments.of(name).events.items())
        return Answer(
            page(
                "FunctionEventInvokeConfigs",
                found,
                call.get("Marker"),
                call.get("MaxItems"),
                lambda pair: self._shown(name, pair[0], pair[1]),
            )
        )

    async def _delete_events(self, call: ApiCall) -> Answer:
        name, qualifier = self._rooms.place(call)
        async with self._rooms.attached(call, name, qualifier) as change:
            if qualifier not in change.now.events:
                raise self._no_events(name, qualifier)
            change.now = replace(change.now, events={k: v for k, v in change.now.events.items() if k != qualifier})
        return Answer()

    def _no_events(self, name: str, qualifier: str) -> LambdaError:
        arn = self._rooms.registry.identity.arn(name, qualifier)
        return LambdaError("ResourceNotFoundException", f"The function {arn} doesn't have an EventInvokeConfig")

    def _shown(self, name: str, qualifier: str, config: EventConfig) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "LastModified": config.modified_s,
            "FunctionArn": self._rooms.registry.identity.arn(name, qualifier),
            "DestinationConfig": {
                "OnSuccess": {"Destination": config.on_success} if config.on_success else {},
                "OnFailure": {"Destination": config.on_failure} if config.on_failure else {},
            },
        }
        if config.retries_max is not None:
            shown["MaximumRetryAttempts"] = config.retries_max
        if config.age_max_s is not None:
            shown["MaximumEventAgeInSeconds"] = config.age_max_s
        return shown


def _destination(call: ApiCall, which: str) -> str | None:
    """The ARN; "" where it is taken away; None where nothing is said."""
    found = call.get("DestinationConfig", {}).get(which)
    if found is None:
        return None
    arn = str(found.get("Destination", ""))
    if arn and not _ARN.fullmatch(arn):
        raise refuse(f"DestinationConfig.{which}: {arn[:128]!r} is not an ARN")
    return arn
