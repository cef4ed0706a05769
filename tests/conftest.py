"""What holds for every test."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _clients_are_closed():
    """Those of AWS, whoever opened them."""
    yield
    module = sys.modules.get("tests.lambda_api.client")
    if module is not None:
        module.close_all()
