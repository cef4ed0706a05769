"""An independent client: raw sockets and msgpack alone, nothing of ours, as somebody else's library would do it."""

from __future__ import annotations

import itertools
import socket

import msgpack


class RawClient:
    def __init__(self, address):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(address)
        self.ids = itertools.count(1)
        self.unpacker = msgpack.Unpacker(raw=False, max_buffer_size=64 << 20)
        self.answers = {}

    def send(self, method, *params):
        msgid = next(self.ids)
        self.socket.sendall(msgpack.packb([0, msgid, method, list(params)]))
        return msgid

    def notify(self, method, *params):
        self.socket.sendall(msgpack.packb([2, method, list(params)]))

    def receive(self):
        """The next message, whichever it is; None when the service closed the connection."""
        while True:
            for message in self.unpacker:
                return message
            try:
                data = self.socket.recv(1 << 18)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.unpacker.feed(data)

    def wait(self, msgid):
        while msgid not in self.answers:
            kind, answered, error, result = self.receive()
            assert kind == 1
            self.answers[answered] = (error, result)
        return self.answers.pop(msgid)

    def call(self, method, *params):
        """(error map or None, result)."""
        return self.wait(self.send(method, *params))

    def invoke(self, name, payload=b"{}", **options):
        error, result = self.call("invoke", name, payload, *([options] if options else []))
        return error, result

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
