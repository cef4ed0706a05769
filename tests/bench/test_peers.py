"""Peers: fetched only when asked to, whole or not at all, and never anywhere but in the cache."""

import contextlib
import sys

import pytest

from bench import peers
from bench.peers import peer as module
from bench.service import free_port


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "invocation-scheduler" / "peers"


def make(install, name="some"):
    return peers.Peer(name=name, least=2, connections=1, install=install, start=lambda *_: contextlib.nullcontext("/"))


def test_it_is_fetched_once_and_only_when_that_is_asked_for(cache):
    calls = []

    def install(directory):
        calls.append(directory)
        (directory / "program").write_text("x")
        return {"some": "1.2"}

    with pytest.raises(peers.Missing, match="--peers"):
        peers.installed(make(install), install=False)
    assert calls == []
    here = peers.installed(make(install), install=True)
    assert (here.directory, here.text) == (cache / "some", "some 1.2")
    assert (here.directory / "program").read_text() == "x"
    assert peers.installed(make(install), install=False) == here
    assert len(calls) == 1


def test_what_fails_half_way_leaves_nothing(cache):
    def install(directory):
        (directory / "half").write_text("x")
        raise peers.Missing("no such package")

    with pytest.raises(peers.Missing, match="no such package"):
        peers.installed(make(install), install=True)
    assert list(cache.iterdir()) == []


def test_a_relative_cache_directory_does_not_count(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", "/nowhere")
    assert str(module.cache()) == "/nowhere/.cache/invocation-scheduler/peers"


def test_an_installer_that_is_absent_fails_or_takes_too_long(tmp_path, monkeypatch):
    with pytest.raises(peers.Missing, match="no-such-program is not installed"):
        module.run_installer(["no-such-program"], cwd=tmp_path)
    with pytest.raises(peers.Missing, match=r"ended with 1: no room"):
        module.run_installer([sys.executable, "-c", "raise SystemExit('no room')"], cwd=tmp_path)
    monkeypatch.setattr(module, "INSTALL_TIMEOUT_S", 0.05)
    with pytest.raises(peers.Missing, match=r"not done within 0\.05 s"):
        module.run_installer(["sleep", "5"], cwd=tmp_path)


def test_a_peer_that_does_not_come_up_says_what_it_said(tmp_path):
    with (
        pytest.raises(RuntimeError, match="no such thing"),
        module.running(["sh", "-c", "echo no such thing; exit 3"], cwd=tmp_path, port=free_port()),
    ):
        pass


def test_every_peer_has_a_target_and_those_that_cannot_be_had_a_reason():
    assert {peer.name: peer.least for peer in peers.PEERS} == {"aws-lambda-rie": 20, "workerd": 3}
    assert all(absent.least > 0 and "not installable here" in absent.reason for absent in peers.ABSENT)
