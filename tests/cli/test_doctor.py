"""`scheduler doctor` as one types it: the table, the JSON, the exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from scheduler.cli.doctor import show
from scheduler.sandboxes.doctor import Finding, Group, Verdict


def test_the_table_has_all_and_the_next_steps_those_that_want_something(capsys) -> None:
    show(
        [
            Finding(Group.SIGHT, "host files", Verdict.OK, "none can be seen", "", "mount namespace"),
            Finding(Group.BOUNDS, "memory limit", Verdict.WEAKER, "each process alone", "run as root", "RLIMIT_DATA"),
            Finding(Group.FEATURES, "network outbound", Verdict.CANNOT, "no nf_tables", ""),
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    table, steps = lines[: lines.index("Next steps:")], lines[lines.index("Next steps:") + 1 :]
    assert [line.split()[0] for line in table if line[:1].strip()] == ["ok", "weaker", "cannot"]
    assert any("what a sandbox may use" in line for line in table)
    assert any("none can be seen" in line and "by mount namespace" in line for line in table)
    assert steps == ["  weaker  memory limit: run as root", "  cannot  network outbound: none is known for this machine"]


def test_nothing_wanting_is_said(capsys) -> None:
    show([Finding(Group.SIGHT, "host files", Verdict.OK, "none can be seen")])
    assert "Everything was tried and holds." in capsys.readouterr().out


def doctor(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scheduler", "doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **variables})


@pytest.mark.slow
def test_it_examines_a_service_with_these_settings_and_its_exit_code_tells(tmp_path) -> None:
    file = tmp_path / "scheduler.toml"
    file.write_text('isolation = "process"\n')
    done = doctor("--json", "--config", str(file))
    assert done.returncode == 1, done.stderr
    found = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert found["isolation"]["verdict"] == "cannot"
    assert found["isolation"]["group"] == "sight"
    assert found["isolation"]["ok"] is False
    assert "namespaces" in found["isolation"]["fix"]


@pytest.mark.slow
def test_settings_that_cannot_be_used_are_told() -> None:
    done = doctor(SCHEDULER_ISOLATION="none")
    assert done.returncode == 2
    assert "'none' is not one of auto, process" in done.stderr
