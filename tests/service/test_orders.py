"""What a sandbox is told: prepared once for each version, whole and right for each sandbox."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from scheduler.functions.model import CodeKind, CodeRef, FunctionVersion, build
from scheduler.functions.names import LATEST, Identity
from scheduler.orders import OrderBook, make_recipe

NOW = datetime(2026, 3, 7, 23, 59, tzinfo=UTC)
STREAM_ID = "0123456789abcdef" * 2
MARK = "f" * 32


def version(number=LATEST, **config):
    made = build({"name": "hello", "handler": "app.handler", **config}, runtimes=("python3.12",))
    code = CodeRef("0" * 64, 10, CodeKind.ZIP, "place")
    return FunctionVersion(
        config=made, version=number, revision=3, revision_id="r", code=code, last_modified="2026-03-07T00:00:00.000+00:00"
    )


def recipe(of):
    return make_recipe(of, Identity("local", "0" * 12), code_dir="/code", task_root="/var/task", mark=MARK)


def test_start_is_whole_and_each_has_a_log_stream_of_its_own():
    made = recipe(version("7", environment={"KEY": 'wert "äöü"\n'}, memory_mb=256, timeout_s=5))
    order = made.order(NOW, STREAM_ID)
    start = json.loads(order.start)
    stream = f"2026/03/07/[7]{STREAM_ID}"
    assert start["log_stream_name"] == start["environment"]["AWS_LAMBDA_LOG_STREAM_NAME"] == stream
    assert start["environment"]["KEY"] == 'wert "äöü"\n'
    assert (start["memory_mb"], start["timeout_ms"], start["function_version"]) == (256, 5000, "7")
    assert start["invoked_function_arn"].endswith(":function:hello:7")
    assert (order.function, order.version, order.runtime) == ("hello", "7", "python3.12")
    assert (order.specialisation.code_dir, order.specialisation.memory_mb) == ("/code", 256)
    assert MARK not in order.start.decode()
    other = json.loads(made.order(NOW, "a" * 32).start)
    assert other.pop("log_stream_name") != start.pop("log_stream_name")
    other["environment"].pop("AWS_LAMBDA_LOG_STREAM_NAME"), start["environment"].pop("AWS_LAMBDA_LOG_STREAM_NAME")
    assert other == start


def test_one_made_ahead_of_calls_is_told_so_and_no_value_is_changed():
    tricky = '"AWS_LAMBDA_INITIALIZATION_TYPE":"on-demand"'
    made = recipe(version(environment={"KEY": tricky}))
    ahead = json.loads(made.order(NOW, STREAM_ID, provisioned=True).start)
    assert ahead["initialization_type"] == "provisioned-concurrency"
    assert ahead["environment"]["AWS_LAMBDA_INITIALIZATION_TYPE"] == "provisioned-concurrency"
    assert ahead["environment"]["KEY"] == tricky
    plain = json.loads(made.order(NOW, STREAM_ID).start)
    assert plain["initialization_type"] == plain["environment"]["AWS_LAMBDA_INITIALIZATION_TYPE"] == "on-demand"


def test_secrets_are_in_no_repr():
    made = recipe(version(environment={"KEY": "hunter2"}))
    assert "hunter2" not in repr(made)
    assert "hunter2" not in repr(made.order(NOW, STREAM_ID))


def test_the_book_makes_a_recipe_anew_when_the_version_changed_and_forgets():
    asked = []
    versions = {(1, 3): version(), (1, 4): version(memory_mb=512)}

    def task_dir(ref):
        asked.append(ref)
        return Path("/code")

    book = OrderBook(
        Identity("local", "0" * 12),
        launch=lambda f, r: versions.get((f, r)),
        task_dir=task_dir,
        merged_dir=lambda codes: Path("/layers"),
    )
    first = book.recipe(1, 3, lambda code_dir: "/var/task")
    assert book.recipe(1, 3, lambda code_dir: "/var/task") is first
    assert len(asked) == 1
    assert book.recipe(1, 4, lambda code_dir: "/var/task").specialisation.memory_mb == 512
    assert book.recipe(1, 3, lambda code_dir: code_dir).task_root == "/code", "another launcher, another place"
    versions[(1, 3)] = version(memory_mb=1024)
    assert book.recipe(1, 3, lambda code_dir: "/var/task").specialisation.memory_mb == 1024
    book.forget(1)
    assert book.recipe(1, 9, lambda code_dir: "/var/task") is None
    made = len(asked)
    book.recipe(1, 3, lambda code_dir: "/var/task")
    assert len(asked) == made + 1
