"""The TLS front: what passes through it, and what strangers can make it hold. Its engine is the far end of the pair."""

from __future__ import annotations

import errno
import socket
import ssl
from contextlib import asynccontextmanager, suppress

import msgpack
import pytest
import trio

from scheduler import tls
from scheduler.config import Address
from scheduler.tls import Certificate, TlsBroken, TlsFront
from tests.certificates import make_authority

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("tls"))


class Front:
    """A running front. `adopted` gives the engine's end of each new connection."""

    def __init__(self, front, listeners, authority, over):
        self.front = front
        self.port = listeners[0].socket.getsockname()[1]
        self.over = over
        self.reports = []
        self.streams = []
        self._authority = authority
        self.send_adopted, self.adopted = trio.open_memory_channel(1000)

    async def adopt(self, fd):
        engine = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=fd)))
        self.streams.append(engine)
        await self.send_adopted.send(engine)

    async def dial(self):
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        self.streams.append(stream)
        return stream

    async def connect(self, context=None):
        """(the client's stream, the engine's)"""
        plain = await self.dial()
        stream = trio.SSLStream(plain, context or self._authority.trusting(), server_hostname="127.0.0.1")
        await stream.do_handshake()
        return stream, await self.adopted.receive()


@asynccontextmanager
async def serving(authority, connections_max=100):
    listeners = await tls.listen(Address("127.0.0.1", 0))
    over = trio.Event()
    made = TlsFront(
        listeners,
        Certificate(authority.cert_file, authority.key_file),
        adopt=lambda fd: front.adopt(fd),
        over=over.wait,
        connections_max=connections_max,
        report=lambda text: front.reports.append(text),
    )
    front = Front(made, listeners, authority, over)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(made.run)
            yield front
            for stream in front.streams:
                stream.socket.close()
            over.set()
            nursery.cancel_scope.cancel()
    finally:
        for stream in front.streams:
            stream.socket.close()
    assert made.open == 0
    assert made.handshakes == 0


async def receive_exactly(stream, count):
    data = bytearray()
    while len(data) < count:
        got = await stream.receive_some()
        assert got, f"ended after {len(data)} of {count} bytes"
        data += got
    return bytes(data)


async def receive_all(stream):
    data = bytearray()
    while got := await stream.receive_some():
        data += got
    return bytes(data)


# ---- what passes through ------------------------------------------------------------------------------------------------


async def test_bytes_pass_both_ways_at_once_and_whole(authority):
    async with serving(authority) as front:
        client, engine = await front.connect()
        up, down = bytes(range(256)) * (MEBIBYTE // 256), b"d" * (2 * MEBIBYTE + 7)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, up)
            nursery.start_soon(engine.send_all, down)
            assert await receive_exactly(engine, len(up)) == up
            assert await receive_exactly(client, len(down)) == down
        assert front.front.open == 1
        assert front.front.figures.accepted == 1


async def test_the_clients_end_reaches_the_engine_and_answers_still_come(authority):
    async with serving(authority) as front:
        client, engine = await front.connect()
        await client.send_all(b"the last request")
        unwrapped = trio.Event()

        async def end():
            await client.unwrap()  # says close_notify, and waits for the other's
            unwrapped.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            assert await receive_all(engine) == b"the last request"
            assert not unwrapped.is_set()
            await engine.aclose()


async def test_what_the_engine_said_last_arrives_though_the_client_went_on_talking(authority):
    async with serving(authority) as front:
        client, engine = await front.connect()
        await client.send_all(b"x" * 100_000)
        await engine.receive_some(1)
        await engine.send_all(b"why you are cut off")
        await engine.aclose()  # with most of what came unread
        assert await receive_all(client) == b"why you are cut off"
        await client.aclose()


async def test_a_client_that_vanishes_ends_the_engines_side(authority):
    async with serving(authority) as front:
        client, engine = await front.connect()
        await client.transport_stream.aclose()  # no close_notify
        assert await receive_all(engine) == b""


async def test_the_service_ends_after_the_engines_last_word(authority):
    heard = bytearray()
    async with trio.open_nursery() as nursery, serving(authority) as front:
        client, engine = await front.connect()
        last = b"y" * 100_000  # fits into the pair, and is all that is ever said
        await engine.send_all(last)

        async def listen():
            heard.extend(await receive_all(client))
            await client.aclose()

        front.streams.clear()
        nursery.start_soon(listen)
    assert bytes(heard) == last
    await engine.aclose()


async def test_after_stop_listening_nobody_new_comes_in_and_the_old_stay(authority):
    async with serving(authority) as front:
        client, engine = await front.connect()
        front.front.stop_listening()
        with pytest.raises(OSError, match="all attempts to connect"):
            await front.dial()
        await client.send_all(b"still here")
        assert await receive_exactly(engine, 10) == b"still here"


# ---- bounds -------------------------------------------------------------------------------------------------------------


async def test_an_engine_that_does_not_read_stops_the_client(authority):
    async with serving(authority) as front:
        client, engine = await front.connect()
        sent = 0

        async def send_for_ever():
            nonlocal sent
            while True:
                await client.send_all(b"z" * 65536)
                sent += 65536

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_for_ever)
            await trio.testing.wait_all_tasks_blocked(0.05)
            held = sent
            assert held < 32 * MEBIBYTE, "nobody holds the client back"
            await receive_exactly(engine, held)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert sent > held, "it goes on once there is room"
            nursery.cancel_scope.cancel()


async def test_who_takes_nothing_for_long_is_cut_off(authority, mock_clock):
    async with serving(authority) as front:
        _client, engine = await front.connect()
        async with trio.open_nursery() as nursery:

            async def say():
                with pytest.raises(trio.BrokenResourceError):
                    await engine.send_all(b"w" * 64 * MEBIBYTE)

            nursery.start_soon(say)
            while front.front.open:
                await trio.testing.wait_all_tasks_blocked(0.01)
                mock_clock.jump(tls.STALL_S / 4)
        assert front.front.figures.stalled == 1


async def test_silence_instead_of_a_handshake_is_not_waited_for_long(authority, mock_clock):
    async with serving(authority) as front:
        silent = await front.dial()
        slow = await front.dial()
        await slow.send_all(b"\x16\x03\x01\x02\x00")  # the start of a handshake, and no more
        while front.front.handshakes < 2:
            await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(tls.HANDSHAKE_S - 0.1)
        await trio.testing.wait_all_tasks_blocked()
        assert front.front.handshakes == 2
        mock_clock.jump(0.2)
        assert await receive_all(silent) == b""
        assert await receive_all(slow) == b""
        assert front.front.figures.timed_out == 2
        client, _ = await front.connect()
        assert client.selected_alpn_protocol() is None


async def test_those_who_stall_do_not_shut_out_those_who_do_not(authority, monkeypatch):
    monkeypatch.setattr(tls, "HANDSHAKES_MAX", 3)
    async with serving(authority) as front:
        stallers = [await front.dial() for _ in range(3)]
        while front.front.handshakes < 3:
            await trio.testing.wait_all_tasks_blocked()
        await front.connect()
        assert await receive_all(stallers[0]) == b"", "the oldest made room"
        assert front.front.figures.crowded_out == 1
        assert front.front.handshakes == 2


async def test_connections_are_bounded(authority):
    async with serving(authority, connections_max=2) as front:
        first, _ = await front.connect()
        await front.connect()
        refused = await front.dial()
        with suppress(trio.BrokenResourceError):
            assert await receive_all(refused) == b""
        assert front.front.figures.refused == 1
        await first.transport_stream.aclose()
        while front.front.open == 2:
            await trio.testing.wait_all_tasks_blocked()
        await front.connect()


async def test_a_client_of_the_plain_protocol_is_told_in_its_own_language(authority):
    async with serving(authority) as front:
        plain = await front.dial()
        await plain.send_all(msgpack.packb([0, 1, "hello", [{}]]))
        kind, msgid, error, result = msgpack.unpackb(await receive_all(plain))
        assert (kind, msgid, error["type"], result) == (1, 0, "BadRequest", None)
        assert "tls://HOST:PORT" in error["message"]
        assert front.front.figures.failed == 1


async def test_rubbish_and_old_versions_end_at_the_handshake(authority):
    async with serving(authority) as front:
        rubbish = await front.dial()
        await rubbish.send_all(b"\x16" + b"\xff" * 100)
        assert await receive_all(rubbish) == b""
        old = authority.trusting()
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(trio.BrokenResourceError):
            await front.connect(old)
        stranger = ssl.create_default_context()  # trusts others
        with pytest.raises(trio.BrokenResourceError) as refused:
            await front.connect(stranger)
        assert isinstance(refused.value.__cause__, ssl.SSLCertVerificationError)
        while front.front.figures.failed < 2:
            await trio.testing.wait_all_tasks_blocked()
        await front.connect()


async def test_without_descriptors_it_tries_again(authority, monkeypatch):
    async with serving(authority) as front:
        await front.connect()
        await trio.testing.wait_all_tasks_blocked()  # in the next accept
        accept, left = trio.SocketListener.accept, [2]

        async def short_of_descriptors(self):
            stream = await accept(self)
            if left[0]:
                left[0] -= 1
                stream.socket.close()
                raise OSError(errno.EMFILE, "Too many open files")
            return stream

        monkeypatch.setattr(trio.SocketListener, "accept", short_of_descriptors)
        monkeypatch.setattr(tls, "ACCEPT_PAUSE_S", 0.001)
        (await front.dial()).socket.close()  # the accept under way is still the true one
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError):
                await front.connect()
        await front.connect()
        assert front.reports == ["connections cannot be accepted: Too many open files"] * 2


# ---- certificate and key -------------------------------------------------------------------------------------------------


async def test_a_renewed_certificate_is_used_from_the_next_connection_on(tmp_path):
    authority = make_authority(tmp_path)
    async with serving(authority) as front:
        first, _ = await front.connect()
        before = first.getpeercert(binary_form=True)
        authority.write()
        second, _ = await front.connect()
        after = second.getpeercert(binary_form=True)
        assert before != after
        authority.key_file.write_text("half written")
        third, _ = await front.connect()
        assert third.getpeercert(binary_form=True) == after, "what cannot be used is not"
        await front.connect()
        assert len(front.reports) == 1, "and is told of once"
        assert "stays in use" in front.reports[0]


def broken(tmp_path, damage):
    authority = make_authority(tmp_path)
    damage(authority)
    with pytest.raises(TlsBroken) as error:
        Certificate(authority.cert_file, authority.key_file)
    return str(error.value)


def with_passphrase(authority):
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(authority.key_file.read_bytes(), None)
    authority.key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


def another_key(authority):
    cert = authority.cert_file.read_bytes()
    authority.write()
    authority.cert_file.write_bytes(cert)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda a: a.cert_file.unlink(), "tls_cert_file {cert}: No such file or directory"),
        (lambda a: a.key_file.unlink(), "tls_key_file {key}: No such file or directory"),
        (lambda a: a.cert_file.write_text("no"), "tls_cert_file {cert}: holds no certificate in PEM"),
        (lambda a: a.cert_file.write_bytes(b""), "tls_cert_file {cert}: holds no certificate in PEM"),
        (lambda a: a.key_file.write_text("no"), "tls_key_file {key}: holds no private key in PEM"),
        (lambda a: a.key_file.chmod(0o644), "tls_key_file {key}: has mode 0644"),
        (lambda a: a.key_file.chmod(0o620), "tls_key_file {key}: has mode 0620"),
        (with_passphrase, "tls_key_file {key}: has a passphrase"),
        (another_key, "tls_key_file {key}: is not the key of the certificate in {cert}"),
    ],
)
def test_what_is_wrong_names_the_file_and_the_reason(tmp_path, damage, says):
    expected = says.format(cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    assert broken(tmp_path, damage).startswith(f"BadRequest: {expected}")


def test_a_key_that_its_group_may_read_is_fine(tmp_path):
    authority = make_authority(tmp_path)
    authority.key_file.chmod(0o640)
    Certificate(authority.cert_file, authority.key_file)


async def test_an_address_in_use_is_an_error_at_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match="in use") as refused:
            await tls.listen(Address("127.0.0.1", taken.getsockname()[1]))
        assert refused.value.errno == errno.EADDRINUSE
