"""One sandbox from its first frame to its end: START, the function's init, READY, calls, and how to leave."""

import atexit
import gc
import mmap
import os
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn

from .channel import Channel, Closed, Inbox
from .context import LambdaContext
from .faults import error_bytes, from_exception
from .frames import HEADER, HEADER_BYTES, INIT_ERROR, PAGE_BYTES, SHELF_AT, START, frame
from .handlers import find_handler
from .logs import failure_line, set_up_logging
from .loop import Current, serve
from .snapshots import RESTORE, TAKE, Images, Maker, after_restore, before_snapshot, ready_frame, renew
from .startup import Start, enter, parse_start, reenter

__all__ = ["run"]

INIT_FAILED_STATUS = 1
# Out of the way of code that closes low descriptors by number; the highest that the limit allows is taken.
HIGH_DESCRIPTORS = (1000, 500, 250, 120, 60)


def run(channel_fd: int, progress_fd: int, images: Images) -> NoReturn:
    """Be a sandbox. Whatever the handler raises beyond Exception (SystemExit, KeyboardInterrupt) comes through."""
    fd = _move_up(channel_fd)
    os.set_blocking(fd, True)
    inbox = Inbox(fd)
    try:
        start, end = _read_start(inbox)
        if start.snapshot == TAKE:
            os.close(progress_fd)
            page = memoryview(bytearray(PAGE_BYTES))  # no call runs here; those restored map their own
        else:
            page = _map_page(progress_fd)
        channel = Channel(fd, page.cast("Q"))
        os.register_at_fork(after_in_child=channel.disown)
        maker = Maker(images, channel, inbox) if start.snapshot == TAKE else None
        enter(start, channel)
        current = Current()
        set_up_logging(channel.print, current.request_id, current.tenant_id)
        began_ns = time.monotonic_ns()
        handler = _attempt(channel, find_handler, start.handler)
        init_ns = time.monotonic_ns() - began_ns
        if maker is None:
            channel.send(ready_frame(init_ns, start.snapshot, images.why_not()))
            gc.freeze()  # what init has made stays: the collector need not look at it again and again
        else:
            _attempt(channel, before_snapshot)
            birth = maker.make(init_ns)
            # From here on another process, in another sandbox, that has all this memory.
            page = _map_page(birth.progress_fd)
            channel.words = page.cast("Q")
            renew()
            made_for, (start, end) = start, _read_start(inbox)
            began_ns = time.monotonic_ns()
            reenter(made_for, start)
            _attempt(channel, after_restore)
            channel.send(ready_frame(birth.took_ns + time.monotonic_ns() - began_ns, RESTORE, None))
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


def _map_page(progress_fd: int) -> memoryview:
    page = memoryview(mmap.mmap(progress_fd, PAGE_BYTES))
    os.close(progress_fd)
    return page


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


def _attempt(channel: Channel, function: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns. Where it raises, INIT_ERROR is sent and the process ends."""
    try:
        result = function(*arguments)
        if channel.forked:  # a child that the module forked came back here
            os._exit(0)
    except Exception as error:  # the function's own code ran: whatever it raised is reported
        if channel.forked:
            os._exit(0)
        known = from_exception(error, "")
        channel.print(failure_line(known))
        channel.send(frame(INIT_ERROR, error_bytes(known)))
        _leave(INIT_FAILED_STATUS, channel)
    return result


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
