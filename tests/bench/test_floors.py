"""The floors that ratios are taken against: the relay, the bare loop, and the sandbox in C that keeps the channel's rules."""

import os
import socket
import struct
import subprocess
import time

import pytest

from bench import programs

HEADER = struct.Struct("<IBBHIIQ")
PAGE_BYTES, SHELF_AT = 32_768, 64
START, CALL, STOP, RESULT, READY, HANDBACK = 1, 2, 3, 16, 18, 20


def test_the_relay_measures_round_trips(tmp_path):
    payload = programs.payload_file(tmp_path, 100)
    done = programs.relay(payload, duration_ms=50, pins=(0, 0, 0))
    assert done["bytes"] == 100
    assert done["calls"] > 100
    assert 0 < done["p50_us"] <= done["p99_us"] <= done["max_us"]
    assert done["per_s"] == pytest.approx(done["calls"] / done["seconds"], rel=1e-3)


@pytest.mark.slow
def test_the_relay_with_python_answers_the_same_bytes(tmp_path):
    done = programs.relay(programs.payload_file(tmp_path, 100), duration_ms=100, python_worker=True)
    assert done["calls"] > 100


@pytest.mark.slow
def test_the_bare_loop_costs_cpu(tmp_path):
    done = programs.bare_loop(programs.payload_file(tmp_path, 100), seconds=0.1)
    assert done["calls"] > 1000
    assert 0.5 < done["cpu_us"] <= done["wall_us"] * 1.05


class Sandbox:
    def __init__(self, *words):
        self.channel, theirs = socket.socketpair()
        self.progress = os.memfd_create("progress")
        os.ftruncate(self.progress, PAGE_BYTES)
        fds = (theirs.fileno(), self.progress)
        command = [programs.build("echo_worker"), "--channel", str(fds[0]), "--progress", str(fds[1]), *words]
        self.process = subprocess.Popen(command, pass_fds=fds)
        theirs.close()
        self.buffer = b""
        self.channel.settimeout(5)

    def send(self, *frames):
        self.channel.sendall(b"".join(frames))

    def read(self):
        while len(self.buffer) < HEADER.size or len(self.buffer) < HEADER.size + HEADER.unpack_from(self.buffer)[0]:
            data = self.channel.recv(1 << 20)
            assert data, "the sandbox has gone"
            self.buffer += data
        length, kind, flags, _, seq, _, time_ns = HEADER.unpack_from(self.buffer)
        body = self.buffer[HEADER.size : HEADER.size + length]
        self.buffer = self.buffer[HEADER.size + length :]
        return kind, flags, seq, time_ns, body

    def claimed(self):
        return int.from_bytes(os.pread(self.progress, 8, 0), "little")

    def shelf(self):
        """Generation and bytes of what waits."""
        return struct.unpack("<QQ", os.pread(self.progress, 16, 8))

    def close(self):
        self.channel.close()
        os.close(self.progress)
        return self.process.wait(5)


def frame(kind, body=b"", seq=0, time_ns=0, extra=0, flags=0):
    return HEADER.pack(len(body), kind, flags, extra, seq, 0, time_ns) + body


def call(seq, payload, *, valid_until=0, extensions=b"", flags=0):
    return frame(CALL, bytes(16) + extensions + payload, seq, valid_until, len(extensions), flags)


@pytest.fixture
def sandbox():
    box = Sandbox()
    yield box
    box.close()


def test_it_starts_echoes_in_order_and_stops(sandbox):
    sandbox.send(frame(START, b"{}"))
    assert sandbox.read()[0] == READY
    before = time.monotonic_ns()
    sandbox.send(*(call(seq, b"payload %d" % seq) for seq in range(1, 200)))
    for seq in range(1, 200):
        kind, flags, answered, start_ns, body = sandbox.read()
        assert (kind, flags, answered, body[8:]) == (RESULT, 0, seq, b"payload %d" % seq)
        assert before <= start_ns <= int.from_bytes(body[:8], "little") <= time.monotonic_ns()
    assert sandbox.claimed() == 199
    sandbox.send(frame(STOP))
    assert sandbox.process.wait(5) == 0


def test_a_call_that_is_too_late_is_handed_back_and_claimed_first(sandbox):
    sandbox.send(frame(START, b"{}"), call(1, b"a"), call(2, b"b", valid_until=1), call(3, b"c", valid_until=2**63))
    assert [sandbox.read()[::2][:2] for _ in range(4)] == [(READY, 0), (RESULT, 1), (HANDBACK, 2), (RESULT, 3)]
    assert sandbox.claimed() == 3


def test_extensions_are_not_payload_and_msgpack_stays_msgpack(sandbox):
    sandbox.send(frame(START, b"{}"), call(9, b"\x93\x01\x02\x03", extensions=b"\x01\x00\x04\x00text", flags=1))
    sandbox.read()
    kind, flags, seq, _, body = sandbox.read()
    assert (kind, flags, seq, body[8:]) == (RESULT, 1, 9, b"\x93\x01\x02\x03")


def test_what_was_sent_is_off_the_shelf_and_its_places_are_of_another_generation(sandbox):
    sandbox.send(frame(START, b"{}"))
    sandbox.read()
    seq = 0
    while sandbox.shelf()[0] == 0:  # a batch that was preempted may have gathered nothing
        assert seq < 10_000, "no answer was ever shelved"
        sandbox.send(*(call(seq + i, b"x" * 100) for i in range(1, 21)))
        for i in range(1, 21):
            assert sandbox.read()[2] == seq + i
        seq += 20
    sandbox.send(frame(STOP))
    assert sandbox.process.wait(5) == 0
    assert sandbox.shelf()[1] == 0
    length, kind, _, _, first, _, _ = HEADER.unpack(os.pread(sandbox.progress, HEADER.size, SHELF_AT))
    assert (kind, length) == (RESULT, 108)  # the frame itself, as it went over the channel
    assert 1 <= first <= seq


def test_large_payloads_pass(sandbox):
    payload = os.urandom(1 << 20) * 6
    sandbox.send(frame(START, b"{}"))
    sandbox.read()
    sandbox.channel.settimeout(10)
    sandbox.send(call(1, payload))
    assert sandbox.read()[4][8:] == payload


def test_the_end_of_the_channel_is_its_end(sandbox):
    sandbox.send(frame(START, b"{}"))
    sandbox.read()
    sandbox.channel.shutdown(socket.SHUT_RDWR)
    assert sandbox.process.wait(5) == 0
