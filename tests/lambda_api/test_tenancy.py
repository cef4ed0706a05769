"""Tenant isolation: each sandbox serves one tenant id for life. One table over both HTTP sides, the protocol and events."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import stat
import zipfile

import pytest

from scheduler.errors import BadRequest
from tests.e2e.serving import RUNTIME, Served, public_directory, wait_until
from tests.lambda_api.client import ROLE, connect, package, refusal, run
from tests.lambda_api.raw_http import Connection, invoke

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

KEEPS = """
import logging, os
seen = []
def handler(event, context):
    seen.append(context.tenant_id)
    logging.getLogger().warning("here")
    if event:
        open("/tmp/" + event, "w").write("x")
    return {"seen": seen, "pid": open("/proc/self/stat").read().split()[0], "files": sorted(os.listdir("/tmp")),
            "arn": context.invoked_function_arn}
"""
CREATE = {"Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler", "Code": {"ZipFile": package(KEEPS)}}
ISOLATED = {"TenancyConfig": {"TenantIsolationMode": "PER_TENANT"}}


@pytest.fixture(scope="module")
def isolated(aws):
    made = aws.create_function(FunctionName="isolated", Publish=True, **CREATE, **ISOLATED)
    assert made["TenancyConfig"] == ISOLATED["TenancyConfig"]
    aws.create_alias(FunctionName="isolated", Name="live", FunctionVersion="1")
    yield "isolated"
    aws.delete_function(FunctionName="isolated")


def ask(served: Served, name, tenant_id, *headers, body=b'""'):
    with Connection(served.http_port) as connection:
        connection.send(invoke(name, body, f"X-Amz-Tenant-Id: {tenant_id}", *headers))
        reply = connection.reply()
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


def test_a_sandbox_serves_one_tenant_id_for_life(served, isolated):
    ids = ("acme", "blue corp", "https://x.y/z:1@=+-")
    # In turn, so that whoever came before has just left its sandbox warm.
    for _ in range(4):
        for tenant_id in ids:
            told = ask(served, isolated, tenant_id, body=json.dumps(tenant_id.encode().hex()).encode())
            assert set(told["seen"]) == {tenant_id}
            assert told["files"] == [tenant_id.encode().hex()], "nor does it find what others left"
    kept = {tenant_id: len(ask(served, isolated, tenant_id)["seen"]) for tenant_id in ids}
    assert all(count >= 5 for count in kept.values()), "its sandbox is kept and used again"


@pytest.mark.parametrize("side", [(), ("TE: trailers",)], ids=["engine", "control plane"])
def test_versions_and_aliases_have_their_own(served, isolated, side):
    told = {name: ask(served, f"isolated{name}", "acme", *side) for name in ("", ":$LATEST", ":1", ":live")}
    for found in told.values():
        assert set(found["seen"]) == {"acme"}
    assert told[""]["arn"].endswith(":function:isolated")
    assert told[":$LATEST"]["arn"].endswith(":function:isolated:$LATEST")
    assert told[":1"]["arn"].endswith(":function:isolated:1")


@pytest.mark.parametrize("side", [(), ("TE: trailers",), ("X-Amz-Invocation-Type: Event",)])
def test_a_tenant_id_is_demanded_and_refused(aws, served, isolated, function, side):
    bad = [
        (isolated, (), "Add a valid tenant ID"),
        (function, ("X-Amz-Tenant-Id: acme",), "isn't enabled for tenant isolation"),
        (isolated, ("X-Amz-Tenant-Id: no|bar",), "X-Amz-Tenant-Id"),
        (isolated, (f"X-Amz-Tenant-Id: {'x' * 257}",), "256"),
    ]
    for name, headers, words in bad:
        with Connection(served.http_port) as connection:
            connection.send(invoke(name, b"{}", *headers, *side))
            reply = connection.reply()
        assert reply.status == 400, (headers, reply.body)
        assert reply.headers["x-amzn-errortype"] in ("InvalidParameterValueException", "ValidationException")
        body = json.loads(reply.body)
        assert words.lower().replace("x-amz-tenant-id", "tenantid") in body["message"].lower(), body


def test_the_protocol_knows_tenant_ids_too(served, isolated):
    with served.raw() as raw:
        for _ in range(2):  # the first is admitted, the second known
            error, (result, _) = raw.call("invoke", isolated, b'""', {"tenant_id": "wire"})
            assert error is None
            assert set(json.loads(result)["seen"]) == {"wire"}
        for options in ({}, {"tenant_id": "no|bar"}):
            error, _ = raw.call("invoke", isolated, b'""', options)
            assert error["type"] == BadRequest.type


def test_an_event_goes_to_its_tenant_ids_sandbox(aws, served, isolated):
    before = len(ask(served, isolated, "later")["seen"])
    answer = aws.invoke(FunctionName=isolated, Payload=b'""', InvocationType="Event", TenantId="later")
    assert answer["StatusCode"] == 202
    wait_until(lambda: len(ask(served, isolated, "later")["seen"]) >= before + 2, 5, "the event has run there")


def test_json_logs_tell_the_tenant_id(aws, served):
    aws.create_function(FunctionName="isolated-json", LoggingConfig={"LogFormat": "JSON"}, **CREATE, **ISOLATED)
    text = base64.b64decode(
        aws.invoke(FunctionName="isolated-json", Payload=b'""', TenantId="acme", LogType="Tail")["LogResult"]
    ).decode()
    start, line, report = map(json.loads, text.splitlines())
    assert [start["record"]["tenantId"], line["tenantId"], report["record"]["tenantId"]] == ["acme"] * 3
    with served.client() as client:
        wait_until(lambda: client.logs("isolated-json").text.count('"tenantId": "acme"') == 1, 5, "the log has it")
        assert client.logs("isolated-json").text.count('"tenantId":"acme"') == 2
    aws.delete_function(FunctionName="isolated-json")


BOOTSTRAP = """#!/bin/sh
api="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime"
while true; do
  curl -sS -D /tmp/head -o /dev/null "$api/invocation/next"
  id=$(tr -d '\\r' </tmp/head | sed -n 's/^[Ll]ambda-[Rr]untime-[Aa]ws-[Rr]equest-[Ii]d: *//p')
  tenant=$(tr -d '\\r' </tmp/head | sed -n 's/^[Ll]ambda-[Rr]untime-[Aa]ws-[Tt]enant-[Ii]d: *//p')
  curl -sS -o /dev/null --data-binary "\\"$tenant\\"" "$api/invocation/$id/response"
done
"""


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_the_runtime_api_tells_the_tenant_id(aws, served):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        info = zipfile.ZipInfo("bootstrap")
        info.create_system, info.external_attr = 3, (stat.S_IFREG | 0o755) << 16
        archive.writestr(info, BOOTSTRAP.replace("\\\\", "\\"))
    code = {"ZipFile": packed.getvalue()}
    made = {**CREATE, "Runtime": "provided.al2023", "Handler": "any", "Code": code, "Timeout": 10, "MemorySize": 512}
    aws.create_function(FunctionName="isolated-shell", **made, **ISOLATED)
    assert [ask(served, "isolated-shell", tenant_id) for tenant_id in ("acme", "blue", "acme")] == ["acme", "blue", "acme"]
    aws.delete_function(FunctionName="isolated-shell")


def test_what_does_not_go_with_tenant_isolation(aws, served, isolated):
    bad = [
        (aws.create_function_url_config, {"FunctionName": isolated, "AuthType": "NONE"}),
        (
            aws.put_provisioned_concurrency_config,
            {"FunctionName": isolated, "Qualifier": "1", "ProvisionedConcurrentExecutions": 1},
        ),
        (aws.update_function_configuration, {"FunctionName": isolated, "SnapStart": {"ApplyOn": "PublishedVersions"}}),
    ]
    for call, members in bad:
        name, status, response = refusal(call, **members)
        assert (name, status) == ("InvalidParameterValueException", 400)
        assert "tenant isolation" in response["Error"]["Message"]
    with served.client() as client, pytest.raises(BadRequest, match="said when it is made"):
        client.update(isolated, tenancy="NONE")


def test_figures_are_the_versions(served, isolated):
    with served.client() as client:
        before = client.get(isolated).stats.invocations
        for tenant_id in ("one", "two", "three"):
            ask(served, isolated, tenant_id)
        assert client.get(isolated).stats.invocations == before + 3
    lines = served.get("/metrics")[1].splitlines()
    samples = [line for line in lines if re.match(r'scheduler_queued_calls\{.*function="isolated"', line)]
    assert len(samples) == len({line.rsplit(" ", 1)[0] for line in samples}) == 2, "one for each version"


def test_a_new_deployment_reaches_every_tenant_id(aws, served):
    aws.create_function(FunctionName="isolated-new", **CREATE, **ISOLATED)
    for tenant_id in ("one", "two"):
        ask(served, "isolated-new", tenant_id)
    aws.update_function_code(FunctionName="isolated-new", ZipFile=package("def handler(event, context):\n    return 'new'\n"))
    assert [ask(served, "isolated-new", tenant_id) for tenant_id in ("one", "two", "three")] == ["new"] * 3
    aws.delete_function(FunctionName="isolated-new")
    with Connection(served.http_port) as connection:
        connection.send(invoke("isolated-new", b"{}", "X-Amz-Tenant-Id: one"))
        assert connection.reply().status == 404


def test_tenant_ids_have_an_end_and_idle_ones_make_room():
    with (
        public_directory() as directory,
        Served(
            directory / "state",
            http="127.0.0.1:0",
            http_auth="none",
            isolated_tenants_max=2,
            idle_timeout_s=1,
            idle_timeout_min_s=1,
            shells_ahead=1,
        ) as service,
    ):
        aws = connect(service.http_port)
        aws.create_function(FunctionName="few", **CREATE, **ISOLATED)
        for tenant_id in ("one", "two"):
            ask(service, "few", tenant_id)
        name, status, response = refusal(aws.invoke, FunctionName="few", Payload=b'""', TenantId="three")
        assert (name, status) == ("TooManyRequestsException", 429)
        refused_by = response["ResponseMetadata"]["HTTPHeaders"]["x-scheduler-refused-by"]
        assert "isolated_tenants_max is 2" in refused_by
        assert run(aws, "few", Payload=b'""', TenantId="two")["StatusCode"] == 200
