"""Runtimes as data: one TOML file each, ours in runtime_files/, those of the operator in the directory `runtimes_dir`.

Law of this file: it reads and checks, and looks at no interpreter (interpreters.py does). What is wrong is told with the file,
the field, the value and the limit; nothing is guessed. The format is described in docs/runtimes.md.

A file of the operator's that has the name of one of ours takes its place. What stands in such a file is started by the service
as who it is, so others must not be able to write it.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from scheduler.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["EXEC", "FORK", "OURS", "OWN", "Declaration", "Program", "RuntimeFileBroken", "fill", "read_declarations"]

FORK, EXEC = "fork", "exec"
OWN: Final = "own"  # the client of a runtime that a function gets unless it asks for another
OURS: Final = Path(__file__).resolve().parent / "runtime_files"
SUFFIX: Final = ".toml"
FILE_BYTES_MAX: Final = 64 * 1024
FILES_MAX: Final = 64
NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}")
VARIABLE: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,127}")
WORDS_MAX: Final = 64
TEXT_MAX: Final = 4096
ENTRIES_MAX: Final = 64

# What may stand in braces, and what it becomes.
PLACES: Final[Mapping[str, str]] = {
    "interpreter": "the interpreter that was found",
    "bootstrap": "the first of `bootstrap` that is there",
    "directory": "the directory of the file itself, of which a sandbox sees what is named",
    "runtime": "where a sandbox sees the service's own runtimes",
    "task": "where it sees the function's code",
    "opt": "where it sees the layers",
    "handler": "the function's handler",
    "packages": "where AWS's client of this interpreter lies, if the service's environment has it",
}
_BESIDE: Final = "{directory}/"
_BRACES: Final = re.compile(r"\{([^{}]*)\}")


class RuntimeFileBroken(BadRequest):
    """A runtime's file that cannot be used. The message names file, field, value and limit."""


@dataclass(frozen=True, slots=True)
class Program:
    """What a sandbox executes. argv: words, with places (see PLACES). bootstrap: paths of which the first that is there is
    {bootstrap}. environment: variables that the function may override."""

    argv: tuple[str, ...]
    bootstrap: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Declaration:
    """One file. names: of the interpreter, best first; empty: it needs none. directories: patterns of directories that are
    looked in beside PATH. version_pattern: up to three groups, of what the interpreter says to version_command. clients: how
    it is run over the Runtime API, by name; of a runtime of kind "fork" only where that is asked for. paths: what a sandbox
    sees beside the interpreter's own. execution_environment: AWS_EXECUTION_ENV; empty: it is not set.
    afresh: variables that a program started ahead cannot take any more."""

    name: str
    kind: str
    title: str
    file: Path
    names: tuple[str, ...]
    directories: tuple[str, ...]
    version_command: tuple[str, ...]
    version_pattern: re.Pattern[str] | None
    clients: Mapping[str, Program]
    prestart: tuple[str, ...]
    paths: tuple[str, ...]
    environment: Mapping[str, str]
    execution_environment: str
    streaming: bool
    install: str
    afresh: tuple[str, ...] = ()

    @property
    def directory(self) -> str:
        """Of the file itself."""
        return str(self.file.parent.resolve())

    @property
    def beside(self) -> list[str]:
        """What it names of its own directory, as paths from there."""
        of_programs = [word for program in self.clients.values() for word in (*program.argv, *program.bootstrap)]
        words = (*of_programs, *self.prestart, *self.paths)
        return sorted({word.removeprefix(_BESIDE) for word in words if word.startswith(_BESIDE)})


def read_declarations(directory: Path | None = None) -> dict[str, Declaration]:
    """By name: ours, and those in `directory`, which go before ours. RuntimeFileBroken: one of them cannot be used."""
    found = _read_all(OURS, trusted=True)
    if directory is not None:
        found |= _read_all(directory, trusted=False)
    return found


def _read_all(directory: Path, *, trusted: bool) -> dict[str, Declaration]:
    try:
        files = sorted(path for path in directory.iterdir() if path.suffix == SUFFIX)
    except OSError as error:
        raise RuntimeFileBroken(f"runtimes_dir: {directory}: cannot be read: {error.strerror}") from None
    if len(files) > FILES_MAX:
        raise RuntimeFileBroken(f"runtimes_dir: {directory} has {len(files)} files, the limit is {FILES_MAX}")
    found: dict[str, Declaration] = {}
    for path in files:
        declaration = _Reader(path, trusted=trusted).read()
        if declaration.name in found:
            raise RuntimeFileBroken(f"{path}: name: {declaration.name!r} is that of {found[declaration.name].file} too")
        found[declaration.name] = declaration
    return found


# ---- one file ------------------------------------------------------------------------------------------------------------


class _Reader:
    """What is read is checked where it is read; each message opens with the file's path."""

    def __init__(self, path: Path, *, trusted: bool) -> None:
        self._path = path
        self._trusted = trusted

    def read(self) -> Declaration:
        table = self._load()
        self._known(table, "", _KEYS)
        kind = self._one_of(table, "kind", (EXEC, FORK) if self._trusted else (EXEC,), default=EXEC)
        finder = self._table(table, "interpreter")
        self._known(finder, "interpreter.", ("names", "directories", "version_command", "version_pattern"))
        names = self._words(finder, "interpreter.names")
        for name in names:
            if "/" in name and not name.startswith("/"):
                raise self._wrong("interpreter.names", name, "a name without a slash, or a path that begins with one")
        pattern = self._pattern(finder, needed=bool(names))
        main = self._program(table, "", needed=kind == EXEC)
        clients = {OWN: main} if main is not None else {}
        for name, sub in self._table(table, "clients").items():
            if not isinstance(sub, dict):
                raise self._wrong(f"clients.{name}", sub, "a table")
            self._known(sub, f"clients.{name}.", ("argv", "bootstrap", "environment"))
            program = self._program(sub, f"clients.{name}.", needed=True)
            assert program is not None
            clients[name] = program
        prestart = self._argv(table, "prestart")
        self._places(clients, prestart, names)
        return Declaration(
            name=self._text(table, "name", needed=True, pattern=NAME),
            kind=kind,
            title=self._text(table, "title"),
            file=self._path,
            names=names,
            directories=self._words(finder, "interpreter.directories"),
            version_command=self._words(finder, "interpreter.version_command"),
            version_pattern=pattern,
            clients=clients,
            prestart=prestart,
            paths=self._absolute(table, "paths"),
            environment=self._environment(table, "environment"),
            execution_environment=self._text(table, "execution_environment"),
            streaming=self._flag(table, "streaming"),
            install=self._text(table, "install"),
            afresh=self._words(table, "afresh"),
        )

    def _load(self) -> dict[str, Any]:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                status = os.fstat(fd)
                if not self._trusted and (status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022):
                    mode = stat.filemode(status.st_mode)
                    raise RuntimeFileBroken(
                        f"{self._path}: is of uid {status.st_uid}, {mode}: it must be of root or of the service's own user, "
                        "and nobody else may write it"
                    )
                data = file.read(FILE_BYTES_MAX + 1)
            if len(data) > FILE_BYTES_MAX:
                raise RuntimeFileBroken(f"{self._path}: has more than {FILE_BYTES_MAX} bytes, which is the limit")
            return tomllib.loads(data.decode())
        except (OSError, ValueError) as error:
            raise RuntimeFileBroken(f"{self._path}: cannot be read: {error}") from None

    # -- what a field may be

    def _wrong(self, field_name: str, value: object, must: str) -> RuntimeFileBroken:
        shown = repr(value)
        return RuntimeFileBroken(
            f"{self._path}: {field_name}: {shown if len(shown) <= 128 else shown[:127] + '…'} is not {must}"
        )

    def _known(self, table: Mapping[str, Any], prefix: str, keys: Iterable[str]) -> None:
        known = tuple(keys)
        for key in table:
            if key not in known:
                raise RuntimeFileBroken(f"{self._path}: there is no field {prefix + key!r}; there are: {', '.join(known)}")

    def _text(
        self, table: Mapping[str, Any], name: str, *, needed: bool = False, pattern: re.Pattern[str] | None = None
    ) -> str:
        value = table.get(name.rpartition(".")[2])
        if value is None and not needed:
            return ""
        if not isinstance(value, str) or not self._is_word(value):
            raise self._wrong(name, value, f"a text of 1 to {TEXT_MAX} characters")
        if pattern is not None and not pattern.fullmatch(value):
            raise self._wrong(name, value, f"a text like {pattern.pattern}")
        return value

    def _one_of(self, table: Mapping[str, Any], name: str, allowed: tuple[str, ...], default: str) -> str:
        value = table.get(name, default)
        if value not in allowed:
            raise self._wrong(name, value, " or ".join(map(repr, allowed)))
        return str(value)

    def _flag(self, table: Mapping[str, Any], name: str) -> bool:
        value = table.get(name, False)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def _table(self, table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        value = table.get(name, {})
        if not isinstance(value, dict) or len(value) > ENTRIES_MAX:
            raise self._wrong(name, value, f"a table of at most {ENTRIES_MAX} entries")
        return value

    def _words(self, table: Mapping[str, Any], name: str) -> tuple[str, ...]:
        value = table.get(name.rpartition(".")[2], [])
        if not isinstance(value, list) or len(value) > WORDS_MAX:
            raise self._wrong(name, value, f"a list of at most {WORDS_MAX} texts")
        for word in value:
            if not isinstance(word, str) or not self._is_word(word):
                raise self._wrong(name, word, f"a text of 1 to {TEXT_MAX} characters")
        return tuple(value)

    @staticmethod
    def _is_word(text: str) -> bool:
        return 1 <= len(text) <= TEXT_MAX and "\0" not in text

    def _absolute(self, table: Mapping[str, Any], name: str) -> tuple[str, ...]:
        words = self._words(table, name)
        for word in words:
            if not word.startswith(("/", "{directory}/")) or ".." in word.split("/"):
                raise self._wrong(name, word, "a path that begins with / or {directory}/ and has no ..")
        return words

    def _argv(self, table: Mapping[str, Any], name: str) -> tuple[str, ...]:
        words = self._words(table, name)
        for word in words:
            self._known_places(name, word)
        return words

    def _known_places(self, name: str, word: str) -> None:
        for place in _BRACES.findall(word):
            if place not in PLACES:
                known = ", ".join(f"{{{known}}}" for known in PLACES)
                raise self._wrong(name, word, f"understood: {{{place}}} is no place; there are: {known}")

    def _environment(self, table: Mapping[str, Any], name: str) -> dict[str, str]:
        found = self._table(table, name.rpartition(".")[2])
        for key, value in found.items():
            if not VARIABLE.fullmatch(key):
                raise self._wrong(name, key, f"a variable's name, {VARIABLE.pattern}")
            if not isinstance(value, str) or "\0" in value or len(value) > TEXT_MAX:
                raise self._wrong(f"{name}.{key}", value, f"a text of at most {TEXT_MAX} characters")
            self._known_places(f"{name}.{key}", value)
        return dict(found)

    def _pattern(self, finder: Mapping[str, Any], *, needed: bool) -> re.Pattern[str] | None:
        name = "interpreter.version_pattern"
        text = self._text(finder, name, needed=needed)
        if not text:
            return None
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise self._wrong(name, text, f"a regular expression: {error}") from None
        if not 1 <= pattern.groups <= 3:
            raise self._wrong(name, text, "a regular expression with one to three groups: major, minor, micro")
        return pattern

    def _program(self, table: Mapping[str, Any], prefix: str, *, needed: bool) -> Program | None:
        argv = self._argv(table, prefix + "argv")
        if not argv:
            if needed:
                raise self._wrong(prefix + "argv", table.get("argv"), f"a list of 1 to {WORDS_MAX} texts")
            return None
        environment = self._environment(table, prefix + "environment") if prefix else {}
        return Program(argv, self._argv(table, prefix + "bootstrap"), environment)

    def _places(self, clients: Mapping[str, Program], prestart: tuple[str, ...], names: tuple[str, ...]) -> None:
        """A place needs what it stands for."""
        for name, program in clients.items():
            prefix = "" if name == OWN else f"clients.{name}."
            for word in (*program.argv, *program.bootstrap, *(prestart if name == OWN else ())):
                if "{interpreter}" in word and not names:
                    raise self._wrong(f"{prefix}argv", word, "to be had: interpreter.names is empty")
                if "{bootstrap}" in word and not program.bootstrap:
                    raise self._wrong(f"{prefix}argv", word, f"to be had: {prefix}bootstrap is empty")
        for word in prestart:
            for place in ("bootstrap", "task", "opt", "handler", "packages"):
                if f"{{{place}}}" in word:
                    raise self._wrong("prestart", word, f"without {{{place}}}: the function is not known yet then")


_KEYS: Final = (
    "name", "kind", "title", "argv", "bootstrap", "prestart", "paths", "environment", "execution_environment", "streaming",
    "install", "interpreter", "clients", "afresh",
)  # fmt: skip


def fill(word: str, place: Callable[[str], str]) -> str:
    """The word with each {place} replaced by what `place` gives for its name."""
    return _BRACES.sub(lambda found: place(found.group(1)), word)
