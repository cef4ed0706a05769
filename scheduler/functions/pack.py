"""Packs a folder, a zip or one Python file for deployment: the same folder gives the same bytes on every machine.

Law of this file: reads the user's disk and returns bytes; blocking, no trio, no service. Names are sorted, times are fixed,
modes are 0644 or 0755, so that deploying what is deployed already is recognised by its hash.

    packed = pack(Path("./hello"))
    packed.data, packed.kind, packed.sha256, packed.files, packed.skipped

What is never wanted in a package is skipped (`__pycache__`, `.git`, `.venv`, …), and what the folder's `.lambdaignore` names:
lines as in .gitignore (`*`, `?`, `[…]`, `**`, a leading `/`, a trailing `/` for directories, `!` to take back, `#` comments).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scheduler import limits
from scheduler.errors import BadRequest, TooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["IGNORE_FILE", "PackedCode", "Skipped", "pack"]

IGNORE_FILE: Final = ".lambdaignore"
ALWAYS_SKIPPED: Final = frozenset(
    {
        "__pycache__",
        ".git",
        ".hg",
        ".svn",
        ".venv",
        "venv",
        ".tox",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".idea",
        ".vscode",
        ".DS_Store",
        IGNORE_FILE,
    }
)
EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say


@dataclass(frozen=True, slots=True)
class Skipped:
    """`path` is relative to the folder; a directory's ends in a slash and stands for all that is in it."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class PackedCode:
    """`kind` is "zip" or "file", as functions.deploy takes it; `unpacked_bytes` counts what goes into the package."""

    data: bytes = field(repr=False)
    kind: str
    sha256: str
    files: int
    unpacked_bytes: int
    skipped: tuple[Skipped, ...]


def pack(path: str | os.PathLike[str], progress: Callable[[str, int], object] | None = None) -> PackedCode:
    """`path`: a folder, a .zip, or one .py file. `progress(name, bytes)` is called for each file that was added.

    Raises BadRequest (nothing there, empty, unreadable), TooLarge.
    """
    source = Path(path)
    try:
        if source.is_dir():
            return _pack_folder(source, progress or (lambda name, size: None))
        if source.suffix.lower() not in (".zip", ".py"):
            raise BadRequest(
                f"{source}: is no folder, no .zip and no .py file" if source.exists() else f"{source}: does not exist"
            )
        size = source.stat().st_size
        if size > limits.CODE_ZIPPED_BYTES_MAX:
            raise TooLarge(f"{source}: has {size} bytes, the limit is {limits.CODE_ZIPPED_BYTES_MAX}")
        data = source.read_bytes()
    except OSError as error:
        raise BadRequest(f"{error.filename or source}: {error.strerror}") from error
    if not data:
        raise BadRequest(f"{source}: is empty")
    if progress is not None:
        progress(source.name, len(data))
    kind = "zip" if source.suffix.lower() == ".zip" else "file"
    return PackedCode(data, kind, hashlib.sha256(data).hexdigest(), 1, len(data), ())


def _pack_folder(folder: Path, progress: Callable[[str, int], object]) -> PackedCode:
    rules = _read_rules(folder / IGNORE_FILE)
    skipped: list[Skipped] = []
    out = io.BytesIO()
    files = total = 0
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, found in _walk(folder, "", rules, skipped):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = 3  # Unix, whatever this machine is: the mode below is understood so
            mode = found.lstat().st_mode
            total += found.lstat().st_size
            if total > limits.CODE_UNZIPPED_BYTES_MAX:  # before it is read: a model of 10 GB may lie there by mistake
                raise TooLarge(f"{folder}: has more than {limits.CODE_UNZIPPED_BYTES_MAX} bytes, the limit, with {name}")
            if stat.S_ISLNK(mode):
                content = os.readlink(found).encode()
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            else:
                content = found.read_bytes()
                info.external_attr = (stat.S_IFREG | (0o755 if mode & 0o100 else 0o644)) << 16
                info.compress_type = zipfile.ZIP_DEFLATED
            files += 1
            if files > limits.CODE_FILES_MAX:
                raise TooLarge(f"{folder}: has more than {limits.CODE_FILES_MAX} files, the limit")
            archive.writestr(info, content)
            progress(name, len(content))
    if files == 0:
        raise BadRequest(f"{folder}: has nothing to deploy" + (f" (skipped: {_listed(skipped)})" if skipped else ""))
    data = out.getvalue()
    if len(data) > limits.CODE_ZIPPED_BYTES_MAX:
        raise TooLarge(f"{folder}: packs to {len(data)} bytes, the limit is {limits.CODE_ZIPPED_BYTES_MAX}")
    return PackedCode(data, "zip", hashlib.sha256(data).hexdigest(), files, total, tuple(skipped))


def _walk(folder: Path, prefix: str, rules: list[_Rule], skipped: list[Skipped]) -> Iterator[tuple[str, Path]]:
    """Files below `folder` with their names in the package, sorted."""
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        name = prefix + entry.name
        directory = entry.is_dir(follow_symlinks=False)
        shown = name + "/" if directory else name
        if entry.name in ALWAYS_SKIPPED:
            if entry.name != IGNORE_FILE:
                skipped.append(Skipped(shown, "never part of a package"))
        elif _ignored(name, directory, rules):
            skipped.append(Skipped(shown, IGNORE_FILE))
        elif directory:
            yield from _walk(folder / entry.name, name + "/", rules, skipped)
        elif entry.is_symlink():
            if _stays_inside(name, os.readlink(entry.path)):
                yield name, Path(entry.path)
            else:
                skipped.append(Skipped(shown, "a link that leads out of the folder"))
        elif entry.is_file():
            yield name, Path(entry.path)
        else:
            skipped.append(Skipped(shown, "neither file nor directory"))


def _stays_inside(name: str, target: str) -> bool:
    """The rule by which a package is unpacked: relative, climbing at its start only, and not above the folder."""
    parts = target.split("/")
    climbs = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    return bool(target) and not target.startswith("/") and ".." not in parts[climbs:] and climbs <= name.count("/")


def _listed(skipped: list[Skipped]) -> str:
    names = [item.path for item in skipped[:5]]
    return ", ".join(names) + (f" and {len(skipped) - 5} more" if len(skipped) > 5 else "")


# ---- ignore rules ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    directories_only: bool
    takes_back: bool


def _read_rules(file: Path) -> list[_Rule]:
    if not file.is_file():
        return []
    return [rule for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if (rule := _rule(line))]


def _rule(line: str) -> _Rule | None:
    text = line.rstrip()
    if not text or text.startswith("#"):
        return None
    takes_back = text.startswith("!")
    text = text[takes_back:]
    directories_only = text.endswith("/")
    text = text.rstrip("/")
    # As in .gitignore: a slash that is not the last character ties the pattern to the folder, else it holds at any depth.
    anchored = "/" in text
    return _Rule(re.compile(_expression(text.lstrip("/"), anchored)), directories_only, takes_back) if text else None


def _expression(text: str, anchored: bool) -> str:
    parts = text.split("/")
    out = "" if anchored else "(?:.*/)?"
    for i, part in enumerate(parts):
        last = i == len(parts) - 1
        if part == "**":
            out += ".*" if last else "(?:.*/)?"
            continue
        out += GLOB.sub(_translate, part) + ("" if last else "/")
    return out


GLOB: Final = re.compile(r"\*+|\?|\[!?\]?[^]]*\]|[^*?[]+|\[")


def _translate(match: re.Match[str]) -> str:
    """One token of a pattern without slashes; the standard fnmatch would let `*` cross a slash."""
    token = match[0]
    if token[0] == "*":
        return "[^/]*"
    if token == "?":
        return "[^/]"
    if token[0] == "[" and len(token) > 1:
        negated = token[1] == "!"
        inside = token[1 + negated : -1].replace("\\", r"\\").replace("[", r"\[").replace("]", r"\]").replace("^", r"\^")
        return f"(?!/)[{'^' if negated else ''}{inside}]"
    return re.escape(token)


def _ignored(name: str, directory: bool, rules: list[_Rule]) -> bool:
    """The last rule that matches decides."""
    for rule in reversed(rules):
        if (directory or not rule.directories_only) and rule.pattern.fullmatch(name):
            return not rule.takes_back
    return False
