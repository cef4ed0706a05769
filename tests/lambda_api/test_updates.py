"""Changes of one function at the same time, and waiting for them, by boto3."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from botocore.exceptions import ClientError

from tests.e2e.serving import RUNTIME, wait_until
from tests.lambda_api.client import ROLE, connect, package, refusal, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ARN = "arn:aws:lambda:local:000000000000:function:"
SLOW_START = "import time\ntime.sleep(1.0)\nhandler = lambda event, context: 'new'"
NO_UPDATE = "The operation cannot be performed at this time. An update is in progress for resource: "


@pytest.fixture
def updating(aws, served, function):
    """A function whose update is under way: it has a sandbox, and that of the new code takes its time to start."""
    run(aws, function)
    other = connect(served.http_port)
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(other.update_function_code, FunctionName=function, ZipFile=package(SLOW_START), Publish=True)
        wait_until(lambda: _status(aws, function) == "InProgress", 10, "the update is seen")
        yield function, going
        going.result()
    other.close()


def _status(aws, function):
    return aws.get_function_configuration(FunctionName=function)["LastUpdateStatus"]


def test_one_update_at_a_time(aws, updating):
    function, going = updating
    for call, more in (
        (aws.update_function_code, {"ZipFile": package()}),
        (aws.update_function_configuration, {"Timeout": 9}),
        (aws.publish_version, {}),
    ):
        name, status, response = refusal(call, FunctionName=function, **more)
        assert (name, status) == ("ResourceConflictException", 409)
        assert response["Error"]["Message"] == NO_UPDATE + ARN + function
    # Old code serves meanwhile, and the waiters wait.
    assert b'"version": "$LATEST"' in run(aws, function)["Payload"]
    assert not going.done()
    aws.get_waiter("function_updated_v2").wait(FunctionName=function)
    made = going.result()
    assert _status(aws, function) == "Successful"
    assert run(aws, function)["Payload"] == b'"new"'
    assert (made["Version"], made["LastUpdateStatus"]) == ("1", "Successful")
    aws.get_waiter("published_version_active").wait(FunctionName=function, Qualifier="1")
    assert aws.update_function_configuration(FunctionName=function, Timeout=9)["Timeout"] == 9


def test_a_function_under_update_may_be_read_listed_and_deleted(aws, updating):
    function, going = updating
    assert function in [f["FunctionName"] for f in aws.list_functions()["Functions"]]
    aws.delete_function(FunctionName=function)  # after the update's end: changes wait for each other
    assert going.result()["FunctionName"] == function
    assert refusal(aws.get_function, FunctionName=function)[0] == "ResourceNotFoundException"


@pytest.mark.parametrize("publish", [False, True])
def test_of_many_who_create_one_name_one_does(aws, served, request, publish):
    name = f"raced-{publish}"
    clients = [connect(served.http_port) for _ in range(6)]
    start = threading.Barrier(len(clients))

    def create(client):
        start.wait()
        try:
            client.create_function(
                FunctionName=name,
                Runtime=RUNTIME,
                Role=ROLE,
                Handler="app.handler",
                Code={"ZipFile": package()},
                Publish=publish,
            )
        except ClientError as error:
            return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        return "made"

    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(create, clients))
    assert sorted(map(str, answers)) == sorted(map(str, ["made"] + [("ResourceConflictException", 409)] * 5))
    aws.get_waiter("function_active_v2").wait(FunctionName=name)
    aws.get_waiter("function_exists").wait(FunctionName=name)
    assert len(aws.list_versions_by_function(FunctionName=name)["Versions"]) == 1 + publish
    aws.delete_function(FunctionName=name)
    for client in clients:
        client.close()


def test_a_revision_is_good_for_one_change(aws, served, function):
    """Of several who read the same revision one changes the function, whoever comes first; nobody's change is lost."""
    clients = [connect(served.http_port) for _ in range(6)]
    revision = aws.get_function_configuration(FunctionName=function)["RevisionId"]
    start = threading.Barrier(len(clients))

    def change(number):
        start.wait()
        try:
            clients[number].update_function_configuration(
                FunctionName=function, RevisionId=revision, Description=f"by {number}"
            )
        except ClientError as error:
            return error.response["Error"]["Code"]
        return number

    with ThreadPoolExecutor(len(clients)) as pool:
        answers = list(pool.map(change, range(len(clients))))
    winners = [answer for answer in answers if isinstance(answer, int)]
    assert len(winners) == 1
    assert {a for a in answers if isinstance(a, str)} <= {"PreconditionFailedException", "ResourceConflictException"}
    after = aws.get_function_configuration(FunctionName=function)
    assert after["Description"] == f"by {winners[0]}"
    stale = refusal(aws.update_function_code, FunctionName=function, ZipFile=package(), RevisionId=revision)
    assert stale[:2] == ("PreconditionFailedException", 412)
    assert stale[2]["Error"]["Message"].startswith("The Revision Id provided does not match the latest Revision Id.")
    assert refusal(aws.publish_version, FunctionName=function, RevisionId=revision)[1] == 412
    assert aws.publish_version(FunctionName=function, RevisionId=after["RevisionId"])["Version"] == "1"
    for client in clients:
        client.close()
