"""`scheduler invoke`: one call, its answer on stdout, and on request its log and where its time went on stderr."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from scheduler.cli.common import (
    Command,
    connected,
    emit_json,
    error_line,
    function_argument,
    note,
    shared_of,
    shared_options,
    stderr_console,
)
from scheduler.cli.payload import check_json, decoded, read_payload
from scheduler.cli.text import microseconds
from scheduler.errors import SchedulerError

if TYPE_CHECKING:
    from scheduler.client.model import Report

__all__ = ["invoke_command", "show_report"]


@click.command(
    "invoke",
    cls=Command,
    short_help="Run a function and print its answer.",
    examples=(
        ("an event on the command line", 'scheduler invoke hello \'{"name": "you"}\''),
        ("an event from a file, or from a pipe", "scheduler invoke hello @event.json"),
        ("", "jq .detail event.json | scheduler invoke hello -"),
        ("the end of its log, and where the time went", "scheduler invoke hello '{}' --tail --report"),
        ("hand it over and go on; its answer is nobody's", "scheduler invoke hello @event.json --type event"),
        ("a published version, waiting no longer than 50 ms for it to start", "scheduler invoke hello:3 '{}' --deadline-ms 50"),
    ),
)
@function_argument
@click.argument("payload", required=False, metavar="[PAYLOAD|-|@FILE]")
@click.option("--tail", is_flag=True, help="Print the last 4 KB of the call's log to stderr.")
@click.option("--report", is_flag=True, help="Print the call's times by stage, its memory and CPU to stderr.")
@click.option(
    "--type",
    "kind",
    type=click.Choice(["sync", "event", "dryrun"]),
    default="sync",
    show_default=True,
    help="sync waits for the answer, event returns once the call is durable, dryrun only checks.",
)
@click.option(
    "--deadline-ms",
    type=click.IntRange(1, 86_400_000),
    metavar="MS",
    help="Give the call up if it cannot start within this time.",
)
@click.option("--client-context", metavar="JSON", help="What the handler sees as context.client_context.")
@click.option("--tenant-id", metavar="ID", help="Of a tenant-isolated function: whose call it is.")
@click.option("--trace", metavar="HEADER", help="X-Amzn-Trace-Id or W3C traceparent, handed on to the function.")
@click.option("--idempotency-key", metavar="KEY", help="With --type event: the same key is accepted once.")
@shared_options
@click.pass_context
def invoke_command(
    context: click.Context,
    name: str,
    payload: str | None,
    tail: bool,
    report: bool,
    kind: str,
    deadline_ms: int | None,
    client_context: str | None,
    tenant_id: str | None,
    trace: str | None,
    idempotency_key: str | None,
) -> None:
    """Run a function and print its answer.

    NAME is a function's name, NAME:VERSION, NAME:ALIAS or an ARN. PAYLOAD is JSON text: given here, read from stdin (-) or
    from a file (@FILE); without one the event is {}. It is passed byte for byte.

    The answer is printed on stdout and nothing else is. Where the function fails, its error object is printed instead, the
    error in one line on stderr, and the exit code is 1.
    """
    if idempotency_key is not None and kind != "event":
        raise click.UsageError("--idempotency-key goes with --type event alone")
    if kind != "sync" and (tail or report):
        raise click.UsageError(f"--{'tail' if tail else 'report'} goes with --type sync alone: nothing has run yet")
    if client_context is not None:
        check_json(client_context.encode("utf-8", "surrogateescape"), "--client-context")
    data = read_payload(payload)
    shared = shared_of(context)
    shared.name = name.split(":")[0] if not name.startswith("arn:") else name
    try:
        with connected(context) as client:
            done = client.invoke(
                name,
                data,
                type=kind,
                deadline_ms=deadline_ms,
                report=report or (shared.as_json and kind == "sync"),
                log_tail=tail,
                client_context=client_context,
                tenant_id=tenant_id,
                trace=trace,
                idempotency_key=idempotency_key,
            )
    except SchedulerError as error:
        context.exit(_failed(context, error, tail, report))
    if shared.as_json:
        raw = done.report.raw if done.report is not None else {"request_id": done.request_id} if done.request_id else None
        emit_json({"payload": decoded(done.payload), "report": raw})
    elif kind == "sync":
        _write(done.payload)
    elif kind == "event":
        click.echo(done.request_id)
    else:
        note(f"{name} can be invoked")
    if done.report is not None and not shared.as_json:
        _aside(done.report, tail, report)


def _write(payload: Any) -> None:
    """The answer's bytes as they came, and a line end so that a prompt does not stand behind them."""
    data = payload if isinstance(payload, bytes) else str(payload).encode("utf-8", "surrogateescape")
    sys.stdout.flush()
    sys.stdout.buffer.write(data if data.endswith(b"\n") else data + b"\n")
    sys.stdout.buffer.flush()


def _failed(context: click.Context, error: SchedulerError, tail: bool, report: bool) -> int:
    """Shows a failed call; gives the exit code."""
    from scheduler.client.model import Report

    shared = shared_of(context)
    if shared.as_json:
        payload = {"payload": decoded(error.payload)} if error.payload is not None else {}
        emit_json({"error": {**error.to_wire(), **payload}})
    else:
        if error.payload is not None:
            import json

            _write(json.dumps(error.payload) if isinstance(error.payload, dict) else error.payload)
        if error.report is not None:
            _aside(Report.from_map(error.report), tail, report)
    note(f"scheduler: {error_line(error, shared)}")
    return error.exit_code


def _aside(report: Report, tail: bool, stages: bool) -> None:
    if tail and report.log_tail:
        note(report.log_tail.rstrip("\n"))
    if stages:
        show_report(report)


# Rows of the report: key, label, and the finer stages within it where the service tells them.
STAGES: Final = (
    ("queue_us", "queued", (("wait_us", "waiting for a sandbox"), ("channel_us", "on its way there"))),
    ("init_us", "cold start", ()),
    ("run_us", "handler", ()),
    ("overhead_us", "overhead", (("accept_us", "accepting the call"), ("return_us", "taking the answer back"))),
)


def show_report(report: Report) -> None:
    """The report as a table on stderr; its stages sum to the call's time in the service."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=True, header_style="bold", show_footer=True, footer_style="bold")
    table.add_column("stage", footer="in the service")
    table.add_column("time", justify="right", footer=microseconds(report.total_us))
    table.add_column("share", justify="right", footer="100 %")

    def row(label: str, value_us: float, style: str | None = None) -> None:
        table.add_row(label, microseconds(value_us), f"{100 * value_us / (report.total_us or 1.0):.1f} %", style=style)

    for key, label, within in STAGES:
        value_us = getattr(report, key)
        if value_us is None:
            continue
        row(f"{label} ({report.cold})" if key == "init_us" and report.cold else label, value_us)
        for stage, text in within:
            # A cold start passes while the call waits: it has its own row and is not shown twice.
            part_us = report.stages.get(stage, 0.0) - ((report.init_us or 0.0) if stage == "wait_us" else 0.0)
            if part_us > 0:
                row(f"  {text}", part_us, "dim")
    console = stderr_console()
    console.print()
    console.print(table)
    console.print(
        f"billed {report.billed_ms} ms, CPU {microseconds(report.cpu_us)}, memory {report.memory_peak_mb:g} MB, "
        f"version {report.version or '$LATEST'}, sandbox {report.sandbox}, request {report.request_id}",
        markup=False,
    )
