"""Control groups of both versions. Version 1 with every controller is what the other tests run on where it is mounted; here are
version 2 as a tree of plain files (what is written where), version 2 for real (being born in a group, killing it), and figures.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from scheduler.sandboxes.launcher import Cause, LauncherConfig, Limit, Specialisation
from tests.sandboxes.driver import IS_ROOT, children, groups_left, launched, text_of, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups"),
]


def unified_root() -> str | None:
    """Where version 2 is mounted, whatever controllers it has."""
    for line in text_of("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            return before.split()[4]
    return None


def plain_tree(directory: Path, controllers: str) -> Path:
    tree = directory / "groups"
    tree.mkdir()
    (tree / "cgroup.controllers").write_text(controllers + "\n")
    return tree


def read(tree: Path) -> dict[str, str]:
    """The files of slot 0, and those of the trees above it, as one map."""
    (instance,) = [path for path in tree.iterdir() if path.name.startswith("scheduler-")]
    found = {path.name: path.read_text() for path in (instance / "s0000").iterdir()}
    found["above"] = (tree / "cgroup.subtree_control").read_text()
    found["instance"] = (instance / "cgroup.subtree_control").read_text()
    return found


# memory_mb: bytes, weight, quota and period during the init and after it
SIZES = {
    128: ("134217728", "7", "20000 20000", "1447 20000"),
    177: ("185597952", "10", "10000 10000", "1000 10000"),
    885: ("927989760", "50", "10000 10000", "5002 10000"),
    1769: ("1854930944", "100", "10000 10000", "10000 10000"),
    3538: ("3709861888", "200", "20000 10000", "20000 10000"),
    10_240: ("10737418240", "578", "57885 10000", "57885 10000"),
}


@pytest.mark.parametrize("memory_mb", SIZES)
async def test_version_2_writes_each_limit_to_its_file(tmp_path: Path, memory_mb: int) -> None:
    memory, weight, at_start, quota = SIZES[memory_mb]
    tree = plain_tree(tmp_path, "cpuset cpu io memory hugetlb pids rdma misc")
    async with launched(tmp_path, LauncherConfig(slots=2, cgroup_root=str(tree), pids_max=77)) as made:
        assert made.launcher.cgroup_version == 2
        assert made.launcher.limits == frozenset(Limit)
        shell = await made.shell()
        assert read(tree)["cgroup.procs"] == "0", "entered at birth, before it is anything"
        await made.launcher.specialise(shell, Specialisation(made.code_dir, memory_mb, 512))
        files = read(tree)
        assert files["memory.max"] == memory
        assert files["memory.swap.max"] == "0"
        assert files["memory.oom.group"] == "1"
        assert files["pids.max"] == "77"
        assert files["cpu.weight"] == weight
        assert files["cpu.max"] == at_start
        assert files["cpu.max.burst"] == at_start.split()[0]
        made.launcher.loaded(shell.id)
        await until(lambda: read(tree)["cpu.max.burst"] == quota.split()[0], "its share of the CPU")
        assert read(tree)["cpu.max"] == quota
        assert sorted(files["above"].split()) == sorted(files["instance"].split()) == ["+cpu", "+memory", "+pids"]
    assert [path.name for path in tree.iterdir() if path.is_dir()] == []


async def test_version_2_with_weights_only(tmp_path: Path) -> None:
    tree = plain_tree(tmp_path, "cpu memory pids")
    async with launched(tmp_path, LauncherConfig(slots=2, cgroup_root=str(tree), cpu_per_memory="weight_only")) as made:
        shell = await made.shell()
        await made.launcher.specialise(shell, Specialisation(made.code_dir, 885, 512))
        made.launcher.loaded(shell.id)
        made.launcher.kill(shell.id)
        await made.launcher.exits.receive()  # what was asked before has been done
        assert read(tree)["cpu.weight"] == "50"
        assert "cpu.max" not in read(tree)


async def test_version_2_with_some_controllers_only(tmp_path: Path) -> None:
    tree = plain_tree(tmp_path, "pids")
    async with launched(tmp_path, LauncherConfig(slots=2, cgroup_root=str(tree), require_limits=False)) as made:
        assert made.launcher.limits == {Limit.PIDS, Limit.CPU_TIME, Limit.FREEZE}
        shell = await made.shell()
        assert shell.memory_fd == -1
        await made.launcher.specialise(shell, Specialisation(made.code_dir, 128, 512))
        files = read(tree)
        assert files["pids.max"] == "1024"
        assert "memory.max" not in files
        assert files["instance"] == "+pids"


async def test_version_2_counts_an_oom_kill_as_such(tmp_path: Path) -> None:
    tree = plain_tree(tmp_path, "cpu memory pids")
    async with launched(tmp_path, LauncherConfig(slots=2, cgroup_root=str(tree))) as made:
        for kills, cause in ((0, Cause.SIGNAL), (1, Cause.OOM)):
            sandbox = await made.sandbox()
            (instance,) = [path for path in tree.iterdir() if path.name.startswith("scheduler-")]
            (instance / "s0000" / "memory.events").write_text(f"low 0\nhigh 0\nmax 7\noom {kills}\noom_kill {kills}\n")
            (instance / "s0000" / "memory.peak").write_text("123456789\n")
            (instance / "s0000" / "cpu.stat").write_text("usage_usec 2500\nuser_usec 2000\nsystem_usec 500\n")
            (worker,) = children(sandbox.shell.pid)
            os.kill(worker, 9)
            exited = await sandbox.exited()
            assert (exited.cause, exited.memory_peak_bytes, exited.cpu_ns) == (cause, 123456789, 2_500_000)


async def test_version_2_hears_at_once_of_a_group_that_ran_out_of_memory(tmp_path: Path) -> None:
    """Its worker lives on, as it does on kernels that cannot be told to end the group as a whole."""
    tree = plain_tree(tmp_path, "cpu memory pids")
    async with launched(tmp_path, LauncherConfig(slots=1, cgroup_root=str(tree))) as made:
        (instance,) = [path for path in tree.iterdir() if path.name.startswith("scheduler-")]
        events = instance / "s0000" / "memory.events"
        events.parent.mkdir()
        for kills in (0, 7):  # the count of a group made anew is 0, but that is the kernel's affair
            events.write_text(f"low 0\nhigh 0\nmax 0\noom {kills}\noom_kill {kills}\n")
            sandbox = await made.sandbox()
            events.write_text(f"low 0\nhigh 0\nmax 9\noom {kills}\noom_kill {kills}\n")
            assert await sandbox.run("result = 'the limit was met and memory was found'")
            events.write_text(f"low 0\nhigh 0\nmax 9\noom {kills + 1}\noom_kill {kills + 1}\n")
            assert (await sandbox.exited()).cause is Cause.OOM


EAT_IN_A_CHILD = """
import os, time
if os.fork() == 0:
    held = []
    while True:
        held.append(b"x" * (1 << 20))
os.wait()
time.sleep(3600)
"""


async def test_a_child_that_ran_out_of_memory_ends_the_sandbox(tmp_path: Path) -> None:
    async with launched(tmp_path, LauncherConfig(slots=2)) as made:
        if Limit.MEMORY not in made.launcher.limits:
            pytest.skip("no memory controller here")
        neighbour = await made.sandbox()
        for _ in range(2):  # the second occupant of a slot is heard too
            sandbox = await made.sandbox(memory_mb=128)
            sandbox.send(EAT_IN_A_CHILD)
            exited = await sandbox.exited()
            assert exited.cause is Cause.OOM
            assert 120 << 20 < exited.memory_peak_bytes <= 128 << 20
        assert await neighbour.run("result = 1") == 1
        assert (await neighbour.end()).cause is Cause.KILLED


async def test_what_a_dead_launcher_left_in_a_plain_tree_is_removed(tmp_path: Path) -> None:
    tree = plain_tree(tmp_path, "cpu memory pids")
    namespace = os.stat("/proc/self/ns/pid").st_ino
    start = text_of("/proc/self/stat").rpartition(")")[2].split()[19]
    dead = tree / f"scheduler-{os.getpid()}-{int(start) - 1}-{namespace}"
    alive = tree / f"scheduler-{os.getpid()}-{start}-{namespace}"
    elsewhere = tree / f"scheduler-999999-1-{namespace + 1}"
    other = tree / "scheduler-of-someone-else"
    for path in (dead, alive, elsewhere, other):
        (path / "s0000").mkdir(parents=True)
        (path / "s0000" / "cgroup.procs").write_text("")
    async with launched(tmp_path, LauncherConfig(slots=1, cgroup_root=str(tree))):
        assert not dead.exists()
        assert alive.exists()
        assert elsewhere.exists()
        assert other.exists()


@pytest.mark.skipif(unified_root() is None, reason="no cgroup version 2 is mounted")
async def test_version_2_for_real_sandboxes_are_born_in_their_group(tmp_path: Path) -> None:
    root = unified_root()
    assert root is not None
    async with launched(tmp_path, LauncherConfig(slots=4, cgroup_root=root, require_limits=False)) as made:
        assert made.launcher.cgroup_version == 2
        assert Limit.CPU_TIME in made.launcher.limits
        sandbox = await made.sandbox()
        groups = text_of(f"/proc/{sandbox.shell.pid}/cgroup").splitlines()
        (line,) = [line for line in groups if line.startswith("0::")]
        assert line.endswith("/s0000")
        assert await sandbox.run("result = [l for l in open('/proc/self/cgroup') if l.startswith('0::')][0]") == "0::/\n"
        await sandbox.run("import time; end = time.process_time() + 0.05\nwhile time.process_time() < end: pass")
        usage = dict(line.split() for line in os.pread(sandbox.shell.cpu_fd, 4096, 0).decode().splitlines())
        assert int(usage["usage_usec"]) >= 50_000
        exited = await sandbox.end()
        assert exited.cpu_ns >= 50_000_000
        again = await made.sandbox()
        usage = dict(line.split() for line in os.pread(again.shell.cpu_fd, 4096, 0).decode().splitlines())
        assert int(usage["usage_usec"]) < 50_000, "a new occupant starts from nothing"
    assert groups_left() == []


async def test_figures_are_the_kernels(tmp_path: Path) -> None:
    """CPU time and memory of the whole sandbox, children included, as the engine reads them while it lives."""
    async with launched(tmp_path) as made:
        if Limit.MEMORY not in made.launcher.limits:
            pytest.skip("no memory controller here")
        sandbox = await made.sandbox(memory_mb=256)
        before_ns = cpu_ns(sandbox.shell.cpu_fd, made.launcher.cgroup_version)
        await sandbox.run(
            """
            import os, time
            if os.fork() == 0:
                held = bytearray(64 << 20)
                while time.process_time() < 0.05:
                    pass
                os._exit(0)
            os.wait()
            """
        )
        assert cpu_ns(sandbox.shell.cpu_fd, made.launcher.cgroup_version) - before_ns >= 50_000_000
        assert 64 << 20 < int(os.pread(sandbox.shell.memory_fd, 64, 0)) < 160 << 20


FILL_SOCKETS = """
import socket
def pages():
    line = next(line for line in open("/proc/net/sockstat") if line.startswith("TCP:")).split()
    return int(line[line.index("mem") + 1])
before, kept = pages(), []
with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
    for _ in range(40):
        kept += [socket.create_connection(listener.getsockname()), listener.accept()[0]]
for end in kept:
    end.setblocking(False)
    try:
        while True:
            end.send(bytes(1 << 18))
    except BlockingIOError:
        pass
result = (pages() - before) * 4096
"""


async def test_buffers_of_sockets_are_bounded(tmp_path: Path) -> None:
    """They are the kernel's, from a store that all the machine's connections share."""
    async with launched(tmp_path) as made:
        if Limit.MEMORY not in made.launcher.limits:
            pytest.skip("no memory controller here")
        sandbox = await made.sandbox(memory_mb=128)
        assert await sandbox.run(FILL_SOCKETS) < 64 << 20


def cpu_ns(fd: int, version: int) -> int:
    text = os.pread(fd, 4096, 0).decode()
    return int(text) if version == 1 else int(text.split()[1]) * 1000


BURN = """
import os, time
def busy(until):
    while time.monotonic() < until:
        pass
until = time.monotonic() + 0.5
for _ in range({children}):
    if os.fork() == 0:
        busy(until)
        os._exit(0)
begun = time.monotonic()
busy(until)
for _ in range({children}):
    os.wait()
spent = os.times()
result = [spent[0] + spent[1] + spent[2] + spent[3], time.monotonic() - begun]
"""


@pytest.mark.parametrize(("memory_mb", "children"), [(256, 0), (885, 0), (885, 2), (1769, 2)])
async def test_cpu_is_bounded_by_memory(tmp_path: Path, memory_mb: int, children: int) -> None:
    """From above; how much of its share a sandbox gets depends on what else runs, and is a benchmark's row."""
    if children > 0 and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("with one processor nothing can use more than one")
    async with launched(tmp_path) as made:
        if Limit.CPU not in made.launcher.limits:
            pytest.skip("no cpu controller here")
        sandbox = await made.sandbox(memory_mb=memory_mb)
        made.launcher.loaded(sandbox.shell.id)
        wanted = str(memory_mb * 10_000 // 1769)
        await until(lambda: quota_of(sandbox.shell.pid) == wanted, "its share of the CPU")
        used, wall = await sandbox.run(BURN.format(children=children))
        saved_up = 2 * 0.010 + 0.008  # two periods' worth, and the 4 ms by which each processor's clock may be late
        assert used <= wall * memory_mb / 1769 * 1.02 + saved_up
        if memory_mb < 300:  # of a busy machine more may not be to be had at all
            stat = group_file(sandbox.shell.pid, ("cpu.stat",)).split()
            assert int(stat[stat.index("nr_throttled") + 1]) > 0


async def test_the_next_occupant_is_born_and_loaded_at_full_pace(tmp_path: Path) -> None:
    async with launched(tmp_path, LauncherConfig(slots=1)) as made:
        if Limit.CPU not in made.launcher.limits or made.launcher.cgroup_version != 1:
            pytest.skip("groups are reused in version 1 only")
        first = await made.sandbox(memory_mb=128)
        assert quota_of(first.shell.pid) == "20000", "one CPU for its init"
        made.launcher.loaded(first.shell.id)
        await until(lambda: quota_of(first.shell.pid) == "1447", "its share of the CPU")
        await first.end()
        shell = await made.shell()
        assert quota_of(shell.pid) == "-1"


def quota_of(pid: int) -> str:
    return group_file(pid, ("cpu.cfs_quota_us", "cpu.max")).split()[0]


def group_file(pid: int, names: tuple[str, ...]) -> str:
    """The first of these files in the process' group, in the hierarchy that limits CPU."""
    for line in text_of(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":")
        if controllers == "" or "cpu" in controllers.split(","):
            for base in ("/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup"):
                for name in names:
                    if text := text_of(f"{base}{path}/{name}"):
                        return text
    raise LookupError(f"{names} of {pid}")
