"""What a deployment file asks for, whoever wrote it: functions, layers, and what belongs to them.

Law of this file: frozen data. Keys of `configuration` are those of Lambda's CreateFunction.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scheduler.errors import SchedulerError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["FunctionPlan", "LayerPlan", "Notice", "Plan", "TemplateBroken"]


class TemplateBroken(SchedulerError):
    """The file cannot be deployed; the message says where and why."""

    type = "BadRequest"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something in the file that is passed over, and why."""

    where: str
    text: str


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """`logical`: its name in the file, by which functions of the same file name it."""

    logical: str
    name: str
    source: Path
    description: str = ""
    runtimes: tuple[str, ...] = ()
    license: str = ""


@dataclass(frozen=True, slots=True)
class FunctionPlan:
    """`source`: folder, zip or file; None: `inline` is the text of index.py. `layers`: ARNs, or logical names of the same file
    with a leading @. `aliases`: to be made of the version that this deployment publishes. `permissions`: AddPermission's
    members. `events`: as the file has them, by name. `secrets`, `keys`: what it may use, where the file grants something."""

    logical: str
    name: str
    configuration: Mapping[str, Any] = field(hash=False)
    source: Path | None = None
    inline: str | None = None
    layers: tuple[str, ...] | None = None
    publish: bool = False
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    reserved: int | None = None
    recursive_loop: str | None = None
    runtime_management: Mapping[str, Any] | None = field(default=None, hash=False)
    provisioned: int | None = None
    url: Mapping[str, Any] | None = field(default=None, hash=False)
    event_config: Mapping[str, Any] | None = field(default=None, hash=False)
    permissions: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    events: Mapping[str, Any] = field(default_factory=dict, hash=False)
    secrets: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """In the order in which it is to be done."""

    layers: tuple[LayerPlan, ...]
    functions: tuple[FunctionPlan, ...]
    notices: tuple[Notice, ...]
