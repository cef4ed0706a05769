"""One place that knows how to get a sandbox running a piece of code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.runtime.driver import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SUPPORTED = ("3.11", "3.12", "3.13")


def interpreters() -> dict[str, str]:
    """Version to path of every supported Python that runs here."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    candidates = [f"python{version}" for version in SUPPORTED]
    candidates += map(str, sorted(Path.home().glob(".pyenv/versions/*/bin/python3")))
    for candidate in candidates:
        ask = [candidate, "-I", "-S", "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"]
        try:
            answer = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()
        except (OSError, subprocess.CalledProcessError):
            continue
        if answer and answer[0] in SUPPORTED:
            found.setdefault(answer[0], answer[1])
    return found


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Callable[..., Sandbox]]:
    """sandbox(code): a started process whose app.py is `code`; START not sent yet."""
    running: list[Sandbox] = []

    def make(code: str | None = None, **more: str) -> Sandbox:
        running.append(Sandbox(tmp_path, code, **more).__enter__())
        return running[-1]

    yield make
    for one in running:
        one.__exit__()
