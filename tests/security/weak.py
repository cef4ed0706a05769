"""Sandboxes with a protection taken away, for the canaries: the same attempt has to have another end there.

There is no switch for this in the product. The sources of the launcher are copied, the named protection is cut out of the copy,
and what runs inside a newborn (and the launcher, if need be) is compiled anew beside the checkout's. An edit that fits no more
its source is an error, so a protection that is renamed or moved cannot lose its canary unnoticed.

Objects are kept in build/weak under the hash of all that went into them: a second run compiles nothing.
"""

from __future__ import annotations

import ast
import hashlib
import re
import shutil
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["PROTECTIONS", "Weak", "weaken"]

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "native" / "launcher"
RUNTIME = ROOT / "scheduler" / "runtime"
KEPT = ROOT / "build" / "weak"
FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-DPy_LIMITED_API=0x030B0000", "-O1", "-fPIC", "-w", "-Inative/include", "-Inative/core")


def _listed(name: str) -> tuple[str, ...]:
    """Stems of the sources that setup.py names."""
    (value,) = (
        node.value
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    )
    return tuple(Path(source).stem for source in ast.literal_eval(value))


IN_SANDBOX = (*_listed("IN_SANDBOX"), "zygote_module")
IN_SHELL = _listed("IN_SHELL")
ONLY_IN_SANDBOX = _listed("ONLY_IN_SANDBOX")


@dataclass(frozen=True, slots=True)
class Edit:
    """`old` occurs in the file exactly once."""

    file: str
    old: str
    new: str

    def apply(self, text: str) -> str:
        assert text.count(self.old) == 1, f"{self.file}: {self.old!r} is there {text.count(self.old)} times: mend the canary"
        return text.replace(self.old, self.new)


@dataclass(frozen=True, slots=True)
class Disarm:
    """A step of steps.c does nothing."""

    step: str
    file: str = "steps.c"

    def apply(self, text: str) -> str:
        pattern = rf"(static int {self.step}\(struct newborn \*newborn\) \{{\n)"
        changed, count = re.subn(pattern, r"\1    (void)newborn;\n    return 0;\n", text)
        assert count == 1, f"{self.file} has {count} steps {self.step}: mend the canary"
        return changed


_DEATH = '{"die with the launcher", die_with_launcher, ALWAYS}, /* with the worker'
_AT_BIRTH = (
    '{"unprivileged uid", identity, AS_ROOT},\n    {"no capabilities", no_capabilities, ALWAYS},\n    ' + _DEATH,
    _DEATH,
)

PROTECTIONS: dict[str, tuple[Edit | Disarm, ...]] = {
    "filter": (Edit("steps.c", "return filter_install(&filter);", "(void)filter;\n    return 0;"),),
    "privileges": tuple(map(Disarm, ("identity", "no_capabilities", "bounding_set", "no_new_privileges", "no_groups"))),
    "uid": (Disarm("identity"), Disarm("no_groups")),
    "not traceable": (Disarm("not_traceable"),),
    "agent not traceable": (  # nor by its change of uid, after which the kernel shuts it too
        Edit("steps.c", "return outcome(prctl(PR_SET_DUMPABLE, 0));", "return outcome(prctl(PR_SET_DUMPABLE, 1));"),
    ),
    "privileges at birth": (Edit("steps.c", *_AT_BIRTH),),
    "descriptors at birth": (
        Edit("prestart.c", "syscall(SYS_close_range, EXECUTED_FD + 1, ~0U, 0) == 0 && ", ""),
        Edit("prestart.c", "EXECUTED_FD = PRESTART_FD + 1 }", "EXECUTED_FD = PRESTART_FD + 2 }"),
    ),
    "masked proc": (Disarm("masked_proc"),),
    "read-only mounts": (
        Edit("filesystem.c", "CODE_ATTRIBUTES = MOUNT_ATTR_RDONLY | ", "CODE_ATTRIBUTES = "),
        Edit("filesystem.c", "detached(devices[i], MOUNT_ATTR_RDONLY | ", "detached(devices[i], "),
    ),
    "nosuid": (Edit("filesystem.c", "MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;", "MOUNT_ATTR_RDONLY;"),),
    "no new privileges": (Disarm("no_new_privileges"),),
    "root": (Edit("filesystem.c", '|| syscall(SYS_umount2, ".", UMOUNT_DETACH) < 0 || chdir', "|| chdir"),),
    "pid namespace": (Edit("steps.c", "0 : CLONE_NEWPID | ", "0 : "),),
    "mount namespace": (Edit("steps.c", "CLONE_NEWPID | CLONE_NEWNS | ", "CLONE_NEWPID | "),),
    "ipc namespace": (Edit("steps.c", "CLONE_NEWNS | CLONE_NEWIPC | ", "CLONE_NEWNS | "),),
    "network namespace": (Edit("steps.c", "CLONE_NEWUTS | CLONE_NEWNET;", "CLONE_NEWUTS;"),),
    "host network": (
        Edit("steps.c", "CLONE_NEWUTS | CLONE_NEWNET;", "CLONE_NEWUTS;"),
        Edit("zygotes.c", "unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC", "unshare(CLONE_NEWNS | CLONE_NEWIPC"),
    ),
    "group namespace": (Disarm("group_namespace"),),
    "descriptors": (Edit("steps.c", "outcome(syscall(SYS_close_range, kept, ~0U, 0));", "0;"),),
    "agent's descriptors": (Edit("agent.c", "fcntl(SANDBOX_FD_CHANNEL, F_SETFD, FD_CLOEXEC) < 0", "false"),),
    "session keyring": (Disarm("session_keyring"),),
    "resource limits": (Disarm("resource_limits"),),
    "process limit": (Disarm("process_limit"),),
    "control groups": (
        Disarm("enter_groups"),
        Edit("serve.c", "arguments.flags |= CLONE_INTO_CGROUP;", ""),
    ),
    "size of /tmp": (Edit("steps.c", ": fs_resize_scratch(newborn->special.ephemeral_storage_mb);", ": 0;"),),
    "rules of the host": (
        Edit("network_rules.c", "elsewhere(&rules);\n    refuse(&rules);", "elsewhere(&rules);\n    pass(&rules);"),
        Edit("network_rules.c", "SOURCE, NFT_CMP_NEQ, router);\n    drop", "SOURCE, NFT_CMP_NEQ, router);\n    pass"),
        Edit("network_rules.c", "drop(&rules); /* whatever it was redirected to */", "pass(&rules);"),
        Edit("network_rules.c", "NFT_CMP_NEQ, IPPROTO_ICMP);\n    drop", "NFT_CMP_NEQ, IPPROTO_ICMP);\n    pass"),
    ),
    "private networks": (Edit("network_rules.c", "    all_refused(rules, inner, sizeof inner / sizeof *inner);\n", ""),),
    "networks of nobody": (Edit("network_rules.c", "    all_refused(rules, never, sizeof never / sizeof *never);\n", ""),),
    "between sandboxes": (Edit("network_rules.c", "uplink); /* to another sandbox */\n    refuse", "uplink);\n    pass"),),
    "nothing begins towards sandboxes": (
        Edit(
            "network_rules.c",
            "comes_by(rules, NFT_CMP_EQ, uplink);\n    drop",
            "comes_by(rules, NFT_CMP_EQ, uplink);\n    pass",
        ),
    ),
    "reverse path": (Edit("network.c", 'rp_filter", "1", true}', 'rp_filter", "0", true}'),),
    "no router for others": (Edit("network_rules.c", "IPS_DST_NAT, false);\n    drop", "IPS_DST_NAT, false);\n    pass"),),
    "connections of one sandbox": (
        Edit("network_rules.c", "    too_many(rules);\n    refuse", "    too_many(rules);\n    pass"),
    ),
}


@dataclass(frozen=True, slots=True)
class Weak:
    """What to start instead: the runtime's package and the launcher."""

    package: Path
    launcher: Path


@cache
def _headers() -> bytes:
    return b"".join(path.read_bytes() for path in sorted((ROOT / "native").glob("*/*.h")))


def _compile(name: str, text: str) -> Path:
    flags = (*FLAGS, f"-I{sysconfig.get_paths()['include']}", f"-I{SOURCES}")
    key = hashlib.sha256(b"\0".join((text.encode(), _headers(), repr(flags).encode()))).hexdigest()[:24]
    target = KEPT / f"{name}-{key}.o"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=KEPT) as directory:
            source, made = Path(directory, f"{name}.c"), Path(directory, "made.o")
            source.write_text(text)
            subprocess.run(["gcc", *flags, "-c", "-o", str(made), str(source)], cwd=ROOT, check=True)
            made.replace(target)
    return target


def _link(objects: list[Path], target: Path, *flags: str) -> None:
    if not target.exists():
        made = target.with_name(f"{target.name}.{hashlib.sha256(str(target).encode()).hexdigest()[:8]}")
        subprocess.run(["gcc", *flags, "-o", str(made), *map(str, objects)], check=True)
        made.replace(target)


@cache
def weaken(names: tuple[str, ...]) -> Weak:
    """Builds, or finds what was built."""
    edits: list[Edit | Disarm] = [edit for name in names for edit in PROTECTIONS[name]]
    KEPT.mkdir(parents=True, exist_ok=True)
    texts = {path.stem: path.read_text() for path in sorted(SOURCES.glob("*.c"))}
    for edit in dict.fromkeys(edits):
        stem = Path(edit.file).stem
        texts[stem] = edit.apply(texts[stem])
    with ThreadPoolExecutor(2) as pool:
        objects = dict(zip(texts, pool.map(_compile, texts, texts.values()), strict=True))
    shell = [objects[name] for name in IN_SHELL]
    return Weak(_package([objects[name] for name in IN_SANDBOX], shell), _launcher(objects))


def _together(objects: Iterable[Path]) -> str:
    return hashlib.sha256("".join(path.name for path in objects).encode()).hexdigest()[:24]


def _package(parts: list[Path], shell: list[Path]) -> Path:
    sources = b"".join(path.read_bytes() for path in sorted(RUNTIME.glob("*.py")))
    place = KEPT / f"package-{_together([*parts, *shell])}-{hashlib.sha256(sources).hexdigest()[:12]}"
    if not place.exists():
        (extension,) = RUNTIME.glob("_sandbox.*.so")
        with tempfile.TemporaryDirectory(dir=KEPT) as directory:
            made = Path(directory, "runtime")
            shutil.copytree(RUNTIME, made, ignore=shutil.ignore_patterns("*.so", "_shell"))
            _link(parts, made / extension.name, "-shared")
            _link(shell, made / "_shell")
            made.chmod(0o755)
            made.rename(place)
    return place


def _launcher(objects: dict[str, Path]) -> Path:
    parts = [path for name, path in objects.items() if name not in ONLY_IN_SANDBOX]
    target = KEPT / f"launcher-{_together(parts)}"
    _link(parts, target)
    return target
