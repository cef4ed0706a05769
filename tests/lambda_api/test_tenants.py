"""A tenant's key against everything of another's, and a key that may only invoke against everything: each operation."""

from __future__ import annotations

import json

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest

from scheduler.accesskeys import AccessKeys
from scheduler.keyring import Keyring
from scheduler.lambda_api.operations import OPERATIONS, Support
from scheduler.messages import Right
from tests.e2e.serving import RUNTIME, Served, public_directory
from tests.lambda_api.client import ROLE, connect, package, refusal
from tests.lambda_api.raw_http import Connection

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ARN = "arn:aws:lambda:local:000000000000"
NOTHING = "UEsFBgAAAAAAAAAAAAAAAAAAAAAAAA=="  # an archive without files
LAYER_ARN = f"{ARN}:layer:theirs-layer:1"
BUILT = [row for row in OPERATIONS if row.support in (Support.FULL, Support.PARTIAL)]
# What names nothing of anybody's: lists of one's own, and what makes something new.
NAMELESS = {"ListFunctions", "ListLayers", "GetAccountSettings", "CreateFunction", "PublishLayerVersion", "ListLayerVersions"}
SILENT = {"DeleteLayerVersion"}  # says of nothing that it is not there
# (path member or query by name) of every operation; members of the body beside it.
PLACES = {
    "FunctionName": "theirs", "Name": "live", "Qualifier": "live", "Resource": f"{ARN}:function:theirs",
    "LayerName": "theirs-layer",
    "VersionNumber": "1", "StatementId": "s", "Arn": LAYER_ARN,
}  # fmt: skip
BODIES = {
    "CreateAlias": {"Name": "new", "FunctionVersion": "1"},
    "UpdateAlias": {"Description": "x"},
    "AddPermission": {"StatementId": "n", "Action": "lambda:InvokeFunction", "Principal": "acme"},
    "AddLayerVersionPermission": {"StatementId": "n", "Action": "lambda:GetLayerVersion", "Principal": "*"},
    "TagResource": {"Tags": {"a": "b"}},
    "UpdateFunctionConfiguration": {"Description": "x"},
    "UpdateFunctionCode": {"ZipFile": NOTHING},
    "PublishVersion": {},
    "PutFunctionConcurrency": {"ReservedConcurrentExecutions": 1},
    "PutFunctionRecursionConfig": {"RecursiveLoop": "Allow"},
    "PutRuntimeManagementConfig": {"UpdateRuntimeOn": "Auto"},
    "PutProvisionedConcurrencyConfig": {"ProvisionedConcurrentExecutions": 1},
    "CreateFunctionUrlConfig": {"AuthType": "NONE"},
    "UpdateFunctionUrlConfig": {"AuthType": "NONE"},
    "PutFunctionEventInvokeConfig": {"MaximumRetryAttempts": 1},
    "UpdateFunctionEventInvokeConfig": {"MaximumRetryAttempts": 1},
    "CreateFunction": {
        "FunctionName": "theirs", "Runtime": RUNTIME, "Role": ROLE, "Handler": "a.b", "Code": {"ZipFile": NOTHING},
    },
    "PublishLayerVersion": {"Content": {"ZipFile": NOTHING}},
}  # fmt: skip
QUERIES = {"UntagResource": "tagKeys=team", "GetLayerVersionByArn": "Arn=" + LAYER_ARN.replace(":", "%3A")}


@pytest.fixture(scope="module")
def guarded():
    with public_directory() as directory:
        state = directory / "state"
        state.mkdir(mode=0o755)
        keys = AccessKeys(state / "access-keys.json", Keyring.open(state / "keyring.json"))
        made = {
            "theirs": keys.create("theirs", rights=("invoke", "deploy"), tenant="globex"),
            "acme": keys.create("acme", rights=("invoke", "deploy"), tenant="acme"),
            "invoker": keys.create("invoker", rights=("invoke",), tenant="globex"),
        }
        with Served(state, http="127.0.0.1:0") as service:
            service.made = made
            aws = connect(service.http_port, made["theirs"].id, made["theirs"].secret)
            given = {"FunctionName": "theirs", "Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler"}
            aws.create_function(**given, Code={"ZipFile": package()}, Publish=True, Tags={"team": "red"})
            aws.create_alias(FunctionName="theirs", Name="live", FunctionVersion="1")
            aws.publish_layer_version(LayerName="theirs-layer", Content={"ZipFile": package("x = 1\n", "python/x.py")})
            aws.create_function_url_config(FunctionName="theirs", Qualifier="live", AuthType="AWS_IAM")
            aws.put_function_event_invoke_config(FunctionName="theirs", Qualifier="live", MaximumRetryAttempts=1)
            service.theirs = aws
            yield service
            aws.close()


def send(guarded, key, operation, *, absent=False):
    """An operation on what is globex's, or with `absent` on what nobody has, signed with that key."""
    path, places = operation.path, dict(PLACES)
    if absent:
        places |= {name: places[name].replace("theirs", "absent") for name in ("FunctionName", "Resource", "LayerName", "Arn")}
    for name, value in places.items():
        path = path.replace("{" + name + "}", value.replace(":", "%3A"))
    query = [f"{name}={value}" for name, value in operation.query.items()]
    if operation.name in QUERIES:
        query.append(QUERIES[operation.name].replace("theirs", "absent" if absent else "theirs"))
    elif operation.shape is not None and any(row.key == "Qualifier" for row in operation.shape.members):
        query.append("Qualifier=live")
    body = json.dumps(BODIES.get(operation.name, {})).encode() if operation.method in ("POST", "PUT") else b""
    url = f"http://localhost{path}" + ("?" + "&".join(query) if query else "")
    request = botocore.awsrequest.AWSRequest(operation.method, url, data=body)
    held = guarded.made[key]
    botocore.auth.SigV4Auth(botocore.credentials.Credentials(held.id, held.secret), "lambda", "local").add_auth(request)
    prepared = request.prepare()
    head = [f"{operation.method} {prepared.url.removeprefix('http://localhost')} HTTP/1.1", "Host: localhost"]
    head += [f"{name}: {value}" for name, value in prepared.headers.items() if name.lower() != "content-length"]
    with Connection(guarded.http_port) as connection:
        connection.send("\r\n".join([*head, f"Content-Length: {len(body)}"]).encode() + b"\r\n\r\n" + body)
        return connection.reply()


def state_of(guarded):
    """All that the tenant itself sees of its things."""
    aws, function = guarded.theirs, {"FunctionName": "theirs"}
    seen = [
        aws.get_function_configuration(**function),
        aws.list_aliases(**function),
        aws.list_tags(Resource=f"{ARN}:function:theirs"),
        aws.list_layer_versions(LayerName="theirs-layer"),
        aws.list_function_url_configs(**function),
        aws.list_function_event_invoke_configs(**function),
        aws.list_versions_by_function(**function),
        aws.get_function_concurrency(**function),
    ]
    for answer in seen:
        del answer["ResponseMetadata"]
    return seen


def shape_of(reply):
    """What could tell two answers apart, without the names that were asked for."""
    return reply.status, reply.headers.get("x-amzn-errortype"), reply.body.replace(b"absent", b"theirs")


@pytest.mark.parametrize("operation", [row for row in BUILT if row.name not in NAMELESS], ids=lambda row: row.name)
def test_another_tenants_is_as_if_it_were_not(guarded, operation):
    """Not seen, not changed, and not even told from what does not exist."""
    before = state_of(guarded)
    reply, absent = send(guarded, "acme", operation), send(guarded, "acme", operation, absent=True)
    assert shape_of(reply) == shape_of(absent)
    if operation.name not in SILENT:
        assert reply.status == 404, reply
    assert state_of(guarded) == before


@pytest.mark.parametrize("operation", [row for row in BUILT if row.right & ~Right.INVOKE], ids=lambda row: row.name)
def test_who_may_invoke_may_do_nothing_else(guarded, operation):
    before = state_of(guarded)
    reply = send(guarded, "invoker", operation)
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
    assert state_of(guarded) == before


def test_what_needs_no_more_than_invoke_is_little():
    assert {row.name for row in BUILT if not row.right & ~Right.INVOKE} == {"Invoke", "InvokeAsync", "InvokeWithResponseStream"}


def test_nothing_of_anothers_can_be_worn_or_listed(guarded):
    acme = connect(guarded.http_port, guarded.made["acme"].id, guarded.made["acme"].secret)
    try:
        given = {"FunctionName": "mine", "Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler"}
        for arn in (LAYER_ARN, LAYER_ARN.replace("theirs", "absent")):
            name, status, _ = refusal(acme.create_function, **given, Code={"ZipFile": package()}, Layers=[arn])
            assert (name, status) == ("ResourceNotFoundException", 404)
        assert acme.list_functions()["Functions"] == []
        assert acme.list_layers()["Layers"] == []
        assert acme.get_account_settings()["AccountUsage"]["FunctionCount"] == 0
    finally:
        acme.close()


def test_a_names_escapes_are_read_once(guarded):
    """%2574heirs is not theirs."""
    operation = next(row for row in OPERATIONS if row.name == "GetFunctionConfiguration")
    twice = type(operation)(**{name: getattr(operation, name) for name in operation.__slots__} | {
        "path": operation.path.replace("{FunctionName}", "%2574heirs")})  # fmt: skip
    assert send(guarded, "theirs", operation).status == 200
    assert send(guarded, "theirs", twice).status == 400
