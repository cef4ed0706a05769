"""What the API shows of functions: FunctionConfiguration and its kin, in Lambda's words.

Law of this file: pure; from what the registry holds to maps.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from scheduler.functions.model import State
from scheduler.functions.names import LATEST
from scheduler.lambda_api.configured import ARCHITECTURE, shown_of

if TYPE_CHECKING:
    from scheduler.functions.model import FunctionVersion
    from scheduler.functions.names import Identity

__all__ = ["code_sha256", "configuration", "modified"]


def modified(timestamp: str) -> str:
    """2026-01-02T03:04:05.678+0000, of RFC 3339."""
    return timestamp[:-6] + "+0000" if timestamp.endswith("+00:00") else timestamp


def code_sha256(digest_hex: str) -> str:
    return base64.b64encode(bytes.fromhex(digest_hex)).decode()


def configuration(version: FunctionVersion, identity: Identity, *, qualified: bool, optimized: bool = False) -> dict[str, Any]:
    """FunctionConfiguration. qualified: its ARN names `$LATEST` too, as where versions are listed. optimized: it has the image
    that SnapStart makes."""
    config = version.config
    shown: dict[str, Any] = {
        "FunctionName": config.name,
        "FunctionArn": identity.arn(config.name, version.version if qualified or version.version != LATEST else None),
        "Runtime": config.runtime,
        "Role": config.role or default_role(identity),
        "Handler": config.handler,
        "CodeSize": version.code.size,
        "Description": config.description,
        "Timeout": config.timeout_s,
        "MemorySize": config.memory_mb,
        "LastModified": modified(version.last_modified),
        "CodeSha256": code_sha256(version.code.sha256),
        "Version": version.version,
        "RevisionId": version.revision_id,
        "State": version.state.value,
        "LastUpdateStatus": "Successful",
        "PackageType": "Zip",
        "Architectures": [ARCHITECTURE],
        **shown_of(config),
        "SnapStart": {
            "ApplyOn": config.snap_start,
            "OptimizationStatus": "On" if optimized and version.snap_started else "Off",
        },
    }
    if version.layers:
        shown["Layers"] = [{"Arn": layer.arn, "CodeSize": layer.code.size} for layer in version.layers]
    if version.state_reason:
        shown["StateReason"] = version.state_reason
    if version.state is not State.ACTIVE:
        shown["StateReasonCode"] = "Creating" if version.state is State.PENDING else "FunctionError"
    if config.kms_key_arn:
        shown["KMSKeyArn"] = config.kms_key_arn
    problem = config.environment.problem
    if problem is not None:
        shown["Environment"] = {"Error": {"ErrorCode": problem.code, "Message": problem.message}}
    elif config.environment:
        shown["Environment"] = {"Variables": dict(config.environment)}
    return shown


def default_role(identity: Identity) -> str:
    """What functions show that were deployed without one: clients insist on there being some."""
    return f"arn:aws:iam::{identity.account_id}:role/scheduler"
