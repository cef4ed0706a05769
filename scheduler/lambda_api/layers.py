"""Operations on layers, and which of them a function wears.

Law of this file: from checked members to functions.layers and back. Layers are their tenant's: others' are not found.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any, Final

from scheduler import limits
from scheduler.config import DEFAULT_TENANT
from scheduler.functions.attached import Policy, fresh_revision
from scheduler.functions.layers import LAYERS_OF_ONE_MAX, LayerVersion
from scheduler.functions.model import LayerRef, timestamp
from scheduler.lambda_api.configured import ARCHITECTURE
from scheduler.lambda_api.errors import REVISION_TEXT, LambdaError
from scheduler.lambda_api.packages import admit
from scheduler.lambda_api.paging import page
from scheduler.lambda_api.rooms import refuse
from scheduler.lambda_api.views import code_sha256, modified
from scheduler.lambda_api.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from scheduler.functions.model import CodeRef
    from scheduler.lambda_api.links import Links
    from scheduler.lambda_api.rooms import ApiCall, Rooms

__all__ = ["LayerOperations"]

POLICY_BYTES_MAX: Final = 20 * 1024
_NAME: Final = re.compile(r"(?:arn:aws[a-zA-Z-]*:lambda:([a-z0-9-]+):(\d{12}):layer:)?([a-zA-Z0-9-_]{1,140})")
_VERSION_ARN: Final = re.compile(
    r"arn:aws[a-zA-Z-]*:lambda:([a-z0-9-]+):(\d{12}):layer:([a-zA-Z0-9-_]{1,140}):([1-9][0-9]{0,8})"
)


class LayerOperations:
    def __init__(self, rooms: Rooms, links: Links) -> None:
        self._rooms = rooms
        self._links = links

    def handlers(self) -> dict[str, Callable[[ApiCall], Awaitable[Answer]]]:
        return {
            "PublishLayerVersion": self._publish,
            "GetLayerVersion": self._get,
            "GetLayerVersionByArn": self._get_by_arn,
            "ListLayers": self._list,
            "ListLayerVersions": self._versions,
            "DeleteLayerVersion": self._delete,
            "AddLayerVersionPermission": self._add_permission,
            "GetLayerVersionPolicy": self._get_policy,
            "RemoveLayerVersionPermission": self._remove_permission,
        }

    # ---- what functions wear ----

    async def chosen(self, call: ApiCall, code: CodeRef) -> tuple[LayerRef, ...] | None:
        """The layers that a function's request names, merged and ready; None: it says nothing. `code`: the function's own."""
        arns = call.get("Layers")
        if arns is None:
            return None
        if len(arns) > LAYERS_OF_ONE_MAX:
            raise refuse(f"You cannot reference more than {LAYERS_OF_ONE_MAX} layers. Layers: {len(arns)} are given")
        found = tuple(LayerRef(arn, self._by_arn(call, arn).code) for arn in arns)
        names = [arn.rpartition(":")[0] for arn in arns]
        for name in names:
            if names.count(name) > 1:
                both = ", ".join(arn for arn in arns if arn.startswith(name + ":"))
                raise refuse(
                    f"Two different versions of the same layer are not allowed to be referenced in the same function. {both}"
                )
        self.check_together(code, found)
        if found:
            await self._rooms.code.merge([layer.code for layer in found])
        return found

    def check_together(self, code: CodeRef, layers: Sequence[LayerRef]) -> None:
        """LambdaError: unpacked, they are larger than a function may be."""
        store = self._rooms.code
        total = store.about(code).unpacked_bytes + sum(store.about(layer.code).unpacked_bytes for layer in layers)
        if total > limits.CODE_UNZIPPED_BYTES_MAX:
            raise refuse(
                "Function code combined with layers exceeds the maximum allowed size of "
                f"{limits.CODE_UNZIPPED_BYTES_MAX} bytes. The actual size is {total} bytes."
            )

    # ---- operations ----

    async def _publish(self, call: ApiCall) -> Answer:
        name = self._name(call)
        architectures = tuple(call.get("CompatibleArchitectures", ()))
        if architectures and ARCHITECTURE not in architectures:
            raise refuse(f"CompatibleArchitectures: {', '.join(architectures)} cannot be used on this machine, {ARCHITECTURE}")
        code = await admit(self._rooms, call.values["Content"])
        made = await self._rooms.layers.publish(
            name,
            code,
            tenant=call.principal.tenant or DEFAULT_TENANT,
            created=timestamp(time.time()),
            description=call.get("Description", ""),
            license=call.get("LicenseInfo", ""),
            runtimes=tuple(call.get("CompatibleRuntimes", ())),
            architectures=architectures,
        )
        return Answer(self._shown(call, made, content=True))

    async def _get(self, call: ApiCall) -> Answer:
        return Answer(self._shown(call, self._found(call), content=True))

    async def _get_by_arn(self, call: ApiCall) -> Answer:
        return Answer(self._shown(call, self._by_arn(call, call.values["Arn"]), content=True))

    async def _list(self, call: ApiCall) -> Answer:
        layers = self._rooms.layers
        latest = [layers.versions(name, call.principal.tenant) for name in layers.names(call.principal.tenant)]
        fitting = [found for versions in latest if (found := next((v for v in versions if _fits(call, v)), None)) is not None]

        def show(found: LayerVersion) -> dict[str, Any]:
            shown = self._shown(call, found)
            return {"LayerName": found.name, "LayerArn": self._arn(found.name), "LatestMatchingVersion": shown}

        return Answer(page("Layers", fitting, call.get("Marker"), call.get("MaxItems"), show))

    async def _versions(self, call: ApiCall) -> Answer:
        found = [v for v in self._rooms.layers.versions(self._name(call), call.principal.tenant) if _fits(call, v)]
        return Answer(page("LayerVersions", found, call.get("Marker"), call.get("MaxItems"), lambda v: self._shown(call, v)))

    async def _delete(self, call: ApiCall) -> Answer:
        name, number = self._name(call), call.values["VersionNumber"]
        await self._rooms.layers.delete(name, number, call.principal.tenant)
        return Answer()

    async def _add_permission(self, call: ApiCall) -> Answer:
        found = self._found(call)
        statement_id = call.values["StatementId"]
        principal = call.values["Principal"]
        statement: dict[str, Any] = {
            "Sid": statement_id,
            "Effect": "Allow",
            "Principal": {"AWS": f"arn:aws:iam::{principal}:root"} if principal.isdigit() else principal,
            "Action": call.values["Action"],
            "Resource": f"{self._arn(found.name)}:{found.version}",
        }
        if "OrganizationId" in call.values:
            statement["Condition"] = {"StringEquals": {"aws:PrincipalOrgID": call.values["OrganizationId"]}}
        revision_id = fresh_revision()

        def added(now: LayerVersion) -> Policy:
            _check_revision(call, now.policy)
            statements = dict(now.policy.statements) if now.policy is not None else {}
            if statement_id in statements:
                raise LambdaError(
                    "ResourceConflictException",
                    f"The statement id ({statement_id}) provided already exists. Please provide a new statement id, or remove "
                    "the existing statement.",
                )
            made = Policy({**statements, statement_id: statement}, revision_id)
            size = len(_document(made))
            if size > POLICY_BYTES_MAX:
                raise LambdaError(
                    "PolicyLengthExceededException",
                    f"The final policy size ({size}) is bigger than the limit ({POLICY_BYTES_MAX}).",
                )
            return made

        await self._rooms.layers.change(found.name, found.version, call.principal.tenant, added)
        return Answer({"Statement": json.dumps(statement, separators=(",", ":")), "RevisionId": revision_id})

    async def _get_policy(self, call: ApiCall) -> Answer:
        found = self._found(call)
        if found.policy is None:
            raise LambdaError("ResourceNotFoundException", "No policy is associated with the given resource.")
        return Answer({"Policy": _document(found.policy), "RevisionId": found.policy.revision_id})

    async def _remove_permission(self, call: ApiCall) -> Answer:
        found = self._found(call)
        statement_id = call.values["StatementId"]

        def without(now: LayerVersion) -> Policy | None:
            if now.policy is None or statement_id not in now.policy.statements:
                raise LambdaError("ResourceNotFoundException", f"Statement {statement_id} is not found in resource policy.")
            _check_revision(call, now.policy)
            kept = {key: value for key, value in now.policy.statements.items() if key != statement_id}
            return Policy(kept, fresh_revision()) if kept else None

        await self._rooms.layers.change(found.name, found.version, call.principal.tenant, without)
        return Answer()

    # ---- how ----

    def _name(self, call: ApiCall) -> str:
        """The layer's, from its name or its ARN."""
        given = call.values["LayerName"]
        match = _NAME.fullmatch(given)
        if match is None:
            raise refuse(f"LayerName: {given[:160]!r} is not 1 to 140 of [a-zA-Z0-9-_], nor the ARN of a layer")
        return match[3]

    def _found(self, call: ApiCall) -> LayerVersion:
        return self._rooms.layers.get(self._name(call), call.values["VersionNumber"], call.principal.tenant)

    def _by_arn(self, call: ApiCall, arn: str) -> LayerVersion:
        identity = self._rooms.registry.identity
        match = _VERSION_ARN.fullmatch(arn)
        if match is None:
            raise refuse(f"Invalid layer ARN: {arn[:200]!r} is not arn:aws:lambda:REGION:ACCOUNT:layer:NAME:VERSION")
        if (match[1], match[2]) != (identity.region, identity.account_id):
            raise refuse(
                f"Layer {arn[:200]} is not of this service's region {identity.region} and account {identity.account_id}"
            )
        return self._rooms.layers.get(match[3], int(match[4]), call.principal.tenant)

    def _arn(self, name: str) -> str:
        identity = self._rooms.registry.identity
        return f"arn:aws:lambda:{identity.region}:{identity.account_id}:layer:{name}"

    def _shown(self, call: ApiCall, found: LayerVersion, *, content: bool = False) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "LayerVersionArn": f"{self._arn(found.name)}:{found.version}",
            "Version": found.version,
            "Description": found.description,
            "CreatedDate": modified(found.created),
            "CompatibleRuntimes": list(found.runtimes),
            "LicenseInfo": found.license,
        }
        if found.architectures:
            shown["CompatibleArchitectures"] = list(found.architectures)
        if content:
            shown["LayerArn"] = self._arn(found.name)
            shown["Content"] = {
                "Location": self._links.link(call.host, found.code),
                "CodeSha256": code_sha256(found.code.sha256),
                "CodeSize": found.code.size,
            }
        return shown


def _fits(call: ApiCall, found: LayerVersion) -> bool:
    runtime, architecture = call.get("CompatibleRuntime"), call.get("CompatibleArchitecture")
    return (runtime is None or runtime in found.runtimes) and (
        architecture is None or not found.architectures or architecture in found.architectures
    )


def _document(policy: Policy) -> str:
    document = {"Version": "2012-10-17", "Id": "default", "Statement": [dict(s) for s in policy.statements.values()]}
    return json.dumps(document, separators=(",", ":"))


def _check_revision(call: ApiCall, policy: Policy | None) -> None:
    given = call.get("RevisionId")
    if given is not None and (policy is None or given != policy.revision_id):
        raise LambdaError("PreconditionFailedException", REVISION_TEXT)
