"""The table of operations: every one of Lambda's service model, with its route and how much of it is here.

Law of this file: rows, and the router over them; no behaviour. docs/lambda-api.md is made of this table (docs.py), and a test
holds it against AWS's own service model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from scheduler.lambda_api import inputs
from scheduler.lambda_api.errors import LambdaError
from scheduler.messages import Right

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scheduler.lambda_api.shapes import Shape

__all__ = ["OPERATIONS", "Operation", "Router", "Support"]


class Support(Enum):
    """How much of an operation is here."""

    FULL = "supported"
    PARTIAL = "partial"
    NOT_YET = "not yet"
    REFUSED = "out of scope"


@dataclass(frozen=True, slots=True)
class Operation:
    """One row. `status`: of a good answer. `note`: what is left out, for PARTIAL and REFUSED. `query`: what must stand in the
    query for the route to be this one."""

    name: str
    method: str
    path: str
    status: int
    support: Support
    right: Right = Right.DEPLOY
    shape: Shape | None = None
    note: str = ""
    query: Mapping[str, str] = field(default_factory=dict, hash=False)


F, P, N, X = Support.FULL, Support.PARTIAL, Support.NOT_YET, Support.REFUSED
# Whoever only invokes does not get to see code, environments or configurations.
INVOKE, READ, D = Right.INVOKE, Right.DEPLOY, Right.DEPLOY
FN = "/2015-03-31/functions"
ONE = FN + "/{FunctionName}"

LAYER = "/2018-10-31/layers/{LayerName}/versions/{VersionNumber}"
LAYER_ALL = "/2018-10-31/layers/{LayerName}/versions"
PC = "/2019-09-30/functions/{FunctionName}/provisioned-concurrency"
EIC = "/2019-09-25/functions/{FunctionName}/event-invoke-config"
URL = "/2021-10-31/functions/{FunctionName}"
CSC = "/2020-04-22/code-signing-configs"
FCS = "/2020-06-30/functions/{FunctionName}/code-signing-config"
CP = "/2025-11-30/capacity-providers"
DE = "/2025-12-01/durable-executions/{DurableExecutionArn}"
DC = "/2025-12-01/durable-execution-callbacks/{CallbackId}"
ESM = "/2015-03-31/event-source-mappings"
DURABLE = "durable executions are not part of this service"
FLEETS = "managed instances and capacity providers are not part of this service"
SIGNING = "code signing is not part of this service"

OPERATIONS: Final[tuple[Operation, ...]] = (
    # ---- functions ----
    Operation("CreateFunction", "POST", FN, 201, P, D, inputs.CREATE_FUNCTION,
              "zip packages only; VpcConfig, FileSystemConfigs, CodeSigningConfigArn, CapacityProviderConfig and DurableConfig "
              "are refused; [field by field](configuration.md)"),
    Operation("GetFunction", "GET", ONE, 200, F, READ, inputs.GET_FUNCTION),
    Operation("GetFunctionConfiguration", "GET", ONE + "/configuration", 200, F, READ, inputs.GET_FUNCTION),
    Operation("ListFunctions", "GET", FN, 200, P, READ, inputs.LIST_FUNCTIONS, "MasterRegion must be ALL or this region"),
    Operation("UpdateFunctionCode", "PUT", ONE + "/code", 200, P, D, inputs.UPDATE_FUNCTION_CODE, "zip packages only"),
    Operation("UpdateFunctionConfiguration", "PUT", ONE + "/configuration", 200, P, D, inputs.UPDATE_FUNCTION_CONFIGURATION,
              "as CreateFunction"),
    Operation("DeleteFunction", "DELETE", ONE, 204, F, D, inputs.DELETE_FUNCTION),
    Operation("PublishVersion", "POST", ONE + "/versions", 201, F, D, inputs.PUBLISH_VERSION),
    Operation("ListVersionsByFunction", "GET", ONE + "/versions", 200, F, READ, inputs.LIST_VERSIONS),
    # ---- invocation ----
    Operation("Invoke", "POST", ONE + "/invocations", 200, F, INVOKE, inputs.INVOKE),
    Operation("InvokeAsync", "POST", "/2014-11-13/functions/{FunctionName}/invoke-async", 202, F, INVOKE, inputs.INVOKE_ASYNC),
    Operation("InvokeWithResponseStream", "POST", "/2021-11-15/functions/{FunctionName}/response-streaming-invocations", 200, F,
              INVOKE, inputs.STREAM),
    # ---- aliases ----
    Operation("CreateAlias", "POST", ONE + "/aliases", 201, F, D, inputs.CREATE_ALIAS),
    Operation("GetAlias", "GET", ONE + "/aliases/{Name}", 200, F, READ, inputs.ALIAS),
    Operation("ListAliases", "GET", ONE + "/aliases", 200, F, READ, inputs.LIST_ALIASES),
    Operation("UpdateAlias", "PUT", ONE + "/aliases/{Name}", 200, F, D, inputs.UPDATE_ALIAS),
    Operation("DeleteAlias", "DELETE", ONE + "/aliases/{Name}", 204, F, D, inputs.ALIAS),
    # ---- layers ----
    Operation("PublishLayerVersion", "POST", LAYER_ALL, 201, F, D, inputs.PUBLISH_LAYER),
    Operation("GetLayerVersion", "GET", LAYER, 200, F, READ, inputs.LAYER_VERSION),
    Operation("GetLayerVersionByArn", "GET", "/2018-10-31/layers", 200, F, READ, inputs.LAYER_BY_ARN,
              query={"find": "LayerVersion"}),
    Operation("ListLayers", "GET", "/2018-10-31/layers", 200, F, READ, inputs.LIST_LAYERS),
    Operation("ListLayerVersions", "GET", LAYER_ALL, 200, F, READ, inputs.LIST_LAYER_VERSIONS),
    Operation("DeleteLayerVersion", "DELETE", LAYER, 204, F, D, inputs.LAYER_VERSION),
    Operation("AddLayerVersionPermission", "POST", LAYER + "/policy", 201, P, D, inputs.ADD_LAYER_PERMISSION,
              "kept and shown; layers are shared within their tenant"),
    Operation("GetLayerVersionPolicy", "GET", LAYER + "/policy", 200, F, READ, inputs.LAYER_VERSION),
    Operation("RemoveLayerVersionPermission", "DELETE", LAYER + "/policy/{StatementId}", 204, F, D,
              inputs.REMOVE_LAYER_PERMISSION),
    # ---- tags ----
    Operation("TagResource", "POST", "/2017-03-31/tags/{Resource}", 204, P, D, inputs.TAG_RESOURCE,
              "functions only"),
    Operation("UntagResource", "DELETE", "/2017-03-31/tags/{Resource}", 204, P, D, inputs.UNTAG_RESOURCE,
              "functions only"),
    Operation("ListTags", "GET", "/2017-03-31/tags/{Resource}", 200, P, READ, inputs.LIST_TAGS,
              "functions only"),
    # ---- concurrency ----
    Operation("PutFunctionConcurrency", "PUT", "/2017-10-31/functions/{FunctionName}/concurrency", 200, F, D,
              inputs.PUT_CONCURRENCY),
    Operation("GetFunctionConcurrency", "GET", "/2019-09-30/functions/{FunctionName}/concurrency", 200, F, READ,
              inputs.BY_NAME),
    Operation("DeleteFunctionConcurrency", "DELETE", "/2017-10-31/functions/{FunctionName}/concurrency", 204, F, D,
              inputs.BY_NAME),
    Operation("PutProvisionedConcurrencyConfig", "PUT", PC, 202, F, D, inputs.PUT_PROVISIONED),
    Operation("GetProvisionedConcurrencyConfig", "GET", PC, 200, F, READ, inputs.PROVISIONED),
    Operation("ListProvisionedConcurrencyConfigs", "GET", PC, 200, F, READ, inputs.PAGES_OF_50,
              query={"List": "ALL"}),
    Operation("DeleteProvisionedConcurrencyConfig", "DELETE", PC, 204, F, D, inputs.PROVISIONED),
    # ---- asynchronous invocation ----
    Operation("PutFunctionEventInvokeConfig", "PUT", EIC, 200, P, D, inputs.EVENT_CONFIG,
              "kept and shown; asynchronous invocations do not obey it yet"),
    Operation("UpdateFunctionEventInvokeConfig", "POST", EIC, 200, P, D, inputs.EVENT_CONFIG,
              "kept and shown; asynchronous invocations do not obey it yet"),
    Operation("GetFunctionEventInvokeConfig", "GET", EIC, 200, F, READ, inputs.BY_QUALIFIER),
    Operation("ListFunctionEventInvokeConfigs", "GET", EIC + "/list", 200, F, READ, inputs.PAGES_OF_50),
    Operation("DeleteFunctionEventInvokeConfig", "DELETE", EIC, 204, F, D, inputs.BY_QUALIFIER),
    # ---- function URLs ----
    Operation("CreateFunctionUrlConfig", "POST", URL + "/url", 201, P, D, inputs.CREATE_URL,
              "RESPONSE_STREAM is kept, and answered at once"),
    Operation("GetFunctionUrlConfig", "GET", URL + "/url", 200, F, READ, inputs.URL),
    Operation("UpdateFunctionUrlConfig", "PUT", URL + "/url", 200, P, D, inputs.UPDATE_URL,
              "as CreateFunctionUrlConfig"),
    Operation("ListFunctionUrlConfigs", "GET", URL + "/urls", 200, F, READ, inputs.PAGES_OF_50),
    Operation("DeleteFunctionUrlConfig", "DELETE", URL + "/url", 204, F, D, inputs.URL),
    # ---- policies ----
    Operation("AddPermission", "POST", ONE + "/policy", 201, P, D, inputs.ADD_PERMISSION,
              "principals are tenants, by name, or everybody"),
    Operation("RemovePermission", "DELETE", ONE + "/policy/{StatementId}", 204, F, D, inputs.REMOVE_PERMISSION),
    Operation("GetPolicy", "GET", ONE + "/policy", 200, F, READ, inputs.BY_QUALIFIER),
    Operation("GetResourcePolicy", "GET", "/2026-07-09/resource-policy/{ResourceArn}", 200, N, READ),
    Operation("PutResourcePolicy", "PUT", "/2026-07-09/resource-policy/{ResourceArn}", 200, N),
    Operation("DeleteResourcePolicy", "DELETE", "/2026-07-09/resource-policy/{ResourceArn}", 204, N),
    # ---- account ----
    Operation("GetAccountSettings", "GET", "/2016-08-19/account-settings", 200, F, READ, inputs.NOTHING),
    # ---- configurations ----
    Operation("GetRuntimeManagementConfig", "GET", "/2021-07-20/functions/{FunctionName}/runtime-management-config",
              200, F, READ, inputs.BY_QUALIFIER),
    Operation("PutRuntimeManagementConfig", "PUT", "/2021-07-20/functions/{FunctionName}/runtime-management-config", 200, P, D,
              inputs.PUT_RUNTIME_MANAGEMENT, "Auto alone: a machine has one interpreter of each runtime"),
    Operation("GetFunctionRecursionConfig", "GET", "/2024-08-31/functions/{FunctionName}/recursion-config", 200, F, READ,
              inputs.BY_NAME),
    Operation("PutFunctionRecursionConfig", "PUT", "/2024-08-31/functions/{FunctionName}/recursion-config", 200, F, D,
              inputs.PUT_RECURSION),
    Operation("GetFunctionScalingConfig", "GET", "/2025-11-30/functions/{FunctionName}/function-scaling-config", 200,
              X, READ, note=FLEETS),
    Operation("PutFunctionScalingConfig", "PUT", "/2025-11-30/functions/{FunctionName}/function-scaling-config", 202,
              X, note=FLEETS),
    # ---- event sources ----
    Operation("CreateEventSourceMapping", "POST", ESM, 202, N),
    Operation("GetEventSourceMapping", "GET", ESM + "/{UUID}", 200, N, READ),
    Operation("ListEventSourceMappings", "GET", ESM, 200, N, READ),
    Operation("UpdateEventSourceMapping", "PUT", ESM + "/{UUID}", 202, N),
    Operation("DeleteEventSourceMapping", "DELETE", ESM + "/{UUID}", 202, N),
    # ---- out of scope ----
    Operation("CreateCodeSigningConfig", "POST", CSC, 201, X, note=SIGNING),
    Operation("GetCodeSigningConfig", "GET", CSC + "/{CodeSigningConfigArn}", 200, X, READ, note=SIGNING),
    Operation("UpdateCodeSigningConfig", "PUT", CSC + "/{CodeSigningConfigArn}", 200, X, note=SIGNING),
    Operation("DeleteCodeSigningConfig", "DELETE", CSC + "/{CodeSigningConfigArn}", 204, X, note=SIGNING),
    Operation("ListCodeSigningConfigs", "GET", CSC, 200, X, READ, note=SIGNING),
    Operation("ListFunctionsByCodeSigningConfig", "GET", CSC + "/{CodeSigningConfigArn}/functions", 200, X,
              READ, note=SIGNING),
    Operation("GetFunctionCodeSigningConfig", "GET", FCS, 200, X, READ, note=SIGNING),
    Operation("PutFunctionCodeSigningConfig", "PUT", FCS, 200, X, note=SIGNING),
    Operation("DeleteFunctionCodeSigningConfig", "DELETE", FCS, 204, X,
              note=SIGNING),
    Operation("CreateCapacityProvider", "POST", CP, 202, X, note=FLEETS),
    Operation("GetCapacityProvider", "GET", CP + "/{CapacityProviderName}", 200, X, READ, note=FLEETS),
    Operation("UpdateCapacityProvider", "PUT", CP + "/{CapacityProviderName}", 202, X, note=FLEETS),
    Operation("DeleteCapacityProvider", "DELETE", CP + "/{CapacityProviderName}", 202, X, note=FLEETS),
    Operation("ListCapacityProviders", "GET", CP, 200, X, READ, note=FLEETS),
    Operation("ListFunctionVersionsByCapacityProvider", "GET",
              CP + "/{CapacityProviderName}/function-versions", 200, X, READ, note=FLEETS),
    Operation("CheckpointDurableExecution", "POST", DE + "/checkpoint", 200, X,
              note=DURABLE),
    Operation("DeleteDurableExecution", "DELETE", DE, 202, X, note=DURABLE),
    Operation("GetDurableExecution", "GET", DE, 200, X, READ, note=DURABLE),
    Operation("GetDurableExecutionHistory", "GET", DE + "/history", 200, X, READ,
              note=DURABLE),
    Operation("GetDurableExecutionState", "GET", DE + "/state", 200, X, READ,
              note=DURABLE),
    Operation("ListDurableExecutionsByFunction", "GET", "/2025-12-01/functions/{FunctionName}/durable-executions", 200, X, READ,
              note=DURABLE),
    Operation("PauseDurableExecution", "POST", DE + "/pause", 202, X, note=DURABLE),
    Operation("ResumeDurableExecution", "POST", DE + "/resume", 202, X, note=DURABLE),
    Operation("StopDurableExecution", "POST", DE + "/stop", 200, X, note=DURABLE),
    Operation("SendDurableExecutionCallbackFailure", "POST", DC + "/fail", 200, X,
              note=DURABLE),
    Operation("SendDurableExecutionCallbackHeartbeat", "POST", DC + "/heartbeat",
              200, X, note=DURABLE),
    Operation("SendDurableExecutionCallbackSuccess", "POST", DC + "/succeed", 200,
              X, note=DURABLE),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Route:
    operation: Operation
    pattern: re.Pattern[str]


class Router:
    """Finds the operation of a request."""

    def __init__(self, operations: Sequence[Operation] = OPERATIONS) -> None:
        # Routes with a query first: they are the narrower ones of the same path.
        rows = sorted(operations, key=lambda row: not row.query)
        self._routes = [_Route(row, _compiled(row.path)) for row in rows]

    def find(self, method: str, path: str, query: Mapping[str, Sequence[str]]) -> tuple[Operation, dict[str, str]]:
        """The operation and the members that stand in the path. LambdaError: there is none such."""
        for route in self._routes:
            row = route.operation
            if row.method != method or any(list(query.get(key, ())) != [value] for key, value in row.query.items()):
                continue
            match = route.pattern.fullmatch(path)
            if match is not None:
                return row, {name: unquote(value) for name, value in match.groupdict().items()}
        raise LambdaError("UnknownOperationException", f"no operation has the route {method[:16]} {path[:200]}")


def _compiled(path: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", path)
    # A trailing slash is what some clients send for a list.
    return re.compile("".join(re.escape(part) if i % 2 == 0 else f"(?P<{part}>[^/]+)" for i, part in enumerate(parts)) + "/?")
