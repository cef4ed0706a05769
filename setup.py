"""Everything declarative is in pyproject.toml; this adds the native parts: the engine (cffi), the fork server's
extension (limited API, loads in every supported Python), the launcher executable, the first process of a sandbox, and the fork
server of runtimes that are no Python."""

import os
import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

LAUNCHER = Path("native/launcher")
# What runs inside a newborn, before Python; the launcher shares the file-system and message parts.
IN_SANDBOX = (
    "calls.c", "filesystem.c", "filter.c", "image_maps.c", "image_take.c", "image_thaw.c",
    "network_attach.c", "network_message.c", "serve.c", "steps.c", "wire.c",
)  # fmt: skip
ONLY_IN_SANDBOX = (
    "agent.c", "agent_channel.c", "calls.c", "execstart.c", "filter.c", "image_maps.c", "image_take.c", "image_thaw.c",
    "init.c", "prestart.c", "serve.c", "shell.c", "steps.c", "telemetry.c", "zygote_module.c",
)  # fmt: skip
IN_SHELL = (
    "agent.c", "agent_channel.c", "calls.c", "execstart.c", "filesystem.c", "filter.c", "network_attach.c", "network_message.c",
    "prestart.c", "serve.c", "shell.c", "steps.c", "telemetry.c", "wire.c",
)  # fmt: skip
SANDBOX_SOURCES = sorted(str(LAUNCHER / name) for name in ("zygote_module.c", *IN_SANDBOX))
SHELL_SOURCES = sorted(str(LAUNCHER / name) for name in IN_SHELL)
LAUNCHER_SOURCES = sorted(str(p) for p in LAUNCHER.glob("*.c") if p.name not in ONLY_IN_SANDBOX)
# A program without a library, as few pages as can be: process 1 of each sandbox.
ALONE = ["-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie"]
ALONE += ["-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns", "-Wl,--build-id=none", "-Wl,-z,noexecstack"]
INCLUDES = ["native/include", "native/core", "native/launcher"]


class BuildNative(build_ext):
    """build_ext plus plain executables: the launcher beside the engine, init and shell beside the runtime."""

    def run(self) -> None:
        super().run()
        base = Path("." if self.inplace else self.build_lib) / "scheduler"
        newest = max(p.stat().st_mtime for p in Path("native").rglob("*.[ch]"))
        for target, sources, more in (
            (base / "_native" / "scheduler-launcher", LAUNCHER_SOURCES, ["-g"]),
            (base / "runtime" / "_init", [str(LAUNCHER / "init.c")], ALONE),
            (base / "runtime" / "_shell", SHELL_SOURCES, self.smallest()),
        ):
            if target.exists() and target.stat().st_mtime > newest:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            cc = os.environ.get("CC", "gcc")
            flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", *more, *(f"-I{path}" for path in INCLUDES)]
            subprocess.run([cc, *flags, "-o", str(target), *sources], check=True)
            target.chmod(0o755)  # whatever the umask: a sandbox's uid executes those of the runtime

    def smallest(self) -> list[str]:
        """Static, so that a copy of the process is few pages; some distributions keep the library for that apart."""
        found = subprocess.run(
            [os.environ.get("CC", "gcc"), "-static", "-x", "c", "-o", os.devnull, "-"],
            input=b"int main(void) { return 0; }",
            capture_output=True,
        )
        return ["-static"] if found.returncode == 0 else []


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
