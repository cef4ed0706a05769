"""The other commands on a fake service: what they print, plain and as JSON, and where they look for the service."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
import time

import msgpack
import pytest

from scheduler.cli.app import COMMANDS, cli
from scheduler.cli.deploy import find_handler
from scheduler.cli.text import age, microseconds, size
from tests.client.fake_service import ACCOUNT, DESCRIPTION, STATS, Refusal


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "greet"
    folder.mkdir()
    (folder / "app.py").write_text("def handler(event, context):\n    return event\n")
    return folder


# -- deploy


def test_deploy_a_new_function(scheduler, service, source):
    ran = scheduler("deploy", str(source), "--memory", "256", "--timeout", "9", "--env", "A=1", "--env", "B=x=y", "--publish")
    assert ran.code == 0
    assert ran.out.startswith("created greet (revision 1, published as version 1)\n")
    assert "next: scheduler invoke greet '{}'" in ran.out
    request = next(frame[3][0] for frame in service.requests if frame[2] == "functions.deploy")
    assert {key: value for key, value in request.items() if not key.startswith("code")} == {
        "name": "greet",
        "handler": "app.handler",
        "memory_mb": 256,
        "timeout_s": 9,
        "environment": {"A": "1", "B": "x=y"},
        "publish": True,
    }
    assert request["code_kind"] == "zip"


def test_deploy_again_says_what_changed(scheduler, service, source):
    scheduler("deploy", str(source), "--name", "hello", "--handler", "app.handler")
    again = scheduler("deploy", str(source), "--name", "hello", "--memory", "512", "--reserved-concurrency", "4")
    assert again.out.startswith("updated hello (revision 5)\n")
    assert "memory" in again.out
    assert "128 MB → 512 MB" in again.out
    assert "shared → 4 reserved" in again.out
    assert "4 reserved → shared" in scheduler("deploy", str(source), "--name", "hello", "--reserved-concurrency", "none").out
    secret = scheduler("deploy", str(source), "--name", "hello", "--env", "TOKEN=s3cret", "--env", "GREETING=hi").out
    assert "environment  +TOKEN, GREETING changed" in secret
    assert "s3cret" not in secret
    assert "timeout" not in again.out
    same = scheduler("deploy", str(source), "--name", "hello")
    assert "nothing changed" in same.out
    request = [frame[3][0] for frame in service.requests if frame[2] == "functions.deploy"][-1]
    assert "handler" not in request  # it stays as it is


def test_deploy_tells_what_it_left_out(scheduler, source):
    (source / "outside").symlink_to("/etc/passwd")
    (source / "__pycache__").mkdir()
    ran = scheduler("deploy", str(source))
    assert ran.err == "left out outside: a link that leads out of the folder\n"


def test_deploy_json_is_the_description(scheduler, source):
    ran = scheduler("deploy", str(source), "--json")
    assert json.loads(ran.out)["handler"] == "app.handler"


def test_deploy_one_file_takes_its_name_and_handler(scheduler, service, tmp_path):
    file = tmp_path / "resize.py"
    file.write_text("def lambda_handler(event, context): ...\n")
    assert scheduler("deploy", str(file)).code == 0
    assert service.functions["resize"]["handler"] == "resize.lambda_handler"
    assert bytes(service.code[service.functions["resize"]["code_sha256"]]) == file.read_bytes()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["no/such/folder"], "does not exist"),
        (["greet", "--env", "NOEQUALS"], "'NOEQUALS' is not KEY=VALUE"),
        (["greet", "--env", "A=1", "--env", "A=2"], "--env A is given twice"),
        (["greet", "--memory", "much"], "--memory"),
        (["greet", "--reserved-concurrency", "-1"], "--reserved-concurrency"),
        (["none.py"], "--handler is needed"),
        (["empty", "--handler", "a.b"], "nothing to deploy"),
        (["text.txt", "--handler", "a.b"], "no .zip and no .py file"),
    ],
)
def test_deploy_refuses_what_is_wrong_before_anything_is_sent(scheduler, service, source, tmp_path, args, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("?")
    (tmp_path / "none.py").write_text("answer = 42\n")
    ran = scheduler("deploy", *args)
    assert ran.code == 2
    assert words in ran.err
    assert "code.put" not in [frame[2] for frame in service.requests]


def test_the_service_s_refusal_names_the_field(scheduler, service, source):
    def refuse(params):
        raise Refusal("BadRequest", "Value 1 at 'memory_mb' failed to satisfy constraint: at least 128")

    service.methods["functions.deploy"] = refuse
    ran = scheduler("deploy", str(source), "--memory", "1")
    assert ran.code == 3
    assert ran.err == "scheduler: BadRequest: Value 1 at 'memory_mb' failed to satisfy constraint: at least 128\n"


def test_find_handler_knows_other_languages(tmp_path):
    (tmp_path / "app.mjs").write_text("export const handler = async (event) => event;\n")
    assert find_handler(tmp_path) == "app.handler"
    (tmp_path / "app.mjs").unlink()
    (tmp_path / "index.js").write_text("exports.handler = async () => 1;\n")
    assert find_handler(tmp_path) == "index.handler"
    (tmp_path / "index.js").write_text("exports.handlers = 1;\n")
    with pytest.raises(Exception, match="--handler is needed"):
        find_handler(tmp_path)
    (tmp_path / "bootstrap").write_text("#!/bin/sh\n")
    assert find_handler(tmp_path) == "bootstrap"


def test_find_handler_wants_exactly_one(tmp_path):
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "broken.py").write_text("def (")
    (folder / "lambda_function.py").write_text("import os\ndef helper(): ...\ndef lambda_handler(event, context): ...\n")
    assert find_handler(folder) == "lambda_function.lambda_handler"
    (folder / "app.py").write_text("def handler(event, context): ...\ndef main(): ...\n")
    with pytest.raises(Exception, match=r"app\.handler, app\.main, lambda_function\.lambda_handler"):
        find_handler(folder)


# -- list, describe, remove, logs


def test_list_is_a_table_and_json_an_array(scheduler, service):
    service.functions["other"] = {**DESCRIPTION, "name": "other", "tenant": "blue", "state": "Failed"}
    ran = scheduler("list")
    head, *rows = ran.out.splitlines()
    assert head.split() == ["NAME", "HANDLER", "RUNTIME", "MEMORY", "TIMEOUT", "VERSIONS", "TENANT", "CHANGED", "STATE"]
    assert [row.split()[0] for row in rows] == ["hello", "other"]
    listed = [{**function, "environment": {"GREETING": "********"}} for function in service.functions.values()]
    assert json.loads(scheduler("list", "--json").out) == listed
    service.functions.clear()
    empty = scheduler("list")
    assert (empty.out, empty.code) == ("", 0)
    assert "next: scheduler deploy" in empty.err
    assert json.loads(scheduler("list", "--json").out) == []


def test_values_of_an_environment_are_shown_where_they_are_asked_for(scheduler, service):
    service.functions["hello"] = {**DESCRIPTION, "environment": {"GREETING": "planted"}}
    update = ("update", "hello", "--timeout", "5", "--json")
    for asked in (("describe", "hello"), ("describe", "hello", "--json"), ("list", "--json"), update):
        out = scheduler(*asked).out
        assert "GREETING" in out
        assert "planted" not in out
    assert "planted" in scheduler("describe", "hello", "--show-env").out
    assert json.loads(scheduler("describe", "hello", "--show-env", "--json").out)["environment"] == {"GREETING": "planted"}


def test_variables_come_from_a_file_or_stdin_where_nobody_sees_them(scheduler, service, tmp_path):
    path = tmp_path / "prod.env"
    path.write_text("# of production\nA=1\n\nB=x=y\n")
    assert scheduler("update", "hello", "--env", f"@{path}", "--env", "C=@3").code == 0
    assert service.functions["hello"]["environment"] == {"A": "1", "B": "x=y", "C": "@3"}
    assert scheduler("update", "hello", "--env", "@-", stdin="D=4\n").code == 0
    assert service.functions["hello"]["environment"] == {"D": "4"}
    assert "cannot be read" in scheduler("update", "hello", "--env", "@/nowhere").err
    twice = scheduler("update", "hello", "--env", "A=planted", "--env", "A=planted2").err
    assert "--env A is given twice" in twice
    assert "planted" not in twice
    assert "planted-value-is-lo" not in scheduler("update", "hello", "--env", "planted-value-is-long").err


def test_variables_that_look_like_credentials_are_told_and_not_shown(scheduler, tmp_path):
    source = tmp_path / "hello.py"
    source.write_text("def handler(event, context):\n    return event\n")
    ran = scheduler("deploy", str(source), "--env", "DB_PASSWORD=planted-value", "--env", "STAGE=dev")
    assert "DB_PASSWORD looks like a credential" in ran.err
    assert "scheduler secrets put" in ran.err
    assert "planted-value" not in ran.err + ran.out
    assert "STAGE" not in ran.err
    assert "looks like" in scheduler("update", "hello", "--env", "KEY=AKIAABCDEFGHIJKLMNOP").err


def test_describe_shows_events_where_there_are_any(scheduler, service):
    assert "events" not in scheduler("describe", "hello").out
    events = {
        "waiting": 2, "waiting_bytes": 40, "oldest_age_s": 61.2, "accepted": 12, "duplicates": 1, "delivered": 9,
        "retried": {"failed": 3, "not_run": 1}, "dropped": {"retries_exhausted": 1},
    }  # fmt: skip
    service.methods["functions.get"] = lambda params: {**DESCRIPTION, "stats": STATS, "events": events}
    out = scheduler("describe", "hello").out
    assert "2, the oldest for 61 s" in out
    assert "failed 3, not_run 1" in out
    assert "retries_exhausted 1" in out


def test_describe_shows_everything(scheduler, service):
    out = scheduler("describe", "hello").out
    for words in ("app.handler", "128 MB", "GREETING  ********", "ok 10, timeout 2", "concurrency 3", "p99 120 µs", "1 queued"):
        assert words in out
    whole = {**DESCRIPTION, "stats": STATS}
    assert json.loads(scheduler("describe", "hello", "--show-env", "--json").out) == whole
    missing = scheduler("describe", "nobody")
    assert (missing.code, missing.out) == (3, "")
    assert missing.err == "scheduler: NotFound: no function 'nobody'; next: scheduler list\n"


def test_remove_in_a_script_does_not_ask(scheduler, service):
    assert scheduler("remove", "hello").out == "removed hello\n"
    assert service.functions == {}
    assert scheduler("remove", "hello").code == 3


def test_logs(scheduler, service):
    assert scheduler("logs", "hello", "--bytes", "100").out == "START RequestId: 1\nhello\nEND RequestId: 1\n"
    assert service.requests[-1][3][0] == {"name": "hello", "limit_bytes": 100}
    assert json.loads(scheduler("logs", "hello", "--json").out)["cursor"] == 7


@pytest.mark.parametrize(
    ("when", "expected_s"),
    [("90s", 90), ("10m", 600), ("2h", 7200), ("3d", 259_200)],
)
def test_logs_since_an_age(scheduler, service, when, expected_s):
    texts = iter(["one\n", "two\n", ""])
    service.methods["functions.logs"] = lambda params: {"text": next(texts), "cursor": "1:2:3"}
    before = time.time()
    assert scheduler("logs", "hello", "--since", when).out == "one\ntwo\n", "all of it, chunk by chunk"
    requests = [request[3][0] for request in service.requests[-3:]]
    assert {r["since_ms"] for r in requests} == {requests[0]["since_ms"]}
    assert abs(before - expected_s - requests[0]["since_ms"] / 1000) < 5
    assert [r.get("cursor") for r in requests] == [None, "1:2:3", "1:2:3"]


def test_logs_since_a_time(scheduler, service):
    service.methods["functions.logs"] = lambda params: {"text": "", "cursor": "1:2:3"}
    for text in ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00", "2026-01-31T13:00:00+01:00"):
        assert scheduler("logs", "hello", "--since", text).code == 0
        assert service.requests[-1][3][0]["since_ms"] == 1_769_860_800_000
    ran = scheduler("logs", "hello", "--since", "yesterday")
    assert (ran.code, "neither an age" in ran.err) == (2, True)


def test_logs_filter_keeps_whole_lines_however_the_pieces_are_cut(scheduler, service):
    texts = iter(["INFO a\nERR", "OR b\nINFO c\nERROR", " d", ""])
    service.methods["functions.logs"] = lambda params: {"text": next(texts), "cursor": "1:2:3"}
    assert scheduler("logs", "hello", "--since", "1h", "--filter", "ERROR").out == "ERROR b\nERROR d\n"


def test_logs_follow_prints_what_comes_until_interrupted(service):
    texts = iter(["one\n", "", "two\n"])
    ended = threading.Event()

    def logs(params):
        text = next(texts, None)
        if text is None:
            child.send_signal(signal.SIGINT)
            ended.wait(10)
        return {"text": text or "", "cursor": "1:2"}

    service.methods["functions.logs"] = logs
    command = [sys.executable, "-m", "scheduler", "--socket", service.address, "logs", "hello", "-f"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = child.communicate(timeout=20)
    ended.set()
    assert (out, err, child.returncode) == (b"one\ntwo\n", b"", 0)


def test_an_interrupted_call_is_given_up_and_sent_once(service):
    def interrupted(sock):
        unpacker = msgpack.Unpacker()
        while data := sock.recv(65536):
            unpacker.feed(data)
            for frame in unpacker:
                service.note(frame)
                if frame[0] == 0:
                    child.send_signal(signal.SIGINT)
        service.arrived.put("closed")

    service.serve = interrupted
    command = [sys.executable, "-m", "scheduler", "--socket", service.address, "invoke", "hello"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE)
    _, err = child.communicate(timeout=20)
    assert (child.returncode, err) == (130, b"\n")
    assert service.arrived.get(timeout=10)[2] == "invoke"
    assert service.arrived.get(timeout=10) in ([2, "cancel", [1]], "closed")


# -- top, bench


def test_top_once(scheduler, service):
    ran = scheduler("top", "--once", "--interval", "0.05")
    assert ran.code == 0
    assert "1 of 1,000" in ran.out
    assert "concurrency 3" in ran.out
    row = next(line for line in ran.out.splitlines() if line.startswith("hello"))
    assert row.split()[:4] == ["hello", "0", "1", "1"]


def test_top_rates_come_from_two_samples(scheduler, service):
    asked = []

    def stats(params):
        asked.append(1)
        function = {**STATS, "invocations": 1000 * len(asked), "throttled": {"rate": 10 * len(asked)}}
        return {"functions": [function], "uptime_s": 1, "version": "0"}

    service.methods["stats"] = stats
    frame = json.loads(scheduler("top", "--once", "--json", "--interval", "0.05").out)
    assert frame["functions"][0]["rate"] == pytest.approx(1000 / frame["seconds"], rel=0.05)
    assert frame["functions"][0]["throttle_rate"] == pytest.approx(10 / frame["seconds"], rel=0.05)
    assert frame["accounts"] == [ACCOUNT]


@pytest.mark.parametrize("height", [12, 24, 40])
def test_top_fits_into_the_terminal(height):
    from rich.console import Console

    from scheduler.cli.top import Frame, draw
    from scheduler.client.model import Account, ServiceStats

    functions = [{**STATS, "name": f"f{number}"} for number in range(100)]
    stats = ServiceStats.from_map({"functions": functions, "uptime_s": 100_000, "version": "0"})
    accounts = tuple(Account.from_map({**ACCOUNT, "name": f"a{number}"}) for number in range(50))
    console = Console(width=80, height=height, record=True, file=io.StringIO())
    console.print(draw(Frame.between(stats, stats, accounts, 1.0), height=height))
    lines = console.export_text().splitlines()
    assert len(lines) <= height
    assert sum("… and" in line for line in lines) == 2
    assert any(line.startswith("f0 ") for line in lines)


def test_top_orders_accounts_as_a_tree(scheduler, service):
    def account(name, parent):
        return {**ACCOUNT, "name": name, "parent": parent}

    tree = [account("f1", "t1"), account("t1", "node"), account("node", None), account("f2", "t2"), account("t2", "node")]
    service.methods["accounts"] = lambda params: {"accounts": tree}
    out = scheduler("top", "--once", "--interval", "0.05").out.splitlines()
    names = [line.split()[0] for line in out if line.lstrip().split(" ")[0] in ("node", "t1", "f1", "t2", "f2")]
    assert names == ["node", "t1", "f1", "t2", "f2"]


def test_bench_closed_loop(scheduler, service):
    ran = scheduler("bench", "hello", "-n", "4", "--calls", "200", "--json")
    found = json.loads(ran.out)
    assert (found["calls"], found["ok"], found["errors"]) == (200, 200, {})
    assert found["latency_us"]["p50"] <= found["latency_us"]["p99"] <= found["latency_us"]["max"]
    assert sum(row["count"] for row in found["histogram"]) == 200
    assert len(service.requests) == 201  # and the one before that is not measured


def test_bench_open_loop_and_text(scheduler, service):
    ran = scheduler("bench", "hello", "--rate", "2000", "--calls", "100", "--payload", '{"a": 1}')
    assert ran.code == 0
    assert "open loop, 2,000 calls due per second" in ran.out
    assert "answered  100" in ran.out
    assert "p99.9" in ran.out
    assert "make bench" in ran.err
    assert {frame[3][1] for frame in service.requests} == {b'{"a": 1}'}


def test_bench_counts_throttles_by_reason(scheduler, service):
    calls = []

    def every_other(params):
        calls.append(1)
        if len(calls) % 2 == 0:
            raise Refusal("Throttled", "full", account="function:hello", resource="concurrency")
        return [None, None]

    service.methods["invoke"] = every_other
    found = json.loads(scheduler("bench", "hello", "-n", "1", "--calls", "100", "--json").out)
    assert found["throttles"] == {"function:hello concurrency": 50}
    assert (found["ok"], found["errors"]) == (50, {"Throttled": 50})


def test_bench_of_what_cannot_run_is_the_error_itself(scheduler, service):
    assert scheduler("bench", "nobody").code == 3

    def fail(params):
        raise Refusal("FunctionError", "boom")

    service.methods["invoke"] = fail
    ran = scheduler("bench", "hello")
    assert (ran.code, ran.err) == (1, "scheduler: FunctionError: boom; next: scheduler logs hello\n")


# -- where the service is, help, completion


def test_the_socket_may_stand_before_or_after_or_in_the_environment(scheduler, service, monkeypatch):
    assert scheduler("list", socket=service.address).code == 0
    assert scheduler("list", "--socket", service.address, socket=None).code == 0
    assert scheduler("list", "--socket", service.address, socket="/nowhere").code == 0  # the nearer one wins
    monkeypatch.setenv("SCHEDULER_SOCKET", service.address)
    assert scheduler("list", socket=None).code == 0


def test_the_usual_places_are_searched(scheduler, service, tmp_path):
    missing = scheduler("list", socket=None)
    assert (missing.code, missing.out) == (3, "")
    assert missing.err.count("\n") == 1
    assert f"looked for {tmp_path}/state/scheduler.sock" in missing.err
    (tmp_path / "runtime" / "scheduler").mkdir(parents=True)
    (tmp_path / "runtime" / "scheduler" / "scheduler.sock").symlink_to(service.address)
    assert scheduler("list", socket=None).code == 0


def test_a_service_that_is_not_there_is_one_line_and_exit_3(scheduler, tmp_path):
    ran = scheduler("list", socket=str(tmp_path / "gone"))
    assert ran.code == 3
    assert ran.err.count("\n") == 1
    assert "cannot connect to" in ran.err
    assert "next: is it running? scheduler serve --state-dir state" in ran.err
    assert scheduler("list", socket="tcp://nowhere").code == 2


def test_json_may_stand_before_or_after(scheduler):
    assert json.loads(scheduler("--json", "list").out) == json.loads(scheduler("list", "--json").out)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_a_manual_with_examples(scheduler, name):
    ran = scheduler(name, "-h", socket=None)
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: scheduler {name}")
    assert "Examples:" in ran.out
    command = cli.get_command(None, name)
    assert command.short_help == COMMANDS[name][1]
    for _, line in command.examples:
        assert "scheduler" in line


def test_help_lists_every_command_and_the_exit_codes(scheduler):
    out = scheduler("-h", socket=None).out
    for name, (_, text) in COMMANDS.items():
        assert name in out
        assert text in out
    for line in ("0  done", "1  the function failed", "2  the command line is wrong", "3  the service refused"):
        assert line in out


def test_a_mistyped_command_is_guessed(scheduler):
    ran = scheduler("decribe")
    assert ran.code == 2
    assert "Did you mean 'describe'?" in ran.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(scheduler, shell):
    assert "_SCHEDULER_COMPLETE" in scheduler("completion", shell, socket=None).out


@pytest.mark.slow
def test_names_of_functions_are_completed_live(process, service):
    service.functions["help-desk"] = {**DESCRIPTION, "name": "help-desk"}
    env = {"_SCHEDULER_COMPLETE": "bash_complete", "COMP_WORDS": "scheduler invoke he", "COMP_CWORD": "2"}
    assert process(env=env).out.split() == ["plain,hello", "plain,help-desk"]
    silent = process(env={**env, "SCHEDULER_SOCKET": "/nowhere"})
    assert (silent.out.strip(), silent.err) == ("", "")


# -- as a real process


@pytest.mark.slow
def test_exit_codes_and_streams_of_a_real_process(process, service):
    assert process("invoke", "hello", "-", stdin=b"[1]") .out == "[1]\n"  # fmt: skip
    assert process("invoke", "nobody").code == 3
    assert process("invoke").code == 2

    def fail(params):
        raise Refusal("Timeout", "Task timed out after 3.00 seconds")

    service.methods["invoke"] = fail
    ran = process("invoke", "hello")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("scheduler: Timeout: Task timed out after 3.00 seconds; next: ")


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(service):
    service.functions.update({f"f{i}": {**DESCRIPTION, "name": f"f{i}" * 10} for i in range(3000)})
    command = f"{sys.executable} -m scheduler --socket {service.address} list --json | head -c 10; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=30, check=False, text=True)
    assert done.stderr == ""
    assert done.stdout.endswith("0\n")


def test_numbers_for_humans():
    assert [microseconds(value) for value in (0, 8.249, 41.25, 120, 999.6, 1500, 59_999, 3e6)] == [
        "0.00 µs", "8.25 µs", "41.2 µs", "120 µs", "1.00 ms", "1.50 ms", "60.0 ms", "3.00 s",
    ]  # fmt: skip
    assert [size(value) for value in (0, 9_999, 20_480, 50 * 1024 * 1024)] == ["0 B", "9,999 B", "20 KB", "50.0 MB"]
    assert age("no date") == "no date"
    assert age("2020-01-01T00:00:00Z").endswith(" d ago")
