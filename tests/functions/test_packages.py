"""The code store: whole or not at all, once for the same bytes, compiled ahead, collected only when nobody wants it."""

from __future__ import annotations

import hashlib
import io
import os
import random
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import trio

from scheduler.errors import BadRequest, NotFound, Throttled, TooLarge, Unavailable
from scheduler.functions import packages
from scheduler.functions.model import CodeKind, CodeRef
from scheduler.functions.packages import CodeStore, module_of, open_code_store, sha256_of
from scheduler.functions.unzip import Bounds

ROOT = Path(__file__).resolve().parents[2]
TAG = sys.implementation.cache_tag


def archive(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, text in files.items():
            made.writestr(name, text)
    return out.getvalue()


APP = archive({"app.py": "def handler(event, context):\n    return event\n", "pkg/__init__.py": "X = 1\n"})


@pytest.fixture
async def store(tmp_path) -> CodeStore:
    return await open_code_store(tmp_path / "code", bytes_max=1 << 30)


async def add(store: CodeStore, data: bytes = APP, **more) -> CodeRef:
    return await store.add(data, CodeKind.ZIP, handler="app.handler", **more)


def tree(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


async def test_a_zip_becomes_a_tree(store):
    ref = await add(store)
    assert ref == CodeRef(hashlib.sha256(APP).hexdigest(), len(APP), CodeKind.ZIP, hashlib.sha256(APP).hexdigest())
    task = store.task_dir(ref)
    assert tree(task) == ["app.py", "pkg", "pkg/__init__.py"]
    assert store.package(ref).read_bytes() == APP
    assert (store.about(ref).files, store.about(ref).unpacked_bytes) == (2, store.bytes_held())
    assert task.stat().st_uid == os.geteuid()
    assert stat.S_IMODE(task.stat().st_mode) == 0o755
    assert stat.S_IMODE((task / "app.py").stat().st_mode) == 0o644
    assert stat.S_IMODE(store.package(ref).stat().st_mode) == 0o600


async def test_from_a_file_on_disk(store, tmp_path):
    upload = tmp_path / "upload"
    upload.write_bytes(APP)
    assert await store.add(upload, CodeKind.ZIP, handler="app.handler") == await add(store)
    assert upload.exists()
    assert sha256_of(upload) == sha256_of(APP)


@pytest.mark.parametrize(
    ("handler", "file", "path"),
    [
        ("app.handler", "app.py", ".app"),
        ("pkg.mod.fn", "pkg/mod.py", ".pkg.mod"),
        ("dir/sub/m.f", "dir/sub/m.py", ".dir.sub.m"),
    ],
)
async def test_a_single_file_becomes_its_handler_s_module(store, handler, file, path):
    ref = await store.add(b"X = 1\n", CodeKind.FILE, handler=handler)
    assert ref.path == hashlib.sha256(b"X = 1\n").hexdigest() + path
    assert (store.task_dir(ref) / file).read_bytes() == b"X = 1\n"
    assert all(stat.S_IMODE(p.stat().st_mode) == (0o755 if p.is_dir() else 0o644) for p in store.task_dir(ref).rglob("*"))
    assert store.holds(ref.sha256, CodeKind.FILE, handler) == ref
    assert store.holds(ref.sha256, CodeKind.FILE, "other.handler") is None


@pytest.mark.parametrize("handler", ["handler", "", ".handler", "../x.f", "/abs.f", "a b.f", "a..b", "a/../b.f", "1a.f"])
async def test_a_single_file_needs_a_module_s_name(store, handler):
    with pytest.raises(BadRequest, match=r"is not MODULE\.FUNCTION"):
        await store.add(b"X = 1\n", CodeKind.FILE, handler=handler)
    assert list(store.root.iterdir()) == []


def test_modules():
    assert module_of("a.b.c") == "a.b"
    assert module_of("my-app.handler") == "my-app"


async def test_the_same_bytes_are_stored_once(store):
    first = await add(store)
    inode = store.task_dir(first).stat().st_ino
    assert await add(store) == first
    assert store.task_dir(first).stat().st_ino == inode
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(add, store, archive({"new.py": ""}))
    assert len(list(store.root.iterdir())) == 2


async def test_the_hash_that_was_announced_must_be_that_of_the_bytes(store):
    with pytest.raises(BadRequest, match="code_sha256: 'aa' is not that of the uploaded bytes"):
        await add(store, sha256="aa")
    await add(store, sha256=hashlib.sha256(APP).hexdigest())


async def test_compiled_ahead_for_each_interpreter_once(store):
    ref = await add(store, interpreter=sys.executable)
    cached = store.task_dir(ref) / "__pycache__" / f"app.{TAG}.pyc"
    assert stat.S_IMODE(cached.stat().st_mode) == 0o644
    data = cached.read_bytes()
    assert data[4:8] == b"\x01\0\0\0", "unchecked hash: the source's time does not matter"
    assert b"/var/task/app.py" in data
    assert str(store.root).encode() not in data
    before = cached.stat().st_ino
    await add(store, interpreter=sys.executable)
    assert cached.stat().st_ino == before
    assert store.about(ref).compiled == (sys.executable,)
    again = await open_code_store(store.root, bytes_max=1 << 30)
    assert again.about(ref) == store.about(ref)


async def test_code_that_was_here_is_compiled_for_a_new_interpreter(store):
    ref = await add(store)
    assert not (store.task_dir(ref) / "__pycache__").exists()
    await add(store, interpreter=sys.executable)
    assert (store.task_dir(ref) / "__pycache__").exists()


@pytest.mark.slow
async def test_what_does_not_compile_is_deployed_all_the_same(store):
    deep = "x = " + "(" * 5000 + ")" * 5000
    ref = await add(
        store, archive({"bad.py": "def (", "deep.py": deep, "good.py": "", "nul.py": "a\0b"}), interpreter=sys.executable
    )
    assert tree(store.task_dir(ref) / "__pycache__") == [f"good.{TAG}.pyc"]


async def test_an_interpreter_that_is_not_there(store):
    ref = await add(store, interpreter="/does/not/exist")
    assert store.task_dir(ref).exists()


async def test_compiling_does_not_run_anything(store, tmp_path):
    mark = tmp_path / "ran"
    text = f"open({str(mark)!r}, 'w')\n"
    await add(store, archive({"app.py": text, "sitecustomize.py": text, "py_compile.py": text}), interpreter=sys.executable)
    assert not mark.exists()


async def test_what_is_refused_leaves_nothing(store):
    with pytest.raises(BadRequest, match="cannot be read"):
        await add(store, b"no zip")
    with pytest.raises(BadRequest, match="leads out"):
        await add(store, archive({"app.py": "", "../x": ""}))
    small = await open_code_store(store.root, bytes_max=1 << 30, bounds=Bounds(zipped_bytes_max=10))
    with pytest.raises(TooLarge, match=f"code: has {len(APP)} bytes, the limit is 10"):
        await add(small)
    assert list(store.root.iterdir()) == []


async def test_a_full_store_says_so(tmp_path):
    store = await open_code_store(tmp_path / "code", bytes_max=60)
    await add(store)
    held = store.bytes_held()
    with pytest.raises(Throttled, match=rf"{held} bytes, with {61 - held} more .* the limit \(code_bytes_max\), 60") as caught:
        await add(store, archive({"other.py": "x" * (61 - held)}))
    assert caught.value.resource == "code_bytes"
    assert store.bytes_held() == held
    await add(store)  # what is here costs nothing
    await add(store, archive({"other.py": "x" * (60 - held)}))


async def test_the_disk_s_trouble_is_unavailable(store, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packages, "unpack", full)
    with pytest.raises(Unavailable, match="the code store cannot be written: No space left on device"):
        await add(store)
    assert list(store.root.iterdir()) == []


async def test_cancelled_nothing_is_left(store, monkeypatch):
    with trio.CancelScope() as scope:

        def unpack(*arguments: object) -> None:
            trio.from_thread.run_sync(scope.cancel)
            original(*arguments)

        original = packages.unpack
        monkeypatch.setattr(packages, "unpack", unpack)
        await add(store)
    assert scope.cancelled_caught
    assert list(store.root.iterdir()) == []
    monkeypatch.undo()
    await add(store)


async def test_collecting(store, mock_clock):
    kept, dropped, again = [await add(store, archive({f"{name}.py": ""})) for name in ("kept", "dropped", "again")]
    wanted = {kept.path, dropped.path, again.path}
    mock_clock.jump(10_000)
    assert await store.collect(wanted, grace_s=50) == ()
    assert await store.collect({kept.path}, grace_s=50) == (), "however old it is, nobody wants it only since now"
    mock_clock.jump(49)
    await add(store, archive({"again.py": ""}))  # deployed again: its grace begins anew
    mock_clock.jump(2)
    assert await store.collect({kept.path}, grace_s=50) == (dropped.path,)
    assert {path.name for path in store.root.iterdir()} == {kept.path, again.path}
    with pytest.raises(NotFound):
        store.about(dropped)
    mock_clock.jump(49)
    assert await store.collect(wanted, grace_s=50) == ()
    mock_clock.jump(49)
    assert await store.collect({kept.path}, grace_s=50) == ()
    mock_clock.jump(50)
    assert await store.collect({kept.path}, grace_s=50) == (again.path,)
    assert await add(store, archive({"dropped.py": ""})) == dropped
    assert tree(store.task_dir(dropped)) == ["dropped.py"]


async def test_a_start_removes_what_a_crash_left_and_makes_broken_ones_anew(store):
    ref, broken = await add(store), await add(store, archive({"x.py": ""}))
    for name in (".tmp-1", ".gc-1"):
        (store.root / name / "task").mkdir(parents=True)
    (store.root / broken.path / "about").write_text("{")
    (store.root / "README").write_text("not ours")
    again = await open_code_store(store.root, bytes_max=1 << 30)
    assert sorted(path.name for path in store.root.iterdir()) == sorted([ref.path, broken.path, "README"])
    assert again.about(ref) == store.about(ref)
    with pytest.raises(NotFound):
        again.about(broken)
    assert await add(again, archive({"x.py": ""})) == broken
    assert tree(again.task_dir(broken)) == ["x.py"]


def test_a_path_from_elsewhere_is_no_place(tmp_path):
    store = CodeStore(tmp_path, bytes_max=1, bounds=Bounds(), held={})
    for path in ("..", "../x", "a" * 63, "a" * 64 + "/x", ""):
        with pytest.raises(ValueError, match="is no path of the code store"):
            store.task_dir(CodeRef("", 0, CodeKind.ZIP, path))


CHILD = """
import sys, trio
from pathlib import Path
sys.path.insert(0, ".")
from tests.functions.test_packages import archive
from scheduler.functions.model import CodeKind
from scheduler.functions.packages import open_code_store
async def main():
    store = await open_code_store(Path(sys.argv[1]), bytes_max=1 << 40)
    for number in range(10**6):
        ref = await store.add(archive({f"f{n}.py": str(number) for n in range(20)}), CodeKind.ZIP, handler="a.b")
        print(ref.path, flush=True)
trio.run(main)
"""


def run_and_kill(root: Path, lines: int) -> list[str]:
    """What the child told before it was killed."""
    with subprocess.Popen([sys.executable, "-c", CHILD, str(root)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        told = [child.stdout.readline().strip() for _ in range(lines)]
        child.send_signal(signal.SIGKILL)
        return told + [line.strip() for line in child.stdout.readlines() if line.endswith("\n")]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
async def test_killed_at_any_moment_what_was_told_is_whole(tmp_path, seed):
    root = tmp_path / "code"
    told = run_and_kill(root, random.Random(seed).randrange(3, 60))
    store = await open_code_store(root, bytes_max=1 << 40)
    for path in told:
        assert len(tree(root / path / "task")) == 20
    for place in root.iterdir():
        assert place.name in told or len(tree(place / "task")) == 20
        assert hashlib.sha256((place / "package").read_bytes()).hexdigest() == place.name
    assert store.bytes_held() > 0


async def test_an_upload_that_another_deployment_used_up(store, tmp_path):
    """Two deployments of the same new package at once: the first to be through forgets the upload that both read."""
    upload = tmp_path / "upload.part"
    upload.write_bytes(APP)
    first = await store.add(upload, CodeKind.ZIP, handler="app.handler", sha256=sha256_of(APP))
    upload.unlink()
    assert await store.add(upload, CodeKind.ZIP, handler="app.handler", sha256=sha256_of(APP)) == first
    with pytest.raises(Unavailable):
        await store.add(upload, CodeKind.ZIP, handler="app.handler", sha256="0" * 64)
