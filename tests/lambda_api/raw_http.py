"""A connection that sends what it is told, byte for byte, and reads answers one by one."""

from __future__ import annotations

import socket
from dataclasses import dataclass

TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self._rest = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def _more(self) -> bool:
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        self._rest += data
        return bool(data)

    def reply(self) -> Reply | None:
        """The next answer; None: the connection has ended."""
        while b"\r\n\r\n" not in self._rest:
            if not self._more():
                assert self._rest == b"", self._rest
                return None
        head, self._rest = self._rest.split(b"\r\n\r\n", 1)
        line, *fields = head.decode("latin-1").split("\r\n")
        version, status, _ = line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        assert len(headers) == len(fields), "a header stands twice"
        if int(status) == 100:
            return self.reply()
        size = 0 if int(status) in (204, 304) else int(headers["content-length"])
        while len(self._rest) < size:
            assert self._more(), "the connection ended within a body"
        body, self._rest = self._rest[:size], self._rest[size:]
        return Reply(int(status), headers, body)

    def ended(self) -> bool:
        """Nothing more comes, and the other side has closed."""
        return self._rest == b"" and not self._more()


def request(
    path: str, body: bytes = b"{}", headers: tuple[str, ...] = (), *, method: str = "POST", length: bool = True
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def invoke(function: str, body: bytes = b"{}", *headers: str, qualifier: str = "") -> bytes:
    path = f"/2015-03-31/functions/{function}/invocations{'?Qualifier=' + qualifier if qualifier else ''}"
    return request(path, body, headers)
