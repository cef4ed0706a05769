"""What a sandbox is answered at its own ports: the extension's API, AWS's services, and what is granted."""

from __future__ import annotations

import contextlib
import json
import socket
from functools import partial
from urllib.parse import quote

import boto3
import botocore.config
import pytest
import trio
import trio.testing
from botocore.exceptions import ClientError

from scheduler.functions.names import Identity
from scheduler.keyring import Keyring
from scheduler.keys.embedded import EmbeddedKeys
from scheduler.keys.envelopes import Envelopes
from scheduler.keys.http import Address, CannotAsk, exchange
from scheduler.keys.masters import MasterKeys
from scheduler.log import Log
from scheduler.secrets.store import Secrets, Value
from scheduler.targets import doors, extension
from scheduler.targets.app import Targets
from scheduler.targets.doors import CONNECTIONS_MAX, CONNECTIONS_TOTAL_MAX, Doors, Share, Tokens, ports, variables
from scheduler.targets.extension import Extension, Options
from scheduler.targets.kms import Kms
from scheduler.targets.secretsmanager import SecretsManager
from scheduler.targets.ssm import Ssm
from scheduler.targets.who import Who, granted
from tests.functions.test_registry import Memory

TOKEN = {"X-Aws-Parameters-Secrets-Token": "token"}
ARN = "arn:aws:lambda:local:000000000000:function:hello"


@pytest.fixture
async def rooms(tmp_path):
    store = Memory()
    envelopes = Envelopes(EmbeddedKeys(Keyring.open(tmp_path / "keyring.json")))
    arn = Identity().of_service
    masters, secrets = await MasterKeys.load(store, envelopes, arn), await Secrets.load(store, envelopes, arn)
    targets = Targets((Kms(masters, "000000000000"), SecretsManager(secrets), Ssm(secrets, arn)), Log())
    return masters, secrets, targets


def function(secrets=(), keys=(), role="", tenant="default"):
    return Who("function hello", tenant, keys=tuple(keys), secrets=tuple(secrets), role=role, function=ARN)


class Sandbox:
    """Listeners as one has them, but in this network."""

    def __init__(self, nursery, targets, who, given=None):
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        for listener in listeners:
            listener.setblocking(False)
        self.ports = [listener.getsockname()[1] for listener in listeners]
        self.door = Doors(targets, nursery, who, given or {}, "token", Share(trio.CapacityLimiter(CONNECTIONS_TOTAL_MAX))).open(
            [listener.detach() for listener in listeners]
        )

    async def get(self, path, headers=TOKEN):
        answer = await exchange(Address("127.0.0.1", self.ports[0], "", None), "GET", path, list(headers.items()), b"")
        return answer.status, json.loads(answer.body)

    async def aws(self, service, operation, **arguments):
        """With a client of AWS; its answer, or the error's name."""

        def call():
            client = boto3.client(
                service,
                endpoint_url=f"http://127.0.0.1:{self.ports[1]}",
                region_name="local",
                aws_access_key_id="ASIA",
                aws_secret_access_key="x",
                aws_session_token="y",
                config=botocore.config.Config(retries={"max_attempts": 1}),
            )
            try:
                return getattr(client, operation)(**arguments)
            except ClientError as error:
                return error.response["Error"]["Code"]
            finally:
                client.close()

        return await trio.to_thread.run_sync(call)


async def test_the_extensions_api(rooms, nursery):
    _, secrets, targets = rooms
    made = await secrets.create("default", "db/password", Value(text="first"))
    box = Sandbox(nursery, targets, function(["db/*"]))
    box.door.ready()
    status, got = await box.get("/secretsmanager/get?secretId=db%2Fpassword")
    assert (status, got["SecretString"], got["SecretBinary"], got["ResultMetadata"]) == (200, "first", None, {})
    assert got["CreatedDate"].endswith("Z")
    assert {"ARN", "Name", "VersionId", "VersionStages"} <= set(got)
    await secrets.put("db/password", "default", Value(text="second"))
    assert (await box.get("/secretsmanager/get?secretId=db%2Fpassword"))[1]["SecretString"] == "first", "of the cache"
    assert (await box.get("/secretsmanager/get?secretId=db/password&refreshNow=true"))[1]["SecretString"] == "second"
    assert (await box.get("/secretsmanager/get?secretId=db/password"))[1]["SecretString"] == "second"
    old = f"/secretsmanager/get?secretId={quote('db/password')}&versionId={made.versions[0].id}"
    assert (await box.get(old))[1]["SecretString"] == "first"
    assert (await box.get("/secretsmanager/get?secretId=db/password&versionStage=AWSPREVIOUS"))[1]["SecretString"] == "first"
    status, got = await box.get("/systemsmanager/parameters/get?name=db%2Fpassword&withDecryption=true")
    assert (status, got["Parameter"]["Value"], got["Parameter"]["Version"]) == (200, "second", 2)
    status, got = await box.get("/systemsmanager/parameters/get?name=db/password&version=1&withDecryption=true")
    assert (got["Parameter"]["Value"], got["Parameter"]["Selector"]) == ("first", ":1")


async def test_what_the_extensions_api_refuses(rooms, nursery, monkeypatch):
    monkeypatch.setattr(extension, "READY_S", 0.05)
    _, secrets, targets = rooms
    await secrets.create("default", "mine", Value(text="planted"))
    await secrets.create("default", "other", Value(text="planted"))
    await secrets.create("acme", "mine", Value(text="acme's"))
    box = Sandbox(nursery, targets, function(["mine", "absent"]))
    get = "/secretsmanager/get?secretId="
    assert await box.get(get + "mine") == (400, {"message": "not ready to serve traffic, please wait"})
    box.door.ready()
    assert (await box.get(get + "mine", {}))[0] == 401
    assert (await box.get(get + "mine", {"X-Aws-Parameters-Secrets-Token": "else"}))[0] == 403
    assert (await box.get("/secretsmanager/put?secretId=mine"))[0] == 404
    assert (await box.get("/secretsmanager/get"))[0] == 400
    for name, error in (
        ("other", "AccessDeniedException"),
        ("none", "AccessDeniedException"),
        ("absent", "ResourceNotFoundException"),
    ):
        status, said = await box.get(get + name)
        assert (status, said["__type"]) == (400, error)
        assert "planted" not in json.dumps(said)
    assert (await box.get(get + "mine"))[1]["SecretString"] == "planted"
    other = Sandbox(nursery, targets, function(["mine"], tenant="acme"))
    other.door.ready()
    assert (await other.get(get + "mine"))[1]["SecretString"] == "acme's"


async def test_its_cache_has_the_functions_size_and_time_and_a_bound(rooms):
    _, secrets, targets = rooms
    for number in range(3):
        await secrets.create("default", f"s{number}", Value(text="x" * 60_000))
    now = 0.0
    ready = trio.Event()
    ready.set()

    def made(**given):
        return Extension(targets, function(["*"]), Options.of(given), token="token", ready=ready, now_s=lambda: now)

    async def ask(box, number):
        return await box._secret({"secretId": f"s{number}"})

    box = made(PARAMETERS_SECRETS_EXTENSION_CACHE_SIZE="2", SECRETS_MANAGER_TTL="60")
    for number in range(3):
        await ask(box, number)
    assert len(box._cache) == 2
    asked = targets.results.copy()
    await ask(box, 2)
    assert targets.results == asked
    now = 61.0
    await ask(box, 2)
    assert targets.results != asked
    for given in ({"PARAMETERS_SECRETS_EXTENSION_CACHE_ENABLED": "false"}, {"SECRETS_MANAGER_TTL": "-1"}):
        box = made(**given)
        await ask(box, 0)
        assert not box._cache
    assert Options.of({"SECRETS_MANAGER_TTL": "9999", "SSM_PARAMETER_STORE_TTL": "soon"}) == Options()
    box = made()
    for number in range(100):
        box._keep((number,), bytes(60_000), 300)
    assert box._bytes <= 1 << 20
    assert len(box._cache) == 17


@pytest.mark.slow
async def test_clients_of_aws_in_a_sandbox(rooms, nursery):
    masters, secrets, targets = rooms
    await masters.create("default", aliases=("alias/granted",))
    other = await masters.create("default")
    await secrets.create("default", "mine", Value(text="value"))
    box = Sandbox(nursery, targets, function(["mine"], ["alias/granted"]))
    context = {"LambdaFunctionName": "hello"}
    sealed = await box.aws("kms", "encrypt", KeyId="alias/granted", Plaintext=b"text", EncryptionContext=context)
    opened = await box.aws("kms", "decrypt", CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext=context)
    assert opened["Plaintext"] == b"text"
    wrong = await box.aws(
        "kms", "decrypt", CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext={"LambdaFunctionName": "a"}
    )
    assert wrong == "InvalidCiphertextException"
    foreign = masters.encrypt(other, b"text", {})
    assert await box.aws("kms", "decrypt", CiphertextBlob=foreign) == "AccessDeniedException"
    assert await box.aws("kms", "encrypt", KeyId=other.id, Plaintext=b"x") == "AccessDeniedException"
    assert await box.aws("kms", "create_key") == "AccessDeniedException"
    assert (await box.aws("secretsmanager", "get_secret_value", SecretId="mine"))["SecretString"] == "value"
    assert await box.aws("secretsmanager", "put_secret_value", SecretId="mine", SecretString="x") == "AccessDeniedException"
    assert await box.aws("secretsmanager", "list_secrets") == "AccessDeniedException"
    assert (await box.aws("ssm", "get_parameter", Name="mine", WithDecryption=True))["Parameter"]["Value"] == "value"


async def test_a_secrets_policy_lets_functions_read_it(rooms, nursery):
    _, secrets, targets = rooms
    secret = await secrets.create("default", "mine", Value(text="value"))
    role = "arn:aws:iam::000000000000:role/reader"
    box, denied = (Sandbox(nursery, targets, function(role=r)) for r in (role, "arn:aws:iam::000000000000:role/other"))

    async def allow(principal, **more):
        row = {"Effect": "Allow", "Principal": principal, "Action": "secretsmanager:Get*", "Resource": "*", **more}
        await secrets.describe_as("mine", "default", policy=json.dumps({"Statement": [row]}))

    get = partial(box.aws, "secretsmanager", "get_secret_value", SecretId=secret.name)
    assert await get() == "AccessDeniedException"
    await allow({"AWS": role})
    assert (await get())["SecretString"] == "value"
    assert await denied.aws("secretsmanager", "get_secret_value", SecretId="mine") == "AccessDeniedException"
    await allow("*", Condition={"ArnEquals": {"aws:SourceArn": ARN + "2"}})
    assert await get() == "AccessDeniedException"
    await allow("*", Condition={"ArnLike": {"aws:SourceArn": ARN[:-2] + "*"}})
    assert (await get())["SecretString"] == "value"


async def test_hostile_bytes_cost_their_connection_alone(rooms, nursery):
    _, secrets, targets = rooms
    await secrets.create("default", "mine", Value(text="value"))
    box = Sandbox(nursery, targets, function(["mine"]))
    box.door.ready()
    for port in box.ports:
        for data in (
            b"\0" * 100,
            b"GET / HTTP/9\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n",
            b"x" * 70_000,
        ):
            with trio.fail_after(10):
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(data)
                    while await stream.receive_some(65536):
                        pass
                await stream.aclose()
        held = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(CONNECTIONS_MAX - 1)]
        assert (await box.aws("secretsmanager", "get_secret_value", SecretId="mine"))["SecretString"] == "value"
        for stream in held:
            await stream.aclose()
    box.door.close()
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(CannotAsk):
        await box.get("/")


async def test_a_tenants_sandboxes_share_a_pace_and_places(autojump_clock):
    share = Share(trio.CapacityLimiter(80), each_s=100.0, burst=10.0)
    begun = trio.current_time()
    for _ in range(11):
        await share.turn()
    assert trio.current_time() - begun == pytest.approx(0.01)
    for _ in range(100):
        await share.turn()
    assert trio.current_time() - begun == pytest.approx(1.01)
    held = [object() for _ in range(64)]
    for place in held:
        await share.take(place)
    with trio.move_on_after(1) as waited:
        await share.take(object())
    assert waited.cancelled_caught
    share.give(held.pop())
    await share.take(object())


async def test_who_says_nothing_goes_soon(rooms, nursery, monkeypatch):
    monkeypatch.setattr(doors, "IDLE_S", 0.05)
    box = Sandbox(nursery, rooms[2], function(["mine"]))
    with trio.fail_after(10):
        stream = await trio.open_tcp_stream("127.0.0.1", box.ports[0])
        assert await stream.receive_some(100) == b""
        await stream.aclose()


def test_what_is_granted():
    assert granted(["a", "b/*"], ["b/c"])
    assert granted(["*"], ["anything"])
    assert not granted(["a"], ["ab"])
    assert not granted([], ["a"])
    assert not granted(None, ["a"])
    assert not granted(["a*b"], ["axb"]), "a star within a name stands for itself"


def test_ports_and_variables():
    assert ports({}) == (2773, 2774)
    assert ports({"PARAMETERS_SECRETS_EXTENSION_HTTP_PORT": "4000"}) == (4000, 2774)
    for taken in ("9001", "2774", "0", "99999", "x", "-1"):
        assert ports({"PARAMETERS_SECRETS_EXTENSION_HTTP_PORT": taken}) == (2773, 2774)
    tokens = Tokens()
    assert tokens.of("a") == tokens.of("a") != tokens.of("b")
    assert Tokens().of("a") != tokens.of("a")
    mild, firm = variables("t")
    assert mild["AWS_ENDPOINT_URL_SECRETS_MANAGER"] == "http://127.0.0.1:2774"
    assert firm["AWS_SESSION_TOKEN"] == "t"
