"""A fake service on a real socket for each test, and both clients on it."""

from __future__ import annotations

import pytest

from tests.client.fake_service import FakeService


@pytest.fixture
def service(tmp_path):
    with FakeService(tmp_path / "s") as fake:
        yield fake
