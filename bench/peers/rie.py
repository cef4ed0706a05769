"""aws-lambda-rie with awslambdaric: AWS's own emulator of the runtime interface with AWS's own Python runtime client.

The emulator is a program inside the package aws-sam-cli; only that file is kept. One environment takes one call at a time, and
a second one at the same time ends it, so it is asked over one connection and started anew for each measurement.
"""

from __future__ import annotations

import platform
import shutil
import sys
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.peers.peer import Installed, Missing, Peer, run_installer, running
from bench.service import FUNCTIONS, free_port
from bench.web import invoke_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MACHINES = {"x86_64": "x86_64", "aarch64": "arm64"}
EMULATOR = "aws-lambda-rie"
NODE_BOOTSTRAP = FUNCTIONS.parents[1] / "scheduler" / "runtime" / "node" / "bootstrap.cjs"


def _version(directory: Path, package: str) -> str:
    (found,) = directory.glob(f"{package}-*.dist-info")
    return found.name.removeprefix(f"{package}-").removesuffix(".dist-info")


def install(directory: Path) -> dict[str, str]:
    machine = MACHINES.get(platform.machine())
    if machine is None:
        raise Missing(f"aws-sam-cli has no emulator for {platform.machine()}")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    run_installer([*pip, "download", "--no-deps", "-d", ".", "aws-sam-cli"], cwd=directory)
    wheels = list(directory.glob("aws_sam_cli-*.whl"))
    if len(wheels) != 1:
        raise Missing("aws-sam-cli came without a wheel")
    with (
        zipfile.ZipFile(wheels[0]) as wheel,
        wheel.open(f"samcli/local/rapid/aws-lambda-rie-{machine}") as program,
        (directory / EMULATOR).open("wb") as out,
    ):
        shutil.copyfileobj(program, out)
    (directory / EMULATOR).chmod(0o755)
    sam = wheels[0].name.split("-")[1]
    wheels[0].unlink()
    run_installer([*pip, "install", "--target", "packages", "awslambdaric"], cwd=directory)
    return {"aws-lambda-rie of aws-sam-cli": sam, "awslambdaric": _version(directory / "packages", "awslambdaric")}


@contextmanager
def start(here: Installed, work: Path, port: int) -> Iterator[str]:
    shutil.copy(FUNCTIONS / "echo.py", work / "app.py")
    words = [str(here.directory / EMULATOR), "--log-level", "error"]
    words += ["--runtime-interface-emulator-address", f"127.0.0.1:{port}"]
    words += ["--runtime-api-address", f"127.0.0.1:{free_port()}"]
    words += [sys.executable, "-m", "awslambdaric", "app.handler"]
    environment = {"PYTHONPATH": str(here.directory / "packages"), "LAMBDA_TASK_ROOT": str(work)}
    with running(words, cwd=work, port=port, environment=environment):
        yield invoke_path("function")


@contextmanager
def start_node(here: Installed, work: Path, port: int) -> Iterator[str]:
    """Our own bootstrap for Node under the emulator. AWS's client for Node, aws-lambda-ric, is compiled when it is installed,
    with autotools, which few machines have."""
    shutil.copy(FUNCTIONS / "echo.mjs", work / "app.mjs")
    words = [str(here.directory / EMULATOR), "--log-level", "error"]
    words += ["--runtime-interface-emulator-address", f"127.0.0.1:{port}"]
    words += ["--runtime-api-address", f"127.0.0.1:{free_port()}"]
    words += ["node", str(NODE_BOOTSTRAP), "app.handler"]
    environment = {"LAMBDA_TASK_ROOT": str(work), "_HANDLER": "app.handler"}
    with running(words, cwd=work, port=port, environment=environment):
        yield invoke_path("function")


WHY = "it ends at a second call at the same time"
PEER = Peer(
    name="aws-lambda-rie",
    least=20,
    connections=1,
    why=WHY,
    install=install,
    start=start,
)
NODE_PEER = Peer(  # found where the other was installed
    name="aws-lambda-rie",
    least=5,
    connections=1,
    why=WHY,
    install=install,
    start=start_node,
)
