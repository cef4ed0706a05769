"""Real programs inside a real sandbox: the list of system calls that may be made is complete for them. Each does what programs
of its language do all day (threads, children, files, sockets, timers), and says `fine` at the end.

A program that this machine lacks is skipped by name; Python, a shell and a compiler are always here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from scheduler.sandboxes.launcher import LauncherConfig
from tests.sandboxes.driver import IS_ROOT, launched, write_function

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.skipif(not IS_ROOT, reason="needs root: namespaces without a user namespace, and control groups"),
]

PYTHON = {
    "threads and locks": """
import queue, threading
q, out = queue.Queue(), []
def work():
    while (item := q.get()) is not None:
        out.append(item * 2)
threads = [threading.Thread(target=work) for _ in range(8)]
[t.start() for t in threads]
[q.put(n) for n in range(100)]
[q.put(None) for _ in threads]
[t.join() for t in threads]
result = sum(out) == 9900
""",
    "subprocess with pipes, timeout and a session": """
import subprocess
done = subprocess.run("cat; echo err >&2", shell=True, input=b"in", capture_output=True, timeout=20, start_new_session=True)
result = (done.stdout, done.stderr) == (b"in", b"err\\n")
""",
    "processes, a pool of them and shared memory": """
import multiprocessing as m
from multiprocessing import shared_memory
with m.get_context("fork").Pool(2) as pool:
    squares = pool.map(abs, [-1, -2, -3])
block = shared_memory.SharedMemory(create=True, size=4096)
block.buf[0] = 7
other = shared_memory.SharedMemory(block.name)
result = squares == [1, 2, 3] and other.buf[0] == 7
other.close()
block.close()
block.unlink()
""",
    "asyncio with a server, a child and signals": """
import asyncio, signal, os
async def main():
    heard = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, heard.set)
    async def echo(reader, writer):
        writer.write(await reader.read(4)); await writer.drain(); writer.close()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"ping")
    answer = await reader.read(4)
    child = await asyncio.create_subprocess_exec("echo", "hi", stdout=asyncio.subprocess.PIPE)
    said, _ = await child.communicate()
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(heard.wait(), 10)
    writer.close()
    server.close()
    return answer == b"ping" and said == b"hi\\n"
result = asyncio.run(main())
""",
    "sqlite with a journal and one in the log": """
import sqlite3
found = []
for mode in ("delete", "wal"):
    db = sqlite3.connect(f"/tmp/{mode}.db")
    db.execute(f"pragma journal_mode={mode}")
    db.execute("create table t (n)")
    with db:
        db.executemany("insert into t values (?)", [(n,) for n in range(1000)])
    found.append(db.execute("select sum(n) from t").fetchone()[0])
result = found == [499500, 499500]
""",
    "TLS in memory": """
import ssl
context = ssl.create_default_context()
a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
client = context.wrap_bio(a, b, server_hostname="localhost")
try:
    client.do_handshake()
except ssl.SSLWantReadError:
    pass
result = len(b.read()) > 100
""",
    "mapped memory and files": """
import mmap, os, tempfile
with tempfile.TemporaryFile() as file:
    file.truncate(1 << 16)
    view = mmap.mmap(file.fileno(), 0)
    view[:4] = b"good"
    view.flush()
    view.madvise(mmap.MADV_WILLNEED)
    view.resize(1 << 17)
    result = os.pread(file.fileno(), 4, 0) == b"good"
""",
    "locks of files": """
import fcntl
with open("/tmp/lock", "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
result = True
""",
    "files of every kind": """
import os, shutil, pathlib
top = pathlib.Path("/tmp/tree")
(top / "a").mkdir(parents=True)
(top / "a/file").write_bytes(bytes(100_000))
os.link(top / "a/file", top / "hard"); os.symlink("a/file", top / "soft"); os.mkfifo(top / "pipe")
os.chmod(top / "hard", 0o600); os.utime(top / "hard", (1, 1))
shutil.copytree(top / "a", top / "b"); shutil.copy2(top / "hard", top / "copy")
os.posix_fallocate(os.open(top / "hard", 2), 0, 10)
shutil.make_archive("/tmp/tree", "gztar", top)
shutil.rmtree(top)
result = os.path.getsize("/tmp/tree.tar.gz") > 0
""",
    "timers and clocks": """
import signal, time, select, os
hits = []
signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.sigtimedwait([signal.SIGUSR1], 0.1)
result = hits == [1] and time.clock_gettime(time.CLOCK_BOOTTIME) > 0 and time.clock_getres(time.CLOCK_MONOTONIC) > 0
""",
    "who and where am I": """
import os, platform, pwd, grp, resource, socket, getpass, locale
result = bool(pwd.getpwuid(os.getuid()).pw_name and platform.platform() and socket.gethostname() == "sandbox"
              and os.cpu_count() and os.sched_getaffinity(0) and os.getloadavg() and os.times() and os.uname()
              and resource.getrusage(resource.RUSAGE_SELF) and os.sysconf("SC_PHYS_PAGES") > 0)
""",
    "every module of the library can be loaded": """
import importlib, pkgutil, sys, warnings
warnings.simplefilter("ignore")
skip = {"antigravity", "this", "idlelib", "lib2to3", "turtledemo", "turtle", "tkinter", "test", "__main__", "msilib", "winreg"}
failed = []
for name in sorted(sys.stdlib_module_names - skip):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        pass
    except (ImportError, OSError) as error:
        if not sys.platform.startswith("win") and "win" not in name.lower() and name not in ("nt", "ntpath", "curses"):
            failed.append(f"{name}: {error}")
result = not failed or failed
""",
}

SHELL = """
set -e
cd /tmp && rm -rf sh && mkdir sh && cd sh
printf 'b\\na\\nc\\n' > in && sort in | uniq | tee out | wc -l
cp -a in copy && mv copy moved && ln -s moved link && cat link | grep -c a
dd if=/dev/zero of=zero bs=4k count=16 conv=fsync 2>/dev/null && truncate -s 1M zero && du -k zero >/dev/null
tar cf t.tar in out && gzip t.tar && tar xzf t.tar.gz && find . -type f | xargs ls -l >/dev/null
stat in >/dev/null && df . >/dev/null && touch -d @1 in && chmod 600 in && sha256sum in >/dev/null && mktemp >/dev/null
(sleep 0.01 & wait) && nice -n 5 true && timeout 5 true && env | head -1 >/dev/null && seq 1 100 | awk '{s+=$1} END {print s}'
ps >/dev/null 2>&1 || true; id >/dev/null; uname -a >/dev/null; date >/dev/null; nproc >/dev/null; sync; kill -0 $$
echo fine
"""

C = """
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
extern char **environ;
static void *work(void *x) { char *p = malloc(1 << 20); memset(p, 1, 1 << 20); free(p); return x; }
#define MUST(x) do { if (!(x)) { perror(#x); return 1; } } while (0)
int main(void) {
    pthread_t t[8];
    for (int i = 0; i < 8; i++) MUST(pthread_create(&t[i], NULL, work, NULL) == 0);
    for (int i = 0; i < 8; i++) MUST(pthread_join(t[i], NULL) == 0);
    int e = epoll_create1(0), v = eventfd(0, 0), c = timerfd_create(CLOCK_MONOTONIC, 0), s, m, pair[2];
    struct epoll_event ev = {.events = EPOLLIN};
    struct itimerspec soon = {.it_value = {.tv_nsec = 1000000}};
    sigset_t set; sigemptyset(&set); sigaddset(&set, SIGUSR1); sigprocmask(SIG_BLOCK, &set, NULL);
    MUST(e >= 0 && v >= 0 && c >= 0 && (s = signalfd(-1, &set, 0)) >= 0);
    MUST(epoll_ctl(e, EPOLL_CTL_ADD, c, &ev) == 0 && timerfd_settime(c, 0, &soon, NULL) == 0);
    MUST(epoll_wait(e, &ev, 1, 5000) == 1);
    MUST((m = memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING)) >= 0 && ftruncate(m, 1 << 20) == 0);
    char *p = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, m, 0);
    MUST(p != MAP_FAILED && (p = mremap(p, 1 << 20, 1 << 21, MREMAP_MAYMOVE)) != MAP_FAILED);
    MUST(mprotect(p, 4096, PROT_READ) == 0);
    MUST(madvise(p, 1 << 20, MADV_DONTNEED) == 0 && munmap(p, 1 << 21) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    char *arguments[] = {"true", NULL}; pid_t child; int status;
    MUST(posix_spawnp(&child, "true", NULL, NULL, arguments, environ) == 0);
    MUST(waitpid(child, &status, 0) == child && status == 0);
    timer_t timer; MUST(timer_create(CLOCK_MONOTONIC, NULL, &timer) == 0 && timer_delete(timer) == 0);
    sem_t *sem = sem_open("/mine", 0x40, 0600, 1); MUST(sem != SEM_FAILED && sem_wait(sem) == 0 && sem_unlink("/mine") == 0);
    MUST(system("exit 3") == 3 << 8 && popen("true", "r") != NULL);
    puts("fine");
    return 0;
}
"""

NODE = """
const fs = require('fs'), os = require('os'), net = require('net'), dns = require('dns');
const { Worker, isMainThread } = require('worker_threads'), { execFileSync, spawn } = require('child_process');
const crypto = require('crypto'), zlib = require('zlib'), assert = require('assert');
if (!isMainThread) { process.exit(0); }
fs.writeFileSync('/tmp/node', 'x'); fs.copyFileSync('/tmp/node', '/tmp/node2'); fs.fsyncSync(fs.openSync('/tmp/node', 'r+'));
assert(os.cpus().length > 0 && os.totalmem() > 0 && os.freemem() > 0 && os.uptime() > 0 && os.loadavg().length === 3);
assert(os.networkInterfaces().lo && os.hostname() === 'sandbox' && os.userInfo().uid === process.getuid());
assert.equal(execFileSync('echo', ['hi']).toString(), 'hi\\n');
zlib.gunzipSync(zlib.gzipSync(Buffer.alloc(1 << 20)));
const server = net.createServer(s => s.pipe(s)).listen(0, '127.0.0.1', async () => {
  const c = net.connect(server.address().port); c.write('ping');
  await new Promise(r => c.once('data', r)); c.destroy(); server.close();
  await new Promise((r, e) => crypto.scrypt('a', 'b', 64, x => x ? e(x) : r()));
  await new Promise(r => new Worker(__filename).once('exit', r));
  await new Promise(r => dns.lookup('localhost', r));
  await new Promise(r => spawn('sh', ['-c', 'exit 0']).once('exit', r));
  await fs.promises.readFile('/tmp/node'); const w = fs.watch('/tmp'); setTimeout(() => { w.close(); console.log('fine'); }, 5);
});
"""

JAVA = """
import java.io.*; import java.net.*; import java.nio.file.*; import java.util.concurrent.*;
public class Main {
    public static void main(String[] a) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(4);
        int sum = 0;
        for (Future<Integer> f : pool.invokeAll(java.util.Collections.<Callable<Integer>>nCopies(20, () -> 5))) sum += f.get();
        pool.shutdown();
        Files.write(Paths.get("/tmp/java"), new byte[1000]);
        ServerSocket server = new ServerSocket(0, 1, InetAddress.getLoopbackAddress());
        Socket client = new Socket(server.getInetAddress(), server.getLocalPort());
        server.accept().getOutputStream().write(1);
        int got = client.getInputStream().read();
        int code = new ProcessBuilder("true").start().waitFor();
        System.gc();
        System.out.println(sum == 100 && got == 1 && code == 0 ? "fine" : "wrong");
    }
}
"""


async def test_python_does_all_it_does(tmp_path: Path) -> None:
    async with launched(tmp_path, LauncherConfig(slots=2)) as made:
        sandbox = await made.sandbox(memory_mb=512)
        for name, code in PYTHON.items():
            assert await sandbox.run(code) is True, name


async def test_a_shell_and_its_tools(tmp_path: Path) -> None:
    async with launched(tmp_path, LauncherConfig(slots=2)) as made:
        assert (await output_of(made, ["sh", "-c", SHELL])).endswith("fine\n")


async def output_of(made, command: list[str], *, memory_mb: int = 256) -> str:
    sandbox = await made.sandbox(memory_mb=memory_mb)
    said = await sandbox.run(
        f"""
        import subprocess
        done = subprocess.run({command!r}, capture_output=True, text=True, timeout=60)
        result = done.stdout + done.stderr + (f"exit {{done.returncode}}" if done.returncode else "")
        """
    )
    assert isinstance(said, str)
    return said


def compiled(directory: Path, *flags: str) -> str:
    code = Path(write_function(directory))
    source = directory / "program.c"
    source.write_text(C)
    subprocess.run(
        ["gcc", "-O1", "-o", str(code / "program"), str(source), "-pthread", *flags], check=True, capture_output=True
    )
    (code / "program").chmod(0o755)
    return "/var/task/program"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is missing")
@pytest.mark.parametrize("flags", [(), ("-static",)], ids=["shared", "static"])
async def test_compiled_c(tmp_path: Path, flags: tuple[str, ...]) -> None:
    program = compiled(tmp_path, *flags)
    async with launched(tmp_path, LauncherConfig(slots=2)) as made:
        assert await output_of(made, [program]) == "fine\n"


def real_path(program: str) -> str:
    return os.path.realpath(shutil.which(program) or program)


def written_node(directory: Path) -> str:
    Path(write_function(directory), "main.js").write_text(NODE)
    return real_path("node")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is missing")
async def test_node(tmp_path: Path) -> None:
    node = written_node(tmp_path)
    async with launched(tmp_path, LauncherConfig(slots=2)) as made:
        assert await output_of(made, [node, "/var/task/main.js"], memory_mb=512) == "fine\n"


def compiled_java(directory: Path) -> str:
    (directory / "Main.java").write_text(JAVA)
    subprocess.run(["javac", "-d", write_function(directory), str(directory / "Main.java")], check=True, capture_output=True)
    return real_path("java")


@pytest.mark.skipif(shutil.which("javac") is None, reason="a Java compiler is missing")
async def test_java(tmp_path: Path) -> None:
    java = compiled_java(tmp_path)
    async with launched(tmp_path, LauncherConfig(slots=2)) as made:
        said = await output_of(made, [java, "-Xmx64m", "-Xshare:off", "-cp", "/var/task", "Main"], memory_mb=1024)
        assert said == "fine\n"
