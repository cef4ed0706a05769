"""Everything declarative is in pyproject.toml; this adds the native parts: the engine (cffi), the fork server's
extension (limited API, loads in every supported Python) and the launcher executable."""

import os
import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

LAUNCHER = Path("native/launcher")
# What runs inside a newborn, before Python; the launcher shares the file-system and message parts.
IN_SANDBOX = (
    "calls.c", "filesystem.c", "filter.c", "image_maps.c", "image_take.c", "image_thaw.c",
    "network_attach.c", "network_message.c", "steps.c", "wire.c",
)  # fmt: skip
ONLY_IN_SANDBOX = ("calls.c", "filter.c", "image_maps.c", "image_take.c", "image_thaw.c", "steps.c", "zygote_module.c")
SANDBOX_SOURCES = sorted(str(LAUNCHER / name) for name in ("zygote_module.c", *IN_SANDBOX))
LAUNCHER_SOURCES = sorted(str(p) for p in LAUNCHER.glob("*.c") if p.name not in ONLY_IN_SANDBOX)
INCLUDES = ["native/include", "native/core", "native/launcher"]


class BuildNative(build_ext):
    """build_ext plus the launcher, a plain executable beside the engine."""

    def run(self) -> None:
        super().run()
        base = Path("." if self.inplace else self.build_lib)
        target = base / "scheduler" / "_native" / "scheduler-launcher"
        target.parent.mkdir(parents=True, exist_ok=True)
        newest = max(p.stat().st_mtime for p in Path("native").rglob("*.[ch]"))
        if target.exists() and target.stat().st_mtime > newest:
            return
        cc = os.environ.get("CC", "gcc")
        flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra", *(f"-I{path}" for path in INCLUDES)]
        subprocess.run([cc, *flags, "-o", str(target), *LAUNCHER_SOURCES], check=True)


sandbox = Extension(
    "scheduler.runtime._sandbox",
    sources=SANDBOX_SOURCES,
    depends=sorted(str(p) for p in LAUNCHER.glob("*.h")),
    include_dirs=INCLUDES,
    define_macros=[("Py_LIMITED_API", "0x030B0000"), ("_GNU_SOURCE", None)],
    undef_macros=["NDEBUG"],
    extra_compile_args=["-std=c11", "-O2", "-g", "-Wall", "-Wextra"],
    py_limited_api=True,
)

setup(
    cffi_modules=["native/build_cffi.py:ffibuilder"],
    ext_modules=[sandbox],
    cmdclass={"build_ext": BuildNative},
)
