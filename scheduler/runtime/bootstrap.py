"""The door of the runtime: `python -I -S -B bootstrap.py` with the channel as descriptor 3 and the progress page as
descriptor 4, or main() in a process forked from one that has called preload().

Nothing is imported here from beside this file at the top: main() first loads the package under a private name, wherever this
file was found and whatever it was imported as, and takes away names a function might want for its own modules.
"""

import importlib.util
import os
import sys
from importlib import import_module
from types import ModuleType
from typing import NoReturn

__all__ = ["adopt", "main", "preload"]

PACKAGE = "_function_runtime"
DIRECTORY = os.path.dirname(os.path.abspath(__file__))

# What most functions import, so that children of a forking process find it loaded.
COMMON = (
    "asyncio", "base64", "collections", "concurrent.futures", "contextlib", "copy", "csv", "dataclasses", "datetime", "decimal",
    "email.message", "enum", "functools", "hashlib", "hmac", "http.client", "inspect", "io", "itertools", "json", "logging",
    "math", "multiprocessing", "operator", "os", "pathlib", "pickle", "queue", "random", "re", "secrets", "shutil", "site",
    "socket", "sqlite3", "ssl", "statistics", "string", "subprocess", "tempfile", "textwrap", "threading", "time", "traceback",
    "typing", "urllib.parse", "urllib.request", "uuid", "xml.etree.ElementTree", "zipfile", "zlib", "zoneinfo",
)  # fmt: skip


def adopt(module: str = "process") -> ModuleType:
    """Load the package that this file is part of under its private name, once. Returns one of its modules."""
    if PACKAGE not in sys.modules:
        where = os.path.join(DIRECTORY, "__init__.py")
        spec = importlib.util.spec_from_file_location(PACKAGE, where, submodule_search_locations=[DIRECTORY])
        if spec is None or spec.loader is None:
            raise ImportError(f"no package at {where}")
        package = importlib.util.module_from_spec(spec)
        sys.modules[PACKAGE] = package
        spec.loader.exec_module(package)
    return import_module(f"{PACKAGE}.{module}")


def preload() -> None:
    """Load the runtime and what functions commonly import, before forking. Modules this Python lacks are left out."""
    adopt()
    for name in COMMON:
        try:
            import_module(name)
        except ImportError:
            continue


def main(
    channel_fd: int = 3,
    progress_fd: int = 4,
    native: ModuleType | None = None,
    scratch: tuple[str, ...] = (),
    private: bool = False,
) -> NoReturn:
    """Be a sandbox: read START, then run calls. Ends the process, or raises what a handler raised beyond Exception.

    native: what makes images, if anything does. scratch: directories that start empty. private: their names are its alone.
    """
    process = adopt()
    root = __name__.partition(".")[0]
    if root in sys.modules and root != "__main__":
        # Only then are all names looked at: in a forked process every object touched is a page copied.
        for name in [name for name in sys.modules if name == root or name.startswith(root + ".")]:
            del sys.modules[name]
    process.run(channel_fd, progress_fd, process.Images(native, scratch, private))
    raise AssertionError("unreachable")


if __name__ == "__main__":
    main()
