"""Unpacks a stranger's zip archive into an empty directory, or refuses it with a sentence that names the entry and the rule.

Law of this file: blocking, no trio; call it in a thread. Nothing is written outside the directory, whatever the archive says:
all names are judged before the first byte is written, files are made with O_EXCL and O_NOFOLLOW, and symbolic links are made
last, so that nothing is ever written through one. The declared sizes are checked first and counted again while unpacking.

What is made is readable by everybody (0644, 0755 where the archive has an execute bit) and belongs to the service's user.
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from scheduler import limits
from scheduler.errors import BadRequest, TooLarge

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["Bounds", "Unpacked", "unpack"]

CHUNK_BYTES: Final = 1 << 20
LINK_BYTES_MAX: Final = 1024
DEPTH_MAX: Final = 64
END_RECORD: Final = b"PK\x05\x06"
END_LOCATOR_64: Final = b"PK\x06\x07"
CENTRAL_RECORD: Final = b"PK\x01\x02"
LOCAL_HEADER_BYTES: Final = 30


@dataclass(frozen=True, slots=True)
class Bounds:
    """`files_max` counts directories too. A ratio is only judged above `ratio_free_bytes`."""

    zipped_bytes_max: int = limits.CODE_ZIPPED_BYTES_MAX
    unzipped_bytes_max: int = limits.CODE_UNZIPPED_BYTES_MAX
    files_max: int = limits.CODE_FILES_MAX
    path_bytes_max: int = limits.CODE_PATH_BYTES_MAX
    ratio_max: int = limits.CODE_RATIO_MAX
    ratio_free_bytes: int = limits.CODE_RATIO_FREE_BYTES


@dataclass(frozen=True, slots=True)
class Unpacked:
    """`size`: bytes of all files."""

    files: int
    size: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to make, by path relative to the root. Parents come before children in `directories`."""

    directories: list[str]
    files: list[tuple[str, zipfile.ZipInfo]]
    links: list[tuple[str, zipfile.ZipInfo]]


def unpack(archive: Path, into: Path, bounds: Bounds | None = None, tick: Callable[[], object] = lambda: None) -> Unpacked:
    """Unpack `archive` into the existing, empty directory `into`.

    `tick` is called for every file and every MiB; what it raises ends the work. On any error `into` is left half full.
    Raises BadRequest for what is no archive or breaks a rule, TooLarge for what is over a size, OSError for the disk's trouble.
    """
    bounds = bounds or Bounds()
    size = archive.stat().st_size
    if size > bounds.zipped_bytes_max:
        raise TooLarge(f"code: the archive has {size} bytes, the limit is {bounds.zipped_bytes_max}")
    with archive.open("rb") as raw:
        _check_entry_count(raw, size, bounds)
        try:
            # Names without the UTF-8 flag are read as UTF-8 too: many packers forget the flag, none means code page 437.
            with zipfile.ZipFile(raw, metadata_encoding="utf-8") as opened:
                plan = _judge(opened.infolist(), size, bounds)
                return _write(opened, plan, into, bounds, tick)
        except UnicodeDecodeError as error:
            raise BadRequest(f"code: a name in the archive is not UTF-8: {error.object[:80]!r}") from error
        except (
            zipfile.BadZipFile,
            zlib.error,
            struct.error,
            EOFError,
            NotImplementedError,
            RuntimeError,  # zipfile's for a password
            ValueError,
            OverflowError,
        ) as error:
            raise BadRequest(f"code: the archive cannot be read: {error}") from error


def _check_entry_count(raw: BinaryIO, size: int, bounds: Bounds) -> None:
    """Count the central directory's records before zipfile makes an object of each: 50 MB hold a million of them."""
    tail_bytes = min(size, 22 + 65_535 + 76)
    raw.seek(size - tail_bytes)
    tail = raw.read(tail_bytes)
    at = tail.rfind(END_RECORD)
    if at < 0 or len(tail) - at < 22:
        raise BadRequest("code: the archive cannot be read: it has no end-of-central-directory record")
    (directory_bytes,) = struct.unpack_from("<L", tail, at + 12)
    end = size - tail_bytes + at
    if at >= 76 and tail[at - 20 : at - 16] == END_LOCATOR_64:
        (directory_bytes,) = struct.unpack_from("<Q", tail, at - 76 + 40)
        end -= 76
    if directory_bytes > end:
        raise BadRequest("code: the archive cannot be read: its directory is larger than itself")
    raw.seek(end - directory_bytes)
    entries = raw.read(directory_bytes).count(CENTRAL_RECORD)
    if entries > bounds.files_max:
        raise TooLarge(f"code: the archive has {entries} entries, the limit is {bounds.files_max}")
    raw.seek(0)


def _judge(infos: list[zipfile.ZipInfo], size: int, bounds: Bounds) -> _Plan:
    """Decide on every entry before anything is written."""
    directories: dict[str, None] = {}
    leaves: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for info in infos:
        path, is_directory = _path(info, bounds)
        _check_entry(info, path)
        parents = path.split("/")
        if not is_directory:
            parents.pop()
            if path in leaves:
                raise BadRequest(f"code: {_quoted(path)} is twice in the archive")
            leaves[path] = info
        for depth in range(1, len(parents) + 1):
            directories.setdefault("/".join(parents[:depth]))
        total += info.file_size
        if len(directories) + len(leaves) > bounds.files_max:
            raise TooLarge(f"code: the archive has more than {bounds.files_max} files and directories")
    directories.pop("", None)
    for path in leaves:
        if path in directories:
            raise BadRequest(f"code: {_quoted(path)} is both a file and a directory")
    if not leaves:
        raise BadRequest("code: the archive has no files")
    _check_total(total, size, bounds)
    _check_overlap(infos)
    links = [(path, info) for path, info in leaves.items() if stat.S_ISLNK(info.external_attr >> 16)]
    files = [(path, info) for path, info in leaves.items() if not stat.S_ISLNK(info.external_attr >> 16)]
    return _Plan(list(directories), files, links)


def _path(info: zipfile.ZipInfo, bounds: Bounds) -> tuple[str, bool]:
    """The entry's clean relative path, and whether it is a directory."""
    name = info.orig_filename
    if "\0" in name or "\\" in name or not name.isprintable():
        raise BadRequest(f"code: the name {_quoted(name)} has a backslash or a control character")
    if name.startswith("/"):
        raise BadRequest(f"code: {_quoted(name)} is an absolute path")
    encoded = len(name.encode("utf-8", "surrogatepass"))
    if encoded > bounds.path_bytes_max:
        raise BadRequest(f"code: the name {_quoted(name)} has {encoded} bytes, the limit is {bounds.path_bytes_max}")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadRequest(f"code: {_quoted(name)} leads out of the package")
    if len(parts) > DEPTH_MAX:
        raise BadRequest(f"code: {_quoted(name)} is {len(parts)} directories deep, the limit is {DEPTH_MAX}")
    if any(len(part.encode()) > 255 for part in parts):
        raise BadRequest(f"code: a part of {_quoted(name)} has more than 255 bytes")
    is_directory = name.endswith("/") or stat.S_ISDIR(info.external_attr >> 16)
    if not parts and not is_directory:
        raise BadRequest(f"code: {_quoted(name)} is no name")
    return "/".join(parts), is_directory


def _check_entry(info: zipfile.ZipInfo, path: str) -> None:
    if info.flag_bits & 0x41:
        raise BadRequest(f"code: {_quoted(path)} is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadRequest(f"code: {_quoted(path)} is compressed by method {info.compress_type}; stored and deflated are known")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise BadRequest(f"code: {_quoted(path)} is neither file, directory nor symbolic link")


def _check_total(total: int, size: int, bounds: Bounds) -> None:
    if total > bounds.unzipped_bytes_max:
        raise TooLarge(f"code: unpacks to {total} bytes, the limit is {bounds.unzipped_bytes_max}")
    if total > bounds.ratio_free_bytes and total > size * bounds.ratio_max:
        raise TooLarge(f"code: unpacks to {total // size} times its size, the limit is {bounds.ratio_max}")


def _check_overlap(infos: list[zipfile.ZipInfo]) -> None:
    """Entries that share bytes make a bomb of any ratio out of a small archive."""
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise BadRequest(f"code: {_quoted(info.orig_filename)} shares bytes with another entry of the archive")
        end = info.header_offset + LOCAL_HEADER_BYTES + len(info.orig_filename) + info.compress_size


def _write(opened: zipfile.ZipFile, plan: _Plan, into: Path, bounds: Bounds, tick: Callable[[], object]) -> Unpacked:
    for directory in plan.directories:
        os.mkdir(into / directory, 0o755)
        os.chmod(into / directory, 0o755)  # whatever the umask is
    written = 0
    for path, info in plan.files:
        tick()
        mode = 0o755 if (info.external_attr >> 16) & 0o111 else 0o644
        descriptor = os.open(into / path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as out, opened.open(info) as source:
            os.fchmod(descriptor, mode)
            while chunk := source.read(CHUNK_BYTES):
                written += len(chunk)
                if written > bounds.unzipped_bytes_max:
                    raise TooLarge(f"code: unpacks to more than {bounds.unzipped_bytes_max} bytes, the limit")
                out.write(chunk)
                tick()
    for path, info in plan.links:
        os.symlink(_target(opened, path, info), into / path)
    return Unpacked(len(plan.files) + len(plan.links), written)


def _target(opened: zipfile.ZipFile, path: str, info: zipfile.ZipInfo) -> str:
    """Where a symbolic link leads; refused unless that is inside the package.

    ".." is allowed at the start only: there it climbs real directories, of which we know the number. Behind a name that may
    be a link itself it could climb anywhere.
    """
    if info.file_size > LINK_BYTES_MAX:
        raise BadRequest(f"code: the link {_quoted(path)} has {info.file_size} bytes, the limit is {LINK_BYTES_MAX}")
    target = opened.read(info).decode("utf-8")
    parts = target.split("/")
    climbs = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    if not target or target.startswith("/") or not target.isprintable():
        raise BadRequest(f"code: the link {_quoted(path)} leads to {_quoted(target)}, which is no relative path")
    if ".." in parts[climbs:] or climbs > path.count("/"):
        raise BadRequest(f"code: the link {_quoted(path)} leads out of the package, to {_quoted(target)}")
    return target


def _quoted(name: str) -> str:
    return ascii(name if len(name) <= 128 else name[:127] + "…")
