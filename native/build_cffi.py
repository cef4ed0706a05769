"""Builds scheduler._native._core (API mode, out of line).

The declarations are cut from the headers' marked parts, so header and binding cannot drift: the compiler checks each
declaration against the real header.
"""

import os
import re
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent
HEADERS = ["core.h", "engine.h"]

# -Werror is for our own builds (SCHED_STRICT=1), never for a user's compiler.
STRICT = ["-Werror"] if os.environ.get("SCHED_STRICT") else []


def declarations() -> str:
    parts = []
    for name in HEADERS:
        text = (ROOT / "include" / name).read_text()
        (part,) = re.findall(r"/\* cffi:begin \*/(.*?)/\* cffi:end \*/", text, re.S)
        parts.append(part)
    return "\n".join(parts)


def sources() -> list[str]:
    base = ROOT.parent
    return sorted(str(p.relative_to(base)) for room in ("core", "reactor") for p in (ROOT / room).glob("*.c"))


def depends() -> list[str]:
    base = ROOT.parent
    return sorted(str(p.relative_to(base)) for p in ROOT.glob("*/*.h"))


ffibuilder = FFI()
ffibuilder.cdef(declarations())
ffibuilder.set_source(
    "scheduler._native._core",
    "\n".join(f'#include "{name}"' for name in HEADERS),
    sources=sources(),
    depends=depends(),
    include_dirs=["native/include"],
    # CPython's own flags carry -DNDEBUG; ours are kept on in production.
    undef_macros=["NDEBUG"],
    define_macros=[("_GNU_SOURCE", None)],
    extra_compile_args=["-std=c11", "-O2", "-g", "-fno-strict-aliasing", "-Wall", "-Wextra", "-Wshadow", *STRICT],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
