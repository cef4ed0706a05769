"""workerd: Cloudflare's server for Workers, from its npm package. An echo in JavaScript, in the server's own process."""

from __future__ import annotations

import platform
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.peers.peer import Installed, Missing, Peer, run_installer, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGES = {"x86_64": "workerd-linux-64", "aarch64": "workerd-linux-arm64"}
CONFIG = """\
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .echo)],
  sockets = [(name = "http", address = "127.0.0.1:{port}", http = (), service = "main")]
);
const echo :Workerd.Worker = (modules = [(name = "echo.js", esModule = embed "echo.js")], compatibilityDate = "2025-01-01");
"""
ECHO = """\
export default {
  async fetch(request) {
    return new Response(JSON.stringify(await request.json()), { headers: { "Content-Type": "application/json" } });
  }
};
"""


def _program(directory: Path) -> Path:
    package = PACKAGES.get(platform.machine())
    if package is None:
        raise Missing(f"workerd has no package for {platform.machine()}")
    return directory / "node_modules" / "@cloudflare" / package / "bin" / "workerd"


def install(directory: Path) -> dict[str, str]:
    program = _program(directory)
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", "."]
    run_installer(["npm", "install", *options, "workerd"], cwd=directory)
    if not program.exists():
        raise Missing("npm's workerd came without its program")
    return {"workerd": run_installer([str(program), "--version"], cwd=directory).split()[-1]}


@contextmanager
def start(here: Installed, work: Path, port: int) -> Iterator[str]:
    (work / "config.capnp").write_text(CONFIG.format(port=port))
    (work / "echo.js").write_text(ECHO)
    with running([str(_program(here.directory)), "serve", "config.capnp"], cwd=work, port=port):
        yield "/"


PEER = Peer(name="workerd", least=3, connections=64, install=install, start=start)
