"""From a function's version to what one sandbox of it runs: the launcher's specialisation and the channel's START.

Law of this file: what an order says is pure; the date and the dice that a log stream's name needs come in as arguments. The
environment is made complete here: the function's own variables over those that Lambda sets and lets be overridden, under
those that are reserved. Values are those recorded in Lambda, where they mean something here.

Not set: AWS_ACCESS_KEY_ID and its kin, but of functions that have doors to secrets or keys; of functions that are forked,
AWS_LAMBDA_RUNTIME_API (they speak over their channel) and PYTHONPATH (the runtime sets sys.path itself; child processes see
their own).

START of what is forked is JSON; of what is executed, bytes that need no reader of JSON (sandboxes/execstart.py).
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from scheduler.functions.model import Freeze, LogFormat, Network
from scheduler.functions.names import LATEST
from scheduler.messages import RuntimeApi
from scheduler.sandboxes.execstart import encode_start
from scheduler.sandboxes.launcher import TASK_ROOT, Specialisation
from scheduler.sandboxes.supervisor import API_ADDRESS, Order
from scheduler.sandboxes.templates import MakeOrder
from scheduler.ways import API_PORT, SEARCH_PATH, Way, choose, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

    from scheduler.functions.model import CodeRef, FunctionVersion
    from scheduler.functions.names import Identity
    from scheduler.sandboxes.doors import Doors
    from scheduler.sandboxes.offers import Offers
    from scheduler.sandboxes.templates import ImageUse

__all__ = ["Entrance", "OrderBook", "Recipe", "environment", "log_stream_name", "make_recipe"]

RUNTIME_DIR = "/var/runtime"
PLAIN, TAKE, RESTORE = b"{", b'{"snapshot":"take",', b'{"snapshot":"restore",'  # how START begins
# Within a JSON text a quoted key can stand nowhere but where it is one: in values quotes are escaped.
INITIALIZATION_KEYS = (b'"initialization_type":', b'"AWS_LAMBDA_INITIALIZATION_TYPE":')
SNAP_START = "snap-start"
ON_DEMAND, PROVISIONED = b'"on-demand"', b'"provisioned-concurrency"'
# In a START of bytes a variable begins behind a NUL, which no value holds.
INITIALIZATION_VARIABLE = b"\0AWS_LAMBDA_INITIALIZATION_TYPE="
OVERRIDABLE = {
    "LANG": "en_US.UTF-8",
    "TZ": ":UTC",
    "PATH": "/var/lang/bin:/usr/local/bin:/usr/bin/:/bin:/opt/bin",
    "LD_LIBRARY_PATH": "/var/lang/lib:/lib64:/usr/lib64:/var/runtime:/var/runtime/lib:/var/task:/var/task/lib:/opt/lib",
    "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
}


@dataclass(frozen=True, slots=True)
class Entrance:
    """How a function's sandboxes come by secrets: who answers at which ports in them; variables that the function may say
    otherwise, and those that it may not."""

    doors: Doors
    ports: tuple[int, ...]
    overridable: Mapping[str, str]
    reserved: Mapping[str, str] = field(repr=False)


def environment(
    version: FunctionVersion,
    identity: Identity,
    *,
    way: Way,
    log_group: str,
    log_stream: str,
    task_root: str,
    entrance: Entrance | None = None,
) -> dict[str, str]:
    """All variables of the process."""
    config = version.config
    reserved = {
        "_HANDLER": config.handler,
        "AWS_REGION": identity.region,
        "AWS_DEFAULT_REGION": identity.region,
        "AWS_LAMBDA_FUNCTION_NAME": config.name,
        "AWS_LAMBDA_FUNCTION_VERSION": version.version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(config.memory_mb),
        "AWS_LAMBDA_INITIALIZATION_TYPE": SNAP_START if version.snap_started else "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": log_group,
        "AWS_LAMBDA_LOG_STREAM_NAME": log_stream,
        "LAMBDA_TASK_ROOT": task_root,
        "LAMBDA_RUNTIME_DIR": RUNTIME_DIR,
    }
    if config.log_format == LogFormat.JSON.value:
        reserved |= {"AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": config.shown_application_log_level}
    if way.execution_environment:
        reserved["AWS_EXECUTION_ENV"] = way.execution_environment
    if not way.forked:
        reserved["AWS_LAMBDA_RUNTIME_API"] = API_ADDRESS
    defaults: dict[str, str] = {**OVERRIDABLE, **way.environment}
    if entrance is not None:
        defaults |= entrance.overridable
        reserved |= entrance.reserved
    found = {**defaults, **config.environment, **reserved}
    ours, theirs = way.environment.get(SEARCH_PATH), config.environment.get(SEARCH_PATH)
    if ours and theirs:
        found[SEARCH_PATH] = f"{theirs}:{ours}"
    return found


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is the same in all orders of a version. Made once: an order is on the path of a cold call."""

    version: FunctionVersion
    task_root: str
    specialisation: Specialisation
    way: Way
    api: RuntimeApi | None  # what the Runtime API says of it, where it is not forked
    start_pieces: tuple[bytes, ...] = field(
        repr=False
    )  # START's body, of JSON behind its {, around the log stream's name; secrets
    doors: Doors | None = None

    def order(self, now: datetime, stream_id: str, image: ImageUse | None = None, *, provisioned: bool = False) -> Order:
        """stream_id: 32 random hex digits. image: what it is to be restored from. provisioned: it is made ahead of calls."""
        config = self.version.config
        start = self._start(now, stream_id, PLAIN if image is None else RESTORE)
        if provisioned and self.way.forked:
            for key in INITIALIZATION_KEYS:
                start = start.replace(key + ON_DEMAND, key + PROVISIONED)
        elif provisioned:
            key = INITIALIZATION_VARIABLE
            start = start.replace(key + ON_DEMAND.strip(b'"'), key + PROVISIONED.strip(b'"'))
        return Order(
            function=config.name,
            version=self.version.version,
            runtime=self.way.shell,
            specialisation=self.specialisation,
            start=start,
            image=image,
            api=self.api,
            doors=self.doors,
        )

    def make_order(self, now: datetime, stream_id: str) -> MakeOrder:
        """For a maker of its image."""
        config = self.version.config
        return MakeOrder(
            name=self.version.display_name,
            tenant=config.tenant,
            runtime=self.way.shell,
            memory_mb=config.memory_mb,
            specialisation=self.specialisation,
            start=self._start(now, stream_id, TAKE),
            doors=self.doors,
            init_s=self.version.snap_start_init_s if self.version.snap_started else 0.0,
        )

    def _start(self, now: datetime, stream_id: str, opening: bytes) -> bytes:
        stream = log_stream_name(self.version.version, now, stream_id).encode()
        return (opening if self.way.forked else b"") + stream.join(self.start_pieces)


def log_stream_name(version: str, now: datetime, stream_id: str) -> str:
    return f"{now.year}/{now.month:02}/{now.day:02}/[{version}]{stream_id}"


def make_recipe(
    version: FunctionVersion,
    identity: Identity,
    *,
    way: Way,
    code_dir: str,
    task_root: str,
    mark: str,
    layers_dir: str | None = None,
    entrance: Entrance | None = None,
) -> Recipe:
    """code_dir: where the package lies unpacked; layers_dir: where its layers do; task_root: where a sandbox sees the code.
    mark: hex digits nobody can know: they stand for the log stream's name until that is made."""
    config = version.config
    log_group = config.log_group_name
    arn = identity.arn(config.name, None if version.version == LATEST else version.version)
    variables = environment(
        version, identity, way=way, log_group=log_group, log_stream=mark, task_root=task_root, entrance=entrance
    )
    start: dict[str, object] = {
        "function_name": config.name,
        "function_version": version.version,
        "invoked_function_arn": arn,
        "handler": config.handler,
        "memory_mb": config.memory_mb,
        "timeout_ms": config.timeout_s * 1000,
        "task_root": task_root,
        "environment": variables,
        "log_group_name": log_group,
        "log_stream_name": mark,
        "initialization_type": SNAP_START if version.snap_started else "on-demand",
    }
    specialisation = Specialisation(
        code_dir=code_dir,
        memory_mb=config.memory_mb,
        ephemeral_storage_mb=config.ephemeral_storage_mb,
        outbound=config.network == Network.OUTBOUND.value,
        freeze=config.freeze == Freeze.ON.value,
        layers_dir=layers_dir,
        ports=(() if way.forked else (API_PORT,)) + (entrance.ports if entrance is not None else ()),
    )
    if way.forked:
        data = json.dumps(start, separators=(",", ":")).encode().removeprefix(b"{")
        api = None
    else:
        data = encode_start(
            argv=[way.programs[0], *way.arguments],
            or_else=way.programs[1:],
            cwd=task_root,
            environment=variables,
            extensions=way.extensions,
            wrapper=way.wrapper,
            afresh=way.afresh,
        )
        names = tuple(path.rpartition("/")[2] for path in way.extensions)
        api = RuntimeApi(arn=arn, handler=config.handler, account=identity.account_id, extensions=names)
    doors = entrance.doors if entrance is not None else None
    return Recipe(version, task_root, specialisation, way, api, tuple(data.split(mark.encode())), doors)


class OrderBook:
    """The recipe of each function's version that was last asked for. offers: what functions can be written in. launch: which
    version a revision of a function is, None: nobody knows it any more. task_dir: where a package lies unpacked; merged_dir:
    where layers do, as one tree. enters: whether a version's
    sandboxes come by secrets; entrance: how."""

    def __init__(
        self,
        identity: Identity,
        offers: Offers,
        *,
        enters: Callable[[FunctionVersion], bool] = lambda version: False,
        entrance: Callable[[FunctionVersion], Entrance | None] = lambda version: None,
        launch: Callable[[int, int], FunctionVersion | None],
        task_dir: Callable[[CodeRef], Path],
        merged_dir: Callable[[list[CodeRef]], Path],
    ) -> None:
        self._identity = identity
        self._offers = offers
        self._launch = launch
        self._enters = enters
        self._entrance = entrance
        self._task_dir = task_dir
        self._merged_dir = merged_dir
        self._recipes: dict[int, Recipe] = {}
        self._imaged: dict[int, tuple[int, bool]] = {}  # function to the revision of its image's order, and whether with doors
        self.problems: dict[int, str] = {}  # why there is no recipe of a function's version

    def recipe(self, function: int, revision: int, task_root: Callable[[str], str]) -> Recipe | None:
        """task_root: where a sandbox sees a directory of code. None: nobody knows the version any more, or see problems."""
        version = self._launch(function, revision)
        if version is None:
            return None
        known = self._recipes.get(function)
        enters = self._enters(version)
        if (
            known is not None
            and known.version is version
            and task_root(known.specialisation.code_dir) == known.task_root
            and enters == (known.doors is not None)
        ):
            return known
        try:
            recipe = self._recipe(version, task_root, enters=enters)
        except ValueError as error:
            self.problems[function] = f"{version.display_name}: {error}"
            return None
        self.problems.pop(function, None)
        self._recipes[function] = recipe
        return recipe

    def _recipe(self, version: FunctionVersion, task_root: Callable[[str], str], *, enters: bool) -> Recipe:
        code_dir, layers_dir = self._places(version)
        root = task_root(str(code_dir))
        return make_recipe(
            version,
            self._identity,
            way=choose(version, self._offers, code_dir=code_dir, layers_dir=layers_dir, task_root=root),
            code_dir=str(code_dir),
            task_root=root,
            mark=secrets.token_hex(16),
            layers_dir=str(layers_dir) if layers_dir is not None else None,
            entrance=self._entrance(version) if enters else None,
        )

    def make_order(self, function: int, revision: int, recipe: Recipe, now: datetime, stream_id: str) -> MakeOrder:
        """For a maker of the version's image."""
        self._imaged[function] = (revision, recipe.doors is not None)
        return recipe.make_order(now, stream_id)

    def suits(self, function: int, revision: int, recipe: Recipe) -> bool:
        """An image that was ordered here holds what the init found in its environment: that there were doors, or none."""
        return self._imaged.get(function) in (None, (revision, recipe.doors is not None))

    def shell(self, version: FunctionVersion) -> str:
        """The pool that its shells come from. Of a version whose environment is locked: as if that were empty."""
        return self._plainly(version)[0]

    def forked(self, version: FunctionVersion) -> bool:
        """It is no program of its own, as far as is known (see shell())."""
        return self._plainly(version)[1]

    def _plainly(self, version: FunctionVersion) -> tuple[str, bool]:
        # Asked for all versions at each deployment: most need no look at the disk.
        known = plain(version, self._offers)
        if known is not None:
            return known
        code_dir, layers_dir = self._places(version)
        try:
            way = choose(version, self._offers, code_dir=code_dir, layers_dir=layers_dir, task_root=TASK_ROOT)
        except ValueError:
            return version.config.runtime, False
        return way.shell, way.forked

    def _places(self, version: FunctionVersion) -> tuple[Path, Path | None]:
        """Of its package, and of its layers."""
        layers = [layer.code for layer in version.layers]
        return self._task_dir(version.code), self._merged_dir(layers) if layers else None

    def forget(self, function: int) -> None:
        """The function is no more."""
        self._recipes.pop(function, None)
        self._imaged.pop(function, None)
        self.problems.pop(function, None)
