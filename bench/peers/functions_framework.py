"""functions-framework: Google's server for functions in JavaScript, from npm. An echo in one process, one event loop, without
isolation. Of the servers for functions in Node that npm has and that run by themselves it is the fastest we found.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.peers.peer import Installed, Missing, Peer, run_installer, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE = "@google-cloud/functions-framework"
ECHO = "exports.echo = (request, response) => { response.json(request.body); };\n"


def install(directory: Path) -> dict[str, str]:
    options = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix", "."]
    run_installer(["npm", "install", *options, PACKAGE], cwd=directory)
    about = directory / "node_modules" / PACKAGE / "package.json"
    if not about.exists():
        raise Missing(f"npm's {PACKAGE} came without its program")
    return {"functions-framework": json.loads(about.read_text())["version"]}


@contextmanager
def start(here: Installed, work: Path, port: int) -> Iterator[str]:
    (work / "index.js").write_text(ECHO)
    (work / "package.json").write_text('{"main": "index.js"}')
    program = here.directory / "node_modules" / PACKAGE / "build" / "src" / "main.js"
    words = ["node", str(program), "--target=echo", "--signature-type=http", f"--port={port}"]
    with running(words, cwd=work, port=port, environment={"NODE_ENV": "production"}):
        yield "/"


PEER = Peer(name="functions-framework", least=5, connections=64, install=install, start=start)
