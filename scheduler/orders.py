"""From a function's version to what one sandbox of it runs: the launcher's specialisation and the channel's START.

Law of this file: pure, but for the date and the dice that a log stream's name needs, which come in as arguments. The
environment is made complete here: the function's own variables over those that Lambda sets and lets be overridden, under
those that are reserved. Values are those recorded in Lambda, where they mean something here.

Not set: AWS_ACCESS_KEY_ID and its kin (there are no credentials to give), AWS_LAMBDA_RUNTIME_API (the runtime speaks over
its channel), PYTHONPATH (the runtime sets sys.path itself; child processes see their own).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler.functions.names import LATEST
from scheduler.sandboxes.launcher import Specialisation
from scheduler.sandboxes.supervisor import Order

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from scheduler.functions.model import CodeRef, FunctionVersion
    from scheduler.functions.names import Identity

__all__ = ["environment", "make_order"]

RUNTIME_DIR = "/var/runtime"
OVERRIDABLE = {
    "LANG": "en_US.UTF-8",
    "TZ": ":UTC",
    "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
    "LD_LIBRARY_PATH": "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
    "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
}


def environment(
    version: FunctionVersion, identity: Identity, *, log_group: str, log_stream: str, task_root: str
) -> dict[str, str]:
    """All variables of the process."""
    config = version.config
    reserved = {
        "_HANDLER": config.handler,
        "AWS_REGION": identity.region,
        "AWS_DEFAULT_REGION": identity.region,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{config.runtime}",
        "AWS_LAMBDA_FUNCTION_NAME": config.name,
        "AWS_LAMBDA_FUNCTION_VERSION": version.version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(config.memory_mb),
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": log_group,
        "AWS_LAMBDA_LOG_STREAM_NAME": log_stream,
        "LAMBDA_TASK_ROOT": task_root,
        "LAMBDA_RUNTIME_DIR": RUNTIME_DIR,
    }
    return {**OVERRIDABLE, **config.environment, **reserved}


def make_order(
    version: FunctionVersion,
    identity: Identity,
    *,
    task_dir: Callable[[CodeRef], Path],
    task_root: Callable[[str], str],
    now: datetime,
    stream_id: str,
) -> Order:
    """task_dir: where a package lies unpacked; task_root: where a sandbox sees that; stream_id: 32 random hex digits."""
    config = version.config
    code_dir = str(task_dir(version.code))
    seen_at = task_root(code_dir)
    log_group = f"/aws/lambda/{config.name}"
    log_stream = f"{now:%Y/%m/%d}/[{version.version}]{stream_id}"
    start: dict[str, object] = {
        "function_name": config.name,
        "function_version": version.version,
        "invoked_function_arn": identity.arn(config.name, None if version.version == LATEST else version.version),
        "handler": config.handler,
        "memory_mb": config.memory_mb,
        "timeout_ms": config.timeout_s * 1000,
        "task_root": seen_at,
        "environment": environment(version, identity, log_group=log_group, log_stream=log_stream, task_root=seen_at),
        "log_group_name": log_group,
        "log_stream_name": log_stream,
        "initialization_type": "on-demand",
    }
    specialisation = Specialisation(
        code_dir=code_dir,
        memory_mb=config.memory_mb,
        ephemeral_storage_mb=config.ephemeral_storage_mb,
    )
    return Order(
        function=config.name, version=version.version, runtime=config.runtime, specialisation=specialisation, start=start
    )
