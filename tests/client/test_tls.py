"""Both clients over TLS: the same calls, and what they say of a peer that is not whom they expect."""

from __future__ import annotations

import os
import socket
import ssl
import threading

import msgpack
import pytest
import trio

from scheduler.client import BlockingClient, ConnectionLost, open_client
from scheduler.client.methods import address_of
from scheduler.client.tls import TlsFailed, trusting
from tests.certificates import make_authority
from tests.client.fake_service import FakeService, response

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def trusted(authority):
    return trusting(authority.ca_file)


@pytest.fixture(scope="module")
def serving_context(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.cert_file, authority.key_file)
    return context


@pytest.fixture
def secured(serving_context):
    with FakeService(("127.0.0.1", 0), serving_context) as fake:
        yield fake


@pytest.fixture
def plain():
    with FakeService(("127.0.0.1", 0)) as fake:
        yield fake


def where(fake, scheme="tls"):
    return f"{scheme}://127.0.0.1:{fake.address[1]}"


# ---- calls --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 16 * 1024, 3 * MEBIBYTE])
def test_the_blocking_client_calls_over_tls(secured, trusted, size):
    payload = b'"' + b"p" * size + b'"'
    with BlockingClient(where(secured), token="t", tls=trusted) as client:
        assert client.invoke("hello", payload).payload == payload
        client.ping()
    assert [frame[2] for frame in secured.requests] == ["hello", "invoke", "ping"]


@pytest.mark.parametrize("size", [0, 16 * 1024, 3 * MEBIBYTE])
async def test_the_trio_client_calls_over_tls(secured, trusted, size):
    payload = b'"' + b"p" * size + b'"'
    async with open_client(where(secured, "tcp"), token="t", tls=trusted) as client:

        async def call():
            assert (await client.invoke("hello", payload)).payload == payload

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(call)


def test_threads_send_and_receive_at_once(secured, trusted):
    with BlockingClient(where(secured), tls=trusted) as client:
        wrong = []

        def work(number):
            payload = b'"' + bytes([65 + number]) * (number * 40_000) + b'"'
            wrong.extend(number for _ in range(5) if client.invoke("hello", payload).payload != payload)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_a_peer_that_reads_late_gets_all_of_it_in_order(serving_context, trusted):
    """What TLS could not send at once it wants to send again with the same first bytes."""
    release = threading.Event()
    got = []

    def late_reader(sock):
        unpacker = msgpack.Unpacker(max_buffer_size=64 * MEBIBYTE)
        while data := sock.recv(65536):
            unpacker.feed(data)
            for _, msgid, method, params in unpacker:
                got.append(params[1][:2] if method == "invoke" else method)
                sock.sendall(response(msgid, [b"1", None] if method == "invoke" else {}))
                assert release.wait(10)  # after the hello

    with FakeService(("127.0.0.1", 0), serving_context) as fake:
        fake.serve = late_reader
        with BlockingClient(where(fake), tls=trusted) as client:
            threads = [
                threading.Thread(target=client.invoke, args=("hello", bytes([65 + n]) * 2 + b"z" * MEBIBYTE)) for n in range(12)
            ]
            for thread in threads:
                thread.start()
            while not client._links[os.getpid()]._rest:
                pass  # until the kernel takes no more
            release.set()
            for thread in threads:
                thread.join()
    assert got[0] == "hello"
    assert sorted(got[1:]) == [bytes([65 + n]) * 2 for n in range(12)]


def test_the_end_is_said_properly(serving_context, trusted):
    ended = []

    def until_the_end(sock):
        sock.suppress_ragged_eofs = False
        unpacker = msgpack.Unpacker()
        try:
            while data := sock.recv(65536):
                unpacker.feed(data)
                for _, msgid, *_ in unpacker:
                    sock.sendall(response(msgid, {}))
        except ssl.SSLError as error:
            ended.append(error)
        else:
            ended.append("close_notify")

    with FakeService(("127.0.0.1", 0), serving_context) as fake:
        fake.serve = until_the_end
        with BlockingClient(where(fake), tls=trusted):
            pass
    assert ended == ["close_notify"]


def test_a_forked_child_connects_anew_and_leaves_the_parents_connection_alone(secured, trusted):
    with BlockingClient(where(secured), tls=trusted) as client:
        client.ping()
        child = os.fork()
        if child == 0:
            try:
                client.ping()
                client.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        client.ping()
    assert [frame[2] for frame in secured.requests] == ["hello", "ping", "hello", "ping", "ping"]


def test_a_lost_connection_fails_calls_and_a_new_one_is_made(secured, trusted):
    with BlockingClient(where(secured), tls=trusted, reconnect=True) as client:
        secured.hang_up()
        with pytest.raises(ConnectionLost):
            client.ping()
        client.ping()


# ---- who is there -------------------------------------------------------------------------------------------------------


def refusal(target, **options):
    with pytest.raises(TlsFailed) as refused, BlockingClient(target, **options):
        pass
    return refused.value


async def trio_refusal(target, **options):
    with pytest.raises(TlsFailed) as refused:
        async with open_client(target, **options):
            pass
    return refused.value


async def test_an_authority_that_is_not_trusted(secured):
    for error in (refusal(where(secured), token="t"), await trio_refusal(where(secured), token="t")):
        assert "its certificate is not trusted" in str(error)
        assert (error.type, error.exit_code) == ("Unavailable", 3)
    assert secured.requests == [], "no token was sent"


def test_a_certificate_of_another_name(authority, serving_context, tmp_path):
    other = make_authority(tmp_path)
    other.write("elsewhere.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(other.cert_file, other.key_file)
    with FakeService(("127.0.0.1", 0), context) as fake:
        error = refusal(where(fake), tls=trusting(other.ca_file))
    assert "IP address mismatch" in str(error)
    assert fake.requests == []


async def test_a_peer_without_tls(plain, trusted):
    plain.serve = lambda sock: sock.sendall(response(0, error={"type": "BadRequest", "message": "not MessagePack"}))
    for error in (refusal(where(plain), tls=trusted), await trio_refusal(where(plain), tls=trusted)):
        assert "does not speak TLS" in str(error) or "closed the connection" in str(error)


def test_a_peer_that_says_nothing(plain, trusted):
    plain.serve = lambda sock: sock.recv(1) and sock.recv(1 << 20) and sock.recv(1)
    error = refusal(where(plain), tls=trusted, timeout_s=0.05)
    assert "did not answer the TLS handshake in time" in str(error)


async def test_a_peer_that_says_nothing_to_the_trio_client(plain, trusted, monkeypatch):
    monkeypatch.setattr("scheduler.client.tls.HANDSHAKE_S", 0.05)
    plain.serve = lambda sock: sock.recv(1) and sock.recv(1 << 20) and sock.recv(1)
    assert "did not answer the TLS handshake in time" in str(await trio_refusal(where(plain), tls=trusted))


async def test_a_peer_that_closes(plain, trusted):
    plain.serve = lambda sock: None
    for error in (refusal(where(plain), tls=trusted), await trio_refusal(where(plain), tls=trusted)):
        assert "closed the connection in the TLS handshake" in str(error)


# ---- addresses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "tls", "shown"),
    [
        ("/run/s", False, "/run/s"),
        ("tcp://host:7", False, "tcp://host:7"),
        ("tcp://host:7", True, "tls://host:7"),
        ("tls://host:7", False, "tls://host:7"),
        ("tls://[::1]:7", False, "tls://[::1]:7"),
        (("::1", 7), False, "tcp://[::1]:7"),
        (("host", 7), True, "tls://host:7"),
    ],
)
def test_addresses(target, tls, shown):
    address = address_of(target, tls)
    assert str(address) == shown
    assert (address.tls is not None) == shown.startswith("tls")
    assert address.needs_hello == (not shown.startswith("/"))


def test_a_relative_path_is_shown_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(address_of("s")) == str(tmp_path / "s")


@pytest.mark.parametrize("target", ["", "tls://", "tls://host", "tls://host:0", "tls://host:65536", "tcp://:7", "tls://host:²"])
def test_what_is_no_address(target):
    with pytest.raises(ValueError, match=r"empty|HOST:PORT"):
        address_of(target)


def test_tls_on_a_unix_socket_is_a_mistake():
    with pytest.raises(ValueError, match="not with the Unix socket '/s'"):
        address_of("/s", True)


def test_a_context_of_ones_own_is_used_as_it_is():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert address_of("tls://h:1", context).tls is context
    assert address_of("tls://h:1").tls.verify_mode is ssl.CERT_REQUIRED
    assert address_of("tls://h:1").tls.minimum_version is ssl.TLSVersion.TLSv1_2


def test_authorities_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError):
        trusting(tmp_path / "none")
    (tmp_path / "empty").write_text("none")
    with pytest.raises(ssl.SSLError):
        trusting(tmp_path / "empty")


def test_who_does_not_use_tls_does_not_import_it():
    import subprocess
    import sys

    code = "import sys; from scheduler.client.blocking import BlockingClient; BlockingClient('/s'); print('ssl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_socket_of_ours_never_blocks(secured, trusted):
    from scheduler.client.tls import shake_hands

    over = threading.Event()
    secured.serve = lambda connection: over.wait(10)
    sock = shake_hands(socket.create_connection(secured.address), address_of(where(secured), trusted), 5.0)
    with pytest.raises(BlockingIOError):
        sock.recv(1 << 18)
    taken = 0
    data = memoryview(bytes(64 * MEBIBYTE))
    with pytest.raises(BlockingIOError):  # noqa: PT012 - the send that cannot go on is one of many
        while True:
            taken += sock.send(data[taken:])
    assert 0 < taken < len(data)
    over.set()
    sock.close()
