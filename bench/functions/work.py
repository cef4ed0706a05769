"""Takes the time that its event says: {"cpu_us": N} of its own CPU time, {"wall_us": N} of busy waiting, {"sleep_ms": N};
or memory, {"eat_mb": N}."""

import time


def handler(event, context):  # noqa: ANN001, ANN201 - a user's handler has no annotations
    if cpu_us := event.get("cpu_us"):
        until = time.thread_time_ns() + cpu_us * 1000
        while time.thread_time_ns() < until:
            pass
    if wall_us := event.get("wall_us"):
        until = time.perf_counter_ns() + wall_us * 1000
        while time.perf_counter_ns() < until:
            pass
    if sleep_ms := event.get("sleep_ms"):
        time.sleep(sleep_ms / 1000)
    if eat_mb := event.get("eat_mb"):
        held = [b"x" * (1 << 20) for _ in range(eat_mb)]
        return len(held)
    return event
