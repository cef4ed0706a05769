"""From a plan to what is deployed: one operation of the Lambda API after the other, and only those that change something.

Law of this file: what is to be asked, in which order, and what has changed; it knows no command line. Nothing is removed that
the plan does not name.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from scheduler.functions.pack import pack
from scheduler.templates.plan import FunctionPlan, LayerPlan, Plan, TemplateBroken

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["DECLARE", "GRANT", "Caller", "Done", "apply"]

GRANT = "Grant"  # nor this: what a function may use of secrets and keys is a key of its configuration here
DECLARE = "DeclareEvents"  # no operation of Lambda's: what a template says of triggers is kept with the function
FIXED = ("TenancyConfig",)  # members that CreateFunction alone has
ROLE = "arn:aws:iam::000000000000:role/scheduler"


class Caller(Protocol):
    """Runs an operation: its answer's body, or TemplateBroken with what the service says; None where it says that there is no
    such thing."""

    def __call__(self, operation: str, values: Mapping[str, Any], package: bytes | None = None) -> dict[str, Any] | None: ...


@dataclass(frozen=True, slots=True)
class Done:
    """`what` was created, updated or left unchanged."""

    kind: str
    name: str
    what: str
    detail: str = ""


def apply(plan: Plan, call: Caller) -> Iterator[Done]:
    """Does it, telling each thing as it is done. TemplateBroken: the service refused; what was done before stays."""
    arns: dict[str, str] = {}
    for layer in plan.layers:
        arns[layer.logical], done = _layer(layer, call)
        yield done
    for function in plan.functions:
        yield from _function(function, arns, call)


def _digest(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def _need(answer: dict[str, Any] | None, what: str) -> dict[str, Any]:
    if answer is None:
        raise TemplateBroken(f"{what}: was removed while it was deployed")
    return answer


def _layer(plan: LayerPlan, call: Caller) -> tuple[str, Done]:
    data = pack(plan.source).data
    versions = (call("ListLayerVersions", {"LayerName": plan.name}) or {}).get("LayerVersions", [])
    if versions:
        latest = call("GetLayerVersion", {"LayerName": plan.name, "VersionNumber": versions[0]["Version"]})
        if latest is not None and latest["Content"]["CodeSha256"] == _digest(data):
            return latest["LayerVersionArn"], Done("layer", plan.name, "unchanged", f"version {latest['Version']}")
    values: dict[str, Any] = {"LayerName": plan.name, "Description": plan.description, "Content": {}}
    values |= {"CompatibleRuntimes": list(plan.runtimes)} if plan.runtimes else {}
    values |= {"LicenseInfo": plan.license} if plan.license else {}
    made = _need(call("PublishLayerVersion", values, data), plan.name)
    return made["LayerVersionArn"], Done("layer", plan.name, "updated" if versions else "created", f"version {made['Version']}")


def _function(plan: FunctionPlan, layers: Mapping[str, str], call: Caller) -> Iterator[Done]:
    data = _package(plan)
    configuration = dict(plan.configuration)
    if plan.layers is not None:
        configuration["Layers"] = [layers.get(layer[1:], layer) if layer.startswith("@") else layer for layer in plan.layers]
    by_name = {"FunctionName": plan.name}
    before = call("GetFunction", by_name)
    if before is None:
        made = {**by_name, "Role": ROLE, **configuration, "Code": {}, "Tags": dict(plan.tags)}
        _need(call("CreateFunction", made, data), plan.name)
        yield Done("function", plan.name, "created", f"{len(data):,} bytes")
    else:
        changed = []
        if before["Configuration"]["CodeSha256"] != _digest(data):
            call("UpdateFunctionCode", by_name, data)
            changed.append("code")
        differing = [key for key, value in configuration.items() if _differs(key, value, before["Configuration"])]
        if differing:
            fixed = [key for key in differing if key in FIXED]
            if fixed:
                raise TemplateBroken(f"{plan.name}: {fixed[0]} is said when a function is made, and stays; remove it first")
            fields = {key: value for key, value in configuration.items() if key not in (*FIXED, "Architectures", "PackageType")}
            call("UpdateFunctionConfiguration", {**by_name, **fields})
            changed += differing
        missing = {key: value for key, value in plan.tags.items() if before.get("Tags", {}).get(key) != value}
        if missing:
            call("TagResource", {"Resource": before["Configuration"]["FunctionArn"], "Tags": missing})
            changed.append("Tags")
        yield Done("function", plan.name, "updated" if changed else "unchanged", ", ".join(changed))
    if plan.secrets or plan.keys:
        changed_grants = call(GRANT, {**by_name, "Secrets": list(plan.secrets), "Keys": list(plan.keys)})
        if changed_grants:
            yield Done("grants", plan.name, "updated", ", ".join((*plan.secrets, *plan.keys)))
    if plan.reserved is not None:
        call("PutFunctionConcurrency", {**by_name, "ReservedConcurrentExecutions": plan.reserved})
    if plan.runtime_management is not None:
        call("PutRuntimeManagementConfig", {**by_name, **plan.runtime_management})
    if plan.recursive_loop is not None:
        call("PutFunctionRecursionConfig", {**by_name, "RecursiveLoop": plan.recursive_loop})
    yield from _versions(plan, call)
    yield from _attached(plan, call)


def _package(plan: FunctionPlan) -> bytes:
    if plan.source is not None:
        packed = pack(plan.source)
        if packed.kind == "zip":
            return packed.data
        return _zipped(plan.source.name, packed.data)
    handler = str(plan.configuration.get("Handler", "index.handler"))
    return _zipped(handler.rpartition(".")[0].replace(".", "/") + ".py", (plan.inline or "").encode())


def _zipped(name: str, data: bytes) -> bytes:
    import io
    import zipfile

    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        # The same bytes for the same text, whenever it is packed: that is how an unchanged function is known.
        archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return made.getvalue()


def _differs(key: str, value: Any, shown: Mapping[str, Any]) -> bool:
    now = shown.get(key)
    if key == "Layers":
        return bool([layer["Arn"] for layer in now or []] != value)
    if isinstance(value, dict) and isinstance(now, dict):
        return any(_plain(now.get(inner)) != _plain(wanted) for inner, wanted in value.items())
    return _plain(now) != _plain(value) and not (now is None and value in ({}, [], ""))


def _plain(value: Any) -> Any:
    """Numbers of a template may be written as texts."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, int | float | str) else value


def _versions(plan: FunctionPlan, call: Caller) -> Iterator[Done]:
    if not plan.publish:
        return
    version = _need(call("PublishVersion", {"FunctionName": plan.name}), plan.name)["Version"]
    for alias in plan.aliases:
        values = {"FunctionName": plan.name, "Name": alias, "FunctionVersion": version}
        before = call("GetAlias", {"FunctionName": plan.name, "Name": alias})
        if before is None:
            call("CreateAlias", values)
        elif before["FunctionVersion"] != version:
            call("UpdateAlias", values)
        what = "created" if before is None else "unchanged" if before["FunctionVersion"] == version else "updated"
        yield Done("alias", f"{plan.name}:{alias}", what, f"version {version}")
        if plan.provisioned is not None:
            call(
                "PutProvisionedConcurrencyConfig",
                {"FunctionName": plan.name, "Qualifier": alias, "ProvisionedConcurrentExecutions": plan.provisioned},
            )
            yield Done("provisioned concurrency", f"{plan.name}:{alias}", "set", str(plan.provisioned))


def _attached(plan: FunctionPlan, call: Caller) -> Iterator[Done]:
    place: dict[str, Any] = {"FunctionName": plan.name}
    call(DECLARE, {**place, "Events": dict(plan.events)})
    if plan.aliases:
        place["Qualifier"] = plan.aliases[0]
    if plan.event_config is not None:
        call("PutFunctionEventInvokeConfig", {**place, **plan.event_config})
    for permission in plan.permissions:
        known = {**place, "StatementId": permission["StatementId"]}
        call("RemovePermission", known)
        call("AddPermission", {**place, **permission})
    if plan.url is not None:
        before = call("GetFunctionUrlConfig", place)
        operation = "CreateFunctionUrlConfig" if before is None else "UpdateFunctionUrlConfig"
        url = _need(call(operation, {**place, **plan.url}), plan.name)
        yield Done("url", plan.name, "created" if before is None else "unchanged", url["FunctionUrl"])
