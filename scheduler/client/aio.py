"""The trio client: many calls in flight on one connection.

What lives here: one socket, the task that reads it and the task that writes it, and the parking of callers. What must not:
bytes of the protocol (session.py), parameters (methods.py), the shape of answers (model.py).

How a call goes. The caller's task encodes the request and parks; the reader wakes it with the answer. Requests of all tasks
that ran in one turn of trio's loop leave in one send, for the writer runs in the next turn; a caller that has the connection
to itself sends at once, since there is nothing to batch with and a task switch would be a fifth of its latency. There is no
task, event or queue per call: at 50,000 calls a second each of these costs more than the call.

A cancelled call sends the `cancel` notification and forgets its id: the answer, if one comes, is dropped by the session. A lost
connection fails every call that was in flight with ConnectionLost and none is sent again, for it may have run.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import outcome
import trio

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
from scheduler.client.session import RECEIVE_BYTES, Answer, CannotConnect, ConnectionLost, Session, again
from scheduler.client.streaming import ResponseStream, stream_over
from scheduler.errors import ProtocolFault, SchedulerError

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from types import TracebackType

    from scheduler.client.tls import TlsSocket
    from scheduler.functions.pack import PackedCode

__all__ = ["Client", "open_client"]

IN_FLIGHT_MAX = 10_000
BACKOFF_FIRST_S = 0.01
BACKOFF_MAX_S = 1.0


def open_client(
    target: str | os.PathLike[str] | tuple[str, int],
    *,
    token: str | None = None,
    tls: bool | ssl.SSLContext = False,
    in_flight_max: int = IN_FLIGHT_MAX,
    reconnect_s: float = 0.0,
) -> Client:
    """A client for `async with`; it connects on entry and closes on exit.

    Args:
        target: path of the Unix socket, `(host, port)`, `"tcp://host:port"` or `"tls://host:port"`.
        token: what `hello` presents; TCP needs one unless the service says otherwise.
        tls: encrypt a TCP connection; a context says whom to trust, True (and tls://) trusts the system's authorities.
        in_flight_max: calls on the connection at once; a call above that waits its turn, first come first served.
        reconnect_s: how long a call waits for a lost connection to come back. 0: the client does not reconnect and every
            later call raises ConnectionLost. Calls in flight when the connection breaks fail in any case.

    Raises (on entry):
        CannotConnect: nobody listens there, or it may not be opened, or TLS could not be agreed on.
        Unauthorized: the token is refused.
    """
    return Client(address_of(target, tls), token=token, in_flight_max=in_flight_max, reconnect_s=reconnect_s)


class Client:
    """See `open_client`. Every method may be used from many tasks at once, within the trio loop that opened the client.

    Each raises the typed errors of scheduler.errors: what the service answered, ConnectionLost when the connection ends
    before the answer, BadAnswer when the answer cannot be understood. Cancelling a call gives it up on both sides.
    """

    def __init__(self, address: Address, *, token: str | None, in_flight_max: int, reconnect_s: float) -> None:
        if in_flight_max < 1:
            raise ValueError(f"in_flight_max is {in_flight_max}, at least 1 is needed")
        self._address = address
        self._token = token
        self._reconnect_s = reconnect_s
        self._free = in_flight_max
        self._slots = trio.lowlevel.ParkingLot()
        self._link: _Link | None = None
        self._lost: SchedulerError | None = None  # why there is no link
        self._changed = trio.Event()  # see _tell
        self._manager: Any = None
        self._nursery: trio.Nursery | None = None

    # -- life

    async def __aenter__(self) -> Client:
        self._manager = trio.open_nursery()
        self._nursery = nursery = await self._manager.__aenter__()
        try:
            self._link = await self._connect(nursery)
        except BaseException:
            nursery.cancel_scope.cancel()
            await self._manager.__aexit__(None, None, None)
            raise
        nursery.start_soon(self._keep_connected, self._link, nursery)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._nursery is not None
        link, self._link = self._link, None
        self._lost = ConnectionLost("the client is closed")
        if link is not None:
            link.fail(self._lost)
        self._nursery.cancel_scope.cancel()
        # The body's own exception goes on bare: it has nothing to do with our nursery, which would wrap it in a group.
        # Only Cancelled is shown to it, for it may be the nursery's.
        if isinstance(error, trio.Cancelled):
            swallowed: bool | None = await self._manager.__aexit__(kind, error, trace)
            return swallowed
        await self._manager.__aexit__(None, None, None)
        return None

    async def _connect(self, nursery: trio.Nursery) -> _Link:
        link = _Link(await _open_socket(self._address), self._address)
        nursery.start_soon(link.run)
        if self._token is not None or self._address.needs_hello:
            try:
                (await link.call("hello", [hello_request(self._token)])).unwrap("hello")
            except BaseException:
                link.fail(ConnectionLost("hello was refused"))
                raise
        return link

    async def _keep_connected(self, link: _Link, nursery: trio.Nursery) -> None:
        while True:
            await link.ended.wait()
            if self._link is None:
                return  # closed by us
            self._link = None
            self._lost = link.reason
            if not self._reconnect_s:
                return
            backoff_s = BACKOFF_FIRST_S
            while True:
                try:
                    link = await self._connect(nursery)
                    break
                except (CannotConnect, ConnectionLost) as error:
                    self._lost = error
                except SchedulerError as error:  # the service answers, and refuses us: waiting would not help
                    self._lost, self._reconnect_s = error, 0.0
                    self._tell()
                    return
                await trio.sleep(backoff_s * random.uniform(0.5, 1.0))
                backoff_s = min(2 * backoff_s, BACKOFF_MAX_S)
            self._link, self._lost = link, None
            self._tell()

    async def _connected(self) -> _Link:
        """The link, waited for as long as `reconnect_s` says."""
        with trio.move_on_after(self._reconnect_s):
            while self._reconnect_s and (self._link is None or self._link.reason is not None):
                await self._changed.wait()
        link = self._link
        if link is None or link.reason is not None:
            raise again(self._lost if link is None else link.reason)
        return link

    def _tell(self) -> None:
        """Wakes those that wait for a link; each looks for itself whether there is one now."""
        self._changed.set()
        self._changed = trio.Event()

    # -- the one way out

    async def call(self, method: str, params: list[Any]) -> Any:
        """Any method by its name; gives the result as it came. TypeError, ValueError: `params` cannot be encoded."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._free and not self._slots:
            self._free -= 1
        else:
            await self._slots.park()
        try:
            link = self._link
            if link is None or link.reason is not None:
                link = await self._connected()
            answer = await link.call(method, params)
        finally:
            if self._slots:
                self._slots.unpark()  # the slot is handed on, so that nobody overtakes
            else:
                self._free += 1
        return answer.unwrap(method)

    @property
    def broken(self) -> bool:
        """Whether the connection is lost now; with `reconnect_s` it may come back."""
        return self._link is None or self._link.reason is not None

    def statistics(self) -> dict[str, int]:
        """`in_flight`, `waiting` (for a slot) and `late_answers` (that came after their call was given up)."""
        session = self._link.session if self._link is not None else None
        return {
            "in_flight": len(session.pending) if session else 0,
            "waiting": len(self._slots),
            "late_answers": session.late_answers if session else 0,
        }

    # -- invoke

    async def invoke(
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
    ) -> Invocation:
        """Runs a function and gives its answer.

        Args:
            name: `name`, `name:qualifier` (version, alias or `$LATEST`) or an ARN.
            payload: bytes or str is the event's JSON text and is passed byte for byte; the answer's payload is then JSON
                text in bytes. Any other value is the event itself, as a MessagePack value; so is the answer then.
            deadline_ms: the caller's patience, 1 to 86,400,000, from the request's arrival; None: no limit but the function's.
            report: ask for the Report (times by stage, CPU, memory).
            log_tail: ask for the last 4 KB of the call's log; implies `report`.
            client_context: JSON text the handler sees as `context.client_context`, at most 3,583 bytes.
            trace: X-Amzn-Trace-Id or W3C traceparent, handed on.
            tenant_id: of a tenant-isolated function: whose call it is.
            type: "sync" waits for the answer; "event" returns once the call is durable; "dryrun" only checks.
            idempotency_key: with "event": the same key is accepted once.

        Raises:
            FunctionError, FunctionTimeout, SandboxDied, InitFailed: the function's failure; `payload` has its error object.
            Throttled, DeadlineExceeded, NotFound, TooLarge, Unavailable, ...: the service's refusal.
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
        result = await self.call("invoke", invoke_params(name, payload, options))
        return invocation_from(result, text=is_text(payload))

    @asynccontextmanager
    async def stream(self, name: str, payload: bytes | str = b"{}", **options: Any) -> AsyncIterator[ResponseStream]:
        """Runs a function and gives its answer in pieces, as they come:

            async with client.stream("talk", b'{"about": "rain"}') as answer:
                async for piece in answer:
                    ...

        One that does not stream gives its whole answer as one piece. The call has a connection of its own, and who reads slowly
        slows the function, nobody else. Leaving early ends neither the function nor its bill. Options and errors as of `invoke`
        (`type` apart); a function that fails half-way raises after the pieces that came before.
        """
        hello = hello_request(self._token) if self._token is not None or self._address.needs_hello else None
        sock = await _open_socket(self._address)
        async with stream_over(sock, invoke_params(name, payload, options), hello=hello) as answer:
            yield answer

    async def invoke_json(self, name: str, event: Any = None, **options: Any) -> Any:
        """`event` as JSON there, the answer as a Python value back. Options and errors as of `invoke`."""
        done = await self.invoke(name, json.dumps(event, separators=(",", ":")).encode(), **options)
        return None if done.payload is None else json.loads(done.payload)

    # -- control

    async def hello(self) -> Hello:
        """Who answers, its limits, and what this connection may do."""
        return Hello.from_map(await self.call("hello", [hello_request(self._token)]))

    async def ping(self) -> None:
        """Returns when the service has answered."""
        await self.call("ping", [])

    async def upload(self, data: bytes, *, progress: Callable[[int, int], None] | None = None) -> str:
        """Puts code into the service's store, in chunks, going on where an earlier upload of the same bytes stopped; gives its
        SHA-256 in hex. `progress(sent_bytes, all_bytes)` after each chunk."""
        sha256 = await trio.to_thread.run_sync(lambda: hashlib.sha256(data).hexdigest())
        offset = 0
        while True:
            answer = await self.call("code.put", [next_chunk(data, sha256, offset)])
            offset, complete = take_received(answer, offset, len(data))
            if progress is not None:
                progress(offset, len(data))
            if complete:
                return sha256

    async def deploy(
        self,
        source: str | os.PathLike[str] | PackedCode,
        *,
        name: str,
        publish: bool = False,
        progress: Callable[[int, int], None] | None = None,
        **settings: Any,
    ) -> FunctionDescription:
        """Creates the function or replaces its code and configuration.

        Args:
            source: a folder, a zip or one .py file; or what `scheduler.functions.pack.pack` made of one.
            settings: `handler` (needed on creation), `runtime`, `memory_mb`, `timeout_s`, `ephemeral_storage_mb`,
                `environment`, `reserved_concurrency`, `weight`, `tenant`, `queue_timeout_ms`, `description`,
                `network` ("none" or "outbound"), `snapshot` ("auto" or "off"), `freeze` ("on" or "off"),
                `runtime_client` ("own" or "awslambdaric"),
                `log_format` ("Text" or "JSON"), `application_log_level`, `system_log_level`, `log_group`, `tracing`
                ("Active" or "PassThrough"), `recursive_loop` ("Terminate" or "Allow"), `dead_letter_arn`,
                `snap_start` ("None" or "PublishedVersions"), `kms_key_arn`, `secrets` and `keys` (lists of names).
                Those left out (or None) take their defaults on creation and stay as they are later;
                reserved_concurrency "none" takes it away.
            publish: also make it a numbered version.
            progress: called with (sent_bytes, all_bytes) while the code is sent.

        Raises: BadRequest or TooLarge naming the field (or file), the value and its limit.
        """
        from scheduler.functions.pack import PackedCode, pack  # zip and hashing code: most programs never deploy

        given = configuration(settings)
        package = source if isinstance(source, PackedCode) else await trio.to_thread.run_sync(pack, Path(source))
        sha256 = await self.upload(package.data, progress=progress)
        request = deploy_request(name, sha256, package.kind, publish, given)
        return FunctionDescription.from_map(await self.call("functions.deploy", [request]))

    async def update(self, name: str, *, revision_id: str | None = None, **settings: Any) -> FunctionDescription:
        """Changes configuration alone. `revision_id`: only if the function is still at that revision."""
        request = {**without_none(name=name, revision_id=revision_id), **configuration(settings)}
        return FunctionDescription.from_map(await self.call("functions.update", [request]))

    async def list(self, *, tenant: str | None = None) -> AsyncIterator[FunctionDescription]:
        """Every function by name, page by page: `async for function in client.list()`."""
        marker = None
        while True:
            answer = await self.call("functions.list", [without_none(tenant=tenant, marker=marker, limit=LIST_PAGE)])
            functions, marker = page_from(answer, marker)
            for function in functions:
                yield function
            if marker is None:
                return

    async def get(self, name: str) -> FunctionDescription:
        """One function (`name` or `name:qualifier`), with `stats`."""
        return FunctionDescription.from_map(await self.call("functions.get", [{"name": name}]))

    async def concurrency(self, name: str) -> dict[str, Any]:
        """What is reserved for the function and provisioned of its versions and aliases, and how far that has come."""
        return map_from(await self.call("functions.concurrency", [{"name": name}]))

    async def provision(self, name: str, count: int | None, *, windows: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """Keeps `count` sandboxes of `name` (a function, name:version or name:alias) initialised; None takes that away.
        windows: maps of cron, minutes, count and zone. Answers as concurrency()."""
        return map_from(await self.call("functions.provision", [provision_request(name, count, windows)]))

    async def remove(self, name: str) -> None:
        """Removes the function; calls in flight end, its sandboxes drain."""
        await self.call("functions.remove", [{"name": name}])

    async def logs(
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
        return LogChunk.from_map(await self.call("functions.logs", [request]))

    async def follow_logs(self, name: str, *, request_id: str | None = None) -> AsyncIterator[str]:
        """The log's tail, then what is written to it, until the caller stops."""
        cursor = None
        while True:
            chunk = await self.logs(
                name, cursor=cursor, wait_ms=None if cursor is None else LOGS_WAIT_MS, request_id=request_id
            )
            cursor = chunk.cursor
            if chunk.text:
                yield chunk.text

    async def stats(self) -> ServiceStats:
        """Counters and latencies of every function, and of the service."""
        return ServiceStats.from_map(await self.call("stats", [{}]))

    async def accounts(self) -> tuple[Account, ...]:
        """The tree of accounts: node, tenants, functions, each with its resources."""
        return accounts_from(await self.call("accounts", [{}]))

    async def drain(self, *, grace_ms: int | None = None) -> Mapping[str, Any]:
        """Stops accepting calls and ends those queued or running within `grace_ms`; the service then exits."""
        answer: Mapping[str, Any] = await self.call("drain", [without_none(grace_ms=grace_ms)])
        return answer


class _Link:
    """One connected socket. It lives from `run` to `ended`; `reason` says why it ended."""

    def __init__(self, sock: socket.socket | TlsSocket, address: Address) -> None:
        self.session: Session[trio.lowlevel.Task] = Session()
        self.reason: SchedulerError | None = None
        self.ended = trio.Event()
        self._sock = sock
        self._address = address
        self._out: list[bytes] = []  # what the writer takes in its next turn
        self._sending = False  # the writer is in the middle of a batch
        self._writer: trio.lowlevel.Task | None = None  # parked, waiting for something to send
        self._nursery: trio.Nursery | None = None

    async def call(self, method: str, params: list[Any]) -> Answer:
        if self.reason is not None:
            raise again(self.reason)
        msgid, data = self.session.encode(method, params, trio.lowlevel.current_task())
        self._send(data)

        def give_up(_: object) -> trio.lowlevel.Abort:
            if self.reason is None:
                self._send(self.session.forget(msgid))
            return trio.lowlevel.Abort.SUCCEEDED

        answer: Answer = await trio.lowlevel.wait_task_rescheduled(give_up)
        return answer

    def _send(self, data: bytes) -> None:
        if not self._out and not self._sending and len(self.session.pending) <= 1:
            try:
                sent = self._sock.send(data)
            except OSError:  # full, or broken: the writer meets it again and decides
                sent = 0
            data = data[sent:]
        if data:
            self._out.append(data)
            if self._writer is not None:
                writer, self._writer = self._writer, None
                trio.lowlevel.reschedule(writer)

    async def run(self) -> None:
        """Reads and writes until the connection ends or the nursery is cancelled; then every call in flight has failed."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._write)
                nursery.start_soon(self._read)
        finally:
            self.fail(ConnectionLost("the client is closed"))
            self._sock.close()
            self.ended.set()

    def fail(self, reason: SchedulerError) -> None:
        """The first reason counts; later ones find nobody waiting."""
        if self.reason is None:
            self.reason = reason
        for task in self.session.take_all():
            trio.lowlevel.reschedule(task, outcome.Error(again(self.reason)))
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _write(self) -> None:
        def stop(_: object) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            self._sending = False
            while not self._out:
                self._writer = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(stop)
            self._sending = True
            batch = memoryview(self._out[0] if len(self._out) == 1 else b"".join(self._out))
            self._out.clear()
            while batch:
                try:
                    batch = batch[self._sock.send(batch) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._sock)
                except OSError as error:
                    # What the service said before it closed is still to be read: the reader ends the link.
                    await self._reader_ends(error)
                    return

    async def _reader_ends(self, error: OSError) -> None:
        with trio.move_on_after(1.0):
            await trio.sleep_forever()
        self.fail(ConnectionLost(f"the connection to {self._address} broke: {error.strerror or error}"))

    async def _read(self) -> None:
        sock, feed, reschedule, value = self._sock, self.session.feed, trio.lowlevel.reschedule, outcome.Value
        while True:
            await trio.lowlevel.wait_readable(sock)
            try:
                data = sock.recv(RECEIVE_BYTES)
                for task, answer in feed(data):
                    reschedule(task, value(answer))
            except BlockingIOError:
                continue
            except ProtocolFault as fault:
                return self.fail(fault)
            except OSError as error:
                return self.fail(ConnectionLost(f"the connection to {self._address} broke: {error.strerror or error}"))
            if not data:
                return self.fail(ConnectionLost(f"the service at {self._address} closed the connection"))


async def _open_socket(address: Address) -> socket.socket | TlsSocket:
    """A connected, non-blocking socket. It is not trio's own, for trio's costs a checkpoint per send and receive."""
    try:
        if address.path:
            stream = await trio.open_unix_socket(address.path)
        else:
            stream = await trio.open_tcp_stream(address.host, address.port)  # also sets TCP_NODELAY
    except (OSError, ValueError) as error:
        raise cannot_connect(address, error) from error
    sock = socket.socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    if address.tls is None:
        return sock
    return await _shake_hands(sock, address)


async def _shake_hands(sock: socket.socket, address: Address) -> TlsSocket:
    import ssl  # here, and the module too: who connects to a Unix socket does not pay for them

    from scheduler.client import tls

    connection = tls.begin(sock, address)
    try:
        with trio.move_on_after(tls.HANDSHAKE_S):
            while True:
                try:
                    connection.do_handshake()
                    return tls.TlsSocket(connection)
                except ssl.SSLWantReadError:
                    await trio.lowlevel.wait_readable(connection)
                except ssl.SSLWantWriteError:
                    await trio.lowlevel.wait_writable(connection)
        raise TimeoutError
    except BaseException as error:
        connection.close()
        if isinstance(error, OSError):
            raise tls.failed(address, error) from error
        raise
