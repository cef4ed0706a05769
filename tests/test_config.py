"""Settings: one table, four sources, all problems at once."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from scheduler import config
from scheduler.config import SETTINGS, TENANT_SETTINGS, Address, ConfigError, Kind, load

ROWS = {setting.name: setting for setting in SETTINGS}


def problems(flags=None, environ=None, file=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(flags, environ, file)
    return "\n".join(caught.value.problems)


@pytest.fixture
def toml(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "scheduler.toml"
        path.write_text(text)
        return path

    return write


def test_the_manual_is_current():
    page = Path(__file__).parents[1] / "docs" / "settings.md"
    assert page.read_text() == config.manual(), "write it anew: python -m scheduler.config > docs/settings.md"


def test_rows_and_attributes_are_the_same():
    for owner, rows in ((config.Settings, SETTINGS), (config.TenantSettings, TENANT_SETTINGS)):
        names = [field.name for field in dataclasses.fields(owner)]
        assert [row.name for row in rows] == [name for name in names if name not in ("tenants", "name")]


@pytest.mark.parametrize("row", SETTINGS + TENANT_SETTINGS, ids=lambda row: row.name)
def test_each_row_is_whole(row):
    assert row.help
    assert row.minimum <= row.maximum
    assert (
        row.name.endswith(("_ms", "_us", "_s", "_mb_max", "_bytes_max", "_max", "_min", "_total_max"))
        or row.kind is not Kind.INT
        or (row.name in ("cpus", "shells_ahead", "scratch_ahead", "sandbox_uid_base", "weight"))
    ), "a number's name says what it counts"
    if row.default is not None:
        assert row.read(row.default) == row.default


def test_defaults_need_nothing():
    settings = load()
    assert settings.state_dir == Path.cwd() / "state"
    assert settings.socket == settings.state_dir / "scheduler.sock"
    assert settings.metrics == Address("127.0.0.1", 9464)
    assert (settings.tcp, settings.isolation, settings.queue_timeout_ms) == (None, "auto", 1000)
    assert (settings.functions_max, settings.sandboxes_max, settings.calls_max) == (1024, 1024, 65536)


def test_precedence(toml):
    file = toml("idle_timeout_s = 1\nshells_max = 10\nahead_max = 3\n")
    environ = {"SCHEDULER_IDLE_TIMEOUT_S": "2", "SCHEDULER_SHELLS_MAX": "20"}
    settings = load({"idle_timeout_s": 3, "shells_max": None}, environ, file)
    assert (settings.idle_timeout_s, settings.shells_max, settings.ahead_max, settings.cpus) == (3, 20, 3, 0)


def test_the_file_can_be_named_by_the_environment(toml):
    file = toml("ahead_max = 3\n")
    assert load(environ={"SCHEDULER_CONFIG": str(file)}).ahead_max == 3
    assert "does-not-exist.toml: cannot be read: No such file" in problems(environ={"SCHEDULER_CONFIG": "does-not-exist.toml"})


def test_paths_are_absolute_and_the_socket_stays_where_one_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load({"state_dir": "s", "socket": "x.sock", "token_file": "tokens"})
    assert settings.state_dir == tmp_path / "s"
    assert settings.socket == tmp_path / "x.sock"
    assert settings.token_file == tmp_path / "tokens"
    assert load({"state_dir": "s"}).socket == tmp_path / "s" / "scheduler.sock"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:80", Address("127.0.0.1", 80)),
        ("localhost:0", Address("127.0.0.1", 0)),
        ("[::1]:9464", Address("::1", 9464)),
        ("none", None),
        ("", None),
    ],
)
def test_addresses(text, address):
    settings = load({"metrics": text})
    assert settings.metrics == address
    if address is not None:
        assert ROWS["metrics"].read(str(address)) == address


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"idle_timeout_s": "ten"}, "flag --idle-timeout-s: 'ten' is not a whole number"),
        ({"idle_timeout_s": 1.5}, "flag --idle-timeout-s: 1.5 is not a whole number"),
        ({"idle_timeout_s": True}, "flag --idle-timeout-s: True is not a whole number"),
        ({"idle_timeout_s": "0"}, "flag --idle-timeout-s: '0' is out of bounds: 1 to 86400"),
        ({"ahead_max": 33}, "flag --ahead-max: 33 is out of bounds: 1 to 32"),
        ({"isolation": "none"}, "flag --isolation: 'none' is not one of auto, process"),
        ({"metrics": "example.org:80"}, "flag --metrics: 'example.org:80' is not HOST:PORT with a numeric host"),
        ({"metrics": "127.0.0.1:99999"}, "flag --metrics: '127.0.0.1:99999' has no port of 0 to 65535"),
        ({"metrics": "127.0.0.1:٣"}, "has no port of 0 to 65535"),
        ({"metrics": 80}, "flag --metrics: 80 is not HOST:PORT"),
        ({"allowed_uids": "1,x"}, "flag --allowed-uids: '1,x' holds 'x', which is no user id"),
        ({"allowed_uids": list(range(17))}, "has 17 user ids, the limit is 16"),
        ({"sandbox_network_range": "10.0.0.0/8"}, "'10.0.0.0/8' is out of bounds: A.B.C.D/16 to A.B.C.D/18"),
        ({"sandbox_network_range": "10.0.0.1/16"}, "holds '10.0.0.1/16', which is no IPv4 network"),
        ({"sandbox_network_range": 10}, "is 10, which is no IPv4 network"),
        ({"sandbox_network_allowed": "10.0.0.0/8, fd00::/8"}, "holds 'fd00::/8', which is no IPv4 network"),
        ({"sandbox_network_allowed": [f"10.{n}.0.0/16" for n in range(33)]}, "has 33 networks, the limit is 32"),
        ({"sandbox_network_allowed": [10]}, "is no list of IPv4 networks"),
        ({"sandbox_name_servers": "1.1.1.1,dns"}, "holds 'dns', which is no IPv4 address"),
        ({"sandbox_name_servers": "1.1.1.1,2.2.2.2,3.3.3.3,4.4.4.4"}, "has 4 addresses, the limit is 3"),
        ({"state_dir": "a\0b"}, "is not a path"),
        ({"account_id": "12345678901x"}, "account_id: '12345678901x' is not twelve digits"),
        ({"account_id": "1"}, "flag --account-id: '1' is not 12 printable characters"),
        ({"region": "a b"}, "region: 'a b' is not made of letters"),
        ({"tcp": "0.0.0.0:7000"}, "tcp: 0.0.0.0:7000 can be reached from other machines, which needs token_file"),
        (
            {"tcp": "0.0.0.0:7000", "token_file": "t"},
            "tcp: 0.0.0.0:7000 can be reached from other machines and would carry tokens in the clear: give tls_cert_file and "
            "tls_key_file, or say tcp_plaintext = true",
        ),
        ({"tcp": "[::]:7000", "token_file": "t", "tcp_plaintext": "false"}, "would carry tokens in the clear"),
        ({"tcp": "127.0.0.1:7000", "tls_cert_file": "/c"}, "tls_cert_file: '/c' needs tls_key_file beside it"),
        ({"tcp": "127.0.0.1:7000", "tls_key_file": "/k"}, "tls_key_file: '/k' needs tls_cert_file beside it"),
        ({"tls_cert_file": "/c", "tls_key_file": "/k"}, "tls_cert_file: is given but tcp is not"),
        ({"tcp_plaintext": "maybe"}, "flag --tcp-plaintext: 'maybe' is not true or false"),
        ({"tcp_plaintext": 1}, "flag --tcp-plaintext: 1 is not true or false"),
        ({"shells_ahead": 40}, "shells_ahead: 40 is more than shells_max, which is 32"),
        ({"concurrency_max": 50}, "unreserved_concurrency_min: 100 is more than concurrency_max, which is 50"),
        ({"socket": "/" + "s" * 107}, "is longer than a Unix socket's path can be, 107 bytes"),
        ({"state_dir": "/" + "s" * 300}, "is too long: the path of its logs"),
        ({"idle_time_s": 1}, "flags: no setting is called 'idle_time_s'; did you mean idle_timeout_s?"),
    ],
)
def test_what_is_wrong_is_named_with_source_value_and_bound(flags, expected):
    assert expected in problems(flags)


def test_a_reachable_address_needs_tokens_and_tls_or_an_explicit_word(toml):
    far = {"tcp": "0.0.0.0:7000", "token_file": "t"}
    encrypted = load({**far, "tls_cert_file": "c", "tls_key_file": "k"})
    assert (encrypted.tls, encrypted.exposed) == (True, False)
    assert encrypted.tls_key_file == Path.cwd() / "k"
    for plain in (load({**far, "tcp_plaintext": "true"}), load(far, file=toml("tcp_plaintext = true\n"))):
        assert (plain.tcp, plain.tls, plain.exposed) == (Address("0.0.0.0", 7000), False, True)
    near = load({"tcp": "127.0.0.1:7000"})
    assert (near.token_file, near.exposed) == (None, False)


def test_all_problems_at_once_and_each_with_its_source(toml):
    file = toml('cpus = -1\nidle_timeouts = 3\ntenant = 1\n[tenants."a b"]\n[tenants.c]\nweight = 0\nwieght = 1\n')
    text = problems({"ahead_max": "x"}, {"SCHEDULER_SPIN_US": "9999"}, file)
    for expected in (
        "flag --ahead-max: 'x' is not a whole number",
        "variable SCHEDULER_SPIN_US: '9999' is out of bounds: 0 to 1000",
        f"{file}: cpus: -1 is out of bounds: 0 to 4096",
        f"{file}: no setting is called 'idle_timeouts'; did you mean idle_timeout_s?",
        f"{file}: tenants.a b: a tenant's name is 1 to 64",
        f"{file}: tenants.c.weight: 0 is out of bounds: 1 to 10000",
        f"{file}: tenants.c: no setting is called 'wieght'; did you mean weight?",
    ):
        assert expected in text


def test_a_broken_file(toml):
    assert "is not TOML" in problems(file=toml("a = \n"))
    assert "is not TOML" in problems(file=toml('a = """'))
    assert "tenants: 3 is no table" in problems(file=toml("tenants = 3\n"))
    assert "tenants.a: 3 is no table" in problems(file=toml("[tenants]\na = 3\n"))


def test_tenants(toml):
    settings = load(file=toml("[tenants.acme]\nweight = 300\nconcurrency_max = 7\n[tenants.b]\n"))
    assert settings.tenant("acme").weight == 300
    assert settings.tenant("acme").concurrency_max == 7
    assert [tenant.name for tenant in settings.tenants] == ["acme", "b"]
    unknown = settings.tenant("nobody")
    assert (unknown.name, unknown.weight, unknown.concurrency_max) == ("nobody", 100, config.NO_LIMIT)


def test_unknown_variables_get_a_warning():
    environ = {"SCHEDULER_SOKET": "x", "SCHEDULER_SOCKET": "y", "SCHEDULER_CONFIG": "z", "PATH": ""}
    environ["SCHEDULER_CLIENT_TOKEN_FILE"] = "a client's own"
    (warning,) = config.unknown_variables(environ)
    assert warning == "variable SCHEDULER_SOKET has no effect: no setting is called soket; did you mean socket?"


def test_changes_tell_what_a_reload_can_do():
    old = load()
    new = load({"shells_ahead": 3, "calls_max": 70000})
    assert config.changes(old, old) == ()
    assert {(change.name, change.old, change.new, change.applies) for change in config.changes(old, new)} == {
        ("shells_ahead", 2, 3, True),
        ("calls_max", 65536, 70000, False),
    }


def test_a_reload_takes_what_may_change_and_leaves_the_rest():
    old = load()
    mixed, found = config.reloaded(old, load({"shells_ahead": 3, "calls_max": 70_000, "queued_calls_max": 60_000}))
    assert (mixed.shells_ahead, mixed.calls_max, mixed.queued_calls_max) == (3, 65_536, 60_000)
    assert {change.name: change.applies for change in found} == {
        "shells_ahead": True,
        "calls_max": False,
        "queued_calls_max": True,
    }


def test_a_reload_that_does_not_go_with_what_stays_is_refused():
    """Both files are right by themselves, but one setting of the pair waits for the next start."""
    with pytest.raises(ConfigError, match="shells_ahead: 40 is more than shells_max, which is 32"):
        config.reloaded(load(), load({"shells_ahead": 40, "shells_max": 50}))


def test_memory_and_cpus_default_to_the_machine():
    assert load({"memory_mb_max": 512}).memory_mb() == 512
    assert load().memory_mb("MemTotal:       10485760 kB\nMemFree: 1 kB\n") == 8192
    assert load().memory_mb() > 128
    assert load().cpu_count() == len(os.sched_getaffinity(0))
    assert load({"cpus": 7}).cpu_count() == 7


anything = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers() | st.text(), max_size=3)


@examples(deadline=None)
@given(st.sampled_from(SETTINGS), anything)
def test_any_value_is_taken_or_refused_with_a_sentence(row, value):
    refused = None
    try:
        held = getattr(load({row.name: value}), row.name)
    except ConfigError as error:
        refused = error
    if refused is not None:
        assert all(row.name in problem or row.flag in problem for problem in refused.problems)
        assert str(refused).isprintable()
    elif row.kind is Kind.INT:
        assert row.minimum <= held <= row.maximum
