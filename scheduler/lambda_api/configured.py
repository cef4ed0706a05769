"""What becomes of each member of a function's configuration: a key of a deployment, or a refusal.

Law of this file: rows, and both ways between Lambda's members and our keys. What a key may hold is functions.model's to say. A
member that this service does not honour is refused by name and with the reason, never stored and ignored; docs/configuration.md
has a row for each.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any, Final

from scheduler.functions.model import RuntimeClient, Tenancy
from scheduler.lambda_api.rooms import refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from scheduler.functions.model import FunctionConfig
    from scheduler.lambda_api.rooms import ApiCall, Rooms

__all__ = ["ARCHITECTURE", "REFUSED", "check_supported", "fields_of", "shown_of"]

CLIENT_VARIABLE: Final = "SCHEDULER_RUNTIME_CLIENT"  # of the function's environment: docs/runtimes.md
ARCHITECTURE: Final = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

# member -> what makes it more than its default, and so something that would have to be honoured; and why it is not
REFUSED: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "PackageType": (
        lambda v: v != "Zip",
        "Image is not supported: this service runs zip packages, not container images; what an image would hold goes into the "
        "package and its layers",
    ),
    "ImageConfig": (bool, "belongs to container images, which this service does not run"),
    "ImageUri": (bool, "container images are not supported: this service runs zip packages; give ZipFile"),
    "S3ObjectStorageMode": (bool, "there is no S3 here; send the package as ZipFile"),
    "SourceKMSKeyArn": (bool, "packages come in the request, where no key of KMS is needed to read them"),
    "VpcConfig": (
        lambda v: bool(v.get("SubnetIds") or v.get("SecurityGroupIds") or v.get("Ipv6AllowedForDualStack")),
        "there are no VPCs here; what a function may reach is said by the key network (none or outbound)",
    ),
    "FileSystemConfigs": (bool, "there is no EFS and no S3 to mount here; a function has /tmp of EphemeralStorage.Size"),
    "CodeSigningConfigArn": (bool, "code signing is not part of this service"),
    "CapacityProviderConfig": (lambda v: True, "managed instances and capacity providers are not part of this service"),
    "DurableConfig": (lambda v: True, "durable executions are not part of this service"),
    "RuntimeConfig": (lambda v: True, "runtimes are this machine's, each in one version"),
    "AcceleratorConfig": (lambda v: True, "functions have no accelerators here"),
    "PublishTo": (bool, "belongs to managed instances, which are not part of this service; give Publish"),
}

# What Lambda itself has retired. One that this machine offers all the same is fine.
_RETIRED: Final = frozenset({
    "nodejs", "nodejs4.3", "nodejs4.3-edge", "nodejs6.10", "nodejs8.10", "nodejs10.x", "nodejs12.x", "nodejs14.x", "nodejs16.x",
    "nodejs18.x", "nodejs20.x", "java8", "python2.7", "python3.6", "python3.7", "python3.8", "python3.9", "dotnetcore1.0",
    "dotnetcore2.0", "dotnetcore2.1", "dotnetcore3.1", "dotnet6", "go1.x", "ruby2.5", "ruby2.7", "ruby3.2", "provided",
})  # fmt: skip

# member, and the member within it ("": it is the value itself) -> key of a deployment
_KEYS: Final = (
    ("Runtime", "", "runtime"),
    ("Handler", "", "handler"),
    ("Role", "", "role"),
    ("Description", "", "description"),
    ("Timeout", "", "timeout_s"),
    ("MemorySize", "", "memory_mb"),
    ("KMSKeyArn", "", "kms_key_arn"),
    ("EphemeralStorage", "Size", "ephemeral_storage_mb"),
    ("LoggingConfig", "LogFormat", "log_format"),
    ("LoggingConfig", "ApplicationLogLevel", "application_log_level"),
    ("LoggingConfig", "SystemLogLevel", "system_log_level"),
    ("LoggingConfig", "LogGroup", "log_group"),
    ("TracingConfig", "Mode", "tracing"),
    ("SnapStart", "ApplyOn", "snap_start"),
    ("TenancyConfig", "TenantIsolationMode", "tenancy"),
    ("DeadLetterConfig", "TargetArn", "dead_letter_arn"),
)


def check_supported(call: ApiCall) -> None:
    """LambdaError: a member is given that would not be honoured."""
    for name, (matters, why) in REFUSED.items():
        value = call.get(name, call.get("Code", {}).get(name))
        if value is not None and matters(value):
            raise refuse(f"{name}: {why}")
    wanted = call.get("Architectures")
    if wanted and wanted != [ARCHITECTURE]:
        raise refuse(f"Architectures: {wanted[0]} cannot run on this machine, which is {ARCHITECTURE}")


def fields_of(call: ApiCall, rooms: Rooms) -> dict[str, Any]:
    """Keys and values of a deployment. LambdaError."""
    check_supported(call)
    _check_runtime(call.get("Runtime"), rooms)
    fields: dict[str, Any] = {}
    for member, inner, key in _KEYS:
        if member in call.values:
            value = call.values[member]
            if not inner:
                fields[key] = value
            elif inner in value:
                fields[key] = value[inner]
    if "Environment" in call.values:  # which it replaces whole
        variables = fields["environment"] = call.values["Environment"].get("Variables", {})
        # AWS's API has no member for it.
        fields["runtime_client"] = variables.get(CLIENT_VARIABLE, RuntimeClient.OWN.value)
    return fields


def shown_of(config: FunctionConfig) -> dict[str, Any]:
    """Members of FunctionConfiguration that stand for several keys, or for one in words of their own."""
    logging = {
        "LogFormat": config.log_format,
        "ApplicationLogLevel": config.shown_application_log_level,
        "SystemLogLevel": config.shown_system_log_level,
        "LogGroup": config.log_group_name,
    }
    dead_letters = {"DeadLetterConfig": {"TargetArn": config.dead_letter_arn}} if config.dead_letter_arn else {}
    tenancy = {} if config.tenancy == Tenancy.NONE.value else {"TenancyConfig": {"TenantIsolationMode": config.tenancy}}
    return {
        **dead_letters,
        **tenancy,
        "EphemeralStorage": {"Size": config.ephemeral_storage_mb},
        "TracingConfig": {"Mode": config.tracing},
        "LoggingConfig": {name: value for name, value in logging.items() if value},
    }


def _check_runtime(wanted: str | None, rooms: Rooms) -> None:
    offered = rooms.runtimes
    if wanted is None or wanted in offered:
        return
    if wanted in rooms.absent_runtimes:
        raise refuse(f"Runtime: {rooms.absent_runtimes[wanted]}; offered are: {', '.join(offered)}")
    if wanted in _RETIRED:
        raise refuse(
            f"The runtime parameter of {wanted} is no longer supported for creating or updating AWS Lambda functions. We "
            "recommend you use a supported runtime while creating or updating functions."
        )
    raise refuse(
        f"Value {wanted} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: "
        f"[{', '.join(sorted(offered))}] or be a valid ARN"
    )
