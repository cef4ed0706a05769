"""Style made executable: which room may open which door, how long a file may be, and what no committed text may hold.

The rooms are those of the table in docs/internals/service.md, read from there: a new room gets its row first.
"""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "scheduler"
LINES_MAX = 900
LEAVES = ("errors", "limits", "config")
EVERYTHING = "everything"


# ---- rooms and doors -----------------------------------------------------------------------------------------------------


@cache
def table() -> dict[str, frozenset[str]]:
    """Room to the rooms (or modules) it may import, from the manual's table."""
    text = (ROOT / "docs" / "internals" / "service.md").read_text()
    section = text.split("## Rooms and doors", 1)[1].split("\n## ", 1)[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| `")]
    doors: dict[str, frozenset[str]] = {}
    for rooms, _, allowed in rows:
        if "everything" in allowed:
            may = {EVERYTHING}
        else:
            may = set(LEAVES) if "leaves" in allowed else set()
            # "`serve` imports `service`" and "only module that touches `_native`" are said of one module or one room.
            may |= set(re.findall(r"`([a-z_.]+)`", allowed))
        for room in re.findall(r"`([a-z_]+)`", rooms):
            doors[room] = frozenset(may)
    for leaf in ("errors", "limits"):
        doors[leaf] = frozenset()
    doors["config"] = frozenset({"errors", "limits"})
    doors["_native"] = frozenset()
    return doors


def room_of(module: str) -> str:
    return module.split(".")[1]


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py" and path != PACKAGE / "__main__.py")


def imported(path: Path) -> set[str]:
    """Modules of ours that a file imports, at any depth, those for types alone included: a type is a door too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "scheduler"}
        elif isinstance(node, ast.ImportFrom):
            package = list(path.relative_to(ROOT).parts[:-1])
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            if module == "scheduler":
                found |= {f"scheduler.{alias.name}" for alias in node.names if alias.name != "__version__"}
            elif module.startswith("scheduler."):
                found.add(module)
    return found


def allows(may: frozenset[str], module: str) -> bool:
    inner = module.removeprefix("scheduler.")
    return EVERYTHING in may or any(inner == door or inner.startswith(door + ".") for door in may)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_each_room_opens_only_its_doors(path):
    room = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert room in table(), f"{room} has no row in docs/internals/service.md"
    wrong = sorted(
        module
        for module in imported(path)
        if room_of(module) != room
        and not allows(table()[room], module)
        and not (room == "cli" and path.stem in ("serve", "quickstart") and room_of(module) == "service")
    )
    assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(wrong)}"


def test_the_table_is_read():
    doors = table()
    assert doors["runtime"] == frozenset()
    assert {"store", *LEAVES} <= doors["functions"]
    assert doors["service"] == {EVERYTHING}
    assert not allows(doors["store"], "scheduler.functions.model")
    assert allows(doors["functions"], "scheduler.store.port")
    assert not allows(frozenset({"functions.pack"}), "scheduler.functions.packages")


def test_only_the_engine_touches_the_native_module():
    users = {
        room_of(".".join(p.relative_to(ROOT).with_suffix("").parts))
        for p in modules()
        if "scheduler._native" in str(imported(p))
    }
    assert users <= {"engine", "_native"}


# ---- committed text ------------------------------------------------------------------------------------------------------


@cache
def committed() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("no git checkout: nothing says which files are committed")
    names = listed.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def texts() -> list[tuple[str, str]]:
    found = []
    for path in committed():
        data = path.read_bytes()
        if b"\0" not in data and "corpus" not in path.parts:
            found.append((str(path.relative_to(ROOT)), data.decode("utf-8")))
    return found


def hits(pattern: str, *, only: str = "", not_in: tuple[str, ...] = ()) -> list[str]:
    expression = re.compile(pattern)
    return [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts()
        if name.endswith(only) and name not in not_in
        for number, line in enumerate(text.splitlines(), 1)
        if expression.search(line)
    ]


def test_no_file_is_longer_than_one_can_read():
    code = (".py", ".c", ".h", ".pyi")
    long = [
        f"{name}: {text.count(chr(10))} lines" for name, text in texts() if name.endswith(code) and text.count("\n") > LINES_MAX
    ]
    assert not long


def test_no_leftover_marks():
    marks = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"))
    assert not hits(rf"\b({marks})\b")


def test_no_conflict_marks_and_no_trailing_blanks():
    assert not hits(r"^(<{7}|>{7}|={7})( |$)")
    assert not [hit for hit in hits(r"[ \t]+$") if not hit.startswith(("LICENSE", "docs/"))]


def test_no_text_names_a_machine_or_how_work_is_organised():
    homes = "|".join(("/wo" + "rk/", "/ro" + "ot/", "/ho" + "me/[a-z]", "/Us" + "ers/"))
    wrong = hits(rf"(^|[\s\"'`(=:])({homes})")
    # Attempts to escape look for the superuser's home from inside a sandbox.
    assert not [hit for hit in wrong if not hit.startswith("tests/security/")]


def sleeps(text: str) -> list[int]:
    """Lines that call time.sleep with no reason beside it. Handlers that tests deploy are text in text: they may sleep."""
    called = (
        ast.unparse(node.func) == "time.sleep" and node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
    )
    lines = text.splitlines()
    return [line for line in called if line and "#" not in lines[line - 1]]


def test_tests_do_not_sleep():
    assert sleeps("import time\nx = 'time.sleep(1)'\ntime.sleep(1)\n") == [3]
    wrong = [
        f"{name}:{line}"
        for name, text in texts()
        if name.endswith(".py") and name.startswith("tests/")
        for line in sleeps(text)
    ]
    assert not wrong, "wait for the thing itself"


def test_catching_everything_has_its_reason_beside_it():
    wrong = []
    for name, text in texts():
        if not name.endswith(".py") or not name.startswith("scheduler/"):
            continue
        lines = text.splitlines()
        for number, line in enumerate(lines, 1):
            if re.search(r"except (Exception|BaseException)\b.*:|except:", line):
                following = lines[number].strip() if number < len(lines) else ""
                block = lines[number : number + 8]
                reraised = any(re.fullmatch(r"\s+raise( .*)?", inner) for inner in block)
                if "#" not in line and not following.startswith("#") and not ("BaseException" in line and reraised):
                    wrong.append(f"{name}:{number}: {line.strip()}")
    assert not wrong
