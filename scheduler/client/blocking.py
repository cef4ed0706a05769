"""The blocking client: the same calls for programs without an event loop, from any number of threads over one connection.

What lives here: one socket, and who of the waiting threads reads it. What must not: bytes of the protocol (session.py),
parameters (methods.py), the shape of answers (model.py).

There is no thread of our own, so nothing is missing after a fork and nothing must be stopped at exit. One of the threads
that wait for an answer is the *leader*: it alone polls the socket, hands answers to the others, and on its own answer passes
the lead to one that still waits. Requests are sent by whoever has one, without blocking; what the kernel does not take at
once is left to the leader, which is woken through an eventfd if it sleeps. So a thread never blocks in a send while answers
wait to be read, which could stop both ends.

A fork gives the child a copy of the socket and of locks that another thread may have held. Hence all of it hangs on the
process's
id: a child finds no state of its own, makes a new one, and closes its copy of the parent's socket.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import socket
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scheduler.client.methods import (
    LIST_PAGE,
    LOGS_LIMIT_BYTES,
    LOGS_WAIT_MS,
    Address,
    address_of,
    cannot_connect,
    configuration,
    deploy_request,
    hello_request,
    invoke_params,
    is_text,
    logs_request,
    map_from,
    next_chunk,
    provision_request,
    take_received,
    without_none,
)
from scheduler.client.model import (
    Account,
    FunctionDescription,
    Hello,
    Invocation,
    LogChunk,
    ServiceStats,
    accounts_from,
    invocation_from,
    page_from,
)
from scheduler.client.session import RECEIVE_BYTES, Answer, ConnectionLost, Session, again
from scheduler.errors import ProtocolFault, SchedulerError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from scheduler.client.tls import TlsSocket
    from scheduler.functions.pack import PackedCode

__all__ = ["BlockingClient"]


class BlockingClient:
    """Methods, arguments and errors are those of `Client`; every method may be called from many threads at once.

    Args:
        target: path of the Unix socket, `(host, port)`, `"tcp://host:port"` or `"tls://host:port"`.
        token: what `hello` presents; TCP needs one unless the service says otherwise.
        tls: encrypt a TCP connection; a context says whom to trust, True (and tls://) trusts the system's authorities.
        timeout_s: how long one call waits for its answer before it is given up with TimeoutError; None: for ever.
        in_flight_max: calls on the connection at once; a thread above that waits.
        reconnect: open the connection anew for the next call after it was lost. Calls in flight at that moment fail in any
        case.

    It connects on entry of `with`, or else on the first call (CannotConnect, Unauthorized), and again by itself in a forked
    child.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | tuple[str, int],
        *,
        token: str | None = None,
        tls: bool | ssl.SSLContext = False,
        timeout_s: float | None = None,
        in_flight_max: int = 10_000,
        reconnect: bool = False,
    ) -> None:
        if in_flight_max < 1:
            raise ValueError(f"in_flight_max is {in_flight_max}, at least 1 is needed")
        self._address = address_of(target, tls)
        self._token = token
        self._timeout_s = timeout_s
        self._in_flight_max = in_flight_max
        self._reconnect = reconnect
        self._closed = False
        self._links: dict[int, _Link] = {}  # by process id: at most one after the first call in a process

    # -- life

    def __enter__(self) -> BlockingClient:
        self._link(self._timeout_s)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection; calls that other threads have in flight fail with ConnectionLost."""
        self._closed = True
        link = self._links.pop(os.getpid(), None)
        if link is not None:
            link.fail(ConnectionLost("the client is closed"))

    def _link(self, timeout_s: float | None) -> _Link:
        pid = os.getpid()
        link = self._links.get(pid)
        if link is None:
            link = self._links.setdefault(pid, _Link(self._address, self._token, self._in_flight_max))
            for other in [key for key in list(self._links) if key != pid]:
                parents = self._links.pop(other, None)
                if parents is not None:
                    parents.abandon()
        elif link.reason is not None and self._reconnect and not self._closed:
            link = link.succeeded_by(lambda: _Link(self._address, self._token, self._in_flight_max))
            self._links[pid] = link
        if self._closed:
            raise ConnectionLost("the client is closed")
        link.connect(timeout_s)
        return link

    # -- the one way out

    def call(self, method: str, params: list[Any], *, timeout_s: float | None = None) -> Any:
        """Any method by its name; gives the result as it came. TypeError, ValueError: `params` cannot be encoded.
        TimeoutError: no answer within `timeout_s` (None: as the client was told); the call was given up."""
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        return self._link(limit_s).call(method, params, limit_s).unwrap(method)

    # -- invoke

    def invoke(
        self,
        name: str,
        payload: Any = b"{}",
        *,
        deadline_ms: int | None = None,
        report: bool = False,
        log_tail: bool = False,
        client_context: bytes | str | None = None,
        trace: str | None = None,
        tenant_id: str | None = None,
        type: str = "sync",  # noqa: A002 - the option's name on the wire and in Lambda
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Invocation:
        """Runs a function and gives its answer; see `Client.invoke`.

        `payload`: bytes or str is the event's JSON text, passed byte for byte, and the answer's payload is then JSON text in
        bytes; any other value is the event itself, and so is the answer then.
        """
        options = {
            "type": type,
            "deadline_ms": deadline_ms,
            "report": report,
            "log_tail": log_tail,
            "client_context": client_context,
            "trace": trace,
            "tenant_id": tenant_id,
            "idempotency_key": idempotency_key,
        }
        result = self.call("invoke", invoke_params(name, payload, options), timeout_s=timeout_s)
        return invocation_from(result, text=is_text(payload))

    def invoke_json(self, name: str, event: Any = None, **options: Any) -> Any:
        """`event` as JSON there, the answer as a Python value back. Options and errors as of `invoke`."""
        done = self.invoke(name, json.dumps(event, separators=(",", ":")).encode(), **options)
        return None if done.payload is None else json.loads(done.payload)

    # -- control

    def hello(self) -> Hello:
        """Who answers, its limits, and what this connection may do."""
        return Hello.from_map(self.call("hello", [hello_request(self._token)]))

    def ping(self) -> None:
        """Returns when the service has answered."""
        self.call("ping", [])

    def upload(self, data: bytes, *, progress: Callable[[int, int], None] | None = None) -> str:
        """Puts code into the service's store, in chunks; gives its SHA-256 in hex. `progress(sent_bytes, all_bytes)`."""
        sha256 = hashlib.sha256(data).hexdigest()
        offset = 0
        while True:
            answer = self.call("code.put", [next_chunk(data, sha256, offset)])
            offset, complete = take_received(answer, offset, len(data))
            if progress is not None:
                progress(offset, len(data))
            if complete:
                return sha256

    def deploy(
        self,
        source: str | os.PathLike[str] | PackedCode,
        *,
        name: str,
        publish: bool = False,
        progress: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> FunctionDescription:
        """Creates the function or replaces its code and configuration; see `Client.deploy`."""
        from scheduler.functions.pack import PackedCode, pack  # zip and hashing code: most programs never deploy

        given = configuration(settings)
        package = source if isinstance(source, PackedCode) else pack(Path(source))
        sha256 = self.upload(package.data, progress=progress)
        request = deploy_request(name, sha256, package.kind, publish, given)
        return FunctionDescription.from_map(self.call("functions.deploy", [request]))

    def update(self, name: str, *, revision_id: str | None = None, **settings: Any) -> FunctionDescription:
        """Changes configuration alone. `revision_id`: only if the function is still at that revision."""
        request = {**without_none(name=name, revision_id=revision_id), **configuration(settings)}
        return FunctionDescription.from_map(self.call("functions.update", [request]))

    def list(self, *, tenant: str | None = None) -> Iterator[FunctionDescription]:
        """Every function by name, fetched page by page."""
        marker = None
        while True:
            answer = self.call("functions.list", [without_none(tenant=tenant, marker=marker, limit=LIST_PAGE)])
            functions, marker = page_from(answer, marker)
            yield from functions
            if marker is None:
                return

    def get(self, name: str) -> FunctionDescription:
        """One function (`name` or `name:qualifier`), with `stats`."""
        return FunctionDescription.from_map(self.call("functions.get", [{"name": name}]))

    def concurrency(self, name: str) -> dict[str, Any]:
        """What is reserved for the function and provisioned of its versions and aliases, and how far that has come."""
        return map_from(self.call("functions.concurrency", [{"name": name}]))

    def provision(self, name: str, count: int | None, *, windows: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """Keeps `count` sandboxes of `name` (a function, name:version or name:alias) initialised; None takes that away.
        windows: maps of cron, minutes, count and zone. Answers as concurrency()."""
        return map_from(self.call("functions.provision", [provision_request(name, count, windows)]))

    def remove(self, name: str) -> None:
        """Removes the function; calls in flight end, its sandboxes drain."""
        self.call("functions.remove", [{"name": name}])

    def logs(
        self,
        name: str,
        *,
        cursor: Any = None,
        limit_bytes: int = LOGS_LIMIT_BYTES,
        wait_ms: int | None = None,
        request_id: str | None = None,
        since_ms: int | None = None,
    ) -> LogChunk:
        """Text of the function's log from `cursor` on (None: the last `limit_bytes`). `wait_ms`: wait for something new.
        `since_ms`: only what was written after that Unix time; without a cursor the first of it."""
        request = logs_request(name, cursor, limit_bytes, wait_ms, request_id, since_ms)
        return LogChunk.from_map(self.call("functions.logs", [request]))

    def follow_logs(self, name: str, *, request_id: str | None = None) -> Iterator[str]:
        """The log's tail, then what is written to it, until the caller stops."""
        cursor = None
        while True:
            wait_ms = None if cursor is None else LOGS_WAIT_MS
            chunk = self.logs(name, cursor=cursor, wait_ms=wait_ms, request_id=request_id)
            cursor = chunk.cursor
            if chunk.text:
                yield chunk.text

    def stats(self) -> ServiceStats:
        """Counters and latencies of every function, and of the service."""
        return ServiceStats.from_map(self.call("stats", [{}]))

    def accounts(self) -> tuple[Account, ...]:
        """The tree of accounts: node, tenants, functions, each with its resources."""
        return accounts_from(self.call("accounts", [{}]))

    def drain(self, *, grace_ms: int | None = None) -> Mapping[str, Any]:
        """Stops accepting calls and ends those queued or running within `grace_ms`; the service then exits."""
        answer: Mapping[str, Any] = self.call("drain", [without_none(grace_ms=grace_ms)])
        return answer


class _Call:
    """One thread that waits. `wake` is a lock used as a latch: held while there is nothing to tell."""

    __slots__ = ("answer", "error", "waits", "wake")

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.error: SchedulerError | None = None
        self.waits = False  # parked on `wake`, so it may be made the leader
        self.wake = threading.Lock()
        self.wake.acquire()

    def tell(self) -> None:
        """Under the link's lock. The latch may be open already: a thread told to lead wakes in its own time."""
        if self.wake.locked():
            self.wake.release()

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None


class _Link:
    """One connection of one process. Everything but the leader's polling happens under `_lock`."""

    def __init__(self, address: Address, token: str | None, in_flight_max: int) -> None:
        self.reason: SchedulerError | None = None
        self._address = address
        self._token = token
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(in_flight_max)
        self._session: Session[_Call] = Session()
        self._sock: socket.socket | TlsSocket | None = None
        self._wakeup = -1  # eventfd: the leader must poll for writing too, or the link has failed
        self._leader = False
        self._successor: _Link | None = None
        self._ready = False  # connected, and hello said where it is needed
        self._connecting = threading.Lock()
        self._out: deque[bytes] = deque()
        self._rest = memoryview(b"")  # of a batch the kernel took only a part of

    # -- life

    def connect(self, timeout_s: float | None) -> None:
        """Opens the socket if it is not open yet, and says hello where that is needed."""
        if self._ready or self.reason is not None:
            return
        with self._connecting:
            if self._ready or self.reason is not None:
                return
            try:
                sock = _open_socket(self._address, timeout_s)
            except (OSError, ValueError) as error:
                raise cannot_connect(self._address, error) from error
            self._wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._sock = sock
            if self._token is not None or self._address.needs_hello:
                try:
                    self.call("hello", [hello_request(self._token)], timeout_s).unwrap("hello")
                except BaseException as error:
                    self.fail(error if isinstance(error, SchedulerError) else ConnectionLost("hello was not answered"))
                    raise
            self._ready = True

    def succeeded_by(self, make: Callable[[], _Link]) -> _Link:
        """The one link that takes this dead one's place, whoever of the threads comes first."""
        with self._lock:
            if self._successor is None:
                self._successor = make()
            return self._successor

    def abandon(self) -> None:
        """In a forked child: closes our copies and tells nobody. No lock is taken, a vanished thread may hold it."""
        if self._sock is not None:
            os.close(self._sock.detach())
        if self._wakeup >= 0:
            os.close(self._wakeup)
            self._wakeup = -1

    def fail(self, reason: SchedulerError) -> None:
        """Ends the link: every waiting thread gets `reason`. The first reason counts."""
        with self._lock:
            self._fail(reason)

    def _fail(self, reason: SchedulerError) -> None:
        if self.reason is None:
            self.reason = reason
        for call in self._session.take_all():
            call.error = again(self.reason)
            call.tell()
        self._out.clear()
        self._rest = memoryview(b"")
        if self._leader:
            os.eventfd_write(self._wakeup, 1)  # it closes on its way out
        else:
            self._close()

    def _close(self) -> None:
        if self._sock is not None:
            self._sock.close()
        if self._wakeup >= 0:
            os.close(self._wakeup)
            self._wakeup = -1

    # -- a call

    def call(self, method: str, params: list[Any], timeout_s: float | None) -> Answer:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        if not self._slots.acquire(timeout=timeout_s):
            raise TimeoutError(f"{method} found no free slot within {timeout_s} s")
        try:
            call = _Call()
            msgid = 0
            try:
                with self._lock:
                    if self.reason is not None:
                        raise again(self.reason)
                    msgid, data = self._session.encode(method, params, call)
                    self._out.append(data)
                    self._flush()
                if not self._wait(call, until):
                    raise TimeoutError(f"{method} had no answer within {timeout_s} s")
            except BaseException:
                if msgid:
                    self._give_up(msgid)
                raise
            if call.error is not None:
                raise call.error
            assert call.answer is not None
            return call.answer
        finally:
            self._slots.release()

    def _give_up(self, msgid: int) -> None:
        with self._lock:
            data = self._session.forget(msgid)
            if data and self.reason is None:
                self._out.append(data)
                self._flush()

    def _wait(self, call: _Call, until: float | None) -> bool:
        """Until the call is done (True) or the time is (False); leads when nobody does."""
        while True:
            with self._lock:
                if call.done:
                    return True
                lead = not self._leader
                if lead:
                    self._leader = True
                else:
                    call.waits = True
            if lead:
                return self._lead(call, until)
            try:
                left_s = -1.0 if until is None else max(until - time.monotonic(), 0.0)
                woken = call.wake.acquire(timeout=left_s)
            except BaseException:
                with self._lock:
                    call.waits = False
                    if not self._leader:
                        self._pass_lead()  # the lead may just have been offered to us
                raise
            with self._lock:
                call.waits = False
                if call.done:
                    return True
                if not woken:
                    if not self._leader:
                        self._pass_lead()
                    return False

    def _lead(self, call: _Call, until: float | None) -> bool:
        try:
            while not call.done:
                left_s = None if until is None else until - time.monotonic()
                if left_s is not None and left_s <= 0:
                    return False
                self._turn(left_s)
            return True
        finally:
            with self._lock:
                self._leader = False
                if self.reason is not None:
                    self._close()
                else:
                    self._pass_lead()

    def _pass_lead(self) -> None:
        for call in self._session.pending.values():
            if call.waits:
                call.waits = False
                call.tell()
                return

    def _turn(self, timeout_s: float | None) -> None:
        """One poll and what it brings."""
        assert self._sock is not None
        poll = select.poll()
        poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._rest else 0))
        poll.register(self._wakeup, select.POLLIN)
        found = dict(poll.poll(None if timeout_s is None else timeout_s * 1000))
        if self._wakeup in found:
            os.eventfd_read(self._wakeup)
        state = found.get(self._sock.fileno(), 0)
        if state & ~select.POLLOUT:
            self._receive()
        if state & select.POLLOUT:
            with self._lock:
                self._flush()

    def _receive(self) -> None:
        assert self._sock is not None
        try:
            data = self._sock.recv(RECEIVE_BYTES)
            with self._lock:
                for call, answer in self._session.feed(data):
                    call.answer = answer
                    call.tell()
        except BlockingIOError:
            return
        except ProtocolFault as fault:
            self.fail(fault)
        except OSError as error:
            self.fail(ConnectionLost(f"the connection to {self._address} broke: {error.strerror or error}"))
        except (
            BaseException
        ):  # Ctrl-C in the middle of answers: some may be lost, so the others' threads must not wait for them
            self.fail(ConnectionLost("interrupted in the middle of an answer"))
            raise
        else:
            if not data:
                self.fail(ConnectionLost(f"the service at {self._address} closed the connection"))

    def _flush(self) -> None:
        """Sends what is queued as far as the kernel takes it; the leader does the rest. Under `_lock`."""
        assert self._sock is not None
        while self._rest or self._out:
            if not self._rest:
                self._rest = memoryview(self._out.popleft() if len(self._out) == 1 else b"".join(self._out))
                self._out.clear()
            try:
                self._rest = self._rest[self._sock.send(self._rest) :]
            except BlockingIOError:
                if self._leader:
                    os.eventfd_write(self._wakeup, 1)
                return
            except OSError:
                # Broken. What the service said before it closed is still to be read: the leader ends the link.
                self._rest = memoryview(b"")
                self._out.clear()
                return
            except BaseException:  # Ctrl-C between the send and the note of it: what left is not known, so nothing may follow
                self._fail(ConnectionLost("interrupted in the middle of a send"))
                raise


def _open_socket(address: Address, timeout_s: float | None) -> socket.socket | TlsSocket:
    if address.path:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(address.path)
        except BaseException:
            sock.close()
            raise
    else:
        sock = socket.create_connection((address.host, address.port), timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.tls is not None:
            from scheduler.client.tls import shake_hands

            return shake_hands(sock, address, timeout_s)
    sock.setblocking(False)
    return sock
