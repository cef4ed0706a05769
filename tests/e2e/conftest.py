from __future__ import annotations

import pytest

from tests.e2e.serving import CannotServe, Served

ECHO = """
def handler(event, context):
    return event
"""


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """One service for all tests that need no settings of their own, with the function `echo`."""
    service = Served(tmp_path_factory.mktemp("served"), concurrency_max=1000, shells_ahead=4)
    try:
        service.start()
    except CannotServe as error:
        if "isolat" in str(error) or "namespace" in str(error):
            pytest.skip(f"this machine cannot isolate: {error}")
        raise
    try:
        service.deploy("echo", ECHO)
        yield service
    finally:
        assert service.stop() == 0


@pytest.fixture
def raw(served):
    with served.raw() as client:
        yield client
