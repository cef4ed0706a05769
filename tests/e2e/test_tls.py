"""TCP with TLS and tokens, through a whole service: what clients of ours and of others get, and what strangers do not."""

from __future__ import annotations

import signal
import socket
import ssl
import threading

import pytest
import trio

from scheduler import tokens
from scheduler.client import BlockingClient, CannotConnect, ConnectionLost, open_client
from scheduler.client.tls import TlsFailed
from scheduler.errors import NotFound, ProtocolFault, Throttled, Unauthorized
from scheduler.tokens import TokenRow
from tests.certificates import make_authority
from tests.e2e.raw import RawClient
from tests.e2e.serving import CannotServe, Served, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ECHO = """
def handler(event, context):
    return event
"""
SLEEPY = """
import time
def handler(event, context):
    time.sleep(event)
    return "slept"
"""
MEBIBYTE = 1024 * 1024


class Secured(Served):
    """A service with TLS on TCP and three tokens: `user`, `acme` (of a tenant) and `chief`."""

    def __init__(self, directory, **settings):
        self.authority = make_authority(directory)
        self.token_file = directory / "tokens"
        self.tokens = {}
        for name, rights, tenant in (
            ("user", ("invoke",), None),
            ("acme", ("invoke", "deploy"), "acme"),
            ("chief", ("invoke", "deploy", "admin"), None),
        ):
            self.add(name, rights, tenant)
        files = {"tls_cert_file": self.authority.cert_file, "tls_key_file": self.authority.key_file}
        super().__init__(directory / "state", tcp=True, token_file=self.token_file, **files, **settings)

    def add(self, name, rights, tenant=None):
        self.tokens[name] = tokens.new_token()
        tokens.append(self.token_file, TokenRow(name, tokens.digest(self.tokens[name]), rights, tenant))

    def access(self, name="user"):
        return {"token": self.tokens[name], "tls": self.authority.trusting()}

    def over_tls(self, name="user", **options):
        return BlockingClient(f"tls://127.0.0.1:{self.tcp_port}", **self.access(name), **options)

    def start(self):
        super().start()
        self.deploy("echo", ECHO)
        return self


def secured_or_skip(directory, **settings):
    try:
        return Secured(directory, **settings).start()
    except CannotServe as error:
        if "isolat" in str(error) or "namespace" in str(error):
            pytest.skip(f"this machine cannot isolate: {error}")
        raise


@pytest.fixture(scope="module")
def secured(place):
    directory = place / "secured"
    directory.mkdir()
    service = secured_or_skip(directory)
    try:
        yield service
    finally:
        assert service.stop() == 0


@pytest.fixture
def secured_alone(tmp_path):
    service = secured_or_skip(tmp_path)
    try:
        yield service
    finally:
        service.__exit__()


@pytest.mark.parametrize("size", [2, 20_000, MEBIBYTE, 6 * MEBIBYTE - 2])
def test_payloads_of_all_sizes_pass_both_ways(secured, size):
    payload = b'"' + b"x" * size + b'"'
    with secured.over_tls() as client:
        assert client.invoke("echo", payload).payload == payload


def test_who_may_only_invoke_is_shown_no_values_of_the_environment(secured):
    secured.deploy("dressed", ECHO, environment={"API_TOKEN": "secret-value"})
    try:
        with secured.over_tls() as user, secured.over_tls("chief") as chief:
            assert chief.get("dressed").environment == {"API_TOKEN": "secret-value"}
            assert user.get("dressed").environment == {"API_TOKEN": "***"}
            assert {f.name: f.environment for f in user.list()}["dressed"] == {"API_TOKEN": "***"}
            assert {f.name: f.environment for f in chief.list()}["dressed"] == {"API_TOKEN": "secret-value"}
    finally:
        with secured.over_tls("chief") as chief:
            chief.remove("dressed")


def test_a_token_gives_its_rights_and_its_tenant_and_no_more(secured):
    with secured.over_tls() as client:
        assert client.hello().rights == ("invoke",)
        with pytest.raises(Unauthorized, match="deploy"):
            client.remove("echo")
        with pytest.raises(Unauthorized, match="admin"):
            client.drain()
    with secured.over_tls("acme") as client:
        assert client.hello().tenant == "acme"
        with pytest.raises((NotFound, Unauthorized)):
            client.invoke("echo", b"1")
        assert [function.name for function in client.list()] == []
    with pytest.raises(Unauthorized), BlockingClient(("127.0.0.1", secured.tcp_port), tls=secured.authority.trusting()):
        pass


def test_many_threads_share_one_encrypted_connection(secured):
    with secured.over_tls() as client:
        wrong = []

        def work(number):
            for turn in range(20):
                payload = str(number * 1000 + turn).encode() * (1 + 300 * (turn % 3))
                payload = b'"' + payload + b'"'
                if client.invoke("echo", payload).payload != payload:
                    wrong.append((number, turn))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


async def test_many_connections_and_many_calls_on_each(secured):
    done = 0
    access = secured.access()

    async def one(number):
        nonlocal done
        async with open_client(("127.0.0.1", secured.tcp_port), **access) as client, trio.open_nursery() as calls:

            async def call(turn):
                nonlocal done
                event = {"connection": number, "turn": turn, "padding": "p" * (number * 50)}
                assert await client.invoke_json("echo", event) == event
                done += 1

            for turn in range(5):
                calls.start_soon(call, turn)

    async with trio.open_nursery() as nursery:
        for number in range(150):
            nursery.start_soon(one, number)
    assert done == 150 * 5


async def test_a_megabyte_each_way_at_once_on_one_connection(secured):
    payload = b'"' + b"m" * MEBIBYTE + b'"'
    async with open_client(f"tls://127.0.0.1:{secured.tcp_port}", **secured.access()) as client:

        async def call():
            assert (await client.invoke("echo", payload)).payload == payload

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(call)


def test_an_unknown_authority_is_refused_before_the_token_is_sent(secured):
    address = f"tls://127.0.0.1:{secured.tcp_port}"
    with pytest.raises(TlsFailed, match="its certificate is not trusted"), BlockingClient(address, token="t"):
        pass
    named = BlockingClient(f"tls://localhost.localdomain:{secured.tcp_port}", token="t", tls=secured.authority.trusting())
    with pytest.raises(CannotConnect), named:
        pass


async def test_the_trio_client_refuses_it_too(secured):
    with pytest.raises(TlsFailed, match="its certificate is not trusted"):
        async with open_client(f"tls://127.0.0.1:{secured.tcp_port}", token="t"):
            pass


def test_a_client_without_tls_is_told_what_is_missing(secured):
    client = BlockingClient(f"tcp://127.0.0.1:{secured.tcp_port}", token=secured.tokens["user"])
    with pytest.raises(ProtocolFault, match="this address speaks TLS"), client:
        pass
    with RawClient(("127.0.0.1", secured.tcp_port)) as raw:
        raw.send("hello", {})
        assert raw.receive()[:2] == [1, 0]
        assert raw.receive() is None
    figures = secured.get("/metrics")[1]
    assert 'scheduler_tls_handshakes_total{result="accepted"}' in figures
    assert 'scheduler_tls_handshakes_total{result="failed"} 0.0' not in figures


def test_half_a_handshake_hinders_nobody(secured):
    stalled = []
    for start in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"):
        for _ in range(20):
            sock = socket.create_connection(("127.0.0.1", secured.tcp_port))
            sock.sendall(start)
            stalled.append(sock)
    with secured.over_tls() as client:
        assert client.invoke("echo", b"1").payload == b"1"
    for sock in stalled:
        sock.close()


def test_an_independent_client_speaks_over_tls(secured):
    raw = RawClient(("127.0.0.1", secured.tcp_port))
    raw.socket = secured.authority.trusting().wrap_socket(raw.socket, server_hostname="localhost")
    with raw:
        assert raw.call("invoke", "echo", b"1")[0]["type"] == "Unauthorized"
        assert raw.call("hello", {"token": secured.tokens["user"]})[1]["rights"] == ["invoke"]
        assert raw.invoke("echo", b'{"a": 1}') == (None, [b'{"a": 1}', None])


def test_three_bad_tokens_end_the_connection_and_the_last_answer_arrives(secured):
    raw = RawClient(("127.0.0.1", secured.tcp_port))
    raw.socket = secured.authority.trusting().wrap_socket(raw.socket, server_hostname="localhost")
    with raw:
        answers = [raw.call("hello", {"token": "guess"})[0]["type"] for _ in range(3)]
        assert answers == ["Unauthorized"] * 3
        assert raw.receive() is None


def test_a_revoked_token_loses_its_connection_and_cannot_come_back(secured):
    secured.add("brief", ("invoke",))
    client, other = secured.over_tls("brief"), secured.over_tls()
    with client, other:
        assert client.invoke("echo", b"1").payload == b"1"
        tokens.remove(secured.token_file, "brief")

        def cut_off():
            try:
                client.invoke("echo", b"1")
            except ConnectionLost:
                return True
            return False

        wait_until(cut_off, 5, "the connection is closed")
        assert other.invoke("echo", b"2").payload == b"2"
    with pytest.raises(Unauthorized, match="not valid"), secured.over_tls("brief"):
        pass


def test_old_tls_is_refused(secured):
    context = secured.authority.trusting()
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(TlsFailed), BlockingClient(("127.0.0.1", secured.tcp_port), token="t", tls=context):
        pass


@pytest.mark.parametrize("end", ["drain", "signal"])
def test_a_call_under_way_is_answered_at_the_end_and_the_service_is_through_soon(secured_alone, end):
    service = secured_alone
    service.deploy("sleepy", SLEEPY, timeout_s=10)
    answers = []
    with service.over_tls("chief") as client, service.over_tls() as idle:
        idle.ping()

        def call():
            answers.append(client.invoke("sleepy", b"0.5").payload)

        thread = threading.Thread(target=call)
        thread.start()
        with service.over_tls() as watcher:
            wait_until(lambda: sum(f.executing for f in watcher.stats().functions) == 1, 5, "the call runs")
        if end == "drain":
            with service.over_tls("chief") as chief:
                assert chief.drain(grace_ms=5000) == {"drained": True}
        else:
            service.process.send_signal(signal.SIGTERM)
        thread.join(10)
        assert answers == [b'"slept"']
        with pytest.raises(CannotConnect):
            service.over_tls().ping()
        assert service.wait(5) == 0


def test_a_throttle_over_tls_is_the_same_error(secured):
    secured.deploy("shut", ECHO, reserved_concurrency=0, queue_timeout_ms=0)
    with secured.over_tls() as client, pytest.raises(Throttled) as told:
        client.invoke("shut", b"1")
    assert (told.value.account, told.value.resource) == ("function:shut", "concurrency")
