"""docs/promises.md and docs/threat-model.md name the tests that enforce each promise: they have to exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROMISES = (ROOT / "docs/promises.md").read_text()
THREATS = (ROOT / "docs/threat-model.md").read_text().split("## Promises", 1)[1].split("\n## ", 1)[0]
NAMED = sorted(set(re.findall(r"`((?:tests|native)/[\w/.]+\.\w+)(?:::(\w+))?`", PROMISES + THREATS)))
ROWS = [line for line in (PROMISES + THREATS).splitlines() if line.startswith("| ") and "enforced by" not in line]


def test_every_promise_names_a_test() -> None:
    assert len(ROWS) > 20
    for row in ROWS:
        assert re.search(r"`(tests|native)/", row), row


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_the_named_test_exists(path: str, name: str) -> None:
    text = (ROOT / path).read_text()
    if not name:
        return
    if path.endswith(".c"):
        assert f"RUN({name});" in text
    else:
        assert re.search(rf"^(?:async )?def {name}\(|^class {name}\b|^{name} = ", text, re.MULTILINE), f"{path} has no {name}"
