"""`scheduler serve`'s options are the table of settings; what is wrong with them is told at once."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
import urllib.request

import pytest

from scheduler.cli.serve import GROUPS, refusal, serve_command
from scheduler.config import SETTINGS, load
from scheduler.engine import CannotListen
from scheduler.errors import Unavailable


def test_every_setting_is_an_option_with_its_help():
    options = {option.name: option for option in serve_command.params}
    for setting in SETTINGS:
        assert options[setting.name].opts == [setting.flag]
        assert options[setting.name].help.startswith(setting.help)


def test_groups_name_settings_that_exist_in_the_table_s_order():
    names = [setting.name for setting in SETTINGS]
    starts = [names.index(name) for _, name in GROUPS]
    assert starts == sorted(starts)
    assert starts[0] == 0


def test_help_shows_the_groups(scheduler):
    out = scheduler("serve", "-h", socket=None).out
    positions = [out.index(f"\n{title}:\n") for title, _ in GROUPS]
    assert positions == sorted(positions)
    assert "--state-dir PATH" in out
    assert "--isolation auto|process" in out
    assert out.count("--socket ") >= 1


def test_one_wrong_setting_is_one_line(scheduler):
    ran = scheduler("serve", "--calls-max", "many", socket=None)
    assert ran.code == 2
    assert ran.err == "scheduler: BadRequest: flag --calls-max: 'many' is not a whole number; next: scheduler serve -h\n"


def test_all_that_is_wrong_is_told_at_once(scheduler, tmp_path):
    (tmp_path / "s.toml").write_text('shells_ahed = 3\nmetrics = "nowhere"\n')
    ran = scheduler("serve", "--config", "s.toml", "--isolation", "none", socket=None)
    assert ran.code == 2
    assert "did you mean shells_ahead?" in ran.err
    assert "'nowhere' is not HOST:PORT" in ran.err
    assert "auto, process" in ran.err
    assert ran.err.splitlines()[-1].endswith("settings cannot be used; next: scheduler serve -h")


def test_tokens_in_the_clear_need_an_explicit_word(scheduler):
    far = ("serve", "--tcp", "0.0.0.0:7000", "--token-file", "t")
    ran = scheduler(*far, socket=None)
    assert ran.code == 2
    assert "would carry tokens in the clear: give tls_cert_file and tls_key_file, or say tcp_plaintext = true" in ran.err
    assert "in the clear" in scheduler(*far, "--tcp-plaintext", "false", socket=None).err
    for given in (("--tcp-plaintext",), ("--tcp-plaintext", "true")):
        ran = scheduler(*far, *given, "--calls-max", "x", socket=None)  # so that it does not start
        assert "in the clear" not in ran.err
        assert "'x' is not a whole number" in ran.err


def test_a_config_file_that_is_not_there(scheduler):
    ran = scheduler("serve", "--config", "none.toml", socket=None)
    assert ran.code == 2
    assert "none.toml: cannot be read" in ran.err


def test_the_socket_before_the_command_counts(scheduler, tmp_path):
    ran = scheduler("serve", socket="/" + "x" * 200)
    assert ran.code == 2
    assert "longer than a Unix socket's path can be" in ran.err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EADDRINUSE, "Address already in use"), "Unavailable: metrics 127.0.0.1:{port} is in use"),
        (CannotListen("socket /s: Address already in use"), "give another with --metrics"),
        (Unavailable("state directory /s is in use by the service with pid 7"), "or another --state-dir"),
        (Unavailable("no user namespaces: isolation cannot be had"), "next: scheduler doctor"),
        (PermissionError(errno.EACCES, "Permission denied", "/s"), "Unavailable: [Errno 13] Permission denied: '/s'"),
    ],
)
def test_why_it_could_not_start_is_one_line_with_the_next_step(error, words):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(error, load({"metrics": f"127.0.0.1:{port}"}))
    assert words.format(port=port) in line
    assert "\n" not in line


@pytest.mark.slow
@pytest.mark.e2e
def test_a_start_tells_where_it_listens_and_a_second_one_is_refused():
    with tempfile.TemporaryDirectory(prefix="sv") as directory:
        isolation = ["--isolation", "process"] if os.geteuid() else []
        command = [sys.executable, "-m", "scheduler", "serve", "--state-dir", directory, "--metrics", "127.0.0.1:0", *isolation]
        first = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            told = json.loads(first.stdout.readline())
            assert (told["ready"], told["socket"], told["pid"]) == (True, f"{directory}/scheduler.sock", first.pid)
            with urllib.request.urlopen(told["metrics"].replace("/metrics", "/readyz")) as ready:
                assert ready.status == 200
            second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
            assert second.returncode == 3
            assert second.stdout == ""
            assert second.stderr.splitlines()[-1].startswith("scheduler: Unavailable: state directory")
            first.terminate()
            assert first.wait(30) == 0
        finally:
            first.kill()
            first.wait()
            first.stdout.close()
