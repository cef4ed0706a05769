"""Aliases, tags, policies, URLs and settings of events, by boto3."""

from __future__ import annotations

import json

import pytest

from tests.e2e.serving import RUNTIME, Served, public_directory, wait_until
from tests.lambda_api.client import ROLE, connect, package, refusal, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ARN = "arn:aws:lambda:local:000000000000:function:"
CALLS = 1000
CHI_SQUARE_999 = 10.83  # one degree of freedom: chance alone gives more once in a thousand runs


@pytest.fixture
def versions(aws, function):
    """A function with versions 1 and 2."""
    aws.publish_version(FunctionName=function)
    aws.update_function_configuration(FunctionName=function, Description="second")
    aws.publish_version(FunctionName=function)
    return function


def test_an_alias_from_creation_to_its_end(aws, versions):
    made = aws.create_alias(FunctionName=versions, Name="live", FunctionVersion="1", Description="now")
    assert (made["AliasArn"], made["FunctionVersion"], made["Description"]) == (f"{ARN}{versions}:live", "1", "now")
    answer = run(aws, f"{versions}:live")
    assert answer["ExecutedVersion"] == "1"
    moved = aws.update_alias(FunctionName=versions, Name="live", FunctionVersion="2", RevisionId=made["RevisionId"])
    assert moved["Description"] == "now"
    assert run(aws, versions, Qualifier="live")["ExecutedVersion"] == "2"
    assert refusal(aws.update_alias, FunctionName=versions, Name="live", RevisionId=made["RevisionId"])[:2] == (
        "PreconditionFailedException",
        412,
    )
    assert aws.get_function(FunctionName=versions, Qualifier="live")["Configuration"]["Version"] == "2"
    assert [a["Name"] for a in aws.list_aliases(FunctionName=versions)["Aliases"]] == ["live"]
    assert aws.list_aliases(FunctionName=versions, FunctionVersion="1")["Aliases"] == []
    assert refusal(aws.delete_function, FunctionName=versions, Qualifier="2")[:2] == ("ResourceConflictException", 409)
    aws.delete_alias(FunctionName=versions, Name="live")
    assert refusal(aws.get_alias, FunctionName=versions, Name="live")[:2] == ("ResourceNotFoundException", 404)
    assert refusal(aws.invoke, FunctionName=f"{versions}:live")[:2] == ("ResourceNotFoundException", 404)
    aws.delete_function(FunctionName=versions, Qualifier="2")


def test_calls_of_a_weighted_alias_are_thrown_for(aws, versions):
    aws.create_alias(
        FunctionName=versions, Name="canary", FunctionVersion="1", RoutingConfig={"AdditionalVersionWeights": {"2": 0.25}}
    )
    seen = {"1": 0, "2": 0}
    for _ in range(CALLS):
        answer = run(aws, f"{versions}:canary")
        assert json.loads(answer["Payload"])["version"] == answer["ExecutedVersion"]
        seen[answer["ExecutedVersion"]] += 1
    expected = {"1": CALLS * 0.75, "2": CALLS * 0.25}
    assert sum((seen[v] - expected[v]) ** 2 / expected[v] for v in seen) < CHI_SQUARE_999, seen
    aws.update_alias(FunctionName=versions, Name="canary", RoutingConfig={"AdditionalVersionWeights": {"2": 1.0}})
    assert {run(aws, f"{versions}:canary")["ExecutedVersion"] for _ in range(20)} == {"2"}
    aws.update_alias(FunctionName=versions, Name="canary", RoutingConfig={"AdditionalVersionWeights": {}})
    assert {run(aws, f"{versions}:canary")["ExecutedVersion"] for _ in range(20)} == {"1"}


@pytest.mark.parametrize(
    ("version", "weights", "error"),
    [
        ("9", {}, "ResourceNotFoundException"),
        ("1", {"2": 0.1, "3": 0.1}, "ResourceNotFoundException"),
        ("1", {"2": 1.5}, "ValidationException"),
        ("1", {"1": 0.5}, "InvalidParameterValueException"),
        ("$LATEST", {"1": 0.5}, "InvalidParameterValueException"),
        ("x", {}, "ValidationException"),
    ],
)
def test_what_an_alias_cannot_be(aws, versions, version, weights, error):
    routing = {"AdditionalVersionWeights": weights}
    given = {"FunctionName": versions, "Name": "wrong", "FunctionVersion": version, "RoutingConfig": routing}
    assert refusal(aws.create_alias, **given)[0] == error


def test_an_alias_is_made_once(aws, versions):
    given = {"FunctionName": versions, "Name": "one", "FunctionVersion": "1"}
    aws.create_alias(**given)
    assert refusal(aws.create_alias, **given)[:2] == ("ResourceConflictException", 409)


def test_tags(aws, function):
    aws.tag_resource(Resource=ARN + function, Tags={"team": "blue", "stage": "test"})
    aws.untag_resource(Resource=ARN + function, TagKeys=["team", "absent"])
    assert aws.list_tags(Resource=ARN + function)["Tags"] == {"stage": "test"}
    assert aws.get_function(FunctionName=function)["Tags"] == {"stage": "test"}
    assert refusal(aws.tag_resource, Resource=ARN + function, Tags={"aws:x": "y"})[0] == "InvalidParameterValueException"
    many = {f"k{n}": "v" for n in range(50)}
    assert refusal(aws.tag_resource, Resource=ARN + function, Tags=many)[0] == "InvalidParameterValueException"
    assert refusal(aws.list_tags, Resource=ARN + "absent")[0] == "ResourceNotFoundException"


def test_settings_of_events(aws, function):
    assert refusal(aws.get_function_event_invoke_config, FunctionName=function)[0] == "ResourceNotFoundException"
    queue = "arn:aws:sqs:local:000000000000:queue"
    put = aws.put_function_event_invoke_config(
        FunctionName=function, MaximumRetryAttempts=0, DestinationConfig={"OnFailure": {"Destination": queue}}
    )
    assert put["FunctionArn"] == f"{ARN}{function}:$LATEST"
    merged = aws.update_function_event_invoke_config(FunctionName=function, MaximumEventAgeInSeconds=60)
    assert (merged["MaximumRetryAttempts"], merged["MaximumEventAgeInSeconds"]) == (0, 60)
    assert merged["DestinationConfig"]["OnFailure"] == {"Destination": queue}
    replaced = aws.put_function_event_invoke_config(FunctionName=function, MaximumEventAgeInSeconds=90)
    assert "MaximumRetryAttempts" not in replaced
    assert len(aws.list_function_event_invoke_configs(FunctionName=function)["FunctionEventInvokeConfigs"]) == 1
    aws.delete_function_event_invoke_config(FunctionName=function)
    assert refusal(aws.put_function_event_invoke_config, FunctionName=function)[0] == "InvalidParameterValueException"
    too_many = {"FunctionName": function, "MaximumRetryAttempts": 3}
    assert refusal(aws.put_function_event_invoke_config, **too_many)[0] == "ValidationException"


def test_a_functions_url(aws, function):
    cors = {"AllowOrigins": ["*"], "AllowMethods": ["GET"], "MaxAge": 60}
    made = aws.create_function_url_config(FunctionName=function, AuthType="NONE", Cors=cors)
    assert made["FunctionUrl"].startswith("http://")
    again = refusal(aws.create_function_url_config, FunctionName=function, AuthType="NONE")
    assert again[:2] == ("ResourceConflictException", 409)
    got = aws.get_function_url_config(FunctionName=function)
    assert (got["FunctionUrl"], got["Cors"]["AllowOrigins"], got["InvokeMode"]) == (made["FunctionUrl"], ["*"], "BUFFERED")
    changed = aws.update_function_url_config(FunctionName=function, AuthType="AWS_IAM")
    assert (changed["FunctionUrl"], changed["AuthType"]) == (made["FunctionUrl"], "AWS_IAM")
    assert len(aws.list_function_url_configs(FunctionName=function)["FunctionUrlConfigs"]) == 1
    aws.publish_version(FunctionName=function)
    of_a_version = refusal(aws.create_function_url_config, FunctionName=function, Qualifier="1", AuthType="NONE")
    assert of_a_version[0] == "ValidationException"
    aws.delete_function_url_config(FunctionName=function)
    assert refusal(aws.get_function_url_config, FunctionName=function)[:2] == ("ResourceNotFoundException", 404)


def test_a_policy(aws, function):
    given = {"FunctionName": function, "Action": "lambda:InvokeFunction"}
    added = aws.add_permission(
        **given, StatementId="s3", Principal="s3.amazonaws.com", SourceArn="arn:aws:s3:::bucket", SourceAccount="123456789012"
    )
    statement = json.loads(added["Statement"])
    assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
    assert statement["Condition"]["ArnLike"] == {"AWS:SourceArn": "arn:aws:s3:::bucket"}
    assert refusal(aws.add_permission, **given, StatementId="s3", Principal="*")[:2] == ("ResourceConflictException", 409)
    aws.add_permission(**given, StatementId="account", Principal="123456789012")
    policy = aws.get_policy(FunctionName=function)
    assert [s["Sid"] for s in json.loads(policy["Policy"])["Statement"]] == ["s3", "account"]
    stale = refusal(aws.remove_permission, FunctionName=function, StatementId="s3", RevisionId="old")
    assert stale[:2] == ("PreconditionFailedException", 412)
    aws.remove_permission(FunctionName=function, StatementId="s3", RevisionId=policy["RevisionId"])
    aws.remove_permission(FunctionName=function, StatementId="account")
    assert refusal(aws.get_policy, FunctionName=function)[:2] == ("ResourceNotFoundException", 404)


def test_a_policy_has_an_end(aws, function):
    given = {"FunctionName": function, "Action": "lambda:*", "Principal": "*", "EventSourceToken": "x" * 256}

    def fill() -> None:
        for number in range(100):
            aws.add_permission(**given, StatementId=f"n{number}")

    with pytest.raises(aws.exceptions.PolicyLengthExceededException):
        fill()
    kept = json.loads(aws.get_policy(FunctionName=function)["Policy"])["Statement"]
    assert 40 * 256 < len(json.dumps(kept)) < 24 * 1024


def test_what_is_attached_outlives_the_service():
    with public_directory() as directory:
        first = Served(directory / "state", http="127.0.0.1:0", http_auth="none").start()
        aws = connect(first.http_port)
        given = {"FunctionName": "kept", "Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler"}
        aws.create_function(**given, Code={"ZipFile": package()}, Publish=True, Tags={"a": "b"})
        aws.create_alias(FunctionName="kept", Name="live", FunctionVersion="1")
        url = aws.create_function_url_config(FunctionName="kept", Qualifier="live", AuthType="NONE")["FunctionUrl"]
        aws.close()
        first.kill()
        with Served(directory / "state", http="127.0.0.1:0", http_auth="none") as second:
            aws = connect(second.http_port)
            assert aws.get_function(FunctionName="kept")["Tags"] == {"a": "b"}
            assert run(aws, "kept:live")["ExecutedVersion"] == "1"
            again = aws.get_function_url_config(FunctionName="kept", Qualifier="live")["FunctionUrl"]
            assert again.partition(".")[0] == url.partition(".")[0]
            aws.delete_function(FunctionName="kept")
            aws.create_function(**given, Code={"ZipFile": package()})
            assert "Tags" not in aws.get_function(FunctionName="kept")
            assert aws.list_aliases(FunctionName="kept")["Aliases"] == []
            aws.close()


def test_provisioned_concurrency_from_request_to_ready_and_its_rules(aws, versions):
    place = {"FunctionName": versions, "Qualifier": "1"}
    assert refusal(aws.get_provisioned_concurrency_config, **place)[0] == "ProvisionedConcurrencyConfigNotFoundException"
    made = aws.put_provisioned_concurrency_config(**place, ProvisionedConcurrentExecutions=1)
    assert made["RequestedProvisionedConcurrentExecutions"] == 1
    assert made["Status"] in ("IN_PROGRESS", "READY")
    wait_until(lambda: aws.get_provisioned_concurrency_config(**place)["Status"] == "READY", 10, "it is ready")
    held = aws.get_provisioned_concurrency_config(**place)
    assert (held["AllocatedProvisionedConcurrentExecutions"], held["AvailableProvisionedConcurrentExecutions"]) == (1, 1)
    (listed,) = aws.list_provisioned_concurrency_configs(FunctionName=versions)["ProvisionedConcurrencyConfigs"]
    assert listed["FunctionArn"] == f"{ARN}{versions}:1"
    latest = {"FunctionName": versions, "Qualifier": "$LATEST", "ProvisionedConcurrentExecutions": 1}
    assert refusal(aws.put_provisioned_concurrency_config, **latest)[0] == "InvalidParameterValueException"
    aws.create_alias(FunctionName=versions, Name="live", FunctionVersion="1")
    alias = {"FunctionName": versions, "Qualifier": "live", "ProvisionedConcurrentExecutions": 1}
    assert "already Provisioned version" in refusal(aws.put_provisioned_concurrency_config, **alias)[2]["Error"]["Message"]
    aws.put_function_concurrency(FunctionName=versions, ReservedConcurrentExecutions=1)
    over = {**place, "ProvisionedConcurrentExecutions": 2}
    assert (
        "should not be greater than the reservedConcurrent"
        in refusal(aws.put_provisioned_concurrency_config, **over)[2]["Error"]["Message"]
    )
    aws.delete_provisioned_concurrency_config(**place)
    assert aws.list_provisioned_concurrency_configs(FunctionName=versions)["ProvisionedConcurrencyConfigs"] == []
