"""What interpreters said of themselves, kept in a file, so that they need not be asked at each start.

Law of this file: what is kept holds for as long as every file that it depends on is the same one. A file that cannot be read
or written is as none: then they are asked, which costs a tenth of a second each.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["Memory", "is_program"]

MEMORY_FORMAT: Final = 1


class Memory:
    """path: a file of the service's own, in a directory that exists; None: nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept: dict[str, Any] = {}
        self._changed = False
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(_own(path)) if path is not None else {}
            if isinstance(found, dict) and found.get("format") == MEMORY_FORMAT and isinstance(found.get("said"), dict):
                self._kept = found["said"]

    def recall(self, key: str) -> Mapping[str, Any] | None:
        """What was learnt under that key; None: nothing, or it holds no longer. Anybody's guess whether it is what we wrote."""
        try:
            kept = self._kept[key]
            if any(_stamp(path) != stamp for path, stamp in kept["stamps"].items()):
                return None
        except (LookupError, TypeError, AttributeError):
            return None
        return kept  # type: ignore[no-any-return]

    def learn(self, key: str, files: Iterable[str], value: Mapping[str, Any]) -> None:
        """value: what JSON can say. files: it holds for as long as these are the same."""
        self._kept[key] = {"stamps": {path: _stamp(path) for path in files}, **value}
        self._changed = True

    def keep(self) -> None:
        """Writes what was learnt, if anything was."""
        if self._path is None or not self._changed:
            return
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            beside.write_text(json.dumps({"format": MEMORY_FORMAT, "said": self._kept}))
            beside.replace(self._path)


def _own(path: Path) -> bytes:
    """A file that this user alone can have written: what is in it may be executed as this user. OSError: it is not."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022 or status.st_nlink != 1:
            raise PermissionError(f"{path} may have been written by others")
        return file.read()


def _stamp(path: str) -> list[int]:
    """That of another file, or of another version of it, differs; of none it is empty."""
    try:
        found = os.stat(path)
    except OSError:
        return []
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]


def is_program(path: str) -> bool:
    """Not a script, which starts an interpreter of its own choice, today this one, tomorrow another."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False
