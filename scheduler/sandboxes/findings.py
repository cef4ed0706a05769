"""What the doctor finds: one thing each, with a verdict and the next step.

Law of this file: values only; nothing is looked at here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Finding", "Group", "Verdict", "is_safe"]


class Verdict(enum.Enum):
    """OK: tried, and it held. WEAKER: something else stands in for it, or part of it is missing. CANNOT: not here, or it did
    not hold."""

    OK = "ok"
    WEAKER = "weaker"
    CANNOT = "cannot"


class Group(enum.Enum):
    """What a finding is about. FEATURES are of no consequence for safety."""

    MACHINE = "this machine"
    SIGHT = "what a sandbox sees"
    RIGHTS = "what a sandbox may do"
    BOUNDS = "what a sandbox may use"
    FEATURES = "what functions can have"


@dataclass(frozen=True, slots=True)
class Finding:
    """name: what is looked at. detail: what was found. fix: what to do, "" if nothing or unknown. enforced_by: the means, "" if
    nothing does it."""

    group: Group
    name: str
    verdict: Verdict
    detail: str
    fix: str = ""
    enforced_by: str = ""

    @property
    def ok(self) -> bool:
        return self.verdict is Verdict.OK


def is_safe(findings: Sequence[Finding]) -> bool:
    """Nothing that protects is missing. What is weaker is told, and no reason not to start."""
    return not any(finding.verdict is Verdict.CANNOT and finding.group is not Group.FEATURES for finding in findings)
