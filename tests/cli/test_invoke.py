"""`scheduler invoke`: what goes to stdout and what beside it, exit codes, payloads, reports."""

from __future__ import annotations

import json
import re

import pytest

from scheduler.client.model import Report
from scheduler.errors import BY_TYPE
from tests.client.fake_service import REPORT, Refusal


def test_the_answer_alone_is_on_stdout(scheduler, service):
    ran = scheduler("invoke", "hello", '{"a":  1}')
    assert (ran.code, ran.out, ran.err) == (0, '{"a":  1}\n', "")
    assert service.requests[-1][3] == ["hello", b'{"a":  1}']


def test_without_a_payload_the_event_is_an_empty_object(scheduler, service):
    assert scheduler("invoke", "hello").code == 0
    assert service.requests[-1][3][1] == b"{}"


def test_stdin_and_file_are_passed_byte_for_byte(scheduler, service, tmp_path):
    text = ' {"text": "ü"}\n'
    assert scheduler("invoke", "hello", "-", stdin=text).out == text
    (tmp_path / "event.json").write_text(text)
    assert scheduler("invoke", "hello", "@event.json").out == text
    assert [frame[3][1] for frame in service.requests] == [text.encode()] * 2


@pytest.mark.parametrize(
    ("payload", "words", "caret"),
    [
        ("{a: 1}", "double quotes", "  {a: 1}\n   ^"),
        ("{'a': 1}", "JSON needs double quotes", "  {'a': 1}\n   ^"),
        ("hello", "Did the shell take the quotes away?", "  hello\n  ^"),
        ('{"a": 1,\n "b": }', "expecting value", '  line 2:  "b": }\n                ^'),
        ('{"a": 1} x', "extra data", '  {"a": 1} x\n           ^'),
        ("", "the payload is empty", ""),
        ("[NaN]", "NaN has no form in JSON", ""),
        ("[" * 100_000, "nested too deep", ""),
        ('["' + "x" * 500 + '", oops]', "expecting value", ""),
    ],
)
def test_a_payload_that_is_no_json_is_shown_with_a_caret(scheduler, service, payload, words, caret):
    ran = scheduler("invoke", "hello", payload)
    assert ran.code == 2
    assert words.lower() in ran.err.lower()
    assert caret in ran.err
    assert max(map(len, ran.err.splitlines())) <= 110
    assert ran.out == ""
    assert service.requests == []  # nothing was sent


def test_the_caret_of_a_long_line_stands_under_the_mistake(scheduler):
    ran = scheduler("invoke", "hello", '["' + "x" * 500 + '", oops]')
    line, caret = next(
        (line, below) for line, below in zip(ran.err.splitlines(), ran.err.splitlines()[1:], strict=False) if "oops" in line
    )
    assert line[caret.index("^") :].startswith("oops")


def test_payloads_that_cannot_be_read(scheduler, tmp_path):
    (tmp_path / "latin").write_bytes(b'{"a": "\xfc"}')
    (tmp_path / "big").write_bytes(b" " * (6 * 1024 * 1024 + 1))
    for argument, words in (
        ("@none.json", "No such file"),
        ("@.", "Is a directory"),
        ("@latin", "not UTF-8 text: byte 7 is 0xfc"),
        ("@big", "6,291,456 bytes"),
    ):
        ran = scheduler("invoke", "hello", argument)
        assert ran.code == 2
        assert words in ran.err


def test_tail_and_report_stand_beside_the_answer(scheduler):
    ran = scheduler("invoke", "hello", "1", "--tail", "--report")
    assert ran.out == "1\n"
    assert "hello from the log" in ran.err
    assert "cold start (shell)" in ran.err
    assert "request 8f507cfc-1111" in ran.err


def test_the_stages_of_the_report_sum_to_the_total_shown(scheduler, service):
    stages = {"queue_us": 1500.0, "init_us": 20_000.0, "run_us": 3_000.0, "overhead_us": 500.0}
    stages["stages"] = {"wait_us": 20_500.0, "channel_us": 1000.0, "accept_us": 100.0, "return_us": 400.0}
    service.methods["invoke"] = lambda params: [params[1], {**REPORT, **stages}]
    ran = scheduler("invoke", "hello", "1", "--report")
    shown = re.findall(r"^(.+?)\s+([\d.]+) (µs|ms|s)\s+([\d.]+) %$", ran.err, re.MULTILINE)
    in_us = {label: float(value) * {"µs": 1, "ms": 1e3, "s": 1e6}[unit] for label, value, unit, _ in shown}
    finer = {label: in_us.pop(label) for label in list(in_us) if label.startswith("  ")}
    assert list(in_us) == ["queued", "cold start (shell)", "handler", "overhead", "in the service"]
    total_us = in_us.pop("in the service")
    assert sum(in_us.values()) == pytest.approx(total_us, rel=0.01)
    assert list(finer) == ["  waiting for a sandbox", "  on its way there", "  accepting the call", "  taking the answer back"]
    assert sum(finer.values()) == pytest.approx(in_us["queued"] + in_us["overhead"], rel=0.01)
    assert total_us == pytest.approx(Report.from_map({**REPORT, **stages}).total_us, rel=0.01)


def test_json_has_payload_and_report(scheduler):
    ran = scheduler("invoke", "hello", '{"a": 1}', "--json")
    assert json.loads(ran.out) == {"payload": {"a": 1}, "report": REPORT}
    assert ran.err == ""


def test_an_answer_that_is_no_json_stays_text(scheduler, service):
    service.methods["invoke"] = lambda params: [b"\xff not json", None]
    assert json.loads(scheduler("invoke", "hello", "--json").out)["payload"] == "\ufffd not json"


FUNCTION_FAILED = ("FunctionError", "Timeout", "SandboxDied", "InitFailed")


@pytest.mark.parametrize("kind", sorted(BY_TYPE))
def test_each_error_is_one_line_with_its_exit_code(scheduler, service, kind):
    def refuse(params):
        raise Refusal(kind, "first line\nsecond \x1b[31mline", request_id="r-1", account="node", resource="rate")

    service.methods["invoke"] = refuse
    ran = scheduler("invoke", "hello")
    assert ran.code == (1 if kind in FUNCTION_FAILED else 3)
    assert ran.out == ""
    assert ran.err.startswith(f"scheduler: {kind}: first line second ")
    assert ran.err.count("\n") == 1
    assert "\x1b" not in ran.err
    as_json = scheduler("invoke", "hello", "--json")
    assert (as_json.code, as_json.err) == (ran.code, ran.err)
    assert json.loads(as_json.out)["error"]["type"] == kind


@pytest.mark.parametrize(
    ("kind", "fields", "step"),
    [
        ("FunctionError", {}, "next: scheduler logs hello"),
        ("Timeout", {}, "next: deploy it with a longer --timeout"),
        ("SandboxDied", {"reason": "oom"}, "next: deploy it with more --memory"),
        ("SandboxDied", {"reason": "exit"}, "next: scheduler logs hello"),
        ("NotFound", {}, "next: scheduler list"),
        ("Throttled", {"account": "node", "resource": "concurrency", "retry_after_ms": 9}, "retry after 9 ms"),
        ("Unauthorized", {}, "--token-file"),
    ],
)  # fmt: skip
def test_the_line_names_the_next_step(scheduler, service, kind, fields, step):
    def refuse(params):
        raise Refusal(kind, "why", **fields)

    service.methods["invoke"] = refuse
    assert step in scheduler("invoke", "hello:3").err


def test_the_line_says_what_the_function_said(scheduler, service):
    body = {"errorType": "ValueError", "errorMessage": "no\nsuch thing", "stackTrace": []}

    def refuse(params):
        raise Refusal("FunctionError", "the function raised an error; payload has it", request_id="r", payload=json.dumps(body))

    service.methods["invoke"] = refuse
    line = scheduler("invoke", "hello").err
    assert line == "scheduler: FunctionError: ValueError: no such thing (request r); next: scheduler logs hello\n"


def test_a_function_s_own_error_object_is_the_answer(scheduler, service):
    body = {"errorMessage": "no", "errorType": "ValueError", "stackTrace": ["  File ...\n"]}

    def refuse(params):
        raise Refusal(
            "FunctionError", "ValueError: no", payload=json.dumps(body).encode(), report={**REPORT, "log_tail": "its log"}
        )

    service.methods["invoke"] = refuse
    ran = scheduler("invoke", "hello", "--tail")
    assert ran.code == 1
    assert json.loads(ran.out) == body
    assert "its log" in ran.err
    assert json.loads(scheduler("invoke", "hello", "--json").out)["error"]["payload"] == body


def test_options_reach_the_service(scheduler, service):
    args = ["--deadline-ms", "50", "--client-context", '{"c": 1}', "--trace", "Root=1-2", "--type", "dryrun"]
    service.methods["invoke"] = lambda params: [None, None]
    ran = scheduler("invoke", "hello", *args)
    assert (ran.code, ran.out) == (0, "")
    expected = {"deadline_ms": 50, "client_context": b'{"c": 1}', "trace": "Root=1-2", "type": "dryrun"}
    assert service.requests[-1][3][2] == expected


def test_an_event_prints_its_request_id(scheduler, service):
    service.methods["invoke"] = lambda params: [None, {"request_id": "r-9"}]
    assert scheduler("invoke", "hello", "--type", "event", "--idempotency-key", "k").out == "r-9\n"


@pytest.mark.parametrize(
    "args",
    [
        ["invoke"],
        ["invoke", "hello", "1", "2"],
        ["invoke", "hello", "--deadline-ms", "0"],
        ["invoke", "hello", "--type", "async"],
        ["invoke", "hello", "--client-context", "{"],
        ["invoke", "hello", "--idempotency-key", "k"],
        ["invok", "hello"],
        ["invoke", "hello", "--sockets", "x"],
    ],
)
def test_wrong_usage_is_exit_2_and_asks_nobody(scheduler, service, args):
    ran = scheduler(*args)
    assert ran.code == 2
    assert ran.err
    assert service.requests == []
