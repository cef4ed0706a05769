"""Lambda's limits as we enforce them, and our own bounds beside them: numbers, units, where each comes from.

Law of this file: a leaf of constants. Settings that an operator may change are in `config`; here is what is fixed, so that a
function that runs here runs there. "MB" is 1,048,576 bytes everywhere, as in Lambda. `LIMITS` has one row for each constant
(a test says so); the relations between them are checked at import, below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["LIMITS", "Limit", "lambda_limits"]

KIB: Final = 1024
MIB: Final = 1024 * KIB

# ---- names ---------------------------------------------------------------------------------------------------------------
FUNCTION_NAME_CHARS_MAX: Final = 64
FUNCTION_REFERENCE_CHARS_MAX: Final = 140
ALIAS_CHARS_MAX: Final = 128
TENANT_NAME_CHARS_MAX: Final = 64
HANDLER_CHARS_MAX: Final = 128
DESCRIPTION_CHARS_MAX: Final = 256
ROLE_CHARS_MAX: Final = 2048
LOG_GROUP_CHARS_MAX: Final = 512

# ---- configuration -------------------------------------------------------------------------------------------------------
MEMORY_MB_MIN: Final = 128
MEMORY_MB_MAX: Final = 10_240
MEMORY_MB_DEFAULT: Final = 128
MEMORY_MB_PER_CPU: Final = 1_769
TIMEOUT_S_MIN: Final = 1
TIMEOUT_S_MAX: Final = 900
TIMEOUT_S_DEFAULT: Final = 3
EPHEMERAL_STORAGE_MB_MIN: Final = 512
EPHEMERAL_STORAGE_MB_MAX: Final = 10_240
EPHEMERAL_STORAGE_MB_DEFAULT: Final = 512
ENVIRONMENT_BYTES_MAX: Final = 4 * KIB
SECRET_NAME_CHARS_MAX: Final = 512
SECRET_BYTES_MAX: Final = 64 * KIB
SECRET_VERSIONS_MAX: Final = 20
SECRETS_MAX: Final = 10_000
KEY_NAME_CHARS_MAX: Final = 2048
MASTER_KEYS_MAX: Final = 1_000
MASTER_KEY_GENERATIONS_MAX: Final = 100
KMS_PLAINTEXT_BYTES_MAX: Final = 4 * KIB
GRANTS_MAX: Final = 64
WEIGHT_MIN: Final = 1
WEIGHT_MAX: Final = 10_000
WEIGHT_DEFAULT: Final = 100
QUEUE_TIMEOUT_MS_MAX: Final = 900_000
QUEUE_TIMEOUT_MS_DEFAULT: Final = 1_000
CONCURRENCY_DEFAULT: Final = 1_000
UNRESERVED_CONCURRENCY_MIN_DEFAULT: Final = 100

# ---- invocation ----------------------------------------------------------------------------------------------------------
PAYLOAD_BYTES_MAX: Final = 6 * MIB
ANSWER_BYTES_MAX: Final = 6 * MIB + 100
EVENT_BYTES_MAX: Final = 1 * MIB
EVENT_HEADER_BYTES_MAX: Final = 64 * KIB
LOG_TAIL_BYTES_MAX: Final = 4 * KIB
CLIENT_CONTEXT_BYTES_MAX: Final = 3_583
DEADLINE_MS_MAX: Final = 86_400_000
INIT_TIMEOUT_MS_DEFAULT: Final = 10_000
PROVISIONED_INIT_TIMEOUT_S: Final = 130

# ---- code ----------------------------------------------------------------------------------------------------------------
CODE_ZIPPED_BYTES_MAX: Final = 50 * MIB
CODE_UNZIPPED_BYTES_MAX: Final = 262_144_000
CODE_FILES_MAX: Final = 50_000
CODE_PATH_BYTES_MAX: Final = 1_024
CODE_RATIO_MAX: Final = 250
CODE_RATIO_FREE_BYTES: Final = 16 * MIB
CODE_CHUNK_BYTES_MAX: Final = 4 * MIB

# ---- store ---------------------------------------------------------------------------------------------------------------
STORE_VALUE_BYTES_MAX: Final = 1 * MIB
STORE_KEY_BYTES_MAX: Final = 256
VERSIONS_PER_FUNCTION_MAX: Final = 10_000
LIST_PAGE_MAX: Final = 50
EVENT_DEDUPE_MS: Final = 120_000
EVENT_LEASE_MS: Final = 30_000


@dataclass(frozen=True, slots=True)
class Limit:
    """`source`: "lambda" is Lambda's own figure, "ours" is a bound that Lambda does not have or does not tell."""

    name: str
    value: int
    unit: str
    source: str
    why: str


def _row(name: str, unit: str, source: str, why: str) -> Limit:
    return Limit(name, globals()[name], unit, source, why)


LIMITS: Final = (
    _row("FUNCTION_NAME_CHARS_MAX", "characters", "lambda", "FunctionName, the name alone"),
    _row("FUNCTION_REFERENCE_CHARS_MAX", "characters", "lambda", "FunctionName in any accepted form"),
    _row("ALIAS_CHARS_MAX", "characters", "lambda", "Alias"),
    _row("TENANT_NAME_CHARS_MAX", "characters", "ours", "a tenant is an account of the tree; its name goes into metrics"),
    _row("HANDLER_CHARS_MAX", "characters", "lambda", "Handler"),
    _row("DESCRIPTION_CHARS_MAX", "characters", "lambda", "Description"),
    _row("ROLE_CHARS_MAX", "characters", "ours", "Role; an ARN of IAM is shorter"),
    _row("LOG_GROUP_CHARS_MAX", "characters", "lambda", "LoggingConfig.LogGroup"),
    _row("MEMORY_MB_MIN", "MB", "lambda", "MemorySize"),
    _row("MEMORY_MB_MAX", "MB", "lambda", "MemorySize"),
    _row("MEMORY_MB_DEFAULT", "MB", "lambda", "MemorySize"),
    _row("MEMORY_MB_PER_CPU", "MB", "lambda", "memory that comes with one whole CPU"),
    _row("TIMEOUT_S_MIN", "s", "lambda", "Timeout"),
    _row("TIMEOUT_S_MAX", "s", "lambda", "Timeout"),
    _row("TIMEOUT_S_DEFAULT", "s", "lambda", "Timeout"),
    _row("EPHEMERAL_STORAGE_MB_MIN", "MB", "lambda", "EphemeralStorage.Size"),
    _row("EPHEMERAL_STORAGE_MB_MAX", "MB", "lambda", "EphemeralStorage.Size"),
    _row("EPHEMERAL_STORAGE_MB_DEFAULT", "MB", "lambda", "EphemeralStorage.Size"),
    _row("ENVIRONMENT_BYTES_MAX", "bytes", "lambda", "Environment.Variables, measured on the JSON text of the map"),
    _row("SECRET_NAME_CHARS_MAX", "characters", "lambda", "Secrets Manager's Name"),
    _row("SECRET_BYTES_MAX", "bytes", "lambda", "Secrets Manager's SecretString or SecretBinary"),
    _row("SECRET_VERSIONS_MAX", "", "ours", "versions kept of one secret; the oldest that bear no stage go"),
    _row("SECRETS_MAX", "", "ours", "secrets of all tenants"),
    _row("KEY_NAME_CHARS_MAX", "characters", "lambda", "KMS's KeyId: id, ARN or alias"),
    _row("MASTER_KEYS_MAX", "", "ours", "keys of the KMS endpoint, of all tenants"),
    _row("MASTER_KEY_GENERATIONS_MAX", "", "ours", "rotations of one of them"),
    _row("KMS_PLAINTEXT_BYTES_MAX", "bytes", "lambda", "KMS's Encrypt"),
    _row("GRANTS_MAX", "", "ours", "entries of a function's secrets, and of its keys"),
    _row("WEIGHT_MIN", "", "ours", "share of CPU time among the functions of a tenant, and among tenants"),
    _row("WEIGHT_MAX", "", "ours", "share of CPU time"),
    _row("WEIGHT_DEFAULT", "", "ours", "share of CPU time"),
    _row("QUEUE_TIMEOUT_MS_MAX", "ms", "ours", "longer than any function may run, a call does not wait"),
    _row("QUEUE_TIMEOUT_MS_DEFAULT", "ms", "ours", "Lambda refuses at once, which is 0"),
    _row("CONCURRENCY_DEFAULT", "calls", "lambda", "ConcurrentExecutions of an account"),
    _row("UNRESERVED_CONCURRENCY_MIN_DEFAULT", "calls", "lambda", "UnreservedConcurrentExecutions that reservations leave"),
    _row("PAYLOAD_BYTES_MAX", "bytes", "lambda", "synchronous request"),
    _row("ANSWER_BYTES_MAX", "bytes", "lambda", "synchronous response: 6 MB and 100 bytes"),
    _row("EVENT_BYTES_MAX", "bytes", "lambda", "asynchronous request"),
    _row("EVENT_HEADER_BYTES_MAX", "bytes", "ours", "what travels beside a queued event: trace, qualifier, attempt state"),
    _row("LOG_TAIL_BYTES_MAX", "bytes", "lambda", "LogResult"),
    _row("CLIENT_CONTEXT_BYTES_MAX", "bytes", "lambda", "X-Amz-Client-Context"),
    _row("DEADLINE_MS_MAX", "ms", "ours", "a caller's patience: a day"),
    _row("INIT_TIMEOUT_MS_DEFAULT", "ms", "lambda", "init phase of an on-demand environment"),
    _row("PROVISIONED_INIT_TIMEOUT_S", "s", "lambda", "init where sandboxes are provisioned, or SnapStart makes their image"),
    _row("CODE_ZIPPED_BYTES_MAX", "bytes", "lambda", "CodeSizeZipped"),
    _row("CODE_UNZIPPED_BYTES_MAX", "bytes", "lambda", "CodeSizeUnzipped, layers included"),
    _row("CODE_FILES_MAX", "files", "ours", "each costs an inode and a turn of the unpacking loop"),
    _row("CODE_PATH_BYTES_MAX", "bytes", "ours", "a name inside a package; the kernel's own limit is 4,096 for the whole path"),
    _row("CODE_RATIO_MAX", "times", "ours", "unpacked over packed: beyond it a package is taken for a bomb"),
    _row("CODE_RATIO_FREE_BYTES", "bytes", "ours", "packages that unpack to less than this may have any ratio"),
    _row("CODE_CHUNK_BYTES_MAX", "bytes", "ours", "data of one code.put"),
    _row("STORE_VALUE_BYTES_MAX", "bytes", "ours", "what a fleet's engine takes in one message"),
    _row("STORE_KEY_BYTES_MAX", "bytes", "ours", "key of the store"),
    _row("VERSIONS_PER_FUNCTION_MAX", "versions", "ours", "their list is part of one stored value"),
    _row("LIST_PAGE_MAX", "functions", "lambda", "MaxItems that ListFunctions honours"),
    _row("EVENT_DEDUPE_MS", "ms", "ours", "how long a queued event's id is remembered"),
    _row("EVENT_LEASE_MS", "ms", "ours", "how long a taken event is kept from other takers"),
)


def lambda_limits() -> dict[str, int]:
    """What `hello` tells a client: the limits that an invocation or a deployment can run into."""
    told = (
        "PAYLOAD_BYTES_MAX",
        "ANSWER_BYTES_MAX",
        "EVENT_BYTES_MAX",
        "CLIENT_CONTEXT_BYTES_MAX",
        "DEADLINE_MS_MAX",
        "CODE_ZIPPED_BYTES_MAX",
        "CODE_UNZIPPED_BYTES_MAX",
        "CODE_CHUNK_BYTES_MAX",
        "ENVIRONMENT_BYTES_MAX",
        "MEMORY_MB_MAX",
        "TIMEOUT_S_MAX",
    )
    return {limit.name.lower(): limit.value for limit in LIMITS if limit.name in told}


def _hold(*relations: tuple[str, bool]) -> None:
    for text, holds in relations:
        if not holds:
            raise AssertionError(f"limits.py contradicts itself: {text}")


_hold(
    ("memory has room", MEMORY_MB_MIN <= MEMORY_MB_DEFAULT <= MEMORY_MB_MAX),
    ("timeout has room", TIMEOUT_S_MIN <= TIMEOUT_S_DEFAULT <= TIMEOUT_S_MAX),
    ("storage has room", EPHEMERAL_STORAGE_MB_MIN <= EPHEMERAL_STORAGE_MB_DEFAULT <= EPHEMERAL_STORAGE_MB_MAX),
    ("weight has room", WEIGHT_MIN <= WEIGHT_DEFAULT <= WEIGHT_MAX),
    ("a call may wait as long as one may run", QUEUE_TIMEOUT_MS_DEFAULT <= QUEUE_TIMEOUT_MS_MAX == TIMEOUT_S_MAX * 1000),
    ("the answer may echo the payload", ANSWER_BYTES_MAX >= PAYLOAD_BYTES_MAX >= EVENT_BYTES_MAX),
    ("a chunk is smaller than a request", CODE_CHUNK_BYTES_MAX < PAYLOAD_BYTES_MAX),
    ("a package unpacks to more than it is", CODE_ZIPPED_BYTES_MAX < CODE_UNZIPPED_BYTES_MAX),
    ("an environment fits into a stored value with room to spare", ENVIRONMENT_BYTES_MAX * 16 <= STORE_VALUE_BYTES_MAX),
    ("a function's list of versions fits into a stored value", VERSIONS_PER_FUNCTION_MAX * 64 <= STORE_VALUE_BYTES_MAX),
    ("reservations leave something", UNRESERVED_CONCURRENCY_MIN_DEFAULT < CONCURRENCY_DEFAULT),
    ("a name fits into a reference", FUNCTION_NAME_CHARS_MAX < FUNCTION_REFERENCE_CHARS_MAX),
)
