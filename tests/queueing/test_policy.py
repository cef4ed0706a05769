"""Lambda's rules for asynchronous invocations, as a table."""

from __future__ import annotations

import pytest

from scheduler.errors import BadRequest, FunctionError, NotFound, SandboxDied, Throttled, Timeout, Unavailable
from scheduler.queueing.policy import AGE_S_MAX, Condition, Dropped, Finished, Retry, State, decide, is_expired

FULL = Throttled(account="node", resource="concurrency", current=5, limit=5)
OFF = Throttled(account="function:f", resource="concurrency", current=0, limit=0)

ROWS = (
    (None, State(), 0, Finished()),
    (None, State(failures=2), AGE_S_MAX + 1, Finished()),
    (FunctionError(), State(), 0, Retry(60, State(failures=1))),
    (Timeout(), State(failures=1), 60, Retry(120, State(failures=2))),
    (SandboxDied(), State(failures=2), 180, Dropped(Condition.RETRIES_EXHAUSTED)),
    (FunctionError(), State(failures=1), AGE_S_MAX - 119, Dropped(Condition.EVENT_AGE_EXCEEDED)),
    (FunctionError(), State(failures=1), AGE_S_MAX - 120, Retry(120, State(failures=2))),
    (FULL, State(), 0, Retry(1, State(throttles=1))),
    (FULL, State(failures=1, throttles=3), 0, Retry(8, State(failures=1, throttles=4))),
    (Unavailable(), State(throttles=50), 0, Retry(300, State(throttles=51))),
    (FULL, State(throttles=50), AGE_S_MAX - 299, Dropped(Condition.EVENT_AGE_EXCEEDED)),
    (FunctionError(), State(throttles=9), 0, Retry(60, State(failures=1))),
    (OFF, State(), 0, Dropped(Condition.ZERO_RESERVED_CONCURRENCY)),
    (NotFound(), State(), 0, Dropped(Condition.FUNCTION_GONE)),
    (BadRequest(), State(), 0, Dropped(Condition.REFUSED)),
)


@pytest.mark.parametrize(("error", "state", "age_s", "outcome"), ROWS)
def test_rules(error, state, age_s, outcome):
    assert decide(error, state, age_s=age_s) == outcome


def test_what_was_let_lie_too_long_is_not_tried():
    assert not is_expired(AGE_S_MAX)
    assert is_expired(AGE_S_MAX + 0.001)


def test_a_throttled_event_is_tried_for_six_hours_and_no_longer():
    state, age_s, attempts = State(), 0.0, 0
    while isinstance(outcome := decide(FULL, state, age_s=age_s), Retry):
        state, age_s, attempts = outcome.state, age_s + outcome.delay_s, attempts + 1
    assert outcome == Dropped(Condition.EVENT_AGE_EXCEEDED)
    assert AGE_S_MAX - 300 < age_s <= AGE_S_MAX
    assert 70 < attempts < 90
