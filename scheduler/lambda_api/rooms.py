"""What the API's handlers work with: the rooms of the service, and who is asking.

Law of this file: data, and the few steps that several handlers share. A caller bound to a tenant sees and changes that
tenant's functions only; others' are not found.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scheduler.catalog import spec_of
from scheduler.errors import NotFound
from scheduler.functions import names
from scheduler.functions.model import State
from scheduler.functions.policies import allows
from scheduler.lambda_api.errors import PENDING_TEXT, UPDATING_TEXT, LambdaError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
    from contextlib import AbstractAsyncContextManager

    from scheduler.catalog import FunctionSpec
    from scheduler.config import Settings
    from scheduler.deployments import Deployments
    from scheduler.errors import SchedulerError
    from scheduler.functions.attached import Change
    from scheduler.functions.layers import Layers
    from scheduler.functions.model import FunctionVersion
    from scheduler.functions.packages import CodeStore
    from scheduler.functions.registry import FunctionRegistry
    from scheduler.lambda_api.streamed import Streamed
    from scheduler.lambda_api.wire import Request
    from scheduler.messages import Right

__all__ = ["ApiCall", "Invoker", "Principal", "Rooms", "refuse"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks. tenant None: all of them."""

    name: str
    rights: Right
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One request of an operation, its members checked. `host`: by what name the client reached us."""

    principal: Principal
    values: Mapping[str, Any]
    request: Request
    host: str

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)


@dataclass(frozen=True, slots=True)
class Invoker:
    """How a call is made from here: `sync` gives the error or the result of the protocol's `invoke`; `event` the request id,
    once the event is durable; `stream` the pieces of an answer (scheduler.client.streaming)."""

    sync: Callable[[str, bytes, Mapping[str, object]], Awaitable[tuple[SchedulerError | None, Any]]]
    event: Callable[[str, bytes, str | None, str | None], Awaitable[str]]
    stream: Callable[[str, bytes, Mapping[str, object]], AbstractAsyncContextManager[Streamed]]
    json_problem: Callable[[bytes], int | None]  # where bytes stop being JSON; one judge for both sides


@dataclass(frozen=True, slots=True)
class Rooms:
    """The parts of the service. runtimes: name of each that is offered to the Python that compiles
    packages for it, if it is one; absent_runtimes: name of each that could be to what to do about it.
    concurrency: of a function, as the method functions.concurrency shows it. check_guest, place_guest: of tenant ids, see
    guests.py. publish_image: a version with SnapStart is Pending
    until its image is made; has_image: whether it has it."""

    settings: Callable[[], Settings]
    registry: FunctionRegistry
    code: CodeStore
    layers: Layers
    deployments: Deployments
    runtimes: Mapping[str, str | None]
    absent_runtimes: Mapping[str, str]
    invoker: Invoker
    concurrency: Callable[[str], Awaitable[dict[str, Any]]]
    check_guest: Callable[[FunctionVersion, object], None]
    place_guest: Callable[[str, str], Awaitable[str]]
    publish_image: Callable[[FunctionVersion], None]
    has_image: Callable[[FunctionVersion], bool]

    def reference(self, call: ApiCall) -> names.Reference:
        """What FunctionName and Qualifier say together. LambdaError, BadRequest."""
        return names.parse(call.values["FunctionName"], self.registry.identity, call.get("Qualifier"))

    def find(self, call: ApiCall) -> FunctionVersion:
        """The version they name, if this caller may know of it. NotFound."""
        reference = self.reference(call)
        version = self.registry.get(reference.name, reference.effective)
        if call.principal.tenant not in (None, version.config.tenant):
            raise NotFound(f"Function not found: {self.registry.identity.arn(reference.name, reference.effective)}")
        return version

    def published(self, version: FunctionVersion | None, before: Collection[str]) -> None:
        """A version was published: if it is new, its image may have to be made. before: versions that there were."""
        if version is not None and version.snap_started and version.version not in before:
            self.publish_image(version)

    def find_to_invoke(self, call: ApiCall) -> FunctionVersion:
        """As find(); a function of another tenant too, where its policy lets this caller's tenant invoke it."""
        reference = self.reference(call)
        version = self.registry.get(reference.name, reference.effective)
        tenant = call.principal.tenant
        policy = self.registry.attachments.of(reference.name).policies.get(reference.effective)
        if tenant in (None, version.config.tenant) or allows(
            policy, principal=tenant, action="lambda:InvokeFunction", facts={}
        ):
            if version.state is State.PENDING:
                raise LambdaError("ResourceConflictException", PENDING_TEXT + version.state.value)
            return version
        raise NotFound(f"Function not found: {self.registry.identity.arn(reference.name, reference.effective)}")

    def visible(self, call: ApiCall, name: str) -> FunctionVersion:
        """`$LATEST` of a function that this caller may know of. NotFound."""
        latest = self.registry.get(name)
        if call.principal.tenant not in (None, latest.config.tenant):
            raise NotFound(f"Function not found: {self.registry.identity.arn(name, names.LATEST)}")  # as registry.get() says it
        return latest

    def place(self, call: ApiCall) -> tuple[str, str]:
        """(function, qualifier) of something attached to one of a function's versions or aliases, which exists. NotFound."""
        reference = self.reference(call)
        self.visible(call, reference.name)
        self.registry.get(reference.name, reference.effective)
        return reference.name, reference.effective

    @asynccontextmanager
    async def turn(self, call: ApiCall, name: str) -> AsyncIterator[None]:
        """The one who changes a function. NotFound: it has gone while we waited, and its name may be another tenant's."""
        async with self.deployments.turn(name):
            self.visible(call, name)
            yield

    @asynccontextmanager
    async def attached(self, call: ApiCall, name: str, qualifier: str = names.LATEST) -> AsyncIterator[Change]:
        """One change of what is attached to a function, or to one of its versions or aliases. NotFound: as turn()."""
        async with self.registry.attachments.change(name) as change:
            self.visible(call, name)
            self.registry.get(name, qualifier)
            yield change

    def own_name(self, call: ApiCall) -> str:
        """The name of a function, not of a version, that this caller may change. NotFound, LambdaError."""
        reference = self.reference(call)
        if reference.qualifier not in (None, names.LATEST):
            raise LambdaError(
                "InvalidParameterValueException",
                "This operation is permitted on Lambda functions only. Aliases and versions do not support this operation. "
                "Please specify either a function name or an unqualified function ARN.",
            )
        return self.visible(call, reference.name).name

    @asynccontextmanager
    async def update(self, name: str) -> AsyncIterator[None]:
        """The turn of one that changes a function's code or configuration, or makes it or a version. There is one at a time:
        who comes meanwhile is refused, as by Lambda, since what it started from is about to change. LambdaError."""
        if self.deployments.updating(name):
            raise LambdaError("ResourceConflictException", UPDATING_TEXT + self.registry.identity.arn(name))
        async with self.deployments.turn(name, update=True):
            yield

    def spec(self, name: str) -> FunctionSpec:
        return spec_of(self.registry, name)

    def runtime(self, name: object) -> str | None:
        """The interpreter to compile code for."""
        return self.runtimes.get(name) if isinstance(name, str) else None


def refuse(message: str) -> LambdaError:
    return LambdaError("InvalidParameterValueException", message)
