"""Hostile archives: nothing outside, nothing too large, nothing that is no file, and always a sentence that says which rule."""

from __future__ import annotations

import io
import os
import random
import stat
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.errors import BadRequest, SchedulerError, TooLarge
from scheduler.functions.unzip import Bounds, unpack

if TYPE_CHECKING:
    from pathlib import Path

LINK = (stat.S_IFLNK | 0o777) << 16


def entry(name: str, data: bytes = b"x", *, mode: int = 0, method: int = zipfile.ZIP_DEFLATED) -> tuple[zipfile.ZipInfo, bytes]:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode
    info.compress_type = method
    return info, data


def link(name: str, target: str) -> tuple[zipfile.ZipInfo, bytes]:
    return entry(name, target.encode(), mode=LINK)


@pytest.fixture
def make(tmp_path):
    def archive(*entries: tuple[zipfile.ZipInfo, bytes] | str) -> Path:
        path = tmp_path / "package.zip"
        with zipfile.ZipFile(path, "w") as out:
            for item in entries:
                info, data = entry(item) if isinstance(item, str) else item
                out.writestr(info, data)
        return path

    return archive


@pytest.fixture
def into(tmp_path):
    place = tmp_path / "task"
    place.mkdir()
    return place


def refused(archive: Path, into: Path, bounds: Bounds | None = None, kind: type[SchedulerError] = BadRequest) -> str:
    with pytest.raises(kind) as caught:
        unpack(archive, into, bounds)
    assert type(caught.value) is kind
    return str(caught.value)


def everything(root: Path) -> dict[str, object]:
    """Path to content, link target, or None for a directory."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        found[name] = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return found


def test_files_directories_links_and_modes(make, into):
    executable = entry("bin/run", b"#!", mode=(stat.S_IFREG | 0o4777) << 16)
    secret = entry("pkg/data", b"d" * 3000, mode=(stat.S_IFREG | 0o600) << 16)
    archive = make(
        "app.py", executable, secret, entry("empty/", b""), link("pkg/up", "../app.py"), "./dot/./x.py", "ünïcode.py"
    )
    before = os.umask(0o077)
    try:
        unpacked = unpack(archive, into)
    finally:
        os.umask(before)
    assert everything(into) == {
        "app.py": b"x",
        "bin": None,
        "bin/run": b"#!",
        "dot": None,
        "dot/x.py": b"x",
        "empty": None,
        "pkg": None,
        "pkg/data": b"d" * 3000,
        "pkg/up": "../app.py",
        "ünïcode.py": b"x",
    }
    modes = {name: stat.S_IMODE((into / name).lstat().st_mode) for name in ("app.py", "bin/run", "pkg/data", "pkg", "empty")}
    assert modes == {"app.py": 0o644, "bin/run": 0o755, "pkg/data": 0o644, "pkg": 0o755, "empty": 0o755}
    assert (unpacked.files, unpacked.size) == (6, 3005)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("../evil", "leads out of the package"),
        ("a/../../evil", "leads out of the package"),
        ("a/..", "leads out of the package"),
        ("/etc/passwd", "is an absolute path"),
        ("//x", "is an absolute path"),
        ("a\\b", "backslash or a control character"),
        ("C:\\x", "backslash or a control character"),
        ("a\nb", "backslash or a control character"),
        ("a\x1b[2J", "backslash or a control character"),
        (".", "is no name"),
        ("p" * 256, "has more than 255 bytes"),
        ("/".join("d" * 65), "is 65 directories deep, the limit is 64"),
        ("d/" * 600 + "f", "has 1201 bytes, the limit is 1024"),
    ],
)
def test_names(make, into, name, sentence):
    assert sentence in refused(make("app.py", name), into)
    assert everything(into) == {}


def test_twice_the_same_name(make, into):
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive = make("a", "a")
    assert "'a' is twice in the archive" in refused(archive, into)
    assert "'a/b' is twice" in refused(make("a/b", "a/./b"), into)


def test_a_file_that_is_also_a_directory(make, into):
    assert "'a' is both a file and a directory" in refused(make("a", "a/b"), into)
    assert "'a' is both" in refused(make("a/b", "a"), into)


def test_nothing_is_written_through_a_link(make, into):
    assert "'l' is both a file and a directory" in refused(make(link("l", "."), "l/x"), into)


@pytest.mark.parametrize(
    ("name", "target", "sentence"),
    [
        ("l", "/etc/passwd", "leads to '/etc/passwd', which is no relative path"),
        ("l", "..", "leads out of the package"),
        ("l", "../x", "leads out of the package"),
        ("a/l", "../../x", "leads out of the package"),
        ("l", "a/../../x", "leads out of the package"),
        ("l", "a/../b", "leads out of the package"),  # "a" may be a link itself
        ("l", "", "is no relative path"),
        ("l", "a\nb", "is no relative path"),
        ("l", "x" * 1025, "has 1025 bytes, the limit is 1024"),
    ],
)
def test_links_that_lead_out(make, into, name, target, sentence):
    assert sentence in refused(make("app.py", link(name, target)), into)


@pytest.mark.parametrize(
    ("name", "target"), [("l", "app.py"), ("a/l", "../app.py"), ("a/b/l", "../../app.py"), ("l", "./app.py")]
)
def test_links_that_stay(make, into, name, target):
    unpack(make("app.py", link(name, target)), into)
    assert (into / name).resolve().is_relative_to(into)


@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_devices_pipes_and_sockets(make, into, kind):
    assert "neither file, directory nor symbolic link" in refused(make(entry("dev", mode=(kind | 0o666) << 16)), into)


def test_what_is_no_archive(make, into, tmp_path):
    bad = tmp_path / "bad.zip"
    for data in (b"", b"PK", b"x" * 1000, b"PK\x05\x06", b"PK\x05\x06" + b"\xff" * 18):
        bad.write_bytes(data)
        assert "the archive cannot be read" in refused(bad, into)
    bad.write_bytes(b"PK\x05\x06" + bytes(18))
    assert "has no files" in refused(bad, into)
    assert "has no files" in refused(make(entry("d/", b"")), into)


def test_encrypted_and_exotic_entries(make, into):
    archive = make("a")
    data = bytearray(archive.read_bytes())
    at = data.index(b"PK\x01\x02")
    archive.write_bytes(data[: at + 8] + b"\x01\x00" + data[at + 10 :])
    assert "'a' is encrypted" in refused(archive, into)
    assert "compressed by method 14; stored and deflated are known" in refused(make(entry("a", method=zipfile.ZIP_LZMA)), into)


def test_names_that_are_not_utf8(make, into):
    for flag in (b"\x00\x00", b"\x00\x08"):
        data = make("name").read_bytes()
        archive = make("name")
        archive.write_bytes(
            data.replace(b"name", b"na\xffe").replace(
                b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00" + flag
            )
        )
        assert "is not UTF-8: b'na\\xffe'" in refused(archive, into)


def test_names_in_utf8_without_its_flag(make, into):
    archive = make("naXXe")
    archive.write_bytes(archive.read_bytes().replace(b"naXXe", "naée".encode()))
    unpack(archive, into)
    assert list(everything(into)) == ["naée"]


def test_a_name_that_differs_inside(make, into):
    archive = make("inner.py")
    archive.write_bytes(archive.read_bytes().replace(b"inner.py", b"../evil!", 1))
    assert "cannot be read" in refused(archive, into)
    assert not (into.parent / "evil!").exists()


def test_sizes(make, into):
    bounds = Bounds(zipped_bytes_max=9_900, unzipped_bytes_max=1000)
    noise = random.Random(1).randbytes(9900)
    assert "the archive has 10000 bytes, the limit is 9900" in refused(
        make(entry("a", noise, method=0)), into, bounds, TooLarge
    )
    assert "unpacks to 1001 bytes, the limit is 1000" in refused(
        make(entry("a", bytes(501)), entry("b", bytes(500))), into, bounds, TooLarge
    )
    unpack(make(entry("a", bytes(500)), entry("b", bytes(500))), into, bounds)


def test_a_declared_size_that_lies_is_counted(make, into):
    archive = make(entry("a", bytes(5000)))
    data = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        struct.pack_into("<L", data, data.index(mark) + offset, 10)
    archive.write_bytes(data)
    refused(archive, into, Bounds(unzipped_bytes_max=1000))
    written = sum(path.stat().st_size for path in into.rglob("*"))
    assert written <= 1000


def test_a_bomb_by_ratio(make, into):
    bounds = Bounds(ratio_max=100, ratio_free_bytes=100_000)
    assert "times its size, the limit is 100" in refused(make(entry("a", bytes(200_000))), into, bounds, TooLarge)
    unpack(make(entry("a", bytes(100_000))), into, bounds)


def test_a_bomb_by_shared_bytes(make, into):
    """Two directory records that name the same bytes: the archive is small, what it unpacks to is not."""
    archive = make(entry("a", zlib.compress(bytes(100))), entry("b", b"y"))
    data = bytearray(archive.read_bytes())
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 4)
    struct.pack_into("<L", data, second + 42, 0)
    archive.write_bytes(data)
    assert "shares bytes with another entry" in refused(archive, into)


def test_too_many_files(make, into):
    bounds = Bounds(files_max=5)
    assert "more than 5 files and directories" in refused(make("a/b/c/d/e/f"), into, bounds, TooLarge)
    assert "has 6 entries, the limit is 5" in refused(make(*"abcdef"), into, bounds, TooLarge)
    unpack(make(*"abcde"), into, bounds)


def test_entries_are_counted_before_they_are_read(make, into, monkeypatch):
    """An archive of 50 MB can have a million entries: they must not become objects first."""
    archive = make(*"abcdef")
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert "has 6 entries" in refused(archive, into, Bounds(files_max=5), TooLarge)


def test_wrong_checksum(make, into):
    archive = make(entry("a", b"hello hello", method=0))
    archive.write_bytes(archive.read_bytes().replace(b"hello hello", b"hello hallo"))
    assert "Bad CRC-32" in refused(archive, into)


def test_tick_can_end_the_work(make, into):
    class Enough(Exception):
        pass

    def tick() -> None:
        raise Enough

    with pytest.raises(Enough):
        unpack(make("a"), into, tick=tick)


SEED_ARCHIVES = []
for names in (["app.py"], ["a/b.py", "a/c.py", "d"], ["x" * 40, "y/"]):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as seed:
        for each in names:
            seed.writestr(each, "print('hello')\n" * 20 if not each.endswith("/") else "")
    SEED_ARCHIVES.append(buffer.getvalue())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SEED_ARCHIVES), st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=6)), max_size=6))
def test_any_bytes_are_unpacked_inside_or_refused(tmp_path_factory, archive, changes):
    data = bytearray(archive)
    for at, patch in changes:
        data[at % len(data) : at % len(data) + len(patch)] = patch
    base = tmp_path_factory.mktemp("fuzz")
    (base / "x.zip").write_bytes(data)
    (base / "task").mkdir()
    try:
        unpack(base / "x.zip", base / "task", Bounds(unzipped_bytes_max=100_000))
    except (BadRequest, TooLarge) as error:
        assert str(error).isprintable()  # noqa: PT017
    assert sorted(path.name for path in base.iterdir()) == ["task", "x.zip"]
    for path in (base / "task").rglob("*"):
        assert path.resolve().is_relative_to(base / "task")
