"""Packing: the same folder gives the same bytes, what does not belong is skipped and said, and the result unpacks."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from scheduler import limits
from scheduler.errors import BadRequest, TooLarge
from scheduler.functions import pack as module
from scheduler.functions.pack import Skipped, pack
from scheduler.functions.unzip import unpack


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "src"
    made.mkdir()
    return made


def write(folder: Path, *names: str, text: str = "x") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def unpacked(packed, tmp_path) -> Path:
    (tmp_path / "p.zip").write_bytes(packed.data)
    (tmp_path / "task").mkdir()
    unpack(tmp_path / "p.zip", tmp_path / "task")
    return tmp_path / "task"


def names(packed, tmp_path) -> list[str]:
    task = unpacked(packed, tmp_path)
    return sorted(str(path.relative_to(task)) for path in task.rglob("*") if not path.is_dir())


def test_a_folder(folder, tmp_path):
    write(folder, "app.py", "pkg/__init__.py", "pkg/data.json", "ünï.txt")
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o700)
    (folder / "pkg" / "link").symlink_to("../app.py")
    seen = []
    packed = pack(folder, lambda name, size: seen.append((name, size)))
    assert (packed.kind, packed.files, packed.unpacked_bytes, packed.skipped) == ("zip", 6, 23, ())
    assert [name for name, _ in seen] == ["app.py", "pkg/__init__.py", "pkg/data.json", "pkg/link", "run", "ünï.txt"]
    task = unpacked(packed, tmp_path)
    assert (task / "app.py").read_text() == "x"
    assert os.readlink(task / "pkg" / "link") == "../app.py"
    assert [stat.S_IMODE((task / name).stat().st_mode) for name in ("app.py", "run")] == [0o644, 0o755]


def test_the_same_bytes_whatever_the_times_and_the_order(folder, tmp_path):
    write(folder, "b.py", "a.py")
    first = pack(folder)
    other = tmp_path / "other"
    other.mkdir()
    write(other, "a.py", "b.py")
    os.utime(other / "a.py", (1_000_000_000, 1_000_000_000))
    (other / "a.py").chmod(0o600)
    assert pack(other).data == first.data
    write(other, "a.py", text="y")
    assert pack(other).sha256 != first.sha256


def test_what_never_belongs_is_skipped_and_said(folder, tmp_path):
    write(folder, "app.py", "__pycache__/a.pyc", ".git/HEAD", ".venv/bin/python", "pkg/__pycache__/b.pyc", "pkg/m.py", ".env")
    (folder / "out").symlink_to("/etc/passwd")
    (folder / "up").symlink_to("../secret")
    os.mkfifo(folder / "pipe")
    packed = pack(folder)
    assert set(packed.skipped) == {
        Skipped("__pycache__/", "never part of a package"),
        Skipped(".git/", "never part of a package"),
        Skipped(".venv/", "never part of a package"),
        Skipped("pkg/__pycache__/", "never part of a package"),
        Skipped("out", "a link that leads out of the folder"),
        Skipped("up", "a link that leads out of the folder"),
        Skipped("pipe", "neither file nor directory"),
    }
    assert names(packed, tmp_path) == [".env", "app.py", "pkg/m.py"]


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ("*.txt", ["a.py", "docs/b.py", "docs/sub/d.md"]),
        ("/*.txt", ["a.py", "docs/b.py", "docs/c.txt", "docs/sub/d.md"]),
        ("docs/", ["a.py", "a.txt"]),
        ("docs", ["a.py", "a.txt"]),
        ("a.py/", ["a.py", "a.txt", "docs/b.py", "docs/c.txt", "docs/sub/d.md"]),
        ("docs/*.txt", ["a.py", "a.txt", "docs/b.py", "docs/sub/d.md"]),
        ("docs/*", ["a.py", "a.txt"]),
        ("docs/**/*.md", ["a.py", "a.txt", "docs/b.py", "docs/c.txt"]),
        ("**/sub", ["a.py", "a.txt", "docs/b.py", "docs/c.txt"]),
        ("sub/**", ["a.py", "a.txt", "docs/b.py", "docs/c.txt", "docs/sub/d.md"]),
        ("*.txt\n!a.txt", ["a.py", "a.txt", "docs/b.py", "docs/sub/d.md"]),
        ("# *.py\n\n   \n*.md  ", ["a.py", "a.txt", "docs/b.py", "docs/c.txt"]),
        ("?.py", ["a.txt", "docs/c.txt", "docs/sub/d.md"]),
        ("[a].*", ["docs/b.py", "docs/c.txt", "docs/sub/d.md"]),
        ("[!ab].*", ["a.py", "a.txt", "docs/b.py"]),
        ("[", ["a.py", "a.txt", "docs/b.py", "docs/c.txt", "docs/sub/d.md"]),
        ("a.p", ["a.py", "a.txt", "docs/b.py", "docs/c.txt", "docs/sub/d.md"]),
        ("/\n!\n/!", ["a.py", "a.txt", "docs/b.py", "docs/c.txt", "docs/sub/d.md"]),
    ],
)
def test_ignore_file(folder, tmp_path, rules, kept):
    write(folder, "a.py", "a.txt", "docs/b.py", "docs/c.txt", "docs/sub/d.md")
    (folder / ".lambdaignore").write_text(rules)
    assert names(pack(folder), tmp_path) == kept


def test_one_file_and_a_zip(folder, tmp_path):
    write(folder, "app.py", text="def handler(e, c): return e\n")
    single = pack(str(folder / "app.py"))
    assert (single.kind, single.data, single.files) == ("file", b"def handler(e, c): return e\n", 1)
    (tmp_path / "ready.zip").write_bytes(pack(folder).data)
    ready = pack(tmp_path / "ready.zip")
    assert (ready.kind, ready.sha256) == ("zip", pack(folder).sha256)


def test_what_cannot_be_packed(folder, tmp_path):
    for source, sentence in (
        (tmp_path / "nothing", "does not exist"),
        (tmp_path / "nothing.py", "No such file or directory"),
        (folder, "has nothing to deploy"),
    ):
        with pytest.raises(BadRequest, match=sentence):
            pack(source)
    write(folder, "__pycache__/x.pyc", "empty.py", "readme.md", text="")
    with pytest.raises(BadRequest, match="is empty"):
        pack(folder / "empty.py")
    with pytest.raises(BadRequest, match=r"is no folder, no \.zip and no \.py file"):
        pack(folder / "readme.md")
    (folder / ".lambdaignore").write_text("*.py\n*.md\n")
    with pytest.raises(BadRequest, match=r"has nothing to deploy \(skipped: __pycache__/, empty.py, readme.md\)"):
        pack(folder)


def test_limits(folder, monkeypatch):
    write(folder, "a.py", "b.py", "c.py", text="x" * 100)
    monkeypatch.setattr(limits, "CODE_UNZIPPED_BYTES_MAX", 299)
    with pytest.raises(TooLarge, match=r"has more than 299 bytes, the limit, with c\.py"):
        pack(folder)
    monkeypatch.undo()
    monkeypatch.setattr(limits, "CODE_FILES_MAX", 2)
    with pytest.raises(TooLarge, match="has more than 2 files"):
        pack(folder)
    monkeypatch.undo()
    monkeypatch.setattr(limits, "CODE_ZIPPED_BYTES_MAX", 50)
    with pytest.raises(TooLarge, match=r"packs to \d+ bytes, the limit is 50"):
        pack(folder)
    with pytest.raises(TooLarge, match="has 100 bytes, the limit is 50"):
        pack(folder / "a.py")


def test_packing_needs_no_service():
    text = Path(module.__file__).read_text()
    assert "import trio" not in text
