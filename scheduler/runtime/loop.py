"""One call after the other, as docs/internals/channel.md has it.

serve() is the whole hot path: it is one long function, since a Python call costs more than most of its steps. Each round
takes one frame from the inbox. A CALL is claimed in the progress word, then the clock is read, and only then is it decided
whether it may still run; that order is what lets the service run it elsewhere. Answers gather in channel.answers and are
sent when

- no further whole frame is there, or
- the first of them has waited for 100 µs, or
- it took longer than 100 µs, or in the last 256 calls two within 64 of each other did, or one took longer than 10 ms: then
  nobody shall wait for an answer that is ready, or
- the answer is long, since gathering saves nothing then and costs memory, or
- a call was handed back and another one is about to run.

An answer that is to wait also goes onto the shelf of the shared page: should the next call take long, or kill the process, the
service finds it there.
"""

import os
import time
from collections.abc import Callable
from typing import Any

from . import messagepack
from .channel import Channel, Inbox
from .context import LambdaContext, client_context
from .faults import Fault, error_bytes, from_exception, text_of, too_large
from .frames import (
    CALL,
    CALL_HEAD,
    CALL_HEAD_BYTES,
    CALL_MSGPACK,
    EXTENSION_CLIENT_CONTEXT,
    EXTENSION_FUNCTION_ARN,
    EXTENSION_TENANT_ID,
    EXTENSION_TRACE,
    HANDBACK,
    HEADER_BYTES,
    PROGRESS_WORD,
    RESPONSE_BYTES_MAX,
    RESULT,
    RESULT_FUNCTION_ERROR,
    RESULT_HEAD,
    RESULT_MSGPACK,
    RESULT_TOO_LARGE,
    SHELF_BYTES_WORD,
    STOP,
    extensions,
    frame,
)
from .logs import failure_line
from .payloads import JsonWriter, from_json, scan_json, to_json

__all__ = ["Current", "serve"]

GATHER_NS = 100_000
SLOW_NS = 100_000
SLOW_MEMORY_CALLS = 256
SLOW_NEAR_CALLS = 64
LONG_NS = 10_000_000
LONG_ANSWER_BYTES = 16_384

# How far a call had come when something was raised; an int since it is set three times a call.
READING, RUNNING, WRITING = 0, 1, 2

_exit = os._exit
_monotonic_ns = time.monotonic_ns


class Current:
    """The call that runs, for whoever asks from outside the loop (the log's formatter)."""

    __slots__ = ("context",)

    def __init__(self) -> None:
        self.context: LambdaContext | None = None

    def request_id(self) -> str:
        return self.context.aws_request_id if self.context is not None else ""

    def tenant_id(self) -> str | None:
        return self.context.tenant_id if self.context is not None else None


class Special:
    """What a CALL brings beside a JSON payload: rare, so it is kept off the hot path. ValueError: the service's mistake."""

    __slots__ = ("arn", "client", "client_text", "msgpack", "tenant_id")

    def __init__(self, flags: int, block: bytes) -> None:
        found = extensions(block)
        arn = found.get(EXTENSION_FUNCTION_ARN)
        self.arn = arn.decode() if arn else None
        tenant_id = found.get(EXTENSION_TENANT_ID)
        self.tenant_id = tenant_id.decode() if tenant_id else None
        self.client: Any = None
        self.client_text = found.get(EXTENSION_CLIENT_CONTEXT)
        self.msgpack = bool(flags & CALL_MSGPACK)
        trace = found.get(EXTENSION_TRACE)
        if trace:
            os.environ["_X_AMZN_TRACE_ID"] = trace.decode()
        else:
            forget_trace()


def forget_trace() -> None:
    os.environ.pop("_X_AMZN_TRACE_ID", None)


def serve(
    channel: Channel,
    inbox: Inbox,
    end: int,
    shelf: "memoryview[int]",
    handler: Callable[[Any, Any], Any],
    context_type: type[LambdaContext],
    current: Current,
) -> None:
    """Run calls until STOP. end: bytes the inbox has already. shelf: the shared page behind its words.

    Closed: the service is gone. Whatever the handler raises beyond Exception (SystemExit, KeyboardInterrupt) comes through.
    """
    writer = JsonWriter()
    encode, answers, words, shelf_bytes = writer.encode, channel.answers, channel.words, len(shelf)
    unpack, pack, monotonic_ns = CALL_HEAD.unpack_from, RESULT_HEAD.pack, _monotonic_ns
    buffer, view, at = inbox.buffer, inbox.view, 0
    slow_seq = -SLOW_NEAR_CALLS - 1  # of the last slow call
    eager = 0  # calls left for which answers are sent at once
    gathered_ns = 0  # when the first waiting answer was ready; 0: none waits
    handed_back = traced = False
    event = response = context = text = pieces = None

    while True:
        # -- a whole frame
        payload_at = at + CALL_HEAD_BYTES
        next_at = at + HEADER_BYTES
        if next_at <= end:
            length, kind, flags, extra, seq, _, valid_until_ns, request_id = unpack(buffer, at)
            next_at += length
        if next_at > end:
            channel.flush()
            gathered_ns = 0
            # Nothing of the last call is held while this one waits, neither its memory nor its number.
            event = response = context = text = pieces = current.context = None
            end = inbox.more(at, end, next_at - at)
            buffer, view, at = inbox.buffer, inbox.view, 0
            continue
        at = next_at
        if kind != CALL:
            if kind == STOP:
                channel.flush()
                return
            raise ValueError(f"frame of kind {kind} from the service, expected {CALL} or {STOP}")

        # -- claim, then look
        words[PROGRESS_WORD] = seq
        start_ns = monotonic_ns()
        if valid_until_ns and start_ns > valid_until_ns:
            answers.append(frame(HANDBACK, seq=seq))
            handed_back = True
            continue

        # -- run
        if handed_back:  # these calls are wanted elsewhere now, not after this one
            channel.flush()
            handed_back = False
        special = None
        if extra or flags:
            special = Special(flags, bytes(view[payload_at : payload_at + extra]))
            payload_at += extra
            traced = True
        elif traced:
            forget_trace()
            traced = False
        current.context = context = context_type(request_id, start_ns, special)
        channel.seq = seq
        stage = READING
        result_flags = 0
        try:
            if special is None or not special.msgpack:
                text = str(view[payload_at:next_at], "utf-8")
                try:
                    event, stop = scan_json(text, 0)
                except StopIteration:
                    stop = -1
                if stop != len(text):
                    event = from_json(text) if text else {}  # Lambda: nothing sent is an empty object
            else:
                event = messagepack.unpack(bytes(view[payload_at:next_at]))
            if special is not None and special.client_text:
                stage = RUNNING
                special.client = client_context(special.client_text)

            stage = RUNNING
            response = handler(event, context)

            stage = WRITING
            if special is None or not special.msgpack:
                pieces = encode(response, 0)
                payload = "".join(pieces).encode()
            else:
                payload = messagepack.pack(response)
                result_flags = RESULT_MSGPACK
        except Exception as error:  # a stranger's code ran: whatever it raised is the call's answer
            if channel.forked:
                _exit(0)
            writer.reset()
            payload, result_flags = fail(channel, stage, error, response, context, special)
        if channel.forked:  # a child the handler forked came back here: the call is its parent's to answer
            _exit(0)
        if channel.output:
            channel.write_output()
        if len(payload) > RESPONSE_BYTES_MAX:
            payload, result_flags = too_large(), RESULT_TOO_LARGE

        # -- answer
        end_ns = monotonic_ns()
        channel.seq = 0
        answer = pack(len(payload) + 8, RESULT, result_flags, 0, seq, 0, start_ns, end_ns) + payload
        answers.append(answer)
        if end_ns - start_ns > SLOW_NS:
            # A slow call once in a while is the machine's doing (it was preempted), not the function's.
            near = seq - slow_seq <= SLOW_NEAR_CALLS or end_ns - start_ns > LONG_NS
            eager = SLOW_MEMORY_CALLS if near else eager or 1
            slow_seq = seq
        if eager:
            channel.flush()
            gathered_ns = 0
            eager -= 1
        elif len(answer) > LONG_ANSWER_BYTES or (gathered_ns and end_ns - gathered_ns > GATHER_NS):
            channel.flush()
            gathered_ns = 0
        else:
            if not gathered_ns:
                gathered_ns = end_ns
            shelf_at = words[SHELF_BYTES_WORD]
            shelf_end = shelf_at + len(answer)
            if shelf_end > shelf_bytes:
                channel.flush()
                gathered_ns = 0
            else:
                shelf[shelf_at:shelf_end] = answer
                words[SHELF_BYTES_WORD] = shelf_end  # only now is it there


def fail(
    channel: Channel, stage: int, error: Exception, response: Any, context: Any, special: Special | None
) -> tuple[bytes, int]:
    """Answer and flags of a call in which something was raised."""
    if stage == WRITING and not (special is not None and special.msgpack):
        try:
            return to_json(response), 0
        except Exception as refused:  # whatever a stranger's result raises when it is looked at
            error = refused
    if stage == READING:
        error = Fault("Runtime.UnmarshalError", f"Unable to unmarshal input: {text_of(error)}")
    elif stage == WRITING:
        error = Fault("Runtime.MarshalError", f"Unable to marshal response: {text_of(error)}")
    known = from_exception(error, context.aws_request_id)
    line = failure_line(known)
    if line:
        channel.print(line)
    return error_bytes(known), RESULT_FUNCTION_ERROR
