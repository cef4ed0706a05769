"""scheduler/messages.py mirrors two headers by hand; the compiler's view of those headers says whether it is true."""

from __future__ import annotations

from dataclasses import fields

import pytest

from scheduler import engine, messages
from scheduler._native._core import ffi, lib

ENUMS = (
    ("core_resource", "CORE_", messages.Resource, {"CORE_RESOURCES"}),
    ("core_outcome", "CORE_", messages.Outcome, {"CORE_OUTCOMES"}),
    ("core_tier", "CORE_TIER_", messages.Tier, set()),
    ("core_cause", "CORE_CAUSE_", messages.Cause, set()),
    ("core_why", "CORE_WHY_", messages.Why, set()),
    ("core_floor_failure", "CORE_FLOOR_", messages.FloorFailure, {"CORE_FLOOR_FAILURES"}),
    ("core_sandbox_state", "CORE_SB_", messages.SandboxState, {"CORE_SB_STATES"}),
    ("sched_command_kind", "SCHED_CMD_", messages.CommandKind, set()),
    ("sched_event_kind", "SCHED_EV_", messages.EventKind, set()),
)


@pytest.mark.parametrize(("name", "prefix", "mirror", "counts"), ENUMS, ids=[row[0] for row in ENUMS])
def test_enums_have_the_header_s_members_and_numbers(name, prefix, mirror, counts):
    native = {
        member.removeprefix(prefix): number
        for member, number in ffi.typeof(f"enum {name}").relements.items()
        if member not in counts
    }
    assert native == {member.name: member.value for member in mirror}


def test_core_events_that_may_be_posted_have_the_header_s_numbers():
    native = ffi.typeof("enum core_event_kind").relements
    for kind in messages.CoreEventKind:
        assert native[f"CORE_EV_{kind.name}"] == kind.value


def test_rights_and_bounds():
    native = ffi.typeof("enum sched_right").relements
    assert {name: native[f"SCHED_RIGHT_{name}"] for name in ("INVOKE", "DEPLOY", "ADMIN", "ALL", "OWN")} == {
        "INVOKE": messages.Right.INVOKE,
        "DEPLOY": messages.Right.DEPLOY,
        "ADMIN": messages.Right.ADMIN,
        "ALL": messages.Right.ALL,
        "OWN": messages.Right.OWN,
    }
    looks = ffi.typeof("enum sched_look").relements
    assert {name.removeprefix("SCHED_LOOK_"): number for name, number in looks.items()} == {
        "TEXT": 0,
        **{look.name: look.value for look in messages.Look},
    }
    traits = ffi.typeof("enum sched_trait").relements
    assert {name.removeprefix("SCHED_TRAIT_"): number for name, number in traits.items()} == {
        trait.name: trait.value for trait in messages.Trait if trait
    }
    assert messages.NO_LIMIT == lib.CORE_NO_LIMIT
    assert messages.NO_ACCOUNT == lib.CORE_NO_ACCOUNT
    assert lib.SCHED_ABI == engine.ABI


STRUCTS = (
    ("core_totals", messages.Totals, {}),
    ("sched_loop_stats", messages.LoopStats, {}),
    ("core_account_stats", messages.AccountStats, {"max": "maxima", "min": "minima"}),
    ("core_function_stats", messages.FunctionStats, {}),
)


@pytest.mark.parametrize(("name", "mirror", "renamed"), STRUCTS, ids=[row[0] for row in STRUCTS])
def test_counters_leave_no_field_out(name, mirror, renamed):
    native = {renamed.get(field, field) for field, _ in ffi.typeof(f"struct {name}").fields if not field.startswith("pad")}
    assert native == {field.name for field in fields(mirror)}


def test_every_setting_of_the_engine_can_be_given():
    native = {name for struct in ("sched_config", "core_config") for name, _ in ffi.typeof(f"struct {struct}").fields}
    given = {field.name for field in fields(messages.EngineConfig)}
    assert native - given == {"core", "pad", "allowed_uids_count"}
    assert given <= native


def test_every_event_and_every_core_event_is_translated():
    assert set(engine._READ) == set(messages.EventKind) - {messages.EventKind.STATS}
    assert {kind.kind for kind in engine._FILL} == set(messages.CoreEventKind)
