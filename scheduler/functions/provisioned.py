"""Provisioned concurrency: how many sandboxes of a version or alias are kept initialised, always or in windows of time.

Law of this file: pure; the time is an argument. Bounds and words are Lambda's where Lambda has them; `$LATEST` may have it here
too, and windows are ours: while one is open its count holds in place of the other. A window opens when its cron expression
matches, in a time zone of its own, and stays open for so many minutes.
"""

from __future__ import annotations

import math
import zoneinfo
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from cronsim import CronSim, CronSimError

from scheduler.errors import BadRequest
from scheduler.functions.names import LATEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scheduler.functions.attached import Attached

__all__ = ["COUNT_MAX", "WINDOWS_MAX", "Provisioned", "Window", "check_place", "floors", "read", "shown"]

COUNT_MAX: Final = 10_000
WINDOWS_MAX: Final = 16
WINDOW_MINUTES_MAX: Final = 7 * 24 * 60
CRON_CHARS_MAX: Final = 128
WINDOW_KEYS: Final = ("cron", "minutes", "count", "zone")


@dataclass(frozen=True, slots=True)
class Window:
    """From each match of `cron` (minute, hour, day, month, weekday) in `zone` on, for `minutes`."""

    cron: str
    minutes: int
    count: int
    zone: str = "UTC"

    def open(self, now: datetime) -> bool:
        """now: aware of its zone."""
        here = now.astimezone(zoneinfo.ZoneInfo(self.zone))
        # The next match after `minutes` ago, should it be no later than now; cron has whole minutes.
        first = next(CronSim(self.cron, here - timedelta(minutes=self.minutes)), None)
        return first is not None and first <= here


@dataclass(frozen=True, slots=True)
class Provisioned:
    """count: while no window is open; of several that are the greatest holds. modified_s: Unix time."""

    count: int
    windows: tuple[Window, ...] = ()
    modified_s: float = 0.0

    @property
    def most(self) -> int:
        """What it may come to: limits are checked against this."""
        return max([self.count, *(window.count for window in self.windows)])

    def now(self, now: datetime) -> int:
        found = [window.count for window in self.windows if window.open(now)]
        return max(found) if found else self.count


def read(count: object, windows: object, modified_s: float) -> Provisioned:
    """A stranger's values, checked. BadRequest names field, value and limit."""
    _whole("provisioned", count, 0, COUNT_MAX)
    if not isinstance(windows, list | tuple) or len(windows) > WINDOWS_MAX:
        raise BadRequest(f"windows: must be an array of at most {WINDOWS_MAX} maps")
    made = Provisioned(int(str(count)), tuple(_window(f"windows[{i}]", raw) for i, raw in enumerate(windows)), modified_s)
    if made.most == 0:
        raise BadRequest("provisioned: 0 in every window provisions nothing; give at least 1, or take it away")
    return made


def _whole(name: str, value: object, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BadRequest(f"{name}: {value!r} is no whole number of {low} to {high}"[:200])
    return value


def _window(at: str, raw: object) -> Window:
    if not isinstance(raw, dict) or not set(raw) <= set(WINDOW_KEYS) or not {"cron", "minutes", "count"} <= set(raw):
        raise BadRequest(f"{at}: must be a map of cron, minutes, count and, where it is not UTC, zone")
    cron, zone = raw["cron"], raw.get("zone", "UTC")
    minutes = _whole(f"{at}.minutes", raw["minutes"], 1, WINDOW_MINUTES_MAX)
    count = _whole(f"{at}.count", raw["count"], 0, COUNT_MAX)
    if not isinstance(cron, str) or len(cron) > CRON_CHARS_MAX:
        raise BadRequest(f"{at}.cron: must be text of at most {CRON_CHARS_MAX} characters")
    if len(cron.split()) != 5:
        raise BadRequest(f"{at}.cron: {cron!r} has no five fields: minute, hour, day of the month, month, day of the week")
    try:
        CronSim(cron, datetime(2026, 1, 1))
    except CronSimError as error:
        raise BadRequest(f"{at}.cron: {cron!r}: {error}") from None
    try:
        if not isinstance(zone, str) or not zone:
            raise ValueError
        zoneinfo.ZoneInfo(zone)
    except (ValueError, OSError):  # unknown zones are a kind of KeyError, below
        raise BadRequest(f"{at}.zone: {zone!r} is no time zone, as Europe/Berlin"[:200]) from None
    except zoneinfo.ZoneInfoNotFoundError:
        raise BadRequest(f"{at}.zone: {zone!r} is no time zone of this machine, as Europe/Berlin"[:200]) from None
    return Window(cron, minutes, count, zone)


def check_place(attached: Attached, qualifier: str) -> None:
    """An alias and the version it names cannot both have it. BadRequest."""
    alias = attached.aliases.get(qualifier)
    versions = {alias.version, *alias.weights} if alias is not None else {qualifier}
    for other in attached.provisioned:
        held = attached.aliases.get(other)
        theirs = {held.version, *held.weights} if held is not None else {other}
        if other != qualifier and versions & theirs:
            raise BadRequest(
                "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version: "
                f"{other} has it for {', '.join(sorted(versions & theirs))}",
                reason="provisioned",
            )


def total(attached: Attached, *, without: str | None = None) -> int:
    """What a function's configurations may come to."""
    return sum(config.most for qualifier, config in attached.provisioned.items() if qualifier != without)


def floors(attached: Attached, versions: Sequence[str], now: datetime) -> dict[str, int]:
    """Sandboxes to keep initialised by version, now. An alias shares its count between its versions as it shares calls, and
    each share is rounded up."""
    made: dict[str, int] = {}
    for qualifier, config in attached.provisioned.items():
        count = config.now(now)
        alias = attached.aliases.get(qualifier)
        weights: Mapping[str, float] = alias.weights if alias is not None else {}
        rest = 1.0 - sum(weights.values())
        shares = {**weights, alias.version: rest} if alias is not None else {qualifier: 1.0}
        for version, share in shares.items():
            if version in versions or version == LATEST:
                made[version] = made.get(version, 0) + math.ceil(round(count * share, 6))
    return {version: count for version, count in made.items() if count}


def shown(config: Provisioned) -> list[dict[str, Any]]:
    """Windows as they are given."""
    return [{"cron": w.cron, "minutes": w.minutes, "count": w.count, "zone": w.zone} for w in config.windows]
