"""Links to packages, as GetFunction and GetLayerVersion give them: whoever has one may fetch the bytes for ten minutes.

Law of this file: a link names what it is for and until when, under a secret of this process; it needs no table.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import TYPE_CHECKING, Final

from scheduler.errors import Unauthorized
from scheduler.functions.model import CodeKind, CodeRef

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from scheduler.lambda_api.rooms import Rooms

__all__ = ["CODE_PATH", "Links"]

CODE_PATH: Final = "/_scheduler/code/"
LINK_S: Final = 600  # as long as Lambda's own link to the code is good


class Links:
    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._secret = secrets.token_bytes(32)

    def link(self, host: str, code: CodeRef) -> str:
        until = int(time.time()) + LINK_S
        return f"http://{host}{CODE_PATH}{code.path}?until={until}&signature={self._signature(code.path, until)}"

    def package(self, path: str, query: Mapping[str, list[str]]) -> Path:
        """Where the bytes lie that a link names. Unauthorized: the link is not ours, or too old."""
        until, signature = query.get("until", [""])[0], query.get("signature", [""])[0]
        good = until.isascii() and until.isdigit() and len(until) < 16 and int(until) >= time.time()
        if not good or not hmac.compare_digest(self._signature(path, int(until)).encode(), signature.encode()):
            raise Unauthorized("the link has expired or was changed; get the function again")
        return self._rooms.code.package(CodeRef(path.partition(".")[0], 0, CodeKind.ZIP, path))

    def _signature(self, path: str, until: int) -> str:
        return hmac.digest(self._secret, f"{path}\0{until}".encode(), hashlib.sha256).hex()
