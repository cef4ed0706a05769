"""The connection's state machine: bytes in pieces of every size, late and wrong answers, answers that Python cannot hold."""

from __future__ import annotations

import itertools

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler import errors
from scheduler.client.session import FRAME_BYTES_MAX, MSGID_MAX, RECEIVE_BYTES, REQUEST_BYTES_MAX, Answer, Session


def answer(msgid: int, result=None, error=None) -> bytes:
    return msgpack.packb([1, msgid, error, result])


def begun(count: int) -> Session[str]:
    """A session with calls "1" … in flight."""
    session: Session[str] = Session()
    for number in range(1, count + 1):
        msgid, _ = session.encode("ping", [], str(number))
        assert msgid == number
    return session


def fed(session: Session[str], *pieces: bytes) -> list[tuple[str, object]]:
    return [(call, found.result) for piece in pieces for call, found in session.feed(piece)]


def test_a_request_is_the_specification_s_array():
    session: Session[str] = Session()
    msgid, data = session.encode("invoke", ["hello", b"{}"], "call")
    assert msgpack.unpackb(data) == [0, 1, "invoke", ["hello", b"{}"]]
    assert session.pending == {msgid: "call"}


STREAM = answer(2, "two") + answer(1, {"a": [1, b"x"]}) + answer(3, None)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 11, len(STREAM)])
def test_answers_in_any_order_and_in_pieces_of_any_size(size):
    session = begun(4)
    pieces = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    assert fed(session, *pieces) == [("2", "two"), ("1", {"a": [1, b"x"]}), ("3", None)]
    assert session.pending == {4: "4"}


@given(st.lists(st.integers(1, len(STREAM) - 1), max_size=6), st.binary(max_size=3))
def test_every_split_gives_the_same(cuts, trailing):
    edges = [0, *sorted(set(cuts)), len(STREAM)]
    session = begun(3)
    pieces = [STREAM[a:b] for a, b in itertools.pairwise(edges)]
    assert fed(session, *pieces) == [("2", "two"), ("1", {"a": [1, b"x"]}), ("3", None)]


@given(st.binary(max_size=200))
def test_any_bytes_give_answers_or_a_protocol_fault(data):
    session = begun(3)
    try:
        found = fed(session, data)
    except errors.ProtocolFault:
        return
    assert len(found) + len(session.pending) == 3


@given(st.binary(min_size=1, max_size=40), st.integers(0, 60))
def test_a_damaged_stream_never_raises_anything_else(noise, at):
    session = begun(3)
    damaged = STREAM[:at] + noise + STREAM[at + len(noise) :]
    try:
        found = fed(session, *[damaged[i : i + 4] for i in range(0, len(damaged), 4)])
    except errors.ProtocolFault:
        return
    assert len(found) + len(session.pending) == 3


def test_a_late_answer_is_dropped_and_counted():
    session = begun(2)
    assert msgpack.unpackb(session.forget(1)) == [2, "cancel", [1]]
    assert session.forget(1) == b""
    assert fed(session, answer(1, "late"), answer(2, "due")) == [("2", "due")]
    assert session.late_answers == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (answer(7, "never asked"), "request 7, which was never sent"),
        (answer(-1), "request -1"),
        (answer(2**40), "never sent"),
        (msgpack.packb([0, 1, "ping", []]), "not a MessagePack-RPC response"),
        (msgpack.packb([2, "note", []]), "not a MessagePack-RPC response"),
        (msgpack.packb([1, 1, None]), "not a MessagePack-RPC response"),
        (msgpack.packb([1, "1", None, 2]), "not a MessagePack-RPC response"),
        (msgpack.packb([1, True, None, 2]), "not a MessagePack-RPC response"),
        (msgpack.packb("HTTP/1.1 200 OK"), "not a MessagePack-RPC response"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "not a MessagePack-RPC response"),
        (b"\xc1", "not MessagePack"),
        (b"\x94\x01\x01\xc0" + b"\x91" * 5000 + b"\xc0", "not MessagePack"),
        (b"\xdd\xff\xff\xff\xff", "not MessagePack"),
    ],
)
def test_rubbish_ends_the_connection_with_the_reason(data, words):
    session = begun(1)
    with pytest.raises(errors.ProtocolFault, match=words):
        fed(session, data)


def test_an_error_with_id_0_says_what_the_service_found_broken():
    session = begun(1)
    refusal = answer(0, error={"type": "BadRequest", "message": "nesting deeper than 32"})
    with pytest.raises(errors.ProtocolFault, match="the service refused the connection: nesting deeper than 32"):
        fed(session, refusal)


UNREADABLE = [
    pytest.param(b"\x81\x91\x01\x02", id="map with an array as key"),
    pytest.param(b"\xc7\x0c\xff" + b"\xff" * 12, id="timestamp out of range"),
    pytest.param(b"\xc7\x03\xff\x00\x00\x00", id="timestamp of three bytes"),
]


@pytest.mark.parametrize("value", UNREADABLE)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_answer_python_cannot_hold_fails_its_own_call_alone(value, size):
    session = begun(3)
    stream = answer(3, "before") + b"\x94\x01\x02\xc0" + value + answer(1, "behind")
    found = [pair for at in range(0, len(stream), size) for pair in session.feed(stream[at : at + size])]
    assert [call for call, _ in found] == ["3", "2", "1"]
    assert found[0][1].result == "before"
    assert found[2][1].result == "behind"
    with pytest.raises(errors.BadAnswer, match="the answer to invoke cannot be read"):
        found[1][1].unwrap("invoke")


def test_text_that_is_no_utf_8_comes_back_byte_for_byte():
    session = begun(1)
    ((_, found),) = session.feed(b"\x94\x01\x01\xc0\xa3a\xffb")
    assert found.result.encode("utf-8", "surrogateescape") == b"a\xffb"


def test_a_frame_over_the_limit_ends_the_connection_before_it_is_held():
    session = begun(1)
    head = b"\x94\x01\x01\xc0\xc6" + (FRAME_BYTES_MAX * 2).to_bytes(4, "big")
    pieces = [head + bytes(RECEIVE_BYTES - len(head)), *[bytes(RECEIVE_BYTES)] * (FRAME_BYTES_MAX // RECEIVE_BYTES + 8)]
    with pytest.raises(errors.ProtocolFault, match="larger than"):
        fed(session, *pieces)


def test_a_request_over_the_limit_is_refused_here_for_it_would_cost_the_others_their_connection():
    session = begun(1)
    with pytest.raises(errors.TooLarge, match=f"over the limit of {REQUEST_BYTES_MAX:,}"):
        session.encode("invoke", ["hello", bytes(REQUEST_BYTES_MAX)], "big")
    assert session.pending == {1: "1"}


def test_what_cannot_be_encoded_registers_nothing():
    session = begun(1)
    for value in (object(), 2**70, "\ud800"):
        with pytest.raises((TypeError, OverflowError, UnicodeEncodeError)):
            session.encode("invoke", ["hello", {"v": value}], "bad")
    msgid, data = session.encode("ping", [], "good")
    assert (msgid, msgpack.unpackb(data)) == (2, [0, 2, "ping", []])


def test_ids_wrap_and_pass_over_those_in_flight():
    session = begun(2)
    session._next = MSGID_MAX
    last, _ = session.encode("ping", [], "last")
    again, _ = session.encode("ping", [], "again")
    assert (last, again) == (MSGID_MAX, 3)
    assert fed(session, answer(MSGID_MAX), answer(3), answer(4_000_000_000, "late, of the round before")) == [
        ("last", None),
        ("again", None),
    ]
    assert session.late_answers == 1


def test_an_error_map_becomes_its_typed_error():
    with pytest.raises(errors.Throttled) as caught:
        Answer({"type": "Throttled", "account": "node", "resource": "rate", "retry_after_ms": 7}, None).unwrap("invoke")
    assert (caught.value.account, caught.value.resource, caught.value.retry_after_ms) == ("node", "rate", 7)
    with pytest.raises(errors.SchedulerError):
        Answer("not even a map", None).unwrap("invoke")


def test_memory_held_for_reading_does_not_grow():
    session = begun(1)
    piece = b"".join(answer(1, bytes(1000)) for _ in range(1))
    for _ in range(1000):
        session.pending[1] = "again"
        assert len(fed(session, piece)) == 1
    assert sum(map(len, session._chunks)) == 0
