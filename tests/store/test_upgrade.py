"""A state directory as an earlier release left it, opened by this one.

fixtures/state-before-the-lambda-api.tar.gz is what the last release without the Lambda API wrote: two functions, one of them in
two versions with a reserved concurrency and an environment, their logs, and two events that have failed once and wait.
"""

from __future__ import annotations

import os
import sqlite3
import tarfile
import time
from pathlib import Path

import pytest

from scheduler.store.schema import MIGRATIONS
from tests.e2e.serving import RUNTIME, Served, public_directory, wait_until
from tests.lambda_api.client import ROLE, connect, package, run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

OLD = Path(__file__).parent / "fixtures" / "state-before-the-lambda-api.tar.gz"
OLD_RUNTIME = "python3.11"
runs_old_code = pytest.mark.skipif(RUNTIME != OLD_RUNTIME, reason=f"the fixture's functions are of {OLD_RUNTIME}")
REVISION = "25cadb75-1f0c-44f7-99e9-016b987506ed"


@pytest.fixture(scope="module")
def upgraded():
    """The service on it, and a client."""
    with public_directory() as directory:
        with tarfile.open(OLD) as packed:
            packed.extractall(directory, filter="tar")
        _bring_to_today(directory / "state" / "store" / "scheduler.db")
        with Served(directory / "state", http="127.0.0.1:0", http_auth="none") as served:
            aws = connect(served.http_port)
            yield served, aws
            aws.close()


def _bring_to_today(database: Path) -> None:
    """Events older than six hours are dropped: these are made as old as they were when the service stopped."""
    with sqlite3.connect(database) as db:
        assert [n for (n,) in db.execute("SELECT number FROM schema_migrations")] == [1, 2], "the fixture is the old schema"
        now_ms = int(time.time() * 1000)
        assert db.execute("UPDATE events SET created_ms = ?, due_ms = ?", (now_ms, now_ms)).rowcount == 2
    db.close()
    os.chmod(database, 0o600)


def test_functions_versions_and_their_settings_are_as_they_were(upgraded):
    _, aws = upgraded
    assert [f["FunctionName"] for f in aws.list_functions()["Functions"]] == ["first", "plain"]
    latest = aws.get_function(FunctionName="first")
    shown = latest["Configuration"]
    assert (shown["RevisionId"], shown["Description"], shown["MemorySize"], shown["Timeout"]) == (
        REVISION, "of the first release", 192, 7,
    )  # fmt: skip
    assert shown["Environment"] == {"Variables": {"NAME": "value"}}
    assert latest["Concurrency"] == {"ReservedConcurrentExecutions": 5}
    assert [v["Version"] for v in aws.list_versions_by_function(FunctionName="first")["Versions"]] == ["$LATEST", "1", "2"]


def test_what_it_did_not_know_has_its_default(upgraded):
    _, aws = upgraded
    latest = aws.get_function(FunctionName="first")
    assert "Tags" not in latest
    assert "Layers" not in latest["Configuration"]
    assert latest["Configuration"]["Role"].startswith("arn:aws:iam::000000000000:role/")
    assert latest["Configuration"]["EphemeralStorage"] == {"Size": 512}
    assert aws.list_aliases(FunctionName="first")["Aliases"] == []
    assert aws.list_layers()["Layers"] == []


def test_what_was_logged_is_still_read(upgraded):
    served, _ = upgraded
    with served.client() as client:
        text = client.logs("first").text
    assert "START RequestId: 045979dc-3615-49d6-9011-452aadc93490 Version: $LATEST\nlogged by the first release\n" in text


@runs_old_code
def test_events_that_waited_are_tried_again(upgraded):
    """Both have failed once; so this was the second attempt, and the third is still to come."""
    served, _ = upgraded
    retried = 'scheduler_async_events_retried_total{function="first",reason="failed",tenant="default"} 2'
    wait_until(lambda: retried in served.get("/metrics")[1], 15, "both were tried again")
    with sqlite3.connect(f"file:{served.state_dir}/store/scheduler.db?mode=ro", uri=True) as db:
        waiting = db.execute("SELECT function, json_extract(headers, '$.failures'), deliveries FROM events ORDER BY function")
        assert waiting.fetchall() == [("first", "2", 2), ("first:1", "2", 2)]
    db.close()


@runs_old_code
def test_old_functions_run_and_take_what_is_new(upgraded):
    _, aws = upgraded
    assert run(aws, "first")["Payload"] == b'{"version": "$LATEST"}'
    assert run(aws, "first:1")["Payload"] == b'{"version": "1"}'
    aws.create_alias(FunctionName="first", Name="live", FunctionVersion="2")
    assert run(aws, "first:live")["ExecutedVersion"] == "2"
    layer = aws.publish_layer_version(LayerName="new", Content={"ZipFile": package("x = 1", "python/x.py")})
    aws.update_function_configuration(FunctionName="first", Layers=[layer["LayerVersionArn"]], Role=ROLE)
    assert run(aws, "first")["ExecutedVersion"] == "$LATEST"
    aws.tag_resource(Resource="arn:aws:lambda:local:000000000000:function:first", Tags={"a": "b"})
    assert aws.get_function(FunctionName="first")["Tags"] == {"a": "b"}


def test_the_schema_is_this_releases(upgraded):
    served, _ = upgraded
    with sqlite3.connect(f"file:{served.state_dir}/store/scheduler.db?mode=ro", uri=True) as db:
        done = [number for (number,) in db.execute("SELECT number FROM schema_migrations ORDER BY number")]
    db.close()
    assert done == [migration.number for migration in MIGRATIONS]
