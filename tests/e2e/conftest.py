from __future__ import annotations

import pytest

from tests.e2e.serving import ISOLATION, CannotServe, Served, public_directory

ECHO = """
def handler(event, context):
    return event
"""


@pytest.fixture
def tmp_path(tmp_path):
    """With process isolation one that other users may enter: nobody else's run of pytest takes that away."""
    if ISOLATION != "process":
        yield tmp_path
        return
    with public_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """As tmp_path, for services that many tests share."""
    if ISOLATION != "process":
        yield tmp_path_factory.mktemp("place")
        return
    with public_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def served(place):
    """One service for all tests that need no settings of their own, with the function `echo`."""
    service = Served(place / "served", concurrency_max=1000, shells_ahead=4)
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
