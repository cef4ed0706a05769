"""The code store: packages unpacked once, never changed, shared by all versions with the same bytes.

Law of this file: directories and files, no registry; whoever knows which code is in use says so (`collect`). A package appears
whole or not at all: it is made beside its place, brought to disk, and renamed.

    <root>/<path>/task/      the tree that becomes /var/task: read-only there, readable by everybody, compiled ahead
    <root>/<path>/package    the bytes as they were uploaded
    <root>/<path>/about      JSON: size, files and bytes unpacked, interpreters compiled for
    <path> is the SHA-256 of the uploaded bytes, for a single file followed by the module it became; of layers merged into one
    tree that of their paths, followed by ".layers"

    store = await open_code_store(settings.code_dir, bytes_max=settings.code_bytes_max)
    ref = await store.add(data_or_path, CodeKind.ZIP, handler="app.handler", interpreter="/usr/bin/python3.12")
    store.task_dir(ref), store.package(ref)
    removed = await store.collect(registry.code_in_use(), grace_s=3600)
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import subprocess
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from scheduler.bulk import in_bulk
from scheduler.errors import BadRequest, NotFound, Throttled, TooLarge, Unavailable
from scheduler.functions.model import CodeKind, CodeRef, merged_path
from scheduler.functions.unzip import Bounds, Unpacked, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

T = TypeVar("T")

__all__ = ["About", "CodeStore", "module_of", "open_code_store", "sha256_of"]

MODULE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*([./][A-Za-z_][A-Za-z0-9_-]*)*")
PATH: Final = re.compile(r"[0-9a-f]{64}(\.[A-Za-z0-9_.-]{1,128})?")
TEMPORARY: Final = ".tmp-"
CONDEMNED: Final = ".gc-"
COMPILE_TIMEOUT_S: Final = 60
READ_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class About:
    """What stands in a package's file `about`. `compiled`: interpreters it was compiled for."""

    size: int
    files: int
    unpacked_bytes: int
    compiled: tuple[str, ...] = field(default=())


async def open_code_store(root: Path, *, bytes_max: int, bounds: Bounds | None = None) -> CodeStore:
    """The store at `root`, made if need be; what a crash left half made is removed."""
    held = await trio.to_thread.run_sync(_prepare, root)
    return CodeStore(root, bytes_max=bytes_max, bounds=bounds or Bounds(), held=held)


class CodeStore:
    """Made by `open_code_store`. All methods belong to the trio thread; work on files is done in a thread, one at a time."""

    def __init__(self, root: Path, *, bytes_max: int, bounds: Bounds, held: dict[str, About]) -> None:
        self.root = root
        self.bytes_max = bytes_max
        self._bounds = bounds
        self._held = held
        self._unwanted_since_s: dict[str, float] = {}  # path to when collect() first saw that nobody wants it
        self._working = trio.Lock()

    async def add(
        self,
        source: bytes | Path,
        kind: CodeKind,
        *,
        handler: str,
        interpreter: str | None = None,
        sha256: str | None = None,
    ) -> CodeRef:
        """Admit a package; the same bytes again cost nothing. `sha256`, if given, must be that of the bytes.

        `handler` names the module that a single file becomes. `interpreter`: compiled ahead for this one, since /var/task is
        read-only; what does not compile is left to fail when it is imported, as in Lambda.
        Raises BadRequest and TooLarge (the package), Throttled (the store is full), Unavailable (the disk).
        """
        async with self._working:
            held = self.holds(sha256, kind, handler) if sha256 is not None else None
            try:
                found, size = await _in_thread(_measure, source)
            except Unavailable:
                # Somebody else sent the same bytes, and was faster: the upload was forgotten once they were here.
                if held is not None:
                    return held
                raise
            if sha256 is not None and sha256 != found:
                raise BadRequest(f"code_sha256: {sha256[:80]!r} is not that of the uploaded bytes, {found}")
            if size > self._bounds.zipped_bytes_max:
                raise TooLarge(f"code: has {size} bytes, the limit is {self._bounds.zipped_bytes_max}")
            module = module_of(handler) if kind is CodeKind.FILE else None
            ref = CodeRef(found, size, kind, found if module is None else f"{found}.{module.replace('/', '.')}")
            self._unwanted_since_s.pop(ref.path, None)
            if ref.path not in self._held:
                self._held[ref.path] = await self._make(ref, source, module, interpreter)
            elif interpreter is not None and interpreter not in self._held[ref.path].compiled:
                self._held[ref.path] = await self._compile(ref, self.root / ref.path, interpreter)
            return ref

    def holds(self, sha256: str, kind: CodeKind, handler: str) -> CodeRef | None:
        """The reference to code that is here already, None if it is not. Who may use it is the caller's to decide: whoever
        knows a hash has not shown that they have the bytes."""
        path = sha256 if kind is CodeKind.ZIP else f"{sha256}.{module_of(handler).replace('/', '.')}"
        about = self._held.get(path)
        return None if about is None else CodeRef(sha256, about.size, kind, path)

    async def merge(self, codes: Sequence[CodeRef]) -> None:
        """The layers as one tree, made if need be. NotFound: one is not here. Unavailable: the disk."""
        path = merged_path(codes)
        async with self._working:
            self._unwanted_since_s.pop(path, None)
            if path in self._held:
                return
            abouts = [self.about(code) for code in codes]
            making = self.root / f"{TEMPORARY}{uuid.uuid4().hex}"
            try:
                await _in_thread(_merge, making, [self.task_dir(code) for code in codes])
                # Its files are its layers': the bytes are counted there.
                about = About(0, sum(about.files for about in abouts), 0)
                await _in_thread(_write_about, making, about)
                await _in_thread(_publish, making, self.root / path)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(_discard, making)
                raise
            self._held[path] = about

    def merged_dir(self, codes: Sequence[CodeRef]) -> Path:
        """The tree to mount at /opt."""
        return self.root / merged_path(codes) / "task"

    def task_dir(self, ref: CodeRef) -> Path:
        """The tree to mount at /var/task."""
        return self._place(ref) / "task"

    def package(self, ref: CodeRef) -> Path:
        """The bytes as they were uploaded."""
        return self._place(ref) / "package"

    def about(self, ref: CodeRef) -> About:
        """Raises NotFound."""
        if ref.path not in self._held:
            raise NotFound(f"code {ref.path[:80]} is not in the code store")
        return self._held[ref.path]

    def bytes_held(self) -> int:
        """Unpacked, of all packages."""
        return sum(about.unpacked_bytes for about in self._held.values())

    async def collect(self, in_use: Collection[str], *, grace_s: float) -> tuple[str, ...]:
        """Remove what has not been `in_use` (CodeRef.path) for `grace_s`, as calls of this saw it; returns the paths removed.

        The grace covers a deployment between `add` and the registry's write, and calls that still run in sandboxes of a
        version that was just removed or replaced: they may import more of it.
        """
        async with self._working:
            now_s = trio.current_time()
            for path in self._held:
                if path in in_use:
                    self._unwanted_since_s.pop(path, None)
                else:
                    self._unwanted_since_s.setdefault(path, now_s)
            gone = tuple(path for path, since_s in self._unwanted_since_s.items() if now_s - since_s >= grace_s)
            for path in gone:
                # Forgotten first: if the disk fails half-way, it is made anew when it is deployed again.
                del self._held[path], self._unwanted_since_s[path]
                await _in_thread(_discard, self.root / path)
            return gone

    def _place(self, ref: CodeRef) -> Path:
        if not PATH.fullmatch(ref.path):
            raise ValueError(f"{ref.path!r} is no path of the code store")
        return self.root / ref.path

    def _check_room(self, more: int) -> None:
        held = self.bytes_held()
        if held + more > self.bytes_max:
            raise Throttled(
                f"the code store holds {held} bytes, with {more} more it would be over the limit (code_bytes_max), "
                f"{self.bytes_max}; remove functions",
                account="node",
                resource="code_bytes",
                current=held,
                limit=self.bytes_max,
            )

    async def _make(self, ref: CodeRef, source: bytes | Path, module: str | None, interpreter: str | None) -> About:
        self._check_room(1)  # before the work, if nothing would fit
        making = self.root / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            unpacked = await _in_thread(_fill, making, source, module, self._bounds)
            self._check_room(unpacked.size)
            about = About(ref.size, unpacked.files, unpacked.size)
            await _in_thread(_write_about, making, about)
            if interpreter is not None:
                about = await self._compile(ref, making, interpreter, about)
            await _in_thread(_publish, making, self.root / ref.path)
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_discard, making)
            raise
        return about

    async def _compile(self, ref: CodeRef, place: Path, interpreter: str, about: About | None = None) -> About:
        """Compile the tree at `place`. Never fails the deployment: what has no .pyc is compiled at each import."""
        about = about or self._held[ref.path]
        with trio.move_on_after(COMPILE_TIMEOUT_S):
            with suppress(OSError):  # no such interpreter: the sandbox will say so, with its own error
                await trio.run_process(
                    [interpreter, "-I", "-S", "-c", COMPILER, str(place / "task")],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=False,
                    cwd="/",
                    env={"PATH": "/usr/bin:/bin"},
                )
        about = About(about.size, about.files, about.unpacked_bytes, (*about.compiled, interpreter))
        await _in_thread(_write_about, place, about)
        return about


COMPILER: Final = """
import compileall, os, py_compile, resource, sys
os.umask(0o022)
for what, most in (("AS", 1 << 30), ("CPU", 50), ("FSIZE", 1 << 28), ("CORE", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + what), (most, most))
compileall.compile_dir(
    sys.argv[1], maxlevels=70, quiet=2, stripdir=sys.argv[1], prependdir="/var/task", limit_sl_dest=sys.argv[1],
    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
)
"""
"""Run by the function's interpreter over a stranger's text: it is only compiled, never run, and within limits."""


def module_of(handler: str) -> str:
    """The module that a single file becomes, from `module.function`. Raises BadRequest."""
    module, dot, _ = handler.rpartition(".")
    if not dot or not MODULE.fullmatch(module):
        raise BadRequest(f"handler: {handler[:128]!r} is not MODULE.FUNCTION, which a single file needs to get its name")
    return module


def sha256_of(source: bytes | Path) -> str:
    """Hex digest, blocking."""
    return _measure(source)[0]


# ---- in the thread -------------------------------------------------------------------------------------------------------


async def _in_thread(fn: Callable[..., T], *arguments: object) -> T:
    """Errors of the disk become Unavailable: they are nobody's request that is wrong."""
    try:
        return await in_bulk(fn, *arguments)
    except OSError as error:
        raise Unavailable(f"the code store cannot be written: {error.strerror}") from error


def _measure(source: bytes | Path) -> tuple[str, int]:
    """SHA-256 in hex, and size."""
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest(), len(source)
    with source.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256")
        return digest.hexdigest(), opened.tell()


def _prepare(root: Path) -> dict[str, About]:
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    held = {}
    for place in sorted(root.iterdir()):
        if place.name.startswith((TEMPORARY, CONDEMNED)):
            _discard(place)
        elif PATH.fullmatch(place.name):
            with suppress(OSError, ValueError, TypeError, KeyError):  # not whole: made anew when it is deployed again
                about = json.loads((place / "about").read_text())
                held[place.name] = About(**{**about, "compiled": tuple(about["compiled"])})
    return held


def _fill(making: Path, source: bytes | Path, module: str | None, bounds: Bounds) -> Unpacked:
    """The task tree and the package's own bytes."""
    task = making / "task"
    task.mkdir(parents=True)
    for directory in (making, task):
        directory.chmod(0o755)  # whatever the umask is
    package = making / "package"
    if isinstance(source, bytes):
        package.write_bytes(source)
    else:
        shutil.copyfile(source, package)
    package.chmod(0o600)
    if module is None:
        return unpack(package, task, bounds, trio.from_thread.check_cancelled)
    text = task / (module.replace(".", "/") + ".py")
    for directory in reversed(text.relative_to(task).parents[:-1]):
        (task / directory).mkdir()
        (task / directory).chmod(0o755)
    shutil.copyfile(package, text)
    text.chmod(0o644)
    return Unpacked(1, package.stat().st_size)


def _merge(making: Path, trees: Sequence[Path]) -> None:
    """Files are linked, not copied: nobody ever writes to them."""
    task = making / "task"
    task.mkdir(parents=True)
    for directory in (making, task):
        directory.chmod(0o755)
    for tree in trees:
        for at, directories, files in os.walk(tree):
            here = task / os.path.relpath(at, tree)
            links = [name for name in directories if os.path.islink(os.path.join(at, name))]
            for name in (name for name in directories if name not in links):
                _clear(here / name, keep_directory=True)
                (here / name).mkdir(exist_ok=True)
                (here / name).chmod(0o755)
            for name in (*files, *links):
                _clear(here / name)
                os.link(os.path.join(at, name), here / name, follow_symlinks=False)


def _clear(place: Path, *, keep_directory: bool = False) -> None:
    """What an earlier layer has there goes."""
    if place.is_symlink() or place.is_file():
        place.unlink()
    elif place.is_dir() and not keep_directory:
        shutil.rmtree(place)


def _write_about(place: Path, about: About) -> None:
    beside = place / ".about"
    beside.write_text(json.dumps(asdict(about)))
    with beside.open("rb") as written:
        os.fsync(written.fileno())
    beside.replace(place / "about")


def _publish(making: Path, place: Path) -> None:
    """All of it to disk, then the name. One syncfs costs less than an fsync for each of thousands of files."""
    _sync(making, whole=True)
    if place.exists():  # what _prepare found not whole
        _discard(place)
    making.rename(place)
    _sync(place.parent)


def _sync(directory: Path, *, whole: bool = False) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if whole:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.syncfs(descriptor) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(place: Path) -> None:
    """Out of sight in one step, then away: a crash in between leaves only what the next start removes."""
    if not place.exists():
        return
    condemned = place
    if not place.name.startswith((TEMPORARY, CONDEMNED)):
        condemned = place.with_name(f"{CONDEMNED}{uuid.uuid4().hex}")
        place.rename(condemned)
    shutil.rmtree(condemned)
