"""Images of initialised processes, with real sandboxes: what lives on, what is drawn anew, what cannot be."""

from __future__ import annotations

import os
import random
import struct
from typing import TYPE_CHECKING

import pytest
import trio

from scheduler.sandboxes.launcher import LauncherConfig, LaunchFailed
from tests.sandboxes.driver import (
    FUNCTION,
    children,
    launched,
    public_directory,
    public_runtime,
    runtimes,
    text_of,
    write_function,
)
from tests.sandboxes.images import Image, make, new_file, restore, restored, sealed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sandboxes.driver import Launched

pytestmark = pytest.mark.slow  # each starts a launcher and a runtime's process

LIVES_ON = (
    """
import ctypes, decimal, functools, json, logging, os, random, re, sqlite3, ssl, sys, threading, time, weakref
print("init")
started = time.time()
os.environ["SET_BY_INIT"] = "1"
big = {n: str(n) * 10 for n in range(20_000)}
blob = bytearray(os.urandom(3_000_000))
checksum = hash(bytes(blob))

def squares():
    n = 0
    while True:
        yield n * n
        n += 1

open_generator = squares()
[next(open_generator) for _ in range(5)]

@functools.lru_cache
def cached(n):
    calls.append(n)
    return n + 1
calls = []
cached(1)

class Thing:
    __slots__ = ("value", "__weakref__")
thing = Thing()
thing.value = 7
reference = weakref.ref(thing)
decimal.getcontext().prec = 50
pi = decimal.Decimal(1) / 7
table = sqlite3.connect(":memory:")
table.execute("create table t (n)")
table.executemany("insert into t values (?)", [(n,) for n in range(1000)])
tls = ssl.create_default_context()
pattern = re.compile(r"(\\w+)@(\\w+)")
lock = threading.RLock()
local = threading.local()
local.value = "here"
libc = ctypes.CDLL(None)
callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda n: n * 3)
opened = open(__file__)
opened.readline()
os.umask(0o027)
logging.getLogger().setLevel("INFO")
sys.setrecursionlimit(5_000)

def deep(n):
    return n and 1 + deep(n - 1)
deep(3000)
"""
    + FUNCTION
)

LOOK = """
import app, os, sys, logging
logging.info("from a restored process")
with app.lock:
    locked = True
result = [
    len(app.big), app.big[777], hash(bytes(app.blob)) == app.checksum, next(app.open_generator), app.cached(1), app.calls,
    app.reference() is app.thing, app.thing.value, str(app.pi), app.table.execute("select sum(n) from t").fetchone()[0],
    len(app.tls.get_ca_certs()) > 10, app.pattern.match("a@b").groups(), app.local.value, app.callback(14),
    app.libc.getpid() == os.getpid(), app.opened.readline(), app.opened.tell() > 0, oct(os.umask(0)),
    os.environ["SET_BY_INIT"], os.environ["WHO"], sys.getrecursionlimit(), app.deep(4000), os.getcwd(),
]
"""


@pytest.mark.parametrize("name", sorted(runtimes()))
async def test_what_init_made_lives_on(tmp_path, name):
    async with launched(tmp_path, LauncherConfig(slots=4), [runtimes()[name]]) as here:
        write_function(tmp_path, LIVES_ON)
        image = await make(here, WHO="maker")
        assert (image.reason, image.log) == (None, "init\n")
        assert 1_000_000 < image.bytes <= image.asked_bytes
        for number in range(2):
            async with restored(here, image.fd, WHO=f"restored {number}") as made:
                assert made.why_not is None
                assert made.log == "", "init does not run again"
                seen = await made.run(LOOK)
                task = here.launcher.task_root(here.code_dir)
                assert seen == [
                    20_000, "777" * 10, True, 25, 2, [1], True, 7, "0." + "142857" * 8 + "14", 499_500, True, ["a", "b"],
                    "here", 42, True, LIVES_ON.splitlines(True)[1], True, "0o27", "1", f"restored {number}", 5_000, 4_000, task,
                ]  # fmt: skip
                assert b"from a restored process" in made.running.log
        image.close()


UNIQUE = (
    """
import random, secrets, ssl, tempfile, uuid
random.seed(5); random.random()
ssl.RAND_bytes(8); uuid.uuid1(); uuid.uuid4(); uuid.getnode(); next(tempfile._get_candidate_names())
"""
    + FUNCTION
)

DRAWN = """
import multiprocessing, os, random, secrets, ssl, tempfile, threading, uuid
first = uuid.uuid1()
result = {
    "random": random.random(), "shuffled": str(random.sample(range(1000), 5)), "uuid1": str(first), "node": str(first.node),
    "uuid4": str(uuid.uuid4()), "secrets": secrets.token_hex(8), "ssl": ssl.RAND_bytes(8).hex(), "urandom": os.urandom(8).hex(),
    "name": next(tempfile._get_candidate_names()), "authkey": bytes(multiprocessing.current_process().authkey).hex(),
}
same = [os.getpid() == threading.main_thread().native_id == threading.get_native_id()]
result["same"] = same
"""


async def test_siblings_draw_different_numbers(tmp_path):
    async with launched(tmp_path, LauncherConfig(slots=4)) as here:
        write_function(tmp_path, UNIQUE)
        image = await make(here)
        assert image.reason is None
        drawn = []
        for _ in range(12):
            async with restored(here, image.fd) as made:
                assert made.why_not is None
                drawn.append(await made.run(DRAWN))
        image.close()
    for name in drawn[0].keys() - {"same"}:
        assert len({one[name] for one in drawn}) == len(drawn), name
    assert all(one["same"] == [True] for one in drawn)


# What init leaves behind, and the words for it.
OBSTACLES = {
    "thread": ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,), name='w').start()", "thread behind: w"),
    "socket": ("import socket\ns = socket.socket()", "a socket open"),
    "socket pair": ("import socket\ns = socket.socketpair()", "a socket open"),
    "pipe": ("import os\np = os.pipe()", "a pipe open"),
    "epoll": ("import select\ne = select.epoll()", "eventpoll"),
    "loop": ("import asyncio\nl = asyncio.new_event_loop()", "open"),
    "memory file": ("import os\nm = os.memfd_create('x')", "not read-only"),
    "child": ("import subprocess\ns = subprocess.Popen(['/bin/sleep', '60'])", "a child process"),
    "dead child": (
        "import os\npid = os.fork()\nif not pid: os._exit(0)\nos.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)",
        "a child process",
    ),
    "daemon": (
        "import os, time\nif not os.fork():\n    if not os.fork():\n        time.sleep(60)\n    os._exit(0)\nos.wait()",
        "process behind",
    ),
    "shared memory": ("import mmap\nm = mmap.mmap(-1, 4096)", "shared memory"),
    "timer": ("import signal\nsignal.setitimer(signal.ITIMER_VIRTUAL, 50)", "a timer"),
    "posix timer": (
        "import ctypes\nt = ctypes.c_void_p()\nctypes.CDLL(None).timer_create(1, None, ctypes.byref(t))",
        "a timer",
    ),
    "unattached memory": ("import ctypes\nassert ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0", "shared memory of System V"),
    "semaphore": ("import ctypes\nassert ctypes.CDLL(None).semget(0, 1, 0o1600) >= 0", "semaphores of System V"),
    "message queue": ("import ctypes\nassert ctypes.CDLL(None).msgget(0, 0o1600) >= 0", "a message queue of System V"),
    "scratch": ("open('/tmp/left', 'w').close()", "files in /tmp: left"),
    "file for writing": ("import os\nf = open('/tmp/left', 'w')\nos.unlink('/tmp/left')", "not read-only"),
    "standard output": ("import os\nn = os.open('/dev/null', 1)\nos.dup2(n, 1)\nos.close(n)", "descriptor 0, 1 or 2"),
    "pages of a gone file": (
        "import ctypes, os\nf = os.open('/tmp/x', 66)\nos.write(f, b'x' * 4096)\nlibc = ctypes.CDLL(None)\n"
        "libc.mmap.restype = ctypes.c_void_p\nassert libc.mmap(None, 4096, 3, 2, f, 0)\nos.close(f)\nos.unlink('/tmp/x')",
        "a file that is gone: /tmp/x",
    ),
}


async def test_what_is_no_memory_is_told(tmp_path):
    """And each of them begins where it ends: without it the image is made."""
    async with launched(tmp_path, LauncherConfig(slots=8)) as here:
        for name, (code, words) in OBSTACLES.items():
            write_function(tmp_path, code + FUNCTION)
            image = await make(here)
            assert image.reason is not None, name
            assert words in image.reason, (name, image.reason)
            assert image.bytes == 0
            image.close()
        write_function(tmp_path, "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()" + FUNCTION)
        image = await make(here)
        assert image.reason is None
        image.close()


HOOKS = (
    """
import os, signal, time
import snapshot_restore_py
order = []
def note(word, *, times=1):
    order.append(word * times)
snapshot_restore_py.register_before_snapshot(note, "before 1 ")
snapshot_restore_py.register_before_snapshot(note, "before 2 ", times=2)
snapshot_restore_py.register_after_restore(note, "after 1 ")
snapshot_restore_py.register_after_restore(note, "after 2 ", times=2)
def check():
    order.append(os.environ["WHO"])
    if os.environ["WHO"] == "fails":
        raise LookupError("no such key")
snapshot_restore_py.register_after_restore(check)
signal.signal(signal.SIGALRM, signal.SIG_IGN)
"""
    + FUNCTION
)


async def test_hooks_run_in_lambdas_order_and_their_errors_are_init_errors(tmp_path):
    async with launched(tmp_path, LauncherConfig(slots=4)) as here:
        write_function(tmp_path, HOOKS)
        image = await make(here, WHO="maker")
        async with restored(here, image.fd, WHO="me") as made:
            before = ["before 2 before 2 ", "before 1 "]
            assert await made.run("import app; result = app.order") == [*before, "after 1 ", "after 2 after 2 ", "me"]
            assert await made.run("import signal; result = signal.getsignal(signal.SIGALRM) == signal.SIG_IGN")
        async with restored(here, image.fd, WHO="fails") as made:
            assert made.error is not None
            assert (made.error["errorType"], made.error["errorMessage"]) == ("LookupError", "no such key")
            assert "LookupError" in made.log
        image.close()
        plain = await here.sandbox()
        assert await plain.run("import snapshot_restore_py; result = snapshot_restore_py.get_after_restore()[2][1:]") == [
            [],
            {},
        ]
        write_function(tmp_path, "import snapshot_restore_py as s\ns.register_before_snapshot(lambda: 1 / 0)" + FUNCTION)
        with pytest.raises(AssertionError, match="ZeroDivisionError"):
            await make(here)


async def test_bare_processes_have_no_images():
    """Each has a directory for temporary files of its own, the name of which would come along: restored, one wrote into its
    maker's."""
    runtime = public_runtime()
    if runtime is None:
        pytest.skip("no interpreter here that every user may read")
    with public_directory() as directory:
        async with launched(directory, LauncherConfig(slots=4, isolation="process"), [runtime]) as here:
            write_function(directory, VALUE)
            unsuitable = await make(here)
            assert unsuitable.reason is not None
            assert "temporary files" in unsuitable.reason
            unsuitable.close()


@pytest.mark.root
async def test_restored_sandboxes_share_what_they_do_not_write_to(tmp_path):
    """Twenty with 30 MB of objects from init: each adds about 2 MB. The bound leaves room for interpreters to come."""
    async with launched(tmp_path, LauncherConfig(slots=24)) as here:
        write_function(tmp_path, "data = [str(n) * 20 for n in range(150_000)]" + FUNCTION)
        image = await make(here)
        assert image.bytes > 20_000_000
        made = [await restore(here, image.fd) for _ in range(20)]
        for one in made:
            (worker,) = children(one.running.shell.pid)
            sizes = dict(line.split(":") for line in text_of(f"/proc/{worker}/smaps_rollup").splitlines()[1:])
            assert int(sizes["Private_Dirty"].split()[0]) + int(sizes["Private_Clean"].split()[0]) < 3_500, sizes
            assert int(sizes["Pss"].split()[0]) < 5_000, sizes
        assert await made[7].run("import app; result = len(app.data)") == 150_000
        for one in made:
            await one.end()
        image.close()


# ---- images that do not fit ----


async def plain(here: Launched, fd: int) -> str:
    """It goes on without the image, as a sandbox like any other. Why."""
    made = await restore(here, fd)
    assert made.error is None
    assert made.why_not is not None
    assert await made.run("import app; result = app.VALUE") == 5
    fds = await made.run("import os; result = sorted(map(int, os.listdir('/proc/self/fd')))")
    assert 6 not in fds
    await made.end()
    return made.why_not


VALUE = "VALUE = 5\nprint('init')" + FUNCTION


def copy_of(image: Image, change: dict[int, bytes] | None = None, length: int | None = None) -> int:
    data = bytearray(os.pread(image.fd, image.bytes, 0))
    for at, new in (change or {}).items():
        data[at : at + len(new)] = new
    fd = new_file()
    os.write(fd, data[:length])
    return sealed(fd)


async def test_an_image_that_does_not_fit_costs_only_the_init(tmp_path):
    async with launched(tmp_path, LauncherConfig(slots=4)) as here:
        write_function(tmp_path, VALUE)
        image = await make(here)
        cases = {
            "no image": {0: b"x"},
            "another version": {8: b"\xff"},
            "another life": {16: bytes(16)},
            "damaged": {600: b"\xff"},
        }
        for words, change in cases.items():
            fd = copy_of(image, change)
            assert words in await plain(here, fd), words
            os.close(fd)
        for length in (0, 100, 4096, image.bytes - 1):
            fd = copy_of(image, length=length)
            why = await plain(here, fd)
            assert "not whole" in why or "cannot be read" in why
            os.close(fd)
        pipe = os.pipe()
        assert "cannot be read" in await plain(here, pipe[0])
        for fd in pipe:
            os.close(fd)
        made = await restore(here, None)
        assert made.why_not == "no image came with it"
        await made.end()
        # The zygote rests, and another one comes: same code, another life.
        here.launcher.rest(next(iter(here.launcher.runtimes)))
        assert "another life" in await plain(here, image.fd)
        image.close()


def checksummed(data: bytearray, header_bytes: int, tables_bytes: int) -> None:
    """As native/launcher/image_thaw.c has it, so that what follows the check is reached."""
    struct.pack_into("<Q", data, CHECKSUM_AT, 0)
    total = 1
    for start, count in ((0, header_bytes), (header_bytes, tables_bytes)):
        at = start
        while at + 8 <= start + count:
            total = (total ^ int.from_bytes(data[at : at + 8], "little")) * 0x9FB21C651E98DF25 % 2**64
            total ^= total >> 31
            at += 8
        for byte in data[at : start + count]:
            total = (total ^ byte) * 0x9FB21C651E98DF25 % 2**64
    struct.pack_into("<Q", data, CHECKSUM_AT, total)


CHECKSUM_AT = 40
HEADER_BYTES = 480


async def test_forged_images_end_at_most_their_own_sandbox(tmp_path):
    """Random changes with a checksum that is right: what they do is done without privilege, behind every wall."""
    warnings: list[str] = []
    async with launched(tmp_path, LauncherConfig(slots=8), warnings=warnings) as here:
        write_function(tmp_path, VALUE)
        image = await make(here)
        data = bytes(os.pread(image.fd, image.bytes, 0))
        ops, files, descriptors, signals, strings = struct.unpack_from("<5I", data, HEADER_BYTES - 24)
        tables = ops * 40 + files * 24 + descriptors * 24 + signals * 40 + strings
        probe = bytearray(data)
        checksummed(probe, HEADER_BYTES, tables)
        assert probe == data, "the checksum is understood here"
        draw = random.Random(7)
        ends = {"lived": 0, "fell back": 0, "died": 0}
        for _ in range(40):
            forged = bytearray(data)
            for _ in range(draw.choice((1, 1, 3, 30))):
                at = draw.choice((draw.randrange(32, HEADER_BYTES), draw.randrange(HEADER_BYTES, HEADER_BYTES + tables)))
                forged[at : at + 4] = draw.choice(
                    (draw.randbytes(4), b"\0\0\0\0", b"\xff\xff\xff\xff", data[at + 40 : at + 44])
                )
            checksummed(forged, HEADER_BYTES, min(tables, len(forged) - HEADER_BYTES))
            fd = new_file()
            os.write(fd, forged)
            fd = sealed(fd)
            with trio.move_on_after(3.0):
                try:
                    made = await restore(here, fd)
                    ends["fell back" if made.why_not else "lived"] += 1
                    await made.end()
                except (EOFError, AssertionError, LaunchFailed, ConnectionError):
                    ends["died"] += 1
            os.close(fd)
        assert ends["died"] > 0, ends
        assert ends["fell back"] > 0, ends
        async with restored(here, image.fd) as made:
            assert made.why_not is None, "the zygote and the launcher did not notice"
        assert not [text for text in warnings if "process of runtime" in text]
        image.close()


LISTED = """
import os
result = []
for n in map(int, os.listdir("/proc/self/fd")):
    try:
        result.append([n, os.readlink(f"/proc/self/fd/{n}").partition(":")[0]])
    except FileNotFoundError:  # the one that lists them
        pass
"""


async def test_no_descriptor_is_the_functions(tmp_path):
    async with launched(tmp_path, LauncherConfig(slots=4)) as here:
        write_function(tmp_path)
        image = await make(here)
        ordinary = await (await here.sandbox()).run(LISTED)
        async with restored(here, image.fd) as made:
            seen = await made.run(LISTED)
        image.close()
    assert sorted(what for _, what in seen) == sorted(what for _, what in ordinary)
    assert [number for number, _ in seen if number < 3] == [0, 1, 2]


# ---- what images rely on ----


def regions(pid: int) -> Iterator[tuple[int, int, str]]:
    for line in text_of(f"/proc/{pid}/maps").splitlines():
        where, flags, _, _, _, *path = line.split(maxsplit=5)
        if flags[0] == "r" and flags[3] == "p" and not (path and path[0].startswith("[v")):
            start, _, end = where.partition("-")
            yield int(start, 16), int(end, 16), path[0] if path else ""


@pytest.mark.root
async def test_between_fork_and_thaw_nothing_is_written_but_what_every_image_has(tmp_path):
    """The zygote since its first fork, and a shell until it is specialised: stack, thread's block, C library and module."""
    async with launched(tmp_path, LauncherConfig(slots=16)) as here:
        first = await here.shell()
        forked = [pid for pid in children(parent(first.pid)) if "zygote.py" in text_of(f"/proc/{pid}/cmdline")]
        (zygote,) = [pid for pid in forked if level(pid) == level(first.pid) - 1]
        (worker,) = children(first.pid)
        for _ in range(12):
            await here.shell()
        different = list(differing(zygote, worker, ("/libc.so", "/libc-2", "/ld-linux", "_sandbox", "[stack]")))
        # The thread's block: at most a page or two, which the image has too.
        assert len(different) <= 2, different


def differing(one: int, other: int, allowed: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Pages of a process that another one has otherwise. allowed: of names of files; what follows a file counts as its own."""
    last = ""
    with open(f"/proc/{one}/mem", "rb") as first, open(f"/proc/{other}/mem", "rb") as second:
        for start, end, path in regions(one):
            name = path or last
            last = path if path.startswith("/") else last
            first.seek(start)
            second.seek(start)
            a, b = first.read(end - start), second.read(end - start)
            if a != b and not any(word in name for word in allowed):
                yield from (
                    (hex(start + at), name) for at in range(0, end - start, 4096) if a[at : at + 4096] != b[at : at + 4096]
                )


def level(pid: int) -> int:
    """How many pid namespaces it is in."""
    return len(next(line for line in text_of(f"/proc/{pid}/status").splitlines() if line.startswith("NSpid")).split()) - 1


def parent(pid: int) -> int:
    return int(text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])
