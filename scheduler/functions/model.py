"""What a function is: its configuration, its code, its versions, and what is allowed in them.

Law of this file: frozen data and pure checks. Bounds and grammar are Lambda's where Lambda has them; each configuration key
is one row of `FIELDS`. All that is wrong in one request is reported together (`InvalidConfig.problems`), worded as Lambda
words it, with our key, the value and the limit. Values of environment variables are secrets: they stand in no message and in
no repr.

    config = build({"name": "hello", "handler": "app.handler"}, runtimes=("python3.12",))
    config = build({"memory_mb": 256}, runtimes=("python3.12",), base=config)
    describe(version, ["1", "2"], identity)      -> the description of docs/internals/service.md
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from scheduler import limits
from scheduler.config import DEFAULT_TENANT
from scheduler.errors import BadRequest
from scheduler.functions.environments import Environment
from scheduler.functions.names import LATEST, NAME, TENANT, Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = [
    "FIELDS",
    "FUNCTION_LEVEL",
    "RESERVED_ENVIRONMENT",
    "ApplicationLogLevel",
    "CodeKind",
    "CodeRef",
    "Field",
    "Freeze",
    "FunctionConfig",
    "FunctionVersion",
    "InvalidConfig",
    "LayerRef",
    "LogFormat",
    "Network",
    "Problem",
    "RecursiveLoop",
    "RuntimeClient",
    "SnapStart",
    "Snapshot",
    "State",
    "SystemLogLevel",
    "Tenancy",
    "Tracing",
    "build",
    "describe",
    "environment_bytes",
    "merged_path",
    "timestamp",
]


class CodeKind(enum.Enum):
    """How the code came: a zip archive, or the text of one module."""

    ZIP = "zip"
    FILE = "file"


class Snapshot(enum.Enum):
    """Whether new sandboxes are restored from an image of the initialised process, where one can be made."""

    AUTO = "auto"
    OFF = "off"


class Network(enum.Enum):
    """What a function may reach: its own loopback, or other machines too."""

    NONE = "none"
    OUTBOUND = "outbound"


class Freeze(enum.Enum):
    """Whether a sandbox is stopped as a whole while it has no call."""

    ON = "on"
    OFF = "off"


class RuntimeClient(enum.Enum):
    """What speaks for the function: the service's own bootstrap, or AWS's client of the Runtime API."""

    OWN = "own"
    AWSLAMBDARIC = "awslambdaric"


class LogFormat(enum.Enum):
    """Of the platform's lines, and of what the runtime's logger writes."""

    TEXT = "Text"
    JSON = "JSON"


class ApplicationLogLevel(enum.Enum):
    """The lowest that is written where the format is JSON."""

    TRACE = "TRACE"
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"
    FATAL = "FATAL"


class SystemLogLevel(enum.Enum):
    """The same of the platform's lines."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARN = "WARN"


class Tracing(enum.Enum):
    """Whether calls are segments of a trace, some of them sampled, or what callers bring is handed on alone."""

    ACTIVE = "Active"
    PASS_THROUGH = "PassThrough"


class SnapStart(enum.Enum):
    """Which versions have an image of their initialised process made before they are Active."""

    NONE = "None"
    PUBLISHED_VERSIONS = "PublishedVersions"


class Tenancy(enum.Enum):
    """Whether each sandbox serves the calls of one tenant id alone, for its whole life."""

    NONE = "NONE"
    PER_TENANT = "PER_TENANT"


class RecursiveLoop(enum.Enum):
    """Whether a chain of calls may come back to the function without end."""

    ALLOW = "Allow"
    TERMINATE = "Terminate"


class State(enum.Enum):
    """Of a version, as Lambda names them."""

    PENDING = "Pending"
    ACTIVE = "Active"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class CodeRef:
    """Code in the code store. `sha256` (hex) and `size` (bytes) are of what was uploaded; `path` is the unpacked tree's place,
    relative to the code store's root (see packages.CodeStore.task_dir)."""

    sha256: str
    size: int
    kind: CodeKind
    path: str


@dataclass(frozen=True, slots=True)
class LayerRef:
    """A layer version as a function uses it: it stays whole when the version is deleted."""

    arn: str
    code: CodeRef


def merged_path(codes: Sequence[CodeRef]) -> str:
    """Where the code store keeps these layers as one tree, later ones over earlier ones."""
    return hashlib.sha256("\n".join(code.path for code in codes).encode()).hexdigest() + ".layers"


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionConfig:
    """Everything a deployment may say. Keys, units and defaults are those of the control methods."""

    name: str
    handler: str
    runtime: str
    tenant: str = DEFAULT_TENANT
    description: str = ""
    role: str = ""
    memory_mb: int = limits.MEMORY_MB_DEFAULT
    timeout_s: int = limits.TIMEOUT_S_DEFAULT
    ephemeral_storage_mb: int = limits.EPHEMERAL_STORAGE_MB_DEFAULT
    environment: Environment = dataclasses.field(default_factory=lambda: Environment({}), repr=False, hash=False)
    reserved_concurrency: int | None = None
    weight: int = limits.WEIGHT_DEFAULT
    queue_timeout_ms: int = limits.QUEUE_TIMEOUT_MS_DEFAULT
    network: str = Network.NONE.value
    snapshot: str = Snapshot.AUTO.value
    freeze: str = Freeze.OFF.value
    runtime_client: str = RuntimeClient.OWN.value
    log_format: str = LogFormat.TEXT.value
    application_log_level: str = ""  # "": that of the format, none for text
    system_log_level: str = ""
    log_group: str = ""  # "": /aws/lambda/NAME
    kms_key_arn: str = ""
    secrets: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    tracing: str = Tracing.PASS_THROUGH.value
    recursive_loop: str = RecursiveLoop.TERMINATE.value
    snap_start: str = SnapStart.NONE.value
    tenancy: str = Tenancy.NONE.value
    dead_letter_arn: str = ""  # "": events that cannot be delivered are dropped, and counted

    def __post_init__(self) -> None:
        # Own, sealed copies: a frozen thing must not change through what its maker kept.
        if not isinstance(self.environment, Environment):
            object.__setattr__(self, "environment", Environment(self.environment))
        object.__setattr__(self, "secrets", tuple(self.secrets))
        object.__setattr__(self, "keys", tuple(self.keys))

    @property
    def log_group_name(self) -> str:
        return self.log_group or f"/aws/lambda/{self.name}"

    @property
    def shown_application_log_level(self) -> str:
        """What holds: the format's own where none is said."""
        return self.application_log_level or _DEFAULT_LEVEL[self.log_format]

    @property
    def shown_system_log_level(self) -> str:
        return self.system_log_level or _DEFAULT_LEVEL[self.log_format]


_DEFAULT_LEVEL: Final = {LogFormat.TEXT.value: "", LogFormat.JSON.value: "INFO"}

FUNCTION_LEVEL: Final = ("tenant", "reserved_concurrency", "weight", "recursive_loop")
"""Keys that belong to the function, not to a version: a published version shows the function's present value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionVersion:
    """One version, `$LATEST` included. `revision` rises with each deployment of code or configuration of `$LATEST` and is the
    one it was published from in others; `revision_id` changes with every write; `last_modified` is RFC 3339 in UTC."""

    config: FunctionConfig
    version: str
    revision: int
    revision_id: str
    code: CodeRef
    last_modified: str
    state: State = State.ACTIVE
    state_reason: str = ""
    layers: tuple[LayerRef, ...] = ()

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def has_image(self) -> bool:
        """It may have one, as far as its configuration goes."""
        return self.config.snapshot == Snapshot.AUTO.value

    @property
    def snap_started(self) -> bool:
        """It has its image made before it is Active."""
        return self.config.snap_start == SnapStart.PUBLISHED_VERSIONS.value and self.version != LATEST

    @property
    def snap_start_init_s(self) -> float:
        """Longest init of a version with SnapStart, as of one that is provisioned."""
        return max(limits.PROVISIONED_INIT_TIMEOUT_S, self.config.timeout_s)

    @property
    def display_name(self) -> str:
        """`hello` for `$LATEST`, `hello:7` for a published version."""
        return self.name if self.version == LATEST else f"{self.name}:{self.version}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `shown` is the value as it may be printed; `constraint` a sentence that has the limit. `whole`:
    the sentence says it all, as where two keys do not go together."""

    field: str
    shown: str
    constraint: str
    whole: bool = False

    def __str__(self) -> str:
        if self.whole:
            return f"{self.field}: {self.constraint}"
        return f"Value {self.shown} at '{self.field}' failed to satisfy constraint: {self.constraint}"


class InvalidConfig(BadRequest):
    """A configuration that is not allowed, with all its problems."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        count = f"{len(problems)} validation error{'s' if len(problems) > 1 else ''} detected: "
        super().__init__(count + "; ".join(map(str, problems)), reason="validation")
        self.problems = tuple(problems)


# ---- the rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a deployment. `check` gives a sentence where the value is wrong, else None. `member` is Lambda's own name."""

    name: str
    member: str
    check: Callable[[Any], str | None]
    secret: bool = False
    nullable: bool = False


def _whole(minimum: int, maximum: int) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if not isinstance(value, int) or isinstance(value, bool):
            return "Member must be a whole number"
        if value < minimum:
            return f"Member must have value greater than or equal to {minimum}"
        if value > maximum:
            return f"Member must have value less than or equal to {maximum}"
        return None

    return check


def _text(minimum: int, maximum: int, pattern: re.Pattern[str] | None = None, shown: str = "") -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if not isinstance(value, str):
            return "Member must be text"
        if len(value) < minimum:
            return f"Member must have length greater than or equal to {minimum}"
        if len(value) > maximum:
            return f"Member must have length less than or equal to {maximum}"
        if not _encodable(value):
            return "Member must be valid Unicode without NUL"
        if pattern is not None and not pattern.fullmatch(value):
            return f"Member must satisfy regular expression pattern: {shown}"
        return None

    return check


KEY_NAME: Final = re.compile(r"[a-zA-Z0-9:/_-]*")
KEY_PATTERN: Final = re.compile(r"[a-zA-Z0-9:/_-]*\*?")
SECRET_PATTERN: Final = re.compile(r"[a-zA-Z0-9/_+=.@-]*\*?")


def _patterns(chars_max: int, pattern: re.Pattern[str], shown: str) -> Callable[[Any], str | None]:
    """A list of names, of which each may end in * for all that begin so."""
    one = _text(1, chars_max, pattern, shown)

    def check(value: Any) -> str | None:
        if not isinstance(value, list | tuple):
            return "Member must be a list of text"
        if len(value) > limits.GRANTS_MAX:
            return f"Member must have at most {limits.GRANTS_MAX} entries"
        return next((problem for entry in value if (problem := one(entry)) is not None), None)

    return check


def _one_of(kind: type[enum.Enum]) -> Callable[[Any], str | None]:
    words = [member.value for member in kind]

    def check(value: Any) -> str | None:
        return None if value in words else f"Member must satisfy enum value set: [{', '.join(words)}]"

    return check


def _one_of_or_none(kind: type[enum.Enum]) -> Callable[[Any], str | None]:
    """An empty text as well, where nothing is said."""
    check = _one_of(kind)
    return lambda value: None if value == "" else check(value)


def _encodable(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


RESERVED_ENVIRONMENT: Final = frozenset(
    {
        "_HANDLER",
        "_X_AMZN_TRACE_ID",
        "AWS_DEFAULT_REGION",
        "AWS_REGION",
        "AWS_EXECUTION_ENV",
        "AWS_LAMBDA_FUNCTION_NAME",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
        "AWS_LAMBDA_FUNCTION_VERSION",
        "AWS_LAMBDA_INITIALIZATION_TYPE",
        "AWS_LAMBDA_LOG_GROUP_NAME",
        "AWS_LAMBDA_LOG_STREAM_NAME",
        "AWS_LAMBDA_MAX_CONCURRENCY",
        "AWS_LAMBDA_METADATA_API",
        "AWS_LAMBDA_RUNTIME_API",
        "AWS_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "LAMBDA_TASK_ROOT",
        "LAMBDA_RUNTIME_DIR",
    }
)

DEAD_LETTER: Final = re.compile(r"(arn:aws[a-zA-Z-]*:(sqs|sns):[a-z0-9-]+:\d{12}:[a-zA-Z0-9_.-]{1,256})?")
ENVIRONMENT_KEY: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_]+")


def environment_bytes(environment: Mapping[str, str]) -> int:
    """The size that counts against the 4 KB: of the map's JSON text in UTF-8, without blanks."""
    return len(json.dumps(dict(environment), separators=(",", ":"), ensure_ascii=False).encode("utf-8"))


def _check_environment(value: Any) -> str | None:
    if not isinstance(value, dict | MappingProxyType):
        return "Member must be a map of text to text"
    if len(value) > limits.ENVIRONMENT_BYTES_MAX:  # each entry takes at least one byte: no need to look at them
        return f"Member must have at most {limits.ENVIRONMENT_BYTES_MAX} bytes"
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            return "Member must be a map of text to text"
    reserved = sorted(RESERVED_ENVIRONMENT.intersection(value))
    if reserved:
        return (
            "Lambda was unable to configure your environment variables because the environment variables you have provided "
            "contains reserved keys that are currently not supported for modification. Reserved keys used in this request: "
            + ", ".join(reserved)
        )
    for key, text in value.items():
        if not ENVIRONMENT_KEY.fullmatch(key):
            return f"Map keys must satisfy regular expression pattern: [a-zA-Z]([a-zA-Z0-9_])+ ({_cut(key)} does not)"
        if not _encodable(text):
            return f"Map values must be valid Unicode without NUL (that of {_cut(key)} is not)"
    size = environment_bytes(value)
    if size > limits.ENVIRONMENT_BYTES_MAX:
        return (
            "Lambda was unable to configure your environment variables because the environment variables you have provided "
            f"exceeded the 4KB limit. Measured: {size} bytes of JSON, the limit is {limits.ENVIRONMENT_BYTES_MAX}"
        )
    return None


FIELDS: Final = (
    Field("name", "functionName", _text(1, limits.FUNCTION_NAME_CHARS_MAX, NAME, "[a-zA-Z0-9-_]+")),
    Field("handler", "handler", _text(1, limits.HANDLER_CHARS_MAX, re.compile(r"\S+"), r"[^\s]+")),
    Field("runtime", "runtime", _text(1, 64)),
    Field("tenant", "tenant", _text(1, limits.TENANT_NAME_CHARS_MAX, TENANT, "[a-zA-Z0-9-_]+")),
    Field("description", "description", _text(0, limits.DESCRIPTION_CHARS_MAX)),
    # Nothing here acts in its name: it is kept for clients of AWS's API, which show it and compare it.
    Field("role", "role", _text(0, limits.ROLE_CHARS_MAX)),
    Field("memory_mb", "memorySize", _whole(limits.MEMORY_MB_MIN, limits.MEMORY_MB_MAX)),
    Field("timeout_s", "timeout", _whole(limits.TIMEOUT_S_MIN, limits.TIMEOUT_S_MAX)),
    Field(
        "ephemeral_storage_mb",
        "ephemeralStorage.size",
        _whole(limits.EPHEMERAL_STORAGE_MB_MIN, limits.EPHEMERAL_STORAGE_MB_MAX),
    ),
    Field("environment", "environment.variables", _check_environment, secret=True),
    Field("reserved_concurrency", "reservedConcurrentExecutions", _whole(0, 0x7FFFFFFF), nullable=True),
    Field("weight", "weight", _whole(limits.WEIGHT_MIN, limits.WEIGHT_MAX)),
    Field("queue_timeout_ms", "queueTimeoutMs", _whole(0, limits.QUEUE_TIMEOUT_MS_MAX)),
    Field("network", "network", _one_of(Network)),
    Field("snapshot", "snapshot", _one_of(Snapshot)),
    Field("freeze", "freeze", _one_of(Freeze)),
    Field("runtime_client", "runtimeClient", _one_of(RuntimeClient)),
    Field("log_format", "loggingConfig.logFormat", _one_of(LogFormat)),
    Field("application_log_level", "loggingConfig.applicationLogLevel", _one_of_or_none(ApplicationLogLevel)),
    Field("system_log_level", "loggingConfig.systemLogLevel", _one_of_or_none(SystemLogLevel)),
    Field(
        "log_group",
        "loggingConfig.logGroup",
        _text(0, limits.LOG_GROUP_CHARS_MAX, re.compile(r"[.\-_/#A-Za-z0-9]*"), r"[\.\-_/#A-Za-z0-9]+"),
    ),
    Field("kms_key_arn", "kmsKeyArn", _text(0, limits.KEY_NAME_CHARS_MAX, KEY_NAME, "[a-zA-Z0-9:/_-]*")),
    Field("secrets", "secrets", _patterns(limits.SECRET_NAME_CHARS_MAX, SECRET_PATTERN, "[a-zA-Z0-9/_+=.@-]+[*]?")),
    Field("keys", "keys", _patterns(limits.KEY_NAME_CHARS_MAX, KEY_PATTERN, "[a-zA-Z0-9:/_-]+[*]?")),
    Field("tracing", "tracingConfig.mode", _one_of(Tracing)),
    Field("recursive_loop", "recursiveLoop", _one_of(RecursiveLoop)),
    Field("snap_start", "snapStart.applyOn", _one_of(SnapStart)),
    Field("tenancy", "tenancyConfig.tenantIsolationMode", _one_of(Tenancy)),
    Field(
        "dead_letter_arn",
        "deadLetterConfig.targetArn",
        _text(0, limits.ROLE_CHARS_MAX, DEAD_LETTER, "arn:aws:(sqs|sns):REGION:ACCOUNT:NAME, a queue of SQS or a topic of SNS"),
    ),
)


def _levels_need_json(values: Mapping[str, Any]) -> Problem | None:
    if values.get("log_format", LogFormat.TEXT.value) == LogFormat.JSON.value:
        return None
    for key in ("application_log_level", "system_log_level"):
        if values.get(key):
            text = f"{values[key]} needs log_format JSON: lines of text have no level; leave it out, or set LogFormat to JSON"
            return Problem(key, str(values[key]), text, whole=True)
    return None


def _snap_start_needs(values: Mapping[str, Any]) -> Problem | None:
    if values.get("snap_start", SnapStart.NONE.value) != SnapStart.PUBLISHED_VERSIONS.value:
        return None
    text = ""
    if values.get("ephemeral_storage_mb", limits.EPHEMERAL_STORAGE_MB_DEFAULT) > limits.EPHEMERAL_STORAGE_MB_MIN:
        text = (
            f"SnapStart enabled functions have at most {limits.EPHEMERAL_STORAGE_MB_MIN} MB of ephemeral storage, not "
            f"{values['ephemeral_storage_mb']}"
        )
    elif values.get("tenancy", Tenancy.NONE.value) != Tenancy.NONE.value:
        text = "SnapStart is not supported for functions with tenant isolation"
    elif values.get("snapshot", Snapshot.AUTO.value) != Snapshot.AUTO.value:
        text = "SnapStart needs images, which snapshot = off forbids"
    return Problem("snap_start", values["snap_start"], text, whole=True) if text else None


# What keys say together. Asked only where each of them is right by itself.
_RULES: Final[tuple[Callable[[Mapping[str, Any]], Problem | None], ...]] = (_levels_need_json, _snap_start_needs)

_REQUIRED: Final = ("name", "handler")


def build(
    given: Mapping[str, object],
    *,
    runtimes: Sequence[str],
    absent: Mapping[str, str] | None = None,
    base: FunctionConfig | None = None,
    defaults: Mapping[str, object] | None = None,
) -> FunctionConfig:
    """A configuration of the keys in `given`; keys left out come from `base`, else from `defaults`, else are Lambda's defaults.

    `runtimes`: those offered here, best first; the first is the one for functions that name none. `absent`: those that could
    be, and what to do about it. An environment replaces the
    one of `base` whole, as in Lambda. None for `reserved_concurrency` takes the reservation away. A name that differs from
    base's is a problem. Raises InvalidConfig with all problems; unknown keys are among them.
    """
    problems = [
        Problem(key, _cut(given[key]), "no such key; known are " + ", ".join(f.name for f in FIELDS))
        for key in given
        if key not in {f.name for f in FIELDS}
    ]
    values: dict[str, Any] = dict(defaults or {})
    if base is not None:
        values = {f.name: getattr(base, f.name) for f in FIELDS}
        if given.get("log_format") == LogFormat.TEXT.value:  # which takes levels of JSON with it
            values |= {"application_log_level": "", "system_log_level": ""}
    for field in FIELDS:
        if field.name not in given:
            continue
        value = given[field.name]
        values[field.name] = value
        wrong = None if value is None and field.nullable else field.check(value)
        if wrong is not None:
            problems.append(Problem(field.name, "(hidden)" if field.secret else _cut(value), wrong))
    if base is None and "runtime" not in values and runtimes:
        values["runtime"] = runtimes[0]
    problems.extend(
        Problem(name, "null", "Member must not be null")
        for name in (*_REQUIRED, "runtime")
        if values.get(name) is None and not _named(problems, name)
    )
    # A function whose runtime is offered no more may still have its other keys changed.
    if "runtime" in given and values["runtime"] not in runtimes and not _named(problems, "runtime"):
        known = f"Member must satisfy enum value set: [{', '.join(runtimes)}]"
        if (absent or {}).get(values["runtime"]) is not None:
            known += f" ({(absent or {})[values['runtime']]})"
        problems.append(Problem("runtime", _cut(values["runtime"]), known))
    if base is not None and values["name"] != base.name and not _named(problems, "name"):
        problems.append(Problem("name", _cut(values["name"]), f"Member must be {base.name}: a function keeps its name"))
    if not problems:
        problems = [problem for rule in _RULES if (problem := rule(values)) is not None]
    if base is not None and values["tenancy"] != base.tenancy and not problems:
        text = "whether a function is tenant-isolated is said when it is made, and stays; remove it first"
        problems.append(Problem("tenancy", _cut(values["tenancy"]), text, whole=True))
    if problems:
        raise InvalidConfig(problems)
    return FunctionConfig(**values)


def _named(problems: Sequence[Problem], field: str) -> bool:
    return any(problem.field == field for problem in problems)


def _cut(value: object) -> str:
    """The value as Lambda quotes it, never long enough to flood a log."""
    text = str(value)
    return ascii(text if len(text) <= 128 else text[:127] + "…") if not text.isprintable() else f"'{text[:128]}'"


# ---- description ---------------------------------------------------------------------------------------------------------


def timestamp(now_s: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(now_s, UTC).isoformat(timespec="milliseconds")


def describe(version: FunctionVersion, versions: Sequence[str], identity: Identity) -> dict[str, Any]:
    """The map that the control methods answer. `versions`: numbers of the published versions, oldest first."""
    config = version.config
    return {
        "name": config.name,
        "arn": identity.arn(config.name, None if version.version == LATEST else version.version),
        "tenant": config.tenant,
        "version": version.version,
        "versions": list(versions),
        "revision": version.revision,
        "revision_id": version.revision_id,
        "runtime": config.runtime,
        "handler": config.handler,
        "description": config.description,
        "memory_mb": config.memory_mb,
        "timeout_s": config.timeout_s,
        "ephemeral_storage_mb": config.ephemeral_storage_mb,
        "environment": dict(config.environment),
        "environment_error": _trouble(config.environment),
        "reserved_concurrency": config.reserved_concurrency,
        "weight": config.weight,
        "queue_timeout_ms": config.queue_timeout_ms,
        "network": config.network,
        "snapshot": config.snapshot,
        "freeze": config.freeze,
        "runtime_client": config.runtime_client,
        "log_format": config.log_format,
        "application_log_level": config.shown_application_log_level,
        "system_log_level": config.shown_system_log_level,
        "log_group": config.log_group_name,
        "kms_key_arn": config.kms_key_arn,
        "secrets": list(config.secrets),
        "keys": list(config.keys),
        "tracing": config.tracing,
        "recursive_loop": config.recursive_loop,
        "snap_start": config.snap_start,
        "tenancy": config.tenancy,
        "dead_letter_arn": config.dead_letter_arn,
        "code_sha256": version.code.sha256,
        "code_size": version.code.size,
        "last_modified": version.last_modified,
        "state": version.state.value,
        "state_reason": version.state_reason,
    }


def _trouble(environment: Environment) -> dict[str, str] | None:
    """Why no variable is shown, as Lambda tells it."""
    problem = environment.problem
    return None if problem is None else {"ErrorCode": problem.code, "Message": problem.message}
