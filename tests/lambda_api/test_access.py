"""Access keys and signatures against a whole service: who may do what, and that both judges agree."""

from __future__ import annotations

import json

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest
from botocore.exceptions import ClientError

from scheduler.accesskeys import AccessKeys
from scheduler.keyring import Keyring
from tests.e2e.serving import RUNTIME, Served, public_directory, wait_until
from tests.lambda_api.client import ROLE, connect, package
from tests.lambda_api.raw_http import Connection

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PATH = "/2015-03-31/functions/arn%3Aaws%3Alambda%3Alocal%3A000000000000%3Afunction%3Aecho/invocations"


@pytest.fixture(scope="module")
def guarded():
    """A service that asks for signatures, with three keys: everything, invoke alone, and a tenant's."""
    with public_directory() as directory:
        state = directory / "state"
        state.mkdir(mode=0o755)
        keys = AccessKeys(state / "access-keys.json", Keyring.open(state / "keyring.json"))
        made = {
            "all": keys.create("all", rights=("invoke", "deploy")),
            "invoker": keys.create("invoker", rights=("invoke",)),
            "tenant": keys.create("tenant", rights=("invoke", "deploy"), tenant="acme"),
        }
        with Served(state, http="127.0.0.1:0") as service:
            service.keys = keys
            service.made = made
            client = connect(service.http_port, made["all"].id, made["all"].secret)
            given = {"FunctionName": "echo", "Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler"}
            client.create_function(**given, Code={"ZipFile": package("def handler(e, c):\n    return e\n")})
            yield service
            client.close()


@pytest.fixture
def as_(guarded):
    """Clients by the name of their key."""
    opened = []

    def client(name):
        key = guarded.made[name]
        opened.append(connect(guarded.http_port, key.id, key.secret))
        return opened[-1]

    yield client
    for made in opened:
        made.close()


def handed(guarded) -> int:
    return json.loads(guarded.get("/debug/stats")[1])["loop"]["http_handed"]


def refusal_of(call, **arguments):
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]["Code"], caught.value.response["ResponseMetadata"]["HTTPStatusCode"]


def test_rights_are_the_keys(as_):
    invoker = as_("invoker")
    assert json.loads(invoker.invoke(FunctionName="echo", Payload=b'{"a": 1}')["Payload"].read()) == {"a": 1}
    assert refusal_of(invoker.delete_function, FunctionName="echo") == ("AccessDeniedException", 403)


def test_tenants_see_their_own(as_):
    tenant = as_("tenant")
    assert refusal_of(tenant.invoke, FunctionName="echo") == ("ResourceNotFoundException", 404)
    assert tenant.list_functions()["Functions"] == []
    assert refusal_of(tenant.delete_function, FunctionName="echo") == ("ResourceNotFoundException", 404)
    given = {"FunctionName": "own", "Runtime": RUNTIME, "Role": ROLE, "Handler": "app.handler"}
    tenant.create_function(**given, Code={"ZipFile": package("def handler(e, c):\n    return e\n")})
    assert tenant.invoke(FunctionName="own")["Payload"].read() == b"{}"
    assert [f["FunctionName"] for f in as_("all").list_functions()["Functions"]] == ["echo", "own"]
    tenant.delete_function(FunctionName="own")


def test_strangers_are_told_nothing(guarded):
    stranger = connect(guarded.http_port, "AKIANOBODY", "x")
    assert refusal_of(stranger.invoke, FunctionName="echo") == ("UnrecognizedClientException", 403)
    wrong = connect(guarded.http_port, guarded.made["all"].id, "x")
    assert refusal_of(wrong.invoke, FunctionName="echo") == ("InvalidSignatureException", 403)
    with Connection(guarded.http_port) as connection:
        connection.send(b"POST /2015-03-31/functions/echo/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert connection.reply().headers["x-amzn-errortype"] == "MissingAuthenticationTokenException"
    stranger.close()
    wrong.close()


def signed_request(key, payload):
    """An invocation of "echo" as AWS's own client signs it."""
    url = f"http://localhost:9000{PATH}"
    request = botocore.awsrequest.AWSRequest("POST", url, headers={"X-Amz-Log-Type": "None"}, data=payload)
    credentials = botocore.credentials.Credentials(key.id, key.secret)
    botocore.auth.SigV4Auth(credentials, "lambda", "local").add_auth(request)
    prepared = request.prepare()
    lines = [f"POST {PATH} HTTP/1.1", "Host: localhost:9000"]
    for name, value in prepared.headers.items():
        lines.append(f"{name}: {value.decode() if isinstance(value, bytes) else value}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + prepared.body


def test_the_engine_judges_as_the_control_plane_does(guarded):
    """The same bytes, whole and with one byte after the other changed: none of those may run. What the engine will not take it
    hands over, so only its yes could be wrong."""
    key = guarded.made["invoker"]
    data = signed_request(key, b'{"a":1}')
    assert b"Authorization" in data
    with Connection(guarded.http_port) as connection:
        before = handed(guarded)
        connection.send(data)
        assert json.loads(connection.reply().body) == {"a": 1}
        assert handed(guarded) == before, "the engine did not judge by itself"
    head = len(data) - len(b'{"a":1}')
    for at in range(5, len(data), 3):
        if data[at : at + 1] in b"\r\n:" or (at > head and data[at : at + 1] != b"1"):
            continue
        damaged = data[:at] + (b"2" if data[at : at + 1] == b"1" else b"1") + data[at + 1 :]
        if b"content-length: 7" not in damaged.lower():
            continue
        with Connection(guarded.http_port) as connection:
            connection.send(damaged)
            reply = connection.reply()
            if reply is not None and reply.status == 200:
                # Only what is not signed may differ: the names of headers are lower-cased first, none is changed here.
                raise AssertionError((at, damaged))


def test_keys_come_and_go_while_it_runs(guarded):
    made = guarded.keys.create("late", rights=("invoke",))
    client = connect(guarded.http_port, made.id, made.secret)

    def invokes() -> bool:
        try:
            client.invoke(FunctionName="echo")["Payload"].read()
        except ClientError:
            return False
        return True

    wait_until(invokes, 5, "the new key is known")
    guarded.keys.revoke("late")
    wait_until(lambda: not invokes(), 5, "the revoked key is refused")
    client.close()


def test_secrets_are_nowhere_in_the_state(guarded):
    secrets = [key.secret.encode() for key in guarded.made.values()]
    files = [path for path in guarded.state_dir.rglob("*") if path.is_file()]
    assert any(path.name == "access-keys.json" for path in files)
    for path in files:
        data = path.read_bytes()
        assert not any(secret in data for secret in secrets), path


def test_a_policy_lets_another_tenant_invoke(as_):
    owner, tenant = as_("all"), as_("tenant")
    owner.add_permission(FunctionName="echo", StatementId="acme", Action="lambda:InvokeFunction", Principal="acme")
    try:
        assert json.loads(tenant.invoke(FunctionName="echo", Payload=b'{"a": 1}')["Payload"].read()) == {"a": 1}
        assert refusal_of(tenant.get_function, FunctionName="echo") == ("ResourceNotFoundException", 404)
    finally:
        owner.remove_permission(FunctionName="echo", StatementId="acme")
    assert refusal_of(tenant.invoke, FunctionName="echo") == ("ResourceNotFoundException", 404)


def signed_url(key, host, target, *, region="local", headers=()):
    """A request to a function URL as AWS's own client signs it."""
    asked = botocore.awsrequest.AWSRequest("POST", f"http://{host}{target}", headers=dict(headers), data=b'{"a":1}')
    credentials = botocore.credentials.Credentials(key.id, key.secret)
    botocore.auth.SigV4Auth(credentials, "lambda", region).add_auth(asked)
    prepared = asked.prepare()
    lines = [f"POST {target} HTTP/1.1", f"Host: {host}"]
    for name, value in prepared.headers.items():
        lines.append(f"{name}: {value.decode() if isinstance(value, bytes) else value}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + prepared.body


@pytest.fixture
def signed_host(guarded, as_):
    """The host of a URL whose callers sign."""
    owner = as_("all")
    yield owner.create_function_url_config(FunctionName="echo", AuthType="AWS_IAM")["FunctionUrl"].split("/")[2]
    owner.delete_function_url_config(FunctionName="echo")


@pytest.mark.parametrize(
    ("target", "handed_over"),
    [("/", 0), ("/a%20b/c?a=1&b=%2F", 0), ("/?b=1&a=2", 1), ("/?a", 1), ("/a//b/../c", 1)],
)
def test_signed_requests_to_a_url(guarded, signed_host, target, handed_over):
    """Those whose path and query stand as they are signed are judged by the engine, others by the control plane; both agree."""
    key = guarded.made["invoker"]
    with Connection(guarded.http_port) as connection:
        before = handed(guarded)
        connection.send(signed_url(key, signed_host, target))
        reply = connection.reply()
        assert reply.status == 200, reply
        assert handed(guarded) - before == handed_over
    event = json.loads(reply.body)
    context, account = event["requestContext"], "000000000000"
    iam = context["authorizer"]["iam"]
    assert (iam["accessKey"], iam["accountId"], context["accountId"]) == (key.id, account, account)
    assert event["rawPath"] == target.partition("?")[0]


def test_nobody_else_gets_to_a_signed_url(guarded, as_, signed_host):
    data = signed_url(guarded.made["invoker"], signed_host, "/p?q=1")
    head = data.index(b"\r\n\r\n") + 4
    lines = [line for line in data[:head].split(b"\r\n") if not line.startswith(b"Authorization")]
    others = {
        "tenant": signed_url(guarded.made["tenant"], signed_host, "/p?q=1"),
        "unsigned": b"\r\n".join(lines) + data[head:],
        "method": data.replace(b"POST", b"PUT", 1),
        "path": data.replace(b"/p?", b"/r?", 1),
        "query": data.replace(b"q=1", b"q=2", 1),
        "body": data.replace(b'{"a":1}', b'{"a":2}', 1),
        "date": data.replace(b"X-Amz-Date: 2", b"X-Amz-Date: 3", 1),
    }
    assert len(set(others.values()) | {data}) == len(others) + 1
    for name, other in others.items():
        with Connection(guarded.http_port) as connection:
            connection.send(other)
            assert connection.reply().status == 403, name
    owner = as_("all")
    for statement, action in (("a", "lambda:InvokeFunctionUrl"), ("b", "lambda:InvokeFunction")):
        owner.add_permission(FunctionName="echo", StatementId=statement, Action=action, Principal="acme")
    with Connection(guarded.http_port) as connection:
        connection.send(others["tenant"])
        assert connection.reply().status == 200, "a policy lets it in"
    for statement in "ab":
        owner.remove_permission(FunctionName="echo", StatementId=statement)
