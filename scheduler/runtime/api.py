"""One process whose calls come over Lambda's Runtime API: init, then one call after the other.

Law of this file: handlers, errors, contexts, payloads and log lines are those of the channel's loop, so that a function cannot
tell which of the two runs it. Output goes to descriptors 1 and 2, as of any program.
"""

import gc
import io
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from .api_client import ApiCall, ApiClient, Gone
from .context import Identity, LambdaContext, client_context
from .faults import Fault, error_bytes, from_exception, text_of, too_large
from .frames import RESPONSE_BYTES_MAX
from .handlers import find_handler
from .logs import failure_line, set_up_logging
from .payloads import JsonWriter, from_json, scan_json, to_json
from .startup import find_modules

__all__ = ["run"]

INIT_FAILED_STATUS = 1
READING, RUNNING, WRITING = 0, 1, 2  # how far a call had come when something was raised
TRACE = "_X_AMZN_TRACE_ID"
NS_PER_MS = 1_000_000

_exit = os._exit
_monotonic_ns = time.monotonic_ns
_time_ns = time.time_ns


class _Special:
    """What this call's context has of its own."""

    __slots__ = ("arn", "client", "cognito", "tenant_id")

    def __init__(self, call: ApiCall) -> None:
        self.arn = call.arn
        self.client: Any = None
        self.cognito = _cognito(call.cognito)
        self.tenant_id = call.tenant


def _cognito(text: str | None) -> dict[str, Any]:
    if not text:
        return {}
    found = json.loads(text)
    return {
        "cognito_identity_id": found.get("cognitoIdentityId"),
        "cognito_identity_pool_id": found.get("cognitoIdentityPoolId"),
    }


class _Process:
    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._context: LambdaContext | None = None
        self._forked = False
        self._writer = JsonWriter()

    def request_id(self) -> str:
        return self._context.aws_request_id if self._context is not None else ""

    def tenant_id(self) -> str | None:
        return self._context.tenant_id if self._context is not None else None

    def run(self) -> NoReturn:
        os.register_at_fork(after_in_child=self._disown)
        sys.stdout = sys.__stdout__ = _unbuffered(1, "strict")  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = _unbuffered(2, "backslashreplace")  # type: ignore[misc]
        environment = os.environ
        find_modules(environment["LAMBDA_TASK_ROOT"], environment.get("PYTHONPATH", ""))
        set_up_logging(_print, self.request_id, self.tenant_id)
        handler = self._init(environment["_HANDLER"])
        gc.freeze()  # what init has made stays: the collector need not look at it again and again
        context_type = LambdaContext.bound(_identity(), _print)
        call = self._client.next()
        while True:
            error_type, body = self._one(call, handler, context_type)
            if self._forked:  # a child that the handler forked came back here: the call is its parent's to answer
                _exit(0)
            self._context = None
            post = self._client.respond(call.id, body) if error_type is None else self._client.fail(call.id, error_type, body)
            if post is not None:
                _print(f"the API refused an answer with {post}\n".encode())
            del body
            call = self._client.call()

    def _init(self, name: str) -> Callable[[Any, Any], Any]:
        try:
            handler = find_handler(name)
        except Exception as error:  # the function's own code ran: whatever it raised is reported
            if self._forked:
                _exit(0)
            known = from_exception(error, "")
            _print(failure_line(known))
            self._client.fail_init(str(known["errorType"]), error_bytes(known))
            sys.exit(INIT_FAILED_STATUS)
        if self._forked:
            _exit(0)
        return handler

    def _one(
        self, call: ApiCall, handler: Callable[[Any, Any], Any], context_type: type[LambdaContext]
    ) -> tuple[str | None, bytes]:
        """Type of the error, or None, and the answer."""
        if call.trace != os.environ.get(TRACE):
            if call.trace is None:
                os.environ.pop(TRACE, None)
            else:
                os.environ[TRACE] = call.trace
        special = _Special(call)
        deadline_ns = _monotonic_ns() + call.deadline_ms * NS_PER_MS - _time_ns()
        context = self._context = context_type(_number(call.id), deadline_ns, special)
        stage, response = READING, None
        try:
            event = _event(call.body)
            stage = RUNNING
            if call.client_context:
                special.client = client_context(call.client_context)
            response = handler(event, context)
            stage = WRITING
            body = "".join(self._writer.encode(response, 0)).encode()
        except Exception as error:  # a stranger's code ran: whatever it raised is the call's answer
            self._writer.reset()
            return self._fail(stage, error, response, call.id)
        if len(body) > RESPONSE_BYTES_MAX:
            return "Function.ResponseSizeTooLarge", too_large()
        return None, body

    def _fail(self, stage: int, error: Exception, response: Any, request_id: str) -> tuple[str | None, bytes]:
        if stage == WRITING:
            try:
                return None, to_json(response)
            except Exception as refused:  # whatever a stranger's result raises when it is looked at
                error = Fault("Runtime.MarshalError", f"Unable to marshal response: {text_of(refused)}")
        elif stage == READING:
            error = Fault("Runtime.UnmarshalError", f"Unable to unmarshal input: {text_of(error)}")
        known = from_exception(error, request_id)
        _print(failure_line(known))
        return str(known["errorType"]), error_bytes(known)

    def _disown(self) -> None:
        self._forked = True


def _event(body: bytes) -> Any:
    text = str(body, "utf-8")
    try:
        event, stop = scan_json(text, 0)
    except StopIteration:
        stop = -1
    if stop != len(text):
        event = from_json(text) if text else {}  # Lambda: nothing sent is an empty object
    return event


def _number(request_id: str) -> bytes:
    return bytes.fromhex(request_id.replace("-", ""))


def _identity() -> Identity:
    of = os.environ.get
    return Identity(
        function_name=of("AWS_LAMBDA_FUNCTION_NAME", ""),
        function_version=of("AWS_LAMBDA_FUNCTION_VERSION", ""),
        invoked_function_arn="",
        memory_mb=int(of("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "0")),
        timeout_ns=0,  # a call brings the moment of its end
        log_group_name=of("AWS_LAMBDA_LOG_GROUP_NAME", ""),
        log_stream_name=of("AWS_LAMBDA_LOG_STREAM_NAME", ""),
    )


def _print(data: bytes) -> None:
    """Past sys.stdout, which a handler may replace."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _unbuffered(fd: int, errors: str) -> io.TextIOWrapper:
    raw = io.FileIO(fd, "w", closefd=False)
    stream = io.TextIOWrapper(io.BufferedWriter(raw, 1), encoding="utf-8", errors=errors, newline="\n", write_through=True)
    stream.mode = "w"  # type: ignore[misc]  # the interpreter's own have it
    return stream


def run() -> NoReturn:
    """Be a runtime. Whatever the handler raises beyond Exception (SystemExit, KeyboardInterrupt) comes through."""
    client = ApiClient(os.environ["AWS_LAMBDA_RUNTIME_API"])
    try:
        _Process(client).run()
    except Gone:
        _exit(0)  # nobody is left to hear of anything
