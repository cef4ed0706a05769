"""Operations on functions and versions.

Law of this file: from checked members to the registry's own words and back; what is allowed in a configuration is
functions.model's to say, and what becomes of each member is lambda_api.configured's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from scheduler import limits
from scheduler.functions import names, provisioned
from scheduler.functions.names import LATEST
from scheduler.lambda_api import views
from scheduler.lambda_api.configured import check_supported, fields_of
from scheduler.lambda_api.errors import REVISION_TEXT, LambdaError
from scheduler.lambda_api.packages import admit
from scheduler.lambda_api.paging import mark, page, unmark
from scheduler.lambda_api.rooms import refuse
from scheduler.lambda_api.settings import check_tags
from scheduler.lambda_api.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scheduler.functions.model import FunctionVersion
    from scheduler.lambda_api.layers import LayerOperations
    from scheduler.lambda_api.links import Links
    from scheduler.lambda_api.rooms import ApiCall, Rooms

__all__ = ["FunctionOperations"]


class FunctionOperations:
    """handlers(): by operation."""

    def __init__(self, rooms: Rooms, layers: LayerOperations, links: Links) -> None:
        self._rooms = rooms
        self._layers = layers
        self._links = links

    def handlers(self) -> dict[str, Callable[[ApiCall], Awaitable[Answer]]]:
        return {
            "CreateFunction": self._create,
            "GetFunction": self._get,
            "GetFunctionConfiguration": self._get_configuration,
            "ListFunctions": self._list,
            "UpdateFunctionCode": self._update_code,
            "UpdateFunctionConfiguration": self._update_configuration,
            "DeleteFunction": self._delete,
            "PublishVersion": self._publish,
            "ListVersionsByFunction": self._versions,
            "PutFunctionConcurrency": self._put_concurrency,
            "GetFunctionConcurrency": self._get_concurrency,
            "DeleteFunctionConcurrency": self._delete_concurrency,
            "PutRuntimeManagementConfig": self._put_runtime_management,
            "GetRuntimeManagementConfig": self._get_runtime_management,
            "PutFunctionRecursionConfig": self._put_recursion,
            "GetFunctionRecursionConfig": self._get_recursion,
            "GetAccountSettings": self._account,
        }

    # ---- writing ----

    async def _create(self, call: ApiCall) -> Answer:
        rooms = self._rooms
        name = self._new_name(call)
        check_supported(call)
        for needed in ("Runtime", "Handler"):
            if needed not in call.values:
                raise refuse(f"{needed} is mandatory for functions created with deployment packages of type Zip.")
        fields = {"name": name, **fields_of(call, self._rooms)}
        if call.principal.tenant is not None:
            fields["tenant"] = call.principal.tenant
        async with rooms.update(name):
            if name in rooms.registry:
                raise LambdaError("ResourceConflictException", f"Function already exist: {name}")
            code = await admit(rooms, call.values["Code"], fields["handler"], fields["runtime"])
            tags = check_tags(call.get("Tags", {}))
            layers = await self._layers.chosen(call, code) or ()
            deployed = await rooms.registry.create(fields, code, publish=call.get("Publish", False), layers=layers)
            if tags:
                async with rooms.registry.attachments.change(name) as change:
                    change.now = replace(change.now, tags=tags)
            rooms.published(deployed.published, ())
            await rooms.deployments.apply(rooms.spec(name))
            return self._shown(deployed.published or deployed.latest)

    async def _update_code(self, call: ApiCall) -> Answer:
        rooms = self._rooms
        name = rooms.own_name(call)
        check_supported(call)
        async with rooms.update(name):
            rooms.visible(call, name)  # it may have gone meanwhile, and its name be another tenant's
            latest = rooms.registry.get(name)
            code = await admit(rooms, call.values, latest.config.handler, latest.config.runtime)
            self._layers.check_together(code, latest.layers)
            if call.get("DryRun", False):
                if call.get("RevisionId", latest.revision_id) != latest.revision_id:
                    raise LambdaError("PreconditionFailedException", REVISION_TEXT)
                shown = views.configuration(latest, rooms.registry.identity, qualified=False)
                return Answer({**shown, "CodeSize": code.size, "CodeSha256": views.code_sha256(code.sha256)})
            before = self._numbers(name)
            deployed = await rooms.registry.update(
                name, {}, code=code, publish=call.get("Publish", False), revision_id=call.get("RevisionId")
            )
            rooms.published(deployed.published, before)
            await rooms.deployments.apply(rooms.spec(name))
            return self._shown(deployed.published or deployed.latest)

    async def _update_configuration(self, call: ApiCall) -> Answer:
        rooms = self._rooms
        name = rooms.own_name(call)
        fields = fields_of(call, self._rooms)
        async with rooms.update(name):
            rooms.visible(call, name)  # it may have gone meanwhile, and its name be another tenant's
            layers = await self._layers.chosen(call, rooms.registry.get(name).code)
            deployed = await rooms.registry.update(name, fields, revision_id=call.get("RevisionId"), layers=layers)
            await rooms.deployments.apply(rooms.spec(name))
        return self._shown(deployed.latest)

    async def _delete(self, call: ApiCall) -> Answer:
        rooms = self._rooms
        reference = rooms.reference(call)
        async with rooms.deployments.turn(reference.name):
            rooms.find(call)
            await rooms.registry.remove(reference.name, reference.qualifier)
            if reference.name in rooms.registry:
                await rooms.deployments.apply(rooms.spec(reference.name))
            else:
                await rooms.deployments.remove(reference.name)
        return Answer(None, 204)

    async def _publish(self, call: ApiCall) -> Answer:
        rooms = self._rooms
        name = rooms.own_name(call)
        check_supported(call)
        wanted = call.get("CodeSha256")
        async with rooms.update(name):
            rooms.visible(call, name)  # it may have gone meanwhile, and its name be another tenant's
            latest = rooms.registry.get(name)
            if wanted and wanted != views.code_sha256(latest.code.sha256):
                raise refuse(
                    f"CodeSHA256 ({wanted}) is different from current CodeSHA256 in $LATEST "
                    f"({views.code_sha256(latest.code.sha256)}). Please try again with the CodeSHA256 in $LATEST."
                )
            before = self._numbers(name)
            version = await rooms.registry.publish(
                name, description=call.get("Description"), revision_id=call.get("RevisionId")
            )
            rooms.published(version, before)
            await rooms.deployments.apply(rooms.spec(name))
            return self._shown(version)

    async def _put_concurrency(self, call: ApiCall) -> Answer:
        return await self._reserve(call, call.values["ReservedConcurrentExecutions"])

    async def _delete_concurrency(self, call: ApiCall) -> Answer:
        await self._reserve(call, None)
        return Answer()

    async def _reserve(self, call: ApiCall, value: int | None) -> Answer:
        rooms = self._rooms
        name = rooms.own_name(call)
        async with rooms.turn(call, name):
            floor = provisioned.total(rooms.registry.attachments.of(name))
            if value is not None and value < floor:
                raise refuse(  # with Lambda's own spaces
                    f" ReservedConcurrentExecutions  {value} should not be lower than function's total provisioned concurrency "
                    f"[{floor}]."
                )
            await rooms.registry.update(name, {"reserved_concurrency": value})
            await rooms.deployments.apply(rooms.spec(name))
        return Answer({"ReservedConcurrentExecutions": value})

    async def _put_recursion(self, call: ApiCall) -> Answer:
        rooms = self._rooms
        name = rooms.own_name(call)
        async with rooms.turn(call, name):
            await rooms.registry.update(name, {"recursive_loop": call.values["RecursiveLoop"]})
            await rooms.deployments.apply(rooms.spec(name))
        return Answer({"RecursiveLoop": call.values["RecursiveLoop"]})

    async def _put_runtime_management(self, call: ApiCall) -> Answer:
        wanted, arn = call.values["UpdateRuntimeOn"], call.get("RuntimeVersionArn")
        version = self._rooms.find(call)
        if arn is not None and wanted != "Manual":
            raise refuse(f"RuntimeVersionArn: goes with UpdateRuntimeOn Manual alone, not with {wanted}")
        if wanted != "Auto":
            raise refuse(
                f"UpdateRuntimeOn: {wanted} is not supported: this machine has one {version.config.runtime}, and functions run "
                "on it as it is updated (Auto)"
            )
        return self._runtime_management(version, call)

    # ---- reading ----

    async def _get_runtime_management(self, call: ApiCall) -> Answer:
        return self._runtime_management(self._rooms.find(call), call)

    def _runtime_management(self, version: FunctionVersion, call: ApiCall) -> Answer:
        qualified = None if call.get("Qualifier") is None else version.version
        arn = self._rooms.registry.identity.arn(version.name, qualified)
        return Answer({"UpdateRuntimeOn": "Auto", "FunctionArn": arn})

    async def _get_recursion(self, call: ApiCall) -> Answer:
        return Answer({"RecursiveLoop": self._rooms.registry.get(self._rooms.own_name(call)).config.recursive_loop})

    async def _get(self, call: ApiCall) -> Answer:
        version = self._rooms.find(call)
        await self._rooms.registry.unlock(version.name)
        shown: dict[str, Any] = {
            "Configuration": self._configuration(version, qualified="Qualifier" in call.values),
            "Code": {"RepositoryType": "S3", "Location": self._links.link(call.host, version.code)},
        }
        tags = self._rooms.registry.attachments.of(version.name).tags
        if tags:
            shown["Tags"] = dict(tags)
        reserved = version.config.reserved_concurrency
        if reserved is not None:
            shown["Concurrency"] = {"ReservedConcurrentExecutions": reserved}
        return Answer(shown)

    async def _get_configuration(self, call: ApiCall) -> Answer:
        version = self._rooms.find(call)
        await self._rooms.registry.unlock(version.name)
        return Answer(self._configuration(version, qualified="Qualifier" in call.values))

    async def _list(self, call: ApiCall) -> Answer:
        registry = self._rooms.registry
        region = call.get("MasterRegion", "ALL")
        if region not in ("ALL", registry.identity.region):
            return Answer({"Functions": []})
        marker = unmark(call.get("Marker"))
        some = registry.list(tenant=call.principal.tenant, marker=marker, limit=call.get("MaxItems", limits.LIST_PAGE_MAX))
        versions: list[FunctionVersion] = []
        everything = call.get("FunctionVersion") == "ALL"
        for latest in some.functions:
            versions += [latest, *(registry.versions(latest.name) if everything else ())]
        body: dict[str, Any] = {"Functions": [self._configuration(v, qualified=everything) for v in versions]}
        if some.next_marker is not None:
            body["NextMarker"] = mark(some.next_marker)
        return Answer(body)

    async def _versions(self, call: ApiCall) -> Answer:
        rooms = self._rooms
        name = rooms.own_name(call)
        found = (rooms.registry.get(name), *rooms.registry.versions(name))

        def show(version: FunctionVersion) -> dict[str, Any]:
            return self._configuration(version, qualified=True)

        return Answer(page("Versions", found, call.get("Marker"), call.get("MaxItems"), show))

    async def _get_concurrency(self, call: ApiCall) -> Answer:
        reserved = self._rooms.registry.get(self._rooms.own_name(call)).config.reserved_concurrency
        return Answer({} if reserved is None else {"ReservedConcurrentExecutions": reserved})

    async def _account(self, call: ApiCall) -> Answer:
        registry, settings = self._rooms.registry, self._rooms.settings()
        mine = [v for v in registry.all() if call.principal.tenant in (None, v.config.tenant)]
        total = settings.concurrency_max
        limit = {
            "TotalCodeSize": settings.code_bytes_max,
            "CodeSizeUnzipped": limits.CODE_UNZIPPED_BYTES_MAX,
            "CodeSizeZipped": limits.CODE_ZIPPED_BYTES_MAX,
            "ConcurrentExecutions": total,
            "UnreservedConcurrentExecutions": max(0, total - registry.claimed_concurrency()),
        }
        usage = {
            "TotalCodeSize": sum({v.code.path: v.code.size for v in mine}.values()),
            "FunctionCount": sum(v.version == LATEST for v in mine),
        }
        return Answer({"AccountLimit": limit, "AccountUsage": usage})

    # ---- how ----

    def _new_name(self, call: ApiCall) -> str:
        reference = names.parse(call.values["FunctionName"], self._rooms.registry.identity)
        if reference.qualifier not in (None, LATEST):
            raise refuse("FunctionName: names a version; a new function has none yet")
        return reference.name

    def _configuration(self, version: FunctionVersion, *, qualified: bool) -> dict[str, Any]:
        """As readers see it: an update that is under way shows in what it is about, `$LATEST`."""
        rooms = self._rooms
        shown = views.configuration(version, rooms.registry.identity, qualified=qualified, optimized=rooms.has_image(version))
        if version.version == LATEST and rooms.deployments.updating(version.name):
            shown |= {
                "LastUpdateStatus": "InProgress",
                "LastUpdateStatusReason": "The function is being updated.",
                "LastUpdateStatusReasonCode": "Creating",
            }
        return shown

    def _numbers(self, name: str) -> set[str]:
        return {version.version for version in self._rooms.registry.versions(name)}

    def _shown(self, version: FunctionVersion) -> Answer:
        """As it stands now, inside its turn."""
        now = self._rooms.registry.get(version.name, version.version)
        shown = views.configuration(now, self._rooms.registry.identity, qualified=False, optimized=self._rooms.has_image(now))
        return Answer(shown)
