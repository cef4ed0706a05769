"""What becomes of an asynchronous invocation after an attempt. Lambda's rules, as one pure function.

Law of this file: a table and arithmetic; it reads no clock and calls nobody.

- The function failed (error, timeout, died): again after 1 minute, and once more after 2 minutes; then it is dropped.
- It could not be run (throttled, no room, service trouble): again after 1 s, 2 s, 4 s … 5 minutes; does not count as a try.
- A function whose reserved concurrency is 0 is switched off: dropped at once.
- Whatever would be tried again past the event's age of 6 hours is dropped now. What has passed it before it could be tried, as
  when the service was down, is dropped without a try.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scheduler.errors import SchedulerError

__all__ = ["AGE_S_MAX", "Condition", "Dropped", "Finished", "Outcome", "Retry", "State", "decide", "is_expired"]

AGE_S_MAX = 21_600.0
FUNCTION_RETRY_DELAYS_S = (60.0, 120.0)
THROTTLE_FIRST_S = 1.0
THROTTLE_MAX_S = 300.0


class Condition(Enum):
    """Why an event was dropped, in Lambda's words where it has one; the names in small letters are a metric's."""

    RETRIES_EXHAUSTED = "RetriesExhausted"
    EVENT_AGE_EXCEEDED = "EventAgeExceeded"
    ZERO_RESERVED_CONCURRENCY = "ZeroReservedConcurrency"
    FUNCTION_GONE = "FunctionGone"
    RECURSIVE_INVOCATION = "RecursiveInvocation"
    REFUSED = "Refused"


@dataclass(frozen=True, slots=True)
class State:
    """Of one event between attempts: how often the function failed, how often it could not be run in a row."""

    failures: int = 0
    throttles: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    pass


@dataclass(frozen=True, slots=True)
class Retry:
    delay_s: float
    state: State


@dataclass(frozen=True, slots=True)
class Dropped:
    condition: Condition


Outcome = Finished | Retry | Dropped

_FUNCTION_FAILED = frozenset({"FunctionError", "Timeout", "SandboxDied", "InitFailed", "TooLarge"})
_COULD_NOT_RUN = frozenset({"Throttled", "Unavailable", "DeadlineExceeded", "Internal", "Cancelled"})


def is_expired(age_s: float) -> bool:
    """The event is too old to be tried at all."""
    return age_s > AGE_S_MAX


def decide(error: SchedulerError | None, state: State, *, age_s: float) -> Outcome:
    """error None: the attempt succeeded. age_s: of the event, now."""
    if error is None:
        return Finished()
    if error.type == "Throttled" and error.limit == 0 and (error.account or "").startswith("function:"):
        return Dropped(Condition.ZERO_RESERVED_CONCURRENCY)
    if error.type in _FUNCTION_FAILED:
        if state.failures >= len(FUNCTION_RETRY_DELAYS_S):
            return Dropped(Condition.RETRIES_EXHAUSTED)
        delay_s = FUNCTION_RETRY_DELAYS_S[state.failures]
        after = State(failures=state.failures + 1)
    elif error.type in _COULD_NOT_RUN:
        delay_s = min(THROTTLE_MAX_S, THROTTLE_FIRST_S * 2.0 ** min(state.throttles, 16))
        after = State(failures=state.failures, throttles=state.throttles + 1)
    elif error.type == "NotFound":
        return Dropped(Condition.FUNCTION_GONE)
    elif error.type == "RecursiveInvocation":
        return Dropped(Condition.RECURSIVE_INVOCATION)
    else:
        return Dropped(Condition.REFUSED)
    if age_s + delay_s > AGE_S_MAX:
        return Dropped(Condition.EVENT_AGE_EXCEEDED)
    return Retry(delay_s, after)
