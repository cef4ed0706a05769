"""What this machine can isolate, limit and meter, found out by trying: real sandboxes that attempt what must not work.

Law of this file: it judges and advises, and changes nothing. A finding is `ok` only when an attempt was made and had the
right end; where none can be made (no sandbox starts at all) the finding says so. Runs as the user who will run the service,
beside a running service if need be, and takes about a second.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from scheduler.sandboxes.launcher import Cause, Isolation, LauncherConfig, LaunchFailed, Limit, Specialisation, open_launcher
from scheduler.sandboxes.runtimes import default_runtime, find_runtimes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from scheduler.sandboxes.launcher import Exited, Launcher, Shell
    from scheduler.sandboxes.runtimes import Runtime

__all__ = ["Finding", "diagnose"]

PROBE_MEMORY_MB: Final = 64
PROBE_STORAGE_MB: Final = 8
PROBE_PIDS_MAX: Final = 40
PROBE_TIMEOUT_S: Final = 20.0
SLOTS: Final = 8
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Finding:
    """name: what is looked at. detail: what was found. fix: what to do, "" if nothing or unknown. enforced_by: the means."""

    name: str
    ok: bool
    detail: str
    fix: str
    enforced_by: str


# ---- what is tried inside ----

_HANDLER: Final = """
def handler(event, context):
    names = {}
    exec(event["code"], names)
    return names["result"]
"""

# name -> (enforced by, code that sets `result` to [ok, detail], fix). HOST is replaced by a path that exists outside.
_ATTEMPTS: Final[Mapping[str, tuple[str, str, str]]] = {
    "host files": (
        "mount namespace",
        """
import os
seen = [path for path in (HOST, "/sys", "/boot", "/etc/shadow", "/proc/1/root/boot") if os.path.lexists(path)]
result = [not seen, "sees " + ", ".join(seen) if seen else "none can be seen"]
""",
        "run with namespaces: as root, or where user namespaces are allowed",
    ),
    "code is read-only": (
        "read-only mount",
        """
import os
done = []
for path in ("/var/task/new", "/new", "/usr/lib/new", "/etc/passwd"):
    try:
        open(path, "a").close()
        done.append(path)
    except OSError:
        pass
result = [not done, "can write " + ", ".join(done) if done else "neither code nor runtime can be written"]
""",
        "run with namespaces: as root, or where user namespaces are allowed",
    ),
    "other processes": (
        "pid namespace",
        """
import os
seen = [int(name) for name in os.listdir("/proc") if name.isdigit()]
others = [pid for pid in seen if pid not in (1, os.getpid())]
result = [not others and os.getppid() == 1, f"sees {len(others)} besides itself and its init, is a child of {os.getppid()}"]
""",
        "run with namespaces: as root, or where user namespaces are allowed",
    ),
    "host network": (
        "network namespace",
        """
import socket
names = [name for _, name in socket.if_nameindex()]
result = [names == ["lo"], "sees " + ", ".join(names)]
""",
        "run with namespaces: as root, or where user namespaces are allowed",
    ),
    "privileges": (
        "uid, capabilities, no_new_privs",
        """
import os, socket, stat
lines = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
could = [key for key in ("CapInh", "CapPrm", "CapEff", "CapAmb") if int(lines[key], 16)]
for name, attempt in (
    ("become root", lambda: os.setuid(0)),
    ("join root's group", lambda: os.setgid(0)),
    ("leave its root", lambda: os.chroot("/tmp")),
    ("make a device", lambda: os.mknod("/tmp/disk", stat.S_IFBLK | 0o600, os.makedev(8, 0))),
    ("name the host", lambda: socket.sethostname("mine")),
    ("send raw packets", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
):
    try:
        attempt()
        could.append(name)
    except OSError:
        pass
result = [os.getuid() != 0 and not could and lines["NoNewPrivs"] == "1",
          f"uid {os.getuid()}, " + ("could " + ", ".join(could) if could else "no capabilities, and can gain none")]
""",
        "",
    ),
    "system calls": (
        "system call filter",
        """
import ctypes, os, socket
libc = ctypes.CDLL(None)
room = ctypes.create_string_buffer(4096)
def vsock():
    try:
        socket.socket(40, socket.SOCK_STREAM).close()
        return 0
    except OSError:
        return -1
attempts = {
    "make user namespaces": lambda: libc.unshare(0x10000000),
    "reach the hypervisor": vsock,
    "read the kernel's log": lambda: libc.klogctl(3, room, 4096),
    "use io_uring": lambda: libc.syscall(425, 8, room),
}
could = []
for name, attempt in attempts.items():
    pid = os.fork()
    if pid == 0:
        os._exit(0 if attempt() < 0 else 1)
    if os.waitpid(pid, 0)[1]:
        could.append(name)
result = [not could, "could " + ", ".join(could) if could else "none that lead out of the namespaces"]
""",
        "",
    ),
    "process limit": (
        "pids control group",
        """
import os, signal
made = []
try:
    for _ in range(200):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        made.append(pid)
    result = [False, f"made {len(made)} processes, was allowed PIDS_MAX"]
except OSError as error:
    result = [True, f"stopped at {len(made) + 1} of PIDS_MAX allowed"]
for pid in made:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
""",
        "mount the pids controller, or give this user's systemd unit Delegate=yes",
    ),
    "size of /tmp": (
        "tmpfs with a size",
        """
import errno, os
try:
    with open("/tmp/big", "wb") as file:
        for _ in range(4 * STORAGE_MB):
            file.write(bytes(1 << 20))
            file.flush()
    result = [False, "more than STORAGE_MB MB could be written"]
except OSError as error:
    result = [error.errno == errno.ENOSPC, f"full at STORAGE_MB MB ({error.strerror})"]
os.unlink("/tmp/big")
""",
        "run with namespaces: as root, or where user namespaces are allowed",
    ),
}

_EAT: Final = "held = [bytearray(1 << 20) for _ in range(8 * MEMORY_MB)]\nresult = len(held)"
_BURN: Final = """
import os, time
until = time.monotonic() + 0.2
for _ in range(3):
    if os.fork() == 0:
        while time.monotonic() < until:
            pass
        os._exit(0)
begun = time.monotonic()
while time.monotonic() < until:
    pass
for _ in range(3):
    os.wait()
spent = os.times()
result = (spent.user + spent.system + spent.children_user + spent.children_system) / (time.monotonic() - begun)
"""

_HEADER: Final = struct.Struct("<IBBHIIQ")
_START, _CALL, _RESULT, _READY = 1, 2, 16, 18


def _fill(code: str) -> str:
    values = {
        "HOST": repr(str(Path(__file__).resolve())),
        "PIDS_MAX": str(PROBE_PIDS_MAX),
        "STORAGE_MB": str(PROBE_STORAGE_MB),
        "MEMORY_MB": str(PROBE_MEMORY_MB),
    }
    for key, value in values.items():
        code = code.replace(key, value)
    return code


class _Sandbox:
    """One sandbox and just enough of the channel to run a piece of code in it."""

    def __init__(self, launcher: Launcher, shell: Shell) -> None:
        self.launcher = launcher
        self.shell = shell
        self._seq = 0

    @classmethod
    async def make(cls, launcher: Launcher, runtime: str, code_dir: str) -> _Sandbox:
        shell = await launcher.shell(runtime)
        try:
            await launcher.specialise(shell, Specialisation(code_dir, PROBE_MEMORY_MB, PROBE_STORAGE_MB))
        except LaunchFailed:
            shell.close()
            raise
        sandbox = cls(launcher, shell)
        start = {
            "function_name": "doctor",
            "function_version": "$LATEST",
            "invoked_function_arn": "arn:aws:lambda:local:000000000000:function:doctor",
            "handler": "app.handler",
            "memory_mb": PROBE_MEMORY_MB,
            "timeout_ms": 60_000,
            "task_root": launcher.task_root(code_dir),
            "environment": {},
            "log_group_name": "/aws/lambda/doctor",
            "log_stream_name": "doctor",
            "initialization_type": "on-demand",
        }
        await sandbox._send(_START, json.dumps(start).encode())
        await sandbox._until(_READY)
        return sandbox

    async def run(self, code: str) -> Any:
        """`result` of the code, or its error object. EOFError: the sandbox died."""
        self._seq += 1
        await self._send(_CALL, os.urandom(16) + json.dumps({"code": _fill(code)}).encode())
        return json.loads((await self._until(_RESULT))[8:])

    async def exited(self) -> Exited:
        while True:
            exited = await self.launcher.exits.receive()
            if exited.id == self.shell.id:
                self.shell.close()
                return exited

    async def end(self) -> Exited:
        self.launcher.kill(self.shell.id)
        return await self.exited()

    async def _send(self, kind: int, body: bytes) -> None:
        data = _HEADER.pack(len(body), kind, 0, 0, self._seq, 0, 0) + body
        while data:
            await trio.lowlevel.wait_writable(self.shell.channel_fd)
            data = data[os.write(self.shell.channel_fd, data) :]

    async def _until(self, wanted: int) -> bytes:
        while True:
            length, kind, *_ = _HEADER.unpack(await self._read(_HEADER.size))
            body = await self._read(length)
            if kind == wanted:
                return body

    async def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            await trio.lowlevel.wait_readable(self.shell.channel_fd)
            more = os.read(self.shell.channel_fd, count - len(data))
            if not more:
                raise EOFError
            data += more
        return data


# ---- findings ----


def _isolation(launcher: Launcher) -> Finding:
    texts = {
        Isolation.ROOT: (
            "each sandbox in namespaces of its own, with a uid of its own",
            "pid, mount, ipc, uts, net namespaces",
        ),
        Isolation.USER: ("each sandbox in namespaces below this user's user namespace", "user and other namespaces"),
        Isolation.PROCESS: ("bare processes: not protected from one another", "nothing"),
    }
    detail, by = texts[launcher.isolation]
    return Finding("isolation", launcher.isolation is not Isolation.PROCESS, detail, "", by)


def _limits_fix(launcher: Launcher) -> str:
    why = f" ({launcher.why_limited})" if launcher.why_limited else ""
    return f"run as root or as a systemd unit with Delegate=yes, on a kernel with the memory, pids and cpu controllers{why}"


async def _attempts(launcher: Launcher, runtime: str, code_dir: str) -> list[Finding]:
    findings = []
    sandbox = await _Sandbox.make(launcher, runtime, code_dir)
    for name, (by, code, fix) in _ATTEMPTS.items():
        answer = await sandbox.run(code)
        if not isinstance(answer, list):
            answer = [False, f"the attempt itself failed: {answer.get('errorType')}: {answer.get('errorMessage')}"]
        ok = bool(answer[0])
        if name == "process limit" and Limit.PIDS not in launcher.limits:
            by = "RLIMIT_NPROC"
        findings.append(Finding(name, ok, str(answer[1]), "" if ok else fix, by if ok else ""))
    exited = await sandbox.end()
    metered = Limit.CPU_TIME in launcher.limits and exited.cpu_ns > 0
    findings.append(
        Finding(
            "CPU time",
            exited.cpu_ns > 0,
            f"{exited.cpu_ns / 1e6:.1f} ms were measured" + ("" if metered else ", when the sandbox ended"),
            "",
            f"control groups v{launcher.cgroup_version}" if metered else "wait4(2)",
        )
    )
    return findings


async def _memory(launcher: Launcher, runtime: str, code_dir: str) -> list[Finding]:
    """A sandbox that takes too much must die of it, and be known to have died of that."""
    sandbox = await _Sandbox.make(launcher, runtime, code_dir)
    by = (
        f"memory control group v{launcher.cgroup_version}"
        if Limit.MEMORY in launcher.limits
        else "RLIMIT_DATA, each process alone"
    )
    try:
        answer = await sandbox.run(_EAT)
        exited = await sandbox.end()
        refused = isinstance(answer, dict) and answer.get("errorType") == "MemoryError"
        detail = "an allocation was refused" if refused else f"{answer} MB were taken, {PROBE_MEMORY_MB} allowed"
        limit = Finding("memory limit", False, detail, _limits_fix(launcher), by)
    except EOFError:
        exited = await sandbox.exited()
        ok = exited.cause is Cause.OOM
        limit = Finding("memory limit", ok, f"a sandbox that took more ended by {exited.cause.name}", "", by)
    peak = exited.memory_peak_bytes
    detail = f"peak of that sandbox: {peak / MIB:.0f} MB" if peak else "no figure"
    return [limit, Finding("memory peak", peak > 0, detail, "" if peak else _limits_fix(launcher), by if peak else "")]


async def _cpu(launcher: Launcher, runtime: str, code_dir: str) -> Finding:
    sandbox = await _Sandbox.make(launcher, runtime, code_dir)
    used = await sandbox.run(_BURN)
    await sandbox.end()
    processors = len(os.sched_getaffinity(0))
    if not isinstance(used, float):
        detail, ok = f"the attempt itself failed: {used}", False
    elif processors == 1:
        detail, ok = "with one processor nothing can use more than one", Limit.CPU in launcher.limits
    else:
        detail = f"four busy processes used {used:.2f} of {processors} processors, about 1 allowed"
        ok = Limit.CPU in launcher.limits and used < 1.5
    by = f"cpu control group v{launcher.cgroup_version}" if ok else ""
    return Finding("CPU limit", ok, detail, "" if ok else _limits_fix(launcher), by)


async def _tried(launcher: Launcher, runtime: str, code_dir: str) -> list[Finding]:
    findings = [_isolation(launcher)]
    try:
        with trio.fail_after(PROBE_TIMEOUT_S):
            findings += await _attempts(launcher, runtime, code_dir)
            findings += await _memory(launcher, runtime, code_dir)
            findings.append(await _cpu(launcher, runtime, code_dir))
    except LaunchFailed as error:
        findings.append(Finding("sandbox", False, str(error), error.hint, ""))
    except EOFError:
        findings.append(Finding("sandbox", False, "a sandbox died while it was examined", "see the service's log", ""))
    except trio.TooSlowError:
        findings.append(Finding("sandbox", False, f"no answer for {PROBE_TIMEOUT_S:g} s", "", ""))
    return findings


def _scratch() -> Finding:
    """/tmp lives in memory, so only swap could bring it to a disk."""
    try:
        swaps = Path("/proc/swaps").read_text().splitlines()[1:]
    except OSError:
        swaps = []
    if swaps:
        detail = f"/tmp of a sandbox is in memory, but this machine swaps to {swaps[0].split()[0]}"
        return Finding("scratch never on disk", False, detail, "encrypt the swap, or swapoff -a", "tmpfs")
    return Finding("scratch never on disk", True, "/tmp of a sandbox is in memory, and there is no swap", "", "tmpfs")


def _users(config: LauncherConfig) -> Finding:
    """Nobody else may be one of the users that sandboxes run as."""
    if os.geteuid() != 0:
        detail = f"every sandbox runs as uid {os.geteuid()} and shares that user's quotas with the others"
        return Finding("users of sandboxes", False, detail, "run as root, then each sandbox has a uid of its own", "uid")
    low, high = config.uid_base, config.uid_base + config.slots - 1
    taken: list[str] = []
    for file, first, count in (("/etc/passwd", 2, None), ("/etc/subuid", 1, 2)):
        try:
            lines = Path(file).read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            fields = line.split(":")
            try:
                begin = int(fields[first])
                end = begin + (int(fields[count]) if count else 1) - 1
            except (IndexError, ValueError):
                continue
            if begin <= high and low <= end:
                taken.append(f"{fields[0]} in {file}")
    fix = "set sandbox_uid_base to a range that nobody has" if taken else ""
    nobody = ", which nobody has in /etc/passwd and /etc/subuid"
    detail = f"{low} to {high}" + (f" overlap with {', '.join(taken[:3])}" if taken else nobody)
    return Finding("users of sandboxes", not taken, detail, fix, "uid")


def _runtimes(found: Mapping[str, Runtime]) -> Finding:
    listed = ", ".join(f"{name} ({'.'.join(map(str, runtime.version))})" for name, runtime in found.items())
    return Finding("runtimes", bool(found), listed or "none", "" if found else "install Python 3.11, 3.12 or 3.13", "")


@contextmanager
def _function() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="scheduler-doctor-") as directory:
        os.chmod(directory, 0o755)
        path = Path(directory, "app.py")
        path.write_text(_HANDLER)
        path.chmod(0o644)
        yield directory


async def diagnose(config: LauncherConfig | None = None, runtimes: Sequence[Runtime] | None = None) -> list[Finding]:
    """Findings in the order of importance. config: how the service would start the launcher; runtimes: which it would offer."""
    wanted = config or LauncherConfig()
    found = {runtime.name: runtime for runtime in runtimes} if runtimes is not None else find_runtimes()
    findings = [_runtimes(found)]
    if found:
        name = default_runtime() if default_runtime() in found else next(iter(found))
        trying = replace(wanted, slots=SLOTS, pids_max=PROBE_PIDS_MAX, require_limits=False)
        try:
            with _function() as code_dir:
                async with open_launcher(trying, [found[name]], report=lambda text: None) as launcher:
                    findings += await _tried(launcher, name, code_dir)
        except LaunchFailed as error:
            findings.append(Finding("isolation", False, str(error), error.hint, ""))
        except OSError as error:
            findings.append(Finding("isolation", False, f"could not be tried: {error}", "", ""))
    return [*findings, _users(wanted), _scratch()]
