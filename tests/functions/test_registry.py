"""The function registry: Lambda's rules for versions and reservations, pages, conflicts, and a model it must agree with."""

from __future__ import annotations

import dataclasses
import json

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler import limits
from scheduler.config import Settings, TenantSettings, load
from scheduler.errors import BadRequest, NotFound, Throttled, Unavailable
from scheduler.functions.model import CodeKind, CodeRef, InvalidConfig
from scheduler.functions.names import LATEST
from scheduler.functions.records import function_key, version_key
from scheduler.functions.registry import Conflict, FunctionRegistry, RevisionMismatch
from scheduler.store.port import ABSENT, Entry, RevisionConflict
from scheduler.store.registry import SqliteRegistry
from scheduler.store.sqlite import open_store
from tests.functions.sealing import SEALS

RUNTIMES = ("python3.12", "python3.11")
HELLO = {"name": "hello", "handler": "app.handler"}


def code(number: int = 1) -> CodeRef:
    sha256 = f"{number:064x}"
    return CodeRef(sha256, number, CodeKind.ZIP, sha256)


class Memory:
    """port.Registry in a dict, whose next writes can be made to fail. Writes take a moment, so that tasks can meet."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.revision = 0
        self.fail: list[str] = []  # for each of the next writes: "", "before" or "after" it was applied

    async def get(self, key: str) -> Entry | None:
        await trio.lowlevel.checkpoint()
        return self.entries.get(key)

    async def put(self, key: str, value: bytes, *, expect: int | None = None) -> int:
        return await self._write(key, value, expect)

    async def delete(self, key: str, *, expect: int | None = None) -> int:
        return await self._write(key, None, expect)

    async def list(self, prefix: str = "", *, after: str = "", limit: int = 1000) -> list[Entry]:
        await trio.lowlevel.checkpoint()
        found = sorted(key for key in self.entries if key.startswith(prefix) and key > after)
        return [self.entries[key] for key in found[:limit]]

    async def _write(self, key: str, value: bytes | None, expect: int | None) -> int:
        fail = self.fail.pop(0) if self.fail else ""
        await trio.lowlevel.checkpoint()
        if fail == "before":
            raise Unavailable("not now")
        current = self.entries[key].revision if key in self.entries else ABSENT
        if expect is not None and expect != current:
            raise RevisionConflict(key, expect, current)
        self.revision += 1
        if value is None:
            self.entries.pop(key, None)
        else:
            self.entries[key] = Entry(key, value, self.revision)
        if fail == "after":
            raise Unavailable("who knows")
        return self.revision


@pytest.fixture
def memory():
    return Memory()


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


async def open_registry(memory: Memory, now_s: Clock | None = None, **changes) -> FunctionRegistry:
    return await FunctionRegistry.load(
        memory,  # type: ignore[arg-type]  # what the registry does not use is not there
        dataclasses.replace(load(), **changes),
        runtimes=RUNTIMES,
        seals=SEALS,
        now_s=now_s or Clock(),
    )


@pytest.fixture
async def registry(memory):
    return await open_registry(memory)


async def same_after_restart(registry: FunctionRegistry, memory: Memory) -> FunctionRegistry:
    again = await open_registry(memory)
    assert again.all() == registry.all()
    return again


# ---- deploying -------------------------------------------------------------------------------------------------------------


async def test_create_then_replace(registry, memory):
    first = await registry.deploy({**HELLO, "memory_mb": 256}, code(1))
    assert first.created
    assert first.published is None
    assert (first.latest.revision, first.latest.version, first.latest.config.memory_mb) == (1, LATEST, 256)
    second = await registry.deploy({**HELLO, "timeout_s": 9}, code(2))
    assert not second.created
    assert (second.latest.revision, second.latest.code, second.latest.config.timeout_s) == (2, code(2), 9)
    assert second.latest.config.memory_mb == 256, "keys left out stay as they are"
    assert second.latest.revision_id != first.latest.revision_id
    assert registry.get("hello") == second.latest
    await same_after_restart(registry, memory)


async def test_the_same_deployment_again_is_a_new_revision(registry):
    await registry.deploy(HELLO, code())
    again = await registry.deploy(HELLO, code())
    assert again.latest.revision == 2


async def test_only_what_a_sandbox_is_made_with_makes_a_revision(registry):
    await registry.deploy(HELLO, code())
    for change in ({"description": "d"}, {"queue_timeout_ms": 7}, {"weight": 7}, {"reserved_concurrency": 7}):
        assert (await registry.update("hello", change)).latest.revision == 1
    for number, change in enumerate(
        ({"memory_mb": 129}, {"timeout_s": 4}, {"environment": {"AA": "1"}}, {"handler": "b.c"}), 2
    ):
        assert (await registry.update("hello", change)).latest.revision == number
    assert (await registry.update("hello", {}, code=code(2))).latest.revision == 6


async def test_settings_give_the_defaults_of_new_functions(memory):
    registry = await open_registry(memory, queue_timeout_ms=77, runtime_default="python3.11")
    latest = (await registry.deploy(HELLO, code())).latest
    assert (latest.config.queue_timeout_ms, latest.config.runtime) == (77, "python3.11")


async def test_create_refuses_a_taken_name(registry):
    await registry.create(HELLO, code())
    with pytest.raises(Conflict, match="Function already exist: hello") as caught:
        await registry.create(HELLO, code())
    assert (caught.value.type, caught.value.reason) == ("BadRequest", "conflict")


@pytest.mark.parametrize(
    "fields", [{}, {"name": 3}, {"name": "a b", "handler": "h"}, {**HELLO, "memory_mb": 1}, {**HELLO, "x": 1}]
)
async def test_what_is_not_valid_changes_nothing(registry, memory, fields):
    with pytest.raises(InvalidConfig):
        await registry.deploy(fields, code())
    assert memory.entries == {}
    await registry.deploy(HELLO, code())
    before = dict(memory.entries)
    if fields.get("name") == "hello":
        with pytest.raises(InvalidConfig):
            await registry.deploy(fields, code())
    assert memory.entries == before


async def test_revision_ids_guard_changes(registry):
    latest = (await registry.deploy(HELLO, code())).latest
    newer = (await registry.update("hello", {"memory_mb": 256}, revision_id=latest.revision_id)).latest
    for attempt in (
        registry.update("hello", {"memory_mb": 512}, revision_id=latest.revision_id),
        registry.deploy(HELLO, code(2), revision_id=latest.revision_id),
        registry.publish("hello", revision_id="nonsense"),
        registry.deploy({**HELLO, "name": "new"}, code(), revision_id="any"),
    ):
        with pytest.raises(RevisionMismatch) as caught:
            await attempt
        assert caught.value.reason == "revision"
    assert registry.get("hello") == newer


async def test_a_function_keeps_its_tenant(registry):
    await registry.deploy({**HELLO, "tenant": "acme"}, code())
    assert (await registry.deploy(HELLO, code())).latest.config.tenant == "acme"
    with pytest.raises(BadRequest, match="tenant: 'other' is not 'acme': a function keeps its tenant"):
        await registry.update("hello", {"tenant": "other"})


async def test_what_does_not_exist(registry):
    for attempt in (registry.update("nope", {}), registry.publish("nope"), registry.remove("nope")):
        with pytest.raises(NotFound, match=r"Function not found: arn:aws:lambda:local:000000000000:function:nope:\$LATEST"):
            await attempt
    with pytest.raises(NotFound):
        registry.versions("nope")


# ---- versions --------------------------------------------------------------------------------------------------------------


async def test_publish_only_when_changed(registry, memory):
    await registry.deploy(HELLO, code(1))
    first = await registry.publish("hello", description="the first")
    assert (first.version, first.config.description) == ("1", "the first")
    assert await registry.publish("hello") == first
    assert await registry.publish("hello", description="again") == first
    await registry.update("hello", {"weight": 5, "reserved_concurrency": 3})
    assert (await registry.publish("hello")).version == "1", "what belongs to the function is no change of a version"
    await registry.deploy(HELLO, code(1))
    assert (await registry.publish("hello")).version == "1", "the same code and configuration deployed again is no change"
    await registry.deploy(HELLO, code(2))
    assert (await registry.publish("hello")).version == "2"
    await registry.update("hello", {"memory_mb": 200})
    assert (await registry.publish("hello")).version == "3"
    await registry.update("hello", {"description": "d"})
    assert (await registry.publish("hello")).version == "4"
    await same_after_restart(registry, memory)


async def test_a_version_never_changes_but_shows_what_belongs_to_the_function(registry):
    await registry.deploy({**HELLO, "environment": {"AA": "1"}}, code(1), publish=True)
    await registry.deploy({**HELLO, "environment": {"BB": "2"}, "memory_mb": 999, "reserved_concurrency": 4}, code(2))
    first = registry.get("hello", "1")
    assert (first.code, dict(first.config.environment), first.config.memory_mb) == (code(1), {"AA": "1"}, 128)
    assert first.config.reserved_concurrency == 4
    assert registry.versions("hello") == (first,)


async def test_deploy_and_publish_in_one(registry, memory):
    deployed = await registry.deploy(HELLO, code(1), publish=True)
    assert (deployed.published.version, deployed.published.revision) == ("1", 1)
    again = await registry.deploy(HELLO, code(1), publish=True)
    assert again.published == deployed.published
    changed = await registry.update("hello", {"memory_mb": 200}, publish=True)
    assert (changed.published.version, changed.published.revision) == ("2", 3)
    assert registry.describe(changed.latest)["versions"] == ["1", "2"]
    await same_after_restart(registry, memory)


async def test_numbers_are_never_used_again(registry, memory):
    await registry.deploy(HELLO, code(1), publish=True)
    await registry.deploy(HELLO, code(2), publish=True)
    (removed,) = await registry.remove("hello", "2")
    assert removed.version == "2"
    assert (await registry.publish("hello")).version == "3"
    registry = await same_after_restart(registry, memory)
    assert [version.version for version in registry.versions("hello")] == ["1", "3"]
    with pytest.raises(NotFound, match=r"function:hello:2"):
        registry.get("hello", "2")
    with pytest.raises(NotFound):
        await registry.remove("hello", "2")


async def test_publish_can_insist_on_the_code(registry):
    await registry.deploy(HELLO, code(1))
    with pytest.raises(BadRequest, match="code_sha256"):
        await registry.publish("hello", code_sha256=code(2).sha256)
    assert (await registry.publish("hello", code_sha256=code(1).sha256)).version == "1"
    with pytest.raises(InvalidConfig, match="description"):
        await registry.publish("hello", description="d" * 257)


async def test_too_many_versions(registry, monkeypatch):
    monkeypatch.setattr(limits, "VERSIONS_PER_FUNCTION_MAX", 2)
    for number in range(2):
        await registry.deploy(HELLO, code(number), publish=True)
    with pytest.raises(Throttled, match="hello has 2 versions, the limit is 2") as caught:
        await registry.deploy(HELLO, code(9), publish=True)
    assert (caught.value.account, caught.value.resource) == ("function:hello", "versions")
    assert registry.get("hello").code == code(1), "nothing of the deployment was done"


async def test_remove_takes_everything(registry, memory):
    await registry.deploy(HELLO, code(1), publish=True)
    await registry.deploy(HELLO, code(2), publish=True)
    with pytest.raises(BadRequest, match=r"\$LATEST version cannot be deleted without deleting the function"):
        await registry.remove("hello", LATEST)
    removed = await registry.remove("hello")
    assert [version.version for version in removed] == [LATEST, "1", "2"]
    assert memory.entries == {}
    assert len(registry) == 0
    assert "hello" not in registry
    assert (await registry.deploy(HELLO, code(), publish=True)).published.version == "1"


async def test_get_by_every_name(registry):
    await registry.deploy(HELLO, code(), publish=True)
    arn = "arn:aws:lambda:local:000000000000:function:hello"
    for text in ("hello", "hello:$LATEST", arn, "000000000000:function:hello"):
        assert registry.resolve(text).version == LATEST
    for text in ("hello:1", f"{arn}:1"):
        assert registry.resolve(text).version == "1"
    assert registry.resolve("hello", "1").version == "1"
    for text in ("hello:2", "hello:prod", "other"):
        with pytest.raises(NotFound):
            registry.resolve(text)


# ---- lists and limits ------------------------------------------------------------------------------------------------------


async def test_pages(registry):
    for number in range(120):
        tenant = "odd" if number % 2 else "even"
        await registry.deploy({"name": f"f{number:03}", "handler": "a.b", "tenant": tenant}, code())
    seen, marker = [], None
    while True:
        page = registry.list(marker=marker)
        seen += [version.name for version in page.functions]
        marker = page.next_marker
        if marker is None:
            break
        assert len(page.functions) == 50
    assert seen == [f"f{number:03}" for number in range(120)]
    odd = registry.list(tenant="odd", limit=10_000)
    assert len(odd.functions) == 50
    assert {version.config.tenant for version in odd.functions} == {"odd"}
    assert [v.name for v in registry.list(marker="f118", limit=5).functions] == ["f119"]
    assert registry.list(tenant="nobody").functions == ()
    assert registry.list(limit=120).next_marker == "f049"


@pytest.mark.parametrize(
    "arguments", [{"limit": 0}, {"limit": 10_001}, {"limit": "5"}, {"limit": True}, {"marker": "a b"}, {"marker": 5}]
)
async def test_bad_pages(registry, arguments):
    with pytest.raises(BadRequest):
        registry.list(**arguments)


async def test_functions_and_versions_share_a_limit(memory):
    registry = await open_registry(memory, functions_max=3)
    await registry.deploy({**HELLO, "name": "a"}, code(), publish=True)
    await registry.deploy({**HELLO, "name": "b"}, code())
    for attempt in (
        registry.deploy({**HELLO, "name": "c"}, code()),
        registry.publish("b"),
        registry.deploy({**HELLO, "name": "b"}, code(), publish=True),
    ):
        with pytest.raises(Throttled, match=r"3 functions and versions are deployed, the limit \(functions_max\) is 3"):
            await attempt
    assert registry.get("b").revision == 1
    await registry.remove("a")
    await registry.deploy({**HELLO, "name": "c"}, code(), publish=True)
    with pytest.raises(Throttled):
        await registry.publish("b")
    assert "d" not in registry


async def test_reservations_leave_the_pool_its_minimum(registry):
    await registry.deploy({**HELLO, "name": "a", "reserved_concurrency": 500}, code())
    await registry.deploy({**HELLO, "name": "b", "reserved_concurrency": 400}, code())
    with pytest.raises(BadRequest, match=r"UnreservedConcurrentExecution below its minimum value of \[100\]") as caught:
        await registry.update("b", {"reserved_concurrency": 401})
    assert (caught.value.account, caught.value.resource) == ("node", "concurrency")
    with pytest.raises(BadRequest, match="would leave 99 of 1000"):
        await registry.deploy({**HELLO, "name": "c", "reserved_concurrency": 1}, code())
    assert "c" not in registry
    await registry.deploy({**HELLO, "name": "c", "reserved_concurrency": 0}, code())
    await registry.update("a", {"reserved_concurrency": 499})
    await registry.update("b", {"reserved_concurrency": 401})
    await registry.update("a", {"reserved_concurrency": None})
    assert registry.claimed_concurrency() == 401


async def test_giving_back_is_always_allowed(registry):
    await registry.deploy({**HELLO, "reserved_concurrency": 900}, code())
    registry.settings = dataclasses.replace(registry.settings, concurrency_max=500)
    await registry.update("hello", {"reserved_concurrency": 800})
    await registry.update("hello", {"memory_mb": 200})
    with pytest.raises(BadRequest):
        await registry.update("hello", {"reserved_concurrency": 801})


async def test_reservations_stay_within_the_tenant(memory):
    tenant = TenantSettings(name="acme", concurrency_max=10)
    registry = await open_registry(memory, tenants=(tenant,))
    await registry.deploy({**HELLO, "tenant": "acme", "reserved_concurrency": 7}, code())
    with pytest.raises(BadRequest, match="makes 11 for tenant acme, whose concurrency_max is 10") as caught:
        await registry.deploy({**HELLO, "name": "b", "tenant": "acme", "reserved_concurrency": 4}, code())
    assert caught.value.account == "tenant:acme"
    await registry.deploy({**HELLO, "name": "b", "tenant": "acme", "reserved_concurrency": 3}, code())


async def test_reservations_made_at_once_do_not_overshoot(registry):
    refused = []

    async def deploy(number: int) -> None:
        try:
            await registry.deploy({**HELLO, "name": f"f{number}", "reserved_concurrency": 100}, code())
        except BadRequest:
            refused.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(deploy, number)
    assert (registry.claimed_concurrency(), len(refused)) == (900, 11)


async def test_code_in_use(registry):
    await registry.deploy({**HELLO, "tenant": "a"}, code(1), publish=True)
    await registry.deploy(HELLO, code(2))
    await registry.deploy({**HELLO, "name": "other", "tenant": "b"}, code(3))
    assert registry.code_in_use() == {code(n).path for n in (1, 2, 3)}
    assert registry.code_in_use("a") == {code(n).path for n in (1, 2)}
    await registry.remove("hello", "1")
    assert registry.code_in_use("a") == {code(2).path}


# ---- trouble ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [0, 1])
async def test_a_write_whose_end_is_unknown_is_looked_up(registry, memory, when, step):
    await registry.deploy(HELLO, code(1))
    memory.fail = [""] * step + [when]
    with pytest.raises(Unavailable):
        await registry.deploy({**HELLO, "memory_mb": 200}, code(2), publish=True)
    applied = when == "after" and step == 1
    published = await registry.publish("hello")
    assert published.code == code(2 if applied else 1)
    assert published.config.memory_mb == (200 if applied else 128)
    assert published.version == "1"
    await same_after_restart(registry, memory)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_removal_whose_end_is_unknown_is_looked_up(registry, memory, when):
    await registry.deploy(HELLO, code(1), publish=True)
    memory.fail = [when]
    with pytest.raises(Unavailable):
        await registry.remove("hello")
    if when == "after":
        with pytest.raises(NotFound):
            await registry.publish("hello")
    else:
        assert len(await registry.remove("hello")) == 2
    await same_after_restart(registry, memory)


async def test_somebody_else_s_change_is_a_conflict_then_seen(memory):
    mine, theirs = await open_registry(memory), await open_registry(memory)
    await mine.deploy(HELLO, code(1))
    with pytest.raises(Conflict, match="somebody else changed it"):
        await theirs.deploy(HELLO, code(2))
    assert (await theirs.deploy(HELLO, code(2))).latest.revision == 2
    with pytest.raises(Conflict):
        await mine.update("hello", {"memory_mb": 200})
    assert (await mine.update("hello", {"memory_mb": 200})).latest.code == code(2)


async def test_versions_nobody_names_are_swept_once_old(memory):
    clock = Clock()
    registry = await open_registry(memory, clock)
    await registry.deploy(HELLO, code(1), publish=True)
    memory.fail = ["", "before"]
    with pytest.raises(Unavailable):
        await registry.deploy(HELLO, code(2), publish=True)
    assert len(memory.entries) == 3
    await open_registry(memory, clock)
    assert len(memory.entries) == 3
    clock.now_s += 3601
    registry = await open_registry(memory, clock)
    assert set(memory.entries) == {function_key("hello"), version_key("hello", registry.get("hello", "1").revision_id)}


async def test_cancelling_does_not_tear(registry, memory):
    await registry.deploy(HELLO, code(1))
    for step in range(8):
        with trio.CancelScope() as scope:

            async def cancel(steps: int = step, scope: trio.CancelScope = scope) -> None:
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel)
                await registry.deploy({**HELLO, "description": str(step)}, code(step + 2), publish=True)
        await same_after_restart(registry, memory)


@pytest.mark.parametrize(
    "value",
    [b"", b"[]", b"{}", b'{"format":2}', b'{"format":1}', b'{"format":1,"latest":{},"last_version":0,"published":[]}', b"\xff"],
)
async def test_what_cannot_be_understood_stops_the_start(memory, value):
    memory.entries["fn.hello"] = Entry("fn.hello", value, 1)
    with pytest.raises(Unavailable, match=r"fn\.hello: "):
        await open_registry(memory)


async def test_a_version_that_is_missing_stops_the_start(registry, memory):
    await registry.deploy(HELLO, code(), publish=True)
    memory.entries = {key: entry for key, entry in memory.entries.items() if key.startswith("fn.")}
    with pytest.raises(Unavailable, match=r"version 1 .* is missing from the store"):
        await open_registry(memory)


async def test_an_environment_s_values_are_not_told_when_reading_fails(memory, registry):
    await registry.deploy({**HELLO, "environment": {"KEY": "hunter2"}}, code())
    stored = json.loads(memory.entries["fn.hello"].value)
    stored["latest"]["config"]["environment"] = ["hunter2"]
    memory.entries["fn.hello"] = Entry("fn.hello", json.dumps(stored).encode(), 1)
    with pytest.raises(Unavailable) as caught:
        await open_registry(memory)
    assert "hunter2" not in str(caught.value)


async def test_on_the_real_store(tmp_path):
    path = tmp_path / "s" / "x.db"
    async with open_store(path) as store:
        registry = await FunctionRegistry.load(SqliteRegistry(store), Settings(), runtimes=RUNTIMES, seals=SEALS)
        await registry.deploy({**HELLO, "environment": {"KEY": "välue"}}, code(1), publish=True)
        await registry.update("hello", {"memory_mb": 200})
        before = registry.all()
    async with open_store(path) as store:
        assert (await FunctionRegistry.load(SqliteRegistry(store), Settings(), runtimes=RUNTIMES, seals=SEALS)).all() == before


# ---- the model -------------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
STEPS = st.one_of(
    st.tuples(st.just("deploy"), NAMES, st.integers(1, 3), st.booleans(), st.sampled_from([None, 128, 256])),
    st.tuples(st.just("update"), NAMES, st.sampled_from([128, 256, 512]), st.booleans()),
    st.tuples(st.just("reserve"), NAMES, st.sampled_from([None, 0, 300, 500])),
    st.tuples(st.just("publish"), NAMES),
    st.tuples(st.just("remove"), NAMES, st.sampled_from([None, "1", "2"])),
    st.tuples(st.just("fail"), st.lists(st.sampled_from(["", "before", "after"]), max_size=2)),
    st.tuples(st.just("restart")),
)


class Model:
    """The registry in ten lines: name to [memory, code, reserved, revision, last version, {version: (memory, code)}]."""

    def __init__(self) -> None:
        self.functions: dict[str, list] = {}

    def room(self, name: str, reserved: int | None) -> bool:
        before = self.functions[name][2] or 0 if name in self.functions else 0
        total = sum(f[2] or 0 for f in self.functions.values()) - before + (reserved or 0)
        return (reserved or 0) <= before or 1000 - total >= 100

    def publish(self, name: str) -> str:
        memory, code_, _, _, last, versions = self.functions[name]
        if not versions or versions[max(versions)] != (memory, code_):
            self.functions[name][4] = last + 1
            versions[last + 1] = (memory, code_)
        return str(max(versions))


def picture(registry: FunctionRegistry) -> dict[str, list]:
    return {
        version.name: [
            version.config.memory_mb,
            version.code.size,
            version.config.reserved_concurrency,
            version.revision,
            {int(v.version): (v.config.memory_mb, v.code.size) for v in registry.versions(version.name)},
        ]
        for version in registry.list().functions
    }


async def follow(steps) -> None:
    memory, model = Memory(), Model()
    registry = await open_registry(memory)
    for step in steps:
        name = step[1] if len(step) > 1 else ""
        function = model.functions.get(name) if isinstance(name, str) else None
        match step:
            case ("deploy", _, number, publish, size):
                fields = {"name": name, "handler": "a.b"} | ({} if size is None else {"memory_mb": size})
                await registry.deploy(fields, code(number), publish=publish)
                if function is None:
                    function = model.functions[name] = [128, 0, None, 0, 0, {}]
                function[0], function[1] = size or function[0], number
                function[3] += 1
                if publish:
                    model.publish(name)
            case ("update" | "publish" | "remove" | "reserve", *_) if function is None:
                with pytest.raises(NotFound):
                    await registry.publish(name)
            case ("update", _, size, publish):
                deployed = await registry.update(name, {"memory_mb": size}, publish=publish)
                function[3] += size != function[0]
                function[0] = size
                if publish:
                    assert deployed.published.version == model.publish(name)
            case ("reserve", _, reserved):
                if model.room(name, reserved):
                    await registry.update(name, {"reserved_concurrency": reserved})
                    function[2] = reserved
                else:
                    with pytest.raises(BadRequest):
                        await registry.update(name, {"reserved_concurrency": reserved})
            case ("publish", _):
                assert (await registry.publish(name)).version == model.publish(name)
            case ("remove", _, None):
                await registry.remove(name)
                del model.functions[name]
            case ("remove", _, version):
                if int(version) in function[5]:
                    await registry.remove(name, version)
                    del function[5][int(version)]
                else:
                    with pytest.raises(NotFound):
                        await registry.remove(name, version)
            case ("fail", ends):
                # A write that fails: afterwards it is wholly done or not done at all, and reading tells which.
                memory.fail = list(ends)
                before = picture(registry)
                try:
                    await registry.deploy({"name": "a", "handler": "a.b"}, code(3), publish=True)
                except Unavailable:
                    memory.fail = []
                    registry = await open_registry(memory)
                    if picture(registry) == before:
                        continue
                memory.fail = []
                function = model.functions.setdefault("a", [128, 0, None, 0, 0, {}])
                function[1] = 3
                function[3] += 1
                model.publish("a")
            case ("restart",):
                registry = await open_registry(memory)
        expected = {name: [*f[:4], f[5]] for name, f in sorted(model.functions.items())}
        assert picture(registry) == expected
    await same_after_restart(registry, memory)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEPS, max_size=25))
def test_agrees_with_the_model(steps):
    trio.run(follow, steps)
