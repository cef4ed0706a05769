"""What this machine can isolate, limit and meter, found out by trying: real sandboxes, started as the service would start
them, that attempt what must not work.

Law of this file: it judges and advises, and changes nothing that stays. A finding is `ok` only when an attempt was made and had
the right end; where none can be made (no sandbox starts at all) the finding says so. Runs as the user who will run the service,
beside a running service if need be, and takes a few seconds. What is tried is in attempts.py.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import socket
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from scheduler.sandboxes import attempts, machine, maker
from scheduler.sandboxes.configured import launcher_config
from scheduler.sandboxes.declarations import RuntimeFileBroken, read_declarations
from scheduler.sandboxes.examinee import Examinee, exit_of, function_directory, start_body
from scheduler.sandboxes.findings import Finding, Group, Verdict, is_safe
from scheduler.sandboxes.launcher import Cause, Isolation, LauncherConfig, LaunchFailed, Limit, Specialisation, open_launcher
from scheduler.sandboxes.offers import find_offers
from scheduler.sandboxes.resolvers import name_servers
from scheduler.sandboxes.runtimes import default_runtime, find_runtimes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from scheduler.config import Settings
    from scheduler.sandboxes.launcher import Exited, Launcher
    from scheduler.sandboxes.runtimes import Runtime

__all__ = ["Finding", "Group", "Verdict", "diagnose", "diagnose_service", "is_safe"]

PROBE_MEMORY_MB: Final = 64
PROBE_STORAGE_MB: Final = 8
PROBE_PIDS_MAX: Final = 40
HALF_A_CPU_MB: Final = 885  # 1,769 are one
IMAGE_MEMORY_MB: Final = 256
PROBE_TIMEOUT_S: Final = 20.0
BURN_S: Final = 0.2
SLOTS: Final = 8
DISK: Final = "/var/tmp"  # seldom in memory, which /tmp may be
SIZE_OF_TMP: Final = "size of /tmp"
MIB: Final = 1 << 20


# ---- what is tried, in the order of the answer ----

NAMESPACES_FIX: Final = "run with namespaces: as root, or where user namespaces are allowed"
REPORT_FIX: Final = "should hold everywhere: please report it with this output"


@dataclass(frozen=True, slots=True)
class _Attempt:
    """given: names of what the attempt is told of the world outside (_Outside)."""

    group: Group
    name: str
    by: str
    run: Callable[..., Any]
    given: tuple[str, ...] = ()
    fix: str = NAMESPACES_FIX


_ATTEMPTS: Final = (
    _Attempt(Group.SIGHT, "host files", "mount namespace", attempts.host_files, ("file",)),
    _Attempt(Group.SIGHT, "code is read-only", "read-only mounts", attempts.code_read_only),
    _Attempt(Group.SIGHT, "other processes", "pid namespace", attempts.host_processes, ("pid",)),
    _Attempt(Group.SIGHT, "host network", "network namespace", attempts.host_network, ("port", "abstract")),
    _Attempt(Group.SIGHT, "shared memory", "ipc namespace", attempts.shared_memory, ("key",)),
    _Attempt(Group.SIGHT, "/proc", "masks, file modes", attempts.masked_proc),
    _Attempt(Group.SIGHT, "descriptors", "the first step of a birth", attempts.descriptors, fix=REPORT_FIX),
    _Attempt(Group.RIGHTS, "privileges", "uid, capabilities, no_new_privs", attempts.privileges, fix=REPORT_FIX),
    _Attempt(Group.RIGHTS, "system calls", "system call filter", attempts.system_calls, fix=REPORT_FIX),
    _Attempt(Group.RIGHTS, "keyring", "system call filter", attempts.keyring, fix=REPORT_FIX),
    _Attempt(Group.RIGHTS, "clock", "capabilities", attempts.clock, fix=REPORT_FIX),
    _Attempt(Group.RIGHTS, "priority", "resource limits", attempts.priority, fix=REPORT_FIX),
    _Attempt(Group.RIGHTS, "core dumps", "resource limits", attempts.core_dumps, fix=REPORT_FIX),
    _Attempt(
        Group.BOUNDS,
        "process limit",
        "pids control group",
        attempts.processes,
        ("allowed",),
        "mount the pids controller, or give this user's systemd unit Delegate=yes",
    ),
    _Attempt(Group.BOUNDS, "open files", "resource limits", attempts.open_files, fix=REPORT_FIX),
    _Attempt(Group.BOUNDS, SIZE_OF_TMP, "tmpfs with a size", attempts.storage, ("allowed_mb",)),
)


@dataclass(frozen=True, slots=True)
class _Outside:
    """Things of the host that a sandbox must not reach, made for the attempt."""

    file: str
    pid: int
    port: int
    abstract: str
    key: int
    allowed: int = PROBE_PIDS_MAX
    allowed_mb: int = PROBE_STORAGE_MB


@contextmanager
def _outside() -> Iterator[_Outside]:
    ipc_creat, ipc_excl, ipc_rmid = 0o1000, 0o2000, 0
    libc = ctypes.CDLL(None, use_errno=True)
    key = secrets.randbelow(1 << 30) + 1
    word = f"scheduler-doctor-{secrets.token_hex(8)}"
    with socket.create_server(("127.0.0.1", 0)) as port, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + word)
        abstract.listen()
        shared = libc.shmget(key, 4096, ipc_creat | ipc_excl | 0o666)
        try:
            yield _Outside(str(Path(__file__).resolve()), os.getpid(), port.getsockname()[1], word, key)
        finally:
            if shared >= 0:
                libc.shmctl(shared, ipc_rmid, None)


class _Examination:
    """One launcher, and the sandboxes that are made with it. reports: what it has told the operator."""

    def __init__(
        self,
        launcher: Launcher,
        runtime: str,
        code_dir: str,
        config: LauncherConfig,
        tell: Callable[[Finding], None],
        reports: Sequence[str],
    ) -> None:
        self.launcher = launcher
        self._tell = tell
        self._runtime = runtime
        self._code_dir = code_dir
        self._config = config
        self._reports = reports

    async def make(self, *, memory_mb: int = PROBE_MEMORY_MB, outbound: bool = False) -> Examinee:
        spec = Specialisation(self._code_dir, memory_mb, PROBE_STORAGE_MB, outbound=outbound)
        return await Examinee.make(self.launcher, self._runtime, spec)

    async def run(self) -> None:
        """All that needs a sandbox. LaunchFailed, EOFError: one could not be made, or died; what was found before stays."""
        self._tell(self._isolation())
        sandbox = await self.make()
        self._tell(await self._namespaces(sandbox))
        with _outside() as outside:
            for attempt in _ATTEMPTS:
                self._tell(await self._attempt(sandbox, attempt, outside))
        self._tell(await self._encryption(sandbox))
        await self._neighbours(sandbox)
        self._metering(await sandbox.end())
        await self._memory()
        self._tell(await self._cpu())
        self._tell(await self._snapshot())
        self._tell(await self._outbound())

    def _say(self, group: Group, name: str, verdict: Verdict, detail: str, fix: str = "", enforced_by: str = "") -> None:
        self._tell(Finding(group, name, verdict, detail, fix, enforced_by))

    def _isolation(self) -> Finding:
        verdict, detail, fix, by = {
            Isolation.ROOT: (
                Verdict.OK,
                "each sandbox in namespaces of its own, with a uid of its own",
                "",
                "pid, mount, ipc, uts, net, cgroup namespaces",
            ),
            Isolation.USER: (
                Verdict.WEAKER,
                "each sandbox in namespaces below this user's; all of them have this user's uid on the host",
                "run as root, then each sandbox has a uid of its own",
                "user and other namespaces",
            ),
            Isolation.PROCESS: (
                Verdict.CANNOT,
                "bare processes: not protected from one another, nor the machine from them",
                NAMESPACES_FIX,
                "",
            ),
        }[self.launcher.isolation]
        return Finding(Group.SIGHT, "isolation", verdict, detail, fix, by)

    def _limits_fix(self) -> str:
        why = f" ({self.launcher.why_limited})" if self.launcher.why_limited else ""
        return f"run as root or as a systemd unit with Delegate=yes, on a kernel with the memory, pids and cpu controllers{why}"

    async def _namespaces(self, sandbox: Examinee) -> Finding:
        """By their kernel's names, those of this process beside those of the sandbox."""
        other = await self.make()
        theirs, neighbours = await sandbox.run(attempts.namespaces), await other.run(attempts.namespaces)
        seen = await sandbox.run(attempts.names)
        await other.end()
        ours = attempts.namespaces()
        as_root = self.launcher.isolation is Isolation.ROOT
        needed = set(ours) - ({"user"} if as_root else set())  # with uids of their own they need none of their own
        shared = sorted(kind for kind in needed if theirs[kind] == ours[kind])
        between = sorted(kind for kind in needed if theirs[kind] == neighbours[kind])
        told = [f"shares {', '.join(shared)} with the host"] if shared else []
        told += [f"shares {', '.join(between)} with other sandboxes"] if between else []
        told += [f"is told the host's name {seen['host']}"] if seen["host"] == socket.gethostname() != "sandbox" else []
        told += [f"sees its control groups {seen['groups']}"] if set(seen["groups"]) - {"/"} else []
        detail = "; ".join(told) or f"shares none of {len(needed)} with the host or another sandbox"
        verdict = Verdict.CANNOT if told else Verdict.OK
        return Finding(Group.SIGHT, "namespaces", verdict, detail, NAMESPACES_FIX if told else "", "" if told else "clone(2)")

    async def _attempt(self, sandbox: Examinee, attempt: _Attempt, outside: _Outside) -> Finding:
        answer = await sandbox.run(attempt.run, **{name: getattr(outside, name) for name in attempt.given})
        if not isinstance(answer, list):
            answer = [False, f"the attempt itself failed: {answer.get('errorType')}: {answer.get('errorMessage')}"]
        held, detail = answer
        on_disk = attempt.name == SIZE_OF_TMP and self.launcher.encrypts_scratch
        by, verdict, fix = (
            "ext4 on a loop device" if on_disk else attempt.by,
            Verdict.OK if held else Verdict.CANNOT,
            "" if held else attempt.fix,
        )
        if held and attempt.name == "process limit" and Limit.PIDS not in self.launcher.limits:
            by, verdict, fix = "RLIMIT_NPROC", Verdict.WEAKER, attempt.fix
            detail += ", by a limit that a user's processes share"
        return Finding(attempt.group, attempt.name, verdict, str(detail), fix, by if held else "")

    async def _encryption(self, sandbox: Examinee) -> Finding:
        """What a sandbox writes to /tmp is looked for on its device, once it is there."""
        name = "encrypted /tmp"
        if self.launcher.isolation is Isolation.PROCESS:
            return Finding(Group.BOUNDS, name, Verdict.CANNOT, "a directory of the host's, in plain text", NAMESPACES_FIX)
        if not self.launcher.encrypts_scratch:
            why = next((text for text in self._reports if "/tmp cannot" in text), "in memory, where it counts, as set")
            fix = "run as root, with loop devices, e2fsprogs, and a kernel that has ext4 with CONFIG_FS_ENCRYPTION"
            return Finding(Group.BOUNDS, name, Verdict.WEAKER, why, fix, "tmpfs")
        word = secrets.token_hex(16)
        device = await sandbox.run(attempts.plant, word=word)
        if not isinstance(device, int):
            return Finding(Group.BOUNDS, name, Verdict.CANNOT, f"the attempt itself failed: {device}")
        data = await trio.to_thread.run_sync(_device_bytes, f"/proc/{sandbox.shell.pid}/root/tmp", f"/dev/loop{device}")
        if word.encode() in data:
            return Finding(Group.BOUNDS, name, Verdict.CANNOT, "files can be read on the device", REPORT_FIX)
        detail = "neither content nor name of a file can be read on its device"
        return Finding(Group.BOUNDS, name, Verdict.OK, detail, "", "fscrypt on ext4")

    async def _neighbours(self, sandbox: Examinee) -> None:
        word = f"left-{secrets.token_hex(8)}"
        other = await self.make()
        left = await other.run(attempts.neighbour_leaves, word=word)
        held, detail = await sandbox.run(attempts.neighbour_looks, word=word)
        await other.run(attempts.neighbour_tidies, word=word)
        ours, theirs = await sandbox.run(attempts.names), await other.run(attempts.names)
        await other.end()
        if left is not True:
            held, detail = False, f"the attempt itself failed: {left}"
        self._say(
            Group.SIGHT,
            "other sandboxes",
            Verdict.OK if held else Verdict.CANNOT,
            detail,
            "" if held else NAMESPACES_FIX,
            "mount, ipc, network namespaces" if held else "",
        )
        apart = ours["uid"] != theirs["uid"] and os.geteuid() == 0
        self._say(
            Group.RIGHTS,
            "uid of its own",
            Verdict.OK if apart else Verdict.WEAKER,
            f"two sandboxes ran as {ours['uid']} and {theirs['uid']}"
            if apart
            else "sandboxes share this user's uid and quotas",
            "" if apart else "run as root, then each sandbox has a uid of its own",
            "setresuid(2)" if apart else "",
        )

    def _metering(self, exited: Exited) -> None:
        metered = Limit.CPU_TIME in self.launcher.limits and exited.cpu_ns > 0
        self._say(
            Group.BOUNDS,
            "CPU time",
            Verdict.OK if metered else Verdict.WEAKER,
            f"{exited.cpu_ns / 1e6:.1f} ms were measured"
            if metered
            else "known of a sandbox that ends by itself, and only then",
            "" if metered else self._limits_fix(),
            f"control groups v{self.launcher.cgroup_version}" if metered else "wait4(2)",
        )

    async def _memory(self) -> None:
        """A sandbox that takes too much must die of it, and be known to have died of that."""
        sandbox = await self.make()
        grouped = Limit.MEMORY in self.launcher.limits
        by = f"memory control group v{self.launcher.cgroup_version}" if grouped else "RLIMIT_DATA"
        try:
            answer = await sandbox.run(attempts.eat_memory, allowed_mb=PROBE_MEMORY_MB)
            exited = await sandbox.end()
            if isinstance(answer, dict) and answer.get("errorType") == "MemoryError":
                found = Verdict.WEAKER, "an allocation was refused; each process of a sandbox is bounded alone"
            else:
                found, by = (Verdict.CANNOT, f"{answer} MB were taken, {PROBE_MEMORY_MB} allowed"), ""
        except EOFError:
            exited = await sandbox.exited()
            told = exited.cause is Cause.OOM
            found = Verdict.OK if told else Verdict.WEAKER, f"a sandbox that took more ended by {exited.cause.name}"
        verdict, detail = found
        self._say(Group.BOUNDS, "memory limit", verdict, detail, "" if verdict is Verdict.OK else self._limits_fix(), by)
        peak = exited.memory_peak_bytes
        self._say(
            Group.BOUNDS,
            "memory peak",
            Verdict.OK if peak else Verdict.WEAKER,
            f"peak of that sandbox: {peak / MIB:.0f} MB" if peak else "no figure: functions are billed and shown without it",
            "" if peak else self._limits_fix(),
            by if peak else "",
        )

    async def _cpu(self) -> Finding:
        """Four that spin in a sandbox whose memory is worth half a CPU."""
        sandbox = await self.make(memory_mb=HALF_A_CPU_MB)
        sandbox.loaded()
        used = await sandbox.run(attempts.burn, seconds=BURN_S)
        await sandbox.end()
        name, by = "CPU limit", f"cpu control group v{self.launcher.cgroup_version}"
        if not isinstance(used, float):
            return Finding(Group.BOUNDS, name, Verdict.CANNOT, f"the attempt itself failed: {used}")
        detail = f"{HALF_A_CPU_MB} MB are worth 0.5 CPU; four busy processes got {used:.2f}"
        if Limit.CPU not in self.launcher.limits:
            return Finding(Group.BOUNDS, name, Verdict.CANNOT, detail, self._limits_fix())
        if self._config.cpu_per_memory == "weight_only":
            return Finding(Group.BOUNDS, name, Verdict.WEAKER, f"{detail}: weights alone, as set", "cpu_per_memory", by)
        if used < 0.65:
            return Finding(Group.BOUNDS, name, Verdict.OK, detail, "", by)
        return Finding(Group.BOUNDS, name, Verdict.CANNOT, detail, self._limits_fix())

    async def _snapshot(self) -> Finding:
        """An initialised process is written down, and another goes on from there."""
        name, by = "snapshots", "an image that a shell maps over itself"
        bare = self.launcher.isolation is Isolation.PROCESS
        fix = NAMESPACES_FIX if bare else "functions start as they would without; report it with this output"
        spec = Specialisation(self._code_dir, IMAGE_MEMORY_MB, PROBE_STORAGE_MB)
        shell = await self.launcher.shell(self._runtime)
        made = await maker.make(
            self.launcher,
            shell,
            spec,
            start_body(self.launcher, spec, "take"),
            bounds=maker.Bounds(PROBE_TIMEOUT_S, IMAGE_MEMORY_MB * MIB, "the doctor's bound"),
            room=lambda size: True,
            dead=partial(exit_of, self.launcher, shell.id),
        )
        if made.image is None:
            return Finding(Group.FEATURES, name, Verdict.CANNOT, made.reason, fix)
        try:
            restored = await Examinee.make(self.launcher, self._runtime, spec, image=made.image.fd)
        finally:
            os.close(made.image.fd)
        seen = await restored.run(attempts.names)
        await restored.end()
        if restored.not_restored is not None or "uid" not in seen:
            reason = restored.not_restored or f"the restored process answers {seen}"
            return Finding(Group.FEATURES, name, Verdict.CANNOT, reason, fix)
        detail = (
            f"a process of {made.image.bytes / MIB:.1f} MB was written down and restored in {restored.init_ns / 1e6:.1f} ms"
        )
        return Finding(Group.FEATURES, name, Verdict.OK, detail, "", by)

    async def _outbound(self) -> Finding:
        name = "network outbound"
        if self.launcher.isolation is Isolation.PROCESS:
            return Finding(Group.FEATURES, name, Verdict.WEAKER, "functions have the host's network, all of it", NAMESPACES_FIX)
        try:
            await self.launcher.network()
        except LaunchFailed as error:
            reason = f" ({error.errno_name})" if error.errno_name else ""
            return Finding(Group.FEATURES, name, Verdict.CANNOT, f"{error.step}{reason}", error.hint)
        sandbox = await self.make(outbound=True)
        servers = list(self._config.network_servers)
        with socket.create_server(("0.0.0.0", 0)) as ours:
            port = ours.getsockname()[1]
            refused = [[address, port] for address in _own_addresses()] + [["169.254.169.254", 80]]
            answer = await sandbox.run(attempts.outbound, refused=refused, servers=servers)
        await sandbox.end()
        by = "a router in a network namespace, nf_tables"
        if "errorType" in answer:
            return Finding(Group.FEATURES, name, Verdict.CANNOT, f"the attempt itself failed: {answer['errorMessage']}")
        if answer["reached"]:
            return Finding(Group.FEATURES, name, Verdict.CANNOT, f"reaches {', '.join(answer['reached'])}", REPORT_FIX)
        closed = f"{len(refused)} addresses, this host's and that of metadata, were refused"
        if answer["answered"]:
            return Finding(Group.FEATURES, name, Verdict.OK, f"{closed}; {answer['answered'][0]} was reached", "", by)
        if not servers:
            fix = "set sandbox_name_servers, or functions can use addresses only"
            return Finding(Group.FEATURES, name, Verdict.WEAKER, f"{closed}; no name server off this host is known", fix, by)
        detail = f"{closed}; name server {', '.join(answer['silent'])} did not answer over TCP"
        fix = "let the host's firewall pass what is forwarded for devices sched* (docs/internals/network.md)"
        return Finding(Group.FEATURES, name, Verdict.WEAKER, detail, fix, by)


def _device_bytes(mount: str, device: str) -> bytes:
    """All of a small device, after what waits in memory was written to it."""
    fd = os.open(mount, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(fd)
    return Path(device).read_bytes()


def _own_addresses() -> list[str]:
    """IPv4 addresses of this host that are not loopback, as the kernel's table of local ones has them."""
    try:
        text = Path("/proc/net/fib_trie").read_text()
    except OSError:
        return []
    found = re.findall(r"\|-- ([0-9.]+)\n +/32 host LOCAL", text)
    return sorted({address for address in found if not address.startswith("127.")})


# ---- all of it ----


@contextmanager
def _disk_of(config: LauncherConfig) -> Iterator[str | None]:
    """A directory where /tmp of sandboxes can be: on the disk where the service's would be."""
    if os.geteuid() != 0:
        yield None
        return
    wanted = Path(config.scratch_dir or DISK).absolute()
    below = next((path for path in (wanted, *wanted.parents) if path.is_dir()), None)
    with tempfile.TemporaryDirectory(prefix="scheduler-doctor-", dir=below) as directory:
        yield directory


async def _examine(config: LauncherConfig, runtime: Runtime) -> list[Finding]:
    findings: list[Finding] = []

    def failed(detail: str, fix: str = "") -> None:
        findings.append(Finding(Group.SIGHT, "sandbox", Verdict.CANNOT, detail, fix))

    reports: list[str] = []
    with function_directory() as code_dir, _disk_of(config) as scratch_dir:
        trying = replace(config, scratch_dir=scratch_dir, scratch_ahead=0)
        async with open_launcher(trying, [runtime], report=reports.append) as launcher:
            findings.append(machine.controllers(launcher))
            try:
                with trio.fail_after(PROBE_TIMEOUT_S):
                    await _Examination(launcher, runtime.name, code_dir, config, findings.append, reports).run()
            except LaunchFailed as error:
                failed(str(error), error.hint)
            except EOFError:
                failed("a sandbox died while it was examined", "see the kernel's log (dmesg)")
            except trio.TooSlowError:
                failed(f"no answer for {PROBE_TIMEOUT_S:g} s", "try again when the machine has less to do")
    return findings


async def diagnose(
    config: LauncherConfig | None = None, runtimes: Sequence[Runtime] | None = None, programs: Sequence[Runtime] = ()
) -> list[Finding]:
    """Findings in the order of groups. config: how the service would start the launcher; runtimes: which it would offer that
    are forked; programs: and which that are executed."""
    wanted = config or LauncherConfig(network_servers=name_servers())
    found = {runtime.name: runtime for runtime in runtimes} if runtimes is not None else find_runtimes()
    findings = [machine.runtimes_found(found, programs), machine.kernel(), machine.sandbox_users(wanted), machine.swap_space()]
    if found:
        runtime = found.get(default_runtime()) or next(iter(found.values()))
        # The function that is tried lies elsewhere than the service's code.
        trying = replace(wanted, slots=SLOTS, pids_max=PROBE_PIDS_MAX, require_limits=False, code_root=None)
        try:
            findings += await _examine(trying, runtime)
        except LaunchFailed as error:
            findings.append(Finding(Group.SIGHT, "isolation", Verdict.CANNOT, str(error), error.hint))
        except OSError as error:
            findings.append(Finding(Group.SIGHT, "isolation", Verdict.CANNOT, f"could not be tried: {error}"))
    return _in_order(findings)


def _in_order(findings: list[Finding]) -> list[Finding]:
    order = list(Group)
    return sorted(findings, key=lambda finding: order.index(finding.group))


async def diagnose_service(settings: Settings) -> list[Finding]:
    """Of a service with these settings, on this machine, as this user."""
    public = settings.isolation == "process" and os.geteuid() == 0
    broken: list[Finding] = []
    try:
        declared = read_declarations(settings.runtimes_dir)
    except RuntimeFileBroken as error:  # the service would not start
        broken.append(Finding(Group.MACHINE, "runtimes of your own", Verdict.CANNOT, error.message, "see docs/runtimes.md"))
        declared = read_declarations()
    offers = find_offers(declared, prefer_public=public)
    forked = [offer.fork for offer in offers.here.values() if offer.fork is not None]
    programs = [replace(offer.exec, name=name) for name, offer in offers.here.items() if offer.fork is None]
    config = launcher_config(settings, runtimes=len(offers.shells))
    findings = await diagnose(config, forked, programs)
    return _in_order([await machine.service_user(settings, config), *broken, *findings])
