"""Operations on resource policies: who else may use a function.

Law of this file: statements are kept as IAM writes them. What they allow is decided by the rooms that let callers in.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from scheduler.functions.attached import Policy, fresh_revision
from scheduler.functions.names import LATEST
from scheduler.lambda_api.errors import REVISION_TEXT, LambdaError
from scheduler.lambda_api.rooms import refuse
from scheduler.lambda_api.wire import Answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from scheduler.lambda_api.rooms import ApiCall, Rooms

__all__ = ["POLICY_BYTES_MAX", "PolicyOperations"]

POLICY_BYTES_MAX: Final = 20 * 1024


class PolicyOperations:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def handlers(self) -> dict[str, Callable[[ApiCall], Awaitable[Answer]]]:
        return {"AddPermission": self._add, "RemovePermission": self._remove, "GetPolicy": self._get}

    async def _add(self, call: ApiCall) -> Answer:
        name, qualifier = self._place(call)
        statement_id = call.values["StatementId"]
        statement = self._statement(call, name, qualifier)
        async with self._rooms.attached(call, name, qualifier) as change:
            old = change.now.policies.get(qualifier)
            _check_revision(call, old)
            statements = dict(old.statements) if old is not None else {}
            if statement_id in statements:
                raise LambdaError(
                    "ResourceConflictException",
                    f"The statement id ({statement_id}) provided already exists. Please provide a new statement id, or remove "
                    "the existing statement.",
                )
            statements[statement_id] = statement
            made = Policy(statements, fresh_revision())
            if len(_document(made)) > POLICY_BYTES_MAX:
                raise LambdaError(
                    "PolicyLengthExceededException",
                    f"The final policy size ({len(_document(made))}) is bigger than the limit ({POLICY_BYTES_MAX}).",
                )
            change.now = replace(change.now, policies={**change.now.policies, qualifier: made})
        return Answer({"Statement": json.dumps(statement, separators=(",", ":"))})

    async def _remove(self, call: ApiCall) -> Answer:
        name, qualifier = self._place(call)
        statement_id = call.values["StatementId"]
        async with self._rooms.attached(call, name, qualifier) as change:
            old = change.now.policies.get(qualifier)
            if old is None or statement_id not in old.statements:
                raise LambdaError("ResourceNotFoundException", f"Statement {statement_id} is not found in resource policy.")
            _check_revision(call, old)
            statements = {key: value for key, value in old.statements.items() if key != statement_id}
            policies = {key: value for key, value in change.now.policies.items() if key != qualifier}
            if statements:
                policies[qualifier] = Policy(statements, fresh_revision())
            change.now = replace(change.now, policies=policies)
        return Answer()

    async def _get(self, call: ApiCall) -> Answer:
        name, qualifier = self._place(call)
        found = self._rooms.registry.attachments.of(name).policies.get(qualifier)
        if found is None:
            raise LambdaError("ResourceNotFoundException", "The resource you requested does not exist.")
        return Answer({"Policy": _document(found), "RevisionId": found.revision_id})

    def _place(self, call: ApiCall) -> tuple[str, str]:
        if self._rooms.reference(call).qualifier == LATEST:
            raise refuse("We currently do not support adding policies for $LATEST.")
        return self._rooms.place(call)

    def _statement(self, call: ApiCall, name: str, qualifier: str) -> dict[str, Any]:
        principal = call.values["Principal"]
        shown: Any = {"AWS": principal}
        if principal == "*":
            shown = "*"
        elif principal.endswith(".amazonaws.com"):
            shown = {"Service": principal}
        elif principal.isdigit() and len(principal) == 12:
            shown = {"AWS": f"arn:aws:iam::{principal}:root"}
        statement: dict[str, Any] = {
            "Sid": call.values["StatementId"],
            "Effect": "Allow",
            "Principal": shown,
            "Action": call.values["Action"],
            "Resource": self._rooms.registry.identity.arn(name, None if qualifier == LATEST else qualifier),
        }
        conditions: dict[str, dict[str, Any]] = {}
        for operator, key, member in (
            ("ArnLike", "AWS:SourceArn", "SourceArn"),
            ("StringEquals", "AWS:SourceAccount", "SourceAccount"),
            ("StringEquals", "lambda:EventSourceToken", "EventSourceToken"),
            ("StringEquals", "lambda:FunctionUrlAuthType", "FunctionUrlAuthType"),
            ("StringEquals", "aws:PrincipalOrgID", "PrincipalOrgID"),
        ):
            if call.get(member):
                conditions.setdefault(operator, {})[key] = call.values[member]
        if call.get("InvokedViaFunctionUrl") is not None:
            conditions["Bool"] = {"lambda:InvokedViaFunctionUrl": str(call.values["InvokedViaFunctionUrl"]).lower()}
        if conditions:
            statement["Condition"] = conditions
        return statement


def _document(policy: Policy) -> str:
    document = {"Version": "2012-10-17", "Id": "default", "Statement": [dict(s) for s in policy.statements.values()]}
    return json.dumps(document, separators=(",", ":"))


def _check_revision(call: ApiCall, policy: Policy | None) -> None:
    given = call.get("RevisionId")
    if given is not None and (policy is None or given != policy.revision_id):
        raise LambdaError("PreconditionFailedException", REVISION_TEXT)
