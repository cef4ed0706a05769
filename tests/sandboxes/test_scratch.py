"""/tmp of sandboxes: its size, what becomes of what was written there, and what is left when anything is killed.

Real volumes on a real disk: whoever runs this without root, loop devices, e2fsprogs or a kernel that encrypts sees it skipped,
except for what then has to be said loudly.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import re
import signal
import struct
import subprocess
import sys
import textwrap
from contextlib import asynccontextmanager, contextmanager, suppress
from ctypes import CDLL
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from scheduler.sandboxes.launcher import EXECUTABLE, Cause, LauncherConfig, LaunchFailed
from tests.sandboxes.driver import IS_ROOT, PATIENCE_S, Raised, below, children, gone, launched, text_of, until
from tests.security.weak import PROTECTIONS, Edit, weaken

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.sandboxes.driver import Launched, Running

SMALL_MB = 8
FLUSH_BUFFERS = 0x1261  # BLKFLSBUF
GET_POLICY = 0xC0096616  # FS_IOC_GET_ENCRYPTION_POLICY_EX
KEY_ID_AT = 8 + 8  # the size asked for; version, modes and flags
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root may make file systems")


def config(directory: Path, **changes: object) -> LauncherConfig:
    own = LauncherConfig(slots=8, scratch_dir=str(directory / "scratch"), scratch_ahead=1)
    return replace(own, **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def encrypting(directory: Path, warnings: list[str] | None = None, **changes: object) -> AsyncIterator[Launched]:
    """A launcher whose sandboxes have their /tmp on disk; nothing of them is left afterwards."""
    heard = [] if warnings is None else warnings
    async with launched(directory, config(directory, **changes), warnings=heard) as made:
        if not made.launcher.encrypts_scratch:
            pytest.skip(f"this machine cannot: {heard}")
        yield made
    assert volumes_in(directory) == []
    assert list((directory / "scratch").iterdir()) == []


def volumes_in(directory: Path) -> list[str]:
    """Loop devices on a file below the directory, which has no name any more."""
    devices = Path("/sys/block").glob("loop*")
    return sorted(device.name for device in devices if text_of(device / "loop/backing_file").startswith(f"{directory}/"))


def mounts_in(directory: Path) -> list[str]:
    return [line for line in text_of("/proc/mounts").splitlines() if str(directory) in line]


def device_of(sandbox: Running) -> str:
    """The loop device below its /tmp; "" where that is in memory."""
    device = os.stat(f"/proc/{sandbox.shell.pid}/root/tmp").st_dev
    return f"loop{os.minor(device)}" if os.major(device) == 7 else ""


@contextmanager
def tmp_of(sandbox: Running) -> Iterator[int]:
    fd = os.open(f"/proc/{sandbox.shell.pid}/root/tmp", os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def device_bytes(sandbox: Running) -> bytes:
    """All of the device, after what waited in memory was written to it."""
    with tmp_of(sandbox) as fd:
        assert CDLL(None).syncfs(fd) == 0
    with open(f"/dev/{device_of(sandbox)}", "rb") as device:
        fcntl.ioctl(device, FLUSH_BUFFERS)  # what was read before is not kept up to date
        return device.read()


def key_id(sandbox: Running) -> bytes:
    """Of the key that its /tmp is under: a hash of it, which the kernel makes."""
    room = bytearray(struct.pack("<Q", 24) + bytes(24))
    with tmp_of(sandbox) as fd:
        fcntl.ioctl(fd, GET_POLICY, room)
    assert room[8] == 2, "policy of version 2"
    return bytes(room[KEY_ID_AT : KEY_ID_AT + 16])


async def of_size(made: Launched, size_mb: int, memory_mb: int = 128) -> Running:
    return await made.sandbox(ephemeral_storage_mb=size_mb, memory_mb=memory_mb)


# ---- what a function sees ----


@needs_root
async def test_a_function_gets_the_size_it_asked_for(tmp_path: Path) -> None:
    async with encrypting(tmp_path) as made:
        for size_mb in (512, 700, 10_240):
            sandbox = await of_size(made, size_mb)
            kind, flags, free, total, mode, names = await sandbox.run("""
                import os
                *_, line = [line.split() for line in open("/proc/mounts") if line.split()[1] == "/tmp"]
                status = os.statvfs("/tmp")
                mib = status.f_frsize / (1 << 20)
                result = [line[2], line[3], status.f_bavail * mib, status.f_blocks * mib]
                result += [os.stat("/tmp").st_mode, os.listdir("/tmp")]
            """)
            assert (kind, names, mode & 0o7777) == ("ext4", [], 0o1777)
            assert {"nosuid", "nodev"} <= set(flags.split(","))
            assert "noexec" not in flags
            assert size_mb <= free <= size_mb * 1.0005 + 1
            assert free <= total <= size_mb * 1.03 + 1
            await sandbox.end()


@needs_root
async def test_a_full_disk_is_enospc_for_its_own_function_alone(tmp_path: Path) -> None:
    async with encrypting(tmp_path) as made:
        sandbox, neighbour = await of_size(made, 512), await of_size(made, 512)
        fill = """
            import errno, os
            fd = os.open("/tmp/big", os.O_RDWR | os.O_CREAT)
            taken = 0
            try:
                while True:
                    os.posix_fallocate(fd, taken << 20, 1 << 20)
                    taken += 1
            except OSError as error:
                result = [error.errno, taken]
        """
        assert await sandbox.run(fill) == [errno.ENOSPC, 512]
        with pytest.raises(Raised, match="No space left on device"):
            await sandbox.run("file = open('/tmp/more', 'wb'); file.write(bytes(1 << 20)); file.flush(); result = 1")
        assert await neighbour.run("result = open('/tmp/own', 'wb').write(bytes(1 << 20))") == 1 << 20
        assert await sandbox.run("import os; os.unlink('/tmp/big'); result = open('/tmp/more', 'wb').write(b'again')") == 5


@needs_root
async def test_so_is_running_out_of_names(tmp_path: Path) -> None:
    async with encrypting(tmp_path) as made:
        sandbox = await of_size(made, SMALL_MB)
        made_files = await sandbox.run("""
            import errno
            count = 0
            try:
                while True:
                    open(f"/tmp/{count}", "x").close()
                    count += 1
            except OSError as error:
                result = [error.errno, count]
        """)
        assert made_files[0] == errno.ENOSPC
        assert 400 < made_files[1] < 600, "64 a MB"
        await sandbox.end()


@pytest.mark.slow
@needs_root
async def test_files_do_not_count_as_memory_that_kills(tmp_path: Path) -> None:
    async with encrypting(tmp_path) as made:
        sandbox = await of_size(made, 512, memory_mb=64)
        wrote = await sandbox.run("""
            with open("/tmp/big", "wb") as file:
                result = sum(file.write(bytes(1 << 20)) for _ in range(192)) >> 20
        """)
        assert wrote == 192
        exited = await sandbox.end()
        assert exited.cause is Cause.KILLED
        assert exited.memory_peak_bytes <= 64 << 20


@needs_root
async def test_programs_run_from_tmp_and_what_they_are_is_not_root(tmp_path: Path) -> None:
    async with encrypting(tmp_path) as made:
        sandbox = await of_size(made, SMALL_MB)
        assert await sandbox.run("""
            import os, shutil, subprocess
            shutil.copy("/usr/bin/id", "/tmp/id")
            os.chmod("/tmp/id", 0o4755)
            result = int(subprocess.run(["/tmp/id", "-u"], capture_output=True, text=True).stdout) == os.getuid() > 0
        """)
        await sandbox.end()


@needs_root
async def test_its_file_system_takes_no_orders_from_it(tmp_path: Path) -> None:
    """Keys of its own, policies, trimming, shutting down: whoever owns a file may ask for some of these."""
    async with encrypting(tmp_path) as made:
        sandbox = await of_size(made, SMALL_MB)
        answers = await sandbox.run("""
            import errno, fcntl, os
            os.mkdir("/tmp/own")
            fd = os.open("/tmp/own", os.O_RDONLY)
            orders = {
                "add a key": 0xC0506617, "remove a key": 0xC0406618, "set a policy": 0x800C6613,
                "ask for the policy": 0xC0096616, "shut down": 0x8004587D, "trim": 0xC0185879, "change flags": 0x40086602,
                "grow": 0x40086610, "move blocks": 0xC028660F,
            }
            result = {}
            for name, number in orders.items():
                try:
                    fcntl.ioctl(fd, number, bytearray(256))
                    result[name] = "done"
                except OSError as error:
                    result[name] = errno.errorcode[error.errno]
        """)
        assert set(answers.values()) <= {"ENOTTY", "EPERM"}, answers
        await sandbox.end()


# ---- nothing in plain text ----

PLANT = """
    import os
    os.makedirs("/tmp/NAME-directory")
    for path in ("/tmp/NAME-file", "/tmp/NAME-directory/NAME-below"):
        with open(path, "wb") as file:
            file.write(b"SECRET" * 4000)
    os.symlink("/tmp/NAME-target", "/tmp/NAME-link")
    result = os.stat("/tmp/NAME-file").st_size
"""


@needs_root
async def test_neither_content_nor_names_are_ever_on_the_disk(tmp_path: Path) -> None:
    name, secret = f"planted-{os.urandom(6).hex()}", os.urandom(12).hex()
    copy, there = tmp_path / "copy", tmp_path / "there"
    there.mkdir()
    async with encrypting(tmp_path) as made:
        sandbox = await of_size(made, SMALL_MB)
        empty = device_bytes(sandbox)
        written = await sandbox.run(PLANT.replace("NAME", name).replace("SECRET", secret))
        data = device_bytes(sandbox)
        changed = sum(
            data[at : at + 4096] != empty[at : at + 4096] and data[at : at + 4096].count(0) < 64
            for at in range(0, len(data), 4096)
        )
        assert changed >= 2 * written // 4096, "it was written, and looks like noise"
        assert name.encode() not in data
        assert secret.encode() not in data
        copy.write_bytes(data)
        await sandbox.end()
    look = f"mount -o loop,ro {copy} {there} && find {there}/tmp -mindepth 1 -printf '%y %f\\n' && cat {there}/tmp/*"
    seen = await trio.run_process(["unshare", "-m", "sh", "-c", look], capture_stdout=True, capture_stderr=True, check=False)
    listed = seen.stdout.decode()
    kinds = sorted(line.partition(" ")[0] for line in listed.splitlines())
    assert kinds == ["d", "f", "f", "l"], "all of it is there, without its key"
    assert name not in listed
    assert b"Required key not available" in seen.stderr


ATTRIBUTES = """
import os
os.symlink("nowhere", "/tmp/link")
file = open("/tmp/file", "w")
result = []
places = [("/tmp/file", {}), ("/tmp/link", {"follow_symlinks": False}), (file.fileno(), {}), ("/tmp", {}), ("/dev/shm", {})]
for place, more in places:
    for name in ("user.NAME", "system.posix_acl_access"):
        try:
            os.setxattr(place, name, b"SECRET" * 9, **more)
            result.append("set")
        except OSError as error:
            result.append(error.errno)
"""


@needs_root
async def test_no_attribute_is_on_the_disk_since_nothing_would_encrypt_it(tmp_path: Path) -> None:
    name, secret = f"planted-{os.urandom(6).hex()}", os.urandom(12).hex()
    async with encrypting(tmp_path) as made:
        sandbox = await of_size(made, SMALL_MB)
        answers = await sandbox.run(ATTRIBUTES.replace("NAME", name).replace("SECRET", secret))
        data = device_bytes(sandbox)
        assert secret.encode() not in data
        assert name.encode() not in data
        assert answers == [errno.EOPNOTSUPP] * 10


@pytest.mark.slow
@needs_root
async def test_canary_without_the_policy_it_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = Edit("scratch_volume.c", "error = set_policy(directory, volume->key_id);", "")
    monkeypatch.setitem(PROTECTIONS, "encryption", (cut,))
    command = (str(weaken(("encryption",)).launcher),)
    name, secret = f"planted-{os.urandom(6).hex()}", os.urandom(12).hex()
    async with encrypting(tmp_path, command=command) as made:
        sandbox = await of_size(made, SMALL_MB)
        await sandbox.run(PLANT.replace("NAME", name).replace("SECRET", secret))
        data = device_bytes(sandbox)
        assert name.encode() in data
        assert secret.encode() in data


@needs_root
async def test_each_sandbox_has_a_key_of_its_own_also_when_it_is_given_a_used_volume(tmp_path: Path) -> None:
    async with encrypting(tmp_path, scratch_ahead=0, slots=16) as made:
        keys, devices = set(), []
        for number in range(3):
            sandbox = await of_size(made, 512)
            assert await sandbox.run("import os; result = os.listdir('/tmp')") == [], "nothing of the one before"
            await sandbox.run(f"result = open('/tmp/{number}', 'wb').write(bytes(4 << 20))")
            keys.add(key_id(sandbox))
            devices.append(device_of(sandbox))
            neighbour = await of_size(made, 512)
            keys.add(key_id(neighbour))
            await sandbox.end()
            await neighbour.end()
        assert len(keys) == 6
        assert len(set(devices)) < 3, "volumes are used again"


@needs_root
async def test_a_used_volume_gives_its_blocks_back_to_the_disk(tmp_path: Path) -> None:
    async with encrypting(tmp_path, scratch_ahead=0) as made:

        def taken(device: str) -> int:
            (launcher,) = children(made.launcher.pid)
            inode = int(text_of(f"/sys/block/{device}/loop/backing_file").partition("#")[2].partition(" ")[0])
            for keeper in children(launcher):
                for fd in Path(f"/proc/{keeper}/fd").iterdir():
                    if os.stat(fd).st_ino == inode:
                        return os.stat(fd).st_blocks * 512
            return 0

        sandbox = await of_size(made, 512)
        device = device_of(sandbox)
        before = taken(device)
        await sandbox.run("result = open('/tmp/big', 'wb').write(bytes(12 << 20))")
        device_bytes(sandbox)
        assert taken(device) > 12 << 20
        await sandbox.end()
        second = await of_size(made, 512)
        assert device_of(second) == device
        assert 0 < taken(device) < before + (2 << 20)


# ---- memory ----


@needs_root
async def test_the_next_in_a_place_does_not_pay_for_files_of_the_last(tmp_path: Path) -> None:
    async with encrypting(tmp_path, slots=1) as made:
        peaks = []
        for size_mb in (12, 24, 0):  # emptied, dropped as too full, and the one that must not pay
            sandbox = await the_next(made)
            await sandbox.run(f"result = open('/tmp/big', 'wb').write(bytes({size_mb} << 20))")
            peaks.append((await sandbox.end()).memory_peak_bytes >> 20)
        assert peaks[0] >= 12
        assert peaks[1] >= 24
        assert peaks[2] < 12


async def the_next(made: Launched) -> Running:
    """In the one place there is, which is not free before nothing of its last occupant is left."""
    with trio.fail_after(PATIENCE_S):
        while True:
            try:
                return await of_size(made, 512)
            except LaunchFailed as error:
                assert "'slots'" in str(error)  # noqa: PT017 - the others are raised
            await trio.sleep(0.002)


# ---- room ----


@needs_root
async def test_without_room_tmp_is_in_memory_and_that_is_said(tmp_path: Path) -> None:
    warnings: list[str] = []
    async with encrypting(tmp_path, warnings, scratch_mb_max=1024, scratch_ahead=0) as made:
        first, second, third = [await of_size(made, 512) for _ in range(3)]
        assert device_of(first)
        assert device_of(second)
        assert not device_of(third)
        assert await third.run("import os; s = os.statvfs('/tmp'); result = s.f_blocks * s.f_frsize >> 20") == 512
        assert any("1024 of 1024 MB" in text and "in memory" in text for text in warnings)
        await first.end()
        await second.end()
        other = await of_size(made, 900)
        assert device_of(other), "volumes that nobody uses make room for another size"


@needs_root
async def test_or_there_is_no_sandbox_if_encryption_must_be(tmp_path: Path) -> None:
    async with encrypting(tmp_path, scratch="encrypted", scratch_mb_max=512, scratch_ahead=0) as made:
        sandbox = await of_size(made, 512)
        with pytest.raises(LaunchFailed, match=r"storage for /tmp.*No space left"):
            await of_size(made, 512)
        await sandbox.end()
        assert device_of(await of_size(made, 512)), "waits for the one that is being emptied"


# ---- where it cannot be had ----


@needs_root
@pytest.mark.parametrize(
    ("hidden", "why"),
    [("/usr/sbin", "mkfs.ext4"), ("/dev", "loop-control"), (None, "directory of volumes")],
)
async def test_what_is_missing_is_said_loudly(tmp_path: Path, hidden: str | None, why: str) -> None:
    command = LauncherConfig().command
    if hidden is not None:
        nodes = "; ".join(
            f"mknod -m 666 /dev/{name} c 1 {minor}"
            for name, minor in (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9))
        )
        script = f'mount -t tmpfs none {hidden} && {{ {nodes if hidden == "/dev" else ":"}; }} && exec {EXECUTABLE} "$@"'
        command = ("unshare", "-m", "sh", "-c", script, "launcher")
    where = tmp_path if hidden else Path("/dev/shm")
    settings = config(where, command=command, scratch_dir=str(where / f"scratch-{os.getpid()}"))
    warnings: list[str] = []
    try:
        async with launched(tmp_path, settings, warnings=warnings) as made:
            assert not made.launcher.encrypts_scratch
            sandbox = await of_size(made, 512)
            assert any("/tmp cannot be on disk" in text and why in text and "in memory" in text for text in warnings), warnings
            assert await sandbox.run("result = [l.split()[2] for l in open('/proc/mounts') if ' /tmp ' in l]") == ["tmpfs"]
        with pytest.raises(LaunchFailed, match="encrypted /tmp"):
            async with launched(tmp_path, replace(settings, scratch="encrypted")):
                pytest.fail("it must not start")
    finally:
        with suppress(FileNotFoundError):
            os.rmdir(settings.scratch_dir or "")


@needs_root
async def test_what_is_in_memory_does_not_come_to_a_disk_by_swap(tmp_path: Path) -> None:
    if tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2]) < (6, 4):
        pytest.skip("noswap came with Linux 6.4")
    async with launched(tmp_path, LauncherConfig(slots=2)) as made:
        sandbox = await of_size(made, 700)
        flags = await sandbox.run("result = {l.split()[1]: l.split()[3] for l in open('/proc/mounts')}")
        assert "noswap" in flags["/tmp"].split(",")
        assert "noswap" in flags["/dev/shm"].split(",")


@pytest.mark.parametrize("scratch", ["auto", "encrypted"])
async def test_bare_processes_have_none(tmp_path: Path, scratch: str) -> None:
    settings = config(tmp_path, isolation="process", scratch=scratch, temp_root=str(tmp_path))
    warnings: list[str] = []
    if scratch == "encrypted":
        with pytest.raises(LaunchFailed, match="encrypted /tmp"):
            async with launched(tmp_path, settings, warnings=warnings):
                pytest.fail("it must not start")
        return
    async with launched(tmp_path, settings, warnings=warnings) as made:
        assert not made.launcher.encrypts_scratch
    assert not any("/tmp cannot" in text for text in warnings), "it has a directory, not memory"


async def test_settings_have_bounds(tmp_path: Path) -> None:
    for name, value in (("scratch", "disk"), ("scratch_ahead", 257), ("scratch_mb_max", -1)):
        with pytest.raises(ValueError, match=rf"{name} is .*{value}.*must be"):
            config(tmp_path, **{name: value})


# ---- whoever is killed ----


@needs_root
async def test_a_killed_keeper_costs_no_sandbox(tmp_path: Path) -> None:
    async with encrypting(tmp_path, warnings=[]) as made:
        sandbox = await of_size(made, 512)
        await sandbox.run("result = open('/tmp/kept', 'w').write('kept')")
        (launcher,) = children(made.launcher.pid)
        keepers = [child for child in children(launcher) if text_of(f"/proc/{child}/comm").startswith("scheduler-launc")]
        assert keepers
        for keeper in keepers:
            os.kill(keeper, signal.SIGKILL)
        other = await of_size(made, 512)  # whether or not they have ended
        assert device_of(other) not in ("", device_of(sandbox))
        await until(lambda: all(gone(keeper) for keeper in keepers), "keepers end")
        assert await sandbox.run("result = open('/tmp/kept').read()") == "kept"
        await sandbox.end()
        await other.end()


@needs_root
@pytest.mark.parametrize("what", ["a link", "a stranger's directory"])
async def test_what_was_put_in_the_place_of_its_directory_is_not_used(tmp_path: Path, what: str) -> None:
    """The service, once it has dropped root, owns what the directory lies in; keepers are root, and start at any time."""
    async with encrypting(tmp_path, warnings=[]) as made:
        elsewhere, place = tmp_path / "elsewhere", tmp_path / "scratch"
        elsewhere.mkdir(mode=0o700)
        place.rename(tmp_path / "before")
        if what == "a link":
            place.symlink_to(elsewhere)
        else:
            place.mkdir(mode=0o700)
            os.chown(place, 65534, 65534)
        (launcher,) = children(made.launcher.pid)
        keepers = [child for child in children(launcher) if text_of(f"/proc/{child}/comm").startswith("scheduler-launc")]
        for keeper in keepers:
            os.kill(keeper, signal.SIGKILL)
        await until(lambda: all(gone(keeper) for keeper in keepers), "keepers end")
        sandbox = await of_size(made, 512)
        assert device_of(sandbox) == "", "it is in memory instead"
        assert volumes_in(elsewhere) == volumes_in(place) == []
        await sandbox.end()


SERVICE = """
import sys
from pathlib import Path

import trio

from scheduler.sandboxes.launcher import LauncherConfig
from tests.sandboxes.driver import launched


async def serve(directory):
    config = LauncherConfig(slots=8, scratch_dir=str(directory / "scratch"), scratch_ahead=2)
    async with launched(directory, config, warnings=[]) as made:
        sandboxes = [await made.sandbox() for _ in range(2)]
        for sandbox in sandboxes:
            await sandbox.run("result = open('/tmp/file', 'wb').write(bytes(1 << 20))")
        print(made.launcher.pid, flush=True)
        await trio.sleep_forever()


trio.run(serve, Path(sys.argv[1]))
"""


@contextmanager
def serving(directory: Path) -> Iterator[Any]:
    """A process that stands for a service, with two sandboxes that have written something; its first line is its launcher."""
    command = [sys.executable, "-c", textwrap.dedent(SERVICE), str(directory)]
    with subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2], stdout=subprocess.PIPE, text=True) as service:
        try:
            yield service
        finally:
            service.kill()


@needs_root
@pytest.mark.parametrize("victim", ["service", "launcher", "all"])
async def test_kill_leaves_no_device_no_mount_and_no_file(tmp_path: Path, victim: str) -> None:
    async with encrypting(tmp_path):
        pass  # skips where it cannot be had
    with serving(tmp_path) as service:
        supervisor = int(await trio.to_thread.run_sync(service.stdout.readline))
        (launcher,) = children(supervisor)
        family = [supervisor, *below(supervisor)]
        assert len(volumes_in(tmp_path)) >= 2
        for pid in {"service": [service.pid], "launcher": [launcher], "all": [service.pid, *family]}[victim]:
            with suppress(ProcessLookupError):  # it went with the one before
                os.kill(pid, signal.SIGKILL)
        await until(lambda: all(gone(pid) for pid in family), "processes end")
    await until(lambda: volumes_in(tmp_path) == [], "loop devices are let go of")
    assert os.listdir(tmp_path / "scratch") == []
    assert mounts_in(tmp_path) == []
