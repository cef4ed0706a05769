"""A whole service, and boto3 as its client."""

from __future__ import annotations

import contextlib
import re

import pytest

from tests.e2e.serving import RUNTIME, CannotServe, Served, public_directory
from tests.lambda_api.client import ROLE, connect, package


@pytest.fixture(scope="session")
def served():
    with public_directory() as directory:
        service = Served(directory / "state", http="127.0.0.1:0", http_auth="none")
        try:
            service.start()
        except CannotServe as error:
            if "isolat" in str(error) or "namespace" in str(error):
                pytest.skip(f"this machine cannot isolate: {error}")
            raise
        yield service
        assert service.stop() == 0


@pytest.fixture(scope="session")
def aws(served):
    client = connect(served.http_port)
    yield client
    client.close()


@pytest.fixture
def function(aws, request):
    """A deployed function, gone afterwards."""
    name = re.sub(r"[^a-z0-9_-]", "-", request.node.name)[:60]
    aws.create_function(
        FunctionName=name, Runtime=RUNTIME, Role=ROLE, Handler="app.handler", Code={"ZipFile": package()}, Timeout=3
    )
    yield name
    with contextlib.suppress(aws.exceptions.ResourceNotFoundException):
        aws.delete_function(FunctionName=name)
