"""Shapes of the operations' requests: names, bounds and places as in Lambda's service model.

Law of this file: data. Bounds that the model leaves wider than Lambda itself (memory, timeout, storage) are Lambda's.
"""

from __future__ import annotations

from typing import Final

from scheduler import limits
from scheduler.lambda_api.shapes import Member, Place, blob, flag, items, mapping, member, number, struct, text, whole

__all__ = ["BY_NAME", "NOTHING"]

PATH, QUERY, HEADER, PAYLOAD = Place.PATH, Place.QUERY, Place.HEADER, Place.PAYLOAD

# What a name means is functions.names' to judge; here its length, and that it is one word.
NAME: Final = member("FunctionName", text(1, limits.FUNCTION_REFERENCE_CHARS_MAX), required=True, place=PATH)
QUALIFIER: Final = member("Qualifier", text(1, 128, pattern=r"\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9_$-]+"), place=QUERY)
MARKER: Final = member("Marker", text(0, 1024), place=QUERY)
MAX_ITEMS: Final = member("MaxItems", whole(1, 10_000), place=QUERY)
REVISION: Final = member("RevisionId", text(0, 128))
DESCRIPTION: Final = member("Description", text(0, limits.DESCRIPTION_CHARS_MAX))
ARN: Final = text(0, 10_000, pattern=r"(arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()")
ARCHITECTURES: Final = member("Architectures", items(text(choices=("x86_64", "arm64")), 1, 1))
TAGS: Final = mapping(text(0, 256), 50)

NOTHING: Final = struct()
BY_NAME: Final = struct(NAME)
GET_FUNCTION: Final = struct(NAME, QUALIFIER)
DELETE_FUNCTION: Final = struct(NAME, QUALIFIER)
LIST_VERSIONS: Final = struct(NAME, MARKER, MAX_ITEMS)
LIST_FUNCTIONS: Final = struct(
    member("MasterRegion", text(1, 50), place=QUERY),
    member("FunctionVersion", text(choices=("ALL",)), place=QUERY),
    MARKER,
    MAX_ITEMS,
)

_CODE: Final = (
    member("ZipFile", blob()),
    member("S3Bucket", text(3, 63)),
    member("S3Key", text(1, 1024)),
    member("S3ObjectVersion", text(1, 1024)),
    member("S3ObjectStorageMode", text()),
    member("ImageUri", text()),
    member("SourceKMSKeyArn", ARN),
)

_CONFIGURATION: Final[tuple[Member, ...]] = (
    member("Runtime", text(1, 64)),
    member("Handler", text(0, limits.HANDLER_CHARS_MAX, pattern=r"[^\s]+")),
    DESCRIPTION,
    member("Timeout", whole(limits.TIMEOUT_S_MIN, limits.TIMEOUT_S_MAX)),
    member("MemorySize", whole(limits.MEMORY_MB_MIN, limits.MEMORY_MB_MAX)),
    member("VpcConfig", struct(
        member("SubnetIds", items(text(0, 1024), 0, 16)),
        member("SecurityGroupIds", items(text(0, 1024), 0, 5)),
        member("Ipv6AllowedForDualStack", flag()),
    )),
    member("DeadLetterConfig", struct(member("TargetArn", ARN))),
    member("Environment", struct(
        member("Variables", mapping(text(), pattern=r"[a-zA-Z]([a-zA-Z0-9_])+", hidden=True)),
    )),
    member("KMSKeyArn", ARN),
    member("TracingConfig", struct(member("Mode", text(choices=("Active", "PassThrough"))))),
    member("Layers", items(text(1, 2048))),
    member("FileSystemConfigs", items(struct(
        member("Arn", text(0, 200), required=True), member("LocalMountPath", text(0, 160), required=True),
    ), 0, 1)),
    member("ImageConfig", struct(
        member("EntryPoint", items(text(), 0, 1500)),
        member("Command", items(text(), 0, 1500)),
        member("WorkingDirectory", text(0, 1000)),
    )),
    member("EphemeralStorage", struct(
        member("Size", whole(limits.EPHEMERAL_STORAGE_MB_MIN, limits.EPHEMERAL_STORAGE_MB_MAX), required=True),
    )),
    member("SnapStart", struct(member("ApplyOn", text(choices=("PublishedVersions", "None"))))),
    member("LoggingConfig", struct(
        member("LogFormat", text(choices=("JSON", "Text"))),
        member("ApplicationLogLevel", text(choices=("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"))),
        member("SystemLogLevel", text(choices=("DEBUG", "INFO", "WARN"))),
        member("LogGroup", text(1, 512, pattern=r"[\.\-_/#A-Za-z0-9]+")),
    )),
    member("CapacityProviderConfig", struct()),
    member("DurableConfig", struct()),
    member("RuntimeConfig", struct()),
    member("AcceleratorConfig", struct()),
)  # fmt: skip

# IAM is not here: any role's ARN will do, and none is needed. What is given is kept and shown.
_ROLE: Final = text(0, 10_000, pattern=r"arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+")

CREATE_FUNCTION: Final = struct(
    member("FunctionName", NAME.shape, required=True),
    member("Role", _ROLE, required=True),
    member("Code", struct(*_CODE), required=True),
    member("Publish", flag()),
    member("PublishTo", text(choices=("LATEST_PUBLISHED",))),
    member("PackageType", text(choices=("Zip", "Image"))),
    member("Tags", TAGS),
    member("CodeSigningConfigArn", text(0, 200)),
    member("TenancyConfig", struct(member("TenantIsolationMode", text(choices=("PER_TENANT",)), required=True))),
    ARCHITECTURES,
    *_CONFIGURATION,
)
UPDATE_FUNCTION_CODE: Final = struct(
    NAME, *_CODE, ARCHITECTURES, REVISION,
    member("Publish", flag()),
    member("PublishTo", text(choices=("LATEST_PUBLISHED",))),
    member("DryRun", flag()),
)  # fmt: skip
UPDATE_FUNCTION_CONFIGURATION: Final = struct(NAME, member("Role", _ROLE), REVISION, *_CONFIGURATION)
PUBLISH_VERSION: Final = struct(
    NAME, DESCRIPTION, REVISION,
    member("CodeSha256", text(0, 64)),
    member("PublishTo", text(choices=("LATEST_PUBLISHED",))),
)  # fmt: skip
PUT_CONCURRENCY: Final = struct(NAME, member("ReservedConcurrentExecutions", whole(0, 0x7FFFFFFF), required=True))
PUT_RECURSION: Final = struct(NAME, member("RecursiveLoop", text(choices=("Allow", "Terminate")), required=True))

INVOKE: Final = struct(
    NAME,
    QUALIFIER,
    member("InvocationType", text(choices=("Event", "RequestResponse", "DryRun")), place=HEADER, wire="X-Amz-Invocation-Type"),
    member("LogType", text(choices=("None", "Tail")), place=HEADER, wire="X-Amz-Log-Type"),
    member("ClientContext", text(0, limits.CLIENT_CONTEXT_BYTES_MAX), place=HEADER, wire="X-Amz-Client-Context"),
    member("TenantId", text(1, 256, pattern=r"[a-zA-Z0-9\._:\/=+\-@ ]+"), place=HEADER, wire="X-Amz-Tenant-Id"),
    member("DurableExecutionName", text(1, 64, pattern="[a-zA-Z0-9-_]+"), place=HEADER, wire="X-Amz-Durable-Execution-Name"),
    member("Payload", blob(), place=PAYLOAD),
)
STREAM: Final = struct(
    *(
        member("InvocationType", text(choices=("RequestResponse", "DryRun")), place=HEADER, wire="X-Amz-Invocation-Type")
        if row.name == "InvocationType"
        else row
        for row in INVOKE.members
        if row.name != "DurableExecutionName"
    )
)
INVOKE_ASYNC: Final = struct(NAME, member("InvokeArgs", blob(), required=True, place=PAYLOAD))

# ---- aliases ----

_ALIAS: Final = text(1, limits.ALIAS_CHARS_MAX, pattern=r"(?!^[0-9]+$)([a-zA-Z0-9-_]+)")
_TO: Final = text(1, 1024, pattern=r"(\$LATEST(\.PUBLISHED)?|[0-9]+)")
_ROUTING: Final = member("RoutingConfig", struct(
    member("AdditionalVersionWeights", mapping(number(0.0, 1.0), pattern="[0-9]+")),
))  # fmt: skip
ALIAS: Final = struct(NAME, member("Name", _ALIAS, required=True, place=PATH))
CREATE_ALIAS: Final = struct(
    NAME, member("Name", _ALIAS, required=True), member("FunctionVersion", _TO, required=True), DESCRIPTION, _ROUTING
)
UPDATE_ALIAS: Final = struct(
    NAME, member("Name", _ALIAS, required=True, place=PATH), member("FunctionVersion", _TO), DESCRIPTION, _ROUTING, REVISION
)
LIST_ALIASES: Final = struct(NAME, member("FunctionVersion", _TO, place=QUERY), MARKER, MAX_ITEMS)

# ---- tags ----

_RESOURCE: Final = member("Resource", text(1, 10_000), required=True, place=PATH)
_TAG_KEY: Final = text(1, 128)
LIST_TAGS: Final = struct(_RESOURCE)
TAG_RESOURCE: Final = struct(_RESOURCE, member("Tags", mapping(text(0, 256)), required=True))
UNTAG_RESOURCE: Final = struct(_RESOURCE, member("TagKeys", items(_TAG_KEY), required=True, place=QUERY, wire="tagKeys"))

# ---- asynchronous invocation ----

_DESTINATION: Final = struct(member("Destination", text(0, 350)))
_EVENT_CONFIG: Final = (
    NAME,
    QUALIFIER,
    member("MaximumRetryAttempts", whole(0, 2)),
    member("MaximumEventAgeInSeconds", whole(60, 21_600)),
    member("DestinationConfig", struct(member("OnSuccess", _DESTINATION), member("OnFailure", _DESTINATION))),
)
EVENT_CONFIG: Final = struct(*_EVENT_CONFIG)
BY_QUALIFIER: Final = struct(NAME, QUALIFIER)
PUT_RUNTIME_MANAGEMENT: Final = struct(
    NAME,
    QUALIFIER,
    member("UpdateRuntimeOn", text(choices=("Auto", "Manual", "FunctionUpdate")), required=True),
    member("RuntimeVersionArn", text(26, 2048, pattern=r"arn:(aws[a-zA-Z-]*):lambda:[a-z0-9-]+::runtime:.+")),
)
_QUALIFIER: Final = text(1, limits.ALIAS_CHARS_MAX, pattern=r"(|[a-zA-Z0-9$_-]+)")
_QUALIFIED: Final = member("Qualifier", _QUALIFIER, place=QUERY, required=True)
PROVISIONED: Final = struct(NAME, _QUALIFIED)
PUT_PROVISIONED: Final = struct(NAME, _QUALIFIED, member("ProvisionedConcurrentExecutions", whole(1, 10_000), required=True))
_PAGE_OF_50: Final = member("MaxItems", whole(1, 50), place=QUERY)
PAGES_OF_50: Final = struct(NAME, MARKER, _PAGE_OF_50)

# ---- function URLs ----

_URL_QUALIFIER: Final = member("Qualifier", text(1, 128, pattern=r"(?!^\d+$)[0-9a-zA-Z-_]+"), place=QUERY)
_HEADERS: Final = items(text(0, 1024), 0, 100)
_CORS: Final = member("Cors", struct(
    member("AllowCredentials", flag()),
    member("AllowHeaders", _HEADERS),
    member("AllowMethods", items(text(0, 6), 0, 6)),
    member("AllowOrigins", items(text(1, 253), 0, 100)),
    member("ExposeHeaders", _HEADERS),
    member("MaxAge", whole(0, 86_400)),
))  # fmt: skip
_AUTH_TYPE: Final = text(choices=("NONE", "AWS_IAM"))
_INVOKE_MODE: Final = member("InvokeMode", text(choices=("BUFFERED", "RESPONSE_STREAM")))
URL: Final = struct(NAME, _URL_QUALIFIER)
CREATE_URL: Final = struct(NAME, _URL_QUALIFIER, member("AuthType", _AUTH_TYPE, required=True), _CORS, _INVOKE_MODE)
UPDATE_URL: Final = struct(NAME, _URL_QUALIFIER, member("AuthType", _AUTH_TYPE), _CORS, _INVOKE_MODE)

# ---- policies ----

_STATEMENT: Final = text(1, 100, pattern=r"([a-zA-Z0-9-_]+)")
ADD_PERMISSION: Final = struct(
    NAME,
    QUALIFIER,
    REVISION,
    member("StatementId", _STATEMENT, required=True),
    member("Action", text(0, 10_000, pattern=r"(lambda:[*]|lambda:[a-zA-Z]+|[*])"), required=True),
    member("Principal", text(0, 2048, pattern=r"[^\s]+"), required=True),
    member("SourceArn", ARN),
    member("SourceAccount", text(0, 12, pattern=r"\d{12}")),
    member("EventSourceToken", text(0, 256, pattern=r"[a-zA-Z0-9._\-]+")),
    member("FunctionUrlAuthType", _AUTH_TYPE),
    member("InvokedViaFunctionUrl", flag()),
    member("PrincipalOrgID", text(12, 34, pattern=r"o-[a-z0-9]{10,32}")),
)
REMOVE_PERMISSION: Final = struct(
    NAME,
    QUALIFIER,
    member("StatementId", text(1, 100, pattern=r"([a-zA-Z0-9-_.]+)"), required=True, place=PATH),
    member("RevisionId", text(0, 128), place=QUERY),
)

# ---- layers ----

_LAYER: Final = member("LayerName", text(1, 2048), required=True, place=PATH)
_NUMBER: Final = member("VersionNumber", whole(), required=True, place=PATH)
_RUNTIME: Final = member("CompatibleRuntime", text(1, 64), place=QUERY)
_ARCHITECTURE: Final = member("CompatibleArchitecture", text(choices=("x86_64", "arm64")), place=QUERY)
_REVISION_IN_QUERY: Final = member("RevisionId", text(0, 128), place=QUERY)
PUBLISH_LAYER: Final = struct(
    _LAYER,
    DESCRIPTION,
    member("Content", struct(*(row for row in _CODE if row.name.startswith(("Zip", "S3")))), required=True),
    member("CompatibleRuntimes", items(text(1, 64), 0, 15)),
    member("CompatibleArchitectures", items(text(choices=("x86_64", "arm64")), 0, 2)),
    member("LicenseInfo", text(0, 512)),
)
LAYER_VERSION: Final = struct(_LAYER, _NUMBER)
LAYER_BY_ARN: Final = struct(member("Arn", text(1, 2048), required=True, place=QUERY))
LIST_LAYERS: Final = struct(_RUNTIME, _ARCHITECTURE, MARKER, _PAGE_OF_50)
LIST_LAYER_VERSIONS: Final = struct(_LAYER, _RUNTIME, _ARCHITECTURE, MARKER, _PAGE_OF_50)
ADD_LAYER_PERMISSION: Final = struct(
    _LAYER,
    _NUMBER,
    _REVISION_IN_QUERY,
    member("StatementId", _STATEMENT, required=True),
    member("Action", text(0, 22, pattern="lambda:GetLayerVersion"), required=True),
    member("Principal", text(0, 10_000, pattern=r"\d{12}|\*|arn:(aws[a-zA-Z-]*):iam::\d{12}:root"), required=True),
    member("OrganizationId", text(0, 34, pattern=r"o-[a-z0-9]{10,32}")),
)
REMOVE_LAYER_PERMISSION: Final = struct(
    _LAYER, _NUMBER, _REVISION_IN_QUERY, member("StatementId", text(1, 100), required=True, place=PATH)
)
