"""`token`, and the options that let a client in over TCP: --token-file, --tls, --tls-ca."""

from __future__ import annotations

import json
import os
import ssl
import stat

import pytest

from scheduler import tokens
from scheduler.tokens import digest, read_rows
from tests.certificates import make_authority
from tests.client.fake_service import FakeService


@pytest.fixture
def token(scheduler):
    """`token("create", ...)`: the command needs no service."""

    def call(*args, file="tokens.toml"):
        return scheduler("token", *args, *(["--token-file", str(file)] if file else []), socket=None)

    return call


# ---- token --------------------------------------------------------------------------------------------------------------


def test_create_prints_the_token_once_and_keeps_its_hash(token, tmp_path):
    ran = token("create", "--name", "web", "--rights", "invoke,deploy", "--tenant", "acme")
    assert ran.code == 0
    text = ran.out.strip()
    assert ran.out == text + "\n", "stdout has the token and nothing else, for > FILE"
    assert read_rows(tmp_path / "tokens.toml") == (tokens.TokenRow("web", digest(text), ("invoke", "deploy"), "acme"),)
    assert text not in (tmp_path / "tokens.toml").read_text()
    assert text not in ran.err
    assert stat.S_IMODE((tmp_path / "tokens.toml").stat().st_mode) == 0o600
    assert "next: scheduler serve --tcp HOST:PORT --token-file tokens.toml" in ran.err
    assert "next:" not in token("create", "--name", "second", "--rights", "invoke").err, "the file was there"


def test_create_in_json(token):
    made = json.loads(token("create", "--name", "ci", "--rights", "admin", "--json").out)
    assert digest(made.pop("token")) == made.pop("sha256")
    assert made == {"name": "ci", "tenant": None, "rights": ["admin"], "file": "tokens.toml"}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--rights", "invoke"), "Missing option '--name'"),
        (("--name", "a"), "Missing option '--rights'"),
        (("--name", "a", "--rights", "fly"), "'fly' is not one of invoke, deploy, admin"),
        (("--name", "a", "--rights", ","), "rights: there are none"),
        (("--name", "", "--rights", "invoke"), "--name: ''"),
        (("--name", "a", "--rights", "admin", "--tenant", "t"), "over all tenants"),
        (("--name", "a", "--rights", "invoke", "--tenant", "a b"), "--tenant: 'a b'"),
    ],
)
def test_create_says_what_is_wrong_and_writes_nothing(token, tmp_path, args, says):
    ran = token("create", *args)
    assert (ran.code, ran.out) == (2, "")
    assert says in ran.err
    assert not (tmp_path / "tokens.toml").exists()


def test_a_name_twice_is_refused(token):
    assert token("create", "--name", "a", "--rights", "invoke").code == 0
    ran = token("create", "--name", "a", "--rights", "invoke")
    assert (ran.code, ran.out, "'a' is taken" in ran.err) == (2, "", True)


def test_list_shows_names_tenants_and_rights(token):
    token("create", "--name", "web", "--rights", "invoke")
    token("create", "--name", "ci", "--rights", "invoke,deploy", "--tenant", "acme")
    lines = token("list").out.splitlines()
    assert lines[0].split() == ["NAME", "TENANT", "RIGHTS", "SHA256"]
    assert lines[1].split()[:3] == ["web", "all", "invoke"]
    assert lines[2].split()[:4] == ["ci", "acme", "invoke,", "deploy"]
    told = json.loads(token("list", "--json").out)
    assert [(row["name"], row["tenant"], row["rights"]) for row in told] == [
        ("web", None, ["invoke"]),
        ("ci", "acme", ["invoke", "deploy"]),
    ]


def test_revoke_takes_it_out_and_guesses_a_mistyped_name(token, tmp_path):
    token("create", "--name", "web", "--rights", "invoke")
    token("create", "--name", "ci", "--rights", "invoke")
    ran = token("revoke", "wbe")
    assert (ran.code, "Did you mean 'web'?" in ran.err) == (2, True)
    assert token("revoke", "web").out == "revoked 'web'\n"
    assert [row.name for row in read_rows(tmp_path / "tokens.toml")] == ["ci"]
    assert json.loads(token("revoke", "ci", "--json").out)["revoked"]["name"] == "ci"
    ran = token("list")
    assert (ran.code, ran.out) == (0, "")
    assert "next: scheduler token create" in ran.err


def test_the_services_own_variable_names_the_file(token, monkeypatch, tmp_path):
    ran = token("list", file=None)
    assert (ran.code, "--token-file is needed" in ran.err) == (2, True)
    monkeypatch.setenv("SCHEDULER_TOKEN_FILE", str(tmp_path / "other"))
    assert token("create", "--name", "a", "--rights", "invoke", file=None).code == 0
    assert (tmp_path / "other").exists()


@pytest.mark.parametrize("command", [("list",), ("revoke", "a"), ("create", "--name", "a", "--rights", "invoke")])
def test_a_file_that_cannot_be_used_is_named(token, tmp_path, command):
    path = tmp_path / "tokens.toml"
    path.write_text("no toml")
    ran = token(*command)
    assert (ran.code, ran.out) == (2, "")
    assert "tokens.toml: is not TOML" in ran.err
    path.chmod(0o666)
    assert "others than its owner may write to it" in token(*command).err


def test_a_mistyped_subcommand_is_guessed(token):
    assert "Did you mean 'revoke'?" in token("revok", "a").err


def test_names_and_rights_are_completed(token, process, tmp_path, monkeypatch):
    token("create", "--name", "web", "--rights", "invoke")
    token("create", "--name", "ci", "--rights", "invoke")

    def complete(line, **env):
        words = line.split(" ")
        asked = {"_SCHEDULER_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), **env}
        return process(env=asked).out.split()

    assert complete("scheduler token re") == ["plain,revoke"]
    file = {"SCHEDULER_TOKEN_FILE": str(tmp_path / "tokens.toml")}
    assert complete("scheduler token revoke ", **file) == ["plain,web", "plain,ci"]
    assert complete("scheduler token create --rights invoke,a") == ["plain,invoke,admin"]


# ---- over TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def secured(authority):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.cert_file, authority.key_file)
    with FakeService(("127.0.0.1", 0), context) as fake:
        yield fake


@pytest.mark.parametrize(
    ("scheme", "options"),
    [("tls", ()), ("tcp", ("--tls",)), ("tcp", ())],  # --tls-ca alone says it too
)
def test_a_command_over_tls_presents_its_token(scheduler, secured, authority, tmp_path, scheme, options):
    (tmp_path / "t").write_text("secret\n")
    address = f"{scheme}://127.0.0.1:{secured.address[1]}"
    ran = scheduler(
        *options, "--tls-ca", str(authority.ca_file), "--token-file", "t", "invoke", "hello", '{"a": 1}', socket=address
    )
    assert (ran.code, ran.out, ran.err) == (0, '{"a": 1}\n', "")
    assert secured.requests[0][2:] == ["hello", [{**secured.requests[0][3][0], "token": "secret"}]]


def test_the_options_may_stand_after_the_command_and_in_the_environment(scheduler, secured, authority, monkeypatch):
    port = secured.address[1]
    after = ("--tls-ca", str(authority.ca_file), "--socket", f"tcp://127.0.0.1:{port}")
    assert scheduler("list", *after, socket=None).code == 0
    monkeypatch.setenv("SCHEDULER_CLIENT_TLS_CA_FILE", str(authority.ca_file))
    assert scheduler("list", socket=f"tls://127.0.0.1:{port}").code == 0
    assert scheduler("list").code == 0, "a Unix socket does not mind it"


def test_bench_goes_over_tls_too(scheduler, secured, authority):
    address = f"tls://127.0.0.1:{secured.address[1]}"
    ran = scheduler("bench", "hello", "-n", "2", "-c", "10", "--tls-ca", str(authority.ca_file), "--json", socket=address)
    assert json.loads(ran.out)["ok"] == 10


def test_a_certificate_that_is_not_trusted_is_one_line_with_the_next_step(scheduler, secured):
    ran = scheduler("list", socket=f"tls://127.0.0.1:{secured.address[1]}")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.count("\n") == 1
    assert "its certificate is not trusted" in ran.err
    assert "next: the right --tls-ca FILE" in ran.err
    assert secured.requests == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--tls",), "TLS goes with tcp://HOST:PORT or tls://HOST:PORT, not with the Unix socket"),
        (("--tls-ca", "none"), "--tls-ca none: cannot be read: No such file or directory"),
        (("--tls-ca", os.devnull), "holds no certificate in PEM"),
        (("--token-file", "none"), "--token-file none: cannot be read: No such file or directory"),
    ],
)
def test_what_is_wrong_with_the_options(scheduler, options, says):
    ran = scheduler("list", *options)
    assert (ran.code, says in ran.err) == (2, True), ran.err
