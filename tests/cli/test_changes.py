"""`update` and `drain`: commands that change what runs."""

from __future__ import annotations

import json

import pytest

from tests.client.fake_service import Refusal


def request(service, method):
    return [frame[3][0] for frame in service.requests if frame[2] == method]


def test_update_sends_what_is_given_and_tells_what_changed(scheduler, service):
    ran = scheduler("update", "hello", "--memory", "512", "--timeout", "30", "--env", "STAGE=prod", "--handler", "app.other")
    assert (ran.code, ran.err) == (0, "")
    assert request(service, "functions.update") == [
        {"name": "hello", "handler": "app.other", "memory_mb": 512, "timeout_s": 30, "environment": {"STAGE": "prod"}}
    ]
    lines = ran.out.splitlines()
    assert lines[0] == "updated hello (revision 3)"
    assert "  memory       128 MB → 512 MB" in lines
    assert "  handler      app.handler → app.other" in lines
    assert "  environment  -GREETING, +STAGE" in lines


def test_update_that_changes_nothing_says_so(scheduler):
    assert "nothing changed" in scheduler("update", "hello", "--memory", "128").out


def test_update_with_nothing_to_change_is_a_mistake(scheduler, service):
    for options in ((), ("--revision-id", "0d0c"), ("--json",)):
        ran = scheduler("update", "hello", *options)
        assert ran.code == 2
        assert "nothing to change: give at least one option" in ran.err
    assert service.requests == []


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (("--no-env",), {"environment": {}}),
        (("--reserved-concurrency", "none"), {"reserved_concurrency": None}),
        (("--reserved-concurrency", "0"), {"reserved_concurrency": 0}),
        (("--description", ""), {"description": ""}),
        (("--queue-timeout", "0", "--weight", "7"), {"queue_timeout_ms": 0, "weight": 7}),
        (("--memory", "256", "--revision-id", "0d0c"), {"memory_mb": 256, "revision_id": "0d0c"}),
    ],
)
def test_update_says_nothing_by_saying_nothing(scheduler, service, given, sent):
    assert scheduler("update", "hello", *given).code == 0
    assert request(service, "functions.update") == [{"name": "hello", **sent}]


def test_update_excludes_what_contradicts_itself(scheduler):
    ran = scheduler("update", "hello", "--env", "A=1", "--no-env")
    assert (ran.code, "exclude each other" in ran.err) == (2, True)


def test_update_at_another_revision_names_the_next_step(scheduler, service):
    def refuse(params):
        raise Refusal("BadRequest", "revision_id: 'x' is not the present one of hello", reason="revision")

    service.methods["functions.update"] = refuse
    ran = scheduler("update", "hello", "--memory", "256", "--revision-id", "x")
    assert ran.code == 3
    assert ran.err.endswith("next: scheduler describe hello tells its revision now\n")


def test_update_in_json_is_the_description(scheduler):
    assert json.loads(scheduler("update", "hello", "--memory", "256", "--json").out)["memory_mb"] == 256


@pytest.mark.parametrize("command", ["update", "describe", "logs", "remove", "invoke"])
def test_a_name_that_is_nearly_right_is_guessed(scheduler, service, command):
    options = ("--memory", "256") if command == "update" else ()

    def missing(params):
        raise Refusal("NotFound", "Function not found: helo")

    for method in ("invoke", "functions.get", "functions.logs", "functions.remove"):
        service.methods[method] = missing
    for given in ("helo", "HELLO"):
        ran = scheduler(command, given, *options)
        assert ran.code == 3
        assert ran.err == "scheduler: NotFound: Function not found: helo; next: did you mean hello? scheduler list\n"
    for given in ("quite-another", "hello:7"):  # the function is there, its version is not
        assert "did you mean" not in scheduler(command, given, *options).err


# ---- drain --------------------------------------------------------------------------------------------------------------


def test_drain_ends_the_service_and_says_how_it_went(scheduler, service):
    ran = scheduler("drain", "--grace-ms", "250")
    assert (ran.code, ran.out) == (0, "drained: every call ended by itself; the service ends\n")
    assert request(service, "drain") == [{"grace_ms": 250}]
    service.methods["drain"] = lambda params: {"drained": False}
    assert "calls that outlived the grace were ended" in scheduler("drain").out
    assert json.loads(scheduler("drain", "--json").out) == {"drained": False}


def test_drain_without_the_right_is_refused(scheduler, service):
    def refuse(params):
        raise Refusal("Unauthorized", "drain: needs the right admin")

    service.methods["drain"] = refuse
    ran = scheduler("drain")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith("scheduler: Unauthorized: drain: needs the right admin; next: ")


def test_drain_bounds_its_grace(scheduler, service):
    assert scheduler("drain", "--grace-ms", "900001").code == 2
    assert service.requests == []


# ---- invoke of other types ----------------------------------------------------------------------------------------------


def test_an_event_gives_its_request_id_and_a_dry_run_one_line(scheduler, service):
    service.methods["invoke"] = lambda params: [None, {"request_id": "8f507cfc"}]
    ran = scheduler("invoke", "hello", "{}", "--type", "event", "--idempotency-key", "k")
    assert (ran.code, ran.out, ran.err) == (0, "8f507cfc\n", "")
    assert service.requests[-1][3] == ["hello", b"{}", {"type": "event", "idempotency_key": "k"}]
    ran = scheduler("invoke", "hello", "--type", "dryrun")
    assert (ran.code, ran.out, ran.err) == (0, "", "hello can be invoked\n")
    ran = scheduler("invoke", "hello", "--type", "event", "--json")
    assert json.loads(ran.out) == {"payload": None, "report": {"request_id": "8f507cfc"}}
    assert service.requests[-1][3][2] == {"type": "event"}


@pytest.mark.parametrize("option", ["--tail", "--report"])
@pytest.mark.parametrize("kind", ["event", "dryrun"])
def test_what_has_not_run_has_no_report(scheduler, service, option, kind):
    ran = scheduler("invoke", "hello", "{}", "--type", kind, option)
    assert (ran.code, f"{option} goes with --type sync alone" in ran.err) == (2, True)
    assert service.requests == []
