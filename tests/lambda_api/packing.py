"""Packages as no packer would make them."""

from __future__ import annotations

import io
import stat
import zipfile

HANDLER = "def handler(event, context):\n    return open('/var/task/data').read()\n"


def zipped(*entries, method=zipfile.ZIP_DEFLATED) -> bytes:
    """entries: (name, content) or (ZipInfo, content)."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr("app.py", HANDLER)
        for name, content in entries:
            archive.writestr(name, content)
    return made.getvalue()


def link(name: str, target: str):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return info, target


def renamed(data: bytes, old: bytes, new: bytes) -> bytes:
    """A name of the archive as no packer would write it."""
    assert len(old) == len(new)
    assert data.count(old) == 2
    return data.replace(old, new)


def zeros(size: int, level: int = 1) -> bytes:
    """A file of so many bytes. At level 1 they shrink to a 230th, which is no bomb yet, at 9 to a thousandth."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
        archive.writestr("app.py", HANDLER)
        with archive.open("zeros", "w") as out:
            for first in range(0, size, 1 << 20):
                out.write(bytes(min(1 << 20, size - first)))
    return made.getvalue()
