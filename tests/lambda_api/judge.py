"""What botocore's service model says of answers, held against the bytes that came.

Law of this file: it knows the model and raw bodies, and no operation.
"""

from __future__ import annotations

import base64
import json
import re
from contextlib import contextmanager

import botocore.session
from botocore.exceptions import ClientError

MODEL = botocore.session.get_session().get_service_model("lambda")
TYPES = {"string": str, "integer": int, "long": int, "boolean": bool, "list": list, "map": dict, "structure": dict}
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:?\d\d)")


class Recorder:
    """The raw answers of a client, the last one first to ask for."""

    def __init__(self, client) -> None:
        self.client = client
        self.last: dict = {}
        client.meta.events.register("before-parse.lambda", self._seen)

    def _seen(self, response_dict, **_) -> None:
        self.last = response_dict

    @contextmanager
    def refused(self):
        """The block's call is refused; (name, status, headers, body of JSON) of it."""
        found: dict = {}
        try:
            yield found
        except ClientError:
            answer = self.last
            found |= {
                "name": answer["headers"].get("x-amzn-ErrorType"),
                "status": answer["status_code"],
                "body": json.loads(answer["body"]),
            }
        else:
            raise AssertionError(f"it was answered with {self.last.get('status_code')}")


def check_error(found: dict, name: str) -> None:
    """Name, status and the keys of the body are the model's."""
    assert found["name"] == name, found
    keys = set(found["body"])
    if name in MODEL.shape_names:
        shape = MODEL.shape_for(name)
        assert found["status"] == shape.metadata["error"]["httpStatusCode"], found
        in_body = {key for key, member in shape.members.items() if member.serialization.get("location") is None}
        assert keys <= in_body, f"{sorted(keys - in_body)} are not of {name}: {found['body']}"
        message = next(key for key in in_body if key.lower() == "message")
        assert found["body"][message].strip(), found
        if "Type" in in_body:
            assert found["body"]["Type"] == ("User" if found["status"] < 500 else "Server"), found
    else:  # of AWS's gateway in front of Lambda, in no model
        assert keys == {"message", "Type"}, found


def check_answer(operation: str, answer: dict) -> None:
    """The raw answer is what the model says that the operation gives."""
    model = MODEL.operation_model(operation)
    shape = model.output_shape
    if shape is None or "payload" in shape.serialization:
        if shape is None:
            assert answer["body"] == b"", answer
        return
    in_body = {name: member for name, member in shape.members.items() if "location" not in member.serialization}
    if not in_body:
        assert answer["body"] == b"", answer
        return
    assert answer["headers"]["content-type"] == "application/json"
    _check_structure(json.loads(answer["body"]), in_body, set(shape.required_members) & set(in_body), operation)


def _check_structure(value: dict, members: dict, required: set, at: str) -> None:
    assert set(value) <= set(members), f"{at}: {sorted(set(value) - set(members))} are not in the model"
    assert required <= set(value), f"{at}: {sorted(required - set(value))} are missing"
    for name, inner in value.items():
        _check(inner, members[name], f"{at}.{name}")


def _check(value, shape, at: str) -> None:
    kind = shape.type_name
    if kind == "timestamp":
        if shape.serialization.get("timestampFormat") == "iso8601":
            assert DATE.fullmatch(value), f"{at}: {value!r}"
        else:
            assert isinstance(value, (int, float)) or DATE.fullmatch(value), f"{at}: {value!r}"
        return
    if kind == "blob":
        base64.b64decode(value, validate=True)
        return
    if kind in ("double", "float"):
        assert isinstance(value, (int, float)), f"{at}: {value!r}"
        return
    assert isinstance(value, TYPES[kind]), f"{at}: {value!r} is no {kind}"
    if kind == "string" and shape.enum:
        assert value in shape.enum, f"{at}: {value!r} is none of the model's"
    if kind == "list":
        for number, inner in enumerate(value):
            _check(inner, shape.member, f"{at}[{number}]")
    elif kind == "map":
        for key, inner in value.items():
            _check(inner, shape.value, f"{at}[{key}]")
    elif kind == "structure":
        _check_structure(value, shape.members, set(shape.required_members), at)
