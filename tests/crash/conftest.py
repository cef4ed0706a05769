from __future__ import annotations

from tests.e2e.conftest import tmp_path

__all__ = ["tmp_path"]
