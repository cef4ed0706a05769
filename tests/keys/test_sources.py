"""Sources of data keys: one suite for all, and what is peculiar to each."""

from __future__ import annotations

import re
import ssl

import pytest
import trio
import trustme

from scheduler.config import ConfigError, load
from scheduler.keyring import Keyring
from scheduler.keys.awskms import AwsKms, Credentials
from scheduler.keys.configured import key_source
from scheduler.keys.embedded import EmbeddedKeys
from scheduler.keys.envelopes import CACHE_MAX, Envelopes
from scheduler.keys.http import Address
from scheduler.keys.port import KeyProblem, Trouble
from scheduler.keys.vault import VaultTransit
from tests.keys.doubles import ACCESS_KEY, TOKEN, KmsDouble, VaultDouble, serving

CONTEXT = {"for": "environment", "LambdaFunctionName": "hello"}
OTHER = {"for": "environment", "LambdaFunctionName": "other"}


def credentials(tmp_path, secret=ACCESS_KEY.secret, token=""):
    path = tmp_path / "credentials"
    more = f"aws_session_token = {token}\n" if token else ""
    path.write_text(f"[default]\naws_access_key_id = {ACCESS_KEY.id}\naws_secret_access_key = {secret}\n{more}")
    path.chmod(0o600)
    return path


def token_file(tmp_path, token=TOKEN):
    path = tmp_path / "token"
    path.write_text(token + "\n")
    path.chmod(0o600)
    return path


def kms_at(url, tmp_path, key_id="alias/main"):
    return AwsKms(Address.parse(url), key_id=key_id, region="local", credentials=Credentials(credentials(tmp_path)))


def vault_at(url, tmp_path, key="main"):
    return VaultTransit(Address.parse(url), mount="transit", key=key, token_file=token_file(tmp_path))


@pytest.fixture
def kms():
    double = KmsDouble()
    with serving(double) as url:
        double.url = url
        yield double


@pytest.fixture
def vault():
    double = VaultDouble()
    with serving(double) as url:
        double.url = url
        yield double


@pytest.fixture(params=["embedded", "kms", "vault"])
def source(request, tmp_path):
    if request.param == "embedded":
        return EmbeddedKeys(Keyring.open(tmp_path / "keyring.json"))
    double = request.getfixturevalue(request.param)
    return (kms_at if request.param == "kms" else vault_at)(double.url, tmp_path)


async def problem_of(awaitable):
    with pytest.raises(KeyProblem) as caught:
        await awaitable
    return caught.value


async def test_what_every_source_does(source):
    made = await source.generate(CONTEXT)
    assert len(made.plain) == 32
    assert made.wrapped.split(".")[0] == source.kind
    assert re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9+/=_-]+){2}", made.wrapped)
    assert (await source.generate(CONTEXT)).plain != made.plain
    assert await source.unwrap(made.wrapped, CONTEXT) == made.plain
    given = bytes(range(32))
    assert await source.unwrap(await source.wrap(given, CONTEXT), CONTEXT) == given
    assert source.is_current(made.wrapped)
    anew = await source.rewrap(made.wrapped, CONTEXT)
    assert anew != made.wrapped
    assert await source.unwrap(anew, CONTEXT) == made.plain
    assert made.plain.hex() not in repr(made)
    for wrong, context in ((made.wrapped, OTHER), (made.wrapped[:-8] + "AAAAAAA=", CONTEXT), (source.kind + ".1", CONTEXT)):
        assert (await problem_of(source.unwrap(wrong, context))).lasting


async def test_a_rotation_wraps_anew_and_what_is_older_opens(source):
    made = await source.generate(CONTEXT)
    await source.rotate()
    assert await source.unwrap(made.wrapped, CONTEXT) == made.plain
    anew = await source.rewrap(made.wrapped, CONTEXT)
    assert source.is_current(anew)
    assert await source.unwrap(anew, CONTEXT) == made.plain
    shown = await source.generations()
    assert shown[-1].current
    if source.kind != "kms":  # whose generations nobody but it can see
        assert len(shown) == 2
        assert not source.is_current(made.wrapped)


async def test_envelopes_change_their_source_and_touch_no_ciphertext(tmp_path, kms, vault):
    embedded = EmbeddedKeys(Keyring.open(tmp_path / "keyring.json"))
    chain = [embedded, kms_at(kms.url, tmp_path), vault_at(vault.url, tmp_path), embedded]
    stored = await Envelopes(embedded).seal(b"text", CONTEXT)
    for source in chain[1:]:
        envelopes = Envelopes(source, others=chain[:-1])
        assert not envelopes.is_current(stored["under"])
        sealed, under = stored["sealed"], await envelopes.rewrap(stored["under"], CONTEXT)
        stored = {"sealed": sealed, "under": under}
        assert envelopes.is_current(under)
        assert await envelopes.open(stored, CONTEXT) == b"text"
        assert (await problem_of(envelopes.open(stored, OTHER))).lasting
        with pytest.raises(KeyProblem):  # without what wrapped it
            await Envelopes(embedded if source is not embedded else chain[1]).open(stored, CONTEXT)


async def test_data_keys_of_a_server_are_kept_for_a_while_and_not_without_bound(tmp_path, kms):
    now = 0.0
    envelopes = Envelopes(kms_at(kms.url, tmp_path), keep_s=300, now_s=lambda: now)
    stored = await envelopes.seal(b"text", CONTEXT)
    assert envelopes.usable_now(stored["under"], CONTEXT) is None
    asked = len(kms.requests)
    for _ in range(3):
        assert await envelopes.open(stored, CONTEXT) == b"text"
    assert len(kms.requests) == asked + 1
    kms.disabled.add("alias/main")
    assert envelopes.usable_now(stored["under"], CONTEXT) is True
    assert envelopes.usable_now(stored["under"], OTHER) is None, "kept for what it was opened for"
    assert await problem_of(envelopes.open(stored, CONTEXT))
    kms.disabled.clear()
    assert await envelopes.open(stored, CONTEXT) == b"text"
    now = 301.0
    kms.disabled.add("alias/main")
    assert (await problem_of(envelopes.open(stored, CONTEXT))).trouble is Trouble.DISABLED
    for number in range(CACHE_MAX + 10):
        envelopes._keep(str(number), b"", bytes(32))
    assert len(envelopes._kept) == CACHE_MAX


async def test_a_server_that_is_away_is_not_waited_for_by_each(tmp_path, vault):
    now = 0.0
    envelopes = Envelopes(vault_at(vault.url, tmp_path), keep_s=0, now_s=lambda: now)
    stored = await envelopes.seal(b"text", CONTEXT)
    vault.sealed = True
    asked = len(vault.requests)
    for _ in range(5):
        assert not (await problem_of(envelopes.open(stored, CONTEXT))).lasting
    assert len(vault.requests) == asked + 1
    vault.sealed, now = False, 3.0
    assert await envelopes.open(stored, CONTEXT) == b"text"


async def test_troubles_of_a_kms_are_told_as_lambda_tells_them(tmp_path, kms):
    made = await kms_at(kms.url, tmp_path).generate(CONTEXT)
    assert (await problem_of(kms_at(kms.url, tmp_path, "alias/none").generate(CONTEXT))).code == "KMSNotFoundException"
    kms.disabled.add("alias/main")
    disabled = await problem_of(kms_at(kms.url, tmp_path).unwrap(made.wrapped, CONTEXT))
    assert (disabled.code, disabled.lasting) == ("KMSDisabledException", True)
    kms.disabled.clear()
    source = kms_at(kms.url, tmp_path)
    credentials(tmp_path, secret="wrong")
    assert (await problem_of(source.generate(CONTEXT))).code == "KMSAccessDeniedException"
    kms.token = "session"
    credentials(tmp_path, token="session")
    assert await source.unwrap(made.wrapped, CONTEXT) == made.plain, "credentials are read anew"
    (tmp_path / "credentials").chmod(0o640)
    assert "chmod 600" in str(await problem_of(source.generate(CONTEXT)))
    closed = kms_at("http://127.0.0.1:1", tmp_path)
    away = await problem_of(closed.generate(CONTEXT))
    assert (away.code, away.lasting) == ("KMSInvalidStateException", False)


async def test_troubles_of_vault_are_told_as_lambda_tells_them(tmp_path, vault):
    made = await vault_at(vault.url, tmp_path).generate(CONTEXT)
    assert (await problem_of(vault_at(vault.url, tmp_path, "none").generate(CONTEXT))).code == "KMSNotFoundException"
    source = vault_at(vault.url, tmp_path)
    token_file(tmp_path, "hvs.wrong")
    refused = await problem_of(source.generate(CONTEXT))
    assert refused.code == "KMSAccessDeniedException"
    assert "hvs" not in str(refused)
    token_file(tmp_path)
    vault.sealed = True
    away = await problem_of(source.unwrap(made.wrapped, CONTEXT))
    assert (away.code, away.lasting) == ("KMSInvalidStateException", False)


async def test_no_key_and_no_text_is_in_an_error(tmp_path, kms):
    plain = b"planted-text-of-a-secret-32-byte"
    source = kms_at(kms.url, tmp_path)
    wrapped = await source.wrap(plain, CONTEXT)
    for awaitable in (source.unwrap(wrapped, OTHER), kms_at(kms.url, tmp_path, "alias/none").wrap(plain, CONTEXT)):
        told = str(await problem_of(awaitable))
        assert "planted" not in told
        assert wrapped not in told


async def test_a_key_server_is_asked_over_tls_of_the_authorities_that_are_told(tmp_path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    file = token_file(tmp_path)

    async def one(stream):
        stream = trio.SSLStream(stream, context, server_side=True)
        with trio.move_on_after(5):
            try:
                await stream.receive_some(65536)
                await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n{}")
            except trio.BrokenResourceError:
                await stream.transport_stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, one, listeners)
        url = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        for ca, word in (("ca.pem", "KMSAccessDeniedException"), ("other.pem", "KMSInvalidStateException")):
            source = VaultTransit(Address.parse(url, tmp_path / ca), mount="transit", key="main", token_file=file)
            assert (await problem_of(source.generate(CONTEXT))).code == word
        nursery.cancel_scope.cancel()


def test_settings_of_a_key_server_are_whole_or_refused(tmp_path):
    given = {"key_source": "kms", "key_server": "https://kms.example", "key_id": "alias/a"}
    with pytest.raises(ConfigError, match="needs key_credentials_file"):
        load(given)
    given["key_credentials_file"] = str(credentials(tmp_path))
    with pytest.raises(ConfigError, match="in the clear"):
        load({**given, "key_server": "http://kms.example"})
    with pytest.raises(ConfigError, match="is not https"):
        load({**given, "key_server": "ftp://kms.example"})
    with pytest.raises(ConfigError, match="asks no key server"):
        load({**given, "key_source": "keyring"})
    settings = load({**given, "key_ca_file": str(tmp_path / "none.pem")})
    with pytest.raises(ConfigError, match="key_ca_file"):
        key_source(settings, EmbeddedKeys(Keyring.open(tmp_path / "keyring.json")))
