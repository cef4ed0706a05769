"""Tokens and rights."""

from __future__ import annotations

import hashlib
import os

import pytest

from scheduler.control.access import BAD_TOKENS_MAX, Connections, TokenFile
from scheduler.errors import Unauthorized
from scheduler.messages import Right
from scheduler.tokens import TokenFileBroken


def digest(token):
    return hashlib.sha256(token.encode()).hexdigest()


def write(path, text, mode=0o600):
    path.write_text(text)
    os.chmod(path, mode)
    return path


def row(token, rights='["invoke"]', more=""):
    return f'[[tokens]]\nsha256 = "{digest(token)}"\nrights = {rights}\n{more}\n'


def test_tokens_give_what_they_say(tmp_path):
    path = write(tmp_path / "t", row("a", '["invoke", "deploy"]', 'tenant = "acme"') + row("b", '["admin"]'))
    tokens = TokenFile(path)
    assert tokens.find("a").rights == Right.INVOKE | Right.DEPLOY
    assert tokens.find("a").tenant == "acme"
    assert tokens.find("b").rights == Right.ADMIN
    assert tokens.find("c") is None
    assert tokens.find("") is None
    assert tokens.find("\ud800") is None, "what MessagePack may bring"


def test_a_token_taken_out_is_refused_from_the_next_hello_on(tmp_path):
    path = write(tmp_path / "t", row("a"))
    connections = Connections(TokenFile(path))
    connections.opened(1, tcp=True, peer_uid=0)
    connection = connections.get(1)
    connections.hello(connection, "a")
    assert connection.rights == Right.INVOKE
    write(path, row("b"))
    os.utime(path, ns=(1, 1))
    with pytest.raises(Unauthorized):
        connections.hello(connection, "a")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("tokens = 5", "tokens"),
        ("[[tokens]]\n", "sha256"),
        ('[[tokens]]\nsha256 = "ABC"\nrights = ["invoke"]', "sha256"),
        (row("a", "[]"), "rights"),
        (row("a", '["fly"]'), "rights"),
        (row("a", '["admin"]', 'tenant = "x"'), "admin"),
        (row("a", more='colour = "red"'), "colour"),
        ("not toml at all", "TOML"),
        ("[other]\n", "nothing else"),
    ],
)
def test_a_broken_file_says_where(tmp_path, text, says):
    with pytest.raises(TokenFileBroken, match=says):
        TokenFile(write(tmp_path / "t", text))


def test_a_file_that_others_may_write_is_refused(tmp_path):
    with pytest.raises(TokenFileBroken, match="others"):
        TokenFile(write(tmp_path / "t", row("a"), 0o666))
    with pytest.raises(TokenFileBroken):
        TokenFile(tmp_path / "none")


def test_unix_peers_have_all_rights_and_tcp_peers_none_before_hello(tmp_path):
    connections = Connections(None)
    connections.opened(1, tcp=False, peer_uid=0)
    connections.opened(2, tcp=True, peer_uid=0)
    assert connections.get(1).rights == Right.ALL
    assert connections.get(2).rights == Right.NONE
    connections.hello(connections.get(2), None)
    assert connections.get(2).rights == Right.INVOKE | Right.DEPLOY, "any user of the machine may connect: no admin"
    with_file = Connections(TokenFile(write(tmp_path / "t", row("a"))))
    with_file.opened(3, tcp=True, peer_uid=0)
    with pytest.raises(Unauthorized, match="required"):
        with_file.hello(with_file.get(3), None)


def test_wrong_tokens_are_counted_and_exhaust_a_connection(tmp_path):
    connections = Connections(TokenFile(write(tmp_path / "t", row("a"))))
    connections.opened(1, tcp=True, peer_uid=0)
    connection = connections.get(1)
    for n in range(BAD_TOKENS_MAX):
        assert not connections.exhausted(connection), n
        with pytest.raises(Unauthorized):
            connections.hello(connection, "wrong")
    assert connections.exhausted(connection)
    assert connections.bad_tokens_total == BAD_TOKENS_MAX
    connections.closed(1)
    assert connections.get(1) is None
    assert len(connections) == 0


def test_whose_token_goes_or_changes_is_found_once(tmp_path):
    path = write(tmp_path / "t", row("a") + row("b") + row("c"))
    connections = Connections(TokenFile(path))
    for number, token in ((1, "a"), (2, "b"), (3, "c"), (4, None)):
        connections.opened(number, tcp=token is not None, peer_uid=0)
        connections.hello(connections.get(number), token)
    assert connections.revoked() == []
    write(path, row("a") + row("c", '["deploy"]'))
    assert sorted(connections.revoked()) == [2, 3]
    assert connections.revoked() == [], "told once"
    connections.closed(2)
    write(path, "tokens = 5")
    with pytest.raises(TokenFileBroken):
        connections.revoked()
    connections.hello(connections.get(3), "a")
    assert connections.get(3).rights == Right.INVOKE, "what was known before counts while the file is broken"
    write(path, row("c", '["deploy"]'))
    assert sorted(connections.revoked()) == [1, 3]


def test_a_hello_that_meets_the_change_first_hides_it_from_nobody(tmp_path):
    path = write(tmp_path / "t", row("a") + row("b"))
    connections = Connections(TokenFile(path))
    for number, token in ((1, "a"), (2, "b")):
        connections.opened(number, tcp=True, peer_uid=0)
        connections.hello(connections.get(number), token)
    write(path, row("b"))
    connections.hello(connections.get(2), "b")
    assert connections.revoked() == [1]
