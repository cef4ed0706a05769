"""docs/configuration.md, made from a table: `python -m scheduler.lambda_api.configuration > docs/configuration.md`.

Law of this file: rows and their rendering. Each field of a function's configuration is honoured, and the row says by what and
which test shows it, or refused, and the row has the message. A test compares the page with the table, the table with AWS's
service model, and looks whether each test is there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from scheduler.lambda_api.configured import REFUSED

__all__ = ["BESIDE", "FOUND", "OURS", "ROWS", "TABLES", "Row", "render"]


@dataclass(frozen=True, slots=True)
class Row:
    """member: as Lambda's API names it, outer and inner with a dot. key: of a deployment; "" where there is none. how: what it
    does here, and who enforces it. tests: FILE::NAME. A refused one needs neither: its message is the code's own."""

    member: str
    key: str
    how: str
    tests: tuple[str, ...] = ()
    refused: bool = False


def _refused(member: str, *tests: str) -> Row:
    top = member.split(".")[-1] if member.startswith("Code.") else member.split(".")[0]
    return Row(member, "", f"refused: “{top}: {REFUSED[top][1]}”", tests or (_REFUSALS,), refused=True)


_REFUSALS: Final = "tests/lambda_api/test_configured.py::test_what_is_not_honoured_is_refused_by_name"
_TENANCY: Final = "tests/lambda_api/test_tenancy.py::"
_SNAP: Final = "tests/lambda_api/test_snapstart.py::"
_TRACE: Final = "tests/lambda_api/test_tracing.py::"
_LOG: Final = "tests/lambda_api/test_logging.py::"

ROWS: Final[tuple[Row, ...]] = (
    Row("FunctionName", "name", "grammar and 64 characters, by the registry; in any of Lambda's forms",
        ("tests/functions/test_names.py::test_accepted",)),
    Row("Runtime", "runtime", "must be one that this machine offers ([runtimes](runtimes.md)); one that is known but not "
        "installed is refused with what to install",
        ("tests/lambda_api/test_configured.py::test_a_runtime_that_is_not_offered_is_refused",
         "tests/e2e/test_runtimes.py::test_a_runtime_that_is_not_here")),
    Row("Role", "role", "kept and shown: nothing here acts in its name, since there is no IAM",
        ("tests/lambda_api/test_boto3.py::test_a_function_from_creation_to_its_end",)),
    Row("Handler", "handler", "what the runtime imports and calls; 128 characters without blanks",
        ("tests/lambda_api/test_every_operation.py::test_good_and_bad_calls",)),
    Row("Code.ZipFile", "", "the package; 50 MB, 250 MB unpacked",
        ("tests/lambda_api/test_hostile_packages.py::test_the_limit_of_250_mb_unpacked",)),
    Row("Code.S3Bucket", "",
        "refused: “S3Bucket: is not supported here; send the package as ZipFile”", (_REFUSALS,), refused=True),
    Row("Code.S3Key", "", "as S3Bucket", (_REFUSALS,), refused=True),
    Row("Code.S3ObjectVersion", "", "belongs to S3Key, without which it says nothing", (_REFUSALS,), refused=True),
    _refused("Code.S3ObjectStorageMode"),
    _refused("Code.ImageUri"),
    _refused("Code.SourceKMSKeyArn"),
    Row("Description", "description", "kept and shown, of each version; 256 characters",
        ("tests/functions/test_registry.py::test_publish_only_when_changed",)),
    Row("Timeout", "timeout_s", "1 to 900 s, by the core's timer; the sandbox is killed",
        ("tests/e2e/test_errors.py::test_timeout_fires_in_time_and_the_next_call_starts_at_once",)),
    Row("MemorySize", "memory_mb",
        "128 to 10,240 MB, by the memory cgroup; CPU is memory/1,769 MB of a processor, by the CPU cgroup",
        ("tests/e2e/test_isolation.py::test_memory_is_bounded",
         "tests/sandboxes/test_cgroups.py::test_cpu_is_bounded_by_memory")),
    Row("EphemeralStorage.Size", "ephemeral_storage_mb", "512 to 10,240 MB of encrypted /tmp, by the volume's size",
        ("tests/lambda_api/test_configured.py::test_memory_and_storage_as_a_sandbox_sees_them",)),
    Row("Publish", "publish",
        "also makes a numbered version", ("tests/lambda_api/test_every_operation.py::test_good_and_bad_calls",)),
    _refused("PublishTo"),
    _refused("VpcConfig"),
    _refused("PackageType"),
    _refused("ImageConfig"),
    Row("DeadLetterConfig.TargetArn", "dead_letter_arn",
        "must be a queue of SQS or a topic of SNS; kept and shown: events that cannot be delivered are dropped and counted, "
        "since there is nothing yet that would take them there",
        ("tests/lambda_api/test_configured.py::test_a_dead_letter_queue_is_kept_and_shown",)),
    Row("Environment.Variables", "environment",
        "4 KB of JSON, no reserved name; sealed at rest, complete in the sandbox; an update replaces all",
        ("tests/functions/test_model.py::test_reserved_names_are_refused",
         "tests/functions/test_model.py::test_environment_is_measured_on_its_json_text",
         "tests/e2e/test_secrets.py::test_an_environment_is_nowhere_in_the_state")),
    Row("KMSKeyArn", "kms_key_arn",
        "wraps the data key of the environment: a key of this service's KMS endpoint, or of the KMS that the settings name",
        ("tests/targets/test_kms.py::test_a_functions_environment_under_a_key_of_its_own",)),
    Row("TracingConfig.Mode", "tracing",
        "Active: calls are segments of a trace, the first of each second and one in twenty others sampled, told in the log and "
        "to `otlp_endpoint`; PassThrough: what callers bring is handed on",
        (_TRACE + "test_an_active_function_makes_a_trace_and_goes_on_with_the_callers",
         _TRACE + "test_sampled_calls_are_exported_with_their_spans")),
    Row("Tags", "", "kept and shown; 50 of them", ("tests/lambda_api/test_attached.py::test_tags",)),
    Row("Layers", "", "unpacked over one another to /opt, in their order; 5 of them, 250 MB with the package",
        ("tests/lambda_api/test_layers.py::test_later_layers_lie_over_earlier_ones",)),
    _refused("FileSystemConfigs"),
    _refused("CodeSigningConfigArn"),
    Row("Architectures", "", "this machine's; another is refused: “Architectures: … cannot run on this machine, which is …”",
        ("tests/lambda_api/test_configured.py::test_another_machines_code_is_refused",)),
    Row("SnapStart.ApplyOn", "snap_start",
        "PublishedVersions: a version is Pending until the image of its initialised process is made, and its sandboxes are "
        "restored from it; not for runtimes of programs, with provisioned concurrency or more than 512 MB of /tmp. None: "
        "images are made of all versions as it suits the service (key `snapshot`)",
        (_SNAP + "test_a_version_is_pending_until_its_image_is_made", _SNAP + "test_what_does_not_go_with_snapstart")),
    Row("LoggingConfig.LogFormat", "log_format",
        "Text or JSON, of the platform's lines (by the engine) and of the runtime's logger",
        (_LOG + "test_json_lines_of_the_platform_and_of_the_function",)),
    Row("LoggingConfig.ApplicationLogLevel", "application_log_level", "what the runtime's logger leaves out; needs JSON",
        (_LOG + "test_levels_leave_out_what_is_below",)),
    Row("LoggingConfig.SystemLogLevel", "system_log_level", "what the engine leaves out of its own lines; needs JSON",
        (_LOG + "test_levels_leave_out_what_is_below",)),
    Row("LoggingConfig.LogGroup", "log_group", "shown, told to the function, and found by `scheduler logs GROUP`",
        (_LOG + "test_functions_of_a_log_group_are_found_by_it",)),
    Row("TenancyConfig.TenantIsolationMode", "tenancy",
        "PER_TENANT, said when the function is made: a sandbox serves one tenant id for life, by a function of its own in the "
        "engine; each call names its tenant id. Not with SnapStart, provisioned concurrency or function URLs",
        (_TENANCY + "test_a_sandbox_serves_one_tenant_id_for_life", _TENANCY + "test_what_does_not_go_with_tenant_isolation")),
    _refused("CapacityProviderConfig"),
    _refused("DurableConfig"),
    _refused("RuntimeConfig"),
    Row("RuntimeManagementConfig.UpdateRuntimeOn", "",
        "of PutRuntimeManagementConfig; Auto: functions run on this machine's interpreter as it is updated. FunctionUpdate and "
        "Manual are refused: there is one of each runtime, and no older one to stay with",
        ("tests/lambda_api/test_configured.py::test_runtimes_are_updated_with_the_machine",)),
    Row("RecursiveLoop", "recursive_loop",
        "of PutFunctionRecursionConfig; Terminate: the engine refuses a call whose chain came back 16 times",
        ("tests/lambda_api/test_recursion.py::test_a_function_that_calls_itself_is_ended",)),
    _refused("AcceleratorConfig"),
)  # fmt: skip

# What other operations say of a function, by the names of their members.
BESIDE: Final[tuple[Row, ...]] = (
    Row("ReservedConcurrentExecutions", "reserved_concurrency",
        "the core admits no more calls of the function, and keeps so many free",
        ("tests/e2e/test_errors.py::test_throttled_by_reserved_concurrency",)),
    Row("ProvisionedConcurrentExecutions", "",
        "so many sandboxes of a version or alias are kept initialised; their init has 130 s",
        ("tests/lambda_api/test_attached.py::test_provisioned_concurrency_from_request_to_ready_and_its_rules",
         "tests/e2e/test_provisioned.py::test_sandboxes_are_there_before_the_first_call_and_further_calls_spill_over")),
    Row("RoutingConfig.AdditionalVersionWeights", "", "the engine throws for each call by an alias",
        ("tests/lambda_api/test_attached.py::test_calls_of_a_weighted_alias_are_thrown_for",)),
    Row("MaximumRetryAttempts, MaximumEventAgeInSeconds", "", "kept and shown; events are tried as Lambda's defaults have it",
        ("tests/lambda_api/test_attached.py::test_settings_of_events",)),
    Row("DestinationConfig", "", "kept and shown; nothing is delivered there yet",
        ("tests/lambda_api/test_attached.py::test_settings_of_events",)),
    Row("AuthType, Cors, InvokeMode", "",
        "of a function URL: who may come, from which pages, and whether answers come in pieces",
        ("tests/lambda_api/test_attached.py::test_a_functions_url", "tests/lambda_api/test_urls.py::test_other_origins",
         "tests/lambda_api/test_urls.py::test_a_response_stream")),
    Row("CompatibleRuntimes, LicenseInfo", "", "of a layer: kept and shown, and lists are filtered by runtime",
        ("tests/lambda_api/test_layers.py::test_versions_of_a_layer",)),
    Row("CompatibleArchitectures", "", "of a layer: this machine's must be among them",
        ("tests/lambda_api/test_layers.py::test_what_layers_cannot_be",)),
    Row("AddPermission's members", "", "statements of a policy; principals are tenants, or everybody",
        ("tests/lambda_api/test_attached.py::test_a_policy", "tests/lambda_api/test_urls.py::test_what_policies_allow")),
    Row("X-Amz-Tenant-Id", "", "of a call: demanded by tenant-isolated functions, refused by all others",
        (_TENANCY + "test_a_tenant_id_is_demanded_and_refused",)),
    Row("X-Amzn-Trace-Id", "", "of a call: handed on, and counted against recursion",
        (_TRACE + "test_a_passive_function_hands_on_what_callers_bring",
         "tests/lambda_api/test_recursion.py::test_a_function_that_calls_itself_is_ended")),
    Row("CapacityProvider, FunctionScalingConfig", "", "refused: managed instances are not part of this service",
        ("tests/lambda_api/test_every_operation.py::test_what_is_not_here_says_so",), refused=True),
    Row("CodeSigningConfig", "", "refused: code signing is not part of this service",
        ("tests/lambda_api/test_every_operation.py::test_what_is_not_here_says_so",), refused=True),
)  # fmt: skip

# Keys of a deployment that Lambda has no member for.
OURS: Final[tuple[Row, ...]] = (
    Row("", "tenant", "whose accounts are charged; for the function's whole life",
        ("tests/functions/test_registry.py::test_a_function_keeps_its_tenant",)),
    Row("", "weight", "share of CPU time among the functions of a tenant, by the core's queues",
        ("tests/sim/test_fairness.py::test_cpu_shares_follow_weights",)),
    Row("", "queue_timeout_ms", "how long a call may wait to start; 0: it is refused at once",
        ("tests/model/test_queue.py::test_a_queue_timeout_of_nothing_refuses_at_once_but_waits_for_a_start",)),
    Row("", "network", "none, or outbound through the machine's router",
        ("tests/e2e/test_network.py::test_a_function_with_a_network",)),
    Row("", "snapshot", "auto: cold starts are restored from an image, where one can be made; off",
        ("tests/e2e/test_snapshots.py::test_off_is_off",)),
    Row("", "freeze", "on: a sandbox is stopped as a whole between calls",
        ("tests/e2e/test_freeze.py::test_a_function_stands_still_between_calls_and_loses_none",)),
    Row("", "runtime_client", "Python's bootstrap: the service's own, or AWS's client of the Runtime API",
        ("tests/service/test_orders.py::test_aws_client_for_python",)),
    Row("", "secrets", "secrets that its sandboxes may ask for, by name",
        ("tests/targets/test_doors.py::test_what_is_granted",)),
    Row("", "keys", "keys that its sandboxes may use", ("tests/targets/test_doors.py::test_what_is_granted",)),
)  # fmt: skip

# What a sandbox finds, as far as it is configuration too.
FOUND: Final[tuple[Row, ...]] = (
    Row("init, on demand", "", "10 s (`init_timeout_ms`); then once more, within the call's own time",
        ("tests/e2e/test_init.py::test_an_init_over_the_limit_may_take_the_call_s_own_time",)),
    Row("init, provisioned or SnapStart", "", "130 s, or the function's timeout where that is longer",
        ("tests/service/test_templates.py::test_an_order_may_allow_a_longer_init",)),
    Row("descriptors, core files, locked memory", "", "1,024; none; 64 KB",
        ("tests/security/test_escape.py::test_own_limits_cannot_be_seen_as_files_to_change",)),
    Row("processes and threads", "", "1,024 together", ("tests/security/test_escape.py::test_fork_bomb_is_bounded_and_ends",)),
    Row("environment", "", "Lambda's reserved variables over the function's own over those that Lambda lets be set",
        ("tests/service/test_orders.py::test_start_is_whole_and_each_has_a_log_stream_of_its_own",
         "tests/service/test_orders.py::test_a_program_is_told_all_that_lambda_tells_it")),
    Row("AWS_LAMBDA_LOG_FORMAT, AWS_LAMBDA_LOG_LEVEL", "", "of LoggingConfig, where the format is JSON",
        (_LOG + "test_json_lines_of_the_platform_and_of_the_function",)),
    Row("AWS_LAMBDA_INITIALIZATION_TYPE", "", "on-demand, provisioned-concurrency or snap-start",
        (_SNAP + "test_a_version_is_pending_until_its_image_is_made",
         "tests/service/test_orders.py::test_one_made_ahead_of_calls_is_told_so_and_no_value_is_changed")),
    Row("AWS_LAMBDA_EXEC_WRAPPER", "", "executed, with the runtime's program behind it",
        ("tests/sandboxes/test_programs.py::test_a_wrapper_is_executed_with_the_program_behind_it",)),
    Row("_X_AMZN_TRACE_ID", "", "see [tracing.md](tracing.md)",
        (_TRACE + "test_an_active_function_makes_a_trace_and_goes_on_with_the_callers",)),
    Row("/opt/extensions", "",
        "started beside the runtime", ("tests/e2e/test_extensions.py::test_an_extension_from_its_registration_to_the_end",)),
)  # fmt: skip

HEAD = """# Configuration of functions, field by field

Each field of Lambda's function configuration is honoured here, or refused by name when a function is made or changed: none is
stored and ignored. *Key* is what `function.toml`, `scheduler deploy` and the clients call it. This page is generated
(`python -m scheduler.lambda_api.configuration`); a test compares it with AWS's service model and looks whether each test
is there.
"""


TABLES: Final = {
    "FunctionConfiguration": ROWS,
    "Beside it": BESIDE,
    "Keys of this service's own": OURS,
    "What a sandbox finds": FOUND,
}


def render() -> str:
    """The page."""
    lines = [HEAD]
    for title, rows in TABLES.items():
        lines += [f"## {title}", "", "| member | key | here | tested by |", "|---|---|---|---|"]
        for row in rows:
            member, key = (f"`{text}`" if text else "" for text in (row.member, row.key))
            tests = "<br>".join(f"`{test}`" for test in row.tests)
            lines.append(f"| {member} | {key} | {row.how} | {tests} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
