"""One sandbox from its first frame to its end: START, the function's init, READY, calls, and how to leave."""

import atexit
import gc
import mmap
import os
import signal
import time
from typing import Any, NoReturn

from .channel import Channel, Closed, Inbox
from .context import LambdaContext
from .faults import error_bytes, from_exception
from .frames import HEADER, HEADER_BYTES, INIT_ERROR, PAGE_BYTES, SHELF_AT, START, frame
from .handlers import find_handler
from .logs import failure_line, set_up_logging
from .loop import Current, serve
from .snapshots import NOT_FORKED, TAKE, answer_maker, ready_frame
from .startup import Start, enter, parse_start

__all__ = ["run"]

INIT_FAILED_STATUS = 1
# Out of the way of code that closes low descriptors by number; the highest that the limit allows is taken.
HIGH_DESCRIPTORS = (1000, 500, 250, 120, 60)


def run(channel_fd: int, progress_fd: int) -> NoReturn:
    """Be a sandbox. Whatever the handler raises beyond Exception (SystemExit, KeyboardInterrupt) comes through."""
    fd = _move_up(channel_fd)
    os.set_blocking(fd, True)
    page = memoryview(mmap.mmap(progress_fd, PAGE_BYTES))
    os.close(progress_fd)
    channel, inbox = Channel(fd, page.cast("Q")), Inbox(fd)
    os.register_at_fork(after_in_child=channel.disown)
    try:
        start, end = _read_start(inbox)
        enter(start, channel)
        current = Current()
        set_up_logging(channel.print, current.request_id)
        began_ns = time.monotonic_ns()
        handler = _init(start, channel)
        if handler is None:
            _leave(INIT_FAILED_STATUS, channel)
        init_ns = time.monotonic_ns() - began_ns
        if start.snapshot == TAKE:
            answer_maker(channel, bytes_taken=0, reason=NOT_FORKED, init_ns=init_ns)
            _leave(0, channel)
        channel.send(ready_frame(init_ns, start.snapshot, NOT_FORKED))
        gc.freeze()  # what init has made stays: the collector need not look at it again and again
        context_type = LambdaContext.bound(start.identity, channel.print)
        try:
            serve(channel, inbox, end, page[SHELF_AT:], handler, context_type, current)
        finally:
            if not channel.forked:
                channel.write_output()
                channel.flush()
        asked = signal.getsignal(signal.SIGTERM)
        if callable(asked) or asked is None:  # None: set by C code
            signal.raise_signal(signal.SIGTERM)  # what Lambda sends at the end, for those who asked
        _leave(0, channel)
    except Closed:
        os._exit(0)  # nobody is left to hear of anything


def _leave(status: int, channel: Channel) -> NoReturn:
    """End as Python does, but wait for no thread: those that init or a call left behind may never end."""
    atexit._run_exitfuncs()
    channel.write_output()
    os._exit(status)


def _read_start(inbox: Inbox) -> tuple[Start, int]:
    """START, and how many bytes have come behind it: calls may be there already."""
    end = inbox.more(0, 0, HEADER_BYTES)
    length, kind, *_ = HEADER.unpack_from(inbox.buffer)
    if kind != START:
        raise ValueError(f"first frame is of kind {kind}, expected {START}")
    end = inbox.more(0, end, HEADER_BYTES + length)
    whole = HEADER_BYTES + length
    start = parse_start(bytes(inbox.view[HEADER_BYTES:whole]))
    return start, inbox.drop(whole, end)


def _init(start: Start, channel: Channel) -> Any:
    """The handler; or None, after INIT_ERROR was sent."""
    try:
        handler = find_handler(start.handler)
        if channel.forked:  # a child that the module forked came back here
            os._exit(0)
    except Exception as error:  # the function's own module ran: whatever it raised is reported
        if channel.forked:
            os._exit(0)
        known = from_exception(error, "")
        channel.print(failure_line(known))
        channel.send(frame(INIT_ERROR, error_bytes(known)))
        return None
    return handler


def _move_up(fd: int) -> int:
    for high in HIGH_DESCRIPTORS:
        try:
            moved = os.dup2(fd, high, inheritable=False)
        except OSError:
            continue
        os.close(fd)
        return moved
    os.set_inheritable(fd, False)
    return fd
