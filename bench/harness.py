"""The engine with nothing around it: no launcher, no registry, sandboxes in C. For its own ceiling.

    python -m bench.harness --socket PATH --sandboxes N [--run-us N] [--spin-us N] [--api apart | together | extension]

Prints "ready" once it listens and serves the function "echo"; ends when its stdin does. It is the service's engine and
reactor, unchanged, in a process whose CPU time is theirs alone but for a task that starts sandboxes.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import trio

from bench import programs
from scheduler.engine import Engine
from scheduler.messages import (
    NO_ACCOUNT,
    NODE_ACCOUNT,
    AccountPut,
    Cause,
    EngineConfig,
    FunctionPut,
    Gone,
    Killed,
    Need,
    Ready,
    Resource,
    RuntimeApi,
    SandboxReaped,
    SandboxWant,
    Tier,
    core,
    function_info,
    make_handle,
    name_put,
    sandbox_start,
)

if TYPE_CHECKING:
    from scheduler.messages import Event

FUNCTION = make_handle(0, 1)
MEMORY_MB = 128
NS_PER_S = 1_000_000_000


class Harness:
    def __init__(self, engine: Engine, run_us: int, api: str | None) -> None:
        self.engine = engine
        self.run_us = run_us
        self.api = (
            api  # sandboxes speak the Runtime API; together: response and next request in one piece; extension: beside one
        )
        self.children: dict[int, subprocess.Popen[bytes]] = {}
        self.extensions: list[subprocess.Popen[bytes]] = []
        self.ready = 0
        self.changed = trio.Condition()

    async def start_sandbox(self, sandbox: int) -> None:
        ours, theirs = socket.socketpair()
        progress = os.memfd_create("progress", os.MFD_ALLOW_SEALING)
        os.ftruncate(progress, 32_768)
        fcntl.fcntl(progress, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        output_read, output_write = os.pipe()
        listener, listener_port = None, 0
        if self.api is None:
            command = [str(programs.build("echo_worker")), "--channel", str(theirs.fileno()), "--progress", str(progress)]
            command += ["--run-us", str(self.run_us)]
        else:
            listener = socket.create_server(("127.0.0.1", 0))
            listener.setblocking(False)
            listener_port = listener.getsockname()[1]
            command = [str(programs.build("api_worker")), "--port", str(listener_port)]
            command += ["--together", str(int(self.api == "together"))]
        child = subprocess.Popen(  # noqa: ASYNC220 - once a sandbox, before anything is measured
            command, pass_fds=(theirs.fileno(), progress), stdin=subprocess.DEVNULL, stdout=output_write, stderr=output_write
        )
        theirs.close()
        os.close(output_write)
        ours.setblocking(False)
        os.set_blocking(output_read, False)
        self.children[sandbox] = child
        fds: tuple[int, ...] = (ours.detach(), output_read, progress, os.pidfd_open(child.pid), -1, -1)
        api = None
        if listener is not None:
            fds = (*fds, listener.detach())
            names = ("probe",) if self.api == "extension" else ()
            api = RuntimeApi("arn:aws:lambda:local:000000000000:function:echo", "echo", "000000000000", names)
            for name in names:
                extension = [str(programs.build("api_extension")), "--port", str(listener_port), "--name", name]
                self.extensions.append(subprocess.Popen(extension, stdin=subprocess.DEVNULL))  # noqa: ASYNC220 - as above
        await self.engine.post(sandbox_start(sandbox, start=b"{}", tier=Tier.FRESH, fds=fds, api=api))

    async def end_sandbox(self, sandbox: int) -> None:
        child = self.children.pop(sandbox, None)
        if child is None:
            return
        child.kill()
        status = child.wait()
        await self.engine.post(core(SandboxReaped(sandbox=sandbox, cause=Cause.KILLED, status=abs(status))))

    async def handle(self, event: Event) -> None:
        match event:
            case Need(sandbox=sandbox):
                await self.start_sandbox(sandbox)
            case Killed(sandbox=sandbox) | Gone(sandbox=sandbox):
                await self.end_sandbox(sandbox)
            case Ready():
                async with self.changed:
                    self.ready += 1
                    self.changed.notify_all()
            case _:
                pass

    async def events(self) -> None:
        while True:
            for event in await self.engine.wait_events():
                await self.handle(event)


async def serve(path: str, sandboxes: int, run_us: int, spin_us: int, api: str | None) -> None:
    config = EngineConfig(cpus=sandboxes, spin_us=spin_us, idle_timeout_ns=3600 * NS_PER_S)
    with Engine(config) as engine:
        engine.listen_unix(path)
        harness = Harness(engine, run_us, api)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(engine.run)
                nursery.start_soon(harness.events)
                unlimited = dict.fromkeys((Resource.CONCURRENCY, Resource.MEMORY), 100_000_000)
                await engine.post(core(AccountPut(index=NODE_ACCOUNT, parent=NO_ACCOUNT, maxima=unlimited), name="node"))
                await engine.post(core(AccountPut(index=1, parent=NODE_ACCOUNT), name="default"))
                await engine.post(core(AccountPut(index=2, parent=1), name="echo"))
                put = FunctionPut(
                    handle=FUNCTION,
                    account=2,
                    revision=1,
                    memory_mb=MEMORY_MB,
                    timeout_ns=30 * NS_PER_S,
                    queue_timeout_ns=NS_PER_S,
                )
                await engine.post(core(put))
                await engine.post(
                    function_info(
                        FUNCTION,
                        name="echo",
                        version="$LATEST",
                        tenant="default",
                        tenant_number=0,
                        memory_mb=MEMORY_MB,
                        timeout_ms=30_000,
                    ),
                    name_put("echo", FUNCTION),
                )
                for _ in range(sandboxes):
                    await engine.post(core(SandboxWant(function=FUNCTION, revision=1)))
                with trio.fail_after(10):
                    async with harness.changed:
                        while harness.ready < sandboxes:
                            await harness.changed.wait()
                print("ready", flush=True)
                stdin = trio.lowlevel.FdStream(os.dup(sys.stdin.fileno()))
                while await stdin.receive_some(4096):
                    pass
                nursery.cancel_scope.cancel()
        finally:
            for child in (*harness.children.values(), *harness.extensions):
                child.send_signal(signal.SIGKILL)
                child.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.harness")
    parser.add_argument("--socket", required=True)
    parser.add_argument("--sandboxes", type=int, default=2)
    parser.add_argument("--run-us", type=int, default=0)
    parser.add_argument("--spin-us", type=int, default=0)
    parser.add_argument("--api", choices=("apart", "together", "extension"))
    given = parser.parse_args()
    trio.run(serve, given.socket, given.sandboxes, given.run_us, given.spin_us, given.api)


if __name__ == "__main__":
    main()
