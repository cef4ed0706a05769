"""What tests of the API share: a package, a client, and how a refusal is read."""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING, Any

import boto3
import botocore.config
import pytest
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from botocore.client import BaseClient

OPENED: list[BaseClient] = []  # until conftest.py closes them
ANSWERED: list[Any] = []  # what came over their connections: a body that nobody read keeps its own
ROLE = "arn:aws:iam::000000000000:role/any"
SOURCE = """
import os, time
def handler(event, context):
    if event.get("raise"):
        raise ValueError("no")
    if event.get("sleep"):
        time.sleep(event["sleep"])
    if event.get("exit") is not None:
        os._exit(event["exit"])
    print("seen")
    return {"event": event, "version": context.function_version, "name": os.environ.get("NAME")}
"""


def package(text: str = SOURCE, name: str = "app.py") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(name, text)
    return made.getvalue()


def connect(port: int, key_id: str = "a", secret: str = "b"):
    client = boto3.client(
        "lambda",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="local",
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        # What is wrong is to be told by the service, not by the client.
        config=botocore.config.Config(retries={"max_attempts": 1}, parameter_validation=False),
    )
    client.meta.events.register("after-call", lambda http_response, **_: ANSWERED.append(http_response.raw))
    OPENED.append(client)
    return client


def close_all() -> None:
    """Else the collector finds their connections, in whatever test comes then. A client of a wider scope opens anew."""
    while ANSWERED:
        ANSWERED.pop().close()
    while OPENED:
        OPENED.pop().close()


def refusal(call, **arguments):
    """(name, status, body) of the error that a call gets."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    response = caught.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"], response


def run(aws, function, Payload=b"{}", **options):
    """The answer of an invocation, its payload read."""
    answer = aws.invoke(FunctionName=function, Payload=Payload, **options)
    answer["Payload"] = answer["Payload"].read()
    return answer
