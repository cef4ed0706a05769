"""Doors that need no privilege and lead out of a sandbox: into namespaces of its own making, keyrings, families of sockets,
probes of the kernel, the service's own threads. The table of attempts (attempts.py) tries what has an errno; here is what takes
more than a line, and what must go on working with the filter in place.

Some of these attempts did work once: the next occupant of a slot read the last one's keys, and one sandbox stopped the service
for as long as it liked by sending it a socket that lingers.
"""

from __future__ import annotations

import os
import platform
import socket
import time
from typing import TYPE_CHECKING

import pytest
import trio

from scheduler.sandboxes.launcher import LauncherConfig
from tests.sandboxes.driver import IS_ROOT, launched

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups"),
]

SO_PASSRIGHTS = 83

LIBC = """
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    ctypes.set_errno(0)
    answer = getattr(libc, name)(*arguments)
    return errno.errorcode[ctypes.get_errno()] if answer < 0 else answer
"""

STILL_OPEN = {
    "threads": "import threading; t = threading.Thread(target=int); t.start(); t.join(); result = True",
    "programs": "import subprocess; result = subprocess.run(['true']).returncode == 0",
    "a shell's pipe": "import os; result = os.popen('echo a | cat').read() == 'a\\n'",
    "fork": "import os; p = os.fork() or os._exit(0); result = os.waitpid(p, 0)[1] == 0",
    "processes": "import multiprocessing as m; p = m.Process(target=int); p.start(); p.join(); result = p.exitcode == 0",
    "pool": "from concurrent.futures import ThreadPoolExecutor as P; result = list(P(4).map(abs, [-1])) == [1]",
    "asyncio": "import asyncio; asyncio.run(asyncio.sleep(0)); result = True",
    "TCP": "import socket as s; a = s.create_server(('127.0.0.1', 0)); s.create_connection(a.getsockname()); result = True",
    "TCP, version 6": "import socket as s; a = s.create_server(('::1', 0), family=s.AF_INET6); result = True",
    "UDP": "import socket as s; s.socket(s.AF_INET, s.SOCK_DGRAM, 17).sendto(b'x', ('127.0.0.1', 9)); result = True",
    "names": "import socket as s; result = s.getaddrinfo('localhost', 80)[0][0] in (s.AF_INET, s.AF_INET6)",
    "interfaces": "import socket as s; result = [name for _, name in s.if_nameindex()] == ['lo']",
    "local pair": "import socket as s; a, b = s.socketpair(); a.send(b'x'); result = b.recv(1) == b'x'",
    "descriptors to a child": """
import array, os, socket as s
a, b = s.socketpair()
a.sendmsg([b'x'], [(s.SOL_SOCKET, s.SCM_RIGHTS, array.array('i', [0]).tobytes())])
result = len(b.recvmsg(1, 100)[1]) == 1
""",
    "watching own files": f"""{LIBC}
watch = call('inotify_init')
added = call('inotify_add_watch', watch, b'/tmp', 0x100)
open('/tmp/new', 'w').close()
result = added == 1 and len(os.read(watch, 4096)) > 0
""",
    "own file table": f"{LIBC}\nresult = call('unshare', 0x400) == 0",
    "own core limit": "import resource as r; r.setrlimit(r.RLIMIT_CORE, (0, 0)); result = r.getrlimit(r.RLIMIT_CORE) == (1, 1)",
    "own descriptors' limit": "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (512, 1024)); result = True",
}


async def test_no_flush_of_a_disk_of_the_host(tmp_path: Path) -> None:
    """What a sandbox can write to is in memory. A read-only file of the host, though, can be flushed as well, disk and all."""
    async with launched(tmp_path, LauncherConfig(slots=2)) as made:
        sandbox = await made.sandbox()
        # The kernel would refuse: a pipe cannot be flushed.
        assert await sandbox.run("import os; os.fsync(os.pipe()[0]); os.fdatasync(os.pipe()[0]); result = os.sync()") is None
        kept = await sandbox.run(
            """
            import os
            with open("/tmp/kept", "wb") as file:
                file.write(b"x")
                os.fsync(file.fileno())
            result = open("/tmp/kept").read()
            """
        )
        assert kept == "x"


async def test_what_functions_do_every_day_goes_on(tmp_path: Path) -> None:
    async with launched(tmp_path, LauncherConfig(slots=2)) as made:
        sandbox = await made.sandbox()
        for name, code in STILL_OPEN.items():
            assert await sandbox.run(code) is True, name


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have no second way into this kernel")
async def test_no_other_set_of_system_calls(tmp_path: Path) -> None:
    """The numbers of 32-bit programs and of x32 mean other calls, of which the filter knows nothing."""
    code = """
    import ctypes, mmap
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20 (getpid); int 0x80; ret
    enter = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(0x40000000 + 39)
    result = [enter(), ctypes.get_errno()]
    """
    async with launched(tmp_path, LauncherConfig(slots=2)) as made:
        assert await (await made.sandbox()).run(code) == [-38, 38]


async def test_the_filter_holds_for_whatever_is_executed(tmp_path: Path) -> None:
    async with launched(tmp_path, LauncherConfig(slots=2)) as made:
        sandbox = await made.sandbox()
        text = await sandbox.run(
            "import subprocess; result = subprocess.run(['cat', '/proc/self/status'], capture_output=True, text=True).stdout"
        )
        assert "Seccomp:\t2" in text


SEND = """
import array, os, socket as s, stat
def is_socket(number):
    try:
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        return False
channel = s.socket(fileno=os.dup(next(number for number in range(3, 1024) if is_socket(number))))
listener = s.create_server(('127.0.0.1', 0))
stuck = s.create_connection(listener.getsockname())
stuck.setblocking(False)
try:
    while True:
        stuck.send(bytes(1 << 20))
except BlockingIOError:
    pass
try:
    stuck.setsockopt(s.SOL_SOCKET, s.SO_LINGER, (1).to_bytes(4, 'little') + (10).to_bytes(4, 'little'))
    channel.sendmsg([b'x'], [(s.SOL_SOCKET, s.SCM_RIGHTS, array.array('i', [stuck.fileno()]).tobytes())])
    os.close(stuck.detach())
    result = 'sent'
except OSError as error:
    result = error.strerror
os.write(1, b'ready')
"""


async def test_nothing_can_be_sent_that_holds_the_service_up(tmp_path: Path) -> None:
    """The last reference of a descriptor that is dropped on the way is closed by who reads, and that may take time."""
    async with launched(tmp_path, LauncherConfig(slots=2)) as made:
        sandbox = await made.sandbox()
        sandbox.send(SEND)
        await trio.lowlevel.wait_readable(sandbox.shell.output_fd)
        await trio.lowlevel.wait_readable(sandbox.shell.channel_fd)
        begun = time.monotonic()
        answer = os.read(sandbox.shell.channel_fd, 4096)
        assert time.monotonic() - begun < 5, "the reader was held up"
        assert answer[:1] == b"x" or b"not permitted" in answer, "it was tried"


async def test_the_channel_takes_no_descriptors(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.getsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS)
        except OSError:
            pytest.skip("this kernel cannot refuse descriptors; then sockets may not linger")
    async with launched(tmp_path, LauncherConfig(slots=2)) as made:
        assert await (await made.sandbox()).run(SEND) == "Operation not permitted"


async def test_no_secret_of_the_runtime_is_shared(tmp_path: Path) -> None:
    """What the runtime process had drawn before it forked would be known to every function."""
    async with launched(tmp_path, LauncherConfig(slots=2)) as made:
        first, second = await made.sandbox(), await made.sandbox()
        for draw in (
            "import multiprocessing; result = bytes(multiprocessing.current_process().authkey).hex()",
            "import random; result = random.getrandbits(128)",
            "import ssl; result = ssl.RAND_bytes(16).hex()",
            "import uuid; result = str(uuid.uuid1()) + str(uuid.uuid4())",
            "import tempfile; result = next(tempfile._get_candidate_names())",
        ):
            assert await first.run(draw) != await second.run(draw), draw
