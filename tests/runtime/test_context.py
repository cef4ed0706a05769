"""Lambda's context object: every attribute, also for those who look at it sideways."""

from __future__ import annotations

import copy
import pickle
import uuid

import pytest

from scheduler.runtime import context as module
from scheduler.runtime.context import Identity, LambdaContext, client_context
from scheduler.runtime.faults import Fault

IDENTITY = Identity(
    function_name="hello",
    function_version="7",
    invoked_function_arn="arn:hello",
    memory_mb=128,
    timeout_ns=3_000_000_000,
    log_group_name="/aws/lambda/hello",
    log_stream_name="2026/11/24/[7]00",
)
REQUEST_ID = uuid.UUID("8476a536-e9f4-11e8-9739-2dfe598c3fcd")
NOW_NS = 5_000_000_000
EXPECTED = {
    "aws_request_id": str(REQUEST_ID),
    "log_group_name": "/aws/lambda/hello",
    "log_stream_name": "2026/11/24/[7]00",
    "function_name": "hello",
    "memory_limit_in_mb": "128",
    "function_version": "7",
    "invoked_function_arn": "arn:hello",
    "tenant_id": None,
    "client_context": None,
}


@pytest.fixture
def made(monkeypatch):
    """A context whose call began 1.2345 s ago, and what was logged through it."""
    logged: list[bytes] = []
    monkeypatch.setattr(module, "_monotonic_ns", lambda: NOW_NS + 1_234_500_000)
    monkeypatch.setattr(module, "_time_ns", lambda: 1_700_000_000_000_000_000)
    return LambdaContext.bound(IDENTITY, logged.append)(REQUEST_ID.bytes, NOW_NS, None), logged


@pytest.mark.parametrize("name", EXPECTED)
def test_each_attribute_first(made, name):
    assert getattr(made[0], name) == EXPECTED[name]


def test_all_attributes(made):
    context, _ = made
    assert {name: getattr(context, name) for name in EXPECTED} == EXPECTED
    assert context.identity.cognito_identity_id is None
    assert context.identity.cognito_identity_pool_id is None
    assert vars(context).keys() == EXPECTED.keys() | {"identity", "_epoch_deadline_time_in_ms"}
    assert context._epoch_deadline_time_in_ms == 1_700_000_000_000 + 1_765
    assert set(EXPECTED) < set(dir(context))
    assert type(context).__name__ == "LambdaContext"
    assert repr(context) == (
        "LambdaContext([aws_request_id=8476a536-e9f4-11e8-9739-2dfe598c3fcd,log_group_name=/aws/lambda/hello,"
        "log_stream_name=2026/11/24/[7]00,function_name=hello,memory_limit_in_mb=128,function_version=7,"
        "invoked_function_arn=arn:hello,client_context=None,identity=CognitoIdentity([cognito_identity_id=None,"
        "cognito_identity_pool_id=None]),tenant_id=None])"
    )


def test_it_is_an_ordinary_object(made):
    context, _ = made
    context.mine = 1
    context.function_name = "renamed"  # before anything was read
    assert (context.mine, context.function_name, context.function_version) == (1, "renamed", "7")
    assert vars(context)["function_name"] == "renamed"
    assert not hasattr(context, "nothing")
    with pytest.raises(AttributeError, match="'LambdaContext' object has no attribute 'nothing'"):
        context.nothing  # noqa: B018
    del context.mine
    assert not hasattr(context, "mine")
    other = copy.copy(context)
    assert (other.aws_request_id, other.function_name) == (str(REQUEST_ID), "renamed")
    assert pickle.loads(pickle.dumps(context)).get_remaining_time_in_millis() == context.get_remaining_time_in_millis()


def test_remaining_time(made, monkeypatch):
    context, _ = made
    assert context.get_remaining_time_in_millis() == 1765
    monkeypatch.setattr(module, "_monotonic_ns", lambda: NOW_NS + 3_000_000_001)
    assert context.get_remaining_time_in_millis() == 0


def test_log_writes_what_it_is_given(made):
    context, logged = made
    context.log("a\n")
    context.log(7)
    context.log("\ud800")
    assert logged == [b"a\n", b"7", b"\\ud800"]


def test_client_context():
    made = client_context(b'{"custom": {"k": 1}, "env": {"e": 2}, "client": {"installation_id": "i", "app_title": "t"}}')
    assert (made.custom, made.env, made.client.installation_id, made.client.app_title) == ({"k": 1}, {"e": 2}, "i", "t")
    assert made.client.app_package_name is None
    assert client_context(b"null") is None
    assert client_context(b"{}").client is None
    with pytest.raises(Fault, match="Unable to parse Client Context JSON: Expecting value") as caught:
        client_context(b"\xff\xfe".decode("latin-1").encode())
    assert caught.value.error_type == "Runtime.LambdaContextUnmarshalError"
