"""The load generator itself: a benchmark's figures are worth what its instrument is.

It runs against a server that misbehaves on purpose and in known amounts, and must report those amounts.
"""

import socket
import subprocess
import threading
from math import ceil

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import programs
from bench.programs import load, null_server, payload_file, stream


@pytest.fixture(scope="module", autouse=True)
def built():
    for name in ("load", "null_server", "histogram_probe"):
        programs.build(name)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "server.sock"


def probe(values, *quantiles):
    out = subprocess.run(
        [programs.build("histogram_probe"), *map(str, quantiles)],
        input="\n".join(map(str, values)),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return [int(x) for x in out[:-2]], float(out[-2]), float(out[-1])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 10**9), min_size=1, max_size=300))
def test_a_quantile_is_off_by_at_most_half_a_bucket(values):
    quantiles = (0.01, 0.5, 0.9, 0.99, 1)
    (*measured, count, low, high), mean, worst = probe(values, *quantiles)
    assert (count, low, high) == (len(values), min(values), max(values))
    assert mean == pytest.approx(sum(values) / len(values), rel=1e-9, abs=1e-6)  # it is written with six digits
    assert worst <= 1 / 256
    for quantile, value in zip(quantiles, measured, strict=True):
        exact = sorted(values)[max(0, ceil(quantile * len(values)) - 1)]
        assert value == pytest.approx(exact, rel=1 / 256)


def test_every_octave_has_its_buckets():
    values = [v for bit in range(64) for v in ((1 << bit) - 1, 1 << bit, (1 << bit) + (1 << bit) // 2)]
    assert probe(values)[2] <= 1 / 256


def test_a_closed_loop_counts_every_call_once(path):
    with null_server(path):
        done = load(path, stream(function="echo", connections=3, inflight=7), count=5000, warmup_ms=0)
    assert done.only.ok == done.only.sent
    assert 5000 <= done.only.ok <= 5000 + 3 * 7
    assert (done.only.failed, done.only.mismatched, done.only.unanswered, done.cut) == (0, 0, 0, 0)
    assert done.only.latency.count == done.only.ok
    assert done.only.ok_per_s == pytest.approx(5000 / done.only.seconds, rel=0.01)


def test_one_connection_without_epoll_and_with_spinning_counts_the_same(path):
    with null_server(path):
        for spin in (False, True):
            done = load(path, stream(function="echo"), count=300, warmup_ms=0, spin=spin)
            assert done.only.ok == 300


def test_an_open_loop_sends_what_its_schedule_says(path):
    with null_server(path):
        done = load(path, stream(mode="open", rate=5000, function="echo"), duration_ms=150, warmup_ms=50)
    # 5,000 a second for 150 ms, give or take the one at each edge
    assert done.only.sent + done.only.unsent == pytest.approx(750, abs=1)
    assert done.only.lateness.count == done.only.sent


def test_a_poisson_schedule_is_a_function_of_its_seed_alone(path):
    def due(seed):
        done = load(
            path, stream(mode="open", rate=8000, arrival="poisson", function="echo"), duration_ms=100, warmup_ms=0, seed=seed
        )
        return done.only.sent + done.only.unsent

    with null_server(path):
        first = due(7)
        assert due(7) == first
        assert {due(seed) for seed in (8, 9, 10)} != {first}
        assert first == pytest.approx(800, abs=5 * 800**0.5)


STALL_MS = 120


def test_a_stall_is_charged_to_every_call_that_was_due_in_it(path):
    """No coordinated omission: at 1,000 calls a second a stall of 120 ms delays 120 calls, by 120, 119, 118 … ms."""
    with null_server(path, stall_every_ms=40, stall_ms=STALL_MS):
        done = load(path, stream(mode="open", rate=1000, function="echo"), duration_ms=150, warmup_ms=0)
    # One stall begins at 40 ms and lasts to 160 ms: the 110 calls due between are delayed, whoever sent them.
    # The bounds are those from below: where others compute it is late for more calls than these, and some are never sent.
    at = done.only
    assert at.ok == at.sent
    assert at.sent + at.unsent == 150
    assert at.latency.max >= (STALL_MS - 2) * 1000
    # Half of all calls waited more than 45 ms; a generator that waits for answers would have seen one such call in 40.
    assert at.latency.p50 >= 30_000
    assert at.latency.mean >= sum(range(10, 120)) / 150 * 1000 * 0.75


def test_a_closed_loop_hides_the_same_stall(path):
    """The contrast that the test above exists for."""
    with null_server(path, stall_every_ms=40, stall_ms=STALL_MS):
        done = load(path, stream(function="echo"), duration_ms=150, warmup_ms=0)
    assert done.only.latency.max >= (STALL_MS - 2) * 1000
    assert done.only.latency.p99 < 20_000


def test_a_full_connection_does_not_move_the_schedule(path):
    """At most 10 calls may be outstanding; those due meanwhile leave late and their waiting counts from when they were due."""
    with null_server(path, stall_every_ms=30, stall_ms=100):
        done = load(path, stream(mode="open", rate=1000, function="echo", outstanding=10), duration_ms=190, warmup_ms=0)
    at = done.only
    # Stalls from 30 to 130 ms and from 160 to 260 ms: some 90 calls leave late, some 20 never do before the end at 190 ms.
    assert at.late >= 75
    assert at.unsent >= 8
    assert at.latency.count == at.sent + at.unsent == 190
    assert at.latency.p50 >= 20_000


def test_calls_never_answered_are_counted_with_the_time_they_waited(path):
    with null_server(path, drop_every=10):
        done = load(path, stream(mode="open", rate=2000, function="echo"), duration_ms=100, warmup_ms=0, drain_ms=60)
    assert done.only.unanswered == done.only.sent // 10 > 0  # on a loaded machine the last of 200 are not sent in time
    assert done.only.latency.count == 200
    assert done.only.latency.max >= 60_000


def test_an_echo_that_differs_in_one_bit_is_seen(path):
    with null_server(path, garble_every=4):
        done = load(path, stream(function="echo", inflight=4), count=400, warmup_ms=0)
    assert done.only.mismatched == pytest.approx(100, abs=2)


def test_refusals_are_told_by_type_and_are_no_successes(path):
    with null_server(path):
        done = load(path, stream(function="echo*3+refuse", inflight=8), count=4000, warmup_ms=0)
    at = done.only
    assert at.errors == {"Throttled": at.failed}
    assert at.failed / (at.ok + at.failed) == pytest.approx(0.25, abs=0.05)
    assert at.latency.count == at.ok


def test_streams_keep_apart_and_start_and_stop_when_told(path):
    with null_server(path):
        done = load(
            path,
            stream(name="all", mode="open", rate=1000, function="echo"),
            stream(name="part", mode="open", rate=10000, function="refuse", start_ms=50, stop_ms=100),
            stream(name="quiet", mode="idle", connections=20),
            duration_ms=150,
            warmup_ms=0,
            series_ms=50,
        )
    assert done.streams["all"].ok == 150
    assert done.streams["part"].failed == pytest.approx(500, abs=1)
    assert done.streams["part"].series[0]["failed"] == 0
    assert sum(part["ok"] for part in done.streams["all"].series) == 150
    assert done.streams["quiet"].sent == 0


def test_payloads_are_mixed_by_weight_and_told_apart(path, tmp_path):
    file = payload_file(tmp_path, 1000)
    assert file.stat().st_size == 1000
    with null_server(path):
        done = load(path, stream(function="echo", payload=f"@{file}*3+100000", inflight=4), count=2000, warmup_ms=0)
    small, large = done.only.kinds
    assert (small["payload_bytes"], large["payload_bytes"]) == (1000, 100000)
    assert small["latency_us"]["count"] / large["latency_us"]["count"] == pytest.approx(3, rel=0.25)
    assert done.only.mismatched == 0


def test_six_megabytes_go_and_come(path):
    with null_server(path):
        done = load(path, stream(function="echo", payload=6_000_000, inflight=2), count=6, warmup_ms=0)
    assert done.only.ok >= 6
    assert done.only.mismatched == 0


def test_a_server_that_hangs_up_fails_what_was_outstanding(path):
    with null_server(path) as server:
        running = programs.start_load(path, [stream(function="echo", inflight=5)], duration_ms=5000, warmup_ms=0)
        server.stdout, stdout = None, server.stdout
        threading.Timer(0.05, server.kill).start()
        done = running.result()
        stdout.close()
    assert done.only.errors == {"ConnectionClosed": 5}
    assert done.cut == 1


class Pedant:
    """Answers in reverse order, a few bytes at a time, with everything a response may contain."""

    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def answer(self, request):
        _, msgid, method, (function, payload, *_rest) = request
        assert (method, function) == ("invoke", "echo")
        if msgid % 4 == 3:
            report = {"a": [1, -1, 2**40, 1.5, None, True, b"x" * 300, "y" * 70000], "b": {"c": msgpack.ExtType(5, b"1234567")}}
            return msgpack.packb([1, msgid, {"report": report, "type": "FunctionError", "message": "m" * 40}, None])
        return msgpack.packb([1, msgid, None, [payload, {"queue_us": 1.5, "tail": "z" * 40}]])

    def serve(self):
        peer, _ = self.listener.accept()
        unpacker = msgpack.Unpacker(raw=False)
        with peer:
            while data := peer.recv(65536):
                unpacker.feed(data)
                out = b"".join(self.answer(request) for request in reversed(list(unpacker)))
                for at in range(0, len(out), 4999):
                    peer.sendall(out[at : at + 4999])

    def __exit__(self, *exc):
        self.thread.join()
        self.listener.close()

    def __enter__(self):
        return self


def test_answers_in_any_order_and_any_pieces_are_understood(path):
    with Pedant(path):
        done = load(path, stream(function="echo", inflight=16), count=200, warmup_ms=0)
    at = done.only
    assert at.mismatched == 0
    assert set(at.errors) == {"FunctionError"}
    assert at.ok + at.failed == at.sent >= 200


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--unix", "x", "--tcp", "y", "--stream", "function=a"], "one of --unix and --tcp"),
        (["--unix", "x"], "--stream is missing"),
        (["--unix", "x", "--stream", "mode=open,function=a"], "needs rate"),
        (["--unix", "x", "--stream", "inflight=0,function=a"], "inflight: '0' is not a whole number in 1 .."),
        (["--unix", "x", "--stream", "colour=red"], "no key 'colour'"),
        (["--unix", "/nowhere/x", "--stream", "function=a"], "cannot connect to /nowhere/x"),
        (["--frobnicate", "1"], "--frobnicate: unknown"),
    ],
)
def test_a_wrong_word_is_named(words, says):
    done = subprocess.run([programs.build("load"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stdout == ""
