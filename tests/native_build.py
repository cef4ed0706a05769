"""Parts of native/ alone under Python: built out of line with cffi (API mode), for tests that need no whole engine.

A build lives in build/<module>/<digest of its sources>, so that what changed is built anew and what did not is not.
Declarations are cut from the headers themselves, so the compiler compares both.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cffi import FFI

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NATIVE", "ROOT", "built"]

ROOT = Path(__file__).resolve().parents[1]
NATIVE = ROOT / "native"


def built(
    module: str,
    *,
    header: Path,
    declarations: str,
    sources: Sequence[Path],
    headers: Sequence[Path],
    sanitize: str = "",
) -> Any:
    """The module, imported. header: the one that it shows; headers: all that the sources read. sanitize: for -fsanitize=."""
    library = _library(module, header, declarations, sources, headers, sanitize)
    spec = importlib.util.spec_from_file_location(module, library)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def _library(
    module: str, header: Path, declarations: str, sources: Sequence[Path], headers: Sequence[Path], sanitize: str
) -> Path:
    digest = hashlib.sha256(f"{sys.version}{sanitize}{declarations}".encode())
    for path in [*sources, *headers]:
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    target = ROOT / "build" / module / digest.hexdigest()[:16]
    library = target / f"{module}{sysconfig.get_config_var('EXT_SUFFIX')}"
    target.mkdir(parents=True, exist_ok=True)
    # Several test processes may start at once: one builds, the others wait.
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            builder = FFI()
            builder.cdef(declarations)
            builder.set_source(
                module,
                f'#include "{header.name}"',
                sources=[str(path) for path in sources],
                include_dirs=sorted({str(path.parent) for path in [header, *headers]}),
                undef_macros=["NDEBUG"],
                define_macros=[("_GNU_SOURCE", None)],
                extra_compile_args=[
                    "-std=c11",
                    "-O1" if sanitize else "-O2",
                    "-g",
                    *([f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"] if sanitize else []),
                ],
                extra_link_args=[f"-fsanitize={sanitize}"] if sanitize else [],
                py_limited_api=False,
            )
            builder.compile(tmpdir=str(target), target=library.name)
    return library
