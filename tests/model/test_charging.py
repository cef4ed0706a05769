"""What a call costs its function in virtual time: what the kernel says that it used, however long it took."""

from __future__ import annotations

from tests.model.core_binding import Act, Ev, Event, Resource, account_put, function_put
from tests.model.machine import MS, Node, S

SLOW, BRISK = 1 << 32, 1 << 32 | 1
USED_NS = 1 * MS
WAITING = 24


def test_a_call_is_charged_what_it_used_and_not_how_long_it_took() -> None:
    """Two functions of one weight take turns on one unit; each call uses 1 ms of CPU, but those of one take 20 ms. The kernel
    is asked just before each answer."""
    node = Node(ahead_max=1, calls_max=64, sandboxes_max=4)
    node.give(account_put(0, 0xFFFF, limits={Resource.CONCURRENCY: 1}), account_put(1, 0), account_put(2, 1), account_put(3, 1))
    node.give(*[function_put(f, a, timeout_ns=60 * S, queue_timeout_ns=60 * S) for f, a in ((SLOW, 2), (BRISK, 3))])
    used: dict[int, int] = {}
    served = {SLOW: 0, BRISK: 0}
    took = {SLOW: 20 * MS, BRISK: 1 * MS}
    for _ in range(WAITING):
        node.invoke(SLOW)
        node.invoke(BRISK)
    for _ in range(WAITING):
        for sandbox in [s for s in node.judge.sandboxes.values() if not s.ready_ns]:
            node.give(
                Event.of(Ev.READY, handle=sandbox.handle, init_ns=1000, tier=2), Event.of(Ev.USAGE, handle=sandbox.handle)
            )
        (busy,) = [s for s in node.judge.sandboxes.values() if s.ring]
        node.pass_time(took[busy.function])
        used[busy.handle] = used.get(busy.handle, 0) + USED_NS
        served[busy.function] += 1
        node.give(Event.of(Ev.USAGE, handle=busy.handle, cpu_ns=used[busy.handle]))
        assert any(a.kind == Act.ANSWER for a in node.reply(busy, run_ns=took[busy.function]))
    assert abs(served[SLOW] - served[BRISK]) <= 2, served
