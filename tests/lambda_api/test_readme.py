"""What README shows of AWS's own clients, run as it is written there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.serving import ROOT, RUNTIME, Served, public_directory

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

HEADING = "## With AWS's own clients"
SERVE = re.compile(r"^scheduler serve --state-dir state --http 127\.0\.0\.1:9000 .*\n", re.MULTILINE)


def blocks() -> dict[str, str]:
    """The section's code, by language."""
    section = (ROOT / "README.md").read_text().partition(HEADING)[2].partition("\n## ")[0]
    found = re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)
    assert [language for language, _ in found] == ["sh", "python"]
    return dict(found)


@pytest.mark.skipif(RUNTIME != "python3.11", reason="the README's functions are of python3.11")
def test_the_section_works_as_written():
    shell, program = blocks()["sh"], blocks()["python"]
    before, _, after = shell.partition(SERVE.search(shell)[0])
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SCHEDULER_"))}
    environment = {
        **keep,
        "PATH": f"{Path(sys.executable).parent}:{keep['PATH']}",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with public_directory() as directory:

        def run(*command):
            return subprocess.run(
                command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120, check=True
            ).stdout

        (directory / "examples").symlink_to(ROOT / "examples")
        said = run("sh", "-euc", before + "env")
        environment |= dict(re.findall(r"^(AWS_(?:ACCESS_KEY_ID|SECRET_ACCESS_KEY|DEFAULT_REGION))=(.*)$", said, re.MULTILINE))
        with Served(directory / "state", socket=directory / "state" / "scheduler.sock", http="127.0.0.1:0") as served:
            here = f"127.0.0.1:{served.http_port}"
            run("sh", "-euc", after.replace("127.0.0.1:9000", here))
            assert json.loads((directory / "answer.json").read_text())["version"] == "1"
            printed = run(sys.executable, "-c", program.replace("127.0.0.1:9000", here))
            assert '"message": "Hello, you!"' in printed
