"""docs/cli.md is what the commands say of themselves."""

from __future__ import annotations

from pathlib import Path

from scheduler.cli.app import COMMANDS
from scheduler.cli.manual import manual

PAGE = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def test_the_committed_page_is_current():
    assert PAGE.read_text(encoding="utf-8") == manual(), "run: .venv/bin/python -m scheduler.cli.manual > docs/cli.md"


def test_it_has_every_command_and_option():
    page = manual()
    for name in COMMANDS:
        assert f"\n## scheduler {name}\n" in page
    for option in ("--reserved-concurrency N", "--ephemeral-storage MB", "--env K=V", "--deadline-ms MS", "--socket PATH"):
        assert f"`{option}`" in page
