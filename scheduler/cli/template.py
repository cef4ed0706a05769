"""Deploying a template: what `scheduler deploy template.yaml` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from scheduler.cli.common import connected, emit_json, fail, note, shared_of, stdout_console
from scheduler.cli.masking import warn
from scheduler.templates.plan import TemplateBroken

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scheduler.client.blocking import BlockingClient
    from scheduler.templates.apply import Done

__all__ = ["deploy_template", "read_parameters"]

EXIT_REFUSED = 3


def read_parameters(pairs: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE of the command line. UsageError."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.UsageError(f"--parameter: {pair!r} is not KEY=VALUE")
        found[key] = value
    return found


class _Service:
    """Operations of the Lambda API over the protocol."""

    def __init__(self, client: BlockingClient) -> None:
        self._client = client

    def identity(self) -> tuple[str, str]:
        answer = self._client.call("lambda.call", [{"operation": "GetAccountSettings"}])
        return answer["region"], answer["account_id"]

    def __call__(self, operation: str, values: Mapping[str, Any], package: bytes | None = None) -> dict[str, Any] | None:
        from scheduler.templates.apply import DECLARE, GRANT

        if operation == DECLARE:
            self._client.call("functions.declare_events", [{"name": values["FunctionName"], "events": values["Events"]}])
            return {}
        if operation == GRANT:
            return self._grant(values["FunctionName"], values["Secrets"], values["Keys"])
        request: dict[str, Any] = {"operation": operation, "input": dict(values)}
        if package is not None:
            request["code_sha256"] = self._client.upload(package)
        answer = self._client.call("lambda.call", [request])
        if answer.get("error") == "ResourceNotFoundException":
            return None
        if answer.get("error") is not None:
            name = values.get("FunctionName") or values.get("LayerName") or values.get("Resource")
            raise TemplateBroken(f"{operation} of {name}: {answer['error']}: {answer['message']}")
        body: dict[str, Any] = answer.get("body") or {}
        return body

    def _grant(self, name: str, secrets: list[str], keys: list[str]) -> dict[str, Any]:
        """What it changed."""
        now = self._client.get(name)
        if (list(now.secrets), list(now.keys)) == (secrets, keys):
            return {}
        return dict(self._client.update(name, secrets=secrets, keys=keys).raw)


def deploy_template(context: click.Context, path: Path, parameters: Mapping[str, str]) -> None:
    """Brings the service to what the template says, and tells what changed."""
    from scheduler.templates.apply import apply
    from scheduler.templates.sam import read_template

    shared = shared_of(context)
    done: list[Done] = []
    with connected(context) as client:
        service = _Service(client)
        region, account_id = service.identity()
        try:
            plan = read_template(path, parameters=parameters, region=region, account_id=account_id)
        except TemplateBroken as error:
            raise click.UsageError(error.message) from None
        try:
            for one in apply(plan, service):
                done.append(one)
                if not shared.as_json:
                    _tell(one)
        except TemplateBroken as error:
            fail(error.message, EXIT_REFUSED)
    if shared.as_json:
        rows = [{"kind": one.kind, "name": one.name, "what": one.what, "detail": one.detail} for one in done]
        emit_json({"done": rows, "notices": [{"where": n.where, "text": n.text} for n in plan.notices]})
        return
    for function in plan.functions:
        warn(function.configuration.get("Environment", {}).get("Variables"), function.name)
    for notice in plan.notices:
        note(f"{notice.where}: {notice.text}")
    if plan.functions:
        click.echo(f"next: scheduler invoke {plan.functions[0].name} '{{}}'")


def _tell(one: Done) -> None:
    from rich.text import Text

    colours = {"created": "green", "updated": "yellow", "unchanged": "dim"}
    line = Text(f"{one.what:<10}", style=colours.get(one.what, ""))
    line.append(f"{one.kind:<12} {one.name}", style="")
    if one.detail:
        line.append(f"  {one.detail}", style="dim")
    stdout_console().print(line, soft_wrap=True)
