"""What a sandbox is told: prepared once for each version, whole and right for each sandbox."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from scheduler.functions.model import CodeKind, CodeRef, FunctionVersion, LayerRef, build
from scheduler.functions.names import LATEST, Identity
from scheduler.orders import OrderBook, make_recipe
from scheduler.sandboxes.declarations import read_declarations
from scheduler.sandboxes.offers import Offer, Offers
from scheduler.sandboxes.runtimes import Runtime
from scheduler.ways import choose

NOW = datetime(2026, 3, 7, 23, 59, tzinfo=UTC)
STREAM_ID = "0123456789abcdef" * 2
MARK = "f" * 32


def offers():
    """As a machine would have them that has these two interpreters."""
    declared = read_declarations()
    python = Runtime("python3.12", "/usr/bin/python3.12", (3, 12, 1), ())
    here = {
        "python3.12": Offer(
            declared["python3.12"],
            python,
            Runtime("python3.12/exec", python.executable, (3, 12, 1), (), "exec"),
            "/site-packages",
        ),
        "nodejs20.x": Offer(declared["nodejs20.x"], None, Runtime("nodejs20.x", "/usr/bin/node", (20, 1, 0), (), "exec")),
        "provided.al2023": Offer(declared["provided.al2023"], None, Runtime("provided.al2023", "", (0, 0, 0), (), "exec")),
    }
    return Offers(here)


def version(number=LATEST, **config):
    made = build({"name": "hello", "handler": "app.handler", **config}, runtimes=tuple(offers().here))
    code = CodeRef("0" * 64, 10, CodeKind.ZIP, "place")
    return FunctionVersion(
        config=made, version=number, revision=3, revision_id="r", code=code, last_modified="2026-03-07T00:00:00.000+00:00"
    )


def way(of, *, layers_dir=None, task_root="/var/task", code_dir=Path("/code")):
    return choose(of, offers(), code_dir=code_dir, layers_dir=layers_dir, task_root=task_root)


def recipe(of, **more):
    chosen = way(of, **more)
    return make_recipe(of, Identity("local", "0" * 12), way=chosen, code_dir="/code", task_root="/var/task", mark=MARK)


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
        offers(),
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


# ---- programs ----


def variables(start):
    """The runtime's and the extensions' own, of a START of bytes: whatever has a = in it."""
    return [text.decode() for text in start.split(b"\0") if b"=" in text]


def test_python_is_forked_unless_something_needs_a_program(tmp_path):
    assert way(version()).forked
    assert way(version()).shell == "python3.12"
    (tmp_path / "extensions").mkdir()
    assert way(version(), layers_dir=tmp_path).forked, "no extension is there"
    (tmp_path / "extensions" / "notes.txt").write_text("not executable")
    assert way(version(), layers_dir=tmp_path).forked
    (tmp_path / "extensions" / "watcher").write_text("")
    (tmp_path / "extensions" / "watcher").chmod(0o755)
    watched = way(version(), layers_dir=tmp_path)
    assert (watched.shell, watched.extensions) == ("python3.12/exec", ("/opt/extensions/watcher",))
    assert watched.arguments[-1] == "/var/runtime/api_main.py", "our own client"
    wrapped = way(version(environment={"AWS_LAMBDA_EXEC_WRAPPER": "/opt/wrap"}))
    assert (wrapped.shell, wrapped.wrapper) == ("python3.12/exec", "/opt/wrap")


def test_more_extensions_than_lambda_takes_are_a_reason_and_no_recipe(tmp_path):
    (tmp_path / "extensions").mkdir()
    for number in range(11):
        (tmp_path / "extensions" / f"e{number}").write_text("")
        (tmp_path / "extensions" / f"e{number}").chmod(0o755)
    layered = replace(version(), layers=(LayerRef("arn", CodeRef("0" * 64, 10, CodeKind.ZIP, "layer")),))
    known = {3: layered}
    book = OrderBook(
        Identity("local", "0" * 12),
        offers(),
        launch=lambda function, revision: known.get(revision),
        task_dir=lambda ref: Path("/code"),
        merged_dir=lambda codes: tmp_path,
    )
    assert book.recipe(1, 3, lambda code_dir: "/var/task") is None
    assert book.problems[1] == "hello: its layers bring 11 extensions, the limit is 10"
    (tmp_path / "extensions" / "e0").unlink()
    made = book.recipe(1, 3, lambda code_dir: "/var/task")
    assert made.specialisation.ports[0] == 9001
    assert len(made.api.extensions) == 10
    assert 1 not in book.problems
    assert (book.shell(layered), book.forked(layered)) == ("python3.12/exec", False)
    assert (book.shell(version()), book.forked(version())) == ("python3.12", True)
    node = version(runtime="nodejs20.x")
    assert (book.shell(node), book.forked(node)) == ("nodejs20.x", False)


def test_aws_client_for_python():
    chosen = way(version(runtime_client="awslambdaric"))
    assert chosen.programs == ("/usr/bin/python3.12",)
    assert chosen.arguments == ("-m", "awslambdaric", "app.handler")
    search = "/opt/python:/opt/python/lib/python3.12/site-packages:/var/runtimes/awslambdaric"
    assert chosen.environment == {"PYTHONPATH": search}
    made = recipe(version(runtime_client="awslambdaric", environment={"PYTHONPATH": "/var/task/vendor"})).order(NOW, STREAM_ID)
    assert f"PYTHONPATH=/var/task/vendor:{search}" in variables(made.start), "the function's own goes first, and ours stays"
    bare = way(version(runtime_client="awslambdaric"), task_root="/code")
    assert bare.environment["PYTHONPATH"].endswith(":/site-packages"), "without namespaces it is where it is"


def test_a_program_is_told_all_that_lambda_tells_it():
    order = recipe(version("7", runtime="nodejs20.x", environment={"KEY": "value"})).order(NOW, STREAM_ID, provisioned=True)
    told = variables(order.start)
    assert order.runtime == "nodejs20.x"
    assert order.specialisation.ports == (9001,)
    assert (order.api.handler, order.api.account, order.api.extensions) == ("app.handler", "0" * 12, ())
    assert order.api.arn.endswith(":function:hello:7")
    stream = f"AWS_LAMBDA_LOG_STREAM_NAME=2026/03/07/[7]{STREAM_ID}"
    for expected in (
        "KEY=value", "_HANDLER=app.handler", "AWS_LAMBDA_RUNTIME_API=127.0.0.1:9001", stream,
        "AWS_EXECUTION_ENV=AWS_Lambda_nodejs20.x",
        "AWS_LAMBDA_INITIALIZATION_TYPE=provisioned-concurrency", "LAMBDA_TASK_ROOT=/var/task",
    ):  # fmt: skip
        assert expected in told
    assert MARK.encode() not in order.start
    assert "value" not in repr(order)


def test_a_program_of_the_function_s_own():
    chosen = way(version(runtime="provided.al2023"))
    assert chosen.programs == ("/var/task/bootstrap", "/opt/bootstrap")
    order = recipe(version(runtime="provided.al2023")).order(NOW, STREAM_ID)
    assert not any(text.startswith("AWS_EXECUTION_ENV") for text in variables(order.start)), "Lambda sets none"


def test_what_a_started_node_cannot_take_means_another():
    assert not way(version(runtime="nodejs20.x", environment={"KEY": "v"})).afresh
    assert way(version(runtime="nodejs20.x", environment={"NODE_OPTIONS": "--stack-size=900"})).afresh
