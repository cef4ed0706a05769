"""The RPC reader against an independent judge: the msgpack library takes frames apart, a page of Python says what they mean.

What msgpack cannot read the reader must not read either, both must agree on where a frame ends, and on each field of it. Frames
are made by msgpack as well, so that the encodings are those clients really send.
"""

from __future__ import annotations

import os
import random
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.engine.rpc_binding import FRAME_BYTES_MAX, Kind, Reader, Request, Verdict

LONG = int(os.environ.get("SCHED_HYPOTHESIS", "0"))
SETTINGS = settings(
    max_examples=LONG or 300,
    deadline=None,
    derandomize=not LONG,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

KINDS = {"sync": Kind.SYNC, "event": Kind.EVENT, "dryrun": Kind.DRYRUN}


class Refused(Exception):
    """What the reader should say: BAD or BROKEN, and the field that its error begins with."""

    def __init__(self, verdict: Verdict, field: str) -> None:
        super().__init__(field)
        self.verdict = verdict
        self.field = field


def bad(field: str) -> Refused:
    return Refused(Verdict.BAD, field)


def broken(field: str) -> Refused:
    return Refused(Verdict.BROKEN, field)


# ---- the judge -----------------------------------------------------------------------------------------------------------


def decoded(frame: bytes) -> Any:
    """Maps as lists of pairs (a key may be anything, and come twice), str that is no UTF-8 with surrogates in it."""
    return msgpack.unpackb(
        frame,
        raw=False,
        unicode_errors="surrogateescape",
        object_pairs_hook=lambda pairs: ("map", list(pairs)),
        strict_map_key=False,
    )


def is_int(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def text(value: Any, field: str, low: int, high: int) -> bytes:
    if not isinstance(value, str):
        raise bad(field)
    data = value.encode("utf-8", "surrogateescape")
    if not low <= len(data) <= high or any("\udc80" <= c <= "\udcff" for c in value):
        raise bad(field)
    return data


def option(key: str, value: Any) -> Any:
    field = f"options.{key}"
    if key == "type":
        if not isinstance(value, str) or value not in KINDS:
            raise bad(field)
        return KINDS[value]
    if key == "deadline_ms":
        if not is_int(value, 1, 86_400_000):
            raise bad(field)
        return value
    if key in ("report", "log_tail", "stream"):
        if not isinstance(value, bool):
            raise bad(field)
        return value
    if key == "client_context":
        if not isinstance(value, bytes) or len(value) > 3583:
            raise bad(field)
        return value
    if key == "trace":
        data = text(value, field, 0, 1024)
        if not all(0x20 <= byte <= 0x7E for byte in data):
            raise bad(field)
        return data
    if key == "idempotency_key":
        return text(value, field, 1, 128)
    if key == "request_id":
        if not isinstance(value, bytes) or len(value) != 16:
            raise bad(field)
        return value
    raise bad("options")


def options(value: Any) -> dict[str, Any]:
    if not (isinstance(value, tuple) and value[0] == "map"):
        raise bad("params[2] (options)")
    found: dict[str, Any] = {}
    for key, given_value in value[1]:
        if not isinstance(key, str):
            raise bad("options")
        if key in found:
            raise bad(f"options.{key}")
        found[key] = option(key, given_value)
    if "idempotency_key" in found and found.get("type") != Kind.EVENT:
        raise bad("options.idempotency_key")
    if found.get("stream") and found.get("type", Kind.SYNC) != Kind.SYNC:
        raise bad("options.stream")
    return found


def invoke(params: list[Any], notification: bool) -> dict[str, Any]:
    if notification:
        raise bad("method")
    if len(params) not in (2, 3):
        raise bad("params")
    expected: dict[str, Any] = {"verdict": Verdict.INVOKE, "function": text(params[0], "params[0] (function)", 1, 256)}
    payload = params[1]
    if isinstance(payload, (str, bytes)):
        data = payload.encode("utf-8", "surrogateescape") if isinstance(payload, str) else payload
        expected |= {"payload": data, "payload_msgpack": False}
    else:
        expected |= {"value": payload, "payload_msgpack": True}
    given_options = options(params[2]) if len(params) == 3 else {}
    tail = given_options.get("log_tail", False)
    return expected | {
        "kind": given_options.get("type", Kind.SYNC),
        "deadline_ms": given_options.get("deadline_ms", 0),
        "report": tail or given_options.get("report", False),
        "log_tail": tail,
        "stream": given_options.get("stream", False),
        "client_context": given_options.get("client_context"),
        "trace": given_options.get("trace"),
        "idempotency_key": given_options.get("idempotency_key"),
        "request_id": given_options.get("request_id"),
    }


def meaning(frame: Any) -> dict[str, Any]:
    """Fields of the request that a whole, well-formed MessagePack value is; raises Refused."""
    if not isinstance(frame, list) or len(frame) not in (3, 4):
        raise broken("frame")
    if not is_int(frame[0], 0, 2) or frame[0] == 1:
        raise broken("type")
    notification = frame[0] == 2
    if len(frame) != (3 if notification else 4):
        raise broken("frame")
    expected: dict[str, Any] = {"msgid": 0, "notification": notification}
    if not notification:
        if not is_int(frame[1], 0, 2**32 - 1):
            raise broken("msgid")
        expected["msgid"] = frame[1]
    method = text(frame[-2], "method", 1, 64)
    params = frame[-1]
    if not isinstance(params, list):
        raise bad("params")
    expected |= {"method": method, "decoded_params": params}
    if method == b"invoke":
        return expected | invoke(params, notification)
    if method == b"cancel":
        if not notification:
            raise bad("method")
        if len(params) != 1:
            raise bad("params")
        if not is_int(params[0], 0, 2**32 - 1):
            raise bad("params[0] (msgid)")
        return expected | {"verdict": Verdict.CANCEL, "cancel_msgid": params[0]}
    return expected | {"verdict": Verdict.METHOD}


def judged(frame: Any) -> dict[str, Any] | Refused:
    try:
        return meaning(frame)
    except Refused as refused:
        return refused


def depth_of(value: Any) -> int:
    if isinstance(value, tuple) and value[0] == "map":
        return 1 + max((depth_of(part) for pair in value[1] for part in pair), default=0)
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


def read_in_pieces(data: bytes, seed: int) -> Request:
    reader, choose, size = Reader(), random.Random(seed), 0
    while True:
        request = reader.give(data[:size])
        if request.verdict != Verdict.MORE or size == len(data):
            return request
        assert reader.need > size
        size = min(len(data), size + choose.choice((1, 1, 2, 7, 64, reader.need - size, len(data))))


def check(frame: bytes, request: Request) -> None:
    """The request is what the judge makes of this well-formed frame."""
    expected = judged(decoded(frame))
    if isinstance(expected, Refused):
        assert request.verdict == expected.verdict, request.error
        assert request.error.split(": ")[0] == expected.field
        assert request.size == (len(frame) if request.verdict == Verdict.BAD else 0)
        return
    assert request.verdict == expected.pop("verdict"), request.error
    assert request.params is not None
    assert decoded(request.params) == expected.pop("decoded_params")
    if "value" in expected:
        assert request.payload is not None
        assert decoded(request.payload) == expected.pop("value")
    assert {name: getattr(request, name) for name in expected} == expected
    assert (request.size, request.error) == (len(frame), "")


# ---- frames that are nearly right ----------------------------------------------------------------------------------------

numbers = st.one_of(
    st.integers(0, 127),
    st.sampled_from([-(2**63), -129, -33, -1, 128, 2**16, 2**32 - 1, 2**32, 2**64 - 1, 86_400_000, 86_400_001]),
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    numbers,
    st.floats(allow_nan=False, width=32),
    st.text(max_size=40),
    st.binary(max_size=40),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=20), st.dictionaries(st.one_of(st.text(max_size=9), numbers), inner, max_size=4)
    ),
    max_leaves=25,
)


def pick(draw: st.DrawFn, *weighted: tuple[int, st.SearchStrategy[Any]]) -> Any:
    """One of them by weight; st.one_of() takes a strategy that is given twice as one."""
    index = draw(st.sampled_from([i for i, (weight, _) in enumerate(weighted) for _ in range(weight)]))
    return draw(weighted[index][1])


def mostly(draw: st.DrawFn, usual: st.SearchStrategy[Any], rare: st.SearchStrategy[Any] = values) -> Any:
    return pick(draw, (20, usual), (1, rare))


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=70)
payloads = st.one_of(values, st.binary(max_size=300), st.text(max_size=100))
printable = st.text(st.characters(min_codepoint=32, max_codepoint=126))
usual_options = {
    "type": st.sampled_from(["event", "sync", "dryrun", "event"]),
    "deadline_ms": st.integers(1, 86_400_000),
    "report": st.booleans(),
    "log_tail": st.booleans(),
    "stream": st.booleans(),
    "client_context": st.one_of(st.binary(max_size=60), st.just(b"c" * 3583)),
    "trace": st.one_of(printable, st.just("t" * 1024)),
    "idempotency_key": st.one_of(st.text(min_size=1, max_size=40), st.just("k" * 128)),
    "request_id": st.binary(min_size=16, max_size=16),
}
rare_options = st.one_of(values, st.sampled_from([b"c" * 3584, "t" * 1025, "\n", "", "k" * 129, 0, 86_400_001]))


@st.composite
def some_options(draw: st.DrawFn) -> Any:
    keys = draw(st.lists(st.sampled_from([*usual_options]), unique=True))
    found = {key: mostly(draw, usual_options[key], rare_options) for key in keys}
    if found.get("type") != "event" and draw(st.integers(0, 9)) < 9:
        found.pop("idempotency_key", None)
    if draw(st.integers(0, 19)) == 7:
        found[draw(names)] = draw(values)
    return found


@st.composite
def calls(draw: st.DrawFn) -> list[Any]:
    """Method and params."""
    kind = pick(draw, (12, st.just("invoke")), (2, st.just("cancel")), (3, st.just("other")))
    if kind == "invoke":
        params = [mostly(draw, names), draw(payloads), mostly(draw, some_options())][: draw(st.sampled_from([3, 3, 2]))]
        return [kind, mostly(draw, st.just(params), st.lists(values, max_size=5))]
    if kind == "cancel":
        return [kind, mostly(draw, st.lists(numbers, min_size=1, max_size=1), st.lists(values, max_size=2))]
    return [mostly(draw, names), mostly(draw, st.lists(values, max_size=3))]


@st.composite
def frames(draw: st.DrawFn) -> Any:
    if draw(st.integers(0, 19)) == 7:
        return [draw(values), *draw(st.lists(values, max_size=5))]
    call = draw(calls())
    if (call[0] == "cancel") != (draw(st.integers(0, 9)) == 7):
        return [2, *call]
    return [0, mostly(draw, st.integers(0, 2**32 - 1)), *call]


@pytest.mark.slow
@SETTINGS
@given(frame=frames(), floats=st.booleans(), behind=st.binary(max_size=9), seed=st.integers(0, 2**32))
@example(frame=[0, 1, "invoke", ["hello", b"{}"]], floats=False, behind=b"", seed=0)
@example(frame=[0, 1, "invoke", ["f" * 256, "x" * 70_000]], floats=False, behind=b"\xc1", seed=1)
@example(frame=[0, 1, "invoke", ["f" * 257, b""]], floats=False, behind=b"", seed=2)
def test_frames_mean_what_the_judge_says(frame: Any, floats: bool, behind: bytes, seed: int) -> None:
    packed = msgpack.packb(frame, use_single_float=floats)
    whole = Reader().give(packed)
    check(packed, whole)
    assert Reader().give(packed + behind) == whole
    assert read_in_pieces(packed + behind, seed) == whole


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Frames behind each other with some bytes changed, left out or put in."""
    data = bytearray().join(msgpack.packb(frame) for frame in draw(st.lists(frames(), min_size=1, max_size=2)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


@pytest.mark.slow
@SETTINGS
@given(data=st.one_of(damaged(), damaged(), st.binary(max_size=60)), seed=st.integers(0, 2**32))
def test_any_bytes_end_where_the_judge_says(data: bytes, seed: int) -> None:
    request = Reader().give(data)
    assert read_in_pieces(data, seed) == request
    judge = msgpack.Unpacker(max_buffer_size=0)
    judge.feed(data)
    try:
        judge.skip()
    except msgpack.OutOfData:
        # Not whole: more is wanted, unless its beginning is already wrong.
        assert request.verdict in (Verdict.MORE, Verdict.BROKEN)
        return
    except ValueError:
        assert request.verdict == Verdict.BROKEN, "not MessagePack"
        return
    frame = data[: judge.tell()]
    if request.error.startswith("frame: nested deeper"):
        assert depth_of(decoded(frame)) > 32
        return
    check_if_decodable(frame, request)


def check_if_decodable(frame: bytes, request: Request) -> None:
    try:
        decoded(frame)
    except ValueError:
        # A timestamp extension that is none: well-formed all the same, and nobody's business here.
        assert request.verdict == Verdict.BROKEN or request.size == len(frame)
        return
    check(frame, request)


@pytest.mark.parametrize("levels", [1, 29, 30, 31, 60, 400])
def test_depth(levels: int) -> None:
    value: Any = None
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    packed = msgpack.packb([0, 7, "invoke", ["f", value]])
    request = Reader().give(packed)
    if levels + 2 <= 32:
        check(packed, request)
    else:
        assert (request.verdict, request.msgid) == (Verdict.BROKEN, 7)
        assert "nested deeper than 32" in request.error


@pytest.mark.parametrize(
    "announced",
    [
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\x10\x00\x00\x00",
        b"\xdd\x01\x00\x00\x00",
        b"\xdf\x00\x80\x00\x00",
        b"\xc9\x7f\xff\xff\xff\x01",
    ],
)
def test_what_cannot_fit_is_refused_when_it_is_announced(announced: bytes) -> None:
    head = msgpack.packb([0, 7, "invoke", ["f", None]])[:-1]
    request = Reader().give(head + announced)
    assert (request.verdict, request.too_large, request.msgid) == (Verdict.BROKEN, True, 7)
    assert str(FRAME_BYTES_MAX) in request.error


def test_largest_payload_comes_through_byte_for_byte() -> None:
    payload = random.Random(1).randbytes(6 * 1024 * 1024)
    packed = msgpack.packb([0, 2**32 - 1, "invoke", ["hello", payload, {"report": True}]])
    reader = Reader()
    for size in range(0, len(packed), 1 << 20):
        assert reader.give(packed[:size]).verdict == Verdict.MORE
    request = reader.give(packed)
    assert (request.verdict, request.payload, request.report) == (Verdict.INVOKE, payload, True)


def test_a_stream_of_many_frames() -> None:
    calls = [[0, i, "invoke", [f"f{i % 7}", b"x" * (i % 300)]] for i in range(500)]
    stream = b"".join(map(msgpack.packb, calls))
    at, reader, seen = 0, Reader(), []
    while at < len(stream):
        request = reader.give(stream[at : at + 4096])
        assert request.verdict == Verdict.INVOKE
        assert request.function is not None
        seen.append([0, request.msgid, "invoke", [request.function.decode(), request.payload]])
        at += request.size
    assert seen == calls
