"""The catalog's numbering and its commands; the real core judges them: replayed into one, they must leave what was meant."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from scheduler.catalog import AccountKind, Catalog, CatalogFull, FunctionSpec
from scheduler.config import Settings, TenantSettings
from scheduler.errors import BadRequest
from scheduler.functions.model import CodeKind, CodeRef, FunctionConfig, FunctionVersion
from scheduler.messages import (
    AccountPut,
    AccountRemove,
    CommandKind,
    FunctionPut,
    FunctionRemove,
    FunctionSwitch,
    Resource,
    SandboxWant,
)


def version(name="f", number="$LATEST", revision=1, **config):
    made = FunctionConfig(**{"name": name, "handler": "app.handler", "runtime": "py", **config})
    code = CodeRef("0" * 64, 1, CodeKind.ZIP, "0" * 64)
    return FunctionVersion(config=made, version=number, revision=revision, revision_id="r", code=code, last_modified="")


def spec(name="f", revision=1, published=(), **config):
    return FunctionSpec(
        version(name, revision=revision, **config), tuple(version(name, str(n), revision=1, **config) for n in published)
    )


def settings_with(**changes):
    return dataclasses.replace(Settings(), memory_mb_max=1000, **changes)


def cores(commands, kind):
    return [c.core for c in commands if isinstance(c.core, kind)]


def names(commands, kind=CommandKind.NAME_PUT):
    return [c.blob.decode().partition("\0")[0] for c in commands if c.kind is kind]


def told(commands):
    """What calls by each name are told, where it is not the function's own ARN."""
    return dict(c.blob.decode().split("\0") for c in commands if c.kind is CommandKind.NAME_PUT and b"\0" in c.blob)


def test_a_new_function_gets_its_accounts_its_handle_and_its_names():
    catalog = Catalog(settings_with())
    commands = catalog.put(
        spec(reserved_concurrency=5, tenant="acme", memory_mb=256, timeout_s=7, queue_timeout_ms=9, weight=3)
    )
    tenant, function = cores(commands, AccountPut)
    assert (tenant.index, tenant.parent, function.index, function.parent) == (1, 0, 2, 1)
    assert function.maxima[Resource.CONCURRENCY] == function.minima[Resource.CONCURRENCY] == 5
    (put,) = cores(commands, FunctionPut)
    assert (put.account, put.memory_mb, put.timeout_ns, put.queue_timeout_ns, put.weight) == (2, 256, 7 * 10**9, 9 * 10**6, 3)
    assert put.handle >> 32 == 1
    assert {"f", "f:$LATEST", "arn:aws:lambda:local:000000000000:function:f"} <= set(names(commands))
    arn = "arn:aws:lambda:local:000000000000:function:f:$LATEST"
    assert told(commands) == {name: arn for name in names(commands) if name.endswith(":$LATEST")}
    assert catalog.account_info(2).name == "function:f"
    assert catalog.account_info(1).kind is AccountKind.TENANT
    order = [type(c.core) if c.core else c.kind for c in commands]
    assert order.index(AccountPut) < order.index(FunctionPut) < order.index(CommandKind.NAME_PUT), "nobody finds it too early"


def test_a_reload_changes_the_limits_of_what_is_there_and_of_what_comes():
    catalog = Catalog(settings_with())
    catalog.start()
    catalog.put(spec("f", tenant="acme", reserved_concurrency=2))
    limits = TenantSettings(name="acme", weight=7, concurrency_max=3)
    puts = cores(catalog.reload(settings_with(tenants=(limits,), concurrency_max=9, function_queued_calls_max=5)), AccountPut)
    assert [put.index for put in puts] == [0, 1, 2], "parents first"
    node, tenant, function = puts
    assert node.maxima[Resource.CONCURRENCY] == 9
    assert (tenant.weight, tenant.maxima[Resource.CONCURRENCY], tenant.parent) == (7, 3, 0)
    assert function.maxima == {Resource.CONCURRENCY: 2, Resource.QUEUED_CALLS: 5}
    assert function.minima == {Resource.CONCURRENCY: 2}
    (later,) = cores(catalog.put(spec("g", tenant="acme")), AccountPut)
    assert later.maxima[Resource.QUEUED_CALLS] == 5


def test_tenants_have_the_limits_of_the_settings():
    limits = TenantSettings(name="acme", weight=7, concurrency_max=3, rate_max=100, memory_mb_max=512, queued_calls_max=4)
    catalog = Catalog(settings_with(tenants=(limits,)))
    (tenant, _) = cores(catalog.put(spec(tenant="acme")), AccountPut)
    assert (tenant.weight, tenant.burst) == (7, 10)
    assert tenant.maxima == {
        Resource.CONCURRENCY: 3,
        Resource.RATE: 100,
        Resource.MEMORY: 512,
        Resource.QUEUED_CALLS: 4,
    }


def test_a_staged_revision_serves_only_after_the_switch():
    catalog = Catalog(settings_with())
    catalog.put(spec(revision=1, memory_mb=128))
    handle = catalog.handle("f")
    staged = catalog.stage(spec(revision=2, memory_mb=512))
    (put,) = cores(staged, FunctionPut)
    assert (put.revision, put.memory_mb) == (1, 512), "the old one serves; the larger memory is charged"
    assert cores(staged, SandboxWant) == [SandboxWant(handle, 2)]
    assert catalog.serving(handle).revision == 1
    assert catalog.launch(handle, 1).revision == 1
    assert catalog.launch(handle, 2).revision == 2
    switched = catalog.put(spec(revision=2, memory_mb=512))
    assert cores(switched, FunctionSwitch) == [FunctionSwitch(handle, 2)]
    assert catalog.serving(handle).revision == 2
    assert catalog.launch(handle, 1) is None
    assert names(switched) == [], "names have not moved"


def test_versions_come_and_go_with_their_names():
    catalog = Catalog(settings_with())
    catalog.put(spec(published=(1, 2)))
    one = catalog.handle("f", "1")
    commands = catalog.put(spec(published=(2,)))
    assert cores(commands, FunctionRemove) == [FunctionRemove(one)]
    assert "f:1" in names(commands, CommandKind.NAME_REMOVE)
    assert catalog.handle("f", "1") is None
    assert catalog.launch(one, 1) is not None, "its last sandboxes may still be asked for"
    assert catalog.freed(one) == []
    assert catalog.launch(one, 1) is None


def test_numbers_are_reused_with_a_new_generation():
    catalog = Catalog(settings_with(functions_max=1))
    catalog.put(spec("a"))
    first = catalog.handle("a")
    with pytest.raises(CatalogFull, match="functions_max is 1"):
        catalog.put(spec("b"))
    catalog.remove("a")
    with pytest.raises(CatalogFull):
        catalog.put(spec("b"))
    commands = catalog.freed(first)
    assert [c.index for c in cores(commands, AccountRemove)] == [2, 1], "the function's account, then its tenant's"
    catalog.put(spec("b"))
    second = catalog.handle("b")
    assert (second & 0xFFFFFFFF, second >> 32) == (0, 2)
    assert catalog.freed(first) == [], "a late word on the dead one"
    assert catalog.handle("b") == second


def test_a_function_keeps_its_tenant():
    catalog = Catalog(settings_with())
    catalog.put(spec(tenant="a"))
    with pytest.raises(BadRequest, match="belongs to tenant a"):
        catalog.put(spec(tenant="b"))
    assert catalog.serving(catalog.handle("f")).config.tenant == "a"


class Numbers(RuleBasedStateMachine):
    """Against a plain model: nothing alive ever shares a number, and all numbers come back."""

    def __init__(self):
        super().__init__()
        self.catalog = Catalog(settings_with(functions_max=6))
        self.accounts = {0: None}  # as the engine would have them: index -> parent
        self.functions = {}  # handle -> (account, alive)
        self.names = {}
        self.apply(self.catalog.start())

    def apply(self, commands):
        for command in commands:
            core = command.core
            if isinstance(core, AccountPut):
                assert core.index == 0 or core.parent in self.accounts
                assert self.accounts.get(core.index, core.parent) in (core.parent, None)
                self.accounts[core.index] = core.parent
            elif isinstance(core, AccountRemove):
                assert core.index in self.accounts
                assert core.index not in [parent for parent in self.accounts.values() if parent is not None]
                assert core.index not in [account for account, _ in self.functions.values()]
                del self.accounts[core.index]
            elif isinstance(core, FunctionPut):
                taken = [h for h in self.functions if h & 0xFFFFFFFF == core.handle & 0xFFFFFFFF]
                assert taken in ([], [core.handle])
                assert core.account in self.accounts
                self.functions[core.handle] = (core.account, True)
            elif isinstance(core, FunctionRemove):
                account, alive = self.functions[core.handle]
                assert alive
                self.functions[core.handle] = (account, False)
            elif command.kind is CommandKind.NAME_PUT:
                assert self.functions[command.function][1]
                self.names[command.blob.partition(b"\0")[0]] = command.function
            elif command.kind is CommandKind.NAME_REMOVE:
                del self.names[command.blob]

    @rule(
        name=st.sampled_from("abc"),
        tenant=st.sampled_from(["t", "u"]),
        published=st.sets(st.integers(1, 3)),
        revision=st.integers(1, 9),
    )
    def put(self, name, tenant, published, revision):
        with contextlib.suppress(CatalogFull, BadRequest):
            self.apply(self.catalog.put(spec(name, revision, sorted(published), tenant=tenant)))

    @rule(name=st.sampled_from("abc"))
    def remove(self, name):
        if self.catalog.handle(name) is not None:
            self.apply(self.catalog.remove(name))

    @rule(pick=st.integers(0, 20))
    def freed(self, pick):
        going = [handle for handle, (_, alive) in self.functions.items() if not alive]
        if going:
            handle = going[pick % len(going)]
            del self.functions[handle]
            self.apply(self.catalog.freed(handle))

    @invariant()
    def agrees(self):
        alive = {handle for handle, (_, living) in self.functions.items() if living}
        assert {handle for _, _, handle in self.catalog.functions()} == alive
        assert set(self.names.values()) == alive
        for name, number, handle in self.catalog.functions():
            assert self.names[f"{name}:{number}".encode()] == handle
        assert all(self.catalog.account_info(index) is not None for index in self.accounts)

    def teardown(self):
        for name in "abc":
            self.remove(name)
        while any(not alive for _, alive in self.functions.values()):
            self.freed(0)
        assert list(self.accounts) == [0]
        assert self.names == {}


TestNumbers = Numbers.TestCase
TestNumbers.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
