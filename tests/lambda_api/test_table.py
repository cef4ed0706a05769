"""The table of operations against AWS's own service model, as botocore ships it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl

import botocore.session
import pytest

from scheduler.lambda_api import docs
from scheduler.lambda_api.errors import ERRORS, LambdaError
from scheduler.lambda_api.operations import OPERATIONS, Router, Support
from scheduler.lambda_api.shapes import Place, Type

MODEL = botocore.session.get_session().get_service_model("lambda")
ROWS = {row.name: row for row in OPERATIONS}
BUILT = [row for row in OPERATIONS if row.support in (Support.FULL, Support.PARTIAL)]
# The model says 200 and a member for the status; Lambda itself answers 204.
STATUS_DIFFERS = {"DeleteFunction": 204}
PLACES = {"uri": Place.PATH, "querystring": Place.QUERY, "header": Place.HEADER, None: Place.BODY}
TYPES = {
    "string": Type.TEXT, "integer": Type.WHOLE, "long": Type.WHOLE, "double": Type.NUMBER, "float": Type.NUMBER,
    "boolean": Type.FLAG, "blob": Type.BLOB, "list": Type.LIST, "map": Type.MAP, "structure": Type.STRUCT,
}  # fmt: skip
# Bounds that the model leaves wider than Lambda: those of managed instances.
NARROWER = {"Timeout", "MemorySize", "Size", "Role", "FunctionName", "Runtime"}


def test_every_operation_of_the_model_has_a_row():
    missing = set(MODEL.operation_names) - set(ROWS)
    # A newer model may know more than this service was built with; an older one less. What both know must agree.
    assert len(missing) <= len(MODEL.operation_names) // 4, missing
    assert len(ROWS) == len(OPERATIONS), "a name stands twice"


@pytest.mark.parametrize("name", sorted(set(MODEL.operation_names) & set(ROWS)))
def test_routes_are_the_models(name):
    http, row = MODEL.operation_model(name).http, ROWS[name]
    path, _, query = http["requestUri"].partition("?")
    assert (row.method, row.path.rstrip("/"), dict(row.query)) == (http["method"], path.rstrip("/"), dict(parse_qsl(query)))
    assert row.status == STATUS_DIFFERS.get(name, http["responseCode"])


def compare(shape, model, at):
    given = {member.name: member for member in shape.members}
    assert set(model.members) <= set(given), at
    for name, member in given.items():
        assert name in model.members, f"{at}.{name} is not in the model"
        theirs = model.members[name]
        where = f"{at}.{name}"
        if member.place is Place.PAYLOAD:
            assert model.serialization.get("payload") == name, where
        else:
            assert member.place is PLACES[theirs.serialization.get("location")], where
            assert member.key == theirs.serialization.get("name", name), where
        assert member.required == (name in model.required_members), where
        assert member.shape.type is TYPES[theirs.type_name], where
        if member.shape.choices:
            assert set(member.shape.choices) <= set(theirs.enum), where
        if name not in NARROWER and member.shape.maximum is not None and "max" in theirs.metadata:
            assert member.shape.maximum == theirs.metadata["max"], where
        if member.shape.type is Type.STRUCT and member.shape.members:
            compare(member.shape, theirs, where)


@pytest.mark.parametrize("row", BUILT, ids=lambda row: row.name)
def test_requests_are_the_models(row):
    model = MODEL.operation_model(row.name).input_shape
    assert row.shape is not None
    compare(row.shape, model, row.name)


def test_errors_have_the_models_status():
    wrong = {
        name: (kind.status, MODEL.shape_for(name).metadata["error"]["httpStatusCode"])
        for name, kind in ERRORS.items()
        if name in MODEL.shape_names and MODEL.shape_for(name).metadata["error"]["httpStatusCode"] != kind.status
    }
    assert wrong == {}


def test_errors_spell_the_message_as_the_model_does():
    wrong = [
        name for name, kind in ERRORS.items() if name in MODEL.shape_names and kind.key not in MODEL.shape_for(name).members
    ]
    assert wrong == []


@pytest.mark.parametrize("row", OPERATIONS, ids=lambda row: row.name)
def test_the_router_finds_each(row):
    path = row.path
    for name in ("FunctionName", "Name", "LayerName", "VersionNumber", "StatementId", "Resource", "ResourceArn", "UUID"):
        path = path.replace("{" + name + "}", f"some-{name}")
    path = path.replace("{", "").replace("}", "")
    found, _ = Router().find(row.method, path, {key: [value] for key, value in row.query.items()})
    assert found is row


def test_what_has_no_route_is_told():
    with pytest.raises(LambdaError) as caught:
        Router().find("PATCH", "/2015-03-31/functions", {})
    assert caught.value.kind.status == 404


def test_members_of_the_path_are_unquoted():
    _, members = Router().find("GET", "/2015-03-31/functions/arn%3Aaws%3Alambda", {})
    assert members == {"FunctionName": "arn:aws:lambda"}


def test_the_page_is_current():
    page = Path(__file__).parents[2] / "docs" / "lambda-api.md"
    assert page.read_text() == docs.render(), "write it anew: python -m scheduler.lambda_api.docs > docs/lambda-api.md"
